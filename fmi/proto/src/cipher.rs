//! Authenticated encryption: AES-256-GCM where the processors of both ends are made for it, else ChaCha20-Poly1305. Either
//! is of one of two libraries, which give the same bytes: AWS-LC, which is several times as fast, or one of Rust alone
//! (without the feature `aws-lc`). Pure.

use super::wire::WireError;

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

/// What makes records of the bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Suite {
    /// ChaCha20-Poly1305 (RFC 8439), which is fast everywhere.
    ChaCha20Poly1305,
    /// AES-256-GCM (NIST SP 800-38D), which is faster where the processor has instructions for it, and slow and harder to
    /// protect against measurements of time where it has not.
    Aes256Gcm,
}

impl Suite {
    /// As the keys of a pair have it.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::ChaCha20Poly1305 => 1,
            Self::Aes256Gcm => 2,
        }
    }
}

/// The suites that a rank offers. Everybody offers ChaCha20-Poly1305.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suites(u8);

impl Suites {
    const CHACHA: u8 = 1;
    const AES: u8 = 2;
    /// Both.
    const KNOWN: u8 = 3;

    /// Those of a machine, whose processor has instructions for AES or not.
    pub fn of_machine(has_aes: bool) -> Self {
        Self(if has_aes { Self::KNOWN } else { Self::CHACHA })
    }

    /// The best suite that both offer.
    pub fn best_of(self, other: Self) -> Suite {
        if self.0 & other.0 & Self::AES != 0 { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 }
    }

    /// As on a card.
    pub(crate) fn code(self) -> u8 {
        self.0
    }

    /// From a card. Suites that this version does not know are nobody's loss.
    ///
    /// # Errors
    /// [`WireError::Value`] without the one that everybody offers.
    pub(crate) fn from_code(code: u8) -> Result<Self, WireError> {
        if code & Self::CHACHA == 0 {
            return Err(WireError::Value { field: "suites", value: u64::from(code) });
        }
        Ok(Self(code & Self::KNOWN))
    }
}

#[cfg(feature = "aws-lc")]
mod swift {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

    use super::{Forged, NONCE_BYTES, Suite};

    /// A key at work; the library wipes it in the end.
    pub(crate) struct Cipher(LessSafeKey);

    impl Cipher {
        pub(crate) fn new(suite: Suite, key: &[u8; 32]) -> Self {
            let algorithm = match suite {
                Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
                Suite::Aes256Gcm => &AES_256_GCM,
            };
            let key = UnboundKey::new(algorithm, key).expect("a key of either cipher has 32 bytes");
            Self(LessSafeKey::new(key))
        }

        /// Encrypts `plain` into `sealed`, which is longer by the tag behind it; the tag covers `also` as well.
        pub(crate) fn seal(&self, nonce: [u8; NONCE_BYTES], also: &[u8], plain: &[u8], sealed: &mut [u8]) {
            let (bytes, tag) = sealed.split_at_mut(plain.len());
            let nonce = Nonce::assume_unique_for_key(nonce);
            let done = self.0.seal_out_of_place_scatter(nonce, Aad::from(also), plain, bytes, &[], tag);
            done.expect("a record is far below the limit of the cipher");
        }

        /// Decrypts `sealed` with the tag behind it into `plain`.
        pub(crate) fn open(
            &self,
            nonce: [u8; NONCE_BYTES],
            also: &[u8],
            sealed: &[u8],
            plain: &mut [u8],
        ) -> Result<(), Forged> {
            let (bytes, tag) = sealed.split_at(plain.len());
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.0.open_separate_gather(nonce, Aad::from(also), bytes, tag, plain).map_err(|_| Forged)
        }
    }
}

#[cfg(any(test, not(feature = "aws-lc")))]
mod pure {
    use aes_gcm::Aes256Gcm;
    use chacha20poly1305::aead::{AeadInPlace, KeyInit, Result as AeadResult};
    use chacha20poly1305::{ChaCha20Poly1305, Tag};

    use super::{Forged, NONCE_BYTES, Suite};

    /// A key at work, wiped in the end.
    pub(crate) enum Cipher {
        ChaCha(Box<ChaCha20Poly1305>),
        Aes(Box<Aes256Gcm>),
    }

    impl Cipher {
        pub(crate) fn new(suite: Suite, key: &[u8; 32]) -> Self {
            match suite {
                Suite::ChaCha20Poly1305 => Self::ChaCha(Box::new(ChaCha20Poly1305::new(key.into()))),
                Suite::Aes256Gcm => Self::Aes(Box::new(Aes256Gcm::new(key.into()))),
            }
        }

        /// Encrypts `plain` into `sealed`, which is longer by the tag behind it; the tag covers `also` as well.
        pub(crate) fn seal(&self, nonce: [u8; NONCE_BYTES], also: &[u8], plain: &[u8], sealed: &mut [u8]) {
            let (bytes, end) = sealed.split_at_mut(plain.len());
            bytes.copy_from_slice(plain);
            let tag: AeadResult<Tag> = match self {
                Self::ChaCha(cipher) => cipher.encrypt_in_place_detached(&nonce.into(), also, bytes),
                Self::Aes(cipher) => cipher.encrypt_in_place_detached(&nonce.into(), also, bytes),
            };
            end.copy_from_slice(&tag.expect("a record is far below the limit of the cipher"));
        }

        /// Decrypts `sealed` with the tag behind it into `plain`.
        pub(crate) fn open(
            &self,
            nonce: [u8; NONCE_BYTES],
            also: &[u8],
            sealed: &[u8],
            plain: &mut [u8],
        ) -> Result<(), Forged> {
            let (bytes, tag) = sealed.split_at(plain.len());
            let tag = Tag::from_slice(tag);
            plain.copy_from_slice(bytes);
            let opened = match self {
                Self::ChaCha(cipher) => cipher.decrypt_in_place_detached(&nonce.into(), also, plain, tag),
                Self::Aes(cipher) => cipher.decrypt_in_place_detached(&nonce.into(), also, plain, tag),
            };
            opened.map_err(|_| Forged)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_suite_of_two_is_one_that_both_offer_and_unknown_ones_change_nothing() {
        for code in 0..=255u8 {
            let Ok(suites) = Suites::from_code(code) else {
                assert!(code.is_multiple_of(2), "everybody offers ChaCha20-Poly1305");
                continue;
            };
            let has_aes = code >> 1 & 1 == 1;
            assert!(!code.is_multiple_of(2));
            assert_eq!(suites, Suites::of_machine(has_aes));
            assert_eq!(Suites::from_code(suites.code()), Ok(suites));
            for other_has_aes in [false, true] {
                let both = has_aes && other_has_aes;
                let best = if both { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 };
                assert_eq!(suites.best_of(Suites::of_machine(other_has_aes)), best);
            }
        }
    }
}

#[cfg(all(test, feature = "aws-lc"))]
mod both {
    //! Goal: it does not matter which library either end was built with. Method: each is the oracle of the other.

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_libraries_give_the_same_bytes(
            aes: bool, key: [u8; 32], nonce: [u8; NONCE_BYTES], also in proptest::collection::vec(any::<u8>(), 0..40),
            text in proptest::collection::vec(any::<u8>(), 0..300), flipped in proptest::option::of(any::<proptest::sample::Index>()),
        ) {
            let suite = if aes { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 };
            let (swift, pure) = (Cipher::new(suite, &key), pure::Cipher::new(suite, &key));
            let mut sealed = vec![0; text.len() + TAG_BYTES];
            let mut other = sealed.clone();
            swift.seal(nonce, &also, &text, &mut sealed);
            pure.seal(nonce, &also, &text, &mut other);
            prop_assert_eq!(&sealed, &other);
            if let Some(flipped) = flipped {
                let bit = flipped.index(8 * sealed.len());
                sealed[bit / 8] ^= 1 << (bit % 8);
            }
            let (mut ours, mut theirs) = (vec![0; text.len()], vec![0; text.len()]);
            let opened = swift.open(nonce, &also, &sealed, &mut ours);
            prop_assert_eq!(opened, pure.open(nonce, &also, &sealed, &mut theirs));
            prop_assert_eq!(opened.is_ok(), flipped.is_none());
            if opened.is_ok() {
                prop_assert_eq!((&ours, &theirs), (&text, &text));
            }
        }
    }
}
