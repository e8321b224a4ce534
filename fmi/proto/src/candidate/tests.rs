//! Goal: the plan is the table of techniques. Method: made-up members.

use super::*;
use crate::card::Security;

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn peer(main: &str, second: &str, local: &str) -> Peer {
    let card = Card { locals: vec![at(local)], ..Card::sample(Security::Encrypted) };
    Peer {
        nonce: [0; 16],
        observed: Observed { second: Some(at(second)), ..Observed::once(at(main)) },
        round_trip: Duration::from_millis(10),
        card: Some(card),
    }
}

fn public(ip: u8) -> Peer {
    let text = format!("198.51.100.{ip}:4000");
    peer(&text, &text, &text)
}

fn keeping(ip: u8) -> Peer {
    let text = format!("203.0.113.{ip}:4000");
    peer(&text, &text, "10.0.0.2:4000")
}

#[test]
fn a_stream_counts_as_what_it_took_and_not_as_what_was_planned() {
    let peer = keeping(1);
    let route = |remote: &str, path| peer.route(at(remote), path);
    for (remote, opened, path, planned, counts_as) in [
        ("203.0.113.1:4000", Path::Direct, Path::Direct, Technique::Punch, Technique::Punch),
        ("203.0.113.1:4000", Path::Direct, Path::Direct, Technique::Prediction, Technique::Prediction),
        // One of its own addresses, whoever opened the stream.
        ("10.0.0.2:77", Path::Direct, Path::Private, Technique::Punch, Technique::Local),
        ("10.0.0.2:77", Path::Private, Path::Private, Technique::Direct, Technique::Direct),
        // The other family has no translated addresses: both open their firewalls.
        ("[2001:db8::1]:4000", Path::Direct, Path::Direct, Technique::Relay, Technique::Punch),
        ("192.0.2.1:7000", Path::Relay, Path::Relay, Technique::Punch, Technique::Relay),
        ("10.0.0.2:77", Path::Relay, Path::Relay, Technique::Local, Technique::Relay),
    ] {
        let taken = route(remote, opened);
        assert_eq!((taken.path, taken.technique(planned)), (path, counts_as), "{remote} {planned}");
    }
}

fn counting(ip: u8) -> Peer {
    peer(&format!("203.0.113.{ip}:5001"), &format!("203.0.113.{ip}:5000"), "10.0.0.2:4000")
}

fn random(ip: u8) -> Peer {
    peer(&format!("203.0.113.{ip}:61001"), &format!("203.0.113.{ip}:2000"), "10.0.0.2:4000")
}

const MEANS: Means = Means { relay: None, sprays: false, peers: Peers::All, seed: 1 };

fn plan(own: Peer, their: Peer, means: &Means) -> Pairing {
    Roster { session: [0; 16], epoch: 0, digest: [0; 32], peers: vec![own, their] }.plan(0, 1, means)
}

fn remotes(pairing: &Pairing) -> Vec<(String, Path, u128)> {
    let seen = |it: &Candidate| (it.remote.to_string(), it.path, it.after.as_millis());
    pairing.candidates.iter().map(seen).collect()
}

#[test]
fn classes_follow_from_two_observations() {
    assert_eq!(public(1).class(), NatClass::Public);
    assert_eq!(keeping(1).class(), NatClass::Predictable);
    assert_eq!(counting(1).class(), NatClass::Sequential(1));
    assert_eq!(random(1).class(), NatClass::Unpredictable);
    let once = Peer { observed: Observed::once(at("203.0.113.1:4000")), ..random(1) };
    assert_eq!(once.class(), NatClass::Predictable, "one observation tells nothing; the best is hoped for");
}

#[test]
fn the_technique_is_that_of_the_table() {
    let members = [public(1), keeping(2), counting(3), random(4)];
    use Technique::{Direct, Listen, Prediction, Punch, Relay, Reversal};
    let table = [
        [Direct, Reversal, Reversal, Reversal],
        [Direct, Punch, Prediction, Listen],
        [Direct, Prediction, Prediction, Relay],
        [Direct, Listen, Relay, Relay],
    ];
    for (own, row) in members.iter().zip(table) {
        for (their, expected) in members.iter().zip(row) {
            let other = Peer { observed: Observed { main: at("192.0.2.77:1"), ..own.observed }, ..own.clone() };
            let own = if own.observed.main.ip() == their.observed.main.ip() && own.class() != NatClass::Public {
                // Another NAT of the same kind.
                let moved = |it: SocketAddr| SocketAddr::new([192, 0, 2, 77].into(), it.port());
                let observed = own.observed;
                let second = observed.second.map(moved);
                Peer { observed: Observed { main: moved(observed.main), second, other: None }, ..own.clone() }
            } else if own.class() == NatClass::Public {
                Peer {
                    card: Some(Card { locals: vec![other.observed.main], ..own.card.clone().expect("one") }),
                    ..other
                }
            } else {
                own.clone()
            };
            assert_eq!(technique(&own, their, false), expected, "{own:?} {their:?}");
        }
    }
    assert_eq!(technique(&random(1), &keeping(2), true), Technique::Spray);
    assert_eq!(technique(&random(1), &random(2), true), Relay, "54,000 probes for an even chance");
}

#[test]
fn behind_one_nat_own_addresses_come_first_and_hairpin_is_not_needed() {
    let a = keeping(1);
    let mut b = keeping(1);
    b.observed.main = at("203.0.113.1:4001");
    b.card.as_mut().expect("one").locals = vec![at("10.0.0.3:4001")];
    let expected = [("10.0.0.3:4001".into(), Path::Private, 0), ("203.0.113.1:4001".into(), Path::Direct, 50)];
    assert_eq!(remotes(&plan(a, b, &MEANS)), expected);
    let elsewhere = plan(keeping(1), keeping(2), &MEANS);
    assert_eq!(remotes(&elsewhere), [("203.0.113.2:4000".into(), Path::Direct, 0)], "private addresses repeat");
}

#[test]
fn ipv6_comes_before_translated_addresses() {
    let with = |mut peer: Peer, text| {
        peer.observed.other = Some(at(text));
        peer
    };
    let both = plan(with(keeping(1), "[2001:db8::1]:9"), with(keeping(2), "[2001:db8::2]:9"), &MEANS);
    let expected = [("[2001:db8::2]:9".into(), Path::Direct, 0), ("203.0.113.2:4000".into(), Path::Direct, 100)];
    assert_eq!(remotes(&both), expected);
    let one = plan(with(keeping(1), "[2001:db8::1]:9"), keeping(2), &MEANS);
    assert_eq!(remotes(&one), [("203.0.113.2:4000".into(), Path::Direct, 0)]);
}

#[test]
fn a_counting_nat_is_met_at_its_next_ports_in_the_order_of_its_peers() {
    let roster = Roster {
        session: [0; 16],
        epoch: 0,
        digest: [0; 32],
        peers: vec![keeping(1), keeping(2), counting(3), keeping(4)],
    };
    let ports = |rank| {
        let pairing = roster.plan(rank, 2, &MEANS);
        assert_eq!(pairing.technique, Technique::Prediction);
        pairing.candidates.iter().map(|it| it.remote.port()).collect::<Vec<_>>()
    };
    assert_eq!(ports(3), [5002, 5003, 5004, 5005], "rank 2 turns to rank 3 first");
    assert_eq!(ports(0), [5003, 5004, 5005, 5006]);
    assert_eq!(ports(1), [5004, 5005, 5006, 5007]);
    let back = roster.plan(2, 1, &MEANS);
    assert_eq!(remotes(&back), [("203.0.113.2:4000".into(), Path::Direct, 0)]);
}

#[test]
fn who_hears_earlier_waits_for_the_other() {
    let far = Peer { round_trip: Duration::from_millis(90), ..keeping(2) };
    assert_eq!(plan(keeping(1), far.clone(), &MEANS).candidates[0].after, Duration::from_millis(40));
    assert_eq!(plan(far, keeping(1), &MEANS).candidates[0].after, Duration::ZERO);
    let liar = Peer { round_trip: Duration::from_secs(3600), ..keeping(2) };
    assert_eq!(plan(keeping(1), liar, &MEANS).candidates[0].after, SKEW_MAX);
}

/// When the relay is asked, if it is the last to be.
fn relayed_after(own: Peer, their: Peer, means: &Means) -> Option<u128> {
    let relay = means.relay?;
    let pairing = plan(own, their, means);
    pairing.candidates.last().filter(|it| (it.remote, it.path) == (relay, Path::Relay)).map(|it| it.after.as_millis())
}

fn far(peer: Peer, round_trip: u64) -> Peer {
    Peer { round_trip: Duration::from_millis(round_trip), ..peer }
}

#[test]
fn the_relay_comes_last_and_the_sooner_the_less_is_hoped_for() {
    let means = Means { relay: Some(at("192.0.2.1:7000")), ..MEANS };
    let after = |own, their| relayed_after(own, their, &means);
    let once = |peer: Peer| Peer { observed: Observed::once(peer.observed.main), ..peer };
    let v6 = |peer: Peer| Peer { observed: Observed { other: Some(at("[2001:db8::1]:9")), ..peer.observed }, ..peer };
    let busy = allowance(2).as_millis();
    for (own, their, expected) in [
        (random(1), random(2), 0),
        (random(1), counting(2), 0),
        (v6(random(1)), v6(random(2)), 100),
        (keeping(1), random(2), 100),
        (keeping(1), counting(2), 100),
        (public(1), random(2), 100),
        (keeping(1), once(keeping(2)), 100),
        (public(1), once(public(2)), 100),
        (keeping(1), keeping(2), 200 + busy),
        (public(1), keeping(2), 200 + busy),
        (public(1), public(2), 200 + busy),
        // It takes as long as packets do.
        (far(keeping(1), 200), far(random(2), 200), 600),
        (far(keeping(1), 200), far(keeping(2), 200), 800 + busy),
        (far(random(1), 200), far(random(2), 200), 0),
        // Nobody is believed to be as far away as that.
        (far(keeping(1), 3_600_000), far(keeping(2), 3_600_000), 12_000 + busy),
    ] {
        assert_eq!(after(own.clone(), their.clone()), Some(expected), "{own:?} {their:?}");
        assert_eq!(after(their, own), Some(expected));
    }
}

#[test]
fn behind_one_nat_hairpin_has_its_time_before_the_relay_and_a_random_port_none() {
    let means = Means { relay: Some(at("192.0.2.1:7000")), ..MEANS };
    let beside = |mut peer: Peer, port| {
        peer.observed.main.set_port(port);
        peer.observed.second = Some(peer.observed.main);
        peer.card.as_mut().expect("one").locals = vec![at("10.0.0.3:4001")];
        peer
    };
    let there = plan(keeping(1), beside(keeping(1), 4001), &means);
    let expected = [
        ("10.0.0.3:4001".into(), Path::Private, 0),
        ("203.0.113.1:4001".into(), Path::Direct, 50),
        ("192.0.2.1:7000".into(), Path::Relay, 150 + allowance(2).as_millis()),
    ];
    assert_eq!(remotes(&there), expected);
    let mut other = random(1);
    other.card.as_mut().expect("one").locals = vec![at("10.0.0.3:4001")];
    let paths: Vec<_> = plan(random(1), other, &means).candidates.iter().map(|it| it.path).collect();
    assert_eq!(paths, [Path::Private, Path::Relay]);
    let (one, mut other) = (public(1), public(1));
    other.observed.main.set_port(4001);
    other.observed.second = Some(other.observed.main);
    other.card.as_mut().expect("one").locals = vec![other.observed.main];
    assert_eq!(relayed_after(one, other, &means), Some(200 + allowance(2).as_millis()), "one host");
}

#[test]
fn a_rank_whose_peer_may_not_dial_back_hopes_for_little() {
    let means = Means { relay: Some(at("192.0.2.1:7000")), ..MEANS };
    // The rendezvous is in the network of one of both.
    let inside = peer("10.9.0.2:4000", "10.9.0.2:4000", "10.9.0.2:4000");
    assert_eq!(relayed_after(inside.clone(), keeping(2), &means), Some(100));
    assert_eq!(remotes(&plan(keeping(2), inside, &means)), [("192.0.2.1:7000".into(), Path::Relay, 0)]);
}

#[test]
fn where_both_ports_are_random_nothing_is_dialled_unless_there_is_no_relay() {
    let means = Means { relay: Some(at("192.0.2.1:7000")), ..MEANS };
    for (own, their) in [(random(1), random(2)), (random(1), counting(2)), (counting(1), random(2))] {
        assert!(plan(own.clone(), their.clone(), &means).candidates.iter().all(|it| it.from == LocalEnd::Relay));
        let alone = plan(own, their.clone(), &MEANS).candidates;
        assert_eq!(
            alone.iter().map(|it| (it.remote, it.pace)).collect::<Vec<_>>(),
            [(their.observed.main, Pace::Sparse)]
        );
    }
}

#[test]
fn a_spray_needs_the_consent_of_both_and_keeps_its_budget() {
    let willing = |mut peer: Peer| {
        peer.card.as_mut().expect("one").sprays = true;
        peer
    };
    let means = Means { sprays: true, ..MEANS };
    assert_eq!(plan(keeping(1), random(2), &means).technique, Technique::Listen, "the peer has not agreed");
    assert_eq!(plan(keeping(1), willing(random(2)), &MEANS).technique, Technique::Listen, "nor has this rank");
    let aiming = plan(keeping(1), willing(random(2)), &means);
    assert_eq!(aiming.candidates.len(), 1 + SPRAY_PROBES as usize);
    assert!(aiming.candidates.iter().all(|it| it.remote.ip() == at("203.0.113.2:1").ip() && it.remote.port() >= 1024));
    let opening = plan(random(1), willing(keeping(2)), &means);
    let fresh = opening.candidates.iter().filter(|it| it.from == LocalEnd::Fresh).count();
    assert_eq!(fresh, SPRAY_SOCKETS as usize);
    let pace = aiming.candidates.windows(2).skip(1).all(|pair| pair[1].after - pair[0].after == SPRAY_PACE);
    assert!(pace, "1,000 a second");
}

#[test]
fn a_member_whose_card_does_not_verify_is_nobodys_target() {
    let impostor = Peer { card: None, ..keeping(2) };
    let means = Means { relay: Some(at("192.0.2.1:7000")), ..MEANS };
    assert_eq!(remotes(&plan(keeping(1), impostor, &means)), []);
}

#[test]
fn no_address_is_dialled_that_reaches_less_far_than_the_own_one() {
    let seen_at = |main: &str| Peer { observed: Observed::once(at(main)), ..keeping(1) };
    let (host, site, global) = ("127.0.0.1:1", "192.168.0.1:1", "203.0.113.9:1");
    let nobodys = ["224.0.0.1:1", "255.255.255.255:1", "0.0.0.0:1", "203.0.113.9:0"];
    for (own, dialled, left) in [
        ("127.0.0.1:5", &[host, site, global][..], &nobodys[..]),
        ("10.0.0.1:5", &[site, global], &[host, "127.9.9.9:1"]),
        ("198.51.100.1:5", &[global], &[host, site, "169.254.169.254:80", "10.0.0.1:1", "[::1]:1", "[2001:db8::1]:1"]),
        ("[2001:db8::2]:5", &["[2001:db8::1]:1"], &["[fd00::1]:1", "[fe80::1]:1", "[ff02::1]:1", global]),
    ] {
        for (main, is_dialled) in dialled.iter().map(|it| (it, true)).chain(left.iter().map(|it| (it, false))) {
            let their = seen_at(main);
            let aims = |it: &Candidate| it.remote.ip() == their.observed.main.ip();
            let is_aimed_at = plan(seen_at(own), their.clone(), &MEANS).candidates.iter().any(aims);
            assert_eq!(is_aimed_at, is_dialled, "{own} to {main}");
        }
    }
    // The same for the other family, for what a counter will give, and for sprays.
    let other =
        |other: &str| Peer { observed: Observed { other: Some(at(other)), ..keeping(1).observed }, ..keeping(1) };
    let counting = peer("192.168.0.1:5001", "192.168.0.1:5000", "10.0.0.2:4000");
    let random = peer("192.168.0.1:61001", "192.168.0.1:2000", "10.0.0.2:4000");
    let sprayed = Peer { card: random.card.clone().map(|card| Card { sprays: true, ..card }), ..random };
    let sprays = Means { sprays: true, ..MEANS };
    for (own, their) in [
        (other("[2001:db8::2]:1"), other("[fd00::1]:1")),
        (keeping(1), Peer { observed: Observed { other: None, ..counting.observed }, ..counting }),
        (keeping(1), sprayed),
    ] {
        let pairing = plan(own, their, &sprays);
        let is_near = |it: &Candidate| Scope::of(it.remote.ip()) != Some(Scope::Global);
        assert!(!pairing.candidates.iter().any(is_near), "{pairing:?}");
    }
}

#[test]
fn the_step_of_a_counter_is_signed() {
    for (main, second, step) in [(5003, 5000, 3), (5000, 5003, -3)] {
        let counting = peer(&format!("203.0.113.1:{main}"), &format!("203.0.113.1:{second}"), "10.0.0.2:4000");
        assert_eq!(counting.class(), NatClass::Sequential(step));
    }
}

#[test]
fn a_public_rank_shows_its_firewall_where_the_peer_will_come_from() {
    let first = |their| plan(public(1), their, &MEANS).candidates[0];
    assert_eq!(plan(public(1), counting(2), &MEANS).candidates.len(), usize::from(FORETOLD));
    assert_eq!((first(keeping(2)).pace, first(keeping(2)).remote.port()), (Pace::Eager, 4000));
    assert_eq!(first(counting(2)).remote.port(), 5002, "the next one");
    assert_eq!(first(random(2)).pace, Pace::Sparse, "nobody knows where");
}

#[test]
fn an_address_is_tried_once() {
    let (own, mut their) = (keeping(1), keeping(1));
    their.observed.main = at("203.0.113.1:4001");
    their.card.as_mut().expect("one").locals = vec![at("10.0.0.3:4001"); 3];
    assert_eq!(plan(own, their, &MEANS).candidates.len(), 2);
}

/// A group of one rank with this many peers, towards how many of which it guesses.
fn guessed(own: Peer, others: &[(Peer, usize)]) -> usize {
    let means = Means { relay: Some(at("192.0.2.1:7000")), ..MEANS };
    let elsewhere = |(peer, count): &(Peer, usize)| std::iter::repeat_n(peer.clone(), *count).collect::<Vec<_>>();
    let peers: Vec<_> = std::iter::once(own).chain(others.iter().flat_map(elsewhere)).collect();
    let size = u32::try_from(peers.len()).expect("few");
    let roster = Roster { session: [0; 16], epoch: 0, digest: [0; 32], peers };
    let is_dialled = |peer: &u32| roster.plan(0, *peer, &means).candidates.iter().any(|it| it.from != LocalEnd::Relay);
    (1..size).filter(is_dialled).count()
}

#[test]
fn guesses_take_the_ports_of_a_nat_that_relays_leave() {
    for (own, others, expected) in [
        (random(1), vec![(keeping(2), 31)], 31),
        (random(1), vec![(keeping(2), 40)], 22),
        (random(1), vec![(random(2), 30), (keeping(2), 10)], 10),
        (random(1), vec![(random(2), 30), (keeping(2), 40)], 0),
        (counting(1), vec![(counting(2), 10)], 10),
        (counting(1), vec![(counting(2), 30)], 8),
        // What is no guess takes what it takes, and ports of others are not this rank's.
        (counting(1), vec![(keeping(2), 90)], 90),
        (keeping(1), vec![(random(2), 90)], 90),
        (keeping(1), vec![(counting(2), 90)], 90),
        (random(1), vec![(public(2), 90)], 90),
    ] {
        assert_eq!(guessed(own.clone(), &others), expected, "{own:?}");
    }
}

#[test]
fn pairs_of_random_ports_do_not_ask_for_all_relays_in_one_moment() {
    let means = Means { relay: Some(at("192.0.2.1:7000")), ..MEANS };
    let times = |others: usize| {
        // Ranks whose ports are known have nothing to do with it.
        let peers = (0..64u8).map(|rank| if rank < 40 { far(random(rank), 30) } else { keeping(rank) });
        let peers: Vec<_> = peers.take(others).collect();
        let size = u32::try_from(peers.len()).expect("few");
        let roster = Roster { session: [0; 16], epoch: 0, digest: [0; 32], peers };
        let pairs =
            (0..size).flat_map(|rank| (0..size).map(move |peer| (rank, peer))).filter(|(rank, peer)| rank != peer);
        let after = |(rank, peer): (u32, u32)| roster.plan(rank, peer, &means).candidates[0].after;
        pairs
            .filter(|(rank, peer)| rank.max(peer) < &40)
            .map(|(rank, peer)| {
                assert_eq!(after((rank, peer)), after((peer, rank)), "both ends ask at once");
                after((rank, peer))
            })
            .collect::<Vec<_>>()
    };
    assert!(times(3).iter().all(Duration::is_zero));
    for size in [40, 64] {
        let times = times(size);
        let window = Duration::from_millis(30);
        let under_way = |from: &Duration| times.iter().filter(|at| (*from..*from + window).contains(at)).count();
        let most = times.iter().map(under_way).max().expect("many");
        assert!((300..=600).contains(&most), "{most} handshakes at once of {}", times.len());
        assert!(times.iter().max() < Some(&Duration::from_millis(100)), "and nobody waits long");
    }
}

#[test]
fn a_relay_is_asked_after_a_spray() {
    let means = Means { relay: Some(at("192.0.2.1:7000")), sprays: true, ..MEANS };
    let mut willing = random(2);
    willing.card.as_mut().expect("one").sprays = true;
    let sprayed = (SPRAY_PACE * SPRAY_PROBES).as_millis();
    assert_eq!(relayed_after(keeping(1), willing, &means), Some(100 + sprayed));
}

#[test]
fn a_spray_draws_every_port_of_users_and_other_ones_for_each_peer() {
    let mut willing = random(2);
    willing.card.as_mut().expect("one").sprays = true;
    let peers = [random(9), willing.clone(), willing.clone(), willing.clone(), willing];
    let roster =
        Roster { session: [0; 16], epoch: 0, digest: [0; 32], peers: [keeping(1)].into_iter().chain(peers).collect() };
    let ports = |peer, seed| {
        let pairing = roster.plan(0, peer, &Means { sprays: true, seed, ..MEANS });
        pairing.candidates.iter().filter(|it| it.pace == Pace::Once).map(|it| it.remote.port()).collect::<Vec<_>>()
    };
    let mut drawn = BTreeSet::new();
    for seed in 0..8 {
        let of_peers: BTreeSet<_> = (2..6).map(|peer| ports(peer, seed)).collect();
        assert_eq!(of_peers.len(), 4, "seed {seed}");
    }
    for seed in 0..1000 {
        drawn.extend(ports(2, seed));
    }
    assert_eq!((drawn.first(), drawn.last()), (Some(&SPRAY_PORT_MIN), Some(&u16::MAX)));
}

#[test]
fn techniques_have_names_and_some_are_likely() {
    use Technique::{Direct, Listen, Local, Prediction, Punch, Relay, Reversal, Spray};
    for (technique, name, is_likely) in [
        (Local, "local", true),
        (Direct, "direct", true),
        (Reversal, "reversal", true),
        (Punch, "punch", true),
        (Prediction, "prediction", true),
        (Listen, "listen", false),
        (Spray, "spray", false),
        (Relay, "relay", false),
    ] {
        assert_eq!((technique.to_string().as_str(), technique.is_likely()), (name, is_likely));
    }
}
