//! One confirmed stream to a peer: frames in and out, straight from and into the caller's buffer.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ByteStream;
use crate::error::Path;
use crate::proto::candidate::Technique;
use crate::proto::frame::{ENVELOPE_BYTES, Envelope};
use crate::proto::wire::WireError;
use crate::time::Instant;

/// Idle connections of a group are probed this often, below the shortest idle time-out of a cloud's
/// NAT (Azure, 240 s). Losses are the rendezvous' to notice; these probes keep mappings alive.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(100);
/// A peer whose kernel is silent for this long while bytes wait is lost.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(20);

/// How a peer is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Rank of the peer.
    pub peer: u32,
    /// Path to it.
    pub path: Path,
    /// How the two came together.
    pub technique: Technique,
    /// When all addresses of the group were known to this rank.
    pub addresses_known_at: Instant,
    /// When the TCP connection stood on this side.
    pub connected_at: Instant,
    /// Attempts of this side to connect.
    pub attempts: u32,
}

/// Why a link does not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Wire(#[from] WireError),
}

pub(crate) struct Link {
    stream: Box<dyn ByteStream>,
    info: LinkInfo,
    head: [u8; ENVELOPE_BYTES],
    head_taken: usize,
    body: Option<(Envelope, u64)>,
    /// Payload of a frame on its way to the mailbox.
    pub(crate) parked: Vec<u8>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("info", &self.info).finish_non_exhaustive()
    }
}

/// A frame on its way out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    head: [u8; ENVELOPE_BYTES],
    sent: usize,
}

impl Outgoing {
    pub(crate) fn new(envelope: &Envelope) -> Self {
        Self { head: envelope.emit(), sent: 0 }
    }
}

impl Link {
    pub(crate) fn new(stream: Box<dyn ByteStream>, info: LinkInfo) -> Self {
        Self { stream, info, head: [0; ENVELOPE_BYTES], head_taken: 0, body: None, parked: Vec::new() }
    }

    /// Probes as a formed group does.
    pub(crate) fn settle(&self) {
        // A stream that refuses the option is broken, which its next use tells.
        let _ = self.stream.set_keepalive(KEEPALIVE, SILENCE_MAX);
    }

    pub(crate) fn info(&self) -> LinkInfo {
        self.info
    }

    /// Sends a frame; `outgoing` keeps the place between calls.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        outgoing: &mut Outgoing,
        payload: &[u8],
    ) -> Poll<Result<(), LinkError>> {
        while outgoing.sent < ENVELOPE_BYTES + payload.len() {
            let stream = Pin::new(&mut self.stream);
            let sent = if outgoing.sent < ENVELOPE_BYTES {
                let parts = [IoSlice::new(&outgoing.head[outgoing.sent..]), IoSlice::new(payload)];
                ready!(stream.poll_write_vectored(cx, &parts))?
            } else {
                ready!(stream.poll_write(cx, &payload[outgoing.sent - ENVELOPE_BYTES..]))?
            };
            if sent == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            outgoing.sent += sent;
        }
        // A protected stream may hold the last record back.
        Pin::new(&mut self.stream).poll_flush(cx).map_err(LinkError::from)
    }

    /// The envelope of the frame that comes next or is being read.
    pub(crate) fn poll_envelope(&mut self, cx: &mut Context<'_>) -> Poll<Result<Envelope, LinkError>> {
        if let Some((envelope, _)) = self.body {
            return Poll::Ready(Ok(envelope));
        }
        while self.head_taken < ENVELOPE_BYTES {
            let mut buffer = ReadBuf::new(&mut self.head[self.head_taken..]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            let taken = buffer.filled().len();
            if taken == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
            }
            self.head_taken += taken;
        }
        let envelope = Envelope::parse(&self.head)?;
        self.head_taken = 0;
        self.body = Some((envelope, 0));
        Poll::Ready(Ok(envelope))
    }

    /// Reads the payload of the frame whose envelope was returned into `payload`, which is as long
    /// as the envelope says.
    pub(crate) fn poll_payload(&mut self, cx: &mut Context<'_>, payload: &mut [u8]) -> Poll<Result<(), LinkError>> {
        let Some((_, taken)) = &mut self.body else { return Poll::Ready(Ok(())) };
        loop {
            let at = usize::try_from(*taken).expect("the payload is in memory");
            if at == payload.len() {
                self.body = None;
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut payload[at..]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            let read = buffer.filled().len();
            if read == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
            }
            *taken += read as u64;
        }
    }

    /// Reads the payload of a frame into `parked`, and hands it out when it is whole.
    pub(crate) fn poll_parked(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<u8>, LinkError>> {
        let mut parked = std::mem::take(&mut self.parked);
        let read = self.poll_payload(cx, &mut parked);
        if read.is_pending() {
            self.parked = parked;
            return Poll::Pending;
        }
        read.map_ok(|()| parked)
    }
}
