//! Frames between an operation and a channel.

use std::io;
use std::task::Poll;

use fmi_net::planted;

use super::plan::Plan;
use super::{Call, Engine, Owed};
use crate::channel::{Channel, ChannelError, Mode, Outgoing};
use crate::engine::lane::Lane;
use crate::engine::parcel::{Parcel, Room};
use crate::error::{ErrorKind, Result};
use crate::proto::frame::Envelope;
use crate::proto::group::{Input, Matched, OpId, Route, WaitsFor};
use crate::proto::mailbox::Pattern;
use crate::proto::rank::Slot;

/// The part of the memory for unasked frames that copies of frames to be sent may take: one in so many.
const COPIES_PART: u64 = 4;

/// What was done about the front of a peer's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// A frame of the operation is there.
    Mine,
    /// Something else is at the front: look again.
    Other,
    /// Nothing can be done before an event that wakes the operation.
    Blocked,
}

impl Engine {
    /// Brings the stream of `peer` to a frame that belongs to the operation of `call`: others on the way are left to
    /// their owners, or go to the mailbox. Pending if it is not there yet, or the connection broke.
    pub(crate) fn poll_bring(&mut self, mode: Mode<'_>, call: &Call, peer: Slot) -> Poll<Result<()>> {
        loop {
            if !self.reach(call, peer)? {
                return Poll::Pending;
            }
            match self.pass(mode, call.id, peer) {
                Passed::Mine => return Poll::Ready(Ok(())),
                Passed::Other => self.check(call)?,
                Passed::Blocked => {
                    self.check(call)?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Whether there is a connection to `peer`; without one the operation fails, if not at once.
    pub(super) fn reach(&mut self, call: &Call, peer: Slot) -> Result<bool> {
        let reached = self.group.reach(self.now, call.id, peer);
        reached.map_err(|failure| self.error_of(call, failure))
    }

    /// Does what is to be done about the front of the stream of `peer`, for operation `id`.
    pub(super) fn pass(&mut self, mode: Mode<'_>, id: OpId, slot: Slot) -> Passed {
        let Some(lane) = self.lanes[slot.index()].as_mut() else { return Passed::Other };
        let now = self.now;
        let left = lane.left();
        let events = lane.readers.events();
        let route = self.group.route(id, slot, left);
        let done = match route {
            Route::Mine => return Passed::Mine,
            // What is at hand is in the way, not a want of bytes.
            Route::Full => {
                self.wait_to_read(slot, id, mode, events);
                return Passed::Blocked;
            }
            Route::Driven(owner) => {
                // Once for each event is enough, if that look waited for the next one.
                let parks = matches!(mode, Mode::Park(_));
                let is_new = lane.driven.replace((owner, events)) != Some((owner, events)) || !parks;
                if !parks {
                    lane.driven = None;
                }
                self.wait_to_read(slot, id, mode, events);
                if is_new {
                    self.mark_due(owner);
                }
                return Passed::Blocked;
            }
            Route::Offered => {
                self.wait_to_read(slot, id, mode, events);
                // A task looks again at the next poll.
                self.is_blocked = true;
                if let Mode::Park(waker) = mode {
                    // Its owner goes first; then this one looks again.
                    self.to_wake.push(waker.clone());
                }
                return Passed::Blocked;
            }
            Route::Head => {
                let Lane { channel, read_waker, .. } = lane;
                channel.poll_head(Lane::of(read_waker, mode)).map_ok(|envelope| Input::Head { peer: slot, envelope })
            }
            Route::Discard => lane.poll_discard(mode).map_ok(|()| Input::Consumed(slot)),
            Route::Control => lane
                .poll_parked(mode)
                .map_ok(|()| Input::Control { peer: slot, payload: std::mem::take(&mut lane.parked) }),
            Route::Store => lane.poll_parked(mode).map_ok(|()| {
                self.moved += left;
                Input::Stored { peer: slot, payload: std::mem::take(&mut lane.parked) }
            }),
        };
        match done {
            Poll::Ready(Ok(input)) => {
                self.tell_moved();
                self.group.handle_input(now, input);
                self.drain();
                Passed::Other
            }
            Poll::Ready(Err(error)) => {
                self.broke(slot, error);
                Passed::Other
            }
            Poll::Pending => {
                self.wait_to_read(slot, id, mode, events);
                Passed::Blocked
            }
        }
    }

    /// Nothing more was to be read from a peer after so many events; an operation waits for the next one, unless it only
    /// tries: one that nobody polls yet would take the place of one that waits.
    fn wait_to_read(&mut self, peer: Slot, id: OpId, mode: Mode<'_>, events: u64) {
        if let (Some(lane), Mode::Park(waker)) = (&self.lanes[peer.index()], mode) {
            self.listings.note(id, peer);
            if !lane.readers.wait(id, waker, events) {
                self.to_wake.push(waker.clone());
            }
        }
    }

    /// The same for room to send.
    pub(super) fn wait_to_write(&mut self, peer: Slot, id: OpId, mode: Mode<'_>, events: u64) {
        if let (Some(lane), Mode::Park(waker)) = (&self.lanes[peer.index()], mode) {
            self.listings.note(id, peer);
            if !lane.writers.wait(id, waker, events) {
                self.to_wake.push(waker.clone());
            }
        }
    }

    /// Closes a connection on which nothing can be read any more.
    fn broke(&mut self, peer: Slot, error: ChannelError) {
        let kind = match error {
            ChannelError::Wire(wire) => ErrorKind::Malformed(wire.to_string()),
            ChannelError::Store(what) => ErrorKind::Store(what),
            ChannelError::Io(io) if io.kind() == io::ErrorKind::UnexpectedEof => {
                ErrorKind::ConnectionLost("the peer closed it".into())
            }
            ChannelError::Io(io) => {
                if io.kind() == io::ErrorKind::TimedOut {
                    // The peer may see nothing of it.
                    self.report(peer);
                }
                ErrorKind::ConnectionLost(io.to_string())
            }
        };
        self.group.handle_input(self.now, Input::Broken { peer, kind });
        self.close_lane(peer);
    }

    /// Hears what any peer has to say that belongs to no operation.
    pub(super) fn listen(&mut self, mode: Mode<'_>, id: OpId) {
        for slot in self.group.rounds() {
            self.hear(mode, id, slot);
        }
    }

    /// Sends a frame of an operation; whether it is sent.
    pub(crate) fn poll_send_frame(
        &mut self,
        mode: Mode<'_>,
        call: &Call,
        peer: Slot,
        frame: Outgoing<'_>,
        sent: &mut usize,
    ) -> Result<bool> {
        if !self.reach(call, peer)? {
            return Ok(false);
        }
        let Some(lane) = self.lanes[peer.index()].as_mut() else { return Ok(false) };
        if lane.writer.is_some_and(|writer| writer != call.id) {
            lane.put_behind(&mut self.listings, call.id);
            return Ok(false);
        }
        let events = lane.writers.events();
        if *sent == 0 && planted::one_in(planted::Fault::LostFrame, 1000) {
            return Ok(true);
        }
        let before = *sent;
        let Lane { channel, write_waker, .. } = lane;
        let poll = channel.poll_send(Lane::of(write_waker, mode), frame, sent);
        self.moved += (*sent - before) as u64;
        if *sent > 0 {
            lane.writer = Some(call.id);
        }
        match poll {
            Poll::Ready(Ok(())) => {
                self.end_writing(peer);
                Ok(true)
            }
            Poll::Ready(Err(ChannelError::Io(error))) => {
                // What the peer has sent is still read: it may say why.
                let kind = ErrorKind::ConnectionLost(error.to_string());
                self.group.suspect(self.now, call.id, peer, kind);
                self.check(call)?;
                Ok(false)
            }
            Poll::Ready(Err(error @ (ChannelError::Wire(_) | ChannelError::Store(_)))) => {
                self.broke(peer, error);
                Ok(false)
            }
            Poll::Pending => {
                self.is_blocked = true;
                self.wait_to_write(peer, call.id, mode, events);
                Ok(false)
            }
        }
    }

    fn end_writing(&mut self, peer: Slot) {
        let Some(lane) = self.lanes[peer.index()].as_mut() else { return };
        lane.writer = None;
        if !lane.behind_writer.is_empty() {
            // Taken one by one, so that the set keeps its memory.
            while let Some(id) = self.lanes[peer.index()].as_mut().and_then(|lane| lane.behind_writer.pop_first()) {
                self.wake(id);
            }
        }
    }

    /// Completes a frame of an operation that ends before it is sent.
    pub(crate) fn take_over(&mut self, peer: Slot, id: OpId, frame: Outgoing<'_>, sent: usize) {
        if let Some(lane) = self.lanes[peer.index()].as_mut().filter(|lane| lane.writer == Some(id)) {
            lane.queued += (frame.head.len() + frame.payload.len() - sent) as u64;
            lane.channel.take_over(frame, sent);
            // A broken channel shows at its next use.
            let _ = lane.channel.poll_flush(Mode::Park(&lane.write_waker));
            self.end_writing(peer);
        }
    }

    /// Ends a send that is not done. What is begun is sent whole: its payload is copied, and goes when its receiver has a
    /// place for it.
    pub(crate) fn give_up_send(&mut self, call: &Call, peer: Slot, whole: &Envelope, payload: &[u8], parcel: Parcel) {
        let mut parcel = parcel;
        if parcel.sent > 0 {
            let (head, part) = parcel.frame(whole, payload.len(), self.eager_bytes_max());
            let frame = Outgoing { head: &head, payload: &payload[part.clone()], whole: true };
            self.take_over(peer, call.id, frame, parcel.sent);
            parcel.complete_frame(part.end);
        }
        let rest = &payload[parcel.done..];
        if parcel.done == 0 || rest.is_empty() || !self.group.is_up(peer) {
            return self.end(call);
        }
        let envelope = Envelope { length: rest.len() as u64, more: false, ..*whole };
        self.forget_call(call);
        self.owed.insert(call.id, Owed { peer, envelope, payload: rest.to_vec() });
        self.group.owe(call.id);
        self.pay(call.id);
    }

    /// Sends the rest of a message whose send was given up, if its receiver has a place for it.
    pub(super) fn pay(&mut self, id: OpId) {
        let Some(owed) = self.owed.get(&id) else { return };
        let has_failed = self.group.check(id).is_err() || !self.group.is_up(owed.peer);
        if !has_failed && !self.group.is_ready(id) {
            return;
        }
        let Some(Owed { peer, envelope, payload }) = self.owed.remove(&id) else { return };
        if let Some(lane) = self.lanes[peer.index()].as_mut().filter(|_| !has_failed) {
            lane.queue(&envelope, &payload);
            // A broken channel shows at its next use.
            let _ = lane.channel.poll_flush(Mode::Park(&lane.write_waker));
        }
        self.group.end(id);
        let communicator = envelope.communicator;
        if !self.owes(communicator) && self.closing.remove(&communicator) {
            self.group.close(communicator);
        }
    }

    /// Whether the rest of a message of a communicator is still to be sent.
    pub(super) fn owes(&self, communicator: u64) -> bool {
        self.owed.values().any(|owed| owed.envelope.communicator == communicator)
    }

    /// Sends a message, as far as that can be done.
    pub(crate) fn poll_send_message(
        &mut self,
        mode: Mode<'_>,
        call: &mut Call,
        peer: Slot,
        (whole, payload): (&Envelope, &[u8]),
        parcel: &mut Parcel,
    ) -> Poll<Result<()>> {
        loop {
            self.check(call)?;
            call.waits_for = WaitsFor::default();
            call.waits_for.add(peer);
            if !self.group.is_up(peer) {
                // Those behind it need not wait for the first one to fail.
                self.reach(call, peer)?;
                return Poll::Pending;
            }
            // Messages to one rank are sent in the order of the calls.
            if self.group.is_suspicious(call.id) || !self.group.may_begin(call.id) {
                return Poll::Pending;
            }
            if let Some(mark) = parcel.copied {
                return self.poll_copied(mode, call, peer, mark);
            }
            if parcel.done > 0 && !self.group.is_ready(call.id) {
                self.hear(mode, call.id, peer);
                if !self.group.is_ready(call.id) {
                    return Poll::Pending;
                }
            }
            let (head, part) = parcel.frame(whole, payload.len(), self.eager_bytes_max());
            let frame = Outgoing { head: &head, payload: &payload[part.clone()], whole: true };
            let done = self.poll_send_frame(mode, call, peer, frame, &mut parcel.sent)?;
            if parcel.is_begun() {
                self.group.begun(call.id);
            }
            if !done {
                if let Mode::Park(_) = mode {
                    // The peer may be sending as well, and read nothing before it is heard.
                    self.hear(mode, call.id, peer);
                }
                return Poll::Pending;
            }
            parcel.complete_frame(part.end);
            if part.end == payload.len() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Copies the frame of a message that cannot go at once, or its rest, so that it goes whatever is polled: as long as
    /// there is room for copies.
    pub(crate) fn copy_send(
        &mut self,
        call: &Call,
        peer: Slot,
        (whole, payload): (&Envelope, &[u8]),
        parcel: &mut Parcel,
    ) {
        let queued: usize = self.channels().map(Channel::queued).sum();
        let is_first = parcel.done == 0 && !self.group.is_suspicious(call.id) && self.group.may_begin(call.id);
        let (head, part) = parcel.frame(whole, payload.len(), self.eager_bytes_max());
        if !is_first || queued.saturating_add(part.len()) > self.copies_bytes_max() {
            return;
        }
        let frame = Outgoing { head: &head, payload: &payload[part.clone()], whole: true };
        if parcel.sent > 0 {
            self.take_over(peer, call.id, frame, parcel.sent);
        } else if let Some(lane) = &mut self.lanes[peer.index()] {
            let envelope = Envelope { length: part.len() as u64, more: part.end < payload.len(), ..*whole };
            lane.queue(&envelope, frame.payload);
        } else {
            return;
        }
        self.group.begun(call.id);
        // Whoever waits already sees to it that the copy goes.
        self.to_wake.extend(self.common.newest());
        parcel.complete_frame(part.end);
        if part.end == payload.len() {
            parcel.copied = Some(self.lanes[peer.index()].as_ref().map_or(0, |lane| lane.queued));
        }
    }

    /// Waits until the copy of a message is handed to the network.
    fn poll_copied(&mut self, mode: Mode<'_>, call: &Call, peer: Slot, mark: u64) -> Poll<Result<()>> {
        let Some(lane) = self.lanes[peer.index()].as_mut() else { return Poll::Pending };
        let events = lane.writers.events();
        // A broken channel shows at its next use.
        let _ = lane.channel.poll_flush(Lane::of(&lane.write_waker, mode));
        let left = lane.channel.queued() as u64;
        // The channel may have more than was queued: the beginning of a frame that was taken over.
        if left == 0 || lane.queued >= mark.saturating_add(left) {
            return Poll::Ready(Ok(()));
        }
        if let Mode::Park(_) = mode {
            self.wait_to_write(peer, call.id, mode, events);
            self.hear(mode, call.id, peer);
        }
        Poll::Pending
    }

    /// Notes that a message is longer than what is sent unasked, if it is.
    pub(crate) fn announce(&mut self, call: &Call, whole: &Envelope) {
        if whole.length > self.group.limits().eager_bytes_max {
            self.group.await_ready(call.id, whole);
        }
    }

    /// Bytes that copies of frames to be sent may take, and as many those of collectives' buffers.
    pub(super) fn copies_bytes_max(&self) -> usize {
        usize::try_from(self.group.limits().mailbox_bytes_max / COPIES_PART).unwrap_or(usize::MAX)
    }

    /// How much of a message, or of a step of a collective, is sent unasked.
    pub(super) fn eager_bytes_max(&self) -> usize {
        usize::try_from(self.group.limits().eager_bytes_max).unwrap_or(usize::MAX)
    }

    /// Tells those that have long frames for a collective that this rank takes part, as far as they do not see it.
    pub(super) fn begin_long(&mut self, call: &Call, plan: &Plan, element_bytes: usize) {
        let eager = self.eager_bytes_max();
        let is_long = |elements: usize| elements.saturating_mul(element_bytes) > eager;
        if !is_long(plan.longest) {
            return;
        }
        let first = plan.rounds.first().map_or(&[][..], |round| &round.sends);
        let mut senders = std::mem::take(&mut self.spare_slots);
        senders.extend(plan.receives().filter(|it| is_long(it.into.len())).map(|it| it.peer));
        senders.sort_unstable();
        senders.dedup();
        senders.retain(|peer| first.iter().all(|send| send.peer != *peer));
        self.group.await_ready_ranks(call.id);
        senders.drain(..).for_each(|peer| self.group.tell_ready_rank(call.id, peer));
        self.spare_slots = senders;
    }

    /// Whether `peer` is known to take part in a collective.
    pub(super) fn is_ready(&mut self, mode: Mode<'_>, call: &Call, peer: Slot) -> bool {
        if !self.group.is_rank_ready(call.id, peer) {
            self.hear(mode, call.id, peer);
        }
        self.group.is_rank_ready(call.id, peer)
    }

    /// The end of the frame at hand in its step, of which `moved` bytes have been taken.
    pub(super) fn end_of_frame(&self, peer: Slot, moved: usize) -> usize {
        let left = self.lanes[peer.index()].as_ref().map_or(0, Lane::left);
        usize::try_from(left).map_or(usize::MAX, |left| moved.saturating_add(left))
    }

    /// Hears what a peer has to say, for operation `id`, which does not wait for a frame of its own.
    pub(super) fn hear(&mut self, mode: Mode<'_>, id: OpId, peer: Slot) {
        while self.lanes[peer.index()].is_some() && self.pass(mode, id, peer) == Passed::Other {}
    }

    /// Waits until a receive has its message.
    pub(crate) fn poll_match(&mut self, mode: Mode<'_>, call: &mut Call, pattern: &Pattern) -> Poll<Result<Matched>> {
        self.check(call)?;
        if let Some(matched) = self.group.matched(call.id) {
            return Poll::Ready(Ok(matched));
        }
        if self.group.is_suspicious(call.id) {
            return Poll::Pending;
        }
        call.waits_for = WaitsFor::default();
        if let Some(peer) = pattern.source {
            if peer == self.me {
                return Poll::Pending;
            }
            call.waits_for.add(peer);
            std::task::ready!(self.poll_bring(mode, call, peer))?;
            return Poll::Ready(Ok(self.group.matched(call.id).expect("its frame is at hand")));
        }
        self.poll_match_any(mode, call)
    }

    /// The same for a receive from any source: looks at all members in turn.
    fn poll_match_any(&mut self, mode: Mode<'_>, call: &mut Call) -> Poll<Result<Matched>> {
        let is_member = |engine: &Self, peer| {
            engine.group.members(call.communicator).is_some_and(|members| members.rank_of(peer).is_some())
        };
        let mut someone = None;
        let mut is_anyone_up = false;
        for peer in self.group.rounds() {
            if !is_member(self, peer) {
                continue;
            }
            someone = Some(peer);
            // A peer that leaves meanwhile sends nothing; the others may.
            while self.lanes[peer.index()].is_some() {
                match self.pass(mode, call.id, peer) {
                    Passed::Mine => {
                        let matched = self.group.matched(call.id).expect("its frame is at hand");
                        return Poll::Ready(Ok(matched));
                    }
                    Passed::Other => self.check(call)?,
                    Passed::Blocked => break,
                }
            }
            is_anyone_up |= self.group.may_send(call.communicator, peer);
        }
        if let Some(gone) = someone.filter(|_| !is_anyone_up) {
            self.reach(call, gone)?;
        }
        Poll::Pending
    }

    /// Reads the message of a receive; `moved` counts its bytes.
    pub(crate) fn poll_message<R: Room + ?Sized>(
        &mut self,
        mode: Mode<'_>,
        call: &Call,
        datatype: u32,
        buffer: &mut R,
        moved: &mut usize,
    ) -> Poll<Result<()>> {
        loop {
            self.check(call)?;
            let Matched { peer, envelope, place } =
                self.group.matched(call.id).expect("a message is read once it is there");
            if envelope.datatype != datatype {
                let mine = Envelope { datatype, ..envelope };
                self.group.disagree(peer, mine, envelope);
                self.check(call)?;
            }
            let length = match usize::try_from(envelope.elements) {
                Ok(length) if length <= buffer.bytes_max() => length,
                _ => {
                    let buffer_bytes = buffer.bytes_max() as u64;
                    let kind = ErrorKind::Truncated { message_bytes: envelope.elements, buffer_bytes };
                    let failure = self.group.failure_of(call.id, peer, kind);
                    return Poll::Ready(Err(self.error_of(call, failure)));
                }
            };
            let is_whole = if place.is_some() {
                self.take_stored(call, buffer, moved, length);
                !self.group.has_rest(call.id)
            } else if self.group.is_suspicious(call.id) {
                return Poll::Pending;
            } else {
                self.group.want(call.id);
                std::task::ready!(self.poll_bring(mode, call, peer))?;
                let more = self.group.at_hand(peer).is_some_and(|frame| frame.more);
                let fill = |read: &mut Read<'_>, moved: usize| read(buffer.from(moved, length));
                std::task::ready!(self.poll_payload(mode, call.id, peer, moved, fill))?;
                !more
            };
            if is_whole {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes what is stored of a message.
    fn take_stored<R: Room + ?Sized>(&mut self, call: &Call, buffer: &mut R, moved: &mut usize, length: usize) {
        let stored = self.group.take_stored(call.id).expect("the message of a receive is stored until it is taken");
        assert_eq!(stored.taken, *moved, "a message is read without gaps");
        let mut rest = &stored.payload[..];
        while !rest.is_empty() {
            let target = buffer.from(*moved, length);
            let count = target.len().min(rest.len());
            target[..count].copy_from_slice(&rest[..count]);
            (rest, *moved) = (&rest[count..], *moved + count);
        }
    }

    /// Reads the frame at hand of `peer`, which belongs to operation `id`, to its end. `moved` counts the bytes of its
    /// message or step; `fill` reads some to where they belong.
    pub(crate) fn poll_payload(
        &mut self,
        mode: Mode<'_>,
        id: OpId,
        peer: Slot,
        moved: &mut usize,
        mut fill: impl FnMut(&mut Read<'_>, usize) -> Poll<Result<usize, ChannelError>>,
    ) -> Poll<Result<()>> {
        let now = self.now;
        let before = *moved;
        let Some(lane) = self.lanes[peer.index()].as_mut() else { return Poll::Pending };
        let events = lane.readers.events();
        self.group.reclaim(peer);
        let end = usize::try_from(lane.left()).map_or(usize::MAX, |left| before.saturating_add(left));
        if !lane.parked.is_empty() {
            let parked = std::mem::take(&mut lane.parked);
            let mut rest = &parked[..];
            while !rest.is_empty() {
                let mut take = |target: &mut [u8]| {
                    let count = target.len().min(rest.len());
                    target[..count].copy_from_slice(&rest[..count]);
                    rest = &rest[count..];
                    Poll::Ready(Ok(count))
                };
                let Poll::Ready(Ok(read)) = fill(&mut take, *moved) else {
                    panic!("memory neither waits nor fails");
                };
                *moved += read;
            }
        }
        let of_lane = Lane::of(&lane.read_waker, mode);
        let read = loop {
            if *moved == end {
                break Poll::Ready(Ok(()));
            }
            match fill(&mut |target| lane.channel.poll_body(of_lane, target), *moved) {
                Poll::Ready(Ok(read)) => *moved += read,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.moved += (*moved - before) as u64;
        match read {
            Poll::Ready(Ok(())) => {
                self.moved += 1;
                self.group.handle_input(now, Input::Consumed(peer));
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                // The next poll finds the connection broken.
                self.broke(peer, error);
                Poll::Pending
            }
            Poll::Pending => {
                self.wait_to_read(peer, id, mode, events);
                if *moved > before {
                    self.group.handle_input(now, Input::Progressed(peer));
                }
                Poll::Pending
            }
        }
    }
}

/// Reads some bytes into a target.
pub(crate) type Read<'a> = dyn FnMut(&mut [u8]) -> Poll<Result<usize, ChannelError>> + 'a;
