//! What is to be hoped of the direct ways of a pair, and how long they have before the relay is asked. Pure policy.

use std::time::Duration;

use super::{HEAD_START, NatClass, Observed, Peer, Planner, Technique};

/// How long a pair that should connect may be silent, or two ways to the peer and back. A SYN that is lost is repeated after a
/// second; the relay serves meanwhile.
const SILENCE_MAX: Duration = Duration::from_millis(200);
/// The longest round trip to the rendezvous that a rank is believed. That of a satellite is 1.2 s at most.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(3);

/// What is to be hoped of the direct ways of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outlook {
    /// There is nothing to dial.
    Hopeless,
    /// It takes more than is known of both: the right guess of a port, a filter that lets strangers in, a NAT that leads
    /// back to its own inside.
    Doubtful,
    /// By all that is known, the pair connects.
    Fair,
}

impl Outlook {
    /// How long the direct ways have before the relay is asked, where packets take `reach` to the peer and back.
    pub(super) fn patience(self, reach: Duration) -> Duration {
        match self {
            Self::Hopeless => Duration::ZERO,
            // A connection that only one of both can open takes one and a half.
            Self::Doubtful => (reach * 3 / 2).max(HEAD_START),
            Self::Fair => (reach * 2).max(SILENCE_MAX),
        }
    }
}

impl Peer {
    /// The time in which packets reach another rank and come back, at most: they could go by the rendezvous.
    pub fn reach(&self, their: &Self) -> Duration {
        self.round_trip.min(ROUND_TRIP_MAX) + their.round_trip.min(ROUND_TRIP_MAX)
    }
}

impl Planner<'_> {
    /// What is to be hoped of the candidates so far.
    pub(super) fn outlook(&self, technique: Technique) -> Outlook {
        let ranks = [self.own, self.their];
        let are_known = || ranks.iter().all(|it| it.observed.second.is_some() && it.class() != NatClass::Unpredictable);
        let is_fair = match technique {
            _ if self.own.is_across(self.their) => true,
            Technique::Local => ranks.iter().all(|it| it.class() == NatClass::Public),
            // A rank that was seen once only may be let out to one port alone.
            Technique::Direct | Technique::Reversal | Technique::Punch => are_known() && self.is_mutual(),
            Technique::Listen | Technique::Prediction | Technique::Spray => false,
            Technique::Relay | Technique::Store => false,
        };
        match (self.candidates.is_empty(), is_fair) {
            (true, _) => Outlook::Hopeless,
            (false, true) => Outlook::Fair,
            (false, false) => Outlook::Doubtful,
        }
    }

    /// Whether the peer may dial this rank as well.
    fn is_mutual(&self) -> bool {
        let Observed { main, .. } = self.own.observed;
        self.their.may_dial(main)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_the_distance_and_what_is_hoped_for() {
        let ms = Duration::from_millis;
        for (reach, hopeless, doubtful, fair) in [(0, 0, 100, 200), (60, 0, 100, 200), (200, 0, 300, 400)] {
            let patience =
                [Outlook::Hopeless, Outlook::Doubtful, Outlook::Fair].map(|outlook| outlook.patience(ms(reach)));
            assert_eq!(patience, [hopeless, doubtful, fair].map(ms), "{reach} ms");
        }
    }
}
