//! Linux's TCP tracker, after its documentation and measurements of Linux 6.18.
//!
//! Each class of segment moves the state by a table, one for the side that began and one for the
//! other, and must lie within the windows that the tracker has seen. Some consequences decide about
//! hole punching:
//!
//! - An RST that is the first answer ends the entry at once.
//! - After SYNs from both sides, a SYN or SYN|ACK with another initial sequence number is invalid
//!   until the entry expires.
//! - If both sides then begin again a little later, everything passes but nothing moves the state:
//!   the handshake completes, and the next segment of the inside is invalid.

use std::time::Duration;

use super::{Fate, SessionState, Timers};
use crate::packet::{Segment, TcpOptions};

/// Classes of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Syn,
    SynAck,
    Fin,
    Ack,
    Reset,
}

impl Class {
    fn of(segment: Segment) -> Option<Self> {
        if !segment.has_sane_flags() {
            return None;
        }
        Some(match segment {
            Segment { rst: true, .. } => Self::Reset,
            Segment { syn: true, ack: true, .. } => Self::SynAck,
            Segment { syn: true, .. } => Self::Syn,
            Segment { fin: true, .. } => Self::Fin,
            _ => Self::Ack,
        })
    }
}

/// Where a table leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    To(SessionState),
    /// It passes and leaves everything as it is.
    Ignored,
    Invalid,
}

/// The state after a segment, by the side that began (`originator`) or the other.
fn table(originator: bool, class: Class, state: SessionState) -> Move {
    use SessionState::{
        Answered, Asked, Close, CloseWait, Established, FinWait, LastAck, SynReceived, SynSent, SynSent2, TimeWait,
    };
    match (class, originator, state) {
        (_, _, Asked | Answered) => Move::Invalid,
        (Class::Syn, true, SynSent | TimeWait | Close) => Move::To(SynSent),
        (Class::Syn, _, SynSent2) | (Class::Syn, false, SynSent) => Move::To(SynSent2),
        (Class::Syn, true, _) => Move::Ignored,
        (Class::Syn, false, TimeWait) => Move::To(SynSent),
        (Class::Syn, false, _) => Move::Invalid,
        (Class::SynAck, true, SynReceived | SynSent2) | (Class::SynAck, false, SynSent | SynSent2) => {
            Move::To(SynReceived)
        }
        (Class::SynAck, true, _) => Move::Invalid,
        (Class::SynAck, false, _) => Move::Ignored,
        (Class::Fin, _, SynReceived | Established) => Move::To(FinWait),
        (Class::Fin, _, FinWait | CloseWait | LastAck) => Move::To(LastAck),
        (Class::Fin, _, SynSent | SynSent2) => Move::Invalid,
        (Class::Ack, true, SynSent | SynSent2) => Move::Invalid,
        (Class::Ack, false, SynSent | SynSent2) => Move::Ignored,
        (Class::Ack, true, SynReceived) => Move::To(Established),
        (Class::Ack, _, FinWait) => Move::To(CloseWait),
        (Class::Ack, _, LastAck) => Move::To(TimeWait),
        (Class::Ack, _, SynReceived | Established | CloseWait) | (Class::Ack | Class::Fin, _, TimeWait | Close) => {
            Move::To(state)
        }
        (Class::Reset, ..) => Move::To(Close),
    }
}

/// `a` lies before `b` in sequence space (RFC 9293 §3.4).
fn before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

fn after(a: u32, b: u32) -> bool {
    before(b, a)
}

/// What is known of one side.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    /// Behind the last byte that it sent.
    end: u32,
    /// Behind the last byte that it may send.
    end_max: u32,
    /// The widest window that it has offered; 0 until it has spoken.
    window_max: u32,
    scale: u8,
    offers_scale: bool,
    uses_sack: bool,
    /// The highest acknowledgement that it has sent.
    acknowledged: Option<u32>,
    /// It sent the first FIN.
    closes_first: bool,
    /// It has sent what is not acknowledged.
    is_unacknowledged: bool,
    /// Its connection was picked up in the middle: nothing of it is invalid.
    is_unknown: bool,
}

impl Peer {
    fn set_options(&mut self, options: TcpOptions) {
        self.offers_scale = options.window_scale.is_some();
        self.scale = options.window_scale.unwrap_or(0).min(14);
        self.uses_sack = options.sack_permitted;
        (self.closes_first, self.is_unacknowledged, self.is_unknown, self.acknowledged) = (false, false, false, None);
    }
}

/// The last segment of note, to recognise its repetition and the answers to it.
#[derive(Clone, Copy, Debug)]
struct Last {
    class: Class,
    originator: bool,
    sequence: u32,
    acknowledgement: u32,
    /// Unknown of a segment whose numbers were not noted.
    end: Option<u32>,
    window: u16,
    options: TcpOptions,
    may_draw_challenge: bool,
}

/// Windows that an acknowledgement may lag behind, at least.
const ACKNOWLEDGEMENT_LAG: u32 = 66_000;
/// Repetitions from which a connection counts as in trouble.
const RETRANSMISSIONS_MAX: u8 = 3;

/// The tracker's verdict on sequence and acknowledgement numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Window {
    Within,
    /// Old or a little ahead: it passes and leaves everything as it is.
    Ignored,
    Invalid,
}

/// One tracked connection, aligned for the cache.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(in super::super) struct Linux {
    state: SessionState,
    /// The side that began, and the other.
    peers: [Peer; 2],
    last: Option<Last>,
    is_simultaneous: bool,
    is_replied: bool,
    retransmissions: u8,
    /// The segment that made the entry has been taken.
    is_begun: bool,
    /// An acknowledgement has confirmed it.
    is_assured: bool,
}

fn other(originator: bool) -> usize {
    usize::from(originator)
}

fn own(originator: bool) -> usize {
    usize::from(!originator)
}

impl Linux {
    /// The entry that a segment makes, which is then given to [`Linux::step`].
    pub(super) fn new(segment: Segment, options: TcpOptions) -> Self {
        let window = u32::from(segment.window).max(1);
        let end = segment.end();
        let mut peer = Peer { end, end_max: end, window_max: window, ..Peer::default() };
        if segment.syn {
            peer.set_options(options);
            let peers = [peer, Peer::default()];
            return Self::with(SessionState::SynSent, peers);
        }
        // The middle of a connection that is not known: liberal to both sides.
        peer.end_max = end.wrapping_add(window);
        (peer.is_unknown, peer.uses_sack) = (true, true);
        let peers = [peer, Peer { is_unknown: true, uses_sack: true, ..Peer::default() }];
        Self::with(SessionState::Established, peers)
    }

    fn with(state: SessionState, peers: [Peer; 2]) -> Self {
        Self {
            state,
            peers,
            last: None,
            is_simultaneous: false,
            is_replied: false,
            retransmissions: 0,
            is_begun: false,
            is_assured: false,
        }
    }

    pub(super) fn state(&self) -> SessionState {
        self.state
    }

    pub(super) fn is_replied(&self) -> bool {
        self.is_replied
    }

    /// Takes a segment from the side that began or from the other.
    pub(super) fn step(&mut self, timers: &Timers, originator: bool, segment: Segment, options: TcpOptions) -> Fate {
        let Some(class) = Class::of(segment) else { return Fate::Invalid };
        let old = self.state;
        let new = match table(originator, class, old) {
            Move::Invalid => return Fate::Invalid,
            Move::Ignored => match self.ignore(originator, class, segment, options) {
                Some(fate) => return self.replied(originator, fate),
                // It answers a SYN that was let through: here is the connection that is meant.
                None => {
                    self.peers[own(originator)] = Peer::default();
                    SessionState::SynReceived
                }
            },
            Move::To(SessionState::SynSent) if matches!(old, SessionState::TimeWait | SessionState::Close) => {
                let closed = self.peers.iter().any(|peer| peer.closes_first);
                let aborted = self.last.is_some_and(|last| last.originator == originator && last.class == Class::Reset);
                if closed || aborted {
                    return Fate::Reopen;
                }
                match self.ignore(originator, class, segment, options) {
                    Some(fate) => return self.replied(originator, fate),
                    None => SessionState::SynReceived,
                }
            }
            Move::To(SessionState::TimeWait)
                if old == SessionState::LastAck && self.is_challenge(originator, class) =>
            {
                return self.replied(originator, Fate::Keep);
            }
            Move::To(SessionState::SynReceived) if !originator && class == Class::Ack && self.is_simultaneous => {
                SessionState::Established
            }
            Move::To(state) => state,
        };
        self.is_simultaneous |= new == SessionState::SynSent2;
        let (new, skips_window) = match class {
            Class::Reset => match self.weigh_reset(originator, segment, old, new) {
                Some(weighed) => weighed,
                None => return Fate::Invalid,
            },
            Class::Syn | Class::SynAck | Class::Fin | Class::Ack => (new, false),
        };
        if !skips_window {
            match self.window(originator, class, segment, options) {
                Window::Within => {}
                Window::Ignored => return self.replied(originator, Fate::Keep),
                Window::Invalid => return Fate::Invalid,
            }
        }
        self.settle(timers, originator, class, segment, old, new)
    }

    /// A passing segment from the other side is a reply, whatever else it is.
    fn replied(&mut self, originator: bool, fate: Fate) -> Fate {
        self.is_replied |= !originator;
        fate
    }

    /// Lets a segment through without belief in it, or learns from it (`None`).
    fn ignore(&mut self, originator: bool, class: Class, segment: Segment, options: TcpOptions) -> Option<Fate> {
        if class == Class::SynAck
            && let Some(last) = self.last
            && last.class == Class::Syn
            && last.originator != originator
            && let Some(end) = last.end
            && segment.acknowledgement == end
        {
            let peer = &mut self.peers[own(last.originator)];
            peer.set_options(last.options);
            (peer.end, peer.end_max, peer.window_max) = (end, end, u32::from(last.window).max(1));
            self.state = SessionState::SynSent;
            return None;
        }
        let acknowledgement = if self.state == SessionState::SynSent && class == Class::Ack && !originator {
            segment.acknowledgement
        } else {
            self.last.map_or(0, |last| last.acknowledgement)
        };
        self.last = Some(Last {
            class,
            originator,
            sequence: segment.sequence,
            acknowledgement,
            end: Some(segment.end()),
            window: segment.window,
            options,
            may_draw_challenge: class == Class::Syn && originator && self.state == SessionState::LastAck,
        });
        Some(Fate::Keep)
    }

    /// Whether an ACK answers a SYN that was let through, and not the last FIN (RFC 5961 §4).
    fn is_challenge(&self, originator: bool, class: Class) -> bool {
        class == Class::Ack
            && self.last.is_some_and(|last| {
                last.originator != originator && last.class == Class::Syn && last.may_draw_challenge
            })
    }

    /// How far an RST is believed: the state that it leads to, and whether its numbers matter.
    fn weigh_reset(
        &self,
        originator: bool,
        segment: Segment,
        old: SessionState,
        mut new: SessionState,
    ) -> Option<(SessionState, bool)> {
        if old.is_closing() {
            return Some((new, true));
        }
        let is_established = old == SessionState::Established;
        let last_class = self.last.map(|last| last.class);
        if let Some(acknowledged) = self.peers[other(originator)].acknowledged
            && last_class != Some(Class::Syn)
        {
            // Out of an open connection, zero is the number that a side without one sends.
            if segment.sequence == 0 && !is_established {
                return Some((new, false));
            }
            if before(segment.sequence, acknowledged) {
                return None;
            }
            let follows_last = self.last.is_some_and(|last| {
                last.class == Class::Ack && last.originator == originator && last.end == Some(segment.sequence)
            });
            if !is_established || segment.sequence == acknowledged || follows_last {
                return Some((new, false));
            }
            // Within the window, but not exact: the host will ask back (RFC 5961 §3).
            new = old;
        }
        let answers_ignored = self.last.is_some_and(|last| {
            let was_let_through =
                (self.is_replied && last.class == Class::Syn) || (!self.is_assured && last.class == Class::Ack);
            was_let_through && last.end == Some(segment.acknowledgement)
        });
        let answers_challenge = old == SessionState::SynSent
            && self.last.is_some_and(|last| {
                last.class == Class::Ack && !last.originator && segment.sequence == last.acknowledgement
            });
        Some((new, answers_ignored || answers_challenge))
    }

    /// Checks a segment against the windows, and moves them.
    fn window(&mut self, originator: bool, class: Class, segment: Segment, options: TcpOptions) -> Window {
        let state = self.state;
        let [mut sender, mut receiver] = [self.peers[own(originator)], self.peers[other(originator)]];
        let (mut sequence, mut end) = (segment.sequence, segment.end());
        let (mut acknowledgement, mut edge) = (segment.acknowledgement, segment.acknowledgement);
        if receiver.uses_sack
            && let Some(sack) = options.sack_edge
            && after(sack, edge)
        {
            edge = sack;
        }
        let is_late_syn =
            segment.syn && after(end, sender.end) && matches!(state, SessionState::SynSent | SessionState::SynReceived);
        let is_unknown = sender.window_max == 0;
        if is_unknown || is_late_syn {
            begin_sender(&mut sender, &mut receiver, originator, segment, edge, options);
            // A SYN without ACK from the other side: a simultaneous open.
            if segment.syn && !segment.ack && (is_unknown || !originator) {
                (self.peers[own(originator)], self.peers[other(originator)]) = (sender, receiver);
                return Window::Within;
            }
        }
        let resets_without_ack = segment.rst && acknowledgement == 0;
        if !segment.ack || resets_without_ack {
            (acknowledgement, edge) = (receiver.end, receiver.end);
        }
        if segment.rst && sequence == 0 && state == SessionState::SynSent {
            (sequence, end) = (sender.end, sender.end);
        }
        let numbers = Numbers { sequence, end, acknowledgement, edge };
        let verdict = judge(&mut sender, &receiver, numbers);
        if verdict == Window::Within {
            advance(&mut sender, &mut receiver, segment, numbers);
        }
        let is_liberal = sender.is_unknown;
        (self.peers[own(originator)], self.peers[other(originator)]) = (sender, receiver);
        if verdict != Window::Within {
            return if is_liberal { Window::Within } else { verdict };
        }
        if class == Class::Ack {
            self.count_repetition(originator, segment, acknowledgement);
        }
        Window::Within
    }

    fn count_repetition(&mut self, originator: bool, segment: Segment, acknowledgement: u32) {
        let end = Some(segment.end());
        let repeats = self.last.is_some_and(|last| {
            last.originator == originator
                && (last.sequence, last.acknowledgement, last.end, last.window)
                    == (segment.sequence, acknowledgement, end, segment.window)
        });
        if repeats {
            self.retransmissions = self.retransmissions.saturating_add(1);
            return;
        }
        self.retransmissions = 0;
        self.last = Some(Last {
            class: Class::Ack,
            originator,
            sequence: segment.sequence,
            acknowledgement,
            end,
            window: segment.window,
            options: TcpOptions::default(),
            may_draw_challenge: false,
        });
    }

    /// Draws the consequences of a segment that is believed.
    fn settle(
        &mut self,
        timers: &Timers,
        originator: bool,
        class: Class,
        segment: Segment,
        old: SessionState,
        new: SessionState,
    ) -> Fate {
        match &mut self.last {
            Some(last) => (last.class, last.originator) = (class, originator),
            none => {
                *none = Some(Last {
                    class,
                    originator,
                    sequence: 0,
                    acknowledgement: 0,
                    end: None,
                    window: segment.window,
                    options: TcpOptions::default(),
                    may_draw_challenge: false,
                });
            }
        }
        self.state = new;
        if old != new && new == SessionState::FinWait {
            self.peers[own(originator)].closes_first = true;
        }
        let idle = self.idle(timers, class, new);
        let was_replied = self.is_replied;
        self.is_replied |= !originator;
        let was_begun = std::mem::replace(&mut self.is_begun, true);
        let opens = new == SessionState::Established;
        if was_replied {
            self.is_assured |= opens && matches!(old, SessionState::SynReceived | SessionState::Established);
            return Fate::Refresh(idle);
        }
        match class {
            // Nothing but an RST has come back: there is no connection.
            Class::Reset => Fate::End,
            // A repeated SYN does not prolong the entry, nor does the other side's first.
            Class::Syn if old == SessionState::SynSent && was_begun => Fate::Keep,
            Class::Syn | Class::SynAck | Class::Fin | Class::Ack if opens => {
                Fate::Refresh(idle.min(timers.unacknowledged))
            }
            Class::Syn | Class::SynAck | Class::Fin | Class::Ack => Fate::Refresh(idle),
        }
    }

    fn idle(&self, timers: &Timers, class: Class, new: SessionState) -> Duration {
        let full = new.idle(timers);
        let is_unacknowledged = self.peers.iter().any(|peer| peer.is_unacknowledged);
        let is_shut = self.last.is_some_and(|last| last.window == 0);
        if self.retransmissions >= RETRANSMISSIONS_MAX {
            full.min(timers.unacknowledged)
        } else if class == Class::Reset {
            timers.close
        } else if is_unacknowledged || is_shut {
            full.min(timers.unacknowledged)
        } else {
            full
        }
    }
}

/// Numbers of a segment, as far as they are believed.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    sequence: u32,
    end: u32,
    acknowledgement: u32,
    /// The highest that is acknowledged, selectively or not.
    edge: u32,
}

/// Whether numbers lie within what both sides have shown. A little beyond is noted as sent.
fn judge(sender: &mut Peer, receiver: &Peer, numbers: Numbers) -> Window {
    let Numbers { sequence, end, edge, .. } = numbers;
    let lag = sender.window_max.max(ACKNOWLEDGEMENT_LAG);
    let is_recent =
        receiver.window_max == 0 || after(end, sender.end.wrapping_sub(receiver.window_max).wrapping_sub(1));
    let ack_is_recent = after(edge, receiver.end.wrapping_sub(lag).wrapping_sub(1));
    let ack_is_known = before(edge, receiver.end.wrapping_add(1));
    if !before(sequence, sender.end_max.wrapping_add(1)) {
        let overshoot = end.wrapping_sub(sender.end_max).wrapping_add(1);
        let is_small = receiver.window_max > 0 && overshoot <= receiver.window_max;
        if is_recent && ack_is_recent && ack_is_known && is_small {
            sender.end = end;
            sender.is_unacknowledged = true;
            return Window::Ignored;
        }
        return Window::Invalid;
    }
    match (is_recent, ack_is_known, ack_is_recent) {
        (false, ..) | (true, true, false) => Window::Ignored,
        (true, false, _) => Window::Invalid,
        (true, true, true) => Window::Within,
    }
}

/// Moves the windows by a segment that lies within them.
fn advance(sender: &mut Peer, receiver: &mut Peer, segment: Segment, numbers: Numbers) {
    let Numbers { end, acknowledgement, edge, .. } = numbers;
    let scale = if segment.syn { 0 } else { sender.scale };
    let window = u32::from(segment.window) << scale;
    sender.window_max = sender.window_max.max(window.wrapping_add(edge.wrapping_sub(acknowledgement)));
    if after(end, sender.end) {
        sender.end = end;
        sender.is_unacknowledged = true;
    }
    if segment.ack && sender.acknowledged.is_none_or(|highest| after(acknowledgement, highest)) {
        sender.acknowledged = Some(acknowledgement);
    }
    if receiver.window_max != 0 && after(end, sender.end_max) {
        receiver.window_max = receiver.window_max.wrapping_add(end.wrapping_sub(sender.end_max));
    }
    let reach = edge.wrapping_add(window);
    if after(reach, receiver.end_max.wrapping_sub(1)) {
        receiver.end_max = reach.wrapping_add(u32::from(window == 0));
    }
    if acknowledgement == receiver.end {
        receiver.is_unacknowledged = false;
    }
}

/// Learns of a side from its first segment, or anew from a later SYN.
fn begin_sender(
    sender: &mut Peer,
    receiver: &mut Peer,
    originator: bool,
    segment: Segment,
    edge: u32,
    options: TcpOptions,
) {
    let (end, window) = (segment.end(), u32::from(segment.window));
    if segment.syn {
        (sender.end, sender.end_max, sender.window_max) = (end, end, window.max(1));
        sender.set_options(options);
        // Scaling holds only if both sides offer it.
        let both_offer = sender.offers_scale && receiver.offers_scale;
        if !originator && !both_offer {
            (sender.scale, receiver.scale) = (0, 0);
        }
        return;
    }
    let window = (window << sender.scale).max(1);
    (sender.end, sender.end_max, sender.window_max) = (end, end.wrapping_add(window), window);
    if receiver.window_max == 0 {
        (receiver.end, receiver.end_max) = (edge, edge);
    } else if edge == receiver.end.wrapping_add(1) {
        receiver.end = edge;
    }
}
