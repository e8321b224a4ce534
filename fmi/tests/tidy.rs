//! Goal: pure modules stay pure, and no file outgrows its reader. Method: read the sources. One
//! crate holds pure machines and drivers; this is what keeps them apart.

use std::fs;
use std::path::{Path, PathBuf};

/// Files longer than this are split.
const LINES_MAX: usize = 800;

/// Folders and files without I/O, clock, tasks or entropy of their own.
const PURE: [&str; 5] =
    ["fmi/proto/src", "fmi/src/engine/spin.rs", "nat-sim/src/nat", "nat-sim/src/nat.rs", "nat-sim/src/link.rs"];

/// What a pure file does not contain.
const IMPURE: [&str; 9] =
    ["tokio", "async fn", ".await", "Instant::now", "SystemTime", "std::net::Tcp", "thread", "getrandom", "HashMap"];

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder") {
            sources(&entry.expect("an entry").path(), found);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path.to_owned());
    }
}

fn below(root: &Path, folders: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in folders {
        let path = root.join(folder);
        assert!(path.exists(), "{} is gone; this list is out of date", path.display());
        sources(&path, &mut found);
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

#[test]
fn pure_modules_contain_nothing_impure() {
    for file in below(&root(), &PURE) {
        let text = fs::read_to_string(&file).expect("readable");
        for (number, line) in (1..).zip(text.lines()) {
            // A method may be named `await_something`.
            let code = line.split("//").next().unwrap_or_default().replace(".await_", ".");
            let found = IMPURE.iter().find(|word| code.contains(**word));
            assert!(found.is_none(), "{}:{number} has {found:?}", file.display());
        }
    }
}

/// The protocols may depend on the time of a network, on the switches of planted faults and on the list of noted keys,
/// and in a build of the whole workspace they would find the rest.
#[test]
fn protocols_know_no_more_of_the_seam_than_its_time() {
    for file in below(&root(), &["fmi/proto/src"]) {
        let text = fs::read_to_string(&file).expect("readable");
        for rest in text.split("fmi_net::").skip(1) {
            let names = rest.split(';').next().unwrap_or(rest);
            let mut parts = names.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|part| !part.is_empty());
            // Its time, and what only the lab builds in.
            let is_known = names.starts_with("time::") || parts.all(|part| ["noted", "planted"].contains(&part));
            assert!(is_known, "{} uses fmi_net::{:.20}", file.display(), rest);
        }
    }
}

/// Packages that are published.
const PACKAGES: [&str; 8] = ["fmi", "fmi/cli", "fmi/net", "fmi/proto", "fmi/store", "fmi/sys", "nat-sim", "scenarios"];

#[test]
fn every_package_carries_both_licences_and_a_readme() {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).expect("readable");
    let members = workspace.lines().find_map(|line| line.strip_prefix("members = ")).expect("a list");
    for member in members.split('"').skip(1).step_by(2).filter(|member| *member != "benches") {
        assert!(PACKAGES.contains(&member), "{member} is not in this test's list");
    }
    for package in PACKAGES {
        let folder = root().join(package);
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            let text = fs::read(folder.join(licence)).unwrap_or_else(|error| panic!("{package}/{licence}: {error}"));
            assert!(text == fs::read(root().join(licence)).expect("readable"), "{package}/{licence} differs");
        }
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("readable");
        let readme = if manifest.contains("readme = \"../README.md\"") { "../README.md" } else { "README.md" };
        assert!(folder.join(readme).is_file(), "{package} has no README.md");
        assert!(manifest.contains("/LICENSE-*"), "{package} leaves its licences out");
    }
}

/// Faults that tests plant are enabled by dev-dependencies alone, and by no feature of another package.
#[test]
fn no_package_enables_planted_faults() {
    let mut enabled = Vec::new();
    for package in PACKAGES.into_iter().chain(["benches", "fuzz"]) {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).expect("readable");
        let mut section = "";
        for line in manifest.lines().filter(|line| !line.starts_with('#')) {
            if line.starts_with('[') {
                section = line;
            }
            if line.contains("planted-faults") {
                enabled.push((package, section.to_owned(), line.to_owned()));
            }
        }
    }
    let places: Vec<_> = enabled.iter().map(|(package, section, _)| (*package, section.as_str())).collect();
    assert_eq!(places, [("fmi/net", "[features]"), ("scenarios", "[dev-dependencies]")], "{enabled:?}");
}

#[test]
fn nothing_spawns_or_selects() {
    for file in
        below(&root(), &["fmi/cli/src", "fmi/net/src", "fmi/src", "fmi/store/src", "nat-sim/src", "scenarios/src"])
    {
        let text = fs::read_to_string(&file).expect("readable");
        for word in ["tokio::spawn", "tokio::select!", "spawn_blocking", "sync::watch"] {
            assert!(!text.contains(word), "{} has {word}", file.display());
        }
    }
}

#[test]
fn no_file_is_too_long() {
    for file in below(&root(), &["fmi", "nat-sim", "scenarios", "benches", "fuzz/fuzz_targets"]) {
        let lines = fs::read_to_string(&file).expect("readable").lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", file.display());
    }
}
