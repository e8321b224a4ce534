//! When a relayed pair tries to connect directly: pauses, and how many pairs try at once. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::backoff::Backoff;
use fmi_net::time::Instant;

/// Pause before the first try of a pair that should have connected; doubles with each failure.
const PAUSE_LIKELY: Duration = Duration::from_secs(1);
/// The same of a pair whose NATs leave little hope.
const PAUSE_UNLIKELY: Duration = Duration::from_secs(30);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Pairs that try at the same time.
const PAIRS_AT_ONCE: usize = 8;
/// Time for one try, from registration on; the peer may be busy with something else for a while.
pub const TRY_MAX: Duration = Duration::from_secs(20);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The try of this peer made a stream: it is relayed no longer.
    Connected(u32),
    /// The try of this peer failed.
    Failed(u32),
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Try to connect to this peer.
    Try(u32),
}

#[derive(Debug)]
enum State {
    Pausing { until: Instant },
    Trying,
}

/// All relayed pairs of one rank.
#[derive(Debug)]
pub struct Upgrades {
    pairs: BTreeMap<u32, (Backoff, State)>,
    trying: usize,
    outputs: VecDeque<Output>,
}

impl Upgrades {
    /// Starts with the relayed peers, and whether each should have been connected.
    pub fn new(now: Instant, peers: &[(u32, bool)]) -> Self {
        let pair = |&(peer, is_likely): &(u32, bool)| {
            let least = if is_likely { PAUSE_LIKELY } else { PAUSE_UNLIKELY };
            let mut backoff = Backoff::new(least, PAUSE_MAX);
            let until = now + backoff.fail();
            (peer, (backoff, State::Pausing { until }))
        };
        Self { pairs: peers.iter().map(pair).collect(), trying: 0, outputs: VecDeque::new() }
    }

    /// Takes what happened. What is said of a pair that is not trying is ignored.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        let (Input::Connected(peer) | Input::Failed(peer)) = input;
        let Some((backoff, state)) = self.pairs.get_mut(&peer).filter(|(_, state)| matches!(state, State::Trying))
        else {
            return;
        };
        self.trying -= 1;
        match input {
            Input::Connected(_) => {
                self.pairs.remove(&peer);
            }
            Input::Failed(_) => *state = State::Pausing { until: now + backoff.fail() },
        }
        // Another one may have waited for its turn.
        self.handle_timeout(now);
    }

    /// Starts the tries that are due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (peer, (_, state)) in &mut self.pairs {
            if self.trying == PAIRS_AT_ONCE {
                break;
            }
            if matches!(state, State::Pausing { until } if *until <= now) {
                *state = State::Trying;
                self.trying += 1;
                self.outputs.push_back(Output::Try(*peer));
            }
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.trying == PAIRS_AT_ONCE {
            return None;
        }
        let pauses = self.pairs.values().filter_map(|(_, state)| match state {
            State::Pausing { until } => Some(*until),
            State::Trying => None,
        });
        pauses.min().map(|until| (until, "another try of a relayed pair is due"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u32) -> Instant {
        Instant::ZERO + seconds * SECOND
    }

    fn tries(upgrades: &mut Upgrades) -> Vec<u32> {
        std::iter::from_fn(|| upgrades.poll_output().map(|Output::Try(peer)| peer)).collect()
    }

    #[test]
    fn pauses_double_from_the_likely_and_the_unlikely_start_on() {
        for (is_likely, pauses) in [(true, [1, 2, 4, 8, 16, 32, 60, 60]), (false, [30, 60, 60, 60, 60, 60, 60, 60])] {
            let mut upgrades = Upgrades::new(at(0), &[(3, is_likely)]);
            let mut now = at(0);
            for pause in pauses {
                let (until, _) = upgrades.poll_timeout().expect("a try to come");
                assert_eq!(until, now + pause * SECOND);
                upgrades.handle_timeout(until);
                assert_eq!(tries(&mut upgrades), [3]);
                assert_eq!(upgrades.poll_timeout(), None, "the only pair is trying");
                now = until + SECOND;
                upgrades.handle_input(now, Input::Failed(3));
            }
        }
    }

    #[test]
    fn few_pairs_try_at_once_and_the_others_follow() {
        let peers: Vec<_> = (0..20).map(|peer| (peer, true)).collect();
        let mut upgrades = Upgrades::new(at(0), &peers);
        upgrades.handle_timeout(at(1));
        let mut all = tries(&mut upgrades);
        assert_eq!((all.len(), upgrades.poll_timeout()), (PAIRS_AT_ONCE, None));
        while all.len() < 20 {
            upgrades.handle_input(at(1), Input::Connected(all[all.len() - PAIRS_AT_ONCE]));
            let next = tries(&mut upgrades);
            assert_eq!(next.len(), 1, "one for one");
            all.extend(next);
        }
        assert_eq!(all, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_pair_that_connected_is_done_with() {
        let mut upgrades = Upgrades::new(at(0), &[(1, true)]);
        upgrades.handle_timeout(at(1));
        tries(&mut upgrades);
        upgrades.handle_input(at(2), Input::Connected(1));
        upgrades.handle_input(at(2), Input::Failed(1));
        upgrades.handle_timeout(at(500));
        assert_eq!((tries(&mut upgrades), upgrades.poll_timeout()), (vec![], None));
    }
}
