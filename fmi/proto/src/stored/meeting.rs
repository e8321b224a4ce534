//! How the ranks of a group meet in a store, without a rendezvous. Pure.
//!
//! Tries to meet have numbers, their *generations*. Each rank takes its seat in one, by a body that is written only where nothing is.
//! Once rank 0 sits, all show again and again that they live, by bodies whose names depend on who that is: nobody can have shown
//! it before. Rank 0 looks at all seats; when somebody who lives is on each, it writes the *decision*: the cards of
//! all. Where somebody has died meanwhile, whoever notices decides that the generation is *void*, and all go on to the next one. Either is
//! written only where nothing is: there is one decision for each generation, whoever makes it, and nobody starts or goes on
//! before it is there. So
//!
//! - a run that crashed is neither joined nor in the way: its generation is decided, or somebody in it is silent;
//! - of two processes for one rank, one has no seat, and waits in the next generation, where nobody comes;
//! - a process that was started again before its group was complete takes part in the generation that follows. It says that it
//!   wants the seat, and rank 0 does not decide before whoever holds it has shown again that it lives.
//!
//! What a store hands out that nobody of the group wrote is an error. An old decision is refused by whoever is not in it.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fmi_net::time::Instant;

use super::names::Lobby;
use crate::card::CARD_BYTES_MAX;
use crate::derive::{self, KeyBytes};
use crate::key::Key;
use crate::rendezvous::{Handout, Member, Nonce, Observed, SessionId};
use crate::wire::{Reader, WireError, Write};

/// How often a rank shows that it lives.
pub const PULSE: Duration = Duration::from_secs(2);
/// A rank that has not shown that it lives for so long is taken for dead, as long as the group is not complete. It covers
/// several pulses, and a store that is asked now and then.
pub const LEASE: Duration = Duration::from_secs(12);
/// Generations that a rank looks at before it gives up: each run that ended without leaving takes one until it expires.
const GENERATIONS_MAX: u32 = 4096;

/// Longest seat.
const SEAT_BYTES_MAX: usize = size_of::<Nonce>() + CARD_BYTES_MAX;
const TAG_BYTES: usize = 32;
const VOID: u8 = 0;
const MET: u8 = 1;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A body that was asked for or waited for; `None` if it is not there.
    Found(Lobby, Option<Vec<u8>>),
    /// A body was written.
    Written(Lobby),
    /// It was not, as another one is there.
    Occupied(Lobby, Vec<u8>),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write a body, and ring the bells of these ranks.
    Put {
        /// Its name.
        body: Lobby,
        /// Its bytes.
        bytes: Vec<u8>,
        /// Only where nothing is.
        only_if_absent: bool,
        /// Whose bells ring.
        ring: Vec<u32>,
    },
    /// Look whether a body is there.
    Get(Lobby),
    /// Wait for any of these bodies, and no longer for others.
    Wait(Vec<Lobby>),
    /// The group has met.
    Met(Handout),
    /// Give up.
    Failed(Trouble),
}

/// Why the ranks cannot meet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Trouble {
    /// Somebody else wrote into the names of the group.
    #[error("{0} in the store is not what a rank of this group wrote: it was changed, or is of another group")]
    Altered(&'static str),
    /// Too many earlier runs.
    #[error("{0} earlier runs of this group are in the store; sweep it, or use another name")]
    Crowded(u32),
}

/// What is known of whoever sits on a seat.
#[derive(Clone, Copy, Debug)]
struct Holder {
    heard_at: Instant,
    next_pulse: u32,
    /// How many pulses it must have sent before anything is decided.
    pulses_min: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Finding out whether the generation is decided.
    Looking,
    /// Taking a seat.
    Seating,
    /// On its seat.
    Seated,
    /// Another process sits there.
    Contended,
    /// Writing a decision.
    Deciding,
    Done,
}

/// One rank that meets the others.
#[derive(Debug)]
pub struct Meeting {
    rank: u32,
    size: u32,
    key: KeyBytes,
    seat: Vec<u8>,
    nonce: Nonce,
    generation: u32,
    state: State,
    /// Cards on the seats that rank 0 has seen.
    cards: BTreeMap<u32, Vec<u8>>,
    /// The nonce of the process on the seat of rank 0, once it is known.
    since: Option<Nonce>,
    /// Whether somebody wants a seat that is taken.
    is_contested: bool,
    /// Those who must live: of rank 0 all that are seated, of others rank 0, of whom has no seat its holder.
    watched: BTreeMap<u32, Holder>,
    pulse: u32,
    pulse_at: Option<Instant>,
    /// What it has decided, if nobody else was first.
    proposed: Vec<u8>,
    /// Whether a group of this name has formed without this rank.
    is_running: bool,
    outputs: VecDeque<Output>,
}

impl Meeting {
    /// Begins. `card` is sealed for `nonce`, both fresh.
    pub fn new(key: &Key, rank: u32, size: u32, nonce: Nonce, card: &[u8]) -> Self {
        let mut seat = nonce.to_vec();
        seat.extend_from_slice(card);
        let mut meeting = Self {
            rank,
            size,
            key: key.derive(derive::MEETING, &[&size.to_be_bytes()]),
            seat,
            nonce,
            generation: 0,
            state: State::Looking,
            cards: BTreeMap::new(),
            since: None,
            is_contested: false,
            watched: BTreeMap::new(),
            pulse: 0,
            pulse_at: None,
            proposed: Vec::new(),
            is_running: false,
            outputs: VecDeque::new(),
        };
        meeting.look();
        meeting
    }

    /// Ranks that are known to be there, this one included, and the lowest one that is not.
    pub fn waiting(&self) -> (u32, Option<u32>) {
        let is_there = |rank: &u32| *rank == self.rank || self.watched.contains_key(rank);
        let present = (0..self.size).filter(is_there).count();
        (u32::try_from(present).expect("no more than the group has"), (0..self.size).find(|rank| !is_there(rank)))
    }

    /// Whether a group of this name has formed without this rank.
    pub fn is_running(&self) -> bool {
        self.is_running
    }

    /// What the group leaves behind in the store, to be deleted: once all have met its seats and pulses, at its end its decision.
    pub fn litter(&self) -> (Vec<Lobby>, Lobby) {
        let (generation, rank) = (self.generation, self.rank);
        let mut used = vec![Lobby::Seat { generation, rank }];
        used.extend((0..self.pulse).filter_map(|number| self.pulse_of(rank, number)));
        (used, Lobby::Decision { generation })
    }

    /// The name of a pulse, once rank 0 has a seat.
    fn pulse_of(&self, rank: u32, number: u32) -> Option<Lobby> {
        let generation = self.generation;
        self.since.map(|since| Lobby::Pulse { generation, rank, since, number })
    }

    fn look(&mut self) {
        self.state = State::Looking;
        self.cards.clear();
        self.watched.clear();
        (self.since, self.is_contested) = (None, false);
        (self.pulse, self.pulse_at) = (0, None);
        self.outputs.push_back(Output::Get(Lobby::Decision { generation: self.generation }));
    }

    fn next_generation(&mut self) {
        self.outputs.push_back(Output::Wait(Vec::new()));
        self.generation += 1;
        if self.generation >= GENERATIONS_MAX {
            self.fail(Trouble::Crowded(GENERATIONS_MAX));
        } else {
            self.look();
        }
    }

    fn fail(&mut self, trouble: Trouble) {
        self.state = State::Done;
        self.outputs.push_back(Output::Failed(trouble));
    }

    /// Takes what happened.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        let generation = self.generation;
        match (self.state, input) {
            (State::Done, _) => {}
            (_, Input::Found(Lobby::Decision { generation: of }, Some(bytes)))
            | (_, Input::Occupied(Lobby::Decision { generation: of }, bytes)) => {
                if of == generation {
                    self.decided(&bytes);
                }
            }
            (State::Looking, Input::Found(Lobby::Decision { generation: of }, None)) if of == generation => {
                self.state = State::Seating;
                let (body, bytes) = (Lobby::Seat { generation, rank: self.rank }, self.seat.clone());
                self.outputs.push_back(Output::Put { body, bytes, only_if_absent: true, ring: vec![0] });
            }
            (State::Seating, Input::Written(Lobby::Seat { .. })) => {
                self.state = State::Seated;
                if self.rank == 0 {
                    self.cards.insert(0, self.seat.clone());
                    self.since = Some(self.nonce);
                    self.send_pulse(now);
                }
                self.wait();
                self.decide_if_complete();
            }
            (State::Seating, Input::Occupied(Lobby::Seat { .. }, bytes)) => {
                self.state = State::Contended;
                let body = Lobby::Contest { generation };
                let bytes_of_rank = self.rank.to_be_bytes().to_vec();
                self.outputs.push_back(Output::Put { body, bytes: bytes_of_rank, only_if_absent: true, ring: vec![0] });
                if self.rank == 0 {
                    self.seen(now, 0, bytes);
                } else {
                    self.wait();
                }
            }
            (State::Deciding, Input::Written(Lobby::Decision { .. })) => {
                let decision = std::mem::take(&mut self.proposed);
                self.decided(&decision);
            }
            (_, Input::Found(Lobby::Seat { generation: of, rank }, Some(bytes))) if of == generation => {
                self.seen(now, rank, bytes);
            }
            (_, Input::Found(Lobby::Pulse { generation: of, rank, number, since }, Some(_)))
                if of == generation && self.since == Some(since) =>
            {
                if let Some(holder) = self.watched.get_mut(&rank)
                    && holder.next_pulse == number
                {
                    (holder.heard_at, holder.next_pulse) = (now, number + 1);
                    self.wait();
                    self.decide_if_complete();
                }
            }
            (State::Seated, Input::Found(Lobby::Contest { generation: of }, Some(bytes))) if of == generation => {
                self.is_contested = true;
                let rank = bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
                if let Some(holder) = rank.and_then(|rank| self.watched.get_mut(&rank)) {
                    holder.pulses_min = holder.next_pulse + 1;
                }
                self.wait();
            }
            // What came too late, or is not there yet.
            (_, Input::Found(..) | Input::Written(_) | Input::Occupied(..)) => {}
        }
    }

    /// A seat is taken.
    fn seen(&mut self, now: Instant, rank: u32, bytes: Vec<u8>) {
        let is_rank_0 = self.rank == 0 && self.state == State::Seated;
        if rank >= self.size || self.watched.contains_key(&rank) || (rank != 0 && !is_rank_0) {
            return;
        }
        let Some(nonce) = bytes.first_chunk().copied().filter(|_| bytes.len() <= SEAT_BYTES_MAX) else {
            return self.fail(Trouble::Altered("a card"));
        };
        let holder = Holder { heard_at: now, next_pulse: 0, pulses_min: 1 };
        if is_rank_0 {
            self.watched.insert(rank, holder);
            self.cards.insert(rank, bytes);
        } else if self.since.is_none() && matches!(self.state, State::Seated | State::Contended) {
            self.since = Some(nonce);
            self.watched.insert(0, holder);
            if self.state == State::Contended {
                self.watched.insert(self.rank, holder);
            } else {
                self.send_pulse(now);
            }
        }
        self.wait();
    }

    fn decide_if_complete(&mut self) {
        let is_complete = self.rank == 0 && self.state == State::Seated && self.cards.len() == self.size as usize;
        if is_complete && self.watched.values().all(|holder| holder.next_pulse >= holder.pulses_min) {
            let mut bytes = vec![MET];
            for card in self.cards.values() {
                bytes.put_bytes(card);
            }
            self.decide(bytes);
        }
    }

    fn decide(&mut self, decision: Vec<u8>) {
        self.state = State::Deciding;
        let mut bytes = self.tag(&decision).0.to_vec();
        bytes.extend_from_slice(&decision);
        self.proposed.clone_from(&bytes);
        let body = Lobby::Decision { generation: self.generation };
        self.outputs.push_back(Output::Put { body, bytes, only_if_absent: true, ring: (0..self.size).collect() });
    }

    fn tag(&self, decision: &[u8]) -> derive::Tag {
        self.key.tag(&[&self.generation.to_be_bytes(), decision])
    }

    /// Takes the one decision of this generation.
    fn decided(&mut self, bytes: &[u8]) {
        let Some((tag, decision)) = bytes.split_first_chunk::<TAG_BYTES>() else {
            return self.fail(Trouble::Altered("a decision"));
        };
        if !self.tag(decision).matches(tag) {
            return self.fail(Trouble::Altered("a decision"));
        }
        match (decision, self.read(decision)) {
            ([VOID], _) => self.next_generation(),
            (_, Ok(seats)) => {
                if seats[self.rank as usize].0 == self.nonce {
                    self.met(seats);
                } else {
                    // Another run, or another process for this rank.
                    self.is_running = true;
                    self.next_generation();
                }
            }
            (_, Err(_)) => self.fail(Trouble::Altered("a decision")),
        }
    }

    /// Nonces and cards, by rank.
    fn read(&self, decision: &[u8]) -> Result<Vec<(Nonce, Vec<u8>)>, WireError> {
        let mut reader = Reader::new(decision);
        let kind = reader.u8()?;
        if kind != MET {
            return Err(WireError::Value { field: "decision", value: kind.into() });
        }
        let seat = |_| {
            let seat = reader.bytes(SEAT_BYTES_MAX)?;
            let (nonce, card) = seat.split_first_chunk().ok_or(WireError::Short)?;
            Ok((*nonce, card.to_vec()))
        };
        let seats = (0..self.size).map(seat).collect::<Result<_, WireError>>()?;
        reader.finish()?;
        Ok(seats)
    }

    fn met(&mut self, seats: Vec<(Nonce, Vec<u8>)>) {
        self.state = State::Done;
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"fmi 3 session in a store").update(&self.generation.to_be_bytes());
        for (nonce, _) in &seats {
            hasher.update(nonce);
        }
        let session: SessionId = *hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes");
        let nowhere = Observed::once(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        let member =
            |(rank, (nonce, card))| Member { rank, nonce, observed: nowhere, round_trip: Duration::ZERO, card };
        let members = (0u32..).zip(seats).map(member).collect();
        self.outputs.push_back(Output::Wait(Vec::new()));
        self.outputs.push_back(Output::Met(Handout { session, members }));
    }

    fn send_pulse(&mut self, now: Instant) {
        let Some(body) = self.pulse_of(self.rank, self.pulse) else { return };
        // Rank 0 is heard by all, the others by rank 0.
        let ring = if self.rank == 0 { (1..self.size).collect() } else { vec![0] };
        self.outputs.push_back(Output::Put { body, bytes: Vec::new(), only_if_absent: false, ring });
        self.pulse += 1;
        self.pulse_at = Some(now + PULSE);
    }

    /// Waits for what may come next.
    fn wait(&mut self) {
        let generation = self.generation;
        let mut bodies = vec![Lobby::Decision { generation }];
        let is_new = |rank: &u32| *rank != self.rank && !self.watched.contains_key(rank);
        if self.rank == 0 && self.state == State::Seated {
            if !self.is_contested {
                bodies.push(Lobby::Contest { generation });
            }
            bodies.extend((0..self.size).filter(is_new).map(|rank| Lobby::Seat { generation, rank }));
        } else if self.since.is_none() {
            bodies.push(Lobby::Seat { generation, rank: 0 });
        }
        bodies.extend(self.watched.iter().filter_map(|(&rank, holder)| self.pulse_of(rank, holder.next_pulse)));
        self.outputs.push_back(Output::Wait(bodies));
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if matches!(self.state, State::Seated | State::Deciding) && self.pulse_at.is_some_and(|at| now >= at) {
            self.send_pulse(now);
        }
        if matches!(self.state, State::Seated | State::Contended)
            && self.watched.values().any(|holder| now >= holder.heard_at + LEASE)
        {
            self.decide(vec![VOID]);
        }
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if matches!(self.state, State::Done) {
            return None;
        }
        let leases = self.watched.values().map(|holder| holder.heard_at + LEASE);
        let lease = leases.min().filter(|_| matches!(self.state, State::Seated | State::Contended));
        let pulse = self.pulse_at.map(|at| (at, "pulse"));
        pulse.into_iter().chain(lease.map(|at| (at, "lease"))).min_by_key(|(at, _)| *at)
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

#[cfg(test)]
#[path = "meeting/tests.rs"]
mod tests;
