//! `lab run`

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use scenarios::{Options, Outcome, Scenario};
use serde_json::json;

pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    table
}

/// One run and the processor's time that it took.
pub(crate) struct Done {
    outcome: Outcome,
    functions: usize,
    wall: Duration,
}

/// Runs every scenario with every seed, `jobs` at once. Each run is a world of its own, so their
/// number changes no outcome.
#[expect(clippy::disallowed_methods, reason = "runs share nothing; threads and wall time stay out of the worlds")]
pub(crate) fn run(scenarios: &[Scenario], seeds: Range<u64>, jobs: usize, shows_progress: bool) -> Vec<Done> {
    let work = scenarios.iter().flat_map(|scenario| seeds.clone().map(move |seed| (scenario, seed)));
    let mut work: VecDeque<_> = work.collect();
    // The largest first, so that no core waits for it at the end.
    work.make_contiguous().sort_by_key(|(scenario, _)| std::cmp::Reverse(scenario.world.functions.len()));
    let bar = if shows_progress { ProgressBar::new(work.len() as u64) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed} {msg}").expect("a valid template");
    bar.set_style(style);
    let work = Mutex::new(work);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let next = work.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((scenario, seed)) = next else { return };
                    bar.set_message(scenario.name.clone());
                    let begun = std::time::Instant::now();
                    let outcome = scenarios::run(scenario, seed, Options::default());
                    let functions = scenario.world.functions.len();
                    let done = Done { outcome, functions, wall: begun.elapsed() };
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(done);
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let place: BTreeMap<_, _> = scenarios.iter().enumerate().map(|(place, scenario)| (&scenario.name, place)).collect();
    outcomes.sort_by_key(|done| (place[&done.outcome.scenario], done.outcome.seed));
    outcomes
}

fn as_json(done: &Done) -> serde_json::Value {
    let Done { outcome, functions, wall } = done;
    json!({
        "scenario": outcome.scenario,
        "seed": outcome.seed,
        "passed": outcome.passed(),
        "violations": outcome.violations,
        "functions": functions,
        "simulated_s": outcome.report.elapsed.as_secs_f64(),
        "wall_s": wall.as_secs_f64(),
        "packets": outcome.report.packets,
        "events": outcome.report.events,
        "lost": outcome.report.lost,
        "drops": outcome.report.drops,
        "digest": outcome.report.digest,
        "replay": outcome.replay_command(),
    })
}

/// Most lines of one failure that are shown; the replay shows all.
const FAILURE_LINES: usize = 12;

pub(crate) fn report(outcomes: &[Done], as_lines: bool) -> ExitCode {
    let failed: Vec<_> = outcomes.iter().filter(|done| !done.outcome.passed()).collect();
    if as_lines {
        for done in outcomes {
            say!("{}", as_json(done));
        }
    } else {
        let mut table = table(&["scenario", "seed", "result", "functions", "simulated", "packets", "wall"]);
        for Done { outcome, functions, wall } in outcomes {
            table.add_row([
                outcome.scenario.clone(),
                outcome.seed.to_string(),
                if outcome.passed() { "pass" } else { "FAIL" }.to_owned(),
                functions.to_string(),
                format!("{:.3} s", outcome.report.elapsed.as_secs_f64()),
                outcome.report.packets.to_string(),
                format!("{:.0} ms", wall.as_secs_f64() * 1e3),
            ]);
        }
        say!("{table}");
        let simulated: Duration = outcomes.iter().map(|done| done.outcome.report.elapsed).sum();
        let wall: Duration = outcomes.iter().map(|done| done.wall).sum();
        say!(
            "{} runs, {} passed, {} failed; {:.0} simulated seconds in {:.1} s of work",
            outcomes.len(),
            outcomes.len() - failed.len(),
            failed.len(),
            simulated.as_secs_f64(),
            wall.as_secs_f64()
        );
    }
    for Done { outcome, .. } in &failed {
        complain!("\nlab: {} with seed {} failed:", outcome.scenario, outcome.seed);
        let lines = outcome.violations.iter().flat_map(|violation| violation.lines());
        for line in lines.take(FAILURE_LINES) {
            complain!("  {line}");
        }
        complain!("replay: {}", outcome.replay_command());
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
