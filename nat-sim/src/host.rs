//! The TCP of one simulated host: smoltcp's state machine, one interface for each connection, and
//! what Linux does around it.
//!
//! smoltcp 0.14 opens simultaneously packet for packet as Linux does, but it needs care:
//!
//! - Segments are given to connections by our own demultiplexer: the exact pair of endpoints wins,
//!   else a listener makes a connection for this one SYN, else an RST goes out.
//! - A SYN|ACK in SYN-RECEIVED is first presented without its SYN, so that a simultaneous open
//!   takes two one-way trips, as on Linux, and not three.
//! - What is sent again, and when a window is probed, `sender` says, by Linux's times: smoltcp waits for a second at
//!   least, and never ends. There is no congestion control, and loss is repaired less cleverly than by Linux's SACK and
//!   RACK. **Throughput under loss is not Linux's in this lab.**
//! - SYNs are repeated by our layer at Linux's times, with its final time-out.
//! - A cancelled connection attempt is forgotten in silence.
//! - Initial sequence numbers grow with time for each pair of endpoints, as Linux's do: trackers in
//!   gateways tell a repeated SYN from a new one by them.
//! - In SYN-RECEIVED only an RST with the exact number counts; the SYN|ACK of a simultaneous open is
//!   repeated by the timer of its SYN.
//! - ICMP errors end an attempt if they quote its SYN, with Linux's errors.
//! - ICMP's report of a smaller MTU shrinks the segments of a connection, and those of later ones to the same host.
//! - Keep-alive sends Linux's probes and ends; the production code's look at what waits ends a connection as on Linux
//!   (`idle`). A closed window that is answered ends nothing.
//! - Acknowledgements are quick for the first sixteen and wait up to 40 ms where ends talk in turn.
//! - Bytes that come to a connection which its program has closed are answered by an RST. What has been closed is
//!   forgotten after 60 s in FIN_WAIT_2 and in TIME_WAIT, which gives way to a new connection of the same pair, as Linux
//!   with timestamps does.
//! - A program is told once why a connection has ended; then reads find its end, and writes a broken pipe.
//! - A listener holds one connection more than its backlog; a handshake that it has no room for stays half-open, and goes
//!   with it.

use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::Waker;
use std::time::Duration;

use fmi_net::time::Instant;
use foldhash::fast::FixedState;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;
use smoltcp::socket::tcp::State;

use crate::packet::{Fragment, IcmpError, Packet, Segment, TooBig, Transport};
use crate::topology::TcpConfig;

mod connection;
mod datagram;
mod idle;
mod power;
mod raw;
mod sender;
mod wire;

pub(crate) use connection::Connection;
use datagram::{Datagrams, Echoes};
pub use power::FROZEN_PACKETS_MAX;
use power::Power;
pub(crate) use raw::RawQueue;

/// When Linux (6.5 and later, default settings) sends a SYN, after the first, in seconds.
pub const SYN_TIMES: [u64; 11] = [0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 69];
/// When Linux gives a connection attempt up; measured.
pub const SYN_TIMEOUT: Duration = Duration::from_millis(134_500);
/// When a listener gives up a handshake that is not completed.
pub const SYN_RECEIVED_TIMEOUT: Duration = Duration::from_secs(63);
/// How long a connection that is closed on both sides is remembered (`TCP_TIMEWAIT_LEN`).
const TIME_WAIT_TIME: Duration = Duration::from_secs(60);
/// How long one whose program has closed it waits for the other end to do so (`tcp_fin_timeout`).
const FIN_WAIT_2_TIME: Duration = Duration::from_secs(60);
/// Handshakes of a listener that are not completed; Linux has cookies for more (`tcp_max_syn_backlog`).
const HALF_OPEN_MAX: usize = 1024;
/// How long the MTU of a path is remembered that a report told (`mtu_expires`).
const PATH_MTU_TIME: Duration = Duration::from_secs(600);
/// Paths whose MTU is remembered; that to the lowest address gives way.
const PATH_MTUS_MAX: usize = 1024;
/// First and last port that is chosen where none is asked for; Linux's range.
pub const EPHEMERAL_PORTS: (u16, u16) = (32_768, 60_999);
/// When the SYN|ACK of a simultaneous open is repeated, in seconds after the SYN.
pub const SYN_ACK_TIMES: [u64; 6] = [1, 3, 7, 15, 31, 63];

/// A connection of one host; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

#[derive(Debug, Default)]
pub(crate) struct ListenerState {
    backlog: usize,
    half_open: usize,
    /// Longest segment of what it accepts.
    segment_max: Option<u16>,
    /// Connections that nobody has accepted.
    ready: VecDeque<ConnectionId>,
    pub(crate) waker: Option<Waker>,
}

impl ListenerState {
    /// Linux compares before it adds: it holds one more than it was asked for.
    fn is_full(&self) -> bool {
        self.ready.len() > self.backlog
    }
}

/// What a host wants from the world after it has handled something.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Packets to send.
    pub(crate) packets: Vec<Packet>,
    /// Connection timers to set; each fires once.
    pub(crate) timers: Vec<(Instant, ConnectionId)>,
    /// Packets that the host had no room for.
    pub(crate) lost: u64,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) address: Ipv4Addr,
    addresses: Vec<IpAddr>,
    tcp: TcpConfig,
    pub(crate) entropy: ChaCha8Rng,
    power: Power,
    connections: BTreeMap<ConnectionId, Connection>,
    by_endpoints: BTreeMap<Endpoints, ConnectionId>,
    pub(crate) listeners: BTreeMap<ListenerId, ListenerState>,
    pub(crate) datagrams: BTreeMap<u16, Datagrams>,
    pub(crate) echoes: BTreeMap<u16, Echoes>,
    /// Takes all packets in place of this stack.
    pub(crate) raw: Option<RawQueue>,
    /// By remote address: the MTU, and until when it is remembered.
    path_mtus: BTreeMap<IpAddr, (usize, Instant)>,
    identification: u16,
    fragments: VecDeque<(Fragment, Vec<Packet>)>,
    /// Secret of this host's initial sequence numbers.
    isn_secret: u64,
    next: u64,
    /// Things that applications got done: the detector of no progress watches it.
    pub(crate) progress: u64,
    /// Resets of established connections that did not have the number that ends one.
    pub(crate) blind_resets: u64,
}

/// Wakes whoever waits, once.
fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// Local port and address, and the remote endpoint.
type Endpoints = (u16, IpAddr, SocketAddr);

fn endpoints(local: SocketAddr, remote: SocketAddr) -> Endpoints {
    (local.port(), local.ip(), remote)
}

/// A listener: its port, and its address unless it takes connections to all.
pub(crate) type ListenerId = (u16, Option<IpAddr>);

impl Host {
    pub(crate) fn new(address: Ipv4Addr, also: &[IpAddr], tcp: TcpConfig, mut entropy: ChaCha8Rng) -> Self {
        Self {
            address,
            addresses: std::iter::once(address.into()).chain(also.iter().copied()).collect(),
            tcp,
            datagrams: BTreeMap::new(),
            echoes: BTreeMap::new(),
            raw: None,
            path_mtus: BTreeMap::new(),
            identification: 0,
            fragments: VecDeque::new(),
            isn_secret: entropy.next_u64(),
            entropy,
            power: Power::On,
            connections: BTreeMap::new(),
            by_endpoints: BTreeMap::new(),
            listeners: BTreeMap::new(),
            next: 0,
            progress: 0,
            blind_resets: 0,
        }
    }

    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The own address from which a remote one is reached.
    fn address_for(&self, remote: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == remote.is_ipv4())
    }

    /// A number that grows by one in 64 ns from a start of its own for each pair of endpoints
    /// (RFC 6528), as Linux's.
    fn initial_number(&self, now: Instant, local: SocketAddr, remote: SocketAddr) -> u32 {
        let start = FixedState::with_seed(self.isn_secret).hash_one((local, remote));
        let ticks = start.wrapping_add(now.as_nanos() / 64) & u64::from(u32::MAX);
        u32::try_from(ticks).expect("masked")
    }

    pub(crate) fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    pub(crate) fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.connections.values()
    }

    fn free_port(&mut self, is_free: impl Fn(&Self, u16) -> bool) -> io::Result<u16> {
        let (low, high) = EPHEMERAL_PORTS;
        let count = u32::from(high - low) + 1;
        let start = self.entropy.next_u32() % count;
        let port = |offset| low + u16::try_from((start + offset) % count).expect("within the range");
        (0..count).map(port).find(|port| is_free(self, *port)).ok_or_else(|| io::ErrorKind::AddrInUse.into())
    }

    fn free_stream_port(&mut self) -> io::Result<u16> {
        self.free_port(|host, port| {
            let lowest = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
            let first = (port, Ipv4Addr::UNSPECIFIED.into(), lowest);
            let is_connected = host.by_endpoints.range(first..).next().is_some_and(|((used, ..), _)| *used == port);
            let listens = host.listeners.range((port, None)..).next().is_some_and(|((used, _), _)| *used == port);
            !is_connected && !listens
        })
    }

    /// Begins to connect.
    pub(crate) fn connect(
        &mut self,
        now: Instant,
        (local, remote): (SocketAddr, SocketAddr),
        segment_max: Option<u16>,
        effects: &mut Effects,
    ) -> io::Result<ConnectionId> {
        if !self.is_on() {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        let port = if local.port() == 0 { self.free_stream_port()? } else { local.port() };
        let own = self.address_for(remote.ip()).ok_or(io::ErrorKind::NetworkUnreachable)?;
        let local = SocketAddr::new(if local.ip().is_unspecified() { own } else { local.ip() }, port);
        if let Some(id) = self.by_endpoints.get(&endpoints(local, remote)).copied() {
            let replaceable = self.connections.get(&id).is_none_or(Connection::is_over);
            if !replaceable {
                return Err(io::ErrorKind::AddrNotAvailable.into());
            }
            self.forget(id);
        }
        let seeds = (self.entropy.next_u64(), self.initial_number(now, local, remote));
        let tcp = self.tcp.with_segment_max(segment_max, remote.is_ipv4());
        let connection = Connection::connect(now, tcp, local, remote, seeds)?;
        let id = self.insert(now, connection);
        self.service(now, id, None, effects);
        Ok(id)
    }

    fn insert(&mut self, now: Instant, mut connection: Connection) -> ConnectionId {
        if let Some((mtu, _)) = self.path_mtus.get(&connection.remote.ip()).filter(|(_, until)| now < *until) {
            connection.shrink(now, *mtu, &mut Vec::new());
        }
        let id = ConnectionId(self.next);
        self.next += 1;
        self.by_endpoints.insert(endpoints(connection.local, connection.remote), id);
        self.connections.insert(id, connection);
        id
    }

    pub(crate) fn listen(
        &mut self,
        local: SocketAddr,
        backlog: usize,
        segment_max: Option<u16>,
    ) -> io::Result<ListenerId> {
        if !self.is_on() {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        let port = if local.port() == 0 { self.free_stream_port()? } else { local.port() };
        let id = (port, (!local.ip().is_unspecified()).then_some(local.ip()));
        if self.listeners.contains_key(&id) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        self.listeners.insert(id, ListenerState { backlog, segment_max, ..ListenerState::default() });
        Ok(id)
    }

    /// Closes a listener. Connections that nobody accepted are reset, as on Linux; handshakes are forgotten in silence.
    pub(crate) fn close_listener(&mut self, now: Instant, id: ListenerId, effects: &mut Effects) {
        let Some(listener) = self.listeners.remove(&id) else { return };
        let is_half_open = |it: &Connection| it.listener() == Some(id) && !it.was_established();
        let half_open: Vec<_> =
            self.connections.iter().filter(|(_, connection)| is_half_open(connection)).map(|(id, _)| *id).collect();
        for id in half_open {
            self.forget(id);
        }
        for id in listener.ready {
            self.abandon(now, id, effects);
        }
    }

    /// The next connection that a listener has made.
    pub(crate) fn accept(&mut self, id: ListenerId) -> Option<ConnectionId> {
        let listener = self.listeners.get_mut(&id)?;
        let id = listener.ready.pop_front()?;
        self.progress += 1;
        Some(id)
    }

    /// A packet arrives.
    pub(crate) fn receive(&mut self, now: Instant, packet: Packet, effects: &mut Effects) {
        if !self.addresses.contains(&packet.destination()) {
            return;
        }
        let Some(packet) = self.power.take_in(packet, effects) else { return };
        if let Some(raw) = &mut self.raw {
            raw.packets.push_back(packet);
            wake(&mut raw.waker);
            return;
        }
        let packet = match packet.fragment() {
            None => packet,
            Some(fragment) => match self.gather(fragment, packet) {
                Some(whole) => whole,
                None => return,
            },
        };
        if let Some(error) = packet.icmp_error() {
            return self.receive_error(now, error, effects);
        }
        if let Some(error) = packet.icmpv6_too_big() {
            return self.receive_too_big(now, error, effects);
        }
        if let Some(echo) = packet.as_echo() {
            return self.receive_echo(now, echo, &packet, effects);
        }
        let Some((transport, source, destination)) = packet.endpoints() else { return };
        if transport == Transport::Udp {
            return self.receive_datagram(source, destination.port(), &packet, effects);
        }
        let Some(segment) = packet.segment() else { return };
        let endpoints = endpoints(destination, source);
        if let Some(id) = self.by_endpoints.get(&endpoints).copied() {
            let reopens =
                segment.syn && !segment.ack && self.connections.get(&id).is_some_and(|connection| connection.is_over());
            if !reopens {
                if self.has_no_room_for(id, segment) {
                    return;
                }
                self.service(now, id, Some((packet, segment)), effects);
                let survives = |connection: &Connection| connection.state() == State::Established;
                self.blind_resets += u64::from(segment.rst && self.connections.get(&id).is_some_and(survives));
                return;
            }
            self.forget(id);
        }
        if segment.is_first_syn() && self.knock(now, destination, source) {
            let id = self.by_endpoints[&endpoints];
            return self.service(now, id, Some((packet, segment)), effects);
        }
        let is_full = segment.syn && self.listener_for(destination).is_some();
        if !is_full {
            effects.packets.extend(packet.reset_reply());
        }
    }

    /// Makes a connection for a SYN if a listener has room for it.
    fn knock(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr) -> bool {
        let seeds = (self.entropy.next_u64(), self.initial_number(now, local, remote));
        let Some(id) = self.listener_for(local) else { return false };
        let Some(listener) = self.listeners.get_mut(&id) else { return false };
        if listener.is_full() || listener.half_open >= HALF_OPEN_MAX {
            return false;
        }
        let tcp = self.tcp.with_segment_max(listener.segment_max, remote.is_ipv4());
        let Ok(connection) = Connection::accept(now, tcp, local, remote, seeds, id) else { return false };
        listener.half_open += 1;
        self.insert(now, connection);
        true
    }

    /// Whether a segment would complete a handshake that its listener has no room for: it is dropped, as on Linux.
    fn has_no_room_for(&self, id: ConnectionId, segment: Segment) -> bool {
        let half_open = self.connections.get(&id).filter(|connection| !connection.was_established());
        let listener = half_open.and_then(Connection::listener).and_then(|id| self.listeners.get(&id));
        segment.ack && !segment.rst && listener.is_some_and(ListenerState::is_full)
    }

    /// What takes connections to a local endpoint.
    fn listener_for(&self, local: SocketAddr) -> Option<ListenerId> {
        let candidates = [(local.port(), Some(local.ip())), (local.port(), None)];
        candidates.into_iter().find(|id| self.listeners.contains_key(id))
    }

    fn receive_error(&mut self, now: Instant, error: IcmpError, effects: &mut Effects) {
        let (local, remote) = (error.quoted.source.into(), error.quoted.destination.into());
        if error.quoted.transport != Transport::Tcp {
            return;
        }
        if (error.kind, error.code) == FRAGMENTATION_NEEDED {
            let report = TooBig { local, remote, sequence: error.sequence, mtu: u32::from(error.mtu) };
            return self.receive_too_big(now, report, effects);
        }
        let Some(id) = self.by_endpoints.get(&endpoints(local, remote)).copied() else { return };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(kind) = kind_of(error) else { return };
        if connection.is_quoted(error.sequence) && connection.fail_opening(kind) {
            self.reap(id);
        }
    }

    /// A router on the way has no room for a segment of ours (RFC 1191, RFC 8201), if we have sent it.
    fn receive_too_big(&mut self, now: Instant, report: TooBig, effects: &mut Effects) {
        let TooBig { local, remote, sequence, mtu } = report;
        let Some(id) = self.by_endpoints.get(&endpoints(local, remote)).copied() else { return };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let mtu = usize::try_from(mtu).unwrap_or(usize::MAX);
        // Linux takes no report below what every network carries for a true one.
        if !connection.is_quoted(sequence) || mtu < MTU_MIN {
            return;
        }
        connection.shrink(now, mtu, &mut effects.packets);
        if self.path_mtus.len() >= PATH_MTUS_MAX {
            self.path_mtus.pop_first();
        }
        self.path_mtus.insert(remote.ip(), (mtu, now + PATH_MTU_TIME));
        self.service(now, id, None, effects);
    }

    /// A connection timer fires.
    pub(crate) fn timer(&mut self, now: Instant, id: ConnectionId, effects: &mut Effects) {
        if self.power.postpones(id) {
            return;
        }
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
            if let Some(listener) = connection.listener() {
                match self.listeners.get_mut(&listener) {
                    Some(listener) => {
                        listener.half_open -= 1;
                        listener.ready.push_back(id);
                        wake(&mut listener.waker);
                    }
                    None => self.abandon(now, id, effects),
                }
            }
        }
        self.reap(id);
    }

    /// The application closes a connection gracefully.
    pub(crate) fn close(&mut self, now: Instant, id: ConnectionId, effects: &mut Effects) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.detach() {
            self.service(now, id, None, effects);
        } else {
            // An attempt to connect that is given up leaves no trace on the wire.
            self.forget(id);
        }
    }

    /// Ends a connection by a reset.
    pub(crate) fn abandon(&mut self, now: Instant, id: ConnectionId, effects: &mut Effects) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.abort();
            self.service(now, id, None, effects);
        }
    }

    /// Forgets a connection that nobody holds and that has ended.
    fn reap(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        if connection.state() != State::Closed && connection.state() != State::Listen {
            return;
        }
        if (connection.listener().is_some() && !connection.was_established()) || connection.is_detached() {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.remove(&id) {
            let half_open = connection.listener().filter(|_| !connection.was_established());
            if let Some(listener) = half_open.and_then(|id| self.listeners.get_mut(&id)) {
                listener.half_open -= 1;
            }
            let endpoints = endpoints(connection.local, connection.remote);
            if self.by_endpoints.get(&endpoints) == Some(&id) {
                self.by_endpoints.remove(&endpoints);
            }
        }
    }
}

/// Type and code of ICMP's report of a smaller MTU.
const FRAGMENTATION_NEEDED: (u8, u8) = (3, 4);
/// The least MTU of IPv4 (RFC 791).
const MTU_MIN: usize = 68;

/// What Linux makes of an ICMP error on a connection that is being opened; measured. [`FRAGMENTATION_NEEDED`] is none.
fn kind_of(error: IcmpError) -> Option<io::ErrorKind> {
    match (error.kind, error.code) {
        (3, 3) => Some(io::ErrorKind::ConnectionRefused),
        (3, 0 | 6 | 9 | 11) => Some(io::ErrorKind::NetworkUnreachable),
        (3, 5) => Some(io::ErrorKind::Unsupported),
        // ENOPROTOOPT, EHOSTDOWN, ENONET and EPROTO have no kind of their own.
        (3, 2 | 7 | 8) | (12, 0) => Some(io::ErrorKind::Other),
        (3, 0..=15) | (11, 0) => Some(io::ErrorKind::HostUnreachable),
        _ => None,
    }
}
