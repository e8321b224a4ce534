//! Goal: the client of a store runs in the lab as it does outside: two runs of one seed are the same, and functions that freeze lose
//! nothing. Method: functions that pass messages by a third host, which speaks as much of the protocol of Redis as that
//! needs.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fmi_net::{Listener, Net};
use fmi_store::{Name, Placed, Put, Scope, Shelf};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use nat_sim::nat::preset;
use nat_sim::topology::{GatewaySpec, HostId, HostSpec, INTERNET, Topology};
use nat_sim::{Fault, Report, SimNet, World};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PORT: u16 = 6379;
const LIVES: Duration = Duration::from_secs(600);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What the server holds.
#[derive(Default)]
struct Held {
    strings: BTreeMap<Vec<u8>, Vec<u8>>,
    lists: BTreeMap<Vec<u8>, VecDeque<Vec<u8>>>,
}

fn bulk(value: Option<&Vec<u8>>) -> Vec<u8> {
    match value {
        None => b"$-1\r\n".to_vec(),
        Some(value) => [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat(),
    }
}

impl Held {
    /// The answer to a command; `None` if it has to wait.
    fn answer(&mut self, command: &[Vec<u8>]) -> Option<Vec<u8>> {
        let key = command.get(1).cloned().unwrap_or_default();
        Some(match &command[0][..] {
            b"EXISTS" => format!(":{}\r\n", u8::from(self.strings.contains_key(&key))).into(),
            b"SET" => {
                let is_first = command.iter().skip(3).any(|word| word == b"NX");
                match self.strings.get(&key).filter(|_| is_first) {
                    Some(there) => bulk(Some(there)),
                    None => {
                        self.strings.insert(key, command[2].clone());
                        if is_first { bulk(None) } else { b"+OK\r\n".to_vec() }
                    }
                }
            }
            b"MGET" => {
                let bodies = command[1..].iter().map(|key| bulk(self.strings.get(key)));
                [format!("*{}\r\n", command.len() - 1).into(), bodies.collect::<Vec<_>>().concat()].concat()
            }
            b"RPUSH" => {
                self.lists.entry(key).or_default().push_back(command[2].clone());
                b":1\r\n".to_vec()
            }
            b"LTRIM" => b"+OK\r\n".to_vec(),
            b"PEXPIRE" => b":1\r\n".to_vec(),
            b"DEL" => format!(":{}\r\n", u8::from(self.lists.remove(&key).is_some())).into(),
            b"BLPOP" => {
                let token = self.lists.get_mut(&key)?.pop_front()?;
                [&b"*2\r\n"[..], &bulk(Some(&key)), &bulk(Some(&token))].concat()
            }
            other => format!("-ERR unknown command '{}'\r\n", String::from_utf8_lossy(other)).into(),
        })
    }
}

/// Serves one client until it is gone.
async fn talk(net: SimNet, stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, held: Arc<Mutex<Held>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let Some(count) = number(&mut stream).await else { return };
        let mut command = Vec::new();
        for _ in 0..count {
            let Some(length) = number(&mut stream).await else { return };
            let mut word = vec![0; length + 2];
            if stream.read_exact(&mut word).await.is_err() {
                return;
            }
            word.truncate(length);
            command.push(word);
        }
        let end = Net::now(&net) + millis(3_000);
        let answer = loop {
            let answer = held.lock().expect("no panic").answer(&command);
            match answer {
                Some(answer) => break answer,
                None if Net::now(&net) >= end => break b"*-1\r\n".to_vec(),
                None => Net::sleep_until(&net, Net::now(&net) + millis(1)).await,
            }
        };
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// A line that is a number behind its sign.
async fn number(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.get(1..)?.trim_end().parse().ok()
}

async fn serve(net: SimNet) {
    let held = Arc::new(Mutex::new(Held::default()));
    let mut listener = net.listen((SERVER, PORT).into(), 8).expect("its port is free");
    let mut clients = FuturesUnordered::new();
    loop {
        let accepting = poll_fn(|cx| listener.poll_accept(cx));
        let accepted = match select(accepting, clients.next()).await {
            Either::Left((accepted, _)) => accepted,
            // Nobody is there to serve, and nothing to wait for but the next one.
            Either::Right((None, accepting)) => accepting.await,
            Either::Right((Some(()), _)) => continue,
        };
        clients.push(talk(net.clone(), accepted.expect("a client"), held.clone()));
    }
}

fn name(to: u64, id: u64) -> Name {
    Name { shelf: Shelf { scope: Scope([3; 12]), number: to }, id: u128::from(id).to_be_bytes() }
}

/// Ten messages there and back; the bodies that came, and when the last one did.
async fn exchange(net: SimNet, rank: u32, seed: u8) -> Line {
    let store = fmi_store::connect(net.clone(), &format!("redis://{SERVER}:{PORT}")).await.expect("it can be used");
    let (me, other) = (u64::from(rank), u64::from(1 - rank));
    let mut came = Vec::new();
    // Both want to be the first.
    let first = Put::new(name(9, 0), vec![seed; 3 + rank as usize], LIVES).only_if_absent();
    if let Placed::Occupied(there) = store.clone().put(first).await.expect("it is written or not") {
        came.push(there.len());
    }
    for id in 0..10 {
        let put = Put::new(name(other, id), vec![seed; 1_000 * usize::try_from(id).expect("a small number")], LIVES)
            .ringing([name(other, id).shelf]);
        store.clone().put(put).await.expect("it is written");
        let found = store.clone().wait(name(me, id).shelf, vec![name(me, id)]).await.expect("it comes");
        came.extend(found.iter().map(|(_, body)| body.len()));
    }
    (rank, came, Net::now(&net).since_origin())
}

/// What a rank was told and sent, and when it was done.
type Line = (u32, Vec<usize>, Duration);

fn run(seed: u8, faults: &[(u64, Fault)]) -> (Report, Vec<Line>) {
    let mut topology = Topology::new();
    let server = topology.host(HostSpec::plain(INTERNET, SERVER.octets(), millis(2)));
    let hosts = [1, 2].map(|number: u8| {
        let inner = topology.network(format!("lan-{number}"));
        topology.gateway(GatewaySpec::plain(preset::rfc_strict(), [203, 0, 113, number], millis(2), inner));
        topology.host(HostSpec::plain(inner, [10, 0, 0, 2], millis(1)))
    });
    let mut world = World::new(topology, 5, millis(1));
    world.service(server, serve);
    let lines = Arc::new(Mutex::new(Vec::new()));
    for (rank, host) in (0..).zip(hosts) {
        let lines = lines.clone();
        world.function(host, Duration::ZERO, move |net| {
            let lines = lines.clone();
            async move {
                let line = exchange(net, rank, seed).await;
                lines.lock().expect("no panic").push(line);
            }
        });
    }
    for (at, fault) in faults {
        world.fault(millis(*at), *fault);
    }
    let report = world.run().expect("a world");
    assert_eq!(report.stuck, None);
    let mut lines = std::mem::take(&mut *lines.lock().expect("no panic"));
    lines.sort_unstable();
    (report, lines)
}

fn lengths(first: Option<usize>) -> Vec<usize> {
    first.into_iter().chain((0..10).map(|id| 1_000 * id)).collect()
}

#[test]
fn two_runs_are_the_same_and_other_bytes_are_not() {
    let [(one, lines), (same, _), (other, _)] = [run(1, &[]), run(1, &[]), run(2, &[])];
    let told: Vec<_> = lines.iter().map(|(_, came, _)| came.len()).collect();
    assert!(told == [10, 11] || told == [11, 10], "of two writers one is told: {told:?}");
    for (rank, came, _) in &lines {
        let first = (came.len() == 11).then_some(3 + 1 - *rank as usize);
        assert_eq!(*came, lengths(first), "rank {rank}");
    }
    assert_eq!(one.digest, same.digest);
    assert_ne!(one.digest, other.digest);
}

#[test]
fn a_function_that_freezes_while_it_waits_has_lost_nothing() {
    let (_, quick) = run(1, &[]);
    let frozen = HostId(1);
    let (_, lines) = run(1, &[(60, Fault::Freeze(frozen)), (30_000, Fault::Thaw(frozen))]);
    for ((rank, came, at), (_, expected, before)) in lines.into_iter().zip(quick) {
        assert_eq!((came.len(), &came), (expected.len(), &expected), "rank {rank}");
        assert!(before < millis(30_000) && at > millis(30_000), "it was frozen: {before:?}, {at:?}");
    }
}
