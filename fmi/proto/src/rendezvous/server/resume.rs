//! Resuming: members of an established session come back after the server, or their connection to it, was gone.

use std::collections::BTreeMap;

use crate::rendezvous::{Refusal, Resumption, SIZE_MAX, ServerMessage};
use fmi_net::time::Instant;

use super::{Connection, Output, Server, Session, State};

impl Server {
    /// Takes a member back. A server that does not know the session learns it from its members, one by one:
    /// from then on each of them is watched again. A client that knows a session's identifier could leave it only in its
    /// own rank's name, which cutting that rank's connection does as well.
    pub(super) fn resume(&mut self, now: Instant, connection: Connection, resumption: Resumption) {
        let Resumption { session: id, group, rank, size, nonce } = resumption;
        let is_new = self.clients.get(&connection).is_some_and(|client| matches!(client.state, State::Unregistered));
        if !is_new || rank >= size || size > self.config.size_max.min(SIZE_MAX) {
            return self.refuse(now, connection, Refusal::Malformed);
        }
        let is_unknown = !self.sessions.contains_key(&id);
        let nonces = |size: u32| vec![[0; 16]; size as usize];
        let session =
            self.sessions.entry(id).or_insert_with(|| Session::new(group, BTreeMap::new(), nonces(size), true));
        let fits = session.group == group && session.formed && session.nonces.len() == size as usize;
        let known = session.nonces.get(rank as usize).copied().unwrap_or_default();
        if !fits || (known != [0; 16] && known != nonce) {
            return self.refuse(now, connection, Refusal::NotMember);
        }
        session.nonces[rank as usize] = nonce;
        let older = session.members.insert(rank, connection);
        // What it missed, and that the others were told that it is lost.
        let missed: Vec<u32> = session.lost.iter().copied().collect();
        session.lost.remove(&rank);
        self.running.entry(group).or_default().insert(id);
        self.set_state(connection, State::Member { session: id, rank });
        self.clear_deadline(connection);
        if let Some(older) = older {
            // It was cut off without a word; nobody is lost.
            self.outputs.push_back(Output::Close(older));
            self.drop_client(older);
        }
        if is_unknown {
            self.tell_of_session(id, group);
        }
        for rank in missed {
            self.send(connection, ServerMessage::Lost { session: id, rank });
        }
    }
}
