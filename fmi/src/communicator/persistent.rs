//! Collectives that are planned once and run many times. MPI 4.0 §6.13.

use std::future::Future;
use std::marker::PhantomData;

use crate::communicator::Communicator;
use crate::communicator::collective::{Nothing, Recipe, Spec};
use crate::datatype::Element;
use crate::error::{ErrorKind, Operation, Result};
use crate::op::Op;
use crate::schedule::{Algorithm, Collective};

/// A planned collective. Each [`Persistent::start`] is one run, with buffers of the planned lengths; all ranks
/// start it in the same order among their collectives.
#[derive(Debug)]
pub struct Persistent<'a, T, O> {
    comm: &'a Communicator,
    spec: Spec,
    op: O,
    element: PhantomData<fn() -> T>,
}

impl<T: Element, O: Op<T>> Persistent<'_, T, O> {
    /// Starts a run: reads `send`, writes `receive`, which are empty where the operation has no such buffer.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for buffers of other lengths, which
    /// changes nothing; else as the operation.
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §3.9, MPI_Start.
    pub fn start<'b>(
        &'b self,
        send: &'b [T],
        receive: &'b mut [T],
    ) -> impl Future<Output = Result<()>> + Send + Unpin + use<'b, T, O> {
        self.comm.launch(Ok(self.spec.clone()), send, receive, &self.op)
    }

    /// The algorithm that was chosen.
    pub fn algorithm(&self) -> Algorithm {
        match &self.spec.recipe {
            Recipe::Planned(plan) => plan.algorithm(),
            Recipe::Made(_, algorithm) => *algorithm,
            Recipe::Chosen(problem) => self.comm.choice(problem).algorithm,
        }
    }
}

impl Communicator {
    fn persistent<T, O>(&self, spec: Spec, op: O) -> Persistent<'_, T, O> {
        let plan = self.shared.with(|engine| self.planned(engine, &spec));
        Persistent { comm: self, spec: Spec { recipe: Recipe::Planned(plan), ..spec }, op, element: PhantomData }
    }

    /// Plans [`Communicator::barrier`]. MPI_Barrier_init.
    pub fn barrier_init(&self) -> Persistent<'_, u8, impl Op<u8> + use<>> {
        self.persistent(self.barrier_spec(), Nothing)
    }

    /// Plans [`Communicator::broadcast`] of `count` elements; the buffer is the receive buffer. MPI_Bcast_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn broadcast_init<T: Element>(
        &self,
        count: usize,
        root: u32,
    ) -> Result<Persistent<'_, T, impl Op<T> + use<T>>> {
        Ok(self.persistent(self.broadcast_spec::<T>(count, root)?, Nothing))
    }

    /// Plans [`Communicator::reduce`] of `count` elements. MPI_Reduce_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn reduce_init<T: Element, O: Op<T>>(&self, count: usize, op: O, root: u32) -> Result<Persistent<'_, T, O>> {
        Ok(self.persistent(self.reduce_spec(count, &op, root, false)?, op))
    }

    /// Plans [`Communicator::allreduce`] of `count` elements. MPI_Allreduce_init.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(comm: &fmi::Communicator) -> fmi::Result<()> {
    /// let sum = comm.allreduce_init(1000, fmi::op::Sum);
    /// let (gradient, mut total) = (vec![0.5f32; 1000], vec![0.0; 1000]);
    /// for _ in 0..100 {
    ///     sum.start(&gradient, &mut total).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn allreduce_init<T: Element, O: Op<T>>(&self, count: usize, op: O) -> Persistent<'_, T, O> {
        self.persistent(self.allreduce_spec(count, &op, false), op)
    }

    /// Plans [`Communicator::gather`] of `count` elements of each rank. MPI_Gather_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn gather_init<T: Element>(&self, count: usize, root: u32) -> Result<Persistent<'_, T, impl Op<T> + use<T>>> {
        Ok(self.persistent(self.rooted_spec::<T>(Collective::Gather, count, root, false)?, Nothing))
    }

    /// Plans [`Communicator::scatter`] of `count` elements to each rank. MPI_Scatter_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn scatter_init<T: Element>(&self, count: usize, root: u32) -> Result<Persistent<'_, T, impl Op<T> + use<T>>> {
        Ok(self.persistent(self.rooted_spec::<T>(Collective::Scatter, count, root, false)?, Nothing))
    }

    /// Plans [`Communicator::allgather`] of `count` elements of each rank. MPI_Allgather_init.
    pub fn allgather_init<T: Element>(&self, count: usize) -> Persistent<'_, T, impl Op<T> + use<T>> {
        self.persistent(self.allgather_spec::<T>(count, false), Nothing)
    }

    /// Plans [`Communicator::allgatherv`] of `own` elements of this rank. MPI_Allgatherv_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn allgatherv_init<T: Element>(
        &self,
        own: usize,
        counts: &[usize],
    ) -> Result<Persistent<'_, T, impl Op<T> + use<T>>> {
        Ok(self.persistent(self.allgatherv_spec::<T>(own, counts)?, Nothing))
    }

    /// Plans [`Communicator::alltoall`] of `count` elements for each rank. MPI_Alltoall_init.
    pub fn alltoall_init<T: Element>(&self, count: usize) -> Persistent<'_, T, impl Op<T> + use<T>> {
        self.persistent(self.alltoall_spec::<T>(count, false), Nothing)
    }

    /// Plans [`Communicator::alltoallv`]. MPI_Alltoallv_init.
    ///
    /// # Errors
    /// As the operation's arguments; [`ErrorKind::InvalidArgument`] where some ranks are not connected
    /// ([`Peers::Collectives`](crate::Peers::Collectives)): the others' counts, which a plan needs there, are not known.
    pub fn alltoallv_init<T: Element>(
        &self,
        send_counts: &[usize],
        receive_counts: &[usize],
    ) -> Result<Persistent<'_, T, impl Op<T> + use<T>>> {
        let spec = self.alltoallv_spec(send_counts, receive_counts)?;
        if !self.connections.is_complete() {
            let what = "it cannot be planned where some ranks are not connected: call `alltoallv`".to_owned();
            return Err(self.error(Operation::Alltoallv, ErrorKind::InvalidArgument(what)));
        }
        Ok(self.persistent(spec, Nothing))
    }

    /// Plans [`Communicator::reduce_scatter_block`] with blocks of `count` elements. MPI_Reduce_scatter_block_init.
    pub fn reduce_scatter_block_init<T: Element, O: Op<T>>(&self, count: usize, op: O) -> Persistent<'_, T, O> {
        self.persistent(self.reduce_scatter_block_spec(count, &op, false), op)
    }

    /// Plans [`Communicator::reduce_scatter`]. MPI_Reduce_scatter_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn reduce_scatter_init<T: Element, O: Op<T>>(&self, counts: &[usize], op: O) -> Result<Persistent<'_, T, O>> {
        Ok(self.persistent(self.reduce_scatter_spec(counts, &op)?, op))
    }

    /// Plans [`Communicator::scan`] of `count` elements. MPI_Scan_init.
    pub fn scan_init<T: Element, O: Op<T>>(&self, count: usize, op: O) -> Persistent<'_, T, O> {
        self.persistent(self.scan_spec(count, &op, false, false), op)
    }

    /// Plans [`Communicator::exscan`] of `count` elements. MPI_Exscan_init.
    pub fn exscan_init<T: Element, O: Op<T>>(&self, count: usize, op: O) -> Persistent<'_, T, O> {
        self.persistent(self.scan_spec(count, &op, false, true), op)
    }
}
