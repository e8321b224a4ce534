//! Goal: bytes on the wire change on purpose only. Method: one message of each kind, made of fixed values, against bytes
//! that were written down for this version of the protocol.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::candidate::Roster;
use super::card::{Card, Holder, Security};
use super::cipher::Suites;
use super::discovery::Outcome;
use super::exchange::KeyPair;
use super::frame::{Envelope, Kind};
use super::notice::Notice;
use super::record::OVERHEAD_BYTES;
use super::rendezvous::{
    self, ClientMessage, Handout, Member, Observed, Refusal, Registration, RelayRequest, Resumption, ServerMessage,
    Waiting,
};
use super::session::Credentials;
use super::{tcpunch, wire};
use crate::key::Key;

const GOLDEN: &str = include_str!("golden.txt");

struct Lines(String);

impl Lines {
    fn put(&mut self, name: &str, bytes: &[u8]) {
        self.0.push_str(name);
        self.0.push_str(": ");
        for byte in bytes {
            write!(self.0, "{byte:02x}").expect("memory takes all");
        }
        self.0.push('\n');
    }
}

fn key() -> Key {
    Key::new("demo", b"a key of 16 bytes")
}

fn nonce(rank: u32) -> [u8; 16] {
    [u8::try_from(rank + 0x40).expect("small"); 16]
}

fn key_pair(rank: u32) -> KeyPair {
    KeyPair::from_seed([u8::try_from(rank + 1).expect("small"); 32])
}

fn card(rank: u32) -> Vec<u8> {
    let locals = vec!["10.0.0.2:4000".parse().expect("v4"), "[fd00::2]:4000".parse().expect("v6")];
    let (version, security, public) = (wire::VERSION, Security::Encrypted, *key_pair(rank).public());
    Card { version, security, sprays: true, suites: Suites::of_machine(true), public, locals }
        .seal(&key(), &Holder { rank, size: 2, epoch: 0, nonce: &nonce(rank) })
}

fn handout() -> Handout {
    let observed = Observed {
        main: "203.0.113.1:4000".parse().expect("v4"),
        second: Some("203.0.113.1:4001".parse().expect("v4")),
        other: Some("[2001:db8::1]:4000".parse().expect("v6")),
    };
    let member =
        |rank| Member { rank, nonce: nonce(rank), observed, round_trip: Duration::from_micros(1500), card: card(rank) };
    Handout { session: [7; 16], members: vec![member(0), member(1)] }
}

fn clients(lines: &mut Lines) {
    let key = key();
    let registration = Registration {
        group: key.id(),
        name: key.name_tag(),
        rank: 1,
        size: 2,
        instance: [3; 16],
        nonce: nonce(1),
        round_trip: Duration::from_micros(1500),
        vouches: 2,
        card: card(1),
    };
    let (session, group, nonce) = ([7; 16], key.id(), nonce(1));
    for (name, message) in [
        ("register", ClientMessage::Register(registration)),
        ("ping", ClientMessage::Ping),
        ("formed", ClientMessage::Formed(session)),
        ("leave", ClientMessage::Leave(session)),
        ("observe", ClientMessage::Observe),
        ("call back", ClientMessage::CallBack(2)),
        ("vouch", ClientMessage::Vouch(nonce)),
        ("unvouched", ClientMessage::Unvouched),
        ("relay", ClientMessage::Relay(RelayRequest { session, from: 1, to: 0, nonce })),
        ("resume", ClientMessage::Resume(Resumption { session, group, rank: 1, size: 2, nonce })),
        ("severed", ClientMessage::Severed { session, rank: 0 }),
        ("fail", ClientMessage::Fail(session)),
    ] {
        lines.put(&format!("to the rendezvous, {name}"), &message.emit());
    }
}

fn servers(lines: &mut Lines) {
    let (observed, session) = ("203.0.113.1:4000".parse().expect("v4"), [7; 16]);
    let waiting = Waiting { observed, present: 1, missing: 0, other_key: true, running: false };
    for (name, message) in [
        ("waiting", ServerMessage::Waiting(waiting)),
        ("handout", ServerMessage::Handout(Arc::new(handout()))),
        ("lost", ServerMessage::Lost { session, rank: 1 }),
        ("dissolved", ServerMessage::Dissolved(session)),
        ("probe", ServerMessage::Probe),
        ("observed", ServerMessage::Observed { observed, vantages: vec![observed] }),
        ("called back", ServerMessage::CalledBack { vantage: 2, outcome: Outcome::Silence }),
        ("relayed", ServerMessage::Relayed),
        ("severed", ServerMessage::Severed { session, rank: 0 }),
        ("failed", ServerMessage::Failed { session, rank: 1 }),
    ] {
        lines.put(&format!("from the rendezvous, {name}"), &message.emit());
    }
    for refusal in [
        Refusal::RankTaken,
        Refusal::SizeMismatch { expected: 3 },
        Refusal::RankOutOfRange,
        Refusal::SizeOutOfRange { max: 9 },
        Refusal::Busy,
        Refusal::Malformed,
        Refusal::Expired,
        Refusal::Replayed,
        Refusal::NotMember,
        Refusal::NoRelay,
        Refusal::Version(5),
    ] {
        lines.put(&format!("from the rendezvous, refused, {refusal:?}"), &ServerMessage::Refused(refusal).emit());
    }
}

fn streams(lines: &mut Lines) {
    for security in [Security::Encrypted, Security::Authenticated, Security::Plaintext] {
        let credentials = |rank| {
            let roster = Roster::open(&key(), &handout()).expect("of this version");
            Credentials::new(&key(), key_pair(rank), security, roster, rank, None)
        };
        let (low, high) = (credentials(0), credentials(1));
        let (low_hello, flight) = low.hello(1, [1; 16]).expect("a member");
        let (high_answer, theirs) = high.answer(0, [2; 16], &low_hello).expect("a member");
        let ours = low.hear(&flight, &high_answer).expect("a member");
        let name = security.name();
        lines.put(&format!("{name} stream, hello of the lower rank"), &low_hello);
        lines.put(&format!("{name} stream, answer of the higher rank"), &high_answer);
        lines.put(&format!("{name} stream, nomination"), &ours.nomination(false));
        lines.put(&format!("{name} stream, settlement"), &ours.nomination(true));
        lines.put(&format!("{name} stream, acceptance"), &theirs.acceptance());
        if let (Some((security, keys)), _) = ours.keep() {
            let mut record = vec![0; b"payload".len() + OVERHEAD_BYTES];
            let (mut sealing, _) = keys.directions(security);
            sealing.seal(b"payload", &mut record);
            lines.put(&format!("{name} stream, first record of the lower rank"), &record);
        }
    }
}

fn frames(lines: &mut Lines) {
    for kind in Kind::ALL.iter().copied() {
        let envelope = Envelope {
            kind,
            commutative: true,
            more: true,
            synchronous: true,
            datatype: 12,
            communicator: 0x0102_0304_0506_0708,
            epoch: 9,
            root_or_tag: 10,
            sequence: 11,
            step: 12,
            operator: 1,
            length: 64,
            elements: 8,
        };
        lines.put(&format!("frame, {}", kind.operation()), &envelope.emit());
    }
    let called = Envelope { sequence: 1, ..Envelope::new(Kind::Allreduce) };
    let other_called = Envelope { sequence: 1, ..Envelope::new(Kind::Barrier) };
    let mismatch = Notice::Mismatch { rank: 1, called, other: 2, other_called };
    lines.put("notice, mismatch", &mismatch.emit());
    lines.put("notice, lost", &Notice::Lost { rank: 3, how: "silent".into() }.emit());
    lines.put("notice, left", &Notice::Left { rank: 5, how: "done".into() }.emit());
    lines.put("notice, failed", &Notice::Failed { rank: 4, text: "told".into() }.emit());
}

/// Elements and operators, which frames name by codes.
fn codes(lines: &mut Lines) {
    let named = |lines: &mut Lines, what, name: String, code: u32| {
        if !name.starts_with("unknown") && !name.starts_with('#') {
            lines.put(&format!("{what}, {name}"), &code.to_be_bytes());
        }
    };
    for code in 0..=crate::datatype::VALUE_DATATYPE {
        named(lines, "elements", crate::datatype::name_of(code).into_owned(), code);
        named(lines, "operator", crate::op::name_of(code), code);
    }
}

/// The clients of the original FMI have one version only.
fn pairing(lines: &mut Lines) {
    let (mut server, now) = (tcpunch::Server::new(), fmi_net::time::Instant::ZERO);
    for (number, address) in [(1, "203.0.113.1:4000"), (2, "203.0.113.2:5000")] {
        let from = address.parse().expect("v4");
        server.handle_input(now, tcpunch::Connection(number), tcpunch::Input::Opened(from));
        server.handle_input(now, tcpunch::Connection(number), tcpunch::Input::Bytes(b"pair\0".to_vec()));
    }
    server.handle_timeout(now + Duration::from_millis(100));
    while let Some(output) = server.poll_output() {
        if let tcpunch::Output::Send(to, answer) = output {
            lines.put(&format!("pairing protocol, to client {}", to.0), &answer);
        }
    }
}

fn table() -> String {
    let mut lines = Lines(String::new());
    lines.put("version between ranks", &[wire::VERSION]);
    lines.put("version of the rendezvous", &[rendezvous::VERSION]);
    clients(&mut lines);
    servers(&mut lines);
    streams(&mut lines);
    frames(&mut lines);
    codes(&mut lines);
    pairing(&mut lines);
    lines.0
}

#[test]
fn bytes_are_those_of_the_version() {
    let table = table();
    if table == GOLDEN {
        return;
    }
    let mut pairs = table.lines().zip(GOLDEN.lines());
    let versions = pairs.by_ref().take(2).all(|(now, then)| now == then);
    let differs = pairs.find(|(now, then)| now != then);
    let advice = if versions {
        "this changes the protocol: raise `wire::VERSION` if ranks say it to each other, `rendezvous::VERSION` otherwise"
    } else {
        "the version was raised"
    };
    panic!("{advice}; then these are the new bytes for golden.txt:\n{table}\nfirst difference: {differs:?}");
}
