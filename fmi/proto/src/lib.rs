//! What FMI decides, without what carries it out: protocol machines, schedules of collectives, operators, elements and
//! errors. There is no I/O here, no clock, and no entropy but what is given; the crate depends on nothing that has
//! any. What the crate `fmi` does not export of it is internal, and changes without notice.
//!
//! Each machine has `handle_input`, `handle_timeout`, `poll_output` and `poll_timeout`. After each
//! `handle_*`, drain `poll_output` until it returns `None`. A driver, in `fmi::connect` or `fmi::net`, moves bytes
//! between a machine and its sockets and takes no decision of its own.
#![warn(missing_docs)]

pub mod answer;
pub mod backoff;
pub mod bucket;
pub mod candidate;
pub mod card;
pub mod cause;
pub mod cipher;
pub mod datatype;
pub mod derive;
pub mod discovery;
pub mod error;
pub mod exchange;
pub mod frame;
#[cfg(test)]
mod golden;
pub mod group;
pub mod join;
pub mod key;
pub mod mailbox;
pub mod mesh;
pub mod model;
pub mod notice;
pub mod op;
pub mod operation;
pub mod places;
pub mod punch;
pub mod race;
pub mod rank;
pub mod record;
pub mod remark;
pub mod rendezvous;
pub mod resp;
pub mod resume;
pub mod schedule;
mod scope;
pub mod session;
pub mod store;
pub mod stored;
pub mod tcpunch;
pub mod upgrade;
pub mod wire;

pub use bytemuck;
pub use datatype::{Bool, Element};
pub use error::{Error, ErrorKind, Operation, Result};
pub use key::Secret;
