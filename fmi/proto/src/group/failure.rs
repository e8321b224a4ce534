//! What ends operations early: broken connections, lost processes, disagreement, revocation, deadlines.

use std::cmp::Reverse;

use super::context::Revoked;
use super::operation::{Op, Suspicion};
use super::{AtHand, Failure, Group, Link, OpId, Output, Owner, WaitsFor, What};
use crate::answer;
use crate::error::ErrorKind;
use crate::frame::{Envelope, Kind};
use crate::notice::Notice;
use crate::rank::{Rank, Slot};
use crate::wire::WireError;
use fmi_net::planted;
use fmi_net::time::Instant;

impl Group {
    // Connections.

    /// Whether an operation may use the connection to `peer`. If that broke, the operation fails, but not before
    /// word of a first cause has had time to come.
    ///
    /// # Errors
    /// If there never was a connection, the peer has left, or waiting for a cause is of no use.
    #[inline]
    pub fn reach(&mut self, now: Instant, id: OpId, peer: Slot) -> Result<bool, Failure> {
        if self.peers[peer.index()].has_left
            && let Some(failure) = self.departure(id, peer)
        {
            return Err(failure);
        }
        match &self.peers[peer.index()].link {
            Link::Up => Ok(true),
            Link::Broken(kind) => {
                let kind = kind.clone();
                self.suspect(now, id, peer, kind);
                self.check(id)?;
                Ok(false)
            }
            Link::None => {
                let what = "there is no connection to it: this group joined with `peers` for collectives only";
                Err(self.failure_of(id, peer, ErrorKind::InvalidArgument(what.into())))
            }
        }
    }

    /// Whether any connection is up.
    #[inline]
    pub fn reaches_anyone(&self) -> bool {
        self.peers.iter().any(|peer| peer.link == Link::Up)
    }

    /// Whether the connection to `peer` is up.
    #[inline]
    pub fn is_up(&self, peer: Slot) -> bool {
        self.peers[peer.index()].link == Link::Up
    }

    /// Notes for an operation that it cannot be done without `peer`, to which something happened.
    pub fn suspect(&mut self, now: Instant, id: OpId, peer: Slot, kind: ErrorKind) {
        let failure = self.failure_of(id, peer, kind);
        let waits = self.hears && matches!(failure.kind, ErrorKind::ConnectionLost(_));
        let cause = self.lost_member_of(id);
        let until = now + self.limits.cause_wait;
        let Some(op) = self.operations.get_mut(id) else { return };
        match cause {
            _ if op.suspicion.is_some() => {}
            Some(cause) => self.fail(id, cause),
            // Nothing but a broken connection has another cause, and without a rendezvous no word of one can come.
            None if !waits => self.fail(id, failure),
            None => op.suspicion = Some(Suspicion { failure, until }),
        }
    }

    /// Takes a suspicion back: what broke does not concern the operation.
    pub fn forgive(&mut self, id: OpId) {
        if let Some(op) = self.operations.get_mut(id) {
            op.suspicion = None;
        }
    }

    /// Whether an operation waits for the cause of a broken connection.
    #[inline]
    pub fn is_suspicious(&self, id: OpId) -> bool {
        self.operations.get(id).is_some_and(|op| op.suspicion.is_some())
    }

    /// Whether an operation wants to hear what any peer has to say.
    #[inline]
    pub fn listens(&self, id: OpId) -> bool {
        self.operations.get(id).is_some_and(|op| op.suspicion.is_some() || op.has_asked)
    }

    pub(super) fn refuse(&mut self, peer: Slot, kind: ErrorKind) {
        self.broken(peer, kind);
        self.outputs.push_back(Output::Close(peer));
    }

    pub(super) fn broken(&mut self, slot: Slot, kind: ErrorKind) {
        self.reclaim(slot);
        self.unclaimed.remove(&slot);
        let peer = &mut self.peers[slot.index()];
        if peer.link == Link::Up {
            peer.link = Link::Broken(kind);
        }
        // What was on its way will not come.
        peer.at_hand = None;
        self.drop_rests_of(slot);
        let concerned = self.operations.iter().filter(|op| op.concerns(slot)).map(|op| Output::Wake(op.id));
        self.outputs.extend(concerned);
        self.wake_behind(slot);
        self.settle_doubt(slot, false);
    }

    pub(super) fn dissolve(&mut self) {
        self.dissolved = true;
        let ids: Vec<OpId> = self.operations.iter().map(|op| op.id).collect();
        for id in ids {
            self.fail(id, Failure::new(dissolved()));
        }
    }

    /// A failure of `id` that concerns `peer`.
    pub fn failure_of(&self, id: OpId, peer: Slot, kind: ErrorKind) -> Failure {
        let communicator = self.operations.get(id).map_or(0, |op| op.communicator);
        Failure { kind, peer: self.rank_of(communicator, peer) }
    }

    /// Fails an operation.
    pub(super) fn fail(&mut self, id: OpId, failure: Failure) {
        if let Some(op) = self.operations.get_mut(id)
            && op.failed.is_none()
        {
            op.failed = Some(failure);
            let what = op.what;
            self.outputs.push_back(Output::Wake(id));
            // What comes later belongs to others, whenever the future of this one is dropped.
            match what {
                What::Receive(pattern) => drop(self.receives.remove(&(pattern, id))),
                What::Send(to) => self.wake_next_send(to),
                What::Collective(_) => {}
            }
        }
    }

    // Disagreement and revocation.

    /// Two ranks call different things: that ends the communicator, on all of its ranks.
    pub fn disagree(&mut self, peer: Slot, mine: Envelope, theirs: Envelope) {
        let communicator = mine.communicator;
        let Some(context) = self.contexts.get(&communicator) else { return };
        let Some(other) = context.members.rank_of(peer) else { return };
        let rank = context.members.me();
        let notice = Notice::Mismatch { rank: rank.get(), called: mine, other: other.get(), other_called: theirs };
        let kind = ErrorKind::Mismatch { mine: mine.to_string(), theirs: theirs.to_string() };
        if self.revoke(communicator, kind, Some(other), &notice, notice.to_string()) {
            self.tell(communicator, Kind::Revoke, &notice);
        }
    }

    /// Ends a communicator for a failure of one of its operations, on all of its ranks. `text` is what the others
    /// are told, unless the failure is the loss of a rank.
    pub fn abort(&mut self, communicator: u64, failure: &Failure, text: &str) {
        let Some(context) = self.contexts.get(&communicator) else { return };
        let me = context.members.me();
        let notice = match (&failure.kind, failure.peer) {
            (ErrorKind::PeerLost(how), Some(rank)) => Notice::Lost { rank: rank.get(), how: how.clone() },
            (ErrorKind::PeerLeft(how), Some(rank)) => Notice::Left { rank: rank.get(), how: how.clone() },
            _ => Notice::Failed { rank: me.get(), text: text.to_owned() },
        };
        if self.revoke(communicator, failure.kind.clone(), failure.peer, &notice, text.to_owned()) {
            self.tell(communicator, Kind::Revoke, &notice);
        }
        if let Some(revoked) = self.contexts.get_mut(&communicator).and_then(|context| context.revoked.as_mut()) {
            revoked.told = true;
        }
    }

    /// Ends a communicator here. False if it had ended before.
    fn revoke(
        &mut self,
        communicator: u64,
        kind: ErrorKind,
        peer: Option<Rank>,
        notice: &Notice,
        text: String,
    ) -> bool {
        let Some(context) = self.contexts.get_mut(&communicator) else { return false };
        if context.revoked.is_some() {
            return false;
        }
        context.revoked = Some(Revoked { kind: kind.clone(), peer, text, told: false, notice: notice.clone() });
        for id in self.ids_of(communicator) {
            self.fail(id, Failure { kind: kind.clone(), peer });
        }
        // What has come for it would only be in the way of others.
        self.drop_rests_in(communicator);
        self.mailbox.forget(communicator);
        self.discard_unclaimed(communicator);
        self.room_was_made();
        true
    }

    /// The operations of a communicator.
    pub(super) fn ids_of(&self, communicator: u64) -> Vec<OpId> {
        self.operations.iter().filter(|op| op.communicator == communicator).map(|op| op.id).collect()
    }

    /// Takes word of another rank that a communicator has failed.
    fn revoked_by(&mut self, peer: Slot, communicator: u64, notice: &Notice) {
        let Some(context) = self.contexts.get(&communicator) else { return };
        let members = &context.members;
        let me = members.me();
        let (kind, concerned) = match notice {
            Notice::Mismatch { rank, called, other, other_called } if *other == me.get() => (
                ErrorKind::Mismatch { mine: other_called.to_string(), theirs: called.to_string() },
                members.rank(*rank),
            ),
            Notice::Lost { rank, how } if *rank == me.get() => {
                (ErrorKind::Excluded(format!("the others took it for lost: {how}")), members.rank_of(peer))
            }
            Notice::Lost { rank, how } => (ErrorKind::PeerLost(how.clone()), members.rank(*rank)),
            Notice::Left { rank, how } if *rank != me.get() => (ErrorKind::PeerLeft(how.clone()), members.rank(*rank)),
            Notice::Left { .. } | Notice::Mismatch { .. } | Notice::Failed { .. } => {
                (ErrorKind::Revoked(notice.to_string()), members.rank_of(peer))
            }
        };
        self.revoke(communicator, kind, concerned, notice, notice.to_string());
    }

    /// Why a communicator is of no more use: the cause for the first call that asks, that it was revoked for
    /// later ones.
    pub fn revocation(&mut self, communicator: u64) -> Option<Failure> {
        let revoked = self.contexts.get_mut(&communicator)?.revoked.as_mut()?;
        let failure = if revoked.told {
            Failure::new(ErrorKind::Revoked(revoked.text.clone()))
        } else {
            Failure { kind: revoked.kind.clone(), peer: revoked.peer }
        };
        revoked.told = true;
        Some(failure)
    }

    /// Marks that the cause of a communicator's failure has been reported, if it is that of the operation.
    pub(super) fn reported(&mut self, op: &Op) {
        if let Some(failure) = &op.failed {
            self.last_failure = Some(format!("its {} failed: {}", op.operation(), failure.kind));
        }
        let context = self.contexts.get_mut(&op.communicator);
        if let Some(revoked) = context.and_then(|context| context.revoked.as_mut())
            && op.failed.as_ref().is_some_and(|failure| failure.kind == revoked.kind)
        {
            revoked.told = true;
        }
    }

    /// Tells the other ranks of a communicator what has become of it.
    pub(super) fn tell(&mut self, communicator: u64, kind: Kind, notice: &Notice) {
        let Some(context) = self.contexts.get(&communicator) else { return };
        let mut others: Vec<Slot> = context.members.slots().filter(|it| *it != self.me && self.is_up(*it)).collect();
        if kind == Kind::Revoke && planted::is(planted::Fault::SurvivorNotTold) {
            others.pop();
        }
        for peer in others {
            self.tell_one(peer, communicator, kind, notice);
        }
    }

    /// Tells one of them.
    pub(super) fn tell_one(&mut self, peer: Slot, communicator: u64, kind: Kind, notice: &Notice) {
        let payload = notice.emit();
        let envelope = Envelope { communicator, length: payload.len() as u64, ..Envelope::new(kind) };
        self.outputs.push_back(Output::Tell { peer, envelope, payload });
    }

    /// Takes a control frame.
    pub(super) fn control(&mut self, slot: Slot, payload: &[u8]) {
        let Some(AtHand { envelope, owner: Owner::Control, .. }) = self.peers[slot.index()].at_hand.take() else {
            return;
        };
        let communicator = envelope.communicator;
        #[expect(clippy::wildcard_enum_match_arm, reason = "only control frames come here; the last is an inquiry")]
        let heard = match envelope.kind {
            Kind::Ready => {
                self.ready(slot, &envelope);
                Ok(())
            }
            Kind::Matched => {
                self.acknowledged(slot, &envelope);
                Ok(())
            }
            Kind::Revoke => Notice::parse(payload).map(|notice| self.revoked_by(slot, communicator, &notice)),
            Kind::Leave => Notice::parse(payload).map(|notice| self.left_by(slot, communicator, notice)),
            Kind::Answer => {
                let size = u32::try_from(self.peers.len()).expect("a group has at most SIZE_MAX members");
                answer::parse(payload, size).map(|chain| self.answered(slot, &envelope, chain))
            }
            _ => {
                let signature = payload.try_into().map_err(|_| WireError::Short).and_then(Envelope::parse);
                signature.map(|theirs| self.inquired(slot, theirs))
            }
        };
        if let Err(error) = heard {
            self.refuse(slot, ErrorKind::Malformed(error.to_string()));
        }
        self.wake_behind(slot);
    }

    // Timers.

    /// Notes that an operation waits, and for whom.
    pub fn park(&mut self, id: OpId, waits_for: WaitsFor) {
        let Some(op) = self.operations.get_mut(id) else { return };
        op.waits_for = waits_for;
        let at = op.next_at();
        if op.timer_at.is_none_or(|set| at < set) {
            op.timer_at = Some(at);
            self.timers.push(Reverse((at, id)));
        }
    }

    /// When [`Group::handle_timeout`] is to be called, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let doubt =
            self.doubts.values().map(|doubt| (doubt.until, "a connection that is tried has had its time")).min();
        let Some(Reverse((at, id))) = self.timers.peek() else { return doubt };
        let op = self.operations.get(*id);
        let reason = match op {
            Some(op) if op.suspicion.is_some() => "the cause of a broken connection is waited for",
            Some(op) if op.deadline <= *at => "deadline of an operation",
            Some(op) if op.warns_at <= *at => "an operation has waited for long",
            Some(_) => "an operation asks its peers",
            None => "an operation that has ended",
        };
        doubt.into_iter().chain([(*at, reason)]).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.seen = self.seen.max(now);
        self.examine_doubts(now);
        while let Some(Reverse((at, id))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            if let Some(op) = self.operations.get_mut(id)
                && op.timer_at == Some(at)
            {
                op.timer_at = None;
                self.due(now, id);
            }
        }
    }

    fn due(&mut self, now: Instant, id: OpId) {
        let Some(op) = self.operations.get(id).filter(|op| op.failed.is_none()) else { return };
        if let Some(suspicion) = &op.suspicion
            && now >= suspicion.until
        {
            let failure = suspicion.failure.clone();
            return self.fail(id, failure);
        }
        if now >= op.due_at() {
            let failure = self.overdue(id, op);
            return self.fail(id, failure);
        }
        let waits_for = op.waits_for;
        if let Some(failure) = self.deadlock(now, id) {
            return self.fail(id, failure);
        }
        self.inquire(now, id);
        self.park(id, waits_for);
    }

    /// The failure of an operation whose deadline has passed.
    fn overdue(&self, id: OpId, op: &Op) -> Failure {
        // What it waits for may be behind a frame for which there was no room.
        let bytes_max = self.mailbox.bytes_max();
        let kind = if self.cramped.contains(&id) {
            ErrorKind::MailboxFull { bytes_max }
        } else {
            ErrorKind::Deadline { after: op.limit, waits: self.chain(id).text }
        };
        match op.waits_for.iter().next() {
            Some(peer) => self.failure_of(id, peer, kind),
            None => Failure::new(kind),
        }
    }

    /// Forgets timers of operations that have ended: those that come first, and all once they are the most.
    pub(super) fn tidy_timers(&mut self) {
        if self.timers.len() > 64 + 2 * self.operations.len() {
            let operations = &self.operations;
            self.timers.retain(|Reverse((at, id))| operations.get(*id).is_some_and(|op| op.timer_at == Some(*at)));
        }
        while let Some(Reverse((_, id))) = self.timers.peek()
            && self.operations.get(*id).is_none()
        {
            self.timers.pop();
        }
    }
}

pub(super) fn dissolved() -> ErrorKind {
    ErrorKind::Revoked("the rendezvous dissolved the session".into())
}
