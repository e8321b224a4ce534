//! Values of any type that serde can write, in the encoding of postcard. For convenience: elements are faster.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::communicator::Communicator;
use crate::communicator::collective::{Elements, Nothing, Reserved};
use crate::communicator::message::{SendRequest, Source, Status, Tag};
use crate::communicator::payload::Data;
use crate::communicator::waiting::Request;
use crate::datatype::VALUE_DATATYPE;
use crate::error::{ErrorKind, Operation, Result};

impl Communicator {
    /// Sends a value to rank `to`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the value cannot be written; else as [`Communicator::send`].
    ///
    /// # Cancel safety
    /// As [`Communicator::send`].
    pub fn send_value<V: Serialize>(&self, to: u32, tag: u32, value: &V) -> SendRequest<'static> {
        match self.written(Operation::Send, value) {
            Ok(bytes) => self.send_as(to.into(), tag, VALUE_DATATYPE, Data::Owned(bytes.into())),
            Err(error) => SendRequest::refused(self, error),
        }
    }

    /// Receives a value.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if the message is no such value, in which case it is gone; else as
    /// [`Communicator::recv`].
    ///
    /// # Cancel safety
    /// As [`Communicator::recv`].
    pub fn recv_value<'a, V: DeserializeOwned + 'a>(
        &self,
        source: impl Into<Source>,
        tag: impl Into<Tag>,
    ) -> Request<'a, (V, Status)> {
        let comm = self.clone();
        let matching = self.matching(Operation::Receive, source.into(), tag.into());
        Request::new(async move {
            let message = matching.await?;
            let mut bytes = vec![0; message.status().count];
            let status = message.recv_as(VALUE_DATATYPE, &mut bytes).await?;
            Ok((comm.read(Operation::Receive, status.source, &bytes)?, status))
        })
    }

    /// Sends a value of `root` to all ranks, and returns it. `value` of the others is not looked at.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the root has no value or it cannot be written; [`ErrorKind::Malformed`] if
    /// what comes is no such value; else as [`Communicator::broadcast`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    pub fn broadcast_value<'a, V: Serialize + DeserializeOwned + 'a>(
        &self,
        value: Option<&V>,
        root: u32,
    ) -> Request<'a, V> {
        // Wrong arguments take no place, so that they change nothing.
        let begun = self.root_bytes(value, root).map(|bytes| (bytes, self.reserve_two(Operation::Broadcast)));
        let comm = self.clone();
        Request::new(async move {
            let (mut bytes, [first, second]) = begun?;
            let mut length = [bytes.len() as u64];
            comm.launch_at(Some(first), comm.broadcast_spec(Elements::of::<u64>(), 1, root), &[], &mut length, Nothing)
                .await?;
            bytes.resize(comm.length(Operation::Broadcast, root, length[0])?, 0);
            let spec = comm.broadcast_spec(Elements::of::<u8>(), bytes.len(), root);
            comm.launch_at(Some(second), spec, &[], &mut bytes, Nothing).await?;
            comm.read(Operation::Broadcast, root, &bytes)
        })
    }

    /// Gathers a value of each rank to all, in rank order.
    ///
    /// # Errors
    /// As [`Communicator::broadcast_value`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    pub fn allgather_value<'a, V: Serialize + DeserializeOwned + 'a>(&self, value: &V) -> Request<'a, Vec<V>> {
        let own = self.written(Operation::Allgatherv, value);
        let begun = own.map(|own| (own, self.reserve_two(Operation::Allgatherv)));
        let comm = self.clone();
        Request::new(async move {
            let (own, [first, second]) = begun?;
            let mut lengths = vec![0u64; comm.size as usize];
            let spec = comm.allgather_spec(Elements::of::<u64>(), 1, false);
            comm.launch_at(Some(first), Ok(spec), &[own.len() as u64], &mut lengths, Nothing).await?;
            let mut counts = Vec::with_capacity(lengths.len());
            for (length, rank) in lengths.iter().zip(0..) {
                counts.push(comm.length(Operation::Allgatherv, rank, *length)?);
            }
            let mut all = vec![0u8; counts.iter().sum()];
            let spec = comm.allgatherv_spec(Elements::of::<u8>(), own.len(), &counts, false);
            comm.launch_at(Some(second), spec, &own, &mut all, Nothing).await?;
            comm.read_all(Operation::Allgatherv, &counts, &all)
        })
    }

    /// Gathers a value of each rank at `root`, in rank order; the others get none.
    ///
    /// # Errors
    /// As [`Communicator::broadcast_value`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    pub fn gather_value<'a, V: Serialize + DeserializeOwned + 'a>(&self, value: &V, root: u32) -> Request<'a, Vec<V>> {
        let root_is_there = self.checked_rank(Operation::Gatherv, "the root", root);
        let own = root_is_there.and_then(|_| self.written(Operation::Gatherv, value));
        let begun = own.map(|own| (own, self.reserve_two(Operation::Gatherv)));
        let comm = self.clone();
        Request::new(async move {
            let (own, [first, second]) = begun?;
            let is_root = comm.rank == root;
            // Where some ranks are not connected, whoever hands on a value must know its length.
            let is_complete = comm.connections.is_complete();
            let mut lengths = vec![0u64; if is_root || !is_complete { comm.size as usize } else { 0 }];
            let spec = if is_complete {
                comm.gather_spec(Elements::of::<u64>(), 1, root, false)
            } else {
                comm.checked_rank(Operation::Gatherv, "the root", root)
                    .map(|_| comm.allgather_spec(Elements::of::<u64>(), 1, false))
            };
            comm.launch_at(Some(first), spec, &[own.len() as u64], &mut lengths, Nothing).await?;
            let mut counts = Vec::with_capacity(lengths.len());
            for (length, rank) in lengths.iter().zip(0..) {
                counts.push(comm.length(Operation::Gatherv, rank, *length)?);
            }
            let mut spec = comm.gatherv_spec(Elements::of::<u8>(), own.len(), &counts, root, false);
            if !is_complete {
                spec = spec.map(|spec| comm.routed(spec, &counts));
            }
            if !is_root {
                counts.clear();
            }
            let mut all = vec![0u8; counts.iter().sum()];
            comm.launch_at(Some(second), spec, &own, &mut all, Nothing).await?;
            comm.read_all(Operation::Gatherv, &counts, &all)
        })
    }

    /// What the root sends; nothing on the others.
    fn root_bytes<V: Serialize>(&self, value: Option<&V>, root: u32) -> Result<Vec<u8>> {
        self.checked_rank(Operation::Broadcast, "the root", root)?;
        match value {
            _ if self.rank != root => Ok(Vec::new()),
            Some(value) => self.written(Operation::Broadcast, value),
            None => {
                let what = "the root has no value".to_owned();
                Err(self.error(Operation::Broadcast, ErrorKind::InvalidArgument(what)))
            }
        }
    }

    /// The places of an exchange of lengths and of what has them.
    fn reserve_two(&self, operation: Operation) -> [Reserved; 2] {
        [self.reserve(operation), self.reserve(operation)]
    }

    fn written<V: Serialize>(&self, operation: Operation, value: &V) -> Result<Vec<u8>> {
        postcard::to_allocvec(value).map_err(|error| {
            let what = format!("the value cannot be written: {error}");
            self.error(operation, ErrorKind::InvalidArgument(what)).caused_by(error)
        })
    }

    fn read<V: DeserializeOwned>(&self, operation: Operation, from: u32, bytes: &[u8]) -> Result<V> {
        postcard::from_bytes(bytes).map_err(|error| {
            let what = format!("{} bytes that are no such value: {error}", bytes.len());
            self.error(operation, ErrorKind::Malformed(what)).with_peer(from).caused_by(error)
        })
    }

    fn read_all<V: DeserializeOwned>(&self, operation: Operation, counts: &[usize], all: &[u8]) -> Result<Vec<V>> {
        let offsets = crate::schedule::offsets(counts);
        let ends = offsets.windows(2).zip(0..);
        ends.map(|(ends, rank)| self.read(operation, rank, &all[ends[0]..ends[1]])).collect()
    }

    /// A length that a peer has announced, if there is memory for it.
    fn length(&self, operation: Operation, from: u32, bytes: u64) -> Result<usize> {
        let length = usize::try_from(bytes).ok().filter(|length| Vec::<u8>::new().try_reserve_exact(*length).is_ok());
        length.ok_or_else(|| {
            let what = format!("there is no memory for a value of {bytes} bytes");
            self.error(operation, ErrorKind::Local(what)).with_peer(from)
        })
    }
}
