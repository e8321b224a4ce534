//! Keys, their values and their ends. What is over is not there, from the very instant on.

use std::collections::{BTreeSet, VecDeque};
use std::hash::Hasher;

use bytes::Bytes;
use fmi_net::time::Instant;
use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;

use super::Failure;

/// What an entry costs beside the bytes of its key and value: slot, place in the index, allocations.
const ENTRY_BYTES: usize = 160;
/// What an element of a list costs beside its bytes.
const ELEMENT_BYTES: usize = 64;
/// What the end of an entry costs.
const DEADLINE_BYTES: usize = 32;

/// What is under a key.
#[derive(Debug)]
pub(super) enum Value {
    String(Bytes),
    /// Never empty.
    List(VecDeque<Bytes>),
}

impl Value {
    fn bytes(&self) -> usize {
        match self {
            Self::String(body) => body.len(),
            Self::List(list) => list.iter().map(element_bytes).sum(),
        }
    }
}

/// What an element costs.
pub(super) fn element_bytes(element: &Bytes) -> usize {
    element.len() + ELEMENT_BYTES
}

#[derive(Debug)]
struct Entry {
    key: Box<[u8]>,
    value: Value,
    expires_at: Option<Instant>,
}

/// Values by key. Entries have slots, whose numbers are stable while they live: iteration goes by them, so that the order
/// of the index is nowhere seen.
pub(super) struct Keyspace {
    index: HashTable<u32>,
    seeds: Seeds,
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    deadlines: BTreeSet<(Instant, u32)>,
    used: usize,
    /// The time, as far as anybody has said it.
    now: Instant,
}

/// Nobody who chooses keys knows where they fall.
struct Seeds {
    own: u64,
    shared: SharedSeed,
}

impl Seeds {
    fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.own, &self.shared);
        hasher.write(key);
        hasher.finish()
    }
}

impl std::fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyspace").field("keys", &self.index.len()).field("used", &self.used).finish_non_exhaustive()
    }
}

impl Keyspace {
    pub(super) fn new(seed: [u64; 2]) -> Self {
        Self {
            index: HashTable::new(),
            seeds: Seeds { own: seed[0], shared: SharedSeed::from_u64(seed[1]) },
            slots: Vec::new(),
            free: Vec::new(),
            deadlines: BTreeSet::new(),
            used: 0,
            now: Instant::ZERO,
        }
    }

    pub(super) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// The memory of all entries.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// The number of keys; some of them may be over.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn expiring(&self) -> usize {
        self.deadlines.len()
    }

    /// Removes entries that are over, at most so many.
    pub(super) fn expire(&mut self, at_most: usize) {
        for _ in 0..at_most {
            match self.deadlines.first() {
                Some((at, slot)) if *at <= self.now => self.remove_slot(*slot),
                _ => return,
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    fn entry(&self, slot: u32) -> &Entry {
        self.slots[slot as usize].as_ref().expect("slots of the index are taken")
    }

    fn entry_mut(&mut self, slot: u32) -> &mut Entry {
        self.slots[slot as usize].as_mut().expect("slots of the index are taken")
    }

    /// The slot of a key that is there. One that is over is removed.
    fn find(&mut self, key: &[u8]) -> Option<u32> {
        let hash = self.seeds.hash(key);
        let slots = &self.slots;
        let is_it = |slot: &u32| slots[*slot as usize].as_ref().is_some_and(|entry| *entry.key == *key);
        let slot = *self.index.find(hash, is_it)?;
        if self.entry(slot).expires_at.is_some_and(|at| at <= self.now) {
            self.remove_slot(slot);
            return None;
        }
        Some(slot)
    }

    fn remove_slot(&mut self, slot: u32) {
        let Some(entry) = self.slots[slot as usize].take() else { return };
        let hash = self.seeds.hash(&entry.key);
        if let Ok(found) = self.index.find_entry(hash, |other| *other == slot) {
            found.remove();
        }
        self.free.push(slot);
        self.used -= ENTRY_BYTES + entry.key.len() + entry.value.bytes();
        if let Some(at) = entry.expires_at {
            self.deadlines.remove(&(at, slot));
            self.used -= DEADLINE_BYTES;
        }
    }

    pub(super) fn get(&mut self, key: &[u8]) -> Option<&Value> {
        let slot = self.find(key)?;
        Some(&self.entry(slot).value)
    }

    pub(super) fn string(&mut self, key: &[u8]) -> Result<Option<&Bytes>, Failure> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(body)) => Ok(Some(body)),
            Some(Value::List(_)) => Err(Failure::WRONG_TYPE),
        }
    }

    pub(super) fn list(&mut self, key: &[u8]) -> Result<Option<&VecDeque<Bytes>>, Failure> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::List(list)) => Ok(Some(list)),
            Some(Value::String(_)) => Err(Failure::WRONG_TYPE),
        }
    }

    pub(super) fn contains(&mut self, key: &[u8]) -> bool {
        self.find(key).is_some()
    }

    /// Puts a string under a key, in place of whatever is there. Its end is kept only if that is wanted.
    pub(super) fn set(&mut self, key: &[u8], body: Bytes, keeps_end: bool) {
        let length = body.len();
        let slot = self.slot_of(key, || Value::String(Bytes::new()));
        let old = std::mem::replace(&mut self.entry_mut(slot).value, Value::String(body));
        self.used = self.used - old.bytes() + length;
        if !keeps_end {
            self.set_end(slot, None);
        }
    }

    /// The slot of a key, with a value made for it if it is not there.
    fn slot_of(&mut self, key: &[u8], make: impl FnOnce() -> Value) -> u32 {
        if let Some(slot) = self.find(key) {
            return slot;
        }
        let entry = Entry { key: key.into(), value: make(), expires_at: None };
        self.used += ENTRY_BYTES + key.len() + entry.value.bytes();
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(entry);
                slot
            }
            None => {
                self.slots.push(Some(entry));
                u32::try_from(self.slots.len() - 1).expect("memory ends before 4 billion entries of 160 bytes")
            }
        };
        let hash = self.seeds.hash(key);
        let (slots, seeds) = (&self.slots, &self.seeds);
        let rehash = |slot: &u32| slots[*slot as usize].as_ref().map_or(0, |entry| seeds.hash(&entry.key));
        match self.index.entry(hash, |other| *other == slot, rehash) {
            Place::Occupied(_) => {}
            Place::Vacant(place) => drop(place.insert(slot)),
        }
        slot
    }

    fn set_end(&mut self, slot: u32, end: Option<Instant>) {
        let old = std::mem::replace(&mut self.entry_mut(slot).expires_at, end);
        if old == end {
            return;
        }
        if let Some(at) = old {
            self.deadlines.remove(&(at, slot));
            self.used -= DEADLINE_BYTES;
        }
        if let Some(at) = end {
            self.deadlines.insert((at, slot));
            self.used += DEADLINE_BYTES;
        }
    }

    /// Has an entry end at a time, or never; false if there is none.
    pub(super) fn end(&mut self, key: &[u8], end: Option<Instant>) -> bool {
        let slot = self.find(key);
        if let Some(slot) = slot {
            self.set_end(slot, end);
        }
        slot.is_some()
    }

    /// When an entry ends, if it does; `None` if there is none.
    pub(super) fn ends(&mut self, key: &[u8]) -> Option<Option<Instant>> {
        let slot = self.find(key)?;
        Some(self.entry(slot).expires_at)
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> bool {
        let slot = self.find(key);
        if let Some(slot) = slot {
            self.remove_slot(slot);
        }
        slot.is_some()
    }

    pub(super) fn clear(&mut self) {
        self.index = HashTable::new();
        self.slots = Vec::new();
        self.free = Vec::new();
        self.deadlines.clear();
        self.used = 0;
    }

    /// Appends elements to a list, which is made if there is none, and returns how long it is.
    pub(super) fn push(
        &mut self,
        key: &[u8],
        elements: impl Iterator<Item = Bytes>,
        is_at_front: bool,
    ) -> Result<usize, Failure> {
        self.list(key)?;
        let slot = self.slot_of(key, || Value::List(VecDeque::new()));
        let mut added = 0;
        let Value::List(list) = &mut self.entry_mut(slot).value else { return Err(Failure::WRONG_TYPE) };
        for element in elements {
            added += element_bytes(&element);
            if is_at_front {
                list.push_front(element);
            } else {
                list.push_back(element);
            }
        }
        let length = list.len();
        self.used += added;
        Ok(length)
    }

    /// Takes an element off an end of a list; `None` if there is no list.
    pub(super) fn pop(&mut self, key: &[u8], is_at_front: bool) -> Result<Option<Bytes>, Failure> {
        let popped = self.change(key, |list| {
            let element = if is_at_front { list.pop_front() } else { list.pop_back() };
            let freed = element.as_ref().map_or(0, element_bytes);
            (element, freed)
        })?;
        Ok(popped.flatten())
    }

    /// Removes elements of a list by a function, which also says how many bytes they had, with what they cost. A list that is empty
    /// afterwards is gone, with its end.
    pub(super) fn change<T>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut VecDeque<Bytes>) -> (T, usize),
    ) -> Result<Option<T>, Failure> {
        let Some(slot) = self.find(key) else { return Ok(None) };
        let Value::List(list) = &mut self.entry_mut(slot).value else { return Err(Failure::WRONG_TYPE) };
        let (changed, freed) = change(list);
        let is_empty = list.is_empty();
        self.used -= freed;
        if is_empty {
            self.remove_slot(slot);
        }
        Ok(Some(changed))
    }

    /// Keys of up to `count` slots from number `cursor` on, and the number to go on with, or 0 at the end.
    pub(super) fn scan(&self, cursor: u64, count: usize) -> (u64, impl Iterator<Item = (&[u8], &Value)>) {
        let start = usize::try_from(cursor).unwrap_or(usize::MAX).min(self.slots.len());
        let end = start.saturating_add(count).min(self.slots.len());
        let next = if end < self.slots.len() { end as u64 } else { 0 };
        let now = self.now;
        let is_there = move |entry: &&Entry| entry.expires_at.is_none_or(|at| now < at);
        let found = self.slots[start..end].iter().flatten().filter(is_there);
        (next, found.map(|entry| (&*entry.key, &entry.value)))
    }
}
