//! Goal: a message that is longer than what is sent unasked costs its receiver no more memory than it has promised, its
//! sender waits exactly until there is a place, and nothing of it is left behind, however it ends. Method: frames one
//! by one.

use super::*;
use crate::group::long::RESTS_MAX;

/// A frame of message number `sequence` from `peer`, with tag 7.
fn frame(sequence: u64, length: u64, elements: u64, more: bool) -> Envelope {
    Envelope { sequence, root_or_tag: 7, length, elements, more, ..Envelope::new(Kind::Message) }
}

fn head(group: &mut Group, peer: u32, envelope: Envelope) {
    assert_eq!(group.route(OpId::FIRST, slot(peer), 0), Route::Head);
    group.handle_input(at(0), Input::Head { peer: slot(peer), envelope });
}

/// A frame comes, and its owner reads it whole.
fn consume(group: &mut Group, peer: u32, envelope: Envelope) {
    head(group, peer, envelope);
    group.handle_input(at(0), Input::Consumed(slot(peer)));
}

/// A frame comes that nobody reads, and is put aside.
fn put_aside(group: &mut Group, peer: u32, envelope: Envelope) {
    head(group, peer, envelope);
    assert_eq!(group.route(OpId::FIRST, slot(peer), envelope.length), Route::Store);
    let payload = vec![0; usize::try_from(envelope.length).expect("short")];
    group.handle_input(at(0), Input::Stored { peer: slot(peer), payload });
}

/// Messages whose senders were told that there is a place for the rest.
fn invited(group: &mut Group) -> Vec<(u32, u64, u64)> {
    let ready = told(group).into_iter().inspect(|(_, envelope, payload)| {
        assert_eq!((envelope.kind, envelope.step, payload.len()), (Kind::Ready, 0, 0));
    });
    ready.map(|(peer, envelope, _)| (peer, envelope.communicator, envelope.sequence)).collect()
}

fn with_mailbox(bytes_max: u64) -> Group {
    let limits = Limits::new(Some(Duration::from_secs(10)), Duration::from_secs(1), 1 << 20, bytes_max);
    Group::new(slot(0), 4, limits, |_| true)
}

/// Bytes of the mailbox that are in use.
fn in_use(group: &Group) -> u64 {
    group.check_invariants();
    group.mailbox.bytes()
}

#[test]
fn a_receive_reads_a_message_of_several_frames_and_nothing_of_it_is_left() {
    let mut group = group();
    let id = receive(&mut group, Some(1), Some(7));
    consume(&mut group, 1, frame(3, 100, 1000, true));
    assert_eq!(invited(&mut group), [(1, 0, 3)], "the mailbox has a place, should the receive not come for it");
    assert!(group.has_rest(id));
    // A message of another peer has the same number.
    assert!(!group.is_held_by(slot(2), &frame(3, 0, 0, true), id));
    head(&mut group, 1, frame(3, 500, 1000, true));
    assert!(group.owns(id, slot(1)), "what follows belongs to the same receive");
    group.handle_input(at(0), Input::Consumed(slot(1)));
    group.want(id);
    assert_eq!(invited(&mut group), [], "its sender is told once");
    assert!(group.has_rest(id));
    consume(&mut group, 1, frame(3, 400, 1000, false));
    assert!(!group.has_rest(id), "it is whole");
    group.end(id);
    assert_eq!(in_use(&group), 0);
    // The next message under that number is another one.
    let next = receive(&mut group, Some(1), Some(7));
    consume(&mut group, 1, frame(3, 100, 100, false));
    assert!(group.matched(next).is_some());
}

#[test]
fn a_receive_that_is_at_work_says_itself_that_it_has_a_place() {
    let mut group = group();
    let id = receive(&mut group, Some(1), Some(7));
    assert_eq!(group.route(id, slot(1), 0), Route::Head);
    group.handle_input(at(0), Input::Head { peer: slot(1), envelope: frame(0, 100, 1000, true) });
    assert_eq!(invited(&mut group), [], "a probe would not want the rest");
    assert_eq!(in_use(&group), 0);
    group.want(id);
    assert_eq!(invited(&mut group), [(1, 0, 0)]);
    assert_eq!(in_use(&group), 0, "its own memory is the place");
}

#[test]
fn three_quarters_of_the_mailbox_may_be_set_aside_and_no_more() {
    for (rest, is_invited) in [(3000, true), (3001, false)] {
        let mut group = with_mailbox(4000);
        head(&mut group, 1, frame(0, 10, rest + 10, true));
        assert_eq!(!invited(&mut group).is_empty(), is_invited, "{rest}");
        assert_eq!(in_use(&group) > 0, is_invited);
    }
    // In all, not each.
    let mut group = with_mailbox(4000);
    head(&mut group, 1, frame(0, 10, 1510, true));
    head(&mut group, 2, frame(0, 10, 1511, true));
    assert_eq!(invited(&mut group), [(1, 0, 0)]);
}

#[test]
fn whoever_had_no_room_is_invited_once_there_is() {
    let mut group = with_mailbox(4000);
    receive(&mut group, Some(1), Some(7));
    head(&mut group, 1, frame(5, 10, 2010, true));
    head(&mut group, 2, frame(6, 10, 2010, true));
    head(&mut group, 3, frame(7, 10, 2010, true));
    assert_eq!(invited(&mut group), [(1, 0, 5)]);
    // Its receive reads it: the room is not needed.
    group.handle_input(at(0), Input::Consumed(slot(1)));
    assert_eq!(invited(&mut group), [(2, 0, 6)]);
    group.handle_input(at(0), Input::Broken { peer: slot(2), kind: ErrorKind::ConnectionLost("closed".into()) });
    assert_eq!(invited(&mut group), [(3, 0, 7)]);
    group.check_invariants();
}

#[test]
fn frames_that_do_not_make_up_their_message_break_the_connection() {
    // What has come before; then a frame; whether both fit.
    let begun = Some(frame(0, 100, 1000, true));
    for (before, next, fits) in [
        (None, frame(0, 100, 100, false), true),
        (None, frame(0, 0, 0, false), true),
        (None, frame(0, 99, 100, false), false),
        (None, frame(0, 101, 100, false), false),
        (None, frame(0, 99, 100, true), true),
        (None, frame(0, 100, 100, true), false),
        (None, frame(0, 0, 100, true), false),
        (begun, frame(0, 899, 1000, true), true),
        (begun, frame(0, 900, 1000, true), false),
        (begun, frame(0, 0, 1000, true), false),
        (begun, frame(0, 900, 1000, false), true),
        (begun, frame(0, 899, 1000, false), false),
        (begun, frame(0, 901, 1000, false), false),
        (begun, frame(0, 901, 1001, false), false),
        (begun, frame(0, 900, 1001, false), false),
        (begun, frame(0, u64::MAX, 1000, false), false),
        // Of another message.
        (begun, frame(1, 10, 10, false), true),
    ] {
        let mut group = group();
        if let Some(before) = before {
            put_aside(&mut group, 1, before);
        }
        head(&mut group, 1, next);
        assert_eq!(group.is_up(slot(1)), fits, "{before:?}, then {next:?}");
        let outputs: Vec<Output> = std::iter::from_fn(|| group.poll_output()).collect();
        assert_eq!(outputs.contains(&Output::Close(slot(1))), !fits);
        group.check_invariants();
    }
}

#[test]
fn a_peer_has_its_part_of_the_messages_that_are_not_whole() {
    let mut group = group();
    group.open(5, Members::whole(0, 4));
    group.abort(5, &Failure::new(ErrorKind::Local("of no more use".into())), "");
    let of = |envelope: Envelope| Envelope { communicator: 5, ..envelope };
    let part = u64::try_from(RESTS_MAX / 4).expect("small");
    for sequence in 0..part {
        consume(&mut group, 1, of(frame(sequence, 1, 2, true)));
    }
    // Those that have begun go on, and short ones come in between.
    consume(&mut group, 1, of(frame(0, 1, 2, false)));
    consume(&mut group, 1, of(frame(part, 1, 2, true)));
    consume(&mut group, 1, of(frame(1, 1, 2, false)));
    consume(&mut group, 1, of(frame(part + 1, 1, 2, true)));
    consume(&mut group, 1, frame(9, 1, 1, false));
    assert!(group.is_up(slot(1)));
    consume(&mut group, 2, of(frame(0, 1, 2, true)));
    assert!(group.is_up(slot(2)), "another peer has its own part");
    head(&mut group, 1, of(frame(part + 2, 1, 2, true)));
    assert!(!group.is_up(slot(1)), "one more");
    assert!(group.is_up(slot(2)));
}

#[test]
fn a_message_that_nobody_wants_yet_is_stored_in_one_piece() {
    let mut group = with_mailbox(4000);
    put_aside(&mut group, 1, frame(0, 100, 1000, true));
    assert_eq!(invited(&mut group), [(1, 0, 0)]);
    assert_eq!(in_use(&group), 100 + 900 + 2 * FRAME_OVERHEAD_BYTES, "what is there, and room for the rest");
    put_aside(&mut group, 1, frame(0, 500, 1000, true));
    assert_eq!(in_use(&group), 600 + 400 + 2 * FRAME_OVERHEAD_BYTES);
    put_aside(&mut group, 1, frame(0, 400, 1000, false));
    assert_eq!(in_use(&group), 1000 + FRAME_OVERHEAD_BYTES);
    let id = receive(&mut group, None, Some(7));
    assert!(!group.has_rest(id));
    let stored = group.take_stored(id).expect("a whole message");
    assert_eq!((stored.taken, stored.payload.len()), (0, 1000));
    group.end(id);
    assert_eq!(in_use(&group), 0);
    // All of it was counted once: as much may be set aside as before.
    head(&mut group, 2, frame(0, 10, 3010, true));
    assert_eq!(invited(&mut group), [(2, 0, 0)]);
}

#[test]
fn a_receive_takes_over_a_message_wherever_its_beginning_is() {
    for is_stored in [false, true] {
        let mut group = group();
        if is_stored {
            put_aside(&mut group, 1, frame(0, 100, 1000, true));
            head(&mut group, 1, frame(0, 900, 1000, false));
        } else {
            head(&mut group, 1, frame(0, 100, 1000, true));
        }
        let id = receive(&mut group, None, None);
        assert!(group.owns(id, slot(1)), "the frame at hand belongs to it as well");
        assert!(group.has_rest(id));
        assert_eq!(group.take_stored(id).map(|stored| stored.payload.len()), is_stored.then_some(100));
        group.handle_input(at(0), Input::Consumed(slot(1)));
        assert_eq!(group.has_rest(id), !is_stored);
        if !is_stored {
            consume(&mut group, 1, frame(0, 900, 1000, false));
        }
        group.end(id);
        assert_eq!(in_use(&group), 0);
    }
}

#[test]
fn a_frame_of_another_message_is_not_taken_for_the_rest() {
    let mut group = group();
    put_aside(&mut group, 1, frame(0, 100, 1000, true));
    head(&mut group, 1, Envelope { root_or_tag: 8, ..frame(1, 10, 10, false) });
    let id = receive(&mut group, Some(1), Some(7));
    assert!(group.matched(id).is_some());
    assert!(!group.owns(id, slot(1)));
    assert_eq!(group.peers[1].at_hand.as_ref().map(|frame| frame.owner), Some(Owner::Nobody));
    group.check_invariants();
    // Nor is the rest of another one.
    let mut group = self::group();
    put_aside(&mut group, 1, frame(0, 100, 1000, true));
    let other = |length, more| Envelope { root_or_tag: 8, ..frame(1, length, 1000, more) };
    put_aside(&mut group, 1, other(100, true));
    head(&mut group, 1, other(900, false));
    let id = receive(&mut group, Some(1), Some(7));
    assert!(group.matched(id).is_some() && !group.owns(id, slot(1)));
    let id = receive(&mut group, Some(1), Some(8));
    assert!(group.owns(id, slot(1)));
    group.check_invariants();
}

#[test]
fn a_receive_that_gives_a_message_back_leaves_all_that_it_has_read() {
    let pattern = Pattern { communicator: 0, source: Some(slot(1)), tag: Some(7) };
    // Between frames; in the middle of the first; in the middle of the second.
    for (whole, read_of_frame) in [(100, 0), (0, 60), (100, 60)] {
        for has_heir in [false, true] {
            let mut group = with_mailbox(4000);
            let id = receive(&mut group, Some(1), Some(7));
            let heir = has_heir.then(|| receive(&mut group, Some(1), Some(7)));
            if whole > 0 {
                consume(&mut group, 1, frame(0, 100, 1000, true));
            }
            if read_of_frame > 0 {
                let length = if whole > 0 { 900 } else { 100 };
                head(&mut group, 1, frame(0, length, 1000, whole == 0));
                group.handle_input(at(0), Input::Progressed(slot(1)));
            }
            woken(&mut group);
            group.release(id, &vec![1; whole + read_of_frame], read_of_frame);
            group.check_invariants();
            let heir = match heir {
                Some(heir) => {
                    assert!(woken(&mut group).contains(&heir), "it is its turn");
                    heir
                }
                None => group.post(at(0), 0, What::Receive(pattern), None).expect("posted"),
            };
            let stored = group.take_stored(heir);
            assert_eq!(stored.map_or(0, |stored| stored.payload.len()), whole, "what was read before this frame");
            assert_eq!(group.owns(heir, slot(1)), read_of_frame > 0, "and this frame, from its beginning");
            assert!(group.has_rest(heir));
            if read_of_frame > 0 {
                group.handle_input(at(0), Input::Consumed(slot(1)));
            }
            if read_of_frame == 0 || whole == 0 {
                consume(&mut group, 1, frame(0, 900, 1000, false));
            }
            group.end(heir);
            assert_eq!(in_use(&group), 0);
        }
    }
}

#[test]
fn a_message_whose_connection_broke_is_nothing_to_give_back() {
    let mut group = group();
    let id = receive(&mut group, Some(1), Some(7));
    head(&mut group, 1, frame(0, 100, 100, false));
    group.handle_input(at(0), Input::Broken { peer: slot(1), kind: ErrorKind::ConnectionLost("closed".into()) });
    group.release(id, &[1; 60], 60);
    assert_eq!(in_use(&group), 0);
}

#[test]
fn a_frame_of_a_collective_with_the_number_of_a_message_does_not_end_it() {
    let mut group = with_mailbox(4000);
    put_aside(&mut group, 1, frame(0, 100, 1000, true));
    let before = in_use(&group);
    collective(&mut group, at(0), Kind::Allreduce);
    head(&mut group, 1, Envelope { length: 10, ..Envelope::new(Kind::Allreduce) });
    group.reclaim(slot(1));
    assert_eq!(in_use(&group), before, "the room for the rest of the message is kept");
    group.handle_input(at(0), Input::Consumed(slot(1)));
    assert_eq!(in_use(&group), before);
    let id = receive(&mut group, Some(1), Some(7));
    assert!(group.has_rest(id));
}

#[test]
fn room_that_is_given_back_twice_over_wakes_whoever_waits_for_it() {
    let mut group = with_mailbox(1500);
    head(&mut group, 1, frame(0, 300, 600, true));
    let waits = receive(&mut group, Some(2), Some(9));
    assert_eq!(group.route(waits, slot(1), 300), Route::Store);
    head(&mut group, 2, frame(0, 600, 600, false));
    assert_eq!(group.route(waits, slot(2), 600), Route::Full);
    let id = receive(&mut group, Some(1), Some(7));
    woken(&mut group);
    // Room was set aside for the frame at hand, and for what follows it.
    assert_eq!(group.route(id, slot(1), 300), Route::Mine);
    group.reclaim(slot(1));
    assert!(woken(&mut group).contains(&waits));
    assert_eq!(in_use(&group), 0);
}

#[test]
fn what_is_read_of_a_frame_for_which_room_is_reserved_has_its_room_when_it_is_given_back() {
    let mut group = with_mailbox(4000);
    let (id, other) = (receive(&mut group, Some(1), Some(7)), receive(&mut group, Some(1), Some(8)));
    head(&mut group, 1, frame(0, 1000, 1000, false));
    assert_eq!(group.route(other, slot(1), 400), Route::Store, "600 bytes of it are read");
    assert_eq!(in_use(&group), 400 + FRAME_OVERHEAD_BYTES);
    group.release(id, &[1; 600], 600);
    assert_eq!(in_use(&group), 1000 + FRAME_OVERHEAD_BYTES);
    group.handle_input(at(0), Input::Stored { peer: slot(1), payload: vec![0; 1000] });
    assert_eq!(in_use(&group), 1000 + FRAME_OVERHEAD_BYTES);
}

#[test]
fn the_rest_of_what_nobody_wants_any_more_is_dropped_and_its_sender_does_not_wait() {
    for how in ["receive ended", "communicator closed", "communicator revoked"] {
        let mut group = with_mailbox(4000);
        group.open(5, Members::whole(0, 4));
        let of = |envelope: Envelope| Envelope { communicator: 5, ..envelope };
        // So that its sender waits for a place.
        head(&mut group, 3, frame(8, 10, 3010, true));
        assert_eq!(invited(&mut group), [(3, 0, 8)]);
        let pattern = Pattern { communicator: 5, source: Some(slot(1)), tag: None };
        let id = group.post(at(0), 5, What::Receive(pattern), None).expect("posted");
        consume(&mut group, 1, of(frame(4, 10, 1000, true)));
        assert_eq!(invited(&mut group), []);
        match how {
            "receive ended" => group.end(id),
            "communicator closed" => group.close(5),
            _ => group.abort(5, &Failure::new(ErrorKind::Local("full".into())), "full"),
        }
        let said: Vec<_> = told(&mut group).into_iter().filter(|(_, it, _)| it.kind == Kind::Ready).collect();
        let [(1, Envelope { communicator: 5, sequence: 4, .. }, _)] = said[..] else { panic!("{how}: {said:?}") };
        head(&mut group, 1, of(frame(4, 500, 1000, true)));
        assert_eq!(group.route(OpId::FIRST, slot(1), 500), Route::Discard, "{how}");
        group.handle_input(at(0), Input::Consumed(slot(1)));
        consume(&mut group, 1, of(frame(4, 490, 1000, false)));
        assert!(!group.rests.keys().any(|key| key.0 == slot(1)), "{how}: it is over");
        group.end(id);
        group.check_invariants();
    }
}

#[test]
fn the_end_of_a_connection_ends_its_messages_and_no_others() {
    let mut group = with_mailbox(8000);
    put_aside(&mut group, 1, frame(0, 100, 1000, true));
    put_aside(&mut group, 2, frame(0, 100, 1000, true));
    let before = in_use(&group);
    let (first, second) = (receive(&mut group, Some(1), None), receive(&mut group, Some(2), None));
    group.handle_input(at(0), Input::Broken { peer: slot(1), kind: ErrorKind::ConnectionLost("closed".into()) });
    assert_eq!(in_use(&group), before / 2);
    assert!(!group.has_rest(first) && group.has_rest(second));
    assert!(group.take_stored(first).is_none(), "half of a message is of no use");
    assert_eq!(group.take_stored(second).map(|stored| stored.payload.len()), Some(100));
    group.check_invariants();
}

#[test]
fn a_peer_that_leaves_in_the_middle_of_a_message_fails_its_receive() {
    let mut group = with_mailbox(8000);
    group.open(5, Members::whole(0, 4));
    let of = |envelope: Envelope| Envelope { communicator: 5, ..envelope };
    let post = |group: &mut Group, communicator, peer| {
        let pattern = Pattern { communicator, source: Some(slot(peer)), tag: None };
        group.post(at(0), communicator, What::Receive(pattern), None).expect("posted")
    };
    let ids = [post(&mut group, 0, 1), post(&mut group, 5, 1), post(&mut group, 5, 2)];
    consume(&mut group, 1, frame(0, 100, 1000, true));
    consume(&mut group, 1, of(frame(0, 100, 1000, true)));
    consume(&mut group, 2, of(frame(0, 100, 1000, true)));
    let before = in_use(&group);
    leave(&mut group, 1, 5);
    let failure = group.check(ids[1]).expect_err("the rest never comes");
    assert!(matches!(failure.kind, ErrorKind::PeerLeft(_)), "{failure:?}");
    assert_eq!([group.check(ids[0]), group.check(ids[2])], [Ok(()), Ok(())], "of another communicator, and peer");
    assert_eq!(in_use(&group), before / 3 * 2, "room was set aside for each");
    assert!(group.has_rest(ids[0]) && !group.has_rest(ids[1]) && group.has_rest(ids[2]));
}

#[test]
fn a_send_waits_until_its_receiver_has_a_place_for_the_rest() {
    let mut group = group();
    let send = |group: &mut Group| group.post(at(0), 0, What::Send(slot(1)), None).expect("posted");
    let (first, second) = (send(&mut group), send(&mut group));
    group.await_ready(first, &frame(0, 0, 0, true));
    group.await_ready(second, &frame(1, 0, 0, true));
    group.check_invariants();
    let ready = |sequence| Envelope { sequence, ..Envelope::new(Kind::Ready) };
    woken(&mut group);
    // Of another peer, of another communicator, of a message that does not wait.
    tell(&mut group, at(0), 2, ready(0), &[]);
    tell(&mut group, at(0), 1, Envelope { communicator: 9, ..ready(0) }, &[]);
    tell(&mut group, at(0), 1, ready(7), &[]);
    assert!(!group.is_ready(first) && woken(&mut group).is_empty());
    tell(&mut group, at(0), 1, ready(1), &[]);
    assert!(!group.is_ready(first) && group.is_ready(second));
    assert_eq!(woken(&mut group), [second]);
    group.end(first);
    group.end(second);
    assert!(group.promises.is_empty());
}

#[test]
fn a_send_that_is_given_up_and_owed_outlives_its_failure() {
    let mut group = group();
    let id = group.post(at(0), 0, What::Send(slot(1)), Some(at(1))).expect("posted");
    group.park(id, on(1));
    group.handle_timeout(at(1));
    assert!(group.check(id).is_err());
    group.owe(id);
    assert_eq!(group.check(id), Ok(()), "its message is still sent");
}

#[test]
fn ranks_that_take_part_in_a_collective_are_known_however_they_show_it() {
    let mut group = group();
    let signature = |sequence| Envelope { sequence, ..Envelope::new(Kind::Allreduce) };
    let ready = |sequence| Envelope { sequence, step: 1, ..Envelope::new(Kind::Ready) };
    let known = |group: &Group, id| [1, 2, 3].map(|peer| group.is_rank_ready(id, slot(peer)));
    // Rank 1 says so before the call, rank 2 has sent a frame that is stored, that of rank 3 is at hand.
    tell(&mut group, at(0), 1, ready(0), &[]);
    tell(&mut group, at(0), 1, ready(1), &[]);
    put_aside(&mut group, 2, signature(0));
    head(&mut group, 3, signature(0));
    let first = collective(&mut group, at(0), Kind::Allreduce);
    group.await_ready_ranks(first);
    assert_eq!(known(&group, first), [true; 3]);
    // After the call: by a word, by a frame, not at all.
    group.handle_input(at(0), Input::Consumed(slot(3)));
    group.end(first);
    let second = collective(&mut group, at(0), Kind::Allreduce);
    group.await_ready_ranks(second);
    assert_eq!(known(&group, second), [true, false, false], "it said so for two of them");
    woken(&mut group);
    tell(&mut group, at(0), 2, ready(1), &[]);
    assert_eq!(woken(&mut group), [second]);
    assert_eq!(known(&group, second), [true, true, false]);
    head(&mut group, 3, signature(1));
    assert_eq!(known(&group, second), [true; 3]);
    group.handle_input(at(0), Input::Consumed(slot(3)));
    group.end(second);
    let third = collective(&mut group, at(0), Kind::Allreduce);
    group.await_ready_ranks(third);
    assert_eq!(known(&group, third), [false; 3], "memory is used again, what it held is not");
}

#[test]
fn a_rank_tells_each_peer_that_it_takes_part() {
    let mut group = group();
    group.open(5, Members::whole(0, 4));
    let signature = Envelope { communicator: 5, sequence: 3, ..Envelope::new(Kind::Allreduce) };
    let id = group.post(at(0), 5, What::Collective(signature), None).expect("posted");
    group.tell_ready_rank(id, slot(2));
    let [(2, envelope, _)] = told(&mut group)[..] else { panic!("one word to one rank") };
    assert_eq!(envelope, Envelope { communicator: 5, sequence: 3, step: 1, ..Envelope::new(Kind::Ready) });
    // Not where there is no connection.
    group.handle_input(at(0), Input::Broken { peer: slot(2), kind: ErrorKind::ConnectionLost("closed".into()) });
    group.tell_ready_rank(id, slot(2));
    assert_eq!(told(&mut group), []);
}

#[test]
fn the_memory_of_a_few_collectives_is_kept() {
    let mut group = group();
    let ids: Vec<OpId> = (0..20).map(|_| collective(&mut group, at(0), Kind::Allreduce)).collect();
    for id in &ids {
        group.await_ready_ranks(*id);
    }
    for id in ids {
        group.end(id);
    }
    assert_eq!(group.spare_ready.len(), crate::group::long::SPARE_MAX);
}
