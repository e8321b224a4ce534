//! What must come out between two gateways, from their configuration alone: no packet, no clock.
//!
//! Both sides connect and listen on one local port, at the same moment, as far from each other as
//! one `d` each way; nothing is lost.
//!
//! A SYN from X reaches Y's function if Y's filter admits it. Y has talked to the rendezvous from
//! the mapping that X aims at, and has sent a SYN towards X's address as the rendezvous saw it. If
//! Y's mapping depends on the remote, that SYN left from another mapping. If X's mapping depends on
//! the remote, its SYN comes from a port that Y never sent to.
//!
//! If both SYNs arrive where they are aimed, the connection opens simultaneously and stands on both
//! sides after one round trip. If only X's does, Y's listener answers: X has it after one round
//! trip, Y half a round trip later.

use nat_sim::nat::{Allocation, Filtering, Mapping, NatConfig, OnSyn, SimultaneousOpen};

/// What must come out for one pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// A direct connection; round trips until it stands on each side.
    Direct {
        /// On the first side.
        first: f64,
        /// On the second side.
        second: f64,
    },
    /// No direct connection.
    None,
}

/// Whether a function keeps its external endpoint from the rendezvous to its peer.
fn is_predictable(nat: &NatConfig) -> bool {
    match nat.tcp.mapping {
        Mapping::EndpointIndependent | Mapping::OneToOne | Mapping::PreserveOverlap | Mapping::None => true,
        Mapping::AddressDependent | Mapping::AddressAndPortDependent | Mapping::L4Proxy => false,
    }
}

/// Whether a SYN from behind `from` gets through `to`.
fn reaches(from: &NatConfig, to: &NatConfig) -> bool {
    if to.simultaneous_open == SimultaneousOpen::DropInboundSyn {
        return false;
    }
    match to.tcp.filtering {
        Filtering::EndpointIndependent => true,
        Filtering::AddressDependent => is_predictable(to),
        Filtering::AddressAndPortDependent => is_predictable(to) && is_predictable(from),
    }
}

/// What must come out between a function behind `first` and one behind `second`.
pub fn predict(first: &NatConfig, second: &NatConfig) -> Verdict {
    let simultaneous = is_predictable(first) && is_predictable(second);
    match (reaches(first, second), reaches(second, first)) {
        (true, true) if simultaneous => Verdict::Direct { first: 1.0, second: 1.0 },
        // Two connections; the lower rank nominates the first that proves itself, either may win.
        (true, true) => Verdict::Direct { first: 1.5, second: 1.5 },
        (true, false) => Verdict::Direct { first: 1.0, second: 1.5 },
        (false, true) => Verdict::Direct { first: 1.5, second: 1.0 },
        (false, false) => Verdict::None,
    }
}

/// Whether luck can connect two functions for which there is no way: one gateway refuses at once, and the
/// other takes a fresh random port for each of the many attempts that follow.
pub fn may_be_lucky(first: &NatConfig, second: &NatConfig) -> bool {
    let refuses = |nat: &NatConfig| matches!(nat.unsolicited.syn, OnSyn::Reset | OnSyn::Icmp { .. });
    (refuses(first) && !is_predictable(second)) || (refuses(second) && !is_predictable(first))
}

/// Whether two functions meet when each foretells the other's next port: one of the two keeps its port or
/// counts, the other does as well, and inbound SYNs pass on one side at least.
pub fn is_foretold(first: &NatConfig, second: &NatConfig) -> bool {
    let foretold = |nat: &NatConfig| is_predictable(nat) || matches!(nat.tcp.allocation, Allocation::Sequential { .. });
    let passes = |nat: &NatConfig| nat.simultaneous_open != SimultaneousOpen::DropInboundSyn;
    foretold(first) && foretold(second) && (passes(first) || passes(second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nat_sim::nat::preset::*;

    #[test]
    fn known_pairs_come_out_as_the_field_says() {
        let direct = |first, second| Verdict::Direct { first, second };
        assert_eq!(predict(&linux_masq_drop(), &aws_lambda()), direct(1.0, 1.0), "the punch of TCPunch");
        assert_eq!(predict(&rfc_strict(), &linux_random()), direct(1.5, 1.0), "who filters by address listens");
        assert_eq!(predict(&linux_masq_drop(), &linux_random()), Verdict::None);
        assert_eq!(predict(&aws_natgw(), &azure_natgw()), Verdict::None, "two random ones need a relay");
    }

    #[test]
    fn luck_needs_one_that_refuses_and_one_that_rolls_dice() {
        assert!(may_be_lucky(&linux_masq_rst(), &l4_proxy()) && may_be_lucky(&linux_random(), &linux_icmp()));
        assert!(!may_be_lucky(&linux_masq_drop(), &l4_proxy()), "nothing is tried again");
        assert!(!may_be_lucky(&linux_masq_rst(), &linux_masq_rst()), "nothing is random");
    }

    #[test]
    fn the_order_of_a_pair_does_not_matter() {
        for a in ALL {
            for b in ALL {
                let (ab, ba) = (predict(&(a.config)(), &(b.config)()), predict(&(b.config)(), &(a.config)()));
                match (ab, ba) {
                    (Verdict::Direct { first, second }, Verdict::Direct { first: second_, second: first_ }) => {
                        assert_eq!((first, second), (first_, second_));
                    }
                    (Verdict::None, Verdict::None) => {}
                    other => panic!("{} and {}: {other:?}", a.name, b.name),
                }
            }
        }
    }
}
