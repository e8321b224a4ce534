//! What must come out of a run: the checks of a scenario, and those that are always on.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fmi::{LinkInfo, Path, Technique};

use crate::outcome::{Outcome, RankEnd};

/// The secret of every group; no wire and no error may show it.
pub(crate) const SECRET: &str = "correct horse battery staple";

/// Something that must hold of an outcome.
///
/// Always on, and in no list: the world does not get stuck, every rank finishes or fails by the deadline unless a
/// fault takes it away, no result is wrong, gateways let in what their configuration allows, no eight bytes of the secret
/// of the group are in an error or a record, none of it or of a key that a rank makes are on a wire, and an attack hits
/// somebody.
#[derive(Clone, Debug)]
pub enum Check {
    /// Every rank that no fault takes away finishes.
    Succeeds,
    /// No pair can connect: every rank gets an error that says so.
    Unconnected,
    /// A rank is lost at a time; every other gets an error that names it within the bound.
    Lost {
        /// The rank that is lost.
        rank: u32,
        /// When.
        at: Duration,
        /// Time from then to the last error.
        bound: Duration,
    },
    /// A rank ends with an error.
    Fails {
        /// Which.
        rank: u32,
    },
    /// Every pair comes together by a path. A private address counts as direct.
    Via(Path),
    /// Each rank comes together with its peers by its technique, as far as this list goes.
    Techniques(Vec<Technique>),
    /// Every pair is connected by a path at the end.
    EndsVia(Path),
    /// A check of the user's. See [`Check::that`].
    That(Claim),
}

type Holds = dyn Fn(&Outcome) -> Result<(), String> + Send + Sync;

/// A named claim about an outcome.
#[derive(Clone)]
pub struct Claim {
    name: String,
    holds: Arc<Holds>,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Claim").field(&self.name).finish()
    }
}

/// The group of which an outcome is expected.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) size: u32,
    /// Whether each rank connects to every other.
    pub(crate) is_mesh: bool,
    /// Ranks that a fault takes away for good.
    pub(crate) taken: BTreeSet<u32>,
}

/// The checks that are always on, and those of the scenario.
pub(crate) fn violations(expected: &Expected, checks: &[Check], outcome: &Outcome) -> Vec<String> {
    let mut violations = standing(expected, outcome);
    violations.extend(checks.iter().flat_map(|check| check.violations(expected, outcome)));
    violations
}

fn standing(expected: &Expected, outcome: &Outcome) -> Vec<String> {
    let mut violations: Vec<String> = outcome.report.stuck.iter().map(ToString::to_string).collect();
    violations.extend(outcome.report.let_in.iter().cloned());
    for rank in (0..expected.size).filter(|rank| !expected.taken.contains(rank) && !outcome.ends.contains_key(rank)) {
        violations.push(format!("rank {rank} neither finished nor failed"));
    }
    // What a rank found wrong before a fault took it away counts as well.
    for (rank, end) in outcome.ends.iter().filter(|(_, end)| end.wrong) {
        violations.push(format!("rank {rank}: {}", end.error.as_deref().unwrap_or_default()));
    }
    violations
}

impl Check {
    /// A check of the user's: its name, and the claim, which says what is wrong.
    pub fn that(
        name: impl Into<String>,
        holds: impl Fn(&Outcome) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self::That(Claim { name: name.into(), holds: Arc::new(holds) })
    }

    fn violations(&self, expected: &Expected, outcome: &Outcome) -> Vec<String> {
        // A wrong result is a violation by itself.
        let left = outcome.ends.iter().filter(|(rank, end)| !expected.taken.contains(rank) && !end.wrong);
        let each = |check: &dyn Fn(u32, &RankEnd) -> Option<String>| -> Vec<String> {
            left.clone().filter_map(|(rank, end)| check(*rank, end)).collect()
        };
        let links = |rank| outcome.links.get(&rank).into_iter().flatten();
        match self {
            Self::Succeeds => each(&|rank, end| end.error.as_ref().map(|error| format!("rank {rank} failed: {error}"))),
            Self::Unconnected => each(&|rank, end| match &end.error {
                Some(_) if end.unconnected => None,
                Some(error) => Some(format!("rank {rank} failed otherwise: {error}")),
                None => Some(format!("rank {rank} finished but must not have")),
            }),
            Self::Lost { rank: lost, at, bound } => each(&|rank, end| {
                if rank == *lost { None } else { names(rank, end, *lost, *at, *bound) }
            }),
            Self::Fails { rank: failing } => each(&|rank, end| {
                (rank == *failing && end.error.is_none()).then(|| format!("rank {rank} finished but must not have"))
            }),
            Self::Via(path) => each(&|rank, end| {
                let Some(link) = links(rank).find(|link| !comes_by(link, *path)) else {
                    return lacks_links(expected, rank, end, links(rank).map(|link| link.peer));
                };
                Some(format!("rank {rank} reaches rank {} by the path {}, not {path}", link.peer, link.path))
            }),
            Self::Techniques(techniques) => each(&|rank, end| {
                let technique = techniques.get(rank as usize)?;
                let Some(link) = links(rank).find(|link| link.technique != *technique) else {
                    return lacks_links(expected, rank, end, links(rank).map(|link| link.peer));
                };
                Some(format!("rank {rank} reaches rank {} by {}, not {technique}", link.peer, link.technique))
            }),
            Self::EndsVia(path) => each(&|rank, end| ends_by(outcome, expected, (rank, end), *path)),
            Self::That(Claim { name, holds }) => {
                holds(outcome).err().map(|error| format!("{name}: {error}")).into_iter().collect()
            }
        }
    }
}

/// A rank without a NAT is reached by its own address, which is direct as well.
fn comes_by(link: &LinkInfo, path: Path) -> bool {
    link.path == path || (path == Path::Direct && link.path == Path::Private)
}

/// What is wrong with the error of a rank that must name a lost one in time.
fn names(rank: u32, end: &RankEnd, lost: u32, at: Duration, bound: Duration) -> Option<String> {
    let Some(error) = &end.error else { return Some(format!("rank {rank} finished but must not have")) };
    if end.names != Some(lost) {
        return Some(format!("rank {rank} does not name rank {lost}: {error}"));
    }
    if end.at < at {
        return Some(format!("rank {rank} named rank {lost} at {:?}, before it was lost at {at:?}", end.at));
    }
    let late = end.at - at;
    (late > bound).then(|| format!("rank {rank} learnt of the loss after {late:?}, the bound is {bound:?}"))
}

/// A rank that finishes has a link to each of its peers, in their order.
fn lacks_links(expected: &Expected, rank: u32, end: &RankEnd, peers: impl Iterator<Item = u32>) -> Option<String> {
    let peers: Vec<u32> = peers.collect();
    let others = expected.size as usize - 1;
    let enough = if expected.is_mesh { others } else { others.min(1) };
    let is_complete = end.error.is_some() || peers.len() >= enough;
    let is_in_order = peers.windows(2).all(|pair| pair[0] < pair[1]);
    (!is_complete || !is_in_order).then(|| format!("rank {rank} has links to {peers:?} alone"))
}

/// What is wrong with the links of a rank at the end.
fn ends_by(outcome: &Outcome, expected: &Expected, (rank, end): (u32, &RankEnd), path: Path) -> Option<String> {
    let links = outcome.links_at_end.get(&rank).into_iter().flatten();
    let Some(link) = links.clone().find(|link| link.path != path) else {
        return lacks_links(expected, rank, end, links.map(|link| link.peer));
    };
    Some(format!("rank {rank} ends with {} to rank {}, which must be {path}", link.path, link.peer))
}
