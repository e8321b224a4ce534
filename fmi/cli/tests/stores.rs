//! Goal: groups meet and work in stores that people have, by separate processes and nothing but a URL. Method: `fmi launch --store` over
//! a folder and over a real redis-server on a free port, and what it leaves there.

#[path = "../../../nat-sim/tests/common/trials.rs"]
mod trials;

use std::net::TcpListener;
use std::process::{Child, Command, ExitCode, Output, Stdio};

use trials::{Case, case, installed};

const FMI: &str = env!("CARGO_BIN_EXE_fmi");

/// A test with a server of its own.
type OnServer = fn(&Server);

/// For another process of this program: to be one rank of two that do not meet.
const PASSES: &str = "TEST_PASSES";

fn main() -> ExitCode {
    if std::env::var_os(PASSES).is_some() {
        return pass();
    }
    let folder: [(&str, fn()); 5] = [
        ("folder::a_group_works_and_leaves_only_last_words", || {
            let folder = tempfile::tempdir().expect("a folder");
            works(&format!("dir:{}", folder.path().display()));
            // A goodbye and the end of what a rank has for another.
            assert!(bodies(folder.path()) <= 2 * 4 * 3, "four ranks have last words for three others each");
        }),
        ("folder::launches_at_the_same_time_stay_apart", || {
            let folder = tempfile::tempdir().expect("a folder");
            side_by_side(&format!("dir:{}", folder.path().display()));
        }),
        ("folder::ranks_run_one_after_the_other", || {
            let folder = tempfile::tempdir().expect("a folder");
            one_after_the_other(&format!("dir:{}", folder.path().display()));
        }),
        ("folder::what_a_crash_leaves_is_swept", || {
            let folder = tempfile::tempdir().expect("a folder");
            what_a_crash_leaves_is_swept(&format!("dir:{}", folder.path().display()), || bodies(folder.path()));
        }),
        ("what_cannot_be_a_store_is_told", what_cannot_be_a_store_is_told),
    ];
    let redis: [(&str, OnServer); 4] = [
        ("redis::a_group_works_and_leaves_only_what_expires", |server| {
            works(&server.url());
            for key in server.ask(&["--raw", "keys", "*"]).lines() {
                let left: i64 = server.ask(&["pttl", key]).trim().parse().expect("a time");
                assert!(left > 0, "{key} does not expire");
            }
        }),
        ("redis::what_a_crash_leaves_is_swept", |server| {
            let count = || server.ask(&["--raw", "dbsize"]).trim().parse().expect("a number");
            what_a_crash_leaves_is_swept(&server.url(), count);
        }),
        ("redis::launches_at_the_same_time_stay_apart", |server| side_by_side(&server.url())),
        ("redis::ranks_run_one_after_the_other", |server| one_after_the_other(&server.url())),
    ];
    let has_server = installed(&[("redis-server", "redis-server"), ("redis-cli", "redis-tools")]);
    let mut cases: Vec<Case> = folder.into_iter().map(|(name, run)| case(name, run)).collect();
    cases.extend(redis.into_iter().map(|(name, run)| case(name, move || run(&Server::start())).with(&has_server)));
    trials::run(trials::checked(cases, "not installed"))
}

fn fmi(arguments: &[&str]) -> Command {
    let mut command = Command::new(FMI);
    command.args(arguments);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"FMI_")) {
        command.env_remove(name);
    }
    command
}

fn ended(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{}\n{out}{err}", output.status)
}

/// Bodies in a folder.
fn bodies(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let count = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        if path.is_dir() { bodies(&path) } else { 1 }
    };
    entries.map(count).sum()
}

fn launched(url: &str, ranks: &str, rest: &[&str]) -> Command {
    let mut command = fmi(&["launch", "--no-prefix", "--store", url, "-n", ranks, "--", FMI]);
    command.args(rest).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

const PERF: [&str; 9] = [
    "perf",
    "--ops",
    "pingpong,broadcast,allreduce,alltoall,barrier",
    "--bytes",
    "8,3MiB",
    "--repetitions",
    "1",
    "--time",
    "1ms",
];

fn works(url: &str) {
    let output = launched(url, "4", &PERF).output().expect("started");
    assert!(output.status.success(), "{}", ended(&output));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    for operation in ["pingpong", "broadcast", "allreduce", "alltoall", "barrier"] {
        assert!(table.contains(operation), "{table}");
    }
}

fn side_by_side(url: &str) {
    let children: Vec<Child> = (0..3).map(|_| launched(url, "3", &PERF).spawn().expect("started")).collect();
    for child in children {
        let output = child.wait_with_output().expect("ended");
        assert!(output.status.success(), "{}", ended(&output));
    }
}

/// Of two ranks that do not meet, each runs alone: the second one finds what the first one has left.
fn one_after_the_other(url: &str) {
    for rank in ["0", "1"] {
        let mut command = Command::new(std::env::current_exe().expect("a program knows its path"));
        command.env(PASSES, "").env("FMI_RANK", rank).env("FMI_SIZE", "2").env("FMI_GROUP", "one after the other");
        command.env("FMI_STORE", url).env("FMI_MEET", "no").env("FMI_KEY", "sixteen bytes or more");
        let output = command.output().expect("started");
        assert!(output.status.success(), "rank {rank}: {}", ended(&output));
    }
}

/// Rank 0 sends and ends; rank 1 receives.
fn pass() -> ExitCode {
    let run = async {
        let comm = fmi::Communicator::connect(fmi::RealNet::new(), &fmi::Config::from_env()?).await?;
        let sent: Vec<u32> = (0..600_000).collect();
        if comm.rank() == 0 {
            comm.send(1, 3, &sent).await?;
        } else {
            let mut got = vec![0; sent.len()];
            comm.recv(0, 3, &mut got).await?;
            assert!(got == sent);
        }
        Ok::<_, fmi::Error>(comm)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(run) {
        Ok(comm) => {
            // Outside of a runtime, where nothing can be said any more.
            drop(runtime);
            drop(comm);
            ExitCode::SUCCESS
        }
        Err(error) => {
            std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{error:?}\n")).expect("written");
            ExitCode::FAILURE
        }
    }
}

/// A rank that is killed while its group meets leaves its seat behind, until somebody sweeps.
fn what_a_crash_leaves_is_swept(url: &str, count: impl Fn() -> usize) {
    let mut rank = fmi(&["perf"]);
    rank.env("FMI_RANK", "0").env("FMI_SIZE", "2").env("FMI_GROUP", "crashed").env("FMI_STORE", url);
    let mut rank = rank.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
    while count() < 2 {
        std::thread::yield_now();
    }
    rank.kill().and_then(|()| rank.wait()).expect("killed");
    let sweep = |older: &str| {
        let output = fmi(&["store", "sweep", "--older", older, url]).output().expect("started");
        assert!(output.status.success(), "{}", ended(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(sweep("1h"), "0 messages deleted\n", "it is young");
    assert_ne!(sweep("0s"), "0 messages deleted\n");
    assert_eq!(sweep("0s"), "0 messages deleted\n", "nothing is left");
}

fn what_cannot_be_a_store_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = format!("redis://127.0.0.1:{}", taken.local_addr().expect("its address").port());
    drop(taken);
    for (url, said) in [("ftp://host", "no store is of the scheme"), (&nobody[..], "cannot be reached")] {
        let output = launched(url, "2", &PERF).env("FMI_JOIN_DEADLINE", "5s").output().expect("started");
        assert!(!output.status.success() && ended(&output).contains(said), "{url}: {}", ended(&output));
    }
    let mut both = fmi(&["perf"]);
    both.env("FMI_RANK", "0").env("FMI_SIZE", "2").env("FMI_GROUP", "g").env("FMI_RENDEZVOUS", "127.0.0.1:1");
    let output = both.env("FMI_STORE", "dir:/nowhere").output().expect("started");
    assert!(ended(&output).contains("a store and a rendezvous are both given"), "{}", ended(&output));
}

/// A server that ends with its test.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start() -> Self {
        const TRIES: u32 = 400;
        let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port").port();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1"]);
        let child = command.stdout(Stdio::null()).spawn().expect("started");
        let server = Self { child, port };
        let answers = (0..TRIES).any(|_| {
            let answers = server.ask(&["ping"]).contains("PONG");
            if !answers {
                std::thread::yield_now();
            }
            answers
        });
        assert!(answers, "the server does not answer");
        server
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli").args(["-p", &port]).args(arguments).output().expect("started");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
