//! Pairs whose ranks registered over different address families: IPv4 does not work for one of them, for instance.

use std::net::SocketAddr;
use std::time::Duration;

use super::{LocalEnd, Pace, Path, Peer, Planner};

impl Peer {
    /// Whether the main endpoints of two ranks are of different families.
    pub(super) fn is_across(&self, their: &Self) -> bool {
        self.observed.main.is_ipv4() != their.observed.main.is_ipv4()
    }

    /// Whether there is a family over which both were seen.
    pub(super) fn has_family_of(&self, their: &Self) -> bool {
        [true, false].into_iter().any(|is_v4| self.seen(is_v4).is_some() && their.seen(is_v4).is_some())
    }

    /// Where it is seen over a family, and from which of its local ends.
    fn seen(&self, is_v4: bool) -> Option<(SocketAddr, LocalEnd)> {
        let ends = [(Some(self.observed.main), LocalEnd::Registered), (self.observed.other, LocalEnd::OtherFamily)];
        let mut ends = ends.into_iter().filter_map(|(at, end)| Some((at?, end)));
        ends.find(|(at, _)| at.is_ipv4() == is_v4)
    }
}

impl Planner<'_> {
    /// Both open their firewalls, or their NATs, over each family that both have; IPv6 first.
    pub(super) fn across(&mut self) {
        for is_v4 in [false, true] {
            if let (Some((_, from)), Some((remote, _))) = (self.own.seen(is_v4), self.their.seen(is_v4))
                && self.may_be(remote)
            {
                let delay = if is_v4 { self.delay() } else { Duration::ZERO };
                self.push(remote, Path::Direct, from, Pace::Eager, delay);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: ranks that registered over different families meet over one that both have. Method: all combinations.

    use super::*;
    use crate::candidate::{Means, Pairing, Roster, Technique};
    use crate::card::{Card, Security};
    use crate::rendezvous::Observed;
    use crate::schedule::Peers;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn peer(main: &str, other: Option<&str>) -> Peer {
        let observed = Observed { other: other.map(at), ..Observed::once(at(main)) };
        let card = Some(Card::sample(Security::Encrypted));
        Peer { nonce: [0; 16], observed, round_trip: Duration::from_millis(10), card }
    }

    fn plan(own: &Peer, their: &Peer) -> Pairing {
        let relay = Some(at("192.0.2.1:7000"));
        let means = Means { relay, sprays: false, peers: Peers::All, seed: 1 };
        Roster { session: [0; 16], epoch: 0, digest: [0; 32], peers: vec![own.clone(), their.clone()] }
            .plan(0, 1, &means)
    }

    fn tried(pairing: &Pairing) -> Vec<(String, LocalEnd, u128)> {
        let direct = pairing.candidates.iter().filter(|it| it.from != LocalEnd::Relay);
        direct.map(|it| (it.remote.to_string(), it.from, it.after.as_millis())).collect()
    }

    #[test]
    fn a_rank_without_ipv4_is_met_over_ipv6() {
        let (both, v6) = (peer("203.0.113.1:4000", Some("[2001:db8::1]:9")), peer("[2001:db8::2]:9", None));
        let there = plan(&both, &v6);
        assert_eq!(there.technique, Technique::Punch);
        assert_eq!(tried(&there), [("[2001:db8::2]:9".into(), LocalEnd::OtherFamily, 0)]);
        let back = plan(&v6, &both);
        assert_eq!(back.technique, Technique::Punch);
        assert_eq!(tried(&back), [("[2001:db8::1]:9".into(), LocalEnd::Registered, 0)]);
    }

    #[test]
    fn ranks_with_both_families_use_both_wherever_they_registered() {
        let v4 = peer("203.0.113.1:4000", Some("[2001:db8::1]:9"));
        let v6 = peer("[2001:db8::2]:9", Some("203.0.113.2:4000"));
        let there = [
            ("[2001:db8::2]:9".into(), LocalEnd::OtherFamily, 0),
            ("203.0.113.2:4000".into(), LocalEnd::Registered, 100),
        ];
        assert_eq!(tried(&plan(&v4, &v6)), there);
        let back = [
            ("[2001:db8::1]:9".into(), LocalEnd::Registered, 0),
            ("203.0.113.1:4000".into(), LocalEnd::OtherFamily, 100),
        ];
        assert_eq!(tried(&plan(&v6, &v4)), back);
    }

    #[test]
    fn nobody_is_aimed_at_the_inside_of_a_network() {
        let own = peer("203.0.113.1:4000", Some("[2001:db8::1]:9"));
        for inside in ["[::1]:9", "[fd00::2]:9", "[2001:db8::2]:0"] {
            assert_eq!(tried(&plan(&own, &peer(inside, None))), [], "{inside}");
        }
    }

    #[test]
    fn ranks_without_a_family_in_common_are_relayed_at_once() {
        let (v4, v6) = (peer("203.0.113.1:4000", None), peer("[2001:db8::2]:9", None));
        for (own, their) in [(&v4, &v6), (&v6, &v4)] {
            let pairing = plan(own, their);
            assert_eq!(pairing.technique, Technique::Relay);
            let tried: Vec<_> = pairing.candidates.iter().map(|it| (it.from, it.after)).collect();
            assert_eq!(tried, [(LocalEnd::Relay, Duration::ZERO)]);
        }
    }
}
