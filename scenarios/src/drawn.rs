//! Operations drawn from a number: every collective and message, with drawn counts, roots, types and operators,
//! against a sequential reference. All ranks draw alike.

use std::fmt::Debug;

use fmi::op::{BitXor, Custom, Max, MinLoc, Op, Sum};
use fmi::{Communicator, Element, Source, Tag};
use futures_util::future::{try_join, try_join3};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::program::Failure;
use crate::reference::{compose, value};

/// Code of the operator that does not commute.
const AFFINE: u32 = 1026;
/// Code of the operator that is not even associative.
const HASH: u32 = 1027;
/// Operations of one step.
const OPERATIONS: u32 = 6;
/// Most elements of a vector.
const COUNT_MAX: u64 = 3000;

struct Draw(ChaCha8Rng);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    fn count(&mut self) -> usize {
        let bound = [1, 2, 8, 100, COUNT_MAX][usize::try_from(self.below(5)).expect("small")];
        usize::try_from(self.below(bound + 1)).expect("small")
    }

    fn rank(&mut self, size: u32) -> u32 {
        u32::try_from(self.below(u64::from(size))).expect("below size")
    }
}

/// Runs the operations of step `number`.
pub(crate) async fn run(comm: &Communicator, number: u64) -> Result<(), Failure> {
    let mut draw = Draw(ChaCha8Rng::seed_from_u64(number));
    for _ in 0..OPERATIONS {
        let about = draw.below(8);
        match about {
            0 => collective(comm, &mut draw, value, Sum).await?,
            1 => collective(comm, &mut draw, value, Custom::ordered(AFFINE, compose)).await?,
            2 => collective(comm, &mut draw, |rank, at, index| small(rank, at, index) as i16, Max).await?,
            3 => {
                // Small whole numbers add up exactly in any order.
                let of = |rank, at, index| f64::from(small(rank, at, index));
                collective(comm, &mut draw, of, Sum).await?;
            }
            4 => {
                let of = |rank, at, index| [i64::from(small(rank, at, index)), i64::from(rank)];
                collective(comm, &mut draw, of, MinLoc).await?;
            }
            5 => {
                collective(
                    comm,
                    &mut draw,
                    |rank, at, index| value(rank, at, index).to_be_bytes(),
                    Custom::commutative(HASH, xor),
                )
                .await?
            }
            6 => messages(comm, &mut draw).await?,
            _ => communicators(comm, &mut draw).await?,
        }
    }
    agree_without_associativity(comm, &mut draw).await
}

fn small(rank: u32, number: u64, index: usize) -> u16 {
    (value(rank, number, index) % 1000) as u16
}

fn xor(left: [u8; 8], right: [u8; 8]) -> [u8; 8] {
    std::array::from_fn(|index| left[index] ^ right[index])
}

fn expect<T: PartialEq + Debug>(what: &str, got: &[T], expected: impl Fn(usize) -> T) -> Result<(), Failure> {
    match got.iter().enumerate().find(|(index, got)| **got != expected(*index)) {
        None => Ok(()),
        Some((index, got)) => {
            let expected = expected(index);
            Err(Failure::Wrong(format!("{what}: element {index} is {got:?}, the reference says {expected:?}")))
        }
    }
}

/// One collective, in one or two buffers.
#[expect(clippy::too_many_lines, reason = "one arm for each collective")]
async fn collective<T: Element + PartialEq + Debug, O: Op<T> + Copy>(
    comm: &Communicator,
    draw: &mut Draw,
    of: impl Fn(u32, u64, usize) -> T,
    op: O,
) -> Result<(), Failure> {
    let (me, size, at) = (comm.rank(), comm.size(), draw.below(u64::MAX));
    let (ranks, mine) = (size as usize, me as usize);
    let (count, root, in_place) = (draw.count(), draw.rank(size), draw.below(2) == 0);
    let vector = |rank: u32, count: usize| (0..count).map(|index| of(rank, at, index)).collect::<Vec<T>>();
    let fold = |ranks: std::ops::Range<u32>, index: usize| {
        let mut ranks = ranks.map(|rank| of(rank, at, index));
        let first = ranks.next().expect("at least one rank");
        ranks.fold(first, |sum, next| op.combine(sum, next))
    };
    let counts: Vec<usize> = (0..ranks).map(|_| draw.count() / ranks).collect();
    let offsets = fmi_proto::schedule::offsets(&counts);
    let share = count / ranks;
    let own = vector(me, count);
    let mut result = vec![T::zeroed(); count];
    match draw.below(15) {
        0 => comm.barrier().await?,
        1 => {
            let mut buffer = if me == root { own } else { result };
            comm.broadcast(&mut buffer, root).await?;
            expect("broadcast", &buffer, |index| of(root, at, index))?;
        }
        2 => {
            if in_place {
                result = own;
                comm.reduce_in_place(&mut result, op, root).await?;
            } else {
                comm.reduce(&own, &mut result, op, root).await?;
            }
            if me == root {
                expect("reduce", &result, |index| fold(0..size, index))?;
            }
        }
        3 | 4 => {
            if in_place {
                result = own;
                comm.allreduce_in_place(&mut result, op).await?;
            } else {
                comm.allreduce(&own, &mut result, op).await?;
            }
            expect("allreduce", &result, |index| fold(0..size, index))?;
        }
        5 => {
            let mut all = vec![T::zeroed(); if me == root { share * ranks } else { share }];
            if in_place {
                let start = if me == root { share * mine } else { 0 };
                all[start..start + share].copy_from_slice(&own[..share]);
                comm.gather_in_place(&mut all, root).await?;
            } else {
                comm.gather(&own[..share], &mut all, root).await?;
            }
            if me == root && share > 0 {
                let from = |index: usize| u32::try_from(index / share).expect("a rank");
                expect("gather", &all, |index| of(from(index), at, index % share))?;
            }
        }
        6 => {
            let all = if me == root { vector(root, share * ranks) } else { Vec::new() };
            let mut block = vec![T::zeroed(); share];
            comm.scatter(&all, &mut block, root).await?;
            expect("scatter", &block, |index| of(root, at, mine * share + index))?;
        }
        7 => {
            let mut all = vec![T::zeroed(); share * ranks];
            if in_place {
                all[share * mine..share * (mine + 1)].copy_from_slice(&own[..share]);
                comm.allgather_in_place(&mut all).await?;
            } else {
                comm.allgather(&own[..share], &mut all).await?;
            }
            let from = |index: usize| u32::try_from(index / share).expect("a rank");
            expect("allgather", &all, |index| of(from(index), at, index % share))?;
        }
        8 => {
            let mut all = vector(me, share * ranks);
            if in_place {
                comm.alltoall_in_place(&mut all).await?;
            } else {
                let send = all.clone();
                comm.alltoall(&send, &mut all).await?;
            }
            let from = |index: usize| u32::try_from(index / share).expect("a rank");
            expect("alltoall", &all, |index| of(from(index), at, mine * share + index % share))?;
        }
        9 => {
            let mut all = vector(me, share * ranks);
            if in_place {
                comm.reduce_scatter_block_in_place(&mut all, op).await?;
            } else {
                let send = all.clone();
                comm.reduce_scatter_block(&send, &mut all[..share], op).await?;
            }
            expect("reduce_scatter_block", &all[..share], |index| fold(0..size, mine * share + index))?;
        }
        10 => {
            let mut block = vec![T::zeroed(); counts[mine]];
            comm.reduce_scatter(&vector(me, offsets[ranks]), &mut block, &counts, op).await?;
            expect("reduce_scatter", &block, |index| fold(0..size, offsets[mine] + index))?;
        }
        11 => {
            comm.scan(&own, &mut result, op).await?;
            expect("scan", &result, |index| fold(0..me + 1, index))?;
        }
        12 => {
            result.copy_from_slice(&own);
            comm.exscan_in_place(&mut result, op).await?;
            if me > 0 {
                expect("exscan", &result, |index| fold(0..me, index))?;
            }
        }
        13 => {
            let mut all = vec![T::zeroed(); offsets[ranks]];
            comm.allgatherv(&vector(me, counts[mine]), &mut all, &counts).await?;
            blocks("allgatherv", &all, &offsets, |rank, index| of(rank, at, index))?;
            let mut at_root = vec![T::zeroed(); if me == root { offsets[ranks] } else { 0 }];
            comm.gatherv(&vector(me, counts[mine]), &mut at_root, if me == root { &counts } else { &[] }, root).await?;
            if me == root {
                blocks("gatherv", &at_root, &offsets, |rank, index| of(rank, at, index))?;
            }
            let mut block = vec![T::zeroed(); counts[mine]];
            comm.scatterv(&at_root, if me == root { &counts } else { &[] }, &mut block, root).await?;
            expect("scatterv", &block, |index| of(me, at, index))?;
        }
        _ => {
            // Rank r has for rank s as many as both draw for the pair.
            let length = |from: u32, to: u32| usize::try_from((at ^ u64::from(from * 31 + to)) % 50).expect("small");
            let sends: Vec<usize> = (0..size).map(|to| length(me, to)).collect();
            let receives: Vec<usize> = (0..size).map(|from| length(from, me)).collect();
            let send: Vec<T> = (0..size)
                .flat_map(|to| (0..length(me, to)).map(move |index| (to, index)))
                .map(|(to, index)| of(me * 64 + to, at, index))
                .collect();
            let mut all = vec![T::zeroed(); receives.iter().sum()];
            comm.alltoallv(&send, &sends, &mut all, &receives).await?;
            blocks("alltoallv", &all, &fmi_proto::schedule::offsets(&receives), |from, index| {
                of(from * 64 + me, at, index)
            })?;
        }
    }
    Ok(())
}

/// Compares blocks that lie one after the other.
fn blocks<T: PartialEq + Debug>(
    what: &str,
    all: &[T],
    offsets: &[usize],
    of: impl Fn(u32, usize) -> T,
) -> Result<(), Failure> {
    for (ends, rank) in offsets.windows(2).zip(0..) {
        expect(what, &all[ends[0]..ends[1]], |index| of(rank, index))?;
    }
    Ok(())
}

/// Everybody sends to the next two ranks; tags and sources are asked for in another order.
async fn messages(comm: &Communicator, draw: &mut Draw) -> Result<(), Failure> {
    let (me, size, at) = (comm.rank(), comm.size(), draw.below(u64::MAX));
    if size < 3 {
        return Ok(comm.barrier().await?);
    }
    let count = draw.count();
    let of =
        |rank: u32, tag: u32| (0..count).map(|index| value(rank, at ^ u64::from(tag), index)).collect::<Vec<u64>>();
    let (near, far) = ((me + 1) % size, (me + 2) % size);
    let (first, second, third) = (of(me, 1), of(me, 2), of(me, 3));
    let sends = try_join3(comm.send(near, 1, &first), comm.send(near, 2, &second), comm.send(far, 3, &third));
    let (previous, before) = ((me + size - 1) % size, (me + size - 2) % size);
    let receives = async {
        let (mut any, mut tagged) = (vec![0; count], vec![0; count]);
        let message = comm.matched_probe(Source::Any, 3).await?;
        if (message.status().source, message.status().count) != (before, 8 * count) {
            return Err(Failure::Wrong(format!("probe says {:?}", message.status())));
        }
        let status = comm.recv(previous, 2, &mut tagged).await?;
        expect("recv by tag", &tagged, |index| value(previous, at ^ 2, index))?;
        message.recv(&mut any).await?;
        expect("matched probe", &any, |index| value(before, at ^ 3, index))?;
        let (left, last) = comm.recv_vec::<u64>(previous, Tag::Any).await?;
        expect("recv from a rank", &left, |index| value(previous, at ^ 1, index))?;
        if (status.tag, last.tag, last.count) != (2, 1, count) {
            return Err(Failure::Wrong(format!("statuses are {status:?} and {last:?}")));
        }
        Ok(())
    };
    let sends = async { sends.await.map_err(Failure::from) };
    try_join(sends, receives).await?;
    // Nobody runs ahead with a message that a receive from anywhere would take.
    Ok(comm.barrier().await?)
}

/// Operations of several communicators at once, and of one communicator several at once.
async fn communicators(comm: &Communicator, draw: &mut Draw) -> Result<(), Failure> {
    let (me, size, at) = (comm.rank(), comm.size(), draw.below(u64::MAX));
    let copy = comm.duplicate()?;
    let color = me % 3;
    let part = comm.split((color != 2).then_some(color), -i64::from(me)).await?;
    let count = draw.count();
    let own: Vec<u64> = (0..count).map(|index| value(me, at, index)).collect();
    let (mut there, mut here, mut bits) = (vec![0; count], vec![0; count], vec![0; count]);
    {
        let one = copy.allreduce(&own, &mut there, Sum);
        let two = comm.allreduce(&own, &mut bits, BitXor);
        let three = comm.barrier();
        let four = async {
            match &part {
                Some(part) => part.scan(&own, &mut here, Sum).await,
                None => Ok(()),
            }
        };
        // The last one first.
        try_join(try_join(four, three), try_join(two, one)).await?;
    }
    let all = |fold: fn(u64, u64) -> u64, ranks: &[u32], index: usize| {
        ranks.iter().fold(0, |sum, rank| fold(sum, value(*rank, at, index)))
    };
    let everybody: Vec<u32> = (0..size).collect();
    expect("allreduce on a duplicate", &there, |index| all(u64::wrapping_add, &everybody, index))?;
    expect("allreduce beside it", &bits, |index| all(|sum, next| sum ^ next, &everybody, index))?;
    if part.is_some() {
        // By falling rank, as the keys say.
        let up_to_me: Vec<u32> = (me..size).filter(|rank| rank % 3 == color).collect();
        expect("scan on a part", &here, |index| all(u64::wrapping_add, &up_to_me, index))?;
    }
    let even: Vec<u32> = (0..size).filter(|rank| rank % 2 == 0).collect();
    if let Some(made) = comm.create_group(&comm.group().include(&even), 5)? {
        let names = made.allgather_value(&format!("rank {me}")).await?;
        expect("allgather of values", &names, |index| format!("rank {}", even[index]))?;
    }
    Ok(())
}

/// What does not even associate has no reference; but all ranks get the same.
async fn agree_without_associativity(comm: &Communicator, draw: &mut Draw) -> Result<(), Failure> {
    let (count, at) = (draw.count(), draw.below(u64::MAX));
    let own: Vec<u64> = (0..count).map(|index| value(comm.rank(), at, index)).collect();
    let hash = |left: u64, right: u64| left.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ right;
    let mut result = vec![0; count];
    comm.allreduce(&own, &mut result, Custom::ordered(HASH, hash)).await?;
    let mut of_first = result.clone();
    comm.broadcast(&mut of_first, 0).await?;
    expect("allreduce without associativity", &result, |index| of_first[index])
}
