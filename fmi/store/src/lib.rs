//! The seam between FMI and a store of messages, and stores behind it.
//!
//! A [`Store`] keeps *bodies* under *names*. A name is written once and read as often as anybody likes; nothing is popped,
//! so that a reader which dies or freezes between two requests has lost nothing, and a writer which repeats a request
//! has changed nothing. Order is in the names, which their users derive from what a body is.
//!
//! Whoever waits for a body waits for the *bell* of its [`Shelf`], where the store has bells, and else asks for the name again
//! and again ([`Patience`]). A bell is a hint: it may ring for nothing, and what counts is the body.
//!
//! Every request is counted ([`Ledger`]): requests are what stores charge for.
//!
//! # Examples
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> fmi_store::Result<()> {
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use fmi_store::{MemoryStore, Name, Put, Scope, Shelf, Store};
//!
//! let store: Arc<dyn Store> = Arc::new(MemoryStore::new(fmi_net::real::RealNet::new()));
//! let shelf = Shelf { scope: Scope([7; 12]), number: 1 };
//! let name = Name { shelf, id: [0; 16] };
//! store.clone().put(Put::new(name, "hello", Duration::from_secs(60)).ringing([shelf])).await?;
//! let found = store.wait(shelf, vec![name]).await?;
//! assert_eq!(found, [(0, "hello".into())]);
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs, clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod address;
mod connect;
#[cfg(feature = "dir")]
mod dir;
mod error;
#[cfg(any(feature = "redis", feature = "s3"))]
mod lan;
mod ledger;
mod memory;
mod name;
mod patience;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "s3")]
mod s3;
mod seam;
#[cfg(feature = "suite")]
pub mod suite;
#[cfg(feature = "tls")]
mod tls;

pub use connect::connect;
pub use error::{Cause, Result, StoreError};
pub use fmi_net::BoxFuture;
pub use ledger::{Ledger, Request, Spent};
pub use memory::MemoryStore;
pub use name::{Name, Scope, Shelf};
pub use patience::Patience;
pub use seam::{Placed, Put, Store, Traits};
