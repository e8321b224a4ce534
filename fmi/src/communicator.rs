//! A group of ranks that can send to each other and compute together.
//!
//! # Operations
//! Every operation is a function that returns a future. The operation has its place among the others from
//! the moment of the call; the future makes it progress when it is polled. So operations can be started
//! one after the other and awaited together, which is what MPI calls non-blocking:
//!
//! ```no_run
//! # async fn example(comm: &fmi::Communicator) -> fmi::Result<()> {
//! let (own, mut sum, mut all) = ([comm.rank()], [0.0], vec![0u32; comm.size() as usize]);
//! let reduce = comm.allreduce(&[1.5], &mut sum, fmi::op::Sum);
//! let gather = comm.allgather(&own, &mut all);
//! futures_util::future::try_join(reduce, gather).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The futures are [requests](crate::request): each has a name, borrows its buffers alone, and may be kept in a struct or
//! a list, be moved to another task, or be tested.
//!
//! Futures of one communicator may be awaited in any order and by different tasks. Short sends and collectives are copied at
//! their call and move whichever is polled, and what arrives for an operation that nobody polls is put into the mailbox, which is
//! bounded; [`Config::eager_bytes_max`] and [`Config::mailbox_bytes_max`] say up to which lengths. A frame that was begun must be
//! sent whole, so a longer one that was polled and is neither polled again nor dropped holds up others that send to the same rank.

use std::fmt;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::FAILURE_BOUND;
use crate::channel::stream::Link;
use crate::channel::{Channel, LinkInfo, memory};
use crate::communicator::base::Base;
use crate::config::Config;
use crate::connect::meeting::{Met, begin_apart, meet as meet_in_store};
use crate::connect::{Joined, Joiner, Prepared};
use crate::engine::{Engine, Shared, Until};
use crate::error::{Error, ErrorKind, Operation, Path, Result};
use crate::model::Costs;
use crate::net::{BoxFuture, Clock, Net};
use crate::proto::candidate::Technique;
use crate::proto::group::OpId;
use crate::proto::rank::{Members, Rank, Slot};
use crate::proto::remark::Remark;
use crate::schedule::Connections;
use crate::time::Instant;
use fmi_store::Store;

/// Time for each operation of a group in a store, if [`Config::operation_deadline`] has none.
pub const STORE_DEADLINE: Duration = Duration::from_secs(600);
/// How long a rank that leaves waits for a store to take what it has sent.
const STORED_WITHIN: Duration = Duration::from_secs(60);
/// How often a rank that leaves looks whether what it sent has been acknowledged.
const ACKNOWLEDGED_PAUSE: Duration = Duration::from_millis(100);

mod base;
mod collective;
mod dynamic;
mod group;
#[cfg(all(test, feature = "half"))]
mod half_tests;
#[cfg(test)]
mod harness;
mod message;
mod payload;
mod persistent;
mod synchronous;
#[cfg(feature = "values")]
mod value;
mod waiting;

pub use collective::{CollectiveRequest, Nothing};
pub use dynamic::{Invocation, InvokeRequest};
pub use group::Group;
pub use message::{
    Destination, MatchRequest, Message, ProbeRequest, ReadRequest, RecvRequest, SendRecvRequest, SendRequest, Source,
    Status, Tag,
};
pub use payload::{Payload, RecvVecRequest};
pub use persistent::{Persistent, PersistentRecv, PersistentSend};
pub use synchronous::SsendRequest;
pub use waiting::{Request, Requests, Test, TryMatchRequest, TryProbeRequest, test, wait_all, wait_any, wait_some};

/// Connected ranks. MPI 3.1 §6.
///
/// Collectives are called by all ranks, in the same order and with the same arguments; a disagreement is an
/// error on both sides that shows both views. An operation ends by its deadline, if it has
/// one, and never waits for a rank that is gone.
///
/// After an error of a collective the communicator is revoked, on all of its ranks: each further call fails at
/// once. An error of a point-to-point operation concerns that operation alone, but for a mismatch. Form a new
/// group to go on.
///
/// Communicators made of this one share its connections and limits. A clone is the same communicator, for another
/// struct, task or thread: what is called on it has its place among what is called on the others. The communicator
/// ends with its last clone and its last request.
#[derive(Clone)]
pub struct Communicator {
    shared: Arc<Base>,
    id: u64,
    rank: u32,
    size: u32,
    /// Which of its ranks are connected.
    connections: Connections,
    reproducible: bool,
    /// The time for each operation that is called on this clone, if it has one of its own.
    within: Option<Duration>,
}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Communicator").field("rank", &self.rank).field("size", &self.size).finish_non_exhaustive()
    }
}

impl Communicator {
    /// Joins the group of `config`: meets the other ranks at the rendezvous, connects to each, or does both by
    /// [`Config::store`] ([`Communicator::connect_by_store`]), and returns once every rank is connected to all that [`Config::peers`] names.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example() -> fmi::Result<()> {
    /// let comm = fmi::Communicator::connect(fmi::RealNet::new(), &fmi::Config::from_env()?).await?;
    /// let mut sum = [0.0];
    /// comm.allreduce(&[f64::from(comm.rank())], &mut sum, fmi::op::Sum).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] at once; [`ErrorKind::Refused`] when the rendezvous says so;
    /// [`ErrorKind::RendezvousUnreachable`], [`ErrorKind::GroupIncomplete`] or
    /// [`ErrorKind::Unconnected`] at the join deadline.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the group, which forms without this rank or not at all.
    #[tracing::instrument(skip_all, fields(rank = config.rank))]
    pub async fn connect<N: Net>(net: N, config: &Config) -> Result<Self> {
        Prepared::new(net, config).await?.join().await
    }

    /// Joins the group of `config` in a store, without a rendezvous: the ranks meet there, and what they send each other lies
    /// there until it is read. Nobody needs to be reachable, and no server but the store.
    ///
    /// A store cannot tell a rank that is dead from one that computes, so that here each operation has a deadline:
    /// [`Config::operation_deadline`], or [`STORE_DEADLINE`]. A message is in the store once its send has ended. Dropping the
    /// communicator loses what is under way; [leaving](Communicator::leave) does not.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fmi::Result<()> {
    /// # use std::sync::Arc;
    /// let net = fmi::RealNet::new();
    /// let store = Arc::new(fmi::store::MemoryStore::new(net));
    /// let ranks = (0..3).map(|rank| {
    ///     let store = store.clone();
    ///     async move {
    ///         let config = fmi::Config::new(rank, 3, "demo", "");
    ///         let comm = fmi::Communicator::connect_by_store(net, &config, store).await?;
    ///         let mut sum = [0];
    ///         comm.allreduce(&[rank], &mut sum, fmi::op::Sum).await?;
    ///         comm.leave().await;
    ///         fmi::Result::Ok(sum[0])
    ///     }
    /// });
    /// assert_eq!(futures_util::future::try_join_all(ranks).await?, [3, 3, 3]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] at once; [`ErrorKind::Store`] when the store fails, or hands out what nobody of the
    /// group put there; [`ErrorKind::GroupIncomplete`] at the join deadline.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the group, which forms without this rank or not at all.
    #[tracing::instrument(skip_all, fields(rank = config.rank))]
    pub async fn connect_by_store<N: Net>(net: N, config: &Config, store: Arc<dyn Store>) -> Result<Self> {
        config.check_but_rendezvous().map_err(|error| error.on(config.rank))?;
        let deadline = net.now() + config.join_deadline;
        let costs = Costs::store(store.traits().patience.map(|patience| patience.pause_min));
        let operation_deadline = config.operation_deadline.or(Some(STORE_DEADLINE));
        let mut config = Config { operation_deadline, ..config.clone() };
        let Met { mut channels, session } = if config.meet {
            meet_in_store(&net, &config, store, deadline).await?
        } else {
            // Nobody may be there to ask for the rest of a long message.
            config.eager_bytes_max = u64::MAX;
            begin_apart(Arc::new(net.clone()), &config, store)
        };
        let own = |rank| channels.remove(&rank).map(|channel| Box::new(channel) as Box<dyn Channel>);
        let channels = (0..config.size).map(own).collect();
        let parts = crate::engine::Parts { channels, control: None, session, upgrade: None, lifeline: None };
        let comm = Self::over(&config, Arc::new(net), parts);
        if config.meet {
            comm.join_barrier(deadline).await?;
        }
        comm.shared.with(|engine| engine.costs = costs);
        comm.mark_formed();
        Ok(comm)
    }

    /// A group of `size` ranks in this process, connected by memory, by rank: for threads, and for tests of programs
    /// that need no network. Each works as on a network; move them to where their ranks run.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fmi::Result<()> {
    /// let ranks = fmi::Communicator::local(fmi::RealNet::new(), 3).into_iter().map(|comm| async move {
    ///     let mut sum = [0];
    ///     comm.allreduce(&[comm.rank()], &mut sum, fmi::op::Sum).await?;
    ///     fmi::Result::Ok(sum[0])
    /// });
    /// assert_eq!(futures_util::future::try_join_all(ranks).await?, [3, 3, 3]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn local<N: Net>(net: N, size: u32) -> Vec<Self> {
        let now = net.now();
        let info = |peer| LinkInfo {
            peer,
            path: Path::Private,
            technique: Technique::Local,
            addresses_known_at: now,
            connected_at: now,
            attempts: 0,
        };
        let mut ends: Vec<Vec<Option<Box<dyn Channel>>>> =
            (0..size).map(|_| (0..size).map(|_| None).collect()).collect();
        for low in 0..size {
            for high in low + 1..size {
                let (near, far) = memory::pair(info(high), info(low));
                ends[low as usize][high as usize] = Some(Box::new(near));
                ends[high as usize][low as usize] = Some(Box::new(far));
            }
        }
        let clock: Arc<dyn Clock> = Arc::new(net);
        let rank = |(rank, channels): (u32, _)| {
            let config = Config::new(rank, size, "local", "");
            let session = Default::default();
            let parts = crate::engine::Parts { channels, control: None, session, upgrade: None, lifeline: None };
            let comm = Self::over(&config, clock.clone(), parts);
            comm.shared.with(|engine| engine.costs = Costs::local(1.0));
            comm.mark_formed();
            comm
        };
        (0..size).zip(ends).map(rank).collect()
    }

    pub(crate) fn assemble(config: &Config, clock: Arc<dyn Clock>, joined: Joined) -> Self {
        let Joined { links, control, session, upgrade, lifeline } = joined;
        let channels = links.into_iter().map(|link| link.map(|link| Box::new(link) as Box<dyn Channel>)).collect();
        let parts = crate::engine::Parts { channels, control, session, upgrade, lifeline };
        Self::over(config, clock, parts)
    }

    /// The only connection of a group of two.
    pub(crate) fn into_link(self) -> Link {
        let channel = self.shared.with(Engine::take_channel).and_then(Channel::into_link);
        channel.expect("a group of two that has formed has a connection")
    }

    fn over(config: &Config, clock: Arc<dyn Clock>, parts: crate::engine::Parts) -> Self {
        let shared = Shared::new(Engine::new(config, clock, parts));
        let members = Members::whole(config.rank, config.size);
        let connections = config.peers.connections(config.size);
        Self {
            shared: Base::new(shared, 0, members),
            id: 0,
            rank: config.rank,
            size: config.size,
            connections,
            reproducible: config.reproducible,
            within: None,
        }
    }

    /// This rank, from 0 to `size` - 1. MPI 3.1 §6.4.1, MPI_Comm_rank.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// Number of ranks. MPI 3.1 §6.4.1, MPI_Comm_size.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The time on the clock of the net below.
    pub fn now(&self) -> Instant {
        self.shared.clock.now()
    }

    /// Sets the time for each operation that is called from now on, on this communicator and its clones, but for those
    /// with [a time of their own](Communicator::with_deadline). With `None`, operations wait as long as peers show signs
    /// of life. Communicators that are made of it later begin with it; others of the group keep theirs, which at first
    /// is [`Config::operation_deadline`](crate::Config::operation_deadline).
    pub fn set_deadline(&self, deadline: impl Into<Option<Duration>>) {
        self.shared.set_deadline(deadline.into().unwrap_or(Duration::MAX));
    }

    /// A clone whose operations have this time, whatever [`Communicator::set_deadline`] says: for single calls. It costs
    /// no more than a reference.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(comm: &fmi::Communicator) -> fmi::Result<()> {
    /// let mut hint = [0];
    /// let quickly = comm.with_deadline(std::time::Duration::from_millis(200));
    /// match quickly.recv(1, 7, &mut hint).await {
    ///     Err(error) if matches!(error.kind(), fmi::ErrorKind::Deadline { .. }) => {} // Go on without it.
    ///     result => drop(result?),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A collective that meets its deadline revokes the communicator, with all of its clones.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { within: Some(deadline), ..self.clone() }
    }

    /// How each peer is reached, in rank order.
    pub fn links(&self) -> impl Iterator<Item = LinkInfo> + use<> {
        let infos: Vec<LinkInfo> = self.shared.with(|engine| {
            let here = |info: LinkInfo| {
                let slot = Slot::checked(info.peer, u32::try_from(engine.channels_max()).ok()?)?;
                Some(LinkInfo { peer: self.shared.members.rank_of(slot)?.get(), ..info })
            };
            engine.channels().map(Channel::info).filter_map(here).collect()
        });
        infos.into_iter()
    }

    /// What this rank noticed of the network while the group formed that may be worth mending.
    pub fn remarks(&self) -> Vec<Remark> {
        self.shared.with(|engine| engine.remarks.clone())
    }

    /// Leaves the group gracefully: what was sent arrives, as long as the peers read it. It waits for the peers to
    /// leave too, but not longer than [`Config::cause_wait`], or [`FAILURE_BOUND`] while the kernel of one has not acknowledged
    /// what was sent: the path to it may be cut. In a store it waits for no peer, but up to a minute until the store has all that
    /// was sent. Dropping does not wait.
    ///
    /// A group is left once, by the last in this process that holds it. While other clones, communicators made of it, or
    /// requests are there, they go on, and this only sends what is queued. So drop those first.
    ///
    /// # Cancel safety
    /// Dropping the future is like dropping the communicator.
    ///
    /// MPI 3.1 §8.7, MPI_Finalize.
    pub async fn leave(self) {
        let (cause_wait, clock) = (self.shared.with(|engine| engine.group.limits().cause_wait), &self.shared.clock);
        let said = clock.now();
        let mut patience = crate::net::Timer::new(clock.clone());
        let is_last = self.shared.is_last();
        if is_last {
            self.shared.with(Engine::say_goodbye);
        }
        let (mut open, left) = (Vec::new(), is_last.then_some(self.id));
        let visit = Visit::new(&self.shared);
        let is_stored = self.links().any(|link| link.path == Path::Store);
        let bound = if is_stored { STORED_WITHIN } else { FAILURE_BOUND };
        // Within a bound: nobody waits for a peer that stays, or a rendezvous that does not read.
        let mut until = said + cause_wait;
        std::future::poll_fn(|cx| {
            loop {
                let flushed = self.shared.with(|engine| engine.poll_leave(cx, visit.id, left, &mut open));
                if flushed.is_ready() || !patience.poll_until(cx, until) {
                    return flushed;
                }
                let now = clock.now();
                if now >= said + bound || !self.shared.with(|engine| engine.is_unacknowledged(&open)) {
                    return Poll::Ready(());
                }
                until = now + ACKNOWLEDGED_PAUSE;
            }
        })
        .await;
    }

    pub(crate) fn mark_formed(&self) {
        self.shared.with(Engine::mark_formed);
    }

    /// Makes progress until `at` without an operation: takes word of lost ranks, replaces relayed connections by direct
    /// ones where that is possible, and moves requests that own their memory. Operations do the same while they wait.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn progress_until(&self, at: Instant) {
        let mut timer = crate::net::Timer::new(self.shared.clock.clone());
        let visit = Visit::new(&self.shared);
        std::future::poll_fn(|cx| {
            self.shared.with(|engine| engine.poll_progress(cx, visit.id));
            if timer.poll_until(cx, at) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// How many ranks share this machine, as far as connections tell, and whether others are elsewhere.
    pub(crate) fn neighbours(&self) -> (u64, bool) {
        let is_here = |channel: &dyn Channel| {
            let (near, far) = channel.ends();
            near.is_some() && near.map(|near| near.ip()) == far.map(|far| far.ip())
        };
        self.shared.with(|engine| {
            let here = engine.channels().filter(|channel| is_here(*channel)).count();
            (here as u64 + 1, engine.channels().any(|channel| !is_here(channel)))
        })
    }

    fn error(&self, operation: Operation, kind: ErrorKind) -> Error {
        self.shared.error(operation, kind)
    }

    /// When an operation that is called now fails.
    fn until(&self) -> Until {
        self.shared.until(self.within)
    }

    /// The rank of that number. Refuses a call with a wrong one, which leaves the communicator as it is.
    fn checked_rank(&self, operation: Operation, name: &str, rank: u32) -> Result<Rank> {
        self.shared.members.rank(rank).ok_or_else(|| {
            let what = format!("{name} is {rank}, the group has {} ranks", self.size);
            self.error(operation, ErrorKind::InvalidArgument(what))
        })
    }
}

/// Something that waits for the engine's sources and is no operation.
struct Visit<'a> {
    shared: &'a Shared,
    id: OpId,
}

impl<'a> Visit<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self { shared, id: shared.with(Engine::visitor) }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.shared.with(|engine| engine.retire(self.id));
    }
}

impl<N: Net> Prepared<N> {
    /// Joins the group.
    ///
    /// # Errors
    /// As [`Communicator::connect`].
    ///
    /// # Cancel safety
    /// As [`Communicator::connect`].
    pub async fn join(self) -> Result<Communicator> {
        if self.is_alone() {
            let (config, clock) = self.into_parts();
            let deadline = clock.now() + config.join_deadline;
            let joined = Joined { links: vec![None], control: None, session: [0; 16], upgrade: None, lifeline: None };
            let comm = Communicator::assemble(&config, clock, joined);
            comm.join_barrier(deadline).await?;
            comm.mark_formed();
            return Ok(comm);
        }
        if let Some((net, config, store)) = self.store() {
            return Communicator::connect_by_store(net, &config, store).await;
        }
        let mut joiner = Joiner::new(self, Arc::new(meet));
        loop {
            let joined = joiner.next().await?;
            let comm = Communicator::assemble(joiner.config(), joiner.clock(), joined);
            match comm.join_barrier(joiner.deadline()).await {
                Ok(()) => {
                    comm.mark_formed();
                    let remarks = joiner.take_remarks();
                    for remark in &remarks {
                        tracing::info!(rank = comm.rank, %remark, advice = remark.advice(), "the network");
                    }
                    comm.shared.with(|engine| engine.remarks = remarks);
                    return Ok(comm);
                }
                Err(error) if comm.now() >= joiner.deadline() => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "group formation failed; registering again");
                    joiner.retry();
                }
            }
        }
    }
}

/// How a relayed pair meets later: as a group of two, whose link it takes.
fn meet<N: Net>(pair: Prepared<N>) -> BoxFuture<Result<Link>> {
    Box::pin(async move { Ok(pair.join().await?.into_link()) })
}

#[cfg(test)]
mod failures;
#[cfg(test)]
mod request_tests;
#[cfg(test)]
mod tests;

#[cfg(all(test, feature = "real"))]
mod alone_tests {
    use super::*;
    use crate::RealNet;

    fn is_send<T: Send>(_: &T) {}

    fn alone() -> Communicator {
        let config = Config::new(0, 1, "alone", "127.0.0.1:1");
        let joined = Joined { links: vec![None], control: None, session: [0; 16], upgrade: None, lifeline: None };
        Communicator::assemble(&config, Arc::new(RealNet::new()), joined)
    }

    /// Applications on runtimes with several threads move these futures between them.
    #[tokio::test]
    async fn futures_can_move_between_threads() {
        is_send(&Communicator::connect(RealNet::new(), &Config::new(0, 1, "alone", "127.0.0.1:1")));
        let comm = alone();
        is_send(&comm);
        let (send, mut receive) = ([1u8, 2], [0; 2]);
        let operation = comm.allreduce(&send, &mut receive, crate::op::Sum);
        is_send(&operation);
        operation.await.expect("a group of one needs nobody");
        is_send(&comm.barrier());
        is_send(&comm.recv(0, 0, &mut [0u8]));
        is_send(&comm.split(Some(0), 0));
        assert_eq!(receive, send);
    }

    #[tokio::test]
    async fn messages_to_itself_match_in_the_order_of_calls() {
        let comm = alone();
        let (mut first, mut second, mut long) = ([0u8; 1], [0u8; 1], [0u8; 3]);
        let any = comm.recv(Source::Any, Tag::Any, &mut first);
        comm.send(0, 5, &[1u8]).await.expect("room");
        comm.send(0, 6, &[2u8]).await.expect("room");
        comm.send(0, 5, &[3u8, 4, 5]).await.expect("room");
        let tagged = comm.recv(0, 6, &mut second);
        assert_eq!(tagged.await.expect("there").tag, 6);
        let status = any.await.expect("there");
        assert_eq!((status.source, status.tag, status.count), (0, 5, 1));
        let error = comm.recv(0, 5, &mut [0u8; 2]).await.expect_err("too long");
        assert!(matches!(error.kind(), ErrorKind::Truncated { message_bytes: 3, buffer_bytes: 2 }));
        assert_eq!(comm.probe(Source::Any, Tag::Any).await.expect("still there").count, 3);
        drop(comm.recv(0, 5, &mut [0u8; 3]));
        assert_eq!(comm.recv(0, 5, &mut long).await.expect("not lost").count, 3);
        assert_eq!((first, second, long), ([1], [2], [3, 4, 5]));
        let error = comm.recv(1, 5, &mut long).await.expect_err("no such rank").to_string();
        assert!(error.contains("the sender is 1, the group has 1 ranks"), "{error}");
    }
}
