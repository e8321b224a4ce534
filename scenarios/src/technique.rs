//! Ways to a connection, tried by hand on raw sockets of the lab: what the production code does not do
//! in this version, and what the original FMI does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use fmi::net::{ByteStream, Listener, Net};
use nat_sim::nat::preset::Preset;
use nat_sim::{SimNet, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::matrix::PAIR_DEADLINE;
use crate::run::{SERVER_ADDRESS, pair_topology};

/// How the two sides aim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Technique {
    /// Each observes itself on two ports of a server, and aims at the next port that the other will get.
    Prediction,
    /// The original's rule: bind the port that the server saw, and aim at the one that it saw of the
    /// other; between refusals it pauses for 100 ms.
    BindObserved,
}

/// Ports of the server that says where it sees a connection from.
const MIRRORS: [u16; 2] = [80, 81];
/// Local port of predictions.
const LOCAL: u16 = 5000;
/// Pause of the original between two attempts.
const ORIGINAL_PAUSE: Duration = Duration::from_millis(100);

type Board = Arc<Mutex<BTreeMap<usize, SocketAddr>>>;

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells everybody where it sees them from.
async fn mirror(net: SimNet) {
    let listen = |port: &u16| net.listen(([0; 4], *port).into(), 64);
    let Ok(mut listeners) = MIRRORS.iter().map(listen).collect::<Result<Vec<_>, _>>() else { return };
    let mut kept = Vec::new();
    loop {
        let accepted = std::future::poll_fn(|cx| {
            let mut polled = listeners.iter_mut().map(|listener| listener.poll_accept(cx));
            polled.find(Poll::is_ready).unwrap_or(Poll::Pending)
        });
        let Ok(mut stream) = accepted.await else { continue };
        if let Ok(SocketAddr::V4(from)) = stream.peer_addr() {
            let mut told = from.ip().octets().to_vec();
            told.extend_from_slice(&from.port().to_be_bytes());
            // Who does not read does not learn.
            let _ = stream.write_all(&told).await;
        }
        kept.push(stream);
    }
}

/// Asks a mirror; the connection keeps the mapping alive.
async fn observe(net: &SimNet, local: u16, mirror: u16) -> std::io::Result<(SocketAddr, <SimNet as Net>::Stream)> {
    let mut stream = net.connect(([0; 4], local).into(), (SERVER_ADDRESS, mirror).into()).await?;
    let mut told = [0; 6];
    stream.read_exact(&mut told).await?;
    let [a, b, c, d, high, low] = told;
    Ok((([a, b, c, d], u16::from_be_bytes([high, low])).into(), stream))
}

/// Connects from a port and listens on it until either works or time is up.
async fn punch(net: &SimNet, local: u16, to: SocketAddr, pause: Duration) -> bool {
    let until = Net::now(net) + PAIR_DEADLINE;
    let Ok(mut listener) = net.listen(([0; 4], local).into(), 8) else { return false };
    let attempt = |net: SimNet, wait: Duration| async move {
        let at = Net::now(&net) + wait;
        Net::sleep_until(&net, at).await;
        net.connect(([0; 4], local).into(), to).await
    };
    let mut connecting = Box::pin(attempt(net.clone(), Duration::ZERO));
    let mut limit = Box::pin(net.sleep_until(until));
    let stream = std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(Ok(stream)) = listener.poll_accept(cx) {
                return Poll::Ready(Some(stream));
            }
            match connecting.as_mut().poll(cx) {
                Poll::Ready(Ok(stream)) => return Poll::Ready(Some(stream)),
                Poll::Ready(Err(_)) => connecting = Box::pin(attempt(net.clone(), pause)),
                Poll::Pending => return limit.as_mut().poll(cx).map(|()| None),
            }
        }
    });
    let Some(mut stream) = stream.await else { return false };
    // A handshake proves nothing: a byte must go both ways.
    let mut token = [0];
    let exchange =
        async { stream.write_all(&[7]).await.is_ok() && stream.read_exact(&mut token).await.is_ok() && token == [7] };
    let grace = net.sleep_until(Net::now(net) + PAIR_DEADLINE);
    let works = matches!(
        futures_util::future::select(Box::pin(exchange), Box::pin(grace)).await,
        futures_util::future::Either::Left((true, _))
    );
    let rest = Net::now(net) + Duration::from_millis(200);
    Net::sleep_until(net, rest).await;
    works
}

/// Where the other side should aim, and from where this one does.
async fn prepare(
    net: &SimNet,
    technique: Technique,
) -> std::io::Result<(u16, SocketAddr, Vec<<SimNet as Net>::Stream>)> {
    match technique {
        Technique::Prediction => {
            let (first, first_stream) = observe(net, LOCAL, MIRRORS[0]).await?;
            let (second, second_stream) = observe(net, LOCAL, MIRRORS[1]).await?;
            let step = second.port().wrapping_sub(first.port());
            let next = SocketAddr::new(second.ip(), second.port().wrapping_add(step));
            Ok((LOCAL, next, vec![first_stream, second_stream]))
        }
        Technique::BindObserved => {
            let (seen, stream) = observe(net, 0, MIRRORS[0]).await?;
            Ok((seen.port(), seen, vec![stream]))
        }
    }
}

/// Whether two functions behind these gateways come together so.
pub fn connects(technique: Technique, first: Preset, second: Preset, seed: u64) -> bool {
    let (topology, server, functions, resolution) = pair_topology(first, second);
    let mut world = World::new(topology, seed, resolution);
    world.service(server, mirror);
    let (aims, results) = (Board::default(), Arc::new(Mutex::new(Vec::new())));
    for (side, host) in functions.into_iter().enumerate() {
        let (aims, results) = (aims.clone(), results.clone());
        world.function(host, Duration::ZERO, move |net| {
            let (aims, results) = (aims.clone(), results.clone());
            async move {
                let Ok((local, aim, _streams)) = prepare(&net, technique).await else { return };
                lock(&aims).insert(side, aim);
                // The rendezvous tells both at once; here a clock does.
                Net::sleep_until(&net, fmi::time::Instant::ZERO + Duration::from_millis(500)).await;
                let Some(to) = lock(&aims).get(&(1 - side)).copied() else { return };
                let pause = if technique == Technique::BindObserved { ORIGINAL_PAUSE } else { Duration::ZERO };
                if punch(&net, local, to, pause).await {
                    lock(&results).push(side);
                }
            }
        });
    }
    let both = world.run().is_ok_and(|report| report.stuck.is_none());
    both && lock(&results).len() == 2
}
