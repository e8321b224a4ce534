//! Plays scripts of bytes on the machine as a driver would, for property tests and fuzzing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Group, Input, Limits, OpId, Route, WaitsFor, What};
use crate::error::ErrorKind;
use crate::frame::{Envelope, Kind};
use crate::mailbox::Pattern;
use crate::rank::{Members, Slot};
use fmi_net::time::Instant;

const SIZE: u32 = 4;
const DEADLINE: Duration = Duration::from_secs(10);
/// Communicators that scripts use; the last one has two members.
const COMMUNICATORS: [u64; 3] = [0, 1, 2];

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn below(&mut self, bound: u8) -> u8 {
        self.next().unwrap_or_default() % bound
    }
}

/// What a driver knows of the frame at hand of a peer.
#[derive(Clone, Copy, Default)]
struct Lane {
    is_up: bool,
    left: u64,
}

struct Driver {
    group: Group,
    now: Instant,
    lanes: [Lane; SIZE as usize],
    /// Operations with what they do and when they were called.
    operations: Vec<(OpId, What, Instant)>,
    /// Payload bytes that receives have read.
    read: BTreeMap<OpId, usize>,
}

/// Plays a script. Panics if the machine breaks a rule: state that is not consistent, an operation that outlives its
/// deadline, a failure without a cause.
pub fn play(bytes: &[u8]) {
    let me = Slot::FIRST;
    let limits = Limits::new(Some(DEADLINE), Duration::from_secs(1), 1 << 16, 1 << 14);
    let mut group = Group::new(me, SIZE, limits, |_| true);
    let part: Vec<Slot> = Slot::all(2).collect();
    group.open(1, Members::whole(0, SIZE));
    group.open(2, Members::part(me, part).expect("the first slot is a member"));
    let lanes = [Lane { is_up: true, left: 0 }; SIZE as usize];
    let mut driver = Driver { group, now: Instant::ZERO, lanes, operations: Vec::new(), read: BTreeMap::new() };
    let mut bytes = Bytes(bytes);
    while let Some(deed) = bytes.next() {
        driver.step(deed, &mut bytes);
        driver.settle();
        driver.group.check_invariants();
    }
    driver.outlive_all();
}

impl Driver {
    fn step(&mut self, deed: u8, bytes: &mut Bytes<'_>) {
        match deed % 10 {
            0 | 1 => self.post(bytes),
            2..=4 => self.read(bytes),
            5 => self.finish(bytes),
            6 => {
                self.now += Duration::from_millis(u64::from(bytes.below(255)) * 20);
                self.time();
            }
            7 => {
                let hears = bytes.below(2) == 0;
                self.group.handle_input(self.now, Input::Hears(hears));
            }
            8 => {
                let slot = Slot::all(SIZE).nth(usize::from(bytes.below(32))).filter(|slot| *slot != Slot::FIRST);
                if let Some(slot) = slot {
                    let input = match bytes.below(5) {
                        0 => Input::Failed(slot),
                        1 => Input::Severed(slot),
                        2 => Input::Returned,
                        _ => Input::Lost(slot),
                    };
                    self.group.handle_input(self.now, input);
                }
            }
            _ => {
                let peer = self.peer(bytes);
                if bytes.below(8) == 0 && self.lanes[peer.index()].is_up {
                    self.lanes[peer.index()] = Lane::default();
                    let kind = ErrorKind::ConnectionLost("broken by the script".into());
                    self.group.handle_input(self.now, Input::Broken { peer, kind });
                }
            }
        }
    }

    fn peer(&self, bytes: &mut Bytes<'_>) -> Slot {
        Slot::all(SIZE).nth(1 + usize::from(bytes.below(3))).expect("three peers")
    }

    fn post(&mut self, bytes: &mut Bytes<'_>) {
        let communicator = COMMUNICATORS[usize::from(bytes.below(3))];
        let members = self.group.members(communicator).expect("open").clone();
        let member = |number: u8| members.rank(u32::from(number) % members.size()).map(|rank| members.slot(rank));
        let what = match bytes.below(3) {
            0 => {
                let Some(to) = member(bytes.below(4)).filter(|to| *to != Slot::FIRST) else { return };
                What::Send(to)
            }
            1 => {
                let source = if bytes.below(2) == 0 { None } else { member(bytes.below(4)) };
                let tag = (bytes.below(2) == 0).then(|| u32::from(bytes.below(3)));
                What::Receive(Pattern { communicator, source, tag })
            }
            _ => {
                if self.group.revocation(communicator).is_some() {
                    return;
                }
                let sequence = self.group.number(communicator);
                let kind = if bytes.below(2) == 0 { Kind::Barrier } else { Kind::Allreduce };
                What::Collective(Envelope { communicator, sequence, ..Envelope::new(kind) })
            }
        };
        if let Ok(id) = self.group.post(self.now, communicator, what, None) {
            match what {
                What::Send(to) => {
                    let number = self.group.number_message(communicator, to);
                    self.group.expect_match(id, number);
                }
                // Those with a tag are receives, the others probes.
                What::Receive(pattern) if pattern.tag.is_some() => self.group.take(id),
                What::Receive(_) | What::Collective(_) => {}
            }
            self.operations.push((id, what, self.now));
        }
    }

    /// An envelope that a peer may send, or any other.
    fn envelope(&mut self, bytes: &mut Bytes<'_>) -> Envelope {
        let communicator = [0, 1, 2, 77][usize::from(bytes.below(4))];
        const KINDS: [Kind; 9] = [
            Kind::Message,
            Kind::Message,
            Kind::Barrier,
            Kind::Allreduce,
            Kind::Inquiry,
            Kind::Revoke,
            Kind::Ready,
            Kind::Answer,
            Kind::Leave,
        ];
        let kind = KINDS[usize::from(bytes.below(9))];
        let length = [0, 10, 5000, 20_000, 1 << 40][usize::from(bytes.below(5))];
        let sequence = u64::from(bytes.below(4));
        // In place of questions that say nothing.
        let kind = if kind == Kind::Inquiry && length == 0 { Kind::Matched } else { kind };
        // Of a message often the whole length, or that of more to come; or what fits nothing.
        let (more, elements) = match bytes.below(5) {
            0 | 1 => (false, length),
            2 => (true, length + 5000),
            3 => (false, length + 5000),
            _ => (true, 10),
        };
        let (step, root_or_tag) = (u32::from(bytes.below(2)), u32::from(bytes.below(3)));
        let synchronous = sequence == 3;
        Envelope {
            communicator,
            sequence,
            step,
            root_or_tag,
            length,
            more,
            synchronous,
            elements,
            ..Envelope::new(kind)
        }
    }

    /// Does what the machine says about the front of a peer's stream, for an operation or for nobody.
    fn read(&mut self, bytes: &mut Bytes<'_>) {
        let peer = self.peer(bytes);
        let chosen = self.operations.get(usize::from(bytes.below(16))).copied();
        let Lane { is_up, left } = self.lanes[peer.index()];
        let now = self.now;
        if let Some((id, ..)) = chosen {
            let reached = self.group.reach(now, id, peer);
            assert!(is_up || !matches!(reached, Ok(true)), "a broken connection is not used");
        }
        if !is_up {
            return;
        }
        // Without an operation, as whoever hears what comes and wants nothing.
        match self.group.route(chosen.map_or(OpId::FIRST, |(id, ..)| id), peer, left) {
            Route::Head => {
                let envelope = self.envelope(bytes);
                self.lanes[peer.index()].left = envelope.length;
                self.group.handle_input(now, Input::Head { peer, envelope });
            }
            // What is longer than memory is left where it is.
            Route::Mine if left > 1 << 20 => {}
            Route::Mine => {
                if let Some((id, ..)) = chosen {
                    self.group.want(id);
                }
                self.group.reclaim(peer);
                let read = left / (1 + u64::from(bytes.below(3)));
                self.lanes[peer.index()].left = left - read;
                if let Some((id, ..)) = chosen {
                    *self.read.entry(id).or_default() += usize::try_from(read).expect("short");
                }
                let input = if read == left { Input::Consumed(peer) } else { Input::Progressed(peer) };
                if let (Some((id, ..)), Input::Consumed(_)) = (chosen, &input) {
                    let is_message = self.group.matched(id).is_some();
                    self.group.handle_input(now, input);
                    if is_message && !self.group.has_rest(id) {
                        self.group.end(id);
                        self.operations.retain(|(known, ..)| *known != id);
                    }
                } else {
                    self.group.handle_input(now, input);
                }
            }
            Route::Control => {
                let payload = (0..left).map(|_| bytes.next().unwrap_or_default()).collect();
                self.lanes[peer.index()].left = 0;
                self.group.handle_input(now, Input::Control { peer, payload });
            }
            Route::Discard => {
                self.lanes[peer.index()].left = 0;
                self.group.handle_input(now, Input::Consumed(peer));
            }
            Route::Store => {
                self.lanes[peer.index()].left = 0;
                let payload = vec![0; usize::try_from(left).expect("room was reserved for it")];
                self.group.handle_input(now, Input::Stored { peer, payload });
            }
            Route::Offered | Route::Driven(_) | Route::Full => {}
        }
    }

    /// Ends an operation, or gives it up.
    fn finish(&mut self, bytes: &mut Bytes<'_>) {
        let index = usize::from(bytes.below(16));
        if index >= self.operations.len() {
            return;
        }
        let (id, what, called) = self.operations.remove(index);
        match what {
            What::Receive(_) => {
                let stored = self.group.matched(id).and_then(|matched| matched.place);
                // What a failed operation was matched with may be gone with its communicator.
                if stored.is_some() && self.group.check(id).is_ok() && bytes.below(2) == 0 {
                    let stored = self.group.take_stored(id).expect("a matched message is there");
                    assert_eq!(stored.taken, self.read.get(&id).copied().unwrap_or_default(), "no gaps");
                    *self.read.entry(id).or_default() += stored.payload.len();
                    if bytes.below(2) == 0 {
                        self.group.want(id);
                        if self.group.has_rest(id) {
                            self.operations.push((id, what, called));
                            return;
                        }
                    }
                    self.group.end(id);
                } else {
                    let front = vec![0; self.read.remove(&id).unwrap_or_default()];
                    let of_frame = self.lanes_take_back(id);
                    self.group.release(id, &front, of_frame);
                }
            }
            What::Send(to) => {
                if bytes.below(2) == 0 {
                    let sequence = self.group.number_message(0, to);
                    self.group.await_ready(id, &Envelope { sequence, ..Envelope::new(Kind::Message) });
                    self.group.begun(id);
                    self.operations.push((id, what, called));
                    return;
                }
                if self.group.may_begin(id) && bytes.below(2) == 0 {
                    self.group.begun(id);
                }
                self.group.end(id);
            }
            What::Collective(signature) => {
                while self.group.take_collective(self.peer(bytes), &signature).is_some() {}
                self.group.end(id);
            }
        }
    }

    /// What a receive has read of the frame at hand is before its rest again.
    fn lanes_take_back(&mut self, id: OpId) -> usize {
        if let Some(matched) = self.group.matched(id)
            && matched.place.is_none()
            && self.group.owns(id, matched.peer)
            && let Some(frame) = self.group.at_hand(matched.peer)
        {
            let left = std::mem::replace(&mut self.lanes[matched.peer.index()].left, frame.length);
            return usize::try_from(frame.length - left).expect("no more than was read");
        }
        0
    }

    fn time(&mut self) {
        let mut waits_for = WaitsFor::default();
        waits_for.add(Slot::all(SIZE).next_back().expect("some"));
        for (id, ..) in &self.operations {
            self.group.park(*id, waits_for);
        }
        while let Some((at, reason)) = self.group.poll_timeout().filter(|(at, _)| *at <= self.now) {
            assert!(!reason.is_empty(), "a timer has a reason");
            self.group.handle_timeout(self.now);
            let next = self.group.poll_timeout();
            assert!(next.is_none_or(|(next, _)| next > at || next > self.now), "a timer that is due goes off once");
        }
    }

    /// Carries out what the machine wants, as far as it concerns a driver.
    fn settle(&mut self) {
        while let Some(output) = self.group.poll_output() {
            match output {
                super::Output::Close(peer) => self.lanes[peer.index()] = Lane::default(),
                super::Output::Tell { peer, envelope, payload } => {
                    assert!(envelope.length == payload.len() as u64, "an envelope tells the length");
                    assert!(payload.len() <= crate::notice::NOTICE_BYTES_MAX);
                    assert!(peer != Slot::FIRST, "nobody tells itself");
                }
                super::Output::Examine(peer) => {
                    // Peers with an odd number are heard.
                    let at = (peer.get() % 2 == 1).then_some(self.now);
                    self.group.handle_input(self.now, Input::Heard { peer, at });
                }
                super::Output::Warn { waits, .. } => assert!(!waits.is_empty(), "a warning says who waits"),
                super::Output::Wake(_) | super::Output::Report(_) => {}
            }
        }
    }

    /// Every operation fails by its deadline, and says why.
    fn outlive_all(&mut self) {
        self.time();
        self.now += DEADLINE;
        self.time();
        self.settle();
        for (id, ..) in &self.operations {
            let failure = self.group.check(*id).expect_err("an operation ends by its deadline");
            assert!(!failure.kind.to_string().is_empty(), "a failure has a cause");
        }
        self.group.check_invariants();
    }
}
