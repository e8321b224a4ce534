//! What the communicators of one group share: links, mailbox, and who waits for what.
//!
//! An operation is registered when it is called and leaves when it is done, or dropped. It makes progress
//! when its future is polled, and so do frames on its way: a frame that belongs to another operation is
//! left to that one if it is polled too, else put into the mailbox. A lock guards all of it; nothing waits
//! while holding it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::execute::{Plan, PlanKey, Workspace};
use crate::error::{Error, ErrorKind, Operation};
use crate::model::Fabric;
use crate::net::join::Control;
use crate::net::lifeline::Lifeline;
use crate::net::link::{Attempt, Link, Owner, Told};
use crate::net::upgrade::Upgrade;
use crate::net::{Clock, Timer};
use crate::proto::frame::{Envelope, Kind};
use crate::proto::mailbox::{Mailbox, Pattern};
use crate::proto::notice::Notice;
use crate::proto::rendezvous::{ClientMessage, ServerMessage, SessionId};
use crate::time::Instant;

/// What the configuration says of operations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) deadline: Duration,
    pub(super) cause_wait: Duration,
    pub(super) frame_bytes_max: u64,
}

/// Signatures of past collectives that a communicator remembers, to answer who asks about them.
const HISTORY_MAX: usize = 64;
/// Plans that are kept for further calls of the same kind.
const PLANS_MAX: usize = 64;
/// Workspaces that are kept, and the longest that is.
const WORKSPACES_MAX: usize = 8;
/// After so many operations in a row that never waited, the executor gets a turn.
const TURNS_MAX: u32 = 256;

/// An operation that has been called and is not over.
#[derive(Debug)]
pub(super) struct Posted {
    pub(super) id: u64,
    pub(super) communicator: u64,
    pub(super) what: What,
    pub(super) waker: Option<Waker>,
}

#[derive(Debug)]
pub(super) enum What {
    Collective(Envelope),
    /// A receive, and who sends what it has been matched with.
    Receive(Pattern, Option<(u32, Envelope)>),
    /// A send to a rank of the group; whether its frame is begun.
    Send(u32, bool),
}

/// One communicator.
#[derive(Debug)]
pub(super) struct State {
    pub(super) epoch: u32,
    /// Collectives called so far.
    pub(super) collectives: u64,
    /// Numbers of those that have a place and have not begun.
    reserved: BTreeSet<u64>,
    /// Ranks of the whole group, by rank of this communicator; empty if they are the same.
    pub(super) members: Arc<[u32]>,
    history: VecDeque<Envelope>,
    /// What peers said they wait in, beyond what has been called here.
    expected: BTreeMap<u32, Envelope>,
    pub(super) revoked: Option<Revoked>,
}

/// Why a communicator is of no more use.
#[derive(Clone, Debug)]
pub(super) struct Revoked {
    kind: ErrorKind,
    peer: Option<u32>,
    /// In later errors.
    text: String,
    told: bool,
}

impl State {
    pub(super) fn new(members: Arc<[u32]>) -> Self {
        Self {
            epoch: 0,
            collectives: 0,
            reserved: BTreeSet::new(),
            members,
            history: VecDeque::with_capacity(HISTORY_MAX),
            expected: BTreeMap::new(),
            revoked: None,
        }
    }

    /// Whether the collective with this number has begun here.
    pub(super) fn has_begun(&self, sequence: u64) -> bool {
        sequence < self.collectives && !self.reserved.contains(&sequence)
    }

    /// The rank here of a rank of the whole group.
    pub(super) fn local(&self, world: u32) -> Option<u32> {
        if self.members.is_empty() {
            return Some(world);
        }
        self.members.iter().zip(0..).find(|(member, _)| **member == world).map(|(_, rank)| rank)
    }
}

pub(super) struct Core {
    pub(super) rank: u32,
    pub(super) size: u32,
    pub(super) links: Vec<Option<Link>>,
    /// Why links are gone that once stood.
    pub(super) broken: BTreeMap<u32, String>,
    pub(super) control: Option<Control>,
    upgrade: Option<Box<dyn Upgrade>>,
    lifeline: Option<Box<dyn Lifeline>>,
    session: SessionId,
    pub(super) formed: bool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: Limits,
    pub(super) mailbox: Mailbox,
    pub(super) posted: Vec<Posted>,
    next_id: u64,
    pub(super) communicators: BTreeMap<u64, State>,
    pub(super) sent: BTreeMap<(u64, u32), u64>,
    /// Whom a receive from any source served last.
    pub(super) served: u32,
    pub(super) lost: BTreeSet<u32>,
    dissolved: bool,
    /// Whether word of a failure is queued.
    notices_due: bool,
    timer: Timer,
    pub(super) to_wake: Vec<Waker>,
    plans: BTreeMap<PlanKey, Arc<Plan>>,
    workspaces: Vec<Workspace>,
    pub(super) fabric: Fabric,
    pub(super) sparse: bool,
    pub(super) algorithms: BTreeMap<crate::schedule::Collective, crate::schedule::Algorithm>,
    /// How often groups were made of equal members, so that each gets an identity of its own.
    pub(super) created: BTreeMap<u64, u64>,
    pub(super) spin: super::spin::Spin,
    /// Wakes all operations that wait.
    pub(super) fan_waker: Waker,
    fan: Arc<FanOut>,
    turns: u32,
    /// Bytes moved; who yields goes on while it grows.
    pub(super) moved: u64,
}

/// Wakes all that wait, whichever of them polled last.
#[derive(Debug, Default)]
struct FanOut(Mutex<Vec<Waker>>);

impl FanOut {
    fn add(&self, waker: &Waker) {
        let mut wakers = lock(&self.0);
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }
}

impl Wake for FanOut {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let wakers = std::mem::take(&mut *lock(&self.0));
        wakers.into_iter().for_each(Waker::wake);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left behind is still a group that can be left.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A core that several communicators and operations use.
pub(super) struct Shared {
    core: Mutex<Core>,
    pub(super) clock: Arc<dyn Clock>,
    fan: Arc<FanOut>,
    fan_waker: Waker,
}

impl Shared {
    pub(super) fn new(core: Core) -> Arc<Self> {
        let (clock, fan, fan_waker) = (core.clock.clone(), core.fan.clone(), core.fan_waker.clone());
        Arc::new(Self { clock, core: Mutex::new(core), fan_waker, fan })
    }

    /// Uses the core. Whoever is to be woken is woken afterwards: a waker may drop an operation, which locks.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = lock(&self.core);
        let value = work(&mut core);
        if core.to_wake.is_empty() {
            return value;
        }
        let wakers = std::mem::take(&mut core.to_wake);
        drop(core);
        wakers.into_iter().for_each(Waker::wake);
        value
    }

    /// Polls an operation: tries, yields the processor for a while if that may help, and parks.
    pub(super) fn drive<T>(
        &self,
        cx: &mut Context<'_>,
        call: &mut super::call::Call,
        mut advance: impl FnMut(&mut Core, &mut super::call::Call, Attempt<'_>) -> Poll<crate::Result<T>>,
    ) -> Poll<crate::Result<T>> {
        let begun = self.with(|core| {
            if core.is_turn_over() {
                return None;
            }
            // Where several wait, each lets the others go on rather than yield.
            let budget = if core.posted.len() > 1 { None } else { core.spin.budget() };
            Some((budget, core.moved))
        });
        let Some((budget, mut moved)) = begun else {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        if let Some(budget) = budget {
            let began = self.clock.now();
            let mut end = began + budget;
            loop {
                let (poll, now_moved) = self.with(|core| (advance(core, call, Attempt::Try), core.moved));
                if poll.is_ready() {
                    self.with(|core| {
                        core.turns += 1;
                        core.spin.hit(core.clock.now() - began);
                    });
                    return poll;
                }
                let now = self.clock.now();
                if now_moved != moved {
                    (moved, end) = (now_moved, now + budget);
                } else if now >= end {
                    self.with(|core| core.spin.miss());
                    break;
                }
                if !self.clock.yields() {
                    break;
                }
            }
        }
        self.with(|core| {
            let waker = if core.posted.len() > 1 {
                self.fan.add(cx.waker());
                core.posted.iter().filter_map(|posted| posted.waker.as_ref()).for_each(|waker| self.fan.add(waker));
                &self.fan_waker
            } else {
                cx.waker()
            };
            let poll = match advance(core, call, Attempt::Park(waker)) {
                Poll::Pending => core.poll_trouble(&mut Context::from_waker(waker), call),
                ready => ready,
            };
            if poll.is_pending() {
                core.turns = 0;
                core.remember_waker(call.id, cx.waker());
            } else {
                core.turns += 1;
            }
            poll
        })
    }
}

impl Core {
    pub(super) fn new(config: &crate::Config, clock: Arc<dyn Clock>, parts: super::Parts) -> Self {
        let limits = Limits {
            deadline: config.operation_deadline,
            cause_wait: config.cause_wait,
            frame_bytes_max: config.frame_bytes_max,
        };
        let fan = Arc::new(FanOut::default());
        Self {
            rank: config.rank,
            size: config.size,
            links: parts.links,
            fan_waker: fan.clone().into(),
            fan,
            broken: BTreeMap::new(),
            control: parts.control,
            upgrade: parts.upgrade,
            lifeline: parts.lifeline,
            session: parts.session,
            formed: false,
            timer: Timer::new(clock.clone()),
            clock,
            limits,
            mailbox: Mailbox::new(config.mailbox_bytes_max),
            posted: Vec::new(),
            next_id: 0,
            communicators: BTreeMap::from([(0, State::new(Arc::new([])))]),
            sent: BTreeMap::new(),
            served: config.rank,
            lost: BTreeSet::new(),
            dissolved: false,
            notices_due: false,
            to_wake: Vec::new(),
            plans: BTreeMap::new(),
            workspaces: Vec::new(),
            fabric: Fabric::region(),
            sparse: config.peers == crate::Peers::Collectives,
            algorithms: config.algorithms.clone(),
            created: BTreeMap::new(),
            spin: super::spin::Spin::new(config.spin),
            turns: 0,
            moved: 0,
        }
    }

    /// Ends a communicator that nobody holds any more.
    pub(super) fn forget(&mut self, communicator: u64) {
        self.communicators.remove(&communicator);
        self.plans.retain(|key, _| key.communicator != communicator);
        self.mailbox.forget(communicator);
        self.sent.retain(|(of, _), _| *of != communicator);
    }

    /// Registers an operation.
    pub(super) fn post(&mut self, communicator: u64, what: What) -> u64 {
        self.next_id += 1;
        self.posted.push(Posted { id: self.next_id, communicator, what, waker: None });
        self.next_id
    }

    pub(super) fn posted(&mut self, id: u64) -> Option<&mut Posted> {
        self.posted.iter_mut().find(|posted| posted.id == id)
    }

    /// Ends an operation: others that waited behind it look again.
    pub(super) fn retire(&mut self, id: u64) {
        self.posted.retain(|posted| posted.id != id);
        self.wake_others(id);
        for body in self.links.iter_mut().flatten().filter_map(|link| link.body.as_mut()) {
            if matches!(body.owner, Owner::Operation { id: owner, .. } if owner == id) {
                body.owner = Owner::Discarded;
            }
        }
        if self.notices_due {
            self.send_notices();
        }
    }

    /// Wakes all operations but `id`.
    pub(super) fn wake_others(&mut self, id: u64) {
        if self.posted.len() > 1 || self.posted.first().is_some_and(|posted| posted.id != id) {
            let others = self.posted.iter_mut().filter(|posted| posted.id != id);
            self.to_wake.extend(others.filter_map(|posted| posted.waker.clone()));
        }
    }

    pub(super) fn wake(&mut self, id: u64) {
        let waker = self.posted(id).and_then(|posted| posted.waker.clone());
        self.to_wake.extend(waker);
    }

    fn remember_waker(&mut self, id: u64, waker: &Waker) {
        if let Some(posted) = self.posted(id)
            && posted.waker.as_ref().is_none_or(|known| !known.will_wake(waker))
        {
            posted.waker = Some(waker.clone());
        }
    }

    /// Whether so many operations in a row never waited that others of the executor are due.
    pub(super) fn is_turn_over(&mut self) -> bool {
        let over = self.turns >= TURNS_MAX;
        if over {
            self.turns = 0;
        }
        over
    }

    pub(super) fn state(&mut self, communicator: u64) -> &mut State {
        self.communicators.get_mut(&communicator).expect("a communicator lives as long as its operations")
    }

    /// Takes a number for a collective, and remembers what it is.
    pub(super) fn number(&mut self, communicator: u64) -> u64 {
        let state = self.state(communicator);
        state.collectives += 1;
        state.collectives - 1
    }

    /// Takes a number for a collective that begins later.
    pub(super) fn reserve(&mut self, communicator: u64) -> u64 {
        let number = self.number(communicator);
        self.state(communicator).reserved.insert(number);
        number
    }

    /// Remembers a collective, to tell who asks.
    pub(super) fn note(&mut self, signature: &Envelope) {
        let state = self.state(signature.communicator);
        state.reserved.remove(&signature.sequence);
        if state.history.len() == HISTORY_MAX {
            state.history.pop_front();
        }
        state.history.push_back(*signature);
    }

    /// What was called here under the number of `theirs`, if that is known.
    pub(super) fn called(&self, theirs: &Envelope) -> Option<Envelope> {
        let state = self.communicators.get(&theirs.communicator)?;
        state.history.iter().find(|known| known.sequence == theirs.sequence).copied()
    }

    /// Takes what a peer says it waits in. An error if this rank calls something else under that number.
    pub(super) fn inquired(&mut self, peer: u32, theirs: Envelope) {
        if let Some(mine) = self.called(&theirs) {
            if mine.signature() != theirs.signature() {
                self.disagree(peer, mine, theirs);
            }
        } else if let Some(state) = self.communicators.get_mut(&theirs.communicator)
            && !state.has_begun(theirs.sequence)
        {
            state.expected.insert(peer, theirs);
        }
    }

    /// What a peer expects of the collective of `mine`, if it is something else.
    pub(super) fn expectation(&mut self, mine: &Envelope) -> Option<(u32, Envelope)> {
        let state = self.communicators.get_mut(&mine.communicator)?;
        state.expected.retain(|_, theirs| theirs.sequence >= mine.sequence);
        let differs = |theirs: &&Envelope| theirs.sequence == mine.sequence && theirs.signature() != mine.signature();
        state.expected.iter().find(|(_, theirs)| differs(theirs)).map(|(peer, theirs)| (*peer, *theirs))
    }

    /// Two ranks call different things: ends the communicator, on all of its ranks.
    pub(super) fn disagree(&mut self, peer: u32, mine: Envelope, theirs: Envelope) {
        let communicator = mine.communicator;
        let Some(state) = self.communicators.get(&communicator) else { return };
        let Some(other) = state.local(peer) else { return };
        let rank = state.local(self.rank).expect("this rank is a member");
        let notice = Notice::Mismatch { rank, called: mine, other, other_called: theirs };
        let kind = ErrorKind::Mismatch { mine: mine.to_string(), theirs: theirs.to_string() };
        self.revoke(communicator, kind, Some(other), notice.to_string());
        self.tell(communicator, &notice);
    }

    /// Ends a communicator here.
    pub(super) fn revoke(&mut self, communicator: u64, kind: ErrorKind, peer: Option<u32>, text: String) {
        let Some(state) = self.communicators.get_mut(&communicator) else { return };
        if state.revoked.is_none() {
            state.revoked = Some(Revoked { kind, peer, text, told: false });
            let concerned = self.posted.iter().filter(|posted| posted.communicator == communicator);
            self.to_wake.extend(concerned.filter_map(|posted| posted.waker.clone()));
        }
    }

    /// Takes word of another rank that a communicator has failed.
    pub(super) fn revoked_by(&mut self, peer: u32, communicator: u64, notice: Notice) {
        let Some(state) = self.communicators.get(&communicator) else { return };
        let me = state.local(self.rank);
        let (kind, concerned) = match &notice {
            Notice::Mismatch { rank, called, other, other_called } if Some(*other) == me => {
                (ErrorKind::Mismatch { mine: other_called.to_string(), theirs: called.to_string() }, Some(*rank))
            }
            Notice::Lost { rank, how } if Some(*rank) != me => (ErrorKind::PeerLost(how.clone()), Some(*rank)),
            Notice::Lost { .. } | Notice::Mismatch { .. } | Notice::Failed { .. } => {
                (ErrorKind::Revoked(notice.to_string()), state.local(peer))
            }
        };
        self.revoke(communicator, kind, concerned, notice.to_string());
    }

    /// Tells the other ranks of a communicator why it has failed. A rank that cannot be told at once finds its
    /// connection closed, unless other communicators use it.
    pub(super) fn tell(&mut self, communicator: u64, notice: &Notice) {
        let payload = notice.emit();
        let envelope = Envelope { communicator, length: payload.len() as u64, ..Envelope::new(Kind::Revoke) };
        let Some(state) = self.communicators.get(&communicator) else { return };
        let members = state.members.clone();
        let all: Vec<u32> = if members.is_empty() { (0..self.size).collect() } else { members.to_vec() };
        for peer in all {
            if let Some(link) = self.links[peer as usize].as_mut() {
                link.queue(&envelope, &payload);
            }
        }
        self.notices_due = true;
    }

    /// Sends word of failures, once no frame that is partly sent is in its way.
    fn send_notices(&mut self) {
        self.notices_due = false;
        let is_only = self.communicators.len() == 1;
        for peer in 0..self.size {
            let Some(link) = self.links[peer as usize].as_mut().filter(|link| link.has_queued()) else { continue };
            if link.poll_flush(Attempt::Park(&self.fan_waker)).is_ready() {
                continue;
            }
            if link.writing.is_some() {
                self.notices_due = true;
            } else if is_only {
                self.close(peer, "it could not be told of a failure here");
            }
        }
    }

    /// Ends a connection.
    pub(super) fn close(&mut self, peer: u32, why: &str) {
        if self.links[peer as usize].take().is_some() {
            self.broken.insert(peer, why.to_owned());
        }
    }

    /// The error of a communicator that has failed.
    pub(super) fn revocation(&mut self, communicator: u64, operation: Operation) -> Option<Error> {
        let rank = self.rank;
        let state = self.communicators.get_mut(&communicator)?;
        let revoked = state.revoked.as_mut()?;
        let kind = if revoked.told { ErrorKind::Revoked(revoked.text.clone()) } else { revoked.kind.clone() };
        let peer = if revoked.told { None } else { revoked.peer };
        revoked.told = true;
        let rank = state.local(rank).unwrap_or(rank);
        let error = Error::new(operation, kind).on(rank);
        Some(match peer {
            Some(peer) => error.with_peer(peer),
            None => error,
        })
    }

    /// Marks that an operation has seen the failure of its communicator.
    pub(super) fn mark_told(&mut self, communicator: u64) {
        if let Some(revoked) = self.communicators.get_mut(&communicator).and_then(|state| state.revoked.as_mut()) {
            revoked.told = true;
        }
    }

    /// The plan for `key`, made once.
    pub(super) fn plan(&mut self, key: PlanKey, make: impl FnOnce() -> Plan) -> Arc<Plan> {
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

    pub(super) fn workspace(&mut self) -> Workspace {
        self.workspaces.pop().unwrap_or_default()
    }

    pub(super) fn give_back(&mut self, workspace: Workspace) {
        if self.workspaces.len() < WORKSPACES_MAX && workspace.is_worth_keeping() {
            self.workspaces.push(workspace);
        }
    }

    /// Tells the owner of a frame that another operation waits behind it. False if it has been told in vain.
    pub(super) fn tell_owner(&mut self, peer: u32) -> bool {
        let Some(body) = self.links[peer as usize].as_mut().and_then(|link| link.body.as_mut()) else { return true };
        let Owner::Operation { id, told } = &mut body.owner else { return false };
        let id = *id;
        match *told {
            Told::No => {
                *told = Told::Yes;
                self.wake(id);
                true
            }
            Told::Yes => false,
            Told::Attends => true,
        }
    }

    /// What was told counts no longer: an owner that does not answer again is passed by.
    pub(super) fn retell_owners(&mut self) {
        for body in self.links.iter_mut().flatten().filter_map(|link| link.body.as_mut()) {
            if let Owner::Operation { told, .. } = &mut body.owner {
                *told = Told::No;
            }
        }
    }

    /// Whether `at` has come, by the timer that all operations share.
    pub(super) fn poll_timer(&mut self, cx: &mut Context<'_>, at: Instant) -> bool {
        self.timer.poll_lazily(cx, at)
    }

    pub(super) fn is_dissolved(&self) -> bool {
        self.dissolved && !self.formed
    }

    pub(super) fn say_goodbye(&mut self) {
        if let Some(control) = &mut self.control
            && self.formed
        {
            control.queue(&ClientMessage::Leave(self.session).emit());
            self.formed = false;
        }
    }

    pub(super) fn mark_formed(&mut self) {
        self.formed = true;
        self.links.iter().flatten().for_each(Link::settle);
        if let Some(control) = &mut self.control {
            control.queue(&ClientMessage::Formed(self.session).emit());
        }
        self.flush_control();
    }

    /// Sends what the control channel takes without waiting.
    pub(super) fn flush_control(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        if let Some(control) = &mut self.control
            && let Poll::Ready(Err(_)) = control.poll_flush(&mut cx)
        {
            self.control = None;
        }
    }

    /// Sends what is queued on all links; ready when nothing is left.
    pub(super) fn poll_flush_links(&mut self, attempt: Attempt<'_>) -> Poll<()> {
        let mut left = false;
        for link in self.links.iter_mut().flatten().filter(|link| link.has_queued()) {
            // A broken link shows at its next use.
            left |= link.poll_flush(attempt).is_pending();
        }
        if left { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Takes notices from the rendezvous; without one the group goes on.
    pub(super) fn poll_notices(&mut self, cx: &mut Context<'_>) {
        if self.control.is_none()
            && self.formed
            && let Some(lifeline) = &mut self.lifeline
            && let Poll::Ready(control) = lifeline.poll(cx)
        {
            self.control = Some(control);
        }
        while let Some(control) = &mut self.control {
            let flushed = control.poll_flush(cx);
            match control.poll_receive(cx, ServerMessage::parse) {
                // A rank that there is not is somebody's joke.
                Poll::Ready(Ok(ServerMessage::Lost { session, rank })) if session == self.session => {
                    self.lost.extend((rank < self.size).then_some(rank));
                }
                Poll::Ready(Ok(ServerMessage::Dissolved(session))) if session == self.session => {
                    self.dissolved = true;
                    self.control = None;
                }
                Poll::Ready(Ok(ServerMessage::Probe)) => control.queue(&ClientMessage::Ping.emit()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => self.control = None,
                Poll::Pending => {
                    if matches!(flushed, Poll::Ready(Err(_))) {
                        self.control = None;
                    }
                    return;
                }
            }
        }
    }

    /// Looks for direct connections in place of relayed ones.
    pub(super) fn poll_upgrade(&mut self, cx: &mut Context<'_>) {
        while let Some(upgrade) = self.upgrade.as_mut().filter(|_| self.formed) {
            let Poll::Ready((peer, better)) = upgrade.poll(cx) else { return };
            tracing::info!(rank = self.rank, peer, technique = %better.info().technique, "no longer relayed");
            better.settle();
            if let Some(link) = self.links.get_mut(peer as usize).and_then(Option::as_mut) {
                link.switch_to(better);
                // Who waits for the peer's next frame may find it there.
                cx.waker().wake_by_ref();
            }
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.say_goodbye();
        self.flush_control();
    }
}
