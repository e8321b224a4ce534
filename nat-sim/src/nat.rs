//! A NAT gateway as a pure translator: packets and times in, verdicts out.
//!
//! There is no clock, no I/O and no randomness but the seed, which is drawn from in three places: the
//! choice of a port, of an initial sequence number, and of first packets to lose. Every drop has a
//! reason.
//!
//! # What happens to a packet
//!
//! On its way out: checksums, hop limit, fragments, ICMP errors; hairpinning if it is for an address
//! of the gateway; its session, which the tracker lets it move; else its mapping, else a fresh one
//! within the limits; a session; the rewrite. On its way in: the same checks; its session; else a
//! mapping whose filter admits it; else the rule for unsolicited traffic. Limits come before allocation,
//! allocation before the filter opens, and that before the packet leaves.
//!
//! Two choices decide what gets through: the filter hangs off the mapping (not off the internal
//! endpoint), and an inbound packet that it admits makes a session, so that the reply leaves from
//! the port that was reached.

use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use fmi_net::planted;
use fmi_net::time::Instant;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::packet::{Flow, Packet, Segment, Transport};

mod allocate;
mod behavior;
mod firewall;
mod fragment;
mod icmp;
mod lease;
pub mod preset;
mod proxy;
mod refuse;
pub mod requirement;
mod table;
#[cfg(test)]
mod tests;
mod tracker;

pub use behavior::{
    Allocation, Exhaustion, Fallback, Filtering, Fragments, Hairpin, IcmpErrors, Invalid, Ipv6, Mapping, Midstream,
    NatConfig, OnEcho, OnReset, OnStray, OnSyn, Overload, Pooling, PortClass, Quarantine, Refresh, Rules,
    SimultaneousOpen, TableLimits, Timers, Tracking, Unsolicited,
};
pub use tracker::SessionState;

use allocate::Ports;
use firewall::Firewall;
use fragment::Reassembly;
use lease::Leases;
use refuse::reply_or;
use table::{MappingId, SessionId, Tables};
use tracker::{Fate, Seen, Track};

/// A side of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// No session is left.
    Exhausted,
    /// No external port is left for it.
    NoPort,
    /// Its host has all the sessions or ports that it may have.
    HostLimit,
    /// Its remote has all the sessions that it may have.
    RemoteLimit,
    /// Too many sessions have begun in this second.
    RateLimit,
    /// It came to the gateway's own external address from inside, and the gateway does not hairpin.
    NoHairpin,
    /// It was sent to the external endpoint of its own sender.
    OwnEndpoint,
    /// It has no hop left, and may not be answered.
    HopLimit,
    /// It is for another address.
    NotMine,
    /// Its flags make no sense for a packet that would begin a session.
    InvalidFlags,
    /// The tracker does not take it for a part of its connection.
    Invalid,
    /// It belongs to no connection that the gateway knows.
    Midstream,
    /// It is an inbound SYN, and the gateway lets none pass.
    SimultaneousOpen,
    /// A held SYN that an outbound one met (RFC 5382 REQ-4).
    HeldAndMatched,
    /// The queue of held SYNs is full.
    HoldQueueFull,
    /// A held SYN that nothing matched, where policy forbids an answer.
    HeldInVain,
    /// A checksum is wrong.
    BadChecksum,
    /// It is a fragment, and the gateway drops those.
    Fragment,
    /// It is a fragment whose first one is missing, and no room is left to wait for it.
    FragmentsFull,
    /// It waited for the first fragment without success.
    FragmentTimeout,
    /// A race in the gateway lost it.
    FirstPacketLost,
    /// It is an ICMP error, and the gateway drops those.
    IcmpIgnored,
    /// It is IPv6, which does not pass.
    Ipv6,
    /// It is too large to go on, forbids that it is cut, and may not be answered.
    TooBig,
    /// Its protocol is not translated.
    NotTranslated,
}

/// The smallest MTU that a gateway can be given (RFC 791).
const MTU_MIN: u16 = 576;
/// The smallest MTU for IPv6 (RFC 8200 §5).
const IPV6_MTU_MIN: u16 = 1280;

impl DropReason {
    /// All of them.
    pub const ALL: [Self; 27] = [
        Self::NoMapping,
        Self::Filtered,
        Self::Exhausted,
        Self::NoPort,
        Self::HostLimit,
        Self::RemoteLimit,
        Self::RateLimit,
        Self::NoHairpin,
        Self::OwnEndpoint,
        Self::HopLimit,
        Self::NotMine,
        Self::InvalidFlags,
        Self::Invalid,
        Self::Midstream,
        Self::SimultaneousOpen,
        Self::HeldAndMatched,
        Self::HoldQueueFull,
        Self::HeldInVain,
        Self::BadChecksum,
        Self::Fragment,
        Self::FragmentsFull,
        Self::FragmentTimeout,
        Self::FirstPacketLost,
        Self::IcmpIgnored,
        Self::Ipv6,
        Self::TooBig,
        Self::NotTranslated,
    ];
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, translated.
    Forward(Side, Packet),
    /// It goes on as it came, with its private source: the tracker finds it invalid (Linux).
    Untranslated(Side, Packet),
    /// It is answered, and goes no further.
    Reply(Side, Packet),
    /// It is kept: a SYN to wait for an outbound one, a fragment for the first.
    Held,
    /// It goes no further.
    Drop(DropReason),
}

/// One live session, as oracles see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotRow {
    /// Transport.
    pub transport: Transport,
    /// Endpoint behind the gateway; the external one for a session of the gateway itself.
    pub internal: SocketAddrV4,
    /// Endpoint that the gateway shows.
    pub external: SocketAddrV4,
    /// The other end.
    pub remote: SocketAddrV4,
    /// How far it has come.
    pub state: SessionState,
    /// Whether only one side has spoken.
    pub is_unreplied: bool,
    /// When it is forgotten.
    pub expires: Instant,
}

/// A gateway.
#[derive(Clone, Debug)]
pub struct Nat {
    config: NatConfig,
    addresses: Vec<Ipv4Addr>,
    entropy: ChaCha8Rng,
    tables: Tables,
    ports: Ports,
    /// Sessions that may give way, by when they expire; kept only where the policy evicts.
    evictable: BTreeSet<(Instant, SessionId)>,
    held: VecDeque<(Instant, Packet)>,
    reassembly: Reassembly,
    firewall: Firewall,
    leases: Leases,
    /// The second in which sessions are counted, and their number.
    rate: (u64, usize),
    /// Of the last packet that was cut here.
    identification: u16,
    follows: VecDeque<Verdict>,
}

/// The result of offering a packet to its session.
enum Stepped {
    /// It passes to or as this endpoint, with its sequence numbers shifted.
    Passes {
        near: SocketAddrV4,
        shift: u32,
        /// The session is the gateway's own.
        is_own: bool,
    },
    Invalid,
    Gone,
}

/// Why a packet begins no session.
enum Refusal {
    Invalid,
    Midstream,
    Full(DropReason),
    Drop(DropReason),
}

impl Nat {
    /// Makes a gateway that shows `external`.
    pub fn new(config: NatConfig, external: Ipv4Addr, seed: u64) -> Self {
        Self::with_pool(config, vec![external], seed)
    }

    /// Makes a gateway with several external addresses.
    ///
    /// # Panics
    /// If there is none.
    pub fn with_pool(config: NatConfig, addresses: Vec<Ipv4Addr>, seed: u64) -> Self {
        assert!(!addresses.is_empty(), "a gateway has an address");
        Self {
            addresses,
            entropy: ChaCha8Rng::seed_from_u64(seed),
            tables: Tables::new([config.tcp.mapping, config.udp.mapping].contains(&Mapping::PreserveOverlap)),
            ports: Ports::default(),
            evictable: BTreeSet::new(),
            held: VecDeque::new(),
            reassembly: Reassembly::default(),
            firewall: Firewall::default(),
            leases: Leases::default(),
            rate: (0, 0),
            identification: 0,
            follows: VecDeque::new(),
            config,
        }
    }

    /// Its first external address.
    pub fn external(&self) -> Ipv4Addr {
        self.addresses[0]
    }

    /// Its configuration.
    pub fn config(&self) -> &NatConfig {
        &self.config
    }

    fn is_mine(&self, address: Ipv4Addr) -> bool {
        self.addresses.contains(&address)
    }

    /// Whether a packet from outside is for it, or for hosts whose addresses it leaves as they are.
    fn takes(&self, packet: &Packet) -> bool {
        let is_mine = |to| self.is_mine(to);
        self.config.tcp.mapping == Mapping::None || packet.v4_destination().is_some_and(is_mine)
    }

    /// Translates a packet that comes from inside. Drain [`Nat::next_verdict`] afterwards.
    pub fn outbound(&mut self, now: Instant, packet: Packet) -> Verdict {
        self.handle(now, Side::Inside, packet)
    }

    /// Translates a packet that comes from outside. Drain [`Nat::next_verdict`] afterwards.
    pub fn inbound(&mut self, now: Instant, packet: Packet) -> Verdict {
        self.handle(now, Side::Outside, packet)
    }

    fn handle(&mut self, now: Instant, from: Side, packet: Packet) -> Verdict {
        if self.config.verifies_checksums && !packet.checksums_are_valid() {
            return Verdict::Drop(DropReason::BadChecksum);
        }
        let mtu = self.config.mtu.max(if packet.is_v4() { MTU_MIN } else { IPV6_MTU_MIN });
        if packet.bytes().len() <= usize::from(mtu) {
            return self.translate(now, from, packet);
        }
        if packet.forbids_fragments() {
            let report = packet.too_big_reply(self.external(), mtu);
            let report = report.or_else(|| packet.too_big_reply_v6(mtu));
            return reply_or(from, report, DropReason::TooBig);
        }
        let verdict = self.translate(now, from, packet);
        let Verdict::Forward(to, packet) = verdict else { return verdict };
        self.identification = self.identification.wrapping_add(1);
        let mut parts = packet.fragments((usize::from(mtu) - 20) & !7, self.identification).into_iter();
        let first = parts.next().expect("a packet has a part");
        self.follows.extend(parts.map(|part| Verdict::Forward(to, part)));
        Verdict::Forward(to, first)
    }

    fn translate(&mut self, now: Instant, from: Side, mut packet: Packet) -> Verdict {
        self.expire(now);
        if !packet.is_v4() {
            return self.pass_ipv6(now, from, packet);
        }
        if from == Side::Outside && !self.takes(&packet) {
            return Verdict::Drop(DropReason::NotMine);
        }
        if packet.is_icmp_error() {
            return match from {
                Side::Inside => self.outbound_error(now, packet),
                Side::Outside => self.inbound_error(now, packet),
            };
        }
        if packet.fragment().is_some() {
            return self.fragment(now, from, packet);
        }
        if !packet.decrement_hop_limit() {
            return self.expired_in_transit(from, &packet);
        }
        match from {
            Side::Inside => self.translate_outbound(now, packet),
            Side::Outside => self.translate_inbound(now, packet, None),
        }
    }

    /// What else follows from the last packet: fragments that waited for it, held SYNs that it met.
    pub fn next_verdict(&mut self) -> Option<Verdict> {
        self.follows.pop_front()
    }

    /// Answers the held SYNs whose time has passed, and forgets what has expired.
    pub fn tick(&mut self, now: Instant) -> Vec<Verdict> {
        self.expire(now);
        let mut verdicts: Vec<_> = self.reassembly.give_up(now).collect();
        while self.held.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, packet)) = self.held.pop_front() else { break };
            let answers = matches!(self.config.unsolicited.syn, OnSyn::Hold { then_icmp: true, .. });
            let destination = packet.flow().map_or_else(|| self.external(), |flow| *flow.destination.ip());
            let answer = packet.unreachable_reply(destination, 3).filter(|_| answers);
            let verdict = reply_or(Side::Outside, answer, DropReason::HeldInVain);
            verdicts.push(self.turn_back(now, verdict));
        }
        verdicts
    }

    /// When [`Nat::tick`] has something to do that can be seen outside.
    pub fn next_deadline(&self) -> Option<Instant> {
        let held = self.held.front().map(|(until, _)| *until);
        held.into_iter().chain(self.reassembly.next_deadline()).min()
    }

    /// Loses all state, as after a power cut.
    pub fn reboot(&mut self) {
        let entropy = self.entropy.clone();
        *self = Self::with_pool(self.config, std::mem::take(&mut self.addresses), 0);
        self.entropy = entropy;
    }

    /// Gets another first external address, and loses all state. The rest of its pool stays.
    pub fn change_address(&mut self, external: Ipv4Addr) {
        let rest = self.addresses.iter().skip(1).copied().filter(|address| *address != external);
        self.addresses = std::iter::once(external).chain(rest).collect();
        self.reboot();
    }

    /// All live sessions, in order.
    pub fn snapshot(&mut self, now: Instant) -> Vec<SnapshotRow> {
        self.expire(now);
        let mut rows: Vec<_> = (self.tables.sessions.iter())
            .map(|(_, session)| SnapshotRow {
                transport: session.transport,
                internal: session.internal,
                external: session.external,
                remote: session.remote,
                state: session.track.state(),
                is_unreplied: session.track.is_unreplied(),
                expires: session.deadline,
            })
            .collect();
        rows.sort_unstable();
        rows
    }

    /// Number of live sessions, at the time of the last packet.
    pub fn sessions(&self) -> usize {
        self.tables.sessions.len()
    }

    fn translate_outbound(&mut self, now: Instant, mut packet: Packet) -> Verdict {
        let Some(flow) = packet.flow() else { return Verdict::Drop(DropReason::NotTranslated) };
        let is_hairpin = self.is_mine(*flow.destination.ip());
        if is_hairpin && !matches!(self.config.hairpin, Hairpin::ExternalSource) {
            return self.turn_away_hairpin(now, packet, flow);
        }
        let seen = Seen::of(&packet, Side::Inside);
        let session = self.tables.by_inside(flow.transport, flow.source, flow.destination);
        let (external, shift) = match session.map_or(Stepped::Gone, |id| self.step(now, id, seen)) {
            Stepped::Passes { near, shift, .. } => (near, shift),
            Stepped::Invalid => return self.invalid_outbound(packet),
            Stepped::Gone => match self.begin_outbound(now, flow, seen) {
                Ok(begun) => begun,
                Err(refusal) => return self.refuse_outbound(packet, &refusal),
            },
        };
        self.drop_held(flow, external);
        packet.set_source(external);
        packet.shift_numbers(shift, 0);
        if !is_hairpin {
            return Verdict::Forward(Side::Outside, packet);
        }
        let verdict = self.translate_inbound(now, packet, Some(flow.source));
        // An answer of the gateway goes to whoever sent the packet.
        let Verdict::Reply(Side::Outside, answer) = verdict else { return verdict };
        self.inbound(now, answer)
    }

    /// A late answer of the gateway to a hairpinned packet goes to whoever sent that.
    fn turn_back(&mut self, now: Instant, verdict: Verdict) -> Verdict {
        if let Verdict::Reply(Side::Outside, packet) = &verdict
            && packet.v4_destination().is_some_and(|to| self.is_mine(to))
        {
            return self.inbound(now, packet.clone());
        }
        verdict
    }

    fn translate_inbound(&mut self, now: Instant, mut packet: Packet, sender: Option<SocketAddrV4>) -> Verdict {
        let Some(flow) = packet.flow() else { return Verdict::Drop(DropReason::NotTranslated) };
        let seen = Seen::of(&packet, Side::Outside);
        let is_first_syn = seen.segment.is_some_and(|segment| segment.is_first_syn());
        if is_first_syn && self.config.simultaneous_open == SimultaneousOpen::DropInboundSyn {
            return Verdict::Drop(DropReason::SimultaneousOpen);
        }
        let is_planted = is_first_syn && planted::is(planted::Fault::DroppedSyns);
        if is_planted && self.entropy.get_seed()[0].is_multiple_of(4) {
            return Verdict::Drop(DropReason::SimultaneousOpen);
        }
        if is_first_syn && self.config.simultaneous_open == SimultaneousOpen::ResetInboundSyn {
            return reply_or(Side::Outside, packet.reset_reply(), DropReason::SimultaneousOpen);
        }
        let session = self.tables.by_outside(flow.transport, flow.destination, flow.source);
        if let Some(verdict) = session.and_then(|id| self.step_proxy(id, &packet)) {
            return verdict;
        }
        let (internal, shift) = match session.map_or(Stepped::Gone, |id| self.step(now, id, seen)) {
            Stepped::Passes { is_own: true, .. } => return self.refuse(now, packet, DropReason::NoMapping),
            Stepped::Passes { near, shift, .. } => (near, shift),
            Stepped::Invalid => return self.refuse(now, packet, DropReason::Invalid),
            Stepped::Gone => match self.begin_inbound(now, flow, seen) {
                Ok(internal) => (internal, 0),
                Err(reason) => return self.refuse(now, packet, reason),
            },
        };
        if sender == Some(internal) {
            return Verdict::Drop(DropReason::OwnEndpoint);
        }
        packet.set_destination(internal);
        packet.shift_numbers(0, shift.wrapping_neg());
        Verdict::Forward(Side::Inside, packet)
    }

    /// Offers a packet to its session. The near endpoint is the external one for a packet on its way
    /// out, else the internal one.
    fn step(&mut self, now: Instant, id: SessionId, seen: Seen) -> Stepped {
        let session = self.tables.session_mut(id);
        let age = now - session.begun_at;
        let fate = session.track.step(&self.config, seen, session.begun_by, age);
        let near = match seen.from {
            Side::Inside => session.external,
            Side::Outside => session.internal,
        };
        let (shift, old, is_own) = (session.shift, session.deadline, session.mapping.is_none());
        match fate {
            Fate::Keep => {}
            Fate::Refresh(idle) => self.plan(now, id, now + idle),
            Fate::Shorten(idle) => self.plan(now, id, old.min(now + idle)),
            Fate::End => self.end(now, id),
            Fate::Reopen => {
                self.end(now, id);
                return Stepped::Gone;
            }
            Fate::Invalid if self.config.tracking != Tracking::Linux(Invalid::Translate) => return Stepped::Invalid,
            Fate::Invalid => {}
        }
        Stepped::Passes { near, shift, is_own }
    }

    fn plan(&mut self, now: Instant, id: SessionId, deadline: Instant) {
        let old = self.tables.session(id).deadline;
        // An idle time of nothing ends at the next packet, not before.
        let deadline = deadline.max(now + Duration::from_nanos(1));
        self.tables.plan(id, deadline);
        if matches!(self.config.exhaustion, Exhaustion::EvictClosing | Exhaustion::EvictAny) {
            self.evictable.remove(&(old, id));
            let session = self.tables.session(id);
            if self.config.exhaustion == Exhaustion::EvictAny || session.track.state().is_closing() {
                self.evictable.insert((deadline, id));
            }
        }
    }

    /// Makes a session for a packet from inside. Returns its external endpoint, and what is added to
    /// its sequence numbers.
    fn begin_outbound(&mut self, now: Instant, flow: Flow, seen: Seen) -> Result<(SocketAddrV4, u32), Refusal> {
        if let Some(segment) = seen.segment {
            self.may_begin_outbound(segment)?;
        }
        self.check_limits(now, *flow.source.ip()).map_err(Refusal::Full)?;
        if self.loses_first_packet() {
            return Err(Refusal::Drop(DropReason::FirstPacketLost));
        }
        let mapping = self.mapping_for(flow.transport, flow.source, flow.destination).map_err(Refusal::Full)?;
        let external = self.tables.mapping(mapping).external;
        if let Err(reason) = self.check_remote_limit(flow.transport, *external.ip(), flow.destination) {
            self.drop_unused(mapping);
            return Err(Refusal::Full(reason));
        }
        let id = self.begin(now, flow.transport, flow.source, flow.destination, mapping, seen);
        let rewrites = self.config.rewrites_isn && flow.transport == Transport::Tcp;
        let shift = if rewrites { self.entropy.next_u32() } else { 0 };
        self.tables.session_mut(id).shift = shift;
        Ok((external, shift))
    }

    /// Draws nothing where none is lost, so that all else is drawn alike.
    fn loses_first_packet(&mut self) -> bool {
        let share = self.config.first_packet_loss_ppm;
        share != 0 && self.entropy.next_u32() % 1_000_000 < share
    }

    fn may_begin_outbound(&self, segment: Segment) -> Result<(), Refusal> {
        let is_linux = matches!(self.config.tracking, Tracking::Linux(_));
        if !tracker::begins(self.config.tracking, segment) {
            return Err(if is_linux { Refusal::Invalid } else { Refusal::Drop(DropReason::InvalidFlags) });
        }
        if segment.syn && !segment.ack {
            return Ok(());
        }
        match self.config.midstream {
            Midstream::PickUp if self.config.tcp.mapping != Mapping::L4Proxy => Ok(()),
            Midstream::Drop if is_linux => Err(Refusal::Invalid),
            Midstream::Reset | Midstream::Drop | Midstream::PickUp => Err(Refusal::Midstream),
        }
    }

    fn check_limits(&mut self, now: Instant, host: Ipv4Addr) -> Result<(), DropReason> {
        let limits = self.config.limits;
        if self.tables.use_of(host).sessions >= limits.sessions_per_host_max {
            return Err(DropReason::HostLimit);
        }
        let second = now.as_nanos() / 1_000_000_000;
        if self.rate.0 != second {
            self.rate = (second, 0);
        }
        if self.rate.1 >= limits.new_per_second_max {
            return Err(DropReason::RateLimit);
        }
        if self.tables.sessions.len() >= limits.sessions_max && !self.make_room(now) {
            return Err(DropReason::Exhausted);
        }
        self.rate.1 += 1;
        Ok(())
    }

    /// Ends a session to make room for another, where the policy allows that.
    fn make_room(&mut self, now: Instant) -> bool {
        let Some(&(_, id)) = self.evictable.first() else { return false };
        self.end(now, id);
        true
    }

    fn begin(
        &mut self,
        now: Instant,
        transport: Transport,
        internal: SocketAddrV4,
        remote: SocketAddrV4,
        mapping: MappingId,
        seen: Seen,
    ) -> SessionId {
        let external = self.tables.mapping(mapping).external;
        // Where ports are shared without regard to remotes, who comes last gets the answers.
        if let Some(other) = self.tables.by_outside(transport, external, remote) {
            self.end(now, other);
        }
        let track = self.new_track(transport, seen);
        let id = self.tables.add_session(transport, internal, external, remote, Some(mapping), seen.from, now, track);
        self.step(now, id, seen);
        if self.tables.session(id).deadline == Instant::FAR_FUTURE {
            // A fragment proves nothing to the tracker.
            self.plan(now, id, now + self.config.timers.syn_sent);
        }
        id
    }

    fn new_track(&self, transport: Transport, seen: Seen) -> Track {
        let is_proxied = transport == Transport::Tcp && self.config.tcp.mapping == Mapping::L4Proxy;
        match seen.segment {
            Some(segment) if is_proxied => Track::proxied(segment, seen.from),
            _ => Track::new(&self.config, transport, seen),
        }
    }

    /// The internal endpoint for a packet from outside that belongs to no session, if a mapping's
    /// filter admits it.
    fn begin_inbound(&mut self, now: Instant, flow: Flow, seen: Seen) -> Result<SocketAddrV4, DropReason> {
        let mapping = self.admitting_mapping(flow)?;
        let internal = self.tables.mapping(mapping).key.internal;
        let talks_already = self.tables.by_inside(flow.transport, internal, flow.source).is_some();
        let begins = seen.segment.is_none_or(|segment| tracker::begins(self.config.tracking, segment));
        // Making room may end the last session of this mapping, which must outlive it.
        self.tables.hold(mapping);
        let limit = if talks_already {
            // The same pair already talks through another port.
            Err(DropReason::Filtered)
        } else if !begins {
            Err(DropReason::InvalidFlags)
        } else {
            self.check_remote_limit(flow.transport, *flow.destination.ip(), flow.source)
                .and_then(|()| self.check_limits(now, *internal.ip()))
        };
        self.tables.let_go(mapping);
        if let Err(reason) = limit {
            self.drop_unused(mapping);
            return Err(reason);
        }
        self.begin(now, flow.transport, internal, flow.source, mapping, seen);
        Ok(internal)
    }

    /// Removes a mapping that no session has come to use, and what its host held for it.
    fn drop_unused(&mut self, mapping: MappingId) {
        let host = *self.tables.mapping(mapping).key.internal.ip();
        self.tables.drop_unused(mapping);
        self.release_host(host);
    }

    /// A host without mappings holds no blocks of ports.
    fn release_host(&mut self, host: Ipv4Addr) {
        if self.tables.use_of(host).mappings == 0 {
            self.ports.release_blocks(host);
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(id) = self.tables.pop_expired(now) {
            self.end(now, id);
        }
        self.ports.expire(now);
        self.leases.expire(now);
    }

    fn end(&mut self, now: Instant, id: SessionId) {
        let deadline = self.tables.session(id).deadline;
        self.evictable.remove(&(deadline, id));
        let (session, ends_mapping) = self.tables.remove_session(id);
        if session.mapping.is_some() {
            self.ports.release(now.min(deadline), &self.config, &session, ends_mapping);
            self.release_host(*session.internal.ip());
        }
    }
}
