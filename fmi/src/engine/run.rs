//! Runs schedules over links and memory. The only code that knows buffers.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use fmi_net::planted;

use super::plan::{Plan, PlannedReceive, PlannedRound, PlannedSend};
use super::{Call, Engine};
use crate::channel::{ChannelError, Mode, Outgoing};
use crate::engine::parcel::Parcel;
use crate::engine::transfer::Read;
use crate::error::{ErrorKind, Result};
use crate::proto::frame::{Envelope, Kind};
use crate::proto::group::WaitsFor;
use crate::proto::op::{Carried, UNTOUCHED, carried};
use crate::proto::rank::Slot;
use crate::schedule::{Memory, Side, Span, Step};

/// What arrives to be combined passes through this much memory, which stays in the cache.
const BOUNCE_BYTES: usize = 64 << 10;
/// A workspace longer than this is not kept.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// How far a transfer is.
#[derive(Debug, Default)]
struct Progress {
    /// Of a send: how much of it is sent.
    parcel: Parcel,
    /// Of a receive: payload bytes received.
    moved: usize,
    done: bool,
    /// The beginning of an element whose end has not come yet.
    rest: Vec<u8>,
}

/// Memory of an operation, kept for the next one. In units of 16 bytes, so that any element is aligned.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    work: Vec<u128>,
    scratch: Vec<u128>,
    bounce: Vec<u128>,
    /// Sums of half precision that are carried, for the elements of the receive buffer and of `work`.
    sums: (Vec<f32>, Vec<f32>),
    sends: Vec<Progress>,
    receives: Vec<Progress>,
}

impl Workspace {
    pub(crate) fn is_worth_keeping(&self) -> bool {
        (self.work.len() + self.scratch.len()) * size_of::<u128>() <= KEPT_BYTES_MAX
    }

    fn make_room(&mut self, plan: &Plan, element_bytes: usize) {
        let units = |elements: usize| (elements * element_bytes).div_ceil(size_of::<u128>());
        grow(&mut self.work, units(plan.work));
        grow(&mut self.scratch, units(plan.scratch));
        grow(&mut self.bounce, BOUNCE_BYTES.max(2 * element_bytes).div_ceil(size_of::<u128>()));
        self.sends.resize_with(self.sends.len().max(plan.widest), Progress::default);
        self.receives.resize_with(self.receives.len().max(plan.widest), Progress::default);
    }
}

fn grow(memory: &mut Vec<u128>, units: usize) {
    if memory.len() < units {
        memory.resize(units, 0);
    }
}

/// Combines `other` with `own`, or with `into` itself if there is none; the result goes to the first argument.
pub(crate) type Combine<'a> = &'a mut (dyn FnMut(&mut [u8], Option<&[u8]>, &[u8], Side) + Send);

/// The memories of a run, as bytes.
struct Memories<'a> {
    send: &'a [u8],
    receive: &'a mut [u8],
    work: &'a mut [u8],
    element_bytes: usize,
    carry: Option<Carry<'a>>,
}

/// Sums that are kept in `f32`.
struct Carry<'a> {
    combine: Carried,
    receive: &'a mut [f32],
    work: &'a mut [f32],
}

impl<'a> Carry<'a> {
    fn new(combine: Option<Carried>, (receive, work): &'a mut (Vec<f32>, Vec<f32>)) -> Option<Self> {
        combine.map(|combine| Self { combine, receive, work })
    }

    /// The sums for a memory that is written.
    fn of(&mut self, memory: Memory) -> &mut [f32] {
        if memory == Memory::Receive { self.receive } else { self.work }
    }
}

impl Memories<'_> {
    fn bytes(&self, span: &Span) -> Range<usize> {
        span.start * self.element_bytes..span.end * self.element_bytes
    }

    fn read(&self, span: &Span) -> &[u8] {
        let memory: &[u8] = match span.memory {
            Memory::Send => self.send,
            Memory::Receive => self.receive,
            Memory::Work => self.work,
        };
        &memory[self.bytes(span)]
    }

    fn write(&mut self, span: &Span) -> &mut [u8] {
        let range = self.bytes(span);
        match span.memory {
            Memory::Send => panic!("schedules do not write what the caller only lends"),
            Memory::Receive => &mut self.receive[range],
            Memory::Work => &mut self.work[range],
        }
    }

    /// One span to read and another to write.
    fn both(&mut self, read: &Span, write: &Span) -> (&[u8], &mut [u8]) {
        let (from, into) = (self.bytes(read), self.bytes(write));
        match (read.memory, write.memory) {
            (Memory::Send, Memory::Receive) => (&self.send[from], &mut self.receive[into]),
            (Memory::Send, Memory::Work) => (&self.send[from], &mut self.work[into]),
            (Memory::Receive, Memory::Work) => (&self.receive[from], &mut self.work[into]),
            (Memory::Work, Memory::Receive) => (&self.work[from], &mut self.receive[into]),
            (Memory::Receive, Memory::Receive) => apart(self.receive, from, into),
            (Memory::Work, Memory::Work) => apart(self.work, from, into),
            (_, Memory::Send) => panic!("schedules do not write what the caller only lends"),
        }
    }

    /// Combines `other` into a part of `into`, which begins `at` bytes behind its start.
    fn combine(&mut self, combine: &mut Combine<'_>, (into, own, side): (&Span, &Span, Side), at: usize, other: &[u8]) {
        let part = at..at + other.len();
        let first = into.start + at / self.element_bytes;
        let elements = first..first + other.len() / self.element_bytes;
        let mut carry = self.carry.take();
        let mut apply = |target: &mut [u8], own: Option<&[u8]>| match &mut carry {
            Some(carry) => (carry.combine)(&mut carry.of(into.memory)[elements.clone()], target, own, other),
            None => combine(target, own, other, side),
        };
        if own == into {
            apply(&mut self.write(into)[part], None);
        } else {
            let (own, target) = self.both(own, into);
            apply(&mut target[part.clone()], Some(&own[part]));
        }
        self.carry = carry;
    }
}

/// Two ranges of one memory that do not overlap.
fn apart(memory: &mut [u8], read: Range<usize>, write: Range<usize>) -> (&[u8], &mut [u8]) {
    if read.end <= write.start {
        let (low, high) = memory.split_at_mut(write.start);
        (&low[read], &mut high[..write.len()])
    } else {
        let (low, high) = memory.split_at_mut(read.start);
        (&high[..read.len()], &mut low[write])
    }
}

/// One run of a plan.
#[derive(Debug)]
pub(crate) struct Run {
    round: usize,
    entered: bool,
    workspace: Workspace,
    /// How sums are carried, if they are.
    carried: Option<Carried>,
}

/// What a run works on.
pub(crate) struct Job<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) signature: &'a Envelope,
    pub(crate) element_bytes: usize,
    pub(crate) send: &'a [u8],
    pub(crate) receive: &'a mut [u8],
    /// Whether it is only to send: what comes is for a later turn, since little can have come.
    pub(crate) only_sends: bool,
    /// Whether its operator has failed: nothing of it is sent any more.
    pub(crate) has_failed: &'a AtomicBool,
}

impl Run {
    pub(crate) fn new(workspace: Workspace) -> Self {
        Self { round: 0, entered: false, workspace, carried: None }
    }

    /// Its memory, when it has ended.
    pub(crate) fn take_workspace(&mut self) -> Workspace {
        std::mem::take(&mut self.workspace)
    }

    /// Goes on as far as it can.
    pub(crate) fn advance(
        &mut self,
        engine: &mut Engine,
        mode: Mode<'_>,
        call: &mut Call,
        job: &mut Job<'_>,
        combine: &mut Combine<'_>,
    ) -> Poll<Result<()>> {
        engine.check(call)?;
        while let Some(round) = job.plan.rounds.get(self.round) {
            if !self.entered {
                if self.round == 0 {
                    engine.begin_long(call, job.plan, job.element_bytes);
                }
                self.enter(round, job);
            }
            loop {
                // Piece by piece in both directions, for as long as anything moves.
                let moved = engine.moved;
                if engine.group.is_suspicious(call.id) || job.has_failed.load(Ordering::Relaxed) {
                    return Poll::Pending;
                }
                if self.transfer(engine, mode, call, round, job, combine)? {
                    break;
                }
                if engine.moved == moved {
                    return Poll::Pending;
                }
            }
            self.leave(round, job, combine);
            if job.has_failed.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            (self.round, self.entered) = (self.round + 1, false);
        }
        swap_elements_if_planted(job);
        Poll::Ready(Ok(()))
    }

    fn enter(&mut self, round: &PlannedRound, job: &Job<'_>) {
        if self.round == 0 {
            self.workspace.make_room(job.plan, job.element_bytes);
            let (datatype, operator) = (job.signature.datatype, job.signature.operator);
            self.carried = if job.plan.keeps_sums { carried(datatype, operator) } else { None };
            if self.carried.is_some() {
                let (receive, work) = &mut self.workspace.sums;
                receive.clear();
                receive.resize(job.receive.len() / job.element_bytes, UNTOUCHED);
                work.clear();
                work.resize(job.plan.work, UNTOUCHED);
            }
        }
        let sends = self.workspace.sends.iter_mut().take(round.sends.len());
        let receives = self.workspace.receives.iter_mut().take(round.receives.len());
        for progress in sends.chain(receives) {
            (progress.parcel, progress.moved, progress.done) = (Parcel::default(), 0, false);
            progress.rest.clear();
        }
        self.entered = true;
    }

    /// Moves what can be moved; whether the round's transfers are over.
    fn transfer(
        &mut self,
        engine: &mut Engine,
        mode: Mode<'_>,
        call: &mut Call,
        round: &PlannedRound,
        job: &mut Job<'_>,
        combine: &mut Combine<'_>,
    ) -> Result<bool> {
        let mut done = true;
        call.waits_for = WaitsFor::default();
        for (index, send) in round.sends.iter().enumerate() {
            if self.workspace.sends[index].done {
                continue;
            }
            let blocked = send.after.is_some_and(|earlier| !self.workspace.sends[earlier].done);
            let sent = !blocked && self.send(engine, mode, call, send, index, job)?;
            if !sent && !blocked {
                call.waits_for.add(send.peer);
            }
            done &= sent;
        }
        if job.only_sends {
            return Ok(done && round.receives.is_empty());
        }
        for (index, receive) in round.receives.iter().enumerate() {
            if self.workspace.receives[index].done {
                continue;
            }
            let blocked = receive.after.is_some_and(|earlier| !self.workspace.receives[earlier].done);
            if blocked || !self.receive(engine, mode, call, (receive, index), job, combine)? {
                done = false;
                if !blocked {
                    call.waits_for.add(receive.peer);
                }
            }
        }
        Ok(done)
    }

    fn send(
        &mut self,
        engine: &mut Engine,
        mode: Mode<'_>,
        call: &mut Call,
        send: &PlannedSend,
        index: usize,
        job: &Job<'_>,
    ) -> Result<bool> {
        if job.has_failed.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let work = bytemuck::cast_slice_mut(&mut self.workspace.work);
        let element_bytes = job.element_bytes;
        let memories = Memories { send: job.send, receive: &mut [], work, element_bytes, carry: None };
        let data = match send.data.memory {
            Memory::Receive => &job.receive[memories.bytes(&send.data)],
            Memory::Send | Memory::Work => memories.read(&send.data),
        };
        let whole = Envelope { step: send.number, ..*job.signature };
        let progress = &mut self.workspace.sends[index];
        while !progress.done {
            let parcel = &mut progress.parcel;
            if parcel.done > 0 && !engine.is_ready(mode, call, send.peer) {
                return Ok(false);
            }
            let (head, part) = parcel.frame(&whole, data.len(), engine.eager_bytes_max());
            let frame = Outgoing { head: &head, payload: &data[part.clone()], whole: false };
            if !engine.poll_send_frame(mode, call, send.peer, frame, &mut parcel.sent)? {
                return Ok(false);
            }
            parcel.complete_frame(part.end);
            progress.done = part.end == data.len();
        }
        Ok(true)
    }

    fn receive(
        &mut self,
        engine: &mut Engine,
        mode: Mode<'_>,
        call: &mut Call,
        (receive, index): (&PlannedReceive, usize),
        job: &mut Job<'_>,
        combine: &mut Combine<'_>,
    ) -> Result<bool> {
        let length = receive.into.len() * job.element_bytes;
        let expected = Envelope { step: receive.number, length: length as u64, ..*job.signature };
        let longest = job.plan.longest.saturating_mul(job.element_bytes);
        let Workspace { work, scratch, bounce, receives, sums, .. } = &mut self.workspace;
        let progress = &mut receives[index];
        let mut sink = Sink {
            memories: Memories {
                send: job.send,
                receive: &mut *job.receive,
                work: bytemuck::cast_slice_mut(work),
                element_bytes: job.element_bytes,
                carry: Carry::new(self.carried, sums),
            },
            waits: receive.waits_at.map(|first| first * job.element_bytes..first * job.element_bytes + length),
            scratch: bytemuck::cast_slice_mut(scratch),
            bounce: bytemuck::cast_slice_mut(bounce),
            receive,
            combine,
        };
        while !progress.done {
            if let Some(stored) = engine.group.take_collective(receive.peer, &expected) {
                let end = progress.moved + stored.payload.len();
                accept(engine, call, receive.peer, (&expected, end), &stored.envelope)?;
                invite(engine, call, receive.peer, &stored.envelope, longest);
                sink.feed(progress, &stored.payload, length);
                progress.done = !stored.envelope.more;
                continue;
            }
            let Poll::Ready(()) = engine.poll_bring(mode, call, receive.peer)? else { return Ok(false) };
            let theirs = *engine.group.at_hand(receive.peer).expect("it has a frame");
            let end = engine.end_of_frame(receive.peer, progress.moved);
            accept(engine, call, receive.peer, (&expected, end), &theirs)?;
            if progress.moved == 0 {
                invite(engine, call, receive.peer, &theirs, longest);
            }
            let mut moved = progress.moved;
            let fill = |read: &mut Read<'_>, _| sink.fill(progress, length, read);
            let Poll::Ready(()) = engine.poll_payload(mode, call.id, receive.peer, &mut moved, fill)? else {
                return Ok(false);
            };
            progress.done = !theirs.more;
        }
        Ok(true)
    }

    /// Applies what had to wait, then the local steps.
    fn leave(&mut self, round: &PlannedRound, job: &mut Job<'_>, combine: &mut Combine<'_>) {
        let Workspace { work, scratch, sums, .. } = &mut self.workspace;
        let scratch: &[u8] = bytemuck::cast_slice(scratch);
        let mut memories = Memories {
            send: job.send,
            receive: &mut *job.receive,
            work: bytemuck::cast_slice_mut(work),
            element_bytes: job.element_bytes,
            carry: Carry::new(self.carried, sums),
        };
        for receive in &round.receives {
            let Some(first) = receive.waits_at else { continue };
            let arrived = &scratch[first * job.element_bytes..(first + receive.into.len()) * job.element_bytes];
            match &receive.combine {
                None => memories.write(&receive.into).copy_from_slice(arrived),
                Some((own, side)) => memories.combine(combine, (&receive.into, own, *side), 0, arrived),
            }
        }
        for step in &round.locals {
            match step {
                Step::Copy { data, into } => {
                    let (data, into) = memories.both(data, into);
                    into.copy_from_slice(data);
                }
                Step::Combine { other, into, side } => {
                    let (other, into) = memories.both(other, into);
                    combine(into, None, other, *side);
                }
                Step::Send { .. } | Step::Receive { .. } | Step::Reduce { .. } => {}
            }
        }
    }

    /// Hands the rest of frames that are partly sent to their links, so that the streams stay whole.
    pub(crate) fn abandon(&self, engine: &mut Engine, call: &Call, job: &Job<'_>) {
        let Some(round) = job.plan.rounds.get(self.round).filter(|_| self.entered) else { return };
        let work: &[u8] = bytemuck::cast_slice(&self.workspace.work);
        for (send, progress) in round.sends.iter().zip(&self.workspace.sends) {
            if progress.done || progress.parcel.sent == 0 {
                continue;
            }
            let bytes = send.data.start * job.element_bytes..send.data.end * job.element_bytes;
            let data = match send.data.memory {
                Memory::Send => &job.send[bytes],
                Memory::Receive => &job.receive[bytes],
                Memory::Work => &work[bytes],
            };
            let whole = Envelope { step: send.number, ..*job.signature };
            let (head, part) = progress.parcel.frame(&whole, data.len(), engine.eager_bytes_max());
            let frame = Outgoing { head: &head, payload: &data[part], whole: true };
            engine.take_over(send.peer, call.id, frame, progress.parcel.sent);
        }
    }
}

/// The place of a fault. In long vectors only, which fewer tests look at.
fn swap_elements_if_planted(job: &mut Job<'_>) {
    let (bytes, elements) = (job.element_bytes, job.receive.len() / job.element_bytes.max(1));
    let is_long = job.signature.kind == Kind::Allreduce && elements > 4000;
    if is_long && planted::is(planted::Fault::SwappedElements) {
        let (first, second) = job.receive[elements / 2 * bytes..].split_at_mut(bytes);
        first.swap_with_slice(&mut second[..bytes]);
    }
}

/// Where arriving bytes of one transfer go.
struct Sink<'a, 'b, 'c> {
    memories: Memories<'a>,
    /// Its part of scratch memory, if it waits there.
    waits: Option<Range<usize>>,
    scratch: &'a mut [u8],
    bounce: &'a mut [u8],
    receive: &'a PlannedReceive,
    combine: &'b mut Combine<'c>,
}

impl Sink<'_, '_, '_> {
    /// Reads some bytes with `read`, straight to where they belong if nothing is to be done to them.
    fn fill(
        &mut self,
        progress: &mut Progress,
        length: usize,
        read: &mut Read<'_>,
    ) -> Poll<Result<usize, ChannelError>> {
        let target = match (&self.waits, &self.receive.combine) {
            (Some(range), _) => &mut self.scratch[range.clone()][progress.moved..],
            (None, None) => &mut self.memories.write(&self.receive.into)[progress.moved..],
            (None, Some(_)) => {
                let rest = progress.rest.len();
                self.bounce[..rest].copy_from_slice(&progress.rest);
                let room = (length - progress.moved).min(self.bounce.len() - rest);
                let read = std::task::ready!(read(&mut self.bounce[rest..rest + room]))?;
                self.combine_bounced(progress, rest + read);
                progress.moved += read;
                return Poll::Ready(Ok(read));
            }
        };
        let read = std::task::ready!(read(target))?;
        progress.moved += read;
        Poll::Ready(Ok(read))
    }

    /// Combines the whole elements among the first `filled` bytes of the bounce memory.
    fn combine_bounced(&mut self, progress: &mut Progress, filled: usize) {
        let Some((own, side)) = &self.receive.combine else { return };
        let whole = filled - filled % self.memories.element_bytes;
        let at = progress.moved - progress.rest.len();
        self.memories.combine(self.combine, (&self.receive.into, own, *side), at, &self.bounce[..whole]);
        progress.rest.clear();
        progress.rest.extend_from_slice(&self.bounce[whole..filled]);
    }

    /// Takes bytes that have arrived before, of `length` in all.
    fn feed(&mut self, progress: &mut Progress, mut bytes: &[u8], length: usize) {
        while !bytes.is_empty() {
            let taken = self.fill(progress, length, &mut |target| {
                let count = target.len().min(bytes.len());
                target[..count].copy_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                Poll::Ready(Ok(count))
            });
            assert!(matches!(taken, Poll::Ready(Ok(_))), "memory neither waits nor fails");
        }
    }
}

/// Tells a peer to go on that has less sent unasked than this rank, where nobody expected that it would wait.
fn invite(engine: &mut Engine, call: &Call, peer: Slot, theirs: &Envelope, longest: usize) {
    if theirs.more && longest <= engine.eager_bytes_max() {
        engine.group.tell_ready_rank(call.id, peer);
    }
}

/// Checks a frame, which ends at `end` in its step, against what is wanted.
fn accept(
    engine: &mut Engine,
    call: &Call,
    peer: Slot,
    (wanted, end): (&Envelope, usize),
    theirs: &Envelope,
) -> Result<()> {
    let length = wanted.length;
    let fits = if theirs.more { (end as u64) < length && theirs.length > 0 } else { end as u64 == length };
    if fits && (Envelope { length, more: false, ..*theirs }) == *wanted {
        return Ok(());
    }
    engine.group.disagree(peer, *wanted, *theirs);
    engine.check(call)?;
    let kind = ErrorKind::Mismatch { mine: wanted.to_string(), theirs: theirs.to_string() };
    let failure = engine.group.failure_of(call.id, peer, kind);
    Err(engine.error_of(call, failure))
}
