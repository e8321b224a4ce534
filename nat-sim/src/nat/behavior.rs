//! What a gateway can be told to do. Words of RFC 4787, RFC 5382, RFC 5508 and RFC 7857.

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
    /// Linux: any that the source already holds, else by the allocation rule, as long as no other
    /// session uses it towards the same remote.
    PreserveOverlap,
    /// One external address for each host, ports untouched.
    OneToOne,
    /// A proxy that ends connections: the outside sees the ports of its own stack.
    L4Proxy,
    /// None: addresses stay as they are, and only the filter acts.
    None,
}

/// Which remotes may send to an external endpoint in use. RFC 4787 §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filtering {
    /// All remotes, as long as the mapping lives.
    EndpointIndependent,
    /// Those of an address that the inside has sent to.
    AddressDependent,
    /// Those that the inside has sent to.
    AddressAndPortDependent,
}

/// What happens when the port of the inside cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fallback {
    /// A random free port of the class.
    Random,
    /// Linux's bounded search: 128 ports from a random start, then 64, 32, 16 and 8 from others. It may
    /// fail although ports are free.
    LinuxSearch,
    /// The next free port above.
    Next,
    /// The lowest free port of the class (Cisco IOS).
    Lowest,
    /// None: the flow is refused (pf's `static-port`).
    Refuse,
}

/// How a fresh external port is chosen. RFC 4787 §4.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allocation {
    /// The internal port if it lies in its class and is free.
    Preserve(Fallback),
    /// The port a fixed distance above the last one given out, or the next free one.
    Sequential {
        /// Distance from one port to the next.
        step: u16,
        /// Whether each host has a counter of its own.
        per_host: bool,
    },
    /// A random free port of the class.
    Random,
    /// Random ports from blocks that belong to one host each.
    Block {
        /// Ports in a block.
        ports: u16,
        /// Most blocks of one host.
        blocks_per_host_max: u16,
    },
}

/// Which external ports are there for an internal one. RFC 4787 REQ-3a.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortClass {
    /// These, whatever the internal port.
    Fixed(u16, u16),
    /// 0-1023 and 1024-65535 apart; port 0 is not used.
    Rfc4787,
    /// 1-511, 600-1023 and 1024-65535 apart.
    Linux,
    /// 1-511, 512-1023 and 1024-65535 apart.
    Cisco,
}

impl PortClass {
    /// First and last external port for an internal one.
    pub fn range(self, internal: u16) -> (u16, u16) {
        match (self, internal) {
            (Self::Fixed(low, high), _) => (low, high),
            (Self::Rfc4787, 0..=1023) => (1, 1023),
            (Self::Linux | Self::Cisco, 0..=511) => (1, 511),
            (Self::Linux, 512..=1023) => (600, 1023),
            (Self::Cisco, 512..=1023) => (512, 1023),
            (Self::Rfc4787 | Self::Linux | Self::Cisco, 1024..) => (1024, 65_535),
        }
    }

    /// Whether an internal port may be kept. Linux keeps 512 to 599 as well, though it never gives
    /// them out.
    pub fn may_keep(self, port: u16) -> bool {
        match self {
            Self::Fixed(low, high) => (low..=high).contains(&port),
            Self::Rfc4787 | Self::Linux | Self::Cisco => port != 0,
        }
    }
}

/// Whether two mappings may share an external port. RFC 4787 REQ-3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Overload {
    /// Never: each external port is one mapping's.
    Never,
    /// While their remotes differ (RFC 7857 §3).
    DistinctRemote,
    /// Always; answers go to whoever came last. Broken on purpose.
    Always,
}

/// Which of several external addresses a host gets. RFC 4787 REQ-2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pooling {
    /// One for all its flows.
    Paired,
    /// Any, by source and destination of the flow.
    Arbitrary,
    /// The first that has a port left.
    FirstWithRoom,
}

/// What decides about one transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// For which remotes a mapping is used again.
    pub mapping: Mapping,
    /// Which remotes may send to it.
    pub filtering: Filtering,
    /// How its external port is chosen.
    pub allocation: Allocation,
    /// Among which ports.
    pub ports: PortClass,
    /// Whether another mapping may have the same port.
    pub overload: Overload,
}

/// How long an external port rests after its use before it is given out again. Zero is not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quarantine {
    /// Whether the rest is towards the same remote only.
    pub same_remote_only: bool,
    /// After FINs from both sides.
    pub fin: Duration,
    /// After an RST from either side.
    pub reset: Duration,
    /// After a handshake that never ended.
    pub half_open: Duration,
    /// After an idle session, TCP or not.
    pub idle: Duration,
}

/// The answer to a SYN from outside that nothing inside asked for. RFC 5382 §4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnSyn {
    /// No answer.
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
        /// For how long; RFC 5382 asks for at least 6 s.
        time: Duration,
        /// Whether an ICMP port unreachable follows.
        then_icmp: bool,
    },
    /// None, but the gateway's tracker takes it for a connection to the gateway itself, which keeps
    /// the port from everybody inside.
    Sink,
}

/// The answer to any other unsolicited segment or datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnStray {
    /// No answer.
    Drop,
    /// An RST to what is no RST; nothing to UDP.
    Reset,
    /// An ICMP destination unreachable of this code.
    Icmp {
        /// Code of the ICMP message, like 13 for administratively prohibited.
        code: u8,
    },
    /// None, and the gateway's tracker remembers it as its own.
    Sink,
    /// The answer of the gateway's own stack, whose tracker remembers the flow as its own: a RST
    /// ends that at once, an ICMP port unreachable does not.
    OwnStack,
}

/// The answer to an echo that belongs to nobody inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnEcho {
    /// No answer.
    Drop,
    /// A reply, to a request.
    Reply,
    /// An ICMP destination unreachable of this code.
    Icmp {
        /// Code of the ICMP message, like 13 for administratively prohibited.
        code: u8,
    },
}

/// Answers to what nothing inside asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsolicited {
    /// To TCP segments that open a connection.
    pub syn: OnSyn,
    /// To all other TCP segments.
    pub segment: OnStray,
    /// To UDP datagrams.
    pub datagram: OnStray,
    /// To ICMP echo requests and replies.
    pub echo: OnEcho,
}

/// What becomes of a TCP segment from inside that begins no connection and belongs to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Midstream {
    /// A plain ACK makes a session, as for a connection older than the gateway's memory.
    PickUp,
    /// It is answered with an RST.
    Reset,
    /// It is dropped.
    Drop,
}

/// What becomes of a packet that the tracker takes for invalid, on its way out. On its way in it is
/// unsolicited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invalid {
    /// It is dropped.
    Drop,
    /// It goes out untranslated, with its private source address (Linux).
    Leak,
    /// It is translated like any other of its session, in both directions, and moves nothing.
    Translate,
}

/// How much of TCP the gateway understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tracking {
    /// Opening, open, closing: by flags alone.
    Flags,
    /// Linux's: states, sequence windows, its reading of simultaneous open.
    Linux(Invalid),
}

/// What becomes of an inbound SYN that meets an outbound one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimultaneousOpen {
    /// It passes (RFC 5382 REQ-2a).
    Full,
    /// Every inbound SYN without ACK is dropped.
    DropInboundSyn,
    /// Every inbound SYN without ACK is answered with an RST.
    ResetInboundSyn,
    /// It passes, but the session stays half-open and expires as such.
    NeverEstablished,
}

/// What an RST does to its session. RFC 7857 §2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnReset {
    /// It ends it.
    Delete,
    /// It ends it if no answer had come; else [`Timers::close`] runs.
    DeleteHalfOpen,
    /// [`Timers::close`] runs.
    Close,
}

/// What becomes of ICMP errors about sessions. RFC 5508 REQ-4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IcmpErrors {
    /// They reach the host.
    Translate,
    /// They are dropped.
    Ignore,
    /// They reach the host and end the session. Broken on purpose.
    KillSession,
}

/// What becomes of a packet from inside to the gateway's own external address. RFC 4787 §6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hairpin {
    /// It is dropped.
    Drop,
    /// The gateway's own stack refuses it.
    Reset,
    /// It is delivered, with the external endpoint of its sender as source (REQ-9).
    ExternalSource,
    /// It is delivered with the internal endpoint of its sender as source. Broken on purpose.
    InternalSource,
}

/// Which packets keep a UDP session alive. RFC 4787 REQ-6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// Those from inside, which RFC 4787 requires.
    pub outbound: bool,
    /// Those from outside, to a session that the inside began.
    pub inbound: bool,
    /// Those from outside, to a session that the outside began.
    pub inbound_uninvited: bool,
}

/// Bounds of the tables. `usize::MAX` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLimits {
    /// Sessions of all hosts at once.
    pub sessions_max: usize,
    /// Sessions of one host.
    pub sessions_per_host_max: usize,
    /// External ports of one host (RFC 6888 REQ-4).
    pub ports_per_host_max: usize,
    /// Sessions of one external address towards one remote endpoint.
    pub sessions_per_remote_max: usize,
    /// New sessions in one second.
    pub new_per_second_max: usize,
    /// SYNs held at once; memory must not grow with an attack.
    pub held_max: usize,
    /// Datagrams whose fragments are remembered at once.
    pub fragmented_max: usize,
}

/// What happens to a flow for which there is no room. RFC 5508 REQ-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exhaustion {
    /// It is dropped.
    Drop,
    /// It is refused by ICMP destination unreachable of this code: 13 administratively, 1 host.
    Icmp {
        /// Code of the ICMP message, like 13 for administratively prohibited.
        code: u8,
    },
    /// The session that would expire first of those that are closing gives way (Linux); else it is
    /// dropped.
    EvictClosing,
    /// The session that would expire first gives way, whatever it is. Broken on purpose.
    EvictAny,
}

/// Idle times after which a session is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// TCP, SYNs from one side only.
    pub syn_sent: Duration,
    /// TCP, both sides have spoken and the handshake is not over.
    pub syn_received: Duration,
    /// TCP, the handshake has ended; RFC 5382 asks for at least 2 h 4 min.
    pub established: Duration,
    /// TCP, one FIN.
    pub fin_wait: Duration,
    /// TCP, one FIN, acknowledged.
    pub close_wait: Duration,
    /// TCP, FINs from both sides.
    pub last_ack: Duration,
    /// TCP, FINs from both sides, acknowledged.
    pub time_wait: Duration,
    /// TCP after an RST.
    pub close: Duration,
    /// TCP with data unacknowledged, retransmitted, or picked up in the middle (Linux).
    pub unacknowledged: Duration,
    /// UDP until the remote has answered.
    pub udp_new: Duration,
    /// UDP once the remote has answered; RFC 4787 asks for at least 2 min.
    pub udp_stream: Duration,
    /// ICMP echo; RFC 5508 asks for at least 60 s.
    pub icmp: Duration,
}

impl Timers {
    /// Times in seconds: handshake, established, closing, after an RST, UDP unanswered, UDP. The
    /// time of a half-closed connection is that of an established one.
    pub const fn seconds(
        opening: u64,
        established: u64,
        closing: u64,
        reset: u64,
        udp_new: u64,
        udp_stream: u64,
    ) -> Self {
        Self {
            syn_sent: Duration::from_secs(opening),
            syn_received: Duration::from_secs(opening),
            established: Duration::from_secs(established),
            fin_wait: Duration::from_secs(established),
            close_wait: Duration::from_secs(established),
            last_ack: Duration::from_secs(closing),
            time_wait: Duration::from_secs(closing),
            close: Duration::from_secs(reset),
            unacknowledged: Duration::from_secs(established),
            udp_new: Duration::from_secs(udp_new),
            udp_stream: Duration::from_secs(udp_stream),
            icmp: Duration::from_secs(60),
        }
    }
}

/// What becomes of IP fragments. RFC 4787 REQ-14.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fragments {
    /// They are dropped.
    Drop,
    /// They pass if the first one came first.
    InOrder,
    /// They pass in any order; those ahead of the first wait, in bounded memory.
    AnyOrder,
}

/// What becomes of IPv6, which is never translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ipv6 {
    /// It is dropped.
    Drop,
    /// It passes.
    Open,
    /// It passes outwards, and inwards in answer (RFC 6092).
    Stateful,
}

/// All that a gateway does. [`preset`](super::preset) has values for known devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatConfig {
    /// Rules for TCP.
    pub tcp: Rules,
    /// Rules for UDP.
    pub udp: Rules,
    /// Choice among several external addresses.
    pub pooling: Pooling,
    /// Whether even UDP ports stay even and odd ones odd (RFC 4787 REQ-4).
    pub parity: bool,
    /// Rest of ports after use.
    pub quarantine: Quarantine,
    /// Answers to what nothing inside asked for.
    pub unsolicited: Unsolicited,
    /// Segments from inside without a session.
    pub midstream: Midstream,
    /// How much of TCP it follows.
    pub tracking: Tracking,
    /// What it does with a SYN from outside that meets one from inside.
    pub simultaneous_open: SimultaneousOpen,
    /// Whether the initial sequence numbers of the inside are replaced, as some firewalls do. Selective
    /// acknowledgements are not rewritten.
    pub rewrites_isn: bool,
    /// Effect of RSTs, where the tracker is not Linux's.
    pub reset: OnReset,
    /// Whether an RST must have a sequence number within its connection's window to have an effect.
    pub checks_reset: bool,
    /// What it does with ICMP errors about sessions.
    pub icmp_errors: IcmpErrors,
    /// What it does with packets from inside to its own external address.
    pub hairpin: Hairpin,
    /// Which packets keep a UDP session alive.
    pub refresh: Refresh,
    /// Bounds of its tables.
    pub limits: TableLimits,
    /// What happens at the bounds.
    pub exhaustion: Exhaustion,
    /// Idle times after which sessions are forgotten.
    pub timers: Timers,
    /// What it does with fragments of UDP and ICMP.
    pub fragments: Fragments,
    /// What it does with fragments of TCP.
    pub tcp_fragments: Fragments,
    /// What it does with IPv6.
    pub ipv6: Ipv6,
    /// Largest packet that goes on, in bytes. Larger ones are cut, or refused if they forbid that (RFC
    /// 4787 REQ-13). At least 576, and 1280 for IPv6.
    pub mtu: u16,
    /// Whether packets with a wrong checksum are dropped.
    pub verifies_checksums: bool,
    /// Whether hosts may ask for ports (UPnP IGD, NAT-PMP, PCP).
    pub port_control: bool,
    /// Share of new flows whose first packet is lost to a race in the gateway, in parts per million.
    pub first_packet_loss_ppm: u32,
}

impl NatConfig {
    /// The rules for a transport. Echo identifiers follow TCP's mapping where that keeps ports, and
    /// are endpoint-independent elsewhere (RFC 5508 REQ-1a).
    pub fn rules(&self, transport: crate::packet::Transport) -> Rules {
        use crate::packet::Transport;
        match transport {
            Transport::Tcp => self.tcp,
            Transport::Udp => self.udp,
            Transport::Icmp => {
                let (mapping, overload) = match self.tcp.mapping {
                    Mapping::PreserveOverlap => (Mapping::PreserveOverlap, Overload::DistinctRemote),
                    kept @ (Mapping::OneToOne | Mapping::None) => (kept, Overload::Never),
                    Mapping::EndpointIndependent
                    | Mapping::AddressDependent
                    | Mapping::AddressAndPortDependent
                    | Mapping::L4Proxy => (Mapping::EndpointIndependent, Overload::Never),
                };
                Rules {
                    mapping,
                    filtering: Filtering::AddressAndPortDependent,
                    allocation: Allocation::Preserve(Fallback::Random),
                    ports: PortClass::Fixed(0, 65_535),
                    overload,
                }
            }
        }
    }
}
