//! Barrier.

use super::{Schedule, Step, rounds_for};

/// Dissemination barrier: ⌈log₂ `size`⌉ rounds; in round k every rank sends to the rank 2ᵏ above
/// it and hears from the rank 2ᵏ below it.
pub fn barrier_dissemination(me: u32, size: u32) -> Schedule {
    let mut schedule = Schedule::default();
    for k in 0..rounds_for(size) {
        let distance = (1 << k) % size;
        schedule.push([
            Step::Send { to: (me + distance) % size, range: 0..0 },
            Step::Receive { from: (me + size - distance) % size, range: 0..0 },
        ]);
    }
    schedule
}
