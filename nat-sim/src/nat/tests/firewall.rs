//! Goal: IPv6 passes as RFC 6092 asks: out freely, in only as part of a flow that the inside began, and for as long as the
//! flow's state allows. Method: single packets through a gateway at both sides of each bound; lives of connections as lines
//! of text.

use super::directed::{tight, udp};
use super::life::{TIMERS, segment};
use super::*;

const INSIDE: &str = "[fd00::2]";
const OUTSIDE: &str = "[fd01::9]:9";

/// A segment of the connection between this port of the inside and the outside.
fn tcp(from: Side, port: u16, flags: &str) -> Packet {
    let inside = format!("{INSIDE}:{port}").parse().expect("an endpoint");
    let outside = OUTSIDE.parse().expect("an endpoint");
    let (source, destination) = if from == Side::Inside { (inside, outside) } else { (outside, inside) };
    Packet::tcp_between(source, destination, segment(flags), &[])
}

/// A gateway with IPv6 alone in mind, and the time.
#[derive(Clone)]
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
        let packet = tcp(from, port, flags);
        self.takes(from, packet)
    }

    fn takes(&mut self, from: Side, packet: Packet) -> bool {
        let verdict = match from {
            Side::Inside => self.nat.outbound(self.now, packet),
            Side::Outside => self.nat.inbound(self.now, packet),
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

/// RFC 6092 REC-35: the time of a flow is that of its state.
#[test]
fn each_segment_leads_a_flow_to_its_state_and_gives_it_that_states_time() {
    for (words, seconds) in [
        ("iS", 1),
        ("iS iS", 1),
        ("iS oS.", 1),
        ("iS oS. oS.", 1),
        ("iS oS. i.", 3),
        ("iS oS. i. o. i.", 3),
        // A simultaneous open.
        ("iS oS iS.", 1),
        ("iS oS iS. o.", 3),
        // What an open connection says does not begin it anew.
        ("iS oS. i. iS", 3),
        // Closing: the first FIN, which may be repeated and acknowledged, FINs from both.
        ("iS oS. iF.", 4),
        ("iS oS. i. iF. iF.", 4),
        ("iS oS. i. iF. o.", 4),
        ("iS oS. i. oF. oF. i.", 4),
        ("iS oS. i. iF. oF.", 7),
        ("iS oS. i. oF. iF. o.", 7),
        ("iS oS. i. iF. oF. iF. i.", 7),
        // The end, and what comes behind it. Only a SYN of the inside opens the next connection.
        ("iS oS. i. iF. oF. oS", 7),
        ("iS oS. i. iF. oF. iS.", 7),
        ("iS oS. i. iF. oF. iS", 1),
        ("iS oS. i. iF. oF. iS oS. i.", 3),
        ("iS oS. i. iR", 8),
        ("iS oS. i. oR. i. o. iF.", 8),
        ("iS oS. i. iR oS", 8),
        ("iS oS. i. oR. iS", 1),
    ] {
        let mut wall = Wall::new(9, Exhaustion::Drop);
        wall.nat.config.timers = TIMERS;
        for word in words.split(' ') {
            let (from, flags) = word.split_at(1);
            wall.now += Duration::from_millis(1);
            assert!(wall.tcp(if from == "i" { Side::Inside } else { Side::Outside }, 1, flags), "{words}");
        }
        wall.now += Duration::from_secs(seconds);
        assert!(!wall.clone().tcp(Side::Outside, 1, "."), "{words}: it ends");
        wall.now = wall.now - Duration::from_nanos(1);
        assert!(wall.tcp(Side::Outside, 1, "."), "{words}: it lasts");
    }
}

/// RFC 4890 §4.3.1.
#[test]
fn a_report_that_a_packet_was_too_big_passes_with_the_flow_of_that_packet_and_prolongs_none() {
    use Side::{Inside, Outside};
    let report = |from: Side, port| {
        // Whoever could not take it reports it to whoever sent it.
        let sent = tcp(if from == Inside { Outside } else { Inside }, port, ".");
        sent.too_big_reply_v6(IPV6_MTU_MIN).expect("IPv6")
    };
    let mut wall = Wall::new(2, Exhaustion::Drop);
    wall.establish(1);
    for _ in 0..2 {
        for from in [Inside, Outside] {
            assert!(wall.takes(from, report(from, 1)), "from {from:?}");
            assert!(!wall.takes(from, report(from, 2)), "about nothing that passed, from {from:?}");
        }
        assert!(!wall.tcp(Outside, 2, "."), "a report begins no flow");
        wall.now += wall.nat.config.timers.established - Duration::from_nanos(1);
    }
    wall.now = Instant::ZERO + wall.nat.config.timers.established;
    assert!(!wall.tcp(Outside, 1, "."), "no packet of the flow has come since");
}
