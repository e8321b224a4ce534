//! Goal: no panic in a world passes for success, wherever it happens, and each is quoted. Method: programs that panic in the
//! places where something else would swallow it: a spawned task, a destructor, an unwinding that somebody catches.
#![expect(clippy::disallowed_methods, reason = "what is spawned panics out of sight")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::{host, millis};
use fmi_net::Net;
use nat_sim::topology::{HostId, INTERNET, Topology};
use nat_sim::{Fault, Report, SimNet, Stuck, World};

/// Runs a program on a host, as a function or as a service, beside a function that takes a minute.
fn run<F: Future<Output = ()> + 'static>(is_service: bool, program: fn(SimNet) -> F, faults: &[Fault]) -> Report {
    let mut topology = Topology::new();
    for last in [1, 2] {
        topology.host(host(INTERNET, [1, 0, 0, last], millis(1)));
    }
    let mut world = World::new(topology, 1, millis(1));
    for fault in faults {
        world.fault(millis(40), *fault);
    }
    if is_service {
        world.service(HostId(1), program);
    } else {
        world.function(HostId(1), Duration::ZERO, program);
    }
    world.function(HostId(0), Duration::ZERO, |net| rest(net, 60_000));
    world.run().expect("a world")
}

async fn rest(net: SimNet, time: u64) {
    Net::sleep_until(&net, Net::now(&net) + millis(time)).await;
}

/// Panics when it is dropped.
struct Fragile;

impl Drop for Fragile {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("dropped without care");
        }
    }
}

fn is_quoted(report: &Report, message: &str, host: Option<usize>) {
    let Some(Stuck::Failed(quoted)) = &report.stuck else { panic!("{:?}", report.stuck) };
    let named = host.is_none_or(|host| quoted.starts_with(&format!("the program of host {host} panicked: ")));
    assert!(named && quoted.contains(message) && quoted.contains("tests/panics.rs:"), "{quoted}");
}

#[test]
fn a_spawned_task_that_panics_fails_the_run() {
    for is_service in [false, true] {
        let locally = run(
            is_service,
            |net| async move {
                tokio::task::spawn_local(async { panic!("nobody awaits task {}", 7) });
                rest(net, 60_000).await;
            },
            &[],
        );
        is_quoted(&locally, "nobody awaits task 7", Some(1));
        assert!(locally.elapsed < millis(30), "{:?}", locally.elapsed);
        let outside = run(
            is_service,
            |net| async move {
                tokio::spawn(async { panic!("it escaped") });
                rest(net, 60_000).await;
            },
            &[],
        );
        is_quoted(&outside, "it escaped", None);
    }
}

#[test]
fn a_panic_that_the_program_catches_fails_the_run() {
    let caught = run(
        false,
        |_| async {
            let caught = catch_unwind(AssertUnwindSafe(|| panic!("caught")));
            assert!(caught.is_err());
        },
        &[],
    );
    is_quoted(&caught, "caught", Some(1));
}

#[test]
fn a_destructor_that_panics_at_a_kill_fails_the_run() {
    let fragile = |net| async move {
        let _fragile = Fragile;
        rest(net, 60_000).await;
    };
    let killed = run(false, fragile, &[Fault::Kill(HostId(1)), Fault::Start(HostId(1))]);
    is_quoted(&killed, "dropped without care", Some(1));
}

/// Services run on until the world is taken apart.
#[test]
fn a_destructor_that_panics_at_the_end_fails_the_run() {
    let end = run(
        true,
        |_| async {
            let _fragile = Fragile;
            std::future::pending().await
        },
        &[],
    );
    is_quoted(&end, "dropped without care", Some(1));
}

/// What panics before a world or beside it is not the world's.
#[test]
fn a_panic_outside_of_the_world_is_not_its_own() {
    let before = catch_unwind(|| panic!("before"));
    let beside = std::thread::spawn(|| panic!("beside")).join();
    assert!(before.is_err() && beside.is_err());
    let report = run(false, |net| rest(net, 5), &[]);
    assert_eq!(report.stuck, None);
}
