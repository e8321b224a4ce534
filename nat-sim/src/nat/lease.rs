//! Ports that hosts have asked for: UPnP IGD, NAT-PMP, PCP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::time::Duration;

use fmi_net::time::Instant;

use super::Nat;
use crate::packet::Transport;

type Key = (Transport, SocketAddrV4);

/// Leases by external and by internal endpoint, and when they end.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    by_external: BTreeMap<Key, (SocketAddrV4, Instant)>,
    by_internal: BTreeMap<Key, SocketAddrV4>,
    ends: BTreeSet<(Instant, Key)>,
}

impl Leases {
    /// The host that holds an external endpoint.
    pub(super) fn holder(&self, transport: Transport, external: SocketAddrV4) -> Option<SocketAddrV4> {
        self.by_external.get(&(transport, external)).map(|(holder, _)| *holder)
    }

    /// What an internal endpoint holds.
    pub(super) fn held_by(&self, transport: Transport, internal: SocketAddrV4) -> Option<SocketAddrV4> {
        self.by_internal.get(&(transport, internal)).copied()
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(until, key)) = self.ends.first() {
            if until > now {
                return;
            }
            self.end(key);
        }
    }

    fn end(&mut self, key: Key) {
        if let Some((internal, until)) = self.by_external.remove(&key) {
            self.ends.remove(&(until, key));
            self.by_internal.remove(&(key.0, internal));
        }
    }

    fn grant(&mut self, transport: Transport, external: SocketAddrV4, internal: SocketAddrV4, until: Instant) {
        // A host that asks anew lets go of what it held.
        if let Some(old) = self.held_by(transport, internal) {
            self.end((transport, old));
        }
        self.by_external.insert((transport, external), (internal, until));
        self.by_internal.insert((transport, internal), external);
        self.ends.insert((until, (transport, external)));
    }
}

impl Nat {
    /// Gives a host a port for a time: everybody may send to it. Returns the external endpoint; `None`
    /// if the gateway takes no such wishes, or no port is free.
    pub fn map_port(
        &mut self,
        now: Instant,
        transport: Transport,
        internal: SocketAddrV4,
        wanted: u16,
        lifetime: Duration,
    ) -> Option<SocketAddrV4> {
        self.expire(now);
        if !self.config.port_control {
            return None;
        }
        let at = |port: u16| SocketAddrV4::new(self.external(), port);
        let is_free = |port: &u16| match self.leases.holder(transport, at(*port)) {
            Some(holder) => holder == internal,
            None => self.tables.mappings_at(transport, at(*port)).is_empty(),
        };
        let port = (wanted.max(1)..=u16::MAX).chain(1024..wanted).find(is_free)?;
        let external = at(port);
        self.leases.grant(transport, external, internal, now + lifetime);
        Some(external)
    }
}
