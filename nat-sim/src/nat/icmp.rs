//! ICMP errors about sessions. They neither refresh nor end one (RFC 5508 REQ-6), unless the
//! gateway is told to be broken.

use std::net::SocketAddrV4;

use fmi_net::time::Instant;

use super::behavior::IcmpErrors;
use super::{DropReason, Nat, Side, Verdict};
use crate::packet::{Flow, Packet};

impl Nat {
    /// An error from outside about a packet that went out. RFC 5508 REQ-4.
    pub(super) fn inbound_error(&mut self, now: Instant, packet: Packet) -> Verdict {
        let quoted = match quoted(&packet) {
            Ok(quoted) => quoted,
            Err(reason) => return Verdict::Drop(reason),
        };
        if self.config.icmp_errors == IcmpErrors::Ignore {
            return Verdict::Drop(DropReason::IcmpIgnored);
        }
        let session = self.tables.by_outside(quoted.transport, quoted.source, quoted.destination);
        let Some(id) = session.filter(|id| self.tables.session(*id).mapping.is_some()) else {
            return Verdict::Drop(DropReason::NoMapping);
        };
        let (internal, shift) = (self.tables.session(id).internal, self.tables.session(id).shift);
        let verdict = forwarded(Side::Inside, packet, |packet| {
            packet.rewrite_error(None, Flow { source: internal, ..quoted }, Some(*internal.ip()), shift.wrapping_neg());
        });
        if self.config.icmp_errors == IcmpErrors::KillSession {
            self.end(now, id);
        }
        verdict
    }

    /// An error from inside about a packet that came in. RFC 5508 REQ-5; hairpinned, REQ-7.
    pub(super) fn outbound_error(&mut self, now: Instant, packet: Packet) -> Verdict {
        let quoted = match quoted(&packet) {
            Ok(quoted) => quoted,
            Err(reason) => return Verdict::Drop(reason),
        };
        let session = self.tables.by_inside(quoted.transport, quoted.destination, quoted.source);
        let Some(id) = session else { return Verdict::Drop(DropReason::NoMapping) };
        let external: SocketAddrV4 = self.tables.session(id).external;
        let verdict = forwarded(Side::Outside, packet, |packet| {
            packet.rewrite_error(Some(*external.ip()), Flow { destination: external, ..quoted }, None, 0);
        });
        let is_hairpin = self.is_mine(*quoted.source.ip());
        if let (Verdict::Forward(_, packet), true) = (&verdict, is_hairpin) {
            return self.inbound_error(now, packet.clone());
        }
        verdict
    }
}

/// The flow that an error is about, if the error is sound (RFC 5508 REQ-3).
fn quoted(packet: &Packet) -> Result<Flow, DropReason> {
    let error = packet.icmp_error().ok_or(DropReason::NotTranslated)?;
    let is_sound = packet.checksums_are_valid() && packet.quoted_header_is_valid();
    if is_sound { Ok(error.quoted) } else { Err(DropReason::BadChecksum) }
}

fn forwarded(side: Side, mut packet: Packet, rewrite: impl FnOnce(&mut Packet)) -> Verdict {
    if !packet.decrement_hop_limit() {
        return Verdict::Drop(DropReason::HopLimit);
    }
    rewrite(&mut packet);
    Verdict::Forward(side, packet)
}
