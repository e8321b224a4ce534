//! What ends operations early: broken connections, lost processes, disagreement, revocation, deadlines.

use std::cmp::Reverse;

use super::context::Revoked;
use super::operation::{Op, Suspicion};
use super::{ASKS_AFTER, AtHand, Failure, Group, Link, OpId, Output, Owner, WaitsFor, What};
use crate::error::ErrorKind;
use crate::frame::{ENVELOPE_BYTES, Envelope, Kind};
use crate::notice::Notice;
use crate::rank::{Rank, Slot};
use crate::wire::WireError;
use fmi_net::time::Instant;

/// What is said of a process that the rendezvous has lost.
const LOST: &str = "the rendezvous lost its connection";

impl Group {
    // Connections.

    /// Whether an operation may use the connection to `peer`. If that broke, the operation fails, but not before
    /// word of a first cause has had time to come.
    ///
    /// # Errors
    /// If there never was a connection, or waiting for a cause is of no use.
    #[inline]
    pub fn reach(&mut self, now: Instant, id: OpId, peer: Slot) -> Result<bool, Failure> {
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
        let waits = self.hears && matches!(failure.kind, ErrorKind::PeerLost(_));
        let cause = self.lost_member_of(id);
        let until = now + self.limits.cause_wait;
        let Some(op) = self.operations.get_mut(id) else { return };
        match cause {
            _ if op.suspicion.is_some() => {}
            Some(cause) => self.fail(id, cause),
            // Bytes that are wrong have no other cause, and without a rendezvous no word of one can come.
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
    }

    // Processes.

    pub(super) fn lose(&mut self, slot: Slot) {
        if !self.lost.insert(slot) {
            return;
        }
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

    pub(super) fn fail_if_lost(&mut self, id: OpId) {
        let Some(op) = self.operations.get(id).filter(|op| op.matched.is_none()) else { return };
        let lost = self.lost.iter().find(|lost| op.concerns(**lost) && self.rank_of(op.communicator, **lost).is_some());
        if let Some(lost) = lost.copied() {
            let failure = self.failure_of(id, lost, ErrorKind::PeerLost(LOST.into()));
            self.fail(id, failure);
        }
        if self.dissolved {
            self.fail(id, Failure::new(dissolved()));
        }
    }

    fn lost_member_of(&self, id: OpId) -> Option<Failure> {
        let communicator = self.operations.get(id)?.communicator;
        let lost = self.lost.iter().find(|lost| self.rank_of(communicator, **lost).is_some())?;
        Some(self.failure_of(id, *lost, ErrorKind::PeerLost(LOST.into())))
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
            self.outputs.push_back(Output::Wake(id));
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
        if self.revoke(communicator, kind, Some(other), notice.to_string()) {
            self.tell(communicator, &notice);
        }
    }

    /// Ends a communicator for a failure of one of its operations, on all of its ranks. `text` is what the others
    /// are told, unless the failure is the loss of a rank.
    pub fn abort(&mut self, communicator: u64, failure: &Failure, text: &str) {
        let Some(context) = self.contexts.get(&communicator) else { return };
        let me = context.members.me();
        let notice = match (&failure.kind, failure.peer) {
            (ErrorKind::PeerLost(how), Some(rank)) => Notice::Lost { rank: rank.get(), how: how.clone() },
            _ => Notice::Failed { rank: me.get(), text: text.to_owned() },
        };
        if self.revoke(communicator, failure.kind.clone(), failure.peer, text.to_owned()) {
            self.tell(communicator, &notice);
        }
        if let Some(revoked) = self.contexts.get_mut(&communicator).and_then(|context| context.revoked.as_mut()) {
            revoked.told = true;
        }
    }

    /// Ends a communicator here. False if it had ended before.
    fn revoke(&mut self, communicator: u64, kind: ErrorKind, peer: Option<Rank>, text: String) -> bool {
        let Some(context) = self.contexts.get_mut(&communicator) else { return false };
        if context.revoked.is_some() {
            return false;
        }
        context.revoked = Some(Revoked { kind: kind.clone(), peer, text, told: false });
        let of = |op: &&mut Op| op.communicator == communicator && op.failed.is_none();
        for op in self.operations.iter_mut().filter(of) {
            op.failed = Some(Failure { kind: kind.clone(), peer });
            self.outputs.push_back(Output::Wake(op.id));
        }
        // What has come for it would only be in the way of others.
        self.drop_rests_in(communicator);
        self.mailbox.forget(communicator);
        self.discard_unclaimed(communicator);
        self.room_was_made();
        true
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
            Notice::Lost { rank, how } if *rank != me.get() => (ErrorKind::PeerLost(how.clone()), members.rank(*rank)),
            Notice::Lost { .. } | Notice::Mismatch { .. } | Notice::Failed { .. } => {
                (ErrorKind::Revoked(notice.to_string()), members.rank_of(peer))
            }
        };
        self.revoke(communicator, kind, concerned, notice.to_string());
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
        let context = self.contexts.get_mut(&op.communicator);
        if let Some(revoked) = context.and_then(|context| context.revoked.as_mut())
            && op.failed.as_ref().is_some_and(|failure| failure.kind == revoked.kind)
        {
            revoked.told = true;
        }
    }

    /// Tells the other ranks of a communicator why it has failed.
    fn tell(&mut self, communicator: u64, notice: &Notice) {
        let Some(context) = self.contexts.get(&communicator) else { return };
        let payload = notice.emit();
        let envelope = Envelope { communicator, length: payload.len() as u64, ..Envelope::new(Kind::Revoke) };
        let others = context.members.slots().filter(|slot| *slot != self.me && self.is_up(*slot));
        let tell = |peer| Output::Tell { peer, envelope, payload: payload.clone() };
        self.outputs.extend(others.map(tell).collect::<Vec<_>>());
    }

    /// Takes a control frame.
    pub(super) fn control(&mut self, slot: Slot, payload: &[u8]) {
        let Some(AtHand { envelope, owner: Owner::Control, .. }) = self.peers[slot.index()].at_hand.take() else {
            return;
        };
        let heard = if envelope.kind == Kind::Ready {
            self.ready(slot, &envelope);
            Ok(())
        } else if envelope.kind == Kind::Revoke {
            Notice::parse(payload).map(|notice| self.revoked_by(slot, envelope.communicator, &notice))
        } else {
            let signature = payload.try_into().map_err(|_| WireError::Short).and_then(Envelope::parse);
            signature.map(|theirs| self.inquired(slot, theirs))
        };
        if let Err(error) = heard {
            self.refuse(slot, ErrorKind::Malformed(error.to_string()));
        }
        self.wake_behind(slot);
    }

    /// Takes what a peer says it waits in. An error if this rank calls something else under that number.
    fn inquired(&mut self, peer: Slot, theirs: Envelope) {
        let Some(context) = self.contexts.get_mut(&theirs.communicator) else { return };
        if context.members.rank_of(peer).is_none() {
            return;
        }
        match context.called(&theirs) {
            Some(mine) if mine.signature() != theirs.signature() => self.disagree(peer, mine, theirs),
            Some(_) => {}
            None => context.expect(peer, theirs),
        }
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
        let Reverse((at, id)) = self.timers.peek()?;
        let op = self.operations.get(*id);
        let reason = match op {
            Some(op) if op.suspicion.is_some() => "the cause of a broken connection is waited for",
            Some(op) if op.deadline <= *at => "deadline of an operation",
            Some(_) => "a collective asks its peers",
            None => "an operation that has ended",
        };
        Some((*at, reason))
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
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
        let Some(op) = self.operations.get_mut(id).filter(|op| op.failed.is_none()) else { return };
        if let Some(suspicion) = &op.suspicion
            && now >= suspicion.until
        {
            let failure = suspicion.failure.clone();
            return self.fail(id, failure);
        }
        if now >= op.deadline {
            // What it waits for may be behind a frame for which there was no room.
            let bytes_max = self.mailbox.bytes_max();
            let is_cramped = self.cramped.contains(&id);
            let kind = if is_cramped { ErrorKind::MailboxFull { bytes_max } } else { ErrorKind::Deadline(op.limit) };
            let first = op.waits_for.iter().next();
            let failure = match first {
                Some(peer) => self.failure_of(id, peer, kind),
                None => Failure::new(kind),
            };
            return self.fail(id, failure);
        }
        let waits_for = op.waits_for;
        if now >= op.asks_at {
            (op.asks_at, op.has_asked) = (now + ASKS_AFTER, true);
            self.ask(id);
            // Its driver listens to everybody from now on.
            self.outputs.push_back(Output::Wake(id));
        }
        self.park(id, waits_for);
    }

    /// Asks those that a collective waits for what they do.
    fn ask(&mut self, id: OpId) {
        let Some(op) = self.operations.get(id) else { return };
        let What::Collective(signature) = op.what else { return };
        let envelope = Envelope {
            communicator: signature.communicator,
            length: ENVELOPE_BYTES as u64,
            ..Envelope::new(Kind::Inquiry)
        };
        for peer in op.waits_for.iter().filter(|peer| self.peers[peer.index()].link == Link::Up) {
            self.outputs.push_back(Output::Tell { peer, envelope, payload: signature.emit().to_vec() });
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

fn dissolved() -> ErrorKind {
    ErrorKind::Revoked("the rendezvous dissolved the session".into())
}
