//! What the addresses at which a group came together show of the network, where somebody may want to mend it. Pure.

use std::fmt;
use std::net::IpAddr;

use crate::candidate::{NatClass, Peer, Roster};

/// Something in a network that makes a group slower than it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remark {
    /// The rendezvous sees all ranks at this address, at which they do not meet. So it is no NAT that they share.
    OneAddress(IpAddr),
    /// The second endpoint of the rendezvous saw none of these ranks, which are behind NATs.
    SecondEndpoint {
        /// The lowest of them.
        rank: u32,
        /// How many there are.
        count: u32,
    },
}

impl Remark {
    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::OneAddress(_) => {
                "let ranks connect to the rendezvous itself: a proxy or load balancer in between hides where they are"
            }
            Self::SecondEndpoint { .. } => {
                "open the port after that of the rendezvous on the firewalls of both sides, or name another with FMI_VANTAGE"
            }
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneAddress(ip) => {
                write!(f, "the rendezvous sees every rank at {ip}, which is not the address of a NAT that they share")
            }
            Self::SecondEndpoint { rank, count } => {
                write!(f, "the second endpoint of the rendezvous did not see rank {rank}")?;
                if *count > 1 {
                    write!(f, " and {} more", count - 1)?;
                }
                f.write_str(", so what their NATs do with ports is a guess")
            }
        }
    }
}

/// What a rank can tell of the network of its group, of whose pairs with this rank some are relayed or none is.
/// `has_vantage` says whether ranks turn to a second endpoint.
pub fn remarks(roster: &Roster, has_relayed: bool, has_vantage: bool) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let ip = |peer: &Peer| peer.observed.main.ip();
    let mut addresses = roster.peers.iter().map(ip);
    let first = addresses.next();
    let is_one = first.is_some_and(|first| addresses.all(|other| other == first));
    let is_behind = |peer: &Peer| peer.class() != NatClass::Public;
    if let Some(ip) = first.filter(|_| is_one && has_relayed && roster.peers.iter().all(is_behind)) {
        remarks.push(Remark::OneAddress(ip));
    }
    let unseen = (0u32..)
        .zip(&roster.peers)
        .filter(|(_, peer)| has_vantage && peer.card.is_some() && peer.observed.second.is_none() && is_behind(peer));
    let unseen: Vec<u32> = unseen.map(|(rank, _)| rank).collect();
    if let [rank, ..] = unseen[..] {
        let count = u32::try_from(unseen.len()).expect("a group has at most SIZE_MAX members");
        remarks.push(Remark::SecondEndpoint { rank, count });
    }
    remarks
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::card::{Card, Security};
    use crate::rendezvous::Observed;

    const SEEN: [u8; 4] = [203, 0, 113, 9];

    /// A rank that is seen at an address, and by the second endpoint or not. Its own address is another one behind a NAT.
    fn peer(seen: [u8; 4], is_seen_twice: bool, is_behind: bool) -> Peer {
        let main = SocketAddr::from((seen, 4000));
        let own = if is_behind { SocketAddr::from(([10, 0, 0, 2], 4000)) } else { main };
        let observed = Observed { second: is_seen_twice.then_some(main), ..Observed::once(main) };
        let card = Card { locals: vec![own], ..Card::sample(Security::Encrypted) };
        Peer { nonce: [0; 16], observed, round_trip: Duration::ZERO, card: Some(card) }
    }

    fn roster(peers: &[Peer]) -> Roster {
        Roster { session: [0; 16], epoch: 0, digest: [0; 32], peers: peers.to_vec() }
    }

    #[test]
    fn one_address_for_all_is_told_where_they_do_not_meet_there() {
        let proxied = roster(&[peer(SEEN, true, true), peer(SEEN, true, true)]);
        assert_eq!(remarks(&proxied, true, true), [Remark::OneAddress(SEEN.into())]);
        assert_eq!(remarks(&proxied, false, true), [], "a NAT that they share");
        let apart = roster(&[peer(SEEN, true, true), peer([203, 0, 113, 10], true, true)]);
        assert_eq!(remarks(&apart, true, true), []);
        let here = roster(&[peer(SEEN, true, false), peer(SEEN, true, false)]);
        assert_eq!(remarks(&here, true, true), [], "one machine");
    }

    #[test]
    fn a_second_endpoint_that_sees_nobody_is_told_unless_it_does_not_matter() {
        let other = [203, 0, 113, 10];
        let filtered = roster(&[peer(SEEN, true, true), peer(other, false, true), peer([8, 8, 8, 8], false, true)]);
        assert_eq!(remarks(&filtered, false, true), [Remark::SecondEndpoint { rank: 1, count: 2 }]);
        assert_eq!(remarks(&filtered, false, false), [], "it is switched off");
        assert_eq!(
            remarks(&roster(&[peer(SEEN, false, false)]), false, true),
            [],
            "without a NAT nothing is to be known"
        );
        let text = Remark::SecondEndpoint { rank: 1, count: 2 }.to_string();
        assert!(text.contains("rank 1 and 1 more"), "{text}");
    }
}
