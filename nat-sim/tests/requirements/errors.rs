//! RFC 5508 REQ-1, 3 to 8; RFC 5382 REQ-9, 10; RFC 4787 REQ-12 to 14; RFC 1624.

use nat_sim::nat::{Fragments, IcmpErrors, TableLimits};
use nat_sim::packet::Echo;

use super::*;

/// The packet that HOST has sent to REMOTE, as it left, and its gateway.
fn sent(config: NatConfig) -> (Gate, Packet) {
    let mut gate = Gate::new(config);
    match gate.out(HOST, REMOTE, SYN) {
        Verdict::Forward(_, packet) => (gate, packet),
        other => panic!("{other:?}"),
    }
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(9, 9, 9, last)
}

#[test]
fn icmp_1_an_error_leaves_the_session() {
    for preset in preset::ALL {
        let (mut gate, packet) = sent((preset.config)());
        let before = gate.rows();
        gate.receive(packet.unreachable_reply(address(9), 3).expect("an error"));
        assert_eq!(gate.rows(), before, "{}", preset.name);
    }
    let (mut broken, packet) = sent(NatConfig { icmp_errors: IcmpErrors::KillSession, ..preset::rfc_ideal() });
    broken.receive(packet.unreachable_reply(address(9), 3).expect("an error"));
    assert!(broken.rows().is_empty(), "broken on purpose");
}

#[test]
fn icmp_2_an_inbound_error_reaches_the_host_with_its_own_packet() {
    let (mut gate, packet) = sent(preset::linux_masq_drop());
    // From a router on the way, too.
    for (from, code) in [(address(9), 3), (address(77), 1), (address(78), 13)] {
        match gate.receive(packet.unreachable_reply(from, code).expect("an error")) {
            Verdict::Forward(Side::Inside, error) => {
                let told = error.icmp_error().expect("an error");
                assert_eq!((told.kind, told.code), (3, code));
                assert_eq!((told.quoted.source, told.quoted.destination), (at(HOST), at(REMOTE)));
                assert_eq!(error.destination(), std::net::IpAddr::from([10, 0, 0, 2]));
                assert_eq!(error.source(), std::net::IpAddr::V4(from));
                assert!(error.checksums_are_valid());
            }
            other => panic!("{other:?}"),
        }
    }
    let stray = Packet::tcp(SocketAddrV4::new(EXTERNAL, 5), at(REMOTE), SYN, &[]);
    let stray = stray.unreachable_reply(address(9), 3).expect("an error");
    assert_eq!(gate.receive(stray), Verdict::Drop(DropReason::NoMapping));
    let (mut deaf, packet) = sent(NatConfig { icmp_errors: IcmpErrors::Ignore, ..preset::rfc_ideal() });
    let error = packet.unreachable_reply(address(9), 3).expect("an error");
    assert_eq!(deaf.receive(error), Verdict::Drop(DropReason::IcmpIgnored));
}

#[test]
fn icmp_3_an_outbound_error_shows_the_external_endpoint() {
    let mut gate = Gate::new(preset::linux_masq_drop());
    let external = gate.udp_open(HOST, REMOTE);
    let Verdict::Forward(_, delivered) = gate.udp_back(REMOTE, external) else { panic!("dropped") };
    let error = delivered.unreachable_reply([10, 0, 0, 2].into(), 3).expect("an error");
    match gate.send(error) {
        Verdict::Forward(Side::Outside, error) => {
            let told = error.icmp_error().expect("an error").quoted;
            assert_eq!((told.source, told.destination), (at(REMOTE), external));
            assert_eq!(error.source(), std::net::IpAddr::V4(EXTERNAL));
            assert!(error.checksums_are_valid());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn icmp_4_errors_with_wrong_checksums_are_dropped() {
    let (mut gate, packet) = sent(preset::rfc_ideal());
    let error = packet.unreachable_reply(address(9), 3).expect("an error");
    let damaged = |at: usize| {
        let mut bytes = error.bytes().to_vec();
        bytes[at] ^= 0x55;
        Packet::parse(bytes).expect("whole")
    };
    assert_eq!(gate.receive(damaged(22)), Verdict::Drop(DropReason::BadChecksum), "outer");
    assert_eq!(gate.receive(damaged(38)), Verdict::Drop(DropReason::BadChecksum), "quoted header");
    // The quoted transport checksum is beyond the 8 bytes, and not looked at.
    assert!(is_error_inside(&gate.receive(error.clone())));
}

fn is_error_inside(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Forward(Side::Inside, packet) if packet.icmp_error().is_some())
}

#[test]
fn icmp_5_an_error_neither_refreshes_nor_deletes() {
    let (mut gate, packet) = sent(preset::rfc_ideal());
    let before = gate.rows();
    gate.wait(secs(100)).receive(packet.unreachable_reply(address(9), 1).expect("an error"));
    assert_eq!(gate.rows(), before);
}

#[test]
fn icmp_6_a_hairpinned_error_reaches_its_host() {
    let mut gate = Gate::new(preset::rfc_ideal());
    let theirs = gate.udp_open("10.0.0.3:5000", "8.8.8.8:1");
    let knock = Packet::udp(at(HOST).into(), theirs.into(), b"x");
    let Verdict::Forward(Side::Inside, delivered) = gate.send(knock) else { panic!("not hairpinned") };
    let error = delivered.unreachable_reply([10, 0, 0, 3].into(), 3).expect("an error");
    match gate.send(error) {
        Verdict::Forward(Side::Inside, error) => {
            let told = error.icmp_error().expect("an error").quoted;
            assert_eq!((told.source, told.destination), (at(HOST), theirs));
            assert_eq!(error.destination(), std::net::IpAddr::from([10, 0, 0, 2]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn icmp_7_a_flow_without_room_is_refused_by_icmp() {
    let limits = TableLimits { sessions_max: 1, ..preset::rfc_ideal().limits };
    let mut gate = Gate::new(NatConfig { limits, ..preset::rfc_ideal() });
    gate.open(HOST, REMOTE);
    assert_eq!(icmp(&gate.out(HOST, "8.8.8.8:1", SYN)), Some((Side::Inside, 3, 13)));
}

#[test]
fn icmp_8_echo_identifiers_are_mapped_endpoint_independently() {
    let mut gate = Gate::new(preset::rfc_ideal());
    let ask = |gate: &mut Gate, host: u8, remote: u8, identifier| {
        let echo = Echo { is_request: true, identifier, sequence: 1 };
        let packet = Packet::echo([10, 0, 0, host].into(), address(remote), echo, b"x");
        external(&gate.send(packet)).expect("out").port()
    };
    let mine = ask(&mut gate, 2, 1, 7);
    assert_eq!(mine, ask(&mut gate, 2, 2, 7), "REQ-1a");
    let theirs = ask(&mut gate, 3, 1, 7);
    assert_ne!(mine, theirs);
    let reply = Echo { is_request: false, identifier: theirs, sequence: 1 };
    let verdict = gate.receive(Packet::echo(address(1), EXTERNAL, reply, b"x"));
    assert_eq!(internal(&verdict), Some(at("10.0.0.3:7")));
    assert_eq!(gate.receive(Packet::echo(address(3), EXTERNAL, reply, b"x")), Verdict::Drop(DropReason::Filtered));
    let knock = Echo { is_request: true, identifier: 9, sequence: 1 };
    let answer = gate.receive(Packet::echo(address(1), EXTERNAL, knock, b"x"));
    assert!(
        matches!(answer, Verdict::Reply(Side::Outside, packet) if packet.as_echo().is_some_and(|echo| !echo.is_request))
    );
}

#[test]
fn frag_1_fragments_follow_the_first_in_any_order() {
    let packet = Packet::udp(at(HOST).into(), at(REMOTE).into(), &[7; 100]);
    let parts = packet.fragments(40, 1);
    let mut gate = Gate::new(preset::rfc_ideal());
    assert_eq!(gate.send(parts[1].clone()), Verdict::Held);
    let Verdict::Forward(_, first) = gate.send(parts[0].clone()) else { panic!("dropped") };
    let Some(Verdict::Forward(_, second)) = gate.nat.next_verdict() else { panic!("it waited without success") };
    let Verdict::Forward(_, third) = gate.send(parts[2].clone()) else { panic!("dropped") };
    let whole = Packet::reassembled(&[third, first.clone(), second]).expect("all parts");
    assert!(whole.checksums_are_valid());
    assert_eq!(whole.flow().map(|flow| flow.source), first.flow().map(|flow| flow.source));
    assert_eq!(whole.payload(), [7; 100]);
    // In order only, and not at all.
    let mut in_order = Gate::new(NatConfig { fragments: Fragments::InOrder, ..preset::rfc_ideal() });
    assert_eq!(in_order.send(parts[1].clone()), Verdict::Drop(DropReason::Fragment));
    assert!(is_out(&in_order.send(parts[0].clone())));
    assert!(matches!(in_order.send(parts[1].clone()), Verdict::Forward(..)));
    assert_eq!(Gate::new(preset::azure_natgw()).send(parts[0].clone()), Verdict::Drop(DropReason::Fragment));
    let tcp = Packet::tcp(at(HOST), at(REMOTE), SYN, &[7; 100]).fragments(40, 2);
    assert_eq!(
        Gate::new(preset::aws_natgw()).send(tcp[0].clone()),
        Verdict::Drop(DropReason::Fragment),
        "AWS: TCP only"
    );
    assert!(is_out(&Gate::new(preset::aws_natgw()).send(parts[0].clone())));
}

#[test]
fn frag_1_a_packet_that_is_too_big_is_cut_or_refused() {
    let config = NatConfig { mtu: 1280, ..preset::rfc_ideal() };
    let whole = Packet::udp(at(HOST).into(), at(REMOTE).into(), &[7; 3000]);
    assert!(whole.forbids_fragments());
    let mut gate = Gate::new(config);
    let verdict = gate.send(whole.clone());
    assert_eq!(icmp(&verdict), Some((Side::Inside, 3, 4)));
    let Verdict::Reply(_, error) = verdict else { panic!("no reply") };
    assert_eq!(error.bytes()[26..28], 1280u16.to_be_bytes(), "RFC 1191: the MTU of the next hop");
    assert!(error.checksums_are_valid() && gate.rows().is_empty());
    let Verdict::Forward(_, first) = gate.send(whole.allowing_fragments()) else { panic!("dropped") };
    let mut parts = vec![first];
    parts.extend(std::iter::from_fn(|| match gate.nat.next_verdict()? {
        Verdict::Forward(Side::Outside, part) => Some(part),
        other => panic!("{other:?}"),
    }));
    assert!(parts.iter().all(|part| part.bytes().len() <= 1280 && part.checksums_are_valid()));
    assert_eq!(parts.len(), 3, "RFC 791 §3.2: as few as there can be");
    let whole = Packet::reassembled(&parts).expect("all parts");
    assert!(whole.payload() == [7; 3000] && whole.checksums_are_valid());
}

#[test]
fn frag_1_memory_for_fragments_is_bounded() {
    let mut gate = Gate::new(preset::rfc_ideal());
    let mut full = 0;
    for identification in 0..400 {
        let packet = Packet::udp(at(HOST).into(), at(REMOTE).into(), &[7; 1400]);
        let verdict = gate.send(packet.fragments(704, identification)[1].clone());
        full += u32::from(verdict == Verdict::Drop(DropReason::FragmentsFull));
    }
    assert_eq!(full, 400 - 256);
    gate.wait(secs(30));
    let dropped = gate.nat.tick(gate.now);
    assert_eq!(dropped, vec![Verdict::Drop(DropReason::FragmentTimeout); 256]);
}

#[test]
fn cks_1_every_rewrite_keeps_checksums() {
    for preset in preset::ALL {
        let mut gate = Gate::new((preset.config)());
        let echo = Echo { is_request: true, identifier: 7, sequence: 1 };
        for packet in [
            Packet::tcp(at(HOST), at(REMOTE), SYN, b"odd"),
            Packet::udp(at(HOST).into(), at(REMOTE).into(), b"odd"),
            Packet::echo([10, 0, 0, 2].into(), address(9), echo, b"odd"),
        ] {
            if let Verdict::Forward(_, out) = gate.send(packet) {
                assert!(out.checksums_are_valid(), "{}", preset.name);
            }
        }
    }
}

#[test]
fn cks_2_a_udp_checksum_of_zero_stays_zero() {
    let mut bytes = Packet::udp(at(HOST).into(), at(REMOTE).into(), b"x").bytes().to_vec();
    bytes[26..28].fill(0);
    let mut gate = Gate::new(preset::linux_masq_drop());
    let Verdict::Forward(_, out) = gate.send(Packet::parse(bytes).expect("whole")) else { panic!("dropped") };
    assert_eq!(out.bytes()[26..28], [0, 0]);
}

#[test]
fn cks_3_a_wrong_checksum_makes_no_state_where_it_is_verified() {
    let mut bytes = Packet::tcp(at(HOST), at(REMOTE), SYN, &[]).bytes().to_vec();
    bytes[36] ^= 0x55;
    let mut gate = Gate::new(NatConfig { verifies_checksums: true, ..preset::rfc_ideal() });
    assert_eq!(gate.send(Packet::parse(bytes).expect("whole")), Verdict::Drop(DropReason::BadChecksum));
    assert!(gate.rows().is_empty());
}

#[test]
fn a_hop_limit_that_runs_out_is_answered() {
    let mut gate = Gate::new(preset::rfc_ideal());
    let dying = Packet::tcp(at(HOST), at(REMOTE), SYN, &[]).with_hop_limit(1);
    assert_eq!(icmp(&gate.send(dying)), Some((Side::Inside, 11, 0)));
    let error =
        Packet::tcp(at(REMOTE), at(HOST), SYN, &[]).unreachable_reply([10, 0, 0, 2].into(), 3).expect("an error");
    let (mut gate, sent) = sent(preset::rfc_ideal());
    drop(error);
    let dying = sent.unreachable_reply(address(9), 3).expect("an error").with_hop_limit(1);
    assert_eq!(gate.receive(dying), Verdict::Drop(DropReason::HopLimit));
}
