//! What attacks hit.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fmi::time::Instant;
use fmi_net::noted;

use crate::attack::Attack;
use crate::outcome::Outcome;

/// What an attack must hit to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Its registration waits at the rendezvous before all ranks have joined.
    Registration,
    /// Its connection to the rendezvous stands before all ranks have joined.
    Rendezvous,
    /// A function reads its claim to the end, and refuses it for what a stranger cannot know.
    Listener,
    /// A segment of its reaches an established connection of others, which goes on.
    Session,
}

/// When an attack hit something, as it saw itself.
#[derive(Debug, Default)]
pub(crate) struct Hits(Mutex<Vec<Duration>>);

impl Hits {
    pub(crate) fn count(&self, now: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(now.since_origin());
    }

    /// How many hits count for an attack: those in time to do harm.
    pub(crate) fn of(&self, attack: Attack, outcome: &Outcome) -> u64 {
        let hits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = match attack.aim() {
            // The fabric counts what came through with a false source.
            Aim::Session => return outcome.report.blind_resets,
            // What a function makes of a stranger is not to be seen outside.
            Aim::Listener => return noted::judged(),
            Aim::Registration | Aim::Rendezvous => outcome.joined_at.values().max(),
        };
        hits.iter().filter(|at| until.is_none_or(|until| *at <= until)).count() as u64
    }
}
