//! Operations that have been called and have not ended, in the order of their calls.

use std::time::Duration;

use crate::error::{ErrorKind, Operation};
use crate::frame::Envelope;
use crate::mailbox::{Pattern, Place};
use crate::rank::{Rank, Slot};
use fmi_net::planted;
use fmi_net::time::Instant;

/// An operation; later calls are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpId {
    serial: u64,
    index: u32,
}

impl OpId {
    /// Before any operation.
    pub const FIRST: Self = Self { serial: 0, index: 0 };
    /// The place of what is no operation.
    const NOWHERE: u32 = u32::MAX;

    /// Whether this is no operation, but waits as one does.
    #[inline]
    pub fn is_visitor(self) -> bool {
        self.index == Self::NOWHERE
    }
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Sends a message to a member.
    Send(Slot),
    /// Receives, or looks for, a message.
    Receive(Pattern),
    /// Takes part in the collective with this signature.
    Collective(Envelope),
}

/// Why an operation fails; the peer by its rank in the operation's communicator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The cause.
    pub kind: ErrorKind,
    /// The rank that is concerned.
    pub peer: Option<Rank>,
}

impl Failure {
    /// A failure that concerns no other rank.
    pub fn new(kind: ErrorKind) -> Self {
        Self { kind, peer: None }
    }
}

/// The message of a receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// Its sender.
    pub peer: Slot,
    /// Its envelope.
    pub envelope: Envelope,
    /// Where it is stored; on its way from the peer if `None`.
    pub place: Option<Place>,
}

/// Some of the peers that an operation waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitsFor {
    peers: [Option<Slot>; Self::PEERS_MAX],
}

impl WaitsFor {
    /// How many peers are kept.
    pub const PEERS_MAX: usize = 4;

    /// Adds a peer that is not there yet, as long as there is room.
    pub fn add(&mut self, peer: Slot) {
        if self.iter().any(|known| known == peer) {
            return;
        }
        if let Some(place) = self.peers.iter_mut().find(|place| place.is_none()) {
            *place = Some(peer);
        }
    }

    /// The peers.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + use<> {
        self.peers.into_iter().flatten()
    }
}

/// A failure that is announced unless its first cause becomes known before.
#[derive(Clone, Debug)]
pub(super) struct Suspicion {
    pub(super) failure: Failure,
    pub(super) until: Instant,
}

#[derive(Debug)]
pub(super) struct Op {
    pub(super) id: OpId,
    pub(super) communicator: u64,
    pub(super) what: What,
    pub(super) matched: Option<Matched>,
    /// Of a send: whether its frame is begun.
    pub(super) begun: bool,
    /// Of a receive: whether it takes its message, as a probe does not.
    pub(super) takes: bool,
    /// Of a receive: whether it reads its message whatever is polled.
    pub(super) is_driven: bool,
    /// Of a synchronous send: the number of its message, and whether a receive has got that.
    pub(super) unmatched: Option<(u64, bool)>,
    pub(super) failed: Option<Failure>,
    pub(super) suspicion: Option<Suspicion>,
    pub(super) waits_for: WaitsFor,
    pub(super) posted_at: Instant,
    /// When it fails, come what may, and how much time that is; far in the future if it has as long as it takes.
    pub(super) deadline: Instant,
    pub(super) limit: Duration,
    pub(super) asks_at: Instant,
    pub(super) warns_at: Instant,
    pub(super) has_asked: bool,
    /// When its timer is set, if it is.
    pub(super) timer_at: Option<Instant>,
    /// The last turn of another operation at its frame for which it has waited.
    pub(super) waited: u64,
    /// Of a send whose rest waits for its receiver.
    pub(super) promise: Option<super::long::Key>,
    /// Of such a send: whether the rest may go.
    pub(super) is_ready: bool,
    /// Of a collective with long steps: ranks that are known to take part.
    pub(super) ready_peers: Option<Vec<Slot>>,
}

impl Op {
    /// When something is to be done about it, and what.
    pub(super) fn next_at(&self) -> Instant {
        match &self.suspicion {
            Some(suspicion) => suspicion.until.min(self.due_at()),
            None => self.due_at().min(self.asks_at).min(self.warns_at),
        }
    }

    /// When it fails, come what may.
    pub(super) fn due_at(&self) -> Instant {
        if planted::is(planted::Fault::DeadlinesIgnored) { Instant::FAR_FUTURE } else { self.deadline }
    }

    /// Of a send: whether those behind it wait for it.
    pub(super) fn waits_to_begin(&self) -> bool {
        !self.begun && self.failed.is_none()
    }

    /// What it is called.
    pub(super) fn operation(&self) -> Operation {
        match self.what {
            What::Send(_) => Operation::Send,
            What::Receive(_) => Operation::Receive,
            What::Collective(signature) => signature.kind.operation(),
        }
    }

    /// Whether the end of this peer ends it. The end of any member ends what waits for all of them.
    pub(super) fn concerns(&self, peer: Slot) -> bool {
        match self.what {
            What::Send(to) => to == peer,
            What::Receive(pattern) => match (self.matched, pattern.source) {
                (Some(matched), _) => matched.place.is_none() && matched.peer == peer,
                (None, Some(source)) => source == peer,
                (None, None) => true,
            },
            What::Collective(_) => true,
        }
    }
}

/// The operations; look-ups take constant time.
#[derive(Debug, Default)]
pub(super) struct Operations {
    entries: Vec<Option<Op>>,
    vacant: Vec<u32>,
    serial: u64,
    count: usize,
}

impl Operations {
    pub(super) fn insert(&mut self, make: impl FnOnce(OpId) -> Op) -> OpId {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.entries.push(None);
            u32::try_from(self.entries.len() - 1).expect("memory ends before 2^32 operations")
        });
        self.serial += 1;
        let id = OpId { serial: self.serial, index };
        self.entries[index as usize] = Some(make(id));
        self.count += 1;
        id
    }

    /// An identity that no operation has or gets.
    pub(super) fn visitor(&mut self) -> OpId {
        self.serial += 1;
        OpId { serial: self.serial, index: OpId::NOWHERE }
    }

    pub(super) fn get(&self, id: OpId) -> Option<&Op> {
        self.entries.get(id.index as usize)?.as_ref().filter(|op| op.id == id)
    }

    pub(super) fn get_mut(&mut self, id: OpId) -> Option<&mut Op> {
        self.entries.get_mut(id.index as usize)?.as_mut().filter(|op| op.id == id)
    }

    pub(super) fn remove(&mut self, id: OpId) -> Option<Op> {
        self.get(id)?;
        self.vacant.push(id.index);
        self.count -= 1;
        self.entries[id.index as usize].take()
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Op> {
        self.entries.iter().flatten()
    }
}

/// A value for each of some operations that have not ended; look-ups take constant time.
#[derive(Debug)]
pub struct Table<T> {
    entries: Vec<Option<(OpId, T)>>,
    count: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), count: 0 }
    }
}

impl<T> Table<T> {
    /// The value of an operation.
    #[inline]
    pub fn get(&self, id: OpId) -> Option<&T> {
        self.entries.get(id.index as usize)?.as_ref().filter(|(known, _)| *known == id).map(|(_, value)| value)
    }

    /// The same, to be changed.
    #[inline]
    pub fn get_mut(&mut self, id: OpId) -> Option<&mut T> {
        self.entries.get_mut(id.index as usize)?.as_mut().filter(|(known, _)| *known == id).map(|(_, value)| value)
    }

    /// Gives an operation its value; one that an ended operation left in its place is dropped.
    ///
    /// # Panics
    /// For [`Group::visitor`](super::Group::visitor), which has no place.
    #[inline]
    pub fn insert(&mut self, id: OpId, value: T) {
        assert!(!id.is_visitor(), "a visitor has no place among operations");
        let index = id.index as usize;
        if self.entries.len() <= index {
            self.entries.resize_with(index + 1, || None);
        }
        self.count += usize::from(self.entries[index].replace((id, value)).is_none());
    }

    /// The value of an operation, which has none after that.
    #[inline]
    pub fn remove(&mut self, id: OpId) -> Option<T> {
        let entry = self.entries.get_mut(id.index as usize)?;
        let (_, value) = entry.take_if(|(known, _)| *known == id)?;
        self.count -= 1;
        Some(value)
    }

    /// How many operations have one.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none has.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The operations that have one.
    pub fn ids(&self) -> impl Iterator<Item = OpId> {
        self.entries.iter().flatten().map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// A table is a map, as long as two operations that live have different places.
        #[test]
        fn a_table_is_a_map(steps in proptest::collection::vec((0_u32..6, 0_u64..4, any::<bool>()), 0..60)) {
            let (mut table, mut map) = (Table::default(), BTreeMap::new());
            for (number, (index, age, inserts)) in steps.into_iter().enumerate() {
                let id = OpId { serial: age, index };
                if inserts {
                    map.retain(|other: &OpId, _| other.index != index || *other == id);
                    table.insert(id, number);
                    map.insert(id, number);
                } else {
                    prop_assert_eq!(table.remove(id), map.remove(&id));
                }
                prop_assert_eq!(table.get(id), map.get(&id));
                prop_assert_eq!(table.get_mut(id), map.get_mut(&id));
                prop_assert_eq!((table.len(), table.is_empty()), (map.len(), map.is_empty()));
                prop_assert!(table.ids().all(|id| map.contains_key(&id)));
            }
        }
    }
}
