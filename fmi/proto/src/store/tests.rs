//! Goal: commands do what a plain model does, at any time; clients share one store, wait in order, and cost each other
//! nothing. Method: a desk that feeds a server and collects what it says.

mod clients;
mod model;

use std::collections::BTreeMap;

use bytes::BufMut;

use super::*;

pub(super) const A: Client = Client(1);
pub(super) const B: Client = Client(2);
pub(super) const C: Client = Client(3);

/// A server and what it has said.
pub(super) struct Desk {
    pub(super) server: Server,
    pub(super) now: Instant,
    /// What each client was sent and has not been looked at.
    said: BTreeMap<Client, Vec<u8>>,
    pub(super) closed: Vec<Client>,
    /// Clients that take what they are sent at once.
    takes: bool,
}

pub(super) fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

impl Desk {
    pub(super) fn new(memory_bytes_max: usize) -> Self {
        Self::of(&StoreConfig { memory_bytes_max, ..StoreConfig::default() })
    }

    pub(super) fn of(config: &StoreConfig) -> Self {
        let server = Server::new(config, [7, 9]);
        Self { server, now: Instant::ZERO, said: BTreeMap::new(), closed: Vec::new(), takes: true }
    }

    /// With clients A, B and C.
    pub(super) fn open(memory_bytes_max: usize) -> Self {
        let mut desk = Self::new(memory_bytes_max);
        for client in [A, B, C] {
            desk.input(client, Input::Opened);
        }
        desk
    }

    pub(super) fn takes(&mut self, takes: bool) {
        self.takes = takes;
    }

    fn drain(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Send(client, bytes) => {
                    self.said.entry(client).or_default().extend_from_slice(&bytes);
                    if self.takes {
                        self.server.handle_input(self.now, client, Input::Sent(bytes.len()));
                    }
                }
                Output::Close(client) => self.closed.push(client),
            }
        }
    }

    pub(super) fn input(&mut self, client: Client, input: Input) {
        self.server.handle_input(self.now, client, input);
        self.drain();
    }

    /// Puts bytes into the room of a client as far as there is any; returns how many that were.
    pub(super) fn feed(&mut self, client: Client, bytes: &[u8]) -> usize {
        let mut fed = 0;
        while fed < bytes.len() {
            let Some(mut room) = self.server.room(client) else { break };
            let count = room.chunk_mut().len().min(room.remaining_mut()).min(bytes.len() - fed);
            room.put_slice(&bytes[fed..fed + count]);
            fed += count;
            self.input(client, Input::Filled);
        }
        fed
    }

    /// What a client was told since the last look.
    pub(super) fn said(&mut self, client: Client) -> String {
        String::from_utf8_lossy(&self.said.remove(&client).unwrap_or_default()).into_owned()
    }

    /// A command of words, and the answer.
    pub(super) fn ask(&mut self, client: Client, command: &str) -> String {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        let request = request(&words);
        assert_eq!(self.feed(client, &request), request.len(), "{command}");
        self.said(client)
    }

    pub(super) fn after(&mut self, passed: Duration) {
        let until = self.now + passed;
        while let Some((at, _)) = self.server.poll_timeout().filter(|(at, _)| *at <= until) {
            self.now = self.now.max(at);
            self.server.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
    }
}
