//! Goal: each threat of the field meets its countermeasure, and each requirement on a secure pairing holds.
//! Method: one test for each, named after its number; attackers in the lab, machines by hand, and searches of
//! all that goes over a wire.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BufMut;
use fmi::net::{Listener, Net};
use fmi::time::Instant;
use fmi::{Communicator, Config, ErrorKind, Path, Peers};
use fmi_proto::candidate::{Candidate, LocalEnd, Means, Pace, Roster, Technique};
use fmi_proto::card::{Card, Holder, Security};
use fmi_proto::cipher::{Suite, Suites};
use fmi_proto::exchange::KeyPair;
use fmi_proto::key::Key;
use fmi_proto::punch::{Attempt, Input as PunchInput, Output as PunchOutput, Punch, StreamId};
use fmi_proto::record::{Direction, HEADER_BYTES, OVERHEAD_BYTES, REKEY_AFTER};
use fmi_proto::rendezvous::server::{Connection, Input, Output, Server, ServerConfig};
use fmi_proto::rendezvous::{
    ClientMessage, Handout, Member, Observed, Refusal, Registration, ServerMessage, VERSION, split,
};
use fmi_proto::session::{Credentials, HELLO_BYTES, Stranger};
use fmi_proto::store::{
    COMMANDS, Client as StoreClient, Input as StoreInput, Output as StoreOutput, STRANGER_MAX, Server as Store,
    StoreConfig,
};
use fmi_proto::wire::{self, WireError};
use nat_sim::World;
use nat_sim::nat::{NatConfig, preset};
use nat_sim::topology::{GatewaySpec, HostSpec, INTERNET, Topology};
use scenarios::{Options, catalog};

/// What one rank sends to another; nobody else may read it.
const MARKER: &[u8] = b"a text that only two ranks may read";
const SECRET: &[u8] = b"the secret of this group";
const NAME: &str = "the name of a group";
const SERVER: ([u8; 4], u16) = ([192, 0, 2, 1], 7000);

/// Runs a scenario of the catalogue with a few seeds.
fn survives(name: &str) {
    let scenario = catalog::find_scenario(name).expect("in the catalogue");
    for seed in 1..=3 {
        let outcome = scenarios::run(&scenario, seed, Options::default());
        assert!(outcome.passed(), "{:?}\n{}", outcome.violations, outcome.replay_command());
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[derive(Clone, Debug, Default)]
struct Tap(Arc<Mutex<Vec<u8>>>);

impl Write for Tap {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn config(rank: u32) -> Config {
    let mut config = Config::new(rank, 2, NAME, "192.0.2.1:7000");
    config.key = Some(SECRET.into());
    config
}

/// A world with a host for the rendezvous and two functions behind gateways.
fn world(nat: NatConfig) -> (World, nat_sim::topology::HostId, Vec<nat_sim::topology::HostId>) {
    let mut topology = Topology::new();
    let server = topology.host(HostSpec::plain(INTERNET, SERVER.0, Duration::from_millis(2)));
    let functions = (1u8..=2).map(|number| {
        let inner = topology.network(format!("lan-{number}"));
        topology.gateway(GatewaySpec::plain(nat, [203, 0, 113, number], Duration::from_millis(5), inner));
        topology.host(HostSpec::plain(inner, [10, 0, 0, 2], Duration::from_millis(2)))
    });
    let functions = functions.collect();
    (World::new(topology, 1, Duration::from_millis(1)), server, functions)
}

/// Sends [`MARKER`] between two ranks; everything that went over any wire, and the path.
fn wiretap(security: Security, nat: NatConfig) -> (Vec<u8>, Path) {
    let (mut world, server, functions) = world(nat);
    let tap = Tap::default();
    world.sinks(nat_sim::Sinks { pcap: Some(Box::new(tap.clone())), log: None });
    world.service(server, |net| async move {
        let bound = fmi::net::rendezvous::Rendezvous::bind(net, SERVER.into(), ServerConfig::default()).expect("bound");
        match bound.serve().await {}
    });
    let path = Arc::new(Mutex::new(None));
    for (rank, host) in (0u32..).zip(functions) {
        let path = path.clone();
        world.function(host, Duration::ZERO, move |net| {
            let path = path.clone();
            async move {
                let mut config = config(rank);
                config.security = Some(security);
                let comm = Communicator::connect(net, &config).await.expect("joined");
                let mut received = [0; MARKER.len()];
                if rank == 0 {
                    comm.send(1, 1, MARKER).await.expect("sent");
                } else {
                    comm.recv(0, 1, &mut received).await.expect("received");
                    assert_eq!(received, MARKER);
                }
                comm.barrier().await.expect("all here");
                *path.lock().unwrap_or_else(PoisonError::into_inner) = comm.links().next().map(|link| link.path);
                comm.leave().await;
            }
        });
    }
    assert_eq!(world.run().expect("a world").stuck, None);
    let tapped = tap.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let path = path.lock().unwrap_or_else(PoisonError::into_inner).expect("connected");
    (tapped, path)
}

fn key() -> Key {
    Key::new(NAME, SECRET)
}

fn key_pair(rank: u32) -> KeyPair {
    KeyPair::from_seed([u8::try_from(rank + 1).expect("small"); 32])
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn nonce(rank: u32) -> [u8; 16] {
    [u8::try_from(rank + 101).expect("small"); 16]
}

fn card(rank: u32, locals: &[&str]) -> Vec<u8> {
    let locals = locals.iter().map(|text| at(text)).collect();
    let card = Card {
        version: wire::VERSION,
        security: Security::Encrypted,
        sprays: false,
        suites: Suites::of_machine(true),
        public: *key_pair(rank).public(),
        locals,
    };
    card.seal(&key(), &Holder { rank, size: 2, epoch: 0, nonce: &nonce(rank) })
}

fn member(rank: u32, locals: &[&str]) -> Member {
    let observed = Observed::once(at(&format!("203.0.113.{rank}:4000")));
    Member { rank, nonce: nonce(rank), observed, round_trip: Duration::ZERO, card: card(rank, locals) }
}

fn group() -> Handout {
    Handout { session: [3; 16], members: vec![member(0, &["10.0.0.2:1"]), member(1, &["10.0.0.2:2"])] }
}

fn credentials(rank: u32, group: &Handout) -> Credentials {
    let roster = Roster::open(&key(), group).expect("of this version");
    Credentials::new(&key(), key_pair(rank), Security::Encrypted, roster, rank, None)
}

fn sealed(direction: &mut Direction, plain: &[u8]) -> Vec<u8> {
    let mut record = vec![0; plain.len() + OVERHEAD_BYTES];
    direction.seal(plain, &mut record);
    record
}

/// Whether the ranks of two views of a group come to a common stream.
fn agree(low: &Credentials, high: &Credentials) -> bool {
    let run = || -> Result<bool, Stranger> {
        let (hello, flight) = high.hello(0, [2; 16])?;
        let (answer, ours) = low.answer(low.check(&hello)?, [1; 16], &hello)?;
        let theirs = high.hear(&flight, &answer)?;
        theirs.nominated(&ours.nomination(false))?;
        ours.accepted(&theirs.acceptance())?;
        let (Some((mode, ours)), Some((_, theirs))) = (ours.keep().0, theirs.keep().0) else { return Ok(false) };
        let record = sealed(&mut ours.directions(mode).0, MARKER);
        Ok(theirs.directions(mode).1.open(&record, &mut vec![0; MARKER.len()]).is_ok())
    };
    run().unwrap_or(false)
}

fn registration(rank: u32, number: u8) -> Registration {
    Registration {
        group: key().id(),
        name: Key::public(NAME).name_tag(),
        rank,
        size: 2,
        instance: [number; 16],
        nonce: [number; 16],
        round_trip: Duration::ZERO,
        vouches: 0,
        card: card(rank, &["10.0.0.2:4000"]),
    }
}

struct Bench(Server, Instant);

impl Bench {
    fn new(config: ServerConfig) -> Self {
        Self(Server::new(config, [7; 32]), Instant::ZERO)
    }

    fn input(&mut self, connection: u64, input: Input) -> Vec<Output> {
        self.0.handle_input(self.1, Connection(connection), input);
        std::iter::from_fn(|| self.0.poll_output()).collect()
    }

    fn register(&mut self, connection: u64, registration: Registration) -> Vec<Output> {
        self.input(connection, Input::Opened(SocketAddr::from(([203, 0, 113, 9], 4000))));
        self.input(connection, Input::Message(ClientMessage::Register(registration)))
    }

    fn advance(&mut self, time: Duration) -> Vec<Output> {
        self.1 += time;
        self.0.handle_timeout(self.1);
        std::iter::from_fn(|| self.0.poll_output()).collect()
    }
}

fn is_refused(outputs: &[Output], refusal: Refusal) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Send(_, ServerMessage::Refused(it)) if *it == refusal))
}

fn group_in(outputs: &[Output]) -> Option<Arc<Handout>> {
    outputs.iter().find_map(|output| {
        let Output::SendAll(_, ServerMessage::Handout(group)) = output else { return None };
        Some(group.clone())
    })
}

#[test]
fn t01_a_guessed_name_does_not_hijack_a_pair() {
    assert_ne!(key().id(), Key::public(NAME).id());
    survives("attack-impostor");
}

#[test]
fn t02_the_wrong_peer_is_left_and_the_right_one_found() {
    survives("attack-knocker");
}

#[test]
fn t03_on_the_path_nothing_is_read_and_nothing_changed() {
    let (plain, _) = wiretap(Security::Plaintext, preset::linux_masq_drop());
    assert!(contains(&plain, MARKER), "the tap works");
    let (authenticated, _) = wiretap(Security::Authenticated, preset::linux_masq_drop());
    assert!(contains(&authenticated, MARKER), "authenticated is not encrypted");
    let (encrypted, path) = wiretap(Security::Encrypted, preset::linux_masq_drop());
    assert!(!contains(&encrypted, MARKER) && path == Path::Direct);
    for security in [Security::Encrypted, Security::Authenticated] {
        let (mut sender, mut receiver) =
            (Direction::new(security, Suite::Aes256Gcm, [1; 32]), Direction::new(security, Suite::Aes256Gcm, [1; 32]));
        let mut record = sealed(&mut sender, MARKER);
        record[HEADER_BYTES] ^= 1;
        assert!(receiver.open(&record, &mut vec![0; MARKER.len()]).is_err());
    }
}

#[test]
fn t04_a_malicious_rendezvous_can_only_deny() {
    let honest = group();
    assert!(agree(&credentials(0, &honest), &credentials(1, &honest)));
    // It gives one side another session, other nonces, a key of its own, the peer in the wrong place.
    let mut session = group();
    session.session = [4; 16];
    let mut nonces = group();
    nonces.members[1].nonce = [99; 16];
    let mut keyed = group();
    let evil = Card {
        version: wire::VERSION,
        security: Security::Encrypted,
        sprays: false,
        suites: Suites::of_machine(true),
        public: *key_pair(7).public(),
        locals: vec![],
    };
    let holder = Holder { rank: 1, size: 2, epoch: 0, nonce: &nonce(1) };
    keyed.members[1].card = evil.seal(&Key::new(NAME, b"the rendezvous' own"), &holder);
    let mut swapped = group();
    (swapped.members[0].card, swapped.members[1].card) = (card(1, &[]), card(0, &[]));
    // What it shows a rank of its own card does not matter to anybody.
    assert!(!agree(&credentials(0, &keyed), &credentials(1, &honest)));
    for tampered in [session, nonces, swapped] {
        assert!(!agree(&credentials(0, &tampered), &credentials(1, &honest)), "{tampered:?}");
        assert!(!agree(&credentials(0, &honest), &credentials(1, &tampered)), "{tampered:?}");
    }
}

#[test]
fn t05_what_was_recorded_is_worth_nothing_later() {
    survives("attack-replay");
    let (hello, _) = credentials(1, &group()).hello(0, [2; 16]).expect("a member");
    let later = Handout { session: [4; 16], ..group() };
    assert_eq!(credentials(0, &later).check(&hello), Err(Stranger::Other), "another session");
}

#[test]
fn t06_nobody_makes_others_knock_at_a_victim() {
    let mut evil = group();
    evil.members[1].observed.main = evil.members[0].observed.main;
    evil.members[1].card = card(1, &["198.51.100.7:80", "10.0.0.9:80", "224.0.0.1:80", "127.0.0.1:22"]);
    let means = Means { relay: None, sprays: false, peers: Peers::All, seed: 1 };
    let plan = Roster::open(&key(), &evil).expect("of this version").plan(0, 1, &means);
    let dialled: Vec<_> = plan.candidates.iter().map(|it| it.remote.ip()).collect();
    let allowed = [IpAddr::from([10, 0, 0, 9]), evil.members[0].observed.main.ip()];
    assert!(dialled.iter().all(|ip| allowed.contains(ip)), "{dialled:?}");
    // Where the rendezvous says that a rank is seen is dialled if it can be, and if the rank is one of the group.
    for (seen, is_dialled) in [("198.51.100.9:80", true), ("10.0.0.1:80", false), ("127.0.0.1:22", false)] {
        for is_member in [true, false] {
            let mut evil = group();
            evil.members[0].observed.main = at("203.0.113.7:4000");
            evil.members[1].observed.main = at(seen);
            if !is_member {
                evil.members[1].card[0] ^= 1;
            }
            let plan = Roster::open(&key(), &evil).expect("of this version").plan(0, 1, &means);
            let aims = plan.candidates.iter().any(|it| it.remote == at(seen));
            assert_eq!(aims, is_dialled && is_member, "{seen} {is_member}");
        }
    }
    // The rendezvous calls back only where it sees the client.
    let mut config = ServerConfig::default();
    config.vantages = vec![at("1.1.1.1:7"), at("1.1.1.1:8")];
    let mut bench = Bench::new(config);
    let seen = at("203.0.113.9:4000");
    bench.input(1, Input::Opened(seen));
    let calls = bench.input(1, Input::Message(ClientMessage::CallBack(1)));
    assert!(calls.iter().all(|output| matches!(output, Output::CallBack { to, .. } if *to == seen)), "{calls:?}");
}

#[test]
fn t07_slow_clients_hold_up_nobody() {
    survives("attack-slow-loris");
}

#[test]
fn t08_waiting_clients_are_bounded_and_expire() {
    survives("attack-flood");
    let mut config = ServerConfig::default();
    config.connections_max = 20;
    let mut bench = Bench::new(config);
    for number in 0..200u8 {
        let group = [number; 32];
        bench.register(number.into(), Registration { group, ..registration(0, number) });
    }
    assert!(bench.0.connections() <= 20 && bench.0.entries() < 200, "{}", bench.0.entries());
    bench.advance(Duration::from_secs(600));
    assert_eq!((bench.0.connections(), bench.0.groups_forming()), (0, 0));
}

#[test]
fn t09_a_rank_is_paired_with_itself_by_no_retry() {
    let mut bench = Bench::new(ServerConfig::default());
    bench.register(1, registration(0, 1));
    let again = Registration { instance: [1; 16], ..registration(0, 2) };
    assert!(bench.register(2, again).contains(&Output::Close(Connection(1))), "its stale entry is replaced");
    assert_eq!(bench.0.connections(), 1);
    let (hello, _) = credentials(1, &group()).hello(0, [2; 16]).expect("a member");
    let own = credentials(1, &group()).check(&hello);
    assert_eq!(own, Err(Stranger::Other), "a connection to oneself");
}

#[test]
fn t10_a_half_delivered_group_is_dissolved_and_forms_again() {
    let mut bench = Bench::new(ServerConfig::default());
    bench.register(1, registration(0, 1));
    let group = group_in(&bench.register(2, registration(1, 2))).expect("complete");
    let outputs = bench.input(2, Input::Closed);
    assert_eq!(outputs, [Output::Send(Connection(1), ServerMessage::Dissolved(group.session))]);
    bench.register(3, registration(0, 3));
    assert!(group_in(&bench.register(4, registration(1, 4))).is_some());
    survives("rendezvous-during");
}

#[test]
fn t11_a_spray_is_off_by_default_needs_both_and_has_a_budget() {
    let default = config(0);
    assert!(!default.spray);
    let random = Observed { second: Some(at("203.0.113.1:9")), ..Observed::once(at("203.0.113.1:60000")) };
    let mut random_group = group();
    random_group.members[1].observed = random;
    let roster = Roster::open(&key(), &random_group).expect("of this version");
    let means = |sprays| Means { relay: None, sprays, peers: Peers::All, seed: 1 };
    assert_ne!(roster.plan(0, 1, &means(true)).technique, Technique::Spray, "the peer did not agree");
    assert_ne!(roster.plan(0, 1, &means(false)).technique, Technique::Spray);
    survives("technique-spray");
}

#[test]
fn t12_resets_off_the_path_end_no_group() {
    survives("attack-resets");
}

#[test]
fn t13_private_addresses_are_for_peers_only() {
    let bytes = ClientMessage::Register(registration(0, 1)).emit();
    let private = [10, 0, 0, 2];
    assert!(!contains(&bytes, &private), "the rendezvous and the path to it learn no private address");
    let roster = Roster::open(&key(), &group()).expect("of this version");
    assert_eq!(roster.peers[0].card.as_ref().expect("a peer reads it").locals, [at("10.0.0.2:1")]);
}

#[test]
fn t14_a_stranger_costs_a_hash_and_no_public_key_work() {
    let own = credentials(0, &group());
    let (hello, _) = credentials(1, &group()).hello(0, [2; 16]).expect("a member");
    assert_eq!(own.check(&[0; HELLO_BYTES]), Err(Stranger::Magic));
    assert_eq!(own.exchanges(), 0);
    // One that names a rank costs the exchange that the pair needs anyway, however often it comes.
    for at in HELLO_BYTES - 32..HELLO_BYTES {
        let mut forged = hello;
        forged[at] ^= 1;
        assert_eq!(own.check(&forged), Err(Stranger::Tag));
    }
    assert_eq!((own.check(&hello), own.exchanges()), (Ok(1), 1));
}

#[test]
fn t15_who_relays_reads_nothing() {
    let (tapped, path) = wiretap(Security::Encrypted, preset::aws_natgw());
    assert_eq!(path, Path::Relay);
    assert!(!contains(&tapped, MARKER));
    let (plain, _) = wiretap(Security::Plaintext, preset::aws_natgw());
    assert!(contains(&plain, MARKER), "the tap works");
}

#[test]
fn t16_no_bytes_break_a_codec() {
    for (name, target) in scenarios::fuzz::TARGETS {
        for length in [0, 1, 4, 8, 60, 101, 300] {
            for byte in [0, 1, 2, b'o', 0x45, 255] {
                target(&vec![byte; length]);
            }
        }
        assert!(!name.is_empty());
    }
}

/// Whoever reaches a store without a password may do anything, of which its page warns. What ranks leave there is sealed.
#[test]
fn t17_a_store_with_a_password_tells_strangers_nothing() {
    let mut config = StoreConfig::default();
    config.password = Some(SECRET.into());
    let mut store = Store::new(&config, [1, 2]);
    let mut said = Vec::new();
    let mut say = |client: StoreClient, text: &[u8], after: Duration| {
        let now = Instant::ZERO + after;
        match store.room(client) {
            Some(mut room) => room.put_slice(text),
            None => store.handle_input(now, client, StoreInput::Opened),
        }
        store.handle_input(now, client, StoreInput::Filled);
        store.handle_timeout(now);
        said.clear();
        let mut is_closed = false;
        while let Some(output) = store.poll_output() {
            match output {
                StoreOutput::Send(_, bytes) => said.extend_from_slice(&bytes),
                StoreOutput::Close(_) => is_closed = true,
            }
        }
        (String::from_utf8_lossy(&said).into_owned(), is_closed)
    };
    let (member, stranger, silent) = (StoreClient(1), StoreClient(2), StoreClient(3));
    for client in [member, stranger, silent] {
        say(client, b"", Duration::ZERO);
    }
    let auth = [b"AUTH \"", SECRET, b"\"\r\nSET key value\r\n"].concat();
    assert_eq!(say(member, &auth, Duration::ZERO).0, "+OK\r\n+OK\r\n");
    for command in COMMANDS.iter().filter(|name| !["quit", "reset"].contains(name)) {
        // As many arguments as some command takes.
        for count in 0..4 {
            let line = format!("{command}{}\r\n", " key".repeat(count));
            let (answer, _) = say(stranger, line.as_bytes(), Duration::ZERO);
            let is_told =
                ["-NOAUTH", "-WRONGPASS", "-ERR", "-EXECABORT"].iter().any(|refusal| answer.starts_with(refusal));
            assert!(is_told && !answer.contains("value"), "{line}: {answer}");
        }
    }
    // It cannot announce much either, nor take a place for long.
    assert_eq!(say(silent, b"", STRANGER_MAX - Duration::from_millis(1)), (String::new(), false));
    assert!(
        say(silent, b"*2\r\n$3\r\nGET\r\n$16385\r\n", STRANGER_MAX - Duration::from_millis(1))
            .0
            .starts_with("-ERR Prot")
    );
    assert!(say(stranger, b"", STRANGER_MAX).1);
    assert_eq!(say(member, b"GET key\r\n", STRANGER_MAX).0, "$5\r\nvalue\r\n");
}

#[test]
fn req_01_messages_are_versioned_bounded_and_checked_before_they_are_parsed() {
    let mut bytes = ClientMessage::Register(registration(0, 1)).emit();
    assert_eq!(split(&bytes[..4], 10), Err(WireError::TooLong(bytes.len() as u64 - 4, 10)), "by the length alone");
    bytes[4] = VERSION + 1;
    assert_eq!(ClientMessage::parse(&bytes[4..]), Err(WireError::Version { theirs: VERSION + 1, ours: VERSION }));
}

#[test]
fn req_02_the_channel_to_the_rendezvous_carries_nothing_that_must_be_hidden() {
    let (tapped, _) = wiretap(Security::Encrypted, preset::linux_masq_drop());
    for secret in [SECRET, NAME.as_bytes(), MARKER] {
        assert!(!contains(&tapped, secret), "{}", String::from_utf8_lossy(secret));
    }
}

#[test]
fn req_03_a_registration_names_its_group_by_a_keyed_hash_and_is_fresh() {
    let bytes = ClientMessage::Register(registration(0, 1)).emit();
    assert!(!contains(&bytes, NAME.as_bytes()) && contains(&bytes, &key().id()));
    assert_ne!(key().id(), Key::new(NAME, b"another").id());
    let mut bench = Bench::new(ServerConfig::default());
    bench.register(1, registration(0, 1));
    bench.input(1, Input::Closed);
    assert!(is_refused(&bench.register(2, registration(0, 1)), Refusal::Replayed));
}

#[test]
fn req_04_addresses_come_from_sockets_and_claimed_ones_are_checked() {
    let mut bench = Bench::new(ServerConfig::default());
    bench.register(1, registration(0, 1));
    let group = group_in(&bench.register(2, registration(1, 2))).expect("complete");
    assert_eq!(group.members[1].observed.main, at("203.0.113.9:4000"));
    t06_nobody_makes_others_knock_at_a_victim();
}

#[test]
fn req_05_the_answer_holds_session_endpoints_nonces_and_distances() {
    let mut bench = Bench::new(ServerConfig::default());
    let mut form = |number: u8| {
        bench.register(u64::from(number) * 2, registration(0, number * 2));
        let far = Registration { round_trip: Duration::from_millis(7), ..registration(1, number * 2 + 1) };
        group_in(&bench.register(u64::from(number) * 2 + 1, far)).expect("complete")
    };
    let (first, second) = (form(1), form(2));
    assert_ne!(first.session, second.session);
    assert_eq!((first.members[0].nonce, first.members[1].nonce), ([2; 16], [3; 16]));
    assert_eq!(first.members[1].round_trip, Duration::from_millis(7));
}

#[test]
fn req_06_the_keys_of_a_pair_depend_on_secret_session_ranks_and_nonces() {
    t04_a_malicious_rendezvous_can_only_deny();
    let roster = Roster::open(&key(), &group()).expect("of this version");
    let other = Credentials::new(&Key::new(NAME, b"another"), key_pair(1), Security::Encrypted, roster, 1, None);
    assert!(!agree(&credentials(0, &group()), &other));
}

#[test]
fn req_07_every_candidate_is_confirmed_and_a_wrong_one_costs_itself_only() {
    survives("attack-knocker");
    let mut punch = punch(true);
    punch.handle_input(Instant::ZERO, PunchInput::Connected(Attempt(0), StreamId(1)));
    punch.handle_input(Instant::ZERO, PunchInput::Broken(StreamId(1)));
    assert!(punch.won().is_none() && punch.poll_timeout().is_some(), "it goes on");
}

#[test]
fn req_08_roles_differ_so_that_nothing_can_be_reflected() {
    let group = group();
    let (low, high) = (credentials(0, &group), credentials(1, &group));
    let (hello, flight) = high.hello(0, [2; 16]).expect("a member");
    assert_eq!(high.check(&hello), Err(Stranger::Other));
    assert!(high.hear(&flight, &hello).is_err());
    let (answer, ours) = low.answer(1, [1; 16], &hello).expect("a member");
    let theirs = high.hear(&flight, &answer).expect("a member");
    assert!(ours.accepted(&ours.nomination(false)).is_err(), "a nomination is no acceptance");
    assert!(theirs.nominated(&theirs.acceptance()).is_err(), "nor the other way round");
}

fn punch(nominates: bool) -> Punch {
    let candidate = Candidate {
        remote: at("203.0.113.1:1"),
        path: Path::Direct,
        from: LocalEnd::Registered,
        pace: Pace::Eager,
        after: Duration::ZERO,
    };
    Punch::new(Instant::ZERO, nominates, vec![candidate], 1)
}

#[test]
fn req_09_exactly_one_connection_survives() {
    let mut low = punch(true);
    for stream in [4, 5, 4] {
        low.handle_input(Instant::ZERO, PunchInput::Confirmed { stream: StreamId(stream), is_answered: true });
    }
    let won = std::iter::from_fn(|| low.poll_output()).filter(|it| matches!(it, PunchOutput::Won(_))).count();
    assert_eq!((won, low.won()), (1, Some(StreamId(4))));
    survives("technique-local");
}

#[test]
fn req_10_sessions_and_registrations_are_used_once() {
    req_03_a_registration_names_its_group_by_a_keyed_hash_and_is_fresh();
    t05_what_was_recorded_is_worth_nothing_later();
}

#[test]
fn req_11_no_stream_is_kept_before_its_peer_is_proven() {
    let confirmed = PunchInput::Confirmed { stream: StreamId(1), is_answered: false };
    for (nominates, input) in [(true, None), (true, Some(confirmed)), (false, None)] {
        let mut punch = punch(nominates);
        punch.handle_input(Instant::ZERO, PunchInput::Connected(Attempt(0), StreamId(1)));
        if let Some(input) = input {
            punch.handle_input(Instant::ZERO, input);
        }
        assert_eq!(punch.won(), None, "what may have been recorded proves nobody");
    }
    let mut high = punch(false);
    high.handle_input(Instant::ZERO, PunchInput::Confirmed { stream: StreamId(1), is_answered: true });
    assert_eq!(high.won(), None, "a nomination proves the peer to the higher rank");
}

#[test]
fn req_12_tables_are_bounded_and_a_refusal_is_small() {
    t08_waiting_clients_are_bounded_and_expire();
    assert!(ServerMessage::Refused(Refusal::Busy).emit().len() <= 12);
    let mut config = ServerConfig::default();
    config.connections_per_source_max = 1;
    let mut bench = Bench::new(config);
    bench.input(1, Input::Opened(at("203.0.113.1:1")));
    assert!(is_refused(&bench.input(2, Input::Opened(at("203.0.113.1:2"))), Refusal::Busy));
}

#[test]
fn req_13_a_mute_rendezvous_ends_in_an_error_at_the_deadline() {
    let (mut world, server, functions) = world(preset::linux_masq_drop());
    world.service(server, |net| async move {
        let mut listener = net.listen(SERVER.into(), 8).expect("listens");
        let mut kept = Vec::new();
        loop {
            kept.push(std::future::poll_fn(|cx| listener.poll_accept(cx)).await);
        }
    });
    let ended = Arc::new(Mutex::new(None));
    let board = ended.clone();
    world.function(functions[0], Duration::ZERO, move |net| {
        let board = board.clone();
        async move {
            let mut config = config(0);
            config.join_deadline = Duration::from_secs(12);
            let error = Communicator::connect(net.clone(), &config).await.expect_err("nobody answers");
            *board.lock().unwrap_or_else(PoisonError::into_inner) = Some((Net::now(&net), error));
        }
    });
    assert_eq!(world.run().expect("a world").stuck, None);
    let (at, error) = ended.lock().unwrap_or_else(PoisonError::into_inner).take().expect("ended");
    assert!(matches!(error.kind(), ErrorKind::RendezvousUnreachable { .. }), "{error}");
    assert!(at.since_origin() <= Duration::from_millis(12_010), "{at:?}");
}

#[test]
fn req_14_nobody_gets_more_than_he_sends_before_his_group_is_complete() {
    let mut bench = Bench::new(ServerConfig::default());
    let sent = ClientMessage::Register(registration(0, 1)).emit().len();
    let told: usize = bench
        .register(1, registration(0, 1))
        .iter()
        .map(|output| match output {
            Output::Send(_, message) | Output::SendAll(_, message) => message.emit().len(),
            Output::Close(_) | Output::Splice(..) | Output::CallBack { .. } => 0,
        })
        .sum();
    assert!(told < sent, "{told} bytes for {sent}");
    assert!(group_in(&bench.input(1, Input::Message(ClientMessage::Ping))).is_none(), "endpoints by consent of all");
}

#[test]
fn req_15_each_prefix_has_its_rate() {
    let mut config = ServerConfig::default();
    (config.connections_burst, config.connections_per_second) = (2, 1);
    let mut bench = Bench::new(config);
    for number in 0..2 {
        assert!(bench.input(number, Input::Opened(at("203.0.113.1:1"))).is_empty());
    }
    assert!(is_refused(&bench.input(2, Input::Opened(at("203.0.113.77:1"))), Refusal::Busy));
    bench.advance(Duration::from_secs(1));
    assert!(bench.input(3, Input::Opened(at("203.0.113.77:1"))).is_empty());
}

#[test]
fn req_16_secrets_are_never_shown() {
    fn wipes_itself<T: zeroize::ZeroizeOnDrop>() {}
    wipes_itself::<fmi_proto::derive::KeyBytes>();
    wipes_itself::<KeyPair>();
    wipes_itself::<Credentials>();
    wipes_itself::<fmi_proto::session::Proven>();
    wipes_itself::<fmi_proto::session::StreamKeys>();
    wipes_itself::<fmi_proto::session::Chain>();
    let shown = format!("{:?} {:?} {:?} {:?}", key(), key_pair(0), config(0), credentials(0, &group()));
    for secret in [SECRET, &[1u8; 8][..]] {
        assert!(!shown.contains(&format!("{secret:?}")[1..]) && !contains(shown.as_bytes(), SECRET), "{shown}");
    }
}

#[test]
fn req_17_keys_are_ephemeral_and_replaced_on_long_streams() {
    // The same ranks with the same secret get other keys for each registration.
    let first = |nonce: u8| {
        let group = group();
        let (low, high) = (credentials(0, &group), credentials(1, &group));
        let (hello, _) = high.hello(0, [nonce; 16]).expect("a member");
        let (_, ours) = low.answer(1, [9; 16], &hello).expect("a member");
        let (mode, keys) = ours.keep().0.expect("encrypted");
        sealed(&mut keys.directions(mode).0, MARKER)
    };
    assert_ne!(first(1), first(2));
    let (mut sender, mut receiver) = (
        Direction::new(Security::Encrypted, Suite::Aes256Gcm, [1; 32]),
        Direction::new(Security::Encrypted, Suite::Aes256Gcm, [1; 32]),
    );
    for _ in 0..REKEY_AFTER + 2 {
        let record = sealed(&mut sender, &[7]);
        receiver.open(&record, &mut [0]).expect("both replace the key at the same record");
    }
}

#[test]
fn req_18_a_relayed_stream_is_protected_like_a_direct_one() {
    t15_who_relays_reads_nothing();
}

#[test]
fn req_19_codecs_and_machines_are_fuzzed() {
    let names = scenarios::fuzz::TARGETS.map(|(name, _)| name);
    for needed in ["wire", "rendezvous", "client", "punch", "session", "record"] {
        assert!(names.contains(&needed), "{needed}");
    }
}

#[test]
fn req_20_a_stranger_is_not_told_what_was_wrong() {
    // The knocker notes whoever answers with a byte; the scenario fails if anybody does.
    survives("attack-knocker");
}
