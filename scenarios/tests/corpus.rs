//! Goal: what fuzzing has found worth keeping stays harmless. Method: each file of each corpus once more.

use std::path::Path;
use std::process::ExitCode;

use trials::case;

#[path = "../../nat-sim/tests/common/trials.rs"]
mod trials;

fn main() -> ExitCode {
    trials::run(scenarios::fuzz::TARGETS.iter().map(|(name, target)| case(*name, || replay(name, *target))).collect())
}

fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(files.len() >= 5, "the corpus of {name} has {} files", files.len());
    for file in files {
        target(&std::fs::read(&file).expect("readable"));
    }
}
