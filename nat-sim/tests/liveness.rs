//! Goal: a rank that is busy, or a group that is idle, keeps its links; lost packets alone end nothing. Method: groups
//! behind NATs in simulated time, some on lossy links, of which a rank computes for minutes or all do nothing.

mod common;

use std::time::Duration;

use common::{behind, config, millis, ranks, serve};
use fmi::{Communicator, Path};
use fmi_net::Net;
use nat_sim::nat::{NatConfig, Timers, preset};
use nat_sim::topology::Topology;
use nat_sim::{Fault, Limits, World};

const SEEDS: std::ops::Range<u64> = 0..20;
const LOSS_PPM: u32 = 10_000;
const IDLE: Duration = Duration::from_secs(600);
const BUSY: Duration = Duration::from_secs(300);
/// Far more than all buffers on the way hold.
const BYTES: usize = 2 << 20;

/// A world whose functions may be idle or busy for as long as these.
fn patient(topology: Topology, seed: u64, tick: Duration) -> World {
    let mut world = World::new(topology, seed, tick);
    world.limits(Limits { time_max: 4 * IDLE, no_progress_max: 2 * IDLE, ..Limits::default() });
    world
}

/// Both ranks wait for ten minutes without a message, on links of which each loses a packet in a hundred.
#[test]
fn an_idle_group_outlives_lost_packets() {
    for seed in SEEDS {
        let nats = [preset::linux_masq_drop(), preset::aws_lambda()];
        let (topology, rendezvous, hosts) = behind(&nats, millis(1), millis(4), millis(5));
        let mut world = patient(topology, seed, millis(100));
        for host in hosts.iter().chain([&rendezvous]) {
            world.fault(Duration::ZERO, Fault::Lose(*host, LOSS_PPM));
        }
        serve(&mut world, rendezvous);
        let board = ranks(&mut world, &hosts, |net, rank| async move {
            let comm = Communicator::connect(net.clone(), &config(rank, 2)).await.expect("joined");
            comm.progress_until(Net::now(&net) + IDLE).await;
            let result = comm.barrier().await;
            comm.leave().await;
            result.map_err(|error| error.to_string())
        });
        assert_eq!(world.run().expect("a world").stuck, None, "seed {seed}");
        assert_eq!(board.take(), [Ok(()), Ok(())], "seed {seed}");
    }
}

/// Both ranks wait for ten minutes behind NATs that forget what is idle for `forgets`.
fn outlives_a_nat_that_forgets(forgets: Duration, keepalive: Option<Duration>) -> bool {
    // It does not take up what it has forgotten.
    let nat = preset::aws_lambda();
    let timers = Timers { established: forgets, unacknowledged: forgets, ..nat.timers };
    let nat = NatConfig { timers, ..nat };
    let (topology, rendezvous, hosts) = behind(&[nat, nat], millis(1), millis(4), millis(5));
    let mut world = patient(topology, 1, millis(100));
    serve(&mut world, rendezvous);
    let board = ranks(&mut world, &hosts, move |net, rank| async move {
        let mut config = config(rank, 2);
        if let Some(keepalive) = keepalive {
            config.keepalive = keepalive;
        }
        let comm = Communicator::connect(net.clone(), &config).await.expect("joined");
        comm.progress_until(Net::now(&net) + IDLE).await;
        let result = comm.barrier().await;
        comm.leave().await;
        result.is_ok()
    });
    assert_eq!(world.run().expect("a world").stuck, None);
    board.take() == [true, true]
}

#[test]
fn an_idle_group_outlives_nats_that_forget_early() {
    let second = Duration::from_secs(1);
    assert!(outlives_a_nat_that_forgets(30 * second, None));
    assert!(!outlives_a_nat_that_forgets(30 * second, Some(100 * second)), "which the test would see");
    assert!(outlives_a_nat_that_forgets(8 * second, Some(5 * second)));
}

/// Rank 1 computes for five minutes, while megabytes wait for it.
fn computes_while_bytes_wait(nat: NatConfig, path: Path) {
    let (topology, rendezvous, hosts) = behind(&[nat, nat], millis(1), millis(4), millis(5));
    let mut world = patient(topology, 1, millis(10));
    serve(&mut world, rendezvous);
    let board = ranks(&mut world, &hosts, move |net, rank| async move {
        let config = config(rank, 2);
        let comm = Communicator::connect(net.clone(), &config).await.expect("joined");
        assert!(comm.links().all(|link| link.path == path));
        let mut bytes = vec![u8::try_from(rank).expect("small"); BYTES];
        if rank == 0 {
            comm.send(1, 1, &bytes).await.expect("sent");
        } else {
            Net::sleep_until(&net, Net::now(&net) + BUSY).await;
            comm.recv(0, 1, &mut bytes).await.expect("received");
        }
        assert!(bytes.iter().all(|byte| *byte == 0));
        comm.barrier().await.expect("both links work");
        let paths: Vec<_> = comm.links().map(|link| link.path).collect();
        comm.leave().await;
        paths
    });
    assert_eq!(world.run().expect("a world").stuck, None);
    assert_eq!(board.take(), [[path], [path]]);
}

#[test]
fn a_rank_that_computes_keeps_its_direct_link() {
    computes_while_bytes_wait(preset::linux_masq_drop(), Path::Direct);
}

#[test]
fn a_rank_that_computes_keeps_its_relayed_link() {
    computes_while_bytes_wait(preset::aws_natgw(), Path::Relay);
}
