//! What all operations have in common: a deadline, and everything that can end them early.

use std::task::{Context, Poll};
use std::time::Duration;

use super::core::{Core, What};
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::net::link::{Attempt, Body, LinkError, Owner, Told};
use crate::proto::frame::{Envelope, Kind};
use crate::proto::mailbox::Stored;
use crate::proto::notice::{NOTICE_BYTES_MAX, Notice};
use crate::proto::wire::WireError;
use crate::time::Instant;

/// After this long without an end, a collective asks those that it waits for what they do. Longer than an
/// ordinary difference between ranks, so that groups which work well never ask.
const ASKS_AFTER: Duration = Duration::from_secs(1);

/// Whose end ends an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Concern {
    /// Any member's.
    Members,
    /// One peer's, by its rank in the whole group.
    Peer(u32),
}

/// Who broke, and until when its cause is awaited.
#[derive(Debug)]
struct Suspect {
    error: Error,
    until: Instant,
}

/// An operation under way.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) id: u64,
    pub(super) operation: Operation,
    pub(super) communicator: u64,
    pub(super) concern: Concern,
    pub(super) deadline: Instant,
    limit: Duration,
    asks_at: Instant,
    has_asked: bool,
    suspect: Option<Suspect>,
    /// Some of the peers that it waits for; kept by what advances it.
    pub(super) waits_for: WaitsFor,
}

/// Some peers, by rank in the whole group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WaitsFor {
    peers: [u32; 4],
    count: usize,
}

impl WaitsFor {
    pub(super) fn clear(&mut self) {
        self.count = 0;
    }

    pub(super) fn add(&mut self, peer: u32) {
        if let Some(place) = self.peers.get_mut(self.count) {
            *place = peer;
            self.count += 1;
        }
    }

    fn all(&self) -> &[u32] {
        &self.peers[..self.count]
    }
}

impl Call {
    pub(super) fn new(core: &Core, id: u64, operation: Operation, communicator: u64, concern: Concern) -> Self {
        let (now, limit) = (core.clock.now(), core.limits.deadline);
        let (deadline, asks_at) = (now + limit, now + ASKS_AFTER);
        let (suspect, has_asked, waits_for) = (None, false, WaitsFor::default());
        Self { id, operation, communicator, concern, deadline, limit, asks_at, has_asked, suspect, waits_for }
    }

    pub(super) fn is_suspicious(&self) -> bool {
        self.suspect.is_some()
    }

    /// What broke does not concern it.
    pub(super) fn forgive(&mut self) {
        self.suspect = None;
    }
}

impl Core {
    fn error(&self, call: &Call, kind: ErrorKind) -> Error {
        let rank = self.communicators.get(&call.communicator).and_then(|state| state.local(self.rank));
        Error::new(call.operation, kind).on(rank.unwrap_or(self.rank))
    }

    /// An error about a peer, given by its rank in the whole group.
    pub(super) fn error_of(&self, call: &Call, peer: u32, kind: ErrorKind) -> Error {
        let local = self.communicators.get(&call.communicator).and_then(|state| state.local(peer));
        let error = self.error(call, kind);
        let error = match local {
            Some(local) => error.with_peer(local),
            None => error,
        };
        match self.links[peer as usize].as_ref() {
            Some(link) => error.via(link.info().path),
            None => error,
        }
    }

    /// Fails what cannot go on.
    pub(super) fn check(&mut self, call: &Call) -> Result<()> {
        match self.revocation(call.communicator, call.operation) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Notes that the link to `peer` broke. Malformed bytes fail at once; a broken stream may be
    /// the consequence of another rank's end, so word of that is awaited for a while.
    pub(super) fn suspect(&mut self, call: &mut Call, peer: u32, error: LinkError) -> Result<()> {
        match error {
            LinkError::Wire(wire) => {
                let error = self.error_of(call, peer, ErrorKind::Malformed(wire.to_string()));
                self.close(peer, "it sent malformed bytes");
                Err(error.caused_by(wire))
            }
            LinkError::Io(io) => {
                let closed = io.kind() == std::io::ErrorKind::UnexpectedEof;
                let how = if closed { "it closed the connection".to_owned() } else { io.to_string() };
                let error = self.error_of(call, peer, ErrorKind::PeerLost(how.clone())).caused_by(io);
                self.close(peer, &how);
                self.suspect_of(call, error);
                Ok(())
            }
        }
    }

    /// Notes that nothing can be sent to `peer` any more. What it has sent is still read: it may say why.
    pub(super) fn suspect_write(&mut self, call: &mut Call, peer: u32, error: LinkError) -> Result<()> {
        let LinkError::Io(io) = error else { return self.suspect(call, peer, error) };
        let error = self.error_of(call, peer, ErrorKind::PeerLost(io.to_string())).caused_by(io);
        self.suspect_of(call, error);
        Ok(())
    }

    fn suspect_of(&self, call: &mut Call, error: Error) {
        let until = self.clock.now() + self.limits.cause_wait;
        call.suspect.get_or_insert(Suspect { error, until });
    }

    /// Whether there is a link to `peer`; without one, why not.
    pub(super) fn has_link(&mut self, call: &mut Call, peer: u32) -> Result<bool> {
        if self.links[peer as usize].is_some() {
            return Ok(true);
        }
        if let Some(how) = self.broken.get(&peer) {
            let error = self.error_of(call, peer, ErrorKind::PeerLost(how.clone()));
            self.suspect_of(call, error);
            return Ok(false);
        }
        let what = "there is no connection to it: this group joined with `peers` for collectives only";
        Err(self.error_of(call, peer, ErrorKind::InvalidArgument(what.into())))
    }

    /// Brings the link to `peer` to a frame that belongs to the operation of `call`: others on the way are left
    /// to their owners, or go to the mailbox. Pending if it is not there yet, or the link broke. A full mailbox is
    /// an error if `strict`: else another link may bring what is waited for.
    pub(super) fn poll_frame_of(
        &mut self,
        attempt: Attempt<'_>,
        call: &mut Call,
        peer: u32,
        strict: bool,
    ) -> Poll<Result<Body>> {
        loop {
            // What was nobody's may be somebody's since.
            let unclaimed = |link: &crate::net::link::Link| link.body.is_some_and(|body| body.owner == Owner::Nobody);
            if self.links[peer as usize].as_ref().is_some_and(unclaimed) {
                self.sort(call, peer)?;
            }
            if !self.has_link(call, peer)? {
                return Poll::Pending;
            }
            let link = self.links[peer as usize].as_mut().expect("just seen");
            match &mut link.body {
                None => match link.poll_head(attempt) {
                    Poll::Ready(Ok(())) => self.sort(call, peer)?,
                    Poll::Ready(Err(error)) => {
                        self.suspect(call, peer, error)?;
                        return Poll::Pending;
                    }
                    Poll::Pending => return Poll::Pending,
                },
                Some(body) => match &mut body.owner {
                    Owner::Operation { id, told } if *id == call.id => {
                        if *told == Told::Yes {
                            *told = Told::Attends;
                        }
                        return Poll::Ready(Ok(*body));
                    }
                    Owner::Operation { .. } => {
                        if self.tell_owner(peer) {
                            self.wake(call.id);
                            return Poll::Pending;
                        }
                        if !self.poll_stow(attempt, call, peer, strict)? {
                            return Poll::Pending;
                        }
                    }
                    Owner::Nobody | Owner::Control | Owner::Discarded => {
                        if !self.poll_pass(attempt, call, peer, strict)? {
                            return Poll::Pending;
                        }
                    }
                },
            }
        }
    }

    /// Finds the owner of the frame whose envelope has just been read from `peer`.
    pub(super) fn sort(&mut self, call: &Call, peer: u32) -> Result<()> {
        let link = self.links[peer as usize].as_ref().expect("its envelope has just been read");
        let envelope = link.body.as_ref().expect("its envelope has just been read").envelope;
        let bytes_max = self.limits.frame_bytes_max;
        let control = matches!(envelope.kind, Kind::Inquiry | Kind::Revoke);
        if envelope.length > bytes_max || (control && envelope.length > NOTICE_BYTES_MAX as u64) {
            let bytes_max = if control { NOTICE_BYTES_MAX as u64 } else { bytes_max };
            let kind = ErrorKind::FrameTooLarge { bytes: envelope.length, bytes_max };
            let error = self.error_of(call, peer, kind);
            // Nothing behind it can be reached.
            self.close(peer, "it announced a frame beyond the limit");
            return Err(error);
        }
        let state = self.communicators.get(&envelope.communicator);
        if state.is_some_and(|state| state.local(peer).is_none()) {
            let what = "a frame of a communicator that it is not a member of".to_owned();
            let error = self.error_of(call, peer, ErrorKind::Malformed(what));
            self.close(peer, "it sent a frame of a communicator that it is not a member of");
            return Err(error);
        }
        let owner = if control { Owner::Control } else { self.owner_of(call, peer, &envelope)? };
        let link = self.links[peer as usize].as_mut().expect("just seen");
        if let Some(body) = &mut link.body {
            body.owner = owner;
        }
        Ok(())
    }

    fn owner_of(&mut self, call: &Call, peer: u32, envelope: &Envelope) -> Result<Owner> {
        let owned = |id| Owner::Operation { id, told: Told::No };
        if envelope.kind == Kind::Message {
            let waiting = self.posted.iter_mut().find_map(|posted| match &mut posted.what {
                What::Receive(pattern, matched @ None) if pattern.fits(peer, envelope) => {
                    *matched = Some((peer, *envelope));
                    Some(posted.id)
                }
                What::Receive(..) | What::Collective(_) | What::Send(..) => None,
            });
            return Ok(waiting.map_or(Owner::Nobody, owned));
        }
        let same = |signature: &Envelope| signature.is_same_collective(envelope);
        let waiting = self.posted.iter().find_map(|posted| match &posted.what {
            What::Collective(signature) if same(signature) => Some((posted.id, *signature)),
            What::Collective(_) | What::Receive(..) | What::Send(..) => None,
        });
        if let Some((id, signature)) = waiting {
            if signature.signature() != envelope.signature() {
                self.disagree(peer, signature, *envelope);
                self.check(call)?;
            }
            return Ok(owned(id));
        }
        // A collective that is already over here can never be asked for.
        let is_late = |state: &super::core::State| state.has_begun(envelope.sequence);
        if self.communicators.get(&envelope.communicator).is_some_and(is_late) {
            if let Some(mine) = self.called(envelope) {
                self.disagree(peer, mine, *envelope);
                self.check(call)?;
            }
            return Ok(Owner::Discarded);
        }
        Ok(Owner::Nobody)
    }

    /// Puts the frame at hand into the mailbox. False if it is not whole yet, or the link broke.
    fn poll_stow(&mut self, attempt: Attempt<'_>, call: &mut Call, peer: u32, strict: bool) -> Result<bool> {
        let link = self.links[peer as usize].as_mut().expect("a frame is at hand");
        let body = link.body.expect("a frame is at hand");
        if link.parked.is_empty() && !self.mailbox.has_room(body.left()) {
            if !strict {
                return Ok(false);
            }
            let kind = ErrorKind::MailboxFull { bytes_max: self.mailbox.bytes_max() };
            return Err(self.error_of(call, peer, kind));
        }
        match link.poll_parked(attempt) {
            Poll::Ready(Ok(())) => {
                let payload = std::mem::take(&mut link.parked);
                #[expect(clippy::unwrap_in_result, reason = "it is in memory")]
                let length = usize::try_from(body.envelope.length).expect("it is in memory");
                let (envelope, taken) = (body.envelope, length - payload.len());
                let owner = match body.owner {
                    Owner::Operation { id, .. } if envelope.kind == Kind::Message => Some(id),
                    Owner::Operation { .. } | Owner::Nobody | Owner::Control | Owner::Discarded => None,
                };
                link.body = None;
                self.moved += body.left();
                self.mailbox.store(Stored { peer, envelope, taken, payload, owner });
                if let Owner::Operation { id, .. } = body.owner {
                    self.wake(id);
                }
                Ok(true)
            }
            Poll::Ready(Err(error)) => {
                self.suspect(call, peer, error)?;
                Ok(false)
            }
            Poll::Pending => Ok(false),
        }
    }

    /// Passes a frame that no operation reads. False if that takes more bytes than have come, or the link broke.
    pub(super) fn poll_pass(&mut self, attempt: Attempt<'_>, call: &mut Call, peer: u32, strict: bool) -> Result<bool> {
        let link = self.links[peer as usize].as_mut().expect("a frame is at hand");
        let body = link.body.expect("a frame is at hand");
        let passed = match body.owner {
            Owner::Nobody | Owner::Operation { .. } => return self.poll_stow(attempt, call, peer, strict),
            Owner::Discarded => link.poll_discard(attempt),
            Owner::Control => link.poll_parked(attempt),
        };
        match passed {
            Poll::Ready(Ok(())) if body.owner == Owner::Control => {
                let payload = std::mem::take(&mut link.parked);
                link.body = None;
                self.heed(call, peer, &body.envelope, &payload)?;
                Ok(true)
            }
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(error)) => {
                self.suspect(call, peer, error)?;
                Ok(false)
            }
            Poll::Pending => Ok(false),
        }
    }

    /// Takes word from a peer that belongs to no operation.
    fn heed(&mut self, call: &mut Call, peer: u32, envelope: &Envelope, payload: &[u8]) -> Result<()> {
        let heeded = if envelope.kind == Kind::Revoke {
            Notice::parse(payload).map(|notice| self.revoked_by(peer, envelope.communicator, notice))
        } else {
            let signature = payload.try_into().map_err(|_| WireError::Short).and_then(Envelope::parse);
            signature.map(|theirs| self.inquired(peer, theirs))
        };
        match heeded {
            Ok(()) => self.check(call),
            Err(error) => self.suspect(call, peer, LinkError::Wire(error)),
        }
    }

    /// Looks at everything that can end an operation early: word of a lost rank, a broken link, a failed
    /// communicator, the deadline.
    pub(super) fn poll_trouble<T>(&mut self, cx: &mut Context<'_>, call: &mut Call) -> Poll<Result<T>> {
        self.poll_notices(cx);
        self.poll_upgrade(cx);
        let _ = self.poll_flush_links(Attempt::Park(cx.waker()));
        if call.is_suspicious() {
            self.listen(Attempt::Park(cx.waker()), call)?;
        }
        self.check(call)?;
        if let Some(lost) = self.lost_of(call) {
            let kind = ErrorKind::PeerLost("the rendezvous lost its connection".into());
            return Poll::Ready(Err(self.error_of(call, lost, kind)));
        }
        if self.is_dissolved() {
            let kind = ErrorKind::Revoked("the rendezvous dissolved the session".into());
            return Poll::Ready(Err(self.error(call, kind)));
        }
        loop {
            let at = match &call.suspect {
                // Without a rendezvous no word can come, and a group that forms starts over at once.
                Some(suspect) if self.control.is_some() && self.formed => suspect.until.min(call.deadline),
                Some(_) => Instant::ZERO,
                None => call.deadline.min(call.asks_at),
            };
            if !self.poll_timer(cx, at) {
                break;
            }
            if let Some(suspect) = call.suspect.take() {
                return Poll::Ready(Err(suspect.error));
            }
            let now = self.clock.now();
            if now >= call.deadline {
                let error = self.error(call, ErrorKind::Deadline(call.limit));
                return Poll::Ready(Err(match call.waits_for.all().first() {
                    Some(peer) => error.with_peer(self.local_of(call, *peer)),
                    None => error,
                }));
            }
            (call.asks_at, call.has_asked) = (now + ASKS_AFTER, true);
            self.ask(call);
        }
        if call.has_asked {
            self.listen(Attempt::Park(cx.waker()), call)?;
            self.check(call)?;
        }
        Poll::Pending
    }

    fn local_of(&self, call: &Call, peer: u32) -> u32 {
        self.communicators.get(&call.communicator).and_then(|state| state.local(peer)).unwrap_or(peer)
    }

    fn lost_of(&self, call: &Call) -> Option<u32> {
        match call.concern {
            Concern::Peer(peer) => {
                let named = self.lost.contains(&peer).then_some(peer);
                named.or_else(|| if call.is_suspicious() { self.lost.first().copied() } else { None })
            }
            Concern::Members => {
                let state = self.communicators.get(&call.communicator)?;
                self.lost.iter().copied().find(|lost| state.local(*lost).is_some())
            }
        }
    }

    /// Asks those that a collective waits for what they do.
    fn ask(&mut self, call: &mut Call) {
        self.retell_owners();
        let Some(What::Collective(signature)) = self.posted(call.id).map(|posted| &posted.what) else { return };
        let signature = *signature;
        let envelope = Envelope {
            communicator: signature.communicator,
            length: crate::proto::frame::ENVELOPE_BYTES as u64,
            ..Envelope::new(Kind::Inquiry)
        };
        for peer in call.waits_for.all() {
            if let Some(link) = self.links[*peer as usize].as_mut().filter(|link| !link.has_queued()) {
                link.queue(&envelope, &signature.emit());
            }
        }
        let waker = self.fan_waker.clone();
        let _ = self.poll_flush_links(Attempt::Park(&waker));
    }

    /// Hears what any peer has to say that belongs to no operation.
    fn listen(&mut self, attempt: Attempt<'_>, call: &mut Call) -> Result<()> {
        for peer in 0..self.size {
            while let Some(link) = self.links[peer as usize].as_mut() {
                let Some(body) = link.body else {
                    // Whoever uses the link finds it broken.
                    let Poll::Ready(Ok(())) = link.poll_head(attempt) else { break };
                    self.sort(call, peer)?;
                    continue;
                };
                let passes = match body.owner {
                    Owner::Control | Owner::Discarded => true,
                    Owner::Nobody => self.mailbox.has_room(body.left()),
                    Owner::Operation { .. } => false,
                };
                if !passes || !self.poll_pass(attempt, call, peer, false)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Ends a communicator for an error of one of its operations, on all of its ranks.
    pub(super) fn fail(&mut self, communicator: u64, error: &Error) {
        let Some(state) = self.communicators.get(&communicator) else { return };
        if state.revoked.is_some() {
            self.mark_told(communicator);
            return;
        }
        let me = state.local(self.rank).unwrap_or(self.rank);
        let notice = match (error.kind(), error.peer()) {
            (ErrorKind::PeerLost(how), Some(rank)) => Notice::Lost { rank, how: how.clone() },
            _ => Notice::Failed { rank: me, text: error.to_string() },
        };
        self.revoke(communicator, error.kind().clone(), error.peer(), error.to_string());
        self.mark_told(communicator);
        self.tell(communicator, &notice);
    }
}
