//! The first flight on a fresh stream: both ends prove that they hold the group's key and are the
//! ranks that they say, and agree on the keys of the stream. Pure codec and checks.
//!
//! A completed TCP handshake proves nothing: behind a NAT the other end may be a stranger, and one
//! direction may be dead. So each side sends a *hello*: a [confirmation](Credentials::check) bound to
//! session, direction and both nonces, followed, from the higher rank, by the first message of a
//! [`noise`](super::noise) handshake. The confirmation is a hash, so a stranger costs no public-key
//! work. The lower rank keeps one of the streams that prove themselves and answers there with a
//! *nomination*: the second message. No byte of the application moves before. A wrong or silent other
//! end costs that stream only, and is not told why.
//!
//! In plaintext mode a tag takes the place of both messages.

use super::candidate::Roster;
use super::card::Security;
use super::noise::{Context, Handshake, KeyPair, MESSAGE_BYTES, Seed, StreamKeys, Unverified};
use super::punch::nominates;
use super::rendezvous::SessionId;
use super::wire::{Reader, VERSION, WireError, Write};
use crate::key::{Key, Party, Purpose};
use fmi_net::planted;

/// First bytes of a confirmation: a name and the version of the protocol.
const MAGIC: [u8; 4] = [b'F', b'M', b'I', VERSION];
/// Length of a confirmation.
pub const CONFIRM_BYTES: usize = 4 + 16 + 4 + 4 + 32;
/// Length of a nomination by a tag.
const TAG_BYTES: usize = 32;

/// Why the other end is not our peer. It is never told which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// Not a confirmation at all.
    #[error("not a confirmation: {0}")]
    Wire(#[from] WireError),
    /// Another protocol.
    #[error("another protocol")]
    Magic,
    /// Another session or another rank.
    #[error("another session or rank")]
    Other,
    /// A tag that another key made.
    #[error("wrong key")]
    Tag,
    /// A handshake that another key, another rank or another session made.
    #[error("{0}")]
    Handshake(#[from] Unverified),
}

/// What one rank needs to prove itself and to check others.
#[derive(Clone, Debug)]
pub struct Credentials {
    key: Key,
    key_pair: KeyPair,
    security: Security,
    roster: Roster,
    rank: u32,
}

/// What protects a stream from its nomination on; `None` in plaintext mode.
pub type Protection = Option<(Security, StreamKeys)>;

/// A stream whose other end is proving itself.
#[derive(Debug)]
pub struct Flight {
    peer: u32,
    seed: Seed,
    /// On the higher rank from its hello on, on the lower one from the peer's.
    handshake: Option<Box<Handshake>>,
}

impl Flight {
    /// Rank of the other end.
    pub fn peer(&self) -> u32 {
        self.peer
    }
}

impl Credentials {
    /// Binds the keys to one session as seen by `rank`.
    pub fn new(key: Key, key_pair: KeyPair, security: Security, roster: Roster, rank: u32) -> Self {
        Self { key, key_pair, security, roster, rank }
    }

    /// The members of the session.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    fn shakes_hands(&self) -> bool {
        self.security != Security::Plaintext
    }

    /// Bytes that follow the confirmation of `peer`.
    pub fn hello_rest(&self, peer: u32) -> usize {
        if self.shakes_hands() && nominates(self.rank, peer) { MESSAGE_BYTES } else { 0 }
    }

    /// Length of a nomination.
    pub fn nomination_bytes(&self) -> usize {
        if self.shakes_hands() { MESSAGE_BYTES } else { TAG_BYTES }
    }

    /// What to say first to `peer`. `seed` is for this stream alone.
    ///
    /// # Errors
    /// [`Stranger`] if the peer's card does not verify: there is nobody to talk to.
    pub fn hello(&self, peer: u32, seed: Seed) -> Result<(Vec<u8>, Flight), Stranger> {
        let mut bytes = self.confirm(peer).ok_or(Stranger::Other)?;
        let mut flight = Flight { peer, seed, handshake: None };
        if self.shakes_hands() && nominates(peer, self.rank) {
            let (handshake, message) = self.with_context(peer, |context| Handshake::initiate(context, seed))?;
            bytes.put(&message);
            flight.handshake = Some(Box::new(handshake));
        }
        Ok((bytes, flight))
    }

    /// Takes what follows the peer's confirmation, [`Credentials::hello_rest`] bytes.
    ///
    /// # Errors
    /// [`Stranger`] unless the peer made it for this session and this rank.
    pub fn hear(&self, flight: &mut Flight, rest: &[u8]) -> Result<(), Stranger> {
        if self.hello_rest(flight.peer) == 0 {
            return Ok(());
        }
        let message = rest.try_into().map_err(|_| WireError::Short)?;
        let respond = |context: &Context<'_>| Handshake::respond(context, flight.seed, message);
        flight.handshake = Some(Box::new(self.with_context(flight.peer, respond)?));
        Ok(())
    }

    /// The nomination, and what protects the stream behind it. For the lower rank.
    ///
    /// # Errors
    /// [`Stranger`] if the peer has not said hello.
    pub fn nominate(&self, flight: Flight) -> Result<(Vec<u8>, Protection), Stranger> {
        if !self.shakes_hands() {
            let tag = self.tag(Purpose::Nominate, self.rank, flight.peer).ok_or(Stranger::Other)?;
            return Ok((tag.0.to_vec(), None));
        }
        let (message, keys) = flight.handshake.ok_or(Stranger::Other)?.accept()?;
        Ok((message.to_vec(), Some((self.security, keys))))
    }

    /// Takes a nomination, [`Credentials::nomination_bytes`] bytes. For the higher rank.
    ///
    /// # Errors
    /// [`Stranger`] unless the peer made it for this stream.
    pub fn nominated(&self, flight: Flight, bytes: &[u8]) -> Result<Protection, Stranger> {
        if self.shakes_hands() {
            let message = bytes.try_into().map_err(|_| WireError::Short)?;
            let keys = flight.handshake.ok_or(Stranger::Other)?.finish(message)?;
            return Ok(Some((self.security, keys)));
        }
        let theirs: [u8; TAG_BYTES] = bytes.try_into().map_err(|_| WireError::Short)?;
        let tag = self.tag(Purpose::Nominate, flight.peer, self.rank).ok_or(Stranger::Other)?;
        if tag.matches(&theirs) { Ok(None) } else { Err(Stranger::Tag) }
    }

    fn with_context<T>(
        &self,
        peer: u32,
        act: impl FnOnce(&Context<'_>) -> Result<T, Unverified>,
    ) -> Result<T, Stranger> {
        let card = self.roster.peers.get(peer as usize).and_then(|peer| peer.card.as_ref()).ok_or(Stranger::Other)?;
        let mut prologue = Vec::with_capacity(64);
        prologue.put(&MAGIC).put(&[self.security.code()]).put(&self.roster.session);
        for rank in [self.rank.min(peer), self.rank.max(peer)] {
            prologue.put(&rank.to_be_bytes()).put(&self.roster.peers[rank as usize].nonce);
        }
        let shared = self.key.handshake_key(&self.roster.session);
        let (own, shared) = (&self.key_pair, shared.as_bytes());
        Ok(act(&Context { own, peer: &card.public, shared, prologue: &prologue })?)
    }

    fn confirm(&self, peer: u32) -> Option<Vec<u8>> {
        let tag = self.tag(Purpose::Confirm, self.rank, peer)?;
        let mut bytes = Vec::with_capacity(CONFIRM_BYTES + MESSAGE_BYTES);
        bytes.put(&MAGIC).put(&self.roster.session);
        bytes.put(&self.rank.to_be_bytes()).put(&peer.to_be_bytes()).put(&tag.0);
        Some(bytes)
    }

    /// Checks a confirmation and returns the rank that it proves.
    ///
    /// # Errors
    /// Anything but the proof of another member of this session towards this rank.
    pub fn check(&self, bytes: &[u8; CONFIRM_BYTES]) -> Result<u32, Stranger> {
        let mut reader = Reader::new(bytes);
        match reader.array()? {
            MAGIC => {}
            [b'F', b'M', b'I', theirs] => return Err(WireError::Version { theirs, ours: VERSION }.into()),
            _ => return Err(Stranger::Magic),
        }
        let session: SessionId = reader.array()?;
        let (from, to) = (reader.u32()?, reader.u32()?);
        if planted::is(planted::Fault::AnyConfirmation) {
            return if self.roster.peers.len() > from as usize { Ok(from) } else { Err(Stranger::Other) };
        }
        if session != self.roster.session || to != self.rank || from == self.rank {
            return Err(Stranger::Other);
        }
        let tag = self.tag(Purpose::Confirm, from, self.rank).ok_or(Stranger::Other)?;
        if tag.matches(&reader.array()?) { Ok(from) } else { Err(Stranger::Tag) }
    }

    fn tag(&self, purpose: Purpose, from: u32, to: u32) -> Option<crate::key::Mac> {
        let party = |rank: u32| self.roster.peers.get(rank as usize).map(|member| Party { rank, nonce: &member.nonce });
        Some(self.key.tag(purpose, &self.roster.session, party(from)?, party(to)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::Peer;
    use crate::card::Card;
    use crate::rendezvous::Observed;
    use proptest::prelude::*;
    use std::time::Duration;

    fn key_pair(rank: u32) -> KeyPair {
        KeyPair::from_seed([u8::try_from(rank + 1).expect("small"); 32])
    }

    fn credentials(secret: &str, security: Security, rank: u32) -> Credentials {
        let member = |rank: u32| Peer {
            nonce: [u8::try_from(rank).expect("small"); 16],
            observed: Observed::once(([1, 1, 1, 1], 1).into()),
            round_trip: Duration::ZERO,
            card: Some(Card {
                version: VERSION,
                security,
                sprays: false,
                public: *key_pair(rank).public(),
                locals: vec![],
            }),
        };
        let roster = Roster { session: [3; 16], peers: (0..3).map(member).collect() };
        Credentials::new(Key::from_secret(secret.as_bytes()), key_pair(rank), security, roster, rank)
    }

    const MODES: [Security; 3] = [Security::Encrypted, Security::Authenticated, Security::Plaintext];

    fn confirmation(bytes: &[u8]) -> &[u8; CONFIRM_BYTES] {
        bytes.first_chunk().expect("a confirmation comes first")
    }

    /// Runs the first flight between rank 0 and rank 1.
    fn run(low: &Credentials, high: &Credentials) -> Result<(Protection, Protection), Stranger> {
        let (low_hello, mut low_flight) = low.hello(1, [1; 32])?;
        let (high_hello, high_flight) = high.hello(0, [2; 32])?;
        assert_eq!(low.check(confirmation(&high_hello))?, 1);
        assert_eq!(high.check(confirmation(&low_hello))?, 0);
        assert_eq!(low_hello.len(), CONFIRM_BYTES + high.hello_rest(0));
        low.hear(&mut low_flight, &high_hello[CONFIRM_BYTES..])?;
        let (nomination, low_keys) = low.nominate(low_flight)?;
        assert_eq!(nomination.len(), high.nomination_bytes());
        Ok((low_keys, high.nominated(high_flight, &nomination)?))
    }

    #[test]
    fn members_recognise_each_other_and_nobody_else() {
        for mode in MODES {
            let (a, b, c) = (credentials("k", mode, 0), credentials("k", mode, 1), credentials("k", mode, 2));
            let hello = |from: &Credentials, to| from.hello(to, [9; 32]).expect("a member").0;
            assert_eq!(b.check(confirmation(&hello(&a, 1))), Ok(0));
            assert_eq!(c.check(confirmation(&hello(&a, 1))), Err(Stranger::Other), "meant for another rank");
            assert_eq!(a.check(confirmation(&hello(&a, 1))), Err(Stranger::Other), "reflected");
            let wrong = credentials("x", mode, 0);
            assert_eq!(b.check(confirmation(&hello(&wrong, 1))), Err(Stranger::Tag), "wrong key");
            let (low, high) = run(&a, &b).expect("members");
            match (low, high) {
                (Some((_, low)), Some((_, high))) => {
                    assert_eq!((low.send, low.receive), (high.receive, high.send));
                }
                (None, None) => assert_eq!(mode, Security::Plaintext),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn modes_do_not_mix() {
        let (low, high) = (credentials("k", Security::Encrypted, 0), credentials("k", Security::Authenticated, 1));
        assert!(run(&low, &high).is_err());
    }

    #[test]
    fn each_stream_has_its_own_keys() {
        let (low, high) = (credentials("k", Security::Encrypted, 0), credentials("k", Security::Encrypted, 1));
        let keys = |seed| {
            let (hello, _) = high.hello(0, [seed; 32]).expect("a member");
            let (_, mut flight) = low.hello(1, [7; 32]).expect("a member");
            low.hear(&mut flight, &hello[CONFIRM_BYTES..]).expect("verified");
            low.nominate(flight).expect("heard").1.expect("encrypted").1.send
        };
        assert_ne!(keys(1), keys(2));
    }

    proptest! {
        #[test]
        fn any_changed_bit_is_noticed(bit in 0..CONFIRM_BYTES * 8) {
            let mode = Security::Encrypted;
            let (a, b) = (credentials("k", mode, 0), credentials("k", mode, 1));
            let (hello, _) = a.hello(1, [1; 32]).expect("a member");
            let mut bytes = *confirmation(&hello);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(b.check(&bytes).is_err());
        }
    }
}
