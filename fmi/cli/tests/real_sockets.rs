//! Goal: the program and the library work on real sockets, with separate processes. Method: the
//! binary `fmi` over loopback, on free ports.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const FMI: &str = env!("CARGO_BIN_EXE_fmi");
const KEY: &str = "sixteen bytes or more";

fn fmi(arguments: &[&str]) -> Command {
    let mut command = Command::new(FMI);
    command.args(arguments);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"FMI_")) {
        command.env_remove(name);
    }
    command
}

/// A rendezvous of its own for each test; ends with it.
struct Rendezvous {
    child: Child,
    address: String,
}

impl Rendezvous {
    fn start() -> Self {
        Self::start_on("127.0.0.1:0")
    }

    fn start_on(address: &str) -> Self {
        let mut child = fmi(&["rendezvous", "--listen", address]).stdout(Stdio::piped()).spawn().expect("started");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ").expect("the address").to_owned();
        Self { child, address }
    }

    fn ping(&self, group: &str, rank: u32, size: u32, key: &str, deadline: &str) -> Command {
        let (rank, size) = (rank.to_string(), size.to_string());
        let mut command =
            fmi(&["ping", "--rendezvous", &self.address, "--group", group, "--rank", &rank, "--size", &size]);
        command.args(["--deadline", deadline, "--json"]).env("FMI_KEY", key);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn finish(children: Vec<Child>) -> Vec<Output> {
    children.into_iter().map(|child| child.wait_with_output().expect("ended")).collect()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn processes_meet_and_ping_each_other() {
    let rendezvous = Rendezvous::start();
    let ranks = 0..5;
    let children = ranks.clone().map(|rank| rendezvous.ping("g", rank, 5, KEY, "20s").spawn().expect("started"));
    for (rank, output) in ranks.zip(finish(children.collect())) {
        assert!(output.status.success(), "{}", stderr(&output));
        let report = json(&output);
        assert_eq!(report["rank"], rank);
        let peers = report["peers"].as_array().expect("peers");
        assert_eq!(peers.len(), 4);
        for peer in peers {
            assert_eq!(peer["path"], "private", "loopback is no NAT");
            assert!(peer["connect_ms"].as_f64().is_some_and(|time| time >= 0.0));
            assert!(peer["round_trip_ms"].as_f64().is_some_and(|time| time > 0.0));
        }
    }
}

#[test]
fn a_rendezvous_on_both_families_hands_out_plain_ipv4_addresses() {
    let rendezvous = Rendezvous::start_on("[::]:0");
    let port = rendezvous.address.rsplit_once(':').expect("a port").1;
    let address = format!("127.0.0.1:{port}");
    let ping = |rank: &str| {
        let mut command = fmi(&["ping", "--group", "g", "--size", "2", "--rank", rank, "--rendezvous", &address]);
        command.args(["--deadline", "20s", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("started")
    };
    for output in finish(vec![ping("0"), ping("1")]) {
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

#[test]
fn one_rendezvous_serves_groups_side_by_side_and_survives_garbage() {
    let rendezvous = Rendezvous::start();
    let mut silent = Vec::new();
    for greeting in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 64]] {
        let mut stream = TcpStream::connect(&rendezvous.address).expect("connected");
        stream.write_all(greeting).expect("sent");
        silent.push(stream);
    }
    let groups = [("a", KEY), ("b", KEY), ("a", "another key of a group")];
    let members = groups.iter().flat_map(|(group, key)| [0, 1].map(|rank| (group, key, rank)));
    let children =
        members.map(|(group, key, rank)| rendezvous.ping(group, rank, 2, key, "20s").spawn().expect("started"));
    for output in finish(children.collect()) {
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

#[test]
fn mistakes_are_told_and_exit_codes_tell_them_apart() {
    let rendezvous = Rendezvous::start();
    let waiting = rendezvous.ping("g", 0, 2, KEY, "4s").spawn().expect("started");
    let wrong_key = rendezvous.ping("g", 1, 2, "another key of a group", "2s").output().expect("ended");
    assert_eq!(wrong_key.status.code(), Some(1));
    assert!(
        stderr(&wrong_key).contains("waiting in another group of this size: check that FMI_GROUP and FMI_KEY"),
        "{}",
        stderr(&wrong_key)
    );
    let twice = rendezvous.ping("g", 0, 2, KEY, "5s").output().expect("ended");
    assert!(stderr(&twice).contains("another process holds this rank"), "{}", stderr(&twice));
    let size = rendezvous.ping("g", 2, 3, KEY, "5s").output().expect("ended");
    assert!(stderr(&size).contains("the group has 2 ranks"), "{}", stderr(&size));
    let outputs = finish(vec![waiting]);
    assert!(stderr(&outputs[0]).contains("rank 1 is missing"), "{}", stderr(&outputs[0]));

    let mut nowhere = rendezvous.ping("g", 0, 2, KEY, "1s");
    drop(rendezvous);
    let nowhere = nowhere.output().expect("ended");
    assert!(stderr(&nowhere).contains("no rendezvous answered"), "{}", stderr(&nowhere));
    for arguments in
        [&["ping"][..], &["launch", "-n", "0", "--", "true"], &["rendezvous", "--listen", "nonsense"], &["dance"]]
    {
        assert_eq!(fmi(arguments).output().expect("ended").status.code(), Some(2), "{arguments:?}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let output = fmi(&["rendezvous", "--listen", &address]).output().expect("ended");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("cannot listen on {address}")), "{}", stderr(&output));
}

#[test]
fn launch_runs_a_group_and_passes_exit_codes_on() {
    let output = fmi(&["launch", "-n", "8", "--", FMI, "ping", "--deadline", "20s"]).output().expect("ended");
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for rank in 0..8 {
        assert!(text.contains(&format!("[{rank}] rank {rank} of 8")), "{text}");
    }
    let fails = "test \"$FMI_RANK\" != 2 || exit 7; sleep 0.1";
    let output = fmi(&["launch", "-n", "4", "--", "sh", "-c", fails]).output().expect("ended");
    assert_eq!(output.status.code(), Some(7));
    assert!(stderr(&output).contains("rank 2 ended with exit status: 7"), "{}", stderr(&output));
    let output = fmi(&["launch", "-n", "1", "--", "/nonexistent/program"]).output().expect("ended");
    assert!(stderr(&output).contains("cannot start \"/nonexistent/program\""), "{}", stderr(&output));
}

/// Clients of the original, as its protocol has them: a name, then two answers of eight bytes.
#[test]
fn clients_of_the_original_are_paired() {
    let mut child = fmi(&["rendezvous", "--listen", "127.0.0.1:0", "--tcpunch", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let address = lines.find_map(|line| line.strip_prefix("tcpunch ").map(str::to_owned)).expect("a line");
    let meet = || {
        let mut stream = TcpStream::connect(&address).expect("it listens");
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("an option");
        stream.write_all(b"fmi_pair0_1").expect("sent");
        let mut told = [0; 8];
        stream.read_exact(&mut told).expect("where it is seen");
        assert_eq!(told[..4], [127, 0, 0, 1]);
        assert_eq!(told[4..6], stream.local_addr().expect("connected").port().to_be_bytes());
        (stream, told)
    };
    let silent = TcpStream::connect(&address).expect("it listens");
    let ((mut first, first_seen), (mut second, second_seen)) = (meet(), meet());
    let mut peer = [0; 8];
    first.read_exact(&mut peer).expect("the peer");
    assert_eq!(peer, second_seen);
    second.read_exact(&mut peer).expect("the peer");
    assert_eq!(peer, first_seen);
    drop(silent);
    let _ = child.kill();
    let _ = child.wait();
}

/// The program, where a process may open so many files, and raise that to as many.
fn with_files(soft: u32, hard: u32, arguments: &[&str]) -> Output {
    let limits = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
    let command = fmi(arguments);
    let mut limited = Command::new("sh");
    limited.args(["-c", &limits]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited.output().expect("ended")
}

#[test]
fn the_limit_of_open_files_is_raised_and_checked_before_a_group_forms() {
    let nowhere =
        ["--group", "g", "--rank", "3", "--size", "100", "--rendezvous", "127.0.0.1:1", "--deadline", "500ms"];
    let ping = [&["ping"][..], &nowhere].concat();
    let output = with_files(64, 64, &ping);
    let told =
        "join on rank 3: a group of 100 ranks needs 115 open files on each, and this process may have 64: raise the";
    assert!(stderr(&output).contains(told), "{}", stderr(&output));
    let output = with_files(64, 200, &ping);
    assert!(
        stderr(&output).contains("no rendezvous answered at 127.0.0.1:1 (connection refused)"),
        "{}",
        stderr(&output)
    );
}

/// A process may hold other files than those of its rank.
#[test]
fn files_that_run_out_are_named_and_no_nat_is() {
    let held: String = (3..10).map(|file| format!(" {file}</dev/null")).collect();
    let script = format!("ulimit -n 17 && exec \"$0\" \"$@\"{held}");
    let mut command = Command::new("sh");
    command.args(["-c", &script, FMI, "ping", "--group", "g", "--rank", "0", "--size", "2"]);
    let output = command.args(["--rendezvous", "127.0.0.1:1", "--deadline", "500ms"]).output().expect("ended");
    let told = stderr(&output);
    assert!(
        told.contains("join on rank 0: the rendezvous at 127.0.0.1:1 could not be tried (too many open files)"),
        "{told}"
    );
    assert!(told.contains("; raise the limit of open files (`ulimit -Hn`)") && !told.contains("NAT"), "{told}");
}

#[test]
fn launch_passes_signals_on() {
    let script = "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child =
        fmi(&["launch", "-n", "2", "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut ready = 0;
    while ready < 2 {
        ready += usize::from(lines.next().expect("a line").expect("text").ends_with("ready"));
    }
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let rest: Vec<String> = lines.map(|line| line.expect("text")).collect();
    assert_eq!(rest.iter().filter(|line| line.ends_with("got it")).count(), 2, "{rest:?}");
    assert_eq!(child.wait().expect("ended").code(), Some(128 + 15));
}

/// Starts a command whose standard output nobody reads.
fn unread(command: &mut Command) -> Output {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().expect("started");
    // It has its own end now; the command keeps this side's one.
    command.stdout(Stdio::null());
    drop(reader);
    child.wait_with_output().expect("ended")
}

#[test]
fn a_reader_that_leaves_ends_every_program_quietly() {
    let rendezvous = Rendezvous::start();
    let alone = ["--group", "g", "--rank", "0", "--size", "1", "--rendezvous", &rendezvous.address];
    let plan = ["plan", "--op", "barrier", "--ranks", "300", "--no-svg"];
    let nat = ["nat", "--rendezvous", &rendezvous.address];
    for arguments in [
        &["--help"][..],
        &plan,
        &nat,
        &[&["ping"][..], &alone].concat(),
        &[&["ping", "--json"][..], &alone].concat(),
        &["perf", "--ranks", "2", "--ops", "barrier,allreduce", "--bytes", "8", "--repetitions", "2", "--time", "1ms"],
    ] {
        let output = unread(&mut fmi(arguments));
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert_eq!(stderr(&output), "", "{arguments:?}");
    }
    // What a process prints for nobody ends it, as it would without `fmi launch`.
    let output = unread(&mut fmi(&["launch", "-n", "2", "--", "sh", "-c", "while echo text; do :; done; exit 3"]));
    assert!([Some(3), Some(128 + 13)].contains(&output.status.code()), "{output:?}");
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
}

#[test]
fn variables_that_are_not_understood_are_mistakes_of_every_program() {
    use std::os::unix::ffi::OsStrExt;
    let garbled = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    let group: [(&str, &str); 4] =
        [("FMI_RANK", "0"), ("FMI_SIZE", "1"), ("FMI_GROUP", "g"), ("FMI_RENDEZVOUS", "127.0.0.1:1")];
    let cases: [(&[&str], &str); 7] = [
        (&["ping"], "FMI_RANK"),
        (&["ping"], "FMI_RENDEZVOUS"),
        (&["ping"], "FMI_RELAY"),
        (&["perf"], "FMI_GROUP"),
        (&["nat"], "FMI_RENDEZVOUS"),
        (&["plan", "--op", "barrier", "--ranks", "2"], "FMI_LOG"),
        (&["rendezvous", "--listen", "127.0.0.1:0"], "FMI_LOG"),
    ];
    for (arguments, name) in cases {
        let output = fmi(arguments).envs(group).env(name, garbled).output().expect("ended");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(stderr(&output).contains(&format!("{name}: not UTF-8")), "{}", stderr(&output));
    }
    for (name, value, expected) in [
        ("FMI_LOG", "fmi=loudly", "FMI_LOG: \"fmi=loudly\""),
        ("FMI_SISE", "2", "did you mean FMI_SIZE?"),
        ("FMI_KEY", "short", "5 bytes"),
        ("FMI_PERF_START", "noon", "FMI_PERF_START: \"noon\""),
    ] {
        let output = fmi(&["perf"]).envs(group).env(name, value).output().expect("ended");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}

/// Bytes that are no text must not count as no key.
#[test]
fn a_key_that_is_not_utf_8_keeps_strangers_out() {
    use std::os::unix::ffi::OsStrExt;
    let rendezvous = Rendezvous::start();
    let folder = tempfile::tempdir().expect("a folder");
    let (key, file) = ([0xff; 16], folder.path().join("key"));
    std::fs::write(&file, [&key[..], b"\n"].concat()).expect("written");
    let with_key = |rank: u32, deadline: &str| {
        let mut command = rendezvous.ping("g", rank, 2, KEY, deadline);
        command.env("FMI_KEY", std::ffi::OsStr::from_bytes(&key));
        command
    };
    let member = with_key(0, "20s").spawn().expect("started");
    let stranger = rendezvous.ping("g", 1, 2, KEY, "1s").env_remove("FMI_KEY").output().expect("ended");
    assert_eq!(stranger.status.code(), Some(1), "{stranger:?}");
    // The same key from a file lets in.
    let mut peer = rendezvous.ping("g", 1, 2, KEY, "20s");
    let peer = peer.env_remove("FMI_KEY").env("FMI_KEY_FILE", &file).spawn().expect("started");
    for output in finish(vec![member, peer]) {
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

/// One rank of a group that computes forever, in a process of its own: this test binary again.
#[test]
fn helper_rank() {
    let Ok(config) = fmi::Config::from_env() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ended = runtime.block_on(async {
        let comm = fmi::Communicator::connect(fmi::RealNet::new(), &config).await?;
        println!("joined");
        loop {
            let mut sum = [0u64; 1000];
            comm.allreduce(&[1; 1000], &mut sum, fmi::op::Sum).await?;
            assert_eq!(sum, [u64::from(config.size); 1000]);
        }
        #[expect(unreachable_code, reason = "gives the block its type")]
        fmi::Result::<()>::Ok(())
    });
    let error = ended.expect_err("somebody is killed");
    println!("names {:?}: {error}", error.peer());
}

#[test]
fn a_killed_process_is_named_by_every_survivor() {
    let rendezvous = Rendezvous::start();
    let this = std::env::current_exe().expect("a path");
    let start = |rank: u32| {
        let mut command = Command::new(&this);
        command.args(["--exact", "helper_rank", "--nocapture"]);
        command.env("FMI_RANK", rank.to_string()).env("FMI_SIZE", "4").env("FMI_GROUP", "doomed");
        command.env("FMI_RENDEZVOUS", &rendezvous.address).env("FMI_KEY", KEY).stdout(Stdio::piped());
        command.spawn().expect("started")
    };
    let mut children: Vec<_> = (0..4).map(start).collect();
    let mut outputs: Vec<_> =
        children.iter_mut().map(|child| BufReader::new(child.stdout.take().expect("piped")).lines()).collect();
    for lines in &mut outputs {
        assert!(lines.any(|line| line.expect("text").contains("joined")));
    }
    children[2].kill().expect("killed");
    for (rank, lines) in outputs.into_iter().enumerate().filter(|(rank, _)| *rank != 2) {
        let text: Vec<String> = lines.map(|line| line.expect("text")).collect();
        assert!(text.iter().any(|line| line.contains("names Some(2)")), "rank {rank}: {text:?}");
    }
    for mut child in children {
        let _ = child.wait();
    }
}

#[test]
fn perf_measures_every_operation_of_a_group() {
    let arguments = ["perf", "--ranks", "3", "--bytes", "8,100KiB", "--repetitions", "2", "--time", "1ms", "--csv"];
    let output = fmi(&arguments).output().expect("ended");
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("op,ranks,bytes,median_us,min_us"));
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 12 * 2 + 1, "{text}");
    assert!(rows.iter().all(|row| row[1] == "3" && row[3].parse::<f64>().is_ok_and(|time| time > 0.0)), "{text}");
}

#[test]
fn plan_says_what_and_why_and_draws_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = |more: &[&str]| {
        let mut command = fmi(&["plan", "--op", "allreduce", "--ranks", "24", "--bytes", "1MiB"]);
        command.args(more).current_dir(folder.path()).output().expect("ended")
    };
    let output = plan(&[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("is taken: least modelled time") && text.contains("drawn in allreduce-24.svg"), "{text}");
    let svg = std::fs::read_to_string(folder.path().join("allreduce-24.svg")).expect("drawn");
    assert!(svg.starts_with("<svg") && svg.matches("<title>").count() >= 24);
    let ring = plan(&["--algorithm", "ring", "--no-svg", "--rank", "5"]);
    assert!(String::from_utf8_lossy(&ring.stdout).contains("ring is taken: asked for"));
    let wrong = plan(&["--algorithm", "bruck"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("unknown algorithm bruck for this allreduce"));
}
