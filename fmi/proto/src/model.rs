//! What an operation costs: time from the shape of its schedule. Pure.
//!
//! The time of a schedule is that of its rounds, one latency each, and of what the busiest rank sends and
//! combines. Where ranks share cores, work adds up: `crowding` ranks on a core take as long as all of
//! their messages and bytes. All ranks must choose alike, so a [`Costs`] is the same on all of them: the
//! group agrees on it when it forms.

use std::fmt;
use std::time::Duration;

/// What one collective does, over all ranks. Lengths are bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shape {
    /// Messages one after the other on the longest way.
    pub rounds: f64,
    /// Messages of the busiest rank, the larger of those it sends and those it receives.
    pub messages: f64,
    /// Messages of all ranks.
    pub messages_total: f64,
    /// Bytes of the busiest rank, the larger of those it sends and those it receives.
    pub bytes: f64,
    /// Bytes of all ranks.
    pub bytes_total: f64,
    /// Bytes that the busiest rank combines or copies in memory.
    pub combined: f64,
}

/// The network between the ranks and the machines below them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// From a send to the end of its receive, for a short message.
    pub latency: Duration,
    /// Processor time for each message, on each side.
    pub overhead: Duration,
    /// Nanoseconds for each byte on a link.
    pub byte_ns: f64,
    /// Nanoseconds for each byte that is combined.
    pub combine_ns: f64,
    /// Ranks on each core of the fullest machine, 1 if each rank has its own.
    pub crowding: f64,
}

impl Costs {
    /// Ranks on one machine, `crowding` on each core. From `cargo bench` and `fmi perf` on a shared machine of
    /// two cores. Where ranks share cores, one that waits costs nothing: another runs.
    pub fn local(crowding: f64) -> Self {
        Self {
            latency: Duration::from_nanos(if crowding > 1.0 { 500 } else { 5_000 }),
            overhead: Duration::from_nanos(2_500),
            byte_ns: 0.22,
            combine_ns: 0.1,
            crowding: crowding.max(1.0),
        }
    }

    /// Functions in one region: 0.34 ms and 400 MB/s, as the authors of FMI measured on Lambda (its
    /// configuration, channel `Direct`).
    pub fn region() -> Self {
        Self {
            latency: Duration::from_micros(340),
            overhead: Duration::from_micros(10),
            byte_ns: 2.5,
            combine_ns: 0.2,
            crowding: 1.0,
        }
    }

    /// Functions and a store, which is asked again after `pause` where it has no bells: about 1 ms, or twice the pause, and
    /// 100 MB/s.
    pub fn store(pause: Option<Duration>) -> Self {
        let latency = pause.map_or(Duration::from_millis(1), |pause| 2 * pause);
        Self { latency, overhead: latency / 10, byte_ns: 10.0, ..Self::region() }
    }

    /// The time of a schedule of `shape` among `size` ranks.
    pub fn time(&self, shape: &Shape, size: u32) -> Duration {
        let share = |most: f64, total: f64| most.max(self.crowding * total / f64::from(size.max(1)));
        let nanos = |duration: Duration| duration.as_secs_f64() * 1e9;
        let total = shape.rounds * nanos(self.latency)
            + share(shape.messages, shape.messages_total) * nanos(self.overhead)
            + share(shape.bytes, shape.bytes_total) * self.byte_ns
            + shape.combined * self.crowding * self.combine_ns;
        Duration::from_secs_f64(total / 1e9)
    }

    /// A good segment for a pipeline of `stages` that passes `bytes` on: long enough to be worth a message,
    /// short enough to keep all stages at work. A power of two, so that no rounding sets ranks apart.
    pub fn segment_bytes(&self, bytes: usize, stages: u32) -> usize {
        let fixed = self.overhead.as_secs_f64() * 1e9;
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let best = (bytes as f64 * fixed / (self.byte_ns * f64::from(stages.max(1)))).sqrt();
        let mut segment = SEGMENT_BYTES_MIN;
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        while (segment as f64) < best && segment < SEGMENT_BYTES_MAX {
            segment *= 2;
        }
        segment
    }
}

/// Below this, a message costs more than its bytes.
const SEGMENT_BYTES_MIN: usize = 32 << 10;
/// What fits the second-level cache of today's cores, so that what is handed on is still there.
const SEGMENT_BYTES_MAX: usize = 256 << 10;

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = 1e3 / self.byte_ns;
        write!(
            f,
            "latency {:?}, overhead {:?}, {rate:.0} MB/s, {:.1} ranks a core",
            self.latency, self.overhead, self.crowding
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crowded_ranks_pay_for_each_others_work() {
        let shape = Shape { rounds: 1.0, messages: 1.0, messages_total: 16.0, ..Shape::default() };
        let alone = Costs { crowding: 1.0, ..Costs::local(8.0) };
        let crowded = Costs::local(8.0);
        assert_eq!(crowded.time(&shape, 16) - alone.time(&shape, 16), 7 * alone.overhead);
    }

    #[test]
    fn segments_grow_with_the_vector_within_bounds() {
        let costs = Costs::region();
        let sizes = [1 << 10, 1 << 20, 1 << 24, 1 << 30].map(|bytes| costs.segment_bytes(bytes, 14));
        assert!(sizes.is_sorted());
        assert_eq!((sizes[0], sizes[3]), (SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX));
    }
}
