//! NAT × NAT: what the lab measures beside what the oracle says.

use std::time::Duration;

use nat_sim::nat::preset::{ALL, Preset};
use serde::Serialize;

use crate::catalog::pair;
use crate::oracle::{self, Verdict};
use crate::run::{Options, run};
use crate::technique::{Technique, connects};

/// How two functions come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// The production code connects them directly.
    Direct,
    /// They would meet if each foretold the other's next port.
    Predicted,
    /// They reach the rendezvous and nothing brings them together but a third party.
    Relay,
    /// Nothing does.
    None,
}

impl Path {
    /// One word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Predicted => "predicted",
            Self::Relay => "relay",
            Self::None => "none",
        }
    }
}

/// One cell.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Preset of rank 0.
    pub first: &'static str,
    /// Preset of rank 1.
    pub second: &'static str,
    /// As measured.
    pub path: Path,
    /// Round trips from knowing the addresses to the connection, on each side, as measured.
    pub round_trips: Option<[f64; 2]>,
    /// The same, as the oracle says.
    pub expected: Option<[f64; 2]>,
    /// The path that the oracle says.
    pub expected_path: Path,
    /// Whether the original's rule, to bind the port that the rendezvous saw, connects them.
    pub original_connects: bool,
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
    let (first_nat, second_nat) = ((first.config)(), (second.config)());
    let expected = match oracle::predict(&first_nat, &second_nat) {
        Verdict::Direct { first, second } => Some([first, second]),
        Verdict::None => None,
    };
    if measured.is_some() && expected.is_none() && oracle::may_be_lucky(&first_nat, &second_nat) && seed < OTHER_SEED {
        // Luck does not strike twice.
        return measure(first, second, seed + OTHER_SEED);
    }
    // Both ranks have met at the rendezvous if what they lack is the connection.
    let met = outcome.ends.len() == 2 && outcome.ends.values().all(|end| end.unconnected);
    let path = if measured.is_some() {
        Path::Direct
    } else if (0..SKILL).all(|more| connects(Technique::Prediction, first, second, seed.wrapping_add(more << 32))) {
        Path::Predicted
    } else if met {
        Path::Relay
    } else {
        Path::None
    };
    let expected_path = if expected.is_some() {
        Path::Direct
    } else if oracle::is_foretold(&first_nat, &second_nat) {
        Path::Predicted
    } else {
        Path::Relay
    };
    let tick = scenario.world.resolution.as_secs_f64() / (2 * d).as_secs_f64();
    let times_agree = match (measured, expected) {
        (Some(measured), Some(expected)) => {
            measured.iter().zip(&expected).all(|(measured, expected)| (measured - expected).abs() <= tick * 1.001)
        }
        (None, None) => outcome.passed(),
        _ => false,
    };
    let agrees = times_agree && path == expected_path;
    let disagreement = (!agrees).then(|| {
        let violations = outcome.violations.join("; ");
        let (lab, oracle) = (path.name(), expected_path.name());
        format!("the lab measures {lab} {measured:?}, the oracle says {oracle} {expected:?} {violations}")
    });
    Cell {
        first: first.name,
        second: second.name,
        path,
        round_trips: measured,
        expected,
        expected_path,
        original_connects: connects(Technique::BindObserved, first, second, seed),
        disagreement,
        replay: outcome.replay_command(),
    }
}

/// Far from all seeds that people give.
const OTHER_SEED: u64 = 1 << 60;

/// Times that a prediction must hold: among few ports a guess hits by luck once in thirty.
const SKILL: u64 = 3;

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
