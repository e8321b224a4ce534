//! The connections of one rank to its peers: one [`Punch`] for each. Pure.
//!
//! All pairs are punched at once, with at most `attempts_max` peers in the making; the
//! rest wait their turn in rank order starting after this rank, so that a large group does not
//! rush at rank 0.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::candidate::{Candidate, HEAD_START, Means, Roster, Technique};
use super::punch::{Attempt, Input, Output as PunchOutput, Punch, StreamId, nominates};
use fmi_net::time::Instant;

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect to a candidate of a peer.
    Connect {
        /// Rank of the peer.
        peer: u32,
        /// The attempt.
        attempt: Attempt,
        /// Where to.
        candidate: Candidate,
    },
    /// Send the nomination of a stream.
    Nominate {
        /// Rank of the peer.
        peer: u32,
        /// The stream.
        stream: StreamId,
        /// Whether it is settled: no acceptance will come.
        settles: bool,
    },
    /// Keep a stream; abandon all else of this peer.
    Won {
        /// Rank of the peer.
        peer: u32,
        /// The stream.
        stream: StreamId,
    },
    /// Every wanted peer is connected.
    Complete,
}

/// The state of all pairs of one rank.
#[derive(Debug)]
pub struct Mesh {
    rank: u32,
    roster: Roster,
    means: Means,
    techniques: Vec<Option<Technique>>,
    pairs: Vec<Option<Punch>>,
    waiting: VecDeque<u32>,
    peers: BTreeSet<u32>,
    open: BTreeSet<u32>,
    timers: BTreeSet<(Instant, u32)>,
    attempts_max: usize,
    connected: usize,
    outputs: VecDeque<Output>,
}

impl Mesh {
    /// Starts towards the peers that `means` names, whose seed drives the pauses between attempts, too.
    ///
    /// # Panics
    /// If `rank` is not in the group.
    pub fn new(now: Instant, rank: u32, roster: Roster, means: Means, attempts_max: usize) -> Self {
        let size = roster.size();
        assert!(rank < size, "the client machine checked that the rank is in the group");
        let peers = means.peers.of(rank, size);
        let mut mesh = Self {
            rank,
            roster,
            means,
            techniques: vec![None; size as usize],
            pairs: (0..size).map(|_| None).collect(),
            waiting: (1..size).map(|distance| (rank + distance) % size).filter(|peer| peers.contains(peer)).collect(),
            peers,
            open: BTreeSet::new(),
            timers: BTreeSet::new(),
            attempts_max: attempts_max.max(1),
            connected: 0,
            outputs: VecDeque::new(),
        };
        mesh.fill(now);
        if mesh.peers.is_empty() {
            mesh.outputs.push_back(Output::Complete);
        }
        mesh
    }

    /// Takes what happened with `peer`.
    pub fn handle_input(&mut self, now: Instant, peer: u32, input: Input) {
        if self.pair(now, peer).is_some() {
            self.step(now, peer, |punch| punch.handle_input(now, input));
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, peer)) = self.timers.first() {
            if at > now {
                break;
            }
            self.step(now, peer, |punch| punch.handle_timeout(now));
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.timers.first().map(|(at, _)| (*at, "another attempt to punch is due"))
    }

    /// The lowest peer without a connection, its machine if it has started, and how many there are.
    pub fn unconnected(&self) -> Option<(u32, Option<&Punch>, usize)> {
        let missing = |peer: &u32| !self.is_connected(*peer);
        let count = self.peers.len() - self.connected;
        self.peers.iter().copied().find(missing).map(|peer| (peer, self.pairs[peer as usize].as_ref(), count))
    }

    /// Attempts made so far towards `peer`.
    pub fn attempts(&self, peer: u32) -> u32 {
        self.pairs.get(peer as usize).and_then(Option::as_ref).map_or(0, Punch::attempts)
    }

    /// Whether a stream to `peer` would be of use: one is needed, and none is kept.
    pub fn wants(&self, peer: u32) -> bool {
        self.peers.contains(&peer) && !self.is_connected(peer)
    }

    fn is_connected(&self, peer: u32) -> bool {
        self.pairs.get(peer as usize).and_then(Option::as_ref).is_some_and(|punch| punch.won().is_some())
    }

    /// How the pair with `peer` should come together, once it has started.
    pub fn technique(&self, peer: u32) -> Option<Technique> {
        self.techniques.get(peer as usize).copied().flatten()
    }

    fn pair(&mut self, now: Instant, peer: u32) -> Option<&mut Punch> {
        if !self.peers.contains(&peer) {
            return None;
        }
        if self.pairs[peer as usize].is_none() {
            // An early stream from a peer whose turn has not come starts its pair, which will hardly need another one.
            self.waiting.retain(|waiting| *waiting != peer);
            self.start(now, peer, HEAD_START);
        }
        self.pairs[peer as usize].as_mut()
    }

    fn fill(&mut self, now: Instant) {
        while self.open.len() < self.attempts_max {
            let Some(peer) = self.waiting.pop_front() else { break };
            self.start(now, peer, Duration::ZERO);
        }
    }

    fn start(&mut self, now: Instant, peer: u32, head_start: Duration) {
        let mut pairing = self.roster.plan(self.rank, peer, &self.means);
        pairing.candidates.iter_mut().for_each(|candidate| candidate.after += head_start);
        let seed = self.means.seed ^ (u64::from(peer) << 32 | u64::from(self.rank));
        self.techniques[peer as usize] = Some(pairing.technique);
        let punch = Punch::new(now, nominates(self.rank, peer), pairing.candidates, seed).within(pairing.reach);
        self.pairs[peer as usize] = Some(punch);
        self.open.insert(peer);
        self.step(now, peer, |_| ());
    }

    fn step(&mut self, now: Instant, peer: u32, act: impl FnOnce(&mut Punch)) {
        let Some(punch) = self.pairs[peer as usize].as_mut() else { return };
        if let Some((at, _)) = punch.poll_timeout() {
            self.timers.remove(&(at, peer));
        }
        act(punch);
        let mut won = false;
        while let Some(output) = punch.poll_output() {
            self.outputs.push_back(match output {
                PunchOutput::Connect(attempt, candidate) => Output::Connect { peer, attempt, candidate },
                PunchOutput::Nominate { stream, settles } => Output::Nominate { peer, stream, settles },
                PunchOutput::Won(stream) => {
                    won = true;
                    Output::Won { peer, stream }
                }
            });
        }
        if let Some((at, _)) = punch.poll_timeout() {
            self.timers.insert((at, peer));
        }
        if won {
            self.connected += 1;
            self.open.remove(&peer);
            if self.connected == self.peers.len() {
                self.outputs.push_back(Output::Complete);
            }
            self.fill(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::Peer;
    use crate::card::{Card, Security};
    use crate::rendezvous::Observed;
    use crate::schedule::Peers;
    use std::io;

    fn mesh(rank: u32, size: u8, attempts_max: usize) -> Mesh {
        seeded(rank, size, attempts_max, 1)
    }

    fn seeded(rank: u32, size: u8, attempts_max: usize, seed: u64) -> Mesh {
        let observed = |rank: u8| Observed::once(([1, 1, 1, rank], 1).into());
        let peer = |rank| Peer {
            nonce: [0; 16],
            observed: observed(rank),
            round_trip: Duration::ZERO,
            card: Some(Card::sample(Security::Encrypted)),
        };
        let roster = Roster { session: [0; 16], epoch: 0, digest: [0; 32], peers: (0..size).map(peer).collect() };
        let means = Means { relay: None, sprays: false, peers: Peers::All, seed };
        Mesh::new(Instant::ZERO, rank, roster, means, attempts_max)
    }

    #[test]
    fn attempts_are_bounded_and_all_peers_get_their_turn() {
        let mut mesh = mesh(7, 10, 3);
        let mut turns = Vec::new();
        let mut complete = false;
        while let Some(output) = mesh.poll_output() {
            match output {
                Output::Connect { peer, .. } => {
                    assert!(mesh.open.len() <= 3);
                    turns.push(peer);
                    let stream = StreamId(u64::from(peer));
                    mesh.handle_input(Instant::ZERO, peer, Input::Connected(Attempt(0), stream));
                    mesh.handle_input(Instant::ZERO, peer, Input::Confirmed { stream, is_answered: peer % 2 == 0 });
                    mesh.handle_input(Instant::ZERO, peer, Input::Nominated(stream));
                    mesh.handle_input(Instant::ZERO, peer, Input::Accepted(stream));
                }
                Output::Complete => {
                    assert!(!complete && mesh.unconnected().is_none());
                    complete = true;
                }
                Output::Nominate { peer, .. } => assert!(peer > 7),
                Output::Won { .. } => {}
            }
        }
        assert_eq!(turns, [8, 9, 0, 1, 2, 3, 4, 5, 6]);
        assert!(complete);
    }

    fn connects(mesh: &mut Mesh) -> Vec<(u32, Attempt)> {
        let mut connects = Vec::new();
        while let Some(output) = mesh.poll_output() {
            if let Output::Connect { peer, attempt, .. } = output {
                connects.push((peer, attempt));
            }
        }
        connects
    }

    /// Pairs that failed together and paused alike would meet the same full table of a NAT once more.
    #[test]
    fn each_rank_pauses_in_each_pair_for_a_time_of_its_own() {
        let size = 6;
        for seed in [0, 1, u64::MAX] {
            let mut pauses = BTreeSet::new();
            for rank in 0..size {
                let mut mesh = seeded(u32::from(rank), size, 99, seed);
                for (peer, attempt) in connects(&mut mesh) {
                    // The pair of addresses is in use, so that there is a pause at once.
                    mesh.handle_input(Instant::ZERO, peer, Input::Failed(attempt, io::ErrorKind::AddrInUse));
                }
                assert!(connects(&mut mesh).is_empty());
                while let Some((due, _)) = mesh.poll_timeout() {
                    mesh.handle_timeout(Instant::from_nanos(due.as_nanos() - 1));
                    assert!(connects(&mut mesh).is_empty(), "nothing is done before it is due");
                    mesh.handle_timeout(due);
                    let again = connects(&mut mesh);
                    assert_eq!(again.len(), 1);
                    pauses.insert(due);
                }
            }
            assert_eq!(pauses.len(), usize::from(size) * (usize::from(size) - 1), "seed {seed}");
        }
    }

    #[test]
    fn an_early_stream_takes_its_peer_out_of_the_queue_and_what_is_told_of_each_is_true() {
        let mut mesh = mesh(1, 4, 1);
        let told = |mesh: &Mesh, peer| (mesh.attempts(peer), mesh.is_connected(peer), mesh.technique(peer).is_some());
        let wanted = |mesh: &Mesh| (0..5).filter(|peer| mesh.wants(*peer)).collect::<Vec<_>>();
        let missing = |mesh: &Mesh| mesh.unconnected().map(|(peer, punch, count)| (peer, punch.is_some(), count));
        assert_eq!(connects(&mut mesh), [(2, Attempt(0))]);
        assert_eq!((missing(&mesh), wanted(&mesh)), (Some((0, false, 3)), vec![0, 2, 3]));
        assert_eq!(told(&mesh, 2), (1, false, true));
        for stranger in [0, 1, 3, 4] {
            assert_eq!(told(&mesh, stranger), (0, false, false));
        }
        mesh.handle_input(Instant::ZERO, 2, Input::Failed(Attempt(0), io::ErrorKind::ConnectionRefused));
        assert_eq!((connects(&mut mesh), told(&mesh, 2)), (vec![(2, Attempt(1))], (2, false, true)));
        let confirmed = |number| Input::Confirmed { stream: StreamId(number), is_answered: true };
        for nobody in [1, 4] {
            mesh.handle_input(Instant::ZERO, nobody, confirmed(9));
        }
        // Rank 3 comes by itself before its turn.
        mesh.handle_input(Instant::ZERO, 3, confirmed(3));
        assert_eq!(told(&mesh, 3), (0, true, true), "and need not be dialled");
        assert_eq!((missing(&mesh), wanted(&mesh)), (Some((0, false, 2)), vec![0, 2]));
        assert!(connects(&mut mesh).is_empty());
        mesh.handle_input(Instant::ZERO, 2, confirmed(2));
        assert_eq!(connects(&mut mesh), [(0, Attempt(0))], "rank 3 has had its turn");
        mesh.handle_input(Instant::ZERO, 0, Input::Nominated(StreamId(1)));
        assert_eq!((missing(&mesh), told(&mesh, 0)), (None, (1, true, true)));
    }

    #[test]
    fn a_peer_that_comes_before_its_turn_is_not_dialled_at_once() {
        let mut mesh = mesh(0, 4, 1);
        assert_eq!(connects(&mut mesh), [(1, Attempt(0))]);
        assert!(mesh.wants(3) && !mesh.wants(0));
        mesh.handle_input(Instant::ZERO, 3, Input::Confirmed { stream: StreamId(3), is_answered: false });
        assert_eq!(connects(&mut mesh), Vec::new());
        // Its stream comes to nothing.
        mesh.handle_timeout(Instant::ZERO + HEAD_START);
        assert_eq!(connects(&mut mesh), [(3, Attempt(0))]);
        mesh.handle_input(Instant::ZERO + HEAD_START, 3, Input::Accepted(StreamId(3)));
        assert!(!mesh.wants(3), "another stream would be of no use");
    }

    #[test]
    fn a_group_of_one_is_complete() {
        assert_eq!(mesh(0, 1, 8).poll_output(), Some(Output::Complete));
    }
}
