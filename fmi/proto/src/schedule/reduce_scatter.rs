//! Reduce, and scatter the result. Each rank's own vector lies in `source`, its block of the result goes to the
//! start of [`Memory::Receive`].

use std::ops::Range;

use super::family::{Method, tally};
use super::fold::{Fold, balanced};
use super::{Algorithm, Memory, Problem, Schedule, Side, Step, offsets};

pub(super) const REDUCE_SCATTER: &[Method] = &[
    Method {
        algorithm: Algorithm::Halving,
        sparse: true,
        reproducible: false,
        admits: |problem| problem.commutative,
        shape: |m| {
            let (total, rounds) = (m.ranks * m.block, m.floor_log + m.folds);
            let moved = (m.folded - 1.0) * total + m.surplus * (total + m.block);
            let messages = m.folded * m.floor_log + 2.0 * m.surplus;
            let bytes = (1.0 + m.folds) * total;
            tally(rounds + m.folds, rounds, messages, bytes, moved, bytes)
        },
        build: |problem, _, me| build_equal(Algorithm::Halving, problem, me),
    },
    Method {
        algorithm: Algorithm::Pairwise,
        sparse: false,
        reproducible: false,
        admits: |problem| problem.commutative,
        shape: |m| {
            let (messages, bytes) = (m.ranks * m.others, m.others * m.block);
            tally(m.others, m.others, messages, bytes, m.ranks * m.others * m.block, bytes)
        },
        build: |problem, _, me| build_equal(Algorithm::Pairwise, problem, me),
    },
    Method {
        algorithm: Algorithm::Ordered,
        sparse: true,
        reproducible: true,
        admits: |problem| !problem.commutative || problem.reproducible,
        shape: |m| {
            let total = m.ranks * m.block;
            let bytes = m.log * total;
            tally(m.log + 1.0, m.others, 2.0 * m.others, bytes, m.others * (total + m.block), bytes)
        },
        build: |problem, _, me| build_equal(Algorithm::Ordered, problem, me),
    },
];

fn build_equal(algorithm: Algorithm, problem: &Problem, me: u32) -> Schedule {
    let offsets = offsets(&vec![problem.count; problem.size as usize]);
    reduce_scatter(algorithm, me, problem.size, &offsets, problem.source())
}

/// By `algorithm`, for blocks of any lengths, which lie between `offsets`.
pub fn reduce_scatter(algorithm: Algorithm, me: u32, size: u32, offsets: &[usize], source: Memory) -> Schedule {
    if algorithm == Algorithm::Halving {
        reduce_scatter_halving(me, size, offsets, source)
    } else if algorithm == Algorithm::Pairwise {
        reduce_scatter_pairwise(me, size, offsets, source)
    } else {
        reduce_scatter_ordered(me, size, offsets, source)
    }
}

/// Recursive halving: ⌊log₂ `size`⌋ rounds (and two for folding), in which a rank sends half of what it
/// still holds. For operators that commute.
pub fn reduce_scatter_halving(me: u32, size: u32, offsets: &[usize], source: Memory) -> Schedule {
    let total = offsets[size as usize];
    let fold = Fold::new(me, size);
    let mut schedule = Schedule { work: total, ..Schedule::default() };
    let own_block = offsets[me as usize]..offsets[me as usize + 1];
    let result = Memory::Receive.at(0..own_block.len());
    let Some(number) = fold.number else {
        schedule.push([Step::Send { to: me - 1, data: source.at(0..total) }]);
        schedule.push([Step::Receive { from: me - 1, into: result }]);
        return schedule;
    };
    let folded = fold.represents(number).len() == 2;
    let mut held = source;
    if folded {
        let (own, into) = (source.at(0..total), Memory::Work.at(0..total));
        schedule.push([Step::Reduce { from: me + 1, own, into, side: Side::Right }]);
        held = Memory::Work;
    }
    let blocks = |numbers: Range<u32>| {
        let (first, last) = (fold.represents(numbers.start).start, fold.represents(numbers.end - 1).end);
        offsets[first as usize]..offsets[last as usize]
    };
    let mut numbers = 0..1 << fold.log;
    for k in (0..fold.log).rev() {
        let other = number ^ (1 << k);
        let middle = numbers.start + (1 << k);
        let (lower, upper) = (numbers.start..middle, middle..numbers.end);
        let (keep, give, side) = if other < number { (upper, lower, Side::Left) } else { (lower, upper, Side::Right) };
        let (peer, kept) = (fold.rank(other), blocks(keep.clone()));
        schedule.push([
            Step::Send { to: peer, data: held.at(blocks(give)) },
            Step::Reduce { from: peer, own: held.at(kept.clone()), into: Memory::Work.at(kept), side },
        ]);
        (numbers, held) = (keep, Memory::Work);
    }
    let hand_back = folded.then(|| {
        let theirs = me as usize + 1;
        Step::Send { to: me + 1, data: held.at(offsets[theirs]..offsets[theirs + 1]) }
    });
    schedule.push(hand_back.into_iter().chain([Step::Copy { data: held.at(own_block), into: result }]));
    schedule
}

/// `size` - 1 rounds; in round k every rank sends its part of the block of the rank k above, and combines
/// what the rank k below sends. The least possible is moved; for operators that commute.
pub fn reduce_scatter_pairwise(me: u32, size: u32, offsets: &[usize], source: Memory) -> Schedule {
    let mut schedule = Schedule::default();
    let block = |rank: u32| offsets[rank as usize]..offsets[rank as usize + 1];
    let own = block(me);
    let result = Memory::Receive.at(0..own.len());
    // In place, the receive buffer still holds what is to be sent.
    let into = if source == Memory::Receive { Memory::Work.at(0..own.len()) } else { result };
    schedule.work = if source == Memory::Receive { own.len() } else { 0 };
    let mut held = source.at(own);
    for distance in 1..size {
        let (to, from) = ((me + distance) % size, (me + size - distance) % size);
        schedule.push([
            Step::Send { to, data: source.at(block(to)) },
            Step::Reduce { from, own: held, into, side: Side::Left },
        ]);
        held = into;
    }
    schedule.push([Step::Copy { data: held, into: result }]);
    schedule
}

/// Reduces to rank 0 in rank order, and scatters the blocks from there.
pub fn reduce_scatter_ordered(me: u32, size: u32, offsets: &[usize], source: Memory) -> Schedule {
    let total = offsets[size as usize];
    let mut schedule = balanced(me, size, total, source, Memory::Work);
    let block = |rank: u32| offsets[rank as usize]..offsets[rank as usize + 1];
    let result = Memory::Receive.at(0..block(me).len());
    if me == 0 {
        schedule.work = total;
        let sends = (1..size).map(|to| Step::Send { to, data: Memory::Work.at(block(to)) });
        schedule.push(sends.chain([Step::Copy { data: Memory::Work.at(block(0)), into: result }]));
    } else {
        schedule.push([Step::Receive { from: 0, into: result }]);
    }
    schedule
}
