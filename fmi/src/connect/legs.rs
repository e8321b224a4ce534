//! Connections from one fresh local port to one rendezvous, and the addresses of each rendezvous.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use super::round::STRANGERS_MAX;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::net::framed::Framed;
use crate::net::{BoxFuture, ByteStream, Listener, Net, within};
use crate::proto::rendezvous::client::{Entropy, Input as ClientInput};
use crate::proto::rendezvous::{ClientMessage, Nonce, SERVER_MESSAGE_BYTES_MAX, SIZE_MAX, ServerMessage};
use crate::time::Instant;

/// Endpoints of one rendezvous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) main: SocketAddr,
    /// Where it sees this rank a second time.
    vantage: Option<SocketAddr>,
    /// Over the other address family.
    other: Option<SocketAddr>,
}

/// Connections from one fresh local port to one server. The main one carries the registration, the
/// others vouch for it.
pub(super) struct Legs<N: Net> {
    pub(super) server: Server,
    began: Instant,
    /// The local port of main connection, vantage and listener.
    pub(super) local: SocketAddr,
    pub(super) listener: N::Listener,
    pub(super) main: Leg<N::Stream>,
    pub(super) vantage: Leg<N::Stream>,
    /// Over the other address family, with its own port and listener.
    pub(super) other: Option<(SocketAddr, N::Listener)>,
    pub(super) other_leg: Leg<N::Stream>,
    /// When the main connection was established.
    connected_at: Instant,
    /// Whether the client machine knows the outcome.
    pub(super) is_announced: bool,
}

pub(super) enum Leg<S> {
    /// Not wanted, failed, or ended.
    None,
    Connecting(BoxFuture<io::Result<S>>, Option<Nonce>),
    Established(Framed<S>),
}

impl<S: ByteStream> Leg<S> {
    fn is_hopeful(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Connects; true when it is decided.
    fn poll_connect(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self::Connecting(connecting, nonce) = self else { return Poll::Pending };
        match connecting.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(stream)) => {
                let nonce = nonce.take();
                *self = Self::Established(Framed::new(stream, SERVER_MESSAGE_BYTES_MAX));
                if let Some(nonce) = nonce {
                    self.vouch(nonce);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                *self = Self::None;
                Poll::Ready(Err(error))
            }
        }
    }

    /// Vouches for a registration, now or as soon as the connection is established.
    pub(super) fn vouch(&mut self, nonce: Nonce) {
        match self {
            Self::None => {}
            Self::Connecting(_, pending) => *pending = Some(nonce),
            Self::Established(framed) => framed.queue(&ClientMessage::Vouch(nonce).emit()),
        }
    }

    /// Sends what is queued; a server that closes has heard.
    fn poll_end(&mut self, cx: &mut Context<'_>) {
        let Self::Established(framed) = self else { return };
        let flushed = framed.poll_flush(cx);
        let ended = framed.poll_receive(cx, ServerMessage::parse).is_ready();
        if ended || matches!(flushed, Poll::Ready(Err(_))) {
            *self = Self::None;
        }
    }
}

impl<N: Net> Legs<N> {
    /// Listens on a fresh port, and connects from there. The vantage comes first: what a counting NAT
    /// gave last is then what the main endpoint sees.
    pub(super) fn new(net: &N, config: &Config, server: Server) -> io::Result<Self> {
        let backlog = config.size.saturating_add(STRANGERS_MAX).min(SIZE_MAX);
        let any = local_for(config, server.main);
        let listener = net.listen(any, backlog)?;
        let local = SocketAddr::new(any.ip(), listener.local_addr()?.port());
        let connect = |local: SocketAddr, remote: Option<SocketAddr>| match remote {
            Some(remote) => Leg::Connecting(Box::pin(net.connect(local, remote)), None),
            None => Leg::None,
        };
        // A machine without the other family has no use for it.
        let other = server.other.and_then(|remote| {
            let any = unspecified(remote);
            let listener = net.listen(any, backlog).ok()?;
            let port = listener.local_addr().ok()?.port();
            Some((SocketAddr::new(any.ip(), port), listener))
        });
        let other_leg =
            connect(other.as_ref().map_or(local, |(local, _)| *local), server.other.filter(|_| other.is_some()));
        Ok(Self {
            server,
            began: net.now(),
            local,
            listener,
            vantage: connect(local, server.vantage),
            main: connect(local, Some(server.main)),
            other,
            other_leg,
            connected_at: net.now(),
            is_announced: false,
        })
    }

    /// Waits until the main connection is decided; the others may come later.
    pub(super) fn poll_main(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<io::Result<()>> {
        let _ = self.poll_others(cx);
        let polled = self.main.poll_connect(cx);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.connected_at = now;
        }
        polled
    }

    /// Makes progress on the others; the number that failed.
    pub(super) fn poll_others(&mut self, cx: &mut Context<'_>) -> usize {
        let mut failed = 0;
        for leg in [&mut self.vantage, &mut self.other_leg] {
            failed += usize::from(matches!(leg.poll_connect(cx), Poll::Ready(Err(_))));
            leg.poll_end(cx);
        }
        failed
    }

    /// Gives the connections up. What of a registration is still on its way must not arrive after the next one.
    pub(super) fn abandon(self) {
        for leg in [self.main, self.vantage, self.other_leg] {
            if let Leg::Established(framed) = leg {
                framed.stream().reset_on_drop();
            }
        }
    }

    /// What the main connection tells the client machine, with entropy that is drawn now.
    pub(super) fn connected(&self, net: &N) -> io::Result<ClientInput> {
        let Leg::Established(control) = &self.main else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut entropy = Entropy { nonce: [0; 16], seed: [0; 32] };
        net.fill_entropy(&mut entropy.nonce);
        net.fill_entropy(&mut entropy.seed);
        let vouches = [&self.vantage, &self.other_leg].map(|leg| u8::from(leg.is_hopeful()));
        Ok(ClientInput::Connected {
            locals: vec![control.stream().local_addr()?],
            round_trip: self.connected_at - self.began,
            vouches: vouches.iter().sum(),
            entropy,
        })
    }
}

impl<N: Net> fmt::Debug for Legs<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Legs").field("server", &self.server).field("local", &self.local).finish_non_exhaustive()
    }
}

/// Finds the endpoints of every rendezvous that the configuration names.
pub(super) async fn resolve<N: Net>(net: &N, config: &Config) -> Result<Vec<Server>> {
    let deadline = net.now() + config.join_deadline;
    let invalid = |what: String| Error::new(Operation::Join, ErrorKind::InvalidConfig(what)).on(config.rank);
    let find = async |name: &str| {
        let found = within(net, deadline, net.resolve(name)).await;
        found.map_err(|error| invalid(format!("cannot resolve {name:?}: {error}")).caused_by(error))
    };
    let mut vantages = Vec::new();
    if let Some(named) = config.vantage.as_ref().filter(|named| *named != "off") {
        for name in named.split(',') {
            vantages.push(find(name.trim()).await?);
        }
    }
    let mut servers = Vec::new();
    for (number, name) in config.rendezvous.split(',').map(str::trim).enumerate() {
        let usable = |address: &SocketAddr| config.bind.is_unspecified() || address.is_ipv4() == config.bind.is_ipv4();
        let addresses: Vec<_> = find(name).await?.into_iter().filter(usable).collect();
        // Peers meet over IPv4 wherever both have it; IPv6 is the other family of those that have both.
        let is_v4 = addresses.iter().any(SocketAddr::is_ipv4);
        let other = addresses.iter().copied().find(|address| address.is_ipv4() != is_v4);
        let first = servers.len();
        for main in addresses.iter().copied().filter(|address| address.is_ipv4() == is_v4) {
            let given = vantages.get(number).map(|found| found.iter().copied().find(|it| it.is_ipv4() == is_v4));
            let next = main.port().checked_add(1).map(|port| SocketAddr::new(main.ip(), port));
            let vantage = if config.vantage.is_none() { next } else { given.flatten() };
            servers.push(Server { main, vantage, other });
        }
        if servers.len() == first {
            return Err(invalid(format!("{name:?} has no usable address")));
        }
    }
    Ok(servers)
}

fn unspecified(remote: SocketAddr) -> SocketAddr {
    if remote.is_ipv4() { SocketAddr::from(([0; 4], 0)) } else { SocketAddr::from(([0; 16], 0)) }
}

pub(super) fn local_for(config: &Config, remote: SocketAddr) -> SocketAddr {
    if config.bind.is_unspecified() { unspecified(remote) } else { SocketAddr::new(config.bind, 0) }
}
