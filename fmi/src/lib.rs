//! MPI-like message passing for functions behind NATs.
//!
//! Serverless functions cannot accept connections. They meet at a *rendezvous*, learn each other's
//! addresses, and punch direct TCP connections through their NATs, or are relayed where that cannot be; on
//! those run point-to-point messages and collectives.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> fmi::Result<()> {
//! let config = fmi::Config::from_env()?;
//! let comm = fmi::Communicator::connect(fmi::RealNet::new(), &config).await?;
//! let mut sum = [0u64];
//! comm.allreduce(&[u64::from(comm.rank())], &mut sum, fmi::op::Sum).await?;
//! println!("rank {} of {}: {}", comm.rank(), comm.size(), sum[0]);
//! # Ok(())
//! # }
//! ```
//!
//! # How it is built
//!
//! - [`fmi_proto`] holds what is pure: protocol machines without I/O, clock or entropy, and collectives as data, verified
//!   symbolically for every size and root. Its items are internal, but for those that this crate exports.
//! - [`fmi_net`] is the seam to a network. On it rest the drivers of this crate, which move bytes between machines and
//!   sockets ([`net`]). The same drivers run on real sockets and in the lab (`nat-sim`).
//!
//! # Security
//!
//! With a key, streams between ranks are encrypted end to end ([`Security`]), whether direct or relayed. The
//! rendezvous, and whoever is on the way to it, can keep a group from forming, and no more:
//! [`fmi_proto::rendezvous`] says why that needs no TLS. A group's key has 16 random bytes or more. Secrets of this crate are
//! wiped when they are dropped; the environment's and
//! the TOML reader's own copies of a key are not, which a file of its own ([`Secret`], `FMI_KEY_FILE`) avoids.
//!
//! # Failure
//!
//! The rendezvous watches each rank with TCP keep-alive, which the rank's kernel answers even while the program
//! computes. However long a rank computes, and however much waits for it, its connections stay ([`fmi_net::liveness`]), and
//! operations wait for it: they have no deadline unless one is set ([`Config::operation_deadline`]). One that has waited
//! for 30 s logs a warning that says who waits for whom.
//!
//! A rank that dies is named in an error on every survivor within [`FAILURE_BOUND`] and a round trip, as long as the
//! rendezvous lives; without it, whoever waits for that rank finds out by its own connection, within a minute. A rank
//! that leaves, or fails and is dropped, tells the others, and whatever still waits for it ends at once
//! ([`ErrorKind::PeerLeft`]). A connection that breaks while nobody is known to be lost is called that
//! ([`ErrorKind::ConnectionLost`]), and a rank that the others went on without learns that as soon as any of them can tell it
//! ([`ErrorKind::Excluded`]). Ranks that evidently wait for each other fail after 30 s ([`ErrorKind::Deadlock`]). After an error
//! of a collective the communicator is revoked.
//!
//! # Features
//!
//! All are on by default, and none changes behaviour. `real`: real sockets. `half` and `complex`: elements of type
//! `half::f16`, `half::bf16` and `num_complex::Complex`. `values`: values of any length, through serde. The program `fmi`
//! is a package of its own, `faas-fmi-cli`.
#![warn(missing_docs, clippy::exhaustive_enums, clippy::exhaustive_structs)]

#[cfg(feature = "real")]
pub mod blocking;
mod channel;
pub mod communicator;
pub mod config;
pub mod connect;
mod engine;
pub mod net;
pub mod request;

pub(crate) use fmi_proto as proto;
pub(crate) use fmi_proto::{datatype, key, model, schedule};

pub use channel::LinkInfo;
pub use communicator::{
    Communicator, Destination, Group, Invocation, Message, Persistent, PersistentRecv, PersistentSend, STORE_DEADLINE,
    Source, Status, Tag,
};
pub use config::{Config, Peers};
pub use datatype::{Bool, Datatype, Element};
pub use error::{Error, ErrorKind, Operation, Path, Result};
pub use fmi_net::time;
pub use fmi_proto::{bytemuck, element, error, op};
pub use fmi_store as store;
pub use key::Secret;
#[cfg(feature = "real")]
pub use net::real::RealNet;
pub use proto::candidate::Technique;
pub use proto::card::Security;
pub use proto::remark::Remark;
pub use request::Request;

/// Documents whose code is compiled by `cargo test`.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../../README.md")]
    struct Readme;
    #[doc = include_str!("../../docs/guide/getting-started.md")]
    struct GettingStarted;
}

/// Time from the silent death of a rank (no FIN, no RST) until its peers believe it, at most: the rendezvous
/// probes every second, five seconds without an answer end a connection, and whoever is told tries its own connection to
/// the rank for one more ([`proto::group::TRIED_FOR`]).
pub const FAILURE_BOUND: std::time::Duration = std::time::Duration::from_secs(
    net::rendezvous::KEEPALIVE_INTERVAL.as_secs()
        + net::rendezvous::SILENCE_MAX.as_secs()
        + proto::group::TRIED_FOR.as_secs(),
);

/// The same while the group forms: a rank that the rendezvous lost has [`RETURN_WITHIN`] to come back, since a cut may heal
/// and a platform may start a function anew. One that has never registered is waited for until [`Config::join_deadline`].
///
/// [`RETURN_WITHIN`]: proto::rendezvous::server::RETURN_WITHIN
pub const FORMING_FAILURE_BOUND: std::time::Duration = std::time::Duration::from_secs(
    net::rendezvous::KEEPALIVE_INTERVAL.as_secs()
        + net::rendezvous::SILENCE_MAX.as_secs()
        + proto::rendezvous::server::RETURN_WITHIN.as_secs(),
);
