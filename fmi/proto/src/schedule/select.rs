//! Which algorithm: by operation, size, count and modelled time. A pure function of what all ranks know.

use std::ops::Range;
use std::time::Duration;

use super::family::{Measures, Method};
use super::*;
use crate::model::{Costs, Shape};
use crate::operation::named;
pub use crate::operation::{Collective, UnknownName};

named! {
    /// How a collective is done.
    Algorithm: "algorithm" {
        /// Everything in one round.
        Linear "linear",
        /// A binomial tree.
        Binomial "binomial",
        /// A binomial tree that keeps the order of ranks.
        Ordered "ordered",
        /// A pipelined chain of ranks.
        Chain "chain",
        /// A tree: pipelined and binary for a broadcast, else binomial up and down.
        Tree "tree",
        /// Scatter, then allgather.
        ScatterAllgather "scatter-allgather",
        /// Dissemination.
        Dissemination "dissemination",
        /// Recursive doubling.
        RecursiveDoubling "recursive-doubling",
        /// Recursive halving; of reductions, Rabenseifner's algorithm.
        Halving "halving",
        /// A ring.
        Ring "ring",
        /// Bruck's algorithm.
        Bruck "bruck",
        /// Pairwise exchange.
        Pairwise "pairwise",
    }
}

/// What is to be done, in terms that are equal on all ranks but for `in_place`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The operation.
    pub collective: Collective,
    /// Ranks.
    pub size: u32,
    /// Root, of operations that have one.
    pub root: u32,
    /// Elements of the vector; of gather, scatter, allgather, alltoall and reduce_scatter, of one rank's block.
    pub count: usize,
    /// Bytes of an element.
    pub element_bytes: usize,
    /// Whether the operator commutes.
    pub commutative: bool,
    /// Whether this rank has one buffer for both ways.
    pub in_place: bool,
    /// Whether the order in which contributions are combined may depend on nothing but the size, so that results are
    /// equal to the bit whatever the count, the network and the algorithm. Costs time where the excluded ones are
    /// faster; see [`crate::schedule`].
    pub reproducible: bool,
}

/// An algorithm with its modelled time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What it costs.
    pub time: Duration,
    /// Elements in each segment of a pipeline.
    pub segment: usize,
}

impl Problem {
    /// Whether each rank can have an element of the vector of its own.
    pub(super) fn has_a_part_for_each(&self) -> bool {
        self.count >= self.size as usize
    }

    /// Where each rank's own vector lies.
    pub(super) fn source(&self) -> Memory {
        if self.in_place { Memory::Receive } else { Memory::Send }
    }

    /// Where each rank's block lies among all, in rank order.
    pub(super) fn equal_blocks(&self) -> impl Fn(u32) -> Range<usize> + Copy + use<> {
        let count = self.count;
        move |rank| rank as usize * count..(rank as usize + 1) * count
    }
}

/// The algorithms of a collective, the first of equals first.
fn family(collective: Collective) -> &'static [Method] {
    match collective {
        Collective::Barrier => barrier::BARRIER,
        Collective::Broadcast => broadcast::BROADCAST,
        Collective::Reduce => reduce::REDUCE,
        Collective::Allreduce => allreduce::ALLREDUCE,
        Collective::Gather => gather::GATHER,
        Collective::Scatter => gather::SCATTER,
        Collective::Allgather => allgather::ALLGATHER,
        Collective::Alltoall => alltoall::ALLTOALL,
        Collective::ReduceScatter => reduce_scatter::REDUCE_SCATTER,
        Collective::Scan => scan::SCAN,
        Collective::Exscan => scan::EXSCAN,
    }
}

fn method(collective: Collective, algorithm: Algorithm) -> &'static Method {
    let found = family(collective).iter().find(|method| method.algorithm == algorithm);
    found.unwrap_or_else(|| panic!("there is no {algorithm} {collective}"))
}

/// All algorithms that there are for a collective, whatever the problem.
pub fn algorithms(collective: Collective) -> impl Iterator<Item = Algorithm> {
    family(collective).iter().map(|method| method.algorithm)
}

/// The algorithms for `problem`. Where connections are missing, those that do without; if there are none, the one of
/// fewest messages, which [`build_on`] sends over other ranks.
pub fn candidates(problem: &Problem, connections: &Connections) -> Vec<Algorithm> {
    let is_complete = connections.is_complete();
    let fits = |method: &&Method| {
        let is_in_order = method.reproducible || !problem.reproducible;
        (method.admits)(problem) && is_in_order && (method.sparse || is_complete)
    };
    let known: Vec<&Method> = family(problem.collective).iter().filter(fits).collect();
    let named = |methods: &[&Method]| methods.iter().map(|method| method.algorithm).collect();
    if connections.suits_sparse_schedules() {
        return named(&known);
    }
    let direct: Vec<&Method> = known.iter().copied().filter(|method| is_direct(problem, method, connections)).collect();
    if !direct.is_empty() {
        return named(&direct);
    }
    let measures = Measures::new(problem, usize::MAX);
    let messages = |method: &&Method| (method.shape)(&measures).messages_total;
    let fewest = known.into_iter().min_by(|a, b| messages(a).total_cmp(&messages(b)));
    named(fewest.as_slice())
}

/// Whether an algorithm does without the connections that are missing. They do not depend on the count, if each
/// rank has something to send.
fn is_direct(problem: &Problem, method: &Method, connections: &Connections) -> bool {
    let short = Problem { count: problem.size as usize, in_place: false, ..*problem };
    (0..problem.size).all(|rank| connections.carries(rank, &(method.build)(&short, usize::MAX, rank)))
}

/// The candidate with the least modelled time.
pub fn choose(problem: &Problem, costs: &Costs, connections: &Connections) -> Choice {
    let priced = candidates(problem, connections).into_iter().map(|algorithm| price(problem, algorithm, costs));
    // The first of equals, on every rank.
    priced.min_by(|a, b| a.time.cmp(&b.time)).expect("every collective has an algorithm")
}

/// `forced` if it is one of the candidates, else the best of them.
pub fn chosen(problem: &Problem, forced: Option<Algorithm>, costs: &Costs, connections: &Connections) -> Choice {
    match forced.filter(|forced| candidates(problem, connections).contains(forced)) {
        Some(forced) => price(problem, forced, costs),
        None => choose(problem, costs, connections),
    }
}

/// What `algorithm` would cost.
pub fn price(problem: &Problem, algorithm: Algorithm, costs: &Costs) -> Choice {
    let is_tree = algorithm == Algorithm::Tree;
    let stages = if is_tree { 2 * problem.size.max(2).ilog2() } else { problem.size.saturating_sub(1) };
    let bytes = problem.count.saturating_mul(problem.element_bytes);
    let segment = (costs.segment_bytes(bytes, stages) / problem.element_bytes.max(1)).max(1);
    let time = costs.time(&shape(problem, algorithm, segment), problem.size);
    Choice { algorithm, time, segment }
}

/// What a schedule of `algorithm` does, over all ranks.
///
/// # Panics
/// If there is no such algorithm for the collective.
pub fn shape(problem: &Problem, algorithm: Algorithm, segment: usize) -> Shape {
    if problem.size == 1 {
        return Shape::default();
    }
    (method(problem.collective, algorithm).shape)(&Measures::new(problem, segment))
}

/// The schedule of rank `me` for `problem` by `choice`, where all ranks are connected.
///
/// # Panics
/// If there is no such algorithm for the collective, or a rank is outside the group.
pub fn build(problem: &Problem, choice: &Choice, me: u32) -> Schedule {
    assert!(me < problem.size && problem.root < problem.size, "callers check ranks");
    (method(problem.collective, choice.algorithm).build)(problem, choice.segment, me)
}

/// The schedule of rank `me` for `problem` by `choice`, one of the [`candidates`] for `connections`.
///
/// # Panics
/// As [`build`].
pub fn build_on(problem: &Problem, choice: &Choice, me: u32, connections: &Connections) -> Schedule {
    if connections.suits_sparse_schedules() {
        return build(problem, choice, me);
    }
    // Where the others have their buffers is not known here, and changes no message.
    let of = |rank: u32| Problem { in_place: rank == me && problem.in_place, ..*problem };
    connections.route(me, problem.size, |rank| build(&of(rank), choice, rank))
}
