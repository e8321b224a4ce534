//! What a gateway can be told to do. Words of RFC 4787 and RFC 5382.

use std::time::Duration;

/// Which external endpoint an internal one gets. RFC 4787 §4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mapping {
    /// The same for all remotes.
    EndpointIndependent,
    /// Another for each remote address.
    AddressDependent,
    /// Another for each remote address and port.
    AddressAndPortDependent,
    /// Linux: the own port, shared with other hosts while remotes differ; another on a clash.
    PreserveOverlap,
    /// One external address for one host, ports untouched.
    OneToOne,
}

/// Which remotes may send to an external endpoint in use. RFC 4787 §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filtering {
    /// All.
    EndpointIndependent,
    /// Those whose address has been sent to.
    AddressDependent,
    /// Those whose address and port have been sent to.
    AddressAndPortDependent,
}

/// How a fresh external port is chosen. RFC 4787 §4.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allocation {
    /// The internal port, a random one if that is taken.
    Preserve,
    /// The next one.
    Sequential,
    /// A random one.
    Random,
}

/// The answer to a TCP segment that nothing inside asked for. RFC 5382 §4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unsolicited {
    /// None.
    Drop,
    /// An RST at once.
    Reset,
    /// An ICMP destination unreachable at once.
    Icmp {
        /// 3 for port unreachable, 13 for administratively prohibited.
        code: u8,
    },
    /// None for a while, so that an outbound SYN can meet the inbound one (REQ-4).
    Hold {
        /// For how long.
        time: Duration,
        /// Whether an ICMP port unreachable follows.
        then_icmp: bool,
    },
}

/// What becomes of a packet from inside to the own external address. RFC 4787 §6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hairpin {
    /// It is dropped.
    Drop,
    /// The gateway's own stack refuses it.
    Reset,
    /// It is delivered, with the external endpoint of its sender as source (REQ-9).
    ExternalSource,
}

/// Idle times after which a session is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// TCP until both sides have spoken and acknowledged.
    pub opening: Duration,
    /// TCP established.
    pub established: Duration,
    /// TCP after a FIN from both sides.
    pub closing: Duration,
    /// TCP after an RST.
    pub reset: Duration,
    /// UDP until the remote has answered.
    pub udp_unreplied: Duration,
    /// UDP.
    pub udp: Duration,
}

impl Timers {
    /// Times in seconds, in the order of the fields.
    pub const fn seconds(
        opening: u64,
        established: u64,
        closing: u64,
        reset: u64,
        udp_unreplied: u64,
        udp: u64,
    ) -> Self {
        Self {
            opening: Duration::from_secs(opening),
            established: Duration::from_secs(established),
            closing: Duration::from_secs(closing),
            reset: Duration::from_secs(reset),
            udp_unreplied: Duration::from_secs(udp_unreplied),
            udp: Duration::from_secs(udp),
        }
    }
}

/// All of it. [`preset`](super::preset) has values for known devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatConfig {
    /// Mapping.
    pub mapping: Mapping,
    /// Filtering.
    pub filtering: Filtering,
    /// Port allocation.
    pub allocation: Allocation,
    /// First and last external port; a port of the inside is kept even outside of this range.
    pub ports: (u16, u16),
    /// Answer to unsolicited TCP.
    pub unsolicited: Unsolicited,
    /// Whether an RST that answers an unreplied session deletes it at once (Linux).
    pub reset_deletes_half_open: bool,
    /// Hairpinning.
    pub hairpin: Hairpin,
    /// Whether packets from outside refresh a UDP session (RFC 4787 REQ-6a).
    pub inbound_refreshes: bool,
    /// Idle times.
    pub timers: Timers,
    /// Most sessions at once; further ones are refused and never evict others.
    pub sessions_max: usize,
}
