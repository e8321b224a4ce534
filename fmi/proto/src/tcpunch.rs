//! The server side of the original FMI's pairing protocol (TCPunch), so that its clients can be served. Pure.
//!
//! # Bytes
//!
//! | from | bytes | meaning |
//! |---|---|---|
//! | client | 1 to 100 | name of the pairing, without a length; trailing zeros do not count |
//! | server | 8 | where it sees the client: IPv4 address (4), port (2), both in network order, padding (2) |
//! | server | 8 | the same of the other client of that name, once it is there |
//!
//! A client that has the second answer connects to the peer from the port that the first one shows.
//!
//! The protocol proves nothing: anyone who knows a pair's name can join it. The faults of its first server are not
//! repeated: a silent client holds up nobody, a name whose client is gone is free again, names and clients are
//! bounded in number and time, and a name that comes in two segments is one name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddrV4;
use std::time::Duration;

use fmi_net::time::Instant;

/// Longest name.
pub const NAME_BYTES_MAX: usize = 100;
/// Length of an answer.
pub const ANSWER_BYTES: usize = 8;
/// A name has ended when nothing more came for this long: it has no length on the wire.
const NAME_PAUSE: Duration = Duration::from_millis(20);
/// A client that has not said a name after this time is closed.
const NAME_WITHIN: Duration = Duration::from_secs(5);
/// A client whose peer has not come after this time is closed; the longest that clients of the field wait is
/// two minutes.
const WAIT_MAX: Duration = Duration::from_secs(180);
/// A paired client closes by itself, or is closed after this time.
const LINGER: Duration = Duration::from_secs(5);
/// Most clients at once.
pub const CLIENTS_MAX: usize = 1024;

/// A client's connection, numbered by the driver and never reused.
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
    Naming(Vec<u8>),
    Waiting(Vec<u8>),
    Paired,
}

#[derive(Debug)]
struct Client {
    from: SocketAddrV4,
    state: State,
    deadline: Instant,
}

/// The server's state.
#[derive(Debug, Default)]
pub struct Server {
    clients: BTreeMap<Connection, Client>,
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

impl Server {
    /// Makes a server without clients.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what happened to `connection`.
    pub fn handle_input(&mut self, now: Instant, connection: Connection, input: Input) {
        match input {
            Input::Opened(from) => {
                if self.clients.len() >= CLIENTS_MAX || self.clients.contains_key(&connection) {
                    self.outputs.push_back(Output::Close(connection));
                    return;
                }
                let deadline = now + NAME_WITHIN;
                self.clients.insert(connection, Client { from, state: State::Naming(Vec::new()), deadline });
                self.deadlines.insert((deadline, connection));
            }
            Input::Closed => self.forget(connection),
            Input::Bytes(bytes) => self.name(now, connection, &bytes),
        }
    }

    /// Ends names and waits that are due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, connection)) = self.deadlines.first() {
            if at > now {
                break;
            }
            let client = self.clients.get_mut(&connection).expect("deadlines are those of clients");
            let name = match &mut client.state {
                State::Naming(name) if !name.is_empty() => std::mem::take(name),
                State::Naming(_) | State::Waiting(_) | State::Paired => {
                    self.outputs.push_back(Output::Close(connection));
                    self.forget(connection);
                    continue;
                }
            };
            self.pair(now, connection, name);
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.deadlines.first().map(|(at, _)| (*at, "a name ends, or a client has waited long enough"))
    }

    /// Clients that are connected.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    fn set_deadline(&mut self, connection: Connection, at: Instant) {
        if let Some(client) = self.clients.get_mut(&connection) {
            self.deadlines.remove(&(client.deadline, connection));
            client.deadline = at;
            self.deadlines.insert((at, connection));
        }
    }

    fn name(&mut self, now: Instant, connection: Connection, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(&connection) else { return };
        // What comes after the name has no meaning.
        let State::Naming(name) = &mut client.state else { return };
        let room = NAME_BYTES_MAX - name.len();
        name.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if name.len() == NAME_BYTES_MAX {
            let name = std::mem::take(name);
            return self.pair(now, connection, name);
        }
        self.set_deadline(connection, now + NAME_PAUSE);
    }

    fn pair(&mut self, now: Instant, connection: Connection, mut name: Vec<u8>) {
        while name.last() == Some(&0) {
            name.pop();
        }
        let from = self.clients[&connection].from;
        if name.is_empty() {
            // Clients that say nothing would all have one name.
            self.outputs.push_back(Output::Close(connection));
            return self.forget(connection);
        }
        self.outputs.push_back(Output::Send(connection, answer(from)));
        if let Some(peer) = self.waiting.remove(&name) {
            let ends = [(connection, self.clients[&peer].from), (peer, from)];
            for (end, other) in ends {
                self.outputs.push_back(Output::Send(end, answer(other)));
                self.clients.get_mut(&end).expect("both are there").state = State::Paired;
                self.set_deadline(end, now + LINGER);
            }
            return;
        }
        self.waiting.insert(name.clone(), connection);
        self.clients.get_mut(&connection).expect("the caller knows it").state = State::Waiting(name);
        self.set_deadline(connection, now + WAIT_MAX);
    }

    fn forget(&mut self, connection: Connection) {
        let Some(client) = self.clients.remove(&connection) else { return };
        self.deadlines.remove(&(client.deadline, connection));
        if let State::Waiting(name) = client.state {
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

        fn input(&mut self, connection: u64, input: Input) {
            self.server.handle_input(self.now, Connection(connection), input);
        }

        fn open(&mut self, connection: u64, name: &[u8]) {
            self.input(connection, Input::Opened(endpoint(u16::try_from(connection).expect("small"))));
            self.input(connection, Input::Bytes(name.to_vec()));
        }

        fn wait(&mut self, time: Duration) -> Vec<Output> {
            self.now += time;
            self.server.handle_timeout(self.now);
            std::iter::from_fn(|| self.server.poll_output()).collect()
        }
    }

    fn told(to: u64, port: u16) -> Output {
        let [high, low] = port.to_be_bytes();
        Output::Send(Connection(to), [203, 0, 113, 9, high, low, 0, 0])
    }

    #[test]
    fn two_clients_of_one_name_learn_of_each_other() {
        let mut bench = Bench::new();
        bench.open(1, b"pair");
        assert_eq!(bench.wait(NAME_PAUSE), [told(1, 1)]);
        bench.open(2, b"other");
        bench.open(3, b"pair\0\0");
        assert_eq!(bench.wait(NAME_PAUSE), [told(2, 2), told(3, 3), told(3, 1), told(1, 3)]);
    }

    #[test]
    fn a_name_in_two_segments_is_one_name_and_a_full_one_ends_at_once() {
        let mut bench = Bench::new();
        bench.open(1, b"pa");
        bench.wait(NAME_PAUSE / 2);
        bench.input(1, Input::Bytes(b"ir".to_vec()));
        bench.open(2, b"pair");
        assert_eq!(bench.wait(NAME_PAUSE).len(), 4);
        let long = [b'x'; NAME_BYTES_MAX + 20];
        bench.open(3, &long);
        assert_eq!(bench.server.poll_output(), Some(told(3, 3)));
    }

    #[test]
    fn a_client_that_is_gone_does_not_poison_its_name() {
        let mut bench = Bench::new();
        bench.open(1, b"pair");
        bench.wait(NAME_PAUSE);
        bench.input(1, Input::Closed);
        bench.open(2, b"pair");
        assert_eq!(bench.wait(NAME_PAUSE), [told(2, 2)], "it waits for a living one");
        bench.open(3, b"pair");
        assert_eq!(bench.wait(NAME_PAUSE).len(), 3);
    }

    #[test]
    fn a_silent_client_holds_up_nobody_and_expires() {
        let mut bench = Bench::new();
        bench.input(1, Input::Opened(endpoint(1)));
        bench.open(2, b"pair");
        bench.open(3, b"pair");
        assert_eq!(bench.wait(NAME_PAUSE).len(), 4);
        assert!(bench.wait(NAME_WITHIN).contains(&Output::Close(Connection(1))));
        bench.open(4, b"alone");
        bench.wait(NAME_PAUSE);
        assert_eq!(bench.wait(WAIT_MAX), [Output::Close(Connection(4))]);
        bench.open(5, &[0, 0]);
        assert_eq!(bench.wait(NAME_PAUSE), [Output::Close(Connection(5))], "no name is no common name");
        assert_eq!(bench.server.clients(), 0);
    }

    proptest! {
        #[test]
        fn tables_stay_bounded_and_empty_when_all_are_gone(
            script in proptest::collection::vec((0u64..8, 0u8..4, proptest::collection::vec(0u8..3, 0..4)), 0..60),
        ) {
            let mut bench = Bench::new();
            for (connection, action, bytes) in script {
                match action {
                    0 => bench.input(connection, Input::Opened(endpoint(1))),
                    1 => bench.input(connection, Input::Bytes(bytes)),
                    2 => bench.input(connection, Input::Closed),
                    _ => { bench.wait(Duration::from_millis(15)); }
                }
                prop_assert!(bench.server.waiting.len() <= bench.server.clients.len());
                prop_assert_eq!(bench.server.deadlines.len(), bench.server.clients.len());
            }
            bench.wait(WAIT_MAX + NAME_WITHIN);
            bench.wait(WAIT_MAX);
            prop_assert_eq!((bench.server.clients.len(), bench.server.waiting.len()), (0, 0));
        }
    }
}
