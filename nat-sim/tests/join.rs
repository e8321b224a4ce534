//! Goal: the production code forms groups in the lab, at the physical floor of time. Method: small
//! worlds, equality in virtual time.

mod common;

use std::time::Duration;

use common::{behind, config, millis, ranks, serve};
use fmi::Communicator;
use fmi::connect::Prepared;
use fmi_net::Net;
use nat_sim::World;
use nat_sim::nat::preset;

#[test]
fn two_functions_behind_nats_exchange_values() {
    let (topology, rendezvous, hosts) =
        behind(&[preset::linux_masq_drop(), preset::aws_lambda()], millis(1), millis(4), millis(5));
    let mut world = World::new(topology, 1, millis(1));
    serve(&mut world, rendezvous);
    let board = ranks(&mut world, &hosts, |net, rank| async move {
        let comm = Communicator::connect(net, &config(rank, 2)).await.expect("joined");
        let mut sum = [0u32; 3];
        comm.allreduce(&[rank, 10, 7], &mut sum, fmi::op::Sum).await.expect("reduced");
        let path = comm.links().next().expect("one peer").path;
        comm.barrier().await.expect("all here");
        comm.leave().await;
        (rank, sum, path)
    });
    let report = world.run().expect("a world");
    assert_eq!(report.stuck, None);
    let mut results = board.take();
    results.sort_unstable();
    assert_eq!(results, [(0, [1, 20, 14], fmi::Path::Direct), (1, [1, 20, 14], fmi::Path::Direct)]);
}

/// The floor of a warm rendezvous: each address travels once to the other side by way of the
/// server, and a SYN needs its answer.
#[test]
fn a_silent_pair_connects_at_the_floor() {
    for (lan_and_wan, server) in [((1, 9), 5), ((2, 18), 1), ((1, 0), 1), ((3, 37), 40)] {
        let (lan, wan) = lan_and_wan;
        let (topology, rendezvous, hosts) =
            behind(&[preset::linux_masq_drop(), preset::linux_masq_drop()], millis(lan), millis(wan), millis(server));
        let mut world = World::new(topology, 7, millis(1));
        serve(&mut world, rendezvous);
        // Rank 0 waits; rank 1 comes later and starts the clock.
        let late = Duration::from_secs(2);
        let board = ranks(&mut world, &hosts, move |net, rank| async move {
            let mut prepared = Prepared::new(net.clone(), &config(rank, 2)).await.expect("valid");
            prepared.warm().await.expect("the rendezvous answers");
            if rank == 1 {
                Net::sleep_until(&net, fmi_net::time::Instant::ZERO + late).await;
            }
            let comm = prepared.join().await.expect("joined");
            let link = comm.links().next().expect("one peer");
            comm.leave().await;
            link.connected_at.since_origin() - late
        });
        let report = world.run().expect("a world");
        assert_eq!(report.stuck, None);
        let to_rendezvous = 2 * millis(lan + wan + server);
        let round_trip = 2 * millis(2 * (lan + wan));
        // Both sides are equally far from the server: max(R, (R + R) / 2) + RTT.
        let floor = to_rendezvous + round_trip;
        assert_eq!(board.take(), [floor, floor], "links of {lan} + {wan} ms, server at {server} ms");
    }
}
