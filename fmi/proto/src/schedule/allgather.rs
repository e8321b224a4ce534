//! Gather to all ranks. This rank's block lies at the start of [`Memory::Send`], or, in place, where it belongs
//! in [`Memory::Receive`].

use std::ops::Range;

use super::family::{Measures, Method, always, tally};
use super::{Algorithm, Memory, Schedule, Span, Step, broadcast_binomial, gather_binomial};
use crate::model::Shape;

pub(super) const ALLGATHER: &[Method] = &[
    Method {
        algorithm: Algorithm::Bruck,
        sparse: true,
        reproducible: true,
        admits: always,
        shape: |m| to_all(m, m.log, m.ranks * m.block),
        build: |problem, _, me| allgather_bruck(me, problem.size, problem.count, problem.in_place),
    },
    Method {
        algorithm: Algorithm::Ring,
        sparse: true,
        reproducible: true,
        admits: always,
        shape: |m| to_all(m, m.others, 0.0),
        build: |problem, _, me| allgather_ring(me, problem.size, problem.in_place, problem.equal_blocks()),
    },
    Method {
        algorithm: Algorithm::Linear,
        sparse: false,
        reproducible: true,
        admits: always,
        shape: |m| Shape { rounds: 1.0, ..to_all(m, m.others, 0.0) },
        build: |problem, _, me| allgather_linear(me, problem.size, problem.in_place, problem.equal_blocks()),
    },
    Method {
        algorithm: Algorithm::Tree,
        sparse: true,
        reproducible: true,
        admits: always,
        shape: |m| {
            let (all, up) = (m.ranks * m.block, m.ranks / 2.0 * m.log * m.block);
            let moved = up + m.others * m.ranks * m.block;
            tally(2.0 * m.log, m.log, 2.0 * m.others, m.log * m.ranks * m.block, moved, all / 2.0)
        },
        build: |problem, _, me| allgather_tree(me, problem.size, problem.count, problem.in_place),
    },
];

/// As many messages as rounds, in which each block moves to each other rank once.
fn to_all(m: &Measures, rounds: f64, combined: f64) -> Shape {
    tally(rounds, rounds, m.ranks * rounds, m.others * m.block, m.ranks * m.others * m.block, combined)
}

/// Where this rank's block lies.
fn own(me: u32, in_place: bool, block: &impl Fn(u32) -> Range<usize>) -> Span {
    let range = block(me);
    if in_place { Memory::Receive.at(range) } else { Memory::Send.at(0..range.len()) }
}

/// Every rank sends its block to all others at once.
pub fn allgather_linear(me: u32, size: u32, in_place: bool, block: impl Fn(u32) -> Range<usize>) -> Schedule {
    let mut schedule = Schedule::default();
    let mine = own(me, in_place, &block);
    let others = (1..size).map(|distance| (me + distance) % size);
    let sends = others.map(|to| Step::Send { to, data: mine });
    let others = (1..size).map(|distance| (me + size - distance) % size);
    let receives = others.map(|from| Step::Receive { from, into: Memory::Receive.at(block(from)) });
    let copy = Step::Copy { data: mine, into: Memory::Receive.at(block(me)) };
    schedule.push(sends.chain(receives).chain([copy]));
    schedule
}

/// Blocks go round a ring: `size` - 1 rounds, in each of which every rank sends and receives one.
pub fn allgather_ring(me: u32, size: u32, in_place: bool, block: impl Fn(u32) -> Range<usize>) -> Schedule {
    let mut schedule = Schedule::default();
    let (next, previous) = ((me + 1) % size, (me + size - 1) % size);
    let mine = own(me, in_place, &block);
    let copy = Step::Copy { data: mine, into: Memory::Receive.at(block(me)) };
    for k in 0..size - 1 {
        let (give, take) = ((me + size - k) % size, (me + size - k - 1) % size);
        let data = if k == 0 { mine } else { Memory::Receive.at(block(give)) };
        let transfers =
            [Step::Send { to: next, data }, Step::Receive { from: previous, into: Memory::Receive.at(block(take)) }];
        schedule.push(transfers.into_iter().chain((k == 0).then_some(copy)));
    }
    if size == 1 {
        schedule.push([copy]);
    }
    schedule
}

/// Bruck's algorithm: ⌈log₂ `size`⌉ rounds for any size; what a rank holds doubles in each. Blocks of `count`
/// elements are collected in work memory, this rank's first, and put in order at the end.
pub fn allgather_bruck(me: u32, size: u32, count: usize, in_place: bool) -> Schedule {
    let mut schedule = Schedule { work: size as usize * count, ..Schedule::default() };
    let mine = own(me, in_place, &|rank| rank as usize * count..(rank as usize + 1) * count);
    let held = |blocks: Range<u32>| Memory::Work.at(blocks.start as usize * count..blocks.end as usize * count);
    schedule.push([Step::Copy { data: mine, into: held(0..1) }]);
    let mut distance = 1;
    while distance < size {
        let blocks = distance.min(size - distance);
        schedule.push([
            Step::Send { to: (me + size - distance) % size, data: held(0..blocks) },
            Step::Receive { from: (me + distance) % size, into: held(distance..distance + blocks) },
        ]);
        distance *= 2;
    }
    // Block k of work memory is that of rank me + k.
    let wrap = size - me;
    let at = |blocks: Range<u32>| Memory::Receive.at(blocks.start as usize * count..blocks.end as usize * count);
    schedule.push([
        Step::Copy { data: held(0..wrap), into: at(me..size) },
        Step::Copy { data: held(wrap..size), into: at(0..me) },
    ]);
    schedule
}

/// Up a binomial tree to rank 0 and down again: `2 (size - 1)` messages in all, the fewest possible.
pub fn allgather_tree(me: u32, size: u32, count: usize, in_place: bool) -> Schedule {
    let mut schedule = gather_binomial(me, size, 0, count, in_place);
    if in_place && me != 0 {
        // The own block is read where it belongs.
        let first = me as usize * count;
        for step in schedule.rounds.iter_mut().flatten() {
            if let Step::Send { data, .. } | Step::Copy { data, .. } = step
                && data.memory == Memory::Send
            {
                *data = Memory::Receive.at(first..first + count);
            }
        }
    }
    schedule.rounds.extend(broadcast_binomial(me, size, 0, size as usize * count).rounds);
    schedule
}
