//! What the RFCs and known devices ask of a gateway, statement by statement, and what the lab does about it.
//!
//! [`markdown`] makes the project's `REQUIREMENTS.md` from this list; a test keeps both together, and
//! sees to it that each tested statement has a test of its name.

use std::fmt::Write;
use std::time::Duration;

use super::preset::{self, Preset};
use super::{
    Allocation, Exhaustion, Filtering, Hairpin, IcmpErrors, Mapping, NatConfig, OnSyn, Overload, PortClass, Quarantine,
    SimultaneousOpen,
};

/// What the lab does about it.
#[derive(Clone, Copy, Debug)]
pub enum Status {
    /// Tested; some presets may break it on purpose.
    Tested(fn(&NatConfig) -> bool),
    /// Tested elsewhere, as said.
    Elsewhere(&'static str),
    /// Not modelled, for this reason.
    NotModelled(&'static str),
}

/// A statement.
#[derive(Clone, Copy, Debug)]
pub struct Requirement {
    /// Its name in this project; tests begin with it.
    pub id: &'static str,
    /// `MUST`, `SHOULD` or `MAY`, for carriers only if so said; `device` for what known devices do.
    pub level: &'static str,
    /// Where it is from.
    pub source: &'static str,
    /// What is asked.
    pub text: &'static str,
    /// What the lab does about it.
    pub status: Status,
}

fn nobody(_: &NatConfig) -> bool {
    false
}

fn maps_by_remote(config: &NatConfig) -> bool {
    matches!(config.tcp.mapping, Mapping::AddressDependent | Mapping::AddressAndPortDependent | Mapping::L4Proxy)
}

fn overlaps(config: &NatConfig) -> bool {
    config.tcp.mapping == Mapping::PreserveOverlap
}

fn shares_ports(config: &NatConfig) -> bool {
    config.tcp.overload != Overload::Never
}

fn translates(config: &NatConfig) -> bool {
    !matches!(config.tcp.mapping, Mapping::None | Mapping::OneToOne)
}

fn mixes_classes(config: &NatConfig) -> bool {
    translates(config) && matches!(config.tcp.ports, PortClass::Fixed(..)) && !keeps_ports(config)
}

fn keeps_ports(config: &NatConfig) -> bool {
    matches!(config.tcp.allocation, Allocation::Preserve(_))
}

fn lacks_parity(config: &NatConfig) -> bool {
    translates(config) && !config.parity
}

fn counts_ports(config: &NatConfig) -> bool {
    matches!(config.tcp.allocation, Allocation::Sequential { .. })
}

fn never_rests(config: &NatConfig) -> bool {
    translates(config) && config.quarantine == Quarantine::default()
}

fn answers_early(config: &NatConfig) -> bool {
    matches!(config.unsolicited.syn, OnSyn::Reset | OnSyn::Icmp { .. })
}

fn holds_nothing(config: &NatConfig) -> bool {
    !matches!(config.unsolicited.syn, OnSyn::Hold { then_icmp: true, .. })
}

fn is_strict(config: &NatConfig) -> bool {
    config.tcp.filtering == Filtering::AddressAndPortDependent
}

fn stops_simultaneous_open(config: &NatConfig) -> bool {
    config.simultaneous_open != SimultaneousOpen::Full || config.tcp.mapping == Mapping::L4Proxy
}

fn below(time: Duration, seconds: u64) -> bool {
    time < Duration::from_secs(seconds)
}

fn lacks_hairpin(config: &NatConfig) -> bool {
    translates(config) && config.hairpin != Hairpin::ExternalSource
}

fn refuses_in_silence(config: &NatConfig) -> bool {
    !matches!(config.exhaustion, Exhaustion::Icmp { .. })
}

fn drops_fragments(config: &NatConfig) -> bool {
    [config.fragments, config.tcp_fragments].contains(&super::Fragments::Drop)
}

macro_rules! requirements {
    ($($id:literal $level:literal $source:literal $text:literal $status:expr;)*) => {
        /// All of them.
        pub const ALL: &[Requirement] = &[$(Requirement {
            id: $id,
            level: $level,
            source: $source,
            text: $text,
            status: $status,
        }),*];
    };
}

use Status::{Elsewhere, NotModelled, Tested};

requirements! {
    "MAP-1" "MUST" "RFC 4787 REQ-1, RFC 5382 REQ-1" "one internal endpoint has one external one, whatever the remote" Tested(maps_by_remote);
    "MAP-2" "SHOULD" "RFC 4787 REQ-2, RFC 6888 REQ-2" "all flows of a host leave from one address of a pool" Tested(|c| c.pooling == super::Pooling::Arbitrary);
    "MAP-3" "MUST" "RFC 4787 REQ-11" "neither load nor history changes the class" Tested(overlaps);
    "MAP-4" "device" "RFC 7857 §5" "TCP and UDP have mappings of their own" Tested(nobody);
    "MAP-5" "MUST" "RFC 4787 REQ-7" "equal prefixes inside and outside are translated in full" Tested(nobody);
    "MAP-6" "device" "RFC 7857 §3, Linux" "a port is shared only while remotes differ" Tested(nobody);
    "MAP-7" "device" "Linux" "a port is kept until it clashes, and the other one sticks" Tested(nobody);
    "PORT-1" "MUST" "RFC 4787 REQ-3, RFC 5382 REQ-7" "no two mappings share a port" Tested(shares_ports);
    "PORT-2" "SHOULD" "RFC 4787 REQ-3a" "well-known ports stay well known" Tested(mixes_classes);
    "PORT-3" "SHOULD" "RFC 4787 REQ-4" "UDP ports keep their parity" Tested(lacks_parity);
    "PORT-4" "SHOULD" "RFC 6056, RFC 7857 §9, RFC 6888 REQ-15" "ports cannot be predicted" Tested(counts_ports);
    "PORT-5" "SHOULD" "RFC 6888 REQ-8" "a freed port rests for 120 s" Tested(never_rests);
    "PORT-6" "device" "Azure" "a port rests towards the same remote, by the reason of its end" Tested(nobody);
    "PORT-7" "device" "pf" "static-port keeps or fails" Tested(nobody);
    "PORT-8" "device" "Linux" "the search for a port is bounded" Tested(nobody);
    "PORT-9" "device" "Cisco" "the lowest port of the group, then the next address" Tested(nobody);
    "PORT-10" "device" "Juniper" "round robin" Tested(nobody);
    "PORT-11" "MUST for carriers" "RFC 6888 REQ-4" "a subscriber has a bounded number of ports" Tested(|c| translates(c) && c.limits.ports_per_host_max == usize::MAX && !matches!(c.tcp.allocation, Allocation::Block { .. }));
    "FIL-1" "SHOULD" "RFC 4787 REQ-8, RFC 5382 REQ-3, RFC 6888 REQ-7" "endpoint-independent filtering, or address-dependent where that is policy" Tested(is_strict);
    "FIL-2" "MAY" "RFC 5382 REQ-3b" "TCP and UDP filter apart" Tested(nobody);
    "FIL-3" "MUST" "RFC 5382 REQ-4" "an unsolicited SYN meets silence for 6 s" Tested(answers_early);
    "FIL-4" "MUST" "RFC 5382 REQ-4" "an outbound SYN within 6 s discards the held one" Tested(holds_nothing);
    "FIL-5" "SHOULD" "RFC 5382 REQ-4a" "else one ICMP port unreachable, unless policy forbids" Tested(holds_nothing);
    "FIL-6" "device" "NAT64 practice" "held SYNs are bounded" Tested(nobody);
    "FIL-7" "device" "Linux, OpenWrt, Azure" "RST, ICMP port unreachable or prohibited at once" Tested(nobody);
    "FIL-8" "MUST" "sanity" "a refused packet creates and refreshes nothing" Tested(|c| c.unsolicited.syn == OnSyn::Sink);
    "FIL-9" "device" "Linux" "a flow of the gateway itself takes the port" Tested(nobody);
    "FIL-10" "device" "Azure" "unknown flows from either side are reset" Tested(nobody);
    "FIL-11" "device" "Linux" "connections are picked up in the middle" Tested(nobody);
    "TCP-1" "MUST" "RFC 5382 REQ-2" "a handshake from inside establishes" Tested(|c| c.simultaneous_open == SimultaneousOpen::NeverEstablished);
    "TCP-2" "MUST" "RFC 5382 REQ-2a" "a simultaneous open establishes" Tested(stops_simultaneous_open);
    "TCP-3" "MUST" "RFC 5382 REQ-2" "a connection from outside to a permitted endpoint passes" Tested(stops_simultaneous_open);
    "TCP-4" "MUST" "RFC 5382 REQ-2" "half-closed and repeated segments pass" Tested(nobody);
    "TCP-5" "device" "Linux" "the other side's ACK establishes a simultaneous open" Tested(nobody);
    "TCP-6" "SHOULD" "RFC 7857 §2.2" "an RST passes, and the state stays for 4 min" Tested(|c| below(c.timers.close, 240));
    "TCP-7" "device" "Linux" "an RST is weighed by its number" Tested(nobody);
    "TCP-8" "device" "attack" "a forged RST ends a session only where nobody checks" Tested(nobody);
    "TCP-9" "device" "Linux" "a stale initial number leaks until the entry expires" Tested(nobody);
    "TCP-10" "device" "Linux" "a larger initial number begins anew while one side has spoken" Tested(nobody);
    "TCP-11" "MUST" "sanity" "nonsense flags make no state" Tested(nobody);
    "TCP-12" "MUST" "sanity" "options and payload are left alone" Tested(|c| c.rewrites_isn);
    "TCP-13" "SHOULD" "RFC 5382 REQ-6" "addresses in payload are left alone" Tested(nobody);
    "TCP-14" "device" "passt" "a proxy answers its guest only when the outside has" Tested(nobody);
    "TMR-1" "MUST" "RFC 5382 REQ-5" "an established connection may be idle for 2 h 4 min" Tested(|c| below(c.timers.established, 7440));
    "TMR-2" "MUST" "RFC 5382 REQ-5, RFC 7857 §2.1" "a half-open or closed one for 4 min" Tested(|c| below(c.timers.syn_sent, 240) || below(c.timers.time_wait, 240));
    "TMR-3" "MUST" "RFC 4787 REQ-5" "UDP for 2 min, better 5" Tested(|c| below(c.timers.udp_stream, 120) || below(c.timers.udp_new, 120));
    "TMR-4" "MUST" "RFC 4787 REQ-6" "outbound packets refresh" Tested(|c| !c.refresh.outbound);
    "TMR-5" "SHOULD" "RFC 7857 §7.1" "an answer to the uninvited refreshes nothing" Tested(nobody);
    "TMR-6" "MUST" "RFC 5508 REQ-2" "an echo may be answered for 60 s" Tested(|c| below(c.timers.icmp, 60));
    "TMR-7" "MUST" "sanity" "sessions expire exactly" Tested(nobody);
    "TMR-8" "device" "Linux" "timers by state" Tested(nobody);
    "TMR-9" "device" "pf" "timers by state" Tested(nobody);
    "TMR-10" "device" "NAT64" "its timers" NotModelled("NAT64 is not modelled: no host of the lab is IPv6-only");
    "ICMP-1" "MUST" "RFC 4787 REQ-12, RFC 5382 REQ-10" "an error leaves the session" Tested(|c| c.icmp_errors == IcmpErrors::KillSession);
    "ICMP-2" "MUST" "RFC 5382 REQ-9, RFC 5508 REQ-4" "an inbound error reaches the host with its own packet" Tested(|c| c.icmp_errors == IcmpErrors::Ignore);
    "ICMP-3" "MUST" "RFC 5508 REQ-5" "an outbound error shows the external endpoint" Tested(nobody);
    "ICMP-4" "SHOULD" "RFC 5508 REQ-3" "errors with wrong checksums are dropped" Tested(nobody);
    "ICMP-5" "MUST" "RFC 5508 REQ-6" "an error neither refreshes nor deletes" Tested(|c| c.icmp_errors == IcmpErrors::KillSession);
    "ICMP-6" "MUST" "RFC 5508 REQ-7" "a hairpinned error reaches its host" Tested(lacks_hairpin);
    "ICMP-7" "SHOULD" "RFC 5508 REQ-8" "a flow without room is refused by ICMP" Tested(refuses_in_silence);
    "ICMP-8" "MUST" "RFC 5508 REQ-1" "echo identifiers are mapped endpoint-independently" Tested(nobody);
    "ICMP-9" "device" "Linux" "errors end a connect as on Linux" Elsewhere("nat-sim/tests/host.rs, nat-sim/tests/kernel");
    "FRAG-1" "MUST" "RFC 4787 REQ-13, 14" "fragments pass in any order, in bounded memory" Tested(drops_fragments);
    "CKS-1" "MUST" "RFC 1624" "every rewrite keeps checksums" Tested(nobody);
    "CKS-2" "MUST" "RFC 768" "a UDP checksum of zero stays zero" Tested(nobody);
    "CKS-3" "device" "Linux" "a wrong checksum makes no state" Tested(|c| !c.verifies_checksums);
    "HP-1" "MUST" "RFC 4787 REQ-9, RFC 5382 REQ-8" "a hairpinned packet shows its sender's external endpoint" Tested(lacks_hairpin);
    "HP-2" "device" "Linux" "no hairpinning; the gateway's own stack refuses" Tested(nobody);
    "HP-3" "MUST" "sanity" "hairpinning obeys the filter" Tested(nobody);
    "HP-4" "MUST" "sanity" "nobody connects to itself" Tested(nobody);
    "EXH-1" "MUST" "RFC 5508 REQ-8, RFC 6888 REQ-11" "a full gateway refuses, and never evicts" Tested(|c| c.exhaustion == Exhaustion::EvictAny);
    "EXH-2" "device" "AWS" "55,000 sessions to one remote" Tested(nobody);
    "EXH-3" "device" "Azure" "ports are shared over destinations, 50,000 to one" Tested(nobody);
    "EXH-4" "device" "Google" "64 ports for a host" Tested(nobody);
    "EXH-5" "device" "Linux" "closing entries give way early" Tested(nobody);
    "LIFE-1" "device" "any" "a reboot forgets everything" Tested(nobody);
    "LIFE-2" "device" "RouterOS" "a new address flushes all" Tested(nobody);
    "LIFE-3" "MUST" "sanity" "a restart never doubles a port" Tested(nobody);
    "LIFE-4" "device" "AWS" "an idle session ends in silence; the next packet from inside is reset" Tested(nobody);
    "CGN-1" "MUST for carriers" "RFC 6888 REQ-1, 3, 5, 6, 9, 12" "transports obeyed, limits for each subscriber" Tested(nobody);
    "CGN-2" "SHOULD for carriers" "RFC 6888 REQ-13 to 15" "blocks trade foresight for fewer records" Tested(nobody);
    "DISC-1" "device" "RFC 5780 §4.3" "discovery finds the mapping that is configured" Elsewhere("scenarios/tests/discovery.rs");
    "DISC-2" "device" "RFC 5780 §4.4" "discovery finds the filter that is configured" Elsewhere("scenarios/tests/discovery.rs");
    "DISC-3" "device" "RFC 5780 §3" "a class that changes under load is seen to change" Elsewhere("scenarios/tests/discovery.rs");
    "DISC-4" "device" "RFC 5780 §4" "discovery finds hairpinning" Elsewhere("scenarios/tests/discovery.rs");
    "DISC-5" "device" "RFC 3489" "the four names of RFC 3489" Elsewhere("fmi's discovery prints them next to the axes");
    "ICE-1" "device" "RFC 6544" "candidate types" NotModelled("about endpoints, not gateways");
    "ICE-2" "device" "RFC 8445" "pacing and authentication of checks" NotModelled("about endpoints, not gateways");
    "ICE-3" "device" "RFC 8305" "staggered attempts" NotModelled("about endpoints, not gateways");
}

/// The presets that break a statement.
pub fn violators(requirement: &Requirement) -> Vec<&'static Preset> {
    let Tested(is_violated_by) = requirement.status else { return Vec::new() };
    preset::ALL.iter().filter(|preset| is_violated_by(&(preset.config)())).collect()
}

/// The list as the project's `REQUIREMENTS.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Requirements\n\n\
         What RFC 4787, 5382, 5508, 6888 and 7857 ask of a NAT, and what known devices do. Made by\n\
         `cargo run -p scenarios -- nats --requirements`; do not edit.\n\n\
         Each tested statement has a test of its name in `tests/requirements`. A preset breaks a statement\n\
         on purpose, because the device that it models does.\n\n\
         | id | level | source | statement | status | presets that break it |\n\
         |---|---|---|---|---|---|\n",
    );
    for requirement in ALL {
        let Requirement { id, level, source, text: statement, status } = requirement;
        let status = match status {
            Tested(_) => "met".to_owned(),
            Elsewhere(place) => format!("met: {place}"),
            NotModelled(reason) => format!("not modelled: {reason}"),
        };
        let broken = violators(requirement);
        let names = if broken.len() == preset::ALL.len() {
            "all".to_owned()
        } else {
            broken.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ")
        };
        let _ = writeln!(text, "| {id} | {level} | {source} | {statement} | {status} | {names} |");
    }
    text.push_str("\n## Devices without a preset\n\n");
    for (name, reason) in preset::NOT_MODELLED {
        let _ = writeln!(text, "- {name}: {reason}");
    }
    text
}
