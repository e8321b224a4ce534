//! Goal: the guard objects to what a gateway must not do, and to nothing else. Method: packets as they come and as a gateway
//! would have passed them on, right and wrong; no gateway.

use super::*;
use crate::nat::preset::{linux_masq_drop, rfc_ideal, rfc_strict};

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u32) -> Instant {
    Instant::ZERO + seconds * SECOND
}

fn endpoint(address: [u8; 4], port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address.into(), port)
}

fn inside(host: u8) -> SocketAddrV4 {
    endpoint([10, 0, 0, host], 40_000)
}

fn remote(host: u8, port: u16) -> SocketAddrV4 {
    endpoint([192, 0, 2, host], port)
}

const OUTER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), 40_000);

fn packet(source: SocketAddrV4, destination: SocketAddrV4) -> Packet {
    Packet::udp(source.into(), destination.into(), b"hello")
}

/// A host sends to a remote, through an external endpoint.
fn goes(guard: &mut Guard, now: Instant, host: u8, external: SocketAddrV4, to: SocketAddrV4) -> Option<String> {
    let before = Arrived::new(&packet(inside(host), to));
    guard.judge(now, Side::Inside, before, &Verdict::Forward(Side::Outside, packet(external, to)))
}

/// A remote sends to an external endpoint, and it reaches a host.
fn comes(guard: &mut Guard, now: Instant, from: SocketAddrV4, host: u8) -> Option<String> {
    let before = Arrived::new(&packet(from, OUTER));
    guard.judge(now, Side::Outside, before, &Verdict::Forward(Side::Inside, packet(from, inside(host))))
}

#[test]
fn each_filter_admits_what_it_says_and_no_more() {
    for (filtering, other_port, other_host) in [
        (Filtering::EndpointIndependent, true, true),
        (Filtering::AddressDependent, true, false),
        (Filtering::AddressAndPortDependent, false, false),
    ] {
        let mut config = rfc_ideal();
        config.udp.filtering = filtering;
        let mut guard = Guard::new(config);
        assert!(comes(&mut guard, at(1), remote(1, 80), 2).is_some(), "nothing was sent");
        assert_eq!(goes(&mut guard, at(1), 2, OUTER, remote(1, 80)), None);
        assert_eq!(comes(&mut guard, at(1), remote(1, 80), 2), None);
        assert_eq!(comes(&mut guard, at(1), remote(1, 81), 2).is_none(), other_port, "{filtering:?}");
        assert_eq!(comes(&mut guard, at(1), remote(2, 80), 2).is_none(), other_host, "{filtering:?}");
    }
}

#[test]
fn a_packet_for_one_host_does_not_reach_another() {
    let mut guard = Guard::new(rfc_ideal());
    assert_eq!(goes(&mut guard, at(1), 2, OUTER, remote(1, 80)), None);
    let wrong = comes(&mut guard, at(1), remote(1, 80), 3).expect("host 3 has sent nothing");
    assert!(wrong.contains("another host has sent from there"), "{wrong}");
}

#[test]
fn a_port_is_one_hosts_as_long_as_it_uses_it() {
    let mut guard = Guard::new(rfc_ideal());
    assert_eq!(goes(&mut guard, at(1), 2, OUTER, remote(1, 80)), None);
    let wrong = goes(&mut guard, at(2), 3, OUTER, remote(2, 80)).expect("host 2 uses it");
    assert!(wrong.contains("which another host has in use"), "{wrong}");
    // After the longest silence nobody does.
    let mut guard = Guard::new(rfc_ideal());
    assert_eq!(goes(&mut guard, at(1), 2, OUTER, remote(1, 80)), None);
    assert_eq!(goes(&mut guard, at(100_000), 3, OUTER, remote(1, 80)), None);
    assert_eq!(comes(&mut guard, at(100_000), remote(1, 80), 3), None);
}

#[test]
fn hosts_may_share_a_port_towards_different_remotes_where_that_is_configured() {
    let mut guard = Guard::new(linux_masq_drop());
    assert_eq!(goes(&mut guard, at(1), 2, OUTER, remote(1, 80)), None);
    assert_eq!(goes(&mut guard, at(1), 3, OUTER, remote(2, 80)), None);
    assert_eq!(comes(&mut guard, at(1), remote(1, 80), 2), None);
    assert_eq!(comes(&mut guard, at(1), remote(2, 80), 3), None);
    assert!(comes(&mut guard, at(1), remote(2, 80), 2).is_some(), "the flow of another host");
    assert!(goes(&mut guard, at(2), 2, OUTER, remote(2, 80)).is_some(), "the same remote");
}

#[test]
fn nothing_is_remembered_over_a_long_silence_or_a_reboot() {
    let mut guard = Guard::new(rfc_ideal());
    assert_eq!(goes(&mut guard, at(1), 2, OUTER, remote(1, 80)), None);
    assert!(comes(&mut guard, at(100_000), remote(1, 80), 2).is_some());
    assert_eq!(goes(&mut guard, at(100_001), 2, OUTER, remote(1, 80)), None);
    assert_eq!(comes(&mut guard, at(100_002), remote(1, 80), 2), None);
    guard.forget();
    assert!(comes(&mut guard, at(100_003), remote(1, 80), 2).is_some());
}

/// Two hosts behind one gateway that hairpins, each with an external endpoint of its own; host 3 sends to that of host 2.
fn between_hosts(hairpin: Hairpin, verdict: &Verdict) -> (Guard, Option<String>) {
    let mut guard = Guard::new(NatConfig { hairpin, ..rfc_strict() });
    assert_eq!(goes(&mut guard, at(1), 2, OUTER, remote(1, 80)), None);
    assert_eq!(goes(&mut guard, at(1), 3, OTHER, remote(1, 80)), None);
    let wrong = guard.judge(at(2), Side::Inside, Arrived::new(&packet(inside(3), OUTER)), verdict);
    (guard, wrong)
}

/// The external endpoint of host 3, at another address than that of host 2 as in a pool, which address-dependent filters tell
/// apart.
const OTHER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 2), 40_000);

/// Host 2 sends to host 3, and it arrives.
fn answers(guard: &mut Guard) -> Option<String> {
    let before = Arrived::new(&packet(inside(2), OTHER));
    guard.judge(at(3), Side::Inside, before, &Verdict::Forward(Side::Inside, packet(OUTER, inside(3))))
}

#[test]
fn what_only_another_hosts_filter_held_begins_a_flow_of_its_sender_and_nothing_else_does() {
    let answer = Verdict::Forward(Side::Inside, packet(OUTER, inside(3)));
    for (verdict, begins) in [
        (Verdict::Drop(DropReason::Filtered), true),
        (Verdict::Drop(DropReason::NoMapping), true),
        (answer, true),
        (Verdict::Drop(DropReason::HostLimit), false),
        (Verdict::Drop(DropReason::FirstPacketLost), false),
        (Verdict::Drop(DropReason::Invalid), false),
        (Verdict::Reply(Side::Inside, packet(OUTER, inside(3))), false),
    ] {
        let (mut guard, wrong) = between_hosts(Hairpin::ExternalSource, &verdict);
        assert_eq!(wrong, None, "{verdict:?}");
        assert_eq!(answers(&mut guard).is_none(), begins, "{verdict:?}");
    }
    let (mut guard, _) = between_hosts(Hairpin::Drop, &Verdict::Drop(DropReason::Filtered));
    assert!(answers(&mut guard).is_some(), "a gateway that does not hairpin begins nothing");
}

#[test]
fn what_is_dropped_on_its_way_to_the_internet_begins_no_flow() {
    let mut guard = Guard::new(rfc_strict());
    assert_eq!(goes(&mut guard, at(1), 2, OUTER, remote(1, 80)), None);
    let before = Arrived::new(&packet(inside(2), remote(2, 80)));
    assert_eq!(guard.judge(at(1), Side::Inside, before, &Verdict::Drop(DropReason::Filtered)), None);
    assert!(comes(&mut guard, at(2), remote(2, 80), 2).is_some());
}

#[test]
fn an_answer_in_the_name_of_another_host_takes_no_port_of_it() {
    let answer = Verdict::Forward(Side::Inside, packet(OUTER, inside(3)));
    let (mut guard, wrong) = between_hosts(Hairpin::ExternalSource, &answer);
    assert_eq!(wrong, None);
    assert_eq!(comes(&mut guard, at(3), remote(1, 80), 2), None);
    assert!(comes(&mut guard, at(3), remote(1, 80), 3).is_some(), "host 3 has no part in that endpoint");
}

#[test]
fn ipv6_is_let_in_where_it_is_open_or_answers() {
    let ends: [SocketAddr; 2] =
        [([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 5).into(), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2], 6).into()];
    let packet = |from: usize| Packet::udp(ends[from], ends[1 - from], b"hello");
    for (rule, unasked, asked) in [(Ipv6::Open, true, true), (Ipv6::Stateful, false, true), (Ipv6::Drop, false, false)]
    {
        let mut config = rfc_ideal();
        config.ipv6 = rule;
        let mut guard = Guard::new(config);
        let mut judge = |from: usize, side, to| {
            guard.judge(at(1), side, Arrived::new(&packet(from)), &Verdict::Forward(to, packet(from)))
        };
        assert_eq!(judge(1, Side::Outside, Side::Inside).is_none(), unasked, "{rule:?}");
        assert_eq!(judge(0, Side::Inside, Side::Outside).is_none(), asked, "{rule:?}");
        assert_eq!(judge(1, Side::Outside, Side::Inside).is_none(), asked, "{rule:?}");
    }
}
