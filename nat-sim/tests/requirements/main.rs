//! Goal: the translator does what RFC 4787, 5382, 5508, 6888 and 7857 say where a preset claims so,
//! and deviates where it claims that. Method: one test for each statement, named after it, in virtual
//! time. `nat-sim/REQUIREMENTS.md` lists the statements; a test here keeps both together.

#![expect(clippy::wildcard_enum_match_arm, reason = "what is not expected fails, whatever it is")]
#![expect(clippy::unwrap_in_result, reason = "tests fail by panicking")]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use fmi_net::time::Instant;
use nat_sim::nat::{
    Allocation, DropReason, Fallback, Filtering, Mapping, Nat, NatConfig, Overload, PortClass, Rules, Side,
    SnapshotRow, Verdict, preset,
};
use nat_sim::packet::{Packet, Segment};

mod errors;
mod filtering;
mod hairpin_and_life;
mod list;
mod mapping;
mod ports;
mod tcp;
mod timers;

const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const REMOTE: &str = "9.9.9.9:9";
const HOST: &str = "10.0.0.2:4000";

const SYN: Segment = Segment { syn: true, sequence: 1000, window: 64_000, ..Segment::NONE };
const SYN_ACK: Segment = Segment { ack: true, sequence: 5000, acknowledgement: 1001, ..SYN };
const ACK: Segment = Segment { syn: false, ack: true, sequence: 1001, acknowledgement: 5001, ..SYN };
const BACK_ACK: Segment = Segment { sequence: 5001, acknowledgement: 1001, ..ACK };

fn at(text: &str) -> SocketAddrV4 {
    text.parse().expect("an endpoint")
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const NANO: Duration = Duration::from_nanos(1);

/// A gateway with a clock.
struct Gate {
    nat: Nat,
    now: Instant,
}

impl Gate {
    fn new(config: NatConfig) -> Self {
        Self { nat: Nat::new(config, EXTERNAL, 1), now: Instant::ZERO }
    }

    fn with_pool(config: NatConfig, addresses: u8) -> Self {
        let pool = (1..=addresses).map(|last| Ipv4Addr::new(203, 0, 113, last)).collect();
        Self { nat: Nat::with_pool(config, pool, 1), now: Instant::ZERO }
    }

    fn wait(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn send(&mut self, packet: Packet) -> Verdict {
        self.nat.outbound(self.now, packet)
    }

    fn receive(&mut self, packet: Packet) -> Verdict {
        self.nat.inbound(self.now, packet)
    }

    fn out(&mut self, from: &str, to: &str, segment: Segment) -> Verdict {
        self.send(Packet::tcp(at(from), at(to), segment, &[]))
    }

    fn back(&mut self, from: &str, to: SocketAddrV4, segment: Segment) -> Verdict {
        self.receive(Packet::tcp(at(from), to, segment, &[]))
    }

    /// Sends a SYN from inside; its external endpoint.
    fn open(&mut self, from: &str, to: &str) -> SocketAddrV4 {
        let verdict = self.out(from, to, SYN);
        external(&verdict).unwrap_or_else(|| panic!("{from} to {to}: {verdict:?}"))
    }

    /// Opens a connection to its end.
    fn establish(&mut self, from: &str, to: &str) -> SocketAddrV4 {
        let external = self.open(from, to);
        assert!(is_in(&self.back(to, external, SYN_ACK)));
        assert!(is_out(&self.out(from, to, ACK)));
        external
    }

    fn udp_out(&mut self, from: &str, to: &str) -> Verdict {
        self.send(Packet::udp(at(from).into(), at(to).into(), b"hello"))
    }

    fn udp_open(&mut self, from: &str, to: &str) -> SocketAddrV4 {
        external(&self.udp_out(from, to)).expect("a mapping")
    }

    fn udp_back(&mut self, from: &str, to: SocketAddrV4) -> Verdict {
        self.receive(Packet::udp(at(from).into(), to.into(), b"hello"))
    }

    fn admits(&mut self, from: &str, to: SocketAddrV4) -> bool {
        is_in(&self.back(from, to, SYN))
    }

    fn rows(&mut self) -> Vec<SnapshotRow> {
        self.nat.snapshot(self.now)
    }
}

fn external(verdict: &Verdict) -> Option<SocketAddrV4> {
    match verdict {
        Verdict::Forward(Side::Outside, packet) => Some(packet.flow().expect("a flow").source),
        _ => None,
    }
}

fn internal(verdict: &Verdict) -> Option<SocketAddrV4> {
    match verdict {
        Verdict::Forward(Side::Inside, packet) => Some(packet.flow().expect("a flow").destination),
        _ => None,
    }
}

fn is_in(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Forward(Side::Inside, _))
}

fn is_out(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Forward(Side::Outside, _))
}

/// The RST of a reply.
fn reset(verdict: &Verdict) -> Option<(Side, Segment)> {
    match verdict {
        Verdict::Reply(side, packet) => packet.segment().filter(|segment| segment.rst).map(|segment| (*side, segment)),
        _ => None,
    }
}

/// Type and code of a reply by ICMP.
fn icmp(verdict: &Verdict) -> Option<(Side, u8, u8)> {
    match verdict {
        Verdict::Reply(side, packet) => packet.icmp_error().map(|error| (*side, error.kind, error.code)),
        _ => None,
    }
}

/// A plain gateway to vary: endpoint-independent mapping, silent, tracker by flags.
fn plain(filtering: Filtering) -> NatConfig {
    let rules = Rules {
        mapping: Mapping::EndpointIndependent,
        filtering,
        allocation: Allocation::Random,
        ports: PortClass::Fixed(1024, 65_535),
        overload: Overload::Never,
    };
    NatConfig { tcp: rules, udp: rules, ..preset::pf_default() }
}

fn with_tcp(config: NatConfig, change: impl FnOnce(&mut Rules)) -> NatConfig {
    let mut tcp = config.tcp;
    change(&mut tcp);
    NatConfig { tcp, udp: tcp, ..config }
}
