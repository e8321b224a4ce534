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
use crate::error::{ErrorKind, Path};
use crate::net::secure::Secure;
use crate::net::{BoxFuture, ByteStream, Listener, Net, Timer, within};
use crate::proto::candidate::{Candidate, LocalEnd, Means, Route, Technique};
use crate::proto::mesh::{Mesh, Output as MeshOutput};
use crate::proto::noise::Seed;
use crate::proto::punch::{Attempt, Input as PunchInput, Punch, StreamId, nominates};
use crate::proto::rendezvous::RelayRequest;
use crate::proto::session::{CONFIRM_BYTES, Credentials, Flight, Protection, Stranger};
use crate::time::Instant;

/// A stream whose other end has not proved itself after this time is dropped: a SYN-ACK may need
/// three retransmissions.
const PROOF_MAX: Duration = Duration::from_secs(4);
/// Streams accepted from strangers at once, beyond the size of the group.
pub(super) const STRANGERS_MAX: u32 = 64;
/// While a group forms, idle connections are probed this often. A peer that gave the round up may have
/// closed with an RST that was lost; only a probe tells a rank that waits in the barrier.
const JOINING_KEEPALIVE: Duration = Duration::from_secs(1);
/// How long a peer may then be silent.
const JOINING_SILENCE_MAX: Duration = Duration::from_secs(5);

/// A stream whose other end has proved itself.
type Proven<S> = (S, Flight);

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
        result: io::Result<Proven<S>>,
    },
    /// The peer nominated a stream, or it broke before.
    Nominated {
        id: StreamId,
        peer: u32,
        result: io::Result<(S, Protection)>,
    },
    /// Our nomination of a stream is sent, or could not be.
    Told {
        id: StreamId,
        peer: u32,
        result: io::Result<(S, Protection)>,
    },
    Aborted,
}

/// A stream on the way to become a link.
struct Stream<S> {
    route: Route,
    connected_at: Instant,
    stage: Stage<S>,
}

/// How far a stream has come. A piece of work holds the stream itself wherever a stage does not.
enum Stage<S> {
    /// The other end is proving itself.
    Proving,
    /// It has, and this rank may nominate the stream.
    Proven(Proven<S>),
    /// It has, and the peer may nominate the stream.
    Hoping,
    /// The peer has nominated it.
    Nominated(S, Protection),
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
    aborts: BTreeMap<u32, Vec<AbortHandle>>,
    streams: BTreeMap<StreamId, Stream<N::Stream>>,
    next_stream: u64,
    links: Vec<Option<Link>>,
    linked: usize,
    wanted: usize,
}

impl<N: Net> Round<N> {
    pub(super) fn new(net: &N, rank: u32, credentials: Credentials, means: Means, peers_at_once_max: usize) -> Self {
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
            aborts: BTreeMap::new(),
            streams: BTreeMap::new(),
            next_stream: 0,
            links: (0..size).map(|_| None).collect(),
            linked: 0,
            wanted: means.peers.of(rank, size).len(),
        }
    }

    pub(super) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Whether all wanted peers are linked.
    pub(super) fn is_complete(&self) -> bool {
        self.linked == self.wanted
    }

    /// Peers that are relayed, and whether each should have been connected.
    pub(super) fn relayed(&self) -> Vec<(u32, bool)> {
        let infos = self.links.iter().flatten().map(Link::info).filter(|info| info.path == Path::Relay);
        let is_likely = |peer: u32| self.mesh.technique(peer).is_some_and(Technique::is_likely);
        infos.map(|info| (info.peer, is_likely(info.peer))).collect()
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
        let is_impostor = self.credentials.roster().peers[peer as usize].card.is_none();
        let last = punch.and_then(Punch::last_failure);
        let last = match last {
            _ if is_impostor => "that rank registered with a different key".to_owned(),
            None => "no answer".to_owned(),
            Some(kind) => kind.to_string(),
        };
        let attempts = punch.map_or(0, Punch::attempts);
        Some((peer, ErrorKind::Unconnected { missing, attempts, last }))
    }

    fn drain_mesh(&mut self, net: &N, ends: (SocketAddr, Option<SocketAddr>)) {
        while let Some(output) = self.mesh.poll_output() {
            match output {
                MeshOutput::Connect { peer, attempt, candidate } => {
                    self.connect(net, ends, peer, attempt, candidate);
                }
                MeshOutput::Nominate { peer, stream } => self.nominate(peer, stream),
                MeshOutput::Won { peer, stream } => {
                    for abort in self.aborts.remove(&peer).unwrap_or_default() {
                        abort.abort();
                    }
                    self.won(peer, stream);
                }
                // The driver counts links, which are there a little later than the mesh knows.
                MeshOutput::Complete => {}
            }
        }
    }

    fn nominate(&mut self, peer: u32, id: StreamId) {
        let Some(entry) = self.streams.get_mut(&id) else { return };
        let (mut stream, flight) = match std::mem::replace(&mut entry.stage, Stage::Telling) {
            Stage::Proven(proven) => proven,
            // The mesh nominates a stream once, and only where this rank nominates.
            other @ (Stage::Proving | Stage::Hoping | Stage::Nominated(..) | Stage::Telling) => {
                entry.stage = other;
                return;
            }
        };
        let credentials = self.credentials.clone();
        self.work.push(Box::pin(async move {
            let tell = async {
                let (nomination, protection) = credentials.nominate(flight).map_err(denied)?;
                stream.write_all(&nomination).await?;
                Ok((stream, protection))
            };
            Event::Told { id, peer, result: tell.await }
        }));
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
            let connect = relay::connect(net.clone(), local, remote, request);
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

    fn stream_id(&mut self, net: &N, stream: &N::Stream, path: Path) -> StreamId {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        let _ = stream.set_keepalive(JOINING_KEEPALIVE, JOINING_SILENCE_MAX);
        let route = Route { path, is_other_family: false };
        self.streams.insert(id, Stream { route, connected_at: net.now(), stage: Stage::Proving });
        id
    }

    /// The other end of an accepted stream speaks first, so that we know who it is.
    fn accepted(&mut self, net: &N, stream: N::Stream) {
        let id = self.stream_id(net, &stream, Path::Direct);
        self.strangers += 1;
        let (net, credentials, rank) = (net.clone(), self.credentials.clone(), self.rank);
        let seed = seed(&net);
        self.work.push(Box::pin(async move {
            let result = within(&net, net.now() + PROOF_MAX, answer(credentials, stream, seed)).await;
            let outcome = result.as_ref().map(|(_, flight)| flight.peer());
            tracing::trace!(rank, ?id, ?outcome, "an accepted stream");
            Event::Proved { id, peer: None, result }
        }));
    }

    /// The side that connected says at once which rank it is.
    fn prove(&mut self, net: &N, peer: u32, id: StreamId, stream: N::Stream) {
        let (net, credentials) = (net.clone(), self.credentials.clone());
        let seed = seed(&net);
        self.push_abortable(peer, async move {
            let result = within(&net, net.now() + PROOF_MAX, ask(credentials, peer, stream, seed)).await;
            Event::Proved { id, peer: Some(peer), result }
        });
    }

    fn await_nomination(&mut self, net: &N, id: StreamId, (mut stream, flight): Proven<N::Stream>) {
        let credentials = self.credentials.clone();
        let net = net.clone();
        let peer = flight.peer();
        let work = async move {
            let nomination = async {
                let mut theirs = vec![0; credentials.nomination_bytes()];
                stream.read_exact(&mut theirs).await?;
                credentials.nominated(flight, &theirs).map_err(denied)
            };
            let result = within(&net, net.now() + PROOF_MAX, nomination).await;
            Event::Nominated { id, peer, result: result.map(|protection| (stream, protection)) }
        };
        // Not abortable: the event hands over the stream that wins.
        self.work.push(Box::pin(work));
    }

    fn take(&mut self, net: &N, event: Event<N::Stream>) {
        let now = net.now();
        let rank = self.rank;
        match event {
            Event::Aborted => {}
            Event::Connected { peer, attempt, path, result: Ok(stream) } => {
                let id = self.stream_id(net, &stream, path);
                self.mesh.handle_input(now, peer, PunchInput::Connected(attempt, id));
                self.set_route(id, peer, &stream);
                self.prove(net, peer, id, stream);
            }
            Event::Connected { peer, attempt, path, result: Err(error) } => {
                tracing::trace!(rank, peer, ?attempt, %path, %error, "an attempt failed");
                self.mesh.handle_input(now, peer, PunchInput::Failed(attempt, error.kind()));
            }
            Event::Proved { id, peer: expected, result } => {
                self.strangers -= usize::from(expected.is_none());
                match result {
                    Ok(proven) => {
                        let peer = proven.1.peer();
                        self.set_route(id, peer, &proven.0);
                        if nominates(rank, peer) {
                            self.set_stage(id, Stage::Proven(proven));
                        } else {
                            self.set_stage(id, Stage::Hoping);
                            self.await_nomination(net, id, proven);
                        }
                        self.mesh.handle_input(now, peer, PunchInput::Confirmed(id));
                    }
                    Err(error) => {
                        tracing::debug!(rank, ?expected, %error, "stream rejected: the other end did not authenticate");
                        self.streams.remove(&id);
                        if let Some(peer) = expected {
                            self.mesh.handle_input(now, peer, PunchInput::Broken(id));
                        }
                    }
                }
            }
            Event::Nominated { id, peer, result: Ok((stream, protection)) } => {
                self.set_stage(id, Stage::Nominated(stream, protection));
                self.mesh.handle_input(now, peer, PunchInput::Nominated(id));
            }
            Event::Nominated { id, peer, result: Err(_) } => {
                self.streams.remove(&id);
                self.mesh.handle_input(now, peer, PunchInput::Broken(id));
            }
            Event::Told { id, peer, result: Ok((stream, protection)) } => {
                if let Some(Stream { route, connected_at, .. }) = self.streams.remove(&id) {
                    self.link(peer, route, connected_at, stream, protection);
                }
            }
            // There will be no link; the round ends by its deadline and starts over.
            Event::Told { id, peer, result: Err(error) } => {
                self.streams.remove(&id);
                tracing::debug!(rank, peer, %error, "a nomination could not be sent");
            }
        }
    }

    fn set_stage(&mut self, id: StreamId, stage: Stage<N::Stream>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.stage = stage;
        }
    }

    fn set_route(&mut self, id: StreamId, peer: u32, stream: &N::Stream) {
        let (Ok(remote), Some(entry)) = (stream.peer_addr(), self.streams.get_mut(&id)) else { return };
        entry.route = self.credentials.roster().peers[peer as usize].route(remote, entry.route.path);
    }

    /// Keeps the winner. The higher rank holds it since it was nominated; the lower rank gets it
    /// back once the nomination is sent.
    fn won(&mut self, peer: u32, id: StreamId) {
        if !matches!(self.streams.get(&id), Some(Stream { stage: Stage::Nominated(..), .. })) {
            return;
        }
        if let Some(Stream { route, connected_at, stage: Stage::Nominated(stream, protection) }) =
            self.streams.remove(&id)
        {
            self.link(peer, route, connected_at, stream, protection);
        }
    }

    fn link(&mut self, peer: u32, route: Route, connected_at: Instant, stream: N::Stream, protection: Protection) {
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
        let stream: Box<dyn ByteStream> = match protection {
            Some((security, keys)) => Box::new(Secure::new(stream, security, &keys)),
            None => Box::new(stream),
        };
        self.links[peer as usize] = Some(Link::new(stream, info));
        self.linked += 1;
    }
}

fn seed<N: Net>(net: &N) -> Seed {
    let mut seed = Seed::default();
    net.fill_entropy(&mut seed);
    seed
}

/// Reads the peer's hello behind its confirmation.
async fn hear<S: ByteStream>(credentials: &Credentials, stream: &mut S, flight: &mut Flight) -> io::Result<()> {
    let mut rest = vec![0; credentials.hello_rest(flight.peer())];
    stream.read_exact(&mut rest).await?;
    credentials.hear(flight, &rest).map_err(denied)
}

async fn confirmed<S: ByteStream>(credentials: &Credentials, stream: &mut S) -> io::Result<u32> {
    let mut theirs = [0; CONFIRM_BYTES];
    stream.read_exact(&mut theirs).await?;
    credentials.check(&theirs).map_err(denied)
}

/// The first flight on the side that connected.
async fn ask<S: ByteStream>(
    credentials: Arc<Credentials>,
    peer: u32,
    mut stream: S,
    seed: Seed,
) -> io::Result<Proven<S>> {
    let (hello, mut flight) = credentials.hello(peer, seed).map_err(denied)?;
    stream.write_all(&hello).await?;
    if confirmed(&credentials, &mut stream).await? != peer {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    hear(&credentials, &mut stream, &mut flight).await?;
    Ok((stream, flight))
}

/// The first flight on the side that accepted.
async fn answer<S: ByteStream>(credentials: Arc<Credentials>, mut stream: S, seed: Seed) -> io::Result<Proven<S>> {
    let peer = confirmed(&credentials, &mut stream).await?;
    let (hello, mut flight) = credentials.hello(peer, seed).map_err(denied)?;
    stream.write_all(&hello).await?;
    hear(&credentials, &mut stream, &mut flight).await?;
    Ok((stream, flight))
}

fn denied(stranger: Stranger) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, stranger)
}
