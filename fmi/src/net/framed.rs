//! Messages of the rendezvous protocol on a stream: buffers both ways, no task of its own.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ByteStream;
use crate::proto::rendezvous::split;
use crate::proto::wire::WireError;

/// How much is read at once; most messages are shorter.
const READ_BYTES: usize = 2048;

/// Why no message comes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// The stream ended or broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other end does not speak the protocol.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// A stream of length-prefixed messages.
#[derive(Debug)]
pub(crate) struct Framed<S> {
    stream: S,
    message_bytes_max: usize,
    incoming: Vec<u8>,
    /// Messages as they were queued; a large one is shared by all who get it.
    outgoing: VecDeque<Bytes>,
    /// Bytes sent of the first one.
    sent: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Framed<S> {
    /// Wraps a stream whose messages are at most `message_bytes_max` long.
    pub(crate) fn new(stream: S, message_bytes_max: usize) -> Self {
        Self { stream, message_bytes_max, incoming: Vec::new(), outgoing: VecDeque::new(), sent: 0 }
    }

    /// The stream below.
    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    /// The same messages on another form of the same stream.
    pub(crate) fn map<T>(self, wrap: impl FnOnce(S) -> T) -> Framed<T> {
        let Self { stream, message_bytes_max, incoming, outgoing, sent } = self;
        Framed { stream: wrap(stream), message_bytes_max, incoming, outgoing, sent }
    }

    /// The stream below, for bytes that are no messages.
    pub(crate) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Bytes that came behind the last message.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.incoming
    }

    /// Queues a message that is already framed.
    pub(crate) fn queue(&mut self, message: &[u8]) {
        self.queue_shared(Bytes::copy_from_slice(message));
    }

    /// Queues a message that others get as well.
    pub(crate) fn queue_shared(&mut self, message: Bytes) {
        self.outgoing.push_back(message);
    }

    /// Bytes queued and not sent.
    pub(crate) fn queued(&self) -> usize {
        self.outgoing.iter().map(Bytes::len).sum::<usize>() - self.sent
    }

    /// Sends what is queued.
    ///
    /// # Cancel safety
    /// Nothing is lost between calls.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(message) = self.outgoing.front() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &message[self.sent..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
            if self.sent == message.len() {
                self.outgoing.pop_front();
                self.sent = 0;
            }
        }
        // An idle connection keeps no buffer.
        self.outgoing.shrink_to_fit();
        Poll::Ready(Ok(()))
    }

    /// Sends what the stream takes at once. A stream of tokio's takes nothing by [`Framed::poll_flush`] once the task has had its
    /// share of the processor.
    pub(crate) fn flush_now(&mut self)
    where
        S: ByteStream,
    {
        while let Some(message) = self.outgoing.front() {
            let Ok(sent @ 1..) = self.stream.try_write(&[IoSlice::new(&message[self.sent..])]) else { return };
            self.sent += sent;
            if self.sent == message.len() {
                self.outgoing.pop_front();
                self.sent = 0;
            }
        }
    }

    /// Receives the body of the next message and parses it.
    ///
    /// # Cancel safety
    /// Nothing is lost between calls.
    pub(crate) fn poll_receive<M>(
        &mut self,
        cx: &mut Context<'_>,
        parse: impl Fn(&[u8]) -> Result<M, WireError>,
    ) -> Poll<Result<M, ReceiveError>> {
        loop {
            if let Some((body, taken)) = split(&self.incoming, self.message_bytes_max)? {
                let message = parse(body)?;
                self.incoming.drain(..taken);
                if self.incoming.is_empty() {
                    self.incoming.shrink_to_fit();
                }
                return Poll::Ready(Ok(message));
            }
            let mut bytes = [0; READ_BYTES];
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
            }
            self.incoming.extend_from_slice(buffer.filled());
        }
    }
}
