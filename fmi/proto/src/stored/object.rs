//! How a body in a store is sealed, for one reader. Pure.
//!
//! A body is a byte that names its form, 16 bytes of salt, the sealed bytes, and a tag. The key of a body is made of the secret of the
//! pair, the direction, the salt and the name, and seals nothing else. The salt is a hash of name and bytes under a key of the pair: whoever
//! repeats a request sends the same bytes, and a clone of a process that says something else under the same name does so
//! under another key.

use std::fmt;

use super::names::Spot;
use crate::card::Security;
use crate::cipher::{Cipher, NONCE_BYTES, Suite, TAG_BYTES};
use crate::derive::{self, KeyBytes};
use crate::key::Key;

/// Bytes of a salt.
const SALT_BYTES: usize = 16;
/// What a body begins with: its form.
const FORM_BYTES: usize = 1;
/// What sealing adds, at most.
pub const OVERHEAD_BYTES: usize = FORM_BYTES + SALT_BYTES + TAG_BYTES;

/// A body is not what was put there for this reader under this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// The tag does not fit: it was changed, cut, or comes from another name.
    #[error("it was changed, cut, or put there under another name")]
    Tag,
    /// It is shorter than any.
    #[error("it has {0} bytes, which is shorter than any message")]
    Short(usize),
    /// It has a form that the group does not use.
    #[error("it has form {theirs}, the group uses form {ours}")]
    Form {
        /// That of the body.
        theirs: u8,
        /// That of the group.
        ours: u8,
    },
}

/// Seals or opens the bodies of one direction between two ranks.
pub struct Sealer {
    security: Security,
    suite: Suite,
    /// Of all bodies, each of whose keys is made of it.
    objects: KeyBytes,
    salts: KeyBytes,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("security", &self.security).finish_non_exhaustive()
    }
}

impl Sealer {
    /// For what `from` has for `to`, which share `secret`.
    pub fn new(security: Security, suite: Suite, secret: &KeyBytes, from: u32, to: u32) -> Self {
        let of = |label| KeyBytes::new(label, &[secret.as_bytes(), &from.to_be_bytes(), &to.to_be_bytes()]);
        Self { security, suite, objects: of(derive::OBJECTS), salts: of(derive::SALTS) }
    }

    /// For a pair of ranks that never meet, and share the key of their group alone: what seals for `to`, as rank `from`, and what
    /// opens what that one has sealed.
    pub fn apart(key: &Key, security: Security, from: u32, to: u32) -> (Self, Self) {
        let (low, high) = (from.min(to), from.max(to));
        let secret = key.derive(derive::APART, &[&low.to_be_bytes(), &high.to_be_bytes(), &[security.code()]]);
        // The one that everybody has.
        let sealer = |from, to| Self::new(security, Suite::ChaCha20Poly1305, &secret, from, to);
        (sealer(from, to), sealer(to, from))
    }

    fn name(spot: &Spot) -> [u8; 24] {
        let mut name = [0; 24];
        name[..8].copy_from_slice(&spot.shelf.to_be_bytes());
        name[8..].copy_from_slice(&spot.id);
        name
    }

    fn cipher(&self, name: &[u8], salt: &[u8]) -> Cipher {
        let key = KeyBytes::new(derive::OBJECT, &[self.objects.as_bytes(), salt, name]);
        Cipher::new(self.suite, key.as_bytes())
    }

    /// Seals what lies at `spot`.
    pub fn seal(&self, spot: &Spot, plain: &[u8]) -> Vec<u8> {
        let name = Self::name(spot);
        let mut body = Vec::with_capacity(plain.len() + OVERHEAD_BYTES);
        body.push(self.security.code());
        if self.security == Security::Plaintext {
            body.extend_from_slice(plain);
            return body;
        }
        let salt = &self.salts.tag(&[&name, plain]).0[..SALT_BYTES];
        body.extend_from_slice(salt);
        let cipher = self.cipher(&name, salt);
        let start = body.len();
        if self.security == Security::Encrypted {
            body.resize(start + plain.len() + TAG_BYTES, 0);
            cipher.seal([0; NONCE_BYTES], &name, plain, &mut body[start..]);
        } else {
            body.extend_from_slice(plain);
            body.resize(start + plain.len() + TAG_BYTES, 0);
            let also = [&name, plain].concat();
            cipher.seal([0; NONCE_BYTES], &also, &[], &mut body[start + plain.len()..]);
        }
        body
    }

    /// Opens what lay at `spot`.
    ///
    /// # Errors
    /// Whatever is not what was sealed for this spot.
    pub fn open(&self, spot: &Spot, body: &[u8]) -> Result<Vec<u8>, ObjectError> {
        let name = Self::name(spot);
        let short = || ObjectError::Short(body.len());
        let (&theirs, rest) = body.split_first().ok_or_else(short)?;
        let ours = self.security.code();
        if theirs != ours {
            return Err(ObjectError::Form { theirs, ours });
        }
        if self.security == Security::Plaintext {
            return Ok(rest.to_vec());
        }
        let (salt, sealed) = rest.split_at_checked(SALT_BYTES).ok_or_else(short)?;
        let length = sealed.len().checked_sub(TAG_BYTES).ok_or_else(short)?;
        let cipher = self.cipher(&name, salt);
        if self.security == Security::Encrypted {
            let mut plain = vec![0; length];
            cipher.open([0; NONCE_BYTES], &name, sealed, &mut plain).map_err(|_| ObjectError::Tag)?;
            return Ok(plain);
        }
        let (plain, tag) = sealed.split_at(length);
        let also = [&name, plain].concat();
        cipher.open([0; NONCE_BYTES], &also, tag, &mut []).map_err(|_| ObjectError::Tag)?;
        Ok(plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPOT: Spot = Spot { shelf: 7, id: [9; 16] };

    fn sealer(security: Security, secret: u8, from: u32, to: u32) -> Sealer {
        Sealer::new(security, Suite::Aes256Gcm, &KeyBytes::from([secret; 32]), from, to)
    }

    #[test]
    fn a_body_opens_at_its_spot_for_its_reader_alone() {
        for security in [Security::Encrypted, Security::Authenticated] {
            let body = sealer(security, 1, 0, 1).seal(&SPOT, b"text of the message");
            let opened = |sealer: Sealer, spot: &Spot| sealer.open(spot, &body);
            assert_eq!(opened(sealer(security, 1, 0, 1), &SPOT).as_deref(), Ok(&b"text of the message"[..]));
            let visible = body.windows(4).any(|part| part == b"text");
            assert_eq!(visible, security == Security::Authenticated);
            for (secret, from, to) in [(2, 0, 1), (1, 1, 0), (1, 0, 2)] {
                assert_eq!(opened(sealer(security, secret, from, to), &SPOT), Err(ObjectError::Tag));
            }
            for spot in [Spot { shelf: 8, ..SPOT }, Spot { id: [8; 16], ..SPOT }] {
                assert_eq!(opened(sealer(security, 1, 0, 1), &spot), Err(ObjectError::Tag));
            }
            let other = sealer(Security::Plaintext, 1, 0, 1).open(&SPOT, &body);
            assert_eq!(other, Err(ObjectError::Form { theirs: security.code(), ours: Security::Plaintext.code() }));
        }
    }

    #[test]
    fn a_retry_sends_the_same_bytes_and_other_bytes_have_another_key() {
        let sealer = sealer(Security::Encrypted, 1, 0, 1);
        let salt = |body: &[u8]| body[1..=SALT_BYTES].to_vec();
        let (one, again, other) = (sealer.seal(&SPOT, b"one"), sealer.seal(&SPOT, b"one"), sealer.seal(&SPOT, b"two"));
        assert_eq!(one, again);
        assert_ne!(salt(&one), salt(&other));
        assert_ne!(salt(&one), salt(&sealer.seal(&Spot { shelf: 1, ..SPOT }, b"one")));
    }

    #[test]
    fn ranks_that_never_meet_have_a_key_of_their_group_and_pair() {
        let (key, other) = (Key::new("g", b"one"), Key::new("g", b"two"));
        let security = Security::Encrypted;
        let body = Sealer::apart(&key, security, 0, 1).0.seal(&SPOT, b"text");
        assert_eq!(Sealer::apart(&key, security, 1, 0).1.open(&SPOT, &body).as_deref(), Ok(&b"text"[..]));
        for (_, opens) in [Sealer::apart(&other, security, 1, 0), Sealer::apart(&key, security, 2, 0)] {
            assert_eq!(opens.open(&SPOT, &body), Err(ObjectError::Tag));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_changed_is_refused(
            mode in 0..3usize, text in proptest::collection::vec(any::<u8>(), 0..200), bit: proptest::sample::Index,
            cut: proptest::sample::Index,
        ) {
            let security = [Security::Encrypted, Security::Authenticated, Security::Plaintext][mode];
            let sealer = sealer(security, 3, 4, 5);
            let body = sealer.seal(&SPOT, &text);
            prop_assert!(body.len() <= text.len() + OVERHEAD_BYTES);
            prop_assert_eq!(sealer.open(&SPOT, &body), Ok(text));
            let mut changed = body.clone();
            let at = bit.index(8 * body.len());
            changed[at / 8] ^= 1 << (at % 8);
            let shorter = &body[..cut.index(body.len())];
            if security != Security::Plaintext {
                prop_assert!(sealer.open(&SPOT, &changed).is_err());
                prop_assert!(sealer.open(&SPOT, shorter).is_err());
            }
        }

        #[test]
        fn no_bytes_from_a_store_panic(mode in 0..3usize, body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let security = [Security::Encrypted, Security::Authenticated, Security::Plaintext][mode];
            let _ = sealer(security, 3, 4, 5).open(&SPOT, &body);
        }
    }
}
