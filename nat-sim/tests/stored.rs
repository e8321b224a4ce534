//! Goal: groups that meet in a store work behind any NAT, whatever freezes or dies between two requests, and two runs are the same.
//! Method: the store of this project on a host of the lab, and the production client, over links with delay and loss.

mod common;

use std::time::Duration;

use common::{Board, KEY, RENDEZVOUS, behind, millis};
use fmi::net::store::{StoreConfig, StoreServer};
use fmi::{Communicator, Config, ErrorKind, op};
use nat_sim::nat::preset;
use nat_sim::topology::HostId;
use nat_sim::{Fault, SimNet, World};

const PORT: u16 = 6379;
const ELEMENTS: usize = 3_000;

/// A store, and functions behind NATs that give random ports: no pair of them can be punched.
fn world(functions: usize, seed: u64) -> (World, Vec<HostId>) {
    let nats = vec![preset::aws_natgw(); functions];
    let (topology, store, hosts) = behind(&nats, millis(1), millis(4), millis(2));
    let mut world = World::new(topology, seed, millis(1));
    world.service(store, |net| async move {
        let bound = StoreServer::bind(net, (RENDEZVOUS, PORT).into(), StoreConfig::default()).expect("bound");
        match bound.serve().await {}
    });
    (world, hosts)
}

fn config(rank: u32, size: u32) -> Config {
    let mut config = Config::new(rank, size, "stored", "");
    config.key = Some(KEY.into());
    config.store = Some(format!("redis://{RENDEZVOUS}:{PORT}"));
    config.join_deadline = Duration::from_secs(60);
    config.operation_deadline = Some(Duration::from_secs(30));
    config
}

/// Sums a vector, sends one around, and leaves.
async fn work(net: SimNet, config: Config) -> fmi::Result<Duration> {
    let comm = Communicator::connect(net, &config).await?;
    let (rank, size) = (comm.rank(), comm.size());
    let own: Vec<u64> = (0..ELEMENTS as u64).map(|at| at + u64::from(rank)).collect();
    let mut sum = vec![0; ELEMENTS];
    comm.allreduce(&own, &mut sum, op::Sum).await?;
    let ranks: u64 = (0..u64::from(size)).sum();
    assert!(sum.iter().zip(0u64..).all(|(sum, at)| *sum == at * u64::from(size) + ranks), "a wrong sum");
    let (right, left) = ((rank + 1) % size, (rank + size - 1) % size);
    let mut got = vec![0; ELEMENTS];
    let receive = comm.recv(left, 1, &mut got);
    comm.send(right, 1, &own).await?;
    receive.await?;
    assert!(got.iter().zip(0u64..).all(|(got, at)| *got == at + u64::from(left)), "a wrong message");
    comm.barrier().await?;
    let now = comm.now().since_origin();
    comm.leave().await;
    Ok(now)
}

type Ended = Vec<(u32, Result<Duration, ErrorKind>)>;

/// Runs a group with faults; how each rank ended, and the digest.
fn run(size: u32, seed: u64, prepare: impl Fn(&mut World, &[HostId])) -> (Ended, String) {
    let (mut world, hosts) = world(size as usize, seed);
    let board = Board::new();
    for (rank, host) in (0..size).zip(&hosts) {
        let board = board.clone();
        world.function(*host, 50 * rank * millis(1), move |net| {
            let board = board.clone();
            async move {
                let result = work(net, config(rank, size)).await;
                board.put((rank, result.map_err(|error| error.kind().clone())));
            }
        });
    }
    prepare(&mut world, &hosts);
    let report = world.run().expect("a world");
    assert_eq!(report.stuck, None);
    let mut ended = board.take();
    ended.sort_by_key(|(rank, _)| *rank);
    (ended, report.digest)
}

#[test]
fn a_group_behind_nats_that_cannot_be_punched_works_by_a_store_and_two_runs_are_the_same() {
    for size in [2, 5] {
        let (ended, digest) = run(size, 1, |_, _| {});
        assert!(ended.len() == size as usize && ended.iter().all(|(_, result)| result.is_ok()), "{ended:?}");
        assert_eq!(run(size, 1, |_, _| {}), (ended, digest.clone()));
        assert_ne!(run(size, 2, |_, _| {}).1, digest, "another seed makes another run");
    }
}

#[test]
fn a_function_that_freezes_between_any_two_requests_loses_nothing() {
    let (undisturbed, _) = run(3, 7, |_, _| {});
    let end = undisturbed.iter().filter_map(|(_, result)| result.clone().ok()).max().expect("they end");
    // Each 3 ms of the run, while it meets and while it works.
    let mut at = millis(1);
    while at < end {
        for rank in [0, 2] {
            let (ended, _) = run(3, 7, |world, hosts| {
                world.fault(at, Fault::Freeze(hosts[rank]));
                world.fault(at + Duration::from_secs(4), Fault::Thaw(hosts[rank]));
            });
            let all = ended.len() == 3 && ended.iter().all(|(_, result)| result.is_ok());
            assert!(all, "rank {rank} froze at {at:?}: {ended:?}");
        }
        at += millis(3);
    }
}

#[test]
fn a_function_that_is_killed_costs_the_others_a_deadline_and_no_more() {
    let (undisturbed, _) = run(3, 9, |_, _| {});
    let end = undisturbed.iter().filter_map(|(_, result)| result.clone().ok()).max().expect("they end");
    let mut at = millis(5);
    while at < end {
        let (ended, _) = run(3, 9, |world, hosts| world.fault(at, Fault::Kill(hosts[1])));
        let survivors: Vec<_> = ended.iter().filter(|(rank, _)| *rank != 1).collect();
        assert_eq!(survivors.len(), 2, "killed at {at:?}: somebody waits: {ended:?}");
        for (rank, result) in survivors {
            // It may have done all that the others need.
            let is_told = match result {
                Ok(_) => true,
                Err(kind) => matches!(
                    kind,
                    ErrorKind::Deadline { .. }
                        | ErrorKind::GroupIncomplete { .. }
                        | ErrorKind::Revoked(_)
                        | ErrorKind::PeerLeft(_)
                        | ErrorKind::PeerLost(_)
                        | ErrorKind::ConnectionLost(_)
                ),
            };
            assert!(is_told, "killed at {at:?}: rank {rank}: {result:?}");
        }
        at += millis(11);
    }
}

#[test]
fn ranks_that_do_not_meet_run_minutes_apart() {
    let (mut world, hosts) = world(2, 3);
    let board = Board::new();
    for (rank, host) in (0..2).zip(&hosts) {
        let board = board.clone();
        world.function(*host, Duration::from_secs(500) * rank, move |net| {
            let board = board.clone();
            async move {
                let mut config = config(rank, 2);
                config.meet = false;
                let comm = Communicator::connect(net, &config).await.expect("a store");
                let sent: Vec<u32> = (0..1_000_000).collect();
                if rank == 0 {
                    comm.send(1, 3, &sent).await.expect("the store takes it");
                } else {
                    let mut got = vec![0; sent.len()];
                    comm.recv(0, 3, &mut got).await.expect("it is there");
                    assert!(got == sent);
                }
                comm.leave().await;
                board.put(rank);
            }
        });
    }
    let report = world.run().expect("a world");
    assert_eq!((report.stuck, board.take()), (None, vec![0, 1]));
}
