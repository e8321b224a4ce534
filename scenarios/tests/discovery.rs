//! Goal: the discovery that `fmi nat` runs finds the class that a gateway was configured with. Method: the
//! production client and rendezvous in the lab, before every preset; what it finds is compared with what the
//! configuration says.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fmi::net::discovery::discover;
use fmi::net::discovery::{Filtering, Finding, Mapping, Outcome, Ports};
use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi::net::{Listener, Net};
use nat_sim::link::LinkConfig;
use nat_sim::nat::{self, Allocation, Hairpin, NatConfig, OnSyn, PortClass, preset};
use nat_sim::topology::{GatewaySpec, HostId, HostSpec, INTERNET, SiteId, Topology};
use nat_sim::{SimNet, World};

const MAIN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const PORT: u16 = 7000;

fn host(network: nat_sim::topology::NetworkId, address: Ipv4Addr, also: Vec<IpAddr>) -> HostSpec {
    HostSpec { also, ..HostSpec::plain(network, address, Duration::from_millis(5)) }
}

/// A rendezvous with two addresses, and hosts behind one gateway.
fn world(config: NatConfig, hosts: u8, seed: u64) -> (World, Vec<HostId>) {
    let mut topology = Topology::new();
    let server = topology.host(host(INTERNET, MAIN, vec![OTHER.into()]));
    let inner = topology.network("lan");
    topology.gateway(GatewaySpec {
        nat: config,
        outer: INTERNET,
        address: [203, 0, 113, 1].into(),
        pool: Vec::new(),
        link: LinkConfig::with_latency(Duration::from_millis(5)),
        inner,
        site: SiteId(0),
    });
    let is_public = config.tcp.mapping == nat::Mapping::None;
    let network = if is_public { [198, 51, 100] } else { [10, 0, 0] };
    let hosts = (2..2 + hosts).map(|last| {
        let [a, b, c] = network;
        topology.host(host(inner, Ipv4Addr::new(a, b, c, last), Vec::new()))
    });
    let hosts = hosts.collect();
    let mut world = World::new(topology, seed, Duration::from_millis(1));
    world.service(server, |net| async move {
        let bound = Rendezvous::bind(net, (MAIN, PORT).into(), ServerConfig::default()).expect("bound");
        let others = [(MAIN, PORT + 1).into(), (OTHER, PORT).into(), (OTHER, PORT + 1).into()];
        match bound.with_vantages(&others).expect("bound").serve().await {}
    });
    (world, hosts)
}

fn find(world: World, host: HostId, start: Duration) -> Finding {
    let mut world = world;
    let found = Arc::new(Mutex::new(None));
    let result = found.clone();
    world.function(host, start, move |net| {
        let result = result.clone();
        async move {
            let finding = discover(&net, &format!("{MAIN}:{PORT}"), Duration::from_secs(60)).await.expect("it answers");
            *result.lock().expect("no panic") = Some(finding);
        }
    });
    let report = world.run().expect("a world");
    assert_eq!(report.stuck, None);
    let finding = found.lock().expect("no panic").take();
    finding.expect("found")
}

fn configured_mapping(config: &NatConfig) -> Mapping {
    match config.tcp.mapping {
        nat::Mapping::None => Mapping::None,
        nat::Mapping::EndpointIndependent | nat::Mapping::PreserveOverlap | nat::Mapping::OneToOne => {
            Mapping::EndpointIndependent
        }
        nat::Mapping::AddressDependent => Mapping::AddressDependent,
        nat::Mapping::AddressAndPortDependent | nat::Mapping::L4Proxy => Mapping::AddressAndPortDependent,
    }
}

fn configured_filtering(config: &NatConfig) -> Filtering {
    match config.tcp.filtering {
        nat::Filtering::EndpointIndependent => Filtering::EndpointIndependent,
        nat::Filtering::AddressDependent => Filtering::AddressDependent,
        nat::Filtering::AddressAndPortDependent => Filtering::AddressAndPortDependent,
    }
}

fn configured_ports(config: &NatConfig) -> Option<Ports> {
    let is_ephemeral_kept = |class: PortClass| class.may_keep(40_123);
    match (config.tcp.mapping, config.tcp.allocation) {
        (nat::Mapping::None | nat::Mapping::OneToOne, _) => Some(Ports::Preserved),
        (_, Allocation::Preserve(_)) if is_ephemeral_kept(config.tcp.ports) => Some(Ports::Preserved),
        (_, Allocation::Sequential { step, .. }) => Some(Ports::Sequential(i32::from(step))),
        (_, Allocation::Preserve(_) | Allocation::Random) => Some(Ports::Unpredictable),
        // Few ports may look like anything.
        (_, Allocation::Block { .. }) => None,
    }
}

#[test]
fn disc_1_2_and_4_discovery_finds_what_is_configured() {
    for preset in preset::ALL {
        let config = (preset.config)();
        let (world, hosts) = world(config, 1, 3);
        let finding = find(world, hosts[0], Duration::ZERO);
        assert_eq!(finding.mapping, Some(configured_mapping(&config)), "{}", preset.name);
        assert_eq!(finding.filtering, Some(configured_filtering(&config)), "{}", preset.name);
        if let (Some(expected), false) = (configured_ports(&config), preset.name == "linux_snat_range") {
            assert_eq!(finding.ports, Some(expected), "{}", preset.name);
        }
        let open = config.tcp.filtering == nat::Filtering::EndpointIndependent;
        let expected = match config.unsolicited.syn {
            _ if open => None,
            OnSyn::Drop | OnSyn::Hold { .. } | OnSyn::Sink => Some(Outcome::Silence),
            OnSyn::Reset | OnSyn::Icmp { code: 3 } => Some(Outcome::Refused),
            OnSyn::Icmp { .. } => Some(Outcome::Unreachable),
        };
        assert_eq!(finding.unsolicited, expected, "{}", preset.name);
        // Where the filter wants that both have sent, one side alone cannot see a hairpin.
        let hairpins = config.hairpin == Hairpin::ExternalSource && open;
        let expected = (config.tcp.mapping != nat::Mapping::None).then_some(hairpins);
        assert_eq!(finding.hairpin, expected, "{}", preset.name);
    }
}

/// Three mappings, three filters, chosen apart.
#[test]
fn disc_1_and_2_every_combination_is_told_apart() {
    use nat::{Filtering as F, Mapping as M};
    for mapping in [M::EndpointIndependent, M::AddressDependent, M::AddressAndPortDependent] {
        for filtering in [F::EndpointIndependent, F::AddressDependent, F::AddressAndPortDependent] {
            let mut config = preset::home_seq();
            (config.tcp.mapping, config.tcp.filtering) = (mapping, filtering);
            let (world, hosts) = world(config, 1, 5);
            let finding = find(world, hosts[0], Duration::ZERO);
            assert_eq!(finding.mapping, Some(configured_mapping(&config)), "{mapping:?} {filtering:?}");
            assert_eq!(finding.filtering, Some(configured_filtering(&config)), "{mapping:?} {filtering:?}");
        }
    }
}

async fn hold_ports(net: SimNet) {
    let mut streams = Vec::new();
    for _ in 0..2 {
        let stream = net.connect(([0; 4], 0).into(), SocketAddr::from((MAIN, PORT + 1))).await;
        streams.push(stream.expect("connected"));
    }
    let until = Net::now(&net) + Duration::from_secs(30);
    Net::sleep_until(&net, until).await;
}

/// Linux shares ports until they clash: a gateway of three ports, two of which another host uses
/// towards the vantage of the second step.
#[test]
fn disc_3_a_class_that_changes_under_load_is_seen_to_change() {
    let mut config = preset::linux_snat_range();
    config.tcp.ports = PortClass::Fixed(40_000, 40_002);
    let mapping = |loaded: bool, seed| {
        let (mut world, hosts) = world(config, 2, seed);
        if loaded {
            world.service(hosts[1], hold_ports);
        }
        find(world, hosts[0], Duration::from_secs(1)).mapping
    };
    let seeds = 1..12;
    assert!(seeds.clone().all(|seed| mapping(false, seed) == Some(Mapping::EndpointIndependent)));
    let changed = seeds.filter(|seed| mapping(true, *seed) == Some(Mapping::AddressAndPortDependent)).count();
    assert!(changed > 0, "it reads as address-and-port-dependent when its port is taken");
}

/// A listener of the lab on one address of two leaves the other to others.
#[test]
fn a_host_with_two_addresses_listens_on_each() {
    let mut topology = Topology::new();
    let server = topology.host(host(INTERNET, MAIN, vec![OTHER.into(), "2001:db8::1".parse().expect("v6")]));
    let client = topology.host(host(INTERNET, Ipv4Addr::new(192, 0, 2, 9), vec!["2001:db8::9".parse().expect("v6")]));
    let mut world = World::new(topology, 1, Duration::from_millis(1));
    world.service(server, |net| async move {
        let mut listener = net.listen((OTHER, 80).into(), 8).expect("listens");
        let mut six = net.listen("[2001:db8::1]:80".parse().expect("v6"), 8).expect("listens");
        let _first = std::future::poll_fn(|cx| listener.poll_accept(cx)).await;
        let _second = std::future::poll_fn(|cx| six.poll_accept(cx)).await;
        std::future::pending().await
    });
    let results = Arc::new(Mutex::new(Vec::new()));
    let shared = results.clone();
    world.function(client, Duration::ZERO, move |net| {
        let shared = shared.clone();
        async move {
            for to in [SocketAddr::from((MAIN, 80)), (OTHER, 80).into(), "[2001:db8::1]:80".parse().expect("v6")] {
                let unspecified = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let connected = net.connect(unspecified.parse().expect("an address"), to).await;
                shared.lock().expect("no panic").push(connected.map(|_| ()).map_err(|error| error.kind()));
            }
        }
    });
    world.run().expect("a world");
    let refused = Err(std::io::ErrorKind::ConnectionRefused);
    assert_eq!(*results.lock().expect("no panic"), [refused, Ok(()), Ok(())]);
}
