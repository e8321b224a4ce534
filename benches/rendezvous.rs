//! The rendezvous under load: 10,000 clients in 1,250 groups of 8, server and clients on one core each.
//!
//! `cargo bench -p fmi-benches --bench rendezvous` prints memory for each waiting client, the time from the
//! last registration of a group until all of it know each other, and joins a second, each also as a ratio to
//! the same number of bare connections (accept, one message, one answer) in the same run.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fmi::RealNet;
use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi_benches::{ROLE, runtime};
use fmi_proto::rendezvous::{ClientMessage, Registration, ServerMessage};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const GROUPS: usize = 1250;
const SIZE: usize = 8;

/// Binds this process to a core, where the system lets it.
fn pin(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &cores) {
        println!("not bound to core {core}: {error}");
    }
}

/// Serves until its parent ends.
fn serve() {
    pin(0);
    runtime().block_on(async {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Rendezvous::bind(RealNet::new(), any, ServerConfig::default()).expect("bound");
        let bare = tokio::net::TcpListener::bind(any).await.expect("bound");
        println!("{} {}", server.local_addr().expect("bound"), bare.local_addr().expect("bound"));
        let echo = async {
            loop {
                let (mut stream, _) = bare.accept().await.expect("accepted");
                tokio::spawn(async move {
                    let mut bytes = [0; 512];
                    if let Ok(count) = stream.read(&mut bytes).await {
                        // A client that is gone needs no answer.
                        let _ = stream.write_all(&bytes[..count]).await;
                    }
                });
            }
        };
        let both = futures_util::future::select(Box::pin(server.serve()), Box::pin(echo));
        match both.await {
            futures_util::future::Either::Left((never, _)) => match never {},
            futures_util::future::Either::Right((never, _)) => never,
        }
    });
}

fn registration(group: usize, rank: usize, number: u64) -> ClientMessage {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(group as u64).to_be_bytes());
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&number.to_be_bytes());
    ClientMessage::Register(Registration {
        group: id,
        name: [1; 16],
        rank: u32::try_from(rank).expect("small"),
        size: u32::try_from(SIZE).expect("small"),
        instance: nonce,
        nonce,
        round_trip: Duration::ZERO,
        vouches: 0,
        card: vec![7; 70],
    })
}

async fn message(stream: &mut TcpStream) -> ServerMessage {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.expect("an answer");
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body).await.expect("an answer");
    ServerMessage::parse(&body).expect("a message")
}

async fn group_of(stream: &mut TcpStream) {
    while !matches!(message(stream).await, ServerMessage::Handout(_)) {}
}

fn resident_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the server runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}

fn percentile(times: &mut [Duration], share: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * share / 100).min(times.len() - 1)]
}

/// All but the last rank of each group register and wait; then the last ones come, one after another.
async fn wait_and_complete(server: SocketAddr, process: u32) {
    let before = resident_bytes(process);
    let mut waiting = Vec::new();
    let mut number = 0;
    for group in 0..GROUPS {
        let mut streams = Vec::new();
        for rank in 0..SIZE - 1 {
            let mut stream = TcpStream::connect(server).await.expect("connected");
            number += 1;
            stream.write_all(&registration(group, rank, number).emit()).await.expect("sent");
            assert!(matches!(message(&mut stream).await, ServerMessage::Waiting(_)));
            streams.push(stream);
        }
        waiting.push(streams);
    }
    let clients = GROUPS * (SIZE - 1);
    let bytes = resident_bytes(process).saturating_sub(before) / clients as u64;
    println!("{clients} clients wait: {bytes} bytes of the server for each");
    let mut times = Vec::new();
    for (group, streams) in waiting.iter_mut().enumerate() {
        let mut last = TcpStream::connect(server).await.expect("connected");
        number += 1;
        let begun = Instant::now();
        last.write_all(&registration(group, SIZE - 1, number).emit()).await.expect("sent");
        streams.push(last);
        for stream in streams.iter_mut() {
            group_of(stream).await;
        }
        times.push(begun.elapsed());
    }
    let (median, worst) = (percentile(&mut times, 50), percentile(&mut times, 99));
    println!("from the last registration until all 8 know each other: median {median:.0?}, p99 {worst:.0?}");
    let bytes = resident_bytes(process).saturating_sub(before) / (GROUPS * SIZE) as u64;
    println!("{} clients in {GROUPS} groups are connected: {bytes} bytes of the server for each", GROUPS * SIZE);
}

/// As many joins as the server takes, up to 512 groups at the same time.
async fn rush(server: SocketAddr, first: u64) -> Duration {
    let begun = Instant::now();
    let mut running = FuturesUnordered::new();
    for group in 0..GROUPS {
        running.push(async move {
            let mut streams = Vec::new();
            for rank in 0..SIZE {
                let mut stream = TcpStream::connect(server).await.expect("connected");
                let number = first + (group * SIZE + rank) as u64;
                stream.write_all(&registration(GROUPS + group, rank, number).emit()).await.expect("sent");
                streams.push(stream);
            }
            for stream in &mut streams {
                group_of(stream).await;
            }
        });
        if running.len() >= 512 {
            running.next().await;
        }
    }
    while running.next().await.is_some() {}
    begun.elapsed()
}

/// The same number of connections that say and hear one message.
async fn bare(server: SocketAddr) -> Duration {
    let begun = Instant::now();
    let mut running = FuturesUnordered::new();
    for _ in 0..GROUPS * SIZE {
        running.push(async move {
            let mut stream = TcpStream::connect(server).await.expect("connected");
            stream.write_all(&[7; 230]).await.expect("sent");
            stream.read_exact(&mut [0; 230]).await.expect("an answer");
        });
        if running.len() >= 512 {
            running.next().await;
        }
    }
    while running.next().await.is_some() {}
    begun.elapsed()
}

fn main() {
    if std::env::var_os(ROLE).is_some() {
        return serve();
    }
    let mut server = std::process::Command::new(std::env::current_exe().expect("a path"))
        .env(ROLE, "rendezvous")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("started");
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("piped")).read_line(&mut line).expect("addresses");
    let mut addresses = line.split_whitespace().map(|text| text.parse::<SocketAddr>().expect("an address"));
    let (address, other) = (addresses.next().expect("the server"), addresses.next().expect("the other"));
    pin(1);
    runtime().block_on(async {
        wait_and_complete(address, server.id()).await;
        let joins = (GROUPS * SIZE) as f64;
        for repetition in 0..2u64 {
            let (taken, bare) = (rush(address, (repetition + 1) << 32).await, bare(other).await);
            println!(
                "{:.0} joins a second; bare connections {:.0} a second: {:.2} x their time",
                joins / taken.as_secs_f64(),
                joins / bare.as_secs_f64(),
                taken.as_secs_f64() / bare.as_secs_f64()
            );
        }
    });
    // It would serve forever.
    let _ = server.kill();
    let _ = server.wait();
}
