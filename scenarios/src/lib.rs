//! Worlds, programs and faults as data, and the runner that checks what comes out.
//!
//! A [`Scenario`] and a seed make one run; the run makes an [`Outcome`]. Its [`Program`] is a list of steps, or any
//! async closure of yours. In addition to the [`Check`]s of a scenario, some are always on: results equal a sequential reference, every rank ends or fails by its deadline, and the
//! secret of the group is in no error. A run with a capture is searched for the secret as well.
#![warn(missing_docs)]

pub mod attack;
pub mod catalog;
mod check;
mod corners;
mod drawn;
pub mod fuzz;
mod hits;
mod knock;
mod layout;
mod leak;
pub mod links;
pub mod matrix;
pub mod oracle;
pub mod original;
mod outcome;
mod program;
mod reference;
mod run;
mod scenario;
mod sessions;
mod steps;
pub mod swarm;

pub use check::{Check, Claim};
pub use outcome::{Outcome, RankEnd, Record};
pub use program::{Action, AloneBody, Context, Ending, Failure, JoinedBody, Program, Work};
pub use run::{Options, WriteSend, run};
pub use scenario::{Placement, Scenario, Target, WorldSpec, cut_between};

/// Documents whose code is run by `cargo test`.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../../docs/guide/lab.md")]
    struct Lab;
}
