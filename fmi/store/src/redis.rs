//! A store behind the protocol of Redis.
//!
//! - A body is the string `fmi/{scope/number}/id`, with its time to live: the braces have a cluster keep a shelf on one node.
//! - A bell is the list `fmi/{scope/number}/bell`, to which whoever writes a body appends the body's identifier in the same
//!   pipeline. It is bounded, and a hint: whoever waits for it (`BLPOP`) has the look at all names sent behind, so that the bodies
//!   come with the bell.
//! - A counter is the string `fmi/{scope/number}/id+`.
//!
//! One connection carries all requests, and one for each shelf that is waited on the waiting, which blocks it. Both are made
//! anew when they break. What was asked is asked again for [`RETRY_WITHIN`], except for a counter that may have counted. A request fails when no byte
//! has moved for [`SILENCE_MAX`] while an answer is due.
#![allow(clippy::wildcard_enum_match_arm, reason = "enums of libraries that grow")]

mod bell;
mod connection;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{Pipeline, RedisConnectionInfo, Value};
use bytes::Bytes;
use fmi_net::time::Instant;
use fmi_net::{BoxFuture, Net};
use futures_util::FutureExt;
use futures_util::future::Shared;

use self::bell::Bells;
use self::connection::{Connection, Failure, Place};
use crate::address::Address;
use crate::error::{Cause, Result, StoreError};
use crate::lan::Server;
use crate::ledger::{Ledger, Request};
use crate::name::{Name, Scope, Shelf};
use crate::seam::{Placed, Put, Store, Traits};

/// The longest body that a server takes, if nobody has configured it otherwise.
const BODY_BYTES_MAX: u64 = 512 << 20;
/// For so long no byte may move while an answer is due.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// For so long a request is repeated, from the first time on.
const RETRY_WITHIN: Duration = Duration::from_secs(30);
/// So many rings are kept for who does not wait just now. One would do, but that each names a body.
const RINGS_MAX: i64 = 64;
/// For so long a bell that rang without a body rings on.
const RING_LIVES: Duration = Duration::from_secs(60);
/// Names in one command, and keys in one page of a sweep.
const PAGE: usize = 500;

/// A connection that is being made, or is there.
type Opening = Shared<BoxFuture<std::result::Result<Arc<Connection>, Failure>>>;

/// A server that speaks the protocol of Redis.
pub(crate) struct RedisStore {
    place: Arc<Place>,
    traits: Traits,
    ledger: Ledger,
    opening: Mutex<Option<Opening>>,
    bells: Mutex<Bells>,
    /// Whether the server may drop a body before its time.
    evicts: AtomicBool,
    /// Whether `SET` knows no `NX GET`, as before version 7.
    is_old: AtomicBool,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("place", &self.traits.place).finish_non_exhaustive()
    }
}

fn key(name: Name) -> String {
    let Name { shelf, id } = name;
    format!("fmi/{{{shelf}}}/{:032x}", u128::from_be_bytes(id))
}

fn bell(shelf: Shelf) -> String {
    format!("fmi/{{{shelf}}}/bell")
}

/// The name of a body, if it is one's key.
fn named(key: &[u8]) -> Option<Name> {
    let text = std::str::from_utf8(key).ok()?.strip_prefix("fmi/{")?;
    let (shelf, id) = text.split_once("}/")?;
    Name::parse(&format!("{shelf}/{id}"))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 50)
}

/// An answer that the protocol does not allow.
fn garbage(value: &Value) -> Cause {
    let mut text = format!("{value:?}");
    text.truncate(text.char_indices().nth(80).map_or(text.len(), |(at, _)| at));
    Cause::Garbage(text)
}

fn body(value: Value) -> std::result::Result<Option<Bytes>, Cause> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes.into())),
        other => Err(garbage(&other)),
    }
}

/// The replies to a pipeline, one after the other.
struct Replies(std::vec::IntoIter<Value>);

impl Replies {
    fn next(&mut self) -> std::result::Result<Value, Cause> {
        self.0.next().ok_or_else(|| Cause::Garbage("an answer is missing".into()))
    }

    fn body(&mut self) -> std::result::Result<Option<Bytes>, Cause> {
        body(self.next()?)
    }

    fn number(&mut self) -> std::result::Result<u64, Cause> {
        match self.next()? {
            Value::Int(number) if number >= 0 => Ok(number.unsigned_abs()),
            other => Err(garbage(&other)),
        }
    }

    fn array(&mut self) -> std::result::Result<Vec<Value>, Cause> {
        match self.next()? {
            Value::Array(values) => Ok(values),
            other => Err(garbage(&other)),
        }
    }

    /// The bodies of these names, which were asked for together.
    fn bodies(&mut self, names: &[Name]) -> std::result::Result<BTreeMap<Name, Bytes>, Cause> {
        let values = self.array()?;
        if values.len() != names.len() {
            return Err(Cause::Garbage(format!("{} bodies for {} names", values.len(), names.len())));
        }
        let pairs = names.iter().zip(values).map(|(name, value)| Ok(body(value)?.map(|body| (*name, body))));
        pairs.filter_map(std::result::Result::transpose).collect()
    }
}

/// The first refusal among the replies.
fn refused(values: &[Value]) -> Option<Failure> {
    values.iter().find_map(|value| match value {
        Value::ServerError(error) => Some(connection::refusal(error.code(), error.details().unwrap_or_default())),
        _ => None,
    })
}

impl RedisStore {
    pub(crate) async fn connect(net: impl Net, address: Address) -> Result<Self> {
        let place = address.to_string();
        let failed = |cause| StoreError::new(&place, Request::Connect, cause);
        let settings = |text| failed(Cause::Settings(text));
        address.settings([]).map_err(settings)?;
        let mut account = RedisConnectionInfo::default().set_skip_set_lib_name();
        account = match (&address.user, &address.password) {
            (Some(_), None) => return Err(settings("a user is given without a password".into())),
            (Some(user), Some(password)) => account.set_username(user).set_password(password),
            (None, Some(password)) => account.set_password(password),
            (None, None) => account,
        };
        let database = address.path.trim_matches('/');
        if !database.is_empty() {
            let number: u32 =
                database.parse().map_err(|_| settings(format!("{database:?} is no number of a database")))?;
            account = account.set_db(number.into());
        }
        let is_encrypted = address.scheme == "rediss";
        let server = Server::new(net, &address.host, address.port.unwrap_or(6_379), is_encrypted).map_err(settings)?;
        let traits = Traits {
            place: place.clone(),
            body_bytes_max: BODY_BYTES_MAX,
            part_bytes: 1 << 20,
            at_once_max: 64,
            patience: None,
            has_if_absent: true,
            has_counters: true,
            expires: true,
            deletes_used: true,
        };
        let store = Self {
            place: Arc::new(Place { server, account }),
            traits,
            ledger: Ledger::default(),
            opening: Mutex::default(),
            bells: Mutex::default(),
            evicts: AtomicBool::new(false),
            is_old: AtomicBool::new(false),
        };
        store.probe().await?;
        Ok(store)
    }

    /// Finds out whether the server can be used, and whether it drops what it should keep.
    async fn probe(&self) -> Result<()> {
        let failed = |cause| self.failed(Request::Connect, cause);
        if let Err(Failure::Passing { cause, .. } | Failure::Lasting(cause)) = self.opened().await {
            return Err(failed(cause));
        }
        let mut commands = Pipeline::new();
        commands.cmd("EXISTS").arg("fmi/probe");
        let mut replies = self.ask(Request::Connect, 0, false, &commands).await?;
        replies.number().map_err(failed)?;
        // Whoever may not see that is not told.
        let mut commands = Pipeline::new();
        commands.cmd("INFO").arg("memory");
        let Ok(mut replies) = self.ask(Request::Connect, 0, false, &commands).await else { return Ok(()) };
        let Ok(Some(text)) = replies.body() else { return Ok(()) };
        let text = String::from_utf8_lossy(&text);
        let policy = text.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::trim);
        if let Some(policy) = policy.filter(|policy| *policy != "noeviction") {
            self.evicts.store(true, Ordering::Relaxed);
            tracing::warn!(
                store = self.traits.place,
                policy,
                "this server drops messages when its memory is full; set maxmemory-policy to noeviction"
            );
        }
        Ok(())
    }

    fn failed(&self, request: Request, cause: Cause) -> StoreError {
        self.traits.failed(request, cause)
    }

    fn now(&self) -> Instant {
        self.place.server.clock.now()
    }

    fn bells(&self) -> MutexGuard<'_, Bells> {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection for requests.
    async fn opened(&self) -> std::result::Result<Arc<Connection>, Failure> {
        let opening = {
            let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            let is_good = opening.as_ref().is_some_and(|opening| match opening.peek() {
                None => true,
                Some(opened) => opened.as_ref().is_ok_and(|connection| connection.is_usable()),
            });
            if !is_good {
                let place = self.place.clone();
                let open: BoxFuture<_> = Box::pin(async move { Connection::open(&place).await.map(Arc::new) });
                *opening = Some(open.shared());
            }
            opening.clone().expect("it was set above")
        };
        opening.await
    }

    /// Sends some commands and returns the replies, none of which is a refusal. What may pass is tried again for a while, but for what may
    /// have been done where `repeats` is false.
    async fn ask(&self, request: Request, bytes: usize, repeats: bool, commands: &Pipeline) -> Result<Replies> {
        let begun = self.now();
        let mut tries = 0;
        // Whether the last one is a miss, whoever reads a body knows.
        let mut is_counted = request != Request::Get;
        loop {
            let (failure, was_sent) = match self.opened().await {
                Err(failure) => (failure, false),
                Ok(connection) => {
                    if is_counted {
                        self.ledger.sent(request, bytes);
                    }
                    is_counted = true;
                    match connection.ask(commands, SILENCE_MAX).await {
                        Err(failure) => (failure, true),
                        Ok(values) => match refused(&values) {
                            Some(failure) => (failure, true),
                            None => return Ok(Replies(values.into_iter())),
                        },
                    }
                }
            };
            match failure {
                Failure::Passing { may_be_done, .. }
                    if self.now() - begun < RETRY_WITHIN && (repeats || !(was_sent && may_be_done)) =>
                {
                    self.place.server.pause(tries).await;
                    tries += 1;
                }
                Failure::Passing { cause, .. } | Failure::Lasting(cause) => return Err(self.failed(request, cause)),
            }
        }
    }

    /// Appends the ringing of bells to a pipeline.
    fn ring_in(commands: &mut Pipeline, shelves: &[Shelf], token: &[u8], lives: Duration) {
        for shelf in shelves {
            let bell = bell(*shelf);
            commands.cmd("RPUSH").arg(&bell).arg(token);
            commands.cmd("LTRIM").arg(&bell).arg(-RINGS_MAX).arg(-1);
            commands.cmd("PEXPIRE").arg(&bell).arg(millis(lives));
        }
    }

    async fn put_new(&self, put: &Put) -> Result<Placed> {
        loop {
            let is_old = self.is_old.load(Ordering::Relaxed);
            let mut commands = Pipeline::new();
            commands.cmd("SET").arg(key(put.name)).arg(&put.body[..]);
            commands.arg("PX").arg(millis(put.time_to_live)).arg("NX");
            if is_old {
                commands.cmd("GET").arg(key(put.name));
            } else {
                commands.arg("GET");
            }
            Self::ring_in(&mut commands, &put.ring, &put.name.id, put.time_to_live);
            let mut replies = match self.ask(Request::Put, put.body.len(), true, &commands).await {
                Err(StoreError { cause: Cause::Other(text), .. }) if !is_old && text.contains("syntax error") => {
                    self.is_old.store(true, Ordering::Relaxed);
                    continue;
                }
                other => other?,
            };
            let failed = |cause| self.failed(Request::Put, cause);
            let there = if !is_old {
                replies.body().map_err(failed)?
            } else if replies.next().map_err(failed)? == Value::Okay {
                None
            } else if let Some(there) = replies.body().map_err(failed)? {
                Some(there)
            } else {
                // Its time was over between the two.
                continue;
            };
            return Ok(match there {
                Some(there) if there != put.body => Placed::Occupied(there),
                Some(_) | None => Placed::Written,
            });
        }
    }

    async fn get_part(&self, name: Name, range: Option<Range<u64>>) -> Result<Option<Bytes>> {
        let mut commands = Pipeline::new();
        let failed = |cause| self.failed(Request::Get, cause);
        let Some(Range { start, end }) = range else {
            commands.cmd("GET").arg(key(name));
            return self.ask(Request::Get, 0, true, &commands).await?.body().map_err(failed);
        };
        let bound = |at: u64| i64::try_from(at).unwrap_or(i64::MAX);
        let is_empty = start >= end || start > i64::MAX.unsigned_abs();
        // A part of what is not there is as empty as one beyond the end, and it may come or go between two commands.
        commands.cmd("EXISTS").arg(key(name));
        if !is_empty {
            commands.cmd("GETRANGE").arg(key(name)).arg(bound(start)).arg(bound(end - 1));
        }
        commands.cmd("EXISTS").arg(key(name));
        let mut replies = self.ask(Request::Get, 0, true, &commands).await?;
        let was_there = replies.number().map_err(failed)? > 0;
        let part = if is_empty { Some(Bytes::new()) } else { replies.body().map_err(failed)? };
        let is_there = replies.number().map_err(failed)? > 0;
        Ok(part.filter(|_| was_there && is_there))
    }

    /// One page of a sweep: deletes of these keys what nobody has touched for `age`.
    async fn sweep_page(&self, keys: Vec<Value>, age: Duration) -> Result<u64> {
        let failed = |cause| self.failed(Request::List, cause);
        let keys: std::result::Result<Vec<_>, _> = keys.into_iter().map(body).collect();
        let mut keys: Vec<_> = keys.map_err(failed)?.into_iter().flatten().collect();
        if !age.is_zero() {
            let mut commands = Pipeline::new();
            for key in &keys {
                commands.cmd("OBJECT").arg("IDLETIME").arg(&key[..]);
            }
            if keys.is_empty() {
                return Ok(0);
            }
            let idle = match self.ask(Request::List, 0, true, &commands).await {
                Err(StoreError { cause: Cause::Other(text), .. }) => {
                    tracing::warn!(store = self.traits.place, text, "this server does not tell how old messages are");
                    return Ok(0);
                }
                other => other?.0,
            };
            let old = |(_, idle): &(Bytes, Value)| matches!(idle, Value::Int(it) if it.unsigned_abs() >= age.as_secs());
            keys = keys.into_iter().zip(idle).filter(old).map(|(key, _)| key).collect();
        }
        if keys.is_empty() {
            return Ok(0);
        }
        let mut commands = Pipeline::new();
        for key in &keys {
            commands.cmd("UNLINK").arg(&key[..]);
        }
        let deleted = self.ask(Request::Delete, 0, true, &commands).await?.0;
        let is_body = |(key, deleted): &(&Bytes, Value)| *deleted == Value::Int(1) && named(key).is_some();
        Ok(keys.iter().zip(deleted).filter(is_body).count() as u64)
    }
}

impl Store for RedisStore {
    fn traits(&self) -> &Traits {
        &self.traits
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn put(self: Arc<Self>, put: Put) -> BoxFuture<Result<Placed>> {
        Box::pin(async move {
            self.traits.check_length(&put.body)?;
            if put.only_if_absent {
                return self.put_new(&put).await;
            }
            let mut commands = Pipeline::new();
            commands.cmd("SET").arg(key(put.name)).arg(&put.body[..]).arg("PX").arg(millis(put.time_to_live));
            Self::ring_in(&mut commands, &put.ring, &put.name.id, put.time_to_live);
            self.ask(Request::Put, put.body.len(), true, &commands).await?;
            Ok(Placed::Written)
        })
    }

    fn get(self: Arc<Self>, name: Name, range: Option<Range<u64>>) -> BoxFuture<Result<Option<Bytes>>> {
        Box::pin(async move {
            let got = self.get_part(name, range).await;
            self.ledger.sent(if let Ok(None) = got { Request::Miss } else { Request::Get }, 0);
            if let Ok(Some(part)) = &got {
                self.ledger.received(part.len());
            }
            got
        })
    }

    fn wait(self: Arc<Self>, shelf: Shelf, names: Vec<Name>) -> BoxFuture<Result<Vec<(usize, Bytes)>>> {
        Box::pin(bell::wait(self, shelf, names))
    }

    fn ring(self: Arc<Self>, shelves: Vec<Shelf>) -> BoxFuture<Result<()>> {
        Box::pin(async move {
            if shelves.is_empty() {
                return Ok(());
            }
            let mut commands = Pipeline::new();
            Self::ring_in(&mut commands, &shelves, b"", RING_LIVES);
            self.ask(Request::Ring, 0, true, &commands).await?;
            Ok(())
        })
    }

    fn count(self: Arc<Self>, name: Name, add: u64, time_to_live: Duration) -> BoxFuture<Result<u64>> {
        Box::pin(async move {
            let key = format!("{}+", key(name));
            let mut commands = Pipeline::new();
            commands.cmd("INCRBY").arg(&key).arg(i64::try_from(add).unwrap_or(i64::MAX));
            commands.cmd("PEXPIRE").arg(&key).arg(millis(time_to_live));
            let mut replies = self.ask(Request::Count, 0, false, &commands).await?;
            replies.number().map_err(|cause| self.failed(Request::Count, cause))
        })
    }

    fn delete(self: Arc<Self>, mut names: Vec<Name>) -> BoxFuture<Result<()>> {
        Box::pin(async move {
            // Those of a shelf are on one node, and one command takes no others.
            names.sort_unstable();
            for page in names.chunks(PAGE) {
                let mut commands = Pipeline::new();
                for names in page.chunk_by(|one, other| one.shelf == other.shelf) {
                    commands.cmd("UNLINK").arg(names.iter().map(|name| key(*name)).collect::<Vec<_>>());
                }
                self.ask(Request::Delete, 0, true, &commands).await?;
            }
            Ok(())
        })
    }

    fn sweep(self: Arc<Self>, scope: Option<Scope>, age: Duration) -> BoxFuture<Result<u64>> {
        Box::pin(async move {
            let failed = |cause| self.failed(Request::List, cause);
            let pattern = scope.map_or_else(|| "fmi/{*".to_owned(), |scope| format!("fmi/{{{scope}/*"));
            let (mut cursor, mut swept) = (Bytes::from_static(b"0"), 0);
            loop {
                let mut commands = Pipeline::new();
                commands.cmd("SCAN").arg(&cursor[..]).arg("MATCH").arg(&pattern).arg("COUNT").arg(PAGE);
                let page = self.ask(Request::List, 0, true, &commands).await?.array().map_err(failed)?;
                let mut page = Replies(page.into_iter());
                cursor = page.body().map_err(failed)?.unwrap_or_default();
                swept += self.sweep_page(page.array().map_err(failed)?, age).await?;
                if cursor[..] == b"0"[..] {
                    return Ok(swept);
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_shelf_share_their_slot_and_only_bodies_have_names() {
        let shelf = Shelf { scope: Scope(*b"twelve bytes"), number: 258 };
        let name = Name { shelf, id: 7u128.to_be_bytes() };
        assert_eq!(key(name), format!("fmi/{{{shelf}}}/00000000000000000000000000000007"));
        assert_eq!(named(key(name).as_bytes()), Some(name));
        let slot = |key: &str| key.split_once('{').and_then(|(_, it)| Some(it.split_once('}')?.0.to_owned()));
        assert_eq!(slot(&key(name)), slot(&bell(shelf)));
        for other in [&bell(shelf), &format!("{}+", key(name)), "fmi/{", "else", ""] {
            assert_eq!(named(other.as_bytes()), None, "{other}");
        }
    }
}
