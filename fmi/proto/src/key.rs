//! The group's key and what is derived from it.
//!
//! The rendezvous never learns the key. It sees an identifier of the group that only holders of
//! the key can compute, so that nobody else can register in the group's name.

use std::fmt;
use std::sync::Arc;

use fmi_net::planted;
use zeroize::{Zeroize, Zeroizing};

use crate::candidate::Digest;
use crate::derive::{self, KeyBytes};
use crate::rendezvous::{GroupId, NameHash};

/// Fewest bytes of a secret that is not weak (`fmi::Config::allow_weak_key`): a peer, or whoever records a stream, can
/// try guesses without asking anybody, which 128 random bits make hopeless.
pub const SECRET_BYTES_MIN: usize = 16;

/// A secret as a user gave it: any bytes. It is wiped when it is dropped, and never printed.
///
/// # Examples
/// ```
/// # extern crate fmi_proto as fmi;
/// let secret = fmi::Secret::from(*b"0123456789abcdef");
/// assert_eq!(format!("{secret:?}"), "Secret(..)");
/// ```
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The bytes of the secret.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Secret {
    /// Takes the bytes over without a copy.
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&[u8]> for Secret {
    fn from(bytes: &[u8]) -> Self {
        bytes.to_vec().into()
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl<const N: usize> From<[u8; N]> for Secret {
    fn from(mut bytes: [u8; N]) -> Self {
        let secret = Self::from(&bytes[..]);
        bytes.zeroize();
        secret
    }
}

impl<const N: usize> From<&[u8; N]> for Secret {
    fn from(bytes: &[u8; N]) -> Self {
        bytes[..].into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The key of one group: of its secret and its name.
#[derive(Clone, Debug)]
pub struct Key(Arc<KeyBytes>);

impl Key {
    /// The key of the group of this name whose ranks share a secret.
    ///
    /// Use at least [`SECRET_BYTES_MIN`] random bytes: the first bytes on a stream let whoever sees them try guesses.
    pub fn new(group: &str, secret: &[u8]) -> Self {
        Self::derived(derive::GROUP, &[group.as_bytes(), secret])
    }

    /// The key of a group without a secret: it keeps groups of different names apart, and no attacker out. Whoever
    /// guesses the name, for instance a rendezvous with a dictionary, has the key.
    pub fn public(group: &str) -> Self {
        Self::derived(derive::PUBLIC_GROUP, &[group.as_bytes()])
    }

    /// The key of the group of two that a pair of ranks forms anew, as the members of one roster.
    pub fn of_pair(&self, roster: &Digest, low: u32, high: u32) -> Self {
        Self::derived(derive::PAIR_GROUP, &[self.0.as_bytes(), roster, &low.to_be_bytes(), &high.to_be_bytes()])
    }

    /// A key of a group for one purpose.
    pub(crate) fn derive(&self, label: derive::Label, parts: &[&[u8]]) -> KeyBytes {
        let all: Vec<&[u8]> = [&self.0.as_bytes()[..]].into_iter().chain(parts.iter().copied()).collect();
        KeyBytes::new(label, &all)
    }

    fn derived(label: derive::Label, parts: &[&[u8]]) -> Self {
        Self(Arc::new(KeyBytes::new(label, parts)))
    }

    /// The identifier under which the group registers.
    pub fn id(&self) -> GroupId {
        self.0.tag(&[b"id"]).0
    }

    /// The name of the group for a rendezvous. Like the identifier it depends on the key, so that nobody without the
    /// key can try names against it.
    pub fn name_tag(&self) -> NameHash {
        if planted::is(planted::Fault::HalfKeyOnWire) {
            return *self.0.as_bytes().first_chunk().expect("a key has 32 bytes");
        }
        *self.0.tag(&[b"name"]).0.first_chunk().expect("a tag has 32 bytes")
    }

    /// The key that seals the card of one registration.
    pub(crate) fn card_key(&self, parts: &[&[u8]]) -> KeyBytes {
        let id = self.id();
        let all: Vec<&[u8]> = [&self.0.as_bytes()[..], &id[..]].into_iter().chain(parts.iter().copied()).collect();
        KeyBytes::new(derive::CARD, &all)
    }

    /// The part of this key in the keys of all pairs.
    pub(crate) fn pre_shared(&self) -> KeyBytes {
        KeyBytes::new(derive::PRE_SHARED, &[self.0.as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_rendezvous_sees_of_a_group_with_a_key_can_be_computed_from_its_name() {
        let (a, b) = (Key::new("g", b"one"), Key::new("g", b"two"));
        assert_eq!(a.name_tag(), Key::new("g", b"one").name_tag());
        assert_ne!(a.name_tag(), b.name_tag(), "a dictionary of names must not find it");
        assert_ne!(a.name_tag(), Key::public("g").name_tag());
        assert_ne!(a.name_tag(), Key::new("h", b"one").name_tag());
        assert_ne!(a.name_tag()[..], a.id()[..16]);
        assert!(!format!("{a:?}").contains("1"), "the key is never printed");
    }

    #[test]
    fn groups_are_kept_apart_by_name_by_secret_and_by_pair() {
        let key = Key::new("g", b"one");
        let pair = |low, high| key.of_pair(&[7; 32], low, high).id();
        let ids = [
            key.id(),
            Key::new("h", b"one").id(),
            Key::new("g", b"two").id(),
            Key::public("g").id(),
            pair(0, 1),
            pair(0, 2),
            key.of_pair(&[8; 32], 0, 1).id(),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }

    #[test]
    fn secrets_hold_any_bytes_and_are_never_printed() {
        let bytes = [0xff, 0, 0x80, b'\n'];
        let secret = Secret::from(bytes);
        assert_eq!(secret.as_bytes(), bytes);
        assert_eq!(Secret::from("text").as_bytes(), b"text");
        assert_eq!(format!("{:?}", Some(secret)), "Some(Secret(..))");
    }
}
