use super::*;
use proptest::prelude::*;

const SYN: Segment = Segment { syn: true, sequence: 7, window: 1000, ..Segment::NONE };

fn ping(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Packet {
    let echo = Echo { is_request: true, identifier: from.port(), sequence: 9 };
    Packet::echo(*from.ip(), *to.ip(), echo, payload)
}

fn endpoint() -> impl Strategy<Value = SocketAddrV4> {
    (any::<[u8; 4]>(), 1u16..).prop_map(|(ip, port)| SocketAddrV4::new(ip.into(), port))
}

proptest! {
    /// The incremental checksum equals the full one, for any rewrite (CKS-1, CKS-2).
    #[test]
    fn rewrites_keep_checksums(
        from in endpoint(), to in endpoint(), other in endpoint(), payload in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        for mut packet in [Packet::tcp(from, to, SYN, &payload), Packet::udp(from.into(), to.into(), &payload), ping(from, to, &payload)] {
            prop_assert!(packet.checksums_are_valid());
            packet.set_source(other);
            prop_assert!(packet.checksums_are_valid());
            packet.set_destination(from);
            prop_assert!(packet.decrement_hop_limit());
            prop_assert!(packet.checksums_are_valid());
            let flow = packet.flow().expect("ports");
            let is_echo = flow.transport == Transport::Icmp;
            prop_assert_eq!(flow.source, other);
            prop_assert_eq!(flow.destination, if is_echo { SocketAddrV4::new(*from.ip(), 0) } else { from });
            packet.shift_numbers(77, 78);
            prop_assert!(packet.checksums_are_valid());
            let mut error = packet.unreachable_reply(*from.ip(), 3).expect("no error itself");
            let quoted = Flow { source: to, ..flow };
            error.rewrite_error(None, quoted, Some(*to.ip()), 5);
            prop_assert!(error.checksums_are_valid() && error.quoted_header_is_valid());
            prop_assert_eq!(error.icmp_error().expect("an error").quoted, quoted);
            prop_assert_eq!(error.destination(), IpAddr::V4(*to.ip()));
            prop_assert_eq!(error.unreachable_reply(*to.ip(), 3), None, "no error about an error");
        }
    }

    /// What is cut comes together again, in any order, with repetitions; and not without a part.
    #[test]
    fn fragments_come_together(
        from in endpoint(), to in endpoint(), payload in proptest::collection::vec(any::<u8>(), 40..400),
        room in 3usize..20, swap in any::<prop::sample::Index>(), repeat: bool,
    ) {
        let packet = Packet::udp(from.into(), to.into(), &payload);
        let mut parts = packet.fragments(room * 8, 3);
        if parts.len() == 1 {
            return Ok(());
        }
        prop_assert!(parts.iter().all(|part| Packet::parse(part.bytes().to_vec()).is_ok() || part.fragment().is_none()));
        let at = swap.index(parts.len());
        parts.rotate_left(at);
        if repeat {
            parts.push(parts[0].clone());
        }
        let whole = Packet::reassembled(&parts).expect("all are there");
        prop_assert!(whole.checksums_are_valid());
        prop_assert_eq!(whole.payload(), &payload[..]);
        if !repeat {
            prop_assert_eq!(Packet::reassembled(&parts[1..]), None);
        }
    }

    #[test]
    fn ipv6_packets_show_their_endpoints(payload in proptest::collection::vec(any::<u8>(), 0..50), hops in 2u8..) {
        let (from, to) = ("[fd00::1]:7".parse::<SocketAddr>().expect("v6"), "[fd00::2]:8".parse().expect("v6"));
        for packet in [Packet::udp(from, to, &payload), Packet::tcp_between(from, to, SYN, &payload)] {
            let mut packet = Packet::parse(packet.with_hop_limit(hops).bytes().to_vec()).expect("whole");
            prop_assert!(packet.decrement_hop_limit() && packet.checksums_are_valid());
            let (_, source, destination) = packet.endpoints().expect("ports");
            prop_assert_eq!((source, destination, packet.flow()), (from, to, None));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(mut packet) = Packet::parse(bytes) {
            if packet.icmp_error().is_some() {
                let quoted = packet.icmp_error().expect("an error").quoted;
                packet.rewrite_error(None, quoted, None, 1);
            }
            let _ = (packet.flow(), packet.segment(), packet.icmp_error(), packet.reset_reply());
            let _ = (packet.unreachable_reply(Ipv4Addr::LOCALHOST, 3), packet.echo_reply(), packet.tcp_options());
            let _ = (packet.fragment(), packet.payload().len(), packet.quoted_header_is_valid());
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
