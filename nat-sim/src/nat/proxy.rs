//! A gateway that ends TCP connections and makes its own (passt, slirp4netns, gVisor).
//!
//! Its outer connection uses the guest's sequence numbers, so that everything after the handshakes
//! can be passed on as it is. What differs is seen at the beginning: a guest is answered only when
//! the outer handshake has ended, and a simultaneous open happens between the proxy and the outside.

use super::table::SessionId;
use super::tracker::{Proxied, Track};
use super::{Nat, Side, Verdict};
use crate::packet::{Packet, Segment};

impl Nat {
    /// What the proxy's own stack does with a segment from outside; `None` if it passes it on.
    pub(super) fn step_proxy(&mut self, id: SessionId, packet: &Packet) -> Option<Verdict> {
        let segment = packet.segment()?;
        let session = self.tables.session_mut(id);
        let (external, internal, remote) = (session.external, session.internal, session.remote);
        let Track::Proxied(proxied) = &mut session.track else { return None };
        let handshake = |sequence: u32, acknowledgement: u32| Segment {
            syn: true,
            ack: true,
            sequence,
            acknowledgement,
            window: segment.window,
            ..Segment::NONE
        };
        match **proxied {
            Proxied { guest_isn, ref mut met, is_open: false, .. } if segment.syn && !segment.ack => {
                *met = Some(segment.sequence);
                let answer = handshake(guest_isn, segment.sequence.wrapping_add(1));
                Some(Verdict::Reply(Side::Outside, Packet::tcp(external, remote, answer, &[])))
            }
            Proxied { guest_isn, met: Some(isn), ref mut is_open, .. } if !*is_open && segment.ack && !segment.rst => {
                *is_open = true;
                let answer = handshake(isn, guest_isn.wrapping_add(1));
                Some(Verdict::Reply(Side::Inside, Packet::tcp(remote, internal, answer, &[])))
            }
            Proxied { ref mut is_open, .. } => {
                *is_open |= segment.syn && segment.ack;
                None
            }
        }
    }
}
