//! Goal: every store keeps what it is given, tells one of many writers that it was the first, and wakes who waits. Method: one suite
//! against each, over loopback; then what only one kind of store can suffer.

#![allow(clippy::wildcard_enum_match_arm, reason = "what does not matter to a test fails it")]

mod redis;
mod s3;
#[path = "../../../../nat-sim/tests/common/trials.rs"]
mod trials;

use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;

use fmi_net::real::RealNet;
use fmi_store::suite::{self, Bench};
use fmi_store::{MemoryStore, Name, Scope, Shelf, Store};
use trials::{Case, case};

/// For another process of this program: a URL, and the number of its bench.
const OTHER: &str = "FMI_TEST_OTHER_PROCESS";

/// For another process of this program: the URL of a store to use once.
const PUTS: &str = "FMI_TEST_PUTS";

fn main() -> ExitCode {
    if let Ok(url) = std::env::var(PUTS) {
        block_on(async {
            let put = fmi_store::Put::new(name(1), vec![7; 3 << 20], std::time::Duration::from_secs(60));
            let store = open(&url).await;
            store.clone().put(put).await.expect("it is written");
            let found = store.wait(name(1).shelf, vec![name(1)]).await.expect("it is there");
            assert!(found[0].1 == vec![7; 3 << 20]);
        });
        return ExitCode::SUCCESS;
    }
    if let Ok(other) = std::env::var(OTHER) {
        let (number, url) = other.split_once(' ').expect("a number and a URL");
        let number = number.parse().expect("a number");
        block_on(async { suite::other_process(bench(url, number).await).await });
        return ExitCode::SUCCESS;
    }
    let cases = [memory(), dir(), redis::cases(), s3::cases()].into_iter().flatten().collect();
    trials::run(trials::checked(cases, "not installed"))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

async fn open(url: &str) -> Arc<dyn Store> {
    fmi_store::connect(RealNet::new(), url).await.unwrap_or_else(|error| panic!("{error}"))
}

fn name(id: u128) -> Name {
    Name { shelf: Shelf { scope: Scope(*b"by one tests"), number: 1 }, id: id.to_be_bytes() }
}

async fn bench(url: &str, number: u64) -> Bench {
    Bench::new(open(url).await, open(url).await, Arc::new(RealNet::new()), number)
}

/// Asks another process through a store.
fn two_processes(url: &str, number: u64) {
    struct Killed(Child);
    impl Drop for Killed {
        fn drop(&mut self) {
            // It may have ended.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let program = std::env::current_exe().expect("a program knows its path");
    let other = Command::new(program).env(OTHER, format!("{number} {url}")).spawn().expect("it runs");
    let mut other = Killed(other);
    block_on(async { suite::two_processes(bench(url, number).await).await });
    assert!(other.0.wait().expect("it ends").success());
}

fn memory() -> Vec<Case> {
    let cases = suite::CASES.iter().zip(0..);
    let trial = |((name, run), number): (&(&str, suite::Case), u64)| {
        let run = *run;
        case(format!("memory::{name}"), move || {
            let net = RealNet::new();
            let store: Arc<dyn Store> = Arc::new(MemoryStore::new(net));
            block_on(run(Bench::new(store.clone(), store, Arc::new(net), number)));
        })
    };
    cases.map(trial).collect()
}

fn dir() -> Vec<Case> {
    let url = |folder: &Path| format!("dir:{}", folder.display());
    let cases = suite::CASES.iter().zip(0..);
    let trial = |((name, run), number): (&(&str, suite::Case), u64)| {
        let run = *run;
        case(format!("dir::{name}"), move || {
            let folder = tempfile::tempdir().expect("a folder");
            block_on(async { run(bench(&url(&folder.path().join("of/it")), number).await).await });
        })
    };
    let mut trials: Vec<_> = cases.map(trial).collect();
    trials.push(case("dir::two_processes", move || {
        let folder = tempfile::tempdir().expect("a folder");
        two_processes(&url(folder.path()), 0);
    }));
    trials
}
