//! Relaying: two members of a session, each on a connection of its own, are joined.

use crate::rendezvous::{Refusal, RelayRequest, ServerMessage};
use fmi_net::time::Instant;

use super::{Connection, Output, Server, State};

impl Server {
    /// Takes one side of a relayed connection. Only members of a session may ask, for another member; who
    /// asks twice has the first request closed.
    pub(super) fn relay(&mut self, now: Instant, connection: Connection, request: RelayRequest) {
        if !self.clients.get(&connection).is_some_and(|client| matches!(client.state, State::Unregistered)) {
            return self.refuse(now, connection, Refusal::Malformed);
        }
        if self.config.relays_max == 0 {
            return self.refuse(now, connection, Refusal::NoRelay);
        }
        let RelayRequest { session, from, to, nonce } = request;
        let is_member = self.sessions.get(&session).is_some_and(|session| {
            let nonce_of = |rank: u32| session.nonces.get(rank as usize);
            from != to && nonce_of(from) == Some(&nonce) && nonce_of(to).is_some()
        });
        if !is_member {
            return self.refuse(now, connection, Refusal::NotMember);
        }
        if let Some(older) = self.relays.get(&(session, from, to)).copied() {
            self.outputs.push_back(Output::Close(older));
            self.forget(now, older, true);
        }
        if let Some(peer) = self.relays.remove(&(session, to, from)) {
            for end in [connection, peer] {
                self.clear_deadline(end);
                self.set_state(end, State::Relayed);
                self.send(end, ServerMessage::Relayed);
            }
            self.outputs.push_back(Output::Splice(peer, connection));
            return;
        }
        if self.relaying >= 2 * self.config.relays_max {
            return self.refuse(now, connection, Refusal::Busy);
        }
        self.relaying += 2;
        self.relays.insert((session, from, to), connection);
        self.set_state(connection, State::Relaying { session, from, to });
        self.set_deadline(connection, now + self.config.relay_within);
    }
}
