//! Whose a frame is: matching of messages and receives, owners of what is at hand, and what is put aside.

use super::long::key_of;
use super::operation::Op;
use super::{AtHand, Group, Link, Matched, OpId, Output, Owner, Peer, Route, SHORT_BYTES, What};
use crate::error::ErrorKind;
use crate::frame::{Envelope, Kind};
use crate::mailbox::{FRAME_OVERHEAD_BYTES, Pattern, Stored};
use crate::notice::NOTICE_BYTES_MAX;
use crate::operation::Class;
use crate::rank::Slot;
use fmi_net::planted;

/// Receives that are looked at one by one, since that costs less than a search.
const FEW: usize = 4;

/// What a peer has done that sent a frame of a communicator of others.
pub(super) fn stranger(communicator: u64) -> ErrorKind {
    malformed(format!("a frame of communicator {communicator:016x}, of which it is no member"))
}

fn is_control(envelope: &Envelope) -> bool {
    envelope.kind.operation().class() == Class::Control
}

pub(super) fn malformed(what: String) -> ErrorKind {
    ErrorKind::Malformed(what)
}

impl Group {
    /// Finds the owner of a frame whose envelope has come.
    pub(super) fn head(&mut self, peer: Slot, envelope: Envelope) {
        if let Some(kind) = self.refusal(peer, &envelope) {
            // Nothing behind it can be reached.
            self.refuse(peer, kind);
            return;
        }
        let continued = self.continued(peer, &envelope);
        let is_first = continued.is_none();
        let owner = continued.unwrap_or_else(|| self.owner_of(peer, &envelope));
        let turn = self.next_turn();
        let end = self.announce(peer, &envelope, owner);
        self.peers[peer.index()].at_hand = Some(AtHand { envelope, owner, reserved: None, turn, is_first, end });
        match owner {
            Owner::Operation(id) => {
                if envelope.kind != Kind::Message {
                    self.note_rank_ready(id, peer);
                } else if is_first {
                    self.assign(id, Matched { peer, envelope, place: None });
                }
                self.wake_other(id);
            }
            Owner::Nobody if envelope.kind == Kind::Message && is_first => drop(self.unclaimed.insert(peer)),
            Owner::Nobody | Owner::Control | Owner::Discarded => {}
        }
    }

    /// Wakes an operation unless it is the one at work.
    fn wake_other(&mut self, id: OpId) {
        if self.asking != Some(id) {
            self.outputs.push_back(Output::Wake(id));
        }
    }

    /// Why a frame cannot be accepted.
    fn refusal(&self, peer: Slot, envelope: &Envelope) -> Option<ErrorKind> {
        let bytes_max = NOTICE_BYTES_MAX as u64;
        if is_control(envelope) && envelope.length > bytes_max {
            return Some(malformed(format!("a {} of {} bytes", envelope, envelope.length)));
        }
        if let Some(kind) = self.misfit(peer, envelope) {
            return Some(kind);
        }
        let context = self.contexts.get(&envelope.communicator)?;
        if context.members.rank_of(peer).is_none() {
            return Some(stranger(envelope.communicator));
        }
        None
    }

    fn owner_of(&mut self, peer: Slot, envelope: &Envelope) -> Owner {
        if is_control(envelope) {
            return Owner::Control;
        }
        let Some(context) = self.contexts.get(&envelope.communicator) else {
            // Of one that has ended here, or that is to be made here.
            let has_ended = self.ended.1.contains(&envelope.communicator);
            return if has_ended { Owner::Discarded } else { Owner::Nobody };
        };
        if context.revoked.is_some() {
            // No operation of it can be called any more.
            return Owner::Discarded;
        }
        if envelope.kind == Kind::Message {
            return self.find_receive(peer, envelope).map_or(Owner::Nobody, Owner::Operation);
        }
        let has_begun = context.has_begun(envelope.sequence);
        if let Some(id) = self.collectives.get(&(envelope.communicator, envelope.sequence)).copied() {
            if let Some(Op { what: What::Collective(mine), .. }) = self.operations.get(id)
                && mine.signature() != envelope.signature()
            {
                self.disagree(peer, *mine, *envelope);
            }
            return Owner::Operation(id);
        }
        if !has_begun {
            return Owner::Nobody;
        }
        // A collective that has ended here can never be asked for.
        if let Some(mine) = context.called(envelope) {
            self.disagree(peer, mine, *envelope);
        }
        Owner::Discarded
    }

    /// The receive that gets a message: of those that fit, the one that was called first.
    pub(super) fn find_receive(&self, peer: Slot, envelope: &Envelope) -> Option<OpId> {
        if self.receives.len() <= FEW {
            let fits = |(pattern, _): &&(Pattern, OpId)| pattern.fits(peer, envelope);
            return self.receives.iter().filter(fits).map(|(_, id)| *id).min();
        }
        let (communicator, tag) = (envelope.communicator, envelope.root_or_tag);
        let first = |source, tag| {
            let pattern = Pattern { communicator, source, tag };
            let found = self.receives.range((pattern, OpId::FIRST)..).next()?;
            (found.0 == pattern).then_some(found.1)
        };
        let patterns = [(Some(peer), Some(tag)), (Some(peer), None), (None, Some(tag)), (None, None)];
        patterns.into_iter().filter_map(|(source, tag)| first(source, tag)).min()
    }

    /// Gives a receive its message.
    pub(super) fn assign(&mut self, id: OpId, matched: Matched) {
        let Some(op) = self.operations.get_mut(id) else { return };
        op.matched = Some(matched);
        // Word of a broken link to another peer does not concern it.
        op.suspicion = None;
        if let What::Receive(pattern) = op.what {
            self.receives.remove(&(pattern, id));
            if pattern.source.is_none() {
                self.turn = matched.peer.get() + 1;
            }
        }
        self.acknowledge(id);
    }

    pub(super) fn own(&mut self, slot: Slot, owner: Owner) {
        let peer = &mut self.peers[slot.index()];
        let Some(frame) = &mut peer.at_hand else { return };
        frame.owner = owner;
        if owner == Owner::Nobody && frame.envelope.kind == Kind::Message && frame.is_first {
            self.unclaimed.insert(slot);
        } else {
            self.unclaimed.remove(&slot);
        }
        match owner {
            Owner::Operation(id) => self.outputs.push_back(Output::Wake(id)),
            // Whoever waits behind it can pass it.
            Owner::Nobody | Owner::Control | Owner::Discarded => self.wake_behind(slot),
        }
    }

    pub(super) fn discard(&mut self, slot: Slot, id: OpId) {
        if self.owns(id, slot) {
            self.own(slot, Owner::Discarded);
        }
    }

    /// What is at the front of the stream of `peer`, for an operation that wants what is behind it, or only hears what
    /// comes; `left` is how much of the frame at hand no operation has taken.
    pub fn route(&mut self, id: OpId, slot: Slot, left: u64) -> Route {
        self.asking = Some(id);
        let Some(frame) = &self.peers[slot.index()].at_hand else { return Route::Head };
        if let Owner::Operation(owner) = frame.owner
            && owner != id
            && self.operations.get(owner).is_some_and(|op| op.is_driven)
        {
            self.peers[slot.index()].behind.insert(id);
            return Route::Driven(owner);
        }
        let peer = &mut self.peers[slot.index()];
        let Some(frame) = &mut peer.at_hand else { return Route::Head };
        match frame.owner {
            Owner::Operation(owner) if owner == id => return Route::Mine,
            Owner::Control => return Route::Control,
            Owner::Discarded => return Route::Discard,
            Owner::Operation(owner) if frame.reserved.is_none() && left > SHORT_BYTES => {
                if let Some(op) = self.operations.get_mut(id)
                    && op.waited < frame.turn
                {
                    op.waited = frame.turn;
                    self.outputs.push_back(Output::Wake(owner));
                    return Route::Offered;
                }
            }
            Owner::Operation(_) | Owner::Nobody => {}
        }
        peer.behind.insert(id);
        if frame.reserved.is_none() {
            // Room was set aside for what follows the first frame.
            let (envelope, is_rest) = (frame.envelope, !frame.is_first);
            let has_room = (is_rest && self.use_reserved(slot, &envelope, left)) || self.mailbox.reserve(left);
            if !has_room {
                self.cramped.insert(id);
                return Route::Full;
            }
            if let Some(frame) = &mut self.peers[slot.index()].at_hand {
                frame.reserved = Some(left);
            }
        }
        Route::Store
    }

    /// Notes that a receive reads its message whatever is polled, so that it is never put aside for others.
    pub fn drive(&mut self, id: OpId) {
        if let Some(op) = self.operations.get_mut(id) {
            op.is_driven = true;
        }
    }

    /// Takes back the room that was set aside for the frame at hand: its owner has come for it.
    pub fn reclaim(&mut self, slot: Slot) {
        let Some(frame) = &mut self.peers[slot.index()].at_hand else { return };
        // Messages and collectives are numbered apart.
        let key = (frame.envelope.kind == Kind::Message).then(|| key_of(slot, &frame.envelope));
        let reserved = frame.reserved.take();
        if let Some(reserved) = reserved {
            self.mailbox.unreserve(reserved);
        }
        if reserved.is_some() | key.is_some_and(|key| self.unreserve_rest(key)) {
            self.room_was_made();
        }
    }

    /// Its owner attends to the frame at hand: it has another turn before others put it aside.
    pub(super) fn progressed(&mut self, slot: Slot) {
        let turn = self.next_turn();
        if let Some(frame) = &mut self.peers[slot.index()].at_hand {
            frame.turn = turn;
        }
    }

    fn next_turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    pub(super) fn consumed(&mut self, slot: Slot) {
        self.reclaim(slot);
        self.unclaimed.remove(&slot);
        let taken = self.peers[slot.index()].at_hand.take();
        if let Some(AtHand { envelope, .. }) = taken
            && envelope.kind == Kind::Message
            && !envelope.more
            && !self.rests.is_empty()
        {
            self.forget_rest(key_of(slot, &envelope));
        }
        self.wake_behind(slot);
    }

    pub(super) fn stored(&mut self, slot: Slot, payload: Vec<u8>) {
        self.unclaimed.remove(&slot);
        let peer = &mut self.peers[slot.index()];
        let Some(frame) = peer.at_hand.take() else { return };
        let AtHand { envelope, owner, reserved, end, .. } = frame;
        assert_eq!(reserved, Some(payload.len() as u64), "a frame is stored in the room reserved for it");
        let taken = usize::try_from(end).expect("its payload is in memory") - payload.len();
        let stored = Stored { peer: slot, envelope, taken, payload };
        if envelope.kind == Kind::Message {
            let owner = self.store_part(&frame, stored);
            self.outputs.extend(owner.map(Output::Wake));
        } else {
            let is_owned = matches!(owner, Owner::Operation(_));
            self.mailbox.store(stored, is_owned);
            if let Owner::Operation(id) = owner {
                self.outputs.push_back(Output::Wake(id));
            }
        }
        self.wake_behind(slot);
    }

    /// The way is free for operations that waited behind a frame.
    pub(super) fn wake_behind(&mut self, slot: Slot) {
        // Taken one by one, so that the set keeps its memory.
        while let Some(id) = self.peers[slot.index()].behind.pop_first() {
            self.outputs.push_back(Output::Wake(id));
        }
    }

    pub(super) fn room_was_made(&mut self) {
        if !self.uninvited.is_empty() {
            self.invite_more();
        }
        self.outputs.extend(std::mem::take(&mut self.cramped).into_iter().map(Output::Wake));
    }

    /// Peers in the order in which a receive from any source looks at them: the one after the last that was
    /// served first, that one last.
    pub fn rounds(&self) -> impl Iterator<Item = Slot> + use<> {
        let size = u32::try_from(self.peers.len()).expect("a group has at most SIZE_MAX members");
        let (mut first, me) = (self.turn % size, self.me);
        if planted::is(planted::Fault::UnfairAnySource) {
            first = 0;
        }
        Slot::all(size).skip(first as usize).chain(Slot::all(size).take(first as usize)).filter(move |slot| *slot != me)
    }

    /// Panics unless the state is consistent.
    pub fn check_invariants(&self) {
        let reserved = |peer: &Peer| peer.at_hand.as_ref().and_then(|frame| frame.reserved);
        let reserved = self.peers.iter().filter_map(reserved).map(|bytes| bytes + FRAME_OVERHEAD_BYTES).sum::<u64>();
        self.mailbox.check(reserved + self.check_rests());
        self.check_synchronous();
        for op in self.operations.iter() {
            match op.what {
                What::Receive(pattern) => {
                    let waits = self.receives.contains(&(pattern, op.id));
                    let may_wait = op.matched.is_none() && op.failed.is_none();
                    assert_eq!(waits, may_wait, "a receive waits, has a message, or has failed");
                    if let Some(Matched { peer, envelope, place }) = op.matched {
                        assert!(pattern.fits(peer, &envelope), "a receive has a message that fits");
                        let is_there = match place {
                            Some(place) => self.mailbox.describe(place) == Some((peer, envelope)),
                            None => {
                                let is_up = self.peers[peer.index()].link == Link::Up;
                                self.owns(op.id, peer) || self.has_rest(op.id) || !is_up
                            }
                        };
                        assert!(is_there || op.failed.is_some(), "a matched message is where it is said to be");
                    }
                }
                What::Collective(signature) => {
                    let number = (signature.communicator, signature.sequence);
                    assert_eq!(self.collectives.get(&number), Some(&op.id), "a collective is found by its number");
                }
                What::Send(to) => {
                    let waits = self.peers[to.index()].sends.contains(&op.id);
                    assert!(op.begun || waits || op.failed.is_some(), "a send has its place until it begins or fails");
                }
            }
        }
        for (slot, peer) in self.slots().zip(&self.peers) {
            let owner = peer.at_hand.as_ref().map(|frame| (frame.owner, frame.envelope.kind, frame.is_first));
            let is_free = owner == Some((Owner::Nobody, Kind::Message, true));
            assert_eq!(self.unclaimed.contains(&slot), is_free, "free messages at hand are known");
            if let Some((Owner::Operation(id), ..)) = owner {
                assert!(self.operations.get(id).is_some(), "an owner exists");
            }
        }
    }
}
