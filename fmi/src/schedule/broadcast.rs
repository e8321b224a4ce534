//! Broadcast.

use super::{Schedule, Step, rounds_for};

/// Binomial-tree broadcast from `root`: at most ⌈log₂ `size`⌉ rounds, and every rank but the root
/// receives exactly once.
pub fn broadcast_binomial(me: u32, size: u32, root: u32, count: usize) -> Schedule {
    let relative = (me + size - root) % size;
    let absolute = |relative: u32| (relative + root) % size;
    let mut schedule = Schedule::default();
    for k in 0..rounds_for(size) {
        let distance = 1 << k;
        if relative < distance && relative + distance < size {
            schedule.push([Step::Send { to: absolute(relative + distance), range: 0..count }]);
        } else if relative >= distance && relative < 2 * distance {
            schedule.push([Step::Receive { from: absolute(relative - distance), range: 0..count }]);
        }
    }
    schedule
}
