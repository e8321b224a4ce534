//! Point-to-point messages.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::communicator::Communicator;
use crate::communicator::execute::Call;
use crate::datatype::Element;
use crate::error::{Operation, Result};
use crate::net::link::Outgoing;
use crate::proto::frame::{Envelope, Kind};

impl Communicator {
    /// Sends `data` to rank `to`. Returns once the bytes are handed to the network, not once they
    /// are received.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if `to` is this rank or outside the group, which changes
    /// nothing; [`ErrorKind::PeerLost`], [`ErrorKind::Deadline`], [`ErrorKind::Revoked`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §3.2.1, MPI_Send.
    ///
    /// [`ErrorKind::InvalidArgument`]: crate::ErrorKind::InvalidArgument
    /// [`ErrorKind::PeerLost`]: crate::ErrorKind::PeerLost
    /// [`ErrorKind::Deadline`]: crate::ErrorKind::Deadline
    /// [`ErrorKind::Revoked`]: crate::ErrorKind::Revoked
    pub async fn send<T: Element>(&mut self, to: u32, tag: u32, data: &[T]) -> Result<()> {
        self.check_other(Operation::Send, "the receiver", to)?;
        self.begin(Operation::Send)?;
        let bytes = bytemuck::cast_slice(data);
        let mut call = self.message_call::<T>(Operation::Send, tag);
        let mut outgoing = self.outgoing(&call, to, bytes.len());
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = self.poll_send(cx, &mut call, to, &mut outgoing, bytes) {
                return Poll::Ready(result);
            }
            self.poll_trouble(cx, &mut call, Some(to))
        });
        let result = result.await;
        self.end(result)
    }

    /// Receives the oldest message of rank `from` with `tag` into the front of `buffer`, and
    /// returns its number of elements.
    ///
    /// # Errors
    /// As [`Communicator::send`], and [`ErrorKind::Truncated`](crate::ErrorKind::Truncated) if the
    /// message is longer than the buffer, [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) if
    /// its elements are of another type.
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §3.2.4, MPI_Recv.
    pub async fn recv<T: Element>(&mut self, from: u32, tag: u32, buffer: &mut [T]) -> Result<usize> {
        self.check_other(Operation::Receive, "the sender", from)?;
        self.begin(Operation::Receive)?;
        let mut call = self.message_call::<T>(Operation::Receive, tag);
        let bytes = bytemuck::cast_slice_mut(buffer);
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = self.poll_recv(cx, &mut call, from, bytes) {
                return Poll::Ready(result);
            }
            self.poll_trouble(cx, &mut call, Some(from)).map_ok(|()| 0)
        });
        let result = result.await;
        self.end(result).map(|length| length / size_of::<T>())
    }

    /// Sends `data` to `to` and receives from `from`, both at once, so that rings and exchanges do
    /// not deadlock. Returns the number of elements received.
    ///
    /// # Errors
    /// As [`Communicator::send`] and [`Communicator::recv`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §3.10, MPI_Sendrecv.
    pub async fn sendrecv<T: Element>(
        &mut self,
        (to, data): (u32, &[T]),
        (from, buffer): (u32, &mut [T]),
        tag: u32,
    ) -> Result<usize> {
        self.check_other(Operation::SendReceive, "the receiver", to)?;
        self.check_other(Operation::SendReceive, "the sender", from)?;
        self.begin(Operation::SendReceive)?;
        let (data, buffer) = (bytemuck::cast_slice(data), bytemuck::cast_slice_mut(buffer));
        let mut call = self.message_call::<T>(Operation::SendReceive, tag);
        let mut outgoing = self.outgoing(&call, to, data.len());
        let (mut sent, mut received) = (false, None);
        let result = poll_fn(|cx| {
            if !sent {
                match self.poll_send(cx, &mut call, to, &mut outgoing, data) {
                    Poll::Ready(Ok(())) => sent = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
            }
            if received.is_none() {
                match self.poll_recv(cx, &mut call, from, buffer) {
                    Poll::Ready(Ok(length)) => received = Some(length),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
            }
            if let (true, Some(length)) = (sent, received) {
                return Poll::Ready(Ok(length));
            }
            let waits_for = if received.is_none() { from } else { to };
            self.poll_trouble(cx, &mut call, Some(waits_for)).map_ok(|()| 0)
        });
        let result = result.await;
        self.end(result).map(|length| length / size_of::<T>())
    }

    fn message_call<T: Element>(&self, operation: Operation, tag: u32) -> Call {
        let envelope = Envelope {
            kind: Kind::Message,
            commutative: false,
            datatype: T::DATATYPE,
            communicator: 0,
            epoch: self.epoch,
            root_or_tag: tag,
            sequence: 0,
            step: 0,
            operator: 0,
            length: 0,
        };
        self.call(operation, envelope, size_of::<T>())
    }

    fn outgoing(&mut self, call: &Call, to: u32, length: usize) -> Outgoing {
        let sequence = self.sent.entry(to).or_default();
        let envelope = Envelope { sequence: *sequence, length: length as u64, ..call.envelope };
        *sequence += 1;
        Outgoing::new(&envelope)
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        call: &mut Call,
        from: u32,
        buffer: &mut [u8],
    ) -> Poll<Result<usize>> {
        let wanted = call.envelope;
        self.poll_frame(cx, call, from, &wanted, buffer)
    }
}
