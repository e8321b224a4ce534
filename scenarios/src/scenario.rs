//! What a scenario is made of: plain data.

use std::collections::BTreeSet;
use std::time::Duration;

use nat_sim::nat::preset::Preset;
use nat_sim::topology::{SiteId, TcpConfig};
use nat_sim::{Fault, Limits};

use crate::attack::Attack;
use crate::check::{Check, Expected};
use crate::program::Program;

/// Where a function is.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Its gateway; functions with the same number share one. `None` is on the internet itself.
    pub gateway: Option<usize>,
    /// When it starts; the jitter of the world comes on top.
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
    /// From a gateway to the core of the internet, one way.
    pub wan: Duration,
    /// From the rendezvous to the core of the internet, one way.
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
    /// Number of rendezvous, one or two; each can replace the other.
    pub servers: usize,
    /// Whether functions and rendezvous also have IPv6 addresses.
    pub ipv6: bool,
    /// What attacks from the internet.
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

    /// Cuts a site off from all others between two times.
    pub fn cut_off(&self, from: Duration, to: Duration, site: usize) -> Vec<(Duration, Fault<Target>)> {
        let others = (0..=self.sites.len()).filter(|other| *other != site);
        others.flat_map(|other| cut_between(from, to, site, other)).collect()
    }
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The function of a rank.
    Rank(u32),
    /// The rendezvous, of two the one that the group turns to first.
    Rendezvous,
    /// The other one.
    SecondRendezvous,
}

/// Cuts two sites off from each other between two times.
pub fn cut_between(from: Duration, to: Duration, one: usize, other: usize) -> [(Duration, Fault<Target>); 2] {
    let (one, other) = (SiteId(one), SiteId(other));
    [(from, Fault::Cut(one, other)), (to, Fault::Heal(one, other))]
}

/// A world, what runs in it, what goes wrong, and what must come out.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use nat_sim::Fault;
/// use nat_sim::nat::preset;
/// use scenarios::{Action, Check, Options, Program, Scenario, Target, WorldSpec};
///
/// let world = WorldSpec::region(3, preset::find("aws_lambda").expect("a preset"));
/// let program = Program::steps([Action::Allreduce { bytes: 1000 }, Action::Sleep(Duration::from_millis(100))], 1000);
/// let mut scenario = Scenario::new("one-dies", "rank 2 vanishes after 2 s", world, program);
/// let at = Duration::from_secs(2);
/// scenario.faults = vec![(at, Fault::Kill(Target::Rank(2)))];
/// scenario.checks = vec![Check::Lost { rank: 2, at, bound: fmi::FAILURE_BOUND + Duration::from_millis(200) }];
/// let outcome = scenarios::run(&scenario, 1, Options::default());
/// assert_eq!(outcome.violations, Vec::<String>::new());
/// ```
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name, as the command line takes it. The group is called by it as well.
    pub name: String,
    /// What it shows.
    pub about: String,
    /// Its world.
    pub world: WorldSpec,
    /// Its program.
    pub program: Program,
    /// What goes wrong, and when.
    pub faults: Vec<(Duration, Fault<Target>)>,
    /// Simulated time by which everything must have ended.
    pub deadline: Duration,
    /// A run in which no byte is read for so long is stuck.
    pub no_progress_max: Duration,
    /// What must hold, in addition to what always must.
    pub checks: Vec<Check>,
}

impl Scenario {
    /// A scenario without faults that must succeed within two minutes.
    pub fn new(name: impl Into<String>, about: impl Into<String>, world: WorldSpec, program: Program) -> Self {
        Self {
            name: name.into(),
            about: about.into(),
            world,
            program,
            faults: Vec::new(),
            deadline: Duration::from_secs(120),
            no_progress_max: Limits::default().no_progress_max,
            checks: vec![Check::Succeeds],
        }
    }

    pub(crate) fn size(&self) -> u32 {
        u32::try_from(self.world.functions.len()).expect("checked: at most 4,096 functions")
    }

    /// Whether it can be: everything that is named exists.
    ///
    /// # Errors
    /// What does not exist.
    pub fn check(&self) -> Result<(), String> {
        let WorldSpec { gateways, functions, sites, servers, .. } = &self.world;
        let known = |what: &str, number: usize, count: usize| {
            if number < count { Ok(()) } else { Err(format!("{what} {number} does not exist")) }
        };
        if !(1..=FUNCTIONS_MAX).contains(&functions.len()) {
            return Err(format!("{} functions are not from 1 to {FUNCTIONS_MAX}", functions.len()));
        }
        if !(1..=2).contains(servers) {
            return Err(format!("{servers} rendezvous are not one or two"));
        }
        for function in functions {
            function.gateway.map_or(Ok(()), |gateway| known("gateway", gateway, gateways.len()))?;
            known("site", function.site, sites.len() + 1)?;
        }
        for (_, fault) in &self.faults {
            // The world knows sites and gateways itself.
            match fault.target() {
                Some(Target::Rank(rank)) => known("rank", *rank as usize, functions.len())?,
                Some(Target::SecondRendezvous) => known("rendezvous", 1, *servers)?,
                Some(Target::Rendezvous) | None => {}
            }
        }
        Ok(())
    }

    pub(crate) fn expected(&self) -> Expected {
        let is_mesh = self.program.config.peers == fmi::Peers::All;
        Expected { size: self.size(), is_mesh, taken: self.taken() }
    }

    /// Ranks that faults take away for good: killed and not started again, frozen and not thawed.
    fn taken(&self) -> BTreeSet<u32> {
        let mut faults: Vec<_> = self.faults.iter().collect();
        faults.sort_by_key(|(at, _)| *at);
        let ranks_of = |site: SiteId| {
            let of_site = move |(rank, function): (u32, &Placement)| (function.site == site.0).then_some(rank);
            (0u32..).zip(&self.world.functions).filter_map(of_site)
        };
        let mut taken = BTreeSet::new();
        for (_, fault) in faults {
            match *fault {
                Fault::Kill(Target::Rank(rank)) | Fault::Freeze(Target::Rank(rank)) => {
                    taken.insert(rank);
                }
                Fault::Start(Target::Rank(rank)) | Fault::Thaw(Target::Rank(rank)) => {
                    taken.remove(&rank);
                }
                Fault::CrashSite(site) => taken.extend(ranks_of(site)),
                Fault::BounceSite(site) => ranks_of(site).for_each(|rank| {
                    taken.remove(&rank);
                }),
                // Only those above take a rank away, or give it back.
                Fault::Kill(_) | Fault::Freeze(_) | Fault::Start(_) | Fault::Thaw(_) => {}
                Fault::Lose(..) | Fault::Tamper(..) | Fault::Cut(..) | Fault::Heal(..) => {}
                Fault::RebootGateway(_) | Fault::RenumberGateway(..) => {}
            }
        }
        taken
    }
}

/// Most functions of a world: their addresses are numbered.
const FUNCTIONS_MAX: usize = 4096;
