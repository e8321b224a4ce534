//! Gateways: the same topology in network namespaces with nftables and in nat-sim, the same script of packets through
//! both; verdicts, translated endpoints and the tracker's state must agree after each packet. Random ports are compared by
//! what they are equal to.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use fmi_net::time::Instant;
use nat_sim::nat::{Nat, NatConfig, OnEcho, OnStray, OnSyn, Side, SnapshotRow, Unsolicited, Verdict, preset};
use nat_sim::packet::{Echo, Packet, Segment, Transport};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::lab::{EXTERNAL, Entry, HOSTS, Lab, MIDDLE, REMOTES};
use crate::trials::{Case, Needs, case};

/// One kind of gateway, in nftables and here.
struct Variant {
    name: &'static str,
    /// What becomes of packets on their way out.
    nat: &'static str,
    /// What becomes of those from the WAN that nobody asked for.
    policy: &'static str,
    config: fn() -> NatConfig,
}

fn rejecting_tcp() -> NatConfig {
    let unsolicited =
        Unsolicited { syn: OnSyn::Reset, segment: OnStray::Reset, datagram: OnStray::Drop, echo: OnEcho::Drop };
    NatConfig { unsolicited, ..preset::linux_masq_drop() }
}

const RESET: &str = "meta l4proto tcp reject with tcp reset; drop";

const VARIANTS: &[Variant] = &[
    Variant { name: "drop", nat: "masquerade", policy: "drop", config: preset::linux_masq_drop },
    Variant { name: "rst", nat: "masquerade", policy: RESET, config: rejecting_tcp },
    Variant { name: "acc", nat: "masquerade", policy: "accept", config: preset::linux_masq_rst },
    Variant {
        name: "icmp",
        nat: "masquerade",
        policy: "reject with icmp port-unreachable",
        config: preset::linux_icmp,
    },
    Variant { name: "rnd", nat: "masquerade random", policy: "drop", config: preset::linux_random },
    Variant { name: "full", nat: "masquerade fully-random", policy: "drop", config: preset::linux_random },
    Variant {
        name: "range",
        nat: "ip protocol tcp snat to 203.0.113.1:40000-40999; ip protocol udp snat to 203.0.113.1:40000-40999; ip protocol icmp masquerade",
        policy: "drop",
        config: preset::linux_snat_range,
    },
];

impl Variant {
    fn rules(&self) -> String {
        let nat: String = self.nat.split("; ").map(|rule| format!("oifname \"wan\" {rule}; ")).collect();
        let policy: String = self.policy.split("; ").map(|rule| format!("iifname \"wan\" {rule}; ")).collect();
        format!(
            "table ip gate {{
               chain post {{ type nat hook postrouting priority srcnat; {nat} }}
               chain input {{ type filter hook input priority filter; ct state established,related accept; {policy} }}
               chain forward {{ type filter hook forward priority filter; ct state established,related accept; {policy} }}
             }}"
        )
    }
}

/// A packet of a script. Ports of the outside are named by the host that holds them inside.
#[derive(Clone, Copy, Debug)]
struct Step {
    from: Side,
    host: usize,
    port: u16,
    remote: usize,
    remote_port: u16,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Tcp(Segment),
    Udp,
    Echo,
    /// An ICMP error about the flow, from outside.
    Error(u8),
    /// A SYN to the gateway's own external address.
    Hairpin,
}

const X: u32 = 0x4000_0000;
const Y: u32 = 0x2000_0000;

/// A segment with flags as tcpdump prints them.
pub(crate) fn segment(flags: &str, sequence: u32, acknowledgement: u32) -> Segment {
    let has = |flag| flags.contains(flag);
    Segment {
        syn: has('S'),
        fin: has('F'),
        rst: has('R'),
        ack: has('.'),
        sequence,
        acknowledgement: if has('.') { acknowledgement } else { 0 },
        window: 65_000,
        payload: 0,
    }
}

/// What was seen of a packet: its fate, and the endpoints that it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Passed { source: SocketAddrV4, destination: SocketAddrV4 },
    Leaked,
    Refused(&'static str),
    Silence,
}

/// External endpoints in the kernel and here, by transport, host, port, remote and its port.
type Externals = BTreeMap<(Transport, usize, u16, usize, u16), (SocketAddrV4, SocketAddrV4)>;

/// Real gateways and simulated ones, with the external ports that each has given.
struct Both {
    lab: Lab,
    /// From inside to outside.
    nats: Vec<Nat>,
    now: Instant,
    /// Whether packets come in for ports that nobody has opened. Where random ports are few, one of
    /// them could be meant.
    guesses: bool,
    /// External endpoints of flows: in the kernel, here.
    externals: Externals,
}

impl Both {
    fn new(name: &str, variants: &[&Variant]) -> Result<Self, String> {
        let rules: Vec<_> = variants.iter().map(|variant| variant.rules()).collect();
        let lab = Lab::build(name, &rules)?;
        let addresses = if variants.len() == 2 { vec![MIDDLE, EXTERNAL] } else { vec![EXTERNAL] };
        let nats = variants.iter().zip(addresses).map(|(variant, address)| Nat::new((variant.config)(), address, 1));
        let guesses = variants.iter().all(|variant| variant.name != "range");
        Ok(Self { lab, nats: nats.collect(), now: Instant::ZERO, guesses, externals: BTreeMap::new() })
    }

    fn reset(&mut self) {
        self.lab.reset();
        for nat in &mut self.nats {
            nat.reboot();
        }
        self.externals.clear();
    }

    fn packet(step: &Step, external: SocketAddrV4) -> Packet {
        let inside = SocketAddrV4::new(HOSTS[step.host], step.port);
        let remote = SocketAddrV4::new(REMOTES[step.remote], step.remote_port);
        let (from, to) = if step.from == Side::Inside { (inside, remote) } else { (remote, external) };
        match step.what {
            What::Tcp(segment) => Packet::tcp(from, to, segment, &[]),
            What::Udp => Packet::udp(from.into(), to.into(), b"data"),
            What::Echo => {
                let is_request = step.from == Side::Inside;
                let echo =
                    Echo { is_request, identifier: if is_request { step.port } else { external.port() }, sequence: 1 };
                Packet::echo(*from.ip(), *to.ip(), echo, b"data")
            }
            What::Error(code) => {
                let about = Packet::tcp(external, remote, segment("S", X, 0), &[]);
                about.unreachable_reply(*remote.ip(), code).expect("an error")
            }
            What::Hairpin => Packet::tcp(inside, external, segment("S", X, 0), &[]),
        }
    }

    /// Sends one packet through both; they must agree.
    fn play(&mut self, step: &Step) -> Result<(), String> {
        let transport = match step.what {
            What::Udp => Transport::Udp,
            What::Echo => Transport::Icmp,
            What::Tcp(_) | What::Error(_) | What::Hairpin => Transport::Tcp,
        };
        let (port, remote_port) =
            if transport == Transport::Icmp { (step.port, 0) } else { (step.port, step.remote_port) };
        let key = (transport, step.host, port, step.remote, remote_port);
        let own = SocketAddrV4::new(EXTERNAL, step.port);
        let known = self.externals.get(&key).copied();
        if known.is_none() && step.from == Side::Outside && !self.guesses {
            return Ok(());
        }
        let (theirs, ours) = known.unwrap_or((own, own));
        let real = self.real(step, &Self::packet(step, theirs));
        let here = self.simulated(step, Self::packet(step, ours));
        self.now += Duration::from_millis(1);
        if let (Fate::Passed { source: a, .. }, Fate::Passed { source: b, .. }, Side::Inside) =
            (&real, &here, step.from)
        {
            self.externals.entry(key).or_insert((*a, *b));
        }
        // Random ports differ; the sources behind them must not.
        let same_port =
            |a: &SocketAddrV4, b: &SocketAddrV4| a == b || self.externals.values().any(|pair| *pair == (*a, *b));
        let agree = match (&real, &here) {
            (Fate::Passed { source: a, destination: b }, Fate::Passed { source: c, destination: d }) => {
                same_port(a, c) && same_port(b, d)
            }
            (a, b) => a == b,
        };
        if !agree {
            return Err(format!("the kernel: {real:?}, here: {here:?}"));
        }
        self.compare_trackers()
    }

    fn real(&self, step: &Step, packet: &Packet) -> Fate {
        let (arrived, back) = self.lab.play(step.from, packet);
        let private = HOSTS.contains(&source(packet));
        if let Some(packet) = arrived.first() {
            let leaks = private && HOSTS.contains(&source(packet));
            return if leaks { Fate::Leaked } else { passed(packet) };
        }
        back.first().map_or(Fate::Silence, refusal)
    }

    fn simulated(&mut self, step: &Step, packet: Packet) -> Fate {
        let count = self.nats.len();
        let mut at = if step.from == Side::Inside { 0 } else { count - 1 };
        let mut packet = packet;
        let mut side = step.from;
        let mut leaks = false;
        // A reply of a gateway further on comes back through those before it.
        for _ in 0..=2 * count {
            let nat = &mut self.nats[at];
            let verdict = match side {
                Side::Inside => nat.outbound(self.now, packet),
                Side::Outside => nat.inbound(self.now, packet),
            };
            let (towards, next) = match verdict {
                Verdict::Forward(to, next) => (to, next),
                Verdict::Untranslated(to, next) => {
                    leaks = true;
                    (to, next)
                }
                Verdict::Reply(to, next) => (to, next),
                Verdict::Held | Verdict::Drop(_) => return Fate::Silence,
            };
            packet = next;
            match (towards, at) {
                (Side::Outside, at) if at + 1 == count => return self.landed(step, Side::Outside, &packet, leaks),
                (Side::Inside, 0) => return self.landed(step, Side::Inside, &packet, leaks),
                (Side::Outside, _) => (at, side) = (at + 1, Side::Inside),
                (Side::Inside, _) => (at, side) = (at - 1, Side::Outside),
            }
        }
        Fate::Silence
    }

    fn landed(&self, step: &Step, at: Side, packet: &Packet, leaks: bool) -> Fate {
        if at == step.from {
            refusal(packet)
        } else if leaks && HOSTS.contains(&source(packet)) {
            Fate::Leaked
        } else {
            passed(packet)
        }
    }

    /// State, endpoints and time left of every TCP entry of every gateway.
    fn compare_trackers(&mut self) -> Result<(), String> {
        for (number, nat) in self.nats.iter_mut().enumerate() {
            let mut real = self.lab.entries(number);
            // An entry about to end may be listed or not.
            real.retain(|entry| entry.seconds_left > 0);
            let rows: Vec<_> =
                nat.snapshot(self.now).into_iter().filter(|row| row.transport == Transport::Tcp).collect();
            let find = |entry: &&Entry| rows.iter().find(|row| stands_for(row, entry, &self.externals));
            if let Some(entry) = real.iter().find(|entry| find(entry).is_none()) {
                return Err(format!("gateway {number}: only the kernel has {entry:?}; here {rows:?}"));
            }
            if real.len() != rows.len() {
                return Err(format!("gateway {number}: the kernel has {real:?}, here {rows:?}"));
            }
            for entry in &real {
                let row = find(&entry).expect("found above");
                let left = (row.expires - self.now).as_secs();
                if !(left.saturating_sub(SLACK)..=left + 1).contains(&entry.seconds_left) {
                    return Err(format!("gateway {number}: {entry:?} has {left} s left here"));
                }
            }
        }
        Ok(())
    }
}

/// Seconds by which a busy machine may be late. All timers of the tracker differ by more.
const SLACK: u64 = 25;

fn stands_for(row: &SnapshotRow, entry: &Entry, externals: &Externals) -> bool {
    let external = entry.reply.1;
    let same_external = external == row.external || externals.values().any(|pair| *pair == (external, row.external));
    // Behind another gateway the internal endpoint is that one's external one.
    let internal = entry.original.0;
    let same_internal = internal == row.internal || externals.values().any(|pair| *pair == (internal, row.internal));
    (&entry.state, entry.is_unreplied) == (&row.state.to_string(), row.is_unreplied)
        && same_internal
        && entry.original.1 == row.remote
        && same_external
}

fn source(packet: &Packet) -> Ipv4Addr {
    match packet.source() {
        std::net::IpAddr::V4(address) => address,
        std::net::IpAddr::V6(_) => unreachable!("all of it is IPv4"),
    }
}

fn passed(packet: &Packet) -> Fate {
    let flow = packet.flow().or_else(|| packet.icmp_error().map(|error| error.quoted.reversed()));
    let flow = flow.unwrap_or_else(|| panic!("neither a flow nor an error: {packet:?}"));
    Fate::Passed { source: flow.source, destination: flow.destination }
}

fn refusal(packet: &Packet) -> Fate {
    match (packet.segment(), packet.icmp_error()) {
        (Some(segment), _) if segment.rst => Fate::Refused("RST"),
        (_, Some(error)) if error.code == 3 => Fate::Refused("ICMP 3/3"),
        (_, Some(_)) => Fate::Refused("ICMP"),
        (Some(_), None) => Fate::Refused("a segment"),
        (None, None) => Fate::Refused("an echo"),
    }
}

/// What an opening, a restart, a close or a forger would send.
fn drawn(entropy: &mut ChaCha8Rng) -> Step {
    let mut below = |bound: u32| entropy.next_u32() % bound;
    let inside = below(2) == 0;
    let (mine, theirs) = if inside { (X, Y) } else { (Y, X) };
    let sequence =
        mine.wrapping_add([0, 0, 1, 1, 3, 4, 2, 101, 5_000_000, 5_000_000u32.wrapping_neg()][below(10) as usize]);
    let acknowledgement = theirs.wrapping_add([1, 1, 1, 4, 2, 5_000_001][below(6) as usize]);
    let what = match below(20) {
        0..=5 => What::Tcp(segment("S", sequence, 0)),
        6..=9 => What::Tcp(segment("S.", sequence, acknowledgement)),
        10..=13 => What::Tcp(segment(".", sequence, acknowledgement)),
        14 => What::Tcp(segment("F.", sequence, acknowledgement)),
        15 => What::Tcp(segment("R", sequence, 0)),
        16 => What::Tcp(segment("R.", 0, acknowledgement)),
        17 => What::Udp,
        18 if inside => What::Hairpin,
        18 => What::Error(3),
        _ => What::Echo,
    };
    let from = if inside { Side::Inside } else { Side::Outside };
    Step {
        from,
        host: below(2) as usize,
        port: [40_000, 40_001, 600, 300][below(4) as usize],
        remote: below(2) as usize,
        remote_port: [7000, 7001][below(2) as usize],
        what,
    }
}

fn step(from: Side, flags: &str, sequence: u32, acknowledgement: u32) -> Step {
    let what = What::Tcp(segment(flags, sequence, acknowledgement));
    Step { from, host: 0, port: 40_000, remote: 0, remote_port: 7000, what }
}

/// Openings in each order, closings, and each segment after each of them.
fn directed() -> Vec<Vec<Step>> {
    use Side::{Inside as A, Outside as B};
    let normal = vec![step(A, "S", X, 0), step(B, "S.", Y, X + 1), step(A, ".", X + 1, Y + 1)];
    let simultaneous = vec![
        step(A, "S", X, 0),
        step(B, "S", Y, 0),
        step(A, "S.", X, Y + 1),
        step(B, "S.", Y, X + 1),
        step(B, ".", Y + 1, X + 1),
        step(A, ".", X + 1, Y + 1),
    ];
    let close = [
        step(A, "F.", X + 1, Y + 1),
        step(B, ".", Y + 1, X + 2),
        step(B, "F.", Y + 1, X + 2),
        step(A, ".", X + 2, Y + 2),
    ];
    let reset_by = |side, sequence| vec![step(side, "R", sequence, 0)];
    let prefixes = [
        simultaneous[..1].to_vec(),
        simultaneous[..2].to_vec(),
        simultaneous[..3].to_vec(),
        simultaneous,
        normal[..2].to_vec(),
        normal.clone(),
        [&normal[..], &close[..1]].concat(),
        [&normal[..], &close[..3]].concat(),
        [&normal[..], &close[..]].concat(),
        [&normal[..], &reset_by(B, Y + 1)[..]].concat(),
        [&normal[..], &reset_by(A, X + 1)[..]].concat(),
    ];
    let mut last = Vec::new();
    for offset in [0, 3, 5_000_000, 5_000_000u32.wrapping_neg()] {
        last.push(step(A, "S", X.wrapping_add(offset), 0));
        last.push(step(B, "S", Y.wrapping_add(offset), 0));
        last.push(step(A, "S.", X.wrapping_add(offset), Y + 1));
    }
    last.extend([step(B, "S.", Y, X + 1), step(A, "R.", 0, Y + 1), step(B, "R.", 0, X + 1), step(A, "R", X + 1, 0)]);
    last.extend([
        step(B, "R", Y + 1, 0),
        step(B, "R", Y + 101, 0),
        step(B, "R", Y + 10_000_000, 0),
        step(B, ".", Y + 1, X + 1),
    ]);
    prefixes.iter().flat_map(|prefix| last.iter().map(move |last| [&prefix[..], &[*last]].concat())).collect()
}

fn compare(both: &mut Both, what: &str, script: &[Step], seed: u64) {
    for (index, step) in script.iter().enumerate() {
        if let Err(difference) = both.play(step) {
            let before: Vec<_> = script[..=index].iter().map(|step| format!("  {step:?}")).collect();
            panic!("{what}, script {seed}, packet {}: {difference}\n{}", index + 1, before.join("\n"));
        }
    }
}

/// Held by all tests that start processes, and by the one that must not share its files with a process that is about to be
/// another: what it closes would stay open there for a moment.
static PROCESSES: RwLock<()> = RwLock::new(());

/// A test that runs beside others, on one CPU.
pub(crate) fn shared(name: impl Into<String>, body: impl FnOnce() + Send + 'static) -> Case {
    case(name, move || {
        let _shared = among_others();
        stay_on_one_cpu();
        body();
    })
}

fn among_others() -> RwLockReadGuard<'static, ()> {
    PROCESSES.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    PROCESSES.write().unwrap_or_else(PoisonError::into_inner)
}

/// One CPU, so that packets are handled in the order in which they are sent.
pub(crate) fn stay_on_one_cpu() {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(rustix::thread::sched_getcpu());
    rustix::thread::sched_setaffinity(None, &cpus).expect("a thread may choose its CPU");
}

fn build(name: &str, variants: &[&Variant]) -> Both {
    Both::new(name, variants).unwrap_or_else(|reason| panic!("{name}: {reason}"))
}

/// Scripts drawn for each variant, and their length.
const SCRIPTS: u64 = 8;
const STEPS: usize = 25;

/// The tests of this file.
pub(crate) fn cases(possible: &Needs) -> Vec<Case> {
    let random = VARIANTS.iter().map(|variant| {
        shared(format!("random_scripts_come_out_as_in_the_kernel::{}", variant.name), || play_random_scripts(variant))
    });
    let in_a_row = IN_A_ROW.iter().map(|(name, inner, outer)| {
        let title = format!("two_gateways_in_a_row_come_out_as_in_the_kernel::{name}");
        shared(title, || play_in_a_row(name, &VARIANTS[*inner], &VARIANTS[*outer]))
    });
    let states = shared("every_state_takes_every_segment_as_in_the_kernel", play_every_segment);
    random.chain(in_a_row).chain([states]).map(|case| case.with(possible)).collect()
}

fn play_random_scripts(variant: &Variant) {
    let mut both = build(variant.name, &[variant]);
    for seed in 0..SCRIPTS {
        both.reset();
        let mut entropy = ChaCha8Rng::seed_from_u64(seed);
        let script: Vec<_> = (0..STEPS).map(|_| drawn(&mut entropy)).collect();
        compare(&mut both, variant.name, &script, seed);
    }
}

fn play_every_segment() {
    let mut both = build("st", &[&VARIANTS[0]]);
    for (number, script) in (0u64..).zip(directed()) {
        both.reset();
        compare(&mut both, "states", &script, number);
    }
}

/// Gateways behind others: a name, and the places in [`VARIANTS`] of the inner and the outer one.
const IN_A_ROW: [(&str, usize, usize); 3] = [("dd", 0, 0), ("dr", 0, 1), ("ad", 2, 0)];

fn play_in_a_row(name: &str, inner: &Variant, outer: &Variant) {
    let mut both = build(name, &[inner, outer]);
    for seed in 0..SCRIPTS / 2 {
        both.reset();
        let mut entropy = ChaCha8Rng::seed_from_u64(1000 + seed);
        let draw = |_| loop {
            let mut step = drawn(&mut entropy);
            // A clash at the inner gateway gives a random port that only it and the outer one know.
            step.port += u16::try_from(step.host).expect("small") * 10;
            // What leaks at the inner gateway is a matter of the outer one's inside, not of translation.
            let is_opening = matches!(step.what, What::Tcp(segment) if segment.syn && !segment.ack || segment.rst);
            if is_opening || matches!(step.what, What::Udp | What::Echo) {
                return step;
            }
        };
        let script: Vec<_> = (0..STEPS).map(draw).collect();
        compare(&mut both, name, &script, seed);
    }
}
