//! Goal: the lab finds what is wrong. Method: each fault of `fmi_net::planted` is planted on the thread of a test, which then
//! does a small part of what the tests of every commit do, and must come upon it; without the fault the same runs pass.

use std::ops::Range;

use fmi_net::planted::{Fault, with};
use scenarios::{Options, Scenario, catalog, matrix, swarm};

/// Runs, by scenario and seed.
type Runs = Vec<(Scenario, u64)>;

fn named(name: &str, seeds: Range<u64>) -> Runs {
    let scenario = catalog::find_scenario(name).unwrap_or_else(|| panic!("{name} is not in the catalogue"));
    seeds.map(|seed| (scenario.clone(), seed)).collect()
}

fn drawn(numbers: Range<u64>, draw: fn(u64) -> Scenario) -> Runs {
    numbers.map(|number| (draw(number), number)).collect()
}

/// What the first run finds that finds anything.
fn first_finding(runs: &Runs) -> Option<String> {
    runs.iter().find_map(|(scenario, seed)| {
        let outcome = scenarios::run(scenario, *seed, Options::default());
        let found = format!("{} {seed}: {}", outcome.scenario, outcome.violations.join("\n"));
        (!outcome.passed()).then_some(found)
    })
}

/// One of these runs finds the fault, and says something that concerns it; without it they all pass.
#[track_caller]
fn is_found(fault: Fault, runs: &Runs, concerns: &[&str]) {
    assert_eq!(first_finding(runs), None, "without a fault");
    find(fault, runs, concerns);
}

/// The same of runs that are known to pass without it.
#[track_caller]
fn find(fault: Fault, runs: &Runs, concerns: &[&str]) {
    let (found, reached) = with(fault, || first_finding(runs));
    let Some(found) = found else { panic!("{fault:?} is not found; its place was reached {reached} times") };
    let is_meant = concerns.iter().any(|text| found.contains(text));
    assert!(is_meant, "{fault:?}: none of {concerns:?} is in {found}");
}

#[test]
fn a_lost_frame_is_found() {
    is_found(Fault::LostFrame, &named("corner-prompt", 1..2), &["took", "timed out after"]);
}

#[test]
fn swapped_elements_are_found() {
    is_found(Fault::SwappedElements, &named("group-3", 1..2), &["Allreduce { bytes: 40000 }: element"]);
}

#[test]
fn a_message_that_is_delivered_twice_is_found() {
    is_found(Fault::StoredTwice, &named("corner-stored", 1..2), &["came a second time"]);
}

#[test]
fn a_survivor_that_its_peers_do_not_tell_is_found() {
    is_found(
        Fault::SurvivorNotTold,
        &named("corner-told-by-peers", 1..2),
        &["rank 3 was not told that rank 0 is gone"],
    );
}

#[test]
fn half_a_key_on_the_wire_is_found() {
    is_found(Fault::HalfKeyOnWire, &named("group-2", 1..2), &["on a wire"]);
}

#[test]
fn a_nonce_that_never_changes_is_found() {
    for mode in ["encrypted", "authenticated"] {
        let runs = named(&format!("corner-tampered-repeat-{mode}"), 1..2);
        is_found(Fault::FixedNonce, &runs, &["a record that was changed on the way was taken"]);
    }
}

#[test]
fn a_wrong_mac_that_is_accepted_is_found() {
    for mode in ["encrypted", "authenticated"] {
        let runs = named(&format!("corner-tampered-flip-{mode}"), 1..2);
        is_found(Fault::WrongMacAccepted, &runs, &["a record that was changed on the way was taken"]);
    }
}

#[test]
fn a_port_of_another_host_is_found() {
    is_found(Fault::PortReused, &named("corner-one-nat", 1..2), &["which another host has in use"]);
}

#[test]
fn a_filter_that_leaks_is_found() {
    is_found(Fault::LeakyFilter, &named("corner-strangers", 1..2), &["the filter does not admit it"]);
}

#[test]
fn ignored_deadlines_are_found() {
    is_found(Fault::DeadlinesIgnored, &named("corner-deadline", 1..2), &["who waits ends at the deadline"]);
}

#[test]
fn an_unfair_receive_from_any_source_is_found() {
    is_found(Fault::UnfairAnySource, &named("corner-any-source", 1..2), &["is unfair"]);
}

#[test]
fn a_lost_wake_up_is_found() {
    is_found(Fault::LostWakeUp, &named("corner-prompt", 1..2), &["an operation waited for a timer"]);
}

#[test]
fn a_death_that_is_noticed_late_is_found() {
    is_found(Fault::LateDeath, &named("killed-in-allreduce", 1..2), &["learnt of the loss after"]);
}

#[test]
fn an_accepted_stranger_is_found() {
    for name in ["corner-knock", "attack-knocker"] {
        is_found(Fault::AnyConfirmation, &named(name, 1..2), &["a stranger was answered"]);
    }
}

#[test]
fn a_survivor_that_the_rendezvous_skips_is_found() {
    is_found(Fault::SkippedSurvivor, &named("corner-told-by-rendezvous", 1..2), &["rank 2 learnt of the loss after"]);
}

#[test]
fn a_gateway_that_drops_syns_for_one_seed_in_four_is_found() {
    let presets: Vec<_> = ["linux_masq_drop", "aws_lambda", "rfc_strict", "rfc_ideal"]
        .iter()
        .map(|name| nat_sim::nat::preset::find(name).expect("a preset"))
        .collect();
    let disagreement = || {
        let pairs = presets.iter().flat_map(|first| presets.iter().map(move |second| (*first, *second)));
        let mut runs = pairs.zip(1..);
        runs.find_map(|((first, second), seed)| matrix::measure(first, second, seed).disagreement)
    };
    assert_eq!(disagreement(), None, "without a fault");
    let (found, reached) = with(Fault::DroppedSyns, disagreement);
    let Some(found) = found else { panic!("it is not found; its place was reached {reached} times") };
    assert!(found.contains("the oracle says direct"), "{found}");
}

/// What the swarm and the operations find, which are drawn and not made for anything.
#[test]
fn drawn_runs_find_what_is_not_rare() {
    let runs = drawn(1..20, swarm::operations);
    is_found(Fault::StoredTwice, &runs, &["reference says", "probe says"]);
    find(Fault::LostFrame, &runs, &["timed out", "calls", "waits for"]);
}
