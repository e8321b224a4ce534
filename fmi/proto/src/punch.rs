//! Punching towards one peer: which address to try when, and which stream to keep. Pure.
//!
//! Every [eager](Pace::Eager) or [brief](Pace::Brief) candidate has one attempt in flight at all times from its start on: a
//! refused attempt is repeated at once, because a gap is what two NATs that answer RST can lock into forever. After
//! [`BURST`] refusals the pause is drawn at random; it is never fixed. Its mean stays at a millisecond, or more if the peer is
//! far away, for [`DENSE`] more, because where a refusal comes back in 50 us a hole is open for 50 us
//! of each round only, and grows from there. A silent attempt is left alone: behind a NAT that
//! drops, the open hole is what lets the peer in. Where this machine says that nothing gets out, that is asked for seldom, and
//! what was to begin later begins: the relay, if there is nothing else.
//!
//! One rank of a pair [nominates] each stream on which the peer proved itself; the other keeps the first that was
//! nominated, and accepts it. So both keep the same stream, whichever side it came from, and what somebody has
//! recorded and repeats is kept by nobody: it is not accepted. A first stream on which the peer has answered is settled
//! in place of nominated, and kept at once.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::candidate::{Candidate, Pace};
use super::cause::comes_first;
use fmi_net::time::Instant;

/// Refusals in a row that are answered by the next attempt at once.
pub const BURST: u32 = 20;
/// Refusals after these that are answered after pauses of one mean.
pub const DENSE: u32 = 500;
/// Refusals for which the mean of the pause doubles once.
const DOUBLING: u32 = 50;
/// Mean of the first drawn pauses.
const PAUSE_MEAN_MIN: Duration = Duration::from_millis(1);
/// The first drawn pauses are shorter than a round trip by this factor: a hole is open for one of those, or nearly.
const PAUSES_IN_REACH: u32 = 8;
/// Bound of the mean: beyond it a punch gets slow without getting likelier.
const PAUSE_MEAN_MAX: Duration = Duration::from_millis(50);
/// Mean of the pause while a tuple is in use.
const PAUSE_MEAN_BUSY: Duration = Duration::from_millis(10);
/// Mean of the pause after a stream of somebody who did not prove to be the peer. It doubles with each: whoever is there may
/// have nothing to do with the group.
const PAUSE_MEAN_STRANGER: Duration = Duration::from_millis(25);
/// Bound of that mean.
const PAUSE_MEAN_STRANGER_MAX: Duration = Duration::from_secs(2);
/// Mean of the pause of a [sparse](Pace::Sparse) candidate: a NAT that refuses forgets at once what an
/// attempt opened, so rarely is as good as never, and an overloaded relay should not be retried quickly.
const PAUSE_MEAN_SPARSE: Duration = Duration::from_millis(200);

/// Which rank of a pair nominates streams, of which the other one keeps the first: the lower one.
pub const fn nominates(rank: u32, peer: u32) -> bool {
    rank < peer
}

/// One try to connect, numbered within its pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u32);

/// A TCP stream to the peer, numbered by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The attempt met nobody.
    Failed(Attempt, io::ErrorKind),
    /// The attempt made a stream; the peer has not proved itself yet.
    Connected(Attempt, StreamId),
    /// The peer proved itself on a stream, which either side opened.
    Confirmed {
        /// The stream.
        stream: StreamId,
        /// Whether the peer answered what this side said there, so that it is no recording.
        is_answered: bool,
    },
    /// The peer nominated or settled a stream.
    Nominated(StreamId),
    /// The peer accepted a stream that this side nominated.
    Accepted(StreamId),
    /// A stream that was not won ended, or its other end failed to prove itself.
    Broken(StreamId),
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect to a candidate.
    Connect(Attempt, Candidate),
    /// Tell the peer that a stream may be kept.
    Nominate {
        /// The stream.
        stream: StreamId,
        /// Whether it is the one, and no acceptance is waited for.
        settles: bool,
    },
    /// Keep this stream; abandon all attempts and other streams of the pair.
    Won(StreamId),
}

#[derive(Debug)]
enum Trying {
    /// Nearer ones have a head start.
    Waiting {
        until: Instant,
    },
    InFlight(Attempt),
    Pausing {
        until: Instant,
    },
    /// Nothing gets out there. Meanwhile that may change.
    Shut {
        until: Instant,
    },
    /// The attempt made this stream, which is proving itself.
    Proving(StreamId),
    /// It failed and is not repeated.
    Done,
}

impl Trying {
    /// When the next attempt is due.
    fn until(&self) -> Option<Instant> {
        match self {
            Self::Waiting { until } | Self::Pausing { until } | Self::Shut { until } => Some(*until),
            Self::InFlight(_) | Self::Proving(_) | Self::Done => None,
        }
    }
}

#[derive(Debug)]
struct Target {
    candidate: Candidate,
    failures: u32,
    /// Streams to it whose other end did not prove to be the peer.
    strangers: u32,
    /// Attempts that this machine did not let out.
    shut: u32,
    trying: Trying,
}

/// Why an attempt is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    /// A refusal, or nobody.
    Nobody,
    /// What passes by itself: the tuple is in use, as the peer's SYN came first and the listener has the stream, or this
    /// machine lacks what an attempt takes. Only a pause lets it through.
    Busy,
    /// Somebody who did not prove to be the peer.
    Stranger,
    /// This machine lets nothing out there.
    NoWay,
}

impl Met {
    fn of(kind: io::ErrorKind) -> Self {
        use io::ErrorKind as Kind;
        let busy = [Kind::AddrNotAvailable, Kind::AddrInUse, Kind::QuotaExceeded, Kind::OutOfMemory];
        let no_way = [Kind::NetworkUnreachable, Kind::NetworkDown, Kind::PermissionDenied, Kind::InvalidInput];
        if busy.contains(&kind) {
            Self::Busy
        } else if no_way.contains(&kind) {
            Self::NoWay
        } else {
            Self::Nobody
        }
    }
}

/// The state of one pair.
#[derive(Debug)]
pub struct Punch {
    nominates: bool,
    has_nominated: bool,
    targets: Vec<Target>,
    attempts: u32,
    /// Mean of the first drawn pauses.
    pause_mean: Duration,
    won: Option<StreamId>,
    last_failure: Option<io::ErrorKind>,
    entropy: ChaCha8Rng,
    outputs: VecDeque<Output>,
}

impl Punch {
    /// Starts towards `candidates`, each after its delay. Whether this rank `nominates` is said by [`nominates`].
    pub fn new(now: Instant, nominates: bool, candidates: Vec<Candidate>, seed: u64) -> Self {
        let mut punch = Self {
            nominates,
            has_nominated: false,
            targets: Vec::new(),
            attempts: 0,
            pause_mean: PAUSE_MEAN_MIN,
            won: None,
            last_failure: None,
            entropy: ChaCha8Rng::seed_from_u64(seed),
            outputs: VecDeque::new(),
        };
        for candidate in candidates {
            let trying = if candidate.after.is_zero() {
                Trying::InFlight(punch.attempt(candidate))
            } else {
                Trying::Waiting { until: now + candidate.after }
            };
            punch.targets.push(Target { candidate, failures: 0, strangers: 0, shut: 0, trying });
        }
        punch
    }

    /// Tells how long packets take to the peer and back, at most: pauses are short against that, and not shorter.
    #[must_use]
    pub fn within(mut self, reach: Duration) -> Self {
        self.pause_mean = (reach / PAUSES_IN_REACH).clamp(PAUSE_MEAN_MIN, PAUSE_MEAN_MAX);
        self
    }

    /// Takes what happened. Whatever comes after the pair is won is ignored.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        if self.won.is_some() {
            return;
        }
        match input {
            Input::Failed(attempt, kind) => self.failed(now, attempt, kind),
            Input::Connected(attempt, stream) => {
                if let Some(target) = self.target_of(attempt) {
                    target.trying = Trying::Proving(stream);
                }
            }
            Input::Confirmed { stream, is_answered } => {
                if self.nominates {
                    let settles = is_answered && !self.has_nominated;
                    self.has_nominated = true;
                    self.outputs.push_back(Output::Nominate { stream, settles });
                    if settles {
                        self.win(stream);
                    }
                }
            }
            Input::Nominated(stream) => {
                if !self.nominates {
                    self.win(stream);
                }
            }
            Input::Accepted(stream) => {
                if self.nominates {
                    self.win(stream);
                }
            }
            Input::Broken(stream) => self.broken(now, stream),
        }
    }

    /// Repeats the attempts whose pause has ended.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.won.is_some() {
            return;
        }
        for index in 0..self.targets.len() {
            if self.targets[index].trying.until().is_some_and(|until| now >= until) {
                self.again(index);
            }
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.won.is_some() {
            return None;
        }
        self.targets
            .iter()
            .filter_map(|target| target.trying.until())
            .min()
            .map(|until| (until, "the pause before another attempt ends"))
    }

    /// Attempts made so far.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// What the last failed attempt met; that a pair of addresses was in use only if there was nothing else.
    pub fn last_failure(&self) -> Option<io::ErrorKind> {
        self.last_failure
    }

    /// Streams that this side opened and whose other end did not prove to be the peer.
    pub fn strangers(&self) -> u32 {
        self.targets.iter().map(|target| target.strangers).sum()
    }

    /// The stream that was kept.
    pub fn won(&self) -> Option<StreamId> {
        self.won
    }

    fn attempt(&mut self, candidate: Candidate) -> Attempt {
        let attempt = Attempt(self.attempts);
        self.attempts += 1;
        self.outputs.push_back(Output::Connect(attempt, candidate));
        attempt
    }

    fn again(&mut self, index: usize) {
        let attempt = self.attempt(self.targets[index].candidate);
        self.targets[index].trying = Trying::InFlight(attempt);
    }

    fn target_of(&mut self, attempt: Attempt) -> Option<&mut Target> {
        self.targets.iter_mut().find(|target| matches!(target.trying, Trying::InFlight(own) if own == attempt))
    }

    fn failed(&mut self, now: Instant, attempt: Attempt, kind: io::ErrorKind) {
        let in_flight = |target: &Target| matches!(target.trying, Trying::InFlight(own) if own == attempt);
        if let Some(index) = self.targets.iter().position(in_flight) {
            let is_in_use = matches!(kind, io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse);
            // What this machine refuses comes before all that follows from it.
            let is_known =
                self.last_failure.is_some_and(|known| known != io::ErrorKind::AddrInUse && comes_first(known));
            if self.last_failure.is_none() || !(is_in_use || is_known) {
                self.last_failure = Some(kind);
            }
            self.repeat(now, index, Met::of(kind));
        }
    }

    fn broken(&mut self, now: Instant, stream: StreamId) {
        let proving = |target: &Target| matches!(target.trying, Trying::Proving(own) if own == stream);
        if let Some(index) = self.targets.iter().position(proving) {
            self.targets[index].strangers = self.targets[index].strangers.saturating_add(1);
            self.repeat(now, index, Met::Stranger);
        }
    }

    /// A head start is for those that run: where nothing gets out to any that has begun, the next ones begin.
    fn pass_on(&mut self) {
        let is_waiting = |target: &Target| matches!(target.trying, Trying::Waiting { .. });
        let is_shut = |target: &Target| matches!(target.trying, Trying::Shut { .. });
        if !self.targets.iter().all(|target| is_waiting(target) || is_shut(target)) {
            return;
        }
        let waiting = self.targets.iter().filter(|target| is_waiting(target));
        let next = waiting.filter_map(|target| target.trying.until()).min();
        for index in 0..self.targets.len() {
            if is_waiting(&self.targets[index]) && self.targets[index].trying.until() == next {
                self.again(index);
            }
        }
    }

    fn repeat(&mut self, now: Instant, index: usize, met: Met) {
        let target = &mut self.targets[index];
        target.failures = target.failures.saturating_add(1);
        target.shut += u32::from(met == Met::NoWay);
        let doubled =
            |least: Duration, doublings: u32, most: Duration| least.saturating_mul(1 << doublings.min(8)).min(most);
        let rest = target.failures.saturating_sub(BURST + DENSE) / DOUBLING;
        let mean = match (target.candidate.pace, met) {
            (Pace::Once, _) => {
                target.trying = Trying::Done;
                return;
            }
            (_, Met::Stranger) => doubled(PAUSE_MEAN_STRANGER, target.strangers - 1, PAUSE_MEAN_STRANGER_MAX),
            (Pace::Eager | Pace::Brief, Met::Nobody) if target.failures <= BURST => return self.again(index),
            (_, Met::NoWay) => doubled(PAUSE_MEAN_SPARSE, target.shut - 1, PAUSE_MEAN_STRANGER_MAX),
            (Pace::Eager, Met::Nobody) => doubled(self.pause_mean, rest, PAUSE_MEAN_MAX),
            (Pace::Eager | Pace::Brief, Met::Busy) => doubled(PAUSE_MEAN_BUSY, rest, PAUSE_MEAN_MAX),
            (Pace::Brief | Pace::Sparse, _) => PAUSE_MEAN_SPARSE,
        };
        let span = u64::try_from(2 * mean.as_nanos()).expect("pauses are short");
        let pause = Duration::from_nanos(1 + self.entropy.next_u64() % span);
        let until = now + pause;
        if met == Met::NoWay {
            self.targets[index].trying = Trying::Shut { until };
            self.pass_on();
        } else {
            self.targets[index].trying = Trying::Pausing { until };
        }
    }

    fn win(&mut self, stream: StreamId) {
        self.won = Some(stream);
        self.outputs.push_back(Output::Won(stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::LocalEnd;
    use crate::error::Path;
    use proptest::prelude::*;
    use std::net::SocketAddr;

    const REFUSED: io::ErrorKind = io::ErrorKind::ConnectionRefused;

    fn candidate(port: u16) -> Candidate {
        let remote = SocketAddr::from(([1, 1, 1, 1], port));
        let (from, pace, after) = (LocalEnd::Registered, Pace::Eager, Duration::ZERO);
        Candidate { remote, path: Path::Direct, from, pace, after }
    }

    fn punch(nominates: bool) -> Punch {
        let mut punch = Punch::new(Instant::ZERO, nominates, vec![candidate(1)], 1);
        assert_eq!(punch.poll_output(), Some(Output::Connect(Attempt(0), candidate(1))));
        punch
    }

    #[test]
    fn a_refusal_is_answered_at_once_and_then_never_with_a_fixed_pause() {
        let mut punch = punch(true);
        for attempt in 0..BURST {
            punch.handle_input(Instant::ZERO, Input::Failed(Attempt(attempt), REFUSED));
            assert_eq!(punch.poll_output(), Some(Output::Connect(Attempt(attempt + 1), candidate(1))));
        }
        let mut pauses = Vec::new();
        let mut now = Instant::ZERO;
        for attempt in BURST..BURST + DENSE + 8 * DOUBLING {
            punch.handle_input(now, Input::Failed(Attempt(attempt), REFUSED));
            let (at, _) = punch.poll_timeout().expect("a pause");
            pauses.push(at - now);
            now = at;
            punch.handle_timeout(now);
            assert!(punch.poll_output().is_some());
        }
        assert!(pauses.iter().all(|pause| *pause <= 2 * PAUSE_MEAN_MAX));
        let dense = &pauses[..DENSE as usize];
        assert!(dense.iter().all(|pause| *pause <= 2 * PAUSE_MEAN_MIN));
        assert!(pauses.last() > dense.iter().max(), "the mean grows");
        let distinct: std::collections::BTreeSet<_> = pauses.iter().collect();
        assert!(distinct.len() > pauses.len() * 9 / 10);
    }

    fn confirmed(stream: u64, is_answered: bool) -> Input {
        Input::Confirmed { stream: StreamId(stream), is_answered }
    }

    fn outputs(punch: &mut Punch) -> Vec<Output> {
        std::iter::from_fn(|| punch.poll_output()).collect()
    }

    #[test]
    fn the_lower_rank_nominates_each_proven_stream_and_keeps_the_one_that_is_accepted() {
        let mut punch = punch(true);
        punch.handle_input(Instant::ZERO, confirmed(4, false));
        punch.handle_input(Instant::ZERO, confirmed(5, true));
        let (four, five) = (StreamId(4), StreamId(5));
        let nominated = [four, five].map(|stream| Output::Nominate { stream, settles: false });
        assert_eq!(outputs(&mut punch), nominated, "the first may be kept as well");
        assert_eq!(punch.won(), None);
        punch.handle_input(Instant::ZERO, Input::Broken(four));
        punch.handle_input(Instant::ZERO, Input::Accepted(five));
        assert_eq!((outputs(&mut punch), punch.won()), (vec![Output::Won(five)], Some(five)));
    }

    #[test]
    fn a_first_stream_that_the_peer_has_answered_is_settled() {
        let mut punch = punch(true);
        punch.handle_input(Instant::ZERO, confirmed(4, true));
        punch.handle_input(Instant::ZERO, confirmed(5, true));
        let settled = Output::Nominate { stream: StreamId(4), settles: true };
        assert_eq!(outputs(&mut punch), [settled, Output::Won(StreamId(4))]);
    }

    #[test]
    fn the_higher_rank_keeps_the_first_stream_that_is_nominated() {
        let mut punch = punch(false);
        punch.handle_input(Instant::ZERO, confirmed(4, true));
        punch.handle_input(Instant::ZERO, Input::Accepted(StreamId(4)));
        assert_eq!(outputs(&mut punch), [], "an acceptance is what it says itself");
        punch.handle_input(Instant::ZERO, Input::Nominated(StreamId(5)));
        punch.handle_input(Instant::ZERO, Input::Nominated(StreamId(4)));
        assert_eq!(outputs(&mut punch), [Output::Won(StreamId(5))]);
    }

    #[test]
    fn a_stream_that_fails_to_prove_itself_costs_only_itself() {
        let mut punch = punch(true);
        punch.handle_input(Instant::ZERO, Input::Connected(Attempt(0), StreamId(1)));
        punch.handle_input(Instant::ZERO, Input::Broken(StreamId(1)));
        let (at, _) = punch.poll_timeout().expect("a pause");
        punch.handle_timeout(at);
        assert_eq!(punch.poll_output(), Some(Output::Connect(Attempt(1), candidate(1))));
    }

    #[test]
    fn a_stranger_is_left_in_peace() {
        for pace in [Pace::Eager, Pace::Brief, Pace::Sparse] {
            let mut punch = Punch::new(Instant::ZERO, true, vec![Candidate { pace, ..candidate(1) }], 1);
            let mut now = Instant::ZERO;
            let mut visits = 0;
            while now < Instant::ZERO + Duration::from_secs(20) {
                while let Some(Output::Connect(attempt, _)) = punch.poll_output() {
                    visits += 1;
                    punch.handle_input(now, Input::Connected(attempt, StreamId(visits)));
                    punch.handle_input(now, Input::Broken(StreamId(visits)));
                }
                now = punch.poll_timeout().expect("it may be the peer in the end").0;
                punch.handle_timeout(now);
            }
            assert!((5..30).contains(&visits), "{visits} in 20 s");
            assert_eq!(u64::from(punch.strangers()), visits);
        }
    }

    #[test]
    fn a_tuple_in_use_leaves_time_to_the_listener() {
        let mut punch = punch(false);
        punch.handle_input(Instant::ZERO, Input::Failed(Attempt(0), io::ErrorKind::AddrNotAvailable));
        assert_eq!(punch.poll_output(), None);
        assert!(punch.poll_timeout().is_some());
    }

    #[test]
    fn candidates_start_in_their_order_and_keep_their_pace() {
        let ms = Duration::from_millis;
        let second = Candidate { pace: Pace::Sparse, after: ms(100), ..candidate(2) };
        let third = Candidate { pace: Pace::Once, after: ms(250), ..candidate(3) };
        let mut punch = Punch::new(Instant::ZERO, true, vec![candidate(1), second, third], 1);
        assert_eq!(punch.poll_output(), Some(Output::Connect(Attempt(0), candidate(1))));
        assert_eq!((punch.poll_output(), punch.poll_timeout().map(|it| it.0)), (None, Some(Instant::ZERO + ms(100))));
        punch.handle_timeout(Instant::ZERO + ms(100));
        assert_eq!(punch.poll_output(), Some(Output::Connect(Attempt(1), second)));
        punch.handle_timeout(Instant::ZERO + ms(250));
        assert_eq!(punch.poll_output(), Some(Output::Connect(Attempt(2), third)));
        punch.handle_input(Instant::ZERO + ms(250), Input::Failed(Attempt(2), REFUSED));
        assert_eq!((punch.poll_output(), punch.poll_timeout()), (None, None), "once");
        punch.handle_input(Instant::ZERO + ms(250), Input::Failed(Attempt(1), REFUSED));
        assert_eq!(punch.poll_output(), None);
        assert!(punch.poll_timeout().is_some(), "sparse: not at once, but again");
    }

    #[test]
    fn where_nothing_gets_out_what_is_next_begins_and_the_first_is_tried_seldom() {
        let ms = Duration::from_millis;
        let after = |port, after| Candidate { after: ms(after), ..candidate(port) };
        for kind in [io::ErrorKind::NetworkUnreachable, io::ErrorKind::PermissionDenied] {
            let all = vec![candidate(1), after(2, 100), after(3, 100), after(4, 250)];
            let mut punch = Punch::new(Instant::ZERO, true, all, 1);
            let begun = |punch: &mut Punch| {
                let ports = outputs(punch).into_iter().map(|output| match output {
                    Output::Connect(attempt, to) => (attempt.0, to.remote.port()),
                    other @ (Output::Nominate { .. } | Output::Won(_)) => panic!("{other:?}"),
                });
                ports.collect::<Vec<_>>()
            };
            assert_eq!(begun(&mut punch), [(0, 1)]);
            punch.handle_input(Instant::ZERO, Input::Failed(Attempt(0), kind));
            assert_eq!(begun(&mut punch), [(1, 2), (2, 3)], "not the one that comes later");
            punch.handle_input(Instant::ZERO, Input::Failed(Attempt(1), kind));
            assert_eq!(begun(&mut punch), [], "another one is under way");
            punch.handle_input(Instant::ZERO, Input::Failed(Attempt(2), REFUSED));
            assert_eq!(begun(&mut punch), [(3, 3)], "as eagerly as ever");
            punch.handle_input(Instant::ZERO, Input::Failed(Attempt(3), kind));
            assert_eq!(begun(&mut punch), [(4, 4)]);
            let (mut now, mut attempts) = (Instant::ZERO, 0);
            while now < Instant::ZERO + Duration::from_secs(20) {
                for (attempt, _) in begun(&mut punch) {
                    attempts += 1;
                    punch.handle_input(now, Input::Failed(Attempt(attempt), kind));
                }
                now = punch.poll_timeout().expect("a way may be found").0;
                punch.handle_timeout(now);
            }
            assert!((20..100).contains(&attempts), "{attempts} to three addresses in 20 s");
        }
    }

    #[test]
    fn a_brief_candidate_is_tried_at_once_for_a_while() {
        let brief = Candidate { pace: Pace::Brief, ..candidate(1) };
        let mut punch = Punch::new(Instant::ZERO, true, vec![brief], 1);
        for attempt in 0..BURST {
            punch.handle_input(Instant::ZERO, Input::Failed(Attempt(attempt), REFUSED));
        }
        assert_eq!(punch.attempts(), BURST + 1);
        let mut now = Instant::ZERO;
        while now < Instant::ZERO + Duration::from_secs(20) {
            punch.handle_input(now, Input::Failed(Attempt(punch.attempts() - 1), REFUSED));
            now = punch.poll_timeout().expect("its time may come").0;
            punch.handle_timeout(now);
        }
        assert!((BURST + 50..BURST + 200).contains(&punch.attempts()), "{}", punch.attempts());
    }

    #[test]
    fn pauses_are_as_long_as_the_distance_lets_holes_be_open() {
        for (reach, mean) in [(0, PAUSE_MEAN_MIN), (80, Duration::from_millis(10)), (10_000, PAUSE_MEAN_MAX)] {
            let longest = (0..200).map(|seed| {
                let mut punch = Punch::new(Instant::ZERO, true, vec![candidate(1)], seed);
                punch = punch.within(Duration::from_millis(reach));
                punch.targets[0].failures = BURST;
                punch.handle_input(Instant::ZERO, Input::Failed(Attempt(0), REFUSED));
                punch.poll_timeout().expect("a pause").0 - Instant::ZERO
            });
            let longest = longest.max().expect("many");
            assert!(longest <= 2 * mean && longest > mean, "{longest:?} at {reach} ms");
        }
    }

    #[test]
    fn the_lower_rank_of_a_pair_nominates() {
        for (rank, peer) in [(0, 1), (3, 9), (0, u32::MAX)] {
            assert!(nominates(rank, peer) && !nominates(peer, rank));
        }
        assert!(!nominates(4, 4), "nobody is its own peer");
    }

    #[test]
    fn attempts_are_counted_and_the_last_failure_is_known() {
        let mut punch = punch(true);
        assert_eq!((punch.attempts(), punch.last_failure()), (1, None));
        punch.handle_input(Instant::ZERO, Input::Failed(Attempt(0), REFUSED));
        assert_eq!((punch.attempts(), punch.last_failure()), (2, Some(REFUSED)));
        punch.handle_input(Instant::ZERO, Input::Failed(Attempt(0), io::ErrorKind::TimedOut));
        assert_eq!(punch.last_failure(), Some(REFUSED), "that attempt was over");
        punch.handle_input(Instant::ZERO, Input::Failed(Attempt(1), io::ErrorKind::QuotaExceeded));
        punch.handle_timeout(punch.poll_timeout().expect("files may be closed meanwhile").0);
        assert_eq!(punch.attempts(), 3);
        punch.handle_input(Instant::ZERO, Input::Failed(Attempt(2), REFUSED));
        assert_eq!(punch.last_failure(), Some(io::ErrorKind::QuotaExceeded), "what this machine lacks comes first");
    }

    #[test]
    fn pauses_are_drawn_around_a_mean_that_doubles_after_a_number_of_refusals() {
        // The mean of many machines after so many failures.
        let mean = |failures: u32| {
            let pauses = (0..400).map(|seed| {
                let mut punch = Punch::new(Instant::ZERO, true, vec![candidate(1)], seed);
                punch.targets[0].failures = failures - 1;
                punch.handle_input(Instant::ZERO, Input::Failed(Attempt(0), REFUSED));
                punch.poll_timeout().expect("a pause").0 - Instant::ZERO
            });
            pauses.sum::<Duration>() / 400
        };
        for (failures, expected) in [
            (BURST + 1, PAUSE_MEAN_MIN),
            (BURST + DENSE + DOUBLING - 1, PAUSE_MEAN_MIN),
            (BURST + DENSE + DOUBLING, 2 * PAUSE_MEAN_MIN),
            (BURST + DENSE + 2 * DOUBLING, 4 * PAUSE_MEAN_MIN),
            (BURST + DENSE + 100 * DOUBLING, PAUSE_MEAN_MAX),
        ] {
            let mean = mean(failures);
            assert!(
                mean > expected * 85 / 100 && mean < expected * 115 / 100,
                "{failures}: {mean:?}, not {expected:?}"
            );
        }
    }

    /// Two machines, and what is on its way between them.
    struct Pair {
        low: Punch,
        high: Punch,
        nominations: Vec<StreamId>,
        acceptances: Vec<StreamId>,
        /// Streams of which this side has said or heard something.
        confirmed: [std::collections::BTreeSet<u64>; 2],
    }

    /// The other end of these is somebody who repeats what was said elsewhere: only the lower rank takes it for a peer.
    const RECORDED: std::ops::Range<u64> = 4..6;

    impl Pair {
        fn confirm(&mut self, low: bool, stream: u64, is_answered: bool) {
            if !self.confirmed[usize::from(low)].insert(stream) || (!low && RECORDED.contains(&stream)) {
                return;
            }
            let is_answered = is_answered && !RECORDED.contains(&stream);
            let machine = if low { &mut self.low } else { &mut self.high };
            machine.handle_input(Instant::ZERO, confirmed(stream, is_answered));
            self.drain();
        }

        fn drain(&mut self) {
            for output in outputs(&mut self.low) {
                if let Output::Nominate { stream, .. } = output {
                    self.nominations.push(stream);
                }
            }
            for output in outputs(&mut self.high) {
                if let Output::Won(stream) = output {
                    self.acceptances.push(stream);
                }
            }
        }

        /// Delivers one message, if the other end is the peer and not somebody who cannot read it.
        fn deliver(&mut self, at: usize) {
            let count = self.nominations.len() + self.acceptances.len();
            if count == 0 {
                return;
            }
            let at = at % count;
            if at < self.nominations.len() {
                let stream = self.nominations.remove(at);
                if !RECORDED.contains(&stream.0) {
                    self.high.handle_input(Instant::ZERO, Input::Nominated(stream));
                }
            } else {
                let stream = self.acceptances.remove(at - self.nominations.len());
                self.low.handle_input(Instant::ZERO, Input::Accepted(stream));
            }
            self.drain();
        }
    }

    proptest! {
        /// Whatever is proved, answered, recorded and delivered in which order: both ends keep the same stream, a peer's.
        #[test]
        fn both_sides_keep_one_stream(
            order in proptest::collection::vec((0..3u8, 0u64..6, any::<bool>(), any::<usize>()), 1..60),
        ) {
            let (low, high) = (punch(true), punch(false));
            let mut pair = Pair { low, high, nominations: vec![], acceptances: vec![], confirmed: Default::default() };
            for (event, stream, is_answered, at) in order {
                match event {
                    0 => pair.confirm(true, stream, is_answered),
                    1 => pair.confirm(false, stream, is_answered),
                    _ => pair.deliver(at),
                }
                if let (Some(low), Some(high)) = (pair.low.won(), pair.high.won()) {
                    prop_assert_eq!(low, high);
                }
            }
            while !pair.nominations.is_empty() || !pair.acceptances.is_empty() {
                pair.deliver(0);
            }
            let has_peer = pair.confirmed[1].iter().any(|stream| !RECORDED.contains(stream));
            prop_assert_eq!(pair.low.won(), pair.high.won());
            prop_assert_eq!(pair.low.won().is_some(), has_peer);
            prop_assert!(pair.low.won().is_none_or(|stream| !RECORDED.contains(&stream.0)));
        }
    }
}
