//! The trait of a store.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fmi_net::BoxFuture;

use crate::error::{Cause, Result, StoreError};
use crate::ledger::{Ledger, Request};
use crate::name::{Name, Scope, Shelf};
use crate::patience::Patience;

/// What a store can do, as far as anything is decided by it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "whoever writes a store says all of it")]
pub struct Traits {
    /// What and where it is, for errors: a URL without secrets.
    pub place: String,
    /// The longest body.
    pub body_bytes_max: u64,
    /// The length of a part of a long message that moves it fastest, with several on their way at once.
    pub part_bytes: usize,
    /// Requests of one process that may be on their way at once.
    pub at_once_max: usize,
    /// How it is waited for a body: by its bell (`None`), or by asking again and again.
    pub patience: Option<Patience>,
    /// Whether [`Put::only_if_absent`] is atomic: of two writers one is told of the other.
    pub has_if_absent: bool,
    /// Whether [`Store::count`] works.
    pub has_counters: bool,
    /// Whether a body is gone soon after its time, or only some day.
    pub expires: bool,
    /// Whether deleting what was read is worth a request: it is free, or memory is short.
    pub deletes_used: bool,
}

impl Traits {
    /// A request to this store that failed of `cause`.
    pub fn failed(&self, request: Request, cause: Cause) -> StoreError {
        StoreError::new(&self.place, request, cause)
    }

    /// Refuses a body that is longer than the store takes.
    ///
    /// # Errors
    /// [`Cause::TooLarge`].
    pub fn check_length(&self, body: &Bytes) -> Result<()> {
        let (bytes, max) = (body.len() as u64, self.body_bytes_max);
        if bytes > max { Err(self.failed(Request::Put, Cause::TooLarge { bytes, max })) } else { Ok(()) }
    }
}

/// A body to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Put {
    /// Its name.
    pub name: Name,
    /// Its bytes.
    pub body: Bytes,
    /// For how long it lives at least.
    pub time_to_live: Duration,
    /// Whether it is only written where nothing is. Else the caller knows that nobody else writes this name, and the store
    /// may take the cheaper way of replacing what is there, which is the same.
    pub only_if_absent: bool,
    /// Shelves whose bells ring once it is there.
    pub ring: Vec<Shelf>,
}

impl Put {
    /// A body that nobody else writes, and that rings no bell.
    pub fn new(name: Name, body: impl Into<Bytes>, time_to_live: Duration) -> Self {
        Self { name, body: body.into(), time_to_live, only_if_absent: false, ring: Vec::new() }
    }

    /// Only where nothing is.
    #[must_use]
    pub fn only_if_absent(mut self) -> Self {
        self.only_if_absent = true;
        self
    }

    /// Rings these bells.
    #[must_use]
    pub fn ringing(mut self, shelves: impl IntoIterator<Item = Shelf>) -> Self {
        self.ring.extend(shelves);
        self
    }
}

/// What came of a body that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "one or the other")]
pub enum Placed {
    /// It is there; or these very bytes were there, by an earlier try.
    Written,
    /// Another one was there, of these bytes.
    Occupied(Bytes),
}

/// Keeps bodies under names that are written once.
///
/// All futures are free of the borrow of the store, spawn nothing, and do nothing while nobody polls them. They retry what
/// may be retried (a store that throttles, a connection that broke under a request that changes nothing when it is
/// repeated) for a while that each store states; nobody waits forever.
///
/// # Cancel safety
/// Dropping the future of [`put`](Self::put) or [`delete`](Self::delete) leaves it done or not, and either is harmless, as
/// names are written once. Dropping one of [`get`](Self::get), [`wait`](Self::wait) or [`ring`](Self::ring) loses nothing. Whether a dropped
/// [`count`](Self::count) has counted is not known.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// What it can do.
    fn traits(&self) -> &Traits;

    /// What was asked of it so far.
    fn ledger(&self) -> &Ledger;

    /// Writes a body, whole or not at all; once this has completed, every [`get`](Self::get) finds it. Then bells ring.
    ///
    /// # Errors
    /// [`Cause`] has the kinds: among them `TooLarge`, `Full`, `Denied`, `Throttled`.
    fn put(self: Arc<Self>, put: Put) -> BoxFuture<Result<Placed>>;

    /// Reads a body, or the part of it that lies in `range`; `None` if it is not there, or its time has passed. A range beyond the
    /// end is cut off there.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    fn get(self: Arc<Self>, name: Name, range: Option<Range<u64>>) -> BoxFuture<Result<Option<Bytes>>>;

    /// Waits until one of `names`, all of `shelf`, is there, and reads those that are, by their index: at least one, in order
    /// of index. It waits until it is dropped.
    ///
    /// A store with bells may take its look at the names only when the bell of `shelf` has rung, and once in a while in case a bell
    /// was lost. Where several processes wait on one shelf, a ring may wake one of them alone: each should have its own.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    fn wait(self: Arc<Self>, shelf: Shelf, names: Vec<Name>) -> BoxFuture<Result<Vec<(usize, Bytes)>>>;

    /// Rings bells without a body, so that whoever waits looks again. Without effect where there are none.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    fn ring(self: Arc<Self>, shelves: Vec<Shelf>) -> BoxFuture<Result<()>>;

    /// Adds to the counter of this name, which begins with 0, and returns the sum. It lives as long as a body would.
    ///
    /// # Errors
    /// `Unsupported` where [`Traits::has_counters`] is false; else as [`put`](Self::put).
    fn count(self: Arc<Self>, name: Name, add: u64, time_to_live: Duration) -> BoxFuture<Result<u64>>;

    /// Deletes bodies, those that are there.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    fn delete(self: Arc<Self>, names: Vec<Name>) -> BoxFuture<Result<()>>;

    /// Deletes all of a scope, or of all scopes, that is older than `age`, as far as the store tells the age; returns how
    /// many bodies that were.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    fn sweep(self: Arc<Self>, scope: Option<Scope>, age: Duration) -> BoxFuture<Result<u64>>;
}
