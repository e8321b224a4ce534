//! The rendezvous server: pairs registrations into groups. Pure; `fmi::net::rendezvous` drives it.
//!
//! Invariants: every table is bounded by [`ServerConfig`]; whatever waits expires; a client can
//! cost nobody but itself; a rank that a living process holds is never given away, and one that a
//! dead process holds is given to its successor within [`ServerConfig::probe_within`]; an answer is never
//! larger than what all members of a group have sent; who is not registered is sent no more than one
//! short message for each of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::{
    ClientMessage, GroupId, Handout, Member, Nonce, Observed, Refusal, Registration, SIZE_MAX, ServerMessage,
    SessionId, VERSION, Waiting,
};
use crate::bucket::Bucket;
use crate::discovery::Outcome;
use crate::places::Places;
use crate::wire::WireError;
use fmi_net::time::Instant;

mod absent;
mod limits;
mod loss;
mod relay;
mod resume;
mod vouch;

/// One connection, numbered by the driver and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection(pub u64);

/// Requests of one client in a discovery.
const OBSERVATIONS_MAX: u8 = 8;
/// How long a discovery may last.
const DISCOVERY_MAX: Duration = Duration::from_secs(60);

/// Limits of a server.
///
/// # Examples
/// ```
/// # use fmi_proto::rendezvous::server::ServerConfig;
/// let mut config = ServerConfig::default();
/// config.relays_max = 0;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Most connections at once. Further ones take the place of one that waits, from the network (/24, /48) that has most of
    /// these, as long as that has more than theirs; else they are refused. Default 32,768.
    pub connections_max: usize,
    /// Most connections from one address (IPv6: from one /48); one NAT may hide a whole group. Default 16,384.
    pub connections_per_source_max: usize,
    /// Largest group. Default and upper bound 4,096.
    pub size_max: u32,
    /// A connection that has not registered after this time is closed. Default 5 s.
    pub register_within: Duration,
    /// A registration that waited this long is refused as expired. Default 10 min.
    pub wait_max: Duration,
    /// A rank's holder that does not answer a probe for this long loses it. Default 1 s.
    pub probe_within: Duration,
    /// A rank that went without a word while its group formed has this long to come back, until those that wait for it
    /// are told that it is lost. Default 5 s: what is repeated while a path is cut comes back soon after the path.
    pub return_within: Duration,
    /// Endpoints on which it answers, the main one first; what [discovery](crate::discovery)
    /// needs. Default none: clients learn where they are seen from, and are not called back.
    pub vantages: Vec<SocketAddr>,
    /// Most calls back at once. Default 64.
    pub calls_max: usize,
    /// A complete group waits this long for the vouches that a member announced. Default 100 ms: a lost
    /// SYN costs the knowledge of the NAT and no more time than this.
    pub vouch_within: Duration,
    /// Connections a second from one prefix (/24, /48) on average; further ones are told to come later.
    /// Default 4,096.
    pub connections_per_second: u64,
    /// The same at once. Default 32,768; a group behind one NAT comes at once, twice for each rank.
    pub connections_burst: u64,
    /// Maximum number of pairs that are relayed, or ask for it, at once; zero for none. Default 2,048. Each costs two
    /// connections and at most 64 KiB.
    pub relays_max: usize,
    /// A side of a relayed connection waits this long for the other one. Default 10 s.
    pub relay_within: Duration,
    /// Bytes a second relayed in each direction of a pair. Default 128 MiB.
    pub relay_bytes_per_second: u64,
}

/// The default of [`ServerConfig::return_within`].
pub const RETURN_WITHIN: Duration = Duration::from_secs(5);

/// Nonces that are remembered for each connection that may be open, so that a recorded registration is
/// not taken again.
const NONCES_PER_CONNECTION: usize = 4;

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            connections_max: 32_768,
            connections_per_source_max: 16_384,
            size_max: SIZE_MAX,
            register_within: Duration::from_secs(5),
            wait_max: Duration::from_secs(600),
            probe_within: Duration::from_secs(1),
            return_within: RETURN_WITHIN,
            vantages: Vec::new(),
            calls_max: 64,
            vouch_within: Duration::from_millis(100),
            connections_per_second: 4_096,
            connections_burst: 32_768,
            relays_max: 2_048,
            relay_within: Duration::from_secs(10),
            relay_bytes_per_second: 128 << 20,
        }
    }
}

/// What happened to a connection.
#[derive(Debug)]
pub enum Input {
    /// It was accepted.
    Opened(SocketAddr),
    /// It sent a message.
    Message(ClientMessage),
    /// It sent a malformed message.
    Malformed(WireError),
    /// The result of calling it back.
    CalledBack {
        /// Number of the vantage.
        vantage: u8,
        /// The result.
        outcome: Outcome,
    },
    /// It ended, or keep-alive gave it up.
    Closed,
}

/// What to do with a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a message.
    Send(Connection, ServerMessage),
    /// Send one message to all of these.
    SendAll(Vec<Connection>, ServerMessage),
    /// Close it after what was sent. The driver reports no `Closed` for it.
    Close(Connection),
    /// Join two connections: what one sends from now on goes to the other, after the messages sent so far.
    /// The driver reports [`Input::Closed`] for each.
    Splice(Connection, Connection),
    /// Connect to it from a vantage, and report the outcome.
    CallBack {
        /// The client that asks.
        connection: Connection,
        /// Number of the vantage.
        vantage: u8,
        /// Where it is seen from.
        to: SocketAddr,
    },
}

#[derive(Debug)]
enum State {
    Unregistered,
    /// Asks where it is seen from.
    Discovering {
        /// Requests that it may still make.
        left: u8,
        /// Whether it is being called back.
        is_called: bool,
    },
    Waiting {
        group: GroupId,
        rank: u32,
    },
    /// Vouches for a registration that has not come.
    Vouching(Nonce),
    /// One side of a relayed connection whose other side has not come.
    Relaying {
        session: SessionId,
        from: u32,
        to: u32,
    },
    /// One side of a relayed connection.
    Relayed,
    /// Waits for the holder of the rank to answer a probe.
    Contending {
        registration: Registration,
        holder: Connection,
    },
    Member {
        session: SessionId,
        rank: u32,
    },
}

#[derive(Debug)]
struct Client {
    from: SocketAddr,
    state: State,
    deadline: Option<Instant>,
    /// Messages that it may send. One that sends more serves nothing, and would keep a processor busy.
    messages: Bucket,
}

#[derive(Debug)]
struct Seat {
    connection: Connection,
    registration: Registration,
    observed: Observed,
    /// When vouches that have not come are given up; `None` once nothing is waited for.
    vouch_until: Option<Instant>,
    contender: Option<Connection>,
}

#[derive(Debug)]
struct Forming {
    size: u32,
    seats: BTreeMap<u32, Seat>,
}

#[derive(Debug)]
struct Session {
    group: GroupId,
    members: BTreeMap<u32, Connection>,
    /// Of all ranks.
    nonces: Vec<Nonce>,
    formed: bool,
    /// Members that were called lost and have not come back.
    lost: BTreeSet<u32>,
    /// Members that said that they failed, as far as the others were told.
    failures_told: u32,
}

/// The server's state.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    entropy: ChaCha8Rng,
    clients: BTreeMap<Connection, Client>,
    sources: BTreeMap<IpAddr, usize>,
    /// Connections that give way to those of other networks when all are taken.
    places: Places<Connection>,
    forming: BTreeMap<GroupId, Forming>,
    /// How many groups of a size that are forming hold a rank.
    held: BTreeMap<(u32, u32), usize>,
    sessions: BTreeMap<SessionId, Session>,
    running: BTreeMap<GroupId, BTreeSet<SessionId>>,
    deadlines: BTreeSet<(Instant, Connection)>,
    /// Ranks of forming groups that went, and until when each may come back.
    absent: BTreeMap<(GroupId, u32), Instant>,
    absent_in_order: BTreeSet<(Instant, GroupId, u32)>,
    calls: usize,
    /// Where registrations with a nonce wait.
    waiting: BTreeMap<Nonce, (GroupId, u32)>,
    /// Connections that vouch for a registration that has not come.
    vouching: BTreeMap<Nonce, Vec<Connection>>,
    /// Nonces of registrations, and when each may be forgotten.
    nonces: BTreeSet<Nonce>,
    nonces_in_order: VecDeque<(Instant, Nonce)>,
    /// Connections from each prefix.
    rates: BTreeMap<IpAddr, Bucket>,
    /// Sides of relayed connections that wait: session, from, to.
    relays: BTreeMap<(SessionId, u32, u32), Connection>,
    /// Connections that are relayed, counting those that wait twice.
    relaying: usize,
    outputs: VecDeque<Output>,
}

impl Server {
    /// Makes a server whose session identifiers come from `seed`, which must be secret.
    pub fn new(config: ServerConfig, seed: [u8; 32]) -> Self {
        Self {
            config,
            entropy: ChaCha8Rng::from_seed(seed),
            clients: BTreeMap::new(),
            sources: BTreeMap::new(),
            places: Places::default(),
            forming: BTreeMap::new(),
            held: BTreeMap::new(),
            sessions: BTreeMap::new(),
            running: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            absent: BTreeMap::new(),
            absent_in_order: BTreeSet::new(),
            calls: 0,
            waiting: BTreeMap::new(),
            vouching: BTreeMap::new(),
            nonces: BTreeSet::new(),
            nonces_in_order: VecDeque::new(),
            rates: BTreeMap::new(),
            relays: BTreeMap::new(),
            relaying: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Takes what happened to `connection`. Input for a connection that the server closed is ignored.
    pub fn handle_input(&mut self, now: Instant, connection: Connection, input: Input) {
        match input {
            Input::Opened(from) => self.open(now, connection, from),
            Input::Closed => self.forget(now, connection, true),
            Input::Malformed(WireError::Version { .. }) => self.refuse(now, connection, Refusal::Version(VERSION)),
            Input::Malformed(_) => self.refuse(now, connection, Refusal::Malformed),
            Input::CalledBack { vantage, outcome } => self.called_back(connection, vantage, outcome),
            Input::Message(message) => match self.may_speak(now, connection) {
                Some(true) => self.hear(now, connection, message),
                Some(false) => self.refuse(now, connection, Refusal::Malformed),
                None => {}
            },
        }
    }

    /// Expires what has waited until `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire_absent(now);
        while let Some(&(at, connection)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            let Some(client) = self.clients.get_mut(&connection) else { continue };
            client.deadline = None;
            let (holder, waiting) = match client.state {
                State::Contending { holder, .. } => (Some(holder), None),
                State::Waiting { group, rank } => (None, Some((group, rank))),
                State::Unregistered
                | State::Discovering { .. }
                | State::Vouching(_)
                | State::Relaying { .. }
                | State::Relayed
                | State::Member { .. } => (None, None),
            };
            if let Some(holder) = holder {
                self.succeed(now, connection, holder);
            } else if let Some((group, rank)) = waiting.filter(|(group, rank)| self.expects_vouch(*group, *rank)) {
                self.set_deadline(connection, now + self.config.wait_max);
                self.vouched(group, rank);
            } else {
                self.refuse(now, connection, Refusal::Expired);
            }
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let next = [self.deadlines.first().map(|(at, _)| *at), self.absent_until()].into_iter().flatten().min();
        next.map(|at| (at, "a registration or a probe expires, or a rank has not come back"))
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.clients.len()
    }

    /// Groups that wait for ranks.
    pub fn groups_forming(&self) -> usize {
        self.forming.len()
    }

    /// Everything that a server remembers: what must stay bounded.
    pub fn entries(&self) -> usize {
        self.clients.len()
            + self.waiting.len()
            + self.vouching.len()
            + self.nonces.len()
            + self.rates.len()
            + self.relays.len()
            + self.absent.len()
            + self.sessions.values().map(|session| session.nonces.len()).sum::<usize>()
    }

    /// Sessions with at least one member connected.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    fn set_deadline(&mut self, connection: Connection, at: Instant) {
        self.clear_deadline(connection);
        if let Some(client) = self.clients.get_mut(&connection) {
            client.deadline = Some(at);
            self.deadlines.insert((at, connection));
        }
    }

    fn clear_deadline(&mut self, connection: Connection) {
        if let Some(at) = self.clients.get_mut(&connection).and_then(|client| client.deadline.take()) {
            self.deadlines.remove(&(at, connection));
        }
    }

    fn send(&mut self, connection: Connection, message: ServerMessage) {
        self.outputs.push_back(Output::Send(connection, message));
    }

    fn refuse(&mut self, now: Instant, connection: Connection, refusal: Refusal) {
        if self.clients.contains_key(&connection) {
            self.send(connection, ServerMessage::Refused(refusal));
            self.outputs.push_back(Output::Close(connection));
            self.forget(now, connection, true);
        }
    }

    fn hear(&mut self, now: Instant, connection: Connection, message: ClientMessage) {
        self.answer_contender(now, connection);
        match message {
            ClientMessage::Register(registration) => self.register(now, connection, registration),
            ClientMessage::Ping => self.tell_state(connection),
            ClientMessage::Observe => self.observe(now, connection, None),
            ClientMessage::CallBack(vantage) => self.observe(now, connection, Some(vantage)),
            ClientMessage::Vouch(nonce) => self.vouch(now, connection, nonce),
            ClientMessage::Unvouched => {
                let state = self.clients.get(&connection).map(|client| &client.state);
                if let Some(State::Waiting { group, rank }) = state {
                    let (group, rank) = (*group, *rank);
                    self.count_vouch(now, group, rank);
                    self.complete_if_ready(group);
                }
            }
            ClientMessage::Relay(request) => self.relay(now, connection, request),
            ClientMessage::Resume(resumption) => self.resume(now, connection, resumption),
            ClientMessage::Formed(session) => {
                if let Some(session) = self.sessions.get_mut(&session)
                    && session.members.values().any(|member| *member == connection)
                {
                    session.formed = true;
                }
            }
            ClientMessage::Severed { session, rank } => self.severed(connection, session, rank),
            ClientMessage::Fail(_) => {
                self.tell_failure(connection);
                self.outputs.push_back(Output::Close(connection));
                self.forget(now, connection, false);
            }
            ClientMessage::Leave(_) => {
                self.outputs.push_back(Output::Close(connection));
                self.forget(now, connection, false);
            }
        }
    }

    /// Tells a client where it is seen from, or calls it back there. It may ask a few times, for a
    /// while, and is called by one vantage at a time; nobody can make this server call somebody else.
    fn observe(&mut self, now: Instant, connection: Connection, vantage: Option<u8>) {
        let Some(client) = self.clients.get_mut(&connection) else { return };
        let left = match client.state {
            State::Unregistered => OBSERVATIONS_MAX,
            State::Discovering { left, is_called: false } if left > 0 => left,
            State::Discovering { .. }
            | State::Waiting { .. }
            | State::Vouching(_)
            | State::Relaying { .. }
            | State::Relayed
            | State::Contending { .. }
            | State::Member { .. } => {
                return self.refuse(now, connection, Refusal::Malformed);
            }
        };
        let to = client.from;
        let is_known = vantage.is_none_or(|number| usize::from(number) < self.config.vantages.len());
        let is_busy = vantage.is_some() && self.calls >= self.config.calls_max;
        client.state = State::Discovering { left: left - 1, is_called: vantage.is_some() };
        match vantage {
            _ if !is_known => return self.refuse(now, connection, Refusal::Malformed),
            _ if is_busy => return self.refuse(now, connection, Refusal::Busy),
            Some(vantage) => {
                self.calls += 1;
                self.outputs.push_back(Output::CallBack { connection, vantage, to });
            }
            None => {
                let vantages = self.config.vantages.clone();
                self.send(connection, ServerMessage::Observed { observed: to, vantages });
            }
        }
        if left == OBSERVATIONS_MAX {
            self.set_deadline(connection, now + DISCOVERY_MAX);
        }
    }

    fn called_back(&mut self, connection: Connection, vantage: u8, outcome: Outcome) {
        self.calls = self.calls.saturating_sub(1);
        let Some(client) = self.clients.get_mut(&connection) else { return };
        if let State::Discovering { is_called, .. } = &mut client.state {
            *is_called = false;
            self.send(connection, ServerMessage::CalledBack { vantage, outcome });
        }
    }

    /// A holder that speaks keeps its rank.
    fn answer_contender(&mut self, now: Instant, holder: Connection) {
        let Some(State::Waiting { group, rank }) = self.clients.get(&holder).map(|client| &client.state) else {
            return;
        };
        let group = *group;
        let seat = self.forming.get_mut(&group).and_then(|forming| forming.seats.get_mut(rank));
        if let Some(contender) = seat.and_then(|seat| seat.contender.take()) {
            self.refuse(now, contender, Refusal::RankTaken);
            self.complete_if_ready(group);
        }
    }

    fn register(&mut self, now: Instant, connection: Connection, registration: Registration) {
        let state = self.clients.get(&connection).map(|client| &client.state);
        if !matches!(state, Some(State::Unregistered)) {
            return self.refuse(now, connection, Refusal::Malformed);
        }
        let Registration { group, rank, size, instance, .. } = registration;
        let size_max = self.config.size_max.min(SIZE_MAX);
        if size == 0 || size > size_max {
            return self.refuse(now, connection, Refusal::SizeOutOfRange { max: size_max });
        }
        if rank >= size {
            return self.refuse(now, connection, Refusal::RankOutOfRange);
        }
        if !self.is_first(now, registration.nonce) {
            return self.refuse(now, connection, Refusal::Replayed);
        }
        if let Some(forming) = self.forming.get_mut(&group) {
            if forming.size != size {
                let expected = forming.size;
                return self.refuse(now, connection, Refusal::SizeMismatch { expected });
            }
            if let Some(seat) = forming.seats.get_mut(&rank) {
                let holder = seat.connection;
                if seat.registration.instance == instance {
                    self.outputs.push_back(Output::Close(holder));
                    self.forget(now, holder, true);
                } else if seat.contender.is_some() {
                    return self.refuse(now, connection, Refusal::RankTaken);
                } else {
                    seat.contender = Some(connection);
                    self.send(holder, ServerMessage::Probe);
                    self.set_state(connection, State::Contending { registration, holder });
                    return self.set_deadline(connection, now + self.config.probe_within);
                }
            }
        }
        self.dissolve_unformed(now, group, rank);
        self.seat(now, connection, registration);
    }

    fn set_state(&mut self, connection: Connection, state: State) {
        if let Some(client) = self.clients.get_mut(&connection) {
            client.state = state;
            let (from, gives_way) = (client.from.ip(), client.gives_way());
            if gives_way { self.places.take(from, connection) } else { self.places.give_back(from, connection) }
        }
    }

    /// The holder did not answer: its rank goes to `contender`.
    fn succeed(&mut self, now: Instant, contender: Connection, holder: Connection) {
        self.outputs.push_back(Output::Close(holder));
        // Forgetting the holder turns its contender into an ordinary registration.
        self.forget(now, holder, true);
        debug_assert!(
            self.clients.get(&contender).is_none_or(|client| !matches!(client.state, State::Contending { .. })),
            "a contender is seated or refused once its holder is gone"
        );
    }

    /// Whether a nonce has not been seen for as long as a registration can wait.
    fn is_first(&mut self, now: Instant, nonce: Nonce) -> bool {
        let count_max = self.config.connections_max.saturating_mul(NONCES_PER_CONNECTION);
        while let Some((until, oldest)) = self.nonces_in_order.front().copied()
            && (until <= now || self.nonces.len() >= count_max)
        {
            self.nonces_in_order.pop_front();
            self.nonces.remove(&oldest);
        }
        let is_first = self.nonces.insert(nonce);
        if is_first {
            self.nonces_in_order.push_back((now + self.config.wait_max, nonce));
        }
        is_first
    }

    fn seat(&mut self, now: Instant, connection: Connection, registration: Registration) {
        let Some(client) = self.clients.get_mut(&connection) else { return };
        let observed = Observed::once(client.from);
        let Registration { group, rank, size, nonce, vouches, .. } = registration;
        client.state = State::Waiting { group, rank };
        let forming = self.forming.entry(group).or_insert_with(|| Forming { size, seats: BTreeMap::new() });
        let until = now + self.config.vouch_within;
        let vouch_until = (vouches > 0).then_some(until);
        forming.seats.insert(rank, Seat { connection, registration, observed, vouch_until, contender: None });
        self.returned(group, rank);
        *self.held.entry((size, rank)).or_default() += 1;
        self.waiting.insert(nonce, (group, rank));
        let expires = if vouch_until.is_some() { until } else { now + self.config.wait_max };
        self.set_deadline(connection, expires);
        for vouching in self.vouching.remove(&nonce).unwrap_or_default() {
            self.testify(now, vouching, group, rank);
        }
        if !self.complete_if_ready(group) {
            self.tell_state(connection);
            self.tell_of_sessions(connection, group, rank);
        }
    }

    /// Hands a group out if all ranks are there and nothing is waited for.
    fn complete_if_ready(&mut self, group: GroupId) -> bool {
        let is_ready = self.forming.get(&group).is_some_and(|forming| {
            forming.seats.len() == forming.size as usize
                && forming.seats.values().all(|seat| seat.vouch_until.is_none() && seat.contender.is_none())
        });
        if is_ready {
            self.complete(group);
        }
        is_ready
    }

    fn complete(&mut self, group: GroupId) {
        let Some(forming) = self.forming.remove(&group) else { return };
        for rank in forming.seats.keys() {
            self.forget_held(forming.size, *rank);
        }
        let mut session = SessionId::default();
        self.entropy.fill_bytes(&mut session);
        let mut members = Vec::with_capacity(forming.seats.len());
        let mut connections = BTreeMap::new();
        for (rank, seat) in forming.seats {
            let Seat { connection, observed, registration, .. } = seat;
            let Registration { nonce, round_trip, card, .. } = registration;
            self.waiting.remove(&nonce);
            self.set_state(connection, State::Member { session, rank });
            self.clear_deadline(connection);
            members.push(Member { rank, nonce, observed, round_trip, card });
            connections.insert(rank, connection);
        }
        let nonces = members.iter().map(|member| member.nonce).collect();
        let message = ServerMessage::Handout(Arc::new(Handout { session, members }));
        self.outputs.push_back(Output::SendAll(connections.values().copied().collect(), message));
        self.running.entry(group).or_default().insert(session);
        let session_of = Session::new(group, connections, nonces, false);
        self.sessions.insert(session, session_of);
    }

    fn forget_held(&mut self, size: u32, rank: u32) {
        if let Some(groups) = self.held.get_mut(&(size, rank)) {
            *groups -= 1;
            if *groups == 0 {
                self.held.remove(&(size, rank));
            }
        }
    }

    fn tell_state(&mut self, connection: Connection) {
        let Some(client) = self.clients.get(&connection) else { return };
        let State::Waiting { group, .. } = client.state else { return };
        let Some(forming) = self.forming.get(&group) else { return };
        let missing = (0..).zip(forming.seats.keys()).find(|(expected, rank)| expected != *rank);
        let seated = u32::try_from(forming.seats.len()).expect("a group has at most SIZE_MAX members");
        let missing = missing.map_or(seated, |(expected, _)| expected);
        let waiting = Waiting {
            observed: client.from,
            present: seated,
            missing,
            // This group does not hold it, so another one does.
            other_key: self.held.contains_key(&(forming.size, missing)),
            running: self.running.contains_key(&group),
        };
        self.send(connection, ServerMessage::Waiting(waiting));
    }

    /// Sends the members of a session that never formed back to registration when one of them
    /// registers again.
    fn dissolve_unformed(&mut self, now: Instant, group: GroupId, rank: u32) {
        let Some(sessions) = self.running.get(&group) else { return };
        let unformed = sessions
            .iter()
            .copied()
            .find(|session| self.sessions.get(session).is_some_and(|s| !s.formed && s.members.contains_key(&rank)));
        if let Some(session) = unformed {
            self.dissolve(now, session);
        }
    }

    fn dissolve(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.forget_running(session.group, id);
        for (rank, connection) in session.members {
            self.miss(now, session.group, rank);
            self.set_state(connection, State::Unregistered);
            self.set_deadline(connection, now + self.config.register_within);
            self.send(connection, ServerMessage::Dissolved(id));
        }
    }

    fn forget_running(&mut self, group: GroupId, session: SessionId) {
        if let Some(sessions) = self.running.get_mut(&group) {
            sessions.remove(&session);
            if sessions.is_empty() {
                self.running.remove(&group);
            }
        }
    }

    /// Removes a connection; `lost` tells whether it vanished or left gracefully.
    fn forget(&mut self, now: Instant, connection: Connection, lost: bool) {
        let Some(client) = self.drop_client(connection) else { return };
        match client.state {
            State::Unregistered | State::Discovering { .. } => {}
            State::Vouching(nonce) => {
                if let Some(connections) = self.vouching.get_mut(&nonce) {
                    connections.retain(|vouching| *vouching != connection);
                    if connections.is_empty() {
                        self.vouching.remove(&nonce);
                    }
                }
            }
            State::Relaying { session, from, to } => {
                self.relaying -= 2;
                self.relays.remove(&(session, from, to));
            }
            State::Relayed => self.relaying -= 1,
            State::Contending { registration, .. } => {
                let forming = self.forming.get_mut(&registration.group);
                if let Some(seat) = forming.and_then(|forming| forming.seats.get_mut(&registration.rank))
                    && seat.contender == Some(connection)
                {
                    seat.contender = None;
                    self.complete_if_ready(registration.group);
                }
            }
            State::Waiting { group, rank } => {
                if lost {
                    self.miss(now, group, rank);
                }
                self.vacate(now, group, rank);
            }
            State::Member { session, rank } => self.part(now, session, rank, lost),
        }
    }

    fn vacate(&mut self, now: Instant, group: GroupId, rank: u32) {
        let Some(forming) = self.forming.get_mut(&group) else { return };
        let seat = forming.seats.remove(&rank);
        let size = forming.size;
        if forming.seats.is_empty() {
            self.forming.remove(&group);
        }
        if let Some(seat) = &seat {
            self.waiting.remove(&seat.registration.nonce);
            self.forget_held(size, rank);
        }
        let contender = seat.and_then(|seat| seat.contender);
        let Some(contender) = contender else { return };
        let Some(client) = self.clients.get_mut(&contender) else { return };
        if let State::Contending { registration, .. } = std::mem::replace(&mut client.state, State::Unregistered) {
            self.seat(now, contender, registration);
        }
    }

    fn part(&mut self, now: Instant, id: SessionId, rank: u32, lost: bool) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.members.remove(&rank);
        if session.members.is_empty() {
            let group = session.group;
            self.sessions.remove(&id);
            return self.forget_running(group, id);
        }
        if !session.formed {
            let group = session.group;
            if lost {
                self.miss(now, group, rank);
            }
            return self.dissolve(now, id);
        }
        if lost {
            session.lost.insert(rank);
            self.tell_loss(id, rank);
        }
    }
}

#[cfg(test)]
mod tests;
