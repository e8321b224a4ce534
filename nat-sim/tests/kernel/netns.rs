//! Commands in network namespaces. `scenarios/tests/real_kernel_nat.rs` uses this file as well.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use crate::trials::{Needs, installed};

/// Runs a command line to its end.
pub(crate) fn run(command: &str) -> Result<Output, String> {
    let words: Vec<_> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().map_err(|error| format!("{}: {error}", words[0]))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

pub(crate) fn feed(command: &[&str], input: &str) -> Result<(), String> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", command[0]))?;
    child.stdin.take().expect("piped").write_all(input.as_bytes()).map_err(|error| error.to_string())?;
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Whether real gateways can be made here; if not, what is missing.
pub(crate) fn is_possible() -> Needs {
    installed(&[("ip", "iproute2"), ("nft", "nftables"), ("conntrack", "conntrack")])?;
    // Namespaces and their firewalls may be forbidden even to root.
    let probe = format!("ns{}probe", std::process::id() % 100_000);
    let forbidden = |reason| format!("network namespaces cannot be made here, which takes root: {reason}");
    run(&format!("ip netns add {probe}")).map_err(forbidden)?;
    let works = run(&format!("ip netns exec {probe} nft add table ip probe"));
    run(&format!("ip netns del {probe}")).map_err(forbidden)?;
    works.map(|_| ()).map_err(forbidden)
}

/// Removes namespaces when it is dropped.
pub(crate) struct Cleanup(pub(crate) Vec<String>);

impl Drop for Cleanup {
    fn drop(&mut self) {
        for node in &self.0 {
            let _ = run(&format!("ip netns del {node}"));
        }
    }
}
