//! Collectives that move blocks. MPI 3.1 §5.5 to §5.8.

use super::*;
use crate::schedule::offsets;

impl Communicator {
    /// Gathers `send` of all ranks, which is equally long on all, into `receive` of the root, in rank order.
    /// `receive` of the others may be empty and is not touched.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a root outside the group or a wrong length of `receive`, which change
    /// nothing; [`ErrorKind::PeerLost`], [`ErrorKind::Deadline`], [`ErrorKind::Mismatch`],
    /// [`ErrorKind::Revoked`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.5, MPI_Gather.
    pub fn gather<'a, T: Element>(&self, send: &'a [T], receive: &'a mut [T], root: u32) -> CollectiveRequest<'a> {
        self.launch(self.rooted_spec::<T>(Collective::Gather, send.len(), root, false), send, receive, Nothing)
    }

    /// As [`Communicator::gather`] with one buffer: at the root all blocks, of which its own is in its place; at
    /// the others their own block.
    ///
    /// # Errors
    /// As [`Communicator::gather`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.5, MPI_Gather with MPI_IN_PLACE at the root.
    pub fn gather_in_place<'a, T: Element>(&self, buffer: &'a mut [T], root: u32) -> CollectiveRequest<'a> {
        if self.rank != root {
            return self.launch(
                self.rooted_spec::<T>(Collective::Gather, buffer.len(), root, false),
                buffer,
                &mut [],
                Nothing,
            );
        }
        let count = self.block(Operation::Gather, buffer.len());
        let spec = count.and_then(|count| self.rooted_spec::<T>(Collective::Gather, count, root, true));
        self.launch(spec, &[], buffer, Nothing)
    }

    /// Scatters the blocks of `send` of the root, one for each rank in rank order, into `receive`. `send` of the
    /// others must be empty.
    ///
    /// # Errors
    /// As [`Communicator::gather`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.6, MPI_Scatter.
    pub fn scatter<'a, T: Element>(&self, send: &'a [T], receive: &'a mut [T], root: u32) -> CollectiveRequest<'a> {
        self.launch(self.rooted_spec::<T>(Collective::Scatter, receive.len(), root, false), send, receive, Nothing)
    }

    /// As [`Communicator::scatter`] with one buffer: at the root all blocks, of which its own stays where it is;
    /// at the others the block that they get.
    ///
    /// # Errors
    /// As [`Communicator::gather`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.6, MPI_Scatter with MPI_IN_PLACE at the root.
    pub fn scatter_in_place<'a, T: Element>(&self, buffer: &'a mut [T], root: u32) -> CollectiveRequest<'a> {
        if self.rank != root {
            return self.launch(
                self.rooted_spec::<T>(Collective::Scatter, buffer.len(), root, false),
                &[],
                buffer,
                Nothing,
            );
        }
        let count = self.block(Operation::Scatter, buffer.len());
        let spec = count.and_then(|count| self.rooted_spec::<T>(Collective::Scatter, count, root, true));
        self.launch(spec, buffer, &mut [], Nothing)
    }

    pub(in super::super) fn rooted_spec<T: Element>(
        &self,
        collective: Collective,
        count: usize,
        root: u32,
        in_place: bool,
    ) -> Result<Spec> {
        let is_gather = collective == Collective::Gather;
        let kind = if is_gather { Kind::Gather } else { Kind::Scatter };
        self.checked_rank(kind.operation(), "the root", root)?;
        let is_root = self.rank == root;
        let all = count * self.size as usize;
        let (send, receive) = match (is_gather, is_root, in_place) {
            (true, true, true) => (0, Some(all)),
            (true, true, false) => (count, Some(all)),
            (true, false, _) => (count, None),
            (false, true, true) => (all, Some(0)),
            (false, true, false) => (all, Some(count)),
            (false, false, _) => (0, Some(count)),
        };
        let problem = Problem { in_place, ..self.problem(collective, root, count, size_of::<T>()) };
        Ok(Spec { root, elements: count, send, receive, ..Spec::new(kind, Recipe::Chosen(problem)) })
    }

    /// Gathers `send` of all ranks, of any lengths, into `receive` of the root: `counts[r]` elements of rank r, one
    /// block after the other. `receive` and `counts` of the others may be empty and are not looked at.
    ///
    /// Where some ranks are not connected ([`Peers::Collectives`](crate::Peers::Collectives)), the root first sends
    /// `counts` to all: a broadcast of 8 bytes for each rank.
    ///
    /// # Errors
    /// As [`Communicator::gather`]; a rank that sends another number than the root expects is a mismatch.
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.5, MPI_Gatherv.
    pub fn gatherv<'a, T: Element>(
        &self,
        send: &'a [T],
        receive: &'a mut [T],
        counts: &[usize],
        root: u32,
    ) -> CollectiveRequest<'a> {
        self.launch_rooted(self.gatherv_spec(send.len(), counts, root), counts, send, receive)
    }

    pub(in super::super) fn gatherv_spec(&self, own: usize, counts: &[usize], root: u32) -> Result<Spec> {
        self.checked_rank(Operation::Gatherv, "the root", root)?;
        let is_root = self.rank == root;
        if is_root {
            self.check_counts(Operation::Gatherv, counts)?;
            self.check_own(Operation::Gatherv, own, counts)?;
        }
        let offsets = offsets(counts);
        let block = |rank: u32| offsets[rank as usize]..offsets[rank as usize + 1];
        let schedule = schedule::gather_linear(self.rank, self.size, root, own, false, block);
        let receive = is_root.then(|| offsets[counts.len()]);
        let recipe = Recipe::Made(schedule, Algorithm::Linear);
        Ok(Spec { root, send: own, receive, ..Spec::new(Kind::Gatherv, recipe) })
    }

    /// Scatters blocks of different lengths of `send` of the root, `counts[r]` elements for rank r, into `receive`.
    /// `send` and `counts` of the others must be empty. Where some ranks are not connected, the root first sends
    /// `counts` to all, as [`Communicator::gatherv`] does.
    ///
    /// # Errors
    /// As [`Communicator::scatter`]; a rank that expects another number than the root sends is a mismatch.
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.6, MPI_Scatterv.
    pub fn scatterv<'a, T: Element>(
        &self,
        send: &'a [T],
        counts: &[usize],
        receive: &'a mut [T],
        root: u32,
    ) -> CollectiveRequest<'a> {
        self.launch_rooted(self.scatterv_spec(counts, receive.len(), root), counts, send, receive)
    }

    pub(in super::super) fn scatterv_spec(&self, counts: &[usize], own: usize, root: u32) -> Result<Spec> {
        self.checked_rank(Operation::Scatterv, "the root", root)?;
        let is_root = self.rank == root;
        if is_root {
            self.check_counts(Operation::Scatterv, counts)?;
            self.check_own(Operation::Scatterv, own, counts)?;
        }
        let offsets = offsets(counts);
        let block = |rank: u32| offsets[rank as usize]..offsets[rank as usize + 1];
        let schedule = schedule::scatter_linear(self.rank, self.size, root, own, false, block);
        let send = if is_root { offsets[counts.len()] } else { 0 };
        let recipe = Recipe::Made(schedule, Algorithm::Linear);
        Ok(Spec { root, send, receive: Some(own), ..Spec::new(Kind::Scatterv, recipe) })
    }

    /// Gathers `send` of all ranks, which is equally long on all, into `receive` of all, in rank order.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if `receive` is not `size` times as long as `send`, which changes nothing;
    /// [`ErrorKind::PeerLost`], [`ErrorKind::Deadline`], [`ErrorKind::Mismatch`], [`ErrorKind::Revoked`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.7, MPI_Allgather.
    pub fn allgather<'a, T: Element>(&self, send: &'a [T], receive: &'a mut [T]) -> CollectiveRequest<'a> {
        self.launch(Ok(self.allgather_spec::<T>(send.len(), false)), send, receive, Nothing)
    }

    /// As [`Communicator::allgather`] with one buffer, in which this rank's block is in its place.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the length of `buffer` is no multiple of `size`; else as
    /// [`Communicator::allgather`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.7, MPI_Allgather with MPI_IN_PLACE.
    pub fn allgather_in_place<'a, T: Element>(&self, buffer: &'a mut [T]) -> CollectiveRequest<'a> {
        let count = self.block(Operation::Allgather, buffer.len());
        self.launch(count.map(|count| self.allgather_spec::<T>(count, true)), &[], buffer, Nothing)
    }

    pub(in super::super) fn allgather_spec<T: Element>(&self, count: usize, in_place: bool) -> Spec {
        let problem = Problem { in_place, ..self.problem(Collective::Allgather, 0, count, size_of::<T>()) };
        let receive = Some(count * self.size as usize);
        let send = if in_place { 0 } else { count };
        Spec { elements: count, send, receive, ..Spec::new(Kind::Allgather, Recipe::Chosen(problem)) }
    }

    /// Gathers `send` of all ranks, of any lengths, into `receive` of all: `counts[r]` elements of rank r, one block
    /// after the other. `counts` is equal on all ranks.
    ///
    /// # Errors
    /// As [`Communicator::allgather`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.7, MPI_Allgatherv.
    pub fn allgatherv<'a, T: Element>(
        &self,
        send: &'a [T],
        receive: &'a mut [T],
        counts: &[usize],
    ) -> CollectiveRequest<'a> {
        self.launch(self.allgatherv_spec::<T>(send.len(), counts), send, receive, Nothing)
    }

    pub(in super::super) fn allgatherv_spec<T: Element>(&self, own: usize, counts: &[usize]) -> Result<Spec> {
        self.check_counts(Operation::Allgatherv, counts)?;
        self.check_own(Operation::Allgatherv, own, counts)?;
        let offsets = offsets(counts);
        let total = offsets[counts.len()];
        let block = |rank: u32| offsets[rank as usize]..offsets[rank as usize + 1];
        let problem = self.problem(Collective::Allgather, 0, total / self.size as usize, size_of::<T>());
        // Of those for blocks of equal length, the ones that take any.
        let is_linear = self.choice(&problem).algorithm == Algorithm::Linear;
        let algorithm = if is_linear { Algorithm::Linear } else { Algorithm::Ring };
        let make = if algorithm == Algorithm::Linear { schedule::allgather_linear } else { schedule::allgather_ring };
        let schedule = self.connections.route(self.rank, self.size, |rank| make(rank, self.size, false, block));
        let recipe = Recipe::Made(schedule, algorithm);
        Ok(Spec { elements: total, send: own, receive: Some(total), ..Spec::new(Kind::Allgatherv, recipe) })
    }

    /// Sends the r-th block of `send` to rank r, and receives the r-th block of `receive` from it; blocks are equally
    /// long.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the lengths differ or are no multiple of `size`, which changes nothing;
    /// [`ErrorKind::PeerLost`], [`ErrorKind::Deadline`], [`ErrorKind::Mismatch`], [`ErrorKind::Revoked`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.8, MPI_Alltoall.
    pub fn alltoall<'a, T: Element>(&self, send: &'a [T], receive: &'a mut [T]) -> CollectiveRequest<'a> {
        let count = self.block(Operation::Alltoall, send.len());
        self.launch(count.map(|count| self.alltoall_spec::<T>(count, false)), send, receive, Nothing)
    }

    /// As [`Communicator::alltoall`] with one buffer, which is copied once.
    ///
    /// # Errors
    /// As [`Communicator::alltoall`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.8, MPI_Alltoall with MPI_IN_PLACE.
    pub fn alltoall_in_place<'a, T: Element>(&self, buffer: &'a mut [T]) -> CollectiveRequest<'a> {
        let count = self.block(Operation::Alltoall, buffer.len());
        self.launch(count.map(|count| self.alltoall_spec::<T>(count, true)), &[], buffer, Nothing)
    }

    pub(in super::super) fn alltoall_spec<T: Element>(&self, count: usize, in_place: bool) -> Spec {
        let problem = Problem { in_place, ..self.problem(Collective::Alltoall, 0, count, size_of::<T>()) };
        let all = count * self.size as usize;
        let send = if in_place { 0 } else { all };
        Spec { elements: count, send, receive: Some(all), ..Spec::new(Kind::Alltoall, Recipe::Chosen(problem)) }
    }

    /// As [`Communicator::alltoall`] with blocks of different lengths: `send_counts[r]` elements for rank r, and
    /// `receive_counts[r]` from it, one block after the other.
    ///
    /// Where some ranks are not connected ([`Peers::Collectives`](crate::Peers::Collectives)), all counts are gathered
    /// to all first, 8 bytes for each pair, and blocks go over other ranks one by one. With blocks of equal length
    /// [`Communicator::alltoall`] is much cheaper there.
    ///
    /// # Errors
    /// As [`Communicator::alltoall`]; ranks that disagree about the length of a block get a mismatch.
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.8, MPI_Alltoallv.
    pub fn alltoallv<'a, T: Element>(
        &self,
        send: &'a [T],
        send_counts: &[usize],
        receive: &'a mut [T],
        receive_counts: &[usize],
    ) -> CollectiveRequest<'a> {
        let spec = self.alltoallv_spec(send_counts, receive_counts);
        self.launch_alltoallv(spec, (send_counts, receive_counts), send, receive)
    }

    pub(in super::super) fn alltoallv_spec(&self, send_counts: &[usize], receive_counts: &[usize]) -> Result<Spec> {
        self.check_counts(Operation::Alltoallv, send_counts)?;
        self.check_counts(Operation::Alltoallv, receive_counts)?;
        let own = receive_counts[self.rank as usize];
        self.check_own(Operation::Alltoallv, own, send_counts)?;
        let (sends, receives) = (offsets(send_counts), offsets(receive_counts));
        let range = |offsets: &[usize], rank: u32| offsets[rank as usize]..offsets[rank as usize + 1];
        let blocks =
            Blocks { send: |rank| range(&sends, rank), receive: |rank| range(&receives, rank), in_place: None };
        // Nobody knows all lengths, so the number of ranks alone decides.
        let (make, algorithm): (fn(_, _, &_) -> _, _) = if self.size <= LINEAR_RANKS_MAX {
            (schedule::alltoall_linear, Algorithm::Linear)
        } else {
            (schedule::alltoall_pairwise, Algorithm::Pairwise)
        };
        let recipe = Recipe::Made(make(self.rank, self.size, &blocks), algorithm);
        let (send, receive) = (sends[send_counts.len()], Some(receives[receive_counts.len()]));
        Ok(Spec { send, receive, ..Spec::new(Kind::Alltoallv, recipe) })
    }

    /// Elements of each rank's block in a buffer of all blocks.
    pub(super) fn block(&self, operation: Operation, total: usize) -> Result<usize> {
        let size = self.size as usize;
        if total.is_multiple_of(size) {
            return Ok(total / size);
        }
        let what = format!("the buffer has {total} elements, which {size} ranks cannot share equally");
        Err(self.error(operation, ErrorKind::InvalidArgument(what)))
    }

    pub(super) fn check_counts(&self, operation: Operation, counts: &[usize]) -> Result<()> {
        let what = if counts.len() != self.size as usize {
            format!("there are {} counts for {} ranks", counts.len(), self.size)
        } else if counts.iter().try_fold(0usize, |sum, count| sum.checked_add(*count)).is_none() {
            "the counts add up to more than memory can hold".to_owned()
        } else {
            return Ok(());
        };
        Err(self.error(operation, ErrorKind::InvalidArgument(what)))
    }

    fn check_own(&self, operation: Operation, own: usize, counts: &[usize]) -> Result<()> {
        let counted = counts[self.rank as usize];
        if own == counted {
            return Ok(());
        }
        let what = format!("this rank's block has {own} elements, its count is {counted}");
        Err(self.error(operation, ErrorKind::InvalidArgument(what)))
    }
}

/// Up to this many ranks exchange blocks of different lengths all at once.
const LINEAR_RANKS_MAX: u32 = 32;
