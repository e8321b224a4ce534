//! Goal: every entry of the catalogue comes out as it must, with fixed and with fresh seeds, and every pair of NATs as the
//! oracle says. Method: run them, one trial for each entry, by its name. Fresh seeds come from `FMI_SEED`, else from the
//! clock; a failure prints the command that repeats it.

use std::process::ExitCode;
use std::time::SystemTime;

use nat_sim::nat::preset::{ALL, Preset, linux_masq_drop, rfc_strict};
use nat_sim::nat::{Allocation, Filtering, Mapping, NatConfig, SimultaneousOpen};
use scenarios::{Check, Options, Outcome, Scenario, catalog, matrix, swarm};

use trials::{Case, case};

#[path = "../../nat-sim/tests/common/trials.rs"]
mod trials;

/// Seeds that every run of the tests uses.
const FIXED: [u64; 2] = [1, 2];
/// Fresh seeds for each entry.
const FRESH: u64 = 2;
/// Drawn scenarios of each kind in addition to those of the catalogue.
const FRESH_SWARM: u64 = 100;
/// From this size on, one fixed seed has to do.
const LARGE: usize = 100;

fn main() -> ExitCode {
    let fresh = fresh_seed();
    let (large, small): (Vec<_>, Vec<_>) = catalog::all().into_iter().partition(is_large);
    // What takes longest begins first.
    let mut cases: Vec<Case> = large.into_iter().chain(small).map(|scenario| entry(scenario, fresh)).collect();
    // Named by their place, as the names of seeds would differ each time.
    for place in 0..FRESH_SWARM {
        for (kind, draw) in [("swarm", swarm::draw as fn(u64) -> Scenario), ("operations", swarm::operations)] {
            let number = fresh + place;
            cases.push(case(format!("fresh::{kind}-{place}"), move || drop(passes(&draw(number), number))));
        }
    }
    let row =
        |first: &'static Preset| case(format!("matrix::{}", first.name), move || agrees(*first, ALL, fresh + FRESH));
    cases.extend(ALL.iter().map(row));
    cases.extend(AXES.iter().map(|first| case(format!("axes::{}", first.name), move || agrees(*first, AXES, fresh))));
    cases.push(case("a_wrong_expectation_fails", a_wrong_expectation_fails));
    trials::run(cases)
}

#[expect(clippy::disallowed_methods, reason = "a fresh seed must come from somewhere; failures print it")]
fn fresh_seed() -> u64 {
    if let Some(given) = std::env::var_os("FMI_SEED") {
        let seed = given.to_str().and_then(|seed| seed.parse().ok());
        return seed.unwrap_or_else(|| panic!("FMI_SEED: {given:?} is not a seed"));
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() % 1_000_000 * 1000
}

fn is_large(scenario: &Scenario) -> bool {
    scenario.world.functions.len() >= LARGE
}

/// An entry of the catalogue with all its seeds.
fn entry(scenario: Scenario, fresh: u64) -> Case {
    case(scenario.name.clone(), move || {
        let is_large = is_large(&scenario);
        let fixed = FIXED.into_iter().take(if is_large { 1 } else { FIXED.len() });
        let is_drawn = [swarm::PREFIX, swarm::OPERATIONS_PREFIX].iter().any(|it| scenario.name.starts_with(it));
        for seed in fixed.chain((fresh..fresh + FRESH).filter(|_| !is_large)) {
            let outcome = passes(&scenario, seed);
            // What is planned for later than the end tests nothing.
            assert!(is_drawn || outcome.report.faults_left == 0, "a fault never happens: {}", outcome.replay_command());
        }
    })
}

fn passes(scenario: &Scenario, seed: u64) -> Outcome {
    check(scenario, seed).unwrap_or_else(|wrong| panic!("{wrong}"))
}

fn check(scenario: &Scenario, seed: u64) -> Result<Outcome, String> {
    let outcome = scenarios::run(scenario, seed, Options::default());
    if outcome.passed() {
        return Ok(outcome);
    }
    Err(format!("{}\n{}", outcome.violations.join("\n"), outcome.replay_command()))
}

/// One row of a matrix.
fn agrees(first: Preset, others: &[Preset], seed: u64) {
    for second in others {
        let cell = matrix::measure(first, *second, seed);
        assert_eq!(cell.disagreement, None, "{} with {}: {}", cell.first, cell.second, cell.replay);
    }
}

/// What decides of a path, by the RFCs: how ports are mapped (RFC 4787, 4.1) and filtered (5), and whether SYNs get in
/// (RFC 5382, 4.2 and 4.3). All combinations, most of which no preset has.
const AXES: &[Preset] = &[
    axis("m0-f0-open", axes::<0, 0, true>),
    axis("m0-f0-shut", axes::<0, 0, false>),
    axis("m0-f1-open", axes::<0, 1, true>),
    axis("m0-f1-shut", axes::<0, 1, false>),
    axis("m0-f2-open", axes::<0, 2, true>),
    axis("m0-f2-shut", axes::<0, 2, false>),
    axis("m1-f0-open", axes::<1, 0, true>),
    axis("m1-f0-shut", axes::<1, 0, false>),
    axis("m1-f1-open", axes::<1, 1, true>),
    axis("m1-f1-shut", axes::<1, 1, false>),
    axis("m1-f2-open", axes::<1, 2, true>),
    axis("m1-f2-shut", axes::<1, 2, false>),
    axis("m2-f0-open", axes::<2, 0, true>),
    axis("m2-f0-shut", axes::<2, 0, false>),
    axis("m2-f1-open", axes::<2, 1, true>),
    axis("m2-f1-shut", axes::<2, 1, false>),
    axis("m2-f2-open", axes::<2, 2, true>),
    axis("m2-f2-shut", axes::<2, 2, false>),
];

const fn axis(name: &'static str, config: fn() -> NatConfig) -> Preset {
    Preset { name, about: "a combination", source: "", assumed: "", config }
}

fn axes<const MAPPING: usize, const FILTERING: usize, const OPEN: bool>() -> NatConfig {
    let mapping = [Mapping::EndpointIndependent, Mapping::AddressDependent, Mapping::AddressAndPortDependent];
    let filtering = [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent];
    let mut config = rfc_strict();
    // A port says nothing of the next one, and silence is the answer to what is not let in.
    config.tcp.allocation = Allocation::Random;
    config.unsolicited = linux_masq_drop().unsolicited;
    (config.tcp.mapping, config.tcp.filtering) = (mapping[MAPPING], filtering[FILTERING]);
    config.simultaneous_open = if OPEN { SimultaneousOpen::Full } else { SimultaneousOpen::DropInboundSyn };
    config
}

/// The checks themselves: a run that does not come out as said is noticed.
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
