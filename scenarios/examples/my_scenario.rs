//! A program of your own in a world of the lab: `cargo run -p scenarios --example my_scenario`.
//!
//! Four functions, each behind the NAT of an AWS Lambda, pass a token around. The platform freezes one of them for
//! three seconds; the token must come through all the same.
#![expect(clippy::print_stdout, reason = "an example shows what comes out")]

use std::time::Duration;

use nat_sim::Fault;
use nat_sim::nat::preset;
use scenarios::{Check, Context, Failure, Options, Program, Scenario, Target, WorldSpec};

const TOKEN: u32 = 1;
const LAPS: u64 = 20;

/// What each rank does: it gets the token from the rank before it, and hands it to the next.
async fn pass_on(comm: &fmi::Communicator, context: &Context) -> Result<(), Failure> {
    let (rank, size) = (comm.rank(), comm.size());
    for lap in 0..LAPS {
        let mut token = [lap];
        if rank > 0 {
            comm.recv(rank - 1, TOKEN, &mut token).await?;
        }
        context.sleep(Duration::from_millis(50)).await;
        comm.send((rank + 1) % size, TOKEN, &[token[0] + 1]).await?;
        if rank == 0 {
            comm.recv(size - 1, TOKEN, &mut token).await?;
            context.record("lap", &token[0].to_string());
        }
    }
    Ok(())
}

fn main() {
    let world = WorldSpec::region(4, preset::find("aws_lambda").expect("a preset"));
    let mut scenario = Scenario::new("my-scenario", "a token", world, Program::of(Program::config(), pass_on));
    let second = Duration::from_secs(1);
    scenario.faults = vec![(2 * second, Fault::Freeze(Target::Rank(2))), (5 * second, Fault::Thaw(Target::Rank(2)))];
    scenario.checks.push(Check::that("no lap is lost", |outcome| {
        let laps: Vec<_> = outcome.records.iter().map(|record| record.detail.clone()).collect();
        let expected: Vec<_> = (4..).take(20).map(|token| token.to_string()).collect();
        if laps == expected { Ok(()) } else { Err(format!("{laps:?}")) }
    }));
    for seed in 1..=5 {
        let outcome = scenarios::run(&scenario, seed, Options::default());
        assert_eq!(outcome.violations, Vec::<String>::new(), "seed {seed}");
        println!("seed {seed}: passed after {:?} of simulated time", outcome.report.elapsed);
    }
}

#[test]
fn it_passes() {
    main();
}
