//! Goal: behind gateways of the real kernel, functions connect by the paths that the oracle of the lab
//! predicts, a lost connection table costs no connection that can survive it, and discovery tells what such a
//! gateway does. Method: network namespaces with nftables, made and removed by the test; all traffic stays
//! inside them. Needs root, `ip`, `nft` and `conntrack`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::LazyLock;

use nat_sim::nat::{NatConfig, OnEcho, OnStray, OnSyn, Unsolicited, preset};
use scenarios::oracle;
use serde_json::Value;

#[path = "../../nat-sim/tests/kernel/netns.rs"]
mod netns;
#[path = "../../nat-sim/tests/common/trials.rs"]
mod trials;

use netns::{Cleanup, feed, run};
use trials::{case, checked};

fn main() -> ExitCode {
    let possible = netns::is_possible();
    let cases = [
        case(
            "every_pair_connects_by_a_path_that_the_oracle_allows_and_nearly_all_by_the_expected_one",
            every_pair_connects,
        ),
        case("a_connection_survives_the_loss_of_the_connection_table", survives_a_flush),
        case("discovery_finds_what_a_masquerading_gateway_does::silent", || discovers("n0", RULES[0], "silence")),
        case("discovery_finds_what_a_masquerading_gateway_does::refusing", || {
            discovers("n1", RULES[1], "RST or ICMP port unreachable");
        }),
    ];
    let cases = cases.map(|case| case.with(&possible));
    trials::run(checked(cases.into(), "not installed: ip (package iproute2), nft (package nftables)"))
}

/// The program `fmi`, built by the cargo that runs this test, in the same profile. A test of its package builds it;
/// with the tests of the whole workspace, dependencies have the features that `cargo test` has compiled already.
static FMI: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_BIN_EXE_lab")).parent().expect("programs are in a folder");
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let target = folder.parent().expect("profiles are in a folder");
    let built = Command::new(env!("CARGO"))
        .args([
            "test",
            "--quiet",
            "--offline",
            "--no-run",
            "--workspace",
            "--test",
            "real_sockets",
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        // It may be set for this test alone, and would compile everything again.
        .env_remove("RUSTC_BOOTSTRAP")
        .status();
    assert!(built.is_ok_and(|status| status.success()), "the program fmi cannot be built");
    folder.join("fmi")
});

/// A gateway's rules, and what the lab has for them.
#[derive(Clone, Copy)]
struct Rules {
    /// Statement that translates; `WAN` is replaced by the gateway's outer address.
    nat: &'static str,
    /// What happens to unsolicited packets.
    policy: &'static str,
    config: fn() -> NatConfig,
}

const RESET: &str = "meta l4proto tcp reject with tcp reset";

const RULES: [Rules; 7] = [
    Rules { nat: "masquerade", policy: "drop", config: preset::linux_masq_drop },
    Rules { nat: "masquerade", policy: RESET, config: refusing },
    Rules { nat: "masquerade", policy: "accept", config: preset::linux_masq_rst },
    Rules { nat: "masquerade", policy: "reject with icmp port-unreachable", config: preset::linux_icmp },
    Rules { nat: "masquerade random", policy: "drop", config: preset::linux_random },
    Rules { nat: "masquerade fully-random", policy: "drop", config: preset::linux_random },
    Rules { nat: "ip protocol tcp snat to WAN:40000-40999", policy: "drop", config: preset::linux_snat_range },
];

/// `linux_masq_drop` with an RST for every TCP segment.
fn refusing() -> NatConfig {
    let unsolicited =
        Unsolicited { syn: OnSyn::Reset, segment: OnStray::Reset, datagram: OnStray::Drop, echo: OnEcho::Drop };
    NatConfig { unsolicited, ..preset::linux_masq_drop() }
}

/// Namespaces: a bridge `i` as the internet, the rendezvous `r` at 203.0.113.2 and .3, and gateways `g0`, `g1`,
/// ... at 203.0.113.10 and on, each with a network 10.N.0.0/16 behind it.
struct Lab {
    prefix: String,
    namespaces: Cleanup,
}

impl Lab {
    fn new(name: &str) -> Result<Self, String> {
        let prefix = format!("f{}{name}", std::process::id() % 100_000);
        let mut lab = Self { prefix, namespaces: Cleanup(Vec::new()) };
        let inet = lab.namespace("i")?;
        run(&format!("ip -n {inet} link add br0 type bridge"))?;
        run(&format!("ip -n {inet} link set br0 up"))?;
        lab.namespace("r")?;
        lab.plug("r", "203.0.113.2")?;
        // The rendezvous' second address, for discovery.
        run(&format!("ip -n {} addr add 203.0.113.3/24 dev wan", lab.name("r")))?;
        Ok(lab)
    }

    fn name(&self, node: &str) -> String {
        format!("{}{node}", self.prefix)
    }

    fn namespace(&mut self, node: &str) -> Result<String, String> {
        let name = self.name(node);
        run(&format!("ip netns add {name}"))?;
        self.namespaces.0.push(name.clone());
        run(&format!("ip -n {name} link set lo up"))?;
        Ok(name)
    }

    fn inside(&self, node: &str, command: &str) -> Result<Output, String> {
        run(&format!("ip netns exec {} {command}", self.name(node)))
    }

    /// Joins two namespaces with a link.
    fn link(&self, (a, a_device): (&str, &str), (b, b_device): (&str, &str)) -> Result<(), String> {
        let (a, b) = (self.name(a), self.name(b));
        run(&format!("ip link add {a_device} netns {a} type veth peer name {b_device} netns {b}"))?;
        run(&format!("ip -n {a} link set {a_device} up"))?;
        run(&format!("ip -n {b} link set {b_device} up")).map(|_| ())
    }

    /// Connects a node to the internet.
    fn plug(&self, node: &str, address: &str) -> Result<(), String> {
        let port = format!("p{}", node.trim_start_matches('g'));
        self.link((node, "wan"), ("i", &port))?;
        run(&format!("ip -n {} link set {port} master br0", self.name("i")))?;
        run(&format!("ip -n {} addr add {address}/24 dev wan", self.name(node))).map(|_| ())
    }

    /// Adds gateway `number` with so many hosts `h{number}x0`, ... behind it.
    fn gateway(&mut self, number: usize, rules: Rules, hosts: usize) -> Result<(), String> {
        let (node, wan) = (format!("g{number}"), format!("203.0.113.{}", 10 + number));
        self.namespace(&node)?;
        self.plug(&node, &wan)?;
        self.translate(&node, rules, &wan)?;
        for host in 0..hosts {
            self.host(&node, &format!("h{number}x{host}"), &format!("10.{number}.{host}"))?;
        }
        Ok(())
    }

    /// Adds a host, or another gateway, behind a gateway.
    fn host(&mut self, gateway: &str, host: &str, net: &str) -> Result<(), String> {
        self.namespace(host)?;
        let device = format!("lan{}", host.replace('h', ""));
        self.link((host, "wan"), (gateway, &device))?;
        run(&format!("ip -n {} addr add {net}.2/24 dev wan", self.name(host)))?;
        run(&format!("ip -n {} addr add {net}.1/24 dev {device}", self.name(gateway)))?;
        run(&format!("ip -n {} route add default via {net}.1", self.name(host))).map(|_| ())
    }

    fn translate(&self, gateway: &str, Rules { nat, policy, .. }: Rules, wan: &str) -> Result<(), String> {
        self.inside(gateway, "sysctl -qw net.ipv4.ip_forward=1")?;
        let nat = nat.replace("WAN", wan);
        let rules = format!(
            "table ip fmi {{
               chain post {{ type nat hook postrouting priority srcnat; oifname \"wan\" {nat}; }}
               chain input {{ type filter hook input priority filter;
                 ct state established,related accept; iifname \"wan\" {policy}; }}
               chain forward {{ type filter hook forward priority filter;
                 ct state established,related accept; iifname \"wan\" {policy}; }}
             }}"
        );
        feed(&["ip", "netns", "exec", &self.name(gateway), "nft", "-f", "-"], &rules)
    }

    fn spawn(&self, node: &str, arguments: &[&str]) -> Child {
        Command::new("ip")
            .args(["netns", "exec", &self.name(node)])
            .arg(FMI.as_path())
            .args(arguments)
            .env("FMI_KEY", "a key of 16 bytes")
            .env("FMI_LOG", "fmi=debug")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip runs")
    }

    /// Starts the rendezvous, and returns once it listens.
    fn serve(&self, more: &[&str]) -> Serving {
        let mut child = self.spawn("r", &[&["rendezvous", "--listen", "203.0.113.2:7000"], more].concat());
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut String::new()).expect("it says where it listens");
        Serving(child, stdout)
    }

    fn ping(&self, node: &str, rank: usize, size: usize, more: &[&str]) -> Child {
        let (rank, size) = (rank.to_string(), size.to_string());
        let who = ["--rendezvous", "203.0.113.2:7000", "--group", "g", "--rank", &rank, "--size", &size];
        self.spawn(node, &[&["ping", "--deadline", "40s", "--json"], &who[..], more].concat())
    }
}

/// A rendezvous that runs. Its output is kept: a program that prints into a closed pipe fails.
struct Serving(Child, #[expect(dead_code, reason = "kept open")] BufReader<std::process::ChildStdout>);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `fmi ping` reports on each side.
fn reports(children: Vec<Child>) -> Vec<Value> {
    let outputs: Vec<_> = children.into_iter().map(|child| child.wait_with_output().expect("ended")).collect();
    let report = |output: Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    outputs.into_iter().map(report).collect()
}

fn lab(name: &str, build: impl FnOnce(&mut Lab) -> Result<(), String>) -> Lab {
    let built = Lab::new(name).and_then(|mut lab| build(&mut lab).map(|()| lab));
    built.unwrap_or_else(|reason| panic!("{name}: {reason}"))
}

/// Two functions behind every kind of gateway, one of them behind two, form one group: 15 ranks, 105 pairs. Each comes
/// together by a path that is possible, nearly all by the expected one. A pair whose attempt has left a connection table stuck is relayed at first, and has time to turn direct.
fn every_pair_connects() {
    let lab = lab("m", |lab| {
        for (number, rules) in RULES.iter().chain(&RULES).enumerate() {
            // Two behind the first one.
            lab.gateway(number, *rules, if number == 0 { 2 } else { 1 })?;
        }
        // A gateway behind gateway 7, which drops: its host has two NATs before it.
        lab.host("g7", "inner", "10.7.200")?;
        lab.translate("inner", RULES[0], "10.7.200.2")?;
        lab.host("inner", "hdeep", "192.168.9")
    });
    let mut ranks: Vec<(String, usize)> = (0..2 * RULES.len()).map(|number| (format!("h{number}x0"), number)).collect();
    ranks.push(("h0x1".into(), 0));
    // It replaces the host behind the outer gateway alone.
    ranks[7] = ("hdeep".into(), 7);
    let _serving = lab.serve(&[]);
    let size = ranks.len();
    let children =
        ranks.iter().enumerate().map(|(rank, (node, _))| lab.ping(node, rank, size, &["--linger", "60s"])).collect();
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    let (mut impossible, mut expected_sides, mut sides) = (Vec::new(), 0, 0);
    for (rank, report) in reports(children).iter().enumerate() {
        for peer in report["peers"].as_array().expect("peers") {
            let other = usize::try_from(peer["rank"].as_u64().expect("a number")).expect("small");
            let (first, second) = (ranks[rank].1, ranks[other].1);
            let config = |gateway: usize| (RULES[gateway % RULES.len()].config)();
            let possible = if first == second {
                vec!["private".to_owned()]
            } else {
                oracle::possible(&config(first), &config(second)).iter().map(ToString::to_string).collect()
            };
            if !possible.iter().any(|path| peer["path"] == **path) {
                impossible.push(format!("{:?} with {:?}: {peer}, not {possible:?}", ranks[rank], ranks[other]));
            }
            sides += 1;
            expected_sides += u32::from(peer["path"] == *possible[0]);
            *counts.entry(format!("{} where {possible:?} by {}", peer["path"], peer["technique"])).or_default() += 1;
        }
    }
    assert!(impossible.is_empty(), "{}", impossible.join("\n"));
    assert_eq!(sides as usize, size * (size - 1));
    assert!(expected_sides * 10 >= sides * EXPECTED_TENTHS, "{expected_sides} of {sides} sides: {counts:?}");
}

/// So many sides in ten come together as expected. Luck decides of 48 sides of 210, and seldom.
const EXPECTED_TENTHS: u32 = 9;

/// The gateway forgets everything while functions talk: packets from inside bring the connection back.
fn survives_a_flush() {
    let lab = lab("c", |lab| (0..2).try_for_each(|number| lab.gateway(number, RULES[0], 1)));
    let _serving = lab.serve(&[]);
    let mut children: Vec<_> =
        (0..2).map(|rank| lab.ping(&format!("h{rank}x0"), rank, 2, &["--linger", "3s"])).collect();
    // Kept to the end: a program that logs into a closed pipe fails.
    let mut log = BufReader::new(children[0].stderr.take().expect("piped")).lines();
    assert!(log.any(|line| line.is_ok_and(|line| line.contains("connected"))), "it connects");
    lab.inside("g0", "conntrack -F").expect("the table is flushed");
    for report in reports(children) {
        assert_eq!(report["peers"][0]["path"], "direct", "{report}");
    }
}

fn discovers(name: &str, rules: Rules, unsolicited: &str) {
    let lab = lab(name, |lab| lab.gateway(0, rules, 1));
    let _serving = lab.serve(&["--vantage", "203.0.113.2:7001", "--vantage", "203.0.113.3:7000"]);
    let nat = lab.spawn("h0x0", &["nat", "--rendezvous", "203.0.113.2:7000", "--json"]);
    let output = nat.wait_with_output().expect("ended");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let expected = [
        ("mapping", "endpoint-independent"),
        ("filtering", "address-and-port-dependent"),
        ("ports", "preserved"),
        ("unsolicited", unsolicited),
    ];
    for (field, value) in expected {
        assert_eq!(found[field], value, "{found}");
    }
    assert_eq!(found["hairpin"], false);
}
