//! The client's side of a relayed connection.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::racing::connect_any;
use crate::net::Net;
use crate::proto::rendezvous::{ClientMessage, Refusal, RelayRequest, ServerMessage};

/// Longest answer to a request: `Relayed`, or a refusal.
const ANSWER_BYTES_MAX: usize = 64;

/// Connects to the rendezvous, the first of several ways that works, and asks to be joined with a peer; completes once the peer is there. From
/// then on the stream carries the bytes of the peer.
///
/// # Errors
/// As the network says; if the rendezvous refuses, `Unsupported` for one that does not relay, `ResourceBusy` for one that
/// relays no more, and else `ConnectionRefused`.
pub(super) async fn connect<N: Net>(
    net: N,
    ways: Vec<(SocketAddr, SocketAddr)>,
    request: RelayRequest,
) -> io::Result<N::Stream> {
    let mut stream = connect_any(net, ways).await?;
    stream.write_all(&ClientMessage::Relay(request).emit()).await?;
    // Exactly one message: what follows is the peer's.
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > ANSWER_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    match ServerMessage::parse(&body) {
        Ok(ServerMessage::Relayed) => Ok(stream),
        Ok(ServerMessage::Refused(refusal)) => Err(io::Error::new(kind_of(refusal), refusal.to_string())),
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

fn kind_of(refusal: Refusal) -> io::ErrorKind {
    if refusal == Refusal::NoRelay {
        io::ErrorKind::Unsupported
    } else if refusal == Refusal::Busy {
        io::ErrorKind::ResourceBusy
    } else {
        io::ErrorKind::ConnectionRefused
    }
}
