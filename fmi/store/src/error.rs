//! Why a request to a store failed.

use std::time::Duration;

use crate::ledger::Request;

/// The result of a request.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{store}: {request} failed: {cause}")]
#[non_exhaustive]
pub struct StoreError {
    /// The store, as [`Traits::place`](crate::Traits::place) has it.
    pub store: String,
    /// What was asked.
    pub request: Request,
    /// Why it failed.
    pub cause: Cause,
}

impl StoreError {
    /// A request of a store that failed of `cause`.
    pub fn new(store: impl Into<String>, request: Request, cause: Cause) -> Self {
        Self { store: store.into(), request, cause }
    }
}

/// What came of a request that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The store asks for fewer requests, and repeating did not help in time.
    #[error("the store throttles requests ({text}); raise its limits, or spread the load")]
    Throttled {
        /// After how long it may be asked again, if it says so.
        after: Option<Duration>,
        /// In its own words.
        text: String,
    },
    /// A body is longer than the store takes.
    #[error("{bytes} bytes are more than the {max} of its largest body")]
    TooLarge {
        /// Length of the body.
        bytes: u64,
        /// The longest one.
        max: u64,
    },
    /// The store has no room.
    #[error("the store is full ({0}); give it more room, or let messages expire earlier")]
    Full(String),
    /// This process may not do that.
    #[error("not permitted ({0})")]
    Denied(String),
    /// The store itself is not there: no such bucket, table or folder.
    #[error("not there ({0})")]
    Missing(String),
    /// Another body is there under the name.
    #[error("another body is there under the name {0}, which is written once")]
    Conflict(String),
    /// A body that was there is gone before its time.
    #[error("the store has dropped a message before its time ({0}); it must not evict")]
    Evicted(String),
    /// It cannot be reached, or did not answer in time.
    #[error("cannot be reached ({0})")]
    Unreachable(String),
    /// It answered what its protocol does not allow.
    #[error("answered what it should not ({0}); is it a store of this kind?")]
    Garbage(String),
    /// It does not do that.
    #[error("the store has no means for that ({0})")]
    Unsupported(&'static str),
    /// A URL, or a setting, is wrong.
    #[error("{0}")]
    Settings(String),
    /// Anything else, in the store's words.
    #[error("{0}")]
    Other(String),
}
