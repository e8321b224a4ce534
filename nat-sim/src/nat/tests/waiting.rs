//! Goal: what a gateway keeps for later, it keeps for its time and gives back when that is over: room for fragments, held
//! SYNs, leases of ports, its own flows, the two halves of a proxied connection. Method: single packets at both sides of
//! each bound.

use super::*;

const HOST: &str = "10.0.0.2:4000";
const REMOTE: &str = "9.9.9.9:9";
const NANO: Duration = Duration::from_nanos(1);

fn at(text: &str) -> SocketAddrV4 {
    text.parse().expect("an endpoint")
}

fn segment(flags: &str) -> Segment {
    let has = |flag| flags.contains(flag);
    Segment { syn: has('S'), fin: has('F'), rst: has('R'), ack: has('.'), sequence: 1000, ..Segment::NONE }
}

fn tcp(from: SocketAddrV4, to: SocketAddrV4, flags: &str) -> Packet {
    Packet::tcp(from, to, segment(flags), &[])
}

fn udp(from: SocketAddrV4, to: SocketAddrV4) -> Packet {
    Packet::udp(from.into(), to.into(), b"hello")
}

/// The second fragment of a datagram, of so many bytes in all, and its first.
fn fragments(identification: u16, second_bytes: usize) -> (Packet, Packet) {
    let payload = vec![7; 1008 - 8 + second_bytes - 20];
    let whole = Packet::udp(at(HOST).into(), at(REMOTE).into(), &payload);
    let [first, second] = whole.fragments(1008, identification).try_into().expect("two");
    assert_eq!(Packet::bytes(&second).len(), second_bytes);
    (second, first)
}

fn reassembling(fragmented_max: usize) -> Nat {
    let config = preset::rfc_ideal();
    let limits = TableLimits { fragmented_max, ..config.limits };
    Nat::new(NatConfig { fragments: Fragments::AnyOrder, limits, ..config }, EXTERNAL, 1)
}

const FULL: Verdict = Verdict::Drop(DropReason::FragmentsFull);

#[test]
fn the_room_for_waiting_fragments_is_used_to_the_last_byte_and_comes_back() {
    let mut nat = reassembling(10_000);
    let mut now = Instant::ZERO;
    let second = |identification, bytes| fragments(identification, bytes).0;
    for round in 0..3 {
        let base = 1000 * round;
        for identification in 0..255 {
            assert_eq!(nat.outbound(now, second(base + identification, 1024)), Verdict::Held);
        }
        assert_eq!(nat.outbound(now, second(base + 300, 1000)), Verdict::Held);
        assert_eq!(nat.outbound(now, second(base + 301, 25)), FULL, "24 bytes are left");
        assert_eq!(nat.outbound(now, second(base + 302, 24)), Verdict::Held);
        assert_eq!(nat.outbound(now, second(base + 303, 21)), FULL);
        // A first fragment takes with it what waited for it, and leaves its room to others.
        assert!(matches!(nat.outbound(now, fragments(base, 1024).1), Verdict::Forward(..)));
        assert!(matches!(nat.next_verdict(), Some(Verdict::Forward(..))));
        assert_eq!(nat.next_verdict(), None);
        assert_eq!(nat.outbound(now, second(base + 304, 1024)), Verdict::Held);
        assert_eq!(nat.outbound(now, second(base + 305, 21)), FULL);
        // 30 s later the others have waited without success.
        let until = now + Duration::from_secs(30);
        assert_eq!(nat.next_deadline(), Some(until));
        assert!(nat.tick(until - NANO).is_empty());
        assert_eq!(nat.tick(until), vec![Verdict::Drop(DropReason::FragmentTimeout); 257]);
        assert_eq!(nat.next_deadline(), None);
        now = until;
    }
}

#[test]
fn the_room_for_waiting_fragments_comes_back_with_the_datagrams_whose_time_ends() {
    let mut nat = reassembling(10_000);
    let second = |identification| fragments(identification, 1024).0;
    let later = Instant::ZERO + Duration::from_secs(1);
    for identification in 0..256 {
        let now = if identification < 100 { Instant::ZERO } else { later };
        assert_eq!(nat.outbound(now, second(identification)), Verdict::Held);
    }
    let until = Instant::ZERO + Duration::from_secs(30);
    assert_eq!(nat.tick(until).len(), 100);
    for identification in 300..400 {
        assert_eq!(nat.outbound(until, second(identification)), Verdict::Held);
    }
    assert_eq!(nat.outbound(until, second(400)), FULL, "the others still wait");
}

#[test]
fn only_so_many_datagrams_are_remembered_in_fragments() {
    let mut nat = reassembling(2);
    let pass = |verdict: Verdict| matches!(verdict, Verdict::Forward(..));
    let [a, b, c] = [1, 2, 3].map(|identification| fragments(identification, 100));
    assert_eq!(nat.outbound(Instant::ZERO, a.0.clone()), Verdict::Held);
    assert!(pass(nat.outbound(Instant::ZERO, b.1)));
    // The third one's first fragment passes, and is not remembered.
    assert!(pass(nat.outbound(Instant::ZERO, c.1)));
    assert_eq!(nat.outbound(Instant::ZERO, c.0), FULL);
    // Those that are remembered have no need of room.
    assert!(pass(nat.outbound(Instant::ZERO, b.0)));
    assert_eq!(nat.outbound(Instant::ZERO, a.0), Verdict::Held);
    assert!(pass(nat.outbound(Instant::ZERO, a.1)));
    assert_eq!(std::iter::from_fn(|| nat.next_verdict()).filter(|it| pass(it.clone())).count(), 2);
}

/// RFC 5382 REQ-4: in silence, and only what it meets.
#[test]
fn a_held_syn_is_met_by_a_syn_of_its_own_pair_and_by_nothing_else() {
    let rules = Rules {
        filtering: Filtering::AddressAndPortDependent,
        allocation: Allocation::Preserve(Fallback::Random),
        ..preset::rfc_ideal().tcp
    };
    let syn = OnSyn::Hold { time: Duration::from_secs(6), then_icmp: true };
    let unsolicited = Unsolicited { syn, ..preset::rfc_ideal().unsolicited };
    let config = NatConfig { tcp: rules, udp: rules, unsolicited, ..preset::rfc_ideal() };
    let external = SocketAddrV4::new(EXTERNAL, 4000);
    for (from, to, is_tcp, meets) in [
        (HOST, REMOTE, true, true),
        (HOST, REMOTE, false, false),
        (HOST, "9.9.9.9:10", true, false),
        (HOST, "9.9.9.8:9", true, false),
        ("10.0.0.2:4001", REMOTE, true, false),
    ] {
        let mut nat = Nat::new(config, EXTERNAL, 1);
        for opens in [tcp(at(HOST), at("8.8.8.8:8"), "S"), udp(at(HOST), at("8.8.8.8:8"))] {
            let Verdict::Forward(_, out) = nat.outbound(Instant::ZERO, opens) else { panic!("passes") };
            assert_eq!(out.flow().expect("a flow").source, external);
        }
        assert_eq!(nat.inbound(Instant::ZERO, tcp(at(REMOTE), external, "S")), Verdict::Held);
        let sent = if is_tcp { tcp(at(from), at(to), "S") } else { udp(at(from), at(to)) };
        assert!(matches!(nat.outbound(Instant::ZERO, sent), Verdict::Forward(..)));
        let met = nat.next_verdict() == Some(Verdict::Drop(DropReason::HeldAndMatched));
        let answered = nat.tick(Instant::ZERO + Duration::from_secs(6)).len();
        assert_eq!((met, answered), (meets, usize::from(!meets)), "{from} to {to}, TCP {is_tcp}");
    }
}

#[test]
fn a_gateway_takes_for_its_own_what_could_open_a_connection_and_once() {
    let unsolicited = Unsolicited {
        syn: OnSyn::Sink,
        segment: OnStray::Sink,
        datagram: OnStray::Sink,
        ..preset::rfc_ideal().unsolicited
    };
    let timers = Timers {
        syn_sent: Duration::from_secs(1),
        unacknowledged: Duration::from_secs(2),
        udp_new: Duration::from_secs(3),
        ..preset::rfc_ideal().timers
    };
    let config = NatConfig { unsolicited, timers, tracking: Tracking::Flags, ..preset::rfc_ideal() };
    let to = SocketAddrV4::new(EXTERNAL, 5000);
    let tcp = |flags: &str| tcp(at(REMOTE), to, flags);
    for (packet, seconds) in [
        (tcp("S"), Some(1)),
        (tcp("S."), Some(1)),
        (tcp("."), Some(2)),
        (udp(at(REMOTE), to), Some(3)),
        (tcp("R"), None),
        (tcp("R."), None),
        (tcp("F."), None),
        (tcp("SF"), None),
        (tcp(""), None),
    ] {
        let mut nat = Nat::new(config, EXTERNAL, 1);
        for _ in 0..2 {
            assert!(matches!(nat.inbound(Instant::ZERO, packet.clone()), Verdict::Drop(_)));
            let expires: Vec<_> = nat.snapshot(Instant::ZERO).iter().map(|row| row.expires).collect();
            let expected = seconds.map(|seconds| Instant::ZERO + Duration::from_secs(seconds));
            assert_eq!(expires, Vec::from_iter(expected), "{packet:?}");
            nat.tables.check();
        }
    }
    // Bounded as all sessions are.
    let limits = TableLimits { sessions_max: 2, ..config.limits };
    let mut nat = Nat::new(NatConfig { limits, ..config }, EXTERNAL, 1);
    for port in 1..=4 {
        nat.inbound(Instant::ZERO, udp(at(REMOTE), SocketAddrV4::new(EXTERNAL, port)));
    }
    assert_eq!(nat.sessions(), 2);
}

/// RFC 6886 §3.3, RFC 6887 §11.
#[test]
fn a_lease_ends_on_time_and_moves_with_its_holders_wishes() {
    let config = NatConfig { port_control: true, ..preset::rfc_strict() };
    let [minute, hour] = [60, 3600].map(Duration::from_secs);
    let (one, two): (SocketAddrV4, SocketAddrV4) = (at("10.0.0.2:100"), at("10.0.0.3:100"));
    let external = |port| SocketAddrV4::new(EXTERNAL, port);
    let mut nat = Nat::new(config, EXTERNAL, 1);
    let ask = |nat: &mut Nat, now, host, port, time| nat.map_port(now, Transport::Udp, host, port, time);
    // Whom a stranger reaches there.
    let reaches = |nat: &Nat, now, port| match nat.clone().inbound(now, udp(at("8.8.8.8:8"), external(port))) {
        Verdict::Forward(Side::Inside, packet) => packet.flow().map(|flow| flow.destination),
        _ => None,
    };
    let start = Instant::ZERO;
    assert_eq!(ask(&mut nat, start, one, 7000, minute), Some(external(7000)));
    assert_eq!(reaches(&nat, start + minute - NANO, 7000), Some(one));
    assert_eq!(reaches(&nat, start + minute, 7000), None);
    // Another host gets the next one.
    assert_eq!(ask(&mut nat, start, two, 7000, minute), Some(external(7001)));
    // Asked for once more it lasts longer, whatever was said before.
    assert_eq!(ask(&mut nat, start, one, 7000, hour), Some(external(7000)));
    assert_eq!(reaches(&nat, start + minute, 7000), Some(one));
    assert_eq!(reaches(&nat, start + minute, 7001), None);
    // A host that asks for another port lets go of the first.
    assert_eq!(ask(&mut nat, start + minute, one, 8000, hour), Some(external(8000)));
    assert_eq!(reaches(&nat, start + minute, 7000), None);
    assert_eq!(ask(&mut nat, start + minute, two, 7000, minute), Some(external(7000)));
    // A port that somebody uses is passed over, and behind the last one comes the first that is not reserved.
    assert_eq!(ask(&mut nat, start + minute, two, u16::MAX, minute), Some(external(u16::MAX)));
    assert_eq!(ask(&mut nat, start + minute, at("10.0.0.4:1"), u16::MAX, minute), Some(external(1024)));
    // After its end, its holder sends from wherever others do.
    let mut later = nat.clone();
    let source = |verdict| match verdict {
        Verdict::Forward(Side::Outside, packet) => packet.flow().map(|flow| flow.source),
        _ => None,
    };
    let sends = |nat: &mut Nat, now| source(nat.outbound(now, udp(one, at(REMOTE))));
    assert_eq!(sends(&mut nat, start + minute), Some(external(8000)));
    let after = sends(&mut later, start + minute + hour);
    assert!(after.is_some() && after != Some(external(8000)), "{after:?}");
    // A gateway that takes no wishes.
    let mut deaf = Nat::new(NatConfig { port_control: false, ..config }, EXTERNAL, 1);
    assert_eq!(ask(&mut deaf, start, one, 7000, minute), None);
}

#[test]
fn a_leased_port_at_which_nothing_could_begin_is_free_once_the_lease_ends() {
    let config = NatConfig { port_control: true, exhaustion: Exhaustion::Drop, ..preset::rfc_ideal() };
    let limits = TableLimits { sessions_per_remote_max: 1, ..config.limits };
    let minute = Duration::from_secs(60);
    let (one, two) = (at("10.0.0.2:100"), at("10.0.0.3:100"));
    let external = SocketAddrV4::new(EXTERNAL, 7000);
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut nat = Nat::new(NatConfig { limits, ..config }, EXTERNAL, 1);
        assert_eq!(nat.map_port(Instant::ZERO, transport, one, 7000, minute), Some(external));
        let refused = if transport == Transport::Udp {
            // Another host has the only session that this remote may have.
            assert!(matches!(nat.outbound(Instant::ZERO, udp(two, at(REMOTE))), Verdict::Forward(..)));
            (nat.outbound(Instant::ZERO, udp(one, at(REMOTE))), DropReason::RemoteLimit)
        } else {
            (nat.inbound(Instant::ZERO, tcp(at(REMOTE), external, "R")), DropReason::InvalidFlags)
        };
        assert_eq!(refused.0, Verdict::Drop(refused.1));
        let after = Instant::ZERO + minute;
        assert_eq!(nat.map_port(after, transport, at("10.0.0.4:1"), 7000, minute), Some(external), "{transport:?}");
    }
}

#[test]
fn a_port_rests_for_its_whole_time_after_its_last_use() {
    let port =
        Rules { overload: Overload::DistinctRemote, ports: PortClass::Fixed(5000, 5000), ..preset::rfc_ideal().udp };
    let [short, long] = [30, 60].map(Duration::from_secs);
    let config = NatConfig {
        udp: port,
        parity: false,
        quarantine: Quarantine { same_remote_only: true, idle: long, ..Quarantine::default() },
        timers: Timers { udp_new: short, udp_stream: short, ..preset::rfc_ideal().timers },
        exhaustion: Exhaustion::Drop,
        ..preset::rfc_ideal()
    };
    let mut nat = Nat::new(config, EXTERNAL, 1);
    let start = Instant::ZERO;
    let (one, two, busy) = (at("10.0.0.2:100"), at("10.0.0.3:100"), at("8.8.8.8:8"));
    let passes = |verdict| matches!(verdict, Verdict::Forward(..));
    assert!(passes(nat.outbound(start, udp(one, at(REMOTE)))));
    assert!(passes(nat.outbound(start + short - NANO, udp(one, busy))), "another session keeps the port");
    // It rests towards this remote from 30 s on, and that one uses it until 65 s.
    let again = start + Duration::from_secs(35);
    assert!(passes(nat.inbound(again, udp(at(REMOTE), SocketAddrV4::new(EXTERNAL, 5000)))));
    let end = again + short + long;
    assert!(
        passes(nat.clone().outbound(start + short + long, udp(two, at("7.7.7.7:7")))),
        "others have nothing to wait for"
    );
    assert_eq!(nat.clone().outbound(end - NANO, udp(two, at(REMOTE))), Verdict::Drop(DropReason::NoPort));
    assert!(passes(nat.outbound(end, udp(two, at(REMOTE)))));
}

/// RFC 7857 §7.1.
#[test]
fn an_rst_to_what_came_uninvited_leaves_its_session_no_more_time_than_after_an_rst() {
    let soon = Duration::from_secs(8);
    let timers = Timers { close: soon, ..preset::rfc_ideal().timers };
    let config = NatConfig { timers, checks_reset: false, ..preset::rfc_ideal() };
    for (wait, left) in [(1, soon), (239, Duration::from_secs(1))] {
        let mut nat = Nat::new(config, EXTERNAL, 1);
        let Verdict::Forward(_, out) = nat.outbound(Instant::ZERO, tcp(at(HOST), at("8.8.8.8:8"), "S")) else {
            panic!("passes")
        };
        let external = out.flow().expect("tcp").source;
        assert!(matches!(nat.inbound(Instant::ZERO, tcp(at(REMOTE), external, "S")), Verdict::Forward(..)));
        let now = Instant::ZERO + Duration::from_secs(wait);
        assert!(matches!(nat.outbound(now, tcp(at(HOST), at(REMOTE), "R.")), Verdict::Forward(..)));
        let rows = nat.snapshot(now);
        let row = rows.iter().find(|row| row.remote == at(REMOTE)).expect("it is not over yet");
        assert_eq!(row.expires, now + left);
    }
}

#[test]
fn a_session_without_idle_time_lasts_for_its_instant() {
    let timers = Timers { udp_new: Duration::ZERO, udp_stream: Duration::ZERO, ..preset::rfc_strict().timers };
    let mut nat = Nat::new(NatConfig { timers, ..preset::rfc_strict() }, EXTERNAL, 1);
    let Verdict::Forward(_, out) = nat.outbound(Instant::ZERO, udp(at(HOST), at(REMOTE))) else { panic!("passes") };
    let answer = udp(at(REMOTE), out.flow().expect("udp").source);
    assert!(matches!(nat.inbound(Instant::ZERO, answer.clone()), Verdict::Forward(Side::Inside, _)));
    assert_eq!(nat.inbound(Instant::ZERO + NANO, answer), Verdict::Drop(DropReason::NoMapping));
}

/// The outer handshake is the proxy's: whatever comes before it has ended is not for the guest.
#[test]
fn a_proxy_ends_its_outer_handshake_once_and_passes_on_what_follows() {
    let (guest, remote) = (at(HOST), at(REMOTE));
    for (before, expected) in [
        // What is no answer opens nothing.
        (&[][..], ["reply out S. 5000+1", "reply in S. 1000+1", "in S", "in ."]),
        (&["."], ["reply out S. 5000+1", "reply in S. 1000+1", "in S", "in ."]),
        // A plain handshake: the guest's own stack sees it, and any SYN after it.
        (&["S."], ["in S", "in .", "in S", "in ."]),
        // A refusal is passed on, and answers no SYN.
        (&["S", "R."], [""; 4]),
        (&["S", "R"], [""; 4]),
    ] {
        let mut nat = Nat::new(preset::l4_proxy(), EXTERNAL, 1);
        let Verdict::Forward(_, out) = nat.outbound(Instant::ZERO, tcp(guest, remote, "S")) else { panic!("passes") };
        let external = out.flow().expect("tcp").source;
        let mut takes = |flags: &str| {
            let segment = Segment { sequence: 5000, acknowledgement: 1001, window: 777, ..segment(flags) };
            let verdict = nat.inbound(Instant::ZERO, Packet::tcp(remote, external, segment, &[]));
            let (side, packet, what) = match verdict {
                Verdict::Forward(side, packet) => (side, packet, ""),
                Verdict::Reply(side, packet) => (side, packet, "reply "),
                other => panic!("{other:?}"),
            };
            let side = if side == Side::Inside { "in" } else { "out" };
            let said = packet.segment().expect("tcp");
            assert_eq!(said.window, 777, "the far end's window is the proxy's");
            let flags = [(said.syn, "S"), (said.rst, "R"), (said.ack, ".")];
            let flags: String = flags.into_iter().filter(|(is, _)| *is).map(|(_, flag)| flag).collect();
            let numbers = format!(" {}+{}", said.acknowledgement / 10 * 10, said.acknowledgement % 10);
            format!("{what}{side} {flags}{}", if what.is_empty() { String::new() } else { numbers })
        };
        for flags in before {
            let verdict = takes(flags);
            assert!(verdict.starts_with("in ") || *flags == "S", "{verdict}");
        }
        if !expected[0].is_empty() {
            assert_eq!(["S", ".", "S", "."].map(takes), expected, "after {before:?}");
        }
    }
}

#[test]
fn what_begins_in_the_middle_or_aims_at_the_gateway_is_refused_as_configured() {
    let config = NatConfig { tracking: Tracking::Flags, ..preset::pf_default() };
    let one = |config: NatConfig, packet: Packet| Nat::new(config, EXTERNAL, 1).outbound(Instant::ZERO, packet);
    let kind = |verdict: Verdict| match verdict {
        Verdict::Reply(Side::Inside, packet) if packet.segment().is_some_and(|it| it.rst) => "an RST".to_owned(),
        Verdict::Reply(Side::Inside, packet) => {
            packet.icmp_error().map_or_else(|| "an echo".to_owned(), |it| format!("{}/{}", it.kind, it.code))
        }
        Verdict::Drop(reason) => format!("{reason:?}"),
        other => panic!("{other:?}"),
    };
    for (midstream, expected) in [(Midstream::Drop, "Midstream"), (Midstream::Reset, "an RST")] {
        for flags in [".", "S."] {
            let answer = tcp(at(HOST), at(REMOTE), flags);
            assert_eq!(kind(one(NatConfig { midstream, ..config }, answer)), expected);
        }
    }
    // A proxy has no connection to the outside that it could go on with.
    let proxy = NatConfig { midstream: Midstream::PickUp, ..preset::l4_proxy() };
    assert_eq!(kind(one(proxy, tcp(at(HOST), at(REMOTE), "."))), "Midstream");
    let mine = SocketAddrV4::new(EXTERNAL, 7000);
    for (packet, expected) in [
        (tcp(at(HOST), mine, "S"), "an RST"),
        (tcp(at(HOST), mine, "."), "an RST"),
        (tcp(at(HOST), mine, "R"), "NoHairpin"),
        (udp(at(HOST), mine), "3/3"),
    ] {
        let refuses = NatConfig { hairpin: Hairpin::Reset, ..config };
        assert_eq!(kind(one(refuses, packet.clone())), expected, "{packet:?}");
        assert_eq!(kind(one(NatConfig { hairpin: Hairpin::Drop, ..config }, packet)), "NoHairpin");
    }
}
