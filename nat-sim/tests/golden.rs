//! Goal: two hosts that punch see, packet for packet and to the tick, what Linux was measured to do, and
//! the punch succeeds and fails where it should. Method: small worlds; one way between the gateways is
//! 20 ms, hosts are right behind them, packets are written down as they leave a gateway. Traces of one
//! gateway alone are among the requirements.

#[path = "common/log.rs"]
mod log;

mod common;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use common::{Board, File, behind, millis};
use fmi_net::time::Instant;
use fmi_net::{ByteStream, Listener, Net};
use futures_util::future::{Either, select};
use nat_sim::nat::{NatConfig, preset};
use nat_sim::topology::{HostId, HostSpec, Topology};
use nat_sim::{Fault, SimNet, Sinks, World};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PORT: u16 = 40_000;
/// One way between two hosts behind gateways.
const D: u64 = 20;

/// How one side punches.
#[derive(Clone, Copy, Debug)]
struct Puncher {
    start: u64,
    /// Between a refusal and the next attempt; `None` is none.
    pause: Option<u64>,
    listens: bool,
    /// Whether it connects at all.
    connects: bool,
    gives_up_after: u64,
    /// Whether it leaves once both are connected. Otherwise it stays for 4 s, so that repetitions are seen.
    leaves: bool,
}

const AT_ONCE: Puncher =
    Puncher { start: 0, pause: None, listens: false, connects: true, gives_up_after: 3000, leaves: false };

async fn sleep(net: &SimNet, time: Duration) {
    let until = Net::now(net) + time;
    Net::sleep_until(net, until).await;
}

/// Connects and listens on one port. The time since the world began, and the stream.
async fn punch(net: &SimNet, to: SocketAddr, puncher: Puncher) -> Option<(u64, <SimNet as Net>::Stream)> {
    sleep(net, millis(puncher.start)).await;
    let local = SocketAddr::from(([0; 4], PORT));
    let mut listener = puncher.listens.then(|| net.listen(local, 8).expect("listens"));
    let limit = Net::now(net) + millis(puncher.gives_up_after);
    let connecting = async {
        loop {
            if !puncher.connects {
                std::future::pending::<()>().await;
            }
            match net.connect(local, to).await {
                Ok(stream) => return stream,
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => std::future::pending().await,
                Err(_) => {
                    if let Some(pause) = puncher.pause {
                        sleep(net, millis(pause)).await;
                    }
                }
            }
        }
    };
    let accepting = std::future::poll_fn(|cx| match &mut listener {
        Some(listener) => listener.poll_accept(cx),
        None => std::task::Poll::Pending,
    });
    let either = select(Box::pin(connecting), accepting);
    let won = match select(Box::pin(either), Box::pin(net.sleep_until(limit))).await {
        Either::Left((Either::Left((stream, _)), _)) => Some(stream),
        Either::Left((Either::Right((stream, _)), _)) => stream.ok(),
        Either::Right(_) => None,
    };
    won.map(|stream| (Net::now(net).since_origin().as_millis().try_into().expect("short"), stream))
}

struct Trace {
    /// When each side was connected.
    connected: [Option<u64>; 2],
    /// Time, sender's last octet and flags of each packet between the gateways.
    packets: Vec<(u64, String)>,
}

fn gateways(nats: [NatConfig; 2]) -> (Topology, Vec<HostId>) {
    let (topology, _, hosts) = behind(&nats, Duration::ZERO, millis(D / 2), millis(5));
    (topology, hosts)
}

fn run_world(topology: Topology, hosts: &[HostId], sides: [Puncher; 2], seed: u64, faults: &[(u64, Fault)]) -> Trace {
    let mut world = World::new(topology, seed, millis(1));
    let log = File::default();
    world.sinks(Sinks { pcap: None, log: Some(Box::new(log.clone())) });
    let board = Board::new();
    for (side, host) in hosts.iter().enumerate() {
        let peer = SocketAddr::from(([203, 0, 113, if side == 0 { 2 } else { 1 }], PORT));
        let (board, puncher) = (board.clone(), sides[side]);
        world.function(*host, Duration::ZERO, move |net| {
            let board = board.clone();
            async move {
                if let Some((at, stream)) = punch(&net, peer, puncher).await {
                    board.put((side, at));
                    let until = Net::now(&net) + millis(4000);
                    while Net::now(&net) < until && !(puncher.leaves && board.count() == 2) {
                        sleep(&net, millis(if puncher.leaves { D } else { 4000 })).await;
                    }
                    drop(stream);
                }
            }
        });
    }
    for (at, fault) in faults {
        world.fault(millis(*at), *fault);
    }
    world.run().expect("a world");
    let mut connected = [None; 2];
    for (side, at) in board.take() {
        connected[side] = Some(at);
    }
    let packets = log.packets("internet").into_iter().map(|(at, what)| (at, what.replace("203.0.113.", ""))).collect();
    Trace { connected, packets }
}

fn trace(nats: [NatConfig; 2], a: Puncher, b: Puncher) -> Trace {
    let (topology, hosts) = gateways(nats);
    run_world(topology, &hosts, [a, b], 1, &[])
}

/// Both gateways alike, the second side later by `skew`.
fn skewed(nat: NatConfig, skew: u64, pause: Option<u64>) -> Trace {
    let side = Puncher { pause, ..AT_ONCE };
    trace([nat, nat], side, Puncher { start: skew, ..side })
}

/// The same, when each side is connected alone: the world ends then.
fn meeting(nat: NatConfig, skew: u64, pause: Option<u64>) -> [Option<u64>; 2] {
    let side = Puncher { pause, leaves: true, ..AT_ONCE };
    trace([nat, nat], side, Puncher { start: skew, ..side }).connected
}

/// The packets before a time, in order of time and text.
fn opening(trace: &Trace, before: u64) -> Vec<(u64, &str)> {
    let mut packets: Vec<_> =
        trace.packets.iter().filter(|(at, _)| *at < before).map(|(at, what)| (*at, what.as_str())).collect();
    packets.sort_unstable();
    packets
}

#[test]
fn g_1_crossing_syns_take_one_round_trip() {
    let trace = skewed(preset::linux_masq_drop(), 0, None);
    assert_eq!(trace.connected, [Some(40), Some(40)]);
    let expected = [(0, "1 [S]"), (0, "2 [S]"), (20, "1 [S.]"), (20, "2 [S.]"), (40, "1 [.]"), (40, "2 [.]")];
    assert_eq!(opening(&trace, 1000), expected);
}

#[test]
fn g_2_a_skew_below_one_way_still_crosses() {
    let trace = skewed(preset::linux_masq_drop(), 13, None);
    assert_eq!(trace.connected, [Some(40), Some(53)]);
    let expected = [(0, "1 [S]"), (13, "2 [S]"), (20, "2 [S.]"), (33, "1 [S.]"), (40, "1 [.]"), (53, "2 [.]")];
    assert_eq!(opening(&trace, 1000), expected);
}

#[test]
fn g_3_a_larger_skew_needs_no_repetition() {
    let trace = skewed(preset::linux_masq_drop(), 25, None);
    assert_eq!(trace.connected, [Some(85), Some(65)]);
    assert_eq!(opening(&trace, 1000), [(0, "1 [S]"), (25, "2 [S]"), (45, "1 [S.]"), (65, "2 [.]")]);
}

#[test]
fn g_4_refused_at_once_and_again_at_once() {
    let trace = skewed(preset::linux_masq_rst(), 25, None);
    // A's first SYN is refused at 40; its second meets B's.
    assert_eq!(trace.connected, [Some(80), Some(65)]);
    let expected = [
        (0, "1 [S]"),
        (20, "2 [R.]"),
        (25, "2 [S]"),
        (40, "1 [S]"),
        (45, "1 [S.]"),
        (60, "2 [S.]"),
        (65, "2 [.]"),
        (80, "1 [.]"),
    ];
    assert_eq!(opening(&trace, 1000), expected);
}

#[test]
fn g_5_equal_fixed_pauses_lock_forever() {
    let trace = skewed(preset::linux_masq_rst(), 25, Some(100));
    assert_eq!(trace.connected, [None, None]);
    let first: Vec<_> = trace.packets.iter().filter(|(_, what)| what == "1 [S]").map(|(at, _)| *at).take(4).collect();
    assert_eq!(first, [0, 140, 280, 420], "refused each time, at the same phase");
}

#[test]
fn g_6_and_7_an_icmp_answer_leaves_a_trap() {
    for (listens, flags) in [(false, "[S]"), (true, "[S.]")] {
        let side = Puncher { pause: Some(100), listens, ..AT_ONCE };
        let nat = preset::linux_icmp();
        let trace = trace([nat, nat], side, Puncher { start: 25, ..side });
        assert_eq!(trace.connected, [None, None]);
        let leak = format!("10.0.0.2 {flags}");
        assert!(trace.packets.iter().any(|(_, what)| *what == leak), "it leaves with its private source");
    }
}

#[test]
fn g_8_two_random_gateways_never_meet() {
    let nat = preset::linux_random();
    let trace = trace([nat, nat], Puncher { listens: true, ..AT_ONCE }, Puncher { listens: true, ..AT_ONCE });
    assert_eq!(trace.connected, [None, None]);
    assert!(trace.packets.iter().all(|(_, what)| what.ends_with("[S]")), "SYNs only");
}

#[test]
fn g_9_a_stray_datagram_spoils_the_port() {
    let (mut topology, hosts) = gateways([preset::linux_masq_rst(), preset::linux_masq_drop()]);
    let stray = topology.host(common::host(nat_sim::topology::INTERNET, [198, 51, 100, 9], millis(10)));
    let mut world = World::new(topology, 1, millis(1));
    let board = Board::new();
    world.function(stray, Duration::ZERO, |net| async move {
        let socket = net.bind_udp(PORT).expect("free");
        socket.send_to(b"stray", SocketAddr::from(([203, 0, 113, 1], PORT))).expect("sent");
        sleep(&net, millis(2000)).await;
    });
    let heard = board.clone();
    world.function(hosts[0], millis(1000), move |net| {
        let heard = heard.clone();
        async move {
            let socket = net.bind_udp(PORT).expect("free");
            socket.send_to(b"punch", SocketAddr::from(([198, 51, 100, 9], PORT))).expect("sent");
            sleep(&net, millis(1000)).await;
            heard.put(socket.port());
        }
    });
    let log = File::default();
    world.sinks(Sinks { pcap: None, log: Some(Box::new(log.clone())) });
    world.run().expect("a world");
    assert_eq!(board.take(), [PORT]);
    let lines = log.lines("internet");
    let punched = lines.iter().find(|(at, what)| *at >= 1000 && what.starts_with("203.0.113.1:")).expect("sent");
    assert!(!punched.1.starts_with("203.0.113.1:40000 "), "{punched:?}");
}

#[test]
fn g_10_the_own_external_address_refuses_at_once() {
    let (mut topology, hosts) = gateways([preset::linux_masq_drop(), preset::linux_masq_drop()]);
    let network = topology.hosts()[hosts[0].0].network;
    let other = topology.host(HostSpec { address: [10, 0, 0, 3].into(), ..topology.hosts()[hosts[0].0].clone() });
    assert_eq!(topology.hosts()[other.0].network, network);
    let mut world = World::new(topology, 1, millis(1));
    let board = Board::new();
    let result = board.clone();
    world.function(other, Duration::ZERO, move |net| {
        let result = result.clone();
        async move {
            let error = net.connect(SocketAddr::from(([0; 4], PORT)), SocketAddr::from(([203, 0, 113, 1], PORT))).await;
            result.put((error.expect_err("refused").kind(), Net::now(&net)));
        }
    });
    world.run().expect("a world");
    assert_eq!(board.take(), [(io::ErrorKind::ConnectionRefused, Instant::ZERO)]);
}

/// G-18 and G-19: an address-filtering gateway lets a random one's SYN in, so its host must listen.
#[test]
fn g_18_and_19_who_filters_by_address_must_listen() {
    for listens in [true, false] {
        // The private port is kept, so that the peer's aim is known.
        let mut filtering = preset::rfc_strict();
        filtering.tcp.allocation = preset::home_rst().tcp.allocation;
        let a = Puncher { listens, ..AT_ONCE };
        let trace = trace([filtering, preset::linux_random()], a, Puncher { start: 30, ..AT_ONCE });
        let expected = if listens { [Some(30 + D + 2 * D), Some(30 + 2 * D)] } else { [None, None] };
        assert_eq!(trace.connected, expected, "listening: {listens}");
    }
}

/// G-20: three hosts behind one gateway with the same local port: the second and third get others,
/// and each pair with a server is still connected.
#[test]
fn g_20_hosts_behind_one_gateway_with_one_port_all_connect() {
    let (mut topology, rendezvous, hosts) = behind(&[preset::linux_masq_drop()], Duration::ZERO, millis(10), millis(5));
    let first = topology.hosts()[hosts[0].0].clone();
    let more = [3, 4].map(|last| topology.host(HostSpec { address: [10, 0, 0, last].into(), ..first.clone() }));
    let mut world = World::new(topology, 1, millis(1));
    let board = Board::new();
    let seen = board.clone();
    world.service(rendezvous, move |net| {
        let seen = seen.clone();
        async move {
            let mut listener = net.listen(SocketAddr::from(([0; 4], 80)), 8).expect("listens");
            loop {
                let mut stream = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.expect("accepted");
                seen.put(stream.peer_addr().expect("an address").port());
                let mut hello = [0; 1];
                stream.read_exact(&mut hello).await.expect("reads");
                stream.write_all(&hello).await.expect("writes");
            }
        }
    });
    let answers = Board::new();
    for (number, host) in (0u64..).zip(hosts.into_iter().chain(more)) {
        let answers = answers.clone();
        world.function(host, millis(number), move |net| {
            let answers = answers.clone();
            async move {
                let server = SocketAddr::new(common::RENDEZVOUS.into(), 80);
                let mut stream = net.connect(SocketAddr::from(([0; 4], PORT)), server).await.expect("connected");
                let mine = [u8::try_from(number).expect("small")];
                stream.write_all(&mine).await.expect("writes");
                let mut back = [9];
                stream.read_exact(&mut back).await.expect("reads");
                answers.put(back == mine);
            }
        });
    }
    world.run().expect("a world");
    assert_eq!(answers.take(), [true; 3]);
    let ports = board.take();
    assert_eq!(ports[0], PORT);
    assert!(ports[1] != PORT && ports[2] != PORT && ports[1] != ports[2], "{ports:?}");
}

/// G-21: another local port is another endpoint: what the peer was told does not hold for it.
#[test]
fn g_21_a_punch_from_another_port_fails() {
    let (topology, hosts) = gateways([preset::linux_masq_drop(); 2]);
    let mut world = World::new(topology, 1, millis(1));
    let board = Board::new();
    for (side, host) in hosts.into_iter().enumerate() {
        let board = board.clone();
        world.function(host, Duration::ZERO, move |net| {
            let board = board.clone();
            async move {
                // One side keeps its port, the other takes a fresh one.
                let local = SocketAddr::from(([0; 4], if side == 0 { PORT + 1 } else { PORT }));
                let peer = SocketAddr::from(([203, 0, 113, if side == 0 { 2 } else { 1 }], PORT));
                let limit = net.sleep_until(Instant::ZERO + millis(3000));
                let attempt = select(Box::pin(net.connect(local, peer)), Box::pin(limit)).await;
                board.put(matches!(attempt, Either::Left((Ok(_), _))));
            }
        });
    }
    world.run().expect("a world");
    assert_eq!(board.take(), [false, false]);
}

/// G-22: a mapping that expires while its host waits for its peer is gone.
#[test]
fn g_22_a_transitory_mapping_expires_while_waiting() {
    for (wait, stands) in [(29_000, true), (31_000, false)] {
        let early = Puncher { gives_up_after: 2, ..AT_ONCE };
        // The early side's SYN opens a hole of 30 s; then only the late side sends.
        let a = Puncher { listens: true, connects: false, start: 10, gives_up_after: 40_000, ..AT_ONCE };
        let (mut topology, mut hosts) = gateways([preset::gcp_eim(), preset::gcp_eim()]);
        hosts[1] = topology.host(common::host(nat_sim::topology::INTERNET, [198, 51, 100, 9], millis(10)));
        let mut world = World::new(topology, 1, millis(1));
        let board = Board::new();
        let result = board.clone();
        world.function(hosts[0], Duration::ZERO, move |net| {
            let result = result.clone();
            async move {
                let peer = SocketAddr::from(([198, 51, 100, 9], PORT));
                punch(&net, peer, early).await;
                let met = punch(&net, peer, a).await;
                result.put(met.is_some());
            }
        });
        let log = File::default();
        world.sinks(Sinks { pcap: None, log: Some(Box::new(log.clone())) });
        let seen = log.clone();
        world.function(hosts[1], millis(wait), move |net| {
            let seen = seen.clone();
            async move {
                // Where the early SYN came from.
                let (_, first) = seen
                    .lines("internet")
                    .into_iter()
                    .find(|(_, what)| what.starts_with("203.0.113.1:"))
                    .expect("a SYN");
                let from: SocketAddr = first.split(' ').next().expect("a source").parse().expect("an endpoint");
                let limit = Net::now(&net) + millis(3000);
                let attempt = net.connect(SocketAddr::from(([0; 4], PORT)), from);
                select(Box::pin(attempt), Box::pin(net.sleep_until(limit))).await;
            }
        });
        world.run().expect("a world");
        assert_eq!(board.take(), [stands], "after {wait} ms");
    }
}

/// G-23: an idle connection that a gateway forgets is found dead only when something is sent.
#[test]
fn g_23_an_idle_connection_is_reset_at_its_next_segment() {
    for (idle, expected) in [(349, None), (351, Some(io::ErrorKind::ConnectionReset))] {
        let (topology, rendezvous, hosts) = behind(&[preset::aws_natgw()], Duration::ZERO, millis(10), millis(5));
        let mut world = World::new(topology, 1, millis(1));
        world.limits(nat_sim::Limits { no_progress_max: Duration::from_secs(1000), ..nat_sim::Limits::default() });
        world.service(rendezvous, |net| async move {
            let mut listener = net.listen(SocketAddr::from(([0; 4], 80)), 8).expect("listens");
            let mut stream = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.expect("accepted");
            let mut byte = [0; 1];
            while stream.read_exact(&mut byte).await.is_ok() {
                stream.write_all(&byte).await.expect("writes");
            }
            std::future::pending().await
        });
        let board = Board::new();
        let result = board.clone();
        world.function(hosts[0], Duration::ZERO, move |net| {
            let result = result.clone();
            async move {
                let server = SocketAddr::new(common::RENDEZVOUS.into(), 80);
                let mut stream = net.connect(SocketAddr::from(([0; 4], 0)), server).await.expect("connected");
                sleep(&net, Duration::from_secs(idle)).await;
                stream.write_all(&[1]).await.expect("queued");
                let mut byte = [0; 1];
                result.put(stream.read_exact(&mut byte).await.err().map(|error| error.kind()));
            }
        });
        world.run().expect("a world");
        assert_eq!(board.take(), [expected], "after {idle} s");
    }
}

#[test]
fn skew_on_rst_gateways_has_its_dead_band_and_its_resonance() {
    // Period: a round trip and a pause of 100 ms. Connected iff the two SYNs cross in some period.
    for (skew, connects) in [
        (0, true),
        (10, true),
        (19, true),
        (30, false),
        (70, false),
        (110, false),
        (130, true),
        (140, true),
        (150, true),
        (170, false),
    ] {
        let connected = meeting(preset::linux_masq_rst(), skew, Some(100));
        assert_eq!(connected.iter().all(Option::is_some), connects, "skew of {skew} ms");
    }
}

/// P-27: silent gateways, any skew: to the millisecond.
#[test]
fn p_27_silent_gateways_connect_by_the_formula() {
    for skew in 0..400 {
        let connected = meeting(preset::linux_masq_drop(), skew, None);
        let expected = if skew < D { [2 * D, skew + 2 * D] } else { [skew + 3 * D, skew + 2 * D] };
        assert_eq!(connected, expected.map(Some), "skew of {skew} ms");
    }
}

/// P-28: gateways that refuse, no pause: every skew within 1.5 round trips of the later start.
#[test]
fn p_28_refusing_gateways_connect_without_a_pause() {
    // Where a SYN arrives in the tick in which a hole opens or closes, either may come first.
    for skew in (0..400).filter(|skew| skew % D != 0) {
        for connected in meeting(preset::linux_masq_rst(), skew, None) {
            assert!(connected.is_some_and(|at| at <= skew + 3 * D), "skew of {skew} ms: {connected:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// P-28: a fixed pause locks exactly the phases between a round trip and the period.
    #[test]
    fn p_28_a_pause_locks_the_phases_between_a_round_trip_and_the_period(skew in 0u64..400, pause in 1u64..120) {
        let period = 2 * D + pause;
        let (early, late) = ((skew + D) % period, (period + D - skew % period) % period);
        // As above.
        if skew % D == 0 || early % D == 0 || late % D == 0 {
            return Ok(());
        }
        let connected = meeting(preset::linux_masq_rst(), skew, Some(pause));
        let meets = skew < D || early < 2 * D || late < 2 * D;
        prop_assert_eq!(connected.iter().all(Option::is_some), meets, "skew {}, pause {}", skew, pause);
    }

    /// P-26: two losses, anywhere, do not keep a pair apart.
    #[test]
    fn p_26_a_simultaneous_open_survives_two_losses(skew in 0u64..60, first in 0u64..200, second in 0u64..200, seed: u64) {
        let (topology, hosts) = gateways([preset::linux_masq_drop(); 2]);
        let side = Puncher { listens: true, gives_up_after: 30_000, leaves: true, ..AT_ONCE };
        let lose = |at: u64, host: HostId| [(at, Fault::Lose(host, 1_000_000)), (at + 2, Fault::Lose(host, 0))];
        let mut faults = [lose(first, hosts[0]), lose(second, hosts[1])].concat();
        faults.sort_by_key(|(at, _)| *at);
        let trace = run_world(topology, &hosts, [side, Puncher { start: skew, ..side }], seed, &faults);
        prop_assert!(trace.connected.iter().all(Option::is_some), "{:?}", trace.connected);
    }

    /// P-29: two random gateways never meet without a spray.
    #[test]
    fn p_29_random_gateways_do_not_meet(seed: u64, skew in 0u64..50) {
        let (topology, hosts) = gateways([preset::linux_random(), preset::aws_natgw()]);
        let side = Puncher { listens: true, ..AT_ONCE };
        let trace = run_world(topology, &hosts, [side, Puncher { start: skew, ..side }], seed, &[]);
        prop_assert_eq!(trace.connected, [None, None]);
    }
}
