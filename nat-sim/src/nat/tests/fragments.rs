//! Goal: the fragments of a datagram go where its first one goes, and nowhere else. Method: datagrams cut in two, from both
//! sides and in both orders, put together again behind the gateway.

use super::*;

const HOST: &str = "10.0.0.2:4000";
const REMOTE: &str = "9.9.9.9:9";

fn at(text: &str) -> SocketAddrV4 {
    text.parse().expect("an endpoint")
}

fn halves(from: SocketAddrV4, to: SocketAddrV4) -> [Packet; 2] {
    Packet::udp(from.into(), to.into(), &[7; 60]).fragments(40, 1).try_into().expect("two")
}

/// Passes both, in this order; what comes out behind the gateway, put together.
fn passed(nat: &mut Nat, from: Side, parts: [Packet; 2]) -> Flow {
    let mut out = Vec::new();
    let is_first_last = parts[0].fragment().expect("a fragment").offset > 0;
    for (part, may_wait) in parts.into_iter().zip([is_first_last, false]) {
        match nat.handle(Instant::ZERO, from, part) {
            Verdict::Forward(to, packet) if to != from => out.push(packet),
            Verdict::Held if may_wait => {}
            other => panic!("{other:?}"),
        }
        while let Some(verdict) = nat.next_verdict() {
            let Verdict::Forward(_, packet) = verdict else { panic!("{verdict:?}") };
            out.push(packet);
        }
    }
    let ends: BTreeSet<_> = out.iter().map(|part| (part.source(), part.destination())).collect();
    assert_eq!(ends.len(), 1, "{out:?}");
    let whole = Packet::reassembled(&out).expect("both halves of one datagram");
    assert!(whole.checksums_are_valid());
    whole.flow().expect("UDP")
}

#[test]
fn both_halves_of_a_datagram_arrive_at_one_endpoint_from_one_endpoint_whichever_comes_first() {
    let (host, remote) = (at(HOST), at(REMOTE));
    let mut nat = Nat::new(preset::rfc_strict(), EXTERNAL, 1);
    let asked = passed(&mut nat, Side::Inside, halves(host, remote));
    assert_eq!((*asked.source.ip(), asked.destination), (EXTERNAL, remote));
    let swapped = |[first, second]: [Packet; 2]| [second, first];
    nat.tick(Instant::ZERO + Duration::from_secs(30));
    assert_eq!(passed(&mut nat, Side::Inside, swapped(halves(host, remote))), asked);
    let answer = halves(remote, asked.source);
    for parts in [answer.clone(), swapped(answer)] {
        let answered = passed(&mut nat, Side::Outside, parts);
        assert_eq!((answered.source, answered.destination), (remote, host));
        nat.tick(Instant::ZERO + Duration::from_secs(30));
    }
}

#[test]
fn a_gateway_takes_from_outside_what_is_for_it_and_for_addresses_that_it_does_not_translate() {
    let (remote, foreign) = (at(REMOTE), at("203.0.113.9:7000"));
    let [first, second] = halves(remote, foreign);
    let error = Packet::udp(foreign.into(), remote.into(), b"").unreachable_reply(*remote.ip(), 3).expect("IPv4");
    let whole = Packet::udp(remote.into(), foreign.into(), b"");
    for packet in [first, second, error, whole] {
        let mut nat = Nat::new(preset::rfc_ideal(), EXTERNAL, 1);
        assert_eq!(nat.inbound(Instant::ZERO, packet), Verdict::Drop(DropReason::NotMine));
        assert_eq!(nat.next_deadline(), None, "nothing waits");
    }
    let fragments = Fragments::AnyOrder;
    let mut nat = Nat::new(NatConfig { fragments, ..preset::public() }, EXTERNAL, 1);
    let Flow { source, destination, .. } = passed(&mut nat, Side::Outside, halves(remote, foreign));
    assert_eq!((source, destination), (remote, foreign));
}

#[test]
fn a_connection_that_a_fragment_begins_has_the_time_of_one_that_nobody_has_answered() {
    let syn = Segment { syn: true, ..Segment::NONE };
    let [first, _] = Packet::tcp(at(HOST), at(REMOTE), syn, &[7; 40]).fragments(40, 1).try_into().expect("two");
    for config in [preset::rfc_ideal(), NatConfig { tcp_fragments: Fragments::AnyOrder, ..preset::linux_masq_drop() }] {
        let mut nat = Nat::new(config, EXTERNAL, 1);
        assert!(matches!(nat.outbound(Instant::ZERO, first.clone()), Verdict::Forward(..)));
        let rows = nat.snapshot(Instant::ZERO);
        let expected = Instant::ZERO + config.timers.syn_sent;
        assert_eq!(rows.iter().map(|row| row.expires).collect::<Vec<_>>(), [expected]);
    }
}
