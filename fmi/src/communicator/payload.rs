//! Messages whose memory belongs to their request.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::communicator::Communicator;
use crate::communicator::base::Base;
use crate::communicator::message::{Source, Status, Tag};
use crate::datatype::{Element, code_of};
use crate::engine::Call;
use crate::engine::owned::Inbound;
use crate::error::{Operation, Result};

/// Elements that a send owns, made of a `Vec`, `Box` or `Arc` of them or of [`Bytes`] without a copy. For
/// [`Communicator::send_owned`].
#[derive(Clone)]
pub struct Payload {
    /// Shared, so that whoever sends it may keep it longer than the request.
    pub(super) bytes: Bytes,
    pub(super) datatype: u32,
}

impl Payload {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn owning<T: Element>(owner: impl AsRef<[T]> + Send + 'static) -> Self {
        let elements = Elements { owner, element: std::marker::PhantomData };
        Self { bytes: Bytes::from_owner(elements), datatype: code_of::<T>() }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// Memory with elements, seen as bytes.
struct Elements<O, T> {
    owner: O,
    element: std::marker::PhantomData<fn() -> T>,
}

impl<O: AsRef<[T]>, T: Element> AsRef<[u8]> for Elements<O, T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(self.owner.as_ref())
    }
}

impl<T: Element> From<Vec<T>> for Payload {
    fn from(elements: Vec<T>) -> Self {
        Self::owning(elements)
    }
}

impl<T: Element> From<Box<[T]>> for Payload {
    fn from(elements: Box<[T]>) -> Self {
        Self::owning(elements)
    }
}

impl<T: Element> From<Arc<[T]>> for Payload {
    fn from(elements: Arc<[T]>) -> Self {
        Self::owning(elements)
    }
}

impl<T: Element> From<Arc<Vec<T>>> for Payload {
    fn from(elements: Arc<Vec<T>>) -> Self {
        Self::owning(Shared(elements))
    }
}

/// An `Arc` of a vector, as memory with elements.
struct Shared<T>(Arc<Vec<T>>);

impl<T> AsRef<[T]> for Shared<T> {
    fn as_ref(&self) -> &[T] {
        &self.0
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, datatype: code_of::<u8>() }
    }
}

/// The data of a send.
pub(super) enum Data<'a> {
    /// The caller's, until the request ends.
    Lent(&'a [u8]),
    /// The request's. A clone of it may outlive the request.
    Owned(Bytes),
}

impl Deref for Data<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Lent(data) => data,
            Self::Owned(data) => data,
        }
    }
}

impl Communicator {
    /// Receives the oldest message of `source` with `tag`, whatever its length, into new memory.
    /// The request borrows nothing.
    ///
    /// # Errors
    /// As [`Communicator::recv`].
    ///
    /// # Cancel safety
    /// As [`Communicator::recv`].
    ///
    /// MPI 3.1 §3.8.2, MPI_Mprobe and MPI_Mrecv.
    pub fn recv_vec<T: Element>(&self, source: impl Into<Source>, tag: impl Into<Tag>) -> RecvVecRequest<T> {
        self.recv_owned(source, tag, Vec::new())
    }

    /// As [`Communicator::recv_vec`] into the memory of `buffer`, which is cleared, grown if the message is longer, and
    /// given back with the message.
    ///
    /// # Errors
    /// As [`Communicator::recv`]. The memory is freed.
    ///
    /// # Cancel safety
    /// As [`Communicator::recv`].
    pub fn recv_owned<T: Element>(
        &self,
        source: impl Into<Source>,
        tag: impl Into<Tag>,
        mut buffer: Vec<T>,
    ) -> RecvVecRequest<T> {
        let base = self.shared.clone();
        let state = match self.post_receive(Operation::Receive, source.into(), tag.into()) {
            Ok(Some((call, pattern))) => {
                base.with(|engine| engine.start_receive(&call, Inbound::new(pattern, buffer)));
                RecvVec::TakenOver(call)
            }
            Ok(None) => {
                buffer.clear();
                RecvVec::Over(Some(Ok((buffer, Status::NOBODY))))
            }
            Err(error) => RecvVec::Over(Some(Err(error))),
        };
        RecvVecRequest { base, state }
    }
}

/// A receive into memory of its own. The request of [`Communicator::recv_vec`] and [`Communicator::recv_owned`].
#[must_use = "a dropped request leaves its message to others"]
pub struct RecvVecRequest<T: Element> {
    base: Arc<Base>,
    state: RecvVec<T>,
}

enum RecvVec<T> {
    /// The engine has the memory, and fills it.
    TakenOver(Call),
    Over(Option<Result<(Vec<T>, Status)>>),
}

impl<T: Element> Unpin for RecvVecRequest<T> {}

impl<T: Element> fmt::Debug for RecvVecRequest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvVecRequest").finish_non_exhaustive()
    }
}

impl<T: Element> Future for RecvVecRequest<T> {
    type Output = Result<(Vec<T>, Status)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { base, state } = &mut *self;
        let call = match state {
            RecvVec::TakenOver(call) => call,
            RecvVec::Over(result) => return Poll::Ready(result.take().expect("polled once after its end")),
        };
        let result = ready!(base.drive(cx, call, |engine, call, mode| engine.poll_received(mode, call)));
        // After an error it may still be there: that may come before it is looked at.
        let received = result.inspect_err(|_| self.end())?;
        self.state = RecvVec::Over(None);
        let (elements, matched) = received.into_parts();
        let status = Status::of(&self.base, &matched);
        Poll::Ready(Ok((elements, Status { count: status.count / size_of::<T>().max(1), ..status })))
    }
}

impl<T: Element> RecvVecRequest<T> {
    fn end(&mut self) {
        if let RecvVec::TakenOver(call) = std::mem::replace(&mut self.state, RecvVec::Over(None)) {
            self.base.with(|engine| engine.cancel_task(&call, None));
        }
    }
}

impl<T: Element> Drop for RecvVecRequest<T> {
    fn drop(&mut self) {
        self.end();
    }
}
