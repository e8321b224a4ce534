//! What the original FMI does, by hand on raw sockets of the lab: bind the port that the server saw, and aim
//! at the one that it saw of the other; between refusals it pauses for 100 ms.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use fmi::net::tcpunch::Tcpunch;
use fmi::net::{Listener, Net};
use nat_sim::nat::preset::Preset;
use nat_sim::{SimNet, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::catalog::pair;
use crate::layout::{SERVER_ADDRESS, topology};

type SimStream = <SimNet as Net>::Stream;

/// Port of the original's server.
const SERVER_PORT: u16 = 10_000;
/// Simulated time that a pair tries.
const PAIR_DEADLINE: Duration = Duration::from_secs(3);
/// Pause of the original between two attempts.
const ORIGINAL_PAUSE: Duration = Duration::from_millis(100);

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pairing server, as `fmi` has it for clients of the original.
async fn serve(net: SimNet) {
    let Ok(server) = Tcpunch::bind(net.clone(), (SERVER_ADDRESS, SERVER_PORT).into()) else {
        return net.record("tcpunch", "cannot listen");
    };
    match server.serve().await {}
}

async fn endpoint(stream: &mut SimStream) -> std::io::Result<SocketAddr> {
    let mut told = [0; 8];
    stream.read_exact(&mut told).await?;
    let [a, b, c, d, high, low, _, _] = told;
    Ok(([a, b, c, d], u16::from_be_bytes([high, low])).into())
}

/// Says a name, and learns where it is seen and where the other one is. The connection stays.
async fn meet(net: &SimNet) -> std::io::Result<(SocketAddr, SocketAddr, SimStream)> {
    let mut stream = net.connect(([0; 4], 0).into(), (SERVER_ADDRESS, SERVER_PORT).into()).await?;
    stream.write_all(b"fmi_pair0_1").await?;
    let own = endpoint(&mut stream).await?;
    let peer = endpoint(&mut stream).await?;
    Ok((own, peer, stream))
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
    let spec = pair(first, second).world;
    let (topology, layout) = topology(&spec);
    let mut world = World::new(topology, seed, spec.resolution);
    world.service(layout.rendezvous[0], serve);
    let results = Arc::new(Mutex::new(Vec::new()));
    for (side, host) in layout.functions.into_iter().enumerate() {
        let results = results.clone();
        world.function(host, Duration::ZERO, move |net| {
            let results = results.clone();
            async move {
                let Ok((own, peer, _stream)) = meet(&net).await else { return };
                if punch(&net, own.port(), peer, ORIGINAL_PAUSE).await {
                    lock(&results).push(side);
                }
            }
        });
    }
    let both = world.run().is_ok_and(|report| report.stuck.is_none());
    both && lock(&results).len() == 2
}
