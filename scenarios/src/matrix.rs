//! NAT × NAT: what the lab measures beside what the oracle says.

use std::time::Duration;

use nat_sim::nat::preset::{ALL, Preset};
use serde::Serialize;

use crate::catalog::pair;
use crate::oracle::{self, Verdict};
use crate::run::{Options, run};

/// One cell.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Preset of rank 0.
    pub first: &'static str,
    /// Preset of rank 1.
    pub second: &'static str,
    /// `direct` or `none`, as measured.
    pub path: &'static str,
    /// Round trips from knowing the addresses to the connection, on each side, as measured.
    pub round_trips: Option<[f64; 2]>,
    /// The same, as the oracle says.
    pub expected: Option<[f64; 2]>,
    /// What does not agree; empty if all does.
    pub disagreement: Option<String>,
    /// The command that repeats the cell.
    pub replay: String,
}

fn measure(first: Preset, second: Preset, seed: u64) -> Cell {
    let scenario = pair(first, second);
    let outcome = run(&scenario, seed, Options::default());
    let d = 2 * (scenario.world.lan + scenario.world.wan);
    let round_trips = |rank: u32| {
        let link = outcome.links.get(&rank)?.first()?;
        Some((link.connected_at - link.addresses_known_at).as_secs_f64() / (2 * d).as_secs_f64())
    };
    let measured = round_trips(0).zip(round_trips(1)).map(|(first, second)| [first, second]);
    let expected = match oracle::predict(&(first.config)(), &(second.config)()) {
        Verdict::Direct { first, second } => Some([first, second]),
        Verdict::None => None,
    };
    let tick = scenario.world.resolution.as_secs_f64() / (2 * d).as_secs_f64();
    let agrees = match (measured, expected) {
        (Some(measured), Some(expected)) => {
            measured.iter().zip(&expected).all(|(measured, expected)| (measured - expected).abs() <= tick * 1.001)
        }
        (None, None) => outcome.passed(),
        _ => false,
    };
    let disagreement = (!agrees).then(|| {
        let violations = outcome.violations.join("; ");
        format!("the lab measures {measured:?}, the oracle says {expected:?} {violations}")
    });
    Cell {
        first: first.name,
        second: second.name,
        path: if measured.is_some() { "direct" } else { "none" },
        round_trips: measured,
        expected,
        disagreement,
        replay: outcome.replay_command(),
    }
}

/// Measures every pair of presets, in both orders.
pub fn all(seed: u64, mut done: impl FnMut()) -> Vec<Cell> {
    let mut cells = Vec::new();
    for first in ALL {
        for second in ALL {
            cells.push(measure(*first, *second, seed));
            done();
        }
    }
    cells
}

/// Number of cells.
pub const CELLS: usize = ALL.len() * ALL.len();

/// Simulated time that a pair without a connection tries.
pub const PAIR_DEADLINE: Duration = Duration::from_secs(3);
