//! From the relay to a direct connection, while the group computes.
//!
//! A pair that was relayed keeps trying. Both ranks register a group of two at the rendezvous, from fresh
//! local ports, and connect as any group does: that cures mappings that were stuck, paths that were cut, and
//! ports that were predicted wrongly. What both prove there comes from the relayed connection itself, so neither another
//! member of the group nor the rendezvous can take the place of one of them. The new stream takes the place of the relayed one at the
//! next border between two frames, in each direction by itself, so that no byte is lost, doubled or
//! reordered ([`crate::channel::stream`]). When a pair tries is decided by [`Machine`](crate::proto::upgrade).
//!
//! No task: it makes progress whenever an operation of the communicator waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::join::{Membership, Prepared};
use super::joined::Upgrade;
use super::round::Relayed;
use crate::channel::stream::Link;
use crate::config::{Config, Peers};
use crate::error::Result;
use crate::net::{BoxFuture, Net, Timer};
use crate::proto::candidate::Digest;
use crate::proto::session::Chain;
use crate::proto::upgrade::{Input, Output, TRY_MAX, Upgrades as Machine};

/// Joins a group of two, and takes its link once both ends know that it works.
pub(crate) type Meet<N> = Arc<dyn Fn(Prepared<N>) -> BoxFuture<Result<Link>> + Send + Sync>;

/// Makes the rank of a group of two at the same servers.
type Prepare<N> = Box<dyn Fn(Config, Membership) -> Prepared<N> + Send>;

/// All relayed pairs of one rank.
pub(super) struct Upgrades<N: Net> {
    net: N,
    config: Config,
    membership: Membership,
    roster: Digest,
    /// By the peer, until its pair is relayed no longer.
    chains: BTreeMap<u32, Arc<Chain>>,
    machine: Machine,
    /// Groups of two that are forming, by the peer.
    tries: BTreeMap<u32, BoxFuture<Result<Link>>>,
    timer: Timer,
    prepare: Prepare<N>,
    meet: Meet<N>,
}

impl<N: Net> Upgrades<N> {
    /// Starts with the relayed peers of a group with this roster.
    pub(super) fn new(
        net: N,
        (config, membership): (Config, Membership),
        roster: Digest,
        relayed: Vec<Relayed>,
        prepare: Prepare<N>,
        meet: Meet<N>,
    ) -> Self {
        let peers: Vec<_> = relayed.iter().map(|it| (it.peer, it.is_likely)).collect();
        let machine = Machine::new(net.now(), &peers);
        let timer = Timer::new(Arc::new(net.clone()));
        let chains = relayed.into_iter().map(|it| (it.peer, it.chain)).collect();
        Self { net, config, membership, roster, chains, machine, tries: BTreeMap::new(), timer, prepare, meet }
    }

    /// What the group of two is, if the pair is still relayed.
    fn pair(&self, peer: u32) -> Option<(Config, Membership)> {
        let own = self.config.rank;
        let key = self.membership.key.of_pair(&self.roster, own.min(peer), own.max(peer));
        let membership = Membership { key, chain: Some(self.chains.get(&peer)?.clone()), ..self.membership };
        let mut config = self.config.clone();
        config.group = format!("ranks {} and {} of {}", own.min(peer), own.max(peer), self.config.group);
        (config.rank, config.size) = (u32::from(own > peer), 2);
        config.peers = Peers::All;
        config.relay = false;
        config.join_deadline = TRY_MAX;
        Some((config, membership))
    }

    /// Polls the groups of two; the first link that is established.
    fn poll_tries(&mut self, cx: &mut Context<'_>) -> Poll<(u32, Link)> {
        let peers: Vec<u32> = self.tries.keys().copied().collect();
        for peer in peers {
            let Some(joining) = self.tries.get_mut(&peer) else { continue };
            let Poll::Ready(result) = joining.as_mut().poll(cx) else { continue };
            self.tries.remove(&peer);
            let now = self.net.now();
            match result {
                Ok(link) => {
                    self.chains.remove(&peer);
                    self.machine.handle_input(now, Input::Connected(peer));
                    return Poll::Ready((peer, link));
                }
                Err(error) => {
                    tracing::debug!(peer, %error, "upgrade attempt failed; staying on the relay");
                    self.machine.handle_input(now, Input::Failed(peer));
                }
            }
        }
        Poll::Pending
    }
}

impl<N: Net> Upgrade for Upgrades<N> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(u32, Link)> {
        loop {
            if let Poll::Ready(established) = self.poll_tries(cx) {
                return Poll::Ready(established);
            }
            if let Some((at, _)) = self.machine.poll_timeout()
                && self.timer.poll_until(cx, at)
            {
                self.machine.handle_timeout(self.net.now());
            }
            let mut begun = false;
            while let Some(Output::Try(peer)) = self.machine.poll_output() {
                let Some((config, membership)) = self.pair(peer) else { continue };
                let prepared = (self.prepare)(config, membership);
                self.tries.insert(peer, (self.meet)(prepared));
                begun = true;
            }
            if !begun {
                return Poll::Pending;
            }
        }
    }
}
