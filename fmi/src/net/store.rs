//! Drives the store that clients of Redis can use ([`crate::proto::store`]): one task for all connections, each polled only
//! when it is ready, and each in its turn.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::door::{BACKLOG, Door};
use super::ready::{Ready, ReadyWaker};
use super::{ByteStream, Listener, Net, Timer};
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::proto::store::{Client, Input, Output, Server};

pub use crate::proto::store::StoreConfig;

/// An idle client is probed this often: its kernel answers, however long the client waits.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// A client whose kernel is silent for this long is gone, and nothing is popped for it.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Clients and connections that one poll looks at, until others of this task's thread have their turn.
const TURNS: usize = 64;
/// Pieces that are sent by one call of the system.
const PIECES: usize = 64;

/// A store that listens.
#[derive(Debug)]
pub struct StoreServer<N: Net> {
    net: N,
    listener: N::Listener,
    config: StoreConfig,
}

impl<N: Net> StoreServer<N> {
    /// Listens on `address`.
    ///
    /// # Errors
    /// [`ErrorKind::Local`] if the address cannot be listened on.
    pub fn bind(net: N, address: SocketAddr, config: StoreConfig) -> Result<Self> {
        match net.listen(address, BACKLOG) {
            Ok(listener) => Ok(Self { net, listener, config }),
            Err(error) => {
                let what = format!("cannot listen on {address}: {error}");
                Err(Error::new(Operation::Store, ErrorKind::Local(what)).caused_by(error))
            }
        }
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// [`ErrorKind::Local`] if the system does not say.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        let failed = |error| Error::new(Operation::Store, ErrorKind::Local("no local address".into())).caused_by(error);
        self.listener.local_addr().map_err(failed)
    }

    /// Serves until it is dropped. No client can end it.
    pub async fn serve(self) -> Infallible {
        let mut seed = [0; 16];
        self.net.fill_entropy(&mut seed);
        let half = |at: usize| seed[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let clock = Arc::new(self.net.clone());
        let mut driver = Driver {
            server: Server::new(&self.config, [half(0), half(8)]),
            door: Door::new(self.net.clone(), vec![self.listener]),
            net: self.net,
            connections: BTreeMap::new(),
            ready: Arc::default(),
            turns: VecDeque::new(),
            next: 1,
            timer: Timer::new(clock),
        };
        poll_fn(move |cx| driver.poll(cx)).await
    }
}

struct Connection<S> {
    stream: S,
    waker: Arc<ReadyWaker<Client>>,
    outgoing: VecDeque<Bytes>,
    /// Bytes of the first piece that are on their way already.
    sent: usize,
    is_closing: bool,
}

struct Driver<N: Net> {
    net: N,
    door: Door<N>,
    server: Server,
    connections: BTreeMap<Client, Connection<N::Stream>>,
    ready: Arc<Ready<Client>>,
    /// Clients that were ready and have not had their turn.
    turns: VecDeque<Client>,
    next: u64,
    timer: Timer,
}

impl<N: Net> Driver<N> {
    /// Gives turns, but not too many, so that whatever shares the thread has its own.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Infallible> {
        let mut left = TURNS;
        while left > 0 {
            left -= 1;
            let mut any = self.poll_accept(cx);
            if self.turns.is_empty() {
                self.turns = self.ready.take();
            }
            if let Some(client) = self.turns.pop_front() {
                self.poll_client(client);
                any = true;
            }
            // One look for all that is due.
            if let Some((at, _)) = self.server.poll_timeout()
                && self.timer.poll_lazily(cx, self.net.now(), at)
            {
                self.server.handle_timeout(self.net.now());
                self.drain();
                any = true;
            }
            if !any {
                break;
            }
        }
        if left == 0 || !self.turns.is_empty() {
            cx.waker().wake_by_ref();
        }
        self.ready.park(cx);
        Poll::Pending
    }

    /// True if a connection came, or could not.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> bool {
        let Poll::Ready(accepted) = self.door.poll_accept(cx) else { return false };
        let Some(stream) = accepted else { return true };
        if let Err(error) = stream.set_keepalive(KEEPALIVE_INTERVAL, SILENCE_MAX) {
            tracing::debug!(%error, "no keep-alive on a connection");
        }
        let client = Client(self.next);
        self.next += 1;
        let waker = self.ready.waker(client);
        let connection =
            Connection { stream, waker: waker.clone(), outgoing: VecDeque::new(), sent: 0, is_closing: false };
        self.connections.insert(client, connection);
        self.server.handle_input(self.net.now(), client, Input::Opened);
        self.drain();
        waker.wake_by_ref();
        true
    }

    /// Sends and reads once; a client with more to do is ready again, behind the others.
    fn poll_client(&mut self, client: Client) {
        let Some(connection) = self.connections.get_mut(&client) else { return };
        connection.waker.rearm();
        let waker = Waker::from(connection.waker.clone());
        let mut cx = Context::from_waker(&waker);
        match connection.poll_send(&mut cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => {}
            Poll::Ready(Ok(count)) => {
                waker.wake_by_ref();
                self.server.handle_input(self.net.now(), client, Input::Sent(count));
                self.drain();
            }
            Poll::Ready(Err(_)) => return self.end(client),
        }
        let Some(connection) = self.connections.get_mut(&client) else { return };
        if connection.is_closing {
            // What the socket has not taken at once is not waited for.
            self.connections.remove(&client);
            return;
        }
        let Some(mut room) = self.server.room(client) else { return };
        let polled = pin!(connection.stream.read_buf(&mut room)).poll(&mut cx);
        match polled {
            Poll::Pending => {}
            Poll::Ready(Ok(count)) if count > 0 => {
                waker.wake_by_ref();
                self.server.handle_input(self.net.now(), client, Input::Filled);
                self.drain();
            }
            Poll::Ready(_) => self.end(client),
        }
    }

    /// A client has closed its connection, or it broke.
    fn end(&mut self, client: Client) {
        self.connections.remove(&client);
        self.server.handle_input(self.net.now(), client, Input::Closed);
        self.drain();
    }

    /// Carries out what the server wants; clients with answers become ready.
    fn drain(&mut self) {
        while let Some(output) = self.server.poll_output() {
            let (Output::Send(client, _) | Output::Close(client)) = output;
            let Some(connection) = self.connections.get_mut(&client) else { continue };
            match output {
                Output::Send(_, bytes) => connection.outgoing.push_back(bytes),
                Output::Close(_) => connection.is_closing = true,
            }
            connection.waker.wake_by_ref();
        }
    }
}

impl<S: ByteStream> Connection<S> {
    /// Sends what the socket takes at once, and says how much that was.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.outgoing.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut pieces = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        for (piece, bytes) in pieces.iter_mut().zip(&self.outgoing) {
            *piece = IoSlice::new(if count == 0 { &bytes[self.sent..] } else { bytes });
            count += 1;
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, &pieces[..count]);
        let Poll::Ready(Ok(sent)) = polled else { return polled };
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.sent += sent;
        while let Some(first) = self.outgoing.front().filter(|first| first.len() <= self.sent) {
            self.sent -= first.len();
            self.outgoing.pop_front();
        }
        if self.outgoing.is_empty() {
            // An idle connection keeps no memory.
            self.outgoing.shrink_to(PIECES);
        }
        Poll::Ready(Ok(sent))
    }
}
