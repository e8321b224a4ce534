//! A channel, and what the engine keeps with it.

use std::sync::Arc;
use std::task::{Poll, Waker};

use super::Turn;
use super::wait::{Listings, Signal, Waiters};
use crate::channel::{Channel, ChannelError, Mode};
use crate::proto::frame::{ENVELOPE_BYTES, Envelope};
use crate::proto::group::OpId;
use crate::proto::rank::Slot;

/// How much room is made at once for what comes.
const PIECE_BYTES: usize = 64 << 10;

/// The way to one peer.
pub(super) struct Lane {
    pub(super) channel: Box<dyn Channel>,
    pub(super) slot: Slot,
    /// Payload bytes of the frame at hand that were read by another than its owner.
    pub(super) parked: Vec<u8>,
    /// Bytes that were ever queued for the channel to send.
    pub(super) queued: u64,
    /// Bytes of control frames among what is queued, at most.
    pub(super) told: u64,
    /// The operation whose frame is partly sent.
    pub(super) writer: Option<OpId>,
    /// Operations that have a frame for this peer while another one is partly sent.
    pub(super) behind_writer: Turn,
    /// The owner of the frame at hand that was last asked to read it, and the events of the readers by then.
    pub(super) driven: Option<(OpId, u64)>,
    /// Operations that wait for something to come: whichever is woken reads for all.
    pub(super) readers: Arc<Waiters>,
    pub(super) read_waker: Waker,
    /// Operations that wait for room to send. Nobody can send the frame of another, so those alone are here that
    /// have begun one, or send what is queued.
    pub(super) writers: Arc<Waiters>,
    pub(super) write_waker: Waker,
}

impl Lane {
    pub(super) fn new(channel: Box<dyn Channel>, slot: Slot, signal: &Arc<Signal>) -> Self {
        let source = 2 * slot.index();
        let (readers, writers) = (Waiters::new(signal, source), Waiters::new(signal, source + 1));
        let (read_waker, write_waker) = (readers.clone().into(), writers.clone().into());
        let (parked, behind_writer) = (Vec::new(), Turn::new());
        Self {
            channel,
            slot,
            parked,
            queued: 0,
            told: 0,
            writer: None,
            behind_writer,
            driven: None,
            readers,
            read_waker,
            writers,
            write_waker,
        }
    }

    /// Adds a frame that goes whatever is polled.
    pub(super) fn queue(&mut self, envelope: &Envelope, payload: &[u8]) {
        self.queued += (ENVELOPE_BYTES + payload.len()) as u64;
        self.channel.queue(envelope, payload);
    }

    /// Payload bytes of the frame at hand that its owner has not taken.
    pub(super) fn left(&self) -> u64 {
        self.channel.left() + self.parked.len() as u64
    }

    /// Wakes everybody, at the end of the channel.
    pub(super) fn wake_all(&self) {
        self.readers.wake_all();
        self.writers.wake_all();
    }

    /// Adds an operation to those that have a frame for this peer while another one is partly sent.
    pub(super) fn put_behind(&mut self, listings: &mut Listings, id: OpId) {
        listings.note(id, self.slot);
        self.behind_writer.insert(id);
    }

    /// The source of the signal with this number, if it is of this lane.
    pub(super) fn source(&self, source: usize) -> &Waiters {
        if source.is_multiple_of(2) { &self.readers } else { &self.writers }
    }

    /// Forgets an operation that has ended.
    pub(super) fn forget(&mut self, id: OpId) {
        self.readers.remove(id);
        self.writers.remove(id);
        self.behind_writer.remove(&id);
    }

    /// The same mode for the channel, whose events wake those that wait for this lane.
    pub(super) fn of<'a>(waker: &'a Waker, mode: Mode<'_>) -> Mode<'a> {
        match mode {
            Mode::Try => Mode::Try,
            Mode::Park(_) => Mode::Park(waker),
        }
    }

    /// Reads the rest of the payload of the frame at hand; ready when it is whole.
    pub(super) fn poll_parked(&mut self, mode: Mode<'_>) -> Poll<Result<(), ChannelError>> {
        let Self { channel, parked, read_waker, .. } = self;
        let mode = Self::of(read_waker, mode);
        let mut at = parked.len();
        let read = loop {
            let left = usize::try_from(channel.left()).expect("lengths are checked before payloads are read");
            if left == 0 {
                break Poll::Ready(Ok(()));
            }
            // Piece by piece: memory is not cleared for what has not come.
            parked.resize(at + left.min(PIECE_BYTES), 0);
            match channel.poll_body(mode, &mut parked[at..]) {
                Poll::Ready(Ok(read)) => at += read,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        parked.truncate(at);
        read
    }

    /// Drops the rest of the payload of the frame at hand.
    pub(super) fn poll_discard(&mut self, mode: Mode<'_>) -> Poll<Result<(), ChannelError>> {
        let Self { channel, parked, read_waker, .. } = self;
        let mode = Self::of(read_waker, mode);
        parked.clear();
        let mut bin = [0; 4096];
        while channel.left() > 0 {
            std::task::ready!(channel.poll_body(mode, &mut bin))?;
        }
        Poll::Ready(Ok(()))
    }
}
