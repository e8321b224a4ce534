//! Goal: a relay is bounded in rate and memory and fair between pairs, and ends when a side ends. Method:
//! functions behind random NATs, a rendezvous with small limits, simulated time.

mod common;

use std::time::Duration;

use common::{RENDEZVOUS, RENDEZVOUS_PORT, behind, config, millis, ranks};
use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi::{Communicator, ErrorKind, Path, Peers};
use fmi_net::Net;
use nat_sim::World;
use nat_sim::nat::preset;

const BYTES: usize = 400_000;
const RATE: u64 = 100_000;

/// A world of `size` functions that can meet by the relay alone.
fn world(size: usize, server: ServerConfig) -> (World, Vec<nat_sim::topology::HostId>) {
    let nats = vec![preset::aws_natgw(); size];
    let (topology, rendezvous, hosts) = behind(&nats, millis(1), millis(4), millis(2));
    let mut world = World::new(topology, 3, millis(1));
    world.service(rendezvous, move |net| {
        let server = server.clone();
        async move {
            let bound = Rendezvous::bind(net, (RENDEZVOUS, RENDEZVOUS_PORT).into(), server).expect("bound");
            match bound.serve().await {}
        }
    });
    (world, hosts)
}

/// Ranks 0 and 2 send to 1 and 3. When each was done after its group had formed.
fn transfer(size: u32, server: ServerConfig) -> Vec<(u32, Duration)> {
    let (mut world, hosts) = world(size as usize, server);
    let board = ranks(&mut world, &hosts, move |net, rank| async move {
        let mut config = config(rank, size);
        config.operation_deadline = Some(Duration::from_secs(60));
        let comm = Communicator::connect(net.clone(), &config).await.expect("joined");
        assert!(comm.links().all(|link| link.path == Path::Relay));
        comm.barrier().await.expect("all here");
        let begun = Net::now(&net);
        let mut bytes = vec![u8::try_from(rank).expect("small"); BYTES];
        if rank % 2 == 0 {
            comm.send(rank + 1, 1, &bytes).await.expect("sent");
        } else {
            comm.recv(rank - 1, 1, &mut bytes).await.expect("received");
            assert!(bytes.iter().all(|byte| u32::from(*byte) == rank - 1));
        }
        let taken = Net::now(&net) - begun;
        comm.barrier().await.expect("all done");
        comm.leave().await;
        (rank, taken)
    });
    assert_eq!(world.run().expect("a world").stuck, None);
    let mut taken = board.take();
    taken.sort_unstable();
    taken
}

#[test]
fn a_pair_gets_the_rate_that_is_allowed_and_no_more() {
    let mut limited = ServerConfig::default();
    limited.relay_bytes_per_second = RATE;
    let taken = transfer(2, limited)[1].1;
    // A buffer may go ahead; records and envelopes add less than a hundredth.
    let least = Duration::from_secs_f64((BYTES - (40 << 10)) as f64 / RATE as f64);
    assert!(taken >= least && taken <= least.mul_f64(1.2), "{taken:?} for {least:?}");
    let free = transfer(2, ServerConfig::default())[1].1;
    assert!(free < least / 4, "without that limit {free:?}");
}

/// The operator of the rendezvous can help it; whoever chose the NATs cannot.
#[test]
fn a_rendezvous_that_relays_nobody_is_named() {
    let mut without = ServerConfig::default();
    without.relays_max = 0;
    let (mut world, hosts) = world(2, without);
    let board = ranks(&mut world, &hosts, |net, rank| async move {
        let mut config = config(rank, 2);
        config.join_deadline = Duration::from_secs(10);
        Communicator::connect(net, &config).await.expect_err("there is no way")
    });
    assert_eq!(world.run().expect("a world").stuck, None);
    for error in board.take() {
        assert!(error.to_string().contains("the rendezvous does not relay"), "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("--relays-max")), "{error:?}");
    }
}

#[test]
fn pairs_get_equal_shares() {
    let mut limited = ServerConfig::default();
    limited.relay_bytes_per_second = RATE;
    let taken = transfer(4, limited);
    let (first, second) = (taken[1].1, taken[3].1);
    let (faster, slower) = (first.min(second), first.max(second));
    assert!(slower <= faster.mul_f64(1.05), "{taken:?}");
}

/// A relayed peer that vanishes is noticed as any other is.
#[test]
fn the_end_of_one_side_is_told_to_the_other() {
    let (mut world, hosts) = world(2, ServerConfig::default());
    world.fault(Duration::from_secs(2), nat_sim::Fault::Kill(hosts[1]));
    let board = ranks(&mut world, &hosts, |net, rank| async move {
        let mut config = config(rank, 2);
        config.peers = Peers::All;
        let comm = Communicator::connect(net.clone(), &config).await.expect("joined");
        let mut byte = [0u8];
        let error = comm.recv(1 - rank, 1, &mut byte).await.expect_err("nobody sends");
        (rank, Net::now(&net).since_origin(), error)
    });
    let report = world.run().expect("a world");
    assert_eq!(report.stuck, None);
    let ended = board.take();
    let (_, at, error) = ended.first().expect("the survivor ends");
    assert!(matches!(error.kind(), ErrorKind::PeerLost(_)) && error.peer() == Some(1), "{error}");
    assert!(*at <= Duration::from_secs(2) + fmi::FAILURE_BOUND + millis(50), "{at:?}");
}
