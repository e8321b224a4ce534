//! The connections of one rank to its peers: one [`Punch`] for each. Pure.
//!
//! All pairs are punched at once, with at most `attempts_max` peers in the making; the
//! rest wait their turn in rank order starting behind the own rank, so that a large group does not
//! rush at rank 0.

use std::collections::{BTreeSet, VecDeque};

use super::punch::{Attempt, Candidate, Input, Output as PunchOutput, Punch, StreamId};
use super::rendezvous::{Group, Member};
use crate::error::Path;
use crate::time::Instant;

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
    /// Send the nomination on a stream.
    Nominate {
        /// Rank of the peer.
        peer: u32,
        /// The stream.
        stream: StreamId,
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
    group: Group,
    pairs: Vec<Option<Punch>>,
    waiting: VecDeque<u32>,
    peers: BTreeSet<u32>,
    open: BTreeSet<u32>,
    timers: BTreeSet<(Instant, u32)>,
    attempts_max: usize,
    connected: usize,
    seed: u64,
    outputs: VecDeque<Output>,
}

/// The addresses of `peer` that this rank tries.
///
/// Behind one public address, or when the peer has no NAT, its own addresses come first; else only
/// the address that the rendezvous saw can lead to it.
pub fn candidates(own: &Member, peer: &Member) -> Vec<Candidate> {
    let same_public_address = own.observed.ip() == peer.observed.ip();
    let mut candidates: Vec<Candidate> = Vec::new();
    if same_public_address {
        let private = peer.candidates.iter().filter(|address| !own.candidates.contains(address));
        candidates.extend(private.map(|remote| Candidate { remote: *remote, path: Path::Private }));
    }
    if candidates.iter().all(|candidate| candidate.remote != peer.observed) {
        let has_no_nat = peer.candidates.contains(&peer.observed);
        let path = if has_no_nat { Path::Private } else { Path::Direct };
        candidates.push(Candidate { remote: peer.observed, path });
    }
    candidates
}

impl Mesh {
    /// Starts towards `peers`. `seed` drives the pauses between attempts.
    ///
    /// # Panics
    /// If `rank` is not in the group.
    pub fn new(rank: u32, group: Group, peers: BTreeSet<u32>, attempts_max: usize, seed: u64) -> Self {
        let size = u32::try_from(group.members.len()).expect("a group has at most SIZE_MAX members");
        assert!(rank < size, "the client machine checked that the rank is in the group");
        let mut mesh = Self {
            rank,
            group,
            pairs: (0..size).map(|_| None).collect(),
            waiting: (1..size).map(|distance| (rank + distance) % size).filter(|peer| peers.contains(peer)).collect(),
            peers,
            open: BTreeSet::new(),
            timers: BTreeSet::new(),
            attempts_max: attempts_max.max(1),
            connected: 0,
            seed,
            outputs: VecDeque::new(),
        };
        mesh.fill();
        if mesh.peers.is_empty() {
            mesh.outputs.push_back(Output::Complete);
        }
        mesh
    }

    /// Takes what happened with `peer`.
    pub fn handle_input(&mut self, now: Instant, peer: u32, input: Input) {
        if self.pair(peer).is_some() {
            self.step(peer, |punch| punch.handle_input(now, input));
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, peer)) = self.timers.first() {
            if at > now {
                break;
            }
            self.step(peer, |punch| punch.handle_timeout(now));
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
        let missing = |peer: &u32| self.pairs[*peer as usize].as_ref().is_none_or(|punch| punch.won().is_none());
        let count = self.peers.len() - self.connected;
        self.peers.iter().copied().find(missing).map(|peer| (peer, self.pairs[peer as usize].as_ref(), count))
    }

    /// Attempts made so far towards `peer`.
    pub fn attempts(&self, peer: u32) -> u32 {
        self.pairs.get(peer as usize).and_then(Option::as_ref).map_or(0, Punch::attempts)
    }

    fn pair(&mut self, peer: u32) -> Option<&mut Punch> {
        if !self.peers.contains(&peer) {
            return None;
        }
        if self.pairs[peer as usize].is_none() {
            // An early stream from a peer whose turn has not come starts its pair.
            self.waiting.retain(|waiting| *waiting != peer);
            self.start(peer);
        }
        self.pairs[peer as usize].as_mut()
    }

    fn fill(&mut self) {
        while self.open.len() < self.attempts_max {
            let Some(peer) = self.waiting.pop_front() else { break };
            self.start(peer);
        }
    }

    fn start(&mut self, peer: u32) {
        let candidates = candidates(&self.group.members[self.rank as usize], &self.group.members[peer as usize]);
        let seed = self.seed ^ (u64::from(peer) << 32 | u64::from(self.rank));
        self.pairs[peer as usize] = Some(Punch::new(self.rank < peer, candidates, seed));
        self.open.insert(peer);
        self.step(peer, |_| ());
    }

    fn step(&mut self, peer: u32, act: impl FnOnce(&mut Punch)) {
        let Some(punch) = self.pairs[peer as usize].as_mut() else { return };
        if let Some((at, _)) = punch.poll_timeout() {
            self.timers.remove(&(at, peer));
        }
        act(punch);
        let mut won = false;
        while let Some(output) = punch.poll_output() {
            self.outputs.push_back(match output {
                PunchOutput::Connect(attempt, candidate) => Output::Connect { peer, attempt, candidate },
                PunchOutput::Nominate(stream) => Output::Nominate { peer, stream },
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
            self.fill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn member(rank: u32, observed: &str, private: &str) -> Member {
        Member {
            rank,
            nonce: [0; 16],
            observed: observed.parse().expect("address"),
            candidates: vec![private.parse().expect("address")],
        }
    }

    fn addresses(own: &Member, peer: &Member) -> Vec<(SocketAddr, Path)> {
        candidates(own, peer).into_iter().map(|candidate| (candidate.remote, candidate.path)).collect()
    }

    #[test]
    fn tries_the_own_address_of_a_peer_only_where_it_can_lead_to_it() {
        let a = member(0, "203.0.113.1:4000", "10.0.0.2:4000");
        let behind_same_nat = member(1, "203.0.113.1:4001", "10.0.0.3:4001");
        let elsewhere = member(2, "203.0.113.2:4000", "10.0.0.2:4000");
        let open = member(3, "198.51.100.9:4000", "198.51.100.9:4000");
        let expect = |text: &str, path| (text.parse::<SocketAddr>().expect("address"), path);
        assert_eq!(
            addresses(&a, &behind_same_nat),
            [expect("10.0.0.3:4001", Path::Private), expect("203.0.113.1:4001", Path::Direct)]
        );
        assert_eq!(addresses(&a, &elsewhere), [expect("203.0.113.2:4000", Path::Direct)]);
        assert_eq!(addresses(&a, &open), [expect("198.51.100.9:4000", Path::Private)]);
    }

    #[test]
    fn attempts_are_bounded_and_all_peers_get_their_turn() {
        let members = (0..10).map(|rank| member(rank, &format!("1.1.1.{rank}:1"), "10.0.0.1:1")).collect();
        let mut mesh = Mesh::new(7, Group { session: [0; 16], members }, (0..7).chain(8..10).collect(), 3, 1);
        let mut turns = Vec::new();
        let mut complete = false;
        while let Some(output) = mesh.poll_output() {
            match output {
                Output::Connect { peer, .. } => {
                    assert!(mesh.open.len() <= 3);
                    turns.push(peer);
                    let stream = StreamId(u64::from(peer));
                    mesh.handle_input(Instant::ZERO, peer, Input::Connected(Attempt(0), stream));
                    mesh.handle_input(Instant::ZERO, peer, Input::Confirmed(stream));
                    mesh.handle_input(Instant::ZERO, peer, Input::Nominated(stream));
                }
                Output::Complete => complete = true,
                Output::Nominate { peer, .. } => assert!(peer > 7),
                Output::Won { .. } => {}
            }
        }
        assert_eq!(turns, [8, 9, 0, 1, 2, 3, 4, 5, 6]);
        assert!(complete && mesh.unconnected().is_none());
    }

    #[test]
    fn a_group_of_one_is_complete() {
        let group = Group { session: [0; 16], members: vec![member(0, "1.1.1.1:1", "1.1.1.1:1")] };
        assert_eq!(Mesh::new(0, group, BTreeSet::new(), 8, 1).poll_output(), Some(Output::Complete));
    }
}
