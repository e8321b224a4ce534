//! Scenarios drawn from a number: random sizes, gateways, programs and faults, all survivable.

use std::time::Duration;

use fmi_proto::schedule::{Algorithm, Collective};
use nat_sim::Fault;
use nat_sim::nat::Mapping;
use nat_sim::nat::preset::{ALL, Preset};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::oracle::{self, Meeting};
use crate::program::{Action, Program, Work};
use crate::scenario::{Placement, Scenario, Target, WorldSpec};

/// Prefix of the names; the number follows.
pub const PREFIX: &str = "swarm-";
/// Prefix of the names of those that run every operation.
pub const OPERATIONS_PREFIX: &str = "operations-";

struct Draw(ChaCha8Rng);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn size(&mut self, from: u64, to: u64) -> usize {
        usize::try_from(from + self.below(to - from + 1)).expect("small")
    }

    fn millis(&mut self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound))
    }
}

/// Gateways of which every pair connects.
fn gateways(draw: &mut Draw, count: usize) -> Vec<Preset> {
    let mut chosen: Vec<Preset> = Vec::new();
    while chosen.len() < count {
        let preset = ALL[draw.size(0, ALL.len() as u64 - 1)];
        let connects = |other: &Preset| oracle::predict(&(preset.config)(), &(other.config)()) != Meeting::None;
        // Two functions behind the same kind must connect as well, and share it.
        let is_shared = (preset.config)().tcp.mapping != Mapping::OneToOne;
        if is_shared && connects(&preset) && chosen.iter().all(connects) {
            chosen.push(preset);
        }
    }
    chosen
}

fn steps(draw: &mut Draw, size: u32) -> Vec<Action> {
    let count = draw.size(1, 6);
    let root = |draw: &mut Draw| u32::try_from(draw.below(u64::from(size))).expect("below size");
    let step = |_| match draw.below(6) {
        0 => Action::Barrier,
        1 => Action::Broadcast { root: root(draw), bytes: draw.size(0, 20_000) },
        2 => Action::Allreduce { bytes: draw.size(0, 200) },
        3 => Action::Allreduce { bytes: draw.size(1000, 100_000) },
        4 => Action::OrderedReduce { root: root(draw) },
        _ => Action::Exchange { bytes: draw.size(0, 5000) },
    };
    (0..count).map(step).collect()
}

/// Draws scenario `number`.
pub fn draw(number: u64) -> Scenario {
    let mut draw = Draw(ChaCha8Rng::seed_from_u64(number));
    let size = draw.size(1, 12);
    let gateways = {
        let count = draw.size(1, size as u64);
        gateways(&mut draw, count)
    };
    let sites = if draw.one_in(3) { vec![Duration::from_millis(1 + draw.below(20))] } else { Vec::new() };
    // A gateway and all behind it are at one site.
    let site_of: Vec<usize> = gateways.iter().map(|_| draw.size(0, sites.len() as u64)).collect();
    let place = |_| {
        let gateway = draw.size(0, gateways.len() as u64 - 1);
        Placement { gateway: Some(gateway), start: Duration::ZERO, site: site_of[gateway] }
    };
    let functions: Vec<Placement> = (0..size).map(place).collect();
    let mut world = WorldSpec { functions, gateways, sites, ..WorldSpec::region(0, ALL[0]) };
    (world.lan, world.wan) = (Duration::from_millis(1), Duration::from_millis(1) + draw.millis(20));
    world.server = Duration::from_millis(1) + draw.millis(20);
    world.start_jitter = draw.millis(3000);
    world.link_jitter = if draw.one_in(2) { draw.millis(5) } else { Duration::ZERO };
    world.loss = if draw.one_in(3) { 0.02 } else { 0.0 };
    let steps = steps(&mut draw, u32::try_from(size).expect("small"));
    let exchanges = steps.iter().any(|step| matches!(step, Action::Exchange { .. }));
    let mut program = Program::steps(steps, 1 + u32::try_from(draw.below(4)).expect("small"));
    let config = &mut program.config;
    if draw.one_in(2) && !exchanges {
        config.peers = fmi::Peers::Collectives;
    }
    (config.join_deadline, config.operation_deadline) = (Duration::from_secs(90), Some(Duration::from_secs(130)));
    let mut faults = Vec::new();
    if draw.one_in(3) {
        // A relayed pair lives and dies with its relay.
        config.relay = false;
        let at = draw.millis(4000);
        faults.push((at, Fault::Kill(Target::Rendezvous)));
        let again = at + Duration::from_millis(100) + draw.millis(3000);
        faults.push((again, Fault::Start(Target::Rendezvous)));
    }
    if !world.sites.is_empty() && draw.one_in(2) {
        let from = draw.millis(5000);
        // Shorter than what takes a rank for dead.
        faults.extend(world.cut_off(from, from + draw.millis(3000), 1));
    }
    let about = format!("{size} functions, drawn from {number}");
    let deadline = Duration::from_secs(900);
    Scenario { faults, deadline, ..Scenario::new(format!("{PREFIX}{number}"), about, world, program) }
}

/// Draws a world as [`draw`] does, in which every collective and message is called with drawn arguments, by drawn
/// algorithms, and ranks are slow by turns.
pub fn operations(number: u64) -> Scenario {
    let mut scenario = draw(number);
    let mut draw = Draw(ChaCha8Rng::seed_from_u64(!number));
    let size = scenario.world.functions.len();
    let steps = [Action::Drawn, Action::Drawn, Action::Sleep(Duration::from_millis(draw.below(2500))), Action::Drawn];
    let algorithm = |draw: &mut Draw| Algorithm::ALL[draw.size(0, Algorithm::ALL.len() as u64 - 1)];
    let config = &mut scenario.program.config;
    config.peers = fmi::Peers::All;
    // A name that does not fit the collective leaves the choice to the model.
    config.algorithms = Collective::ALL.iter().map(|collective| (*collective, algorithm(&mut draw))).collect();
    // Where the collective lacks it, the model chooses.
    config
        .algorithms
        .retain(|collective, drawn| fmi_proto::schedule::algorithms(*collective).any(|known| known == *drawn));
    scenario.program.work = Work::Steps { steps: steps.into(), rounds: 2 };
    scenario.name = format!("{OPERATIONS_PREFIX}{number}");
    scenario.about = format!("random operations with {size} functions, drawn from {number}");
    scenario
}
