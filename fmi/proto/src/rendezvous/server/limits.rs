//! Limits on what clients cost: connections in all, of an address and of a network, and messages of a connection.

use std::net::{IpAddr, SocketAddr};

use super::{Client, Connection, Output, Server, State};
use crate::bucket::Bucket;
use crate::places::prefix;
use crate::rendezvous::{Refusal, SIZE_MAX, ServerMessage};
use fmi_net::time::Instant;

/// Messages of one client a second, on average; ranks that wait send one.
const MESSAGES_PER_SECOND: u64 = 64;
/// The same at once: a rank may report a broken connection to each other one, and more happen meanwhile.
const MESSAGES_BURST: u64 = 2 * SIZE_MAX as u64;

impl Client {
    /// Whether nothing depends on it but its own wait. Members of a session are watched by it, and relayed pairs talk.
    pub(super) fn gives_way(&self) -> bool {
        match self.state {
            State::Unregistered
            | State::Discovering { .. }
            | State::Waiting { .. }
            | State::Vouching(_)
            | State::Relaying { .. }
            | State::Contending { .. } => true,
            State::Relayed | State::Member { .. } => false,
        }
    }
}

impl Server {
    pub(super) fn open(&mut self, now: Instant, connection: Connection, from: SocketAddr) {
        if self.clients.contains_key(&connection) {
            return;
        }
        let of_source = self.sources.get(&source(from.ip())).copied().unwrap_or(0);
        let is_full = of_source >= self.config.connections_per_source_max;
        if is_full || !self.may_connect(now, from.ip()) || !self.has_place_for(now, from.ip()) {
            self.outputs.push_back(Output::Send(connection, ServerMessage::Refused(Refusal::Busy)));
            self.outputs.push_back(Output::Close(connection));
            return;
        }
        *self.sources.entry(source(from.ip())).or_default() += 1;
        self.places.take(from.ip(), connection);
        let messages = Bucket::new(now, MESSAGES_PER_SECOND, MESSAGES_BURST);
        self.clients.insert(connection, Client { from, state: State::Unregistered, deadline: None, messages });
        self.set_deadline(connection, now + self.config.register_within);
    }

    /// Whether one more connection fits, if need be in the place of one that waits from the network that has most.
    fn has_place_for(&mut self, now: Instant, from: IpAddr) -> bool {
        if self.clients.len() >= self.config.connections_max
            && let Some(other) = self.places.yields_to(from)
        {
            self.refuse(now, other, Refusal::Busy);
        }
        self.clients.len() < self.config.connections_max
    }

    /// Counts a connection against the rate of its prefix.
    fn may_connect(&mut self, now: Instant, from: IpAddr) -> bool {
        let (rate, burst) = (self.config.connections_per_second, self.config.connections_burst);
        if self.rates.len() > self.config.connections_max {
            self.rates.retain(|_, bucket| !bucket.is_full(now));
        }
        self.rates.entry(prefix(from)).or_insert_with(|| Bucket::new(now, rate, burst)).take(now, 1)
    }

    /// Counts a message of a client; `None` if it has been closed.
    pub(super) fn may_speak(&mut self, now: Instant, connection: Connection) -> Option<bool> {
        self.clients.get_mut(&connection).map(|client| client.messages.take(now, 1))
    }

    /// Takes a connection out of the books that all connections are in.
    pub(super) fn drop_client(&mut self, connection: Connection) -> Option<Client> {
        self.clear_deadline(connection);
        let client = self.clients.remove(&connection)?;
        self.places.give_back(client.from.ip(), connection);
        let source = source(client.from.ip());
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
        Some(client)
    }
}

/// What connections are counted by: an address, of which one owner has many in IPv6.
fn source(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { ip } else { prefix(ip) }
}
