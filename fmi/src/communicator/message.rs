//! Point-to-point messages.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::channel::Mode;
use crate::communicator::Communicator;
use crate::communicator::base::Base;
use crate::communicator::payload::{Data, Payload};
use crate::datatype::{Datatype, Element, code_of};
use crate::engine::owned::Outbound;
use crate::engine::parcel::{Parcel, Room};
use crate::engine::{Call, Engine};
use crate::error::{Error, Operation, Result};
use crate::proto::frame::{Envelope, Kind};
use crate::proto::group::{Matched, What};
use crate::proto::mailbox::Pattern;
use crate::proto::rank::{Rank, Slot};

/// Whom a message goes to. A rank is one, and so is none: at the edge of a grid, for instance, where there is no
/// neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Destination {
    /// A rank of the communicator.
    Rank(u32),
    /// Nobody: what is sent there is gone, and done at once. MPI_PROC_NULL.
    Nobody,
}

impl From<u32> for Destination {
    fn from(rank: u32) -> Self {
        Self::Rank(rank)
    }
}

impl From<Option<u32>> for Destination {
    fn from(rank: Option<u32>) -> Self {
        rank.map_or(Self::Nobody, Self::Rank)
    }
}

/// From whom a message may come. A rank is one, and so is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// A rank of the communicator.
    Rank(u32),
    /// Any rank. MPI_ANY_SOURCE.
    Any,
    /// Nobody: a receive from there is done at once, with [`Status::NOBODY`], and leaves its buffer as it was.
    /// MPI_PROC_NULL.
    Nobody,
}

impl From<Option<u32>> for Source {
    fn from(rank: Option<u32>) -> Self {
        rank.map_or(Self::Nobody, Self::Rank)
    }
}

impl From<u32> for Source {
    fn from(rank: u32) -> Self {
        Self::Rank(rank)
    }
}

/// What tag a message may have. A number is one too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tag {
    /// This tag alone.
    Is(u32),
    /// Any tag. MPI_ANY_TAG.
    Any,
}

impl From<u32> for Tag {
    fn from(tag: u32) -> Self {
        Self::Is(tag)
    }
}

/// What is known of a message. MPI 3.1 §3.2.5, MPI_Status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Rank of its sender in the communicator.
    pub source: u32,
    /// The tag that it was sent with.
    pub tag: u32,
    /// Its number of elements; of a probe, its number of bytes.
    pub count: usize,
}

impl Status {
    /// That of a receive from [`Source::Nobody`]: no rank and no tag, which are `u32::MAX` here, and no elements.
    pub const NOBODY: Self = Self { source: u32::MAX, tag: u32::MAX, count: 0 };

    /// That of a message, with its length in bytes.
    pub(super) fn of(base: &Base, matched: &Matched) -> Self {
        let source = base.members.rank_of(matched.peer).expect("only members' messages match").get();
        let count = usize::try_from(matched.envelope.elements).unwrap_or(usize::MAX);
        Self { source, tag: matched.envelope.root_or_tag, count }
    }
}

impl Communicator {
    /// Sends `data` to rank `to`. The future is done once the bytes are handed to the network, not once they
    /// are received.
    ///
    /// The message has its place among the others to that rank from the moment of the call, and a short one is
    /// usually on its way when the call returns. A message to this rank itself is copied.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) if `to` is outside the group, which changes nothing;
    /// [`ErrorKind::MailboxFull`](crate::ErrorKind::MailboxFull) for a message to this rank itself; [`ErrorKind::PeerLost`](crate::ErrorKind::PeerLost),
    /// [`ErrorKind::Deadline`](crate::ErrorKind::Deadline), [`ErrorKind::Revoked`](crate::ErrorKind::Revoked).
    ///
    /// # Cancel safety
    /// If the future is dropped, the message is either sent whole, perhaps by later operations, or not at all.
    ///
    /// MPI 3.1 §3.2.1, MPI_Send; §3.7.2, MPI_Isend.
    pub fn send<'a, T: Element>(&self, to: impl Into<Destination>, tag: u32, data: &'a [T]) -> SendRequest<'a> {
        self.send_as(to.into(), tag, code_of::<T>(), Data::Lent(bytemuck::cast_slice(data)))
    }

    /// As [`Communicator::send`] of data that the request owns: a `Vec`, an `Arc` or a `Box` of elements, or
    /// [`Bytes`](bytes::Bytes), none of which is copied. So the request can be kept and moved with no lifetime, and
    /// forgetting it leaks the data and no more.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fmi::Result<()> {
    /// use fmi::request::SendRequest;
    ///
    /// struct Outbox(Vec<SendRequest<'static>>);
    ///
    /// let comm = fmi::Communicator::local(fmi::RealNet::new(), 1).remove(0);
    /// let mut outbox = Outbox(Vec::new());
    /// outbox.0.push(comm.send_owned(0, 1, vec![0.5, 1.5]));
    /// let (got, _) = comm.recv_vec::<f64>(0, 1).await?;
    /// assert_eq!(got, [0.5, 1.5]);
    /// fmi::request::wait_all(outbox.0).await.into_iter().collect()
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Communicator::send`].
    ///
    /// # Cancel safety
    /// As [`Communicator::send`].
    ///
    /// MPI 3.1 §3.7.2, MPI_Isend.
    pub fn send_owned(&self, to: impl Into<Destination>, tag: u32, data: impl Into<Payload>) -> SendRequest<'static> {
        let Payload { bytes, datatype } = data.into();
        self.send_as(to.into(), tag, datatype, Data::Owned(bytes))
    }

    pub(super) fn send_as<'a>(&self, to: Destination, tag: u32, datatype: u32, data: Data<'a>) -> SendRequest<'a> {
        let state = match self.checked_destination(Operation::Send, to) {
            Ok(Some(rank)) => self.begin_send(rank, tag, datatype, &data),
            Ok(None) => SendState::Over(Some(Ok(()))),
            Err(error) => SendState::Over(Some(Err(error))),
        };
        SendRequest { base: self.shared.clone(), data, state }
    }

    /// The rank that a message goes to, if it goes to one.
    pub(super) fn checked_destination(&self, operation: Operation, to: Destination) -> Result<Option<Rank>> {
        match to {
            Destination::Rank(rank) => self.checked_rank(operation, "the receiver", rank).map(Some),
            Destination::Nobody => Ok(None),
        }
    }

    /// The envelope of the next message to `peer`, of `length` bytes.
    pub(super) fn next_message(
        &self,
        engine: &mut Engine,
        peer: Slot,
        tag: u32,
        datatype: u32,
        length: usize,
    ) -> Envelope {
        Envelope {
            datatype,
            communicator: self.id,
            epoch: engine.group.epoch(self.id),
            root_or_tag: tag,
            sequence: engine.group.number_message(self.id, peer),
            length: length as u64,
            elements: length as u64,
            ..Envelope::new(Kind::Message)
        }
    }

    fn begin_send(&self, to: Rank, tag: u32, datatype: u32, data: &Data<'_>) -> SendState {
        let peer = self.shared.members.slot(to);
        self.shared.with(|engine| {
            if let Some(error) = engine.revocation(self.id, Operation::Send) {
                return SendState::Over(Some(Err(error)));
            }
            let envelope = self.next_message(engine, peer, tag, datatype, data.len());
            if peer == engine.me {
                let sent = engine.group.send_to_self(envelope, data);
                let sent = sent.map_err(|failure| engine.error(self.id, Operation::Send, failure));
                return SendState::Over(Some(sent));
            }
            let mut call = match engine.post(self.id, Operation::Send, What::Send(peer), self.until()) {
                Ok(call) => call,
                Err(error) => return SendState::Over(Some(Err(error))),
            };
            let mut parcel = Parcel::default();
            engine.announce(&call, &envelope);
            // Nobody waits yet: whoever polls it says so.
            match engine.poll_send_message(Mode::Try, &mut call, peer, (&envelope, data), &mut parcel) {
                Poll::Ready(Ok(())) => {
                    engine.end(&call);
                    SendState::Over(Some(Ok(())))
                }
                Poll::Ready(Err(error)) => {
                    engine.give_up_send(&call, peer, &envelope, data, parcel);
                    SendState::Over(Some(Err(error)))
                }
                Poll::Pending => {
                    engine.copy_send(&call, peer, (&envelope, data), &mut parcel);
                    match data {
                        Data::Owned(data) if !parcel.is_copied() => {
                            let send = Outbound { peer, envelope, data: data.clone(), parcel };
                            engine.start_send(&call, send);
                            SendState::TakenOver(call)
                        }
                        Data::Owned(_) | Data::Lent(_) => SendState::Running { call, peer, envelope, parcel },
                    }
                }
            }
        })
    }

    /// Receives the oldest message of `source` with `tag` into the front of `buffer`.
    ///
    /// Among receives that fit a message, the one that was called first gets it.
    ///
    /// # Errors
    /// As [`Communicator::send`]; [`ErrorKind::Truncated`](crate::ErrorKind::Truncated) if the message is longer than the buffer, in which
    /// case it can be received again with a longer one; [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) if its elements are of another
    /// type, which ends the communicator.
    ///
    /// # Cancel safety
    /// If the future is dropped, no message is lost: the next receive that fits gets it.
    ///
    /// MPI 3.1 §3.2.4, MPI_Recv; §3.7.2, MPI_Irecv.
    pub fn recv<'a, T: Element>(
        &self,
        source: impl Into<Source>,
        tag: impl Into<Tag>,
        buffer: &'a mut [T],
    ) -> RecvRequest<'a> {
        self.recv_as(source.into(), tag.into(), Datatype::of::<T>(), bytemuck::cast_slice_mut(buffer))
    }

    pub(super) fn recv_as<'a>(
        &self,
        source: Source,
        tag: Tag,
        datatype: Datatype,
        buffer: &'a mut [u8],
    ) -> RecvRequest<'a> {
        let state = match self.post_receive(Operation::Receive, source, tag) {
            Ok(Some((call, pattern))) => Recv::Running { call, pattern },
            Ok(None) => Recv::Over(Some(Ok(Status::NOBODY))),
            Err(error) => Recv::Over(Some(Err(error))),
        };
        let (datatype, element_bytes) = (datatype.code(), datatype.bytes());
        RecvRequest { base: self.shared.clone(), state, datatype, element_bytes, buffer, moved: 0 }
    }

    /// Sends `data` to `to` and receives from `source`, both at once, so that rings and exchanges do
    /// not deadlock.
    ///
    /// # Errors
    /// As [`Communicator::send`] and [`Communicator::recv`].
    ///
    /// # Cancel safety
    /// As both.
    ///
    /// MPI 3.1 §3.10, MPI_Sendrecv.
    pub fn sendrecv<'a, T: Element>(
        &self,
        (to, data): (impl Into<Destination>, &'a [T]),
        (source, buffer): (impl Into<Source>, &'a mut [T]),
        tag: u32,
    ) -> SendRecvRequest<'a> {
        SendRecvRequest::of(self.send(to, tag, data), self.recv(source, tag, buffer))
    }

    /// As [`Communicator::sendrecv`] with one buffer, which is copied once: what it holds is sent, and what comes takes its
    /// place.
    ///
    /// # Errors
    /// As [`Communicator::sendrecv`].
    ///
    /// # Cancel safety
    /// As both.
    ///
    /// MPI 4.1 §3.10, MPI_Sendrecv_replace.
    pub fn sendrecv_replace<'a, T: Element>(
        &self,
        buffer: &'a mut [T],
        to: impl Into<Destination>,
        source: impl Into<Source>,
        tag: u32,
    ) -> SendRecvRequest<'a> {
        SendRecvRequest::of(self.send_owned(to, tag, buffer.to_vec()), self.recv(source, tag, buffer))
    }

    /// Waits for a message that a receive with the same arguments would get, and leaves it where it is. `count`
    /// is its length in bytes.
    ///
    /// # Errors
    /// As [`Communicator::recv`], but no mismatch.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    ///
    /// MPI 3.1 §3.8.1, MPI_Probe.
    pub fn probe(&self, source: impl Into<Source>, tag: impl Into<Tag>) -> ProbeRequest {
        ProbeRequest(self.matching(Operation::Probe, source.into(), tag.into()))
    }

    /// As [`Communicator::probe`], but takes the message, so that no other receive gets it.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(comm: &fmi::Communicator) -> fmi::Result<()> {
    /// use fmi::{Source, Tag};
    ///
    /// let message = comm.matched_probe(Source::Any, Tag::Any).await?;
    /// let mut buffer = vec![0u8; message.status().count];
    /// message.recv(&mut buffer).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Communicator::probe`].
    ///
    /// # Cancel safety
    /// As [`Communicator::probe`].
    ///
    /// MPI 3.1 §3.8.2, MPI_Mprobe.
    pub fn matched_probe(&self, source: impl Into<Source>, tag: impl Into<Tag>) -> MatchRequest {
        self.matching(Operation::Probe, source.into(), tag.into())
    }

    pub(super) fn matching(&self, operation: Operation, source: Source, tag: Tag) -> MatchRequest {
        let base = self.shared.clone();
        match self.post_receive(operation, source, tag) {
            Ok(Some((call, pattern))) => MatchRequest { base, pattern: Some(pattern), state: Match::Waiting(call) },
            Ok(None) => MatchRequest { base, pattern: None, state: Match::Nobody },
            Err(error) => MatchRequest { base, pattern: None, state: Match::Refused(Some(error)) },
        }
    }

    /// Registers a receive or a probe; `None` if it is from nobody.
    pub(super) fn post_receive(
        &self,
        operation: Operation,
        source: Source,
        tag: Tag,
    ) -> Result<Option<(Call, Pattern)>> {
        let source = match source {
            Source::Any => None,
            Source::Nobody => return Ok(None),
            Source::Rank(rank) => {
                let rank = self.checked_rank(operation, "the sender", rank)?;
                Some(self.shared.members.slot(rank))
            }
        };
        let tag = match tag {
            Tag::Any => None,
            Tag::Is(tag) => Some(tag),
        };
        let pattern = Pattern { communicator: self.id, source, tag };
        let until = self.until();
        self.shared.with(|engine| {
            let call = engine.post(self.id, operation, What::Receive(pattern), until)?;
            if operation == Operation::Receive {
                engine.group.take(call.id);
            }
            Ok(Some((call, pattern)))
        })
    }
}

/// A message on its way out. MPI 3.1 §3.7.2, the request of MPI_Isend.
#[must_use = "a request makes progress when it is polled, and what is dropped may not be sent"]
pub struct SendRequest<'a> {
    base: Arc<Base>,
    data: Data<'a>,
    state: SendState,
}

enum SendState {
    Running {
        call: Call,
        peer: Slot,
        envelope: Envelope,
        parcel: Parcel,
    },
    /// The engine has its data, and moves it.
    TakenOver(Call),
    Over(Option<Result<()>>),
}

impl Future for SendRequest<'_> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { base, data, state } = &mut *self;
        let (call, peer, envelope, parcel) = match state {
            SendState::Running { call, peer, envelope, parcel } => (call, *peer, envelope, parcel),
            SendState::TakenOver(call) => {
                let result = std::task::ready!(base.drive(cx, call, |engine, call, mode| engine.poll_sent(mode, call)));
                match &result {
                    Ok(()) => self.state = SendState::Over(None),
                    // It may still be there: an error may come before it is looked at.
                    Err(_) => self.end(),
                }
                return Poll::Ready(result);
            }
            SendState::Over(result) => return Poll::Ready(result.take().expect("polled once after its end")),
        };
        let poll = base
            .drive(cx, call, |engine, call, mode| engine.poll_send_message(mode, call, peer, (envelope, data), parcel));
        if poll.is_ready() {
            self.end();
        }
        poll
    }
}

impl SendRequest<'_> {
    /// A send that cannot be.
    #[cfg(feature = "values")]
    pub(super) fn refused(comm: &Communicator, error: Error) -> Self {
        Self { base: comm.shared.clone(), data: Data::Lent(&[]), state: SendState::Over(Some(Err(error))) }
    }

    fn end(&mut self) {
        match std::mem::replace(&mut self.state, SendState::Over(None)) {
            SendState::Running { call, peer, envelope, parcel } => {
                self.base.with(|engine| engine.give_up_send(&call, peer, &envelope, &self.data, parcel));
            }
            SendState::TakenOver(call) => self.base.with(|engine| engine.cancel_task(&call, None)),
            over @ SendState::Over(_) => self.state = over,
        }
    }
}

impl Drop for SendRequest<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// A wait for a message, which whoever waits gets. The request of [`Communicator::matched_probe`].
#[must_use = "a request makes progress when it is polled"]
pub struct MatchRequest {
    base: Arc<Base>,
    pattern: Option<Pattern>,
    state: Match,
}

enum Match {
    Refused(Option<Error>),
    Nobody,
    Waiting(Call),
    Over,
}

impl Future for MatchRequest {
    type Output = Result<Message>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Message>> {
        let this = &mut *self;
        let call = match &mut this.state {
            Match::Waiting(call) => call,
            Match::Refused(error) => return Poll::Ready(Err(error.take().expect("polled once after its end"))),
            Match::Nobody => {
                this.state = Match::Over;
                let message = Message { base: this.base.clone(), call: None, status: Status::NOBODY };
                return Poll::Ready(Ok(message));
            }
            Match::Over => panic!("polled after its end"),
        };
        let pattern = this.pattern.expect("it waits for something");
        let poll = this.base.drive(cx, call, |engine, call, mode| engine.poll_match(mode, call, &pattern));
        if poll.is_pending() {
            return Poll::Pending;
        }
        let Match::Waiting(call) = std::mem::replace(&mut this.state, Match::Over) else {
            panic!("just seen to wait");
        };
        match poll {
            Poll::Ready(Ok(matched)) => {
                let status = Status::of(&this.base, &matched);
                Poll::Ready(Ok(Message { base: this.base.clone(), call: Some(call), status }))
            }
            Poll::Ready(Err(error)) => {
                this.base.with(|engine| engine.release(&call, &[]));
                Poll::Ready(Err(error))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for MatchRequest {
    fn drop(&mut self) {
        if let Match::Waiting(call) = &self.state {
            self.base.with(|engine| engine.release(call, &[]));
        }
    }
}

/// A message that is there, or on its way, and belongs to whoever holds this. Dropped unread, it is free again.
/// MPI 3.1 §3.8.2, MPI_Message.
pub struct Message {
    base: Arc<Base>,
    call: Option<Call>,
    status: Status,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Message {
    /// Its sender, its tag and its length in bytes.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Receives it into the front of `buffer`.
    ///
    /// # Errors
    /// As [`Communicator::recv`].
    ///
    /// # Cancel safety
    /// As [`Communicator::recv`].
    ///
    /// MPI 3.1 §3.8.3, MPI_Mrecv.
    pub fn recv<T: Element>(self, buffer: &mut [T]) -> ReadRequest<'_> {
        let (datatype, element_bytes) = (code_of::<T>(), size_of::<T>());
        ReadRequest { message: self, datatype, element_bytes, buffer: bytemuck::cast_slice_mut(buffer), moved: 0 }
    }

    #[cfg(feature = "values")]
    pub(super) fn recv_as(self, datatype: u32, buffer: &mut [u8]) -> ReadRequest<'_> {
        ReadRequest { message: self, datatype, element_bytes: 1, buffer, moved: 0 }
    }

    pub(super) fn poll_read<R: Room + ?Sized>(
        &mut self,
        cx: &mut Context<'_>,
        datatype: u32,
        element_bytes: usize,
        buffer: &mut R,
        moved: &mut usize,
    ) -> Poll<Result<Status>> {
        if self.status == Status::NOBODY {
            return Poll::Ready(Ok(self.status));
        }
        let Some(call) = &mut self.call else { panic!("polled after its end") };
        call.operation = Operation::Receive;
        let poll = self.base.drive(cx, call, |engine, call, mode| {
            engine.group.take(call.id);
            engine.poll_message(mode, call, datatype, buffer, moved)
        });
        match std::task::ready!(poll) {
            Ok(()) => {
                if let Some(call) = self.call.take() {
                    self.base.with(|engine| engine.end(&call));
                }
                Poll::Ready(Ok(Status { count: self.status.count / element_bytes.max(1), ..self.status }))
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Ends it; what has been read of it goes back.
    pub(super) fn release(&mut self, front: &[u8]) {
        if let Some(call) = self.call.take() {
            self.base.with(|engine| engine.release(&call, front));
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        self.release(&[]);
    }
}

/// A message that was found, on its way into a buffer. The request of [`Message::recv`].
#[must_use = "a request makes progress when it is polled"]
pub struct ReadRequest<'a> {
    message: Message,
    datatype: u32,
    element_bytes: usize,
    buffer: &'a mut [u8],
    moved: usize,
}

impl Future for ReadRequest<'_> {
    type Output = Result<Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Status>> {
        let Self { message, datatype, element_bytes, buffer, moved } = &mut *self;
        message.poll_read(cx, *datatype, *element_bytes, &mut **buffer, moved)
    }
}

impl Drop for ReadRequest<'_> {
    fn drop(&mut self) {
        self.message.release(&self.buffer[..self.moved]);
    }
}

/// A receive. MPI 3.1 §3.7.2, the request of MPI_Irecv.
#[must_use = "a request makes progress when it is polled"]
pub struct RecvRequest<'a> {
    base: Arc<Base>,
    state: Recv,
    datatype: u32,
    element_bytes: usize,
    buffer: &'a mut [u8],
    moved: usize,
}

enum Recv {
    Running { call: Call, pattern: Pattern },
    Over(Option<Result<Status>>),
}

impl Future for RecvRequest<'_> {
    type Output = Result<Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Status>> {
        let Self { base, state, datatype, buffer, moved, .. } = &mut *self;
        let (call, pattern) = match state {
            Recv::Running { call, pattern } => (call, *pattern),
            Recv::Over(result) => return Poll::Ready(result.take().expect("polled once after its end")),
        };
        let poll = base.drive(cx, call, |engine, call, mode| {
            let matched = std::task::ready!(engine.poll_match(mode, call, &pattern))?;
            std::task::ready!(engine.poll_message(mode, call, *datatype, &mut **buffer, moved))?;
            engine.end(call);
            Poll::Ready(Ok(matched))
        });
        match std::task::ready!(poll) {
            Ok(matched) => {
                self.state = Recv::Over(None);
                let status = Status::of(&self.base, &matched);
                Poll::Ready(Ok(Status { count: status.count / self.element_bytes.max(1), ..status }))
            }
            Err(error) => {
                self.end();
                Poll::Ready(Err(error))
            }
        }
    }
}
impl RecvRequest<'_> {
    /// Ends it early; what has been read of its message goes back.
    fn end(&mut self) {
        if let Recv::Running { call, .. } = &self.state {
            self.base.with(|engine| engine.release(call, &self.buffer[..self.moved]));
            self.state = Recv::Over(None);
        }
    }
}

impl Drop for RecvRequest<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// A send and a receive at once. MPI 3.1 §3.10, MPI_Sendrecv; MPI 4.1 §3.10, MPI_Isendrecv.
#[must_use = "a request makes progress when it is polled"]
pub struct SendRecvRequest<'a> {
    parts: Option<(SendRequest<'a>, RecvRequest<'a>)>,
    is_sent: bool,
    status: Option<Status>,
}

impl<'a> SendRecvRequest<'a> {
    pub(super) fn of(send: SendRequest<'a>, receive: RecvRequest<'a>) -> Self {
        Self { parts: Some((send, receive)), is_sent: false, status: None }
    }
}

impl SendRecvRequest<'_> {
    fn poll_parts(&mut self, cx: &mut Context<'_>) -> Poll<Result<Status>> {
        let (send, receive) = self.parts.as_mut().expect("polled once after its end");
        if !self.is_sent {
            self.is_sent = Pin::new(send).poll(cx)?.is_ready();
        }
        if self.status.is_none()
            && let Poll::Ready(status) = Pin::new(receive).poll(cx)?
        {
            self.status = Some(status);
        }
        match self.status {
            Some(status) if self.is_sent => Poll::Ready(Ok(status)),
            _ => Poll::Pending,
        }
    }
}

impl Future for SendRecvRequest<'_> {
    type Output = Result<Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Status>> {
        let result = std::task::ready!(self.poll_parts(cx));
        // What one of them leaves after an error of the other is given up.
        self.parts = None;
        Poll::Ready(result.map_err(|error| error.of(Operation::SendReceive)))
    }
}

/// A wait for a message, which stays where it is. The request of [`Communicator::probe`].
#[must_use = "a request makes progress when it is polled"]
pub struct ProbeRequest(MatchRequest);

impl Future for ProbeRequest {
    type Output = Result<Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Status>> {
        // Dropped unread, the message is free again, in its old place.
        Pin::new(&mut self.0).poll(cx).map_ok(|message| message.status)
    }
}

/// Requests say what they are, and nothing of the data.
macro_rules! debug_by_name {
    ($($type:ident $(<$lifetime:lifetime>)?),+) => {
        $(
            impl fmt::Debug for $type $(<$lifetime>)? {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.debug_struct(stringify!($type)).finish_non_exhaustive()
                }
            }
        )+
    };
}

debug_by_name!(SendRequest<'_>, MatchRequest, ReadRequest<'_>, RecvRequest<'_>, SendRecvRequest<'_>, ProbeRequest);
