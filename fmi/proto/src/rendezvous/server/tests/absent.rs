//! Goal: a rank that goes while its group forms, and does not come back, is named to all that wait for it, and nobody else is.
//! Method: as above.

use super::*;

/// To whom which loss was told.
fn losses(outputs: &[(u64, Option<ServerMessage>)]) -> Vec<(u64, SessionId, u32)> {
    let lost = |(to, message): &(u64, Option<ServerMessage>)| match message {
        Some(ServerMessage::Lost { session, rank }) => Some((*to, *session, *rank)),
        _ => None,
    };
    outputs.iter().filter_map(lost).collect()
}

fn waiting(ranks: u32) -> Bench {
    let mut bench = Bench::new();
    for rank in 0..ranks {
        bench.register(u64::from(rank), rank, 4, u8::try_from(rank).expect("small"));
    }
    bench
}

#[test]
fn a_rank_that_does_not_come_back_is_named_to_all_that_wait_at_its_time() {
    let mut bench = waiting(3);
    bench.input(2, Input::Closed);
    assert_eq!(bench.server.poll_timeout().map(|it| it.0), Some(Instant::ZERO + RETURN_WITHIN));
    assert_eq!(bench.advance(RETURN_WITHIN - Duration::from_nanos(1)), []);
    let told = bench.advance(Duration::from_nanos(1));
    assert_eq!(losses(&told), [(0, NOT_YET, 2), (1, NOT_YET, 2)]);
    assert_eq!(losses(&bench.advance(RETURN_WITHIN)), [], "once");
}

#[test]
fn a_rank_that_comes_back_or_says_that_it_leaves_is_not_called_lost() {
    let mut bench = waiting(3);
    bench.input(2, Input::Closed);
    bench.advance(RETURN_WITHIN / 2);
    bench.register(9, 2, 4, 9);
    bench.input(1, Input::Message(ClientMessage::Leave(NOT_YET)));
    assert_eq!(losses(&bench.advance(2 * RETURN_WITHIN)), []);
    assert_eq!(bench.server.absent.len(), 0);
}

#[test]
fn the_dead_of_a_dissolved_session_is_named_and_those_that_registered_again_are_not() {
    let mut bench = waiting(3);
    bench.register(3, 3, 4, 3);
    // Rank 0 gives the round up; the others hear of it, but for one.
    for (connection, rank) in [(10, 0), (11, 1), (13, 3)] {
        bench.register(connection, rank, 4, u8::try_from(rank).expect("small"));
    }
    let mut told = losses(&bench.advance(RETURN_WITHIN));
    told.sort_unstable();
    assert_eq!(told, [(10, NOT_YET, 2), (11, NOT_YET, 2), (13, NOT_YET, 2)]);
}

#[test]
fn one_that_comes_back_from_a_session_that_formed_learns_whom_that_lost_before_or_after() {
    for is_before in [true, false] {
        let mut bench = Bench::new();
        let session = bench.form();
        bench.input(1, Input::Message(ClientMessage::Formed(session)));
        let mut told = if is_before { bench.input(2, Input::Closed) } else { Vec::new() };
        told.clear();
        told.extend(bench.register(3, 0, 2, 0));
        if !is_before {
            told.extend(bench.input(2, Input::Closed));
        }
        assert!(losses(&told).contains(&(3, session, 1)), "{is_before}: {told:?}");
    }
}

#[test]
fn one_that_comes_back_from_a_session_that_formed_learns_that_it_did_whoever_says_so_first() {
    let mut bench = Bench::new();
    let session = bench.form();
    bench.input(1, Input::Message(ClientMessage::Formed(session)));
    assert_eq!(losses(&bench.register(3, 1, 2, 1)), [(3, session, 1)]);

    // It was dissolved before that one could say so, which resumes it.
    let mut bench = Bench::new();
    let session = bench.form();
    assert_eq!(losses(&bench.register(3, 1, 2, 1)), []);
    bench.input(4, Input::Opened(from(4)));
    let resumption = Resumption { session, group: [1; 32], rank: 0, size: 2, nonce: [9; 16] };
    assert_eq!(losses(&bench.input(4, Input::Message(ClientMessage::Resume(resumption)))), [(3, session, 1)]);
}

#[test]
fn what_is_remembered_of_ranks_that_went_is_bounded() {
    let mut bench = Bench::with(ServerConfig { connections_max: 3, ..ServerConfig::default() });
    for rank in 0..9 {
        bench.register(u64::from(rank), rank, 20, 1);
        bench.input(u64::from(rank), Input::Closed);
    }
    assert_eq!(bench.server.absent.len(), 3);
    bench.advance(RETURN_WITHIN);
    assert_eq!((bench.server.absent.len(), bench.server.absent_in_order.len()), (0, 0));
}
