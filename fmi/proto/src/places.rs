//! Places that clients hold, counted by the owners of their addresses. Pure.
//!
//! When all places are taken, whoever holds most gives way to whoever holds fewer: one address may fill a server that
//! nobody else needs, as a whole group behind one NAT does, and shuts nobody out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What one owner of addresses has at least.
pub fn prefix(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            [a, b, c, 0].into()
        }
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            [a, b, c, 0, 0, 0, 0, 0].into()
        }
    }
}

/// The clients that hold a place. Later ones have larger keys.
#[derive(Clone, Debug)]
pub struct Places<K> {
    held: BTreeMap<IpAddr, BTreeSet<K>>,
    by_count: BTreeSet<(usize, IpAddr)>,
}

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self { held: BTreeMap::new(), by_count: BTreeSet::new() }
    }
}

impl<K: Copy + Ord> Places<K> {
    /// Gives a place to a client from this address.
    pub fn take(&mut self, from: IpAddr, client: K) {
        self.change(from, |held| held.insert(client));
    }

    /// Takes it back.
    pub fn give_back(&mut self, from: IpAddr, client: K) {
        self.change(from, |held| held.remove(&client));
    }

    /// The client whose place one from this address may have: the oldest of the prefix that holds most, if that holds
    /// more even without it.
    pub fn yields_to(&self, from: IpAddr) -> Option<K> {
        let own = self.held.get(&prefix(from)).map_or(0, BTreeSet::len);
        let (count, largest) = self.by_count.last()?;
        let oldest = self.held.get(largest)?.first()?;
        (*count > own + 1).then_some(*oldest)
    }

    fn change(&mut self, from: IpAddr, change: impl FnOnce(&mut BTreeSet<K>) -> bool) {
        let from = prefix(from);
        let held = self.held.entry(from).or_default();
        let before = held.len();
        change(held);
        let after = held.len();
        if after == 0 {
            self.held.remove(&from);
        }
        self.by_count.remove(&(before, from));
        if after > 0 {
            self.by_count.insert((after, from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(prefix: u8, host: u8) -> IpAddr {
        [198, 51, prefix, host].into()
    }

    #[test]
    fn whoever_holds_most_gives_way_to_whoever_holds_fewer() {
        let mut places = Places::default();
        for client in 0..4 {
            places.take(ip(1, 1), client);
        }
        places.take(ip(2, 1), 4);
        assert_eq!(places.yields_to(ip(1, 2)), None, "another address of the prefix that holds most");
        assert_eq!(places.yields_to(ip(2, 1)), Some(0));
        assert_eq!(places.yields_to(ip(3, 1)), Some(0));
        places.give_back(ip(1, 1), 0);
        places.give_back(ip(1, 1), 1);
        assert_eq!(places.yields_to(ip(2, 1)), None, "it would only change who holds more");
        assert_eq!(places.yields_to(ip(3, 1)), Some(2));
    }

    proptest! {
        /// However clients come, once all places are taken, prefixes that want more than they have differ by at most one.
        #[test]
        fn places_are_shared_evenly_by_those_that_want_them(wants in proptest::collection::vec(0u8..4, 60..200)) {
            const PLACES: usize = 12;
            let mut places = Places::default();
            let mut held = BTreeMap::new();
            for (client, from) in wants.iter().enumerate() {
                if held.len() == PLACES {
                    let Some(evicted) = places.yields_to(ip(*from, 1)) else { continue };
                    let owner = held.remove(&evicted).expect("it holds a place");
                    places.give_back(ip(owner, 1), evicted);
                }
                places.take(ip(*from, 1), client);
                held.insert(client, *from);
            }
            let count = |from: u8| held.values().filter(|owner| **owner == from).count();
            let most = (0..4).map(count).max().expect("four prefixes");
            for from in 0..4 {
                let refused = count(from) < wants.iter().filter(|it| **it == from).count();
                prop_assert!(!refused || count(from) + 1 >= most, "{from} has {} of {most}", count(from));
            }
        }
    }
}
