//! Goal: functions behind two masquerading gateways of the real kernel connect directly, and discovery
//! tells what such a gateway does. Method:
//! network namespaces with nftables, made and removed by the test; all traffic stays inside them.
//! Needs root, `ip` and `nft`; says why it is skipped where it cannot run.
#![expect(clippy::print_stdout, reason = "a reason to skip is printed")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const FMI: &str = env!("CARGO_BIN_EXE_fmi");

fn run(command: &str) -> Result<Output, String> {
    let words: Vec<_> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().map_err(|error| format!("{}: {error}", words[0]))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// ```text
/// a 10.1.0.2 -- gwa 203.0.113.11 --+
///                                  bridge in namespace i -- r 203.0.113.2, the rendezvous
/// b 10.2.0.2 -- gwb 203.0.113.12 --+
/// ```
struct Lab {
    prefix: String,
}

const NODES: [&str; 6] = ["i", "r", "a", "gwa", "b", "gwb"];

impl Drop for Lab {
    fn drop(&mut self) {
        for node in NODES {
            let _ = run(&format!("ip netns del {}", self.name(node)));
        }
    }
}

impl Lab {
    fn name(&self, node: &str) -> String {
        format!("{}{node}", self.prefix)
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

    fn build(name: &str, wan_policy: &str) -> Result<Self, String> {
        if run("id -u")?.stdout.trim_ascii() != b"0" {
            return Err("not root".into());
        }
        run("nft --version")?;
        let lab = Self { prefix: format!("f{}{name}", std::process::id() % 100_000) };
        for node in NODES {
            run(&format!("ip netns add {}", lab.name(node)))?;
            run(&format!("ip -n {} link set lo up", lab.name(node)))?;
        }
        let inet = lab.name("i");
        run(&format!("ip -n {inet} link add br0 type bridge"))?;
        run(&format!("ip -n {inet} link set br0 up"))?;
        for (port, (node, address)) in
            [("r", "203.0.113.2"), ("gwa", "203.0.113.11"), ("gwb", "203.0.113.12")].iter().enumerate()
        {
            lab.link((node, "wan"), ("i", &format!("p{port}")))?;
            run(&format!("ip -n {inet} link set p{port} master br0"))?;
            run(&format!("ip -n {} addr add {address}/24 dev wan", lab.name(node)))?;
        }
        // The rendezvous' second address, for discovery.
        run(&format!("ip -n {} addr add 203.0.113.3/24 dev wan", lab.name("r")))?;
        for (host, gateway, net) in [("a", "gwa", "10.1.0"), ("b", "gwb", "10.2.0")] {
            lab.link((host, "eth"), (gateway, "lan"))?;
            run(&format!("ip -n {} addr add {net}.2/24 dev eth", lab.name(host)))?;
            run(&format!("ip -n {} addr add {net}.1/24 dev lan", lab.name(gateway)))?;
            run(&format!("ip -n {} route add default via {net}.1", lab.name(host)))?;
            lab.inside(gateway, "sysctl -qw net.ipv4.ip_forward=1")?;
            lab.masquerade(gateway, wan_policy)?;
        }
        Ok(lab)
    }

    fn masquerade(&self, gateway: &str, wan_policy: &str) -> Result<(), String> {
        let rules = format!(
            "table ip fmi {{
               chain post {{ type nat hook postrouting priority srcnat; oifname \"wan\" masquerade; }}
               chain input {{ type filter hook input priority filter;
                 ct state established,related accept; iifname \"wan\" {wan_policy}; }}
               chain forward {{ type filter hook forward priority filter;
                 ct state established,related accept; iifname \"wan\" {wan_policy}; }}
             }}"
        );
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.name(gateway), "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        std::io::Write::write_all(&mut child.stdin.take().expect("piped"), rules.as_bytes())
            .map_err(|error| error.to_string())?;
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    fn spawn(&self, node: &str, arguments: &[&str]) -> Child {
        Command::new("ip")
            .args(["netns", "exec", &self.name(node), FMI])
            .args(arguments)
            .env("FMI_KEY", "a key")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip runs")
    }
}

/// Runs `fmi ping` on both sides, and returns both reports.
fn ping_through(wan_policy: &str) -> Option<Vec<Value>> {
    let lab = match Lab::build("p", wan_policy) {
        Ok(lab) => lab,
        Err(reason) => {
            println!("skipped: network namespaces cannot be made here ({reason})");
            return None;
        }
    };
    let mut rendezvous = lab.spawn("r", &["rendezvous", "--listen", "203.0.113.2:7000"]);
    let ping = |node, rank| {
        let address = ["--rendezvous", "203.0.113.2:7000", "--group", "g", "--rank", rank, "--size", "2"];
        lab.spawn(node, &[&["ping", "--deadline", "20s", "--json"], &address[..]].concat())
    };
    let children = [ping("a", "0"), ping("b", "1")];
    let outputs = children.map(|child| child.wait_with_output().expect("ended"));
    let _ = rendezvous.kill();
    let _ = rendezvous.wait();
    let reports = outputs.map(|output| {
        assert!(output.status.success(), "{wan_policy}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    });
    Some(reports.to_vec())
}

#[test]
fn discovery_finds_what_a_masquerading_gateway_does() {
    let silent = ("drop", "silence");
    let refusing = ("meta l4proto tcp reject with tcp reset", "RST or ICMP port unreachable");
    for (number, (policy, unsolicited)) in [silent, refusing].into_iter().enumerate() {
        let lab = match Lab::build(&format!("n{number}"), policy) {
            Ok(lab) => lab,
            Err(reason) => return println!("skipped: network namespaces cannot be made here ({reason})"),
        };
        let vantages = ["--vantage", "203.0.113.2:7001", "--vantage", "203.0.113.3:7000"];
        let mut rendezvous = lab.spawn("r", &[&["rendezvous", "--listen", "203.0.113.2:7000"], &vantages[..]].concat());
        let mut line = String::new();
        let stdout = rendezvous.stdout.take().expect("piped");
        // Kept to the end: who prints into a closed pipe fails.
        let mut stdout = BufReader::new(stdout);
        stdout.read_line(&mut line).expect("it says where it listens");
        let nat = lab.spawn("a", &["nat", "--rendezvous", "203.0.113.2:7000", "--json"]);
        let output = nat.wait_with_output().expect("ended");
        let _ = rendezvous.kill();
        let _ = rendezvous.wait();
        assert!(output.status.success(), "{policy}: {}", String::from_utf8_lossy(&output.stderr));
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
}

#[test]
fn functions_behind_two_masquerading_gateways_connect_directly() {
    for wan_policy in ["drop", "reject with tcp reset"] {
        // A reset is for TCP only; nft wants that said.
        let policy = if wan_policy == "drop" { "drop" } else { "meta l4proto tcp reject with tcp reset" };
        let Some(reports) = ping_through(policy) else { return };
        for report in reports {
            let peers = report["peers"].as_array().expect("peers");
            assert_eq!(peers.len(), 1);
            assert_eq!(peers[0]["path"], "direct", "{report}");
            println!("{wan_policy}: {report}");
        }
    }
}
