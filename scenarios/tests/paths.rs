//! Goal: a pair that cannot meet directly is relayed soon, what cannot work is tried little, and times follow the distance.
//! Method: simulated time and numbers of attempts, in worlds whose functions may not connect to everywhere.

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fmi::net::Net;
use fmi::time::Instant;
use fmi::{Communicator, Path};
use nat_sim::SimNet;
use nat_sim::nat::preset::{Preset, aws_natgw, find, gcp_default};
use nat_sim::nat::{Allocation, NatConfig};
use scenarios::{Context, Failure, Options, Outcome, Program, Scenario, WorldSpec};

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Where the servers of the lab listen.
const SERVER_PORT: u16 = 7000;
/// Their address of IPv4.
const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// What becomes of an attempt that is not let out.
#[derive(Clone, Copy, Debug)]
enum Shut {
    /// Nothing answers.
    Silent,
    /// The machine, or a gateway next to it, says so.
    Says(io::ErrorKind),
}

/// Which attempts of a rank are not let out, and how.
#[derive(Clone, Copy, Debug)]
struct Rule {
    ranks: &'static [u32],
    how: Shut,
    is_shut: fn(SocketAddr) -> bool,
}

/// The network of a host that does not let everything out. It counts attempts.
#[derive(Clone, Debug)]
struct Egress {
    net: SimNet,
    rules: Vec<Rule>,
    connects: Arc<AtomicUsize>,
}

impl Net for Egress {
    type Stream = <SimNet as Net>::Stream;
    type Listener = <SimNet as Net>::Listener;

    fn now(&self) -> Instant {
        Net::now(&self.net)
    }

    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send + 'static {
        Net::sleep_until(&self.net, at)
    }

    fn fill_entropy(&self, bytes: &mut [u8]) {
        self.net.fill_entropy(bytes);
    }

    fn machine(&self) -> fmi::net::Machine {
        Net::machine(&self.net)
    }

    fn connect(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send + 'static {
        let how = self.rules.iter().find(|rule| (rule.is_shut)(remote)).map(|rule| rule.how);
        if remote.ip() != SERVER {
            self.connects.fetch_add(1, Ordering::Relaxed);
        }
        let connect = self.net.connect(local, remote);
        async move {
            match how {
                Some(Shut::Silent) => pending().await,
                Some(Shut::Says(kind)) => Err(kind.into()),
                None => connect.await,
            }
        }
    }

    fn listen(&self, local: SocketAddr, backlog: u32) -> io::Result<Self::Listener> {
        self.net.listen(local, backlog)
    }

    fn resolve(&self, name: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static {
        self.net.resolve(name)
    }
}

/// What came of a group: when the last rank had joined, over which paths, and the most attempts of a rank to reach others.
#[derive(Clone, Debug, PartialEq)]
struct Formed {
    after: Duration,
    relayed: usize,
    links: usize,
    connects: usize,
}

/// Forms a group in a world, of which some ranks may not connect to everywhere.
fn form(world: WorldSpec, rules: &[Rule], seed: u64) -> Formed {
    let rules = rules.to_vec();
    let mut config = Program::config();
    config.join_deadline = Duration::from_secs(60);
    let program = Program::alone(config, async move |context: &Context| {
        let own = rules.iter().filter(|rule| rule.ranks.contains(&context.rank())).copied().collect();
        let net = Egress { net: context.net().clone(), rules: own, connects: Arc::default() };
        let comm = Communicator::connect(net.clone(), context.config()).await?;
        let relayed = comm.links().filter(|link| link.path == Path::Relay).count();
        let connects = net.connects.load(Ordering::Relaxed);
        context.record("joined", &format!("{relayed} {} {connects}", comm.links().count()));
        comm.leave().await;
        Ok::<(), Failure>(())
    });
    let scenario = Scenario::new("paths", "a group whose members may not connect to everywhere", world, program);
    let outcome = scenarios::run(&scenario, seed, Options::default());
    assert!(outcome.passed(), "seed {seed}: {:?}", outcome.violations);
    formed(&outcome)
}

fn formed(outcome: &Outcome) -> Formed {
    let mut formed = Formed { after: Duration::ZERO, relayed: 0, links: 0, connects: 0 };
    for record in outcome.records.iter().filter(|record| record.what == "joined") {
        let numbers: Vec<usize> =
            record.detail.split(' ').map(|number| number.parse().expect("a number of its own")).collect();
        formed.after = formed.after.max(record.at);
        formed.relayed += numbers[0];
        formed.links += numbers[1];
        formed.connects = formed.connects.max(numbers[2]);
    }
    formed
}

/// `size` functions 40 ms from each other and 30 ms from the rendezvous.
fn world(size: usize, gateway: &str) -> WorldSpec {
    far_apart(size, find(gateway).expect("a preset"), millis(9))
}

fn far_apart(size: usize, gateway: Preset, wan: Duration) -> WorldSpec {
    let mut world = WorldSpec::region(size, gateway);
    (world.lan, world.wan, world.server) = (millis(1), wan, millis(5));
    world
}

fn preset(config: fn() -> NatConfig) -> Preset {
    Preset { name: "one of these tests", about: "", source: "", assumed: "", config }
}

/// The time in which a relay must stand that nothing stands in the way of.
const SOON: Duration = millis(500);
/// Attempts of a rank where nothing answers, or its machine says that nothing gets out.
const FEW: usize = 3;
/// The same where each is refused, as by a NAT that is to be punched.
const FEW_REFUSED: usize = 80;
/// What is tried of what leads back from a gateway to its own network.
const BURST: usize = 25;

const ELSEWHERE: fn(SocketAddr) -> bool = |to| to.ip() != SERVER;
const OTHER_PORTS: fn(SocketAddr) -> bool = |to| to.port() != SERVER_PORT;

fn is_relayed_soon(name: &str, world: WorldSpec, rules: &[Rule]) {
    let refused = [io::ErrorKind::ConnectionRefused, io::ErrorKind::HostUnreachable];
    let is_refused = rules.iter().any(|rule| matches!(rule.how, Shut::Says(kind) if refused.contains(&kind)));
    is_relayed_soon_after(if is_refused { FEW_REFUSED } else { FEW }, name, world, rules);
}

fn is_relayed_soon_after(connects: usize, name: &str, world: WorldSpec, rules: &[Rule]) {
    let pair = form(world, rules, 1);
    assert_eq!((pair.relayed, pair.links), (2, 2), "{name}: {pair:?}");
    assert!(pair.after <= SOON, "{name}: {pair:?}");
    assert!(pair.connects <= connects, "{name}: {pair:?}");
}

#[test]
fn a_rank_that_is_told_that_it_has_no_way_is_relayed_soon() {
    for kind in [
        io::ErrorKind::NetworkUnreachable,
        io::ErrorKind::HostUnreachable,
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::NetworkDown,
        io::ErrorKind::ConnectionRefused,
    ] {
        let how = Shut::Says(kind);
        for ranks in [&[0][..], &[1], &[0, 1]] {
            let rule = Rule { ranks, how, is_shut: ELSEWHERE };
            is_relayed_soon(&format!("{kind:?} on {ranks:?}"), world(2, "linux_masq_drop"), &[rule]);
        }
    }
}

#[test]
fn a_rank_that_may_connect_to_one_port_alone_is_relayed_soon() {
    for how in [Shut::Silent, Shut::Says(io::ErrorKind::ConnectionRefused)] {
        for ranks in [&[0][..], &[1], &[0, 1]] {
            let rule = Rule { ranks, how, is_shut: OTHER_PORTS };
            is_relayed_soon(&format!("{how:?} on {ranks:?}"), world(2, "linux_masq_drop"), &[rule]);
        }
    }
}

/// Peers see the packets of such a rank come from elsewhere than the rendezvous does.
#[test]
fn a_rank_with_two_ways_out_is_relayed_soon() {
    for ranks in [&[0][..], &[1], &[0, 1]] {
        let rule = Rule { ranks, how: Shut::Silent, is_shut: ELSEWHERE };
        is_relayed_soon(&format!("{ranks:?}"), world(2, "linux_masq_drop"), &[rule]);
    }
}

#[test]
fn ranks_without_a_family_in_common_are_relayed_at_once() {
    let mut both = world(2, "linux_masq_drop");
    both.ipv6 = true;
    let how = Shut::Says(io::ErrorKind::NetworkUnreachable);
    let rules =
        [Rule { ranks: &[0], how, is_shut: |to| to.is_ipv6() }, Rule { ranks: &[1], how, is_shut: |to| to.is_ipv4() }];
    is_relayed_soon("IPv4 and IPv6", both, &rules);
}

/// Behind Cloud NAT each VM has 64 ports unless more are asked for, and each remote endpoint takes one.
#[test]
fn the_ports_of_a_nat_are_left_to_the_relay_where_both_ports_are_random() {
    let gateway = preset(|| {
        let mut config = gcp_default();
        config.tcp.allocation = Allocation::Block { ports: 64, blocks_per_host_max: 1 };
        config
    });
    for (size, seed) in [(34, 1), (34, 2), (48, 1)] {
        let group = form(far_apart(size, gateway, millis(9)), &[], seed);
        // So many ask one after the other.
        assert!(group.after <= SOON + millis(100), "{size}: {group:?}");
    }
    let pair = form(far_apart(2, preset(aws_natgw), millis(9)), &[], 1);
    assert_eq!((pair.relayed, pair.connects), (2, 0), "{pair:?}");
}

/// Two ports of one small block lie close together once in eight times, and look like a counter's.
#[test]
fn a_wrong_prediction_costs_a_quarter_of_a_second() {
    let late: Vec<_> = (0..24)
        .map(|seed| (seed, form(world(4, "gcp_default"), &[], seed)))
        .filter(|(_, group)| group.after > SOON)
        .collect();
    assert_eq!(late, [], "of 24");
}

#[test]
fn ranks_by_satellite_take_round_trips_and_no_rounds() {
    for (gateway, wan) in [("linux_masq_drop", 600), ("aws_natgw", 600), ("rfc_strict", 300)] {
        let wan = millis(wan);
        let pair = form(far_apart(2, find(gateway).expect("a preset"), wan), &[], 1);
        // To the rendezvous, to register and to be handed out, and at most seven ways to the peer or through the relay.
        assert!(pair.after <= 2 * (2 * wan) + 7 * (2 * wan) + millis(200), "{gateway}: {pair:?}");
    }
}

#[test]
fn behind_one_nat_without_hairpin_that_is_no_network_a_pair_is_relayed_after_a_round_trip_of_silence() {
    let inside: fn(SocketAddr) -> bool = |to| matches!(to.ip(), IpAddr::V4(ip) if ip.is_private());
    for gateway in ["linux_masq_drop", "linux_masq_rst", "gcp_eim", "home_seq", "aws_natgw"] {
        for how in [Shut::Silent, Shut::Says(io::ErrorKind::HostUnreachable)] {
            let mut one = world(2, gateway);
            one.gateways.truncate(1);
            one.functions[1].gateway = Some(0);
            // Its own gateway may refuse what would come back to it.
            is_relayed_soon_after(FEW_REFUSED + BURST, gateway, one, &[Rule { ranks: &[0, 1], how, is_shut: inside }]);
        }
    }
}

/// To the rendezvous, to register and to be handed out, to the peer, to prove and to keep: then all know that all do.
#[test]
fn a_small_group_ends_its_join_by_one_exchange() {
    for size in [2, 3, 4, 8, 16] {
        let group = form(world(size, "linux_masq_drop"), &[], 1);
        let (to_server, to_peer) = (millis(30), millis(40));
        assert!(group.after <= 2 * to_server + to_peer * 7 / 2, "{size}: {group:?}");
    }
}
