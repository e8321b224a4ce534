//! The queue of a host whose packets are handled by hand.

use std::collections::VecDeque;
use std::task::Waker;

use crate::packet::Packet;

/// Packets that came to a host whose own stack is switched off.
#[derive(Debug, Default)]
pub(crate) struct RawQueue {
    pub(crate) packets: VecDeque<Packet>,
    pub(crate) waker: Option<Waker>,
}
