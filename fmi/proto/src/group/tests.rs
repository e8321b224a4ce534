//! Goal: whatever is called, whatever comes and whatever breaks, in any order, the machine stays consistent, and each
//! operation ends by its deadline with a cause. Method: drawn scripts, played as a driver would, with the
//! machine's own check after each step.

use proptest::prelude::*;

use super::script::play;
use super::*;
use crate::frame::Kind;
use crate::mailbox::FRAME_OVERHEAD_BYTES;

mod calls;
mod long;
mod synchronous;
mod trouble;
mod words;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_script_of_calls_arrivals_and_losses_ends_every_operation(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        play(&bytes);
    }
}

fn slot(number: u32) -> Slot {
    Slot::checked(number, 4).expect("below 4")
}

fn group() -> Group {
    let limits = Limits::new(Some(Duration::from_secs(10)), Duration::from_secs(1), 1 << 20, 1 << 20);
    Group::new(slot(0), 4, limits, |_| true)
}

fn receive(group: &mut Group, source: Option<u32>, tag: Option<u32>) -> OpId {
    let pattern = Pattern { communicator: 0, source: source.map(slot), tag };
    group.post(Instant::ZERO, 0, What::Receive(pattern), None).expect("posted")
}

fn arrive(group: &mut Group, peer: u32, tag: u32, length: u64) {
    let envelope = Envelope { root_or_tag: tag, length, elements: length, ..Envelope::new(Kind::Message) };
    assert_eq!(group.route(OpId::FIRST, slot(peer), 0), Route::Head);
    group.handle_input(Instant::ZERO, Input::Head { peer: slot(peer), envelope });
}

fn woken(group: &mut Group) -> Vec<OpId> {
    std::iter::from_fn(|| group.poll_output())
        .filter_map(|output| if let Output::Wake(id) = output { Some(id) } else { None })
        .collect()
}

#[test]
fn the_receive_that_was_called_first_gets_the_message() {
    let mut group = group();
    let tagged = receive(&mut group, Some(1), Some(7));
    let any = receive(&mut group, None, None);
    let late = receive(&mut group, Some(1), Some(7));
    arrive(&mut group, 1, 7, 0);
    assert!(group.owns(tagged, slot(1)));
    assert_eq!(woken(&mut group), [tagged]);
    group.handle_input(Instant::ZERO, Input::Consumed(slot(1)));
    group.end(tagged);
    arrive(&mut group, 1, 7, 0);
    assert!(group.owns(any, slot(1)), "a wildcard that was called earlier goes before");
    // Given up, it goes to the next that fits.
    group.release(any, &[], 0);
    assert!(group.owns(late, slot(1)));
    assert_eq!(woken(&mut group).last(), Some(&late));
    group.check_invariants();
}

#[test]
fn a_send_that_has_begun_lets_the_next_one_begin() {
    let mut group = group();
    let send = |group: &mut Group| group.post(Instant::ZERO, 0, What::Send(slot(1)), None).expect("nothing is wrong");
    let (first, second) = (send(&mut group), send(&mut group));
    assert!(group.may_begin(first) && !group.may_begin(second));
    // Its rest may wait for the receiver.
    group.begun(first);
    assert_eq!(woken(&mut group), [second]);
    assert!(group.may_begin(second));
}

#[test]
fn what_a_receive_reads_whatever_is_polled_is_never_put_aside() {
    let mut group = group();
    let (owner, other) = (receive(&mut group, Some(1), Some(1)), receive(&mut group, Some(1), Some(2)));
    group.drive(owner);
    arrive(&mut group, 1, 1, 10_000);
    for _ in 0..3 {
        assert_eq!(group.route(other, slot(1), 10_000), Route::Driven(owner));
    }
    woken(&mut group);
    group.handle_input(Instant::ZERO, Input::Consumed(slot(1)));
    assert_eq!(woken(&mut group), [other], "the way is free");
    group.end(owner);
    group.check_invariants();
}

#[test]
fn a_long_frame_is_put_aside_only_after_its_owner_had_its_turn() {
    let mut group = group();
    let (owner, other) = (receive(&mut group, Some(1), Some(1)), receive(&mut group, Some(1), Some(2)));
    arrive(&mut group, 1, 1, 10_000);
    assert_eq!(group.route(other, slot(1), 10_000), Route::Offered);
    assert!(woken(&mut group).contains(&owner));
    assert_eq!(group.route(owner, slot(1), 10_000), Route::Mine);
    group.handle_input(Instant::ZERO, Input::Progressed(slot(1)));
    assert_eq!(group.route(other, slot(1), 9000), Route::Offered, "it attends to it: another turn");
    assert_eq!(group.route(other, slot(1), 9000), Route::Store);
    group.handle_input(Instant::ZERO, Input::Stored { peer: slot(1), payload: vec![0; 9000] });
    assert!(woken(&mut group).contains(&owner));
    let stored = group.take_stored(owner).expect("the rest of it");
    assert_eq!((stored.taken, stored.payload.len()), (1000, 9000));
    group.end(owner);
    group.check_invariants();
}

#[test]
fn room_in_the_mailbox_is_reserved_and_given_back() {
    let limits = Limits::new(Some(Duration::from_secs(10)), Duration::from_secs(1), 1 << 20, 1000);
    let mut group = Group::new(slot(0), 4, limits, |_| true);
    arrive(&mut group, 1, 1, 600);
    arrive(&mut group, 2, 1, 600);
    let waits = receive(&mut group, Some(1), Some(2));
    assert_eq!(group.route(waits, slot(1), 600), Route::Store);
    // The other one's room is taken, though nothing is stored yet.
    assert_eq!(group.route(waits, slot(2), 600), Route::Full);
    let owner = receive(&mut group, Some(1), Some(1));
    assert_eq!(group.route(owner, slot(1), 600), Route::Mine);
    group.reclaim(slot(1));
    assert!(woken(&mut group).contains(&waits), "there is room again");
    assert_eq!(group.route(waits, slot(2), 600), Route::Store);
    group.check_invariants();
}

#[test]
fn a_frame_that_came_before_its_communicator_is_refused_from_a_stranger() {
    for is_stored in [false, true] {
        let mut group = group();
        let kind = Kind::Message;
        for peer in [1, 2] {
            let envelope = Envelope { communicator: 9, length: 1, elements: 1, ..Envelope::new(kind) };
            assert_eq!(group.route(OpId::FIRST, slot(peer), 0), Route::Head);
            group.handle_input(Instant::ZERO, Input::Head { peer: slot(peer), envelope });
            if is_stored {
                assert_eq!(group.route(OpId::FIRST, slot(peer), 1), Route::Store);
                group.handle_input(Instant::ZERO, Input::Stored { peer: slot(peer), payload: vec![0] });
            }
        }
        group.open(9, Members::part(slot(0), vec![slot(0), slot(2)]).expect("a member"));
        let outputs: Vec<Output> = std::iter::from_fn(|| group.poll_output()).collect();
        assert!(outputs.contains(&Output::Close(slot(1))), "{outputs:?}");
        assert!(!outputs.contains(&Output::Close(slot(2))), "a member's frame is kept");
        let pattern = Pattern { communicator: 9, source: None, tag: None };
        let id = group.post(Instant::ZERO, 9, What::Receive(pattern), None).expect("posted");
        assert_eq!(group.matched(id).map(|matched| matched.peer), Some(slot(2)));
        group.check_invariants();
    }
}

#[test]
fn both_sides_of_the_deadline() {
    let mut group = group();
    let id = receive(&mut group, Some(3), Some(1));
    let mut waits_for = WaitsFor::default();
    waits_for.add(slot(3));
    group.park(id, waits_for);
    let deadline = Instant::ZERO + Duration::from_secs(10);
    while let Some((at, _)) = group.poll_timeout().filter(|(at, _)| *at < deadline) {
        group.handle_timeout(at);
        assert_eq!(group.check(id), Ok(()));
    }
    assert_eq!(group.poll_timeout().map(|(at, _)| at), Some(deadline));
    group.handle_timeout(deadline);
    let failure = group.check(id).expect_err("its deadline has passed");
    assert_eq!(failure.peer.map(Rank::get), Some(3));
    let waits = "rank 0 waits for rank 3 in recv, which has not answered".into();
    assert_eq!(failure.kind, ErrorKind::Deadline { after: Duration::from_secs(10), waits });
}

#[test]
fn a_broken_connection_waits_for_its_cause_and_a_lost_rank_is_one() {
    for lost in [false, true] {
        let mut group = group();
        group.handle_input(Instant::ZERO, Input::Hears(true));
        let id = receive(&mut group, Some(1), None);
        let kind = ErrorKind::ConnectionLost("closed".into());
        group.handle_input(Instant::ZERO, Input::Broken { peer: slot(1), kind });
        assert_eq!(group.reach(Instant::ZERO, id, slot(1)), Ok(false));
        if lost {
            lose(&mut group, 2, Instant::ZERO);
        } else {
            group.park(id, WaitsFor::default());
            group.handle_timeout(Instant::ZERO + Duration::from_secs(1));
        }
        let failure = group.check(id).expect_err("it has failed");
        assert_eq!(failure.peer.map(Rank::get), Some(if lost { 2 } else { 1 }));
        assert_eq!(matches!(failure.kind, ErrorKind::PeerLost(_)), lost, "a broken connection is no lost rank");
    }
}

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

fn on(peer: u32) -> WaitsFor {
    let mut waits_for = WaitsFor::default();
    waits_for.add(slot(peer));
    waits_for
}

/// The rendezvous calls a peer lost, whose connection shows no sign of life.
fn lose(group: &mut Group, peer: u32, now: Instant) {
    group.handle_input(now, Input::Lost(slot(peer)));
    group.handle_timeout(now + TRIED_FOR);
    group.handle_input(now + TRIED_FOR, Input::Heard { peer: slot(peer), at: Some(now) });
}

fn tell(group: &mut Group, now: Instant, peer: u32, envelope: Envelope, payload: &[u8]) {
    let envelope = Envelope { length: payload.len() as u64, ..envelope };
    assert_eq!(group.route(OpId::FIRST, slot(peer), 0), Route::Head);
    group.handle_input(now, Input::Head { peer: slot(peer), envelope });
    assert_eq!(group.route(OpId::FIRST, slot(peer), payload.len() as u64), Route::Control);
    group.handle_input(now, Input::Control { peer: slot(peer), payload: payload.to_vec() });
}

fn leave(group: &mut Group, peer: u32, communicator: u64) {
    let notice = crate::notice::Notice::Left { rank: 0, how: String::new() };
    tell(group, at(0), peer, Envelope { communicator, ..Envelope::new(Kind::Leave) }, &notice.emit());
}

/// What the machine wants peers to be told.
fn told(group: &mut Group) -> Vec<(u32, Envelope, Vec<u8>)> {
    let told = |output| match output {
        Output::Tell { peer, envelope, payload } => Some((peer.get(), envelope, payload)),
        Output::Wake(_) | Output::Close(_) | Output::Examine(_) | Output::Warn { .. } | Output::Report(_) => None,
    };
    std::iter::from_fn(|| group.poll_output()).filter_map(told).collect()
}

fn collective(group: &mut Group, now: Instant, kind: Kind) -> OpId {
    let signature = Envelope { sequence: group.number(0), ..Envelope::new(kind) };
    group.post(now, 0, What::Collective(signature), None).expect("posted")
}

#[test]
fn a_failed_operation_has_no_place_though_nobody_has_dropped_it() {
    let mut group = group();
    let pattern = Pattern { communicator: 0, source: Some(slot(1)), tag: Some(1) };
    let short = group.post(at(0), 0, What::Receive(pattern), Some(at(1))).expect("posted");
    let long = receive(&mut group, Some(1), Some(1));
    let blocked = group.post(at(0), 0, What::Send(slot(1)), Some(at(1))).expect("posted");
    let next = group.post(at(0), 0, What::Send(slot(1)), None).expect("posted");
    assert!(group.may_begin(blocked) && !group.may_begin(next));
    for id in [short, blocked] {
        group.park(id, on(1));
    }
    group.handle_timeout(at(1));
    assert!(group.check(short).is_err() && group.check(blocked).is_err());
    assert!(woken(&mut group).contains(&next), "its turn has come");
    assert!(group.may_begin(next));
    arrive(&mut group, 1, 1, 0);
    assert!(group.owns(long, slot(1)), "a message that comes later is for the receive that waits");
    group.check_invariants();
}

#[test]
fn a_revoked_receive_has_no_place_either() {
    let mut group = group();
    group.open(5, Members::whole(0, 4));
    let pattern = Pattern { communicator: 5, source: Some(slot(1)), tag: None };
    let id = group.post(at(0), 5, What::Receive(pattern), None).expect("posted");
    group.abort(5, &Failure::new(ErrorKind::Local("full".into())), "full");
    assert!(group.check(id).is_err());
    group.check_invariants();
}

#[test]
fn a_loss_from_before_the_call_is_no_cause_of_another_failure() {
    for is_old in [true, false] {
        let mut group = group();
        group.handle_input(at(0), Input::Hears(true));
        if is_old {
            lose(&mut group, 2, at(0));
        }
        let pattern = Pattern { communicator: 0, source: Some(slot(1)), tag: None };
        let id = group.post(at(3), 0, What::Receive(pattern), None).expect("posted");
        let kind = ErrorKind::ConnectionLost("closed".into());
        group.handle_input(at(4), Input::Broken { peer: slot(1), kind });
        assert_eq!(group.reach(at(4), id, slot(1)), Ok(false), "word of a cause may come");
        if !is_old {
            lose(&mut group, 2, at(4));
        }
        group.park(id, on(1));
        group.handle_timeout(at(5));
        let failure = group.check(id).expect_err("it has failed");
        assert_eq!(failure.peer.map(Rank::get), Some(if is_old { 1 } else { 2 }), "{failure:?}");
    }
}

#[test]
fn a_connection_that_works_refutes_the_rendezvous() {
    let early = Some(at(2));
    for (heard_at, lives) in [(Some(at(3)), true), (early, false), (None, false)] {
        let mut group = group();
        let id = receive(&mut group, Some(1), None);
        group.handle_input(at(2), Input::Lost(slot(1)));
        let asked = told(&mut group);
        assert!(matches!(&asked[..], [(1, question, _)] if question.kind == Kind::Inquiry), "{asked:?}");
        assert_eq!(group.check(id), Ok(()), "not before its connection was tried");
        assert_eq!(group.poll_timeout().map(|(at, _)| at), Some(at(2) + TRIED_FOR));
        group.handle_timeout(at(2) + TRIED_FOR);
        assert_eq!(group.poll_output(), Some(Output::Examine(slot(1))));
        group.handle_input(at(3), Input::Heard { peer: slot(1), at: heard_at });
        assert_eq!(group.check(id).is_ok(), lives, "{heard_at:?}");
    }
}

#[test]
fn an_answer_to_the_question_refutes_the_rendezvous_and_one_to_an_older_one_does_not() {
    for is_fresh in [true, false] {
        let mut group = group();
        let id = receive(&mut group, Some(1), None);
        group.handle_input(at(2), Input::Lost(slot(1)));
        let asked = told(&mut group);
        let question = Envelope::parse(&asked[0].2[..].try_into().expect("an envelope")).expect("an envelope");
        let sequence = if is_fresh { question.sequence } else { question.sequence - 1 };
        tell(&mut group, at(2), 1, Envelope { sequence, ..Envelope::new(Kind::Answer) }, &[0]);
        group.handle_timeout(at(3));
        group.handle_input(at(3), Input::Heard { peer: slot(1), at: None });
        assert_eq!(group.check(id).is_ok(), is_fresh);
    }
}

#[test]
fn a_rank_that_was_called_lost_tries_its_connections_and_learns_that_it_is_excluded() {
    let mut group = group();
    let (dead, alive) = (receive(&mut group, Some(1), None), receive(&mut group, Some(2), None));
    group.handle_input(at(2), Input::Lost(slot(0)));
    group.handle_timeout(at(3));
    for (peer, heard_at) in [(1, Some(at(1))), (2, Some(at(3))), (3, None)] {
        group.handle_input(at(3), Input::Heard { peer: slot(peer), at: heard_at });
    }
    assert_eq!(group.reach(at(3), dead, slot(1)), Ok(true), "a short gap of the network is outlived");
    assert_eq!(group.poll_timeout().map(|(at, _)| at), Some(at(8)), "the question was put after 2 s");
    group.handle_timeout(at(8));
    group.handle_input(at(8), Input::Heard { peer: slot(1), at: Some(at(1)) });
    let failure = group.reach(at(8), dead, slot(1)).expect_err("nobody answers there");
    assert!(matches!(failure.kind, ErrorKind::Excluded(_)), "{failure:?}");
    assert_eq!(group.reach(at(3), alive, slot(2)), Ok(true));
    assert!(group.is_up(slot(3)), "where nothing is known, nothing is broken");
    let outputs: Vec<Output> = std::iter::from_fn(|| group.poll_output()).collect();
    assert!(outputs.contains(&Output::Report(slot(1))) && !outputs.contains(&Output::Report(slot(2))), "{outputs:?}");
}

#[test]
fn a_rank_that_reaches_the_rendezvous_again_tries_the_connections_that_it_waits_for() {
    for (heard_at, lives) in [(30, true), (20, false)] {
        let mut group = group();
        let id = receive(&mut group, Some(1), None);
        group.park(id, on(1));
        group.handle_input(at(29), Input::Returned);
        let asked = told(&mut group);
        assert!(matches!(&asked[..], [(1, question, _)] if question.kind == Kind::Inquiry), "{asked:?}");
        for now in [30, 35] {
            group.handle_timeout(at(now));
            assert_eq!(group.reach(at(now), id, slot(1)), Ok(true), "a short gap of the network is outlived");
            group.handle_input(at(now), Input::Heard { peer: slot(1), at: Some(at(heard_at)) });
        }
        assert_eq!(group.reach(at(35), id, slot(1)).is_ok(), lives, "{heard_at}");
    }
}

#[test]
fn a_connection_that_its_other_end_gave_up_ends_what_waits_for_it_and_nothing_else() {
    let mut group = group();
    let (dead, alive) = (receive(&mut group, Some(1), None), receive(&mut group, Some(2), None));
    group.handle_input(at(1), Input::Severed(slot(1)));
    let failure = group.reach(at(1), dead, slot(1)).expect_err("nothing comes any more");
    assert!(matches!(failure.kind, ErrorKind::ConnectionLost(_)), "{failure:?}");
    assert_eq!(group.reach(at(1), alive, slot(2)), Ok(true));
}

#[test]
fn whoever_asks_about_a_failed_communicator_or_is_taken_for_lost_is_told() {
    let mut group = group();
    group.open(5, Members::whole(0, 4));
    let failure =
        Failure { kind: ErrorKind::PeerLost("gone".into()), peer: group.members(5).and_then(|it| it.rank(2)) };
    group.abort(5, &failure, "gone");
    lose(&mut group, 2, at(0));
    told(&mut group);
    for (peer, communicator) in [(1, 5), (2, 5), (2, 0)] {
        let theirs = Envelope { communicator, ..Envelope::new(Kind::Barrier) };
        tell(&mut group, at(2), peer, Envelope { communicator, ..Envelope::new(Kind::Inquiry) }, &theirs.emit());
        let told = told(&mut group);
        let [(to, envelope, payload)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((*to, envelope.kind, envelope.communicator), (peer, Kind::Revoke, communicator));
        let notice = crate::notice::Notice::parse(payload).expect("a notice");
        assert!(matches!(notice, crate::notice::Notice::Lost { rank: 2, .. }), "{notice}");
    }
    // What it then makes of it.
    let mut other = self::group();
    let id = receive(&mut other, Some(1), None);
    let notice = crate::notice::Notice::Lost { rank: 0, how: "silent".into() };
    tell(&mut other, at(2), 1, Envelope::new(Kind::Revoke), &notice.emit());
    let failure = other.check(id).expect_err("the others go on without it");
    assert!(matches!(failure.kind, ErrorKind::Excluded(_)), "{failure:?}");
}

#[test]
fn a_rank_that_leaves_ends_what_waits_for_more_of_it_and_nothing_else() {
    let mut group = group();
    let first = receive(&mut group, Some(3), None);
    let second = receive(&mut group, Some(3), None);
    let others = [receive(&mut group, Some(1), None), receive(&mut group, None, Some(9))];
    let send = group.post(at(0), 0, What::Send(slot(3)), None).expect("posted");
    let barrier = collective(&mut group, at(0), Kind::Barrier);
    arrive(&mut group, 3, 1, 0);
    group.handle_input(at(0), Input::Consumed(slot(3)));
    leave(&mut group, 3, 0);
    assert_eq!(group.check(first), Ok(()), "what was sent before is delivered");
    group.end(first);
    for id in [second, send] {
        let failure = group.check(id).expect_err("it has left");
        assert_eq!((failure.kind, failure.peer.map(Rank::get)), (ErrorKind::PeerLeft(String::new()), Some(3)));
    }
    for id in [others[0], others[1], barrier] {
        assert_eq!(group.check(id), Ok(()), "others may send");
    }
    assert_eq!(group.reach(at(0), barrier, slot(1)), Ok(true));
    assert!(group.reach(at(0), barrier, slot(3)).is_err(), "a collective that needs more of it fails");
    let late = receive(&mut group, Some(3), None);
    assert!(group.check(late).is_err(), "calls after that fail at once");
    for peer in [1, 2] {
        assert_eq!(group.check(others[1]), Ok(()));
        leave(&mut group, peer, 0);
    }
    assert!(group.check(others[1]).is_err(), "nobody is left who could send");
    group.check_invariants();
}

#[test]
fn a_rank_that_failed_ends_what_waits_for_it_where_its_own_word_does_not_come() {
    let mut group = processes().remove(0);
    let id = receive(&mut group, Some(1), None);
    group.handle_input(at(0), Input::Failed(slot(1)));
    assert_eq!(told(&mut group), [], "a question might cost what it has sent");
    group.handle_timeout(at(6));
    assert_eq!(group.check(id), Ok(()), "nothing has asked it yet");
    group.park(id, on(1));
    group.handle_timeout(at(7));
    group.handle_timeout(at(12));
    group.handle_input(at(12), Input::Heard { peer: slot(1), at: None });
    let failure = group.check(id).expect_err("it left");
    assert!(matches!(failure.kind, ErrorKind::PeerLeft(_)), "{failure:?}");
    // Without a connection there is nothing to wait for.
    let id = receive(&mut group, Some(2), None);
    group.handle_input(at(12), Input::Broken { peer: slot(2), kind: ErrorKind::ConnectionLost("closed".into()) });
    group.handle_input(at(12), Input::Failed(slot(2)));
    assert!(group.check(id).is_err());
}

#[test]
fn a_rank_may_leave_a_communicator_before_it_is_made_here() {
    let mut group = group();
    leave(&mut group, 2, 7);
    group.open(7, Members::whole(0, 4));
    for (peer, may_end) in [(2, false), (1, true)] {
        let pattern = Pattern { communicator: 7, source: Some(slot(peer)), tag: None };
        let id = group.post(at(0), 7, What::Receive(pattern), None).expect("posted");
        assert_eq!(group.check(id).is_ok(), may_end, "rank {peer}");
    }
    group.close(7);
    let goodbyes = told(&mut group);
    assert_eq!(goodbyes.iter().filter(|(_, it, _)| (it.kind, it.communicator) == (Kind::Leave, 7)).count(), 3);
    leave(&mut group, 1, 7);
    assert!(group.early_left.is_empty(), "nothing is kept of what has ended");
}

#[test]
fn a_rank_that_leaves_after_a_failure_says_so() {
    let mut group = group();
    let pattern = Pattern { communicator: 0, source: Some(slot(1)), tag: None };
    let id = group.post(at(0), 0, What::Receive(pattern), Some(at(1))).expect("posted");
    group.park(id, on(1));
    group.handle_timeout(at(1));
    group.end(id);
    told(&mut group);
    group.say_goodbye(0, |_| true);
    group.close(0);
    let goodbyes = told(&mut group);
    assert_eq!(goodbyes.len(), 3, "once to each");
    let notice = crate::notice::Notice::parse(&goodbyes[0].2).expect("a notice").to_string();
    assert!(notice.starts_with("rank 0 left the group: its recv failed: timed out after 1.000 s"), "{notice}");
}

/// Answers of the machine of `from` to what `of` asks, and back, until nothing is told. Process `of` is 0 and `from` is
/// number `peer` for it.
fn exchange(groups: &mut [Group], now: Instant) {
    loop {
        let mut any = false;
        for me in 0..groups.len() {
            for (to, envelope, payload) in told(&mut groups[me]) {
                any = true;
                let from = u32::try_from(me).expect("small");
                tell(&mut groups[to as usize], now, from, envelope, &payload);
            }
        }
        if !any {
            return;
        }
    }
}

/// Four processes without a deadline, which may all talk.
fn processes() -> Vec<Group> {
    let limits = Limits::new(None, Duration::from_secs(1), 1 << 20, 1 << 20);
    (0..4).map(|me| Group::new(slot(me), 4, limits, move |it| it != slot(me))).collect()
}

/// Lets time pass, second by second.
fn pass(groups: &mut [Group], from: u64, to: u64) {
    for second in from..to {
        for group in &mut *groups {
            group.handle_timeout(at(second));
        }
        exchange(groups, at(second));
    }
}

fn receives(group: &mut Group, from: u32, deadline: Option<Instant>) -> OpId {
    let pattern = Pattern { communicator: 0, source: Some(slot(from)), tag: None };
    let id = group.post(at(0), 0, What::Receive(pattern), deadline).expect("posted");
    group.park(id, on(from));
    id
}

#[test]
fn a_deadline_says_who_waits_for_whom_as_far_as_peers_answer() {
    let mut groups = processes();
    let reduce = |group: &mut Group, peer| {
        let signature = Envelope { sequence: group.number(0), ..Envelope::new(Kind::Allreduce) };
        let id = group.post(at(0), 0, What::Collective(signature), Some(at(9))).expect("posted");
        group.park(id, on(peer));
        id
    };
    let first = reduce(&mut groups[0], 1);
    reduce(&mut groups[1], 2);
    pass(&mut groups, 1, 9);
    groups[0].handle_timeout(at(9));
    let ErrorKind::Deadline { waits, .. } = groups[0].check(first).expect_err("overdue").kind else {
        panic!("overdue")
    };
    let expected = "rank 0 waits for rank 1 in allreduce, which waits for rank 2, which has not called it";
    assert_eq!(waits, expected);

    // Rank 2 waits in something else, for a rank that does not answer.
    let mut groups = processes();
    let first = reduce(&mut groups[0], 1);
    reduce(&mut groups[1], 2);
    receives(&mut groups[2], 3, None);
    let mute = groups.pop();
    for second in 1..9 {
        for group in &mut groups {
            group.handle_timeout(at(second));
        }
        for me in 0..groups.len() {
            for (to, envelope, payload) in told(&mut groups[me]) {
                if let Some(group) = groups.get_mut(to as usize) {
                    tell(group, at(second), u32::try_from(me).expect("small"), envelope, &payload);
                }
            }
        }
    }
    drop(mute);
    groups[0].handle_timeout(at(9));
    let ErrorKind::Deadline { waits, .. } = groups[0].check(first).expect_err("overdue").kind else {
        panic!("overdue")
    };
    let expected = "rank 0 waits for rank 1 in allreduce, which waits for rank 2, which has not called it and waits for \
                    rank 3 in recv, which has not answered";
    assert_eq!(waits, expected);
}

#[test]
fn without_a_deadline_an_operation_warns_and_waits_as_long_as_it_takes() {
    let mut groups = processes();
    let id = receives(&mut groups[0], 1, None);
    let mut warnings = Vec::new();
    for second in 1..=600 {
        groups[0].handle_timeout(at(second));
        while let Some(output) = groups[0].poll_output() {
            if let Output::Warn { waits, .. } = output {
                warnings.push((second, waits));
            }
        }
    }
    assert_eq!(groups[0].check(id), Ok(()));
    let times: Vec<u64> = warnings.iter().map(|(second, _)| *second).collect();
    assert_eq!(times, [30, 60, 120, 240, 480], "ever more rarely");
    assert_eq!(warnings[0].1, "rank 0 waits for rank 1 in recv, which has not answered");
}

#[test]
fn a_circle_ends_once_it_is_evident_and_a_chain_does_not() {
    // Who waits for whom; whether rank 0 is in a circle.
    for (waits, is_circle) in [
        (&[(0, 1), (1, 0)][..], true),
        (&[(0, 1), (1, 2), (2, 3), (3, 0)], true),
        (&[(0, 1), (1, 2), (2, 3)], false),
        // It only waits for a circle.
        (&[(0, 1), (1, 2), (2, 1)], false),
    ] {
        let mut groups = processes();
        let ids: Vec<OpId> = waits.iter().map(|(who, whom)| receives(&mut groups[*who], *whom, None)).collect();
        pass(&mut groups, 1, 29);
        assert_eq!(groups[0].check(ids[0]), Ok(()), "it is not evident yet");
        pass(&mut groups, 29, 60);
        match groups[0].check(ids[0]) {
            Ok(()) => assert!(!is_circle, "{waits:?}"),
            Err(failure) => {
                assert!(is_circle && matches!(failure.kind, ErrorKind::Deadlock(_)), "{waits:?}: {failure:?}");
            }
        }
    }
}

#[test]
fn nothing_is_evident_while_bytes_move_or_another_operation_may_help() {
    for help in ["bytes", "operation", "one collective", "nothing"] {
        let mut groups = processes();
        let ids = [(0, 1), (1, 0)].map(|(who, whom): (usize, u32)| {
            if help == "one collective" {
                let id = collective(&mut groups[who], at(0), Kind::Allreduce);
                groups[who].park(id, on(whom));
                id
            } else {
                receives(&mut groups[who], whom, None)
            }
        });
        if help == "operation" {
            receives(&mut groups[1], 3, None);
        }
        for second in 1..100 {
            if help == "bytes" {
                groups[1].moved(at(second));
            }
            pass(&mut groups, second, second + 1);
        }
        assert_eq!(groups[0].check(ids[0]).is_ok(), help != "nothing", "{help}");
    }
}
