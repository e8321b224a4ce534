//! Goal: every entry of the catalogue comes out as it must, with fixed and with fresh seeds. Method:
//! run them. Fresh seeds come from `FMI_SEED`, else from the clock, and are printed.
#![expect(clippy::print_stdout, reason = "a fresh seed is printed")]

use std::time::SystemTime;

use scenarios::{Check, Options, Outcome, Scenario, catalog};

/// Seeds that every run of the tests uses.
const FIXED: [u64; 2] = [1, 2];
/// Fresh seeds for each entry.
const FRESH: u64 = 2;
/// From this size on, one fixed seed has to do.
const LARGE: usize = 100;

#[expect(clippy::disallowed_methods, reason = "a fresh seed must come from somewhere; it is printed")]
fn fresh_seed() -> u64 {
    if let Some(given) = std::env::var_os("FMI_SEED") {
        let seed = given.to_str().and_then(|seed| seed.parse().ok());
        return seed.unwrap_or_else(|| panic!("FMI_SEED: {given:?} is not a seed"));
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() % 1_000_000 * 1000
}

fn check(scenario: &Scenario, seed: u64) -> Result<Outcome, String> {
    let outcome = scenarios::run(scenario, seed, Options::default());
    if outcome.passed() {
        return Ok(outcome);
    }
    Err(format!("{}\n{}", outcome.violations.join("\n"), outcome.replay_command()))
}

/// Runs the part of the catalogue whose names begin with one of `prefixes`.
fn run(prefixes: &[&str]) {
    let fresh = fresh_seed();
    println!("fresh seeds from {fresh}");
    let mut failures = Vec::new();
    let mut runs = 0;
    for scenario in catalog::all() {
        if !prefixes.iter().any(|prefix| scenario.name.starts_with(prefix)) {
            continue;
        }
        let is_large = scenario.world.functions.len() >= LARGE;
        let fixed = FIXED.into_iter().take(if is_large { 1 } else { FIXED.len() });
        let seeds = fixed.chain((fresh..fresh + FRESH).filter(|_| !is_large));
        for seed in seeds {
            runs += 1;
            failures.extend(check(&scenario, seed).err());
        }
    }
    assert!(runs > 0, "a part of the catalogue is empty");
    assert!(failures.is_empty(), "{} of {runs} runs failed:\n{}", failures.len(), failures.join("\n\n"));
}

const PAIRS: &str = "pair-";
const SWARM: &str = "swarm-";
const OPERATIONS: &str = "operations-";
/// Drawn scenarios in addition to those of the catalogue.
const FRESH_SWARM: u64 = 100;
const LARGE_GROUPS: [&str; 2] = ["group-256", "mesh-256"];
const GROUPS: [&str; 6] = ["group-2", "group-3", "group-8", "same-nat", "cold-starts", "two-functions"];
const FAULTS: [&str; 7] = ["killed-", "frozen-", "rendezvous-", "loss-", "site-", "relayed-", "servers-"];
const TECHNIQUES: [&str; 4] = ["technique-", "ipv6", "relay-refused", "security-"];
const CORNERS: [&str; 1] = ["corner-"];
const ATTACKS: [&str; 1] = ["attack-"];

#[test]
fn drawn_scenarios_succeed() {
    run(&[SWARM, OPERATIONS]);
    let fresh = fresh_seed();
    let both = |number| [scenarios::swarm::draw(number), scenarios::swarm::operations(number)];
    let drawn = (fresh..fresh + FRESH_SWARM).flat_map(|number| both(number).map(|drawn| check(&drawn, number).err()));
    let failures: Vec<_> = drawn.flatten().collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn every_pair_of_nats_comes_out_as_predicted() {
    run(&[PAIRS]);
}

#[test]
fn groups_of_every_size_compute() {
    let small = catalog::all().into_iter().filter(|scenario| scenario.world.functions.len() < LARGE);
    let names: Vec<_> = small.map(|scenario| scenario.name).collect();
    let groups: Vec<_> =
        names.iter().map(String::as_str).filter(|name| GROUPS.iter().any(|g| name.starts_with(g))).collect();
    run(&groups);
}

#[test]
fn faults_are_survived_or_named() {
    run(&FAULTS);
}

#[test]
fn each_technique_serves_the_nats_that_it_is_for() {
    run(&TECHNIQUES);
}

#[test]
fn corners_that_nothing_else_reaches_are_as_they_must_be() {
    run(&CORNERS);
}

#[test]
fn attackers_stop_nobody_and_learn_nothing() {
    run(&ATTACKS);
}

#[test]
fn a_group_of_256_computes() {
    run(&LARGE_GROUPS[..1]);
}

#[test]
fn a_full_mesh_of_256_connects() {
    run(&LARGE_GROUPS[1..]);
}

#[test]
fn no_entry_of_the_catalogue_is_left_out() {
    let known = |name: &str| {
        let prefixes = FAULTS
            .iter()
            .chain(&GROUPS)
            .chain(&TECHNIQUES)
            .chain(&ATTACKS)
            .chain(&CORNERS)
            .chain(&LARGE_GROUPS)
            .chain([&PAIRS, &SWARM, &OPERATIONS]);
        prefixes.into_iter().any(|prefix| name.starts_with(prefix))
    };
    let left_out: Vec<_> =
        catalog::all().into_iter().map(|scenario| scenario.name).filter(|name| !known(name)).collect();
    assert!(left_out.is_empty(), "{left_out:?}");
}

#[test]
fn the_lab_agrees_with_the_oracle_on_every_cell() {
    let cells = scenarios::matrix::all(fresh_seed(), || ());
    assert_eq!(cells.len(), scenarios::matrix::CELLS);
    let disagreements: Vec<_> =
        cells.iter().filter_map(|cell| cell.disagreement.as_ref().map(|what| (what, &cell.replay))).collect();
    assert!(disagreements.is_empty(), "{disagreements:#?}");
}

/// The checks themselves: a run that does not come out as said is noticed.
#[test]
fn a_wrong_expectation_fails() {
    let wrong = |name: &str, check: Check| {
        let mut scenario = catalog::find_scenario(name).expect("in the catalogue");
        scenario.checks = vec![check];
        self::check(&scenario, 1).expect_err("the expectation is wrong")
    };
    let both = "two-functions";
    assert!(wrong(both, Check::Unconnected).contains("finished but must not have"));
    assert!(wrong(both, Check::Fails { rank: 1 }).contains("rank 1 finished but must not have"));
    assert!(wrong(both, Check::Via(fmi::Path::Relay)).contains("by the path direct, not relay"));
    assert!(wrong(both, Check::EndsVia(fmi::Path::Relay)).contains("which must be relay"));
    let techniques = vec![fmi::Technique::Punch, fmi::Technique::Spray];
    assert!(wrong(both, Check::Techniques(techniques)).contains("rank 1 reaches rank 0 by punch, not spray"));
    let (at, bound) = (std::time::Duration::from_millis(1500), std::time::Duration::from_millis(100));
    let lost = |rank| Check::Lost { rank, at, bound };
    assert!(wrong("killed-in-allreduce", lost(5)).contains("learnt of the loss after"));
    assert!(wrong("killed-in-allreduce", lost(4)).contains("does not name rank 4"));
    let later = Check::Lost { rank: 5, at: std::time::Duration::from_secs(100), bound };
    assert!(wrong("killed-in-allreduce", later).contains("before it was lost at 100s"));
    assert!(wrong("killed-in-allreduce", Check::Succeeds).contains("failed:"));
    assert!(wrong("frozen-briefly", Check::Fails { rank: 5 }).contains("rank 5 finished"));
    let claim = Check::that("nobody joins", |outcome| match outcome.joined_at.len() {
        0 => Ok(()),
        joined => Err(format!("{joined} joined")),
    });
    assert!(wrong(both, claim).contains("nobody joins: 2 joined"));
}
