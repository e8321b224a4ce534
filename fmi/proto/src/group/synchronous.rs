//! Synchronous sends: whoever receives such a message says so as soon as a receive has got it, whether that is polled or
//! not. A probe is no receive. Word that comes late, twice or for nothing is ignored.

use super::{Group, OpId, Output, What};
use crate::frame::{Envelope, Kind};
use crate::rank::Slot;

impl Group {
    /// Notes that a send, whose message has this number, waits until a receive has got that.
    pub fn expect_match(&mut self, id: OpId, number: u64) {
        let Some(op) = self.operations.get_mut(id) else { return };
        if let What::Send(to) = op.what {
            op.unmatched = Some((number, false));
            self.unmatched.insert((op.communicator, to, number), id);
        }
    }

    /// Notes that the frame of a send that goes on waiting is sent: the next one may begin.
    pub fn sent(&mut self, id: OpId) {
        if let Some(What::Send(to)) = self.operations.get(id).map(|op| op.what) {
            self.wake_next_send(to);
        }
    }

    /// Whether a receive has got the message of a synchronous send.
    pub fn is_matched(&self, id: OpId) -> bool {
        self.operations.get(id).is_some_and(|op| op.unmatched.is_some_and(|(_, is_matched)| is_matched))
    }

    /// Notes that a receive takes its message, if it has it already or when it gets it.
    pub fn take(&mut self, id: OpId) {
        if let Some(op) = self.operations.get_mut(id).filter(|op| !op.takes) {
            op.takes = true;
            self.acknowledge(id);
        }
    }

    /// Tells the sender of a synchronous message that a receive has got it.
    pub(super) fn acknowledge(&mut self, id: OpId) {
        let Some(op) = self.operations.get(id).filter(|op| op.takes) else { return };
        let Some(matched) = op.matched.filter(|matched| matched.envelope.synchronous) else { return };
        let Envelope { communicator, epoch, sequence, .. } = matched.envelope;
        let envelope = Envelope { communicator, epoch, sequence, ..Envelope::new(Kind::Matched) };
        if matched.peer == self.me {
            self.acknowledged(self.me, &envelope);
        } else if self.is_up(matched.peer) {
            self.outputs.push_back(Output::Tell { peer: matched.peer, envelope, payload: Vec::new() });
        }
    }

    /// Takes word of `peer` that a receive has got a message of this process.
    pub(super) fn acknowledged(&mut self, peer: Slot, word: &Envelope) {
        let id = self.unmatched.get(&(word.communicator, peer, word.sequence)).copied();
        let Some(op) = id.and_then(|id| self.operations.get_mut(id)) else { return };
        // Nothing can be received before it is sent; a peer that says so is not believed.
        if op.begun {
            op.unmatched = op.unmatched.map(|(number, _)| (number, true));
            self.outputs.push_back(Output::Wake(op.id));
        }
    }

    /// Panics unless each send that waits is known.
    pub(super) fn check_synchronous(&self) {
        for ((communicator, to, number), id) in &self.unmatched {
            let op = self.operations.get(*id).expect("a send is unmatched as long as it lives");
            assert_eq!((op.communicator, op.what), (*communicator, What::Send(*to)), "a send is found by its number");
            assert!(op.unmatched.is_some_and(|(own, _)| own == *number), "a send is found by its number");
        }
    }
}
