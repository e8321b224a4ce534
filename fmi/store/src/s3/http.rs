//! HTTP over connections of a net: what the library of object stores asks goes through here. Nothing is spawned: a connection is driven by
//! the request that uses it, and kept for the next one.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fmi_net::time::Instant;
use fmi_net::{BoxFuture, Timer};
use http::header::{HOST, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};

use super::sign::{self, Credentials, Occasion};
use crate::lan::{CONNECT_WITHIN, Noted, Server};

/// For so long no byte may move while an answer is due.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Servers close connections that nobody uses, and functions that were frozen do not notice.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// A server of objects, and who we are there.
pub(super) struct Http {
    pub(super) server: Server,
    /// As in the header `Host`.
    pub(super) authority: String,
    pub(super) is_encrypted: bool,
    pub(super) region: String,
    pub(super) credentials: Credentials,
    idle: Mutex<Vec<Connection>>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("authority", &self.authority).finish_non_exhaustive()
    }
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: BoxFuture<()>,
    moved_at: Arc<AtomicU64>,
    used_at: Instant,
}

/// Why there is no answer, or which one there is instead. It is found again in the errors of the library.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Unreachable(String),
    #[error("{status}: {body}")]
    Refused { status: u16, body: String },
}

/// A failure that the library does not try to mend.
fn failed(text: impl fmt::Display) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, Fault::Unreachable(text.to_string()))
}

impl Http {
    pub(super) fn new(
        server: Server,
        authority: String,
        is_encrypted: bool,
        region: String,
        credentials: Credentials,
    ) -> Self {
        Self { server, authority, is_encrypted, region, credentials, idle: Mutex::default() }
    }

    async fn connect(&self) -> Result<Connection, HttpError> {
        let clock = self.server.clock.clone();
        let moved_at = Arc::new(AtomicU64::new(clock.now().as_nanos()));
        let connecting = async {
            let link = self.server.connect().await.map_err(failed)?;
            let stream = Noted::new(link, clock.clone(), moved_at.clone());
            handshake(TokioIo::new(stream)).await.map_err(failed)
        };
        let connected = self.server.within(clock.now() + CONNECT_WITHIN, connecting).await;
        let late = || failed(format!("no connection within {} s", CONNECT_WITHIN.as_secs()));
        let (sender, driver) = connected.ok_or_else(late)??;
        // What ends it, the request is told as well.
        let driver = Box::pin(async move { drop(driver.await) });
        Ok(Connection { sender, driver, moved_at, used_at: clock.now() })
    }

    fn take_idle(&self) -> Option<Connection> {
        let now = self.server.clock.now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| now - connection.used_at <= IDLE_MAX);
        idle.pop()
    }

    /// Sends a request and reads all of the answer.
    async fn exchange(
        &self,
        connection: &mut Connection,
        request: http::Request<Full<Bytes>>,
    ) -> Result<http::Response<Bytes>, HttpError> {
        let clock = &self.server.clock;
        let Connection { sender, driver, moved_at, .. } = connection;
        moved_at.store(clock.now().as_nanos(), Ordering::Relaxed);
        let exchange = async {
            sender.ready().await?;
            let (parts, body) = sender.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(http::Response::from_parts(parts, body))
        };
        let mut exchange = pin!(exchange);
        let mut is_over = false;
        let mut timer = Timer::new(clock.clone());
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(answer) = exchange.as_mut().poll(cx) {
                    return Poll::Ready(answer.map_err(|error: hyper::Error| failed(error)));
                }
                if !is_over && driver.as_mut().poll(cx).is_ready() {
                    is_over = true;
                    continue;
                }
                if let Poll::Ready(answer) = exchange.as_mut().poll(cx) {
                    return Poll::Ready(answer.map_err(|error: hyper::Error| failed(error)));
                }
                if is_over {
                    return Poll::Ready(Err(failed("the connection ended")));
                }
                let end = Instant::from_nanos(moved_at.load(Ordering::Relaxed)) + SILENCE_MAX;
                if !timer.poll_until(cx, end) {
                    return Poll::Pending;
                }
                if Instant::from_nanos(moved_at.load(Ordering::Relaxed)) + SILENCE_MAX <= clock.now() {
                    let text = format!("no answer for {} s", SILENCE_MAX.as_secs());
                    return Poll::Ready(Err(failed(text)));
                }
            }
        })
        .await
    }
}

#[async_trait]
impl HttpService for Http {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let wrong = |error: &dyn fmt::Display| failed(error);
        parts.headers.insert(HOST, HeaderValue::from_str(&self.authority).map_err(|error| wrong(&error))?);
        let occasion = Occasion { region: &self.region, at: self.server.clock.unix_time() };
        let signed = (!self.is_encrypted).then_some(&body[..]);
        sign::sign(&self.credentials, occasion, (&parts.method, &parts.uri), &mut parts.headers, signed)
            .map_err(|error| wrong(&error))?;
        let target = parts.uri.path_and_query().map_or("/", |it| it.as_str()).parse::<http::Uri>();
        parts.uri = target.map_err(|error| wrong(&error))?;
        let request = || http::Request::from_parts(parts.clone(), Full::new(body.clone()));
        let mut kept = self.take_idle();
        let answer = match &mut kept {
            Some(connection) => self.exchange(connection, request()).await.ok(),
            None => None,
        };
        let (answer, mut connection) = match (answer, kept) {
            (Some(answer), Some(connection)) => (answer, connection),
            // It may have been closed meanwhile; all that is asked here may be asked again.
            _ => {
                let mut connection = self.connect().await?;
                (self.exchange(&mut connection, request()).await?, connection)
            }
        };
        if !connection.sender.is_closed() {
            connection.used_at = self.server.clock.now();
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        let (parts, body) = answer.into_parts();
        if !parts.status.is_success() {
            let (status, body) = (parts.status.as_u16(), String::from_utf8_lossy(&body).into_owned());
            return Err(HttpError::new(HttpErrorKind::Unknown, Fault::Refused { status, body }));
        }
        Ok(HttpResponse::from_parts(parts, body.into()))
    }
}

/// Gives the library one service for all that it asks.
#[derive(Clone, Debug)]
pub(super) struct Connector(pub(super) Arc<Http>);

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.0.call(request).await
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}
