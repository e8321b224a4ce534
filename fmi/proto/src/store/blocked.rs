//! Clients that wait for a list. They are served in the order in which they came.

use std::collections::BTreeSet;

use bytes::Bytes;
use fmi_net::time::Instant;

use super::commands::Call;
use super::{Client, Done, Failure, Server, Watch};

/// A wait of one client.
#[derive(Debug)]
pub(super) struct Wait {
    keys: BTreeSet<Bytes>,
    is_at_front: bool,
    until: Option<Instant>,
    /// Its place in the order of arrival.
    number: u64,
    /// What it costs.
    bytes: usize,
}

/// What a key that is waited for costs beside its bytes.
const KEY_BYTES: usize = 160;
/// Waits that cost no more than this are taken however little memory there is.
const SMALL_WAIT_BYTES: usize = 4 << 10;

impl Server {
    pub(super) fn blpop(&mut self, call: &mut Call<'_>) -> Done {
        self.pop_or_wait(call, true)
    }

    pub(super) fn brpop(&mut self, call: &mut Call<'_>) -> Done {
        self.pop_or_wait(call, false)
    }

    fn pop_or_wait(&mut self, call: &mut Call<'_>, is_at_front: bool) -> Done {
        let last = call.len() - 1;
        let until = self.until(call.get(last))?;
        for index in 1..last {
            if let Some(element) = self.keyspace.pop(call.get(index), is_at_front)? {
                self.answer.array(2);
                self.answer.bytes(call.get(index));
                self.answer.body(&element);
                return Ok(());
            }
        }
        if call.is_in_transaction {
            self.answer.null_array();
            return Ok(());
        }
        let bytes = (1..last).map(|index| call.get(index).len() + KEY_BYTES).sum();
        if bytes > SMALL_WAIT_BYTES && self.used() + bytes > self.memory_bytes_max {
            return Err(Failure::OUT_OF_MEMORY);
        }
        let keys = (1..last).map(|index| call.take(index)).collect();
        self.waits += 1;
        self.wait(call.client, Wait { keys, is_at_front, until, number: self.waits, bytes });
        Ok(())
    }

    /// When a wait ends that may take so many seconds; 0 is any time.
    fn until(&self, seconds: &[u8]) -> Result<Option<Instant>, Failure> {
        let number = std::str::from_utf8(seconds).ok().and_then(|text| text.parse::<f64>().ok());
        let seconds = number.filter(|it| it.is_finite());
        let millis = seconds.ok_or(Failure::of("ERR timeout is not a float or out of range"))? * 1000.0;
        if millis > 9e18 {
            return Err(Failure::of("ERR timeout is out of range"));
        }
        let millis = millis.ceil();
        if millis < 0.0 {
            return Err(Failure::of("ERR timeout is negative"));
        }
        #[expect(clippy::cast_possible_truncation, reason = "it is in range")]
        let millis = millis as i64;
        Ok((millis > 0).then(|| self.in_millis(millis)))
    }

    fn wait(&mut self, client: Client, wait: Wait) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        for key in &wait.keys {
            self.waiting.entry(key.clone()).or_default().insert((wait.number, client));
        }
        if let Some(until) = wait.until {
            self.watches.insert((until, client, Watch::Wait));
        }
        self.kept += wait.bytes;
        state.wait = Some(wait);
    }

    pub(super) fn stop_waiting(&mut self, client: Client, wait: &Wait) {
        self.kept -= wait.bytes;
        for key in &wait.keys {
            if let Some(waiting) = self.waiting.get_mut(key) {
                waiting.remove(&(wait.number, client));
                if waiting.is_empty() {
                    self.waiting.remove(key);
                }
            }
        }
        if let Some(until) = wait.until {
            self.watches.remove(&(until, client, Watch::Wait));
        }
    }

    /// Ends the wait of a client, which may then go on.
    fn resume(&mut self, client: Client) -> Option<Wait> {
        let state = self.clients.get_mut(&client)?;
        let wait = state.wait.take()?;
        // What it has begun meanwhile it could not go on with.
        state.moved_at = self.now;
        self.stop_waiting(client, &wait);
        self.resumed.push_back(client);
        Some(wait)
    }

    pub(super) fn give_up_waiting(&mut self, client: Client) {
        if self.resume(client).is_some() {
            self.tell(client, |answer| answer.null_array());
        }
    }

    /// Gives what was pushed to those who wait for it.
    pub(super) fn feed(&mut self) {
        for key in std::mem::take(&mut self.fed) {
            while let Some((_, client)) = self.waiting.get(&key).and_then(|waiting| waiting.first()).copied() {
                let Some(is_at_front) = self.clients.get(&client).and_then(|state| state.wait.as_ref()) else { break };
                let is_at_front = is_at_front.is_at_front;
                let Ok(Some(element)) = self.keyspace.pop(&key, is_at_front) else { break };
                self.resume(client);
                self.tell(client, |answer| {
                    answer.array(2);
                    answer.bytes(&key);
                    answer.body(&element);
                });
            }
        }
    }
}
