//! A schedule with all that does not change from run to run.

use crate::proto::rank::Slot;
use crate::schedule::{Algorithm, Choice, Problem, Round, Schedule, Side, Span, Step, must_wait};

/// What a plan was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PlanKey {
    pub(crate) communicator: u64,
    pub(crate) problem: Problem,
}

/// A frame to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlannedSend {
    pub(super) peer: Slot,
    pub(super) number: u32,
    pub(super) data: Span,
    /// An earlier frame of the round to the same peer.
    pub(super) after: Option<usize>,
}

/// A frame to receive.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlannedReceive {
    pub(super) peer: Slot,
    pub(super) number: u32,
    pub(super) into: Span,
    pub(super) combine: Option<(Span, Side)>,
    /// First element of the scratch memory in which it waits for the end of the round.
    pub(super) waits_at: Option<usize>,
    /// An earlier frame of the round from the same peer.
    pub(super) after: Option<usize>,
}

#[derive(Debug, Default)]
pub(super) struct PlannedRound {
    pub(super) sends: Vec<PlannedSend>,
    pub(super) receives: Vec<PlannedReceive>,
    pub(super) locals: Vec<Step>,
}

/// A schedule with all that does not change from run to run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(super) rounds: Vec<PlannedRound>,
    pub(crate) choice: Choice,
    pub(super) work: usize,
    pub(super) scratch: usize,
    pub(super) widest: usize,
    /// Elements of the longest transfer.
    pub(super) longest: usize,
}

impl Plan {
    /// Numbers the frames of `schedule` for each pair; `world` gives ranks of the whole group.
    pub(crate) fn new(schedule: &Schedule, choice: Choice, size: u32, world: impl Fn(u32) -> Slot) -> Self {
        let mut numbers = vec![(0u32, 0u32); size as usize];
        let (mut scratch, mut widest) = (0, 0);
        let mut rounds = Vec::with_capacity(schedule.rounds.len());
        for round in &schedule.rounds {
            let planned = plan_round(round, &mut numbers, &world, &mut scratch);
            widest = widest.max(planned.sends.len()).max(planned.receives.len());
            rounds.push(planned);
        }
        let sent = rounds.iter().flat_map(|round| &round.sends).map(|send| send.data.len());
        let received = rounds.iter().flat_map(|round| &round.receives).map(|receive| receive.into.len());
        let longest = sent.chain(received).max().unwrap_or(0);
        Self { rounds, choice, work: schedule.work, scratch, widest, longest }
    }

    pub(super) fn receives(&self) -> impl Iterator<Item = &PlannedReceive> {
        self.rounds.iter().flat_map(|round| &round.receives)
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        self.choice.algorithm
    }
}

fn plan_round(
    round: &Round,
    numbers: &mut [(u32, u32)],
    world: &impl Fn(u32) -> Slot,
    scratch: &mut usize,
) -> PlannedRound {
    let mut planned = PlannedRound::default();
    let mut taken = 0;
    for (index, step) in round.iter().enumerate() {
        match *step {
            Step::Send { to, data } => {
                let number = next(&mut numbers[to as usize].0);
                let peer = world(to);
                let after = planned.sends.iter().rposition(|send| send.peer == peer);
                planned.sends.push(PlannedSend { peer, number, data, after });
            }
            Step::Receive { from, into } | Step::Reduce { from, into, .. } => {
                let number = next(&mut numbers[from as usize].1);
                let peer = world(from);
                let after = planned.receives.iter().rposition(|receive| receive.peer == peer);
                let combine = if let Step::Reduce { own, side, .. } = step { Some((*own, *side)) } else { None };
                let waits_at = must_wait(round, index).then_some(taken);
                taken += if waits_at.is_some() { into.len() } else { 0 };
                planned.receives.push(PlannedReceive { peer, number, into, combine, waits_at, after });
            }
            Step::Copy { .. } | Step::Combine { .. } => planned.locals.push(*step),
        }
    }
    *scratch = taken.max(*scratch);
    planned
}

fn next(number: &mut u32) -> u32 {
    *number += 1;
    *number - 1
}
