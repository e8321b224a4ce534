//! Collectives as data: what one rank sends, receives and combines, in rounds.
//!
//! All steps of a round run at once and in both directions. Sends read memory as it was when the
//! round began; what arrives is applied when the round ends, in the order of the steps, and local steps
//! follow. So a schedule has one meaning whatever the network does, and the same value is verified
//! symbolically ([`verify`](self), in tests), executed, priced ([`crate::model`]) and drawn.
//!
//! # Algorithms
//!
//! N ranks, a vector of B bytes (for each rank where the ranks hold different ones). Rounds follow each
//! other; bytes are what the busiest rank sends.
//!
//! | operation | algorithm | rounds | bytes | chosen |
//! |---|---|---|---|---|
//! | barrier | dissemination | ⌈log₂ N⌉ | 0 | ranks have cores of their own |
//! | | tree | 2⌈log₂ N⌉ | 0 | ranks share cores: 2(N-1) messages in all |
//! | broadcast | linear | 1 | (N-1)B | few ranks, short |
//! | | binomial | ⌈log₂ N⌉ | B⌈log₂ N⌉ | short |
//! | | scatter-allgather | ⌈log₂ N⌉ + N-1 | about 2B | long, many ranks |
//! | | chain | N-2 + segments | B | long |
//! | | tree (binary) | 2⌊log₂ N⌋ + 2 segments | 2B | long, many ranks |
//! | reduce | linear | 1 | B | few ranks, short; keeps order |
//! | | binomial | ⌈log₂ N⌉ | B | short |
//! | | chain | N-2 + segments | B | long; keeps order |
//! | | halving (Rabenseifner) | 2⌊log₂ N⌋ + 1 | about 2B | long |
//! | allreduce | recursive doubling | ⌊log₂ N⌋ + 2 | B⌊log₂ N⌋ | short; keeps order |
//! | | tree | 2⌈log₂ N⌉ | B⌈log₂ N⌉ | short, ranks share cores; keeps order |
//! | | halving (Rabenseifner) | 2⌊log₂ N⌋ + 2 | about 2B | long; keeps order |
//! | | ring | 2(N-1) | 2B(N-1)/N | long, any number of ranks |
//! | gather(v), scatter(v) | linear | 1 | (N-1)B at the root | long, and always with counts |
//! | | binomial | ⌈log₂ N⌉ | NB/2 | short |
//! | allgather(v) | Bruck | ⌈log₂ N⌉ | (N-1)B | short |
//! | | ring | N-1 | (N-1)B | long |
//! | | linear | 1 | (N-1)B | long, few ranks |
//! | alltoall(v) | Bruck | ⌈log₂ N⌉ | B/2 ⌈log₂ N⌉ | short |
//! | | pairwise | N-1 | B(N-1)/N | long |
//! | | linear | 1 | B(N-1)/N | short, few ranks |
//! | reduce_scatter | halving | ⌊log₂ N⌋ + 2 | about B | short; keeps order |
//! | | pairwise | N-1 | B(N-1)/N | long |
//! | scan, exscan | recursive doubling | ⌈log₂ N⌉ | B⌈log₂ N⌉ | short |
//! | | chain | N-2 + segments | B | long |
//!
//! `fmi plan` prints any of them with its cost, and draws it.
//!
//! # Missing connections
//!
//! Where some ranks are not connected ([`Connections`]), the candidates are the algorithms that do without; whole sparse
//! groups have one for every collective of equal blocks. Where there is none, in communicators of some ranks
//! and for blocks of different lengths, messages go over other ranks ([`Connections::route`]). The model does not price
//! these detours.
//!
//! # Bits of a result
//!
//! Sums of floats depend on the order in which they are added. All ranks that get one result get the same bits: each
//! element is combined on one rank and copied, or combined in the same order on all. The order follows
//! from the size, the algorithm, and for some algorithms the root and where in the vector an element lies; the
//! algorithm follows from the arguments and the [`Costs`](crate::model::Costs) that the ranks agree on when they form.
//! So a program that runs again on the same layout gets the same bits, and one on another layout, or with a vector of
//! another length, may not.
//!
//! With [`Problem::reproducible`] nothing counts but the size. Only these algorithms are candidates then:
//!
//! | operation | algorithms | order for five ranks | price |
//! |---|---|---|---|
//! | reduce | ordered, halving | `((0 1) 2) (3 4)` | long vectors without halving (sparse): ⌈log₂ N⌉ B |
//! | allreduce | recursive doubling, tree, halving | the same | no ring |
//! | reduce_scatter | ordered | the same | all of it passes rank 0 |
//! | scan, exscan | recursive doubling | `(0 1) (2 3)` at rank 3 | long vectors: B⌈log₂ N⌉ |

use std::fmt;
use std::ops::Range;

mod allgather;
mod allreduce;
mod alltoall;
mod barrier;
mod broadcast;
mod connections;
pub mod draw;
mod family;
mod fold;
mod gather;
mod reduce;
mod reduce_scatter;
mod route;
mod scan;
mod select;
#[cfg(test)]
mod verify;

pub use allgather::{allgather_bruck, allgather_linear, allgather_ring, allgather_tree};
pub use allreduce::{allreduce_halving, allreduce_recursive_doubling, allreduce_ring, allreduce_tree};
pub use alltoall::{Blocks, alltoall_bruck, alltoall_linear, alltoall_pairwise};
pub use barrier::{barrier_dissemination, barrier_exchange, barrier_of_join, barrier_tree};
pub use broadcast::{
    broadcast_binomial, broadcast_chain, broadcast_linear, broadcast_scatter_allgather, broadcast_tree,
};
pub use connections::{Apart, Connections, Peers};
pub use gather::{gather_binomial, gather_linear, scatter_binomial, scatter_linear};
pub use reduce::{reduce_binomial, reduce_chain, reduce_halving, reduce_linear, reduce_ordered};
pub use reduce_scatter::reduce_scatter;
pub use reduce_scatter::{reduce_scatter_halving, reduce_scatter_ordered, reduce_scatter_pairwise};
pub use scan::{scan_chain, scan_recursive_doubling};
pub use select::{
    Algorithm, Choice, Collective, Problem, UnknownName, algorithms, build, build_on, candidates, choose, chosen,
    price, shape,
};

/// Where elements lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Memory {
    /// The caller's send buffer, which is only read.
    Send,
    /// The caller's receive buffer; of operations with one buffer, that one.
    Receive,
    /// Memory of the operation, [`Schedule::work`] elements.
    Work,
}

impl Memory {
    /// A range of elements of it.
    #[inline]
    pub fn at(self, range: Range<usize>) -> Span {
        Span { memory: self, start: range.start, end: range.end }
    }
}

/// A range of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where.
    pub memory: Memory,
    /// First element.
    pub start: usize,
    /// One past the last element.
    pub end: usize,
}

impl Span {
    /// Number of elements.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether it has no elements.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The indices.
    #[inline]
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// Whether both have an element in common.
    #[inline]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.memory == other.memory && self.start < other.end && other.start < self.end
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = match self.memory {
            Memory::Send => "send",
            Memory::Receive => "receive",
            Memory::Work => "work",
        };
        write!(f, "{memory}[{}..{}]", self.start, self.end)
    }
}

/// On which side of the local value a received value is combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It comes from lower ranks: `received op own`.
    Left,
    /// It comes from higher ranks: `own op received`.
    Right,
}

/// One transfer, or something done to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sends.
    Send {
        /// Receiver.
        to: u32,
        /// What.
        data: Span,
    },
    /// Receives.
    Receive {
        /// Sender.
        from: u32,
        /// Where to.
        into: Span,
    },
    /// Receives and combines.
    Reduce {
        /// Sender.
        from: u32,
        /// With what; of the same length as `into`, and the same span or one that does not overlap it.
        own: Span,
        /// Where the result goes.
        into: Span,
        /// Position of the received value.
        side: Side,
    },
    /// Copies, after the transfers of the round.
    Copy {
        /// From where.
        data: Span,
        /// Where to; does not overlap.
        into: Span,
    },
    /// Combines `other` with `into`, after the transfers of the round.
    Combine {
        /// Is not changed; does not overlap.
        other: Span,
        /// Holds the result.
        into: Span,
        /// Position of `other`.
        side: Side,
    },
}

impl Step {
    /// Where what it receives goes; `None` for what receives nothing.
    #[inline]
    pub fn lands(&self) -> Option<(u32, Span)> {
        match self {
            Self::Receive { from, into } | Self::Reduce { from, into, .. } => Some((*from, *into)),
            Self::Send { .. } | Self::Copy { .. } | Self::Combine { .. } => None,
        }
    }

    /// The other rank of a transfer.
    #[inline]
    pub fn peer(&self) -> Option<u32> {
        match self {
            Self::Send { to: peer, .. } | Self::Receive { from: peer, .. } | Self::Reduce { from: peer, .. } => {
                Some(*peer)
            }
            Self::Copy { .. } | Self::Combine { .. } => None,
        }
    }
}

/// Whether what step `index` receives must wait for the end of its round: a send of the round reads where
/// it goes, or an earlier transfer writes there.
pub fn must_wait(round: &[Step], index: usize) -> bool {
    let step = &round[index];
    let Some((_, into)) = step.lands() else { return false };
    let own = if let Step::Reduce { own, .. } = step { *own } else { into };
    round.iter().enumerate().any(|(other, step)| match step {
        Step::Send { data, .. } => data.overlaps(&into),
        Step::Receive { into: theirs, .. } | Step::Reduce { into: theirs, .. } => {
            other < index && (theirs.overlaps(&into) || theirs.overlaps(&own))
                || other > index && theirs.overlaps(&own) && !theirs.overlaps(&into)
        }
        Step::Copy { .. } | Step::Combine { .. } => false,
    })
}

/// Steps that run at once.
pub type Round = Vec<Step>;

/// What one rank does in one collective.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Schedule {
    /// Rounds, one after the other.
    pub rounds: Vec<Round>,
    /// Elements of [`Memory::Work`] that it takes.
    pub work: usize,
}

impl Schedule {
    /// Adds a round of those steps that move something; none if there are none.
    fn push(&mut self, steps: impl IntoIterator<Item = Step>) {
        let is_something = |step: &Step| match step {
            Step::Send { data, .. } => !data.is_empty(),
            Step::Receive { into, .. } | Step::Reduce { into, .. } => !into.is_empty(),
            Step::Copy { data, into } => !data.is_empty() && data != into,
            Step::Combine { other, .. } => !other.is_empty(),
        };
        self.push_all(steps.into_iter().filter(is_something));
    }

    /// Adds a round with its empty messages: of a barrier, or where only one side knows that they are empty.
    fn push_all(&mut self, steps: impl IntoIterator<Item = Step>) {
        let round: Round = steps.into_iter().collect();
        if !round.is_empty() {
            self.rounds.push(round);
        }
    }

    /// Messages that it sends.
    pub fn messages(&self) -> usize {
        self.rounds.iter().flatten().filter(|step| matches!(step, Step::Send { .. })).count()
    }

    /// Elements that it sends.
    pub fn sent(&self) -> usize {
        let sent = |step: &Step| if let Step::Send { data, .. } = step { data.len() } else { 0 };
        self.rounds.iter().flatten().map(sent).sum()
    }

    /// Elements that it combines.
    pub fn combined(&self) -> usize {
        let combined = |step: &Step| match step {
            Step::Reduce { into, .. } | Step::Combine { into, .. } => into.len(),
            Step::Send { .. } | Step::Receive { .. } | Step::Copy { .. } => 0,
        };
        self.rounds.iter().flatten().map(combined).sum()
    }
}

/// Smallest number of rounds in which information can cross `size` ranks: ⌈log₂ `size`⌉.
pub fn rounds_for(size: u32) -> u32 {
    size.next_power_of_two().trailing_zeros()
}

/// Part `index` of `count` elements that are split among `parts` as evenly as possible.
#[inline]
pub fn part(count: usize, parts: u32, index: u32) -> Range<usize> {
    let (parts, index) = (parts as usize, index as usize);
    let (each, surplus) = (count / parts, count % parts);
    let start = each * index + surplus.min(index);
    start..start + each + usize::from(index < surplus)
}

/// Where each rank's elements begin, and their total behind the last, when they lie one after the other.
pub fn offsets(counts: &[usize]) -> Vec<usize> {
    let mut total = 0;
    let mut offsets = Vec::with_capacity(counts.len() + 1);
    for count in counts {
        offsets.push(total);
        total += count;
    }
    offsets.push(total);
    offsets
}

/// Cuts `count` elements into segments of `segment`.
fn segments(count: usize, segment: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let segment = segment.max(1);
    (0..count).step_by(segment).map(move |start| start..count.min(start + segment))
}

/// Ranks numbered from `root`.
#[derive(Clone, Copy)]
struct Relative {
    size: u32,
    root: u32,
}

impl Relative {
    fn of(self, rank: u32) -> u32 {
        (rank + self.size - self.root) % self.size
    }

    fn rank(self, relative: u32) -> u32 {
        (relative + self.root) % self.size
    }
}

/// Number of ranks in the binomial subtree of `relative`, of `size` in all: what lies below its lowest set bit.
fn subtree(relative: u32, size: u32) -> u32 {
    let reach = if relative == 0 { size.next_power_of_two() } else { 1 << relative.trailing_zeros() };
    reach.min(size - relative)
}

/// The peers of `me` in any collective with any root, where only some pairs are connected. Symmetric: a peer has `me`
/// as its peer.
///
/// Trees, barriers and Bruck's algorithms reach 2ᵏ up and down, whatever the root; allreduces reach their
/// partners; an ordered reduce ends with a transfer from rank 0 to the root. What else there is, is planned on
/// [`Connections`].
pub fn peers(me: u32, size: u32) -> std::collections::BTreeSet<u32> {
    let distances = (0..rounds_for(size)).map(|k| (1 << k) % size);
    let mut peers: std::collections::BTreeSet<u32> =
        distances.flat_map(|distance| [(me + distance) % size, (me + size - distance) % size]).collect();
    let partners = allreduce_recursive_doubling(me, size, 1, Memory::Send).rounds;
    peers.extend(partners.iter().flatten().filter_map(Step::peer));
    if me == 0 {
        peers.extend(0..size);
    } else {
        peers.insert(0);
    }
    peers.remove(&me);
    peers
}
