//! Goal: communicators, numbers and places of operations are what their docs say. Method: examples on both sides of each
//! rule.

use super::*;
use crate::notice::NOTICE_BYTES_MAX;

fn head(group: &mut Group, peer: u32, envelope: Envelope) {
    assert_eq!(group.route(OpId::FIRST, slot(peer), 0), Route::Head);
    group.handle_input(at(0), Input::Head { peer: slot(peer), envelope });
}

fn put_aside(group: &mut Group, peer: u32, envelope: Envelope) {
    head(group, peer, envelope);
    assert_eq!(group.route(OpId::FIRST, slot(peer), envelope.length), Route::Store);
    let payload = vec![0; usize::try_from(envelope.length).expect("short")];
    group.handle_input(at(0), Input::Stored { peer: slot(peer), payload });
}

fn message(communicator: u64, length: u64) -> Envelope {
    Envelope { communicator, length, elements: length, ..Envelope::new(Kind::Message) }
}

#[test]
fn operations_are_counted_until_they_end() {
    let mut group = group();
    assert_eq!(group.outstanding(), 0);
    let ids = [receive(&mut group, None, None), receive(&mut group, None, None), receive(&mut group, None, None)];
    assert_eq!(group.outstanding(), 3);
    group.end(ids[1]);
    group.end(ids[1]);
    assert_eq!(group.outstanding(), 2, "an operation ends once");
    group.end(ids[0]);
    group.end(ids[2]);
    assert_eq!(group.outstanding(), 0);
}

#[test]
fn the_deadline_of_later_operations_can_be_set() {
    let mut group = group();
    for seconds in [3, 4] {
        group.set_deadline(Some(Duration::from_secs(seconds)));
        let id = receive(&mut group, Some(1), None);
        group.park(id, on(1));
        for second in 1..=seconds {
            assert_eq!(group.check(id), Ok(()));
            group.handle_timeout(at(second));
        }
        assert!(group.check(id).is_err(), "after {seconds} s");
    }
}

#[test]
fn a_visitor_is_no_operation_and_each_is_another() {
    let mut group = group();
    let visitors = [group.visitor(), group.visitor()];
    assert_ne!(visitors[0], visitors[1]);
    assert!(visitors.iter().all(|id| id.is_visitor()));
    let id = receive(&mut group, None, None);
    assert!(!id.is_visitor() && !visitors.contains(&id));
    assert_eq!(group.outstanding(), 1);
}

#[test]
fn an_operation_waits_for_each_peer_once_and_for_four_at_most() {
    let mut waits_for = WaitsFor::default();
    for peer in [3, 1, 3, 0, 2, 1] {
        waits_for.add(slot(peer));
    }
    assert_eq!(waits_for.iter().map(Slot::get).collect::<Vec<_>>(), [3, 1, 0, 2]);
    let more = Slot::checked(9, 16).expect("below 16");
    waits_for.add(more);
    assert!(waits_for.iter().all(|peer| peer != more));
}

#[test]
fn so_many_communicators_that_ended_are_remembered() {
    let mut group = group();
    let max = u64::try_from(ENDED_MAX).expect("small");
    let close = |group: &mut Group, communicator| {
        group.open(communicator, Members::whole(0, 4));
        group.close(communicator);
        // Ending it again changes nothing.
        group.close(communicator);
        while group.poll_output().is_some() {}
    };
    (1..=max).for_each(|communicator| close(&mut group, communicator));
    head(&mut group, 1, message(1, 10));
    assert_eq!(group.route(OpId::FIRST, slot(1), 10), Route::Discard, "it is late");
    close(&mut group, max + 1);
    head(&mut group, 2, message(1, 10));
    assert_eq!(group.route(OpId::FIRST, slot(2), 10), Route::Store, "it may be for one that is to be made");
    head(&mut group, 3, message(2, 10));
    assert_eq!(group.route(OpId::FIRST, slot(3), 10), Route::Discard);
}

#[test]
fn the_end_of_a_communicator_drops_what_nobody_reads_of_it() {
    let mut group = group();
    group.open(5, Members::whole(0, 4));
    let pattern = Pattern { communicator: 5, source: Some(slot(3)), tag: None };
    let id = group.post(at(0), 5, What::Receive(pattern), None).expect("posted");
    for (peer, communicator) in [(1, 5), (2, 0), (3, 5)] {
        head(&mut group, peer, message(communicator, 10));
    }
    group.close(5);
    assert_eq!(group.route(OpId::FIRST, slot(1), 10), Route::Discard);
    assert_eq!(group.route(OpId::FIRST, slot(2), 10), Route::Store, "of another communicator");
    assert_eq!(group.route(id, slot(3), 10), Route::Mine, "it is being read");
}

#[test]
fn numbers_are_those_of_their_communicator() {
    let mut group = group();
    group.open(5, Members::whole(0, 4));
    assert_eq!([group.epoch(0), group.epoch(5), group.epoch(99)], [0; 3]);
    assert_eq!([group.number(5), group.reserve(5), group.number(5), group.number(0)], [0, 1, 2, 0]);
    assert_eq!([1, 1, 2, 1].map(|peer| group.number_message(5, slot(peer))), [0, 1, 0, 2]);
    assert_eq!(group.number_message(0, slot(1)), 0);
    let (first, second) = (group.init(5), group.init(5));
    assert_ne!(first, second);
    let (first, second) = (first.expect("the first"), second.expect("the second"));
    let runs = [(first, 0), (second, 0), (first, 1), (first, 2), (first, 3)];
    for (init, run) in runs {
        let number = group.number_run(5, init);
        assert_eq!(persistent_run(number), Some((init, run)));
    }
    // What comes for a run that cannot begin any more is dropped.
    let late = group.number_run(5, second) + 1;
    let of = |sequence| Envelope { communicator: 5, sequence, length: 1, ..Envelope::new(Kind::Barrier) };
    head(&mut group, 1, of(late));
    assert_eq!(group.route(OpId::FIRST, slot(1), 1), Route::Store);
    group.end_persistent(5, second);
    head(&mut group, 2, of(late));
    assert_eq!(group.route(OpId::FIRST, slot(2), 1), Route::Discard);
}

#[test]
fn a_collective_begins_when_it_is_noted_if_its_number_was_reserved() {
    let mut group = group();
    let number = group.reserve(0);
    let of = |kind| Envelope { sequence: number, length: 1, ..Envelope::new(kind) };
    put_aside(&mut group, 1, of(Kind::Scan));
    assert_eq!(told(&mut group), []);
    // It moves nothing, so that no frame of it can be right.
    group.note(&of(Kind::Scan));
    head(&mut group, 2, of(Kind::Barrier));
    assert!(told(&mut group).iter().any(|(_, envelope, _)| envelope.kind == Kind::Revoke));
}

#[test]
fn a_collective_takes_its_frames_that_came_before_it() {
    let mut group = group();
    let of = Envelope { length: 1, ..Envelope::new(Kind::Barrier) };
    put_aside(&mut group, 1, of);
    put_aside(&mut group, 1, of);
    head(&mut group, 2, of);
    head(&mut group, 3, Envelope { sequence: 1, ..of });
    let id = collective(&mut group, at(0), Kind::Barrier);
    assert_eq!(group.check(id), Ok(()));
    assert!(group.owns(id, slot(2)) && !group.owns(id, slot(3)));
    for expected in [true, true, false] {
        assert_eq!(group.take_collective(slot(1), &of).is_some(), expected);
    }
    assert!(group.take_collective(slot(2), &of).is_none(), "it is not stored");
    group.check_invariants();
}

#[test]
fn ranks_that_call_different_things_find_out_whoever_is_first() {
    let frame = |kind| Envelope { length: 1, ..Envelope::new(kind) };
    for kind in [Kind::Barrier, Kind::Scan] {
        for order in ["stored before", "while it runs", "after it ended"] {
            let mut group = group();
            if order == "stored before" {
                put_aside(&mut group, 1, frame(kind));
            }
            let id = collective(&mut group, at(0), Kind::Barrier);
            if order == "after it ended" {
                group.end(id);
            }
            if order != "stored before" {
                head(&mut group, 1, frame(kind));
            }
            // Whatever a collective that has ended needed has come.
            let differs = kind != Kind::Barrier || order == "after it ended";
            let revoked: Vec<u32> = told(&mut group).into_iter().map(|(peer, ..)| peer).collect();
            assert_eq!(revoked, if differs { vec![1, 2, 3] } else { vec![] }, "{kind:?} {order}");
            assert_eq!(group.revocation(0).is_some(), differs, "{kind:?} {order}");
        }
    }
}

#[test]
fn what_a_process_sends_itself_takes_room_in_the_mailbox() {
    let limits = Limits::new(None, Duration::from_secs(1), 1 << 20, 1000);
    let mut group = Group::new(slot(0), 4, limits, |_| true);
    let waits = receive(&mut group, Some(0), None);
    assert_eq!(group.send_to_self(message(0, 100), &[7; 100]), Ok(()));
    assert_eq!(woken(&mut group), [waits]);
    assert_eq!(group.take_stored(waits).map(|stored| stored.payload), Some(vec![7; 100]));
    assert_eq!(group.send_to_self(message(0, 744), &[7; 744]), Ok(()), "to the last byte");
    let failure = group.send_to_self(message(0, 1), &[7]).expect_err("no room");
    assert_eq!(failure.kind, ErrorKind::MailboxFull { bytes_max: 1000 });
    assert_eq!(failure.peer.map(Rank::get), Some(0));
}

#[test]
fn the_first_receive_that_fits_is_found_among_few_and_among_many() {
    let some = [Some(1), Some(2), None];
    let patterns: Vec<(Option<u32>, Option<u32>)> =
        some.iter().flat_map(|source| some.iter().map(move |tag| (*source, *tag))).collect();
    for count in 1..=patterns.len() {
        for first in 0..patterns.len() {
            let mut group = group();
            let called: Vec<_> = patterns.iter().cycle().skip(first).take(count).copied().collect();
            let ids: Vec<OpId> = called.iter().map(|(source, tag)| receive(&mut group, *source, *tag)).collect();
            head(&mut group, 1, Envelope { root_or_tag: 2, ..message(0, 0) });
            let fits = |(source, tag): &(Option<u32>, Option<u32>)| {
                source.is_none_or(|source| source == 1) && tag.is_none_or(|tag| tag == 2)
            };
            let expected = called.iter().position(fits).map(|at| ids[at]);
            let got = ids.iter().copied().find(|id| group.matched(*id).is_some());
            assert_eq!(got, expected, "{called:?}");
        }
    }
}

#[test]
fn a_receive_from_any_source_looks_next_behind_the_peer_that_it_served() {
    let mut group = group();
    let order = |group: &Group| group.rounds().map(Slot::get).collect::<Vec<_>>();
    assert_eq!(order(&group), [1, 2, 3]);
    for (peer, next) in [(1, [2, 3, 1]), (2, [3, 1, 2]), (3, [1, 2, 3])] {
        let id = receive(&mut group, None, None);
        head(&mut group, peer, message(0, 0));
        group.handle_input(at(0), Input::Consumed(slot(peer)));
        group.end(id);
        assert_eq!(order(&group), next);
        // One that names its source has no say.
        let id = receive(&mut group, Some(2), None);
        head(&mut group, 2, message(0, 0));
        group.handle_input(at(0), Input::Consumed(slot(2)));
        group.end(id);
        assert_eq!(order(&group), next);
    }
}

#[test]
fn a_short_frame_is_put_aside_at_once_and_a_longer_one_is_offered() {
    for (length, route) in [(SHORT_BYTES, Route::Store), (SHORT_BYTES + 1, Route::Offered)] {
        let mut group = group();
        let owner = receive(&mut group, Some(1), None);
        let others = [receive(&mut group, Some(1), None), receive(&mut group, Some(1), None)];
        head(&mut group, 1, message(0, length));
        assert!(group.owns(owner, slot(1)));
        assert_eq!(group.route(others[0], slot(1), length), route);
        assert_eq!(group.route(others[0], slot(1), length), Route::Store);
        assert_eq!(group.route(others[1], slot(1), length), Route::Store, "room is reserved: it is being done");
    }
}

#[test]
fn a_control_frame_of_bounded_length_is_taken() {
    let max = NOTICE_BYTES_MAX as u64;
    for (length, is_taken) in [(max, true), (max + 1, false)] {
        let mut group = group();
        head(&mut group, 1, Envelope { length, ..Envelope::new(Kind::Revoke) });
        assert_eq!(group.is_up(slot(1)), is_taken, "{length}");
    }
}

#[test]
fn the_end_of_a_peer_concerns_what_needs_it() {
    let mut group = group();
    arrive(&mut group, 1, 1, 100);
    let at_hand = receive(&mut group, Some(1), Some(1));
    put_aside(&mut group, 2, Envelope { root_or_tag: 1, ..message(0, 10) });
    let stored = receive(&mut group, Some(2), Some(1));
    let cases = [
        (group.post(at(0), 0, What::Send(slot(1)), None).expect("posted"), [true, false]),
        (receive(&mut group, Some(1), Some(9)), [true, false]),
        (receive(&mut group, None, Some(9)), [true, true]),
        (collective(&mut group, at(0), Kind::Barrier), [true, true]),
        (at_hand, [true, false]),
        (stored, [false, false]),
    ];
    for (id, expected) in cases {
        let op = group.operations.get(id).expect("posted");
        assert_eq!([1, 2].map(|peer| op.concerns(slot(peer))), expected, "{:?}", op.what);
    }
}

/// What the machine checks after each step of a script.
fn check_after(spoil: impl FnOnce(&mut Group)) {
    let mut group = group();
    receive(&mut group, Some(1), None);
    let id = group.post(at(0), 0, What::Send(slot(1)), None).expect("posted");
    group.expect_match(id, 3);
    arrive(&mut group, 2, 1, 100);
    put_aside(&mut group, 3, Envelope { more: true, elements: 100, ..message(0, 10) });
    group.check_invariants();
    spoil(&mut group);
    group.check_invariants();
}

#[test]
#[should_panic(expected = "a receive waits, has a message, or has failed")]
fn a_receive_without_a_place_is_noticed() {
    check_after(|group| group.receives.clear());
}

#[test]
#[should_panic(expected = "free messages at hand are known")]
fn a_message_at_hand_that_nobody_could_get_is_noticed() {
    check_after(|group| group.unclaimed.clear());
}

#[test]
#[should_panic(expected = "a send is found by its number")]
fn a_synchronous_send_under_another_number_is_noticed() {
    check_after(|group| {
        let (_, id) = group.unmatched.pop_first().expect("a send");
        group.unmatched.insert((0, slot(1), 4), id);
    });
}

#[test]
#[should_panic(expected = "room is counted once")]
fn room_that_is_counted_wrongly_is_noticed() {
    check_after(|group| group.reserved += 1);
}

#[test]
#[should_panic(expected = "bytes are those of what is stored and reserved")]
fn room_that_is_not_given_back_is_noticed() {
    check_after(|group| group.mailbox.reserve_beyond(1));
}
