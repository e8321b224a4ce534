//! Messages, and steps of collectives, that are longer than what is sent unasked.
//!
//! Their first frame carries as much as is sent unasked and says that more follows. The rest is sent once the receiver
//! says that it has a place for it ([`Kind::Ready`]): a receive that reads it, or room in the mailbox, which is set
//! aside. Of a collective, whoever sends frames of it takes part, so an exchange needs no word beside its own frames.

use super::matching::malformed;
use super::operation::Op;
use super::{AtHand, Group, OpId, Output, Owner, What};
use crate::error::ErrorKind;
use crate::frame::{Envelope, Kind};
use crate::mailbox::{FRAME_OVERHEAD_BYTES, Place, Stored};
use crate::rank::Slot;

/// A message: its sender, its communicator and its number among those of the two ranks there.
pub(super) type Key = (Slot, u64, u64);

/// In [`Kind::Ready`]: the rest of a message is meant.
const MESSAGE: u32 = 0;
/// In [`Kind::Ready`]: a collective is meant.
const COLLECTIVE: u32 = 1;

/// The part of the mailbox that may be set aside for what is announced; the rest is for what comes unasked.
const RESERVED_PART: (u64, u64) = (3, 4);

/// Where the beginning of a message is of which more is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// At the front of the stream; nobody has asked for it.
    AtHand,
    /// In the mailbox; nobody has asked for it.
    Stored(Place),
    /// With the receive that it belongs to, which may have read it or not.
    Operation(OpId),
    /// Nowhere: what is still to come is dropped.
    Dropped,
}

/// Lists of peers whose memory is kept.
pub(super) const SPARE_MAX: usize = 8;
/// How many messages may be announced and not whole at once, of all peers.
pub(super) const RESTS_MAX: usize = 1 << 18;

/// A message of which more is to come.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) holder: Holder,
    /// Its place among messages that have come, wherever its parts are.
    place: Place,
    total: u64,
    /// How much of it the frames carry that have begun to come.
    pub(super) announced: u64,
    /// Whether its sender knows that there is a place for it.
    told: bool,
    /// Room in the mailbox that is set aside for what is to come.
    reserved: Option<u64>,
}

/// Adds a peer to an ordered list, if it is not there.
fn note_ready(ready: &mut Vec<Slot>, peer: Slot) {
    if let Err(at) = ready.binary_search(&peer) {
        ready.insert(at, peer);
    }
}

pub(super) fn key_of(peer: Slot, envelope: &Envelope) -> Key {
    (peer, envelope.communicator, envelope.sequence)
}

impl Group {
    /// Why the lengths of a message's frame are wrong, if they are.
    pub(super) fn misfit(&self, peer: Slot, envelope: &Envelope) -> Option<ErrorKind> {
        if envelope.kind != Kind::Message {
            return None;
        }
        let rest = self.rests.get(&key_of(peer, envelope));
        // Each peer has its part, so that none can take that of another.
        let rests_max = RESTS_MAX / self.peers.len();
        if envelope.more && rest.is_none() && self.peers[peer.index()].rests >= rests_max {
            return Some(malformed(format!("more than {rests_max} messages that are not whole")));
        }
        let (before, total) = rest.map_or((0, envelope.elements), |rest| (rest.announced, rest.total));
        let is_right = |end: u64| if envelope.more { end < total && envelope.length > 0 } else { end == total };
        let fits = before.checked_add(envelope.length).is_some_and(is_right);
        (!fits || envelope.elements != total)
            .then(|| malformed(format!("a frame of {} bytes in a message of {}", envelope.length, envelope.elements)))
    }

    /// Whether a frame of a message continues one that has begun; its owner then.
    pub(super) fn continued(&self, peer: Slot, envelope: &Envelope) -> Option<Owner> {
        if envelope.kind != Kind::Message || self.rests.is_empty() {
            return None;
        }
        Some(match self.rests.get(&key_of(peer, envelope))?.holder {
            Holder::AtHand | Holder::Stored(_) => Owner::Nobody,
            Holder::Operation(id) => Owner::Operation(id),
            Holder::Dropped => Owner::Discarded,
        })
    }

    /// Notes how far a message is announced by the frame at hand; the end of that frame in it.
    pub(super) fn announce(&mut self, peer: Slot, envelope: &Envelope, owner: Owner) -> u64 {
        if envelope.kind != Kind::Message {
            return envelope.length;
        }
        let key = key_of(peer, envelope);
        if let Some(rest) = self.rests.get_mut(&key) {
            rest.announced += envelope.length;
            return rest.announced;
        }
        if envelope.more {
            let holder = match owner {
                Owner::Operation(id) => Holder::Operation(id),
                Owner::Nobody => Holder::AtHand,
                Owner::Control | Owner::Discarded => Holder::Dropped,
            };
            let (total, announced) = (envelope.elements, envelope.length);
            self.peers[peer.index()].rests += 1;
            let place = self.mailbox.ticket();
            self.rests.insert(key, Rest { holder, place, total, announced, told: false, reserved: None });
            match owner {
                // It is about to look, and to say what it wants.
                Owner::Operation(id) if self.asking == Some(id) => {}
                Owner::Operation(_) | Owner::Nobody => self.invite_into_mailbox(key),
                // Its sender waits for leave to end.
                Owner::Control | Owner::Discarded => self.invite(key),
            }
        }
        envelope.length
    }

    /// Says that there is a place for the rest of a message.
    fn invite(&mut self, key: Key) {
        let Some(rest) = self.rests.get_mut(&key).filter(|rest| !rest.told) else { return };
        rest.told = true;
        self.uninvited.remove(&key);
        let (peer, communicator, sequence) = key;
        self.tell_ready(peer, Envelope { communicator, sequence, step: MESSAGE, ..Envelope::new(Kind::Ready) });
    }

    fn tell_ready(&mut self, peer: Slot, envelope: Envelope) {
        if self.is_up(peer) {
            self.outputs.push_back(Output::Tell { peer, envelope, payload: Vec::new() });
        }
    }

    /// Sets room aside for the rest of a message and says so, if there is room.
    fn invite_into_mailbox(&mut self, key: Key) {
        let Some(rest) = self.rests.get_mut(&key).filter(|rest| !rest.told) else { return };
        let length = rest.total - rest.announced;
        let bytes_max = self.mailbox.bytes_max() / RESERVED_PART.1 * RESERVED_PART.0;
        if self.reserved.saturating_add(length) <= bytes_max && self.mailbox.reserve(length) {
            self.reserved += length;
            rest.reserved = Some(length);
            self.invite(key);
        } else {
            self.uninvited.insert(key);
        }
    }

    /// Invites what now fits into the mailbox.
    pub(super) fn invite_more(&mut self) {
        while let Some(key) = self.uninvited.first().copied() {
            self.invite_into_mailbox(key);
            if self.uninvited.contains(&key) {
                return;
            }
        }
    }

    /// A receive is about to read its message, whatever its length.
    pub fn want(&mut self, id: OpId) {
        if let Some(key) = self.rest_of(id) {
            self.invite(key);
        }
    }

    /// The message of a receive, if more of it is to come than what has been read or stored.
    pub(super) fn rest_of(&self, id: OpId) -> Option<Key> {
        if self.rests.is_empty() {
            return None;
        }
        let matched = self.operations.get(id)?.matched?;
        let key = key_of(matched.peer, &matched.envelope);
        self.rests.get(&key).filter(|rest| rest.holder == Holder::Operation(id)).map(|_| key)
    }

    /// Whether a receive has the message of which this is the beginning, and more of it is to come.
    pub(super) fn is_held_by(&self, peer: Slot, envelope: &Envelope, id: OpId) -> bool {
        self.rests.get(&key_of(peer, envelope)).is_some_and(|rest| rest.holder == Holder::Operation(id))
    }

    /// Whether more of the message of a receive is to come than what has been read or stored.
    pub fn has_rest(&self, id: OpId) -> bool {
        self.rest_of(id).is_some()
    }

    /// The message at hand, or in the mailbox, belongs to a receive from now on.
    pub(super) fn hold(&mut self, peer: Slot, envelope: &Envelope, holder: Holder) {
        if envelope.kind == Kind::Message
            && let Some(rest) = self.rests.get_mut(&key_of(peer, envelope))
            && rest.holder != Holder::Dropped
        {
            rest.holder = holder;
            self.own_rest(key_of(peer, envelope), holder);
        }
    }

    /// A frame at hand that continues a message belongs to whoever holds its beginning.
    fn own_rest(&mut self, key: Key, holder: Holder) {
        let frame = self.peers[key.0.index()].at_hand.as_ref();
        let Some(frame) = frame.filter(|frame| !frame.is_first && key_of(key.0, &frame.envelope) == key) else {
            return;
        };
        let owner = match holder {
            Holder::AtHand | Holder::Stored(_) => Owner::Nobody,
            Holder::Operation(id) => Owner::Operation(id),
            Holder::Dropped => Owner::Discarded,
        };
        if frame.owner != owner {
            self.own(key.0, owner);
        }
    }

    /// Gives back the room that was set aside for a message.
    pub(super) fn unreserve_rest(&mut self, key: Key) -> bool {
        let Some(reserved) = self.rests.get_mut(&key).and_then(|rest| rest.reserved.take()) else { return false };
        self.reserved -= reserved;
        self.mailbox.unreserve(reserved);
        true
    }

    /// Room for `left` bytes of the frame at hand, out of what was set aside for its message.
    pub(super) fn use_reserved(&mut self, peer: Slot, envelope: &Envelope, left: u64) -> bool {
        let Some(rest) = self.rests.get_mut(&key_of(peer, envelope)) else { return false };
        let Some(reserved) = rest.reserved.take() else { return false };
        self.mailbox.unreserve(reserved);
        self.reserved -= reserved;
        // What was read before and given back is there already, so it may exceed the limit.
        self.mailbox.reserve_beyond(left);
        if envelope.more {
            let length = rest.total - rest.announced;
            self.mailbox.reserve_beyond(length);
            self.reserved += length;
            rest.reserved = Some(length);
        }
        true
    }

    /// All of a message has come, or nothing of it will any more.
    pub(super) fn forget_rest(&mut self, key: Key) {
        self.unreserve_rest(key);
        self.uninvited.remove(&key);
        if self.rests.remove(&key).is_some() {
            self.peers[key.0.index()].rests -= 1;
        }
    }

    /// Puts a part of a message behind what is stored of it, or aside for its receive; its owner then.
    pub(super) fn store_part(&mut self, frame: &AtHand, stored: Stored) -> Option<OpId> {
        let (peer, envelope) = (stored.peer, stored.envelope);
        let key = key_of(peer, &envelope);
        let at = self.rests.get(&key).map(|rest| rest.place);
        let holder = match (self.rests.get(&key), frame.owner) {
            (Some(rest), _) => rest.holder,
            (None, Owner::Operation(id)) => Holder::Operation(id),
            (None, _) => Holder::AtHand,
        };
        let owner = match holder {
            Holder::Operation(id) => {
                let before = self.operations.get(id).and_then(|op| op.matched).and_then(|matched| matched.place);
                let place = self.mailbox.append_or_store(before, at, stored, true);
                if let Some(matched) = self.operations.get_mut(id).and_then(|op| op.matched.as_mut()) {
                    matched.place = Some(place);
                }
                Some(id)
            }
            Holder::Stored(place) => {
                self.mailbox.append_or_store(Some(place), at, stored, false);
                None
            }
            Holder::AtHand | Holder::Dropped => {
                let place = self.mailbox.append_or_store(None, at, stored, false);
                self.hold(peer, &envelope, Holder::Stored(place));
                None
            }
        };
        if !envelope.more {
            self.forget_rest(key);
        }
        owner
    }

    /// A receive gives up a message of which it has read `front`, up to the end of a frame: that goes to the mailbox.
    pub(super) fn put_back(&mut self, peer: Slot, envelope: &Envelope, front: &[u8], owned: bool) -> Place {
        // It is there already, so it may exceed the limit.
        self.mailbox.reserve_beyond(front.len() as u64);
        let place = self.rests.get(&key_of(peer, envelope)).map(|rest| rest.place);
        let stored = Stored { peer, envelope: *envelope, taken: 0, payload: front.to_vec() };
        self.mailbox.append_or_store(None, place, stored, owned)
    }

    /// Nothing more comes from a peer: what is there of its messages is of no use.
    pub(super) fn drop_rests_of(&mut self, peer: Slot) {
        let keys: Vec<Key> =
            self.rests.range((peer, 0, 0)..).take_while(|(key, _)| key.0 == peer).map(|it| *it.0).collect();
        self.drop_rests(keys);
    }

    /// The same in one communicator. Returns the receives that wait for more of them.
    pub(super) fn drop_rests_from(&mut self, peer: Slot, communicator: u64) -> Vec<OpId> {
        let of = |key: &&Key| key.0 == peer && key.1 == communicator;
        let keys: Vec<Key> = self.rests.range((peer, 0, 0)..).map(|(key, _)| key).filter(of).copied().collect();
        let holder = |key: &Key| if let Holder::Operation(id) = self.rests[key].holder { Some(id) } else { None };
        let holders = keys.iter().filter_map(holder).collect();
        for key in keys {
            // What is still on its way is dropped when it comes: it is known to be the rest of something.
            self.drop_beginning(key);
            self.unreserve_rest(key);
            self.uninvited.remove(&key);
            self.hold_dropped(key);
        }
        self.room_was_made();
        holders
    }

    fn drop_rests(&mut self, keys: Vec<Key>) {
        for key in keys {
            self.drop_beginning(key);
            self.forget_rest(key);
        }
        self.room_was_made();
    }

    fn drop_beginning(&mut self, key: Key) {
        let place = match self.rests[&key].holder {
            Holder::Stored(place) => Some(place),
            Holder::Operation(id) => self.operations.get_mut(id).and_then(|op| op.matched.as_mut()?.place.take()),
            Holder::AtHand | Holder::Dropped => None,
        };
        place.and_then(|place| self.mailbox.take(place));
    }

    /// Nobody asks for the messages of a communicator any more: their senders need not wait.
    pub(super) fn drop_rests_in(&mut self, communicator: u64) {
        let of = |key: &&Key| key.1 == communicator;
        let keys: Vec<Key> = self.rests.keys().filter(of).copied().collect();
        for key in keys {
            self.unreserve_rest(key);
            self.invite(key);
            self.hold_dropped(key);
        }
    }

    pub(super) fn hold_dropped(&mut self, key: Key) {
        if let Some(rest) = self.rests.get_mut(&key) {
            rest.holder = Holder::Dropped;
            self.own_rest(key, Holder::Dropped);
        }
    }

    /// A receive ends that has not read all of its message: the rest is dropped.
    pub(super) fn drop_rest_of(&mut self, op: &Op) {
        let Some(matched) = op.matched.filter(|_| !self.rests.is_empty()) else { return };
        let key = key_of(matched.peer, &matched.envelope);
        if self.rests.get(&key).is_some_and(|rest| rest.holder == Holder::Operation(op.id)) {
            self.unreserve_rest(key);
            self.invite(key);
            self.hold_dropped(key);
            self.room_was_made();
        }
    }

    // Of the sender.

    /// The rest of the message of a send waits until its receiver has a place.
    pub fn await_ready(&mut self, id: OpId, envelope: &Envelope) {
        let Some(Op { what: What::Send(to), promise, .. }) = self.operations.get_mut(id) else { return };
        let key = key_of(*to, envelope);
        let before = promise.replace(key);
        before.and_then(|before| self.promises.remove(&before));
        self.promises.insert(key, id);
    }

    /// Whether the rest of the message of a send may go.
    pub fn is_ready(&self, id: OpId) -> bool {
        self.operations.get(id).is_some_and(|op| op.is_ready)
    }

    /// A send was given up, and its message is still sent: nothing limits its time but the connection.
    pub fn owe(&mut self, id: OpId) {
        if let Some(op) = self.operations.get_mut(id) {
            (op.failed, op.suspicion, op.timer_at) = (None, None, None);
        }
    }

    /// A collective has steps that are longer than what is sent unasked.
    pub fn await_ready_ranks(&mut self, id: OpId) {
        let Some(Op { what: What::Collective(signature), .. }) = self.operations.get(id) else { return };
        let signature = *signature;
        // What earlier ones used is used again: a collective takes no memory once it has been called before.
        let mut ready = self.spare_ready.pop().unwrap_or_default();
        ready.extend(self.mailbox.senders_of(&signature));
        let sends = |frame: &AtHand| frame.envelope.is_same_collective(&signature);
        ready.extend(self.slots().filter(|slot| self.peers[slot.index()].at_hand.as_ref().is_some_and(sends)));
        if let Some(op) = self.operations.get_mut(id) {
            ready.extend(op.ready_peers.take().unwrap_or_default());
            ready.sort_unstable();
            ready.dedup();
            op.ready_peers = Some(ready);
        }
    }

    /// Keeps the memory of a collective that has ended.
    pub(super) fn spare_ready(&mut self, op: &mut Op) {
        if let Some(mut ready) = op.ready_peers.take().filter(|_| self.spare_ready.len() < SPARE_MAX) {
            ready.clear();
            self.spare_ready.push(ready);
        }
    }

    /// Whether `peer` is known to take part in a collective.
    pub fn is_rank_ready(&self, id: OpId, peer: Slot) -> bool {
        let ready = self.operations.get(id).and_then(|op| op.ready_peers.as_ref());
        ready.is_some_and(|ready| ready.binary_search(&peer).is_ok())
    }

    /// Tells `peer` that this rank takes part in a collective.
    pub fn tell_ready_rank(&mut self, id: OpId, peer: Slot) {
        let Some(Op { what: What::Collective(signature), .. }) = self.operations.get(id) else { return };
        let Envelope { communicator, sequence, .. } = *signature;
        self.tell_ready(peer, Envelope { communicator, sequence, step: COLLECTIVE, ..Envelope::new(Kind::Ready) });
    }

    /// A frame of a collective has come: its sender takes part.
    pub(super) fn note_rank_ready(&mut self, id: OpId, peer: Slot) {
        if let Some(ready) = self.operations.get_mut(id).and_then(|op| op.ready_peers.as_mut()) {
            note_ready(ready, peer);
        }
    }

    /// Takes word that a peer has a place for something.
    pub(super) fn ready(&mut self, peer: Slot, envelope: &Envelope) {
        if envelope.step == MESSAGE {
            if let Some(id) = self.promises.remove(&key_of(peer, envelope))
                && let Some(op) = self.operations.get_mut(id)
            {
                op.is_ready = true;
                self.outputs.push_back(Output::Wake(id));
            }
            return;
        }
        if let Some(id) = self.collectives.get(&(envelope.communicator, envelope.sequence)).copied() {
            if let Some(op) = self.operations.get_mut(id) {
                note_ready(op.ready_peers.get_or_insert_default(), peer);
            }
            self.outputs.push_back(Output::Wake(id));
        } else if let Some(context) = self.contexts.get_mut(&envelope.communicator) {
            context.is_ready_early(envelope.sequence, peer);
        }
    }

    /// Bytes of the mailbox that are set aside for messages which are announced, for [`Group::check_invariants`].
    pub(super) fn check_rests(&self) -> u64 {
        let mut reserved = 0;
        for (key, rest) in &self.rests {
            assert!(rest.announced < rest.total || self.peers[key.0.index()].at_hand.is_some(), "more is to come");
            assert!(rest.reserved.is_none() || rest.told, "room is set aside for what is invited");
            assert!(!(rest.told && self.uninvited.contains(key)), "nobody is invited twice");
            reserved += rest.reserved.map_or(0, |bytes| bytes + FRAME_OVERHEAD_BYTES);
            match rest.holder {
                Holder::Operation(id) => assert!(self.rest_of(id) == Some(*key), "a receive has the message it holds"),
                Holder::Stored(place) => {
                    let stored = self.mailbox.describe(place).expect("what is said to be stored is there");
                    assert_eq!(key_of(stored.0, &stored.1), *key, "a message is stored in its place");
                }
                Holder::AtHand => assert!(self.at_hand(key.0).is_some(), "what is said to be at hand is there"),
                Holder::Dropped => {}
            }
        }
        for (key, id) in &self.promises {
            assert!(self.operations.get(*id).is_some_and(|op| op.promise == Some(*key)), "a send waits for its word");
        }
        let bytes: u64 = self.rests.values().filter_map(|rest| rest.reserved).sum();
        assert_eq!(bytes, self.reserved, "room is counted once");
        reserved
    }
}
