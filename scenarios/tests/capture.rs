//! Goal: a capture opens in Wireshark without a warning, and shows no secret. Method: tshark over a
//! capture of every lossless kind of opening, with checksum validation on; a damaged capture as the
//! control that tshark would notice. Needs tshark.

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use scenarios::{Options, catalog};

use trials::{case, checked, installed};

#[path = "../../nat-sim/tests/common/trials.rs"]
mod trials;

fn tshark(file: &Path, arguments: &[&str]) -> String {
    let output = Command::new("tshark")
        .args(["-n", "-r"])
        .arg(file)
        .args(["-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"])
        .args(arguments)
        .output()
        .expect("tshark runs");
    assert!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Frames at warning level or worse, and with bad checksums.
const COMPLAINTS: &str = "_ws.expert.severity >= 0x600000 || ip.checksum.status == 0 || tcp.checksum.status == 0";

fn capture(name: &str, folder: &Path) -> std::path::PathBuf {
    let path = folder.join(format!("{name}.pcapng"));
    let scenario = catalog::find_scenario(name).expect("in the catalogue");
    let file = std::fs::File::create(&path).expect("created");
    let outcome = scenarios::run(&scenario, 3, Options { pcap: Some(Box::new(file)), log: None });
    assert_eq!(outcome.violations, Vec::<String>::new(), "{name}");
    path
}

/// Captures of a scenario each.
const CAPTURED: [&str; 4] =
    ["two-functions", "pair-linux_masq_drop-x-aws_lambda", "pair-rfc_strict-x-linux_random", "group-3"];

fn main() -> ExitCode {
    let tshark = installed(&[("tshark", "tshark")]);
    let captured = CAPTURED.map(|name| case(format!("tshark_has_no_complaint_about::{name}"), || is_clean(name)));
    let control = case("tshark_complains_about_a_damaged_capture", is_noticed_if_damaged);
    let cases = captured.into_iter().chain([control]).map(|case| case.with(&tshark)).collect();
    trials::run(checked(cases, "not installed: tshark (package tshark)"))
}

fn is_noticed_if_damaged() {
    let folder = tempfile::tempdir().expect("a folder");
    let intact = capture("two-functions", folder.path());
    let damaged = folder.path().join("damaged.pcapng");
    let mut bytes = std::fs::read(&intact).expect("read");
    // Within the payload of the longest packet, not where blocks begin.
    let at = longest_packet(&bytes).end - 8;
    bytes[at..at + 4].iter_mut().for_each(|byte| *byte ^= 0x55);
    std::fs::File::create(&damaged).and_then(|mut file| file.write_all(&bytes)).expect("written");
    assert_ne!(tshark(&damaged, &["-Y", COMPLAINTS]).trim(), "");
}

/// The bytes of the longest packet of a capture: an enhanced packet block has them behind 28 bytes, of which four from
/// the twentieth on say how many there are.
fn longest_packet(capture: &[u8]) -> std::ops::Range<usize> {
    const ENHANCED_PACKET: usize = 6;
    let word = |at: usize| u32::from_le_bytes(*capture[at..].first_chunk().expect("a whole block")) as usize;
    let (mut at, mut longest) = (0, 0..0);
    while at < capture.len() {
        if word(at) == ENHANCED_PACKET && word(at + 20) > longest.len() {
            longest = at + 28..at + 28 + word(at + 20);
        }
        at += word(at + 4);
    }
    longest
}

fn is_clean(name: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = capture(name, folder.path());
    let frames = tshark(&file, &["-T", "fields", "-e", "frame.number"]);
    assert!(frames.lines().count() > 30, "{} frames", frames.lines().count());
    assert_eq!(tshark(&file, &["-Y", COMPLAINTS]).trim(), "");
    let interfaces = tshark(&file, &["-T", "fields", "-e", "frame.interface_name"]);
    assert!(interfaces.contains("internet") && interfaces.contains("lan-0"), "networks are named");
}
