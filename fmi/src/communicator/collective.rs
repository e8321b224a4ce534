//! Collectives.

use crate::communicator::Communicator;
use crate::communicator::execute::Call;
use crate::datatype::Element;
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::op::Op;
use crate::proto::frame::{Envelope, Kind};
use crate::schedule::{self, Schedule, Side};
use crate::time::Instant;

/// What a collective says of itself in every frame.
struct Signature {
    kind: Kind,
    root: u32,
    datatype: u8,
    operator: u32,
    commutative: bool,
}

impl Signature {
    fn new(kind: Kind) -> Self {
        Self { kind, root: 0, datatype: 0, operator: 0, commutative: false }
    }
}

impl Communicator {
    /// Returns once all ranks have called it.
    ///
    /// # Errors
    /// [`ErrorKind::PeerLost`], [`ErrorKind::Deadline`], [`ErrorKind::Mismatch`], [`ErrorKind::Revoked`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.3, MPI_Barrier.
    pub async fn barrier(&mut self) -> Result<()> {
        self.begin(Operation::Barrier)?;
        let result = self.barrier_of(Signature::new(Kind::Barrier), None).await;
        self.end(result)
    }

    /// The barrier that ends a join: who passes it knows that every pair works in both directions.
    pub(crate) async fn join_barrier(&mut self, deadline: Instant) -> Result<()> {
        self.begin(Operation::Join)?;
        let result = self.barrier_of(Signature::new(Kind::Join), Some(deadline)).await;
        self.end(result)
    }

    async fn barrier_of(&mut self, signature: Signature, deadline: Option<Instant>) -> Result<()> {
        let mut call = self.collective_call(&signature, 0);
        call.deadline = deadline.unwrap_or(call.deadline);
        let schedule = schedule::barrier_dissemination(self.rank, self.size);
        self.execute(&mut call, &schedule, &mut [], &mut [], &mut |_, _, _| ()).await
    }

    /// Copies `buffer` of the root to `buffer` of all others; equally long everywhere.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a root outside the group, which changes nothing;
    /// [`ErrorKind::PeerLost`], [`ErrorKind::Deadline`], [`ErrorKind::Mismatch`], [`ErrorKind::Revoked`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.4, MPI_Bcast.
    pub async fn broadcast<T: Element>(&mut self, buffer: &mut [T], root: u32) -> Result<()> {
        self.check_rank(Operation::Broadcast, "the root", root)?;
        self.begin(Operation::Broadcast)?;
        let schedule = schedule::broadcast_binomial(self.rank, self.size, root, buffer.len());
        let signature = Signature { root, datatype: T::DATATYPE, ..Signature::new(Kind::Broadcast) };
        let mut call = self.collective_call(&signature, size_of::<T>());
        let bytes = bytemuck::cast_slice_mut(buffer);
        let result = self.execute(&mut call, &schedule, bytes, &mut [], &mut |_, _, _| ()).await;
        self.end(result)
    }

    /// Combines `send` of all ranks, element by element, into `receive` of the root; `receive` of
    /// the others may be empty and is not touched, nor is `send`.
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
    pub async fn reduce<T: Element>(&mut self, send: &[T], receive: &mut [T], op: impl Op<T>, root: u32) -> Result<()> {
        self.check_rank(Operation::Reduce, "the root", root)?;
        if self.rank == root {
            self.check_length(Operation::Reduce, send.len(), receive.len())?;
        }
        self.begin(Operation::Reduce)?;
        let schedule = schedule::reduce(self.rank, self.size, root, send.len(), op.is_commutative());
        let result = if self.rank == root {
            receive.copy_from_slice(send);
            self.combine(Kind::Reduce, root, &schedule, receive, op).await
        } else {
            self.combine(Kind::Reduce, root, &schedule, &mut send.to_vec(), op).await
        };
        self.end(result)
    }

    /// Combines `send` of all ranks, element by element, into `receive` of all; `send` is not touched.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(comm: &mut fmi::Communicator) -> fmi::Result<()> {
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
    pub async fn allreduce<T: Element>(&mut self, send: &[T], receive: &mut [T], op: impl Op<T>) -> Result<()> {
        self.check_length(Operation::Allreduce, send.len(), receive.len())?;
        self.begin(Operation::Allreduce)?;
        receive.copy_from_slice(send);
        let schedule = schedule::allreduce(self.rank, self.size, send.len(), size_of::<T>());
        let result = self.combine(Kind::Allreduce, 0, &schedule, receive, op).await;
        self.end(result)
    }

    async fn combine<T: Element>(
        &mut self,
        kind: Kind,
        root: u32,
        schedule: &Schedule,
        buffer: &mut [T],
        op: impl Op<T>,
    ) -> Result<()> {
        let (operator, commutative) = (op.code(), op.is_commutative());
        let signature = Signature { kind, root, datatype: T::DATATYPE, operator, commutative };
        let mut call = self.collective_call(&signature, size_of::<T>());
        let mut scratch = vec![T::zeroed(); schedule.scratch()];
        let mut combine = |own: &mut [u8], received: &[u8], side: Side| {
            let own = bytemuck::cast_slice_mut::<u8, T>(own);
            let received = bytemuck::cast_slice::<u8, T>(received);
            match side {
                Side::Left => own.iter_mut().zip(received).for_each(|(own, other)| *own = op.combine(*other, *own)),
                Side::Right => own.iter_mut().zip(received).for_each(|(own, other)| *own = op.combine(*own, *other)),
            }
        };
        let (bytes, scratch) = (bytemuck::cast_slice_mut(buffer), bytemuck::cast_slice_mut(&mut scratch));
        self.execute(&mut call, schedule, bytes, scratch, &mut combine).await
    }

    fn collective_call(&mut self, signature: &Signature, element_bytes: usize) -> Call {
        let sequence = self.collectives;
        self.collectives += 1;
        let envelope = Envelope {
            kind: signature.kind,
            commutative: signature.commutative,
            datatype: signature.datatype,
            communicator: 0,
            epoch: self.epoch,
            root_or_tag: signature.root,
            sequence,
            step: 0,
            operator: signature.operator,
            length: 0,
        };
        self.call(signature.kind.operation(), envelope, element_bytes)
    }

    fn check_length(&self, operation: Operation, send: usize, receive: usize) -> Result<(), Error> {
        if send == receive {
            return Ok(());
        }
        let what = format!("the send buffer has {send} elements, the receive buffer {receive}");
        Err(self.error(operation, ErrorKind::InvalidArgument(what)))
    }
}
