//! Joining a group: rendezvous, punches to all peers, confirmation, barrier. One future, no task.
//!
//! A failed round (a pair that did not connect in time, a rank that vanished meanwhile, a rendezvous
//! that restarted) starts over from a fresh local port until the join deadline.
//!
//! **A rank gives a round up by its own clock only before it enters the barrier.** While it has not,
//! nobody can have passed, so nobody is left behind in a group that another rank has abandoned. In
//! the barrier a rank waits until it passes, or hears that the round is void: a connection ends, or
//! the rendezvous dissolves the session.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::framed::{Framed, ReceiveError};
use super::lifeline::{Lifeline, Reconnect};
use super::link::{CONTROL_KEEPALIVE, CONTROL_SILENCE_MAX};
use super::round::{Locals, Round, STRANGERS_MAX};
use super::upgrade::{Upgrade, Upgrades};
use super::{BoxFuture, ByteStream, Listener, Net, Timer, within};
use crate::communicator::{Communicator, Parts, erase};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::key::Key;
use crate::proto::candidate::{Means, Roster};
use crate::proto::noise::KeyPair;
use crate::proto::rendezvous::client::{Client, Identity, Input as ClientInput, Output as ClientOutput};
use crate::proto::rendezvous::{
    ClientMessage, Group, Nonce, Resumption, SERVER_MESSAGE_BYTES_MAX, SIZE_MAX, ServerMessage, SessionId,
};
use crate::proto::session::Credentials;
use crate::time::Instant;

/// The control channel of a joined rank.
pub(crate) type Control = Framed<Box<dyn ByteStream>>;

/// Time for the first round; each further one has twice as long. A mapping that is stuck (a retry
/// behind Linux's tracker in SYN_SENT2 leaves it untranslated) costs this much, and a lost SYN must
/// have time for its repetition.
const FIRST_ROUND: Duration = Duration::from_secs(2);
/// Endpoints of one rendezvous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Server {
    main: SocketAddr,
    /// Where it sees this rank a second time.
    vantage: Option<SocketAddr>,
    /// Over the other address family.
    other: Option<SocketAddr>,
}

/// Connections from one fresh local port to one server. The main one carries the registration, the
/// others vouch for it.
struct Legs<N: Net> {
    server: Server,
    began: Instant,
    /// The local port of main connection, vantage and listener.
    local: SocketAddr,
    listener: N::Listener,
    main: Leg<N::Stream>,
    vantage: Leg<N::Stream>,
    /// Over the other address family, with its own port and listener.
    other: Option<(SocketAddr, N::Listener)>,
    other_leg: Leg<N::Stream>,
    /// When the main connection stood.
    connected_at: Instant,
    /// Whether the client machine knows what came of it.
    is_announced: bool,
}

enum Leg<S> {
    /// Not wanted, failed, or ended.
    None,
    Connecting(BoxFuture<io::Result<S>>, Option<Nonce>),
    Standing(Framed<S>),
}

impl<S: ByteStream> Leg<S> {
    fn is_hopeful(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Connects; true when it is decided.
    fn poll_connect(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self::Connecting(connecting, nonce) = self else { return Poll::Pending };
        match connecting.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(stream)) => {
                let nonce = nonce.take();
                *self = Self::Standing(Framed::new(stream, SERVER_MESSAGE_BYTES_MAX));
                if let Some(nonce) = nonce {
                    self.vouch(nonce);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                *self = Self::None;
                Poll::Ready(Err(error))
            }
        }
    }

    /// Vouches for a registration, now or as soon as the connection stands.
    fn vouch(&mut self, nonce: Nonce) {
        match self {
            Self::None => {}
            Self::Connecting(_, pending) => *pending = Some(nonce),
            Self::Standing(framed) => framed.queue(&ClientMessage::Vouch(nonce).emit()),
        }
    }

    /// Sends what is queued; a server that closes has heard.
    fn poll_end(&mut self, cx: &mut Context<'_>) {
        let Self::Standing(framed) = self else { return };
        let flushed = framed.poll_flush(cx);
        let ended = framed.poll_receive(cx, ServerMessage::parse).is_ready();
        if ended || matches!(flushed, Poll::Ready(Err(_))) {
            *self = Self::None;
        }
    }
}

impl<N: Net> Legs<N> {
    /// Listens on a fresh port, and connects from there. The vantage comes first: what a counting NAT
    /// gave last is then what the main endpoint sees.
    fn new(net: &N, config: &Config, server: Server) -> io::Result<Self> {
        let backlog = config.size.saturating_add(STRANGERS_MAX).min(SIZE_MAX);
        let any = local_for(config, server.main);
        let listener = net.listen(any, backlog)?;
        let local = SocketAddr::new(any.ip(), listener.local_addr()?.port());
        let connect = |local: SocketAddr, remote: Option<SocketAddr>| match remote {
            Some(remote) => Leg::Connecting(Box::pin(net.connect(local, remote)), None),
            None => Leg::None,
        };
        // A machine without the other family has no use for it.
        let other = server.other.and_then(|remote| {
            let any = unspecified(remote);
            let listener = net.listen(any, backlog).ok()?;
            let port = listener.local_addr().ok()?.port();
            Some((SocketAddr::new(any.ip(), port), listener))
        });
        let other_leg =
            connect(other.as_ref().map_or(local, |(local, _)| *local), server.other.filter(|_| other.is_some()));
        Ok(Self {
            server,
            began: net.now(),
            local,
            listener,
            vantage: connect(local, server.vantage),
            main: connect(local, Some(server.main)),
            other,
            other_leg,
            connected_at: net.now(),
            is_announced: false,
        })
    }

    /// Waits until the main connection is decided; the others may come later.
    fn poll_main(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<io::Result<()>> {
        let _ = self.poll_others(cx);
        let polled = self.main.poll_connect(cx);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.connected_at = now;
        }
        polled
    }

    /// Makes progress on the others; the number that failed.
    fn poll_others(&mut self, cx: &mut Context<'_>) -> usize {
        let mut failed = 0;
        for leg in [&mut self.vantage, &mut self.other_leg] {
            failed += usize::from(matches!(leg.poll_connect(cx), Poll::Ready(Err(_))));
            leg.poll_end(cx);
        }
        failed
    }

    /// What the main connection tells the client machine.
    fn connected(&self) -> io::Result<ClientInput> {
        let Leg::Standing(control) = &self.main else { return Err(io::ErrorKind::NotConnected.into()) };
        let vouches = [&self.vantage, &self.other_leg].map(|leg| u8::from(leg.is_hopeful()));
        Ok(ClientInput::Connected {
            locals: vec![control.stream().local_addr()?],
            round_trip: self.connected_at - self.began,
            vouches: vouches.iter().sum(),
        })
    }
}

/// A rank with a checked configuration that has not registered yet, and may open its connection to
/// the rendezvous ahead of that.
#[derive(Debug)]
pub struct Prepared<N: Net> {
    net: N,
    config: Config,
    servers: Vec<Server>,
    first: Option<Legs<N>>,
}

impl<N: Net> fmt::Debug for Legs<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Legs").field("server", &self.server).field("local", &self.local).finish_non_exhaustive()
    }
}

impl<N: Net> Prepared<N> {
    /// Checks the configuration and resolves the rendezvous.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`].
    pub async fn new(net: N, config: &Config) -> Result<Self> {
        config.check().map_err(|error| error.on(config.rank))?;
        let servers = if config.is_alone() { Vec::new() } else { resolve(&net, config).await? };
        Ok(Self { net, config: config.clone(), servers, first: None })
    }

    /// Opens the connections to the rendezvous ahead of the join, which saves it one round trip.
    ///
    /// # Errors
    /// [`ErrorKind::RendezvousUnreachable`] if that fails; joining would try again until its deadline.
    pub async fn warm(&mut self) -> Result<()> {
        if self.config.is_alone() {
            return Ok(());
        }
        let connect = async {
            let mut legs = Legs::new(&self.net, &self.config, self.servers[0])?;
            poll_fn(|cx| legs.poll_main(cx, self.net.now())).await?;
            Ok(legs)
        };
        match within(&self.net, self.net.now() + self.config.join_deadline, connect).await {
            Ok(legs) => {
                self.first = Some(legs);
                Ok(())
            }
            Err(error) => {
                let address = self.config.rendezvous.clone();
                let kind = ErrorKind::RendezvousUnreachable { address, last: error.to_string() };
                Err(Error::new(Operation::Join, kind).on(self.config.rank).caused_by(error))
            }
        }
    }

    /// Joins the group.
    ///
    /// # Errors
    /// As [`Communicator::connect`].
    ///
    /// # Cancel safety
    /// As [`Communicator::connect`].
    pub async fn join(self) -> Result<Communicator> {
        if self.config.is_alone() {
            let (links, session) = (vec![None], SessionId::default());
            let parts = Parts { links, control: None, session, upgrade: None, lifeline: None };
            let comm = Communicator::assemble(&self.config, Arc::new(self.net.clone()), parts);
            comm.join_barrier(self.net.now() + self.config.join_deadline).await?;
            comm.mark_formed();
            return Ok(comm);
        }
        let mut joiner = Joiner::new(self);
        loop {
            let parts = poll_fn(|cx| joiner.poll(cx)).await?;
            let comm = Communicator::assemble(&joiner.config, Arc::new(joiner.net.clone()), parts);
            match comm.join_barrier(joiner.deadline).await {
                Ok(()) => {
                    comm.mark_formed();
                    return Ok(comm);
                }
                Err(error) if joiner.net.now() >= joiner.deadline => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "the group did not come together; registering again");
                    joiner.retry();
                }
            }
        }
    }
}

/// Finds the endpoints of every rendezvous that the configuration names.
async fn resolve<N: Net>(net: &N, config: &Config) -> Result<Vec<Server>> {
    let deadline = net.now() + config.join_deadline;
    let invalid = |what: String| Error::new(Operation::Join, ErrorKind::InvalidConfig(what)).on(config.rank);
    let find = async |name: &str| {
        let found = within(net, deadline, net.resolve(name)).await;
        found.map_err(|error| invalid(format!("cannot resolve {name:?}: {error}")).caused_by(error))
    };
    let mut vantages = Vec::new();
    if let Some(named) = config.vantage.as_ref().filter(|named| *named != "off") {
        for name in named.split(',') {
            vantages.push(find(name.trim()).await?);
        }
    }
    let mut servers = Vec::new();
    for (number, name) in config.rendezvous.split(',').map(str::trim).enumerate() {
        let usable = |address: &SocketAddr| config.bind.is_unspecified() || address.is_ipv4() == config.bind.is_ipv4();
        let addresses: Vec<_> = find(name).await?.into_iter().filter(usable).collect();
        // Peers meet over IPv4 wherever both have it; IPv6 is the other family of those that have both.
        let is_v4 = addresses.iter().any(SocketAddr::is_ipv4);
        let other = addresses.iter().copied().find(|address| address.is_ipv4() != is_v4);
        let first = servers.len();
        for main in addresses.iter().copied().filter(|address| address.is_ipv4() == is_v4) {
            let given = vantages.get(number).map(|found| found.iter().copied().find(|it| it.is_ipv4() == is_v4));
            let next = main.port().checked_add(1).map(|port| SocketAddr::new(main.ip(), port));
            let vantage = if config.vantage.is_none() { next } else { given.flatten() };
            servers.push(Server { main, vantage, other });
        }
        if servers.len() == first {
            return Err(invalid(format!("{name:?} has no usable address")));
        }
    }
    Ok(servers)
}

fn unspecified(remote: SocketAddr) -> SocketAddr {
    if remote.is_ipv4() { SocketAddr::from(([0; 4], 0)) } else { SocketAddr::from(([0; 16], 0)) }
}

fn local_for(config: &Config, remote: SocketAddr) -> SocketAddr {
    if config.bind.is_unspecified() { unspecified(remote) } else { SocketAddr::new(config.bind, 0) }
}

struct Joiner<N: Net> {
    net: N,
    config: Config,
    key: Key,
    deadline: Instant,
    round_deadline: Instant,
    servers: Vec<Server>,
    client: Client,
    client_timer: Timer,
    deadline_timer: Timer,
    legs: Option<Legs<N>>,
    /// Opened ahead of the join.
    warm: Option<Legs<N>>,
    rounds: u32,
    round: Option<Round<N>>,
    /// What was missing when an earlier round was given up.
    unconnected: Option<(u32, ErrorKind)>,
}

impl<N: Net> Joiner<N> {
    fn new(prepared: Prepared<N>) -> Self {
        let Prepared { net, config, servers, first } = prepared;
        let now = net.now();
        let key = config.group_key();
        let mut instance = [0; 16];
        net.fill_entropy(&mut instance);
        let mut seed = [0; 32];
        net.fill_entropy(&mut seed);
        let name = key.name_tag(&config.group);
        let group = key.group_id(&config.group);
        let identity = Identity {
            group,
            name,
            rank: config.rank,
            size: config.size,
            instance,
            key: key.clone(),
            security: config.security(),
            sprays: config.spray,
            servers: servers.len(),
        };
        let clock = Arc::new(net.clone());
        Self {
            deadline: now + config.join_deadline,
            round_deadline: Instant::FAR_FUTURE,
            client: Client::new(now, identity, seed),
            client_timer: Timer::new(clock.clone()),
            deadline_timer: Timer::new(clock),
            legs: None,
            warm: first,
            rounds: 0,
            round: None,
            unconnected: None,
            net,
            config,
            key,
            servers,
        }
    }

    fn retry(&mut self) {
        self.abandon_round();
        self.client.handle_input(self.net.now(), ClientInput::Retry);
    }

    /// Ends a round and keeps what it lacked, for the error at the deadline.
    fn abandon_round(&mut self) {
        if let Some(lacked) = self.round.take().and_then(|round| round.unconnected()) {
            self.unconnected = Some(lacked);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Parts>> {
        loop {
            self.drain_client()?;
            let mut moved = self.poll_control(cx);
            if let (Some(round), Some(legs)) = (&mut self.round, &mut self.legs) {
                let other = legs.other.as_mut().map(|(local, listener)| (*local, listener));
                let mut locals = Locals { main: (legs.local, &mut legs.listener), other };
                moved |= round.poll(cx, &self.net, &mut locals);
                if round.is_complete() {
                    return Poll::Ready(Ok(self.finish()));
                }
            }
            moved |= self.poll_timers(cx)?;
            if !moved {
                return Poll::Pending;
            }
        }
    }

    /// Hands links and control channel over; the listener closes.
    fn finish(&mut self) -> Parts {
        let round = self.round.take().expect("only a round finishes");
        let control = match self.legs.take().map(|legs| legs.main) {
            Some(Leg::Standing(control)) => Some(control),
            Some(Leg::None | Leg::Connecting(..)) | None => None,
        };
        if let Some(control) = &control {
            // A stream that refuses the option is broken, which its next use tells.
            let _ = control.stream().set_keepalive(CONTROL_KEEPALIVE, CONTROL_SILENCE_MAX);
        }
        let session = round.credentials().roster().session;
        let relayed = round.relayed();
        let upgrade = (!relayed.is_empty()).then(|| self.upgrades(session, relayed));
        let nonce = round.credentials().roster().peers[self.config.rank as usize].nonce;
        let lifeline = Some(self.lifeline(session, nonce));
        Parts { links: round.into_links(), control: control.map(erase), session, upgrade, lifeline }
    }

    fn lifeline(&self, session: SessionId, nonce: Nonce) -> Box<dyn Lifeline> {
        let (rank, size) = (self.config.rank, self.config.size);
        let resumption = Resumption { session, group: self.key.group_id(&self.config.group), rank, size, nonce };
        let ways = self.servers.iter().map(|server| (local_for(&self.config, server.main), server.main)).collect();
        Box::new(Reconnect::new(self.net.clone(), ways, resumption, Timer::new(Arc::new(self.net.clone()))))
    }

    fn upgrades(&self, session: SessionId, relayed: Vec<(u32, bool)>) -> Box<dyn Upgrade> {
        let timer = Timer::new(Arc::new(self.net.clone()));
        let (net, servers) = (self.net.clone(), self.servers.clone());
        let prepare = move |config| Prepared { net: net.clone(), config, servers: servers.clone(), first: None };
        Box::new(Upgrades::new(self.net.clone(), self.config.clone(), session, relayed, timer, Box::new(prepare)))
    }

    fn drain_client(&mut self) -> Result<()> {
        while let Some(output) = self.client.poll_output() {
            match output {
                ClientOutput::Connect(number) => {
                    self.abandon_round();
                    self.round_deadline = Instant::FAR_FUTURE;
                    self.legs = None;
                    // Connections opened ahead of the join serve for the first time only.
                    let legs = self.warm.take().map_or_else(
                        || Legs::new(&self.net, &self.config, self.servers[number % self.servers.len()]),
                        Ok,
                    );
                    match legs {
                        Ok(legs) => self.legs = Some(legs),
                        Err(error) => {
                            self.client.handle_input(self.net.now(), ClientInput::Disconnected(error.kind()));
                        }
                    }
                }
                ClientOutput::Send(message) => {
                    if let Some(Legs { main: Leg::Standing(control), .. }) = &mut self.legs {
                        control.queue(&message.emit());
                    }
                }
                ClientOutput::Vouch(nonce) => {
                    if let Some(legs) = &mut self.legs {
                        legs.vantage.vouch(nonce);
                        legs.other_leg.vouch(nonce);
                    }
                }
                ClientOutput::Joined(group, key_pair) => self.start_round(&group, key_pair)?,
                ClientOutput::Dissolved => self.abandon_round(),
                ClientOutput::Refused(refusal) => {
                    let error = Error::new(Operation::Join, ErrorKind::Refused(refusal));
                    return Err(error.on(self.config.rank));
                }
            }
        }
        Ok(())
    }

    fn start_round(&mut self, group: &Group, key_pair: KeyPair) -> Result<()> {
        let Some(legs) = &self.legs else { return Ok(()) };
        let patience = FIRST_ROUND.saturating_mul(1 << self.rounds.min(8)).min(self.config.punch_deadline);
        let roster = Roster::open(&self.key, group);
        let (rank, security) = (self.config.rank, self.config.security());
        for (peer, card) in (0u32..).zip(roster.peers.iter().map(|peer| &peer.card)) {
            if let Some(theirs) = card.as_ref().map(|card| card.security).filter(|theirs| *theirs != security) {
                let (theirs, own) = (theirs.name(), security.name());
                let what = format!("rank {peer} uses {theirs} streams and this rank {own} ones; set one for all");
                let error = Error::new(Operation::Join, ErrorKind::InvalidConfig(what));
                return Err(error.on(rank).with_peer(peer));
            }
        }
        let mut seed = [0; 8];
        self.net.fill_entropy(&mut seed);
        let means = Means {
            relay: self.config.relay.then_some(legs.server.main),
            // Stuck mappings are cured by fresh ports; the relay helps where that did not.
            relay_likely: self.rounds > 0,
            sprays: self.config.spray,
            peers: self.config.peers,
            seed: u64::from_be_bytes(seed),
        };
        self.rounds += 1;
        self.round_deadline = self.net.now() + patience;
        let credentials = Credentials::new(self.key.clone(), key_pair, security, roster, rank);
        self.round = Some(Round::new(&self.net, rank, credentials, means, self.config.peers_at_once_max));
        Ok(())
    }

    fn poll_control(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(legs) = &mut self.legs else { return false };
        let now = self.net.now();
        if !legs.is_announced {
            let connected = match &legs.main {
                Leg::Connecting(..) => match legs.poll_main(cx, now) {
                    Poll::Pending => return false,
                    Poll::Ready(result) => result,
                },
                Leg::Standing(_) | Leg::None => Ok(()),
            };
            legs.is_announced = true;
            let input = connected.and_then(|()| legs.connected());
            let input = input.unwrap_or_else(|error| ClientInput::Disconnected(error.kind()));
            self.client.handle_input(now, input);
            return true;
        }
        let failed = legs.poll_others(cx);
        for _ in 0..failed {
            self.client.handle_input(now, ClientInput::Unvouched);
        }
        let Leg::Standing(control) = &mut legs.main else { return failed > 0 };
        let flushed = control.poll_flush(cx);
        let input = match (control.poll_receive(cx, ServerMessage::parse), flushed) {
            (Poll::Ready(Ok(message)), _) => ClientInput::Message(message),
            (Poll::Ready(Err(ReceiveError::Wire(error))), _) => {
                tracing::warn!(%error, "the rendezvous sent what is not a message");
                ClientInput::Malformed
            }
            (Poll::Ready(Err(ReceiveError::Io(error))), _) | (_, Poll::Ready(Err(error))) => {
                ClientInput::Disconnected(error.kind())
            }
            (Poll::Pending, _) => return failed > 0,
        };
        if !matches!(input, ClientInput::Message(_)) {
            legs.main = Leg::None;
        }
        self.client.handle_input(now, input);
        true
    }

    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        let now = self.net.now();
        if self.deadline_timer.poll_until(cx, self.deadline.min(self.round_deadline)) {
            if now >= self.deadline {
                return Err(self.deadline_error());
            }
            self.retry();
            return Ok(true);
        }
        if let Some((at, _)) = self.client.poll_timeout()
            && self.client_timer.poll_until(cx, at)
        {
            self.client.handle_timeout(now);
            return Ok(true);
        }
        Ok(false)
    }

    fn deadline_error(&self) -> Error {
        let error = |kind| Error::new(Operation::Join, kind).on(self.config.rank);
        let current = self.round.as_ref().and_then(Round::unconnected);
        if let Some((peer, kind)) = current.or_else(|| self.unconnected.clone()) {
            return error(kind).with_peer(peer);
        }
        if let Some(waiting) = self.client.waiting() {
            let crate::proto::rendezvous::Waiting { present, missing, other_key, running, .. } = waiting;
            let size = self.config.size;
            return error(ErrorKind::GroupIncomplete { present, size, missing, other_key, running });
        }
        let last = self.client.last_failure().map_or_else(|| "no answer".to_owned(), |kind| kind.to_string());
        error(ErrorKind::RendezvousUnreachable { address: self.config.rendezvous.clone(), last })
    }
}
