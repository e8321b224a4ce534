//! A deterministic lab for systems that live behind NATs: real IPv4 packets, a packet-level TCP with
//! simultaneous open, gateways whose mapping, filtering and answers are chosen separately, and
//! functions that start late, vanish and come back. One seed, one run.
//!
//! # What is modelled
//!
//! - Hosts with the TCP of smoltcp, adapted to open connections as Linux does ([`host`]).
//! - Gateways as pure translators ([`nat`]), nested at will ([`topology`]).
//! - Links with latency, jitter, loss, reordering, duplication, rate and queue ([`link`]).
//! - Sites, which turmoil cuts off and crashes as a whole ([`world`]).
//!
//! # What is not
//!
//! Throughput under loss is not Linux's: recovery is smoltcp's without congestion control. TIME_WAIT
//! lasts 10 s. There are no IP fragments, no IPv6, no UDP sockets on hosts. Gateways do not check TCP
//! sequence numbers.
//!
//! # Determinism
//!
//! A seed is split by purpose into streams ([`stream`]); packets move by (time, sequence). The
//! report's digest chains every packet and event with its time: equal digests, equal runs.
#![warn(missing_docs)]

mod capture;
mod fabric;
pub mod host;
pub mod link;
pub mod nat;
pub mod net;
pub mod packet;
pub mod topology;
pub mod world;

pub use capture::Sinks;
pub use fabric::{Purpose, stream};
pub use net::{SimNet, SimRaw, SimUdp};
pub use world::{Fault, Limits, Report, Stuck, World, WorldError};
