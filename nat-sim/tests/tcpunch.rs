//! Goal: clients of the original FMI are served whatever others of them do. Method: hosts of the lab that speak its pairing
//! protocol by hand.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{Board, RENDEZVOUS, RENDEZVOUS_PORT, host, millis};
use fmi::net::tcpunch::Tcpunch;
use fmi_net::Net;
use nat_sim::topology::{HostId, INTERNET, Topology};
use nat_sim::{Fault, SimNet, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Latency of each host: a packet between two of them takes twice as long.
const LATENCY: Duration = Duration::from_millis(5);

/// The server of the original's clients, and hosts 1.0.0.1 and up.
fn world(count: u8) -> (World, Vec<HostId>) {
    let mut topology = Topology::new();
    let server = topology.host(host(INTERNET, RENDEZVOUS.octets(), LATENCY));
    let hosts = (1..=count).map(|last| topology.host(host(INTERNET, [1, 0, 0, last], LATENCY))).collect();
    let mut world = World::new(topology, 1, millis(1));
    world.service(server, |net| async move {
        let bound = Tcpunch::bind(net, (RENDEZVOUS, RENDEZVOUS_PORT).into()).expect("bound");
        match bound.serve().await {}
    });
    (world, hosts)
}

async fn endpoint(stream: &mut (impl AsyncReadExt + Unpin)) -> SocketAddr {
    let mut told = [0; 8];
    stream.read_exact(&mut told).await.expect("an answer");
    let [a, b, c, d, high, low, _, _] = told;
    ([a, b, c, d], u16::from_be_bytes([high, low])).into()
}

/// Says the name, and learns where it is seen and where the other one is, and how long each took.
async fn meet(net: &SimNet) -> [(SocketAddr, Duration); 2] {
    let connected = net.connect(([0; 4], 0).into(), (RENDEZVOUS, RENDEZVOUS_PORT).into()).await;
    let mut stream = connected.expect("it listens");
    let begun = Net::now(net);
    stream.write_all(b"fmi_pair0_1").await.expect("sent");
    let own = endpoint(&mut stream).await;
    let own_after = Net::now(net) - begun;
    let peer = endpoint(&mut stream).await;
    [(own, own_after), (peer, Net::now(net) - begun)]
}

#[test]
fn answers_take_a_round_trip_and_no_pause() {
    let (mut world, hosts) = world(2);
    let board = Board::new();
    for (host, start) in hosts.into_iter().zip([0, 100]) {
        let board = board.clone();
        world.function(host, millis(start), move |net| {
            let board = board.clone();
            async move { board.put(meet(&net).await) }
        });
    }
    assert_eq!(world.run().expect("a world").stuck, None);
    let mut told = board.take();
    told.sort_unstable();
    let [[first, first_peer], [second, second_peer]] = told[..] else { panic!("{told:?}") };
    assert_eq!((first_peer.0, second_peer.0), (second.0, first.0));
    // The clocks of functions tick by the millisecond.
    let round_trip = 4 * LATENCY;
    for (_, after) in [first, second, second_peer] {
        assert!(after >= round_trip && after <= round_trip + millis(4), "{after:?} for {round_trip:?}");
    }
}

/// It sends no FIN, and its partner would never stop trying to reach it.
#[test]
fn a_client_that_is_cut_off_takes_no_partner_with_it() {
    let (mut world, hosts) = world(3);
    let board = Board::new();
    world.fault(Duration::from_secs(1), Fault::Kill(hosts[0]));
    for (host, start) in hosts.into_iter().zip([0, 10_000, 11_000]) {
        let board = board.clone();
        world.function(host, millis(start), move |net| {
            let board = board.clone();
            async move { board.put(meet(&net).await.map(|(address, _)| address)) }
        });
    }
    let _ = world.run().expect("a world");
    let mut told = board.take();
    told.sort_unstable();
    let [[second, second_peer], [third, third_peer]] = told[..] else { panic!("both who live meet: {told:?}") };
    assert_eq!((second.ip(), third.ip()), ([1, 0, 0, 2].into(), [1, 0, 0, 3].into()));
    assert_eq!((second_peer, third_peer), (third, second));
}
