//! Goal: a group meets at whatever address of its servers works, over whichever family, soon. Method: the production code,
//! names with addresses of both families, and the world's clock.

mod common;

use std::net::IpAddr;
use std::time::Duration;

use common::{Board, KEY, RENDEZVOUS, RENDEZVOUS_PORT, behind, host, millis, ranks, serve};
use fmi::net::discovery::discover;
use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi::{Communicator, Config, Path, Technique};
use fmi_net::Net;
use nat_sim::nat::{Exhaustion, Ipv6, NatConfig, preset};
use nat_sim::topology::{GatewaySpec, HostId, INTERNET, NameSpec, SiteId, Topology};
use nat_sim::{Fault, SimNet, World};

/// The name that ranks have of their rendezvous, if it is one.
const NAME: &str = "rendezvous.example:7000";
/// The time of a join at which all works: the handshake, the registration, a SYN and its answer, the proof, the barrier.
const ALL_WELL: Duration = Duration::from_millis(140);
/// How long IPv6 waits for IPv4.
const DELAY: Duration = Duration::from_millis(250);

fn v4(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

fn v6(last: u16) -> IpAddr {
    [0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into()
}

/// Two ranks behind gateways, and servers on the internet.
struct Plan {
    gateways: [NatConfig; 2],
    /// What each rank calls its rendezvous.
    rendezvous: [&'static str; 2],
    names: Vec<NameSpec>,
    /// Of each server the last part of its addresses, and those that it serves.
    servers: Vec<(u8, Vec<IpAddr>)>,
    faults: Vec<(Duration, Fault)>,
    vantage: Option<&'static str>,
    /// A server that the first rank cannot reach.
    cut_off: Option<usize>,
}

/// What became of a rank.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Joined {
    rank: u32,
    after: Duration,
    path: Path,
    technique: Technique,
}

impl Plan {
    /// One server, of both families, with a name.
    fn new(addresses: &[IpAddr]) -> Self {
        Self {
            gateways: [preset::linux_masq_drop(); 2],
            rendezvous: [NAME; 2],
            names: vec![NameSpec::plain("rendezvous.example", addresses)],
            servers: vec![(1, vec![v4(1), v6(1)])],
            faults: Vec::new(),
            vantage: None,
            cut_off: None,
        }
    }

    /// The server is there, but for one family.
    fn serving(self, addresses: &[IpAddr]) -> Self {
        Self { servers: vec![(1, addresses.to_vec())], ..self }
    }

    /// Runs `program` on each rank.
    fn run<T: 'static, F: Future<Output = T> + 'static>(
        self,
        program: impl Fn(SimNet, Config) -> F + Clone + 'static,
    ) -> Vec<T> {
        let mut topology = Topology::new();
        let mut sites = [(SiteId(0), SiteId(0)); 2];
        if let Some(server) = self.cut_off {
            let here = topology.site("the first rank", millis(1));
            let there = topology.site("the server", millis(1));
            (sites[0].0, sites[server].1) = (here, there);
        }
        let mut servers = Vec::new();
        for (number, (last, _)) in self.servers.iter().enumerate() {
            let mut spec = host(INTERNET, [192, 0, 2, *last], millis(5));
            (spec.also, spec.site) = (vec![v6(u16::from(*last))], sites[number].1);
            servers.push(topology.host(spec));
        }
        let mut ranks = Vec::new();
        for (number, nat) in (1u8..).zip(self.gateways) {
            let inner = topology.network(format!("lan-{number}"));
            let site = sites[usize::from(number - 1)].0;
            topology.gateway(GatewaySpec { site, ..GatewaySpec::plain(nat, [203, 0, 113, number], millis(4), inner) });
            let mut spec = host(inner, [10, 0, 0, 2], millis(1));
            spec.site = site;
            spec.also = vec![v6(0x100 + u16::from(number))];
            ranks.push(topology.host(spec));
        }
        for name in self.names {
            topology.name(name);
        }
        let mut world = World::new(topology, 1, millis(1));
        for (host, (_, addresses)) in servers.into_iter().zip(self.servers) {
            world.service(host, move |net| serve_on(net, addresses.clone()));
        }
        for (at, fault) in self.faults {
            world.fault(at, fault);
        }
        if let Some(server) = self.cut_off {
            world.fault(Duration::ZERO, Fault::Cut(sites[0].0, sites[server].1));
        }
        let board = Board::new();
        for (rank, host) in (0u32..).zip(ranks) {
            let mut config = Config::new(rank, 2, "test", self.rendezvous[rank as usize]);
            (config.key, config.vantage) = (Some(KEY.into()), self.vantage.map(str::to_owned));
            let (board, program) = (board.clone(), program.clone());
            world.function(host, Duration::ZERO, move |net| {
                let (board, run) = (board.clone(), program(net, config.clone()));
                async move { board.put(run.await) }
            });
        }
        assert_eq!(world.run().expect("a world").stuck, None);
        board.take()
    }

    /// How the ranks came together, and how long that took the later one.
    fn joins(self) -> (Duration, Vec<Joined>) {
        let mut joined = self.run(|net, config| async move {
            let rank = config.rank;
            let comm = Communicator::connect(net.clone(), &config).await.expect("joined");
            let after = net.now().since_origin();
            let link = comm.links().next().expect("one peer");
            comm.leave().await;
            Joined { rank, after, path: link.path, technique: link.technique }
        });
        joined.sort_by_key(|it| it.rank);
        (joined.iter().map(|it| it.after).max().expect("two ranks"), joined)
    }

    fn time(self) -> Duration {
        self.joins().0
    }
}

async fn serve_on(net: SimNet, addresses: Vec<IpAddr>) {
    // One that serves nothing refuses.
    let [first, others @ ..] = addresses.as_slice() else { return std::future::pending().await };
    let others: Vec<_> = others.iter().map(|ip| (*ip, RENDEZVOUS_PORT).into()).collect();
    let bound = Rendezvous::bind(net, (*first, RENDEZVOUS_PORT).into(), ServerConfig::default());
    match bound.and_then(|it| it.with_vantages(&others)).expect("bound").serve().await {}
}

/// A gateway through which IPv4 does not get, in silence.
fn without_ipv4() -> NatConfig {
    let mut nat = preset::linux_masq_drop();
    (nat.limits.sessions_max, nat.exhaustion, nat.ipv6) = (0, Exhaustion::Drop, Ipv6::Open);
    nat
}

#[test]
fn a_name_with_both_families_costs_nothing() {
    let literal = Plan { rendezvous: ["192.0.2.1:7000"; 2], ..Plan::new(&[]) };
    let (time, joined) = Plan::new(&[v6(1), v4(1)]).joins();
    assert!(time <= ALL_WELL, "{time:?}");
    assert_eq!(time, literal.time());
    assert!(joined.iter().all(|it| it.path == Path::Direct));
}

#[test]
fn a_server_that_serves_ipv6_alone_is_found_at_once() {
    let time = Plan::new(&[v4(1), v6(1)]).serving(&[v6(1)]).time();
    assert!(time <= ALL_WELL, "{time:?}");
}

#[test]
fn a_dead_address_of_ipv4_costs_a_quarter_of_a_second() {
    let time = Plan::new(&[v4(99), v6(1)]).time();
    assert!((DELAY..=DELAY + ALL_WELL).contains(&time), "{time:?}");
}

#[test]
fn dead_addresses_of_a_family_are_passed_by() {
    for dead in [98, 99] {
        let time = Plan::new(&[v4(dead), v4(1)]).time();
        assert!(time <= DELAY + ALL_WELL, "{time:?}");
    }
}

#[test]
fn a_rank_whose_ipv4_is_lost_meets_the_others_over_ipv6() {
    let plan = Plan { gateways: [without_ipv4(), preset::linux_masq_drop()], ..Plan::new(&[v4(1), v6(1)]) };
    let (time, joined) = plan.joins();
    assert!((DELAY..=DELAY + ALL_WELL).contains(&time), "{time:?}");
    assert!(joined.iter().all(|it| it.path != Path::Relay), "{joined:?}");
    let both = Plan { gateways: [without_ipv4(); 2], ..Plan::new(&[v4(1), v6(1)]) };
    let (time, joined) = both.joins();
    assert!((DELAY..=DELAY + ALL_WELL).contains(&time), "{time:?}");
    assert!(joined.iter().all(|it| it.path != Path::Relay), "{joined:?}");
}

#[test]
fn ranks_without_a_family_in_common_are_relayed() {
    let without_ipv6 = NatConfig { ipv6: Ipv6::Drop, ..preset::linux_masq_drop() };
    let plan = Plan { gateways: [without_ipv4(), without_ipv6], ..Plan::new(&[v4(1), v6(1)]) };
    let (time, joined) = plan.joins();
    // The relay takes round trips of its own.
    assert!(time <= 2 * DELAY + ALL_WELL, "{time:?}");
    assert!(joined.iter().all(|it| it.path == Path::Relay), "{joined:?}");
}

#[test]
fn a_name_that_appears_later_is_waited_for() {
    let second = Duration::from_secs(1);
    let mut plan = Plan::new(&[]);
    plan.names[0].records = vec![(3 * second, vec![v4(1), v6(1)])];
    let time = plan.time();
    assert!((3 * second..=4 * second + ALL_WELL).contains(&time), "asked again once a second at least: {time:?}");
}

#[test]
fn a_slow_answer_is_waited_for_and_not_asked_for_again() {
    let second = Duration::from_secs(1);
    let mut plan = Plan::new(&[v4(1), v6(1)]);
    plan.names[0].delay = 7 * second;
    let time = plan.time();
    // The pause after a server that did not answer may just have begun.
    assert!((7 * second..=8 * second + ALL_WELL).contains(&time), "{time:?}");
}

#[test]
fn a_name_that_is_never_there_is_an_error_that_says_so() {
    let mut plan = Plan::new(&[]);
    plan.names.clear();
    let mut ended = plan.run(|net, mut config| async move {
        config.join_deadline = Duration::from_secs(5);
        let error = Communicator::connect(net.clone(), &config).await.expect_err("nobody there").to_string();
        (error, net.now().since_origin())
    });
    let (error, at) = ended.pop().expect("two ranks");
    assert_eq!(at, Duration::from_secs(5));
    assert!(error.contains("cannot resolve \"rendezvous.example:7000\""), "{error}");
}

#[test]
fn a_name_whose_addresses_die_is_resolved_again() {
    let second = Duration::from_secs(1);
    let moves = |dead: Vec<IpAddr>| {
        let mut plan = Plan::new(&[]);
        plan.servers.push((7, Vec::new()));
        plan.names[0].records = vec![(Duration::ZERO, dead), (2 * second, vec![v4(1), v6(1)])];
        plan.time()
    };
    let refused = moves(vec![v4(7), v6(7)]);
    assert!((2 * second..=3 * second + ALL_WELL).contains(&refused), "{refused:?}");
    // Silence is waited for as long as lost SYNs need.
    let silent = moves(vec![v4(98), v6(99)]);
    assert!((3 * second..=3 * second + millis(50) + ALL_WELL).contains(&silent), "{silent:?}");
}

#[test]
fn servers_in_any_order_are_the_same_servers() {
    let two = |rendezvous, serving: [&[IpAddr]; 2]| {
        let mut plan = Plan { rendezvous, ..Plan::new(&[]) };
        plan.names = vec![NameSpec::plain("a.example", [v4(1)]), NameSpec::plain("b.example", [v4(2)])];
        plan.servers = vec![(1, serving[0].to_vec()), (2, serving[1].to_vec())];
        plan.time()
    };
    let (ab, ba) = ("a.example:7000,b.example:7000", "B.example.:7000, a.example:7000");
    for (orders, serving, pause) in [
        ([ab, ba], [&[v4(1)][..], &[v4(2)]], Duration::ZERO),
        ([ba, ab], [&[v4(1)], &[v4(2)]], Duration::ZERO),
        // One that refuses is left after a pause.
        ([ab, ba], [&[], &[v4(2)]], millis(80)),
        ([ab, ba], [&[v4(1)], &[]], millis(80)),
    ] {
        let time = two(orders, serving);
        assert!(time <= ALL_WELL + pause, "{orders:?} {serving:?}: {time:?}");
    }
}

#[test]
fn ranks_that_disagree_about_who_is_dead_meet_by_turns() {
    let without = |server| {
        let mut plan = Plan { rendezvous: ["a.example:7000,b.example:7000"; 2], ..Plan::new(&[]) };
        plan.names = vec![NameSpec::plain("a.example", [v4(1)]), NameSpec::plain("b.example", [v4(2)])];
        plan.servers = vec![(1, vec![v4(1)]), (2, vec![v4(2)])];
        plan.cut_off = Some(server);
        plan.time()
    };
    let mut times = [0, 1].map(without);
    times.sort_unstable();
    // One of them is the first for both.
    assert!(times[0] <= ALL_WELL + millis(20), "{times:?}");
    assert!(times[1] <= Duration::from_secs(8) + ALL_WELL + millis(20), "{times:?}");
}

#[test]
fn a_name_of_two_machines_is_one_place_to_meet() {
    // Their addresses come in another order each time, as name servers give them.
    let mut plan = Plan::new(&[v4(1), v4(2)]);
    plan.servers.push((2, vec![v4(2)]));
    let time = plan.time();
    assert!(time <= ALL_WELL, "{time:?}");
}

#[test]
fn a_vantage_has_a_name_as_well() {
    let plan = || {
        let mut plan = Plan { gateways: [preset::linux_random(); 2], ..Plan::new(&[v4(1)]) };
        plan.names.push(NameSpec::plain("vantage.example", [v6(1), v4(1)]));
        plan
    };
    let of = |plan: Plan| plan.joins().1.into_iter().map(|it| it.technique).collect::<Vec<_>>();
    assert_eq!(of(Plan { vantage: Some("vantage.example:7001"), ..plan() }), [Technique::Relay; 2]);
    // One that has no address is done without; then NATs cannot be told apart.
    let mut without = Plan { vantage: Some("nowhere.example:7001"), ..Plan::new(&[v4(1)]) };
    without.gateways = [preset::linux_masq_drop(); 2];
    assert_eq!(of(without), [Technique::Punch; 2]);
}

/// A running group whose server is gone finds the next one by the same name, over the other family.
#[test]
fn a_running_group_comes_back_to_wherever_its_name_leads() {
    let second = Duration::from_secs(1);
    let mut plan = Plan::new(&[]);
    plan.servers = vec![(1, vec![v4(1)]), (2, vec![v6(2)])];
    plan.names[0].records = vec![(Duration::ZERO, vec![v4(1)]), (2 * second, vec![v4(99), v6(2)])];
    // The second rank vanishes in silence, which only a rendezvous that knows the group can tell.
    let (server, rank) = (HostId(0), HostId(3));
    plan.faults = vec![(2 * second, Fault::Kill(server)), (25 * second, Fault::Kill(rank))];
    let ended = plan.run(move |net, config| async move {
        let comm = Communicator::connect(net.clone(), &config).await.expect("joined");
        while comm.barrier().await.is_ok() {
            net.sleep_until(net.now() + millis(100)).await;
        }
        net.now().since_origin() - 25 * second
    });
    let [told] = ended.as_slice() else { panic!("one rank is left: {ended:?}") };
    assert!(*told <= fmi::FAILURE_BOUND + millis(200), "{told:?}");
}

/// `fmi nat` asks whichever address answers.
#[test]
fn a_nat_is_found_out_by_the_address_that_answers() {
    let (topology, rendezvous, hosts) = behind(&[preset::aws_lambda()], millis(1), millis(4), millis(5));
    let mut world = World::new(topology, 1, millis(1));
    serve(&mut world, rendezvous);
    let board = ranks(&mut world, &hosts, |net, _| async move {
        let name = format!("192.0.2.201:{RENDEZVOUS_PORT}|{RENDEZVOUS}:{RENDEZVOUS_PORT}");
        discover(&net, &name, Duration::from_secs(20)).await.map(|finding| finding.observed.ip())
    });
    assert_eq!(world.run().expect("a world").stuck, None);
    let found = board.take().remove(0).expect("one address answers");
    assert_eq!(found, IpAddr::from([203, 0, 113, 1]));
}
