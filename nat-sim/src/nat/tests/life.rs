//! Goal: a tracker by flags takes a connection from its first SYN to its end, each state for its own time. Method: lives
//! of connections as lines of text, in the order in which RFC 9293 §3.3.2 and RFC 7857 §2 tell them, against the state and
//! the time that each segment leaves; flags and numbers at both sides of each bound.

use super::tracker::{Fate, Seen, Track, begins};
use super::*;
use crate::packet::TcpOptions;

/// Each timer has a time of its own.
pub(super) const TIMERS: Timers = Timers {
    syn_sent: Duration::from_secs(1),
    syn_received: Duration::from_secs(2),
    established: Duration::from_secs(3),
    fin_wait: Duration::from_secs(4),
    close_wait: Duration::from_secs(5),
    last_ack: Duration::from_secs(6),
    time_wait: Duration::from_secs(7),
    close: Duration::from_secs(8),
    unacknowledged: Duration::from_secs(9),
    udp_new: Duration::from_secs(10),
    udp_stream: Duration::from_secs(11),
    icmp: Duration::from_secs(12),
};

fn config() -> NatConfig {
    let quarantine = Quarantine::default();
    let simultaneous_open = SimultaneousOpen::Full;
    NatConfig { timers: TIMERS, quarantine, simultaneous_open, checks_reset: false, ..preset::pf_default() }
}

pub(super) fn segment(flags: &str) -> Segment {
    let has = |flag| flags.contains(flag);
    Segment { syn: has('S'), fin: has('F'), rst: has('R'), ack: has('.'), ..Segment::NONE }
}

/// A segment as a word: `i` or `o` for where it comes from, then its flags, `.` for ACK.
fn seen(word: &str) -> Seen {
    let (from, flags) = word.split_at(1);
    let from = if from == "i" { Side::Inside } else { Side::Outside };
    Seen { from, segment: Some(segment(flags)), options: TcpOptions::default() }
}

/// The side that began it, and its tracker.
type Life = (Side, Track);

fn begin(config: &NatConfig, first: &Seen) -> Life {
    (first.from, Track::new(config, Transport::Tcp, *first))
}

fn take(config: &NatConfig, life: &mut Life, seen: Seen) -> Fate {
    life.1.step(config, seen, life.0, Duration::ZERO)
}

/// A connection after these segments, and the fate of the last.
fn live(config: &NatConfig, words: &str) -> (SessionState, Fate) {
    let words: Vec<_> = words.split(' ').map(seen).collect();
    let mut life = begin(config, &words[0]);
    let fates: Vec<_> = words.into_iter().map(|seen| take(config, &mut life, seen)).collect();
    (life.1.state(), *fates.last().expect("a segment"))
}

#[test]
fn each_segment_leads_to_its_state_and_gives_it_that_states_time() {
    use SessionState::{Close, Established, FinWait, SynReceived, SynSent, TimeWait};
    for (words, state, seconds) in [
        ("iS", SynSent, 1),
        ("iS iS", SynSent, 1),
        ("iS i.", SynSent, 1),
        ("iS iF.", SynSent, 1),
        ("iS oS.", SynReceived, 2),
        ("iS o.", SynReceived, 2),
        ("iS oS. oS.", SynReceived, 2),
        ("iS oS. iS", SynReceived, 2),
        ("iS oS. i.", Established, 3),
        // Simultaneous open (RFC 5382 REQ-2a).
        ("iS oS", SynReceived, 2),
        ("iS oS iS.", SynReceived, 2),
        ("iS oS iS. oS.", SynReceived, 2),
        ("iS oS iS. oS. i.", Established, 3),
        ("iS oS i.", Established, 3),
        // From outside.
        ("oS", SynSent, 1),
        ("oS o.", SynSent, 1),
        ("oS iS.", SynReceived, 2),
        ("oS iS. o.", Established, 3),
        // What an open connection says does not close it.
        ("iS oS. i. i. o. i.", Established, 3),
        ("iS oS. i. iS", Established, 3),
        // Closing: the first FIN, FINs from both.
        ("iS oS. iF.", FinWait, 4),
        ("iS oS. i. iF.", FinWait, 4),
        ("iS oS. i. oF.", FinWait, 4),
        ("iS oS. i. iF. iF.", FinWait, 4),
        ("iS oS. i. iF. o.", FinWait, 4),
        ("iS oS. i. oF. oF. i.", FinWait, 4),
        ("iS oS. i. iF. oF.", TimeWait, 7),
        ("iS oS. i. oF. iF.", TimeWait, 7),
        ("iS oS. i. oF. iF. o. i.", TimeWait, 7),
        ("iS oS. i. oF. iF. iF.", TimeWait, 7),
        // What repeats the old connection does not open the next one.
        ("iS oS. i. oF. iF. oS.", TimeWait, 7),
        // A SYN does, whoever sends it, and nothing is left of what was.
        ("iS oS. i. iF. oF. iS", SynSent, 1),
        ("iS oS. i. iF. oF. oS", SynSent, 1),
        ("iS oS. i. iF. oF. oS oS", SynSent, 1),
        ("iS oS. i. iF. oF. oS iS. o. oF.", FinWait, 4),
        // An RST, and what follows it.
        ("iS oS. i. iR", Close, 8),
        ("iS oS. i. oR.", Close, 8),
        ("iS oS. i. oR. i.", Close, 8),
        ("iS oS. i. oR. iF.", Close, 8),
        ("iS oS. i. oR. iS.", Close, 8),
        ("iS oS. i. oR. iS", SynSent, 1),
        ("iS oS. i. oR. oS iS. o.", Established, 3),
    ] {
        let config = NatConfig { reset: OnReset::Close, ..config() };
        assert_eq!(live(&config, words), (state, Fate::Refresh(Duration::from_secs(seconds))), "{words}");
    }
}

#[test]
fn a_gateway_that_establishes_no_simultaneous_open_leaves_it_half_open() {
    let config = NatConfig { simultaneous_open: SimultaneousOpen::NeverEstablished, ..config() };
    let half_open = (SessionState::SynReceived, Fate::Refresh(TIMERS.syn_received));
    assert_eq!(live(&config, "iS oS iS. oS. i. o."), half_open);
}

#[test]
fn a_port_that_rests_is_not_reopened_by_a_syn() {
    let rests = Quarantine { fin: Duration::from_secs(9), ..Quarantine::default() };
    let config = NatConfig { quarantine: rests, reset: OnReset::Close, ..config() };
    for ended in ["iS oS. i. iF. oF.", "iS oS. i. oR."] {
        for syn in ["iS", "oS"] {
            assert_eq!(live(&config, &format!("{ended} {syn}")).1, Fate::Reopen, "{ended}");
        }
        assert_ne!(live(&config, &format!("{ended} i.")).1, Fate::Reopen, "{ended}");
    }
}

/// RFC 7857 §2.2 and §7.1.
#[test]
fn an_rst_ends_a_connection_at_once_soon_or_only_if_it_was_the_first_answer() {
    let soon = Fate::Refresh(TIMERS.close);
    for (words, by_half_open, by_close) in [
        ("iS iR", soon, soon),
        ("iS oR.", Fate::End, soon),
        ("iS oS. oR", soon, soon),
        ("iS oS. i. iR", soon, soon),
        ("iS oS. i. oR", soon, soon),
        ("oS oR", soon, soon),
        // It answers what came uninvited, and so prolongs nothing.
        ("oS iR.", Fate::End, Fate::Shorten(TIMERS.close)),
        ("oS iS. iR", soon, soon),
    ] {
        for (reset, fate) in
            [(OnReset::Delete, Fate::End), (OnReset::DeleteHalfOpen, by_half_open), (OnReset::Close, by_close)]
        {
            assert_eq!(live(&NatConfig { reset, ..config() }, words), (SessionState::Close, fate), "{words} {reset:?}");
        }
    }
}

/// RFC 5961 §3 and RFC 7323 §2.
#[test]
fn an_rst_counts_up_to_the_edge_of_the_window_of_its_receiver() {
    use Side::{Inside, Outside};
    // Scales that both sides offer, whether the handshake ends, who sends the RST, and the window that the other has.
    for (scales, is_open, from, window) in [
        ([Some(2), Some(3)], true, Inside, 100 << 3),
        ([Some(2), Some(3)], true, Outside, 100 << 2),
        // That of a SYN is never scaled.
        ([Some(2), Some(3)], false, Inside, 100),
        // Nor is any unless both sides offer it, and none by more than 14.
        ([Some(2), None], true, Outside, 100),
        ([None, Some(3)], true, Inside, 100),
        ([None, None], true, Outside, 100),
        ([Some(15), Some(3)], true, Outside, 100 << 14),
    ] {
        // Each side's numbers, close to where they turn around.
        let isn = [u32::MAX - 5, 7000];
        let next = isn.map(|isn| isn.wrapping_add(1));
        let side = |from| usize::from(from == Outside);
        let say = |from, flags: &str| {
            let (me, other) = (side(from), 1 - side(from));
            let is_syn = flags.contains('S');
            let segment = Segment {
                sequence: if is_syn { isn[me] } else { next[me] },
                acknowledgement: if flags.contains('.') { next[other] } else { 0 },
                window: 100,
                ..segment(flags)
            };
            let window_scale = scales[me].filter(|_| is_syn);
            Seen { from, segment: Some(segment), options: TcpOptions { window_scale, ..TcpOptions::default() } }
        };
        for (past, resets) in [(0, true), (1, true), (window, true), (window + 1, false), (u32::MAX, false)] {
            for checks_reset in [true, false] {
                let config = NatConfig { checks_reset, reset: OnReset::Close, ..config() };
                let syn = say(Inside, "S");
                let mut life = begin(&config, &syn);
                take(&config, &mut life, syn);
                take(&config, &mut life, say(Outside, "S."));
                if is_open {
                    take(&config, &mut life, say(Inside, "."));
                    take(&config, &mut life, say(Outside, "."));
                }
                let open = life.1.state();
                let mut reset = say(from, "R");
                reset.segment = reset.segment.map(|it| Segment { sequence: next[side(from)].wrapping_add(past), ..it });
                let fate = take(&config, &mut life, reset);
                let expected = if resets || !checks_reset {
                    (Fate::Refresh(TIMERS.close), SessionState::Close)
                } else {
                    (Fate::Keep, open)
                };
                assert_eq!((fate, life.1.state()), expected, "{scales:?}, {from:?}, {past} past");
            }
        }
    }
}

#[test]
fn a_connection_begins_with_a_syn_or_in_the_middle_and_never_with_an_rst_or_nonsense() {
    let mut by_flags = BTreeSet::new();
    let mut by_linux = BTreeSet::new();
    for bits in 0..16u8 {
        let flags: String = (0..4).filter(|bit| bits >> bit & 1 == 1).map(|bit| ["S", "F", "R", "."][bit]).collect();
        if begins(Tracking::Flags, segment(&flags)) {
            by_flags.insert(flags.clone());
        }
        if begins(Tracking::Linux(Invalid::Drop), segment(&flags)) {
            by_linux.insert(flags);
        }
    }
    assert_eq!(by_flags.iter().collect::<Vec<_>>(), [".", "F.", "S", "S."]);
    assert_eq!(by_linux.iter().collect::<Vec<_>>(), [".", "S"], "nor with an answer to what it has not seen");
}

#[test]
fn a_connection_opens_then_is_open_and_then_closes() {
    use SessionState::{
        Answered, Asked, Close, CloseWait, Established, FinWait, LastAck, SynReceived, SynSent, SynSent2, TimeWait,
    };
    let opening = [SynSent, SynSent2, SynReceived];
    let closing = [FinWait, CloseWait, LastAck, TimeWait, Close];
    for state in opening.into_iter().chain([Established, Asked, Answered]).chain(closing) {
        let told = (state.is_opening(), state.is_closing());
        assert_eq!(told, (opening.contains(&state), closing.contains(&state)), "{state}");
    }
    let names: BTreeSet<_> = opening.iter().chain(&closing).map(ToString::to_string).collect();
    assert_eq!(names.len(), opening.len() + closing.len(), "each has a name of its own");
}

#[test]
fn a_connection_is_unreplied_until_the_other_side_speaks() {
    for tracking in [Tracking::Flags, Tracking::Linux(Invalid::Drop)] {
        let config = NatConfig { tracking, ..config() };
        for (begins, repeats, answers) in [("iS", "iS", "oS."), ("oS", "oS", "iS.")] {
            let mut life = begin(&config, &seen(begins));
            for (word, is_unreplied) in [(begins, true), (repeats, true), (answers, false)] {
                take(&config, &mut life, seen(word));
                assert_eq!(life.1.is_unreplied(), is_unreplied, "{tracking:?}: {begins} {word}");
            }
        }
    }
    let mut proxied = (Side::Inside, Track::proxied(segment("S"), Side::Inside));
    assert!(proxied.1.is_unreplied());
    for word in ["iS", "oS."] {
        take(&config(), &mut proxied, seen(word));
    }
    assert_eq!((proxied.1.is_unreplied(), proxied.1.state()), (false, SessionState::SynReceived));
    for is_tcp_open in [false, true] {
        assert!(Track::Own { is_tcp_open }.is_unreplied(), "nothing inside has spoken");
    }
}

/// RFC 4787 REQ-6, and Linux's 2 s.
#[test]
fn a_datagram_prolongs_its_session_if_its_direction_may_and_the_first_always_does() {
    let datagram = |from| Seen { from, segment: None, options: TcpOptions::default() };
    let linux = Tracking::Linux(Invalid::Drop);
    for bits in 0..8u8 {
        let [outbound, inbound, inbound_uninvited] = [1, 2, 4].map(|bit| bits & bit != 0);
        let config = NatConfig { refresh: Refresh { outbound, inbound, inbound_uninvited }, ..config() };
        for (begun_by, invited) in [(Side::Inside, inbound), (Side::Outside, inbound_uninvited)] {
            let may = |from: Side| if from == Side::Inside { outbound } else { invited };
            let other = if begun_by == Side::Inside { Side::Outside } else { Side::Inside };
            let mut track = Track::new(&config, Transport::Udp, datagram(begun_by));
            let mut is_first = true;
            for (from, is_answered) in [(begun_by, false), (begun_by, false), (other, true), (begun_by, true)] {
                let fate = track.step(&config, datagram(from), begun_by, Duration::ZERO);
                let idle = if is_answered { TIMERS.udp_stream } else { TIMERS.udp_new };
                let expected = if may(from) || is_first { Fate::Refresh(idle) } else { Fate::Keep };
                assert_eq!((fate, track.is_unreplied()), (expected, !is_answered), "{:?}", config.refresh);
                is_first = false;
            }
        }
    }
    let config = NatConfig { tracking: linux, refresh: Refresh { outbound: true, ..config().refresh }, ..config() };
    let two = Duration::from_secs(2);
    let mut track = Track::new(&config, Transport::Udp, datagram(Side::Outside));
    for (from, age, idle) in [
        (Side::Outside, Duration::ZERO, TIMERS.udp_new),
        (Side::Inside, two, TIMERS.udp_new),
        (Side::Inside, two + Duration::from_nanos(1), TIMERS.udp_stream),
    ] {
        assert_eq!(track.step(&config, datagram(from), Side::Outside, age), Fate::Refresh(idle), "{age:?}");
    }
}
