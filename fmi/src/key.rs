//! The group's key and what is derived from it.
//!
//! The rendezvous never learns the key. It sees an identifier of the group that only holders of
//! the key can compute, so that nobody else can register in the group's name.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::proto::rendezvous::{GroupId, NameHash, Nonce, SessionId};

/// What a rendezvous may know of a group's name, to tell a wrong key from a missing rank.
pub fn name_hash(group: &str) -> NameHash {
    *blake3::hash(group.as_bytes()).as_bytes().first_chunk().expect("a hash has 32 bytes")
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
        Self(blake3::derive_key("fmi group key v1", secret))
    }

    /// The key of a group without a secret: it keeps strangers of another group apart by mistake
    /// only, not by intent.
    pub fn public(group: &str) -> Self {
        Self(blake3::derive_key("fmi public group v1", group.as_bytes()))
    }

    /// The identifier under which the group registers.
    pub fn group_id(&self, group: &str) -> GroupId {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"group id\0").update(group.as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// The key that seals the card of one registration.
    pub(crate) fn card_key(&self, nonce: &Nonce) -> Derived {
        self.derive(b"card\0", nonce)
    }

    /// The pre-shared key of all handshakes of one session.
    pub(crate) fn handshake_key(&self, session: &SessionId) -> Derived {
        self.derive(b"handshake\0", session)
    }

    fn derive(&self, purpose: &[u8], context: &[u8]) -> Derived {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(purpose).update(context);
        Derived(*hasher.finalize().as_bytes())
    }

    /// The tag that proves, on one stream of `session`, knowledge of the key by rank `from`
    /// towards rank `to`.
    pub fn tag(&self, purpose: Purpose, session: &SessionId, from: Party<'_>, to: Party<'_>) -> Tag {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(match purpose {
            Purpose::Confirm => b"confirm\0",
            Purpose::Nominate => b"nominee\0",
        });
        hasher.update(session);
        for party in [from, to] {
            hasher.update(&party.rank.to_be_bytes()).update(party.nonce);
        }
        Tag(*hasher.finalize().as_bytes())
    }
}

/// A key for one purpose.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Derived([u8; 32]);

impl Derived {
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
pub struct Tag(pub [u8; 32]);

impl Tag {
    /// Whether both tags are equal.
    pub fn matches(&self, other: &[u8; 32]) -> bool {
        bool::from(self.0.ct_eq(other))
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tag(..)")
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
}
