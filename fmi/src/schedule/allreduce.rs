//! Reduce to all ranks. Each rank's own vector lies in `source`, the result goes to [`Memory::Receive`]; if
//! both are the same memory, it works in place.
//!
//! Sizes that are no power of two fold first: of the lowest `2 × surplus` ranks each even one hands
//! its value to its upper neighbour, which stands for both, and gets the result at the end. What is
//! left is numbered anew without gaps, so that neighbours in the new numbering hold neighbouring
//! ranges of ranks.

use std::ops::Range;

use super::reduce::binomial;
use super::{Memory, Relative, Schedule, Side, Step, broadcast_binomial, part};

const RESULT: Memory = Memory::Receive;

/// The part of a rank among `2^log` folded ones.
pub(super) struct Fold {
    surplus: u32,
    pub(super) log: u32,
    /// Number after folding; `None` for a rank that handed its value on.
    pub(super) number: Option<u32>,
}

impl Fold {
    pub(super) fn new(me: u32, size: u32) -> Self {
        let log = size.ilog2();
        let surplus = size - (1 << log);
        let number = if me >= 2 * surplus { Some(me - surplus) } else { (me % 2 == 1).then_some(me / 2) };
        Self { surplus, log, number }
    }

    pub(super) fn rank(&self, number: u32) -> u32 {
        if number < self.surplus { 2 * number + 1 } else { number + self.surplus }
    }

    /// The ranks whose values number `number` stands for.
    pub(super) fn stands_for(&self, number: u32) -> Range<u32> {
        let rank = self.rank(number);
        if number < self.surplus { rank - 1..rank + 1 } else { rank..rank + 1 }
    }

    /// Hands on or takes in a vector; returns where the own value lies afterwards.
    fn before(&self, schedule: &mut Schedule, me: u32, count: usize, source: Memory, memory: Memory) -> Memory {
        if me >= 2 * self.surplus {
            return source;
        }
        if me.is_multiple_of(2) {
            schedule.push([Step::Send { to: me + 1, data: source.at(0..count) }]);
            return source;
        }
        let (own, into) = (source.at(0..count), memory.at(0..count));
        schedule.push([Step::Reduce { from: me - 1, own, into, side: Side::Left }]);
        memory
    }

    fn after(&self, schedule: &mut Schedule, me: u32, count: usize) {
        if me >= 2 * self.surplus {
            return;
        }
        let all = RESULT.at(0..count);
        schedule.push([if me.is_multiple_of(2) {
            Step::Receive { from: me + 1, into: all }
        } else {
            Step::Send { to: me - 1, data: all }
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

/// Up a binomial tree to rank 0 and down again: `2 (size - 1)` messages in all, the fewest possible. Keeps
/// the order of ranks.
pub fn allreduce_tree(me: u32, size: u32, count: usize, source: Memory) -> Schedule {
    // The receive buffer is every rank's to use here.
    let mut schedule = binomial(me, Relative { size, root: 0 }, count, source, RESULT);
    schedule.rounds.extend(broadcast_binomial(me, size, 0, count).rounds);
    schedule
}
