//! Ping-pong and allreduce between processes over loopback, compared with a plain blocking-socket
//! ping-pong in the same run: compare the ratio, not the times.
//!
//! With `FMI_RENDEZVOUS`, `FMI_RANK`, `FMI_SIZE`, `FMI_GROUP` and `FMI_KEY` set, the same between machines: rank 0
//! measures, the others serve.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use criterion::{BenchmarkId, Criterion, criterion_group};
use fmi::{Communicator, Config, RealNet};
use fmi_benches::{Group, ROLE, child, runtime};
use tokio::runtime::Runtime;

const SIZES: [usize; 3] = [8, 1 << 10, 1 << 20];
const TAG: u32 = 1;
/// Where the plain peer connects to.
const ADDRESS: &str = "FMI_BENCH_ADDRESS";

/// A plain peer: sends back what it gets, in messages whose length goes ahead once.
fn serve_plain() {
    let address = std::env::var(ADDRESS).expect("set by the parent");
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_nodelay(true).expect("an option");
    let mut length = [0; 8];
    while stream.read_exact(&mut length).is_ok() {
        let mut buffer = vec![0; usize::try_from(u64::from_le_bytes(length)).expect("fits")];
        while stream.read_exact(&mut buffer[..1]).is_ok() && buffer[0] == 1 {
            stream.read_exact(&mut buffer[1..]).expect("a message");
            stream.write_all(&buffer).expect("sent");
        }
    }
}

fn plain(criterion: &mut Criterion) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address").to_string();
    let mut peer = child("plain", &[(ADDRESS, address)]);
    let (mut stream, _) = listener.accept().expect("accepted");
    stream.set_nodelay(true).expect("an option");
    let mut group = criterion.benchmark_group("ping-pong");
    for bytes in SIZES {
        let mut buffer = vec![1; bytes];
        stream.write_all(&(bytes as u64).to_le_bytes()).expect("sent");
        group.bench_function(BenchmarkId::new("plain blocking sockets", bytes), |bencher| {
            bencher.iter(|| {
                stream.write_all(&buffer).expect("sent");
                stream.read_exact(&mut buffer).expect("received");
            });
        });
        stream.write_all(&[0]).expect("sent");
    }
    group.finish();
    drop(stream);
    let _ = peer.wait();
}

/// What a benchmark does, as rank 0 tells the others.
const ROLES: [&str; 2] = ["ping-pong", "allreduce"];
/// Tells that there is nothing more to do.
const OVER: u64 = u64::MAX;
/// Operations between two words of whether to go on; their cost is spread over these.
const TURN: u64 = 16;

/// Serves until rank 0 has nothing more to do, or leaves.
async fn serve_fmi() -> fmi::Result<()> {
    let config = Config::from_env()?;
    let comm = Communicator::connect(RealNet::new(), &config).await?;
    // Between two benchmarks rank 0 computes for as long as it likes.
    comm.set_deadline(std::time::Duration::from_secs(600));
    loop {
        let mut task = [0u64; 2];
        comm.broadcast(&mut task, 0).await?;
        let [role, bytes] = task;
        let Some(role) = usize::try_from(role).ok().and_then(|role| ROLES.get(role)) else { break };
        let mut buffer = vec![0u8; usize::try_from(bytes).expect("fits")];
        let send = vec![1u64; buffer.len() / 8];
        let mut receive = send.clone();
        loop {
            // One byte ahead of each turn says whether there is one.
            let mut more = [0u8];
            comm.broadcast(&mut more, 0).await?;
            if more[0] == 0 {
                break;
            }
            for _ in 0..TURN {
                if *role == "allreduce" {
                    comm.allreduce(&send, &mut receive, fmi::op::Sum).await?;
                } else if comm.rank() == 1 {
                    comm.recv(0, TAG, &mut buffer).await?;
                    comm.send(0, TAG, &buffer).await?;
                }
            }
        }
    }
    comm.leave().await;
    Ok(())
}

/// Times `iterations` operations, rounded up to turns.
async fn turns(comm: &Communicator, iterations: u64, role: &str, bytes: usize) -> std::time::Duration {
    let mut buffer = vec![1u8; bytes];
    let send = vec![1u64; bytes / 8];
    let mut receive = send.clone();
    let turns = iterations.div_ceil(TURN);
    let begun = comm.now();
    for _ in 0..turns {
        comm.broadcast(&mut [1u8], 0).await.expect("the group lives");
        for _ in 0..TURN {
            if role == "allreduce" {
                comm.allreduce(&send, &mut receive, fmi::op::Sum).await.expect("the group lives");
            } else {
                comm.send(1, TAG, &buffer).await.expect("the group lives");
                comm.recv(1, TAG, &mut buffer).await.expect("the group lives");
            }
        }
    }
    let took = comm.now() - begun;
    #[expect(clippy::cast_precision_loss, reason = "a share of whole turns")]
    let share = iterations as f64 / (turns * TURN) as f64;
    took.mul_f64(share)
}

/// Runs one benchmark at each length; `place` says over what.
fn over_fmi(criterion: &mut Criterion, runtime: &Runtime, comm: &Communicator, role: usize, place: &str) {
    let (name, size) = (ROLES[role], comm.size());
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20);
    for bytes in SIZES {
        runtime.block_on(comm.broadcast(&mut [role as u64, bytes as u64], 0)).expect("the group lives");
        group.bench_function(BenchmarkId::new(format!("fmi, {size} ranks{place}"), bytes), |bencher| {
            bencher.iter_custom(|iterations| runtime.block_on(turns(comm, iterations, name, bytes)));
        });
        runtime.block_on(comm.broadcast(&mut [0u8], 0)).expect("the group lives");
    }
    group.finish();
}

fn loopback(criterion: &mut Criterion, role: usize, size: u32) {
    let runtime = runtime();
    let members = Group::form(&runtime, ROLES[role], size);
    over_fmi(criterion, &runtime, &members.comm, role, "");
    runtime.block_on(members.comm.broadcast(&mut [OVER, 0], 0)).expect("the group lives");
}

fn ping_pong(criterion: &mut Criterion) {
    loopback(criterion, 0, 2);
}

fn allreduce(criterion: &mut Criterion) {
    for size in [2, 4, 8] {
        loopback(criterion, 1, size);
    }
}

criterion_group!(benches, plain, ping_pong, allreduce);

/// Between machines: this process is the rank that the environment names. Rank 0 measures, the others serve.
fn between_machines() {
    let config = Config::from_env().unwrap_or_else(|error| panic!("{error}"));
    let runtime = runtime();
    if config.rank > 0 {
        runtime.block_on(serve_fmi()).unwrap_or_else(|error| panic!("{error}"));
        return;
    }
    let comm = runtime.block_on(Communicator::connect(RealNet::new(), &config));
    let comm = comm.unwrap_or_else(|error| panic!("{error}"));
    let mut criterion = Criterion::default().configure_from_args();
    let roles = if comm.size() > 1 { 0..ROLES.len() } else { 1..ROLES.len() };
    for role in roles {
        over_fmi(&mut criterion, &runtime, &comm, role, ", between machines");
    }
    runtime.block_on(comm.broadcast(&mut [OVER, 0], 0)).unwrap_or_else(|error| panic!("{error}"));
    runtime.block_on(comm.leave());
    criterion.final_summary();
}

fn main() {
    match std::env::var(ROLE).as_deref() {
        Ok("plain") => serve_plain(),
        // Rank 0 ends the group; that is the end of this process and no failure.
        Ok(_) => drop(runtime().block_on(serve_fmi())),
        Err(_) if std::env::var_os("FMI_RANK").is_some() => between_machines(),
        Err(_) => {
            benches();
            Criterion::default().configure_from_args().final_summary();
        }
    }
}
