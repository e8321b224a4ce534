//! Drives the server of the original's pairing protocol ([`crate::proto::tcpunch`]).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use tokio::io::ReadBuf;

use super::door::{BACKLOG, Door};
use super::ready::{Ready, ReadyWaker};
use super::rendezvous::{KEEPALIVE_INTERVAL, SILENCE_MAX};
use super::{ByteStream, Listener, Net, Timer};
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::proto::tcpunch::{ANSWER_BYTES, CLIENTS_MAX, Connection, Input, NAME_BYTES_MAX, Output, Server};

/// A server that listens.
#[derive(Debug)]
pub struct Tcpunch<N: Net> {
    net: N,
    listener: N::Listener,
    clients_max: usize,
}

struct Client<S> {
    stream: S,
    waker: Arc<ReadyWaker<Connection>>,
    /// Answers that are not sent yet.
    outgoing: Vec<u8>,
    is_closing: bool,
}

impl<N: Net> Tcpunch<N> {
    /// Listens on `address`, which must be of IPv4: the protocol knows no other.
    ///
    /// # Errors
    /// [`ErrorKind::Local`] if the address cannot be listened on.
    pub fn bind(net: N, address: SocketAddr) -> Result<Self> {
        let local = |what: String| Error::new(Operation::Rendezvous, ErrorKind::Local(what));
        if address.is_ipv6() {
            return Err(local(format!("cannot serve TCPunch on {address}: its protocol knows IPv4 only")));
        }
        match net.listen(address, BACKLOG) {
            Ok(listener) => Ok(Self { net, listener, clients_max: CLIENTS_MAX }),
            Err(error) => Err(local(format!("cannot listen on {address}: {error}")).caused_by(error)),
        }
    }

    /// Serves at most so many clients at once that are not paired, instead of 8,192.
    #[must_use]
    pub fn with_clients_max(self, clients_max: usize) -> Self {
        Self { clients_max, ..self }
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// [`ErrorKind::Local`] if the system does not say.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        let failed =
            |error| Error::new(Operation::Rendezvous, ErrorKind::Local("no local address".into())).caused_by(error);
        self.listener.local_addr().map_err(failed)
    }

    /// Serves until it is dropped.
    pub async fn serve(self) -> Infallible {
        let Self { net, listener, clients_max } = self;
        let mut driver = Driver {
            door: Door::new(net.clone(), vec![listener]),
            server: Server::with_clients_max(clients_max),
            clients: BTreeMap::new(),
            ready: Arc::default(),
            next: 0,
            timer: Timer::new(Arc::new(net.clone())),
            net,
        };
        poll_fn(move |cx| driver.poll(cx)).await
    }
}

struct Driver<N: Net> {
    net: N,
    door: Door<N>,
    server: Server,
    clients: BTreeMap<Connection, Client<N::Stream>>,
    ready: Arc<Ready<Connection>>,
    next: u64,
    timer: Timer,
}

impl<N: Net> Driver<N> {
    /// Goes on while anything was achieved; each client is polled only when it is ready.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Infallible> {
        loop {
            let mut moved = self.poll_accept(cx);
            for connection in self.ready.take() {
                moved |= self.poll_client(connection);
            }
            if let Some((at, _)) = self.server.poll_timeout()
                && self.timer.poll_until(cx, at)
            {
                self.server.handle_timeout(self.net.now());
                self.drain();
                moved = true;
            }
            if !moved {
                break;
            }
        }
        self.ready.park(cx);
        Poll::Pending
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> bool {
        let Poll::Ready(accepted) = self.door.poll_accept(cx) else { return false };
        let Some(stream) = accepted else { return true };
        // A client that is gone already has no address.
        let Ok(SocketAddr::V4(from)) = stream.peer_addr() else { return true };
        // One that is cut off sends no FIN, and would take whoever comes next with it.
        if let Err(error) = stream.set_keepalive(KEEPALIVE_INTERVAL, SILENCE_MAX) {
            tracing::debug!(%from, %error, "no keep-alive on a connection");
        }
        let connection = Connection(self.next);
        self.next += 1;
        let waker = self.ready.waker(connection);
        let client = Client { stream, waker: waker.clone(), outgoing: Vec::new(), is_closing: false };
        self.clients.insert(connection, client);
        self.server.handle_input(self.net.now(), connection, Input::Opened(from));
        self.drain();
        waker.wake_by_ref();
        true
    }

    /// True if bytes came, or the client is done with.
    fn poll_client(&mut self, connection: Connection) -> bool {
        let mut any = false;
        loop {
            let Some(client) = self.clients.get_mut(&connection) else { return any };
            client.waker.rearm();
            let waker = Waker::from(client.waker.clone());
            let input = match client.poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => return any,
                Poll::Ready(Some(bytes)) => Input::Bytes(bytes),
                Poll::Ready(None) => {
                    self.clients.remove(&connection);
                    Input::Closed
                }
            };
            any = true;
            self.server.handle_input(self.net.now(), connection, input);
            self.drain();
        }
    }

    /// Carries out what the server wants; the clients concerned become ready.
    fn drain(&mut self) {
        while let Some(output) = self.server.poll_output() {
            let (Output::Send(connection, _) | Output::Close(connection)) = output;
            let Some(client) = self.clients.get_mut(&connection) else { continue };
            match output {
                Output::Send(_, answer) => client.outgoing.extend_from_slice(&answer),
                Output::Close(_) => client.is_closing = true,
            }
            client.waker.wake_by_ref();
        }
    }
}

impl<S: ByteStream> Client<S> {
    /// Sends answers and reads; `None` when the client is done with.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        debug_assert!(self.outgoing.len() <= 2 * ANSWER_BYTES, "a client gets two answers");
        while !self.outgoing.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.outgoing) {
                Poll::Ready(Ok(sent)) if sent > 0 => drop(self.outgoing.drain(..sent)),
                Poll::Ready(_) => return Poll::Ready(None),
                // Two answers fit any socket: a task that has had its share is told to come again, and nothing else is.
                Poll::Pending if self.is_closing => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if self.is_closing {
            return Poll::Ready(None);
        }
        let mut bytes = [0; NAME_BYTES_MAX];
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => Poll::Ready(Some(buffer.filled().to_vec())),
            Poll::Ready(_) => Poll::Ready(None),
        }
    }
}
