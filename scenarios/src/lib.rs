//! Worlds, programs and faults as data, and the runner that checks what comes out.
//!
//! A [`Scenario`] and a seed make one run; the run makes an [`Outcome`]. Standing checks are always
//! on: results equal a sequential reference, every rank ends or fails by its deadline, and the
//! secret of the group is in no error. A run with a capture is searched for the secret as well.
#![warn(missing_docs)]

pub mod attack;
pub mod catalog;
mod drawn;
pub mod fuzz;
pub mod links;
pub mod matrix;
pub mod oracle;
pub mod original;
mod program;
mod run;
mod scenario;
pub mod swarm;

pub use run::{Options, Outcome, RankEnd, WriteSend, run};
pub use scenario::{Expect, FaultAt, Placement, Program, Scenario, Step, Target, WorldSpec};
