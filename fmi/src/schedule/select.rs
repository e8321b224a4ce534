//! Which algorithm: by operation, size, count and modelled time. A pure function of what all ranks know.

use std::time::Duration;

use super::alltoall::Blocks;
use super::*;
use crate::model::{Fabric, Shape};
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

/// The algorithms for `problem`. With `sparse`, those that use links between [`peers`] alone.
pub fn candidates(problem: &Problem, sparse: bool) -> &'static [Algorithm] {
    use Algorithm::*;
    let (commutative, fits) = (problem.commutative, problem.count >= problem.size as usize);
    match (problem.collective, sparse) {
        (Collective::Barrier, _) => &[Dissemination, Tree],
        (Collective::Broadcast, true) if fits => &[Binomial, ScatterAllgather, Chain],
        (Collective::Broadcast, true) => &[Binomial, Chain],
        (Collective::Broadcast, false) if fits => &[Binomial, Linear, ScatterAllgather, Chain, Tree],
        (Collective::Broadcast, false) => &[Binomial, Linear, Chain, Tree],
        (Collective::Reduce, true) if commutative => &[Binomial, Chain],
        (Collective::Reduce, true) => &[Ordered, Chain],
        (Collective::Reduce, false) if commutative && fits => &[Binomial, Linear, Chain, Halving],
        (Collective::Reduce, false) if commutative => &[Binomial, Linear, Chain],
        (Collective::Reduce, false) => &[Ordered, Linear, Chain],
        (Collective::Allreduce, _) if commutative && fits => &[RecursiveDoubling, Tree, Halving, Ring],
        (Collective::Allreduce, _) if fits => &[RecursiveDoubling, Tree, Halving],
        (Collective::Allreduce, _) => &[RecursiveDoubling, Tree],
        (Collective::Gather | Collective::Scatter, true) => &[Binomial],
        (Collective::Gather | Collective::Scatter, false) => &[Binomial, Linear],
        (Collective::Allgather, true) => &[Bruck, Ring, Tree],
        (Collective::Allgather, false) => &[Bruck, Ring, Linear, Tree],
        (Collective::Alltoall, true) => &[Bruck],
        (Collective::Alltoall, false) => &[Bruck, Pairwise, Linear],
        (Collective::ReduceScatter, true) if commutative => &[Halving],
        (Collective::ReduceScatter, false) if commutative => &[Halving, Pairwise],
        (Collective::ReduceScatter, _) => &[Ordered],
        (Collective::Scan | Collective::Exscan, _) => &[RecursiveDoubling, Chain],
    }
}

/// The candidate with the least modelled time.
pub fn choose(problem: &Problem, fabric: &Fabric, sparse: bool) -> Choice {
    let priced = candidates(problem, sparse).iter().map(|algorithm| price(problem, *algorithm, fabric));
    // The first of equals, on every rank.
    priced.min_by(|a, b| a.time.cmp(&b.time)).expect("every collective has an algorithm")
}

/// `forced` if it is one of the candidates, else the best of them.
pub fn chosen(problem: &Problem, forced: Option<Algorithm>, fabric: &Fabric, sparse: bool) -> Choice {
    match forced.filter(|forced| candidates(problem, sparse).contains(forced)) {
        Some(forced) => price(problem, forced, fabric),
        None => choose(problem, fabric, sparse),
    }
}

/// What `algorithm` would cost.
pub fn price(problem: &Problem, algorithm: Algorithm, fabric: &Fabric) -> Choice {
    let is_tree = algorithm == Algorithm::Tree;
    let stages = if is_tree { 2 * problem.size.max(2).ilog2() } else { problem.size.saturating_sub(1) };
    let bytes = problem.count.saturating_mul(problem.element_bytes);
    let segment = (fabric.segment_bytes(bytes, stages) / problem.element_bytes.max(1)).max(1);
    let time = fabric.time(&shape(problem, algorithm, segment), problem.size);
    Choice { algorithm, time, segment }
}

/// What a schedule of `algorithm` does, over all ranks. Tests hold it against the schedules themselves.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
#[expect(clippy::too_many_lines, reason = "a table")]
pub fn shape(problem: &Problem, algorithm: Algorithm, segment: usize) -> Shape {
    use Algorithm::*;
    let size = problem.size;
    let ranks = f64::from(size);
    let others = ranks - 1.0;
    let log = f64::from(rounds_for(size));
    let floor_log = f64::from(size.ilog2());
    let folds = if size.is_power_of_two() { 0.0 } else { 1.0 };
    let surplus = f64::from(size - (1 << size.ilog2()));
    let folded = ranks - surplus;
    let block = (problem.count * problem.element_bytes) as f64;
    let pieces = problem.count.div_ceil(segment.max(1)).max(1) as f64;
    // While a pipeline fills, each further stage waits for one segment.
    let fill = (segment.min(problem.count) * problem.element_bytes) as f64;
    let is_zero = if size == 1 { 0.0 } else { 1.0 };
    let make = |rounds: f64, messages: f64, messages_total: f64, bytes: f64, bytes_total: f64, combined: f64| Shape {
        rounds: rounds * is_zero,
        messages: messages * is_zero,
        messages_total: messages_total * is_zero,
        bytes: bytes * is_zero,
        bytes_total: bytes_total * is_zero,
        combined: combined * is_zero,
    };
    let at_other_root = if problem.root == 0 { 0.0 } else { 1.0 };
    match (problem.collective, algorithm) {
        (Collective::Barrier, Dissemination) => make(log, log, ranks * log, 0.0, 0.0, 0.0),
        (Collective::Barrier, _) => make(2.0 * log, log, 2.0 * others, 0.0, 0.0, 0.0),
        (Collective::Broadcast, Linear) => make(1.0, others, others, others * block, others * block, 0.0),
        (Collective::Broadcast, ScatterAllgather) => {
            make(log + others, log + others, 0.8 * ranks * ranks, 2.0 * block, others * block, 0.0)
        }
        (Collective::Broadcast, Chain) => {
            make(others, pieces, others * pieces, block + (others - 1.0) * fill, others * block, 0.0)
        }
        (Collective::Broadcast, Tree) => {
            let depth = floor_log.max(1.0);
            let bytes = 2.0 * (block + (depth - 1.0) * fill);
            make(depth, 2.0 * pieces, others * pieces, bytes, others * block, 0.0)
        }
        (Collective::Broadcast, _) => make(log, log, others, log * block, others * block, 0.0),
        (Collective::Reduce, Linear) => make(1.0, others, others, others * block, others * block, others * block),
        (Collective::Reduce, Chain) => {
            let (hops, both) = (others + at_other_root, 1.0 + at_other_root);
            let bytes = both * block + (hops - 1.0) * fill;
            make(hops, both * pieces, hops * pieces, bytes, hops * block, block)
        }
        (Collective::Reduce, Halving) => {
            let whole = 2.0 * floor_log + folds + 1.0;
            let moved = folded * (1.0 - 1.0 / folded) * block + surplus * block + block;
            let most = floor_log + folded;
            make(whole, most, folded * floor_log + surplus + folded, 2.0 * block, moved, block)
        }
        (Collective::Reduce, _) => {
            let extra = if algorithm == Ordered { at_other_root } else { 0.0 };
            make(log + extra, log, others + extra, log * block, (others + extra) * block, log * block)
        }
        (Collective::Allreduce, Tree) => {
            make(2.0 * log, 2.0 * log, 2.0 * others, 2.0 * log * block, 2.0 * others * block, log * block)
        }
        (Collective::Allreduce, Halving) => {
            let moved = 2.0 * (folded - 1.0) * block + 2.0 * surplus * block;
            make(
                2.0 * (floor_log + folds),
                2.0 * floor_log + folds,
                2.0 * folded * floor_log + 2.0 * surplus,
                (2.0 + folds) * block,
                moved,
                (1.0 + folds) * block,
            )
        }
        (Collective::Allreduce, Ring) => {
            let share = 2.0 * others / ranks * block;
            make(2.0 * others, 2.0 * others, 2.0 * ranks * others, share, ranks * share, block)
        }
        (Collective::Allreduce, _) => make(
            floor_log + 2.0 * folds,
            floor_log + folds,
            folded * floor_log + 2.0 * surplus,
            (floor_log + folds) * block,
            (folded * floor_log + 2.0 * surplus) * block,
            (floor_log + folds) * block,
        ),
        (Collective::Gather | Collective::Scatter, Linear) => {
            make(1.0, others, others, others * block, others * block, 0.0)
        }
        (Collective::Gather | Collective::Scatter, _) => {
            // Inner nodes copy what they pass on.
            let most = others * block;
            let moved: u32 = (1..size).map(|rank| subtree(rank, size)).sum();
            make(log, log, others + at_other_root, most, f64::from(moved) * block, ranks / 2.0 * block)
        }
        (Collective::Allgather, Linear) => {
            make(1.0, others, ranks * others, others * block, ranks * others * block, 0.0)
        }
        (Collective::Allgather, Ring) => {
            make(others, others, ranks * others, others * block, ranks * others * block, 0.0)
        }
        (Collective::Allgather, Tree) => {
            let up = ranks / 2.0 * log * block;
            let down = others * ranks * block;
            make(2.0 * log, log, 2.0 * others, log * ranks * block, up + down, ranks / 2.0 * block)
        }
        (Collective::Allgather, _) => {
            make(log, log, ranks * log, others * block, ranks * others * block, ranks * block)
        }
        (Collective::Alltoall, Linear) => {
            make(1.0, others, ranks * others, others * block, ranks * others * block, 0.0)
        }
        (Collective::Alltoall, Pairwise) => {
            make(others, others, ranks * others, others * block, ranks * others * block, 0.0)
        }
        (Collective::Alltoall, _) => {
            let moved = f64::from((0..size).map(u32::count_ones).sum::<u32>()) * block;
            make(log, log, ranks * log, moved, ranks * moved, 2.0 * moved + 2.0 * ranks * block)
        }
        (Collective::ReduceScatter, Pairwise) => {
            make(others, others, ranks * others, others * block, ranks * others * block, others * block)
        }
        (Collective::ReduceScatter, Halving) => {
            let total = ranks * block;
            make(
                floor_log + 2.0 * folds,
                floor_log + folds,
                folded * floor_log + 2.0 * surplus,
                (1.0 + folds) * total,
                (folded - 1.0) * total + surplus * (total + block),
                (1.0 + folds) * total,
            )
        }
        (Collective::ReduceScatter, _) => {
            let total = ranks * block;
            make(log + 1.0, others, 2.0 * others, log * total, others * (total + block), log * total)
        }
        (Collective::Scan | Collective::Exscan, Chain) => {
            make(others, pieces, others * pieces, block + (others - 1.0) * fill, others * block, block)
        }
        (Collective::Scan, _) => {
            let total: f64 = (0..rounds_for(size)).map(|k| f64::from(size - (1 << k))).sum();
            make(log, log, total, log * block, total * block, log * block)
        }
        (Collective::Exscan, _) => {
            let inner = size - 1;
            let rounds = f64::from(rounds_for(inner.max(1)));
            let total: f64 = (0..rounds_for(inner.max(1))).map(|k| f64::from(inner - (1 << k))).sum();
            make(
                rounds + 1.0,
                rounds + 1.0,
                total + others,
                (rounds + 1.0) * block,
                (total + others) * block,
                rounds * block,
            )
        }
    }
}

/// The schedule of rank `me` for `problem` by `choice`.
///
/// # Panics
/// If the algorithm is not among [`candidates`], or the root outside the group.
pub fn build(problem: &Problem, choice: &Choice, me: u32) -> Schedule {
    use Algorithm::*;
    let Problem { collective, size, root, count, in_place, .. } = *problem;
    assert!(me < size && root < size, "callers check ranks");
    let segment = choice.segment;
    let source = if in_place { Memory::Receive } else { Memory::Send };
    let equal = |rank: u32| rank as usize * count..(rank as usize + 1) * count;
    let blocks = || Blocks { send: equal, receive: equal, in_place: in_place.then_some(size as usize * count) };
    match (collective, choice.algorithm) {
        (Collective::Barrier, Dissemination) => barrier_dissemination(me, size),
        (Collective::Barrier, Tree) => barrier_tree(me, size),
        (Collective::Broadcast, Linear) => broadcast_linear(me, size, root, count),
        (Collective::Broadcast, Binomial) => broadcast_binomial(me, size, root, count),
        (Collective::Broadcast, ScatterAllgather) => broadcast_scatter_allgather(me, size, root, count),
        (Collective::Broadcast, Chain) => broadcast_chain(me, size, root, count, segment),
        (Collective::Broadcast, Tree) => broadcast_tree(me, size, root, count, segment),
        (Collective::Reduce, Linear) => reduce_linear(me, size, root, count, source),
        (Collective::Reduce, Binomial) => reduce_binomial(me, size, root, count, source),
        (Collective::Reduce, Ordered) => reduce_ordered(me, size, root, count, source),
        (Collective::Reduce, Chain) => reduce_chain(me, size, root, count, segment, source),
        (Collective::Reduce, Halving) => reduce_halving(me, size, root, count, source),
        (Collective::Allreduce, RecursiveDoubling) => allreduce_recursive_doubling(me, size, count, source),
        (Collective::Allreduce, Tree) => allreduce_tree(me, size, count, source),
        (Collective::Allreduce, Halving) => allreduce_halving(me, size, count, source),
        (Collective::Allreduce, Ring) => allreduce_ring(me, size, count, source),
        (Collective::Gather, Linear) => gather_linear(me, size, root, count, in_place, equal),
        (Collective::Gather, Binomial) => gather_binomial(me, size, root, count, in_place),
        (Collective::Scatter, Linear) => scatter_linear(me, size, root, count, in_place, equal),
        (Collective::Scatter, Binomial) => scatter_binomial(me, size, root, count, in_place),
        (Collective::Allgather, Linear) => allgather_linear(me, size, in_place, equal),
        (Collective::Allgather, Ring) => allgather_ring(me, size, in_place, equal),
        (Collective::Allgather, Bruck) => allgather_bruck(me, size, count, in_place),
        (Collective::Allgather, Tree) => allgather_tree(me, size, count, in_place),
        (Collective::Alltoall, Linear) => alltoall_linear(me, size, &blocks()),
        (Collective::Alltoall, Pairwise) => alltoall_pairwise(me, size, &blocks()),
        (Collective::Alltoall, Bruck) => alltoall_bruck(me, size, count, in_place),
        (Collective::ReduceScatter, algorithm) => {
            reduce_scatter(algorithm, me, size, &offsets(&vec![count; size as usize]), source)
        }
        (Collective::Scan, RecursiveDoubling) => scan_recursive_doubling(me, size, count, source, false),
        (Collective::Scan, Chain) => scan_chain(me, size, count, segment, source, false),
        (Collective::Exscan, RecursiveDoubling) => scan_recursive_doubling(me, size, count, source, true),
        (Collective::Exscan, Chain) => scan_chain(me, size, count, segment, source, true),
        (collective, algorithm) => panic!("there is no {algorithm} {collective}"),
    }
}

/// The same for blocks of different lengths, which lie between `offsets`.
pub(crate) fn reduce_scatter(algorithm: Algorithm, me: u32, size: u32, offsets: &[usize], source: Memory) -> Schedule {
    if algorithm == Algorithm::Halving {
        reduce_scatter_halving(me, size, offsets, source)
    } else if algorithm == Algorithm::Pairwise {
        reduce_scatter_pairwise(me, size, offsets, source)
    } else {
        reduce_scatter_ordered(me, size, offsets, source)
    }
}
