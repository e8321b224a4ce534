//! The group as a whole: its channels, its control channel, and how a rank leaves.

use std::task::{Context, Poll, Waker};

use super::Engine;
use crate::channel::{Channel, Mode};
use crate::proto::group::{Input, OpId};
use crate::proto::rendezvous::ClientMessage;

impl Engine {
    /// The channels, by slot.
    pub(crate) fn channels(&self) -> impl Iterator<Item = &dyn Channel> {
        self.lanes.iter().flatten().map(|lane| &*lane.channel)
    }

    /// Gives up the channel of a group of two.
    pub(crate) fn take_channel(&mut self) -> Option<Box<dyn Channel>> {
        self.lanes.iter_mut().find_map(Option::take).map(|lane| lane.channel)
    }

    /// Number of processes of the whole group.
    pub(crate) fn channels_max(&self) -> usize {
        self.lanes.len()
    }

    pub(super) fn say_whether_it_hears(&mut self) {
        let hears = self.control.is_some() && self.formed;
        self.group.handle_input(self.now, Input::Hears(hears));
    }

    pub(crate) fn say_goodbye(&mut self) {
        if let Some(control) = &mut self.control
            && self.formed
        {
            let goodbye = if self.group.has_failed() {
                ClientMessage::Fail(self.session)
            } else {
                ClientMessage::Leave(self.session)
            };
            control.queue(&goodbye.emit());
            self.formed = false;
        }
    }

    pub(crate) fn mark_formed(&mut self) {
        self.formed = true;
        self.looks_at_control = true;
        self.channels().for_each(|channel| channel.settle(self.keepalive));
        if let Some(control) = &mut self.control {
            control.queue(&ClientMessage::Formed(self.session).emit());
        }
        self.flush_control();
        self.say_whether_it_hears();
    }

    /// Sends what the control channel takes without waiting.
    pub(super) fn flush_control(&mut self) {
        self.looks_at_control = true;
        let mut cx = Context::from_waker(Waker::noop());
        if let Some(control) = &mut self.control
            && let Poll::Ready(Err(_)) = control.poll_flush(&mut cx)
        {
            self.control = None;
        }
    }

    /// Sends what is queued on all channels; ready when nothing is left.
    pub(crate) fn poll_flush_lanes(&mut self, call: Option<(OpId, &Waker)>) -> Poll<()> {
        let mut left = false;
        for lane in self.lanes.iter_mut().flatten().filter(|lane| lane.channel.has_queued()) {
            let events = lane.writers.events();
            if lane.channel.is_mid_frame() {
                // It goes when the operation's frame is sent whose turn it is.
                if let Some((id, _)) = call {
                    lane.put_behind(&mut self.listings, id);
                }
                left = true;
                continue;
            }
            // A broken channel shows at its next use.
            if lane.channel.poll_flush(Mode::Park(&lane.write_waker)).is_ready() {
                continue;
            }
            left = true;
            if let Some((id, waker)) = call {
                self.listings.note(id, lane.slot);
                if !lane.writers.wait(id, waker, events) {
                    self.to_wake.push(waker.clone());
                }
            }
        }
        if left { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Makes progress without an operation.
    pub(crate) fn poll_progress(&mut self, cx: &mut Context<'_>, id: OpId) {
        self.now = self.clock.now();
        let events = self.common.events();
        // What it waits for, operations wait for as well.
        self.common.add(id, cx.waker());
        let common = self.common_waker.clone();
        let mut shared = Context::from_waker(&common);
        self.poll_notices(&mut shared);
        self.poll_upgrade(&mut shared);
        self.common.looked(events);
        self.serve_others(cx.waker(), id);
        let _ = self.poll_flush_lanes(Some((id, cx.waker())));
    }

    /// Moves what moves whatever is polled, for what waits and is no operation.
    fn serve_others(&mut self, waker: &Waker, id: OpId) {
        if self.tasks.is_empty() && self.owed.is_empty() {
            return;
        }
        self.retry_blocked();
        loop {
            self.listen(Mode::Park(waker), id);
            self.drain();
            if !self.run_due(Mode::Park(waker)) {
                break;
            }
        }
    }

    /// An identity for what waits and is no operation. It ends by [`Engine::retire`].
    pub(crate) fn visitor(&mut self) -> OpId {
        self.group.visitor()
    }

    pub(crate) fn retire(&mut self, id: OpId) {
        self.common.remove(id);
        for lane in self.lanes.iter_mut().flatten() {
            lane.forget(id);
        }
        if !self.tasks.is_empty() {
            // Tasks may be enlisted with its waker.
            self.wake_another();
        }
    }

    /// Leaves: says so to the rendezvous and, if it is the last communicator that is `left`, to all peers, and reads on until
    /// they leave as well. Operations of other communicators may wait for the same channels, so that these wake all who
    /// wait.
    pub(crate) fn poll_leave(
        &mut self,
        cx: &mut Context<'_>,
        id: OpId,
        left: Option<u64>,
        open: &mut Vec<bool>,
    ) -> Poll<()> {
        open.resize(self.lanes.len(), true);
        self.common.add(id, cx.waker());
        let common = self.common_waker.clone();
        // A rendezvous that is stuck keeps no peer waiting.
        let is_told =
            self.control.as_mut().is_none_or(|it| it.poll_flush(&mut Context::from_waker(&common)).is_ready());
        // What is still to be sent waits for word of its receivers.
        self.serve_others(cx.waker(), id);
        let owed = |slot: usize| self.owed.values().any(|owed| owed.peer.index() == slot);
        let is_owed: Vec<bool> = (0..self.lanes.len()).map(owed).collect();
        if let Some(communicator) = left {
            // Behind all that goes to each of them.
            self.group.say_goodbye(communicator, |peer| !is_owed[peer.index()]);
            self.drain();
        }
        let lanes = self.lanes.iter_mut().zip(&mut *open).zip(is_owed);
        for ((lane, open), is_owed) in lanes.filter(|((_, open), _)| **open) {
            if is_owed {
                continue;
            }
            *open = lane.as_mut().is_some_and(|lane| {
                if left.is_some() {
                    return lane.channel.poll_close(cx.waker()).is_pending();
                }
                lane.writers.add(id, cx.waker());
                lane.channel.has_queued() && lane.channel.poll_flush(Mode::Park(&lane.write_waker)).is_pending()
            });
        }
        if open.contains(&true) || !is_told { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Whether something is still on its way on a connection that is open, as far as that is known.
    pub(crate) fn is_unacknowledged(&self, open: &[bool]) -> bool {
        let lanes = self.lanes.iter().zip(open).filter_map(|(lane, open)| lane.as_ref().filter(|_| *open));
        lanes.filter_map(|lane| lane.channel.is_acknowledged()).any(|is_acknowledged| !is_acknowledged)
    }

    /// Looks for direct connections in place of relayed ones.
    pub(super) fn poll_upgrade(&mut self, cx: &mut Context<'_>) {
        while let Some(upgrade) = self.upgrade.as_mut().filter(|_| self.formed) {
            let Poll::Ready((peer, better)) = upgrade.poll(cx) else { return };
            tracing::info!(rank = %self.me, peer, technique = %better.info().technique, "upgraded to a direct connection");
            better.settle(self.keepalive);
            if let Some(lane) = self.lanes.get_mut(peer as usize).and_then(Option::as_mut) {
                self.paths[peer as usize] = Some(better.info().path);
                lane.channel.switch_to(better);
                // The peer's next frame may be there already.
                lane.wake_all();
                cx.waker().wake_by_ref();
            }
        }
    }
}
