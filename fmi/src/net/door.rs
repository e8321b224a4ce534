//! Accepts connections for a server, and pauses while this machine has no room for more.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Listener, Net, Timer};
use crate::proto::bucket::Bucket;
use crate::time::Instant;

/// Connections that wait to be accepted.
pub(super) const BACKLOG: u32 = 4096;
/// Pause after an accept failed because a local resource was exhausted.
const PAUSE: Duration = Duration::from_millis(100);
/// Time for one warning that connections cannot be accepted: it lasts for as long as what is lacking does.
const WARNING_SECONDS: u64 = 60;

/// Where clients come in.
pub(super) struct Door<N: Net> {
    net: N,
    listeners: Vec<N::Listener>,
    timer: Timer,
    opens_at: Instant,
    /// Warnings, by seconds.
    warnings: Bucket,
}

impl<N: Net> Door<N> {
    pub(super) fn new(net: N, listeners: Vec<N::Listener>) -> Self {
        let (timer, warnings) = (Timer::new(Arc::new(net.clone())), Bucket::new(net.now(), 1, WARNING_SECONDS));
        Self { net, listeners, timer, opens_at: Instant::ZERO, warnings }
    }

    /// The next connection; `None` if it could not be accepted, so that the door is closed for a while.
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<N::Stream>> {
        if !self.timer.poll_until(cx, self.opens_at) {
            return Poll::Pending;
        }
        let accepted = self.listeners.iter_mut().map(|listener| listener.poll_accept(cx)).find(Poll::is_ready);
        accepted.unwrap_or(Poll::Pending).map(|accepted| match accepted {
            Ok(stream) => Some(stream),
            Err(error) => {
                let now = self.net.now();
                if self.warnings.take(now, WARNING_SECONDS) {
                    tracing::warn!(%error, "a connection could not be accepted; more of these are not told for a minute");
                }
                self.opens_at = now + PAUSE;
                None
            }
        })
    }
}
