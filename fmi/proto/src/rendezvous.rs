//! The rendezvous protocol: how ranks that cannot accept connections learn each other's addresses.
//!
//! Every message is a 4-byte length, a version, a type and a body, all big-endian. A client sends
//! one `Register`; when all ranks of a group are there, each gets one `Handout` with the addresses of
//! all, and that is the whole exchange. The connection stays open as the control channel: the
//! server watches it with TCP keep-alive and tells the others when a rank is lost.
//!
//! The server stores what its sockets said of a client, never what the client claims. It sees each
//! client twice: while the client connects to the main endpoint, it connects from the same local port to
//! a second one, its *vantage*, and vouches there for the nonce of its registration. Both endpoints are
//! known at the same time, so what a NAT does with ports is known before the first SYN to a peer, at no
//! further round trip. Over another address family a client vouches alike, and is seen there as well.
//!
//! What ranks tell each other travels in sealed [cards](super::card), which the server carries.
//!
//! # Why there is no TLS
//!
//! An attacker on the path to the rendezvous, and the rendezvous itself, can keep a group from
//! forming, which cutting the connection does as well. They cannot do more. A registration shows hashes
//! under the group's key, random numbers and a sealed card. Addresses and session come back in clear, and
//! a changed one leads to somebody who cannot prove to be the peer: all streams are confirmed end to end, under keys that
//! only the two ranks can compute, and that depend on the group, the session and what both were told of every rank
//! ([`super::session`]). TLS would hide the observed addresses and the number of ranks, for a round trip and a certificate.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::card::CARD_BYTES_MAX;
use super::discovery::{Outcome, VANTAGES_MAX};
use super::wire::{Reader, WireError, Write};

pub mod client;
pub mod server;

/// Identifies a group: a keyed hash of its name.
pub type GroupId = [u8; 32];
/// A keyed hash of a group's name. No server makes use of it.
pub type NameHash = [u8; 16];
/// Identifies one forming of a group.
pub type SessionId = [u8; 16];
/// In place of a session: the group has not been handed out.
pub const NOT_YET: SessionId = [0; 16];
/// Distinguishes the registrations of one rank.
pub type Nonce = [u8; 16];
/// Distinguishes the processes that claim one rank.
pub type InstanceId = [u8; 16];

/// Version of what ranks and the rendezvous say to each other, in the second field of each message, in all versions.
///
/// Whoever changes the bytes of a message raises it; `golden.rs` holds them.
pub const VERSION: u8 = 3;
/// Longest message from a client: a `Register` with the longest card is 300 bytes.
pub const CLIENT_MESSAGE_BYTES_MAX: usize = 512;
/// Most vouches that a registration may wait for: one more endpoint, one other address family.
pub const VOUCHES_MAX: u8 = 2;
/// Largest group that fits a `Handout` message.
pub const SIZE_MAX: u32 = 4096;
/// Longest message from a server: a `Handout` of [`SIZE_MAX`] members with the longest cards is 1.1 MB.
pub const SERVER_MESSAGE_BYTES_MAX: usize = 2 << 20;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Group to join.
    pub group: GroupId,
    /// [`Key::name_tag`](crate::key::Key::name_tag) of its name.
    pub name: NameHash,
    /// Rank claimed.
    pub rank: u32,
    /// Size of the group, equal on all ranks.
    pub size: u32,
    /// The process that claims the rank.
    pub instance: InstanceId,
    /// Fresh for each registration.
    pub nonce: Nonce,
    /// Round trip to the server, as its TCP handshake took.
    pub round_trip: Duration,
    /// Vouches that are under way, at most [`VOUCHES_MAX`].
    pub vouches: u8,
    /// Sealed [card](super::card::Card) for the peers.
    pub card: Vec<u8>,
}

/// Where a rank is seen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// By the main endpoint.
    pub main: SocketAddr,
    /// By the second one, from the same local port.
    pub second: Option<SocketAddr>,
    /// Over the other address family.
    pub other: Option<SocketAddr>,
}

impl Observed {
    /// Seen by the main endpoint only.
    pub fn once(main: SocketAddr) -> Self {
        Self { main, second: None, other: None }
    }
}

/// One rank as its peers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its rank.
    pub rank: u32,
    /// Its nonce.
    pub nonce: Nonce,
    /// Its addresses as the rendezvous saw them.
    pub observed: Observed,
    /// Its round trip to the rendezvous.
    pub round_trip: Duration,
    /// What it tells its peers, sealed.
    pub card: Vec<u8>,
}

/// All that a rank needs to meet the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handout {
    /// This forming of the group.
    pub session: SessionId,
    /// All members, in rank order.
    pub members: Vec<Member>,
}

/// From a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// Joins a group.
    Register(Registration),
    /// Asks for the state of the group, and shows that the client lives.
    Ping,
    /// All connections of the session are established.
    Formed(SessionId),
    /// Leaves the group gracefully.
    Leave(SessionId),
    /// Asks where it is seen from. For [discovery](crate::discovery), without a group.
    Observe,
    /// Asks to be called back, at where it is seen from, by the vantage of this number.
    CallBack(u8),
    /// On another connection of a client that registers: it is seen from here as well.
    Vouch(Nonce),
    /// One vouch less will come than the registration said.
    Unvouched,
    /// Asks to be joined with the peer that asks for the same, and to be a stream of bytes from then on.
    Relay(RelayRequest),
    /// Resumes an established session on a new connection: the server may have restarted.
    Resume(Resumption),
    /// The connection to a member broke, which that one may not know.
    Severed {
        /// Session of both.
        session: SessionId,
        /// The other one.
        rank: u32,
    },
    /// Leaves the group after an error. Others may still wait for this rank.
    Fail(SessionId),
}

/// A member of a session that comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumption {
    /// The session.
    pub session: SessionId,
    /// Its group.
    pub group: GroupId,
    /// Rank of the member.
    pub rank: u32,
    /// Ranks in the session.
    pub size: u32,
    /// Nonce of its registration.
    pub nonce: Nonce,
}

/// One side of a relayed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayRequest {
    /// Session of both.
    pub session: SessionId,
    /// Rank that asks.
    pub from: u32,
    /// Rank to be joined with.
    pub to: u32,
    /// Nonce of the registration of `from`.
    pub nonce: Nonce,
}

/// From a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerMessage {
    /// State of a group that waits for ranks.
    Waiting(Waiting),
    /// The group is complete.
    Handout(Arc<Handout>),
    /// The registration is refused.
    Refused(Refusal),
    /// A rank of the session is lost. Or it went while the group formed, and has not come back.
    Lost {
        /// Session of the rank, or [`NOT_YET`].
        session: SessionId,
        /// The rank.
        rank: u32,
    },
    /// The session cannot complete; register again.
    Dissolved(SessionId),
    /// Asks the client to show that it lives.
    Probe,
    /// Where a client is seen from.
    Observed {
        /// Its address.
        observed: SocketAddr,
        /// Endpoints on which the server answers, the main one first.
        vantages: Vec<SocketAddr>,
    },
    /// The result of calling a client back.
    CalledBack {
        /// Number of the vantage that called.
        vantage: u8,
        /// The result.
        outcome: Outcome,
    },
    /// The peer is there: every byte after this one is its.
    Relayed,
    /// A member of the session says that its connection to this one broke.
    Severed {
        /// Session of both.
        session: SessionId,
        /// The other one.
        rank: u32,
    },
    /// A rank of the session left after an error.
    Failed {
        /// Session of the rank.
        session: SessionId,
        /// The rank.
        rank: u32,
    },
}

/// State of a group that waits for ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Address of this client as the server sees it.
    pub observed: SocketAddr,
    /// Ranks that are there.
    pub present: u32,
    /// Lowest rank that is missing.
    pub missing: u32,
    /// Another group of this size holds that rank: the ranks may disagree about the name or the key.
    pub other_key: bool,
    /// A group of this identity already runs.
    pub running: bool,
}

/// Why a server refuses a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// A living process holds the rank.
    RankTaken,
    /// The group waits with another size.
    SizeMismatch {
        /// The size that the first rank gave.
        expected: u32,
    },
    /// The rank is not below the size.
    RankOutOfRange,
    /// The size is zero or beyond the limit of the server.
    SizeOutOfRange {
        /// The limit.
        max: u32,
    },
    /// The server is at capacity.
    Busy,
    /// The message is not understood.
    Malformed,
    /// The registration waited too long.
    Expired,
    /// A registration with this nonce has been seen.
    Replayed,
    /// The session is not known here, or the rank is not of it.
    NotMember,
    /// The server does not relay.
    NoRelay,
    /// The other end speaks this version of the protocol.
    Version(u8),
}

impl Refusal {
    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::RankTaken => "give every process its own FMI_RANK",
            Self::SizeMismatch { .. } => "give all ranks the same FMI_SIZE",
            Self::RankOutOfRange => "ranks go from 0 to FMI_SIZE - 1",
            Self::SizeOutOfRange { .. } => "use a size that the rendezvous allows",
            Self::Busy => "try again later, or raise the limits of the rendezvous",
            Self::Malformed => "check that client and rendezvous run the same version of fmi",
            Self::Expired => "start all ranks of a group within the waiting time of the rendezvous",
            Self::Replayed => "a recorded registration is being replayed; register again",
            Self::NotMember => "the rendezvous may have restarted; form the group again",
            Self::NoRelay => "start the rendezvous with relaying, or use NATs that can be punched",
            Self::Version(_) => "run the same version of fmi on all ranks and on the rendezvous",
        }
    }

    /// Whether the same registration may be accepted later.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Busy | Self::Expired | Self::Replayed)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RankTaken => f.write_str("another process holds this rank"),
            Self::SizeMismatch { expected } => write!(f, "the group has {expected} ranks"),
            Self::RankOutOfRange => f.write_str("the rank is not below the size"),
            Self::SizeOutOfRange { max } => write!(f, "the size must be from 1 to {max}"),
            Self::Busy => f.write_str("it is at capacity"),
            Self::Malformed => f.write_str("the message is malformed"),
            Self::Expired => f.write_str("the registration waited too long"),
            Self::Replayed => f.write_str("the registration was replayed"),
            Self::NotMember => f.write_str("it does not know the session"),
            Self::NoRelay => f.write_str("it does not relay"),
            Self::Version(theirs) => {
                write!(f, "it speaks version {theirs} of the protocol, this program version {VERSION}")
            }
        }
    }
}

fn frame(kind: u8, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, VERSION, kind];
    body(&mut bytes);
    let length = u32::try_from(bytes.len() - 4).expect("messages are below 4 GiB by their limits");
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// Splits one message off the front of `bytes`: its body and the bytes that it took, or `None`
/// while it is incomplete.
///
/// # Errors
/// [`WireError::TooLong`] as soon as the length field says so.
pub fn split(bytes: &[u8], bytes_max: usize) -> Result<Option<(&[u8], usize)>, WireError> {
    let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > bytes_max {
        return Err(WireError::TooLong(length as u64, bytes_max as u64));
    }
    Ok(rest.get(..length).map(|body| (body, length + 4)))
}

fn open(body: &[u8]) -> Result<(u8, Reader<'_>), WireError> {
    let mut reader = Reader::new(body);
    let version = reader.u8()?;
    if version != VERSION {
        return Err(WireError::Version { theirs: version, ours: VERSION });
    }
    Ok((reader.u8()?, reader))
}

impl ClientMessage {
    /// The message with its length prefix.
    pub fn emit(&self) -> Vec<u8> {
        match self {
            Self::Register(registration) => frame(1, |out| {
                out.put(&registration.group).put(&registration.name);
                out.put(&registration.rank.to_be_bytes()).put(&registration.size.to_be_bytes());
                out.put(&registration.instance).put(&registration.nonce);
                out.put(&micros(registration.round_trip).to_be_bytes()).put(&[registration.vouches]);
                out.put_bytes(&registration.card);
            }),
            Self::Ping => frame(2, |_| ()),
            Self::Formed(session) => frame(3, |out| {
                out.put(session);
            }),
            Self::Leave(session) => frame(4, |out| {
                out.put(session);
            }),
            Self::Observe => frame(5, |_| ()),
            Self::CallBack(vantage) => frame(6, |out| {
                out.put(&[*vantage]);
            }),
            Self::Vouch(nonce) => frame(7, |out| {
                out.put(nonce);
            }),
            Self::Unvouched => frame(8, |_| ()),
            Self::Relay(RelayRequest { session, from, to, nonce }) => frame(9, |out| {
                out.put(session).put(&from.to_be_bytes()).put(&to.to_be_bytes()).put(nonce);
            }),
            Self::Resume(Resumption { session, group, rank, size, nonce }) => frame(10, |out| {
                out.put(session).put(group).put(&rank.to_be_bytes()).put(&size.to_be_bytes()).put(nonce);
            }),
            Self::Severed { session, rank } => frame(11, |out| {
                out.put(session).put(&rank.to_be_bytes());
            }),
            Self::Fail(session) => frame(12, |out| {
                out.put(session);
            }),
        }
    }

    /// Reads a body that [`split`] returned.
    ///
    /// # Errors
    /// Anything that is not exactly one message.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let (kind, mut reader) = open(body)?;
        let message = match kind {
            1 => Self::Register(Registration {
                group: reader.array()?,
                name: reader.array()?,
                rank: reader.u32()?,
                size: reader.u32()?,
                instance: reader.array()?,
                nonce: reader.array()?,
                round_trip: Duration::from_micros(reader.u32()?.into()),
                vouches: match reader.u8()? {
                    vouches if vouches <= VOUCHES_MAX => vouches,
                    other => return Err(WireError::TooLong(other.into(), VOUCHES_MAX.into())),
                },
                card: reader.bytes(CARD_BYTES_MAX)?.to_vec(),
            }),
            2 => Self::Ping,
            3 => Self::Formed(reader.array()?),
            4 => Self::Leave(reader.array()?),
            5 => Self::Observe,
            6 => Self::CallBack(reader.u8()?),
            7 => Self::Vouch(reader.array()?),
            8 => Self::Unvouched,
            9 => Self::Relay(RelayRequest {
                session: reader.array()?,
                from: reader.u32()?,
                to: reader.u32()?,
                nonce: reader.array()?,
            }),
            10 => Self::Resume(Resumption {
                session: reader.array()?,
                group: reader.array()?,
                rank: reader.u32()?,
                size: reader.u32()?,
                nonce: reader.array()?,
            }),
            11 => Self::Severed { session: reader.array()?, rank: reader.u32()? },
            12 => Self::Fail(reader.array()?),
            other => return Err(WireError::Value { field: "client message type", value: u64::from(other) }),
        };
        reader.finish()?;
        Ok(message)
    }
}

impl ServerMessage {
    /// The message with its length prefix.
    pub fn emit(&self) -> Vec<u8> {
        match self {
            Self::Waiting(waiting) => frame(1, |out| {
                out.put_address(waiting.observed);
                out.put(&waiting.present.to_be_bytes()).put(&waiting.missing.to_be_bytes());
                out.put(&[u8::from(waiting.other_key) | u8::from(waiting.running) << 1]);
            }),
            Self::Handout(group) => frame(2, |out| {
                let count = u32::try_from(group.members.len()).expect("a group has at most SIZE_MAX members");
                out.put(&group.session).put(&count.to_be_bytes());
                for member in &group.members {
                    out.put(&member.rank.to_be_bytes()).put(&member.nonce);
                    let Observed { main, second, other } = member.observed;
                    out.put_address(main).put_addresses(second.as_slice(), 1).put_addresses(other.as_slice(), 1);
                    out.put(&micros(member.round_trip).to_be_bytes()).put_bytes(&member.card);
                }
            }),
            Self::Refused(refusal) => frame(3, |out| {
                let (code, value) = match *refusal {
                    Refusal::RankTaken => (1, 0),
                    Refusal::SizeMismatch { expected } => (2, expected),
                    Refusal::RankOutOfRange => (3, 0),
                    Refusal::SizeOutOfRange { max } => (4, max),
                    Refusal::Busy => (5, 0),
                    Refusal::Malformed => (6, 0),
                    Refusal::Expired => (7, 0),
                    Refusal::Replayed => (8, 0),
                    Refusal::NotMember => (9, 0),
                    Refusal::NoRelay => (10, 0),
                    Refusal::Version(version) => (11, version.into()),
                };
                out.put(&[code]).put(&value.to_be_bytes());
            }),
            Self::Lost { session, rank } => frame(4, |out| {
                out.put(session).put(&rank.to_be_bytes());
            }),
            Self::Dissolved(session) => frame(5, |out| {
                out.put(session);
            }),
            Self::Probe => frame(6, |_| ()),
            Self::Observed { observed, vantages } => frame(7, |out| {
                out.put_address(*observed);
                out.put_addresses(vantages, VANTAGES_MAX);
            }),
            Self::CalledBack { vantage, outcome } => frame(8, |out| {
                out.put(&[*vantage, outcome.code()]);
            }),
            Self::Relayed => frame(9, |_| ()),
            Self::Severed { session, rank } => frame(10, |out| {
                out.put(session).put(&rank.to_be_bytes());
            }),
            Self::Failed { session, rank } => frame(11, |out| {
                out.put(session).put(&rank.to_be_bytes());
            }),
        }
    }

    /// Reads a body that [`split`] returned.
    ///
    /// # Errors
    /// Anything that is not exactly one message.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let (kind, mut reader) = open(body)?;
        let message = match kind {
            1 => {
                let (observed, present, missing) = (reader.address()?, reader.u32()?, reader.u32()?);
                let flags = reader.u8()?;
                let (other_key, running) = (flags & 1 != 0, flags & 2 != 0);
                Self::Waiting(Waiting { observed, present, missing, other_key, running })
            }
            2 => Self::Handout(Arc::new(parse_group(&mut reader)?)),
            3 => {
                let (code, value) = (reader.u8()?, reader.u32()?);
                let unknown = |field, value: u32| WireError::Value { field, value: value.into() };
                Self::Refused(match code {
                    1 => Refusal::RankTaken,
                    2 => Refusal::SizeMismatch { expected: value },
                    3 => Refusal::RankOutOfRange,
                    4 => Refusal::SizeOutOfRange { max: value },
                    5 => Refusal::Busy,
                    6 => Refusal::Malformed,
                    7 => Refusal::Expired,
                    8 => Refusal::Replayed,
                    9 => Refusal::NotMember,
                    10 => Refusal::NoRelay,
                    11 => Refusal::Version(u8::try_from(value).map_err(|_| unknown("version", value))?),
                    other => return Err(unknown("refusal", other.into())),
                })
            }
            4 => Self::Lost { session: reader.array()?, rank: reader.u32()? },
            5 => Self::Dissolved(reader.array()?),
            6 => Self::Probe,
            7 => Self::Observed { observed: reader.address()?, vantages: reader.addresses(VANTAGES_MAX)? },
            8 => {
                let (vantage, code) = (reader.u8()?, reader.u8()?);
                let outcome = Outcome::from_code(code);
                let unknown = || WireError::Value { field: "outcome", value: u64::from(code) };
                let outcome = outcome.ok_or_else(unknown)?;
                Self::CalledBack { vantage, outcome }
            }
            9 => Self::Relayed,
            10 => Self::Severed { session: reader.array()?, rank: reader.u32()? },
            11 => Self::Failed { session: reader.array()?, rank: reader.u32()? },
            other => return Err(WireError::Value { field: "server message type", value: u64::from(other) }),
        };
        reader.finish()?;
        Ok(message)
    }
}

fn parse_group(reader: &mut Reader<'_>) -> Result<Handout, WireError> {
    let session = reader.array()?;
    let count = reader.u32()?;
    if count > SIZE_MAX {
        return Err(WireError::TooLong(u64::from(count), u64::from(SIZE_MAX)));
    }
    let mut members = Vec::new();
    for expected in 0..count {
        let rank = reader.u32()?;
        if rank != expected {
            return Err(WireError::Value { field: "member rank", value: u64::from(rank) });
        }
        let (nonce, main) = (reader.array()?, reader.address()?);
        let observed = Observed { main, second: reader.optional_address()?, other: reader.optional_address()? };
        let round_trip = Duration::from_micros(reader.u32()?.into());
        members.push(Member { rank, nonce, observed, round_trip, card: reader.bytes(CARD_BYTES_MAX)?.to_vec() });
    }
    Ok(Handout { session, members })
}

#[cfg(test)]
mod tests {
    //! Goal: the codec loses nothing and no bytes make it panic. Method: round trips of arbitrary
    //! messages, and arbitrary bytes.

    use super::*;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::from((ip, port))),
            (any::<[u16; 8]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::from((ip, port))),
        ]
    }

    fn addresses() -> impl Strategy<Value = Vec<SocketAddr>> {
        proptest::collection::vec(address(), 0..=VANTAGES_MAX)
    }

    fn card() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..=CARD_BYTES_MAX)
    }

    fn micros() -> impl Strategy<Value = Duration> {
        any::<u32>().prop_map(|micros| Duration::from_micros(micros.into()))
    }

    fn client_message() -> impl Strategy<Value = ClientMessage> {
        type Numbers = ([u8; 32], [u8; 16], u32, u32, [u8; 16], [u8; 16]);
        prop_oneof![
            (any::<Numbers>(), micros(), 0..=VOUCHES_MAX, card()).prop_map(
                |((group, name, rank, size, instance, nonce), round_trip, vouches, card)| {
                    let registration =
                        Registration { group, name, rank, size, instance, nonce, round_trip, vouches, card };
                    ClientMessage::Register(registration)
                }
            ),
            Just(ClientMessage::Ping),
            any::<[u8; 16]>().prop_map(ClientMessage::Formed),
            any::<[u8; 16]>().prop_map(ClientMessage::Leave),
            Just(ClientMessage::Observe),
            any::<u8>().prop_map(ClientMessage::CallBack),
            any::<[u8; 16]>().prop_map(ClientMessage::Vouch),
            Just(ClientMessage::Unvouched),
            any::<([u8; 16], u32)>().prop_map(|(session, rank)| ClientMessage::Severed { session, rank }),
            any::<[u8; 16]>().prop_map(ClientMessage::Fail),
            any::<([u8; 16], u32, u32, [u8; 16])>().prop_map(|(session, from, to, nonce)| {
                ClientMessage::Relay(RelayRequest { session, from, to, nonce })
            }),
            any::<([u8; 16], [u8; 32], u32, u32, [u8; 16])>().prop_map(|(session, group, rank, size, nonce)| {
                ClientMessage::Resume(Resumption { session, group, rank, size, nonce })
            }),
        ]
    }

    fn server_message() -> impl Strategy<Value = ServerMessage> {
        let observed = (address(), proptest::option::of(address()), proptest::option::of(address()))
            .prop_map(|(main, second, other)| Observed { main, second, other });
        let member = (any::<[u8; 16]>(), observed, micros(), card());
        prop_oneof![
            (address(), any::<(u32, u32, bool, bool)>()).prop_map(
                |(observed, (present, missing, other_key, running))| {
                    ServerMessage::Waiting(Waiting { observed, present, missing, other_key, running })
                }
            ),
            (any::<[u8; 16]>(), proptest::collection::vec(member, 0..5)).prop_map(|(session, members)| {
                let members = (0..).zip(members);
                let members = members
                    .map(|(rank, (nonce, observed, round_trip, card))| Member {
                        rank,
                        nonce,
                        observed,
                        round_trip,
                        card,
                    })
                    .collect();
                ServerMessage::Handout(Arc::new(Handout { session, members }))
            }),
            any::<u32>().prop_map(|expected| ServerMessage::Refused(Refusal::SizeMismatch { expected })),
            Just(ServerMessage::Refused(Refusal::NotMember)),
            any::<u8>().prop_map(|version| ServerMessage::Refused(Refusal::Version(version))),
            any::<([u8; 16], u32)>().prop_map(|(session, rank)| ServerMessage::Lost { session, rank }),
            any::<[u8; 16]>().prop_map(ServerMessage::Dissolved),
            Just(ServerMessage::Probe),
            Just(ServerMessage::Relayed),
            any::<([u8; 16], u32)>().prop_map(|(session, rank)| ServerMessage::Severed { session, rank }),
            any::<([u8; 16], u32)>().prop_map(|(session, rank)| ServerMessage::Failed { session, rank }),
            (address(), addresses()).prop_map(|(observed, vantages)| ServerMessage::Observed { observed, vantages }),
            (any::<u8>(), 1u8..=4).prop_map(|(vantage, code)| {
                ServerMessage::CalledBack { vantage, outcome: Outcome::from_code(code).expect("a code") }
            }),
        ]
    }

    proptest! {
        #[test]
        fn messages_survive_the_wire(client in client_message(), server in server_message()) {
            let bytes = client.emit();
            let (body, taken) = split(&bytes, CLIENT_MESSAGE_BYTES_MAX).expect("in bounds").expect("complete");
            prop_assert_eq!(taken, bytes.len());
            prop_assert_eq!(ClientMessage::parse(body), Ok(client));
            let bytes = server.emit();
            let (body, _) = split(&bytes, SERVER_MESSAGE_BYTES_MAX).expect("in bounds").expect("complete");
            prop_assert_eq!(ServerMessage::parse(body), Ok(server));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = ClientMessage::parse(&bytes);
            let _ = ServerMessage::parse(&bytes);
            let _ = split(&bytes, 100);
        }

        #[test]
        fn a_truncated_message_is_refused(message in server_message(), cut in any::<proptest::sample::Index>()) {
            let bytes = message.emit();
            let body = &bytes[4..];
            prop_assert!(ServerMessage::parse(&body[..cut.index(body.len())]).is_err());
        }
    }

    #[test]
    fn the_longest_messages_are_within_their_limits() {
        let (address, card) = (SocketAddr::from(([1u16; 8], 1)), vec![0; CARD_BYTES_MAX]);
        let observed = Observed { main: address, second: Some(address), other: Some(address) };
        let member = |rank| Member { rank, nonce: [0; 16], observed, round_trip: Duration::MAX, card: card.clone() };
        let group = Handout { session: [0; 16], members: (0..SIZE_MAX).map(member).collect() };
        let message = ServerMessage::Handout(Arc::new(group));
        let bytes = message.emit();
        assert!(bytes.len() <= SERVER_MESSAGE_BYTES_MAX);
        assert!(ServerMessage::parse(&bytes[4..]).is_ok(), "the largest group is taken");
        let mut larger = bytes[4..].to_vec();
        let count = larger.windows(4).position(|it| it == SIZE_MAX.to_be_bytes()).expect("the number of members");
        larger[count..count + 4].copy_from_slice(&(SIZE_MAX + 1).to_be_bytes());
        let too_long = WireError::TooLong(u64::from(SIZE_MAX) + 1, SIZE_MAX.into());
        assert_eq!(ServerMessage::parse(&larger), Err(too_long));
        let (group, name, instance, nonce) = ([0; 32], [0; 16], [0; 16], [0; 16]);
        let (rank, size, round_trip, vouches) = (0, 1, Duration::ZERO, 2);
        let longest = Registration { group, name, rank, size, instance, nonce, round_trip, vouches, card };
        assert!(ClientMessage::Register(longest).emit().len() <= CLIENT_MESSAGE_BYTES_MAX);
    }

    #[test]
    fn an_oversized_length_is_refused_before_its_bytes_arrive() {
        assert_eq!(split(&[0, 1, 0, 0], 512), Err(WireError::TooLong(65_536, 512)));
        assert_eq!(split(&[0, 0, 0], 512), Ok(None));
        assert_eq!(split(&[0, 0, 0, 2, 7, 8, 9], 2), Ok(Some((&[7, 8][..], 6))), "the limit itself");
        assert_eq!(split(&[0, 0, 0, 3, 7, 8, 9], 2), Err(WireError::TooLong(3, 2)));
    }

    #[test]
    fn a_registration_waits_for_so_many_vouches() {
        let parsed = |vouches| {
            let (group, name, instance, nonce) = ([0; 32], [0; 16], [0; 16], [0; 16]);
            let (rank, size, round_trip, card) = (0, 1, Duration::ZERO, vec![]);
            let message = Registration { group, name, rank, size, instance, nonce, round_trip, vouches, card };
            ClientMessage::parse(&ClientMessage::Register(message).emit()[4..]).map(|_| ())
        };
        assert_eq!(parsed(VOUCHES_MAX), Ok(()));
        assert_eq!(parsed(VOUCHES_MAX + 1), Err(WireError::TooLong(u64::from(VOUCHES_MAX) + 1, VOUCHES_MAX.into())));
    }

    #[test]
    fn each_flag_of_a_waiting_group_travels() {
        for (other_key, running) in [(false, false), (false, true), (true, false), (true, true)] {
            let observed = ([1, 1, 1, 1], 1).into();
            let message = ServerMessage::Waiting(Waiting { observed, present: 1, missing: 0, other_key, running });
            assert_eq!(ServerMessage::parse(&message.emit()[4..]), Ok(message));
        }
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let refusals = [Refusal::Busy, Refusal::RankTaken, Refusal::Replayed, Refusal::NotMember, Refusal::Version(9)];
        let advice: std::collections::BTreeSet<&str> = refusals.iter().map(|refusal| refusal.advice()).collect();
        assert!(advice.len() > 2 && advice.iter().all(|text| text.split(' ').count() > 2), "{advice:?}");
    }
}
