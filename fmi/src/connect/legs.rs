//! Connections to one place of a rendezvous: from one fresh local port for each address family.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use super::racing::{Contender, connect_any};
use super::round::STRANGERS_MAX;
use crate::config::Config;
use crate::net::framed::Framed;
use crate::net::{BoxFuture, ByteStream, Listener, Net};
use crate::proto::race::{Place, Side};
use crate::proto::rendezvous::client::{Entropy, Input as ClientInput};
use crate::proto::rendezvous::{ClientMessage, Nonce, SERVER_MESSAGE_BYTES_MAX, SIZE_MAX, ServerMessage};
use crate::time::Instant;

/// Where else a place sees this rank.
#[derive(Clone, Copy, Debug)]
pub(super) enum Vantages<'a> {
    /// On the port that follows.
    NextPort,
    /// At one of these, of the same family.
    These(&'a [SocketAddr]),
}

/// What a rank has of one address family.
pub(super) struct End<N: Net> {
    side: Side,
    /// The address of the rendezvous.
    pub(super) remote: SocketAddr,
    /// The local port of connections and listener.
    pub(super) local: SocketAddr,
    pub(super) listener: N::Listener,
    pub(super) leg: Leg<N::Stream>,
    /// When the connection was established.
    connected_at: Instant,
}

/// Connections to one place of a server. The main one carries the registration, the others vouch for it.
pub(super) struct Legs<N: Net> {
    began: Instant,
    /// Once it is elected, the connection that carries the registration.
    pub(super) main: End<N>,
    /// From the port of the preferred end.
    pub(super) vantage: Leg<N::Stream>,
    /// Of the other address family.
    pub(super) other: Option<End<N>>,
    /// An end that this machine cannot have.
    missing: Option<(Side, io::Error)>,
    /// Whether the preferred end was too late or failed: then it is not waited for, but may still vouch.
    is_overtaken: bool,
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
    /// Whether it is established, or may be soon.
    fn is_hopeful(&self, is_late: bool) -> bool {
        match self {
            Self::None => false,
            Self::Connecting(..) => !is_late,
            Self::Established(_) => true,
        }
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

/// Longest segments to and from the rendezvous: packets of 1,280 bytes, with the headers of IPv6. A group is to form wherever
/// those get through, whatever becomes of longer ones.
pub(super) const SEGMENT_BYTES_MAX: u16 = 1_220;

impl<N: Net> Legs<N> {
    /// Listens on fresh ports, and connects from there. The vantage comes first: what a counting NAT
    /// gave last is then what the main endpoint sees.
    pub(super) fn new(net: &N, config: &Config, place: Place, vantages: Vantages<'_>) -> io::Result<Self> {
        let short = net.with_segment_max(SEGMENT_BYTES_MAX);
        let backlog = config.size.saturating_add(STRANGERS_MAX).min(SIZE_MAX);
        let end = |side, remote| -> io::Result<End<N>> {
            let any = local_for(config, remote);
            let listener = net.listen(any, backlog)?;
            let local = SocketAddr::new(any.ip(), listener.local_addr()?.port());
            let leg = Leg::Connecting(Box::pin(short.connect(local, remote)), None);
            Ok(End { side, remote, local, listener, leg, connected_at: net.now() })
        };
        let preferred = end(Side::Preferred, place.preferred);
        let other = place.other.map(|remote| end(Side::Other, remote));
        // A machine without a family has no use for it.
        let (main, other, missing) = match (preferred, other) {
            (Ok(main), None) => (main, None, None),
            (Ok(main), Some(Ok(other))) => (main, Some(other), None),
            (Ok(main), Some(Err(error))) => (main, None, Some((Side::Other, error))),
            (Err(error), Some(Ok(other))) => (other, None, Some((Side::Preferred, error))),
            (Err(error), None | Some(Err(_))) => return Err(error),
        };
        let mut legs = Self {
            began: net.now(),
            main,
            vantage: Leg::None,
            other,
            missing,
            is_overtaken: false,
            is_announced: false,
        };
        if legs.main.side == Side::Preferred {
            legs.vantage = legs.second(&short, vantages);
        }
        Ok(legs)
    }

    /// Connects to where the main end is seen a second time.
    fn second(&self, net: &N, vantages: Vantages<'_>) -> Leg<N::Stream> {
        let End { local, remote, .. } = self.main;
        let mut remotes = match vantages {
            Vantages::NextPort => {
                remote.port().checked_add(1).map(|port| SocketAddr::new(remote.ip(), port)).into_iter().collect()
            }
            Vantages::These(all) => {
                all.iter().copied().filter(|it| it.is_ipv4() == remote.is_ipv4()).collect::<Vec<_>>()
            }
        };
        match remotes.len() {
            0 => Leg::None,
            1 => Leg::Connecting(Box::pin(net.connect(local, remotes.remove(0))), None),
            _ => {
                let ways = remotes.into_iter().map(|remote| (local, remote)).collect();
                Leg::Connecting(Box::pin(connect_any(net.clone(), ways)), None)
            }
        }
    }

    /// Makes the connection of a side the main one. The other one may come later, to vouch.
    pub(super) fn elect(&mut self, side: Side) {
        if self.main.side != side
            && let Some(other) = &mut self.other
        {
            std::mem::swap(&mut self.main, other);
            self.is_overtaken = true;
        }
    }

    /// Makes progress on the others; the number of those that were announced and failed.
    pub(super) fn poll_others(&mut self, cx: &mut Context<'_>) -> usize {
        let mut failed = 0;
        for leg in [Some(&mut self.vantage), self.other.as_mut().map(|other| &mut other.leg)].into_iter().flatten() {
            failed += usize::from(matches!(leg.poll_connect(cx), Poll::Ready(Err(_))));
            leg.poll_end(cx);
        }
        if self.is_overtaken { 0 } else { failed }
    }

    /// Says on each of the others which registration it vouches for.
    pub(super) fn vouch(&mut self, nonce: Nonce) {
        self.vantage.vouch(nonce);
        if let Some(other) = &mut self.other {
            other.leg.vouch(nonce);
        }
    }

    /// Where the rendezvous is reached, the way that works first, each from any port.
    pub(super) fn ways(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let ends = std::iter::once(&self.main).chain(&self.other);
        ends.map(|end| (SocketAddr::new(end.local.ip(), 0), end.remote)).collect()
    }

    /// Gives the connections up. What of a registration is still on its way must not arrive after the next one.
    pub(super) fn abandon(self) {
        for leg in [Some(self.main.leg), Some(self.vantage), self.other.map(|other| other.leg)].into_iter().flatten() {
            if let Leg::Established(framed) = leg {
                framed.stream().reset_on_drop();
            }
        }
    }

    /// What the main connection tells the client machine, with entropy that is drawn now.
    pub(super) fn connected(&self, net: &N, has_others: bool) -> io::Result<ClientInput> {
        let Leg::Established(control) = &self.main.leg else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut entropy = Entropy { nonce: [0; 16], seed: [0; 32] };
        net.fill_entropy(&mut entropy.nonce);
        net.fill_entropy(&mut entropy.seed);
        let others = [Some(&self.vantage), self.other.as_ref().map(|other| &other.leg)];
        let vouches = others.into_iter().flatten().map(|leg| u8::from(leg.is_hopeful(self.is_overtaken))).sum();
        Ok(ClientInput::Connected {
            locals: vec![control.stream().local_addr()?],
            round_trip: self.main.connected_at - self.began,
            vouches,
            has_others,
            entropy,
        })
    }
}

impl<N: Net> Contender for Legs<N> {
    fn poll_side(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<(Side, io::Result<()>)> {
        if let Some((side, error)) = self.missing.take() {
            return Poll::Ready((side, Err(error)));
        }
        // A failure is seen once the registration tells how many vouch for it.
        let _ = self.vantage.poll_connect(cx);
        for end in self.other.iter_mut().chain([&mut self.main]) {
            if let Poll::Ready(result) = end.leg.poll_connect(cx) {
                end.connected_at = now;
                return Poll::Ready((end.side, result));
            }
        }
        Poll::Pending
    }
}

impl<N: Net> fmt::Debug for Legs<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Legs").field("ways", &self.ways()).finish_non_exhaustive()
    }
}

fn unspecified(remote: SocketAddr) -> SocketAddr {
    if remote.is_ipv4() { SocketAddr::from(([0; 4], 0)) } else { SocketAddr::from(([0; 16], 0)) }
}

pub(super) fn local_for(config: &Config, remote: SocketAddr) -> SocketAddr {
    if config.bind.is_unspecified() { unspecified(remote) } else { SocketAddr::new(config.bind, 0) }
}
