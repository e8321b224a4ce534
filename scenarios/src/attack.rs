//! Programs of attackers: hosts on the internet that know what an attacker could know.
//!
//! Each counts what it hits (`hits.rs`): an attack that hits nobody shows nothing, and fails the run.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fmi::net::Net;
use fmi_proto::key::Key;
use fmi_proto::rendezvous::{ClientMessage, Refusal, Registration, SERVER_MESSAGE_BYTES_MAX, ServerMessage, split};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use nat_sim::SimNet;
use nat_sim::host::EPHEMERAL_PORTS;
use nat_sim::packet::{Packet, Segment};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::hits::{Aim, Hits};
use crate::knock::{claim, claims};

/// What an attacker does, from the start of the world on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// T1: knows the name of the group, not its key, and registers every rank under its own one.
    Impostor,
    /// T5: has read the registration of the last rank on the wire, and sends it first; then it is silent.
    Replay,
    /// T2: dials every port of every gateway, again and again those that are in use, and claims to be each rank.
    Knocker,
    /// T7: many connections that send a byte a second.
    SlowLoris,
    /// T8: many registrations of groups that never come together, and many that are no messages.
    Flood,
    /// T12: resets of every connection that stands, in the name of its other end. It knows all of them but for their
    /// sequence numbers, which it guesses.
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

    /// What it must hit to be an attack.
    pub(crate) fn aim(self) -> Aim {
        match self {
            Self::Impostor | Self::Replay | Self::Flood => Aim::Registration,
            Self::SlowLoris => Aim::Rendezvous,
            Self::Knocker => Aim::Listener,
            Self::Resets => Aim::Session,
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
    pub(crate) hits: Hits,
    /// Set if a function answered a stranger with more than a closed connection.
    pub(crate) told: AtomicBool,
}

/// Connections of a flood or a slow loris.
const CONNECTIONS: u32 = 400;

pub(crate) async fn run(net: SimNet, attack: Attack, knowledge: Arc<Knowledge>) {
    match attack {
        Attack::Impostor => {
            let group = Key::new(&knowledge.group, b"another key").id();
            register_all(&net, &knowledge, group, 0..knowledge.size).await;
        }
        Attack::Replay => {
            let last = knowledge.size - 1;
            register_all(&net, &knowledge, knowledge.group_id, last..last + 1).await;
        }
        Attack::Knocker => knock(&net, &knowledge).await,
        Attack::SlowLoris => trickle(&net, &knowledge).await,
        Attack::Flood => flood(&net, &knowledge).await,
        Attack::Resets => reset(&net).await,
    }
}

fn registration(knowledge: &Knowledge, group: [u8; 32], rank: u32, number: u8) -> ClientMessage {
    ClientMessage::Register(Registration {
        group,
        name: Key::public(&knowledge.group).name_tag(),
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

/// Registers ranks, hears once how that came out, and then neither reads nor answers.
async fn register_all(net: &SimNet, knowledge: &Knowledge, group: [u8; 32], ranks: std::ops::Range<u32>) {
    let mut kept = Vec::new();
    for rank in ranks {
        let Ok(mut stream) = net.connect(([0; 4], 0).into(), knowledge.rendezvous).await else { continue };
        let number = u8::try_from(rank % 200).expect("below 200") + 1;
        if stands(&mut stream, &registration(knowledge, group, rank, number)).await {
            knowledge.hits.count(Net::now(net));
        }
        kept.push(stream);
    }
    std::future::pending().await
}

/// Registers; whether the registration waits for its group, or for the rank of somebody else.
async fn stands(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), message: &ClientMessage) -> bool {
    let asked = [message.emit(), ClientMessage::Ping.emit()].concat();
    if stream.write_all(&asked).await.is_err() {
        return false;
    }
    let mut bytes = Vec::new();
    loop {
        match split(&bytes, SERVER_MESSAGE_BYTES_MAX).map(|message| message.map(|(body, _)| ServerMessage::parse(body)))
        {
            Ok(None) => {}
            Ok(Some(Ok(ServerMessage::Waiting(_) | ServerMessage::Refused(Refusal::RankTaken)))) => return true,
            Ok(Some(_)) | Err(_) => return false,
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return false;
        }
    }
}

/// Ports that are dialled at once.
const BATCH: usize = 500;
/// A knock takes so long at most.
const KNOCK: Duration = Duration::from_millis(50);

async fn knock(net: &SimNet, knowledge: &Knowledge) {
    let ports: Vec<u16> = (EPHEMERAL_PORTS.0..=EPHEMERAL_PORTS.1).collect();
    // Another claim each time, as nobody says which rank is where.
    for (batch, pair) in ports.chunks(BATCH).zip(claims(knowledge.size).cycle()) {
        // A port that is hard to guess protects nobody: those in use are dialled each time.
        let in_use: BTreeSet<_> = net.flows().into_iter().map(|(external, _)| external).collect();
        let guessed = batch.iter().flat_map(|port| knowledge.gateways.iter().map(|it| SocketAddrV4::new(*it, *port)));
        let until = Net::now(net) + KNOCK;
        let mut knocks: FuturesUnordered<_> = guessed.chain(in_use).map(|at| claim(net, at, pair, until)).collect();
        while let Some(was_answered) = knocks.next().await {
            if was_answered {
                knowledge.told.store(true, Ordering::Relaxed);
            }
        }
    }
}

async fn trickle(net: &SimNet, knowledge: &Knowledge) {
    let message = registration(knowledge, [9; 32], 0, 1).emit();
    // All at once: ranks that have joined need no rendezvous.
    let connect = |_| net.connect(([0; 4], 0).into(), knowledge.rendezvous);
    let mut streams: Vec<_> = join_all((0..CONNECTIONS).map(connect)).await.into_iter().flatten().collect();
    for byte in message {
        for stream in &mut streams {
            // The rendezvous may have had enough of it.
            if stream.write_all(&[byte]).await.is_ok() {
                knowledge.hits.count(Net::now(net));
            }
        }
        sleep(net, Duration::from_secs(1)).await;
    }
}

async fn flood(net: &SimNet, knowledge: &Knowledge) {
    let _kept = join_all((0..CONNECTIONS).map(|number| flood_once(net, knowledge, number))).await;
    std::future::pending().await
}

async fn flood_once(net: &SimNet, knowledge: &Knowledge, number: u32) -> Option<<SimNet as Net>::Stream> {
    let mut stream = net.connect(([0; 4], 0).into(), knowledge.rendezvous).await.ok()?;
    if number.is_multiple_of(2) {
        let noise = vec![u8::try_from(number % 256).expect("a byte"); 300];
        // Whether the rendezvous takes it is its business.
        let _ = stream.write_all(&noise).await;
        return Some(stream);
    }
    let mut group = [0; 32];
    group[..4].copy_from_slice(&number.to_be_bytes());
    let ClientMessage::Register(registration) = registration(knowledge, group, 0, 1) else { return None };
    let mut nonce = registration.nonce;
    nonce[..4].copy_from_slice(&number.to_be_bytes());
    if stands(&mut stream, &ClientMessage::Register(Registration { nonce, ..registration })).await {
        knowledge.hits.count(Net::now(net));
    }
    Some(stream)
}

/// Guesses of the sequence number of each end of each connection, each time.
const GUESSES: usize = 4;

/// Without end: connections come and go.
async fn reset(net: &SimNet) {
    let raw = net.raw();
    loop {
        for (external, remote) in net.flows() {
            for (from, to) in [(remote, external), (external, remote)] {
                for _ in 0..GUESSES {
                    let mut guess = [0; 4];
                    net.fill_entropy(&mut guess);
                    raw.send(Packet::tcp(from, to, reset_segment(u32::from_be_bytes(guess)), &[]));
                }
            }
        }
        sleep(net, Duration::from_millis(50)).await;
    }
}

fn reset_segment(sequence: u32) -> Segment {
    Segment { rst: true, sequence, ..Segment::NONE }
}
