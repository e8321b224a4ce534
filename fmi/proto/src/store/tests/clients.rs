//! What clients are to each other.

use bytes::BufMut;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const MIB: usize = 1 << 20;
const FULL: &str = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn waiters_are_served_in_order_of_arrival() {
    let mut desk = Desk::open(MIB);
    assert_eq!(desk.ask(A, "BLPOP x l 0"), "");
    assert_eq!(desk.ask(B, "BRPOP l y 0"), "");
    assert_eq!(desk.ask(C, "RPUSH l 1 2 3"), ":3\r\n");
    assert_eq!(desk.said(A), "*2\r\n$1\r\nl\r\n$1\r\n1\r\n");
    assert_eq!(desk.said(B), "*2\r\n$1\r\nl\r\n$1\r\n3\r\n");
    assert_eq!(desk.ask(C, "LRANGE l 0 -1"), "*1\r\n$1\r\n2\r\n");
    // Neither waits for its other list.
    desk.ask(C, "RPUSH x 1");
    desk.ask(C, "RPUSH y 1");
    assert_eq!((desk.said(A), desk.said(B)), (String::new(), String::new()));
}

#[test]
fn a_waiter_that_is_gone_gets_nothing() {
    let mut desk = Desk::open(MIB);
    desk.ask(A, "BLPOP l 0");
    desk.ask(B, "BLPOP l 0");
    desk.input(A, Input::Closed);
    assert_eq!(desk.ask(C, "RPUSH l 1"), ":1\r\n");
    assert_eq!((desk.said(A).as_str(), desk.said(B).as_str()), ("", "*2\r\n$1\r\nl\r\n$1\r\n1\r\n"));
}

#[test]
fn a_wait_ends_at_its_time_and_what_was_sent_ahead_is_answered() {
    let mut desk = Desk::open(MIB);
    desk.ask(A, "SET body b");
    assert_eq!(desk.ask(A, "BLPOP l 0.1"), "");
    // A receiver asks for bell and body together.
    assert_eq!(desk.ask(A, "GET body"), "");
    desk.after(millis(100) - Duration::from_nanos(1));
    assert_eq!(desk.said(A), "");
    desk.after(Duration::from_nanos(1));
    assert_eq!(desk.said(A), "*-1\r\n$1\r\nb\r\n");
    desk.ask(C, "RPUSH l 1");
    assert_eq!((desk.said(A).as_str(), desk.ask(C, "LLEN l").as_str()), ("", ":1\r\n"));
}

#[test]
fn who_waits_does_not_hear_of_another_type() {
    let mut desk = Desk::open(MIB);
    desk.ask(A, "BLPOP l 0");
    desk.ask(B, "SET l 1");
    assert_eq!(desk.ask(C, "BLPOP none l 0"), "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n");
    desk.ask(B, "DEL l");
    desk.ask(B, "RPUSH l 1");
    assert_eq!(desk.said(A), "*2\r\n$1\r\nl\r\n$1\r\n1\r\n");
}

/// A body is where it was read to, and goes out from there.
#[test]
fn a_large_body_is_never_copied() {
    let mut desk = Desk::open(64 * MIB);
    desk.feed(A, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n");
    let mut room = desk.server.room(A).expect("it is read");
    let place = room.chunk_mut().as_mut_ptr() as usize;
    room.put_bytes(7, 1_000_000);
    room.put_slice(b"\r\n");
    desk.input(A, Input::Filled);
    assert_eq!(desk.said(A), "+OK\r\n");
    desk.server.room(B).expect("it is read").put_slice(&request(&[b"GET", b"k"]));
    desk.server.handle_input(desk.now, B, Input::Filled);
    let parts: Vec<_> = std::iter::from_fn(|| desk.server.poll_output()).collect();
    let body = parts.iter().find_map(|it| match it {
        Output::Send(B, bytes) if bytes.len() == 1_000_000 => Some(bytes.as_ptr() as usize),
        Output::Send(..) | Output::Close(_) => None,
    });
    assert_eq!(body, Some(place));
}

/// With a body of 1 MiB under `k`, each answer with it is so long.
const ANSWER: usize = MIB + "$1048576\r\n\r\n".len();

#[test]
fn a_client_that_does_not_take_answers_is_not_read_and_then_closed() {
    let mut desk = Desk::open(64 * MIB);
    desk.feed(A, &request(&[b"SET", b"k", &vec![7; MIB]]));
    desk.takes(false);
    let gets = request(&[b"GET", b"k"]).repeat(10_000);
    let fed = desk.feed(B, &gets);
    assert!(fed < gets.len(), "it is not read any more");
    assert_eq!(desk.server.clients[&B].queued, 16 * ANSWER);
    // Others are served meanwhile.
    desk.takes(true);
    assert_eq!(desk.ask(C, "PING"), "+PONG\r\n");
    desk.after(STALL_MAX - millis(1));
    assert!(!desk.closed.contains(&B));
    desk.after(millis(1));
    assert!(desk.closed.contains(&B) && !desk.closed.contains(&C));
}

#[test]
fn a_client_that_takes_its_answers_goes_on_where_it_was() {
    let mut desk = Desk::open(64 * MIB);
    desk.feed(A, &request(&[b"SET", b"k", &vec![7; MIB]]));
    desk.takes(false);
    desk.feed(B, &request(&[b"GET", b"k"]).repeat(100));
    assert_eq!(desk.said(B).len(), 16 * ANSWER);
    desk.takes(true);
    desk.input(B, Input::Sent(16 * ANSWER));
    assert_eq!(desk.said(B).len(), 84 * ANSWER);
    assert!(desk.server.room(B).is_some());
}

#[test]
fn one_who_stops_within_a_request_is_closed_and_one_who_waits_is_not() {
    let mut desk = Desk::open(MIB);
    desk.feed(A, b"*2\r\n$3\r\nGE");
    desk.ask(B, "BLPOP l 0");
    desk.after(STALL_MAX * 3);
    assert_eq!(desk.closed, [A]);
}

/// What stalls is who does not take an answer, not who had none to take.
#[test]
fn one_who_has_waited_for_long_has_its_time_to_take_what_comes() {
    let mut desk = Desk::open(MIB);
    desk.ask(A, "BLPOP l 0");
    desk.ask(B, "SUBSCRIBE c");
    desk.ask(C, "BLPOP m 600");
    desk.feed(C, b"*2\r\n$3\r\nGE");
    desk.after(Duration::from_secs(599));
    desk.takes(false);
    desk.input(Client(4), Input::Opened);
    desk.feed(Client(4), &[request(&[b"RPUSH", b"l", b"1"]), request(&[b"PUBLISH", b"c", b"x"])].concat());
    desk.after(STALL_MAX - millis(1));
    assert!(desk.closed.is_empty(), "{:?}", desk.closed);
    desk.after(millis(1));
    assert_eq!(desk.closed, [A, B, Client(4)]);
    desk.after(STALL_MAX);
    assert_eq!(desk.closed.last(), Some(&C));
}

#[test]
fn memory_is_bounded_and_removing_makes_room() {
    let mut desk = Desk::open(MIB);
    let mut stored = 0;
    let refused = loop {
        let key = format!("k{stored}");
        desk.feed(A, &request(&[b"SET", key.as_bytes(), &[7; 10_000]]));
        let said = desk.said(A);
        if said != "+OK\r\n" {
            break said;
        }
        stored += 1;
        assert!(stored < 110);
    };
    assert_eq!(refused, FULL);
    assert!(stored > 95 && desk.server.used() <= MIB + 20_000, "{stored}, {}", desk.server.used());
    // One that is longer than all memory is read past.
    desk.feed(B, &request(&[b"SET", b"k", &vec![7; 2 * MIB]]));
    assert_eq!(desk.said(B), FULL);
    desk.feed(B, &request(&[b"RPUSH", b"l", &[7; 10_000]]));
    assert_eq!(desk.said(B), FULL);
    assert_eq!(desk.ask(B, "GET k0").len(), 10_010);
    assert_eq!(desk.ask(B, "DEL k0 k1 k2"), ":3\r\n");
    assert_eq!(desk.ask(B, "SET k v"), "+OK\r\n");
}

/// None of it is stored, all of it counts.
#[test]
fn what_clients_hold_counts() {
    let mut desk = Desk::open(MIB);
    desk.ask(A, "MULTI");
    let mut said = String::new();
    for _ in 0..40 {
        desk.feed(A, &request(&[b"ECHO", &[7; 50_000]]));
        said = desk.said(A);
    }
    assert!(said.starts_with("-OOM"), "{said}");
    assert!(desk.ask(A, "EXEC").starts_with("-EXECABORT"));
    let names: Vec<Vec<u8>> = (0..50).map(|number| vec![number; 60_000]).collect();
    let mut said = Vec::new();
    for name in &names {
        desk.feed(A, &request(&[b"SUBSCRIBE", name]));
        said.push(desk.said(A));
    }
    assert!(said[0].starts_with("*3") && said[49].starts_with("-OOM"));
    let wait: Vec<&[u8]> = [b"BLPOP" as &[u8]].into_iter().chain(names.iter().map(|name| &name[..])).collect();
    desk.feed(B, &request(&[&wait[..], &[b"0"]].concat()));
    assert!(desk.said(B).starts_with("-OOM"));
    for client in [A, B, C] {
        desk.input(client, Input::Closed);
    }
    assert_eq!(desk.server.used(), 0);
}

#[test]
fn a_password_is_asked_for_and_strangers_have_little_time() {
    let config = StoreConfig { password: Some("secret".into()), ..StoreConfig::default() };
    let mut desk = Desk::of(&config);
    for client in [A, B, C] {
        desk.input(client, Input::Opened);
    }
    assert_eq!(desk.ask(A, "GET k"), "-NOAUTH Authentication required.\r\n");
    assert!(desk.ask(A, "AUTH wrong").starts_with("-WRONGPASS"));
    assert!(desk.ask(A, "AUTH other secret").starts_with("-WRONGPASS"));
    assert!(desk.ask(A, "HELLO 3").starts_with("-NOAUTH HELLO must be called"));
    assert_eq!(desk.ask(A, "AUTH secret"), "+OK\r\n");
    assert_eq!(desk.ask(A, "GET k"), "$-1\r\n");
    assert!(desk.ask(B, "HELLO 3 AUTH default secret").starts_with("%7\r\n$6\r\nserver"));
    assert_eq!(desk.ask(B, "GET k"), "_\r\n");
    assert_eq!(desk.ask(A, "RESET"), "+RESET\r\n");
    assert_eq!(desk.ask(A, "GET k"), "-NOAUTH Authentication required.\r\n");
    desk.after(STRANGER_MAX);
    assert_eq!(desk.closed, [A, C]);
    assert!(!format!("{:?} {config:?}", desk.server).contains("secret"));
}

#[test]
fn one_beyond_the_table_is_told_so() {
    let mut desk = Desk::of(&StoreConfig { clients_max: 2, ..StoreConfig::default() });
    for client in [A, B, C] {
        desk.input(client, Input::Opened);
    }
    assert_eq!((desk.said(C).as_str(), &desk.closed[..]), ("-ERR max number of clients reached\r\n", &[C][..]));
    desk.input(A, Input::Closed);
    desk.input(Client(4), Input::Opened);
    assert_eq!(desk.ask(Client(4), "PING"), "+PONG\r\n");
}

#[test]
fn one_that_sends_no_requests_is_told_and_closed() {
    let mut desk = Desk::open(MIB);
    desk.feed(A, b"*1\r\n$4\r\nPING\r\n*1\r\nGET\r\n*1\r\n$4\r\nPING\r\n");
    assert_eq!(desk.said(A), "+PONG\r\n-ERR Protocol error: expected '$', got 'G'\r\n");
    desk.takes(false);
    desk.feed(B, &request(&[b"QUIT"]));
    assert_eq!(desk.closed, [A], "it has not taken its answer");
    desk.input(B, Input::Sent(5));
    assert_eq!(desk.closed, [A, B]);
}

#[test]
fn transactions_are_not_interrupted_and_wait_for_nothing() {
    let mut desk = Desk::open(MIB);
    assert_eq!(desk.ask(A, "EXEC"), "-ERR EXEC without MULTI\r\n");
    desk.ask(B, "BLPOP l 0");
    assert_eq!(desk.ask(A, "MULTI"), "+OK\r\n");
    for command in ["RPUSH l 1", "RPUSH l 2", "LLEN l", "BLPOP m 0", "INCR l"] {
        assert_eq!(desk.ask(A, command), "+QUEUED\r\n");
    }
    assert_eq!((desk.said(B).as_str(), desk.ask(C, "EXISTS l").as_str()), ("", ":0\r\n"));
    let wrong = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
    assert_eq!(desk.ask(A, "EXEC"), format!("*5\r\n:1\r\n:2\r\n:2\r\n*-1\r\n{wrong}"));
    assert_eq!(desk.said(B), "*2\r\n$1\r\nl\r\n$1\r\n1\r\n");
    desk.ask(A, "MULTI");
    assert!(desk.ask(A, "NONE").starts_with("-ERR unknown command 'NONE'"));
    assert!(desk.ask(A, "EXEC").starts_with("-EXECABORT"));
    desk.ask(A, "MULTI");
    desk.ask(A, "SET k v");
    assert_eq!(desk.ask(A, "DISCARD"), "+OK\r\n");
    assert_eq!(desk.ask(A, "GET k"), "$-1\r\n");
}

#[test]
fn what_is_published_reaches_who_listens_and_one_that_does_not_read_is_closed() {
    let mut desk = Desk::open(256 * MIB);
    let confirmed = "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nd\r\n:2\r\n";
    assert_eq!(desk.ask(A, "SUBSCRIBE c d"), confirmed);
    desk.ask(B, "HELLO 3");
    desk.ask(B, "SUBSCRIBE c");
    assert_eq!(desk.ask(C, "PUBLISH c x"), ":2\r\n");
    assert_eq!(desk.said(A), "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n");
    assert_eq!(desk.said(B), ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n");
    assert!(desk.ask(A, "GET k").starts_with("-ERR Can't execute 'get'"));
    assert_eq!(desk.ask(B, "GET k"), "_\r\n");
    assert_eq!(desk.ask(A, "PING"), "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    assert_eq!(desk.ask(A, "UNSUBSCRIBE d"), "*3\r\n$11\r\nunsubscribe\r\n$1\r\nd\r\n:1\r\n");
    desk.ask(B, "RESET");
    desk.takes(false);
    for _ in 0..33 {
        desk.feed(C, &request(&[b"PUBLISH", b"c", &vec![7; MIB]]));
        let answered = desk.server.clients[&C].queued;
        desk.input(C, Input::Sent(answered));
    }
    assert_eq!(desk.closed, [A]);
    assert!(desk.said(C).ends_with(":1\r\n:0\r\n"));
}

#[test]
fn a_scan_finds_what_is_there_all_the_time() {
    let mut desk = Desk::open(MIB);
    for number in 0..100 {
        desk.ask(A, &format!("SET k{number} v"));
    }
    let (mut cursor, mut found, mut steps) = ("0".to_owned(), Vec::new(), 0);
    loop {
        let said = desk.ask(A, &format!("SCAN {cursor} MATCH k* COUNT 7"));
        let words: Vec<_> =
            said.split("\r\n").filter(|word| !word.is_empty() && !word.starts_with(['*', '$'])).collect();
        cursor = words[0].to_owned();
        found.extend(words[1..].iter().map(|word| (*word).to_owned()));
        desk.ask(B, &format!("DEL k{}", 50 + steps));
        desk.ask(B, &format!("SET new{steps} v"));
        steps += 1;
        if cursor == "0" {
            break;
        }
    }
    for number in (0..50).chain(66..100) {
        assert_eq!(found.iter().filter(|key| **key == format!("k{number}")).count(), 1, "k{number}");
    }
    assert_eq!(desk.ask(A, "SCAN 99999999999999999999"), "-ERR invalid cursor\r\n");
    assert_eq!(desk.ask(A, "SCAN 18446744073709551615"), "*2\r\n$1\r\n0\r\n*0\r\n");
}

fn words() -> impl Strategy<Value = Vec<u8>> {
    let commands = proptest::sample::select(COMMANDS).prop_map(|name| name.as_bytes().to_vec());
    let others = prop_oneof![
        Just(b"k".to_vec()),
        Just(b"l".to_vec()),
        Just(b"0".to_vec()),
        Just(b"-1".to_vec()),
        Just(b"5".to_vec()),
        Just(b"EX".to_vec()),
        Just(b"GET".to_vec()),
        Just(b"9223372036854775807".to_vec()),
        Just(b"nan".to_vec()),
        vec(any::<u8>(), 0..5),
        (0usize..40_000).prop_map(|length| vec![7; length]),
    ];
    (commands, vec(others, 0..5)).prop_map(|(name, others)| {
        let words: Vec<&[u8]> = std::iter::once(&name[..]).chain(others.iter().map(|it| &it[..])).collect();
        request(&words)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn nothing_that_clients_say_breaks_or_outgrows_a_server(
        steps in vec((1u64..5, prop_oneof![4 => words(), 1 => vec(any::<u8>(), 0..30)], 0u8..8, 0u64..70_000), 0..80),
    ) {
        let memory = 200_000;
        let mut desk = Desk::open(memory);
        for (client, bytes, action, pause) in steps {
            let client = Client(client);
            desk.takes(action != 0);
            match action {
                1 => desk.input(client, Input::Closed),
                2 if !desk.server.clients.contains_key(&client) => desk.input(client, Input::Opened),
                3 => desk.after(millis(pause)),
                4 => desk.input(client, Input::Sent(usize::try_from(pause).expect("small"))),
                _ => drop(desk.feed(client, &bytes)),
            }
            // What a client holds beside: an answer that is copied, and what it has sent ahead.
            prop_assert!(desk.server.used() <= 2 * memory + 4 * (128 << 10), "{}", desk.server.used());
        }
        for client in 1..5 {
            desk.input(Client(client), Input::Closed);
        }
        desk.input(A, Input::Opened);
        desk.ask(A, "FLUSHDB");
        desk.input(A, Input::Closed);
        prop_assert_eq!((desk.server.used(), desk.server.poll_timeout(), desk.server.waiting.len()), (0, None, 0));
    }

    #[test]
    fn any_pieces_give_the_same_answers(
        requests in vec(words(), 1..20),
        pieces in vec(prop_oneof![1usize..5, 1usize..60_000], 1..8),
    ) {
        let stream = requests.concat();
        let (mut whole, mut pieced) = (Desk::open(1 << 22), Desk::open(1 << 22));
        whole.feed(A, &stream);
        let (mut rest, mut pieces) = (&stream[..], pieces.into_iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(pieces.next().expect("one").min(rest.len()));
            if pieced.feed(A, piece) < piece.len() {
                break;
            }
            rest = after;
        }
        prop_assert_eq!(whole.said(A), pieced.said(A));
        prop_assert_eq!(whole.closed, pieced.closed);
    }
}
