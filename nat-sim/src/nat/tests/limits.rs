//! Goal: what is counted, shared out or kept for a time is counted exactly, at both ends of each range. Method: single
//! UDP datagrams through small gateways.

use std::net::SocketAddr;

use super::*;

/// A gateway of which little is left: few ports, no waiting.
fn gateway(allocation: Allocation, ports: (u16, u16)) -> Nat {
    Nat::new(config(allocation, ports), EXTERNAL, 1)
}

fn config(allocation: Allocation, (low, high): (u16, u16)) -> NatConfig {
    let rules = Rules {
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::EndpointIndependent,
        allocation,
        ports: PortClass::Fixed(low, high),
        overload: Overload::Never,
    };
    NatConfig { tcp: rules, udp: rules, ..preset::pf_default() }
}

fn host(number: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], port))
}

fn remote() -> SocketAddr {
    SocketAddr::from(([9, 9, 9, 9], 9))
}

fn seconds(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

/// The external endpoint of a datagram of this host.
fn sent(nat: &mut Nat, now: Instant, from: SocketAddr) -> Result<SocketAddrV4, DropReason> {
    match nat.outbound(now, Packet::udp(from, remote(), b"")) {
        Verdict::Forward(Side::Outside, packet) => Ok(packet.flow().expect("a flow").source),
        Verdict::Drop(reason) => Err(reason),
        other => panic!("{other:?}"),
    }
}

fn ports_of(nat: &mut Nat, hosts: impl Iterator<Item = (u8, u16)>) -> Vec<Option<u16>> {
    hosts.map(|(number, port)| sent(nat, Instant::ZERO, host(number, port)).ok().map(|it| it.port())).collect()
}

#[test]
fn every_port_of_a_range_is_given_out_once() {
    let all = [Allocation::Random, Allocation::Preserve(Fallback::Random), Allocation::Preserve(Fallback::Lowest)];
    let more = [Allocation::Preserve(Fallback::Next), Allocation::Preserve(Fallback::LinuxSearch)];
    let counts = [1, 3].map(|step| Allocation::Sequential { step, per_host: false });
    for allocation in all.into_iter().chain(more).chain(counts) {
        let mut nat = gateway(allocation, (5000, 5009));
        let given = ports_of(&mut nat, (0..10).map(|port| (2, 100 + port)));
        let distinct: BTreeSet<u16> = given.iter().copied().flatten().collect();
        assert_eq!(distinct, (5000..=5009).collect(), "{allocation:?}");
        assert_eq!(nat.sessions(), 10);
        assert_eq!(sent(&mut nat, Instant::ZERO, host(2, 99)), Err(DropReason::NoPort), "{allocation:?}");
    }
}

/// Shares of fixed seeds: drawn ones would be beyond the bounds now and then.
#[test]
fn linux_finds_what_is_free_in_128_ports_in_a_row_and_else_only_by_chance() {
    let mut full = gateway(Allocation::Preserve(Fallback::Lowest), (5000, 6023));
    assert!(ports_of(&mut full, (0..1024).map(|port| (2, port))).iter().all(Option::is_some));
    let found = |free: &[u16]| {
        let mut nat = full.clone();
        nat.config.udp.allocation = Allocation::Preserve(Fallback::LinuxSearch);
        for port in free {
            let external = SocketAddrV4::new(EXTERNAL, *port);
            let id = nat.tables.by_outside(Transport::Udp, external, "9.9.9.9:9".parse().expect("v4"));
            nat.end(Instant::ZERO, id.expect("in use"));
        }
        let finds = |seed: &u64| {
            let mut nat = nat.clone();
            nat.entropy = ChaCha8Rng::seed_from_u64(*seed);
            sent(&mut nat, Instant::ZERO, host(2, 2000)).is_ok()
        };
        (0..400).filter(finds).count()
    };
    let every_128th: Vec<u16> = (0..8).map(|number| 5000 + 128 * number).collect();
    assert_eq!(found(&every_128th), 400);
    // One of 1024 is in none of the rows of 128, 64, 32, 16 and 8 in 78 of 100 searches.
    let found = found(&[5500]);
    assert!((70..=110).contains(&found), "{found} of 400");
}

#[test]
fn a_counter_goes_by_its_step_and_around() {
    let mut nat = gateway(Allocation::Sequential { step: 4, per_host: false }, (5000, 5009));
    let given = ports_of(&mut nat, (0..6).map(|port| (2, 100 + port)));
    // After 5008 comes 5012, which is 5002; after 5006 comes 5010, which is 5000, and taken, as all that follow it.
    assert_eq!(given, [Some(5000), Some(5004), Some(5008), Some(5002), Some(5006), None]);
    // It goes on when all that it has given out is free again.
    let later = seconds(100_000);
    assert_eq!(sent(&mut nat, later, host(2, 100)).map(|it| it.port()), Ok(5000));
    assert_eq!(sent(&mut nat, later + Duration::from_secs(100_000), host(2, 100)).map(|it| it.port()), Ok(5004));
    let mut nat = gateway(Allocation::Sequential { step: 1, per_host: true }, (5000, 5009));
    let given = ports_of(&mut nat, [(2, 100), (2, 101), (3, 100), (2, 102)].into_iter());
    assert_eq!(given, [Some(5000), Some(5001), Some(5002), Some(5003)], "what another host has is passed over");
}

#[test]
fn blocks_belong_to_one_host_each_until_its_last_mapping_ends() {
    let mut nat = gateway(Allocation::Block { ports: 4, blocks_per_host_max: 2 }, (5000, 5015));
    let block = |port: &Option<u16>| port.map(|port| (port - 5000) / 4);
    // Eight ports in two blocks, and no more.
    let first = ports_of(&mut nat, (0..9).map(|port| (2, 100 + port)));
    assert_eq!(first.iter().flatten().collect::<BTreeSet<_>>().len(), 8);
    assert_eq!(first[..4].iter().map(block).collect::<BTreeSet<_>>().len(), 1, "the first block is used up first");
    assert_eq!(first[..8].iter().map(block).collect::<BTreeSet<_>>().len(), 2);
    assert_eq!(first[8], None);
    // The other two blocks go to two hosts, then none is left.
    let others = ports_of(&mut nat, [(3, 1), (4, 1), (5, 1)].into_iter());
    let blocks: BTreeSet<_> = first[..8].iter().chain(&others[..2]).map(block).collect();
    assert_eq!(blocks, (0..4).map(Some).collect());
    assert_eq!(others[2], None);
    // Once all have been silent for long, blocks are free.
    let later = seconds(100_000);
    assert!((0..4).all(|number| sent(&mut nat, later, host(10 + number, 1)).is_ok()));
    assert!(sent(&mut nat, later, host(20, 1)).is_err());
}

#[test]
fn first_blocks_are_drawn() {
    let firsts: BTreeSet<_> = (0..300)
        .map(|seed| {
            let mut nat =
                Nat::new(config(Allocation::Block { ports: 4, blocks_per_host_max: 1 }, (5000, 5015)), EXTERNAL, seed);
            sent(&mut nat, Instant::ZERO, host(2, 100)).expect("room").port()
        })
        .collect();
    assert_eq!(firsts, (5000..5016).collect(), "any port of any block");
}

#[test]
fn hosts_are_spread_over_paired_addresses() {
    let addresses: Vec<Ipv4Addr> = (1..=3).map(|number| [203, 0, 113, number].into()).collect();
    let config = NatConfig { pooling: Pooling::Paired, ..config(Allocation::Random, (5000, 5099)) };
    let mut nat = Nat::with_pool(config, addresses.clone(), 1);
    let mut address = |number, port| *sent(&mut nat, Instant::ZERO, host(number, port)).expect("room").ip();
    let first: Vec<Ipv4Addr> = (2..8).map(|number| address(number, 100)).collect();
    assert_eq!(first, [addresses.clone(), addresses].concat(), "in turn");
    assert!((2..8).all(|number| address(number, 101) == first[usize::from(number) - 2]), "each host keeps its own");
}

#[test]
fn so_many_sessions_begin_in_one_second_and_no_more() {
    let config = config(Allocation::Random, (5000, 5999));
    let limits = TableLimits { new_per_second_max: 3, ..config.limits };
    let mut nat = Nat::new(NatConfig { limits, ..config }, EXTERNAL, 1);
    let mut port = 0;
    let mut begins = |millis: u64| {
        port += 1;
        sent(&mut nat, Instant::ZERO + Duration::from_millis(millis), host(2, port)).err()
    };
    for second in [0, 1, 7] {
        let at = [0, 400, 800, 999, 999].map(|millis| begins(1000 * second + millis));
        assert_eq!(at, [None, None, None, Some(DropReason::RateLimit), Some(DropReason::RateLimit)]);
    }
}

#[test]
fn the_share_of_first_packets_that_a_race_loses_is_the_one_asked_for() {
    for (first_packet_loss_ppm, lost) in [(0, 0..=0), (250_000, 900..=1100), (999_000, 3985..=4000)] {
        let config = NatConfig { first_packet_loss_ppm, ..config(Allocation::Random, (5000, 65_000)) };
        let mut nat = Nat::new(config, EXTERNAL, 1);
        let race = |port| sent(&mut nat, Instant::ZERO, host(2, port)) == Err(DropReason::FirstPacketLost);
        let count = (1..=4000).map(race).filter(|is_lost| *is_lost).count();
        assert!(lost.contains(&count), "{count} of 4000 at {first_packet_loss_ppm} ppm");
    }
}

#[test]
fn a_leased_port_is_what_its_holder_sends_from() {
    let config = NatConfig { port_control: true, ..config(Allocation::Random, (5000, 5999)) };
    let mut nat = Nat::new(config, EXTERNAL, 1);
    let internal: SocketAddrV4 = "10.0.0.2:100".parse().expect("v4");
    let leased = nat.map_port(Instant::ZERO, Transport::Udp, internal, 7000, Duration::from_secs(60));
    assert_eq!(leased, Some(SocketAddrV4::new(EXTERNAL, 7000)));
    assert_eq!(sent(&mut nat, Instant::ZERO, internal.into()).map(|it| it.port()), Ok(7000));
    assert!(sent(&mut nat, Instant::ZERO, host(2, 101)).is_ok_and(|it| it.port() < 6000));
}

fn v6(host: u16, port: u16) -> SocketAddr {
    SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, host], port))
}

#[test]
fn a_stateful_firewall_lets_in_what_the_inside_asked_for_and_only_for_a_time() {
    let mut config = NatConfig { ipv6: Ipv6::Stateful, ..config(Allocation::Random, (5000, 5999)) };
    config.limits.sessions_max = 2;
    let idle = config.timers.udp_stream;
    let mut nat = Nat::new(config, EXTERNAL, 1);
    let passes = |verdict: &Verdict| matches!(verdict, Verdict::Forward(..));
    let out = |nat: &mut Nat, now, port| nat.outbound(now, Packet::udp(v6(1, port), v6(9, 9), b""));
    let back = |nat: &mut Nat, now, port| nat.inbound(now, Packet::udp(v6(9, 9), v6(1, port), b""));
    assert_eq!(back(&mut nat, seconds(0), 100), Verdict::Drop(DropReason::Filtered));
    assert!(passes(&out(&mut nat, seconds(0), 100)));
    assert!(passes(&back(&mut nat, seconds(1), 100)), "an answer");
    assert_eq!(back(&mut nat, seconds(1), 101), Verdict::Drop(DropReason::Filtered), "for another port");
    assert!(passes(&out(&mut nat, seconds(1), 101)));
    assert_eq!(out(&mut nat, seconds(1), 102), Verdict::Drop(DropReason::Exhausted));
    // Each packet keeps its own flow open, as long as is said.
    let just_before = seconds(1) + idle - Duration::from_nanos(1);
    assert!(passes(&back(&mut nat, just_before, 100)));
    assert_eq!(back(&mut nat, just_before + Duration::from_nanos(1), 101), Verdict::Drop(DropReason::Filtered));
    assert!(passes(&back(&mut nat, just_before + Duration::from_nanos(1), 100)), "it was used in between");
    assert!(passes(&out(&mut nat, just_before + Duration::from_nanos(1), 102)), "there is room again");
}
