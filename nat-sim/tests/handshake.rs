//! Goal: what somebody has heard of a handshake is of no use to them, in any mode, and does not keep the ranks apart.
//! Method: a rendezvous that says that a rank is at an attacker's address, who repeats what it hears there to that rank
//! before the true peer's stream is there; and one that crosses groups, as with real sockets.

#[path = "../../fmi/tests/attackers/mod.rs"]
mod attackers;
mod common;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use attackers::{MODES, Registered, TOLD_BYTES, assert_unproven, config, works};
use common::{Board, RENDEZVOUS, RENDEZVOUS_PORT, host, millis};
use fmi::net::{Listener, Net};
use fmi::{Error, Security};
use fmi_proto::rendezvous::Handout;
use fmi_proto::session::HELLO_BYTES;
use nat_sim::World;
use nat_sim::nat::preset;
use nat_sim::topology::{GatewaySpec, HostId, INTERNET, Topology};

const ATTACKER: ([u8; 4], u16) = ([198, 51, 100, 66], 4000);

fn address() -> SocketAddr {
    (RENDEZVOUS, RENDEZVOUS_PORT).into()
}

/// A rendezvous and hosts on the internet, at these distances from it.
fn world(distances: &[Duration]) -> (World, HostId, Vec<HostId>) {
    let mut topology = Topology::new();
    let rendezvous = topology.host(host(INTERNET, RENDEZVOUS.octets(), millis(1)));
    let hosts =
        (1u8..).zip(distances).map(|(last, distance)| topology.host(host(INTERNET, [1, 0, 0, last], *distance)));
    let hosts = hosts.collect();
    (World::new(topology, 1, millis(1)), rendezvous, hosts)
}

fn joins(world: &mut World, host: HostId, config: fmi::Config, board: &Board<(u32, Result<(), Error>)>) {
    let board = board.clone();
    world.function(host, Duration::ZERO, move |net| {
        let (board, config) = (board.clone(), config.clone());
        async move { board.put((config.rank, works(net, config).await)) }
    });
}

/// Rank 1 is told that rank 0 is at the attacker's, who repeats what it says there towards rank 0, `copies` times. The
/// ranks are as far as that from the rendezvous, and the third one, if there is one, behind a gateway. All come together.
/// Returns how much each copy was told.
fn repeated(security: Security, distances: &[Duration], copies: usize) -> Vec<usize> {
    let mut topology = Topology::new();
    let rendezvous = topology.host(host(INTERNET, RENDEZVOUS.octets(), millis(1)));
    let ranks = (0u8..).zip(distances).map(|(rank, distance)| {
        if rank < 2 {
            return topology.host(host(INTERNET, [1, 0, 0, rank + 1], *distance));
        }
        let inner = topology.network(format!("lan-{rank}"));
        topology.gateway(GatewaySpec::plain(preset::aws_natgw(), [203, 0, 113, rank], *distance, inner));
        topology.host(host(inner, [10, 0, 0, 2], millis(1)))
    });
    let ranks: Vec<_> = ranks.collect();
    let attacker = topology.host(host(INTERNET, ATTACKER.0, millis(1)));
    let mut world = World::new(topology, 1, millis(1));
    let size = u32::try_from(ranks.len()).expect("few");
    let target: Board<SocketAddr> = Board::new();
    let seen = target.clone();
    world.service(rendezvous, move |net| {
        let seen = seen.clone();
        async move {
            let deal = move |registered: &[Registered]| -> Vec<Handout> {
                let told = |own: &Registered| {
                    let mut handout = attackers::handout(1, &registered.iter().collect::<Vec<_>>());
                    if own.registration.rank == 1 {
                        seen.put(handout.members[0].observed.main);
                        handout.members[0].observed.main = ATTACKER.into();
                    }
                    handout
                };
                registered.iter().map(told).collect()
            };
            attackers::lying_rendezvous(&net, address(), size as usize, deal).await;
        }
    });
    let told = Board::new();
    let tell = told.clone();
    world.service(attacker, move |net| {
        let (tell, target) = (tell.clone(), target.clone());
        async move {
            let mut listener = net.listen(ATTACKER.into(), 8).expect("listens");
            let local = (ATTACKER.0, 0).into();
            let towards = loop {
                if let Some(towards) = target.take().pop() {
                    break towards;
                }
                net.sleep_until(net.now() + millis(1)).await;
            };
            for bytes in attackers::repeats(&net, &mut listener, local, towards, copies).await {
                tell.put(bytes);
            }
        }
    });
    let board = Board::new();
    for (rank, host) in (0u32..).zip(ranks) {
        joins(&mut world, host, config("job", (rank, size), security, address()), &board);
    }
    assert_eq!(world.run().expect("a world").stuck, None);
    for (rank, result) in board.take() {
        result.unwrap_or_else(|error| panic!("rank {rank}, {security:?}: {error}"));
    }
    told.take()
}

#[test]
fn a_hello_that_is_repeated_takes_nobodys_place() {
    for security in MODES {
        // Rank 1 is far, so what it says reaches the attacker, and from there rank 0, before its answer does.
        let told = repeated(security, &[millis(1), millis(50)], 5);
        assert_eq!(told, [TOLD_BYTES; 5], "each was taken for a hello, and none was kept");
    }
}

/// More copies than strangers may have at once, once the true stream is kept, and before rank 2, whom rank 0 cannot reach by
/// itself, is there.
#[test]
fn hellos_that_are_repeated_later_leave_room_for_others() {
    for security in MODES {
        let told = repeated(security, &[millis(1), millis(1), millis(250)], 80);
        assert!(told.iter().all(|bytes| *bytes <= HELLO_BYTES), "none was nominated: {told:?}");
    }
}

#[test]
fn two_groups_with_one_secret_are_not_crossed() {
    for security in MODES {
        for is_honest in [true, false] {
            let (mut world, rendezvous, hosts) = world(&[millis(1); 4]);
            world.service(rendezvous, move |net| async move {
                let deal = if is_honest { attackers::honestly } else { attackers::crossed };
                attackers::lying_rendezvous(&net, address(), 4, deal).await;
            });
            let board = Board::new();
            let groups = ["job-a", "job-a", "job-b", "job-b"];
            for ((rank, host), group) in (0u32..).zip(hosts).zip(groups) {
                joins(&mut world, host, config(group, (rank % 2, 2), security, address()), &board);
            }
            assert_eq!(world.run().expect("a world").stuck, None);
            for (_, result) in board.take() {
                if is_honest {
                    result.expect("the groups form at such a rendezvous, if it is honest");
                } else {
                    assert_unproven(result);
                }
            }
        }
    }
}

/// A rendezvous that tells eight ranks that all others are at a victim's address has each pair knock there a few times, with
/// ever longer pauses, and not as often as the network allows.
#[test]
fn a_victim_that_a_rendezvous_names_is_left_in_peace() {
    const SIZE: u32 = 8;
    let (mut world, rendezvous, mut hosts) = world(&[millis(1); 9]);
    let victim = hosts.pop().expect("nine");
    let at: SocketAddr = ([1, 0, 0, 9], 4000).into();
    world.service(rendezvous, move |net| async move {
        let deal = move |registered: &[Registered]| -> Vec<Handout> {
            let told = |own: &Registered| {
                let mut handout = attackers::handout(1, &registered.iter().collect::<Vec<_>>());
                let others = handout.members.iter_mut().filter(|it| it.rank != own.registration.rank);
                others.for_each(|other| other.observed.main = at);
                handout
            };
            registered.iter().map(told).collect()
        };
        attackers::lying_rendezvous(&net, address(), SIZE as usize, deal).await;
    });
    let visits: Board<()> = Board::new();
    let seen = visits.clone();
    world.service(victim, move |net| {
        let seen = seen.clone();
        async move {
            let mut listener = net.listen(at, 4096).expect("listens");
            loop {
                if let Ok(stream) = poll_fn(|cx| listener.poll_accept(cx)).await {
                    seen.put(());
                    drop(stream);
                }
            }
        }
    });
    let board = Board::new();
    for (rank, host) in (0..SIZE).zip(hosts) {
        joins(&mut world, host, config("job", (rank, SIZE), Security::Encrypted, address()), &board);
    }
    assert_eq!(world.run().expect("a world").stuck, None);
    board.take().into_iter().for_each(|(_, result)| assert_unproven(result));
    let (visits, pairs) = (visits.take().len(), (SIZE * (SIZE - 1)) as usize);
    assert!((pairs..20 * pairs).contains(&visits), "{visits} visits of {pairs} pairs");
}
