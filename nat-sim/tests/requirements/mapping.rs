//! RFC 4787 REQ-1, 2, 7, 11; RFC 5382 REQ-1; RFC 7857 §3, §5; Linux.

use super::*;

#[test]
fn map_1_one_internal_endpoint_has_one_external_one() {
    for (mapping, other_port_same, other_address_same) in [
        (Mapping::EndpointIndependent, true, true),
        (Mapping::AddressDependent, true, false),
        (Mapping::AddressAndPortDependent, false, false),
        (Mapping::PreserveOverlap, true, true),
    ] {
        let config = with_tcp(plain(Filtering::EndpointIndependent), |tcp| tcp.mapping = mapping);
        let mut gate = Gate::new(config);
        let first = gate.open(HOST, "8.8.8.8:1");
        let other_port = gate.open(HOST, "8.8.8.8:2");
        let other_address = gate.open(HOST, "7.7.7.7:1");
        assert_eq!((first == other_port, first == other_address), (other_port_same, other_address_same), "{mapping:?}");
    }
}

#[test]
fn map_2_a_pool_gives_one_host_one_address() {
    let addresses = |config: NatConfig| {
        let mut gate = Gate::with_pool(config, 4);
        let tcp =
            (1..=20).map(|port| *gate.open(&format!("10.0.0.2:{}", 4000 + port), &format!("8.8.{port}.8:1")).ip());
        let mut addresses: Vec<_> = tcp.collect();
        addresses.extend((1..=20).map(|port| *gate.udp_open(&format!("10.0.0.2:{}", 4000 + port), "8.8.8.8:1").ip()));
        addresses.sort_unstable();
        addresses.dedup();
        addresses.len()
    };
    assert_eq!(addresses(preset::rfc_ideal()), 1);
    assert!(addresses(preset::cgn_symmetric()) > 1, "arbitrary pooling spreads");
}

#[test]
fn map_3_a_clash_changes_the_class_of_those_that_overlap_only() {
    let moved = |config: NatConfig| {
        let mut gate = Gate::new(config);
        gate.open("10.0.0.3:4000", REMOTE);
        let mine = gate.open(HOST, "8.8.8.8:1");
        mine != gate.open(HOST, REMOTE)
    };
    assert!(!moved(preset::rfc_ideal()));
    assert!(moved(preset::linux_masq_drop()), "endpoint-independent until a clash");
}

#[test]
fn map_4_tcp_and_udp_have_mappings_of_their_own() {
    let mut gate = Gate::new(plain(Filtering::EndpointIndependent));
    let tcp = gate.open(HOST, REMOTE);
    let udp = gate.udp_open(HOST, REMOTE);
    assert_ne!(tcp.port(), udp.port());
    assert_eq!(gate.udp_back(REMOTE, tcp), Verdict::Drop(DropReason::NoMapping));
    let mut freebsd = Gate::new(preset::pf_eim_udp());
    assert_eq!(freebsd.udp_open(HOST, "8.8.8.8:1"), freebsd.udp_open(HOST, REMOTE));
    assert_ne!(freebsd.open(HOST, "8.8.8.8:1"), freebsd.open(HOST, REMOTE), "for UDP only");
}

#[test]
fn map_5_equal_addresses_inside_and_outside_are_translated_in_full() {
    let mut gate = Gate::new(preset::rfc_ideal());
    // A remote with the address of a host inside: the packet comes from outside, so it is not that.
    let external = gate.open(HOST, "10.0.0.3:80");
    assert_eq!(*external.ip(), EXTERNAL);
    assert_eq!(internal(&gate.back("10.0.0.3:80", external, SYN_ACK)), Some(at(HOST)));
}

#[test]
fn map_6_hosts_share_a_port_only_while_remotes_differ() {
    let mut gate = Gate::new(preset::linux_masq_drop());
    let first = gate.open("10.0.0.2:40000", "8.8.8.8:1");
    let second = gate.open("10.0.0.3:40000", "8.8.8.8:2");
    assert_eq!(first, second);
    assert_eq!(internal(&gate.back("8.8.8.8:1", first, SYN_ACK)), Some(at("10.0.0.2:40000")));
    assert_eq!(internal(&gate.back("8.8.8.8:2", first, SYN_ACK)), Some(at("10.0.0.3:40000")));
    assert_ne!(gate.open("10.0.0.4:40000", "8.8.8.8:1"), first);
}

#[test]
fn map_7_linux_shares_ports_until_they_clash_and_then_sticks() {
    let mut gate = Gate::new(preset::linux_masq_drop());
    assert_eq!(gate.open("10.0.0.2:40000", "8.8.8.8:10000").port(), 40_000);
    let clashed = gate.open("10.0.0.4:40000", "8.8.8.8:10000").port();
    assert!(clashed != 40_000 && clashed >= 1024);
    assert_eq!(gate.open("10.0.0.4:40000", "8.8.8.8:10001").port(), clashed, "it sticks");
    // The lower classes have their own ranges.
    gate.open("10.0.0.2:600", REMOTE);
    assert!((600..1024).contains(&gate.open("10.0.0.3:600", REMOTE).port()));
    gate.open("10.0.0.2:300", REMOTE);
    assert!((1..512).contains(&gate.open("10.0.0.3:300", REMOTE).port()));
}
