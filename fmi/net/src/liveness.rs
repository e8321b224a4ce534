//! When the silence of the other end of a connection means that its machine is gone. Pure.
//!
//! **A busy rank is not a dead rank.** The kernel of a rank that computes answers: it acknowledges what comes until its
//! buffer is full, then it acknowledges the probes of its closed window. So silence is that of the other *kernel*, and
//! it counts only while something awaits an answer:
//! - an idle connection is probed ([`Probes`]), several times before it is given up: one lost packet ends nothing;
//! - bytes in flight are repeated by the kernel, and [`Watch`] bounds for how long without any answer;
//! - a closed window is probed ever more rarely, so several probes must have been lost there, too.
//!
//! A time-out of the kernel that counts how long bytes have waited (`TCP_USER_TIMEOUT`) cannot tell the second case from
//! the third.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::time::Instant;

/// Probes of an idle connection that stay without an answer until it is given up, if the silence has room for them.
const PROBES_WANTED: u32 = 5;
/// Kernels count the pause between probes in whole seconds.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Unanswered repetitions of bytes in flight at which silence is more than bad luck: with the bytes themselves, three
/// packets were lost, or their acknowledgements.
const REPETITIONS_MIN: u32 = 2;
/// The same of probes of a closed window, the last of which may just be on its way.
const WINDOW_PROBES_MIN: u32 = 4;
/// What is written at once and is longer than this goes in packets of more than 1,280 bytes, if segments may be that long.
/// Every path of IPv6 takes 1,280 bytes, and in practice those of IPv4 do as well.
const SHORT_BYTES_MAX: usize = 1_240;
/// Unanswered repetitions at which bytes are stuck, although the other kernel answers whatever else it gets.
const STUCK_REPETITIONS_MIN: u32 = 5;
/// Looks in the time of one silence.
const LOOKS: u32 = 8;

/// How an idle connection is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probes {
    /// Idle time before the first probe.
    pub idle: Duration,
    /// Pause between two probes.
    pub pause: Duration,
    /// The connection has ended when this many were not answered, a pause after the last one.
    pub count: u32,
}

impl Probes {
    /// Spreads probes over the longest silence after a connection has been idle for `interval`.
    pub fn new(interval: Duration, silence_max: Duration) -> Self {
        let silence_max = silence_max.max(PAUSE_MIN);
        let seconds = (silence_max / PROBES_WANTED).as_secs().max(PAUSE_MIN.as_secs());
        let count = u32::try_from(silence_max.as_secs() / seconds).unwrap_or(u32::MAX);
        Self { idle: interval.max(PAUSE_MIN), pause: Duration::from_secs(seconds), count }
    }
}

/// What a kernel knows of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a net makes it of what its kernel tells")]
pub struct Sample {
    /// Whether bytes were written that the other kernel has not acknowledged.
    pub waits: bool,
    /// Unanswered repetitions of bytes in flight.
    pub repetitions: u32,
    /// Unanswered probes of a closed window.
    pub window_probes: u32,
    /// Time since the other kernel last answered anything.
    pub heard_ago: Duration,
    /// Bytes that the other kernel has acknowledged, of all that were written.
    pub acknowledged: u64,
    /// Longest segment, in bytes.
    pub segment_bytes: usize,
}

/// What a look at a connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a net acts on each")]
pub enum Verdict {
    /// Nothing awaits an answer.
    Idle,
    /// Something does; look again.
    Waiting,
    /// The other kernel is gone, or the path to it.
    Dead,
    /// Short packets got there, and the first long ones do not.
    Choked,
}

/// The error of a connection that is choked, of the kind `TimedOut`: something on the way drops packets which are too long
/// for it, and nobody is told. The name of that is in its text.
pub fn choked() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, Choked)
}

#[derive(Debug)]
struct Choked;

impl fmt::Display for Choked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("timed out: short packets got through and long ones did not, which looks like an MTU black hole")
    }
}

impl std::error::Error for Choked {}

/// Bounds the silence of the other kernel while bytes await its answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// Since when bytes have been waiting, as far as looks tell, and when to look next.
    waiting: Option<(Instant, Instant)>,
    /// Bytes written in all.
    written: u64,
    /// The end of the first long write, until that was acknowledged.
    long_until: Option<u64>,
    /// Whether a long write was acknowledged.
    took_long: bool,
}

impl Watch {
    /// Whether bytes may be waiting: else there is no need to look.
    pub fn is_on(&self) -> bool {
        self.waiting.is_some()
    }

    /// A watch over a connection on which so many bytes have been written.
    pub fn after(written: u64) -> Self {
        Self { written, ..Self::default() }
    }

    /// Counts bytes that are written at once.
    pub fn count(&mut self, bytes: usize) {
        self.written = self.written.wrapping_add(bytes as u64);
        if bytes > SHORT_BYTES_MAX && !self.took_long && self.long_until.is_none() {
            self.long_until = Some(self.written);
        }
    }

    /// Ends it until more is written.
    pub fn rest(&mut self) {
        self.waiting = None;
    }

    /// Notes that bytes were written.
    pub fn wrote(&mut self, now: Instant, silence_max: Duration) {
        if self.waiting.is_none() {
            self.waiting = Some((now, now + silence_max / LOOKS));
        }
    }

    /// When to take a sample.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.map(|(_, look_at)| look_at)
    }

    /// Judges what the kernel knows at `now` of a connection whose other end may be silent for `silence_max`.
    pub fn look(&mut self, now: Instant, silence_max: Duration, sample: Sample) -> Verdict {
        if self.long_until.is_some_and(|until| sample.acknowledged >= until) {
            (self.long_until, self.took_long) = (None, true);
        }
        let Some((since, _)) = self.waiting.filter(|_| sample.waits) else {
            self.waiting = None;
            return Verdict::Idle;
        };
        let is_silent = now - since.max(now - sample.heard_ago) >= silence_max;
        let was_asked = sample.repetitions >= REPETITIONS_MIN || sample.window_probes >= WINDOW_PROBES_MIN;
        let may_choke = self.long_until.is_some() && sample.acknowledged > 0 && sample.segment_bytes > SHORT_BYTES_MAX;
        let is_stuck = sample.repetitions >= STUCK_REPETITIONS_MIN && now - since >= silence_max;
        if may_choke && is_stuck {
            return Verdict::Choked;
        }
        if is_silent && was_asked {
            return Verdict::Dead;
        }
        self.waiting = Some((since, now + silence_max / LOOKS));
        Verdict::Waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const SILENCE: Duration = Duration::from_secs(20);

    fn at(seconds: u32) -> Instant {
        Instant::ZERO + seconds * SECOND
    }

    fn sample(repetitions: u32, window_probes: u32, heard_ago: u32) -> Sample {
        let heard_ago = heard_ago * SECOND;
        Sample { waits: true, repetitions, window_probes, heard_ago, acknowledged: 100, segment_bytes: 1460 }
    }

    /// A watch that has seen bytes wait since `seconds`.
    fn watch(seconds: u32) -> Watch {
        let mut watch = Watch::default();
        watch.wrote(at(seconds), SILENCE);
        watch
    }

    #[test]
    fn an_idle_connection_is_probed_several_times_within_the_silence() {
        for (interval, silence) in [(100, 20), (1, 5), (2, 6), (1, 3), (7, 119)] {
            let probes = Probes::new(interval * SECOND, silence * SECOND);
            assert!(probes.count >= silence.min(PROBES_WANTED), "{probes:?}");
            let gone = probes.pause * probes.count;
            assert!(gone <= silence * SECOND && gone + probes.pause > silence * SECOND, "{probes:?}");
            assert_eq!(probes.idle, interval * SECOND);
        }
        let least = Probes { idle: SECOND, pause: SECOND, count: 1 };
        assert_eq!(Probes::new(Duration::ZERO, Duration::ZERO), least);
        assert!(Probes::new(Duration::MAX, Duration::MAX).count >= PROBES_WANTED);
    }

    #[test]
    fn a_closed_window_that_is_answered_ends_nothing_however_long() {
        let mut watch = watch(0);
        // The kernel's probes are up to 120 s apart, and the look may come just before an answer.
        for (seconds, heard_ago) in [(30, 25), (300, 119), (3000, 120)] {
            assert_eq!(watch.look(at(seconds), SILENCE, sample(0, 1, heard_ago)), Verdict::Waiting);
        }
    }

    #[test]
    fn silence_counts_from_the_bytes_that_await_an_answer() {
        // Nothing was said for 100 s before, which nobody minds.
        let mut watch = watch(100);
        assert_eq!(watch.look(at(119), SILENCE, sample(6, 0, 119)), Verdict::Waiting);
        assert_eq!(watch.look(at(120), SILENCE, sample(6, 0, 120)), Verdict::Dead);
    }

    #[test]
    fn an_answer_starts_it_over() {
        let mut watch = watch(0);
        assert_eq!(watch.look(at(30), SILENCE, sample(6, 0, 11)), Verdict::Waiting);
        assert_eq!(watch.look(at(38), SILENCE, sample(6, 0, 19)), Verdict::Waiting);
        assert_eq!(watch.look(at(39), SILENCE, sample(6, 0, 20)), Verdict::Dead);
    }

    #[test]
    fn silence_alone_is_not_enough() {
        for (repetitions, window_probes, verdict) in [
            (REPETITIONS_MIN - 1, 0, Verdict::Waiting),
            (REPETITIONS_MIN, 0, Verdict::Dead),
            (0, WINDOW_PROBES_MIN - 1, Verdict::Waiting),
            (0, WINDOW_PROBES_MIN, Verdict::Dead),
        ] {
            assert_eq!(watch(0).look(at(500), SILENCE, sample(repetitions, window_probes, 500)), verdict);
        }
    }

    /// A hundred bytes got there, then so many more were written at once.
    fn after_writing(bytes: usize) -> Watch {
        let mut watch = watch(0);
        watch.count(100);
        watch.count(bytes);
        watch
    }

    #[test]
    fn a_long_write_that_is_stuck_behind_short_ones_that_were_not_is_choked_though_the_other_kernel_answers() {
        let (stuck, less) = (sample(STUCK_REPETITIONS_MIN, 0, 3), sample(STUCK_REPETITIONS_MIN - 1, 0, 3));
        let verdict = |bytes, seconds, sample| after_writing(bytes).look(at(seconds), SILENCE, sample);
        let long = SHORT_BYTES_MAX + 1;
        assert_eq!(verdict(long, 20, stuck), Verdict::Choked);
        for (bytes, seconds, sample) in [
            (SHORT_BYTES_MAX, 20, stuck),
            (long, 19, stuck),
            (long, 20, less),
            (long, 20, Sample { acknowledged: 0, ..stuck }),
            (long, 20, Sample { segment_bytes: SHORT_BYTES_MAX, ..stuck }),
        ] {
            assert_eq!(verdict(bytes, seconds, sample), Verdict::Waiting, "{bytes} {seconds} {sample:?}");
        }
        assert_eq!(verdict(long, 20, sample(STUCK_REPETITIONS_MIN, 0, 20)), Verdict::Choked, "nothing is heard either");
        let mut watch = after_writing(long);
        let all = Sample { acknowledged: 100 + long as u64, ..stuck };
        assert_eq!(watch.look(at(20), SILENCE, all), Verdict::Waiting, "long ones get there");
        watch.count(long);
        assert_eq!(watch.look(at(90), SILENCE, stuck), Verdict::Waiting);
        assert!(choked().to_string().contains("MTU black hole"));
    }

    #[test]
    fn what_was_acknowledged_is_not_watched() {
        let mut watch = watch(0);
        assert_eq!(watch.poll_timeout(), Some(Instant::ZERO + SILENCE / LOOKS));
        assert_eq!(watch.look(at(3), SILENCE, Sample { waits: false, ..sample(0, 0, 3) }), Verdict::Idle);
        assert!(!watch.is_on() && watch.poll_timeout().is_none());
        // What is written much later starts anew.
        watch.wrote(at(500), SILENCE);
        assert_eq!(watch.look(at(510), SILENCE, sample(3, 0, 507)), Verdict::Waiting);
    }
}
