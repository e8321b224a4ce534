//! The rendezvous client: registers a rank, waits for its group, reconnects while it may.
//!
//! Pure; `fmi::connect` drives it. It survives a rendezvous that is not there yet, dies, or
//! restarts before the group is handed out: it connects and registers anew until its deadline. With
//! several servers it turns to the next one when one fails, and when it has waited without success for a while:
//! ranks that cannot reach the first server wait at the second one. All ranks have the servers in one
//! order ([`crate::race::weight`]), so that they begin at the same one. How a server is reached is for [`crate::race`]; where
//! its name has several addresses of one family they may be machines of their own, and a rank that waited without success at
//! one turns to the next.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::{ClientMessage, Handout, InstanceId, Refusal, Registration, ServerMessage, Waiting};
use crate::backoff::Backoff;
use crate::card::{Card, Holder, Security};
use crate::cause::comes_first;
use crate::cipher::Suites;
use crate::exchange::{KeyPair, Seed};
use crate::key::Key;
use crate::wire::{self, WireError};
use fmi_net::time::Instant;

/// First pause before another connection; doubles up to [`PAUSE_MAX`], and is drawn from its upper half.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause before another connection.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A server whose name is not resolved, or at none of whose addresses a TCP handshake completes, in this time is given up:
/// three lost SYNs.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How often a waiting client asks for the state.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// A server that is silent for this long after a question is given up.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Shortest wait for a group before another server is tried, if there is one.
const MOVE_MIN: Duration = Duration::from_secs(4);
/// Longest wait, up to twice of which is drawn.
const MOVE_MAX: Duration = Duration::from_secs(32);

/// The rank that joins, and its group.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Rank claimed.
    pub rank: u32,
    /// Size of the group.
    pub size: u32,
    /// This process.
    pub instance: InstanceId,
    /// The key of the group.
    pub key: Key,
    /// Protection of its streams.
    pub security: Security,
    /// Whether it agrees to be sprayed.
    pub sprays: bool,
    /// What it can make records with.
    pub suites: Suites,
    /// Number of servers.
    pub servers: usize,
}

/// What is random in one registration.
#[derive(Clone)]
pub struct Entropy {
    /// Its nonce.
    pub nonce: super::Nonce,
    /// Its key pair's.
    pub seed: Seed,
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy(..)")
    }
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The connection is established.
    Connected {
        /// Own addresses that peers may try.
        locals: Vec<SocketAddr>,
        /// How long it took to establish.
        round_trip: Duration,
        /// Connections under way, or established, on which to vouch, as far as they are worth waiting for.
        vouches: u8,
        /// Whether the server has further addresses, at which a part of the group may wait.
        has_others: bool,
        /// Entropy for this registration alone, drawn now: two copies of a machine that was saved earlier differ.
        entropy: Entropy,
    },
    /// A connection on which to vouch could not be made.
    Unvouched,
    /// The connection could not be made, or ended.
    Disconnected(io::ErrorKind),
    /// The server sent a message.
    Message(ServerMessage),
    /// The server sent a malformed message.
    Malformed(WireError),
    /// The group that was handed out failed to form; register again.
    Retry,
}

/// What to do.
#[derive(Debug)]
pub enum Output {
    /// Open a connection to a server, from a fresh local port, and others to its vantages
    /// from the same; drop older ones.
    Connect {
        /// Its number.
        server: usize,
        /// Whether to begin with another of its addresses than the last time.
        elsewhere: bool,
    },
    /// Send a message.
    Send(ClientMessage),
    /// Vouch for this registration on each of the other connections, as soon as it is established.
    Vouch(super::Nonce),
    /// The group is complete; the key pair is that of this registration.
    Joined(Arc<Handout>, KeyPair),
    /// The session of the last group is void; stop punching for it.
    Dissolved,
    /// A rank of the group is gone: it will not form.
    Lost(u32),
    /// The server's refusal is final.
    Refused(Refusal),
}

#[derive(Debug)]
enum State {
    Pausing {
        until: Instant,
    },
    Connecting {
        until: Instant,
    },
    Waiting {
        ping_at: Instant,
        answer_until: Instant,
        move_at: Instant,
    },
    Joined,
    /// There is nothing to wait for.
    Ended,
}

/// The client's state.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    entropy: ChaCha8Rng,
    state: State,
    server: usize,
    /// Servers that could not be reached the last time.
    unreachable: BTreeSet<usize>,
    /// How long to wait at one server.
    patience: Backoff,
    key_pair: Option<KeyPair>,
    backoff: Backoff,
    last_failure: Option<io::ErrorKind>,
    /// The last refusal after which it tries again.
    refusal: Option<Refusal>,
    waiting: Option<Waiting>,
    /// The last group that was handed out.
    session: Option<super::SessionId>,
    nonce: super::Nonce,
    outputs: VecDeque<Output>,
}

/// Begins where it was.
fn connect_to(server: usize) -> Output {
    Output::Connect { server, elsewhere: false }
}

impl Client {
    /// Makes a client that connects at once; `seed` draws its pauses.
    pub fn new(now: Instant, identity: Identity, seed: [u8; 32]) -> Self {
        Self {
            identity,
            entropy: ChaCha8Rng::from_seed(seed),
            state: State::Connecting { until: now + CONNECT_MAX },
            server: 0,
            unreachable: BTreeSet::new(),
            patience: Backoff::new(MOVE_MIN, MOVE_MAX),
            key_pair: None,
            backoff: Backoff::new(PAUSE_MIN, PAUSE_MAX),
            last_failure: None,
            refusal: None,
            waiting: None,
            session: None,
            nonce: [0; 16],
            outputs: VecDeque::from([connect_to(0)]),
        }
    }

    /// Takes what happened.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Connected { locals, round_trip, vouches, has_others, entropy } => {
                if matches!(self.state, State::Connecting { .. }) {
                    self.unreachable.remove(&self.server);
                    self.register(locals, round_trip, vouches, entropy);
                    self.wait(now, has_others);
                }
            }
            Input::Unvouched => {
                if matches!(self.state, State::Waiting { .. }) {
                    self.outputs.push_back(Output::Send(ClientMessage::Unvouched));
                }
            }
            Input::Disconnected(kind) => self.disconnected(now, kind),
            Input::Malformed(WireError::Version { theirs, .. }) => self.refused(Refusal::Version(theirs)),
            Input::Malformed(_) => self.disconnected(now, io::ErrorKind::InvalidData),
            Input::Message(message) => self.hear(now, message),
            Input::Retry => self.reconnect(now),
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Pausing { until } if now >= until => self.connect(now),
            State::Connecting { until } if now >= until => self.disconnected(now, io::ErrorKind::TimedOut),
            State::Waiting { answer_until, .. } if now >= answer_until => {
                self.disconnected(now, io::ErrorKind::TimedOut);
            }
            State::Waiting { move_at, .. } if now >= move_at => {
                self.server = self.next_server();
                self.patience.fail();
                self.outputs.push_back(Output::Connect { server: self.server, elsewhere: true });
                self.state = State::Connecting { until: now + CONNECT_MAX };
            }
            State::Waiting { ping_at, answer_until, move_at } if now >= ping_at => {
                self.outputs.push_back(Output::Send(ClientMessage::Ping));
                self.state = State::Waiting { ping_at: now + PING_INTERVAL, answer_until, move_at };
            }
            State::Pausing { .. } | State::Connecting { .. } | State::Waiting { .. } | State::Joined | State::Ended => {
            }
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.state {
            State::Pausing { until } => Some((until, "the pause before another connection ends")),
            State::Connecting { until } => Some((until, "the rendezvous does not answer")),
            State::Waiting { ping_at, answer_until, move_at } => {
                Some((ping_at.min(answer_until).min(move_at), "ask for the state"))
            }
            State::Joined | State::Ended => None,
        }
    }

    /// What the server last said of the group.
    pub fn waiting(&self) -> Option<Waiting> {
        self.waiting
    }

    /// What the last failed connection met, or the first one that this machine refused, if no server has answered since.
    pub fn last_failure(&self) -> Option<io::ErrorKind> {
        self.last_failure
    }

    /// Why the server that answered last did not take the registration.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// Whether a connection was ever established.
    pub fn has_connected(&self) -> bool {
        self.key_pair.is_some()
    }

    fn register(
        &mut self,
        locals: Vec<SocketAddr>,
        round_trip: Duration,
        vouches: u8,
        Entropy { nonce, seed }: Entropy,
    ) {
        self.nonce = nonce;
        let key_pair = KeyPair::from_seed(seed);
        let Identity { rank, size, instance, ref key, security, sprays, suites, .. } = self.identity;
        let (group, name) = (key.id(), key.name_tag());
        let card = Card { version: wire::VERSION, security, sprays, suites, public: *key_pair.public(), locals };
        self.key_pair = Some(key_pair);
        let card = card.seal(key, &Holder { rank, size, epoch: 0, nonce: &nonce });
        let registration = Registration { group, name, rank, size, instance, nonce, round_trip, vouches, card };
        self.outputs.push_back(Output::Vouch(nonce));
        self.outputs.push_back(Output::Send(ClientMessage::Register(registration)));
    }

    fn wait(&mut self, now: Instant, has_others: bool) {
        let patience = self.move_after();
        let move_at = if self.identity.servers > 1 || has_others { now + patience } else { Instant::FAR_FUTURE };
        self.state = State::Waiting { ping_at: now + PING_INTERVAL, answer_until: now + ANSWER_MAX, move_at };
    }

    fn next_server(&self) -> usize {
        (self.server + 1) % self.identity.servers.max(1)
    }

    /// Ranks that wait at different servers meet by chance, the sooner the longer each waits at one. A rank that could not
    /// reach the next one is where those who can will come, and waits until they have.
    fn move_after(&mut self) -> Duration {
        let least = self.patience.pause();
        let span = u64::try_from(least.as_nanos()).expect("MOVE_MAX is short");
        let head_start = if self.unreachable.contains(&self.next_server()) { least } else { Duration::ZERO };
        head_start + least + Duration::from_nanos(self.entropy.next_u64() % span)
    }

    fn hear(&mut self, now: Instant, message: ServerMessage) {
        match message {
            // Answers to questions that this machine does not ask.
            ServerMessage::Observed { .. } | ServerMessage::CalledBack { .. } | ServerMessage::Relayed => {}
            ServerMessage::Probe => {
                self.outputs.push_back(Output::Send(ClientMessage::Ping));
                self.heard(now);
            }
            ServerMessage::Waiting(waiting) => {
                self.waiting = Some(waiting);
                (self.last_failure, self.refusal) = (None, None);
                self.backoff.reset();
                self.heard(now);
            }
            ServerMessage::Handout(group) => self.join(now, group),
            ServerMessage::Refused(refusal) if refusal.is_retryable() => {
                self.refusal = Some(refusal);
                self.disconnected(now, io::ErrorKind::ConnectionRefused);
            }
            ServerMessage::Refused(refusal) => self.refused(refusal),
            ServerMessage::Dissolved(session) => {
                if self.session == Some(session) && matches!(self.state, State::Joined) {
                    self.outputs.push_back(Output::Dissolved);
                    self.reconnect(now);
                }
            }
            ServerMessage::Lost { session, rank } => self.lost(session, rank),
            // These matter to the communicator, which exists only once this machine is done.
            ServerMessage::Severed { .. } | ServerMessage::Failed { .. } => {}
        }
    }

    /// A rank that went while the group formed may wait at another server, if there is one. In a session that has formed
    /// for others, its loss ends all of them.
    fn lost(&mut self, session: super::SessionId, rank: u32) {
        let State::Waiting { move_at, .. } = self.state else { return };
        let is_only_here = move_at == Instant::FAR_FUTURE;
        if (session == super::NOT_YET && is_only_here) || self.session == Some(session) {
            self.state = State::Ended;
            self.outputs.push_back(Output::Lost(rank));
        }
    }

    fn refused(&mut self, refusal: Refusal) {
        // A complete group goes on without its rendezvous.
        if !matches!(self.state, State::Joined) {
            self.state = State::Ended;
            self.outputs.push_back(Output::Refused(refusal));
        }
    }

    fn heard(&mut self, now: Instant) {
        if let State::Waiting { answer_until, .. } = &mut self.state {
            *answer_until = now + PING_INTERVAL + ANSWER_MAX;
        }
    }

    fn join(&mut self, now: Instant, group: Arc<Handout>) {
        if !matches!(self.state, State::Waiting { .. }) {
            return;
        }
        let own = group.members.get(self.identity.rank as usize);
        let fits =
            group.members.len() == self.identity.size as usize && own.is_some_and(|member| member.nonce == self.nonce);
        let Some(key_pair) = self.key_pair.take().filter(|_| fits) else {
            return self.disconnected(now, io::ErrorKind::InvalidData);
        };
        self.session = Some(group.session);
        self.state = State::Joined;
        self.patience.reset();
        self.outputs.push_back(Output::Joined(group, key_pair));
    }

    fn disconnected(&mut self, now: Instant, kind: io::ErrorKind) {
        match self.state {
            State::Connecting { .. } | State::Waiting { .. } => {
                if !self.last_failure.is_some_and(comes_first) {
                    self.last_failure = Some(kind);
                }
                if matches!(self.state, State::Connecting { .. }) {
                    self.unreachable.insert(self.server);
                }
                self.server = self.next_server();
                self.pause(now);
            }
            // A complete group goes on without its rendezvous.
            State::Joined | State::Pausing { .. } | State::Ended => {}
        }
    }

    fn pause(&mut self, now: Instant) {
        let pause = self.backoff.fail_drawn(self.entropy.next_u64());
        self.state = State::Pausing { until: now + pause };
    }

    /// A group that failed to form needs a fresh local port: a mapping of the failed
    /// attempt may be stuck, as in SYN_SENT2 of Linux's tracker.
    fn reconnect(&mut self, now: Instant) {
        self.waiting = None;
        self.connect(now);
    }

    fn connect(&mut self, now: Instant) {
        self.outputs.push_back(connect_to(self.server));
        self.state = State::Connecting { until: now + CONNECT_MAX };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rendezvous::{Member, Observed};

    const SECOND: Duration = Duration::from_secs(1);

    fn client() -> Client {
        client_of(1)
    }

    fn client_of(servers: usize) -> Client {
        let (key, security, suites) = (Key::new("g", b"k"), Security::Encrypted, Suites::of_machine(true));
        let (rank, size, instance, sprays) = (1, 2, [3; 16], false);
        let identity = Identity { rank, size, instance, key, security, sprays, suites, servers };
        let mut client = Client::new(Instant::ZERO, identity, [5; 32]);
        assert!(matches!(client.poll_output(), Some(Output::Connect { server: 0, .. })));
        client
    }

    fn connected(entropy: u8, vouches: u8, has_others: bool) -> Input {
        let entropy = Entropy { nonce: [entropy; 16], seed: [entropy; 32] };
        Input::Connected { locals: vec![], round_trip: SECOND, vouches, has_others, entropy }
    }

    fn registered(client: &mut Client, now: Instant) -> Registration {
        registered_with(client, now, 8)
    }

    fn registered_with(client: &mut Client, now: Instant, entropy: u8) -> Registration {
        client.handle_input(now, connected(entropy, 0, false));
        assert!(matches!(client.poll_output(), Some(Output::Vouch(nonce)) if nonce == [entropy; 16]));
        match client.poll_output() {
            Some(Output::Send(ClientMessage::Register(registration))) => registration,
            other => panic!("no registration: {other:?}"),
        }
    }

    fn group(nonce: super::super::Nonce) -> Arc<Handout> {
        let observed = Observed::once(SocketAddr::from(([1, 1, 1, 1], 1)));
        let member = |rank, nonce| Member { rank, nonce, observed, round_trip: SECOND, card: vec![] };
        Arc::new(Handout { session: [9; 16], members: vec![member(0, [0; 16]), member(1, nonce)] })
    }

    #[test]
    fn registers_and_joins() {
        let mut client = client();
        let registration = registered(&mut client, Instant::ZERO);
        client.handle_input(Instant::ZERO, Input::Message(ServerMessage::Handout(group(registration.nonce))));
        assert!(matches!(client.poll_output(), Some(Output::Joined(..))));
        assert_eq!(client.poll_timeout(), None);
    }

    #[test]
    fn a_rank_that_does_not_come_back_ends_the_join_unless_it_may_be_elsewhere() {
        for has_others in [false, true] {
            let mut client = client();
            client.handle_input(Instant::ZERO, connected(8, 0, has_others));
            while client.poll_output().is_some() {}
            let lost = |session| Input::Message(ServerMessage::Lost { session, rank: 0 });
            client.handle_input(Instant::ZERO, lost([9; 16]));
            assert!(client.poll_output().is_none(), "a session of others");
            client.handle_input(Instant::ZERO, lost(super::super::NOT_YET));
            assert_eq!(matches!(client.poll_output(), Some(Output::Lost(0))), !has_others);
            assert_eq!(client.poll_timeout().is_none(), !has_others);
        }
    }

    #[test]
    fn a_loss_in_the_session_that_formed_without_this_rank_ends_the_join() {
        let mut client = client_of(2);
        let registration = registered(&mut client, Instant::ZERO);
        let handout = group(registration.nonce);
        let lost = || Input::Message(ServerMessage::Lost { session: [9; 16], rank: 0 });
        client.handle_input(Instant::ZERO, Input::Message(ServerMessage::Handout(handout)));
        client.handle_input(Instant::ZERO, lost());
        assert!(matches!(client.poll_output(), Some(Output::Joined(..))));
        assert!(client.poll_output().is_none(), "the communicator hears of it");
        client.handle_input(Instant::ZERO, Input::Retry);
        assert!(matches!(client.poll_output(), Some(Output::Connect { .. })));
        registered_with(&mut client, Instant::ZERO, 7);
        client.handle_input(Instant::ZERO, lost());
        assert!(matches!(client.poll_output(), Some(Output::Lost(0))));
    }

    #[test]
    fn a_server_of_another_version_is_not_asked_again() {
        let mut client = client_of(2);
        registered(&mut client, Instant::ZERO);
        let version = WireError::Version { theirs: 9, ours: super::super::VERSION };
        client.handle_input(Instant::ZERO, Input::Malformed(version));
        let Some(Output::Refused(refusal)) = client.poll_output() else { panic!("not refused") };
        assert!(!refusal.is_retryable());
        let ours = super::super::VERSION;
        assert_eq!(refusal.to_string(), format!("it speaks version 9 of the protocol, this program version {ours}"));
        assert_eq!((client.poll_output().is_none(), client.poll_timeout()), (true, None));
    }

    #[test]
    fn a_group_for_another_registration_is_not_taken() {
        let mut client = client();
        registered(&mut client, Instant::ZERO);
        client.handle_input(Instant::ZERO, Input::Message(ServerMessage::Handout(group([0; 16]))));
        assert!(client.poll_output().is_none(), "a replayed answer leads nowhere");
        assert!(matches!(client.state, State::Pausing { .. }));
    }

    #[test]
    fn reconnects_after_a_pause_that_grows_and_is_bounded() {
        let mut client = client();
        let mut now = Instant::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            client.handle_input(now, Input::Disconnected(io::ErrorKind::ConnectionRefused));
            let (at, _) = client.poll_timeout().expect("pausing");
            pauses.push(at - now);
            now = at;
            client.handle_timeout(now);
            assert!(matches!(client.poll_output(), Some(Output::Connect { server: 0, .. })));
        }
        assert!(pauses[0] < PAUSE_MIN && pauses[11] >= PAUSE_MAX / 2 && pauses[11] < PAUSE_MAX, "{pauses:?}");
    }

    #[test]
    fn a_silent_server_is_given_up() {
        let mut client = client();
        registered(&mut client, Instant::ZERO);
        client.handle_timeout(Instant::ZERO + SECOND);
        assert!(matches!(client.poll_output(), Some(Output::Send(ClientMessage::Ping))));
        client.handle_timeout(Instant::ZERO + 3 * SECOND);
        assert!(matches!(client.state, State::Pausing { .. }));
        assert_eq!(client.last_failure(), Some(io::ErrorKind::TimedOut));
    }

    #[test]
    fn a_dissolved_session_starts_over_on_a_fresh_connection() {
        let mut client = client();
        let registration = registered(&mut client, Instant::ZERO);
        client.handle_input(Instant::ZERO, Input::Message(ServerMessage::Handout(group(registration.nonce))));
        client.poll_output();
        client.handle_input(Instant::ZERO, Input::Message(ServerMessage::Dissolved([8; 16])));
        assert!(client.poll_output().is_none(), "another session does not matter");
        client.handle_input(Instant::ZERO, Input::Message(ServerMessage::Dissolved([9; 16])));
        assert!(matches!(client.poll_output(), Some(Output::Dissolved)));
        assert!(matches!(client.poll_output(), Some(Output::Connect { server: 0, .. })));
    }

    #[test]
    fn a_server_that_fails_or_keeps_one_waiting_is_left_for_the_next() {
        let mut client = client_of(2);
        client.handle_input(Instant::ZERO, Input::Disconnected(io::ErrorKind::ConnectionRefused));
        let (at, _) = client.poll_timeout().expect("pausing");
        client.handle_timeout(at);
        assert!(matches!(client.poll_output(), Some(Output::Connect { server: 1, .. })));
        registered(&mut client, at);
        let waiting = |now: Instant, client: &mut Client| {
            let waiting = Waiting {
                observed: ([1, 1, 1, 1], 1).into(),
                present: 1,
                missing: 0,
                other_key: false,
                running: false,
            };
            client.handle_input(now, Input::Message(ServerMessage::Waiting(waiting)));
        };
        let mut now = at;
        let moved = loop {
            waiting(now, &mut client);
            now = client.poll_timeout().expect("something is due").0;
            client.handle_timeout(now);
            match client.poll_output() {
                Some(Output::Connect { server, elsewhere: true }) => break server,
                Some(Output::Send(ClientMessage::Ping)) | None => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(moved, 0);
        // Those who reach the first server come within that time.
        assert!(now - at >= 2 * MOVE_MIN && now - at <= 3 * MOVE_MIN, "{:?}", now - at);
        registered(&mut client, now);
        let State::Waiting { move_at, .. } = client.state else { panic!("waiting") };
        assert!(
            move_at - now >= 2 * MOVE_MIN && move_at - now <= 4 * MOVE_MIN,
            "its patience has doubled, and no more"
        );
    }

    #[test]
    fn each_registration_has_its_own_nonce_key_and_card() {
        let mut client = client();
        let first = registered(&mut client, Instant::ZERO);
        client.handle_input(Instant::ZERO, Input::Disconnected(io::ErrorKind::ConnectionReset));
        client.handle_timeout(Instant::ZERO + SECOND);
        client.poll_output();
        let second = registered_with(&mut client, Instant::ZERO + SECOND, 9);
        assert!(first.nonce != second.nonce && first.card != second.card && first.instance == second.instance);
    }

    #[test]
    fn final_refusals_end_it_and_others_do_not() {
        let mut client = client();
        registered(&mut client, Instant::ZERO);
        client.handle_input(Instant::ZERO, Input::Message(ServerMessage::Refused(Refusal::Busy)));
        assert!(client.poll_output().is_none());
        client.handle_timeout(Instant::ZERO + SECOND);
        client.poll_output();
        registered(&mut client, Instant::ZERO + SECOND);
        client.handle_input(Instant::ZERO, Input::Message(ServerMessage::Refused(Refusal::RankTaken)));
        assert!(matches!(client.poll_output(), Some(Output::Refused(Refusal::RankTaken))));
    }

    #[test]
    fn nothing_happens_before_it_is_due() {
        let nanosecond = Duration::from_nanos(1);
        let mut client = client_of(2);
        // Connecting; pausing; connecting again.
        for expects_output in [false, true] {
            let (due, _) = client.poll_timeout().expect("something is due");
            client.handle_timeout(due - nanosecond);
            assert_eq!(client.poll_timeout().map(|(at, _)| at), Some(due));
            client.handle_timeout(due);
            assert_eq!(client.poll_output().is_some(), expects_output);
        }
        assert_eq!(client.last_failure(), Some(io::ErrorKind::TimedOut));
        // Waiting.
        let now = Instant::ZERO + 10 * SECOND;
        client.handle_input(now, Input::Retry);
        client.poll_output();
        assert_eq!(client.poll_timeout().map(|(at, _)| at), Some(now + CONNECT_MAX));
        registered(&mut client, now);
        client.handle_timeout(now + PING_INTERVAL - nanosecond);
        assert!(client.poll_output().is_none());
        client.handle_timeout(now + PING_INTERVAL);
        assert!(matches!(client.poll_output(), Some(Output::Send(ClientMessage::Ping))));
        assert_eq!(client.poll_timeout().map(|(at, _)| at), Some((now + 2 * PING_INTERVAL).min(now + ANSWER_MAX)));
        client.handle_timeout(now + ANSWER_MAX - nanosecond);
        assert!(matches!(client.state, State::Waiting { .. }));
        client.handle_timeout(now + ANSWER_MAX);
        assert!(matches!(client.state, State::Pausing { .. }));
    }

    #[test]
    fn a_server_that_answers_has_time_for_the_next_answer() {
        let mut client = client();
        assert_eq!(client.waiting(), None);
        registered(&mut client, Instant::ZERO);
        let observed = ([1, 1, 1, 1], 1).into();
        let waiting = Waiting { observed, present: 1, missing: 0, other_key: false, running: false };
        let now = Instant::ZERO + SECOND / 2;
        client.handle_input(now, Input::Message(ServerMessage::Waiting(waiting)));
        assert_eq!(client.waiting(), Some(waiting));
        let State::Waiting { answer_until, .. } = client.state else { panic!("waiting") };
        assert_eq!(answer_until, now + PING_INTERVAL + ANSWER_MAX);
    }

    #[test]
    fn servers_that_keep_one_waiting_are_left_in_turn() {
        let mut client = client_of(3);
        let mut now = Instant::ZERO;
        for expected in [1, 2, 0, 1] {
            registered(&mut client, now);
            let State::Waiting { move_at, .. } = client.state else { panic!("waiting") };
            now = move_at;
            client.state = State::Waiting { ping_at: Instant::FAR_FUTURE, answer_until: Instant::FAR_FUTURE, move_at };
            client.handle_timeout(now);
            let output = client.poll_output();
            assert!(
                matches!(output, Some(Output::Connect { server, elsewhere: true }) if server == expected),
                "{output:?}"
            );
        }
    }

    #[test]
    fn a_connection_that_is_not_waited_for_may_vouch_all_the_same() {
        for expected in [0, 2] {
            let mut client = client();
            client.handle_input(Instant::ZERO, connected(8, expected, false));
            assert!(matches!(client.poll_output(), Some(Output::Vouch(nonce)) if nonce == [8; 16]));
            let Some(Output::Send(ClientMessage::Register(Registration { vouches, .. }))) = client.poll_output() else {
                panic!("no registration")
            };
            assert_eq!(vouches, expected);
        }
    }

    #[test]
    fn a_server_with_further_addresses_is_left_for_the_next_of_them() {
        let mut client = client();
        client.handle_input(Instant::ZERO, connected(8, 0, true));
        let State::Waiting { move_at, .. } = client.state else { panic!("waiting") };
        assert!(move_at < Instant::ZERO + 2 * MOVE_MIN);
        client.state = State::Waiting { ping_at: Instant::FAR_FUTURE, answer_until: Instant::FAR_FUTURE, move_at };
        client.outputs.clear();
        client.handle_timeout(move_at);
        assert!(matches!(client.poll_output(), Some(Output::Connect { server: 0, elsewhere: true })));
        client.handle_input(move_at, Input::Disconnected(io::ErrorKind::ConnectionRefused));
        client.handle_timeout(move_at + SECOND);
        assert!(
            matches!(client.poll_output(), Some(Output::Connect { server: 0, elsewhere: false })),
            "all were tried"
        );
    }

    #[test]
    fn how_long_is_waited_at_one_of_several_servers_is_chance_and_at_the_only_one_no_limit() {
        let moves = |servers, seed| {
            let identity = client_of(servers).identity;
            let mut client = Client::new(Instant::ZERO, identity, [seed; 32]);
            client.poll_output();
            registered(&mut client, Instant::ZERO);
            let State::Waiting { move_at, .. } = client.state else { panic!("waiting") };
            move_at
        };
        assert_eq!(moves(1, 5), Instant::FAR_FUTURE);
        let times: BTreeSet<Instant> = (0..50).map(|seed| moves(2, seed)).collect();
        assert!(times.len() > 40, "they meet by chance");
        let (first, last) = (times.first().expect("some"), times.last().expect("some"));
        assert!(*first >= Instant::ZERO + MOVE_MIN && *first < Instant::ZERO + MOVE_MIN * 5 / 4, "{first:?}");
        assert!(*last < Instant::ZERO + 2 * MOVE_MIN && *last > Instant::ZERO + MOVE_MIN * 7 / 4, "{last:?}");
    }
}
