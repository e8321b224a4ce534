//! Classifies the NAT between this machine and the internet: a discovery after RFC 5780, adapted to TCP.
//!
//! The rendezvous answers on several endpoints, its *vantages*: the one that it is known by, another
//! port of the same address, other addresses if it has any. From one local port the client connects to
//! three of them: where it is seen from tells how its NAT maps. A reply cannot change its source in TCP,
//! so the filter shows itself in connections that the rendezvous opens to the client from vantages that
//! the client has not spoken to; how those fail tells how the NAT answers unsolicited traffic. The client
//! may be called back only at the endpoint that it speaks from, so nobody else can be hit.
//!
//! [`Discovery`] is the machine: it says what to try next, learns the result, and ends with a
//! [`Finding`].
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

use std::fmt;
use std::net::SocketAddr;

/// Most vantages of a rendezvous.
pub const VANTAGES_MAX: usize = 8;

/// How a NAT maps. RFC 4787 §4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::exhaustive_enums, reason = "RFC 4787 knows these, and none")]
pub enum Mapping {
    /// There is none: the machine's own address is seen.
    None,
    /// One external endpoint for all remotes.
    EndpointIndependent,
    /// One for each remote address.
    AddressDependent,
    /// One for each remote address and port.
    AddressAndPortDependent,
}

/// Which hosts may send to an external endpoint. RFC 4787 §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::exhaustive_enums, reason = "RFC 4787 knows these")]
pub enum Filtering {
    /// Everybody.
    EndpointIndependent,
    /// Addresses that were spoken to.
    AddressDependent,
    /// Endpoints that were spoken to.
    AddressAndPortDependent,
}

/// How external ports are chosen. RFC 4787 §4.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Ports {
    /// The local port is kept.
    Preserved,
    /// Each is this far from the one before.
    Sequential(i32),
    /// There is no rule to be seen.
    Unpredictable,
}

/// How an attempt to connect ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Outcome {
    /// The connection is established.
    Connected,
    /// An RST, or an ICMP port unreachable, which TCP reports alike.
    Refused,
    /// Another ICMP error.
    Unreachable,
    /// No answer of any kind in time.
    Silence,
}

impl Outcome {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Connected => 1,
            Self::Refused => 2,
            Self::Unreachable => 3,
            Self::Silence => 4,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        [Self::Connected, Self::Refused, Self::Unreachable, Self::Silence].into_iter().find(|it| it.code() == code)
    }
}

/// Local ports of a discovery; each is used for the first time by its first trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::exhaustive_enums, reason = "internal: the driver handles each")]
pub enum LocalPort {
    /// For the mapping.
    Mapping,
    /// For the filter. It has spoken to one vantage only, and listens.
    Filter,
    /// For the hairpin: from here to where [`LocalPort::Filter`] is seen.
    Hairpin,
}

/// What to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "internal: the driver handles each")]
pub enum Trial {
    /// Connect from a local port to a vantage and ask where it sees one. The connection stays.
    Observe {
        /// From which local port.
        port: LocalPort,
        /// Where to connect.
        vantage: SocketAddr,
    },
    /// Ask on [`LocalPort::Filter`]'s connection to be called back from the vantage of this number.
    CallBack(u8),
    /// Connect from [`LocalPort::Hairpin`] to this endpoint, which is the client's own.
    Hairpin(SocketAddr),
}

/// The result of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "internal: the driver handles each")]
pub enum Seen {
    /// Of [`Trial::Observe`].
    Observed {
        /// The local end.
        local: SocketAddr,
        /// Where the vantage sees it.
        observed: SocketAddr,
        /// All vantages of the rendezvous.
        vantages: Vec<SocketAddr>,
    },
    /// Of [`Trial::CallBack`] and [`Trial::Hairpin`].
    Outcome(Outcome),
    /// It could not be made: the vantage does not answer.
    Failed,
}

/// What a discovery finds. What could not be told is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The local end of the first connection.
    pub local: SocketAddr,
    /// Where the rendezvous saw it.
    pub observed: SocketAddr,
    /// For which remotes one external port is kept.
    pub mapping: Option<Mapping>,
    /// Which remotes are let in at that port.
    pub filtering: Option<Filtering>,
    /// How external ports are chosen.
    pub ports: Option<Ports>,
    /// The answer to a SYN that nobody asked for; `None` also where every SYN is let in.
    pub unsolicited: Option<Outcome>,
    /// Whether the machine's external endpoint can be reached from inside.
    pub hairpin: Option<bool>,
}

/// Ways to a connection between two functions behind NATs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Advice {
    /// A plain connection or a hole that both punch.
    Direct,
    /// The same, once the next port has been predicted.
    Prediction,
    /// By way of a third party.
    Relay,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Prediction => "prediction",
            Self::Relay => "relay",
        })
    }
}

impl Finding {
    /// The name that RFC 3489 gave to the combination; `None` for those that it had none for.
    pub fn rfc_3489_name(&self) -> Option<&'static str> {
        match (self.mapping?, self.filtering?) {
            (Mapping::None, Filtering::EndpointIndependent) => Some("open internet"),
            (Mapping::None, _) => Some("firewall"),
            (Mapping::EndpointIndependent, Filtering::EndpointIndependent) => Some("full cone"),
            (Mapping::EndpointIndependent, Filtering::AddressDependent) => Some("restricted cone"),
            (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent) => Some("port-restricted cone"),
            (Mapping::AddressDependent | Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent) => {
                Some("symmetric")
            }
            (Mapping::AddressDependent | Mapping::AddressAndPortDependent, _) => None,
        }
    }

    fn keeps_its_endpoint(&self) -> bool {
        matches!(self.mapping, Some(Mapping::None | Mapping::EndpointIndependent))
    }

    /// How a function here and one behind another NAT come together.
    pub fn advice_with(&self, other: &Self) -> Advice {
        // A SYN gets through if its source was spoken to, as far as the filter looks.
        let reaches = |from: &Self, to: &Self| match to.filtering {
            Some(Filtering::EndpointIndependent) => to.keeps_its_endpoint(),
            Some(Filtering::AddressDependent) => to.keeps_its_endpoint(),
            Some(Filtering::AddressAndPortDependent) | None => to.keeps_its_endpoint() && from.keeps_its_endpoint(),
        };
        let is_predictable = |it: &Self| it.keeps_its_endpoint() || matches!(it.ports, Some(Ports::Sequential(_)));
        if reaches(self, other) || reaches(other, self) {
            Advice::Direct
        } else if is_predictable(self)
            && is_predictable(other)
            && (self.keeps_its_endpoint() || other.keeps_its_endpoint())
        {
            Advice::Prediction
        } else {
            Advice::Relay
        }
    }
}

/// Ports that are compared for a rule.
const PORTS_COMPARED: usize = 3;

/// The machine.
#[derive(Clone, Debug)]
pub struct Discovery {
    vantages: Vec<SocketAddr>,
    /// Local and observed endpoints of [`LocalPort::Mapping`], by vantage tried.
    mapped: Vec<(SocketAddr, Option<(SocketAddr, SocketAddr)>)>,
    /// Local and observed endpoint of [`LocalPort::Filter`].
    filter: Option<Option<(SocketAddr, SocketAddr)>>,
    /// Numbers of vantages that called back, and the results.
    called: Vec<(u8, Option<Outcome>)>,
    hairpin: Option<Option<Outcome>>,
}

impl Discovery {
    /// A discovery by a rendezvous that is known by one endpoint.
    pub fn new(rendezvous: SocketAddr) -> Self {
        Self { vantages: vec![rendezvous], mapped: Vec::new(), filter: None, called: Vec::new(), hairpin: None }
    }

    fn main(&self) -> SocketAddr {
        self.vantages[0]
    }

    /// Another port of the main vantage's address, then the main port of another address.
    fn others(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let main = self.main();
        let other_port = self.vantages.iter().copied().find(|it| it.ip() == main.ip() && it.port() != main.port());
        let other_address =
            self.vantages.iter().copied().find(|it| it.ip() != main.ip() && it.is_ipv4() == main.is_ipv4());
        other_port.into_iter().chain(other_address)
    }

    /// What to try next; `None` at the end.
    pub fn next_trial(&self) -> Option<Trial> {
        let observe = |port, vantage| Some(Trial::Observe { port, vantage });
        if self.mapped.is_empty() {
            return observe(LocalPort::Mapping, self.main());
        }
        if let Some(vantage) = self.others().find(|it| self.mapped.iter().all(|(tried, _)| tried != it)) {
            return observe(LocalPort::Mapping, vantage);
        }
        let Some(filter) = self.filter else { return observe(LocalPort::Filter, self.main()) };
        let (local, observed) = filter?;
        // From another address first: if that is let in, everybody is.
        let uncalled = |it: &SocketAddr| {
            let number = self.vantages.iter().position(|vantage| vantage == it)?;
            let number = u8::try_from(number).ok()?;
            self.called.iter().all(|(called, _)| *called != number).then_some(number)
        };
        let candidates: Vec<_> = self.others().collect();
        if let Some(number) = candidates.iter().rev().find_map(uncalled) {
            return Some(Trial::CallBack(number));
        }
        (self.hairpin.is_none() && local != observed).then_some(Trial::Hairpin(observed))
    }

    /// Takes the result of the trial that [`Discovery::next_trial`] says.
    pub fn handle_seen(&mut self, trial: Trial, seen: Seen) {
        match (trial, seen) {
            (Trial::Observe { port: LocalPort::Mapping, vantage }, Seen::Observed { local, observed, vantages }) => {
                if self.mapped.is_empty() {
                    // Numbers count the rendezvous' own list, in which the main one comes first. A
                    // rendezvous on all addresses does not know by which it is reached.
                    let reached = |it: SocketAddr| {
                        let ip = if it.ip().is_unspecified() { vantage.ip() } else { it.ip() };
                        SocketAddr::new(ip, it.port())
                    };
                    let others = vantages.into_iter().skip(1).take(VANTAGES_MAX - 1).map(reached);
                    self.vantages.extend(others);
                }
                self.mapped.push((vantage, Some((local, observed))));
            }
            (Trial::Observe { port: LocalPort::Filter, .. }, Seen::Observed { local, observed, .. }) => {
                self.filter = Some(Some((local, observed)));
            }
            (Trial::Observe { port: LocalPort::Mapping, vantage }, _) => self.mapped.push((vantage, None)),
            (Trial::Observe { .. }, _) => self.filter = Some(None),
            (Trial::CallBack(number), Seen::Outcome(outcome)) => self.called.push((number, Some(outcome))),
            (Trial::CallBack(number), _) => self.called.push((number, None)),
            (Trial::Hairpin(_), Seen::Outcome(outcome)) => self.hairpin = Some(Some(outcome)),
            (Trial::Hairpin(_), _) => self.hairpin = Some(None),
        }
    }

    /// What has been found so far; `None` if not even the main vantage answered.
    pub fn finding(&self) -> Option<Finding> {
        let (local, observed) = self.mapped.iter().find_map(|(_, seen)| *seen)?;
        Some(Finding {
            local,
            observed,
            mapping: self.mapping(local, observed),
            filtering: self.filtering(),
            ports: self.ports(),
            unsolicited: self.refusals().next(),
            hairpin: self.hairpin.flatten().map(|outcome| outcome == Outcome::Connected),
        })
    }

    fn seen_from(&self, is_it: impl Fn(SocketAddr, SocketAddr) -> bool) -> Option<SocketAddr> {
        let main = self.main();
        self.mapped.iter().skip(1).find(|(vantage, _)| is_it(*vantage, main)).and_then(|(_, seen)| Some((*seen)?.1))
    }

    fn mapping(&self, local: SocketAddr, observed: SocketAddr) -> Option<Mapping> {
        if local == observed {
            return Some(Mapping::None);
        }
        let other_port = self.seen_from(|vantage, main| vantage.ip() == main.ip());
        let other_address = self.seen_from(|vantage, main| vantage.ip() != main.ip());
        match (other_port, other_address) {
            (Some(port), _) if port != observed => Some(Mapping::AddressAndPortDependent),
            (_, Some(address)) if address == observed => Some(Mapping::EndpointIndependent),
            (Some(_), Some(_)) => Some(Mapping::AddressDependent),
            // With one address of the rendezvous the two cannot be told apart.
            (Some(_) | None, None) | (None, Some(_)) => None,
        }
    }

    fn filtering(&self) -> Option<Filtering> {
        let main = self.main();
        let outcome = |same_address: bool| {
            let called = self.called.iter().find(|(number, _)| {
                self.vantages.get(usize::from(*number)).is_some_and(|it| (it.ip() == main.ip()) == same_address)
            });
            called.and_then(|(_, outcome)| *outcome).map(|outcome| outcome == Outcome::Connected)
        };
        match (outcome(false), outcome(true)) {
            (Some(true), _) => Some(Filtering::EndpointIndependent),
            (_, Some(false)) => Some(Filtering::AddressAndPortDependent),
            (Some(false), Some(true)) => Some(Filtering::AddressDependent),
            (Some(false) | None, None) | (None, Some(true)) => None,
        }
    }

    fn refusals(&self) -> impl Iterator<Item = Outcome> + '_ {
        self.called.iter().filter_map(|(_, outcome)| *outcome).filter(|outcome| *outcome != Outcome::Connected)
    }

    /// Endpoints of all mappings seen, in the order in which they were made.
    fn ports(&self) -> Option<Ports> {
        let mut seen: Vec<_> = self.mapped.iter().filter_map(|(_, seen)| *seen).collect();
        seen.extend(self.filter.flatten());
        if seen.iter().all(|(local, observed)| local.port() == observed.port()) {
            return Some(Ports::Preserved);
        }
        let mut ports: Vec<i32> = seen.iter().map(|(_, observed)| i32::from(observed.port())).collect();
        ports.dedup();
        let steps: Vec<_> = ports.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let first = *steps.first()?;
        let is_regular = steps.iter().all(|step| *step == first && step.abs() <= SMALL_STEP);
        match (is_regular, ports.len() < PORTS_COMPARED) {
            (true, true) => None,
            (true, false) => Some(Ports::Sequential(first)),
            (false, _) => Some(Ports::Unpredictable),
        }
    }
}

/// The largest distance that a counter would make; farther apart is chance.
const SMALL_STEP: i32 = 16;

#[cfg(test)]
mod tests {
    //! Goal: observations are read as RFC 5780 says, and incomplete ones are not over-read. Method: a
    //! made-up NAT answers the steps.

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an endpoint")
    }

    /// Runs a discovery against a NAT that shows `observed` and lets in what `admits` says.
    fn discover(
        vantages: &[&str],
        observed: impl Fn(LocalPort, SocketAddr) -> SocketAddr,
        call: impl Fn(u8) -> Outcome,
        hairpin: Outcome,
    ) -> Finding {
        let vantages: Vec<_> = vantages.iter().map(|text| at(text)).collect();
        let mut discovery = Discovery::new(vantages[0]);
        while let Some(trial) = discovery.next_trial() {
            let seen = match trial {
                Trial::Observe { port, vantage } => {
                    let local = if port == LocalPort::Mapping { at("10.0.0.2:4000") } else { at("10.0.0.2:4001") };
                    Seen::Observed { local, observed: observed(port, vantage), vantages: vantages.clone() }
                }
                Trial::CallBack(number) => Seen::Outcome(call(number)),
                Trial::Hairpin(_) => Seen::Outcome(hairpin),
            };
            discovery.handle_seen(trial, seen);
        }
        discovery.finding().expect("the main vantage answered")
    }

    const FOUR: [&str; 4] = ["1.1.1.1:7", "1.1.1.1:8", "2.2.2.2:7", "2.2.2.2:8"];

    #[test]
    fn the_classes_of_rfc_5780_are_told_apart() {
        let external = |port| SocketAddr::from(([203, 0, 113, 1], port));
        let same = |port, _| external(if port == LocalPort::Mapping { 5000 } else { 5900 });
        let by_address = |port, vantage: SocketAddr| {
            if vantage.ip() == at(FOUR[0]).ip() { same(port, vantage) } else { external(6000) }
        };
        let by_port =
            |_, vantage: SocketAddr| external(vantage.port() * 100 + u16::from(vantage.ip() == at(FOUR[2]).ip()));
        let silent = |_| Outcome::Silence;
        assert_eq!(discover(&FOUR, same, silent, Outcome::Silence).mapping, Some(Mapping::EndpointIndependent));
        assert_eq!(discover(&FOUR, by_address, silent, Outcome::Silence).mapping, Some(Mapping::AddressDependent));
        let finding = discover(&FOUR, by_port, silent, Outcome::Connected);
        assert_eq!(finding.mapping, Some(Mapping::AddressAndPortDependent));
        assert_eq!((finding.filtering, finding.hairpin), (Some(Filtering::AddressAndPortDependent), Some(true)));
        assert_eq!(finding.rfc_3489_name(), Some("symmetric"));
        let open = discover(&FOUR, same, |_| Outcome::Connected, Outcome::Refused);
        assert_eq!((open.filtering, open.unsolicited), (Some(Filtering::EndpointIndependent), None));
        assert_eq!(open.rfc_3489_name(), Some("full cone"));
        let restricted = discover(
            &FOUR,
            same,
            |number| if number == 1 { Outcome::Connected } else { Outcome::Refused },
            Outcome::Refused,
        );
        assert_eq!(
            (restricted.filtering, restricted.unsolicited),
            (Some(Filtering::AddressDependent), Some(Outcome::Refused))
        );
        assert_eq!(restricted.advice_with(&finding), Advice::Direct, "who filters by address listens");
        assert_eq!(finding.advice_with(&finding), Advice::Relay);
    }

    #[test]
    fn one_address_of_the_rendezvous_leaves_a_doubt_and_one_port_leaves_more() {
        let external = SocketAddr::from(([203, 0, 113, 1], 5000));
        let two = discover(&FOUR[..2], |_, _| external, |_| Outcome::Silence, Outcome::Silence);
        assert_eq!((two.mapping, two.filtering), (None, Some(Filtering::AddressAndPortDependent)));
        let one = discover(&FOUR[..1], |_, _| external, |_| Outcome::Silence, Outcome::Silence);
        assert_eq!((one.mapping, one.filtering, one.unsolicited), (None, None, None));
    }

    #[test]
    fn a_counter_is_told_from_chance() {
        let count = std::cell::Cell::new(1024);
        let next = |_, _| {
            count.set(count.get() + 1);
            SocketAddr::from(([203, 0, 113, 1], count.get()))
        };
        let counting = discover(&FOUR, next, |_| Outcome::Silence, Outcome::Silence);
        assert_eq!(counting.ports, Some(Ports::Sequential(1)));
        let kept = discover(
            &FOUR,
            |port, _| SocketAddr::from(([203, 0, 113, 1], if port == LocalPort::Mapping { 4000 } else { 4001 })),
            |_| Outcome::Silence,
            Outcome::Silence,
        );
        assert_eq!(kept.ports, Some(Ports::Preserved));
        assert_eq!(kept.advice_with(&counting), Advice::Prediction);
    }

    #[test]
    fn nothing_is_found_where_nobody_answers() {
        let mut discovery = Discovery::new(at(FOUR[0]));
        while let Some(trial) = discovery.next_trial() {
            discovery.handle_seen(trial, Seen::Failed);
        }
        assert_eq!(discovery.finding(), None);
    }

    /// What a NAT that shows these ports one after the other is found to do with ports.
    fn ports(vantages: usize, shown: &[u16]) -> (Option<Ports>, usize) {
        let count = std::cell::Cell::new(0);
        let next = |_, _| {
            let port = shown[count.get() % shown.len()];
            count.set(count.get() + 1);
            SocketAddr::from(([203, 0, 113, 1], port))
        };
        (discover(&FOUR[..vantages], next, |_| Outcome::Silence, Outcome::Silence).ports, count.get())
    }

    #[test]
    fn a_counter_keeps_a_small_step_and_shows_it_three_times() {
        let (found, seen) = ports(4, &[1024, 1026, 1028, 1030, 1032]);
        assert_eq!(found, Some(Ports::Sequential(2)));
        assert!(seen > PORTS_COMPARED);
        assert_eq!(ports(2, &[1032, 1030, 1028]), (Some(Ports::Sequential(-2)), PORTS_COMPARED), "three are enough");
        assert_eq!(ports(1, &[1024, 1026]), (None, 2), "two are not");
        assert_eq!(ports(4, &[1024, 1025, 1028, 1029, 1035]).0, Some(Ports::Unpredictable), "small and irregular");
        assert_eq!(ports(4, &[1024, 2024, 3024, 4024, 5024]).0, Some(Ports::Unpredictable), "regular and large");
    }

    #[test]
    fn a_peer_that_cannot_be_predicted_is_relayed_to_one_that_filters_by_port() {
        let filters_by_port = |mapping, ports| Finding {
            local: at("10.0.0.2:4000"),
            observed: at("203.0.113.1:5000"),
            mapping: Some(mapping),
            filtering: Some(Filtering::AddressAndPortDependent),
            ports: Some(ports),
            unsolicited: None,
            hairpin: None,
        };
        let keeps = filters_by_port(Mapping::EndpointIndependent, Ports::Preserved);
        let random = filters_by_port(Mapping::AddressAndPortDependent, Ports::Unpredictable);
        let counts = filters_by_port(Mapping::AddressAndPortDependent, Ports::Sequential(1));
        for (one, other, expected) in [
            (&keeps, &keeps, Advice::Direct),
            (&keeps, &counts, Advice::Prediction),
            (&keeps, &random, Advice::Relay),
            (&counts, &counts, Advice::Relay),
            (&counts, &random, Advice::Relay),
        ] {
            assert_eq!((one.advice_with(other), other.advice_with(one)), (expected, expected), "{one:?}, {other:?}");
        }
        let names = [Advice::Direct, Advice::Prediction, Advice::Relay].map(|advice| advice.to_string());
        assert_eq!(names, ["direct", "prediction", "relay"]);
    }

    #[test]
    fn so_many_vantages_are_visited() {
        let vantages = (1..=20).map(|port| SocketAddr::from(([1, 1, 1, 1], port))).collect();
        let mut discovery = Discovery::new(at("1.1.1.1:1"));
        let trial = discovery.next_trial().expect("the main vantage");
        let (local, observed) = (at("10.0.0.2:4000"), at("203.0.113.1:5000"));
        discovery.handle_seen(trial, Seen::Observed { local, observed, vantages });
        let expected: Vec<_> = (1..).take(VANTAGES_MAX).map(|port| SocketAddr::from(([1, 1, 1, 1], port))).collect();
        assert_eq!(discovery.vantages, expected);
    }
}
