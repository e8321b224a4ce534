//! Goal: the translator does what RFC 4787 and RFC 5382 say, and what Linux was measured to do.
//! Method: single claims in virtual time, and random scripts against invariants.
#![expect(clippy::wildcard_enum_match_arm, reason = "what is not expected fails, whatever it is")]

use std::time::Duration;

use proptest::prelude::*;

use super::preset::*;
use super::*;

const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const SYN: Segment = Segment {
    syn: true,
    ack: false,
    fin: false,
    rst: false,
    sequence: 1000,
    acknowledgement: 0,
    window: 64_000,
    payload: 0,
};
const ACK: Segment = Segment { syn: false, ack: true, acknowledgement: 1, ..SYN };

fn at(text: &str) -> SocketAddrV4 {
    text.parse().expect("an endpoint")
}

fn seconds(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

fn nat(config: NatConfig) -> Nat {
    Nat::new(config, EXTERNAL, 1)
}

fn eim(filtering: Filtering) -> NatConfig {
    NatConfig { mapping: Mapping::EndpointIndependent, filtering, allocation: Allocation::Random, ..linux_masq_drop() }
}

/// Sends a SYN from inside and returns the external endpoint.
fn open(nat: &mut Nat, now: Instant, from: &str, to: &str) -> SocketAddrV4 {
    match nat.outbound(now, Packet::tcp(at(from), at(to), SYN, &[])) {
        Verdict::Forward(Side::Outside, packet) => packet.flow().expect("tcp").source,
        other => panic!("{from} to {to}: {other:?}"),
    }
}

fn knock(nat: &mut Nat, now: Instant, from: &str, to: SocketAddrV4) -> Verdict {
    nat.inbound(now, Packet::tcp(at(from), to, SYN, &[]))
}

fn admits(nat: &mut Nat, now: Instant, from: &str, to: SocketAddrV4) -> bool {
    matches!(knock(nat, now, from, to), Verdict::Forward(Side::Inside, _))
}

#[test]
fn map_1_mapping_depends_on_what_it_says() {
    for (mapping, other_port_same, other_address_same) in [
        (Mapping::EndpointIndependent, true, true),
        (Mapping::AddressDependent, true, false),
        (Mapping::AddressAndPortDependent, false, false),
        (Mapping::PreserveOverlap, true, true),
    ] {
        let mut nat = nat(NatConfig { mapping, ..eim(Filtering::EndpointIndependent) });
        let first = open(&mut nat, Instant::ZERO, "10.0.0.2:4000", "8.8.8.8:1");
        let other_port = open(&mut nat, Instant::ZERO, "10.0.0.2:4000", "8.8.8.8:2");
        let other_address = open(&mut nat, Instant::ZERO, "10.0.0.2:4000", "9.9.9.9:1");
        assert_eq!((first == other_port, first == other_address), (other_port_same, other_address_same), "{mapping:?}");
    }
}

#[test]
fn fil_1_filter_admits_what_it_says() {
    for (filtering, other_port, other_address) in [
        (Filtering::EndpointIndependent, true, true),
        (Filtering::AddressDependent, true, false),
        (Filtering::AddressAndPortDependent, false, false),
    ] {
        let mut nat = nat(eim(filtering));
        let external = open(&mut nat, Instant::ZERO, "10.0.0.2:4000", "8.8.8.8:1");
        assert!(admits(&mut nat, Instant::ZERO, "8.8.8.8:1", external));
        assert_eq!(admits(&mut nat, Instant::ZERO, "8.8.8.8:2", external), other_port, "{filtering:?}");
        assert_eq!(admits(&mut nat, Instant::ZERO, "9.9.9.9:1", external), other_address, "{filtering:?}");
    }
}

#[test]
fn map_7_linux_shares_ports_until_they_clash_and_then_sticks() {
    let mut nat = nat(linux_masq_drop());
    assert_eq!(open(&mut nat, Instant::ZERO, "10.0.0.2:40000", "8.8.8.8:10000").port(), 40_000);
    assert_eq!(open(&mut nat, Instant::ZERO, "10.0.0.3:40000", "8.8.8.8:10001").port(), 40_000, "no clash");
    let clashed = open(&mut nat, Instant::ZERO, "10.0.0.4:40000", "8.8.8.8:10000").port();
    assert!(clashed != 40_000 && clashed >= 1024);
    assert_eq!(open(&mut nat, Instant::ZERO, "10.0.0.4:40000", "8.8.8.8:10002").port(), clashed, "it sticks");
    let reply = Packet::tcp(at("8.8.8.8:10001"), SocketAddrV4::new(EXTERNAL, 40_000), ACK, &[]);
    match nat.inbound(Instant::ZERO, reply) {
        Verdict::Forward(Side::Inside, packet) => {
            assert_eq!(packet.flow().expect("tcp").destination, at("10.0.0.3:40000"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn ports_are_preserved_counted_or_random_as_configured() {
    let ports = |allocation| {
        let mapping = Mapping::AddressAndPortDependent;
        let mut nat = nat(NatConfig { allocation, mapping, ..linux_masq_drop() });
        let open = |i: u16| open(&mut nat, Instant::ZERO, "10.0.0.2:4000", &format!("8.8.8.8:{}", i + 1)).port();
        (0..5).map(open).collect::<Vec<_>>()
    };
    assert_eq!(ports(Allocation::Sequential), [1024, 1025, 1026, 1027, 1028]);
    assert_eq!(ports(Allocation::Preserve)[0], 4000);
    let random = ports(Allocation::Random);
    assert!(random.windows(2).any(|pair| pair[1].abs_diff(pair[0]) > 1000), "{random:?}");
}

#[test]
fn fil_7_unsolicited_syns_are_answered_as_configured() {
    let stranger = |config| {
        let mut nat = nat(config);
        let external = open(&mut nat, Instant::ZERO, "10.0.0.2:4000", "8.8.8.8:1");
        let before = nat.snapshot(Instant::ZERO);
        let verdict = knock(&mut nat, Instant::ZERO, "9.9.9.9:9", external);
        assert_eq!(nat.snapshot(Instant::ZERO), before, "FIL-8: a refused packet changes nothing");
        verdict
    };
    assert_eq!(stranger(linux_masq_drop()), Verdict::Drop(DropReason::Filtered));
    match stranger(linux_masq_rst()) {
        Verdict::Reply(Side::Outside, packet) => {
            let segment = packet.segment().expect("tcp");
            assert!(segment.rst && segment.ack && segment.acknowledgement == SYN.sequence + 1);
        }
        other => panic!("{other:?}"),
    }
    match stranger(linux_icmp()) {
        Verdict::Reply(Side::Outside, packet) => {
            let error = packet.icmp_error().expect("an error");
            assert_eq!((error.kind, error.code, error.quoted.source), (3, 3, at("9.9.9.9:9")));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn fil_3_to_5_a_held_syn_is_answered_after_6_s_unless_an_outbound_one_meets_it() {
    let strict = NatConfig { filtering: Filtering::AddressAndPortDependent, ..rfc_ideal() };
    let held = |outbound_at: Option<Duration>| {
        let mut nat = nat(strict);
        let external = open(&mut nat, Instant::ZERO, "10.0.0.2:4000", "8.8.8.8:1");
        assert_eq!(knock(&mut nat, Instant::ZERO, "9.9.9.9:9", external), Verdict::Held);
        assert_eq!(nat.next_deadline(), Some(seconds(6)));
        assert!(nat.tick(seconds(6) - Duration::from_nanos(1)).is_empty());
        if let Some(after) = outbound_at {
            open(&mut nat, Instant::ZERO + after, "10.0.0.2:4000", "9.9.9.9:9");
        }
        nat.tick(seconds(6)).len()
    };
    assert_eq!(held(None), 1, "exactly one answer");
    assert_eq!(held(Some(Duration::from_millis(5900))), 0, "REQ-4: silently dropped");
}

#[test]
fn held_syns_are_bounded() {
    let mut nat = nat(rfc_strict());
    let external = open(&mut nat, Instant::ZERO, "10.0.0.2:4000", "8.8.8.8:1");
    let verdicts: Vec<_> =
        (1..=1100u16).map(|port| knock(&mut nat, Instant::ZERO, &format!("9.9.9.9:{port}"), external)).collect();
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Held).count(), HELD_MAX);
    assert_eq!(verdicts[1099], Verdict::Drop(DropReason::HoldQueueFull));
}

#[test]
fn tcp_7_an_rst_that_answers_the_first_syn_closes_linuxs_hole_and_no_other() {
    for (config, stays_open) in [(linux_masq_drop(), false), (aws_lambda(), true)] {
        let mut nat = nat(config);
        let external = open(&mut nat, Instant::ZERO, "10.0.0.2:4000", "9.9.9.9:9");
        let reset = Segment { rst: true, ack: true, syn: false, ..SYN };
        let verdict = nat.inbound(Instant::ZERO, Packet::tcp(at("9.9.9.9:9"), external, reset, &[]));
        assert!(matches!(verdict, Verdict::Forward(Side::Inside, _)), "the host is told");
        assert_eq!(admits(&mut nat, Instant::ZERO, "9.9.9.9:9", external), stays_open);
    }
}

#[test]
fn icmp_1_and_2_errors_reach_the_host_and_change_nothing() {
    let mut nat = nat(linux_masq_drop());
    let external = open(&mut nat, Instant::ZERO, "10.0.0.2:4000", "9.9.9.9:9");
    let before = nat.snapshot(Instant::ZERO);
    let quoted = Packet::tcp(external, at("9.9.9.9:9"), SYN, &[]);
    let error = quoted.unreachable_reply(Ipv4Addr::new(9, 9, 9, 9), 3);
    match nat.inbound(Instant::ZERO, error) {
        Verdict::Forward(Side::Inside, packet) => {
            assert_eq!(packet.icmp_error().expect("an error").quoted.source, at("10.0.0.2:4000"));
            assert_eq!(packet.destination(), Ipv4Addr::new(10, 0, 0, 2));
            assert!(packet.checksums_are_valid());
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(nat.snapshot(Instant::ZERO), before);
    let stray = Packet::tcp(external, at("7.7.7.7:7"), SYN, &[]).unreachable_reply(Ipv4Addr::new(7, 7, 7, 7), 3);
    assert_eq!(nat.inbound(Instant::ZERO, stray), Verdict::Drop(DropReason::NoMapping));
}

#[test]
fn tmr_1_and_7_sessions_expire_exactly() {
    let nano = Duration::from_nanos(1);
    let mut nat = nat(rfc_strict());
    let external = open(&mut nat, Instant::ZERO, "10.0.0.2:4000", "9.9.9.9:9");
    let syn_ack = Packet::tcp(at("9.9.9.9:9"), external, Segment { ack: true, ..SYN }, &[]);
    assert!(matches!(nat.inbound(seconds(240) - nano, syn_ack), Verdict::Forward(..)), "TMR-2");
    nat.outbound(seconds(240), Packet::tcp(at("10.0.0.2:4000"), at("9.9.9.9:9"), ACK, &[]));
    let data = Packet::tcp(at("9.9.9.9:9"), external, ACK, b"x");
    assert!(matches!(nat.clone().inbound(seconds(240 + 7440) - nano, data.clone()), Verdict::Forward(..)));
    assert_eq!(nat.inbound(seconds(240 + 7440), data), Verdict::Drop(DropReason::NoMapping));
}

#[test]
fn hp_1_and_2_hairpin_is_external_or_refused() {
    let mut nat1 = nat(rfc_ideal());
    let external = open(&mut nat1, Instant::ZERO, "10.0.0.3:4000", "8.8.8.8:1");
    let packet = Packet::tcp(at("10.0.0.2:5000"), external, SYN, &[]);
    match nat1.outbound(Instant::ZERO, packet) {
        Verdict::Forward(Side::Inside, packet) => {
            let flow = packet.flow().expect("tcp");
            assert_eq!((*flow.source.ip(), flow.destination), (EXTERNAL, at("10.0.0.3:4000")));
        }
        other => panic!("{other:?}"),
    }
    let mut nat2 = nat(linux_masq_drop());
    let external = open(&mut nat2, Instant::ZERO, "10.0.0.3:4000", "8.8.8.8:1");
    let verdict = nat2.outbound(Instant::ZERO, Packet::tcp(at("10.0.0.2:5000"), external, SYN, &[]));
    assert!(matches!(verdict, Verdict::Reply(Side::Inside, packet) if packet.segment().is_some_and(|s| s.rst)));
}

#[test]
fn exh_1_a_full_gateway_refuses_and_never_evicts() {
    let mut nat = nat(NatConfig { sessions_max: 2, ..linux_masq_drop() });
    let first = open(&mut nat, Instant::ZERO, "10.0.0.2:1", "9.9.9.9:1");
    open(&mut nat, Instant::ZERO, "10.0.0.2:2", "9.9.9.9:1");
    let third = nat.outbound(Instant::ZERO, Packet::tcp(at("10.0.0.2:3"), at("9.9.9.9:1"), SYN, &[]));
    assert_eq!(third, Verdict::Drop(DropReason::Exhausted));
    assert!(admits(&mut nat, Instant::ZERO, "9.9.9.9:1", first));
}

#[test]
fn life_1_a_reboot_forgets_everything() {
    let mut nat = nat(linux_masq_drop());
    let external = open(&mut nat, Instant::ZERO, "10.0.0.2:1", "9.9.9.9:1");
    nat.reboot();
    assert!(!admits(&mut nat, Instant::ZERO, "9.9.9.9:1", external));
    assert!(nat.snapshot(Instant::ZERO).is_empty());
}

#[test]
fn an_expired_hop_limit_and_foreign_packets_are_dropped() {
    let mut nat = nat(linux_masq_drop());
    let mut packet = Packet::tcp(at("10.0.0.2:1"), at("9.9.9.9:1"), SYN, &[]);
    while packet.decrement_hop_limit() {}
    assert_eq!(nat.outbound(Instant::ZERO, packet), Verdict::Drop(DropReason::HopLimit));
    let foreign = Packet::tcp(at("9.9.9.9:1"), at("9.9.9.8:1"), SYN, &[]);
    assert_eq!(nat.inbound(Instant::ZERO, foreign), Verdict::Drop(DropReason::NotMine));
    let nonsense = Packet::tcp(at("10.0.0.2:1"), at("9.9.9.9:1"), Segment { rst: true, syn: false, ..SYN }, &[]);
    assert_eq!(nat.outbound(Instant::ZERO, nonsense), Verdict::Drop(DropReason::InvalidFlags), "TCP-11");
}

/// One line of a random script.
#[derive(Clone, Copy, Debug)]
struct Move {
    outbound: bool,
    host: u8,
    port: u16,
    remote: u8,
    remote_port: u16,
    flags: u8,
    wait: Duration,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let waits = prop_oneof![Just(0u64), Just(1), Just(9_999_999_999), Just(10_000_000_000), Just(120_000_000_000)];
    let one = (any::<bool>(), 1u8..4, 1u16..5, 1u8..4, 1u16..4, 0u8..6, waits).prop_map(
        |(outbound, host, port, remote, remote_port, flags, wait)| Move {
            outbound,
            host,
            port: port + 40_000,
            remote,
            remote_port,
            flags,
            wait: Duration::from_nanos(wait),
        },
    );
    proptest::collection::vec(one, 1..60)
}

fn configs() -> impl Strategy<Value = NatConfig> {
    let small = |mut config: NatConfig, small: bool| {
        if small {
            config.ports = (40_000, 40_006);
        }
        config
    };
    (0..ALL.len(), any::<bool>()).prop_map(move |(index, is_small)| small((ALL[index].config)(), is_small))
}

fn play(nat: &mut Nat, now: &mut Instant, step: Move) -> (Packet, Verdict) {
    *now += step.wait;
    let segment = match step.flags {
        0 | 1 => SYN,
        2 => Segment { ack: true, ..SYN },
        3 => ACK,
        4 => Segment { fin: true, ..ACK },
        _ => Segment { rst: true, ..ACK },
    };
    let remote = SocketAddrV4::new([9, 9, 9, step.remote].into(), step.remote_port);
    if step.outbound {
        let internal = SocketAddrV4::new([10, 0, 0, step.host].into(), step.port);
        let packet = Packet::tcp(internal, remote, segment, b"payload");
        (packet.clone(), nat.outbound(*now, packet))
    } else {
        let packet = Packet::tcp(remote, SocketAddrV4::new(EXTERNAL, step.port), segment, b"payload");
        (packet.clone(), nat.inbound(*now, packet))
    }
}

proptest! {
    #[test]
    fn p_1_to_12_invariants_hold_for_every_preset(config in configs(), script in moves(), seed: u64) {
        let mut nat = Nat::new(config, EXTERNAL, seed);
        let mut now = Instant::ZERO;
        for step in script {
            let before = nat.snapshot(now + step.wait);
            let (packet, verdict) = play(&mut nat, &mut now, step);
            let after = nat.snapshot(now);
            match &verdict {
                Verdict::Forward(side, out) => {
                    prop_assert!(out.checksums_are_valid(), "P-4");
                    if *side == Side::Outside {
                        let (sent, flow) = (packet.flow().expect("tcp"), out.flow().expect("tcp"));
                        prop_assert_eq!(*flow.source.ip(), EXTERNAL, "P-22: no inside address leaks");
                        // P-3: the way back leads to where it came from.
                        let back = Packet::tcp(flow.destination, flow.source, ACK, b"payload");
                        let is_live = after.iter().any(|row| row.remote == flow.destination && row.external == flow.source);
                        match nat.clone().inbound(now, back) {
                            Verdict::Forward(Side::Inside, back) => {
                                prop_assert_eq!(back.flow().expect("tcp").destination, sent.source);
                            }
                            other => prop_assert!(!is_live, "{:?}", other),
                        }
                    }
                }
                Verdict::Reply(_, out) => prop_assert!(out.checksums_are_valid()),
                Verdict::Held | Verdict::Drop(_) => {}
            }
            if !step.outbound && !matches!(verdict, Verdict::Forward(..)) {
                prop_assert_eq!(&before, &after, "P-6: a refused packet changes nothing");
            }
            // P-2: no two sessions share an external endpoint towards one remote.
            let mut keys: Vec<_> = after.iter().map(|row| (row.external, row.remote)).collect();
            keys.dedup();
            prop_assert_eq!(keys.len(), after.len());
            if config.mapping != Mapping::PreserveOverlap {
                // P-1: no external port serves two internal endpoints.
                for pair in after.windows(2).filter(|pair| pair[0].external == pair[1].external) {
                    prop_assert_eq!(pair[0].internal, pair[1].internal);
                }
            }
            if config.mapping == Mapping::EndpointIndependent {
                // P-7: one external endpoint for one internal one.
                for (a, b) in after.iter().flat_map(|a| after.iter().map(move |b| (a, b))) {
                    prop_assert!(a.internal != b.internal || a.external == b.external);
                }
            }
            prop_assert!(nat.sessions.len() <= config.sessions_max, "P-12");
            prop_assert_eq!(nat.outbound.len(), nat.sessions.len());
            prop_assert_eq!(nat.deadlines.len(), nat.sessions.len());
            let mapped: usize = nat.mappings.values().map(|mapping| mapping.sessions).sum();
            prop_assert_eq!(mapped, nat.sessions.len(), "P-14: nothing leaks");
            prop_assert_eq!(nat.ports.values().map(BTreeSet::len).sum::<usize>(), nat.mappings.len());
        }
    }

    #[test]
    fn p_17_19_and_21_same_script_same_verdicts(config in configs(), script in moves(), seed: u64, shift in 0u64..1 << 40) {
        let mut plain = Nat::new(config, EXTERNAL, seed);
        let mut ticked = Nat::new(config, EXTERNAL, seed);
        let (mut now, mut later) = (Instant::ZERO, Instant::from_nanos(shift));
        for step in script {
            let (_, expected) = play(&mut plain, &mut now, step);
            // Neither later times nor extra ticks change what can be seen.
            plain.tick(now);
            let (_, verdict) = play(&mut ticked, &mut later, step);
            ticked.tick(later);
            ticked.expire(later);
            prop_assert_eq!(expected, verdict);
        }
    }
}
