//! What collectives mean: of which contributions each element of a result is made.

use std::ops::Range;

use super::Operation;

/// What an element of a result is made of: element `index` of what these ranks send, combined in their order. Of one
/// rank, it is that element.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origin {
    /// The ranks that contribute.
    pub ranks: Range<u32>,
    /// Where their contribution lies in what they send.
    pub index: usize,
}

/// A call of a collective, without its data.
#[expect(clippy::exhaustive_structs, reason = "whoever asks makes one")]
pub struct Layout<'a> {
    /// Number of ranks.
    pub size: u32,
    /// The root, if the operation has one.
    pub root: u32,
    /// Elements of the block that goes from a rank to a rank; of a reduction with blocks, of the block that the second
    /// one gets; of vectors, their length.
    pub length: &'a dyn Fn(u32, u32) -> usize,
}

impl std::fmt::Debug for Layout<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layout").field("size", &self.size).field("root", &self.root).finish_non_exhaustive()
    }
}

impl Layout<'_> {
    /// The block of `index` in what `to` receives from each rank in turn: its sender, and the place in it.
    fn block(&self, to: u32, index: usize) -> Option<(u32, usize)> {
        let mut rest = index;
        for from in 0..self.size {
            let length = (self.length)(from, to);
            if rest < length {
                return Some((from, rest));
            }
            rest -= length;
        }
        None
    }

    /// Where the block for `to` begins in what `from` sends to each rank in turn.
    fn start(&self, from: u32, to: u32) -> usize {
        (0..to).map(|earlier| (self.length)(from, earlier)).sum()
    }

    /// Elements of the buffers of `rank`, to send and to receive. Where only the root has a buffer, the others' are empty.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others have no result")]
    pub fn buffers(&self, operation: Operation, rank: u32) -> (usize, usize) {
        let all_from = |rank| self.start(rank, self.size);
        let all_to = |rank: u32| (0..self.size).map(|from| (self.length)(from, rank)).sum();
        let (at_root, own) = (rank == self.root, (self.length)(rank, rank));
        match operation {
            Operation::Broadcast => (0, own),
            Operation::Reduce => (own, if at_root { own } else { 0 }),
            Operation::Allreduce | Operation::Scan | Operation::Exscan => (own, own),
            Operation::Gather | Operation::Gatherv => {
                ((self.length)(rank, self.root), if at_root { all_to(rank) } else { 0 })
            }
            Operation::Scatter | Operation::Scatterv => {
                (if at_root { all_from(rank) } else { 0 }, (self.length)(self.root, rank))
            }
            Operation::Allgather | Operation::Allgatherv => (own, all_to(rank)),
            Operation::Alltoall | Operation::Alltoallv => (all_from(rank), all_to(rank)),
            Operation::ReduceScatter | Operation::ReduceScatterBlock => (all_from(rank), own),
            _ => (0, 0),
        }
    }
}

impl Layout<'_> {
    /// One buffer of `rank` for both ways: its length, and where in it what the rank sends and what it gets begin.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others begin at the front")]
    pub fn in_place(&self, operation: Operation, rank: u32) -> (usize, usize, usize) {
        let (sent, received) = self.buffers(operation, rank);
        let before = (0..rank).map(|from| (self.length)(from, rank)).sum();
        match operation {
            Operation::Gather | Operation::Gatherv if rank == self.root => (received, before, 0),
            Operation::Allgather | Operation::Allgatherv => (received, before, 0),
            // The root's own block stays where it is.
            Operation::Scatter | Operation::Scatterv if rank == self.root => (sent, 0, self.start(rank, rank)),
            _ => (sent.max(received), 0, 0),
        }
    }
}

impl Operation {
    /// What element `index` of the result of `rank` is made of; `None` if it has no such element, or keeps it as it was.
    /// This is the definition of the collectives, against which tests hold what ranks get.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others have no result")]
    pub fn origin(self, layout: &Layout<'_>, rank: u32, index: usize) -> Option<Origin> {
        if index >= layout.buffers(self, rank).1 {
            return None;
        }
        let Layout { size, root, .. } = *layout;
        let one = |rank: u32, index| Some(Origin { ranks: rank..rank + 1, index });
        match self {
            Self::Broadcast => one(root, index),
            Self::Reduce | Self::Allreduce => Some(Origin { ranks: 0..size, index }),
            Self::Scan => Some(Origin { ranks: 0..rank + 1, index }),
            Self::Exscan => Some(Origin { ranks: 0..rank, index }).filter(|_| rank > 0),
            Self::Gather | Self::Gatherv | Self::Allgather | Self::Allgatherv => {
                let (from, at) = layout.block(rank, index)?;
                one(from, at)
            }
            Self::Scatter | Self::Scatterv => one(root, layout.start(root, rank) + index),
            Self::Alltoall | Self::Alltoallv => {
                let (from, at) = layout.block(rank, index)?;
                one(from, layout.start(from, rank) + at)
            }
            Self::ReduceScatter | Self::ReduceScatterBlock => {
                Some(Origin { ranks: 0..size, index: layout.start(rank, rank) + index })
            }
            _ => None,
        }
    }
}
