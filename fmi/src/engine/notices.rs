//! Word of failures: to peers and to the rendezvous, and from it.

use std::task::{Context, Poll};

use super::Engine;
use crate::channel::Mode;
use crate::error::ErrorKind;
use crate::proto::group::Input;
use crate::proto::rank::Slot;
use crate::proto::rendezvous::{ClientMessage, ServerMessage};
use crate::time::Instant;

impl Engine {
    /// Sends control frames, once no frame that is partly sent is in their way. A rank that cannot be told of a
    /// failure finds its connection closed, unless other communicators use it.
    pub(super) fn send_notices(&mut self) {
        self.notices_due = false;
        let is_only = self.communicators == 1;
        for slot in Slot::all(u32::try_from(self.lanes.len()).expect("a group has at most SIZE_MAX members")) {
            let Some(lane) = self.lanes[slot.index()].as_mut().filter(|lane| lane.channel.has_queued()) else {
                continue;
            };
            if lane.channel.poll_flush(Mode::Park(&lane.write_waker)).is_ready() {
                continue;
            }
            if lane.channel.is_mid_frame() {
                self.notices_due = true;
            } else if is_only && !lane.channel.sends_later() {
                let kind = ErrorKind::ConnectionLost("the peer could not be told of a failure here".into());
                self.group.handle_input(self.now, Input::Broken { peer: slot, kind });
                self.close_lane(slot);
                self.drain();
            }
        }
    }

    /// Tells the rendezvous that the connection to `peer` broke, which it passes on.
    pub(super) fn report(&mut self, peer: Slot) {
        if let Some(control) = self.control.as_mut().filter(|_| self.formed) {
            control.queue(&ClientMessage::Severed { session: self.session, rank: peer.get() }.emit());
            self.flush_control();
        }
    }

    /// Takes notices from the rendezvous; without one the group goes on.
    pub(super) fn poll_notices(&mut self, cx: &mut Context<'_>) {
        self.poll_lifeline(cx);
        while self.control.is_some() {
            self.hear_rendezvous(cx);
            if self.control.is_some() {
                return;
            }
            // Lost: another one is looked for at once, since no event may come before it is needed.
            self.poll_lifeline(cx);
        }
        self.say_whether_it_hears();
    }

    fn poll_lifeline(&mut self, cx: &mut Context<'_>) {
        if self.control.is_none()
            && self.formed
            && let Some(lifeline) = &mut self.lifeline
            && let Poll::Ready(control) = lifeline.poll(cx)
        {
            self.control = Some(control);
            self.say_whether_it_hears();
            self.group.handle_input(self.now, Input::Returned);
        }
    }

    /// Takes all that the rendezvous has to say for the moment.
    fn hear_rendezvous(&mut self, cx: &mut Context<'_>) {
        while let Some(control) = &mut self.control {
            let flushed = control.poll_flush(cx);
            let now = self.now;
            match control.poll_receive(cx, ServerMessage::parse) {
                Poll::Ready(Ok(ServerMessage::Lost { session, rank })) if session == self.session => {
                    self.hear_of(now, rank, Input::Lost);
                }
                Poll::Ready(Ok(ServerMessage::Failed { session, rank })) if session == self.session => {
                    self.hear_of(now, rank, Input::Failed);
                }
                Poll::Ready(Ok(ServerMessage::Severed { session, rank })) if session == self.session => {
                    self.hear_of(now, rank, Input::Severed);
                }
                Poll::Ready(Ok(ServerMessage::Dissolved(session))) if session == self.session => {
                    if !self.formed {
                        self.group.handle_input(now, Input::Dissolved);
                    }
                    self.control = None;
                }
                Poll::Ready(Ok(ServerMessage::Probe)) => control.queue(&ClientMessage::Ping.emit()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => self.control = None,
                Poll::Pending => {
                    if matches!(flushed, Poll::Ready(Err(_))) {
                        self.control = None;
                    }
                    break;
                }
            }
        }
    }

    /// Takes word of a rank; one beyond the group is nobody.
    fn hear_of(&mut self, now: Instant, rank: u32, word: impl FnOnce(Slot) -> Input) {
        let size = u32::try_from(self.lanes.len()).expect("a group has at most SIZE_MAX members");
        if let Some(slot) = Slot::checked(rank, size) {
            self.group.handle_input(now, word(slot));
        }
    }
}
