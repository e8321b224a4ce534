//! A store in memory that clients of Redis can use: bodies, counters and lists under keys that expire. Bounded: what does
//! not fit is refused, and nothing is dropped before its time.
//!
//! A driver gives each client a number, has what it sends put into [`room`](Server::room), and says so ([`Input::Filled`]). A
//! client that does not take its answers is not read ([`Server::room`] is `None`), is asked for nothing else, and is closed
//! after [`STALL_MAX`]. All that clients hold counts as memory: what they have sent of a request, answers that were copied for
//! them, and requests of a transaction. A body that was removed lives on in an answer that carries it.
//!
//! Commands, their answers and their errors are those of Redis 7.0, as far as they exist ([`COMMANDS`]). There is one database.
//! Times of day are not known here, so that ends are given in seconds or milliseconds from now alone.

mod blocked;
mod commands;
mod connection;
mod glob;
mod keys;
mod keyspace;
mod lists;
mod publish;
mod strings;
mod transaction;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use bytes::buf::Limit;
use fmi_net::time::Instant;

use self::blocked::Wait;
use self::commands::{Arguments, Command};
use self::keyspace::Keyspace;
use self::transaction::Transaction;
use crate::key::Secret;
use crate::resp::{Answer, Limits, Reader};

pub use commands::COMMANDS;

/// A client that is within a request, or has answers waiting, and moves no byte for this long, is closed.
pub const STALL_MAX: Duration = Duration::from_secs(60);
/// A client that has not said the password for this long is closed.
pub const STRANGER_MAX: Duration = Duration::from_secs(10);
/// With so many bytes of answers waiting, a client's next request has to wait, too.
const ANSWERS_BYTES_MAX: usize = 16 << 20;
/// A subscriber for whom so many bytes wait is closed: what is published has no other bound.
const PUSHED_BYTES_MAX: usize = 32 << 20;
/// What a client that waits for a list may have sent ahead.
const AHEAD_BYTES_MAX: usize = 64 << 10;
/// Copies of answers may have this part of all memory, and then one answer of each client more.
const COPIES_PART: usize = 8;
/// Entries whose time is over that are removed in one go.
const EXPIRED_AT_ONCE: usize = 1024;

/// A client of the store. Numbers are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::exhaustive_structs, reason = "a number")]
pub struct Client(pub u64);

/// What a store is given.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreConfig {
    /// All that it may hold.
    pub memory_bytes_max: usize,
    /// Connections at the same time; what comes beyond them is told so.
    pub clients_max: usize,
    /// What clients have to say first. Without it, whoever reaches the store reads and writes everything.
    pub password: Option<Secret>,
}

impl Default for StoreConfig {
    /// 1 GiB for 32,768 clients without a password.
    fn default() -> Self {
        Self { memory_bytes_max: 1 << 30, clients_max: 1 << 15, password: None }
    }
}

/// What happens to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a driver makes them")]
pub enum Input {
    /// A client has connected.
    Opened,
    /// Bytes of it were put into its room.
    Filled,
    /// So many bytes for it are on their way.
    Sent(usize),
    /// It is gone.
    Closed,
}

/// What a server wants.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a driver acts on each")]
pub enum Output {
    /// Send this to a client, behind all that was sent before.
    Send(Client, Bytes),
    /// Close a client; what it has not taken may be lost.
    Close(Client),
}

/// Why a command failed: a kind and a text, as clients know them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure(Cow<'static, [u8]>);

impl Failure {
    const WRONG_TYPE: Self = Self::of("WRONGTYPE Operation against a key holding the wrong kind of value");
    const SYNTAX: Self = Self::of("ERR syntax error");
    const INTEGER: Self = Self::of("ERR value is not an integer or out of range");
    const OUT_OF_MEMORY: Self = Self::of("OOM command not allowed when used memory > 'maxmemory'.");

    const fn of(text: &'static str) -> Self {
        Self(Cow::Borrowed(text.as_bytes()))
    }

    /// With what a client has said, byte by byte.
    fn said(text: impl Into<Vec<u8>>) -> Self {
        Self(Cow::Owned(text.into()))
    }
}

/// An answer was written, or there is none.
type Done = Result<(), Failure>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Watch {
    /// A wait for a list ends.
    Wait,
    /// Has it moved a byte?
    Stall,
    /// Has it said the password?
    Stranger,
}

#[derive(Debug)]
struct State {
    reader: Reader,
    is_known: bool,
    is_resp3: bool,
    name: Bytes,
    wait: Option<Wait>,
    transaction: Option<Transaction>,
    channels: BTreeSet<Bytes>,
    /// What it is sent and has not taken, and what that costs beside bodies that are shared.
    queued: usize,
    copied: usize,
    /// What its reader holds.
    held: usize,
    /// It is closed once it has taken its answers.
    is_leaving: bool,
    moved_at: Instant,
    opened_at: Instant,
    /// When it is looked at, if it is.
    look_at: Option<Instant>,
}

/// The server.
pub struct Server {
    memory_bytes_max: usize,
    clients_max: usize,
    password: Option<blake3::Hash>,
    keyspace: Keyspace,
    clients: BTreeMap<Client, State>,
    /// The clients that wait for each list, in the order of arrival.
    waiting: BTreeMap<Bytes, BTreeSet<(u64, Client)>>,
    waits: u64,
    /// Lists that somebody waits for and that were added to.
    fed: Vec<Bytes>,
    /// Clients that are done with waiting, and may have sent more meanwhile.
    resumed: VecDeque<Client>,
    channels: BTreeMap<Bytes, BTreeSet<Client>>,
    watches: BTreeSet<(Instant, Client, Watch)>,
    /// Sums over all clients.
    held: usize,
    copied: usize,
    /// What is kept of requests: those put off, what is waited for, channels.
    kept: usize,
    /// Answers to the client whose requests are being carried out.
    answer: Answer,
    current: Option<Client>,
    spare: Vec<u8>,
    outputs: VecDeque<Output>,
    now: Instant,
    started_at: Option<Instant>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (clients, used) = (self.clients.len(), self.used());
        f.debug_struct("Server").field("clients", &clients).field("used", &used).finish_non_exhaustive()
    }
}

impl Server {
    /// An empty store. The seed keeps clients from choosing keys that are hard to find.
    pub fn new(config: &StoreConfig, seed: [u64; 2]) -> Self {
        Self {
            memory_bytes_max: config.memory_bytes_max,
            clients_max: config.clients_max,
            password: config.password.as_ref().map(|password| blake3::hash(password.as_bytes())),
            keyspace: Keyspace::new(seed),
            clients: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waits: 0,
            fed: Vec::new(),
            resumed: VecDeque::new(),
            channels: BTreeMap::new(),
            watches: BTreeSet::new(),
            held: 0,
            copied: 0,
            kept: 0,
            answer: Answer::default(),
            current: None,
            spare: Vec::new(),
            outputs: VecDeque::new(),
            now: Instant::ZERO,
            started_at: None,
        }
    }

    /// All that it holds, in bytes.
    pub fn used(&self) -> usize {
        self.keyspace.used() + self.held + self.copied + self.kept
    }

    /// The number of its clients.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Where the next bytes of a client go; `None` as long as it is not to be read.
    pub fn room(&mut self, client: Client) -> Option<Limit<&mut Vec<u8>>> {
        let state = self.clients.get(&client)?;
        let is_ahead = state.wait.is_some() && state.reader.held() >= AHEAD_BYTES_MAX;
        if state.is_leaving || is_ahead || !self.may_go_on(state) {
            return None;
        }
        let state = self.clients.get_mut(&client)?;
        Some(state.reader.room(&mut self.spare))
    }

    /// Whether a client has taken its answers far enough for the next one.
    fn may_go_on(&self, state: &State) -> bool {
        // What has just been said is not counted yet.
        let queued = state.queued + self.answer.len();
        let has_memory = self.copied + self.answer.copied() < self.memory_bytes_max / COPIES_PART;
        queued == 0 || (queued < ANSWERS_BYTES_MAX && has_memory)
    }

    /// Notes the time. What is over by then is not there.
    fn tick(&mut self, now: Instant) {
        self.now = now;
        self.started_at.get_or_insert(now);
        self.keyspace.set_now(now);
    }

    /// Takes an input. One of a client that is not known has come too late, and is ignored.
    pub fn handle_input(&mut self, now: Instant, client: Client, input: Input) {
        self.tick(now);
        if let Input::Opened = input {
            return self.open(client);
        }
        let Some(state) = self.clients.get_mut(&client) else { return };
        match input {
            Input::Opened => {}
            Input::Closed => return self.remove(client),
            Input::Filled => {
                state.moved_at = now;
                self.go_on(client);
            }
            Input::Sent(count) => {
                state.moved_at = now;
                state.queued = state.queued.saturating_sub(count);
                if state.queued == 0 {
                    self.copied -= std::mem::take(&mut state.copied);
                }
                if state.queued == 0 && state.is_leaving {
                    return self.close(client);
                }
                self.go_on(client);
            }
        }
        self.go_on_with_resumed();
    }

    /// Those who have waited may have sent more meanwhile, by which others may go on.
    fn go_on_with_resumed(&mut self) {
        while let Some(client) = self.resumed.pop_front() {
            self.go_on(client);
        }
    }

    fn open(&mut self, client: Client) {
        if self.clients.len() >= self.clients_max {
            self.outputs.push_back(Output::Send(client, Bytes::from_static(b"-ERR max number of clients reached\r\n")));
            self.outputs.push_back(Output::Close(client));
            return;
        }
        let is_known = self.password.is_none();
        if !is_known {
            self.watches.insert((self.now + STRANGER_MAX, client, Watch::Stranger));
        }
        let state = State {
            reader: Reader::default(),
            is_known,
            is_resp3: false,
            name: Bytes::new(),
            wait: None,
            transaction: None,
            channels: BTreeSet::new(),
            queued: 0,
            copied: 0,
            held: 0,
            is_leaving: false,
            moved_at: self.now,
            opened_at: self.now,
            look_at: None,
        };
        self.clients.insert(client, state);
    }

    /// Forgets a client. What was popped for it is gone with it, as it is once an answer is on its way.
    fn remove(&mut self, client: Client) {
        self.leave_channels(client);
        let Some(mut state) = self.clients.remove(&client) else { return };
        if let Some(wait) = state.wait.take() {
            self.stop_waiting(client, &wait);
        }
        if let Some(transaction) = state.transaction.take() {
            self.kept -= transaction.bytes;
        }
        self.watches.remove(&(state.opened_at + STRANGER_MAX, client, Watch::Stranger));
        if let Some(at) = state.look_at {
            self.watches.remove(&(at, client, Watch::Stall));
        }
        self.held -= state.held;
        self.copied -= state.copied;
    }

    fn close(&mut self, client: Client) {
        self.remove(client);
        self.outputs.push_back(Output::Close(client));
    }

    /// Closes a client once it has taken its answers.
    fn leave(&mut self, client: Client) {
        if let Some(state) = self.clients.get_mut(&client) {
            state.is_leaving = true;
        }
    }

    /// Carries out what a client has sent, as far as it may go on.
    fn go_on(&mut self, client: Client) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        let mut reader = std::mem::take(&mut state.reader);
        self.held -= std::mem::take(&mut state.held);
        self.current = Some(client);
        self.answer.set_resp3(state.is_resp3);
        while let Some(state) = self.clients.get(&client) {
            if state.is_leaving || state.wait.is_some() || !self.may_go_on(state) {
                break;
            }
            let held_bytes_max = self.memory_bytes_max.saturating_sub(self.used());
            match reader.next(Limits { is_known: state.is_known, held_bytes_max }) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.answer.error(error.to_string().as_bytes());
                    self.leave(client);
                    break;
                }
            }
            self.execute(client, &mut reader);
            reader.finish();
            self.feed();
        }
        self.flush();
        self.current = None;
        reader.tidy(&mut self.spare);
        let Some(state) = self.clients.get_mut(&client) else { return };
        state.held = reader.held();
        state.reader = reader;
        self.held += state.held;
        if state.is_leaving && state.queued == 0 {
            return self.close(client);
        }
        if state.copied > 0 && self.used() > 2 * self.memory_bytes_max {
            // Its answer is larger than there is memory for.
            return self.close(client);
        }
        self.watch(client);
    }

    /// Has a client looked at later, if it has begun something.
    fn watch(&mut self, client: Client) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        if state.look_at.is_none() && state.is_busy() {
            let at = state.moved_at + STALL_MAX;
            state.look_at = Some(at);
            self.watches.insert((at, client, Watch::Stall));
        }
    }

    /// Sends what was said to the current client.
    fn flush(&mut self) {
        if self.answer.is_empty() {
            return;
        }
        let (parts, copied) = self.answer.take();
        let Some(client) = self.current else { return };
        let Some(state) = self.clients.get_mut(&client) else { return };
        if state.queued == 0 {
            // However long it has been silent, it could not take anything before.
            state.moved_at = self.now;
        }
        state.queued += parts.iter().map(Bytes::len).sum::<usize>();
        state.copied += copied;
        self.copied += copied;
        self.outputs.extend(parts.into_iter().map(|part| Output::Send(client, part)));
    }

    /// Says something to another client than the current one, or to it, at once.
    fn tell(&mut self, client: Client, say: impl FnOnce(&mut Answer)) {
        let Some(is_resp3) = self.clients.get(&client).map(|state| state.is_resp3) else { return };
        self.flush();
        let current = self.current.replace(client);
        let currents = self.answer.is_resp3();
        self.answer.set_resp3(is_resp3);
        say(&mut self.answer);
        self.flush();
        self.answer.set_resp3(currents);
        self.current = current;
        self.watch(client);
    }

    /// Carries out a request.
    fn execute(&mut self, client: Client, reader: &mut Reader) {
        let held = reader.held();
        let done = if reader.is_oversized() {
            Err(Failure::OUT_OF_MEMORY)
        } else {
            commands::find(reader).and_then(|command| {
                let admitted = command.check(reader.len()).and_then(|()| self.admit(client, command, held));
                if let (Err(Failure(text)), true) = (&admitted, command.is_exec()) {
                    self.end_transaction(client);
                    let why = text.strip_prefix(b"ERR ").unwrap_or(text);
                    return Err(Failure::said([b"EXECABORT Transaction discarded because of: ", why].concat()));
                }
                admitted?;
                let has_begun = self.clients.get(&client).is_some_and(|state| state.transaction.is_some());
                if has_begun && !command.is_said_at_once() {
                    return self.put_off(client, command, reader);
                }
                self.run(client, command, Arguments::Read(reader), false)
            })
        };
        let Err(Failure(text)) = done else { return };
        if let Some(transaction) = self.clients.get_mut(&client).and_then(|state| state.transaction.as_mut()) {
            transaction.is_broken = true;
        }
        self.answer.error(&text);
    }

    /// Whether a client may have a command carried out, `held` bytes of whose requests are not counted yet.
    fn admit(&self, client: Client, command: &'static Command, held: usize) -> Done {
        let Some(state) = self.clients.get(&client) else { return Ok(()) };
        if !state.is_known && !command.is_for_strangers() {
            return Err(Failure::of("NOAUTH Authentication required."));
        }
        if state.transaction.is_some() && command.is_never_put_off() {
            return Err(Failure::of("ERR Command not allowed inside a transaction"));
        }
        if command.needs_memory() && self.used() + held > self.memory_bytes_max {
            return Err(Failure::OUT_OF_MEMORY);
        }
        if !state.channels.is_empty() && !state.is_resp3 && !command.is_for_subscribers() {
            let name = command.name;
            return Err(Failure::said(format!(
                "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
                 this context"
            )));
        }
        Ok(())
    }

    /// Lets time pass: what is over goes, waits end, and clients that stall are closed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tick(now);
        self.keyspace.expire(EXPIRED_AT_ONCE);
        while let Some((at, client, watch)) = self.watches.first().copied().filter(|(at, ..)| *at <= now) {
            self.watches.remove(&(at, client, watch));
            match watch {
                Watch::Wait => self.give_up_waiting(client),
                Watch::Stranger => {
                    if self.clients.get(&client).is_some_and(|state| !state.is_known) {
                        self.close(client);
                    }
                }
                Watch::Stall => self.look(client),
            }
        }
        self.go_on_with_resumed();
    }

    fn look(&mut self, client: Client) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        state.look_at = None;
        if state.is_busy() && self.now >= state.moved_at + STALL_MAX {
            self.close(client);
        } else {
            self.watch(client);
        }
    }

    /// What is to be done, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let why = |watch| match watch {
            Watch::Wait => "a wait ends",
            Watch::Stall => "a client may stall",
            Watch::Stranger => "a client has to say the password",
        };
        let watch = self.watches.first().map(|(at, _, watch)| (*at, why(*watch)));
        let end = self.keyspace.next_deadline().map(|at| (at, "an entry ends"));
        watch.into_iter().chain(end).min()
    }
}

impl State {
    /// Whether it has begun something that it can stall in.
    fn is_busy(&self) -> bool {
        self.queued > 0 || (self.wait.is_none() && self.reader.is_within())
    }
}

#[cfg(test)]
mod tests;
