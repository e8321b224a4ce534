//! Goal: pairs and meshes connect in the time that physics leaves. Method: simulated time, over many
//! seeds and distances; equality where the time is determined, a bound at the 99th percentile where luck
//! has a part.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fmi::connect::Prepared;
use fmi::net::Net;
use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi::{Config, LinkInfo};
use nat_sim::nat::{NatConfig, preset};
use nat_sim::topology::{GatewaySpec, HostSpec, INTERNET, Topology};
use nat_sim::{World, stream};
use rand_core::Rng;
use scenarios::{Options, catalog};

const SERVER: ([u8; 4], u16) = ([192, 0, 2, 1], 7000);
const LAN: Duration = Duration::from_millis(1);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A pair whose functions are so far from the internet core; the second starts later, and both
/// have a connection to the rendezvous by then. The links of both, and the later start.
fn pair(nat: NatConfig, wan: [Duration; 2], server: Duration, late: Duration, seed: u64) -> [LinkInfo; 2] {
    let mut topology = Topology::new();
    let rendezvous = topology.host(HostSpec::plain(INTERNET, SERVER.0, server));
    let hosts = (1u8..).zip(wan).map(|(number, latency)| {
        let inner = topology.network(format!("lan-{number}"));
        topology.gateway(GatewaySpec::plain(nat, [203, 0, 113, number], latency, inner));
        topology.host(HostSpec::plain(inner, [10, 0, 0, 2], LAN))
    });
    let hosts: Vec<_> = hosts.collect();
    let mut world = World::new(topology, seed, millis(1));
    world.service(rendezvous, |net| async move {
        let bound = Rendezvous::bind(net, SERVER.into(), ServerConfig::default()).expect("bound");
        match bound.serve().await {}
    });
    let links = Arc::new(Mutex::new(Vec::new()));
    for (rank, host) in (0u32..).zip(hosts) {
        let links = links.clone();
        world.function(host, Duration::ZERO, move |net| {
            let links = links.clone();
            async move {
                let mut config = Config::new(rank, 2, "timing", "192.0.2.1:7000");
                config.key = Some(b"a key of 16 bytes".into());
                let mut prepared = Prepared::new(net.clone(), &config).await.expect("valid");
                prepared.warm().await.expect("the rendezvous answers");
                let start = fmi::time::Instant::ZERO + if rank == 1 { late } else { Duration::ZERO };
                Net::sleep_until(&net, start).await;
                let comm = prepared.join().await.expect("joined");
                let link = comm.links().next().expect("one peer");
                links.lock().unwrap_or_else(PoisonError::into_inner).push((rank, link));
                comm.leave().await;
            }
        });
    }
    let report = world.run().expect("a world");
    assert_eq!(report.stuck, None);
    let mut links = std::mem::take(&mut *links.lock().unwrap_or_else(PoisonError::into_inner));
    links.sort_by_key(|(rank, _)| *rank);
    [links[0].1, links[1].1]
}

/// The floor: `max(R_A, R_A / 2 + R_B / 2) + RTT` after the later peer's registration, A being the later.
#[test]
fn a_silent_pair_at_unequal_distances_connects_at_the_floor() {
    let late = Duration::from_secs(2);
    for (wan, server) in [([9, 9], 5), ([4, 30], 5), ([30, 4], 5), ([1, 60], 20), ([45, 2], 1)] {
        let (wan_, server_) = (wan.map(millis), millis(server));
        let links = pair(preset::linux_masq_drop(), wan_, server_, late, 3);
        let to_server = wan_.map(|wan| 2 * (LAN + wan + server_));
        let round_trip = 2 * (2 * LAN + wan_[0] + wan_[1]);
        let floor = to_server[1].max((to_server[0] + to_server[1]) / 2) + round_trip;
        let done = links.map(|link| link.connected_at.since_origin() - late);
        let slower = done[0].max(done[1]);
        assert!(
            slower >= floor && slower <= floor + millis(1),
            "gateways at {wan:?} ms, rendezvous at {server} ms: {done:?}, the floor is {floor:?}"
        );
    }
}

#[test]
fn refusing_nats_are_punched_in_one_and_a_half_round_trips_for_99_of_100() {
    const SEEDS: u64 = 1000;
    let mut trips = Vec::new();
    for seed in 0..SEEDS {
        let mut draw = stream(seed, nat_sim::Purpose::Workload, 9);
        let mut up_to = |bound: u64| millis(1 + draw.next_u64() % bound);
        let (wan, server, late) = ([up_to(40), up_to(40)], up_to(30), up_to(1000));
        let links = pair(preset::linux_masq_rst(), wan, server, Duration::from_secs(1) + late, seed);
        let round_trip = 2 * (2 * LAN + wan[0] + wan[1]);
        let later_start = links[0].addresses_known_at.max(links[1].addresses_known_at);
        let connected = links[0].connected_at.max(links[1].connected_at);
        // Halves of ticks do not exist.
        let spent = (connected - later_start).saturating_sub(millis(1));
        trips.push(spent.as_secs_f64() / round_trip.as_secs_f64());
    }
    trips.sort_by(f64::total_cmp);
    let at = |share: usize| trips[trips.len() * share / 100 - 1];
    assert!(at(99) <= 1.5, "median {:.2}, 99th percentile {:.2}, worst {:.2}", at(50), at(99), at(100));
}

#[test]
fn a_mesh_of_256_is_connected_within_three_seconds_of_the_last_start() {
    for nat in ["aws_lambda", "linux_masq_drop"] {
        let mut scenario = catalog::find_scenario("mesh-256").expect("in the catalogue");
        let gateway = preset::find(nat).expect("a preset");
        scenario.world.gateways.fill(gateway);
        let outcome = scenarios::run(&scenario, 1, Options::default());
        assert!(outcome.passed(), "{nat}: {:?}", outcome.violations);
        let last = outcome.joined_at.values().max().copied().expect("256 joined");
        assert_eq!(outcome.joined_at.len(), 256);
        let limit = Duration::from_secs(3) + scenario.world.start_jitter;
        assert!(last <= limit, "{nat}: {last:?}");
    }
}
