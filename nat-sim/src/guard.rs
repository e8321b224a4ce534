//! What a gateway must never let in, from its configuration and the packets on its two sides alone.
//!
//! A standing invariant of the fabric: what a gateway lets in belongs to a flow that a host behind it began, as far as its
//! filter asks for that, and reaches this host. The gateway's tables are not looked at, so the same mistake is not made
//! twice. Not judged are ICMP errors, packets that waited for a fragment, and gateways that lend ports on request.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use fmi_net::time::Instant;

use crate::nat::{
    DropReason, Exhaustion, Filtering, Hairpin, IcmpErrors, Ipv6, Mapping, NatConfig, Overload, Side, Timers, Verdict,
};
use crate::packet::{Flow, Packet, Transport};

/// What a host and a remote have said to each other through one external endpoint.
#[derive(Clone, Copy, Debug)]
struct Spoken {
    at: Instant,
    /// Whether TCP has begun to end it.
    has_ended: bool,
}

/// Remotes that a host has spoken with from one external endpoint.
type Remotes = BTreeMap<SocketAddrV4, Spoken>;

/// The guard of one gateway.
#[derive(Debug)]
pub(crate) struct Guard {
    config: NatConfig,
    /// By external endpoint: which hosts have used it.
    used: BTreeMap<(Transport, SocketAddrV4), BTreeMap<SocketAddrV4, Remotes>>,
    /// What hosts have sent to each other that the other one's filter alone held back: it makes a flow of the sender all the
    /// same.
    held: BTreeMap<(Transport, SocketAddrV4), BTreeMap<SocketAddrV4, Instant>>,
    /// Which host used an external address last.
    owners: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Flows of IPv6 that hosts began: inside, outside.
    flows: BTreeSet<(Transport, SocketAddr, SocketAddr)>,
}

/// A packet as it came to a gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    flow: Option<Flow>,
    endpoints: Option<(Transport, SocketAddr, SocketAddr)>,
    is_v4: bool,
    begins: bool,
    ends: bool,
}

impl Arrived {
    pub(crate) fn new(packet: &Packet) -> Self {
        let is_v4 = packet.is_v4();
        let endpoints = if is_v4 { None } else { packet.endpoints() };
        let segment = packet.segment();
        let ends = segment.is_some_and(|segment| segment.fin || segment.rst);
        let begins = segment.is_some_and(|segment| segment.is_first_syn());
        Self { flow: packet.flow(), endpoints, is_v4, begins, ends }
    }
}

impl Guard {
    pub(crate) fn new(config: NatConfig) -> Self {
        Self { config, used: BTreeMap::new(), held: BTreeMap::new(), owners: BTreeMap::new(), flows: BTreeSet::new() }
    }

    /// The gateway has forgotten everything, and must admit nothing that was begun before.
    pub(crate) fn forget(&mut self) {
        *self = Self::new(self.config);
    }

    /// What is wrong with what a gateway made of a packet.
    pub(crate) fn judge(&mut self, now: Instant, from: Side, before: Arrived, verdict: &Verdict) -> Option<String> {
        if let (Side::Inside, Some(sent)) = (from, before.flow)
            && self.is_held(sent, before.begins, verdict)
        {
            self.held.entry((sent.transport, sent.source)).or_default().insert(sent.destination, now);
            return None;
        }
        let Verdict::Forward(to, after) = verdict else { return None };
        if !before.is_v4 {
            return self.judge_ipv6(from, *to, before.endpoints?);
        }
        let flags = (before.begins, before.ends);
        let (before, after) = (before.flow?, after.flow()?);
        let external = before.destination;
        match (from, to) {
            (Side::Inside, Side::Outside) => self.judge_exit(now, before, after.source, flags),
            (Side::Outside, _) => self.judge_entry(now, before, after.destination, flags.1),
            // Between two hosts behind it. With its own address the source is no remote, and there is no filter.
            (Side::Inside, Side::Inside) if before.source == after.source => {
                let is_used =
                    self.used.get(&(before.transport, external)).is_some_and(|it| it.contains_key(&after.destination));
                (!is_used).then(|| format!("{before:?} reached {}, which does not use {external}", after.destination))
            }
            (Side::Inside, Side::Inside) => {
                let wrong = self.judge_exit(now, before, after.source, flags);
                let entry = self.judge_entry(now, Flow { source: after.source, ..before }, after.destination, flags.1);
                wrong.or(entry)
            }
        }
    }

    /// Whether a packet from inside is for another host behind this gateway, and only the filter of that one held it. Reasons
    /// for which a packet begins no flow of its sender either do not count; which they are the gateway is believed.
    fn is_held(&self, sent: Flow, begins: bool, verdict: &Verdict) -> bool {
        use DropReason::{Filtered, HoldQueueFull, Invalid, NoMapping, OwnEndpoint, SimultaneousOpen};
        if self.config.hairpin != Hairpin::ExternalSource || !self.owners.contains_key(sent.destination.ip()) {
            return false;
        }
        match verdict {
            Verdict::Held => sent.transport == Transport::Tcp,
            Verdict::Drop(Filtered | HoldQueueFull | NoMapping | OwnEndpoint | SimultaneousOpen) => true,
            // A first SYN is never invalid on its way out.
            Verdict::Drop(Invalid) => begins,
            // What the gateway answers in the name of the other host comes back to the sender.
            Verdict::Forward(Side::Inside, answer) => answer.flow() == Some(sent.reversed()),
            Verdict::Forward(Side::Outside, _) | Verdict::Untranslated(..) | Verdict::Reply(..) => false,
            Verdict::Drop(_) => false,
        }
    }

    /// A host has sent something that left from an external endpoint, which no other host may have in use.
    fn judge_exit(
        &mut self,
        now: Instant,
        sent: Flow,
        external: SocketAddrV4,
        (begins, ends): (bool, bool),
    ) -> Option<String> {
        let Flow { transport, source, destination: remote } = sent;
        self.owners.insert(*external.ip(), *source.ip());
        let users = self.used.entry((transport, external)).or_default();
        let is_begun = users.get(&source).is_some_and(|remotes| remotes.contains_key(&remote));
        let remotes = users.entry(source).or_default();
        let has_ended = ends || remotes.get(&remote).is_some_and(|spoken| spoken.has_ended && !begins);
        remotes.insert(remote, Spoken { at: now, has_ended });
        let overload = self.config.rules(transport).overload;
        let may_end =
            self.config.exhaustion == Exhaustion::EvictAny || self.config.icmp_errors == IcmpErrors::KillSession;
        if is_begun || may_end || overload == Overload::Always || self.config.port_control {
            return None;
        }
        let live = now - shortest(&self.config.timers, transport);
        let stands = |spoken: &Spoken| !spoken.has_ended && spoken.at >= live;
        let is_in_use = |(user, remotes): (&SocketAddrV4, &Remotes)| {
            let is_same = |(of, spoken): (&SocketAddrV4, &Spoken)| {
                stands(spoken) && (overload == Overload::Never || *of == remote)
            };
            user.ip() != source.ip() && remotes.iter().any(is_same)
        };
        let (user, _) = users.iter().find(|it| is_in_use(*it))?;
        Some(format!(
            "{source} sends to {remote} from {external} ({transport:?}), which another host has in use: {user}"
        ))
    }

    fn judge_entry(&mut self, now: Instant, came: Flow, reached: SocketAddrV4, ends: bool) -> Option<String> {
        let Flow { transport, source: remote, destination: external } = came;
        let rules = self.config.rules(transport);
        let wrong = |why: &str| {
            let external = format!("{external} ({transport:?})");
            Some(format!("a packet from {remote} to {external} was let in to {reached}: {why}"))
        };
        if self.config.port_control {
            return None;
        }
        if rules.filtering == Filtering::EndpointIndependent
            && matches!(rules.mapping, Mapping::None | Mapping::OneToOne)
        {
            let owner = if rules.mapping == Mapping::None {
                Some(*external.ip())
            } else {
                self.owners.get(external.ip()).copied()
            };
            let is_owner = owner == Some(*reached.ip()) && external.port() == reached.port();
            return if is_owner { None } else { wrong("the address is not that of this host") };
        }
        let live = now - longest(&self.config.timers, transport);
        let Some(users) = self.used.get_mut(&(transport, external)) else {
            return wrong("no host has sent anything from there");
        };
        let Some(remotes) = users.get(&reached) else { return wrong("another host has sent from there") };
        let is_fresh = |at: Instant| at >= live;
        let held = self.held.get(&(transport, reached));
        let of_host = SocketAddrV4::new(*remote.ip(), 0)..=SocketAddrV4::new(*remote.ip(), u16::MAX);
        let is_admitted = match rules.filtering {
            Filtering::EndpointIndependent => remotes.values().any(|spoken| is_fresh(spoken.at)),
            Filtering::AddressDependent => {
                remotes.range(of_host.clone()).any(|(_, spoken)| is_fresh(spoken.at))
                    || held.is_some_and(|held| held.range(of_host).any(|(_, at)| is_fresh(*at)))
            }
            Filtering::AddressAndPortDependent => {
                remotes.get(&remote).is_some_and(|spoken| is_fresh(spoken.at))
                    || held.and_then(|held| held.get(&remote)).is_some_and(|at| is_fresh(*at))
            }
        };
        if !is_admitted {
            return wrong("the filter does not admit it: the host has sent nothing there that would allow it");
        }
        let latest = || remotes.values().map(|spoken| spoken.at).max();
        let since = remotes.get(&remote).map(|spoken| spoken.at).or_else(latest).unwrap_or(Instant::ZERO);
        let is_of_another = |(user, theirs): (&SocketAddrV4, &Remotes)| {
            *user != reached && theirs.get(&remote).is_some_and(|it| it.at >= live && it.at > since)
        };
        if users.iter().any(is_of_another) {
            return wrong("it belongs to the flow of another host");
        }
        let has_ended = ends || remotes.get(&remote).is_some_and(|spoken| spoken.has_ended);
        users.entry(reached).or_default().insert(remote, Spoken { at: now, has_ended });
        None
    }

    fn judge_ipv6(&mut self, from: Side, to: Side, ends: (Transport, SocketAddr, SocketAddr)) -> Option<String> {
        let (transport, source, destination) = ends;
        let wrong = || Some(format!("an IPv6 packet from {source} to {destination} ({transport:?}) was let in"));
        match (self.config.ipv6, from, to) {
            (Ipv6::Open, ..) => None,
            (Ipv6::Stateful, Side::Inside, _) => {
                self.flows.insert(ends);
                None
            }
            (Ipv6::Stateful, ..) => {
                if self.flows.contains(&(transport, destination, source)) {
                    None
                } else {
                    wrong()
                }
            }
            (Ipv6::Drop, ..) => wrong(),
        }
    }
}

/// How long a flow may be silent at least that nobody ends.
fn shortest(timers: &Timers, transport: Transport) -> Duration {
    let Timers { syn_sent, syn_received, established, unacknowledged, .. } = *timers;
    match transport {
        Transport::Tcp => syn_sent.min(syn_received).min(established).min(unacknowledged),
        Transport::Udp => timers.udp_new.min(timers.udp_stream),
        Transport::Icmp => timers.icmp,
    }
}

/// How long a flow may be silent at most and be remembered.
fn longest(timers: &Timers, transport: Transport) -> Duration {
    let Timers { syn_sent, syn_received, established, fin_wait, close_wait, .. } = *timers;
    let Timers { last_ack, time_wait, close, unacknowledged, .. } = *timers;
    let tcp = [syn_sent, syn_received, established, fin_wait, close_wait, last_ack, time_wait, close, unacknowledged];
    match transport {
        Transport::Tcp => tcp.into_iter().max().unwrap_or_default(),
        // A fragment begins a flow with the time of a handshake.
        Transport::Udp => timers.udp_new.max(timers.udp_stream).max(syn_sent),
        Transport::Icmp => timers.icmp.max(syn_sent),
    }
}

#[cfg(test)]
mod tests;
