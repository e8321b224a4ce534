//! Drivers that move bytes between machines and sockets, and the seam to a network that they stand on.
//!
//! There is one implementation of [`Net`] on real sockets ([`real::RealNet`]) and one in the lab; the crate above is the
//! same code on both. It never spawns: whoever calls, drives.

mod buffer;
pub mod discovery;
mod door;
pub(crate) mod framed;
mod ready;
pub mod rendezvous;
pub(crate) mod secure;
mod splice;
pub mod store;
pub mod tcpunch;

#[cfg(feature = "real")]
pub use fmi_net::real;
pub(crate) use fmi_net::{BoxFuture, Clock, Timer, within};
pub use fmi_net::{ByteStream, Listener, Machine, Net};
