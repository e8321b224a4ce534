//! Operations that are planned once and run many times. MPI 3.1 §3.9, MPI 4.1 §6.13.
//!
//! A persistent operation is a value of its own: it holds its communicator, and borrows nothing. So it may be a field
//! next to it. Buffers are given to each run.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::communicator::Communicator;
use crate::communicator::collective::{CollectiveRequest, Elements, Nothing, Recipe, Spec};
use crate::communicator::message::{Destination, RecvRequest, SendRequest, Source, Tag};
use crate::datatype::{Element, code_of};
use crate::error::{ErrorKind, Operation, Result};
use crate::op::Op;
use crate::proto::frame::{Envelope, Kind};
use crate::schedule::Algorithm;

/// A planned collective. All ranks make it, in the same order among their collectives; each [`Persistent::start`] is one
/// run, with buffers of the planned lengths.
///
/// The runs of one persistent collective match in their order, whatever else runs meanwhile: ranks may start several of
/// them, and other collectives, in different orders. A run that fails, or is dropped, revokes the communicator.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fmi::Result<()> {
/// use fmi::{Communicator, Persistent, op::Sum};
///
/// struct Trainer {
///     comm: Communicator,
///     gradients: Persistent<f32, Sum>,
/// }
///
/// impl Trainer {
///     async fn step(&self, own: &[f32], all: &mut [f32]) -> fmi::Result<()> {
///         self.gradients.start(own, all).await
///     }
/// }
///
/// let comm = Communicator::local(fmi::RealNet::new(), 1).remove(0);
/// let trainer = Trainer { gradients: comm.allreduce_init(2, Sum), comm };
/// let mut all = [0.0; 2];
/// trainer.step(&[0.5, 1.0], &mut all).await?;
/// assert_eq!((all, trainer.comm.size()), ([0.5, 1.0], 1));
/// # Ok(())
/// # }
/// ```
pub struct Persistent<T, O = Nothing> {
    comm: Communicator,
    spec: Spec,
    /// Its number among the persistent collectives of the communicator, if there was one left.
    number: Option<u64>,
    op: Arc<O>,
    in_place: bool,
    element: PhantomData<fn() -> T>,
}

impl<T, O> fmt::Debug for Persistent<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = self.spec.kind.operation();
        f.debug_struct("Persistent").field("operation", &operation).finish_non_exhaustive()
    }
}

impl<T, O> Drop for Persistent<T, O> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.comm.shared.with(|engine| engine.group.end_persistent(self.comm.id, number));
        }
    }
}

impl<T: Element, O: Op<T>> Persistent<T, O> {
    /// Starts a run: reads `send`, writes `receive`, which are empty where the operation has no such buffer.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for buffers of other lengths, which changes nothing; else as the operation.
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §3.9, MPI_Start.
    pub fn start<'a>(&self, send: &'a [T], receive: &'a mut [T]) -> CollectiveRequest<'a, Arc<O>> {
        self.comm.launch(self.run(), send, receive, self.op.clone())
    }

    /// Starts a run of an operation that was planned in place.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a buffer of another length, or if it was not planned in place, which changes
    /// nothing; else as the operation.
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §3.9, MPI_Start.
    pub fn start_in_place<'a>(&self, buffer: &'a mut [T]) -> CollectiveRequest<'a, Arc<O>> {
        let spec =
            if self.in_place { self.run() } else { Err(self.wrong("it was not planned in place: call `start`")) };
        // Ranks that only give, or only take, have one buffer in any case.
        let (send, receive): (&'a [T], &'a mut [T]) =
            if self.spec.send > 0 { (buffer, &mut []) } else { (&[], buffer) };
        self.comm.launch(spec, send, receive, self.op.clone())
    }

    /// The algorithm that was chosen.
    pub fn algorithm(&self) -> Algorithm {
        match &self.spec.recipe {
            Recipe::Planned(plan) => plan.algorithm(),
            Recipe::Made(_, algorithm) => *algorithm,
            Recipe::Chosen(problem) => self.comm.choice(problem).algorithm,
        }
    }

    fn run(&self) -> Result<Spec> {
        let number =
            self.number.ok_or_else(|| self.wrong("the communicator has made too many persistent operations"))?;
        Ok(Spec { persistent: Some(number), ..self.spec.clone() })
    }

    fn wrong(&self, what: &str) -> crate::Error {
        self.comm.error(self.spec.kind.operation(), ErrorKind::InvalidArgument(what.to_owned()))
    }
}

/// A send to one rank with one tag, called many times. MPI 3.1 §3.9.
pub struct PersistentSend<T> {
    comm: Communicator,
    to: Destination,
    tag: u32,
    element: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for PersistentSend<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PersistentSend").field("to", &self.to).field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl<T: Element> PersistentSend<T> {
    /// Sends `data`.
    ///
    /// # Errors
    /// As [`Communicator::send`].
    ///
    /// # Cancel safety
    /// As [`Communicator::send`].
    ///
    /// MPI 3.1 §3.9, MPI_Start.
    pub fn start<'a>(&self, data: &'a [T]) -> SendRequest<'a> {
        self.comm.send(self.to, self.tag, data)
    }
}

/// A receive from one source with one tag, called many times. MPI 3.1 §3.9.
pub struct PersistentRecv<T> {
    comm: Communicator,
    source: Source,
    tag: Tag,
    element: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for PersistentRecv<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut named = f.debug_struct("PersistentRecv");
        named.field("source", &self.source).field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl<T: Element> PersistentRecv<T> {
    /// Receives a message into the front of `buffer`.
    ///
    /// # Errors
    /// As [`Communicator::recv`].
    ///
    /// # Cancel safety
    /// As [`Communicator::recv`].
    ///
    /// MPI 3.1 §3.9, MPI_Start.
    pub fn start<'a>(&self, buffer: &'a mut [T]) -> RecvRequest<'a> {
        self.comm.recv(self.source, self.tag, buffer)
    }
}

impl Communicator {
    /// Prepares sends to `to` with `tag`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if `to` is outside the group.
    ///
    /// MPI 3.1 §3.9, MPI_Send_init.
    pub fn send_init<T: Element>(&self, to: impl Into<Destination>, tag: u32) -> Result<PersistentSend<T>> {
        let to = to.into();
        self.checked_destination(Operation::Send, to)?;
        Ok(PersistentSend { comm: self.clone(), to, tag, element: PhantomData })
    }

    /// Prepares receives of messages of `source` with `tag`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the source is outside the group.
    ///
    /// MPI 3.1 §3.9, MPI_Recv_init.
    pub fn recv_init<T: Element>(&self, source: impl Into<Source>, tag: impl Into<Tag>) -> Result<PersistentRecv<T>> {
        let (source, tag) = (source.into(), tag.into());
        if let Source::Rank(rank) = source {
            self.checked_rank(Operation::Receive, "the sender", rank)?;
        }
        Ok(PersistentRecv { comm: self.clone(), source, tag, element: PhantomData })
    }

    fn persistent<T: Element, O>(&self, spec: Spec, op: O) -> Persistent<T, O> {
        self.planned_for(spec, op, false)
    }

    fn persistent_in_place<T: Element, O>(&self, spec: Spec, op: O) -> Persistent<T, O> {
        self.planned_for(spec, op, true)
    }

    fn planned_for<T: Element, O>(&self, spec: Spec, op: O, in_place: bool) -> Persistent<T, O> {
        let (plan, number) = self.shared.with(|engine| {
            // It has a place among the collectives, so that a rank which calls something else there is found out.
            let signature = Envelope {
                commutative: spec.of.commutative,
                datatype: code_of::<T>(),
                communicator: self.id,
                epoch: engine.group.epoch(self.id),
                root_or_tag: spec.root,
                sequence: engine.group.number(self.id),
                operator: spec.of.operator.unwrap_or(0),
                elements: spec.elements as u64,
                ..Envelope::new(Kind::Init)
            };
            engine.group.note(&signature);
            (self.planned(engine, &spec), engine.group.init(self.id))
        });
        let spec = Spec { recipe: Recipe::Planned(plan), ..spec };
        Persistent { comm: self.clone(), spec, number, op: Arc::new(op), in_place, element: PhantomData }
    }

    /// Plans [`Communicator::barrier`]. MPI_Barrier_init.
    pub fn barrier_init(&self) -> Persistent<u8> {
        self.persistent(self.barrier_spec(), Nothing)
    }

    /// Plans [`Communicator::broadcast`] of `count` elements; the buffer is the receive buffer. MPI_Bcast_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn broadcast_init<T: Element>(&self, count: usize, root: u32) -> Result<Persistent<T>> {
        Ok(self.persistent(self.broadcast_spec(Elements::of::<T>(), count, root)?, Nothing))
    }

    /// Plans [`Communicator::reduce`] of `count` elements. MPI_Reduce_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn reduce_init<T: Element, O: Op<T>>(&self, count: usize, op: O, root: u32) -> Result<Persistent<T, O>> {
        Ok(self.persistent(self.reduce_spec(Elements::combined::<T>(&op), count, root, false)?, op))
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
    pub fn allreduce_init<T: Element, O: Op<T>>(&self, count: usize, op: O) -> Persistent<T, O> {
        self.persistent(self.allreduce_spec(Elements::combined::<T>(&op), count, false), op)
    }

    /// Plans [`Communicator::gather`] of `count` elements of each rank. MPI_Gather_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn gather_init<T: Element>(&self, count: usize, root: u32) -> Result<Persistent<T>> {
        Ok(self.persistent(self.gather_spec(Elements::of::<T>(), count, root, false)?, Nothing))
    }

    /// Plans [`Communicator::scatter`] of `count` elements to each rank. MPI_Scatter_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn scatter_init<T: Element>(&self, count: usize, root: u32) -> Result<Persistent<T>> {
        Ok(self.persistent(self.scatter_spec(Elements::of::<T>(), count, root, false)?, Nothing))
    }

    /// Plans [`Communicator::allgather`] of `count` elements of each rank. MPI_Allgather_init.
    pub fn allgather_init<T: Element>(&self, count: usize) -> Persistent<T> {
        self.persistent(self.allgather_spec(Elements::of::<T>(), count, false), Nothing)
    }

    /// Plans [`Communicator::allgatherv`] of `own` elements of this rank. MPI_Allgatherv_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn allgatherv_init<T: Element>(&self, own: usize, counts: &[usize]) -> Result<Persistent<T>> {
        Ok(self.persistent(self.allgatherv_spec(Elements::of::<T>(), own, counts, false)?, Nothing))
    }

    /// Plans [`Communicator::alltoall`] of `count` elements for each rank. MPI_Alltoall_init.
    pub fn alltoall_init<T: Element>(&self, count: usize) -> Persistent<T> {
        self.persistent(self.alltoall_spec(Elements::of::<T>(), count, false), Nothing)
    }

    /// Plans [`Communicator::gatherv`] of `own` elements of this rank. MPI_Gatherv_init.
    ///
    /// # Errors
    /// As the operation's arguments; [`ErrorKind::InvalidArgument`] where some ranks are not connected
    /// ([`Peers::Collectives`](crate::Peers::Collectives)): the others' counts, which a plan needs there, are not known.
    pub fn gatherv_init<T: Element>(&self, own: usize, counts: &[usize], root: u32) -> Result<Persistent<T>> {
        let spec = self.plannable(self.gatherv_spec(Elements::of::<T>(), own, counts, root, false)?)?;
        Ok(self.persistent(spec, Nothing))
    }

    /// Plans [`Communicator::scatterv`] of `own` elements to this rank. MPI_Scatterv_init.
    ///
    /// # Errors
    /// As [`Communicator::gatherv_init`].
    pub fn scatterv_init<T: Element>(&self, counts: &[usize], own: usize, root: u32) -> Result<Persistent<T>> {
        let spec = self.plannable(self.scatterv_spec(Elements::of::<T>(), counts, own, root, false)?)?;
        Ok(self.persistent(spec, Nothing))
    }

    /// Plans [`Communicator::alltoallv`]. MPI_Alltoallv_init.
    ///
    /// # Errors
    /// As [`Communicator::gatherv_init`].
    pub fn alltoallv_init<T: Element>(&self, send_counts: &[usize], receive_counts: &[usize]) -> Result<Persistent<T>> {
        let spec = self.plannable(self.alltoallv_spec(Elements::of::<T>(), send_counts, receive_counts, false)?)?;
        Ok(self.persistent(spec, Nothing))
    }

    /// A collective on blocks of different lengths, where a plan for it needs nothing from others.
    fn plannable(&self, spec: Spec) -> Result<Spec> {
        if self.connections.is_complete() {
            return Ok(spec);
        }
        let operation = spec.kind.operation();
        let what = format!("it cannot be planned where some ranks are not connected: call `{operation}`");
        Err(self.error(operation, ErrorKind::InvalidArgument(what)))
    }

    /// Plans [`Communicator::reduce_scatter_block`] with blocks of `count` elements. MPI_Reduce_scatter_block_init.
    pub fn reduce_scatter_block_init<T: Element, O: Op<T>>(&self, count: usize, op: O) -> Persistent<T, O> {
        self.persistent(self.reduce_scatter_block_spec(Elements::combined::<T>(&op), count, false), op)
    }

    /// Plans [`Communicator::reduce_scatter`]. MPI_Reduce_scatter_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn reduce_scatter_init<T: Element, O: Op<T>>(&self, counts: &[usize], op: O) -> Result<Persistent<T, O>> {
        Ok(self.persistent(self.reduce_scatter_spec(Elements::combined::<T>(&op), counts, false)?, op))
    }

    /// Plans [`Communicator::scan`] of `count` elements. MPI_Scan_init.
    pub fn scan_init<T: Element, O: Op<T>>(&self, count: usize, op: O) -> Persistent<T, O> {
        self.persistent(self.scan_spec(Elements::combined::<T>(&op), count, false, false), op)
    }

    /// Plans [`Communicator::exscan`] of `count` elements. MPI_Exscan_init.
    pub fn exscan_init<T: Element, O: Op<T>>(&self, count: usize, op: O) -> Persistent<T, O> {
        self.persistent(self.scan_spec(Elements::combined::<T>(&op), count, false, true), op)
    }

    /// Plans [`Communicator::reduce_in_place`] of `count` elements, for [`Persistent::start_in_place`]. MPI_Reduce_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn reduce_in_place_init<T: Element, O: Op<T>>(
        &self,
        count: usize,
        op: O,
        root: u32,
    ) -> Result<Persistent<T, O>> {
        Ok(self
            .persistent_in_place(self.reduce_spec(Elements::combined::<T>(&op), count, root, self.rank == root)?, op))
    }

    /// Plans [`Communicator::allreduce_in_place`] of `count` elements, for [`Persistent::start_in_place`]. MPI_Allreduce_init.
    pub fn allreduce_in_place_init<T: Element, O: Op<T>>(&self, count: usize, op: O) -> Persistent<T, O> {
        self.persistent_in_place(self.allreduce_spec(Elements::combined::<T>(&op), count, true), op)
    }

    /// Plans [`Communicator::gather_in_place`] of `count` elements of each rank, for
    /// [`Persistent::start_in_place`]. MPI_Gather_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn gather_in_place_init<T: Element>(&self, count: usize, root: u32) -> Result<Persistent<T>> {
        Ok(self.persistent_in_place(self.gather_spec(Elements::of::<T>(), count, root, self.rank == root)?, Nothing))
    }

    /// Plans [`Communicator::scatter_in_place`] of `count` elements to each rank, for
    /// [`Persistent::start_in_place`]. MPI_Scatter_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn scatter_in_place_init<T: Element>(&self, count: usize, root: u32) -> Result<Persistent<T>> {
        Ok(self.persistent_in_place(self.scatter_spec(Elements::of::<T>(), count, root, self.rank == root)?, Nothing))
    }

    /// Plans [`Communicator::allgather_in_place`] of `count` elements of each rank, for
    /// [`Persistent::start_in_place`]. MPI_Allgather_init.
    pub fn allgather_in_place_init<T: Element>(&self, count: usize) -> Persistent<T> {
        self.persistent_in_place(self.allgather_spec(Elements::of::<T>(), count, true), Nothing)
    }

    /// Plans [`Communicator::alltoall_in_place`] of `count` elements for each rank, for
    /// [`Persistent::start_in_place`]. MPI_Alltoall_init.
    pub fn alltoall_in_place_init<T: Element>(&self, count: usize) -> Persistent<T> {
        self.persistent_in_place(self.alltoall_spec(Elements::of::<T>(), count, true), Nothing)
    }

    /// Plans [`Communicator::reduce_scatter_block_in_place`] with blocks of `count` elements, for
    /// [`Persistent::start_in_place`]. MPI_Reduce_scatter_block_init.
    pub fn reduce_scatter_block_in_place_init<T: Element, O: Op<T>>(&self, count: usize, op: O) -> Persistent<T, O> {
        self.persistent_in_place(self.reduce_scatter_block_spec(Elements::combined::<T>(&op), count, true), op)
    }

    /// Plans [`Communicator::scan_in_place`] of `count` elements, for [`Persistent::start_in_place`]. MPI_Scan_init.
    pub fn scan_in_place_init<T: Element, O: Op<T>>(&self, count: usize, op: O) -> Persistent<T, O> {
        self.persistent_in_place(self.scan_spec(Elements::combined::<T>(&op), count, true, false), op)
    }

    /// Plans [`Communicator::exscan_in_place`] of `count` elements, for [`Persistent::start_in_place`]. MPI_Exscan_init.
    pub fn exscan_in_place_init<T: Element, O: Op<T>>(&self, count: usize, op: O) -> Persistent<T, O> {
        self.persistent_in_place(self.scan_spec(Elements::combined::<T>(&op), count, true, true), op)
    }

    /// Plans [`Communicator::gatherv_in_place`] of `own` elements of this rank, for
    /// [`Persistent::start_in_place`]. MPI_Gatherv_init.
    ///
    /// # Errors
    /// As [`Communicator::gatherv_init`].
    pub fn gatherv_in_place_init<T: Element>(&self, own: usize, counts: &[usize], root: u32) -> Result<Persistent<T>> {
        let spec = self.gatherv_spec(Elements::of::<T>(), own, counts, root, self.rank == root)?;
        Ok(self.persistent_in_place(self.plannable(spec)?, Nothing))
    }

    /// Plans [`Communicator::scatterv_in_place`] of `own` elements to this rank, for
    /// [`Persistent::start_in_place`]. MPI_Scatterv_init.
    ///
    /// # Errors
    /// As [`Communicator::gatherv_init`].
    pub fn scatterv_in_place_init<T: Element>(&self, counts: &[usize], own: usize, root: u32) -> Result<Persistent<T>> {
        let spec = self.scatterv_spec(Elements::of::<T>(), counts, own, root, self.rank == root)?;
        Ok(self.persistent_in_place(self.plannable(spec)?, Nothing))
    }

    /// Plans [`Communicator::allgatherv_in_place`], for [`Persistent::start_in_place`]. MPI_Allgatherv_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn allgatherv_in_place_init<T: Element>(&self, counts: &[usize]) -> Result<Persistent<T>> {
        let own = counts.get(self.rank as usize).copied().unwrap_or(0);
        Ok(self.persistent_in_place(self.allgatherv_spec(Elements::of::<T>(), own, counts, true)?, Nothing))
    }

    /// Plans [`Communicator::alltoallv_in_place`], for [`Persistent::start_in_place`]. MPI_Alltoallv_init.
    ///
    /// # Errors
    /// As [`Communicator::gatherv_init`].
    pub fn alltoallv_in_place_init<T: Element>(&self, counts: &[usize]) -> Result<Persistent<T>> {
        let spec = self.plannable(self.alltoallv_spec(Elements::of::<T>(), counts, counts, true)?)?;
        Ok(self.persistent_in_place(spec, Nothing))
    }

    /// Plans [`Communicator::reduce_scatter_in_place`], for [`Persistent::start_in_place`]. MPI_Reduce_scatter_init.
    ///
    /// # Errors
    /// As the operation's arguments.
    pub fn reduce_scatter_in_place_init<T: Element, O: Op<T>>(
        &self,
        counts: &[usize],
        op: O,
    ) -> Result<Persistent<T, O>> {
        Ok(self.persistent_in_place(self.reduce_scatter_spec(Elements::combined::<T>(&op), counts, true)?, op))
    }
}
