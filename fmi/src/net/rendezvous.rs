//! Drives the rendezvous server: one task for all connections, each polled only when it is ready.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use fmi_net::planted;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::discovery::outcome_of;
use super::door::{BACKLOG, Door};
use super::framed::{Framed, ReceiveError};
use super::ready::{Ready, ReadyWaker};
use super::splice::Splice;
use super::{BoxFuture, ByteStream, Listener, Net, Timer, within};
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::proto::discovery::{Outcome, VANTAGES_MAX};
use crate::proto::rendezvous::server::{Connection, Input, Output, Server};
use crate::proto::rendezvous::{CLIENT_MESSAGE_BYTES_MAX, ClientMessage};
use fmi_proto::wire::WireError;

pub use crate::proto::rendezvous::server::ServerConfig;

/// The server probes an idle client this often. The kernel of the client answers, so that a rank
/// that computes for minutes is not taken for dead.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// A client whose kernel is silent for this long is lost. With the interval and a round trip this
/// bounds the time from a silent death to the error on every survivor.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A client that does not read may let this much pile up: one `Group` of the largest size and more.
const QUEUED_BYTES_MAX: usize = 4 << 20;
/// A client that is called back and does not answer for this long is not there.
const CALL_BACK_SILENCE: Duration = Duration::from_millis(1500);

/// A rendezvous that listens.
#[derive(Debug)]
pub struct Rendezvous<N: Net> {
    net: N,
    /// On the main endpoint, and on the others.
    listeners: Vec<N::Listener>,
    config: ServerConfig,
}

struct Client<S> {
    framed: Framed<S>,
    waker: Arc<ReadyWaker<Connection>>,
    closing: bool,
}

impl<N: Net> Rendezvous<N> {
    /// Listens on `address`, and on the next port, where clients are seen a second time, if that is free.
    ///
    /// # Errors
    /// [`ErrorKind::Local`] if the address cannot be listened on.
    pub fn bind(net: N, address: SocketAddr, config: ServerConfig) -> Result<Self> {
        match net.listen(address, BACKLOG) {
            Ok(listener) => Self { net, listeners: vec![listener], config }.with_vantages(&[]),
            Err(error) => {
                let what = format!("cannot listen on {address}: {error}");
                Err(Error::new(Operation::Rendezvous, ErrorKind::Local(what)).caused_by(error))
            }
        }
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// [`ErrorKind::Local`] if the system does not say.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.listeners[0].local_addr().map_err(|error| {
            Error::new(Operation::Rendezvous, ErrorKind::Local("no local address".into())).caused_by(error)
        })
    }

    /// Listens on further endpoints: other ports or addresses of this machine, from which clients can
    /// be called back. With them clients can [discover](crate::net::discovery) what their NAT does.
    ///
    /// # Errors
    /// [`ErrorKind::Local`] if one cannot be listened on.
    pub fn with_vantages(mut self, others: &[SocketAddr]) -> Result<Self> {
        self.listeners.truncate(1);
        let main = self.local_addr()?;
        let mut vantages = vec![main];
        for address in others.iter().take(VANTAGES_MAX - 1) {
            let listener = self.net.listen(*address, BACKLOG).map_err(|error| {
                let what = format!("cannot listen on {address}: {error}");
                Error::new(Operation::Rendezvous, ErrorKind::Local(what)).caused_by(error)
            })?;
            let bound = listener.local_addr().unwrap_or(*address);
            vantages.push(bound);
            self.listeners.push(listener);
        }
        let next = main.port().checked_add(1).map(|port| SocketAddr::new(main.ip(), port));
        if let Some(next) = next.filter(|next| !vantages.contains(next) && vantages.len() < VANTAGES_MAX)
            && let Ok(listener) = self.net.listen(next, BACKLOG)
        {
            vantages.push(next);
            self.listeners.push(listener);
        }
        self.config.vantages = vantages;
        Ok(self)
    }

    /// Endpoints on which it answers, the main one first.
    pub fn vantages(&self) -> &[SocketAddr] {
        &self.config.vantages
    }

    /// Serves until it is dropped. No client can end it.
    pub async fn serve(self) -> Infallible {
        let mut seed = [0; 32];
        self.net.fill_entropy(&mut seed);
        let clock = Arc::new(self.net.clone());
        let vantages = self.config.vantages.clone();
        let relay_bytes_per_second = self.config.relay_bytes_per_second;
        let mut driver = Driver {
            server: Server::new(self.config, seed),
            clients: BTreeMap::new(),
            ready: Arc::default(),
            next: 0,
            timer: Timer::new(clock),
            door: Door::new(self.net.clone(), self.listeners),
            net: self.net,
            vantages,
            calls: FuturesUnordered::new(),
            splices: BTreeMap::new(),
            spliced: BTreeMap::new(),
            wakers: BTreeMap::new(),
            relay_bytes_per_second,
        };
        poll_fn(move |cx| driver.poll(cx)).await
    }
}

struct Driver<N: Net> {
    net: N,
    door: Door<N>,
    vantages: Vec<SocketAddr>,
    calls: FuturesUnordered<BoxFuture<(Connection, u8, Outcome)>>,
    /// Relayed pairs by their first connection, and each connection's pair.
    splices: BTreeMap<Connection, Splice<N::Stream>>,
    spliced: BTreeMap<Connection, Connection>,
    /// What wakes a relayed pair, and its second connection.
    wakers: BTreeMap<Connection, (Arc<ReadyWaker<Connection>>, Connection)>,
    relay_bytes_per_second: u64,
    server: Server,
    clients: BTreeMap<Connection, Client<N::Stream>>,
    ready: Arc<Ready<Connection>>,
    next: u64,
    timer: Timer,
}

impl<N: Net> Driver<N> {
    /// Goes on while anything was achieved. A stream may ask to be polled again without anything to give, which tokio's
    /// do once a task has had its share; that is for the next poll, else this one would never end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Infallible> {
        loop {
            let accepted = self.poll_accept(cx);
            let served = self.poll_ready() | self.poll_calls(cx);
            let now = self.net.now();
            let due = match self.server.poll_timeout() {
                Some((at, _)) => self.timer.poll_until(cx, at),
                None => false,
            };
            if due {
                self.server.handle_timeout(now);
                self.drain();
            }
            if !(accepted || served || due) {
                break;
            }
        }
        self.ready.park(cx);
        Poll::Pending
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> bool {
        let Poll::Ready(accepted) = self.door.poll_accept(cx) else { return false };
        let Some(stream) = accepted else { return true };
        // A client that is gone already has no address; its stream is dropped.
        let Ok(from) = stream.peer_addr() else { return true };
        // A socket that listens on both families shows IPv4 clients as mapped addresses.
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let silence_max = if planted::is(planted::Fault::LateDeath) { 2 * SILENCE_MAX } else { SILENCE_MAX };
        if let Err(error) = stream.set_keepalive(KEEPALIVE_INTERVAL, silence_max) {
            tracing::debug!(%from, %error, "no keep-alive on a connection");
        }
        let connection = Connection(self.next);
        self.next += 1;
        let waker = self.ready.waker(connection);
        let framed = Framed::new(stream, CLIENT_MESSAGE_BYTES_MAX);
        self.clients.insert(connection, Client { framed, waker: waker.clone(), closing: false });
        self.server.handle_input(self.net.now(), connection, Input::Opened(from));
        self.drain();
        waker.wake_by_ref();
        true
    }

    fn poll_calls(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Poll::Ready(Some((connection, vantage, outcome))) = self.calls.poll_next_unpin(cx) {
            any = true;
            self.server.handle_input(self.net.now(), connection, Input::CalledBack { vantage, outcome });
            self.drain();
        }
        any
    }

    /// Connects to a client from a vantage; that it is established says all, and it is closed.
    fn call_back(&mut self, connection: Connection, vantage: u8, to: SocketAddr) {
        let Some(from) = self.vantages.get(usize::from(vantage)).copied() else { return };
        let net = self.net.clone();
        self.calls.push(Box::pin(async move {
            let until = net.now() + CALL_BACK_SILENCE;
            let outcome = match within(&net, until, net.connect(from, to)).await {
                Ok(_) => Outcome::Connected,
                Err(error) => outcome_of(error.kind()),
            };
            (connection, vantage, outcome)
        }));
    }

    /// Polls each connection that was ready at the start once; true if one of them achieved anything.
    fn poll_ready(&mut self) -> bool {
        let mut any = false;
        for connection in self.ready.take() {
            any |= self.poll_client(connection);
        }
        any
    }

    /// True if a message came, or the connection ended.
    fn poll_client(&mut self, connection: Connection) -> bool {
        if let Some(pair) = self.spliced.get(&connection).copied() {
            return self.poll_splice(pair);
        }
        let mut any = false;
        loop {
            let Some(client) = self.clients.get_mut(&connection) else { return any };
            client.waker.rearm();
            let waker = Waker::from(client.waker.clone());
            let mut cx = Context::from_waker(&waker);
            let flushed = client.framed.poll_flush(&mut cx);
            if client.closing {
                // What the socket does not take at once is not waited for: a client that does not
                // read cannot hold memory here.
                if flushed.is_pending() {
                    client.framed.flush_now();
                }
                self.clients.remove(&connection);
                return true;
            }
            let input = match (flushed, client.framed.poll_receive(&mut cx, ClientMessage::parse)) {
                (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(ReceiveError::Io(_)))) => Input::Closed,
                (_, Poll::Ready(Err(ReceiveError::Wire(error)))) => {
                    // Strangers send anything; a member of a group with another version is for the operator to know.
                    if let (WireError::Version { .. }, Ok(from)) = (error, client.framed.stream().peer_addr()) {
                        tracing::warn!(%from, %error, "a client is refused");
                    }
                    Input::Malformed(error)
                }
                (_, Poll::Ready(Ok(message))) => Input::Message(message),
                (_, Poll::Pending) => return any,
            };
            any = true;
            if matches!(input, Input::Closed) {
                self.clients.remove(&connection);
            }
            self.server.handle_input(self.net.now(), connection, input);
            self.drain();
        }
    }

    fn send(&mut self, connection: Connection, message: Bytes) {
        let Some(client) = self.clients.get_mut(&connection) else { return };
        client.framed.queue_shared(message);
        client.waker.wake_by_ref();
        if client.framed.queued() > QUEUED_BYTES_MAX {
            self.clients.remove(&connection);
            self.server.handle_input(self.net.now(), connection, Input::Closed);
        }
    }

    /// Joins two clients: from now on their bytes are not ours to read.
    fn splice(&mut self, first: Connection, second: Connection) {
        let (Some(one), Some(other)) = (self.clients.remove(&first), self.clients.remove(&second)) else {
            // One vanished meanwhile; the other learns by its closing stream.
            for end in [first, second] {
                self.clients.remove(&end);
                self.server.handle_input(self.net.now(), end, Input::Closed);
            }
            return;
        };
        for end in [first, second] {
            self.spliced.insert(end, first);
        }
        // One waker for both: whatever happens on either side, the pair is looked at.
        let waker = one.waker.clone();
        let clock = Arc::new(self.net.clone());
        let splice = Splice::new(self.net.now(), [one, other].map(|it| it.framed), self.relay_bytes_per_second, clock);
        self.splices.insert(first, splice);
        waker.wake_by_ref();
        self.wakers.insert(first, (waker, second));
    }

    /// True if the pair has ended.
    fn poll_splice(&mut self, pair: Connection) -> bool {
        let Some((ready, _)) = self.wakers.get(&pair) else { return false };
        ready.rearm();
        let waker = Waker::from(ready.clone());
        let mut cx = Context::from_waker(&waker);
        let now = self.net.now();
        let Some(splice) = self.splices.get_mut(&pair) else { return false };
        if splice.poll(&mut cx, now).is_pending() {
            return false;
        }
        for end in self.unsplice(pair).into_iter().flatten() {
            self.server.handle_input(now, end, Input::Closed);
        }
        self.drain();
        true
    }

    /// Drops a relayed pair; returns its connections.
    fn unsplice(&mut self, connection: Connection) -> Option<[Connection; 2]> {
        let first = *self.spliced.get(&connection)?;
        let (_, second) = self.wakers.remove(&first)?;
        self.splices.remove(&first);
        for end in [first, second] {
            self.spliced.remove(&end);
        }
        Some([first, second])
    }

    /// Carries out what the server wants; clients with new messages become ready.
    fn drain(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Send(connection, message) => self.send(connection, message.emit().into()),
                Output::SendAll(connections, message) => {
                    let message = Bytes::from(message.emit());
                    for connection in connections {
                        self.send(connection, message.clone());
                    }
                }
                Output::Splice(first, second) => self.splice(first, second),
                Output::CallBack { connection, vantage, to } => self.call_back(connection, vantage, to),
                Output::Close(connection) => {
                    self.unsplice(connection);
                    if let Some(client) = self.clients.get_mut(&connection) {
                        client.closing = true;
                        client.waker.wake_by_ref();
                    }
                }
            }
        }
    }
}
