//! Programs of attackers: hosts on the internet that know what an attacker could know.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fmi::net::Net;
use fmi_proto::key::Key;
use fmi_proto::rendezvous::{ClientMessage, Registration};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nat_sim::SimNet;
use nat_sim::host::EPHEMERAL_PORTS;
use nat_sim::packet::{Packet, Segment};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What an attacker does, from the start of the world on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// T1: knows the name of the group, not its key, and registers every rank under its own one.
    Impostor,
    /// T5: has read the registration of the last rank on the wire, and sends it first; then it is silent.
    Replay,
    /// T2: dials every port of every gateway, and says what looks like a confirmation.
    Knocker,
    /// T7: many connections that send a byte a second.
    SlowLoris,
    /// T8: many registrations of groups that never come together, and many that are no messages.
    Flood,
    /// T12: resets in the name of the rendezvous and of the other gateways, at every port.
    Resets,
}

/// All of them.
pub const ALL: [Attack; 6] =
    [Attack::Impostor, Attack::Replay, Attack::Knocker, Attack::SlowLoris, Attack::Flood, Attack::Resets];

impl Attack {
    /// Its name in the catalogue.
    pub fn name(self) -> &'static str {
        match self {
            Self::Impostor => "impostor",
            Self::Replay => "replay",
            Self::Knocker => "knocker",
            Self::SlowLoris => "slow-loris",
            Self::Flood => "flood",
            Self::Resets => "resets",
        }
    }
}

/// What an attacker knows.
#[derive(Debug)]
pub(crate) struct Knowledge {
    pub(crate) rendezvous: SocketAddr,
    pub(crate) group: String,
    /// For [`Attack::Replay`] alone, who has read it on the wire.
    pub(crate) group_id: [u8; 32],
    pub(crate) size: u32,
    pub(crate) gateways: Vec<Ipv4Addr>,
    /// Set if a function answered a stranger with more than a closed connection.
    pub(crate) told: AtomicBool,
}

/// Connections of a flood or a slow loris.
const CONNECTIONS: u32 = 400;

pub(crate) async fn run(net: SimNet, attack: Attack, knowledge: Arc<Knowledge>) {
    match attack {
        Attack::Impostor => {
            let own_key = Key::from_secret(b"another key");
            let group = own_key.group_id(&knowledge.group);
            register_all(&net, &knowledge, group, 0..knowledge.size).await;
        }
        Attack::Replay => {
            let last = knowledge.size - 1;
            register_all(&net, &knowledge, knowledge.group_id, last..last + 1).await;
        }
        Attack::Knocker => knock(&net, &knowledge).await,
        Attack::SlowLoris => trickle(&net, &knowledge).await,
        Attack::Flood => flood(&net, &knowledge).await,
        Attack::Resets => reset(&net, &knowledge).await,
    }
}

fn registration(knowledge: &Knowledge, group: [u8; 32], rank: u32, number: u8) -> ClientMessage {
    ClientMessage::Register(Registration {
        group,
        name: Key::public(&knowledge.group).name_tag(&knowledge.group),
        rank,
        size: knowledge.size,
        instance: [number; 16],
        nonce: [number; 16],
        round_trip: Duration::ZERO,
        vouches: 0,
        card: vec![number; 80],
    })
}

async fn sleep(net: &SimNet, time: Duration) {
    let at = Net::now(net) + time;
    Net::sleep_until(net, at).await;
}

/// Registers ranks and then neither reads nor answers.
async fn register_all(net: &SimNet, knowledge: &Knowledge, group: [u8; 32], ranks: std::ops::Range<u32>) {
    let mut kept = Vec::new();
    for rank in ranks {
        let Ok(mut stream) = net.connect(([0; 4], 0).into(), knowledge.rendezvous).await else { continue };
        let number = u8::try_from(rank % 200).expect("below 200") + 1;
        // Whether the rendezvous takes it is its business.
        let _ = stream.write_all(&registration(knowledge, group, rank, number).emit()).await;
        kept.push(stream);
    }
    std::future::pending().await
}

async fn knock(net: &SimNet, knowledge: &Knowledge) {
    let confirmation: Vec<u8> = b"FMI\x02".iter().copied().chain(std::iter::repeat_n(7, 56)).collect();
    let mut streams = FuturesUnordered::new();
    for port in EPHEMERAL_PORTS.0..=EPHEMERAL_PORTS.1 {
        for gateway in &knowledge.gateways {
            let connect = net.connect(([0; 4], 0).into(), (*gateway, port).into());
            let confirmation = &confirmation;
            let until = Net::now(net) + Duration::from_millis(50);
            streams.push(async move {
                let knock = async {
                    let mut stream = connect.await?;
                    stream.write_all(confirmation).await?;
                    // Whoever answers more than by closing has told something.
                    let mut answer = [0; 1];
                    let told = stream.read(&mut answer).await? > 0;
                    std::io::Result::Ok(told)
                };
                let limit = Net::sleep_until(net, until);
                match futures_util::future::select(Box::pin(knock), Box::pin(limit)).await {
                    futures_util::future::Either::Left((Ok(true), _)) => {
                        knowledge.told.store(true, Ordering::Relaxed);
                    }
                    futures_util::future::Either::Left(_) | futures_util::future::Either::Right(_) => {}
                }
            });
        }
        if port.is_multiple_of(500) {
            while streams.next().await.is_some() {}
        }
    }
}

async fn trickle(net: &SimNet, knowledge: &Knowledge) {
    let message = registration(knowledge, [9; 32], 0, 1).emit();
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        streams.extend(net.connect(([0; 4], 0).into(), knowledge.rendezvous).await.ok());
    }
    for byte in message {
        for stream in &mut streams {
            // The rendezvous may have had enough of it.
            let _ = stream.write_all(&[byte]).await;
        }
        sleep(net, Duration::from_secs(1)).await;
    }
}

async fn flood(net: &SimNet, knowledge: &Knowledge) {
    let mut kept = Vec::new();
    for number in 0..CONNECTIONS {
        let Ok(mut stream) = net.connect(([0; 4], 0).into(), knowledge.rendezvous).await else { continue };
        let mut group = [0; 32];
        group[..4].copy_from_slice(&number.to_be_bytes());
        let mut bytes = registration(knowledge, group, 0, 1).emit();
        if number % 2 == 0 {
            bytes = vec![u8::try_from(number % 256).expect("a byte"); 300];
        } else {
            // Another nonce each: the last bytes before round trip, vouches and card.
            let at = bytes.len() - 80 - 2 - 1 - 4 - 4;
            bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
        }
        // Whether the rendezvous takes it is its business.
        let _ = stream.write_all(&bytes).await;
        kept.push(stream);
    }
    std::future::pending().await
}

async fn reset(net: &SimNet, knowledge: &Knowledge) {
    let raw = net.raw();
    let SocketAddr::V4(rendezvous) = knowledge.rendezvous else { return };
    let segment = Segment {
        syn: false,
        ack: false,
        fin: false,
        rst: true,
        sequence: 12345,
        acknowledgement: 0,
        window: 0,
        payload: 0,
    };
    let sources: Vec<SocketAddrV4> = std::iter::once(rendezvous)
        .chain(knowledge.gateways.iter().map(|gateway| SocketAddrV4::new(*gateway, EPHEMERAL_PORTS.0)))
        .collect();
    for port in (EPHEMERAL_PORTS.0..=EPHEMERAL_PORTS.1).step_by(7) {
        for gateway in &knowledge.gateways {
            for source in sources.iter().filter(|source| source.ip() != gateway) {
                raw.send(Packet::tcp(*source, SocketAddrV4::new(*gateway, port), segment, &[]));
            }
        }
        if port.is_multiple_of(70) {
            sleep(net, Duration::from_millis(1)).await;
        }
    }
}
