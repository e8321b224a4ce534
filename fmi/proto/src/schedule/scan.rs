//! Prefix reductions, in rank order. Each rank's own vector lies in `source`, the result goes to
//! [`Memory::Receive`]; of an exclusive scan rank 0 gets none.

use super::family::{Measures, Method, always, tally};
use super::{Algorithm, Memory, Schedule, Side, Step, rounds_for, segments};
use crate::model::Shape;

pub(super) const SCAN: &[Method] = &[
    Method {
        algorithm: Algorithm::RecursiveDoubling,
        sparse: true,
        reproducible: true,
        admits: always,
        shape: |m| {
            let messages = doublings(m.size);
            tally(m.log, m.log, messages, m.log * m.block, messages * m.block, m.log * m.block)
        },
        build: |problem, _, me| scan_recursive_doubling(me, problem.size, problem.count, problem.source(), false),
    },
    Method {
        algorithm: Algorithm::Chain,
        sparse: true,
        reproducible: false,
        admits: always,
        shape: along_a_chain,
        build: |problem, segment, me| scan_chain(me, problem.size, problem.count, segment, problem.source(), false),
    },
];

pub(super) const EXSCAN: &[Method] = &[
    Method {
        algorithm: Algorithm::RecursiveDoubling,
        sparse: true,
        reproducible: true,
        admits: always,
        shape: |m| {
            let inner = (m.size - 1).max(1);
            let (rounds, messages) = (f64::from(rounds_for(inner)), doublings(inner) + m.others);
            let all = rounds + 1.0;
            tally(all, all, messages, all * m.block, messages * m.block, rounds * m.block)
        },
        build: |problem, _, me| scan_recursive_doubling(me, problem.size, problem.count, problem.source(), true),
    },
    Method {
        algorithm: Algorithm::Chain,
        sparse: true,
        reproducible: false,
        admits: always,
        shape: along_a_chain,
        build: |problem, segment, me| scan_chain(me, problem.size, problem.count, segment, problem.source(), true),
    },
];

/// Messages of recursive doubling without a wrap.
fn doublings(size: u32) -> f64 {
    (0..rounds_for(size)).map(|k| f64::from(size - (1 << k))).sum()
}

fn along_a_chain(m: &Measures) -> Shape {
    let bytes = m.block + (m.others - 1.0) * m.fill;
    tally(m.others, m.pieces, m.others * m.pieces, bytes, m.others * m.block, m.block)
}

const RESULT: Memory = Memory::Receive;

/// Recursive doubling: ⌈log₂ `size`⌉ rounds; after round k a rank holds the combination of the 2ᵏ⁺¹ ranks up
/// to it. An exclusive scan first moves every vector up by one rank.
pub fn scan_recursive_doubling(me: u32, size: u32, count: usize, source: Memory, exclusive: bool) -> Schedule {
    let mut schedule = Schedule::default();
    let mut held = source.at(0..count);
    let into = RESULT.at(0..count);
    // The lowest rank that takes part, and the rank counted from there.
    let lowest = u32::from(exclusive);
    if exclusive {
        let send = (me + 1 < size).then_some(Step::Send { to: me + 1, data: held });
        let receive = (me > 0).then(|| Step::Receive { from: me - 1, into });
        schedule.push(send.into_iter().chain(receive));
        if me == 0 {
            return schedule;
        }
        held = into;
    }
    for k in 0..rounds_for(size - lowest) {
        let distance = 1 << k;
        let send = (me + distance < size).then_some(Step::Send { to: me + distance, data: held });
        let receive =
            (me - lowest >= distance).then(|| Step::Reduce { from: me - distance, own: held, into, side: Side::Left });
        let receives = receive.is_some();
        schedule.push(send.into_iter().chain(receive));
        if receives {
            held = into;
        }
    }
    schedule.push([Step::Copy { data: held, into }]);
    schedule
}

/// Passes segments up the ranks, combined on the way.
pub fn scan_chain(me: u32, size: u32, count: usize, segment: usize, source: Memory, exclusive: bool) -> Schedule {
    let mut schedule = Schedule::default();
    let (next, previous) = ((me + 1 < size).then_some(me + 1), me.checked_sub(1));
    // What goes on is the inclusive result, which an exclusive scan keeps in work memory.
    let onwards = if exclusive && me > 0 { Memory::Work } else { RESULT };
    if exclusive && me > 0 && next.is_some() {
        schedule.work = count;
        schedule.push([Step::Copy { data: source.at(0..count), into: onwards.at(0..count) }]);
    }
    let mut held = None;
    for range in segments(count, segment) {
        let (own, result) = (source.at(range.clone()), RESULT.at(range.clone()));
        let Some(from) = previous else {
            let copy = (!exclusive).then_some(Step::Copy { data: own, into: result });
            schedule.push(next.map(|to| Step::Send { to, data: own }).into_iter().chain(copy));
            continue;
        };
        let send = next.zip(held.replace(range.clone())).map(|(to, range)| Step::Send { to, data: onwards.at(range) });
        if exclusive {
            let combine = next.map(|_| Step::Combine { other: result, into: onwards.at(range), side: Side::Left });
            schedule.push(send.into_iter().chain([Step::Receive { from, into: result }]).chain(combine));
        } else {
            let reduce = Step::Reduce { from, own, into: result, side: Side::Left };
            schedule.push(send.into_iter().chain([reduce]));
        }
    }
    schedule.push(next.zip(held).map(|(to, range)| Step::Send { to, data: onwards.at(range) }));
    schedule
}
