//! Folding and trees, which reductions of all kinds share.
//!
//! Sizes that are no power of two fold first: of the lowest `2 × surplus` ranks each odd one hands
//! its value to its lower neighbour, which then represents both, and gets the result at the end. What is
//! left is numbered anew without gaps, so that neighbours in the new numbering hold neighbouring
//! ranges of ranks, and number 0 is rank 0.
//!
//! # The balanced order
//!
//! Recursive doubling, halving by growing distances and the tree below combine alike: first the pairs of the fold, then
//! numbers 2i and 2i + 1, then neighbouring pairs of those, and so on, the lower ranks always on the left. For
//! five ranks that is `((0 1) 2) (3 4)`. It depends on the size alone.

use std::ops::Range;

use super::{Memory, Relative, Schedule, Side, Step, rounds_for};

const RESULT: Memory = Memory::Receive;

/// The part of a rank among `2^log` folded ones.
pub(super) struct Fold {
    pub(super) surplus: u32,
    pub(super) log: u32,
    /// Number after folding; `None` for a rank that handed its value on.
    pub(super) number: Option<u32>,
}

impl Fold {
    pub(super) fn new(me: u32, size: u32) -> Self {
        let log = size.ilog2();
        let surplus = size - (1 << log);
        let number = if me >= 2 * surplus { Some(me - surplus) } else { me.is_multiple_of(2).then_some(me / 2) };
        Self { surplus, log, number }
    }

    pub(super) fn rank(&self, number: u32) -> u32 {
        if number < self.surplus { 2 * number } else { number + self.surplus }
    }

    /// The ranks that number `number` represents.
    pub(super) fn represents(&self, number: u32) -> Range<u32> {
        let rank = self.rank(number);
        if number < self.surplus { rank..rank + 2 } else { rank..rank + 1 }
    }

    /// Hands on or takes in a vector; returns where this rank's value lies afterwards.
    pub(super) fn before(
        &self,
        schedule: &mut Schedule,
        me: u32,
        count: usize,
        source: Memory,
        memory: Memory,
    ) -> Memory {
        if me >= 2 * self.surplus {
            return source;
        }
        if self.number.is_none() {
            schedule.push([Step::Send { to: me - 1, data: source.at(0..count) }]);
            return source;
        }
        let (own, into) = (source.at(0..count), memory.at(0..count));
        schedule.push([Step::Reduce { from: me + 1, own, into, side: Side::Right }]);
        memory
    }

    pub(super) fn after(&self, schedule: &mut Schedule, me: u32, count: usize) {
        if me >= 2 * self.surplus {
            return;
        }
        let all = RESULT.at(0..count);
        schedule.push([if self.number.is_none() {
            Step::Receive { from: me - 1, into: all }
        } else {
            Step::Send { to: me + 1, data: all }
        }]);
    }

    /// The range that `number` keeps when `count` elements are halved `log` times.
    pub(super) fn kept(&self, number: u32, count: usize) -> Range<usize> {
        let mut range = 0..count;
        for k in 0..self.log {
            let middle = range.start + range.len() / 2;
            range = if number & (1 << k) != 0 { middle..range.end } else { range.start..middle };
        }
        range
    }

    /// Reduce-scatter by halving the vector and doubling the distance: the range that this rank then holds in
    /// `memory`, `None` for a rank that handed its vector on.
    pub(super) fn halve(
        &self,
        schedule: &mut Schedule,
        me: u32,
        count: usize,
        source: Memory,
        memory: Memory,
    ) -> Option<Range<usize>> {
        let mut held = self.before(schedule, me, count, source, memory);
        let number = self.number?;
        let mut range = 0..count;
        for k in 0..self.log {
            let other = number ^ (1 << k);
            let peer = self.rank(other);
            let middle = range.start + range.len() / 2;
            let (lower, upper) = (range.start..middle, middle..range.end);
            let (keep, give, side) =
                if other < number { (upper, lower, Side::Left) } else { (lower, upper, Side::Right) };
            schedule.push([
                Step::Send { to: peer, data: held.at(give) },
                Step::Reduce { from: peer, own: held.at(keep.clone()), into: memory.at(keep.clone()), side },
            ]);
            range = keep;
            held = memory;
        }
        if held != memory {
            // One rank only: nothing was combined.
            schedule.push([Step::Copy { data: held.at(range.clone()), into: memory.at(range.clone()) }]);
        }
        Some(range)
    }
}

/// Reduces up a binomial tree, collecting in `memory`.
pub(super) fn binomial(me: u32, relative: Relative, count: usize, source: Memory, memory: Memory) -> Schedule {
    let (own, size) = (relative.of(me), relative.size);
    let mut schedule = Schedule::default();
    let mut held = source.at(0..count);
    let into = memory.at(0..count);
    for k in 0..rounds_for(size) {
        let distance = 1 << k;
        if own & distance != 0 {
            schedule.push([Step::Send { to: relative.rank(own - distance), data: held }]);
            break;
        }
        if own + distance < size {
            schedule.push([Step::Reduce { from: relative.rank(own + distance), own: held, into, side: Side::Right }]);
            held = into;
        }
    }
    if size == 1 {
        schedule.push([Step::Copy { data: held, into }]);
    }
    schedule.work = if held.memory == Memory::Work { count } else { 0 };
    schedule
}

/// Reduces up a tree to rank 0 in the balanced order, collecting in `memory`.
pub(super) fn balanced(me: u32, size: u32, count: usize, source: Memory, memory: Memory) -> Schedule {
    let fold = Fold::new(me, size);
    let mut schedule = Schedule::default();
    let mut held = fold.before(&mut schedule, me, count, source, memory).at(0..count);
    let into = memory.at(0..count);
    for (k, number) in (0..fold.log).filter_map(|k| Some((k, fold.number?))) {
        let distance = 1 << k;
        if number & distance != 0 {
            schedule.push([Step::Send { to: fold.rank(number - distance), data: held }]);
            break;
        }
        let from = fold.rank(number + distance);
        schedule.push([Step::Reduce { from, own: held, into, side: Side::Right }]);
        held = into;
    }
    if size == 1 {
        schedule.push([Step::Copy { data: held, into }]);
    }
    schedule.work = if held.memory == Memory::Work { count } else { 0 };
    schedule
}
