//! Goal: dual-stack hosts meet over IPv6 without translation, through stateful firewalls, while their
//! IPv4 goes through NATs; UDP and echo cross gateways both ways. Method: small worlds.

mod common;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::{Board, behind, millis};
use fmi_net::Net;
use fmi_net::time::Instant;
use futures_util::future::{Either, select};
use nat_sim::nat::{Fragments, Ipv6, NatConfig, preset};
use nat_sim::topology::{GatewayId, GatewaySpec, HostId, INTERNET, Topology, TopologyError};
use nat_sim::{Fault, SimNet, World, WorldError};

const PORT: u16 = 5000;

fn v6(last: u16) -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])
}

/// Two dual-stack hosts, each behind a gateway.
fn dual_stack(nat: NatConfig) -> (Topology, Vec<HostId>) {
    let (mut topology, _, old) = behind(&[nat, nat], millis(1), millis(9), millis(5));
    let hosts = (1u16..).zip(old).map(|(number, host)| {
        let mut spec = topology.hosts()[host.0].clone();
        // Beside the IPv4-only host of its network.
        spec.address = [10, 0, 0, 9].into();
        spec.also = vec![v6(number)];
        topology.host(spec)
    });
    let hosts = hosts.collect();
    (topology, hosts)
}

async fn connect(net: &SimNet, to: SocketAddr, patience: u64) -> io::Result<Instant> {
    let until = Net::now(net) + millis(patience);
    let attempt = net.connect(SocketAddr::new("::".parse().expect("v6"), PORT), to);
    match select(Box::pin(attempt), Box::pin(net.sleep_until(until))).await {
        Either::Left((result, _)) => {
            let _stream = result?;
            let at = Net::now(net);
            Net::sleep_until(net, at + millis(500)).await;
            Ok(at)
        }
        Either::Right(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn run(nat: NatConfig, punches: [bool; 2]) -> Vec<(u16, io::Result<Instant>)> {
    let (topology, hosts) = dual_stack(nat);
    let mut world = World::new(topology, 1, millis(1));
    let board = Board::new();
    for ((number, host), punches) in (1u16..).zip(hosts).zip(punches) {
        let board = board.clone();
        world.function(host, Duration::ZERO, move |net| {
            let board = board.clone();
            async move {
                if punches {
                    board.put((number, connect(&net, SocketAddr::new(v6(3 - number), PORT), 2000).await));
                }
            }
        });
    }
    assert_eq!(world.run().expect("a world").stuck, None);
    board.take()
}

/// Sends each datagram back to where it came from.
fn echo(world: &mut World, host: HostId) {
    world.service(host, |net| async move {
        let socket = net.bind_udp(53).expect("free");
        loop {
            let (from, datagram) = socket.recv_from().await;
            socket.send_to(&datagram, from).expect("sent");
        }
    });
}

#[test]
fn dual_stack_hosts_punch_without_a_reflexive_address() {
    for result in run(preset::linux_random(), [true, true]) {
        let (_, connected) = result;
        assert_eq!(connected.expect("both sent"), Instant::ZERO + millis(40), "one way is 20 ms");
    }
}

#[test]
fn a_stateful_firewall_keeps_the_uninvited_out_and_an_open_one_does_not() {
    let one_sided = |ipv6| {
        let results = run(NatConfig { ipv6, ..preset::linux_random() }, [true, false]);
        results.into_iter().next().expect("one result").1.expect_err("nobody listens").kind()
    };
    assert_eq!(one_sided(Ipv6::Stateful), io::ErrorKind::TimedOut);
    assert_eq!(one_sided(Ipv6::Open), io::ErrorKind::ConnectionRefused, "its own stack refuses");
    assert_eq!(one_sided(Ipv6::Drop), io::ErrorKind::TimedOut);
}

#[test]
fn datagrams_and_echoes_cross_gateways_and_large_ones_in_fragments() {
    for (fragments, arrives) in [(Fragments::AnyOrder, true), (Fragments::Drop, false)] {
        let nat = NatConfig { fragments, ..preset::linux_masq_drop() };
        let (topology, server, hosts) = behind(&[nat], millis(1), millis(4), millis(5));
        let mut world = World::new(topology, 1, millis(1));
        echo(&mut world, server);
        let board = Board::new();
        let result = board.clone();
        world.function(hosts[0], Duration::ZERO, move |net| {
            let result = result.clone();
            async move {
                let round_trip = net.ping(common::RENDEZVOUS).await;
                assert_eq!(round_trip, millis(20));
                let socket = net.bind_udp(0).expect("free");
                for bytes in [10, 4000] {
                    let sent = vec![7; bytes];
                    socket.send_to(&sent, SocketAddr::new(common::RENDEZVOUS.into(), 53)).expect("sent");
                    let until = Net::now(&net) + millis(200);
                    match select(Box::pin(socket.recv_from()), Box::pin(net.sleep_until(until))).await {
                        Either::Left(((_, datagram), _)) => result.put((bytes, datagram == sent)),
                        Either::Right(_) => result.put((bytes, false)),
                    }
                }
            }
        });
        world.run().expect("a world");
        assert_eq!(board.take(), [(10, true), (4000, arrives)]);
    }
}

#[test]
fn a_gateway_that_gets_another_address_cuts_its_connections_off() {
    let (topology, server, hosts) = behind(&[preset::mikrotik()], millis(1), millis(4), millis(5));
    let mut world = World::new(topology, 1, millis(1));
    world.service(server, |net| async move {
        let socket = net.bind_udp(53).expect("free");
        loop {
            let (from, _) = socket.recv_from().await;
            socket.send_to(from.ip().to_string().as_bytes(), from).expect("sent");
        }
    });
    world.fault(millis(500), Fault::RenumberGateway(GatewayId(0), [203, 0, 113, 77].into()));
    let board = Board::new();
    let result = board.clone();
    world.function(hosts[0], Duration::ZERO, move |net| {
        let result = result.clone();
        async move {
            let socket = net.bind_udp(4000).expect("free");
            for at in [0, 1000] {
                Net::sleep_until(&net, Instant::ZERO + millis(at)).await;
                socket.send_to(b"who am I", SocketAddr::new(common::RENDEZVOUS.into(), 53)).expect("sent");
                result.put(String::from_utf8(socket.recv_from().await.1).expect("a text"));
            }
        }
    });
    world.run().expect("a world");
    assert_eq!(board.take(), ["203.0.113.1", "203.0.113.77"]);
}

/// A gateway that translates nothing, with a second address, and two hosts: one behind it, one outside.
#[test]
fn a_gateway_that_gets_another_address_keeps_its_pool_and_the_hosts_behind_it() {
    let [inside, outside] = [[198, 51, 100, 7], [192, 0, 2, 9]];
    let mut topology = Topology::new();
    let lan = topology.network("lan");
    let mut gateway = GatewaySpec::plain(preset::public(), [203, 0, 113, 1], millis(1), lan);
    gateway.pool = vec![[203, 0, 113, 2].into()];
    topology.gateway(gateway);
    let host = topology.host(common::host(lan, inside, millis(1)));
    let caller = topology.host(common::host(INTERNET, outside, millis(1)));
    let mut world = World::new(topology, 1, millis(1));
    world.fault(millis(500), Fault::RenumberGateway(GatewayId(0), [203, 0, 113, 77].into()));
    echo(&mut world, host);
    let board = Board::new();
    let result = board.clone();
    world.function(caller, Duration::ZERO, move |net| {
        let result = result.clone();
        async move {
            let socket = net.bind_udp(4000).expect("free");
            for at in [0, 1000] {
                Net::sleep_until(&net, Instant::ZERO + millis(at)).await;
                socket.send_to(b"are you there", SocketAddr::from((inside, 53))).expect("sent");
                let until = Net::now(&net) + millis(200);
                let answer = select(Box::pin(socket.recv_from()), Box::pin(net.sleep_until(until))).await;
                result.put(matches!(answer, Either::Left(_)));
            }
        }
    });
    let report = world.run().expect("a world");
    assert_eq!(board.take(), [true, true]);
    assert_eq!(report.let_in, Vec::<String>::new());
}

#[test]
fn a_gateway_cannot_be_given_an_address_that_a_host_has() {
    let (topology, _, _) = behind(&[preset::mikrotik()], millis(1), millis(4), millis(5));
    let mut world = World::new(topology, 1, millis(1));
    world.fault(millis(500), Fault::RenumberGateway(GatewayId(0), common::RENDEZVOUS));
    let error = world.run().expect_err("it is taken");
    assert!(matches!(error, WorldError::Topology(TopologyError::AddressTwice { .. })), "{error}");
}
