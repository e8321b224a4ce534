//! Reduce to all ranks. Each rank's own vector lies in `source`, the result goes to [`Memory::Receive`]; if
//! both are the same memory, it works in place.

use super::family::{Method, always, tally};
use super::fold::{Fold, balanced};
use super::{Algorithm, Memory, Problem, Schedule, Side, Step, broadcast_binomial, part};

pub(super) const ALLREDUCE: &[Method] = &[
    Method {
        algorithm: Algorithm::RecursiveDoubling,
        sparse: true,
        reproducible: true,
        admits: always,
        shape: |m| {
            let (rounds, messages) = (m.floor_log + m.folds, m.folded * m.floor_log + 2.0 * m.surplus);
            tally(rounds + m.folds, rounds, messages, rounds * m.block, messages * m.block, rounds * m.block)
        },
        build: |problem, _, me| allreduce_recursive_doubling(me, problem.size, problem.count, problem.source()),
    },
    Method {
        algorithm: Algorithm::Tree,
        sparse: true,
        reproducible: true,
        admits: always,
        shape: |m| {
            let (rounds, messages) = (2.0 * m.log, 2.0 * m.others);
            tally(rounds, rounds, messages, rounds * m.block, messages * m.block, m.log * m.block)
        },
        build: |problem, _, me| allreduce_tree(me, problem.size, problem.count, problem.source()),
    },
    Method {
        algorithm: Algorithm::Halving,
        sparse: true,
        reproducible: true,
        admits: Problem::has_a_part_for_each,
        shape: |m| {
            let rounds = 2.0 * (m.floor_log + m.folds);
            let messages = 2.0 * m.folded * m.floor_log + 2.0 * m.surplus;
            let moved = 2.0 * (m.folded - 1.0) * m.block + 2.0 * m.surplus * m.block;
            let bytes = (2.0 + m.folds) * m.block;
            tally(rounds, rounds - m.folds, messages, bytes, moved, (1.0 + m.folds) * m.block)
        },
        build: |problem, _, me| allreduce_halving(me, problem.size, problem.count, problem.source()),
    },
    Method {
        algorithm: Algorithm::Ring,
        sparse: true,
        reproducible: false,
        admits: |problem| problem.commutative && problem.has_a_part_for_each(),
        shape: |m| {
            let (rounds, share) = (2.0 * m.others, 2.0 * m.others / m.ranks * m.block);
            tally(rounds, rounds, m.ranks * rounds, share, m.ranks * share, m.block)
        },
        build: |problem, _, me| allreduce_ring(me, problem.size, problem.count, problem.source()),
    },
];

const RESULT: Memory = Memory::Receive;

/// Recursive doubling: ⌊log₂ `size`⌋ rounds (and two for folding), each with the whole vector.
/// Fewest rounds; for short vectors.
pub fn allreduce_recursive_doubling(me: u32, size: u32, count: usize, source: Memory) -> Schedule {
    let fold = Fold::new(me, size);
    let mut schedule = Schedule::default();
    let mut held = fold.before(&mut schedule, me, count, source, RESULT);
    let into = RESULT.at(0..count);
    if let Some(number) = fold.number {
        for k in 0..fold.log {
            let other = number ^ (1 << k);
            let side = if other < number { Side::Left } else { Side::Right };
            let (peer, own) = (fold.rank(other), held.at(0..count));
            schedule.push([Step::Send { to: peer, data: own }, Step::Reduce { from: peer, own, into, side }]);
            held = RESULT;
        }
        schedule.push([Step::Copy { data: held.at(0..count), into }]);
    }
    fold.after(&mut schedule, me, count);
    schedule
}

/// Rabenseifner's algorithm with vector halving and distance doubling: reduce-scatter, then
/// allgather back along the same pairs. Every rank moves about twice the vector, whatever the size;
/// for long vectors.
pub fn allreduce_halving(me: u32, size: u32, count: usize, source: Memory) -> Schedule {
    let fold = Fold::new(me, size);
    let mut schedule = Schedule::default();
    fold.halve(&mut schedule, me, count, source, RESULT);
    if let Some(number) = fold.number {
        for k in (0..fold.log).rev() {
            let other = number ^ (1 << k);
            let peer = fold.rank(other);
            // Before the k-th halving both held the same range, of which each now has its half.
            let shorter = Fold { log: k + 1, surplus: fold.surplus, number: fold.number };
            let (own, theirs) = (shorter.kept(number, count), shorter.kept(other, count));
            schedule.push([
                Step::Send { to: peer, data: RESULT.at(own) },
                Step::Receive { from: peer, into: RESULT.at(theirs) },
            ]);
        }
    }
    fold.after(&mut schedule, me, count);
    schedule
}

/// Parts of the vector go round a ring twice: combined on the way, then handed out. Each rank moves
/// `2 (size - 1) / size` of the vector, the least possible; for operators that commute.
pub fn allreduce_ring(me: u32, size: u32, count: usize, source: Memory) -> Schedule {
    let mut schedule = Schedule::default();
    let (next, previous) = ((me + 1) % size, (me + size - 1) % size);
    let piece = |index: u32| part(count, size, index % size);
    for k in 0..size - 1 {
        let (give, take) = (piece(me + size - k), piece(me + size - k - 1));
        let held = if k == 0 { source } else { RESULT };
        schedule.push([
            Step::Send { to: next, data: held.at(give) },
            Step::Reduce { from: previous, own: source.at(take.clone()), into: RESULT.at(take), side: Side::Left },
        ]);
    }
    for k in 0..size - 1 {
        let (give, take) = (piece(me + 1 + size - k), piece(me + size - k));
        schedule.push([
            Step::Send { to: next, data: RESULT.at(give) },
            Step::Receive { from: previous, into: RESULT.at(take) },
        ]);
    }
    if size == 1 {
        schedule.push([Step::Copy { data: source.at(0..count), into: RESULT.at(0..count) }]);
    }
    schedule
}

/// Up a tree to rank 0 in the balanced order, and down a binomial one: `2 (size - 1)` messages in all, the fewest
/// possible. Keeps the order of ranks.
pub fn allreduce_tree(me: u32, size: u32, count: usize, source: Memory) -> Schedule {
    // The receive buffer is every rank's to use here.
    let mut schedule = balanced(me, size, count, source, RESULT);
    schedule.rounds.extend(broadcast_binomial(me, size, 0, count).rounds);
    schedule
}
