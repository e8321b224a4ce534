//! A rank that registers by hand, on any network.

use std::net::SocketAddr;
use std::time::Duration;

use fmi_net::Net;
use fmi_proto::card::{Card, Holder, Security};
use fmi_proto::cipher::Suites;
use fmi_proto::exchange::KeyPair;
use fmi_proto::key::Key;
use fmi_proto::rendezvous::{ClientMessage, Registration};
use tokio::io::AsyncWriteExt;

/// Registers as `rank` of `size` in the group of a secret and a name, with a card of `version`; returns the connection to
/// the rendezvous.
pub(crate) async fn register<N: Net>(
    net: &N,
    rendezvous: SocketAddr,
    (secret, group): (&[u8], &str),
    (rank, size): (u32, u32),
    version: u8,
) -> N::Stream {
    let mut stream = net.connect(([0; 4], 0).into(), rendezvous).await.expect("connected");
    let (key, nonce) = (Key::new(group, secret), [2; 16]);
    let (public, suites) = (*KeyPair::from_seed([9; 32]).public(), Suites::of_machine(true));
    let card = Card { version, security: Security::Encrypted, sprays: false, suites, public, locals: vec![] };
    let registration = Registration {
        group: key.id(),
        name: key.name_tag(),
        rank,
        size,
        instance: [2; 16],
        nonce,
        round_trip: Duration::ZERO,
        vouches: 0,
        card: card.seal(&key, &Holder { rank, size, epoch: 0, nonce: &nonce }),
    };
    stream.write_all(&ClientMessage::Register(registration).emit()).await.expect("sent");
    stream
}
