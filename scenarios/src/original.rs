//! What the original FMI does, by hand on raw sockets of the lab: bind the port that the server saw, and aim
//! at the one that it saw of the other; between refusals it pauses for 100 ms.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use fmi::net::{ByteStream, Listener, Net};
use nat_sim::nat::preset::Preset;
use nat_sim::{SimNet, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::run::{SERVER_ADDRESS, pair_topology};

/// Port of the server that says where it sees a connection from.
const MIRROR: u16 = 80;
/// Simulated time that a pair tries.
const PAIR_DEADLINE: Duration = Duration::from_secs(3);
/// Pause of the original between two attempts.
const ORIGINAL_PAUSE: Duration = Duration::from_millis(100);

type Board = Arc<Mutex<BTreeMap<usize, SocketAddr>>>;

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells everybody where it sees them from.
async fn mirror(net: SimNet) {
    let Ok(mut listener) = net.listen(([0; 4], MIRROR).into(), 64) else { return };
    let mut kept = Vec::new();
    loop {
        let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx));
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
async fn observe(net: &SimNet) -> std::io::Result<(SocketAddr, <SimNet as Net>::Stream)> {
    let mut stream = net.connect(([0; 4], 0).into(), (SERVER_ADDRESS, MIRROR).into()).await?;
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

/// Whether two functions behind these gateways come together so.
pub fn connects(first: Preset, second: Preset, seed: u64) -> bool {
    let (topology, server, functions, resolution) = pair_topology(first, second);
    let mut world = World::new(topology, seed, resolution);
    world.service(server, mirror);
    let (aims, results) = (Board::default(), Arc::new(Mutex::new(Vec::new())));
    for (side, host) in functions.into_iter().enumerate() {
        let (aims, results) = (aims.clone(), results.clone());
        world.function(host, Duration::ZERO, move |net| {
            let (aims, results) = (aims.clone(), results.clone());
            async move {
                let Ok((aim, _stream)) = observe(&net).await else { return };
                lock(&aims).insert(side, aim);
                // The rendezvous tells both at once; here a clock does.
                Net::sleep_until(&net, fmi::time::Instant::ZERO + Duration::from_millis(500)).await;
                let Some(to) = lock(&aims).get(&(1 - side)).copied() else { return };
                if punch(&net, aim.port(), to, ORIGINAL_PAUSE).await {
                    lock(&results).push(side);
                }
            }
        });
    }
    let both = world.run().is_ok_and(|report| report.stuck.is_none());
    both && lock(&results).len() == 2
}
