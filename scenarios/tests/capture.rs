//! Goal: a capture opens in Wireshark without a warning, and shows no secret. Method: tshark over a
//! capture of every lossless kind of opening, with checksum validation on; a damaged capture as the
//! control that tshark would notice.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use scenarios::{Options, catalog};

fn tshark(file: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("tshark")
        .args(["-n", "-r"])
        .arg(file)
        .args(["-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"])
        .args(arguments)
        .output()
        .ok()?;
    assert!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
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

#[test]
fn tshark_has_no_complaint_about_a_capture() {
    let folder = tempfile::tempdir().expect("a folder");
    // A damaged copy first: it also tells whether tshark is there at all.
    let intact = capture("two-functions", folder.path());
    let damaged = folder.path().join("damaged.pcapng");
    let mut bytes = std::fs::read(&intact).expect("read");
    // Within the payload of a packet, not where blocks begin.
    let at = bytes.len() / 2 + 700;
    bytes[at..at + 4].iter_mut().for_each(|byte| *byte ^= 0x55);
    std::fs::File::create(&damaged).and_then(|mut file| file.write_all(&bytes)).expect("written");
    let Some(complaints) = tshark(&damaged, &["-Y", COMPLAINTS]) else {
        println!("skipped: tshark is not installed (Debian package tshark)");
        return;
    };
    assert!(!complaints.trim().is_empty(), "the control is noticed");

    for name in ["two-functions", "pair-linux_masq_drop-x-aws_lambda", "pair-rfc_strict-x-linux_random", "group-3"] {
        let file = capture(name, folder.path());
        let frames = tshark(&file, &["-T", "fields", "-e", "frame.number"]).expect("tshark is there");
        assert!(frames.lines().count() > 30, "{name}: {} frames", frames.lines().count());
        let complaints = tshark(&file, &["-Y", COMPLAINTS]).expect("tshark is there");
        assert_eq!(complaints.trim(), "", "{name}");
        let interfaces = tshark(&file, &["-T", "fields", "-e", "frame.interface_name"]).expect("tshark is there");
        assert!(interfaces.contains("internet") && interfaces.contains("lan-0"), "networks are named");
    }
}
