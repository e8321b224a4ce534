//! What a connection has sent, and when it sends it again: Linux's times, measured. Pure.
//!
//! smoltcp repeats after one second at least, all that is in flight, and without end. Its repetitions stay in this host, and
//! these go out instead. There is no congestion window: after a time-out the rest follows as acknowledgements come, two
//! segments for each.

use std::collections::VecDeque;
use std::time::Duration;

use fmi_net::time::Instant;

/// The least that Linux adds to the round trip before it repeats (`TCP_RTO_MIN`).
const RTO_MARGIN_MIN: Duration = Duration::from_millis(200);
/// The longest pause between two repetitions or probes (`TCP_RTO_MAX`).
const RTO_MAX: Duration = Duration::from_secs(120);
/// The pause without a measured round trip (`TCP_TIMEOUT_INIT`).
const RTO_INITIAL: Duration = Duration::from_secs(1);
/// What a probe of the tail waits for beyond two round trips where several segments are in flight: two ticks of a
/// kernel with 250 a second.
const TAIL_MARGIN: Duration = Duration::from_millis(8);
/// Acknowledgements of nothing new after which a segment counts as lost.
const DUPLICATES: u32 = 3;
/// How long Linux repeats without an answer, by `tcp_retries2` = 15: pauses of 0.2 s, doubled up to 120 s.
const REPEATED_FOR: Duration = Duration::from_millis(924_600);
/// The same of a connection that its program has closed: 8 retries.
const CLOSED_REPEATED_FOR: Duration = Duration::from_millis(102_200);
/// Unanswered probes of a closed window that end a connection, and one that its program has closed.
const WINDOW_PROBES: (u32, u32) = (15, 8);
/// The least MTU of a path that a report of one is believed to have (`min_pmtu`).
pub(super) const PATH_MTU_MIN: usize = 552;

/// A stretch of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) sequence: u32,
    pub(super) bytes: Vec<u8>,
    pub(super) fin: bool,
}

impl Part {
    fn length(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("a segment is below 64 KiB") + u32::from(self.fin)
    }

    pub(super) fn end(&self) -> u32 {
        self.sequence.wrapping_add(self.length())
    }

    /// Cuts off what is before a sequence number.
    fn cut_front(&mut self, to: u32) {
        let gone = usize::try_from(to.wrapping_sub(self.sequence)).expect("a segment is below 64 KiB");
        self.bytes.drain(..gone.min(self.bytes.len()));
        self.sequence = to;
    }

    /// In parts of at most `size` bytes.
    fn cut(self, size: usize) -> Vec<Self> {
        if self.bytes.len() <= size {
            return vec![self];
        }
        let (mut parts, mut sequence) = (Vec::new(), self.sequence);
        for bytes in self.bytes.chunks(size) {
            parts.push(Self { sequence, bytes: bytes.to_vec(), fin: false });
            sequence = parts[parts.len() - 1].end();
        }
        parts.last_mut().expect("a part at least").fin = self.fin;
        parts
    }
}

#[derive(Clone, Debug)]
struct Sent {
    part: Part,
    at: Instant,
    is_repeated: bool,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Again(Vec<Part>),
    /// The other end's window is to be asked for.
    Probe,
    GiveUp,
}

/// Whether `a` is behind `b` in the stream.
fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

#[derive(Clone, Copy, Debug)]
struct Recovery {
    /// Everything before is taken for lost.
    until: u32,
    /// What is to be sent again next.
    next: u32,
}

/// The sending half of a connection.
#[derive(Debug)]
pub(super) struct Sender {
    sent: VecDeque<Sent>,
    /// The first number that is not acknowledged, and the first one that was not sent.
    unacknowledged: u32,
    next: u32,
    /// The round trip and how much it varies.
    trip: Option<(Duration, Duration)>,
    repeat_at: Option<Instant>,
    tail_at: Option<Instant>,
    is_tail_probed: bool,
    probe_at: Option<Instant>,
    probe_backoff: u32,
    window_is_closed: bool,
    duplicates: u32,
    recovery: Option<Recovery>,
    /// Bytes of the largest segment that the path takes.
    size_max: usize,
    /// Whether the other end tells apart what it has, without which Linux does not probe the tail.
    pub(super) has_sack: bool,
    /// Repetitions since the last answer, and when the first of them was.
    pub(super) repetitions: u32,
    since: Option<Instant>,
    pub(super) window_probes: u32,
}

impl Sender {
    pub(super) fn new(first: u32) -> Self {
        Self {
            sent: VecDeque::new(),
            unacknowledged: first,
            next: first,
            trip: None,
            repeat_at: None,
            tail_at: None,
            is_tail_probed: false,
            probe_at: None,
            probe_backoff: 0,
            window_is_closed: false,
            duplicates: 0,
            recovery: None,
            size_max: usize::MAX,
            has_sack: false,
            repetitions: 0,
            since: None,
            window_probes: 0,
        }
    }

    /// The first number that was not sent.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    pub(super) fn unacknowledged(&self) -> u32 {
        self.unacknowledged
    }

    /// Takes a round trip: that of the handshake is the first.
    pub(super) fn measure(&mut self, trip: Duration) {
        self.trip = Some(match self.trip {
            None => (trip, trip / 2),
            Some((smooth, varies)) => ((smooth * 7 + trip) / 8, (varies * 3 + smooth.abs_diff(trip)) / 4),
        });
    }

    fn rto(&self) -> Duration {
        let first = self.trip.map_or(RTO_INITIAL, |(smooth, varies)| smooth + RTO_MARGIN_MIN.max(varies * 4));
        first.min(RTO_MAX)
    }

    fn backed_off(&self, backoff: u32) -> Duration {
        self.rto().saturating_mul(1 << backoff.min(10)).min(RTO_MAX)
    }

    /// Takes what smoltcp sends. Returns what of it is new, in segments that the path takes.
    pub(super) fn send(&mut self, now: Instant, mut part: Part) -> Vec<Part> {
        // What was held back before comes again, and all behind it.
        if !after(part.end(), self.next) || after(part.sequence, self.next) {
            return Vec::new();
        }
        // A byte beyond a closed window is smoltcp's probe.
        if self.window_is_closed && part.bytes.len() == 1 {
            return Vec::new();
        }
        if after(self.next, part.sequence) {
            part.cut_front(self.next);
        }
        self.next = part.end();
        let parts = part.cut(self.size_max);
        if self.sent.is_empty() {
            self.repeat_at = Some(now + self.backed_off(self.repetitions));
        }
        self.sent.extend(parts.iter().map(|part| Sent { part: part.clone(), at: now, is_repeated: false }));
        self.plan_tail(now);
        parts
    }

    fn plan_tail(&mut self, now: Instant) {
        let may_be = self.has_sack && !self.is_tail_probed && self.recovery.is_none() && self.repetitions == 0;
        let margin = if self.sent.len() == 1 { RTO_MARGIN_MIN } else { TAIL_MARGIN };
        let wait = self.trip.map_or(RTO_INITIAL, |(smooth, _)| smooth * 2 + margin);
        let bound = self.repeat_at.filter(|_| may_be && !self.sent.is_empty());
        self.tail_at = bound.map(|bound| bound.min(now + wait));
    }

    /// The other end has answered something; its window, and up to where it has the stream. Returns what is sent again.
    pub(super) fn hear(&mut self, now: Instant, to: u32, window: u16, may_be_duplicate: bool) -> Vec<Part> {
        let same_window = self.window_is_closed == (window == 0);
        self.window_is_closed = window == 0;
        self.window_probes = 0;
        if !self.window_is_closed {
            (self.probe_at, self.probe_backoff) = (None, 0);
        }
        if after(to, self.unacknowledged) && !after(to, self.next) {
            return self.advance(now, to);
        }
        if !may_be_duplicate || !same_window || self.sent.is_empty() {
            return Vec::new();
        }
        self.duplicates += 1;
        if self.duplicates != DUPLICATES || self.recovery.is_some() {
            return Vec::new();
        }
        self.recovery = Some(Recovery { until: self.next, next: self.unacknowledged });
        self.tail_at = None;
        self.again(now, 1)
    }

    fn advance(&mut self, now: Instant, to: u32) -> Vec<Part> {
        let (mut trip, mut is_repeated, mut count) = (None, false, 0);
        while let Some(first) = self.sent.front_mut() {
            if after(first.part.end(), to) {
                if after(to, first.part.sequence) {
                    first.part.cut_front(to);
                }
                break;
            }
            trip = trip.or_else(|| Some(now - first.at));
            is_repeated |= first.is_repeated;
            count += 1;
            self.sent.pop_front();
        }
        // A repeated segment may be answered for its first sending (Karn), and what came with it waited for it.
        if let Some(trip) = trip.filter(|_| !is_repeated) {
            self.measure(trip);
        }
        self.unacknowledged = to;
        (self.duplicates, self.repetitions, self.since) = (0, 0, None);
        self.is_tail_probed = false;
        self.repeat_at = if self.sent.is_empty() { None } else { Some(now + self.rto()) };
        self.recovery = self.recovery.filter(|recovery| after(recovery.until, to));
        self.plan_tail(now);
        if self.recovery.is_some() { self.again(now, 2 * count.max(1)) } else { Vec::new() }
    }

    /// The next `count` segments that are taken for lost.
    fn again(&mut self, now: Instant, count: usize) -> Vec<Part> {
        let Some(Recovery { until, mut next }) = self.recovery else { return Vec::new() };
        if after(self.unacknowledged, next) {
            next = self.unacknowledged;
        }
        let mut parts = Vec::new();
        for sent in &mut self.sent {
            if parts.len() == count || !after(until, sent.part.sequence) {
                break;
            }
            if !after(next, sent.part.sequence) {
                (sent.at, sent.is_repeated) = (now, true);
                next = sent.part.end();
                parts.push(sent.part.clone());
            }
        }
        self.recovery = Some(Recovery { until, next });
        parts
    }

    /// The path takes packets with so many bytes of the stream only: what is in flight goes out again in such ones.
    pub(super) fn shrink(&mut self, now: Instant, size_max: usize) -> Vec<Part> {
        if size_max >= self.size_max {
            return Vec::new();
        }
        self.size_max = size_max;
        if self.sent.iter().all(|sent| sent.part.bytes.len() <= size_max) {
            return Vec::new();
        }
        let old = std::mem::take(&mut self.sent);
        let parts: Vec<_> = old.into_iter().flat_map(|sent| sent.part.cut(size_max)).collect();
        self.sent = parts.iter().map(|part| Sent { part: part.clone(), at: now, is_repeated: true }).collect();
        self.repeat_at = Some(now + self.backed_off(self.repetitions));
        self.tail_at = None;
        parts
    }

    /// Starts and stops the probes of a closed window behind which something waits.
    pub(super) fn arrange(&mut self, now: Instant, has_unsent: bool) {
        let probes = self.window_is_closed && self.sent.is_empty() && has_unsent;
        if !probes {
            self.probe_at = None;
        } else if self.probe_at.is_none() {
            self.probe_at = Some(now + self.backed_off(self.probe_backoff));
        }
    }

    /// Nothing is sent any more.
    pub(super) fn stop(&mut self) {
        self.sent.clear();
        (self.repeat_at, self.tail_at, self.probe_at) = (None, None, None);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.repeat_at.into_iter().chain(self.tail_at).chain(self.probe_at).min()
    }

    /// What is due of a connection that its program has closed or not.
    pub(super) fn handle_timeout(&mut self, now: Instant, is_closed: bool) -> Due {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.tail_at) {
            (self.tail_at, self.is_tail_probed) = (None, true);
            self.repeat_at = Some(now + self.rto());
            let last = self.sent.back_mut().expect("a tail is in flight");
            (last.at, last.is_repeated) = (now, true);
            return Due::Again(vec![last.part.clone()]);
        }
        if is_due(self.repeat_at) {
            let patience = if is_closed { CLOSED_REPEATED_FOR } else { REPEATED_FOR };
            if self.since.is_some_and(|since| now - since >= patience) {
                return Due::GiveUp;
            }
            self.since.get_or_insert(now);
            self.repetitions += 1;
            self.repeat_at = Some(now + self.backed_off(self.repetitions));
            self.tail_at = None;
            self.recovery = Some(Recovery { until: self.next, next: self.unacknowledged });
            return Due::Again(self.again(now, 1));
        }
        if is_due(self.probe_at) {
            let is_slowest = self.backed_off(self.probe_backoff) >= RTO_MAX;
            let most = if is_closed { WINDOW_PROBES.1 } else { WINDOW_PROBES.0 };
            if self.window_probes >= most || (is_closed && is_slowest) {
                return Due::GiveUp;
            }
            self.window_probes += 1;
            self.probe_backoff += 1;
            self.probe_at = Some(now + self.backed_off(self.probe_backoff));
            return Due::Probe;
        }
        Due::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: Duration = Duration::from_millis(10);

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn part(sequence: u32, length: usize) -> Part {
        Part { sequence, bytes: vec![7; length], fin: false }
    }

    fn sender() -> Sender {
        let mut sender = Sender::new(0);
        sender.measure(TRIP);
        sender
    }

    /// When it sends something again, and how it ends, in milliseconds.
    fn run(sender: &mut Sender, is_closed: bool) -> (Vec<u64>, Option<u64>) {
        let mut times = Vec::new();
        while let Some(now) = sender.poll_timeout() {
            let millis = now.as_nanos() / 1_000_000;
            match sender.handle_timeout(now, is_closed) {
                Due::GiveUp => return (times, Some(millis)),
                Due::Again(_) | Due::Probe => times.push(millis),
                Due::Nothing => panic!("nothing is due"),
            }
        }
        (times, None)
    }

    #[test]
    fn silence_is_met_with_linuxs_repetitions_and_its_end() {
        let mut plain = sender();
        assert_eq!(plain.send(Instant::ZERO, part(0, 10)), [part(0, 10)]);
        let (times, end) = run(&mut plain, false);
        assert_eq!(times[..6], [210, 630, 1470, 3150, 6510, 13_230]);
        assert_eq!(times.len(), 15);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= 120_000));
        assert!(end.is_some_and(|end| (924_600..1_050_000).contains(&end)), "{end:?}");
        let mut closed = sender();
        closed.send(Instant::ZERO, Part { fin: true, ..part(0, 0) });
        let (times, end) = run(&mut closed, true);
        assert_eq!((times.len(), end.is_some_and(|end| (102_200..120_000).contains(&end))), (8, true), "{end:?}");
        let mut with_sack = Sender { has_sack: true, ..sender() };
        with_sack.send(Instant::ZERO, part(0, 10));
        // The probe of the tail does not slow the repetitions down.
        assert_eq!(run(&mut with_sack, false).0[..5], [210, 420, 840, 1680, 3360]);
        let mut several = Sender { has_sack: true, ..sender() };
        several.send(Instant::ZERO, part(0, 10));
        several.send(Instant::ZERO, part(10, 10));
        assert_eq!(several.handle_timeout(at(28), false), Due::Again(vec![part(10, 10)]), "the last one first");
        assert_eq!(several.handle_timeout(at(238), false), Due::Again(vec![part(0, 10)]));
    }

    #[test]
    fn the_round_trip_is_not_that_of_what_waited_for_a_repetition() {
        let mut sender = sender();
        let before = sender.rto();
        for number in 0..4 {
            sender.send(at(0), part(10 * number, 10));
        }
        // The first one is lost, and with it for long all news of the others.
        let now = at(5000);
        assert!(matches!(sender.handle_timeout(now, false), Due::Again(_)));
        sender.hear(now + TRIP, 40, 1000, false);
        assert_eq!(sender.rto(), before);
        sender.send(at(6000), part(40, 10));
        sender.send(at(6004), part(50, 10));
        sender.hear(at(6100), 60, 1000, false);
        assert_eq!(
            sender.trip.map(|(smooth, _)| smooth),
            Some((TRIP * 7 + Duration::from_millis(100)) / 8),
            "the first one's"
        );
    }

    #[test]
    fn a_closed_window_that_answers_is_probed_without_end_and_a_silent_one_fifteen_times() {
        let mut silent = sender();
        silent.hear(at(0), 0, 0, false);
        silent.arrange(at(0), true);
        let (times, end) = run(&mut silent, false);
        assert_eq!(times[..4], [210, 630, 1470, 3150]);
        assert_eq!((times.len(), end.is_some()), (15, true));
        let mut answers = sender();
        answers.hear(at(0), 0, 0, false);
        answers.arrange(at(0), true);
        for _ in 0..100 {
            let now = answers.poll_timeout().expect("a probe");
            assert_eq!(answers.handle_timeout(now, false), Due::Probe);
            answers.hear(now, 0, 0, false);
        }
        // The program has closed it, and would not know.
        assert_eq!(answers.handle_timeout(answers.poll_timeout().expect("a probe"), true), Due::GiveUp);
        answers.hear(at(9_000_000), 0, 100, false);
        assert_eq!(answers.poll_timeout(), None);
    }

    #[test]
    fn an_answer_starts_the_times_over_and_the_lost_rest_follows() {
        let mut sender = sender();
        for number in 0..6 {
            sender.send(Instant::ZERO, part(number * 10, 10));
        }
        assert_eq!(sender.handle_timeout(at(210), false), Due::Again(vec![part(0, 10)]));
        assert_eq!(sender.hear(at(220), 10, 100, false), [part(10, 10), part(20, 10)]);
        assert_eq!(sender.hear(at(230), 30, 100, false), [part(30, 10), part(40, 10), part(50, 10)]);
        assert_eq!(sender.hear(at(240), 60, 100, false), []);
        assert_eq!((sender.poll_timeout(), sender.unacknowledged()), (None, 60));
    }

    #[test]
    fn three_duplicates_bring_the_first_segment_and_damage_nothing_else() {
        let mut sender = sender();
        for number in 0..4 {
            sender.send(Instant::ZERO, part(number * 10, 10));
        }
        sender.hear(at(10), 10, 100, false);
        for (number, expected) in [(1, vec![]), (2, vec![]), (3, vec![part(10, 10)]), (4, vec![])] {
            assert_eq!(sender.hear(at(10), 10, 100, true), expected, "duplicate {number}");
        }
        assert_eq!(sender.hear(at(20), 99, 100, true), [], "it was never sent");
    }

    #[test]
    fn only_what_is_new_goes_out_and_no_more_at_once_than_the_path_takes() {
        let mut sender = sender();
        sender.send(Instant::ZERO, part(0, 1000));
        assert_eq!(sender.send(at(1), part(0, 1000)), [], "smoltcp repeats it");
        assert_eq!(sender.send(at(1), part(500, 700)), [part(1000, 200)]);
        assert_eq!(sender.shrink(at(2), 600), [part(0, 600), part(600, 400), part(1000, 200)]);
        assert_eq!(sender.shrink(at(2), 900), [], "a path does not grow by a report");
        let end = Part { fin: true, ..part(1200, 601) };
        assert_eq!(sender.send(at(3), end), [part(1200, 600), Part { fin: true, ..part(1800, 1) }]);
    }
}
