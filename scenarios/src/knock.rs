//! A stranger who finds the ports on which ranks listen while they wait for the last one, and claims to be each of them.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use fmi::net::Net;
use fmi::{Communicator, time::Instant};
use fmi_net::noted::{self, NO_PROOF};
use fmi_proto::wire::VERSION;
use futures_util::future::{Either, join_all, select};
use nat_sim::SimNet;
use nat_sim::host::EPHEMERAL_PORTS;
use nat_sim::packet::{Packet, Segment};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::catalog::preset;
use crate::corners::PREFIX;
use crate::layout::gateway_address;
use crate::program::{Context, Failure, Program};
use crate::scenario::{Scenario, WorldSpec};

/// Ranks of the group. The function behind them is the stranger.
const SIZE: u32 = 3;
/// When the last rank comes, and the group is handed out.
const LAST_AT: Duration = Duration::from_secs(10);
/// Source of the SYNs that look for listeners.
const LOCAL_PORT: u16 = 2000;

/// Three ranks behind NATs that keep ports and let everybody in, and the stranger on the internet.
pub(crate) fn on_listeners() -> Scenario {
    let mut world = WorldSpec::region(SIZE as usize + 1, preset("linux_eim_ebpf"));
    world.functions[SIZE as usize].gateway = None;
    world.functions[SIZE as usize - 1].start = LAST_AT;
    let program = Program::alone(Program::config(), async |context: &Context| {
        if context.rank() < SIZE {
            return compute(context).await;
        }
        let wrong = |error: io::Error| Failure::Wrong(format!("the stranger's own network failed: {error}"));
        knock(context).await.map_err(wrong)?.map_err(Failure::Wrong)
    });
    Scenario::new(format!("{PREFIX}knock"), "a stranger claims to be each rank towards each listener", world, program)
}

async fn compute(context: &Context) -> Result<(), Failure> {
    let mut config = context.config().clone();
    config.size = SIZE;
    let comm = Communicator::connect(context.net().clone(), &config).await?;
    comm.barrier().await?;
    comm.leave().await;
    Ok(())
}

async fn knock(context: &Context) -> io::Result<Result<(), String>> {
    context.sleep(Duration::from_secs(2)).await;
    let listeners = listeners(context).await;
    if listeners.len() < SIZE as usize - 1 {
        return Ok(Err(format!("the stranger found only the listeners {listeners:?}")));
    }
    let until = context.now() + 2 * LAST_AT;
    let said = listeners.into_iter().flat_map(|listener| claims(SIZE).map(move |pair| (listener, pair)));
    let said = said.map(async |(listener, pair)| claim(context.net(), listener, pair, until).await.then_some(pair));
    let answered = join_all(said).await.into_iter().flatten().next();
    let wrong = |(from, to)| format!("a stranger was answered that claimed to be rank {from} towards rank {to}");
    let judged = noted::judged();
    Ok(match answered {
        Some(pair) => Err(wrong(pair)),
        None if judged == 0 => Err("nobody looked at what the stranger said, so it shows nothing".into()),
        None => Ok(()),
    })
}

/// Ports that answer a SYN.
async fn listeners(context: &Context) -> BTreeSet<SocketAddrV4> {
    let raw = context.net().raw();
    let own = SocketAddrV4::new(context.net().address(), LOCAL_PORT);
    let syn = Segment { syn: true, sequence: 1, window: 1000, ..Segment::NONE };
    let gateways: Vec<Ipv4Addr> = (1..=SIZE as usize).map(gateway_address).collect();
    for port in EPHEMERAL_PORTS.0..=EPHEMERAL_PORTS.1 {
        for gateway in &gateways {
            raw.send(Packet::tcp(own, SocketAddrV4::new(*gateway, port), syn, &[]));
        }
        if port.is_multiple_of(256) {
            context.sleep(Duration::from_millis(1)).await;
        }
    }
    context.sleep(Duration::from_millis(200)).await;
    let answers = raw.take();
    let open = answers.iter().filter(|packet| packet.segment().is_some_and(|it| it.syn && it.ack && !it.rst));
    open.filter_map(|packet| packet.flow().map(|flow| flow.source)).collect()
}

/// What opens a stream, and not one of a link that is there.
const OPENS: u8 = 1;

/// Says to a listener what a rank would say, but for the session and the proof, which a stranger cannot know. Whether more than
/// a closed stream comes back.
pub(crate) async fn claim(net: &SimNet, listener: SocketAddrV4, (from, to): (u32, u32), until: Instant) -> bool {
    let mut hello = vec![b'F', b'M', b'I', VERSION, OPENS];
    hello.extend([7; 16]);
    for number in [from, to, 0] {
        hello.extend(number.to_be_bytes());
    }
    hello.extend([7; 16]);
    hello.extend(NO_PROOF);
    let talk = async {
        let mut stream = net.connect(([0; 4], 0).into(), listener.into()).await?;
        stream.write_all(&hello).await?;
        let read = stream.read(&mut [0; 1]).await?;
        io::Result::Ok(read > 0)
    };
    match select(Box::pin(talk), Box::pin(Net::sleep_until(net, until))).await {
        // Whatever closes the stream is no answer.
        Either::Left((result, _)) => result.unwrap_or(false),
        Either::Right(_) => false,
    }
}

/// All that a stranger can claim to be: one rank towards another.
pub(crate) fn claims(size: u32) -> impl Iterator<Item = (u32, u32)> + Clone {
    (0..size).flat_map(move |from| (0..size).map(move |to| (from, to))).filter(|(from, to)| from != to)
}
