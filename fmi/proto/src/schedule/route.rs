//! Runs any schedules where ranks lack connections: messages go over other ranks.
//!
//! All ranks work out the same timetable. In each tick every message that is under way goes one connection further, sent
//! and received in the same tick, so whatever a rank sends in a tick rests on what came before that tick: nothing
//! waits in a circle, and both ends of a connection see its messages in one order. A rank begins a round in the tick
//! after its last round ended; a round ends when all that it receives has come. What comes before its round has begun
//! waits in work memory. Rounds that only move memory take no tick, so the timetable does not rest on where ranks
//! keep their buffers.

use std::collections::BTreeMap;

use super::{Connections, Memory, Round, Schedule, Span, Step};

/// A message on its way.
struct Message {
    /// The ranks that it passes, sender and receiver included.
    way: Vec<u32>,
    /// Connections that it has passed.
    passed: usize,
    /// What it carries, in the sender's memory.
    data: Span,
    /// Where it lies in this rank's work memory, while it waits here to go on.
    held: Option<Span>,
    /// How many its sender sent to its receiver before it.
    number: usize,
}

/// Where a rank is in its schedule.
#[derive(Clone, Default)]
struct Place {
    round: usize,
    has_begun: bool,
    /// Messages that its rounds up to this one take in, by sender.
    due: BTreeMap<u32, usize>,
    /// Messages that have come, by sender.
    come: BTreeMap<u32, usize>,
    /// Messages that it has sent, by receiver.
    sent: BTreeMap<u32, usize>,
}

/// The schedule of `me` among `schedules`, one for each rank, over the connections of `connections`.
///
/// # Panics
/// If the schedules do not fit each other.
pub(super) fn route(schedules: &[Schedule], me: u32, connections: &Connections) -> Schedule {
    if (0..).zip(schedules).all(|(rank, schedule)| connections.carries(rank, schedule)) {
        return schedules[me as usize].clone();
    }
    let mut router = Router::new(schedules, me, connections);
    while router.tick() {}
    router.out
}

struct Router<'a> {
    schedules: &'a [Schedule],
    me: u32,
    connections: &'a Connections,
    places: Vec<Place>,
    under_way: Vec<Message>,
    /// The ways from each rank that has needed one.
    ways: BTreeMap<u32, BTreeMap<u32, u32>>,
    mine: Mine,
    out: Schedule,
}

/// What only the rank whose schedule is made keeps.
#[derive(Default)]
struct Mine {
    /// The step that each message of a sender is for, by round and index.
    steps: BTreeMap<(u32, usize), (usize, usize)>,
    /// Where messages lie whose round has not ended, by step.
    early: BTreeMap<(usize, usize), Span>,
    /// Spans of work memory in use, those between them, and the end of the last.
    in_use: usize,
    free: Vec<Span>,
    end: usize,
}

/// Steps of this rank in one tick.
#[derive(Default)]
struct Tick {
    before: Vec<Round>,
    sends: Round,
    receives: Round,
    locals: Round,
    /// Spans of work memory that are free after it.
    freed: Vec<Span>,
}

impl<'a> Router<'a> {
    fn new(schedules: &'a [Schedule], me: u32, connections: &'a Connections) -> Self {
        let own = &schedules[me as usize];
        let mut mine = Mine { end: own.work, ..Mine::default() };
        let mut numbers: BTreeMap<u32, usize> = BTreeMap::new();
        for (round, steps) in own.rounds.iter().enumerate() {
            for (index, (from, _)) in steps.iter().enumerate().filter_map(|(index, step)| Some((index, step.lands()?)))
            {
                let number = numbers.entry(from).or_default();
                mine.steps.insert((from, *number), (round, index));
                *number += 1;
            }
        }
        Self {
            schedules,
            me,
            connections,
            places: vec![Place::default(); schedules.len()],
            under_way: Vec::new(),
            ways: BTreeMap::new(),
            mine,
            out: Schedule { work: own.work, ..Schedule::default() },
        }
    }

    /// One step in time; false when all has been done.
    fn tick(&mut self) -> bool {
        let mut tick = Tick::default();
        for rank in 0..u32::try_from(self.places.len()).expect("ranks are numbers of 32 bits") {
            self.begin(rank, &mut tick);
        }
        let moved = !self.under_way.is_empty();
        for message in std::mem::take(&mut self.under_way) {
            self.pass(message, &mut tick);
        }
        let mut ended = false;
        for rank in 0..u32::try_from(self.places.len()).expect("ranks are numbers of 32 bits") {
            ended |= self.end(rank, &mut tick);
        }
        let is_over = (self.places.iter().zip(self.schedules)).all(|(place, of)| place.round == of.rounds.len());
        assert!(moved || ended || is_over, "schedules fit each other");
        self.mine.give_back(tick.freed, self.schedules[self.me as usize].work);
        self.out.rounds.extend(tick.before);
        self.out.push_all(tick.sends.into_iter().chain(tick.receives).chain(tick.locals));
        moved || ended
    }

    /// Begins the next round of a rank that is in none: its messages set out.
    fn begin(&mut self, rank: u32, tick: &mut Tick) {
        let (place, rounds) = (&mut self.places[rank as usize], &self.schedules[rank as usize].rounds);
        while let Some(round) = rounds.get(place.round).filter(|round| round.iter().all(|step| step.peer().is_none())) {
            place.round += 1;
            if rank == self.me {
                tick.before.push(round.clone());
            }
        }
        let Some(round) = rounds.get(place.round).filter(|_| !place.has_begun) else { return };
        place.has_begun = true;
        for step in round {
            if let Some((from, _)) = step.lands() {
                *place.due.entry(from).or_default() += 1;
            } else if let Step::Send { to, data } = step {
                let number = place.sent.entry(*to).or_default();
                let way = if self.connections.has(rank, *to) {
                    vec![rank, *to]
                } else {
                    way(self.ways.entry(rank).or_insert_with(|| self.connections.ways_from(rank)), *to)
                };
                self.under_way.push(Message { way, passed: 0, data: *data, held: None, number: *number });
                *number += 1;
            }
        }
    }

    /// Takes a message one connection further.
    fn pass(&mut self, mut message: Message, tick: &mut Tick) {
        let (from, to) = (message.way[message.passed], message.way[message.passed + 1]);
        message.passed += 1;
        let is_there = message.passed + 1 == message.way.len();
        if from == self.me {
            tick.freed.extend(message.held);
            tick.sends.push(Step::Send { to, data: message.held.take().unwrap_or(message.data) });
        }
        if to == self.me {
            let step = if is_there { self.arrive(from, &message) } else { None };
            tick.receives.push(step.unwrap_or_else(|| {
                let into = self.mine.take(message.data.len(), &mut self.out.work);
                if is_there {
                    self.mine.early.insert(self.mine.steps[&(message.way[0], message.number)], into);
                } else {
                    message.held = Some(into);
                }
                Step::Receive { from, into }
            }));
        }
        if is_there {
            *self.places[to as usize].come.entry(message.way[0]).or_default() += 1;
        } else {
            self.under_way.push(message);
        }
    }

    /// How this rank receives a message at once where it is to go, if it can.
    fn arrive(&self, from: u32, message: &Message) -> Option<Step> {
        let (round, index) = self.mine.steps[&(message.way[0], message.number)];
        let (place, steps) = (&self.places[self.me as usize], &self.schedules[self.me as usize].rounds[round]);
        if place.round != round || !place.has_begun || meets_another(steps, index) {
            return None;
        }
        Some(match steps[index] {
            Step::Reduce { own, into, side, .. } => Step::Reduce { from, own, into, side },
            Step::Receive { into, .. } => Step::Receive { from, into },
            Step::Send { .. } | Step::Copy { .. } | Step::Combine { .. } => unreachable!("it lands"),
        })
    }

    /// Ends the round of a rank if all has come that it waits for.
    fn end(&mut self, rank: u32, tick: &mut Tick) -> bool {
        let place = &mut self.places[rank as usize];
        let has_come = |(from, due): (&u32, &usize)| place.come.get(from).is_some_and(|come| come >= due);
        if !place.has_begun || !place.due.iter().all(has_come) {
            return false;
        }
        let number = place.round;
        (place.round, place.has_begun) = (number + 1, false);
        if rank == self.me {
            let round = &self.schedules[rank as usize].rounds[number];
            for (index, step) in round.iter().enumerate() {
                if let Some(data) = self.mine.early.remove(&(number, index)) {
                    tick.freed.push(data);
                    apply(step, data, &mut tick.locals);
                }
            }
            tick.locals.extend(round.iter().filter(|step| step.peer().is_none()));
        }
        true
    }
}

impl Mine {
    /// Work memory for a message.
    fn take(&mut self, length: usize, work: &mut usize) -> Span {
        self.in_use += 1;
        // Segments of a pipeline are of one length.
        if let Some(fits) = self.free.iter().position(|span| span.len() == length) {
            return self.free.swap_remove(fits);
        }
        let start = self.end;
        self.end += length;
        *work = self.end.max(*work);
        Memory::Work.at(start..self.end)
    }

    /// Takes spans back; the schedule's own work memory ends at `start`.
    fn give_back(&mut self, freed: Vec<Span>, start: usize) {
        self.in_use -= freed.len();
        self.free.extend(freed);
        if self.in_use == 0 {
            self.free.clear();
            self.end = start;
        }
    }
}

/// The way to `to`, by the rank before each.
fn way(before: &BTreeMap<u32, u32>, to: u32) -> Vec<u32> {
    let mut way = vec![to];
    let mut at = to;
    while let Some(previous) = before.get(&at) {
        way.push(*previous);
        at = *previous;
    }
    way.reverse();
    way
}

/// Whether what another step of the round receives lies where this one reads or writes: their order counts.
fn meets_another(round: &Round, index: usize) -> bool {
    let touched = |step: &Step| {
        let own = if let Step::Reduce { own, .. } = step { Some(*own) } else { None };
        step.lands().map(|(_, into)| (into, own.unwrap_or(into)))
    };
    let Some((into, own)) = touched(&round[index]) else { return false };
    let others = round.iter().enumerate().filter(|(other, _)| *other != index);
    let mut others = others.filter_map(|(_, step)| touched(step));
    others.any(|(theirs, read)| theirs.overlaps(&into) || theirs.overlaps(&own) || read.overlaps(&into))
}

/// Does with `data` in work memory what `step` does with what it receives.
fn apply(step: &Step, data: Span, locals: &mut Round) {
    if data.is_empty() {
        return;
    }
    match *step {
        Step::Receive { into, .. } => locals.push(Step::Copy { data, into }),
        Step::Reduce { own, into, side, .. } => {
            if own != into {
                locals.push(Step::Copy { data: own, into });
            }
            locals.push(Step::Combine { other: data, into, side });
        }
        Step::Send { .. } | Step::Copy { .. } | Step::Combine { .. } => {}
    }
}
