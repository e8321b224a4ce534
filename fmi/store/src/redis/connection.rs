//! One connection. It is driven by whoever waits for a reply on it: nothing is spawned.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, ErrorKind, Pipeline, RedisConnectionInfo, RedisError, Value};
use fmi_net::time::Instant;
use fmi_net::{BoxFuture, Clock, Timer};
use futures_util::FutureExt;
use futures_util::future::Shared;

use crate::error::Cause;
use crate::lan::{CONNECT_WITHIN, Noted, Server};

/// A connection that nobody has used for so long may have been forgotten by what lies between; another one is made.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Why a request has no answer.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// It may be otherwise the next time. Whether the server may have done it all the same.
    Passing { cause: Cause, may_be_done: bool },
    /// It will not.
    Lasting(Cause),
}

/// A server of Redis, and who we are there.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) server: Server,
    pub(crate) account: RedisConnectionInfo,
}

/// A connection that several requests may use at once.
pub(crate) struct Connection {
    handle: MultiplexedConnection,
    /// Moves bytes. It must be polled by everybody who waits for a reply; the last one who polled it may be dropped at any time, so
    /// what moves wakes all of them.
    driver: Shared<BoxFuture<()>>,
    clock: Arc<dyn Clock>,
    /// When bytes last moved, in nanoseconds since the origin.
    moved_at: Arc<AtomicU64>,
    is_broken: AtomicBool,
    uses: AtomicUsize,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("is_broken", &self.is_broken).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects and logs in.
    pub(crate) async fn open(place: &Place) -> Result<Self, Failure> {
        let clock = place.server.clock.clone();
        let moved_at = Arc::new(AtomicU64::new(0));
        let opening = async {
            let link = place.server.connect().await.map_err(|error| passing(error.to_string()))?;
            let stream = Noted::new(link, clock.clone(), moved_at.clone());
            // Its timers would be the system's.
            let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
            MultiplexedConnection::new_with_config(&place.account, stream, config)
                .await
                .map_err(|error| failure(&error))
        };
        let opened = place.server.within(clock.now() + CONNECT_WITHIN, opening).await;
        let (handle, driver) = opened
            .unwrap_or_else(|| Err(passing(format!("it did not greet within {} s", CONNECT_WITHIN.as_secs()))))?;
        let driver: BoxFuture<()> = Box::pin(driver);
        let (is_broken, uses) = (AtomicBool::new(false), AtomicUsize::new(0));
        Ok(Self { handle, driver: driver.shared(), clock, moved_at, is_broken, uses })
    }

    /// Whether another request may be sent on it.
    pub(crate) fn is_usable(&self) -> bool {
        let idle = self.clock.now() - Instant::from_nanos(self.moved_at.load(Ordering::Relaxed));
        let is_idle = self.uses.load(Ordering::Relaxed) == 0 && idle > IDLE_MAX;
        !self.is_broken.load(Ordering::Relaxed) && self.driver.peek().is_none() && !is_idle
    }

    /// Sends some commands and returns the reply to each. It fails when no byte has moved for `silence_max`.
    ///
    /// # Cancel safety
    /// Once begun the commands may be carried out though this is dropped; their replies are then passed over.
    pub(crate) async fn ask(&self, commands: &Pipeline, silence_max: Duration) -> Result<Vec<Value>, Failure> {
        let _use = Use::begin(self);
        let mut handle = self.handle.clone();
        let asking = async {
            // Of a single command the library tells when the answer is of another protocol.
            let mut each = commands.cmd_iter();
            match (each.next(), each.next()) {
                (Some(command), None) => handle.send_packed_command(command).await.map(|value| vec![value]),
                _ => handle.send_packed_commands(commands, 0, commands.len()).await,
            }
        };
        let mut answer = pin!(asking);
        let mut driver = Some(self.driver.clone());
        let mut timer = Timer::new(self.clock.clone());
        let answer = poll_fn(|cx| {
            loop {
                if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                    return Poll::Ready(answer.map_err(|error| failure(&error)));
                }
                let Some(driving) = &mut driver else { return Poll::Ready(Err(passing("the connection ended"))) };
                if driving.poll_unpin(cx).is_ready() {
                    driver = None;
                    continue;
                }
                // What the driver has read may be the answer.
                if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                    return Poll::Ready(answer.map_err(|error| failure(&error)));
                }
                let end = Instant::from_nanos(self.moved_at.load(Ordering::Relaxed)) + silence_max;
                if !timer.poll_until(cx, end) {
                    return Poll::Pending;
                }
                let moved_at = Instant::from_nanos(self.moved_at.load(Ordering::Relaxed));
                if moved_at + silence_max <= self.clock.now() {
                    return Poll::Ready(Err(passing(format!("no answer for {} s", silence_max.as_secs()))));
                }
            }
        })
        .await;
        if answer.is_err() {
            self.is_broken.store(true, Ordering::Relaxed);
        }
        answer
    }
}

/// A request on its way.
struct Use<'a>(&'a Connection);

impl<'a> Use<'a> {
    fn begin(connection: &'a Connection) -> Self {
        if connection.uses.fetch_add(1, Ordering::Relaxed) == 0 {
            // The silence before nobody minded.
            connection.moved_at.store(connection.clock.now().as_nanos(), Ordering::Relaxed);
        }
        Self(connection)
    }
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        self.0.uses.fetch_sub(1, Ordering::Relaxed);
    }
}

fn passing(text: impl Into<String>) -> Failure {
    Failure::Passing { cause: Cause::Unreachable(text.into()), may_be_done: true }
}

/// What the library says of a connection, or the server while one is made.
fn failure(error: &RedisError) -> Failure {
    let said = error.detail().map_or_else(|| error.to_string(), ToOwned::to_owned);
    match (error.kind(), error.code()) {
        (_, Some(code)) => refusal(code, &said),
        (ErrorKind::Io, None) => passing(said),
        (ErrorKind::AuthenticationFailed, None) => Failure::Lasting(Cause::Denied(said)),
        (ErrorKind::Parse | ErrorKind::UnexpectedReturnType, None) => Failure::Lasting(Cause::Garbage(said)),
        _ => Failure::Lasting(Cause::Other(said)),
    }
}

/// What a refusal of the server means: its first word says.
pub(crate) fn refusal(code: &str, said: &str) -> Failure {
    const CLUSTER: &str = "a cluster of several nodes; give the URL of one that has all keys";
    let text = format!("{code} {said}");
    match code {
        "OOM" => Failure::Lasting(Cause::Full(text)),
        "NOPERM" | "NOAUTH" | "WRONGPASS" | "DENIED" => Failure::Lasting(Cause::Denied(text)),
        "MOVED" | "ASK" | "CROSSSLOT" => Failure::Lasting(Cause::Unsupported(CLUSTER)),
        "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "READONLY" | "BUSY" => {
            Failure::Passing { cause: Cause::Unreachable(text), may_be_done: false }
        }
        "ERR" if said.contains("max number of clients") => {
            Failure::Passing { cause: Cause::Throttled { after: None, text }, may_be_done: false }
        }
        "ERR"
            if ["invalid password", "without any password", "refused to authenticate"]
                .iter()
                .any(|it| said.contains(it)) =>
        {
            Failure::Lasting(Cause::Denied(text))
        }
        _ => Failure::Lasting(Cause::Other(text)),
    }
}
