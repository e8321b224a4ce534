//! What stands in the way of a connection: this machine, whoever answers, or what lies between. Pure.

use std::io;

/// What kept a connection from being made, as far as this rank can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// This process, or this machine, may open no more files.
    Files,
    /// No local port is free.
    Ports,
    /// The kernel has no memory for another socket.
    Memory,
    /// A firewall or a policy of this machine forbids it.
    Forbidden,
    /// This machine has no way there, or not from the address that it is to use.
    Route,
    /// Whatever answers is something else.
    Stranger,
    /// The peer has another key.
    OtherKey,
    /// The rendezvous does not relay, or no more.
    Relay,
    /// Nothing answered, or the attempt was refused, and both ends are on one machine: no NAT is between them.
    Loopback,
    /// Nothing answered, or the attempt was refused from outside.
    Network,
}

impl Cause {
    /// The cause of a failed attempt.
    pub fn of(kind: io::ErrorKind, is_loopback: bool) -> Self {
        let causes = [
            (io::ErrorKind::QuotaExceeded, Self::Files),
            (io::ErrorKind::AddrInUse, Self::Ports),
            (io::ErrorKind::OutOfMemory, Self::Memory),
            (io::ErrorKind::PermissionDenied, Self::Forbidden),
            (io::ErrorKind::AddrNotAvailable, Self::Route),
            (io::ErrorKind::NetworkUnreachable, Self::Route),
            (io::ErrorKind::NetworkDown, Self::Route),
            (io::ErrorKind::InvalidData, Self::Stranger),
            (io::ErrorKind::Unsupported, Self::Relay),
            (io::ErrorKind::ResourceBusy, Self::Relay),
        ];
        let found = causes.iter().find(|(of, _)| *of == kind).map(|(_, cause)| *cause);
        found.unwrap_or_else(|| Self::between(is_loopback))
    }

    /// The cause where nothing answered.
    pub fn between(is_loopback: bool) -> Self {
        if is_loopback { Self::Loopback } else { Self::Network }
    }

    /// Whether it is told rather than what comes later: what this machine lacks or forbids, and what the relay refuses,
    /// is a cause of the rest, and can be helped.
    pub fn comes_first(self) -> bool {
        matches!(self, Self::Files | Self::Ports | Self::Memory | Self::Forbidden | Self::Relay)
    }

    /// What to do about it, where that does not depend on who was to be reached.
    pub(crate) fn advice(self) -> Option<&'static str> {
        Some(match self {
            Self::Files => "raise the limit of open files (`ulimit -Hn`), or run fewer ranks in one process",
            Self::Ports => "end what holds local ports (`ss -tan`), or widen net.ipv4.ip_local_port_range",
            Self::Memory => "the kernel lacks memory for sockets: see net.ipv4.tcp_mem and the memory of this machine",
            Self::Forbidden => "a firewall or a policy of this machine forbids it: see its rules (`nft list ruleset`)",
            Self::Route => "see the addresses and routes of this machine (`ip route`), and FMI_BIND",
            Self::OtherKey => "give all ranks the same FMI_KEY",
            Self::Relay => "start the rendezvous with more relays (`--relays-max`), or use NATs that can be punched",
            Self::Stranger | Self::Loopback | Self::Network => return None,
        })
    }
}

/// Whether a failure is told rather than what comes later.
pub fn comes_first(kind: io::ErrorKind) -> bool {
    Cause::of(kind, false).comes_first()
}

/// A failure in the words of the system.
pub fn words(kind: io::ErrorKind) -> String {
    if kind == io::ErrorKind::QuotaExceeded {
        "too many open files".into()
    } else if kind == io::ErrorKind::Unsupported {
        "the rendezvous does not relay".into()
    } else if kind == io::ErrorKind::ResourceBusy {
        "the relay is at capacity".into()
    } else {
        kind.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nats_are_blamed_for_silence_and_refusals_from_outside_alone() {
        for kind in [io::ErrorKind::ConnectionRefused, io::ErrorKind::TimedOut, io::ErrorKind::HostUnreachable] {
            assert_eq!(Cause::of(kind, false), Cause::Network, "{kind}");
            assert_eq!(Cause::of(kind, true), Cause::Loopback, "{kind}");
        }
        for kind in [io::ErrorKind::QuotaExceeded, io::ErrorKind::PermissionDenied, io::ErrorKind::AddrInUse] {
            assert!(comes_first(kind) && Cause::of(kind, true) == Cause::of(kind, false), "{kind}");
        }
        assert!(
            !comes_first(io::ErrorKind::AddrNotAvailable),
            "a pair of endpoints is in use by the peer's own attempt"
        );
        assert_eq!(words(io::ErrorKind::QuotaExceeded), "too many open files");
    }
}
