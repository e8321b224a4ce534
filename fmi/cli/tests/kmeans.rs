//! Goal: the example that people know gives the same with FMI as through storage, and differs in four lines. Method:
//! both run by `fmi launch`, as a user would.

use std::path::{Path, PathBuf};
use std::process::Command;

fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a path");
    let folder = own.parent().and_then(Path::parent).expect("the target folder");
    folder.join("examples").join(name)
}

/// A run of this test alone has not built the examples.
fn built(name: &str) -> PathBuf {
    let program = example(name);
    if !program.exists() {
        let is_release = program.components().any(|part| part.as_os_str() == "release");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "-p", "faas-fmi", "--example", name]).args(is_release.then_some("--release"));
        assert!(build.status().expect("cargo runs").success());
    }
    program
}

fn run(name: &str, storage: &Path) -> String {
    let program = built(name);
    let output = Command::new(env!("CARGO_BIN_EXE_fmi"))
        .args(["launch", "-n", "4", "--"])
        .arg(program)
        .env("KMEANS_STORAGE", storage)
        .output()
        .expect("started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn checksum(text: &str) -> f64 {
    text.split("checksum ").nth(1).and_then(|rest| rest.trim().parse().ok()).expect("a checksum")
}

#[test]
fn both_exchanges_find_the_same_clusters() {
    let folder = tempfile::tempdir().expect("a folder");
    let (storage, fmi) = (run("kmeans_storage", folder.path()), run("kmeans_fmi", folder.path()));
    println!("through storage {storage}with fmi {fmi}");
    // Sums in another order differ in their last bits.
    assert!((checksum(&storage) - checksum(&fmi)).abs() < 1e-6, "{storage}{fmi}");
}

#[test]
fn four_lines_differ() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let lines = |name: &str| {
        let text = std::fs::read_to_string(examples.join(name).join("main.rs")).expect("readable");
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (storage, fmi) = (lines("kmeans_storage"), lines("kmeans_fmi"));
    assert_eq!(storage.len(), fmi.len());
    assert_eq!(storage.iter().zip(&fmi).filter(|(a, b)| a != b).count(), 4);
}
