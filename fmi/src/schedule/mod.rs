//! Collectives as data: what one rank sends, receives and combines, in rounds.
//!
//! All steps of a round run at once and in both directions. Sends read the buffer as it was when
//! the round began; what arrives is applied when the round ends, in the order of the steps. So a
//! schedule has one meaning whatever the network does, and the same value is verified
//! symbolically ([`verify`](self), in tests), executed, and can be priced and drawn.

use std::ops::Range;

mod allreduce;
mod barrier;
mod broadcast;
mod reduce;
#[cfg(test)]
mod verify;

pub use allreduce::{allreduce_halving, allreduce_recursive_doubling};
pub use barrier::barrier_dissemination;
pub use broadcast::broadcast_binomial;
pub use reduce::{reduce_binomial, reduce_ordered};

/// On which side of the own value a received value is combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It comes from lower ranks: `received op own`.
    Left,
    /// It comes from higher ranks: `own op received`.
    Right,
}

/// One transfer of a rank. Ranges count elements of its buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sends a range.
    Send {
        /// Receiver.
        to: u32,
        /// What to send.
        range: Range<usize>,
    },
    /// Receives into a range.
    Receive {
        /// Sender.
        from: u32,
        /// Where to.
        range: Range<usize>,
    },
    /// Receives and combines with a range.
    Reduce {
        /// Sender.
        from: u32,
        /// With what.
        range: Range<usize>,
        /// Where the received value stands.
        side: Side,
    },
}

impl Step {
    /// What it sends, or where it receives.
    pub fn range(&self) -> &Range<usize> {
        match self {
            Self::Send { range, .. } | Self::Receive { range, .. } | Self::Reduce { range, .. } => range,
        }
    }
}

/// Whether what `step` receives must wait for the end of its round: it is combined, or a send of the
/// round reads where it goes.
pub(crate) fn needs_scratch(round: &Round, step: &Step) -> bool {
    let overlaps = |send: &Step| matches!(send, Step::Send { range, .. } if range.start < step.range().end && step.range().start < range.end);
    match step {
        Step::Send { .. } => false,
        Step::Reduce { .. } => true,
        Step::Receive { .. } => round.iter().any(overlaps),
    }
}

/// Steps that run at once.
pub type Round = Vec<Step>;

/// What one rank does in one collective.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Schedule {
    /// Rounds, one after the other.
    pub rounds: Vec<Round>,
}

impl Schedule {
    /// Elements of scratch memory that running it takes.
    pub fn scratch(&self) -> usize {
        let of_round = |round: &Round| {
            let places = round.iter().filter(|step| needs_scratch(round, step));
            places.map(|step| step.range().len()).sum()
        };
        self.rounds.iter().map(of_round).max().unwrap_or(0)
    }

    fn push(&mut self, steps: impl IntoIterator<Item = Step>) {
        let round: Round = steps.into_iter().collect();
        if !round.is_empty() {
            self.rounds.push(round);
        }
    }
}

/// Smallest number of rounds in which information can cross `size` ranks: ⌈log₂ `size`⌉.
fn rounds_for(size: u32) -> u32 {
    size.next_power_of_two().trailing_zeros()
}

/// From here on, an allreduce halves the vector rather than sending it whole in every round: at
/// 16 KiB the transfer of the whole vector begins to outweigh the doubled number of rounds.
const HALVING_BYTES_MIN: usize = 16 << 10;

/// Chooses an allreduce by size. Every rank chooses alike, since all have equal arguments.
pub fn allreduce(me: u32, size: u32, count: usize, element_bytes: usize) -> Schedule {
    let pays = count.saturating_mul(element_bytes) >= HALVING_BYTES_MIN && count >= size as usize;
    if pays { allreduce_halving(me, size, count) } else { allreduce_recursive_doubling(me, size, count) }
}

/// Chooses a reduce: any tree if the operator commutes, else one that keeps the order of ranks.
pub fn reduce(me: u32, size: u32, root: u32, count: usize, commutative: bool) -> Schedule {
    if commutative { reduce_binomial(me, size, root, count) } else { reduce_ordered(me, size, root, count) }
}

/// The peers of `me` in any collective of this module with any root. Symmetric: who is a peer has
/// `me` as a peer.
///
/// Trees and barriers reach 2ᵏ up and down, whatever the root; allreduces reach their partners; an
/// ordered reduce ends with a transfer from rank 0 to the root.
pub fn peers(me: u32, size: u32) -> std::collections::BTreeSet<u32> {
    let distances = (0..rounds_for(size)).map(|k| (1 << k) % size);
    let mut peers: std::collections::BTreeSet<u32> =
        distances.flat_map(|distance| [(me + distance) % size, (me + size - distance) % size]).collect();
    let partners = allreduce_recursive_doubling(me, size, 1).rounds;
    peers.extend(partners.iter().flatten().map(|step| match step {
        Step::Send { to, .. } => *to,
        Step::Receive { from, .. } | Step::Reduce { from, .. } => *from,
    }));
    if me == 0 {
        peers.extend(0..size);
    } else {
        peers.insert(0);
    }
    peers.remove(&me);
    peers
}
