//! Goal: nested gateways, sites, faults and resolutions do what they say to the production code.
//! Method: small groups that compute, results and times compared.

mod common;

use std::time::Duration;

use common::{Board, RENDEZVOUS, RENDEZVOUS_PORT, behind, config, host, millis, ranks, serve};
use fmi::{Communicator, Path};
use fmi_net::Net;
use fmi_net::time::Instant;
use nat_sim::link::LinkConfig;
use nat_sim::nat::{Filtering, NatConfig, preset};
use nat_sim::topology::{GatewayId, GatewaySpec, HostId, INTERNET, NetworkId, SiteId, Topology};
use nat_sim::{Fault, SimNet, World};

type Line = (u32, u64, Vec<Path>, Duration);

/// Joins, sums, sleeps and sums again; reports the sum, the paths and the time of the first result.
async fn compute(net: SimNet, rank: u32, size: u32, pause: Duration) -> Line {
    let comm = Communicator::connect(net.clone(), &config(rank, size)).await.expect("joined");
    let mut sum = [0u64];
    comm.allreduce(&[1 << rank], &mut sum, fmi::op::Sum).await.expect("reduced");
    let at = Net::now(&net).since_origin();
    Net::sleep_until(&net, Net::now(&net) + pause).await;
    comm.allreduce(&[1 << rank], &mut sum, fmi::op::Sum).await.expect("reduced again");
    let paths = comm.links().map(|link| link.path).collect();
    comm.barrier().await.expect("all here");
    comm.leave().await;
    (rank, sum[0], paths, at)
}

fn place(world: &mut World, hosts: &[HostId], pause: Duration) -> Board<Line> {
    let size = u32::try_from(hosts.len()).expect("few");
    ranks(world, hosts, move |net, rank| compute(net, rank, size, pause))
}

fn run(world: World, board: &Board<Line>, size: usize) -> Vec<Line> {
    let report = world.run().expect("a world");
    assert_eq!(report.stuck, None);
    let mut lines = board.take();
    lines.sort_unstable_by_key(|line| line.0);
    assert_eq!(lines.len(), size);
    assert!(lines.iter().all(|line| line.1 == (1 << size) - 1), "{lines:?}");
    lines
}

fn spec(outer: NetworkId, address: [u8; 4], inner: NetworkId, nat: NatConfig) -> GatewaySpec {
    let link = LinkConfig::with_latency(millis(1));
    GatewaySpec { nat, outer, address: address.into(), pool: Vec::new(), link, inner, site: SiteId(0) }
}

/// A gateway of a provider, a gateway of a home behind it, and functions on either.
fn nested() -> (Topology, HostId, Vec<HostId>) {
    let (mut topology, rendezvous, mut hosts) = behind(&[preset::rfc_strict()], millis(1), millis(2), millis(2));
    let provider = topology.network("provider");
    topology.gateway(spec(INTERNET, [203, 0, 113, 99], provider, preset::rfc_ideal()));
    for number in [1u8, 2] {
        let home = topology.network(format!("home-{number}"));
        topology.gateway(spec(provider, [100, 64, 0, number], home, preset::linux_masq_drop()));
        hosts.push(topology.host(host(home, [192, 168, 0, 2], millis(1))));
    }
    (topology, rendezvous, hosts)
}

/// Two gateways in a row map as one that does what both do: each pair of the preset's kind connects.
#[test]
fn two_homes_behind_two_carriers_connect() {
    let [carrier, home] = preset::double_nat();
    let (mut topology, rendezvous, _) = behind(&[], millis(1), millis(2), millis(2));
    let mut hosts = Vec::new();
    for number in [1u8, 2] {
        let access = topology.network(format!("carrier-{number}"));
        let lan = topology.network(format!("home-{number}"));
        topology.gateway(spec(INTERNET, [203, 0, 113, number], access, carrier));
        topology.gateway(spec(access, [100, 64, 0, 2], lan, home));
        hosts.push(topology.host(host(lan, [192, 168, 0, 2], millis(1))));
    }
    let mut world = World::new(topology, 1, millis(1));
    serve(&mut world, rendezvous);
    let board = place(&mut world, &hosts, Duration::ZERO);
    run(world, &board, 2);
}

#[test]
fn functions_behind_two_gateways_in_a_row_connect() {
    let (topology, rendezvous, hosts) = nested();
    let mut world = World::new(topology, 1, millis(1));
    serve(&mut world, rendezvous);
    let board = place(&mut world, &hosts, Duration::ZERO);
    // The two homes meet at the provider's gateway, which hairpins.
    let lines = run(world, &board, 3);
    assert!(lines.iter().all(|line| line.2 == [Path::Direct, Path::Direct]), "{lines:?}");
}

#[test]
fn results_and_times_do_not_depend_on_the_resolution() {
    let times = |resolution: Duration| {
        let nats = [preset::linux_masq_drop(), preset::aws_lambda(), preset::rfc_strict()];
        let (topology, rendezvous, hosts) = behind(&nats, millis(1), millis(3), millis(2));
        let mut world = World::new(topology, 5, resolution);
        serve(&mut world, rendezvous);
        let board = place(&mut world, &hosts, millis(50));
        run(world, &board, 3).into_iter().map(|line| line.3).collect::<Vec<_>>()
    };
    let coarse = times(millis(1));
    assert_eq!(coarse, times(Duration::from_micros(100)), "all latencies are whole milliseconds");
    assert_eq!(coarse, times(Duration::from_micros(10)));
}

#[test]
fn latencies_below_a_millisecond_are_exact() {
    let tick = Duration::from_micros(10);
    let latency = Duration::from_micros(130);
    let (topology, rendezvous, hosts) =
        behind(&[preset::aws_lambda(), preset::aws_lambda()], tick, latency - tick, latency);
    let mut world = World::new(topology, 5, tick);
    serve(&mut world, rendezvous);
    let board = place(&mut world, &hosts, Duration::ZERO);
    // One way, between the two or to the server, is 260 us. Both at once: handshake with the
    // rendezvous (2), registration and group (2), punch (2), proof (1), nomination (1),
    // acceptance (1), the join's barrier (1), one round of the allreduce (1).
    let lines = run(world, &board, 2);
    let slower = lines.iter().map(|line| line.3).max().expect("two");
    assert_eq!(slower, 11 * 2 * latency);
}

fn two_sites() -> (World, Vec<HostId>) {
    let mut topology = Topology::new();
    let far = topology.site("far", millis(5));
    let rendezvous = topology.host(host(INTERNET, RENDEZVOUS.octets(), millis(1)));
    let mut hosts = Vec::new();
    for last in [1u8, 2] {
        let mut spec = host(INTERNET, [1, 0, 0, last], millis(1));
        spec.site = if last == 2 { far } else { SiteId(0) };
        hosts.push(topology.host(spec));
    }
    let mut world = World::new(topology, 3, millis(1));
    serve(&mut world, rendezvous);
    (world, hosts)
}

#[test]
fn packets_between_sites_take_turmoils_latency() {
    let (mut world, hosts) = two_sites();
    let board = ranks(&mut world, &hosts, |net, number| async move {
        let begun = Net::now(&net);
        let server = (RENDEZVOUS, RENDEZVOUS_PORT).into();
        let stream = net.connect(([0, 0, 0, 0], 0).into(), server).await.expect("connected");
        let took = Net::now(&net) - begun;
        drop(stream);
        (number, took)
    });
    assert_eq!(world.run().expect("a world").stuck, None);
    let mut times = board.take();
    times.sort_unstable();
    assert_eq!(times, [(0, millis(4)), (1, millis(14))]);
}

#[test]
fn a_cut_between_sites_delays_and_a_crash_of_a_site_ends_its_functions() {
    let (mut world, hosts) = two_sites();
    let board = place(&mut world, &hosts, millis(500));
    world.fault(millis(400), Fault::Cut(SiteId(0), SiteId(1)));
    world.fault(millis(3400), Fault::Heal(SiteId(0), SiteId(1)));
    let lines = run(world, &board, 2);
    assert!(lines.iter().all(|line| line.3 < millis(400)), "the first result comes before the cut");

    let (mut world, hosts) = two_sites();
    let starts = Board::new();
    for host in &hosts {
        let starts = starts.clone();
        world.function(*host, Duration::ZERO, move |net| {
            let starts = starts.clone();
            async move {
                starts.put((net.address().octets()[3], Net::now(&net).since_origin()));
                Net::sleep_until(&net, Net::now(&net) + millis(2000)).await;
            }
        });
    }
    world.fault(millis(1000), Fault::CrashSite(SiteId(1)));
    world.fault(millis(1500), Fault::BounceSite(SiteId(1)));
    assert_eq!(world.run().expect("a world").stuck, None);
    let mut starts = starts.take();
    starts.sort_unstable();
    assert_eq!(starts, [(1, Duration::ZERO), (2, Duration::ZERO), (2, millis(1500))]);
}

/// The peer writes meanwhile, so that its host would be told by a reset of a connection that had been given up, before what
/// was sent on it is repeated.
#[test]
fn a_rank_that_leaves_does_not_give_up_what_a_cut_holds_back() {
    let (mut world, hosts) = two_sites();
    let board = ranks(&mut world, &hosts, |net, rank| async move {
        let comm = Communicator::connect(net.clone(), &config(rank, 2)).await.expect("joined");
        let mut word = [0u32];
        if rank == 0 {
            Net::sleep_until(&net, Instant::ZERO + millis(920)).await;
            comm.send(1, 1, &[7u32]).await.expect("sent");
        } else {
            // Its fourth repetition, after 3.2 s, is the first packet after the cut.
            Net::sleep_until(&net, Instant::ZERO + millis(1200)).await;
            comm.send(0, 1, &[8u32]).await.expect("sent");
            comm.recv(0, 1, &mut word).await.expect("what was sent before its sender left");
        }
        comm.leave().await;
        (rank, word[0])
    });
    world.fault(millis(900), Fault::Cut(SiteId(0), SiteId(1)));
    world.fault(millis(4250), Fault::Heal(SiteId(0), SiteId(1)));
    assert_eq!(world.run().expect("a world").stuck, None);
    let mut words = board.take();
    words.sort_unstable();
    assert_eq!(words, [(0, 0), (1, 7)]);
}

/// A gateway that forgets its sessions cuts what runs through it, if the next packet comes from outside: it is answered with
/// a reset, and the rank behind it is named. A packet from inside makes the session anew, and all goes on.
#[test]
fn a_rebooted_gateway_breaks_what_runs_through_it() {
    let mut cut = 0;
    for rebooted_at in [500, 507, 514, 521] {
        let (topology, rendezvous, hosts) =
            behind(&[preset::aws_lambda(), preset::linux_masq_rst()], millis(1), millis(1), millis(1));
        let mut world = World::new(topology, 3, millis(1));
        serve(&mut world, rendezvous);
        let board = ranks(&mut world, &hosts, |net, rank| async move {
            let comm = Communicator::connect(net.clone(), &config(rank, 2)).await.expect("joined");
            for _ in 0..400 {
                if let Err(error) = comm.barrier().await {
                    return (rank, error.peer());
                }
                Net::sleep_until(&net, Net::now(&net) + millis(10)).await;
            }
            (rank, None)
        });
        world.fault(millis(rebooted_at), Fault::RebootGateway(GatewayId(1)));
        assert_eq!(world.run().expect("a world").stuck, None);
        let mut ends = board.take();
        ends.sort_unstable();
        assert_eq!(ends.len(), 2);
        if ends != [(0, None), (1, None)] {
            assert_eq!(ends[0], (0, Some(1)), "rank 0 loses rank 1");
            cut += 1;
        }
    }
    assert!((1..4).contains(&cut), "{cut} of 4 were cut");
}

/// Behind two gateways that map per remote and admit anybody, each side's SYN reaches the other's
/// listener from an unexpected port: two connections, of which both sides must keep the same one.
#[test]
fn two_connections_of_a_pair_come_down_to_one() {
    let mut open = preset::linux_random();
    open.tcp.filtering = Filtering::EndpointIndependent;
    for seed in 0..50 {
        let (topology, rendezvous, hosts) = behind(&[open, open, open], millis(1), millis(3), millis(2));
        let mut world = World::new(topology, seed, millis(1));
        serve(&mut world, rendezvous);
        let board = place(&mut world, &hosts, millis(10));
        run(world, &board, 3);
    }
}
