//! IPv6 through the gateway: never translated, at most filtered (RFC 6092).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use fmi_net::time::Instant;

use super::behavior::Ipv6;
use super::{DropReason, Nat, Side, Verdict};
use crate::packet::{Packet, Transport};

/// Transport, inside, outside.
type Key = (Transport, SocketAddr, SocketAddr);

/// Flows that the inside has begun.
#[derive(Clone, Debug, Default)]
pub(super) struct Firewall {
    flows: BTreeMap<Key, Instant>,
    deadlines: BTreeSet<(Instant, Key)>,
}

impl Firewall {
    fn expire(&mut self, now: Instant) {
        while let Some(&(until, key)) = self.deadlines.first() {
            if until > now {
                return;
            }
            self.deadlines.pop_first();
            self.flows.remove(&key);
        }
    }

    fn touch(&mut self, key: Key, until: Instant) {
        if let Some(old) = self.flows.insert(key, until) {
            self.deadlines.remove(&(old, key));
        }
        self.deadlines.insert((until, key));
    }
}

impl Nat {
    pub(super) fn pass_ipv6(&mut self, now: Instant, from: Side, mut packet: Packet) -> Verdict {
        self.firewall.expire(now);
        let Some((transport, source, destination)) = packet.endpoints() else {
            return Verdict::Drop(DropReason::NotTranslated);
        };
        if !packet.decrement_hop_limit() {
            return Verdict::Drop(DropReason::HopLimit);
        }
        let (key, to) = match from {
            Side::Inside => ((transport, source, destination), Side::Outside),
            Side::Outside => ((transport, destination, source), Side::Inside),
        };
        let idle = match transport {
            Transport::Tcp => self.config.timers.established,
            Transport::Udp | Transport::Icmp => self.config.timers.udp_stream,
        };
        match (self.config.ipv6, from) {
            (Ipv6::Drop, _) => return Verdict::Drop(DropReason::Ipv6),
            (Ipv6::Open, _) => {}
            (Ipv6::Stateful, Side::Outside) if !self.firewall.flows.contains_key(&key) => {
                return Verdict::Drop(DropReason::Filtered);
            }
            (Ipv6::Stateful, Side::Inside) if self.firewall.flows.len() >= self.config.limits.sessions_max => {
                return Verdict::Drop(DropReason::Exhausted);
            }
            (Ipv6::Stateful, _) => self.firewall.touch(key, now + idle),
        }
        Verdict::Forward(to, packet)
    }
}
