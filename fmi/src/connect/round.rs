//! One try to connect all pairs of a session: attempts, proofs, nominations. No task of its own.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::relay;
use crate::channel::LinkInfo;
use crate::channel::stream::Link;
use crate::error::{Cause, ErrorKind, Path};
use crate::net::secure::Secure;
use crate::net::{BoxFuture, ByteStream, Listener, Net, Timer, within};
use crate::proto::candidate::{Candidate, LocalEnd, Means, Route, Technique};
use crate::proto::cause::{comes_first, words};
use crate::proto::join::allowance;
use crate::proto::mesh::{Mesh, Output as MeshOutput};
use crate::proto::punch::{Attempt, Input as PunchInput, Punch, StreamId, nominates};
use crate::proto::rendezvous::RelayRequest;
use crate::proto::session::{Chain, Credentials, Proven, Stranger, StreamNonce, TAG_BYTES};
use crate::time::Instant;

/// A stream whose other end has not proved itself after this time is dropped: a SYN-ACK may need
/// three retransmissions. It has [`PROOF_SHARES`] allowances for the size of the group and its distances more.
const PROOF_MAX: Duration = Duration::from_secs(4);
/// All pairs come together at once, and each stream may be the last one that gets a processor.
const PROOF_SHARES: u32 = 4;
/// Streams accepted from strangers at once, beyond the size of the group.
pub(super) const STRANGERS_MAX: u32 = 64;
/// While a group forms, idle connections are probed this often. A peer that gave the round up may have
/// closed with an RST that was lost; only a probe tells a rank that waits in the barrier.
const JOINING_KEEPALIVE: Duration = Duration::from_secs(1);
/// How long a peer may then be silent. What is repeated while a path is cut comes back up to twice as late as the path does,
/// so gaps of nearly four seconds are outlived.
const JOINING_SILENCE_MAX: Duration = Duration::from_secs(8);

/// A stream, and the proof of its other end.
type Peers<S> = (S, Proven);

/// What one piece of work came to.
enum Event<S> {
    Connected {
        peer: u32,
        attempt: Attempt,
        path: Path,
        result: io::Result<S>,
    },
    /// The other end of a stream proved itself, or did not.
    Proved {
        id: StreamId,
        peer: Option<u32>,
        result: io::Result<Peers<S>>,
    },
    /// The peer nominated a stream, and waits for an acceptance or not; or it broke before.
    Nominated {
        id: StreamId,
        peer: u32,
        result: io::Result<(Peers<S>, bool)>,
    },
    /// The peer accepted our nomination of a stream, or did not.
    Accepted {
        id: StreamId,
        peer: u32,
        result: io::Result<Peers<S>>,
    },
    /// What makes a stream the one that both keep is sent, or could not be.
    Told {
        id: StreamId,
        peer: u32,
        result: io::Result<Peers<S>>,
    },
    Aborted,
}

/// A stream on the way to become a link.
struct Stream<S> {
    /// Known once this rank connected to it, or it proved itself.
    peer: Option<u32>,
    /// Whether the other end opened it, whoever that is.
    is_strangers: bool,
    route: Route,
    connected_at: Instant,
    stage: Stage<S>,
}

/// How far a stream has come. A piece of work holds the stream itself wherever a stage does not.
enum Stage<S> {
    /// The other end is proving itself.
    Proving,
    /// It has, and this rank may nominate the stream.
    Proven(Peers<S>),
    /// It has, and one of both may say that the stream is the one.
    Hoping,
    /// The peer has nominated it, and waits for an acceptance or not.
    Nominated(Peers<S>, bool),
    /// The peer has accepted it.
    Accepted(Peers<S>),
    /// This rank is telling the peer that it is the one.
    Telling,
}

/// The local ends that a round uses.
pub(super) struct Locals<'a, L> {
    /// The port that the rendezvous saw, and its listener.
    pub(super) main: (SocketAddr, &'a mut L),
    /// The same for the other address family.
    pub(super) other: Option<(SocketAddr, &'a mut L)>,
}

pub(super) struct Round<N: Net> {
    rank: u32,
    mesh: Mesh,
    mesh_timer: Timer,
    credentials: Arc<Credentials>,
    started: Instant,
    work: FuturesUnordered<BoxFuture<Event<N::Stream>>>,
    strangers: usize,
    /// Why this machine could not accept a connection.
    not_accepted: Option<io::ErrorKind>,
    aborts: BTreeMap<u32, Vec<AbortHandle>>,
    streams: BTreeMap<StreamId, Stream<N::Stream>>,
    next_stream: u64,
    links: Vec<Option<Link>>,
    /// What the streams that take the place of relayed ones must prove.
    chains: BTreeMap<u32, Arc<Chain>>,
    linked: usize,
    wanted: usize,
    /// Where the rendezvous relays.
    relays: Vec<(SocketAddr, SocketAddr)>,
}

impl<N: Net> Round<N> {
    pub(super) fn new(
        net: &N,
        rank: u32,
        credentials: Credentials,
        means: Means,
        peers_at_once_max: usize,
        relays: Vec<(SocketAddr, SocketAddr)>,
    ) -> Self {
        let roster = credentials.roster().clone();
        let size = roster.size();
        Self {
            rank,
            mesh: Mesh::new(net.now(), rank, roster, means, peers_at_once_max),
            mesh_timer: Timer::new(Arc::new(net.clone())),
            credentials: Arc::new(credentials),
            started: net.now(),
            work: FuturesUnordered::new(),
            strangers: 0,
            not_accepted: None,
            aborts: BTreeMap::new(),
            streams: BTreeMap::new(),
            next_stream: 0,
            links: (0..size).map(|_| None).collect(),
            chains: BTreeMap::new(),
            linked: 0,
            wanted: means.peers.of(rank, size).len(),
            relays,
        }
    }

    pub(super) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Whether all wanted peers are linked.
    pub(super) fn is_complete(&self) -> bool {
        self.linked == self.wanted
    }

    /// Peers that are linked.
    pub(super) fn linked(&self) -> usize {
        self.linked
    }

    /// Peers that are relayed.
    pub(super) fn relayed(&self) -> Vec<Relayed> {
        let relayed = |(peer, chain): (&u32, &Arc<Chain>)| {
            let is_likely = self.mesh.technique(*peer).is_some_and(Technique::is_likely);
            Relayed { peer: *peer, is_likely, chain: chain.clone() }
        };
        self.chains.iter().map(relayed).collect()
    }

    pub(super) fn into_links(self) -> Vec<Option<Link>> {
        self.links
    }

    /// Makes progress; true if there was any.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, net: &N, locals: &mut Locals<'_, N::Listener>) -> bool {
        let mut moved = false;
        let ends = (locals.main.0, locals.other.as_ref().map(|(local, _)| *local));
        loop {
            self.drain_mesh(net, ends);
            match self.work.poll_next_unpin(cx) {
                Poll::Ready(Some(event)) => self.take(net, event),
                Poll::Ready(None) | Poll::Pending => break,
            }
            moved = true;
        }
        moved |= self.poll_accept(cx, net, locals.main.1);
        if let Some((_, listener)) = &mut locals.other {
            moved |= self.poll_accept(cx, net, listener);
        }
        if let Some((at, _)) = self.mesh.poll_timeout()
            && self.mesh_timer.poll_until(cx, at)
        {
            self.mesh.handle_timeout(net.now());
            moved = true;
        }
        moved
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>, net: &N, listener: &mut N::Listener) -> bool {
        let mut moved = false;
        while self.strangers < self.links.len() + STRANGERS_MAX as usize {
            match listener.poll_accept(cx) {
                Poll::Ready(Ok(stream)) => self.accepted(net, stream),
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    self.not_accepted =
                        self.not_accepted.or_else(|| Some(error.kind()).filter(|kind| comes_first(*kind)));
                    break;
                }
                Poll::Pending => break,
            }
            moved = true;
        }
        moved
    }

    /// The lowest peer without a connection, and the state of the attempt.
    pub(super) fn unconnected(&self) -> Option<(u32, ErrorKind)> {
        let (peer, punch, missing) = self.mesh.unconnected()?;
        let missing = u32::try_from(missing).expect("a group has at most SIZE_MAX members");
        let of_peer = &self.credentials.roster().peers[peer as usize];
        let is_impostor = of_peer.card.is_none();
        let is_loopback = of_peer.observed.main.ip().is_loopback();
        let stranger = "whoever answered did not prove to be that rank of this group";
        let failure = punch.and_then(Punch::last_failure).or(self.not_accepted);
        let (cause, last) = match (failure, punch.map_or(0, Punch::strangers)) {
            _ if is_impostor => (Cause::OtherKey, "that rank registered with a different key".to_owned()),
            (None, 0) => (Cause::between(is_loopback), "no answer".to_owned()),
            (Some(kind), 0) => (Cause::of(kind, is_loopback), words(kind)),
            (None | Some(io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse), _) => {
                (Cause::Stranger, stranger.to_owned())
            }
            (Some(kind), _) if comes_first(kind) => (Cause::of(kind, is_loopback), words(kind)),
            (Some(kind), _) => (Cause::Stranger, format!("{kind}; elsewhere {stranger}")),
        };
        let attempts = punch.map_or(0, Punch::attempts);
        Some((peer, ErrorKind::Unconnected { missing, attempts, last, cause }))
    }

    fn drain_mesh(&mut self, net: &N, ends: (SocketAddr, Option<SocketAddr>)) {
        while let Some(output) = self.mesh.poll_output() {
            match output {
                MeshOutput::Connect { peer, attempt, candidate } => {
                    self.connect(net, ends, peer, attempt, candidate);
                }
                MeshOutput::Nominate { peer, stream, settles } => self.nominate(net, peer, stream, settles),
                MeshOutput::Won { peer, stream } => {
                    self.abandon(peer, stream);
                    self.won(stream);
                }
                // The driver counts links, which are there a little later than the mesh knows.
                MeshOutput::Complete => {}
            }
        }
    }

    /// When a stream on which something is awaited from now on has had its time.
    fn proof_until(&self, net: &N) -> Instant {
        let roster = self.credentials.roster();
        net.now() + PROOF_MAX + (allowance(roster.size()) + roster.reach(self.rank)).saturating_mul(PROOF_SHARES)
    }

    fn nominate(&mut self, net: &N, peer: u32, id: StreamId, settles: bool) {
        let next = if settles { Stage::Telling } else { Stage::Hoping };
        let Some((mut stream, proven)) = self.take_stage(id, next, |stage| match stage {
            Stage::Proven(proven) => Ok(proven),
            // The mesh nominates a stream once, and only where this rank nominates.
            other @ (Stage::Proving | Stage::Hoping | Stage::Nominated(..) | Stage::Accepted(_) | Stage::Telling) => {
                Err(other)
            }
        }) else {
            return;
        };
        let nomination = proven.nomination(settles);
        if settles {
            self.tell(id, (stream, proven), nomination);
            return;
        }
        let (net, until) = (net.clone(), self.proof_until(net));
        self.push_abortable(peer, async move {
            let ask = async {
                stream.write_all(&nomination).await?;
                proven.accepted(&read(&mut stream).await?).map_err(denied)
            };
            let result = within(&net, until, ask).await;
            Event::Accepted { id, peer, result: result.map(|()| (stream, proven)) }
        });
    }

    /// Says what makes the stream the one that both keep.
    fn tell(&mut self, id: StreamId, (mut stream, proven): Peers<N::Stream>, bytes: [u8; TAG_BYTES]) {
        let peer = proven.peer();
        self.work.push(Box::pin(async move {
            let result = stream.write_all(&bytes).await;
            Event::Told { id, peer, result: result.map(|()| (stream, proven)) }
        }));
    }

    /// Takes what a stage holds, and sets the next one; leaves every other stage.
    fn take_stage<T>(
        &mut self,
        id: StreamId,
        next: Stage<N::Stream>,
        take: impl FnOnce(Stage<N::Stream>) -> Result<T, Stage<N::Stream>>,
    ) -> Option<T> {
        let entry = self.streams.get_mut(&id)?;
        match take(std::mem::replace(&mut entry.stage, next)) {
            Ok(taken) => Some(taken),
            Err(other) => {
                entry.stage = other;
                None
            }
        }
    }

    fn connect(
        &mut self,
        net: &N,
        (main, other): (SocketAddr, Option<SocketAddr>),
        peer: u32,
        attempt: Attempt,
        Candidate { remote, from, path, .. }: Candidate,
    ) {
        let any_port = |local: SocketAddr| SocketAddr::new(local.ip(), 0);
        let local = match from {
            LocalEnd::Registered => main,
            LocalEnd::OtherFamily => other.unwrap_or(main),
            LocalEnd::Fresh | LocalEnd::Relay => any_port(main),
        };
        if from == LocalEnd::Relay {
            let roster = self.credentials.roster();
            let nonce = roster.peers[self.rank as usize].nonce;
            let request = RelayRequest { session: roster.session, from: self.rank, to: peer, nonce };
            let connect = relay::connect(net.clone(), self.relays.clone(), request);
            self.push_abortable(peer, async move { Event::Connected { peer, attempt, path, result: connect.await } });
        } else {
            let connect = net.connect(local, remote);
            self.push_abortable(peer, async move { Event::Connected { peer, attempt, path, result: connect.await } });
        }
    }

    fn push_abortable(&mut self, peer: u32, work: impl Future<Output = Event<N::Stream>> + Send + 'static) {
        let (abort, registration) = AbortHandle::new_pair();
        let aborts = self.aborts.entry(peer).or_default();
        aborts.push(abort);
        let work = Abortable::new(work, registration);
        self.work.push(Box::pin(async move { work.await.unwrap_or(Event::Aborted) }));
    }

    fn stream_id(&mut self, net: &N, peer: Option<u32>, path: Path) -> StreamId {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        let route = Route { path, is_other_family: false };
        let is_strangers = peer.is_none();
        self.strangers += usize::from(is_strangers);
        self.streams.insert(id, Stream { peer, is_strangers, route, connected_at: net.now(), stage: Stage::Proving });
        id
    }

    /// Drops a stream, unless a piece of work holds it.
    fn forget(&mut self, id: StreamId) -> Option<Stream<N::Stream>> {
        let stream = self.streams.remove(&id)?;
        self.strangers -= usize::from(stream.is_strangers);
        Some(stream)
    }

    /// Abandons all that this rank does to reach `peer`, but for the stream that is kept.
    fn abandon(&mut self, peer: u32, kept: StreamId) {
        for abort in self.aborts.remove(&peer).unwrap_or_default() {
            abort.abort();
        }
        let others = |(id, stream): (&StreamId, &Stream<_>)| (stream.peer == Some(peer) && *id != kept).then_some(*id);
        let others: Vec<_> = self.streams.iter().filter_map(others).collect();
        for id in others {
            self.forget(id);
        }
    }

    /// The other end of an accepted stream speaks first, so that we know who it is.
    fn accepted(&mut self, net: &N, stream: N::Stream) {
        let id = self.stream_id(net, None, Path::Direct);
        let until = self.proof_until(net);
        let (net, credentials, rank) = (net.clone(), self.credentials.clone(), self.rank);
        let nonce = nonce(&net);
        self.work.push(Box::pin(async move {
            let result = within(&net, until, answer(credentials, stream, nonce)).await;
            let outcome = result.as_ref().map(|(_, proven)| proven.peer());
            tracing::trace!(rank, ?id, ?outcome, "an accepted stream");
            Event::Proved { id, peer: None, result }
        }));
    }

    /// The side that connected says at once which rank it is.
    fn prove(&mut self, net: &N, peer: u32, id: StreamId, stream: N::Stream) {
        let until = self.proof_until(net);
        let (net, credentials) = (net.clone(), self.credentials.clone());
        let nonce = nonce(&net);
        self.push_abortable(peer, async move {
            let result = within(&net, until, ask(credentials, peer, stream, nonce)).await;
            Event::Proved { id, peer: Some(peer), result }
        });
    }

    fn await_nomination(&mut self, net: &N, id: StreamId, (mut stream, proven): Peers<N::Stream>) {
        let (net, until) = (net.clone(), self.proof_until(net));
        let peer = proven.peer();
        self.push_abortable(peer, async move {
            let nomination = async { proven.nominated(&read(&mut stream).await?).map_err(denied) };
            let result = within(&net, until, nomination).await;
            Event::Nominated { id, peer, result: result.map(|waits| ((stream, proven), waits)) }
        });
    }

    fn take(&mut self, net: &N, event: Event<N::Stream>) {
        let now = net.now();
        let rank = self.rank;
        match event {
            Event::Aborted => {}
            Event::Connected { peer, attempt, path, result: Ok(stream) } => {
                let id = self.stream_id(net, Some(peer), path);
                self.mesh.handle_input(now, peer, PunchInput::Connected(attempt, id));
                self.set_route(id, peer, &stream);
                self.prove(net, peer, id, stream);
            }
            Event::Connected { peer, attempt, path, result: Err(error) } => {
                tracing::trace!(rank, peer, ?attempt, %path, %error, "an attempt failed");
                self.mesh.handle_input(now, peer, PunchInput::Failed(attempt, error.kind()));
            }
            Event::Proved { id, result: Ok(proven), .. } => self.proved(net, id, proven),
            Event::Proved { id, peer: expected, result: Err(error) } => {
                tracing::debug!(rank, ?expected, %error, "stream rejected: the other end did not authenticate");
                self.forget(id);
                if let Some(peer) = expected {
                    self.mesh.handle_input(now, peer, PunchInput::Broken(id));
                }
            }
            Event::Nominated { id, peer, result: Ok((proven, waits)) } => {
                self.set_stage(id, Stage::Nominated(proven, waits));
                self.mesh.handle_input(now, peer, PunchInput::Nominated(id));
            }
            Event::Accepted { id, peer, result: Ok(proven) } => {
                self.set_stage(id, Stage::Accepted(proven));
                self.mesh.handle_input(now, peer, PunchInput::Accepted(id));
            }
            Event::Nominated { id, peer, result: Err(error) } | Event::Accepted { id, peer, result: Err(error) } => {
                tracing::trace!(rank, peer, ?id, %error, "a proven stream is not kept");
                self.forget(id);
                self.mesh.handle_input(now, peer, PunchInput::Broken(id));
            }
            Event::Told { id, result: Ok(proven), .. } => self.link(id, proven),
            // There will be no link; the round ends by its deadline and starts over.
            Event::Told { id, peer, result: Err(error) } => {
                self.forget(id);
                tracing::debug!(rank, peer, %error, "the peer could not be told which stream is kept");
            }
        }
    }

    fn proved(&mut self, net: &N, id: StreamId, proven: Peers<N::Stream>) {
        let (peer, is_answered) = (proven.1.peer(), proven.1.is_answered());
        if !self.mesh.wants(peer) {
            // A second stream of a pair that has kept one, or one that nobody needs: its place is for whoever is missing.
            self.forget(id);
            return;
        }
        self.set_route(id, peer, &proven.0);
        if nominates(self.rank, peer) {
            self.set_stage(id, Stage::Proven(proven));
        } else {
            self.set_stage(id, Stage::Hoping);
            self.await_nomination(net, id, proven);
        }
        self.mesh.handle_input(net.now(), peer, PunchInput::Confirmed { stream: id, is_answered });
    }

    fn set_stage(&mut self, id: StreamId, stage: Stage<N::Stream>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.stage = stage;
        }
    }

    fn set_route(&mut self, id: StreamId, peer: u32, stream: &N::Stream) {
        let (Ok(remote), Some(entry)) = (stream.peer_addr(), self.streams.get_mut(&id)) else { return };
        entry.peer = Some(peer);
        entry.route = self.credentials.roster().peers[peer as usize].route(remote, entry.route.path);
    }

    /// Keeps the winner, once the peer knows that it is the one.
    fn won(&mut self, id: StreamId) {
        let won = self.take_stage(id, Stage::Telling, |stage| match stage {
            Stage::Nominated(proven, waits) => Ok((proven, waits)),
            Stage::Accepted(proven) => Ok((proven, false)),
            // A settled one is being told.
            other @ (Stage::Proving | Stage::Proven(_) | Stage::Hoping | Stage::Telling) => Err(other),
        });
        match won {
            Some((proven, true)) => {
                let acceptance = proven.1.acceptance();
                self.tell(id, proven, acceptance);
            }
            Some((proven, false)) => self.link(id, proven),
            None => {}
        }
    }

    fn link(&mut self, id: StreamId, (stream, proven): Peers<N::Stream>) {
        let Some(Stream { route, connected_at, .. }) = self.forget(id) else { return };
        let peer = proven.peer();
        let planned = self.mesh.technique(peer).unwrap_or(Technique::Direct);
        let info = LinkInfo {
            peer,
            path: route.path,
            technique: route.technique(planned),
            addresses_known_at: self.started,
            connected_at,
            attempts: self.mesh.attempts(peer),
        };
        tracing::debug!(?info, "connected");
        // A stream that refuses the option is broken, which its next use tells.
        let _ = stream.set_keepalive(JOINING_KEEPALIVE, JOINING_SILENCE_MAX);
        let (protection, chain) = proven.keep();
        if route.path == Path::Relay {
            self.chains.insert(peer, Arc::new(chain));
        }
        let stream: Box<dyn ByteStream> = match protection {
            Some((security, keys)) => Box::new(Secure::new(stream, security, keys)),
            None => Box::new(stream),
        };
        self.links[peer as usize] = Some(Link::new(stream, info));
        self.linked += 1;
    }
}

/// A peer that is relayed.
pub(super) struct Relayed {
    pub(super) peer: u32,
    /// Whether it should have been connected.
    pub(super) is_likely: bool,
    /// What only the two ends of the connection know.
    pub(super) chain: Arc<Chain>,
}

fn nonce<N: Net>(net: &N) -> StreamNonce {
    let mut nonce = StreamNonce::default();
    net.fill_entropy(&mut nonce);
    nonce
}

/// What the peer says next, which has one length.
async fn read<const N: usize>(stream: &mut impl ByteStream) -> io::Result<[u8; N]> {
    let mut theirs = [0; N];
    stream.read_exact(&mut theirs).await?;
    Ok(theirs)
}

/// The first flight on the side that connected.
async fn ask<S: ByteStream>(
    credentials: Arc<Credentials>,
    peer: u32,
    mut stream: S,
    nonce: StreamNonce,
) -> io::Result<Peers<S>> {
    let (ours, flight) = credentials.hello(peer, nonce).map_err(denied)?;
    stream.write_all(&ours).await?;
    let theirs = read(&mut stream).await?;
    let proven = credentials.hear(&flight, &theirs).map_err(denied)?;
    Ok((stream, proven))
}

/// The first flight on the side that accepted.
async fn answer<S: ByteStream>(
    credentials: Arc<Credentials>,
    mut stream: S,
    nonce: StreamNonce,
) -> io::Result<Peers<S>> {
    let theirs = read(&mut stream).await?;
    let peer = credentials.check(&theirs).map_err(denied)?;
    let (ours, proven) = credentials.answer(peer, nonce, &theirs).map_err(denied)?;
    stream.write_all(&ours).await?;
    Ok((stream, proven))
}

fn denied(stranger: Stranger) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, stranger)
}
