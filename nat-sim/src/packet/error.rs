//! ICMP errors: what they quote, and how gateways rewrite that.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv4Repr, Icmpv4TimeExceeded, Icmpv6Packet, IpProtocol,
    Ipv4Packet, Ipv4Repr,
};

use super::{ECHO_REPLY, ECHO_REQUEST, Flow, IP_HEADER, IPV6_HEADER, Packet, Transport, fold};

/// An ICMP error and the flow that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The flow of the quoted packet.
    pub quoted: Flow,
    /// The sequence number of a quoted TCP segment.
    pub sequence: u32,
    /// The MTU that a report of a packet too big tells, else any number.
    pub mtu: u16,
}

/// A report that a TCP segment was too big for a network on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooBig {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// The sequence number of the segment.
    pub(crate) sequence: u32,
    pub(crate) mtu: u32,
}

/// ICMPv6 type of the report that a packet was too big.
const ICMPV6_TOO_BIG: u8 = 2;
/// Whether a message of ICMPv6 is such a report.
pub(super) fn is_too_big(message: &[u8]) -> bool {
    message.len() >= 8 && message[0] == ICMPV6_TOO_BIG
}

/// Bytes of the transport header that an ICMP error quotes.
const QUOTED_BYTES: usize = 8;
/// Where a quoted packet begins.
const QUOTE: usize = IP_HEADER + 8;

impl Packet {
    /// Whether it is an ICMP error, even one that quotes nothing useful.
    pub fn is_icmp_error(&self) -> bool {
        let errors = [Icmpv4Message::DstUnreachable, Icmpv4Message::TimeExceeded, Icmpv4Message::ParamProblem];
        self.is_v4()
            && self.protocol() == IpProtocol::Icmp
            && self.shows_transport()
            && errors.contains(&Icmpv4Message::from(self.0[IP_HEADER]))
    }

    /// The ICMP error, if it is one about TCP, UDP or an echo. IP options of the quote are skipped.
    pub fn icmp_error(&self) -> Option<IcmpError> {
        if !self.is_icmp_error() {
            return None;
        }
        let quote = self.0.get(QUOTE..)?;
        let header = usize::from(*quote.first()? & 0xf) * 4;
        if quote[0] >> 4 != 4 || header < IP_HEADER || quote.len() < header + QUOTED_BYTES {
            return None;
        }
        let word = |at: usize| u16::from_be_bytes([quote[header + at], quote[header + at + 1]]);
        let (transport, from, to) = match IpProtocol::from(quote[9]) {
            IpProtocol::Tcp => (Transport::Tcp, word(0), word(2)),
            IpProtocol::Udp => (Transport::Udp, word(0), word(2)),
            IpProtocol::Icmp if quote[header] == ECHO_REQUEST => (Transport::Icmp, word(4), 0),
            IpProtocol::Icmp if quote[header] == ECHO_REPLY => (Transport::Icmp, 0, word(4)),
            _ => return None,
        };
        let quoted = Flow {
            transport,
            source: SocketAddrV4::new(self.v4_at(QUOTE + 12), from),
            destination: SocketAddrV4::new(self.v4_at(QUOTE + 16), to),
        };
        let sequence = u32::from(word(4)) << 16 | u32::from(word(6));
        let mtu = self.word(IP_HEADER + 6);
        Some(IcmpError { kind: self.0[IP_HEADER], code: self.0[IP_HEADER + 1], quoted, sequence, mtu })
    }

    /// Rewrites one end of the packet that an ICMP error quotes, and its outer source or
    /// destination: for an error on its way inside the quoted source and the outer destination, for
    /// one on its way outside the quoted destination and the outer source. RFC 5508 REQ-4 and REQ-5.
    pub(crate) fn rewrite_error(
        &mut self,
        outer_source: Option<Ipv4Addr>,
        quoted: Flow,
        outer_destination: Option<Ipv4Addr>,
        sequence_shift: u32,
    ) {
        let header = QUOTE + usize::from(self.0[QUOTE] & 0xf) * 4;
        self.0[QUOTE + 12..QUOTE + 16].copy_from_slice(&quoted.source.ip().octets());
        self.0[QUOTE + 16..QUOTE + 20].copy_from_slice(&quoted.destination.ip().octets());
        if quoted.transport == Transport::Icmp {
            let identifier = quoted.source.port().max(quoted.destination.port());
            self.set_word(header + 4, identifier);
        } else {
            self.set_word(header, quoted.source.port());
            self.set_word(header + 2, quoted.destination.port());
        }
        if quoted.transport == Transport::Tcp && sequence_shift != 0 {
            let at = header + 4..header + 8;
            let quoted = u32::from_be_bytes(self.0[at.clone()].try_into().expect("4 bytes"));
            self.0[at].copy_from_slice(&quoted.wrapping_add(sequence_shift).to_be_bytes());
        }
        self.set_word(QUOTE + 10, 0);
        let sum = self.0[QUOTE..header].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        self.set_word(QUOTE + 10, !fold(sum));
        let mut ip = Ipv4Packet::new_unchecked(&mut self.0[..]);
        if let Some(source) = outer_source {
            ip.set_src_addr(source);
        }
        if let Some(destination) = outer_destination {
            ip.set_dst_addr(destination);
        }
        ip.fill_checksum();
        Icmpv4Packet::new_unchecked(&mut self.0[IP_HEADER..]).fill_checksum();
    }

    /// Whether the header checksum of the packet that an ICMP error quotes is right.
    pub(crate) fn quoted_header_is_valid(&self) -> bool {
        if self.0.len() <= QUOTE {
            return false;
        }
        let header = QUOTE + usize::from(self.0[QUOTE] & 0xf) * 4;
        let Some(quote) = self.0.get(QUOTE..header) else { return false };
        fold(quote.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()) == 0xffff
    }

    /// The header and the first bytes of this packet, as an ICMP error quotes them.
    fn quote(&self) -> (Ipv4Repr, &[u8]) {
        let quoted = IP_HEADER + QUOTED_BYTES.min(self.0.len() - IP_HEADER);
        let header = Ipv4Repr {
            src_addr: self.v4_at(12),
            dst_addr: self.v4_at(16),
            next_header: self.protocol(),
            payload_len: self.0.len() - IP_HEADER,
            hop_limit: self.0[8],
        };
        (header, &self.0[IP_HEADER..quoted])
    }

    /// The ICMP destination unreachable of `code` about this packet, sent by `from`; `None` for what
    /// no error may be sent about: an error, a later fragment (RFC 1122 §3.2.2), IPv6.
    pub fn unreachable_reply(&self, from: Ipv4Addr, code: u8) -> Option<Self> {
        let (header, data) = self.may_be_quoted()?.quote();
        let icmp = Icmpv4Repr::DstUnreachable { reason: Icmpv4DstUnreachable::from(code), header, data };
        Some(Self::icmp(from, header.src_addr, &icmp))
    }

    /// The report of IPv6 that this packet was too big, in the name of its destination, as the router that sends it has no
    /// address of its own here (RFC 4443 §3.2).
    pub(crate) fn too_big_reply_v6(&self, mtu: u16) -> Option<Self> {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (self.source(), self.destination()) else { return None };
        let is_icmp = self.protocol() == IpProtocol::Icmpv6;
        let quoted = &self.0[..self.0.len().min(IPV6_HEADER + QUOTED_BYTES)];
        (!is_icmp).then(|| {
            Self::build(destination.into(), source.into(), IpProtocol::Icmpv6, 8 + quoted.len(), |bytes| {
                bytes[0] = ICMPV6_TOO_BIG;
                bytes[4..8].copy_from_slice(&u32::from(mtu).to_be_bytes());
                bytes[8..].copy_from_slice(quoted);
                Icmpv6Packet::new_unchecked(bytes).fill_checksum(&destination, &source);
            })
        })
    }

    pub(super) fn icmpv6_checksum_is_valid(&self) -> bool {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (self.source(), self.destination()) else { return false };
        Icmpv6Packet::new_unchecked(&self.0[IPV6_HEADER..]).verify_checksum(&source, &destination)
    }

    /// The report of IPv6 that a TCP segment was too big, if it is one.
    pub(crate) fn icmpv6_too_big(&self) -> Option<TooBig> {
        let quote = IPV6_HEADER + 8;
        let is_one = !self.is_v4()
            && self.protocol() == IpProtocol::Icmpv6
            && self.0.len() >= quote + IPV6_HEADER + QUOTED_BYTES
            && is_too_big(&self.0[IPV6_HEADER..])
            && self.0[quote] >> 4 == 6
            && IpProtocol::from(self.0[quote + 6]) == IpProtocol::Tcp;
        if !is_one {
            return None;
        }
        let address = |at: usize| {
            let octets: [u8; 16] = self.0[at..at + 16].try_into().expect("16 bytes");
            IpAddr::from(octets)
        };
        let number = |at: usize| u32::from(self.word(at)) << 16 | u32::from(self.word(at + 2));
        let ports = quote + IPV6_HEADER;
        Some(TooBig {
            local: SocketAddr::new(address(quote + 8), self.word(ports)),
            remote: SocketAddr::new(address(quote + 24), self.word(ports + 2)),
            sequence: number(ports + 4),
            mtu: number(IPV6_HEADER + 4),
        })
    }

    /// The ICMP destination unreachable that asks for smaller packets (RFC 1191), sent by `from`.
    pub fn too_big_reply(&self, from: Ipv4Addr, mtu: u16) -> Option<Self> {
        let mut reply = self.unreachable_reply(from, 4)?;
        reply.set_word(IP_HEADER + 6, mtu);
        Icmpv4Packet::new_unchecked(&mut reply.0[IP_HEADER..]).fill_checksum();
        Some(reply)
    }

    /// The ICMP time exceeded about this packet, sent by `from`.
    pub fn time_exceeded_reply(&self, from: Ipv4Addr) -> Option<Self> {
        let (header, data) = self.may_be_quoted()?.quote();
        let icmp = Icmpv4Repr::TimeExceeded { reason: Icmpv4TimeExceeded::TtlExpired, header, data };
        Some(Self::icmp(from, header.src_addr, &icmp))
    }

    fn may_be_quoted(&self) -> Option<&Self> {
        (self.is_v4() && !self.is_icmp_error() && self.shows_transport()).then_some(self)
    }
}
