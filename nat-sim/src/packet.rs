//! IP packets as bytes on a wire, with valid checksums: IPv4 in full, IPv6 as far as it goes through
//! a gateway untranslated.
#![expect(clippy::wildcard_enum_match_arm, reason = "protocol numbers are an open set")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, TcpControl, TcpPacket, TcpRepr,
    TcpSeqNumber, UdpPacket, UdpRepr,
};

/// Time to live of packets that a host sends.
pub const HOP_LIMIT: u8 = 64;

/// Transport of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo. Its identifier takes the place of the port of the side that asks; the other end has port 0.
    Icmp,
}

/// Transport and both endpoints of an IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Transport.
    pub transport: Transport,
    /// Source.
    pub source: SocketAddrV4,
    /// Destination.
    pub destination: SocketAddrV4,
}

impl Flow {
    /// The flow of the answer.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { transport: self.transport, source: self.destination, destination: self.source }
    }
}

/// Flags and numbers of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// SYN.
    pub syn: bool,
    /// ACK.
    pub ack: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Window field.
    pub window: u16,
    /// Bytes of payload.
    pub payload: usize,
}

impl Segment {
    /// Without flags, numbers and bytes: for others to begin with.
    pub const NONE: Self =
        Self { syn: false, ack: false, fin: false, rst: false, sequence: 0, acknowledgement: 0, window: 0, payload: 0 };

    /// Sequence number behind the segment.
    pub fn end(&self) -> u32 {
        let payload = u32::try_from(self.payload).expect("a packet is below 64 KiB");
        self.sequence.wrapping_add(payload + u32::from(self.syn) + u32::from(self.fin))
    }

    /// Whether it asks for a connection.
    pub fn is_first_syn(&self) -> bool {
        self.syn && !self.ack && !self.rst
    }

    /// Whether a sane TCP sends these flags together.
    pub fn has_sane_flags(&self) -> bool {
        match (self.syn, self.fin, self.rst, self.ack) {
            (true, false, false, _) | (false, false, true, _) => true,
            (false, _, false, true) => true,
            (true, ..) | (false, true, ..) | (false, false, false, false) => false,
        }
    }
}

mod error;
mod fragment;

pub use error::IcmpError;
pub(crate) use error::TooBig;
pub use fragment::Fragment;

/// Options of a TCP segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// The window scale that a SYN offers (RFC 7323).
    pub window_scale: Option<u8>,
    /// Whether a SYN permits selective acknowledgements (RFC 2018).
    pub sack_permitted: bool,
    /// The highest selectively acknowledged edge.
    pub sack_edge: Option<u32>,
}

/// An echo request or reply (RFC 792).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Whether it asks.
    pub is_request: bool,
    /// Which question of the asker it belongs to.
    pub identifier: u16,
    /// Number of the question.
    pub sequence: u16,
}

/// One IP packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet(Vec<u8>);

/// Length of an IPv4 header without options, which is the only kind here.
const IP_HEADER: usize = 20;
/// Length of an IPv6 header.
const IPV6_HEADER: usize = 40;
fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded to 16 bits")
}

/// RFC 1624, equation 3: the checksum after one 16-bit word changed.
fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u32::from(!checksum) + u32::from(!old) + u32::from(new))
}

fn is_whole(protocol: IpProtocol, payload: &[u8], is_v4: bool) -> bool {
    match protocol {
        IpProtocol::Tcp => TcpPacket::new_checked(payload).is_ok(),
        IpProtocol::Udp => UdpPacket::new_checked(payload).is_ok(),
        IpProtocol::Icmp => is_v4 && Icmpv4Packet::new_checked(payload).is_ok(),
        IpProtocol::Icmpv6 => !is_v4 && error::is_too_big(payload),
        _ => false,
    }
}

impl Packet {
    /// Takes bytes that came off a wire.
    ///
    /// Accepts IPv4 without options and IPv6 without extension headers whose lengths are consistent
    /// and whose transport header is whole, and fragments of IPv4; gives anything else back. Of ICMPv6 it accepts
    /// reports that a packet was too big.
    ///
    /// # Errors
    /// The bytes themselves.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Vec<u8>> {
        if bytes.first().is_some_and(|first| first >> 4 == 6) {
            let whole = Ipv6Packet::new_checked(&bytes[..])
                .is_ok_and(|ip| ip.total_len() == bytes.len() && is_whole(ip.next_header(), ip.payload(), false));
            return if whole { Ok(Self(bytes)) } else { Err(bytes) };
        }
        let Ok(ip) = Ipv4Packet::new_checked(&bytes[..]) else { return Err(bytes) };
        let is_sound = usize::from(ip.header_len()) == IP_HEADER
            && usize::from(ip.total_len()) == bytes.len()
            && ip.version() == 4;
        let is_fragment = ip.more_frags() || ip.frag_offset() != 0;
        let whole = if is_fragment {
            // The first one must show its ports; any but the last has a length in units of 8 bytes.
            let length = bytes.len().saturating_sub(IP_HEADER);
            let end = usize::from(ip.frag_offset()) + length;
            let shows_ports = ip.frag_offset() != 0 || length >= IP_HEADER;
            shows_ports && length > 0 && end <= 65_535 && (!ip.more_frags() || length.is_multiple_of(8))
        } else {
            is_sound && is_whole(ip.next_header(), ip.payload(), true)
        };
        if is_sound && whole { Ok(Self(bytes)) } else { Err(bytes) }
    }

    /// Builds a TCP segment; `segment.payload` is ignored in favour of `payload`.
    pub fn tcp(source: SocketAddrV4, destination: SocketAddrV4, segment: Segment, payload: &[u8]) -> Self {
        Self::tcp_between(source.into(), destination.into(), segment, payload)
    }

    pub(crate) fn tcp_between(source: SocketAddr, destination: SocketAddr, segment: Segment, payload: &[u8]) -> Self {
        let tcp = TcpRepr {
            src_port: source.port(),
            dst_port: destination.port(),
            control: TcpControl::None,
            seq_number: sequence_number(segment.sequence),
            ack_number: segment.ack.then(|| sequence_number(segment.acknowledgement)),
            window_len: segment.window,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload,
        };
        Self::build(source.ip(), destination.ip(), IpProtocol::Tcp, tcp.buffer_len(), |bytes| {
            let (source, destination) = (source.ip().into(), destination.ip().into());
            let mut packet = TcpPacket::new_unchecked(bytes);
            tcp.emit(&mut packet, &source, &destination, &ChecksumCapabilities::ignored());
            // Any combination, sane or not.
            packet.set_syn(segment.syn);
            packet.set_fin(segment.fin);
            packet.set_rst(segment.rst);
            packet.fill_checksum(&source, &destination);
        })
    }

    /// Builds a UDP datagram. IPv4 and IPv6 do not mix: both ends must be of one family.
    pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Self {
        let repr = UdpRepr { src_port: source.port(), dst_port: destination.port() };
        let length = repr.header_len() + payload.len();
        Self::build(source.ip(), destination.ip(), IpProtocol::Udp, length, |bytes| {
            repr.emit(
                &mut UdpPacket::new_unchecked(bytes),
                &source.ip().into(),
                &destination.ip().into(),
                payload.len(),
                |to| to.copy_from_slice(payload),
                &ChecksumCapabilities::default(),
            );
        })
    }

    /// Builds an ICMP echo request or reply.
    pub fn echo(source: Ipv4Addr, destination: Ipv4Addr, echo: Echo, payload: &[u8]) -> Self {
        let (ident, seq_no, data) = (echo.identifier, echo.sequence, payload);
        let icmp = if echo.is_request {
            Icmpv4Repr::EchoRequest { ident, seq_no, data }
        } else {
            Icmpv4Repr::EchoReply { ident, seq_no, data }
        };
        Self::icmp(source, destination, &icmp)
    }

    fn icmp(source: Ipv4Addr, destination: Ipv4Addr, icmp: &Icmpv4Repr<'_>) -> Self {
        Self::build(source.into(), destination.into(), IpProtocol::Icmp, icmp.buffer_len(), |bytes| {
            icmp.emit(&mut Icmpv4Packet::new_unchecked(bytes), &ChecksumCapabilities::default());
        })
    }

    fn build(
        source: IpAddr,
        destination: IpAddr,
        next_header: IpProtocol,
        payload_len: usize,
        emit: impl FnOnce(&mut [u8]),
    ) -> Self {
        let hop_limit = HOP_LIMIT;
        match (source, destination) {
            (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
                let ip = Ipv4Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
                let mut bytes = vec![0; IP_HEADER + payload_len];
                ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &ChecksumCapabilities::default());
                emit(&mut bytes[IP_HEADER..]);
                Self(bytes)
            }
            (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
                let ip = Ipv6Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
                let mut bytes = vec![0; IPV6_HEADER + payload_len];
                ip.emit(&mut Ipv6Packet::new_unchecked(&mut bytes[..]));
                emit(&mut bytes[IPV6_HEADER..]);
                Self(bytes)
            }
            (source, destination) => panic!("{source} and {destination} are of two families"),
        }
    }

    /// The bytes on the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is an IPv4 packet.
    pub fn is_v4(&self) -> bool {
        self.0[0] >> 4 == 4
    }

    fn ip(&self) -> Ipv4Packet<&[u8]> {
        Ipv4Packet::new_unchecked(&self.0[..])
    }

    fn protocol(&self) -> IpProtocol {
        IpProtocol::from(if self.is_v4() { self.0[9] } else { self.0[6] })
    }

    /// Where the transport header begins.
    fn header(&self) -> usize {
        if self.is_v4() { IP_HEADER } else { IPV6_HEADER }
    }

    /// Source address.
    pub fn source(&self) -> IpAddr {
        self.address(12, 8)
    }

    /// Destination address.
    pub fn destination(&self) -> IpAddr {
        self.address(16, 24)
    }

    pub(crate) fn v4_destination(&self) -> Option<Ipv4Addr> {
        self.is_v4().then(|| self.v4_at(16))
    }

    fn address(&self, v4_at: usize, v6_at: usize) -> IpAddr {
        if self.is_v4() {
            return self.v4_at(v4_at).into();
        }
        let octets: [u8; 16] = self.0[v6_at..v6_at + 16].try_into().expect("16 bytes");
        Ipv6Addr::from(octets).into()
    }

    fn v4_at(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3])
    }

    /// Whether it shows a transport header: a later fragment does not.
    fn shows_transport(&self) -> bool {
        !self.is_v4() || self.word(6) & 0x1fff == 0
    }

    /// Transport and endpoints of an IPv4 packet with ports or an echo identifier.
    pub fn flow(&self) -> Option<Flow> {
        if !self.is_v4() || !self.shows_transport() {
            return None;
        }
        let (source, destination) = (self.v4_at(12), self.v4_at(16));
        let transport = match self.protocol() {
            IpProtocol::Tcp => Transport::Tcp,
            IpProtocol::Udp => Transport::Udp,
            IpProtocol::Icmp => {
                let (kind, identifier) = (self.0[IP_HEADER], self.word(IP_HEADER + 4));
                let (from, to) = match kind {
                    ECHO_REQUEST => (identifier, 0),
                    ECHO_REPLY => (0, identifier),
                    _ => return None,
                };
                return Some(Flow {
                    transport: Transport::Icmp,
                    source: SocketAddrV4::new(source, from),
                    destination: SocketAddrV4::new(destination, to),
                });
            }
            _ => return None,
        };
        Some(Flow {
            transport,
            source: SocketAddrV4::new(source, self.word(IP_HEADER)),
            destination: SocketAddrV4::new(destination, self.word(IP_HEADER + 2)),
        })
    }

    /// Source and destination of TCP or UDP over either family.
    pub fn endpoints(&self) -> Option<(Transport, SocketAddr, SocketAddr)> {
        if !self.shows_transport() {
            return None;
        }
        let transport = match self.protocol() {
            IpProtocol::Tcp => Transport::Tcp,
            IpProtocol::Udp => Transport::Udp,
            _ => return None,
        };
        let at = self.header();
        let source = SocketAddr::new(self.source(), self.word(at));
        Some((transport, source, SocketAddr::new(self.destination(), self.word(at + 2))))
    }

    fn is_tcp(&self) -> bool {
        self.protocol() == IpProtocol::Tcp && self.shows_transport()
    }

    fn tcp_header(&self) -> TcpPacket<&[u8]> {
        TcpPacket::new_unchecked(&self.0[self.header()..])
    }

    /// The TCP segment, if it is one.
    pub fn segment(&self) -> Option<Segment> {
        if !self.is_tcp() || self.fragment().is_some() {
            return None;
        }
        let tcp = self.tcp_header();
        Some(Segment {
            syn: tcp.syn(),
            ack: tcp.ack(),
            fin: tcp.fin(),
            rst: tcp.rst(),
            sequence: raw_number(tcp.seq_number()),
            acknowledgement: raw_number(tcp.ack_number()),
            window: tcp.window_len(),
            payload: tcp.payload().len(),
        })
    }

    /// The options of a TCP segment that trackers look at.
    pub fn tcp_options(&self) -> TcpOptions {
        if !self.is_tcp() || self.fragment().is_some() {
            return TcpOptions::default();
        }
        let tcp = self.tcp_header();
        if tcp.header_len() == 20 {
            return TcpOptions::default();
        }
        let (source, destination) = (self.source().into(), self.destination().into());
        let Ok(repr) = TcpRepr::parse(&tcp, &source, &destination, &ChecksumCapabilities::ignored()) else {
            return TcpOptions::default();
        };
        let edges = repr.sack_ranges.iter().flatten().map(|(_, right)| *right);
        // The highest edge in sequence space, relative to the acknowledgement.
        let acknowledged = raw_number(tcp.ack_number());
        TcpOptions {
            window_scale: repr.window_scale,
            sack_permitted: repr.sack_permitted,
            sack_edge: edges.max_by_key(|edge| edge.wrapping_sub(acknowledged)),
        }
    }

    /// Where the bytes of a TCP segment begin.
    fn stream_at(&self) -> Option<usize> {
        let is_whole = self.is_tcp() && self.fragment().is_none();
        is_whole.then(|| self.header() + usize::from(self.tcp_header().header_len()))
    }

    /// What a TCP segment carries.
    pub fn stream_bytes(&self) -> &[u8] {
        self.stream_at().and_then(|at| self.0.get(at..)).unwrap_or_default()
    }

    /// Replaces what a TCP segment carries by as many bytes; the checksum follows.
    pub(crate) fn replace_stream(&mut self, bytes: &[u8]) {
        let Some(at) = self.stream_at().filter(|at| at + bytes.len() == self.0.len()) else { return };
        self.0[at..].copy_from_slice(bytes);
        let (source, destination, header) = (self.source().into(), self.destination().into(), self.header());
        TcpPacket::new_unchecked(&mut self.0[header..]).fill_checksum(&source, &destination);
    }

    /// What a UDP datagram or an echo carries.
    pub fn payload(&self) -> &[u8] {
        match self.protocol() {
            IpProtocol::Udp | IpProtocol::Icmp => self.0.get(self.header() + 8..).unwrap_or_default(),
            _ => &[],
        }
    }

    /// The echo, if it is one.
    pub fn as_echo(&self) -> Option<Echo> {
        if !self.is_v4() || self.protocol() != IpProtocol::Icmp || !self.shows_transport() {
            return None;
        }
        let is_request = match self.0[IP_HEADER] {
            ECHO_REQUEST => true,
            ECHO_REPLY => false,
            _ => return None,
        };
        Some(Echo { is_request, identifier: self.word(IP_HEADER + 4), sequence: self.word(IP_HEADER + 6) })
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    fn set_word(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }

    /// Replaces a word that the checksums at `covered_by` cover.
    fn replace(&mut self, at: usize, new: u16, covered_by: &[usize]) {
        let old = self.word(at);
        self.set_word(at, new);
        for checksum in covered_by {
            self.set_word(*checksum, updated(self.word(*checksum), old, new));
        }
    }

    /// Offset of the checksum that covers ports and addresses. A UDP checksum of zero means none;
    /// a later fragment has none.
    fn transport_checksum(&self) -> Option<usize> {
        let at = match self.protocol() {
            IpProtocol::Tcp => IP_HEADER + 16,
            IpProtocol::Udp if self.shows_transport() && self.word(IP_HEADER + 6) != 0 => IP_HEADER + 6,
            _ => return None,
        };
        self.shows_transport().then_some(at)
    }

    fn set_endpoint(&mut self, endpoint: SocketAddrV4, ip_at: usize, port_at: usize) {
        let transport = self.transport_checksum();
        let is_udp = self.protocol() == IpProtocol::Udp;
        let covers: &[usize] = match transport {
            Some(at) => &[10, at],
            None => &[10],
        };
        let octets = endpoint.ip().octets();
        self.replace(ip_at, u16::from_be_bytes([octets[0], octets[1]]), covers);
        self.replace(ip_at + 2, u16::from_be_bytes([octets[2], octets[3]]), covers);
        if self.protocol() == IpProtocol::Icmp {
            // Only the end that asked has an identifier to be rewritten.
            let asks = self.0.get(IP_HEADER) == Some(&ECHO_REQUEST);
            if self.shows_transport() && asks == (ip_at == 12) {
                self.replace(IP_HEADER + 4, endpoint.port(), &[IP_HEADER + 2]);
            }
            return;
        }
        if !self.shows_transport() {
            return;
        }
        self.replace(port_at, endpoint.port(), &covers[1..]);
        if let Some(at) = transport
            && is_udp
            && self.word(at) == 0
        {
            self.set_word(at, 0xffff);
        }
    }

    /// Rewrites the source of an IPv4 packet; checksums follow (RFC 1624).
    pub fn set_source(&mut self, source: SocketAddrV4) {
        self.set_endpoint(source, 12, IP_HEADER);
    }

    /// Rewrites the destination of an IPv4 packet; checksums follow (RFC 1624).
    pub fn set_destination(&mut self, destination: SocketAddrV4) {
        self.set_endpoint(destination, 16, IP_HEADER + 2);
    }

    /// Shifts a TCP segment's sequence and acknowledgement numbers; the checksum follows.
    pub(crate) fn shift_numbers(&mut self, sequence: u32, acknowledgement: u32) {
        let Some(segment) = self.segment() else { return };
        let header = self.header();
        let mut shift = |at: usize, value: u32| {
            let octets = value.to_be_bytes();
            self.replace(at, u16::from_be_bytes([octets[0], octets[1]]), &[header + 16]);
            self.replace(at + 2, u16::from_be_bytes([octets[2], octets[3]]), &[header + 16]);
        };
        if sequence != 0 {
            shift(header + 4, segment.sequence.wrapping_add(sequence));
        }
        if segment.ack && acknowledgement != 0 {
            shift(header + 8, segment.acknowledgement.wrapping_add(acknowledgement));
        }
    }

    /// Takes one hop off the time to live; false if none is left.
    #[must_use]
    pub fn decrement_hop_limit(&mut self) -> bool {
        let at = if self.is_v4() { 8 } else { 7 };
        let hops = self.0[at];
        if hops <= 1 {
            return false;
        }
        if self.is_v4() {
            self.replace(8, u16::from_be_bytes([hops - 1, self.0[9]]), &[10]);
        } else {
            self.0[at] = hops - 1;
        }
        true
    }

    /// Sets the time to live, for packets that are meant to die on the way.
    #[must_use]
    pub fn with_hop_limit(mut self, hops: u8) -> Self {
        if self.is_v4() {
            self.replace(8, u16::from_be_bytes([hops, self.0[9]]), &[10]);
        } else {
            self.0[7] = hops;
        }
        self
    }

    /// The RST that refuses this segment (RFC 9293 §3.10.7.1); `None` for an RST and for no TCP.
    pub fn reset_reply(&self) -> Option<Self> {
        let ((_, source, destination), segment) = (self.endpoints()?, self.segment()?);
        if segment.rst {
            return None;
        }
        let reset = Segment {
            ack: !segment.ack,
            rst: true,
            sequence: if segment.ack { segment.acknowledgement } else { 0 },
            acknowledgement: if segment.ack { 0 } else { segment.end() },
            ..Segment::NONE
        };
        Some(Self::tcp_between(destination, source, reset, &[]))
    }

    /// The reply to an echo request.
    pub fn echo_reply(&self) -> Option<Self> {
        let echo = self.as_echo().filter(|echo| echo.is_request)?;
        Some(Self::echo(self.v4_at(16), self.v4_at(12), Echo { is_request: false, ..echo }, self.payload()))
    }

    /// Whether all checksums are right, by full computation. Fragments show only their header's.
    pub fn checksums_are_valid(&self) -> bool {
        let (source, destination) = (self.source().into(), self.destination().into());
        let payload = &self.0[self.header()..];
        if self.is_v4() && !self.ip().verify_checksum() {
            return false;
        }
        if self.fragment().is_some() {
            return true;
        }
        match self.protocol() {
            IpProtocol::Tcp => TcpPacket::new_unchecked(payload).verify_checksum(&source, &destination),
            IpProtocol::Udp => UdpPacket::new_unchecked(payload).verify_checksum(&source, &destination),
            IpProtocol::Icmp => Icmpv4Packet::new_unchecked(payload).verify_checksum(),
            IpProtocol::Icmpv6 => self.icmpv6_checksum_is_valid(),
            _ => true,
        }
    }

    /// A copy of a SYN|ACK as the plain ACK that follows the SYN.
    pub(crate) fn without_syn(&self) -> Self {
        let mut copy = self.clone();
        let at = self.header();
        let mut tcp = TcpPacket::new_unchecked(&mut copy.0[at..]);
        let sequence = raw_number(tcp.seq_number()).wrapping_add(1);
        tcp.set_seq_number(sequence_number(sequence));
        tcp.set_syn(false);
        tcp.fill_checksum(&self.source().into(), &self.destination().into());
        copy
    }
}

/// ICMP type of an echo reply.
const ECHO_REPLY: u8 = 0;
/// ICMP type of an echo request.
const ECHO_REQUEST: u8 = 8;

#[expect(clippy::cast_possible_wrap, reason = "sequence numbers are modulo 2^32 (RFC 9293 §3.4)")]
pub(crate) fn sequence_number(raw: u32) -> TcpSeqNumber {
    TcpSeqNumber(raw as i32)
}

#[expect(clippy::cast_sign_loss, reason = "sequence numbers are modulo 2^32 (RFC 9293 §3.4)")]
pub(crate) fn raw_number(number: TcpSeqNumber) -> u32 {
    number.0 as u32
}

#[cfg(test)]
mod tests;
