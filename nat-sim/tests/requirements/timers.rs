//! RFC 4787 REQ-5, 6; RFC 5382 REQ-5; RFC 5508 REQ-2; RFC 7857 §2, §7; device defaults.

use nat_sim::nat::{SessionState, Timers};
use nat_sim::packet::Echo;

use super::*;

#[test]
fn tmr_1_an_established_connection_may_be_idle_for_2_h_4_min() {
    for (idle, alive) in [(7439, true), (7441, false)] {
        let mut gate = Gate::new(preset::rfc_strict());
        let external = gate.establish(HOST, REMOTE);
        let verdict = gate.wait(secs(idle)).back(REMOTE, external, BACK_ACK);
        assert_eq!(is_in(&verdict), alive, "after {idle} s");
    }
}

#[test]
fn tmr_2_a_half_open_or_closed_connection_may_be_idle_for_4_min() {
    let mut gate = Gate::new(preset::rfc_strict());
    let external = gate.open(HOST, REMOTE);
    assert!(is_in(&gate.wait(secs(239)).back(REMOTE, external, SYN_ACK)));
    let mut closed = Gate::new(preset::rfc_strict());
    let external = closed.establish(HOST, REMOTE);
    closed.out(HOST, REMOTE, Segment { fin: true, ..ACK });
    closed.back(REMOTE, external, Segment { fin: true, acknowledgement: 1002, ..BACK_ACK });
    assert!(is_out(&closed.wait(secs(239)).out(HOST, REMOTE, Segment { sequence: 1002, ..ACK })));
}

#[test]
fn tmr_3_udp_lives_for_2_min_and_better_5() {
    for preset in preset::ALL {
        let Timers { udp_stream, .. } = (preset.config)().timers;
        if preset.name.starts_with("rfc") {
            assert!(udp_stream >= secs(300));
        }
    }
    let mut gate = Gate::new(preset::rfc_strict());
    let external = gate.udp_open(HOST, REMOTE);
    assert!(is_in(&gate.wait(secs(300) - NANO).udp_back(REMOTE, external)));
}

#[test]
fn tmr_4_outbound_packets_refresh_and_inbound_ones_as_configured() {
    for (inbound, alive) in [(true, true), (false, false)] {
        let mut config = plain(Filtering::EndpointIndependent);
        config.refresh.inbound = inbound;
        let mut gate = Gate::new(config);
        let external = gate.udp_open(HOST, REMOTE);
        for _ in 0..3 {
            gate.wait(secs(50)).udp_out(HOST, REMOTE);
        }
        for _ in 0..3 {
            gate.wait(secs(50)).udp_back(REMOTE, external);
        }
        assert_eq!(is_in(&gate.udp_back(REMOTE, external)), alive);
    }
}

#[test]
fn tmr_5_an_answer_to_the_uninvited_refreshes_nothing() {
    let mut gate = Gate::new(plain(Filtering::EndpointIndependent));
    let external = gate.open(HOST, "8.8.8.8:1");
    assert!(gate.admits(REMOTE, external));
    let expires = |gate: &mut Gate| {
        let rows = gate.rows();
        rows.iter().find(|row| row.remote == at(REMOTE)).map(|row| row.expires)
    };
    let before = expires(&mut gate).expect("a session");
    gate.wait(secs(100)).out(HOST, REMOTE, Segment { rst: true, ..ACK });
    assert!(expires(&mut gate).is_none_or(|after| after <= before));
}

#[test]
fn tmr_6_an_echo_may_be_answered_for_60_s() {
    let mut gate = Gate::new(preset::rfc_strict());
    let echo = Echo { is_request: true, identifier: 7, sequence: 1 };
    let out = gate.send(Packet::echo([10, 0, 0, 2].into(), [9, 9, 9, 9].into(), echo, b"x"));
    let asked = external(&out).expect("out");
    let reply =
        Packet::echo([9, 9, 9, 9].into(), EXTERNAL, Echo { is_request: false, identifier: asked.port(), ..echo }, b"x");
    assert!(is_in(&gate.wait(secs(60) - NANO).receive(reply)));
}

#[test]
fn tmr_7_sessions_expire_exactly() {
    let mut gate = Gate::new(preset::rfc_strict());
    let external = gate.open(HOST, REMOTE);
    gate.wait(secs(240) - NANO);
    assert_eq!(gate.rows().len(), 1);
    let mut later = Gate { nat: gate.nat.clone(), now: gate.now };
    assert!(is_in(&gate.back(REMOTE, external, SYN_ACK)));
    assert_eq!(later.wait(NANO).back(REMOTE, external, SYN_ACK), Verdict::Drop(DropReason::NoMapping));
    assert!(later.rows().is_empty());
}

#[test]
fn tmr_8_linuxs_timers_run_by_state() {
    let mut gate = Gate::new(preset::linux_masq_drop());
    let state = |gate: &mut Gate| {
        let row = gate.rows()[0];
        (row.state, row.expires - gate.now)
    };
    let external = gate.open(HOST, REMOTE);
    assert_eq!(state(&mut gate), (SessionState::SynSent, secs(120)));
    gate.back(REMOTE, external, SYN_ACK);
    assert_eq!(state(&mut gate), (SessionState::SynReceived, secs(60)));
    gate.out(HOST, REMOTE, ACK);
    assert_eq!(state(&mut gate), (SessionState::Established, secs(432_000)));
    gate.send(Packet::tcp(at(HOST), at(REMOTE), ACK, b"data"));
    assert_eq!(state(&mut gate), (SessionState::Established, secs(300)), "unacknowledged");
    gate.back(REMOTE, external, Segment { acknowledgement: 1005, ..BACK_ACK });
    assert_eq!(state(&mut gate), (SessionState::Established, secs(432_000)));
    gate.out(HOST, REMOTE, Segment { fin: true, sequence: 1005, ..ACK });
    assert_eq!(state(&mut gate), (SessionState::FinWait, secs(120)));
    gate.back(REMOTE, external, Segment { acknowledgement: 1006, ..BACK_ACK });
    assert_eq!(state(&mut gate), (SessionState::CloseWait, secs(60)));
    gate.back(REMOTE, external, Segment { fin: true, acknowledgement: 1006, ..BACK_ACK });
    assert_eq!(state(&mut gate), (SessionState::LastAck, secs(30)));
    gate.out(HOST, REMOTE, Segment { sequence: 1006, acknowledgement: 5002, ..ACK });
    assert_eq!(state(&mut gate), (SessionState::TimeWait, secs(120)));
    let mut udp = Gate::new(preset::linux_masq_drop());
    let external = udp.udp_open(HOST, REMOTE);
    assert_eq!(state(&mut udp).1, secs(30));
    udp.wait(secs(1)).udp_back(REMOTE, external);
    assert_eq!(state(&mut udp).1, secs(30), "answered, but young");
    udp.wait(secs(2)).udp_back(REMOTE, external);
    assert_eq!(state(&mut udp).1, secs(120));
}

#[test]
fn tmr_9_pfs_timers_run_by_state() {
    let timers = preset::pf_default().timers;
    let seconds =
        [timers.syn_sent, timers.syn_received, timers.established, timers.fin_wait, timers.time_wait, timers.close];
    assert_eq!(seconds.map(|time| time.as_secs()), [120, 30, 86_400, 900, 45, 90]);
    let mut gate = Gate::new(preset::pf_default());
    let external = gate.open(HOST, REMOTE);
    gate.back(REMOTE, external, SYN_ACK);
    assert_eq!(gate.rows()[0].expires, Instant::ZERO + secs(30));
}

#[test]
fn tmr_11_shipped_presets_claim_the_timers_of_their_sources() {
    let established = |name| (preset::find(name).expect("there").config)().timers.established.as_secs();
    for (name, seconds) in [
        ("aws_natgw", 350),
        ("gcp_eim", 1200),
        ("azure_natgw", 240),
        ("mikrotik", 86_400),
        ("winnat", 1800),
        ("linux_masq_drop", 432_000),
    ] {
        assert_eq!(established(name), seconds, "{name}");
    }
}
