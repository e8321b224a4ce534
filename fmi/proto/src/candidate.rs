//! Which addresses of a peer to try, in which order, and why: the plan for each pair. Pure policy.
//!
//! What the rendezvous saw of a rank on two of its endpoints tells how the rank's NAT maps
//! ([`NatClass`]), and the classes of both sides choose the [`Technique`]. Candidates are
//! ordered as in RFC 8445 and RFC 8305: what is nearest starts at once, the next best a little later,
//! the relay last, so that nothing is spent where the nearest works. Of several candidates that work
//! the lower rank nominates one ([`super::punch`]).

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::card::{Card, CardError, Holder, Security, local_is_allowed};
use super::rendezvous::{Handout, Nonce, Observed, SessionId};
use super::wire::WireError;
use crate::error::Path;
use crate::join::allowance;
use crate::key::Key;
use crate::schedule::Peers;
use crate::scope::Scope;
use outlook::Outlook;

mod budget;
mod families;
mod outlook;

/// Head start of a nearer candidate. RFC 8305 §5 recommends at least 100 ms.
pub const HEAD_START: Duration = Duration::from_millis(100);
/// Least head start of own addresses where packets are fast: a busy machine takes as long.
const NEAR_MIN: Duration = Duration::from_millis(50);
/// Longest delay for the sake of a farther peer. A peer that claims to be farther only loses time.
const SKEW_MAX: Duration = Duration::from_secs(1);
/// The largest distance that a counter would make between two ports; farther apart is chance.
const STEP_MAX: i32 = 4;
/// Ports that are tried from a predicted one on: others behind the same NAT take some.
const FORETOLD: u16 = 4;
/// Local ports that a spray opens on the side whose ports are random.
pub const SPRAY_SOCKETS: u32 = 256;
/// Remote ports that a spray tries from the other side. With [`SPRAY_SOCKETS`] of 64,512 ports one pair
/// meets with 98 %.
pub const SPRAY_PROBES: u32 = 1024;
/// Time between two attempts of a spray: 1,000 a second for each pair.
pub const SPRAY_PACE: Duration = Duration::from_millis(1);
/// First port that is sprayed.
const SPRAY_PORT_MIN: u16 = 1024;

/// What a rank knows of a member of its session.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its nonce.
    pub nonce: Nonce,
    /// Where the rendezvous saw it.
    pub observed: Observed,
    /// Its round trip to the rendezvous.
    pub round_trip: Duration,
    /// What it said of itself; `None` if that does not verify: somebody else registered in its place.
    pub card: Option<Card>,
}

/// A hash of all that the members of a group were told of each other.
pub type Digest = [u8; 32];

/// The members of a session, with their cards opened.
#[derive(Clone, Debug)]
pub struct Roster {
    /// The session.
    pub session: SessionId,
    /// Number of this view of the group, from 0.
    pub epoch: u32,
    /// Of the group, the session and each registration. It goes into the keys of all pairs, so ranks that were told of
    /// different groups do not recognise each other. Where the rendezvous saw a rank does not go into it: it may see one
    /// rank differently for two others.
    pub digest: Digest,
    /// In rank order.
    pub peers: Vec<Peer>,
}

/// How the NAT of a rank maps, as far as it matters to its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatClass {
    /// It has no NAT.
    Public,
    /// Its peers meet it where the rendezvous does, as far as two observations, or one, can tell.
    Predictable,
    /// Each remote endpoint gets a port that is this far from the one before.
    Sequential(i32),
    /// Each remote endpoint gets another port.
    Unpredictable,
}

/// How two ranks come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Technique {
    /// By own addresses: one host, one network, one NAT.
    Local,
    /// The peer has no NAT and is dialled.
    Direct,
    /// This rank has no NAT; the peer dials it.
    Reversal,
    /// Both open a hole for the other.
    Punch,
    /// The peer whose port nobody knows dials the other, who listens and has sent to its address.
    Listen,
    /// At the port that a counting NAT will give next.
    Prediction,
    /// Many ports of one side, many guesses of the other.
    Spray,
    /// Through the rendezvous.
    Relay,
    /// Through a store.
    Store,
}

impl Technique {
    /// Whether a pair that is planned so should connect without the relay.
    pub fn is_likely(self) -> bool {
        match self {
            Self::Local | Self::Direct | Self::Reversal | Self::Punch | Self::Prediction => true,
            Self::Listen | Self::Spray | Self::Relay | Self::Store => false,
        }
    }
}

/// The way that a stream takes to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Through what.
    pub path: Path,
    /// Over the other address family, where the plan for translated addresses does not matter.
    pub is_other_family: bool,
}

impl Route {
    /// What technique a stream on this route counts as, in a pair that was planned to meet by `planned`.
    pub fn technique(self, planned: Technique) -> Technique {
        match self.path {
            Path::Relay => Technique::Relay,
            Path::Store => Technique::Store,
            Path::Direct if self.is_other_family => Technique::Punch,
            Path::Private if planned != Technique::Direct => Technique::Local,
            Path::Private | Path::Direct => planned,
        }
    }
}

impl fmt::Display for Technique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Direct => "direct",
            Self::Reversal => "reversal",
            Self::Punch => "punch",
            Self::Listen => "listen",
            Self::Prediction => "prediction",
            Self::Spray => "spray",
            Self::Relay => "relay",
            Self::Store => "store",
        })
    }
}

/// From which local port an attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalEnd {
    /// The one that the main endpoint of the rendezvous saw.
    Registered,
    /// The one of the other address family.
    OtherFamily,
    /// A port of its own.
    Fresh,
    /// None: a connection to the rendezvous, to be joined with the peer's.
    Relay,
}

/// How an attempt that was refused is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once: a gap is what two NATs that refuse can lock into forever.
    Eager,
    /// As eagerly for a while, then now and then: a NAT that does not lead back to its inside refuses for good.
    Brief,
    /// Now and then, to keep this side's NAT open for the peer.
    Sparse,
    /// Not at all.
    Once,
}

/// An address of the peer and what to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where to connect.
    pub remote: SocketAddr,
    /// What a stream to it is.
    pub path: Path,
    /// From where.
    pub from: LocalEnd,
    /// How often.
    pub pace: Pace,
    /// When, from the start of the pair.
    pub after: Duration,
}

/// The plan for one pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairing {
    /// How it should come together.
    pub technique: Technique,
    /// What to try, in order.
    pub candidates: Vec<Candidate>,
    /// The time in which packets reach the peer and come back, at most.
    pub reach: Duration,
}

/// What a plan may use.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    /// Endpoint of the rendezvous, if it shall relay.
    pub relay: Option<SocketAddr>,
    /// Whether this rank sprays, and may be sprayed.
    pub sprays: bool,
    /// Which ranks connect.
    pub peers: Peers,
    /// Draws the ports of a spray.
    pub seed: u64,
}

/// A member speaks another version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherVersion {
    /// Its rank.
    pub peer: u32,
    /// Its version.
    pub theirs: u8,
    /// The version of this program.
    pub ours: u8,
}

fn size_of(group: &Handout) -> u32 {
    u32::try_from(group.members.len()).expect("a group has at most SIZE_MAX members")
}

/// Of the first view; the views that follow name the digest of the one before.
fn digest(key: &Key, epoch: u32, group: &Handout) -> Digest {
    const NO_PARENT: Digest = [0; 32];
    const GENERATION: u32 = 0;
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"fmi 3 roster").update(&key.id()).update(&group.session);
    hasher.update(&GENERATION.to_be_bytes()).update(&epoch.to_be_bytes()).update(&size_of(group).to_be_bytes());
    hasher.update(&NO_PARENT);
    for member in &group.members {
        hasher.update(&member.nonce).update(blake3::hash(&member.card).as_bytes());
    }
    *hasher.finalize().as_bytes()
}

impl Roster {
    /// Opens the cards of a group. Addresses that a member may not claim are left out.
    ///
    /// # Errors
    /// [`OtherVersion`] if a card that verifies has another version.
    pub fn open(key: &Key, group: &Handout) -> Result<Self, OtherVersion> {
        let (size, epoch) = (size_of(group), 0);
        let open = |member: &super::rendezvous::Member| {
            let holder = Holder { rank: member.rank, size, epoch, nonce: &member.nonce };
            let mut card = match Card::open(key, &holder, &member.card) {
                Err(CardError::Wire(WireError::Version { theirs, ours })) => {
                    return Err(OtherVersion { peer: member.rank, theirs, ours });
                }
                opened => opened.ok(),
            };
            if let Some(card) = &mut card {
                card.locals.retain(|local| local_is_allowed(*local, member.observed.main.ip()));
            }
            let (nonce, observed, round_trip) = (member.nonce, member.observed, member.round_trip);
            Ok(Peer { nonce, observed, round_trip, card })
        };
        let peers = group.members.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { session: group.session, epoch, digest: digest(key, epoch, group), peers })
    }

    /// The first rank that protects its streams in another way than `security`, and how.
    pub fn otherwise_protected(&self, security: Security) -> Option<(u32, Security)> {
        let cards = (0u32..).zip(&self.peers).filter_map(|(rank, peer)| Some((rank, peer.card.as_ref()?.security)));
        cards.into_iter().find(|(_, theirs)| *theirs != security)
    }

    /// Ranks in the session.
    ///
    /// # Panics
    /// Never: a group has at most [`super::rendezvous::SIZE_MAX`] members.
    pub fn size(&self) -> u32 {
        u32::try_from(self.peers.len()).expect("a group has at most SIZE_MAX members")
    }

    /// The plan of `rank` for its pair with `peer`.
    ///
    /// # Panics
    /// If one of them is not in the session.
    pub fn plan(&self, rank: u32, peer: u32, means: &Means) -> Pairing {
        let (own, their) = (&self.peers[rank as usize], &self.peers[peer as usize]);
        let sprays = means.sprays && their.card.as_ref().is_some_and(|card| card.sprays);
        let (technique, reach) = (technique(own, their, sprays), own.reach(their));
        if their.card.is_none() {
            // Whoever is there cannot prove to be the peer.
            return Pairing { technique, candidates: Vec::new(), reach };
        }
        // The rank nearer to the rendezvous hears of the pair earlier, and waits for the other.
        let skew = (their.round_trip.saturating_sub(own.round_trip) / 2).min(SKEW_MAX);
        let mut plan = Planner { own, their, start: skew, candidates: Vec::new() };
        if own.is_across(their) {
            plan.across();
        } else {
            plan.near(if rank < peer { Duration::ZERO } else { HEAD_START + allowance(self.size()) });
            self.far(&mut plan, (rank, peer), technique, means);
        }
        if let Some(relay) = means.relay {
            let sprayed = if technique == Technique::Spray { SPRAY_PACE * SPRAY_PROBES } else { Duration::ZERO };
            let outlook = plan.outlook(technique);
            // Where a busy machine is likelier than a closed door, there is time for the machine.
            let (busy, near) = (allowance(self.size()), near_head_start(reach));
            let more = match (outlook, technique) {
                (Outlook::Fair, _) => busy,
                (Outlook::Doubtful, Technique::Local) => busy + near,
                (Outlook::Hopeless, Technique::Relay) => self.turn(rank, peer, reach),
                (Outlook::Doubtful | Outlook::Hopeless, _) => Duration::ZERO,
            };
            let after = outlook.patience(reach) + sprayed + more;
            plan.push(relay, Path::Relay, LocalEnd::Relay, Pace::Sparse, after);
        }
        Pairing { technique, candidates: plan.candidates, reach }
    }

    /// Where the peer is seen from outside, by the technique of the pair.
    fn far(&self, plan: &mut Planner<'_>, (rank, peer): (u32, u32), technique: Technique, means: &Means) {
        let theirs = plan.their.class();
        let is_spared = means.relay.is_some() && technique != Technique::Spray && !self.may_guess(rank, peer, means);
        match technique {
            // Nobody plans for a store.
            Technique::Store => {}
            _ if is_spared => {}
            // A NAT whose ports are random leads back to its inside from nowhere that is known.
            Technique::Local if theirs == NatClass::Unpredictable => {}
            Technique::Local => plan.seen(Pace::Brief, plan.delay().min(near_head_start(plan.own.reach(plan.their)))),
            Technique::Direct | Technique::Punch => plan.observed(Pace::Eager),
            // A firewall before this rank wants to see a SYN to where the peer's will come from.
            Technique::Reversal if matches!(theirs, NatClass::Predictable | NatClass::Sequential(_)) => {
                plan.predicted(self.order_of(peer, rank, means.peers));
            }
            Technique::Reversal => plan.observed(Pace::Sparse),
            Technique::Prediction => plan.predicted(self.order_of(peer, rank, means.peers)),
            // Each SYN takes a port of such a NAT, which the relay may need. Without a relay there is nothing but luck.
            Technique::Relay if means.relay.is_some() => {}
            Technique::Relay => plan.observed(Pace::Sparse),
            Technique::Listen | Technique::Spray => {
                let is_aimed_at = plan.own.class() != NatClass::Unpredictable;
                plan.observed(if is_aimed_at { Pace::Sparse } else { Pace::Eager });
                if technique == Technique::Spray {
                    plan.spray(is_aimed_at, means.seed ^ u64::from(peer));
                }
            }
        }
    }

    /// The time in which packets reach the farthest of its peers from `rank` and come back, at most.
    pub fn reach(&self, rank: u32) -> Duration {
        let own = &self.peers[rank as usize];
        let known = self.peers.iter().filter(|peer| peer.card.is_some());
        known.map(|peer| own.reach(peer)).max().unwrap_or_default()
    }

    /// The place of `rank` in the order in which `peer` connects, from 1: a counting NAT gives its ports
    /// in that order.
    fn order_of(&self, peer: u32, rank: u32, peers: Peers) -> u16 {
        let size = self.size();
        let wanted: BTreeSet<u32> = peers.of(peer, size);
        let own_ip = self.peers[peer as usize].observed.main.ip();
        let crosses = |other: &u32| self.peers[*other as usize].observed.main.ip() != own_ip;
        let before = (1..size).map(|distance| (peer + distance) % size).take_while(|other| *other != rank);
        let before = before.filter(|other| wanted.contains(other)).filter(crosses).count();
        u16::try_from(before + 1).unwrap_or(u16::MAX)
    }
}

impl Peer {
    /// The route of a stream that the other end has at `remote`, and that was opened as `path`.
    pub fn route(&self, remote: SocketAddr, path: Path) -> Route {
        let is_own = self.locals().iter().any(|local| local.ip() == remote.ip());
        let path = if path == Path::Direct && is_own { Path::Private } else { path };
        Route { path, is_other_family: remote.is_ipv4() != self.observed.main.is_ipv4() }
    }

    fn locals(&self) -> &[SocketAddr] {
        self.card.as_ref().map_or(&[], |card| &card.locals)
    }

    /// Whether it may connect to what the rendezvous saw: nothing that reaches less far than where it was seen itself.
    fn may_dial(&self, seen: SocketAddr) -> bool {
        let Observed { main, other, .. } = self.observed;
        let own = [Some(main), other].into_iter().flatten().find(|own| own.is_ipv4() == seen.is_ipv4());
        seen.port() != 0
            && Scope::of(seen.ip()).is_some_and(|it| own.is_some_and(|own| Some(it) >= Scope::of(own.ip())))
    }

    /// How its NAT maps.
    pub fn class(&self) -> NatClass {
        let Observed { main, second, .. } = self.observed;
        let Some(second) = second else {
            return if self.locals().contains(&main) { NatClass::Public } else { NatClass::Predictable };
        };
        let step = i32::from(main.port()) - i32::from(second.port());
        if self.locals().contains(&main) {
            NatClass::Public
        } else if main == second {
            NatClass::Predictable
        } else if main.ip() == second.ip() && step.abs() <= STEP_MAX {
            // The vantage is asked first.
            NatClass::Sequential(step)
        } else {
            NatClass::Unpredictable
        }
    }
}

/// How two ranks should come together, from what is known of both.
pub fn technique(own: &Peer, their: &Peer, sprays: bool) -> Technique {
    if own.observed.main.ip() == their.observed.main.ip() {
        return Technique::Local;
    }
    if own.is_across(their) {
        return if own.has_family_of(their) { Technique::Punch } else { Technique::Relay };
    }
    match (own.class(), their.class()) {
        (_, NatClass::Public) => Technique::Direct,
        (NatClass::Public, _) => Technique::Reversal,
        (NatClass::Predictable, NatClass::Predictable) => Technique::Punch,
        (NatClass::Predictable | NatClass::Sequential(_), NatClass::Sequential(_))
        | (NatClass::Sequential(_), NatClass::Predictable) => Technique::Prediction,
        (NatClass::Unpredictable, NatClass::Predictable) | (NatClass::Predictable, NatClass::Unpredictable) => {
            if sprays { Technique::Spray } else { Technique::Listen }
        }
        (NatClass::Unpredictable, _) | (_, NatClass::Unpredictable) => Technique::Relay,
    }
}

/// That of own addresses before what leads back from the NAT: within a network packets are faster than the rendezvous shows.
fn near_head_start(reach: Duration) -> Duration {
    reach.clamp(NEAR_MIN, HEAD_START)
}

struct Planner<'a> {
    own: &'a Peer,
    their: &'a Peer,
    start: Duration,
    candidates: Vec<Candidate>,
}

impl Planner<'_> {
    /// Whether the place where the rendezvous saw the peer can be the peer's. A rendezvous that lies aims ranks at nothing
    /// inside their own networks.
    fn may_be(&self, seen: SocketAddr) -> bool {
        self.own.may_dial(seen)
    }

    fn push(&mut self, remote: SocketAddr, path: Path, from: LocalEnd, pace: Pace, after: Duration) {
        if self.candidates.iter().all(|known| known.remote != remote || known.from != from) {
            self.candidates.push(Candidate { remote, path, from, pace, after: self.start + after });
        }
    }

    /// The peer's own addresses behind one public address, and IPv6, which needs no translation. Within a network
    /// one rank is likely to get through by itself, and the other one waits: two connections cost twice as much.
    fn near(&mut self, after: Duration) {
        let (own, their) = (self.own, self.their);
        if own.observed.main.ip() == their.observed.main.ip() {
            for local in their.locals().iter().filter(|local| !own.locals().contains(local)) {
                self.push(*local, Path::Private, LocalEnd::Registered, Pace::Eager, after);
            }
        }
        if let (Some(_), Some(other)) = (own.observed.other, their.observed.other)
            && self.may_be(other)
        {
            self.push(other, Path::Direct, LocalEnd::OtherFamily, Pace::Eager, Duration::ZERO);
        }
    }

    fn delay(&self) -> Duration {
        if self.candidates.is_empty() { Duration::ZERO } else { HEAD_START }
    }

    fn observed(&mut self, pace: Pace) {
        self.seen(pace, self.delay());
    }

    fn seen(&mut self, pace: Pace, after: Duration) {
        let main = self.their.observed.main;
        if self.candidates.iter().any(|known| known.remote == main) || !self.may_be(main) {
            return;
        }
        let path = if self.their.locals().contains(&main) { Path::Private } else { Path::Direct };
        self.push(main, path, LocalEnd::Registered, pace, after);
    }

    /// Where a counting NAT will let the peer out, `order` connections from the last one seen.
    fn predicted(&mut self, order: u16) {
        let NatClass::Sequential(step) = self.their.class() else { return self.observed(Pace::Eager) };
        let (main, delay) = (self.their.observed.main, self.delay());
        if !self.may_be(main) {
            return;
        }
        for ahead in 0..FORETOLD {
            let port = i64::from(main.port()) + i64::from(step) * (i64::from(order) + i64::from(ahead));
            // A counter that runs over its range starts somewhere else.
            let Some(port) = u16::try_from(port).ok().filter(|port| *port != 0) else { continue };
            self.push(SocketAddr::new(main.ip(), port), Path::Direct, LocalEnd::Registered, Pace::Eager, delay);
        }
    }

    fn spray(&mut self, is_aimed_at: bool, seed: u64) {
        let main = self.their.observed.main;
        if !self.may_be(main) {
            return;
        }
        let start = self.start;
        let mut entropy = ChaCha8Rng::seed_from_u64(seed);
        let mut candidate = |number: u32| {
            let after = start + SPRAY_PACE * number;
            if !is_aimed_at {
                let (from, pace, path) = (LocalEnd::Fresh, Pace::Sparse, Path::Direct);
                return Candidate { remote: main, path, from, pace, after };
            }
            let span = u64::from(u16::MAX - SPRAY_PORT_MIN) + 1;
            let drawn = u16::try_from(entropy.next_u64() % span).expect("the span is that of ports");
            let remote = SocketAddr::new(main.ip(), SPRAY_PORT_MIN + drawn);
            Candidate { remote, path: Path::Direct, from: LocalEnd::Registered, pace: Pace::Once, after }
        };
        let count = if is_aimed_at { SPRAY_PROBES } else { SPRAY_SOCKETS };
        self.candidates.extend((1..=count).map(&mut candidate));
    }
}

#[cfg(test)]
mod tests;
