//! One confirmed stream to a peer: frames in and out, straight from and into the caller's buffer.
//!
//! A better stream may take its place ([`Link::switch_to`]). Each side then announces, between two frames,
//! that its next frame comes on the new stream, and sends there; it reads the old one up to the peer's
//! announcement and then the new one. The old one ends when both directions have moved.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ByteStream;
use crate::error::Path;
use crate::proto::candidate::Technique;
use crate::proto::frame::{ENVELOPE_BYTES, Envelope, Kind};
use crate::proto::wire::WireError;
use crate::time::Instant;

/// Idle connections of a group are probed this often, below the shortest idle time-out of a cloud's
/// NAT (Azure, 240 s). Losses are the rendezvous' to notice; these probes keep mappings alive.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(100);
/// A peer whose kernel is silent for this long while bytes wait is lost.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(20);

/// The control channel is probed this often: a rendezvous that has restarted answers with a reset, and is
/// told of the group anew.
pub(crate) const CONTROL_KEEPALIVE: Duration = Duration::from_secs(2);
/// A rendezvous that is silent for this long is gone.
pub(crate) const CONTROL_SILENCE_MAX: Duration = Duration::from_secs(6);

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
    /// The stream that takes the place of this one.
    next: Option<(Box<dyn ByteStream>, LinkInfo)>,
    sending: Direction,
    /// Whether the peer has announced that it sends on the next stream.
    peer_has_switched: bool,
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

/// On which stream this side sends.
#[derive(Clone, Copy, Debug)]
enum Direction {
    Current,
    /// The announcement is on its way.
    Announcing(Outgoing),
    Next,
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
        let (next, sending, peer_has_switched) = (None, Direction::Current, false);
        let (head, head_taken, body, parked) = ([0; ENVELOPE_BYTES], 0, None, Vec::new());
        Self { stream, info, next, sending, peer_has_switched, head, head_taken, body, parked }
    }

    /// Probes as a formed group does.
    pub(crate) fn settle(&self) {
        // A stream that refuses the option is broken, which its next use tells.
        let _ = self.stream.set_keepalive(KEEPALIVE, SILENCE_MAX);
    }

    pub(crate) fn info(&self) -> LinkInfo {
        self.info
    }

    /// Moves to a better stream, each direction at its next border between frames.
    pub(crate) fn switch_to(&mut self, better: Self) {
        // The better one comes from a group of two, with numbers of its own.
        self.next = Some((better.stream, LinkInfo { peer: self.info.peer, ..better.info }));
        self.finish_switch();
    }

    /// Drops the old stream once nothing more comes or goes on it.
    fn finish_switch(&mut self) {
        if self.peer_has_switched
            && matches!(self.sending, Direction::Next)
            && let Some((stream, info)) = self.next.take()
        {
            (self.stream, self.info) = (stream, info);
            (self.sending, self.peer_has_switched) = (Direction::Current, false);
        }
    }

    /// Announces the next stream, if there is one.
    fn poll_announce(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if self.next.is_some() && matches!(self.sending, Direction::Current) {
            self.sending = Direction::Announcing(Outgoing::new(&Envelope::switch()));
        }
        if let Direction::Announcing(outgoing) = &mut self.sending {
            ready!(poll_frame_out(&mut self.stream, cx, outgoing, &[]))?;
            self.sending = Direction::Next;
            self.finish_switch();
        }
        Poll::Ready(Ok(()))
    }

    /// Sends a frame; `outgoing` keeps the place between calls.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        outgoing: &mut Outgoing,
        payload: &[u8],
    ) -> Poll<Result<(), LinkError>> {
        if outgoing.sent == 0 {
            ready!(self.poll_announce(cx))?;
        }
        let stream = match (&self.sending, &mut self.next) {
            (Direction::Next, Some((stream, _))) => stream,
            _ => &mut self.stream,
        };
        poll_frame_out(stream, cx, outgoing, payload)
    }

    /// The envelope of the frame that comes next or is being read.
    pub(crate) fn poll_envelope(&mut self, cx: &mut Context<'_>) -> Poll<Result<Envelope, LinkError>> {
        if let Some((envelope, _)) = self.body {
            return Poll::Ready(Ok(envelope));
        }
        loop {
            while self.head_taken < ENVELOPE_BYTES {
                let head = &mut self.head[self.head_taken..];
                let stream = reading(&mut self.stream, &mut self.next, self.peer_has_switched);
                self.head_taken += ready!(poll_some(stream, cx, head))?;
            }
            let envelope = Envelope::parse(&self.head)?;
            self.head_taken = 0;
            if envelope.kind == Kind::Switch && !self.peer_has_switched {
                self.peer_has_switched = true;
                self.finish_switch();
                continue;
            }
            self.body = Some((envelope, 0));
            return Poll::Ready(Ok(envelope));
        }
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
            let stream = reading(&mut self.stream, &mut self.next, self.peer_has_switched);
            let read = ready!(poll_some(stream, cx, &mut payload[at..]))?;
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

/// The stream to read from; none while only the peer knows of the next one.
fn reading<'a>(
    current: &'a mut Box<dyn ByteStream>,
    next: &'a mut Option<(Box<dyn ByteStream>, LinkInfo)>,
    peer_has_switched: bool,
) -> Option<&'a mut Box<dyn ByteStream>> {
    if peer_has_switched { next.as_mut().map(|(stream, _)| stream) } else { Some(current) }
}

/// Reads at least one byte.
fn poll_some(
    stream: Option<&mut Box<dyn ByteStream>>,
    cx: &mut Context<'_>,
    bytes: &mut [u8],
) -> Poll<Result<usize, LinkError>> {
    let Some(stream) = stream else { return Poll::Pending };
    let mut buffer = ReadBuf::new(bytes);
    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
    match buffer.filled().len() {
        0 => Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())),
        read => Poll::Ready(Ok(read)),
    }
}

fn poll_frame_out(
    stream: &mut Box<dyn ByteStream>,
    cx: &mut Context<'_>,
    outgoing: &mut Outgoing,
    payload: &[u8],
) -> Poll<Result<(), LinkError>> {
    while outgoing.sent < ENVELOPE_BYTES + payload.len() {
        let stream = Pin::new(&mut *stream);
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
    Pin::new(stream).poll_flush(cx).map_err(LinkError::from)
}
