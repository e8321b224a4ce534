//! Goal: a group gets all its addresses in one exchange whatever single clients do, and nothing
//! grows without bound. Method: direct calls in virtual time; arbitrary input against the tables.

use super::*;
use proptest::prelude::*;

struct Bench {
    server: Server,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { server: Server::new(ServerConfig::default(), [7; 32]), now: Instant::ZERO }
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
            (_, Some(ServerMessage::Group(group))) => group.session,
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
        nonce: [instance; 16],
        candidates: vec!["10.0.0.2:4000".parse().expect("address"), "8.8.8.8:53".parse().expect("address")],
    }
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
        let Some(ServerMessage::Group(group)) = message else { panic!("expected a group, got {message:?}") };
        assert_eq!(group.members.len(), 2);
        assert_eq!(group.members[1].observed.port(), 2, "the observed address, not a claimed one");
        assert_eq!(group.members[0].candidates.len(), 1, "a foreign public address is not handed on");
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
fn a_wrong_key_is_hinted_at() {
    let mut bench = Bench::new();
    bench.register(1, 0, 2, 0);
    bench.input(2, Input::Opened(SocketAddr::from(([1, 1, 1, 1], 1))));
    let other = Registration { group: [2; 32], ..registration(1, 2, 1) };
    let outputs = bench.input(2, Input::Message(ClientMessage::Register(other)));
    assert!(matches!(&outputs[..], [(2, Some(ServerMessage::Waiting(waiting)))] if waiting.other_key));
}

#[test]
fn connections_are_bounded_in_all_and_per_source() {
    let config = ServerConfig { connections_max: 3, connections_per_source_max: 2, ..ServerConfig::default() };
    let mut bench = Bench { server: Server::new(config, [0; 32]), now: Instant::ZERO };
    let from = |host| Input::Opened(SocketAddr::from(([1, 1, 1, host], 1)));
    assert!(bench.input(1, from(1)).is_empty());
    assert!(bench.input(2, from(1)).is_empty());
    assert_eq!(refusal(&bench.input(3, from(1)), 3), Some(Refusal::Busy));
    assert!(bench.input(4, from(2)).is_empty());
    assert_eq!(refusal(&bench.input(5, from(3)), 5), Some(Refusal::Busy));
    assert_eq!(bench.server.connections(), 3);
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

proptest! {
    /// Whatever clients do, tables refer only to open connections and empty when all are gone.
    #[test]
    fn tables_follow_connections(script in proptest::collection::vec((0u64..6, 0u8..7, 0u32..4, 1u32..4), 0..80)) {
        let mut bench = Bench::new();
        let mut sessions = vec![[0; 16]];
        for (connection, action, rank, size) in script {
            let outputs = match action {
                0 => bench.input(connection, Input::Opened(SocketAddr::from(([1, 1, 1, 1], 1)))),
                1 | 2 => {
                    let instance = u8::try_from(connection).expect("small numbers");
                    let message = ClientMessage::Register(registration(rank, size, instance));
                    bench.input(connection, Input::Message(message))
                }
                3 => bench.input(connection, Input::Closed),
                4 => bench.advance(Duration::from_millis(700)),
                5 => {
                    let session = sessions[rank as usize % sessions.len()];
                    bench.input(connection, Input::Message(ClientMessage::Formed(session)))
                }
                _ => bench.input(connection, Input::Malformed),
            };
            for (_, message) in outputs {
                if let Some(ServerMessage::Group(group)) = message {
                    sessions.push(group.session);
                }
            }
            let server = &bench.server;
            for forming in server.forming.values() {
                prop_assert!(!forming.seats.is_empty() && forming.seats.len() < forming.size as usize);
                for seat in forming.seats.values() {
                    prop_assert!(server.clients.contains_key(&seat.connection));
                    prop_assert!(seat.contender.is_none_or(|contender| server.clients.contains_key(&contender)));
                }
            }
            for session in server.sessions.values() {
                prop_assert!(session.members.values().all(|member| server.clients.contains_key(member)));
            }
            prop_assert!(server.deadlines.len() <= server.clients.len());
            prop_assert_eq!(server.sources.values().sum::<usize>(), server.clients.len());
        }
        for connection in 0..6 {
            bench.input(connection, Input::Closed);
        }
        let server = &bench.server;
        prop_assert_eq!((server.clients.len(), server.forming.len(), server.sessions.len()), (0, 0, 0));
        prop_assert_eq!((server.names.len(), server.running.len(), server.deadlines.len()), (0, 0, 0));
    }
}
