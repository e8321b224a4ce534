//! ICMP errors: what they quote, and how gateways rewrite that.

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv4Repr, Icmpv4TimeExceeded, IpProtocol, Ipv4Packet, Ipv4Repr,
};

use super::{ECHO_REPLY, ECHO_REQUEST, Flow, IP_HEADER, Packet, Transport, fold};

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
        Some(IcmpError { kind: self.0[IP_HEADER], code: self.0[IP_HEADER + 1], quoted, sequence })
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
