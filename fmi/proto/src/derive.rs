//! How keys are made of keys: the labels of all that is derived, each for one purpose, and the two functions that derive.
//! Pure.
//!
//! A key is BLAKE3's `derive_key` with the label as its context, over each part behind its length as a `u32`; a tag is
//! BLAKE3 with a key. `fmi/proto/tests/handshake.py` does the same a second time.

use std::fmt;

use fmi_net::noted;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of a key and of a tag.
pub(crate) const KEY_BYTES: usize = 32;

/// What a derived key is for: its label, and what a search for secrets calls it. The number in a label is that of the
/// version that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    context: &'static str,
    what: &'static str,
}

const fn label(context: &'static str, what: &'static str) -> Label {
    Label { context, what }
}

/// Of the name of a group and its secret.
pub(crate) const GROUP: Label = label("fmi 3 group", "the key of the group");
/// Of the name of a group that has no secret.
pub(crate) const PUBLIC_GROUP: Label = label("fmi 3 public group", "the key of a group without a secret");
/// Of the group of two that replaces a relayed connection.
pub(crate) const PAIR_GROUP: Label = label("fmi 3 pair group", "the key of a group of two");
/// Seals the card of one registration.
pub(crate) const CARD: Label = label("fmi 3 card", "the key of a card");
/// The part of the group's key in each pair's.
pub(crate) const PRE_SHARED: Label = label("fmi 3 psk", "the pre-shared key of all pairs");
/// Of a pair and view.
pub(crate) const PAIR: Label = label("fmi 3 pair", "the key of a pair");
/// Of the hellos of one rank of a pair.
pub(crate) const HELLO: Label = label("fmi 3 hello", "the key of a hello");
/// Of one stream.
pub(crate) const STREAM: Label = label("fmi 3 stream", "the secret of a stream");
/// Of what the lower rank says once it has heard the higher one, and waits for an answer.
pub(crate) const NOMINATE: Label = label("fmi 3 nominate", "the key of a nomination");
/// The same, if it waits for none.
pub(crate) const SETTLE: Label = label("fmi 3 settle", "the key of a settlement");
/// Of the answer of the higher rank.
pub(crate) const ACCEPT: Label = label("fmi 3 accept", "the key of an acceptance");
/// Of what the lower rank sends.
pub(crate) const UP: Label = label("fmi 3 up", "a key of a stream");
/// Of what the higher rank sends.
pub(crate) const DOWN: Label = label("fmi 3 down", "a key of a stream");
/// Of what only the two ends of a connection know, for the streams that follow.
pub(crate) const CHAIN: Label = label("fmi 3 chain", "the secret of a connection");
/// Of the records that follow those of a key.
pub(crate) const NEXT: Label = label("fmi 3 next", "a later key of a stream");
/// Of the names of a group's bodies in a store before it has met.
pub(crate) const LOBBY: Label = label("fmi 3 lobby", "the key of the names of a group that meets in a store");
/// Of what ranks tell each other in a store while they meet.
pub(crate) const MEETING: Label = label("fmi 3 meeting", "the key of a decision in a store");
/// Of the names of a group's bodies in a store.
pub(crate) const NAMES: Label = label("fmi 3 names", "the key of the names in a store");
/// Of what a pair has in a store.
pub(crate) const STORE: Label = label("fmi 3 store", "the secret of a pair for a store");
/// Of what a pair has in a store that has not met.
pub(crate) const APART: Label = label("fmi 3 apart", "the secret of a pair that never meets");
/// Of all bodies of one direction.
pub(crate) const OBJECTS: Label = label("fmi 3 objects", "the key of bodies in a store");
/// Of one body.
pub(crate) const OBJECT: Label = label("fmi 3 object", "the key of a body in a store");
/// Of the salts of bodies.
pub(crate) const SALTS: Label = label("fmi 3 salts", "the key of salts");

/// All labels, for a test that no two are one.
#[cfg(test)]
const LABELS: [Label; 23] = [
    GROUP,
    PUBLIC_GROUP,
    PAIR_GROUP,
    CARD,
    PRE_SHARED,
    PAIR,
    HELLO,
    STREAM,
    NOMINATE,
    SETTLE,
    ACCEPT,
    UP,
    DOWN,
    CHAIN,
    NEXT,
    LOBBY,
    MEETING,
    NAMES,
    STORE,
    APART,
    OBJECTS,
    OBJECT,
    SALTS,
];

/// Secret bytes: a key for one purpose, or what one is made of. They do not move in memory, are wiped in the end, and are
/// never printed.
#[derive(ZeroizeOnDrop)]
pub struct KeyBytes(Box<[u8; KEY_BYTES]>);

impl KeyBytes {
    /// Derives the key of a label from secret and public parts.
    pub(crate) fn new(label: Label, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(label.context);
        for part in parts {
            let length = u32::try_from(part.len()).expect("no part of a key is 4 GiB long");
            hasher.update(&length.to_be_bytes()).update(part);
        }
        let key = Self::filled(|key| {
            let mut reader = hasher.finalize_xof();
            reader.fill(key);
            reader.zeroize();
        });
        hasher.zeroize();
        noted::note(label.what, &key.0);
        key
    }

    /// What is written in place, so that nothing of it is left elsewhere.
    pub(crate) fn filled(write: impl FnOnce(&mut [u8; KEY_BYTES])) -> Self {
        let mut key = Self(Box::new([0; KEY_BYTES]));
        write(&mut key.0);
        key
    }

    /// Its bytes, for the next step.
    pub(crate) fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The tag of some bytes.
    pub(crate) fn tag(&self, parts: &[&[u8]]) -> Tag {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        let tag = Tag(*hasher.finalize().as_bytes());
        hasher.zeroize();
        tag
    }
}

impl From<[u8; KEY_BYTES]> for KeyBytes {
    /// A key that was made elsewhere.
    fn from(mut bytes: [u8; KEY_BYTES]) -> Self {
        let key = Self(Box::new(bytes));
        bytes.zeroize();
        key
    }
}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyBytes(..)")
    }
}

/// A message authentication code, compared in constant time.
#[derive(Clone, Copy)]
pub(crate) struct Tag(pub(crate) [u8; KEY_BYTES]);

impl Tag {
    /// Whether this is the tag that was expected.
    pub(crate) fn matches(&self, other: &[u8; KEY_BYTES]) -> bool {
        bool::from(self.0.ct_eq(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_purposes_share_a_label() {
        let contexts: BTreeSet<_> = LABELS.iter().map(|label| label.context).collect();
        let keys: BTreeSet<_> = LABELS.iter().map(|label| *KeyBytes::new(*label, &[b"part"]).as_bytes()).collect();
        assert_eq!((contexts.len(), keys.len()), (LABELS.len(), LABELS.len()));
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let key = |parts: &[&[u8]]| *KeyBytes::new(GROUP, parts).as_bytes();
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
        assert_ne!(key(&[b"ab"]), key(&[b"ab", b""]));
    }

    #[test]
    fn keys_are_never_printed() {
        let key = KeyBytes::new(GROUP, &[b"a"]);
        assert_eq!(format!("{key:?}"), "KeyBytes(..)");
    }
}
