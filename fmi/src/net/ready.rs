//! Which of many connections are to be polled. Each has a waker of its own, so that one that has something to say costs no
//! look at the others.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// Connections that are ready to be polled, and the task that polls them.
#[derive(Debug)]
pub(super) struct Ready<K> {
    queue: Mutex<(VecDeque<K>, Option<Waker>)>,
}

impl<K> Default for Ready<K> {
    fn default() -> Self {
        Self { queue: Mutex::default() }
    }
}

impl<K: Copy> Ready<K> {
    /// Makes the waker of a connection.
    pub(super) fn waker(self: &Arc<Self>, connection: K) -> Arc<ReadyWaker<K>> {
        Arc::new(ReadyWaker { connection, queued: AtomicBool::new(false), ready: self.clone() })
    }

    /// Takes the connections that are ready.
    pub(super) fn take(&self) -> VecDeque<K> {
        std::mem::take(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Has the task woken once a connection is ready, which may be at once.
    pub(super) fn park(&self, cx: &mut Context<'_>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.0.is_empty() {
            queue.1 = Some(cx.waker().clone());
        } else {
            cx.waker().wake_by_ref();
        }
    }
}

/// Makes one connection ready.
#[derive(Debug)]
pub(super) struct ReadyWaker<K> {
    connection: K,
    queued: AtomicBool,
    ready: Arc<Ready<K>>,
}

impl<K> ReadyWaker<K> {
    /// Notes that the connection is about to be polled: what happens from now on makes it ready again.
    pub(super) fn rearm(&self) {
        self.queued.store(false, Ordering::Release);
    }
}

impl<K: Copy + Send + Sync + 'static> Wake for ReadyWaker<K> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            let mut queue = self.ready.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.0.push_back(self.connection);
            if let Some(waker) = queue.1.take() {
                waker.wake();
            }
        }
    }
}
