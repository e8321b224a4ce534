//! Collectives that combine. MPI 3.1 §5.9 to §5.11.

use super::*;

impl Communicator {
    /// Combines `send` of all ranks, element by element, into `receive` of the root; `receive` of
    /// the others may be empty and is not touched.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a root outside the group or a wrong length of `receive`,
    /// which change nothing; [`ErrorKind::PeerLost`], [`ErrorKind::Deadline`],
    /// [`ErrorKind::Mismatch`], [`ErrorKind::Revoked`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.9.1, MPI_Reduce.
    pub fn reduce<'a, T: Element, O: Op<T>>(
        &self,
        send: &'a [T],
        receive: &'a mut [T],
        op: O,
        root: u32,
    ) -> CollectiveRequest<'a, O> {
        self.launch(self.reduce_spec(Elements::combined::<T>(&op), send.len(), root, false), send, receive, op)
    }

    /// Combines `buffer` of all ranks into that of the root; those of the others are not touched.
    ///
    /// # Errors
    /// As [`Communicator::reduce`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.9.1, MPI_Reduce with MPI_IN_PLACE at the root.
    pub fn reduce_in_place<'a, T: Element, O: Op<T>>(
        &self,
        buffer: &'a mut [T],
        op: O,
        root: u32,
    ) -> CollectiveRequest<'a, O> {
        let (send, receive, in_place) = self.one_buffer(Operation::Reduce, root, buffer);
        let count = send.len() + receive.len();
        let spec = self.reduce_spec(Elements::combined::<T>(&op), count, root, in_place);
        self.launch(spec, send, receive, op)
    }

    pub(in super::super) fn reduce_spec(&self, of: Elements, count: usize, root: u32, in_place: bool) -> Result<Spec> {
        self.checked_rank(Operation::Reduce, "the root", root)?;
        let receive = (self.rank == root).then_some(count);
        let send = if in_place { 0 } else { count };
        let problem = self.problem(Collective::Reduce, root, count, of);
        Ok(Spec { root, send, receive, ..combining(Kind::Reduce, of, problem, count, in_place) })
    }

    /// Combines `send` of all ranks, element by element, into `receive` of all.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(comm: &fmi::Communicator) -> fmi::Result<()> {
    /// let mut largest = [0u64];
    /// comm.allreduce(&[17], &mut largest, fmi::op::Max).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the lengths differ, which changes nothing;
    /// [`ErrorKind::PeerLost`], [`ErrorKind::Deadline`], [`ErrorKind::Mismatch`], [`ErrorKind::Revoked`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.9.6, MPI_Allreduce.
    pub fn allreduce<'a, T: Element, O: Op<T>>(
        &self,
        send: &'a [T],
        receive: &'a mut [T],
        op: O,
    ) -> CollectiveRequest<'a, O> {
        self.launch(Ok(self.allreduce_spec(Elements::combined::<T>(&op), send.len(), false)), send, receive, op)
    }

    /// Combines `buffer` of all ranks into `buffer` of all.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.9.6, MPI_Allreduce with MPI_IN_PLACE.
    pub fn allreduce_in_place<'a, T: Element, O: Op<T>>(&self, buffer: &'a mut [T], op: O) -> CollectiveRequest<'a, O> {
        self.launch(Ok(self.allreduce_spec(Elements::combined::<T>(&op), buffer.len(), true)), &[], buffer, op)
    }

    pub(in super::super) fn allreduce_spec(&self, of: Elements, count: usize, in_place: bool) -> Spec {
        let problem = self.problem(Collective::Allreduce, 0, count, of);
        let send = if in_place { 0 } else { count };
        Spec { send, receive: Some(count), ..combining(Kind::Allreduce, of, problem, count, in_place) }
    }

    /// Combines `send` of all ranks, and gives each rank its block of the result: rank r gets the r-th one, as
    /// long as `receive`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if `send` is not `size` times as long as `receive`, which changes nothing;
    /// [`ErrorKind::PeerLost`], [`ErrorKind::Deadline`], [`ErrorKind::Mismatch`], [`ErrorKind::Revoked`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.10.1, MPI_Reduce_scatter_block.
    pub fn reduce_scatter_block<'a, T: Element, O: Op<T>>(
        &self,
        send: &'a [T],
        receive: &'a mut [T],
        op: O,
    ) -> CollectiveRequest<'a, O> {
        let of = Elements::combined::<T>(&op);
        self.launch(Ok(self.reduce_scatter_block_spec(of, receive.len(), false)), send, receive, op)
    }

    /// As [`Communicator::reduce_scatter_block`] with one buffer, at whose front the block of the result is left.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the length of `buffer` is no multiple of `size`; else as
    /// [`Communicator::reduce_scatter_block`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.10.1, MPI_Reduce_scatter_block with MPI_IN_PLACE.
    pub fn reduce_scatter_block_in_place<'a, T: Element, O: Op<T>>(
        &self,
        buffer: &'a mut [T],
        op: O,
    ) -> CollectiveRequest<'a, O> {
        let (of, count) = (Elements::combined::<T>(&op), self.block(Operation::ReduceScatterBlock, buffer.len()));
        self.launch(count.map(|count| self.reduce_scatter_block_spec(of, count, true)), &[], buffer, op)
    }

    pub(in super::super) fn reduce_scatter_block_spec(&self, of: Elements, count: usize, in_place: bool) -> Spec {
        let total = count.saturating_mul(self.size as usize);
        let problem = self.problem(Collective::ReduceScatter, 0, count, of);
        let (send, receive) = if in_place { (0, total) } else { (total, count) };
        let spec = combining(Kind::ReduceScatterBlock, of, problem, count, in_place);
        Spec { send, receive: Some(receive), ..spec }
    }

    /// As [`Communicator::reduce_scatter_block`] with blocks of different lengths: that of rank r has
    /// `counts[r]` elements. `counts` is equal on all ranks.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the lengths do not fit, which changes nothing; else as
    /// [`Communicator::reduce_scatter_block`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.10.2, MPI_Reduce_scatter.
    pub fn reduce_scatter<'a, T: Element, O: Op<T>>(
        &self,
        send: &'a [T],
        receive: &'a mut [T],
        counts: &[usize],
        op: O,
    ) -> CollectiveRequest<'a, O> {
        self.launch(self.reduce_scatter_spec(Elements::combined::<T>(&op), counts, false), send, receive, op)
    }

    /// As [`Communicator::reduce_scatter`] with one buffer, at whose front the block of the result is left.
    ///
    /// # Errors
    /// As [`Communicator::reduce_scatter`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.10.2, MPI_Reduce_scatter with MPI_IN_PLACE.
    pub fn reduce_scatter_in_place<'a, T: Element, O: Op<T>>(
        &self,
        buffer: &'a mut [T],
        counts: &[usize],
        op: O,
    ) -> CollectiveRequest<'a, O> {
        self.launch(self.reduce_scatter_spec(Elements::combined::<T>(&op), counts, true), &[], buffer, op)
    }

    pub(in super::super) fn reduce_scatter_spec(&self, of: Elements, counts: &[usize], in_place: bool) -> Result<Spec> {
        self.check_counts(Operation::ReduceScatter, counts)?;
        let offsets = schedule::offsets(counts);
        let total = offsets[counts.len()];
        let problem = self.problem(Collective::ReduceScatter, 0, total / self.size as usize, of);
        let algorithm = self.choice(&problem).algorithm;
        // Where the others have their buffers is not known here, and changes no message.
        let source = |rank: u32| if in_place && rank == self.rank { Memory::Receive } else { Memory::Send };
        let make = |rank: u32| schedule::reduce_scatter(algorithm, rank, self.size, &offsets, source(rank));
        let schedule = self.connections.route(self.rank, self.size, make);
        let (send, receive) = if in_place { (0, total) } else { (total, counts[self.rank as usize]) };
        let spec = Spec::new(Kind::ReduceScatter, of, Recipe::Made(schedule, algorithm));
        Ok(Spec { elements: total, send, receive: Some(receive), ..spec })
    }

    /// Combines `send` of ranks 0 to this one, in this order, into `receive`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.11.1, MPI_Scan.
    pub fn scan<'a, T: Element, O: Op<T>>(
        &self,
        send: &'a [T],
        receive: &'a mut [T],
        op: O,
    ) -> CollectiveRequest<'a, O> {
        self.launch(Ok(self.scan_spec(Elements::combined::<T>(&op), send.len(), false, false)), send, receive, op)
    }

    /// As [`Communicator::scan`] with one buffer.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.11.1, MPI_Scan with MPI_IN_PLACE.
    pub fn scan_in_place<'a, T: Element, O: Op<T>>(&self, buffer: &'a mut [T], op: O) -> CollectiveRequest<'a, O> {
        self.launch(Ok(self.scan_spec(Elements::combined::<T>(&op), buffer.len(), true, false)), &[], buffer, op)
    }

    /// Combines `send` of the ranks below this one, in their order, into `receive`, which rank 0 finds as it was.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.11.2, MPI_Exscan.
    pub fn exscan<'a, T: Element, O: Op<T>>(
        &self,
        send: &'a [T],
        receive: &'a mut [T],
        op: O,
    ) -> CollectiveRequest<'a, O> {
        self.launch(Ok(self.scan_spec(Elements::combined::<T>(&op), send.len(), false, true)), send, receive, op)
    }

    /// As [`Communicator::exscan`] with one buffer.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.11.2, MPI_Exscan with MPI_IN_PLACE.
    pub fn exscan_in_place<'a, T: Element, O: Op<T>>(&self, buffer: &'a mut [T], op: O) -> CollectiveRequest<'a, O> {
        self.launch(Ok(self.scan_spec(Elements::combined::<T>(&op), buffer.len(), true, true)), &[], buffer, op)
    }

    pub(in super::super) fn scan_spec(&self, of: Elements, count: usize, in_place: bool, exclusive: bool) -> Spec {
        let (kind, collective) =
            if exclusive { (Kind::Exscan, Collective::Exscan) } else { (Kind::Scan, Collective::Scan) };
        let problem = self.problem(collective, 0, count, of);
        let send = if in_place { 0 } else { count };
        Spec { send, receive: Some(count), ..combining(kind, of, problem, count, in_place) }
    }
}

fn combining(kind: Kind, of: Elements, problem: Problem, elements: usize, in_place: bool) -> Spec {
    let recipe = Recipe::Chosen(Problem { in_place, ..problem });
    Spec { elements, ..Spec::new(kind, of, recipe) }
}
