//! Goal: a group forms wherever packets of 1,280 bytes get through; where longer ones are dropped without a word, that is said,
//! and a setting helps. Method: a gateway with a small MTU, and one that keeps the reports of it from the sender.

mod common;

use std::time::Duration;

use common::{Board, behind, config, millis, ranks, serve};
use fmi::Communicator;
use nat_sim::World;
use nat_sim::nat::{IcmpErrors, NatConfig, preset};

/// The MTU that every path has.
const MTU_MIN: usize = 1280;
/// A group whose handout does not fit a packet.
const SIZE: u32 = 20;
const LONG: usize = 100_000;

#[test]
fn no_packet_of_a_join_is_longer_than_1280_bytes() {
    let (topology, rendezvous, hosts) = behind(&[preset::aws_lambda(); SIZE as usize], millis(1), millis(4), millis(5));
    let mut world = World::new(topology, 1, millis(1));
    serve(&mut world, rendezvous);
    let lengths = Board::new();
    let seen = lengths.clone();
    world.tap(move |_, packet| seen.put(packet.bytes().len()));
    let joined = ranks(&mut world, &hosts, |net, rank| async move {
        let comm = Communicator::connect(net, &config(rank, SIZE)).await.expect("joined");
        comm.leave().await;
    });
    assert_eq!(world.run().expect("a world").stuck, None);
    assert_eq!(joined.count(), SIZE as usize);
    let longest = lengths.take().into_iter().max().expect("packets");
    assert!(longest <= MTU_MIN, "{longest}");
    assert!(longest > MTU_MIN - 40, "a handout fills its packets: {longest}");
}

/// What becomes of a long message from rank 0 to rank 1, behind whose gateway the MTU is 1,400 bytes. Gateway 0 keeps the
/// reports of that from rank 0.
fn send_long(mss: Option<u16>, keepalive: Option<Duration>) -> Vec<(u32, Result<(), fmi::Error>)> {
    let nat = preset::linux_masq_drop();
    let nats = [NatConfig { icmp_errors: IcmpErrors::Ignore, ..nat }, NatConfig { mtu: 1400, ..nat }];
    let (topology, rendezvous, hosts) = behind(&nats, millis(1), millis(4), millis(5));
    let mut world = World::new(topology, 1, millis(10));
    serve(&mut world, rendezvous);
    let board = ranks(&mut world, &hosts, move |net, rank| async move {
        let mut config = config(rank, 2);
        config.mss = mss;
        config.keepalive = keepalive.unwrap_or(config.keepalive);
        let comm = Communicator::connect(net, &config).await.expect("joined");
        let work = async {
            comm.barrier().await?;
            if rank == 0 {
                comm.send(1, 0, &vec![7u8; LONG]).await?;
            } else {
                comm.recv(0, 0, &mut vec![0u8; LONG]).await?;
            }
            comm.barrier().await
        };
        let result = work.await;
        comm.leave().await;
        (rank, result)
    });
    assert_eq!(world.run().expect("a world").stuck, None);
    let mut ends = board.take();
    ends.sort_by_key(|(rank, _)| *rank);
    ends
}

#[test]
fn long_packets_that_vanish_are_told_as_such_with_what_helps() {
    // With the second one the peer's kernel is heard all the while.
    for keepalive in [None, Some(Duration::from_secs(5))] {
        let ends = send_long(None, keepalive);
        let (_, Err(error)) = &ends[0] else { panic!("{keepalive:?}: the message got through") };
        assert_eq!(error.peer(), Some(1));
        assert!(error.to_string().contains("looks like an MTU black hole"), "{keepalive:?}: {error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("FMI_MSS=1200")), "{:?}", error.advice());
        let (_, Err(error)) = &ends[1] else { panic!("{keepalive:?}: the message came") };
        assert_eq!(error.peer(), Some(0), "{error}");
    }
}

#[test]
fn shorter_segments_get_through() {
    let ends = send_long(Some(1200), None);
    assert!(ends.iter().all(|(_, result)| result.is_ok()), "{ends:?}");
}
