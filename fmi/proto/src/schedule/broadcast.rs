//! Broadcast. The buffer is [`Memory::Receive`] on all ranks.

use super::family::{Method, always, tally};
use super::{Algorithm, Memory, Problem, Relative, Schedule, Step, part, rounds_for, segments, subtree};

pub(super) const BROADCAST: &[Method] = &[
    Method {
        algorithm: Algorithm::Binomial,
        sparse: true,
        reproducible: true,
        admits: always,
        shape: |m| tally(m.log, m.log, m.others, m.log * m.block, m.others * m.block, 0.0),
        build: |problem, _, me| broadcast_binomial(me, problem.size, problem.root, problem.count),
    },
    Method {
        algorithm: Algorithm::Linear,
        sparse: false,
        reproducible: true,
        admits: always,
        shape: |m| tally(1.0, m.others, m.others, m.others * m.block, m.others * m.block, 0.0),
        build: |problem, _, me| broadcast_linear(me, problem.size, problem.root, problem.count),
    },
    Method {
        algorithm: Algorithm::ScatterAllgather,
        sparse: true,
        reproducible: true,
        admits: Problem::has_a_part_for_each,
        shape: |m| {
            let rounds = m.log + m.others;
            tally(rounds, rounds, 0.8 * m.ranks * m.ranks, 2.0 * m.block, m.others * m.block, 0.0)
        },
        build: |problem, _, me| broadcast_scatter_allgather(me, problem.size, problem.root, problem.count),
    },
    Method {
        algorithm: Algorithm::Chain,
        sparse: true,
        reproducible: true,
        admits: always,
        shape: |m| {
            let bytes = m.block + (m.others - 1.0) * m.fill;
            tally(m.others, m.pieces, m.others * m.pieces, bytes, m.others * m.block, 0.0)
        },
        build: |problem, segment, me| broadcast_chain(me, problem.size, problem.root, problem.count, segment),
    },
    Method {
        algorithm: Algorithm::Tree,
        sparse: false,
        reproducible: true,
        admits: always,
        shape: |m| {
            let depth = m.floor_log.max(1.0);
            let bytes = 2.0 * (m.block + (depth - 1.0) * m.fill);
            tally(depth, 2.0 * m.pieces, m.others * m.pieces, bytes, m.others * m.block, 0.0)
        },
        build: |problem, segment, me| broadcast_tree(me, problem.size, problem.root, problem.count, segment),
    },
];

const BUFFER: Memory = Memory::Receive;

/// The root sends to all others at once.
pub fn broadcast_linear(me: u32, size: u32, root: u32, count: usize) -> Schedule {
    let relative = Relative { size, root };
    let mut schedule = Schedule::default();
    if me == root {
        schedule.push((1..size).map(|other| Step::Send { to: relative.rank(other), data: BUFFER.at(0..count) }));
    } else {
        schedule.push([Step::Receive { from: root, into: BUFFER.at(0..count) }]);
    }
    schedule
}

/// Binomial-tree broadcast from `root`: at most ⌈log₂ `size`⌉ rounds, and every rank but the root
/// receives exactly once. A rank sends to all its children in one round, the largest subtree first.
pub fn broadcast_binomial(me: u32, size: u32, root: u32, count: usize) -> Schedule {
    let relative = Relative { size, root };
    let own = relative.of(me);
    let mut schedule = Schedule::default();
    if own != 0 {
        let parent = own & (own - 1);
        schedule.push([Step::Receive { from: relative.rank(parent), into: BUFFER.at(0..count) }]);
    }
    let below = if own == 0 { rounds_for(size) } else { own.trailing_zeros() };
    let children = (0..below).rev().map(|k| own + (1 << k)).filter(|child| *child < size);
    schedule.push(children.map(|child| Step::Send { to: relative.rank(child), data: BUFFER.at(0..count) }));
    schedule
}

/// Scatters the parts of the vector down a binomial tree, then circulates them (van de Geijn): every rank
/// moves about twice the vector, whatever the size.
pub fn broadcast_scatter_allgather(me: u32, size: u32, root: u32, count: usize) -> Schedule {
    let relative = Relative { size, root };
    let own = relative.of(me);
    let parts = |from: u32, to: u32| BUFFER.at(part(count, size, from).start..part(count, size, to - 1).end);
    let mut schedule = Schedule::default();
    let last = own + subtree(own, size);
    if own != 0 {
        schedule.push([Step::Receive { from: relative.rank(own & (own - 1)), into: parts(own, last) }]);
    }
    let below = if own == 0 { rounds_for(size) } else { own.trailing_zeros() };
    let children = (0..below).rev().map(|k| own + (1 << k)).filter(|child| *child < size);
    schedule.push(
        children.map(|child| Step::Send { to: relative.rank(child), data: parts(child, child + subtree(child, size)) }),
    );
    // Part r begins at relative rank r; a rank holds its subtree's parts already.
    let (next, previous) = ((own + 1) % size, (own + size - 1) % size);
    let holds = |rank: u32, piece: u32| (rank..rank + subtree(rank, size)).contains(&piece);
    for k in 0..size - 1 {
        let (give, take) = ((own + size - k) % size, (own + size - k - 1) % size);
        let sends = (!holds(next, give)).then(|| Step::Send { to: relative.rank(next), data: parts(give, give + 1) });
        let receives =
            (!holds(own, take)).then(|| Step::Receive { from: relative.rank(previous), into: parts(take, take + 1) });
        schedule.push(sends.into_iter().chain(receives));
    }
    schedule
}

/// Passes segments along a chain of all ranks, which works on all its links at once.
pub fn broadcast_chain(me: u32, size: u32, root: u32, count: usize, segment: usize) -> Schedule {
    let relative = Relative { size, root };
    let own = relative.of(me);
    let next = (own + 1 < size).then(|| relative.rank(own + 1));
    let previous = (own > 0).then(|| relative.rank(own - 1));
    pipeline(previous, next.as_slice(), count, segment)
}

/// Passes segments down a binary tree.
pub fn broadcast_tree(me: u32, size: u32, root: u32, count: usize, segment: usize) -> Schedule {
    let relative = Relative { size, root };
    let own = relative.of(me);
    let children: Vec<u32> = [2 * own + 1, 2 * own + 2]
        .into_iter()
        .filter(|child| *child < size)
        .map(|child| relative.rank(child))
        .collect();
    let parent = (own > 0).then(|| relative.rank((own - 1) / 2));
    pipeline(parent, &children, count, segment)
}

/// Receives segment k while it hands on segment k - 1.
fn pipeline(parent: Option<u32>, children: &[u32], count: usize, segment: usize) -> Schedule {
    let mut schedule = Schedule::default();
    let hand_on = |range: std::ops::Range<usize>| {
        children.iter().map(move |child| Step::Send { to: *child, data: BUFFER.at(range.clone()) })
    };
    let mut held = None;
    for range in segments(count, segment) {
        match parent {
            Some(parent) => {
                let receive = Step::Receive { from: parent, into: BUFFER.at(range.clone()) };
                schedule.push(held.replace(range).into_iter().flat_map(hand_on).chain([receive]));
            }
            None => schedule.push(hand_on(range)),
        }
    }
    schedule.push(held.into_iter().flat_map(hand_on));
    schedule
}
