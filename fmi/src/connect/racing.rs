//! Drives a [`Race`]: connects to the addresses of a server, of which the first that answers is kept.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::net::{BoxFuture, Net, Timer};
use crate::proto::race::{Input, Order, Output, Place, Race, Side};
use crate::time::Instant;

/// Connections to all addresses of a place.
pub(super) trait Contender {
    /// The next of them that is decided.
    fn poll_side(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<(Side, io::Result<()>)>;
}

/// Where a race gets its addresses from, and how an attempt begins.
pub(super) trait Ground<T> {
    /// Looks the name up.
    fn poll_resolve(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<SocketAddr>>>;

    /// Begins to connect to a place.
    fn begin(&mut self, place: Place) -> io::Result<T>;
}

/// A race under way. What is dropped with it is closed, and has said nothing.
pub(super) struct Racing<N: Net, T> {
    net: N,
    race: Race,
    timer: Timer,
    contenders: BTreeMap<usize, T>,
}

impl<N: Net, T: Contender> Racing<N, T> {
    pub(super) fn new(net: N, race: Race) -> Self {
        let timer = Timer::new(Arc::new(net.clone()));
        Self { net, race, timer, contenders: BTreeMap::new() }
    }

    /// The attempt that won, and which of its connections did.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, ground: &mut impl Ground<T>) -> Poll<io::Result<(T, Side)>> {
        loop {
            let now = self.net.now();
            if let Some(ended) = self.drain(now, ground) {
                return Poll::Ready(ended);
            }
            let mut moved = false;
            if self.race.is_resolving()
                && let Poll::Ready(answer) = ground.poll_resolve(cx)
            {
                let input = answer.map_or_else(|error| Input::Unresolved(error.kind()), Input::Resolved);
                self.race.handle_input(now, input);
                moved = true;
            }
            for (attempt, contender) in &mut self.contenders {
                while let Poll::Ready((side, result)) = contender.poll_side(cx, now) {
                    let input = match result {
                        Ok(()) => Input::Connected(*attempt, side),
                        Err(error) => Input::Failed(*attempt, side, error.kind()),
                    };
                    self.race.handle_input(now, input);
                    moved = true;
                }
            }
            if let Some((at, _)) = self.race.poll_timeout()
                && self.timer.poll_until(cx, at)
            {
                self.race.handle_timeout(now);
                moved = true;
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    fn drain(&mut self, now: Instant, ground: &mut impl Ground<T>) -> Option<io::Result<(T, Side)>> {
        while let Some(output) = self.race.poll_output() {
            match output {
                // It is asked for as long as the race waits for it.
                Output::Resolve => {}
                Output::Connect(attempt, place) => match ground.begin(place) {
                    Ok(contender) => {
                        self.contenders.insert(attempt, contender);
                    }
                    Err(error) => {
                        for side in [Side::Preferred, Side::Other] {
                            self.race.handle_input(now, Input::Failed(attempt, side, error.kind()));
                        }
                    }
                },
                Output::Won(attempt, side) => {
                    // What has not begun does not win.
                    let winner = self.contenders.remove(&attempt).map(|winner| (winner, side));
                    self.contenders.clear();
                    return Some(winner.ok_or_else(|| io::ErrorKind::NotConnected.into()));
                }
                Output::Lost(kind) => return Some(Err(kind.into())),
            }
        }
        None
    }
}

/// One connection, where nothing but the stream matters.
pub(super) enum Single<S> {
    Connecting(BoxFuture<io::Result<S>>),
    Decided(Option<S>),
}

impl<S> Single<S> {
    pub(super) fn new(connecting: impl Future<Output = io::Result<S>> + Send + 'static) -> Self {
        Self::Connecting(Box::pin(connecting))
    }

    /// The stream of the winner.
    pub(super) fn into_stream(self) -> io::Result<S> {
        match self {
            Self::Decided(Some(stream)) => Ok(stream),
            Self::Decided(None) | Self::Connecting(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl<S> Contender for Single<S> {
    fn poll_side(&mut self, cx: &mut Context<'_>, _: Instant) -> Poll<(Side, io::Result<()>)> {
        let Self::Connecting(connecting) = self else { return Poll::Pending };
        let Poll::Ready(result) = connecting.as_mut().poll(cx) else { return Poll::Pending };
        let (stream, result) = match result {
            Ok(stream) => (Some(stream), Ok(())),
            Err(error) => (None, Err(error)),
        };
        *self = Self::Decided(stream);
        Poll::Ready((Side::Preferred, result))
    }
}

/// Addresses that are known, each with the local end from which it is reached.
struct Ways<N>(N, Vec<(SocketAddr, SocketAddr)>);

impl<N: Net> Ground<Single<N::Stream>> for Ways<N> {
    fn poll_resolve(&mut self, _: &mut Context<'_>) -> Poll<io::Result<Vec<SocketAddr>>> {
        Poll::Ready(Err(io::ErrorKind::NotFound.into()))
    }

    fn begin(&mut self, place: Place) -> io::Result<Single<N::Stream>> {
        let way = self.1.iter().find(|(_, remote)| *remote == place.preferred);
        let (local, remote) = way.copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Single::new(self.0.connect(local, remote)))
    }
}

/// Connects to the first of several endpoints of one server that answers, each from a local end of its own. The
/// first one has a head start.
pub(crate) async fn connect_any<N: Net>(net: N, ways: Vec<(SocketAddr, SocketAddr)>) -> io::Result<N::Stream> {
    let remotes: Vec<_> = ways.iter().map(|(_, remote)| *remote).collect();
    // Nobody else has to agree with this order.
    let order = Order { group: [0; 32], last: remotes.first().copied(), elsewhere: false, together: false };
    let mut racing = Racing::new(net.clone(), Race::new(net.now(), order, remotes, true));
    let mut ways = Ways(net, ways);
    let (winner, _) = poll_fn(|cx| racing.poll(cx, &mut ways)).await?;
    winner.into_stream()
}

#[cfg(test)]
mod tests {
    //! Goal: one of several endpoints that works is enough. Method: loopback.

    use super::*;
    use crate::RealNet;
    use crate::net::{ByteStream, Listener};

    #[tokio::test]
    async fn the_first_way_that_works_is_taken() {
        let net = RealNet::new();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let refuses = net.listen(any, 1).and_then(|listener| listener.local_addr()).expect("a port that is free again");
        let mut listener = net.listen(any, 1).expect("a free port");
        let answers = listener.local_addr().expect("bound");
        for ways in [vec![refuses, answers], vec![answers, refuses], vec![answers]] {
            let ways = ways.into_iter().map(|remote| (any, remote)).collect();
            let stream = connect_any(net, ways).await.expect("one answers");
            assert_eq!(stream.peer_addr().expect("connected"), answers);
            poll_fn(|cx| listener.poll_accept(cx)).await.expect("accepted");
        }
        let error = connect_any(net, vec![(any, refuses); 2]).await.expect_err("nobody there");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect_any(net, Vec::new()).await.expect_err("nowhere").kind(), io::ErrorKind::NotFound);
    }
}
