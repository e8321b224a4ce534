//! Operations that wait for one event, and how many of them it wakes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use crate::proto::group::OpId;

/// How many operations an event wakes: those that were polled last, since what was polled is likely to be polled
/// again. One would be enough to do the work for all, but an operation may be held and never be polled again.
const WOKEN_MAX: usize = 64;

/// Who waits for a channel, or for what concerns all operations. An operation that is woken waits no longer, until
/// it is polled again.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    /// By the order of their last polls.
    order: BTreeMap<u64, (OpId, Waker)>,
    stamps: BTreeMap<OpId, u64>,
    next: u64,
}

impl Waiters {
    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Removes an operation that has ended.
    pub(super) fn remove(&self, id: OpId) {
        let mut list = self.list();
        if let Some(stamp) = list.stamps.remove(&id) {
            list.order.remove(&stamp);
        }
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
        for _ in 0..WOKEN_MAX {
            // One at a time, so that no lock is held while a waker runs.
            let mut list = self.list();
            let Some((_, (id, waker))) = list.order.pop_last() else { return };
            list.stamps.remove(&id);
            drop(list);
            waker.wake();
        }
    }
}
