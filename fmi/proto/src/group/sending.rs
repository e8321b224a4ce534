//! The order of messages to one rank: that of the calls.

use super::operation::{Op, Operations};
use super::{Group, OpId, Output, What};
use crate::rank::Slot;

impl Group {
    /// Whether a send may begin: none that was called earlier and goes to the same rank is still to begin.
    #[inline]
    pub fn may_begin(&mut self, id: OpId) -> bool {
        let Some(Op { what: What::Send(to), begun, .. }) = self.operations.get(id) else { return true };
        if *begun {
            return true;
        }
        let waiting = |operations: &Operations, id: OpId| operations.get(id).is_some_and(Op::waits_to_begin);
        let sends = &mut self.peers[to.index()].sends;
        while sends.front().is_some_and(|first| !waiting(&self.operations, *first)) {
            sends.pop_front();
        }
        sends.front() == Some(&id)
    }

    /// Notes that the frame of a send is partly sent: it will be sent whole, and the next one may follow.
    #[inline]
    pub fn begun(&mut self, id: OpId) {
        if let Some(op) = self.operations.get_mut(id)
            && !std::mem::replace(&mut op.begun, true)
            && let What::Send(to) = op.what
        {
            self.wake_next_send(to);
        }
    }

    /// The next send to `to` may begin.
    pub(super) fn wake_next_send(&mut self, to: Slot) {
        let sends = &mut self.peers[to.index()].sends;
        while let Some(first) = sends.front() {
            match self.operations.get(*first) {
                Some(op) if op.waits_to_begin() => {
                    self.outputs.push_back(Output::Wake(*first));
                    return;
                }
                Some(_) | None => drop(sends.pop_front()),
            }
        }
    }
}
