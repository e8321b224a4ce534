//! What bodies in a store are called. Pure.
//!
//! Each name is a hash under a key, so that whoever looks into the store learns how many bodies there are, and when each was
//! written, and no more.

use crate::candidate::Digest;
use crate::derive::{self, KeyBytes};
use crate::key::Key;

/// Where a body lies: the shelf of one rank, and an identifier on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    /// The number of the shelf.
    pub shelf: u64,
    /// The identifier.
    pub id: [u8; 16],
}

/// A body of a group that meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lobby {
    /// The card of a rank.
    Seat {
        /// The try to meet, from 0.
        generation: u32,
        /// Its rank.
        rank: u32,
    },
    /// A sign of life of whoever holds the seat, since rank 0 has taken its own.
    Pulse {
        /// The try to meet.
        generation: u32,
        /// Its rank.
        rank: u32,
        /// Of the process on the seat of rank 0.
        since: [u8; 16],
        /// Which one, from 0.
        number: u32,
    },
    /// That another process wants a seat which is taken.
    Contest {
        /// The try to meet.
        generation: u32,
    },
    /// What came of a try to meet.
    Decision {
        /// The try to meet.
        generation: u32,
    },
}

/// Makes names.
#[derive(Debug)]
pub struct Names {
    key: KeyBytes,
}

impl Names {
    /// Those of a group of this size before it has met.
    pub fn of_lobby(key: &Key, size: u32) -> Self {
        Self { key: key.derive(derive::LOBBY, &[&size.to_be_bytes()]) }
    }

    /// Those of a group that has met: never the same twice, as every rank had a hand in the digest of its roster.
    pub fn of_run(key: &Key, roster: &Digest) -> Self {
        Self { key: key.derive(derive::NAMES, &[roster]) }
    }

    /// Those of a group of this size whose ranks never meet.
    pub fn apart(key: &Key, size: u32) -> Self {
        Self { key: key.derive(derive::NAMES, &[b"apart", &size.to_be_bytes()]) }
    }

    fn hash<const N: usize>(&self, what: &[u8], numbers: &[u64]) -> [u8; N] {
        let numbers: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        let tag = self.key.tag(&[what, &numbers]);
        *tag.0.first_chunk().expect("a tag has 32 bytes")
    }

    /// What all names have in common.
    pub fn scope(&self) -> [u8; 12] {
        self.hash(b"scope", &[])
    }

    /// The shelf with what `rank` waits for.
    pub fn shelf(&self, rank: u32) -> u64 {
        u64::from_be_bytes(self.hash(b"shelf", &[rank.into()]))
    }

    /// Where a body of a group that meets lies. What rank 0 waits for is on its shelf; whatever others wait for is there as
    /// well, and their bells ring for it.
    pub fn lobby(&self, body: Lobby) -> Spot {
        let id = match body {
            Lobby::Seat { generation, rank } => self.hash(b"seat", &[generation.into(), rank.into()]),
            Lobby::Pulse { generation, rank, since, number } => {
                let since = u128::from_be_bytes(since);
                #[expect(clippy::cast_possible_truncation, reason = "cut in two")]
                let (high, low) = ((since >> 64) as u64, since as u64);
                self.hash(b"pulse", &[generation.into(), rank.into(), high, low, number.into()])
            }
            Lobby::Contest { generation } => self.hash(b"contest", &[generation.into()]),
            Lobby::Decision { generation } => self.hash(b"decision", &[generation.into()]),
        };
        Spot { shelf: self.shelf(0), id }
    }

    /// Where the part of this number lies of what `from` has for `to`.
    pub fn part(&self, from: u32, to: u32, number: u64) -> Spot {
        Spot { shelf: self.shelf(to), id: self.hash(b"part", &[from.into(), to.into(), number]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_bodies_of_any_groups_share_a_name() {
        let (one, two) = (Key::new("g", b"one"), Key::new("g", b"two"));
        let lobbies = [Names::of_lobby(&one, 2), Names::of_lobby(&one, 3), Names::of_lobby(&two, 2)];
        let aparts = [Names::apart(&one, 2), Names::apart(&one, 3), Names::apart(&two, 2)];
        let runs = [Names::of_run(&one, &[1; 32]), Names::of_run(&one, &[2; 32]), Names::of_run(&two, &[1; 32])];
        let mut seen = BTreeSet::new();
        let mut count = 0;
        for names in lobbies.iter().chain(&runs).chain(&aparts) {
            count += 1;
            assert!(seen.insert(names.scope().to_vec()));
            for (from, to) in [(0, 1), (1, 0), (0, 2)] {
                for number in 0..4 {
                    count += 1;
                    assert!(seen.insert(names.part(from, to, number).id.to_vec()));
                    assert_eq!(names.part(from, to, number).shelf, names.shelf(to));
                }
            }
            for generation in 0..3 {
                let seats = (0..3).map(|rank| Lobby::Seat { generation, rank });
                let pulses = (0..3).map(|number| Lobby::Pulse { generation, rank: 1, since: [3; 16], number });
                let others = (4..6).map(|byte| Lobby::Pulse { generation, rank: 1, since: [byte; 16], number: 0 });
                let last = [Lobby::Decision { generation }, Lobby::Contest { generation }];
                for body in seats.chain(pulses).chain(others).chain(last) {
                    count += 1;
                    assert!(seen.insert(names.lobby(body).id.to_vec()), "{body:?}");
                }
            }
        }
        assert_eq!(seen.len(), count);
    }
}
