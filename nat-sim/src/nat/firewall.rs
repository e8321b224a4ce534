//! IPv6 through the gateway: never translated, at most filtered (RFC 6092).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use fmi_net::time::Instant;

use super::behavior::{Exhaustion, Ipv6, NatConfig};
use super::{DropReason, Nat, Side, Verdict};
use crate::packet::{Packet, Segment, Transport};

/// Transport, inside, outside.
type Key = (Transport, SocketAddr, SocketAddr);

/// How far a flow of TCP has come. UDP stands from its first datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Standing,
    /// One side has sent a FIN; whether it was the inside.
    Closing {
        by_inside: bool,
    },
    /// FINs from both sides.
    Closed,
    Reset,
}

impl Phase {
    fn after(self, from: Side, segment: Segment) -> Self {
        let is_inside = from == Side::Inside;
        match self {
            // A SYN of the inside opens the next connection of these endpoints.
            Self::Closed | Self::Reset if is_inside && segment.is_first_syn() => Self::Opening,
            _ if segment.rst => Self::Reset,
            Self::Opening | Self::Standing if segment.fin => Self::Closing { by_inside: is_inside },
            Self::Closing { by_inside } if segment.fin && by_inside != is_inside => Self::Closed,
            Self::Opening if segment.ack && !segment.syn => Self::Standing,
            Self::Opening | Self::Standing | Self::Closing { .. } | Self::Closed | Self::Reset => self,
        }
    }

    fn idle(self, config: &NatConfig, transport: Transport) -> Duration {
        let timers = &config.timers;
        match (transport, self) {
            (Transport::Udp | Transport::Icmp, _) => timers.udp_stream,
            (Transport::Tcp, Self::Opening) => timers.syn_sent,
            (Transport::Tcp, Self::Standing) => timers.established,
            (Transport::Tcp, Self::Closing { .. }) => timers.fin_wait,
            (Transport::Tcp, Self::Closed) => timers.time_wait,
            (Transport::Tcp, Self::Reset) => timers.close,
        }
    }

    fn is_closing(self) -> bool {
        matches!(self, Self::Closing { .. } | Self::Closed | Self::Reset)
    }
}

#[derive(Clone, Copy, Debug)]
struct Passing {
    phase: Phase,
    until: Instant,
}

/// Flows that the inside has begun.
#[derive(Clone, Debug, Default)]
pub(super) struct Firewall {
    flows: BTreeMap<Key, Passing>,
    /// When flows end that are not closing.
    deadlines: BTreeSet<(Instant, Key)>,
    /// When closing ones end.
    closing: BTreeSet<(Instant, Key)>,
}

impl Firewall {
    fn set_of(&mut self, phase: Phase) -> &mut BTreeSet<(Instant, Key)> {
        if phase.is_closing() { &mut self.closing } else { &mut self.deadlines }
    }

    fn expire(&mut self, now: Instant) {
        let due = |set: &BTreeSet<(Instant, Key)>| set.first().filter(|(until, _)| *until <= now).map(|(_, key)| *key);
        while let Some(key) = due(&self.closing).or_else(|| due(&self.deadlines)) {
            self.end(key);
        }
    }

    /// Makes room for a flow; whether there is some.
    fn make_room(&mut self, config: &NatConfig) -> bool {
        if self.flows.len() < config.limits.sessions_max {
            return true;
        }
        let ends_first = match config.exhaustion {
            Exhaustion::Drop | Exhaustion::Icmp { .. } => None,
            Exhaustion::EvictClosing => self.closing.first(),
            Exhaustion::EvictAny => self.closing.first().into_iter().chain(self.deadlines.first()).min(),
        };
        let Some((_, key)) = ends_first.copied() else { return false };
        self.end(key);
        true
    }

    fn end(&mut self, key: Key) {
        if let Some(Passing { phase, until }) = self.flows.remove(&key) {
            self.set_of(phase).remove(&(until, key));
        }
    }

    /// Takes a packet of a flow that passes.
    fn touch(&mut self, now: Instant, config: &NatConfig, from: Side, key: Key, segment: Option<Segment>) {
        let known = self.flows.get(&key).map(|flow| flow.phase);
        let old = known.unwrap_or(Phase::Opening);
        let phase = segment.map_or(old, |segment| old.after(from, segment));
        if known.is_none() && phase == Phase::Reset {
            return;
        }
        self.end(key);
        let until = now + phase.idle(config, key.0);
        self.flows.insert(key, Passing { phase, until });
        self.set_of(phase).insert((until, key));
    }
}

impl Nat {
    pub(super) fn pass_ipv6(&mut self, now: Instant, from: Side, mut packet: Packet) -> Verdict {
        self.firewall.expire(now);
        // A report that a packet was too big belongs to the flow of that packet (RFC 4890 §4.3.1).
        let report = packet.icmpv6_too_big().map(|report| (Transport::Tcp, report.remote, report.local));
        let is_report = report.is_some();
        let Some((transport, source, destination)) = report.or_else(|| packet.endpoints()) else {
            return Verdict::Drop(DropReason::NotTranslated);
        };
        if !packet.decrement_hop_limit() {
            return Verdict::Drop(DropReason::HopLimit);
        }
        let (key, to) = match from {
            Side::Inside => ((transport, source, destination), Side::Outside),
            Side::Outside => ((transport, destination, source), Side::Inside),
        };
        match self.config.ipv6 {
            Ipv6::Drop => return Verdict::Drop(DropReason::Ipv6),
            Ipv6::Open => return Verdict::Forward(to, packet),
            Ipv6::Stateful => {}
        }
        if !self.firewall.flows.contains_key(&key) {
            match from {
                Side::Outside => return Verdict::Drop(DropReason::Filtered),
                Side::Inside if is_report => return Verdict::Drop(DropReason::NoMapping),
                Side::Inside if !self.firewall.make_room(&self.config) => return Verdict::Drop(DropReason::Exhausted),
                Side::Inside => {}
            }
        }
        if !is_report {
            self.firewall.touch(now, &self.config, from, key, packet.segment());
        }
        Verdict::Forward(to, packet)
    }
}
