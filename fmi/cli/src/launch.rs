//! `fmi launch`

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use fmi::RealNet;
use fmi::net::Net;
use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::output::{Closed, print_error, try_print};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Number of processes.
    #[arg(short = 'n', long = "ranks", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    ranks: u32,
    /// Have the ranks meet in a store, and exchange by it what they have to say, in place of a rendezvous and connections:
    /// dir:/path, redis://host:6379.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Do not prefix output lines with the rank.
    #[arg(long)]
    no_prefix: bool,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "PROGRAM ARGS")]
    program: Vec<String>,
}

/// After one process failed, the others get this long to notice by themselves.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    match launch(arguments).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `ranks` processes of this very command, without `option` and its value.
pub(crate) async fn again(ranks: u32, option: &str) -> ExitCode {
    let mut program = Vec::new();
    let mut given = std::env::args();
    while let Some(argument) = given.next() {
        if argument == option {
            given.next();
        } else if !argument.starts_with(&format!("{option}=")) {
            program.push(argument);
        }
    }
    if let Some(path) = std::env::current_exe().ok().and_then(|path| path.to_str().map(str::to_owned)) {
        program[0] = path;
    }
    run(Arguments { ranks, store: None, no_prefix: true, program }).await
}

async fn launch(arguments: Arguments) -> Result<u8, String> {
    let net = RealNet::new();
    // For the ranks, too, which inherit it.
    net.allow_files();
    let server = match &arguments.store {
        Some(_) => None,
        None => {
            let bound = Rendezvous::bind(net, ([127, 0, 0, 1], 0).into(), ServerConfig::default());
            Some(bound.map_err(|error| error.to_string())?)
        }
    };
    let meeting = match (&server, &arguments.store) {
        (Some(server), _) => ("FMI_RENDEZVOUS", server.local_addr().map_err(|error| error.to_string())?.to_string()),
        (None, url) => ("FMI_STORE", url.clone().unwrap_or_default()),
    };
    let secret = random_digits(net);
    // A store may hold what an earlier launch has left.
    let group = if server.is_some() { "launch".to_owned() } else { format!("launch {}", random_digits(net)) };

    let mut children = Vec::new();
    for rank in 0..arguments.ranks {
        let child = Command::new(&arguments.program[0])
            .args(&arguments.program[1..])
            .env("FMI_RANK", rank.to_string())
            .env("FMI_SIZE", arguments.ranks.to_string())
            .env("FMI_GROUP", &group)
            // These would contradict what follows.
            .env_remove("FMI_RENDEZVOUS")
            .env_remove("FMI_STORE")
            .env(meeting.0, &meeting.1)
            .env("FMI_KEY", &secret)
            .env_remove("FMI_KEY_FILE")
            .env_remove("FMI_VANTAGE")
            .env_remove("FMI_ALONE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let program = &arguments.program[0];
        children.push((rank, child.map_err(|error| format!("cannot start {program:?}: {error}"))?));
    }
    let run = attend(net, children, !arguments.no_prefix);
    let Some(server) = server else { return run.await };
    match select(std::pin::pin!(server.serve()), std::pin::pin!(run)).await {
        Either::Left((never, _)) => match never {},
        Either::Right((code, _)) => code,
    }
}

/// 16 random bytes as text.
fn random_digits(net: RealNet) -> String {
    let mut bytes = [0; 16];
    net.fill_entropy(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

enum Event {
    Ended(u32, ExitStatus),
    Signal(Signal),
    GraceOver,
}

type Work = std::pin::Pin<Box<dyn Future<Output = Event>>>;

/// Waits for all processes; passes signals on; ends the rest some time after the first failure.
async fn attend(net: RealNet, children: Vec<(u32, Child)>, prefix: bool) -> Result<u8, String> {
    let mut running: std::collections::BTreeMap<u32, Pid> = std::collections::BTreeMap::new();
    let mut work: FuturesUnordered<Work> = FuturesUnordered::new();
    for (rank, child) in children {
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            running.insert(rank, pid);
        }
        work.push(Box::pin(follow(rank, child, prefix)));
    }
    for (kind, pass_on) in [(SignalKind::interrupt(), Signal::INT), (SignalKind::terminate(), Signal::TERM)] {
        let mut stream = signal(kind).map_err(|error| format!("cannot listen for signals: {error}"))?;
        work.push(Box::pin(async move {
            stream.recv().await;
            Event::Signal(pass_on)
        }));
    }
    let mut code = 0;
    let mut ending = Signal::TERM;
    while !running.is_empty() {
        let Some(event) = work.next().await else { break };
        match event {
            Event::Ended(rank, status) => {
                running.remove(&rank);
                let own = exit_code(status);
                if own != 0 && code == 0 {
                    code = own;
                    // A process that prints for nobody ends so, which whoever has stopped reading expects.
                    if status.signal() != Some(Signal::PIPE.as_raw()) {
                        complain!("rank {rank} ended with {status}");
                    }
                    let sleep = net.sleep_until(net.now() + GRACE);
                    work.push(Box::pin(async move {
                        sleep.await;
                        Event::GraceOver
                    }));
                }
            }
            Event::Signal(signal) => {
                for pid in running.values() {
                    // A process that has just ended cannot be signalled; its end is on its way.
                    let _ = kill_process(*pid, signal);
                }
                code = if code == 0 { 128 + u8::try_from(signal.as_raw()).unwrap_or(0) } else { code };
                let sleep = net.sleep_until(net.now() + GRACE);
                work.push(Box::pin(async move {
                    sleep.await;
                    Event::GraceOver
                }));
            }
            Event::GraceOver => {
                for pid in running.values() {
                    let _ = kill_process(*pid, ending);
                }
                ending = Signal::KILL;
                let sleep = net.sleep_until(net.now() + GRACE);
                work.push(Box::pin(async move {
                    sleep.await;
                    Event::GraceOver
                }));
            }
        }
    }
    Ok(code)
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}

async fn follow(rank: u32, mut child: Child, prefix: bool) -> Event {
    let label = if prefix { format!("[{rank}] ") } else { String::new() };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let out = copy_lines(stdout, |line| try_print(format_args!("{label}{line}")));
    let err = copy_lines(stderr, |line| {
        print_error(format_args!("{label}{line}"));
        Ok(())
    });
    let (status, (), ()) = futures_util::future::join3(child.wait(), out, err).await;
    Event::Ended(rank, status.unwrap_or_default())
}

/// Prints line by line, until nobody reads any more: then the process finds its pipe closed, as it would alone.
async fn copy_lines(from: Option<impl AsyncRead + Unpin>, print: impl Fn(&str) -> Result<(), Closed>) {
    let Some(from) = from else { return };
    let mut lines = BufReader::new(from);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
        if print(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r'])).is_err() {
            return;
        }
        line.clear();
    }
}
