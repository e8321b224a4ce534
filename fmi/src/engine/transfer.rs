//! Frames between an operation and a channel.

use std::io;
use std::task::Poll;

use super::{Call, Engine};
use crate::channel::{ChannelError, Head, Mode, Outgoing};
use crate::engine::lane::Lane;
use crate::error::{ErrorKind, Result};
use crate::proto::group::{Input, Matched, OpId, Route, WaitsFor};
use crate::proto::mailbox::Pattern;
use crate::proto::rank::Slot;

/// What was done about the front of a peer's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passed {
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
            if self.lanes[peer.index()].is_none() && !self.reach(call, peer)? {
                return Poll::Pending;
            }
            match self.pass(mode, call.id, Some(call.id), peer) {
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
    fn reach(&mut self, call: &Call, peer: Slot) -> Result<bool> {
        let reached = self.group.reach(self.now, call.id, peer);
        reached.map_err(|failure| self.error_of(call, failure))
    }

    /// Does what is to be done about the front of the stream of `peer`, for operation `id` or (`whose` is none) for
    /// nobody in particular.
    fn pass(&mut self, mode: Mode<'_>, id: OpId, whose: Option<OpId>, slot: Slot) -> Passed {
        let Some(lane) = self.lanes[slot.index()].as_mut() else { return Passed::Other };
        let now = self.now;
        let left = lane.left();
        let route = self.group.route(whose, slot, left);
        lane.readers.enlist(id, mode);
        let done = match route {
            Route::Mine => return Passed::Mine,
            // What is at hand is in the way, not a want of bytes.
            Route::Full => {
                self.looked(slot, mode);
                return Passed::Blocked;
            }
            Route::Offered => {
                self.looked(slot, mode);
                if whose.is_some()
                    && let Mode::Park(waker) = mode
                {
                    // Its owner goes first; then this one looks again.
                    waker.wake_by_ref();
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
                self.group.handle_input(now, input);
                self.drain();
                Passed::Other
            }
            Poll::Ready(Err(error)) => {
                self.broke(slot, error);
                Passed::Other
            }
            Poll::Pending => {
                self.looked(slot, mode);
                Passed::Blocked
            }
        }
    }

    /// Nothing more is to be read from a peer for the moment, and the channel wakes when there is.
    fn looked(&self, peer: Slot, mode: Mode<'_>) {
        if let (Some(lane), Mode::Park(_)) = (&self.lanes[peer.index()], mode) {
            lane.readers.looked();
        }
    }

    /// Closes a connection on which nothing can be read any more.
    fn broke(&mut self, peer: Slot, error: ChannelError) {
        let kind = match error {
            ChannelError::Wire(wire) => ErrorKind::Malformed(wire.to_string()),
            ChannelError::Io(io) if io.kind() == io::ErrorKind::UnexpectedEof => {
                ErrorKind::PeerLost("it closed the connection".into())
            }
            ChannelError::Io(io) => ErrorKind::PeerLost(io.to_string()),
        };
        self.group.handle_input(self.now, Input::Broken { peer, kind });
        self.close_lane(peer);
    }

    /// Hears what any peer has to say that belongs to no operation.
    pub(super) fn listen(&mut self, mode: Mode<'_>, id: OpId) {
        for slot in self.group.rounds() {
            while self.lanes[slot.index()].is_some() && self.pass(mode, id, None, slot) == Passed::Other {}
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
            lane.behind_writer.insert(call.id);
            return Ok(false);
        }
        lane.writers.enlist(call.id, mode);
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
                let kind = ErrorKind::PeerLost(error.to_string());
                self.group.suspect(self.now, call.id, peer, kind);
                self.check(call)?;
                Ok(false)
            }
            Poll::Ready(Err(error @ ChannelError::Wire(_))) => {
                self.broke(peer, error);
                Ok(false)
            }
            Poll::Pending => {
                if let (Some(lane), Mode::Park(_)) = (&self.lanes[peer.index()], mode) {
                    lane.writers.looked();
                }
                Ok(false)
            }
        }
    }

    fn end_writing(&mut self, peer: Slot) {
        let Some(lane) = self.lanes[peer.index()].as_mut() else { return };
        lane.writer = None;
        if !lane.behind_writer.is_empty() {
            let ids = std::mem::take(&mut lane.behind_writer);
            self.to_wake.extend(ids.iter().filter_map(|id| self.wakers.get(id).cloned()));
        }
    }

    /// Completes a frame of an operation that ends before it is sent.
    pub(crate) fn take_over(&mut self, peer: Slot, id: OpId, frame: Outgoing<'_>, sent: usize) {
        if let Some(lane) = self.lanes[peer.index()].as_mut().filter(|lane| lane.writer == Some(id)) {
            lane.channel.take_over(frame, sent);
            // A broken channel shows at its next use.
            let _ = lane.channel.poll_flush(Mode::Park(&lane.write_waker));
            self.end_writing(peer);
        }
    }

    /// Sends a message, as far as that can be done.
    pub(crate) fn poll_send_message(
        &mut self,
        mode: Mode<'_>,
        call: &mut Call,
        peer: Slot,
        (head, payload): (&Head, &[u8]),
        sent: &mut usize,
    ) -> Poll<Result<()>> {
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
        let frame = Outgoing { head, payload, whole: true };
        let done = self.poll_send_frame(mode, call, peer, frame, sent)?;
        if *sent > 0 {
            self.group.begun(call.id);
        }
        if done { Poll::Ready(Ok(())) } else { Poll::Pending }
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
                match self.pass(mode, call.id, Some(call.id), peer) {
                    Passed::Mine => {
                        let matched = self.group.matched(call.id).expect("its frame is at hand");
                        return Poll::Ready(Ok(matched));
                    }
                    Passed::Other => self.check(call)?,
                    Passed::Blocked => break,
                }
            }
            is_anyone_up |= self.group.is_up(peer);
        }
        if let Some(gone) = someone.filter(|_| !is_anyone_up) {
            self.reach(call, gone)?;
        }
        Poll::Pending
    }

    /// Reads the message of a receive.
    pub(crate) fn poll_message(
        &mut self,
        mode: Mode<'_>,
        call: &Call,
        datatype: u32,
        buffer: &mut [u8],
        moved: &mut usize,
    ) -> Poll<Result<()>> {
        self.check(call)?;
        let Matched { peer, envelope, place } =
            self.group.matched(call.id).expect("a message is read once it is there");
        if envelope.datatype != datatype {
            let mine = crate::proto::frame::Envelope { datatype, ..envelope };
            self.group.disagree(peer, mine, envelope);
            self.check(call)?;
        }
        let length = match usize::try_from(envelope.length) {
            Ok(length) if length <= buffer.len() => length,
            _ => {
                let kind = ErrorKind::Truncated { message_bytes: envelope.length, buffer_bytes: buffer.len() as u64 };
                let failure = self.group.failure_of(call.id, peer, kind);
                return Poll::Ready(Err(self.error_of(call, failure)));
            }
        };
        if place.is_some() {
            let stored = self.group.take_stored(call.id).expect("the message of a receive is stored until it is taken");
            buffer[stored.taken..length].copy_from_slice(&stored.payload);
            return Poll::Ready(Ok(()));
        }
        if self.group.is_suspicious(call.id) {
            return Poll::Pending;
        }
        std::task::ready!(self.poll_bring(mode, call, peer))?;
        let target = &mut buffer[..length];
        self.poll_payload(mode, call.id, peer, length, moved, |read, moved| read(&mut target[moved..]))
    }

    /// Reads the frame at hand of `peer`, which belongs to operation `id`, to its end: `length` bytes, of which
    /// `moved` have been read before. `fill` reads some to where they belong.
    pub(crate) fn poll_payload(
        &mut self,
        mode: Mode<'_>,
        id: OpId,
        peer: Slot,
        length: usize,
        moved: &mut usize,
        mut fill: impl FnMut(&mut Read<'_>, usize) -> Poll<Result<usize, ChannelError>>,
    ) -> Poll<Result<()>> {
        let now = self.now;
        let before = *moved;
        let Some(lane) = self.lanes[peer.index()].as_mut() else { return Poll::Pending };
        lane.readers.enlist(id, mode);
        self.group.reclaim(peer);
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
        let mode = Lane::of(&lane.read_waker, mode);
        let end = loop {
            if *moved == length {
                break Poll::Ready(Ok(()));
            }
            match fill(&mut |target| lane.channel.poll_body(mode, target), *moved) {
                Poll::Ready(Ok(read)) => *moved += read,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.moved += (*moved - before) as u64;
        match end {
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
                lane.readers.looked();
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
