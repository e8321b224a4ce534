//! Goal: a rank that is gone while its group forms is named on every survivor, soon, and nobody else is. Method: functions
//! behind NATs that need several rounds, one of which is killed or frozen at every moment of the join, and runs on
//! for good measure: later on it is a loss like any other.

use std::time::Duration;

use fmi::{FAILURE_BOUND, FORMING_FAILURE_BOUND};
use nat_sim::Fault;
use nat_sim::nat::preset;
use scenarios::{Action, Check, Options, Outcome, Program, Scenario, Target, WorldSpec};

const DEAD: u32 = 2;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Four functions. Two of them need the relay: without one, the group goes from round to round until its deadline.
fn scenario(relay: bool, faults: impl IntoIterator<Item = (Duration, Fault<Target>)>) -> Scenario {
    let mut world = WorldSpec::region(4, preset::find("aws_lambda").expect("a preset"));
    for (gateway, name) in world.gateways.iter_mut().zip(["aws_lambda", "gcp_default", "home_seq", "openwrt_default"]) {
        *gateway = preset::find(name).expect("a preset");
    }
    world.start_jitter = millis(50);
    let steps = [Action::Allreduce { bytes: 100 }, Action::Sleep(millis(20))];
    let mut scenario = Scenario::new("dies-while-forming", "a rank dies", world, Program::steps(steps, 100_000));
    scenario.program.config.relay = relay;
    scenario.faults = faults.into_iter().collect();
    scenario
}

/// Every survivor names the dead rank, within the bound if that was ever there.
fn named(at: Duration) -> Check {
    Check::that("the dead rank is named", move |outcome: &Outcome| {
        for rank in (0..4).filter(|rank| *rank != DEAD) {
            let Some(end) = outcome.ends.get(&rank) else { return Err(format!("rank {rank} does not end")) };
            let error = end.error.as_deref().unwrap_or("none");
            let is_missing = error.contains("3 of 4 ranks registered in time; rank 2 is missing");
            let late = end.at.saturating_sub(at);
            let bound = if outcome.joined_at.contains_key(&rank) { FAILURE_BOUND } else { FORMING_FAILURE_BOUND };
            if !is_missing && (end.names != Some(DEAD) || late > bound + millis(300)) {
                return Err(format!("rank {rank}, {late:?} after it: {error}"));
            }
            if is_missing && at > millis(60) {
                return Err(format!("rank {rank} learnt it by its own deadline, {late:?} after it"));
            }
        }
        Ok(())
    })
}

/// Moments of a join: starts are up to 50 ms apart, registration and first punches take a few round trips, rounds two seconds
/// and four.
fn moments() -> impl Iterator<Item = Duration> {
    let fine = (0..200).step_by(4);
    let coarse = (200..4_000).step_by(170);
    fine.chain(coarse).map(millis)
}

fn sweep(fault: fn(Target) -> Fault<Target>) {
    let mut wrong = Vec::new();
    for relay in [true, false] {
        for (seed, at) in (1..).zip(moments()) {
            let mut scenario = scenario(relay, [(at, fault(Target::Rank(DEAD)))]);
            scenario.checks = vec![named(at)];
            let outcome = scenarios::run(&scenario, seed, Options::default());
            let found = outcome.violations.iter();
            wrong.extend(found.map(|violation| format!("at {at:?}, relay {relay}, seed {seed}: {violation}")));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), 2 * moments().count(), wrong.join("\n"));
}

#[test]
fn a_rank_that_is_killed_at_any_moment_of_the_join_is_named_by_all() {
    sweep(Fault::Kill);
}

#[test]
fn a_rank_that_is_frozen_at_any_moment_of_the_join_is_named_by_all() {
    sweep(Fault::Freeze);
}

/// A platform starts a function anew: the group waits for it.
#[test]
fn a_rank_that_is_started_again_in_time_is_waited_for() {
    for (at, again) in [(millis(30), seconds(4)), (millis(60), seconds(5))] {
        let rank = Target::Rank(DEAD);
        let mut scenario = scenario(true, [(at, Fault::Kill(rank)), (again, Fault::Start(rank))]);
        scenario.program = Program::once([Action::Allreduce { bytes: 100 }]);
        let outcome = scenarios::run(&scenario, 1, Options::default());
        assert_eq!(outcome.violations, Vec::<String>::new(), "killed at {at:?}");
    }
}
