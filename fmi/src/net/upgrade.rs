//! From the relay to a direct connection, while the group computes.
//!
//! A pair that was relayed keeps trying. Both ranks register a group of two at the rendezvous, from fresh
//! local ports, and connect as any group does: that cures mappings that were stuck, paths that were cut, and
//! ports that were foretold wrongly. The stream that comes of it takes the place of the relayed one at the
//! next border between two frames, in each direction by itself, so that no byte is lost, doubled or
//! reordered ([`super::link`]).
//!
//! No task: it makes progress whenever an operation of the communicator waits.

use std::task::{Context, Poll};
use std::time::Duration;

use super::join::Prepared;
use super::link::Link;
use super::{BoxFuture, Net, Timer};
use crate::communicator::Communicator;
use crate::config::{Config, Peers};
use crate::error::Result;
use crate::proto::rendezvous::SessionId;
use crate::time::Instant;

/// Pause before the first try of a pair that should have connected; doubles with each failure.
const PAUSE_LIKELY: Duration = Duration::from_secs(1);
/// The same of a pair whose NATs leave little hope.
const PAUSE_UNLIKELY: Duration = Duration::from_secs(30);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Pairs that are tried at the same time.
const PAIRS_AT_ONCE: usize = 8;
/// Time for one try, from registration on; the peer may be busy with something else for a while.
const TRY_MAX: Duration = Duration::from_secs(20);

/// Tries to replace relayed links. Erased, as the communicator does not know the net.
pub(crate) trait Upgrade: Send {
    /// The next link that stands, for a peer.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(u32, Link)>;
}

/// A pair that is relayed.
struct Pair {
    peer: u32,
    pause: Duration,
    state: State,
}

enum State {
    Pausing {
        until: Instant,
    },
    /// Joins the group of two.
    Trying(BoxFuture<Result<Communicator>>),
}

/// Makes the rank of a group of two at the same servers.
type Prepare<N> = Box<dyn Fn(Config) -> Prepared<N> + Send>;

/// All relayed pairs of one rank.
pub(super) struct Upgrades<N: Net> {
    net: N,
    config: Config,
    session: SessionId,
    pairs: Vec<Pair>,
    timer: Timer,
    prepare: Prepare<N>,
}

impl<N: Net> Upgrades<N> {
    /// Starts with the relayed peers, and whether each should have been connected.
    pub(super) fn new(
        net: N,
        config: Config,
        session: SessionId,
        peers: Vec<(u32, bool)>,
        timer: Timer,
        prepare: Prepare<N>,
    ) -> Self {
        let now = net.now();
        let pair = |(peer, is_likely)| {
            let pause = if is_likely { PAUSE_LIKELY } else { PAUSE_UNLIKELY };
            Pair { peer, pause, state: State::Pausing { until: now + pause } }
        };
        let pairs = peers.into_iter().map(pair).collect();
        Self { net, config, session, pairs, timer, prepare }
    }

    /// The configuration of the group of two.
    fn pair_config(&self, peer: u32) -> Config {
        let own = self.config.rank;
        let mut hasher = blake3::Hasher::new_derive_key("fmi upgrade group v1");
        hasher.update(self.config.group.as_bytes()).update(&self.session);
        hasher.update(&own.min(peer).to_be_bytes()).update(&own.max(peer).to_be_bytes());
        let mut config = self.config.clone();
        config.group = format!("upgrade {}", hasher.finalize().to_hex());
        (config.rank, config.size) = (u32::from(own > peer), 2);
        config.peers = Peers::All;
        config.relay = false;
        config.join_deadline = TRY_MAX;
        config
    }
}

impl<N: Net> Upgrade for Upgrades<N> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(u32, Link)> {
        let now = self.net.now();
        let mut trying = self.pairs.iter().filter(|pair| matches!(pair.state, State::Trying(_))).count();
        let mut next = Instant::FAR_FUTURE;
        for index in 0..self.pairs.len() {
            let peer = self.pairs[index].peer;
            if let State::Pausing { until } = self.pairs[index].state {
                if until > now || trying == PAIRS_AT_ONCE {
                    next = if until > now { next.min(until) } else { next };
                    continue;
                }
                trying += 1;
                let prepared = (self.prepare)(self.pair_config(peer));
                self.pairs[index].state = State::Trying(Box::pin(prepared.join()));
            }
            let pair = &mut self.pairs[index];
            let State::Trying(joining) = &mut pair.state else { continue };
            match joining.as_mut().poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(pair)) => {
                    self.pairs.swap_remove(index);
                    return Poll::Ready((peer, pair.into_link()));
                }
                Poll::Ready(Err(error)) => {
                    tracing::debug!(peer, %error, "still relayed");
                    pair.pause = (2 * pair.pause).min(PAUSE_MAX);
                    pair.state = State::Pausing { until: now + pair.pause };
                    next = next.min(now + pair.pause);
                }
            }
        }
        if next < Instant::FAR_FUTURE && self.timer.poll_until(cx, next) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
