//! Goal: a frozen function is silent with its kernel, and goes on after the thaw as a paused machine does. Method: a
//! frozen host, peers that probe it by hand and through their kernels, and the times at which anything comes.

#![expect(clippy::unwrap_in_result, reason = "tests fail by panicking")]

mod common;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use common::{Board, host, millis};
use fmi_net::{ByteStream, Listener, Net};
use nat_sim::host::FROZEN_PACKETS_MAX;
use nat_sim::packet::{Echo, Packet, Segment};
use nat_sim::topology::{HostId, INTERNET, Topology};
use nat_sim::{Fault, SimNet, Stuck, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const FROZEN: HostId = HostId(0);
const PEER: HostId = HostId(1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(1, 0, 0, 1);
const PEER_ADDRESS: Ipv4Addr = Ipv4Addr::new(1, 0, 0, 2);
const OPEN: u16 = 80;
const CLOSED: u16 = 81;

/// Two hosts, two milliseconds apart; the first is frozen between the two times.
fn world(freeze: Duration, thaw: Option<Duration>) -> World {
    let mut topology = Topology::new();
    for address in [ADDRESS, PEER_ADDRESS] {
        topology.host(host(INTERNET, address.octets(), millis(1)));
    }
    let mut world = World::new(topology, 1, millis(1));
    world.fault(freeze, Fault::Freeze(FROZEN));
    if let Some(thaw) = thaw {
        world.fault(thaw, Fault::Thaw(FROZEN));
    }
    world
}

async fn sleep(net: &SimNet, until: Duration) {
    Net::sleep_until(net, fmi_net::time::Instant::ZERO + until).await;
}

fn now(net: &SimNet) -> Duration {
    Net::now(net).since_origin()
}

async fn accept(net: &SimNet) -> <SimNet as Net>::Stream {
    let mut listener = net.listen(([0; 4], OPEN).into(), 8).expect("listening");
    std::future::poll_fn(|cx| listener.poll_accept(cx)).await.expect("accepted")
}

async fn connect(net: &SimNet) -> <SimNet as Net>::Stream {
    net.connect(([0; 4], 0).into(), (ADDRESS, OPEN).into()).await.expect("connected")
}

fn syn(from: u16, to: u16) -> Packet {
    let segment = Segment { syn: true, sequence: 7, window: 1000, ..Segment::NONE };
    Packet::tcp(SocketAddrV4::new(PEER_ADDRESS, from), SocketAddrV4::new(ADDRESS, to), segment, &[])
}

/// What a host answers to a SYN at an open port, a SYN at a closed one, an echo request and a datagram, and when.
fn answers(freeze: Duration, thaw: Duration) -> Vec<(Duration, &'static str)> {
    let mut world = world(freeze, Some(thaw));
    world.service(FROZEN, |net| async move {
        let _listener = net.listen(([0; 4], OPEN).into(), 8).expect("listening");
        std::future::pending().await
    });
    let board = Board::new();
    let seen = board.clone();
    world.function(PEER, millis(100), move |net| {
        let seen = seen.clone();
        async move {
            let raw = net.raw();
            let echo = Echo { is_request: true, identifier: 5, sequence: 1 };
            raw.send(syn(1000, OPEN));
            raw.send(syn(1001, CLOSED));
            raw.send(Packet::echo(PEER_ADDRESS, ADDRESS, echo, b"x"));
            raw.send(Packet::udp((PEER_ADDRESS, 1002).into(), (ADDRESS, CLOSED).into(), b"x"));
            for _ in 0..4 {
                let packet = raw.recv().await;
                let what = match packet.segment() {
                    Some(segment) if segment.syn && segment.ack => "SYN|ACK",
                    Some(segment) if segment.rst => "RST",
                    None if packet.as_echo().is_some() => "echo",
                    None if packet.icmp_error().is_some() => "unreachable",
                    other => panic!("{other:?}"),
                };
                seen.put((now(&net), what));
            }
        }
    });
    assert_eq!(world.run().expect("a world").stuck, None);
    board.take()
}

#[test]
fn a_frozen_kernel_acknowledges_refuses_and_echoes_nothing() {
    let all = ["SYN|ACK", "RST", "echo", "unreachable"];
    let awake = answers(millis(60_000), millis(60_001));
    assert_eq!(awake, all.map(|what| (millis(104), what)), "the control: two milliseconds there, two back");
    let frozen = answers(millis(50), millis(3000));
    assert_eq!(frozen, all.map(|what| (millis(3002), what)), "the packets that waited are answered after the thaw");
}

/// How the connection of a peer that probes a host which is frozen for `time` ends: it waits for a byte that comes
/// after 10 s.
fn probed(time: Duration) -> Result<u8, io::ErrorKind> {
    let mut world = world(millis(1000), Some(millis(1000) + time));
    world.service(FROZEN, |net| async move {
        let mut stream = accept(&net).await;
        sleep(&net, millis(10_000)).await;
        // The peer may have given up.
        let _ = stream.write_all(&[9]).await;
        std::future::pending().await
    });
    let board = Board::new();
    let ends = board.clone();
    world.function(PEER, Duration::ZERO, move |net| {
        let ends = ends.clone();
        async move {
            let mut stream = connect(&net).await;
            stream.set_keepalive(millis(200), millis(1000)).expect("connected");
            ends.put(stream.read_u8().await.map_err(|error| error.kind()));
        }
    });
    assert_eq!(world.run().expect("a world").stuck, None);
    board.take()[0]
}

#[test]
fn a_frozen_kernel_answers_no_probe() {
    assert_eq!(probed(millis(700)), Ok(9), "a freeze shorter than the silence is survived");
    assert_eq!(probed(millis(1500)), Err(io::ErrorKind::TimedOut));
}

#[test]
fn a_frozen_kernel_probes_nobody_and_retransmits_nothing() {
    let mut world = world(millis(1000), Some(millis(9000)));
    // Its first SYN, and those at 1, 2, 3, 4, 5 and 7 s, meet a peer that says nothing.
    world.service(FROZEN, |net| async move {
        sleep(&net, millis(500)).await;
        let _ = net.connect(([0; 4], 0).into(), (PEER_ADDRESS, OPEN).into()).await;
        std::future::pending().await
    });
    let board = Board::new();
    let seen = board.clone();
    world.function(PEER, Duration::ZERO, move |net| {
        let seen = seen.clone();
        async move {
            let raw = net.raw();
            sleep(&net, millis(10_000)).await;
            seen.put(raw.take().len());
        }
    });
    world.fault(millis(9500), Fault::Freeze(FROZEN));
    assert_eq!(world.run().expect("a world").stuck, None);
    // One before the freeze; the overdue timer sends one, not six.
    assert_eq!(board.take(), [2]);
}

#[test]
fn the_program_goes_on_after_the_thaw_and_sees_that_time_has_passed() {
    let mut world = world(millis(1000), Some(millis(5000)));
    let board = Board::new();
    let times = board.clone();
    world.function(FROZEN, Duration::ZERO, move |net| {
        let times = times.clone();
        async move {
            for until in [500, 2000, 3000, 6000] {
                sleep(&net, millis(until)).await;
                times.put(now(&net));
            }
        }
    });
    assert_eq!(world.run().expect("a world").stuck, None);
    assert_eq!(board.take(), [500, 5000, 5000, 6000].map(millis));
}

#[test]
fn a_long_transfer_survives_a_freeze() {
    const BYTES: usize = 3_000_000;
    let mut world = world(millis(100), Some(millis(4000)));
    let board = Board::new();
    let read = board.clone();
    world.function(FROZEN, Duration::ZERO, move |net| {
        let read = read.clone();
        async move {
            let mut stream = accept(&net).await;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.expect("no error");
            read.put((bytes.len(), bytes.iter().all(|byte| *byte == 3), now(&net) > millis(4000)));
        }
    });
    world.function(PEER, millis(50), |net| async move {
        let mut stream = connect(&net).await;
        stream.write_all(&vec![3; BYTES]).await.expect("written");
        stream.shutdown().await.expect("closed");
    });
    assert_eq!(world.run().expect("a world").stuck, None);
    assert_eq!(board.take(), [(BYTES, true, true)]);
}

/// Reads datagrams of which so many are sent during a freeze.
fn datagrams_read(count: usize) -> usize {
    let mut world = world(millis(50), Some(millis(3000)));
    let board = Board::new();
    let read = board.clone();
    world.function(FROZEN, Duration::ZERO, move |net| {
        let read = read.clone();
        async move {
            let socket = net.bind_udp(OPEN).expect("bound");
            let mut number = 0;
            loop {
                let (_, payload) = socket.recv_from().await;
                if payload == b"last" {
                    return read.put(number);
                }
                number += 1;
            }
        }
    });
    world.function(PEER, millis(100), move |net| async move {
        let socket = net.bind_udp(0).expect("bound");
        for _ in 0..count {
            socket.send_to(b"x", (ADDRESS, OPEN).into()).expect("sent");
        }
        sleep(&net, millis(4000)).await;
        socket.send_to(b"last", (ADDRESS, OPEN).into()).expect("sent");
    });
    let report = world.run().expect("a world");
    assert_eq!(report.stuck, None);
    let number = board.take()[0];
    assert_eq!(report.lost, (count - number) as u64, "what did not fit counts as lost");
    number
}

#[test]
fn packets_wait_up_to_a_bound_and_the_others_are_lost() {
    assert_eq!(datagrams_read(FROZEN_PACKETS_MAX), FROZEN_PACKETS_MAX);
    assert_eq!(datagrams_read(FROZEN_PACKETS_MAX + 1), FROZEN_PACKETS_MAX);
}

#[test]
fn a_function_can_be_frozen_before_its_start_and_killed_or_started_while_frozen() {
    let starts = |faults: &[(u64, Fault)]| {
        let mut world = world(millis(50), None);
        for (at, fault) in faults {
            world.fault(millis(*at), *fault);
        }
        let board = Board::new();
        let times = board.clone();
        world.function(FROZEN, millis(100), move |net| {
            let times = times.clone();
            async move {
                times.put(now(&net));
                sleep(&net, millis(1000)).await;
            }
        });
        assert_eq!(world.run().expect("a world").stuck, None);
        board.take()
    };
    assert_eq!(starts(&[]), [], "nobody thaws it: the run does not wait for it");
    assert_eq!(starts(&[(300, Fault::Thaw(FROZEN))]), [millis(300)]);
    assert_eq!(starts(&[(300, Fault::Kill(FROZEN)), (400, Fault::Thaw(FROZEN))]), [], "the dead do not thaw");
    let again = [(200, Fault::Thaw(FROZEN)), (300, Fault::Freeze(FROZEN)), (400, Fault::Start(FROZEN))];
    assert_eq!(starts(&again), [millis(200), millis(400)], "a new sandbox in place of a frozen one");
}

#[test]
fn the_dump_of_a_stuck_world_says_who_is_frozen() {
    let mut world = world(millis(50), Some(millis(700_000)));
    world.function(FROZEN, Duration::ZERO, |net| async move {
        accept(&net).await;
    });
    // The thaw is planned for later than the end.
    let Some(Stuck::Time(_, dump)) = world.run().expect("a world").stuck else { panic!("stuck") };
    assert!(dump.contains("host 0 (1.0.0.1) Running, frozen"), "{dump}");
}
