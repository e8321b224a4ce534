//! The group's key and what is derived from it.
//!
//! The rendezvous never learns the key. It sees an identifier of the group that only holders of
//! the key can compute, so that nobody else can register in the group's name.

use std::fmt;

use fmi_net::noted;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use fmi_net::planted;

use crate::rendezvous::{GroupId, NameHash, Nonce, SessionId};

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

/// A secret shared by all ranks of a group.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// Derives the key from a secret of any length.
    ///
    /// Use at least 16 random bytes: the confirmation on a stream lets a peer try guesses offline.
    pub fn from_secret(secret: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("fmi group key v1");
        hasher.update(secret);
        let key = Self(finish(hasher));
        noted::note("the key of the group", &key.0);
        key
    }

    /// The key of a group without a secret: it keeps groups of different names apart, and no attacker out. Whoever
    /// guesses the name, for instance a rendezvous with a dictionary, has the key.
    pub fn public(group: &str) -> Self {
        Self(blake3::derive_key("fmi public group v1", group.as_bytes()))
    }

    /// The identifier under which the group registers.
    pub fn group_id(&self, group: &str) -> GroupId {
        self.keyed(&[b"group id\0", group.as_bytes()])
    }

    /// The name of the group for a rendezvous. Like the identifier it depends on the key, so that nobody without the
    /// key can try names against it.
    pub fn name_tag(&self, group: &str) -> NameHash {
        if planted::is(planted::Fault::HalfKeyOnWire) {
            return *self.0.first_chunk().expect("a key has 32 bytes");
        }
        *self.keyed(&[b"group name\0", group.as_bytes()]).first_chunk().expect("a hash has 32 bytes")
    }

    /// The key that seals the card of one registration.
    pub(crate) fn card_key(&self, nonce: &Nonce) -> Derived {
        Derived::new("the key of a card", self.keyed(&[b"card\0", nonce]))
    }

    /// The pre-shared key of all handshakes of one session.
    pub(crate) fn handshake_key(&self, session: &SessionId) -> Derived {
        Derived::new("the pre-shared key of a session", self.keyed(&[b"handshake\0", session]))
    }

    /// The tag that proves, on one stream of `session`, knowledge of the key by rank `from`
    /// towards rank `to`.
    pub fn tag(&self, purpose: Purpose, session: &SessionId, from: Party<'_>, to: Party<'_>) -> Mac {
        let purpose: &[u8] = match purpose {
            Purpose::Confirm => b"confirm\0",
            Purpose::Nominate => b"nominee\0",
        };
        let ranks = [from.rank.to_be_bytes(), to.rank.to_be_bytes()];
        Mac(self.keyed(&[purpose, session, &ranks[0], from.nonce, &ranks[1], to.nonce]))
    }

    fn keyed(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        finish(hasher)
    }
}

/// The result of `hasher`, whose state holds the key and is wiped.
fn finish(mut hasher: blake3::Hasher) -> [u8; 32] {
    let mut hash = hasher.finalize();
    let bytes = *hash.as_bytes();
    hash.zeroize();
    hasher.zeroize();
    bytes
}

/// A key for one purpose.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Derived([u8; 32]);

impl Derived {
    fn new(what: &'static str, key: [u8; 32]) -> Self {
        noted::note(what, &key);
        Self(key)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What a tag is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// First flight: "I am that rank of that session".
    Confirm,
    /// "This is the stream that we keep".
    Nominate,
}

/// One end of a stream, as it registered.
#[derive(Clone, Copy, Debug)]
pub struct Party<'a> {
    /// Rank in the group.
    pub rank: u32,
    /// Nonce of its registration.
    pub nonce: &'a Nonce,
}

/// A message authentication code; compared in constant time.
#[derive(Clone, Copy)]
pub struct Mac(pub [u8; 32]);

impl Mac {
    /// Whether both tags are equal.
    pub fn matches(&self, other: &[u8; 32]) -> bool {
        bool::from(self.0.ct_eq(other))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mac(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_differ_by_direction_purpose_session_and_key() {
        let (a, b) = (Key::from_secret(b"one"), Key::from_secret(b"two"));
        let (nonce_0, nonce_1) = ([0; 16], [1; 16]);
        let (zero, one) = (Party { rank: 0, nonce: &nonce_0 }, Party { rank: 1, nonce: &nonce_1 });
        let tag = a.tag(Purpose::Confirm, &[7; 16], zero, one);
        assert!(tag.matches(&a.tag(Purpose::Confirm, &[7; 16], zero, one).0));
        assert!(!tag.matches(&a.tag(Purpose::Confirm, &[7; 16], one, zero).0), "a tag cannot be reflected");
        assert!(!tag.matches(&a.tag(Purpose::Nominate, &[7; 16], zero, one).0));
        assert!(!tag.matches(&a.tag(Purpose::Confirm, &[8; 16], zero, one).0));
        assert!(!tag.matches(&b.tag(Purpose::Confirm, &[7; 16], zero, one).0));
        assert_ne!(a.group_id("g"), b.group_id("g"));
        assert!(!format!("{a:?}").contains("1"), "the key is never printed");
    }

    #[test]
    fn nothing_that_a_rendezvous_sees_of_a_group_with_a_key_can_be_computed_from_its_name() {
        let (a, b) = (Key::from_secret(b"one"), Key::from_secret(b"two"));
        assert_eq!(a.name_tag("g"), a.name_tag("g"));
        assert_ne!(a.name_tag("g"), b.name_tag("g"), "a dictionary of names must not find it");
        assert_ne!(a.name_tag("g"), Key::public("g").name_tag("g"));
        assert_ne!(a.name_tag("g"), a.name_tag("h"));
        assert_ne!(a.name_tag("g")[..], a.group_id("g")[..16]);
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
