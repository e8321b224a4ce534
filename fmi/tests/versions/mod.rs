//! Ranks and a rendezvous of another version of the protocol, on any network.

mod registration;

use std::net::SocketAddr;
use std::time::Duration;

use fmi_net::{ByteStream, Listener, Net};
use fmi_proto::card::{Card, Holder};
use fmi_proto::key::Key;
use fmi_proto::rendezvous::{ClientMessage, Handout, ServerMessage, VERSION};
use fmi_proto::wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const KEY: &[u8] = b"a key of 16 bytes";
pub(crate) const GROUP: &str = "versions";

/// The configuration of a rank of this version.
pub(crate) fn config(rank: u32, rendezvous: SocketAddr) -> fmi::Config {
    let mut config = fmi::Config::new(rank, 2, GROUP, rendezvous.to_string());
    config.key = Some(KEY.into());
    config.join_deadline = Duration::from_secs(20);
    config
}

async fn receive<S: ByteStream>(stream: &mut S) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.expect("a length");
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body).await.expect("a message");
    body
}

/// What a rendezvous tells a client of `version`, which knows the first two fields of each message.
pub(crate) async fn refused_client<N: Net>(net: &N, rendezvous: SocketAddr, version: u8) -> (u8, ServerMessage) {
    let mut stream = net.connect(([0; 4], 0).into(), rendezvous).await.expect("connected");
    let mut bytes = ClientMessage::Observe.emit();
    bytes[4] = version;
    stream.write_all(&bytes).await.expect("sent");
    let body = receive(&mut stream).await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("closed");
    assert!(rest.is_empty(), "a refusal is the last message");
    (body[0], ServerMessage::parse(&body).expect("of this version"))
}

/// A rendezvous of `version`, which understands nobody.
pub(crate) async fn rendezvous<N: Net>(net: &N, address: SocketAddr, version: u8) {
    let mut listener = net.listen(address, 8).expect("listens");
    loop {
        let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)).await;
        let Ok(mut stream) = accepted else { continue };
        let body = receive(&mut stream).await;
        assert_eq!(body[0], VERSION, "it learns the version of a client");
        // Whatever this message means in that version.
        let _ = stream.write_all(&[0, 0, 0, 2, version, 77]).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}

/// Registers as rank 1 of 2 with a card of `version`, and returns what it is told of the group.
pub(crate) async fn peer<N: Net>(net: &N, rendezvous: SocketAddr, version: u8) -> Handout {
    let mut stream = registration::register(net, rendezvous, (KEY, GROUP), (1, 2), version).await;
    loop {
        let message = ServerMessage::parse(&receive(&mut stream).await).expect("of this version");
        if let ServerMessage::Handout(handout) = message {
            return (*handout).clone();
        }
    }
}

/// The version that the card of rank 0 shows to a peer.
pub(crate) fn version_of_rank_0(handout: &Handout) -> u8 {
    let holder = Holder { rank: 0, size: 2, epoch: 0, nonce: &handout.members[0].nonce };
    Card::open(&Key::new(GROUP, KEY), &holder, &handout.members[0].card).expect("a card").version
}

/// Checks that an error names both versions.
pub(crate) fn assert_names_both(error: &fmi::Error, theirs: u8, ours: u8) {
    let text = error.to_string();
    let expected = [format!("version {theirs} of the protocol"), format!("version {ours}")];
    assert!(expected.iter().all(|part| text.contains(part)), "{text}");
    assert!(!error.is_retryable(), "{text}");
}

pub(crate) const OTHER_PEERS: [u8; 2] = [wire::VERSION - 1, wire::VERSION + 1];
pub(crate) const OTHER_RENDEZVOUS: [u8; 2] = [VERSION - 1, VERSION + 1];
