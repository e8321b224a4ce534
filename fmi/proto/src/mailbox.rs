//! Frames that arrived before anybody asked for them. Pure and bounded.
//!
//! TCP keeps the frames of one peer in order, so a frame is unexpected only when the peer is ahead:
//! it sent a message with another tag first, or left a collective early. Matching follows MPI: the
//! oldest frame that fits wins. Every look-up costs the logarithm of what is stored.

use std::collections::{BTreeMap, BTreeSet};

use fmi_net::planted;

use super::frame::{Envelope, Kind};
use super::rank::Slot;

/// A stored frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its sender.
    pub peer: Slot,
    /// Its envelope.
    pub envelope: Envelope,
    /// Bytes of the payload that its operation has already taken.
    pub taken: usize,
    /// The rest of the payload.
    pub payload: Vec<u8>,
}

impl Stored {
    fn cost(&self) -> u64 {
        self.payload.len() as u64 + FRAME_OVERHEAD_BYTES
    }
}

/// What a receive or probe asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    /// Communicator.
    pub communicator: u64,
    /// Sender; any if `None`.
    pub source: Option<Slot>,
    /// Tag; any if `None`.
    pub tag: Option<u32>,
}

impl Pattern {
    /// Whether a frame from `peer` is a message that fits.
    pub fn fits(&self, peer: Slot, envelope: &Envelope) -> bool {
        envelope.kind == Kind::Message
            && envelope.communicator == self.communicator
            && self.source.is_none_or(|source| source == peer)
            && self.tag.is_none_or(|tag| tag == envelope.root_or_tag)
    }
}

/// Place of a stored frame in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

const FIRST: Place = Place(0);

/// Unexpected frames of all peers, in the order of their arrival.
#[derive(Debug)]
pub struct Mailbox {
    bytes_max: u64,
    /// Bytes stored and reserved.
    bytes: u64,
    next: u64,
    frames: BTreeMap<Place, Stored>,
    /// Messages that belong to nobody, by what a pattern may ask for.
    by_source_and_tag: BTreeSet<(u64, Slot, u32, Place)>,
    by_source: BTreeSet<(u64, Slot, Place)>,
    by_tag: BTreeSet<(u64, u32, Place)>,
    by_arrival: BTreeSet<(u64, Place)>,
    /// Frames of collectives: communicator, number, sender.
    collectives: BTreeSet<(u64, u64, Slot, Place)>,
}

/// What a stored frame costs besides its payload: itself and its places in the indexes.
pub const FRAME_OVERHEAD_BYTES: u64 = 256;

impl Mailbox {
    /// Makes a mailbox that holds at most `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            next: 0,
            frames: BTreeMap::new(),
            by_source_and_tag: BTreeSet::new(),
            by_source: BTreeSet::new(),
            by_tag: BTreeSet::new(),
            by_arrival: BTreeSet::new(),
            collectives: BTreeSet::new(),
        }
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Sets room aside for a frame with a payload of `length` bytes; false if there is none.
    pub fn reserve(&mut self, length: u64) -> bool {
        let bytes = self.bytes.saturating_add(length).saturating_add(FRAME_OVERHEAD_BYTES);
        let fits = bytes <= self.bytes_max;
        if fits {
            self.bytes = bytes;
        }
        fits
    }

    /// Sets room aside for what is in memory already, even beyond the limit.
    pub fn reserve_beyond(&mut self, length: u64) {
        self.bytes += length + FRAME_OVERHEAD_BYTES;
    }

    /// Gives back what [`Mailbox::reserve`] set aside.
    pub fn unreserve(&mut self, length: u64) {
        self.bytes = self.bytes.saturating_sub(length + FRAME_OVERHEAD_BYTES);
    }

    /// A place behind all that has come so far, for what is to be stored.
    pub fn ticket(&mut self) -> Place {
        let place = Place(self.next);
        self.next += 1;
        place
    }

    /// Stores a frame for which room was reserved. A message that is not `owned` is free for any receive.
    pub fn store(&mut self, stored: Stored, owned: bool) -> Place {
        let place = self.ticket();
        self.store_at(place, stored, owned)
    }

    /// The same at a place of its own.
    pub fn store_at(&mut self, place: Place, stored: Stored, owned: bool) -> Place {
        if stored.envelope.kind == Kind::Message {
            if !owned {
                self.index(place, &stored);
            }
        } else {
            let envelope = &stored.envelope;
            self.collectives.insert((envelope.communicator, envelope.sequence, stored.peer, place));
        }
        self.frames.insert(place, stored);
        place
    }

    /// Puts the rest of a message behind what is stored of it, or stores it (`at` its place) if nothing is. Room was reserved.
    pub fn append_or_store(&mut self, before: Option<Place>, at: Option<Place>, stored: Stored, owned: bool) -> Place {
        match before.and_then(|place| Some((place, self.frames.get_mut(&place)?))) {
            Some((place, front)) => {
                assert_eq!(front.taken + front.payload.len(), stored.taken, "a message is stored without gaps");
                front.payload.extend_from_slice(&stored.payload);
                self.bytes = self.bytes.saturating_sub(FRAME_OVERHEAD_BYTES);
                place
            }
            None => {
                let place = at.unwrap_or_else(|| self.ticket());
                self.store_at(place, stored, owned)
            }
        }
    }

    /// Senders of the frames that belong to the collective of `wanted`.
    pub fn senders_of(&self, wanted: &Envelope) -> impl Iterator<Item = Slot> {
        let number = (wanted.communicator, wanted.sequence);
        let from = (number.0, number.1, Slot::FIRST, FIRST);
        self.collectives.range(from..).take_while(move |found| (found.0, found.1) == number).map(|found| found.2)
    }

    fn index(&mut self, place: Place, stored: &Stored) {
        let (peer, Envelope { communicator, root_or_tag: tag, .. }) = (stored.peer, stored.envelope);
        self.by_source_and_tag.insert((communicator, peer, tag, place));
        self.by_source.insert((communicator, peer, place));
        self.by_tag.insert((communicator, tag, place));
        self.by_arrival.insert((communicator, place));
    }

    fn unindex(&mut self, place: Place, stored: (Slot, Envelope)) {
        let (peer, Envelope { communicator, root_or_tag: tag, sequence, .. }) = stored;
        self.by_source_and_tag.remove(&(communicator, peer, tag, place));
        self.by_source.remove(&(communicator, peer, place));
        self.by_tag.remove(&(communicator, tag, place));
        self.by_arrival.remove(&(communicator, place));
        self.collectives.remove(&(communicator, sequence, peer, place));
    }

    fn oldest(&self, pattern: &Pattern) -> Option<Place> {
        let communicator = pattern.communicator;
        match (pattern.source, pattern.tag) {
            (Some(source), Some(tag)) => {
                let found = self.by_source_and_tag.range((communicator, source, tag, FIRST)..).next()?;
                ((found.0, found.1, found.2) == (communicator, source, tag)).then_some(found.3)
            }
            (Some(source), None) => {
                let found = self.by_source.range((communicator, source, FIRST)..).next()?;
                ((found.0, found.1) == (communicator, source)).then_some(found.2)
            }
            (None, Some(tag)) => {
                let found = self.by_tag.range((communicator, tag, FIRST)..).next()?;
                ((found.0, found.1) == (communicator, tag)).then_some(found.2)
            }
            (None, None) => {
                let found = self.by_arrival.range((communicator, FIRST)..).next()?;
                (found.0 == communicator).then_some(found.1)
            }
        }
    }

    /// Claims the oldest message that fits and belongs to nobody: no other receive gets it from now on.
    pub fn claim(&mut self, pattern: &Pattern) -> Option<(Place, Slot, Envelope)> {
        if self.frames.is_empty() {
            return None;
        }
        let place = self.oldest(pattern)?;
        let (peer, envelope) = self.describe(place)?;
        self.unindex(place, (peer, envelope));
        Some((place, peer, envelope))
    }

    /// Gives a claimed message back: it is free again, in its old place.
    pub fn disclaim(&mut self, place: Place) {
        if let Some(stored) = self.frames.remove(&place) {
            self.index(place, &stored);
            self.frames.insert(place, stored);
        }
    }

    /// Sender and envelope of a stored frame.
    pub fn describe(&self, place: Place) -> Option<(Slot, Envelope)> {
        self.frames.get(&place).map(|stored| (stored.peer, stored.envelope))
    }

    /// Takes a frame out.
    pub fn take(&mut self, place: Place) -> Option<Stored> {
        let stored = self.frames.remove(&place)?;
        self.unindex(place, (stored.peer, stored.envelope));
        self.bytes = self.bytes.saturating_sub(stored.cost());
        if stored.envelope.kind == Kind::Message && planted::is(planted::Fault::StoredTwice) {
            let (peer, envelope, taken, payload) = (stored.peer, stored.envelope, stored.taken, stored.payload.clone());
            self.reserve_beyond(payload.len() as u64);
            self.store(Stored { peer, envelope, taken, payload }, false);
        }
        Some(stored)
    }

    /// Puts bytes that were taken from a stored message back before its rest. They may exceed the limit: they
    /// are there already.
    pub fn restore(&mut self, place: Place, front: &[u8]) {
        if let Some(stored) = self.frames.get_mut(&place) {
            stored.taken -= front.len();
            stored.payload.splice(0..0, front.iter().copied());
            self.bytes += front.len() as u64;
        }
    }

    /// Takes the oldest frame of `peer` that belongs to the collective of `wanted`.
    pub fn take_collective(&mut self, peer: Slot, wanted: &Envelope) -> Option<Stored> {
        if self.collectives.is_empty() {
            return None;
        }
        let (communicator, sequence) = (wanted.communicator, wanted.sequence);
        let found = self.collectives.range((communicator, sequence, peer, FIRST)..).next()?;
        let place = ((found.0, found.1, found.2) == (communicator, sequence, peer)).then_some(found.3)?;
        self.take(place)
    }

    /// A frame, from anybody, that belongs to the collective of `wanted`.
    pub fn peek_collective(&self, wanted: &Envelope) -> Option<(Slot, Envelope)> {
        let (communicator, sequence) = (wanted.communicator, wanted.sequence);
        let found = self.collectives.range((communicator, sequence, Slot::FIRST, FIRST)..).next()?;
        let place = ((found.0, found.1) == (communicator, sequence)).then_some(found.3)?;
        self.describe(place)
    }

    /// Drops what belongs to `communicator` and comes from peers for which `unwanted` holds; those peers.
    pub fn drop_from(&mut self, communicator: u64, unwanted: impl Fn(&Slot) -> bool) -> Vec<Slot> {
        let of = |(place, stored): (&Place, &Stored)| {
            (stored.envelope.communicator == communicator && unwanted(&stored.peer)).then_some((*place, stored.peer))
        };
        let found: Vec<(Place, Slot)> = self.frames.iter().filter_map(of).collect();
        for (place, _) in &found {
            self.take(*place);
        }
        found.into_iter().map(|(_, peer)| peer).collect()
    }

    /// Drops all that belongs to `communicator`.
    pub fn forget(&mut self, communicator: u64) {
        let of = |(place, stored): (&Place, &Stored)| (stored.envelope.communicator == communicator).then_some(*place);
        let places: Vec<Place> = self.frames.iter().filter_map(of).collect();
        for place in places {
            self.take(place);
        }
    }

    /// The limit.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Bytes held and reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Panics unless the indexes hold just what they must, and the count of bytes is right; `reserved` is what
    /// callers have set aside and not used.
    pub fn check(&self, reserved: u64) {
        let stored: u64 = self.frames.values().map(Stored::cost).sum();
        assert_eq!(self.bytes, stored + reserved, "bytes are those of what is stored and reserved");
        let free = self.by_arrival.len();
        let sizes = [self.by_source_and_tag.len(), self.by_source.len(), self.by_tag.len()];
        assert_eq!(sizes, [free; 3], "every free message is in every index");
        for (communicator, source, tag, place) in &self.by_source_and_tag {
            let stored = self.frames.get(place).expect("an index names what is stored");
            let pattern = Pattern { communicator: *communicator, source: Some(*source), tag: Some(*tag) };
            assert!(pattern.fits(stored.peer, &stored.envelope), "an index names what fits");
        }
        for (communicator, sequence, peer, place) in &self.collectives {
            let stored = self.frames.get(place).expect("an index names what is stored");
            let found = (stored.envelope.communicator, stored.envelope.sequence, stored.peer);
            assert_eq!(found, (*communicator, *sequence, *peer), "an index names what fits");
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a receive gets the oldest message that fits, whatever is stored next to it. Method: drawn scripts
    //! against a list that is searched from its front.

    use super::*;
    use proptest::prelude::*;

    fn slot(number: u32) -> Slot {
        Slot::checked(number, 8).expect("below 8")
    }

    fn message(peer: u32, tag: u32, byte: u8) -> Stored {
        let envelope = Envelope { root_or_tag: tag, length: 1, ..Envelope::new(Kind::Message) };
        Stored { peer: slot(peer), envelope, taken: 0, payload: vec![byte] }
    }

    fn store(mailbox: &mut Mailbox, stored: Stored) -> Place {
        assert!(mailbox.reserve(stored.payload.len() as u64), "room");
        mailbox.store(stored, false)
    }

    #[test]
    fn memory_is_bounded() {
        let mut mailbox = Mailbox::new(600);
        let place = store(&mut mailbox, message(1, 7, 1));
        assert!(!mailbox.reserve(88));
        assert!(mailbox.reserve(87), "to the last byte");
        assert!(!mailbox.reserve(0));
        assert!(!mailbox.reserve(u64::MAX));
        mailbox.unreserve(87);
        assert!(mailbox.take(place).is_some());
        assert_eq!(mailbox.bytes(), 0);
    }

    #[test]
    fn what_was_taken_of_a_message_comes_back_before_its_rest() {
        let mut mailbox = Mailbox::new(1000);
        let envelope = Envelope { length: 4, ..Envelope::new(Kind::Message) };
        assert!(mailbox.reserve(2));
        let place = mailbox.store(Stored { peer: slot(1), envelope, taken: 2, payload: vec![3, 4] }, true);
        mailbox.restore(place, &[1, 2]);
        mailbox.disclaim(place);
        let pattern = Pattern { communicator: 0, source: None, tag: None };
        let (claimed, ..) = mailbox.claim(&pattern).expect("free again");
        let stored = mailbox.take(claimed).expect("stored");
        assert_eq!((stored.taken, stored.payload), (0, vec![1, 2, 3, 4]));
        mailbox.check(0);
    }

    #[test]
    fn a_pattern_fits_messages_of_its_communicator_source_and_tag() {
        let pattern = Pattern { communicator: 3, source: Some(slot(1)), tag: Some(7) };
        let envelope = Envelope { communicator: 3, root_or_tag: 7, ..Envelope::new(Kind::Message) };
        assert!(pattern.fits(slot(1), &envelope));
        assert!(!pattern.fits(slot(2), &envelope));
        for other in [
            Envelope { kind: Kind::Barrier, ..envelope },
            Envelope { communicator: 4, ..envelope },
            Envelope { root_or_tag: 8, ..envelope },
        ] {
            assert!(!pattern.fits(slot(1), &other), "{other:?}");
        }
    }

    #[test]
    fn what_is_there_already_may_exceed_the_limit_and_counts() {
        let mut mailbox = Mailbox::new(1000);
        assert_eq!((mailbox.bytes_max(), mailbox.bytes(), mailbox.is_empty()), (1000, 0, true));
        mailbox.reserve_beyond(2000);
        assert_eq!(mailbox.bytes(), 2000 + FRAME_OVERHEAD_BYTES);
        assert!(!mailbox.reserve(0));
        mailbox.unreserve(2000);
        assert_eq!(mailbox.bytes(), 0);
        let place = store(&mut mailbox, message(1, 7, 1));
        assert!(!mailbox.is_empty());
        mailbox.take(place);
        assert!(mailbox.is_empty());
    }

    /// A frame of a collective.
    fn frame(peer: u32, communicator: u64, sequence: u64, byte: u8) -> Stored {
        let envelope = Envelope { communicator, sequence, length: 1, ..Envelope::new(Kind::Barrier) };
        Stored { peer: slot(peer), envelope, taken: 0, payload: vec![byte] }
    }

    #[test]
    fn frames_of_a_collective_are_found_by_its_number_and_their_sender() {
        let mut mailbox = Mailbox::new(1 << 20);
        for (peer, communicator, sequence, byte) in
            [(1, 0, 5, 1), (1, 0, 5, 2), (2, 0, 5, 3), (1, 0, 6, 4), (1, 3, 5, 5)]
        {
            store(&mut mailbox, frame(peer, communicator, sequence, byte));
        }
        let wanted = |communicator, sequence| frame(0, communicator, sequence, 0).envelope;
        let senders: Vec<u32> = mailbox.senders_of(&wanted(0, 5)).map(Slot::get).collect();
        assert_eq!(senders, [1, 1, 2]);
        assert_eq!(mailbox.senders_of(&wanted(0, 4)).count(), 0);
        assert_eq!(mailbox.peek_collective(&wanted(0, 5)).map(|(peer, _)| peer), Some(slot(1)));
        assert_eq!(mailbox.peek_collective(&wanted(1, 5)), None);
        let take = |mailbox: &mut Mailbox, peer, communicator, sequence| {
            mailbox.take_collective(slot(peer), &wanted(communicator, sequence)).map(|stored| stored.payload[0])
        };
        assert_eq!(take(&mut mailbox, 3, 0, 5), None);
        assert_eq!([take(&mut mailbox, 1, 0, 5), take(&mut mailbox, 1, 0, 5)], [Some(1), Some(2)], "the oldest first");
        assert_eq!(take(&mut mailbox, 1, 0, 5), None);
        assert_eq!(take(&mut mailbox, 2, 0, 5), Some(3));
        mailbox.check(0);
    }

    #[test]
    fn a_communicator_that_ends_takes_its_frames_with_it_and_no_others() {
        let mut mailbox = Mailbox::new(1 << 20);
        for communicator in [0, 3, 3, 4] {
            store(&mut mailbox, frame(1, communicator, 0, 1));
        }
        mailbox.forget(3);
        assert_eq!(mailbox.bytes(), 2 * (1 + FRAME_OVERHEAD_BYTES));
        assert_eq!(
            [0, 3, 4].map(|communicator| mailbox.peek_collective(&frame(1, communicator, 0, 0).envelope).is_some()),
            [true, false, true]
        );
        mailbox.check(0);
    }

    #[test]
    fn bytes_that_come_back_are_counted() {
        let mut mailbox = Mailbox::new(1 << 20);
        assert!(mailbox.reserve(1));
        let place = mailbox.store(Stored { taken: 4, ..message(1, 7, 1) }, true);
        mailbox.restore(place, &[0; 4]);
        assert_eq!(mailbox.bytes(), 5 + FRAME_OVERHEAD_BYTES);
        mailbox.check(0);
    }

    #[test]
    #[should_panic(expected = "bytes are those of what is stored and reserved")]
    fn bytes_that_belong_to_nothing_are_noticed() {
        let mut mailbox = Mailbox::new(1 << 20);
        assert!(mailbox.reserve(1));
        mailbox.check(0);
    }

    #[derive(Clone, Debug)]
    enum Deed {
        Store(u32, u32),
        Claim(Option<u32>, Option<u32>),
        Disclaim,
        Take,
    }

    fn deed() -> impl Strategy<Value = Deed> {
        let some = || proptest::option::of(0u32..3);
        prop_oneof![
            3 => (0u32..3, 0u32..3).prop_map(|(peer, tag)| Deed::Store(peer, tag)),
            3 => (some(), some()).prop_map(|(source, tag)| Deed::Claim(source, tag)),
            1 => Just(Deed::Disclaim),
            1 => Just(Deed::Take),
        ]
    }

    proptest! {
        #[test]
        fn the_oldest_message_that_fits_wins(deeds in proptest::collection::vec(deed(), 1..60)) {
            let mut mailbox = Mailbox::new(1 << 20);
            // The reference: all messages in order of arrival, and whether each is claimed.
            let mut list: Vec<(u32, u32, u8, bool)> = Vec::new();
            let mut claimed: Vec<(Place, u8)> = Vec::new();
            for (deed, byte) in deeds.into_iter().zip(0u8..) {
                match deed {
                    Deed::Store(peer, tag) => {
                        store(&mut mailbox, message(peer, tag, byte));
                        list.push((peer, tag, byte, false));
                    }
                    Deed::Claim(source, tag) => {
                        let pattern = Pattern { communicator: 0, source: source.map(slot), tag };
                        let fits = |it: &&mut (u32, u32, u8, bool)| {
                            !it.3 && source.is_none_or(|source| source == it.0) && tag.is_none_or(|tag| tag == it.1)
                        };
                        let expected = list.iter_mut().find(fits);
                        let got = mailbox.claim(&pattern).map(|(place, ..)| place);
                        prop_assert_eq!(got.is_some(), expected.is_some());
                        if let (Some(place), Some(expected)) = (got, expected) {
                            expected.3 = true;
                            prop_assert_eq!(&mailbox.frames[&place].payload, &vec![expected.2]);
                            claimed.push((place, expected.2));
                        }
                    }
                    Deed::Disclaim => {
                        if let Some((place, byte)) = claimed.pop() {
                            mailbox.disclaim(place);
                            list.iter_mut().filter(|it| it.2 == byte).for_each(|it| it.3 = false);
                        }
                    }
                    Deed::Take => {
                        if let Some((place, byte)) = claimed.pop() {
                            prop_assert_eq!(mailbox.take(place).map(|stored| stored.payload), Some(vec![byte]));
                            list.retain(|it| it.2 != byte);
                        }
                    }
                }
                mailbox.check(0);
            }
        }
    }
}
