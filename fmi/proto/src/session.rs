//! The first flight on a fresh stream: both ends prove that they are the ranks that they say, in one view of the group,
//! and agree on the keys of the stream. Pure codec and checks.
//!
//! A completed TCP handshake proves nothing: behind a NAT the other end may be a stranger, and one direction may be
//! dead. What both ends know beforehand is the key of the group and, from the sealed [cards](super::card), a public key
//! of each registration. One X25519 exchange of these makes the key of the *pair*, into which goes the
//! [digest of the roster](super::candidate::Roster): two ranks that were told of different groups have different keys. On
//! each stream then
//!
//! 1. both send a *hello*, with a random number for this stream and a tag under the key of the pair; the end that
//!    accepted the connection *answers* the other's, so its tag covers the other's random number as well;
//! 2. the lower rank *nominates* the stream, with a tag under a secret made of both hellos;
//! 3. the higher rank keeps the first stream that was nominated and *accepts* it, with another tag. No other stream of
//!    the pair is ever accepted.
//!
//! A lower rank that has heard an answer to its own hello, and has nominated no stream before, knows all that an
//! acceptance would tell: that the higher rank is there, and that no other stream can be kept. It *settles* the stream in
//! place of nominating it, and waits for nothing. No byte of the application moves on a stream before this end knows that
//! it is kept, in any mode.
//!
//! A hello costs whoever checks it a hash, and at most one exchange for each rank. A wrong or silent other end costs that
//! stream only, and is not told why.

use std::sync::{Arc, OnceLock};

use fmi_net::{noted, planted};
use zeroize::ZeroizeOnDrop;

use super::candidate::Roster;
use super::card::Security;
use super::exchange::{KeyPair, LowOrder, PublicKey};
use super::punch::nominates;
use super::record::Direction;
use super::rendezvous::SessionId;
use super::wire::{Reader, VERSION, WireError, Write};
use crate::cipher::Suite;
use crate::derive::{self, KEY_BYTES, KeyBytes, Tag};
use crate::key::Key;
use crate::stored::object::Sealer;

/// First bytes of a hello: a name and the version of the protocol.
const MAGIC: [u8; 4] = [b'F', b'M', b'I', VERSION];
/// Length of a hello.
pub const HELLO_BYTES: usize = HELLO_BODY_BYTES + KEY_BYTES;
/// Length of a hello without its tag.
const HELLO_BODY_BYTES: usize = 4 + 1 + 16 + 4 + 4 + 4 + 16;
/// Length of a nomination, and of an acceptance.
pub const TAG_BYTES: usize = KEY_BYTES;
/// A hello that answers another one, in its kind.
const ANSWER: u8 = 0x80;
/// What takes the place of a key that is not there.
const NONE: [u8; KEY_BYTES] = [0; KEY_BYTES];

/// The random number of one stream.
pub type StreamNonce = [u8; 16];
/// A hello.
pub type Hello = [u8; HELLO_BYTES];

/// Why the other end is not our peer. It is never told which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// Not a hello at all.
    #[error("not a hello: {0}")]
    Wire(#[from] WireError),
    /// Another protocol.
    #[error("another protocol")]
    Magic,
    /// Another session, another rank, or another kind of stream.
    #[error("another session or rank")]
    Other,
    /// A tag that another key made.
    #[error("the proof does not verify: another key, or another view of the group")]
    Tag,
    /// Nobody can agree on a key with it.
    #[error("{0}")]
    Key(#[from] LowOrder),
}

/// What only the two ends of a connection know. Streams that take its place prove it.
#[derive(Debug)]
pub struct Chain(KeyBytes);

impl From<[u8; KEY_BYTES]> for Chain {
    /// A secret that was agreed upon elsewhere.
    fn from(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes.into())
    }
}

/// What one rank needs to prove itself and to check others. Not for cloning: the secret of the registration ends with it.
#[derive(Debug)]
pub struct Credentials {
    pre_shared: KeyBytes,
    key_pair: KeyPair,
    security: Security,
    roster: Roster,
    rank: u32,
    /// Of the connection that the streams shall take the place of.
    chain: Option<Arc<Chain>>,
    /// By rank, made at the first need.
    pairs: Vec<OnceLock<Result<Pair, Stranger>>>,
}

/// What two ranks of a view share.
#[derive(Debug)]
struct Pair {
    key: KeyBytes,
    suite: Suite,
}

/// The keys of one stream, one for each direction.
#[derive(Debug)]
pub struct StreamKeys {
    /// What makes records of it.
    pub(crate) suite: Suite,
    /// Of what this side sends.
    pub(crate) send: KeyBytes,
    /// Of what it receives.
    pub(crate) receive: KeyBytes,
}

/// All their secret parts are wiped.
impl ZeroizeOnDrop for StreamKeys {}
impl ZeroizeOnDrop for Chain {}
impl ZeroizeOnDrop for Proven {}
impl ZeroizeOnDrop for Credentials {}

impl StreamKeys {
    /// Keys that were agreed upon elsewhere.
    pub fn new(suite: Suite, send: impl Into<KeyBytes>, receive: impl Into<KeyBytes>) -> Self {
        Self { suite, send: send.into(), receive: receive.into() }
    }

    /// What seals and what opens the records of the stream.
    pub fn directions(self, security: Security) -> (Direction, Direction) {
        (Direction::new(security, self.suite, self.send), Direction::new(security, self.suite, self.receive))
    }
}

/// What protects a stream once it is kept; `None` in plaintext mode.
pub type Protection = Option<(Security, StreamKeys)>;

/// A stream whose other end is proving itself.
#[derive(Debug)]
pub struct Flight {
    peer: u32,
    ours: Hello,
}

/// A stream whose other end has proved itself.
#[derive(Debug)]
pub struct Proven {
    peer: u32,
    nominates: bool,
    is_answered: bool,
    security: Security,
    suite: Suite,
    transcript: [u8; KEY_BYTES],
    secret: KeyBytes,
}

impl Credentials {
    /// Binds the keys to one view of the group as `rank` sees it. With a `chain`, its two streams' ends are the group,
    /// and streams prove that as well.
    pub fn new(
        key: &Key,
        key_pair: KeyPair,
        security: Security,
        roster: Roster,
        rank: u32,
        chain: Option<Arc<Chain>>,
    ) -> Self {
        let pairs = (0..roster.size()).map(|_| OnceLock::new()).collect();
        Self { pre_shared: key.pre_shared(), key_pair, security, roster, rank, chain, pairs }
    }

    /// The members of the session.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Peers with which an exchange has been made.
    pub fn exchanges(&self) -> usize {
        self.pairs.iter().filter(|pair| pair.get().is_some()).count()
    }

    /// What seals bodies in a store for `peer`, and opens those of `peer` for this rank.
    ///
    /// # Errors
    /// As [`Credentials::hello`].
    pub fn sealers(&self, peer: u32) -> Result<(Sealer, Sealer), Stranger> {
        let pair = self.pair(peer)?;
        let secret = KeyBytes::new(derive::STORE, &[pair.key.as_bytes()]);
        let sealer = |from, to| Sealer::new(self.security, pair.suite, &secret, from, to);
        Ok((sealer(self.rank, peer), sealer(peer, self.rank)))
    }

    /// What to say first to `peer`. `nonce` is for this stream alone.
    ///
    /// # Errors
    /// [`Stranger`] if the peer's card does not verify: there is nobody to talk to.
    pub fn hello(&self, peer: u32, nonce: StreamNonce) -> Result<(Hello, Flight), Stranger> {
        self.say(peer, nonce, None)
    }

    /// What to answer to the hello of `peer` that [`Credentials::check`] took. `nonce` is for this stream alone.
    ///
    /// # Errors
    /// As [`Credentials::hello`].
    pub fn answer(&self, peer: u32, nonce: StreamNonce, theirs: &Hello) -> Result<(Hello, Proven), Stranger> {
        let (ours, flight) = self.say(peer, nonce, Some(theirs))?;
        let proven = self.prove(&flight, theirs, false)?;
        Ok((ours, proven))
    }

    fn say(&self, peer: u32, nonce: StreamNonce, answers: Option<&Hello>) -> Result<(Hello, Flight), Stranger> {
        let mut ours = [0; HELLO_BYTES];
        let mut body = Vec::with_capacity(HELLO_BODY_BYTES);
        let kind = self.kind() | if answers.is_some() { ANSWER } else { 0 };
        body.put(&MAGIC).put(&[kind]).put(&self.roster.session);
        body.put(&self.rank.to_be_bytes()).put(&peer.to_be_bytes()).put(&self.roster.epoch.to_be_bytes()).put(&nonce);
        ours[..HELLO_BODY_BYTES].copy_from_slice(&body);
        let tag = self.tag(self.rank, peer, &body, answers.map(nonce_of))?;
        ours[HELLO_BODY_BYTES..].copy_from_slice(&tag.0);
        Ok((ours, Flight { peer, ours }))
    }

    /// Checks a hello on a stream that this side accepted, and returns the rank that it proves.
    ///
    /// # Errors
    /// Anything but the proof of another member of this view towards this rank.
    pub fn check(&self, theirs: &Hello) -> Result<u32, Stranger> {
        let (from, is_answer) = self.read(theirs)?;
        if is_answer {
            return Err(Stranger::Other);
        }
        self.verify(from, theirs, None)?;
        Ok(from)
    }

    /// Checks the hello that came on a stream that this side opened.
    ///
    /// # Errors
    /// Anything but the proof of the peer, towards this rank; if it is an answer, on this stream.
    pub fn hear(&self, flight: &Flight, theirs: &Hello) -> Result<Proven, Stranger> {
        let (from, is_answer) = self.read(theirs)?;
        if from != flight.peer {
            return Err(Stranger::Other);
        }
        self.verify(from, theirs, is_answer.then(|| nonce_of(&flight.ours)))?;
        self.prove(flight, theirs, is_answer)
    }

    /// The rank that a hello claims, and whether it answers another one.
    fn read(&self, theirs: &Hello) -> Result<(u32, bool), Stranger> {
        let mut reader = Reader::new(theirs);
        match reader.array()? {
            MAGIC => {}
            [b'F', b'M', b'I', theirs] => return Err(WireError::Version { theirs, ours: VERSION }.into()),
            _ => return Err(Stranger::Magic),
        }
        let kind = reader.u8()?;
        let session: SessionId = reader.array()?;
        let (from, to, epoch) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let _: StreamNonce = reader.array()?;
        noted::judge(&reader.array()?);
        let (is_member, is_answer) = (from < self.roster.size(), kind & ANSWER != 0);
        if planted::is(planted::Fault::AnyConfirmation) {
            return if is_member { Ok((from, is_answer)) } else { Err(Stranger::Other) };
        }
        let is_ours = session == self.roster.session && epoch == self.roster.epoch && kind & !ANSWER == self.kind();
        if !is_ours || to != self.rank || from == self.rank || !is_member {
            return Err(Stranger::Other);
        }
        Ok((from, is_answer))
    }

    fn verify(&self, from: u32, theirs: &Hello, answers: Option<&[u8]>) -> Result<(), Stranger> {
        if planted::is(planted::Fault::AnyConfirmation) {
            return Ok(());
        }
        let (body, tag) = theirs.split_at(HELLO_BODY_BYTES);
        let tag = tag.try_into().map_err(|_| WireError::Short)?;
        if self.tag(from, from, body, answers)?.matches(tag) { Ok(()) } else { Err(Stranger::Tag) }
    }

    /// The tag of the hello of `from`, which is this rank or its peer.
    fn tag(&self, from: u32, peer: u32, body: &[u8], answers: Option<&[u8]>) -> Result<Tag, Stranger> {
        let pair = self.pair(peer)?;
        let key = KeyBytes::new(derive::HELLO, &[pair.key.as_bytes(), self.chain(), &from.to_be_bytes()]);
        Ok(key.tag(&[body, answers.unwrap_or_default()]))
    }

    fn prove(&self, flight: &Flight, theirs: &Hello, is_answered: bool) -> Result<Proven, Stranger> {
        let pair = self.pair(flight.peer)?;
        let nominates = nominates(self.rank, flight.peer);
        let (low, high) = if nominates { (&flight.ours, theirs) } else { (theirs, &flight.ours) };
        let mut hasher = blake3::Hasher::new();
        hasher.update(low).update(high);
        let transcript = *hasher.finalize().as_bytes();
        let secret = KeyBytes::new(derive::STREAM, &[pair.key.as_bytes(), self.chain(), &transcript, &NONE]);
        let (peer, security, suite) = (flight.peer, self.security, pair.suite);
        Ok(Proven { peer, nominates, is_answered, security, suite, transcript, secret })
    }

    fn pair(&self, peer: u32) -> Result<&Pair, Stranger> {
        let pair = self.pairs.get(peer as usize).ok_or(Stranger::Other)?;
        pair.get_or_init(|| self.make_pair(peer)).as_ref().map_err(|stranger| *stranger)
    }

    fn make_pair(&self, peer: u32) -> Result<Pair, Stranger> {
        let card = |rank: u32| self.roster.peers.get(rank as usize).and_then(|peer| peer.card.as_ref());
        let (own, their) = (card(self.rank).ok_or(Stranger::Other)?, card(peer).ok_or(Stranger::Other)?);
        let suite = own.suites.best_of(their.suites);
        let (low, high) = (self.rank.min(peer), self.rank.max(peer));
        // Its own half comes from the pair that was made here, not from a card that somebody handed back.
        let public = |rank: u32| -> &PublicKey { if rank == peer { &their.public } else { self.key_pair.public() } };
        let shared = match self.security {
            Security::Plaintext => None,
            Security::Encrypted | Security::Authenticated => Some(self.key_pair.agree(&their.public)?),
        };
        let parts: [&[u8]; 8] = [
            self.pre_shared.as_bytes(),
            shared.as_ref().map_or(&NONE, |shared| shared.as_bytes()),
            public(low),
            public(high),
            &self.roster.digest,
            &low.to_be_bytes(),
            &high.to_be_bytes(),
            &[self.security.code(), suite.code()],
        ];
        Ok(Pair { key: KeyBytes::new(derive::PAIR, &parts), suite })
    }

    /// What streams are for.
    fn kind(&self) -> u8 {
        if self.chain.is_none() { 1 } else { 2 }
    }

    fn chain(&self) -> &[u8] {
        self.chain.as_ref().map_or(&NONE, |chain| chain.0.as_bytes())
    }
}

fn nonce_of(hello: &Hello) -> &[u8] {
    &hello[HELLO_BODY_BYTES - 16..HELLO_BODY_BYTES]
}

impl Proven {
    /// Rank of the other end.
    pub fn peer(&self) -> u32 {
        self.peer
    }

    /// Whether the other end has answered this end's hello: it is there now, whatever was recorded before.
    pub fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// What the lower rank says: that it nominates this stream, or that it keeps this one and has nominated no other.
    pub fn nomination(&self, settles: bool) -> [u8; TAG_BYTES] {
        self.tag(if settles { derive::SETTLE } else { derive::NOMINATE }).0
    }

    /// Takes what the lower rank said. True if it waits for an [acceptance](Proven::acceptance), false if it settled.
    ///
    /// # Errors
    /// [`Stranger::Tag`] unless the peer made it for this stream.
    pub fn nominated(&self, bytes: &[u8; TAG_BYTES]) -> Result<bool, Stranger> {
        let is = |label| self.tag(label).matches(bytes);
        // Both are compared, whatever came.
        match (is(derive::NOMINATE), is(derive::SETTLE)) {
            (true, _) => Ok(true),
            (_, true) => Ok(false),
            (false, false) => Err(Stranger::Tag),
        }
    }

    /// What the higher rank says to a nomination.
    pub fn acceptance(&self) -> [u8; TAG_BYTES] {
        self.tag(derive::ACCEPT).0
    }

    /// Takes what the higher rank said to a nomination.
    ///
    /// # Errors
    /// [`Stranger::Tag`] unless the peer made it for this stream.
    pub fn accepted(&self, bytes: &[u8; TAG_BYTES]) -> Result<(), Stranger> {
        if self.tag(derive::ACCEPT).matches(bytes) { Ok(()) } else { Err(Stranger::Tag) }
    }

    fn tag(&self, label: derive::Label) -> Tag {
        KeyBytes::new(label, &[self.secret.as_bytes()]).tag(&[&self.transcript])
    }

    /// What protects the stream now that it is kept, and what its ends will know each other by.
    pub fn keep(self) -> (Protection, Chain) {
        let derived = |label| KeyBytes::new(label, &[self.secret.as_bytes()]);
        let chain = Chain(derived(derive::CHAIN));
        if self.security == Security::Plaintext {
            return (None, chain);
        }
        let (send, receive) = if self.nominates { (derive::UP, derive::DOWN) } else { (derive::DOWN, derive::UP) };
        let keys = StreamKeys::new(self.suite, derived(send), derived(receive));
        (Some((self.security, keys)), chain)
    }
}

#[cfg(test)]
#[path = "session/tests.rs"]
mod tests;
