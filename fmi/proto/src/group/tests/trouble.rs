//! Goal: what fails is just what has to, with the first cause known, and each rank that needs to know is told once.
//! Method: single pieces of bad news at exact times.

use super::*;
use crate::notice::Notice;

fn lost() -> ErrorKind {
    ErrorKind::ConnectionLost("closed".into())
}

fn receive_in(group: &mut Group, communicator: u64, source: Option<u32>) -> OpId {
    let pattern = Pattern { communicator, source: source.map(slot), tag: None };
    group.post(at(0), communicator, What::Receive(pattern), None).expect("posted")
}

fn part(slots: &[u32]) -> Members {
    Members::part(slot(0), slots.iter().copied().map(slot).collect()).expect("a member")
}

fn outputs(group: &mut Group) -> Vec<Output> {
    std::iter::from_fn(|| group.poll_output()).collect()
}

#[test]
fn whether_anyone_is_reached_depends_on_the_last_connection() {
    let mut group = group();
    for peer in 0..4 {
        assert!(group.reaches_anyone());
        group.handle_input(at(0), Input::Broken { peer: slot(peer), kind: lost() });
    }
    assert!(!group.reaches_anyone());
}

#[test]
fn a_suspicion_is_the_first_one_and_can_be_taken_back() {
    let mut group = group();
    group.handle_input(at(0), Input::Hears(true));
    let id = receive(&mut group, None, None);
    assert!(!group.is_suspicious(id) && !group.listens(id));
    group.suspect(at(5), id, slot(1), lost());
    group.suspect(at(5), id, slot(2), lost());
    assert!(group.is_suspicious(id) && group.listens(id));
    group.forgive(id);
    assert!(!group.is_suspicious(id) && !group.listens(id));
    group.suspect(at(5), id, slot(1), lost());
    group.suspect(at(5), id, slot(2), lost());
    group.park(id, on(1));
    assert_eq!(group.poll_timeout(), Some((at(6), "the cause of a broken connection is waited for")));
    group.handle_timeout(at(6));
    assert_eq!(group.check(id).expect_err("no cause came").peer.map(Rank::get), Some(1));
}

#[test]
fn an_operation_that_has_asked_listens() {
    let mut group = group();
    let id = receive(&mut group, Some(1), None);
    group.park(id, on(1));
    group.handle_timeout(at(1));
    assert!(group.listens(id) && !group.is_suspicious(id));
}

#[test]
fn a_dissolved_session_ends_all_operations_and_later_ones() {
    let mut group = group();
    let before = receive(&mut group, Some(1), None);
    group.handle_input(at(0), Input::Dissolved);
    let after = receive(&mut group, Some(1), None);
    for id in [before, after] {
        let failure = group.check(id).expect_err("it cannot end");
        assert!(matches!(failure.kind, ErrorKind::Revoked(_)), "{failure:?}");
    }
}

#[test]
fn a_communicator_that_fails_is_told_to_its_other_members_that_are_there() {
    let mut group = group();
    group.open(5, part(&[0, 2, 3]));
    group.handle_input(at(0), Input::Broken { peer: slot(3), kind: lost() });
    let rank = group.members(5).and_then(|members| members.rank(1));
    let left = Failure { kind: ErrorKind::PeerLeft("enough".into()), peer: rank };
    group.abort(5, &left, "");
    let told = told(&mut group);
    let [(2, Envelope { kind: Kind::Revoke, communicator: 5, .. }, payload)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(Notice::parse(payload), Ok(Notice::Left { rank: 1, how: "enough".into() }));
    group.abort(5, &left, "");
    assert_eq!(self::told(&mut group), [], "once");
}

#[test]
fn a_rank_takes_from_a_notice_what_concerns_it() {
    let (mine, theirs) = (Envelope::new(Kind::Barrier), Envelope::new(Kind::Scan));
    let mismatch = |other| Notice::Mismatch { rank: 1, called: theirs, other, other_called: mine };
    let how = || "why".to_owned();
    let revoked = |notice: &Notice| ErrorKind::Revoked(notice.to_string());
    let left_me = Notice::Left { rank: 0, how: how() };
    let of_me = ErrorKind::Mismatch { mine: mine.to_string(), theirs: theirs.to_string() };
    for (notice, kind, peer) in [
        (mismatch(0), of_me, 1),
        (mismatch(3), revoked(&mismatch(3)), 2),
        (Notice::Lost { rank: 3, how: how() }, ErrorKind::PeerLost(how()), 3),
        (Notice::Lost { rank: 0, how: how() }, ErrorKind::Excluded("the others took it for lost: why".into()), 2),
        (Notice::Left { rank: 3, how: how() }, ErrorKind::PeerLeft(how()), 3),
        (left_me.clone(), revoked(&left_me), 2),
    ] {
        let mut group = group();
        let id = receive(&mut group, Some(1), None);
        tell(&mut group, at(0), 2, Envelope::new(Kind::Revoke), &notice.emit());
        let failure = group.check(id).expect_err("the communicator failed");
        assert_eq!((failure.kind, failure.peer.map(Rank::get)), (kind, Some(peer)), "{notice}");
        assert_eq!(told(&mut group), [], "whoever failed has told everybody");
    }
}

#[test]
fn the_cause_is_told_to_one_call_and_the_others_hear_of_a_revocation() {
    let notice = Notice::Lost { rank: 3, how: "silent".into() };
    let post = |group: &mut Group| {
        let pattern = Pattern { communicator: 0, source: Some(slot(1)), tag: None };
        group.post(at(2), 0, What::Receive(pattern), None).expect_err("revoked").kind
    };
    // An operation that was there reports it; one that had failed before for another reason does not.
    for running in ["nothing", "a receive", "an overdue receive"] {
        let mut group = group();
        let id = (running != "nothing").then(|| {
            let pattern = Pattern { communicator: 0, source: Some(slot(1)), tag: None };
            let deadline = Some(at(if running == "a receive" { 9 } else { 1 }));
            let id = group.post(at(0), 0, What::Receive(pattern), deadline).expect("posted");
            group.park(id, on(1));
            id
        });
        group.handle_timeout(at(1));
        tell(&mut group, at(1), 2, Envelope::new(Kind::Revoke), &notice.emit());
        if let Some(id) = id {
            assert!(group.check(id).is_err());
            group.end(id);
        }
        let first = post(&mut group);
        assert_eq!(matches!(first, ErrorKind::PeerLost(_)), running != "a receive", "{running}: {first:?}");
        assert!(matches!(post(&mut group), ErrorKind::Revoked(_)), "{running}");
    }
}

#[test]
fn parking_again_moves_a_timer_forward_and_makes_no_second_one() {
    let mut group = group();
    group.handle_input(at(0), Input::Hears(true));
    let limits = Limits::new(None, Duration::from_millis(500), 1 << 20, 1 << 20);
    group.limits = limits;
    let id = receive(&mut group, Some(1), None);
    for _ in 0..10 {
        group.park(id, on(1));
    }
    assert_eq!(group.timers.len(), 1);
    group.suspect(at(0), id, slot(1), lost());
    group.park(id, on(1));
    assert_eq!(group.poll_timeout().map(|(at, _)| at), Some(at(0) + Duration::from_millis(500)));
}

#[test]
fn timers_say_what_they_are_for() {
    let mut group = processes().remove(0);
    let id = receives(&mut group, 1, None);
    let mut reasons = Vec::new();
    while let Some((now, reason)) = group.poll_timeout().filter(|(now, _)| *now <= at(40)) {
        reasons.push((now.since_origin().as_secs(), reason));
        group.handle_timeout(now);
    }
    let warns: Vec<_> = reasons.iter().filter(|(_, reason)| *reason == "an operation has waited for long").collect();
    assert_eq!(warns, [&(30, "an operation has waited for long")]);
    assert!(reasons.iter().all(|(now, reason)| *now == 30 || *reason == "an operation asks its peers"), "{reasons:?}");
    group.end(id);
    // A deadline comes before anything else that is due.
    let mut group = self::group();
    let id = group.post(at(0), 0, What::Send(slot(1)), Some(at(1))).expect("posted");
    group.park(id, on(1));
    assert_eq!(group.poll_timeout(), Some((at(1), "deadline of an operation")));
}

#[test]
fn timers_of_ended_operations_do_not_pile_up() {
    let mut group = group();
    let first = receive(&mut group, Some(1), None);
    group.park(first, on(1));
    for _ in 0..1000 {
        let ids: Vec<OpId> = (0..40).map(|_| receives(&mut group, 1, Some(at(5)))).collect();
        ids.into_iter().for_each(|id| group.end(id));
    }
    assert!(group.timers.len() < 200, "{}", group.timers.len());
    assert_eq!(group.poll_timeout().map(|(at, _)| at), Some(at(1)), "that of one which lives is kept");
}

#[test]
fn a_rank_that_is_told_that_it_is_lost_asks_its_peers_and_not_itself() {
    let mut group = group();
    group.handle_input(at(1), Input::Lost(slot(0)));
    let asked: Vec<u32> = told(&mut group).into_iter().map(|(peer, ..)| peer).collect();
    assert_eq!(asked, [1, 2, 3]);
}

#[test]
fn a_connection_is_tried_once_for_each_time_that_the_rendezvous_was_out_of_reach() {
    let mut group = processes().remove(0);
    receives(&mut group, 1, None);
    let tried = |group: &mut Group| {
        let asks =
            |payload: &[u8]| Envelope::parse(payload.try_into().expect("an envelope")).expect("an envelope").kind;
        told(group).iter().filter(|(_, _, payload)| asks(payload) == Kind::Inquiry).count()
    };
    group.handle_timeout(at(1));
    assert_eq!(tried(&mut group), 0, "it asks what the peer does, and doubts nothing");
    for now in [2, 20] {
        group.handle_input(at(now), Input::Returned);
        assert_eq!(tried(&mut group), 1);
        group.handle_input(at(now + 1), Input::Heard { peer: slot(1), at: Some(at(now + 1)) });
        for now in now + 1..now + 9 {
            group.handle_timeout(at(now));
        }
        assert_eq!(tried(&mut group), 0, "its answer settled it");
    }
}

#[test]
fn worse_news_is_tried_at_once_and_other_news_only_hurries() {
    type News<'a> = &'a dyn Fn() -> Input;
    // What is said first, and three seconds later; to how many questions the second leads; what is due when.
    let failed = || Input::Failed(slot(1));
    let dead = || Input::Lost(slot(1));
    let (excluded, returned) = (|| Input::Lost(slot(0)), || Input::Returned);
    let cases: [(News<'_>, News<'_>, usize, u64); 5] = [
        (&failed, &dead, 1, 4000),
        (&failed, &failed, 0, 4000),
        (&failed, &returned, 0, 4000),
        (&excluded, &dead, 0, 1000),
        (&dead, &dead, 0, 1000),
    ];
    for (first, second, questions, due) in cases {
        let mut group = Group::new(slot(0), 2, processes()[0].limits, |it| it == Slot::FIRST.max(it) && it.get() == 1);
        let id = receives(&mut group, 1, None);
        group.handle_input(at(0), first());
        told(&mut group);
        group.handle_input(at(3), second());
        assert_eq!(told(&mut group).len(), questions, "{:?}, then {:?}", first(), second());
        let doubt = group.doubts.values().map(|doubt| doubt.until).next();
        assert_eq!(doubt, Some(Instant::ZERO + Duration::from_millis(due)), "{:?}, then {:?}", first(), second());
        group.end(id);
    }
}

#[test]
fn a_rank_that_failed_is_examined_only_after_somebody_asked_it() {
    let mut group = processes().remove(0);
    let id = receive(&mut group, Some(1), None);
    group.handle_input(at(0), Input::Failed(slot(1)));
    group.handle_timeout(at(6));
    assert!(!outputs(&mut group).contains(&Output::Examine(slot(1))), "what it sent may still be read");
    group.park(id, on(1));
    group.handle_timeout(at(7));
    group.handle_timeout(at(12));
    assert!(outputs(&mut group).contains(&Output::Examine(slot(1))));
}

#[test]
fn silence_counts_from_the_first_question_without_an_answer() {
    // When questions were put, and when the peer was last heard; when its connection is given up.
    for (questions, heard, due) in [(&[2, 5][..], 2, 11), (&[2, 5], 1, 8), (&[2, 5], 6, 13), (&[], 1, 13)] {
        let mut group = processes().remove(0);
        receives(&mut group, 1, None);
        for now in questions {
            group.note_question(slot(1), at(*now));
        }
        group.handle_input(at(7), Input::Returned);
        group.handle_timeout(at(8));
        if due > 8 {
            group.handle_input(at(8), Input::Heard { peer: slot(1), at: Some(at(heard)) });
            assert!(group.is_up(slot(1)), "{questions:?}, {heard}");
            let until = group.doubts.values().map(|doubt| doubt.until).next();
            assert_eq!(until, Some(at(due)), "{questions:?}, {heard}");
        }
        group.handle_timeout(at(due));
        group.handle_input(at(due), Input::Heard { peer: slot(1), at: Some(at(heard)) });
        assert!(!group.is_up(slot(1)), "{questions:?}, {heard}");
    }
}

#[test]
fn the_last_eight_questions_of_a_peer_are_kept_a_second_apart() {
    let mut group = group();
    for millis in [0, 999, 1000, 1500] {
        group.note_question(slot(1), at(0) + Duration::from_millis(millis));
    }
    assert_eq!(group.peers[1].questions, [at(0), at(1)]);
    for second in 2..10 {
        group.note_question(slot(1), at(second));
    }
    assert_eq!(group.peers[1].questions, (2..10).map(at).collect::<Vec<_>>());
}

#[test]
fn two_questions_are_told_apart_by_their_numbers() {
    let mut group = group();
    let mut numbers = BTreeSet::new();
    for now in [2, 20] {
        group.handle_input(at(now), Input::Lost(slot(1)));
        let asked = told(&mut group);
        let question = Envelope::parse(&asked[0].2[..].try_into().expect("an envelope")).expect("an envelope");
        numbers.insert(question.sequence);
        tell(&mut group, at(now), 1, Envelope { sequence: question.sequence, ..Envelope::new(Kind::Answer) }, &[0]);
    }
    assert_eq!(numbers.len(), 2);
}

#[test]
fn the_loss_of_a_rank_fails_what_needs_it_and_nothing_else() {
    let mut group = group();
    group.open(5, part(&[0, 2]));
    let begin = Envelope { length: 10, elements: 100, more: true, ..Envelope::new(Kind::Message) };
    let stored = [1, 2].map(|peer| {
        assert_eq!(group.route(OpId::FIRST, slot(peer), 0), Route::Head);
        group.handle_input(at(0), Input::Head { peer: slot(peer), envelope: begin });
        assert_eq!(group.route(OpId::FIRST, slot(peer), 10), Route::Store);
        group.handle_input(at(0), Input::Stored { peer: slot(peer), payload: vec![0; 10] });
        receive(&mut group, Some(peer), None)
    });
    let (of_one, of_two) = (receive(&mut group, Some(1), None), receive(&mut group, Some(2), None));
    let elsewhere = receive_in(&mut group, 5, None);
    lose(&mut group, 1, at(1));
    for (id, fails) in [(stored[0], true), (stored[1], false), (of_one, true), (of_two, false), (elsewhere, false)] {
        assert_eq!(group.check(id).is_err(), fails, "{id:?}");
    }
}

#[test]
fn a_connection_that_breaks_to_a_rank_which_was_lost_before_has_that_cause() {
    let mut group = group();
    group.handle_input(at(0), Input::Hears(true));
    lose(&mut group, 1, at(0));
    arrive(&mut group, 1, 1, 100);
    let pattern = Pattern { communicator: 0, source: Some(slot(1)), tag: None };
    let id = group.post(at(3), 0, What::Receive(pattern), None).expect("posted");
    assert_eq!(group.check(id), Ok(()), "its message has come");
    group.handle_input(at(4), Input::Broken { peer: slot(1), kind: lost() });
    let failure = group.reach(at(4), id, slot(1)).expect_err("nothing else is to be heard");
    assert!(matches!(failure.kind, ErrorKind::PeerLost(_)), "{failure:?}");
}

#[test]
fn a_process_knows_whether_one_of_its_operations_failed() {
    let mut group = group();
    let id = receive(&mut group, Some(1), None);
    assert!(!group.has_failed());
    lose(&mut group, 1, at(0));
    group.end(id);
    assert!(group.has_failed());
}

#[test]
fn ranks_may_leave_so_many_communicators_before_they_are_made_here() {
    let mut group = group();
    let known = |group: &Group, communicator| group.early_left.get(&communicator).map_or(0, BTreeMap::len);
    let max = u64::try_from(ENDED_MAX).expect("small");
    for communicator in 1..=max + 1 {
        leave(&mut group, 1, communicator);
    }
    assert_eq!([1, max, max + 1].map(|communicator| known(&group, communicator)), [1, 1, 0]);
    leave(&mut group, 2, 1);
    assert_eq!(known(&group, 1), 2, "another rank leaves the same one");
}

#[test]
fn a_process_that_failed_leaves_what_it_was_a_member_of_and_had_not_left() {
    let mut group = group();
    group.open(5, part(&[0, 2]));
    group.open(6, Members::whole(0, 4));
    let done = Notice::Left { rank: 1, how: "done".into() };
    tell(&mut group, at(0), 1, Envelope { communicator: 6, ..Envelope::new(Kind::Leave) }, &done.emit());
    assert!(group.may_send(0, slot(1)) && !group.may_send(6, slot(1)), "it has left one of them");
    assert!(group.may_send(6, slot(2)));
    group.handle_input(at(0), Input::Broken { peer: slot(1), kind: lost() });
    group.handle_input(at(0), Input::Failed(slot(1)));
    let left = |group: &Group, communicator: u64| group.contexts[&communicator].left.get(&slot(1)).cloned();
    assert_eq!(left(&group, 5), None, "it was no member");
    assert_eq!(left(&group, 6).as_deref(), Some("done"), "what it said itself is kept");
    assert!(left(&group, 0).is_some());
}

/// Rank 2 is killed, rank 1 fails of that and is gone: its end may be read before it is known whether rank 2 is lost.
#[test]
fn whoever_failed_of_a_loss_is_not_taken_for_its_cause() {
    let answer = |group: &mut Group, heard_at| {
        group.handle_timeout(at(1));
        group.handle_input(at(1), Input::Heard { peer: slot(2), at: heard_at });
    };
    let breaks = |group: &mut Group, peer| group.handle_input(at(0), Input::Broken { peer: slot(peer), kind: lost() });
    for (is_up, lives) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut group = group();
        group.handle_input(at(0), Input::Hears(true));
        if !is_up {
            breaks(&mut group, 1);
        }
        let id = group.post(at(0), 0, What::Collective(Envelope::new(Kind::Barrier)), None).expect("posted");
        group.handle_input(at(0), Input::Lost(slot(2)));
        group.handle_input(at(0), Input::Failed(slot(1)));
        if is_up {
            breaks(&mut group, 1);
        }
        assert!(group.reach(at(0), id, slot(1)).is_ok(), "nothing is settled");
        answer(&mut group, lives.then(|| at(1)));
        let named = group.check(id).and_then(|()| group.reach(at(1), id, slot(1)).map(drop)).expect_err("one is gone");
        assert_eq!(named.peer.map(Rank::get), Some(if lives { 1 } else { 2 }), "{is_up} {lives}: {named:?}");
    }
}
