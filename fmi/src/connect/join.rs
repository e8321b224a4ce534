//! Joining a group: rendezvous, punches to all peers, proofs. One future, no task.
//!
//! A failed round (a pair that did not connect in time, a rank that vanished meanwhile, a rendezvous
//! that restarted) starts over from a fresh local port until the join deadline.
//!
//! What comes out is a rank with all its links. Whether every other rank has its own is for the group to find out,
//! by a barrier over these links; if it fails, the join is [retried](Joiner::retry).
//!
//! **A rank gives a round up by its own clock only before it enters that barrier.** While it has not,
//! nobody can have passed, so nobody is left behind in a group that another rank has abandoned. In
//! the barrier a rank waits until it passes, or hears that the round is void: a connection ends, or
//! the rendezvous dissolves the session.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::blame::{check_files, not_reached, other_version, otherwise_protected, unregistered};
use super::joined::{Joined, Lifeline, Upgrade, erase};
use super::legs::{Leg, Legs};
use super::lifeline::Reconnect;
use super::racing::Racing;
use super::round::{Locals, Relayed, Round};
use super::servers::Servers;
use super::upgrade::{Meet, Upgrades};
use crate::channel::stream::{CONTROL_KEEPALIVE, CONTROL_SILENCE_MAX};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::key::Key;
use crate::net::framed::ReceiveError;
use crate::net::{ByteStream, Clock, Net, Timer, within};
use crate::proto::candidate::{Digest, Means, Roster};
use crate::proto::card::Security;
use crate::proto::cipher::Suites;
use crate::proto::exchange::KeyPair;
use crate::proto::join::{Input as RoundsInput, Output as RoundsOutput, Rounds};
use crate::proto::remark::{self, Remark};
use crate::proto::rendezvous::client::{Client, Identity, Input as ClientInput, Output as ClientOutput};
use crate::proto::rendezvous::{ClientMessage, Handout, NOT_YET, Nonce, Resumption, ServerMessage, SessionId};
use crate::proto::session::{Chain, Credentials};
use crate::time::Instant;
use fmi_store::Store;

/// What is said of a rank that went while the group formed.
const LOST: &str = "the rendezvous lost its connection while the group formed, and it has not come back";

/// What is said of a group that formed for others, while a connection of this rank broke.
const FORMED: &str = "the group formed, and this rank lost a connection before it knew";

/// What makes a rank a member of its group.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) key: Key,
    pub(super) security: Security,
    /// Of the connection whose ends the group is, if it is one of two that replaces a relayed one.
    pub(super) chain: Option<Arc<Chain>>,
}

/// A rank with a checked configuration that has not registered yet, and may open its connection to
/// the rendezvous ahead of that.
#[derive(Debug)]
pub struct Prepared<N: Net> {
    net: N,
    /// Without its secret, which ended in the key of the membership.
    config: Config,
    membership: Membership,
    servers: Servers<N>,
    first: Option<Legs<N>>,
    /// Where the group meets, if it has no rendezvous.
    store: Option<Arc<dyn Store>>,
}

impl<N: Net> Prepared<N> {
    /// Checks the configuration, and begins to resolve the names of the rendezvous. It does not wait for an answer: a name
    /// that has no address yet may have one by the deadline of the join. A [store](Config::store) is connected.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`], and [`ErrorKind::Store`] if the store cannot be used.
    pub async fn new(net: N, config: &Config) -> Result<Self> {
        config.check().map_err(|error| error.on(config.rank))?;
        check_files(&net, config)?;
        let mut config = config.clone();
        let membership = Membership { key: config.group_key(), security: config.security(), chain: None };
        if let Some(url) = &config.store {
            let store = open_store(&net, &config, url).await?;
            let servers = Servers::new(net.clone(), &config, membership.key.id())?;
            return Ok(Self { net, config, membership, servers, first: None, store: Some(store) });
        }
        (config.key, config.security) = (None, Some(membership.security));
        let net = config.mss.map_or_else(|| net.clone(), |bytes| net.with_segment_max(bytes));
        let mut servers = Servers::new(net.clone(), &config, membership.key.id())?;
        poll_fn(|cx| servers.poll_lookups(cx)).await;
        Ok(Self { net, config, membership, servers, first: None, store: None })
    }

    /// Opens the connections to the rendezvous ahead of the join, which saves it one round trip.
    ///
    /// # Errors
    /// [`ErrorKind::RendezvousUnreachable`] if that fails; joining would try again until its deadline.
    pub async fn warm(&mut self) -> Result<()> {
        if self.config.is_alone() || self.store.is_some() {
            return Ok(());
        }
        let mut racing = self.servers.race(0, false, true);
        let connect = poll_fn(|cx| poll_race(cx, &mut self.servers, 0, &mut racing));
        match within(&self.net, self.net.now() + self.config.join_deadline, connect).await {
            Ok(legs) => {
                self.first = Some(legs);
                Ok(())
            }
            Err(error) => {
                let kind = self.servers.explain(not_reached(&self.config.rendezvous, &error));
                Err(Error::new(Operation::Join, kind).on(self.config.rank).caused_by(error))
            }
        }
    }

    /// Whether the group has one rank, which meets nobody.
    pub(crate) fn is_alone(&self) -> bool {
        self.config.is_alone()
    }

    /// Where the group meets, if that is a store, with all else that it takes.
    pub(crate) fn store(&self) -> Option<(N, Config, Arc<dyn Store>)> {
        let store = self.store.clone()?;
        Some((self.net.clone(), self.config.clone(), store))
    }

    /// Configuration and clock.
    pub(crate) fn into_parts(self) -> (Config, Arc<dyn Clock>) {
        (self.config, Arc::new(self.net))
    }
}

/// Connects to the store of a URL, within the time of the join.
async fn open_store<N: Net>(net: &N, config: &Config, url: &str) -> Result<Arc<dyn Store>> {
    let until = net.now() + config.join_deadline;
    let connect = async { Ok(fmi_store::connect(net.clone(), url).await) };
    let error = |kind| Error::new(Operation::Join, kind).on(config.rank);
    match within(net, until, connect).await {
        Ok(Ok(store)) => Ok(store),
        Ok(Err(failure)) => {
            let text = failure.to_string();
            let is_wrong = matches!(failure.cause, fmi_store::Cause::Settings(_));
            let kind = if is_wrong { ErrorKind::InvalidConfig(text) } else { ErrorKind::Store(text) };
            Err(error(kind).caused_by(failure))
        }
        Err(_) => Err(error(ErrorKind::Store("the store did not answer before the deadline of the join".into()))),
    }
}

/// A race for a server that ends in the connections of a registration.
fn poll_race<N: Net>(
    cx: &mut Context<'_>,
    servers: &mut Servers<N>,
    number: usize,
    racing: &mut Racing<N, Legs<N>>,
) -> Poll<io::Result<Legs<N>>> {
    racing.poll(cx, &mut servers.legs(number)).map_ok(|(mut legs, side)| {
        legs.elect(side);
        servers.won(number, legs.main.remote);
        legs
    })
}

/// A join under way.
pub(crate) struct Joiner<N: Net> {
    net: N,
    config: Config,
    membership: Membership,
    deadline: Instant,
    rounds: Rounds,
    rounds_timer: Timer,
    servers: Servers<N>,
    client: Client,
    client_timer: Timer,
    /// The number of the server that this rank turned to last, and the race for it, until that is decided.
    server: usize,
    racing: Option<Racing<N, Legs<N>>>,
    legs: Option<Legs<N>>,
    /// Opened ahead of the join.
    warm: Option<Legs<N>>,
    round: Option<Round<N>>,
    /// What the round that came together shows of the network.
    remarks: Vec<Remark>,
    /// What was missing when the last round was given up.
    unconnected: Option<(u32, ErrorKind)>,
    meet: Meet<N>,
}

impl<N: Net> Joiner<N> {
    /// Starts to join. `meet` forms the groups of two that replace relayed links later.
    pub(crate) fn new(prepared: Prepared<N>, meet: Meet<N>) -> Self {
        let Prepared { net, config, membership, servers, first, store: _ } = prepared;
        let now = net.now();
        let mut instance = [0; 16];
        net.fill_entropy(&mut instance);
        let mut seed = [0; 32];
        net.fill_entropy(&mut seed);
        let identity = Identity {
            rank: config.rank,
            size: config.size,
            instance,
            key: membership.key.clone(),
            security: membership.security,
            sprays: config.spray,
            suites: Suites::of_machine(net.machine().has_aes),
            servers: servers.count(),
        };
        let clock = Arc::new(net.clone());
        let deadline = now + config.join_deadline;
        Self {
            deadline,
            rounds: Rounds::new(config.rank, membership.security, deadline, config.punch_deadline),
            rounds_timer: Timer::new(clock.clone()),
            client: Client::new(now, identity, seed),
            client_timer: Timer::new(clock),
            server: 0,
            racing: None,
            legs: None,
            warm: first,
            meet,
            round: None,
            remarks: Vec::new(),
            unconnected: None,
            net,
            config,
            membership,
            servers,
        }
    }

    /// The configuration of this rank.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The clock of the net below.
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.net.clone())
    }

    /// When the join has had its time.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Connects to all wanted peers.
    ///
    /// # Errors
    /// As [`Communicator::connect`](crate::Communicator::connect).
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing; dropping the joiner leaves the group.
    pub(crate) async fn next(&mut self) -> Result<Joined> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// What the group that came out last shows of the network.
    pub(crate) fn take_remarks(&mut self) -> Vec<Remark> {
        std::mem::take(&mut self.remarks)
    }

    /// Gives up what came out last, and registers again.
    pub(crate) fn retry(&mut self) {
        self.abandon_round();
        self.client.handle_input(self.net.now(), ClientInput::Retry);
    }

    /// Ends a round and keeps what it lacked, for the error at the deadline.
    fn abandon_round(&mut self) {
        self.rounds.handle_input(self.net.now(), RoundsInput::Ended);
        if let Some(round) = self.round.take() {
            self.unconnected = round.unconnected();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Joined>> {
        loop {
            self.drain_client()?;
            let mut moved = self.poll_control(cx);
            if let (Some(round), Some(legs)) = (&mut self.round, &mut self.legs) {
                let other = legs.other.as_mut().map(|other| (other.local, &mut other.listener));
                let mut locals = Locals { main: (legs.main.local, &mut legs.main.listener), other };
                let linked = round.linked();
                moved |= round.poll(cx, &self.net, &mut locals);
                if round.linked() > linked {
                    self.rounds.handle_input(self.net.now(), RoundsInput::Linked);
                }
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
    fn finish(&mut self) -> Joined {
        let round = self.round.take().expect("only a round finishes");
        self.unconnected = None;
        let control = match self.legs.take().map(|legs| legs.main.leg) {
            Some(Leg::Established(control)) => Some(control),
            Some(Leg::None | Leg::Connecting(..)) | None => None,
        };
        if let Some(control) = &control {
            // A stream that refuses the option is broken, which its next use tells.
            let _ = control.stream().set_keepalive(CONTROL_KEEPALIVE, CONTROL_SILENCE_MAX);
        }
        let roster = round.credentials().roster();
        let (session, digest, nonce) = (roster.session, roster.digest, roster.peers[self.config.rank as usize].nonce);
        let relayed = round.relayed();
        let has_vantage = self.config.vantage.as_deref() != Some("off");
        self.remarks = remark::remarks(roster, !relayed.is_empty(), has_vantage);
        let upgrade = (!relayed.is_empty()).then(|| self.upgrades(digest, relayed));
        let lifeline = Some(self.lifeline(session, nonce));
        Joined { links: round.into_links(), control: control.map(erase), session, upgrade, lifeline }
    }

    fn lifeline(&self, session: SessionId, nonce: Nonce) -> Box<dyn Lifeline> {
        let (rank, size) = (self.config.rank, self.config.size);
        let resumption = Resumption { session, group: self.membership.key.id(), rank, size, nonce };
        let servers = self.servers.beginning_with(self.server);
        Box::new(Reconnect::new(self.net.clone(), servers, resumption))
    }

    fn upgrades(&self, roster: Digest, relayed: Vec<Relayed>) -> Box<dyn Upgrade> {
        let (net, servers) = (self.net.clone(), self.servers.beginning_with(self.server));
        let prepare = move |config, membership| {
            let (net, servers) = (net.clone(), servers.clone());
            Prepared { net, config, membership, servers, first: None, store: None }
        };
        let Membership { ref key, security, .. } = self.membership;
        let membership = Membership { key: key.clone(), security, chain: None };
        let group = (self.config.clone(), membership);
        Box::new(Upgrades::new(self.net.clone(), group, roster, relayed, Box::new(prepare), self.meet.clone()))
    }

    fn drain_client(&mut self) -> Result<()> {
        while let Some(output) = self.client.poll_output() {
            match output {
                ClientOutput::Connect { server, elsewhere } => {
                    self.abandon_round();
                    if let Some(legs) = self.legs.take() {
                        legs.abandon();
                    }
                    self.server = server;
                    // Connections opened ahead of the join serve for the first time only.
                    self.legs = self.warm.take();
                    self.racing = self.legs.is_none().then(|| self.servers.race(server, elsewhere, true));
                }
                ClientOutput::Send(message) => {
                    let main = self.legs.as_mut().map(|legs| &mut legs.main.leg);
                    if let Some(Leg::Established(control)) = main {
                        control.queue(&message.emit());
                    }
                }
                ClientOutput::Vouch(nonce) => {
                    if let Some(legs) = &mut self.legs {
                        legs.vouch(nonce);
                    }
                }
                ClientOutput::Joined(handout, key_pair) => self.start_round(&handout, key_pair)?,
                ClientOutput::Dissolved => self.abandon_round(),
                ClientOutput::Lost(lost) => {
                    let error = |kind| Error::new(Operation::Join, kind).on(self.config.rank);
                    if lost == self.config.rank {
                        return Err(error(ErrorKind::Excluded(FORMED.into())));
                    }
                    return Err(error(ErrorKind::PeerLost(LOST.into())).with_peer(lost));
                }
                ClientOutput::Refused(refusal) => {
                    let error = Error::new(Operation::Join, ErrorKind::Refused(refusal));
                    return Err(error.on(self.config.rank));
                }
            }
        }
        Ok(())
    }

    fn start_round(&mut self, handout: &Handout, key_pair: KeyPair) -> Result<()> {
        let Some(legs) = &self.legs else { return Ok(()) };
        let Membership { ref key, security, ref chain } = self.membership;
        let rank = self.config.rank;
        let roster = Roster::open(key, handout).map_err(|other| other_version(rank, other))?;
        self.rounds.handle_input(self.net.now(), RoundsInput::HandedOut(&roster));
        match self.rounds.poll_output() {
            Some(RoundsOutput::Start) => {
                let mut seed = [0; 8];
                self.net.fill_entropy(&mut seed);
                let means = Means {
                    relay: self.config.relay.then_some(legs.main.remote),
                    sprays: self.config.spray,
                    peers: self.config.peers,
                    seed: u64::from_be_bytes(seed),
                };
                let credentials = Credentials::new(key, key_pair, security, roster, rank, chain.clone());
                let (at_once_max, relays) = (self.config.peers_at_once_max, legs.ways());
                self.round = Some(Round::new(&self.net, rank, credentials, means, at_once_max, relays));
                Ok(())
            }
            Some(RoundsOutput::Mismatch { peer, theirs }) => Err(otherwise_protected(rank, security, peer, theirs)),
            // Only a timeout makes them.
            Some(RoundsOutput::Retry | RoundsOutput::Expired) | None => Ok(()),
        }
    }

    fn poll_control(&mut self, cx: &mut Context<'_>) -> bool {
        let now = self.net.now();
        let is_raced = self.racing.is_some();
        if let Some(racing) = &mut self.racing {
            let Poll::Ready(result) = poll_race(cx, &mut self.servers, self.server, racing) else { return false };
            self.racing = None;
            match result {
                Ok(legs) => self.legs = Some(legs),
                Err(error) => self.client.handle_input(now, ClientInput::Disconnected(error.kind())),
            }
        }
        let Some(legs) = &mut self.legs else { return is_raced };
        if !legs.is_announced {
            legs.is_announced = true;
            let input = legs.connected(&self.net, self.servers.has_others(self.server));
            let input = input.unwrap_or_else(|error| ClientInput::Disconnected(error.kind()));
            self.client.handle_input(now, input);
            return true;
        }
        let failed = legs.poll_others(cx);
        for _ in 0..failed {
            self.client.handle_input(now, ClientInput::Unvouched);
        }
        let Leg::Established(control) = &mut legs.main.leg else { return failed > 0 };
        let flushed = control.poll_flush(cx);
        let input = match (control.poll_receive(cx, ServerMessage::parse), flushed) {
            (Poll::Ready(Ok(message)), _) => ClientInput::Message(message),
            (Poll::Ready(Err(ReceiveError::Wire(error))), _) => {
                tracing::warn!(%error, "malformed message from the rendezvous");
                ClientInput::Malformed(error)
            }
            (Poll::Ready(Err(ReceiveError::Io(error))), _) | (_, Poll::Ready(Err(error))) => {
                ClientInput::Disconnected(error.kind())
            }
            (Poll::Pending, _) => return failed > 0,
        };
        if !matches!(input, ClientInput::Message(_)) {
            legs.main.leg = Leg::None;
        }
        self.client.handle_input(now, input);
        true
    }

    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        let now = self.net.now();
        if let Some((at, _)) = self.rounds.poll_timeout()
            && self.rounds_timer.poll_until(cx, at)
        {
            self.rounds.handle_timeout(now);
            while let Some(output) = self.rounds.poll_output() {
                match output {
                    RoundsOutput::Retry => self.retry(),
                    RoundsOutput::Expired => return Err(self.deadline_error()),
                    // Only a group that was handed out makes them.
                    RoundsOutput::Start | RoundsOutput::Mismatch { .. } => {}
                }
            }
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
        let last = || self.unconnected.clone().filter(|_| self.rounds.just_ended(self.net.now()));
        if let Some((peer, kind)) = current.or_else(last) {
            return error(kind).with_peer(peer);
        }
        if let Some(waiting) = self.client.waiting() {
            let crate::proto::rendezvous::Waiting { present, missing, other_key, running, .. } = waiting;
            let size = self.config.size;
            return error(ErrorKind::GroupIncomplete { present, size, missing, other_key, running });
        }
        error(self.servers.explain(unregistered(&self.client, &self.config.rendezvous)))
    }
}

impl<N: Net> Drop for Joiner<N> {
    /// Whoever gives a join up says so, as far as that goes at once: nobody is to wait for it to come back.
    fn drop(&mut self) {
        if let Some(Leg::Established(control)) = self.legs.as_mut().map(|legs| &mut legs.main.leg) {
            control.queue(&ClientMessage::Leave(NOT_YET).emit());
            let _ = control.poll_flush(&mut Context::from_waker(Waker::noop()));
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a group of two that replaces a relayed connection is formed by the ends of that connection and by nobody
    //! else. Method: ranks with the key of the group, at an honest rendezvous over loopback.

    use std::pin::pin;
    use std::time::Duration;

    use futures_util::future::{Either, join, select};

    use super::*;
    use crate::RealNet;
    use crate::net::rendezvous::{Rendezvous, ServerConfig};

    /// Whether the two ranks of a pair's group come together, each with the secret of the connection that it had.
    async fn meets(secrets: [Option<u8>; 2]) -> bool {
        let net = RealNet::new();
        let server = Rendezvous::bind(net, ([127, 0, 0, 1], 0).into(), ServerConfig::default()).expect("listens");
        let address = server.local_addr().expect("an address");
        let key = Key::new("group", b"a key of 16 bytes").of_pair(&[7; 32], 0, 1);
        let end = async |rank: u32| {
            let mut config = Config::new(rank, 2, "ranks 0 and 1 of group", address.to_string());
            config.join_deadline = Duration::from_secs(1);
            let chain = secrets[rank as usize].map(|byte| Arc::new(Chain::from([byte; 32])));
            let membership = Membership { key: key.clone(), security: Security::Encrypted, chain };
            let servers = Servers::new(net, &config, membership.key.id()).expect("an address");
            let prepared = Prepared { net, config, membership, servers, first: None, store: None };
            prepared.join().await.map(|comm| comm.into_link().info().peer)
        };
        match select(pin!(server.serve()), pin!(join(end(0), end(1)))).await {
            Either::Left((never, _)) => match never {},
            Either::Right(((Ok(1), Ok(0)), _)) => true,
            Either::Right(((Err(_), Err(_)), _)) => false,
            Either::Right((results, _)) => panic!("one end alone believes in it: {results:?}"),
        }
    }

    #[tokio::test]
    async fn only_the_ends_of_a_relayed_connection_replace_it() {
        assert!(meets([Some(1), Some(1)]).await);
        for member in [None, Some(2)] {
            assert!(!meets([Some(1), member]).await, "a member of the group that is no end of the connection");
            assert!(!meets([member, Some(1)]).await);
        }
    }
}
