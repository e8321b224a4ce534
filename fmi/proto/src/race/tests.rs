//! Goal: the first address that answers wins, soon, and alike on all ranks. Method: a network in which each address has its
//! fate, run on virtual time.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;

const GROUP: GroupId = [7; 32];

fn ms(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

fn v4(last: u8) -> SocketAddr {
    ([192, 0, 2, last], 7000).into()
}

fn v6(last: u8) -> SocketAddr {
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)], 7000).into()
}

fn order() -> Order {
    Order { group: GROUP, last: None, elsewhere: false, together: true }
}

/// What an address does with a connection attempt, and how many milliseconds later.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Answers(u64),
    Refuses(u64),
}

/// Addresses that do anything; all others are silent.
type Fates = BTreeMap<SocketAddr, Fate>;

#[derive(Debug, Default, PartialEq, Eq)]
struct Course {
    /// When each attempt began, and where.
    begun: Vec<(u64, Place)>,
    lookups: usize,
    end: Option<(u64, Result<SocketAddr, io::ErrorKind>)>,
}

/// Runs a race for 10 s. The answer to a lookup comes at the time that goes with it.
fn run(mut race: Race, fates: &Fates, answer: Option<(u64, Result<Vec<SocketAddr>, io::ErrorKind>)>) -> Course {
    let mut events: BTreeMap<(Instant, usize), Input> = BTreeMap::new();
    let mut course = Course::default();
    if let Some((at, answer)) = answer {
        events.insert((ms(at), 0), answer.map_or_else(Input::Unresolved, Input::Resolved));
    }
    let mut now = Instant::ZERO;
    loop {
        while let Some(output) = race.poll_output() {
            let millis = now.as_nanos() / 1_000_000;
            assert_eq!(course.end, None, "the end is the last word");
            match output {
                Output::Resolve => course.lookups += 1,
                Output::Connect(attempt, place) => {
                    assert_eq!(attempt, course.begun.len());
                    course.begun.push((millis, place));
                    let sides = [(Side::Preferred, Some(place.preferred)), (Side::Other, place.other)];
                    for (side, address) in sides.into_iter().filter_map(|(side, it)| Some((side, it?))) {
                        let Some(fate) = fates.get(&address).copied() else { continue };
                        let (after, input) = match fate {
                            Fate::Answers(after) => (after, Input::Connected(attempt, side)),
                            Fate::Refuses(after) => {
                                (after, Input::Failed(attempt, side, io::ErrorKind::ConnectionRefused))
                            }
                        };
                        events.insert((now + Duration::from_millis(after), events.len() + 1), input);
                    }
                }
                Output::Won(attempt, side) => {
                    let place = course.begun[attempt].1;
                    let address = if side == Side::Preferred { Some(place.preferred) } else { place.other };
                    course.end = Some((millis, Ok(address.expect("only what was begun wins"))));
                }
                Output::Lost(kind) => course.end = Some((millis, Err(kind))),
            }
        }
        let due = race.poll_timeout().map(|(at, _)| at);
        let event = events.keys().next().copied().filter(|(at, _)| due.is_none_or(|due| *at <= due));
        match (event, due) {
            (Some(key), _) => {
                now = now.max(key.0);
                let input = events.remove(&key).expect("it was just found");
                race.handle_input(now, input);
            }
            (None, Some(due)) if due < ms(10_000) => {
                now = now.max(due);
                race.handle_timeout(now);
            }
            (None, _) => return course,
        }
    }
}

fn race(addresses: &[SocketAddr]) -> Race {
    Race::new(Instant::ZERO, order(), addresses.to_vec(), true)
}

#[test]
fn both_families_of_a_place_are_tried_at_once_and_ipv4_is_kept() {
    let fates = Fates::from([(v4(1), Fate::Answers(200)), (v6(1), Fate::Answers(10))]);
    let course = run(race(&[v6(1), v4(1)]), &fates, None);
    assert_eq!(course.begun, [(0, Place { preferred: v4(1), other: Some(v6(1)) })]);
    assert_eq!((course.lookups, course.end), (0, Some((200, Ok(v4(1))))));
}

#[test]
fn ipv6_is_kept_where_ipv4_fails_or_takes_too_long() {
    for (ipv4, expected) in [
        (Some(Fate::Refuses(5)), (30, Ok(v6(1)))),
        (Some(Fate::Refuses(70)), (70, Ok(v6(1)))),
        (None, (250, Ok(v6(1)))),
        (Some(Fate::Answers(251)), (250, Ok(v6(1)))),
        (Some(Fate::Answers(249)), (249, Ok(v4(1)))),
    ] {
        let mut fates = Fates::from([(v6(1), Fate::Answers(30))]);
        fates.extend(ipv4.map(|fate| (v4(1), fate)));
        assert_eq!(run(race(&[v4(1), v6(1)]), &fates, None).end, Some(expected), "{ipv4:?}");
    }
    let slow = Fates::from([(v6(1), Fate::Answers(400))]);
    assert_eq!(run(race(&[v4(1), v6(1)]), &slow, None).end, Some((400, Ok(v6(1)))));
}

#[test]
fn a_silent_place_is_followed_after_a_delay_and_one_that_fails_at_once() {
    let all = [v4(1), v4(2), v4(3)];
    let [first, second, third] = [0, 1, 2].map(|number: usize| order().places(&all)[number].preferred);
    let fates = Fates::from([(second, Fate::Refuses(40)), (third, Fate::Answers(20))]);
    let course = run(race(&all), &fates, None);
    let times: Vec<_> = course.begun.iter().map(|(at, place)| (*at, place.preferred)).collect();
    assert_eq!(times, [(0, first), (250, second), (500, third)], "the first one may still answer");
    assert_eq!(course.end, Some((520, Ok(third))));
    let fates = Fates::from([(first, Fate::Refuses(40)), (second, Fate::Refuses(40)), (third, Fate::Answers(20))]);
    assert_eq!(run(race(&all), &fates, None).end, Some((100, Ok(third))));
    let fates = Fates::from([(first, Fate::Answers(260)), (second, Fate::Answers(100))]);
    let course = run(race(&all), &fates, None);
    assert_eq!((course.begun.len(), course.end), (2, Some((260, Ok(first)))), "what has begun goes on");
}

#[test]
fn what_a_server_did_is_told_rather_than_that_a_family_is_missing() {
    let mut race = race(&[v4(1), v6(1)]);
    assert!(matches!(race.poll_output(), Some(Output::Connect(0, _))));
    race.handle_input(ms(1), Input::Failed(0, Side::Preferred, io::ErrorKind::ConnectionRefused));
    race.handle_input(ms(1), Input::Failed(0, Side::Other, io::ErrorKind::NetworkUnreachable));
    assert_eq!(race.poll_output(), Some(Output::Lost(io::ErrorKind::ConnectionRefused)));
    assert_eq!((race.poll_output(), race.poll_timeout()), (None, None));
    race.handle_input(ms(2), Input::Connected(0, Side::Other));
    assert_eq!(race.poll_output(), None, "late news is ignored");
}

fn stale(known: &[SocketAddr]) -> Race {
    Race::new(Instant::ZERO, order(), known.to_vec(), false)
}

#[test]
fn a_name_is_looked_up_before_anything_is_tried() {
    let fates = Fates::from([(v4(1), Fate::Answers(10))]);
    let course = run(stale(&[]), &fates, Some((4000, Ok(vec![v4(1)]))));
    assert_eq!((course.lookups, course.end), (1, Some((4010, Ok(v4(1))))));
    for answer in [Err(io::ErrorKind::HostUnreachable), Ok(vec![])] {
        let kind = answer.clone().err().unwrap_or(io::ErrorKind::NotFound);
        assert_eq!(run(stale(&[]), &fates, Some((70, answer))).end, Some((70, Err(kind))));
    }
}

#[test]
fn addresses_that_failed_are_tried_again_only_for_want_of_others() {
    let fates = Fates::from([(v4(1), Fate::Answers(10)), (v4(2), Fate::Answers(10))]);
    let new = run(stale(&[v4(1)]), &fates, Some((30, Ok(vec![v4(2)]))));
    assert_eq!(new.end, Some((40, Ok(v4(2)))));
    assert_eq!(run(stale(&[v4(1)]), &fates, Some((30, Err(io::ErrorKind::NotFound)))).end, Some((40, Ok(v4(1)))));
    assert_eq!(run(stale(&[v4(1)]), &fates, None).end, Some((260, Ok(v4(1)))), "whoever knows does not answer");
}

#[test]
fn an_answer_that_comes_late_is_used_all_the_same() {
    let fates = Fates::from([(v4(1), Fate::Refuses(10)), (v4(2), Fate::Answers(10))]);
    let answer = |at| Some((at, Ok(vec![v4(1), v4(2)])));
    assert_eq!(run(stale(&[v4(1)]), &fates, answer(900)).end, Some((910, Ok(v4(2)))));
    let silent = Fates::from([(v4(2), Fate::Answers(10))]);
    let course = run(stale(&[v4(1)]), &silent, answer(300));
    let times: Vec<_> = course.begun.iter().map(|(at, place)| (*at, place.preferred)).collect();
    assert_eq!(times, [(250, v4(1)), (500, v4(2))], "an address is tried once, and none beside a fresh attempt");
    assert_eq!(run(stale(&[v4(1)]), &fates, Some((900, Err(io::ErrorKind::NotFound)))).end, {
        Some((900, Err(io::ErrorKind::ConnectionRefused)))
    });
}

#[test]
fn an_answer_that_tells_nothing_takes_no_address_away() {
    let all = [v4(1), v4(2)];
    let [first, second] = [0, 1].map(|number: usize| order().places(&all)[number].preferred);
    let fates = Fates::from([(first, Fate::Refuses(400)), (second, Fate::Answers(10))]);
    for (answer, ends_at) in [(Some((300, Err(io::ErrorKind::NotFound))), 510), (None, 510)] {
        assert_eq!(run(stale(&all), &fates, answer).end, Some((ends_at, Ok(second))));
    }
    let unasked = run(race(&all), &fates, Some((1, Err(io::ErrorKind::NotFound))));
    assert_eq!(unasked.end, Some((260, Ok(second))));
    assert_eq!(run(race(&all), &fates, Some((1, Ok(vec![])))), unasked);
}

#[test]
fn the_address_that_was_kept_comes_first_or_last() {
    let all = [v4(1), v4(2), v4(3), v6(1), v6(2)];
    let of = |last, elsewhere| Order { last, elsewhere, ..order() }.places(&all);
    let plain = of(None, false);
    assert_eq!(plain, of(None, true));
    let kept = plain[1].preferred;
    assert_eq!(of(Some(kept), false)[0].preferred, kept);
    assert_eq!(of(Some(kept), true)[0].preferred, plain[2].preferred);
    let kept = plain[1].other.expect("two of IPv6");
    assert_eq!(of(Some(kept), false)[0].other, Some(kept));
    assert_eq!(of(Some(kept), false)[0].preferred, plain[0].preferred);
    assert_eq!(of(Some(v4(99)), true), plain, "it is gone");
}

#[test]
fn one_after_the_other_families_take_turns_and_the_one_that_worked_begins() {
    let all = [v4(1), v4(2), v6(1), v6(2), v6(3)];
    let of = |last| Order { together: false, last, ..order() }.places(&all);
    let families = |places: &[Place]| places.iter().map(|it| it.preferred.is_ipv4()).collect::<Vec<_>>();
    assert_eq!(families(&of(None)), [true, false, true, false, false]);
    assert_eq!(families(&of(Some(v6(2)))), [false, true, false, true, false]);
    assert_eq!(of(Some(v6(2)))[0], Place { preferred: v6(2), other: None });
}

#[test]
fn a_name_with_a_thousand_addresses_costs_no_more_than_some() {
    let many: Vec<SocketAddr> =
        (0..1000u16).map(|number| SocketAddr::from(([10, 0, 0, 1], number.wrapping_add(1)))).collect();
    assert_eq!(order().places(&many).len(), ADDRESSES_MAX);
    assert!(order().has_others(&many) && !order().has_others(&[v4(1), v6(1)]));
}

#[test]
fn groups_spread_over_servers_and_spellings_do_not_matter() {
    let first = |group: u8| weight(&[group; 32], "a.example:7000") < weight(&[group; 32], "b.example:7000");
    let firsts = (0..100).filter(|group| first(*group)).count();
    assert!((30..70).contains(&firsts), "{firsts} of 100 groups begin with the first of two");
    for (written, expected) in [
        (" A.Example:7000 ", "a.example:7000"),
        ("a.example.:07000", "a.example:7000"),
        ("[2001:DB8:0::1]:7000", "[2001:db8::1]:7000"),
        ("192.0.2.1:7000", "192.0.2.1:7000"),
        ("a.example", "a.example:"),
    ] {
        assert_eq!(canonical(written), expected);
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<bool>(), 0u8..5).prop_map(|(is_v4, last)| if is_v4 { v4(last) } else { v6(last) })
}

fn fate() -> impl Strategy<Value = Fate> {
    (any::<bool>(), 0u64..600).prop_map(|(answers, at)| if answers { Fate::Answers(at) } else { Fate::Refuses(at) })
}

fn answer() -> impl Strategy<Value = Option<(u64, Result<Vec<SocketAddr>, io::ErrorKind>)>> {
    let answer = option::of(vec(address(), 0..6)).prop_map(|it| it.ok_or(io::ErrorKind::NotFound));
    option::of((0u64..3000, answer))
}

proptest! {
    #[test]
    fn every_address_has_its_turn_and_the_race_ends(
        fates in btree_map(address(), fate(), 0..8),
        known in vec(address(), 0..8),
        is_fresh in any::<bool>(),
        answer in answer(),
        together in any::<bool>(),
    ) {
        let order = Order { together, ..order() };
        let course = run(Race::new(Instant::ZERO, order, known.clone(), is_fresh), &fates, answer.clone());
        let tried: Vec<_> =
            course.begun.iter().flat_map(|(_, it)| [Some(it.preferred), it.other]).flatten().collect();
        let once: BTreeSet<_> = tried.iter().copied().collect();
        prop_assert_eq!(once.len(), tried.len(), "an address is tried once");
        // An attempt that begins beside another one does so only after the delay.
        for pair in course.begun.windows(2) {
            let ((before, place), (next, _)) = (pair[0], pair[1]);
            let failed_at = |it: SocketAddr| match fates.get(&it) {
                Some(Fate::Refuses(after)) => before + after,
                Some(Fate::Answers(_)) | None => u64::MAX,
            };
            let all_failed_at = failed_at(place.preferred).max(place.other.map_or(0, failed_at));
            prop_assert!(next >= before + 250 || next >= all_failed_at, "{:?}", course);
        }
        let looked_up = !is_fresh || known.is_empty();
        prop_assert_eq!(course.lookups, usize::from(looked_up));
        let first_answer = |it: &SocketAddr| match fates.get(it) {
            Some(Fate::Answers(after)) => Some(*after),
            Some(Fate::Refuses(_)) | None => None,
        };
        match course.end {
            Some((at, Ok(address))) => prop_assert!(first_answer(&address).is_some_and(|after| after <= at)),
            Some((_, Err(_))) => {
                prop_assert!(tried.iter().all(|it| matches!(fates.get(it), Some(Fate::Refuses(_)))), "{:?}", course);
                prop_assert!(!looked_up || answer.is_some());
            }
            // Somebody is silent, or whoever knows the name.
            None => {
                prop_assert!(tried.iter().all(|it| first_answer(it).is_none()));
                prop_assert!(tried.iter().any(|it| !fates.contains_key(it)) || (looked_up && answer.is_none()));
            }
        }
        // Whoever answers is found in time: all before it, and its own answer.
        if !looked_up && let Some(after) = known.iter().filter_map(first_answer).max() {
            let (at, winner) = course.end.expect("an end");
            prop_assert!(winner.is_ok() && at <= 250 * known.len() as u64 + after, "{:?}", course);
        }
    }

    #[test]
    fn all_ranks_have_one_order(addresses in vec(address(), 0..10), seed in any::<u64>(), together in any::<bool>()) {
        let order = Order { together, ..order() };
        let mut shuffled = addresses.clone();
        let mut state = seed;
        for index in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(index, (state >> 33) as usize % (index + 1));
        }
        shuffled.extend(addresses.first());
        prop_assert_eq!(order.places(&addresses), order.places(&shuffled));
    }
}
