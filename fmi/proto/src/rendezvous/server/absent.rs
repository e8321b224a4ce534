//! Ranks that went without a word while their group formed. They may come back: a path was cut, a round has ended, a
//! platform starts a function anew. Those that wait for one that does not are told its rank, all at once.

use super::{Output, Server};
use crate::rendezvous::{GroupId, NOT_YET, ServerMessage};
use fmi_net::time::Instant;

impl Server {
    /// Begins to wait for a rank to come back. Nobody is noted beyond as many as there may be connections: it is then
    /// missing like one that has never come.
    pub(super) fn miss(&mut self, now: Instant, group: GroupId, rank: u32) {
        if self.absent.len() < self.config.connections_max && !self.absent.contains_key(&(group, rank)) {
            let until = now + self.config.return_within;
            self.absent.insert((group, rank), until);
            self.absent_in_order.insert((until, group, rank));
        }
    }

    /// Takes note that a rank is there.
    pub(super) fn returned(&mut self, group: GroupId, rank: u32) {
        if let Some(until) = self.absent.remove(&(group, rank)) {
            self.absent_in_order.remove(&(until, group, rank));
        }
    }

    /// Tells those that wait for a rank which has not come back.
    pub(super) fn expire_absent(&mut self, now: Instant) {
        while let Some(&(until, group, rank)) = self.absent_in_order.first() {
            if until > now {
                break;
            }
            self.returned(group, rank);
            let Some(forming) = self.forming.get(&group) else { continue };
            let waiting = forming.seats.values().map(|seat| seat.connection).collect();
            self.outputs.push_back(Output::SendAll(waiting, ServerMessage::Lost { session: NOT_YET, rank }));
        }
    }

    /// When the next rank has had its time to come back.
    pub(super) fn absent_until(&self) -> Option<Instant> {
        self.absent_in_order.first().map(|(until, ..)| *until)
    }
}
