//! Goal: no client, address or network costs more than its share. Method: as above.

use super::*;

#[test]
fn connections_are_bounded_in_all_and_per_source() {
    let config = ServerConfig { connections_max: 3, connections_per_source_max: 2, ..ServerConfig::default() };
    let mut bench = Bench::with(config);
    let from = |host| Input::Opened(SocketAddr::from(([1, 1, 1, host], 1)));
    assert!(bench.input(1, from(1)).is_empty());
    assert!(bench.input(2, from(1)).is_empty());
    assert_eq!(refusal(&bench.input(3, from(1)), 3), Some(Refusal::Busy));
    assert!(bench.input(4, from(2)).is_empty());
    assert_eq!(refusal(&bench.input(5, from(3)), 5), Some(Refusal::Busy));
    assert_eq!(bench.server.connections(), 3);
}

#[test]
fn one_network_that_fills_a_server_gives_way_to_others_and_groups_do_not() {
    let config = ServerConfig { connections_max: 4, ..ServerConfig::default() };
    let mut bench = Bench::with(config);
    let open = |net: u8, host: u8| Input::Opened(SocketAddr::from(([1, 1, net, host], 1)));
    for (connection, rank) in [(1, 0), (2, 1)] {
        bench.input(connection, open(1, 1));
        bench.input(connection, Input::Message(ClientMessage::Register(registration(rank, 2, 1))));
    }
    for connection in 3..5 {
        assert!(bench.input(connection, open(1, 2)).is_empty());
    }
    assert_eq!(refusal(&bench.input(5, open(1, 3)), 5), Some(Refusal::Busy), "the network that has most itself");
    assert_eq!(refusal(&bench.input(6, open(2, 1)), 3), Some(Refusal::Busy), "the oldest that waits gives way");
    assert_eq!(refusal(&bench.input(7, open(3, 1)), 7), Some(Refusal::Busy), "nobody has more than one");
    assert_eq!((bench.server.connections(), bench.server.sessions()), (4, 1));
}

#[test]
fn who_owns_many_addresses_of_ipv6_is_one_source() {
    let config = ServerConfig { connections_per_source_max: 2, ..ServerConfig::default() };
    let mut bench = Bench::with(config);
    let from = |site, host| Input::Opened(SocketAddr::from(([0x2001, 0xdb8, site, 0, 0, 0, 0, host], 1)));
    assert!(bench.input(1, from(1, 1)).is_empty());
    assert!(bench.input(2, from(1, 2)).is_empty());
    assert_eq!(refusal(&bench.input(3, from(1, 3)), 3), Some(Refusal::Busy));
    assert!(bench.input(4, from(2, 1)).is_empty(), "another site");
    bench.input(1, Input::Closed);
    assert!(bench.input(5, from(1, 4)).is_empty());
}

#[test]
fn a_client_that_floods_is_closed_and_one_that_reports_every_peer_is_not() {
    let mut bench = Bench::new();
    let session = bench.form();
    bench.input(1, Input::Message(ClientMessage::Formed(session)));
    for rank in 0..SIZE_MAX {
        let told = bench.input(1, Input::Message(ClientMessage::Severed { session, rank }));
        assert_eq!(told.len(), usize::from(rank == 1));
    }
    bench.register(3, 0, 3, 3);
    let ping = || Input::Message(ClientMessage::Ping);
    let answered = (0..100_000u64).find(|_| refusal(&bench.input(3, ping()), 3).is_some()).expect("it ends");
    assert!(answered <= 2 * u64::from(SIZE_MAX), "{answered} answers to one client at once");
    assert_eq!(bench.server.groups_forming(), 0, "it holds nothing any more");
    // One that asks as often as ranks do is served without end.
    bench.register(4, 0, 3, 4);
    for _ in 0..10_000 {
        bench.advance(Duration::from_millis(50));
        assert_eq!(bench.input(4, ping()).len(), 1);
    }
}

#[test]
fn connections_of_one_prefix_are_limited_by_rate() {
    let config = ServerConfig { connections_burst: 3, connections_per_second: 2, ..ServerConfig::default() };
    let mut bench = Bench::with(config);
    for number in 0..3 {
        assert!(bench.input(number, Input::Opened(from(1))).is_empty());
    }
    assert_eq!(
        refusal(&bench.input(3, Input::Opened(SocketAddr::from(([203, 0, 113, 99], 1)))), 3),
        Some(Refusal::Busy)
    );
    assert!(bench.input(4, Input::Opened(SocketAddr::from(([203, 0, 114, 1], 1)))).is_empty(), "another prefix");
    bench.advance(Duration::from_millis(500));
    assert!(bench.input(5, Input::Opened(from(1))).is_empty());
}

#[test]
fn prefixes_that_are_quiet_are_forgotten_and_those_that_are_not_stay_limited() {
    let config =
        ServerConfig { connections_max: 5, connections_burst: 1, connections_per_second: 1, ..ServerConfig::default() };
    let mut bench = Bench::with(config);
    let open = |bench: &mut Bench, number: u8| {
        let outputs = bench.input(number.into(), Input::Opened(SocketAddr::from(([1, 1, number, 1], 1))));
        bench.input(number.into(), Input::Closed);
        outputs.is_empty()
    };
    assert!((0..20).all(|number| open(&mut bench, number)));
    assert!(!open(&mut bench, 0), "it has had its connection of this second");
    bench.advance(Duration::from_millis(500));
    assert!(!open(&mut bench, 1));
    bench.advance(Duration::from_secs(1));
    assert!(open(&mut bench, 99));
    assert_eq!(bench.server.rates.len(), 1, "the others are as if they had never come");
}
