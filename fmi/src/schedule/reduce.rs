//! Reduce to one root.

use super::{Schedule, Side, Step, rounds_for};

/// Binomial-tree reduce to `root` for operators that commute: at most ⌈log₂ `size`⌉ rounds, and
/// every rank but the root sends exactly once.
pub fn reduce_binomial(me: u32, size: u32, root: u32, count: usize) -> Schedule {
    let relative = (me + size - root) % size;
    let absolute = |relative: u32| (relative + root) % size;
    let mut schedule = Schedule::default();
    for k in 0..rounds_for(size) {
        let distance = 1 << k;
        if relative & distance != 0 {
            schedule.push([Step::Send { to: absolute(relative - distance), range: 0..count }]);
            break;
        }
        if relative + distance < size {
            let from = absolute(relative + distance);
            schedule.push([Step::Reduce { from, range: 0..count, side: Side::Right }]);
        }
    }
    schedule
}

/// Reduce in rank order: a binomial tree towards rank 0, in which every rank holds the result of
/// an unbroken range of ranks, and one more transfer if `root` is another.
pub fn reduce_ordered(me: u32, size: u32, root: u32, count: usize) -> Schedule {
    let mut schedule = reduce_binomial(me, size, 0, count);
    if root != 0 && me == 0 {
        schedule.push([Step::Send { to: root, range: 0..count }]);
    } else if root != 0 && me == root {
        schedule.push([Step::Receive { from: 0, range: 0..count }]);
    }
    schedule
}
