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
    /// The length is beyond the limit.
    #[error("a record of {0} bytes, the limit is {RECORD_BYTES_MAX}")]
    TooLong(u32),
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

    /// Seals the bytes behind the first [`HEADER_BYTES`] of `record`, and appends the tag.
    ///
    /// # Panics
    /// If there are more than [`RECORD_BYTES_MAX`], or no room for a header.
    pub fn seal(&mut self, record: &mut Vec<u8>) {
        let length = record.len() - HEADER_BYTES;
        assert!(length <= RECORD_BYTES_MAX, "callers cut what they send");
        let header = u32::try_from(length).expect("RECORD_BYTES_MAX fits").to_be_bytes();
        record[..HEADER_BYTES].copy_from_slice(&header);
        let nonce = self.next(length);
        let tag = if self.encrypts {
            self.cipher.seal(nonce, &header, &mut record[HEADER_BYTES..])
        } else {
            self.cipher.seal(nonce, record, &mut [])
        };
        record.extend_from_slice(&tag);
    }

    /// Length of a whole record, from its header.
    ///
    /// # Errors
    /// [`RecordError::TooLong`].
    pub fn record_bytes(header: [u8; HEADER_BYTES]) -> Result<usize, RecordError> {
        let length = u32::from_be_bytes(header);
        match usize::try_from(length) {
            Ok(bytes) if bytes <= RECORD_BYTES_MAX => Ok(HEADER_BYTES + bytes + TAG_BYTES),
            _ => Err(RecordError::TooLong(length)),
        }
    }

    /// Opens a whole record in place; its bytes lie between header and tag.
    ///
    /// # Errors
    /// [`RecordError::Tag`].
    ///
    /// # Panics
    /// If it is shorter than header and tag.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(), RecordError> {
        let nonce = self.next(record.len() - HEADER_BYTES - TAG_BYTES);
        let secret_at = if self.encrypts { HEADER_BYTES } else { record.len() - TAG_BYTES };
        let (clear, secret) = record.split_at_mut(secret_at);
        let before = planted::is(planted::Fault::WrongMacAccepted).then(|| secret.to_vec());
        let opened = self.cipher.open(nonce, clear, secret);
        if let (Err(_), Some(before)) = (&opened, before) {
            let text = before.len() - TAG_BYTES;
            secret.copy_from_slice(&before);
            // The stream of the cipher, applied twice, is gone.
            self.cipher.seal(nonce, clear, &mut secret[..text]);
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
        let mut record = vec![0; HEADER_BYTES];
        record.extend_from_slice(bytes);
        direction.seal(&mut record);
        record
    }

    fn opened(direction: &mut Direction, mut record: Vec<u8>) -> Result<Vec<u8>, RecordError> {
        let header = record.first_chunk().copied().expect("a header");
        assert_eq!(Direction::record_bytes(header)?, record.len());
        direction.open(&mut record)?;
        Ok(record[HEADER_BYTES..record.len() - TAG_BYTES].to_vec())
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
    fn a_long_record_is_refused_by_its_header() {
        let header = (u32::try_from(RECORD_BYTES_MAX).expect("fits") + 1).to_be_bytes();
        assert!(matches!(Direction::record_bytes(header), Err(RecordError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn any_changed_bit_is_noticed(
            encrypted: bool, bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<proptest::sample::Index>(),
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
