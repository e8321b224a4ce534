//! What is asked of a store, counted.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! requests {
    ($($kind:ident $name:literal $doc:literal,)+) => {
        /// A kind of request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Request {
            $(#[doc = $doc] $kind,)+
        }

        impl Request {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$kind),+];

            /// As in errors and reports.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)+
                }
            }
        }
    };
}

requests! {
    Connect "connect" "Finds out whether the store can be used.",
    Put "put" "Writes a body.",
    Get "get" "Reads a body, or a part of it, that is there.",
    Miss "look" "Reads a body that is not there yet: where a store has no bells, the price of waiting.",
    Wait "wait" "Waits for a bell.",
    Ring "ring" "Rings bells without a body.",
    Count "count" "Adds to a counter.",
    Delete "delete" "Deletes bodies.",
    List "list" "Lists what is to be swept.",
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Counts of one store's requests. Reading and counting wait for nobody.
#[derive(Debug, Default)]
pub struct Ledger {
    requests: [AtomicU64; Request::ALL.len()],
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

impl Ledger {
    /// Counts a request that was sent, whatever comes of it, and the bytes of bodies that it carries up. A retry is
    /// another request.
    pub fn sent(&self, request: Request, bytes_up: usize) {
        self.requests[request as usize].fetch_add(1, Ordering::Relaxed);
        self.bytes_up.fetch_add(bytes_up as u64, Ordering::Relaxed);
    }

    /// Counts bytes of bodies that came down.
    pub fn received(&self, bytes_down: usize) {
        self.bytes_down.fetch_add(bytes_down as u64, Ordering::Relaxed);
    }

    /// The counts so far.
    pub fn spent(&self) -> Spent {
        let requests = std::array::from_fn(|at| self.requests[at].load(Ordering::Relaxed));
        let (up, down) = (self.bytes_up.load(Ordering::Relaxed), self.bytes_down.load(Ordering::Relaxed));
        Spent { requests, bytes_up: up, bytes_down: down }
    }
}

/// What was asked of a store up to some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Spent {
    requests: [u64; Request::ALL.len()],
    /// Bytes of bodies that were written.
    pub bytes_up: u64,
    /// Bytes of bodies that were read.
    pub bytes_down: u64,
}

impl Spent {
    /// How many requests of a kind.
    pub fn of(&self, request: Request) -> u64 {
        self.requests[request as usize]
    }
}
