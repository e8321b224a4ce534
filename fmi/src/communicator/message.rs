//! Point-to-point messages.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::channel::Mode;
use crate::communicator::Communicator;
use crate::datatype::{Element, code_of};
use crate::engine::Call;
use crate::engine::parcel::Parcel;
use crate::error::{Error, Operation, Result};
use crate::proto::frame::{Envelope, Kind};
use crate::proto::group::What;
use crate::proto::mailbox::Pattern;
use crate::proto::rank::{Rank, Slot};

/// From whom a message may come. A rank is one too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A rank of the communicator.
    Rank(u32),
    /// Any rank. MPI_ANY_SOURCE.
    Any,
}

impl From<u32> for Source {
    fn from(rank: u32) -> Self {
        Self::Rank(rank)
    }
}

/// What tag a message may have. A number is one too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// This one.
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
pub struct Status {
    /// Its sender.
    pub source: u32,
    /// Its tag.
    pub tag: u32,
    /// Its number of elements; of a probe, its number of bytes.
    pub count: usize,
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
    pub fn send<'a, T: Element>(
        &'a self,
        to: u32,
        tag: u32,
        data: &'a [T],
    ) -> impl Future<Output = Result<()>> + Send + Unpin + use<'a, T> {
        self.send_as(to, tag, code_of::<T>(), bytemuck::cast_slice(data))
    }

    pub(super) fn send_as<'a>(&'a self, to: u32, tag: u32, datatype: u32, data: &'a [u8]) -> Sending<'a> {
        let refused = |error| Sending { comm: self, data, state: SendState::Over(Some(Err(error))) };
        let to = match self.checked_rank(Operation::Send, "the receiver", to) {
            Ok(rank) => rank,
            Err(error) => return refused(error),
        };
        Sending { comm: self, data, state: self.begin_send(to, tag, datatype, data) }
    }

    fn begin_send(&self, to: Rank, tag: u32, datatype: u32, data: &[u8]) -> SendState {
        let peer = self.members.slot(to);
        self.shared.with(|engine| {
            if let Some(error) = engine.revocation(self.id, Operation::Send) {
                return SendState::Over(Some(Err(error)));
            }
            let envelope = Envelope {
                datatype,
                communicator: self.id,
                epoch: engine.group.epoch(self.id),
                root_or_tag: tag,
                sequence: engine.group.number_message(self.id, peer),
                length: data.len() as u64,
                elements: data.len() as u64,
                ..Envelope::new(Kind::Message)
            };
            if peer == engine.me {
                let sent = engine.group.send_to_self(envelope, data);
                let sent = sent.map_err(|failure| engine.error(self.id, Operation::Send, failure));
                return SendState::Over(Some(sent));
            }
            let mut call = match engine.post(self.id, Operation::Send, What::Send(peer), None) {
                Ok(call) => call,
                Err(error) => return SendState::Over(Some(Err(error))),
            };
            let mut parcel = Parcel::default();
            engine.announce(&call, &envelope);
            // Nobody waits yet: whoever polls it says so.
            let mode = Mode::Park(std::task::Waker::noop());
            match engine.poll_send_message(mode, &mut call, peer, (&envelope, data), &mut parcel) {
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
                    SendState::Running { call, peer, envelope, parcel }
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
    pub fn recv<'a, T: Element, S: Into<Source>, G: Into<Tag>>(
        &'a self,
        source: S,
        tag: G,
        buffer: &'a mut [T],
    ) -> impl Future<Output = Result<Status>> + Send + Unpin + use<'a, T, S, G> {
        let matching = self.matching(Operation::Receive, source.into(), tag.into());
        let (matching, buffer) = (Some(matching), Some(bytemuck::cast_slice_mut(buffer)));
        Receiving { matching, buffer, reading: None, datatype: code_of::<T>(), element_bytes: size_of::<T>() }
    }

    /// Receives the oldest message of `source` with `tag`, whatever its length, into new memory.
    ///
    /// # Errors
    /// As [`Communicator::recv`].
    ///
    /// # Cancel safety
    /// As [`Communicator::recv`].
    pub async fn recv_vec<T: Element>(
        &self,
        source: impl Into<Source>,
        tag: impl Into<Tag>,
    ) -> Result<(Vec<T>, Status)> {
        let message = self.matching(Operation::Receive, source.into(), tag.into()).await?;
        let mut buffer = vec![T::zeroed(); message.status.count.div_ceil(size_of::<T>())];
        let status = message.recv(&mut buffer).await?;
        Ok((buffer, status))
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
    pub fn sendrecv<'a, T: Element, S: Into<Source>>(
        &'a self,
        (to, data): (u32, &'a [T]),
        (source, buffer): (S, &'a mut [T]),
        tag: u32,
    ) -> impl Future<Output = Result<Status>> + Send + Unpin + use<'a, T, S> {
        let send = self.send(to, tag, data);
        let receive = self.recv(source, tag, buffer);
        let both = futures_util::future::try_join(send, receive);
        let as_one = |error: Error| error.of(Operation::SendReceive);
        futures_util::FutureExt::map(both, move |result| result.map(|((), status)| status).map_err(as_one))
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
    pub async fn probe(&self, source: impl Into<Source>, tag: impl Into<Tag>) -> Result<Status> {
        // Dropped unread, the message is free again, in its old place.
        Ok(self.matching(Operation::Probe, source.into(), tag.into()).await?.status)
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
    pub fn matched_probe<'a, S: Into<Source>, G: Into<Tag>>(
        &'a self,
        source: S,
        tag: G,
    ) -> impl Future<Output = Result<Message<'a>>> + Send + Unpin + use<'a, S, G> {
        self.matching(Operation::Probe, source.into(), tag.into())
    }

    fn matching(&self, operation: Operation, source: Source, tag: Tag) -> Matching<'_> {
        let refused = |error| Matching { comm: self, pattern: None, state: Match::Refused(Some(error)) };
        let source = match source {
            Source::Any => None,
            Source::Rank(rank) => match self.checked_rank(operation, "the sender", rank) {
                Ok(rank) => Some(self.members.slot(rank)),
                Err(error) => return refused(error),
            },
        };
        let tag = match tag {
            Tag::Any => None,
            Tag::Is(tag) => Some(tag),
        };
        let pattern = Pattern { communicator: self.id, source, tag };
        match self.shared.with(|engine| engine.post(self.id, operation, What::Receive(pattern), None)) {
            Ok(call) => Matching { comm: self, pattern: Some(pattern), state: Match::Waiting(call) },
            Err(error) => refused(error),
        }
    }
}

/// A message on its way out.
pub(super) struct Sending<'a> {
    comm: &'a Communicator,
    data: &'a [u8],
    state: SendState,
}

enum SendState {
    Running { call: Call, peer: Slot, envelope: Envelope, parcel: Parcel },
    Over(Option<Result<()>>),
}

impl Future for Sending<'_> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { comm, data, state } = &mut *self;
        let (call, peer, envelope, parcel) = match state {
            SendState::Running { call, peer, envelope, parcel } => (call, *peer, envelope, parcel),
            SendState::Over(result) => return Poll::Ready(result.take().expect("polled once after its end")),
        };
        let poll = comm
            .shared
            .drive(cx, call, |engine, call, mode| engine.poll_send_message(mode, call, peer, (envelope, data), parcel));
        if poll.is_ready() {
            self.end();
        }
        poll
    }
}

impl Sending<'_> {
    fn end(&mut self) {
        if let SendState::Running { call, peer, envelope, parcel } = &self.state {
            self.comm.shared.with(|engine| engine.give_up_send(call, *peer, envelope, self.data, *parcel));
            self.state = SendState::Over(None);
        }
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// A receive that waits for its message.
struct Matching<'a> {
    comm: &'a Communicator,
    pattern: Option<Pattern>,
    state: Match,
}

enum Match {
    Refused(Option<Error>),
    Waiting(Call),
    Over,
}

impl<'a> Future for Matching<'a> {
    type Output = Result<Message<'a>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Message<'a>>> {
        let this = &mut *self;
        let call = match &mut this.state {
            Match::Waiting(call) => call,
            Match::Refused(error) => return Poll::Ready(Err(error.take().expect("polled once after its end"))),
            Match::Over => panic!("polled after its end"),
        };
        let pattern = this.pattern.expect("it is not refused");
        let poll = this.comm.shared.drive(cx, call, |engine, call, mode| engine.poll_match(mode, call, &pattern));
        if poll.is_pending() {
            return Poll::Pending;
        }
        let Match::Waiting(call) = std::mem::replace(&mut this.state, Match::Over) else {
            panic!("just seen to wait");
        };
        match poll {
            Poll::Ready(Ok(matched)) => {
                let (peer, envelope) = (matched.peer, matched.envelope);
                let source = this.comm.members.rank_of(peer).expect("only members' messages match").get();
                let count = usize::try_from(envelope.elements).unwrap_or(usize::MAX);
                let status = Status { source, tag: envelope.root_or_tag, count };
                Poll::Ready(Ok(Message { comm: this.comm, call: Some(call), status }))
            }
            Poll::Ready(Err(error)) => {
                this.comm.shared.with(|engine| engine.release(&call, &[]));
                Poll::Ready(Err(error))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Matching<'_> {
    fn drop(&mut self) {
        if let Match::Waiting(call) = &self.state {
            self.comm.shared.with(|engine| engine.release(call, &[]));
        }
    }
}

/// A message that is there, or on its way, and belongs to whoever holds this. Dropped unread, it is free again.
/// MPI 3.1 §3.8.2, MPI_Message.
pub struct Message<'a> {
    comm: &'a Communicator,
    call: Option<Call>,
    status: Status,
}

impl std::fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message").field("status", &self.status).finish_non_exhaustive()
    }
}

impl<'a> Message<'a> {
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
    pub fn recv<'b, T: Element>(
        self,
        buffer: &'b mut [T],
    ) -> impl Future<Output = Result<Status>> + Send + Unpin + use<'a, 'b, T> {
        let (datatype, element_bytes) = (code_of::<T>(), size_of::<T>());
        Reading { message: self, datatype, element_bytes, buffer: bytemuck::cast_slice_mut(buffer), moved: 0 }
    }

    #[cfg(feature = "values")]
    pub(super) fn recv_as(self, datatype: u32, buffer: &mut [u8]) -> impl Future<Output = Result<Status>> {
        Reading { message: self, datatype, element_bytes: 1, buffer, moved: 0 }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        datatype: u32,
        element_bytes: usize,
        buffer: &mut [u8],
        moved: &mut usize,
    ) -> Poll<Result<Status>> {
        let Some(call) = &mut self.call else { panic!("polled after its end") };
        call.operation = Operation::Receive;
        let poll = self
            .comm
            .shared
            .drive(cx, call, |engine, call, mode| engine.poll_message(mode, call, datatype, buffer, moved));
        match std::task::ready!(poll) {
            Ok(()) => {
                if let Some(call) = self.call.take() {
                    self.comm.shared.with(|engine| engine.end(&call));
                }
                Poll::Ready(Ok(Status { count: self.status.count / element_bytes.max(1), ..self.status }))
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Ends it; what has been read of it goes back.
    fn release(&mut self, front: &[u8]) {
        if let Some(call) = self.call.take() {
            self.comm.shared.with(|engine| engine.release(&call, front));
        }
    }
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        self.release(&[]);
    }
}

/// A matched message on its way into a buffer.
struct Reading<'a, 'b> {
    message: Message<'a>,
    datatype: u32,
    element_bytes: usize,
    buffer: &'b mut [u8],
    moved: usize,
}

impl Future for Reading<'_, '_> {
    type Output = Result<Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Status>> {
        let Self { message, datatype, element_bytes, buffer, moved } = &mut *self;
        message.poll_read(cx, *datatype, *element_bytes, buffer, moved)
    }
}

impl Drop for Reading<'_, '_> {
    fn drop(&mut self) {
        self.message.release(&self.buffer[..self.moved]);
    }
}

/// A receive: a match, then its reading.
struct Receiving<'a> {
    matching: Option<Matching<'a>>,
    buffer: Option<&'a mut [u8]>,
    reading: Option<Reading<'a, 'a>>,
    datatype: u32,
    element_bytes: usize,
}

impl Future for Receiving<'_> {
    type Output = Result<Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Status>> {
        let this = &mut *self;
        if let Some(matching) = &mut this.matching {
            let message = std::task::ready!(Pin::new(matching).poll(cx))?;
            this.matching = None;
            let buffer = this.buffer.take().expect("given with the call");
            let (datatype, element_bytes) = (this.datatype, this.element_bytes);
            this.reading = Some(Reading { message, datatype, element_bytes, buffer, moved: 0 });
        }
        Pin::new(this.reading.as_mut().expect("there is a message")).poll(cx)
    }
}
