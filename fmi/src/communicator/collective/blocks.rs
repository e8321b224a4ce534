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
        self.launch(self.gather_spec(Elements::of::<T>(), send.len(), root, false), send, receive, Nothing)
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
        let (send, receive, in_place) = self.one_buffer(Operation::Gather, root, buffer);
        let count = if in_place { self.block(Operation::Gather, receive.len()) } else { Ok(send.len()) };
        let spec = count.and_then(|count| self.gather_spec(Elements::of::<T>(), count, root, in_place));
        self.launch(spec, send, receive, Nothing)
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
        self.launch(self.scatter_spec(Elements::of::<T>(), receive.len(), root, false), send, receive, Nothing)
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
        let (send, receive, in_place) = self.one_buffer(Operation::Scatter, root, buffer);
        let count = if in_place { self.block(Operation::Scatter, send.len()) } else { Ok(receive.len()) };
        let spec = count.and_then(|count| self.scatter_spec(Elements::of::<T>(), count, root, in_place));
        self.launch(spec, send, receive, Nothing)
    }

    pub(in super::super) fn gather_spec(&self, of: Elements, count: usize, root: u32, in_place: bool) -> Result<Spec> {
        let (is_root, all) = (self.rank == root, count.saturating_mul(self.size as usize));
        let (own, receive) = (if in_place && is_root { 0 } else { count }, is_root.then_some(all));
        Ok(Spec { send: own, receive, ..self.rooted_spec(Kind::Gather, of, count, root, in_place)? })
    }

    pub(in super::super) fn scatter_spec(&self, of: Elements, count: usize, root: u32, in_place: bool) -> Result<Spec> {
        let (is_root, all) = (self.rank == root, count.saturating_mul(self.size as usize));
        let (own, send) = (if in_place && is_root { 0 } else { count }, if is_root { all } else { 0 });
        Ok(Spec { send, receive: Some(own), ..self.rooted_spec(Kind::Scatter, of, count, root, in_place)? })
    }

    fn rooted_spec(&self, kind: Kind, of: Elements, count: usize, root: u32, in_place: bool) -> Result<Spec> {
        self.checked_rank(kind.operation(), "the root", root)?;
        let collective = if kind == Kind::Gather { Collective::Gather } else { Collective::Scatter };
        let problem = Problem { in_place, ..self.problem(collective, root, count, of) };
        Ok(Spec { root, elements: count, ..Spec::new(kind, of, Recipe::Chosen(problem)) })
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
        let spec = self.gatherv_spec(Elements::of::<T>(), send.len(), counts, root, false);
        self.launch_rooted(spec, counts, bytemuck::cast_slice(send), bytemuck::cast_slice_mut(receive))
    }

    /// As [`Communicator::gatherv`] with one buffer: at the root all blocks, of which its own is in its place; at the
    /// others their own block.
    ///
    /// # Errors
    /// As [`Communicator::gatherv`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.5, MPI_Gatherv with MPI_IN_PLACE at the root.
    pub fn gatherv_in_place<'a, T: Element>(
        &self,
        buffer: &'a mut [T],
        counts: &[usize],
        root: u32,
    ) -> CollectiveRequest<'a> {
        let (send, receive, in_place) = self.one_buffer(Operation::Gatherv, root, buffer);
        let own = if in_place { self.counted(counts) } else { send.len() };
        let spec = self.gatherv_spec(Elements::of::<T>(), own, counts, root, in_place);
        self.launch_rooted(spec, counts, bytemuck::cast_slice(send), bytemuck::cast_slice_mut(receive))
    }

    pub(in super::super) fn gatherv_spec(
        &self,
        of: Elements,
        own: usize,
        counts: &[usize],
        root: u32,
        in_place: bool,
    ) -> Result<Spec> {
        let (total, recipe) = self.rooted_blocks(Kind::Gatherv, own, counts, root, in_place)?;
        let send = if in_place { 0 } else { own };
        Ok(Spec { root, in_place, send, receive: total, ..Spec::new(Kind::Gatherv, of, recipe) })
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
        let spec = self.scatterv_spec(Elements::of::<T>(), counts, receive.len(), root, false);
        self.launch_rooted(spec, counts, bytemuck::cast_slice(send), bytemuck::cast_slice_mut(receive))
    }

    /// As [`Communicator::scatterv`] with one buffer: at the root all blocks, of which its own stays where it is; at the
    /// others the block that they get.
    ///
    /// # Errors
    /// As [`Communicator::scatterv`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.6, MPI_Scatterv with MPI_IN_PLACE at the root.
    pub fn scatterv_in_place<'a, T: Element>(
        &self,
        buffer: &'a mut [T],
        counts: &[usize],
        root: u32,
    ) -> CollectiveRequest<'a> {
        let (send, receive, in_place) = self.one_buffer(Operation::Scatterv, root, buffer);
        let own = if in_place { self.counted(counts) } else { receive.len() };
        let spec = self.scatterv_spec(Elements::of::<T>(), counts, own, root, in_place);
        self.launch_rooted(spec, counts, bytemuck::cast_slice(send), bytemuck::cast_slice_mut(receive))
    }

    pub(in super::super) fn scatterv_spec(
        &self,
        of: Elements,
        counts: &[usize],
        own: usize,
        root: u32,
        in_place: bool,
    ) -> Result<Spec> {
        let (total, recipe) = self.rooted_blocks(Kind::Scatterv, own, counts, root, in_place)?;
        let receive = Some(if in_place { 0 } else { own });
        Ok(Spec { root, in_place, send: total.unwrap_or(0), receive, ..Spec::new(Kind::Scatterv, of, recipe) })
    }

    /// Elements of all blocks, at the root, and how a gather or scatter of blocks of different lengths is done.
    fn rooted_blocks(
        &self,
        kind: Kind,
        own: usize,
        counts: &[usize],
        root: u32,
        in_place: bool,
    ) -> Result<(Option<usize>, Recipe)> {
        let operation = kind.operation();
        self.checked_rank(operation, "the root", root)?;
        let is_root = self.rank == root;
        if is_root {
            self.check_counts(operation, counts)?;
            self.check_own(operation, own, counts)?;
        }
        // The others' counts are not looked at.
        let offsets = offsets(if is_root { counts } else { &[] });
        let block = |rank: u32| offsets[rank as usize]..offsets[rank as usize + 1];
        let make = if kind == Kind::Gatherv { schedule::gather_linear } else { schedule::scatter_linear };
        let schedule = make(self.rank, self.size, root, own, in_place, block);
        Ok((is_root.then(|| offsets[counts.len()]), Recipe::Made(schedule, Algorithm::Linear)))
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
        self.launch(Ok(self.allgather_spec(Elements::of::<T>(), send.len(), false)), send, receive, Nothing)
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
        self.launch(count.map(|count| self.allgather_spec(Elements::of::<T>(), count, true)), &[], buffer, Nothing)
    }

    pub(in super::super) fn allgather_spec(&self, of: Elements, count: usize, in_place: bool) -> Spec {
        let problem = Problem { in_place, ..self.problem(Collective::Allgather, 0, count, of) };
        let receive = Some(count.saturating_mul(self.size as usize));
        let send = if in_place { 0 } else { count };
        Spec { elements: count, send, receive, ..Spec::new(Kind::Allgather, of, Recipe::Chosen(problem)) }
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
        self.launch(self.allgatherv_spec(Elements::of::<T>(), send.len(), counts, false), send, receive, Nothing)
    }

    /// As [`Communicator::allgatherv`] with one buffer, in which this rank's block is in its place.
    ///
    /// # Errors
    /// As [`Communicator::allgatherv`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.7, MPI_Allgatherv with MPI_IN_PLACE.
    pub fn allgatherv_in_place<'a, T: Element>(&self, buffer: &'a mut [T], counts: &[usize]) -> CollectiveRequest<'a> {
        let spec = self.allgatherv_spec(Elements::of::<T>(), self.counted(counts), counts, true);
        self.launch(spec, &[], buffer, Nothing)
    }

    pub(in super::super) fn allgatherv_spec(
        &self,
        of: Elements,
        own: usize,
        counts: &[usize],
        in_place: bool,
    ) -> Result<Spec> {
        self.check_counts(Operation::Allgatherv, counts)?;
        self.check_own(Operation::Allgatherv, own, counts)?;
        let offsets = offsets(counts);
        let total = offsets[counts.len()];
        let block = |rank: u32| offsets[rank as usize]..offsets[rank as usize + 1];
        let problem = self.problem(Collective::Allgather, 0, total / self.size as usize, of);
        // Of those for blocks of equal length, the ones that take any.
        let is_linear = self.choice(&problem).algorithm == Algorithm::Linear;
        let algorithm = if is_linear { Algorithm::Linear } else { Algorithm::Ring };
        let make = if algorithm == Algorithm::Linear { schedule::allgather_linear } else { schedule::allgather_ring };
        // Where the others have their buffers is not known here, and changes no message.
        let is_in_place = |rank: u32| in_place && rank == self.rank;
        let schedule =
            self.connections.route(self.rank, self.size, |rank| make(rank, self.size, is_in_place(rank), block));
        let (recipe, send) = (Recipe::Made(schedule, algorithm), if in_place { 0 } else { own });
        Ok(Spec { elements: total, send, receive: Some(total), ..Spec::new(Kind::Allgatherv, of, recipe) })
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
        self.launch(count.map(|count| self.alltoall_spec(Elements::of::<T>(), count, false)), send, receive, Nothing)
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
        self.launch(count.map(|count| self.alltoall_spec(Elements::of::<T>(), count, true)), &[], buffer, Nothing)
    }

    pub(in super::super) fn alltoall_spec(&self, of: Elements, count: usize, in_place: bool) -> Spec {
        let problem = Problem { in_place, ..self.problem(Collective::Alltoall, 0, count, of) };
        let all = count.saturating_mul(self.size as usize);
        let send = if in_place { 0 } else { all };
        Spec { elements: count, send, receive: Some(all), ..Spec::new(Kind::Alltoall, of, Recipe::Chosen(problem)) }
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
        let spec = self.alltoallv_spec(Elements::of::<T>(), send_counts, receive_counts, false);
        let (send, receive) = (bytemuck::cast_slice(send), bytemuck::cast_slice_mut(receive));
        self.launch_alltoallv(spec, (send_counts, receive_counts), send, receive)
    }

    /// As [`Communicator::alltoallv`] with one buffer, which is copied once: the r-th block, of `counts[r]` elements, goes
    /// to rank r, and that from it takes its place. Rank r has the same count for this rank.
    ///
    /// # Errors
    /// As [`Communicator::alltoallv`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.8, MPI_Alltoallv with MPI_IN_PLACE.
    pub fn alltoallv_in_place<'a, T: Element>(&self, buffer: &'a mut [T], counts: &[usize]) -> CollectiveRequest<'a> {
        let spec = self.alltoallv_spec(Elements::of::<T>(), counts, counts, true);
        self.launch_alltoallv(spec, (counts, counts), &[], bytemuck::cast_slice_mut(buffer))
    }

    pub(in super::super) fn alltoallv_spec(
        &self,
        of: Elements,
        send_counts: &[usize],
        receive_counts: &[usize],
        in_place: bool,
    ) -> Result<Spec> {
        self.check_counts(Operation::Alltoallv, send_counts)?;
        self.check_counts(Operation::Alltoallv, receive_counts)?;
        let own = receive_counts[self.rank as usize];
        self.check_own(Operation::Alltoallv, own, send_counts)?;
        let (sends, receives) = (offsets(send_counts), offsets(receive_counts));
        let range = |offsets: &[usize], rank: u32| offsets[rank as usize]..offsets[rank as usize + 1];
        let total = receives[receive_counts.len()];
        let blocks = Blocks {
            send: |rank| range(&sends, rank),
            receive: |rank| range(&receives, rank),
            in_place: in_place.then_some(total),
        };
        // Nobody knows all lengths, so the number of ranks alone decides.
        let (make, algorithm): (fn(_, _, &_) -> _, _) = if self.size <= LINEAR_RANKS_MAX {
            (schedule::alltoall_linear, Algorithm::Linear)
        } else {
            (schedule::alltoall_pairwise, Algorithm::Pairwise)
        };
        let recipe = Recipe::Made(make(self.rank, self.size, &blocks), algorithm);
        let send = if in_place { 0 } else { sends[send_counts.len()] };
        Ok(Spec { in_place, send, receive: Some(total), ..Spec::new(Kind::Alltoallv, of, recipe) })
    }

    /// Elements of each rank's block in a buffer of all blocks.
    pub(in super::super) fn block(&self, operation: Operation, total: usize) -> Result<usize> {
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

    /// What `counts` say of this rank's block; that is checked later.
    pub(in super::super) fn counted(&self, counts: &[usize]) -> usize {
        counts.get(self.rank as usize).copied().unwrap_or(0)
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
