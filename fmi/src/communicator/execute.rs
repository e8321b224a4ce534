//! Runs schedules over links and memory. The only code that knows buffers.

use std::ops::Range;
use std::task::Poll;

use super::call::Call;
use super::core::Core;
use crate::error::{ErrorKind, Result};
use crate::net::link::Attempt;
use crate::proto::frame::Envelope;
use crate::schedule::{Algorithm, Choice, Memory, Problem, Round, Schedule, Side, Span, Step, must_wait};

/// What arrives to be combined passes through this much memory, which stays in the cache.
const BOUNCE_BYTES: usize = 64 << 10;
/// A workspace longer than this is not kept.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// What a plan was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PlanKey {
    pub(super) communicator: u64,
    pub(super) problem: Problem,
}

/// A frame to send.
#[derive(Clone, Copy, Debug)]
struct PlannedSend {
    peer: u32,
    number: u32,
    data: Span,
    /// An earlier frame of the round to the same peer.
    after: Option<usize>,
}

/// A frame to receive.
#[derive(Clone, Copy, Debug)]
struct PlannedReceive {
    peer: u32,
    number: u32,
    into: Span,
    combine: Option<(Span, Side)>,
    /// First element of the scratch memory in which it waits for the end of the round.
    waits_at: Option<usize>,
    /// An earlier frame of the round from the same peer.
    after: Option<usize>,
}

#[derive(Debug, Default)]
struct PlannedRound {
    sends: Vec<PlannedSend>,
    receives: Vec<PlannedReceive>,
    locals: Vec<Step>,
}

/// A schedule with all that does not change from run to run.
#[derive(Debug)]
pub(super) struct Plan {
    rounds: Vec<PlannedRound>,
    pub(super) choice: Choice,
    work: usize,
    scratch: usize,
    widest: usize,
}

impl Plan {
    /// Numbers the frames of `schedule` for each pair; `world` gives ranks of the whole group.
    pub(super) fn new(schedule: &Schedule, choice: Choice, size: u32, world: impl Fn(u32) -> u32) -> Self {
        let mut numbers = vec![(0u32, 0u32); size as usize];
        let (mut scratch, mut widest) = (0, 0);
        let mut rounds = Vec::with_capacity(schedule.rounds.len());
        for round in &schedule.rounds {
            let planned = plan_round(round, &mut numbers, &world, &mut scratch);
            widest = widest.max(planned.sends.len()).max(planned.receives.len());
            rounds.push(planned);
        }
        Self { rounds, choice, work: schedule.work, scratch, widest }
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.choice.algorithm
    }
}

fn plan_round(
    round: &Round,
    numbers: &mut [(u32, u32)],
    world: &impl Fn(u32) -> u32,
    scratch: &mut usize,
) -> PlannedRound {
    let mut planned = PlannedRound::default();
    let mut taken = 0;
    for (index, step) in round.iter().enumerate() {
        match *step {
            Step::Send { to, data } => {
                let number = next(&mut numbers[to as usize].0);
                let peer = world(to);
                let after = planned.sends.iter().rposition(|send| send.peer == peer);
                planned.sends.push(PlannedSend { peer, number, data, after });
            }
            Step::Receive { from, into } | Step::Reduce { from, into, .. } => {
                let number = next(&mut numbers[from as usize].1);
                let peer = world(from);
                let after = planned.receives.iter().rposition(|receive| receive.peer == peer);
                let combine = if let Step::Reduce { own, side, .. } = step { Some((*own, *side)) } else { None };
                let waits_at = must_wait(round, index).then_some(taken);
                taken += if waits_at.is_some() { into.len() } else { 0 };
                planned.receives.push(PlannedReceive { peer, number, into, combine, waits_at, after });
            }
            Step::Copy { .. } | Step::Combine { .. } => planned.locals.push(*step),
        }
    }
    *scratch = taken.max(*scratch);
    planned
}

fn next(number: &mut u32) -> u32 {
    *number += 1;
    *number - 1
}

/// How far a transfer is.
#[derive(Debug, Default)]
struct Progress {
    /// Bytes of the frame sent, or of the payload received.
    moved: usize,
    done: bool,
    /// The beginning of an element whose end has not come yet.
    rest: Vec<u8>,
}

/// Memory of an operation, kept for the next one. In units of 16 bytes, so that any element is aligned.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    work: Vec<u128>,
    scratch: Vec<u128>,
    bounce: Vec<u128>,
    sends: Vec<Progress>,
    receives: Vec<Progress>,
}

impl Workspace {
    pub(super) fn is_worth_keeping(&self) -> bool {
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
pub(super) type Combine<'a> = &'a mut (dyn FnMut(&mut [u8], Option<&[u8]>, &[u8], Side) + Send);

/// The memories of a run, as bytes.
struct Memories<'a> {
    send: &'a [u8],
    receive: &'a mut [u8],
    work: &'a mut [u8],
    element_bytes: usize,
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
        if own == into {
            combine(&mut self.write(into)[part], None, other, side);
        } else {
            let (own, into) = self.both(own, into);
            combine(&mut into[part.clone()], Some(&own[part]), other, side);
        }
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
pub(super) struct Run {
    round: usize,
    entered: bool,
    workspace: Workspace,
}

/// What a run works on.
pub(super) struct Job<'a> {
    pub(super) plan: &'a Plan,
    pub(super) signature: &'a Envelope,
    pub(super) element_bytes: usize,
    pub(super) send: &'a [u8],
    pub(super) receive: &'a mut [u8],
}

impl Run {
    pub(super) fn new(workspace: Workspace) -> Self {
        Self { round: 0, entered: false, workspace }
    }

    pub(super) fn into_workspace(self) -> Workspace {
        self.workspace
    }

    /// Goes on as far as it can.
    pub(super) fn advance(
        &mut self,
        core: &mut Core,
        attempt: Attempt<'_>,
        call: &mut Call,
        job: &mut Job<'_>,
        combine: &mut Combine<'_>,
    ) -> Poll<Result<()>> {
        core.check(call)?;
        while let Some(round) = job.plan.rounds.get(self.round) {
            if !self.entered {
                self.enter(round, job);
            }
            loop {
                // Piece by piece in both directions, for as long as anything moves.
                let moved = core.moved;
                if call.is_suspicious() {
                    return Poll::Pending;
                }
                if self.transfer(core, attempt, call, round, job, combine)? {
                    break;
                }
                if core.moved == moved {
                    return Poll::Pending;
                }
            }
            self.leave(round, job, combine);
            (self.round, self.entered) = (self.round + 1, false);
        }
        Poll::Ready(Ok(()))
    }

    fn enter(&mut self, round: &PlannedRound, job: &Job<'_>) {
        if self.round == 0 {
            self.workspace.make_room(job.plan, job.element_bytes);
        }
        let sends = self.workspace.sends.iter_mut().take(round.sends.len());
        let receives = self.workspace.receives.iter_mut().take(round.receives.len());
        for progress in sends.chain(receives) {
            (progress.moved, progress.done) = (0, false);
            progress.rest.clear();
        }
        self.entered = true;
    }

    /// Moves what can be moved; whether the round's transfers are over.
    fn transfer(
        &mut self,
        core: &mut Core,
        attempt: Attempt<'_>,
        call: &mut Call,
        round: &PlannedRound,
        job: &mut Job<'_>,
        combine: &mut Combine<'_>,
    ) -> Result<bool> {
        let mut done = true;
        call.waits_for.clear();
        for (index, send) in round.sends.iter().enumerate() {
            if self.workspace.sends[index].done {
                continue;
            }
            let blocked = send.after.is_some_and(|earlier| !self.workspace.sends[earlier].done);
            done &= !blocked && self.send(core, attempt, call, send, index, job)?;
        }
        for (index, receive) in round.receives.iter().enumerate() {
            if self.workspace.receives[index].done {
                continue;
            }
            let blocked = receive.after.is_some_and(|earlier| !self.workspace.receives[earlier].done);
            if blocked || !self.receive(core, attempt, call, (receive, index), job, combine)? {
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
        core: &mut Core,
        attempt: Attempt<'_>,
        call: &mut Call,
        send: &PlannedSend,
        index: usize,
        job: &Job<'_>,
    ) -> Result<bool> {
        let work = bytemuck::cast_slice_mut(&mut self.workspace.work);
        let memories = Memories { send: job.send, receive: &mut [], work, element_bytes: job.element_bytes };
        let data = match send.data.memory {
            Memory::Receive => &job.receive[memories.bytes(&send.data)],
            Memory::Send | Memory::Work => memories.read(&send.data),
        };
        let head = Envelope { step: send.number, length: data.len() as u64, ..*job.signature }.emit();
        let progress = &mut self.workspace.sends[index];
        progress.done = core.poll_send_frame(attempt, call, send.peer, &head, data, &mut progress.moved)?;
        Ok(progress.done)
    }

    fn receive(
        &mut self,
        core: &mut Core,
        attempt: Attempt<'_>,
        call: &mut Call,
        (receive, index): (&PlannedReceive, usize),
        job: &mut Job<'_>,
        combine: &mut Combine<'_>,
    ) -> Result<bool> {
        let length = receive.into.len() * job.element_bytes;
        let expected = Envelope { step: receive.number, length: length as u64, ..*job.signature };
        let Workspace { work, scratch, bounce, receives, .. } = &mut self.workspace;
        let progress = &mut receives[index];
        let mut sink = Sink {
            memories: Memories {
                send: job.send,
                receive: &mut *job.receive,
                work: bytemuck::cast_slice_mut(work),
                element_bytes: job.element_bytes,
            },
            waits: receive.waits_at.map(|first| first * job.element_bytes..first * job.element_bytes + length),
            scratch: bytemuck::cast_slice_mut(scratch),
            bounce: bytemuck::cast_slice_mut(bounce),
            receive,
            combine,
        };
        if !core.mailbox.is_empty()
            && let Some(stored) = core.mailbox.take_collective(receive.peer, &expected)
        {
            core.accept(call, receive.peer, &expected, &stored.envelope)?;
            sink.feed(progress, &stored.payload, length);
            progress.done = true;
            return Ok(true);
        }
        let Poll::Ready(body) = core.poll_frame_of(attempt, call, receive.peer, true)? else { return Ok(false) };
        core.accept(call, receive.peer, &expected, &body.envelope)?;
        let link = core.links[receive.peer as usize].as_mut().expect("it has a frame");
        // Another operation may have begun to put it aside.
        let parked = std::mem::take(&mut link.parked);
        sink.feed(progress, &parked, length);
        while progress.moved < length {
            match sink.fill(progress, length, |target| link.poll_body(attempt, target)) {
                Poll::Ready(Ok(read)) => core.moved += read as u64,
                Poll::Ready(Err(error)) => {
                    core.suspect(call, receive.peer, error)?;
                    return Ok(false);
                }
                Poll::Pending => return Ok(false),
            }
        }
        link.body = None;
        core.moved += 1;
        core.wake_others(call.id);
        progress.done = true;
        Ok(true)
    }

    /// Applies what had to wait, then the local steps.
    fn leave(&mut self, round: &PlannedRound, job: &mut Job<'_>, combine: &mut Combine<'_>) {
        let Workspace { work, scratch, .. } = &mut self.workspace;
        let scratch: &[u8] = bytemuck::cast_slice(scratch);
        let mut memories = Memories {
            send: job.send,
            receive: &mut *job.receive,
            work: bytemuck::cast_slice_mut(work),
            element_bytes: job.element_bytes,
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
    pub(super) fn abandon(&self, core: &mut Core, call: &Call, job: &Job<'_>) {
        let Some(round) = job.plan.rounds.get(self.round).filter(|_| self.entered) else { return };
        let work: &[u8] = bytemuck::cast_slice(&self.workspace.work);
        for (send, progress) in round.sends.iter().zip(&self.workspace.sends) {
            if progress.done || progress.moved == 0 {
                continue;
            }
            let bytes = send.data.start * job.element_bytes..send.data.end * job.element_bytes;
            let data = match send.data.memory {
                Memory::Send => &job.send[bytes],
                Memory::Receive => &job.receive[bytes],
                Memory::Work => &work[bytes],
            };
            let head = Envelope { step: send.number, length: data.len() as u64, ..*job.signature }.emit();
            core.take_over(send.peer, call.id, &head, data, progress.moved);
        }
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
    fn fill<E>(
        &mut self,
        progress: &mut Progress,
        length: usize,
        mut read: impl FnMut(&mut [u8]) -> Poll<std::result::Result<usize, E>>,
    ) -> Poll<std::result::Result<usize, E>> {
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
            let taken: Poll<std::result::Result<usize, ()>> = self.fill(progress, length, |target| {
                let count = target.len().min(bytes.len());
                target[..count].copy_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                Poll::Ready(Ok(count))
            });
            assert_eq!(taken.map(|taken| taken.is_ok()), Poll::Ready(true), "memory neither waits nor fails");
        }
    }
}

impl Core {
    /// Checks a frame against what is wanted.
    fn accept(&mut self, call: &Call, peer: u32, wanted: &Envelope, theirs: &Envelope) -> Result<()> {
        if wanted == theirs {
            return Ok(());
        }
        self.disagree(peer, *wanted, *theirs);
        self.check(call)?;
        let kind = ErrorKind::Mismatch { mine: wanted.to_string(), theirs: theirs.to_string() };
        Err(self.error_of(call, peer, kind))
    }

    /// Sends a frame of an operation; whether it is sent.
    pub(super) fn poll_send_frame(
        &mut self,
        attempt: Attempt<'_>,
        call: &mut Call,
        peer: u32,
        head: &[u8; crate::proto::frame::ENVELOPE_BYTES],
        data: &[u8],
        sent: &mut usize,
    ) -> Result<bool> {
        if !self.has_link(call, peer)? {
            return Ok(false);
        }
        let link = self.links[peer as usize].as_mut().expect("just seen");
        let before = *sent;
        let whole = matches!(call.concern, super::call::Concern::Peer(_));
        let poll = link.poll_send(attempt, call.id, head, data, sent, whole);
        self.moved += (*sent - before) as u64;
        match poll {
            Poll::Ready(Ok(())) => {
                self.wake_others(call.id);
                Ok(true)
            }
            Poll::Ready(Err(error)) => {
                self.suspect_write(call, peer, error)?;
                Ok(false)
            }
            Poll::Pending => Ok(false),
        }
    }

    /// Completes a frame of an operation that ends before it is sent.
    pub(super) fn take_over(
        &mut self,
        peer: u32,
        id: u64,
        head: &[u8; crate::proto::frame::ENVELOPE_BYTES],
        data: &[u8],
        sent: usize,
    ) {
        if let Some(link) = self.links[peer as usize].as_mut().filter(|link| link.writing == Some(id)) {
            link.queue_rest(head, data, sent);
            let waker = self.fan_waker.clone();
            // A broken link shows at its next use.
            let _ = link.poll_flush(Attempt::Park(&waker));
        }
    }
}
