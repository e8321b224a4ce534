//! Operations drawn from a number: every collective and message, with drawn counts, roots, types and operators,
//! against a sequential reference. All ranks draw alike.

use std::fmt::Debug;

use fmi::bytemuck::{cast_slice, cast_slice_mut, pod_read_unaligned};
use fmi::op::{BitXor, BuiltIn, Custom, Operator, Sum};
use fmi::{Communicator, Datatype, Element, Invocation, Operation, Source, Tag};
use fmi_proto::operation::{Class, Extent, Layout};
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
/// Messages of each rank to the one that takes whatever comes, and their tag.
const COMPETING: u64 = 3;
const COMPETING_TAG: u32 = 9;
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

    fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[usize::try_from(self.below(among.len() as u64)).expect("below their number")]
    }

    fn rank(&mut self, size: u32) -> u32 {
        u32::try_from(self.below(u64::from(size))).expect("below size")
    }
}

/// Runs the operations of step `number`.
pub(crate) async fn run(comm: &Communicator, number: u64) -> Result<(), Failure> {
    let mut draw = Draw(ChaCha8Rng::seed_from_u64(number));
    for _ in 0..OPERATIONS {
        match draw.below(8) {
            0 => collective(comm, &mut draw, value, (BuiltIn::Sum.into(), u64::wrapping_add)).await?,
            1 => {
                let affine = Operator::user(AFFINE, false, |left, right| {
                    by_words(left, right, compose);
                });
                collective(comm, &mut draw, value, (affine, compose)).await?;
            }
            2 => {
                let of = |rank, at, index| small(rank, at, index) as i16;
                collective(comm, &mut draw, of, (BuiltIn::Max.into(), i16::max)).await?;
            }
            3 => {
                // Small whole numbers add up exactly in any order.
                let of = |rank, at, index| f64::from(small(rank, at, index));
                collective(comm, &mut draw, of, (BuiltIn::Sum.into(), |left, right| left + right)).await?;
            }
            4 => {
                // The least value, and of several the first place: the order of pairs.
                let least = |left: [i64; 2], right: [i64; 2]| left.min(right);
                let of = |rank, at, index| [i64::from(small(rank, at, index)), i64::from(rank)];
                collective(comm, &mut draw, of, (BuiltIn::MinLoc.into(), least)).await?;
            }
            5 => {
                let of = |rank, at, index| value(rank, at, index).to_be_bytes();
                let hash = Operator::user(HASH, true, |left, right| {
                    left.iter().zip(right).for_each(|(left, right)| *right ^= left);
                });
                collective(comm, &mut draw, of, (hash, xor)).await?;
            }
            6 => messages(comm, &mut draw).await?,
            _ => communicators(comm, &mut draw).await?,
        }
    }
    agree_without_associativity(comm, &mut draw).await?;
    compete(comm, &mut draw).await
}

/// All ranks send several messages to one, which takes whatever comes: of each sender in order, and nothing twice.
async fn compete(comm: &Communicator, draw: &mut Draw) -> Result<(), Failure> {
    let (me, size, at) = (comm.rank(), comm.size(), draw.below(u64::MAX));
    let (receiver, count) = (draw.rank(size), draw.count());
    let of = |rank: u32, number: u64| move |index| value(rank, at ^ number, index);
    if me != receiver {
        for number in 0..COMPETING {
            let message: Vec<u64> = (0..count).map(of(me, number)).collect();
            comm.send(receiver, COMPETING_TAG, &message).await?;
        }
        return Ok(comm.barrier().await?);
    }
    let mut taken = vec![0; size as usize];
    for _ in 0..COMPETING * u64::from(size - 1) {
        let (message, status) = comm.recv_vec::<u64>(Source::Any, COMPETING_TAG).await?;
        let number = &mut taken[status.source as usize];
        expect("recv from competing senders", &message, of(status.source, *number))?;
        *number += 1;
    }
    if taken.iter().enumerate().any(|(rank, taken)| rank != receiver as usize && *taken != COMPETING) {
        return Err(Failure::Wrong(format!("{taken:?} messages came of {COMPETING} of each rank")));
    }
    // Nobody runs ahead with a message that a receive with any tag would take.
    Ok(comm.barrier().await?)
}

fn small(rank: u32, number: u64, index: usize) -> u16 {
    (value(rank, number, index) % 1000) as u16
}

/// Applies `combine` to each pair of numbers; the results replace the right ones.
fn by_words(left: &[u8], right: &mut [u8], combine: fn(u64, u64) -> u64) {
    for (left, right) in left.chunks_exact(8).zip(right.chunks_exact_mut(8)) {
        let word = |bytes: &[u8]| pod_read_unaligned::<u64>(bytes);
        right.copy_from_slice(&combine(word(left), word(right)).to_ne_bytes());
    }
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

/// One collective of the table, by value, in one or two buffers, against its definition.
async fn collective<T: Element + PartialEq + Debug>(
    comm: &Communicator,
    draw: &mut Draw,
    of: impl Fn(u32, u64, usize) -> T,
    (operator, combine): (Operator, impl Fn(T, T) -> T),
) -> Result<(), Failure> {
    let (me, size, at) = (comm.rank(), comm.size(), draw.below(u64::MAX));
    let known: Vec<Operation> = Operation::ALL.iter().copied().filter(|known| is_drawn(*known)).collect();
    let (count, root, operation) = (draw.count(), draw.rank(size), draw.pick(&known));
    let moves = operation.moves().expect("it moves data");
    let in_place = draw.below(2) == 0 && moves.in_place;
    let counts: Vec<usize> = (0..size).map(|_| draw.count() / size as usize).collect();
    let share = if moves.send == Extent::All || moves.receive == Extent::All { count / size as usize } else { count };
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others have blocks of one length")]
    let length = |from: u32, to: u32| match operation {
        // As many as all draw for the pair; in place, as many in both directions.
        Operation::Alltoallv => {
            let pair = if in_place { (from.min(to), from.max(to)) } else { (from, to) };
            usize::try_from((at ^ u64::from(pair.0 * 31 + pair.1)) % 50).expect("small")
        }
        Operation::Gatherv | Operation::Allgatherv => counts[from as usize],
        Operation::Scatterv | Operation::ReduceScatter => counts[to as usize],
        _ => share,
    };
    let layout = Layout { size, root, length: &length };
    let (sent, received) = layout.buffers(operation, me);
    let send: Vec<T> = (0..sent).map(|index| of(me, at, index)).collect();
    let (length_of_all, own_at, result_at) = if in_place { layout.in_place(operation, me) } else { (received, 0, 0) };
    let mut result = vec![T::zeroed(); length_of_all];
    if in_place {
        result[own_at..own_at + sent].copy_from_slice(&send);
    } else if operation == Operation::Broadcast && me == root {
        result = (0..received).map(|index| of(me, at, index)).collect();
    }
    let before = result.clone();
    let to: Vec<usize> = (0..size).map(|other| length(me, other)).collect();
    let by_block = operation == Operation::ReduceScatter;
    let from: Vec<usize> =
        (0..size).map(|other| if by_block { to[other as usize] } else { length(other, me) }).collect();
    let mut call = Invocation::new(operation, Datatype::of::<T>()).root(root);
    if moves.combined {
        call = call.operator(operator);
    }
    if moves.counted {
        let sends = operation == Operation::Scatterv || operation == Operation::Alltoallv && !in_place;
        call = call.send_counts(if sends { &to } else { &[] });
        call = call.receive_counts(if operation == Operation::Scatterv { &[] } else { &from });
    }
    if in_place {
        comm.invoke(call.in_place(cast_slice_mut(&mut result))).await?;
    } else {
        comm.invoke(call.send(cast_slice(&send)).receive(cast_slice_mut(&mut result))).await?;
    }
    let got = &result[result_at..result_at + received];
    let what = if in_place { format!("{operation} in place") } else { operation.to_string() };
    expect(&what, got, |index| match operation.origin(&layout, me, index) {
        Some(origin) => {
            let mut parts = origin.ranks.map(|rank| of(rank, at, origin.index));
            let first = parts.next().expect("at least one rank");
            parts.fold(first, &combine)
        }
        // Kept as it was.
        None => before[result_at + index],
    })
}

/// Whether an operation is a collective that is given data.
fn is_drawn(operation: Operation) -> bool {
    operation.class() == Class::Collective && operation.moves().is_some()
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
