//! Drives a [`Discovery`]: connects, asks, listens. It needs no group and no key.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::framed::{Framed, ReceiveError};
use super::{ByteStream, Listener, Net, within};
use crate::connect::connect_any;
use crate::error::{Error, Operation, Result};
use crate::proto::discovery::{Discovery, LocalPort, Seen, Trial};
use crate::proto::rendezvous::{ClientMessage, SERVER_MESSAGE_BYTES_MAX, ServerMessage};
use crate::time::Instant;

pub use crate::proto::discovery::{Advice, Filtering, Finding, Mapping, Outcome, Ports};

/// A vantage answers within this time, or not at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A call back and a hairpin are waited for this long: silence is an answer, too.
const SILENCE: Duration = Duration::from_secs(3);

/// Classifies the NAT between this machine and a rendezvous, within a deadline.
///
/// # Errors
/// [`RendezvousUnreachable`](crate::ErrorKind::RendezvousUnreachable) if it has no address or does not answer before the deadline.
///
/// # Cancel safety
/// Dropping the future closes all connections.
pub async fn discover<N: Net>(net: &N, rendezvous: &str, within_time: Duration) -> Result<Finding> {
    let deadline = net.now() + within_time;
    let failed = |error: io::Error| {
        Error::new(Operation::Discover, crate::connect::not_reached(rendezvous, &error)).caused_by(error)
    };
    let addresses = within(net, deadline, net.resolve(rendezvous)).await.map_err(failed)?;
    let address = within(net, deadline, answering(net, addresses)).await.map_err(failed)?;
    let mut prober = Prober { net, streams: BTreeMap::new(), listener: None, deadline, failure: None };
    let mut discovery = Discovery::new(address);
    while let Some(trial) = discovery.next_trial() {
        let seen = prober.make(trial).await;
        if net.now() >= deadline {
            break;
        }
        discovery.handle_seen(trial, seen);
    }
    let unanswered = || io::Error::new(io::ErrorKind::InvalidData, "no answer that a rendezvous would give");
    discovery.finding().ok_or_else(|| failed(prober.failure.unwrap_or_else(unanswered)))
}

/// The first address that takes a connection. Translation is a matter of IPv4, so its addresses come first.
async fn answering<N: Net>(net: &N, mut addresses: Vec<SocketAddr>) -> io::Result<SocketAddr> {
    addresses.sort_by_key(SocketAddr::is_ipv6);
    match addresses[..] {
        [] => Err(io::Error::new(io::ErrorKind::NotFound, "it has no address")),
        [only] => Ok(only),
        _ => {
            let local = |remote: SocketAddr| match remote {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let ways = addresses.into_iter().map(|remote| (local(remote), remote)).collect();
            connect_any(net.clone(), ways).await?.peer_addr()
        }
    }
}

/// Connections stay open until the end: they keep their mappings alive.
struct Prober<'a, N: Net> {
    net: &'a N,
    streams: BTreeMap<(LocalPort, SocketAddr), Framed<N::Stream>>,
    /// On the port of [`LocalPort::Filter`].
    listener: Option<N::Listener>,
    deadline: Instant,
    /// Why the last observation could not be made.
    failure: Option<io::Error>,
}

impl<N: Net> Prober<'_, N> {
    async fn make(&mut self, trial: Trial) -> Seen {
        match trial {
            Trial::Observe { port, vantage } => self.observe(port, vantage).await.unwrap_or_else(|error| {
                self.failure = Some(error);
                Seen::Failed
            }),
            Trial::CallBack(number) => self.call_back(number).await.map_or(Seen::Failed, Seen::Outcome),
            Trial::Hairpin(own) => Seen::Outcome(self.hairpin(own).await),
        }
    }

    fn soon(&self, time: Duration) -> Instant {
        (self.net.now() + time).min(self.deadline)
    }

    /// The local end of a port; any port for its first connection.
    fn local(&self, port: LocalPort, towards: SocketAddr) -> SocketAddr {
        let known = self.streams.iter().find(|((used, _), _)| *used == port);
        let port = known.and_then(|(_, framed)| framed.stream().local_addr().ok()).map_or(0, |local| local.port());
        match towards {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
        }
    }

    async fn observe(&mut self, port: LocalPort, vantage: SocketAddr) -> io::Result<Seen> {
        let at = self.soon(ANSWER_WITHIN);
        let connect = self.net.connect(self.local(port, vantage), vantage);
        let stream = within(self.net, at, connect).await?;
        let local = stream.local_addr()?;
        let mut framed = Framed::new(stream, SERVER_MESSAGE_BYTES_MAX);
        framed.queue(&ClientMessage::Observe.emit());
        let answer = within(self.net, at, receive(&mut framed)).await?;
        if port == LocalPort::Filter {
            // Without a listener connections that are let in could not be told from those that are not.
            self.listener = Some(self.net.listen(self.local_any(local), 8)?);
        }
        self.streams.insert((port, vantage), framed);
        let ServerMessage::Observed { observed, vantages } = answer else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        Ok(Seen::Observed { local, observed, vantages })
    }

    fn local_any(&self, local: SocketAddr) -> SocketAddr {
        match local {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, local.port()).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, local.port()).into(),
        }
    }

    async fn call_back(&mut self, number: u8) -> io::Result<Outcome> {
        let at = self.soon(SILENCE + ANSWER_WITHIN);
        let filter = self.streams.iter_mut().find(|((port, _), _)| *port == LocalPort::Filter);
        let Some((_, framed)) = filter else { return Err(io::ErrorKind::NotConnected.into()) };
        framed.queue(&ClientMessage::CallBack(number).emit());
        let answer = within(self.net, at, receive(framed)).await?;
        if let ServerMessage::CalledBack { vantage, outcome } = answer
            && vantage == number
        {
            return Ok(outcome);
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    /// Whether a connection to this machine's external endpoint comes back to its listener.
    async fn hairpin(&mut self, own: SocketAddr) -> Outcome {
        // Connections that were accepted earlier are ignored.
        let accepting = std::future::poll_fn(|cx| {
            while let Some(listener) = &mut self.listener {
                match listener.poll_accept(cx) {
                    std::task::Poll::Ready(Ok(stream))
                        if stream.peer_addr().is_ok_and(|from| from.ip() == own.ip()) =>
                    {
                        return std::task::Poll::Ready(());
                    }
                    std::task::Poll::Ready(Ok(_)) => {}
                    // A listener that fails for lack of a descriptor fails again at once; the wait ends by its time.
                    std::task::Poll::Ready(Err(_)) | std::task::Poll::Pending => return std::task::Poll::Pending,
                }
            }
            std::task::Poll::Pending
        });
        let at = self.net.now() + SILENCE;
        let local = match own {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let attempt = within(self.net, at.min(self.deadline), self.net.connect(local, own));
        match attempt.await {
            Ok(_stream) => {
                let came = within(self.net, at, async {
                    accepting.await;
                    Ok(())
                });
                if came.await.is_ok() { Outcome::Connected } else { Outcome::Silence }
            }
            Err(error) => outcome_of(error.kind()),
        }
    }
}

/// What the failure of a connection attempt says.
pub(super) fn outcome_of(kind: io::ErrorKind) -> Outcome {
    if kind == io::ErrorKind::ConnectionRefused || kind == io::ErrorKind::ConnectionReset {
        Outcome::Refused
    } else if kind == io::ErrorKind::TimedOut {
        Outcome::Silence
    } else {
        Outcome::Unreachable
    }
}

async fn receive<S: ByteStream>(framed: &mut Framed<S>) -> io::Result<ServerMessage> {
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(Err(error)) = framed.poll_flush(cx) {
            return std::task::Poll::Ready(Err(error));
        }
        framed.poll_receive(cx, ServerMessage::parse).map_err(|error| match error {
            ReceiveError::Io(error) => error,
            ReceiveError::Wire(error) => io::Error::new(io::ErrorKind::InvalidData, error),
        })
    })
    .await
}
