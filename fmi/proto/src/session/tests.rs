//! Goal: a stream is kept by two ranks of one view of one group, and by nobody else; its keys are theirs alone. Method:
//! all roles by hand, every wrong input at every place, and a transcript that a second implementation computes as well
//! (`fmi/proto/tests/handshake.py`).

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::card::{Card, Holder};
use crate::cipher::Suites;
use crate::rendezvous::{Handout, Member, Observed};

const MODES: [Security; 3] = [Security::Encrypted, Security::Authenticated, Security::Plaintext];

fn key_pair(rank: u32) -> KeyPair {
    KeyPair::from_seed([u8::try_from(rank + 1).expect("small"); 32])
}

fn nonce(rank: u32) -> [u8; 16] {
    [u8::try_from(rank).expect("small"); 16]
}

/// What the credentials of one rank of a group of three are made of.
#[derive(Clone)]
struct Case {
    group: &'static str,
    secret: &'static [u8],
    security: Security,
    has_aes: [bool; 3],
    handout: Handout,
    chain: Option<Arc<Chain>>,
}

impl Case {
    fn new(security: Security) -> Self {
        let handout = Handout { session: [9; 16], members: vec![] };
        let mut case =
            Self { group: "job-a", secret: b"0123456789abcdef", security, has_aes: [true; 3], handout, chain: None };
        case.hand_out();
        case
    }

    fn key(&self) -> Key {
        Key::new(self.group, self.secret)
    }

    fn card(&self, rank: u32) -> Vec<u8> {
        let suites = Suites::of_machine(self.has_aes[rank as usize]);
        let card = Card { suites, public: *key_pair(rank).public(), ..Card::sample(self.security) };
        card.seal(&self.key(), &Holder { rank, size: 3, epoch: 0, nonce: &nonce(rank) })
    }

    /// As an honest rendezvous does.
    fn hand_out(&mut self) {
        let observed = Observed::once(([1, 1, 1, 1], 1).into());
        let member =
            |rank| Member { rank, nonce: nonce(rank), observed, round_trip: Duration::ZERO, card: self.card(rank) };
        self.handout.members = (0..3).map(member).collect();
    }

    fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut changed = self.clone();
        change(&mut changed);
        changed
    }

    fn credentials(&self, rank: u32) -> Credentials {
        let roster = Roster::open(&self.key(), &self.handout).expect("of this version");
        Credentials::new(&self.key(), key_pair(rank), self.security, roster, rank, self.chain.clone())
    }
}

/// Both ends of a stream on which each has proved itself; `dials` opened it.
fn meet(dials: &Credentials, accepts: &Credentials) -> Result<(Proven, Proven), Stranger> {
    let (hello, flight) = dials.hello(accepts.rank, [4; 16])?;
    let peer = accepts.check(&hello)?;
    assert_eq!(peer, dials.rank);
    let (answer, theirs) = accepts.answer(peer, [5; 16], &hello)?;
    Ok((dials.hear(&flight, &answer)?, theirs))
}

/// Both ends of a stream that both opened.
fn cross(one: &Credentials, other: &Credentials) -> Result<(Proven, Proven), Stranger> {
    let (ours, our_flight) = one.hello(other.rank, [4; 16])?;
    let (theirs, their_flight) = other.hello(one.rank, [5; 16])?;
    Ok((one.hear(&our_flight, &theirs)?, other.hear(&their_flight, &ours)?))
}

/// The protection of both ends of a stream that the ends nominate, accept and keep.
fn agree(low: Proven, high: Proven, settles: bool) -> Result<(Protection, Protection), Stranger> {
    let waits = high.nominated(&low.nomination(settles))?;
    assert_eq!(waits, !settles);
    if waits {
        low.accepted(&high.acceptance())?;
    }
    let ((low, low_chain), (high, high_chain)) = (low.keep(), high.keep());
    assert_eq!(low_chain.0.as_bytes(), high_chain.0.as_bytes());
    Ok((low, high))
}

fn keys(protection: Protection) -> Option<([u8; 32], [u8; 32])> {
    protection.map(|(_, keys)| (*keys.send.as_bytes(), *keys.receive.as_bytes()))
}

#[test]
fn members_recognise_each_other_whoever_opened_the_stream() {
    for mode in MODES {
        let case = Case::new(mode);
        let (low, high) = (case.credentials(0), case.credentials(1));
        for settles in [false, true] {
            let (ours, theirs) = meet(&low, &high).expect("members");
            assert_eq!((ours.peer(), theirs.peer()), (high.rank, low.rank));
            assert!(ours.is_answered() && !theirs.is_answered());
            let opened_by_low = agree(ours, theirs, settles).expect("members");
            let (theirs, ours) = meet(&high, &low).expect("members");
            let opened_by_high = agree(ours, theirs, settles).expect("members");
            let (ours, theirs) = cross(&low, &high).expect("members");
            assert!(!ours.is_answered() && !theirs.is_answered());
            let crossed = agree(ours, theirs, settles).expect("members");
            for (low, high) in [opened_by_low, opened_by_high, crossed] {
                match (keys(low), keys(high)) {
                    (Some(low), Some(high)) => {
                        assert_eq!(low, (high.1, high.0));
                        assert_ne!(low.0, low.1, "each direction has a key of its own");
                    }
                    (None, None) => assert_eq!(mode, Security::Plaintext),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!((low.exchanges(), high.exchanges()), (1, 1), "one exchange for a pair, however many streams");
    }
}

#[test]
fn a_hello_is_for_one_rank_of_one_view_and_one_kind_of_stream() {
    for mode in MODES {
        let case = Case::new(mode);
        let [a, b, c] = [0, 1, 2].map(|rank| case.credentials(rank));
        let (hello, flight) = a.hello(1, [9; 16]).expect("a member");
        assert_eq!(b.check(&hello), Ok(0));
        assert_eq!(c.check(&hello), Err(Stranger::Other), "meant for another rank");
        assert_eq!(a.check(&hello), Err(Stranger::Other), "reflected");
        assert_eq!(a.hear(&flight, &hello).expect_err("a mirror"), Stranger::Other);
        let (from_c, _) = c.hello(0, [9; 16]).expect("a member");
        assert_eq!(a.hear(&flight, &from_c).expect_err("not whom it was for"), Stranger::Other);
        let (answer, _) = b.answer(0, [8; 16], &hello).expect("a member");
        assert_eq!(a.check(&answer), Err(Stranger::Other), "an answer opens no stream");
        let (_, other_flight) = a.hello(1, [7; 16]).expect("a member");
        assert_eq!(a.hear(&other_flight, &answer).expect_err("recorded"), Stranger::Tag, "an answer to another hello");
        let chain = |byte: u8| Some(Arc::new(Chain(KeyBytes::new(derive::CHAIN, &[&[byte]]))));
        let upgrade = case.with(|case| case.chain = chain(1));
        assert_eq!(upgrade.credentials(1).check(&hello), Err(Stranger::Other), "no upgrade");
        let other = case.with(|case| case.chain = chain(2));
        assert!(meet(&upgrade.credentials(0), &upgrade.credentials(1)).is_ok());
        let stranger = meet(&upgrade.credentials(0), &other.credentials(1));
        assert_eq!(stranger.map(|_| ()), Err(Stranger::Tag), "a member that is no end of the connection");
    }
}

#[test]
fn what_is_no_hello_of_this_version_session_and_kind_is_told_apart_at_no_cost() {
    let own = Case::new(Security::Encrypted).credentials(1);
    let (hello, _) = Case::new(Security::Encrypted).credentials(0).hello(1, [9; 16]).expect("a member");
    let changed = |at: usize| {
        let mut changed = hello;
        changed[at] ^= 1;
        own.check(&changed)
    };
    let version = WireError::Version { theirs: VERSION ^ 1, ours: VERSION };
    assert_eq!(changed(3), Err(Stranger::Wire(version)), "the same protocol, of another version");
    for at in 0..3 {
        assert_eq!(changed(at), Err(Stranger::Magic));
    }
    let numbers = 5 + 16;
    let [kind, session, from, to, epoch] = [4, 5, numbers + 3, numbers + 7, numbers + 11];
    for at in [kind, session, from, to, epoch] {
        assert_eq!(changed(at), Err(Stranger::Other), "byte {at}");
    }
    assert_eq!(own.exchanges(), 0);
}

/// Everything that two ranks may be told, or configured with, differently.
fn views(case: &Case) -> Vec<(&'static str, Case)> {
    let mut views = vec![
        ("another secret", case.with(|case| case.secret = b"fedcba9876543210")),
        ("another name", case.with(|case| case.group = "job-b")),
        ("another session", case.with(|case| case.handout.session = [8; 16])),
        ("another nonce of a third rank", case.with(|case| case.handout.members[2].nonce[3] ^= 1)),
        ("another card of a third rank", case.with(|case| case.handout.members[2].card[20] ^= 1)),
        ("no third rank", case.with(|case| drop(case.handout.members.pop()))),
        ("another order", case.with(|case| case.handout.members.swap(1, 2))),
        ("another rank once more", case.with(|case| case.handout.members.push(case.handout.members[2].clone()))),
    ];
    for (name, mode) in [("encrypted", MODES[0]), ("authenticated", MODES[1]), ("plaintext", MODES[2])] {
        if mode != case.security {
            views.push((name, case.with(|case| case.security = mode)));
        }
    }
    for (name, view) in &mut views {
        if ["another secret", "another name"].contains(name) {
            view.hand_out();
        }
    }
    views
}

#[test]
fn ranks_with_different_views_of_the_group_are_strangers() {
    for mode in MODES {
        let case = Case::new(mode);
        for (name, view) in views(&case) {
            for (low, high) in [(&case, &view), (&view, &case)] {
                let (low, high) = (low.credentials(0), high.credentials(1));
                for result in [meet(&low, &high), meet(&high, &low), cross(&low, &high)] {
                    assert!(result.is_err(), "{mode:?}: {name}");
                }
            }
        }
    }
}

#[test]
fn ranks_of_groups_that_were_crossed_are_strangers() {
    // Somebody who carries two groups with one secret gives each registration to the other group.
    let (a, b) = (
        Case::new(Security::Encrypted),
        Case::new(Security::Encrypted).with(|case| {
            case.group = "job-b";
            case.hand_out();
        }),
    );
    let crossed = |own: &Case, other: &Case| {
        own.with(|case| case.handout.members[1..].clone_from_slice(&other.handout.members[1..]))
    };
    let (zero, one) = (crossed(&a, &b).credentials(0), b.credentials(1));
    assert!(zero.roster().peers[1].card.is_none(), "a card is its group's");
    assert!(meet(&zero, &one).is_err());
    assert!(meet(&one, &zero).is_err());
}

#[test]
fn what_was_recorded_is_accepted_by_nobody() {
    for mode in MODES {
        let case = Case::new(mode);
        let (low, high) = (case.credentials(0), case.credentials(1));
        let (hello, flight) = high.hello(0, [4; 16]).expect("a member");
        let (answer, ours) = low.answer(1, [5; 16], &hello).expect("a member");
        let theirs = high.hear(&flight, &answer).expect("a member");
        let (nomination, acceptance) = (ours.nomination(false), theirs.acceptance());
        // The hello passes once more, as no number of this end is in it; the acceptance does not.
        let (_, again) = low.answer(low.check(&hello).expect("a hello"), [6; 16], &hello).expect("a member");
        assert_eq!(again.accepted(&acceptance), Err(Stranger::Tag));
        // Nor does a nomination on another stream of the higher rank, in any mode.
        let (_, fresh) = high.hello(0, [7; 16]).expect("a member");
        assert_eq!(high.hear(&fresh, &answer).expect_err("an answer to another hello"), Stranger::Tag);
        let (plain, _) = low.hello(1, [8; 16]).expect("a member");
        let proven = high.hear(&fresh, &plain).expect("a hello may be repeated");
        for recorded in [nomination, ours.nomination(true), acceptance] {
            assert_eq!(proven.nominated(&recorded), Err(Stranger::Tag));
        }
    }
}

#[test]
fn each_stream_has_its_own_keys() {
    let case = Case::new(Security::Encrypted);
    let (low, high) = (case.credentials(0), case.credentials(1));
    let keys_with = |nonce: u8| {
        let (hello, _) = high.hello(0, [nonce; 16]).expect("a member");
        let (_, ours) = low.answer(1, [5; 16], &hello).expect("a member");
        keys(ours.keep().0).expect("encrypted")
    };
    assert_ne!(keys_with(1), keys_with(2));
}

#[test]
fn the_suite_is_the_best_that_both_offer_and_nobody_can_lower_it() {
    for (has_aes, suite) in [([true, true, true], Suite::Aes256Gcm), ([true, false, true], Suite::ChaCha20Poly1305)] {
        let case = Case::new(Security::Encrypted).with(|case| {
            case.has_aes = has_aes;
            case.hand_out();
        });
        let (low, high) = meet(&case.credentials(0), &case.credentials(1)).expect("members");
        assert_eq!((low.suite, high.suite), (suite, suite));
    }
}

#[test]
fn a_key_of_low_order_is_refused() {
    let mut case = Case::new(Security::Encrypted);
    let card = Card { public: [0; 32], ..Card::sample(Security::Encrypted) };
    case.handout.members[1].card = card.seal(&case.key(), &Holder { rank: 1, size: 3, epoch: 0, nonce: &nonce(1) });
    assert!(matches!(case.credentials(0).hello(1, [4; 16]), Err(Stranger::Key(_))));
}

#[test]
fn strangers_cost_no_exchange_and_a_rank_costs_one() {
    let case = Case::new(Security::Encrypted);
    let own = case.credentials(0);
    for stranger in [[0; HELLO_BYTES], [255; HELLO_BYTES]] {
        assert!(own.check(&stranger).is_err());
    }
    assert_eq!(own.exchanges(), 0);
    let (hello, _) = case.credentials(1).hello(0, [4; 16]).expect("a member");
    for bit in HELLO_BODY_BYTES * 8..HELLO_BYTES * 8 {
        let mut forged = hello;
        forged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(own.check(&forged), Err(Stranger::Tag));
    }
    assert_eq!(own.exchanges(), 1);
}

#[test]
fn nothing_of_a_secret_is_printed() {
    let case = Case::new(Security::Encrypted);
    let own = case.credentials(0);
    let (proven, _) = meet(&own, &case.credentials(1)).expect("members");
    let (protection, chain) = proven.keep();
    let shown = format!("{own:?} {protection:?} {chain:?}");
    assert!(shown.contains("KeyBytes(..)") && !shown.contains(&format!("{:?}", [1; 32])), "{shown}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The transcript of one stream, of fixed inputs; cards are what they are sealed to, here 60 bytes of one value.
fn transcript() -> String {
    let mut case = Case::new(Security::Encrypted);
    let opened = Roster::open(&case.key(), &case.handout).expect("of this version").peers;
    for (member, byte) in case.handout.members.iter_mut().zip(0..) {
        member.card = vec![byte; 60];
    }
    let credentials = |rank| {
        let digest = Roster::open(&case.key(), &case.handout).expect("of this version").digest;
        let roster = Roster { session: [9; 16], epoch: 0, digest, peers: opened.clone() };
        Credentials::new(&case.key(), key_pair(rank), Security::Encrypted, roster, rank, None)
    };
    let (low, high) = (credentials(0), credentials(1));
    let (low_hello, low_flight) = low.hello(1, [4; 16]).expect("a member");
    let (high_hello, high_flight) = high.hello(0, [5; 16]).expect("a member");
    let (ours, theirs) =
        (low.hear(&low_flight, &high_hello).expect("a member"), high.hear(&high_flight, &low_hello).expect("a member"));
    let (answer, answered) = high.answer(0, [5; 16], &low_hello).expect("a member");
    let mut text = String::new();
    let mut line = |name: &str, bytes: &[u8]| text.push_str(&format!("{name}: {}\n", hex(bytes)));
    line("id", &case.key().id());
    line("roster", &low.roster().digest);
    line("pair", low.pair(1).expect("a member").key.as_bytes());
    line("hello of rank 0", &low_hello);
    line("hello of rank 1", &high_hello);
    line("answer of rank 1", &answer);
    line("transcript", &ours.transcript);
    line("transcript with the answer", &answered.transcript);
    line("nomination", &ours.nomination(false));
    line("settlement", &ours.nomination(true));
    line("acceptance", &theirs.acceptance());
    let (protection, chain) = ours.keep();
    let (_, keys) = protection.expect("encrypted");
    line("up", keys.send.as_bytes());
    line("down", keys.receive.as_bytes());
    line("chain", chain.0.as_bytes());
    text
}

#[test]
fn the_transcript_is_the_one_that_was_written_down() {
    let expected = include_str!("../handshake.txt");
    let now = transcript();
    assert_eq!(now, expected, "the handshake has changed: raise `wire::VERSION`, and run fmi/proto/tests/handshake.py");
}

proptest! {
    /// Every bit of all that is said, and of each card: changed, it makes a stranger, never a weaker stream.
    #[test]
    fn any_changed_bit_is_noticed(place in 0..5usize, bit in any::<prop::sample::Index>(), mode in 0..3usize) {
        let case = Case::new(MODES[mode]);
        let flip = |bytes: &mut [u8]| {
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        };
        let mut view = case.clone();
        if place == 0 {
            flip(&mut view.handout.members[1].card);
        }
        let (low, high) = (view.credentials(0), case.credentials(1));
        let run = || -> Result<(), Stranger> {
            let (mut hello, flight) = high.hello(0, [4; 16])?;
            if place == 1 {
                flip(&mut hello);
            }
            let (mut answer, ours) = low.answer(low.check(&hello)?, [5; 16], &hello)?;
            if place == 2 {
                flip(&mut answer);
            }
            let theirs = high.hear(&flight, &answer)?;
            let mut nomination = ours.nomination(false);
            if place == 3 {
                flip(&mut nomination);
            }
            theirs.nominated(&nomination)?;
            let mut acceptance = theirs.acceptance();
            if place == 4 {
                flip(&mut acceptance);
            }
            ours.accepted(&acceptance)
        };
        prop_assert!(run().is_err());
    }
}
