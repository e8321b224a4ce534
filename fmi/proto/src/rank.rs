//! Ranks of a communicator, slots of the group, and the table between them.
//!
//! Numbers that come from outside (a caller, a frame, a message of the rendezvous) become a [`Rank`] or a
//! [`Slot`] only through a check against [`Members`] or the size of the group, so that whatever holds one may
//! index with it.

use std::fmt;
use std::sync::Arc;

/// Number of a process in a communicator, from 0 to its size - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(u32);

/// Stable identity of a process in the whole group: its `FMI_RANK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u32);

impl Rank {
    /// The number.
    #[inline]
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Slot {
    /// The lowest slot, which every group has.
    pub const FIRST: Self = Self(0);

    /// The number `number`, if a group of `size` has it.
    #[inline]
    pub fn checked(number: u32, size: u32) -> Option<Self> {
        (number < size).then_some(Self(number))
    }

    /// All slots of a group of `size`.
    pub fn all(size: u32) -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator {
        (0..size).map(Self)
    }

    /// The number.
    #[inline]
    pub fn get(self) -> u32 {
        self.0
    }

    /// The number, to index what is kept for each slot.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The processes of a communicator: their slots by rank, and their ranks by slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    me: Rank,
    size: u32,
    /// Slots by rank, and (slot, rank) by slot; `None` where every rank is its own slot.
    part: Option<Arc<Part>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Part {
    slots: Vec<Slot>,
    ranks: Vec<(Slot, Rank)>,
}

impl Members {
    /// All processes of a group of `size`, of which this is number `me`.
    ///
    /// # Panics
    /// If `me` is not below `size`.
    pub fn whole(me: u32, size: u32) -> Self {
        assert!(me < size, "a member has a rank below the size");
        Self { me: Rank(me), size, part: None }
    }

    /// The processes with these slots, in this order. `None` unless `me` is one of them and each is there once.
    pub fn part(me: Slot, slots: Vec<Slot>) -> Option<Self> {
        let mut ranks: Vec<(Slot, Rank)> = slots.iter().copied().zip((0..).map(Rank)).collect();
        ranks.sort_unstable();
        if ranks.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return None;
        }
        let (_, me) = ranks[ranks.binary_search_by_key(&me, |(slot, _)| *slot).ok()?];
        let size = u32::try_from(slots.len()).ok()?;
        Some(Self { me, size, part: Some(Arc::new(Part { slots, ranks })) })
    }

    /// This process.
    #[inline]
    pub fn me(&self) -> Rank {
        self.me
    }

    /// Number of processes.
    #[inline]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The rank `number`, if there is one.
    #[inline]
    pub fn rank(&self, number: u32) -> Option<Rank> {
        (number < self.size).then_some(Rank(number))
    }

    /// The slot of a rank of this communicator.
    #[inline]
    pub fn slot(&self, rank: Rank) -> Slot {
        match &self.part {
            Some(part) => part.slots[rank.0 as usize],
            None => Slot(rank.0),
        }
    }

    /// The rank of a slot, if it is a member.
    #[inline]
    pub fn rank_of(&self, slot: Slot) -> Option<Rank> {
        match &self.part {
            Some(part) => {
                let at = part.ranks.binary_search_by_key(&slot, |(slot, _)| *slot).ok()?;
                Some(part.ranks[at].1)
            }
            None => self.rank(slot.0),
        }
    }

    /// All slots, by rank.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = Slot> + '_ {
        (0..self.size).map(|number| self.slot(Rank(number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(numbers: &[u32]) -> Vec<Slot> {
        numbers.iter().copied().map(Slot).collect()
    }

    #[test]
    fn ranks_and_slots_map_both_ways() {
        let part = Members::part(Slot(2), slots(&[5, 2, 9])).expect("a member, each once");
        assert_eq!((part.me(), part.size()), (Rank(1), 3));
        for (rank, slot) in [(0, 5), (1, 2), (2, 9)] {
            assert_eq!(part.slot(Rank(rank)), Slot(slot));
            assert_eq!(part.rank_of(Slot(slot)), Some(Rank(rank)));
        }
        assert_eq!(part.rank_of(Slot(0)), None);
        assert_eq!(part.rank(3), None);
        let whole = Members::whole(1, 3);
        assert_eq!(whole.rank_of(Slot(3)), None, "a slot beyond the group is nobody");
        assert_eq!(whole.slots().collect::<Vec<_>>(), slots(&[0, 1, 2]));
    }

    #[test]
    fn strangers_and_repetitions_make_no_part() {
        assert_eq!(Members::part(Slot(1), slots(&[0, 2])), None);
        assert_eq!(Members::part(Slot(0), slots(&[0, 2, 2])), None);
        assert_eq!(Members::part(Slot(0), Vec::new()), None);
    }
}
