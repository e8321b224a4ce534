//! What goes wrong in a world, and right again.

use std::net::Ipv4Addr;

use crate::tamper::Tampering;
use crate::topology::{GatewayId, HostId, SiteId};

/// Something that goes wrong, or right again, at a given time.
///
/// Functions are named by a `T`: a world names them by host, and whoever describes worlds by what it likes, such as
/// a rank; [`Fault::map`] turns one into the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault<T = HostId> {
    /// A function vanishes: no FIN, no RST.
    Kill(T),
    /// A killed or finished function starts anew.
    Start(T),
    /// A function is paused with its kernel, as platforms do between two calls: nothing is acknowledged, refused or
    /// probed. Up to [`FROZEN_PACKETS_MAX`](crate::host::FROZEN_PACKETS_MAX) packets wait for it.
    Freeze(T),
    /// A frozen function runs on: its kernel takes the packets that waited, then its overdue timers, and its program
    /// finds that the clock has moved on.
    Thaw(T),
    /// No packet passes between two sites.
    Cut(SiteId, SiteId),
    /// Packets pass again.
    Heal(SiteId, SiteId),
    /// All functions of a site vanish, with the site's turmoil host.
    CrashSite(SiteId),
    /// A crashed site comes back; its functions start anew.
    BounceSite(SiteId),
    /// A gateway forgets everything.
    RebootGateway(GatewayId),
    /// A gateway gets another external address and forgets everything.
    RenumberGateway(GatewayId, Ipv4Addr),
    /// The link of a function's host begins to lose this share of packets, in parts per million.
    Lose(T, u32),
    /// Somebody on the way begins to change this share of the packets that a function's host sends, in parts per million.
    Tamper(T, Tampering, u32),
}

impl<T> Fault<T> {
    /// The function that it is about, if it is about one.
    pub fn target(&self) -> Option<&T> {
        match self {
            Self::Kill(target) | Self::Start(target) | Self::Freeze(target) | Self::Thaw(target) => Some(target),
            Self::Lose(target, _) | Self::Tamper(target, ..) => Some(target),
            Self::Cut(..) | Self::Heal(..) | Self::CrashSite(_) | Self::BounceSite(_) => None,
            Self::RebootGateway(_) | Self::RenumberGateway(..) => None,
        }
    }

    /// The same fault with its function named otherwise.
    pub fn map<U>(self, name: impl FnOnce(T) -> U) -> Fault<U> {
        match self {
            Self::Kill(target) => Fault::Kill(name(target)),
            Self::Start(target) => Fault::Start(name(target)),
            Self::Freeze(target) => Fault::Freeze(name(target)),
            Self::Thaw(target) => Fault::Thaw(name(target)),
            Self::Cut(one, other) => Fault::Cut(one, other),
            Self::Heal(one, other) => Fault::Heal(one, other),
            Self::CrashSite(site) => Fault::CrashSite(site),
            Self::BounceSite(site) => Fault::BounceSite(site),
            Self::RebootGateway(gateway) => Fault::RebootGateway(gateway),
            Self::RenumberGateway(gateway, address) => Fault::RenumberGateway(gateway, address),
            Self::Lose(target, loss_ppm) => Fault::Lose(name(target), loss_ppm),
            Self::Tamper(target, how, share_ppm) => Fault::Tamper(name(target), how, share_ppm),
        }
    }
}
