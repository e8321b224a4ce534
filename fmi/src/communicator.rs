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
//! Futures of one communicator may be awaited in any order and by different tasks. What arrives for an
//! operation that nobody polls is put into the mailbox, which is bounded. A frame that was begun must be
//! sent whole, so a future that was polled and is neither polled again nor dropped holds up others that send to
//! the same rank, until their deadline.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::config::Config;
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::model::Fabric;
use crate::net::framed::Framed;
use crate::net::join::{self, Control};
use crate::net::lifeline::Lifeline;
use crate::net::link::{Attempt, Link, LinkInfo};
use crate::net::upgrade::Upgrade;
use crate::net::{Clock, Net};
use crate::proto::rendezvous::SessionId;
use crate::time::Instant;

mod call;
mod collective;
mod core;
mod execute;
mod group;
mod message;
mod persistent;
mod spin;
#[cfg(feature = "values")]
mod value;

pub use group::Group;
pub use message::{Message, Source, Status, Tag};
pub use persistent::Persistent;

use self::core::{Core, Shared};

/// Connected ranks. MPI 3.1 §6.
///
/// Collectives are called by all ranks, in the same order and with the same arguments; a disagreement is an
/// error on both sides that shows both views. Every operation ends by its deadline.
///
/// After an error of a collective the communicator is revoked, on all of its ranks: each further call fails at
/// once. An error of a point-to-point operation concerns that operation alone, but for a mismatch. Form a new
/// group to go on.
///
/// Communicators made of this one share its connections and limits.
pub struct Communicator {
    shared: Arc<Shared>,
    /// Its identity on the wire, 0 for the whole group.
    id: u64,
    rank: u32,
    size: u32,
    /// Ranks of the whole group; empty if they are the same.
    members: Arc<[u32]>,
}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Communicator").field("rank", &self.rank).field("size", &self.size).finish_non_exhaustive()
    }
}

/// What [`join`] hands over once every pair is connected.
pub(crate) struct Parts {
    pub(crate) links: Vec<Option<Link>>,
    pub(crate) control: Option<Control>,
    pub(crate) session: SessionId,
    pub(crate) upgrade: Option<Box<dyn Upgrade>>,
    pub(crate) lifeline: Option<Box<dyn Lifeline>>,
}

impl Communicator {
    /// Joins the group of `config`: meets the other ranks at the rendezvous, connects to each, and
    /// returns once every rank is connected to all that [`Config::peers`] names.
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
        join::Prepared::new(net, config).await?.join().await
    }

    pub(crate) fn assemble(config: &Config, clock: Arc<dyn Clock>, parts: Parts) -> Self {
        let shared = Shared::new(Core::new(config, clock, parts));
        Self { shared, id: 0, rank: config.rank, size: config.size, members: Arc::new([]) }
    }

    /// The only link of a group of two.
    pub(crate) fn into_link(self) -> Link {
        self.shared.with(|core| {
            core.links.iter_mut().find_map(Option::take).expect("the group has formed, so its link stands")
        })
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

    /// Sets the time for each operation that is called from now on, of all communicators of the group.
    pub fn set_deadline(&self, deadline: Duration) {
        self.shared.with(|core| core.limits.deadline = deadline);
    }

    /// How each peer is reached, in rank order.
    pub fn links(&self) -> impl Iterator<Item = LinkInfo> + use<> {
        let infos: Vec<LinkInfo> = self.shared.with(|core| {
            let links = core.links.iter().flatten().map(Link::info);
            links.filter_map(|info| self.rank_of(info.peer).map(|peer| LinkInfo { peer, ..info })).collect()
        });
        infos.into_iter()
    }

    /// What the group's network is taken for when algorithms are chosen; equal on all ranks.
    pub fn fabric(&self) -> Fabric {
        self.shared.with(|core| core.fabric)
    }

    /// Leaves the group in good order: what was sent arrives, as long as the peers read it. It waits for the peers to
    /// leave too, but not longer than [`Config::cause_wait`]. Dropping does not wait.
    ///
    /// # Cancel safety
    /// Dropping the future is like dropping the communicator.
    ///
    /// MPI 3.1 §8.7, MPI_Finalize.
    pub async fn leave(self) {
        let until = self.shared.with(|core| core.clock.now() + core.limits.cause_wait);
        let sleep = self.shared.clock.sleep_until(until);
        let is_last = Arc::strong_count(&self.shared) == 1;
        if is_last {
            self.shared.with(Core::say_goodbye);
        }
        let mut open = vec![true; self.shared.with(|core| core.links.len())];
        let flush = std::future::poll_fn(|cx| {
            self.shared.with(|core| {
                if let Some(control) = &mut core.control
                    && control.poll_flush(cx).is_pending()
                {
                    return Poll::Pending;
                }
                if !is_last {
                    return core.poll_flush_links(Attempt::Park(cx.waker()));
                }
                for (link, open) in core.links.iter_mut().zip(&mut open).filter(|(_, open)| **open) {
                    *open = link.as_mut().is_some_and(|link| link.poll_close(cx.waker()).is_pending());
                }
                if open.contains(&true) { Poll::Pending } else { Poll::Ready(()) }
            })
        });
        // Within a bound: nobody waits for a peer that stays, or a rendezvous that does not read.
        futures_util::future::select(std::pin::pin!(flush), sleep).await;
    }

    pub(crate) fn mark_formed(&self) {
        self.shared.with(Core::mark_formed);
    }

    /// Makes progress until `at` without an operation: takes word of lost ranks, and replaces relayed
    /// connections by direct ones where that is possible. Operations do the same while they wait.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn progress_until(&self, at: Instant) {
        let mut timer = crate::net::Timer::new(self.shared.clock.clone());
        std::future::poll_fn(|cx| {
            self.shared.with(|core| {
                core.poll_notices(cx);
                core.poll_upgrade(cx);
                let _ = core.poll_flush_links(Attempt::Park(cx.waker()));
            });
            if timer.poll_until(cx, at) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// How many ranks share this machine, as far as connections tell, and whether others are elsewhere.
    pub(crate) fn neighbours(&self) -> (u64, bool) {
        let is_here = |link: &Link| {
            let ip = |address: Option<std::net::SocketAddr>| address.map(|address| address.ip());
            let (near, far): (Option<IpAddr>, _) = (ip(link.local_addr()), ip(link.peer_addr()));
            near.is_some() && near == far
        };
        self.shared.with(|core| {
            let here = core.links.iter().flatten().filter(|link| is_here(link)).count();
            (here as u64 + 1, core.links.iter().flatten().any(|link| !is_here(link)))
        })
    }

    /// A rank of this communicator as a rank of the whole group.
    fn world(&self, rank: u32) -> u32 {
        self.members.get(rank as usize).copied().unwrap_or(rank)
    }

    fn rank_of(&self, world: u32) -> Option<u32> {
        if self.members.is_empty() {
            return Some(world);
        }
        self.members.iter().zip(0..).find(|(member, _)| **member == world).map(|(_, rank)| rank)
    }

    /// The rank here of a sender.
    fn local(&self, world: u32) -> u32 {
        self.rank_of(world).expect("only members send to a communicator")
    }

    fn error(&self, operation: Operation, kind: ErrorKind) -> Error {
        Error::new(operation, kind).on(self.rank)
    }

    /// Refuses a call with wrong arguments, which leaves the communicator as it is.
    fn check_rank(&self, operation: Operation, name: &str, rank: u32) -> Result<()> {
        if rank < self.size {
            return Ok(());
        }
        let what = format!("{name} is {rank}, the group has {} ranks", self.size);
        Err(self.error(operation, ErrorKind::InvalidArgument(what)))
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        self.shared.with(|core| core.forget(self.id));
    }
}

/// The control channel with its stream erased.
pub(crate) fn erase<S: crate::net::ByteStream>(framed: Framed<S>) -> Control {
    framed.map(|stream| Box::new(stream) as Box<dyn crate::net::ByteStream>)
}

#[cfg(all(test, feature = "real"))]
mod tests {
    use super::*;
    use crate::RealNet;

    fn is_send<T: Send>(_: &T) {}

    fn alone() -> Communicator {
        let config = Config::new(0, 1, "alone", "127.0.0.1:1");
        let parts = Parts { links: vec![None], control: None, session: [0; 16], upgrade: None, lifeline: None };
        Communicator::assemble(&config, Arc::new(RealNet::new()), parts)
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
