//! What each family of schedules says of its algorithms: when they apply, what they cost, how they are built.

use super::{Algorithm, Problem, Schedule, rounds_for};
use crate::model::Shape;

/// One algorithm of one collective.
pub(super) struct Method {
    pub(super) algorithm: Algorithm,
    /// Whether it uses links between [`peers`](super::peers) alone, whatever the root.
    pub(super) sparse: bool,
    /// Whether it combines in an order that the size and the rank of the result alone decide, and shares it with all
    /// such algorithms of the collective. True where nothing is combined.
    pub(super) reproducible: bool,
    /// Whether it is a candidate, where all ranks are connected.
    pub(super) admits: fn(&Problem) -> bool,
    /// What it does, over all ranks. Tests hold it against the schedules themselves.
    pub(super) shape: fn(&Measures) -> Shape,
    /// The schedule of a rank, with segments of this many elements.
    pub(super) build: fn(&Problem, usize, u32) -> Schedule,
}

/// Always a candidate.
pub(super) fn always(_: &Problem) -> bool {
    true
}

/// The quantities that shapes are made of.
pub(super) struct Measures {
    pub(super) size: u32,
    pub(super) ranks: f64,
    /// Ranks but one.
    pub(super) others: f64,
    /// ⌈log₂ ranks⌉.
    pub(super) log: f64,
    /// ⌊log₂ ranks⌋.
    pub(super) floor_log: f64,
    /// 1 if ranks fold first, else 0.
    pub(super) folds: f64,
    /// Ranks that hand their value to a neighbour.
    pub(super) surplus: f64,
    /// Ranks that are left then.
    pub(super) folded: f64,
    /// Bytes of the vector, or of one rank's block.
    pub(super) block: f64,
    /// Segments of a pipeline.
    pub(super) pieces: f64,
    /// Bytes of one segment: while a pipeline fills, each further stage waits for one.
    pub(super) fill: f64,
    /// 1 if the root is not rank 0, else 0.
    pub(super) at_other_root: f64,
}

impl Measures {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub(super) fn new(problem: &Problem, segment: usize) -> Self {
        let size = problem.size;
        let ranks = f64::from(size);
        let surplus = f64::from(size - (1 << size.ilog2()));
        Self {
            size,
            ranks,
            others: ranks - 1.0,
            log: f64::from(rounds_for(size)),
            floor_log: f64::from(size.ilog2()),
            folds: if size.is_power_of_two() { 0.0 } else { 1.0 },
            surplus,
            folded: ranks - surplus,
            block: (problem.count * problem.element_bytes) as f64,
            pieces: problem.count.div_ceil(segment.max(1)).max(1) as f64,
            fill: (segment.min(problem.count) * problem.element_bytes) as f64,
            at_other_root: if problem.root == 0 { 0.0 } else { 1.0 },
        }
    }
}

/// A shape, in the order of its fields.
pub(super) fn tally(
    rounds: f64,
    messages: f64,
    messages_total: f64,
    bytes: f64,
    bytes_total: f64,
    combined: f64,
) -> Shape {
    Shape { rounds, messages, messages_total, bytes, bytes_total, combined }
}
