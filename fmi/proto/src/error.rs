//! What can go wrong, told to a person: what was attempted, on which rank, with whom, and over which path
//! ([`Display`](fmt::Display)), and what to do about it ([`Error::advice`]).
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

pub use crate::cause::Cause;
pub use crate::operation::{Operation, UnknownName};
pub use crate::rendezvous::Refusal;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How bytes reach a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Path {
    /// A TCP connection to an address that the peer itself has: same host, same network, no NAT.
    Private,
    /// A TCP connection to the address that the rendezvous observed: through NATs.
    Direct,
    /// Through the rendezvous.
    Relay,
    /// Through a store.
    Store,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Private => "private",
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Store => "store",
        })
    }
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A configuration value is missing or wrong.
    InvalidConfig(String),
    /// An argument of the call is wrong, for instance a root outside the group.
    InvalidArgument(String),
    /// No rendezvous answered before the deadline.
    RendezvousUnreachable {
        /// Address that was tried.
        address: String,
        /// What the last attempt met, or the first one that this machine refused.
        last: String,
        /// Where that lies.
        cause: Cause,
    },
    /// The rendezvous refused this rank.
    Refused(Refusal),
    /// A request to the store failed, or what it handed out was not what was put there.
    Store(String),
    /// Ranks were still missing at the deadline.
    GroupIncomplete {
        /// Ranks that the rendezvous knew of, this one included.
        present: u32,
        /// Size of the group.
        size: u32,
        /// Lowest rank that was missing.
        missing: u32,
        /// Another group of this size holds the missing rank: name or key may differ between the ranks.
        other_key: bool,
        /// A group of this name and key already runs.
        running: bool,
    },
    /// No connection to a peer could be made before the deadline.
    Unconnected {
        /// Peers without a connection.
        missing: u32,
        /// Attempts made towards the peer that the error names.
        attempts: u32,
        /// What the last attempt met, or the first one that this machine refused.
        last: String,
        /// Where that lies.
        cause: Cause,
    },
    /// The peer vanished: it answers neither the rendezvous nor its peers.
    PeerLost(String),
    /// The peer left while the operation still needed it. Empty if it gave no reason.
    PeerLeft(String),
    /// The connection to the peer broke. Whether the peer lives is not known.
    ConnectionLost(String),
    /// The other ranks went on without this one: they took it for lost.
    Excluded(String),
    /// The deadline of the operation passed.
    Deadline {
        /// Time that the operation had.
        after: Duration,
        /// Which rank waits for which, as far as peers answered.
        waits: String,
    },
    /// Ranks wait for each other, and none of them has moved a byte for long. It says which.
    Deadlock(String),
    /// Two ranks called different things.
    Mismatch {
        /// What this rank called.
        mine: String,
        /// What the peer called.
        theirs: String,
    },
    /// A message is longer than the buffer for it.
    Truncated {
        /// Length of the message, in bytes.
        message_bytes: u64,
        /// Length of the buffer, in bytes.
        buffer_bytes: u64,
    },
    /// A peer sent what is not a frame.
    Malformed(String),
    /// A peer speaks another version of the protocol.
    OtherVersion {
        /// The version of the protocol that the other side speaks.
        theirs: u8,
        /// The version of this rank.
        ours: u8,
    },
    /// Unexpected messages fill the mailbox.
    MailboxFull {
        /// The limit that applies.
        bytes_max: u64,
    },
    /// An earlier failure ended this communicator.
    Revoked(String),
    /// The operating system refused something local.
    Local(String),
}

/// What a network calls a path that drops long packets without a word, where it suspects one.
const MTU_BLACK_HOLE: &str = "MTU black hole";

impl ErrorKind {
    /// What may help, where something general can be said.
    pub fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::InvalidArgument(_) => return None,
            Self::InvalidConfig(_) => "the documentation of `fmi::Config` lists all settings",
            Self::RendezvousUnreachable { cause, .. } | Self::Unconnected { cause, .. } if cause.advice().is_some() => {
                return cause.advice();
            }
            Self::RendezvousUnreachable { cause: Cause::Stranger, .. } => {
                "something else listens there: check FMI_RENDEZVOUS"
            }
            Self::RendezvousUnreachable { .. } => {
                "start one with `fmi rendezvous --listen ADDR`, and check FMI_RENDEZVOUS and the firewalls on the way"
            }
            Self::Refused(refusal) => refusal.advice(),
            Self::Store(_) => "check FMI_STORE, whether the store runs, and what this process may do there",
            Self::GroupIncomplete { running: true, .. } => {
                "a group of this name and key is already running: use another FMI_GROUP, or wait for it to end"
            }
            Self::GroupIncomplete { other_key: true, .. } => {
                "that rank is waiting in another group of this size: check that FMI_GROUP and FMI_KEY are equal on all ranks"
            }
            Self::GroupIncomplete { .. } => {
                "start the missing ranks, or check FMI_GROUP, FMI_SIZE and FMI_KEY on all of them"
            }
            Self::Unconnected { cause: Cause::Stranger, .. } => {
                "something else answers at the addresses of that rank: see whether it still runs, and its log"
            }
            Self::Unconnected { cause: Cause::Loopback, .. } => {
                "both ranks are on this machine: see whether that rank still runs, its log, and the firewall of this machine"
            }
            Self::Unconnected { .. } => {
                "the NATs of both sides may not allow a direct connection: `lab matrix` shows which pairs do"
            }
            Self::PeerLost(_) => "look at the log of that rank; form a new group to go on",
            Self::PeerLeft(_) => "look at the log of that rank, or wait for all ranks before one leaves",
            Self::ConnectionLost(how) if how.contains(MTU_BLACK_HOLE) => {
                "set FMI_MSS=1200 on all ranks, or let ICMP's \"fragmentation needed\" and \"packet too big\" pass the firewalls"
            }
            Self::ConnectionLost(_) => "look at the network between the two ranks; form a new group to go on",
            Self::Excluded(_) => "form a new group; this rank could not be reached for a while",
            Self::Deadline { .. } => "check that all ranks call the same operations, or raise FMI_DEADLINE",
            Self::Deadlock(_) => "check the order of operations on the ranks that wait for each other",
            Self::Mismatch { .. } => "all ranks must call the same operations in the same order",
            Self::Truncated { .. } => "give a buffer that is as long as the message",
            Self::Malformed(_) => "check that all ranks run the same version of fmi",
            Self::OtherVersion { .. } => "run the same version of fmi on all ranks",
            Self::MailboxFull { .. } => "receive what was sent before sending more, or raise FMI_MAILBOX_BYTES",
            Self::Revoked(_) => "form a new group",
            Self::Local(_) => "check addresses, permissions and limits of this machine",
        })
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidConfig(what) | Self::InvalidArgument(what) | Self::Local(what) => f.write_str(what),
            Self::RendezvousUnreachable { address, last, cause: Cause::Loopback | Cause::Network } => {
                write!(f, "no rendezvous answered at {address} ({last})")
            }
            Self::RendezvousUnreachable { address, last, cause: Cause::Stranger } => {
                write!(f, "what answers at {address} is no rendezvous ({last})")
            }
            Self::RendezvousUnreachable { address, last, .. } => {
                write!(f, "the rendezvous at {address} could not be tried ({last})")
            }
            Self::Refused(refusal) => write!(f, "the rendezvous refused this rank: {refusal}"),
            Self::Store(what) => f.write_str(what),
            Self::GroupIncomplete { present, size, missing, .. } => {
                write!(f, "{present} of {size} ranks registered in time; rank {missing} is missing")
            }
            Self::Unconnected { missing, attempts, last, .. } => {
                write!(f, "not connected after {attempts} attempts ({last}); peers that are unreachable: {missing}")
            }
            Self::PeerLost(how) => write!(f, "lost: {how}"),
            Self::PeerLeft(how) if how.is_empty() => f.write_str("left the group"),
            Self::PeerLeft(how) => write!(f, "left the group: {how}"),
            Self::ConnectionLost(how) => write!(f, "the connection broke: {how}"),
            Self::Excluded(how) => write!(f, "this rank was excluded: {how}"),
            Self::Deadline { after, waits } if waits.is_empty() => {
                write!(f, "timed out after {:.3} s", after.as_secs_f64())
            }
            Self::Deadline { after, waits } => write!(f, "timed out after {:.3} s: {waits}", after.as_secs_f64()),
            Self::Deadlock(waits) => write!(f, "ranks wait for each other: {waits}"),
            Self::Mismatch { mine, theirs } => write!(f, "this rank calls {mine}, the peer calls {theirs}"),
            Self::Truncated { message_bytes, buffer_bytes } => {
                write!(f, "a message of {message_bytes} bytes does not fit a buffer of {buffer_bytes} bytes")
            }
            Self::Malformed(what) => write!(f, "sent malformed bytes: {what}"),
            Self::OtherVersion { theirs, ours } => {
                write!(f, "speaks version {theirs} of the protocol, this rank version {ours}")
            }
            Self::MailboxFull { bytes_max } => {
                write!(f, "unexpected messages fill the mailbox of {bytes_max} bytes")
            }
            Self::Revoked(cause) => write!(f, "the communicator was revoked by an earlier failure: {cause}"),
        }
    }
}

/// A failure: operation, rank, peer, path, [`ErrorKind`] and source.
pub struct Error(Box<Inner>);

struct Inner {
    operation: Operation,
    rank: Option<u32>,
    peer: Option<u32>,
    path: Option<Path>,
    kind: ErrorKind,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Makes an error of `operation`.
    pub fn new(operation: Operation, kind: ErrorKind) -> Self {
        Self(Box::new(Inner { operation, rank: None, peer: None, path: None, kind, source: None }))
    }

    /// Says of which operation it is.
    #[must_use]
    pub fn of(mut self, operation: Operation) -> Self {
        self.0.operation = operation;
        self
    }

    /// Names the rank on which it happened.
    #[must_use]
    pub fn on(mut self, rank: u32) -> Self {
        self.0.rank = Some(rank);
        self
    }

    /// Names the peer that is concerned.
    #[must_use]
    pub fn with_peer(mut self, peer: u32) -> Self {
        self.0.peer = Some(peer);
        self
    }

    /// Names the path to the peer.
    #[must_use]
    pub fn via(mut self, path: Path) -> Self {
        self.0.path = Some(path);
        self
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(source));
        self
    }

    /// The operation that failed.
    pub fn operation(&self) -> Operation {
        self.0.operation
    }

    /// The rank on which it failed.
    pub fn rank(&self) -> Option<u32> {
        self.0.rank
    }

    /// The peer that is concerned, when there is one.
    pub fn peer(&self) -> Option<u32> {
        self.0.peer
    }

    /// The path to the peer, when there is one.
    pub fn path(&self) -> Option<Path> {
        self.0.path
    }

    /// What the person who runs the program may do about it. It is not part of the message: programs that talk to a
    /// person print it behind. `Debug` shows both, as it is what a `main` that returns the error prints.
    pub fn advice(&self) -> Option<&'static str> {
        self.0.kind.advice()
    }

    /// Why it failed.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Whether the same call, in a new group, may succeed without a change of program or configuration.
    pub fn is_retryable(&self) -> bool {
        match self.0.kind {
            ErrorKind::RendezvousUnreachable { .. }
            | ErrorKind::Store(_)
            | ErrorKind::GroupIncomplete { .. }
            | ErrorKind::Unconnected { .. }
            | ErrorKind::PeerLost(_)
            | ErrorKind::PeerLeft(_)
            | ErrorKind::ConnectionLost(_)
            | ErrorKind::Excluded(_)
            | ErrorKind::Deadline { .. }
            | ErrorKind::Revoked(_) => true,
            ErrorKind::Refused(refusal) => refusal.is_retryable(),
            ErrorKind::InvalidConfig(_)
            | ErrorKind::InvalidArgument(_)
            | ErrorKind::Mismatch { .. }
            | ErrorKind::Deadlock(_)
            | ErrorKind::Truncated { .. }
            | ErrorKind::Malformed(_)
            | ErrorKind::OtherVersion { .. }
            | ErrorKind::MailboxFull { .. }
            | ErrorKind::Local(_) => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.operation)?;
        if let Some(rank) = self.0.rank {
            write!(f, " on rank {rank}")?;
        }
        f.write_str(": ")?;
        if let Some(peer) = self.0.peer {
            write!(f, "rank {peer}")?;
            if let Some(path) = self.0.path {
                write!(f, " ({path})")?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{}", self.0.kind)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.advice().map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_operation_rank_peer_and_path_and_gives_advice_apart() {
        let error = Error::new(Operation::Allreduce, ErrorKind::PeerLost("no answer for 3 s".into()))
            .on(3)
            .with_peer(5)
            .via(Path::Direct);
        assert_eq!(error.to_string(), "allreduce on rank 3: rank 5 (direct): lost: no answer for 3 s");
        assert_eq!(error.advice(), Some("look at the log of that rank; form a new group to go on"));
        assert!(error.is_retryable());
    }

    #[test]
    fn a_main_that_returns_it_prints_a_sentence() {
        let error = Error::new(Operation::Configure, ErrorKind::InvalidConfig("FMI_GROUP is not set".into()));
        let printed = format!("{:?}", Err::<(), _>(error));
        let expected = "Err(configure: FMI_GROUP is not set; the documentation of `fmi::Config` lists all settings)";
        assert_eq!(printed, expected);
        let error = Error::new(Operation::Send, ErrorKind::InvalidArgument("the peer is 9".into()));
        assert_eq!(format!("{error:?}"), "send: the peer is 9");
    }
}
