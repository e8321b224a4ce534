//! Joining a group: rendezvous, punches to all peers, confirmation, barrier. One future, no task.
//!
//! A failed round (a pair that did not connect in time, a rank that vanished meanwhile, a rendezvous
//! that restarted) starts over from a fresh local port until the join deadline.
//!
//! **A rank gives a round up by its own clock only before it enters the barrier.** While it has not,
//! nobody can have passed, so nobody is left behind in a group that another rank has abandoned. In
//! the barrier a rank waits until it passes, or hears that the round is void: a connection ends, or
//! the rendezvous dissolves the session.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::framed::{Framed, ReceiveError};
use super::link::{KEEPALIVE, Link, LinkInfo, SILENCE_MAX};
use super::{BoxFuture, ByteStream, Listener, Net, Timer, within};
use crate::communicator::{Communicator, Parts, erase};
use crate::config::{Config, Peers};
use crate::error::{Error, ErrorKind, Operation, Path, Result};
use crate::key::Key;
use crate::proto::mesh::{Mesh, Output as MeshOutput};
use crate::proto::punch::{Attempt, Candidate, Input as PunchInput, Punch, StreamId};
use crate::proto::rendezvous::client::{Client, Identity, Input as ClientInput, Output as ClientOutput};
use crate::proto::rendezvous::{Group, SERVER_MESSAGE_BYTES_MAX, SIZE_MAX, ServerMessage};
use crate::proto::session::{CONFIRM_BYTES, Credentials, NOMINATE_BYTES};
use crate::time::Instant;

/// The control channel of a joined rank.
pub(crate) type Control = Framed<Box<dyn ByteStream>>;

/// A stream whose other end has not proved itself after this time is dropped: a SYN-ACK may need
/// three retransmissions.
const PROOF_MAX: Duration = Duration::from_secs(4);
/// Time for the first round; each further one has twice as long. A mapping that is stuck (a retry
/// behind Linux's tracker in SYN_SENT2 leaves it untranslated) costs this much, and a lost SYN must
/// have time for its repetition.
const FIRST_ROUND: Duration = Duration::from_secs(2);
/// Streams accepted from strangers at once, beyond the size of the group.
const STRANGERS_MAX: u32 = 64;
/// While a group forms, idle connections are probed this often. A peer that gave the round up may have
/// closed with an RST that was lost; only a probe tells a rank that waits in the barrier.
const JOINING_KEEPALIVE: Duration = Duration::from_secs(1);
/// How long a peer may then be silent.
const JOINING_SILENCE_MAX: Duration = Duration::from_secs(5);

/// A rank with a checked configuration that has not registered yet, and may open its connection to
/// the rendezvous ahead of that.
#[derive(Debug)]
pub struct Prepared<N: Net> {
    net: N,
    config: Config,
    addresses: Vec<SocketAddr>,
    first: Option<N::Stream>,
}

impl<N: Net> Prepared<N> {
    /// Checks the configuration and resolves the rendezvous.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`].
    pub async fn new(net: N, config: &Config) -> Result<Self> {
        config.check().map_err(|error| error.on(config.rank))?;
        let deadline = net.now() + config.join_deadline;
        let addresses = within(&net, deadline, net.resolve(&config.rendezvous)).await;
        let invalid = |what: String| Error::new(Operation::Join, ErrorKind::InvalidConfig(what)).on(config.rank);
        let addresses: Vec<_> = addresses
            .map_err(|error| invalid(format!("cannot resolve {:?}: {error}", config.rendezvous)).caused_by(error))?
            .into_iter()
            .filter(|address| config.bind.is_unspecified() || address.is_ipv4() == config.bind.is_ipv4())
            .collect();
        if addresses.is_empty() {
            return Err(invalid(format!("{:?} has no usable address", config.rendezvous)));
        }
        Ok(Self { net, config: config.clone(), addresses, first: None })
    }

    /// Opens the connection to the rendezvous ahead of the join, which saves it one round trip.
    ///
    /// # Errors
    /// [`ErrorKind::RendezvousUnreachable`] if that fails; joining would try again until its deadline.
    pub async fn warm(&mut self) -> Result<()> {
        let remote = self.addresses[0];
        let connect = self.net.connect(local_for(&self.config, remote), remote);
        match within(&self.net, self.net.now() + self.config.join_deadline, connect).await {
            Ok(stream) => {
                self.first = Some(stream);
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
        let mut joiner = Joiner::new(self);
        loop {
            let parts = poll_fn(|cx| joiner.poll(cx)).await?;
            let mut comm = Communicator::assemble(&joiner.config, Arc::new(joiner.net.clone()), parts);
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

fn local_for(config: &Config, remote: SocketAddr) -> SocketAddr {
    let any = if remote.is_ipv4() { SocketAddr::from(([0; 4], 0)) } else { SocketAddr::from(([0; 16], 0)) };
    if config.bind.is_unspecified() { any } else { SocketAddr::new(config.bind, 0) }
}

/// What one piece of work came to.
enum Event<S> {
    Connected {
        peer: u32,
        attempt: Attempt,
        result: io::Result<S>,
    },
    /// The other end of a stream proved itself, or did not.
    Proved {
        id: StreamId,
        peer: Option<u32>,
        result: io::Result<(u32, S)>,
    },
    /// The peer nominated a stream, or it broke before.
    Nominated {
        id: StreamId,
        peer: u32,
        result: io::Result<S>,
    },
    /// Our nomination of a stream is sent, or could not be.
    Told {
        peer: u32,
        stream: io::Result<S>,
    },
    Aborted,
}

/// A stream on the way to become a link.
struct Candidature {
    path: Path,
    connected_at: Instant,
}

struct Joiner<N: Net> {
    net: N,
    config: Config,
    key: Key,
    deadline: Instant,
    round_deadline: Instant,
    addresses: Vec<SocketAddr>,
    next_address: usize,
    client: Client,
    client_timer: Timer,
    deadline_timer: Timer,
    connecting: Option<BoxFuture<io::Result<N::Stream>>>,
    control: Option<Framed<N::Stream>>,
    local: Option<SocketAddr>,
    listener: Option<N::Listener>,
    rounds: u32,
    round: Option<Round<N>>,
    /// What was missing when an earlier round was given up.
    unconnected: Option<(u32, ErrorKind)>,
}

/// One try to connect all pairs of a session.
struct Round<N: Net> {
    mesh: Mesh,
    mesh_timer: Timer,
    credentials: Arc<Credentials>,
    started: Instant,
    work: FuturesUnordered<BoxFuture<Event<N::Stream>>>,
    strangers: usize,
    aborts: BTreeMap<u32, Vec<AbortHandle>>,
    streams: BTreeMap<StreamId, Candidature>,
    proven: BTreeMap<StreamId, N::Stream>,
    winners: BTreeMap<u32, Candidature>,
    next_stream: u64,
    links: Vec<Option<Link>>,
    linked: usize,
    wanted: usize,
}

impl<N: Net> Joiner<N> {
    fn new(prepared: Prepared<N>) -> Self {
        let Prepared { net, config, addresses, first } = prepared;
        let now = net.now();
        let key = config.group_key();
        let mut instance = [0; 16];
        net.fill_entropy(&mut instance);
        let mut seed = [0; 32];
        net.fill_entropy(&mut seed);
        let mut name = [0; 16];
        name.copy_from_slice(&blake3::hash(config.group.as_bytes()).as_bytes()[..16]);
        let group = key.group_id(&config.group);
        let identity = Identity { group, name, rank: config.rank, size: config.size, instance };
        let clock = Arc::new(net.clone());
        let mut joiner = Self {
            deadline: now + config.join_deadline,
            round_deadline: Instant::FAR_FUTURE,
            next_address: 0,
            client: Client::new(now, identity, seed),
            client_timer: Timer::new(clock.clone()),
            deadline_timer: Timer::new(clock),
            connecting: None,
            control: None,
            local: None,
            listener: None,
            rounds: 0,
            round: None,
            unconnected: None,
            net,
            config,
            key,
            addresses,
        };
        if let Some(stream) = first {
            joiner.connecting = Some(Box::pin(std::future::ready(Ok(stream))));
        }
        joiner
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
            if let Some(round) = &mut self.round {
                moved |= round.poll(cx, &self.net, self.listener.as_mut(), self.local, &self.config);
                if round.linked == round.wanted {
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
        self.listener = None;
        if let Some(control) = &self.control {
            // Keeps the NAT's mapping of the control channel alive.
            let _ = control.stream().set_keepalive(KEEPALIVE, SILENCE_MAX);
        }
        let session = round.credentials.group().session;
        Parts { links: round.links, control: self.control.take().map(erase), session }
    }

    fn drain_client(&mut self) -> Result<()> {
        while let Some(output) = self.client.poll_output() {
            match output {
                ClientOutput::Connect => {
                    self.abandon_round();
                    (self.control, self.listener) = (None, None);
                    self.round_deadline = Instant::FAR_FUTURE;
                    // A connection opened ahead of the join serves for the first time only.
                    if self.connecting.is_none() {
                        let remote = self.addresses[self.next_address % self.addresses.len()];
                        self.next_address += 1;
                        self.connecting = Some(Box::pin(self.net.connect(local_for(&self.config, remote), remote)));
                    }
                }
                ClientOutput::Send(message) => {
                    if let Some(control) = &mut self.control {
                        control.queue(&message.emit());
                    }
                }
                ClientOutput::Joined(group) => self.start_round(group),
                ClientOutput::Dissolved => self.abandon_round(),
                ClientOutput::Refused(refusal) => {
                    let error = Error::new(Operation::Join, ErrorKind::Refused(refusal));
                    return Err(error.on(self.config.rank));
                }
            }
        }
        Ok(())
    }

    fn start_round(&mut self, group: Group) {
        let patience = FIRST_ROUND.saturating_mul(1 << self.rounds.min(8)).min(self.config.punch_deadline);
        self.rounds += 1;
        self.round_deadline = self.net.now() + patience;
        self.round = Some(Round::new(&self.net, &self.config, self.key.clone(), group));
    }

    fn poll_control(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(connecting) = &mut self.connecting
            && let Poll::Ready(result) = connecting.as_mut().poll(cx)
        {
            self.connecting = None;
            let input = match result.and_then(|stream| self.connected(stream)) {
                Ok(candidates) => ClientInput::Connected { candidates },
                Err(error) => ClientInput::Disconnected(error.kind()),
            };
            self.client.handle_input(self.net.now(), input);
            return true;
        }
        let Some(control) = &mut self.control else { return false };
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
            (Poll::Pending, _) => return false,
        };
        if !matches!(input, ClientInput::Message(_)) {
            self.control = None;
        }
        self.client.handle_input(self.net.now(), input);
        true
    }

    /// Listens on the local port of the connection, its own one and not the one that others see.
    fn connected(&mut self, stream: N::Stream) -> io::Result<Vec<SocketAddr>> {
        let local = stream.local_addr()?;
        self.listener = Some(self.net.listen(local, self.config.size.saturating_add(STRANGERS_MAX).min(SIZE_MAX))?);
        self.local = Some(local);
        self.control = Some(Framed::new(stream, SERVER_MESSAGE_BYTES_MAX));
        Ok(vec![local])
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

impl<N: Net> Round<N> {
    fn new(net: &N, config: &Config, key: Key, group: Group) -> Self {
        let mut seed = [0; 8];
        net.fill_entropy(&mut seed);
        let size = group.members.len();
        let peers: BTreeSet<u32> = match config.peers {
            Peers::All => (0..config.size).filter(|peer| *peer != config.rank).collect(),
            Peers::Collectives => crate::schedule::peers(config.rank, config.size),
        };
        let wanted = peers.len();
        let credentials = Arc::new(Credentials::new(key, group.clone(), config.rank));
        Self {
            mesh: Mesh::new(config.rank, group, peers, config.peers_at_once_max, u64::from_be_bytes(seed)),
            mesh_timer: Timer::new(Arc::new(net.clone())),
            credentials,
            started: net.now(),
            work: FuturesUnordered::new(),
            strangers: 0,
            aborts: BTreeMap::new(),
            streams: BTreeMap::new(),
            proven: BTreeMap::new(),
            winners: BTreeMap::new(),
            next_stream: 0,
            links: (0..size).map(|_| None).collect(),
            linked: 0,
            wanted,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        net: &N,
        listener: Option<&mut N::Listener>,
        local: Option<SocketAddr>,
        config: &Config,
    ) -> bool {
        let mut moved = false;
        let Some(local) = local else { return false };
        loop {
            self.drain_mesh(net, local);
            match self.work.poll_next_unpin(cx) {
                Poll::Ready(Some(event)) => self.take(net, config.rank, event),
                Poll::Ready(None) | Poll::Pending => break,
            }
            moved = true;
        }
        if let Some(listener) = listener {
            while self.strangers < self.links.len() + STRANGERS_MAX as usize {
                match listener.poll_accept(cx) {
                    Poll::Ready(Ok(stream)) => self.accepted(net, config.rank, stream),
                    Poll::Ready(Err(error)) => {
                        tracing::debug!(%error, "a connection could not be accepted");
                        break;
                    }
                    Poll::Pending => break,
                }
                moved = true;
            }
        }
        if let Some((at, _)) = self.mesh.poll_timeout()
            && self.mesh_timer.poll_until(cx, at)
        {
            self.mesh.handle_timeout(net.now());
            moved = true;
        }
        moved
    }

    /// The lowest peer without a connection, and how it stands with it.
    fn unconnected(&self) -> Option<(u32, ErrorKind)> {
        let (peer, punch, missing) = self.mesh.unconnected()?;
        let missing = u32::try_from(missing).expect("a group has at most SIZE_MAX members");
        let last = punch.and_then(Punch::last_failure);
        let last = last.map_or_else(|| "no answer".to_owned(), |kind| kind.to_string());
        let attempts = punch.map_or(0, Punch::attempts);
        Some((peer, ErrorKind::Unconnected { missing, attempts, last }))
    }

    fn drain_mesh(&mut self, net: &N, local: SocketAddr) {
        while let Some(output) = self.mesh.poll_output() {
            match output {
                MeshOutput::Connect { peer, attempt, candidate } => {
                    self.connect(net, local, peer, attempt, candidate);
                }
                MeshOutput::Nominate { peer, stream } => {
                    let Some(mut proven) = self.proven.remove(&stream) else { continue };
                    let nomination = self.credentials.nominate(peer);
                    self.work.push(Box::pin(async move {
                        let sent = proven.write_all(&nomination).await;
                        Event::Told { peer, stream: sent.map(|()| proven) }
                    }));
                }
                MeshOutput::Won { peer, stream } => {
                    for abort in self.aborts.remove(&peer).unwrap_or_default() {
                        abort.abort();
                    }
                    self.won(peer, stream);
                }
                // The driver counts links, which stand a little later than the mesh knows.
                MeshOutput::Complete => {}
            }
        }
    }

    fn connect(&mut self, net: &N, local: SocketAddr, peer: u32, attempt: Attempt, candidate: Candidate) {
        let connect = net.connect(local, candidate.remote);
        let work = async move { Event::Connected { peer, attempt, result: connect.await } };
        self.push_abortable(peer, work);
    }

    fn push_abortable(&mut self, peer: u32, work: impl Future<Output = Event<N::Stream>> + Send + 'static) {
        let (abort, registration) = AbortHandle::new_pair();
        self.aborts.entry(peer).or_default().push(abort);
        let work = Abortable::new(work, registration);
        self.work.push(Box::pin(async move { work.await.unwrap_or(Event::Aborted) }));
    }

    fn stream_id(&mut self, net: &N, stream: &N::Stream) -> StreamId {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        let _ = stream.set_keepalive(JOINING_KEEPALIVE, JOINING_SILENCE_MAX);
        self.streams.insert(id, Candidature { path: Path::Direct, connected_at: net.now() });
        id
    }

    /// The other end of an accepted stream speaks first, so that we know who it is.
    fn accepted(&mut self, net: &N, rank: u32, mut stream: N::Stream) {
        let id = self.stream_id(net, &stream);
        self.strangers += 1;
        let (net, credentials) = (net.clone(), self.credentials.clone());
        self.work.push(Box::pin(async move {
            let prove = async {
                let mut theirs = [0; CONFIRM_BYTES];
                stream.read_exact(&mut theirs).await?;
                let peer = check(&credentials, &theirs)?;
                stream.write_all(&credentials.confirm(peer)).await?;
                Ok(peer)
            };
            let result = within(&net, net.now() + PROOF_MAX, prove).await;
            tracing::trace!(rank, ?id, ?result, "an accepted stream");
            Event::Proved { id, peer: None, result: result.map(|peer| (peer, stream)) }
        }));
    }

    /// Who connects says who it is at once.
    fn prove(&mut self, net: &N, peer: u32, id: StreamId, mut stream: N::Stream) {
        let (net, credentials) = (net.clone(), self.credentials.clone());
        self.push_abortable(peer, async move {
            let prove = async {
                stream.write_all(&credentials.confirm(peer)).await?;
                let mut theirs = [0; CONFIRM_BYTES];
                stream.read_exact(&mut theirs).await?;
                match check(&credentials, &theirs)? {
                    proven if proven == peer => Ok(peer),
                    _ => Err(io::ErrorKind::PermissionDenied.into()),
                }
            };
            let result = within(&net, net.now() + PROOF_MAX, prove).await;
            Event::Proved { id, peer: Some(peer), result: result.map(|peer| (peer, stream)) }
        });
    }

    fn await_nomination(&mut self, net: &N, peer: u32, id: StreamId, mut stream: N::Stream) {
        let credentials = self.credentials.clone();
        let net = net.clone();
        let work = async move {
            let nomination = async {
                let mut theirs = [0; NOMINATE_BYTES];
                stream.read_exact(&mut theirs).await?;
                credentials.check_nomination(peer, &theirs).map_err(denied)
            };
            let result = within(&net, net.now() + PROOF_MAX, nomination).await;
            Event::Nominated { id, peer, result: result.map(|()| stream) }
        };
        // Not abortable: the event hands over the stream that wins.
        self.work.push(Box::pin(work));
    }

    fn take(&mut self, net: &N, rank: u32, event: Event<N::Stream>) {
        let now = net.now();
        match event {
            Event::Aborted => {}
            Event::Connected { peer, attempt, result: Ok(stream) } => {
                let id = self.stream_id(net, &stream);
                self.mesh.handle_input(now, peer, PunchInput::Connected(attempt, id));
                self.set_path(id, peer, &stream);
                self.prove(net, peer, id, stream);
            }
            Event::Connected { peer, attempt, result: Err(error) } => {
                tracing::trace!(rank, peer, ?attempt, %error, "an attempt failed");
                self.mesh.handle_input(now, peer, PunchInput::Failed(attempt, error.kind()));
            }
            Event::Proved { id, peer: expected, result } => {
                self.strangers -= usize::from(expected.is_none());
                match result {
                    Ok((peer, stream)) => {
                        self.set_path(id, peer, &stream);
                        if rank < peer {
                            self.proven.insert(id, stream);
                        } else {
                            self.await_nomination(net, peer, id, stream);
                        }
                        self.mesh.handle_input(now, peer, PunchInput::Confirmed(id));
                    }
                    Err(error) => {
                        tracing::debug!(rank, ?expected, %error, "the other end of a stream is no peer");
                        self.streams.remove(&id);
                        if let Some(peer) = expected {
                            self.mesh.handle_input(now, peer, PunchInput::Broken(id));
                        }
                    }
                }
            }
            Event::Nominated { id, peer, result: Ok(stream) } => {
                self.proven.insert(id, stream);
                self.mesh.handle_input(now, peer, PunchInput::Nominated(id));
            }
            Event::Nominated { id, peer, result: Err(_) } => {
                self.mesh.handle_input(now, peer, PunchInput::Broken(id));
            }
            Event::Told { peer, stream: Ok(stream) } => self.link(peer, stream),
            // The link never stands; the round ends by its deadline and starts over.
            Event::Told { peer, stream: Err(error) } => {
                tracing::debug!(rank, peer, %error, "a nomination could not be sent");
            }
        }
    }

    fn set_path(&mut self, id: StreamId, peer: u32, stream: &N::Stream) {
        let Ok(remote) = stream.peer_addr() else { return };
        let member = &self.credentials.group().members[peer as usize];
        let is_own = member.candidates.iter().any(|candidate| candidate.ip() == remote.ip());
        if let Some(candidature) = self.streams.get_mut(&id) {
            candidature.path = if is_own { Path::Private } else { Path::Direct };
        }
    }

    /// Keeps the winner. The higher rank holds it since it was nominated; the lower rank gets it
    /// back once the nomination is sent.
    fn won(&mut self, peer: u32, id: StreamId) {
        let candidature = self.streams.remove(&id);
        let candidature = candidature.unwrap_or(Candidature { path: Path::Direct, connected_at: self.started });
        self.winners.insert(peer, candidature);
        if let Some(stream) = self.proven.remove(&id) {
            self.link(peer, stream);
        }
    }

    fn link(&mut self, peer: u32, stream: N::Stream) {
        let Some(won) = self.winners.remove(&peer) else { return };
        let info = LinkInfo {
            peer,
            path: won.path,
            addresses_known_at: self.started,
            connected_at: won.connected_at,
            attempts: self.mesh.attempts(peer),
        };
        tracing::debug!(?info, "connected");
        self.links[peer as usize] = Some(Link::new(Box::new(stream), info));
        self.linked += 1;
    }
}

fn denied(stranger: crate::proto::session::Stranger) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, stranger)
}

fn check(credentials: &Credentials, theirs: &[u8; CONFIRM_BYTES]) -> io::Result<u32> {
    credentials.check(theirs).map_err(denied)
}
