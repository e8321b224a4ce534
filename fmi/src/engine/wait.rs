//! Operations that wait for events of one source, and which of them an event wakes.
//!
//! One operation that is polled does the work for all that wait for the same source. So an event wakes a few, not
//! all: with many outstanding operations the cost of an event does not grow with their number. Those that were polled
//! last are the likeliest to be polled again; some may be held and never be. An operation that was woken and has ended,
//! or waits for something else, without having looked at the source passes the event on to another one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use crate::proto::group::{OpId, Table};
use crate::proto::rank::Slot;
use fmi_net::planted;

/// How many operations an event wakes.
const WOKEN_MAX: usize = 64;

/// Lanes that an operation is listed with, kept by name.
const LANES_FEW: usize = 4;
/// Operations that are found by a look at each of them; of more, the older ones are found by a search.
const FEW: usize = 8;

/// Sources that have an event which has not been looked at.
#[derive(Debug, Default)]
pub(super) struct Signal {
    any: AtomicBool,
    sources: Mutex<Vec<usize>>,
}

impl Signal {
    /// Whether there is one.
    pub(super) fn is_set(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    fn set(&self, source: usize) {
        self.sources().push(source);
        self.any.store(true, Ordering::Release);
    }

    fn sources(&self) -> MutexGuard<'_, Vec<usize>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at each source that has one; those stay for which `look` holds.
    pub(super) fn look(&self, mut look: impl FnMut(usize) -> bool) {
        if !self.any.swap(false, Ordering::AcqRel) {
            return;
        }
        // One at a time: a look may wake somebody who sets another one.
        let mut at = 0;
        loop {
            let Some(source) = self.sources().get(at).copied() else { break };
            if look(source) {
                at += 1;
            } else {
                self.sources().swap_remove(at);
            }
        }
        if at > 0 {
            self.any.store(true, Ordering::Release);
        }
    }
}

/// The operations that wait for one source.
#[derive(Debug)]
pub(super) struct Waiters {
    list: Mutex<List>,
    /// Events so far.
    events: AtomicU64,
    signal: Arc<Signal>,
    /// The number of the source in the signal.
    source: usize,
    woken_max: usize,
}

#[derive(Debug, Default)]
struct List {
    /// Those that were polled last, the latest at the end.
    few: Vec<(OpId, Waker)>,
    /// Those before them, by the order of their last polls.
    order: BTreeMap<u64, (OpId, Waker)>,
    stamps: BTreeMap<OpId, u64>,
    next: u64,
    /// Those that were woken for an event that nobody has looked at.
    woken: Vec<OpId>,
    has_event: bool,
    /// Whether the signal names this source.
    is_named: bool,
}

impl List {
    /// Adds an operation that is not there, as the latest.
    fn push(&mut self, id: OpId, waker: Waker) {
        if self.few.len() == FEW {
            let (older, waker) = self.few.remove(0);
            self.next += 1;
            self.stamps.insert(older, self.next);
            self.order.insert(self.next, (older, waker));
        }
        self.few.push((id, waker));
    }

    /// Removes an operation, if it is there.
    fn take(&mut self, id: OpId) -> Option<Waker> {
        if let Some(at) = self.few.iter().rposition(|(known, _)| *known == id) {
            return Some(self.few.remove(at).1);
        }
        let stamp = if self.stamps.is_empty() { None } else { self.stamps.remove(&id) }?;
        self.order.remove(&stamp).map(|(_, waker)| waker)
    }

    /// Takes the one that was polled last, but not `other`, to be woken.
    fn pop(&mut self, other: Option<OpId>) -> Option<Waker> {
        let id = self.ids().find(|id| Some(*id) != other)?;
        self.woken.push(id);
        self.take(id)
    }

    /// All of them, the latest first.
    fn all(&self) -> impl Iterator<Item = &(OpId, Waker)> {
        self.few.iter().rev().chain(self.order.values().rev())
    }

    fn ids(&self) -> impl Iterator<Item = OpId> {
        self.all().map(|(id, _)| *id)
    }
}

impl Waiters {
    pub(super) fn new(signal: &Arc<Signal>, source: usize) -> Arc<Self> {
        Self::waking(signal, source, WOKEN_MAX)
    }

    /// An event wakes all: where events are rare, and must not be missed.
    pub(super) fn of_all(signal: &Arc<Signal>, source: usize) -> Arc<Self> {
        Self::waking(signal, source, usize::MAX)
    }

    fn waking(signal: &Arc<Signal>, source: usize, woken_max: usize) -> Arc<Self> {
        let (list, events) = (Mutex::default(), AtomicU64::new(0));
        Arc::new(Self { list, events, signal: signal.clone(), source, woken_max })
    }

    /// Events so far; to be taken before a look at the source.
    pub(super) fn events(&self) -> u64 {
        self.events.load(Ordering::Acquire)
    }

    /// Wakes others if there is an event that nobody has looked at.
    pub(super) fn nudge(self: &Arc<Self>) {
        if self.list().has_event {
            self.wake_by_ref();
        }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an operation that waits, after a look at the source after so many events; false if there was another one
    /// meanwhile, so that it has to look again.
    pub(super) fn wait(&self, id: OpId, waker: &Waker, events: u64) -> bool {
        self.add(id, waker);
        self.looked(events);
        events == self.events()
    }

    /// Adds an operation, as the one that was polled last.
    pub(super) fn add(&self, id: OpId, waker: &Waker) {
        let mut list = self.list();
        if list.few.last().is_some_and(|(known, knows)| *known == id && knows.will_wake(waker)) {
            return;
        }
        let known = list.take(id);
        list.push(id, waker.clone());
        drop(list);
        // Only now that the lock is free: that may run anything.
        drop(known);
    }

    /// The source has been looked at after so many events, and wakes at its next one.
    pub(super) fn looked(&self, events: u64) {
        let mut list = self.list();
        if list.has_event && events == self.events() {
            list.has_event = false;
            list.woken.clear();
        }
    }

    /// An operation has been polled: if it was woken for an event and nobody has looked since, another one is woken.
    fn pass_on(&self, id: OpId) -> MutexGuard<'_, List> {
        let mut list = self.list();
        if let Some(at) = list.woken.iter().position(|woken| *woken == id) {
            list.woken.swap_remove(at);
            if list.has_event
                && let Some(waker) = list.pop(Some(id))
            {
                drop(list);
                waker.wake();
                return self.list();
            }
        }
        list
    }

    /// The same for a source that the signal names; whether it still is to be.
    pub(super) fn polled(&self, id: OpId) -> bool {
        let mut list = self.pass_on(id);
        list.is_named = list.has_event && !list.woken.is_empty();
        list.is_named
    }

    /// The operation that was polled last, for what somebody has to do.
    pub(super) fn newest(&self) -> Option<Waker> {
        self.list().all().next().map(|(_, waker)| waker.clone())
    }

    /// Removes an operation that has ended.
    pub(super) fn remove(&self, id: OpId) {
        // Its waker is dropped when the lock is free again.
        let waker = self.list().take(id);
        drop(waker);
        drop(self.pass_on(id));
    }

    /// Those that were polled last.
    pub(super) fn latest(&self, count: usize, wakers: &mut Vec<Waker>) {
        wakers.extend(self.list().all().take(count).map(|(_, waker)| waker.clone()));
    }

    /// Wakes all, at an event after which there is no other.
    pub(super) fn wake_all(&self) {
        let mut list = self.list();
        let (few, order) = (std::mem::take(&mut list.few), std::mem::take(&mut list.order));
        list.stamps.clear();
        drop(list);
        order.into_values().chain(few).for_each(|(_, waker)| waker.wake());
    }
}

/// Where operations are listed that wait, so that they are removed there at their end.
#[derive(Debug, Default)]
pub(super) struct Listings {
    known: Table<Listing>,
}

/// Where one is.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// What wakes its owner.
    pub(super) waker: Option<Waker>,
    few: [Option<Slot>; LANES_FEW],
    /// Whether it is listed with more lanes than `few` can name.
    is_at_many: bool,
}

impl Listing {
    /// The lanes; of a group of `size`.
    pub(super) fn lanes(&self, size: usize) -> impl Iterator<Item = usize> + use<> {
        let few = if self.is_at_many { [None; LANES_FEW] } else { self.few };
        let all = if self.is_at_many { 0..size } else { 0..0 };
        few.into_iter().flatten().map(Slot::index).chain(all)
    }
}

impl Listings {
    fn get(&mut self, id: OpId) -> &mut Listing {
        if self.known.get(id).is_none() {
            self.known.insert(id, Listing::default());
        }
        self.known.get_mut(id).expect("just inserted")
    }

    /// Notes that an operation is listed with the lane of `slot`. A visitor is not noted, and is removed from all lanes.
    pub(super) fn note(&mut self, id: OpId, slot: Slot) {
        if id.is_visitor() {
            return;
        }
        let listing = self.get(id);
        if listing.few.contains(&Some(slot)) {
            return;
        }
        match listing.few.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(slot),
            None => listing.is_at_many = true,
        }
    }

    /// Sets what wakes the owner of an operation.
    pub(super) fn set_waker(&mut self, id: OpId, waker: &Waker) {
        let listing = self.get(id);
        if listing.waker.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            listing.waker = Some(waker.clone());
        }
    }

    /// What wakes the owner of an operation.
    pub(super) fn waker(&self, id: OpId) -> Option<Waker> {
        self.known.get(id)?.waker.clone()
    }

    /// Ends the list of an operation.
    pub(super) fn remove(&mut self, id: OpId) -> Option<Listing> {
        self.known.remove(id)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut list = self.list();
        list.has_event = true;
        self.events.fetch_add(1, Ordering::AcqRel);
        let was_named = std::mem::replace(&mut list.is_named, true);
        drop(list);
        if !was_named {
            self.signal.set(self.source);
        }
        for _ in 0..self.woken_max {
            // One at a time, so that no lock is held while a waker runs.
            let mut list = self.list();
            let Some(waker) = list.pop(None) else { return };
            if self.woken_max == usize::MAX {
                // Where all are woken, nobody passes anything on.
                list.woken.clear();
            }
            drop(list);
            if !planted::one_in(planted::Fault::LostWakeUp, 50) {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
impl Waiters {
    /// How many operations are listed.
    pub(super) fn len(&self) -> usize {
        let list = self.list();
        assert_eq!(list.order.len(), list.stamps.len(), "each is listed once");
        list.few.len() + list.order.len()
    }
}
