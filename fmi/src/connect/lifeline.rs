//! The control channel of a running group, made anew when it breaks: the rendezvous may have restarted. When and where
//! is decided by [`Resume`].
//!
//! No task: it makes progress whenever an operation of the communicator waits.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use super::joined::{Control, Lifeline, erase};
use crate::channel::stream::{CONTROL_KEEPALIVE, CONTROL_SILENCE_MAX};
use crate::net::framed::Framed;
use crate::net::{BoxFuture, ByteStream, Net, Timer};
use crate::proto::rendezvous::{ClientMessage, Resumption, SERVER_MESSAGE_BYTES_MAX};
use crate::proto::resume::{Input, Output, Resume};

/// The way to all servers of a group.
pub(super) struct Reconnect<N: Net> {
    net: N,
    /// Local ends to bind and servers to connect to, the one of the session first.
    ways: Vec<(SocketAddr, SocketAddr)>,
    resume: Resume,
    resumption: Resumption,
    timer: Timer,
    connecting: Option<BoxFuture<io::Result<N::Stream>>>,
}

impl<N: Net> Reconnect<N> {
    pub(super) fn new(net: N, ways: Vec<(SocketAddr, SocketAddr)>, resumption: Resumption, timer: Timer) -> Self {
        let resume = Resume::new(ways.len());
        Self { net, ways, resume, resumption, timer, connecting: None }
    }
}

impl<N: Net> Lifeline for Reconnect<N> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Control> {
        // Whoever polls has lost the channel.
        self.resume.handle_input(self.net.now(), Input::Lost);
        loop {
            while let Some(Output::Connect(server)) = self.resume.poll_output() {
                let (local, remote) = self.ways[server];
                self.connecting = Some(Box::pin(self.net.connect(local, remote)));
            }
            let connected = self.connecting.as_mut().map_or(Poll::Pending, |connecting| connecting.as_mut().poll(cx));
            if let Poll::Ready(connected) = connected {
                self.connecting = None;
                let input = if connected.is_ok() { Input::Connected } else { Input::Failed };
                self.resume.handle_input(self.net.now(), input);
                let Ok(stream) = connected else { continue };
                let _ = stream.set_keepalive(CONTROL_KEEPALIVE, CONTROL_SILENCE_MAX);
                let mut control = Framed::new(stream, SERVER_MESSAGE_BYTES_MAX);
                control.queue(&ClientMessage::Resume(self.resumption).emit());
                return Poll::Ready(erase(control));
            }
            match self.resume.poll_timeout() {
                Some((at, _)) if self.timer.poll_until(cx, at) => {
                    self.connecting = None;
                    self.resume.handle_timeout(self.net.now());
                }
                Some(_) | None => return Poll::Pending,
            }
        }
    }
}
