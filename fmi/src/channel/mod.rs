//! The seam between a group and what carries its frames to one peer.
//!
//! A channel carries frames (an [`Envelope`] and its payload) in both directions, whole and in order. It knows
//! nothing of operations: whose a frame is, is decided above. There are three: [`stream`], over a byte stream that
//! is direct or relayed and may be replaced by a better one, [`memory`], between ranks of one process, and [`stored`], by
//! bodies in a store.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::error::Path;
use crate::proto::candidate::Technique;
use crate::proto::frame::{ENVELOPE_BYTES, Envelope};
use crate::proto::wire::WireError;
use crate::time::Instant;

pub(crate) mod memory;
pub(crate) mod stored;
pub(crate) mod stream;

/// How a peer is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkInfo {
    /// Rank of the peer.
    pub peer: u32,
    /// Whether bytes reach it by its own address, through a NAT, or by the relay.
    pub path: Path,
    /// How the two came together.
    pub technique: Technique,
    /// When all addresses of the group were known to this rank.
    pub addresses_known_at: Instant,
    /// When the connection was established on this side.
    pub connected_at: Instant,
    /// Attempts of this side to connect.
    pub attempts: u32,
}

/// Why a channel does not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("{0}")]
    Store(String),
}

/// How far a call may go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode<'a> {
    /// Only what can be done at once; nobody is woken.
    Try,
    /// The waker is woken when more can be done.
    Park(&'a Waker),
}

/// The bytes of an envelope.
pub(crate) type Head = [u8; ENVELOPE_BYTES];

/// A frame of an operation to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) head: &'a Head,
    pub(crate) payload: &'a [u8],
    /// Whether it is sent in one go, as far as that is possible. Else it is sent piece by piece, so that an
    /// exchange moves in both directions.
    pub(crate) whole: bool,
}

/// Carries frames to and from one peer.
pub(crate) trait Channel: Send + fmt::Debug {
    /// Reads the envelope of the next frame. Its payload follows by [`Channel::poll_body`], until nothing is
    /// [left](Channel::left).
    fn poll_head(&mut self, mode: Mode<'_>) -> Poll<Result<Envelope, ChannelError>>;

    /// Reads some of the payload of the frame at hand into the front of `target`; 0 when nothing is left.
    fn poll_body(&mut self, mode: Mode<'_>, target: &mut [u8]) -> Poll<Result<usize, ChannelError>>;

    /// Payload bytes of the frame at hand that have not been read.
    fn left(&self) -> u64;

    /// Sends a frame; `sent` counts its bytes, head included, and keeps the place between calls. Pending with
    /// more `sent` than before if there is more to send at once. A frame that is begun is sent to its end before
    /// any other.
    fn poll_send(&mut self, mode: Mode<'_>, frame: Outgoing<'_>, sent: &mut usize) -> Poll<Result<(), ChannelError>>;

    /// Takes over the rest of a frame of which `sent` bytes are sent.
    fn take_over(&mut self, frame: Outgoing<'_>, sent: usize);

    /// Adds a frame that belongs to no operation. It goes ahead of those that are not begun.
    fn queue(&mut self, envelope: &Envelope, payload: &[u8]);

    /// Whether anything waits to be sent that no operation sends.
    fn has_queued(&self) -> bool;

    /// Whether what is queued takes its time, and arrives all the same. Else it waits only for a peer that does not read.
    fn sends_later(&self) -> bool {
        false
    }

    /// Bytes that wait to be sent and that no operation sends.
    fn queued(&self) -> usize;

    /// Whether an operation's frame is partly sent.
    fn is_mid_frame(&self) -> bool;

    /// Sends what is queued; an operation's frame that is partly sent goes first.
    fn poll_flush(&mut self, mode: Mode<'_>) -> Poll<Result<(), ChannelError>>;

    /// Ends the channel gracefully: says that nothing more comes, and reads on until the peer says the same.
    fn poll_close(&mut self, waker: &Waker) -> Poll<()>;

    /// How the peer is reached.
    fn info(&self) -> LinkInfo;

    /// The addresses of this end and of the peer's, as far as there are any.
    fn ends(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        (None, None)
    }

    /// When the kernel of the peer last answered anything, if that is known.
    fn heard_at(&self) -> Option<Instant> {
        None
    }

    /// Whether the kernel of the peer has acknowledged all that was written, if that is known.
    fn is_acknowledged(&self) -> Option<bool> {
        None
    }

    /// Probes a connection as a formed group does, once it has been idle for `keepalive`.
    fn settle(&self, keepalive: Duration) {
        let _ = keepalive;
    }

    /// Moves to a better stream, each direction at its next border between frames; without effect where there
    /// is no better one.
    fn switch_to(&mut self, better: stream::Link) {
        drop(better);
    }

    /// The stream channel that it is, to take another one's place.
    fn into_link(self: Box<Self>) -> Option<stream::Link> {
        None
    }
}
