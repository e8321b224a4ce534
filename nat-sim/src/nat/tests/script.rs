//! Random configurations, and scripts of packets with few names.

use super::*;

pub(super) const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Flags: SYN, FIN, RST, ACK.
    Tcp(u8),
    Udp,
    Echo(bool),
    /// An ICMP error of this code about a session.
    Error(u8, prop::sample::Index),
    /// One of the fragments of a datagram or a segment.
    Fragment(bool, u8),
    /// A datagram of IPv6, small or too large for a small MTU.
    V6(bool),
    /// A datagram that is too large for a small MTU, and may be cut or not.
    Large(bool),
    /// A SYN to somebody's own external port.
    Hairpin,
    Foreign,
    Dying,
    Damaged,
    Unknown,
    Reboot,
}

/// One line of a script.
#[derive(Clone, Debug)]
pub(super) struct Move {
    pub(super) outbound: bool,
    pub(super) host: u8,
    pub(super) port: u16,
    pub(super) remote: u8,
    pub(super) remote_port: u16,
    pub(super) kind: Kind,
    /// Offsets of sequence and acknowledgement numbers.
    pub(super) numbers: (u32, u32),
    pub(super) wait: Duration,
}

impl Move {
    /// Whether its packet's checksums are right.
    pub(super) fn is_sound(&self) -> bool {
        !matches!(self.kind, Kind::Damaged)
    }

    /// The packet; `None` for a reboot, and for an error without a session.
    #[expect(clippy::too_many_lines, reason = "one arm for each kind of packet")]
    pub(super) fn packet(&self, nat: &Nat) -> Option<Packet> {
        let internal = SocketAddrV4::new([10, 0, 0, self.host].into(), self.port);
        let remote = SocketAddrV4::new([9, 9, 9, self.remote].into(), self.remote_port);
        let external = SocketAddrV4::new(EXTERNAL, self.port);
        let (from, to) = if self.outbound { (internal, remote) } else { (remote, external) };
        let segment = |flags: u8| Segment {
            syn: flags & 1 != 0,
            fin: flags & 2 != 0,
            rst: flags & 4 != 0,
            ack: flags & 8 != 0,
            sequence: self.numbers.0,
            acknowledgement: self.numbers.1,
            window: 1000,
            payload: 0,
        };
        Some(match &self.kind {
            Kind::Tcp(flags) => Packet::tcp(from, to, segment(*flags), b"x"),
            Kind::Udp => Packet::udp(from.into(), to.into(), b"payload"),
            Kind::Echo(is_request) => {
                let echo = Echo { is_request: *is_request, identifier: self.port, sequence: 1 };
                Packet::echo(*from.ip(), *to.ip(), echo, b"payload")
            }
            Kind::Error(code, index) => {
                let sessions: Vec<_> = nat.tables.sessions.iter().map(|(_, session)| session).collect();
                if sessions.is_empty() {
                    return None;
                }
                let session = sessions[index.index(sessions.len())];
                let (near, far) = (session.external, session.remote);
                let (quoted, sender) = if self.outbound {
                    ((far, session.internal), *session.internal.ip())
                } else {
                    ((near, far), *far.ip())
                };
                let about = match session.transport {
                    Transport::Tcp => Packet::tcp(quoted.0, quoted.1, segment(1), b""),
                    Transport::Udp => Packet::udp(quoted.0.into(), quoted.1.into(), b""),
                    Transport::Icmp => {
                        let echo = Echo { is_request: !self.outbound, identifier: near.port(), sequence: 1 };
                        Packet::echo(*quoted.0.ip(), *quoted.1.ip(), echo, b"")
                    }
                };
                about.unreachable_reply(sender, *code)?
            }
            Kind::Fragment(is_tcp, which) => {
                let whole = if *is_tcp {
                    Packet::tcp(from, to, segment(1), &[7; 60])
                } else {
                    Packet::udp(from.into(), to.into(), &[7; 60])
                };
                let parts = whole.fragments(32, self.remote_port);
                parts[usize::from(*which) % parts.len()].clone()
            }
            // A later fragment, about which there may be no report.
            Kind::Large(false) if self.port.is_multiple_of(2) => {
                let whole = Packet::udp(from.into(), to.into(), &[7; 1400]);
                let mut bytes = whole.fragments(704, self.remote_port)[1].bytes().to_vec();
                let mut ip = smoltcp::wire::Ipv4Packet::new_unchecked(&mut bytes[..]);
                ip.set_dont_frag(true);
                ip.fill_checksum();
                Packet::parse(bytes).expect("whole")
            }
            Kind::Large(may_be_cut) => {
                let packet = Packet::udp(from.into(), to.into(), &[7; 700]);
                if *may_be_cut { packet.allowing_fragments() } else { packet }
            }
            Kind::V6(is_large) => {
                let (inside, outside) = ("[fd00::1]:7", "[fd01::1]:8");
                let (from, to) = if self.outbound { (inside, outside) } else { (outside, inside) };
                let payload = if *is_large { &[7; 1300][..] } else { b"" };
                Packet::udp(from.parse().expect("v6"), to.parse().expect("v6"), payload)
            }
            Kind::Hairpin => Packet::tcp(internal, external, segment(1), b""),
            Kind::Foreign => Packet::tcp(remote, SocketAddrV4::new([203, 0, 113, 9].into(), 1), segment(1), b""),
            Kind::Dying => {
                let echo = Echo { is_request: true, identifier: 1, sequence: 1 };
                let quoted = Packet::tcp(external, remote, segment(1), b"");
                let dying = if self.outbound {
                    Packet::echo(*from.ip(), *to.ip(), echo, b"")
                } else {
                    quoted.unreachable_reply(*remote.ip(), 3)?
                };
                dying.with_hop_limit(1)
            }
            Kind::Damaged => {
                let mut bytes = Packet::udp(from.into(), to.into(), b"payload").bytes().to_vec();
                bytes[30] ^= 0x55;
                Packet::parse(bytes).expect("whole")
            }
            Kind::Unknown => {
                let echo = Echo { is_request: true, identifier: 1, sequence: 1 };
                let mut bytes = Packet::echo(*from.ip(), *to.ip(), echo, b"").bytes().to_vec();
                // A timestamp request is nothing that is translated.
                bytes[20] = 13;
                bytes[22..24].copy_from_slice(&[0, 0]);
                let sum: u32 =
                    bytes[20..].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
                let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).expect("a short packet");
                bytes[22..24].copy_from_slice(&(!folded).to_be_bytes());
                Packet::parse(bytes).expect("whole")
            }
            Kind::Reboot => return None,
        })
    }
}

/// Gives the packet to the gateway; `None` for a reboot or where there is none.
pub(super) fn play(nat: &mut Nat, now: Instant, step: &Move, packet: Option<Packet>) -> Option<(Packet, Verdict)> {
    let Some(packet) = packet else {
        if matches!(step.kind, Kind::Reboot) {
            nat.reboot();
            return None;
        }
        let harmless = Packet::udp("9.9.9.9:9".parse().expect("v4"), "203.0.113.9:9".parse().expect("v4"), b"");
        return Some((harmless.clone(), nat.inbound(now, harmless)));
    };
    let outbound = step.outbound || matches!(step.kind, Kind::Hairpin);
    let outbound = outbound && !matches!(step.kind, Kind::Foreign);
    let verdict = if outbound { nat.outbound(now, packet.clone()) } else { nat.inbound(now, packet.clone()) };
    Some((packet, verdict))
}

pub(super) fn one_move() -> impl Strategy<Value = Move> {
    let nano = 1_000_000_000u64;
    let waits = prop_oneof![
        6 => Just(0),
        2 => Just(1),
        1 => Just(6 * nano - 1),
        1 => Just(10 * nano),
        1 => Just(30 * nano),
        1 => Just(120 * nano),
    ];
    let flags = prop_oneof![4 => Just(1u8), 2 => Just(9), 3 => Just(8), 1 => Just(10), 1 => Just(4), 1 => Just(12), 1 => 0u8..16];
    let kind = prop_oneof![
        12 => flags.prop_map(Kind::Tcp),
        6 => Just(Kind::Udp),
        2 => any::<bool>().prop_map(Kind::Echo),
        2 => (prop_oneof![Just(3u8), Just(1)], any::<prop::sample::Index>()).prop_map(|(code, index)| Kind::Error(code, index)),
        3 => (any::<bool>(), 0u8..3).prop_map(|(is_tcp, which)| Kind::Fragment(is_tcp, which)),
        1 => any::<bool>().prop_map(Kind::V6),
        2 => any::<bool>().prop_map(Kind::Large),
        2 => Just(Kind::Hairpin),
        1 => Just(Kind::Foreign),
        1 => Just(Kind::Dying),
        1 => Just(Kind::Damaged),
        1 => Just(Kind::Unknown),
        1 => Just(Kind::Reboot),
    ];
    let number = || prop_oneof![Just(1000u32), Just(1001), Just(1002), Just(50_000_000), any::<u32>()];
    (any::<bool>(), 1u8..4, 1u16..5, 1u8..4, 1u16..4, kind, (number(), number()), waits).prop_map(
        |(outbound, host, port, remote, remote_port, kind, numbers, wait)| Move {
            outbound,
            host,
            port: port + 40_000,
            remote,
            remote_port,
            kind,
            numbers,
            wait: Duration::from_nanos(wait),
        },
    )
}

pub(super) fn moves() -> impl Strategy<Value = Vec<Move>> {
    proptest::collection::vec(one_move(), 1..60)
}

/// The same gateway with so few ports that they run out.
pub(super) fn small(mut config: NatConfig, ports: u16) -> NatConfig {
    for rules in [&mut config.tcp, &mut config.udp] {
        if rules.ports != PortClass::Rfc4787 {
            rules.ports = PortClass::Fixed(40_001, 40_000 + ports);
        }
        if let Allocation::Block { .. } = rules.allocation {
            rules.allocation = Allocation::Block { ports: 2, blocks_per_host_max: 1 };
        }
    }
    config
}

fn pick<T: Clone + std::fmt::Debug + 'static>(values: &[T]) -> impl Strategy<Value = T> + use<T> {
    proptest::sample::select(values.to_vec())
}

fn rules() -> impl Strategy<Value = Rules> {
    let mapping = pick(&[
        Mapping::EndpointIndependent,
        Mapping::AddressDependent,
        Mapping::AddressAndPortDependent,
        Mapping::PreserveOverlap,
        Mapping::OneToOne,
        Mapping::L4Proxy,
        Mapping::None,
    ]);
    let filtering =
        pick(&[Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent]);
    let fallback = pick(&[Fallback::Random, Fallback::LinuxSearch, Fallback::Next, Fallback::Lowest, Fallback::Refuse]);
    let allocation = prop_oneof![
        Just(Allocation::Random),
        fallback.prop_map(Allocation::Preserve),
        (0u16..4, any::<bool>()).prop_map(|(step, per_host)| Allocation::Sequential { step, per_host }),
        (0u16..6, 0u16..4).prop_map(|(ports, blocks_per_host_max)| Allocation::Block { ports, blocks_per_host_max }),
    ];
    let ports = prop_oneof![
        3 => (0u16..9).prop_map(|count| PortClass::Fixed(40_001, 40_001 + count)),
        2 => Just(PortClass::Fixed(40_001, 40_040)),
        1 => pick(&[PortClass::Rfc4787, PortClass::Linux, PortClass::Cisco]),
    ];
    let overload = pick(&[Overload::Never, Overload::DistinctRemote, Overload::Always]);
    (mapping, filtering, allocation, ports, overload).prop_map(|(mapping, filtering, allocation, ports, overload)| {
        Rules { mapping, filtering, allocation, ports, overload }
    })
}

fn unsolicited() -> impl Strategy<Value = Unsolicited> {
    let hold = (pick(&[Duration::ZERO, Duration::from_secs(6)]), any::<bool>());
    let syn = prop_oneof![
        pick(&[OnSyn::Drop, OnSyn::Reset, OnSyn::Icmp { code: 13 }, OnSyn::Sink]),
        hold.prop_map(|(time, then_icmp)| OnSyn::Hold { time, then_icmp }),
    ];
    let stray = || pick(&[OnStray::Drop, OnStray::Reset, OnStray::Icmp { code: 3 }, OnStray::Sink, OnStray::OwnStack]);
    let echo = pick(&[OnEcho::Drop, OnEcho::Reply, OnEcho::Icmp { code: 1 }]);
    (syn, stray(), stray(), echo).prop_map(|(syn, segment, datagram, echo)| Unsolicited {
        syn,
        segment,
        datagram,
        echo,
    })
}

fn limits() -> impl Strategy<Value = TableLimits> {
    let or_none = |bound: std::ops::Range<usize>| prop_oneof![3 => bound, 1 => Just(usize::MAX)];
    (or_none(0..9), or_none(0..5), or_none(0..5), or_none(0..5), or_none(0..6), 0usize..3, 0usize..3).prop_map(
        |(sessions, host, ports, remote, rate, held_max, fragmented_max)| TableLimits {
            sessions_max: sessions.min(1 << 20),
            sessions_per_host_max: host,
            ports_per_host_max: ports,
            sessions_per_remote_max: remote,
            new_per_second_max: rate,
            held_max,
            fragmented_max,
        },
    )
}

fn durations<const N: usize>() -> impl Strategy<Value = [Duration; N]> {
    let one = prop_oneof![
        3 => pick(&[1, 6, 10, 30, 120]).prop_map(Duration::from_secs),
        1 => Just(Duration::ZERO),
        1 => Just(Duration::from_secs(7440)),
    ];
    proptest::collection::vec(one, N).prop_map(|all| all.try_into().expect("as many as were drawn"))
}

fn timers() -> impl Strategy<Value = Timers> {
    durations::<12>().prop_map(|all| {
        let mut all = all.into_iter();
        let mut next = || all.next().expect("one for each");
        Timers {
            syn_sent: next(),
            syn_received: next(),
            established: next(),
            fin_wait: next(),
            close_wait: next(),
            last_ack: next(),
            time_wait: next(),
            close: next(),
            unacknowledged: next(),
            udp_new: next(),
            udp_stream: next(),
            icmp: next(),
        }
    })
}

fn quarantine() -> impl Strategy<Value = Quarantine> {
    let drawn = (any::<bool>(), durations()).prop_map(|(same_remote_only, [fin, reset, half_open, idle])| Quarantine {
        same_remote_only,
        fin,
        reset,
        half_open,
        idle,
    });
    prop_oneof![Just(Quarantine::default()), drawn]
}

/// Every knob turned at random, each by itself. The compiler tells if a field is missing here.
#[expect(clippy::too_many_lines, reason = "one line for each knob")]
fn turned() -> impl Strategy<Value = NatConfig> {
    let tracking = pick(&[
        Tracking::Flags,
        Tracking::Linux(Invalid::Drop),
        Tracking::Linux(Invalid::Leak),
        Tracking::Linux(Invalid::Translate),
    ]);
    let simultaneous_open = pick(&[
        SimultaneousOpen::Full,
        SimultaneousOpen::DropInboundSyn,
        SimultaneousOpen::ResetInboundSyn,
        SimultaneousOpen::NeverEstablished,
    ]);
    let exhaustion =
        pick(&[Exhaustion::Drop, Exhaustion::Icmp { code: 13 }, Exhaustion::EvictClosing, Exhaustion::EvictAny]);
    let first = (
        (rules(), rules(), any::<bool>()),
        pick(&[Pooling::Paired, Pooling::Arbitrary, Pooling::FirstWithRoom]),
        (quarantine(), limits(), timers()),
        unsolicited(),
        pick(&[Midstream::PickUp, Midstream::Reset, Midstream::Drop]),
        tracking,
        simultaneous_open,
        exhaustion,
    );
    let fragments = || pick(&[Fragments::Drop, Fragments::InOrder, Fragments::AnyOrder]);
    let second = (
        pick(&[OnReset::Delete, OnReset::DeleteHalfOpen, OnReset::Close]),
        pick(&[IcmpErrors::Translate, IcmpErrors::Ignore, IcmpErrors::KillSession]),
        pick(&[Hairpin::Drop, Hairpin::Reset, Hairpin::ExternalSource, Hairpin::InternalSource]),
        (any::<bool>(), any::<bool>(), any::<bool>()),
        (fragments(), fragments()),
        (pick(&[Ipv6::Drop, Ipv6::Open, Ipv6::Stateful]), pick(&[0, 576, 1400, u16::MAX])),
        pick(&[0, 0, 0, 100_000, 1_000_000]),
        proptest::array::uniform5(any::<bool>()),
    );
    (first, second).prop_map(|(first, second)| {
        let ((tcp, udp, same_rules), pooling, tables, unsolicited, midstream, tracking, simultaneous_open, exhaustion) =
            first;
        let (quarantine, limits, timers) = tables;
        let (reset, icmp_errors, hairpin, refresh, fragments, (ipv6, mtu), first_packet_loss_ppm, flags) = second;
        let (outbound, inbound, inbound_uninvited) = refresh;
        let (fragments, tcp_fragments) = fragments;
        let [parity, rewrites_isn, checks_reset, verifies_checksums, port_control] = flags;
        NatConfig {
            tcp,
            udp: if same_rules { tcp } else { udp },
            pooling,
            parity,
            quarantine,
            unsolicited,
            midstream,
            tracking,
            simultaneous_open,
            rewrites_isn,
            reset,
            checks_reset,
            icmp_errors,
            hairpin,
            refresh: Refresh { outbound, inbound, inbound_uninvited },
            limits,
            exhaustion,
            timers,
            fragments,
            tcp_fragments,
            ipv6,
            mtu,
            verifies_checksums,
            port_control,
            first_packet_loss_ppm,
        }
    })
}

/// A preset, one with small tables or few ports, or any configuration at all.
pub(super) fn configs() -> impl Strategy<Value = NatConfig> {
    let preset = (0..preset::ALL.len()).prop_map(|index| (preset::ALL[index].config)());
    let tight = (preset.clone(), limits(), any::<bool>()).prop_map(|(config, limits, drops)| {
        let exhaustion = if drops { Exhaustion::Drop } else { config.exhaustion };
        NatConfig { limits, exhaustion, ..config }
    });
    let base = prop_oneof![1 => preset, 1 => tight, 3 => turned()];
    (base, any::<bool>(), 4u16..9)
        .prop_map(|(config, is_small, ports)| if is_small { small(config, ports) } else { config })
}
