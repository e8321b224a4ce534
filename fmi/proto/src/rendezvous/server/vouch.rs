//! Vouching: other connections of a client show where else it is seen from.

use crate::rendezvous::{GroupId, Nonce, Refusal};
use fmi_net::time::Instant;

use super::{Connection, Output, Seat, Server, State};

impl Server {
    /// Takes the word of another connection for a registration, or keeps it until that comes.
    pub(super) fn vouch(&mut self, now: Instant, connection: Connection, nonce: Nonce) {
        let Some(client) = self.clients.get_mut(&connection) else { return };
        if !matches!(client.state, State::Unregistered) {
            return self.refuse(now, connection, Refusal::Malformed);
        }
        client.state = State::Vouching(nonce);
        if let Some((group, rank)) = self.waiting.get(&nonce).copied() {
            self.testify(now, connection, group, rank);
            self.complete_if_ready(group);
        } else {
            self.vouching.entry(nonce).or_default().push(connection);
        }
    }

    /// Notes where a rank is seen from by another endpoint. The connection has served its purpose.
    pub(super) fn testify(&mut self, now: Instant, connection: Connection, group: GroupId, rank: u32) {
        let Some(from) = self.clients.get(&connection).map(|client| client.from) else { return };
        let seat = self.forming.get_mut(&group).and_then(|forming| forming.seats.get_mut(&rank));
        if let Some(Seat { observed, .. }) = seat {
            let place =
                if from.is_ipv4() == observed.main.is_ipv4() { &mut observed.second } else { &mut observed.other };
            place.get_or_insert(from);
        }
        self.outputs.push_back(Output::Close(connection));
        self.forget(now, connection, false);
        self.count_vouch(now, group, rank);
    }

    /// Waits for one vouch less, and after the last one for the other ranks only.
    pub(super) fn count_vouch(&mut self, now: Instant, group: GroupId, rank: u32) {
        let seat = self.forming.get_mut(&group).and_then(|forming| forming.seats.get_mut(&rank));
        let Some(seat) = seat.filter(|seat| seat.vouch_until.is_some()) else { return };
        seat.registration.vouches = seat.registration.vouches.saturating_sub(1);
        if seat.registration.vouches == 0 {
            seat.vouch_until = None;
            let connection = seat.connection;
            self.set_deadline(connection, now + self.config.wait_max);
        }
    }

    pub(super) fn expects_vouch(&self, group: GroupId, rank: u32) -> bool {
        let seat = self.forming.get(&group).and_then(|forming| forming.seats.get(&rank));
        seat.is_some_and(|seat| seat.vouch_until.is_some())
    }

    /// Waits no longer for those who would vouch for a rank.
    pub(super) fn vouched(&mut self, group: GroupId, rank: u32) {
        let seat = self.forming.get_mut(&group).and_then(|forming| forming.seats.get_mut(&rank));
        if let Some(seat) = seat {
            seat.vouch_until = None;
            self.complete_if_ready(group);
        }
    }
}
