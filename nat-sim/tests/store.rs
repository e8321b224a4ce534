//! Goal: functions behind NATs leave each other messages in the store of this project, whenever they run, and two runs are the
//! same. Method: the driver of the store on a host of the lab; functions that speak RESP by hand.

mod common;

use std::time::Duration;

use common::{Board, RENDEZVOUS, behind, millis};
use fmi::net::store::{SILENCE_MAX, StoreConfig, StoreServer};
use fmi_net::Net;
use nat_sim::nat::preset;
use nat_sim::topology::HostId;
use nat_sim::{Fault, SimNet, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PORT: u16 = 6379;
const BODY_BYTES: usize = 300_000;

/// The store, and functions that meet by no technique but a relay.
fn world(functions: usize) -> (World, Vec<HostId>) {
    let nats = vec![preset::aws_natgw(); functions];
    let (topology, store, hosts) = behind(&nats, millis(1), millis(4), millis(2));
    let mut world = World::new(topology, 5, millis(1));
    world.service(store, |net| async move {
        let bound = StoreServer::bind(net, (RENDEZVOUS, PORT).into(), StoreConfig::default()).expect("bound");
        match bound.serve().await {}
    });
    (world, hosts)
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

async fn connect(net: &SimNet) -> <SimNet as Net>::Stream {
    net.connect(([0; 4], 0).into(), (RENDEZVOUS, PORT).into()).await.expect("it listens")
}

/// Sends requests, and reads the answers, which are these.
async fn ask(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), requests: &[Vec<u8>], answers: &[u8]) {
    stream.write_all(&requests.concat()).await.expect("sent");
    let mut said = vec![0; answers.len()];
    stream.read_exact(&mut said).await.expect("answered");
    assert!(said == answers, "{}", String::from_utf8_lossy(&said[..said.len().min(200)]));
}

fn body() -> Vec<u8> {
    (0..BODY_BYTES).map(|at| u8::try_from(at % 251).expect("small")).collect()
}

/// One waits for a body and its bell; the other leaves them 100 ms later. When the first has the body, and the digest.
fn exchange() -> (Duration, String) {
    let (mut world, hosts) = world(2);
    let board = Board::new();
    let receiver = board.clone();
    world.function(hosts[0], Duration::ZERO, move |net| {
        let board = receiver.clone();
        async move {
            let mut stream = connect(&net).await;
            let answers = [b"*2\r\n$4\r\nbell\r\n$1\r\n1\r\n$300000\r\n" as &[u8], &body(), b"\r\n"].concat();
            ask(&mut stream, &[request(&[b"BLPOP", b"bell", b"0"]), request(&[b"GET", b"body"])], &answers).await;
            board.put(Net::now(&net).since_origin());
        }
    });
    world.function(hosts[1], millis(100), |net| async move {
        let mut stream = connect(&net).await;
        let put = request(&[b"SET", b"body", &body(), b"EX", b"60"]);
        ask(&mut stream, &[put, request(&[b"RPUSH", b"bell", b"1"])], b"+OK\r\n:1\r\n").await;
    });
    let report = world.run().expect("a world");
    assert_eq!(report.stuck, None);
    (board.take()[0], report.digest)
}

#[test]
fn a_body_gets_from_one_function_behind_a_nat_to_another_through_the_store() {
    let (received, digest) = exchange();
    assert!(received > millis(100), "{received:?}");
    assert_eq!(exchange(), (received, digest), "two runs are the same");
}

/// Its kernel does not answer, so that its connection ends, and what comes is for another one.
#[test]
fn a_function_that_was_killed_while_it_waited_takes_nothing_with_it() {
    let (mut world, hosts) = world(3);
    let board = Board::new();
    world.function(hosts[0], Duration::ZERO, |net| async move {
        let mut stream = connect(&net).await;
        ask(&mut stream, &[request(&[b"BLPOP", b"bell", b"0"])], b"*2\r\n").await;
    });
    world.fault(Duration::from_secs(1), Fault::Kill(hosts[0]));
    let late = Duration::from_secs(2) + 3 * SILENCE_MAX;
    world.function(hosts[1], late, |net| async move {
        let mut stream = connect(&net).await;
        ask(&mut stream, &[request(&[b"RPUSH", b"bell", b"1"])], b":1\r\n").await;
    });
    let told = board.clone();
    world.function(hosts[2], late + Duration::from_secs(1), move |net| {
        let board = told.clone();
        async move {
            let mut stream = connect(&net).await;
            ask(&mut stream, &[request(&[b"LPOP", b"bell"])], b"$1\r\n1\r\n").await;
            board.put(());
        }
    });
    let _ = world.run().expect("a world");
    assert_eq!(board.count(), 1);
}
