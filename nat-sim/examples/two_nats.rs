//! Two hosts behind two NATs open one TCP connection through both: `cargo run -p nat-sim --example two_nats`.
//!
//! Each knows the other's outer address and port, and both connect at once from the port that the other aims at. The
//! SYN of each opens its own NAT for the SYN of the other.
#![expect(clippy::print_stdout, reason = "an example shows what comes out")]

use std::net::SocketAddr;
use std::time::Duration;

use fmi_net::{ByteStream, Net};
use nat_sim::nat::preset;
use nat_sim::topology::{GatewaySpec, HostSpec, Topology};
use nat_sim::{SimNet, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PORT: u16 = 5000;

async fn meet(net: SimNet, peer: SocketAddr) {
    // The port is the same on both sides of these NATs, which keep ports.
    let mut stream = net.connect(([0; 4], PORT).into(), peer).await.expect("connected through both NATs");
    stream.write_all(b"hello").await.expect("written");
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting).await.expect("the peer greets as well");
    let (now, local) = (net.now().since_origin(), stream.local_addr().expect("connected"));
    println!("{now:?}: {local} got {:?} from {peer}", String::from_utf8_lossy(&greeting));
}

fn main() {
    let millis = Duration::from_millis;
    let outer = [[203, 0, 113, 1], [203, 0, 113, 2]];
    let mut topology = Topology::new();
    let hosts = outer.map(|address| {
        let lan = topology.network(format!("behind {address:?}"));
        topology.gateway(GatewaySpec::plain(preset::linux_masq_drop(), address, millis(9), lan));
        topology.host(HostSpec::plain(lan, [10, 0, 0, 2], millis(1)))
    });
    let mut world = World::new(topology, 1, millis(1));
    world.function(hosts[0], Duration::ZERO, move |net| meet(net, (outer[1], PORT).into()));
    world.function(hosts[1], millis(3), move |net| meet(net, (outer[0], PORT).into()));
    let report = world.run().expect("a world that can be");
    assert_eq!(report.stuck, None);
    println!("{} packets, digest {}", report.packets, report.digest);
}

#[test]
fn they_meet() {
    main();
}
