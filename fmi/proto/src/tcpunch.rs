//! The server side of the original FMI's pairing protocol (TCPunch), so that its clients can be served. Pure.
//!
//! # Bytes
//!
//! | from | bytes | meaning |
//! |---|---|---|
//! | client | 1 to 100 | name of the pairing, without a length; it ends before the first zero, if there is one |
//! | server | 8 | where it sees the client: IPv4 address (4), port (2), both in network order, padding (2) |
//! | server | 8 | the same of the other client of that name, once it is there |
//!
//! A client that has the second answer connects to the peer from the port that the first one shows. The server closes
//! both connections then; the clients of the original never do.
//!
//! A name has no length, so that nobody knows whether more of it is to come. It is taken as it is, as the clients send it
//! in one segment and wait for the answer; what comes later lengthens the name of a client that still waits. Only a name
//! that was cut just where another one ends is mistaken for that.
//!
//! The protocol proves nothing: anyone who knows a pair's name can join it. The faults of its first server are not
//! repeated: a silent client holds up nobody, a name whose client is gone is free again, names and clients are
//! bounded in number and time, and so are the bytes of a client. When all places are taken, the network that holds most
//! of them [gives way](Places).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddrV4;
use std::time::Duration;

use crate::places::Places;
use fmi_net::time::Instant;

/// Longest name.
pub const NAME_BYTES_MAX: usize = 100;
/// Length of an answer.
pub const ANSWER_BYTES: usize = 8;
/// Most bytes of a client, its name among them; one that sends more is closed.
pub const CLIENT_BYTES_MAX: usize = 1024;
/// A client that has not said a name after this time is closed.
const NAME_WITHIN: Duration = Duration::from_secs(5);
/// A client whose peer has not come after this time is closed; the longest that clients of the field wait is
/// two minutes.
const WAIT_MAX: Duration = Duration::from_secs(180);
/// Most clients at once, those that are paired not counted. A rank of the original has one at a time.
pub const CLIENTS_MAX: usize = 8192;

/// A client's connection, numbered by the driver in order and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection(pub u64);

/// What happened to a connection.
#[derive(Clone, Debug)]
pub enum Input {
    /// It was accepted.
    Opened(SocketAddrV4),
    /// It sent bytes.
    Bytes(Vec<u8>),
    /// It ended.
    Closed,
}

/// What to do with a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send an answer.
    Send(Connection, [u8; ANSWER_BYTES]),
    /// Close it after what was sent. The driver reports no `Closed` for it.
    Close(Connection),
}

#[derive(Debug)]
enum State {
    /// Has not said a name.
    Silent,
    /// Waits under a name that may go on.
    Naming(Vec<u8>),
    /// Waits under a name that is complete.
    Named(Vec<u8>),
}

#[derive(Debug)]
struct Client {
    from: SocketAddrV4,
    state: State,
    /// Bytes that it may still send.
    bytes_left: usize,
    deadline: Instant,
}

/// The server's state.
#[derive(Debug)]
pub struct Server {
    clients_max: usize,
    clients: BTreeMap<Connection, Client>,
    places: Places<Connection>,
    waiting: BTreeMap<Vec<u8>, Connection>,
    deadlines: BTreeSet<(Instant, Connection)>,
    outputs: VecDeque<Output>,
}

/// An endpoint as the protocol has it.
fn answer(endpoint: SocketAddrV4) -> [u8; ANSWER_BYTES] {
    let mut bytes = [0; ANSWER_BYTES];
    bytes[..4].copy_from_slice(&endpoint.ip().octets());
    bytes[4..6].copy_from_slice(&endpoint.port().to_be_bytes());
    bytes
}

/// Adds what belongs to a name; whether that completes it.
fn lengthen(name: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let end = bytes.iter().position(|byte| *byte == 0);
    let more = &bytes[..end.unwrap_or(bytes.len())];
    name.extend_from_slice(&more[..more.len().min(NAME_BYTES_MAX - name.len())]);
    end.is_some() || name.len() == NAME_BYTES_MAX
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    /// Makes a server that has at most [`CLIENTS_MAX`] clients.
    pub fn new() -> Self {
        Self::with_clients_max(CLIENTS_MAX)
    }

    /// Makes a server that has at most so many clients at once.
    pub fn with_clients_max(clients_max: usize) -> Self {
        Self {
            clients_max,
            clients: BTreeMap::new(),
            places: Places::default(),
            waiting: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes what happened to `connection`.
    pub fn handle_input(&mut self, now: Instant, connection: Connection, input: Input) {
        match input {
            Input::Opened(from) => self.open(now, connection, from),
            Input::Closed => self.forget(connection),
            Input::Bytes(bytes) => self.hear(now, connection, &bytes),
        }
    }

    /// Ends what has waited until `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, connection)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.close(connection);
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.deadlines.first().map(|(at, _)| (*at, "a client has waited long enough"))
    }

    /// Clients that are connected and not paired.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    fn open(&mut self, now: Instant, connection: Connection, from: SocketAddrV4) {
        if self.clients.contains_key(&connection) {
            return;
        }
        if self.clients.len() >= self.clients_max {
            let Some(evicted) = self.places.yields_to((*from.ip()).into()) else {
                return self.outputs.push_back(Output::Close(connection));
            };
            self.close(evicted);
        }
        let deadline = now + NAME_WITHIN;
        self.clients.insert(connection, Client { from, state: State::Silent, bytes_left: CLIENT_BYTES_MAX, deadline });
        self.places.take((*from.ip()).into(), connection);
        self.deadlines.insert((deadline, connection));
    }

    fn hear(&mut self, now: Instant, connection: Connection, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(&connection) else { return };
        let Some(left) = client.bytes_left.checked_sub(bytes.len()) else { return self.close(connection) };
        client.bytes_left = left;
        let from = client.from;
        let mut name = match std::mem::replace(&mut client.state, State::Silent) {
            State::Silent => Vec::new(),
            State::Naming(name) => name,
            // What comes after the name has no meaning.
            named @ State::Named(_) => return client.state = named,
        };
        let is_first = name.is_empty();
        self.waiting.remove(&name);
        let is_complete = lengthen(&mut name, bytes);
        if name.is_empty() {
            if is_complete {
                // Clients that say nothing would all have one name.
                self.close(connection);
            }
            return;
        }
        if is_first {
            self.outputs.push_back(Output::Send(connection, answer(from)));
            self.set_deadline(connection, now + WAIT_MAX);
        }
        match self.waiting.get(&name).copied() {
            Some(peer) => self.pair(connection, peer),
            None => self.wait(connection, name, is_complete),
        }
    }

    fn wait(&mut self, connection: Connection, name: Vec<u8>, is_complete: bool) {
        let Some(client) = self.clients.get_mut(&connection) else { return };
        self.waiting.insert(name.clone(), connection);
        client.state = if is_complete { State::Named(name) } else { State::Naming(name) };
    }

    fn pair(&mut self, connection: Connection, peer: Connection) {
        let (Some(one), Some(other)) = (self.clients.get(&connection), self.clients.get(&peer)) else { return };
        for (end, seen) in [(connection, other.from), (peer, one.from)] {
            self.outputs.push_back(Output::Send(end, answer(seen)));
        }
        self.close(connection);
        self.close(peer);
    }

    fn close(&mut self, connection: Connection) {
        self.outputs.push_back(Output::Close(connection));
        self.forget(connection);
    }

    fn set_deadline(&mut self, connection: Connection, at: Instant) {
        if let Some(client) = self.clients.get_mut(&connection) {
            self.deadlines.remove(&(client.deadline, connection));
            client.deadline = at;
            self.deadlines.insert((at, connection));
        }
    }

    fn forget(&mut self, connection: Connection) {
        let Some(client) = self.clients.remove(&connection) else { return };
        self.deadlines.remove(&(client.deadline, connection));
        self.places.give_back((*client.from.ip()).into(), connection);
        if let State::Naming(name) | State::Named(name) = client.state {
            self.waiting.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new([203, 0, 113, 9].into(), port)
    }

    struct Bench {
        server: Server,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { server: Server::new(), now: Instant::ZERO }
        }

        fn input(&mut self, connection: u64, input: Input) -> Vec<Output> {
            self.server.handle_input(self.now, Connection(connection), input);
            self.outputs()
        }

        fn say(&mut self, connection: u64, bytes: &[u8]) -> Vec<Output> {
            self.input(connection, Input::Bytes(bytes.to_vec()))
        }

        fn open(&mut self, connection: u64, name: &[u8]) -> Vec<Output> {
            self.open_from(connection, [203, 0, 113, 9], name)
        }

        fn open_from(&mut self, connection: u64, ip: [u8; 4], name: &[u8]) -> Vec<Output> {
            let port = u16::try_from(connection).expect("small");
            let opened = self.input(connection, Input::Opened(SocketAddrV4::new(ip.into(), port)));
            [opened, self.say(connection, name)].concat()
        }

        fn wait(&mut self, time: Duration) -> Vec<Output> {
            self.now += time;
            self.server.handle_timeout(self.now);
            self.outputs()
        }

        fn outputs(&mut self) -> Vec<Output> {
            std::iter::from_fn(|| self.server.poll_output()).collect()
        }
    }

    fn told(to: u64, port: u16) -> Output {
        let [high, low] = port.to_be_bytes();
        Output::Send(Connection(to), [203, 0, 113, 9, high, low, 0, 0])
    }

    fn closed(connection: u64) -> Output {
        Output::Close(Connection(connection))
    }

    #[test]
    fn two_clients_of_one_name_learn_of_each_other_without_a_pause() {
        let mut bench = Bench::new();
        assert_eq!(bench.open(1, b"pair"), [told(1, 1)]);
        assert_eq!(bench.open(2, b"other"), [told(2, 2)]);
        assert_eq!(bench.open(3, b"pair\0\0"), [told(3, 3), told(3, 1), told(1, 3), closed(3), closed(1)]);
        assert_eq!(bench.server.poll_timeout().map(|(at, _)| at - bench.now), Some(WAIT_MAX), "that of client 2");
    }

    #[test]
    fn any_number_of_pairs_may_come_as_paired_clients_hold_no_place() {
        let mut bench = Bench { server: Server::with_clients_max(2), now: Instant::ZERO };
        for pair in 0..600 {
            assert_eq!(bench.open(2 * pair, b"pair").len(), 1);
            assert_eq!(bench.open(2 * pair + 1, b"pair").len(), 5, "pair {pair}");
            assert_eq!(bench.server.clients(), 0);
        }
    }

    #[test]
    fn a_name_in_several_segments_is_one_name_and_what_follows_it_is_none_of_it() {
        let mut bench = Bench::new();
        assert_eq!(bench.open(1, b"pa"), [told(1, 1)]);
        assert_eq!(bench.say(1, b"ir"), [], "it has been told where it is seen");
        assert_eq!(bench.open(2, b"pair").len(), 5);
        assert_eq!(bench.open(3, b"pair\0of nothing"), [told(3, 3)]);
        assert_eq!(bench.say(3, b"s"), []);
        assert_eq!(bench.open(4, b"pairs"), [told(4, 4)]);
        assert_eq!(bench.open(5, b"pair").len(), 5);
        let long = [b'x'; NAME_BYTES_MAX];
        assert_eq!(bench.open(6, &long), [told(6, 6)]);
        assert_eq!(bench.say(6, b"more"), []);
        assert_eq!(bench.open(7, &[b'x'; NAME_BYTES_MAX + 20]).len(), 5);
    }

    #[test]
    fn a_client_that_is_gone_does_not_poison_its_name() {
        let mut bench = Bench::new();
        bench.open(1, b"pair");
        bench.input(1, Input::Closed);
        assert_eq!(bench.open(2, b"pair"), [told(2, 2)], "it waits for a living one");
        bench.say(2, b"ed");
        assert_eq!(bench.open(3, b"pair"), [told(3, 3)], "the shorter name is free, too");
        assert_eq!(bench.open(4, b"paired").len(), 5);
    }

    #[test]
    fn a_silent_client_holds_up_nobody_and_expires() {
        let mut bench = Bench::new();
        bench.input(1, Input::Opened(endpoint(1)));
        bench.open(2, b"pair");
        assert_eq!(bench.open(3, b"pair").len(), 5);
        assert_eq!(bench.wait(NAME_WITHIN), [closed(1)]);
        bench.open(4, b"alone");
        assert_eq!(bench.wait(WAIT_MAX), [closed(4)]);
        assert_eq!(bench.open(5, &[0, 0]), [closed(5)], "no name is no common name");
        assert_eq!(bench.server.clients(), 0);
    }

    #[test]
    fn a_client_that_goes_on_talking_is_closed() {
        let mut bench = Bench::new();
        bench.open(1, &[b'x'; NAME_BYTES_MAX]);
        assert_eq!(bench.say(1, &[b'x'; CLIENT_BYTES_MAX - NAME_BYTES_MAX]), []);
        assert_eq!(bench.say(1, b"x"), [closed(1)]);
        assert_eq!(bench.open(2, &[b'x'; NAME_BYTES_MAX]), [told(2, 2)]);
    }

    #[test]
    fn one_network_may_hold_all_places_and_shuts_nobody_out() {
        let mut bench = Bench { server: Server::with_clients_max(4), now: Instant::ZERO };
        for client in 1..=4u64 {
            assert_eq!(bench.open(client, format!("alone {client}").as_bytes()).len(), 1);
        }
        assert_eq!(bench.open(5, b"alone 5"), [closed(5)], "it holds all that there is");
        let other = [198, 51, 100, 1];
        assert_eq!(bench.open_from(6, other, b"pair").first(), Some(&closed(1)), "the oldest gives way");
        assert_eq!(bench.open_from(7, other, b"pair").len(), 6, "{:?}", bench.server);
        assert_eq!(bench.server.clients(), 2);
    }

    proptest! {
        #[test]
        fn tables_stay_bounded_and_empty_when_all_are_gone(
            script in proptest::collection::vec((0u64..8, 0u8..4, proptest::collection::vec(0u8..3, 0..4)), 0..60),
        ) {
            let mut bench = Bench { server: Server::with_clients_max(5), now: Instant::ZERO };
            for (connection, action, bytes) in script {
                match action {
                    0 => bench.input(connection, Input::Opened(endpoint(1))),
                    1 => bench.input(connection, Input::Bytes(bytes)),
                    2 => bench.input(connection, Input::Closed),
                    _ => bench.wait(Duration::from_secs(3)),
                };
                let named = |client: &&Client| !matches!(client.state, State::Silent);
                let named = bench.server.clients.values().filter(named).count();
                prop_assert!(bench.server.clients() <= 5);
                prop_assert_eq!(bench.server.waiting.len(), named);
                prop_assert_eq!(bench.server.deadlines.len(), bench.server.clients.len());
            }
            bench.wait(WAIT_MAX);
            prop_assert_eq!((bench.server.clients.len(), bench.server.waiting.len()), (0, 0));
        }
    }
}
