//! Fragments of IPv4: cutting, and putting together.

use std::net::Ipv4Addr;

use smoltcp::wire::Ipv4Packet;

use super::{IP_HEADER, Packet};

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fragment {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Protocol number.
    pub protocol: u8,
    /// Identification field.
    pub identification: u16,
    /// Offset of its payload in bytes.
    pub offset: u16,
    /// Whether more follow.
    pub more: bool,
}

impl Packet {
    /// Cuts a packet into fragments of at most `payload_bytes` each, a multiple of 8.
    pub fn fragments(&self, payload_bytes: usize, identification: u16) -> Vec<Self> {
        assert!(payload_bytes.is_multiple_of(8) && payload_bytes > 0 && self.is_v4(), "fragments are whole units");
        let chunks = self.0[IP_HEADER..].chunks(payload_bytes);
        let last = chunks.len() - 1;
        let cut = chunks.enumerate().map(|(index, chunk)| {
            let mut bytes = self.0[..IP_HEADER].to_vec();
            bytes.extend_from_slice(chunk);
            let mut ip = Ipv4Packet::new_unchecked(&mut bytes[..]);
            ip.set_total_len(u16::try_from(IP_HEADER + chunk.len()).expect("part of a packet"));
            ip.set_ident(identification);
            ip.set_dont_frag(false);
            ip.set_more_frags(index != last);
            ip.set_frag_offset(u16::try_from(index * payload_bytes).expect("part of a packet"));
            ip.fill_checksum();
            Self(bytes)
        });
        cut.collect()
    }

    /// Puts the fragments of one datagram together; `None` while some are missing.
    pub fn reassembled(fragments: &[Self]) -> Option<Self> {
        let mut parts: Vec<_> = fragments.iter().filter_map(|part| Some((part.fragment()?, part))).collect();
        parts.sort_by_key(|(at, _)| (at.offset, at.more));
        let (_, first) = *parts.first()?;
        let mut bytes = first.0[..IP_HEADER].to_vec();
        let mut is_whole = false;
        for (at, part) in parts {
            let (offset, end) = (IP_HEADER + usize::from(at.offset), bytes.len());
            // Overlaps are refused (RFC 5722's rule, for IPv4 as well), repetitions are not.
            match offset.cmp(&end) {
                std::cmp::Ordering::Greater => return None,
                std::cmp::Ordering::Equal => bytes.extend_from_slice(&part.0[IP_HEADER..]),
                std::cmp::Ordering::Less if end == offset + part.0.len() - IP_HEADER => {}
                std::cmp::Ordering::Less => return None,
            }
            is_whole |= !at.more;
        }
        let total = u16::try_from(bytes.len()).ok().filter(|_| is_whole)?;
        let mut ip = Ipv4Packet::new_unchecked(&mut bytes[..]);
        ip.set_total_len(total);
        ip.set_more_frags(false);
        ip.set_frag_offset(0);
        ip.fill_checksum();
        Self::parse(bytes).ok()
    }

    /// Where a fragment of IPv4 belongs; `None` for a whole packet.
    pub fn fragment(&self) -> Option<Fragment> {
        if !self.is_v4() || self.word(6) & 0x3fff == 0 {
            return None;
        }
        let ip = self.ip();
        Some(Fragment {
            source: ip.src_addr(),
            destination: ip.dst_addr(),
            protocol: self.0[9],
            identification: ip.ident(),
            offset: ip.frag_offset(),
            more: ip.more_frags(),
        })
    }

    /// The same packet with leave to be cut.
    #[must_use]
    pub fn allowing_fragments(mut self) -> Self {
        let mut ip = Ipv4Packet::new_unchecked(&mut self.0[..]);
        ip.set_dont_frag(false);
        ip.fill_checksum();
        self
    }

    /// Whether it forbids routers to cut it (RFC 791).
    pub fn forbids_fragments(&self) -> bool {
        !self.is_v4() || self.ip().dont_frag()
    }
}
