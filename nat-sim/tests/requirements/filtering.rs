//! RFC 4787 REQ-8; RFC 5382 REQ-3, 4; RFC 6888 REQ-7; Linux, Azure.

use nat_sim::nat::{Midstream, OnSyn, TableLimits};

use super::*;

#[test]
fn fil_1_the_filter_admits_what_it_says() {
    for (filtering, other_port, other_address) in [
        (Filtering::EndpointIndependent, true, true),
        (Filtering::AddressDependent, true, false),
        (Filtering::AddressAndPortDependent, false, false),
    ] {
        let mut gate = Gate::new(plain(filtering));
        let external = gate.open(HOST, "8.8.8.8:1");
        assert!(gate.admits("8.8.8.8:1", external));
        assert_eq!(gate.admits("8.8.8.8:2", external), other_port, "{filtering:?}");
        assert_eq!(gate.admits("9.9.9.9:1", external), other_address, "{filtering:?}");
    }
}

#[test]
fn fil_2_tcp_and_udp_filter_apart() {
    let mut config = plain(Filtering::AddressAndPortDependent);
    config.udp.filtering = Filtering::EndpointIndependent;
    let mut gate = Gate::new(config);
    let (tcp, udp) = (gate.open(HOST, "8.8.8.8:1"), gate.udp_open(HOST, "8.8.8.8:1"));
    assert!(!gate.admits(REMOTE, tcp));
    assert!(is_in(&gate.udp_back(REMOTE, udp)));
}

/// A gateway that holds SYNs, with a mapping of HOST that REMOTE may not reach.
fn holding() -> (Gate, SocketAddrV4) {
    let config = with_tcp(preset::rfc_ideal(), |tcp| tcp.filtering = Filtering::AddressAndPortDependent);
    let mut gate = Gate::new(config);
    let external = gate.open(HOST, "8.8.8.8:1");
    assert_eq!(gate.back(REMOTE, external, SYN), Verdict::Held);
    (gate, external)
}

#[test]
fn fil_3_an_unsolicited_syn_meets_silence_for_6_s() {
    let (mut gate, _) = holding();
    assert_eq!(gate.nat.next_deadline(), Some(Instant::ZERO + secs(6)));
    gate.wait(secs(6) - NANO);
    assert!(gate.nat.tick(gate.now).is_empty());
}

#[test]
fn fil_4_an_outbound_syn_within_6_s_discards_the_held_one() {
    let (mut gate, _) = holding();
    gate.wait(Duration::from_millis(5900)).open(HOST, REMOTE);
    assert_eq!(gate.nat.next_verdict(), Some(Verdict::Drop(DropReason::HeldAndMatched)));
    gate.wait(secs(1));
    assert!(gate.nat.tick(gate.now).is_empty(), "no ICMP");
}

#[test]
fn fil_5_a_held_syn_is_answered_once_after_6_s_unless_policy_forbids() {
    let (mut gate, external) = holding();
    gate.wait(secs(6));
    let answers = gate.nat.tick(gate.now);
    assert_eq!(answers.iter().filter_map(icmp).collect::<Vec<_>>(), [(Side::Outside, 3, 3)]);
    match &answers[0] {
        Verdict::Reply(_, packet) => {
            let quoted = packet.icmp_error().expect("an error").quoted;
            assert_eq!((quoted.source, quoted.destination), (at(REMOTE), external));
        }
        other => panic!("{other:?}"),
    }
    let mut silent = Gate::new(preset::rfc_strict());
    let external = silent.open(HOST, "8.8.8.8:1");
    assert_eq!(silent.back(REMOTE, external, SYN), Verdict::Held);
    silent.wait(secs(6));
    assert_eq!(silent.nat.tick(silent.now), [Verdict::Drop(DropReason::HeldInVain)]);
}

#[test]
fn fil_6_held_syns_are_bounded() {
    let config = preset::rfc_strict();
    let limits = TableLimits { held_max: 10, ..config.limits };
    let mut gate = Gate::new(NatConfig { limits, ..config });
    let external = gate.open(HOST, "8.8.8.8:1");
    let held = (1..=20).filter(|port| gate.back(&format!("9.9.9.9:{port}"), external, SYN) == Verdict::Held).count();
    assert_eq!(held, 10);
    assert_eq!(gate.back(REMOTE, external, SYN), Verdict::Drop(DropReason::HoldQueueFull));
}

#[test]
fn fil_7_unsolicited_syns_are_answered_as_configured() {
    let stranger = |config| {
        let mut gate = Gate::new(config);
        let external = gate.open(HOST, "8.8.8.8:1");
        gate.back(REMOTE, external, SYN)
    };
    assert_eq!(stranger(preset::linux_masq_drop()), Verdict::Drop(DropReason::Filtered));
    for config in [preset::linux_masq_rst(), preset::openwrt_default(), preset::azure_natgw()] {
        let (side, segment) = reset(&stranger(config)).expect("an RST");
        assert_eq!((side, segment.ack, segment.sequence), (Side::Outside, true, 0));
        assert_eq!((segment.acknowledgement, segment.payload), (SYN.sequence + 1, 0));
    }
    assert_eq!(icmp(&stranger(preset::linux_icmp())), Some((Side::Outside, 3, 3)));
    let mut admin = preset::linux_icmp();
    admin.unsolicited.syn = OnSyn::Icmp { code: 13 };
    assert_eq!(icmp(&stranger(admin)), Some((Side::Outside, 3, 13)));
}

#[test]
fn fil_8_a_refused_packet_creates_and_refreshes_nothing() {
    for preset in preset::ALL.iter().filter(|preset| !["linux_sink", "public", "one_to_one"].contains(&preset.name)) {
        let mut gate = Gate::new((preset.config)());
        let external = gate.open(HOST, "8.8.8.8:1");
        let before = gate.rows();
        let verdict = gate.wait(NANO).back(REMOTE, external, ACK);
        let forwarded = is_in(&verdict);
        assert_eq!(before == gate.rows(), !forwarded, "{}: {verdict:?}", preset.name);
    }
}

#[test]
fn fil_9_a_flow_of_the_gateway_itself_takes_the_port() {
    // UDP to a router whose own stack answers.
    let mut gate = Gate::new(preset::linux_masq_rst());
    let mine = SocketAddrV4::new(EXTERNAL, 4000);
    assert_eq!(icmp(&gate.udp_back(REMOTE, mine)), Some((Side::Outside, 3, 3)));
    assert_ne!(gate.udp_open(HOST, REMOTE).port(), 4000, "the punch fails");
    gate.wait(secs(150));
    assert_eq!(gate.udp_open("10.0.0.3:4000", REMOTE).port(), 4000, "30 s later the port is free");
    // TCP: the answering RST ends the entry at once; a tracker that is not answered keeps it.
    let mut answering = Gate::new(preset::linux_masq_rst());
    assert!(reset(&answering.back(REMOTE, mine, SYN)).is_some());
    assert_eq!(answering.open(HOST, REMOTE).port(), 4000);
    let mut sink = Gate::new(preset::linux_sink());
    assert_eq!(sink.back(REMOTE, mine, SYN), Verdict::Drop(DropReason::NoMapping));
    assert_ne!(sink.open(HOST, REMOTE).port(), 4000);
    assert_eq!(sink.open("10.0.0.3:4000", "8.8.8.8:1").port(), 4000, "towards that remote only");
    sink.wait(secs(120));
    assert_eq!(sink.open("10.0.0.4:4000", "7.7.7.7:1").port(), 4000);
}

#[test]
fn fil_10_azure_resets_unknown_flows_from_either_side() {
    let mut gate = Gate::new(preset::azure_natgw());
    let (side, _) = reset(&gate.out(HOST, REMOTE, ACK)).expect("an RST");
    assert_eq!(side, Side::Inside);
    let (side, _) = reset(&gate.back(REMOTE, SocketAddrV4::new(EXTERNAL, 4000), ACK)).expect("an RST");
    assert_eq!(side, Side::Outside);
}

#[test]
fn fil_11_linux_picks_connections_up_in_the_middle_unless_told_not_to() {
    let mut loose = Gate::new(preset::linux_masq_drop());
    assert!(is_out(&loose.out(HOST, REMOTE, ACK)));
    assert_eq!(loose.rows()[0].expires, Instant::ZERO + secs(300));
    let strict = NatConfig { midstream: Midstream::Drop, ..preset::linux_masq_drop() };
    let verdict = Gate::new(strict).out(HOST, REMOTE, ACK);
    assert!(matches!(verdict, Verdict::Untranslated(Side::Outside, _)), "{verdict:?}");
}
