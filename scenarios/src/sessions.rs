//! Worlds without a group: sessions through gateways to a server on the internet, which are checked byte for byte.
//!
//! Rank 0 is the server, rank 1 is on the internet as well, all others are behind gateways. A group chooses fresh ports and
//! gives up connections that do not work; these functions choose the ports that hurt, and give nothing up.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::task::Poll;
use std::time::Duration;

use fmi::net::{ByteStream, Listener, Net};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nat_sim::SimNet;
use nat_sim::nat::preset::{ALL, Preset};
use nat_sim::nat::{Allocation, DropReason, Fallback, Mapping, Overload};
use nat_sim::packet::{Packet, Segment};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::check::Check;
use crate::corners::PREFIX;
use crate::layout::internet_address;
use crate::program::{Context, Failure, Program};
use crate::reference::value;
use crate::scenario::{Placement, Scenario, WorldSpec};

type SimStream = <SimNet as Net>::Stream;

/// Ranks on the internet.
const SERVER: usize = 0;
const STRANGER: usize = 1;
/// Two remotes for each client.
const PORTS: [u16; 2] = [80, 81];
/// The port that all clients use.
const LOCAL_PORT: u16 = 40_000;
const ROUNDS: u64 = 60;
const PAUSE: Duration = Duration::from_millis(20);

/// Hosts behind one gateway, for each kind of gateway, that all use the same port.
pub(crate) fn of_one_nat() -> Scenario {
    let may_share = |preset: &&Preset| {
        let rules = (preset.config)().tcp;
        let keeps = matches!(rules.allocation, Allocation::Preserve(Fallback::Refuse));
        !keeps && !matches!(rules.mapping, Mapping::None | Mapping::OneToOne) && rules.overload != Overload::Always
    };
    let gateways: Vec<Preset> = ALL.iter().filter(may_share).copied().collect();
    let about = "three hosts behind each kind of NAT talk from one port to one remote";
    scenario("one-nat", about, gateways, 3, false)
}

/// One host behind each kind of gateway, and a stranger who knows where their sessions are.
pub(crate) fn among_strangers() -> Scenario {
    let about = "strangers send to the ports of standing sessions of every kind of NAT";
    let mut scenario = scenario("strangers", about, ALL.to_vec(), 1, true);
    scenario.checks.push(Check::that("the strangers found filters to try", |outcome| {
        let filtered = outcome.report.drops.get(&DropReason::Filtered).copied().unwrap_or_default();
        if filtered >= 1000 { Ok(()) } else { Err(format!("only {filtered} packets were filtered")) }
    }));
    scenario
}

fn scenario(name: &str, about: &str, gateways: Vec<Preset>, hosts: usize, has_strangers: bool) -> Scenario {
    let place = |gateway| Placement { gateway, start: Duration::ZERO, site: 0 };
    let mut functions = vec![place(None); 2];
    functions.extend((0..gateways.len()).flat_map(|gateway| std::iter::repeat_n(place(Some(gateway)), hosts)));
    let clients = functions.len() - 2;
    let world = WorldSpec { functions, gateways, ..WorldSpec::region(0, ALL[0]) };
    let program = Program::alone(Program::config(), async move |context: &Context| {
        let result = match context.rank() {
            0 => serve(context, clients).await,
            1 if has_strangers => intrude(context).await,
            1 => stand_by(context).await,
            _ => return talk(context).await,
        };
        result.map_err(|error| Failure::Wrong(error.to_string()))
    });
    Scenario::new(format!("{PREFIX}{name}"), about, world, program)
}

async fn connect(context: &Context, local: u16, port: u16) -> io::Result<SimStream> {
    context.net().connect(([0; 4], local).into(), (internet_address(SERVER), port).into()).await
}

/// Returns all that comes, and tells rank 1 where the clients are seen.
async fn serve(context: &Context, clients: usize) -> io::Result<()> {
    let listen = |port| context.net().listen(([0; 4], port).into(), 256);
    let mut listeners = [listen(PORTS[0])?, listen(PORTS[1])?];
    let mut streams = Vec::new();
    for _ in 0..clients * PORTS.len() + 1 {
        let accepted = poll_fn(|cx| {
            let found = listeners.iter_mut().map(|listener| listener.poll_accept(cx)).find(Poll::is_ready);
            found.unwrap_or(Poll::Pending)
        });
        streams.push(accepted.await?);
    }
    let mut list = Vec::new();
    for stream in &streams {
        if let SocketAddr::V4(peer) = stream.peer_addr()?
            && *peer.ip() != internet_address(STRANGER)
        {
            list.extend(peer.ip().octets());
            list.extend(peer.port().to_be_bytes());
        }
    }
    let mut echoes: FuturesUnordered<_> = streams.into_iter().map(|stream| echo(stream, &list)).collect();
    while let Some(result) = echoes.next().await {
        result?;
    }
    Ok(())
}

async fn echo(mut stream: SimStream, list: &[u8]) -> io::Result<()> {
    if stream.peer_addr()?.ip() == internet_address(STRANGER) {
        return stream.write_all(list).await;
    }
    let mut bytes = [0; 8];
    loop {
        match stream.read_exact(&mut bytes).await {
            Ok(_) => stream.write_all(&bytes).await?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// One session with each port of the server, both from one port.
async fn talk(context: &Context) -> Result<(), Failure> {
    let failed = |what: &str, error: io::Error| {
        Failure::Wrong(format!("a session from port {LOCAL_PORT} could not {what}: {error}"))
    };
    let mut streams = Vec::new();
    for port in PORTS {
        streams.push(connect(context, LOCAL_PORT, port).await.map_err(|error| failed("begin", error))?);
    }
    for round in 0..ROUNDS {
        for (stream, port) in streams.iter_mut().zip(PORTS) {
            let sent = value(context.rank(), round, port.into()).to_be_bytes();
            let mut got = [0; 8];
            stream.write_all(&sent).await.map_err(|error| failed("send", error))?;
            stream.read_exact(&mut got).await.map_err(|error| failed("receive", error))?;
            if got != sent {
                return Err(Failure::Wrong(format!(
                    "the answer to round {round} is another session's: {got:?}, not {sent:?}"
                )));
            }
        }
        context.sleep(PAUSE).await;
    }
    Ok(())
}

/// Takes the place of the stranger where there is none.
async fn stand_by(context: &Context) -> io::Result<()> {
    let mut list = Vec::new();
    connect(context, 0, PORTS[0]).await?.read_to_end(&mut list).await.map(drop)
}

/// Sends what no session asked for to the ports of all sessions, in its own name and in that of the server.
async fn intrude(context: &Context) -> io::Result<()> {
    let mut list = Vec::new();
    connect(context, 0, PORTS[0]).await?.read_to_end(&mut list).await?;
    let endpoints: Vec<SocketAddrV4> = list
        .chunks_exact(6)
        .map(|it| SocketAddrV4::new([it[0], it[1], it[2], it[3]].into(), u16::from_be_bytes([it[4], it[5]])))
        .collect();
    let raw = context.net().raw();
    for round in 0..ROUNDS / 2 {
        let port = 2000 + u16::try_from(round).expect("few rounds");
        for endpoint in &endpoints {
            for source in [STRANGER, SERVER].map(|rank| SocketAddrV4::new(internet_address(rank), port)) {
                raw.send(Packet::tcp(source, *endpoint, segment(true, false, false), &[]));
                raw.send(Packet::tcp(source, *endpoint, segment(false, true, false), b"who goes there"));
                raw.send(Packet::tcp(source, *endpoint, segment(false, false, true), &[]));
                raw.send(Packet::udp(source.into(), (*endpoint).into(), b"who goes there"));
            }
        }
        context.sleep(PAUSE).await;
    }
    Ok(())
}

fn segment(syn: bool, ack: bool, rst: bool) -> Segment {
    Segment { syn, ack, rst, sequence: 12_345, acknowledgement: 1, window: 1000, ..Segment::NONE }
}
