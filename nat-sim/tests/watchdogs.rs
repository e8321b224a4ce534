//! Goal: a run that would go on forever ends and says why. Method: programs that do just that.
#![expect(clippy::wildcard_enum_match_arm, reason = "what is not expected fails, whatever it is")]

mod common;

use std::time::Duration;

use common::{host, millis};
use fmi_net::{Listener, Net};
use nat_sim::topology::{HostId, INTERNET, Topology};
use nat_sim::{Limits, SimNet, Sinks, Stuck, World, WorldError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn world(limits: Limits) -> World {
    let mut topology = Topology::new();
    for last in [1, 2] {
        topology.host(host(INTERNET, [1, 0, 0, last], millis(1)));
    }
    let mut world = World::new(topology, 1, millis(1));
    world.limits(limits);
    world
}

async fn server(net: SimNet) -> <SimNet as Net>::Stream {
    let mut listener = net.listen(([0, 0, 0, 0], 80).into(), 1).expect("listening");
    std::future::poll_fn(|cx| listener.poll_accept(cx)).await.expect("accepted")
}

async fn client(net: SimNet) -> <SimNet as Net>::Stream {
    net.connect(([0, 0, 0, 0], 0).into(), ([1, 0, 0, 2], 80).into()).await.expect("connected")
}

fn stuck(world: World) -> Stuck {
    world.run().expect("a world").stuck.expect("stuck")
}

#[test]
fn two_functions_that_wait_for_each_other_are_a_deadlock() {
    let mut world = world(Limits::default());
    world.function(HostId(0), millis(5), |net| async move {
        client(net).await.read_u8().await.expect("never");
    });
    world.function(HostId(1), millis(0), |net| async move {
        server(net).await.read_u8().await.expect("never");
    });
    match stuck(world) {
        Stuck::Deadlock(dump) => {
            assert!(dump.contains("waits to read on 1.0.0.2:80 > 1.0.0.1"), "{dump}");
            assert_eq!(dump.matches("Running").count(), 2, "{dump}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_function_that_only_sleeps_makes_no_progress() {
    let mut world = world(Limits { no_progress_max: Duration::from_secs(60), ..Limits::default() });
    world.function(HostId(0), millis(0), |net| async move {
        loop {
            let at = Net::now(&net) + millis(1000);
            Net::sleep_until(&net, at).await;
        }
    });
    assert!(matches!(stuck(world), Stuck::NoProgress(after, _) if after < Duration::from_secs(62)));
}

#[test]
fn time_events_and_capture_are_limited() {
    let chatter = |limits: Limits, sinks: Sinks| {
        let mut world = world(limits);
        world.sinks(sinks);
        world.function(HostId(0), millis(5), |net| async move {
            let mut stream = client(net).await;
            while stream.write_all(&[0; 1000]).await.is_ok() {}
        });
        world.function(HostId(1), millis(0), |net| async move {
            let mut stream = server(net).await;
            let mut buffer = [0; 1000];
            while stream.read(&mut buffer).await.is_ok() {}
        });
        stuck(world)
    };
    let limits = Limits { time_max: millis(500), ..Limits::default() };
    assert!(matches!(chatter(limits, Sinks::default()), Stuck::Time(..)));
    let limits = Limits { events_max: 1000, ..Limits::default() };
    assert!(matches!(chatter(limits, Sinks::default()), Stuck::Events(..)));
    let limits = Limits { capture_bytes_max: 10_000, ..Limits::default() };
    let sinks = Sinks { pcap: Some(Box::new(std::io::sink())), log: None };
    assert!(matches!(chatter(limits.clone(), sinks), Stuck::Capture(what) if what.contains("10000 bytes")));
    let sinks = Sinks { pcap: None, log: Some(Box::new(std::io::sink())) };
    assert!(matches!(chatter(limits, sinks), Stuck::Capture(what) if what.contains("10000 bytes")));
}

/// Events of programs take room as packets do.
#[test]
fn a_log_of_events_alone_is_limited() {
    let mut world = world(Limits { capture_bytes_max: 10_000, ..Limits::default() });
    world.sinks(Sinks { pcap: None, log: Some(Box::new(std::io::sink())) });
    world.function(HostId(0), millis(0), |net| async move {
        for _ in 0..1000 {
            net.record("noise", "of which there is much");
        }
    });
    assert!(matches!(stuck(world), Stuck::Capture(what) if what.contains("10000 bytes")));
}

#[test]
fn a_panic_in_a_function_or_service_ends_the_run_and_is_quoted() {
    for is_service in [false, true] {
        let mut world = world(Limits::default());
        let program = |net: SimNet| async move {
            Net::sleep_until(&net, Net::now(&net) + millis(20)).await;
            panic!("a bug of the program, number {}", 7)
        };
        if is_service {
            world.service(HostId(1), program);
        } else {
            world.function(HostId(1), millis(0), program);
        }
        // It would run for another minute.
        world.function(HostId(0), millis(0), |net| async move {
            Net::sleep_until(&net, Net::now(&net) + millis(60_000)).await;
        });
        let report = world.run().expect("a world");
        let Some(Stuck::Failed(quoted)) = report.stuck else { panic!("{:?}", report.stuck) };
        let expected = "the program of host 1 panicked: a bug of the program, number 7, at nat-sim/tests/watchdogs.rs:";
        assert!(quoted.starts_with(expected), "{quoted}");
        assert!(report.elapsed < millis(30), "{:?}", report.elapsed);
    }
}

#[test]
fn a_latency_between_sites_must_be_ticks() {
    let mut topology = Topology::new();
    topology.site("far", Duration::from_micros(1500));
    let error = World::new(topology, 1, millis(1)).run().expect_err("not ticks");
    assert!(matches!(error, WorldError::Latency { .. }), "{error}");
}
