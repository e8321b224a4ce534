//! The named scenarios.

use std::time::Duration;

use fmi::{FAILURE_BOUND, Path, Security, Technique};
use nat_sim::Fault;
use nat_sim::nat::preset::{ALL, Preset, find};
use nat_sim::topology::TcpConfig;

use crate::attack;
use crate::check::Check;
use crate::corners;
use crate::oracle;
use crate::outcome::Outcome;
use crate::program::{Action, Program, Work};
use crate::scenario::{Scenario, Target, WorldSpec, cut_between};
use crate::swarm;

pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn preset(name: &str) -> Preset {
    find(name).expect("the catalogue names presets that exist")
}

/// All of them.
pub fn all() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for (index, first) in ALL.iter().enumerate() {
        scenarios.extend(ALL[index..].iter().map(|second| pair(*first, *second)));
    }
    scenarios.extend([2, 3, 8, 33].map(group));
    scenarios.push(group_256());
    scenarios.push(mesh_256());
    scenarios.push(same_nat());
    scenarios.push(staggered());
    scenarios.push(killed_in_allreduce());
    scenarios.extend(rendezvous_faults());
    scenarios.extend([1, 5].map(lossy));
    scenarios.extend(frozen());
    scenarios.push(cut_off());
    scenarios.push(relayed_then_direct());
    scenarios.push(watched_again());
    scenarios.extend(techniques());
    scenarios.extend([over_ipv6(), all_relayed(), without_a_relay()]);
    scenarios.extend([Security::Authenticated, Security::Plaintext].map(with_security));
    scenarios.extend(two_servers());
    scenarios.extend(attack::ALL.map(attacked));
    scenarios.push(two_functions());
    scenarios.extend(corners::all());
    scenarios.extend((1..=SWARM).map(swarm::draw));
    scenarios.extend((1..=SWARM).map(swarm::operations));
    scenarios
}

/// Drawn scenarios in the catalogue; any other number can be named as well.
const SWARM: u64 = 20;

/// Finds a scenario; pairs in either order, and drawn ones of any number.
pub fn find_scenario(name: &str) -> Option<Scenario> {
    let pair_named = || {
        let (first, second) = name.strip_prefix("pair-")?.split_once("-x-")?;
        Some(pair(find(first)?, find(second)?))
    };
    let drawn = || name.strip_prefix(swarm::PREFIX)?.parse().ok().map(swarm::draw);
    let operations = || name.strip_prefix(swarm::OPERATIONS_PREFIX)?.parse().ok().map(swarm::operations);
    all().into_iter().find(|scenario| scenario.name == name).or_else(pair_named).or_else(drawn).or_else(operations)
}

fn scenario(name: &str, about: &str, world: WorldSpec, steps: impl Into<Vec<Action>>) -> Scenario {
    repeated(name, about, world, steps, 1)
}

fn repeated(name: &str, about: &str, world: WorldSpec, steps: impl Into<Vec<Action>>, rounds: u32) -> Scenario {
    Scenario::new(name, about, world, Program::steps(steps, rounds))
}

/// Two functions behind two gateways.
pub fn pair(first: Preset, second: Preset) -> Scenario {
    let mut world = WorldSpec::region(2, first);
    world.gateways[1] = second;
    (world.lan, world.wan, world.server) = (millis(1), millis(9), millis(5));
    let name = format!("pair-{}-x-{}", first.name, second.name);
    let about = format!("{} with {}", first.about, second.about);
    let mut scenario = scenario(&name, &about, world, [Action::Exchange { bytes: PAIR_BYTES }, Action::Barrier]);
    let (round_trip, to_server) = distances(&scenario.world);
    let meeting = oracle::forecast(&(first.config)(), &(second.config)(), round_trip, to_server);
    let is_lucky = oracle::luck_decides(&(first.config)(), &(second.config)());
    if meeting.path != Path::Relay || !is_lucky {
        scenario.checks.extend(meets_by(meeting.path));
    }
    scenario
}

/// What each of a pair says to the other.
const PAIR_BYTES: usize = 4096;

/// A pair comes together by a path, as it says itself and as the packets show.
fn meets_by(path: Path) -> [Check; 2] {
    let packets = Check::that("packets go by the path", move |outcome| {
        let is_relayed = relays_a_pair(outcome);
        if is_relayed == (path == Path::Relay) {
            return Ok(());
        }
        Err(format!("the path is {path}, and the rendezvous sent {} bytes", outcome.served_bytes))
    });
    [Check::Via(path), packets]
}

/// Whether the rendezvous has sent what both of a pair say to each other, or little more than its own words.
pub(crate) fn relays_a_pair(outcome: &Outcome) -> bool {
    outcome.served_bytes >= 2 * PAIR_BYTES as u64
}

/// Round trips between two functions, and from one to the rendezvous.
pub(crate) fn distances(world: &WorldSpec) -> (Duration, Duration) {
    (4 * (world.lan + world.wan), 2 * (world.lan + world.wan + world.server))
}

const COLLECTIVES: [Action; 6] = [
    Action::Barrier,
    Action::Broadcast { root: 1, bytes: 4096 },
    Action::Allreduce { bytes: 8 },
    Action::Allreduce { bytes: 40_000 },
    Action::OrderedReduce { root: 1 },
    Action::Barrier,
];

fn group(size: usize) -> Scenario {
    let mut world = WorldSpec::region(size, preset("linux_masq_drop"));
    for (index, gateway) in world.gateways.iter_mut().enumerate() {
        *gateway = preset(["linux_masq_drop", "aws_lambda", "rfc_strict", "linux_masq_rst"][index % 4]);
    }
    (world.start_jitter, world.link_jitter) = (millis(50), millis(2));
    let about = format!("{size} functions behind mixed NATs run every collective");
    repeated(&format!("group-{size}"), &about, world, COLLECTIVES, 2)
}

fn region_of_256() -> WorldSpec {
    let mut world = WorldSpec::region(256, preset("aws_lambda"));
    // Jumbo frames, as between functions of one region.
    world.tcp = TcpConfig { mtu: 9001, receive_bytes: 32 << 10, send_bytes: 32 << 10 };
    world.start_jitter = millis(200);
    world
}

/// The scenario that speed is measured with.
pub fn group_256() -> Scenario {
    let steps = [
        Action::Allreduce { bytes: 8 },
        Action::Allreduce { bytes: 1 << 20 },
        Action::Broadcast { root: 0, bytes: 4096 },
        Action::Barrier,
    ];
    let mut scenario = scenario("group-256", "256 functions form a group and compute", region_of_256(), steps);
    scenario.program.config.peers = fmi::Peers::Collectives;
    scenario
}

fn mesh_256() -> Scenario {
    let mut world = region_of_256();
    // 65,280 sockets: small ones.
    (world.tcp.receive_bytes, world.tcp.send_bytes) = (4 << 10, 2 << 10);
    let steps = [Action::Allreduce { bytes: 8 }, Action::Barrier];
    let mut scenario = scenario("mesh-256", "256 functions connect all to all", world, steps);
    // 65,280 handshakes on one core take half a minute and no simulated time.
    scenario.program.config.security = Some(Security::Plaintext);
    scenario
}

/// One group of `size` that does nothing for a while; for measuring the cost of idleness.
pub fn idle(size: usize, time: Duration) -> Scenario {
    let mut world = region_of_256();
    world.functions.truncate(size);
    world.gateways.truncate(size);
    let mut scenario = scenario("idle", "functions that wait", world, [Action::Sleep(time), Action::Barrier]);
    scenario.program.config.peers = fmi::Peers::Collectives;
    scenario.deadline = time + seconds(60);
    scenario
}

/// Join, punch, exchange 64 KiB, leave: the unit of simulation speed.
pub fn two_functions() -> Scenario {
    let mut world = WorldSpec::region(2, preset("linux_masq_drop"));
    world.start_jitter = millis(20);
    scenario("two-functions", "join, punch, exchange 64 KiB, leave", world, [Action::Exchange { bytes: 64 << 10 }])
}

fn same_nat() -> Scenario {
    let mut world = WorldSpec::region(4, preset("linux_masq_drop"));
    for function in &mut world.functions[1..] {
        function.gateway = Some(0);
    }
    world.gateways.truncate(1);
    scenario("same-nat", "four functions behind one NAT without hairpin", world, COLLECTIVES)
}

fn staggered() -> Scenario {
    let mut world = WorldSpec::region(8, preset("linux_masq_rst"));
    world.start_jitter = seconds(10);
    scenario("cold-starts", "cold starts spread over 10 s", world, COLLECTIVES)
}

fn killed_in_allreduce() -> Scenario {
    let mut world = WorldSpec::region(8, preset("aws_lambda"));
    world.start_jitter = millis(20);
    let at = millis(1500);
    let name = "killed-in-allreduce";
    let about = "a function vanishes in the middle of allreduces; every survivor names it";
    let mut scenario = repeated(name, about, world, [Action::Allreduce { bytes: 100_000 }], 100_000);
    scenario.faults = vec![(at, Fault::Kill(Target::Rank(5)))];
    // The probe, the notice's way, and a tick for each program to see it.
    scenario.checks = vec![Check::Lost { rank: 5, at, bound: FAILURE_BOUND + millis(20) }];
    scenario
}

fn rendezvous_faults() -> [Scenario; 3] {
    let base = |name: &str, about: &str, kill: Duration, start: Duration| {
        let mut world = WorldSpec::region(4, preset("linux_masq_drop"));
        world.start_jitter = millis(300);
        let steps = [Action::Allreduce { bytes: 1000 }, Action::Sleep(millis(700)), Action::Allreduce { bytes: 1000 }];
        let mut scenario = repeated(name, about, world, steps, 3);
        let rendezvous = Target::Rendezvous;
        scenario.faults = vec![(kill, Fault::Kill(rendezvous)), (start, Fault::Start(rendezvous))];
        scenario
    };
    [
        base("rendezvous-before", "the rendezvous comes 2 s late", Duration::ZERO, seconds(2)),
        base("rendezvous-during", "the rendezvous restarts while ranks join", millis(150), millis(900)),
        base("rendezvous-after", "the rendezvous restarts under a running group", millis(1200), seconds(2)),
    ]
}

fn lossy(percent: u32) -> Scenario {
    let mut world = WorldSpec::region(4, preset("linux_masq_drop"));
    world.loss = f64::from(percent) / 100.0;
    world.start_jitter = millis(100);
    let about = format!("{percent} % of the packets between functions are lost");
    let mut scenario = scenario(&format!("loss-{percent}"), &about, world, COLLECTIVES);
    // Time-outs double from 1 s: seven losses in a row take two minutes.
    (scenario.program.config.join_deadline, scenario.program.config.operation_deadline) =
        (seconds(60), Some(seconds(130)));
    scenario.deadline = seconds(600);
    scenario
}

fn cut_off() -> Scenario {
    let mut world = WorldSpec::region(4, preset("linux_masq_drop"));
    world.sites = vec![millis(10)];
    for function in &mut world.functions[2..] {
        function.site = 1;
    }
    let steps = [Action::Allreduce { bytes: 1000 }, Action::Sleep(millis(100))];
    let faults = world.cut_off(millis(1000), millis(4000), 1);
    let mut scenario = repeated("site-cut-off", "one of two sites is cut off for 3 s", world, steps, 20);
    scenario.faults = faults;
    scenario
}

/// Two sites that reach the rendezvous, and for 8 s not each other.
fn relayed_then_direct() -> Scenario {
    let mut world = WorldSpec::region(4, preset("linux_masq_drop"));
    world.sites = vec![millis(10), millis(10)];
    for (rank, function) in world.functions.iter_mut().enumerate() {
        function.site = 1 + rank % 2;
    }
    let steps = [Action::Exchange { bytes: 20_000 }, Action::Allreduce { bytes: 1000 }, Action::Sleep(millis(20))];
    let about = "two sites are relayed while they cannot reach each other, and lose no byte when they can";
    let mut scenario = repeated("relayed-then-direct", about, world, steps, 400);
    scenario.faults = cut_between(Duration::ZERO, seconds(8), 1, 2).into();
    scenario.checks.push(Check::EndsVia(Path::Direct));
    scenario
}

/// Each technique with the NATs that it is for.
fn techniques() -> Vec<Scenario> {
    use Technique::{Direct, Listen, Local, Prediction, Punch, Relay, Reversal, Spray};
    let pairs = [
        (Local, [Local; 2], ["linux_masq_drop"; 2], "by their own addresses behind one NAT without hairpin"),
        (Direct, [Direct; 2], ["public"; 2], "without NATs"),
        (Reversal, [Reversal, Direct], ["public", "linux_masq_drop"], "as the one behind a NAT dials the other"),
        (Punch, [Punch; 2], ["linux_masq_drop", "linux_masq_rst"], "through the holes that both punch"),
        (Listen, [Listen; 2], ["rfc_strict", "linux_random"], "as one listens for a random port"),
        (Prediction, [Prediction; 2], ["linux_masq_drop", "home_seq"], "at the next port of a NAT that counts"),
        (Spray, [Spray; 2], ["linux_masq_drop", "linux_random"], "by 256 ports and 1,024 guesses"),
        (Relay, [Relay; 2], ["aws_natgw", "azure_natgw"], "through the rendezvous, where both ports are random"),
    ];
    let make = |(name, expected, presets, about): (Technique, [Technique; 2], [&str; 2], &str)| {
        let mut scenario = pair(preset(presets[0]), preset(presets[1]));
        scenario.name = format!("technique-{name}");
        scenario.about = format!("two functions meet {about}");
        scenario.program.config.spray = name == Spray;
        let path = match name {
            Local => Some(Path::Private),
            Relay => Some(Path::Relay),
            Spray => None,
            Direct | Reversal | Punch | Listen | Prediction => Some(Path::Direct),
            other @ (Technique::Store | _) => unreachable!("{other} has no entry above"),
        };
        scenario.checks = vec![Check::Succeeds];
        scenario.checks.extend(path.into_iter().flat_map(meets_by));
        if name == Local {
            scenario.world.gateways.truncate(1);
            scenario.world.functions[1].gateway = Some(0);
        }
        // One spray in sixty misses, and is relayed.
        if name != Spray {
            scenario.checks.push(Check::Techniques(expected.to_vec()));
        }
        scenario
    };
    pairs.into_iter().map(make).collect()
}

fn over_ipv6() -> Scenario {
    let mut scenario = pair(preset("aws_natgw"), preset("azure_natgw"));
    scenario.name = "ipv6".into();
    scenario.about = "two random NATs do not matter to functions that have IPv6".into();
    scenario.world.ipv6 = true;
    let by_punch = Check::Techniques(vec![Technique::Punch; 2]);
    scenario.checks = vec![Check::Succeeds, by_punch];
    scenario.checks.extend(meets_by(Path::Direct));
    scenario
}

fn all_relayed() -> Scenario {
    let mut world = WorldSpec::region(6, preset("aws_natgw"));
    world.start_jitter = millis(100);
    let mut scenario =
        scenario("relayed-group", "six functions behind random NATs compute by relay", world, COLLECTIVES);
    scenario.checks.push(Check::Via(Path::Relay));
    scenario
}

fn without_a_relay() -> Scenario {
    let mut scenario = pair(preset("aws_natgw"), preset("azure_natgw"));
    scenario.name = "relay-refused".into();
    scenario.about = "two random NATs without a relay: an error that says so".into();
    scenario.program.config.relay = false;
    scenario.program.config.join_deadline = seconds(3);
    scenario.checks = vec![Check::Unconnected];
    scenario
}

fn with_security(security: Security) -> Scenario {
    let name = security.name();
    let world = WorldSpec::region(3, preset("linux_masq_drop"));
    let about = format!("streams between three functions are {name}");
    let mut scenario = scenario(&format!("security-{name}"), &about, world, COLLECTIVES);
    scenario.program.config.security = Some(security);
    scenario
}

fn two_servers() -> [Scenario; 2] {
    let base = |name: &str, about: &str, at: Duration| {
        let mut world = WorldSpec::region(4, preset("linux_masq_drop"));
        (world.start_jitter, world.servers) = (millis(300), 2);
        let mut scenario = scenario(name, about, world, COLLECTIVES);
        scenario.faults = vec![(at, Fault::Kill(Target::Rendezvous))];
        scenario
    };
    [
        base("servers-first-dead", "the first of two rendezvous is dead", Duration::ZERO),
        base("servers-first-dies", "the first of two rendezvous dies while ranks join", millis(150)),
    ]
}

fn attacked(attack: attack::Attack) -> Scenario {
    let mut world = WorldSpec::region(3, preset("rfc_ideal"));
    (world.start_jitter, world.attack) = (millis(300), Some(attack));
    let name = attack.name();
    let mut steps = COLLECTIVES.to_vec();
    steps.push(Action::Sleep(millis(100)));
    repeated(&format!("attack-{name}"), &format!("under attack by {name}"), world, steps, 40)
}

/// The rendezvous forgets a running group, and learns of it from its ranks.
fn watched_again() -> Scenario {
    let mut scenario = killed_in_allreduce();
    // So many seconds of nothing but allreduces would fill a capture.
    let pause = Action::Sleep(millis(20));
    let steps = vec![Action::Allreduce { bytes: 100_000 }, pause.clone(), pause];
    scenario.program.work = Work::Steps { steps, rounds: 100_000 };
    scenario.name = "rendezvous-watches-again".into();
    scenario.about = "the rendezvous restarts under a running group; a function that then vanishes is named".into();
    let at = seconds(8);
    let rendezvous = Target::Rendezvous;
    scenario.faults = vec![
        (seconds(1), Fault::Kill(rendezvous)),
        (seconds(2), Fault::Start(rendezvous)),
        (at, Fault::Kill(Target::Rank(5))),
    ];
    // A rank that sleeps hears of it when it wakes.
    scenario.checks = vec![Check::Lost { rank: 5, at, bound: FAILURE_BOUND + millis(60) }];
    scenario
}

fn frozen() -> [Scenario; 2] {
    let base = |name: &str, about: &str, freeze: Duration, rounds: u32| {
        let mut world = WorldSpec::region(8, preset("aws_lambda"));
        world.start_jitter = millis(20);
        let steps = [Action::Allreduce { bytes: 10_000 }, Action::Sleep(millis(40))];
        let mut scenario = repeated(name, about, world, steps, rounds);
        let function = Target::Rank(5);
        scenario.faults = vec![(FROZEN_AT, Fault::Freeze(function)), (FROZEN_AT + freeze, Fault::Thaw(function))];
        scenario
    };
    let about = "a function is frozen with its kernel for 4 s, shorter than the silence that makes it lost";
    let briefly = base("frozen-briefly", about, seconds(4), 120);
    let about = "a function is frozen for 30 s: every other names it, and it fails after the thaw";
    let mut long = base("frozen-long", about, seconds(30), 100_000);
    // A rank that sleeps hears of it when it wakes.
    let bound = FAILURE_BOUND + millis(60);
    long.checks = vec![Check::Lost { rank: 5, at: FROZEN_AT, bound }, Check::Fails { rank: 5 }];
    [briefly, long]
}

/// When the group runs for sure.
const FROZEN_AT: Duration = millis(1500);
