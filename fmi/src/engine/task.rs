//! Operations that own their memory: they move whichever operation is polled.
//!
//! An operation that borrows its buffers moves only while its own future is polled, since a future may be forgotten. So
//! ranks that await several of them in different orders could wait for each other. Sends and receives whose memory
//! belongs to their requests are therefore the engine's until they end ([`owned`](super::owned)), and short collectives
//! are copied: always if that costs next to nothing, and up to what is sent unasked where other operations are outstanding.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use super::owned::{Inbound, Outbound};
use super::plan::Plan;
use super::run::{Combine, Job, Run};
use super::{Call, Engine};
use crate::channel::Mode;
use crate::error::{Error, ErrorKind, Result};
use crate::proto::frame::Envelope;
use crate::proto::group::{Failure, OpId, WaitsFor};
use crate::schedule::Side;

/// Buffers of a lone collective that are copied: as long as that is lost in the cost of a call.
const LONE_BYTES_MAX: usize = 4 << 10;
/// Tasks whose memory is kept for the next ones.
const KEPT_MAX: usize = 8;

/// An operator over bytes.
pub(crate) type Operator = Box<dyn FnMut(&mut [u8], Option<&[u8]>, &[u8], Side) + Send>;

/// Buffers of a collective, in units that are aligned for any element.
#[derive(Default)]
pub(super) struct Buffers {
    send: Vec<u128>,
    receive: Vec<u128>,
    send_bytes: usize,
    receive_bytes: usize,
}

impl Buffers {
    fn fill(&mut self, send: &[u8], receive: &[u8]) {
        (self.send_bytes, self.receive_bytes) = (send.len(), receive.len());
        for (memory, bytes) in [(&mut self.send, send), (&mut self.receive, receive)] {
            memory.resize(bytes.len().div_ceil(size_of::<u128>()), 0);
            bytemuck::cast_slice_mut::<u128, u8>(memory)[..bytes.len()].copy_from_slice(bytes);
        }
    }

    fn len(&self) -> usize {
        self.send_bytes + self.receive_bytes
    }
}

/// An operation under way, or at its end.
pub(super) struct Task {
    pub(super) call: Call,
    body: Body,
    /// How it ended, as far as its future has not been told.
    end: Option<Result<()>>,
    /// Whether it has had its first turn, at the call.
    is_begun: bool,
    /// Whether it is among those that are due.
    is_due: bool,
    /// Whether it is among those that wait for room to send.
    is_blocked: bool,
}

/// What it does, with its memory.
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each call")]
pub(crate) enum Body {
    Collective(Collective),
    Send(Outbound),
    Receive(Inbound),
}

/// A collective, with copies of its buffers.
pub(crate) struct Collective {
    run: Run,
    plan: Arc<Plan>,
    signature: Envelope,
    element_bytes: usize,
    buffers: Buffers,
    operator: Operator,
}

/// The memory of a task, which the next one gets.
pub(super) type Kept = Box<Option<Task>>;

/// What a collective is made of.
pub(crate) struct Started<'a> {
    pub(crate) call: &'a Call,
    pub(crate) run: Run,
    pub(crate) plan: Arc<Plan>,
    pub(crate) signature: Envelope,
    pub(crate) element_bytes: usize,
    pub(crate) send: &'a [u8],
    pub(crate) receive: &'a [u8],
}

/// Does `work` with an operator, whose panic is kept: after it the collective has failed, for the reason that is given back.
pub(crate) fn guarded<R>(
    mut operator: impl FnMut(&mut [u8], Option<&[u8]>, &[u8], Side) + Send,
    work: impl FnOnce(&AtomicBool, &mut Combine<'_>) -> R,
) -> (R, Option<ErrorKind>) {
    let has_failed = AtomicBool::new(false);
    let mut panicked = None;
    let mut combine = |into: &mut [u8], own: Option<&[u8]>, other: &[u8], side| {
        if panicked.is_none() {
            // Nothing is half done by it but the buffers, which an error leaves without a meaning.
            panicked = catch_unwind(AssertUnwindSafe(|| operator(into, own, other, side))).err();
            has_failed.store(panicked.is_some(), Ordering::Relaxed);
        }
    };
    let mut combine: Combine<'_> = &mut combine;
    let done = work(&has_failed, &mut combine);
    (done, panicked.map(|panic| ErrorKind::InvalidArgument(told_by(&*panic))))
}

/// What a panic of an operator says.
fn told_by(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the operator panicked: {}", text.unwrap_or("without a message"))
}

impl Engine {
    /// Whether a collective with `bytes` of buffers, the last that was called, is to be copied. `is_free` tells that
    /// this needs no memory for its operator.
    pub(crate) fn copies(&self, bytes: usize, is_free: bool) -> bool {
        let is_lone = self.group.outstanding() < 2;
        let bytes_max = if !is_lone {
            self.eager_bytes_max()
        } else if is_free {
            LONE_BYTES_MAX
        } else {
            return false;
        };
        bytes <= bytes_max && self.copied.saturating_add(bytes) <= self.copies_bytes_max()
    }

    /// Takes over a collective, and does what can be done of it at once.
    pub(crate) fn start_task(&mut self, started: Started<'_>, operator: Operator) {
        let Started { call, run, plan, signature, element_bytes, send, receive } = started;
        let mut buffers = self.spare_buffers.pop().unwrap_or_default();
        buffers.fill(send, receive);
        self.copied += buffers.len();
        self.start(call, Body::Collective(Collective { run, plan, signature, element_bytes, buffers, operator }));
    }

    /// Takes over an operation, and does what can be done of it at once.
    pub(super) fn start(&mut self, call: &Call, body: Body) {
        let Call { id, operation, communicator, .. } = *call;
        let call = Call { id, operation, communicator, waits_for: WaitsFor::default(), is_listed: true };
        let mut kept = self.spare_tasks.pop().unwrap_or_default();
        *kept = Some(Task { call, body, end: None, is_begun: false, is_due: false, is_blocked: false });
        self.tasks.insert(id, kept);
        // Nobody waits yet: whoever polls says so.
        self.advance_for_others(id, Mode::Try);
        self.drain();
        // Whoever waits already hears for it.
        self.mark_due(id);
    }

    fn running(&mut self, id: OpId) -> Option<&mut Task> {
        self.tasks.get_mut(id)?.as_mut().as_mut()
    }

    /// The end of a task, with what it leaves, if it has ended.
    pub(super) fn poll_end(&mut self, mode: Mode<'_>, call: &mut Call) -> Poll<(Result<()>, Body)> {
        let ended = self.advance_task(call.id, mode);
        if let Some(task) = self.running(call.id) {
            call.waits_for = task.call.waits_for;
            return Poll::Pending;
        }
        let ended = ended.or_else(|| self.ended.remove(&call.id));
        let mut kept = ended.expect("a task is there until its end was told");
        let Task { end, body, .. } = kept.take().expect("memory in use holds a task");
        self.spare(kept);
        Poll::Ready((end.expect("it does not run"), body))
    }

    /// The end of a collective: its result, written to `receive`, if it has ended.
    pub(crate) fn poll_task(&mut self, mode: Mode<'_>, call: &mut Call, receive: &mut [u8]) -> Poll<Result<()>> {
        let (result, body) = std::task::ready!(self.poll_end(mode, call));
        if let Body::Collective(collective) = &body {
            receive.copy_from_slice(&bytemuck::cast_slice(&collective.buffers.receive)[..receive.len()]);
        }
        self.dispose(body);
        Poll::Ready(result)
    }

    /// Ends a task whose future is dropped; after its end that changes nothing.
    pub(crate) fn cancel_task(&mut self, call: &Call, error: Option<&Error>) {
        self.due.retain(|id| *id != call.id);
        self.blocked.retain(|id| *id != call.id);
        if let Some(mut kept) = self.tasks.remove(call.id).or_else(|| self.ended.remove(&call.id)) {
            let mut task = kept.take().expect("memory in use holds a task");
            if task.end.is_none() {
                self.end_task(&mut task, error);
            }
            self.dispose(task.body);
            self.spare(kept);
        }
        self.forget_call(call);
    }

    fn spare(&mut self, kept: Kept) {
        if self.spare_tasks.len() < KEPT_MAX {
            self.spare_tasks.push(kept);
        }
    }

    /// Frees what an operation leaves, and keeps the memory of buffers.
    pub(super) fn dispose(&mut self, body: Body) {
        match body {
            Body::Collective(Collective { buffers, operator, .. }) => {
                self.copied -= buffers.len();
                if self.spare_buffers.len() < KEPT_MAX {
                    self.spare_buffers.push(buffers);
                }
                if size_of_val(&*operator) > 0 {
                    self.to_drop.push(Box::new(operator));
                }
            }
            Body::Send(send) => self.to_drop.push(Box::new(send)),
            Body::Receive(receive) => self.to_drop.push(Box::new(receive)),
        }
    }

    /// Does what can be done for tasks to which something has happened; whether there were any.
    pub(super) fn run_due(&mut self, mode: Mode<'_>) -> bool {
        let mut any = false;
        while let Some(id) = self.due.pop() {
            if self.running(id).is_some() {
                any = true;
                self.advance_for_others(id, mode);
                self.drain();
            }
        }
        any
    }

    /// Tasks that wait for room to send are tried again: whoever is polled now is woken when there is some.
    pub(super) fn retry_blocked(&mut self) {
        while let Some(id) = self.blocked.pop() {
            if let Some(task) = self.running(id) {
                task.is_blocked = false;
            }
            self.mark_due(id);
        }
    }

    /// Something has happened to a task, if this is one.
    pub(super) fn mark_due(&mut self, id: OpId) {
        if let Some((at_work, was_woken)) = &mut self.at_work
            && *at_work == id
        {
            *was_woken = true;
        }
        if let Some(task) = self.running(id)
            && !task.is_due
        {
            task.is_due = true;
            self.due.push(id);
        }
    }

    /// The same for all of them.
    pub(super) fn mark_all_due(&mut self) {
        let ids: Vec<OpId> = self.tasks.ids().chain(self.at_work.map(|(id, _)| id)).collect();
        ids.into_iter().for_each(|id| self.mark_due(id));
    }

    /// Does what can be done for a task whose owner does not ask now.
    fn advance_for_others(&mut self, id: OpId, mode: Mode<'_>) {
        if let Some(kept) = self.advance_task(id, mode) {
            self.ended.insert(id, kept);
        }
    }

    /// Does what can be done for a task, if it runs; given back if it has ended.
    fn advance_task(&mut self, id: OpId, mode: Mode<'_>) -> Option<Kept> {
        let mut kept = self.tasks.remove(id)?;
        let task = kept.as_mut().as_mut()?;
        (self.is_blocked, task.is_due) = (false, false);
        self.due.pop_if(|due| *due == id);
        self.at_work = Some((id, false));
        let poll = self.run_task(task, mode);
        let was_woken = self.at_work.take().is_some_and(|(_, was_woken)| was_woken);
        let waits_for = task.call.waits_for;
        match poll {
            Poll::Pending => {
                if self.is_blocked && !task.is_blocked {
                    self.blocked.push(id);
                }
                task.is_blocked |= self.is_blocked;
                self.group.park(id, waits_for);
                self.tasks.insert(id, kept);
                if was_woken {
                    self.mark_due(id);
                }
                None
            }
            Poll::Ready(result) => {
                self.to_wake.extend(self.listings.waker(id));
                self.end_task(task, result.as_ref().err());
                task.end = Some(result);
                Some(kept)
            }
        }
    }

    fn run_task(&mut self, task: &mut Task, mode: Mode<'_>) -> Poll<Result<()>> {
        let Task { call, body, is_begun, .. } = task;
        let is_first = !std::mem::replace(is_begun, true);
        match body {
            Body::Collective(collective) => self.run_collective(mode, call, collective, is_first),
            Body::Send(send) => self.run_send(mode, call, send),
            Body::Receive(receive) => self.run_receive(mode, call, receive),
        }
    }

    fn run_collective(
        &mut self,
        mode: Mode<'_>,
        call: &mut Call,
        collective: &mut Collective,
        only_sends: bool,
    ) -> Poll<Result<()>> {
        let Collective { run, plan, signature, element_bytes, buffers, operator } = collective;
        let send = &bytemuck::cast_slice(&buffers.send)[..buffers.send_bytes];
        let receive = &mut bytemuck::cast_slice_mut(&mut buffers.receive)[..buffers.receive_bytes];
        let element_bytes = *element_bytes;
        let (poll, failure) = guarded(operator, |has_failed, combine| {
            let mut job = Job { plan, signature, element_bytes, send, receive, only_sends, has_failed };
            run.advance(self, mode, call, &mut job, combine)
        });
        match failure {
            Some(kind) => Poll::Ready(Err(self.error_of(call, Failure::new(kind)))),
            None => poll,
        }
    }

    /// Ends a task.
    fn end_task(&mut self, task: &mut Task, error: Option<&Error>) {
        let Task { call, body, .. } = task;
        match body {
            Body::Collective(collective) => self.end_collective(call, collective, error),
            Body::Send(send) => self.end_send(call, send),
            Body::Receive(receive) => self.end_receive(call, receive),
        }
    }

    /// Ends a collective; after an error, the communicator with it.
    fn end_collective(&mut self, call: &Call, collective: &mut Collective, error: Option<&Error>) {
        let Collective { run, plan, signature, element_bytes, buffers, .. } = collective;
        if let Some(error) = error {
            let send = &bytemuck::cast_slice(&buffers.send)[..buffers.send_bytes];
            let receive = &mut bytemuck::cast_slice_mut(&mut buffers.receive)[..buffers.receive_bytes];
            let (element_bytes, has_failed) = (*element_bytes, &AtomicBool::new(true));
            let job = Job { plan, signature, element_bytes, send, receive, only_sends: false, has_failed };
            run.abandon(self, call, &job);
            self.abort(call.communicator, error);
        }
        self.group.end(call.id);
        self.unlist(call.id);
        let workspace = run.take_workspace();
        self.give_back(workspace);
    }
}
