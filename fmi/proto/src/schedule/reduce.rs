//! Reduce to one root. Each rank's own vector lies in `source`, which is the receive buffer only for a root
//! that works in place; the result goes to [`Memory::Receive`] of the root, and others collect in
//! [`Memory::Work`].

use super::family::{Measures, Method, always, tally};
use super::fold::{Fold, balanced, binomial};
use super::{Algorithm, Memory, Relative, Schedule, Side, Step, segments};
use crate::model::Shape;

pub(super) const REDUCE: &[Method] = &[
    Method {
        algorithm: Algorithm::Binomial,
        sparse: true,
        reproducible: false,
        admits: |problem| problem.commutative,
        shape: |m| up_a_tree(m, 0.0),
        build: |problem, _, me| reduce_binomial(me, problem.size, problem.root, problem.count, problem.source()),
    },
    Method {
        algorithm: Algorithm::Ordered,
        sparse: true,
        reproducible: true,
        admits: |problem| !problem.commutative || problem.reproducible,
        shape: |m| up_a_tree(m, m.at_other_root),
        build: |problem, _, me| reduce_ordered(me, problem.size, problem.root, problem.count, problem.source()),
    },
    Method {
        algorithm: Algorithm::Linear,
        sparse: false,
        reproducible: false,
        admits: always,
        shape: |m| {
            let bytes = m.others * m.block;
            tally(1.0, m.others, m.others, bytes, bytes, bytes)
        },
        build: |problem, _, me| reduce_linear(me, problem.size, problem.root, problem.count, problem.source()),
    },
    Method {
        algorithm: Algorithm::Chain,
        sparse: true,
        reproducible: false,
        admits: always,
        shape: |m| {
            let (hops, both) = (m.others + m.at_other_root, 1.0 + m.at_other_root);
            let bytes = both * m.block + (hops - 1.0) * m.fill;
            tally(hops, both * m.pieces, hops * m.pieces, bytes, hops * m.block, m.block)
        },
        build: |problem, segment, me| {
            reduce_chain(me, problem.size, problem.root, problem.count, segment, problem.source())
        },
    },
    Method {
        algorithm: Algorithm::Halving,
        sparse: false,
        reproducible: true,
        admits: |problem| problem.commutative && problem.has_a_part_for_each(),
        shape: |m| {
            let rounds = 2.0 * m.floor_log + m.folds + 1.0;
            let moved = m.folded * (1.0 - 1.0 / m.folded) * m.block + m.surplus * m.block + m.block;
            let messages = m.folded * m.floor_log + m.surplus + m.folded;
            tally(rounds, m.floor_log + m.folded, messages, 2.0 * m.block, moved, m.block)
        },
        build: |problem, _, me| reduce_halving(me, problem.size, problem.root, problem.count, problem.source()),
    },
];

/// Up a binomial tree, with `extra` transfers to the root at the end.
fn up_a_tree(m: &Measures, extra: f64) -> Shape {
    let messages = m.others + extra;
    tally(m.log + extra, m.log, messages, m.log * m.block, messages * m.block, m.log * m.block)
}

/// Where a rank collects, and how much of it is work memory.
fn collector(is_root: bool, count: usize) -> (Memory, usize) {
    if is_root { (Memory::Receive, 0) } else { (Memory::Work, count) }
}

/// All others send to the root at once, which combines in rank order.
pub fn reduce_linear(me: u32, size: u32, root: u32, count: usize, source: Memory) -> Schedule {
    let mut schedule = Schedule::default();
    if me != root {
        schedule.push([Step::Send { to: root, data: source.at(0..count) }]);
        return schedule;
    }
    let into = Memory::Receive.at(0..count);
    let mut own = source.at(0..count);
    // Nearest ranks first, on each side, so that the order is kept.
    let (below, above) = ((0..root).rev(), root + 1..size);
    let below = below.map(|from| (from, Side::Left));
    for (from, side) in below.chain(above.map(|from| (from, Side::Right))) {
        schedule.push([Step::Reduce { from, own, into, side }]);
        own = into;
    }
    if size == 1 {
        schedule.push([Step::Copy { data: own, into }]);
    }
    schedule
}

/// Binomial-tree reduce to `root` for operators that commute: at most ⌈log₂ `size`⌉ rounds, and
/// every rank but the root sends exactly once.
pub fn reduce_binomial(me: u32, size: u32, root: u32, count: usize, source: Memory) -> Schedule {
    binomial(me, Relative { size, root }, count, source, collector(me == root, count).0)
}

/// Reduce in rank order: a tree towards rank 0, in which every rank holds the result of an unbroken range of ranks
/// in the balanced order, and one more transfer if `root` is another.
pub fn reduce_ordered(me: u32, size: u32, root: u32, count: usize, source: Memory) -> Schedule {
    let (memory, work) = collector(me == root && root == 0, count);
    let mut schedule = balanced(me, size, count, source, memory);
    if root != 0 && me == 0 {
        schedule.push([Step::Send { to: root, data: memory.at(0..count) }]);
        schedule.work = work;
    } else if root != 0 && me == root {
        schedule.push([Step::Receive { from: 0, into: Memory::Receive.at(0..count) }]);
    }
    schedule
}

/// Passes segments along a chain towards the root, combined on the way; keeps the order if the root is at
/// an end of it, so for others the chain ends at rank 0 and hands on.
pub fn reduce_chain(me: u32, size: u32, root: u32, count: usize, segment: usize, source: Memory) -> Schedule {
    // From the highest rank down to 0, each combining from the left; then to the root.
    let mut schedule = Schedule::default();
    let is_end = me == 0 && root != 0;
    let (memory, work) = collector(me == root && root == 0, count);
    let from = (me + 1 < size).then_some(me + 1);
    let to = if me > 0 { Some(me - 1) } else { is_end.then_some(root) };
    let mut held = None;
    for range in segments(count, segment) {
        let own = source.at(range.clone());
        let into = memory.at(range.clone());
        let receive = from.map(|from| Step::Reduce { from, own, into, side: Side::Right });
        let send = match (&receive, to) {
            (None, Some(to)) => Some(Step::Send { to, data: own }),
            (Some(_), Some(to)) => held.replace(into).map(|data| Step::Send { to, data }),
            (_, None) => None,
        };
        schedule.push(send.into_iter().chain(receive));
        if from.is_some() && memory == Memory::Work {
            schedule.work = work;
        }
    }
    if let (Some(to), Some(data)) = (to, held) {
        schedule.push([Step::Send { to, data }]);
    }
    if me == root && root != 0 {
        for range in segments(count, segment) {
            schedule.push([Step::Receive { from: 0, into: Memory::Receive.at(range) }]);
        }
    }
    if size == 1 {
        schedule.push([Step::Copy { data: source.at(0..count), into: Memory::Receive.at(0..count) }]);
    }
    schedule
}

/// Halves the vector as Rabenseifner's allreduce does, then gathers the parts at the root.
pub fn reduce_halving(me: u32, size: u32, root: u32, count: usize, source: Memory) -> Schedule {
    if size == 1 {
        return reduce_linear(me, size, root, count, source);
    }
    let fold = Fold::new(me, size);
    let (memory, work) = collector(me == root, count);
    let mut schedule = Schedule { work, ..Schedule::default() };
    // A root that hands its vector on gets the parts directly at the end.
    let kept = fold.halve(&mut schedule, me, count, source, memory);
    let all = 0..1 << fold.log;
    let holder = |number: u32| fold.rank(number);
    if let Some(kept) = kept {
        if me != root {
            schedule.push([Step::Send { to: root, data: memory.at(kept) }]);
        } else {
            let others = all.filter(|number| holder(*number) != me);
            schedule.push(others.map(|number| Step::Receive {
                from: holder(number),
                into: Memory::Receive.at(fold.kept(number, count)),
            }));
        }
    } else if me == root {
        schedule.push(
            all.map(|number| Step::Receive {
                from: holder(number),
                into: Memory::Receive.at(fold.kept(number, count)),
            }),
        );
    }
    schedule
}
