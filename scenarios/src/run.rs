//! Scenario × seed → outcome.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fmi::key::Key;
use fmi::net::Net;
use fmi::net::rendezvous::Rendezvous;
use fmi::proto::rendezvous::server::ServerConfig;
use fmi::{Config, ErrorKind, LinkInfo};
use nat_sim::link::LinkConfig;
use nat_sim::nat::Mapping;
use nat_sim::nat::preset::Preset;
use nat_sim::topology::{GatewaySpec, HostId, HostSpec, INTERNET, SiteId, TcpConfig, Topology};
use nat_sim::{Fault, Limits, Purpose, Report, SimNet, Sinks, World, stream};
use rand_core::Rng;

use crate::attack::{self, Knowledge};
use crate::program::{self, Failure};
use crate::scenario::{Expect, FaultAt, Scenario, Target, WorldSpec};

const SERVER: ([u8; 4], u16) = (SERVER_ADDRESS.octets(), 7000);
const SECOND_SERVER: ([u8; 4], u16) = ([192, 0, 2, 2], 7000);
/// Last part of the IPv6 address of the first server.
const SERVER_V6: usize = 0xff00;
const ATTACKER: [u8; 4] = [192, 0, 2, 66];
/// The secret of every group; no wire and no error may show it.
const SECRET: &str = "correct horse battery staple";

/// What is written beside the outcome.
#[derive(Debug, Default)]
pub struct Options {
    /// A packet capture.
    pub pcap: Option<Box<dyn WriteSend>>,
    /// An event log.
    pub log: Option<Box<dyn WriteSend>>,
}

/// A file, or what stands for one.
pub trait WriteSend: Write + Send + std::fmt::Debug {}
impl<T: Write + Send + std::fmt::Debug> WriteSend for T {}

/// How one rank ended.
#[derive(Clone, Debug)]
pub struct RankEnd {
    /// Simulated time.
    pub at: Duration,
    /// `None` for success.
    pub error: Option<String>,
    /// The rank that the error names.
    pub names: Option<u32>,
    /// Whether the error says that a peer could not be connected.
    pub unconnected: bool,
    /// Whether a result was wrong.
    pub wrong: bool,
}

/// What came out of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Name of the scenario.
    pub scenario: String,
    /// Seed.
    pub seed: u64,
    /// What the lab reports.
    pub report: Report,
    /// How each rank ended, if it did.
    pub ends: BTreeMap<u32, RankEnd>,
    /// How each rank that joined reaches its peers.
    pub links: BTreeMap<u32, Vec<LinkInfo>>,
    /// The same at the end of its program.
    pub links_at_end: BTreeMap<u32, Vec<LinkInfo>>,
    /// When each rank had joined.
    pub joined_at: BTreeMap<u32, Duration>,
    /// What is not as it must be; empty for a pass.
    pub violations: Vec<String>,
}

impl Outcome {
    /// Whether everything is as it must be.
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }

    /// The command that repeats the run.
    pub fn replay_command(&self) -> String {
        format!("cargo run --release -p scenarios -- replay {} --seed {}", self.scenario, self.seed)
    }
}

#[derive(Debug, Default)]
struct Board {
    ends: BTreeMap<u32, RankEnd>,
    links: BTreeMap<u32, Vec<LinkInfo>>,
    links_at_end: BTreeMap<u32, Vec<LinkInfo>>,
    joined_at: BTreeMap<u32, Duration>,
}

type SharedBoard = Arc<Mutex<Board>>;

fn lock(board: &SharedBoard) -> std::sync::MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks for the secret in everything that is put on a wire.
#[derive(Debug)]
struct Sniffer {
    inner: Option<Box<dyn WriteSend>>,
    tail: Vec<u8>,
    found: Arc<Mutex<bool>>,
}

impl Write for Sniffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.tail.extend_from_slice(bytes);
        if self.tail.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()) {
            *self.found.lock().unwrap_or_else(PoisonError::into_inner) = true;
        }
        let keep = self.tail.len().saturating_sub(SECRET.len());
        self.tail.drain(..keep);
        match &mut self.inner {
            Some(inner) => inner.write_all(bytes).map(|()| bytes.len()),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.as_mut().map_or(Ok(()), |inner| inner.flush())
    }
}

/// The hosts of a world, and where its faults hit.
struct Layout {
    rendezvous: Vec<HostId>,
    attacker: Option<HostId>,
    functions: Vec<HostId>,
}

fn topology(spec: &WorldSpec) -> (Topology, Layout) {
    let mut topology = Topology::new();
    for (number, latency) in (1..).zip(&spec.sites) {
        topology.site(format!("site {number}"), *latency);
    }
    let link = |latency| LinkConfig { latency, jitter: spec.link_jitter, ..LinkConfig::default() };
    let octets = |number: usize| u16::try_from(number).expect("at most 4,096 functions").to_be_bytes();
    let v6 = |last: usize| -> Vec<IpAddr> {
        let last = u16::try_from(last).expect("at most 4,096 functions");
        spec.ipv6.then(|| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])).into_iter().collect()
    };
    let on_internet = |address: [u8; 4], also| HostSpec {
        network: INTERNET,
        address: address.into(),
        also,
        link: link(spec.server),
        site: SiteId(0),
        tcp: TcpConfig { receive_bytes: 8 << 10, ..spec.tcp },
    };
    let servers = [SERVER, SECOND_SERVER].into_iter().zip([SERVER_V6, SERVER_V6 + 1]).take(spec.servers);
    let rendezvous = servers.map(|((address, _), last)| topology.host(on_internet(address, v6(last)))).collect();
    let attacker = spec.attack.map(|_| topology.host(on_internet(ATTACKER, Vec::new())));
    let mut networks = Vec::new();
    for (number, preset) in spec.gateways.iter().enumerate() {
        let site = spec.functions.iter().find(|function| function.gateway == Some(number));
        let inner = topology.network(format!("lan-{number}"));
        networks.push(inner);
        topology.gateway(GatewaySpec {
            nat: (preset.config)(),
            outer: INTERNET,
            address: gateway_address(number + 1),
            pool: Vec::new(),
            link: link(spec.wan),
            inner,
            site: SiteId(site.map_or(0, |function| function.site)),
        });
    }
    // Private addresses repeat from network to network, as they do.
    let mut hosts_on = vec![0usize; networks.len()];
    let functions = spec.functions.iter().enumerate().map(|(rank, function)| {
        let (network, address, latency) = match function.gateway {
            Some(gateway) => {
                hosts_on[gateway] += 1;
                let [high, low] = octets(hosts_on[gateway] + 1);
                let is_public = (spec.gateways[gateway].config)().tcp.mapping == Mapping::None;
                let [_, unique] = octets(gateway);
                let address = if is_public { [198, 18, unique, low] } else { [10, 0, high, low] };
                (networks[gateway], address, spec.lan)
            }
            None => {
                let [high, low] = octets(rank + 1);
                (INTERNET, [198, 51, high, low], spec.lan + spec.wan)
            }
        };
        let link = link(latency).losing(spec.loss / 2.0);
        let site = SiteId(function.site);
        let also = v6(rank + 1);
        topology.host(HostSpec { network, address: address.into(), also, link, site, tcp: spec.tcp })
    });
    let functions = functions.collect();
    (topology, Layout { rendezvous, attacker, functions })
}

fn gateway_address(number: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(number).expect("at most 4,096 functions").to_be_bytes();
    [203, 0, high, low].into()
}

/// How functions are told of the rendezvous.
fn rendezvous_names(spec: &WorldSpec) -> String {
    let names = [SERVER, SECOND_SERVER].into_iter().zip([SERVER_V6, SERVER_V6 + 1]).take(spec.servers);
    let names = names.map(|((ip, port), last)| {
        let v4 = SocketAddr::from((ip, port));
        if spec.ipv6 { format!("{v4}|[2001:db8::{last:x}]:{port}") } else { v4.to_string() }
    });
    names.collect::<Vec<_>>().join(",")
}

/// Address of the host on the internet beside a pair.
pub(crate) const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The world of a pair, for other programs than ours: the host on the internet, the two functions, the
/// resolution.
pub(crate) fn pair_topology(first: Preset, second: Preset) -> (Topology, HostId, Vec<HostId>, Duration) {
    let spec = crate::catalog::pair(first, second).world;
    let (topology, layout) = topology(&spec);
    (topology, layout.rendezvous[0], layout.functions, spec.resolution)
}

/// Runs a scenario with a seed.
pub fn run(scenario: &Scenario, seed: u64, options: Options) -> Outcome {
    let spec = &scenario.world;
    let (topology, layout) = topology(spec);
    let mut world = World::new(topology, seed, spec.resolution);
    let found = Arc::new(Mutex::new(false));
    let watches = options.pcap.is_some();
    let sniffer = Sniffer { inner: options.pcap, tail: Vec::new(), found: found.clone() };
    world.sinks(Sinks {
        pcap: watches.then(|| Box::new(sniffer) as Box<dyn Write + Send>),
        log: options.log.map(|log| Box::new(log) as Box<dyn Write + Send>),
    });
    world.limits(Limits { time_max: scenario.deadline, ..Limits::default() });
    for host in &layout.rendezvous {
        world.service(*host, serve);
    }
    let knowledge = Arc::new(Knowledge {
        rendezvous: SERVER.into(),
        group: scenario.name.clone(),
        group_id: Key::from_secret(SECRET.as_bytes()).group_id(&scenario.name),
        size: u32::try_from(spec.functions.len()).expect("at most 4,096 functions"),
        gateways: (1..=spec.gateways.len()).map(gateway_address).collect(),
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
    for fault in &scenario.faults {
        plan(&mut world, fault, &layout, spec);
    }
    let report = world.run().expect("the catalogue describes worlds that can be");
    let Board { ends, links, links_at_end, joined_at } = std::mem::take(&mut *lock(&board));
    let (name, violations_) = (scenario.name.clone(), Vec::new());
    let mut outcome =
        Outcome { scenario: name, seed, report, ends, links, links_at_end, joined_at, violations: violations_ };
    outcome.violations = violations(scenario, &outcome);
    if knowledge.told.load(Ordering::Relaxed) {
        outcome.violations.push("a stranger was answered".into());
    }
    if *found.lock().unwrap_or_else(PoisonError::into_inner) {
        outcome.violations.push("the secret of the group is on a wire".into());
    }
    outcome
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
    let size = u32::try_from(scenario.world.functions.len()).expect("at most 4,096 functions");
    let mut config = Config::new(rank, size, scenario.name.clone(), rendezvous_names(&scenario.world));
    config.key = Some(SECRET.into());
    config.peers = scenario.program.peers;
    (config.relay, config.spray) = (scenario.program.relay, scenario.program.spray);
    config.algorithms = scenario.program.algorithms.clone();
    config.security = scenario.program.security;
    config.join_deadline = scenario.program.join_deadline;
    config.operation_deadline = scenario.program.operation_deadline;
    let now = || Net::now(&net).since_origin();
    let joined = |comm: &fmi::Communicator| {
        let mut board = lock(&board);
        board.links.insert(rank, comm.links().collect());
        board.joined_at.insert(rank, now());
        net.record("joined", &rank.to_string());
    };
    let ending = |comm: &fmi::Communicator| {
        lock(&board).links_at_end.insert(rank, comm.links().collect());
    };
    let result = program::run(&net, &config, &scenario.program, joined, ending).await;
    let at = now();
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
    net.record("ended", &format!("{rank} {:?}", end.error));
    lock(&board).ends.insert(rank, end);
}

fn plan(world: &mut World, fault: &FaultAt, layout: &Layout, spec: &WorldSpec) {
    let host = |target: &Target| match target {
        Target::Rank(rank) => layout.functions[*rank as usize],
        Target::Rendezvous => layout.rendezvous[0],
        Target::SecondRendezvous => layout.rendezvous[1],
    };
    match fault {
        FaultAt::Kill(at, target) => world.fault(*at, Fault::Kill(host(target))),
        FaultAt::Start(at, target) => world.fault(*at, Fault::Start(host(target))),
        FaultAt::Cut(from, to, site) => {
            for other in (0..=spec.sites.len()).filter(|other| other != site) {
                world.fault(*from, Fault::Cut(SiteId(*site), SiteId(other)));
                world.fault(*to, Fault::Heal(SiteId(*site), SiteId(other)));
            }
        }
        FaultAt::CutBetween(from, to, one, other) => {
            world.fault(*from, Fault::Cut(SiteId(*one), SiteId(*other)));
            world.fault(*to, Fault::Heal(SiteId(*one), SiteId(*other)));
        }
        FaultAt::Reboot(at, gateway) => {
            world.fault(*at, Fault::RebootGateway(nat_sim::topology::GatewayId(*gateway)));
        }
    }
}

/// The standing checks and what the scenario expects.
fn violations(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let mut violations = Vec::new();
    if let Some(stuck) = &outcome.report.stuck {
        violations.push(stuck.to_string());
    }
    let size = u32::try_from(scenario.world.functions.len()).expect("at most 4,096 functions");
    let dies = match scenario.expect {
        Expect::Lost { rank, .. } => Some(rank),
        Expect::Success | Expect::Unconnected => None,
    };
    for rank in (0..size).filter(|rank| Some(*rank) != dies) {
        let Some(end) = outcome.ends.get(&rank) else {
            violations.push(format!("rank {rank} neither finished nor failed"));
            continue;
        };
        let error = end.error.as_deref();
        if error.is_some_and(|error| error.contains(SECRET)) {
            violations.push(format!("the error of rank {rank} shows the secret"));
        }
        if end.wrong {
            violations.push(format!("rank {rank}: {}", error.unwrap_or_default()));
            continue;
        }
        let links: Vec<_> = outcome.links.get(&rank).into_iter().flatten().collect();
        // Who has no NAT is reached by its own address, which is direct as well.
        let is =
            |link: &LinkInfo, path| link.path == path || (path == fmi::Path::Direct && link.path == fmi::Path::Private);
        if let Some(link) = scenario.via.and_then(|path| links.iter().find(|link| !is(link, path))) {
            let (peer, path) = (link.peer, link.path);
            violations.push(format!("rank {rank} reaches rank {peer} by the path {path}, not {:?}", scenario.via));
        }
        let technique = scenario.techniques.get(rank as usize);
        if let Some(link) = technique.and_then(|expected| links.iter().find(|link| link.technique != *expected)) {
            let (peer, got) = (link.peer, link.technique);
            violations.push(format!("rank {rank} reaches rank {peer} by {got}, not {technique:?}"));
        }
        if let Some(path) = scenario.ends_via {
            let links = outcome.links_at_end.get(&rank).into_iter().flatten();
            let peers: Vec<u32> = links.clone().map(|link| link.peer).collect();
            if !peers.is_empty() && scenario.program.peers == fmi::Peers::All && peers.len() + 1 != size as usize
                || peers.windows(2).any(|pair| pair[0] >= pair[1])
            {
                violations.push(format!("rank {rank} ends with links to {peers:?}"));
            }
            if let Some(link) = links.into_iter().find(|link| link.path != path) {
                violations
                    .push(format!("rank {rank} ends with {} to rank {}, which must be {path}", link.path, link.peer));
            }
        }
        match (&scenario.expect, error) {
            (Expect::Success, None) => {}
            (Expect::Success, Some(error)) => violations.push(format!("rank {rank} failed: {error}")),
            (Expect::Unconnected, Some(_)) if end.unconnected => {}
            (Expect::Unconnected, Some(error)) => violations.push(format!("rank {rank} failed otherwise: {error}")),
            (Expect::Unconnected | Expect::Lost { .. }, None) => {
                violations.push(format!("rank {rank} finished, which cannot be"));
            }
            (Expect::Lost { rank: lost, at, bound }, Some(error)) => {
                if end.names != Some(*lost) {
                    violations.push(format!("rank {rank} does not name rank {lost}: {error}"));
                }
                if end.at > *at + *bound {
                    let late = end.at - *at;
                    violations.push(format!("rank {rank} learnt of the loss after {late:?}, the bound is {bound:?}"));
                }
            }
        }
    }
    violations
}
