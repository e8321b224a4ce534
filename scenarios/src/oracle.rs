//! What must come out between two gateways, from their configuration alone: no packet, no clock.
//!
//! Both sides connect and listen on one local port, at the same moment, as far from each other as
//! one `d` each way; nothing is lost.
//!
//! A SYN from X reaches Y's function if Y's filter admits it. X aims at the mapping from which Y has talked to the
//! rendezvous, and Y has sent a SYN towards X's address as the rendezvous saw it. If Y's mapping depends on the
//! remote, that SYN left from another mapping. If X's mapping depends on the remote, its SYN comes from a port that Y
//! never sent to.
//!
//! A packet that is admitted makes a session, and what answers it leaves from where it came in. But two endpoints have one
//! session: if Y's own SYN to where X's comes from has left from another mapping, that of X is turned away, whatever
//! the filter.
//!
//! If both SYNs arrive where they are aimed, the connection opens simultaneously and is up on both
//! sides after one round trip. If only X's does, Y's listener answers: X has it after one round
//! trip, Y half a round trip later.

use std::time::Duration;

use fmi::{Path, Technique};
use nat_sim::nat::{Allocation, Filtering, Mapping, NatConfig, OnSyn, SimultaneousOpen};

/// When the relay must have been asked at the latest: where nothing can be dialled or a guess was wrong, and where a pair
/// should connect.
const RELAY_BY: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(500)];

/// What must come out for one pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meeting {
    /// A direct connection; round trips until it is up on each side.
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
    let is_admitted = match to.tcp.filtering {
        Filtering::EndpointIndependent => is_predictable(to) || !is_predictable(from),
        Filtering::AddressDependent => is_predictable(to),
        Filtering::AddressAndPortDependent => is_predictable(to) && is_predictable(from),
    };
    passes(to) && is_admitted
}

/// What must come out between a function behind `first`, the lower rank, and one behind `second`.
pub fn predict(first: &NatConfig, second: &NatConfig) -> Meeting {
    let simultaneous = is_predictable(first) && is_predictable(second);
    match (reaches(first, second), reaches(second, first)) {
        (true, true) if simultaneous => Meeting::Direct { first: 1.0, second: 1.0 },
        // Two connections, on each of which the rank that connects proves itself first. The lower rank keeps the first one
        // whose proof it hears: that of the other rank, which has connected to it.
        (true, true) => Meeting::Direct { first: 1.5, second: 1.0 },
        (true, false) => Meeting::Direct { first: 1.0, second: 1.5 },
        (false, true) => Meeting::Direct { first: 1.5, second: 1.0 },
        (false, false) => Meeting::None,
    }
}

/// What the rendezvous can know of a gateway from two ports of one address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// The function's own address is seen.
    Public,
    /// The same endpoint is seen twice.
    Steady,
    /// The second port follows the first.
    Counting,
    /// Two ports without a rule.
    Random,
}

fn class(nat: &NatConfig) -> Class {
    match nat.tcp.mapping {
        Mapping::None => Class::Public,
        Mapping::EndpointIndependent | Mapping::OneToOne | Mapping::PreserveOverlap | Mapping::AddressDependent => {
            Class::Steady
        }
        Mapping::AddressAndPortDependent | Mapping::L4Proxy => match nat.tcp.allocation {
            Allocation::Sequential { .. } => Class::Counting,
            Allocation::Preserve(_) | Allocation::Random | Allocation::Block { .. } => Class::Random,
        },
    }
}

/// How two functions behind different gateways should come together.
fn technique(first: Class, second: Class) -> Technique {
    match (first, second) {
        (_, Class::Public) => Technique::Direct,
        (Class::Public, _) => Technique::Reversal,
        (Class::Steady, Class::Steady) => Technique::Punch,
        (Class::Random, Class::Random | Class::Counting) | (Class::Counting, Class::Random) => Technique::Relay,
        (Class::Random, Class::Steady) | (Class::Steady, Class::Random) => Technique::Listen,
        (Class::Counting | Class::Steady, Class::Counting | Class::Steady) => Technique::Prediction,
    }
}

/// Whether two functions meet when each predicts the other's next port: one of the two keeps its port or
/// counts, the other does as well, and inbound SYNs pass on one side at least.
pub fn is_predicted(first: &NatConfig, second: &NatConfig) -> bool {
    let counts = |nat| class(nat) == Class::Counting;
    (counts(first) || counts(second))
        && (class(first) == Class::Counting || is_predictable(first))
        && (class(second) == Class::Counting || is_predictable(second))
        && (passes(first) || passes(second))
}

/// Whether the ports of one function lie close together without a rule.
pub fn gives_ports_of_blocks(nat: &NatConfig) -> bool {
    matches!(nat.tcp.allocation, Allocation::Block { .. })
}

/// Whether a run of this pair may come out otherwise than [`forecast`], by luck: two ports of one small block may look like
/// a counter's, and a guess among few may hit.
pub fn luck_decides(first: &NatConfig, second: &NatConfig) -> bool {
    gives_ports_of_blocks(first) || gives_ports_of_blocks(second)
}

/// Whether a SYN from outside gets in at all.
fn passes(nat: &NatConfig) -> bool {
    match nat.simultaneous_open {
        SimultaneousOpen::Full | SimultaneousOpen::NeverEstablished => true,
        SimultaneousOpen::DropInboundSyn | SimultaneousOpen::ResetInboundSyn => false,
    }
}

/// How a pair comes together, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Directly or through the rendezvous.
    pub path: Path,
    /// The technique of each side.
    pub techniques: [Technique; 2],
    /// From knowing the addresses to the connection, on each side, at the earliest.
    pub times: [Duration; 2],
    /// How much later it may be. Packets alone decide when a direct way is open; when the relay is asked is for the code
    /// to choose, within bounds.
    pub slack: Duration,
}

/// What must come of a pair whose functions are one `round_trip` from each other and `to_server` from the
/// rendezvous, with the production code.
pub fn forecast(first: &NatConfig, second: &NatConfig, round_trip: Duration, to_server: Duration) -> Forecast {
    let classes = (class(first), class(second));
    let techniques = [technique(classes.0, classes.1), technique(classes.1, classes.0)];
    let direct = |first: f64, second: f64| {
        let times = [first, second].map(|trips| round_trip.mul_f64(trips));
        Forecast { path: Path::Direct, techniques, times, slack: Duration::ZERO }
    };
    if is_predicted(first, second) {
        // Both SYNs are aimed well, and meet.
        return match (passes(first), passes(second)) {
            (true, true) => direct(1.0, 1.0),
            (false, _) => direct(1.0, 1.5),
            (_, false) => direct(1.5, 1.0),
        };
    }
    // Where neither port is known, nobody dials: a SYN takes a port of the NAT that the relay needs.
    let is_hopeless = techniques[0] == Technique::Relay;
    if let Meeting::Direct { first, second } = predict(first, second)
        && !is_hopeless
    {
        return direct(first, second);
    }
    // There is hope where each can know from which port the other one comes.
    let is_hopeful = [classes.0, classes.1].iter().all(|class| matches!(class, Class::Public | Class::Steady));
    // The relay must leave a direct way the time that it takes, and no more than it needs.
    let from = if is_hopeless { Duration::ZERO } else { round_trip.mul_f64(1.5) };
    let to = RELAY_BY[usize::from(is_hopeful)];
    // One round trip connects, another one asks and brings the other side in.
    let times = [from + 2 * to_server; 2];
    Forecast { path: Path::Relay, techniques: [Technique::Relay; 2], times, slack: to.saturating_sub(from) }
}

/// The paths by which a pair may come together when luck has a part. The expected one is the first.
///
/// A function that is refused tries again at once. Behind a gateway that gives a random port to each attempt, one of
/// thousands may come from where the other side aims at, which is better than expected. Ports of one small block lie so
/// close together that a guess among few may hit.
pub fn possible(first: &NatConfig, second: &NatConfig) -> Vec<Path> {
    let anywhere = Duration::from_millis(1);
    let expected = forecast(first, second, anywhere, anywhere).path;
    let refuses = |nat: &NatConfig| nat.unsolicited.syn != OnSyn::Drop;
    let is_random = |nat: &NatConfig| class(nat) == Class::Random;
    let tries_often = (refuses(first) && is_random(second)) || (refuses(second) && is_random(first));
    let may_hit = tries_often || luck_decides(first, second);
    let lucky = (expected == Path::Relay && may_hit).then_some(Path::Direct);
    std::iter::once(expected).chain(lucky).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nat_sim::nat::preset::*;

    #[test]
    fn known_pairs_come_out_as_the_field_says() {
        let direct = |first, second| Meeting::Direct { first, second };
        assert_eq!(predict(&linux_masq_drop(), &aws_lambda()), direct(1.0, 1.0), "the punch of TCPunch");
        assert_eq!(predict(&rfc_strict(), &linux_random()), direct(1.5, 1.0), "who filters by address listens");
        assert_eq!(predict(&linux_masq_drop(), &linux_random()), Meeting::None);
        assert_eq!(predict(&aws_natgw(), &azure_natgw()), Meeting::None, "two random ones need a relay");
    }

    #[test]
    fn what_cannot_be_direct_is_predicted_or_relayed() {
        let (trip, server) = (Duration::from_millis(40), Duration::from_millis(30));
        let path = |first: NatConfig, second: NatConfig| {
            let meeting = forecast(&first, &second, trip, server);
            (meeting.path, meeting.techniques[0], meeting.times[0].as_millis())
        };
        assert_eq!(path(linux_masq_drop(), home_seq()), (Path::Direct, Technique::Prediction, 40));
        assert_eq!(path(aws_natgw(), azure_natgw()), (Path::Relay, Technique::Relay, 60));
        assert_eq!(path(rfc_strict(), linux_random()), (Path::Direct, Technique::Listen, 60));
    }

    #[test]
    fn luck_makes_a_pair_better_and_nothing_worse() {
        assert_eq!(possible(&linux_masq_rst(), &linux_random()), [Path::Relay, Path::Direct], "refused, and random");
        assert_eq!(possible(&linux_masq_drop(), &linux_random()), [Path::Relay], "a silent drop costs a second each");
        assert_eq!(possible(&linux_masq_rst(), &linux_masq_drop()), [Path::Direct]);
        for a in ALL {
            for b in ALL {
                let paths = possible(&(a.config)(), &(b.config)());
                assert!(
                    paths.len() == 1 || paths == [Path::Relay, Path::Direct],
                    "{} and {}: {paths:?}",
                    a.name,
                    b.name
                );
            }
        }
    }

    #[test]
    fn the_order_of_a_pair_does_not_matter() {
        for a in ALL {
            for b in ALL {
                let (ab, ba) = (predict(&(a.config)(), &(b.config)()), predict(&(b.config)(), &(a.config)()));
                match (ab, ba) {
                    (Meeting::Direct { first, second }, Meeting::Direct { first: second_, second: first_ }) => {
                        assert_eq!((first, second), (first_, second_));
                    }
                    (Meeting::None, Meeting::None) => {}
                    other => panic!("{} and {}: {other:?}", a.name, b.name),
                }
            }
        }
    }
}
