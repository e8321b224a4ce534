//! Goal: the server of the original's clients serves whoever comes, whatever others do. Method: real sockets over loopback,
//! whose addresses count as many.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;

use fmi::RealNet;
use fmi::net::tcpunch::Tcpunch;
use futures_util::future::{Either, select};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Runs a server with so many places beside `clients`.
async fn served<T>(clients_max: usize, clients: impl AsyncFnOnce(SocketAddr) -> T) -> T {
    let server = Tcpunch::bind(RealNet::new(), ([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = server.local_addr().expect("bound");
    match select(pin!(server.with_clients_max(clients_max).serve()), pin!(clients(address))).await {
        Either::Left((never, _)) => match never {},
        Either::Right((result, _)) => result,
    }
}

async fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("an address of this machine");
    socket.connect(to).await.expect("it listens")
}

async fn endpoint(stream: &mut TcpStream) -> std::io::Result<SocketAddr> {
    let mut told = [0; 8];
    stream.read_exact(&mut told).await?;
    let [a, b, c, d, high, low, _, _] = told;
    Ok((IpAddr::from([a, b, c, d]), u16::from_be_bytes([high, low])).into())
}

/// Two clients that meet, and keep their connections.
async fn pair(from: [u8; 4], server: SocketAddr, name: &[u8]) -> [TcpStream; 2] {
    let mut ends = [connect(from, server).await, connect(from, server).await];
    for end in &mut ends {
        end.write_all(name).await.expect("sent");
        assert_eq!(endpoint(end).await.expect("where it is seen"), end.local_addr().expect("connected"));
    }
    let seen = [1, 0].map(|other: usize| ends[other].local_addr().expect("connected"));
    for (end, other) in ends.iter_mut().zip(seen) {
        assert_eq!(endpoint(end).await.expect("the other one"), other);
    }
    ends
}

#[tokio::test]
async fn pairs_that_keep_their_connections_hold_no_places() {
    served(4, async |server| {
        let mut kept = Vec::new();
        for number in 0..40 {
            kept.push(pair([127, 0, 0, 1], server, format!("pair {number}").as_bytes()).await);
        }
    })
    .await;
}

/// More at once than a task may do before others have their turn.
#[tokio::test]
async fn every_client_of_many_that_come_at_once_gets_both_answers() {
    served(400, async |server| {
        let mut ends = Vec::new();
        for _ in 0..300 {
            ends.push(connect([127, 0, 0, 1], server).await);
        }
        for (number, end) in ends.iter_mut().enumerate() {
            end.write_all(format!("pair {}", number % 150).as_bytes()).await.expect("sent");
        }
        for end in &mut ends {
            endpoint(end).await.expect("where it is seen");
            endpoint(end).await.expect("the other one");
        }
    })
    .await;
}

#[tokio::test]
async fn one_address_that_holds_all_places_shuts_nobody_out() {
    served(8, async |server| {
        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(connect([127, 0, 0, 1], server).await);
        }
        pair([127, 0, 1, 1], server, b"pair").await;
    })
    .await;
}

/// What is not read stays with whoever sends it.
#[tokio::test]
async fn a_client_that_floods_is_closed() {
    served(8, async |server| {
        let mut flooder = connect([127, 0, 0, 1], server).await;
        let mut sent = 0;
        while sent < 64 << 20 {
            match flooder.write(&[b'x'; 64 << 10]).await {
                Ok(written) => sent += written,
                Err(_) => break,
            }
        }
        // Buffers of two kernels took what the server did not.
        assert!(sent < 32 << 20, "{sent} bytes of a name");
        pair([127, 0, 0, 1], server, b"pair").await;
    })
    .await;
}
