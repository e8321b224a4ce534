//! The networks of a world: where its gateways, functions, rendezvous and attacker are, and under which addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use fmi_proto::race::{canonical, weight};
use fmi_proto::rendezvous::GroupId;
use nat_sim::link::LinkConfig;
use nat_sim::nat::Mapping;
use nat_sim::topology::{GatewaySpec, HostId, HostSpec, INTERNET, SiteId, TcpConfig, Topology};

use crate::scenario::{Target, WorldSpec};

/// Endpoint of the first rendezvous.
pub(crate) const SERVER: (Ipv4Addr, u16) = (SERVER_ADDRESS, 7000);
const SECOND_SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 2), 7000);
/// Last part of the IPv6 address of the first server.
const SERVER_V6: usize = 0xff00;
const ATTACKER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
/// Address of the first host on the internet.
pub(crate) const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The hosts of a world.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) rendezvous: Vec<HostId>,
    pub(crate) attacker: Option<HostId>,
    pub(crate) functions: Vec<HostId>,
}

impl Layout {
    /// Puts the servers into the order in which a group turns to them.
    fn prefer(&mut self, spec: &WorldSpec, group: &GroupId) {
        let names = rendezvous_names(spec);
        let mut servers: Vec<_> = names.split(',').zip(self.rendezvous.iter().copied()).collect();
        servers.sort_by_key(|(name, _)| weight(group, &canonical(name)));
        self.rendezvous = servers.into_iter().map(|(_, host)| host).collect();
    }

    /// The host that a fault hits.
    pub(crate) fn host(&self, target: Target) -> HostId {
        match target {
            Target::Rank(rank) => self.functions[rank as usize],
            Target::Rendezvous => self.rendezvous[0],
            Target::SecondRendezvous => self.rendezvous[1],
        }
    }
}

/// Builds the networks of a world for a group.
pub(crate) fn topology_for(spec: &WorldSpec, group: &GroupId) -> (Topology, Layout) {
    let (topology, mut layout) = topology(spec);
    layout.prefer(spec, group);
    (topology, layout)
}

/// Builds the networks of a world.
pub(crate) fn topology(spec: &WorldSpec) -> (Topology, Layout) {
    let mut topology = Topology::new();
    for (number, latency) in (1..).zip(&spec.sites) {
        topology.site(format!("site {number}"), *latency);
    }
    let link = |latency| LinkConfig { latency, jitter: spec.link_jitter, ..LinkConfig::default() };
    let v6 = |last: usize| -> Vec<IpAddr> {
        let last = u16::try_from(last).expect("at most 4,096 functions");
        spec.ipv6.then(|| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])).into_iter().collect()
    };
    let on_internet = |address, also| HostSpec {
        also,
        link: link(spec.server),
        tcp: TcpConfig { receive_bytes: 8 << 10, ..spec.tcp },
        ..HostSpec::plain(INTERNET, address, spec.server)
    };
    let servers = [SERVER, SECOND_SERVER].into_iter().zip([SERVER_V6, SERVER_V6 + 1]).take(spec.servers);
    let rendezvous = servers.map(|((address, _), last)| topology.host(on_internet(address, v6(last)))).collect();
    let attacker = spec.attack.map(|_| topology.host(on_internet(ATTACKER, Vec::new())));
    let mut networks = Vec::new();
    for (number, preset) in spec.gateways.iter().enumerate() {
        let site = spec.functions.iter().find(|function| function.gateway == Some(number));
        let inner = topology.network(format!("lan-{number}"));
        networks.push(inner);
        topology.gateway(GatewaySpec {
            nat: (preset.config)(),
            outer: INTERNET,
            address: gateway_address(number + 1),
            pool: Vec::new(),
            link: link(spec.wan),
            inner,
            site: SiteId(site.map_or(0, |function| function.site)),
        });
    }
    // Private addresses repeat from network to network, as they do.
    let mut hosts_on = vec![0usize; networks.len()];
    let functions = spec.functions.iter().enumerate().map(|(rank, function)| {
        let (network, address, latency) = match function.gateway {
            Some(gateway) => {
                hosts_on[gateway] += 1;
                let [high, low] = octets(hosts_on[gateway] + 1);
                let is_public = (spec.gateways[gateway].config)().tcp.mapping == Mapping::None;
                let [_, unique] = octets(gateway);
                let address = if is_public { [198, 18, unique, low] } else { [10, 0, high, low] };
                (networks[gateway], address, spec.lan)
            }
            None => (INTERNET, internet_address(rank).octets(), spec.lan + spec.wan),
        };
        let link = link(latency).losing(spec.loss / 2.0);
        let site = SiteId(function.site);
        let also = v6(rank + 1);
        topology.host(HostSpec { also, link, site, tcp: spec.tcp, ..HostSpec::plain(network, address, latency) })
    });
    let functions = functions.collect();
    (topology, Layout { rendezvous, attacker, functions })
}

/// Outer address of a gateway, counted from 1.
pub(crate) fn gateway_address(number: usize) -> Ipv4Addr {
    let [high, low] = octets(number);
    [203, 0, high, low].into()
}

/// Address of the function of a rank that has no gateway.
pub(crate) fn internet_address(rank: usize) -> Ipv4Addr {
    let [high, low] = octets(rank + 1);
    [198, 51, high, low].into()
}

fn octets(number: usize) -> [u8; 2] {
    u16::try_from(number).expect("at most 4,096 functions").to_be_bytes()
}

/// What functions are told of the rendezvous.
pub(crate) fn rendezvous_names(spec: &WorldSpec) -> String {
    let names = [SERVER, SECOND_SERVER].into_iter().zip([SERVER_V6, SERVER_V6 + 1]).take(spec.servers);
    let names = names.map(|((ip, port), last)| {
        let v4 = SocketAddr::from((ip, port));
        if spec.ipv6 { format!("{v4}|[2001:db8::{last:x}]:{port}") } else { v4.to_string() }
    });
    names.collect::<Vec<_>>().join(",")
}
