//! Which ranks of a communicator are connected, and the ways between those that are not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::{Schedule, Step, peers, route};

/// Which ranks a rank connects to when it joins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peers {
    /// All: any message and any collective can run.
    #[default]
    All,
    /// Those that collectives use, about 2 log₂ `size` of them (rank 0 has all): enough for every
    /// collective with any root. For groups of hundreds, whose full mesh would cost each rank a socket and a NAT
    /// mapping for every other.
    ///
    /// A message to another rank is refused. Blocks of different lengths cost an exchange of their lengths first, and
    /// those of an `alltoallv` go over other ranks; `alltoallv_init` is refused. A communicator of some ranks uses the
    /// connections between these alone, over which messages go from rank to rank where it must be; one whose
    /// members they do not join is refused when it is made. With rank 0 of the group among them they always do.
    Collectives,
}

impl Peers {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::All, Self::Collectives];

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Collectives => "collectives",
        }
    }

    /// The ranks that `rank` connects to in a group of `size`.
    pub fn of(self, rank: u32, size: u32) -> BTreeSet<u32> {
        match self {
            Self::All => (0..size).filter(|peer| *peer != rank).collect(),
            Self::Collectives => peers(rank, size),
        }
    }

    /// The connections of a group of `size`.
    pub fn connections(self, size: u32) -> Connections {
        match self {
            Self::All => Connections::complete(),
            Self::Collectives => Connections::of_group(size),
        }
    }
}

/// The connections between the ranks of one communicator. All its ranks know the same, so that all plan alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections(Option<Arc<Sparse>>);

#[derive(Debug, PartialEq, Eq)]
struct Sparse {
    /// The ranks that each rank is connected to, ascending.
    neighbours: Vec<Vec<u32>>,
    /// Whether these are the [`peers`] of a whole group, in its order: what the sparse schedules are made for.
    is_whole_group: bool,
}

/// Two members that no connections between members join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no connections between members lead from member {one} to member {other}")]
pub struct Apart {
    /// A member, by its place among them.
    pub one: u32,
    /// A member that it cannot reach.
    pub other: u32,
}

impl Connections {
    /// Each rank is connected to each.
    pub fn complete() -> Self {
        Self(None)
    }

    /// A group of `size` ranks of which each is connected to its [`peers`].
    pub fn of_group(size: u32) -> Self {
        let neighbours: Vec<Vec<u32>> = (0..size).map(|rank| peers(rank, size).into_iter().collect()).collect();
        Self::of(Sparse { neighbours, is_whole_group: true })
    }

    /// `members` of such a group, in this order. Only members take part in the operations of their communicator, so
    /// only connections between them count.
    ///
    /// # Errors
    /// If some members cannot reach each other at all.
    ///
    /// # Panics
    /// If a member is outside the group.
    pub fn of_members(size: u32, members: &[u32]) -> Result<Self, Apart> {
        if members.iter().copied().eq(0..size) {
            return Ok(Self::of_group(size));
        }
        let places: BTreeMap<u32, u32> = members.iter().copied().zip(0..).collect();
        let known = |member: &u32| {
            assert!(*member < size, "callers check members");
            let mut known: Vec<u32> =
                peers(*member, size).iter().filter_map(|peer| places.get(peer).copied()).collect();
            known.sort_unstable();
            known
        };
        Self::joined(members.iter().map(known).collect())
    }

    /// `size` ranks of which those pairs are connected that `connects` says so of.
    ///
    /// # Errors
    /// If some ranks cannot reach each other at all.
    pub fn new(size: u32, connects: impl Fn(u32, u32) -> bool) -> Result<Self, Apart> {
        let known = |me: u32| {
            let others = (0..size).filter(|peer| *peer != me);
            others.filter(|peer| connects(me, *peer) || connects(*peer, me)).collect()
        };
        Self::joined((0..size).map(known).collect())
    }

    fn joined(neighbours: Vec<Vec<u32>>) -> Result<Self, Apart> {
        let sparse = Sparse { neighbours, is_whole_group: false };
        let reached = sparse.ways_from(0);
        match (0..sparse.size()).find(|rank| *rank != 0 && !reached.contains_key(rank)) {
            Some(other) => Err(Apart { one: 0, other }),
            None => Ok(Self::of(sparse)),
        }
    }

    fn of(sparse: Sparse) -> Self {
        let others = sparse.neighbours.len().saturating_sub(1);
        let is_complete = sparse.neighbours.iter().all(|neighbours| neighbours.len() == others);
        Self((!is_complete).then(|| Arc::new(sparse)))
    }

    /// Whether each rank is connected to each.
    ///
    /// Only then can ranks run [`gather_linear`](super::gather_linear), [`scatter_linear`](super::scatter_linear) and
    /// the all-to-alls on blocks whose lengths they do not all know: elsewhere a rank hands on blocks of others.
    pub fn is_complete(&self) -> bool {
        self.0.is_none()
    }

    /// Whether all sparse schedules run on it as they are.
    pub(super) fn suits_sparse_schedules(&self) -> bool {
        self.0.as_ref().is_none_or(|sparse| sparse.is_whole_group)
    }

    /// Whether two ranks are connected; a rank is to itself.
    pub fn has(&self, one: u32, other: u32) -> bool {
        one == other || self.0.as_ref().is_none_or(|sparse| sparse.connects(one, other))
    }

    /// The ways to all other ranks: for each the rank before it on the way from `from`.
    pub(super) fn ways_from(&self, from: u32) -> BTreeMap<u32, u32> {
        self.0.as_ref().map(|sparse| sparse.ways_from(from)).unwrap_or_default()
    }

    /// Whether a schedule of rank `me` uses nothing but connections that there are.
    pub fn carries(&self, me: u32, schedule: &Schedule) -> bool {
        self.is_complete() || schedule.rounds.iter().flatten().filter_map(Step::peer).all(|peer| self.has(me, peer))
    }

    /// The schedule of rank `me`, where `make` gives that of each of `size` ranks. If those use connections that do
    /// not exist, messages go over other ranks, which then have more to do than `make` says.
    pub fn route(&self, me: u32, size: u32, make: impl Fn(u32) -> Schedule) -> Schedule {
        if self.is_complete() {
            return make(me);
        }
        let schedules: Vec<Schedule> = (0..size).map(make).collect();
        route::route(&schedules, me, self)
    }
}

impl Sparse {
    fn size(&self) -> u32 {
        u32::try_from(self.neighbours.len()).expect("ranks are numbers of 32 bits")
    }

    fn connects(&self, one: u32, other: u32) -> bool {
        self.neighbours[one as usize].binary_search(&other).is_ok()
    }

    /// Breadth first. Over ranks that know all others leads a short way to everybody, which would make them carry
    /// everything, so they come last.
    fn ways_from(&self, from: u32) -> BTreeMap<u32, u32> {
        let size = self.size();
        let mut before = BTreeMap::new();
        let mut found = BTreeSet::from([from]);
        let (mut next, mut hubs) = (VecDeque::from([from]), VecDeque::new());
        while let Some(rank) = next.pop_front().or_else(|| hubs.pop_front()) {
            let neighbours = &self.neighbours[rank as usize];
            // Nearest above first, so that ways from different ranks differ alike.
            let split = neighbours.partition_point(|neighbour| *neighbour < rank);
            for neighbour in neighbours[split..].iter().chain(&neighbours[..split]) {
                if found.insert(*neighbour) {
                    before.insert(*neighbour, rank);
                    let is_hub = self.neighbours[*neighbour as usize].len() + 1 == size as usize;
                    if is_hub { &mut hubs } else { &mut next }.push_back(*neighbour);
                }
            }
        }
        before
    }
}
