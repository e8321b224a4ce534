//! Barrier.

use super::family::{Method, always, tally};
use super::{Algorithm, Memory, Relative, Schedule, Step, rounds_for};

pub(super) const BARRIER: &[Method] = &[
    Method {
        algorithm: Algorithm::Dissemination,
        sparse: true,
        reproducible: true,
        admits: always,
        shape: |m| tally(m.log, m.log, m.ranks * m.log, 0.0, 0.0, 0.0),
        build: |problem, _, me| barrier_dissemination(me, problem.size),
    },
    Method {
        algorithm: Algorithm::Tree,
        sparse: true,
        reproducible: true,
        admits: always,
        shape: |m| tally(2.0 * m.log, m.log, 2.0 * m.others, 0.0, 0.0, 0.0),
        build: |problem, _, me| barrier_tree(me, problem.size),
    },
];

/// Dissemination barrier: ⌈log₂ `size`⌉ rounds; in round k every rank sends to the rank 2ᵏ above
/// it and hears from the rank 2ᵏ below it.
pub fn barrier_dissemination(me: u32, size: u32) -> Schedule {
    let mut schedule = Schedule::default();
    for k in 0..rounds_for(size) {
        let distance = (1 << k) % size;
        schedule.push_all([
            Step::Send { to: (me + distance) % size, data: Memory::Receive.at(0..0) },
            Step::Receive { from: (me + size - distance) % size, into: Memory::Receive.at(0..0) },
        ]);
    }
    schedule
}

/// Ranks up to which the [`barrier_exchange`] is worth its messages: from here on each has four times as many as it must.
const EXCHANGE_MAX: u32 = 16;

/// The barrier that ends a join, in which nothing is known of the network yet: one exchange in a small group, whose ranks are
/// all connected, and else the fewest rounds.
pub fn barrier_of_join(me: u32, size: u32, is_complete: bool) -> Schedule {
    if is_complete && size <= EXCHANGE_MAX { barrier_exchange(me, size) } else { barrier_dissemination(me, size) }
}

/// Barrier in the time of one message: every rank sends to every other, and then hears from all. Each connection is used in
/// both directions.
pub fn barrier_exchange(me: u32, size: u32) -> Schedule {
    let nothing = Memory::Receive.at(0..0);
    let others = || (1..size).map(|distance| (me + distance) % size);
    let mut schedule = Schedule::default();
    schedule.push_all(others().map(|to| Step::Send { to, data: nothing }));
    // One after the other, as what is heard may be combined in one place.
    for from in others() {
        schedule.push_all([Step::Receive { from, into: nothing }]);
    }
    schedule
}

/// Barrier up and down a binomial tree: 2(`size` - 1) messages in all, the fewest possible.
pub fn barrier_tree(me: u32, size: u32) -> Schedule {
    let relative = Relative { size, root: 0 };
    let mut schedule = Schedule::default();
    let children = (0..rounds_for(size))
        .map(|k| 1 << k)
        .take_while(|distance| me & distance == 0)
        .map(|distance| relative.of(me) + distance)
        .filter(|child| *child < size);
    let nothing = Memory::Receive.at(0..0);
    schedule.push_all(children.clone().map(|child| Step::Receive { from: child, into: nothing }));
    if me != 0 {
        let parent = me & (me - 1);
        schedule.push_all([Step::Send { to: parent, data: nothing }]);
        schedule.push_all([Step::Receive { from: parent, into: nothing }]);
    }
    let children: Vec<u32> = children.collect();
    schedule.push_all(children.into_iter().rev().map(|child| Step::Send { to: child, data: nothing }));
    schedule
}
