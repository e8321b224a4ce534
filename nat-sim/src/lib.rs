//! A deterministic lab for systems that live behind NATs: real IPv4 packets, a packet-level TCP with
//! simultaneous open, gateways whose mapping, filtering and answers are chosen separately, and
//! functions that start late, vanish and come back. One seed, one run.
//!
//! # What is modelled
//!
//! - Hosts with the TCP of smoltcp, adapted to open connections as Linux does ([`host`]), UDP, echo,
//!   several addresses, IPv4 and IPv6.
//! - Gateways as pure translators ([`nat`]), nested at will ([`topology`]): every behaviour of RFC 4787,
//!   5382, 5508, 6888 and 7857 is a knob, known devices are [presets](nat::preset), Linux's tracker
//!   follows sequence windows. `REQUIREMENTS.md` lists statement by statement what is met, and which
//!   presets break it on purpose.
//! - Links with latency, jitter, loss, reordering, duplication, rate and queue ([`link`]).
//! - Sites, which turmoil cuts off and crashes as a whole ([`world`]).
//!
//! # What is not
//!
//! Throughput under loss is not Linux's: recovery is smoltcp's without congestion control, and its
//! time-outs are not below 1 s. TIME_WAIT lasts 10 s. IP options, IPv6 extension headers and ICMPv6 are
//! refused; IPv6 is filtered and never translated, so there is no NAT64. Gateways refuse or cut what exceeds
//! their MTU, but a host's TCP does not shrink its segments for that: a small MTU is a black hole for it.
//!
//! # How far it is checked
//!
//! `tests/kernel` sends the same packets through nftables in network namespaces and through a [`nat`],
//! and the same segments to a real host and to one of the lab: verdicts, endpoints, tracker states,
//! timers and answers must agree. Presets of other devices rest on documents; `lab nats` says which
//! cells are assumed.
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
