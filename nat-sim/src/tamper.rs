//! Somebody on the way who changes what a host sends, so that TCP does not notice.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

use crate::packet::Packet;

/// What is done to the bytes of TCP streams that a host sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tampering {
    /// A bit is turned, behind the first 16 bytes of a segment. What comes first may be a length, and to change that only
    /// stalls a stream, as to drop everything would.
    Flip,
    /// The bytes of a segment take the place of those of a later one of the same length and flow.
    Repeat,
}

/// The state of it for one host.
#[derive(Debug)]
pub(crate) struct Tamper {
    how: Tampering,
    share_ppm: u32,
    /// The last bytes of each length, by flow.
    last: BTreeMap<(SocketAddr, SocketAddr, usize), Vec<u8>>,
}

/// Segments with less than so many bytes are left alone: that is no record of a protected stream.
const BYTES_MIN: usize = 32;
/// Of a segment in which a bit is turned.
const KEPT_BYTES: usize = 16;

impl Tamper {
    pub(crate) fn new(how: Tampering, share_ppm: u32) -> Self {
        Self { how, share_ppm, last: BTreeMap::new() }
    }

    /// Changes a packet, perhaps; whether it did.
    pub(crate) fn touch(&mut self, entropy: &mut ChaCha8Rng, packet: &mut Packet) -> bool {
        let (Some((_, source, destination)), bytes) = (packet.endpoints(), packet.stream_bytes().to_vec()) else {
            return false;
        };
        if bytes.len() < BYTES_MIN {
            return false;
        }
        let is_hit = entropy.next_u32() % 1_000_000 < self.share_ppm;
        let mut changed = match self.how {
            Tampering::Flip => bytes.clone(),
            Tampering::Repeat => {
                let before = self.last.insert((source, destination, bytes.len()), bytes.clone());
                before.unwrap_or_else(|| bytes.clone())
            }
        };
        if self.how == Tampering::Flip {
            let bit = 8 * KEPT_BYTES + entropy.next_u32() as usize % (8 * (changed.len() - KEPT_BYTES));
            changed[bit / 8] ^= 1 << (bit % 8);
        }
        if !is_hit || changed == bytes {
            return false;
        }
        packet.replace_stream(&changed);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use rand_core::SeedableRng;

    use super::*;
    use crate::packet::Segment;

    fn segment(byte: u8, length: usize) -> Packet {
        let flags = Segment { ack: true, sequence: 1, acknowledgement: 1, window: 9, ..Segment::NONE };
        let end = |last| SocketAddrV4::new([10, 0, 0, last].into(), 5);
        Packet::tcp(end(1), end(2), flags, &vec![byte; length])
    }

    #[test]
    fn what_is_changed_has_a_valid_checksum_and_its_length() {
        let mut entropy = ChaCha8Rng::seed_from_u64(1);
        for length in [BYTES_MIN, BYTES_MIN + 1, 1000] {
            for how in [Tampering::Flip, Tampering::Repeat] {
                let mut tamper = Tamper::new(how, 1_000_000);
                assert_eq!(tamper.touch(&mut entropy, &mut segment(1, length)), how == Tampering::Flip);
                let mut packet = segment(2, length);
                assert!(tamper.touch(&mut entropy, &mut packet));
                assert!(packet.checksums_are_valid());
                assert_eq!(packet.stream_bytes().len(), length);
                assert_eq!(packet.stream_bytes() == vec![1; length], how == Tampering::Repeat);
                assert_eq!(packet.stream_bytes()[..KEPT_BYTES] == [2; KEPT_BYTES], how == Tampering::Flip);
            }
        }
        let mut tamper = Tamper::new(Tampering::Flip, 1_000_000);
        assert!(!tamper.touch(&mut entropy, &mut segment(1, BYTES_MIN - 1)));
        assert!(!Tamper::new(Tampering::Flip, 0).touch(&mut entropy, &mut segment(1, 100)));
    }
}
