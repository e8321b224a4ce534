//! Runs rounds of a schedule, and single messages, over the links. The only code that knows buffers.

use std::ops::Range;
use std::task::{Context, Poll};

use crate::communicator::Communicator;
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::net::Timer;
use crate::net::link::{LinkError, Outgoing};
use crate::proto::frame::{Envelope, Kind};
use crate::proto::mailbox::Stored;
use crate::schedule::{Round, Schedule, Side, Step, needs_scratch};
use crate::time::Instant;

/// Combines `right` into `left` or the other way round; the result goes to the first argument.
pub(super) type Combine<'a> = &'a mut (dyn FnMut(&mut [u8], &[u8], Side) + Send);

/// A frame to send.
struct Sending {
    peer: u32,
    outgoing: Outgoing,
    range: Range<usize>,
    done: bool,
}

/// A frame to receive, into the buffer or into scratch memory.
struct Receiving {
    peer: u32,
    envelope: Envelope,
    place: Place,
    done: bool,
}

enum Place {
    /// Nothing of this round reads the range: straight into the buffer.
    Buffer(Range<usize>),
    /// Into scratch memory, applied when the round is done.
    Scratch { at: Range<usize>, target: Range<usize>, side: Option<Side> },
}

/// Who broke, and until when its cause is awaited.
struct Suspect {
    error: Error,
    until: Instant,
}

/// What stays the same over an operation.
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) envelope: Envelope,
    pub(super) element_bytes: usize,
    pub(super) deadline: Instant,
    timer: Timer,
    suspect: Option<Suspect>,
}

impl Communicator {
    pub(super) fn call(&self, operation: Operation, envelope: Envelope, element_bytes: usize) -> Call {
        let deadline = self.clock.now() + self.limits.deadline;
        let timer = Timer::new(self.clock.clone());
        Call { operation, envelope, element_bytes, deadline, timer, suspect: None }
    }

    /// Runs a schedule over `buffer`; `scratch` holds [`Schedule::scratch`] elements and is as aligned.
    pub(super) async fn execute(
        &mut self,
        call: &mut Call,
        schedule: &Schedule,
        buffer: &mut [u8],
        scratch: &mut [u8],
        combine: Combine<'_>,
    ) -> Result<()> {
        // Frames between one pair are numbered within the operation.
        let mut steps = vec![(0u32, 0u32); self.size as usize];
        for round in &schedule.rounds {
            let (mut sends, mut receives) = plan(call, round, &mut steps);
            std::future::poll_fn(|cx| self.poll_round(cx, call, &mut sends, &mut receives, buffer, scratch)).await?;
            for receive in receives {
                if let Place::Scratch { at, target, side } = receive.place {
                    match side {
                        None => buffer[target].copy_from_slice(&scratch[at]),
                        Some(side) => combine(&mut buffer[target], &scratch[at], side),
                    }
                }
            }
        }
        Ok(())
    }

    fn poll_round(
        &mut self,
        cx: &mut Context<'_>,
        call: &mut Call,
        sends: &mut [Sending],
        receives: &mut [Receiving],
        buffer: &mut [u8],
        scratch: &mut [u8],
    ) -> Poll<Result<()>> {
        let mut pending = false;
        if call.suspect.is_none() {
            for send in sends.iter_mut().filter(|send| !send.done) {
                match self.link(send.peer).poll_send(cx, &mut send.outgoing, &buffer[send.range.clone()]) {
                    Poll::Ready(Ok(())) => send.done = true,
                    Poll::Ready(Err(error)) => self.suspect(call, send.peer, error)?,
                    Poll::Pending => pending = true,
                }
            }
            for receive in receives.iter_mut().filter(|receive| !receive.done) {
                let target = match &receive.place {
                    Place::Buffer(range) => &mut buffer[range.clone()],
                    Place::Scratch { at, .. } => &mut scratch[at.clone()],
                };
                match self.poll_frame(cx, call, receive.peer, &receive.envelope, target) {
                    Poll::Ready(Ok(_)) => receive.done = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => pending = true,
                }
            }
        }
        if !pending && call.suspect.is_none() {
            return Poll::Ready(Ok(()));
        }
        self.poll_trouble(cx, call, None)
    }

    /// Receives the next frame of the operation of `wanted` and returns its length; frames of others
    /// on the way go to the mailbox. A frame of a collective must be what `wanted` says, a message
    /// may be shorter than `target`.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        call: &mut Call,
        peer: u32,
        wanted: &Envelope,
        target: &mut [u8],
    ) -> Poll<Result<usize>> {
        if let Some(stored) = self.mailbox.take(peer, wanted) {
            let length = self.accept(call, peer, wanted, &stored.envelope, target.len())?;
            target[..length].copy_from_slice(&stored.payload);
            return Poll::Ready(Ok(length));
        }
        loop {
            let envelope = match self.poll_envelope(cx, call, peer) {
                Poll::Ready(Ok(Some(envelope))) => envelope,
                Poll::Ready(Ok(None)) | Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            };
            if envelope.is_same_operation(wanted) {
                let length = self.accept(call, peer, wanted, &envelope, target.len())?;
                return match self.link(peer).poll_payload(cx, &mut target[..length]) {
                    Poll::Ready(Ok(())) => Poll::Ready(Ok(length)),
                    Poll::Ready(Err(error)) => {
                        self.suspect(call, peer, error)?;
                        Poll::Pending
                    }
                    Poll::Pending => Poll::Pending,
                };
            }
            match self.poll_store(cx, call, peer, wanted, envelope) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) | Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Checks a frame against what is wanted and the buffer for it; returns its length.
    fn accept(&self, call: &Call, peer: u32, wanted: &Envelope, theirs: &Envelope, buffer: usize) -> Result<usize> {
        let is_message = wanted.kind == Kind::Message;
        let agrees = if is_message { wanted.datatype == theirs.datatype } else { wanted == theirs };
        if !agrees {
            return Err(self.mismatch(call, peer, wanted, theirs));
        }
        match usize::try_from(theirs.length) {
            Ok(length) if length <= buffer => Ok(length),
            _ => {
                let kind = ErrorKind::Truncated { message_bytes: theirs.length, buffer_bytes: buffer as u64 };
                Err(self.error(call.operation, kind).with_peer(peer))
            }
        }
    }

    /// Sends one message.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        call: &mut Call,
        peer: u32,
        outgoing: &mut Outgoing,
        payload: &[u8],
    ) -> Poll<Result<()>> {
        match self.link(peer).poll_send(cx, outgoing, payload) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => {
                self.suspect(call, peer, error)?;
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// The next envelope of `peer`; `None` if the link broke and the cause is awaited.
    fn poll_envelope(&mut self, cx: &mut Context<'_>, call: &mut Call, peer: u32) -> Poll<Result<Option<Envelope>>> {
        let envelope = match self.link(peer).poll_envelope(cx) {
            Poll::Ready(Ok(envelope)) => envelope,
            Poll::Ready(Err(error)) => {
                self.suspect(call, peer, error)?;
                return Poll::Ready(Ok(None));
            }
            Poll::Pending => return Poll::Pending,
        };
        let bytes_max = self.limits.frame_bytes_max;
        if envelope.length > bytes_max {
            let kind = ErrorKind::FrameTooLarge { bytes: envelope.length, bytes_max };
            return Poll::Ready(Err(self.error(call.operation, kind).with_peer(peer)));
        }
        Poll::Ready(Ok(Some(envelope)))
    }

    /// Stores a frame that nobody waits for yet; false if the link broke.
    fn poll_store(
        &mut self,
        cx: &mut Context<'_>,
        call: &mut Call,
        peer: u32,
        wanted: &Envelope,
        envelope: Envelope,
    ) -> Poll<Result<bool>> {
        // A collective that is already over here, or of another epoch, can never be asked for.
        let is_late = envelope.kind != Kind::Message && envelope.sequence < self.collectives;
        if is_late || (envelope.communicator, envelope.epoch) != (wanted.communicator, wanted.epoch) {
            return Poll::Ready(Err(self.mismatch(call, peer, wanted, &envelope)));
        }
        if self.link(peer).parked.is_empty() && envelope.length > 0 {
            if !self.mailbox.has_room(envelope.length) {
                let kind = ErrorKind::MailboxFull { bytes_max: self.mailbox.bytes_max() };
                return Poll::Ready(Err(self.error(call.operation, kind).with_peer(peer)));
            }
            self.link(peer).parked = vec![0; usize::try_from(envelope.length).expect("bounded by the mailbox")];
        }
        match self.link(peer).poll_parked(cx) {
            Poll::Ready(Ok(payload)) => {
                self.mailbox.store(peer, Stored { envelope, payload });
                Poll::Ready(Ok(true))
            }
            Poll::Ready(Err(error)) => {
                self.suspect(call, peer, error)?;
                Poll::Ready(Ok(false))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn mismatch(&self, call: &Call, peer: u32, mine: &Envelope, theirs: &Envelope) -> Error {
        let (mine, theirs) = (mine.to_string(), theirs.to_string());
        self.error(call.operation, ErrorKind::Mismatch { mine, theirs }).with_peer(peer)
    }

    /// Notes that the link to `peer` broke. Malformed bytes fail at once; a broken stream may be
    /// the consequence of another rank's end, so word of that is awaited for a while.
    fn suspect(&mut self, call: &mut Call, peer: u32, error: LinkError) -> Result<()> {
        let path = self.links[peer as usize].as_ref().map(|link| link.info().path);
        let fail = |kind| {
            let error = Error::new(call.operation, kind).on(self.rank).with_peer(peer);
            match path {
                Some(path) => error.via(path),
                None => error,
            }
        };
        match error {
            LinkError::Wire(wire) => Err(fail(ErrorKind::Malformed(wire.to_string())).caused_by(wire)),
            LinkError::Io(io) => {
                let closed = io.kind() == std::io::ErrorKind::UnexpectedEof;
                let how = if closed { "it closed the connection".to_owned() } else { io.to_string() };
                let error = fail(ErrorKind::PeerLost(how)).caused_by(io);
                let until = self.clock.now() + self.limits.cause_wait;
                call.suspect.get_or_insert(Suspect { error, until });
                Ok(())
            }
        }
    }

    /// Looks at everything that can end an operation early: word of a lost rank, a broken link,
    /// the deadline. `only` names the peer of a message: word of others does not
    /// concern it, but ends a collective.
    pub(super) fn poll_trouble(
        &mut self,
        cx: &mut Context<'_>,
        call: &mut Call,
        only: Option<u32>,
    ) -> Poll<Result<()>> {
        self.poll_notices(cx);
        self.poll_upgrade(cx);
        if let Some(lost) = self.lost
            && (only.is_none_or(|only| only == lost) || call.suspect.is_some())
        {
            let kind = ErrorKind::PeerLost("the rendezvous lost its connection".into());
            return Poll::Ready(Err(self.error(call.operation, kind).with_peer(lost)));
        }
        if self.dissolved && !self.formed {
            let kind = ErrorKind::Revoked("the rendezvous dissolved the session".into());
            return Poll::Ready(Err(self.error(call.operation, kind)));
        }
        let at = match &call.suspect {
            // Without a rendezvous no word can come, and a group that forms starts over at once.
            Some(suspect) if self.control.is_some() && self.formed => suspect.until.min(call.deadline),
            Some(_) => Instant::ZERO,
            None => call.deadline,
        };
        if !call.timer.poll_until(cx, at) {
            return Poll::Pending;
        }
        Poll::Ready(Err(match call.suspect.take() {
            Some(suspect) => suspect.error,
            None => self.error(call.operation, ErrorKind::Deadline(self.limits.deadline)),
        }))
    }
}

/// Splits a round into frames; whatever a send of the round reads is received into scratch.
fn plan(call: &Call, round: &Round, steps: &mut [(u32, u32)]) -> (Vec<Sending>, Vec<Receiving>) {
    let bytes = |range: &Range<usize>| range.start * call.element_bytes..range.end * call.element_bytes;
    let (mut sends, mut receives) = (Vec::new(), Vec::new());
    let frame = |step: u32, range: &Range<usize>| Envelope { step, length: range.len() as u64, ..call.envelope };
    for step in round {
        if let Step::Send { to, range } = step {
            let range = bytes(range);
            let number = &mut steps[*to as usize].0;
            sends.push(Sending { peer: *to, outgoing: Outgoing::new(&frame(*number, &range)), range, done: false });
            *number += 1;
        }
    }
    let mut scratch_taken = 0;
    for step in round {
        let (from, side) = match step {
            Step::Send { .. } => continue,
            Step::Receive { from, .. } => (*from, None),
            Step::Reduce { from, side, .. } => (*from, Some(*side)),
        };
        let range = bytes(step.range());
        let number = &mut steps[from as usize].1;
        let envelope = frame(*number, &range);
        *number += 1;
        let place = if needs_scratch(round, step) {
            let at = scratch_taken..scratch_taken + range.len();
            scratch_taken = at.end;
            Place::Scratch { at, target: range, side }
        } else {
            Place::Buffer(range)
        };
        receives.push(Receiving { peer: from, envelope, place, done: false });
    }
    (sends, receives)
}
