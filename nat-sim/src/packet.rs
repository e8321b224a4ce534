//! IPv4 packets as bytes on a wire, with valid checksums.
#![expect(clippy::wildcard_enum_match_arm, reason = "protocol numbers are an open set")]

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl,
    TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket,
};

/// Time to live of packets that a host sends.
pub const HOP_LIMIT: u8 = 64;

/// Transport of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Transport and both endpoints of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Transport.
    pub transport: Transport,
    /// Source.
    pub source: SocketAddrV4,
    /// Destination.
    pub destination: SocketAddrV4,
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

/// An ICMP error and the flow that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The flow of the quoted packet.
    pub quoted: Flow,
}

/// One IPv4 packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet(Vec<u8>);

/// Length of an IPv4 header without options, which is the only kind here.
const IP_HEADER: usize = 20;
/// Bytes of the transport header that an ICMP error quotes.
const QUOTED_BYTES: usize = 8;

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

impl Packet {
    /// Takes bytes that came off a wire.
    ///
    /// Accepts IPv4 without options whose lengths are consistent and whose transport header is
    /// whole; gives anything else back.
    ///
    /// # Errors
    /// The bytes themselves.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Vec<u8>> {
        let Ok(ip) = Ipv4Packet::new_checked(&bytes[..]) else { return Err(bytes) };
        let whole = usize::from(ip.header_len()) == IP_HEADER
            && usize::from(ip.total_len()) == bytes.len()
            && ip.version() == 4
            && !ip.more_frags()
            && ip.frag_offset() == 0
            && match ip.next_header() {
                IpProtocol::Tcp => TcpPacket::new_checked(ip.payload()).is_ok(),
                IpProtocol::Udp => UdpPacket::new_checked(ip.payload()).is_ok(),
                IpProtocol::Icmp => Icmpv4Packet::new_checked(ip.payload()).is_ok(),
                _ => false,
            };
        if whole { Ok(Self(bytes)) } else { Err(bytes) }
    }

    /// Builds a TCP segment; `segment.payload` is ignored in favour of `payload`.
    pub fn tcp(source: SocketAddrV4, destination: SocketAddrV4, segment: Segment, payload: &[u8]) -> Self {
        let control = match (segment.syn, segment.fin, segment.rst) {
            (true, ..) => TcpControl::Syn,
            (_, true, _) => TcpControl::Fin,
            (_, _, true) => TcpControl::Rst,
            (false, false, false) => TcpControl::None,
        };
        let tcp = TcpRepr {
            src_port: source.port(),
            dst_port: destination.port(),
            control,
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
        Self::build(*source.ip(), *destination.ip(), IpProtocol::Tcp, tcp.buffer_len(), |bytes| {
            let checksums = ChecksumCapabilities::default();
            tcp.emit(
                &mut TcpPacket::new_unchecked(bytes),
                &(*source.ip()).into(),
                &(*destination.ip()).into(),
                &checksums,
            );
        })
    }

    fn build(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: IpProtocol,
        length: usize,
        emit: impl FnOnce(&mut [u8]),
    ) -> Self {
        let ip = Ipv4Repr {
            src_addr: source,
            dst_addr: destination,
            next_header: protocol,
            payload_len: length,
            hop_limit: HOP_LIMIT,
        };
        let mut bytes = vec![0; IP_HEADER + length];
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &ChecksumCapabilities::default());
        emit(&mut bytes[IP_HEADER..]);
        Self(bytes)
    }

    /// The bytes on the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn ip(&self) -> Ipv4Packet<&[u8]> {
        Ipv4Packet::new_unchecked(&self.0[..])
    }

    /// Source address.
    pub fn source(&self) -> Ipv4Addr {
        self.ip().src_addr()
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv4Addr {
        self.ip().dst_addr()
    }

    /// Transport and endpoints; `None` for ICMP.
    pub fn flow(&self) -> Option<Flow> {
        let transport = match self.ip().next_header() {
            IpProtocol::Tcp => Transport::Tcp,
            IpProtocol::Udp => Transport::Udp,
            _ => return None,
        };
        let port = |at: usize| u16::from_be_bytes([self.0[IP_HEADER + at], self.0[IP_HEADER + at + 1]]);
        Some(Flow {
            transport,
            source: SocketAddrV4::new(self.source(), port(0)),
            destination: SocketAddrV4::new(self.destination(), port(2)),
        })
    }

    /// The TCP segment, if it is one.
    pub fn segment(&self) -> Option<Segment> {
        if self.ip().next_header() != IpProtocol::Tcp {
            return None;
        }
        let tcp = TcpPacket::new_unchecked(&self.0[IP_HEADER..]);
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

    /// The ICMP error, if it is one about TCP or UDP.
    pub fn icmp_error(&self) -> Option<IcmpError> {
        if self.ip().next_header() != IpProtocol::Icmp {
            return None;
        }
        let icmp = Icmpv4Packet::new_unchecked(&self.0[IP_HEADER..]);
        if !matches!(icmp.msg_type(), Icmpv4Message::DstUnreachable | Icmpv4Message::TimeExceeded) {
            return None;
        }
        let quote = &self.0.get(IP_HEADER + 8..)?;
        if quote.len() < IP_HEADER + QUOTED_BYTES || quote[0] != 0x45 {
            return None;
        }
        let ip = Ipv4Packet::new_unchecked(quote);
        let transport = match ip.next_header() {
            IpProtocol::Tcp => Transport::Tcp,
            IpProtocol::Udp => Transport::Udp,
            _ => return None,
        };
        let port = |at: usize| u16::from_be_bytes([quote[IP_HEADER + at], quote[IP_HEADER + at + 1]]);
        let quoted = Flow {
            transport,
            source: SocketAddrV4::new(ip.src_addr(), port(0)),
            destination: SocketAddrV4::new(ip.dst_addr(), port(2)),
        };
        Some(IcmpError { kind: icmp.msg_type().into(), code: icmp.msg_code(), quoted })
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    fn set_word(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }

    /// Replaces a word that the checksums at `covered_by` cover. A UDP checksum of zero means none.
    fn replace(&mut self, at: usize, new: u16, covered_by: &[usize]) {
        let old = self.word(at);
        self.set_word(at, new);
        for checksum in covered_by {
            self.set_word(*checksum, updated(self.word(*checksum), old, new));
        }
    }

    fn transport_checksum(&self) -> Option<usize> {
        match self.ip().next_header() {
            IpProtocol::Tcp => Some(IP_HEADER + 16),
            IpProtocol::Udp if self.word(IP_HEADER + 6) != 0 => Some(IP_HEADER + 6),
            _ => None,
        }
    }

    fn set_endpoint(&mut self, endpoint: SocketAddrV4, ip_at: usize, port_at: usize) {
        let transport = self.transport_checksum();
        let is_udp = self.ip().next_header() == IpProtocol::Udp;
        let covers: &[usize] = match transport {
            Some(at) => &[10, at],
            None => &[10],
        };
        let octets = endpoint.ip().octets();
        self.replace(ip_at, u16::from_be_bytes([octets[0], octets[1]]), covers);
        self.replace(ip_at + 2, u16::from_be_bytes([octets[2], octets[3]]), covers);
        self.replace(port_at, endpoint.port(), &covers[1..]);
        if let Some(at) = transport
            && is_udp
            && self.word(at) == 0
        {
            self.set_word(at, 0xffff);
        }
    }

    /// Rewrites the source of a TCP or UDP packet; checksums follow (RFC 1624).
    pub fn set_source(&mut self, source: SocketAddrV4) {
        self.set_endpoint(source, 12, IP_HEADER);
    }

    /// Rewrites the destination of a TCP or UDP packet; checksums follow (RFC 1624).
    pub fn set_destination(&mut self, destination: SocketAddrV4) {
        self.set_endpoint(destination, 16, IP_HEADER + 2);
    }

    /// Takes one hop off the time to live; false if none is left.
    #[must_use]
    pub fn decrement_hop_limit(&mut self) -> bool {
        let hops = self.0[8];
        if hops <= 1 {
            return false;
        }
        self.replace(8, u16::from_be_bytes([hops - 1, self.0[9]]), &[10]);
        true
    }

    /// For an ICMP error on its way inside: the quoted source and the outer destination become
    /// `inside`. RFC 5508 REQ-4.
    pub fn restore_quote(&mut self, inside: SocketAddrV4) {
        let quote = IP_HEADER + 8;
        self.0[quote + 12..quote + 16].copy_from_slice(&inside.ip().octets());
        self.set_word(quote + IP_HEADER, inside.port());
        Ipv4Packet::new_unchecked(&mut self.0[quote..]).fill_checksum();
        let mut ip = Ipv4Packet::new_unchecked(&mut self.0[..]);
        ip.set_dst_addr(*inside.ip());
        ip.fill_checksum();
        Icmpv4Packet::new_unchecked(&mut self.0[IP_HEADER..]).fill_checksum();
    }

    /// The RST that refuses this segment (RFC 9293 §3.10.7.1); `None` for an RST and for no TCP.
    pub fn reset_reply(&self) -> Option<Self> {
        let (flow, segment) = (self.flow()?, self.segment()?);
        if segment.rst {
            return None;
        }
        let length = u32::try_from(segment.payload).expect("a packet is below 64 KiB")
            + u32::from(segment.syn)
            + u32::from(segment.fin);
        let reset = Segment {
            syn: false,
            ack: !segment.ack,
            fin: false,
            rst: true,
            sequence: if segment.ack { segment.acknowledgement } else { 0 },
            acknowledgement: if segment.ack { 0 } else { segment.sequence.wrapping_add(length) },
            window: 0,
            payload: 0,
        };
        Some(Self::tcp(flow.destination, flow.source, reset, &[]))
    }

    /// The ICMP destination unreachable of `code` about this packet, sent by `from`.
    pub fn unreachable_reply(&self, from: Ipv4Addr, code: u8) -> Self {
        let quoted = IP_HEADER + QUOTED_BYTES.min(self.0.len() - IP_HEADER);
        let icmp = Icmpv4Repr::DstUnreachable {
            reason: Icmpv4DstUnreachable::from(code),
            header: Ipv4Repr {
                src_addr: self.source(),
                dst_addr: self.destination(),
                next_header: self.ip().next_header(),
                payload_len: self.0.len() - IP_HEADER,
                hop_limit: self.ip().hop_limit(),
            },
            data: &self.0[IP_HEADER..quoted],
        };
        Self::build(from, self.source(), IpProtocol::Icmp, icmp.buffer_len(), |bytes| {
            icmp.emit(&mut Icmpv4Packet::new_unchecked(bytes), &ChecksumCapabilities::default());
        })
    }

    /// Whether all checksums are right, by full computation.
    pub fn checksums_are_valid(&self) -> bool {
        let ip = self.ip();
        let (source, destination) = (ip.src_addr().into(), ip.dst_addr().into());
        ip.verify_checksum()
            && match ip.next_header() {
                IpProtocol::Tcp => TcpPacket::new_unchecked(ip.payload()).verify_checksum(&source, &destination),
                IpProtocol::Udp => UdpPacket::new_unchecked(ip.payload()).verify_checksum(&source, &destination),
                IpProtocol::Icmp => Icmpv4Packet::new_unchecked(ip.payload()).verify_checksum(),
                _ => true,
            }
    }

    /// A copy of a SYN|ACK as the plain ACK that follows the SYN.
    pub(crate) fn without_syn(&self) -> Self {
        let mut copy = self.clone();
        let mut tcp = TcpPacket::new_unchecked(&mut copy.0[IP_HEADER..]);
        let sequence = raw_number(tcp.seq_number()).wrapping_add(1);
        tcp.set_seq_number(sequence_number(sequence));
        tcp.set_syn(false);
        tcp.fill_checksum(&self.source().into(), &self.destination().into());
        copy
    }
}

#[expect(clippy::cast_possible_wrap, reason = "sequence numbers are modulo 2^32 (RFC 9293 §3.4)")]
pub(crate) fn sequence_number(raw: u32) -> TcpSeqNumber {
    TcpSeqNumber(raw as i32)
}

#[expect(clippy::cast_sign_loss, reason = "sequence numbers are modulo 2^32 (RFC 9293 §3.4)")]
pub(crate) fn raw_number(number: TcpSeqNumber) -> u32 {
    number.0 as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SYN: Segment = Segment {
        syn: true,
        ack: false,
        fin: false,
        rst: false,
        sequence: 7,
        acknowledgement: 0,
        window: 1000,
        payload: 0,
    };

    fn endpoint() -> impl Strategy<Value = SocketAddrV4> {
        (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddrV4::new(ip.into(), port))
    }

    fn udp(source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) -> Packet {
        let repr = smoltcp::wire::UdpRepr { src_port: source.port(), dst_port: destination.port() };
        let length = repr.header_len() + payload.len();
        Packet::build(*source.ip(), *destination.ip(), IpProtocol::Udp, length, |bytes| {
            repr.emit(
                &mut UdpPacket::new_unchecked(bytes),
                &(*source.ip()).into(),
                &(*destination.ip()).into(),
                payload.len(),
                |to| to.copy_from_slice(payload),
                &ChecksumCapabilities::default(),
            );
        })
    }

    proptest! {
        /// The incremental checksum equals the full one, for any rewrite (CKS-1, CKS-2).
        #[test]
        fn rewrites_keep_checksums(
            from in endpoint(), to in endpoint(), other in endpoint(), payload in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            prop_assume!(from.port() != 0 && to.port() != 0 && other.port() != 0);
            for mut packet in [Packet::tcp(from, to, SYN, &payload), udp(from, to, &payload)] {
                prop_assert!(packet.checksums_are_valid());
                packet.set_source(other);
                prop_assert!(packet.checksums_are_valid());
                packet.set_destination(from);
                prop_assert!(packet.decrement_hop_limit());
                prop_assert!(packet.checksums_are_valid());
                let flow = packet.flow().expect("tcp or udp");
                prop_assert_eq!((flow.source, flow.destination), (other, from));
                let mut error = packet.unreachable_reply(*from.ip(), 3);
                error.restore_quote(to);
                prop_assert!(error.checksums_are_valid());
                prop_assert_eq!(error.icmp_error().expect("an error").quoted.source, to);
                prop_assert_eq!(error.destination(), *to.ip());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(packet) = Packet::parse(bytes) {
                let _ = (packet.flow(), packet.segment(), packet.icmp_error(), packet.reset_reply());
                let _ = packet.unreachable_reply(Ipv4Addr::LOCALHOST, 3);
            }
        }
    }

    #[test]
    fn a_refused_syn_is_answered_as_the_rfc_says() {
        let (a, b) = (SocketAddrV4::new([1, 1, 1, 1].into(), 5), SocketAddrV4::new([2, 2, 2, 2].into(), 6));
        let reset = Packet::tcp(a, b, SYN, &[]).reset_reply().expect("a reset");
        let segment = reset.segment().expect("tcp");
        assert!(segment.rst && segment.ack && segment.sequence == 0 && segment.acknowledgement == 8);
        assert_eq!(reset.reset_reply(), None, "a reset is never answered");
    }
}
