//! Reduce to all ranks. Both algorithms keep the order of ranks, so they serve any operator.
//!
//! Sizes that are no power of two fold first: of the lowest `2 × surplus` ranks each even one hands
//! its value to its upper neighbour, which stands for both, and gets the result at the end. What is
//! left is numbered anew without gaps, so that neighbours in the new numbering hold neighbouring
//! ranges of ranks.

use std::ops::Range;

use super::{Schedule, Side, Step};

/// The part of a rank among `2^log` folded ones.
struct Fold {
    surplus: u32,
    log: u32,
    /// Number after folding; `None` for a rank that handed its value on.
    number: Option<u32>,
}

impl Fold {
    fn new(me: u32, size: u32) -> Self {
        let log = size.ilog2();
        let surplus = size - (1 << log);
        let number = if me >= 2 * surplus { Some(me - surplus) } else { (me % 2 == 1).then_some(me / 2) };
        Self { surplus, log, number }
    }

    fn rank(&self, number: u32) -> u32 {
        if number < self.surplus { 2 * number + 1 } else { number + self.surplus }
    }

    fn before(&self, me: u32, range: Range<usize>) -> Option<Step> {
        if me >= 2 * self.surplus {
            None
        } else if me.is_multiple_of(2) {
            Some(Step::Send { to: me + 1, range })
        } else {
            Some(Step::Reduce { from: me - 1, range, side: Side::Left })
        }
    }

    fn after(&self, me: u32, range: Range<usize>) -> Option<Step> {
        if me >= 2 * self.surplus {
            None
        } else if me.is_multiple_of(2) {
            Some(Step::Receive { from: me + 1, range })
        } else {
            Some(Step::Send { to: me - 1, range })
        }
    }
}

/// Recursive doubling: ⌊log₂ `size`⌋ rounds (and two for folding), each with the whole vector.
/// Fewest rounds; for short vectors.
pub fn allreduce_recursive_doubling(me: u32, size: u32, count: usize) -> Schedule {
    let fold = Fold::new(me, size);
    let mut schedule = Schedule::default();
    schedule.push(fold.before(me, 0..count));
    if let Some(number) = fold.number {
        for k in 0..fold.log {
            let other = number ^ (1 << k);
            let side = if other < number { Side::Left } else { Side::Right };
            let peer = fold.rank(other);
            schedule
                .push([Step::Send { to: peer, range: 0..count }, Step::Reduce { from: peer, range: 0..count, side }]);
        }
    }
    schedule.push(fold.after(me, 0..count));
    schedule
}

/// Rabenseifner's algorithm with vector halving and distance doubling: reduce-scatter, then
/// allgather back along the same pairs. Every rank moves about twice the vector, whatever the size;
/// for long vectors.
pub fn allreduce_halving(me: u32, size: u32, count: usize) -> Schedule {
    let fold = Fold::new(me, size);
    let mut schedule = Schedule::default();
    schedule.push(fold.before(me, 0..count));
    if let Some(number) = fold.number {
        let mut range = 0..count;
        let mut halvings = Vec::new();
        for k in 0..fold.log {
            let other = number ^ (1 << k);
            let peer = fold.rank(other);
            let middle = range.start + range.len() / 2;
            let (lower, upper) = (range.start..middle, middle..range.end);
            let (keep, give, side) =
                if other < number { (upper, lower, Side::Left) } else { (lower, upper, Side::Right) };
            schedule.push([
                Step::Send { to: peer, range: give.clone() },
                Step::Reduce { from: peer, range: keep.clone(), side },
            ]);
            halvings.push((peer, keep.clone(), give));
            range = keep;
        }
        for (peer, keep, give) in halvings.into_iter().rev() {
            schedule.push([Step::Send { to: peer, range: keep }, Step::Receive { from: peer, range: give }]);
        }
    }
    schedule.push(fold.after(me, 0..count));
    schedule
}
