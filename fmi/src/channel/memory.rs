//! Between ranks of one process: frames change hands in memory.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use super::{Channel, ChannelError, LinkInfo, Mode, Outgoing};
use crate::proto::frame::{ENVELOPE_BYTES, Envelope};

/// Bytes on their way in one direction; a longer frame travels alone.
const BYTES_MAX: usize = 1 << 20;

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    frames: VecDeque<(Envelope, Vec<u8>)>,
    bytes: usize,
    is_closed: bool,
    has_no_reader: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

type Shared = Arc<Mutex<Flow>>;

fn lock(flow: &Shared) -> MutexGuard<'_, Flow> {
    flow.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One end.
#[derive(Debug)]
pub(crate) struct Memory {
    info: LinkInfo,
    incoming: Shared,
    outgoing: Shared,
    /// The payload at hand, and how much of it is read.
    payload: (Vec<u8>, usize),
}

/// Two ends that are connected.
pub(crate) fn pair(near: LinkInfo, far: LinkInfo) -> (Memory, Memory) {
    let (one, other) = (Shared::default(), Shared::default());
    let end = |info, incoming, outgoing| Memory { info, incoming, outgoing, payload: (Vec::new(), 0) };
    (end(near, one.clone(), other.clone()), end(far, other, one))
}

impl Memory {
    fn push(&self, envelope: Envelope, payload: &[u8]) {
        let mut flow = lock(&self.outgoing);
        flow.bytes += ENVELOPE_BYTES + payload.len();
        flow.frames.push_back((envelope, payload.to_vec()));
        let reader = flow.reader.take();
        drop(flow);
        reader.into_iter().for_each(Waker::wake);
    }

    fn close(&self) {
        let mut flow = lock(&self.outgoing);
        flow.is_closed = true;
        let reader = flow.reader.take();
        drop(flow);
        reader.into_iter().for_each(Waker::wake);
    }
}

impl Channel for Memory {
    fn poll_head(&mut self, mode: Mode<'_>) -> Poll<Result<Envelope, ChannelError>> {
        let mut flow = lock(&self.incoming);
        let Some((envelope, payload)) = flow.frames.pop_front() else {
            if flow.is_closed {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
            }
            if let Mode::Park(waker) = mode {
                flow.reader = Some(waker.clone());
            }
            return Poll::Pending;
        };
        flow.bytes -= ENVELOPE_BYTES + payload.len();
        let writer = flow.writer.take();
        drop(flow);
        writer.into_iter().for_each(Waker::wake);
        self.payload = (payload, 0);
        Poll::Ready(Ok(envelope))
    }

    fn poll_body(&mut self, _: Mode<'_>, target: &mut [u8]) -> Poll<Result<usize, ChannelError>> {
        let (payload, taken) = &mut self.payload;
        let count = target.len().min(payload.len() - *taken);
        target[..count].copy_from_slice(&payload[*taken..*taken + count]);
        *taken += count;
        Poll::Ready(Ok(count))
    }

    fn left(&self) -> u64 {
        (self.payload.0.len() - self.payload.1) as u64
    }

    fn poll_send(&mut self, mode: Mode<'_>, frame: Outgoing<'_>, sent: &mut usize) -> Poll<Result<(), ChannelError>> {
        let mut flow = lock(&self.outgoing);
        if flow.has_no_reader {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe).into()));
        }
        if flow.bytes > 0 && flow.bytes + frame.payload.len() > BYTES_MAX {
            if let Mode::Park(waker) = mode {
                flow.writer = Some(waker.clone());
            }
            return Poll::Pending;
        }
        drop(flow);
        self.push(Envelope::parse(frame.head)?, frame.payload);
        *sent = ENVELOPE_BYTES + frame.payload.len();
        Poll::Ready(Ok(()))
    }

    fn take_over(&mut self, _: Outgoing<'_>, _: usize) {
        // Frames are handed over whole.
    }

    fn queue(&mut self, envelope: &Envelope, payload: &[u8]) {
        self.push(*envelope, payload);
    }

    fn has_queued(&self) -> bool {
        false
    }

    fn queued(&self) -> usize {
        lock(&self.outgoing).bytes.saturating_sub(BYTES_MAX)
    }

    fn is_mid_frame(&self) -> bool {
        false
    }

    fn poll_flush(&mut self, mode: Mode<'_>) -> Poll<Result<(), ChannelError>> {
        let mut flow = lock(&self.outgoing);
        if let Mode::Park(waker) = mode
            && flow.bytes > BYTES_MAX
        {
            // What is queued beyond the limit is there already; whoever copied it waits until it counts no more.
            flow.writer = Some(waker.clone());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, waker: &Waker) -> Poll<()> {
        self.close();
        let mut flow = lock(&self.incoming);
        flow.frames.clear();
        flow.bytes = 0;
        flow.writer.take().into_iter().for_each(Waker::wake);
        if flow.is_closed {
            return Poll::Ready(());
        }
        flow.reader = Some(waker.clone());
        Poll::Pending
    }

    fn info(&self) -> LinkInfo {
        self.info
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.close();
        let mut flow = lock(&self.incoming);
        flow.has_no_reader = true;
        flow.frames.clear();
        flow.bytes = 0;
        let writer = flow.writer.take();
        drop(flow);
        writer.into_iter().for_each(Waker::wake);
    }
}
