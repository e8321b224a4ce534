//! Memory for bytes on their way. Streams that carry much at the moment lend it to each other, so that a rank with many
//! connections does not keep as many large buffers.

use std::cell::RefCell;

/// What a buffer has of its own.
pub(super) const SMALL_BYTES: usize = 4 << 10;
/// What it borrows if that is too little: room for two long records. With one the calls of the system count, with four the
/// other end waits for longer before it can begin to open them.
pub(super) const LARGE_BYTES: usize = 132 << 10;
/// Idle large memory that a thread keeps.
const SPARES_MAX: usize = 4;

thread_local! {
    static SPARES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn borrow() -> Vec<u8> {
    SPARES.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; LARGE_BYTES])
}

fn give_back(memory: Vec<u8>) {
    SPARES.with_borrow_mut(|spares| {
        if spares.len() < SPARES_MAX {
            spares.push(memory);
        }
    });
}

/// Bytes in the order in which they came.
#[derive(Default)]
pub(super) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("bytes", &(self.end - self.start)).finish_non_exhaustive()
    }
}

impl Buffer {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// All the room behind the bytes, which is at least `least`. Bytes and room together are at most [`LARGE_BYTES`].
    ///
    /// # Panics
    /// If that is not enough.
    pub(super) fn room(&mut self, least: usize) -> &mut [u8] {
        if self.memory.len() - self.end < least {
            let length = self.end - self.start;
            let needed = length + least;
            if needed <= self.memory.len() {
                self.memory.copy_within(self.start..self.end, 0);
            } else {
                assert!(needed <= LARGE_BYTES, "a record fits");
                let mut memory = if needed <= SMALL_BYTES { vec![0; SMALL_BYTES] } else { borrow() };
                memory[..length].copy_from_slice(self.bytes());
                self.memory = memory;
            }
            (self.start, self.end) = (0, length);
        }
        &mut self.memory[self.end..]
    }

    /// The room that is left if nothing is moved, but for what may still be borrowed.
    pub(super) fn room_max(&self) -> usize {
        LARGE_BYTES - (self.end - self.start)
    }

    /// The first bytes of the room have been filled.
    pub(super) fn fill(&mut self, count: usize) {
        self.end += count;
        debug_assert!(self.end <= self.memory.len(), "only room is filled");
    }

    /// The first bytes are done with. Memory that was borrowed goes back with the last of them.
    pub(super) fn take(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end, "only what is there is taken");
        self.tidy();
    }

    /// Gives back what was borrowed, if nothing is in it.
    pub(super) fn tidy(&mut self) {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
            if self.memory.len() == LARGE_BYTES {
                give_back(std::mem::take(&mut self.memory));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(
            steps in proptest::collection::vec((any::<bool>(), 0usize..40_000), 1..60),
        ) {
            let (mut buffer, mut model) = (Buffer::default(), VecDeque::new());
            let mut next = 0u8;
            for (is_in, count) in steps {
                if is_in {
                    let count = count.min(buffer.room_max());
                    for byte in &mut buffer.room(count)[..count] {
                        next = next.wrapping_add(1);
                        *byte = next;
                        model.push_back(next);
                    }
                    buffer.fill(count);
                } else {
                    let count = count.min(model.len());
                    buffer.take(count);
                    model.drain(..count);
                }
                prop_assert_eq!(buffer.bytes(), &*model.make_contiguous());
                prop_assert!(!buffer.is_empty() || buffer.memory.len() <= SMALL_BYTES);
            }
        }
    }

    #[test]
    fn memory_is_lent_on() {
        let mut first = Buffer::default();
        first.room(SMALL_BYTES + 1)[0] = 77;
        first.fill(1);
        first.take(1);
        let mut second = Buffer::default();
        assert_eq!(second.room(SMALL_BYTES + 1)[0], 77, "the same memory");
        assert_eq!(Buffer::default().room(SMALL_BYTES + 1)[0], 0, "which is in use now");
    }
}
