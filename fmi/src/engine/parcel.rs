//! A message, or a step of a collective, on its way out: one frame, or several if it is longer than what is sent unasked.

use std::ops::Range;

use crate::channel::Head;
use crate::datatype::Element;
use crate::proto::frame::Envelope;

/// The rest of a long parcel is cut into frames of this length, so that word of other things comes between them.
const FRAME_BYTES_MAX: usize = 4 << 20;

/// How much of a parcel has been sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Parcel {
    /// Payload bytes of the frames that are sent.
    pub(super) done: usize,
    /// Bytes of the next frame that are sent, its head included.
    pub(super) sent: usize,
    /// Where its copy ends among all that was ever queued for the peer, once it is copied whole.
    pub(super) copied: Option<u64>,
}

impl Parcel {
    /// The next frame of a parcel, whose whole length is that of `whole`: its head, and its part of the payload.
    pub(super) fn frame(&self, whole: &Envelope, length: usize, eager: usize) -> (Head, Range<usize>) {
        let longest = if self.done == 0 { eager } else { FRAME_BYTES_MAX };
        let part = self.done..length.min(self.done.saturating_add(longest));
        let envelope = Envelope { length: part.len() as u64, more: part.end < length, ..*whole };
        (envelope.emit(), part)
    }

    /// Whether any of it is sent, or a frame of it is under way.
    pub(super) fn is_begun(&self) -> bool {
        self.done > 0 || self.sent > 0
    }

    /// Whether all of it is sent, or copied.
    pub(crate) fn is_copied(&self) -> bool {
        self.copied.is_some()
    }

    /// A frame is sent whole, up to `end`.
    pub(super) fn complete_frame(&mut self, end: usize) {
        (self.done, self.sent) = (end, 0);
    }
}

/// Memory for what arrives.
pub(crate) trait Room {
    /// The room for bytes from `moved` on, of `length` in all: some of it at least, if they are not equal.
    fn from(&mut self, moved: usize, length: usize) -> &mut [u8];

    /// The longest message that it takes.
    fn bytes_max(&self) -> usize;
}

impl Room for [u8] {
    fn from(&mut self, moved: usize, length: usize) -> &mut [u8] {
        &mut self[moved..length]
    }

    fn bytes_max(&self) -> usize {
        self.len()
    }
}

/// What a vector grows by at least: its memory follows what has come, not what was announced.
const GROWTH_BYTES: usize = 1 << 20;

impl<T: Element> Room for Vec<T> {
    fn from(&mut self, moved: usize, length: usize) -> &mut [u8] {
        let size = size_of::<T>();
        if self.len() * size < length && self.len() * size <= moved {
            let more = GROWTH_BYTES.max(moved).min(length - moved);
            self.resize((moved + more).div_ceil(size), T::zeroed());
        }
        let end = length.min(self.len() * size);
        &mut bytemuck::cast_slice_mut(self)[moved..end]
    }

    fn bytes_max(&self) -> usize {
        usize::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_what_has_come_and_not_what_was_announced() {
        let (mut room, announced) = (Vec::<u32>::new(), 1 << 50);
        let mut moved = 0;
        for _ in 0..20 {
            let part = room.from(moved, announced);
            assert!(!part.is_empty(), "there is room for some of it");
            moved += part.len().min(1000);
            assert!(room.len() * 4 <= 2 * (moved + GROWTH_BYTES), "{} elements for {moved} bytes", room.len());
        }
        // To the last byte, even if that is not the end of an element.
        let mut short = Vec::<u32>::new();
        assert_eq!((short.from(0, 7).len(), short.len()), (7, 2));
        assert_eq!(Vec::<u64>::new().from(0, 0).len(), 0);
    }
}
