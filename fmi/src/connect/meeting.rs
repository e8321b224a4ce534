//! Drives the machine by which ranks meet in a store, and makes channels of what comes out.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use fmi_store::{BoxFuture, Name, Placed, Put, Scope, Shelf, Store, StoreError};

use super::blame::{other_version, otherwise_protected};
use crate::channel::LinkInfo;
use crate::channel::stored::{Postbox, Stored};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Operation, Path, Result};
use crate::key::Key;
use crate::net::{Clock, Net, Timer};
use crate::proto::candidate::{Roster, Technique};
use crate::proto::card::{Card, Holder};
use crate::proto::cipher::Suites;
use crate::proto::exchange::KeyPair;
use crate::proto::rendezvous::{Handout, SessionId};
use crate::proto::session::Credentials;
use crate::proto::stored::meeting::{Input, Meeting, Output};
use crate::proto::stored::names::{Lobby, Names, Spot};
use crate::proto::stored::object::Sealer;
use crate::proto::wire::VERSION;
use crate::time::Instant;

/// A rank that has met its group in a store.
pub(crate) struct Met {
    pub(crate) channels: BTreeMap<u32, Stored>,
    pub(crate) session: SessionId,
}

type Request = BoxFuture<std::result::Result<Input, StoreError>>;
type Found = BoxFuture<std::result::Result<Vec<(usize, Bytes)>, StoreError>>;

/// A meeting under way.
struct Visitor {
    store: Arc<dyn Store>,
    config: Config,
    names: Names,
    meeting: Meeting,
    requests: Vec<Request>,
    /// What is waited for, and the request that waits for it.
    wanted: Vec<Lobby>,
    wait: Option<Found>,
}

fn place(names: &Names, spot: Spot) -> Name {
    Name { shelf: Shelf { scope: Scope(names.scope()), number: spot.shelf }, id: spot.id }
}

impl Visitor {
    fn name(&self, body: Lobby) -> Name {
        place(&self.names, self.names.lobby(body))
    }

    fn shelf(&self, rank: u32) -> Shelf {
        Shelf { scope: Scope(self.names.scope()), number: self.names.shelf(rank) }
    }

    fn error(&self, kind: ErrorKind) -> Error {
        Error::new(Operation::Join, kind).on(self.config.rank)
    }

    /// Does what the machine says; ready once the group has met.
    fn follow(&mut self) -> Poll<Result<Handout>> {
        while let Some(output) = self.meeting.poll_output() {
            match output {
                Output::Put { body, bytes, only_if_absent, ring } => {
                    let mut put = Put::new(self.name(body), bytes, self.config.store_time_to_live);
                    put.only_if_absent = only_if_absent;
                    put.ring = ring.into_iter().map(|rank| self.shelf(rank)).collect();
                    let placed = self.store.clone().put(put);
                    self.requests.push(Box::pin(async move {
                        Ok(match placed.await? {
                            Placed::Written => Input::Written(body),
                            Placed::Occupied(there) => Input::Occupied(body, there.to_vec()),
                        })
                    }));
                }
                Output::Get(body) => {
                    let got = self.store.clone().get(self.name(body), None);
                    self.requests
                        .push(Box::pin(async move { Ok(Input::Found(body, got.await?.map(|bytes| bytes.to_vec()))) }));
                }
                Output::Wait(bodies) => (self.wanted, self.wait) = (bodies, None),
                Output::Met(handout) => return Poll::Ready(Ok(handout)),
                Output::Failed(trouble) => {
                    return Poll::Ready(Err(self.error(ErrorKind::Store(trouble.to_string()))));
                }
            }
        }
        Poll::Pending
    }

    /// Polls what is under way; true if something came of it.
    fn poll_requests(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool> {
        let mut inputs = Vec::new();
        let mut failure = None;
        self.requests.retain_mut(|request| match request.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                result.map_or_else(|error| failure = Some(error), |input| inputs.push(input));
                false
            }
        });
        if let Some(error) = failure {
            return Err(self.store_error(error));
        }
        if self.wait.is_none() && !self.wanted.is_empty() {
            let names = self.wanted.iter().map(|body| self.name(*body)).collect();
            self.wait = Some(self.store.clone().wait(self.shelf(self.config.rank), names));
        }
        if let Some(wait) = &mut self.wait
            && let Poll::Ready(result) = wait.as_mut().poll(cx)
        {
            self.wait = None;
            // Each body is told of once.
            let found = result.map_err(|error| self.store_error(error))?;
            let bodies: Vec<_> = found.iter().filter_map(|(at, _)| self.wanted.get(*at).copied()).collect();
            inputs.extend(bodies.iter().zip(found).map(|(body, (_, bytes))| Input::Found(*body, Some(bytes.to_vec()))));
            self.wanted.retain(|body| !bodies.contains(body));
        }
        let moved = !inputs.is_empty();
        inputs.into_iter().for_each(|input| self.meeting.handle_input(now, input));
        Ok(moved)
    }

    fn store_error(&self, error: StoreError) -> Error {
        self.error(ErrorKind::Store(error.to_string())).caused_by(error)
    }

    /// What was missing at the deadline.
    fn incomplete(&self) -> Error {
        let (present, missing) = self.meeting.waiting();
        let (size, running) = (self.config.size, self.meeting.is_running());
        let missing = missing.unwrap_or(0);
        self.error(ErrorKind::GroupIncomplete { present, size, missing, other_key: false, running })
    }
}

fn info(peer: u32, now: Instant) -> LinkInfo {
    let (path, technique) = (Path::Store, Technique::Store);
    LinkInfo { peer, path, technique, addresses_known_at: now, connected_at: now, attempts: 1 }
}

/// Takes the place of rank `config.rank` in `store`, whoever else is there.
pub(crate) fn begin_apart(clock: Arc<dyn Clock>, config: &Config, store: Arc<dyn Store>) -> Met {
    let now = clock.now();
    let key = config.group_key();
    let (rank, size) = (config.rank, config.size);
    let peers = (0..size).filter(|peer| *peer != rank);
    let sealers = peers.map(|peer| (peer, Sealer::apart(&key, config.security(), rank, peer)));
    let names = Names::apart(&key, size);
    let mut postbox = Postbox::new((store, clock), names, rank, config.store_time_to_live, sealers);
    postbox.write_only_where_nothing_is();
    Met { channels: postbox.into_channels(|peer| info(peer, now)), session: SessionId::default() }
}

/// Meets the other ranks of `config` in `store`.
pub(crate) async fn meet<N: Net>(net: &N, config: &Config, store: Arc<dyn Store>, deadline: Instant) -> Result<Met> {
    let key = config.group_key();
    let (mut nonce, mut seed) = ([0; 16], [0; 32]);
    net.fill_entropy(&mut nonce);
    net.fill_entropy(&mut seed);
    let key_pair = KeyPair::from_seed(seed);
    let (security, suites) = (config.security(), Suites::of_machine(net.machine().has_aes));
    let public = *key_pair.public();
    let card = Card { version: VERSION, security, sprays: false, suites, public, locals: Vec::new() };
    let (rank, size) = (config.rank, config.size);
    let sealed = card.seal(&key, &Holder { rank, size, epoch: 0, nonce: &nonce });
    let mut visitor = Visitor {
        store,
        names: Names::of_lobby(&key, size),
        meeting: Meeting::new(&key, rank, size, nonce, &sealed),
        config: config.clone(),
        requests: Vec::new(),
        wanted: Vec::new(),
        wait: None,
    };
    let clock: Arc<dyn Clock> = Arc::new(net.clone());
    let (mut timer, mut last) = (Timer::new(clock.clone()), Timer::new(clock.clone()));
    let handout = poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = visitor.follow() {
                return Poll::Ready(result);
            }
            let now = net.now();
            if visitor.poll_requests(cx, now)? {
                continue;
            }
            if let Some((at, _)) = visitor.meeting.poll_timeout()
                && timer.poll_until(cx, at)
            {
                visitor.meeting.handle_timeout(net.now());
                continue;
            }
            if last.poll_until(cx, deadline) {
                return Poll::Ready(Err(visitor.incomplete()));
            }
            return Poll::Pending;
        }
    })
    .await?;
    visitor.settle(&key, key_pair, &handout, clock)
}

impl Visitor {
    /// Makes channels to all that were met.
    fn settle(self, key: &Key, key_pair: KeyPair, handout: &Handout, clock: Arc<dyn Clock>) -> Result<Met> {
        let (rank, size, security) = (self.config.rank, self.config.size, self.config.security());
        let roster = Roster::open(key, handout).map_err(|other| other_version(rank, other))?;
        if let Some((peer, theirs)) = roster.otherwise_protected(security) {
            return Err(otherwise_protected(rank, security, peer, theirs));
        }
        let (session, names) = (roster.session, Names::of_run(key, &roster.digest));
        let credentials = Credentials::new(key, key_pair, security, roster, rank, None);
        let seal = |peer| {
            let sealers = credentials.sealers(peer);
            sealers.map(|sealers| (peer, sealers)).map_err(|stranger| {
                self.error(ErrorKind::Store(format!("the card of rank {peer} in the store: {stranger}")))
                    .with_peer(peer)
            })
        };
        let sealers = (0..size).filter(|peer| *peer != rank).map(seal).collect::<Result<Vec<_>>>()?;
        let (mut litter, decision) = self.meeting.litter();
        litter.extend((rank == 0).then_some(decision));
        let litter = litter.into_iter().map(|body| self.name(body)).collect();
        let now = clock.now();
        let mut postbox = Postbox::new((self.store, clock), names, rank, self.config.store_time_to_live, sealers);
        postbox.delete_at_end(litter);
        let channels = postbox.into_channels(|peer| info(peer, now));
        Ok(Met { channels, session })
    }
}
