//! The control channel of a running group, made anew when it breaks: the rendezvous may have restarted. When and where
//! is decided by [`Resume`].
//!
//! No task: it makes progress whenever an operation of the communicator waits.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::joined::{Control, Lifeline, erase};
use super::racing::{Racing, Single};
use super::servers::Servers;
use crate::channel::stream::{CONTROL_KEEPALIVE, CONTROL_SILENCE_MAX};
use crate::net::framed::Framed;
use crate::net::{ByteStream, Net, Timer};
use crate::proto::rendezvous::{ClientMessage, Resumption, SERVER_MESSAGE_BYTES_MAX};
use crate::proto::resume::{Input, Output, Resume};

/// A race that ends in a stream.
type Return<N> = Racing<N, Single<<N as Net>::Stream>>;

/// The way to all servers of a group.
pub(super) struct Reconnect<N: Net> {
    net: N,
    /// The one of the session first.
    servers: Servers<N>,
    resume: Resume,
    resumption: Resumption,
    timer: Timer,
    /// The number of a server, and the race for it.
    racing: Option<(usize, Return<N>)>,
}

impl<N: Net> Reconnect<N> {
    pub(super) fn new(net: N, servers: Servers<N>, resumption: Resumption) -> Self {
        let (resume, timer) = (Resume::new(servers.count()), Timer::new(Arc::new(net.clone())));
        Self { net, servers, resume, resumption, timer, racing: None }
    }
}

impl<N: Net> Lifeline for Reconnect<N> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Control> {
        // Whoever polls has lost the channel.
        self.resume.handle_input(self.net.now(), Input::Lost);
        loop {
            while let Some(Output::Connect(server)) = self.resume.poll_output() {
                self.racing = Some((server, self.servers.race(server, false, false)));
            }
            let ended = match &mut self.racing {
                Some((server, racing)) => racing.poll(cx, &mut self.servers.singles(*server)).map(|it| (*server, it)),
                None => Poll::Pending,
            };
            if let Poll::Ready((server, ended)) = ended {
                self.racing = None;
                let connected = ended.and_then(|(winner, _)| winner.into_stream());
                let input = if connected.is_ok() { Input::Connected } else { Input::Failed };
                self.resume.handle_input(self.net.now(), input);
                let Ok(stream) = connected else { continue };
                if let Ok(address) = stream.peer_addr() {
                    self.servers.won(server, address);
                }
                let _ = stream.set_keepalive(CONTROL_KEEPALIVE, CONTROL_SILENCE_MAX);
                let mut control = Framed::new(stream, SERVER_MESSAGE_BYTES_MAX);
                control.queue(&ClientMessage::Resume(self.resumption).emit());
                return Poll::Ready(erase(control));
            }
            match self.resume.poll_timeout() {
                Some((at, _)) if self.timer.poll_until(cx, at) => {
                    self.racing = None;
                    self.resume.handle_timeout(self.net.now());
                }
                Some(_) | None => return Poll::Pending,
            }
        }
    }
}
