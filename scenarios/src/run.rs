//! Scenario × seed → outcome.

use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fmi::ErrorKind;
use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi_net::noted;
use fmi_proto::key::Key;
use nat_sim::topology::HostId;
use nat_sim::{Limits, Purpose, SimNet, Sinks, World, stream};
use rand_core::Rng;

use crate::attack::{self, Knowledge};
use crate::check::{self, SECRET};
use crate::hits::Hits;
use crate::layout::{SERVER, gateway_address, rendezvous_names, topology_for};
use crate::leak::{self, Found, Search};
use crate::outcome::{Board, Outcome, RankEnd, SharedBoard};
use crate::program::{Context, Failure, Work};
use crate::scenario::Scenario;
use crate::steps;

/// What is written in addition to the outcome.
#[derive(Debug, Default)]
pub struct Options {
    /// A packet capture.
    pub pcap: Option<Box<dyn WriteSend>>,
    /// An event log.
    pub log: Option<Box<dyn WriteSend>>,
}

/// Where captures and logs go, usually a file.
pub trait WriteSend: Write + Send + std::fmt::Debug {}
impl<T: Write + Send + std::fmt::Debug> WriteSend for T {}

/// Runs a scenario with a seed. A scenario that cannot be is a violation.
pub fn run(scenario: &Scenario, seed: u64, options: Options) -> Outcome {
    let mut outcome = Outcome::new(scenario.name.clone(), seed);
    if let Err(reason) = scenario.check() {
        outcome.violations.push(reason);
        return outcome;
    }
    let spec = &scenario.world;
    let secret = scenario.program.config.key.clone().unwrap_or_else(|| SECRET.into());
    let group_id = Key::new(&scenario.name, secret.as_bytes()).id();
    let (topology, layout) = topology_for(spec, &group_id);
    let mut world = World::new(topology, seed, spec.resolution);
    let (found, _noted) = (Found::default(), noted::Watch::begin());
    let served = watch(&mut world, Search::new(secret.as_bytes(), found.clone()), layout.rendezvous.clone());
    world.sinks(Sinks {
        pcap: options.pcap.map(|pcap| Box::new(pcap) as Box<dyn Write + Send>),
        log: options.log.map(|log| Box::new(log) as Box<dyn Write + Send>),
    });
    let (time_max, no_progress_max) = (scenario.deadline, scenario.no_progress_max);
    world.limits(Limits { time_max, no_progress_max, ..Limits::default() });
    for host in &layout.rendezvous {
        world.service(*host, serve);
    }
    let knowledge = Arc::new(Knowledge {
        rendezvous: SERVER.into(),
        group: scenario.name.clone(),
        group_id,
        size: scenario.size(),
        gateways: (1..=spec.gateways.len()).map(gateway_address).collect(),
        hits: Hits::default(),
        told: AtomicBool::new(false),
    });
    if let (Some(attack), Some(attacker)) = (spec.attack, layout.attacker) {
        let knowledge = knowledge.clone();
        world.service(attacker, move |net| attack::run(net, attack, knowledge.clone()));
    }
    let board = SharedBoard::default();
    let mut starts = stream(seed, Purpose::Workload, 0);
    let shared = Rc::new(scenario.clone());
    for (rank, (host, function)) in (0u32..).zip(layout.functions.iter().zip(&spec.functions)) {
        let jitter = u64::try_from(spec.start_jitter.as_micros()).expect("short") + 1;
        let start = function.start + Duration::from_micros(starts.next_u64() % jitter);
        let (board, scenario) = (board.clone(), shared.clone());
        world.function(*host, start, move |net| rank_main(net, rank, scenario.clone(), board.clone()));
    }
    for (at, fault) in &scenario.faults {
        world.fault(*at, fault.map(|target| layout.host(target)));
    }
    match world.run() {
        Ok(report) => outcome.report = report,
        Err(error) => {
            outcome.violations.push(error.to_string());
            return outcome;
        }
    }
    outcome.take(&board);
    outcome.served_bytes = served.load(Ordering::Relaxed);
    outcome.hits = spec.attack.map_or(0, |attack| knowledge.hits.of(attack, &outcome));
    outcome.violations = check::violations(&scenario.expected(), &scenario.checks, &outcome);
    if let Some(attack) = spec.attack.filter(|_| outcome.hits == 0) {
        outcome.violations.push(format!("the attack {} hit nobody, so it shows nothing", attack.name()));
    }
    if knowledge.told.load(Ordering::Relaxed) {
        outcome.violations.push("a stranger was answered".into());
    }
    outcome.violations.extend(found.take());
    let texts = outcome.ends.values().filter_map(|end| end.error.as_ref());
    let texts = texts.chain(outcome.records.iter().map(|record| &record.detail));
    if texts.into_iter().any(|text| leak::shows(text, secret.as_bytes())) {
        outcome.violations.push("a part of the secret is in an error or a record".into());
    }
    outcome
}

/// Looks at every packet that a host sends. Returns how many bytes of streams the servers send.
fn watch(world: &mut World, mut search: Search, servers: Vec<HostId>) -> Arc<AtomicU64> {
    let served = Arc::new(AtomicU64::new(0));
    let count = served.clone();
    world.tap(move |host, packet| {
        search.see(host, packet);
        if servers.contains(&host) {
            count.fetch_add(packet.stream_bytes().len() as u64, Ordering::Relaxed);
        }
    });
    served
}

async fn serve(net: SimNet) {
    let port = SERVER.1;
    let bound = Rendezvous::bind(net.clone(), (net.address(), port).into(), ServerConfig::default());
    // On both families, if it has them.
    match bound.and_then(|bound| {
        bound.with_vantages(&net.ipv6_addresses().iter().map(|ip| (*ip, port).into()).collect::<Vec<_>>())
    }) {
        Ok(rendezvous) => match rendezvous.serve().await {},
        Err(error) => net.record("rendezvous", &error.to_string()),
    }
}

async fn rank_main(net: SimNet, rank: u32, scenario: Rc<Scenario>, board: SharedBoard) {
    let mut config = scenario.program.config.clone();
    (config.rank, config.size) = (rank, scenario.size());
    (config.group, config.rendezvous) = (scenario.name.clone(), rendezvous_names(&scenario.world));
    config.key.get_or_insert_with(|| SECRET.into());
    let context = Context::new(net, config, board.clone());
    let result = execute(&context, &scenario.program.work).await;
    let at = context.now().since_origin();
    let mut end = RankEnd { at, error: None, names: None, unconnected: false, wrong: false };
    match result {
        Ok(()) => {}
        Err(Failure::Operation(error)) => {
            end.names = error.peer();
            end.unconnected = matches!(error.kind(), ErrorKind::Unconnected { .. });
            end.error = Some(error.to_string());
        }
        Err(Failure::Wrong(what)) => {
            end.wrong = true;
            end.error = Some(what);
        }
    }
    context.net().record("ended", &format!("{rank} {:?}", end.error));
    Board::lock(&board).ends.insert(rank, end);
}

/// Runs the program of one rank.
async fn execute(context: &Context, work: &Work) -> Result<(), Failure> {
    if let Work::Alone(body) = work {
        return body.run(context).await;
    }
    let comm = context.join().await?;
    match work {
        Work::Steps { steps, rounds } => steps::run(context, &comm, steps, *rounds).await?,
        Work::Joined(body) => body.run(&comm, context).await?,
        Work::Alone(_) => {}
    }
    context.note_end(&comm);
    comm.leave().await;
    Ok(())
}
