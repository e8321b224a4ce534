//! How a rank of a running group finds its rendezvous again: which server when, and how often. Pure.
//!
//! The server of the session comes first. One that does not answer is followed by the next one; one that answered and
//! is lost again is asked again, after a pause that grows all the same, as it may be refusing.

use std::collections::VecDeque;
use std::time::Duration;

use super::backoff::Backoff;
use fmi_net::time::Instant;

/// Pause before another connection; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Time for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The channel has been lost.
    Lost,
    /// The connection is established.
    Connected,
    /// The connection failed.
    Failed,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect to the server of this number, and abandon an earlier attempt.
    Connect(usize),
}

#[derive(Debug)]
enum State {
    /// The channel is there.
    Idle,
    Pausing {
        until: Instant,
    },
    Connecting {
        until: Instant,
    },
}

/// The search of one rank.
#[derive(Debug)]
pub struct Resume {
    servers: usize,
    next: usize,
    backoff: Backoff,
    /// Earliest time of another connection.
    not_before: Instant,
    state: State,
    outputs: VecDeque<Output>,
}

impl Resume {
    /// Starts with a channel to the first of several servers.
    ///
    /// # Panics
    /// If there is no server.
    pub fn new(servers: usize) -> Self {
        assert!(servers > 0, "a group was formed at some server");
        let backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        Self { servers, next: 0, backoff, not_before: Instant::ZERO, state: State::Idle, outputs: VecDeque::new() }
    }

    /// Takes what happened. What does not fit the state is late, and ignored.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        match (input, &self.state) {
            (Input::Lost, State::Idle) => {
                self.state = State::Pausing { until: self.not_before };
                self.handle_timeout(now);
            }
            (Input::Connected, State::Connecting { .. }) => {
                self.not_before = now + self.backoff.fail();
                self.state = State::Idle;
            }
            (Input::Failed, State::Connecting { .. }) => self.failed(now),
            (Input::Lost, State::Pausing { .. } | State::Connecting { .. })
            | (Input::Connected | Input::Failed, State::Idle | State::Pausing { .. }) => {}
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Pausing { until } if now >= until => {
                self.state = State::Connecting { until: now + CONNECT_MAX };
                self.outputs.push_back(Output::Connect(self.next));
            }
            State::Connecting { until } if now >= until => self.failed(now),
            State::Idle | State::Pausing { .. } | State::Connecting { .. } => {}
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.state {
            State::Idle => None,
            State::Pausing { until } => Some((until, "the pause before another connection ends")),
            State::Connecting { until } => Some((until, "the rendezvous does not answer")),
        }
    }

    fn failed(&mut self, now: Instant) {
        self.next = (self.next + 1) % self.servers;
        self.not_before = now + self.backoff.fail();
        self.state = State::Pausing { until: self.not_before };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_lost_channel_is_sought_at_once_and_then_ever_more_rarely_at_all_servers_in_turn() {
        let mut resume = Resume::new(3);
        let mut now = ms(5000);
        resume.handle_input(now, Input::Lost);
        for (server, pause) in [0, 1, 2, 0, 1, 2, 0].into_iter().zip([200, 400, 800, 1600, 3200, 5000, 5000]) {
            assert_eq!((resume.poll_output(), resume.poll_output()), (Some(Output::Connect(server)), None));
            resume.handle_input(now, Input::Failed);
            let (until, _) = resume.poll_timeout().expect("a pause");
            assert_eq!(until, now + Duration::from_millis(pause));
            now = until;
            resume.handle_timeout(now);
        }
    }

    #[test]
    fn a_silent_server_is_given_up_for_the_next() {
        let mut resume = Resume::new(2);
        resume.handle_input(ms(0), Input::Lost);
        assert_eq!(resume.poll_output(), Some(Output::Connect(0)));
        assert_eq!(resume.poll_timeout().map(|it| it.0), Some(Instant::ZERO + CONNECT_MAX));
        resume.handle_timeout(ms(3000));
        resume.handle_timeout(ms(3200));
        assert_eq!(resume.poll_output(), Some(Output::Connect(1)));
    }

    #[test]
    fn a_server_that_answers_and_closes_is_asked_as_rarely_as_one_that_is_not_there() {
        let mut resume = Resume::new(2);
        let (mut now, mut times) = (ms(0), Vec::new());
        while times.len() < 4 {
            resume.handle_input(now, Input::Lost);
            if resume.outputs.is_empty() {
                now = resume.poll_timeout().expect("a pause").0;
                resume.handle_timeout(now);
            }
            assert_eq!(resume.poll_output(), Some(Output::Connect(0)), "the same server");
            times.push(now);
            resume.handle_input(now, Input::Connected);
            assert_eq!(resume.poll_timeout(), None);
        }
        assert_eq!(times, [ms(0), ms(200), ms(600), ms(1400)]);
    }

    #[test]
    fn late_news_is_ignored() {
        let mut resume = Resume::new(1);
        resume.handle_input(ms(0), Input::Failed);
        resume.handle_input(ms(0), Input::Connected);
        assert_eq!((resume.poll_output(), resume.poll_timeout()), (None, None));
        resume.handle_input(ms(0), Input::Lost);
        resume.poll_output();
        resume.handle_input(ms(1), Input::Lost);
        assert_eq!(resume.poll_output(), None, "it is being sought");
    }

    #[test]
    fn nothing_happens_before_it_is_due() {
        let mut resume = Resume::new(2);
        resume.handle_input(ms(0), Input::Lost);
        resume.poll_output();
        resume.handle_input(ms(0), Input::Failed);
        for _ in 0..4 {
            let (due, _) = resume.poll_timeout().expect("a pause, or an answer that is waited for");
            resume.handle_timeout(due - Duration::from_nanos(1));
            assert_eq!((resume.poll_output(), resume.poll_timeout().map(|it| it.0)), (None, Some(due)));
            resume.handle_timeout(due);
            resume.poll_output();
            assert_ne!(resume.poll_timeout().map(|it| it.0), Some(due));
        }
    }
}
