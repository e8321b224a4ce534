//! A store in this process: for threads, tests, and as the plainest statement of what a store does.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use fmi_net::time::Instant;
use fmi_net::{BoxFuture, Clock};

use crate::error::Result;
use crate::ledger::{Ledger, Request};
use crate::name::{Name, Scope, Shelf};
use crate::seam::{Placed, Put, Store, Traits};

/// The longest body.
const BODY_BYTES_MAX: u64 = 512 << 20;

/// Bodies in memory. Whoever shares it by `Arc` shares its bodies.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    traits: Traits,
    ledger: Ledger,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bodies: BTreeMap<Name, Entry>,
    counters: BTreeMap<Name, (u64, Instant)>,
    /// Those that wait for a bell: by shelf, and by a number of its own.
    waiting: BTreeMap<(Shelf, u64), Waker>,
    waits: u64,
}

struct Entry {
    body: Bytes,
    written_at: Instant,
    expires_at: Instant,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("bodies", &self.state().bodies.len()).finish_non_exhaustive()
    }
}

impl State {
    fn find(&self, name: Name, now: Instant) -> Option<&Bytes> {
        self.bodies.get(&name).filter(|entry| now < entry.expires_at).map(|entry| &entry.body)
    }

    fn ring(&mut self, shelves: &[Shelf]) -> Vec<Waker> {
        let waiting = |shelf: &Shelf| self.waiting.range((*shelf, 0)..=(*shelf, u64::MAX)).map(|(_, it)| it.clone());
        shelves.iter().flat_map(waiting).collect()
    }
}

impl MemoryStore {
    /// An empty store on the clock of a net.
    pub fn new(clock: impl Clock + 'static) -> Self {
        let traits = Traits {
            place: "memory".into(),
            body_bytes_max: BODY_BYTES_MAX,
            part_bytes: 1 << 20,
            at_once_max: usize::MAX,
            patience: None,
            has_if_absent: true,
            has_counters: true,
            expires: true,
            deletes_used: true,
        };
        Self { clock: Arc::new(clock), traits, ledger: Ledger::default(), state: Mutex::default() }
    }

    /// Has long messages cut into parts of this length.
    #[must_use]
    pub fn with_part_bytes(mut self, part_bytes: usize) -> Self {
        self.traits.part_bytes = part_bytes;
        self
    }

    /// How many bodies it holds whose time is not over.
    pub fn len(&self) -> usize {
        let now = self.clock.now();
        self.state().bodies.values().filter(|entry| now < entry.expires_at).count()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_now(&self, put: Put) -> Result<Placed> {
        self.ledger.sent(Request::Put, put.body.len());
        self.traits.check_length(&put.body)?;
        let now = self.clock.now();
        let mut state = self.state();
        if put.only_if_absent
            && let Some(there) = state.find(put.name, now)
            && *there != put.body
        {
            return Ok(Placed::Occupied(there.clone()));
        }
        // What is over makes room, so that a store that is used does not grow.
        state.bodies.retain(|_, entry| now < entry.expires_at);
        let entry = Entry { body: put.body, written_at: now, expires_at: now + put.time_to_live };
        state.bodies.insert(put.name, entry);
        let wakers = state.ring(&put.ring);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Ok(Placed::Written)
    }
}

/// Ends the entry of one who waits, whatever ends the wait.
struct Waiting {
    store: Arc<MemoryStore>,
    key: (Shelf, u64),
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.store.state().waiting.remove(&self.key);
    }
}

impl Store for MemoryStore {
    fn traits(&self) -> &Traits {
        &self.traits
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn put(self: Arc<Self>, put: Put) -> BoxFuture<Result<Placed>> {
        Box::pin(async move { self.put_now(put) })
    }

    fn get(self: Arc<Self>, name: Name, range: Option<Range<u64>>) -> BoxFuture<Result<Option<Bytes>>> {
        Box::pin(async move {
            let found = self.state().find(name, self.clock.now()).cloned();
            self.ledger.sent(if found.is_some() { Request::Get } else { Request::Miss }, 0);
            let Some(body) = found else { return Ok(None) };
            let Range { start, end } = range.unwrap_or(0..u64::MAX);
            let bound = |at: u64| usize::try_from(at).map_or(body.len(), |at| at.min(body.len()));
            let part = body.slice(bound(start.min(end))..bound(end));
            self.ledger.received(part.len());
            Ok(Some(part))
        })
    }

    fn wait(self: Arc<Self>, shelf: Shelf, names: Vec<Name>) -> BoxFuture<Result<Vec<(usize, Bytes)>>> {
        Box::pin(async move {
            self.ledger.sent(Request::Wait, 0);
            let number = {
                let mut state = self.state();
                state.waits += 1;
                state.waits
            };
            let waiting = Waiting { store: self, key: (shelf, number) };
            poll_fn(|cx| {
                let store = &waiting.store;
                let mut state = store.state();
                let now = store.clock.now();
                let there = |(at, name): (usize, &Name)| state.find(*name, now).map(|body| (at, body.clone()));
                let found: Vec<_> = names.iter().enumerate().filter_map(there).collect();
                if found.is_empty() {
                    state.waiting.insert(waiting.key, cx.waker().clone());
                    return Poll::Pending;
                }
                store.ledger.received(found.iter().map(|(_, body)| body.len()).sum());
                Poll::Ready(Ok(found))
            })
            .await
        })
    }

    fn ring(self: Arc<Self>, shelves: Vec<Shelf>) -> BoxFuture<Result<()>> {
        Box::pin(async move {
            self.ledger.sent(Request::Ring, 0);
            let wakers = self.state().ring(&shelves);
            wakers.into_iter().for_each(Waker::wake);
            Ok(())
        })
    }

    fn count(self: Arc<Self>, name: Name, add: u64, time_to_live: Duration) -> BoxFuture<Result<u64>> {
        Box::pin(async move {
            self.ledger.sent(Request::Count, 0);
            let now = self.clock.now();
            let mut state = self.state();
            let counter = state.counters.entry(name).or_insert((0, now));
            if counter.1 <= now {
                counter.0 = 0;
            }
            *counter = (counter.0.saturating_add(add), now + time_to_live);
            Ok(counter.0)
        })
    }

    fn delete(self: Arc<Self>, names: Vec<Name>) -> BoxFuture<Result<()>> {
        Box::pin(async move {
            self.ledger.sent(Request::Delete, 0);
            let mut state = self.state();
            for name in names {
                state.bodies.remove(&name);
            }
            Ok(())
        })
    }

    fn sweep(self: Arc<Self>, scope: Option<Scope>, age: Duration) -> BoxFuture<Result<u64>> {
        Box::pin(async move {
            self.ledger.sent(Request::List, 0);
            let now = self.clock.now();
            let mut state = self.state();
            let before = state.bodies.len();
            state.bodies.retain(|name, entry| {
                let is_meant = scope.is_none_or(|scope| name.shelf.scope == scope);
                !is_meant || now - entry.written_at < age
            });
            Ok((before - state.bodies.len()) as u64)
        })
    }
}
