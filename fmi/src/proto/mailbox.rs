//! Frames that arrived before anybody asked for them. Pure and bounded.
//!
//! TCP keeps the frames of one peer in order, so a frame is unexpected only when the peer is ahead:
//! it sent a message with another tag first, or left a collective early. Matching follows MPI: the
//! oldest frame that fits wins.

use std::collections::{BTreeMap, VecDeque};

use super::frame::Envelope;

/// A stored frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its envelope.
    pub envelope: Envelope,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Unexpected frames of all peers.
#[derive(Debug)]
pub struct Mailbox {
    bytes_max: u64,
    bytes: u64,
    frames: BTreeMap<u32, VecDeque<Stored>>,
}

/// What a stored frame costs beside its payload.
const FRAME_OVERHEAD_BYTES: u64 = 128;

impl Mailbox {
    /// Makes a mailbox that holds at most `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: 0, frames: BTreeMap::new() }
    }

    /// Whether a frame with a payload of `length` bytes still fits.
    pub fn has_room(&self, length: u64) -> bool {
        self.bytes.saturating_add(length).saturating_add(FRAME_OVERHEAD_BYTES) <= self.bytes_max
    }

    /// Stores a frame from `peer`; the caller asked [`Mailbox::has_room`] before it read the payload.
    pub fn store(&mut self, peer: u32, stored: Stored) {
        self.bytes += stored.payload.len() as u64 + FRAME_OVERHEAD_BYTES;
        self.frames.entry(peer).or_default().push_back(stored);
    }

    /// Takes the oldest frame of `peer` that belongs to the operation of `wanted`.
    pub fn take(&mut self, peer: u32, wanted: &Envelope) -> Option<Stored> {
        let frames = self.frames.get_mut(&peer)?;
        let index = frames.iter().position(|stored| stored.envelope.is_same_operation(wanted))?;
        let stored = frames.remove(index)?;
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
    use crate::proto::frame::Kind;

    fn message(tag: u32, byte: u8) -> Stored {
        let envelope = Envelope {
            kind: Kind::Message,
            commutative: false,
            datatype: 0,
            communicator: 0,
            epoch: 0,
            root_or_tag: tag,
            sequence: u64::from(byte),
            step: 0,
            operator: 0,
            length: 1,
        };
        Stored { envelope, payload: vec![byte] }
    }

    #[test]
    fn the_oldest_frame_that_fits_wins() {
        let mut mailbox = Mailbox::new(1000);
        mailbox.store(1, message(7, 1));
        mailbox.store(1, message(8, 2));
        mailbox.store(1, message(7, 3));
        let wanted = message(7, 0).envelope;
        assert_eq!(mailbox.take(2, &wanted), None);
        assert_eq!(mailbox.take(1, &wanted).map(|stored| stored.payload), Some(vec![1]));
        assert_eq!(mailbox.take(1, &wanted).map(|stored| stored.payload), Some(vec![3]));
        assert_eq!(mailbox.take(1, &wanted), None);
        assert_eq!(mailbox.bytes(), 129);
    }

    #[test]
    fn memory_is_bounded() {
        let mut mailbox = Mailbox::new(300);
        mailbox.store(1, message(7, 1));
        assert!(mailbox.has_room(43));
        assert!(!mailbox.has_room(44));
        assert!(!mailbox.has_room(u64::MAX));
    }
}
