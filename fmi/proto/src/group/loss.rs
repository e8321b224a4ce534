//! Ranks that are gone, and those that are said to be.
//!
//! # Rules
//! - A rank that leaves a communicator says so on its connections, behind all that it has sent. What came before is delivered,
//!   and whatever waits for more ends then ([`Group::say_goodbye`]).
//! - Bad news by the rendezvous is checked where there is a connection to the rank in question: a question goes out, and
//!   a sign of life of the peer's kernel, or its answer, within [`TRIED_FOR`] refutes it ([`Doubt`]).
//! - That a rank failed is taken for true only once it is settled who is lost: a loss makes the others fail.
//! - A rank that comes to know that the rendezvous has lost it, or was out of reach of it, tries its own connections, and
//!   breaks those on which a question has had no sign of life for [`SILENT_FOR`]: as long as the rendezvous waits for a rank.

use std::time::Duration;

use super::operation::Op;
use super::{ENDED_MAX, Failure, Group, Link, OpId, Output, What};
use crate::error::ErrorKind;
use crate::frame::{ENVELOPE_BYTES, Envelope, Kind};
use crate::notice::Notice;
use crate::rank::Slot;
use fmi_net::time::Instant;

/// What is said of a process that the rendezvous has lost.
const LOST: &str = "the rendezvous lost its connection";
/// What is said of a process that failed, as far as the rendezvous knows.
const FAILED: &str = "it failed, as the rendezvous says";
/// A peer whose connection is tried has this long to show a sign of life: longer than the first repetition of a packet.
pub const TRIED_FOR: Duration = Duration::from_secs(1);

/// A connection on which nothing was heard for so long after a question has broken, if the rendezvous was out of reach as
/// well.
const SILENT_FOR: Duration = Duration::from_secs(6);
/// Times of questions that are kept for each peer, a second or more apart.
const QUESTIONS_MAX: usize = 8;
/// A rank that failed has this long: longer than the pause between two questions of whatever waits for it. No question of
/// its own goes there: a socket that is closed already would answer by a reset, and lose what it still had to send.
const FAILED_FOR: Duration = Duration::from_secs(6);

/// Why a connection is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    /// The rendezvous was out of reach: the way to the peer may have changed as well.
    Path,
    /// The rendezvous has told the others that this process is lost.
    Excluded,
    /// The rendezvous says that the peer failed and left.
    Failed,
    /// The rendezvous says that the peer is lost.
    Lost,
}

/// A connection that is being tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    why: Why,
    since: Instant,
    pub(super) until: Instant,
}

impl Group {
    // What the rendezvous says.

    pub(super) fn told_lost(&mut self, slot: Slot) {
        if slot != self.me {
            return self.doubt(slot, Why::Lost);
        }
        for peer in self.slots().filter(|peer| *peer != self.me && self.is_up(*peer)).collect::<Vec<_>>() {
            self.doubt(peer, Why::Excluded);
        }
    }

    pub(super) fn told_failed(&mut self, slot: Slot) {
        if slot != self.me {
            self.doubt(slot, Why::Failed);
        }
    }

    /// A peer says that its end of the connection is gone.
    pub(super) fn severed(&mut self, slot: Slot) {
        if self.is_up(slot) {
            self.refuse(slot, ErrorKind::ConnectionLost("the other end gave it up".into()));
        }
    }

    /// Tries the connections that operations wait for; others are tried once something waits for them.
    pub(super) fn returned(&mut self) {
        self.returned_at = self.seen;
        let waited: std::collections::BTreeSet<Slot> =
            self.operations.iter().flat_map(|op| op.waits_for.iter()).collect();
        for peer in waited {
            self.try_path(peer);
        }
    }

    /// Tries a connection unless that was done since the rendezvous was out of reach.
    pub(super) fn try_path(&mut self, peer: Slot) {
        if peer != self.me && self.is_up(peer) && self.peers[peer.index()].tried_at < self.returned_at {
            self.doubt(peer, Why::Path);
        }
    }

    // Trying connections.

    fn doubt(&mut self, slot: Slot, why: Why) {
        if !self.is_up(slot) {
            return self.conclude(slot, why);
        }
        let now = self.seen;
        match self.doubts.get_mut(&slot) {
            Some(doubt) if doubt.why != Why::Failed || why <= doubt.why => {
                doubt.why = doubt.why.max(why);
                doubt.until = doubt.until.min(now + TRIED_FOR);
                return;
            }
            Some(_) | None => {}
        }
        let time = if why == Why::Failed { FAILED_FOR } else { TRIED_FOR };
        self.doubts.insert(slot, Doubt { why, since: now, until: now + time });
        if why == Why::Failed {
            return;
        }
        self.peers[slot.index()].tried_at = now;
        self.note_question(slot, now);
        let question = Envelope { sequence: nonce(now), ..Envelope::new(Kind::Inquiry) };
        let envelope = Envelope { length: ENVELOPE_BYTES as u64, ..Envelope::new(Kind::Inquiry) };
        self.outputs.push_back(Output::Tell { peer: slot, envelope, payload: question.emit().to_vec() });
    }

    pub(super) fn examine_doubts(&mut self, now: Instant) {
        for (slot, doubt) in self.doubts.iter_mut().filter(|(_, doubt)| doubt.until <= now) {
            let was_asked = self.peers[slot.index()].questions.back().is_some_and(|at| *at >= doubt.since);
            if doubt.why == Why::Failed && !was_asked {
                // Nothing waits for it, and what it sent before may still be read.
                doubt.until = now + FAILED_FOR;
                continue;
            }
            // Once; the answer settles it.
            doubt.until = Instant::FAR_FUTURE;
            self.outputs.push_back(Output::Examine(*slot));
        }
    }

    /// Takes what the kernel knows of a peer.
    pub(super) fn examined(&mut self, slot: Slot, heard_at: Option<Instant>) {
        let Some(Doubt { why, since, .. }) = self.doubts.get(&slot).copied() else { return };
        let lives = heard_at.is_some_and(|at| at > since);
        if lives || matches!(why, Why::Lost | Why::Failed) {
            return self.settle_doubt(slot, lives);
        }
        // Where the kernel tells nothing, a peer that does not answer may be busy: that alone breaks no connection.
        let Some(heard_at) = heard_at else { return self.settle_doubt(slot, true) };
        // Short gaps of a network are outlived, so the silence counts from the first question without an answer.
        let unanswered = self.peers[slot.index()].questions.iter().copied().find(|at| *at > heard_at);
        let until = unanswered.unwrap_or(since).min(since) + SILENT_FOR;
        if self.seen >= until {
            return self.settle_doubt(slot, false);
        }
        if let Some(doubt) = self.doubts.get_mut(&slot) {
            doubt.until = until;
        }
    }

    /// Notes that a peer is asked something.
    pub(super) fn note_question(&mut self, slot: Slot, now: Instant) {
        let questions = &mut self.peers[slot.index()].questions;
        if questions.back().is_some_and(|last| now < *last + Duration::from_secs(1)) {
            return;
        }
        if questions.len() == QUESTIONS_MAX {
            questions.pop_front();
        }
        questions.push_back(now);
    }

    /// Whether it is not known yet if anybody is lost.
    fn may_have_lost(&self) -> bool {
        self.doubts.values().any(|doubt| doubt.why == Why::Lost)
    }

    /// Takes an answer to the question of that number.
    pub(super) fn refute(&mut self, slot: Slot, number: u64) {
        if self.doubts.get(&slot).is_some_and(|doubt| nonce(doubt.since) == number) {
            self.settle_doubt(slot, true);
        }
    }

    pub(super) fn settle_doubt(&mut self, slot: Slot, lives: bool) {
        if let Some(Doubt { why, .. }) = self.doubts.remove(&slot)
            && !lives
        {
            self.conclude(slot, why);
        }
        if !self.may_have_lost() {
            for slot in std::mem::take(&mut self.failed) {
                self.conclude(slot, Why::Failed);
            }
        }
    }

    /// Bad news is true.
    fn conclude(&mut self, slot: Slot, why: Why) {
        if why == Why::Failed && self.may_have_lost() {
            self.failed.insert(slot);
            return;
        }
        let kind = match why {
            Why::Lost => return self.lose(slot),
            Why::Failed => {
                self.leave_all(slot);
                ErrorKind::PeerLeft(FAILED.into())
            }
            Why::Path => ErrorKind::ConnectionLost("no answer since the rendezvous was out of reach".into()),
            Why::Excluded => {
                let how = "the rendezvous lost its connection and told the others, and this peer does not answer it";
                ErrorKind::Excluded(how.into())
            }
        };
        if self.is_up(slot) {
            self.refuse(slot, kind);
            self.outputs.push_back(Output::Report(slot));
        }
    }

    // Lost processes.

    fn lose(&mut self, slot: Slot) {
        if self.lost.contains_key(&slot) {
            return;
        }
        self.lost.insert(slot, self.seen);
        let ids: Vec<OpId> = self.operations.iter().map(|op| op.id).collect();
        for id in ids {
            let Some(op) = self.operations.get(id) else { continue };
            let is_member = self.rank_of(op.communicator, slot).is_some();
            let waits_for_rest = self.rest_of(id).is_some_and(|key| key.0 == slot);
            if is_member && (op.concerns(slot) || waits_for_rest || op.suspicion.is_some()) {
                let failure = self.failure_of(id, slot, ErrorKind::PeerLost(LOST.into()));
                self.fail(id, failure);
            }
        }
    }

    /// Fails an operation that was just posted and can never end.
    pub(super) fn fail_if_gone(&mut self, id: OpId) {
        let Some(op) = self.operations.get(id).filter(|op| op.matched.is_none()) else { return };
        let is_member = |slot: &Slot| self.rank_of(op.communicator, *slot).is_some();
        let lost = self.lost.keys().copied().find(|lost| op.concerns(*lost) && is_member(lost));
        let failure = lost.map(|lost| self.failure_of(id, lost, ErrorKind::PeerLost(LOST.into())));
        if let Some(failure) = failure.or_else(|| self.bereft(op)) {
            self.fail(id, failure);
        }
        if self.dissolved {
            self.fail(id, Failure::new(super::failure::dissolved()));
        }
    }

    /// The loss that may be the cause of a failure of `id`: of a member, since its call or of its own peer.
    pub(super) fn lost_member_of(&self, id: OpId) -> Option<Failure> {
        let op = self.operations.get(id)?;
        let may_be = |(slot, at): &(&Slot, &Instant)| {
            self.rank_of(op.communicator, **slot).is_some() && (**at >= op.posted_at || op.concerns(**slot))
        };
        let (lost, _) = self.lost.iter().find(may_be)?;
        Some(self.failure_of(id, *lost, ErrorKind::PeerLost(LOST.into())))
    }

    // Processes that leave.

    /// Tells the other ranks of a communicator that this one leaves it, each once, as far as it is `due` there.
    pub fn say_goodbye(&mut self, communicator: u64, due: impl Fn(Slot) -> bool) {
        // Those of one that failed know that already.
        let Some(context) = self.contexts.get(&communicator).filter(|context| context.revoked.is_none()) else {
            return;
        };
        let rank = context.members.me().get();
        let is_due =
            |slot: &Slot| *slot != self.me && !context.greeted.contains(slot) && self.is_up(*slot) && due(*slot);
        let slots: Vec<Slot> = context.members.slots().filter(is_due).collect();
        let notice = Notice::Left { rank, how: self.last_failure.clone().unwrap_or_default() };
        for slot in slots {
            self.tell_one(slot, communicator, Kind::Leave, &notice);
            if let Some(context) = self.contexts.get_mut(&communicator) {
                context.greeted.insert(slot);
            }
        }
    }

    /// Whether an operation of this process failed, and it said or will say so as it leaves.
    pub fn has_failed(&self) -> bool {
        self.last_failure.is_some()
    }

    pub(super) fn left_by(&mut self, slot: Slot, communicator: u64, notice: Notice) {
        let how = match notice {
            Notice::Left { how, .. } => how,
            Notice::Lost { .. } | Notice::Mismatch { .. } | Notice::Failed { .. } => notice.to_string(),
        };
        self.leave(slot, communicator, how);
    }

    fn leave(&mut self, slot: Slot, communicator: u64, how: String) {
        self.peers[slot.index()].has_left = true;
        let Some(context) = self.contexts.get_mut(&communicator) else {
            // One that is to be made here, or has ended.
            let may_come = !self.ended.1.contains(&communicator);
            if may_come && (self.early_left.len() < ENDED_MAX || self.early_left.contains_key(&communicator)) {
                self.early_left.entry(communicator).or_default().insert(slot, how);
            }
            return;
        };
        context.left.insert(slot, how);
        for id in self.drop_rests_from(slot, communicator) {
            if let Some(failure) = self.departure(id, slot) {
                self.fail(id, failure);
            }
        }
        for id in self.ids_of(communicator) {
            match self.operations.get(id).filter(|op| op.matched.is_none()).and_then(|op| self.bereft(op)) {
                Some(failure) => self.fail(id, failure),
                // A collective ends if it needs more from that rank.
                None => self.outputs.push_back(Output::Wake(id)),
            }
        }
    }

    /// A process leaves all that it is a member of.
    fn leave_all(&mut self, slot: Slot) {
        let is_in = |(_, context): &(&u64, &super::Context)| {
            context.members.rank_of(slot).is_some() && !context.left.contains_key(&slot)
        };
        let communicators: Vec<u64> =
            self.contexts.iter().filter(is_in).map(|(communicator, _)| *communicator).collect();
        for communicator in communicators {
            self.leave(slot, communicator, FAILED.into());
        }
    }

    /// Why a message that an operation waits for can never come, or go.
    fn bereft(&self, op: &Op) -> Option<Failure> {
        match op.what {
            What::Send(to) => self.departure(op.id, to),
            What::Receive(pattern) => match pattern.source {
                Some(source) => self.departure(op.id, source),
                None => {
                    let members = self.members(op.communicator)?;
                    let others: Vec<Slot> = members.slots().filter(|slot| *slot != self.me).collect();
                    let last = others.last().copied()?;
                    let is_gone = |slot: &Slot| !self.may_send(op.communicator, *slot);
                    if others.iter().all(is_gone) { self.departure(op.id, last) } else { None }
                }
            },
            What::Collective(_) => None,
        }
    }

    /// Whether anything may still come from a member of a communicator.
    pub fn may_send(&self, communicator: u64, slot: Slot) -> bool {
        let has_left = || self.contexts.get(&communicator).is_some_and(|context| context.left.contains_key(&slot));
        self.peers[slot.index()].link == Link::Up && !(self.peers[slot.index()].has_left && has_left())
    }

    /// The failure of an operation that needs a peer which has left.
    pub(super) fn departure(&self, id: OpId, peer: Slot) -> Option<Failure> {
        let op = self.operations.get(id)?;
        let how = self.contexts.get(&op.communicator)?.left.get(&peer)?;
        Some(self.failure_of(id, peer, ErrorKind::PeerLeft(how.clone())))
    }
}

/// Tells a question from others of the same peer.
fn nonce(since: Instant) -> u64 {
    u64::try_from(since.since_origin().as_nanos()).unwrap_or(u64::MAX)
}
