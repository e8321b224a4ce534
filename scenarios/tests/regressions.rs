//! Goal: a seed that once failed never fails again. Method: one line each, with the cause.

use std::process::ExitCode;

use scenarios::{Options, catalog};

use trials::case;

#[path = "../../nat-sim/tests/common/trials.rs"]
mod trials;

const REGRESSIONS: [(&str, u64); 13] = [
    // A rank gave up its round by its clock inside the join barrier, which others had passed: they
    // ran as a group of which it was no longer part.
    ("loss-1", 33),
    ("loss-1", 110),
    ("loss-5", 12),
    // Three seconds of silence ended control connections of a site that was cut off for three.
    ("site-cut-off", 1),
    // The rendezvous restarted between two ranks' registrations.
    ("rendezvous-during", 1),
    // A peer that gave up its round closed with an RST, which a cut swallowed, while the rendezvous
    // restarted: nobody told the rank in the barrier. Links are probed each second until a group is established.
    ("swarm-4567", 7),
    // Refused at once and again, a proxy's random port came to be the one that was aimed at.
    ("pair-linux_masq_rst-x-l4_proxy", 365_631_001),
    // A living rank whose control channel was silent was called lost, and its peers believed it.
    ("swarm-5000009723", 9_000_000_003),
    ("operations-6000006315", 9_000_000_012),
    // The lab's hosts took a guessed reset within the window for a true one.
    ("attack-resets", 671_585_001),
    // The guard of a gateway did not know that a SYN that the other end's filter holds begins a flow of its sender.
    ("swarm-196585815", 196_585_318),
    // A cut of 2.7 s in the join's barrier: the next repetition came after five seconds of silence, when one end had given up
    // a link over which the other had passed.
    ("swarm-30080410", 1),
    // The lab's hosts took the time that a segment waited for the repetition of another one for a round trip, and repeated
    // seconds too late.
    ("swarm-30048133", 1),
];

fn main() -> ExitCode {
    trials::run(REGRESSIONS.map(|(name, seed)| case(format!("{name}::{seed}"), move || stays_fixed(name, seed))).into())
}

fn stays_fixed(name: &str, seed: u64) {
    let scenario = catalog::find_scenario(name).expect("in the catalogue");
    let outcome = scenarios::run(&scenario, seed, Options::default());
    assert!(outcome.passed(), "{}\n{}", outcome.violations.join("\n"), outcome.replay_command());
}
