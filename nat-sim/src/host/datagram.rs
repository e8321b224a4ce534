//! UDP and ICMP echo of one simulated host.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::Waker;

use fmi_net::time::Instant;

use super::{Effects, Host, wake};
use crate::packet::{Echo, Fragment, Packet};

/// Bytes of datagrams that wait to be read; Linux's default is about the same.
const QUEUED_BYTES_MAX: usize = 208 << 10;
/// The largest payload of a datagram over IPv4 (RFC 768).
const PAYLOAD_BYTES_MAX: usize = 65_507;

/// Datagrams of which fragments wait for the others; the oldest gives way.
const GATHERED_MAX: usize = 64;

/// A bound UDP socket.
#[derive(Debug, Default)]
pub(crate) struct Datagrams {
    queue: VecDeque<(SocketAddr, Vec<u8>)>,
    bytes: usize,
    pub(crate) waker: Option<Waker>,
}

/// Echo requests of one identifier that wait for replies.
#[derive(Debug, Default)]
pub(crate) struct Echoes {
    pub(crate) answered: Vec<(u16, Instant)>,
    pub(crate) waker: Option<Waker>,
}

impl Host {
    /// Binds a UDP port, a free one for 0.
    pub(crate) fn bind_datagrams(&mut self, port: u16) -> io::Result<u16> {
        if !self.is_on() {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        let port = if port == 0 { self.free_port(|host, port| !host.datagrams.contains_key(&port))? } else { port };
        if self.datagrams.contains_key(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        self.datagrams.insert(port, Datagrams::default());
        Ok(port)
    }

    pub(crate) fn send_datagram(
        &mut self,
        port: u16,
        to: SocketAddr,
        payload: &[u8],
        effects: &mut Effects,
    ) -> io::Result<()> {
        if !self.is_on() {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let from = self.address_for(to.ip()).ok_or(io::ErrorKind::NetworkUnreachable)?;
        let packet = Packet::udp(SocketAddr::new(from, port), to, payload);
        if packet.bytes().len() > self.tcp.mtu && packet.is_v4() {
            let room = (self.tcp.mtu - 20) & !7;
            self.identification = self.identification.wrapping_add(1);
            effects.packets.extend(packet.fragments(room, self.identification));
        } else {
            effects.packets.push(packet);
        }
        Ok(())
    }

    pub(crate) fn take_datagram(&mut self, port: u16) -> Option<(SocketAddr, Vec<u8>)> {
        let socket = self.datagrams.get_mut(&port)?;
        let (from, payload) = socket.queue.pop_front()?;
        socket.bytes -= payload.len();
        self.progress += 1;
        Some((from, payload))
    }

    pub(super) fn receive_datagram(&mut self, from: SocketAddr, port: u16, packet: &Packet, effects: &mut Effects) {
        let Some(socket) = self.datagrams.get_mut(&port) else {
            if let IpAddr::V4(address) = packet.destination() {
                effects.packets.extend(packet.unreachable_reply(address, 3));
            }
            return;
        };
        let payload = packet.payload();
        if socket.bytes + payload.len() <= QUEUED_BYTES_MAX {
            socket.bytes += payload.len();
            socket.queue.push_back((from, payload.to_vec()));
            wake(&mut socket.waker);
        }
    }

    /// Keeps a fragment until its datagram is whole.
    pub(super) fn gather(&mut self, fragment: Fragment, packet: Packet) -> Option<Packet> {
        let key = Fragment { offset: 0, more: false, ..fragment };
        let at = self.fragments.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            if self.fragments.len() >= GATHERED_MAX {
                self.fragments.pop_front();
            }
            self.fragments.push_back((key, Vec::new()));
            self.fragments.len() - 1
        });
        let parts = &mut self.fragments[at].1;
        parts.push(packet);
        let whole = Packet::reassembled(parts)?;
        self.fragments.remove(at);
        Some(whole)
    }

    /// Asks for an echo. The identifier must be this host's own, from [`Host::echo_identifier`].
    pub(crate) fn send_echo(&mut self, to: Ipv4Addr, identifier: u16, sequence: u16, effects: &mut Effects) {
        let echo = Echo { is_request: true, identifier, sequence };
        effects.packets.push(Packet::echo(self.address, to, echo, b"fmi"));
    }

    pub(crate) fn echo_identifier(&mut self) -> u16 {
        let mut identifier = 1;
        while self.echoes.contains_key(&identifier) {
            identifier += 1;
        }
        self.echoes.insert(identifier, Echoes::default());
        identifier
    }

    pub(super) fn receive_echo(&mut self, now: Instant, echo: Echo, packet: &Packet, effects: &mut Effects) {
        if echo.is_request {
            effects.packets.extend(packet.echo_reply());
        } else if let Some(asked) = self.echoes.get_mut(&echo.identifier) {
            asked.answered.push((echo.sequence, now));
            wake(&mut asked.waker);
        }
    }
}
