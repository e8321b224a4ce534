//! The tables of a gateway: mappings, sessions, ports, deadlines. All lookups take constant or
//! logarithmic time; none is iterated in an order that depends on hashes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, SocketAddrV4};

use fmi_net::time::Instant;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;

use super::Side;
use super::tracker::Track;
use crate::packet::Transport;

/// Which remotes share a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Selector {
    All,
    Address(Ipv4Addr),
    Endpoint(SocketAddrV4),
    /// All remotes of one external endpoint, of which a source may hold several (Linux).
    External(SocketAddrV4),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MappingKey {
    pub(super) transport: Transport,
    pub(super) internal: SocketAddrV4,
    pub(super) selector: Selector,
}

#[derive(Clone, Debug)]
pub(super) struct Mapping {
    pub(super) key: MappingKey,
    pub(super) external: SocketAddrV4,
    pub(super) sessions: usize,
}

/// A session's place; it may be given to another session later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionId(pub(super) u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MappingId(pub(super) u32);

/// Aligned so that a packet touches two lines of a cache, and not three.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(super) struct Session {
    pub(super) transport: Transport,
    pub(super) internal: SocketAddrV4,
    pub(super) external: SocketAddrV4,
    pub(super) remote: SocketAddrV4,
    /// `None` for a session of the gateway itself.
    pub(super) mapping: Option<MappingId>,
    pub(super) begun_by: Side,
    pub(super) begun_at: Instant,
    pub(super) track: Track,
    pub(super) deadline: Instant,
    /// What is added to the sequence numbers of the inside.
    pub(super) shift: u32,
    /// When the clock looks at it next: never after its deadline.
    planned: Instant,
    /// Never given twice.
    number: u64,
}

/// Keys of the two session tables: transport, the near endpoint, the remote one.
fn packed(transport: Transport, near: SocketAddrV4, remote: SocketAddrV4) -> u128 {
    let half = |endpoint: SocketAddrV4| u128::from(endpoint.ip().to_bits()) << 16 | u128::from(endpoint.port());
    (transport as u128) << 96 | half(near) << 48 | half(remote)
}

/// Use that a host or an external endpoint makes of the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) sessions: usize,
    pub(super) mappings: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Tables {
    pub(super) mappings: Slab<Mapping>,
    by_key: BTreeMap<MappingKey, MappingId>,
    pub(super) by_external: BTreeMap<(Transport, SocketAddrV4), Vec<MappingId>>,
    pub(super) sessions: Slab<Session>,
    inside: HashTable<SessionId>,
    outside: HashTable<SessionId>,
    hasher: FixedState,
    /// Remotes of each mapping, which its filter admits.
    contacts: BTreeSet<(MappingId, SocketAddrV4)>,
    /// Sessions of one source, the newest last; only where the mapping asks for it.
    by_source: BTreeMap<(Transport, SocketAddrV4, u64), SessionId>,
    tracks_sources: bool,
    hosts: BTreeMap<Ipv4Addr, Use>,
    pub(super) remotes: BTreeMap<(Transport, Ipv4Addr, SocketAddrV4), usize>,
    clock: BinaryHeap<Reverse<(Instant, u64, SessionId)>>,
    numbers: u64,
}

fn id(key: usize) -> u32 {
    u32::try_from(key).expect("fewer than 2^32 entries")
}

impl Tables {
    pub(super) fn new(tracks_sources: bool) -> Self {
        Self {
            mappings: Slab::new(),
            by_key: BTreeMap::new(),
            by_external: BTreeMap::new(),
            sessions: Slab::new(),
            inside: HashTable::new(),
            outside: HashTable::new(),
            hasher: FixedState::default(),
            contacts: BTreeSet::new(),
            by_source: BTreeMap::new(),
            tracks_sources,
            hosts: BTreeMap::new(),
            remotes: BTreeMap::new(),
            clock: BinaryHeap::new(),
            numbers: 0,
        }
    }

    pub(super) fn session(&self, id: SessionId) -> &Session {
        &self.sessions[id.0 as usize]
    }

    pub(super) fn session_mut(&mut self, id: SessionId) -> &mut Session {
        &mut self.sessions[id.0 as usize]
    }

    pub(super) fn mapping(&self, id: MappingId) -> &Mapping {
        &self.mappings[id.0 as usize]
    }

    pub(super) fn by_inside(
        &self,
        transport: Transport,
        internal: SocketAddrV4,
        remote: SocketAddrV4,
    ) -> Option<SessionId> {
        let key = packed(transport, internal, remote);
        let is_it = |id: &SessionId| {
            let session = self.session(*id);
            (session.internal, session.remote, session.transport) == (internal, remote, transport)
        };
        self.inside.find(self.hasher.hash_one(key), is_it).copied()
    }

    pub(super) fn by_outside(
        &self,
        transport: Transport,
        external: SocketAddrV4,
        remote: SocketAddrV4,
    ) -> Option<SessionId> {
        let key = packed(transport, external, remote);
        let is_it = |id: &SessionId| {
            let session = self.session(*id);
            (session.external, session.remote, session.transport) == (external, remote, transport)
        };
        self.outside.find(self.hasher.hash_one(key), is_it).copied()
    }

    pub(super) fn mapping_by_key(&self, key: &MappingKey) -> Option<MappingId> {
        self.by_key.get(key).copied()
    }

    /// Mappings that show an external endpoint.
    pub(super) fn mappings_at(&self, transport: Transport, external: SocketAddrV4) -> &[MappingId] {
        self.by_external.get(&(transport, external)).map_or(&[], Vec::as_slice)
    }

    /// Whether a mapping has a session with a remote; with any port of its address.
    pub(super) fn has_contact(&self, mapping: MappingId, remote: Ipv4Addr) -> bool {
        let range = (mapping, SocketAddrV4::new(remote, 0))..=(mapping, SocketAddrV4::new(remote, u16::MAX));
        self.contacts.range(range).next().is_some()
    }

    /// The newest session of a source.
    pub(super) fn newest_of(&self, transport: Transport, internal: SocketAddrV4) -> Option<&Session> {
        let range = (transport, internal, 0)..=(transport, internal, u64::MAX);
        self.by_source.range(range).next_back().map(|(_, id)| self.session(*id))
    }

    pub(super) fn use_of(&self, host: Ipv4Addr) -> Use {
        self.hosts.get(&host).copied().unwrap_or_default()
    }

    pub(super) fn add_mapping(&mut self, key: MappingKey, external: SocketAddrV4) -> MappingId {
        let id = MappingId(id(self.mappings.insert(Mapping { key, external, sessions: 0 })));
        self.by_key.insert(key, id);
        self.by_external.entry((key.transport, external)).or_default().push(id);
        self.hosts.entry(*key.internal.ip()).or_default().mappings += 1;
        id
    }

    /// Keeps a mapping, as a session would, until [`Tables::let_go`].
    pub(super) fn hold(&mut self, id: MappingId) {
        self.mappings[id.0 as usize].sessions += 1;
    }

    pub(super) fn let_go(&mut self, id: MappingId) {
        self.mappings[id.0 as usize].sessions -= 1;
    }

    /// Removes a mapping that no session has come to use.
    pub(super) fn drop_unused(&mut self, id: MappingId) {
        if self.mapping(id).sessions == 0 {
            self.remove_mapping(id);
        }
    }

    fn remove_mapping(&mut self, id: MappingId) {
        let Mapping { key, external, .. } = self.mappings.remove(id.0 as usize);
        self.by_key.remove(&key);
        let slot = (key.transport, external);
        if let Some(at) = self.by_external.get_mut(&slot) {
            at.retain(|other| *other != id);
            if at.is_empty() {
                self.by_external.remove(&slot);
            }
        }
        if let Some(host) = self.hosts.get_mut(key.internal.ip()) {
            host.mappings -= 1;
            if *host == Use::default() {
                self.hosts.remove(key.internal.ip());
            }
        }
    }

    /// Adds a session whose deadline is set by [`Tables::plan`].
    #[expect(clippy::too_many_arguments, reason = "they are the parts of a session")]
    pub(super) fn add_session(
        &mut self,
        transport: Transport,
        internal: SocketAddrV4,
        external: SocketAddrV4,
        remote: SocketAddrV4,
        mapping: Option<MappingId>,
        begun_by: Side,
        begun_at: Instant,
        track: Track,
    ) -> SessionId {
        let number = self.numbers;
        self.numbers += 1;
        let (planned, deadline) = (Instant::FAR_FUTURE, Instant::FAR_FUTURE);
        let session = Session {
            transport,
            internal,
            external,
            remote,
            mapping,
            begun_by,
            begun_at,
            track,
            deadline,
            shift: 0,
            planned,
            number,
        };
        let id = SessionId(id(self.sessions.insert(session)));
        let Self { inside, outside, sessions, hasher, .. } = self;
        let of = |id: &SessionId| &sessions[id.0 as usize];
        let outside_hash = |id: &SessionId| {
            let session = of(id);
            hasher.hash_one(packed(session.transport, session.external, session.remote))
        };
        outside.insert_unique(outside_hash(&id), id, outside_hash);
        if let Some(mapping) = mapping {
            let inside_hash = |id: &SessionId| {
                let session = of(id);
                hasher.hash_one(packed(session.transport, session.internal, session.remote))
            };
            inside.insert_unique(inside_hash(&id), id, inside_hash);
            self.mappings[mapping.0 as usize].sessions += 1;
            self.contacts.insert((mapping, remote));
            self.hosts.entry(*internal.ip()).or_default().sessions += 1;
            *self.remotes.entry((transport, *external.ip(), remote)).or_default() += 1;
            if self.tracks_sources {
                self.by_source.insert((transport, internal, number), id);
            }
        }
        id
    }

    /// Sets when a session expires.
    pub(super) fn plan(&mut self, id: SessionId, deadline: Instant) {
        let session = &mut self.sessions[id.0 as usize];
        session.deadline = deadline;
        if deadline < session.planned {
            session.planned = deadline;
            self.clock.push(Reverse((deadline, session.number, id)));
        }
    }

    /// The next session whose time has come.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<SessionId> {
        while let Some(&Reverse((at, _, id))) = self.clock.peek() {
            if at > now {
                return None;
            }
            self.clock.pop();
            let Some(session) = self.sessions.get_mut(id.0 as usize) else { continue };
            // An entry that is void, or of a session that had this place before.
            if session.planned != at {
                continue;
            }
            if session.deadline <= now {
                return Some(id);
            }
            session.planned = session.deadline;
            self.clock.push(Reverse((session.deadline, session.number, id)));
        }
        None
    }

    /// Removes a session, and its mapping with the last one.
    pub(super) fn remove_session(&mut self, id: SessionId) -> (Session, bool) {
        let session = self.sessions.remove(id.0 as usize);
        let Session { transport, internal, external, remote, .. } = session;
        let hash = self.hasher.hash_one(packed(transport, external, remote));
        if let Ok(entry) = self.outside.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        let Some(mapping) = session.mapping else { return (session, false) };
        let hash = self.hasher.hash_one(packed(transport, internal, remote));
        if let Ok(entry) = self.inside.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        self.contacts.remove(&(mapping, remote));
        if self.tracks_sources {
            self.by_source.remove(&(transport, internal, session.number));
        }
        release(&mut self.remotes, (transport, *external.ip(), remote));
        if let Some(host) = self.hosts.get_mut(internal.ip()) {
            host.sessions -= 1;
        }
        let state = &mut self.mappings[mapping.0 as usize];
        state.sessions -= 1;
        let is_last = state.sessions == 0;
        if is_last {
            self.remove_mapping(mapping);
        }
        (session, is_last)
    }

    /// Whether all tables tell the same story.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let with_mapping = self.sessions.iter().filter(|(_, session)| session.mapping.is_some()).count();
        assert_eq!(self.inside.len(), with_mapping);
        assert_eq!(self.outside.len(), self.sessions.len());
        assert_eq!(self.contacts.len(), with_mapping);
        let counted: usize = self.mappings.iter().map(|(_, mapping)| mapping.sessions).sum();
        assert_eq!(counted, with_mapping);
        assert!(self.mappings.iter().all(|(_, mapping)| mapping.sessions > 0), "no mapping outlives its sessions");
        assert_eq!(self.hosts.values().map(|host| host.sessions).sum::<usize>(), with_mapping);
        assert_eq!(self.hosts.values().map(|host| host.mappings).sum::<usize>(), self.mappings.len());
        assert_eq!(self.remotes.values().sum::<usize>(), with_mapping);
        assert_eq!(self.by_external.values().map(Vec::len).sum::<usize>(), self.mappings.len());
        assert_eq!(self.by_key.len(), self.mappings.len());
        for (key, session) in &self.sessions {
            assert!(session.planned <= session.deadline);
            let is_planned = |entry: &Reverse<(Instant, u64, SessionId)>| {
                entry.0 == (session.planned, session.number, SessionId(id(key)))
            };
            assert!(self.clock.iter().any(is_planned), "every session expires");
        }
    }
}

fn release<K: Ord>(counters: &mut BTreeMap<K, usize>, key: K) {
    if let std::collections::btree_map::Entry::Occupied(mut entry) = counters.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}
