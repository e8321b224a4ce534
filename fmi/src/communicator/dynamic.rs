//! Operations by value: which one, on what elements, with what operator, as plain values and bytes. For programs that
//! know these only when they run: bindings to other languages, benches, tests of all operations.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::communicator::Communicator;
use crate::communicator::collective::{CollectiveRequest, CombineBytes, Elements, Spec};
use crate::communicator::message::{
    Destination, MatchRequest, RecvRequest, SendRecvRequest, SendRequest, Source, Status, Tag,
};
use crate::communicator::payload::Data;
use crate::communicator::synchronous::SsendRequest;
use crate::datatype::Datatype;
use crate::engine::task;
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::op::{Bound, Operator};
use crate::proto::operation::Class;

/// A call of an operation, with all of its arguments by value. What an operation does not have is left out.
///
/// # Examples
/// ```no_run
/// # async fn example(comm: &fmi::Communicator) -> fmi::Result<()> {
/// use fmi::{Datatype, Invocation, Operation, op::BuiltIn};
///
/// let (mine, mut sum) = (1.5f32.to_ne_bytes(), [0; 4]);
/// let call = Invocation::new(Operation::Allreduce, Datatype::of::<f32>());
/// comm.invoke(call.operator(BuiltIn::Sum).send(&mine).receive(&mut sum)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "it is run by `Communicator::invoke`"]
pub struct Invocation<'a> {
    operation: Operation,
    datatype: Datatype,
    operator: Option<Operator>,
    root: u32,
    to: Option<Destination>,
    source: Option<Source>,
    tag: Option<Tag>,
    send: &'a [u8],
    receive: &'a mut [u8],
    is_in_place: bool,
    send_counts: &'a [usize],
    receive_counts: &'a [usize],
}

impl<'a> Invocation<'a> {
    /// A call of `operation` on elements of `datatype`.
    pub fn new(operation: Operation, datatype: Datatype) -> Self {
        Self {
            operation,
            datatype,
            operator: None,
            root: 0,
            to: None,
            source: None,
            tag: None,
            send: &[],
            receive: &mut [],
            is_in_place: false,
            send_counts: &[],
            receive_counts: &[],
        }
    }

    /// How elements are combined.
    pub fn operator(self, operator: impl Into<Operator>) -> Self {
        Self { operator: Some(operator.into()), ..self }
    }

    /// The root; rank 0 unless it is said.
    pub fn root(self, root: u32) -> Self {
        Self { root, ..self }
    }

    /// The rank that gets a message.
    pub fn to(self, to: impl Into<Destination>) -> Self {
        Self { to: Some(to.into()), ..self }
    }

    /// The rank that sends a message.
    pub fn source(self, source: impl Into<Source>) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    /// The tag of a message.
    pub fn tag(self, tag: impl Into<Tag>) -> Self {
        Self { tag: Some(tag.into()), ..self }
    }

    /// What this rank sends.
    pub fn send(self, bytes: &'a [u8]) -> Self {
        Self { send: bytes, ..self }
    }

    /// Where this rank receives. Of operations with one buffer, that one.
    pub fn receive(self, bytes: &'a mut [u8]) -> Self {
        Self { receive: bytes, ..self }
    }

    /// One buffer for both ways, as the methods take it whose names end in `_in_place`.
    pub fn in_place(self, bytes: &'a mut [u8]) -> Self {
        Self { receive: bytes, is_in_place: true, ..self }
    }

    /// Elements for each rank, in rank order: of `scatterv` at the root, of `alltoallv`.
    pub fn send_counts(self, counts: &'a [usize]) -> Self {
        Self { send_counts: counts, ..self }
    }

    /// Elements from each rank, in rank order: of `gatherv` at the root, of `allgatherv` and `alltoallv` (in place, to each
    /// rank as well); of `reduce_scatter`, those of each rank's block of the result.
    pub fn receive_counts(self, counts: &'a [usize]) -> Self {
        Self { receive_counts: counts, ..self }
    }
}

/// An operation under way. Ends with the status of a message that was received or looked for.
#[must_use = "a request makes progress when it is polled"]
pub struct InvokeRequest<'a>(State<'a>);

enum State<'a> {
    Refused(Option<Error>),
    Moving(CollectiveRequest<'a>),
    Combining(CollectiveRequest<'a, Bound>),
    Sending(SendRequest<'a>),
    Synchronous(SsendRequest<'a>),
    Receiving(RecvRequest<'a>),
    Both(SendRecvRequest<'a>),
    Probing(MatchRequest),
}

impl Communicator {
    /// Runs an operation that is given by value. What it does and what may go wrong is as in the method of the same
    /// name: both begin it in the same way.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`], which changes nothing, for an operation that does not move data, for buffers that do
    /// not hold whole elements, for an operator that the type has not, and for arguments that are missing or that the
    /// operation has not; else as the method of the same name.
    ///
    /// # Cancel safety
    /// As the method of the same name.
    pub fn invoke<'a>(&self, call: Invocation<'a>) -> InvokeRequest<'a> {
        InvokeRequest(self.invoked(call).unwrap_or_else(|error| State::Refused(Some(error))))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "all others begin alike")]
    fn invoked<'a>(&self, call: Invocation<'a>) -> Result<State<'a>> {
        self.check_invocation(&call)?;
        if call.operation.class() == Class::PointToPoint {
            return self.invoked_message(call);
        }
        let of = Elements {
            datatype: call.datatype,
            operator: call.operator.as_ref().map(Operator::code),
            commutative: call.operator.as_ref().is_some_and(Operator::is_commutative),
        };
        let Invocation { operation, operator, root, is_in_place, send_counts, receive_counts, .. } = call;
        let (send, receive, is_in_place) =
            if is_in_place { self.one_buffer(operation, root, call.receive) } else { (call.send, call.receive, false) };
        let elements = [send.len(), receive.len()].map(|bytes| bytes / of.datatype.bytes());
        // Blocks that are exchanged in place have one length both ways.
        let is_exchange = is_in_place && operation == Operation::Alltoallv;
        let counts = [if is_exchange { receive_counts } else { send_counts }, receive_counts];
        let spec = self.invoked_spec(operation, of, root, elements, counts, is_in_place);
        if let Some(operator) = operator {
            let bound = operator.bind(of.datatype);
            let bound = bound.map_err(|undefined| self.wrong(operation, undefined.to_string()))?;
            let owned = |bound: Bound| -> task::Operator {
                Box::new(move |into, own, other, side| bound.combine(into, own, other, side))
            };
            let operator = (Bound::combine as CombineBytes<Bound>, owned as fn(Bound) -> task::Operator);
            return Ok(State::Combining(self.launch_bytes(None, spec, (send, receive), bound, operator)));
        }
        Ok(State::Moving(match operation {
            Operation::Gatherv => self.launch_rooted(spec, receive_counts, send, receive),
            Operation::Scatterv => self.launch_rooted(spec, send_counts, send, receive),
            Operation::Alltoallv => self.launch_alltoallv(spec, (counts[0], counts[1]), send, receive),
            _ => self.launch_moving(None, spec, send, receive),
        }))
    }

    /// The collective on buffers of so many elements to send and to receive.
    #[expect(clippy::wildcard_enum_match_arm, reason = "of the collectives these move data")]
    fn invoked_spec(
        &self,
        operation: Operation,
        of: Elements,
        root: u32,
        [send, receive]: [usize; 2],
        [send_counts, receive_counts]: [&[usize]; 2],
        in_place: bool,
    ) -> Result<Spec> {
        let own = if in_place { receive } else { send };
        // Of one buffer of all blocks, this rank's share.
        let share = |all: usize| self.block(operation, all);
        match operation {
            Operation::Barrier => Ok(self.barrier_spec()),
            Operation::Broadcast => self.broadcast_spec(of, receive, root),
            Operation::Reduce => self.reduce_spec(of, own, root, in_place),
            Operation::Allreduce => Ok(self.allreduce_spec(of, own, in_place)),
            Operation::Scan => Ok(self.scan_spec(of, own, in_place, false)),
            Operation::Exscan => Ok(self.scan_spec(of, own, in_place, true)),
            Operation::Gather if in_place => self.gather_spec(of, share(receive)?, root, true),
            Operation::Gather => self.gather_spec(of, send, root, false),
            Operation::Scatter if in_place => self.scatter_spec(of, share(send)?, root, true),
            Operation::Scatter => self.scatter_spec(of, receive, root, false),
            Operation::Allgather if in_place => Ok(self.allgather_spec(of, share(receive)?, true)),
            Operation::Allgather => Ok(self.allgather_spec(of, send, false)),
            Operation::Alltoall => Ok(self.alltoall_spec(of, share(own)?, in_place)),
            Operation::ReduceScatterBlock if in_place => Ok(self.reduce_scatter_block_spec(of, share(receive)?, true)),
            Operation::ReduceScatterBlock => Ok(self.reduce_scatter_block_spec(of, receive, false)),
            Operation::ReduceScatter => self.reduce_scatter_spec(of, receive_counts, in_place),
            Operation::Gatherv => {
                let own = if in_place { self.counted(receive_counts) } else { send };
                self.gatherv_spec(of, own, receive_counts, root, in_place)
            }
            Operation::Scatterv => {
                let own = if in_place { self.counted(send_counts) } else { receive };
                self.scatterv_spec(of, send_counts, own, root, in_place)
            }
            Operation::Allgatherv => {
                let own = if in_place { self.counted(receive_counts) } else { send };
                self.allgatherv_spec(of, own, receive_counts, in_place)
            }
            Operation::Alltoallv => self.alltoallv_spec(of, send_counts, receive_counts, in_place),
            _ => Err(self.wrong(operation, format!("{operation} cannot be called by value"))),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "these are the operations of two ranks")]
    fn invoked_message<'a>(&self, call: Invocation<'a>) -> Result<State<'a>> {
        let Invocation { operation, datatype, to, source, tag, send, receive, is_in_place, .. } = call;
        let (source, pattern) = (source.unwrap_or(Source::Any), tag.unwrap_or(Tag::Any));
        let addressed = || match (to, tag) {
            (None, _) => Err(self.wrong(operation, "nobody is named to send to".into())),
            (Some(_), None | Some(Tag::Any)) => Err(self.wrong(operation, "what is sent has a tag".into())),
            (Some(to), Some(Tag::Is(tag))) => Ok((to, tag)),
        };
        let sending = || addressed().map(|(to, tag)| self.send_as(to, tag, datatype.code(), Data::Lent(send)));
        Ok(match operation {
            Operation::Send => State::Sending(sending()?),
            Operation::SynchronousSend => {
                let (to, tag) = addressed()?;
                State::Synchronous(self.ssend_as(to, tag, datatype, send))
            }
            Operation::Receive => State::Receiving(self.recv_as(source, pattern, datatype, receive)),
            Operation::Probe => State::Probing(self.matching(operation, source, pattern)),
            Operation::SendReceive if is_in_place => {
                let (to, tag) = addressed()?;
                let copy = Data::Owned(Bytes::copy_from_slice(receive));
                let send = self.send_as(to, tag, datatype.code(), copy);
                State::Both(SendRecvRequest::of(send, self.recv_as(source, pattern, datatype, receive)))
            }
            Operation::SendReceive => {
                State::Both(SendRecvRequest::of(sending()?, self.recv_as(source, pattern, datatype, receive)))
            }
            _ => return Err(self.wrong(operation, format!("{operation} cannot be called by value"))),
        })
    }

    /// Whether an operation is called with what it has.
    fn check_invocation(&self, call: &Invocation<'_>) -> Result<()> {
        let Invocation { operation, datatype, .. } = call;
        let refuse = |what: String| Err(self.wrong(*operation, what));
        let Some(moves) = operation.moves() else {
            return refuse(format!("{operation} cannot be called by value"));
        };
        for (name, bytes) in [("send", call.send.len()), ("receive", call.receive.len())] {
            let whole = datatype.bytes();
            if !bytes.is_multiple_of(whole) {
                return refuse(format!(
                    "the {name} buffer has {bytes} bytes, which are no whole elements of {datatype} ({whole} bytes)"
                ));
            }
        }
        let counts = !call.send_counts.is_empty() || !call.receive_counts.is_empty();
        if moves.combined && call.operator.is_none() {
            refuse(format!("{operation} needs an operator"))
        } else if !moves.combined && call.operator.is_some() {
            refuse(format!("{operation} has no operator"))
        } else if counts && !moves.counted {
            refuse(format!("{operation} has no counts"))
        } else if call.is_in_place && !moves.in_place {
            refuse(format!("{operation} is not done in place"))
        } else {
            Ok(())
        }
    }

    fn wrong(&self, operation: Operation, what: String) -> Error {
        self.error(operation, ErrorKind::InvalidArgument(what))
    }
}

impl Future for InvokeRequest<'_> {
    type Output = Result<Option<Status>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Option<Status>>> {
        let end = match &mut self.0 {
            State::Refused(error) => Err(error.take().expect("polled once after its end")),
            State::Moving(future) => ready!(Pin::new(future).poll(cx)).map(|()| None),
            State::Combining(future) => ready!(Pin::new(future).poll(cx)).map(|()| None),
            State::Sending(future) => ready!(Pin::new(future).poll(cx)).map(|()| None),
            State::Synchronous(future) => ready!(Pin::new(future).poll(cx)).map(|()| None),
            State::Receiving(future) => ready!(Pin::new(future).poll(cx)).map(Some),
            State::Both(future) => ready!(Pin::new(future).poll(cx)).map(Some),
            State::Probing(future) => ready!(Pin::new(future).poll(cx)).map(|message| Some(message.status())),
        };
        Poll::Ready(end)
    }
}

impl std::fmt::Debug for InvokeRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InvokeRequest").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
