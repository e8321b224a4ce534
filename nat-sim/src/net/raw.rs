//! Packets by hand: for peers that do what no TCP does.

use std::future::poll_fn;
use std::task::Poll;

use super::SimNet;
use crate::host::RawQueue;
use crate::packet::Packet;

/// All of a host's packets, in place of its TCP, UDP and ICMP.
#[derive(Debug)]
pub struct SimRaw {
    net: SimNet,
}

impl SimNet {
    /// Switches the host's own stack off until the result is dropped.
    pub fn raw(&self) -> SimRaw {
        self.act(|host, _, _| host.raw = Some(RawQueue::default()));
        SimRaw { net: self.clone() }
    }
}

impl SimRaw {
    /// Puts a packet on the host's link.
    pub fn send(&self, packet: Packet) {
        self.net.act(|_, _, effects| effects.packets.push(packet));
    }

    /// What has come since the last look.
    pub fn take(&self) -> Vec<Packet> {
        self.net.act(|host, _, _| host.raw.as_mut().map(|raw| raw.packets.drain(..).collect()).unwrap_or_default())
    }

    /// Waits for a packet.
    ///
    /// # Cancel safety
    /// No packet is lost.
    pub async fn recv(&self) -> Packet {
        poll_fn(|cx| {
            self.net.act(|host, _, _| {
                let Some(raw) = &mut host.raw else { return Poll::Pending };
                raw.packets.pop_front().map_or_else(
                    || {
                        raw.waker = Some(cx.waker().clone());
                        Poll::Pending
                    },
                    Poll::Ready,
                )
            })
        })
        .await
    }
}

impl Drop for SimRaw {
    fn drop(&mut self) {
        self.net.act(|host, _, _| host.raw = None);
    }
}
