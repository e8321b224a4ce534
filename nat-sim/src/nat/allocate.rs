//! Which external endpoint a flow gets: mapping, pool address, port, and how long ports rest.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, SocketAddrV4};

use fmi_net::planted;
use fmi_net::time::Instant;
use foldhash::fast::FixedState;
use rand_core::Rng;

use super::behavior::{Allocation, Fallback, Filtering, Mapping, NatConfig, Overload, Pooling, Rules};
use super::table::{MappingId, MappingKey, Selector, Session};
use super::tracker::SessionState;
use super::{DropReason, Nat};
use crate::packet::{Flow, Transport};

/// A port that rests, towards one remote or all.
type Resting = (Transport, SocketAddrV4, Option<SocketAddrV4>);

/// What is remembered of ports and addresses beyond live mappings.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports {
    resting: BTreeMap<Resting, Instant>,
    rest_ends: BTreeSet<(Instant, Resting)>,
    /// The next port of a sequential allocator, per transport, and per host where each has its own.
    next: BTreeMap<(Transport, Option<Ipv4Addr>), u16>,
    /// External addresses of hosts, where each host keeps one.
    pairs: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Hosts of external addresses, where each address is one host's.
    owners: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Owner of each port block: external address and first port of the block.
    blocks: BTreeMap<(Ipv4Addr, u16), Ipv4Addr>,
    blocks_of: BTreeMap<Ipv4Addr, Vec<(Ipv4Addr, u16)>>,
}

impl Ports {
    /// Ports whose quarantine has ended are free again.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(until, key)) = self.rest_ends.first() {
            if until > now {
                return;
            }
            self.rest_ends.pop_first();
            self.resting.remove(&key);
        }
    }

    /// A session has ended: its port may have to be quarantined.
    pub(super) fn release(&mut self, now: Instant, config: &NatConfig, session: &Session, ends_mapping: bool) {
        let quarantine = &config.quarantine;
        let rest = match session.track.state() {
            SessionState::TimeWait | SessionState::LastAck => quarantine.fin,
            SessionState::Close => quarantine.reset,
            SessionState::SynSent | SessionState::SynSent2 | SessionState::SynReceived => quarantine.half_open,
            SessionState::Established
            | SessionState::FinWait
            | SessionState::CloseWait
            | SessionState::Asked
            | SessionState::Answered => quarantine.idle,
        };
        if rest.is_zero() || !(ends_mapping || quarantine.same_remote_only) {
            return;
        }
        let remote = quarantine.same_remote_only.then_some(session.remote);
        let key = (session.transport, session.external, remote);
        if let Some(old) = self.resting.insert(key, now + rest) {
            self.rest_ends.remove(&(old, key));
        }
        self.rest_ends.insert((now + rest, key));
    }

    pub(super) fn release_blocks(&mut self, host: Ipv4Addr) {
        for block in self.blocks_of.remove(&host).into_iter().flatten() {
            self.blocks.remove(&block);
        }
    }

    fn rests(&self, transport: Transport, external: SocketAddrV4, remote: SocketAddrV4) -> bool {
        self.resting.contains_key(&(transport, external, None))
            || self.resting.contains_key(&(transport, external, Some(remote)))
    }
}

/// Ports of an external endpoint that a search looks at: from `first`, around the range once.
struct Search {
    low: u16,
    high: u16,
    first: u16,
    step: u16,
    tries: u32,
}

impl Search {
    fn find(&self, mut is_free: impl FnMut(u16) -> bool) -> Option<u16> {
        let count = u32::from(self.high - self.low) + 1;
        let start = u32::from(self.first - self.low);
        (0..self.tries)
            .map(|number| (start + number * u32::from(self.step)) % count)
            .map(|offset| self.low + u16::try_from(offset).expect("an offset within the range"))
            .find(|port| is_free(*port))
    }
}

/// Ports that Linux looks at in a row, from another random one in each round of its search.
const LINUX_ROUNDS: [u32; 5] = [128, 64, 32, 16, 8];

impl Nat {
    /// Finds or makes the mapping for a new session from inside.
    pub(super) fn mapping_for(
        &mut self,
        transport: Transport,
        internal: SocketAddrV4,
        remote: SocketAddrV4,
    ) -> Result<MappingId, DropReason> {
        if let Some(external) = self.leases.held_by(transport, internal) {
            return Ok(self.mapping_at(transport, internal, external));
        }
        let rules = self.config.rules(transport);
        let selector = match rules.mapping {
            Mapping::EndpointIndependent => Selector::All,
            Mapping::AddressDependent => Selector::Address(*remote.ip()),
            Mapping::AddressAndPortDependent | Mapping::L4Proxy => Selector::Endpoint(remote),
            Mapping::PreserveOverlap => return self.overlapping_mapping_for(transport, internal, remote, rules),
            Mapping::OneToOne => {
                let address = self.own_address(*internal.ip())?;
                let external = SocketAddrV4::new(address, internal.port());
                return Ok(self.mapping_at(transport, internal, external));
            }
            Mapping::None => return Ok(self.mapping_at(transport, internal, internal)),
        };
        let key = MappingKey { transport, internal, selector };
        if let Some(mapping) = self.tables.mapping_by_key(&key) {
            return Ok(mapping);
        }
        let external = self.allocate(transport, internal, remote, rules)?;
        Ok(self.tables.add_mapping(key, external))
    }

    fn mapping_at(&mut self, transport: Transport, internal: SocketAddrV4, external: SocketAddrV4) -> MappingId {
        let key = MappingKey { transport, internal, selector: Selector::External(external) };
        self.tables.mapping_by_key(&key).unwrap_or_else(|| self.tables.add_mapping(key, external))
    }

    /// Linux: the endpoint of the source's newest session, its own port, or another, as long as no
    /// other session shows the same to the same remote.
    fn overlapping_mapping_for(
        &mut self,
        transport: Transport,
        internal: SocketAddrV4,
        remote: SocketAddrV4,
        rules: Rules,
    ) -> Result<MappingId, DropReason> {
        let newest = self.tables.newest_of(transport, internal).map(|session| session.external);
        let reusable = newest.filter(|external| {
            rules.ports.may_keep(external.port())
                && self.tables.by_outside(transport, *external, remote).is_none()
                && !self.ports.rests(transport, *external, remote)
        });
        if let Some(external) = reusable {
            return Ok(self.mapping_at(transport, internal, external));
        }
        let external = self.allocate(transport, internal, remote, rules)?;
        Ok(self.mapping_at(transport, internal, external))
    }

    /// A mapping whose filter admits a packet from outside.
    pub(super) fn admitting_mapping(&mut self, flow: Flow) -> Result<MappingId, DropReason> {
        let Flow { transport, source: remote, destination: external } = flow;
        if let Some(internal) = self.leases.holder(transport, external) {
            return Ok(self.mapping_at(transport, internal, external));
        }
        let rules = self.config.rules(transport);
        if rules.filtering == Filtering::EndpointIndependent
            && matches!(rules.mapping, Mapping::OneToOne | Mapping::None)
        {
            let host = if rules.mapping == Mapping::None {
                Some(*external.ip())
            } else {
                self.ports.owners.get(external.ip()).copied()
            };
            let host = host.ok_or(DropReason::NoMapping)?;
            return Ok(self.mapping_at(transport, SocketAddrV4::new(host, external.port()), external));
        }
        let mappings = self.tables.mappings_at(transport, external);
        let admits = |mapping: &&MappingId| match rules.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => self.tables.has_contact(**mapping, *remote.ip()),
            Filtering::AddressAndPortDependent => false,
        };
        let none = if mappings.is_empty() { DropReason::NoMapping } else { DropReason::Filtered };
        let admitted = mappings.iter().find(admits).copied();
        let leak = || mappings.first().copied().filter(|_| planted::one_in(planted::Fault::LeakyFilter, 500));
        admitted.or_else(leak).ok_or(none)
    }

    /// The external address that belongs to one host alone, the next free one for a new host.
    fn own_address(&mut self, host: Ipv4Addr) -> Result<Ipv4Addr, DropReason> {
        // They are given out in order and never given back, so that what a host has comes before what is free.
        let is_for_it = |address: &Ipv4Addr| self.ports.owners.get(address).is_none_or(|owner| *owner == host);
        let address = self.addresses.iter().copied().find(is_for_it).ok_or(DropReason::NoPort)?;
        self.ports.owners.insert(address, host);
        Ok(address)
    }

    /// External addresses to try, in order.
    fn pool(&mut self, internal: SocketAddrV4, remote: SocketAddrV4) -> Vec<Ipv4Addr> {
        let count = self.addresses.len();
        match self.config.pooling {
            Pooling::FirstWithRoom => self.addresses.clone(),
            Pooling::Paired => {
                let next = self.ports.pairs.len() % count;
                vec![*self.ports.pairs.entry(*internal.ip()).or_insert(self.addresses[next])]
            }
            Pooling::Arbitrary => {
                // Any function of source and destination will do, as long as it spreads.
                let mixed = FixedState::default().hash_one((internal.ip(), remote.ip())) % count as u64;
                vec![self.addresses[usize::try_from(mixed).expect("below the number of addresses")]]
            }
        }
    }

    /// Chooses a fresh external endpoint.
    fn allocate(
        &mut self,
        transport: Transport,
        internal: SocketAddrV4,
        remote: SocketAddrV4,
        rules: Rules,
    ) -> Result<SocketAddrV4, DropReason> {
        if self.tables.use_of(*internal.ip()).mappings >= self.config.limits.ports_per_host_max {
            return Err(DropReason::HostLimit);
        }
        let mut reason = DropReason::NoPort;
        for address in self.pool(internal, remote) {
            if let Err(full) = self.check_remote_limit(transport, address, remote) {
                reason = full;
                continue;
            }
            if let Some(port) = self.choose_port(transport, internal, address, remote, rules) {
                return Ok(SocketAddrV4::new(address, port));
            }
        }
        self.release_host(*internal.ip());
        Err(reason)
    }

    pub(super) fn check_remote_limit(
        &self,
        transport: Transport,
        address: Ipv4Addr,
        remote: SocketAddrV4,
    ) -> Result<(), DropReason> {
        let used = self.tables.remotes.get(&(transport, address, remote)).copied().unwrap_or(0);
        if used >= self.config.limits.sessions_per_remote_max { Err(DropReason::RemoteLimit) } else { Ok(()) }
    }

    fn choose_port(
        &mut self,
        transport: Transport,
        internal: SocketAddrV4,
        address: Ipv4Addr,
        remote: SocketAddrV4,
        rules: Rules,
    ) -> Option<u16> {
        let wanted = internal.port();
        let (low, high) = rules.ports.range(wanted);
        let count = u32::from(high - low) + 1;
        let keeps_parity = self.config.parity && transport == Transport::Udp;
        let is_free = |nat: &Self, port: u16| {
            let external = SocketAddrV4::new(address, port);
            let is_used = match rules.overload {
                Overload::Never => !nat.tables.mappings_at(transport, external).is_empty(),
                Overload::DistinctRemote => nat.tables.by_outside(transport, external, remote).is_some(),
                Overload::Always => false,
            };
            (!is_used || planted::is(planted::Fault::PortReused))
                && (!keeps_parity || (port ^ wanted) & 1 == 0)
                && nat.leases.holder(transport, external).is_none()
                && !nat.ports.rests(transport, external, remote)
        };
        let search = |nat: &Self, first: u16, tries: u32| {
            Search { low, high, first, step: 1, tries }.find(|port| is_free(nat, port))
        };
        match rules.allocation {
            Allocation::Preserve(_) if rules.ports.may_keep(wanted) && is_free(self, wanted) => Some(wanted),
            Allocation::Preserve(Fallback::Refuse) => None,
            Allocation::Preserve(Fallback::Next) => search(self, wanted.clamp(low, high), count),
            Allocation::Preserve(Fallback::Lowest) => search(self, low, count),
            Allocation::Preserve(Fallback::LinuxSearch) => LINUX_ROUNDS.into_iter().find_map(|tries| {
                let first = self.random_port(low, count);
                search(self, first, tries.min(count))
            }),
            Allocation::Preserve(Fallback::Random) | Allocation::Random => {
                let first = self.random_port(low, count);
                search(self, first, count)
            }
            Allocation::Sequential { step, per_host } => {
                let counter = (transport, per_host.then_some(*internal.ip()));
                let first = self.ports.next.get(&counter).copied().unwrap_or(low).clamp(low, high);
                let step = step.max(1);
                let found = Search { low, high, first, step, tries: count }.find(|port| is_free(self, port))?;
                let next = (u32::from(found - low) + u32::from(step)) % count;
                self.ports.next.insert(counter, low + u16::try_from(next).expect("within the range"));
                Some(found)
            }
            Allocation::Block { ports, blocks_per_host_max } => {
                let block = (*internal.ip(), ports.max(1), usize::from(blocks_per_host_max));
                self.port_from_block(block, address, (low, high), is_free)
            }
        }
    }

    fn random_port(&mut self, low: u16, count: u32) -> u16 {
        low + u16::try_from(self.entropy.next_u32() % count).expect("within the range")
    }

    fn port_from_block(
        &mut self,
        (host, ports, blocks_max): (Ipv4Addr, u16, usize),
        address: Ipv4Addr,
        (low, high): (u16, u16),
        is_free: impl Fn(&Self, u16) -> bool,
    ) -> Option<u16> {
        let in_block = |nat: &mut Self, first: u16| {
            let high = first.saturating_add(ports - 1).min(high);
            let count = u32::from(high - first) + 1;
            let start = nat.random_port(first, count);
            Search { low: first, high, first: start, step: 1, tries: count }.find(|port| is_free(nat, port))
        };
        let held = self.ports.blocks_of.get(&host).cloned().unwrap_or_default();
        // A host may hold blocks of other ranges, for another transport or class of ports.
        let fits = |(at, first): &&(Ipv4Addr, u16)| {
            *at == address && (low..=high).contains(first) && (first - low).is_multiple_of(ports)
        };
        for (_, first) in held.iter().filter(fits) {
            if let Some(port) = in_block(self, *first) {
                return Some(port);
            }
        }
        if held.len() >= blocks_max {
            return None;
        }
        let blocks = (u64::from(high - low) + 1) / u64::from(ports);
        let start = u64::from(self.entropy.next_u32());
        let first = (start..start + blocks)
            .map(|number| number % blocks * u64::from(ports))
            .map(|offset| low + u16::try_from(offset).expect("an offset within the range"))
            .find(|first| !self.ports.blocks.contains_key(&(address, *first)))?;
        self.ports.blocks.insert((address, first), host);
        self.ports.blocks_of.entry(host).or_default().push((address, first));
        in_block(self, first)
    }
}
