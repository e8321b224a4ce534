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
    /// Whether a rank combines several contributions into one place, and nothing reads that before the end.
    pub(super) keeps_sums: bool,
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
        let keeps_sums = keeps_sums(&rounds);
        Self { rounds, choice, work: schedule.work, scratch, widest, longest, keeps_sums }
    }

    /// The same where results are to be those of the balanced order, rounded at each step.
    pub(crate) fn rounding(self, at_each_step: bool) -> Self {
        Self { keeps_sums: self.keeps_sums && !at_each_step, ..self }
    }

    pub(super) fn receives(&self) -> impl Iterator<Item = &PlannedReceive> {
        self.rounds.iter().flat_map(|round| &round.receives)
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        self.choice.algorithm
    }
}

fn keeps_sums(rounds: &[PlannedRound]) -> bool {
    let receives = || rounds.iter().flat_map(|round| &round.receives);
    let combined = || receives().filter_map(|receive| Some((receive.into, receive.combine?.0)));
    // Mostly one place, or few: not one for each contribution.
    let mut places: Vec<Span> = combined().map(|(into, _)| into).collect();
    places.dedup();
    let is_sum = |span: &Span| places.iter().any(|place| place.overlaps(span));
    let is_read = |step: &Step| match step {
        Step::Copy { data, into } => is_sum(data) || is_sum(into),
        Step::Combine { .. } => true,
        Step::Send { .. } | Step::Receive { .. } | Step::Reduce { .. } => false,
    };
    // Rounds that only prepare the place are before the first sum.
    let first = rounds.iter().position(|round| round.receives.iter().any(|receive| receive.combine.is_some()));
    let Some(first) = first else { return false };
    let repeats = combined().any(|(into, own)| into == own) && combined().nth(1).is_some();
    let later = || rounds.iter().skip(first);
    repeats
        && !later().flat_map(|round| &round.sends).any(|send| is_sum(&send.data))
        && !later().flat_map(|round| &round.locals).any(is_read)
        && !receives().any(|receive| receive.combine.is_none() && is_sum(&receive.into))
        && !combined().any(|(into, own)| into != own && is_sum(&own))
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
