//! Goal: whatever becomes of a rank, whoever waits for it ends in bounded time with the right name for it, and a rank that is
//! only busy, or that only the rendezvous cannot hear, is waited for. Method: programs in worlds of the lab, with faults
//! and no deadline.

use std::time::Duration;

use fmi::op::Sum;
use fmi::{Config, FAILURE_BOUND};
use nat_sim::Fault;
use nat_sim::nat::preset;
use nat_sim::topology::{GatewayId, SiteId};
use scenarios::{Action, Check, Context, Failure, Options, Outcome, Program, Scenario, Target, WorldSpec};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Operations wait as long as it takes.
fn patient() -> Config {
    let mut config = Program::config();
    config.operation_deadline = None;
    config
}

fn scenario(gateway: &str, size: usize, program: Program) -> Scenario {
    let world = WorldSpec::region(size, preset::find(gateway).expect("a preset"));
    Scenario::new("what-becomes-of-ranks", "a scenario of a test", world, program)
}

fn run(scenario: &Scenario, seed: u64) -> Outcome {
    scenarios::run(scenario, seed, Options::default())
}

fn passes(scenario: &Scenario) {
    for seed in 1..4 {
        let outcome = run(scenario, seed);
        assert_eq!(outcome.violations, Vec::<String>::new(), "seed {seed}");
    }
}

/// Checks allow so long, so whoever makes it longer must mean to.
#[test]
fn a_lost_rank_is_named_within_seven_seconds() {
    assert!(FAILURE_BOUND <= seconds(7), "{FAILURE_BOUND:?}");
}

/// Every rank that is left fails within `bound` of `at`.
fn all_fail(at: Duration, bound: Duration) -> Check {
    Check::that("all fail in time", move |outcome| {
        for (rank, end) in &outcome.ends {
            let Some(error) = &end.error else { return Err(format!("rank {rank} finished")) };
            if end.at > at + bound {
                return Err(format!("rank {rank} failed {:?} after it: {error}", end.at.saturating_sub(at)));
            }
        }
        Ok(())
    })
}

#[test]
fn ranks_wait_for_one_that_computes_for_ten_minutes() {
    let program = Program::of(patient(), async |comm, context: &Context| {
        if comm.rank() == 0 {
            context.sleep(seconds(600)).await;
        }
        let mut sum = [comm.rank()];
        comm.allreduce_in_place(&mut sum, Sum).await?;
        if sum == [3] { Ok(()) } else { Err(Failure::Wrong(format!("the sum is {sum:?}"))) }
    });
    let mut scenario = scenario("linux_masq_drop", 3, program);
    scenario.deadline = seconds(700);
    scenario.world.resolution = Duration::from_millis(10);
    scenario.no_progress_max = seconds(700);
    passes(&scenario);
}

#[test]
fn nobody_waits_for_the_dead_with_or_without_a_rendezvous() {
    for has_rendezvous in [true, false] {
        let mut scenario =
            scenario("linux_masq_drop", 3, Program::steps([Action::Allreduce { bytes: 100 }], 1_000_000));
        scenario.program.config = patient();
        let at = seconds(3);
        if !has_rendezvous {
            scenario.faults.push((seconds(2), Fault::Kill(Target::Rendezvous)));
        }
        scenario.faults.push((at, Fault::Kill(Target::Rank(1))));
        scenario.checks = if has_rendezvous {
            vec![Check::Lost { rank: 1, at, bound: FAILURE_BOUND + Duration::from_millis(50) }]
        } else {
            vec![all_fail(at, seconds(60))]
        };
        passes(&scenario);
    }
}

#[test]
fn a_rank_whose_gateway_forgets_everything_and_its_peers_learn_of_it_in_bounded_time() {
    let at = Duration::from_millis(1503);
    let mut scenario = scenario("rfc_strict", 3, Program::steps([Action::Allreduce { bytes: 1000 }], 1_000_000));
    scenario.program.config = patient();
    scenario.faults = vec![(at, Fault::RebootGateway(GatewayId(0)))];
    scenario.checks = vec![all_fail(at, FAILURE_BOUND + seconds(1))];
    passes(&scenario);
}

#[test]
fn a_rank_that_leaves_after_an_error_is_named_at_once() {
    let program = Program::of(patient(), async |comm, context: &Context| {
        comm.barrier().await?;
        if comm.rank() == 2 {
            context.sleep(seconds(1)).await;
            comm.send(2, 0, &[1u8, 2]).await?;
            comm.recv(2, 0, &mut [0u8]).await?;
        }
        context.record("waits", "");
        comm.recv(2, 0, &mut [0u8]).await?;
        Ok(())
    });
    let mut scenario = scenario("linux_masq_drop", 3, program);
    scenario.checks = vec![Check::that("the others name it", |outcome| {
        let failed = outcome.ends[&2].at;
        for rank in [0, 1] {
            let end = &outcome.ends[&rank];
            let error = end.error.as_deref().unwrap_or_default();
            if !error.contains("rank 2") || !error.contains("left the group") || end.at > failed + seconds(1) {
                return Err(format!("rank {rank} at {:?}, after {failed:?}: {error}", end.at));
            }
        }
        Ok(())
    })];
    passes(&scenario);
}

/// The path between two ranks dies, not that to the rendezvous. One rank waits for the other, and so finds out; the other
/// has nothing under way, whose own kernel would tell it.
#[test]
fn a_link_that_one_end_finds_dead_is_told_to_the_other() {
    let wakes = seconds(40);
    let program = Program::of(patient(), async move |comm, context: &Context| {
        comm.barrier().await?;
        if comm.rank() == 1 {
            context.sleep(wakes).await;
        }
        comm.recv(1 - comm.rank(), 0, &mut [0u8]).await?;
        Ok(())
    });
    let mut scenario = scenario("linux_masq_drop", 2, program);
    scenario.world.sites = vec![Duration::from_millis(10); 2];
    (scenario.world.functions[0].site, scenario.world.functions[1].site) = (1, 2);
    scenario.faults = vec![(seconds(2), Fault::Cut(SiteId(1), SiteId(2)))];
    scenario.checks = vec![Check::that("the second knows when it asks", move |outcome| {
        for (rank, bound) in [(0, seconds(30)), (1, wakes + seconds(2))] {
            let end = &outcome.ends[&rank];
            let error = end.error.as_deref().unwrap_or_default();
            if end.names != Some(1 - rank) || end.at > bound {
                return Err(format!("rank {rank} at {:?}: {error}", end.at));
            }
        }
        Ok(())
    })];
    passes(&scenario);
}

/// The rendezvous restarts, which nobody's connection to a peer minds.
#[test]
fn a_group_outlives_a_rendezvous_that_is_gone_for_long() {
    let steps = [Action::Allreduce { bytes: 1000 }, Action::Sleep(seconds(2))];
    let mut scenario = scenario("rfc_strict", 4, Program::steps(steps, 20));
    scenario.program.config = patient();
    let rendezvous = Target::Rendezvous;
    scenario.faults = vec![(seconds(2), Fault::Kill(rendezvous)), (seconds(22), Fault::Start(rendezvous))];
    passes(&scenario);
}
