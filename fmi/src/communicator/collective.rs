//! Collectives.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, ready};

use crate::communicator::Communicator;
use crate::communicator::base::Base;
use crate::datatype::{Datatype, Element};
use crate::engine::plan::{Plan, PlanKey};
use crate::engine::run::{Job, Run};
use crate::engine::task::{Operator, Started, guarded};
use crate::engine::{Call, Engine, Until};
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::model::Costs;
use crate::op::{Max, Op, combine_bytes};
use crate::proto::frame::{Envelope, Kind};
use crate::proto::group::What;
use crate::proto::operation::Extent;
use crate::schedule::{self, Algorithm, Blocks, Choice, Collective, Memory, Problem, Schedule, Side, Step};
use crate::time::Instant;

mod blocks;
mod lengths;
mod reductions;

/// A collective without its buffers.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) kind: Kind,
    pub(super) root: u32,
    pub(super) of: Elements,
    /// Elements on each rank, where that is equal on all.
    pub(super) elements: usize,
    pub(super) recipe: Recipe,
    /// Of blocks of different lengths: whether this rank has one buffer for both ways.
    pub(super) in_place: bool,
    /// Elements that the send buffer must have.
    pub(super) send: usize,
    /// Elements that the receive buffer must have; not looked at if `None`.
    pub(super) receive: Option<usize>,
    /// When it must be done; as any operation of the communicator if `None`.
    pub(super) deadline: Option<Instant>,
    /// The persistent operation of which it is a run.
    pub(super) persistent: Option<u64>,
}

/// What a collective is about: a type, and how its elements are combined, if they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elements {
    pub(super) datatype: Datatype,
    /// Code of the operator, if there is one.
    pub(super) operator: Option<u32>,
    pub(super) commutative: bool,
}

impl Elements {
    /// Elements that are only moved.
    pub(super) fn of<T: Element>() -> Self {
        Self { datatype: Datatype::of::<T>(), operator: None, commutative: false }
    }

    /// Elements that `op` combines.
    pub(super) fn combined<T: Element>(op: &impl Op<T>) -> Self {
        Self { datatype: Datatype::of::<T>(), operator: Some(op.code()), commutative: op.is_commutative() }
    }
}

/// Where the schedule comes from.
#[derive(Clone, Debug)]
pub(super) enum Recipe {
    /// An algorithm is chosen, and the plan kept.
    Chosen(Problem),
    /// It is made for this call.
    Made(Schedule, Algorithm),
    /// It was made before.
    Planned(Arc<Plan>),
}

impl Spec {
    pub(super) fn new(kind: Kind, of: Elements, recipe: Recipe) -> Self {
        Self {
            kind,
            root: 0,
            of,
            elements: 0,
            recipe,
            in_place: false,
            send: 0,
            receive: Some(0),
            deadline: None,
            persistent: None,
        }
    }
}

/// In place of an operator, of collectives that combine nothing.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Nothing;

impl<T: Element> Op<T> for Nothing {
    fn code(&self) -> u32 {
        0
    }

    fn is_commutative(&self) -> bool {
        false
    }

    fn combine(&self, left: T, _: T) -> T {
        left
    }
}

/// Combines elements, given as bytes, by an operator.
pub(super) type CombineBytes<O> = fn(&O, &mut [u8], Option<&[u8]>, &[u8], Side);

/// A collective under way. MPI 3.1 §5.12, the request of MPI_Iallreduce and its like.
///
/// It has the type of its operator, if it has one, since calling it costs no allocation. Where requests of several
/// operators are kept together, they become [`Request`](crate::request::Request)s.
#[must_use = "a request makes progress when it is polled, and dropping it revokes the communicator"]
pub struct CollectiveRequest<'a, O = Nothing> {
    way: Way<'a, O>,
}

#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each call")]
enum Way<'a, O> {
    AtOnce(Operating<'a, O>),
    /// With its buffers copied.
    Copied(Copied<'a>),
    /// After an exchange of lengths.
    Later(Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>),
}

impl<O> Unpin for CollectiveRequest<'_, O> {}

impl<O> fmt::Debug for CollectiveRequest<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectiveRequest").finish_non_exhaustive()
    }
}

impl<O: Sync> Future for CollectiveRequest<'_, O> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.way {
            Way::AtOnce(operating) => operating.poll(cx),
            Way::Copied(copied) => copied.poll(cx),
            Way::Later(future) => future.as_mut().poll(cx),
        }
    }
}

impl<'a> CollectiveRequest<'a> {
    /// A collective whose schedule is known after an exchange.
    fn later(future: impl Future<Output = Result<()>> + Send + 'a) -> Self {
        Self { way: Way::Later(Box::pin(future)) }
    }
}

/// A collective that moves whatever is polled. Dropped before its end, it ends the communicator.
struct Copied<'a> {
    base: Arc<Base>,
    call: Option<Call>,
    receive: &'a mut [u8],
}

impl Copied<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let call = self.call.as_mut().expect("polled after its end");
        let receive = &mut *self.receive;
        let result = ready!(self.base.drive(cx, call, |engine, call, mode| {
            let poll = engine.poll_task(mode, call, receive);
            if poll.is_ready() {
                engine.forget_call(call);
            }
            poll
        }));
        let call = self.call.take().expect("just seen");
        if let Err(error) = &result {
            // It may have failed before its task saw that.
            self.base.with(|engine| engine.cancel_task(&call, Some(error)));
        }
        Poll::Ready(result)
    }
}

impl Drop for Copied<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            let error = cancelled(call.operation, self.base.rank());
            self.base.with(|engine| engine.cancel_task(&call, Some(&error)));
        }
    }
}

/// A collective that runs. Dropped before its end, it ends the communicator.
struct Operating<'a, O> {
    base: Arc<Base>,
    state: State,
    element_bytes: usize,
    send: &'a [u8],
    receive: &'a mut [u8],
    op: O,
    combine: CombineBytes<O>,
}

#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each call")]
enum State {
    Over(Option<Error>),
    Running { call: Call, run: Option<Run>, plan: Arc<Plan>, signature: Envelope },
}

impl<O: Sync> Operating<'_, O> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { base, state, element_bytes, send, receive, op, combine } = self;
        let (call, run, plan, signature) = match state {
            State::Running { call, run: Some(run), plan, signature } => (call, run, plan, signature),
            State::Running { run: None, .. } | State::Over(None) => panic!("polled after its end"),
            State::Over(error) => return Poll::Ready(Err(error.take().expect("just seen"))),
        };
        let element_bytes = *element_bytes;
        let operator = |into: &mut [u8], own: Option<&[u8]>, other: &[u8], side| combine(op, into, own, other, side);
        let (poll, failure) = guarded(operator, |has_failed, combine| {
            let mut job = Job { plan, signature, element_bytes, send, receive, only_sends: false, has_failed };
            base.drive(cx, call, |engine, call, mode| run.advance(engine, mode, call, &mut job, combine))
        });
        let result = match failure {
            Some(kind) => Err(base.error(call.operation, kind)),
            None => ready!(poll),
        };
        self.end(result.as_ref().err());
        Poll::Ready(result)
    }
}

impl<O> Operating<'_, O> {
    /// Ends it; after an error, the communicator with it.
    fn end(&mut self, error: Option<&Error>) {
        let State::Running { call, run, plan, signature } = &mut self.state else { return };
        let Some(mut run) = run.take() else { return };
        self.base.with(|engine| {
            if let Some(error) = error {
                let job = Job {
                    plan,
                    signature,
                    element_bytes: self.element_bytes,
                    send: self.send,
                    receive: self.receive,
                    only_sends: false,
                    has_failed: &AtomicBool::new(true),
                };
                run.abandon(engine, call, &job);
                engine.abort(self.base.id, error);
            }
            engine.end(call);
            engine.give_back(run.take_workspace());
        });
        self.state = State::Over(None);
    }
}

impl<O> Drop for Operating<'_, O> {
    fn drop(&mut self) {
        if let State::Running { call, .. } = &self.state {
            let error = cancelled(call.operation, self.base.rank());
            self.end(Some(&error));
        }
    }
}

fn cancelled(operation: Operation, rank: u32) -> Error {
    let what = format!("{operation} was cancelled before it was done");
    Error::new(operation, ErrorKind::Revoked(what)).on(rank)
}

impl Reserved {
    /// The number.
    pub(super) fn number(&self) -> u64 {
        self.sequence.expect("it is given up with the call")
    }
}

/// A number in the order of collectives, for one that begins later.
pub(super) struct Reserved {
    base: Arc<Base>,
    operation: Operation,
    sequence: Option<u64>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.sequence.is_some() {
            let error = cancelled(self.operation, self.base.rank());
            self.base.with(|engine| engine.abort(self.base.id, &error));
        }
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
    pub fn barrier(&self) -> CollectiveRequest<'static> {
        self.launch::<u8, _>(Ok(self.barrier_spec()), &[], &mut [], Nothing)
    }

    pub(super) fn barrier_spec(&self) -> Spec {
        let of = Elements::of::<u8>();
        Spec::new(Kind::Barrier, of, Recipe::Chosen(self.problem(Collective::Barrier, 0, 0, of)))
    }

    /// The barrier that ends a join: who passes it knows that every pair works in both directions, and what
    /// the group's network is like.
    pub(crate) async fn join_barrier(&self, deadline: Instant) -> Result<()> {
        let (here, is_apart) = self.neighbours();
        let cores = if here == 1 { 1 } else { u64::from(self.shared.clock.machine().cores.max(1)) };
        // The largest of all: ranks on a core in thousandths, and whether any two ranks are apart.
        let mut view = [1000 * here / cores, u64::from(is_apart)];
        let whole = Memory::Receive.at(0..2);
        let is_complete = !self.shared.with(|engine| engine.sparse);
        let mut schedule = schedule::barrier_of_join(self.rank, self.size, is_complete);
        for step in schedule.rounds.iter_mut().flatten() {
            *step = match *step {
                Step::Receive { from, .. } => Step::Reduce { from, own: whole, into: whole, side: Side::Left },
                Step::Send { to, .. } => Step::Send { to, data: whole },
                other @ (Step::Reduce { .. } | Step::Copy { .. } | Step::Combine { .. }) => other,
            };
        }
        let recipe = Recipe::Made(schedule, Algorithm::Dissemination);
        let spec = Spec::new(Kind::Join, Elements::combined::<u64>(&Max), recipe);
        let spec = Spec { elements: 2, receive: Some(2), deadline: Some(deadline), ..spec };
        self.launch(Ok(spec), &[], &mut view, Max).await?;
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let crowding = view[0] as f64 / 1000.0;
        let costs = if view[1] == 0 {
            Costs::local(crowding)
        } else {
            Costs { crowding: crowding.max(1.0), ..Costs::region() }
        };
        self.shared.with(|engine| engine.costs = costs);
        Ok(())
    }

    pub(super) fn problem(&self, collective: Collective, root: u32, count: usize, of: Elements) -> Problem {
        let (commutative, in_place, reproducible) = (of.operator.is_none() || of.commutative, false, self.reproducible);
        let element_bytes = of.datatype.bytes();
        Problem { collective, size: self.size, root, count, element_bytes, commutative, in_place, reproducible }
    }

    /// Takes the place of a collective that begins later.
    pub(super) fn reserve(&self, operation: Operation) -> Reserved {
        let sequence = self.shared.with(|engine| engine.group.reserve(self.id));
        Reserved { base: self.shared.clone(), operation, sequence: Some(sequence) }
    }

    /// What this rank sends and receives of one buffer, and whether it does both there: of operations with a root, only
    /// that one does, and the others only send or only receive.
    pub(super) fn one_buffer<'a, T>(
        &self,
        operation: Operation,
        root: u32,
        buffer: &'a mut [T],
    ) -> (&'a [T], &'a mut [T], bool) {
        let is_root = self.rank == root;
        let root_sends_all = operation.moves().is_some_and(|moves| moves.send == Extent::All);
        let is_in_place = is_root || !operation.has_root();
        if operation.has_root() && is_root == root_sends_all {
            (buffer, &mut [], is_in_place)
        } else {
            (&[], buffer, is_in_place)
        }
    }

    pub(super) fn launch<'a, T: Element, O: Op<T>>(
        &self,
        spec: Result<Spec>,
        send: &'a [T],
        receive: &'a mut [T],
        op: O,
    ) -> CollectiveRequest<'a, O> {
        self.launch_at(None, spec, send, receive, op)
    }

    pub(super) fn launch_at<'a, T: Element, O: Op<T>>(
        &self,
        reserved: Option<Reserved>,
        spec: Result<Spec>,
        send: &'a [T],
        receive: &'a mut [T],
        op: O,
    ) -> CollectiveRequest<'a, O> {
        let (send, receive) = (bytemuck::cast_slice(send), bytemuck::cast_slice_mut(receive));
        let owned = |op: O| -> Operator {
            Box::new(move |into, own, other, side| combine_bytes::<T, O>(&op, into, own, other, side))
        };
        self.launch_bytes(reserved, spec, (send, receive), op, (combine_bytes::<T, O>, owned))
    }

    /// Begins a collective: all of them come here. Its operator is given over bytes, lent and owned: without state, it
    /// takes no memory in either form.
    pub(super) fn launch_bytes<'a, O: Send + Sync + 'static>(
        &self,
        reserved: Option<Reserved>,
        spec: Result<Spec>,
        (send, receive): (&'a [u8], &'a mut [u8]),
        op: O,
        (combine, owned): (CombineBytes<O>, fn(O) -> Operator),
    ) -> CollectiveRequest<'a, O> {
        let spec = spec.and_then(|spec| self.checked(spec, send.len(), receive.len()));
        let element_bytes = spec.as_ref().map_or(1, |spec| spec.of.datatype.bytes());
        let base = self.shared.clone();
        let spec = match spec {
            Ok(spec) => spec,
            Err(error) => {
                let state = State::Over(Some(error));
                let operating = Operating { base, state, element_bytes, send, receive, op, combine };
                return CollectiveRequest { way: Way::AtOnce(operating) };
            }
        };
        let way = self.shared.with(|engine| {
            let sequence = reserved.and_then(|mut reserved| reserved.sequence.take());
            match self.begin(engine, &spec, sequence) {
                State::Running { call, run: Some(run), plan, signature }
                    if engine.copies(send.len() + receive.len(), size_of::<O>() == 0) =>
                {
                    let started = Started { call: &call, run, plan, signature, element_bytes, send, receive };
                    engine.start_task(started, owned(op));
                    Way::Copied(Copied { base, call: Some(call), receive })
                }
                state @ (State::Running { .. } | State::Over(_)) => {
                    Way::AtOnce(Operating { base, state, element_bytes, send, receive, op, combine })
                }
            }
        });
        CollectiveRequest { way }
    }

    /// Begins a collective that only moves bytes.
    pub(super) fn launch_moving<'a>(
        &self,
        reserved: Option<Reserved>,
        spec: Result<Spec>,
        send: &'a [u8],
        receive: &'a mut [u8],
    ) -> CollectiveRequest<'a> {
        self.launch_bytes(reserved, spec, (send, receive), Nothing, (|_, _, _, _, _| {}, |_| Box::new(|_, _, _, _| {})))
    }

    /// `spec` if buffers of so many bytes fit it.
    pub(super) fn checked(&self, spec: Spec, send: usize, receive: usize) -> Result<Spec> {
        let wrong = |what: String| Err(self.error(spec.kind.operation(), ErrorKind::InvalidArgument(what)));
        let bytes = spec.of.datatype.bytes();
        let fits = |bytes_there: usize, elements: usize| elements.checked_mul(bytes) == Some(bytes_there);
        if !fits(send, spec.send) {
            return wrong(format!("the send buffer has {} elements; it must have {}", send / bytes, spec.send));
        }
        match spec.receive {
            Some(length) if !fits(receive, length) => {
                wrong(format!("the receive buffer has {} elements; it must have {length}", receive / bytes))
            }
            _ => Ok(spec),
        }
    }

    fn begin(&self, engine: &mut Engine, spec: &Spec, reserved: Option<u64>) -> State {
        let operation = spec.kind.operation();
        if let Some(error) = engine.revocation(self.id, operation) {
            return State::Over(Some(error));
        }
        let plan = self.planned(engine, spec);
        let sequence = match (reserved, spec.persistent) {
            (Some(reserved), _) => reserved,
            (None, Some(init)) => engine.group.number_run(self.id, init),
            (None, None) => engine.group.number(self.id),
        };
        let signature = Envelope {
            commutative: spec.of.commutative,
            datatype: if spec.kind == Kind::Barrier { 0 } else { spec.of.datatype.code() },
            communicator: self.id,
            epoch: engine.group.epoch(self.id),
            root_or_tag: spec.root,
            sequence,
            operator: spec.of.operator.unwrap_or(0),
            elements: spec.elements as u64,
            ..Envelope::new(spec.kind)
        };
        let until = spec.deadline.map_or_else(|| self.until(), Until::At);
        let call = match engine.post(self.id, operation, What::Collective(signature), until) {
            Ok(call) => call,
            Err(error) => return State::Over(Some(error)),
        };
        let run = Run::new(engine.workspace());
        tracing::trace!(rank = self.rank, %operation, sequence, algorithm = %plan.algorithm(), "called");
        State::Running { call, run: Some(run), plan, signature }
    }

    pub(super) fn planned(&self, engine: &mut Engine, spec: &Spec) -> Arc<Plan> {
        let slot = |rank: u32| {
            self.shared.members.slot(self.shared.members.rank(rank).expect("schedules name ranks of the group"))
        };
        match &spec.recipe {
            Recipe::Planned(plan) => plan.clone(),
            Recipe::Made(schedule, algorithm) => {
                let choice = Choice { algorithm: *algorithm, time: std::time::Duration::ZERO, segment: usize::MAX };
                Arc::new(Plan::new(schedule, choice, self.size, slot))
            }
            Recipe::Chosen(problem) => {
                let (costs, connections) = (engine.costs, &self.connections);
                let forced = engine.algorithms.get(&problem.collective).copied();
                engine.plan(PlanKey { communicator: self.id, problem: *problem }, || {
                    let choice = schedule::chosen(problem, forced, &costs, connections);
                    let schedule = schedule::build_on(problem, &choice, self.rank, connections);
                    Plan::new(&schedule, choice, self.size, slot).rounding(problem.reproducible)
                })
            }
        }
    }

    /// The algorithm that a collective of this communicator takes, with its modelled time.
    pub(super) fn choice(&self, problem: &Problem) -> Choice {
        self.shared.with(|engine| {
            let forced = engine.algorithms.get(&problem.collective).copied();
            schedule::chosen(problem, forced, &engine.costs, &self.connections)
        })
    }

    /// Sends `buffer` of `root` to all ranks.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a root outside the group, which changes nothing;
    /// [`ErrorKind::PeerLost`], [`ErrorKind::Deadline`], [`ErrorKind::Mismatch`], [`ErrorKind::Revoked`].
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §5.4, MPI_Bcast.
    pub fn broadcast<'a, T: Element>(&self, buffer: &'a mut [T], root: u32) -> CollectiveRequest<'a> {
        self.launch(self.broadcast_spec(Elements::of::<T>(), buffer.len(), root), &[], buffer, Nothing)
    }

    pub(super) fn broadcast_spec(&self, of: Elements, count: usize, root: u32) -> Result<Spec> {
        self.checked_rank(Operation::Broadcast, "the root", root)?;
        let problem = self.problem(Collective::Broadcast, root, count, of);
        let spec = Spec::new(Kind::Broadcast, of, Recipe::Chosen(problem));
        Ok(Spec { root, elements: count, receive: Some(count), ..spec })
    }
}
