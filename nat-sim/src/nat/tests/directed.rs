//! Single configurations at their bounds.

use super::*;

const REMOTE: &str = "9.9.9.9:9";

pub(super) fn udp(from: &str, to: &str) -> Packet {
    Packet::udp(from.parse().expect("an endpoint"), to.parse().expect("an endpoint"), b"")
}

pub(super) fn tight(config: NatConfig, sessions_max: usize, exhaustion: Exhaustion) -> NatConfig {
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

/// On Linux, and where ports of one transport alone are kept like that.
#[test]
fn a_source_goes_on_from_the_endpoint_of_its_newest_session_that_lives() {
    let overlap = Rules {
        mapping: Mapping::PreserveOverlap,
        overload: Overload::DistinctRemote,
        allocation: Allocation::Random,
        ..preset::pf_default().tcp
    };
    for transport in [Transport::Tcp, Transport::Udp] {
        let mut config = preset::pf_default();
        *(if transport == Transport::Tcp { &mut config.tcp } else { &mut config.udp }) = overlap;
        let mut nat = Nat::new(config, EXTERNAL, 1);
        let mut leaves = |now, remote: &str| {
            let packet = if transport == Transport::Tcp {
                let syn = Segment { syn: true, ..Segment::NONE };
                Packet::tcp("10.0.0.2:4000".parse().expect("v4"), remote.parse().expect("v4"), syn, &[])
            } else {
                udp("10.0.0.2:4000", remote)
            };
            let Verdict::Forward(_, out) = nat.outbound(now, packet) else { panic!("passes") };
            out.flow().expect("a flow").source
        };
        let idle = if transport == Transport::Tcp { config.timers.syn_sent } else { config.timers.udp_new };
        let half = Instant::ZERO + idle / 2;
        let kept = leaves(Instant::ZERO, "9.9.9.1:9");
        assert_eq!(leaves(Instant::ZERO, "9.9.9.2:9"), kept, "{transport:?}");
        assert_eq!(leaves(half, "9.9.9.1:9"), kept, "{transport:?}");
        // The newer one ends here.
        assert_eq!(leaves(Instant::ZERO + idle, "9.9.9.3:9"), kept, "{transport:?}");
    }
}

#[test]
fn a_host_with_an_address_of_its_own_is_reached_at_any_port_unless_its_filter_forbids_that() {
    let stranger = |to: &str| udp("8.8.8.8:8", to);
    let own = EXTERNAL.to_string();
    for (mapping, filtering, before, after) in [
        (Mapping::OneToOne, Filtering::EndpointIndependent, Some(DropReason::NoMapping), None),
        (Mapping::OneToOne, Filtering::AddressDependent, Some(DropReason::NoMapping), Some(DropReason::NoMapping)),
        (Mapping::None, Filtering::EndpointIndependent, None, None),
        (Mapping::None, Filtering::AddressDependent, Some(DropReason::NoMapping), Some(DropReason::NoMapping)),
    ] {
        let host = if mapping == Mapping::None { own.as_str() } else { "10.0.0.2" };
        let rules = Rules { mapping, filtering, ..preset::one_to_one().udp };
        let mut nat = Nat::new(NatConfig { tcp: rules, udp: rules, ..preset::one_to_one() }, EXTERNAL, 1);
        let reaches = |nat: &Nat| match nat.clone().inbound(Instant::ZERO, stranger(&format!("{own}:5000"))) {
            Verdict::Forward(_, packet) => {
                assert_eq!(packet.flow().expect("udp").destination.to_string(), format!("{host}:5000"));
                None
            }
            Verdict::Drop(reason) => Some(reason),
            other => panic!("{other:?}"),
        };
        assert_eq!(reaches(&nat), before, "{mapping:?} {filtering:?}: nobody has sent");
        let Verdict::Forward(_, out) = nat.outbound(Instant::ZERO, udp(&format!("{host}:4000"), REMOTE)) else {
            panic!("passes")
        };
        assert_eq!(out.flow().expect("udp").source.to_string(), format!("{own}:4000"));
        assert_eq!(reaches(&nat), after, "{mapping:?} {filtering:?}");
    }
}

/// What is drawn is ports and numbers.
#[test]
fn whom_a_gateway_lets_in_does_not_depend_on_its_seed() {
    let syn = Segment { syn: true, ..Segment::NONE };
    for seed in 0..16 {
        let mut nat = Nat::new(preset::rfc_ideal(), EXTERNAL, seed);
        let opens = Packet::tcp("10.0.0.2:4000".parse().expect("v4"), REMOTE.parse().expect("v4"), syn, &[]);
        let Verdict::Forward(_, out) = nat.outbound(Instant::ZERO, opens) else { panic!("passes") };
        let external = out.flow().expect("tcp").source;
        let stranger = Packet::tcp("8.8.8.8:8".parse().expect("v4"), external, syn, &[]);
        assert!(matches!(nat.inbound(Instant::ZERO, stranger), Verdict::Forward(Side::Inside, _)), "seed {seed}");
    }
}

/// RFC 5508 REQ-1 and Linux.
#[test]
fn two_hosts_keep_one_identifier_of_echoes_only_where_ports_overlap_and_remotes_differ() {
    for (config, shares) in [(preset::linux_masq_drop(), true), (preset::pf_default(), false)] {
        let mut nat = Nat::new(config, EXTERNAL, 1);
        let mut keeps = |host: u8, remote: u8| {
            let echo = Echo { is_request: true, identifier: 7, sequence: 1 };
            let packet = Packet::echo([10, 0, 0, host].into(), [9, 9, 9, remote].into(), echo, b"");
            let Verdict::Forward(_, out) = nat.outbound(Instant::ZERO, packet) else { panic!("passes") };
            out.flow().expect("an echo").source.port() == 7
        };
        let kept = [keeps(2, 1), keeps(3, 2), keeps(4, 1)];
        assert_eq!(kept, [true, shares, false]);
    }
}

#[test]
fn each_host_has_an_address_of_its_own_until_none_is_left() {
    let pool: Vec<Ipv4Addr> = (1..=2).map(|last| Ipv4Addr::new(203, 0, 113, last)).collect();
    let mut nat = Nat::with_pool(preset::one_to_one(), pool.clone(), 1);
    let mut address = |host: &str| match nat.outbound(Instant::ZERO, udp(host, REMOTE)) {
        Verdict::Forward(_, out) => Ok(*out.flow().expect("udp").source.ip()),
        Verdict::Drop(reason) => Err(reason),
        other => panic!("{other:?}"),
    };
    for _ in 0..2 {
        assert_eq!((address("10.0.0.2:1"), address("10.0.0.3:1")), (Ok(pool[0]), Ok(pool[1])));
        assert_eq!(address("10.0.0.4:1"), Err(DropReason::NoPort));
        assert_eq!((address("10.0.0.3:2"), address("10.0.0.2:2")), (Ok(pool[1]), Ok(pool[0])));
    }
}

#[test]
fn an_address_of_ones_own_is_nobody_elses_whatever_pool_the_other_transport_has() {
    let pool: Vec<Ipv4Addr> = (1..=2).map(|last| Ipv4Addr::new(203, 0, 113, last)).collect();
    let config = NatConfig { tcp: preset::rfc_ideal().tcp, pooling: Pooling::Paired, ..preset::one_to_one() };
    let mut nat = Nat::with_pool(config, pool.clone(), 1);
    let mut address = |packet| match nat.outbound(Instant::ZERO, packet) {
        Verdict::Forward(_, out) => *out.flow().expect("a flow").source.ip(),
        other => panic!("{other:?}"),
    };
    let syn = Segment { syn: true, ..Segment::NONE };
    let syn = Packet::tcp("10.0.0.2:1".parse().expect("v4"), REMOTE.parse().expect("v4"), syn, &[]);
    assert_eq!(address(syn), pool[0]);
    assert_eq!(address(udp("10.0.0.3:1", REMOTE)), pool[0]);
    assert_eq!(address(udp("10.0.0.2:1", REMOTE)), pool[1], "the first belongs to another host");
}
