//! Operations that wait for events of one source, and which of them an event wakes.
//!
//! One operation that is polled does the work for all that wait for the same source. So an event wakes a few, not
//! all: with many outstanding operations the cost of an event does not grow with their number. Those that were polled
//! last are the likeliest to be polled again; some may be held and never be. An operation that was woken and has ended,
//! or waits for something else, without having looked at the source passes the event on to another one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use crate::channel::Mode;
use crate::proto::group::OpId;

/// How many operations an event wakes.
const WOKEN_MAX: usize = 64;

/// Whether any source has an event that has not been looked at.
pub(super) type Signal = Arc<AtomicBool>;

/// The operations that wait for one source.
#[derive(Debug)]
pub(super) struct Waiters {
    list: Mutex<List>,
    signal: Signal,
    woken_max: usize,
}

#[derive(Debug, Default)]
struct List {
    /// By the order of their last polls.
    order: BTreeMap<u64, (OpId, Waker)>,
    stamps: BTreeMap<OpId, u64>,
    next: u64,
    /// Those that were woken for an event that nobody has looked at.
    woken: Vec<OpId>,
    has_event: bool,
}

impl List {
    fn pop(&mut self) -> Option<Waker> {
        let (_, (id, waker)) = self.order.pop_last()?;
        self.stamps.remove(&id);
        self.woken.push(id);
        Some(waker)
    }
}

impl List {
    /// The same, but another one than `id`.
    fn pop_other(&mut self, id: OpId) -> Option<Waker> {
        let (stamp, _) = self.order.iter().rev().find(|(_, (other, _))| *other != id)?;
        let stamp = *stamp;
        let (other, waker) = self.order.remove(&stamp)?;
        self.stamps.remove(&other);
        self.woken.push(other);
        Some(waker)
    }
}

impl Waiters {
    pub(super) fn new(signal: &Signal) -> Arc<Self> {
        Arc::new(Self { list: Mutex::default(), signal: signal.clone(), woken_max: WOKEN_MAX })
    }

    /// An event wakes all: where events are rare, and must not be missed.
    pub(super) fn of_all(signal: &Signal) -> Arc<Self> {
        Arc::new(Self { list: Mutex::default(), signal: signal.clone(), woken_max: usize::MAX })
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

    /// Makes an operation known that waits, if it does.
    pub(super) fn enlist(&self, id: OpId, mode: Mode<'_>) {
        // One that nobody polls yet only tries: it would take the place of one that waits.
        if let Mode::Park(waker) = mode {
            self.add(id, waker);
        }
    }

    /// Adds an operation, as the one that was polled last.
    pub(super) fn add(&self, id: OpId, waker: &Waker) {
        let mut list = self.list();
        let newest = list.order.last_key_value();
        if newest.is_some_and(|(_, (known, knows))| *known == id && knows.will_wake(waker)) {
            return;
        }
        list.next += 1;
        let stamp = list.next;
        if let Some(before) = list.stamps.insert(id, stamp) {
            list.order.remove(&before);
        }
        list.order.insert(stamp, (id, waker.clone()));
    }

    /// The source has been looked at, and wakes at its next event.
    pub(super) fn looked(&self) {
        let mut list = self.list();
        if list.has_event {
            list.has_event = false;
            list.woken.clear();
        }
    }

    /// An operation has been polled: if it was woken for an event and nobody has looked since, another one is woken.
    /// Whether there still is an event.
    pub(super) fn polled(&self, id: OpId) -> bool {
        let mut list = self.list();
        let was_woken = list.woken.iter().position(|woken| *woken == id).map(|at| list.woken.swap_remove(at)).is_some();
        let next = if was_woken && list.has_event { list.pop_other(id) } else { None };
        let has_event = list.has_event && !list.woken.is_empty();
        drop(list);
        next.into_iter().for_each(Waker::wake);
        has_event
    }

    /// The operation that was polled last, for what somebody has to do.
    pub(super) fn newest(&self) -> Option<Waker> {
        self.list().order.last_key_value().map(|(_, (_, waker))| waker.clone())
    }

    /// Removes an operation that has ended.
    pub(super) fn remove(&self, id: OpId) {
        let mut list = self.list();
        if let Some(stamp) = list.stamps.remove(&id) {
            list.order.remove(&stamp);
        }
        drop(list);
        self.polled(id);
    }

    /// Those that were polled last.
    pub(super) fn latest(&self, count: usize) -> Vec<Waker> {
        self.list().order.values().rev().take(count).map(|(_, waker)| waker.clone()).collect()
    }

    /// Wakes all, at an event after which there is no other.
    pub(super) fn wake_all(&self) {
        let list = std::mem::take(&mut *self.list());
        list.order.into_values().for_each(|(_, waker)| waker.wake());
    }
}

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.list().has_event = true;
        self.signal.store(true, Ordering::Release);
        for _ in 0..self.woken_max {
            // One at a time, so that no lock is held while a waker runs.
            let mut list = self.list();
            let Some(waker) = list.pop() else { return };
            if self.woken_max == usize::MAX {
                // Where all are woken, nobody passes anything on.
                list.woken.clear();
            }
            drop(list);
            waker.wake();
        }
    }
}

#[cfg(test)]
impl Waiters {
    /// How many operations are listed.
    pub(super) fn len(&self) -> usize {
        let list = self.list();
        assert_eq!(list.order.len(), list.stamps.len(), "each is listed once");
        list.order.len()
    }
}
