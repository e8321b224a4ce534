//! What members of a session tell each other by the server, when their own connections do not.

use std::collections::{BTreeMap, BTreeSet};

use fmi_net::planted;

use super::{Connection, Output, Server, Session, State};
use crate::rendezvous::{GroupId, Nonce, ServerMessage, SessionId};

/// Failures of one session that are passed on to all of its members: one is the cause of most others, so that a large
/// group which fails costs messages in proportion to its size.
const FAILURES_TOLD_MAX: u32 = 4;

impl Session {
    pub(super) fn new(group: GroupId, members: BTreeMap<u32, Connection>, nonces: Vec<Nonce>, formed: bool) -> Self {
        Self { group, members, nonces, formed, lost: BTreeSet::new(), failures_told: 0 }
    }

    /// Connections of those that are left.
    pub(super) fn survivors(&self) -> Vec<Connection> {
        let mut survivors: Vec<Connection> = self.members.values().copied().collect();
        if planted::is(planted::Fault::SkippedSurvivor) {
            survivors.pop();
        }
        survivors
    }
}

impl Server {
    /// The session and rank of a member of a session that has formed.
    fn membership(&self, connection: Connection) -> Option<(SessionId, u32)> {
        match self.clients.get(&connection)?.state {
            State::Member { session, rank } => Some((session, rank)),
            State::Unregistered
            | State::Discovering { .. }
            | State::Waiting { .. }
            | State::Vouching(_)
            | State::Relaying { .. }
            | State::Relayed
            | State::Contending { .. } => None,
        }
    }

    /// Tells the members of a session that one is lost, and those that came back from it before that was known: they have
    /// left the session, but not the group.
    pub(super) fn tell_loss(&mut self, id: SessionId, rank: u32) {
        let Some(session) = self.sessions.get(&id) else { return };
        let mut told = session.survivors();
        let forming = self.forming.get(&session.group);
        told.extend(forming.into_iter().flat_map(|forming| forming.seats.values().map(|seat| seat.connection)));
        self.outputs.push_back(Output::SendAll(told, ServerMessage::Lost { session: id, rank }));
    }

    /// Tells one that comes back from a session which has formed all the same that it will not form again: by whom that has lost,
    /// or by its own rank. Only a rank that was in the session minds.
    pub(super) fn tell_of_sessions(&mut self, connection: Connection, group: GroupId, rank: u32) {
        let sessions = self.running.get(&group).into_iter().flatten();
        let lost = |id: &SessionId| {
            let session = self.sessions.get(id).filter(|session| session.formed)?;
            Some((*id, session.lost.iter().copied().find(|lost| *lost != rank).unwrap_or(rank)))
        };
        for (session, rank) in sessions.filter_map(lost).collect::<Vec<_>>() {
            self.send(connection, ServerMessage::Lost { session, rank });
        }
    }

    /// The same for all that wait, when the session becomes known.
    pub(super) fn tell_of_session(&mut self, id: SessionId, group: GroupId) {
        let seats = self.forming.get(&group).into_iter().flat_map(|forming| &forming.seats);
        let waiting: Vec<_> = seats.map(|(rank, seat)| (seat.connection, *rank)).collect();
        for (connection, rank) in waiting {
            self.send(connection, ServerMessage::Lost { session: id, rank });
        }
    }

    /// Tells a member that another one has found their connection broken.
    pub(super) fn severed(&mut self, connection: Connection, session: SessionId, other: u32) {
        let Some((id, rank)) = self.membership(connection).filter(|(id, _)| *id == session) else { return };
        let told = self.sessions.get(&id).filter(|_| rank != other).and_then(|session| session.members.get(&other));
        if let Some(told) = told.copied() {
            self.send(told, ServerMessage::Severed { session: id, rank });
        }
    }

    /// Tells the other members that one failed.
    pub(super) fn tell_failure(&mut self, connection: Connection) {
        let Some((id, rank)) = self.membership(connection) else { return };
        let Some(session) = self.sessions.get_mut(&id).filter(|session| session.formed) else { return };
        if session.failures_told == FAILURES_TOLD_MAX {
            return;
        }
        session.failures_told += 1;
        let others: Vec<Connection> = session.members.values().copied().filter(|other| *other != connection).collect();
        if !others.is_empty() {
            self.outputs.push_back(Output::SendAll(others, ServerMessage::Failed { session: id, rank }));
        }
    }
}
