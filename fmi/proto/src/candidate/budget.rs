//! What a rank may spend on guesses: each takes a port of a NAT that maps by the remote endpoint, and the relay needs one for
//! each peer. And what all ranks together may ask of a rendezvous at once. Pure policy.

use std::time::Duration;

use super::{FORETOLD, Means, NatClass, Roster, Technique, technique};

/// Ports that a NAT gives a host at least: the default of Google's Cloud NAT.
const NAT_PORTS: usize = 64;
/// Those that the connections to the rendezvous take.
const OF_RENDEZVOUS: usize = 2;
/// Handshakes that a server should have under way at once: half of Linux's `tcp_max_syn_backlog` on a machine of some size.
/// What it has no room for is lost, and repeated after a second.
const HANDSHAKES: u32 = 512;

impl Roster {
    /// Whether `rank` may spend ports of its NAT on guesses towards `peer`: as many as are left over if all its peers are
    /// relayed, for the peers that it turns to first.
    pub(super) fn may_guess(&self, rank: u32, peer: u32, means: &Means) -> bool {
        let own = self.guesses(rank, peer);
        if own == 0 {
            return true;
        }
        let (size, wanted) = (self.size(), means.peers.of(rank, self.size()));
        let spare = NAT_PORTS.saturating_sub(OF_RENDEZVOUS + wanted.len());
        let before = (1..size).map(|distance| (rank + distance) % size).take_while(|other| *other != peer);
        let spent: usize = before.filter(|other| wanted.contains(other)).map(|other| self.guesses(rank, other)).sum();
        spent + own <= spare
    }

    /// How much later than others a pair asks for its relay, where packets take `reach` to the peer and back: all pairs of
    /// ranks whose ports are random ask as soon as the group is handed out, the nearer in rank the sooner.
    pub(super) fn turn(&self, rank: u32, peer: u32, reach: Duration) -> Duration {
        let (first, last) = (rank.min(peer), rank.max(peer));
        let (mut all, mut between) = (0, 0);
        for (other, of_other) in (0..).zip(&self.peers) {
            let is_random = of_other.class() == NatClass::Unpredictable;
            all += u32::from(is_random);
            between += u32::from(is_random && (first..last).contains(&other));
        }
        let steps = between.min(all - between).saturating_sub(1);
        (reach * all / HANDSHAKES).saturating_mul(steps)
    }

    /// Ports that the guesses of `rank` towards `peer` take. A spray was asked for.
    fn guesses(&self, rank: u32, peer: u32) -> usize {
        let (own, their) = (&self.peers[rank as usize], &self.peers[peer as usize]);
        match (technique(own, their, false), own.class(), their.class()) {
            (Technique::Listen, NatClass::Unpredictable, _) => 1,
            (Technique::Prediction, NatClass::Sequential(_), NatClass::Sequential(_)) => usize::from(FORETOLD),
            _ => 0,
        }
    }
}
