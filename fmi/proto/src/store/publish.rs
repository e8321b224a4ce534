//! Channels: what is published is for those who listen at that time.

use bytes::Bytes;

use super::commands::Call;
use super::{Client, Done, Failure, PUSHED_BYTES_MAX, Server};

/// What a channel that a client listens to costs beside its name.
const CHANNEL_BYTES: usize = 256;

impl Server {
    pub(super) fn publish(&mut self, call: &mut Call<'_>) -> Done {
        let (channel, body) = (call.take(1), call.take(2));
        let listeners: Vec<Client> = self.channels.get(&channel).into_iter().flatten().copied().collect();
        for client in &listeners {
            self.tell(*client, |answer| {
                answer.push(3);
                answer.bytes(b"message");
                answer.bytes(&channel);
                answer.body(&body);
            });
            if self.clients.get(client).is_some_and(|state| state.queued > PUSHED_BYTES_MAX) {
                self.close(*client);
            }
        }
        self.answer.count(listeners.len());
        Ok(())
    }

    pub(super) fn subscribe(&mut self, call: &mut Call<'_>) -> Done {
        for index in 1..call.len() {
            let channel = call.take(index);
            let cost = channel.len() + CHANNEL_BYTES;
            let has_room = self.used() + cost <= self.memory_bytes_max;
            let Some(state) = self.clients.get_mut(&call.client) else { return Ok(()) };
            if !state.channels.contains(&channel) {
                if !has_room {
                    return Err(Failure::OUT_OF_MEMORY);
                }
                state.channels.insert(channel.clone());
                self.kept += cost;
            }
            let count = state.channels.len();
            self.channels.entry(channel.clone()).or_default().insert(call.client);
            self.confirm("subscribe", Some(&channel), count);
        }
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, call: &mut Call<'_>) -> Done {
        let Some(state) = self.clients.get(&call.client) else { return Ok(()) };
        let channels: Vec<Bytes> = if call.len() > 1 {
            (1..call.len()).map(|index| call.take(index)).collect()
        } else {
            state.channels.iter().cloned().collect()
        };
        if channels.is_empty() {
            self.confirm("unsubscribe", None, 0);
        }
        for channel in channels {
            let Some(state) = self.clients.get_mut(&call.client) else { return Ok(()) };
            let was_there = state.channels.remove(&channel);
            let count = state.channels.len();
            if was_there {
                self.leave_channel(call.client, &channel);
            }
            self.confirm("unsubscribe", Some(&channel), count);
        }
        Ok(())
    }

    fn confirm(&mut self, what: &str, channel: Option<&Bytes>, count: usize) {
        self.answer.push(3);
        self.answer.bytes(what.as_bytes());
        match channel {
            Some(channel) => self.answer.bytes(channel),
            None => self.answer.null(),
        }
        self.answer.count(count);
    }

    pub(super) fn leave_channels(&mut self, client: Client) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        for channel in std::mem::take(&mut state.channels) {
            self.leave_channel(client, &channel);
        }
    }

    /// Undoes what a client's entry of a channel, which is removed, has done.
    fn leave_channel(&mut self, client: Client, channel: &Bytes) {
        self.kept -= channel.len() + CHANNEL_BYTES;
        if let Some(listeners) = self.channels.get_mut(channel) {
            listeners.remove(&client);
            if listeners.is_empty() {
                self.channels.remove(channel);
            }
        }
    }
}
