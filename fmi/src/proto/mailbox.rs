//! Frames that arrived before anybody asked for them. Pure and bounded.
//!
//! TCP keeps the frames of one peer in order, so a frame is unexpected only when the peer is ahead:
//! it sent a message with another tag first, or left a collective early. Matching follows MPI: the
//! oldest frame that fits wins.

use std::collections::VecDeque;

use super::frame::{Envelope, Kind};

/// A stored frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    /// Who sent it.
    pub peer: u32,
    /// Its envelope.
    pub envelope: Envelope,
    /// Bytes of the payload that its operation has already taken.
    pub taken: usize,
    /// The rest of the payload.
    pub payload: Vec<u8>,
    /// The operation that it belongs to, if that is known.
    pub owner: Option<u64>,
}

/// What a receive or probe asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Communicator.
    pub communicator: u64,
    /// Sender; any if `None`.
    pub source: Option<u32>,
    /// Tag; any if `None`.
    pub tag: Option<u32>,
}

impl Pattern {
    /// Whether a frame from `peer` is a message that fits.
    pub fn fits(&self, peer: u32, envelope: &Envelope) -> bool {
        envelope.kind == Kind::Message
            && envelope.communicator == self.communicator
            && self.source.is_none_or(|source| source == peer)
            && self.tag.is_none_or(|tag| tag == envelope.root_or_tag)
    }
}

/// Unexpected frames of all peers, in the order of their arrival.
#[derive(Debug)]
pub struct Mailbox {
    bytes_max: u64,
    bytes: u64,
    frames: VecDeque<Stored>,
}

/// What a stored frame costs beside its payload.
const FRAME_OVERHEAD_BYTES: u64 = 128;

impl Mailbox {
    /// Makes a mailbox that holds at most `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: 0, frames: VecDeque::new() }
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether a frame with a payload of `length` bytes still fits.
    pub fn has_room(&self, length: u64) -> bool {
        self.bytes.saturating_add(length).saturating_add(FRAME_OVERHEAD_BYTES) <= self.bytes_max
    }

    /// Stores a frame; the caller asked [`Mailbox::has_room`] before it read the payload.
    pub fn store(&mut self, stored: Stored) {
        self.bytes += stored.payload.len() as u64 + FRAME_OVERHEAD_BYTES;
        self.frames.push_back(stored);
    }

    /// The oldest message that fits and belongs to nobody yet; it belongs to `owner` from now on.
    pub fn claim(&mut self, pattern: &Pattern, owner: u64) -> Option<(u32, Envelope)> {
        let free = |stored: &&mut Stored| stored.owner.is_none() && pattern.fits(stored.peer, &stored.envelope);
        let stored = self.frames.iter_mut().find(free)?;
        stored.owner = Some(owner);
        Some((stored.peer, stored.envelope))
    }

    /// The oldest message that fits and belongs to nobody yet.
    pub fn peek(&self, pattern: &Pattern) -> Option<(u32, Envelope)> {
        let free = |stored: &&Stored| stored.owner.is_none() && pattern.fits(stored.peer, &stored.envelope);
        self.frames.iter().find(free).map(|stored| (stored.peer, stored.envelope))
    }

    /// Takes the frame that belongs to `owner`.
    pub fn take_owned(&mut self, owner: u64) -> Option<Stored> {
        self.take(|stored| stored.owner == Some(owner))
    }

    /// Gives back what belonged to `owner`.
    pub fn disown(&mut self, owner: u64) {
        self.frames.iter_mut().filter(|stored| stored.owner == Some(owner)).for_each(|stored| stored.owner = None);
    }

    /// Takes the oldest frame of `peer` that belongs to the collective of `wanted`.
    pub fn take_collective(&mut self, peer: u32, wanted: &Envelope) -> Option<Stored> {
        self.take(|stored| stored.peer == peer && stored.envelope.is_same_collective(wanted))
    }

    /// The oldest frame, from anybody, that belongs to the collective of `wanted`.
    pub fn peek_collective(&self, wanted: &Envelope) -> Option<(u32, Envelope)> {
        let same = |stored: &&Stored| stored.envelope.is_same_collective(wanted);
        self.frames.iter().find(same).map(|stored| (stored.peer, stored.envelope))
    }

    /// Drops all that belongs to `communicator`.
    pub fn forget(&mut self, communicator: u64) {
        self.frames.retain(|stored| stored.envelope.communicator != communicator);
        self.bytes = self.frames.iter().map(|stored| stored.payload.len() as u64 + FRAME_OVERHEAD_BYTES).sum();
    }

    fn take(&mut self, fits: impl Fn(&Stored) -> bool) -> Option<Stored> {
        let index = self.frames.iter().position(fits)?;
        let stored = self.frames.remove(index)?;
        self.bytes -= stored.payload.len() as u64 + FRAME_OVERHEAD_BYTES;
        Some(stored)
    }

    /// The limit.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u32, byte: u8) -> Stored {
        let envelope = Envelope { root_or_tag: tag, length: 1, ..Envelope::new(Kind::Message) };
        Stored { peer: 1, envelope, taken: 0, payload: vec![byte], owner: None }
    }

    #[test]
    fn the_oldest_frame_that_fits_wins() {
        let mut mailbox = Mailbox::new(1000);
        mailbox.store(message(7, 1));
        mailbox.store(message(8, 2));
        mailbox.store(message(7, 3));
        let from = |source, tag| Pattern { communicator: 0, source, tag };
        assert_eq!(mailbox.claim(&from(Some(2), Some(7)), 10), None);
        assert_eq!(mailbox.claim(&from(None, None), 10).map(|(peer, _)| peer), Some(1));
        assert_eq!(mailbox.claim(&from(Some(1), Some(7)), 11).map(|(_, envelope)| envelope.root_or_tag), Some(7));
        assert_eq!(mailbox.claim(&from(Some(1), Some(7)), 12), None, "both are claimed");
        assert_eq!(mailbox.take_owned(11).map(|stored| stored.payload), Some(vec![3]));
        mailbox.disown(10);
        assert_eq!(mailbox.claim(&from(Some(1), Some(7)), 12).map(|(_, envelope)| envelope.root_or_tag), Some(7));
        assert_eq!(mailbox.take_owned(12).map(|stored| stored.payload), Some(vec![1]));
        assert_eq!(mailbox.bytes(), 129);
        mailbox.forget(0);
        assert_eq!(mailbox.bytes(), 0);
    }

    #[test]
    fn memory_is_bounded() {
        let mut mailbox = Mailbox::new(300);
        mailbox.store(message(7, 1));
        assert!(mailbox.has_room(43));
        assert!(!mailbox.has_room(44));
        assert!(!mailbox.has_room(u64::MAX));
    }
}
