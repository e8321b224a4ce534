//! What becomes of packets that are not let through: answers, silence, waiting, memory of them.

use std::net::SocketAddrV4;

use fmi_net::time::Instant;

use super::behavior::{Exhaustion, Hairpin, Invalid, Midstream, OnEcho, OnStray, OnSyn, Tracking};
use super::tracker::{Seen, Track};
use super::{DropReason, Nat, Refusal, Side, Verdict};
use crate::packet::{Flow, Packet, Transport};

/// The gateway's answer, or silence where there is none.
pub(super) fn reply_or(side: Side, reply: Option<Packet>, reason: DropReason) -> Verdict {
    reply.map_or(Verdict::Drop(reason), |packet| Verdict::Reply(side, packet))
}

impl Nat {
    /// The hop limit of a packet is used up (RFC 792). ICMP is not answered (RFC 1122).
    pub(super) fn expired_in_transit(&self, from: Side, packet: &Packet) -> Verdict {
        reply_or(from, packet.time_exceeded_reply(self.external()), DropReason::HopLimit)
    }

    pub(super) fn invalid_outbound(&self, packet: Packet) -> Verdict {
        match self.config.tracking {
            Tracking::Linux(Invalid::Leak) => Verdict::Untranslated(Side::Outside, packet),
            Tracking::Linux(Invalid::Drop | Invalid::Translate) | Tracking::Flags => Verdict::Drop(DropReason::Invalid),
        }
    }

    pub(super) fn refuse_outbound(&self, packet: Packet, refusal: &Refusal) -> Verdict {
        match refusal {
            Refusal::Invalid => self.invalid_outbound(packet),
            Refusal::Midstream if self.config.midstream == Midstream::Reset => {
                reply_or(Side::Inside, packet.reset_reply(), DropReason::Midstream)
            }
            Refusal::Midstream => Verdict::Drop(DropReason::Midstream),
            Refusal::Full(reason) => match self.config.exhaustion {
                Exhaustion::Icmp { code } => {
                    reply_or(Side::Inside, packet.unreachable_reply(self.external(), code), *reason)
                }
                Exhaustion::Drop | Exhaustion::EvictClosing | Exhaustion::EvictAny => Verdict::Drop(*reason),
            },
            Refusal::Drop(reason) => Verdict::Drop(*reason),
        }
    }

    /// A packet from inside for an address of the gateway, which does not hairpin.
    pub(super) fn turn_away_hairpin(&mut self, now: Instant, mut packet: Packet, flow: Flow) -> Verdict {
        match self.config.hairpin {
            Hairpin::Reset => {
                let code = 3;
                let answer = packet.reset_reply().or_else(|| packet.echo_reply()).or_else(|| {
                    let is_datagram = flow.transport == Transport::Udp;
                    packet.unreachable_reply(*flow.destination.ip(), code).filter(|_| is_datagram)
                });
                reply_or(Side::Inside, answer, DropReason::NoHairpin)
            }
            Hairpin::InternalSource => {
                // The source stays, so the answer will not come this way.
                let mapping = self.tables.mappings_at(flow.transport, flow.destination).first().copied();
                let Some(mapping) = mapping else { return self.refuse(now, packet, DropReason::NoMapping) };
                let internal = self.tables.mapping(mapping).key.internal;
                if internal == flow.source {
                    return Verdict::Drop(DropReason::OwnEndpoint);
                }
                packet.set_destination(internal);
                Verdict::Forward(Side::Inside, packet)
            }
            Hairpin::Drop | Hairpin::ExternalSource => Verdict::Drop(DropReason::NoHairpin),
        }
    }

    /// A packet from outside that nothing inside asked for.
    pub(super) fn refuse(&mut self, now: Instant, packet: Packet, reason: DropReason) -> Verdict {
        let Some(flow) = packet.flow() else { return Verdict::Drop(reason) };
        let rules = self.config.unsolicited;
        let code = 3;
        match (flow.transport, packet.segment()) {
            (Transport::Icmp, _) => {
                let answer = match rules.echo {
                    OnEcho::Drop => None,
                    OnEcho::Reply => packet.echo_reply(),
                    OnEcho::Icmp { code } => packet.unreachable_reply(*flow.destination.ip(), code),
                };
                reply_or(Side::Outside, answer, reason)
            }
            (Transport::Tcp, Some(segment)) if segment.is_first_syn() => self.refuse_syn(now, packet, flow, reason),
            (transport, _) => {
                let rule = if transport == Transport::Tcp { rules.segment } else { rules.datagram };
                match rule {
                    OnStray::Drop => Verdict::Drop(reason),
                    OnStray::Reset => reply_or(Side::Outside, packet.reset_reply(), reason),
                    OnStray::Icmp { code } => {
                        reply_or(Side::Outside, packet.unreachable_reply(*flow.destination.ip(), code), reason)
                    }
                    OnStray::Sink => {
                        self.remember_own(now, flow, &packet);
                        Verdict::Drop(reason)
                    }
                    OnStray::OwnStack if transport == Transport::Tcp => {
                        reply_or(Side::Outside, packet.reset_reply(), reason)
                    }
                    OnStray::OwnStack => {
                        self.remember_own(now, flow, &packet);
                        reply_or(Side::Outside, packet.unreachable_reply(*flow.destination.ip(), code), reason)
                    }
                }
            }
        }
    }

    fn refuse_syn(&mut self, now: Instant, packet: Packet, flow: Flow, reason: DropReason) -> Verdict {
        match self.config.unsolicited.syn {
            OnSyn::Drop => Verdict::Drop(reason),
            OnSyn::Reset => reply_or(Side::Outside, packet.reset_reply(), reason),
            OnSyn::Icmp { code } => {
                reply_or(Side::Outside, packet.unreachable_reply(*flow.destination.ip(), code), reason)
            }
            OnSyn::Hold { .. } if self.held.len() >= self.config.limits.held_max => {
                Verdict::Drop(DropReason::HoldQueueFull)
            }
            OnSyn::Hold { time, .. } => {
                self.held.push_back((now + time, packet));
                Verdict::Held
            }
            OnSyn::Sink => {
                self.remember_own(now, flow, &packet);
                Verdict::Drop(reason)
            }
        }
    }

    /// The gateway's tracker takes a flow for its own: nobody inside gets that port towards that
    /// remote while it lasts.
    fn remember_own(&mut self, now: Instant, flow: Flow, packet: &Packet) {
        let is_known = self.tables.by_outside(flow.transport, flow.destination, flow.source).is_some();
        let begins = packet.segment().is_none_or(|segment| segment.has_sane_flags() && !segment.rst && !segment.fin);
        if is_known || !begins || self.tables.sessions.len() >= self.config.limits.sessions_max {
            return;
        }
        let track = Track::Own { is_tcp_open: packet.segment().is_some_and(|segment| !segment.syn) };
        let Flow { transport, source: remote, destination: external } = flow;
        let id = self.tables.add_session(transport, external, external, remote, None, Side::Outside, now, track);
        self.step(now, id, Seen::of(packet, Side::Outside));
    }

    /// RFC 5382 REQ-4: an outbound SYN to where a held SYN came from discards that one in silence.
    pub(super) fn drop_held(&mut self, flow: Flow, external: SocketAddrV4) {
        if self.held.is_empty() || flow.transport != Transport::Tcp {
            return;
        }
        let before = self.held.len();
        self.held.retain(|(_, packet)| {
            packet.flow().is_none_or(|held| (held.source, held.destination) != (flow.destination, external))
        });
        for _ in self.held.len()..before {
            self.follows.push_back(Verdict::Drop(DropReason::HeldAndMatched));
        }
    }
}
