//! One communicator: its members, the numbers of its collectives, and whether it has failed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::error::ErrorKind;
use crate::frame::Envelope;
use crate::notice::Notice;
use crate::rank::{Members, Rank, Slot};

/// Marks the number of a run of a persistent collective: then comes the number of the collective that is persistent, then
/// that of the run. So runs of several are told apart whatever the order in which ranks start them.
const PERSISTENT: u64 = 1 << 63;
/// Bits of a run's number.
const RUN_BITS: u32 = 40;
/// Persistent collectives that a communicator can ever make.
const PERSISTENT_MAX: u64 = PERSISTENT >> RUN_BITS;

/// Which persistent collective, and which run of it, has this number; `None` of any other collective.
pub(crate) fn persistent_run(sequence: u64) -> Option<(u64, u64)> {
    let (init, run) = ((sequence & !PERSISTENT) >> RUN_BITS, sequence & ((1 << RUN_BITS) - 1));
    (sequence & PERSISTENT != 0).then_some((init, run))
}

/// Signatures of past collectives that a communicator remembers, to answer those who ask about them.
const HISTORY_MAX: usize = 64;

/// How many collectives ahead of this rank each peer may say that it takes part in; a rank that sends more makes them up.
const READY_MAX: usize = 1 << 14;

/// What a communicator keeps.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) members: Members,
    pub(super) epoch: u32,
    /// Collectives called so far.
    collectives: u64,
    /// Numbers of those that have a place and have not begun.
    reserved: BTreeSet<u64>,
    /// Persistent collectives made so far.
    persistent: u64,
    /// Runs of those that have not been dropped.
    runs: BTreeMap<u64, u64>,
    history: VecDeque<Envelope>,
    /// What peers said they wait in, beyond what has been called here.
    expected: BTreeMap<Slot, Envelope>,
    /// Messages sent so far to each member.
    sent: BTreeMap<Slot, u64>,
    /// Peers that take part in collectives which have not begun here.
    ready: BTreeSet<(u64, Slot)>,
    /// How many of them each peer has.
    ready_of: BTreeMap<Slot, usize>,
    pub(super) revoked: Option<Revoked>,
    /// Members that have left it, and what they said.
    pub(super) left: BTreeMap<Slot, String>,
    /// Members that were told that this rank leaves.
    pub(super) greeted: BTreeSet<Slot>,
}

/// Why a communicator is of no more use.
#[derive(Clone, Debug)]
pub(super) struct Revoked {
    pub(super) kind: ErrorKind,
    pub(super) peer: Option<Rank>,
    /// What later calls are told.
    pub(super) text: String,
    /// Whether an operation has reported the cause.
    pub(super) told: bool,
    /// What ranks are told that ask.
    pub(super) notice: Notice,
}

impl Context {
    pub(super) fn new(members: Members) -> Self {
        Self {
            members,
            epoch: 0,
            collectives: 0,
            reserved: BTreeSet::new(),
            persistent: 0,
            runs: BTreeMap::new(),
            history: VecDeque::with_capacity(HISTORY_MAX),
            expected: BTreeMap::new(),
            sent: BTreeMap::new(),
            ready: BTreeSet::new(),
            ready_of: BTreeMap::new(),
            revoked: None,
            left: BTreeMap::new(),
            greeted: BTreeSet::new(),
        }
    }

    /// Whether the collective with this number has begun here.
    pub(super) fn has_begun(&self, sequence: u64) -> bool {
        let Some((init, run)) = persistent_run(sequence) else {
            return sequence < self.collectives && !self.reserved.contains(&sequence);
        };
        match self.runs.get(&init) {
            Some(runs) => run < *runs,
            // It has been dropped, or is still to be made.
            None => init < self.persistent,
        }
    }

    /// Makes a persistent collective; `None` if there have been too many.
    pub(super) fn init(&mut self) -> Option<u64> {
        let init = self.persistent;
        if init == PERSISTENT_MAX {
            return None;
        }
        self.persistent += 1;
        self.runs.insert(init, 0);
        Some(init)
    }

    /// Takes the number of a run of a persistent collective.
    pub(super) fn number_run(&mut self, init: u64) -> u64 {
        let runs = self.runs.entry(init).or_default();
        *runs += 1;
        PERSISTENT | init << RUN_BITS | ((*runs - 1) & ((1 << RUN_BITS) - 1))
    }

    /// Ends a persistent collective.
    pub(super) fn end_persistent(&mut self, init: u64) {
        self.runs.remove(&init);
    }

    /// Takes the number of a collective.
    pub(super) fn number(&mut self) -> u64 {
        self.collectives += 1;
        self.collectives - 1
    }

    /// Takes the number of a collective that begins later.
    pub(super) fn reserve(&mut self) -> u64 {
        let number = self.number();
        self.reserved.insert(number);
        number
    }

    /// Takes the number of a message to `to`.
    pub(super) fn number_message(&mut self, to: Slot) -> u64 {
        let sent = self.sent.entry(to).or_default();
        *sent += 1;
        *sent - 1
    }

    /// Remembers a collective that begins.
    pub(super) fn note(&mut self, signature: &Envelope) {
        self.reserved.remove(&signature.sequence);
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(*signature);
    }

    /// What was called here under the number of `theirs`, if that is known.
    pub(super) fn called(&self, theirs: &Envelope) -> Option<Envelope> {
        self.history.iter().find(|known| known.sequence == theirs.sequence).copied()
    }

    /// Remembers that a peer takes part in a collective that has not begun here.
    pub(super) fn is_ready_early(&mut self, sequence: u64, peer: Slot) {
        if self.has_begun(sequence) {
            return;
        }
        let count = self.ready_of.entry(peer).or_default();
        if *count < READY_MAX && self.ready.insert((sequence, peer)) {
            *count += 1;
        }
    }

    /// Those that take part in a collective that begins.
    pub(super) fn take_ready(&mut self, sequence: u64) -> Option<Vec<Slot>> {
        if self.ready.is_empty() {
            return None;
        }
        let of = self.ready.range((sequence, Slot::FIRST)..).take_while(|(of, _)| *of == sequence);
        let ready: Vec<Slot> = of.map(|(_, peer)| *peer).collect();
        for peer in &ready {
            self.ready.remove(&(sequence, *peer));
            if let Some(count) = self.ready_of.get_mut(peer) {
                *count -= 1;
            }
        }
        (!ready.is_empty()).then_some(ready)
    }

    /// Remembers what a peer waits in that has not begun here.
    pub(super) fn expect(&mut self, peer: Slot, theirs: Envelope) {
        if !self.has_begun(theirs.sequence) {
            self.expected.insert(peer, theirs);
        }
    }

    /// What a peer expects of the collective of `mine`, if it is something else.
    pub(super) fn expectation(&mut self, mine: &Envelope) -> Option<(Slot, Envelope)> {
        if self.expected.is_empty() {
            return None;
        }
        let mut expected = std::mem::take(&mut self.expected);
        expected.retain(|_, theirs| theirs.sequence == mine.sequence || !self.has_begun(theirs.sequence));
        self.expected = expected;
        let differs = |theirs: &&Envelope| theirs.sequence == mine.sequence && theirs.signature() != mine.signature();
        self.expected.iter().find(|(_, theirs)| differs(theirs)).map(|(peer, theirs)| (*peer, *theirs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Kind;

    #[test]
    fn runs_of_persistent_collectives_are_numbered_apart() {
        let mut context = Context::new(Members::whole(0, 2));
        let (one, two) = (context.init().expect("the first"), context.init().expect("the second"));
        let numbers = [context.number_run(one), context.number_run(two), context.number_run(one), context.number()];
        assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
        assert!(numbers.iter().all(|number| context.has_begun(*number)));
        let next = context.number_run(two) + 1;
        assert!(!context.has_begun(next), "the third run of the second one has not begun");
        context.end_persistent(two);
        assert!(context.has_begun(next), "and never will");
        let unknown = numbers[1] + (1 << RUN_BITS);
        assert!(!context.has_begun(unknown), "a third one may be made");
    }

    #[test]
    fn the_number_of_a_run_says_what_it_is_a_run_of() {
        let mut context = Context::new(Members::whole(0, 2));
        assert_eq!(persistent_run(context.number()), None);
        for init in [context.init(), context.init(), context.init()].map(|init| init.expect("few")) {
            for run in 0..4 {
                assert_eq!(persistent_run(context.number_run(init)), Some((init, run)));
            }
        }
    }

    #[test]
    fn a_reserved_number_begins_when_its_collective_does() {
        let mut context = Context::new(Members::whole(0, 2));
        let numbers = [context.number(), context.reserve(), context.number()];
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(numbers.map(|number| context.has_begun(number)), [true, false, true]);
        context.note(&Envelope { sequence: 1, ..Envelope::new(Kind::Barrier) });
        assert!(context.has_begun(1) && !context.has_begun(3));
    }

    #[test]
    fn the_last_signatures_are_remembered() {
        let mut context = Context::new(Members::whole(0, 2));
        let of = |sequence: usize| Envelope { sequence: sequence as u64, ..Envelope::new(Kind::Barrier) };
        (0..HISTORY_MAX).for_each(|sequence| context.note(&of(sequence)));
        let asked = |sequence| Envelope { kind: Kind::Scan, ..of(sequence) };
        assert_eq!(
            [0, 1, HISTORY_MAX - 1].map(|at| context.called(&asked(at))),
            [0, 1, HISTORY_MAX - 1].map(of).map(Some)
        );
        context.note(&of(HISTORY_MAX));
        assert_eq!([0, 1].map(|at| context.called(&asked(at)).is_some()), [false, true], "the oldest one is forgotten");
    }

    #[test]
    fn each_peer_may_be_ahead_by_a_bounded_number_of_collectives() {
        let mut context = Context::new(Members::whole(0, 3));
        let (one, two) = (Slot::FIRST, Slot::all(3).next_back().expect("a slot"));
        let max = READY_MAX as u64;
        for sequence in 0..=max {
            context.is_ready_early(sequence, one);
            // Saying it again takes no room.
            context.is_ready_early(0, one);
        }
        context.is_ready_early(max, two);
        assert_eq!(context.take_ready(max), Some(vec![two]), "the other one has no room left");
        assert_eq!(context.take_ready(max - 1), Some(vec![one]));
        assert_eq!(context.take_ready(max - 1), None, "they are taken once");
        context.is_ready_early(max, one);
        assert_eq!(context.take_ready(max), Some(vec![one]), "there is room again");
        let begun = context.number();
        context.is_ready_early(begun, two);
        assert_eq!(context.take_ready(begun), Some(vec![one]), "after it has begun nothing is kept for it");
    }

    #[test]
    fn what_a_peer_expects_is_kept_until_it_has_begun_here() {
        let mut context = Context::new(Members::whole(0, 3));
        let of = |kind, sequence| Envelope { sequence, ..Envelope::new(kind) };
        let init = context.init().expect("the first");
        context.expect(Slot::FIRST, of(Kind::Barrier, 0));
        let run = of(Kind::Scan, context.number_run(init));
        assert_eq!(context.expectation(&run), None, "it says nothing of a persistent one");
        let mine = of(Kind::Scan, context.number());
        assert_eq!(context.expectation(&mine), Some((Slot::FIRST, of(Kind::Barrier, 0))));
    }
}
