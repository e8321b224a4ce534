//! What a scenario is made of: plain data.

use std::collections::BTreeMap;
use std::time::Duration;

use fmi::schedule::{Algorithm, Collective};
use nat_sim::nat::preset::Preset;
use nat_sim::topology::TcpConfig;

use crate::attack::Attack;

/// Where a function stands.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Its gateway; functions with the same number share one. `None` stands on the internet.
    pub gateway: Option<usize>,
    /// When it starts, beside the jitter of the world.
    pub start: Duration,
    /// Its site.
    pub site: usize,
}

/// The world of a scenario.
#[derive(Clone, Debug)]
pub struct WorldSpec {
    /// Simulated time of one tick.
    pub resolution: Duration,
    /// Gateways by preset.
    pub gateways: Vec<Preset>,
    /// Functions in rank order.
    pub functions: Vec<Placement>,
    /// From a function to its gateway, one way.
    pub lan: Duration,
    /// From a gateway to the middle of the internet, one way.
    pub wan: Duration,
    /// From the rendezvous to the middle of the internet, one way.
    pub server: Duration,
    /// Functions start up to this much later, drawn from the seed.
    pub start_jitter: Duration,
    /// Up to this much more time on each link, drawn from the seed.
    pub link_jitter: Duration,
    /// Share of packets lost between two functions, half of it on the link of each.
    pub loss: f64,
    /// Latencies to all other sites; the first site is always there and has none.
    pub sites: Vec<Duration>,
    /// The functions' TCP.
    pub tcp: TcpConfig,
    /// Rendezvous that stand in for each other: one or two.
    pub servers: usize,
    /// Whether functions and rendezvous have IPv6 addresses beside the others.
    pub ipv6: bool,
    /// Who attacks from the internet.
    pub attack: Option<Attack>,
}

impl WorldSpec {
    /// `size` functions, each behind a gateway of its own, in one region.
    pub fn region(size: usize, preset: Preset) -> Self {
        let place = |index| Placement { gateway: Some(index), start: Duration::ZERO, site: 0 };
        Self {
            resolution: Duration::from_millis(1),
            gateways: vec![preset; size],
            functions: (0..size).map(place).collect(),
            lan: Duration::from_millis(1),
            wan: Duration::from_millis(1),
            server: Duration::from_millis(1),
            start_jitter: Duration::ZERO,
            link_jitter: Duration::ZERO,
            loss: 0.0,
            sites: Vec::new(),
            tcp: TcpConfig::default(),
            servers: 1,
            ipv6: false,
            attack: None,
        }
    }
}

/// One thing that all ranks do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Barrier.
    Barrier,
    /// Broadcast of so many bytes from a root.
    Broadcast {
        /// Root.
        root: u32,
        /// Bytes.
        bytes: usize,
    },
    /// Sum of so many bytes of `u64`.
    Allreduce {
        /// Bytes.
        bytes: usize,
    },
    /// An operator that does not commute, to a root.
    OrderedReduce {
        /// Root.
        root: u32,
    },
    /// Every rank exchanges so many bytes with every other, content checked.
    Exchange {
        /// Bytes.
        bytes: usize,
    },
    /// Operations of every kind, drawn from the number of the step.
    Drawn,
    /// Waits.
    Sleep(Duration),
    /// Waits, and lets the communicator make progress.
    Progress(Duration),
}

/// What all ranks do after joining.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// One after the other.
    pub steps: Vec<Step>,
    /// How often.
    pub rounds: u32,
    /// Which ranks connect.
    pub peers: fmi::Peers,
    /// Algorithms in place of those that the model chooses.
    pub algorithms: BTreeMap<Collective, Algorithm>,
    /// Whether the rendezvous may relay.
    pub relay: bool,
    /// Whether ranks may spray.
    pub spray: bool,
    /// Protection of streams; `None` for the default with a key.
    pub security: Option<fmi::Security>,
    /// Deadline of the join.
    pub join_deadline: Duration,
    /// Deadline of each operation.
    pub operation_deadline: Duration,
}

impl Program {
    /// These steps once, with the default deadlines.
    pub fn once(steps: impl Into<Vec<Step>>) -> Self {
        let (join_deadline, operation_deadline) = (Duration::from_secs(30), Duration::from_secs(30));
        Self {
            steps: steps.into(),
            rounds: 1,
            peers: fmi::Peers::All,
            algorithms: BTreeMap::new(),
            relay: true,
            spray: false,
            security: None,
            join_deadline,
            operation_deadline,
        }
    }
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The function of a rank.
    Rank(u32),
    /// The rendezvous, the first one if there are two.
    Rendezvous,
    /// The second rendezvous.
    SecondRendezvous,
}

/// A fault at a simulated time.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultAt {
    /// The target vanishes.
    Kill(Duration, Target),
    /// The target starts anew.
    Start(Duration, Target),
    /// A site is cut off from all others between two times.
    Cut(Duration, Duration, usize),
    /// Two sites are cut off from each other between two times.
    CutBetween(Duration, Duration, usize, usize),
    /// The gateway of this number loses its memory.
    Reboot(Duration, usize),
}

/// What must come out.
#[derive(Clone, Debug, PartialEq)]
pub enum Expect {
    /// Every rank finishes with right results.
    Success,
    /// No pair of these gateways can connect without a relay: every rank gets an error that says so.
    Unconnected,
    /// The rank dies at the time; every other gets an error that names it within the bound.
    Lost {
        /// The rank that dies.
        rank: u32,
        /// When.
        at: Duration,
        /// Time from its death to the last error.
        bound: Duration,
    },
}

/// A world, what runs in it, what goes wrong, and what must come out.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name, as the command line takes it.
    pub name: String,
    /// What it shows.
    pub about: String,
    /// Its world.
    pub world: WorldSpec,
    /// Its program.
    pub program: Program,
    /// What goes wrong.
    pub faults: Vec<FaultAt>,
    /// Simulated time by which everything must have ended.
    pub deadline: Duration,
    /// What must come out.
    pub expect: Expect,
    /// By which path every pair must come together at first, if that matters.
    pub via: Option<fmi::Path>,
    /// By which technique each rank must, as far as this goes.
    pub techniques: Vec<fmi::Technique>,
    /// By which path every pair must be connected at the end, if that matters.
    pub ends_via: Option<fmi::Path>,
}
