//! What a program does with a connection, and is told of it.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use fmi_net::liveness::{Sample, choked};

use super::Connection;

impl Connection {
    pub(crate) fn poll_connected(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if let Some(kind) = self.error {
            return Poll::Ready(Err(kind.into()));
        }
        if self.was_established {
            return Poll::Ready(Ok(()));
        }
        self.connect_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn poll_read(&mut self, cx: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.read_waits = false;
        let fin_seen = self.fin_seen;
        let socket = self.socket();
        if socket.can_recv() {
            let read = socket.recv_slice(buffer).map_err(|_| io::Error::from(io::ErrorKind::NotConnected));
            return Poll::Ready(read);
        }
        let ended = !socket.may_recv();
        // The end of the peer's bytes stays one, whatever comes after.
        if fin_seen {
            return Poll::Ready(Ok(0));
        }
        if let Some(error) = self.take_error() {
            return Poll::Ready(Err(error));
        }
        if ended {
            return Poll::Ready(Ok(0));
        }
        let socket = self.socket();
        socket.register_recv_waker(cx.waker());
        self.read_waits = true;
        Poll::Pending
    }

    pub(crate) fn poll_write(&mut self, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write_waits = false;
        if let Some(error) = self.take_error() {
            return Poll::Ready(Err(error));
        }
        let socket = self.socket();
        if !socket.may_send() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !socket.can_send() {
            socket.register_send_waker(cx.waker());
            self.write_waits = true;
            return Poll::Pending;
        }
        let taken = socket.send_slice(bytes).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        self.written = self.written.wrapping_add(u32::try_from(taken).expect("a buffer is below 4 GiB"));
        if let Some(keepalive) = &mut self.keepalive {
            keepalive.count(taken);
        }
        Poll::Ready(Ok(taken))
    }

    /// What Linux would tell, but for when the other end was heard.
    pub(super) fn sample(&mut self) -> Sample {
        let waiting = u32::try_from(self.socket().send_queue()).expect("a buffer is below 4 GiB");
        Sample {
            waits: self.waits(),
            repetitions: self.sender.repetitions,
            window_probes: self.sender.window_probes,
            heard_ago: Duration::ZERO,
            acknowledged: self.written.wrapping_sub(waiting).into(),
            segment_bytes: self.wire.mtu - 40,
        }
    }

    fn take_error(&mut self) -> Option<io::Error> {
        let kind = self.error.take()?;
        Some(if self.is_choked { choked() } else { kind.into() })
    }

    /// Sends a FIN after what was written.
    pub(crate) fn shut_write(&mut self) {
        self.write_shut = true;
        self.socket().close();
    }
}
