//! One communicator: its members, the numbers of its collectives, and whether it has failed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::error::ErrorKind;
use crate::frame::Envelope;
use crate::notice::Notice;
use crate::rank::{Members, Rank, Slot};

/// Signatures of past collectives that a communicator remembers, to answer those who ask about them.
const HISTORY_MAX: usize = 64;

/// Word of peers ahead of this rank that is kept; only who makes it up sends more.
const READY_MAX: usize = 1 << 16;

/// What a communicator keeps.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) members: Members,
    pub(super) epoch: u32,
    /// Collectives called so far.
    collectives: u64,
    /// Numbers of those that have a place and have not begun.
    reserved: BTreeSet<u64>,
    history: VecDeque<Envelope>,
    /// What peers said they wait in, beyond what has been called here.
    expected: BTreeMap<Slot, Envelope>,
    /// Messages sent so far to each member.
    sent: BTreeMap<Slot, u64>,
    /// Peers that take part in collectives which have not begun here.
    ready: BTreeSet<(u64, Slot)>,
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
            history: VecDeque::with_capacity(HISTORY_MAX),
            expected: BTreeMap::new(),
            sent: BTreeMap::new(),
            ready: BTreeSet::new(),
            revoked: None,
            left: BTreeMap::new(),
            greeted: BTreeSet::new(),
        }
    }

    /// Whether the collective with this number has begun here.
    pub(super) fn has_begun(&self, sequence: u64) -> bool {
        sequence < self.collectives && !self.reserved.contains(&sequence)
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
        if !self.has_begun(sequence) && self.ready.len() < READY_MAX {
            self.ready.insert((sequence, peer));
        }
    }

    /// Those that take part in a collective that begins.
    pub(super) fn take_ready(&mut self, sequence: u64) -> Option<BTreeSet<Slot>> {
        let of = self.ready.range((sequence, Slot::FIRST)..).take_while(|(of, _)| *of == sequence);
        let ready: BTreeSet<Slot> = of.map(|(_, peer)| *peer).collect();
        for peer in &ready {
            self.ready.remove(&(sequence, *peer));
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
        self.expected.retain(|_, theirs| theirs.sequence >= mine.sequence);
        let differs = |theirs: &&Envelope| theirs.sequence == mine.sequence && theirs.signature() != mine.signature();
        self.expected.iter().find(|(_, theirs)| differs(theirs)).map(|(peer, theirs)| (*peer, *theirs))
    }
}
