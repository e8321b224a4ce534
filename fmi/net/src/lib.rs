//! The seam between FMI and a network: clock, sockets, entropy.
//!
//! Drivers are written against [`Net`], so the same code runs on the sockets of this machine ([`real::RealNet`], feature
//! `real`) and in a simulation (the package `nat-sim`). Without the feature `io` there is only [`time`]: protocol
//! machines need no more, but for the switches of faults that tests plant ([`planted`]).
#![warn(missing_docs, clippy::exhaustive_enums, clippy::exhaustive_structs)]

#[cfg(feature = "io")]
pub mod liveness;
pub mod noted;
pub mod planted;
#[cfg(feature = "real")]
pub mod real;
#[cfg(feature = "io")]
mod seam;
pub mod time;

#[cfg(feature = "io")]
pub use seam::{BoxFuture, ByteStream, Clock, Listener, Machine, Net, Timer, within};
