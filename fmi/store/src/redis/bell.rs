//! Waiting for a bell, by all who wait in this process.
//!
//! Whoever waits first looks whether a body is there, then waits for the shelf's bell. A command that waits stays with the server when
//! the one who asked for it is dropped, and takes a ring then; so it belongs to the shelf, not to the one who waits. All who wait on a
//! shelf share it, and the look that follows it is at the names of all of them. Whoever may have missed a ring, because it
//! was heard on somebody else's behalf, looks again.
#![allow(clippy::wildcard_enum_match_arm, reason = "enums of libraries that grow")]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{Pipeline, Value};
use bytes::Bytes;
use fmi_net::BoxFuture;
use futures_util::FutureExt;
use futures_util::future::Shared;

use super::connection::{Connection, Failure, Place};
use super::{RETRY_WITHIN, RedisStore, Replies, SILENCE_MAX, bell, key, refused};
use crate::error::{Cause, Result};
use crate::ledger::Request;
use crate::name::{Name, Shelf};

/// After so long without a ring all look, in case that one was lost.
const UNHEARD_MAX: Duration = Duration::from_secs(3);
/// Connections that wait for nobody are closed when there are more shelves than this.
const SHELVES_MAX: usize = 8;

/// The shelves that somebody waits on, or has waited on.
#[derive(Default)]
pub(super) struct Bells {
    shelves: BTreeMap<Shelf, Waits>,
    waits: u64,
}

/// The waiting on one shelf.
#[derive(Default)]
struct Waits {
    /// The names that each who waits waits for.
    names: BTreeMap<u64, Vec<Name>>,
    hearing: Option<Hearing>,
    /// How many have ended.
    heard: u64,
    idle: Option<Connection>,
}

/// Waits for a ring, then looks.
type Hearing = Shared<BoxFuture<Arc<Heard>>>;

/// The result of that.
struct Heard {
    /// The names that were looked at.
    names: Vec<Name>,
    result: std::result::Result<Rung, Failure>,
    connection: std::sync::Mutex<Option<Connection>>,
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heard").finish_non_exhaustive()
    }
}

struct Rung {
    /// The body that the bell rang for, if it rang.
    announced: Option<Name>,
    bodies: BTreeMap<Name, Bytes>,
}

/// The bell, all other rings of it, and the look.
fn commands(shelf: Shelf, names: &[Name]) -> Pipeline {
    let mut commands = Pipeline::new();
    let bell = bell(shelf);
    commands.cmd("BLPOP").arg(&bell).arg(UNHEARD_MAX.as_secs());
    commands.cmd("DEL").arg(&bell);
    look(&mut commands, names);
    commands
}

fn look(commands: &mut Pipeline, names: &[Name]) {
    commands.cmd("MGET").arg(names.iter().map(|name| key(*name)).collect::<Vec<_>>());
}

fn read(shelf: Shelf, names: &[Name], values: Vec<Value>) -> std::result::Result<Rung, Failure> {
    if let Some(failure) = refused(&values) {
        return Err(failure);
    }
    let mut replies = Replies(values.into_iter());
    let read = |replies: &mut Replies| {
        let announced = match replies.next()? {
            Value::Nil => None,
            Value::Array(parts) => {
                let token = Replies(parts.into_iter().skip(1).collect::<Vec<_>>().into_iter()).body()?;
                token.and_then(|it| Some(Name { shelf, id: it.as_ref().try_into().ok()? }))
            }
            other => return Err(super::garbage(&other)),
        };
        replies.next()?;
        Ok(Rung { announced, bodies: replies.bodies(names)? })
    };
    read(&mut replies).map_err(Failure::Lasting)
}

async fn hear(place: Arc<Place>, idle: Option<Connection>, shelf: Shelf, names: Vec<Name>) -> Arc<Heard> {
    let opened = match idle {
        Some(connection) => Ok(connection),
        None => Connection::open(&place).await,
    };
    let (result, connection) = match opened {
        Err(failure) => (Err(failure), None),
        Ok(connection) => match connection.ask(&commands(shelf, &names), UNHEARD_MAX + SILENCE_MAX).await {
            Err(failure) => (Err(failure), None),
            Ok(values) => (read(shelf, &names, values), Some(connection)),
        },
    };
    Arc::new(Heard { names, result, connection: connection.into() })
}

/// One who waits, until it is dropped.
struct Waiting {
    store: Arc<RedisStore>,
    shelf: Shelf,
    number: u64,
}

impl Waiting {
    fn begin(store: Arc<RedisStore>, shelf: Shelf, names: Vec<Name>) -> Self {
        let mut bells = store.bells();
        bells.waits += 1;
        let number = bells.waits;
        if bells.shelves.len() >= SHELVES_MAX {
            bells.shelves.retain(|_, waits| !waits.names.is_empty());
        }
        bells.shelves.entry(shelf).or_default().names.insert(number, names);
        drop(bells);
        Self { store, shelf, number }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Waits) -> T) -> T {
        act(self.store.bells().shelves.entry(self.shelf).or_default())
    }

    /// What is heard next, and how often something was before.
    fn hearing(&self) -> (Hearing, u64) {
        self.with(|waits| {
            if waits.hearing.is_none() {
                let mut names: Vec<_> = waits.names.values().flatten().copied().collect();
                names.sort_unstable();
                names.dedup();
                let idle = waits.idle.take().filter(Connection::is_usable);
                let hear: BoxFuture<_> = Box::pin(hear(self.store.place.clone(), idle, self.shelf, names));
                waits.hearing = Some(hear.shared());
                self.store.ledger.sent(Request::Wait, 0);
            }
            (waits.hearing.clone().expect("it was set above"), waits.heard)
        })
    }

    /// Notes that something was heard, if nobody else has.
    fn ended(&self, hearing: &Hearing, heard: &Heard) {
        let is_first = self.with(|waits| {
            let is_first = waits.hearing.as_ref().is_some_and(|it| it.ptr_eq(hearing));
            if is_first {
                waits.hearing = None;
                waits.heard += 1;
                waits.idle = heard.connection.lock().ok().and_then(|mut it| it.take());
            }
            is_first
        });
        if let (true, Ok(rung)) = (is_first, &heard.result) {
            self.store.ledger.received(rung.bodies.values().map(Bytes::len).sum());
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let number = self.number;
        self.with(|waits| waits.names.remove(&number));
    }
}

/// Those of `names` that are there, by their index.
fn found(names: &[Name], bodies: &BTreeMap<Name, Bytes>) -> Vec<(usize, Bytes)> {
    names.iter().enumerate().filter_map(|(at, name)| Some((at, bodies.get(name)?.clone()))).collect()
}

pub(super) async fn wait(store: Arc<RedisStore>, shelf: Shelf, names: Vec<Name>) -> Result<Vec<(usize, Bytes)>> {
    if names.is_empty() {
        return std::future::pending().await;
    }
    let waiting = Waiting::begin(store.clone(), shelf, names.clone());
    let mut failing_since = None;
    let mut tries = 0;
    loop {
        let mut heard_before = waiting.with(|waits| waits.heard);
        let mut commands = Pipeline::new();
        look(&mut commands, &names);
        let mut replies = store.ask(Request::Wait, 0, true, &commands).await?;
        let bodies = replies.bodies(&names).map_err(|cause| store.failed(Request::Wait, cause))?;
        let there = found(&names, &bodies);
        if !there.is_empty() {
            store.ledger.received(there.iter().map(|(_, body)| body.len()).sum());
            return Ok(there);
        }
        loop {
            let (hearing, heard) = waiting.hearing();
            if heard != heard_before {
                break;
            }
            let heard = hearing.clone().await;
            waiting.ended(&hearing, &heard);
            heard_before += 1;
            let rung = match &heard.result {
                Ok(rung) => rung,
                Err(Failure::Passing { cause, .. }) => {
                    let since = *failing_since.get_or_insert_with(|| store.now());
                    if store.now() - since >= RETRY_WITHIN {
                        return Err(store.failed(Request::Wait, cause.clone()));
                    }
                    store.place.server.pause(tries).await;
                    tries += 1;
                    break;
                }
                Err(Failure::Lasting(cause)) => return Err(store.failed(Request::Wait, cause.clone())),
            };
            (failing_since, tries) = (None, 0);
            let there = found(&names, &rung.bodies);
            if !there.is_empty() {
                return Ok(there);
            }
            if names.iter().any(|name| heard.names.binary_search(name).is_err()) {
                break;
            }
            let announced = rung.announced.filter(|name| names.contains(name));
            if let Some(name) = announced.filter(|_| store.evicts.load(std::sync::atomic::Ordering::Relaxed)) {
                return Err(store.failed(Request::Wait, Cause::Evicted(name.to_string())));
            }
        }
    }
}
