//! Single configurations at their bounds.

use super::*;

const REMOTE: &str = "9.9.9.9:9";

fn udp(from: &str, to: &str) -> Packet {
    Packet::udp(from.parse().expect("an endpoint"), to.parse().expect("an endpoint"), b"")
}

fn tight(config: NatConfig, sessions_max: usize, exhaustion: Exhaustion) -> NatConfig {
    NatConfig { limits: TableLimits { sessions_max, ..config.limits }, exhaustion, ..config }
}

#[test]
fn a_stranger_may_take_the_place_of_the_session_whose_mapping_admits_it() {
    let mut nat = Nat::new(tight(preset::rfc_ideal(), 1, Exhaustion::EvictAny), EXTERNAL, 1);
    let Verdict::Forward(_, out) = nat.outbound(Instant::ZERO, udp("10.0.0.2:4000", REMOTE)) else { panic!("passes") };
    let external = out.flow().expect("udp").source.to_string();
    let arrives = nat.inbound(Instant::ZERO, udp("9.9.9.8:8", &external));
    assert!(matches!(arrives, Verdict::Forward(Side::Inside, _)), "{arrives:?}");
    assert_eq!(nat.snapshot(Instant::ZERO).iter().map(|row| row.remote.to_string()).collect::<Vec<_>>(), ["9.9.9.8:8"]);
    nat.tables.check();
}

#[test]
fn blocks_of_one_transport_are_no_blocks_of_another_with_other_ports() {
    let rules = |ports| Rules {
        allocation: Allocation::Block { ports: 4, blocks_per_host_max: 2 },
        ports,
        ..preset::cgn_block().tcp
    };
    let config = NatConfig {
        tcp: rules(PortClass::Fixed(50_000, 50_003)),
        udp: rules(PortClass::Fixed(40_000, 40_999)),
        ..preset::cgn_block()
    };
    for seed in 0..20 {
        let mut nat = Nat::new(config, EXTERNAL, seed);
        assert!(matches!(nat.outbound(Instant::ZERO, udp("10.0.0.2:4000", REMOTE)), Verdict::Forward(..)));
        let syn = Segment { syn: true, ..Segment::NONE };
        let syn = Packet::tcp("10.0.0.2:4000".parse().expect("v4"), REMOTE.parse().expect("v4"), syn, &[]);
        let Verdict::Forward(_, out) = nat.outbound(Instant::ZERO, syn) else { panic!("a block is free") };
        assert!((50_000..50_004).contains(&out.flow().expect("tcp").source.port()));
    }
}

#[test]
fn another_first_address_leaves_the_pool() {
    let [old, new, second] = [1, 77, 2].map(|last| Ipv4Addr::new(203, 0, 113, last));
    let mut nat = Nat::with_pool(preset::linux_masq_drop(), vec![old, second], 1);
    nat.change_address(new);
    assert_eq!(nat.addresses, [new, second]);
    // One of the pool may become the first.
    nat.change_address(second);
    assert_eq!(nat.addresses, [second]);
}

const INSIDE: &str = "[fd00::2]";
const OUTSIDE: &str = "[fd01::9]:9";

/// A gateway with IPv6 alone in mind, and the time.
struct Wall {
    nat: Nat,
    now: Instant,
}

impl Wall {
    fn new(sessions_max: usize, exhaustion: Exhaustion) -> Self {
        let config = NatConfig { ipv6: Ipv6::Stateful, ..preset::rfc_ideal() };
        Self { nat: Nat::new(tight(config, sessions_max, exhaustion), EXTERNAL, 1), now: Instant::ZERO }
    }

    fn udp(&mut self, port: u16) -> bool {
        matches!(self.nat.outbound(self.now, udp(&format!("{INSIDE}:{port}"), OUTSIDE)), Verdict::Forward(..))
    }

    /// Whether a segment with these flags passes.
    fn tcp(&mut self, from: Side, port: u16, flags: &str) -> bool {
        let has = |flag| flags.contains(flag);
        let segment = Segment { syn: has('S'), fin: has('F'), rst: has('R'), ack: has('.'), ..Segment::NONE };
        let inside = format!("{INSIDE}:{port}").parse().expect("an endpoint");
        let outside = OUTSIDE.parse().expect("an endpoint");
        let verdict = match from {
            Side::Inside => self.nat.outbound(self.now, Packet::tcp_between(inside, outside, segment, &[])),
            Side::Outside => self.nat.inbound(self.now, Packet::tcp_between(outside, inside, segment, &[])),
        };
        matches!(verdict, Verdict::Forward(..))
    }

    fn establish(&mut self, port: u16) {
        for (from, flags) in [(Side::Inside, "S"), (Side::Outside, "S."), (Side::Inside, ".")] {
            assert!(self.tcp(from, port, flags));
        }
    }
}

#[test]
fn a_full_firewall_refuses_new_flows_and_lets_the_known_ones_pass() {
    let mut wall = Wall::new(2, Exhaustion::Drop);
    assert!(wall.udp(1) && wall.udp(2));
    assert!(!wall.udp(3), "there is no room");
    assert!(wall.udp(1) && wall.udp(2), "these have theirs");
    wall.now += wall.nat.config.timers.udp_stream;
    assert!(wall.udp(3), "the others have expired");
}

#[test]
fn an_end_of_tcp_frees_its_place_in_the_firewall() {
    use Side::{Inside, Outside};
    for (what, end, wait) in [
        ("two FINs", &[(Inside, "F."), (Outside, "F."), (Inside, ".")][..], preset::rfc_ideal().timers.time_wait),
        ("an RST from inside", &[(Inside, "R")], preset::rfc_ideal().timers.close),
        ("an RST from outside", &[(Outside, "R.")], preset::rfc_ideal().timers.close),
    ] {
        let mut wall = Wall::new(1, Exhaustion::Drop);
        wall.establish(1);
        for (from, flags) in end {
            assert!(wall.tcp(*from, 1, flags), "{what}");
        }
        assert!(!wall.tcp(Inside, 2, "S"), "{what}: the ends still talk");
        wall.now += wait;
        assert!(!wall.tcp(Outside, 1, "."), "{what}: it is forgotten");
        assert!(wall.tcp(Inside, 2, "S"), "{what}");
    }
}

#[test]
fn a_flow_that_stands_outlives_an_opening_one_and_a_new_one_follows_a_closed_one() {
    use Side::{Inside, Outside};
    let mut wall = Wall::new(9, Exhaustion::Drop);
    wall.establish(1);
    assert!(wall.tcp(Inside, 2, "S"));
    wall.now += wall.nat.config.timers.syn_sent;
    assert!(!wall.tcp(Outside, 2, "S."), "nobody answered in time");
    assert!(wall.tcp(Outside, 1, "."));
    for (from, flags) in [(Outside, "F."), (Inside, "F.")] {
        assert!(wall.tcp(from, 1, flags));
    }
    wall.establish(1);
    wall.now += wall.nat.config.timers.time_wait;
    assert!(wall.tcp(Outside, 1, "."), "a SYN began it anew");
    assert!(wall.tcp(Inside, 3, "R") && !wall.tcp(Outside, 3, "."), "an RST begins nothing");
}

#[test]
fn a_full_firewall_ends_what_its_policy_lets_give_way() {
    for (exhaustion, idle_gives_way, closing_gives_way) in [
        (Exhaustion::Drop, false, false),
        (Exhaustion::Icmp { code: 13 }, false, false),
        (Exhaustion::EvictClosing, false, true),
        (Exhaustion::EvictAny, true, true),
    ] {
        let mut wall = Wall::new(1, exhaustion);
        wall.establish(1);
        assert_eq!(wall.tcp(Side::Inside, 2, "S"), idle_gives_way, "{exhaustion:?}");
        let mut wall = Wall::new(1, exhaustion);
        wall.establish(1);
        assert!(wall.tcp(Side::Inside, 1, "F."));
        assert_eq!(wall.tcp(Side::Inside, 2, "S"), closing_gives_way, "{exhaustion:?}");
    }
}
