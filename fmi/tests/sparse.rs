//! Goal: a group whose ranks connect only to those that collectives need (`Peers::Collectives`) runs everything that the
//! docs promise: each collective with each root, blocks of different lengths, values, and communicators of some ranks.
//! Method: ranks over loopback, all on one thread, against plain arithmetic.

use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi::op::{Custom, Sum};
use fmi::{Communicator, Config, ErrorKind, Peers, RealNet, Result};
use futures_util::future::{Either, select, try_join, try_join_all};

/// Not complete: ranks 1 and 6, for instance, are not connected.
const SIZE: u32 = 11;

/// Runs `program` on each rank of a group.
fn group<F: AsyncFn(Communicator) -> Result<()>>(name: &str, program: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let server = Rendezvous::bind(RealNet::new(), ([127, 0, 0, 1], 0).into(), ServerConfig::default());
        let server = server.expect("bound");
        let address = server.local_addr().expect("an address");
        let program = &program;
        let rank = |rank: u32| async move {
            let mut config = Config::new(rank, SIZE, name, address.to_string());
            config.peers = Peers::Collectives;
            program(Communicator::connect(RealNet::new(), &config).await?).await
        };
        let ranks = std::pin::pin!(try_join_all((0..SIZE).map(rank)));
        match select(ranks, std::pin::pin!(server.serve())).await {
            Either::Left((done, _)) => drop(done.unwrap_or_else(|error| panic!("{error}"))),
            Either::Right((never, _)) => match never {},
        }
    });
}

fn element(rank: u32, index: usize) -> u64 {
    u64::from(rank) * 1000 + index as u64
}

fn count(rank: u32) -> usize {
    (rank as usize * 5 + 2) % 4
}

fn vector(rank: u32) -> Vec<u64> {
    (0..count(rank)).map(|index| element(rank, index)).collect()
}

/// Collectives with blocks of different lengths, of whatever communicator.
async fn blocks(comm: &Communicator) -> Result<()> {
    let (me, size) = (comm.rank(), comm.size());
    let counts: Vec<usize> = (0..size).map(count).collect();
    let all: Vec<u64> = (0..size).flat_map(vector).collect();
    let own = vector(me);
    for root in 0..size {
        let is_root = me == root;
        let mut gathered = vec![0; if is_root { all.len() } else { 0 }];
        comm.gatherv(&own, &mut gathered, if is_root { &counts } else { &[] }, root).await?;
        assert_eq!(gathered, if is_root { all.clone() } else { vec![] }, "gatherv at {root}");
        let mut scattered = vec![0; own.len()];
        let (send, known): (&[u64], &[usize]) = if is_root { (&all, &counts) } else { (&[], &[]) };
        comm.scatterv(send, known, &mut scattered, root).await?;
        assert_eq!(scattered, own, "scatterv from {root}");
        let mut sum = vec![0u64; 3];
        comm.reduce(&[u64::from(me), 1, 2], &mut sum, Sum, root).await?;
        if is_root {
            assert_eq!(sum, [u64::from(size * (size - 1) / 2), u64::from(size), 2 * u64::from(size)]);
        }
        let mut told = [if is_root { 7 } else { 0 }];
        comm.broadcast(&mut told, root).await?;
        assert_eq!(told, [7]);
    }
    let mut everywhere = vec![0; all.len()];
    comm.allgatherv(&own, &mut everywhere, &counts).await?;
    assert_eq!(everywhere, all);

    let length = |from: u32, to: u32| ((from * 7 + to * 3) % 4) as usize;
    let (sends, receives): (Vec<_>, Vec<_>) = (0..size).map(|peer| (length(me, peer), length(peer, me))).unzip();
    let block = |from: u32, to: u32| (0..length(from, to)).map(move |index| element(from, to as usize * 10 + index));
    let send: Vec<u64> = (0..size).flat_map(|to| block(me, to)).collect();
    let expected: Vec<u64> = (0..size).flat_map(|from| block(from, me)).collect();
    let mut received = vec![0; expected.len()];
    comm.alltoallv(&send, &sends, &mut received, &receives).await?;
    assert_eq!(received, expected);

    let total: usize = counts.iter().sum();
    let mut part = vec![0u64; own.len()];
    comm.reduce_scatter(&vec![u64::from(me); total], &mut part, &counts, Sum).await?;
    assert!(part.iter().all(|sum| *sum == u64::from(size * (size - 1) / 2)));
    Ok(())
}

/// The other collectives: equal blocks, prefixes, orders.
async fn whole(comm: &Communicator) -> Result<()> {
    let (me, size) = (comm.rank(), comm.size());
    let ranks: Vec<u64> = (0..u64::from(size)).collect();
    // Concatenation of digits in base 16, which does not commute.
    let join = Custom::ordered(2000, |left: [u64; 2], right: [u64; 2]| {
        [left[0] * 16u64.pow(u32::try_from(right[1]).expect("few digits")) + right[0], left[1] + right[1]]
    });
    let digits = |ranks: std::ops::Range<u32>| ranks.fold(0, |sum, rank| sum * 16 + u64::from(rank));
    let mut ordered = [[0u64; 2]];
    comm.allreduce(&[[u64::from(me), 1]], &mut ordered, join).await?;
    assert_eq!(ordered[0][0], digits(0..size));
    let mut prefix = [[0u64; 2]];
    comm.scan(&[[u64::from(me), 1]], &mut prefix, join).await?;
    assert_eq!(prefix[0][0], digits(0..me + 1));
    let (mut all, mut exchanged) = (vec![0; size as usize], vec![0; size as usize]);
    comm.allgather(&[u64::from(me)], &mut all).await?;
    assert_eq!(all, ranks);
    comm.alltoall(&vec![u64::from(me); size as usize], &mut exchanged).await?;
    assert_eq!(exchanged, ranks);
    comm.barrier().await
}

#[test]
fn a_whole_group_runs_every_collective_with_every_root() {
    group("sparse whole", async |comm| {
        blocks(&comm).await?;
        whole(&comm).await?;
        let values = comm.gather_value(&format!("from {}", comm.rank()), 4).await?;
        let expected: Vec<String> = (0..SIZE).map(|rank| format!("from {rank}")).collect();
        assert_eq!(values, if comm.rank() == 4 { expected } else { vec![] });
        comm.barrier().await
    });
}

#[test]
fn two_of_them_at_once_keep_their_order() {
    group("sparse order", async |comm| {
        let (me, counts) = (comm.rank(), [1; SIZE as usize]);
        let (own, mut first, mut second) = ([me; SIZE as usize], [0; SIZE as usize], [0; SIZE as usize]);
        let one = comm.alltoallv(&own, &counts, &mut first, &counts);
        let other = comm.allgatherv(&own[..1], &mut second, &counts);
        // The second is polled first.
        try_join(other, one).await?;
        let ranks: Vec<u32> = (0..SIZE).collect();
        assert_eq!((&first[..], &second[..]), (&ranks[..], &ranks[..]));
        comm.barrier().await
    });
}

#[test]
fn communicators_of_some_ranks_run_on_the_connections_that_they_have() {
    group("sparse parts", async |comm| {
        let me = comm.rank();
        let twin = comm.duplicate()?;
        blocks(&twin).await?;
        // Halves, of which one lacks rank 0; and all in another order.
        for (color, key) in [(u32::from(me >= 6), 0), (0, i64::from(me * 7 % SIZE))] {
            let part = comm.split(Some(color), key).await?.expect("a color");
            blocks(&part).await?;
            whole(&part).await?;
        }
        let members = comm.group().include(&[10, 6, 0, 1, 5]);
        if let Some(part) = comm.create_group(&members, 1)? {
            blocks(&part).await?;
            whole(&part).await?;
            // A part of a part.
            let is_apart = matches!(part.rank(), 1 | 3);
            let less = part.split(Some(u32::from(is_apart)), 0).await;
            assert_eq!(less.is_err(), is_apart, "6 and 1 have no connection without the others");
        }
        comm.barrier().await
    });
}

#[test]
fn members_that_cannot_reach_each_other_are_refused_and_change_nothing() {
    group("sparse apart", async |comm| {
        let members = comm.group().include(&[1, 6]);
        match comm.create_group(&members, 1) {
            Ok(part) => assert!(part.is_none(), "only members are asked"),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::InvalidArgument(_)));
                assert!(error.to_string().contains("from rank 1 of the whole group to rank 6"), "{error}");
            }
        }
        let color = matches!(comm.rank(), 1 | 6).then_some(3);
        let split = comm.split(color, 0).await;
        assert_eq!(split.is_err(), color.is_some());
        let counts = [1; SIZE as usize];
        let error = comm.alltoallv_init::<u8>(&counts, &counts).map(drop).expect_err("not planned here");
        assert!(error.to_string().contains("call `alltoallv`"), "{error}");
        blocks(&comm).await
    });
}

#[test]
fn lengths_that_differ_are_a_mismatch_on_the_rank_that_told_them() {
    group("sparse mismatch", async |comm| {
        let (me, mut counts) = (comm.rank(), [1; SIZE as usize]);
        let mut received = [0; SIZE as usize];
        counts[2] = if me == 6 { 2 } else { 1 };
        let send = vec![0u8; counts.iter().sum()];
        let result = comm.alltoallv(&send, &counts, &mut received, &[1; SIZE as usize]).await;
        let error = result.expect_err("rank 6 sends two elements to rank 2");
        if me == 2 {
            assert!(matches!(error.kind(), ErrorKind::Mismatch { .. }), "{error}");
            assert_eq!(error.peer(), Some(6));
        }
        Ok(())
    });
}
