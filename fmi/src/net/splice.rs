//! Two streams joined: what comes on one goes out on the other, in bounded memory and at a bounded rate.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use super::framed::Framed;
use super::{ByteStream, Clock, Timer};
use crate::proto::bucket::Bucket;
use crate::time::Instant;

/// Memory of one direction.
const BUFFER_BYTES: usize = 32 << 10;
/// Buffers that one pair moves before others have their turn.
const TURN_BUFFERS: usize = 4;

/// A relayed pair.
pub(super) struct Splice<S> {
    /// Streams, and messages of the server that are not sent yet.
    ends: [Framed<S>; 2],
    /// From each end to the other one.
    flows: [Flow; 2],
    timer: Timer,
}

struct Flow {
    buffer: Vec<u8>,
    sent: usize,
    bucket: Bucket,
    is_over: bool,
}

impl<S: ByteStream> Splice<S> {
    pub(super) fn new(now: Instant, ends: [Framed<S>; 2], bytes_per_second: u64, clock: Arc<dyn Clock>) -> Self {
        // A burst is what a tenth of a second allows, and at least a buffer.
        let burst = (bytes_per_second / 10).max(BUFFER_BYTES as u64);
        let flow = |end: &Framed<S>| Flow {
            // An end that knows that its peer is there may speak before it is told.
            buffer: end.unread().to_vec(),
            sent: 0,
            bucket: Bucket::new(now, bytes_per_second, burst),
            is_over: false,
        };
        let flows = [flow(&ends[0]), flow(&ends[1])];
        Self { ends, flows, timer: Timer::new(clock) }
    }

    /// Moves bytes both ways, a few buffers at a time. Ready when the pair is done with.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        for end in &mut self.ends {
            match end.poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        let mut wait = Instant::FAR_FUTURE;
        for from in 0..2 {
            let [first, second] = &mut self.ends;
            let (source, sink) = if from == 0 { (first, second) } else { (second, first) };
            match self.flows[from].poll(cx, now, source.stream_mut(), sink.stream_mut()) {
                Ok(Some(at)) => wait = wait.min(at),
                Ok(None) => {}
                Err(_) => return Poll::Ready(()),
            }
        }
        if self.flows.iter().all(|flow| flow.is_over) {
            return Poll::Ready(());
        }
        if wait < Instant::FAR_FUTURE && (wait <= now || self.timer.poll_until(cx, wait)) {
            // Others first; then it goes on here.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Flow {
    /// Moves what can be moved. Returns when to be called again, if not by a waker.
    fn poll<S: ByteStream>(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        source: &mut S,
        sink: &mut S,
    ) -> io::Result<Option<Instant>> {
        for _ in 0..TURN_BUFFERS {
            while self.sent < self.buffer.len() {
                match Pin::new(&mut *sink).poll_write(cx, &self.buffer[self.sent..]) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(sent)) => self.sent += sent,
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => return Ok(None),
                }
            }
            (self.sent, self.buffer) = (0, Vec::new());
            if self.is_over {
                return Ok(None);
            }
            let allowed = self.bucket.available(now);
            if allowed == 0 {
                return Ok(Some(self.bucket.ready_at(now, BUFFER_BYTES as u64)));
            }
            let room = BUFFER_BYTES.min(usize::try_from(allowed).unwrap_or(BUFFER_BYTES));
            let mut bytes = vec![0; room];
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *source).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(None),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(())) => {}
            }
            let read = buffer.filled().len();
            if read == 0 {
                self.is_over = true;
                // Whether the other end hears of it is its own affair.
                let _ = Pin::new(&mut *sink).poll_shutdown(cx);
                return Ok(None);
            }
            self.bucket.take(now, read as u64);
            bytes.truncate(read);
            self.buffer = bytes;
        }
        Ok(Some(now))
    }
}
