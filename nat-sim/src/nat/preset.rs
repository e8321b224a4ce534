//! Known devices as plain configuration.
//!
//! Each row says what it rests on and which of its cells nobody has stated or measured. Timers of
//! the `home_*` and `cgn_*` rows are values chosen to test with.

use std::time::Duration;

use super::{
    Allocation, Exhaustion, Fallback, Filtering, Fragments, Hairpin, IcmpErrors, Invalid, Ipv6, Mapping, Midstream,
    NatConfig, OnEcho, OnReset, OnStray, OnSyn, Overload, Pooling, PortClass, Quarantine, Refresh, Rules,
    SimultaneousOpen, TableLimits, Timers, Tracking, Unsolicited,
};

/// A named preset.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// The devices that it models.
    pub about: &'static str,
    /// What it rests on.
    pub source: &'static str,
    /// Which of its cells are assumed; empty if none is.
    pub assumed: &'static str,
    /// Makes the configuration.
    pub config: fn() -> NatConfig,
}

/// The silence that RFC 5382 REQ-4 asks for after an unsolicited SYN.
pub const UNSOLICITED_SYN_SILENCE: Duration = Duration::from_secs(6);

/// Ports that are not well known.
const HIGH_PORTS: PortClass = PortClass::Fixed(1024, 65_535);

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Timers of RFC 5382 REQ-5 and RFC 4787 REQ-5.
const RFC: Timers = Timers::seconds(240, 7440, 240, 240, 300, 300);

/// Timers of Linux's tracker, from its documentation and measured.
const LINUX: Timers = Timers {
    syn_sent: secs(120),
    syn_received: secs(60),
    established: secs(432_000),
    fin_wait: secs(120),
    close_wait: secs(60),
    last_ack: secs(30),
    time_wait: secs(120),
    close: secs(10),
    unacknowledged: secs(300),
    udp_new: secs(30),
    udp_stream: secs(120),
    icmp: secs(30),
};

/// Timers of pf, from its defaults.
const PF: Timers = Timers {
    syn_sent: secs(120),
    syn_received: secs(30),
    fin_wait: secs(900),
    close_wait: secs(900),
    last_ack: secs(45),
    time_wait: secs(45),
    close: secs(90),
    udp_new: secs(60),
    udp_stream: secs(60),
    icmp: secs(20),
    ..Timers::seconds(120, 86_400, 45, 90, 60, 60)
};

const NO_LIMITS: TableLimits = TableLimits {
    sessions_max: 1 << 20,
    sessions_per_host_max: usize::MAX,
    ports_per_host_max: usize::MAX,
    sessions_per_remote_max: usize::MAX,
    new_per_second_max: usize::MAX,
    held_max: 1024,
    fragmented_max: 256,
};

const SILENT: Unsolicited =
    Unsolicited { syn: OnSyn::Drop, segment: OnStray::Drop, datagram: OnStray::Drop, echo: OnEcho::Drop };

const fn rules(mapping: Mapping, filtering: Filtering, allocation: Allocation) -> Rules {
    Rules { mapping, filtering, allocation, ports: HIGH_PORTS, overload: Overload::Never }
}

/// The same rules for TCP and UDP.
const fn with_rules(base: NatConfig, rules: Rules) -> NatConfig {
    NatConfig { tcp: rules, udp: rules, ..base }
}

/// What the RFCs recommend: endpoint-independent throughout, SYNs held for 6 s.
pub fn rfc_ideal() -> NatConfig {
    let rules = Rules {
        ports: PortClass::Rfc4787,
        ..rules(Mapping::EndpointIndependent, Filtering::EndpointIndependent, Allocation::Random)
    };
    NatConfig {
        tcp: rules,
        udp: rules,
        pooling: Pooling::Paired,
        parity: true,
        quarantine: Quarantine::default(),
        unsolicited: Unsolicited {
            syn: OnSyn::Hold { time: UNSOLICITED_SYN_SILENCE, then_icmp: true },
            echo: OnEcho::Reply,
            ..SILENT
        },
        midstream: Midstream::PickUp,
        tracking: Tracking::Flags,
        simultaneous_open: SimultaneousOpen::Full,
        rewrites_isn: false,
        reset: OnReset::Close,
        checks_reset: true,
        icmp_errors: IcmpErrors::Translate,
        hairpin: Hairpin::ExternalSource,
        refresh: Refresh { outbound: true, inbound: false, inbound_uninvited: false },
        limits: NO_LIMITS,
        exhaustion: Exhaustion::Icmp { code: 13 },
        timers: RFC,
        fragments: Fragments::AnyOrder,
        tcp_fragments: Fragments::AnyOrder,
        ipv6: Ipv6::Stateful,
        mtu: u16::MAX,
        verifies_checksums: false,
        port_control: false,
        first_packet_loss_ppm: 0,
    }
}

/// The RFCs with the stricter filter that REQ-8 allows, and no answer after the hold.
pub fn rfc_strict() -> NatConfig {
    let rules = Rules { filtering: Filtering::AddressDependent, ..rfc_ideal().tcp };
    let syn = OnSyn::Hold { time: UNSOLICITED_SYN_SILENCE, then_icmp: false };
    NatConfig { unsolicited: Unsolicited { syn, ..rfc_ideal().unsolicited }, ..with_rules(rfc_ideal(), rules) }
}

/// Linux masquerade behind a dropping firewall.
pub fn linux_masq_drop() -> NatConfig {
    let rules = Rules {
        ports: PortClass::Linux,
        overload: Overload::DistinctRemote,
        ..rules(
            Mapping::PreserveOverlap,
            Filtering::AddressAndPortDependent,
            Allocation::Preserve(Fallback::LinuxSearch),
        )
    };
    NatConfig {
        tcp: rules,
        udp: rules,
        parity: false,
        unsolicited: SILENT,
        tracking: Tracking::Linux(Invalid::Leak),
        reset: OnReset::DeleteHalfOpen,
        hairpin: Hairpin::Reset,
        refresh: Refresh { outbound: true, inbound: true, inbound_uninvited: true },
        limits: TableLimits { sessions_max: 262_144, ..NO_LIMITS },
        exhaustion: Exhaustion::EvictClosing,
        timers: LINUX,
        ..rfc_ideal()
    }
}

/// Bare Linux masquerade: the gateway's own stack answers.
pub fn linux_masq_rst() -> NatConfig {
    let unsolicited =
        Unsolicited { syn: OnSyn::Reset, segment: OnStray::OwnStack, datagram: OnStray::OwnStack, echo: OnEcho::Reply };
    NatConfig { unsolicited, ..linux_masq_drop() }
}

/// OpenWrt's default: RST to unsolicited segments, invalid ones kept from leaving.
pub fn openwrt_default() -> NatConfig {
    let unsolicited = Unsolicited {
        syn: OnSyn::Reset,
        segment: OnStray::Reset,
        datagram: OnStray::Icmp { code: 3 },
        echo: OnEcho::Reply,
    };
    NatConfig { unsolicited, tracking: Tracking::Linux(Invalid::Drop), ..linux_masq_drop() }
}

/// Linux masquerade with a rejecting firewall: ICMP port unreachable.
pub fn linux_icmp() -> NatConfig {
    let answer = OnStray::Icmp { code: 3 };
    let (syn, echo) = (OnSyn::Icmp { code: 3 }, OnEcho::Icmp { code: 3 });
    let unsolicited = Unsolicited { syn, segment: answer, datagram: answer, echo };
    NatConfig { unsolicited, ..linux_masq_drop() }
}

/// Linux masquerade whose tracker takes unsolicited SYNs in and nothing answers.
pub fn linux_sink() -> NatConfig {
    let unsolicited = Unsolicited { syn: OnSyn::Sink, segment: OnStray::Sink, datagram: OnStray::Sink, ..SILENT };
    NatConfig { unsolicited, ..linux_masq_drop() }
}

/// Linux masquerade with random ports.
pub fn linux_random() -> NatConfig {
    let rules =
        Rules { mapping: Mapping::AddressAndPortDependent, allocation: Allocation::Random, ..linux_masq_drop().tcp };
    with_rules(linux_masq_drop(), rules)
}

/// Linux SNAT to a range of ports: kept if within, else random in it and kept from then on.
pub fn linux_snat_range() -> NatConfig {
    let rules = Rules { ports: PortClass::Fixed(40_000, 40_999), ..linux_masq_drop().tcp };
    with_rules(linux_masq_drop(), rules)
}

/// einat, an endpoint-independent NAT in eBPF on Linux.
pub fn linux_eim_ebpf() -> NatConfig {
    let preserve = Allocation::Preserve(Fallback::Next);
    let rules = rules(Mapping::EndpointIndependent, Filtering::EndpointIndependent, preserve);
    NatConfig { unsolicited: SILENT, ..with_rules(rfc_ideal(), rules) }
}

/// pf of OpenBSD, FreeBSD and pfSense.
pub fn pf_default() -> NatConfig {
    let rules = Rules {
        ports: PortClass::Fixed(50_001, 65_535),
        overload: Overload::DistinctRemote,
        ..rules(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent, Allocation::Random)
    };
    NatConfig {
        unsolicited: SILENT,
        hairpin: Hairpin::Drop,
        refresh: linux_masq_drop().refresh,
        exhaustion: Exhaustion::Drop,
        midstream: Midstream::Drop,
        parity: false,
        timers: PF,
        ..with_rules(rfc_ideal(), rules)
    }
}

/// pf with `static-port`: the port is kept, or the flow fails.
pub fn pf_static_port() -> NatConfig {
    let rules = Rules {
        mapping: Mapping::PreserveOverlap,
        allocation: Allocation::Preserve(Fallback::Refuse),
        ports: PortClass::Fixed(1, 65_535),
        ..pf_default().tcp
    };
    with_rules(pf_default(), rules)
}

/// FreeBSD's pf with endpoint-independent mapping, which is for UDP only.
pub fn pf_eim_udp() -> NatConfig {
    let udp = Rules { mapping: Mapping::EndpointIndependent, overload: Overload::Never, ..pf_default().udp };
    NatConfig { udp, ..pf_default() }
}

/// Cisco IOS port address translation.
pub fn cisco_ios_pat() -> NatConfig {
    let rules = Rules {
        mapping: Mapping::PreserveOverlap,
        allocation: Allocation::Preserve(Fallback::Lowest),
        ports: PortClass::Cisco,
        overload: Overload::DistinctRemote,
        filtering: Filtering::AddressAndPortDependent,
    };
    NatConfig {
        pooling: Pooling::FirstWithRoom,
        unsolicited: Unsolicited { syn: OnSyn::Reset, segment: OnStray::Reset, echo: OnEcho::Reply, ..SILENT },
        hairpin: Hairpin::Drop,
        timers: Timers::seconds(60, 86_400, 60, 60, 300, 300),
        ..with_rules(pf_default(), rules)
    }
}

/// Cisco IOS-XR carrier-grade NAT.
pub fn cisco_cgn() -> NatConfig {
    NatConfig {
        unsolicited: SILENT,
        limits: TableLimits { ports_per_host_max: 1024, ..NO_LIMITS },
        timers: Timers { icmp: secs(60), ..Timers::seconds(120, 1800, 120, 120, 120, 300) },
        parity: false,
        ..with_rules(
            rfc_ideal(),
            rules(Mapping::EndpointIndependent, Filtering::EndpointIndependent, Allocation::Random),
        )
    }
}

/// Juniper Next Gen Services NAPT, round robin.
pub fn juniper_napt() -> NatConfig {
    let rules = rules(
        Mapping::AddressAndPortDependent,
        Filtering::AddressAndPortDependent,
        Allocation::Sequential { step: 1, per_host: false },
    );
    NatConfig { timers: Timers::seconds(300, 300, 300, 300, 300, 300), ..with_rules(pf_default(), rules) }
}

/// MikroTik RouterOS masquerade.
pub fn mikrotik() -> NatConfig {
    let timers = Timers {
        syn_sent: secs(5),
        syn_received: secs(5),
        established: secs(86_400),
        fin_wait: secs(10),
        close_wait: secs(10),
        last_ack: secs(10),
        time_wait: secs(10),
        udp_new: secs(10),
        udp_stream: secs(180),
        ..LINUX
    };
    NatConfig { timers, ..linux_masq_drop() }
}

/// Windows' `NetNat`: Hyper-V, containers, WSL.
pub fn winnat() -> NatConfig {
    let rules = rules(Mapping::EndpointIndependent, Filtering::AddressDependent, Allocation::Random);
    NatConfig {
        refresh: Refresh { outbound: true, inbound: false, inbound_uninvited: false },
        timers: Timers { icmp: secs(30), ..Timers::seconds(120, 1800, 120, 120, 120, 120) },
        ..with_rules(pf_default(), rules)
    }
}

/// Windows' Internet Connection Sharing and RRAS.
pub fn windows_ics_rras() -> NatConfig {
    let preserve = Allocation::Preserve(Fallback::Next);
    let rules = rules(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, preserve);
    NatConfig { timers: Timers::seconds(60, 86_400, 60, 60, 60, 60), ..with_rules(pf_default(), rules) }
}

/// AWS's NAT gateway of a VPC.
pub fn aws_natgw() -> NatConfig {
    let rules = Rules {
        overload: Overload::DistinctRemote,
        ..rules(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent, Allocation::Random)
    };
    NatConfig {
        midstream: Midstream::Reset,
        limits: TableLimits { sessions_per_remote_max: 55_000, ..NO_LIMITS },
        timers: Timers::seconds(350, 350, 350, 350, 350, 350),
        tcp_fragments: Fragments::Drop,
        ..with_rules(pf_default(), rules)
    }
}

/// A function on AWS Lambda outside a VPC.
pub fn aws_lambda() -> NatConfig {
    let rules =
        rules(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, Allocation::Preserve(Fallback::Random));
    NatConfig { limits: NO_LIMITS, ..with_rules(aws_natgw(), rules) }
}

/// A host with a public address of its own behind a security group, as on EC2.
pub fn one_to_one() -> NatConfig {
    let rules = rules(Mapping::OneToOne, Filtering::AddressAndPortDependent, Allocation::Preserve(Fallback::Refuse));
    NatConfig {
        hairpin: Hairpin::ExternalSource,
        timers: Timers::seconds(120, 432_000, 120, 10, 30, 120),
        midstream: Midstream::PickUp,
        ..with_rules(pf_default(), rules)
    }
}

/// A host with a public address and no filter.
pub fn public() -> NatConfig {
    let rules = Rules { filtering: Filtering::EndpointIndependent, mapping: Mapping::None, ..one_to_one().tcp };
    with_rules(one_to_one(), rules)
}

/// A stateful firewall before public addresses, without translation.
pub fn firewall_only() -> NatConfig {
    let rules = Rules { mapping: Mapping::None, ..one_to_one().tcp };
    with_rules(one_to_one(), rules)
}

/// Google's Cloud NAT with endpoint-independent mapping and static ports per VM.
pub fn gcp_eim() -> NatConfig {
    let rules = rules(
        Mapping::EndpointIndependent,
        Filtering::AddressAndPortDependent,
        Allocation::Block { ports: 64, blocks_per_host_max: 1 },
    );
    NatConfig {
        timers: Timers {
            time_wait: secs(120),
            last_ack: secs(120),
            icmp: secs(30),
            ..Timers::seconds(30, 1200, 30, 30, 30, 30)
        },
        ..with_rules(pf_default(), rules)
    }
}

/// Google's Cloud NAT with dynamic port allocation.
pub fn gcp_default() -> NatConfig {
    let rules = Rules {
        mapping: Mapping::AddressAndPortDependent,
        allocation: Allocation::Block { ports: 32, blocks_per_host_max: 32 },
        ..gcp_eim().tcp
    };
    with_rules(gcp_eim(), rules)
}

/// Azure's NAT gateway.
pub fn azure_natgw() -> NatConfig {
    let rules = Rules {
        overload: Overload::DistinctRemote,
        ..rules(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent, Allocation::Random)
    };
    NatConfig {
        quarantine: Quarantine {
            same_remote_only: true,
            fin: secs(65),
            reset: secs(16),
            half_open: secs(30),
            idle: secs(65),
        },
        unsolicited: Unsolicited { syn: OnSyn::Reset, segment: OnStray::Reset, ..SILENT },
        midstream: Midstream::Reset,
        limits: TableLimits { sessions_per_remote_max: 50_000, ..NO_LIMITS },
        timers: Timers { syn_sent: secs(30), syn_received: secs(30), ..Timers::seconds(30, 240, 65, 16, 240, 240) },
        tcp_fragments: Fragments::Drop,
        fragments: Fragments::Drop,
        ..with_rules(pf_default(), rules)
    }
}

/// Outbound rules of Azure's load balancer: a block of ports for each VM.
pub fn azure_lb_snat() -> NatConfig {
    let block = Allocation::Block { ports: 1024, blocks_per_host_max: 1 };
    let tcp = Rules { allocation: block, ..azure_natgw().tcp };
    let udp = Rules { mapping: Mapping::EndpointIndependent, overload: Overload::Never, ..tcp };
    NatConfig {
        tcp,
        udp,
        quarantine: Quarantine::default(),
        unsolicited: SILENT,
        midstream: Midstream::Drop,
        limits: NO_LIMITS,
        ..azure_natgw()
    }
}

/// Docker's bridge on a host without a firewall.
pub fn docker_bridge() -> NatConfig {
    linux_masq_rst()
}

/// passt, slirp4netns, gVisor's tap, VPNKit: a proxy with the host's sockets.
pub fn l4_proxy() -> NatConfig {
    let ports = PortClass::Fixed(32_768, 60_999);
    let tcp = Rules {
        ports,
        overload: Overload::DistinctRemote,
        ..rules(Mapping::L4Proxy, Filtering::AddressAndPortDependent, Allocation::Random)
    };
    let udp =
        rules(Mapping::EndpointIndependent, Filtering::EndpointIndependent, Allocation::Preserve(Fallback::Random));
    NatConfig {
        tcp,
        udp,
        unsolicited: Unsolicited { syn: OnSyn::Reset, segment: OnStray::Reset, echo: OnEcho::Reply, ..SILENT },
        midstream: Midstream::Reset,
        reset: OnReset::Delete,
        timers: Timers::seconds(130, 432_000, 60, 1, 180, 180),
        ..pf_default()
    }
}

/// A home router that gives the next port to each remote.
pub fn home_seq() -> NatConfig {
    let rules = rules(
        Mapping::AddressAndPortDependent,
        Filtering::AddressAndPortDependent,
        Allocation::Sequential { step: 1, per_host: false },
    );
    NatConfig { timers: Timers::seconds(60, 3600, 60, 60, 60, 60), ..with_rules(pf_default(), rules) }
}

/// A home router that answers unsolicited SYNs with an RST.
pub fn home_rst() -> NatConfig {
    let rules =
        rules(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, Allocation::Preserve(Fallback::Next));
    NatConfig {
        unsolicited: Unsolicited { syn: OnSyn::Reset, segment: OnStray::Reset, echo: OnEcho::Reply, ..SILENT },
        ..with_rules(home_seq(), rules)
    }
}

/// A home router that lets no inbound SYN pass, whatever went out.
pub fn home_drops_simopen() -> NatConfig {
    NatConfig { simultaneous_open: SimultaneousOpen::DropInboundSyn, unsolicited: SILENT, ..home_rst() }
}

/// A carrier's NAT after RFC 6888: a block of ports for each subscriber.
pub fn cgn_block() -> NatConfig {
    let rules = rules(
        Mapping::EndpointIndependent,
        Filtering::EndpointIndependent,
        Allocation::Block { ports: 1024, blocks_per_host_max: 1 },
    );
    NatConfig { hairpin: Hairpin::Drop, unsolicited: SILENT, parity: false, ..with_rules(rfc_ideal(), rules) }
}

/// A carrier's NAT as cellular networks have it.
pub fn cgn_symmetric() -> NatConfig {
    let rules = rules(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent, Allocation::Random);
    NatConfig {
        pooling: Pooling::Arbitrary,
        timers: Timers::seconds(60, 300, 30, 10, 60, 60),
        ..with_rules(pf_default(), rules)
    }
}

/// A home router whose hosts may ask for ports (UPnP IGD, NAT-PMP, PCP).
pub fn mapped() -> NatConfig {
    NatConfig { port_control: true, ..linux_masq_drop() }
}

/// A firewall that replaces initial sequence numbers, behind which simultaneous open never ends.
pub fn isn_firewall() -> NatConfig {
    NatConfig { rewrites_isn: true, simultaneous_open: SimultaneousOpen::NeverEstablished, ..home_rst() }
}

/// Two gateways, one behind the other: the outer one's configuration and the inner one's.
pub fn double_nat() -> [NatConfig; 2] {
    [cgn_block(), linux_masq_drop()]
}

macro_rules! presets {
    ($($name:ident: $about:literal, $source:literal, $assumed:literal;)*) => {
        /// The presets of the matrix.
        pub const ALL: &[Preset] = &[$(Preset {
            name: stringify!($name),
            about: $about,
            source: $source,
            assumed: $assumed,
            config: $name,
        }),*];
    };
}

presets! {
    public: "public address, no filter", "definition", "";
    one_to_one: "public address, stateful firewall (EC2)", "AWS's documentation, from memory", "hairpin, timers";
    firewall_only: "no translation, stateful firewall", "definition", "timers";
    rfc_ideal: "what the RFCs recommend", "RFC 4787, 5382, 5508", "";
    rfc_strict: "the RFCs with the stricter filter", "RFC 4787, 5382, 5508", "";
    linux_masq_drop: "Linux masquerade, firewall drops", "measured on Linux 6.18", "";
    linux_masq_rst: "Linux masquerade, no firewall", "measured on Linux 6.18", "";
    openwrt_default: "OpenWrt's default", "firewall4's rules; measured on Linux 6.18", "hairpin";
    linux_icmp: "Linux masquerade, ICMP reject", "measured on Linux 6.18", "";
    linux_sink: "Linux masquerade, tracker takes SYNs in", "measured on Linux 6.18", "";
    linux_random: "Linux random ports, Kubernetes", "measured on Linux 6.18", "";
    linux_snat_range: "Linux SNAT to a range of ports", "measured on Linux 6.18", "";
    docker_bridge: "Docker's bridge", "measured on Linux 6.18", "userland proxy left out";
    linux_eim_ebpf: "einat on Linux", "einat's list of requirements", "unsolicited SYNs";
    mikrotik: "MikroTik RouterOS masquerade", "MikroTik's wiki", "filter, simultaneous open as Linux";
    pf_default: "pf of the BSDs", "pf's sources", "hairpin, simultaneous open";
    pf_static_port: "pf with static-port", "pf's sources", "hairpin, simultaneous open";
    pf_eim_udp: "pf, endpoint-independent for UDP", "FreeBSD's pf", "hairpin, simultaneous open";
    cisco_ios_pat: "Cisco IOS PAT", "Cisco's manuals", "filter, unsolicited SYNs, hairpin, simultaneous open";
    cisco_cgn: "Cisco IOS-XR CGN", "Cisco's guide, numbers from memory", "unsolicited SYNs, hairpin, TCP timers";
    juniper_napt: "Juniper NAPT, round robin", "Juniper's documentation", "filter, unsolicited SYNs, hairpin, timers";
    winnat: "Windows NetNat", "listings of Get-NetNat", "mapping, allocation, unsolicited SYNs, hairpin, simultaneous open";
    windows_ics_rras: "Windows ICS and RRAS", "from memory", "all but the established timer";
    aws_lambda: "AWS Lambda outside a VPC", "inferred from what works there", "all";
    aws_natgw: "AWS NAT gateway of a VPC", "AWS's user guide", "filter, allocation, unsolicited SYNs, hairpin, simultaneous open";
    gcp_eim: "Google Cloud NAT, endpoint-independent", "Google's documentation", "filter, unsolicited SYNs, hairpin, simultaneous open";
    gcp_default: "Google Cloud NAT, dynamic ports", "Google's documentation", "filter, unsolicited SYNs, hairpin, simultaneous open";
    azure_natgw: "Azure NAT gateway", "Microsoft's documentation", "hairpin, simultaneous open";
    azure_lb_snat: "Azure load balancer outbound", "Microsoft's documentation", "unsolicited SYNs, hairpin, simultaneous open";
    l4_proxy: "passt, slirp4netns, gVisor tap", "passt's sources", "timers";
    home_seq: "home router, sequential ports", "class known from the field", "timers";
    home_rst: "home router, RST to SYNs", "class known from the field", "timers";
    home_drops_simopen: "home router, drops inbound SYNs", "class known from the field", "timers";
    isn_firewall: "firewall that replaces sequence numbers", "class known from the field", "all";
    cgn_block: "carrier, port blocks", "RFC 6888", "filter, hairpin, timers";
    cgn_symmetric: "carrier, cellular", "field studies, from memory", "all";
    mapped: "home router with port control", "measured on Linux 6.18; NAT-PMP", "";
}

/// What has no preset, and why.
pub const NOT_MODELLED: &[(&str, &str)] = &[
    ("nat64", "no host of the lab is IPv6-only; a translator between families would have no user"),
    ("userland proxies of published ports", "they make a host reachable, as `mapped` does"),
];

/// Finds a preset by its name.
pub fn find(name: &str) -> Option<Preset> {
    ALL.iter().copied().find(|preset| preset.name == name)
}
