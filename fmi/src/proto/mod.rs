//! Protocol machines: pure state, no I/O, no clock, no entropy but what they are given.
//!
//! Each machine has `handle_input`, `handle_timeout`, `poll_output` and `poll_timeout`. After each
//! `handle_*`, drain `poll_output` until it returns `None`. A driver in [`crate::connect`] or [`crate::net`] moves bytes
//! between a machine and its sockets and takes no decision of its own.

pub mod backoff;
pub mod bucket;
pub mod candidate;
pub mod card;
pub mod discovery;
pub mod frame;
pub mod group;
pub mod join;
pub mod mailbox;
pub mod mesh;
pub mod noise;
pub mod notice;
pub mod punch;
pub mod rank;
pub mod record;
pub mod rendezvous;
pub mod resume;
pub mod session;
pub mod tcpunch;
pub mod upgrade;
pub mod wire;
