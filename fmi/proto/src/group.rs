//! What a group's operations mean to each other: which are posted, which of them owns a frame that comes, who
//! disagrees with whom, what is lost, and why an operation fails. Pure: it moves no byte and reads no clock.
//!
//! A driver posts operations and tells what happens on the connections ([`Input`]); the machine says to whom a
//! frame belongs ([`Group::route`]), which operations to wake, and what to tell peers ([`Output`]).
//!
//! # Rules
//! - **An operation has its place from its call.** Among receives that fit a message the one called first gets
//!   it; among messages of one peer that fit a receive, the oldest is taken.
//! - **A frame whose owner does not come is put aside.** An operation that needs what is behind a long frame of
//!   another operation lets its owner go first, once; if the owner has read nothing of it by the next look, the
//!   bytes that are there go to the mailbox, which is bounded. Short frames go there at once. So no timer is
//!   needed for progress.
//! - **Frames that belong to nobody yet** wait in the mailbox, or where they are if it is full.
//! - **A failure is told once.** Every operation of a communicator that fails reports the cause; calls after that
//!   report that it was revoked.
//! - **A failed operation has no place.** A message that comes after it failed goes to the next one that fits.
//! - **A rank that leaves says so**, behind everything it has sent: what waits for it ends then.
//! - **A busy rank is not a dead rank.** An operation without a deadline waits as long as its peers show signs of life;
//!   after a while it says who waits for whom. It ends when a connection that it needs breaks, or when ranks evidently
//!   wait for each other (`words`).
//! - **A working connection is evidence of life.** Bad news of a peer is not believed before its connection has been
//!   tried (`loss`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use self::context::Context;
use self::long::Holder;
use self::loss::Doubt;
use self::operation::{Op, Operations};
use super::frame::Envelope;
use super::mailbox::{Mailbox, Pattern, Place, Stored};
use super::rank::{Members, Rank, Slot};
use crate::answer::Wait;
use crate::error::ErrorKind;
use fmi_net::time::Instant;

mod context;
mod failure;
mod long;
mod loss;
mod matching;
mod operation;
#[doc(hidden)]
pub mod script;
mod sending;
mod synchronous;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use context::persistent_run;
pub use loss::TRIED_FOR;
pub use operation::{Failure, Matched, OpId, Table, WaitsFor, What};

/// After this long without an end, an operation asks those that it waits for what they do. Longer than an
/// ordinary difference between ranks, so that groups which work well never ask.
const ASKS_AFTER: Duration = Duration::from_secs(1);
/// After this long without an end, an operation says who waits for whom, and again when it has waited twice as long.
const WARNS_AFTER: Duration = Duration::from_secs(30);
/// Frames up to this long are put aside at once: copying them costs less than asking their owner.
const SHORT_BYTES: u64 = 4 << 10;
/// Identities of ended communicators that are remembered, so that frames which are late for them are dropped.
const ENDED_MAX: usize = 4096;

/// The limits that apply.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Time for each operation; as long as it takes if `None`.
    pub deadline: Option<Duration>,
    /// How long the first cause of a broken connection is waited for.
    pub cause_wait: Duration,
    /// Length up to which a message, or a step of a collective, is sent unasked; of a longer one this much is.
    pub eager_bytes_max: u64,
    /// Memory for frames that nobody has asked for.
    pub mailbox_bytes_max: u64,
}

impl Limits {
    /// These limits.
    pub fn new(deadline: Option<Duration>, cause_wait: Duration, eager_bytes_max: u64, mailbox_bytes_max: u64) -> Self {
        Self { deadline, cause_wait, eager_bytes_max, mailbox_bytes_max }
    }
}

/// What happens.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input {
    /// The envelope of the next frame has come from a peer; its payload is at hand.
    Head {
        /// The peer.
        peer: Slot,
        /// The envelope.
        envelope: Envelope,
    },
    /// Its owner has read some of the frame at hand.
    Progressed(Slot),
    /// The frame at hand has been read whole, or dropped.
    Consumed(Slot),
    /// What its owner had not read of the frame at hand has been put aside.
    Stored {
        /// The peer.
        peer: Slot,
        /// The rest of the payload.
        payload: Vec<u8>,
    },
    /// A control frame has been read.
    Control {
        /// The peer.
        peer: Slot,
        /// Its payload.
        payload: Vec<u8>,
    },
    /// The connection to a peer ended.
    Broken {
        /// The peer.
        peer: Slot,
        /// What was seen of it.
        kind: ErrorKind,
    },
    /// The rendezvous says that a process is gone. If it names this one, it has told the others that.
    Lost(Slot),
    /// The rendezvous says that a process left after an error.
    Failed(Slot),
    /// A peer says, by the rendezvous, that its connection to this process broke.
    Severed(Slot),
    /// The rendezvous was out of reach for a while: connections may have broken as well.
    Returned,
    /// When the kernel of a peer last answered anything, if that is known: what [`Output::Examine`] asks for.
    Heard {
        /// The peer.
        peer: Slot,
        /// When.
        at: Option<Instant>,
    },
    /// The rendezvous ended the session before the group had formed.
    Dissolved,
    /// Whether word of the first cause of a failure can come: there is a rendezvous, and the group has formed.
    Hears(bool),
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Something has changed for an operation.
    Wake(OpId),
    /// A control frame for a peer.
    Tell {
        /// The peer.
        peer: Slot,
        /// Its envelope.
        envelope: Envelope,
        /// Its payload.
        payload: Vec<u8>,
    },
    /// Nothing more can be understood of this peer: its connection is to be closed.
    Close(Slot),
    /// To be answered by [`Input::Heard`].
    Examine(Slot),
    /// An operation has waited for long.
    Warn {
        /// The operation.
        id: OpId,
        /// Who waits for whom.
        waits: String,
    },
    /// The rendezvous is to be told that the connection to this peer broke, as the peer may not know.
    Report(Slot),
}

/// What is at the front of a peer's stream, for an operation that wants a frame of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// No frame: the next envelope is to be read.
    Head,
    /// A frame of the operation that asks, which reads it.
    Mine,
    /// A control frame, to be read whole.
    Control,
    /// A frame that nobody wants, to be dropped.
    Discard,
    /// A frame to be put aside; room for it is reserved.
    Store,
    /// A frame that was just offered to its owner: the operation that asks looks again after it.
    Offered,
    /// A frame whose owner, which is named, reads it whatever is polled: the operation that asks is woken behind it.
    Driven(OpId),
    /// A frame for which there is no room: the operation is woken when there may be.
    Full,
}

/// The connection to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Link {
    /// There was none from the beginning.
    None,
    Up,
    Broken(ErrorKind),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Nobody,
    Operation(OpId),
    Control,
    Discarded,
}

/// A frame whose payload is being read.
#[derive(Debug)]
struct AtHand {
    envelope: Envelope,
    owner: Owner,
    /// Payload bytes for which the mailbox has set room aside.
    reserved: Option<u64>,
    /// Whose turn it is: the owner's, for everybody who has not waited since this number.
    turn: u64,
    /// Whether a message begins here, as far as it has not been taken.
    is_first: bool,
    /// The end of this frame in its message.
    end: u64,
}

#[derive(Debug)]
struct Peer {
    link: Link,
    at_hand: Option<AtHand>,
    /// Operations that wait for the frame at hand to be gone.
    behind: BTreeSet<OpId>,
    /// Sends that have not begun, in the order of the calls; some may have ended.
    sends: VecDeque<OpId>,
    /// How many of its messages are begun and not whole.
    rests: usize,
    /// When its connection was last tried.
    tried_at: Instant,
    /// Whether it has left any communicator.
    has_left: bool,
    /// When it was asked, as far as that matters, and what it last said.
    questions: VecDeque<Instant>,
    word: Option<(Instant, Vec<Wait>)>,
}

/// All operations of one process in its group.
#[derive(Debug)]
pub struct Group {
    me: Slot,
    limits: Limits,
    contexts: BTreeMap<u64, Context>,
    ended: (VecDeque<u64>, BTreeSet<u64>),
    operations: Operations,
    /// Receives without a message.
    receives: BTreeSet<(Pattern, OpId)>,
    collectives: BTreeMap<(u64, u64), OpId>,
    /// Synchronous sends, by communicator, receiver and number.
    unmatched: BTreeMap<(u64, Slot, u64), OpId>,
    peers: Vec<Peer>,
    /// Peers whose frame at hand is a message that belongs to nobody.
    unclaimed: BTreeSet<Slot>,
    mailbox: Mailbox,
    /// Messages of which more is to come.
    rests: BTreeMap<long::Key, long::Rest>,
    /// Those among them for which there was no room.
    uninvited: BTreeSet<long::Key>,
    /// Payload bytes of the mailbox that are set aside for them.
    reserved: u64,
    /// Sends that wait for the receiver to have a place, by their message and its receiver.
    promises: BTreeMap<long::Key, OpId>,
    /// Memory for who takes part in collectives.
    spare_ready: Vec<Vec<Slot>>,
    /// Operations that wait for room in the mailbox.
    cramped: BTreeSet<OpId>,
    /// The peer that a receive from any source looks at first.
    turn: u32,
    lost: BTreeMap<Slot, Instant>,
    /// Ranks that left communicators that are not open here yet.
    early_left: BTreeMap<u64, BTreeMap<Slot, String>>,
    /// Peers whose connections are being tried, and why.
    doubts: BTreeMap<Slot, Doubt>,
    /// Ranks that failed, which ends nothing until it is known who is lost.
    failed: BTreeSet<Slot>,
    /// The latest time that was told.
    seen: Instant,
    /// When the rendezvous was last out of reach.
    returned_at: Instant,
    /// When a byte of an operation last moved.
    moved_at: Instant,
    /// The last failure that an operation of this process reported.
    last_failure: Option<String>,
    dissolved: bool,
    hears: bool,
    timers: BinaryHeap<Reverse<(Instant, OpId)>>,
    turns: u64,
    /// The operation that asked last for a route: it is at work, and need not be woken.
    asking: Option<OpId>,
    outputs: VecDeque<Output>,
}

impl Group {
    /// The group of process `me`, with connections to the peers for which `connected` holds.
    pub fn new(me: Slot, size: u32, limits: Limits, connected: impl Fn(Slot) -> bool) -> Self {
        let peer = |slot| Peer {
            link: if connected(slot) { Link::Up } else { Link::None },
            at_hand: None,
            behind: BTreeSet::new(),
            sends: VecDeque::new(),
            rests: 0,
            tried_at: Instant::ZERO,
            has_left: false,
            questions: VecDeque::new(),
            word: None,
        };
        Self {
            me,
            limits,
            contexts: BTreeMap::from([(0, Context::new(Members::whole(me.get(), size)))]),
            ended: (VecDeque::new(), BTreeSet::new()),
            operations: Operations::default(),
            receives: BTreeSet::new(),
            collectives: BTreeMap::new(),
            unmatched: BTreeMap::new(),
            peers: Slot::all(size).map(peer).collect(),
            unclaimed: BTreeSet::new(),
            mailbox: Mailbox::new(limits.mailbox_bytes_max),
            rests: BTreeMap::new(),
            uninvited: BTreeSet::new(),
            reserved: 0,
            promises: BTreeMap::new(),
            spare_ready: Vec::new(),
            cramped: BTreeSet::new(),
            turn: 0,
            lost: BTreeMap::new(),
            early_left: BTreeMap::new(),
            doubts: BTreeMap::new(),
            failed: BTreeSet::new(),
            seen: Instant::ZERO,
            returned_at: Instant::ZERO,
            moved_at: Instant::ZERO,
            last_failure: None,
            dissolved: false,
            hears: false,
            timers: BinaryHeap::new(),
            turns: 0,
            asking: None,
            outputs: VecDeque::new(),
        }
    }

    /// This process.
    #[inline]
    pub fn me(&self) -> Slot {
        self.me
    }

    /// The limits.
    #[inline]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Sets the time for operations that are called from now on.
    pub fn set_deadline(&mut self, deadline: Option<Duration>) {
        self.limits.deadline = deadline;
    }

    /// An identity that is no operation's.
    pub fn visitor(&mut self) -> OpId {
        self.operations.visitor()
    }

    /// Operations that have been called and have not ended.
    #[inline]
    pub fn outstanding(&self) -> usize {
        self.operations.len()
    }

    /// Takes what happened.
    #[inline]
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        self.seen = self.seen.max(now);
        match input {
            Input::Head { peer, envelope } => self.head(peer, envelope),
            Input::Progressed(peer) => self.progressed(peer),
            Input::Consumed(peer) => self.consumed(peer),
            Input::Stored { peer, payload } => self.stored(peer, payload),
            Input::Control { peer, payload } => self.control(peer, &payload),
            Input::Broken { peer, kind } => self.broken(peer, kind),
            Input::Lost(slot) => self.told_lost(slot),
            Input::Failed(slot) => self.told_failed(slot),
            Input::Severed(slot) => self.severed(slot),
            Input::Returned => self.returned(),
            Input::Heard { peer, at } => self.examined(peer, at),
            Input::Dissolved => self.dissolve(),
            Input::Hears(hears) => self.hears = hears,
        }
    }

    /// What to do next; drained after each call that changes anything.
    #[inline]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    // Communicators.

    /// Adds a communicator. Frames for it may have come before; a peer that sent some and is no member is refused.
    pub fn open(&mut self, communicator: u64, members: Members) {
        let is_stranger = |slot: &Slot| members.rank_of(*slot).is_none();
        let at_hand = |slot: &Slot| self.at_hand(*slot).is_some_and(|frame| frame.communicator == communicator);
        let mut strangers: Vec<Slot> = self.slots().filter(is_stranger).filter(at_hand).collect();
        strangers.extend(self.mailbox.drop_from(communicator, is_stranger));
        let mut context = Context::new(members);
        context.left = self.early_left.remove(&communicator).unwrap_or_default();
        self.contexts.insert(communicator, context);
        self.room_was_made();
        for slot in strangers {
            self.drop_rests_of(slot);
            self.refuse(slot, matching::stranger(communicator));
        }
    }

    /// Ends a communicator: what is left of it is dropped, and what still comes for it. Its other ranks are told.
    pub fn close(&mut self, communicator: u64) {
        self.say_goodbye(communicator, |_| true);
        self.contexts.remove(&communicator);
        self.drop_rests_in(communicator);
        self.mailbox.forget(communicator);
        let (order, known) = &mut self.ended;
        if known.insert(communicator) {
            order.push_back(communicator);
        }
        if order.len() > ENDED_MAX
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
        self.discard_unclaimed(communicator);
        self.room_was_made();
    }

    /// Drops frames at hand of a communicator that belong to nobody.
    fn discard_unclaimed(&mut self, communicator: u64) {
        let of = |frame: &AtHand| frame.envelope.communicator == communicator && frame.owner == Owner::Nobody;
        for slot in self.slots() {
            if self.peers[slot.index()].at_hand.as_ref().is_some_and(of) {
                self.own(slot, Owner::Discarded);
            }
        }
    }

    fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        Slot::all(u32::try_from(self.peers.len()).expect("a group has at most SIZE_MAX members"))
    }

    /// The members of a communicator.
    #[inline]
    pub fn members(&self, communicator: u64) -> Option<&Members> {
        self.contexts.get(&communicator).map(|context| &context.members)
    }

    /// The epoch of a communicator.
    #[inline]
    pub fn epoch(&self, communicator: u64) -> u32 {
        self.contexts.get(&communicator).map_or(0, |context| context.epoch)
    }

    /// Takes a number for a collective.
    pub fn number(&mut self, communicator: u64) -> u64 {
        self.context(communicator).number()
    }

    /// Takes a number for a collective that begins later.
    pub fn reserve(&mut self, communicator: u64) -> u64 {
        self.context(communicator).reserve()
    }

    /// Makes a persistent collective, whose runs are matched whatever the order in which ranks start several. `None` if
    /// there have been too many.
    pub fn init(&mut self, communicator: u64) -> Option<u64> {
        self.context(communicator).init()
    }

    /// Takes a number for a run of a persistent collective.
    pub fn number_run(&mut self, communicator: u64, init: u64) -> u64 {
        self.context(communicator).number_run(init)
    }

    /// Ends a persistent collective: what comes for later runs is dropped.
    pub fn end_persistent(&mut self, communicator: u64, init: u64) {
        self.context(communicator).end_persistent(init);
    }

    /// Takes a number for a message.
    pub fn number_message(&mut self, communicator: u64, to: Slot) -> u64 {
        self.context(communicator).number_message(to)
    }

    /// Remembers a collective that moves nothing.
    pub fn note(&mut self, signature: &Envelope) {
        self.context(signature.communicator).note(signature);
    }

    fn context(&mut self, communicator: u64) -> &mut Context {
        self.contexts.get_mut(&communicator).expect("a communicator lives as long as its operations")
    }

    fn rank_of(&self, communicator: u64, slot: Slot) -> Option<Rank> {
        self.contexts.get(&communicator)?.members.rank_of(slot)
    }

    // Operations.

    /// Registers an operation, which has until `deadline`, or as long as the limit says.
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn post(
        &mut self,
        now: Instant,
        communicator: u64,
        what: What,
        deadline: Option<Instant>,
    ) -> Result<OpId, Failure> {
        self.seen = self.seen.max(now);
        if let Some(failure) = self.revocation(communicator) {
            return Err(failure);
        }
        let limit = deadline.map(|at| at.saturating_since(now)).or(self.limits.deadline).unwrap_or(Duration::MAX);
        let id = self.operations.insert(|id| Op {
            id,
            communicator,
            what,
            matched: None,
            begun: false,
            takes: false,
            is_driven: false,
            unmatched: None,
            failed: None,
            suspicion: None,
            waits_for: WaitsFor::default(),
            posted_at: now,
            deadline: deadline.unwrap_or(now + limit),
            limit,
            asks_at: now + ASKS_AFTER,
            warns_at: now + WARNS_AFTER,
            has_asked: false,
            timer_at: None,
            waited: 0,
            promise: None,
            is_ready: false,
            ready_peers: None,
        });
        match what {
            What::Send(to) => self.peers[to.index()].sends.push_back(id),
            What::Receive(pattern) => self.match_receive(id, &pattern),
            What::Collective(signature) => self.begin(id, &signature),
        }
        self.fail_if_gone(id);
        Ok(id)
    }

    fn match_receive(&mut self, id: OpId, pattern: &Pattern) {
        let stored = self.mailbox.claim(pattern);
        let matched = stored.map(|(place, peer, envelope)| Matched { peer, envelope, place: Some(place) });
        let matched = matched.or_else(|| {
            let envelope = |slot: &Slot| self.peers[slot.index()].at_hand.as_ref().map(|frame| frame.envelope);
            let fits = |slot: &Slot| envelope(slot).is_some_and(|envelope| pattern.fits(*slot, &envelope));
            let peer = match pattern.source {
                Some(source) => self.unclaimed.get(&source).copied().filter(fits),
                None => self.unclaimed.iter().copied().find(fits),
            }?;
            let envelope = envelope(&peer)?;
            self.own(peer, Owner::Operation(id));
            Some(Matched { peer, envelope, place: None })
        });
        match self.operations.get_mut(id).filter(|_| matched.is_some()) {
            Some(op) => op.matched = matched,
            None => drop(self.receives.insert((*pattern, id))),
        }
        if let Some(Matched { peer, envelope, .. }) = matched {
            self.hold(peer, &envelope, Holder::Operation(id));
        }
    }

    fn begin(&mut self, id: OpId, signature: &Envelope) {
        let communicator = signature.communicator;
        self.context(communicator).note(signature);
        self.collectives.insert((communicator, signature.sequence), id);
        let ready = self.context(communicator).take_ready(signature.sequence);
        if let (Some(ready), Some(op)) = (ready, self.operations.get_mut(id)) {
            op.ready_peers = Some(ready);
        }
        let early = self.mailbox.peek_collective(signature);
        let differs = |(_, theirs): &(Slot, Envelope)| theirs.signature() != signature.signature();
        let other = early.filter(differs).or_else(|| self.context(communicator).expectation(signature));
        if let Some((peer, theirs)) = other {
            self.disagree(peer, *signature, theirs);
        }
        // Frames that came before it, and wait where they are.
        for slot in self.slots() {
            let Some(frame) = &self.peers[slot.index()].at_hand else { continue };
            if frame.owner == Owner::Nobody && frame.envelope.is_same_collective(signature) {
                self.own(slot, Owner::Operation(id));
            }
        }
    }

    /// Whether an operation may go on.
    ///
    /// # Errors
    /// If it has failed.
    #[inline]
    pub fn check(&self, id: OpId) -> Result<(), Failure> {
        match self.operations.get(id).and_then(|op| op.failed.as_ref()) {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }

    /// The message of a receive, once it has one.
    #[inline]
    pub fn matched(&self, id: OpId) -> Option<Matched> {
        self.operations.get(id)?.matched
    }

    /// Takes what is stored of the message of a receive.
    pub fn take_stored(&mut self, id: OpId) -> Option<Stored> {
        let place = self.operations.get_mut(id)?.matched.as_mut()?.place.take()?;
        let stored = self.mailbox.take(place);
        self.room_was_made();
        stored
    }

    /// Takes the oldest stored frame of `peer` that belongs to the collective of `wanted`.
    pub fn take_collective(&mut self, peer: Slot, wanted: &Envelope) -> Option<Stored> {
        let stored = self.mailbox.take_collective(peer, wanted);
        if stored.is_some() {
            self.room_was_made();
        }
        stored
    }

    /// Puts a message of this process to itself into the mailbox.
    ///
    /// # Errors
    /// If the mailbox is full.
    pub fn send_to_self(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), Failure> {
        if !self.mailbox.reserve(envelope.length) {
            let peer = self.rank_of(envelope.communicator, self.me);
            return Err(Failure { kind: ErrorKind::MailboxFull { bytes_max: self.mailbox.bytes_max() }, peer });
        }
        let owner = self.find_receive(self.me, &envelope);
        let stored = Stored { peer: self.me, envelope, taken: 0, payload: payload.to_vec() };
        let place = self.mailbox.store(stored, owner.is_some());
        if let Some(owner) = owner {
            self.assign(owner, Matched { peer: self.me, envelope, place: Some(place) });
            self.outputs.push_back(Output::Wake(owner));
        }
        Ok(())
    }

    /// Ends an operation that has come to its end, or is given up. What belongs to it is dropped.
    pub fn end(&mut self, id: OpId) {
        let Some(mut op) = self.operations.remove(id) else { return };
        self.spare_ready(&mut op);
        self.reported(&op);
        if let Some(key) = op.promise {
            self.promises.remove(&key);
        }
        match op.what {
            What::Send(to) => {
                if let Some((number, _)) = op.unmatched {
                    self.unmatched.remove(&(op.communicator, to, number));
                }
                self.wake_next_send(to);
            }
            What::Receive(pattern) => {
                self.receives.remove(&(pattern, id));
                self.drop_rest_of(&op);
                if let Some(Matched { peer, place: None, .. }) = op.matched {
                    self.discard(peer, id);
                }
            }
            What::Collective(signature) => {
                self.collectives.remove(&(signature.communicator, signature.sequence));
                for slot in self.slots() {
                    self.discard(slot, id);
                }
            }
        }
        self.tidy_timers();
    }

    /// Ends a receive that leaves its message to others. `front` is what it has read of it.
    /// `of_frame` bytes at its end are of the frame at hand, and are before the rest of that again.
    pub fn release(&mut self, id: OpId, front: &[u8], of_frame: usize) {
        let Some(op) = self.operations.remove(id) else { return };
        self.reported(&op);
        if let What::Receive(pattern) = op.what {
            self.receives.remove(&(pattern, id));
        }
        self.tidy_timers();
        let Some(Matched { peer, envelope, place }) = op.matched else { return };
        if self.contexts.get(&op.communicator).is_none_or(|context| context.revoked.is_some()) {
            // No receive of it can be called any more.
            place.and_then(|place| self.mailbox.take(place));
            self.drop_rest_of(&op);
            self.discard(peer, id);
            return self.room_was_made();
        }
        let other = self.find_receive(peer, &envelope);
        let holds = |place: Option<Place>| match (other, place) {
            (Some(other), _) => Holder::Operation(other),
            (None, Some(place)) => Holder::Stored(place),
            (None, None) => Holder::AtHand,
        };
        let place = match place {
            Some(place) => {
                self.mailbox.restore(place, front);
                if other.is_none() {
                    self.mailbox.disclaim(place);
                }
                Some(place)
            }
            None if self.owns(id, peer) => {
                let frame = self.peers[peer.index()].at_hand.as_mut();
                let is_first = frame.as_ref().is_none_or(|frame| frame.is_first);
                if let Some(reserved) = frame.and_then(|frame| frame.reserved.as_mut()) {
                    // It is there already, so it may exceed the limit.
                    self.mailbox.unreserve(*reserved);
                    *reserved += of_frame as u64;
                    self.mailbox.reserve_beyond(*reserved);
                }
                if is_first {
                    self.own(peer, other.map_or(Owner::Nobody, Owner::Operation));
                    None
                } else {
                    let before = &front[..front.len() - of_frame];
                    Some(self.put_back(peer, &envelope, before, other.is_some()))
                }
            }
            None if self.is_held_by(peer, &envelope, id) => {
                Some(self.put_back(peer, &envelope, front, other.is_some()))
            }
            // Its connection broke before it was whole.
            None => return,
        };
        self.hold(peer, &envelope, holds(place));
        if let Some(other) = other {
            self.assign(other, Matched { peer, envelope, place });
            self.outputs.push_back(Output::Wake(other));
        }
    }

    /// The envelope of the frame at hand of `peer`.
    #[inline]
    pub fn at_hand(&self, peer: Slot) -> Option<&Envelope> {
        self.peers[peer.index()].at_hand.as_ref().map(|frame| &frame.envelope)
    }

    /// Whether the frame at hand of `peer` belongs to `id`.
    #[inline]
    pub fn owns(&self, id: OpId, peer: Slot) -> bool {
        let frame = self.peers[peer.index()].at_hand.as_ref();
        frame.is_some_and(|frame| frame.owner == Owner::Operation(id))
    }
}
