//! ChaCha20-Poly1305 of one of two libraries, which give the same bytes: AWS-LC, which is several times as fast, or one
//! of Rust alone (without the feature `aws-lc`). Pure.

#[cfg(not(feature = "aws-lc"))]
pub(crate) use self::pure::Cipher;
#[cfg(feature = "aws-lc")]
pub(crate) use self::swift::Cipher;

/// Bytes of a tag.
pub(crate) const TAG_BYTES: usize = 16;
/// Bytes of a nonce, which is never used twice under one key.
pub(crate) const NONCE_BYTES: usize = 12;

/// A tag does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forged;

#[cfg(feature = "aws-lc")]
mod swift {
    use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

    use super::{Forged, NONCE_BYTES, TAG_BYTES};

    /// A key at work; the library wipes it in the end.
    pub(crate) struct Cipher(LessSafeKey);

    impl Cipher {
        pub(crate) fn new(key: &[u8; 32]) -> Self {
            let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("a key of this cipher has 32 bytes");
            Self(LessSafeKey::new(key))
        }

        /// Encrypts `bytes` in place; the tag covers `also` as well.
        pub(crate) fn seal(&self, nonce: [u8; NONCE_BYTES], also: &[u8], bytes: &mut [u8]) -> [u8; TAG_BYTES] {
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(also), bytes);
            let tag = tag.expect("a record is far below the limit of the cipher");
            tag.as_ref().try_into().expect("a tag has 16 bytes")
        }

        /// Decrypts in place the bytes that stand before the tag in `bytes`.
        pub(crate) fn open(&self, nonce: [u8; NONCE_BYTES], also: &[u8], bytes: &mut [u8]) -> Result<(), Forged> {
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.0.open_in_place(nonce, Aad::from(also), bytes).map(drop).map_err(|_| Forged)
        }
    }
}

#[cfg(any(test, not(feature = "aws-lc")))]
mod pure {
    use chacha20poly1305::aead::{AeadInPlace, KeyInit};
    use chacha20poly1305::{ChaCha20Poly1305, Tag};

    use super::{Forged, NONCE_BYTES, TAG_BYTES};

    /// A key at work, wiped in the end.
    pub(crate) struct Cipher(ChaCha20Poly1305);

    impl Cipher {
        pub(crate) fn new(key: &[u8; 32]) -> Self {
            Self(ChaCha20Poly1305::new(key.into()))
        }

        /// Encrypts `bytes` in place; the tag covers `also` as well.
        pub(crate) fn seal(&self, nonce: [u8; NONCE_BYTES], also: &[u8], bytes: &mut [u8]) -> [u8; TAG_BYTES] {
            let tag = self.0.encrypt_in_place_detached(&nonce.into(), also, bytes);
            tag.expect("a record is far below the limit of the cipher").into()
        }

        /// Decrypts in place the bytes that stand before the tag in `bytes`.
        pub(crate) fn open(&self, nonce: [u8; NONCE_BYTES], also: &[u8], bytes: &mut [u8]) -> Result<(), Forged> {
            let (bytes, tag) = bytes.split_at_mut(bytes.len().checked_sub(TAG_BYTES).ok_or(Forged)?);
            let opened = self.0.decrypt_in_place_detached(&nonce.into(), also, bytes, Tag::from_slice(tag));
            opened.map_err(|_| Forged)
        }
    }
}

#[cfg(all(test, feature = "aws-lc"))]
mod tests {
    //! Goal: it does not matter which library either end was built with. Method: each is the oracle of the other.

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_libraries_give_the_same_bytes(
            key: [u8; 32], nonce: [u8; NONCE_BYTES], also in proptest::collection::vec(any::<u8>(), 0..40),
            text in proptest::collection::vec(any::<u8>(), 0..300), flipped in proptest::option::of(any::<proptest::sample::Index>()),
        ) {
            let (swift, pure) = (Cipher::new(&key), pure::Cipher::new(&key));
            let (mut ours, mut theirs) = (text.clone(), text.clone());
            let (tag, other) = (swift.seal(nonce, &also, &mut ours), pure.seal(nonce, &also, &mut theirs));
            prop_assert_eq!((&ours, tag), (&theirs, other));
            ours.extend(tag);
            if let Some(flipped) = flipped {
                let bit = flipped.index(8 * ours.len());
                ours[bit / 8] ^= 1 << (bit % 8);
            }
            theirs.clone_from(&ours);
            let opened = swift.open(nonce, &also, &mut ours);
            prop_assert_eq!(opened, pure.open(nonce, &also, &mut theirs));
            prop_assert_eq!(opened.is_ok(), flipped.is_none());
            if opened.is_ok() {
                prop_assert_eq!(&ours[..text.len()], &text[..]);
            }
        }
    }
}
