//! What a gateway knows of a session beyond its addresses: how far it has come, and so how long it
//! may be idle.

use std::fmt;
use std::time::Duration;

use super::Side;
use super::behavior::{NatConfig, OnReset, SimultaneousOpen, Timers, Tracking};
use crate::packet::{Packet, Segment, TcpOptions, Transport};

mod linux;

use linux::Linux;

/// How far a session has come. The names of TCP are those of Linux's tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionState {
    /// A SYN from one side.
    SynSent,
    /// SYNs from both sides.
    SynSent2,
    /// A SYN is answered.
    SynReceived,
    /// Established.
    Established,
    /// One FIN.
    FinWait,
    /// One FIN, acknowledged.
    CloseWait,
    /// FINs from both sides.
    LastAck,
    /// FINs from both sides, acknowledged.
    TimeWait,
    /// An RST.
    Close,
    /// UDP or ICMP, asked and not answered.
    Asked,
    /// UDP or ICMP, answered.
    Answered,
}

/// The names of TCP are those that Linux's tools print.
impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SynSent => "SYN_SENT",
            Self::SynSent2 => "SYN_SENT2",
            Self::SynReceived => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::Asked => "asked",
            Self::Answered => "answered",
        })
    }
}

impl SessionState {
    /// Whether the session is on its way out.
    pub fn is_closing(self) -> bool {
        match self {
            Self::FinWait | Self::CloseWait | Self::LastAck | Self::TimeWait | Self::Close => true,
            Self::SynSent | Self::SynSent2 | Self::SynReceived | Self::Established | Self::Asked | Self::Answered => {
                false
            }
        }
    }

    /// Whether its handshake is not over.
    pub fn is_opening(self) -> bool {
        matches!(self, Self::SynSent | Self::SynSent2 | Self::SynReceived)
    }

    fn idle(self, timers: &Timers) -> Duration {
        match self {
            Self::SynSent | Self::SynSent2 => timers.syn_sent,
            Self::SynReceived => timers.syn_received,
            Self::Established => timers.established,
            Self::FinWait => timers.fin_wait,
            Self::CloseWait => timers.close_wait,
            Self::LastAck => timers.last_ack,
            Self::TimeWait => timers.time_wait,
            Self::Close => timers.close,
            Self::Asked => timers.udp_new,
            Self::Answered => timers.udp_stream,
        }
    }
}

/// What a packet does to its session. Unless it is invalid or ends it for another, the packet passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing.
    Keep,
    /// It may be idle for so long from here.
    Refresh(Duration),
    /// It may be idle for so long from here, if not less.
    Shorten(Duration),
    /// It has ended.
    End,
    /// It has ended, and the packet looks for another.
    Reopen,
    /// Nothing; the tracker does not take the packet for a part of it.
    Invalid,
}

/// A packet as a tracker sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Where it comes from.
    pub(super) from: Side,
    /// The segment of TCP, unless it is a fragment.
    pub(super) segment: Option<Segment>,
    pub(super) options: TcpOptions,
}

impl Seen {
    pub(super) fn of(packet: &Packet, from: Side) -> Self {
        Self { from, segment: packet.segment(), options: packet.tcp_options() }
    }
}

/// The tracker of one session.
#[derive(Clone, Debug)]
pub(super) enum Track {
    Flags(Flags),
    Linux(Box<Linux>),
    Query {
        is_begun: bool,
        is_answered: bool,
    },
    Proxied(Box<Proxied>),
    /// The gateway's own.
    Own {
        is_tcp_open: bool,
    },
}

/// A connection that the gateway ends and continues.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proxied {
    flags: Flags,
    pub(super) guest_isn: u32,
    /// The initial sequence number of a SYN that met the proxy's own.
    pub(super) met: Option<u32>,
    /// Whether the guest has been answered.
    pub(super) is_open: bool,
}

/// Whether a segment may begin a session at all.
pub(super) fn begins(tracking: Tracking, segment: Segment) -> bool {
    match tracking {
        Tracking::Flags => segment.has_sane_flags() && !segment.rst,
        // A SYN or a bare ACK.
        Tracking::Linux(_) => segment.has_sane_flags() && !segment.rst && !segment.fin && segment.syn != segment.ack,
    }
}

impl Track {
    /// The tracker of a session that the first packet, which is seen again by `step`, begins.
    pub(super) fn new(config: &NatConfig, transport: Transport, first: Seen) -> Self {
        match (transport, config.tracking, first.segment) {
            (Transport::Tcp, Tracking::Linux(_), Some(segment)) => {
                Self::Linux(Box::new(Linux::new(segment, first.options)))
            }
            (Transport::Tcp, ..) => Self::Flags(Flags::new(first.from)),
            (Transport::Udp | Transport::Icmp, ..) => Self::Query { is_begun: false, is_answered: false },
        }
    }

    /// The tracker of a connection that the gateway ends and continues.
    pub(super) fn proxied(first: Segment, from: Side) -> Self {
        Self::Proxied(Box::new(Proxied {
            flags: Flags::new(from),
            guest_isn: first.sequence,
            met: None,
            is_open: false,
        }))
    }

    pub(super) fn state(&self) -> SessionState {
        match self {
            Self::Flags(flags) => flags.state,
            Self::Proxied(proxied) => proxied.flags.state,
            Self::Linux(linux) => linux.state(),
            Self::Query { is_answered: true, .. } => SessionState::Answered,
            Self::Query { is_answered: false, .. } => SessionState::Asked,
            Self::Own { is_tcp_open: true } => SessionState::Established,
            Self::Own { is_tcp_open: false } => SessionState::SynSent,
        }
    }

    /// Whether only one side has spoken.
    pub(super) fn is_unreplied(&self) -> bool {
        match self {
            Self::Flags(flags) => flags.state == SessionState::SynSent,
            Self::Proxied(proxied) => proxied.flags.state == SessionState::SynSent,
            Self::Linux(linux) => !linux.is_replied(),
            Self::Query { is_answered, .. } => !is_answered,
            Self::Own { .. } => true,
        }
    }

    /// Takes a packet of the session. `begun_by` is the side that began it, `age` how long ago.
    pub(super) fn step(&mut self, config: &NatConfig, seen: Seen, begun_by: Side, age: Duration) -> Fate {
        match (self, seen.segment) {
            (Self::Flags(flags), Some(segment)) => flags.step(config, seen, segment),
            (Self::Proxied(proxied), Some(segment)) => proxied.flags.step(config, seen, segment),
            (Self::Linux(linux), Some(segment)) => {
                linux.step(&config.timers, seen.from == begun_by, segment, seen.options)
            }
            // A fragment shows no flags; it belongs to the session and proves nothing.
            (Self::Flags(_) | Self::Linux(_) | Self::Proxied(_), None) => Fate::Keep,
            (Self::Query { is_begun, is_answered }, _) => {
                *is_answered |= seen.from != begun_by;
                let refreshes = match (seen.from, begun_by) {
                    (Side::Inside, _) => config.refresh.outbound,
                    (Side::Outside, Side::Inside) => config.refresh.inbound,
                    (Side::Outside, Side::Outside) => config.refresh.inbound_uninvited,
                };
                // Linux gives a stream its longer time only once it has lasted.
                let is_young = matches!(config.tracking, Tracking::Linux(_)) && age <= STREAM_AGE;
                let state = if *is_answered && !is_young { SessionState::Answered } else { SessionState::Asked };
                let is_first = !std::mem::replace(is_begun, true);
                if refreshes || is_first { Fate::Refresh(state.idle(&config.timers)) } else { Fate::Keep }
            }
            (Self::Own { is_tcp_open }, segment) => {
                let timers = &config.timers;
                Fate::Refresh(match (segment, is_tcp_open) {
                    (Some(_), false) => timers.syn_sent,
                    (Some(_), true) => timers.unacknowledged,
                    (None, _) => timers.udp_new,
                })
            }
        }
    }
}

/// Age from which Linux takes an answered UDP flow for a stream.
const STREAM_AGE: Duration = Duration::from_secs(2);

/// A tracker that looks at flags, and at numbers only to tell a forged RST.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags {
    state: SessionState,
    begun_by: Side,
    /// Whether the inside, the outside has sent a FIN.
    fins: [bool; 2],
    /// What each side has acknowledged, and the window that it has offered behind that.
    acknowledged: [Option<(u32, u32)>; 2],
    scales: [Option<u8>; 2],
}

fn index(side: Side) -> usize {
    match side {
        Side::Inside => 0,
        Side::Outside => 1,
    }
}

impl Flags {
    fn new(begun_by: Side) -> Self {
        Self { state: SessionState::SynSent, begun_by, fins: [false; 2], acknowledged: [None; 2], scales: [None; 2] }
    }

    fn step(&mut self, config: &NatConfig, seen: Seen, segment: Segment) -> Fate {
        let timers = &config.timers;
        let me = index(seen.from);
        if segment.rst {
            return self.reset(config, segment, me);
        }
        if segment.syn {
            self.scales[me] = seen.options.window_scale;
        }
        if segment.ack {
            let scale = if segment.syn || self.scales.contains(&None) { 0 } else { self.scales[me].unwrap_or(0) };
            self.acknowledged[me] = Some((segment.acknowledgement, u32::from(segment.window) << scale.min(14)));
        }
        let is_first_syn = segment.syn && !segment.ack;
        self.state = match self.state {
            // A SYN on a closing session opens the next connection of its endpoints.
            SessionState::TimeWait | SessionState::Close if is_first_syn => {
                if config.quarantine != super::Quarantine::default() {
                    return Fate::Reopen;
                }
                *self = Self::new(seen.from);
                SessionState::SynSent
            }
            SessionState::SynSent if seen.from == self.begun_by => SessionState::SynSent,
            SessionState::SynSent => SessionState::SynReceived,
            SessionState::SynReceived if config.simultaneous_open == SimultaneousOpen::NeverEstablished => self.state,
            SessionState::SynReceived if segment.ack && !segment.syn => SessionState::Established,
            unmoved @ (SessionState::SynSent2
            | SessionState::SynReceived
            | SessionState::Established
            | SessionState::FinWait
            | SessionState::CloseWait
            | SessionState::LastAck
            | SessionState::TimeWait
            | SessionState::Close
            | SessionState::Asked
            | SessionState::Answered) => unmoved,
        };
        if segment.fin && matches!(self.state, SessionState::Established | SessionState::FinWait) {
            self.fins[me] = true;
            let both = self.fins[0] && self.fins[1];
            self.state = if both { SessionState::TimeWait } else { SessionState::FinWait };
        }
        Fate::Refresh(self.state.idle(timers))
    }

    fn reset(&mut self, config: &NatConfig, segment: Segment, me: usize) -> Fate {
        let expected = self.acknowledged[1 - me];
        let fits = expected.is_none_or(|(next, window)| segment.sequence.wrapping_sub(next) <= window);
        if config.checks_reset && !fits {
            return Fate::Keep;
        }
        let was_half_open = self.state == SessionState::SynSent && me != index(self.begun_by);
        let answers_uninvited = was_half_open && self.begun_by == Side::Outside;
        self.state = SessionState::Close;
        match config.reset {
            OnReset::Delete => return Fate::End,
            OnReset::DeleteHalfOpen if was_half_open => return Fate::End,
            OnReset::DeleteHalfOpen | OnReset::Close => {}
        }
        // An answer to what came uninvited keeps nothing alive (RFC 7857 §7.1).
        if answers_uninvited { Fate::Shorten(config.timers.close) } else { Fate::Refresh(config.timers.close) }
    }
}
