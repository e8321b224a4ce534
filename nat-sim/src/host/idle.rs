//! What keeps a connection under watch whose other end says nothing: Linux's probes of an idle one, and the production
//! code's look at one on which something waits. Pure.

use std::time::Duration;

use fmi_net::liveness::{Probes, Sample, Verdict, Watch};
use fmi_net::time::Instant;

/// What a probe's time brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Probe,
    /// All probes stayed without an answer.
    GiveUp,
}

/// Keep-alive of one connection, and the watch over what waits on it.
#[derive(Debug)]
pub(super) struct Keepalive {
    probes: Probes,
    silence_max: Duration,
    watch: Watch,
    pub(super) heard_at: Instant,
    /// When Linux looks at the connection.
    look_at: Instant,
    /// Unanswered probes.
    sent: u32,
}

impl Keepalive {
    /// Of a connection that was last heard then, and on which so many bytes have been written.
    pub(super) fn new(
        now: Instant,
        interval: Duration,
        silence_max: Duration,
        heard_at: Option<Instant>,
        watch: Watch,
    ) -> Self {
        let probes = Probes::new(interval, silence_max);
        let heard_at = heard_at.unwrap_or(now);
        Self { probes, silence_max, watch, heard_at, look_at: now + probes.idle, sent: 0 }
    }

    pub(super) fn heard(&mut self, now: Instant) {
        (self.heard_at, self.sent) = (now, 0);
    }

    /// Takes what waits for an answer into the watch.
    pub(super) fn watch(&mut self, now: Instant, waits: bool) {
        if waits {
            self.watch.wrote(now, self.silence_max);
        }
    }

    /// What Linux does when the time of a probe has come. What is in flight, or waits for the window, has its own times.
    pub(super) fn handle_timeout(&mut self, now: Instant, waits: bool) -> Due {
        if now < self.look_at {
            return Due::Nothing;
        }
        let probe_at = self.heard_at + self.probes.idle;
        if waits || now < probe_at {
            self.look_at = if waits { now + self.probes.idle } else { probe_at };
            return Due::Nothing;
        }
        if self.sent >= self.probes.count {
            return Due::GiveUp;
        }
        self.sent += 1;
        self.look_at = now + self.probes.pause;
        Due::Probe
    }

    /// Counts bytes that the program writes at once.
    pub(super) fn count(&mut self, bytes: usize) {
        self.watch.count(bytes);
    }

    /// What the production code makes of what the kernel tells.
    pub(super) fn judge(&mut self, now: Instant, sample: Sample) -> Verdict {
        self.watch(now, sample.waits);
        if self.watch.poll_timeout().is_none_or(|at| now < at) {
            return Verdict::Waiting;
        }
        let sample = Sample { heard_ago: now - self.heard_at, ..sample };
        self.watch.look(now, self.silence_max, sample)
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        self.watch.poll_timeout().map_or(self.look_at, |at| at.min(self.look_at))
    }
}

/// Acknowledgements that Linux sends at once before it begins to wait (`TCP_MAX_QUICKACKS`).
const QUICK_MAX: u32 = 16;
/// How long it waits for something that carries one (`TCP_DELACK_MIN`, `TCP_ATO_MIN`).
const ACK_DELAY: Duration = Duration::from_millis(40);

/// A tick of a kernel with 250 a second.
const TICK: Duration = Duration::from_millis(4);

/// When bytes that come are acknowledged.
#[derive(Debug)]
pub(super) struct Acknowledging {
    quick: u32,
    /// Whether both ends talk in turn: the answer carries the acknowledgement.
    in_turn: bool,
    came_at: Option<Instant>,
}

impl Acknowledging {
    pub(super) fn new() -> Self {
        Self { quick: QUICK_MAX, in_turn: false, came_at: None }
    }

    /// Bytes have come; how long their acknowledgement may wait. The last ones may be answered by an end.
    pub(super) fn came(&mut self, now: Instant, are_last: bool) -> Option<Duration> {
        self.came_at = Some(now);
        (self.in_turn || are_last || self.quick == 0).then_some(ACK_DELAY)
    }

    /// How long the acknowledgement of the end may wait: where no bytes came before, Linux waits for one tick.
    pub(super) fn end_delay(&self) -> Duration {
        self.came_at.map_or(TICK, |_| ACK_DELAY)
    }

    /// Bytes go out, and an acknowledgement with them.
    pub(super) fn sent_bytes(&mut self, now: Instant) {
        self.in_turn |= self.came_at.is_some_and(|at| now - at < ACK_DELAY);
        self.count();
    }

    /// The last one of the handshake does not count.
    fn count(&mut self) {
        self.quick -= u32::from(self.quick > 0 && self.came_at.is_some());
    }

    /// An acknowledgement goes out alone.
    pub(super) fn sent_alone(&mut self, now: Instant) {
        self.count();
        if self.came_at.is_some_and(|at| now - at >= ACK_DELAY) {
            self.in_turn = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn an_idle_connection_is_probed_and_ends_a_pause_after_the_last_probe() {
        let (interval, silence_max) = (Duration::from_secs(10), Duration::from_secs(5));
        let idle = || Keepalive::new(at(0), interval, silence_max, None, Watch::default());
        let mut silent = idle();
        let mut seen = Vec::new();
        loop {
            let now = silent.poll_timeout();
            seen.push((now.as_nanos() / 1_000_000_000, silent.handle_timeout(now, false)));
            if seen.last().is_some_and(|(_, due)| *due == Due::GiveUp) {
                break;
            }
        }
        let probes = (10..15).map(|second| (second, Due::Probe));
        assert_eq!(seen, probes.chain([(15, Due::GiveUp)]).collect::<Vec<_>>());
        let mut answers = idle();
        answers.heard(at(7));
        assert_eq!(answers.handle_timeout(at(10), false), Due::Nothing);
        assert_eq!(answers.poll_timeout(), at(17));
        assert_eq!(answers.handle_timeout(at(17), true), Due::Nothing, "what waits has its own times");
        assert_eq!(answers.poll_timeout(), at(27));
    }

    #[test]
    fn acknowledgements_are_quick_at_first_and_wait_where_an_answer_may_carry_them() {
        let mut one_way = Acknowledging::new();
        one_way.sent_alone(at(0));
        for number in 0..20 {
            let delay = one_way.came(at(number), false);
            assert_eq!(delay, (number >= 16).then_some(ACK_DELAY), "{number}");
            one_way.sent_alone(at(number) + delay.unwrap_or_default());
        }
        let mut both = Acknowledging::new();
        assert_eq!(both.came(at(0), false), None);
        both.sent_bytes(at(0) + Duration::from_millis(5));
        assert_eq!(both.came(at(1), false), Some(ACK_DELAY));
        both.sent_alone(at(1) + ACK_DELAY);
        assert_eq!(both.came(at(2), false), None, "nobody answered");
        assert_eq!((Acknowledging::new().end_delay(), both.end_delay()), (TICK, ACK_DELAY));
        assert_eq!(both.came(at(3), true), Some(ACK_DELAY));
    }
}
