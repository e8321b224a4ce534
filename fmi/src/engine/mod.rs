//! Moves the bytes of operations between callers' buffers and channels.
//!
//! All communicators of a group share one engine behind one lock; nothing waits while holding it. What operations
//! mean to each other is decided by [`Group`]: the engine asks it for a route, does what it says, and tells it what
//! came of that. An operation makes progress when its future is polled, and with it whatever is in its way.
//!
//! # Waking
//! An operation that waits is known to the channels that it waits for ([`wait::Waiters`]); when one of them
//! moves, those that were polled last are polled again, do the work for all, and wake the owners of what they find.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use self::lane::Lane;
use self::plan::{Plan, PlanKey};
use self::run::Workspace;
use self::spin::Spin;
use self::wait::{Listings, Signal, Waiters};
use crate::channel::{Channel, Mode};
use crate::connect::{Control, Lifeline, Upgrade};
use crate::error::{Error, Operation, Path, Result};
use crate::model::Costs;
use crate::net::{Clock, Timer};
use crate::proto::frame::{ENVELOPE_BYTES, Envelope, Kind};
use crate::proto::group::{Failure, Group, Input, Limits, OpId, Output, Table, WaitsFor, What};
use crate::proto::rank::Slot;
use crate::proto::remark::Remark;
use crate::proto::rendezvous::SessionId;
use crate::time::Instant;

mod lane;
mod membership;
mod notices;
pub(crate) mod owned;
pub(crate) mod parcel;
pub(crate) mod plan;
pub(crate) mod run;
mod spin;
mod synchronous;
pub(crate) mod task;
mod transfer;
mod wait;

/// Plans that are kept for further calls of the same kind.
const PLANS_MAX: usize = 64;
/// Workspaces that are kept.
const WORKSPACES_MAX: usize = 8;
/// Bytes of control frames that may wait for a peer which does not read.
const TOLD_BYTES_MAX: u64 = 16 << 20;
/// How many operations are woken when the one ends that heard all peers: some may be held and never be polled.
const LISTENERS_WOKEN: usize = 4;
/// The number of the source that is no lane's.
const COMMON: usize = usize::MAX;
/// After so many operations in a row that never waited, the executor gets a turn.
const TURNS_MAX: u32 = 256;

/// What a group is made of once every pair is connected.
pub(crate) struct Parts {
    pub(crate) channels: Vec<Option<Box<dyn Channel>>>,
    pub(crate) control: Option<Control>,
    pub(crate) session: SessionId,
    pub(crate) upgrade: Option<Box<dyn Upgrade>>,
    pub(crate) lifeline: Option<Box<dyn Lifeline>>,
}

/// When an operation fails that has not ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// After the time that the group's limits give it.
    Limit,
    /// After this time.
    Within(Duration),
    /// Then.
    At(Instant),
}

/// An operation under way, as its future holds it.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) id: OpId,
    pub(crate) operation: Operation,
    pub(crate) communicator: u64,
    /// Some of the peers that it waits for; kept by what advances it.
    pub(crate) waits_for: WaitsFor,
    /// Whether sources may know of it.
    is_listed: bool,
}

/// The state that all operations of a group share.
pub(crate) struct Engine {
    pub(crate) me: Slot,
    pub(crate) group: Group,
    lanes: Vec<Option<Lane>>,
    /// How each peer is or was reached.
    paths: Vec<Option<Path>>,
    control: Option<Control>,
    upgrade: Option<Box<dyn Upgrade>>,
    lifeline: Option<Box<dyn Lifeline>>,
    session: SessionId,
    formed: bool,
    pub(crate) clock: Arc<dyn Clock>,
    /// The time at the last look at the clock.
    now: Instant,
    timer: Timer,
    /// Communicators that nobody holds any more, and that still have such messages to send.
    closing: BTreeSet<u64>,
    /// Messages whose sends were given up when they were begun.
    owed: BTreeMap<OpId, Owed>,
    /// Operations under way that own their memory.
    tasks: Table<task::Kept>,
    /// Those that have ended, and whose futures have not been told.
    ended: BTreeMap<OpId, task::Kept>,
    /// Those among them to which something has happened.
    due: Vec<OpId>,
    /// Those among them that wait for room to send.
    blocked: Vec<OpId>,
    /// Whether the operation at work waits for room to send.
    is_blocked: bool,
    /// The task at work, and whether something has happened to it meanwhile.
    at_work: Option<(OpId, bool)>,
    /// Bytes of their buffers.
    copied: usize,
    spare_buffers: Vec<task::Buffers>,
    spare_tasks: Vec<task::Kept>,
    /// What is dropped when the lock is free: that may run anything.
    to_drop: Vec<Box<dyn std::any::Any + Send>>,
    /// Memory for some processes.
    spare_slots: Vec<Slot>,
    /// Operations that wait, for what concerns all of them: time, and word of the rendezvous.
    common: Arc<Waiters>,
    common_waker: Waker,
    /// Whether a source has an event that nobody has looked at.
    signal: Arc<Signal>,
    /// Events of the common source at the last look at what gives them.
    common_events: u64,
    /// Whether a look is due without an event.
    looks_at_control: bool,
    /// The operation that hears what peers have to say for which no other operation waits.
    listener: Option<OpId>,
    /// Where operations are listed that wait.
    listings: Listings,
    to_wake: Vec<Waker>,
    /// Whether control frames are queued that have not been sent.
    notices_due: bool,
    communicators: usize,
    plans: BTreeMap<PlanKey, Arc<Plan>>,
    workspaces: Vec<Workspace>,
    pub(crate) costs: Costs,
    pub(crate) sparse: bool,
    pub(crate) algorithms: BTreeMap<crate::schedule::Collective, crate::schedule::Algorithm>,
    /// How often groups were made of equal members, so that each gets an identity of its own.
    pub(crate) created: BTreeMap<u64, u64>,
    spin: Spin,
    /// What was noticed of the network while the group formed.
    pub(crate) remarks: Vec<Remark>,
    /// Idle time after which connections are probed.
    keepalive: Duration,
    turns: u32,
    /// Bytes moved; a wait goes on while it grows.
    pub(crate) moved: u64,
    /// How many of them the group's machine knows of.
    moved_told: u64,
}

/// The rest of a message whose send was given up.
#[derive(Debug)]
struct Owed {
    peer: Slot,
    envelope: Envelope,
    payload: Vec<u8>,
}

/// An engine that several communicators and operations use.
pub(crate) struct Shared {
    engine: Mutex<Engine>,
    /// The thread that uses it, by [`here`]; 0 if none does.
    user: AtomicUsize,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Tells this thread from all others that live.
fn here() -> usize {
    thread_local! { static HERE: u8 = const { 0 } }
    HERE.with(|here| std::ptr::from_ref(here).addr())
}

/// Clears the mark of who uses an engine, whatever happens meanwhile.
struct InUse<'a>(&'a AtomicUsize);

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl Shared {
    pub(crate) fn new(engine: Engine) -> Arc<Self> {
        Arc::new(Self { clock: engine.clock.clone(), user: AtomicUsize::new(0), engine: Mutex::new(engine) })
    }

    fn lock(&self) -> MutexGuard<'_, Engine> {
        // A poisoned lock is still good enough for leaving.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses the engine. Wakers run afterwards: one may drop an operation, which locks.
    ///
    /// # Panics
    /// If this thread uses it already: an operator calls the communicator whose reduction it serves. The reduction
    /// turns that into its error.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> T {
        let here = here();
        assert!(self.user.load(Ordering::Relaxed) != here, "an operator must not use the communicator that it serves");
        let mut engine = self.lock();
        self.user.store(here, Ordering::Relaxed);
        let in_use = InUse(&self.user);
        let value = work(&mut engine);
        engine.settle_outputs();
        drop(in_use);
        if !engine.to_drop.is_empty() {
            let dropped = std::mem::take(&mut engine.to_drop);
            drop(engine);
            drop(dropped);
            engine = self.lock();
        }
        let Some(waker) = engine.to_wake.pop() else { return value };
        if engine.to_wake.is_empty() {
            // The list keeps its memory.
            drop(engine);
            waker.wake();
            return value;
        }
        engine.to_wake.push(waker);
        let wakers = std::mem::take(&mut engine.to_wake);
        drop(engine);
        wakers.into_iter().for_each(Waker::wake);
        value
    }

    /// Polls an operation: tries, yields the processor for a while if that may help, and parks.
    pub(crate) fn drive<T>(
        &self,
        cx: &mut Context<'_>,
        call: &mut Call,
        mut advance: impl FnMut(&mut Engine, &mut Call, Mode<'_>) -> Poll<Result<T>>,
    ) -> Poll<Result<T>> {
        let (budget, mut moved) = match self.with(|engine| engine.first_try(cx, call, &mut advance)) {
            First::Over(poll) => return poll,
            First::Again { budget, moved } => (budget, moved),
        };
        let began = self.clock.now();
        let mut end = began + budget;
        // Trying sees only what is in memory already, so without others in between a second time is of no use.
        while self.clock.yield_now() {
            let (poll, now_moved) = self.with(|engine| (engine.try_now(call, &mut advance), engine.moved));
            if poll.is_ready() {
                self.with(|engine| engine.spin.hit(engine.clock.now() - began));
                return poll;
            }
            let now = self.clock.now();
            if now_moved != moved {
                (moved, end) = (now_moved, now + budget);
            } else if now >= end {
                return self.with(|engine| {
                    engine.spin.miss();
                    engine.try_and_park(cx, call, &mut advance)
                });
            }
        }
        self.with(|engine| {
            engine.spin.stop();
            engine.try_and_park(cx, call, &mut advance)
        })
    }
}

/// What came of the first look at an operation.
enum First<T> {
    Over(Poll<Result<T>>),
    /// It is worth while to try again for so long.
    Again {
        budget: Duration,
        moved: u64,
    },
}

/// Does what can be done for an operation.
type Advance<'a, T> = dyn FnMut(&mut Engine, &mut Call, Mode<'_>) -> Poll<Result<T>> + 'a;

impl Engine {
    fn first_try<T>(&mut self, cx: &mut Context<'_>, call: &mut Call, advance: &mut Advance<'_, T>) -> First<T> {
        if self.is_turn_over() {
            self.to_wake.push(cx.waker().clone());
            return First::Over(Poll::Pending);
        }
        // Where several wait, each lets the others go on rather than yield.
        let budget = if self.group.outstanding() > 1 { None } else { self.spin.budget() };
        let Some(budget) = budget else { return First::Over(self.try_and_park(cx, call, advance)) };
        self.now = self.clock.now();
        let poll = self.try_now(call, advance);
        if poll.is_ready() {
            self.spin.hit(Duration::ZERO);
            return First::Over(poll);
        }
        First::Again { budget, moved: self.moved }
    }

    fn try_now<T>(&mut self, call: &mut Call, advance: &mut Advance<'_, T>) -> Poll<Result<T>> {
        let poll = advance(self, call, Mode::Try);
        self.run_due(Mode::Try);
        self.turns += u32::from(poll.is_ready());
        poll
    }

    fn try_and_park<T>(
        &mut self,
        cx: &mut Context<'_>,
        call: &mut Call,
        advance: &mut Advance<'_, T>,
    ) -> Poll<Result<T>> {
        self.now = self.clock.now();
        // Whatever it is listed in, it leaves at its end.
        call.is_listed = true;
        self.retry_blocked();
        let poll = match advance(self, call, Mode::Park(cx.waker())) {
            Poll::Pending => self.park(call, cx.waker()),
            ready => ready,
        };
        self.turns = if poll.is_pending() { 0 } else { self.turns + 1 };
        self.pass_on(call.id);
        poll
    }
}

impl Engine {
    pub(crate) fn new(config: &crate::Config, clock: Arc<dyn Clock>, parts: Parts) -> Self {
        let limits =
            Limits::new(config.operation_deadline, config.cause_wait, config.eager_bytes_max, config.mailbox_bytes_max);
        let me = Slot::checked(config.rank, config.size).expect("a checked configuration has a rank below its size");
        let signal = Arc::new(Signal::default());
        let lane = |(slot, channel): (Slot, Option<_>)| channel.map(|channel| Lane::new(channel, slot, &signal));
        let lanes: Vec<_> = Slot::all(config.size).zip(parts.channels).map(lane).collect();
        let common = Waiters::of_all(&signal, COMMON);
        let mut engine = Self {
            me,
            group: Group::new(me, config.size, limits, |slot| lanes[slot.index()].is_some()),
            paths: lanes.iter().map(|lane| lane.as_ref().map(|lane| lane.channel.info().path)).collect(),
            lanes,
            closing: BTreeSet::new(),
            owed: BTreeMap::new(),
            tasks: Table::default(),
            ended: BTreeMap::new(),
            due: Vec::new(),
            blocked: Vec::new(),
            is_blocked: false,
            at_work: None,
            copied: 0,
            spare_buffers: Vec::new(),
            spare_tasks: Vec::new(),
            to_drop: Vec::new(),
            spare_slots: Vec::new(),
            control: parts.control,
            upgrade: parts.upgrade,
            lifeline: parts.lifeline,
            session: parts.session,
            formed: false,
            timer: Timer::new(clock.clone()),
            now: clock.now(),
            clock,
            common_waker: common.clone().into(),
            common,
            signal,
            common_events: 0,
            looks_at_control: true,
            listener: None,
            listings: Listings::default(),
            to_wake: Vec::new(),
            notices_due: false,
            communicators: 1,
            plans: BTreeMap::new(),
            workspaces: Vec::new(),
            costs: Costs::region(),
            sparse: config.peers == crate::Peers::Collectives,
            algorithms: config.algorithms.clone(),
            created: BTreeMap::new(),
            spin: Spin::new(config.spin),
            remarks: Vec::new(),
            keepalive: config.keepalive,
            turns: 0,
            moved: 0,
            moved_told: 0,
        };
        engine.say_whether_it_hears();
        engine
    }

    // Operations.

    /// Registers an operation.
    pub(crate) fn post(&mut self, communicator: u64, operation: Operation, what: What, until: Until) -> Result<Call> {
        self.now = self.clock.now();
        let deadline = match until {
            Until::Limit => None,
            Until::Within(time) => Some(self.now + time),
            Until::At(at) => Some(at),
        };
        match self.group.post(self.now, communicator, what, deadline) {
            Ok(id) => Ok(Call { id, operation, communicator, waits_for: WaitsFor::default(), is_listed: false }),
            Err(failure) => Err(self.error(communicator, operation, failure)),
        }
    }

    /// Ends an operation: what belongs to it is dropped, and others that waited behind it look again.
    pub(crate) fn end(&mut self, call: &Call) {
        self.group.end(call.id);
        self.forget_call(call);
    }

    /// Ends a receive that leaves its message to others; `front` is what it has read of it.
    pub(crate) fn release(&mut self, call: &Call, front: &[u8]) {
        let mut of_frame = 0;
        if let Some(matched) = self.group.matched(call.id)
            && matched.place.is_none()
            && self.group.owns(call.id, matched.peer)
            && let Some(frame) = self.group.at_hand(matched.peer)
            && let Some(lane) = &mut self.lanes[matched.peer.index()]
        {
            of_frame = usize::try_from(frame.length - lane.left()).expect("it is in memory");
            lane.parked.splice(0..0, front[front.len() - of_frame..].iter().copied());
        }
        self.group.release(call.id, front, of_frame);
        self.forget_call(call);
    }

    /// Wakes operations that wait, so that one of them does what was done by another one.
    fn wake_another(&mut self) {
        if self.group.outstanding() > 0 {
            self.common.latest(LISTENERS_WOKEN, &mut self.to_wake);
        }
    }

    /// Wakes an operation.
    fn wake(&mut self, id: OpId) {
        self.to_wake.extend(self.listings.waker(id));
        self.mark_due(id);
    }

    pub(crate) fn forget_call(&mut self, call: &Call) {
        if call.is_listed {
            self.common.remove(call.id);
            if self.listener == Some(call.id) {
                self.listener = None;
                self.wake_another();
            } else if !self.tasks.is_empty() {
                // Tasks may be enlisted with its waker.
                self.wake_another();
            }
            self.unlist(call.id);
        }
    }

    /// Removes an operation from all lanes that know it.
    fn unlist(&mut self, id: OpId) {
        let Some(listing) = self.listings.remove(id) else { return };
        for index in listing.lanes(self.lanes.len()) {
            if let Some(lane) = &mut self.lanes[index] {
                lane.forget(id);
            }
        }
    }

    /// Passes events on that woke an operation which has not looked at their source.
    fn pass_on(&mut self, id: OpId) {
        let (common, lanes) = (&self.common, &self.lanes);
        self.signal.look(|source| match lanes.get(source / 2) {
            Some(lane) => lane.as_ref().is_some_and(|lane| lane.source(source).polled(id)),
            None => common.polled(id),
        });
    }

    /// Fails what cannot go on.
    pub(crate) fn check(&self, call: &Call) -> Result<()> {
        self.group.check(call.id).map_err(|failure| self.error_of(call, failure))
    }

    /// A failure of an operation as an error.
    pub(crate) fn error_of(&self, call: &Call, failure: Failure) -> Error {
        self.error(call.communicator, call.operation, failure)
    }

    /// A failure as an error.
    pub(crate) fn error(&self, communicator: u64, operation: Operation, failure: Failure) -> Error {
        let Failure { kind, peer } = failure;
        let members = self.group.members(communicator);
        let error = Error::new(operation, kind).on(members.map_or_else(|| self.me.get(), |members| members.me().get()));
        let Some(peer) = peer else { return error };
        let path = members.and_then(|members| self.paths[members.slot(peer).index()]);
        let error = error.with_peer(peer.get());
        match path {
            Some(path) => error.via(path),
            None => error,
        }
    }

    /// Why a communicator is of no more use.
    pub(crate) fn revocation(&mut self, communicator: u64, operation: Operation) -> Option<Error> {
        let failure = self.group.revocation(communicator)?;
        Some(self.error(communicator, operation, failure))
    }

    /// Ends a communicator for an error of one of its operations, on all of its ranks.
    pub(crate) fn abort(&mut self, communicator: u64, error: &Error) {
        let members = self.group.members(communicator);
        let peer = members.and_then(|members| members.rank(error.peer()?));
        let failure = Failure { kind: error.kind().clone(), peer };
        self.group.abort(communicator, &failure, &error.to_string());
    }

    /// Whether so many operations in a row never waited that others of the executor are due.
    fn is_turn_over(&mut self) -> bool {
        let over = self.turns >= TURNS_MAX;
        if over {
            self.turns = 0;
        }
        over
    }

    /// Tells the group's machine whether any byte has moved since it was last told.
    fn tell_moved(&mut self) {
        if self.moved != self.moved_told {
            self.moved_told = self.moved;
            self.group.moved(self.now);
        }
    }

    /// Lets an operation wait: for its peers, for time, and for word of the rendezvous.
    fn park<T>(&mut self, call: &mut Call, waker: &Waker) -> Poll<Result<T>> {
        self.common.add(call.id, waker);
        self.listings.set_waker(call.id, waker);
        let common = self.common_waker.clone();
        let mut cx = Context::from_waker(&common);
        self.tell_moved();
        let events = self.common.events();
        let is_quiet = events == self.common_events && !self.looks_at_control;
        (self.common_events, self.looks_at_control) = (events, false);
        if !is_quiet {
            self.poll_notices(&mut cx);
            self.poll_upgrade(&mut cx);
        }
        self.group.park(call.id, call.waits_for);
        loop {
            self.drain();
            if self.group.listens(call.id) || self.is_listener(call.id) {
                self.listen(Mode::Park(waker), call.id);
            }
            if self.run_due(Mode::Park(waker)) {
                if self.ended.contains_key(&call.id) {
                    // It is told at its next look, and waits for nothing any more.
                    self.to_wake.push(waker.clone());
                    return Poll::Pending;
                }
                continue;
            }
            self.check(call)?;
            let Some((at, _)) = self.group.poll_timeout() else { break };
            if is_quiet && self.timer.is_set(self.now, at) || !self.timer.poll_lazily(&mut cx, self.now, at) {
                break;
            }
            self.now = self.clock.now();
            self.group.handle_timeout(self.now);
            // Those that were woken for what came may be held and not be polled.
            for lane in self.lanes.iter().flatten() {
                lane.readers.nudge();
                lane.writers.nudge();
            }
        }
        // After all that adds something to be sent.
        let _ = self.poll_flush_lanes(Some((call.id, waker)));
        self.common.looked(events);
        Poll::Pending
    }

    /// Whether an operation that waits hears all peers: one does where there are others, which nobody may be polling.
    fn is_listener(&mut self, id: OpId) -> bool {
        if self.group.outstanding() < 2 && self.owed.is_empty() {
            return false;
        }
        // Whoever is polled at an event takes it over: the other one may be held and not be polled.
        if self.listener.is_none() || self.signal.is_set() {
            self.listener = Some(id);
        }
        self.listener == Some(id)
    }

    /// Carries out what the group's machine wants, and sends what is to be told.
    fn settle_outputs(&mut self) {
        self.drain();
        if !self.due.is_empty() {
            self.wake_another();
        }
        if self.notices_due {
            self.send_notices();
        }
    }

    /// Carries out what the group's machine wants.
    fn drain(&mut self) {
        while let Some(output) = self.group.poll_output() {
            match output {
                Output::Wake(id) => {
                    self.wake(id);
                    if !self.owed.is_empty() {
                        self.pay(id);
                    }
                }
                Output::Tell { peer, envelope, payload } => {
                    let lane = self.lanes[peer.index()].as_mut();
                    // A question that could not be sent needs no second one behind it.
                    let repeats = |lane: &&mut Lane| is_repeated(envelope.kind) && lane.channel.has_queued();
                    if let Some(lane) = lane.filter(|lane| !repeats(lane)) {
                        let before = if lane.channel.has_queued() { lane.told } else { 0 };
                        lane.told = before + (ENVELOPE_BYTES + payload.len()) as u64;
                        let reads = lane.told <= TOLD_BYTES_MAX;
                        lane.queue(&envelope, &payload);
                        self.notices_due |= envelope.kind == Kind::Revoke;
                        if lane.channel.poll_flush(Mode::Park(&lane.write_waker)).is_pending() {
                            // It goes when there is room: somebody must wait for that.
                            self.to_wake.extend(self.common.newest());
                        }
                        if !reads {
                            let kind = crate::ErrorKind::ConnectionLost("it asks, and reads no answers".into());
                            self.group.handle_input(self.now, Input::Broken { peer, kind });
                            self.close_lane(peer);
                        }
                    }
                }
                Output::Close(peer) => self.close_lane(peer),
                Output::Examine(peer) => {
                    let at = self.lanes[peer.index()].as_ref().and_then(|lane| lane.channel.heard_at());
                    self.group.handle_input(self.now, Input::Heard { peer, at });
                }
                Output::Warn { waits, .. } => tracing::warn!(rank = %self.me, "an operation has not ended: {waits}"),
                Output::Report(peer) => self.report(peer),
            }
        }
    }

    fn close_lane(&mut self, peer: Slot) {
        if let Some(lane) = self.lanes[peer.index()].take() {
            // After it nothing moves there: everybody who waits looks again.
            lane.wake_all();
            lane.behind_writer.into_iter().for_each(|id| self.wake(id));
            // Tasks may wait for it in any way.
            self.mark_all_due();
        }
    }

    // Communicators.

    pub(crate) fn open(&mut self, communicator: u64, members: crate::proto::rank::Members) {
        self.communicators += 1;
        self.group.open(communicator, members);
    }

    /// Ends a communicator that nobody holds any more.
    pub(crate) fn forget(&mut self, communicator: u64) {
        self.communicators = self.communicators.saturating_sub(1);
        self.plans.retain(|key, _| key.communicator != communicator);
        if self.owes(communicator) {
            // The last word goes behind what is still to be sent.
            self.closing.insert(communicator);
            return;
        }
        self.group.close(communicator);
    }

    /// The plan for `key`, made once.
    pub(crate) fn plan(&mut self, key: PlanKey, make: impl FnOnce() -> Plan) -> Arc<Plan> {
        if let Some(plan) = self.plans.get(&key) {
            return plan.clone();
        }
        if self.plans.len() >= PLANS_MAX {
            self.plans.pop_first();
        }
        let plan = Arc::new(make());
        self.plans.insert(key, plan.clone());
        plan
    }

    pub(crate) fn workspace(&mut self) -> Workspace {
        self.workspaces.pop().unwrap_or_default()
    }

    pub(crate) fn give_back(&mut self, workspace: Workspace) {
        if self.workspaces.len() < WORKSPACES_MAX && workspace.is_worth_keeping() {
            self.workspaces.push(workspace);
        }
    }
}

#[cfg(test)]
impl Engine {
    /// How many tasks are listed to be looked at.
    pub(crate) fn queued_work(&self) -> usize {
        self.due.len() + self.blocked.len()
    }

    /// How many operations are listed with sources.
    pub(crate) fn enlisted(&self) -> usize {
        let lanes = self.lanes.iter().flatten().map(|lane| lane.readers.len() + lane.writers.len());
        lanes.sum::<usize>()
            + self.common.len()
            + self.listings.len()
            + self.tasks.len()
            + self.ended.len()
            + self.copied
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.say_goodbye();
        self.flush_control();
    }
}

/// Whether a second one is of no use behind a first one that could not be sent.
fn is_repeated(kind: Kind) -> bool {
    matches!(kind, Kind::Inquiry | Kind::Answer)
}

/// Operations in a set, for the channel that they wait for.
type Turn = BTreeSet<OpId>;
