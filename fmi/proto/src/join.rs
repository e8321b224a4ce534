//! The rounds of a join: how long each may take, what it may use, and whether its members fit together. Pure.
//!
//! A round in which no further pair has come together for some time starts over from fresh local ports, which cures
//! mappings that are stuck. A large group on a slow machine takes long and makes progress all the while: that is no reason to
//! begin again. Each round has twice the patience of the one before. The whole has a deadline.

use std::collections::VecDeque;
use std::time::Duration;

use super::backoff::Backoff;
use super::candidate::Roster;
use super::card::Security;
use fmi_net::time::Instant;

/// How long the first round may be without progress; each further one has twice as long. A mapping that is stuck (a retry
/// behind Linux's tracker in SYN_SENT2 leaves it untranslated) costs this much, and a lost SYN must
/// have time for its repetition.
pub const FIRST_ROUND: Duration = Duration::from_secs(2);

/// For so long after a round its pairs tell more about a join that fails than the registration that followed: all that live
/// register again within a few round trips, or after a few lost packets.
const JUST: Duration = Duration::from_secs(5);

/// Ways to the farthest peer and back that a round has in addition. A silent pair turns to the relay after two, which stands
/// after two more; then both prove themselves.
const WAYS: u32 = 6;

/// How much longer everything may take in a group of this size: as many processes may share a machine, and one that waits for
/// a processor sees nothing of the progress of the others.
pub fn allowance(size: u32) -> Duration {
    Duration::from_millis(10).saturating_mul(size)
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The rendezvous handed the group out.
    HandedOut(&'a Roster),
    /// A pair of this rank has come together.
    Linked,
    /// The round is void, for whatever reason.
    Ended,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect to the members.
    Start,
    /// Give the join up: a peer protects its streams in another way.
    Mismatch {
        /// Its rank.
        peer: u32,
        /// What it uses.
        theirs: Security,
    },
    /// Give the round up and register again.
    Retry,
    /// Give the join up: its deadline has passed.
    Expired,
}

/// The rounds of one join.
#[derive(Debug)]
pub struct Rounds {
    rank: u32,
    security: Security,
    deadline: Instant,
    round_until: Option<Instant>,
    /// Whether a round is under way, and when the last one ended.
    is_on: bool,
    ended_at: Option<Instant>,
    /// How long this round may be without progress.
    silence_max: Duration,
    patience: Backoff,
    outputs: VecDeque<Output>,
}

impl Rounds {
    /// Starts before the first round of a rank. No round is without progress for longer than `silence_max`, and as its size and
    /// distances ask.
    pub fn new(rank: u32, security: Security, deadline: Instant, silence_max: Duration) -> Self {
        let patience = Backoff::new(FIRST_ROUND, silence_max);
        Self {
            rank,
            security,
            deadline,
            round_until: None,
            is_on: false,
            ended_at: None,
            silence_max: FIRST_ROUND,
            patience,
            outputs: VecDeque::new(),
        }
    }

    /// Takes what happened.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::HandedOut(roster) => {
                let output = match roster.otherwise_protected(self.security) {
                    Some((peer, theirs)) => Output::Mismatch { peer, theirs },
                    None => {
                        let distance = roster.reach(self.rank).saturating_mul(WAYS);
                        self.silence_max = self.patience.fail() + allowance(roster.size()) + distance;
                        self.round_until = Some(now + self.silence_max);
                        self.is_on = true;
                        Output::Start
                    }
                };
                self.outputs.push_back(output);
            }
            Input::Linked if self.round_until.is_some() => self.round_until = Some(now + self.silence_max),
            Input::Linked => {}
            Input::Ended => {
                if self.is_on {
                    self.ended_at = Some(now);
                }
                (self.is_on, self.round_until) = (false, None);
            }
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.deadline {
            self.outputs.push_back(Output::Expired);
        } else if self.round_until.is_some_and(|until| now >= until) {
            self.round_until = None;
            self.outputs.push_back(Output::Retry);
        }
    }

    /// Whether a round ended only just now, so that what it lacked explains why there is no group.
    pub fn just_ended(&self, now: Instant) -> bool {
        self.ended_at.is_some_and(|at| now < at + JUST)
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.round_until.filter(|until| *until < self.deadline) {
            Some(until) => Some((until, "a round makes no progress")),
            None => Some((self.deadline, "the join has had its time")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::Peer;
    use crate::card::Card;
    use crate::rendezvous::Observed;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u32) -> Instant {
        Instant::ZERO + seconds * SECOND
    }

    fn roster(securities: &[Option<Security>]) -> Roster {
        let peer = |security: &Option<Security>| Peer {
            nonce: [0; 16],
            observed: Observed::once(([1, 1, 1, 1], 1).into()),
            round_trip: Duration::ZERO,
            card: security.map(Card::sample),
        };
        Roster { session: [0; 16], epoch: 0, digest: [0; 32], peers: securities.iter().map(peer).collect() }
    }

    fn rounds() -> Rounds {
        Rounds::new(0, Security::Encrypted, at(60), 5 * SECOND)
    }

    #[test]
    fn rounds_double_up_to_their_bound() {
        let (mut rounds, mut now) = (rounds(), at(0));
        for seconds in [2, 4, 5, 5] {
            rounds.handle_input(now, Input::HandedOut(&roster(&[Some(Security::Encrypted); 2])));
            assert_eq!(rounds.poll_output(), Some(Output::Start));
            let (until, _) = rounds.poll_timeout().expect("a round ends");
            assert_eq!(until, now + seconds * SECOND + allowance(2));
            rounds.handle_timeout(until - Duration::from_nanos(1));
            assert_eq!(rounds.poll_output(), None);
            rounds.handle_timeout(until);
            assert_eq!((rounds.poll_output(), rounds.poll_output()), (Some(Output::Retry), None));
            now = until;
        }
    }

    #[test]
    fn a_round_lasts_as_long_as_it_makes_progress() {
        let mut rounds = rounds();
        rounds.handle_input(at(0), Input::HandedOut(&roster(&[Some(Security::Encrypted); 2])));
        rounds.poll_output();
        for now in 1..9 {
            rounds.handle_input(at(now), Input::Linked);
            assert_eq!(rounds.poll_timeout().map(|it| it.0), Some(at(now + 2) + allowance(2)));
        }
        rounds.handle_timeout(at(11));
        assert_eq!(rounds.poll_output(), Some(Output::Retry));
        rounds.handle_input(at(12), Input::Linked);
        assert_eq!(rounds.poll_timeout().map(|it| it.0), Some(at(60)), "the round has been given up");
    }

    #[test]
    fn a_round_that_ended_is_not_timed_and_the_join_is() {
        let mut rounds = rounds();
        rounds.handle_input(at(0), Input::HandedOut(&roster(&[Some(Security::Encrypted)])));
        rounds.poll_output();
        rounds.handle_input(at(1), Input::Ended);
        rounds.handle_timeout(at(2));
        assert_eq!((rounds.poll_output(), rounds.poll_timeout().map(|it| it.0)), (None, Some(at(60))));
        rounds.handle_timeout(at(60));
        assert_eq!(rounds.poll_output(), Some(Output::Expired));
    }

    #[test]
    fn what_a_round_lacked_explains_a_failure_for_a_while() {
        let mut rounds = rounds();
        rounds.handle_input(at(0), Input::Ended);
        assert!(!rounds.just_ended(at(0)), "none was under way");
        rounds.handle_input(at(1), Input::HandedOut(&roster(&[Some(Security::Encrypted)])));
        rounds.handle_input(at(2), Input::Ended);
        rounds.handle_input(at(4), Input::Ended);
        assert!(rounds.just_ended(at(2) + JUST - Duration::from_nanos(1)));
        assert!(!rounds.just_ended(at(2) + JUST));
    }

    #[test]
    fn a_peer_with_other_streams_ends_the_join_and_an_impostor_does_not() {
        let mut rounds = rounds();
        let (own, other) = (Some(Security::Encrypted), Security::Plaintext);
        rounds.handle_input(at(0), Input::HandedOut(&roster(&[own, None, Some(other)])));
        assert_eq!(rounds.poll_output(), Some(Output::Mismatch { peer: 2, theirs: other }));
        rounds.handle_input(at(0), Input::HandedOut(&roster(&[own, None])));
        assert_eq!(rounds.poll_output(), Some(Output::Start), "whose card does not open");
    }

    #[test]
    fn a_round_that_would_last_as_long_as_the_join_ends_with_it() {
        let mut rounds = Rounds::new(0, Security::Encrypted, at(2), 5 * SECOND);
        rounds.handle_input(at(0), Input::HandedOut(&roster(&[Some(Security::Encrypted); 2])));
        assert_eq!(rounds.poll_timeout(), Some((at(2), "the join has had its time")));
    }
}
