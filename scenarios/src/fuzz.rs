//! What the fuzz targets do with any bytes, as functions, so that `cargo test` replays the corpora.
//!
//! Each panics if an invariant does not hold.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use bytes::BufMut;
use fmi::time::Instant;
use fmi_proto::candidate::{Candidate, LocalEnd, Pace, Roster};
use fmi_proto::card::{Card, Holder, Security};
use fmi_proto::cipher::{Suite, Suites};
use fmi_proto::discovery::Outcome;
use fmi_proto::exchange::KeyPair;
use fmi_proto::frame::{ENVELOPE_BYTES, Envelope};
use fmi_proto::key::Key;
use fmi_proto::notice::Notice;
use fmi_proto::punch::{Attempt, Input as PunchInput, Output as PunchOutput, Punch, StreamId};
use fmi_proto::record::{Direction, HEADER_BYTES, OVERHEAD_BYTES};
use fmi_proto::rendezvous::client::{Client, Entropy, Identity, Input as ClientInput, Output as ClientOutput};
use fmi_proto::rendezvous::server::{Connection, Input, Output, Server, ServerConfig};
use fmi_proto::rendezvous::{ClientMessage, Handout, Member, Observed, ServerMessage, split};
use fmi_proto::session::{Credentials, HELLO_BYTES};
use fmi_proto::store::{
    Client as StoreClient, Input as StoreInput, Output as StoreOutput, Server as StoreServer, StoreConfig,
};
use fmi_proto::tcpunch;
use fmi_proto::wire::{self, WireError};
use nat_sim::nat::{Nat, Side, Verdict, preset};
use nat_sim::packet::Packet;

/// A fuzz target.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Target); 10] = [
    ("wire", wire),
    ("rendezvous", rendezvous),
    ("client", client),
    ("group", group),
    ("punch", punch),
    ("session", session),
    ("record", record),
    ("tcpunch", tcpunch),
    ("store", store),
    ("nat", nat),
];

/// No bytes from a peer or a rendezvous make a codec panic, and what parses survives a round trip.
pub fn wire(bytes: &[u8]) {
    if let Ok(message) = ClientMessage::parse(bytes) {
        assert_eq!(&message.emit()[4..], bytes);
    }
    if let Ok(message) = ServerMessage::parse(bytes) {
        let emitted = message.emit();
        assert_eq!(ServerMessage::parse(&emitted[4..]), Ok(message));
    }
    if let Ok(Some((body, taken))) = split(bytes, 1024) {
        assert_eq!(body.len() + 4, taken);
    }
    if let Some(head) = bytes.first_chunk::<ENVELOPE_BYTES>()
        && let Ok(envelope) = Envelope::parse(head)
    {
        assert_eq!(Envelope::parse(&envelope.emit()), Ok(envelope));
        assert!(!envelope.to_string().is_empty());
    }
    if let Ok(notice) = Notice::parse(bytes) {
        assert!(Notice::parse(&notice.emit()).is_ok());
        assert!(!notice.to_string().is_empty());
    }
    let holder = Holder { rank: 0, size: 2, epoch: 0, nonce: &[7; 16] };
    assert!(Card::open(&Key::new("g", b"k"), &holder, bytes).is_err(), "a seal cannot be guessed");
}

/// Lines of an action and its argument, with time between them.
fn script(bytes: &[u8], mut act: impl FnMut(Instant, u8, u8, &[u8])) {
    let mut now = Instant::ZERO;
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some((&[action, argument], rest)) = line.split_first_chunk::<2>() else { continue };
        if action == b'~' {
            now += Duration::from_millis(u64::from(argument) * 10);
        }
        act(now, action, argument, rest);
    }
}

/// Clients that send anything, in any order, neither panic the server nor make it grow, and cannot make it
/// call anybody but themselves.
pub fn rendezvous(bytes: &[u8]) {
    let vantages = vec![SocketAddr::from(([2, 2, 2, 2], 7)), SocketAddr::from(([2, 2, 2, 2], 8))];
    let mut config = ServerConfig::default();
    (config.connections_max, config.vantages, config.calls_max, config.relays_max) = (8, vantages, 2, 2);
    let mut server = Server::new(config, [0; 32]);
    let mut next = 0;
    script(bytes, |now, action, argument, rest| {
        // The last eight connections can be spoken of.
        let mut connection = Connection(next - u64::from(argument % 8).min(next));
        let input = match action {
            b'o' => {
                next += 1;
                connection = Connection(next);
                Input::Opened(SocketAddr::from(([1, 1, 1, 1], 1)))
            }
            b'c' => Input::Closed,
            b'x' => Input::Malformed(WireError::Short),
            b'b' => Input::CalledBack { vantage: argument, outcome: Outcome::Silence },
            b'~' => return server.handle_timeout(now),
            _ => ClientMessage::parse(rest).map_or_else(Input::Malformed, Input::Message),
        };
        server.handle_input(now, connection, input);
        while let Some(output) = server.poll_output() {
            match output {
                Output::Send(_, message) | Output::SendAll(_, message) => assert!(message.emit().len() > 4),
                Output::CallBack { to, vantage, .. } => assert!(to.port() == 1 && vantage < 2),
                Output::Splice(first, second) => assert_ne!(first, second),
                Output::Close(_) => {}
            }
        }
        assert!(server.connections() <= 8 && server.entries() <= 8 * 16, "{} entries", server.entries());
    });
}

/// Clients that send anything, in any order, neither panic a store nor make it outgrow its memory, and it speaks to nobody who
/// is not there. A bar stands for the end of a line.
pub fn store(bytes: &[u8]) {
    let mut config = StoreConfig::default();
    (config.memory_bytes_max, config.clients_max) = (100_000, 4);
    let mut server = StoreServer::new(&config, [1, 2]);
    let mut next = 0;
    let mut there = BTreeSet::new();
    script(bytes, |now, action, argument, rest| {
        let client = StoreClient(next - u64::from(argument % 4).min(next));
        match action {
            b'o' => {
                next += 1;
                there.insert(StoreClient(next));
                server.handle_input(now, StoreClient(next), StoreInput::Opened);
            }
            b'c' => {
                there.remove(&client);
                server.handle_input(now, client, StoreInput::Closed);
            }
            b's' => server.handle_input(now, client, StoreInput::Sent(1 << (argument / 8))),
            b'~' => server.handle_timeout(now),
            _ => {
                let text: Vec<u8> = rest
                    .iter()
                    .flat_map(|byte| if *byte == b'|' { b"\r\n" } else { std::slice::from_ref(byte) })
                    .copied()
                    .collect();
                let mut text = &text[..];
                while let Some(mut room) = server.room(client).filter(|_| !text.is_empty()) {
                    let count = text.len().min(room.chunk_mut().len()).min(room.remaining_mut());
                    room.put_slice(&text[..count]);
                    text = &text[count..];
                    server.handle_input(now, client, StoreInput::Filled);
                }
            }
        }
        while let Some(output) = server.poll_output() {
            match output {
                StoreOutput::Send(client, bytes) => assert!(!bytes.is_empty() && there.contains(&client)),
                StoreOutput::Close(client) => assert!(there.remove(&client)),
            }
        }
        assert!(server.clients() <= 4 && server.clients() == there.len());
        // Beside its memory: for each client an answer that is copied, and what it has sent ahead.
        assert!(server.used() <= 200_000 + 4 * (128 << 10), "{} bytes", server.used());
    });
}

/// A rendezvous that sends anything does not panic a client, and gets it into no group that it did not
/// register for.
pub fn client(bytes: &[u8]) {
    let (key, security) = (Key::new("g", b"k"), Security::Encrypted);
    let (instance, suites) = ([3; 16], Suites::of_machine(true));
    let identity = Identity { rank: 1, size: 2, instance, key, security, sprays: false, suites, servers: 2 };
    let mut client = Client::new(Instant::ZERO, identity, [5; 32]);
    let mut nonce = None;
    script(bytes, |now, action, argument, rest| {
        let input = match action {
            b'o' => ClientInput::Connected {
                locals: vec![SocketAddr::from(([10, 0, 0, 2], 4000))],
                round_trip: Duration::from_millis(argument.into()),
                vouches: argument % 3,
                has_others: argument % 2 == 1,
                entropy: Entropy { nonce: [argument; 16], seed: [argument; 32] },
            },
            b'c' => ClientInput::Disconnected(io::ErrorKind::ConnectionReset),
            b'u' => ClientInput::Unvouched,
            b'r' => ClientInput::Retry,
            b'~' => return client.handle_timeout(now),
            // The only group that may be taken: one with the nonce of the last registration.
            b'g' => {
                let observed = Observed::once(SocketAddr::from(([1, 1, 1, 1], 1)));
                let own = if argument == 0 { nonce.unwrap_or_default() } else { [argument; 16] };
                let member = |rank, nonce| Member {
                    rank,
                    nonce,
                    observed,
                    round_trip: Duration::ZERO,
                    card: rest.get(..200).unwrap_or(rest).to_vec(),
                };
                let members = vec![member(0, [9; 16]), member(1, own)];
                ClientInput::Message(ServerMessage::Handout(Handout { session: [argument; 16], members }.into()))
            }
            _ => ServerMessage::parse(rest).map_or_else(ClientInput::Malformed, ClientInput::Message),
        };
        client.handle_input(now, input);
        while let Some(output) = client.poll_output() {
            match output {
                ClientOutput::Send(message) => {
                    if let ClientMessage::Register(registration) = &message {
                        nonce = Some(registration.nonce);
                    }
                    assert_eq!(ClientMessage::parse(&message.emit()[4..]), Ok(message));
                }
                ClientOutput::Joined(group, _) => {
                    assert_eq!(Some(group.members[1].nonce), nonce);
                    let roster = Roster::open(&Key::new("g", b"k"), &group).expect("no card opens");
                    assert!(roster.peers[0].card.is_none(), "a seal cannot be guessed");
                }
                ClientOutput::Connect { server, .. } => assert!(server < 2),
                ClientOutput::Vouch(_) | ClientOutput::Dissolved | ClientOutput::Lost(_) | ClientOutput::Refused(_) => {
                }
            }
        }
    });
}

/// Whatever attempts come to, a pair keeps at most one stream, and never gives up or floods.
pub fn punch(bytes: &[u8]) {
    let candidate = |port, pace, after| Candidate {
        remote: SocketAddr::from(([1, 1, 1, 1], port)),
        path: fmi::Path::Direct,
        from: LocalEnd::Registered,
        pace,
        after: Duration::from_millis(after),
    };
    let candidates = vec![candidate(1, Pace::Eager, 0), candidate(2, Pace::Sparse, 100), candidate(3, Pace::Once, 5)];
    let nominates = bytes.first().is_some_and(|byte| byte % 2 == 0);
    let mut punch = Punch::new(Instant::ZERO, nominates, candidates, 1);
    let mut wins = 0;
    script(bytes, |now, action, argument, _| {
        let (attempt, stream) = (Attempt(argument.into()), StreamId(u64::from(argument % 8)));
        match action {
            b'f' => punch.handle_input(now, PunchInput::Failed(attempt, io::ErrorKind::ConnectionRefused)),
            b'a' => punch.handle_input(now, PunchInput::Failed(attempt, io::ErrorKind::AddrNotAvailable)),
            b'o' => punch.handle_input(now, PunchInput::Connected(attempt, stream)),
            b'y' => punch.handle_input(now, PunchInput::Confirmed { stream, is_answered: argument < 128 }),
            b'c' => punch.handle_input(now, PunchInput::Accepted(stream)),
            b'n' => punch.handle_input(now, PunchInput::Nominated(stream)),
            b'x' => punch.handle_input(now, PunchInput::Broken(stream)),
            _ => punch.handle_timeout(now),
        }
        let mut begun = 0;
        while let Some(output) = punch.poll_output() {
            match output {
                PunchOutput::Connect(..) => begun += 1,
                PunchOutput::Nominate { .. } => assert!(nominates),
                PunchOutput::Won(stream) => {
                    wins += 1;
                    assert_eq!(punch.won(), Some(stream));
                }
            }
        }
        assert!(begun <= 3 && wins <= 1);
    });
}

fn credentials(rank: u32) -> Credentials {
    let key = Key::new("g", b"k");
    let key_pair = |rank: u32| KeyPair::from_seed([u8::try_from(rank + 1).expect("small"); 32]);
    let member = |rank: u32| {
        let nonce = [u8::try_from(rank).expect("small"); 16];
        let security = Security::Encrypted;
        let (version, suites, public) = (wire::VERSION, Suites::of_machine(true), *key_pair(rank).public());
        let card = Card { version, security, sprays: false, suites, public, locals: vec![] };
        let card = card.seal(&key, &Holder { rank, size: 2, epoch: 0, nonce: &nonce });
        let observed = Observed::once(SocketAddr::from(([1, 1, 1, 1], 1)));
        Member { rank, nonce, observed, round_trip: Duration::ZERO, card }
    };
    let group = Handout { session: [3; 16], members: vec![member(0), member(1)] };
    let roster = Roster::open(&key, &group).expect("of this version");
    Credentials::new(&key, key_pair(rank), Security::Encrypted, roster, rank, None)
}

/// What is left of honest bytes once others are written over them from somewhere on.
fn written_over<const N: usize>(honest: &[u8; N], (at, over): (usize, &[u8])) -> [u8; N] {
    let mut changed = *honest;
    for (place, byte) in changed[at % N..].iter_mut().zip(over) {
        *place = *byte;
    }
    changed
}

/// Bytes put over a first flight, at any place, are noticed by whoever gets them.
pub fn session(bytes: &[u8]) {
    let (low, high) = (credentials(0), credentials(1));
    let (hello, flight) = high.hello(0, [2; 16]).expect("a member");
    let Some((&at, over)) = bytes.split_first() else { return };
    let written = (usize::from(at), over);
    let changed = written_over(&hello, written);
    assert_eq!(low.check(&changed).is_ok(), changed == hello);
    let (answer, ours) = low.answer(1, [1; 16], &hello).expect("a member");
    let changed = written_over(&answer, written);
    assert_eq!(high.hear(&flight, &changed).is_ok(), changed == answer);
    let theirs = high.hear(&flight, &answer).expect("honest");
    for settles in [false, true] {
        let nomination = ours.nomination(settles);
        let changed = written_over(&nomination, written);
        assert_eq!(theirs.nominated(&changed).is_ok(), changed == nomination);
    }
    let acceptance = theirs.acceptance();
    let changed = written_over(&acceptance, written);
    assert_eq!(ours.accepted(&changed).is_ok(), changed == acceptance);
    if let Some(made_up) = bytes.first_chunk::<HELLO_BYTES>() {
        assert_eq!(low.check(made_up).is_ok(), made_up == &hello);
        assert!(high.hear(&flight, made_up).is_err() || made_up == &answer);
    }
}

/// Records that somebody made up do not open, and honest ones do, however they are cut into.
pub fn record(bytes: &[u8]) {
    for security in [Security::Encrypted, Security::Authenticated] {
        let mut receiver = Direction::new(security, Suite::Aes256Gcm, [1; 32]);
        if let Some(header) = bytes.first_chunk::<HEADER_BYTES>()
            && let Ok(length) = Direction::record_bytes(*header)
            && let Some(made_up) = bytes.get(..length)
        {
            let mut plain = vec![0; length - OVERHEAD_BYTES];
            assert!(receiver.open(made_up, &mut plain).is_err(), "a tag cannot be guessed");
        }
        let (mut sender, mut receiver) =
            (Direction::new(security, Suite::Aes256Gcm, [1; 32]), Direction::new(security, Suite::Aes256Gcm, [1; 32]));
        for part in bytes.chunks(50) {
            let (mut record, mut plain) = (vec![0; part.len() + OVERHEAD_BYTES], vec![0; part.len()]);
            sender.seal(part, &mut record);
            receiver.open(&record, &mut plain).expect("honest");
            assert_eq!(plain, part);
        }
    }
}

/// Clients of the original that send anything leave its server bounded.
pub fn tcpunch(bytes: &[u8]) {
    let mut server = tcpunch::Server::new();
    let mut next = 0;
    script(bytes, |now, action, argument, rest| {
        let mut connection = tcpunch::Connection(u64::from(argument % 8));
        let input = match action {
            b'o' => {
                next += 1;
                connection = tcpunch::Connection(next % 8);
                tcpunch::Input::Opened(SocketAddrV4::new([1, 1, 1, 1].into(), argument.into()))
            }
            b'c' => tcpunch::Input::Closed,
            b'~' => return server.handle_timeout(now),
            _ => tcpunch::Input::Bytes(rest.to_vec()),
        };
        server.handle_input(now, connection, input);
        while server.poll_output().is_some() {}
        assert!(server.clients() <= 8);
    });
}

/// Any operations, frames, losses and times leave the machine of a group consistent, and end each operation by its
/// deadline.
pub fn group(bytes: &[u8]) {
    fmi_proto::group::script::play(bytes);
}

/// Any packets, in any order, from both sides, leave every gateway consistent: what it forwards has
/// valid checksums and shows no inside address.
pub fn nat(bytes: &[u8]) {
    let Some((&[choice, step], packets)) = bytes.split_first_chunk::<2>() else { return };
    let preset = preset::ALL[usize::from(choice) % preset::ALL.len()];
    let external = Ipv4Addr::new(203, 0, 113, 1);
    let mut nat = Nat::new((preset.config)(), external, 1);
    let mut now = Instant::ZERO;
    for chunk in packets.chunks(48) {
        now += Duration::from_millis(u64::from(step) * 100);
        let Ok(packet) = Packet::parse(chunk.to_vec()) else { continue };
        let valid = packet.checksums_are_valid();
        let inside = matches!(packet.source(), IpAddr::V4(source) if source.octets()[0] == 10);
        let verdict = if inside { nat.outbound(now, packet) } else { nat.inbound(now, packet) };
        if let Verdict::Forward(side, out) = verdict {
            assert!(!valid || out.checksums_are_valid());
            let is_public = preset.name == "public" || preset.name == "firewall_only";
            assert!(side == Side::Inside || is_public || !out.is_v4() || out.source() == IpAddr::V4(external));
        }
        while nat.next_verdict().is_some() {}
        nat.tick(now);
    }
}
