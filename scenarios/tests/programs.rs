//! Goal: users' own programs run in worlds of the lab with their faults, and nothing that goes wrong in one passes for
//! success. Method: small programs, each with one thing that must be noticed.

use std::time::Duration;

use fmi::net::{ByteStream, Net};
use fmi::op::Sum;
use fmi::{Communicator, FAILURE_BOUND};
use nat_sim::Fault;
use nat_sim::nat::preset;
use nat_sim::topology::SiteId;
use scenarios::{Check, Context, Failure, Options, Outcome, Program, Scenario, Target, WorldSpec};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn scenario(size: usize, program: Program) -> Scenario {
    let world = WorldSpec::region(size, preset::find("linux_masq_drop").expect("a preset"));
    Scenario::new("a-program", "a program of a test", world, program)
}

fn run(scenario: &Scenario) -> Outcome {
    scenarios::run(scenario, 1, Options::default())
}

#[test]
fn a_closure_computes_records_and_is_checked() {
    let program = Program::of(Program::config(), async |comm, context: &Context| {
        let mut sum = [comm.rank() + 1];
        comm.allreduce_in_place(&mut sum, Sum).await?;
        context.sleep(seconds(1)).await;
        context.record("sum", &sum[0].to_string());
        Ok(())
    });
    let mut scenario = scenario(3, program);
    scenario.checks.push(Check::Via(fmi::Path::Direct));
    scenario.checks.push(Check::that("all get the sum a second later", |outcome| {
        let got: Vec<_> = outcome.records.iter().map(|it| (it.rank, it.what.as_str(), it.detail.as_str())).collect();
        let late = outcome.records.iter().all(|it| it.at >= outcome.joined_at[&it.rank] + seconds(1));
        if got.len() == 3 && got.iter().all(|it| it.1 == "sum" && it.2 == "6") && late {
            return Ok(());
        }
        Err(format!("{:?}", outcome.records))
    }));
    let first = run(&scenario);
    assert_eq!(first.violations, Vec::<String>::new());
    assert_eq!(first.report.digest, run(&scenario).report.digest, "one seed, one run");
}

#[test]
fn faults_hit_closures_in_their_scope() {
    let at = seconds(3);
    let program = Program::of(Program::config(), async |comm, context: &Context| {
        loop {
            comm.barrier().await?;
            context.sleep(Duration::from_millis(50)).await;
            context.record("round", "");
        }
    });
    let mut scenario = scenario(3, program);
    scenario.faults = vec![(at, Fault::Kill(Target::Rank(1)))];
    scenario.checks = vec![
        Check::Lost { rank: 1, at, bound: FAILURE_BOUND + Duration::from_millis(70) },
        Check::that("the dead do nothing", move |outcome| {
            let last = outcome.records.iter().filter(|it| it.rank == 1).map(|it| it.at).max();
            if last.is_some_and(|last| last <= at) { Ok(()) } else { Err(format!("{last:?}")) }
        }),
    ];
    assert_eq!(run(&scenario).violations, Vec::<String>::new());
}

#[test]
fn a_program_may_join_by_itself_or_use_the_network_alone() {
    let program = Program::alone(Program::config(), async |context: &Context| {
        let mut config = context.config().clone();
        // Two groups of two, one after the other.
        for group in ["first", "second"] {
            config.group = group.into();
            let comm = Communicator::connect(context.net().clone(), &config).await?;
            comm.barrier().await?;
            comm.leave().await;
        }
        let stream = context.net().connect(([0; 4], 0).into(), ([192, 0, 2, 1], 7000).into()).await;
        let peer = stream.and_then(|stream| stream.peer_addr()).map_err(|error| Failure::Wrong(error.to_string()))?;
        context.record("rendezvous", &peer.to_string());
        Ok(())
    });
    let outcome = run(&scenario(2, program));
    assert_eq!(outcome.violations, Vec::<String>::new());
    assert!(outcome.records.iter().all(|record| record.detail == "192.0.2.1:7000"), "{:?}", outcome.records);
    assert_eq!(outcome.records.len(), 2);
}

#[test]
fn a_wrong_result_an_error_and_a_panic_fail_the_run_and_are_quoted() {
    let failing = |how: &'static str| {
        run(&scenario(
            2,
            Program::of(Program::config(), async move |comm, _| {
                comm.barrier().await?;
                match (how, comm.rank()) {
                    ("wrong", 1) => Err(Failure::Wrong("two and two are five".into())),
                    ("error", 1) => Ok(comm.send(9, 0, &[1u8]).await?),
                    ("panic", 1) => panic!("index out of bounds of the user"),
                    _ => Ok(()),
                }
            }),
        ))
        .violations
        .join("\n")
    };
    assert_eq!(failing(""), "");
    assert!(failing("wrong").contains("rank 1: two and two are five"));
    assert!(failing("error").contains("rank 1 failed: "));
    let quoted = failing("panic");
    assert!(quoted.contains("panicked: index out of bounds of the user"), "{quoted}");
}

#[test]
fn a_scenario_that_cannot_be_is_a_violation_and_no_panic() {
    let sound = scenario(2, Program::once([]));
    assert_eq!(run(&sound).violations, Vec::<String>::new());
    let broken = |change: &dyn Fn(&mut Scenario)| {
        let mut scenario = sound.clone();
        change(&mut scenario);
        run(&scenario).violations.join("\n")
    };
    let fault = |fault: Fault<Target>| broken(&|scenario| scenario.faults = vec![(seconds(1), fault)]);
    assert_eq!(fault(Fault::Freeze(Target::Rank(2))), "rank 2 does not exist");
    assert_eq!(fault(Fault::Kill(Target::SecondRendezvous)), "rendezvous 1 does not exist");
    assert_eq!(fault(Fault::CrashSite(SiteId(4))), "site 4 does not exist");
    assert_eq!(fault(Fault::RebootGateway(nat_sim::topology::GatewayId(2))), "gateway 2 does not exist");
    assert_eq!(broken(&|scenario| scenario.world.functions[1].gateway = Some(7)), "gateway 7 does not exist");
    assert_eq!(broken(&|scenario| scenario.world.functions[1].site = 1), "site 1 does not exist");
    assert_eq!(broken(&|scenario| scenario.world.functions.clear()), "0 functions are not from 1 to 4096");
    assert_eq!(broken(&|scenario| scenario.world.servers = 0), "0 rendezvous are not one or two");
}
