//! RFC 4787 REQ-9; RFC 5382 REQ-8; RFC 5508 REQ-8; RFC 6888; what gateways do when they run out of
//! room, lose their memory, or are asked for a port.

use nat_sim::nat::{Exhaustion, Hairpin, TableLimits};
use nat_sim::packet::Transport;

use super::*;

#[test]
fn hp_1_a_hairpinned_packet_shows_its_senders_external_endpoint() {
    let mut gate = Gate::new(preset::rfc_ideal());
    let theirs = gate.open("10.0.0.3:4000", "8.8.8.8:1");
    let knock = Packet::tcp(at("10.0.0.2:5000"), theirs, SYN, &[]);
    let Verdict::Forward(Side::Inside, delivered) = gate.send(knock) else { panic!("not hairpinned") };
    let flow = delivered.flow().expect("tcp");
    assert_eq!((*flow.source.ip(), flow.destination), (EXTERNAL, at("10.0.0.3:4000")));
    let answer = Packet::tcp(at("10.0.0.3:4000"), flow.source, SYN_ACK, &[]);
    let Verdict::Forward(Side::Inside, back) = gate.send(answer) else { panic!("no way back") };
    let flow = back.flow().expect("tcp");
    assert_eq!((flow.source, flow.destination), (theirs, at("10.0.0.2:5000")));
    let mut broken = Gate::new(NatConfig { hairpin: Hairpin::InternalSource, ..preset::rfc_ideal() });
    let theirs = broken.open("10.0.0.3:4000", "8.8.8.8:1");
    let verdict = broken.send(Packet::tcp(at("10.0.0.2:5000"), theirs, SYN, &[]));
    let Verdict::Forward(Side::Inside, delivered) = verdict else { panic!("{verdict:?}") };
    assert_eq!(delivered.flow().expect("tcp").source, at("10.0.0.2:5000"), "broken on purpose");
}

#[test]
fn hp_2_linux_does_not_hairpin_its_own_stack_refuses() {
    let mut gate = Gate::new(preset::linux_masq_drop());
    let theirs = gate.open("10.0.0.3:4000", "8.8.8.8:1");
    let verdict = gate.send(Packet::tcp(at("10.0.0.2:5000"), theirs, SYN, &[]));
    assert_eq!(reset(&verdict).map(|(side, _)| side), Some(Side::Inside));
    let mut silent = Gate::new(preset::pf_default());
    let theirs = silent.open("10.0.0.3:4000", "8.8.8.8:1");
    let verdict = silent.send(Packet::tcp(at("10.0.0.2:5000"), theirs, SYN, &[]));
    assert_eq!(verdict, Verdict::Drop(DropReason::NoHairpin));
}

#[test]
fn hp_3_hairpinning_obeys_the_filter() {
    let mut gate = Gate::new(with_tcp(preset::rfc_ideal(), |tcp| tcp.filtering = Filtering::AddressAndPortDependent));
    let (mine, theirs) = (gate.open("10.0.0.2:5000", "8.8.8.8:1"), gate.open("10.0.0.3:4000", "8.8.8.8:1"));
    assert_eq!(gate.send(Packet::tcp(at("10.0.0.2:5000"), theirs, SYN, &[])), Verdict::Held);
    let met = gate.send(Packet::tcp(at("10.0.0.3:4000"), mine, SYN, &[]));
    assert!(is_in(&met), "both have sent: {met:?}");
}

#[test]
fn hp_4_nobody_connects_to_itself() {
    for preset in preset::ALL {
        let mut gate = Gate::new((preset.config)());
        let mine = gate.open(HOST, REMOTE);
        if mine == at(HOST) {
            continue;
        }
        let verdict = gate.send(Packet::tcp(at(HOST), mine, SYN, &[]));
        let refused = matches!(verdict, Verdict::Drop(_) | Verdict::Reply(Side::Inside, _) | Verdict::Held);
        assert!(refused, "{}: {verdict:?}", preset.name);
    }
}

#[test]
fn exh_1_a_full_gateway_refuses_and_never_evicts() {
    for preset in preset::ALL {
        let config = (preset.config)();
        let limits = TableLimits { sessions_max: 2, ..config.limits };
        let mut gate = Gate::new(NatConfig { limits, ..config });
        gate.establish("10.0.0.2:1", REMOTE);
        gate.open("10.0.0.2:2", "8.8.8.8:1");
        let before = gate.rows();
        assert!(!is_out(&gate.out("10.0.0.2:3", "7.7.7.7:1", SYN)), "{}", preset.name);
        assert_eq!(gate.rows(), before, "{}", preset.name);
    }
    let config = preset::rfc_ideal();
    let limits = TableLimits { sessions_max: 1, ..config.limits };
    let mut broken = Gate::new(NatConfig { limits, exhaustion: Exhaustion::EvictAny, ..config });
    broken.establish("10.0.0.2:1", REMOTE);
    broken.open("10.0.0.2:2", REMOTE);
    assert_eq!(broken.rows().len(), 1, "broken on purpose");
}

#[test]
fn exh_2_aws_bounds_sessions_to_one_remote() {
    let config = preset::aws_natgw();
    assert_eq!(config.limits.sessions_per_remote_max, 55_000);
    let limits = TableLimits { sessions_per_remote_max: 5, ..config.limits };
    let mut gate = Gate::with_pool(NatConfig { limits, pooling: nat_sim::nat::Pooling::FirstWithRoom, ..config }, 2);
    for port in 1..=10 {
        gate.open(&format!("10.0.0.2:{port}"), REMOTE);
    }
    assert_eq!(gate.out("10.0.0.2:11", REMOTE, SYN), Verdict::Drop(DropReason::RemoteLimit), "5 for each address");
    gate.open("10.0.0.2:11", "9.9.9.9:10");
}

#[test]
fn exh_3_azure_shares_ports_over_destinations_up_to_a_bound() {
    let config = with_tcp(preset::azure_natgw(), |tcp| tcp.ports = PortClass::Fixed(5000, 5000));
    let mut gate = Gate::new(config);
    for last in 1..=20 {
        assert_eq!(gate.open(&format!("10.0.0.{last}:1"), &format!("8.8.8.{last}:1")).port(), 5000);
    }
    assert_eq!(config.limits.sessions_per_remote_max, 50_000);
}

#[test]
fn exh_4_google_gives_a_host_64_ports() {
    let mut gate = Gate::new(preset::gcp_eim());
    let ports: Vec<_> = (1..=64).map(|port| gate.open(&format!("10.0.0.2:{port}"), REMOTE).port()).collect();
    let (low, high) = (ports.iter().min().expect("64"), ports.iter().max().expect("64"));
    assert_eq!(high - low, 63, "one block");
    assert_eq!(gate.out("10.0.0.2:65", "8.8.8.8:1", SYN), Verdict::Drop(DropReason::NoPort));
    assert!(!(*low..=*high).contains(&gate.open("10.0.0.3:1", REMOTE).port()));
}

#[test]
fn exh_5_a_full_linux_drops_closing_entries_early_and_no_others() {
    let config = preset::linux_masq_drop();
    let limits = TableLimits { sessions_max: 2, ..config.limits };
    let mut gate = Gate::new(NatConfig { limits, ..config });
    gate.establish("10.0.0.2:1", REMOTE);
    gate.establish("10.0.0.2:2", REMOTE);
    assert_eq!(gate.out("10.0.0.2:3", REMOTE, SYN), Verdict::Drop(DropReason::Exhausted));
    gate.out("10.0.0.2:2", REMOTE, Segment { fin: true, ..ACK });
    gate.open("10.0.0.2:3", REMOTE);
    let hosts: Vec<_> = gate.rows().iter().map(|row| row.internal.port()).collect();
    assert_eq!(hosts, [1, 3]);
}

#[test]
fn exh_limits_count_hosts_and_seconds() {
    let config = preset::rfc_ideal();
    let limits = TableLimits { sessions_per_host_max: 2, new_per_second_max: 3, ..config.limits };
    let mut gate = Gate::new(NatConfig { limits, exhaustion: Exhaustion::Drop, ..config });
    gate.open("10.0.0.2:1", REMOTE);
    gate.open("10.0.0.2:2", REMOTE);
    assert_eq!(gate.out("10.0.0.2:3", REMOTE, SYN), Verdict::Drop(DropReason::HostLimit));
    gate.open("10.0.0.3:1", REMOTE);
    assert_eq!(gate.out("10.0.0.4:1", REMOTE, SYN), Verdict::Drop(DropReason::RateLimit));
    gate.wait(secs(1)).open("10.0.0.4:1", REMOTE);
}

#[test]
fn life_1_a_reboot_forgets_everything() {
    let mut gate = Gate::new(preset::linux_masq_rst());
    let external = gate.establish(HOST, REMOTE);
    gate.nat.reboot();
    assert!(reset(&gate.back(REMOTE, external, BACK_ACK)).is_some(), "unsolicited");
    assert!(is_out(&gate.out(HOST, REMOTE, ACK)), "Linux picks it up");
    let mut strict = Gate::new(preset::aws_natgw());
    strict.establish(HOST, REMOTE);
    strict.nat.reboot();
    assert!(reset(&strict.out(HOST, REMOTE, ACK)).is_some());
}

#[test]
fn life_2_a_new_address_flushes_all() {
    let mut gate = Gate::new(preset::mikrotik());
    let external = gate.establish(HOST, REMOTE);
    let fresh = Ipv4Addr::new(203, 0, 113, 77);
    gate.nat.change_address(fresh);
    assert!(gate.rows().is_empty());
    assert_eq!(gate.back(REMOTE, external, BACK_ACK), Verdict::Drop(DropReason::NotMine));
    assert_eq!(*gate.open("10.0.0.2:4001", REMOTE).ip(), fresh);
}

#[test]
fn life_3_a_restart_never_doubles_a_port() {
    let mut gate =
        Gate::new(with_tcp(plain(Filtering::EndpointIndependent), |tcp| tcp.ports = PortClass::Fixed(5000, 5001)));
    gate.open("10.0.0.2:1", REMOTE);
    gate.nat.reboot();
    let ports = [gate.open("10.0.0.2:1", REMOTE), gate.open("10.0.0.3:1", REMOTE)];
    assert_ne!(ports[0], ports[1]);
}

#[test]
fn life_4_an_idle_session_ends_in_silence_and_the_next_packet_from_inside_is_reset() {
    let mut gate = Gate::new(preset::aws_natgw());
    let external = gate.establish(HOST, REMOTE);
    gate.wait(secs(350));
    assert!(gate.nat.tick(gate.now).is_empty());
    assert_eq!(reset(&gate.out(HOST, REMOTE, ACK)).map(|(side, _)| side), Some(Side::Inside));
    assert_eq!(gate.back(REMOTE, external, BACK_ACK), Verdict::Drop(DropReason::NoMapping));
}

#[test]
fn cgn_1_a_carriers_gateway_obeys_the_transports_and_bounds_each_subscriber() {
    let config = preset::cgn_block();
    assert_eq!(
        (config.tcp.mapping, config.tcp.filtering),
        (Mapping::EndpointIndependent, Filtering::EndpointIndependent)
    );
    let limits = TableLimits { sessions_per_host_max: 2, ..config.limits };
    let mut gate = Gate::new(NatConfig { limits, ..config });
    for port in 1..=2 {
        gate.open(&format!("10.0.0.2:{port}"), REMOTE);
    }
    assert_eq!(icmp(&gate.out("10.0.0.2:3", REMOTE, SYN)), Some((Side::Inside, 3, 13)));
    gate.open("10.0.0.3:3", REMOTE);
}

#[test]
fn cgn_2_blocks_trade_foresight_for_fewer_records() {
    let mut gate = Gate::new(preset::cgn_block());
    let ports: Vec<_> = (1..=100).map(|port| gate.open(&format!("10.0.0.2:{port}"), REMOTE).port()).collect();
    assert!(ports.iter().max().expect("100") - ports.iter().min().expect("100") < 1024);
    let distances = ports.windows(2).filter(|pair| pair[1].wrapping_sub(pair[0]) == 1).count();
    assert!(distances < 20, "random within the block");
}

#[test]
fn a_host_may_ask_for_a_port_where_that_is_offered() {
    let mut gate = Gate::new(preset::mapped());
    let (lifetime, transport) = (secs(7200), Transport::Tcp);
    let given = gate.nat.map_port(gate.now, transport, at(HOST), 80, lifetime).expect("given");
    assert_eq!(given, SocketAddrV4::new(EXTERNAL, 80));
    let second = gate.nat.map_port(gate.now, transport, at("10.0.0.3:80"), 80, lifetime).expect("the next one");
    assert_eq!(second.port(), 81);
    assert_eq!(internal(&gate.back(REMOTE, given, SYN)), Some(at(HOST)), "anybody may come");
    assert_eq!(gate.open(HOST, "8.8.8.8:1"), given, "and it goes out from there");
    gate.wait(lifetime);
    assert!(!gate.admits("7.7.7.7:7", given));
    let again = gate.nat.map_port(gate.now, transport, at("10.0.0.4:80"), 80, lifetime);
    assert_eq!(again, Some(given), "a lease that has ended is free");
    assert_eq!(
        Gate::new(preset::linux_masq_drop()).nat.map_port(Instant::ZERO, transport, at(HOST), 80, lifetime),
        None
    );
}

#[test]
fn a_race_may_lose_the_first_packet_of_a_flow() {
    let mut gate = Gate::new(NatConfig { first_packet_loss_ppm: 500_000, ..preset::linux_random() });
    let lost = (1..=200)
        .filter(|port| gate.out(HOST, &format!("9.9.9.9:{port}"), SYN) == Verdict::Drop(DropReason::FirstPacketLost));
    assert!((60..140).contains(&lost.count()));
}

#[test]
fn packets_that_are_not_for_the_gateway_are_dropped() {
    let mut gate = Gate::new(preset::linux_masq_drop());
    let foreign = Packet::tcp(at(REMOTE), at("9.9.9.8:1"), SYN, &[]);
    assert_eq!(gate.receive(foreign), Verdict::Drop(DropReason::NotMine));
}
