//! The control channel of a group that stands, made anew when it breaks: the rendezvous may have restarted.
//!
//! No task: it makes progress whenever an operation of the communicator waits.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use super::framed::Framed;
use super::join::Control;
use super::link::{CONTROL_KEEPALIVE, CONTROL_SILENCE_MAX};
use super::{BoxFuture, ByteStream, Net, Timer, within};
use crate::communicator::erase;
use crate::proto::rendezvous::{ClientMessage, Resumption, SERVER_MESSAGE_BYTES_MAX};
use crate::time::Instant;

/// Pause before another connection; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Time for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// Brings the control channel back. Erased, as the communicator does not know the net.
pub(crate) trait Lifeline: Send {
    /// The channel, once it stands again.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Control>;
}

/// The way to all servers of a group.
pub(super) struct Reconnect<N: Net> {
    net: N,
    /// Local ends to bind and servers to connect to, the one of the session first.
    ways: Vec<(SocketAddr, SocketAddr)>,
    next: usize,
    resumption: Resumption,
    pause: Duration,
    wait_until: Instant,
    timer: Timer,
    connecting: Option<BoxFuture<io::Result<N::Stream>>>,
}

impl<N: Net> Reconnect<N> {
    pub(super) fn new(net: N, ways: Vec<(SocketAddr, SocketAddr)>, resumption: Resumption, timer: Timer) -> Self {
        let (next, pause, wait_until, connecting) = (0, PAUSE_MIN, Instant::ZERO, None);
        Self { net, ways, next, resumption, pause, wait_until, timer, connecting }
    }
}

impl<N: Net> Lifeline for Reconnect<N> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Control> {
        loop {
            let Some(connecting) = &mut self.connecting else {
                if !self.timer.poll_until(cx, self.wait_until) {
                    return Poll::Pending;
                }
                let (local, remote) = self.ways[self.next % self.ways.len()];
                let (net, connect) = (self.net.clone(), self.net.connect(local, remote));
                self.connecting = Some(Box::pin(async move { within(&net, net.now() + CONNECT_MAX, connect).await }));
                continue;
            };
            let Poll::Ready(connected) = connecting.as_mut().poll(cx) else { return Poll::Pending };
            self.connecting = None;
            // A server that refuses is not asked more often than one that is not there.
            self.wait_until = self.net.now() + self.pause;
            self.pause = (2 * self.pause).min(PAUSE_MAX);
            let Ok(stream) = connected else {
                self.next += 1;
                continue;
            };
            let _ = stream.set_keepalive(CONTROL_KEEPALIVE, CONTROL_SILENCE_MAX);
            let mut control = Framed::new(stream, SERVER_MESSAGE_BYTES_MAX);
            control.queue(&ClientMessage::Resume(self.resumption).emit());
            return Poll::Ready(erase(control));
        }
    }
}
