//! Goal: a rank says what it noticed of the network that somebody may want to mend, and nothing of one that is well. Method:
//! groups in worlds with a proxy before the rendezvous, and without.

mod common;

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::task::Poll;

use common::{RENDEZVOUS, RENDEZVOUS_PORT, behind, config, host, millis, ranks, serve};
use fmi::{Communicator, Path, Remark};
use fmi_net::{Listener, Net};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nat_sim::nat::preset;
use nat_sim::topology::INTERNET;
use nat_sim::{SimNet, World};

const PROXY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

/// Passes bytes on, to the main endpoint of the rendezvous alone.
async fn proxy(net: SimNet) {
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut listener = net.listen((PROXY, RENDEZVOUS_PORT).into(), 64).expect("free");
    let mut passing = FuturesUnordered::new();
    poll_fn(|cx| -> Poll<()> {
        while let Poll::Ready(Ok(mut near)) = listener.poll_accept(cx) {
            let far = net.connect(any, (RENDEZVOUS, RENDEZVOUS_PORT).into());
            passing.push(Box::pin(async move {
                let mut far = far.await.expect("the rendezvous answers");
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }));
        }
        while let Poll::Ready(Some(())) = passing.poll_next_unpin(cx) {}
        Poll::Pending
    })
    .await;
}

/// What three ranks notice, and how they reach each other.
fn noticed(has_proxy: bool) -> Vec<(Vec<Remark>, Vec<Path>)> {
    let (mut topology, rendezvous, hosts) = behind(&[preset::aws_lambda(); 3], millis(1), millis(4), millis(5));
    let proxy_host = topology.host(host(INTERNET, PROXY.octets(), millis(2)));
    let mut world = World::new(topology, 1, millis(1));
    serve(&mut world, rendezvous);
    world.service(proxy_host, |net| async move { pin!(proxy(net)).await });
    let board = ranks(&mut world, &hosts, move |net, rank| async move {
        let mut config = config(rank, 3);
        if has_proxy {
            config.rendezvous = format!("{PROXY}:{RENDEZVOUS_PORT}");
        }
        let comm = Communicator::connect(net, &config).await.expect("joined");
        let noticed = (comm.remarks(), comm.links().map(|link| link.path).collect());
        comm.leave().await;
        noticed
    });
    assert_eq!(world.run().expect("a world").stuck, None);
    board.take()
}

#[test]
fn a_proxy_before_the_rendezvous_is_noticed_and_so_is_a_second_endpoint_that_it_lacks() {
    for (remarks, paths) in noticed(true) {
        assert_eq!(paths, [Path::Relay; 2]);
        assert_eq!(remarks, [Remark::OneAddress(PROXY.into()), Remark::SecondEndpoint { rank: 0, count: 3 }]);
    }
    for (remarks, paths) in noticed(false) {
        assert_eq!((remarks, paths), (vec![], vec![Path::Direct; 2]));
    }
}
