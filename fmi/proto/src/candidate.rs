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

use super::card::{Card, CardError, Holder, local_is_allowed};
use super::rendezvous::{Handout, Nonce, Observed, SessionId};
use super::wire::WireError;
use crate::error::Path;
use crate::key::Key;
use crate::schedule::Peers;

/// Head start of a nearer candidate. RFC 8305 §5 recommends at least 100 ms.
pub const HEAD_START: Duration = Duration::from_millis(100);
/// Head start of the direct ways before the relay, where they are unlikely: the connection attempt
/// delay of RFC 8305 §5.
pub const RELAY_UNLIKELY: Duration = Duration::from_millis(250);
/// The same where they are likely: one lost SYN is repeated after 1 s.
pub const RELAY_LIKELY: Duration = Duration::from_millis(1500);
/// Longest delay for the sake of a farther peer. A peer that claims to be farther only loses time.
const SKEW_MAX: Duration = Duration::from_millis(500);
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
}

impl Technique {
    /// Whether a pair that is planned so should connect without the relay.
    pub fn is_likely(self) -> bool {
        match self {
            Self::Local | Self::Direct | Self::Reversal | Self::Punch | Self::Prediction => true,
            Self::Listen | Self::Spray | Self::Relay => false,
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
}

/// What a plan may use.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    /// Endpoint of the rendezvous, if it shall relay.
    pub relay: Option<SocketAddr>,
    /// Whether likely pairs may be relayed as well; else they are given up and tried from fresh ports.
    pub relay_likely: bool,
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
        let technique = technique(own, their, sprays);
        // The rank nearer to the rendezvous hears of the pair earlier, and waits for the other.
        let skew = (their.round_trip.saturating_sub(own.round_trip) / 2).min(SKEW_MAX);
        let mut plan = Planner { own, their, start: skew, candidates: Vec::new() };
        plan.near();
        match technique {
            Technique::Local | Technique::Direct | Technique::Punch => plan.observed(Pace::Eager),
            // A firewall before this rank wants to see a SYN to where the peer's will come from.
            Technique::Reversal if matches!(their.class(), NatClass::Predictable | NatClass::Sequential(_)) => {
                plan.predicted(self.order_of(peer, rank, means.peers));
            }
            Technique::Reversal | Technique::Relay => plan.observed(Pace::Sparse),
            Technique::Prediction => plan.predicted(self.order_of(peer, rank, means.peers)),
            Technique::Listen | Technique::Spray => {
                let is_aimed_at = own.class() != NatClass::Unpredictable;
                plan.observed(if is_aimed_at { Pace::Sparse } else { Pace::Eager });
                if technique == Technique::Spray {
                    plan.spray(is_aimed_at, means.seed ^ u64::from(peer));
                }
            }
        }
        // A firewall before a public address is as good as a NAT to a peer that comes from a random port.
        let is_unlikely = matches!(technique, Technique::Listen | Technique::Spray | Technique::Relay)
            || (technique != Technique::Local && [own, their].iter().any(|it| it.class() == NatClass::Unpredictable));
        if let Some(relay) = means.relay
            && (is_unlikely || means.relay_likely)
        {
            let sprayed = if technique == Technique::Spray { SPRAY_PACE * SPRAY_PROBES } else { Duration::ZERO };
            let after = if is_unlikely { RELAY_UNLIKELY + sprayed } else { RELAY_LIKELY };
            plan.push(relay, Path::Relay, LocalEnd::Relay, Pace::Sparse, after);
        }
        Pairing { technique, candidates: plan.candidates }
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

struct Planner<'a> {
    own: &'a Peer,
    their: &'a Peer,
    start: Duration,
    candidates: Vec<Candidate>,
}

impl Planner<'_> {
    fn push(&mut self, remote: SocketAddr, path: Path, from: LocalEnd, pace: Pace, after: Duration) {
        if self.candidates.iter().all(|known| known.remote != remote || known.from != from) {
            self.candidates.push(Candidate { remote, path, from, pace, after: self.start + after });
        }
    }

    /// The peer's own addresses behind one public address, and IPv6, which needs no translation.
    fn near(&mut self) {
        let (own, their) = (self.own, self.their);
        if own.observed.main.ip() == their.observed.main.ip() {
            for local in their.locals().iter().filter(|local| !own.locals().contains(local)) {
                self.push(*local, Path::Private, LocalEnd::Registered, Pace::Eager, Duration::ZERO);
            }
        }
        if let (Some(_), Some(other)) = (own.observed.other, their.observed.other) {
            self.push(other, Path::Direct, LocalEnd::OtherFamily, Pace::Eager, Duration::ZERO);
        }
    }

    fn delay(&self) -> Duration {
        if self.candidates.is_empty() { Duration::ZERO } else { HEAD_START }
    }

    fn observed(&mut self, pace: Pace) {
        let main = self.their.observed.main;
        if self.candidates.iter().any(|known| known.remote == main) {
            return;
        }
        let path = if self.their.locals().contains(&main) { Path::Private } else { Path::Direct };
        self.push(main, path, LocalEnd::Registered, pace, self.delay());
    }

    /// Where a counting NAT will let the peer out, `order` connections from the last one seen.
    fn predicted(&mut self, order: u16) {
        let NatClass::Sequential(step) = self.their.class() else { return self.observed(Pace::Eager) };
        let (main, delay) = (self.their.observed.main, self.delay());
        for ahead in 0..FORETOLD {
            let port = i64::from(main.port()) + i64::from(step) * (i64::from(order) + i64::from(ahead));
            // A counter that runs over its range starts somewhere else.
            let Some(port) = u16::try_from(port).ok().filter(|port| *port != 0) else { continue };
            self.push(SocketAddr::new(main.ip(), port), Path::Direct, LocalEnd::Registered, Pace::Eager, delay);
        }
    }

    fn spray(&mut self, is_aimed_at: bool, seed: u64) {
        let main = self.their.observed.main;
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
mod tests {
    //! Goal: the plan is the table of techniques. Method: made-up members.

    use super::*;
    use crate::card::Security;
    use crate::cipher::Suites;
    use crate::wire::VERSION;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn peer(main: &str, second: &str, local: &str) -> Peer {
        let (version, security) = (VERSION, Security::Encrypted);
        let card = Card {
            version,
            security,
            sprays: false,
            suites: Suites::of_machine(true),
            public: [0; 32],
            locals: vec![at(local)],
        };
        Peer {
            nonce: [0; 16],
            observed: Observed { second: Some(at(second)), ..Observed::once(at(main)) },
            round_trip: Duration::from_millis(10),
            card: Some(card),
        }
    }

    fn public(ip: u8) -> Peer {
        let text = format!("198.51.100.{ip}:4000");
        peer(&text, &text, &text)
    }

    fn keeping(ip: u8) -> Peer {
        let text = format!("203.0.113.{ip}:4000");
        peer(&text, &text, "10.0.0.2:4000")
    }

    #[test]
    fn a_stream_counts_as_what_it_took_and_not_as_what_was_planned() {
        let peer = keeping(1);
        let route = |remote: &str, path| peer.route(at(remote), path);
        for (remote, opened, path, planned, counts_as) in [
            ("203.0.113.1:4000", Path::Direct, Path::Direct, Technique::Punch, Technique::Punch),
            ("203.0.113.1:4000", Path::Direct, Path::Direct, Technique::Prediction, Technique::Prediction),
            // One of its own addresses, whoever opened the stream.
            ("10.0.0.2:77", Path::Direct, Path::Private, Technique::Punch, Technique::Local),
            ("10.0.0.2:77", Path::Private, Path::Private, Technique::Direct, Technique::Direct),
            // The other family has no translated addresses: both open their firewalls.
            ("[2001:db8::1]:4000", Path::Direct, Path::Direct, Technique::Relay, Technique::Punch),
            ("192.0.2.1:7000", Path::Relay, Path::Relay, Technique::Punch, Technique::Relay),
            ("10.0.0.2:77", Path::Relay, Path::Relay, Technique::Local, Technique::Relay),
        ] {
            let taken = route(remote, opened);
            assert_eq!((taken.path, taken.technique(planned)), (path, counts_as), "{remote} {planned}");
        }
    }

    fn counting(ip: u8) -> Peer {
        peer(&format!("203.0.113.{ip}:5001"), &format!("203.0.113.{ip}:5000"), "10.0.0.2:4000")
    }

    fn random(ip: u8) -> Peer {
        peer(&format!("203.0.113.{ip}:61001"), &format!("203.0.113.{ip}:2000"), "10.0.0.2:4000")
    }

    const MEANS: Means = Means { relay: None, relay_likely: false, sprays: false, peers: Peers::All, seed: 1 };

    fn plan(own: Peer, their: Peer, means: &Means) -> Pairing {
        Roster { session: [0; 16], epoch: 0, digest: [0; 32], peers: vec![own, their] }.plan(0, 1, means)
    }

    fn remotes(pairing: &Pairing) -> Vec<(String, Path, u128)> {
        let seen = |it: &Candidate| (it.remote.to_string(), it.path, it.after.as_millis());
        pairing.candidates.iter().map(seen).collect()
    }

    #[test]
    fn classes_follow_from_two_observations() {
        assert_eq!(public(1).class(), NatClass::Public);
        assert_eq!(keeping(1).class(), NatClass::Predictable);
        assert_eq!(counting(1).class(), NatClass::Sequential(1));
        assert_eq!(random(1).class(), NatClass::Unpredictable);
        let once = Peer { observed: Observed::once(at("203.0.113.1:4000")), ..random(1) };
        assert_eq!(once.class(), NatClass::Predictable, "one observation tells nothing; the best is hoped for");
    }

    #[test]
    fn the_technique_is_that_of_the_table() {
        let members = [public(1), keeping(2), counting(3), random(4)];
        use Technique::{Direct, Listen, Prediction, Punch, Relay, Reversal};
        let table = [
            [Direct, Reversal, Reversal, Reversal],
            [Direct, Punch, Prediction, Listen],
            [Direct, Prediction, Prediction, Relay],
            [Direct, Listen, Relay, Relay],
        ];
        for (own, row) in members.iter().zip(table) {
            for (their, expected) in members.iter().zip(row) {
                let other = Peer { observed: Observed { main: at("192.0.2.77:1"), ..own.observed }, ..own.clone() };
                let own = if own.observed.main.ip() == their.observed.main.ip() && own.class() != NatClass::Public {
                    // Another NAT of the same kind.
                    let moved = |it: SocketAddr| SocketAddr::new([192, 0, 2, 77].into(), it.port());
                    let observed = own.observed;
                    let second = observed.second.map(moved);
                    Peer { observed: Observed { main: moved(observed.main), second, other: None }, ..own.clone() }
                } else if own.class() == NatClass::Public {
                    Peer {
                        card: Some(Card { locals: vec![other.observed.main], ..own.card.clone().expect("one") }),
                        ..other
                    }
                } else {
                    own.clone()
                };
                assert_eq!(technique(&own, their, false), expected, "{own:?} {their:?}");
            }
        }
        assert_eq!(technique(&random(1), &keeping(2), true), Technique::Spray);
        assert_eq!(technique(&random(1), &random(2), true), Relay, "54,000 probes for an even chance");
    }

    #[test]
    fn behind_one_nat_own_addresses_come_first_and_hairpin_is_not_needed() {
        let a = keeping(1);
        let mut b = keeping(1);
        b.observed.main = at("203.0.113.1:4001");
        b.card.as_mut().expect("one").locals = vec![at("10.0.0.3:4001")];
        let expected = [("10.0.0.3:4001".into(), Path::Private, 0), ("203.0.113.1:4001".into(), Path::Direct, 100)];
        assert_eq!(remotes(&plan(a, b, &MEANS)), expected);
        let elsewhere = plan(keeping(1), keeping(2), &MEANS);
        assert_eq!(remotes(&elsewhere), [("203.0.113.2:4000".into(), Path::Direct, 0)], "private addresses repeat");
    }

    #[test]
    fn ipv6_comes_before_translated_addresses() {
        let with = |mut peer: Peer, text| {
            peer.observed.other = Some(at(text));
            peer
        };
        let both = plan(with(keeping(1), "[2001:db8::1]:9"), with(keeping(2), "[2001:db8::2]:9"), &MEANS);
        let expected = [("[2001:db8::2]:9".into(), Path::Direct, 0), ("203.0.113.2:4000".into(), Path::Direct, 100)];
        assert_eq!(remotes(&both), expected);
        let one = plan(with(keeping(1), "[2001:db8::1]:9"), keeping(2), &MEANS);
        assert_eq!(remotes(&one), [("203.0.113.2:4000".into(), Path::Direct, 0)]);
    }

    #[test]
    fn a_counting_nat_is_met_at_its_next_ports_in_the_order_of_its_peers() {
        let roster = Roster {
            session: [0; 16],
            epoch: 0,
            digest: [0; 32],
            peers: vec![keeping(1), keeping(2), counting(3), keeping(4)],
        };
        let ports = |rank| {
            let pairing = roster.plan(rank, 2, &MEANS);
            assert_eq!(pairing.technique, Technique::Prediction);
            pairing.candidates.iter().map(|it| it.remote.port()).collect::<Vec<_>>()
        };
        assert_eq!(ports(3), [5002, 5003, 5004, 5005], "rank 2 turns to rank 3 first");
        assert_eq!(ports(0), [5003, 5004, 5005, 5006]);
        assert_eq!(ports(1), [5004, 5005, 5006, 5007]);
        let back = roster.plan(2, 1, &MEANS);
        assert_eq!(remotes(&back), [("203.0.113.2:4000".into(), Path::Direct, 0)]);
    }

    #[test]
    fn who_hears_earlier_waits_for_the_other() {
        let far = Peer { round_trip: Duration::from_millis(90), ..keeping(2) };
        assert_eq!(plan(keeping(1), far.clone(), &MEANS).candidates[0].after, Duration::from_millis(40));
        assert_eq!(plan(far, keeping(1), &MEANS).candidates[0].after, Duration::ZERO);
        let liar = Peer { round_trip: Duration::from_secs(3600), ..keeping(2) };
        assert_eq!(plan(keeping(1), liar, &MEANS).candidates[0].after, SKEW_MAX);
    }

    #[test]
    fn the_relay_comes_last_and_likely_pairs_do_without_at_first() {
        let relay = at("192.0.2.1:7000");
        let means = Means { relay: Some(relay), ..MEANS };
        let last = |pairing: Pairing| pairing.candidates.last().map(|it| (it.remote, it.path, it.after));
        let unlikely = last(plan(random(1), random(2), &means));
        assert_eq!(unlikely, Some((relay, Path::Relay, RELAY_UNLIKELY)));
        assert_eq!(last(plan(keeping(1), keeping(2), &means)).map(|it| it.1), Some(Path::Direct));
        let likely = last(plan(keeping(1), keeping(2), &Means { relay_likely: true, ..means }));
        assert_eq!(likely, Some((relay, Path::Relay, RELAY_LIKELY)));
    }

    #[test]
    fn a_spray_needs_the_consent_of_both_and_keeps_its_budget() {
        let willing = |mut peer: Peer| {
            peer.card.as_mut().expect("one").sprays = true;
            peer
        };
        let means = Means { sprays: true, ..MEANS };
        assert_eq!(plan(keeping(1), random(2), &means).technique, Technique::Listen, "the peer has not agreed");
        assert_eq!(plan(keeping(1), willing(random(2)), &MEANS).technique, Technique::Listen, "nor has this rank");
        let aiming = plan(keeping(1), willing(random(2)), &means);
        assert_eq!(aiming.candidates.len(), 1 + SPRAY_PROBES as usize);
        assert!(
            aiming.candidates.iter().all(|it| it.remote.ip() == at("203.0.113.2:1").ip() && it.remote.port() >= 1024)
        );
        let opening = plan(random(1), willing(keeping(2)), &means);
        let fresh = opening.candidates.iter().filter(|it| it.from == LocalEnd::Fresh).count();
        assert_eq!(fresh, SPRAY_SOCKETS as usize);
        let pace = aiming.candidates.windows(2).skip(1).all(|pair| pair[1].after - pair[0].after == SPRAY_PACE);
        assert!(pace, "1,000 a second");
    }

    #[test]
    fn a_member_whose_card_does_not_verify_is_nobodys_target_but_where_it_was_seen() {
        let impostor = Peer { card: None, ..keeping(2) };
        assert_eq!(remotes(&plan(keeping(1), impostor, &MEANS)), [("203.0.113.2:4000".into(), Path::Direct, 0)]);
    }

    #[test]
    fn the_step_of_a_counter_is_signed() {
        for (main, second, step) in [(5003, 5000, 3), (5000, 5003, -3)] {
            let counting = peer(&format!("203.0.113.1:{main}"), &format!("203.0.113.1:{second}"), "10.0.0.2:4000");
            assert_eq!(counting.class(), NatClass::Sequential(step));
        }
    }

    #[test]
    fn a_public_rank_shows_its_firewall_where_the_peer_will_come_from() {
        let first = |their| plan(public(1), their, &MEANS).candidates[0];
        assert_eq!(plan(public(1), counting(2), &MEANS).candidates.len(), usize::from(FORETOLD));
        assert_eq!((first(keeping(2)).pace, first(keeping(2)).remote.port()), (Pace::Eager, 4000));
        assert_eq!(first(counting(2)).remote.port(), 5002, "the next one");
        assert_eq!(first(random(2)).pace, Pace::Sparse, "nobody knows where");
    }

    #[test]
    fn an_address_is_tried_once() {
        let (own, mut their) = (keeping(1), keeping(1));
        their.observed.main = at("203.0.113.1:4001");
        their.card.as_mut().expect("one").locals = vec![at("10.0.0.3:4001"); 3];
        assert_eq!(plan(own, their, &MEANS).candidates.len(), 2);
    }

    #[test]
    fn a_relay_is_asked_early_where_a_port_is_random_and_after_a_spray() {
        let relay = at("192.0.2.1:7000");
        let means = Means { relay: Some(relay), sprays: true, ..MEANS };
        let after = |own, their| {
            let relayed = plan(own, their, &means).candidates.into_iter().find(|it| it.path == Path::Relay);
            relayed.map(|it| it.after)
        };
        assert_eq!(after(public(1), random(2)), Some(RELAY_UNLIKELY), "a firewall may be in the way");
        assert_eq!(after(public(1), keeping(2)), None);
        let (one, mut other) = (random(1), random(1));
        other.card.as_mut().expect("one").locals = vec![at("10.0.0.3:4000")];
        assert_eq!(after(one, other), None, "behind one NAT its ports do not matter");
        let mut willing = random(2);
        willing.card.as_mut().expect("one").sprays = true;
        assert_eq!(after(keeping(1), willing), Some(RELAY_UNLIKELY + SPRAY_PACE * SPRAY_PROBES));
    }

    #[test]
    fn a_spray_draws_every_port_of_users_and_other_ones_for_each_peer() {
        let mut willing = random(2);
        willing.card.as_mut().expect("one").sprays = true;
        let peers = [random(9), willing.clone(), willing.clone(), willing.clone(), willing];
        let roster = Roster {
            session: [0; 16],
            epoch: 0,
            digest: [0; 32],
            peers: [keeping(1)].into_iter().chain(peers).collect(),
        };
        let ports = |peer, seed| {
            let pairing = roster.plan(0, peer, &Means { sprays: true, seed, ..MEANS });
            pairing.candidates.iter().filter(|it| it.pace == Pace::Once).map(|it| it.remote.port()).collect::<Vec<_>>()
        };
        let mut drawn = BTreeSet::new();
        for seed in 0..8 {
            let of_peers: BTreeSet<_> = (2..6).map(|peer| ports(peer, seed)).collect();
            assert_eq!(of_peers.len(), 4, "seed {seed}");
        }
        for seed in 0..1000 {
            drawn.extend(ports(2, seed));
        }
        assert_eq!((drawn.first(), drawn.last()), (Some(&SPRAY_PORT_MIN), Some(&u16::MAX)));
    }

    #[test]
    fn techniques_have_names_and_some_are_likely() {
        use Technique::{Direct, Listen, Local, Prediction, Punch, Relay, Reversal, Spray};
        for (technique, name, is_likely) in [
            (Local, "local", true),
            (Direct, "direct", true),
            (Reversal, "reversal", true),
            (Punch, "punch", true),
            (Prediction, "prediction", true),
            (Listen, "listen", false),
            (Spray, "spray", false),
            (Relay, "relay", false),
        ] {
            assert_eq!((technique.to_string().as_str(), technique.is_likely()), (name, is_likely));
        }
    }
}
