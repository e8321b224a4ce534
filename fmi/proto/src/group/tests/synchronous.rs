//! Goal: a synchronous send ends when a receive has got its message, and by nothing else. Method: every word and every
//! order of taking and matching.

use super::*;

fn send(group: &mut Group, number: u64) -> OpId {
    let id = group.post(at(0), 0, What::Send(slot(1)), None).expect("posted");
    group.expect_match(id, number);
    id
}

fn word(sequence: u64) -> Envelope {
    Envelope { sequence, ..Envelope::new(Kind::Matched) }
}

#[test]
fn a_send_is_matched_by_the_word_of_its_receiver_about_its_message() {
    let mut group = group();
    let id = send(&mut group, 7);
    tell(&mut group, at(0), 1, word(7), &[]);
    assert!(!group.is_matched(id), "nothing can be received before it is sent");
    group.begun(id);
    woken(&mut group);
    tell(&mut group, at(0), 1, word(6), &[]);
    tell(&mut group, at(0), 2, word(7), &[]);
    tell(&mut group, at(0), 1, Envelope { communicator: 9, ..word(7) }, &[]);
    assert!(!group.is_matched(id) && woken(&mut group).is_empty(), "the word for another message");
    tell(&mut group, at(0), 1, word(7), &[]);
    assert!(group.is_matched(id));
    assert_eq!(woken(&mut group), [id]);
    group.check_invariants();
    group.end(id);
    assert!(group.unmatched.is_empty());
}

#[test]
fn a_send_that_goes_on_waiting_lets_the_next_one_begin() {
    let mut group = group();
    let (first, second) = (send(&mut group, 0), send(&mut group, 1));
    assert!(group.may_begin(first) && !group.may_begin(second));
    group.begun(first);
    woken(&mut group);
    group.sent(first);
    assert_eq!(woken(&mut group), [second]);
    let receives = receive(&mut group, Some(1), None);
    group.sent(receives);
    assert_eq!(woken(&mut group), [], "a receive is not sent");
}

#[test]
fn a_receive_says_once_that_it_has_the_message_and_a_probe_does_not() {
    let message =
        Envelope { communicator: 5, epoch: 3, sequence: 4, synchronous: true, ..Envelope::new(Kind::Message) };
    let word = Envelope { communicator: 5, epoch: 3, sequence: 4, ..Envelope::new(Kind::Matched) };
    // Whether it takes its message, before or after that comes; whether the sender waits.
    for (takes_before, takes_after, is_synchronous, words) in [
        (true, false, true, 1),
        (false, true, true, 1),
        (true, true, true, 1),
        (false, false, true, 0),
        (true, true, false, 0),
    ] {
        let mut group = group();
        group.open(5, Members::whole(0, 4));
        let pattern = Pattern { communicator: 5, source: None, tag: None };
        let id = group.post(at(0), 5, What::Receive(pattern), None).expect("posted");
        if takes_before {
            group.take(id);
        }
        assert_eq!(group.route(OpId::FIRST, slot(2), 0), Route::Head);
        let envelope = Envelope { synchronous: is_synchronous, ..message };
        group.handle_input(at(0), Input::Head { peer: slot(2), envelope });
        if takes_after {
            group.take(id);
        }
        let told = told(&mut group);
        assert_eq!(told.len(), words, "{told:?}");
        assert!(told.iter().all(|(peer, envelope, payload)| (*peer, *envelope, payload.len()) == (2, word, 0)));
    }
}

#[test]
fn a_message_to_this_process_itself_is_matched_without_a_word() {
    let mut group = group();
    let id = group.post(at(0), 0, What::Send(slot(0)), None).expect("posted");
    group.expect_match(id, 0);
    group.begun(id);
    let envelope = Envelope { synchronous: true, length: 3, elements: 3, ..Envelope::new(Kind::Message) };
    assert_eq!(group.send_to_self(envelope, &[1, 2, 3]), Ok(()));
    let receives = receive(&mut group, Some(0), None);
    assert!(!group.is_matched(id));
    group.take(receives);
    assert!(group.is_matched(id));
    assert_eq!(told(&mut group), []);
    assert_eq!(group.take_stored(receives).map(|stored| stored.payload), Some(vec![1, 2, 3]));
}
