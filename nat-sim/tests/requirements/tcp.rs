//! RFC 5382 REQ-2, 6; RFC 7857 §2; Linux's tracker as measured on Linux 6.18.

use nat_sim::nat::{SessionState, SimultaneousOpen};

use super::*;

/// The initial sequence numbers of the measurements.
const X: u32 = 0x4000_0000;
const Y: u32 = 0x2000_0000;

const S: Segment = Segment { sequence: X, window: 65_535, ..SYN };
const BACK_S: Segment = Segment { sequence: Y, ..S };

fn ack(sequence: u32, acknowledgement: u32) -> Segment {
    Segment { syn: false, ack: true, sequence, acknowledgement, ..S }
}

fn syn_ack(sequence: u32, acknowledgement: u32) -> Segment {
    Segment { ack: true, sequence, acknowledgement, ..S }
}

fn rst(sequence: u32, acknowledgement: Option<u32>) -> Segment {
    let ack = acknowledgement.is_some();
    Segment { syn: false, rst: true, ack, sequence, acknowledgement: acknowledgement.unwrap_or(0), ..S }
}

fn fin(sequence: u32, acknowledgement: u32) -> Segment {
    Segment { fin: true, ..ack(sequence, acknowledgement) }
}

/// `a` from inside, `b` from outside.
#[derive(Clone, Copy, Debug)]
enum Step {
    A(Segment),
    B(Segment),
}
use Step::{A, B};

fn fate(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Forward(..) => "pass",
        Verdict::Untranslated(..) => "LEAK",
        Verdict::Reply(..) | Verdict::Held | Verdict::Drop(_) => "DROP",
    }
}

fn state(gate: &mut Gate) -> String {
    let rows = gate.rows();
    let Some(row) = rows.first() else { return "no entry".into() };
    if row.is_unreplied { format!("{} UNREPLIED", row.state) } else { row.state.to_string() }
}

struct Tracked {
    gate: Gate,
    external: SocketAddrV4,
}

impl Tracked {
    fn new() -> Self {
        let gate = Gate::new(preset::linux_masq_drop());
        Self { gate, external: SocketAddrV4::new(EXTERNAL, 4000) }
    }

    fn step(&mut self, step: Step) -> String {
        let verdict = match step {
            A(segment) => self.gate.out(HOST, REMOTE, segment),
            B(segment) => self.gate.back(REMOTE, self.external, segment),
        };
        format!("{} > {}", fate(&verdict), state(&mut self.gate))
    }

    /// Plays steps, and returns what became of the last.
    fn play(steps: &[Step]) -> String {
        let mut tracked = Self::new();
        steps.iter().fold(String::new(), |_, step| tracked.step(*step))
    }
}

const OPEN: [Step; 3] = [
    A(S),
    B(Segment { ack: true, sequence: Y, acknowledgement: X + 1, ..S }),
    A(Segment { syn: false, ack: true, sequence: X + 1, acknowledgement: Y + 1, ..S }),
];

#[test]
fn tcp_1_a_handshake_from_inside_establishes() {
    for preset in preset::ALL.iter().filter(|preset| preset.name != "isn_firewall" && preset.name != "public") {
        let mut gate = Gate::new((preset.config)());
        gate.establish(HOST, REMOTE);
        assert_eq!(gate.rows()[0].state, SessionState::Established, "{}", preset.name);
    }
}

#[test]
fn tcp_2_a_simultaneous_open_establishes() {
    for preset in preset::ALL {
        let config = (preset.config)();
        let is_special = config.tcp.mapping == Mapping::L4Proxy || config.rewrites_isn;
        if config.simultaneous_open != SimultaneousOpen::Full || is_special {
            continue;
        }
        let mut gate = Gate::new(config);
        let external = gate.open(HOST, REMOTE);
        assert!(is_in(&gate.back(REMOTE, external, Segment { sequence: 5000, ..SYN })), "{}", preset.name);
        assert!(is_out(&gate.out(HOST, REMOTE, Segment { ack: true, acknowledgement: 5001, ..SYN })));
        assert!(is_in(&gate.back(REMOTE, external, SYN_ACK)));
        assert!(is_out(&gate.out(HOST, REMOTE, ACK)));
        assert!(is_in(&gate.back(REMOTE, external, BACK_ACK)));
        assert_eq!(gate.rows()[0].state, SessionState::Established, "{}", preset.name);
    }
}

#[test]
fn tcp_2_gateways_that_stop_simultaneous_opens_do() {
    let mut gate = Gate::new(preset::home_drops_simopen());
    let external = gate.open(HOST, REMOTE);
    assert_eq!(gate.back(REMOTE, external, SYN), Verdict::Drop(DropReason::SimultaneousOpen));
    assert!(is_in(&gate.back(REMOTE, external, SYN_ACK)));
    let resetting = NatConfig { simultaneous_open: SimultaneousOpen::ResetInboundSyn, ..preset::home_rst() };
    let mut gate = Gate::new(resetting);
    let external = gate.open(HOST, REMOTE);
    assert!(reset(&gate.back(REMOTE, external, SYN)).is_some());
    let never = NatConfig { simultaneous_open: SimultaneousOpen::NeverEstablished, ..preset::home_rst() };
    let mut gate = Gate::new(never);
    let external = gate.establish(HOST, REMOTE);
    assert_eq!(gate.rows()[0].state, SessionState::SynReceived);
    gate.wait(secs(60));
    assert!(!gate.admits(REMOTE, external), "it expires half-open");
}

#[test]
fn tcp_3_a_connection_from_outside_to_a_permitted_endpoint_passes() {
    let mut gate = Gate::new(plain(Filtering::EndpointIndependent));
    let external = gate.open(HOST, "8.8.8.8:1");
    assert!(is_in(&gate.back(REMOTE, external, Segment { sequence: 5000, ..SYN })));
    assert!(is_out(&gate.out(HOST, REMOTE, Segment { ack: true, acknowledgement: 5001, ..SYN })));
    assert!(is_in(&gate.back(REMOTE, external, BACK_ACK)));
    let rows = gate.rows();
    let row = rows.iter().find(|row| row.remote == at(REMOTE)).expect("a session");
    assert_eq!(row.state, SessionState::Established);
}

#[test]
fn tcp_4_half_closed_and_repeated_segments_pass() {
    for config in [preset::rfc_strict(), preset::linux_masq_drop(), preset::azure_natgw()] {
        let mut gate = Gate::new(config);
        let external = gate.open(HOST, REMOTE);
        assert!(is_out(&gate.out(HOST, REMOTE, SYN)), "a repeated SYN");
        assert!(is_in(&gate.back(REMOTE, external, SYN_ACK)));
        assert!(is_in(&gate.back(REMOTE, external, SYN_ACK)), "a repeated SYN|ACK");
        assert!(is_out(&gate.out(HOST, REMOTE, ACK)));
        let last = Segment { fin: true, ..ACK };
        assert!(is_out(&gate.out(HOST, REMOTE, last)));
        assert!(is_in(&gate.back(REMOTE, external, Segment { acknowledgement: 1002, ..BACK_ACK })));
        let data = Packet::tcp(at(REMOTE), external, Segment { acknowledgement: 1002, ..BACK_ACK }, b"late");
        assert!(is_in(&gate.receive(data)), "data after one FIN");
        assert!(is_out(&gate.out(HOST, REMOTE, last)), "a repeated FIN");
        let other = Segment { fin: true, sequence: 5005, acknowledgement: 1002, ..BACK_ACK };
        assert!(is_in(&gate.back(REMOTE, external, other)));
        assert!(is_out(&gate.out(HOST, REMOTE, Segment { sequence: 1002, acknowledgement: 5006, ..ACK })));
    }
}

#[test]
fn tcp_5_linux_establishes_a_simultaneous_open_by_the_other_sides_ack() {
    let simultaneous = [A(S), B(BACK_S), A(syn_ack(X, Y + 1))];
    assert_eq!(Tracked::play(&simultaneous), "pass > SYN_RECV");
    let mut tracked = Tracked::new();
    for step in simultaneous {
        tracked.step(step);
    }
    assert_eq!(tracked.step(B(ack(Y + 1, X + 1))), "pass > ESTABLISHED");
    assert_eq!(tracked.gate.rows()[0].expires, Instant::ZERO + secs(432_000));
}

#[test]
fn tcp_6_an_rst_passes_and_the_state_stays_for_4_min() {
    let mut gate = Gate::new(preset::rfc_strict());
    let external = gate.establish(HOST, REMOTE);
    assert!(is_in(&gate.back(REMOTE, external, Segment { rst: true, ..BACK_ACK })));
    assert_eq!(gate.rows()[0].expires, Instant::ZERO + secs(240));
}

#[test]
fn tcp_7_linux_weighs_an_rst_by_its_number() {
    assert_eq!(Tracked::play(&[A(S), B(rst(0, Some(X + 1)))]), "pass > no entry", "the first answer");
    let after = |reset| {
        let mut tracked = Tracked::new();
        for step in OPEN {
            tracked.step(step);
        }
        let fate = tracked.step(B(reset));
        (fate, tracked.gate.rows()[0].expires.since_origin().as_secs())
    };
    assert_eq!(after(rst(Y + 1, None)), ("pass > CLOSE".into(), 10), "exact");
    assert_eq!(after(rst(Y + 101, None)).0, "pass > ESTABLISHED", "within the window");
    assert_eq!(after(rst(Y + 10_000_000, None)), ("DROP > ESTABLISHED".into(), 432_000), "far out");
}

#[test]
fn tcp_8_a_forged_rst_removes_a_session_only_where_nobody_checks() {
    for (checks, survives) in [(true, true), (false, false)] {
        let mut config = plain(Filtering::AddressAndPortDependent);
        config.checks_reset = checks;
        config.reset = nat_sim::nat::OnReset::Delete;
        let mut gate = Gate::new(config);
        let external = gate.establish(HOST, REMOTE);
        gate.back(REMOTE, external, Segment { rst: true, sequence: 99_999_999, ..BACK_ACK });
        assert_eq!(is_in(&gate.back(REMOTE, external, BACK_ACK)), survives);
    }
}

#[test]
fn tcp_9_a_stale_number_leaks_until_the_entry_expires() {
    let mut tracked = Tracked::new();
    assert_eq!(tracked.step(A(S)), "pass > SYN_SENT UNREPLIED");
    assert_eq!(tracked.step(B(BACK_S)), "pass > SYN_SENT2");
    let verdict = tracked.gate.out(HOST, REMOTE, Segment { sequence: X + 5_000_000, ..S });
    match verdict {
        Verdict::Untranslated(Side::Outside, packet) => assert_eq!(packet.flow().expect("tcp").source, at(HOST)),
        other => panic!("{other:?}"),
    }
    assert_eq!(tracked.step(B(BACK_S)), "pass > SYN_SENT2", "inbound SYNs still pass");
    assert!(is_out(&tracked.gate.out("10.0.0.2:4001", REMOTE, S)), "a fresh port recovers");
    let mut openwrt = Gate::new(preset::openwrt_default());
    let external = openwrt.open(HOST, REMOTE);
    openwrt.back(REMOTE, external, Segment { sequence: Y, ..SYN });
    let stale = Segment { sequence: SYN.sequence + 5_000_000, ..SYN };
    assert_eq!(openwrt.out(HOST, REMOTE, stale), Verdict::Drop(DropReason::Invalid), "OpenWrt drops it");
}

#[test]
fn tcp_9_a_gateway_may_translate_what_its_tracker_disbelieves() {
    let tracking = nat_sim::nat::Tracking::Linux(nat_sim::nat::Invalid::Translate);
    let mut gate = Gate::new(NatConfig { tracking, ..preset::linux_masq_drop() });
    let external = gate.open(HOST, REMOTE);
    gate.back(REMOTE, external, Segment { sequence: Y, ..SYN });
    let stale = Segment { sequence: SYN.sequence + 5_000_000, ..SYN };
    let before = gate.rows();
    assert_eq!(self::external(&gate.out(HOST, REMOTE, stale)), Some(external));
    assert!(is_in(&gate.back(REMOTE, external, Segment { sequence: Y + 5_000_000, ..SYN })));
    assert_eq!(gate.rows(), before, "and moves nothing");
}

#[test]
fn tcp_10_a_larger_number_begins_anew_while_only_one_side_has_spoken() {
    assert_eq!(Tracked::play(&[A(S), A(Segment { sequence: X + 5_000_000, ..S })]), "pass > SYN_SENT UNREPLIED");
    let again = X + 5_000_000;
    let steps =
        [A(S), A(Segment { sequence: again, ..S }), B(BACK_S), A(syn_ack(again, Y + 1)), B(ack(Y + 1, again + 1))];
    assert_eq!(Tracked::play(&steps), "pass > ESTABLISHED");
}

#[test]
fn tcp_11_nonsense_flags_make_no_state() {
    let none = Segment { syn: false, ..SYN };
    let wrong = [Segment { fin: true, ..SYN }, none, Segment { rst: true, ..SYN }, Segment { rst: true, ..none }];
    for preset in preset::ALL {
        for segment in wrong {
            let mut gate = Gate::new((preset.config)());
            gate.out(HOST, REMOTE, segment);
            assert!(gate.rows().is_empty(), "{}: {segment:?}", preset.name);
        }
    }
}

#[test]
fn tcp_12_options_and_payload_are_left_alone() {
    // A SYN with MSS, SACK permitted, timestamps and window scale.
    let mut bytes = Packet::tcp(at(HOST), at(REMOTE), SYN, &[]).bytes().to_vec();
    let options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7];
    bytes.truncate(40);
    bytes.extend_from_slice(&options);
    bytes[3] = 60;
    bytes[32] = 0xa0;
    bytes.extend_from_slice(b"10.0.0.2:4000 payload");
    bytes[3] += 21;
    for preset in preset::ALL.iter().filter(|preset| preset.name != "isn_firewall") {
        let packet = Packet::parse(bytes.clone()).expect("whole");
        let verdict = Gate::new((preset.config)()).send(packet);
        let Verdict::Forward(_, out) = verdict else { panic!("{}: {verdict:?}", preset.name) };
        assert_eq!(out.bytes()[24..36], bytes[24..36], "{}", preset.name);
        assert_eq!(out.bytes()[38..], bytes[38..], "{}: TCP-13, no ALG", preset.name);
    }
}

#[test]
fn tcp_13_addresses_in_payload_are_left_alone() {
    let mut gate = Gate::new(preset::linux_masq_drop());
    gate.establish(HOST, REMOTE);
    let payload = b"PORT 10,0,0,2,15,160";
    let Verdict::Forward(_, out) = gate.send(Packet::tcp(at(HOST), at(REMOTE), ACK, payload)) else {
        panic!("dropped")
    };
    assert!(out.bytes().ends_with(payload));
}

#[test]
fn tcp_14_a_proxy_answers_its_guest_only_when_the_outside_has() {
    let mut gate = Gate::new(preset::l4_proxy());
    let external = gate.open(HOST, REMOTE);
    assert_ne!(external.port(), 4000, "the host's stack chooses");
    // A simultaneous open is between the proxy and the outside.
    let met = gate.back(REMOTE, external, Segment { sequence: 5000, ..SYN });
    let Verdict::Reply(Side::Outside, answer) = &met else { panic!("{met:?}") };
    let segment = answer.segment().expect("tcp");
    assert!(segment.syn && segment.ack && segment.sequence == SYN.sequence && segment.acknowledgement == 5001);
    let told = gate.back(REMOTE, external, BACK_ACK);
    let Verdict::Reply(Side::Inside, answer) = &told else { panic!("{told:?}") };
    let segment = answer.segment().expect("tcp");
    assert!(segment.syn && segment.ack && segment.sequence == 5000 && segment.acknowledgement == SYN.sequence + 1);
    assert_eq!(answer.flow().expect("tcp").destination, at(HOST));
    assert!(is_out(&gate.out(HOST, REMOTE, ACK)));
    // A refusal outside is one inside.
    let mut refused = Gate::new(preset::l4_proxy());
    let external = refused.open(HOST, REMOTE);
    let verdict =
        refused.back(REMOTE, external, Segment { rst: true, syn: false, ack: true, acknowledgement: 1001, ..SYN });
    assert!(is_in(&verdict) && refused.rows().is_empty());
}

#[test]
fn a_firewall_that_replaces_numbers_does_so_both_ways() {
    let config = NatConfig { rewrites_isn: true, ..preset::home_rst() };
    let mut gate = Gate::new(config);
    let Verdict::Forward(_, syn) = gate.out(HOST, REMOTE, SYN) else { panic!("dropped") };
    let (external, isn) = (syn.flow().expect("tcp").source, syn.segment().expect("tcp").sequence);
    assert_ne!(isn, SYN.sequence);
    let answer = Segment { acknowledgement: isn.wrapping_add(1), ..SYN_ACK };
    let Verdict::Forward(_, inside) = gate.back(REMOTE, external, answer) else { panic!("dropped") };
    assert_eq!(inside.segment().expect("tcp").acknowledgement, SYN.sequence + 1);
    assert!(inside.checksums_are_valid() && syn.checksums_are_valid());
}

/// State and segment against what Linux 6.18 was measured to do. Rows are segments, columns the states
/// in the order of `COLUMNS`.
#[test]
#[expect(clippy::too_many_lines, reason = "it is one table")]
fn linuxs_tracker_does_what_linux_was_measured_to_do() {
    let simultaneous = [A(S), B(BACK_S), A(syn_ack(X, Y + 1)), B(ack(Y + 1, X + 1))];
    let close_a = [A(fin(X + 1, Y + 1)), B(fin(Y + 1, X + 2)), A(ack(X + 2, Y + 2))];
    let close_b = [B(fin(Y + 1, X + 1)), A(fin(X + 1, Y + 2)), B(ack(Y + 2, X + 2))];
    let columns: [Vec<Step>; 10] = [
        vec![A(S)],
        vec![A(S), B(BACK_S)],
        simultaneous[..3].to_vec(),
        OPEN[..2].to_vec(),
        [&simultaneous[..], &[A(ack(X + 1, Y + 1))]].concat(),
        OPEN.to_vec(),
        [&OPEN[..], &[B(rst(Y + 1, None))]].concat(),
        [&OPEN[..], &[A(rst(X + 1, None))]].concat(),
        [&OPEN[..], &close_a].concat(),
        [&OPEN[..], &close_b].concat(),
    ];
    let states = [
        "SYN_SENT",
        "SYN_SENT2",
        "SYN_RECV",
        "SYN_RECV",
        "ESTABLISHED",
        "ESTABLISHED",
        "CLOSE",
        "CLOSE",
        "TIME_WAIT",
        "TIME_WAIT",
    ];
    let inside = |isn: u32| A(Segment { sequence: isn, ..S });
    let outside = |isn: u32| B(Segment { sequence: isn, ..S });
    const FAR: u32 = 5_000_000;
    // p passes, L leaks, D is dropped; then what differs from the column's state.
    let rows: [(Step, [&str; 10]); 17] = [
        (inside(X), ["p u", "p", "p", "p", "p", "p", "p", "p new", "p new", "p new"]),
        (inside(X + 3), ["p u", "p", "p", "p", "p", "p", "p", "p new", "p new", "p new"]),
        (inside(X + FAR), ["p u", "L", "p", "p", "p", "p", "p", "p new", "p new", "p new"]),
        (inside(X - FAR), ["p u", "p", "p", "p", "p", "p", "p", "p new", "p new", "p new"]),
        (A(syn_ack(X, Y + 1)), ["L u", "p SYN_RECV", "p", "p", "L", "L", "L", "L", "L", "L"]),
        (A(syn_ack(X + 3, Y + 1)), ["L u", "p", "p", "p", "L", "L", "L", "L", "L", "L"]),
        (A(syn_ack(X + FAR, Y + 1)), ["L u", "L", "p", "p", "L", "L", "L", "L", "L", "L"]),
        (A(rst(0, Some(Y + 1))), ["L u", "p", "p", "p", "L", "L", "p CLOSE", "p CLOSE", "p CLOSE", "p CLOSE"]),
        (
            A(rst(X + 1, None)),
            [
                "p none", "p CLOSE", "p CLOSE", "p CLOSE", "p CLOSE", "p CLOSE", "p CLOSE", "p CLOSE", "p CLOSE",
                "p CLOSE",
            ],
        ),
        (outside(Y), ["p SYN_SENT2", "p", "D", "D", "D", "D", "D", "D", "D none", "D none"]),
        (outside(Y + 3), ["p SYN_SENT2", "p", "D", "D", "D", "D", "D", "D", "D none", "D none"]),
        (outside(Y + FAR), ["p SYN_SENT2", "D", "D", "D", "D", "D", "D", "D", "D none", "D none"]),
        (outside(Y - FAR), ["p SYN_SENT2", "p", "D", "D", "D", "D", "D", "D", "D none", "D none"]),
        (B(syn_ack(Y, X + 1)), ["p SYN_RECV", "p SYN_RECV", "p", "p", "p", "p", "p", "p", "p", "p"]),
        (B(rst(0, Some(X + 1))), ["p none", "p", "p", "p", "D", "D", "p CLOSE", "p CLOSE", "p CLOSE", "p CLOSE"]),
        (
            B(rst(Y + 1, None)),
            [
                "p none", "p CLOSE", "p CLOSE", "p CLOSE", "p CLOSE", "p CLOSE", "p CLOSE", "p CLOSE", "p CLOSE",
                "p CLOSE",
            ],
        ),
        (B(ack(Y + 1, X + 1)), ["p", "p", "p ESTABLISHED", "p", "p", "p", "p", "p", "p", "p"]),
    ];
    let mut wrong = Vec::new();
    for (segment, cells) in rows {
        for ((column, base), cell) in columns.iter().zip(states).zip(cells) {
            let (fate, then) = cell.split_once(' ').unwrap_or((cell, ""));
            let fate = match fate {
                "p" => "pass",
                "L" => "LEAK",
                _ => "DROP",
            };
            let then = match then {
                "" => base.to_owned(),
                "u" => format!("{base} UNREPLIED"),
                "new" => "SYN_SENT UNREPLIED".into(),
                "none" => "no entry".into(),
                state => state.to_owned(),
            };
            let expected = format!("{fate} > {then}");
            let got = Tracked::play(&[&column[..], &[segment]].concat());
            if got != expected {
                wrong.push(format!("in {base} ({} steps), {segment:?}: {got}, measured {expected}", column.len()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Restarts after both SYNs have passed: which combinations come to an open connection.
#[test]
fn linuxs_tracker_survives_one_restart_in_syn_sent2_and_not_two() {
    let end = |a: u32, b: u32, both_answer: bool| {
        let mut steps = vec![A(S), B(BACK_S), A(Segment { sequence: a, ..S }), B(Segment { sequence: b, ..S })];
        steps.push(A(syn_ack(a, b + 1)));
        if both_answer {
            steps.push(B(syn_ack(b, a + 1)));
        }
        steps.extend([B(ack(b + 1, a + 1)), A(ack(a + 1, b + 1))]);
        Tracked::play(&steps)
    };
    for both in [false, true] {
        assert_eq!(end(X, Y, both), "pass > ESTABLISHED");
        assert_eq!(end(X + 3, Y, both), "pass > ESTABLISHED");
        assert_eq!(end(X, Y + 3, both), "pass > ESTABLISHED");
        assert_eq!(end(X + 3, Y + 3, both), "LEAK > SYN_SENT2", "a completed handshake, and one direction is dead");
        assert_eq!(end(X - 5_000_000, Y, both), "LEAK > SYN_SENT2");
        assert_eq!(end(X, Y - 5_000_000, both), "LEAK > SYN_SENT2");
    }
}

/// The same four endpoints punched again after the first connection ended.
#[test]
fn linuxs_tracker_reopens_a_pair_as_measured() {
    let (x, y) = (X + 50_000_000, Y + 50_000_000);
    let (again_a, again_b) = (A(Segment { sequence: x, ..S }), B(Segment { sequence: y, ..S }));
    let play = |then: &[Step]| {
        let mut tracked = Tracked::new();
        for step in OPEN {
            tracked.step(step);
        }
        then.iter().map(|step| tracked.step(*step)).collect::<Vec<_>>()
    };
    let closed = [A(fin(X + 1, Y + 1)), B(fin(Y + 1, X + 2)), A(ack(X + 2, Y + 2))];
    let after = play(&[&closed[..], &[again_a, again_b, A(syn_ack(x, y + 1)), B(ack(y + 1, x + 1))]].concat());
    assert_eq!(after[3..], ["pass > SYN_SENT UNREPLIED", "pass > SYN_SENT2", "pass > SYN_RECV", "pass > ESTABLISHED"]);
    let after = play(&[&closed[..], &[again_b, again_a, again_b]].concat());
    assert_eq!(after[3..], ["DROP > no entry", "pass > SYN_SENT UNREPLIED", "pass > SYN_SENT2"]);
    let by_b = B(rst(Y + 1, None));
    let after = play(&[by_b, again_a, again_b, A(syn_ack(x, y + 1)), B(ack(y + 1, x + 1))]);
    assert_eq!(after[1..3], ["pass > CLOSE", "DROP > CLOSE"]);
    assert_eq!(after[3], "LEAK > CLOSE");
    let after = play(&[by_b, again_a, B(syn_ack(y, x + 1)), A(ack(x + 1, y + 1))]);
    assert_eq!(after[1..], ["pass > CLOSE", "pass > SYN_RECV", "pass > ESTABLISHED"], "an ordinary open works");
    let by_a = A(rst(X + 1, None));
    let after = play(&[by_a, again_a, again_b]);
    assert_eq!(after[1..], ["pass > SYN_SENT UNREPLIED", "pass > SYN_SENT2"]);
    let after = play(&[again_a, again_b, A(syn_ack(x, y + 1))]);
    assert_eq!(after, ["pass > ESTABLISHED", "DROP > ESTABLISHED", "LEAK > ESTABLISHED"], "nothing was closed");
}
