//! The first flight on a fresh stream: both ends prove that they hold the group's key and are the
//! ranks that they say. Pure codec and checks.
//!
//! A completed TCP handshake proves nothing: behind a NAT the other end may be a stranger, and one
//! direction may be dead. So each side sends [`Confirm`], bound to session, direction and both
//! nonces, and the lower rank answers a valid one with a nomination. No byte of the application
//! moves before. A wrong or silent other end costs that stream only.
//!
//! Encryption has its place here: a session that encrypts wraps the stream once it is confirmed,
//! and everything above sees a stream of bytes as before.

use super::rendezvous::{Group, SessionId};
use super::wire::{Reader, WireError, Write};
use crate::key::{Key, Party, Purpose};

/// First bytes of a confirmation: a name and the version of the protocol.
const MAGIC: [u8; 4] = *b"FMI\x01";
/// Length of a confirmation.
pub const CONFIRM_BYTES: usize = 4 + 16 + 4 + 4 + 32;
/// Length of a nomination.
pub const NOMINATE_BYTES: usize = 32;

/// Who speaks on a stream, to whom, in which session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// Session of both.
    pub session: SessionId,
    /// Rank that speaks.
    pub from: u32,
    /// Rank that is spoken to.
    pub to: u32,
}

/// Why the other end is not our peer. It is never told which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// Not a confirmation at all.
    #[error("not a confirmation: {0}")]
    Wire(#[from] WireError),
    /// A confirmation of another protocol version.
    #[error("another protocol")]
    Magic,
    /// Another session or another rank.
    #[error("another session or rank")]
    Other,
    /// A tag that another key made.
    #[error("wrong key")]
    Tag,
}

/// What one rank needs to prove itself and to check others.
#[derive(Clone, Debug)]
pub struct Credentials {
    key: Key,
    group: Group,
    rank: u32,
}

impl Credentials {
    /// Binds the key to one session as seen by `rank`.
    pub fn new(key: Key, group: Group, rank: u32) -> Self {
        Self { key, group, rank }
    }

    /// The members of the session.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The confirmation to send to `peer`.
    ///
    /// # Panics
    /// If `peer` is not in the group.
    pub fn confirm(&self, peer: u32) -> [u8; CONFIRM_BYTES] {
        let mut bytes = Vec::with_capacity(CONFIRM_BYTES);
        bytes.put(&MAGIC).put(&self.group.session);
        bytes.put(&self.rank.to_be_bytes()).put(&peer.to_be_bytes());
        let tag = self.tag(Purpose::Confirm, self.rank, peer).expect("the caller names a member");
        bytes.put(&tag.0);
        bytes.try_into().expect("the fields add up to CONFIRM_BYTES")
    }

    /// Checks a confirmation and returns the rank that it proves.
    ///
    /// # Errors
    /// Anything but the proof of another member of this session towards this rank.
    pub fn check(&self, bytes: &[u8; CONFIRM_BYTES]) -> Result<u32, Stranger> {
        let mut reader = Reader::new(bytes);
        if reader.array()? != MAGIC {
            return Err(Stranger::Magic);
        }
        let session: SessionId = reader.array()?;
        let (from, to) = (reader.u32()?, reader.u32()?);
        if session != self.group.session || to != self.rank || from == self.rank {
            return Err(Stranger::Other);
        }
        let tag = self.tag(Purpose::Confirm, from, self.rank).ok_or(Stranger::Other)?;
        if tag.matches(&reader.array()?) { Ok(from) } else { Err(Stranger::Tag) }
    }

    /// The nomination of a stream to `peer`.
    ///
    /// # Panics
    /// If `peer` is not in the group.
    pub fn nominate(&self, peer: u32) -> [u8; NOMINATE_BYTES] {
        self.tag(Purpose::Nominate, self.rank, peer).expect("the caller names a member").0
    }

    /// Checks a nomination by `peer`.
    ///
    /// # Errors
    /// [`Stranger::Tag`] if it is anything else.
    pub fn check_nomination(&self, peer: u32, bytes: &[u8; NOMINATE_BYTES]) -> Result<(), Stranger> {
        let tag = self.tag(Purpose::Nominate, peer, self.rank).ok_or(Stranger::Other)?;
        if tag.matches(bytes) { Ok(()) } else { Err(Stranger::Tag) }
    }

    fn tag(&self, purpose: Purpose, from: u32, to: u32) -> Option<crate::key::Tag> {
        let party =
            |rank: u32| self.group.members.get(rank as usize).map(|member| Party { rank, nonce: &member.nonce });
        Some(self.key.tag(purpose, &self.group.session, party(from)?, party(to)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rendezvous::Member;
    use proptest::prelude::*;

    fn credentials(secret: &str, rank: u32) -> Credentials {
        let member = |rank: u32| Member {
            rank,
            nonce: [u8::try_from(rank).expect("small"); 16],
            observed: ([1, 1, 1, 1], 1).into(),
            candidates: vec![],
        };
        let group = Group { session: [3; 16], members: (0..3).map(member).collect() };
        Credentials::new(Key::from_secret(secret.as_bytes()), group, rank)
    }

    #[test]
    fn members_recognise_each_other_and_nobody_else() {
        let (a, b, c) = (credentials("k", 0), credentials("k", 1), credentials("k", 2));
        assert_eq!(b.check(&a.confirm(1)), Ok(0));
        assert_eq!(c.check(&a.confirm(1)), Err(Stranger::Other), "meant for another rank");
        assert_eq!(a.check(&a.confirm(1)), Err(Stranger::Other), "reflected");
        assert_eq!(b.check(&credentials("x", 0).confirm(1)), Err(Stranger::Tag), "wrong key");
        assert_eq!(b.check_nomination(0, &a.nominate(1)), Ok(()));
        assert_eq!(b.check_nomination(2, &a.nominate(1)), Err(Stranger::Tag));
    }

    proptest! {
        #[test]
        fn any_changed_bit_is_noticed(bit in 0..CONFIRM_BYTES * 8) {
            let (a, b) = (credentials("k", 0), credentials("k", 1));
            let mut bytes = a.confirm(1);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(b.check(&bytes).is_err());
        }
    }
}
