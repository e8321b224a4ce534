//! Goal: whoever waits asks those that it waits for and no others, is answered with what is the case, and takes for evident
//! only what is. Method: single questions and answers at exact times.

use super::*;
use crate::answer::{self, Called, Doing, Wait};
use crate::frame::ENVELOPE_BYTES;

fn millis(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

/// A receive in a communicator that waits for these peers.
fn waits_in(group: &mut Group, now: Instant, communicator: u64, source: Option<u32>) -> OpId {
    let pattern = Pattern { communicator, source: source.map(slot), tag: None };
    let id = group.post(now, communicator, What::Receive(pattern), None).expect("posted");
    group.park(id, source.map_or_else(WaitsFor::default, on));
    id
}

/// Questions that the machine puts: to whom, in which communicator, about what.
fn questions(group: &mut Group) -> Vec<(u32, u64, Envelope)> {
    let question = |(peer, envelope, payload): (u32, Envelope, Vec<u8>)| {
        assert_eq!((envelope.kind, envelope.length), (Kind::Inquiry, ENVELOPE_BYTES as u64));
        let about = Envelope::parse(&payload[..].try_into().expect("an envelope")).expect("an envelope");
        (peer, envelope.communicator, about)
    };
    told(group).into_iter().map(question).collect()
}

/// A peer asks about something; what it is told.
fn asked(group: &mut Group, now: Instant, peer: u32, theirs: Envelope) -> Option<(Envelope, Vec<u8>)> {
    told(group);
    let envelope = Envelope { communicator: theirs.communicator, ..Envelope::new(Kind::Inquiry) };
    tell(group, now, peer, envelope, &theirs.emit());
    let mut told = told(group).into_iter().filter(|(to, ..)| *to == peer);
    let said = told.next().map(|(_, envelope, payload)| (envelope, payload));
    assert!(told.next().is_none(), "one answer to one question");
    said
}

/// The answer to a question, of which the envelope says whose it is.
fn answer(group: &mut Group, now: Instant, peer: u32, theirs: Envelope) -> Vec<Wait> {
    let (envelope, payload) = asked(group, now, peer, theirs).expect("an answer");
    let length = payload.len() as u64;
    let Envelope { communicator, sequence, .. } = theirs;
    assert_eq!(envelope, Envelope { communicator, sequence, length, ..Envelope::new(Kind::Answer) });
    answer::parse(&payload, 4).expect("a chain")
}

#[test]
fn an_operation_asks_those_that_it_waits_for_after_a_second() {
    let mut group = group();
    group.open(5, Members::part(slot(0), vec![slot(0), slot(1), slot(3)]).expect("a member"));
    waits_in(&mut group, at(9), 5, Some(1));
    group.handle_timeout(millis(9999));
    assert_eq!(questions(&mut group), [], "most end before");
    assert_eq!(group.poll_timeout(), Some((at(10), "an operation asks its peers")));
    group.handle_timeout(at(10));
    let about = Envelope { communicator: 5, ..Envelope::new(Kind::Message) };
    assert_eq!(questions(&mut group), [(1, 5, about)]);
    // From any source: all members may send.
    let mut group = self::group();
    group.open(5, Members::part(slot(0), vec![slot(0), slot(1), slot(3)]).expect("a member"));
    waits_in(&mut group, at(20), 5, None);
    group.handle_timeout(at(21));
    let asked: Vec<u32> = questions(&mut group).into_iter().map(|(peer, ..)| peer).collect();
    assert_eq!(asked, [1, 3]);
}

#[test]
fn a_collective_asks_nobody_in_particular_unless_it_waits_for_somebody() {
    let mut group = group();
    let id = collective(&mut group, at(0), Kind::Barrier);
    group.park(id, WaitsFor::default());
    group.handle_timeout(at(1));
    assert_eq!(questions(&mut group), []);
    group.park(id, on(2));
    group.handle_timeout(at(2));
    let asked = questions(&mut group);
    let [(2, 0, about)] = asked[..] else { panic!("{asked:?}") };
    assert_eq!(about.kind, Kind::Barrier);
}

#[test]
fn one_question_serves_many_messages_and_each_collective_puts_its_own() {
    // The second one is called so much later.
    for (later, count) in [(0, 1), (499, 1), (500, 2)] {
        let mut group = group();
        waits_in(&mut group, at(0), 0, Some(1));
        waits_in(&mut group, millis(later), 0, Some(1));
        group.handle_timeout(at(1));
        group.handle_timeout(millis(1000 + later));
        assert_eq!(questions(&mut group).len(), count, "{later} ms later");
    }
    let mut group = group();
    for _ in 0..2 {
        let id = collective(&mut group, at(0), Kind::Barrier);
        group.park(id, on(1));
    }
    group.handle_timeout(at(1));
    let asked = questions(&mut group);
    assert_eq!(asked.iter().map(|(_, _, about)| about.sequence).collect::<Vec<_>>(), [0, 1]);
    // Nobody is asked to whom there is no connection.
    let mut group = self::group();
    waits_in(&mut group, at(0), 0, Some(1));
    let id = collective(&mut group, at(0), Kind::Barrier);
    group.park(id, on(1));
    group.handle_input(at(0), Input::Broken { peer: slot(1), kind: ErrorKind::ConnectionLost("closed".into()) });
    group.handle_timeout(at(1));
    assert_eq!(questions(&mut group), []);
}

#[test]
fn whoever_asks_is_told_how_far_this_rank_is() {
    let mut group = group();
    let of = |sequence| Envelope { sequence, ..Envelope::new(Kind::Barrier) };
    let (over, running) = (collective(&mut group, at(0), Kind::Barrier), collective(&mut group, at(0), Kind::Barrier));
    group.end(over);
    for (sequence, called) in [(0, Called::Over), (1, Called::Running), (2, Called::No)] {
        assert_eq!(answer(&mut group, at(1), 1, of(sequence))[0].called, called, "number {sequence}");
    }
    // A message has no number that means anything to its receiver.
    for sequence in [0, 1, 2] {
        let theirs = Envelope { sequence, ..Envelope::new(Kind::Message) };
        assert_eq!(answer(&mut group, at(1), 1, theirs)[0].called, Called::No);
    }
    assert_eq!(group.check(running), Ok(()));
}

#[test]
fn the_operation_that_has_waited_longest_is_what_a_rank_waits_in() {
    let mut group = group();
    let question = Envelope::new(Kind::Message);
    assert_eq!(answer(&mut group, at(1), 3, question)[0].doing, None);
    // It does not wait: it is at work.
    receive(&mut group, Some(1), None);
    let pattern = Pattern { communicator: 0, source: Some(slot(1)), tag: None };
    let fails = group.post(at(0), 0, What::Receive(pattern), Some(at(2))).expect("posted");
    group.park(fails, on(1));
    waits_in(&mut group, at(0), 0, Some(2));
    waits_in(&mut group, at(0), 0, Some(3));
    let doing = |chain: &[Wait]| chain[0].doing.expect("it waits");
    assert_eq!(doing(&answer(&mut group, at(1), 3, question)).waits_for, on(1));
    group.handle_timeout(at(2));
    assert!(group.check(fails).is_err());
    assert_eq!(doing(&answer(&mut group, at(2), 3, question)).waits_for, on(2), "what has failed waits no more");
    assert!(!doing(&answer(&mut group, at(2), 3, question)).is_only);
}

#[test]
fn a_rank_that_calls_something_else_under_that_number_says_so() {
    for kind in [Kind::Barrier, Kind::Allreduce] {
        let mut group = group();
        let id = collective(&mut group, at(0), Kind::Barrier);
        tell(&mut group, at(1), 1, Envelope::new(Kind::Inquiry), &Envelope::new(kind).emit());
        let differs = kind != Kind::Barrier;
        assert_eq!(group.check(id).is_err(), differs);
        let notices: Vec<_> = told(&mut group).into_iter().filter(|(_, it, _)| it.kind == Kind::Revoke).collect();
        assert_eq!(notices.len(), if differs { 3 } else { 0 });
        for (_, _, payload) in notices {
            let notice = crate::notice::Notice::parse(&payload).expect("a notice");
            assert!(matches!(notice, crate::notice::Notice::Mismatch { rank: 0, other: 1, .. }), "{notice}");
        }
    }
}

#[test]
fn whoever_only_asks_whether_anybody_is_there_is_answered() {
    let ping = |communicator| Envelope { communicator, sequence: 77, ..Envelope::new(Kind::Inquiry) };
    let mut group = group();
    group.open(5, Members::whole(0, 4));
    group.abort(5, &Failure::new(ErrorKind::Local("full".into())), "full");
    for communicator in [0, 5, 99] {
        answer(&mut group, at(1), 1, ping(communicator));
    }
    // What is asked about a communicator that is still to be made here can be answered, not of one that has ended.
    answer(&mut group, at(1), 1, Envelope { communicator: 99, ..Envelope::new(Kind::Message) });
    group.close(5);
    assert_eq!(asked(&mut group, at(1), 1, Envelope { communicator: 5, ..Envelope::new(Kind::Message) }), None);
    // Whoever is taken for lost learns it.
    lose(&mut group, 2, at(1));
    let (envelope, _) = asked(&mut group, at(2), 2, ping(0)).expect("an answer");
    assert_eq!(envelope.kind, Kind::Revoke);
}

/// What peer 1 says: it waits for `peer`, has been idle for that long, and has nothing else to do.
fn says(peer: u32, idle: Duration) -> Wait {
    let doing = Doing {
        operation: crate::error::Operation::Receive,
        communicator: 0,
        sequence: 0,
        idle,
        is_only: true,
        waits_for: on(peer),
    };
    Wait { slot: slot(1), age: Duration::ZERO, called: Called::No, doing: Some(doing) }
}

fn hear(group: &mut Group, now: Instant, wait: Wait) {
    tell(group, now, wait.slot.get(), Envelope::new(Kind::Answer), &answer::emit(&[wait]));
}

#[test]
fn a_circle_is_evident_after_thirty_seconds_of_which_the_last_ten_were_idle() {
    let long = Duration::from_secs(60);
    // When a byte last moved here; when the failure is due.
    for (moved, due) in [(0, 30_000), (20_000, 30_000), (20_001, 30_001), (25_000, 35_000)] {
        let mut group = processes().remove(0);
        let id = waits_in(&mut group, at(0), 0, Some(1));
        group.moved(millis(moved));
        hear(&mut group, millis(due), says(0, long));
        assert!(group.deadlock(millis(due - 1), id).is_none(), "{moved}");
        assert!(group.deadlock(millis(due), id).is_some(), "{moved}");
    }
}

#[test]
fn word_that_is_older_than_the_operation_or_than_its_silence_proves_nothing() {
    let long = Duration::from_secs(60);
    // When the peer said it; when the operation is called; whether it is evident at 60 s.
    for (said, called, is_evident) in [(9, 10, false), (10, 10, true), (11, 10, true)] {
        let mut group = processes().remove(0);
        hear(&mut group, at(said), says(0, long));
        let id = waits_in(&mut group, at(called), 0, Some(1));
        // It is told again, as the operation was not there before.
        if said > called {
            hear(&mut group, at(said), says(0, long));
        }
        group.handle_timeout(at(60));
        assert_eq!(group.check(id).is_err(), is_evident, "said at {said} s");
    }
    // Nor is it repeated to anybody.
    let mut group = processes().remove(0);
    hear(&mut group, at(9), says(2, long));
    let id = waits_in(&mut group, at(10), 0, Some(1));
    assert_eq!(group.chain(id).text, "rank 0 waits for rank 1 in recv, which has not answered");
    // A byte moved here after that: the peer may have gone on.
    let mut group = processes().remove(0);
    let id = waits_in(&mut group, at(0), 0, Some(1));
    hear(&mut group, at(5), says(0, long));
    group.moved(at(6));
    group.handle_timeout(at(60));
    assert_eq!(group.check(id), Ok(()));
    hear(&mut group, at(60), says(0, long));
    assert!(group.deadlock(at(60), id).is_some());
}

#[test]
fn what_is_passed_on_says_how_old_it_is() {
    let mut group = processes().remove(0);
    waits_in(&mut group, at(0), 0, Some(1));
    hear(&mut group, at(3), Wait { age: Duration::from_secs(2), ..says(3, Duration::from_secs(1)) });
    let chain = answer(&mut group, at(10), 2, Envelope::new(Kind::Message));
    let ages: Vec<_> = chain.iter().map(|wait| (wait.slot.get(), wait.age.as_secs())).collect();
    assert_eq!(ages, [(0, 0), (1, 9)]);
    let idle = chain[0].doing.expect("it waits").idle;
    assert_eq!(idle, Duration::from_secs(10));
}

#[test]
fn whoever_waits_for_itself_alone_waits_forever() {
    for is_only in [true, false] {
        let mut group = group();
        let id = waits_in(&mut group, at(0), 0, Some(0));
        if !is_only {
            group.post(at(0), 0, What::Send(slot(1)), None).expect("posted");
        }
        assert_eq!(group.deadlock(at(60), id).is_some(), is_only, "a send to itself may still come");
    }
}

#[test]
fn a_chain_of_messages_says_who_waits_for_nobody() {
    let mut group = processes().remove(0);
    let id = waits_in(&mut group, at(0), 0, Some(1));
    hear(&mut group, at(2), says(2, Duration::ZERO));
    assert_eq!(
        group.chain(id).text,
        "rank 0 waits for rank 1 in recv, which waits for rank 2 in recv, which has not answered"
    );
    hear(&mut group, at(2), Wait { doing: None, ..says(2, Duration::ZERO) });
    assert_eq!(group.chain(id).text, "rank 0 waits for rank 1 in recv, which waits for nobody");
}
