//! A group of ranks that can send to each other and compute together.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::config::Config;
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::net::framed::Framed;
use crate::net::join::{self, Control};
use crate::net::lifeline::Lifeline;
use crate::net::link::{Link, LinkInfo};
use crate::net::upgrade::Upgrade;
use crate::net::{Clock, Net};
use crate::proto::mailbox::Mailbox;
use crate::proto::rendezvous::{ClientMessage, ServerMessage, SessionId};
use crate::time::Instant;

mod collective;
mod execute;
mod message;

/// Connected ranks. MPI 3.1 §6.
///
/// Operations take `&mut self`: one at a time. Collectives are called by all ranks, in the same
/// order and with the same arguments; a disagreement is an error that shows both views. Every
/// operation ends by its deadline.
///
/// After an error the communicator is revoked: a partly sent frame cannot be taken back, so each
/// further call fails at once. Form a new group to go on.
///
/// # Cancel safety
/// Dropping the future of an operation before it is done revokes the communicator.
pub struct Communicator {
    rank: u32,
    size: u32,
    epoch: u32,
    links: Vec<Option<Link>>,
    control: Option<Control>,
    upgrade: Option<Box<dyn Upgrade>>,
    lifeline: Option<Box<dyn Lifeline>>,
    session: SessionId,
    formed: bool,
    clock: Arc<dyn Clock>,
    limits: Limits,
    mailbox: Mailbox,
    collectives: u64,
    sent: BTreeMap<u32, u64>,
    lost: Option<u32>,
    dissolved: bool,
    running: Option<Operation>,
    revoked: Option<String>,
}

/// What the configuration says of operations.
#[derive(Clone, Copy, Debug)]
struct Limits {
    deadline: Duration,
    cause_wait: Duration,
    frame_bytes_max: u64,
}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Communicator")
            .field("rank", &self.rank)
            .field("size", &self.size)
            .field("revoked", &self.revoked)
            .finish_non_exhaustive()
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
    /// let mut comm = fmi::Communicator::connect(fmi::RealNet::new(), &fmi::Config::from_env()?).await?;
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
        Self {
            rank: config.rank,
            size: config.size,
            epoch: 0,
            links: parts.links,
            control: parts.control,
            upgrade: parts.upgrade,
            lifeline: parts.lifeline,
            session: parts.session,
            formed: false,
            clock,
            limits: Limits {
                deadline: config.operation_deadline,
                cause_wait: config.cause_wait,
                frame_bytes_max: config.frame_bytes_max,
            },
            mailbox: Mailbox::new(config.mailbox_bytes_max),
            collectives: 0,
            sent: BTreeMap::new(),
            lost: None,
            dissolved: false,
            running: None,
            revoked: None,
        }
    }

    /// The only link of a group of two.
    pub(crate) fn into_link(mut self) -> Link {
        self.links.iter_mut().find_map(Option::take).expect("the group has formed, so its link stands")
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
        self.clock.now()
    }

    /// Sets the time for each operation from now on.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.limits.deadline = deadline;
    }

    /// How each peer is reached, in rank order.
    pub fn links(&self) -> impl Iterator<Item = LinkInfo> + '_ {
        self.links.iter().flatten().map(Link::info)
    }

    /// Leaves the group in good order. Dropping does the same without waiting for the last bytes.
    ///
    /// # Cancel safety
    /// Dropping the future is like dropping the communicator.
    pub async fn leave(mut self) {
        let until = self.clock.now() + self.limits.cause_wait;
        let clock = self.clock.clone();
        let sleep = clock.sleep_until(until);
        self.say_goodbye();
        let flush = std::future::poll_fn(|cx| match &mut self.control {
            Some(control) => control.poll_flush(cx).map(|_| ()),
            None => Poll::Ready(()),
        });
        // Best effort within a bound: nobody waits for a rendezvous that does not read.
        futures_util::future::select(std::pin::pin!(flush), sleep).await;
    }

    fn say_goodbye(&mut self) {
        if let Some(control) = &mut self.control
            && self.formed
        {
            control.queue(&ClientMessage::Leave(self.session).emit());
            self.formed = false;
        }
    }

    pub(crate) fn mark_formed(&mut self) {
        self.formed = true;
        self.links.iter().flatten().for_each(Link::settle);
        if let Some(control) = &mut self.control {
            control.queue(&ClientMessage::Formed(self.session).emit());
        }
        self.flush_control();
    }

    /// Sends what the control channel takes without waiting.
    fn flush_control(&mut self) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        if let Some(control) = &mut self.control
            && let Poll::Ready(Err(_)) = control.poll_flush(&mut cx)
        {
            self.control = None;
        }
    }

    /// Takes notices from the rendezvous; without one the group goes on.
    fn poll_notices(&mut self, cx: &mut Context<'_>) {
        if self.control.is_none()
            && self.formed
            && let Some(lifeline) = &mut self.lifeline
            && let Poll::Ready(control) = lifeline.poll(cx)
        {
            self.control = Some(control);
        }
        while let Some(control) = &mut self.control {
            let flushed = control.poll_flush(cx);
            match control.poll_receive(cx, ServerMessage::parse) {
                Poll::Ready(Ok(ServerMessage::Lost { session, rank })) if session == self.session => {
                    self.lost.get_or_insert(rank);
                }
                Poll::Ready(Ok(ServerMessage::Dissolved(session))) if session == self.session => {
                    self.dissolved = true;
                    self.control = None;
                }
                Poll::Ready(Ok(ServerMessage::Probe)) => control.queue(&ClientMessage::Ping.emit()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => self.control = None,
                Poll::Pending => {
                    if matches!(flushed, Poll::Ready(Err(_))) {
                        self.control = None;
                    }
                    return;
                }
            }
        }
    }

    /// Looks for direct connections in place of relayed ones.
    fn poll_upgrade(&mut self, cx: &mut Context<'_>) {
        while let Some(upgrade) = self.upgrade.as_mut().filter(|_| self.formed) {
            let Poll::Ready((peer, better)) = upgrade.poll(cx) else { return };
            tracing::info!(rank = self.rank, peer, technique = %better.info().technique, "no longer relayed");
            better.settle();
            if let Some(link) = self.links.get_mut(peer as usize).and_then(Option::as_mut) {
                link.switch_to(better);
                // Who waits for the peer's next frame may find it there.
                cx.waker().wake_by_ref();
            }
        }
    }

    /// Makes progress until `at` without an operation: takes word of lost ranks, and replaces relayed
    /// connections by direct ones where that is possible. Operations do the same while they wait.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn progress_until(&mut self, at: Instant) {
        let mut timer = crate::net::Timer::new(self.clock.clone());
        std::future::poll_fn(|cx| {
            self.poll_notices(cx);
            self.poll_upgrade(cx);
            if timer.poll_until(cx, at) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn link(&mut self, peer: u32) -> &mut Link {
        self.links[peer as usize].as_mut().expect("callers name other ranks of the group")
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

    fn check_other(&self, operation: Operation, name: &str, rank: u32) -> Result<()> {
        self.check_rank(operation, name, rank)?;
        let what = if rank == self.rank {
            format!("{name} is {rank}, which is this rank itself")
        } else if self.revoked.is_none() && self.links[rank as usize].is_none() {
            format!("there is no connection to rank {rank}: this group joined with `peers` for collectives only")
        } else {
            return Ok(());
        };
        Err(self.error(operation, ErrorKind::InvalidArgument(what)))
    }

    /// Whether an operation may begin.
    fn begin(&mut self, operation: Operation) -> Result<()> {
        if let Some(interrupted) = self.running {
            self.revoked.get_or_insert_with(|| format!("{interrupted} was cancelled before it was done"));
        }
        if let Some(cause) = &self.revoked {
            return Err(self.error(operation, ErrorKind::Revoked(cause.clone())));
        }
        self.running = Some(operation);
        Ok(())
    }

    fn end<T>(&mut self, result: Result<T>) -> Result<T> {
        self.running = None;
        if let Err(error) = &result {
            self.revoked = Some(error.to_string());
            // Connections end here, so that nobody waits for this rank.
            self.links.iter_mut().for_each(|link| *link = None);
            (self.upgrade, self.lifeline) = (None, None);
            self.say_goodbye();
            self.flush_control();
        }
        result
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        self.say_goodbye();
        self.flush_control();
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

    /// Applications on runtimes with several threads move these futures between them.
    #[tokio::test]
    async fn futures_can_move_between_threads() {
        let config = Config::new(0, 1, "alone", "127.0.0.1:1");
        is_send(&Communicator::connect(RealNet::new(), &config));
        let parts = Parts { links: vec![None], control: None, session: [0; 16], upgrade: None, lifeline: None };
        let mut comm = Communicator::assemble(&config, Arc::new(RealNet::new()), parts);
        let (send, mut receive) = ([1u8, 2], [0; 2]);
        let operation = comm.allreduce(&send, &mut receive, crate::op::Sum);
        is_send(&operation);
        operation.await.expect("a group of one needs nobody");
        is_send(&comm.barrier());
        is_send(&comm.recv(0, 0, &mut [0u8]));
        assert_eq!(receive, send);
    }
}
