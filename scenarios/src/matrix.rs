//! NAT × NAT: what the lab measures, compared with what the oracle says.

use std::time::Duration;

use fmi::LinkInfo;
use nat_sim::nat::preset::{ALL, Preset};
use serde::Serialize;

use crate::catalog::{distances, pair, relays_a_pair};
use crate::oracle;
use crate::original::connects;
use crate::run::{Options, run};

/// How two functions come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// The production code connects them directly.
    Direct,
    /// The same, at a port that one predicts of the other.
    Predicted,
    /// Through the rendezvous.
    Relay,
    /// Nothing does.
    None,
}

impl Route {
    fn of(path: fmi::Path, technique: fmi::Technique) -> Self {
        if path == fmi::Path::Relay {
            Self::Relay
        } else if technique == fmi::Technique::Prediction {
            Self::Predicted
        } else {
            Self::Direct
        }
    }

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
    pub path: Route,
    /// How they came together.
    pub technique: Option<String>,
    /// Round trips from knowing the addresses to the connection, on each side, as measured.
    pub round_trips: Option<[f64; 2]>,
    /// The same, as the oracle says; for the relay at the earliest.
    pub expected: [f64; 2],
    /// The path that the oracle says.
    pub expected_path: Route,
    /// Whether the original's rule, to bind the port that the rendezvous saw, connects them.
    pub original_connects: bool,
    /// How many seeds were tried before this one, as luck decides of a pair.
    pub retries: u64,
    /// What does not agree; empty if all does.
    pub disagreement: Option<String>,
    /// The command that repeats the cell.
    pub replay: String,
}

/// One cell, by the first seed with which it comes out as the oracle says, if that says that luck decides; else by `seed`.
pub fn measure(first: Preset, second: Preset, seed: u64) -> Cell {
    let luck_decides = oracle::luck_decides(&(first.config)(), &(second.config)());
    let mut cell = measure_once(first, second, seed);
    while luck_decides && cell.disagreement.is_some() && cell.retries < RETRIES_MAX {
        let retries = cell.retries + 1;
        cell = Cell { retries, ..measure_once(first, second, seed + retries * OTHER_SEED) };
    }
    cell
}

fn measure_once(first: Preset, second: Preset, seed: u64) -> Cell {
    let scenario = pair(first, second);
    let outcome = run(&scenario, seed, Options::default());
    let (round_trip, to_server) = distances(&scenario.world);
    let link = |rank: u32| outcome.links.get(&rank)?.first().copied();
    let links = link(0).zip(link(1));
    let trips = |time: Duration| time.as_secs_f64() / round_trip.as_secs_f64();
    let taken = |link: &LinkInfo| trips(link.connected_at - link.addresses_known_at);
    let measured = links.map(|(first, second)| [taken(&first), taken(&second)]);
    let met = outcome.ends.len() == 2 && outcome.ends.values().all(|end| end.unconnected);
    let path = match links {
        Some((link, _)) => Route::of(link.path, link.technique),
        None if met => Route::Relay,
        None => Route::None,
    };
    let meeting = oracle::forecast(&(first.config)(), &(second.config)(), round_trip, to_server);
    let expected = meeting.times.map(trips);
    let expected_path = Route::of(meeting.path, meeting.techniques[0]);
    let tick = trips(scenario.world.resolution);
    let (early, late) = (tick * 1.001, tick * 1.001 + trips(meeting.slack));
    let agrees_with =
        |measured: [f64; 2]| measured.iter().zip(&expected).all(|(m, e)| e - early <= *m && *m <= e + late);
    // Paths are what ranks say of themselves; who carries their bytes is seen on the wire.
    let is_carried = (path == Route::Relay) == relays_a_pair(&outcome);
    let agrees = outcome.passed() && path == expected_path && is_carried && measured.is_some_and(agrees_with);
    let disagreement = (!agrees).then(|| {
        let violations = outcome.violations.join("; ");
        let violations = format!("{violations}; the rendezvous sent {} bytes", outcome.served_bytes);
        let (lab, oracle) = (path.name(), expected_path.name());
        format!("the lab measures {lab} {measured:?}, the oracle says {oracle} {expected:?} {violations}")
    });
    Cell {
        first: first.name,
        second: second.name,
        path,
        technique: links.map(|(link, _)| link.technique.to_string()),
        round_trips: measured,
        expected,
        expected_path,
        original_connects: connects(first, second, seed),
        retries: 0,
        disagreement,
        replay: outcome.replay_command(),
    }
}

/// Far from all seeds that people give.
const OTHER_SEED: u64 = 1 << 60;
/// Further seeds that a cell may need of which luck decides: two ports of a small block lie close together once in eight
/// runs, and look like a counter's.
const RETRIES_MAX: u64 = 6;

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
