//! Goal: the lab accuses nobody falsely: what waits on purpose is waited for, and what is written is in order. Method:
//! programs that rest for long in each way that there is, and a capture that is read back.
#![expect(clippy::disallowed_methods, reason = "programs of users sleep as they like")]

mod common;

use std::time::Duration;

use common::{Board, host, millis};
use fmi_net::{Listener, Net};
use nat_sim::topology::{HostId, HostSpec, INTERNET, SiteId, Topology};
use nat_sim::{Fault, Limits, Report, SimNet, Sinks, Stuck, World};
use pcap_file::pcapng::{Block, PcapNgReader};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longer than any grace of the watchdogs.
const LONG: Duration = Duration::from_secs(11);
const PORT: u16 = 80;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two hosts, at two sites if there is a latency between them.
fn world(between_sites: Option<Duration>) -> World {
    let mut topology = Topology::new();
    let other = between_sites.map_or(SiteId(0), |latency| topology.site("far", latency));
    for (last, site) in [(1, SiteId(0)), (2, other)] {
        topology.host(HostSpec { site, ..host(INTERNET, [1, 0, 0, last], millis(1)) });
    }
    World::new(topology, 1, millis(1))
}

async fn rest(net: SimNet, time: Duration) {
    Net::sleep_until(&net, Net::now(&net) + time).await;
}

/// Host 1 takes a connection and reads a byte, which host 0 sends after a rest.
fn late_byte<F: Future<Output = ()> + 'static>(mut world: World, rest: fn(SimNet) -> F) -> Report {
    world.function(HostId(1), Duration::ZERO, |net| async move {
        let mut listener = net.listen(([0, 0, 0, 0], 80).into(), 1).expect("listening");
        let mut stream = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.expect("accepted");
        assert_eq!(stream.read_u8().await.expect("it comes"), 7);
    });
    world.function(HostId(0), millis(5), move |net| async move {
        let stream = net.connect(([0, 0, 0, 0], 0).into(), ([1, 0, 0, 2], 80).into());
        let mut stream = stream.await.expect("connected");
        rest(net).await;
        stream.write_u8(7).await.expect("written");
    });
    world.run().expect("a world")
}

/// By a datagram, of which nothing is left at its sender while it is on its way.
#[test]
fn a_program_may_sleep_and_then_send_to_another_site() {
    let mut world = world(Some(millis(50)));
    world.function(HostId(1), Duration::ZERO, |net| async move {
        let socket = net.bind_udp(PORT).expect("bound");
        assert_eq!(socket.recv_from().await.1, b"late");
    });
    world.function(HostId(0), Duration::ZERO, |net| async move {
        let socket = net.bind_udp(0).expect("bound");
        rest(net, LONG).await;
        socket.send_to(b"late", ([1, 0, 0, 2], PORT).into()).expect("sent");
    });
    assert_eq!(world.run().expect("a world").stuck, None);
}

#[test]
fn a_program_may_sleep_by_the_timer_of_tokio() {
    let report = late_byte(world(None), |_| tokio::time::sleep(LONG));
    assert_eq!(report.stuck, None);
}

#[test]
fn a_start_later_than_the_longest_wait_is_waited_for() {
    let limits = Limits { no_progress_max: seconds(20), ..Limits::default() };
    let mut late = world(None);
    late.limits(limits.clone());
    late.function(HostId(0), seconds(100), |net| rest(net, seconds(15)));
    let report = late.run().expect("a world");
    assert_eq!((report.stuck, report.elapsed.as_secs()), (None, 115));
    // It waits for nothing else: from the start on the clock runs.
    let mut stuck = world(None);
    stuck.limits(limits);
    stuck.function(HostId(0), seconds(100), |net| rest(net, seconds(60)));
    let report = stuck.run().expect("a world");
    assert!(matches!(report.stuck, Some(Stuck::NoProgress(..))), "{:?}", report.stuck);
    assert!(report.elapsed < seconds(121), "{:?}", report.elapsed);
}

#[test]
fn a_planned_restart_is_waited_for_when_everything_else_has_ended() {
    for restart in [true, false] {
        let mut world = world(None);
        let board = Board::new();
        let starts = board.clone();
        world.function(HostId(0), Duration::ZERO, move |net| {
            starts.put(Net::now(&net).since_origin());
            rest(net, seconds(5))
        });
        world.fault(seconds(1), Fault::Kill(HostId(0)));
        if restart {
            world.fault(seconds(30), Fault::Start(HostId(0)));
        }
        // Too late to be seen by anybody.
        world.fault(seconds(90), Fault::Lose(HostId(0), 1));
        let report = world.run().expect("a world");
        assert_eq!(report.stuck, None);
        let expected = if restart { vec![seconds(0), seconds(30)] } else { vec![seconds(0)] };
        assert_eq!((board.take(), report.faults_left), (expected, 1));
    }
}

#[test]
fn a_capture_is_in_order_of_time_to_the_last_packet() {
    let file = common::File::default();
    let mut world = world(Some(millis(3)));
    world.sinks(Sinks { pcap: Some(Box::new(file.clone())), log: None });
    world.service(HostId(1), |net| async move {
        let mut listener = net.listen(([0, 0, 0, 0], 80).into(), 1).expect("listening");
        let mut stream = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.expect("accepted");
        let mut bytes = vec![0; 1000];
        // Its connection is closed when the world is taken apart.
        while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
        std::future::pending().await
    });
    world.function(HostId(0), millis(5), |net| async move {
        let stream = net.connect(([0, 0, 0, 0], 0).into(), ([1, 0, 0, 2], 80).into());
        let mut stream = stream.await.expect("connected");
        stream.write_all(&[1; 100_000]).await.expect("written");
    });
    let report = world.run().expect("a world");
    assert_eq!(report.stuck, None);
    let bytes = file.bytes();
    let mut reader = PcapNgReader::new(&bytes[..]).expect("a capture");
    let mut times = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.expect("well formed") {
            times.push(packet.timestamp);
        }
    }
    assert_eq!(times.len() as u64, report.packets);
    assert!(times.is_sorted(), "{times:?}");
    let last = times.last().copied().expect("packets");
    assert!(last >= report.elapsed, "the end is a part of the run: {last:?} of {:?}", report.elapsed);
}
