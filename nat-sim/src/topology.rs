//! What is connected to what, as data: networks, hosts on them, gateways between them, sites.
//!
//! Network 0 is the internet. A gateway joins an outer network, where it has an address like a
//! host, and an inner one, whose packets for elsewhere it takes. Inner networks may overlap in
//! addresses, as private networks do, and gateways may be behind gateways.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use fmi_net::Machine;

use crate::link::LinkConfig;
use crate::nat::NatConfig;

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetworkId(pub usize);
/// The internet.
pub const INTERNET: NetworkId = NetworkId(0);

/// A host, numbered in the order of [`Topology::host`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub usize);

/// A gateway, numbered in the order of [`Topology::gateway`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GatewayId(pub usize);

/// A site: what turmoil can cut off or crash as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SiteId(pub usize);

/// A host: one address or more on one network, behind one link. A function runs on it, or a service.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// The network that its link leads to.
    pub network: NetworkId,
    /// Its address there, unique on that network.
    pub address: Ipv4Addr,
    /// Further addresses. Those of IPv6 are reached from everywhere, as far as gateways let them.
    pub also: Vec<IpAddr>,
    /// Delay, loss and rate between it and its network.
    pub link: LinkConfig,
    /// The site that it is cut off with.
    pub site: SiteId,
    /// Sizes of its TCP, equal for all its connections.
    pub tcp: TcpConfig,
    /// What its processor can do.
    pub machine: Machine,
}

impl HostSpec {
    /// A host with one address at the first site, at the end of a link without faults.
    pub fn plain(network: NetworkId, address: impl Into<Ipv4Addr>, latency: Duration) -> Self {
        let link = LinkConfig::with_latency(latency);
        let (also, site, tcp) = (Vec::new(), SiteId(0), TcpConfig::default());
        let machine = Machine { has_aes: true, cores: 2 };
        Self { network, address: address.into(), also, link, site, tcp, machine }
    }
}

/// Sizes of a host's TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// Largest packet. Default 1500 bytes; 9001 inside a cloud.
    pub mtu: usize,
    /// Receive buffer of a connection, which bounds its window. Default 128 KiB, Linux's first one.
    pub receive_bytes: usize,
    /// Send buffer of a connection. Default 64 KiB.
    pub send_bytes: usize,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self { mtu: 1500, receive_bytes: 128 << 10, send_bytes: 64 << 10 }
    }
}

impl TcpConfig {
    /// The same with segments of at most so many bytes, in both directions: the other end is told.
    pub(crate) fn with_segment_max(mut self, bytes: Option<u16>, is_v4: bool) -> Self {
        let headers = if is_v4 { 40 } else { 60 };
        if let Some(bytes) = bytes {
            self.mtu = self.mtu.min(usize::from(bytes) + headers);
        }
        self
    }
}

/// A gateway between an inner network and an outer one, each of which may be behind another gateway.
#[derive(Clone, Debug)]
pub struct GatewaySpec {
    /// How it translates and filters, which [`preset`](crate::nat::preset) has for known devices.
    pub nat: NatConfig,
    /// The network towards the internet.
    pub outer: NetworkId,
    /// Its external address, on the outer network.
    pub address: Ipv4Addr,
    /// Further external addresses; which a flow gets, [`NatConfig::pooling`] says.
    pub pool: Vec<Ipv4Addr>,
    /// Its outer link; the inner one is part of the links of the hosts.
    pub link: LinkConfig,
    /// The network of the hosts behind it. It serves that one alone.
    pub inner: NetworkId,
    /// The site that it is cut off with.
    pub site: SiteId,
}

impl GatewaySpec {
    /// A gateway between the internet and a network, with one address at the first site.
    pub fn plain(nat: NatConfig, address: impl Into<Ipv4Addr>, latency: Duration, inner: NetworkId) -> Self {
        let (link, pool) = (LinkConfig::with_latency(latency), Vec::new());
        Self { nat, outer: INTERNET, address: address.into(), pool, link, inner, site: SiteId(0) }
    }
}

/// A name, as a resolver of the world answers it.
#[derive(Clone, Debug)]
pub struct NameSpec {
    /// The name, without a port.
    pub name: String,
    /// What its addresses are, and from when on. Before the first entry, and where an entry is empty, it has none.
    pub records: Vec<(Duration, Vec<IpAddr>)>,
    /// How long an answer takes.
    pub delay: Duration,
}

impl NameSpec {
    /// A name that always has the same addresses, which are told at once.
    pub fn plain(name: impl Into<String>, addresses: impl Into<Vec<IpAddr>>) -> Self {
        let records = vec![(Duration::ZERO, addresses.into())];
        Self { name: name.into(), records, delay: Duration::ZERO }
    }
}

/// Networks, hosts, gateways and sites: what a world is made of.
#[derive(Clone, Debug)]
pub struct Topology {
    pub(crate) networks: Vec<String>,
    pub(crate) hosts: Vec<HostSpec>,
    pub(crate) gateways: Vec<GatewaySpec>,
    pub(crate) sites: Vec<String>,
    pub(crate) names: Vec<NameSpec>,
    pub(crate) latencies: BTreeMap<(SiteId, SiteId), Duration>,
}

/// Why a topology cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// A number names nothing.
    #[error("{0} does not exist")]
    Unknown(String),
    /// Two nodes have one address on one network.
    #[error("{address} is used twice on network {network}")]
    AddressTwice {
        /// The address of both.
        address: IpAddr,
        /// Name of the network on which both are.
        network: String,
    },
    /// Two gateways serve one inner network, or one serves the internet.
    #[error("network {0} has more than one way out")]
    WaysOut(String),
    /// An inner network has no gateway.
    #[error("network {0} has no way out")]
    NoWayOut(String),
    /// A gateway is behind itself.
    #[error("network {0} is behind itself")]
    Circle(String),
    /// A packet does not hold a TCP header and data.
    #[error("an MTU of {0} bytes is not from 576 to 65535")]
    Mtu(usize),
}

impl Default for Topology {
    fn default() -> Self {
        Self::new()
    }
}

impl Topology {
    /// The internet with one site and nobody on it.
    pub fn new() -> Self {
        Self {
            networks: vec!["internet".into()],
            hosts: Vec::new(),
            gateways: Vec::new(),
            sites: vec!["home".into()],
            names: Vec::new(),
            latencies: BTreeMap::new(),
        }
    }

    /// Adds a network; a gateway must lead out of it.
    pub fn network(&mut self, name: impl Into<String>) -> NetworkId {
        self.networks.push(name.into());
        NetworkId(self.networks.len() - 1)
    }

    /// Adds a site, with the same latency to and from all others.
    pub fn site(&mut self, name: impl Into<String>, latency: Duration) -> SiteId {
        let site = SiteId(self.sites.len());
        self.sites.push(name.into());
        for other in 0..site.0 {
            self.latencies.insert((SiteId(other), site), latency);
        }
        site
    }

    /// Adds a host. Whether it fits is checked when the world runs.
    pub fn host(&mut self, spec: HostSpec) -> HostId {
        self.hosts.push(spec);
        HostId(self.hosts.len() - 1)
    }

    /// Adds a gateway. Whether it fits is checked when the world runs.
    pub fn gateway(&mut self, spec: GatewaySpec) -> GatewayId {
        self.gateways.push(spec);
        GatewayId(self.gateways.len() - 1)
    }

    /// Adds a name, which all hosts can resolve. Each answer gives its addresses in another order, as name servers do.
    pub fn name(&mut self, spec: NameSpec) {
        self.names.push(spec);
    }

    /// Hosts of this topology.
    pub fn hosts(&self) -> &[HostSpec] {
        &self.hosts
    }

    /// Checks that nobody else has the address that a gateway is given while it runs.
    pub(crate) fn check_renumbering(&self, gateway: GatewayId, address: Ipv4Addr) -> Result<(), TopologyError> {
        let outer = self.gateways[gateway.0].outer;
        let is_host = self.hosts.iter().any(|host| host.network == outer && host.address == address);
        let mut pools = self.gateways.iter().filter(|other| other.outer == outer).flat_map(|other| &other.pool);
        if is_host || pools.any(|other| *other == address) {
            return Err(TopologyError::AddressTwice {
                address: address.into(),
                network: self.networks[outer.0].clone(),
            });
        }
        Ok(())
    }

    /// Checks that every packet has a way.
    ///
    /// # Errors
    /// The first thing that cannot be.
    pub fn check(&self) -> Result<(), TopologyError> {
        let mut addresses = BTreeSet::new();
        let hosts = self.hosts.iter().flat_map(|host| {
            let all = std::iter::once(host.address.into()).chain(host.also.iter().copied());
            all.map(|address: IpAddr| (host.network, address, host.site))
        });
        let gateways = self.gateways.iter().flat_map(|gateway| {
            let all = std::iter::once(gateway.address).chain(gateway.pool.iter().copied());
            all.map(|address| (gateway.outer, address.into(), gateway.site))
        });
        for (network, address, site) in hosts.chain(gateways) {
            let name = self.networks.get(network.0).ok_or_else(|| unknown("network", network.0))?;
            self.sites.get(site.0).ok_or_else(|| unknown("site", site.0))?;
            if !addresses.insert((network, address)) {
                return Err(TopologyError::AddressTwice { address, network: name.clone() });
            }
        }
        if let Some(host) = self.hosts.iter().find(|host| !(576..=65_535).contains(&host.tcp.mtu)) {
            return Err(TopologyError::Mtu(host.tcp.mtu));
        }
        let mut ways_out = BTreeMap::new();
        for gateway in &self.gateways {
            let name = self.networks.get(gateway.inner.0).ok_or_else(|| unknown("network", gateway.inner.0))?;
            if gateway.inner == INTERNET || ways_out.insert(gateway.inner, gateway.outer).is_some() {
                return Err(TopologyError::WaysOut(name.clone()));
            }
        }
        for (index, name) in self.networks.iter().enumerate() {
            let mut network = NetworkId(index);
            let mut passed = BTreeSet::new();
            while network != INTERNET {
                if !passed.insert(network) {
                    return Err(TopologyError::Circle(name.clone()));
                }
                network = *ways_out.get(&network).ok_or_else(|| TopologyError::NoWayOut(name.clone()))?;
            }
        }
        Ok(())
    }
}

fn unknown(what: &str, number: usize) -> TopologyError {
    TopologyError::Unknown(format!("{what} {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::preset;

    fn host(network: NetworkId, last: u8) -> HostSpec {
        HostSpec::plain(network, [10, 0, 0, last], Duration::ZERO)
    }

    fn gateway(outer: NetworkId, inner: NetworkId, last: u8) -> GatewaySpec {
        GatewaySpec {
            nat: preset::linux_masq_drop(),
            outer,
            address: [203, 0, 113, last].into(),
            pool: Vec::new(),
            link: LinkConfig::default(),
            inner,
            site: SiteId(0),
        }
    }

    #[test]
    fn mistakes_are_named() {
        let mut topology = Topology::new();
        let lan = topology.network("lan");
        topology.host(host(lan, 2));
        assert_eq!(topology.check(), Err(TopologyError::NoWayOut("lan".into())));
        topology.gateway(gateway(INTERNET, lan, 1));
        assert_eq!(topology.check(), Ok(()));
        let mut twice = topology.clone();
        twice.host(host(lan, 2));
        assert!(matches!(twice.check(), Err(TopologyError::AddressTwice { .. })));
        let mut two_ways = topology.clone();
        two_ways.gateway(gateway(INTERNET, lan, 2));
        assert!(matches!(two_ways.check(), Err(TopologyError::WaysOut(_))));
        let mut circle = topology.clone();
        let (a, b) = (circle.network("a"), circle.network("b"));
        circle.gateway(gateway(a, b, 3));
        circle.gateway(gateway(b, a, 4));
        assert!(matches!(circle.check(), Err(TopologyError::Circle(_))));
        let mut nowhere = topology;
        nowhere.host(host(NetworkId(9), 3));
        assert!(matches!(nowhere.check(), Err(TopologyError::Unknown(_))));
    }
}
