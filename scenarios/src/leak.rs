//! Looks for secrets in everything that hosts send: the secret of the group, and every key that a rank makes.
//!
//! A part of a secret is one as well: any eight bytes of it count. What a host sends by TCP is looked at as a stream, however
//! it is cut into segments. A host sends each byte of a stream first in its order, so that repetitions are known by their
//! numbers. Not seen are bytes that were encoded or scattered, in headers, and on the way from a gateway on, which adds
//! none of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fmi_net::noted;
use nat_sim::packet::{Packet, Transport};
use nat_sim::topology::HostId;

/// So many bytes of a secret are found wherever they are.
pub(crate) const PART_BYTES: usize = 8;

/// What has been found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found(Arc<Mutex<BTreeSet<String>>>);

impl Found {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.lock())
    }
}

/// Whether a text shows a part of a secret, as it is or in hexadecimal digits.
pub(crate) fn shows(text: &str, secret: &[u8]) -> bool {
    let text = text.to_ascii_lowercase();
    secret.windows(PART_BYTES).any(|part| {
        let digits: String = part.iter().map(|byte| format!("{byte:02x}")).collect();
        let plain = part.to_ascii_lowercase();
        text.contains(&digits) || text.as_bytes().windows(plain.len()).any(|window| window == plain)
    })
}

/// Most keys that are looked for, the first ones of a run: those of a mesh of 30 ranks, of which more would only cost time.
const KEYS_MAX: usize = 4096;

/// The search of one run.
#[derive(Debug)]
pub(crate) struct Search {
    parts: Parts,
    known: BTreeSet<[u8; 32]>,
    streams: BTreeMap<(HostId, SocketAddr, SocketAddr), Stream>,
    found: Found,
}

/// What has been seen of one direction of a connection.
#[derive(Debug)]
struct Stream {
    /// Sequence number of the next byte.
    next: u32,
    /// The last bytes before it.
    tail: Vec<u8>,
}

impl Search {
    pub(crate) fn new(secret: &[u8], found: Found) -> Self {
        let mut parts = Parts::default();
        parts.insert("the secret of the group", secret);
        Self { parts, known: BTreeSet::new(), streams: BTreeMap::new(), found }
    }

    /// A host sends a packet.
    pub(crate) fn see(&mut self, host: HostId, packet: &Packet) {
        for (what, key) in noted::take() {
            if self.known.len() < KEYS_MAX && self.known.insert(key) {
                self.parts.insert(what, &key);
            }
        }
        let Some((Transport::Tcp, source, destination)) = packet.endpoints() else {
            return self.parts.search(packet.bytes(), &self.found);
        };
        let Some(segment) = packet.segment() else { return };
        let ends = (host, source, destination);
        if segment.syn {
            // Another connection of these endpoints, if there was one.
            self.streams.remove(&ends);
        }
        let payload = packet.stream_bytes();
        if payload.is_empty() {
            // Nothing to look at, and nothing to remember of who only looks for listeners.
            return;
        }
        let first = segment.sequence.wrapping_add(u32::from(segment.syn));
        let stream = self.streams.entry(ends).or_insert_with(|| Stream { next: first, tail: Vec::new() });
        // A gap begins a stream anew: another connection of the same endpoints, or a sender that is no TCP.
        let repeated = stream.next.wrapping_sub(first) as usize;
        if repeated > payload.len() && repeated < REPEATED_MAX {
            return;
        }
        let fresh = if repeated <= payload.len() {
            &payload[repeated..]
        } else {
            stream.tail.clear();
            payload
        };
        if fresh.is_empty() {
            return;
        }
        // What lies across the border, then the rest.
        let border = stream.tail.len();
        stream.tail.extend_from_slice(&fresh[..fresh.len().min(PART_BYTES - 1)]);
        if border > 0 {
            self.parts.search(&stream.tail, &self.found);
        }
        self.parts.search(fresh, &self.found);
        if fresh.len() >= PART_BYTES - 1 {
            stream.tail.clear();
            stream.tail.extend_from_slice(&fresh[fresh.len() - (PART_BYTES - 1)..]);
        } else {
            let surplus = stream.tail.len().saturating_sub(PART_BYTES - 1);
            stream.tail.drain(..surplus);
        }
        let length = u32::try_from(payload.len()).expect("a packet is below 64 KiB");
        stream.next = first.wrapping_add(length);
    }
}

/// A segment this far back is a repetition; farther, it is another stream.
const REPEATED_MAX: usize = 1 << 30;

/// All parts of all secrets.
#[derive(Debug)]
struct Parts {
    names: BTreeMap<[u8; PART_BYTES], &'static str>,
    /// All runs of [`WORD_BYTES`] of the secrets.
    words: Vec<u32>,
    /// Three bits of one block for each of them: nearly all bytes need no further look.
    filter: Vec<u64>,
}

/// Wherever a part lies, every fifth place from the first on has one that begins with four bytes of it.
const WORD_BYTES: usize = 4;
const STRIDE: usize = PART_BYTES - WORD_BYTES + 1;
/// Words for each block of the filter.
const WORDS_IN_BLOCK: usize = 4;

impl Default for Parts {
    fn default() -> Self {
        Self { filter: vec![0; 1 << 10], words: Vec::new(), names: BTreeMap::new() }
    }
}

impl Parts {
    fn insert(&mut self, what: &'static str, secret: &[u8]) {
        for part in secret.windows(PART_BYTES) {
            let part = part.try_into().expect("as long as a part");
            self.names.entry(part).or_insert(what);
        }
        let before = self.words.len();
        let words = secret.windows(WORD_BYTES).filter_map(|word| word.first_chunk().copied());
        self.words.extend(words.map(u32::from_le_bytes));
        let mut fresh = before..self.words.len();
        if self.words.len() > self.filter.len() * WORDS_IN_BLOCK {
            self.filter = vec![0; self.filter.len() * 4];
            fresh = 0..self.words.len();
        }
        for word in &self.words[fresh] {
            let (block, bits) = place(*word, self.filter.len());
            self.filter[block] |= bits;
        }
    }

    fn search(&self, bytes: &[u8], found: &Found) {
        for (number, piece) in bytes.chunks(STRIDE).enumerate() {
            let Some(word) = piece.first_chunk() else { return };
            let (block, bits) = place(u32::from_le_bytes(*word), self.filter.len());
            if self.filter[block] & bits == bits {
                self.look(bytes, number * STRIDE, found);
            }
        }
    }

    /// Looks at every part that has the four bytes at `place`.
    fn look(&self, bytes: &[u8], place: usize, found: &Found) {
        for start in place.saturating_sub(PART_BYTES - WORD_BYTES)..=place {
            if let Some(part) = bytes[start..].first_chunk::<PART_BYTES>()
                && let Some(what) = self.names.get(part)
            {
                found.lock().insert(format!("{PART_BYTES} bytes of {what} are on a wire"));
            }
        }
    }
}

/// Block of the filter for a word, and its bits there.
#[inline]
fn place(word: u32, blocks: usize) -> (usize, u64) {
    let hash = u64::from(word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bits = hash ^ (hash >> 29);
    let bits = 1 << (bits >> 3 & 63) | 1 << (bits >> 9 & 63) | 1 << (bits >> 15 & 63);
    let block = (hash >> 32) as usize & (blocks - 1);
    (block, bits)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use nat_sim::packet::Segment;

    use super::*;

    const SECRET: &[u8] = b"a secret of many bytes";

    fn endpoint(last: u8) -> SocketAddrV4 {
        SocketAddrV4::new([10, 0, 0, last].into(), 5)
    }

    fn segment(sequence: u32, syn: bool, payload: &[u8]) -> Packet {
        let segment = Segment { syn, ack: !syn, sequence, acknowledgement: 1, window: 9, ..Segment::NONE };
        Packet::tcp(endpoint(1), endpoint(2), segment, payload)
    }

    /// What is found in a stream whose first byte has this number, sent in these pieces.
    fn found(first: u32, pieces: &[(u32, &[u8])]) -> usize {
        let found = Found::default();
        let mut search = Search::new(SECRET, found.clone());
        search.see(HostId(0), &segment(first.wrapping_sub(1), true, &[]));
        for (offset, piece) in pieces {
            search.see(HostId(0), &segment(first.wrapping_add(*offset), false, piece));
        }
        found.take().len()
    }

    #[test]
    fn any_eight_bytes_are_found_however_a_stream_is_cut() {
        for first in [1, u32::MAX - 20] {
            for at in 0..=SECRET.len() - PART_BYTES {
                let stream = [b"some text ", &SECRET[at..at + PART_BYTES], b" and more"].concat();
                for cut in 0..stream.len() {
                    let (left, right) = stream.split_at(cut);
                    let offset = u32::try_from(cut).expect("short");
                    assert_eq!(found(first, &[(0, left), (offset, right)]), 1, "part {at}, cut at {cut}");
                }
                let bytes: Vec<(u32, &[u8])> = (0..).zip(stream.chunks(1)).collect();
                assert_eq!(found(first, &bytes), 1, "byte by byte");
                let repeated: Vec<_> = bytes.iter().flat_map(|piece| [*piece, (0, &stream[..1]), *piece]).collect();
                assert_eq!(found(first, &repeated), 1, "with repetitions");
            }
        }
    }

    #[test]
    fn seven_bytes_and_what_only_looks_like_a_part_are_no_leak() {
        let seven = [&SECRET[..PART_BYTES - 1], b"-", &SECRET[PART_BYTES..2 * PART_BYTES - 1]].concat();
        assert_eq!(found(1, &[(0, &seven)]), 0);
        // Sent twice, not one after the other.
        let (left, right) = SECRET[..PART_BYTES].split_at(4);
        assert_eq!(found(1, &[(0, left), (0, left), (4, b"...."), (0, right)]), 0);
    }

    #[test]
    fn a_segment_that_opens_a_connection_is_searched_as_well() {
        let found = Found::default();
        let mut search = Search::new(SECRET, found.clone());
        search.see(HostId(0), &segment(5, true, &SECRET[..PART_BYTES]));
        assert_eq!(found.take().len(), 1);
    }

    /// As of the SYNs of who looks for listeners on every port.
    #[test]
    fn nothing_is_kept_of_segments_without_a_byte() {
        let mut search = Search::new(SECRET, Found::default());
        for port in 0..1000 {
            let to = SocketAddrV4::new([10, 0, 0, 2].into(), port);
            for (syn, rst) in [(true, false), (false, true), (false, false)] {
                let segment = Segment { syn, rst, ack: !syn, sequence: 7, window: 9, ..Segment::NONE };
                search.see(HostId(0), &Packet::tcp(endpoint(1), to, segment, &[]));
            }
        }
        assert_eq!(search.streams.len(), 0);
    }

    #[test]
    fn keys_are_looked_for_from_when_they_are_made() {
        let watch = noted::Watch::begin();
        let found = Found::default();
        let mut search = Search::new(SECRET, found.clone());
        let key = blake(7);
        noted::note("a key of a test", &key);
        search.see(HostId(0), &segment(1, false, &key[11..19]));
        assert_eq!(found.take().into_iter().collect::<Vec<_>>(), ["8 bytes of a key of a test are on a wire"]);
        // Among very many.
        for number in 0..1000 {
            noted::note("one of many", &blake(number));
        }
        search.see(HostId(1), &segment(1, false, &blake(500)[24..]));
        assert_eq!(found.take().len(), 1);
        drop(watch);
    }

    /// Bytes without a rule.
    fn blake(number: u64) -> [u8; 32] {
        let words = [1u64, 2, 3, 4].map(|word| (number * 4 + word).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(29));
        let mut bytes = [0; 32];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.wrapping_mul(0xa076_1d64_78bd_642f).to_le_bytes());
        }
        bytes
    }

    #[test]
    fn texts_show_parts_in_either_form() {
        assert!(shows("cannot join with a SECRET of", SECRET));
        assert!(shows("key 2073656372657420", SECRET));
        assert!(!shows("a secr et", SECRET));
    }
}
