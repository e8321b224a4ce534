//! A rendezvous that lies, and somebody who repeats what ranks say, on any network.
#![allow(dead_code, reason = "each test file uses its part")]

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fmi::{Communicator, Config, ErrorKind, Security};
use fmi_net::{Listener, Net};
use fmi_proto::rendezvous::{ClientMessage, Handout, Member, Observed, Registration, ServerMessage};
use fmi_proto::session::{HELLO_BYTES, TAG_BYTES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const SECRET: &[u8] = b"one secret for many jobs";
pub(crate) const MODES: [Security; 3] = [Security::Encrypted, Security::Authenticated, Security::Plaintext];

/// A rank of a group of this name, all of which share one secret.
pub(crate) fn config(group: &str, (rank, size): (u32, u32), security: Security, rendezvous: SocketAddr) -> Config {
    let mut config = Config::new(rank, size, group, rendezvous.to_string());
    config.key = Some(SECRET.into());
    config.security = Some(security);
    config.vantage = Some("off".into());
    config.join_deadline = Duration::from_secs(3);
    config
}

/// A registration, and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Registered {
    pub(crate) registration: Registration,
    pub(crate) observed: SocketAddr,
}

impl Registered {
    pub(crate) fn member(&self) -> Member {
        let Registration { rank, nonce, round_trip, ref card, .. } = self.registration;
        Member { rank, nonce, observed: Observed::once(self.observed), round_trip, card: card.clone() }
    }
}

/// A group of these registrations, in rank order.
pub(crate) fn handout(session: u8, members: &[&Registered]) -> Handout {
    let mut members: Vec<_> = members.iter().map(|it| it.member()).collect();
    members.sort_by_key(|member| member.rank);
    Handout { session: [session; 16], members }
}

/// Takes `count` registrations, in the order in which they come, and hands to each what `deal` says; and again.
pub(crate) async fn lying_rendezvous<N: Net>(
    net: &N,
    address: SocketAddr,
    count: usize,
    deal: impl Fn(&[Registered]) -> Vec<Handout>,
) {
    let mut listener = net.listen(address, 64).expect("listens");
    let mut held = Vec::new();
    loop {
        let (mut streams, mut registered) = (Vec::new(), Vec::new());
        while registered.len() < count {
            let accepted = poll_fn(|cx| listener.poll_accept(cx)).await;
            let Ok(mut stream) = accepted else { continue };
            let Ok(length) = stream.read_u32().await else { continue };
            let mut body = vec![0; length as usize];
            let read = stream.read_exact(&mut body).await.is_ok();
            let Some(ClientMessage::Register(registration)) = read.then(|| ClientMessage::parse(&body).ok()).flatten()
            else {
                continue;
            };
            let observed = fmi_net::ByteStream::peer_addr(&stream).expect("connected");
            registered.push(Registered { registration, observed });
            streams.push(stream);
        }
        for (mut stream, handout) in streams.into_iter().zip(deal(&registered)) {
            let _ = stream.write_all(&ServerMessage::Handout(Arc::new(handout)).emit()).await;
            held.push(stream);
        }
    }
}

/// Joins, and sends a message to each higher rank and back; or what became of it.
pub(crate) async fn works<N: Net>(net: N, config: Config) -> Result<(), fmi::Error> {
    let comm = Communicator::connect(net, &config).await?;
    for peer in (0..comm.size()).filter(|peer| *peer != comm.rank()) {
        let mut word = [comm.rank()];
        comm.sendrecv((peer, &[comm.rank()]), (peer, &mut word), 1).await?;
        assert_eq!(word, [peer]);
    }
    comm.leave().await;
    Ok(())
}

/// Checks that a rank was refused by a peer that did not prove itself, and says so.
pub(crate) fn assert_unproven(result: Result<(), fmi::Error>) {
    let error = result.expect_err("a stranger");
    assert!(matches!(error.kind(), ErrorKind::Unconnected { .. }), "{error}");
    let text = error.to_string();
    assert!(["different key", "did not prove"].iter().any(|cause| text.contains(cause)), "{text}");
}

/// Registrations of two groups with one secret: rank 0 and 1 of the first, then of the second, sorted by who they are.
fn sorted(registered: &[Registered]) -> Vec<&Registered> {
    let mut sorted: Vec<_> = registered.iter().collect();
    sorted.sort_by_key(|it| (it.registration.group, it.registration.rank));
    sorted
}

/// Each pair gets the ranks of one group.
pub(crate) fn honestly(registered: &[Registered]) -> Vec<Handout> {
    let group = |own: &Registered| {
        let own = own.registration.group;
        let members: Vec<_> = sorted(registered).into_iter().filter(|it| it.registration.group == own).collect();
        handout(own[0], &members)
    };
    registered.iter().map(group).collect()
}

/// Each pair gets rank 0 of one group and rank 1 of the other.
pub(crate) fn crossed(registered: &[Registered]) -> Vec<Handout> {
    let all = sorted(registered);
    let pairs = [handout(1, &[all[0], all[3]]), handout(2, &[all[2], all[1]])];
    let pair = |own: &Registered| {
        let has = |pair: &&Handout| pair.members.iter().any(|member| member.nonce == own.registration.nonce);
        pairs.iter().find(has).expect("dealt").clone()
    };
    registered.iter().map(pair).collect()
}

/// Ranks 0 and 1 are told of different processes as rank 2.
pub(crate) fn split(registered: &[Registered]) -> Vec<Handout> {
    let all = sorted(registered);
    let views = [handout(1, &[all[0], all[1], all[2]]), handout(1, &[all[0], all[1], all[3]])];
    let view = |own: &Registered| {
        let number = match own.registration.rank {
            0 => 0,
            1 => 1,
            _ => usize::from(own.registration.nonce == all[3].registration.nonce),
        };
        views[number].clone()
    };
    registered.iter().map(view).collect()
}

/// Listens in a rank's place, and repeats the hello that it hears `count` times towards another rank. Returns how many
/// bytes came back on each of these, until it was closed.
pub(crate) async fn repeats<N: Net>(
    net: &N,
    listener: &mut N::Listener,
    local: SocketAddr,
    towards: SocketAddr,
    count: usize,
) -> Vec<usize> {
    let mut stream = poll_fn(|cx| listener.poll_accept(cx)).await.expect("a rank");
    let mut hello = [0; HELLO_BYTES];
    stream.read_exact(&mut hello).await.expect("a hello");
    let mut copies = Vec::new();
    for _ in 0..count {
        let mut copy = net.connect(local, towards).await.expect("a rank listens");
        copy.write_all(&hello).await.expect("sent");
        copies.push(copy);
    }
    let mut told = Vec::new();
    for mut copy in copies {
        let mut bytes = Vec::new();
        let _ = copy.read_to_end(&mut bytes).await;
        told.push(bytes.len());
    }
    told
}

/// What somebody is told who repeats a hello.
pub(crate) const TOLD_BYTES: usize = HELLO_BYTES + TAG_BYTES;
