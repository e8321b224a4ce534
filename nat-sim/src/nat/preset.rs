//! Known devices as plain configuration. The sources are listed in the project's NAT reference;
//! cells that no source states are assumptions and say so.

use std::time::Duration;

use super::{Allocation, Filtering, Hairpin, Mapping, NatConfig, Timers, Unsolicited};

/// A named preset.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// What it stands for.
    pub about: &'static str,
    /// Makes the configuration.
    pub config: fn() -> NatConfig,
}

/// The silence that RFC 5382 REQ-4 asks for after an unsolicited SYN.
pub const UNSOLICITED_SYN_SILENCE: Duration = Duration::from_secs(6);

/// Timers of Linux's tracker, from its documentation.
const LINUX: Timers = Timers::seconds(120, 432_000, 120, 10, 30, 120);
/// Timers of RFC 5382 REQ-5 and RFC 4787 REQ-5.
const RFC: Timers = Timers::seconds(240, 7440, 240, 240, 300, 300);

/// What the RFCs recommend: endpoint-independent throughout, SYNs held for 6 s.
pub fn rfc_ideal() -> NatConfig {
    NatConfig {
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::EndpointIndependent,
        allocation: Allocation::Random,
        ports: (1024, 65_535),
        unsolicited: Unsolicited::Hold { time: UNSOLICITED_SYN_SILENCE, then_icmp: true },
        reset_deletes_half_open: false,
        hairpin: Hairpin::ExternalSource,
        inbound_refreshes: false,
        timers: RFC,
        sessions_max: 1 << 20,
    }
}

/// The RFCs with the stricter filter that REQ-8 allows, and no answer after the hold.
pub fn rfc_strict() -> NatConfig {
    NatConfig {
        filtering: Filtering::AddressDependent,
        unsolicited: Unsolicited::Hold { time: UNSOLICITED_SYN_SILENCE, then_icmp: false },
        ..rfc_ideal()
    }
}

/// Linux masquerade behind a dropping firewall; measured on Linux 6.18.
pub fn linux_masq_drop() -> NatConfig {
    NatConfig {
        mapping: Mapping::PreserveOverlap,
        filtering: Filtering::AddressAndPortDependent,
        allocation: Allocation::Preserve,
        ports: (1024, 65_535),
        unsolicited: Unsolicited::Drop,
        reset_deletes_half_open: true,
        hairpin: Hairpin::Reset,
        inbound_refreshes: true,
        timers: LINUX,
        sessions_max: 262_144,
    }
}

/// Linux masquerade without a firewall, and OpenWrt's default: RST to unsolicited SYNs; measured.
pub fn linux_masq_rst() -> NatConfig {
    NatConfig { unsolicited: Unsolicited::Reset, ..linux_masq_drop() }
}

/// Linux masquerade with a rejecting firewall: ICMP port unreachable; measured.
pub fn linux_icmp() -> NatConfig {
    NatConfig { unsolicited: Unsolicited::Icmp { code: 3 }, ..linux_masq_drop() }
}

/// Linux masquerade with random ports, as kube-proxy and flannel set it up; measured.
pub fn linux_random() -> NatConfig {
    NatConfig { mapping: Mapping::AddressAndPortDependent, allocation: Allocation::Random, ..linux_masq_drop() }
}

/// OpenBSD's and FreeBSD's pf; hairpin is an assumption.
pub fn pf_default() -> NatConfig {
    NatConfig {
        mapping: Mapping::AddressAndPortDependent,
        allocation: Allocation::Random,
        ports: (50_001, 65_535),
        reset_deletes_half_open: false,
        hairpin: Hairpin::Drop,
        timers: Timers::seconds(30, 86_400, 45, 90, 60, 60),
        ..linux_masq_drop()
    }
}

/// A function on AWS Lambda outside a VPC; all cells are inferred from what works there.
pub fn aws_lambda() -> NatConfig {
    NatConfig {
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::AddressAndPortDependent,
        reset_deletes_half_open: false,
        hairpin: Hairpin::Drop,
        timers: Timers::seconds(350, 350, 350, 350, 350, 350),
        ..linux_masq_drop()
    }
}

/// AWS's NAT gateway of a VPC; filter, hairpin and simultaneous open are assumptions.
pub fn aws_natgw() -> NatConfig {
    NatConfig {
        mapping: Mapping::AddressAndPortDependent,
        allocation: Allocation::Random,
        sessions_max: 55_000,
        ..aws_lambda()
    }
}

/// A host with a public address of its own behind a security group, as on EC2.
pub fn one_to_one() -> NatConfig {
    NatConfig { mapping: Mapping::OneToOne, ..linux_masq_drop() }
}

/// A home router that gives the next port to each remote.
pub fn home_seq() -> NatConfig {
    NatConfig {
        mapping: Mapping::AddressAndPortDependent,
        allocation: Allocation::Sequential,
        reset_deletes_half_open: false,
        hairpin: Hairpin::Drop,
        timers: Timers::seconds(60, 3600, 60, 60, 60, 60),
        ..linux_masq_drop()
    }
}

/// Azure's NAT gateway: random ports, RST for unknown flows.
pub fn azure_natgw() -> NatConfig {
    NatConfig {
        mapping: Mapping::AddressAndPortDependent,
        allocation: Allocation::Random,
        unsolicited: Unsolicited::Reset,
        reset_deletes_half_open: false,
        hairpin: Hairpin::Drop,
        timers: Timers::seconds(30, 240, 65, 16, 240, 240),
        sessions_max: 50_000,
        ..linux_masq_drop()
    }
}

/// The twelve presets of the matrix.
pub const ALL: [Preset; 12] = [
    Preset { name: "one_to_one", about: "public address, stateful firewall", config: one_to_one },
    Preset { name: "rfc_ideal", about: "what the RFCs recommend", config: rfc_ideal },
    Preset { name: "rfc_strict", about: "the RFCs with the stricter filter", config: rfc_strict },
    Preset { name: "linux_masq_drop", about: "Linux masquerade, firewall drops", config: linux_masq_drop },
    Preset { name: "linux_masq_rst", about: "Linux masquerade or OpenWrt, RST", config: linux_masq_rst },
    Preset { name: "linux_icmp", about: "Linux masquerade, ICMP reject", config: linux_icmp },
    Preset { name: "linux_random", about: "Linux random ports, Kubernetes", config: linux_random },
    Preset { name: "pf_default", about: "pf of the BSDs", config: pf_default },
    Preset { name: "aws_lambda", about: "AWS Lambda outside a VPC (inferred)", config: aws_lambda },
    Preset { name: "aws_natgw", about: "AWS NAT gateway of a VPC", config: aws_natgw },
    Preset { name: "home_seq", about: "home router, sequential ports", config: home_seq },
    Preset { name: "azure_natgw", about: "Azure NAT gateway", config: azure_natgw },
];

/// Finds a preset by its name.
pub fn find(name: &str) -> Option<Preset> {
    ALL.into_iter().find(|preset| preset.name == name)
}
