//! The rendezvous protocol: how ranks that cannot accept connections learn each other's addresses.
//!
//! Every message is a 4-byte length, a version, a type and a body, all big-endian. A client sends
//! one `Register`; when all ranks of a group are there, each gets one `Group` with the addresses of
//! all, and that is the whole exchange. The connection stays open as the control channel: the
//! server watches it with TCP keep-alive and tells the others when a rank is lost.
//!
//! The server stores what the socket said of a client (`observed`), never what the client claims;
//! candidates that a client adds are limited in number and kind ([`candidate_is_allowed`]).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::discovery::Outcome;
use super::wire::{Reader, WireError, Write};

pub mod client;
pub mod server;

/// Identifies a group: a keyed hash of its name.
pub type GroupId = [u8; 32];
/// Identifies the name of a group without its key, to tell a wrong key from a missing rank.
pub type NameHash = [u8; 16];
/// Identifies one forming of a group.
pub type SessionId = [u8; 16];
/// Distinguishes the registrations of one rank.
pub type Nonce = [u8; 16];
/// Distinguishes the processes that claim one rank.
pub type InstanceId = [u8; 16];

/// Version of the protocol.
pub const VERSION: u8 = 1;
/// Most candidates that a client may add: ICE uses fewer for one component of one interface.
pub const CANDIDATES_MAX: usize = 8;
/// Longest message from a client: a `Register` with all candidates is 245 bytes.
pub const CLIENT_MESSAGE_BYTES_MAX: usize = 512;
/// Largest group that fits a `Group` message.
pub const SIZE_MAX: u32 = 4096;
/// Longest message from a server: a `Group` of [`SIZE_MAX`] members with all candidates.
pub const SERVER_MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Whether an address that a client claims may be handed to its peers.
///
/// A claimed address makes peers send SYNs to it (nat.md T6), so it must be private, or the address
/// that the rendezvous saw itself.
pub fn candidate_is_allowed(candidate: SocketAddr, observed: IpAddr) -> bool {
    let kind_is_allowed = match candidate.ip() {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || (ip.is_loopback() && observed.is_loopback()),
        IpAddr::V6(ip) => {
            ip.is_unique_local() || ip.is_unicast_link_local() || (ip.is_loopback() && observed.is_loopback())
        }
    };
    candidate.port() != 0 && (candidate.ip() == observed || kind_is_allowed)
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Group to join.
    pub group: GroupId,
    /// Its name without the key.
    pub name: NameHash,
    /// Rank claimed.
    pub rank: u32,
    /// Size of the group, equal on all ranks.
    pub size: u32,
    /// The process that claims the rank.
    pub instance: InstanceId,
    /// Fresh for each registration.
    pub nonce: Nonce,
    /// Addresses of the rank's own interfaces.
    pub candidates: Vec<SocketAddr>,
}

/// One rank as its peers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its rank.
    pub rank: u32,
    /// Its nonce.
    pub nonce: Nonce,
    /// Its address as the rendezvous saw it.
    pub observed: SocketAddr,
    /// Addresses of its own interfaces.
    pub candidates: Vec<SocketAddr>,
}

/// All that a rank needs to meet the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
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
    /// All connections of the session stand.
    Formed(SessionId),
    /// Leaves the group in good order.
    Leave(SessionId),
    /// Asks where it is seen from. For [discovery](crate::proto::discovery), without a group.
    Observe,
    /// Asks to be called back, at where it is seen from, by the vantage of this number.
    CallBack(u8),
}

/// From a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerMessage {
    /// State of a group that waits for ranks.
    Waiting(Waiting),
    /// The group is complete.
    Group(Group),
    /// The registration is refused.
    Refused(Refusal),
    /// A rank of the session is lost.
    Lost {
        /// Session of the rank.
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
    /// What came of calling a client back.
    CalledBack {
        /// Number of the vantage that called.
        vantage: u8,
        /// What came of it.
        outcome: Outcome,
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
    /// A group of the same name waits with another key.
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
    /// The server is at a limit.
    Busy,
    /// The message is not understood.
    Malformed,
    /// The registration waited too long.
    Expired,
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
        }
    }

    /// Whether the same registration may be accepted later.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Busy | Self::Expired)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RankTaken => f.write_str("another process holds this rank"),
            Self::SizeMismatch { expected } => write!(f, "the group has {expected} ranks"),
            Self::RankOutOfRange => f.write_str("the rank is not below the size"),
            Self::SizeOutOfRange { max } => write!(f, "the size must be from 1 to {max}"),
            Self::Busy => f.write_str("it is at a limit"),
            Self::Malformed => f.write_str("it does not understand the message"),
            Self::Expired => f.write_str("the registration waited too long"),
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

fn put_addresses(out: &mut Vec<u8>, addresses: &[SocketAddr]) {
    let count = u8::try_from(addresses.len().min(CANDIDATES_MAX)).expect("CANDIDATES_MAX is below 256");
    out.put(&[count]);
    for address in addresses.iter().take(CANDIDATES_MAX) {
        out.put_address(*address);
    }
}

fn addresses(reader: &mut Reader<'_>) -> Result<Vec<SocketAddr>, WireError> {
    let count = usize::from(reader.u8()?);
    if count > CANDIDATES_MAX {
        return Err(WireError::TooLong(count as u64, CANDIDATES_MAX as u64));
    }
    (0..count).map(|_| reader.address()).collect()
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
        return Err(WireError::Version(version));
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
                put_addresses(out, &registration.candidates);
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
                candidates: addresses(&mut reader)?,
            }),
            2 => Self::Ping,
            3 => Self::Formed(reader.array()?),
            4 => Self::Leave(reader.array()?),
            5 => Self::Observe,
            6 => Self::CallBack(reader.u8()?),
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
            Self::Group(group) => frame(2, |out| {
                let count = u32::try_from(group.members.len()).expect("a group has at most SIZE_MAX members");
                out.put(&group.session).put(&count.to_be_bytes());
                for member in &group.members {
                    out.put(&member.rank.to_be_bytes()).put(&member.nonce);
                    out.put_address(member.observed);
                    put_addresses(out, &member.candidates);
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
                put_addresses(out, vantages);
            }),
            Self::CalledBack { vantage, outcome } => frame(8, |out| {
                out.put(&[*vantage, outcome.code()]);
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
            2 => Self::Group(parse_group(&mut reader)?),
            3 => {
                let (code, value) = (reader.u8()?, reader.u32()?);
                Self::Refused(match code {
                    1 => Refusal::RankTaken,
                    2 => Refusal::SizeMismatch { expected: value },
                    3 => Refusal::RankOutOfRange,
                    4 => Refusal::SizeOutOfRange { max: value },
                    5 => Refusal::Busy,
                    6 => Refusal::Malformed,
                    7 => Refusal::Expired,
                    other => return Err(WireError::Value { field: "refusal", value: u64::from(other) }),
                })
            }
            4 => Self::Lost { session: reader.array()?, rank: reader.u32()? },
            5 => Self::Dissolved(reader.array()?),
            6 => Self::Probe,
            7 => Self::Observed { observed: reader.address()?, vantages: addresses(&mut reader)? },
            8 => {
                let (vantage, code) = (reader.u8()?, reader.u8()?);
                let outcome = Outcome::from_code(code);
                let unknown = || WireError::Value { field: "outcome", value: u64::from(code) };
                let outcome = outcome.ok_or_else(unknown)?;
                Self::CalledBack { vantage, outcome }
            }
            other => return Err(WireError::Value { field: "server message type", value: u64::from(other) }),
        };
        reader.finish()?;
        Ok(message)
    }
}

fn parse_group(reader: &mut Reader<'_>) -> Result<Group, WireError> {
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
        let (nonce, observed) = (reader.array()?, reader.address()?);
        members.push(Member { rank, nonce, observed, candidates: addresses(reader)? });
    }
    Ok(Group { session, members })
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

    fn candidates() -> impl Strategy<Value = Vec<SocketAddr>> {
        proptest::collection::vec(address(), 0..=CANDIDATES_MAX)
    }

    fn client_message() -> impl Strategy<Value = ClientMessage> {
        prop_oneof![
            (any::<([u8; 32], [u8; 16], u32, u32, [u8; 16], [u8; 16])>(), candidates()).prop_map(
                |((group, name, rank, size, instance, nonce), candidates)| {
                    ClientMessage::Register(Registration { group, name, rank, size, instance, nonce, candidates })
                }
            ),
            Just(ClientMessage::Ping),
            any::<[u8; 16]>().prop_map(ClientMessage::Formed),
            any::<[u8; 16]>().prop_map(ClientMessage::Leave),
            Just(ClientMessage::Observe),
            any::<u8>().prop_map(ClientMessage::CallBack),
        ]
    }

    fn server_message() -> impl Strategy<Value = ServerMessage> {
        let member = (any::<[u8; 16]>(), address(), candidates());
        prop_oneof![
            (address(), any::<(u32, u32, bool, bool)>()).prop_map(
                |(observed, (present, missing, other_key, running))| {
                    ServerMessage::Waiting(Waiting { observed, present, missing, other_key, running })
                }
            ),
            (any::<[u8; 16]>(), proptest::collection::vec(member, 0..5)).prop_map(|(session, members)| {
                let members = (0..).zip(members);
                let members = members
                    .map(|(rank, (nonce, observed, candidates))| Member { rank, nonce, observed, candidates })
                    .collect();
                ServerMessage::Group(Group { session, members })
            }),
            any::<u32>().prop_map(|expected| ServerMessage::Refused(Refusal::SizeMismatch { expected })),
            any::<([u8; 16], u32)>().prop_map(|(session, rank)| ServerMessage::Lost { session, rank }),
            any::<[u8; 16]>().prop_map(ServerMessage::Dissolved),
            Just(ServerMessage::Probe),
            (address(), candidates()).prop_map(|(observed, vantages)| ServerMessage::Observed { observed, vantages }),
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
    fn only_private_or_observed_candidates_are_handed_on() {
        let observed: IpAddr = [203, 0, 113, 7].into();
        let allowed = |ip: [u8; 4], port| candidate_is_allowed(SocketAddr::from((ip, port)), observed);
        assert!(allowed([10, 0, 0, 2], 4000));
        assert!(allowed([203, 0, 113, 7], 4000));
        assert!(!allowed([10, 0, 0, 2], 0), "port 0 is no address");
        assert!(!allowed([198, 51, 100, 1], 4000), "a third party must not be hit");
        assert!(!allowed([224, 0, 0, 1], 4000), "multicast");
        assert!(!allowed([127, 0, 0, 1], 4000), "loopback of somebody else");
    }

    #[test]
    fn an_oversized_length_is_refused_before_its_bytes_arrive() {
        assert_eq!(split(&[0, 1, 0, 0], 512), Err(WireError::TooLong(65_536, 512)));
        assert_eq!(split(&[0, 0, 0], 512), Ok(None));
    }
}
