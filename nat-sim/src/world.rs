//! A world: a topology with functions that run on it, on turmoil's sites and clock.
//!
//! Each site is a turmoil host. It runs a pump, which handles the site's events when their time has
//! come and carries packets to and from other sites, and the functions placed there, which `platform` runs.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use fmi_net::time::Instant;
use smoltcp::socket::tcp::State;
use tokio::task::LocalSet;
use turmoil::net::UdpSocket;

use crate::capture::{Capture, Sinks};
use crate::fabric::{Fabric, Tap};
use crate::fault::Fault;
use crate::nat::DropReason;
use crate::net::{Shared, SimNet, sleep};
use crate::packet::Packet;
use crate::panics::{self, Watch};
use crate::platform::{Body, Function, Platform};
use crate::tamper::Tamper;
use crate::topology::{HostId, SiteId, Topology, TopologyError};

/// Port of the pumps on turmoil's network.
const PUMP_PORT: u16 = 9;
/// Datagrams that a pump may have waiting: more than any window of packets.
const UDP_CAPACITY: usize = 1 << 20;

/// What ends a run that does not end by itself.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Simulated time. Default 10 minutes.
    pub time_max: Duration,
    /// Events. Default 200 million.
    pub events_max: u64,
    /// Bytes of capture and log. Default 1 GiB.
    pub capture_bytes_max: u64,
    /// Simulated time in which no application gets anything done. Default 5 minutes; it must
    /// exceed the longest wait that is meant, but for planned starts and faults, which are waited for.
    pub no_progress_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time_max: Duration::from_secs(600),
            events_max: 200_000_000,
            capture_bytes_max: 1 << 30,
            no_progress_max: Duration::from_secs(300),
        }
    }
}

/// Why a run was ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    /// It passed [`Limits::time_max`]; with the state of hosts and functions.
    #[error("not finished after {0:?} of simulated time\n{1}")]
    Time(Duration, String),
    /// It passed [`Limits::events_max`]; with the state of hosts and functions.
    #[error("not finished after {0} events\n{1}")]
    Events(u64, String),
    /// [`Limits::capture_bytes_max`], or the disk.
    #[error("{0}")]
    Capture(String),
    /// It passed [`Limits::no_progress_max`]; with the state of hosts and functions.
    #[error("no progress for {0:?} of simulated time\n{1}")]
    NoProgress(Duration, String),
    /// The same as [`Stuck::NoProgress`] or [`Stuck::Time`], where in addition nothing is on its way, and nobody sleeps
    /// by the clock of the network.
    #[error("every function waits and nothing is on its way\n{0}")]
    Deadlock(String),
    /// Something panicked, which is quoted, or turmoil failed.
    #[error("{0}")]
    Failed(String),
}

/// Why a world cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// Its topology cannot be.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A latency between sites is not a positive multiple of the resolution.
    #[error("a latency of {latency:?} between sites is not a positive multiple of the resolution of {resolution:?}")]
    Latency {
        /// The latency that was asked for.
        latency: Duration,
        /// One tick of the world.
        resolution: Duration,
    },
    /// The capture cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a run left behind.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Chained over every packet and every event with its time.
    pub digest: String,
    /// Simulated time at the end.
    pub elapsed: Duration,
    /// Events that the fabric handled, each at its exact time.
    pub events: u64,
    /// Packets put on a network.
    pub packets: u64,
    /// Packets that links lost or that had nowhere to go.
    pub lost: u64,
    /// Packets that gateways dropped, by reason.
    pub drops: BTreeMap<DropReason, u64>,
    /// Packets that were changed on the way.
    pub tampered: u64,
    /// What gateways let in though their configuration forbids it; the first ones.
    pub let_in: Vec<String>,
    /// Resets that reached an established connection and did not have the number that ends one (RFC 5961).
    pub blind_resets: u64,
    /// Faults that were planned for later than the end.
    pub faults_left: usize,
    /// Why the run was ended; `None` if all functions that matter finished.
    pub stuck: Option<Stuck>,
}

/// A world that is being put together.
pub struct World {
    topology: Topology,
    seed: u64,
    resolution: Duration,
    functions: Vec<Function>,
    faults: Vec<(Instant, Fault)>,
    limits: Limits,
    sinks: Sinks,
    tap: Option<Tap>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("seed", &self.seed).field("resolution", &self.resolution).finish_non_exhaustive()
    }
}

impl World {
    /// An empty world. One tick of the clock that functions see takes `resolution`; packets move at
    /// exact times in between.
    pub fn new(topology: Topology, seed: u64, resolution: Duration) -> Self {
        Self {
            topology,
            seed,
            resolution,
            functions: Vec::new(),
            faults: Vec::new(),
            limits: Limits::default(),
            sinks: Sinks::default(),
            tap: None,
        }
    }

    /// Places a function on a host; the run ends when all such have finished or been killed.
    pub fn function<F, Fut>(&mut self, host: HostId, start: Duration, program: F)
    where
        F: Fn(SimNet) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.place(host, start, true, program);
    }

    /// Places a service on a host; the run does not wait for it.
    pub fn service<F, Fut>(&mut self, host: HostId, program: F)
    where
        F: Fn(SimNet) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.place(host, Duration::ZERO, false, program);
    }

    fn place<F, Fut>(&mut self, host: HostId, start: Duration, matters: bool, program: F)
    where
        F: Fn(SimNet) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let site = self.topology.hosts.get(host.0).map_or(SiteId(0), |spec| spec.site);
        let body: Body = Box::new(move |net| Box::pin(program(net)));
        self.functions.push(Function { host, site, start: Instant::ZERO + start, matters, body });
    }

    /// Lets a fault happen `at` this simulated time.
    pub fn fault(&mut self, at: Duration, fault: Fault) {
        self.faults.push((Instant::ZERO + at, fault));
    }

    /// Replaces the limits at which a run is ended as [`Stuck`].
    pub fn limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Shows every packet to `tap` that a host puts on its link, with the host.
    pub fn tap(&mut self, tap: impl FnMut(HostId, &Packet) + Send + 'static) {
        self.tap = Some(Box::new(tap));
    }

    /// Sets where packets and events are written.
    pub fn sinks(&mut self, sinks: Sinks) {
        self.sinks = sinks;
    }

    /// Runs until all functions that matter have ended, or a limit is met.
    ///
    /// # Errors
    /// If the world cannot be made.
    pub fn run(mut self) -> Result<Report, WorldError> {
        self.topology.check()?;
        self.check_names()?;
        for latency in self.topology.latencies.values().copied() {
            if latency.is_zero() || latency.as_nanos() % self.resolution.as_nanos() != 0 {
                return Err(WorldError::Latency { latency, resolution: self.resolution });
            }
        }
        let capture = Capture::new(self.sinks, &self.topology.networks, self.limits.capture_bytes_max)?;
        let mut fabric = Fabric::new(&self.topology, self.seed, capture);
        fabric.tap = self.tap;
        let shared = Shared::new(fabric, self.resolution);
        // Of two faults at one time the first that was planned comes first.
        self.faults.sort_by_key(|(at, _)| *at);
        let panics = Watch::begin();
        let mut run = Run {
            sim: build_sim(self.seed),
            platform: Platform::new(shared.clone(), self.functions),
            shared,
            limits: self.limits,
            faults: self.faults.into(),
            progress: (0, Instant::ZERO),
            idle_since: None,
            panics,
        };
        run.place_sites(&self.topology);
        // A panic of the lab itself is quoted as well, with the seed that shows it.
        let stuck = catch_unwind(AssertUnwindSafe(|| run.drive())).unwrap_or_else(|panic| {
            panics::caught(&*panic);
            None
        });
        Ok(run.report(stuck))
    }
}

impl World {
    /// Functions and faults name what the topology has.
    fn check_names(&self) -> Result<(), TopologyError> {
        let Topology { hosts, gateways, sites, .. } = &self.topology;
        let known = |what: &str, number: usize, count: usize| {
            if number < count { Ok(()) } else { Err(TopologyError::Unknown(format!("{what} {number}"))) }
        };
        let host = |host: HostId| known("host", host.0, hosts.len());
        let site = |site: SiteId| known("site", site.0, sites.len());
        self.functions.iter().try_for_each(|function| host(function.host))?;
        self.faults.iter().try_for_each(|(_, fault)| match *fault {
            Fault::Kill(target) | Fault::Start(target) | Fault::Freeze(target) => host(target),
            Fault::Thaw(target) | Fault::Lose(target, _) | Fault::Tamper(target, ..) => host(target),
            Fault::Cut(one, other) | Fault::Heal(one, other) => site(one).and_then(|()| site(other)),
            Fault::CrashSite(it) | Fault::BounceSite(it) => site(it),
            Fault::RebootGateway(gateway) => known("gateway", gateway.0, gateways.len()),
            Fault::RenumberGateway(gateway, address) => {
                known("gateway", gateway.0, gateways.len())?;
                self.topology.check_renumbering(gateway, address)
            }
        })
    }
}

fn build_sim(seed: u64) -> turmoil::Sim<'static> {
    turmoil::Builder::new()
        .tick_duration(Duration::from_millis(1))
        .simulation_duration(Duration::from_secs(u64::from(u32::MAX)))
        .epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
        .rng_seed(seed)
        .udp_capacity(UDP_CAPACITY)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(1))
        .build()
}

fn site_name(site: SiteId) -> String {
    format!("site-{}", site.0)
}

struct Run {
    sim: turmoil::Sim<'static>,
    shared: Arc<Shared>,
    platform: Platform,
    limits: Limits,
    faults: VecDeque<(Instant, Fault)>,
    progress: (u64, Instant),
    /// Since when nothing is on its way and nobody sleeps.
    idle_since: Option<Instant>,
    panics: Watch,
}

impl Run {
    fn place_sites(&mut self, topology: &Topology) {
        for site in (0..topology.sites.len()).map(SiteId) {
            let (shared, platform) = (self.shared.clone(), self.platform.clone());
            self.sim.host(site_name(site), move || {
                let (shared, platform) = (shared.clone(), platform.clone());
                async move {
                    let local = LocalSet::new();
                    platform.keep_all(site, &local);
                    local.run_until(pump(shared, site)).await
                }
            });
        }
        for ((a, b), latency) in &topology.latencies {
            let ticks = latency.as_nanos() / self.shared.tick().as_nanos();
            // A message is handed over one tick after its latency has passed.
            let ticks = u64::try_from(ticks).expect("latencies are short");
            self.sim.set_link_latency(site_name(*a), site_name(*b), Duration::from_millis(ticks));
        }
    }

    fn now(&self) -> Instant {
        self.shared.scale(self.sim.elapsed())
    }

    fn drive(&mut self) -> Option<Stuck> {
        loop {
            let now = self.now();
            self.shared.set_now(now);
            // Whatever is recorded from here on has a later time, but for the rounding of ticks.
            self.shared.fabric().capture.settle(now, self.shared.tick());
            while self.faults.front().is_some_and(|(at, _)| *at <= now) {
                if let Some((_, fault)) = self.faults.pop_front() {
                    self.inflict(now, &fault);
                }
            }
            if self.is_done() {
                return None;
            }
            if let Err(error) = self.sim.step() {
                return Some(Stuck::Failed(self.panics.first().unwrap_or_else(|| error.to_string())));
            }
            if let Some(stuck) = self.watch() {
                return Some(stuck);
            }
        }
    }

    fn is_done(&self) -> bool {
        // Whether something planned starts a function, or else ends its stay as it is.
        let is_planned = |function: &Function, or_ends: bool| {
            self.faults.iter().any(|(_, fault)| match *fault {
                Fault::Start(host) => host == function.host,
                Fault::BounceSite(site) => site == function.site,
                Fault::Kill(host) | Fault::Thaw(host) => or_ends && host == function.host,
                Fault::CrashSite(site) => or_ends && site == function.site,
                Fault::Freeze(_) | Fault::Cut(..) | Fault::Heal(..) | Fault::Lose(..) | Fault::Tamper(..) => false,
                Fault::RebootGateway(_) | Fault::RenumberGateway(..) => false,
            })
        };
        self.platform.is_done(|function| is_planned(function, false), |function| is_planned(function, true))
    }

    fn inflict(&mut self, now: Instant, fault: &Fault) {
        self.shared.fabric().capture.event(now, "fault", &format!("{fault:?}"));
        match fault {
            Fault::Kill(host) => self.platform.kill(*host),
            Fault::Start(host) => self.platform.start(*host),
            Fault::Freeze(host) => self.platform.freeze(*host),
            Fault::Thaw(host) => self.platform.thaw(now, *host),
            Fault::Cut(a, b) => self.sim.partition(site_name(*a), site_name(*b)),
            Fault::Heal(a, b) => self.sim.repair(site_name(*a), site_name(*b)),
            Fault::CrashSite(site) => {
                self.platform.kill_all(*site);
                self.sim.crash(site_name(*site));
                self.shared.fabric().crash_site(*site);
            }
            Fault::BounceSite(site) => {
                self.platform.start_all(*site);
                self.sim.bounce(site_name(*site));
            }
            Fault::RebootGateway(gateway) => self.shared.fabric().reboot(*gateway),
            Fault::RenumberGateway(gateway, address) => self.shared.fabric().renumber(*gateway, *address),
            Fault::Lose(host, loss_ppm) => self.shared.fabric().set_loss(*host, *loss_ppm),
            Fault::Tamper(host, how, share_ppm) => self.shared.fabric().tamper(*host, Tamper::new(*how, *share_ppm)),
        }
    }

    fn watch(&mut self) -> Option<Stuck> {
        let now = self.now();
        if let Some(panic) = self.panics.first() {
            return Some(Stuck::Failed(panic));
        }
        let (events, progress, idle, failure) = {
            let fabric = self.shared.fabric();
            let idle = fabric.is_idle() && fabric.sleeps.is_empty();
            (fabric.events, fabric.progress(), idle, fabric.capture.failure().map(str::to_owned))
        };
        if let Some(failure) = failure {
            return Some(Stuck::Capture(failure));
        }
        if events > self.limits.events_max {
            return Some(Stuck::Events(events, self.dump()));
        }
        // What is planned is waited for, and then has all the time.
        let is_awaited = !self.faults.is_empty() || self.platform.awaits_starts();
        if progress != self.progress.0 || is_awaited {
            self.progress = (progress, now);
        }
        self.idle_since = if idle { self.idle_since.or(Some(now)) } else { None };
        let (waited, ran) = (now - self.progress.1, now - Instant::ZERO);
        if waited <= self.limits.no_progress_max && ran <= self.limits.time_max {
            return None;
        }
        // Packets between sites are on turmoil's network, and timers of tokio's own cannot be seen: that nothing is on
        // its way is said only of a run that ends for another reason.
        let is_dead = self.idle_since.is_some_and(|since| now - since > self.shared.tick() * IDLE_TICKS) && !is_awaited;
        Some(match waited > self.limits.no_progress_max {
            _ if is_dead => Stuck::Deadlock(self.dump()),
            true => Stuck::NoProgress(waited, self.dump()),
            false => Stuck::Time(self.limits.time_max, self.dump()),
        })
    }

    /// Which function waits for what.
    fn dump(&self) -> String {
        use std::fmt::Write;
        let fabric = self.shared.fabric();
        let mut text = String::new();
        for (function, status) in self.platform.functions() {
            let host = &fabric.hosts[function.host.0];
            let _ = writeln!(text, "host {} ({}) {status}", function.host.0, host.address);
            for connection in host.connections() {
                let waits = match (connection.state(), connection.read_waits, connection.write_waits) {
                    (State::SynSent | State::SynReceived, ..) => "for the handshake",
                    (_, true, true) => "to read and to write",
                    (_, true, false) => "to read",
                    (_, false, true) => "to write",
                    (_, false, false) => continue,
                };
                let _ = writeln!(text, "  waits {waits} on {connection:?}");
            }
            for (port, listener) in &host.listeners {
                if listener.waker.is_some() {
                    let _ = writeln!(text, "  waits for a connection to port {}", port.0);
                }
            }
            let next = fabric.sleeps.iter().filter(|((host, _), _)| *host == function.host).map(|(_, at)| *at).min();
            if let Some(at) = next {
                let _ = writeln!(text, "  sleeps until {:?}", at.since_origin());
            }
        }
        text
    }

    fn report(self, stuck: Option<Stuck>) -> Report {
        let now = self.now();
        self.shared.set_now(now);
        // What is frozen sends nothing when its tasks are dropped.
        self.platform.kill_frozen();
        // Tasks end before the last look at the fabric: what they drop still sends.
        drop(self.sim);
        let mut fabric = self.shared.fabric();
        let failure = || fabric.capture.failure().map(|failure| Stuck::Capture(failure.to_owned()));
        let stuck = stuck.or_else(|| self.panics.first().map(Stuck::Failed)).or_else(failure);
        Report {
            digest: fabric.capture.finish(),
            elapsed: now - Instant::ZERO,
            events: fabric.events,
            packets: fabric.capture.packets,
            lost: fabric.lost,
            drops: std::mem::take(&mut fabric.drops),
            tampered: fabric.tampered,
            let_in: std::mem::take(&mut fabric.let_in),
            blind_resets: fabric.hosts.iter().map(|host| host.blind_resets).sum(),
            faults_left: self.faults.len(),
            stuck,
        }
    }
}

/// Ticks without anything on its way before a world that is stuck counts as one where everybody waits for each other.
const IDLE_TICKS: u32 = 10_000;

/// Moves the packets of one site.
async fn pump(shared: Arc<Shared>, site: SiteId) -> turmoil::Result {
    let socket = UdpSocket::bind((IpAddr::from([0, 0, 0, 0]), PUMP_PORT)).await?;
    let mut bytes = vec![0; 1 << 16];
    loop {
        let next = shared.fabric().run_until(site, shared.now());
        loop {
            let Some((to_site, to, packet)) = shared.fabric().take_outbox(site) else { break };
            let mut datagram = u32::try_from(to).expect("few attachments").to_be_bytes().to_vec();
            datagram.extend_from_slice(packet.bytes());
            socket.send_to(&datagram, (site_name(to_site), PUMP_PORT)).await?;
        }
        let at = next.unwrap_or(Instant::FAR_FUTURE);
        let received = wait(&shared, site, at, &socket, &mut bytes).await?;
        if let Some(length) = received
            && let Some((to, packet)) = bytes[..length].split_first_chunk()
            && let Ok(packet) = Packet::parse(packet.to_vec())
        {
            let to = usize::try_from(u32::from_be_bytes(*to)).expect("32 bits");
            shared.fabric().arrive_from_afar(shared.now(), to, packet);
        }
    }
}

/// Waits for the next event or the next packet from another site, whose length it returns.
async fn wait(
    shared: &Shared,
    site: SiteId,
    at: Instant,
    socket: &UdpSocket,
    bytes: &mut [u8],
) -> io::Result<Option<usize>> {
    let mut rest = std::pin::pin!(sleep(shared, at));
    let mut receive = std::pin::pin!(socket.recv_from(bytes));
    std::future::poll_fn(|cx: &mut Context<'_>| {
        // Woken by whoever planned something earlier than `at`.
        if shared.fabric().next_event(site).is_some_and(|due| due < at) {
            return Poll::Ready(Ok(None));
        }
        shared.fabric().set_waker(site, cx.waker());
        if let Poll::Ready(received) = receive.as_mut().poll(cx) {
            return Poll::Ready(received.map(|(length, _)| Some(length)));
        }
        rest.as_mut().poll(cx).map(|()| Ok(None))
    })
    .await
}
