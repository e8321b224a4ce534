//! A NAT gateway as a pure translator: packets and times in, verdicts out.
//!
//! There is no clock, no I/O and no randomness but the seed, which is drawn from only when a port
//! is chosen. Every drop has a reason. Two choices that decide what gets through are these: the
//! filter hangs off the mapping (not off the internal endpoint), and an inbound packet that the
//! filter admits makes a session, so that the reply leaves from the port that was reached.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};

use fmi::time::Instant;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::packet::{Flow, Packet, Segment, Transport};

mod behavior;
pub mod preset;
#[cfg(test)]
mod tests;

pub use behavior::{Allocation, Filtering, Hairpin, Mapping, NatConfig, Timers, Unsolicited};

/// A side of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Towards the hosts behind it.
    Inside,
    /// Towards the internet.
    Outside,
}

/// Why a packet went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// Nothing inside uses the port that it is for.
    NoMapping,
    /// The filter does not admit its source.
    Filtered,
    /// No port or no session is left.
    Exhausted,
    /// It came to the own external address from inside, and the gateway does not hairpin.
    NoHairpin,
    /// It has no hop left.
    HopLimit,
    /// It is for another address.
    NotMine,
    /// Its flags make no sense for a packet that would begin a session.
    InvalidFlags,
    /// An outbound SYN overtook the held SYN (RFC 5382 REQ-4).
    HeldAndMatched,
    /// The queue of held SYNs is full.
    HoldQueueFull,
    /// A held SYN that nothing matched, where policy forbids an answer.
    HeldInVain,
    /// Its protocol is not translated.
    NotTranslated,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, translated.
    Forward(Side, Packet),
    /// It is answered, and goes no further.
    Reply(Side, Packet),
    /// It is kept to wait for an outbound SYN.
    Held,
    /// It goes no further.
    Drop(DropReason),
}

/// Which remotes share a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Selector {
    All,
    Address(Ipv4Addr),
    Endpoint(SocketAddrV4),
    /// All remotes of one external port, of which a source may hold several (Linux).
    Port(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct MappingKey {
    transport: Transport,
    internal: SocketAddrV4,
    selector: Selector,
}

#[derive(Clone, Debug)]
struct MappingState {
    port: u16,
    sessions: usize,
    /// Live sessions per remote address.
    contacts: BTreeMap<Ipv4Addr, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SessionKey {
    transport: Transport,
    port: u16,
    remote: SocketAddrV4,
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Packets from one side only.
    Unreplied {
        by: Side,
    },
    /// Both sides have spoken, the handshake is not over.
    Opening,
    Established,
    /// FINs seen from inside and outside.
    Closing {
        inside: bool,
        outside: bool,
    },
    Reset,
}

#[derive(Clone, Debug)]
struct Session {
    mapping: MappingKey,
    phase: Phase,
    deadline: Instant,
}

/// One live mapping, as oracles see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotRow {
    /// Transport.
    pub transport: Transport,
    /// Endpoint behind the gateway.
    pub internal: SocketAddrV4,
    /// Endpoint that the gateway shows.
    pub external: SocketAddrV4,
    /// The other end.
    pub remote: SocketAddrV4,
}

/// A gateway.
#[derive(Clone, Debug)]
pub struct Nat {
    config: NatConfig,
    external: Ipv4Addr,
    /// The only host behind a one-to-one gateway, learnt from its first packet.
    one_to_one: Option<Ipv4Addr>,
    entropy: ChaCha8Rng,
    next_port: u16,
    mappings: BTreeMap<MappingKey, MappingState>,
    ports: BTreeMap<(Transport, u16), BTreeSet<MappingKey>>,
    sessions: BTreeMap<SessionKey, Session>,
    outbound: BTreeMap<(Transport, SocketAddrV4, SocketAddrV4), u16>,
    deadlines: BTreeSet<(Instant, SessionKey)>,
    held: VecDeque<(Instant, Packet)>,
}

/// SYNs held at once for want of an outbound one; memory must not grow with an attack.
const HELD_MAX: usize = 1024;

impl Nat {
    /// Makes a gateway that shows `external`.
    pub fn new(config: NatConfig, external: Ipv4Addr, seed: u64) -> Self {
        Self {
            next_port: config.ports.0,
            config,
            external,
            one_to_one: None,
            entropy: ChaCha8Rng::seed_from_u64(seed),
            mappings: BTreeMap::new(),
            ports: BTreeMap::new(),
            sessions: BTreeMap::new(),
            outbound: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            held: VecDeque::new(),
        }
    }

    /// Its external address.
    pub fn external(&self) -> Ipv4Addr {
        self.external
    }

    /// Translates a packet that comes from inside.
    pub fn outbound(&mut self, now: Instant, mut packet: Packet) -> Verdict {
        self.expire(now);
        let Some(flow) = packet.flow() else { return Verdict::Drop(DropReason::NotTranslated) };
        if !packet.decrement_hop_limit() {
            return Verdict::Drop(DropReason::HopLimit);
        }
        if *flow.destination.ip() == self.external && self.config.hairpin != Hairpin::ExternalSource {
            return match (self.config.hairpin, packet.reset_reply()) {
                (Hairpin::Reset, Some(reset)) => Verdict::Reply(Side::Inside, reset),
                _ => Verdict::Drop(DropReason::NoHairpin),
            };
        }
        let port = match self.outbound_port(now, flow, packet.segment()) {
            Ok(port) => port,
            Err(reason) => return Verdict::Drop(reason),
        };
        self.drop_held(flow, port);
        packet.set_source(SocketAddrV4::new(self.external, port));
        if *flow.destination.ip() == self.external {
            return self.inbound(now, packet);
        }
        Verdict::Forward(Side::Outside, packet)
    }

    /// Translates a packet that comes from outside.
    pub fn inbound(&mut self, now: Instant, mut packet: Packet) -> Verdict {
        self.expire(now);
        if packet.destination() != self.external {
            return Verdict::Drop(DropReason::NotMine);
        }
        if let Some(error) = packet.icmp_error() {
            return self.inbound_error(error.quoted, packet);
        }
        let Some(flow) = packet.flow() else { return Verdict::Drop(DropReason::NotTranslated) };
        if !packet.decrement_hop_limit() {
            return Verdict::Drop(DropReason::HopLimit);
        }
        let key = SessionKey { transport: flow.transport, port: flow.destination.port(), remote: flow.source };
        let internal = match self.admit(now, key, packet.segment()) {
            Ok(internal) => internal,
            Err(reason) => return self.refuse(now, packet, reason),
        };
        packet.set_destination(internal);
        Verdict::Forward(Side::Inside, packet)
    }

    /// Answers the held SYNs whose time is over, and forgets what has expired.
    pub fn tick(&mut self, now: Instant) -> Vec<Verdict> {
        self.expire(now);
        let mut verdicts = Vec::new();
        while self.held.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, packet)) = self.held.pop_front() else { break };
            let answers = matches!(self.config.unsolicited, Unsolicited::Hold { then_icmp: true, .. });
            verdicts.push(if answers {
                Verdict::Reply(Side::Outside, packet.unreachable_reply(self.external, 3))
            } else {
                Verdict::Drop(DropReason::HeldInVain)
            });
        }
        verdicts
    }

    /// When [`Nat::tick`] has something to do that can be seen outside.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.held.front().map(|(until, _)| *until)
    }

    /// Loses all state, as after a power cut.
    pub fn reboot(&mut self) {
        self.mappings.clear();
        self.ports.clear();
        self.sessions.clear();
        self.outbound.clear();
        self.deadlines.clear();
        self.held.clear();
    }

    /// All live sessions, in order.
    pub fn snapshot(&mut self, now: Instant) -> Vec<SnapshotRow> {
        self.expire(now);
        let rows = self.sessions.iter().map(|(key, session)| SnapshotRow {
            transport: key.transport,
            internal: session.mapping.internal,
            external: SocketAddrV4::new(self.external, key.port),
            remote: key.remote,
        });
        rows.collect()
    }

    /// Number of live sessions, at the time of the last packet.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    fn inbound_error(&mut self, quoted: Flow, mut packet: Packet) -> Verdict {
        let key = SessionKey { transport: quoted.transport, port: quoted.source.port(), remote: quoted.destination };
        match self.sessions.get(&key) {
            Some(session) if *quoted.source.ip() == self.external => {
                packet.restore_quote(session.mapping.internal);
                Verdict::Forward(Side::Inside, packet)
            }
            _ => Verdict::Drop(DropReason::NoMapping),
        }
    }

    /// The external port for a packet from inside: of its session, of its mapping, or a fresh one.
    fn outbound_port(&mut self, now: Instant, flow: Flow, segment: Option<Segment>) -> Result<u16, DropReason> {
        let Flow { transport, source, destination } = flow;
        if let Some(port) = self.outbound.get(&(transport, source, destination)).copied() {
            let key = SessionKey { transport, port, remote: destination };
            self.track(now, key, Side::Inside, segment);
            // A tracker may delete a session on an RST, but the RST itself still leaves.
            return Ok(port);
        }
        self.may_begin(segment)?;
        let key = self.mapping_for(transport, source, destination)?;
        let port = self.mappings[&key].port;
        self.begin(now, SessionKey { transport, port, remote: destination }, key, Side::Inside, segment);
        Ok(port)
    }

    /// Whether a packet may begin a session.
    fn may_begin(&self, segment: Option<Segment>) -> Result<(), DropReason> {
        if segment.is_some_and(|segment| segment.rst || (segment.syn && segment.fin)) {
            return Err(DropReason::InvalidFlags);
        }
        if self.sessions.len() >= self.config.sessions_max {
            return Err(DropReason::Exhausted);
        }
        Ok(())
    }

    /// Finds or makes the mapping for a new session from inside.
    fn mapping_for(
        &mut self,
        transport: Transport,
        internal: SocketAddrV4,
        remote: SocketAddrV4,
    ) -> Result<MappingKey, DropReason> {
        let selector = match self.config.mapping {
            Mapping::EndpointIndependent | Mapping::OneToOne => Selector::All,
            Mapping::AddressDependent => Selector::Address(*remote.ip()),
            Mapping::AddressAndPortDependent => Selector::Endpoint(remote),
            Mapping::PreserveOverlap => return self.overlapping_mapping_for(transport, internal, remote),
        };
        let key = MappingKey { transport, internal, selector };
        if !self.mappings.contains_key(&key) {
            if self.config.mapping == Mapping::OneToOne
                && *self.one_to_one.get_or_insert_with(|| *internal.ip()) != *internal.ip()
            {
                return Err(DropReason::Exhausted);
            }
            let port = self.allocate(internal.port(), |nat, port| !nat.ports.contains_key(&(transport, port)))?;
            self.map(key, port);
        }
        Ok(key)
    }

    /// Linux: any external port that the source already holds, its own port, or a random one, as
    /// long as no other session has the same port towards the same remote.
    fn overlapping_mapping_for(
        &mut self,
        transport: Transport,
        internal: SocketAddrV4,
        remote: SocketAddrV4,
    ) -> Result<MappingKey, DropReason> {
        let is_free = |nat: &Self, port: u16| !nat.sessions.contains_key(&SessionKey { transport, port, remote });
        let key = |port| MappingKey { transport, internal, selector: Selector::Port(port) };
        let held = self.mappings.range(key(0)..=key(u16::MAX)).map(|(key, state)| (*key, state.port));
        let reusable = held.into_iter().find(|(_, port)| is_free(self, *port));
        if let Some((key, _)) = reusable {
            return Ok(key);
        }
        let port = self.allocate(internal.port(), is_free)?;
        self.map(key(port), port);
        Ok(key(port))
    }

    fn map(&mut self, key: MappingKey, port: u16) {
        self.ports.entry((key.transport, port)).or_default().insert(key);
        self.mappings.entry(key).or_insert(MappingState { port, sessions: 0, contacts: BTreeMap::new() });
    }

    fn allocate(&mut self, wanted: u16, is_free: impl Fn(&Self, u16) -> bool) -> Result<u16, DropReason> {
        let (low, high) = self.config.ports;
        let count = u32::from(high - low) + 1;
        let in_range = |offset: u32| low + u16::try_from(offset % count).expect("an offset within the range");
        let first = match self.config.allocation {
            Allocation::Preserve if self.config.mapping == Mapping::OneToOne => return Ok(wanted),
            Allocation::Preserve if is_free(self, wanted) => return Ok(wanted),
            Allocation::Preserve | Allocation::Random => self.entropy.next_u32() % count,
            Allocation::Sequential => u32::from(self.next_port - low),
        };
        let port = (0..count).map(|offset| in_range(first + offset)).find(|port| is_free(self, *port));
        let port = port.ok_or(DropReason::Exhausted)?;
        self.next_port = in_range(u32::from(port - low) + 1);
        Ok(port)
    }

    /// The internal endpoint for a packet from outside, if the filter admits it.
    fn admit(&mut self, now: Instant, key: SessionKey, segment: Option<Segment>) -> Result<SocketAddrV4, DropReason> {
        if let Some(session) = self.sessions.get(&key) {
            let internal = session.mapping.internal;
            self.track(now, key, Side::Outside, segment);
            return Ok(internal);
        }
        let mappings = self.ports.get(&(key.transport, key.port)).ok_or(DropReason::NoMapping)?;
        let admits = |mapping: &&MappingKey| match self.config.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => {
                self.mappings.get(mapping).is_some_and(|state| state.contacts.contains_key(key.remote.ip()))
            }
            Filtering::AddressAndPortDependent => false,
        };
        let mapping = *mappings.iter().find(admits).ok_or(DropReason::Filtered)?;
        if self.outbound.contains_key(&(key.transport, mapping.internal, key.remote)) {
            // The same pair already talks through another port.
            return Err(DropReason::Filtered);
        }
        self.may_begin(segment)?;
        self.begin(now, key, mapping, Side::Outside, segment);
        Ok(mapping.internal)
    }

    fn refuse(&mut self, now: Instant, packet: Packet, reason: DropReason) -> Verdict {
        let Some(segment) = packet.segment() else { return Verdict::Drop(reason) };
        let first_syn = segment.syn && !segment.ack;
        match self.config.unsolicited {
            Unsolicited::Reset => match packet.reset_reply() {
                Some(reset) => Verdict::Reply(Side::Outside, reset),
                None => Verdict::Drop(reason),
            },
            Unsolicited::Icmp { code } if !segment.rst => {
                Verdict::Reply(Side::Outside, packet.unreachable_reply(self.external, code))
            }
            Unsolicited::Hold { .. } if first_syn && self.held.len() >= HELD_MAX => {
                Verdict::Drop(DropReason::HoldQueueFull)
            }
            Unsolicited::Hold { time, .. } if first_syn => {
                self.held.push_back((now + time, packet));
                Verdict::Held
            }
            Unsolicited::Drop | Unsolicited::Icmp { .. } | Unsolicited::Hold { .. } => Verdict::Drop(reason),
        }
    }

    /// RFC 5382 REQ-4: an outbound SYN to where a held SYN came from discards that one in silence.
    fn drop_held(&mut self, flow: Flow, port: u16) {
        let matched = |packet: &Packet| {
            packet.flow().is_some_and(|held| held.source == flow.destination && held.destination.port() == port)
        };
        self.held.retain(|(_, packet)| !matched(packet));
    }

    fn begin(&mut self, now: Instant, key: SessionKey, mapping: MappingKey, by: Side, segment: Option<Segment>) {
        self.sessions.insert(key, Session { mapping, phase: Phase::Unreplied { by }, deadline: now });
        self.outbound.insert((key.transport, mapping.internal, key.remote), key.port);
        if let Some(state) = self.mappings.get_mut(&mapping) {
            state.sessions += 1;
            *state.contacts.entry(*key.remote.ip()).or_default() += 1;
        }
        self.track(now, key, by, segment);
    }

    /// Moves a session's phase and its deadline.
    fn track(&mut self, now: Instant, key: SessionKey, from: Side, segment: Option<Segment>) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let timers = &self.config.timers;
        if segment.is_some_and(|segment| segment.rst)
            && session.phase == (Phase::Unreplied { by: opposite(from) })
            && self.config.reset_deletes_half_open
        {
            return self.end(key);
        }
        let old = session.deadline;
        session.phase = next_phase(session.phase, from, segment);
        let idle = match (key.transport, session.phase) {
            (Transport::Udp, Phase::Unreplied { .. }) => timers.udp_unreplied,
            (Transport::Udp, _) => timers.udp,
            (Transport::Tcp, Phase::Unreplied { .. } | Phase::Opening) => timers.opening,
            (Transport::Tcp, Phase::Closing { inside: true, outside: true }) => timers.closing,
            (Transport::Tcp, Phase::Established | Phase::Closing { .. }) => timers.established,
            (Transport::Tcp, Phase::Reset) => timers.reset,
        };
        // Packets from outside keep a UDP session alive only where the gateway lets them.
        let refreshes = key.transport == Transport::Tcp || from == Side::Inside || self.config.inbound_refreshes;
        if refreshes || old == now {
            session.deadline = now + idle;
            let deadline = session.deadline;
            self.deadlines.remove(&(old, key));
            self.deadlines.insert((deadline, key));
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, key)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.end(key);
        }
    }

    fn end(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.remove(&key) else { return };
        self.deadlines.remove(&(session.deadline, key));
        self.outbound.remove(&(key.transport, session.mapping.internal, key.remote));
        let Some(state) = self.mappings.get_mut(&session.mapping) else { return };
        state.sessions -= 1;
        if let Some(contacts) = state.contacts.get_mut(key.remote.ip()) {
            *contacts -= 1;
            if *contacts == 0 {
                state.contacts.remove(key.remote.ip());
            }
        }
        if state.sessions == 0 {
            self.mappings.remove(&session.mapping);
            if let Some(keys) = self.ports.get_mut(&(key.transport, key.port)) {
                keys.remove(&session.mapping);
                if keys.is_empty() {
                    self.ports.remove(&(key.transport, key.port));
                }
            }
        }
    }
}

fn opposite(side: Side) -> Side {
    match side {
        Side::Inside => Side::Outside,
        Side::Outside => Side::Inside,
    }
}

fn next_phase(phase: Phase, from: Side, segment: Option<Segment>) -> Phase {
    let Some(segment) = segment else {
        let replied = matches!(phase, Phase::Unreplied { by } if by != from);
        return if replied { Phase::Established } else { phase };
    };
    if segment.rst {
        return Phase::Reset;
    }
    let fin = |mut inside: bool, mut outside: bool| {
        match from {
            Side::Inside => inside |= segment.fin,
            Side::Outside => outside |= segment.fin,
        }
        Phase::Closing { inside, outside }
    };
    match phase {
        Phase::Unreplied { by } if by == from => phase,
        Phase::Unreplied { .. } => Phase::Opening,
        Phase::Opening if segment.ack && !segment.syn => Phase::Established,
        Phase::Opening => Phase::Opening,
        Phase::Established if segment.fin => fin(false, false),
        Phase::Established => Phase::Established,
        // A SYN on a closed or reset session opens it again.
        Phase::Closing { .. } | Phase::Reset if segment.syn && !segment.ack => Phase::Unreplied { by: from },
        Phase::Closing { inside, outside } => fin(inside, outside),
        Phase::Reset => Phase::Reset,
    }
}
