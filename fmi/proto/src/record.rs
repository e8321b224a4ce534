//! Records: how the bytes of a protected stream look. Pure.
//!
//! A record is a length of four bytes, as many bytes, and a tag of 16. Encrypted, the bytes are
//! ciphertext; authenticated, they are as they were. Either way the tag covers length and bytes under a
//! key of this stream and direction and the number of the record, so a record that is changed, dropped,
//! repeated, moved or reflected ends the stream. After [`REKEY_AFTER`] records, or [`REKEY_BYTES`], the key is replaced by
//! one that is derived from it, on both sides alike: a key that is stolen later does not read what came before.

use std::fmt;

use fmi_net::planted;

use super::card::Security;
use super::cipher::{Cipher, NONCE_BYTES, Suite};
use super::derive::{self, KeyBytes};

/// Most bytes of the application in one record.
pub const RECORD_BYTES_MAX: usize = 64 << 10;
/// Length field.
pub const HEADER_BYTES: usize = 4;
/// Tag.
pub const TAG_BYTES: usize = super::cipher::TAG_BYTES;
/// What a record adds to the bytes of the application.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;
/// Records under one key.
pub const REKEY_AFTER: u64 = 1 << 16;
/// Bytes of the application under one key, but for the end of the record that reaches it: far below the limits of the
/// ciphers. It bounds what a stolen key shows of the past.
pub const REKEY_BYTES: u64 = 1 << 30;

/// A record does not verify: somebody changed the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The tag does not fit.
    #[error("a record does not verify: the stream was changed on the way")]
    Tag,
    /// No record has this length.
    #[error("a record of {0} bytes: it has 1 to {RECORD_BYTES_MAX}")]
    Length(u32),
}

/// One direction of a protected stream.
pub struct Direction {
    suite: Suite,
    key: KeyBytes,
    cipher: Cipher,
    encrypts: bool,
    number: u64,
    /// Records and bytes under this key.
    used: (u64, u64),
    limits: (u64, u64),
}

impl fmt::Debug for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direction").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Direction {
    /// Starts a direction.
    pub fn new(security: Security, suite: Suite, key: impl Into<KeyBytes>) -> Self {
        Self::rekeyed_after(security, suite, key.into(), (REKEY_AFTER, REKEY_BYTES))
    }

    fn rekeyed_after(security: Security, suite: Suite, key: KeyBytes, limits: (u64, u64)) -> Self {
        let cipher = Cipher::new(suite, key.as_bytes());
        Self { suite, key, cipher, encrypts: security == Security::Encrypted, number: 0, used: (0, 0), limits }
    }

    /// The nonce of the next record, which has so many bytes of the application.
    fn next(&mut self, bytes: usize) -> [u8; NONCE_BYTES] {
        if self.used.0 >= self.limits.0 || self.used.1 >= self.limits.1 {
            self.key = KeyBytes::new(derive::NEXT, &[self.key.as_bytes()]);
            self.cipher = Cipher::new(self.suite, self.key.as_bytes());
            self.used = (0, 0);
        }
        let mut nonce = [0; NONCE_BYTES];
        if !planted::is(planted::Fault::FixedNonce) {
            nonce[4..].copy_from_slice(&self.number.to_be_bytes());
        }
        // A stream of 2^64 records takes longer than anybody lives.
        self.number += 1;
        self.used = (self.used.0 + 1, self.used.1 + bytes as u64);
        nonce
    }

    /// Seals `plain` as a record, which is [`OVERHEAD_BYTES`] longer.
    ///
    /// # Panics
    /// If `plain` is empty or longer than [`RECORD_BYTES_MAX`], or `record` has another length.
    pub fn seal(&mut self, plain: &[u8], record: &mut [u8]) {
        assert!((1..=RECORD_BYTES_MAX).contains(&plain.len()), "callers cut what they send");
        assert_eq!(record.len(), plain.len() + OVERHEAD_BYTES, "as long as the record");
        let nonce = self.next(plain.len());
        let header = u32::try_from(plain.len()).expect("RECORD_BYTES_MAX fits").to_be_bytes();
        record[..HEADER_BYTES].copy_from_slice(&header);
        if self.encrypts {
            self.cipher.seal(nonce, &header, plain, &mut record[HEADER_BYTES..]);
        } else {
            let (clear, tag) = record.split_at_mut(HEADER_BYTES + plain.len());
            clear[HEADER_BYTES..].copy_from_slice(plain);
            self.cipher.seal(nonce, clear, &[], tag);
        }
    }

    /// Length of a whole record, from its header.
    ///
    /// # Errors
    /// [`RecordError::Length`].
    pub fn record_bytes(header: [u8; HEADER_BYTES]) -> Result<usize, RecordError> {
        let length = u32::from_be_bytes(header);
        match usize::try_from(length) {
            Ok(bytes) if (1..=RECORD_BYTES_MAX).contains(&bytes) => Ok(bytes + OVERHEAD_BYTES),
            _ => Err(RecordError::Length(length)),
        }
    }

    /// Opens a whole record into `plain`, which is [`OVERHEAD_BYTES`] shorter. What it holds after an error is of no use.
    ///
    /// # Errors
    /// [`RecordError::Tag`].
    ///
    /// # Panics
    /// If `plain` has another length.
    pub fn open(&mut self, record: &[u8], plain: &mut [u8]) -> Result<(), RecordError> {
        assert_eq!(record.len(), plain.len() + OVERHEAD_BYTES, "as long as what the record has");
        let nonce = self.next(plain.len());
        let (header, sealed) = record.split_at(HEADER_BYTES);
        let opened = if self.encrypts {
            self.cipher.open(nonce, header, sealed, plain)
        } else {
            let (clear, tag) = record.split_at(HEADER_BYTES + plain.len());
            plain.copy_from_slice(&clear[HEADER_BYTES..]);
            self.cipher.open(nonce, clear, tag, &mut [])
        };
        if opened.is_err() && planted::is(planted::Fault::WrongMacAccepted) {
            if self.encrypts {
                // The stream of the cipher, applied twice, is gone.
                let mut twice = vec![0; sealed.len()];
                self.cipher.seal(nonce, header, &sealed[..plain.len()], &mut twice);
                plain.copy_from_slice(&twice[..plain.len()]);
            }
            return Ok(());
        }
        opened.map_err(|_| RecordError::Tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealed(direction: &mut Direction, bytes: &[u8]) -> Vec<u8> {
        let mut record = vec![0; bytes.len() + OVERHEAD_BYTES];
        direction.seal(bytes, &mut record);
        record
    }

    fn opened(direction: &mut Direction, record: Vec<u8>) -> Result<Vec<u8>, RecordError> {
        let header = record.first_chunk().copied().expect("a header");
        assert_eq!(Direction::record_bytes(header)?, record.len());
        let mut plain = vec![0; record.len() - OVERHEAD_BYTES];
        direction.open(&record, &mut plain)?;
        Ok(plain)
    }

    const SUITES: [Suite; 2] = [Suite::ChaCha20Poly1305, Suite::Aes256Gcm];

    fn key(number: u8) -> KeyBytes {
        KeyBytes::new(derive::UP, &[&[number; 32]])
    }

    fn ends_limited(security: Security, suite: Suite, limits: (u64, u64)) -> (Direction, Direction) {
        let end = || Direction::rekeyed_after(security, suite, key(1), limits);
        (end(), end())
    }

    fn ends(security: Security) -> (Direction, Direction) {
        ends_limited(security, Suite::ChaCha20Poly1305, (3, 1000))
    }

    #[test]
    fn bytes_come_back_over_several_keys_and_are_hidden_only_when_encrypted() {
        let modes = [Security::Encrypted, Security::Authenticated];
        for (security, suite) in modes.into_iter().flat_map(|mode| SUITES.map(|suite| (mode, suite))) {
            let (mut sender, mut receiver) = ends_limited(security, suite, (3, 1000));
            let first_key = *sender.key.as_bytes();
            for number in 0..10u8 {
                let text = [b"a plain text", &[number][..]].concat();
                let record = sealed(&mut sender, &text);
                let is_readable = record.windows(12).any(|window| window == b"a plain text");
                assert_eq!(is_readable, security == Security::Authenticated);
                assert_eq!(opened(&mut receiver, record), Ok(text));
            }
            assert_ne!(*sender.key.as_bytes(), first_key, "the key has been replaced");
        }
    }

    #[test]
    fn what_is_dropped_repeated_swapped_or_reflected_is_noticed() {
        for security in [Security::Encrypted, Security::Authenticated] {
            let records = || {
                let (mut sender, receiver) = ends(security);
                let records: Vec<_> = (0..4u8).map(|number| sealed(&mut sender, &[number; 8])).collect();
                (records, receiver)
            };
            for order in [&[1][..], &[0, 0], &[0, 2], &[0, 1, 3]] {
                let (records, mut receiver) = records();
                let results: Vec<_> =
                    order.iter().map(|number| opened(&mut receiver, records[*number].clone())).collect();
                assert_eq!(results.last(), Some(&Err(RecordError::Tag)), "{order:?}");
            }
            let (mine, _) = records();
            let mut other = Direction::new(security, Suite::ChaCha20Poly1305, key(2));
            assert_eq!(opened(&mut other, mine[0].clone()), Err(RecordError::Tag), "the other direction's key");
        }
    }

    #[test]
    fn keys_are_replaced_after_records_or_bytes_and_numbers_go_on() {
        // The fourth record is the first under another key, or the third, whose predecessor reached the bytes.
        for (limits, bytes, replaced_at) in [((3, 1000), 1, [3, 6]), ((100, 20), 10, [2, 4]), ((100, 20), 19, [2, 4])] {
            let (mut sender, mut receiver) = ends_limited(Security::Encrypted, Suite::Aes256Gcm, limits);
            let mut replaced = Vec::new();
            for number in 0..7 {
                let before = *sender.key.as_bytes();
                let record = sealed(&mut sender, &vec![7; bytes]);
                if *sender.key.as_bytes() != before {
                    replaced.push(number);
                }
                assert_eq!(opened(&mut receiver, record), Ok(vec![7; bytes]));
                assert_eq!((sender.number, sender.key.as_bytes()), (number + 1, receiver.key.as_bytes()));
            }
            assert_eq!(replaced[..2], replaced_at, "{limits:?}");
        }
    }

    #[test]
    fn a_fresh_direction_keeps_its_key_for_many_records_and_shows_only_their_number() {
        let (security, suite) = (Security::Encrypted, Suite::ChaCha20Poly1305);
        let mut sender = Direction::new(security, suite, key(1));
        for number in 0..300u16 {
            assert_eq!(format!("{sender:?}"), format!("Direction {{ number: {number}, .. }}"));
            sealed(&mut sender, &[7; 1000]);
        }
        assert_eq!(sender.key.as_bytes(), key(1).as_bytes());
    }

    #[test]
    fn a_record_of_no_or_too_many_bytes_is_refused_by_its_header() {
        let length = |bytes: usize| Direction::record_bytes(u32::try_from(bytes).expect("fits").to_be_bytes());
        for bytes in [0, RECORD_BYTES_MAX + 1, u32::MAX as usize] {
            assert!(matches!(length(bytes), Err(RecordError::Length(_))), "{bytes}");
        }
        for bytes in [1, RECORD_BYTES_MAX] {
            assert_eq!(length(bytes), Ok(bytes + HEADER_BYTES + TAG_BYTES));
        }
    }

    proptest! {
        #[test]
        fn any_changed_bit_is_noticed(
            encrypted: bool, bytes in proptest::collection::vec(any::<u8>(), 1..200), at in any::<proptest::sample::Index>(),
        ) {
            let security = if encrypted { Security::Encrypted } else { Security::Authenticated };
            let (mut sender, mut receiver) = ends(security);
            let mut record = sealed(&mut sender, &bytes);
            // A changed length is noticed by the tag once as many bytes are there.
            let bit = HEADER_BYTES * 8 + at.index((record.len() - HEADER_BYTES) * 8);
            record[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(opened(&mut receiver, record), Err(RecordError::Tag));
        }
    }
}
