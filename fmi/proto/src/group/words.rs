//! Who waits for whom, as far as peers answer.
//!
//! An operation that waits for a second asks those that it waits for, ever more rarely. Whoever is asked answers what it
//! waits in and for whom, and what it has heard itself of that rank; so word travels along the chain. The chain is what
//! a deadline and a warning say.
//!
//! Ranks that wait for each other in a circle can only go on if one of them moves a byte by another operation. A circle
//! is evident if none of its processes has moved one for long, and none has another operation that could. A circle within
//! one collective is none: its ranks wait for their network.

use std::fmt::Write as _;
use std::time::Duration;

use super::operation::Op;
use super::{ASKS_AFTER, Failure, Group, Link, OpId, Output, WARNS_AFTER, WaitsFor, What};
use crate::answer::{Called, Doing, Wait, emit};
use crate::error::{ErrorKind, Operation};
use crate::frame::{ENVELOPE_BYTES, Envelope, Kind};
use crate::notice::Notice;
use crate::rank::Slot;
use fmi_net::time::Instant;

/// Longest time between two questions of one operation.
const ASKS_EVERY_MAX: Duration = Duration::from_secs(5);
/// For so long no process of a circle has moved a byte.
const IDLE_MIN: Duration = Duration::from_secs(10);

/// Who waits for whom, from one operation on.
pub(super) struct Chain {
    pub(super) text: String,
    /// Whether it is an evident circle.
    is_circle: bool,
}

impl Group {
    /// Notes that a byte of an operation has moved.
    pub fn moved(&mut self, now: Instant) {
        self.moved_at = self.moved_at.max(now);
    }

    // Questions.

    /// Asks, warns, or both, if that is due.
    pub(super) fn inquire(&mut self, now: Instant, id: OpId) {
        let Some(op) = self.operations.get_mut(id) else { return };
        let waited = now - op.posted_at;
        if now >= op.asks_at {
            (op.asks_at, op.has_asked) = (now + waited.clamp(ASKS_AFTER, ASKS_EVERY_MAX), true);
            self.ask(now, id);
            // Its driver listens to everybody from now on.
            self.outputs.push_back(Output::Wake(id));
        }
        let Some(op) = self.operations.get_mut(id).filter(|op| now >= op.warns_at) else { return };
        op.warns_at = now + waited.max(WARNS_AFTER);
        let waits = self.chain(id).text;
        self.outputs.push_back(Output::Warn { id, waits });
    }

    fn ask(&mut self, now: Instant, id: OpId) {
        let Some(op) = self.operations.get(id) else { return };
        let communicator = op.communicator;
        let is_collective = matches!(op.what, What::Collective(_));
        let question = match op.what {
            What::Collective(signature) => signature,
            What::Send(_) | What::Receive(_) => Envelope { communicator, ..Envelope::new(Kind::Message) },
        };
        let mut peers: Vec<Slot> = op.waits_for.iter().collect();
        if peers.is_empty()
            && !is_collective
            && let Some(context) = self.contexts.get(&communicator)
        {
            peers.extend(context.members.slots());
        }
        let me = self.me;
        for slot in peers.into_iter().filter(|slot| *slot != me) {
            self.try_path(slot);
            let peer = &mut self.peers[slot.index()];
            // Many messages may wait for one peer; one question serves all.
            let was_asked = peer.questions.back().is_some_and(|at| now < *at + ASKS_AFTER / 2);
            if peer.link != Link::Up || (was_asked && !is_collective) {
                continue;
            }
            self.note_question(slot, now);
            let envelope = Envelope { communicator, length: ENVELOPE_BYTES as u64, ..Envelope::new(Kind::Inquiry) };
            self.outputs.push_back(Output::Tell { peer: slot, envelope, payload: question.emit().to_vec() });
        }
    }

    /// Takes what a peer says it waits in, and answers. An error if this rank calls something else under that number.
    pub(super) fn inquired(&mut self, peer: Slot, theirs: Envelope) {
        let communicator = theirs.communicator;
        match self.contexts.get_mut(&communicator) {
            // Only whether anybody is there.
            Some(_) | None if theirs.kind == Kind::Inquiry && !self.lost.contains_key(&peer) => {}
            Some(context) => {
                let Some(rank) = context.members.rank_of(peer) else { return };
                if let Some(revoked) = &context.revoked {
                    let notice = revoked.notice.clone();
                    return self.tell_one(peer, communicator, Kind::Revoke, &notice);
                }
                if self.lost.contains_key(&peer) {
                    let notice = Notice::Lost { rank: rank.get(), how: "the rendezvous said so".into() };
                    return self.tell_one(peer, communicator, Kind::Revoke, &notice);
                }
                if is_collective(&theirs) {
                    match context.called(&theirs) {
                        Some(mine) if mine.signature() != theirs.signature() => self.disagree(peer, mine, theirs),
                        Some(_) => {}
                        None => context.expect(peer, theirs),
                    }
                }
            }
            // Those of one that ended here were told.
            None if self.ended.1.contains(&communicator) => return,
            None => {}
        }
        let payload = emit(&self.answer(peer, &theirs));
        let length = payload.len() as u64;
        let (sequence, kind) = (theirs.sequence, Envelope::new(Kind::Answer));
        let envelope = Envelope { communicator, sequence, length, ..kind };
        self.outputs.push_back(Output::Tell { peer, envelope, payload });
    }

    // Answers.

    fn answer(&self, asker: Slot, theirs: &Envelope) -> Vec<Wait> {
        let number = (theirs.communicator, theirs.sequence);
        let running = self.collectives.get(&number).filter(|_| is_collective(theirs)).copied();
        let context = self.contexts.get(&theirs.communicator);
        let has_begun = is_collective(theirs) && context.is_some_and(|context| context.has_begun(theirs.sequence));
        let called = match running {
            Some(_) => Called::Running,
            None if has_begun => Called::Over,
            None => Called::No,
        };
        // Else the one that has waited longest.
        let waits = |op: &&Op| op.failed.is_none() && op.timer_at.is_some();
        let oldest = || self.operations.iter().filter(waits).min_by_key(|op| op.id);
        let op = running.and_then(|id| self.operations.get(id)).or_else(oldest);
        let doing = op.map(|op| Doing {
            operation: op.operation(),
            communicator: op.communicator,
            sequence: if let What::Collective(signature) = op.what { signature.sequence } else { 0 },
            idle: self.seen - self.moved_at.max(op.posted_at),
            is_only: self.operations.len() == 1,
            waits_for: op.waits_for,
        });
        let mut chain = vec![Wait { slot: self.me, age: Duration::ZERO, called, doing }];
        let next = doing.and_then(|doing| doing.waits_for.iter().next()).filter(|next| *next != asker);
        if let (Some(next), Some(op)) = (next, op) {
            chain.extend(self.words_of(next, op).into_iter().take_while(|wait| wait.slot != self.me));
        }
        chain
    }

    /// What a peer said since an operation was posted.
    fn words_of(&self, peer: Slot, op: &Op) -> Vec<Wait> {
        match &self.peers[peer.index()].word {
            Some((heard_at, chain)) if *heard_at >= op.posted_at => {
                let age = self.seen - *heard_at;
                chain.iter().map(|wait| Wait { age: wait.age + age, ..*wait }).collect()
            }
            Some(_) | None => Vec::new(),
        }
    }

    pub(super) fn answered(&mut self, slot: Slot, envelope: &Envelope, chain: Vec<Wait>) {
        self.refute(slot, envelope.sequence);
        // It may speak of nobody else first.
        if chain.first().is_some_and(|wait| wait.slot == slot) {
            self.peers[slot.index()].word = Some((self.seen, chain));
        }
    }

    // What is known.

    /// The failure of an operation that evidently waits for itself.
    pub(super) fn deadlock(&self, now: Instant, id: OpId) -> Option<Failure> {
        let op = self.operations.get(id)?;
        if now < op.posted_at + WARNS_AFTER || now < self.moved_at + IDLE_MIN {
            return None;
        }
        let first = op.waits_for.iter().next()?;
        let chain = self.chain(id);
        chain.is_circle.then(|| self.failure_of(id, first, ErrorKind::Deadlock(chain.text)))
    }

    fn name(&self, communicator: u64, slot: Slot) -> String {
        match self.rank_of(communicator, slot) {
            Some(rank) => format!("rank {rank}"),
            None => format!("rank {slot} of the group"),
        }
    }

    /// As in "rank 1", or "ranks 1, 4 and 5".
    fn names(&self, communicator: u64, waits_for: WaitsFor) -> String {
        let ranks: Vec<_> = waits_for.iter().map(|slot| self.rank_of(communicator, slot)).collect();
        match &ranks[..] {
            [] => "any rank".into(),
            [_] => waits_for.iter().map(|slot| self.name(communicator, slot)).collect(),
            [first @ .., last] => {
                let shown =
                    |rank: &Option<_>| rank.map_or_else(|| "another".to_owned(), |rank: super::Rank| rank.to_string());
                let first: Vec<String> = first.iter().map(shown).collect();
                format!("ranks {} and {}", first.join(", "), shown(last))
            }
        }
    }

    /// Who waits for whom, as far as peers answered.
    pub(super) fn chain(&self, id: OpId) -> Chain {
        let mut chain = Chain { text: String::new(), is_circle: false };
        let Some(op) = self.operations.get(id) else { return chain };
        let names = |waits_for| self.names(op.communicator, waits_for);
        chain.text =
            format!("{} waits for {} in {}", self.name(op.communicator, self.me), names(op.waits_for), op.operation());
        let Some(first) = op.waits_for.iter().next() else { return chain };
        if first == self.me {
            chain.is_circle = self.operations.len() == 1;
            return chain;
        }
        // Whoever waited for this process before it was idle may have gone on since.
        let idle = self.seen - self.moved_at.max(op.posted_at);
        let mut is_evident = self.operations.len() == 1;
        let mut is_one = true;
        let (mut asked, mut next, mut seen) = (number_of(op), first, vec![self.me]);
        for wait in self.words_of(first, op) {
            if wait.slot != next {
                break;
            }
            seen.push(wait.slot);
            describe(&mut chain.text, asked.0, &wait, names);
            let Some(doing) = wait.doing else { return chain };
            is_evident &= wait.age <= idle && doing.idle >= IDLE_MIN;
            is_evident &= doing.is_only || wait.called == Called::Running;
            let number = (doing.operation, doing.communicator, doing.sequence);
            is_one &= number == asked && is_collective_operation(number.0);
            asked = number;
            let Some(peer) = doing.waits_for.iter().next() else { return chain };
            if seen.contains(&peer) {
                chain.is_circle = peer == self.me && is_evident && !is_one;
                return chain;
            }
            next = peer;
        }
        chain.text.push_str(", which has not answered");
        chain
    }
}

fn is_collective(envelope: &Envelope) -> bool {
    is_collective_operation(envelope.kind.operation())
}

fn is_collective_operation(operation: Operation) -> bool {
    operation.class() == crate::operation::Class::Collective
}

/// Tells one operation of a process from others.
fn number_of(op: &Op) -> (Operation, u64, u64) {
    let sequence = if let What::Collective(signature) = op.what { signature.sequence } else { 0 };
    (op.operation(), op.communicator, sequence)
}

/// Says what a rank does that somebody waits for in `asked`.
fn describe(text: &mut String, asked: Operation, wait: &Wait, names: impl Fn(WaitsFor) -> String) {
    let progress = match wait.called {
        Called::No if is_collective_operation(asked) => Some("has not called it"),
        Called::Over => Some("has completed it"),
        Called::No | Called::Running => None,
    };
    let doing = wait.doing.map(|Doing { operation, waits_for, .. }| match wait.called {
        Called::Running => format!("waits for {}", names(waits_for)),
        Called::No | Called::Over => format!("waits for {} in {operation}", names(waits_for)),
    });
    let said = match (progress, doing) {
        (Some(progress), Some(doing)) => format!("{progress} and {doing}"),
        (Some(progress), None) => progress.into(),
        (None, Some(doing)) => doing,
        (None, None) => "waits for nobody".into(),
    };
    write!(text, ", which {said}").expect("a string takes everything");
}
