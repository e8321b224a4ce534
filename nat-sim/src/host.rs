//! The TCP of one simulated host: smoltcp's state machine, one interface for each connection, and
//! what Linux does around it.
//!
//! smoltcp 0.14 opens simultaneously packet for packet as Linux does, but it needs care:
//!
//! - Segments are given to connections by our own demultiplexer: the exact pair of endpoints wins,
//!   else a listener makes a connection for this one SYN, else an RST goes out.
//! - A SYN|ACK in SYN-RECEIVED is first presented without its SYN, so that a simultaneous open
//!   takes two one-way trips, as on Linux, and not three.
//! - Repeated acknowledgements are kept from a connection that waits for its FIN to be
//!   acknowledged; the third one would stop the FIN's timer.
//! - No congestion control: with Reno or Cubic two ends of smoltcp that both lost data can send each
//!   other old segments for ever; without, they retransmit their whole window and finish. **Throughput
//!   under loss is not Linux's in this lab.**
//! - SYNs are repeated by our layer at Linux's times, with its final time-out.
//! - A cancelled connection attempt is forgotten in silence.
//! - TIME_WAIT gives way to a new connection of the same pair, as Linux with timestamps does. It
//!   lasts 10 s, not 60.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::task::Waker;
use std::time::Duration;

use fmi::time::Instant;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;
use smoltcp::socket::tcp::State;

use crate::packet::{IcmpError, Packet, Segment};
use crate::topology::TcpConfig;

mod connection;

pub(crate) use connection::Connection;

/// When Linux (6.5 and later, default settings) sends a SYN, after the first, in seconds.
pub const SYN_TIMES: [u64; 11] = [0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 69];
/// When Linux gives a connection attempt up; measured.
pub const SYN_TIMEOUT: Duration = Duration::from_millis(134_500);
/// When a listener gives up a handshake that is not completed.
pub const SYN_RECEIVED_TIMEOUT: Duration = Duration::from_secs(63);
/// First and last port that is chosen where none is asked for; Linux's range.
pub const EPHEMERAL_PORTS: (u16, u16) = (32_768, 60_999);

/// A connection of one host; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

#[derive(Debug, Default)]
pub(crate) struct ListenerState {
    backlog: usize,
    /// Handshakes begun and connections not accepted.
    pending: usize,
    ready: VecDeque<ConnectionId>,
    pub(crate) waker: Option<Waker>,
}

/// What a host wants from the world after it has handled something.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Packets to send.
    pub(crate) packets: Vec<Packet>,
    /// Connection timers to set; each fires once.
    pub(crate) timers: Vec<(Instant, ConnectionId)>,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) address: Ipv4Addr,
    tcp: TcpConfig,
    pub(crate) entropy: ChaCha8Rng,
    pub(crate) alive: bool,
    connections: BTreeMap<ConnectionId, Connection>,
    by_endpoints: BTreeMap<(u16, SocketAddrV4), ConnectionId>,
    pub(crate) listeners: BTreeMap<u16, ListenerState>,
    next: u64,
    /// Things that applications got done: the detector of no progress watches it.
    pub(crate) progress: u64,
}

impl Host {
    pub(crate) fn new(address: Ipv4Addr, tcp: TcpConfig, entropy: ChaCha8Rng) -> Self {
        Self {
            address,
            tcp,
            entropy,
            alive: true,
            connections: BTreeMap::new(),
            by_endpoints: BTreeMap::new(),
            listeners: BTreeMap::new(),
            next: 0,
            progress: 0,
        }
    }

    /// Everything ends without a packet, as when the machine's power is cut.
    pub(crate) fn kill(&mut self) {
        self.alive = false;
        self.connections.clear();
        self.by_endpoints.clear();
        self.listeners.clear();
    }

    pub(crate) fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    pub(crate) fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.connections.values()
    }

    fn free_port(&mut self) -> io::Result<u16> {
        let (low, high) = EPHEMERAL_PORTS;
        let count = u32::from(high - low) + 1;
        let start = self.entropy.next_u32() % count;
        let port = |offset| low + u16::try_from((start + offset) % count).expect("within the range");
        let is_free = |port: &u16| {
            let lowest = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
            !self.listeners.contains_key(port)
                && self.by_endpoints.range((*port, lowest)..).next().is_none_or(|((used, _), _)| used != port)
        };
        (0..count).map(port).find(is_free).ok_or_else(|| io::ErrorKind::AddrInUse.into())
    }

    /// Begins to connect.
    pub(crate) fn connect(
        &mut self,
        now: Instant,
        local_port: u16,
        remote: SocketAddrV4,
        effects: &mut Effects,
    ) -> io::Result<ConnectionId> {
        if !self.alive {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        let port = if local_port == 0 { self.free_port()? } else { local_port };
        if let Some(id) = self.by_endpoints.get(&(port, remote)).copied() {
            let replaceable = self.connections.get(&id).is_none_or(Connection::is_over);
            if !replaceable {
                return Err(io::ErrorKind::AddrNotAvailable.into());
            }
            self.forget(id);
        }
        let local = SocketAddrV4::new(self.address, port);
        let seed = self.entropy.next_u64();
        let connection = Connection::connect(now, self.tcp, local, remote, seed)?;
        let id = self.insert(connection);
        self.service(now, id, None, effects);
        Ok(id)
    }

    fn insert(&mut self, connection: Connection) -> ConnectionId {
        let id = ConnectionId(self.next);
        self.next += 1;
        self.by_endpoints.insert((connection.local.port(), connection.remote), id);
        self.connections.insert(id, connection);
        id
    }

    pub(crate) fn listen(&mut self, port: u16, backlog: usize) -> io::Result<u16> {
        if !self.alive {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        let port = if port == 0 { self.free_port()? } else { port };
        if self.listeners.contains_key(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        self.listeners.insert(port, ListenerState { backlog: backlog.max(1), ..ListenerState::default() });
        Ok(port)
    }

    /// Closes a listener; connections that nobody accepted are reset, as on Linux.
    pub(crate) fn close_listener(&mut self, now: Instant, port: u16, effects: &mut Effects) {
        let Some(listener) = self.listeners.remove(&port) else { return };
        for id in listener.ready {
            self.abandon(now, id, effects);
        }
    }

    /// The next connection that a listener has made.
    pub(crate) fn accept(&mut self, port: u16) -> Option<ConnectionId> {
        let listener = self.listeners.get_mut(&port)?;
        let id = listener.ready.pop_front()?;
        listener.pending -= 1;
        self.progress += 1;
        Some(id)
    }

    /// A packet arrives.
    pub(crate) fn receive(&mut self, now: Instant, packet: Packet, effects: &mut Effects) {
        if !self.alive || packet.destination() != self.address {
            return;
        }
        if let Some(error) = packet.icmp_error() {
            return self.receive_error(error);
        }
        let (Some(flow), Some(segment)) = (packet.flow(), packet.segment()) else { return };
        let endpoints = (flow.destination.port(), flow.source);
        if let Some(id) = self.by_endpoints.get(&endpoints).copied() {
            let reopens =
                segment.syn && !segment.ack && self.connections.get(&id).is_some_and(|connection| connection.is_over());
            if !reopens {
                return self.service(now, id, Some((packet, segment)), effects);
            }
            self.forget(id);
        }
        if segment.syn && !segment.ack && !segment.rst && self.knock(now, flow.destination, flow.source) {
            let id = self.by_endpoints[&endpoints];
            return self.service(now, id, Some((packet, segment)), effects);
        }
        let is_full = segment.syn && self.listeners.contains_key(&flow.destination.port());
        if !is_full {
            effects.packets.extend(packet.reset_reply());
        }
    }

    /// Makes a connection for a SYN if a listener has room for it.
    fn knock(&mut self, now: Instant, local: SocketAddrV4, remote: SocketAddrV4) -> bool {
        let Some(listener) = self.listeners.get_mut(&local.port()) else { return false };
        if listener.pending >= listener.backlog {
            return false;
        }
        let seed = self.entropy.next_u64();
        let Ok(connection) = Connection::accept(now, self.tcp, local, remote, seed) else { return false };
        listener.pending += 1;
        self.insert(connection);
        true
    }

    fn receive_error(&mut self, error: IcmpError) {
        let endpoints = (error.quoted.source.port(), error.quoted.destination);
        let Some(id) = self.by_endpoints.get(&endpoints).copied() else { return };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(kind) = kind_of(error) else { return };
        if connection.fail_opening(kind) {
            self.reap(id);
        }
    }

    /// A connection timer fires.
    pub(crate) fn timer(&mut self, now: Instant, id: ConnectionId, effects: &mut Effects) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.timer_is_due(now)
        {
            self.service(now, id, None, effects);
        }
    }

    /// Lets a connection take a segment and do what is due; then draws the consequences.
    pub(crate) fn service(
        &mut self,
        now: Instant,
        id: ConnectionId,
        incoming: Option<(Packet, Segment)>,
        effects: &mut Effects,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let was_open = connection.was_established();
        connection.service(now, incoming, &mut effects.packets);
        if let Some(at) = connection.next_timer() {
            effects.timers.push((at, id));
        }
        if !was_open && connection.was_established() {
            self.progress += 1;
            if connection.is_passive() {
                let port = connection.local.port();
                match self.listeners.get_mut(&port) {
                    Some(listener) => {
                        listener.ready.push_back(id);
                        if let Some(waker) = listener.waker.take() {
                            waker.wake();
                        }
                    }
                    None => self.abandon(now, id, effects),
                }
            }
        }
        self.reap(id);
    }

    /// The application lets go of a connection in good order.
    pub(crate) fn close(&mut self, now: Instant, id: ConnectionId, effects: &mut Effects) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.detach() {
            self.service(now, id, None, effects);
        } else {
            // An attempt to connect that is given up leaves no trace on the wire.
            self.forget(id);
        }
    }

    fn abandon(&mut self, now: Instant, id: ConnectionId, effects: &mut Effects) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.abort();
            self.service(now, id, None, effects);
        }
    }

    /// Forgets a connection that nobody holds and that is over.
    fn reap(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        if connection.state() != State::Closed && connection.state() != State::Listen {
            return;
        }
        let passive_and_unopened = connection.is_passive() && !connection.was_established();
        if passive_and_unopened && let Some(listener) = self.listeners.get_mut(&connection.local.port()) {
            listener.pending -= 1;
        }
        if passive_and_unopened || connection.is_detached() {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.remove(&id) {
            let endpoints = (connection.local.port(), connection.remote);
            if self.by_endpoints.get(&endpoints) == Some(&id) {
                self.by_endpoints.remove(&endpoints);
            }
        }
    }
}

/// What Linux makes of an ICMP error on a connection that is being opened; measured.
fn kind_of(error: IcmpError) -> Option<io::ErrorKind> {
    match (error.kind, error.code) {
        (3, 3) => Some(io::ErrorKind::ConnectionRefused),
        (3, 0 | 6 | 9 | 11) => Some(io::ErrorKind::NetworkUnreachable),
        (3, 4) => None,
        (3, _) | (11, 0) => Some(io::ErrorKind::HostUnreachable),
        _ => None,
    }
}
