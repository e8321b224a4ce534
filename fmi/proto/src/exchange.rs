//! X25519: the key pair of one registration, and what two of them share. Pure: secrets are given.
//!
//! One of two libraries, which give the same bytes: AWS-LC, or one of Rust alone (without the feature `aws-lc`).

use std::fmt;

use fmi_net::noted;
use zeroize::ZeroizeOnDrop;

use crate::derive::KeyBytes;

/// Where the secret of one key pair comes from. Used once.
pub type Seed = [u8; 32];
/// A public key.
pub type PublicKey = [u8; 32];

/// The peer's public key is none: a point of low order, with which everybody shares the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer's public key is of low order")]
pub struct LowOrder;

/// The key pair of one registration. Its secret does not move in memory, and is wiped in the end.
pub struct KeyPair {
    secret: library::Secret,
    public: PublicKey,
}

/// Its only secret part is wiped.
impl ZeroizeOnDrop for KeyPair {}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").finish_non_exhaustive()
    }
}

impl KeyPair {
    /// Makes a pair from a seed.
    pub fn from_seed(seed: Seed) -> Self {
        noted::note("the secret of a registration", &seed);
        let secret = library::Secret::new(KeyBytes::from(seed).as_bytes());
        let public = secret.public();
        Self { secret, public }
    }

    /// The half that peers learn.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// What the holders of both pairs share.
    ///
    /// # Errors
    /// [`LowOrder`] if the public key is none: the result would be zero, whoever asks (RFC 7748 §6.1).
    pub(crate) fn agree(&self, theirs: &PublicKey) -> Result<KeyBytes, LowOrder> {
        let mut agreed = Ok(());
        let shared = KeyBytes::filled(|shared| agreed = self.secret.agree(theirs, shared));
        noted::note("a shared secret", shared.as_bytes());
        agreed.map(|()| shared)
    }
}

#[cfg(feature = "aws-lc")]
use swift as library;

#[cfg(not(feature = "aws-lc"))]
use pure as library;

#[cfg(feature = "aws-lc")]
mod swift {
    use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree as exchange};

    use super::{LowOrder, PublicKey};

    /// The library wipes it in the end.
    pub(super) struct Secret(PrivateKey);

    impl Secret {
        /// Computes the public key as well, which takes a third of an agreement.
        pub(super) fn new(secret: &[u8; 32]) -> Self {
            Self(PrivateKey::from_private_key(&X25519, secret).expect("any 32 bytes are a secret"))
        }

        pub(super) fn public(&self) -> PublicKey {
            let public = self.0.compute_public_key().expect("a secret has a public key");
            public.as_ref().try_into().expect("a public key has 32 bytes")
        }

        pub(super) fn agree(&self, theirs: &PublicKey, shared: &mut [u8; 32]) -> Result<(), LowOrder> {
            let take = |bytes: &[u8]| {
                shared.copy_from_slice(bytes);
                if *shared == [0; 32] { Err(LowOrder) } else { Ok(()) }
            };
            exchange(&self.0, UnparsedPublicKey::new(&X25519, theirs), LowOrder, take)
        }
    }
}

#[cfg(any(test, not(feature = "aws-lc")))]
mod pure {
    use x25519_dalek::{PublicKey as Point, StaticSecret};

    use super::{LowOrder, PublicKey};

    /// Wiped in the end.
    pub(super) struct Secret(Box<StaticSecret>);

    impl Secret {
        pub(super) fn new(secret: &[u8; 32]) -> Self {
            Self(Box::new(StaticSecret::from(*secret)))
        }

        /// By a table of multiples of the base point.
        pub(super) fn public(&self) -> PublicKey {
            Point::from(&*self.0).to_bytes()
        }

        pub(super) fn agree(&self, theirs: &PublicKey, shared: &mut [u8; 32]) -> Result<(), LowOrder> {
            let agreed = self.0.diffie_hellman(&Point::from(*theirs));
            shared.copy_from_slice(agreed.as_bytes());
            if agreed.was_contributory() { Ok(()) } else { Err(LowOrder) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_share_the_same_and_nobody_else_does() {
        let [a, b, c] = [1, 2, 3].map(|seed| KeyPair::from_seed([seed; 32]));
        let shared = |own: &KeyPair, other: &KeyPair| *own.agree(other.public()).expect("a key").as_bytes();
        assert_eq!(shared(&a, &b), shared(&b, &a));
        assert_ne!(shared(&a, &b), shared(&a, &c));
        assert_eq!(format!("{a:?}"), "KeyPair { .. }");
    }

    /// RFC 7748 §5.2, and all cases of Wycheproof, with both libraries.
    #[test]
    fn both_libraries_agree_with_the_standard() {
        let hex = |text: &str| -> [u8; 32] {
            std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex"))
        };
        let secret = hex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4");
        let theirs = hex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c");
        let expected = hex("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552");
        check(&secret, &theirs, &expected);
        let cases = wycheproof::xdh::TestSet::load(wycheproof::xdh::TestName::X25519).expect("cases");
        for case in cases.test_groups.iter().flat_map(|group| &group.tests) {
            let part = |bytes: &[u8]| -> Option<[u8; 32]> { bytes.try_into().ok() };
            let (Some(secret), Some(theirs)) = (part(&case.private_key), part(&case.public_key)) else { continue };
            check(&secret, &theirs, &part(&case.shared_secret).expect("32 bytes"));
        }
    }

    fn check(secret: &[u8; 32], theirs: &PublicKey, expected: &[u8; 32]) {
        let (mut first, mut second) = ([0; 32], [0; 32]);
        let results = [
            library::Secret::new(secret).agree(theirs, &mut first),
            pure::Secret::new(secret).agree(theirs, &mut second),
        ];
        let wanted = if *expected == [0; 32] { Err(LowOrder) } else { Ok(()) };
        assert_eq!(results, [wanted; 2]);
        if wanted.is_ok() {
            assert_eq!((first, second), (*expected, *expected));
        }
        assert_eq!(library::Secret::new(secret).public(), pure::Secret::new(secret).public());
    }
}
