//! Goal: whatever is called, whatever comes and whatever breaks, in any order, the machine stays consistent, and each
//! operation ends by its deadline with a cause. Method: drawn scripts, played as a driver would, with the
//! machine's own check after each step.

use proptest::prelude::*;

use super::script::play;
use super::*;

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
    let limits = Limits::new(Duration::from_secs(10), Duration::from_secs(1), 1 << 20, 1 << 20);
    Group::new(slot(0), 4, limits, |_| true)
}

fn receive(group: &mut Group, source: Option<u32>, tag: Option<u32>) -> OpId {
    let pattern = Pattern { communicator: 0, source: source.map(slot), tag };
    group.post(Instant::ZERO, 0, What::Receive(pattern), None).expect("posted")
}

fn arrive(group: &mut Group, peer: u32, tag: u32, length: u64) {
    let envelope = Envelope { root_or_tag: tag, length, elements: length, ..Envelope::new(super::super::frame::Kind::Message) };
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
    group.release(any, &[]);
    assert!(group.owns(late, slot(1)));
    assert_eq!(woken(&mut group).last(), Some(&late));
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
    let limits = Limits::new(Duration::from_secs(10), Duration::from_secs(1), 1 << 20, 1000);
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
        let kind = super::super::frame::Kind::Message;
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
    assert_eq!(failure.kind, ErrorKind::Deadline(Duration::from_secs(10)));
}

#[test]
fn a_broken_connection_waits_for_its_cause_and_a_lost_rank_is_one() {
    for lost in [false, true] {
        let mut group = group();
        group.handle_input(Instant::ZERO, Input::Hears(true));
        let id = receive(&mut group, Some(1), None);
        let kind = ErrorKind::PeerLost("closed".into());
        group.handle_input(Instant::ZERO, Input::Broken { peer: slot(1), kind });
        assert_eq!(group.reach(Instant::ZERO, id, slot(1)), Ok(false));
        if lost {
            group.handle_input(Instant::ZERO, Input::Lost(slot(2)));
        } else {
            group.park(id, WaitsFor::default());
            group.handle_timeout(Instant::ZERO + Duration::from_secs(1));
        }
        let failure = group.check(id).expect_err("it has failed");
        assert_eq!(failure.peer.map(Rank::get), Some(if lost { 2 } else { 1 }));
    }
}
