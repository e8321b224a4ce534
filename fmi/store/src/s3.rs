//! A store behind the protocol of S3: AWS, and servers that speak it.
//!
//! A body is the object `prefix/scope/number/id`; a scope is made by a hash, so that groups spread over the partitions of a bucket. There are no bells:
//! a wait asks for its names again and again ([`Patience`]), or lists the shelf where that is cheaper. Nothing expires
//! by itself; whoever has read a body deletes it, a sweep takes the rest, and a rule of the bucket should end what is left.
//!
//! The library asks through connections of the net ([`http`]) and neither signs nor retries: both would read the clock of the machine. What fails
//! in passing is asked again for [`RETRY_WITHIN`].

mod digest;
mod http;
mod sign;

use std::collections::BTreeSet;
use std::env;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fmi_net::{BoxFuture, Net};
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{
    ClientOptions, Error, GetOptions, GetRange, ObjectMeta, ObjectStore, PutMode, PutOptions, RetryConfig,
};

use self::digest::Digests;
use self::http::{Connector, Fault, Http};
use self::sign::Credentials;
use crate::address::{Address, host_and_port};
use crate::error::{Cause, Result, StoreError};
use crate::lan::Server;
use crate::ledger::{Ledger, Request};
use crate::name::{Name, Scope, Shelf};
use crate::patience::Patience;
use crate::seam::{Placed, Put, Store, Traits};

/// The longest body: more goes in several.
const BODY_BYTES_MAX: u64 = 512 << 20;
/// For so long a request is repeated, from the first time on.
const RETRY_WITHIN: Duration = Duration::from_secs(30);
/// Requests of one wait that are on their way at once.
const LOOKS_AT_ONCE: usize = 16;
/// From so many names on a wait lists their shelf: a list costs as much as twelve looks.
const LIST_FROM: usize = 13;
/// Objects that one request deletes or lists.
const PAGE: usize = 1_000;

/// A bucket.
pub(crate) struct S3Store {
    http: Arc<Http>,
    bucket: AmazonS3,
    prefix: String,
    traits: Traits,
    ledger: Ledger,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store").field("place", &self.traits.place).finish_non_exhaustive()
    }
}

/// Why a request failed, as far as anything is done about it.
enum Failure {
    NotFound,
    Occupied,
    /// A part was asked for that lies beyond the end.
    Beyond,
    Passing(Cause),
    Lasting(Cause),
}

/// The credentials of a URL, or of the environment.
fn credentials(address: &Address) -> std::result::Result<Credentials, String> {
    if let (Some(key), Some(secret)) = (&address.user, &address.password) {
        return Ok(Credentials { key: key.clone(), secret: secret.clone(), token: None });
    }
    let of = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let (key, secret) = (of("AWS_ACCESS_KEY_ID"), of("AWS_SECRET_ACCESS_KEY"));
    let (Some(key), Some(secret)) = (key, secret) else {
        return Err("no credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set".into());
    };
    Ok(Credentials { key, secret, token: of("AWS_SESSION_TOKEN") })
}

impl S3Store {
    pub(crate) async fn connect(net: impl Net, address: Address) -> Result<Self> {
        let place = address.to_string();
        let settings = |text| StoreError::new(&place, Request::Connect, Cause::Settings(text));
        let [endpoint, region] = address.settings(["endpoint", "region"]).map_err(settings)?;
        let region = region.map(ToOwned::to_owned).or_else(|| env::var("AWS_REGION").ok());
        let region = region.or_else(|| env::var("AWS_DEFAULT_REGION").ok()).unwrap_or_else(|| "us-east-1".into());
        let bucket = &address.host;
        // A certificate is for one label before the region.
        let is_virtual = endpoint.is_none() && !bucket.contains('.');
        let endpoint = match endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None if is_virtual => format!("https://{bucket}.s3.{region}.amazonaws.com"),
            None => format!("https://s3.{region}.amazonaws.com"),
        };
        let (scheme, authority) = endpoint.split_once("://").unwrap_or_default();
        let is_encrypted = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(settings(format!("the endpoint {endpoint:?} begins with neither http:// nor https://"))),
        };
        let (host, port) = host_and_port(authority).map_err(|text| settings(format!("of the endpoint, {text}")))?;
        let port = port.unwrap_or(if is_encrypted { 443 } else { 80 });
        let server = Server::new(net, host, port, is_encrypted).map_err(settings)?;
        let credentials = credentials(&address).map_err(settings)?;
        let http = Http::new(server, authority.to_owned(), is_encrypted, region.clone(), credentials);
        let http = Arc::new(http);
        let built = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&region)
            .with_endpoint(&endpoint)
            .with_virtual_hosted_style_request(is_virtual)
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_skip_signature(true)
            .with_crypto_provider(Arc::new(Digests))
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(Connector(http.clone()))
            .build();
        let prefix = address.path.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let traits = Traits {
            place: place.clone(),
            body_bytes_max: BODY_BYTES_MAX,
            part_bytes: 8 << 20,
            at_once_max: 16,
            patience: Some(Patience { pause_min: Duration::from_millis(10), pause_max: Duration::from_secs(2) }),
            has_if_absent: true,
            has_counters: false,
            expires: false,
            deletes_used: true,
        };
        let bucket = built.map_err(|error| settings(error.to_string()))?;
        let store = Self { http, bucket, prefix, traits, ledger: Ledger::default() };
        store.probe().await?;
        Ok(store)
    }

    /// Finds out what is permitted, and names what is not: later, a message that is not there and one that may not be read
    /// would look the same.
    async fn probe(&self) -> Result<()> {
        let mut draw = [0; 16];
        self.http.server.fill_entropy(&mut draw);
        let path = |what| self.path(&format!("probe/{:032x}{what}", u128::from_le_bytes(draw)));
        let (there, absent) = (path(""), path("-absent"));
        let needs = |result: std::result::Result<(), StoreError>, permission: &str| match result {
            Err(StoreError { store, request, cause: Cause::Denied(text) }) => {
                Err(StoreError { store, request, cause: Cause::Denied(format!("{permission} is missing: {text}")) })
            }
            other => other,
        };
        let written = self.put_object(Request::Connect, &there, &Bytes::from_static(b"probe"), false).await;
        needs(written.map(drop), "s3:PutObject")?;
        let read = self.get_object(Request::Connect, &there, None).await;
        needs(read.map(drop), "s3:GetObject")?;
        let missed = self.get_object(Request::Connect, &absent, None).await;
        needs(missed.map(drop), "s3:ListBucket, without which what is not there looks forbidden,")?;
        if let Err(error) = self.delete_objects(Request::Connect, vec![there]).await {
            tracing::warn!(store = self.traits.place, %error, "messages stay in the bucket: they cannot be deleted");
        }
        Ok(())
    }

    fn failed(&self, request: Request, cause: Cause) -> StoreError {
        self.traits.failed(request, cause)
    }

    fn path(&self, key: &str) -> Path {
        Path::from(format!("{}{key}", self.prefix))
    }

    fn name(&self, name: Name) -> Path {
        self.path(&name.to_string())
    }

    /// Asks until there is an answer, or a failure that will not pass. Each time is counted, except for the first one of a
    /// body: whoever reads it knows whether it was a miss.
    async fn ask<T, F>(
        &self,
        request: Request,
        bytes: usize,
        once: impl Fn() -> F,
    ) -> Result<std::result::Result<T, Failure>>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let clock = &self.http.server.clock;
        let begun = clock.now();
        let mut tries = 0;
        loop {
            if request != Request::Get || tries > 0 {
                self.ledger.sent(request, bytes);
            }
            match once().await.map_err(|error| failure(&error)) {
                Ok(it) => return Ok(Ok(it)),
                // Whoever has just given the URL is told at once.
                Err(Failure::Passing(cause)) if clock.now() - begun < RETRY_WITHIN && !is_hopeless(request, &cause) => {
                    drop(cause);
                    self.http.server.pause(tries).await;
                    tries += 1;
                }
                Err(Failure::Passing(cause) | Failure::Lasting(cause)) => return Err(self.failed(request, cause)),
                Err(other) => return Ok(Err(other)),
            }
        }
    }

    /// Writes an object; false if it was to be the first one there and is not.
    async fn put_object(&self, request: Request, path: &Path, body: &Bytes, is_first: bool) -> Result<bool> {
        let mode = if is_first { PutMode::Create } else { PutMode::Overwrite };
        let once = || self.bucket.put_opts(path, body.clone().into(), PutOptions::from(mode.clone()));
        match self.ask(request, body.len(), once).await? {
            Ok(_) => Ok(true),
            Err(Failure::Occupied) => Ok(false),
            Err(_) => Err(self.failed(request, Cause::Missing(format!("the bucket of {path}")))),
        }
    }

    async fn get_object(&self, request: Request, path: &Path, range: Option<Range<u64>>) -> Result<Option<Bytes>> {
        let is_empty = range.as_ref().is_some_and(Range::is_empty);
        let part = range.filter(|_| !is_empty).map(|Range { start, end }| {
            if end == u64::MAX { GetRange::Offset(start) } else { GetRange::Bounded(start..end) }
        });
        let once = || async {
            let options = GetOptions { range: part.clone(), head: is_empty, ..GetOptions::default() };
            let got = self.bucket.get_opts(path, options).await?;
            if is_empty { Ok(Bytes::new()) } else { got.bytes().await }
        };
        match self.ask(request, 0, once).await? {
            Ok(body) => Ok(Some(body)),
            Err(Failure::Beyond) => Ok(Some(Bytes::new())),
            Err(_) => Ok(None),
        }
    }

    /// Reads a body, and counts that.
    async fn look(&self, name: Name, range: Option<Range<u64>>) -> Result<Option<Bytes>> {
        let got = self.get_object(Request::Get, &self.name(name), range).await;
        self.ledger.sent(if let Ok(None) = got { Request::Miss } else { Request::Get }, 0);
        if let Ok(Some(body)) = &got {
            self.ledger.received(body.len());
        }
        got
    }

    /// Deletes objects; how many requests that takes is the library's to say, for each page one.
    async fn delete_objects(&self, request: Request, paths: Vec<Path>) -> Result<()> {
        for page in paths.chunks(PAGE) {
            let once = || {
                let paths = stream::iter(page.to_vec()).map(Ok).boxed();
                async { self.bucket.delete_stream(paths).try_for_each(async |_| Ok(())).await }
            };
            // What is not there is deleted.
            drop(self.ask(request, 0, once).await?);
        }
        Ok(())
    }

    async fn list(&self, prefix: &Path) -> Result<Vec<ObjectMeta>> {
        let once = || self.bucket.list(Some(prefix)).try_collect::<Vec<_>>();
        let listed = self.ask(Request::List, 0, once).await?.unwrap_or_default();
        // The library asks for page after page.
        for _ in 0..listed.len().saturating_sub(1) / PAGE {
            self.ledger.sent(Request::List, 0);
        }
        Ok(listed)
    }

    /// One look at all names.
    async fn look_at(&self, shelf: Shelf, names: &[Name]) -> Result<Vec<(usize, Bytes)>> {
        let mut wanted: Vec<_> = names.iter().copied().enumerate().collect();
        if names.len() >= LIST_FROM {
            let listed = self.list(&self.path(&shelf.to_string())).await?;
            let listed: BTreeSet<_> = listed.into_iter().map(|it| it.location).collect();
            wanted.retain(|(_, name)| listed.contains(&self.name(*name)));
        }
        let mut found = Vec::new();
        for page in wanted.chunks(LOOKS_AT_ONCE) {
            let looks = page.iter().map(|(at, name)| async move { Ok((*at, self.look(*name, None).await?)) });
            for look in join_all(looks).await {
                let (at, body) = look?;
                found.extend(body.map(|body| (at, body)));
            }
        }
        Ok(found)
    }
}

/// Whether the connection that was just asked for could not be made: nobody would know whether to wait.
fn is_hopeless(request: Request, cause: &Cause) -> bool {
    request == Request::Connect && matches!(cause, Cause::Unreachable(_))
}

/// What the library says.
fn failure(error: &Error) -> Failure {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(it) = source {
        match it.downcast_ref::<Fault>() {
            Some(Fault::Unreachable(text)) => return Failure::Passing(Cause::Unreachable(text.clone())),
            Some(Fault::Refused { status, body }) => return refused(*status, body),
            None => source = it.source(),
        }
    }
    Failure::Lasting(Cause::Garbage(error.to_string()))
}

/// What a refusal of the server means.
fn refused(status: u16, body: &str) -> Failure {
    let part = |name: &str| {
        let (_, rest) = body.split_once(&format!("<{name}>"))?;
        Some(rest.split_once("</")?.0.to_owned())
    };
    let code = part("Code").unwrap_or_default();
    let text = [Some(status.to_string()), Some(code.clone()), part("Message")];
    let text = text.into_iter().flatten().filter(|it| !it.is_empty()).collect::<Vec<_>>().join(": ");
    match (status, code.as_str()) {
        (_, "NoSuchBucket") => Failure::Lasting(Cause::Missing(text)),
        (404, _) => Failure::NotFound,
        (412, _) => Failure::Occupied,
        (416, _) => Failure::Beyond,
        // Another writer was at it.
        (409, "ConditionalRequestConflict" | "OperationAborted") => Failure::Passing(Cause::Other(text)),
        (429 | 503, _) | (_, "SlowDown" | "RequestLimitExceeded") => {
            Failure::Passing(Cause::Throttled { after: None, text })
        }
        (408 | 500 | 502 | 504, _) | (_, "RequestTimeout" | "InternalError") => Failure::Passing(Cause::Other(text)),
        (401 | 403, _) => Failure::Lasting(Cause::Denied(text)),
        (507, _) => Failure::Lasting(Cause::Full(text)),
        (300..=399, _) => Failure::Lasting(Cause::Settings(format!("the bucket is in another region ({text})"))),
        _ => Failure::Lasting(Cause::Other(text)),
    }
}

impl Store for S3Store {
    fn traits(&self) -> &Traits {
        &self.traits
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn put(self: Arc<Self>, put: Put) -> BoxFuture<Result<Placed>> {
        Box::pin(async move {
            self.traits.check_length(&put.body)?;
            let path = self.name(put.name);
            while !self.put_object(Request::Put, &path, &put.body, put.only_if_absent).await? {
                match self.look(put.name, None).await? {
                    Some(there) if there == put.body => break,
                    Some(there) => return Ok(Placed::Occupied(there)),
                    // It was deleted meanwhile.
                    None => {}
                }
            }
            Ok(Placed::Written)
        })
    }

    fn get(self: Arc<Self>, name: Name, range: Option<Range<u64>>) -> BoxFuture<Result<Option<Bytes>>> {
        Box::pin(async move { self.look(name, range).await })
    }

    fn wait(self: Arc<Self>, shelf: Shelf, names: Vec<Name>) -> BoxFuture<Result<Vec<(usize, Bytes)>>> {
        Box::pin(async move {
            let clock = self.http.server.clock.clone();
            let patience = self.traits.patience.expect("buckets are asked again and again");
            let begun = clock.now();
            loop {
                let found = self.look_at(shelf, &names).await?;
                if !found.is_empty() {
                    return Ok(found);
                }
                let now = clock.now();
                clock.sleep_until(now + patience.pause(now - begun)).await;
            }
        })
    }

    fn ring(self: Arc<Self>, _: Vec<Shelf>) -> BoxFuture<Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn count(self: Arc<Self>, _: Name, _: u64, _: Duration) -> BoxFuture<Result<u64>> {
        Box::pin(async move { Err(self.failed(Request::Count, Cause::Unsupported("counting"))) })
    }

    fn delete(self: Arc<Self>, names: Vec<Name>) -> BoxFuture<Result<()>> {
        Box::pin(async move {
            let paths = names.into_iter().map(|name| self.name(name)).collect();
            self.delete_objects(Request::Delete, paths).await
        })
    }

    fn sweep(self: Arc<Self>, scope: Option<Scope>, age: Duration) -> BoxFuture<Result<u64>> {
        Box::pin(async move {
            let prefix = self.path(&scope.map_or_else(String::new, |scope| scope.to_string()));
            let now = self.http.server.clock.unix_time().as_secs();
            let is_old = |it: &ObjectMeta| {
                let written_at = u64::try_from(it.last_modified.timestamp()).unwrap_or(0);
                age.is_zero() || now.saturating_sub(written_at) >= age.as_secs()
            };
            let is_ours = |it: &ObjectMeta| {
                let key = it.location.as_ref().strip_prefix(&*self.prefix).unwrap_or_default();
                Name::parse(key).is_some() || scope.is_none() && key.starts_with("probe/")
            };
            let listed = self.list(&prefix).await?;
            let old: Vec<_> = listed.into_iter().filter(|it| is_ours(it) && is_old(it)).map(|it| it.location).collect();
            let swept = old.len() as u64;
            self.delete_objects(Request::Delete, old).await?;
            Ok(swept)
        })
    }
}
