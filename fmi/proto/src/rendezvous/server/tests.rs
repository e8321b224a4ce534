//! Goal: a group gets all its addresses in one exchange whatever single clients do, and nothing
//! grows without bound. Method: direct calls in virtual time; arbitrary input against the tables.

use super::*;
use crate::rendezvous::{NOT_YET, RelayRequest, Resumption};
use proptest::prelude::*;

mod absent;
mod limits;

struct Bench {
    server: Server,
    now: Instant,
    spliced: Vec<(u64, u64)>,
}

impl Bench {
    fn new() -> Self {
        Self::with(ServerConfig::default())
    }

    fn with(config: ServerConfig) -> Self {
        Self { server: Server::new(config, [7; 32]), now: Instant::ZERO, spliced: Vec::new() }
    }

    fn input(&mut self, connection: u64, input: Input) -> Vec<(u64, Option<ServerMessage>)> {
        self.server.handle_input(self.now, Connection(connection), input);
        self.drain()
    }

    fn advance(&mut self, by: Duration) -> Vec<(u64, Option<ServerMessage>)> {
        self.now += by;
        self.server.handle_timeout(self.now);
        self.drain()
    }

    /// Messages, and `None` for a close.
    fn drain(&mut self) -> Vec<(u64, Option<ServerMessage>)> {
        let mut outputs = Vec::new();
        while let Some(output) = self.server.poll_output() {
            outputs.push(match output {
                Output::CallBack { .. } => continue,
                Output::SendAll(connections, message) => {
                    outputs.extend(connections.iter().map(|connection| (connection.0, Some(message.clone()))));
                    continue;
                }
                Output::Splice(first, second) => {
                    self.spliced.push((first.0, second.0));
                    continue;
                }
                Output::Send(connection, message) => (connection.0, Some(message)),
                Output::Close(connection) => (connection.0, None),
            });
        }
        outputs
    }

    fn register(&mut self, connection: u64, rank: u32, size: u32, instance: u8) -> Vec<(u64, Option<ServerMessage>)> {
        let port = u16::try_from(connection).expect("small numbers");
        self.input(connection, Input::Opened(SocketAddr::from(([203, 0, 113, 1], port))));
        self.input(connection, Input::Message(ClientMessage::Register(registration(rank, size, instance))))
    }

    fn form(&mut self) -> SessionId {
        self.register(1, 0, 2, 0);
        match &self.register(2, 1, 2, 1)[0] {
            (_, Some(ServerMessage::Handout(group))) => group.session,
            other => panic!("no group: {other:?}"),
        }
    }
}

fn registration(rank: u32, size: u32, instance: u8) -> Registration {
    Registration {
        group: [1; 32],
        name: [1; 16],
        rank,
        size,
        instance: [instance; 16],
        nonce: fresh_nonce(),
        round_trip: Duration::from_millis(u64::from(rank)),
        vouches: 0,
        card: vec![instance; 40],
    }
}

/// Another one each time.
fn fresh_nonce() -> Nonce {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    u128::from(COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)).to_be_bytes()
}

fn refusal(outputs: &[(u64, Option<ServerMessage>)], connection: u64) -> Option<Refusal> {
    outputs.iter().find_map(|output| match output {
        (to, Some(ServerMessage::Refused(refusal))) if *to == connection => Some(*refusal),
        _ => None,
    })
}

#[test]
fn the_last_rank_completes_the_group_for_all_in_one_message_each() {
    let mut bench = Bench::new();
    let first = bench.register(1, 0, 2, 0);
    assert!(
        matches!(&first[..], [(1, Some(ServerMessage::Waiting(waiting)))] if waiting.present == 1 && waiting.missing == 1)
    );
    let outputs = bench.register(2, 1, 2, 1);
    assert_eq!(outputs.len(), 2);
    for (_, message) in outputs {
        let Some(ServerMessage::Handout(group)) = message else { panic!("expected a group, got {message:?}") };
        assert_eq!(group.members.len(), 2);
        assert_eq!(group.members[1].observed.main.port(), 2, "the observed address");
        assert_eq!(group.members[0].card, [0; 40], "cards are carried as they are");
        assert_eq!(group.members[1].round_trip, Duration::from_millis(1));
    }
    assert_eq!((bench.server.groups_forming(), bench.server.sessions()), (0, 1));
}

#[test]
fn wrong_rank_and_wrong_size_are_refused_and_disturb_nobody() {
    let mut bench = Bench::new();
    bench.register(1, 0, 2, 0);
    let outputs = bench.register(3, 5, 2, 3);
    assert_eq!(refusal(&outputs, 3), Some(Refusal::RankOutOfRange));
    let outputs = bench.register(4, 1, 3, 4);
    assert_eq!(refusal(&outputs, 4), Some(Refusal::SizeMismatch { expected: 2 }));
    let outputs = bench.register(5, 0, 0, 5);
    assert_eq!(refusal(&outputs, 5), Some(Refusal::SizeOutOfRange { max: SIZE_MAX }));
    assert_eq!(bench.register(2, 1, 2, 1).len(), 2, "the group still forms");
}

#[test]
fn a_living_holder_keeps_its_rank() {
    let mut bench = Bench::new();
    bench.register(1, 0, 2, 0);
    assert_eq!(bench.register(2, 0, 2, 9), [(1, Some(ServerMessage::Probe))]);
    let outputs = bench.input(1, Input::Message(ClientMessage::Ping));
    assert_eq!(refusal(&outputs, 2), Some(Refusal::RankTaken));
}

#[test]
fn a_group_does_not_complete_while_a_rank_is_contended() {
    let mut bench = Bench::new();
    bench.register(1, 1, 2, 1);
    bench.register(2, 1, 2, 9);
    let outputs = bench.register(3, 0, 2, 0);
    assert!(group_of(&outputs).is_none(), "who is silent may be an impostor");
    let outputs = bench.advance(Duration::from_secs(1));
    assert_eq!(group_of(&outputs).expect("complete").members[1].card[0], 9);
}

#[test]
fn a_silent_holder_loses_its_rank_to_its_successor() {
    let mut bench = Bench::new();
    bench.register(1, 0, 2, 0);
    bench.register(2, 0, 2, 9);
    assert!(bench.advance(Duration::from_millis(999)).is_empty());
    let outputs = bench.advance(Duration::from_millis(1));
    assert_eq!(outputs[0], (1, None));
    assert!(matches!(outputs[1], (2, Some(ServerMessage::Waiting(_)))));
    assert_eq!(bench.register(3, 1, 2, 1).len(), 2);
}

#[test]
fn the_same_process_replaces_its_own_registration() {
    let mut bench = Bench::new();
    bench.register(1, 0, 2, 0);
    let outputs = bench.register(2, 0, 2, 0);
    assert_eq!(outputs[0], (1, None));
    assert!(matches!(outputs[1], (2, Some(ServerMessage::Waiting(_)))));
}

#[test]
fn a_silent_client_is_closed_and_a_waiting_one_expires() {
    let mut bench = Bench::new();
    bench.input(1, Input::Opened(SocketAddr::from(([1, 1, 1, 1], 1))));
    assert!(bench.advance(Duration::from_secs(4)).is_empty());
    assert_eq!(refusal(&bench.advance(Duration::from_secs(1)), 1), Some(Refusal::Expired));
    bench.register(2, 0, 2, 0);
    assert_eq!(refusal(&bench.advance(Duration::from_secs(600)), 2), Some(Refusal::Expired));
    assert_eq!((bench.server.connections(), bench.server.groups_forming()), (0, 0));
}

#[test]
fn losing_a_member_is_told_once_formed_and_dissolves_before() {
    let mut bench = Bench::new();
    let session = bench.form();
    bench.input(1, Input::Message(ClientMessage::Formed(session)));
    assert_eq!(bench.input(2, Input::Closed), [(1, Some(ServerMessage::Lost { session, rank: 1 }))]);

    let mut bench = Bench::new();
    let session = bench.form();
    assert_eq!(bench.input(2, Input::Closed), [(1, Some(ServerMessage::Dissolved(session)))]);
    bench.register(3, 1, 2, 1);
    let outputs = bench.input(1, Input::Message(ClientMessage::Register(registration(0, 2, 0))));
    assert_eq!(outputs.len(), 2, "the group forms again: {outputs:?}");
}

#[test]
fn leaving_in_good_order_alarms_nobody() {
    let mut bench = Bench::new();
    let session = bench.form();
    bench.input(1, Input::Message(ClientMessage::Formed(session)));
    assert_eq!(bench.input(2, Input::Message(ClientMessage::Leave(session))), [(2, None)]);
    bench.input(1, Input::Message(ClientMessage::Leave(session)));
    assert_eq!((bench.server.connections(), bench.server.sessions()), (0, 0));
}

#[test]
fn a_wrong_name_or_key_is_hinted_at() {
    let mut bench = Bench::new();
    bench.register(1, 0, 2, 0);
    bench.input(2, Input::Opened(SocketAddr::from(([1, 1, 1, 1], 1))));
    let other = Registration { group: [2; 32], ..registration(1, 2, 1) };
    let outputs = bench.input(2, Input::Message(ClientMessage::Register(other)));
    assert!(matches!(&outputs[..], [(2, Some(ServerMessage::Waiting(waiting)))] if waiting.other_key));
    // Groups of another size are no hint; of the two, the second misses the rank that the first one holds.
    for (connection, group, rank, size) in [(3, [3; 32], 1, 3), (4, [4; 32], 0, 3)] {
        bench.input(connection, Input::Opened(SocketAddr::from(([1, 1, 1, 1], 1))));
        let other = Registration { group, size, ..registration(rank, size, 1) };
        let outputs = bench.input(connection, Input::Message(ClientMessage::Register(other)));
        let hinted = matches!(&outputs[..], [(_, Some(ServerMessage::Waiting(waiting)))] if waiting.other_key);
        assert_eq!(hinted, connection == 4);
    }
}

/// Calls that the server wants to be made: who asks, from where, to whom.
fn calls(server: &mut Server) -> Vec<(u64, u8, SocketAddr)> {
    let mut calls = Vec::new();
    while let Some(output) = server.poll_output() {
        if let Output::CallBack { connection, vantage, to } = output {
            calls.push((connection.0, vantage, to));
        }
    }
    calls
}

#[test]
fn a_client_is_called_back_where_it_is_seen_and_nowhere_else() {
    let vantages: Vec<SocketAddr> = vec!["1.1.1.1:7".parse().expect("v4"), "1.1.1.1:8".parse().expect("v4")];
    let config = ServerConfig { vantages: vantages.clone(), calls_max: 1, ..ServerConfig::default() };
    let mut server = Server::new(config, [0; 32]);
    let from = SocketAddr::from(([203, 0, 113, 1], 4000));
    let input =
        |server: &mut Server, connection, input| server.handle_input(Instant::ZERO, Connection(connection), input);
    input(&mut server, 1, Input::Opened(from));
    input(&mut server, 1, Input::Message(ClientMessage::Observe));
    let told = ServerMessage::Observed { observed: from, vantages };
    assert_eq!(server.poll_output(), Some(Output::Send(Connection(1), told)));
    input(&mut server, 1, Input::Message(ClientMessage::CallBack(1)));
    assert_eq!(calls(&mut server), [(1, 1, from)]);
    // No second call before the first has ended, and none beyond the bound of all clients.
    input(&mut server, 2, Input::Opened(from));
    input(&mut server, 2, Input::Message(ClientMessage::CallBack(1)));
    assert_eq!(server.poll_output(), Some(Output::Send(Connection(2), ServerMessage::Refused(Refusal::Busy))));
    input(&mut server, 1, Input::CalledBack { vantage: 1, outcome: Outcome::Silence });
    assert!(calls(&mut server).is_empty());
    input(&mut server, 1, Input::Message(ClientMessage::CallBack(9)));
    assert!(calls(&mut server).is_empty(), "there is no such vantage");
    assert_eq!(server.connections(), 0, "who asks for that is not served");
}

#[test]
fn a_discovery_asks_a_few_times_and_for_a_while() {
    let mut server = Server::new(ServerConfig::default(), [0; 32]);
    server.handle_input(Instant::ZERO, Connection(1), Input::Opened(SocketAddr::from(([203, 0, 113, 1], 4000))));
    for _ in 0..OBSERVATIONS_MAX {
        server.handle_input(Instant::ZERO, Connection(1), Input::Message(ClientMessage::Observe));
        assert_eq!(server.connections(), 1);
    }
    let mut patient = Server::new(ServerConfig::default(), [0; 32]);
    patient.handle_input(Instant::ZERO, Connection(1), Input::Opened(SocketAddr::from(([203, 0, 113, 1], 4000))));
    patient.handle_input(Instant::ZERO, Connection(1), Input::Message(ClientMessage::Observe));
    patient.handle_timeout(Instant::ZERO + DISCOVERY_MAX);
    server.handle_input(Instant::ZERO, Connection(1), Input::Message(ClientMessage::Observe));
    assert_eq!((server.connections(), patient.connections()), (0, 0));
}

fn group_of(outputs: &[(u64, Option<ServerMessage>)]) -> Option<&Handout> {
    outputs.iter().find_map(|(_, message)| match message {
        Some(ServerMessage::Handout(group)) => Some(&**group),
        _ => None,
    })
}

fn from(port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 1], port))
}

#[test]
fn two_observations_reach_the_peers_whichever_comes_first() {
    for vouch_is_first in [true, false] {
        let mut bench = Bench::new();
        bench.register(1, 0, 2, 0);
        let vouched = Registration { vouches: 1, ..registration(1, 2, 1) };
        let nonce = vouched.nonce;
        bench.input(2, Input::Opened(from(2)));
        bench.input(3, Input::Opened(from(7777)));
        let (register, vouch) = (ClientMessage::Register(vouched), ClientMessage::Vouch(nonce));
        let order = if vouch_is_first { [(3, vouch), (2, register)] } else { [(2, register), (3, vouch)] };
        let mut outputs = Vec::new();
        for (connection, message) in order {
            assert!(group_of(&outputs).is_none(), "not before both are there");
            outputs.extend(bench.input(connection, Input::Message(message)));
        }
        let group = group_of(&outputs).expect("complete");
        assert_eq!(group.members[1].observed, Observed { main: from(2), second: Some(from(7777)), other: None });
        assert!(outputs.contains(&(3, None)), "who has vouched is not needed any more");
        assert_eq!(bench.server.connections(), 2);
    }
}

#[test]
fn a_vouch_that_does_not_come_costs_a_bounded_time_and_a_withdrawn_one_none() {
    let mut bench = Bench::new();
    bench.register(1, 0, 2, 0);
    bench.input(2, Input::Opened(from(2)));
    let waits = Registration { vouches: 2, ..registration(1, 2, 1) };
    assert!(group_of(&bench.input(2, Input::Message(ClientMessage::Register(waits.clone())))).is_none());
    assert!(group_of(&bench.advance(Duration::from_millis(99))).is_none());
    assert!(group_of(&bench.advance(Duration::from_millis(1))).is_some());

    let mut bench = Bench::new();
    bench.register(1, 0, 2, 0);
    bench.input(2, Input::Opened(from(2)));
    let again = Registration { nonce: fresh_nonce(), ..waits };
    bench.input(2, Input::Message(ClientMessage::Register(again)));
    assert!(group_of(&bench.input(2, Input::Message(ClientMessage::Unvouched))).is_none(), "one is left");
    assert!(group_of(&bench.input(2, Input::Message(ClientMessage::Unvouched))).is_some());
}

#[test]
fn a_vouch_for_nobody_expires_and_over_ipv6_is_another_address() {
    let mut bench = Bench::new();
    bench.input(1, Input::Opened(from(1)));
    bench.input(1, Input::Message(ClientMessage::Vouch([9; 16])));
    assert_eq!(refusal(&bench.advance(Duration::from_secs(5)), 1), Some(Refusal::Expired));
    assert!(bench.server.vouching.is_empty());

    let mut bench = Bench::new();
    let v6 = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9));
    let alone = Registration { vouches: 1, ..registration(0, 1, 1) };
    let nonce = alone.nonce;
    bench.input(1, Input::Opened(from(1)));
    bench.input(2, Input::Opened(v6));
    bench.input(1, Input::Message(ClientMessage::Register(alone)));
    let outputs = bench.input(2, Input::Message(ClientMessage::Vouch(nonce)));
    assert_eq!(group_of(&outputs).expect("complete").members[0].observed.other, Some(v6));
}

#[test]
fn a_recorded_registration_is_not_taken_again() {
    let mut bench = Bench::new();
    let recorded = registration(0, 2, 0);
    bench.input(1, Input::Opened(from(1)));
    bench.input(1, Input::Message(ClientMessage::Register(recorded.clone())));
    bench.input(1, Input::Closed);
    bench.input(2, Input::Opened(from(2)));
    let outputs = bench.input(2, Input::Message(ClientMessage::Register(recorded)));
    assert_eq!(refusal(&outputs, 2), Some(Refusal::Replayed));
}

#[test]
fn a_server_that_restarted_watches_the_members_that_come_back() {
    let resumption = |rank: u32| Resumption { session: [5; 16], group: [1; 32], rank, size: 2, nonce: [9; 16] };
    let mut bench = Bench::new();
    for rank in 0..2u32 {
        let number = u64::from(rank) + 1;
        bench.input(number, Input::Opened(from(1)));
        assert!(bench.input(number, Input::Message(ClientMessage::Resume(resumption(rank)))).is_empty());
    }
    bench.input(3, Input::Opened(from(3)));
    let outputs = bench.input(3, Input::Message(ClientMessage::Resume(resumption(0))));
    assert_eq!(outputs, [(1, None)], "a second connection of one member replaces the first");
    for wrong in [
        Resumption { nonce: [8; 16], ..resumption(0) },
        Resumption { group: [2; 32], ..resumption(0) },
        Resumption { size: 3, ..resumption(0) },
    ] {
        bench.input(4, Input::Opened(from(4)));
        let outputs = bench.input(4, Input::Message(ClientMessage::Resume(wrong)));
        assert_eq!(refusal(&outputs, 4), Some(Refusal::NotMember));
    }
    assert_eq!(bench.input(2, Input::Closed), [(3, Some(ServerMessage::Lost { session: [5; 16], rank: 1 }))]);
    bench.input(3, Input::Closed);
    assert_eq!((bench.server.sessions(), bench.server.running.len(), bench.server.connections()), (0, 0, 0));
}

#[test]
fn a_member_that_comes_back_learns_whom_the_server_called_lost() {
    let resumption = |rank: u32| Resumption { session: [5; 16], group: [1; 32], rank, size: 3, nonce: [9; 16] };
    let mut bench = Bench::new();
    for rank in 0..3u32 {
        let number = u64::from(rank) + 1;
        bench.input(number, Input::Opened(from(1)));
        bench.input(number, Input::Message(ClientMessage::Resume(resumption(rank))));
    }
    let lost = |rank| Some(ServerMessage::Lost { session: [5; 16], rank });
    assert_eq!(bench.input(2, Input::Closed), [(1, lost(1)), (3, lost(1))]);
    assert_eq!(bench.input(3, Input::Closed), [(1, lost(2))]);
    bench.input(4, Input::Opened(from(4)));
    let outputs = bench.input(4, Input::Message(ClientMessage::Resume(resumption(1))));
    assert_eq!(outputs, [(4, lost(1)), (4, lost(2))], "itself, and who was lost meanwhile");
    bench.input(5, Input::Opened(from(5)));
    let outputs = bench.input(5, Input::Message(ClientMessage::Resume(resumption(2))));
    assert_eq!(outputs, [(5, lost(2))], "rank 1 is back");
}

#[test]
fn a_broken_connection_is_told_to_its_other_end_and_to_nobody_else() {
    let mut bench = Bench::new();
    let session = bench.form();
    bench.input(1, Input::Message(ClientMessage::Formed(session)));
    let severed = |session, rank| Input::Message(ClientMessage::Severed { session, rank });
    assert_eq!(bench.input(2, severed(session, 0)), [(1, Some(ServerMessage::Severed { session, rank: 1 }))]);
    assert_eq!(bench.input(2, severed(session, 1)), [], "it has none to itself");
    assert_eq!(bench.input(2, severed(session, 7)), [], "no such rank");
    assert_eq!(bench.input(2, severed([0; 16], 0)), [], "of another session");
    bench.input(3, Input::Opened(from(3)));
    assert_eq!(bench.input(3, severed(session, 0)), [], "a stranger");
}

#[test]
fn a_failure_is_told_to_all_and_many_of_them_are_not() {
    let resumption = |rank: u32| Resumption { session: [5; 16], group: [1; 32], rank, size: 9, nonce: [9; 16] };
    let mut bench = Bench::new();
    for rank in 0..9u32 {
        bench.input(rank.into(), Input::Opened(from(1)));
        bench.input(rank.into(), Input::Message(ClientMessage::Resume(resumption(rank))));
    }
    let mut told = Vec::new();
    for rank in 0..8u32 {
        let outputs = bench.input(rank.into(), Input::Message(ClientMessage::Fail([5; 16])));
        let is_told =
            |it: &&(u64, Option<ServerMessage>)| it.1 == Some(ServerMessage::Failed { session: [5; 16], rank });
        told.push(outputs.iter().filter(is_told).count());
        assert!(!outputs.iter().any(|(_, it)| matches!(it, Some(ServerMessage::Lost { .. }))), "it is not lost");
    }
    assert_eq!(told, [8, 7, 6, 5, 0, 0, 0, 0]);
}

#[test]
fn what_a_server_remembers_is_counted() {
    let mut bench = Bench::new();
    let count = |bench: &Bench| (bench.server.entries(), bench.server.groups_forming(), bench.server.sessions());
    assert_eq!(count(&bench), (0, 0, 0));
    bench.register(1, 0, 2, 0);
    assert_eq!(count(&bench), (4, 1, 0), "a connection, its prefix, who waits, and its nonce");
    let outputs = bench.register(2, 1, 2, 1);
    let group = group_of(&outputs).expect("complete").clone();
    assert_eq!(count(&bench), (7, 0, 1), "two connections, their prefix, two nonces, and those of the session");
    bench.input(3, Input::Opened(from(3)));
    bench.input(3, Input::Message(ClientMessage::Vouch([9; 16])));
    assert_eq!(count(&bench), (9, 0, 1), "whoever vouches for what has not come");
    let request = RelayRequest { session: group.session, from: 0, to: 1, nonce: group.members[0].nonce };
    relay(&mut bench, 4, request);
    assert_eq!(count(&bench), (11, 0, 1), "one side of a relayed connection");
}

#[test]
fn deadlines_are_those_of_the_limits() {
    let config = ServerConfig::default();
    let due = |bench: &Bench| bench.server.poll_timeout().map(|(at, _)| at - bench.now);
    let mut bench = Bench::new();
    assert_eq!(bench.server.poll_timeout(), None);
    bench.now += Duration::from_secs(100);
    bench.input(1, Input::Opened(from(1)));
    assert_eq!(due(&bench), Some(config.register_within));
    let vouched = Registration { vouches: 1, ..registration(0, 2, 0) };
    bench.input(1, Input::Message(ClientMessage::Register(vouched)));
    assert_eq!(due(&bench), Some(config.vouch_within));
    bench.advance(config.vouch_within);
    assert_eq!(due(&bench), Some(config.wait_max), "it waits for the other ranks from then on");
    bench.register(2, 1, 2, 1);
    assert_eq!(due(&bench), None, "a group is formed when it wants");
    bench.input(2, Input::Closed);
    assert_eq!(due(&bench), Some(config.register_within), "the other one is to register again");
    let mut bench = Bench::new();
    bench.now += Duration::from_secs(100);
    let vouched = Registration { vouches: 1, ..registration(0, 2, 0) };
    let vouch = ClientMessage::Vouch(vouched.nonce);
    bench.input(1, Input::Opened(from(1)));
    bench.input(1, Input::Message(ClientMessage::Register(vouched)));
    bench.input(2, Input::Opened(from(1)));
    bench.input(2, Input::Message(vouch));
    assert_eq!(due(&bench), Some(config.wait_max), "whoever vouches has done so");
    let mut bench = Bench::new();
    bench.now += Duration::from_secs(100);
    let [first, _] = relayable(&mut bench);
    relay(&mut bench, 11, first);
    assert_eq!(due(&bench), Some(config.relay_within));
    let mut bench = Bench::new();
    bench.input(1, Input::Opened(from(1)));
    bench.input(1, Input::Message(ClientMessage::Observe));
    bench.now += Duration::from_secs(4);
    bench.input(1, Input::Message(ClientMessage::Observe));
    assert_eq!(due(&bench), Some(DISCOVERY_MAX - Duration::from_secs(4)), "from its first question");
}

#[test]
fn only_a_member_can_say_that_a_session_has_formed() {
    for says in [1, 3] {
        let mut bench = Bench::new();
        let session = bench.form();
        bench.input(3, Input::Opened(from(3)));
        bench.input(says, Input::Message(ClientMessage::Formed(session)));
        let outputs = bench.input(2, Input::Closed);
        let expected = match says {
            1 => ServerMessage::Lost { session, rank: 1 },
            _ => ServerMessage::Dissolved(session),
        };
        assert_eq!(outputs, [(1, Some(expected))]);
    }
}

#[test]
fn a_client_learns_how_its_call_back_went_and_may_have_another() {
    let vantages: Vec<SocketAddr> = vec!["1.1.1.1:7".parse().expect("v4"), "1.1.1.1:8".parse().expect("v4")];
    let config = ServerConfig { vantages, calls_max: 1, ..ServerConfig::default() };
    let mut server = Server::new(config, [0; 32]);
    let input =
        |server: &mut Server, connection, input| server.handle_input(Instant::ZERO, Connection(connection), input);
    input(&mut server, 1, Input::Opened(from(1)));
    for (vantage, outcome) in [(1, Outcome::Silence), (0, Outcome::Connected)] {
        input(&mut server, 1, Input::Message(ClientMessage::CallBack(vantage)));
        assert_eq!(calls(&mut server), [(1, vantage, from(1))]);
        input(&mut server, 1, Input::CalledBack { vantage, outcome });
        let told = ServerMessage::CalledBack { vantage, outcome };
        assert_eq!(server.poll_output(), Some(Output::Send(Connection(1), told)));
    }
    // Vantages count from 0.
    input(&mut server, 1, Input::Message(ClientMessage::CallBack(2)));
    assert_eq!(server.poll_output(), Some(Output::Send(Connection(1), ServerMessage::Refused(Refusal::Malformed))));
}

#[test]
fn groups_have_at_most_so_many_ranks() {
    for (size_max, size, is_taken) in
        [(8, 8, true), (8, 9, false), (u32::MAX, SIZE_MAX, true), (u32::MAX, SIZE_MAX + 1, false)]
    {
        let mut bench = Bench::with(ServerConfig { size_max, ..ServerConfig::default() });
        let refused = refusal(&bench.register(1, 0, size, 0), 1);
        let max = size_max.min(SIZE_MAX);
        assert_eq!(refused, (!is_taken).then_some(Refusal::SizeOutOfRange { max }), "{size} of {size_max}");
        let resumption = Resumption { session: [5; 16], group: [1; 32], rank: 0, size, nonce: [9; 16] };
        bench.input(2, Input::Opened(from(2)));
        let outputs = bench.input(2, Input::Message(ClientMessage::Resume(resumption)));
        assert_eq!(refusal(&outputs, 2), (!is_taken).then_some(Refusal::Malformed));
    }
}

#[test]
fn nonces_are_remembered_as_long_as_a_registration_waits_and_as_many_as_there_is_room_for() {
    // After how many others of the same time, and after which time, is a nonce forgotten?
    let max = NONCES_PER_CONNECTION;
    let wait_max = ServerConfig::default().wait_max;
    let just_before = wait_max - Duration::from_nanos(1);
    for (others, later, is_new) in [
        (0, Duration::ZERO, false),
        (max - 2, Duration::ZERO, false),
        (max - 1, Duration::ZERO, false),
        (max, Duration::ZERO, true),
        (0, just_before, false),
        (0, wait_max, true),
    ] {
        let config = ServerConfig { connections_max: 1, ..ServerConfig::default() };
        let mut server = Server::new(config, [0; 32]);
        assert!(server.is_first(Instant::ZERO, [1; 16]));
        for other in 0..others {
            assert!(server.is_first(Instant::ZERO, [u8::try_from(other + 2).expect("few"); 16]));
        }
        assert_eq!(server.is_first(Instant::ZERO + later, [1; 16]), is_new || others == max - 1, "{others}, {later:?}");
        assert!(server.nonces.len() <= max && server.nonces_in_order.len() == server.nonces.len());
    }
}

#[test]
fn a_member_that_registers_again_before_its_session_has_formed_dissolves_it() {
    for has_formed in [false, true] {
        let mut bench = Bench::new();
        let session = bench.form();
        if has_formed {
            bench.input(1, Input::Message(ClientMessage::Formed(session)));
        }
        let outputs = bench.register(3, 0, 2, 0);
        let dissolved: Vec<u64> = outputs
            .iter()
            .filter(|(_, message)| *message == Some(ServerMessage::Dissolved(session)))
            .map(|(connection, _)| *connection)
            .collect();
        assert_eq!(dissolved, if has_formed { vec![] } else { vec![1, 2] });
        assert_eq!(bench.server.sessions(), usize::from(has_formed));
    }
    // A rank that it does not have is of another session of the same group.
    let mut bench = Bench::new();
    let session = bench.form();
    let outputs = bench.register(3, 2, 3, 7);
    assert!(!outputs.iter().any(|(_, message)| *message == Some(ServerMessage::Dissolved(session))), "{outputs:?}");
}

#[test]
fn a_rank_whose_contender_goes_away_is_its_holders_again() {
    let mut bench = Bench::new();
    bench.register(1, 0, 2, 0);
    assert_eq!(bench.register(2, 0, 2, 9), [(1, Some(ServerMessage::Probe))]);
    bench.input(2, Input::Closed);
    assert!(group_of(&bench.register(3, 1, 2, 1)).is_some(), "nothing is contended any more");
}

fn relay(bench: &mut Bench, connection: u64, request: RelayRequest) -> Vec<(u64, Option<ServerMessage>)> {
    let port = u16::try_from(connection).expect("small");
    bench.input(connection, Input::Opened(from(port)));
    bench.input(connection, Input::Message(ClientMessage::Relay(request)))
}

/// A group of two, and the requests of both to be relayed.
fn relayable(bench: &mut Bench) -> [RelayRequest; 2] {
    bench.register(1, 0, 2, 0);
    let outputs = bench.register(2, 1, 2, 1);
    let group = group_of(&outputs).expect("complete");
    let request = |from: u32| RelayRequest {
        session: group.session,
        from,
        to: 1 - from,
        nonce: group.members[from as usize].nonce,
    };
    [request(0), request(1)]
}

#[test]
fn two_members_are_joined_and_nobody_else_is() {
    let mut bench = Bench::new();
    let [first, second] = relayable(&mut bench);
    for wrong in [
        RelayRequest { session: [0; 16], ..first },
        RelayRequest { nonce: second.nonce, ..first },
        RelayRequest { to: 0, ..first },
        RelayRequest { to: 7, ..first },
        RelayRequest { from: 7, ..first },
    ] {
        assert_eq!(refusal(&relay(&mut bench, 9, wrong), 9), Some(Refusal::NotMember), "{wrong:?}");
    }
    assert!(relay(&mut bench, 11, first).is_empty());
    let outputs = relay(&mut bench, 12, second);
    assert_eq!(outputs, [(12, Some(ServerMessage::Relayed)), (11, Some(ServerMessage::Relayed))]);
    assert_eq!(bench.spliced, [(11, 12)]);
    bench.input(11, Input::Closed);
    bench.input(12, Input::Closed);
    assert_eq!((bench.server.relaying, bench.server.relays.len(), bench.server.connections()), (0, 0, 2));
}

#[test]
fn waiting_to_be_relayed_is_bounded_in_number_and_time() {
    let mut bench = Bench::with(ServerConfig { relays_max: 1, ..ServerConfig::default() });
    let [first, second] = relayable(&mut bench);
    relay(&mut bench, 11, first);
    assert_eq!(relay(&mut bench, 12, first), [(11, None)], "the later request of one side counts");
    let outputs = bench.advance(Duration::from_secs(10));
    assert_eq!(refusal(&outputs, 12), Some(Refusal::Expired));
    relay(&mut bench, 13, first);
    relay(&mut bench, 14, second);
    assert_eq!(refusal(&relay(&mut bench, 15, first), 15), Some(Refusal::Busy));
    let mut bench = Bench::with(ServerConfig { relays_max: 0, ..ServerConfig::default() });
    let [first, _] = relayable(&mut bench);
    assert_eq!(refusal(&relay(&mut bench, 11, first), 11), Some(Refusal::NoRelay));
}

proptest! {
    /// Whatever clients do, tables refer only to open connections and empty when all are gone.
    #[test]
    fn tables_follow_connections(script in proptest::collection::vec((0u64..6, 0u8..13, 0u32..4, 1u32..4), 0..80)) {
        let mut bench = Bench::new();
        let mut sessions = vec![[0; 16]];
        let mut nonces = vec![[0; 16]];
        for (connection, action, rank, size) in script {
            let outputs = match action {
                0 => bench.input(connection, Input::Opened(SocketAddr::from(([1, 1, 1, 1], 1)))),
                1 | 2 => {
                    let instance = u8::try_from(connection).expect("small numbers");
                    let vouches = u8::from(action == 2);
                    let message = Registration { vouches, ..registration(rank, size, instance) };
                    nonces.push(message.nonce);
                    bench.input(connection, Input::Message(ClientMessage::Register(message)))
                }
                3 => bench.input(connection, Input::Closed),
                4 => bench.advance(Duration::from_millis(700)),
                5 => {
                    let session = sessions[rank as usize % sessions.len()];
                    bench.input(connection, Input::Message(ClientMessage::Formed(session)))
                }
                6 => {
                    let vouch = ClientMessage::Vouch(nonces[nonces.len() - 1 - rank as usize % nonces.len()]);
                    bench.input(connection, Input::Message(vouch))
                }
                7 | 8 => {
                    let session = sessions[sessions.len() - 1];
                    let nonce = bench.server.sessions.get(&session).map_or([0; 16], |it| it.nonces[rank as usize % it.nonces.len()]);
                    let request = RelayRequest { session, from: rank, to: size - 1, nonce };
                    bench.input(connection, Input::Message(ClientMessage::Relay(request)))
                }
                9 => bench.input(connection, Input::Malformed(WireError::Short)),
                10 => {
                    let session = sessions[rank as usize % sessions.len()];
                    bench.input(connection, Input::Message(ClientMessage::Severed { session, rank }))
                }
                11 => bench.input(connection, Input::Message(ClientMessage::Fail(sessions[0]))),
                _ => {
                    let session = sessions[sessions.len() - 1];
                    let resumption = Resumption { session, group: [1; 32], rank, size, nonce: nonces[0] };
                    bench.input(connection, Input::Message(ClientMessage::Resume(resumption)))
                }
            };
            for (_, message) in outputs {
                if let Some(ServerMessage::Handout(group)) = message {
                    sessions.push(group.session);
                }
            }
            let server = &bench.server;
            for forming in server.forming.values() {
                let is_full = forming.seats.len() == forming.size as usize;
                prop_assert!(!forming.seats.is_empty());
                let waits = |seat: &Seat| seat.vouch_until.is_some() || seat.contender.is_some();
                prop_assert!(!is_full || forming.seats.values().any(waits));
                for seat in forming.seats.values() {
                    prop_assert!(server.clients.contains_key(&seat.connection));
                    prop_assert!(seat.contender.is_none_or(|contender| server.clients.contains_key(&contender)));
                }
            }
            for session in server.sessions.values() {
                prop_assert!(session.members.values().all(|member| server.clients.contains_key(member)));
                let is_of_it = |rank: &u32| (*rank as usize) < session.nonces.len();
                prop_assert!(session.lost.iter().all(is_of_it), "what it remembers is bounded by its size");
            }
            let seats: usize = server.forming.values().map(|forming| forming.seats.len()).sum();
            prop_assert_eq!(server.waiting.len(), seats);
            prop_assert_eq!(server.held.values().sum::<usize>(), seats);
            let relayed = |client: &&Client| matches!(client.state, State::Relayed);
            let sides = server.clients.values().filter(relayed).count();
            prop_assert_eq!(server.relaying, 2 * server.relays.len() + sides);
            prop_assert!(server.deadlines.len() <= server.clients.len());
            prop_assert_eq!(server.sources.values().sum::<usize>(), server.clients.len());
        }
        for connection in 0..6 {
            bench.input(connection, Input::Closed);
        }
        let server = &bench.server;
        prop_assert_eq!((server.clients.len(), server.forming.len(), server.sessions.len()), (0, 0, 0));
        prop_assert_eq!((server.held.len(), server.running.len(), server.deadlines.len()), (0, 0, 0));
        let (vouching, relays) = (server.vouching.len(), server.relays.len() + server.relaying);
        prop_assert_eq!((server.waiting.len(), vouching, relays), (0, 0, 0));
    }
}
