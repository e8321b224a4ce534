//! How far addresses reach (RFC 6724 §3.1, RFC 1918, RFC 4193). Pure.

use std::net::IpAddr;

/// How far an address reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// Its host.
    Host,
    /// A network of somebody's own.
    Site,
    /// The Internet.
    Global,
}

impl Scope {
    /// That of an address; `None` if no interface has it alone.
    pub(crate) fn of(ip: IpAddr) -> Option<Self> {
        let (is_nobodys, is_loopback, is_site) = match ip.to_canonical() {
            IpAddr::V4(ip) => (
                ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
                ip.is_loopback(),
                ip.is_private() || ip.is_link_local(),
            ),
            IpAddr::V6(ip) => (
                ip.is_unspecified() || ip.is_multicast(),
                ip.is_loopback(),
                ip.is_unique_local() || ip.is_unicast_link_local(),
            ),
        };
        match (is_nobodys, is_loopback, is_site) {
            (true, _, _) => None,
            (_, true, _) => Some(Self::Host),
            (_, _, true) => Some(Self::Site),
            _ => Some(Self::Global),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_reach_as_far_as_their_registries_say() {
        for (scope, ips) in [
            (None, &["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:224.0.0.1"][..]),
            (Some(Scope::Host), &["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]),
            (Some(Scope::Site), &["10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "fd00::1", "fe80::1"]),
            (Some(Scope::Global), &["192.0.2.1", "100.64.0.1", "172.32.0.1", "2001:db8::1", "::ffff:1.1.1.1"]),
        ] {
            for ip in ips {
                assert_eq!(Scope::of(ip.parse().expect("an address")), scope, "{ip}");
            }
        }
        assert!(Scope::Host < Scope::Site && Scope::Site < Scope::Global);
    }
}
