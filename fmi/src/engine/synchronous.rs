//! Waits until the receiver of a message says that a receive has got it.

use std::task::Poll;

use super::transfer::Passed;
use super::{Call, Engine};
use crate::channel::Mode;
use crate::error::Result;
use crate::proto::group::WaitsFor;
use crate::proto::rank::Slot;

impl Engine {
    /// Ready once a receive of `peer` has got the message of a synchronous send, which is sent.
    pub(crate) fn poll_matched(&mut self, mode: Mode<'_>, call: &mut Call, peer: Slot) -> Poll<Result<()>> {
        loop {
            if self.group.is_matched(call.id) {
                return Poll::Ready(Ok(()));
            }
            self.check(call)?;
            if peer == self.me || self.group.is_suspicious(call.id) {
                return Poll::Pending;
            }
            call.waits_for = WaitsFor::default();
            call.waits_for.add(peer);
            if self.lane_is_closed(peer) && !self.reach(call, peer)? {
                return Poll::Pending;
            }
            match self.pass(mode, call.id, peer) {
                Passed::Other => {}
                Passed::Mine => panic!("a send owns no frame of its peer"),
                Passed::Blocked if self.group.is_matched(call.id) => {}
                Passed::Blocked => {
                    self.check(call)?;
                    return Poll::Pending;
                }
            }
        }
    }

    fn lane_is_closed(&self, peer: Slot) -> bool {
        self.lanes[peer.index()].is_none()
    }
}
