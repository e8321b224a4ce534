//! Whether the kernel of a host runs, is frozen, or is off.
//!
//! Platforms freeze a function between two calls by pausing its virtual machine: neither the program nor the
//! kernel runs. Nothing is acknowledged, refused or probed, and timers wait. Packets that arrive wait as well, in
//! the queue of the machine's network device, which is bounded; what does not fit is lost. After the thaw the
//! kernel first takes the packets, in their order, then its overdue timers; the clock has moved on meanwhile.

use std::collections::VecDeque;

use fmi_net::time::Instant;

use super::{ConnectionId, Effects, Host};
use crate::packet::Packet;

/// Packets that wait for a frozen host; the next one is lost. The length of the queue of a tap device of Linux
/// (`TUN_READQ_SIZE`).
pub const FROZEN_PACKETS_MAX: usize = 500;

/// State of a host's kernel.
#[derive(Debug)]
pub(super) enum Power {
    On,
    Frozen(Backlog),
    Off,
}

/// What waits for the thaw of a host.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    packets: VecDeque<Packet>,
    timers: Vec<ConnectionId>,
}

impl Power {
    /// Gives an arriving packet back if the kernel can handle it at once.
    pub(super) fn take_in(&mut self, packet: Packet, effects: &mut Effects) -> Option<Packet> {
        match self {
            Self::On => return Some(packet),
            Self::Frozen(backlog) if backlog.packets.len() < FROZEN_PACKETS_MAX => backlog.packets.push_back(packet),
            Self::Frozen(_) => effects.lost += 1,
            Self::Off => {}
        }
        None
    }

    /// Whether a timer that is due cannot fire; it does after the thaw.
    pub(super) fn postpones(&mut self, id: ConnectionId) -> bool {
        match self {
            Self::On => false,
            Self::Frozen(backlog) => {
                backlog.timers.push(id);
                true
            }
            Self::Off => true,
        }
    }
}

impl Host {
    pub(super) fn is_on(&self) -> bool {
        matches!(self.power, Power::On)
    }

    pub(crate) fn is_frozen(&self) -> bool {
        matches!(self.power, Power::Frozen(_))
    }

    /// Everything ends without a packet, as when the machine's power is cut.
    pub(crate) fn kill(&mut self) {
        self.power = Power::Off;
        self.connections.clear();
        self.by_endpoints.clear();
        self.listeners.clear();
        self.datagrams.clear();
        self.echoes.clear();
        self.raw = None;
    }

    /// Switches the machine on; one that is frozen gives way to a new one.
    pub(crate) fn start(&mut self) {
        if self.is_frozen() {
            self.kill();
        }
        self.power = Power::On;
    }

    /// Pauses the machine; whether it was running.
    pub(crate) fn freeze(&mut self) -> bool {
        let was_on = self.is_on();
        if was_on {
            self.power = Power::Frozen(Backlog::default());
        }
        was_on
    }

    /// Lets the machine run on; whether it was frozen.
    pub(crate) fn thaw(&mut self, now: Instant, effects: &mut Effects) -> bool {
        let Power::Frozen(backlog) = &mut self.power else { return false };
        let Backlog { packets, timers } = std::mem::take(backlog);
        self.power = Power::On;
        for packet in packets {
            self.receive(now, packet, effects);
        }
        for id in timers {
            self.timer(now, id, effects);
        }
        true
    }
}
