//! Goal: the Linux presets, and the hosts of the lab, are indistinguishable from Linux. Method: the same packets to the running
//! kernel and to nat-sim, in network namespaces that the tests make and remove. Needs root, `ip`, `nft` and `conntrack`.
#![expect(clippy::unwrap_in_result, reason = "tests fail by panicking")]

#[cfg(target_os = "linux")]
mod gateway;
#[cfg(target_os = "linux")]
mod host;
#[cfg(target_os = "linux")]
mod lab;
#[cfg(target_os = "linux")]
mod life;
#[cfg(target_os = "linux")]
mod netns;
#[cfg(target_os = "linux")]
#[path = "../common/trials.rs"]
mod trials;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let possible = netns::is_possible();
    let mut cases = gateway::cases(&possible);
    cases.extend(host::cases(&possible));
    cases.extend(life::cases(&possible));
    trials::run(trials::checked(cases, "not installed: ip (package iproute2), nft (package nftables)"))
}

#[cfg(not(target_os = "linux"))]
fn main() {}
