//! The store beside a real `redis-server`, over loopback, with the same client, in turns.
//!
//! `cargo bench -p fmi-benches --bench store` prints the least time of each exchange with both, and the ratio of the two: below
//! 1 the store is faster. Without `redis-server` it prints its own times alone.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fmi::RealNet;
use fmi::net::store::{StoreConfig, StoreServer};
use fmi_benches::{ROLE, runtime};

const ROUNDS: usize = 40;
/// Requests of a pipeline.
const PIPELINE: usize = 10_000;

/// Serves until its parent ends.
fn serve() {
    runtime().block_on(async {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = StoreServer::bind(RealNet::new(), any, StoreConfig::default()).expect("bound");
        println!("{}", server.local_addr().expect("bound"));
        match server.serve().await {}
    });
}

struct Served {
    child: Child,
    address: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        // It would serve forever.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ours() -> Served {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    let mut child = command.env(ROLE, "store").stdout(Stdio::piped()).spawn().expect("started");
    let mut address = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut address).expect("an address");
    Served { child, address: address.trim().to_owned() }
}

fn redis() -> Option<Served> {
    let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port().to_string();
    let mut command = Command::new("redis-server");
    command.args(["--port", &port, "--save", "", "--bind", "127.0.0.1"]).stdout(Stdio::null());
    let child = command.spawn().ok()?;
    let address = format!("127.0.0.1:{port}");
    while TcpStream::connect(&address).is_err() {
        std::hint::spin_loop();
    }
    Some(Served { child, address })
}

fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn connect(server: &Served) -> TcpStream {
    let stream = TcpStream::connect(&server.address).expect("it listens");
    stream.set_nodelay(true).expect("set");
    stream
}

/// Sends requests, and reads so many bytes of answers.
fn ask(stream: &mut TcpStream, requests: &[u8], answers: &mut [u8]) {
    stream.write_all(requests).expect("sent");
    stream.read_exact(answers).expect("answered");
}

fn set_and_get(server: &Served, bytes: usize) -> Duration {
    let mut stream = connect(server);
    let set = request(&[b"SET", b"key", &vec![7; bytes]]);
    let get = request(&[b"GET", b"key"]);
    let mut answer = vec![0; format!("${bytes}\r\n").len() + bytes + 2];
    let begun = Instant::now();
    ask(&mut stream, &set, &mut [0; 5]);
    ask(&mut stream, &get, &mut answer);
    begun.elapsed()
}

/// The time of one request.
fn pipelined(server: &Served) -> Duration {
    let mut stream = connect(server);
    let requests: Vec<u8> = (0..PIPELINE)
        .flat_map(|number| request(&[b"SET", format!("key{}", number % 1000).as_bytes(), &[7; 64], b"EX", b"60"]))
        .collect();
    let begun = Instant::now();
    ask(&mut stream, &requests, &mut vec![0; 5 * PIPELINE]);
    begun.elapsed() / u32::try_from(PIPELINE).expect("small")
}

/// From a push to what a waiter is told.
fn bell(server: &Served) -> Duration {
    let (mut waiter, mut pusher) = (connect(server), connect(server));
    waiter.write_all(&request(&[b"BLPOP", b"bell", b"0"])).expect("sent");
    // Once this is answered the wait has begun, most likely; else the time is that of a pop.
    ask(&mut pusher, &request(&[b"PING"]), &mut [0; 7]);
    let push = request(&[b"RPUSH", b"bell", b"1"]);
    let begun = Instant::now();
    pusher.write_all(&push).expect("sent");
    waiter.read_exact(&mut [0; 21]).expect("told");
    let taken = begun.elapsed();
    pusher.read_exact(&mut [0; 4]).expect("answered");
    taken
}

fn main() {
    if std::env::var_os(ROLE).is_some() {
        return serve();
    }
    let (ours, redis) = (ours(), redis());
    let compare = |what: &str, rounds: usize, measure: &dyn Fn(&Served) -> Duration| {
        let (mut least, mut other) = (Duration::MAX, Duration::MAX);
        for _ in 0..rounds {
            least = least.min(measure(&ours));
            other = redis.as_ref().map_or(other, |redis| other.min(measure(redis)));
        }
        let ratio = least.as_secs_f64() / other.as_secs_f64();
        println!("{what:24} {least:>10.1?}   redis {other:>10.1?}   ratio {ratio:.2}");
    };
    for (what, bytes, rounds) in [
        ("SET and GET of 8 B", 8, 20 * ROUNDS),
        ("SET and GET of 64 KiB", 64 << 10, 4 * ROUNDS),
        ("SET and GET of 1 MiB", 1 << 20, ROUNDS),
        ("SET and GET of 16 MiB", 16 << 20, ROUNDS / 4),
    ] {
        compare(what, rounds, &|server| set_and_get(server, bytes));
    }
    compare("pipelined SET of 64 B", ROUNDS, &pipelined);
    compare("RPUSH to BLPOP", 20 * ROUNDS, &bell);
}
