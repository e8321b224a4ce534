//! Goal: the program `lab` does what its help says, and one seed is one run. Method: child processes.

use std::process::{Command, Output, Stdio};

use scenarios::matrix::CELLS;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.args(arguments).env_remove("FMI_SEED").env_remove("FMI_SEEDS").env_remove("FMI_LOG");
    command
}

fn lab(arguments: &[&str]) -> Output {
    command(arguments).output().expect("lab runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a scenario in a process of its own; returns its digest and its event log.
fn digest(name: &str, seed: &str, log: &std::path::Path) -> (String, String) {
    let path = log.to_str().expect("a path");
    let output = lab(&["replay", name, "--seed", seed, "--log", path]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    let digest = text.lines().find_map(|line| line.strip_prefix("digest ")).expect("a digest").to_owned();
    (digest, std::fs::read_to_string(log).expect("a log"))
}

#[test]
fn two_processes_on_one_seed_agree_and_another_seed_differs() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = |name: &str| folder.path().join(name);
    for name in ["group-8", "loss-5", "rendezvous-during", "site-cut-off", "killed-in-allreduce"] {
        let (first, first_log) = digest(name, "7", &log("first"));
        let (second, second_log) = digest(name, "7", &log("second"));
        let differing = first_log.lines().zip(second_log.lines()).enumerate().find(|(_, (a, b))| a != b);
        assert!(differing.is_none(), "{name}: the first differing event is {differing:?}");
        assert_eq!(first, second, "{name}");
        let (other, _) = digest(name, "8", &log("other"));
        assert_ne!(first, other, "{name}: a digest that never changes is no check");
    }
}

/// As with `lab list | head`.
#[test]
fn a_reader_that_leaves_is_no_error() {
    for arguments in
        [&["list"][..], &["nats"], &["nats", "--requirements"], &["replay", "two-functions", "--seed", "1"]]
    {
        let mut child = command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("lab runs");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("lab ends");
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stderr(&output), "", "{arguments:?}");
    }
}

#[test]
fn logs_show_no_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["replay", "group-3", "--seed", "1", "--log", path.to_str().expect("a path")])
        .env("FMI_LOG", "trace")
        .output()
        .expect("lab runs");
    assert!(output.status.success());
    let written = std::fs::read_to_string(path).expect("a log");
    for text in [stdout(&output), stderr(&output), written] {
        assert!(!text.contains("correct horse"), "the secret of the group is in a log");
    }
}

#[test]
fn lists_runs_and_reports() {
    let text = stdout(&lab(&["list"]));
    for name in ["pair-linux_masq_drop-x-aws_lambda", "group-256", "killed-in-allreduce", "site-cut-off"] {
        assert!(text.contains(name), "{name} is not listed");
    }
    let output = lab(&["run", "two-functions", "group-2", "--seeds", "3..5", "--jobs", "2"]);
    assert!(output.status.success());
    assert!(stdout(&output).contains("4 runs, 4 passed, 0 failed"), "{}", stdout(&output));
    let output = lab(&["run", "two-functions", "--json"]);
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((line["passed"].as_bool(), line["seed"].as_u64()), (Some(true), Some(1)));
}

#[test]
fn the_number_of_jobs_changes_no_run() {
    let digests = |jobs: &str| {
        let text = stdout(&lab(&["run", "group-2", "loss-1", "--seeds", "1..6", "--jobs", jobs, "--json"]));
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        lines.map(|line| line["digest"].as_str().expect("a digest").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(digests("1"), digests("3"));
}

#[test]
fn the_matrix_is_printed_as_text_and_json() {
    let output = lab(&["matrix", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let matrix: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let cells = matrix["cells"].as_array().expect("cells");
    assert_eq!(cells.len(), CELLS);
    let cell = |first: &str, second: &str| {
        cells.iter().find(|cell| cell["first"] == first && cell["second"] == second).expect("a cell")
    };
    assert_eq!(cell("linux_masq_drop", "linux_masq_drop")["path"], "direct");
    assert_eq!(cell("aws_natgw", "aws_natgw")["path"], "relay");
    assert_eq!(cell("linux_masq_drop", "home_seq")["path"], "predicted");
    let original = |first: &str, second: &str| cell(first, second)["original_connects"].as_bool();
    assert_eq!(original("linux_masq_drop", "aws_lambda"), Some(true), "where ports are kept");
    assert_eq!(original("linux_masq_drop", "gcp_eim"), Some(false), "the port that was seen is not that of the socket");
    assert_eq!(cell("linux_masq_drop", "gcp_eim")["path"], "direct");
    assert!(stdout(&lab(&["matrix"])).contains(&format!("{CELLS} cells")));
}

#[test]
fn bad_usage_ends_with_2_and_says_why() {
    for (arguments, expected) in [
        (&["run", "no-such-thing"][..], "no scenario \"no-such-thing\""),
        (&["replay", "no-such-thing", "--seed", "1"], "no scenario"),
        (&["replay", "group-2"], "--seed"),
        (&["run", "--seeds", "5..5"], "empty seed range 5..5"),
        (&["run", "--seeds", "five"], "A..B"),
        (&["run", "--seed", "18446744073709551615"], "18446744073709551615"),
        (&["run", "--jobs", "0"], "0"),
        (&["replay", "group-2", "--seed", "1", "--pcap", "/nonexistent/x"], "cannot write /nonexistent/x"),
        (&["perf", "--bytes", "1KB"], "KiB"),
        (&["perf", "--bytes", "1GiB"], "more than 256MiB"),
        (&["perf", "--latency", "10"], "give a unit"),
        (&["perf", "--latency", "15us"], "not a multiple of 20"),
        (&["dance"], "dance"),
    ] {
        let output = lab(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
}

/// A variable that is not understood must not pass for one that is not set.
#[test]
fn bad_variables_end_with_2_and_are_named() {
    for (name, value, arguments) in [
        ("FMI_SEED", "abc", &["run", "two-functions"][..]),
        ("FMI_SEED", "", &["run", "two-functions"]),
        ("FMI_SEED", "-1", &["run", "two-functions"]),
        ("FMI_SEED", "18446744073709551615", &["run", "two-functions"]),
        ("FMI_SEED", "abc", &["matrix"]),
        ("FMI_SEED", "abc", &[]),
        ("FMI_SEEDS", "abc", &["run", "two-functions"]),
        ("FMI_SEEDS", "7..3", &["run", "two-functions"]),
        ("FMI_SEEDS", "1", &[]),
        ("FMI_LOG", "fmi=loud", &["run", "two-functions"]),
    ] {
        let output = command(arguments).env(name, value).output().expect("lab runs");
        assert_eq!(output.status.code(), Some(2), "{name}={value:?} {arguments:?}");
        let message = stderr(&output);
        let is_named = message.contains(name) || message.contains(&name.replace("FMI_", "--").to_lowercase());
        assert!(is_named, "{name}={value:?} {arguments:?}: {message}");
    }
    let output = command(&["run", "two-functions", "--json"]).env("FMI_SEED", "5").output().expect("lab runs");
    assert!(stdout(&output).contains("\"seed\":5"), "{}", stdout(&output));
}

#[test]
fn perf_takes_units() {
    let output = lab(&["perf", "--ops", "broadcast", "--bytes", "1KiB", "--latency", "10us", "--ranks", "2"]);
    assert_eq!(output.status.code(), Some(2), "half of 10us is no whole tick");
    let output = lab(&["perf", "--ops", "broadcast", "--bytes", "8,1KiB", "--latency", "40us", "--ranks", "2"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains(",2,1024,"), "{}", stdout(&output));
}
