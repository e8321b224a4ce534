//! Goal: a join that fails names what stands in the way, and blames no NAT for what is not one's fault. Method: real sockets
//! over loopback, with something else behind the address of the rendezvous.

use std::future::pending;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi::{Communicator, Config, Error, ErrorKind, RealNet};
use futures_util::future::{Either, select};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How rank 0 of 2 fails to join by this rendezvous while `serve` runs.
async fn failure(rendezvous: SocketAddr, deadline: Duration, serve: impl Future) -> Error {
    let mut config = Config::new(0, 2, "group", rendezvous.to_string());
    config.join_deadline = deadline;
    match select(pin!(Communicator::connect(RealNet::new(), &config)), pin!(serve)).await {
        Either::Left((joined, _)) => joined.expect_err("nobody else is there"),
        Either::Right(_) => panic!("a server ended"),
    }
}

/// What else may listen there: it does this with each connection.
async fn met_by(meet: impl AsyncFn(&mut TcpStream), deadline: Duration) -> Error {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let serve = async {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            meet(&mut stream).await;
        }
    };
    failure(address, deadline, serve).await
}

fn assert_says(error: &Error, what: &str, advice: &str) {
    let (text, told) = (error.to_string(), error.advice().expect("what to do"));
    assert!(text.starts_with("join on rank 0: ") && text.contains(what), "{text}");
    assert!(told.contains(advice), "{told}");
    assert!(!told.contains("NAT"), "{told}");
}

#[tokio::test]
async fn something_else_behind_the_address_is_told() {
    let http = async |stream: &mut TcpStream| {
        let mut request = [0; 64];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
    };
    let error = met_by(http, Duration::from_secs(1)).await;
    assert_says(&error, "is no rendezvous (it answers with something else)", "check FMI_RENDEZVOUS");
    let closing = async |stream: &mut TcpStream| {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
    };
    let error = met_by(closing, Duration::from_secs(1)).await;
    assert_says(&error, "is no rendezvous (it closes connections without an answer)", "check FMI_RENDEZVOUS");
    let error = met_by(async |_: &mut TcpStream| pending().await, Duration::from_secs(5)).await;
    assert_says(&error, "is no rendezvous (it takes connections and is silent)", "check FMI_RENDEZVOUS");
}

#[tokio::test]
async fn nobody_behind_the_address_is_told() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let error = failure(address, Duration::from_secs(1), pending::<()>()).await;
    assert_says(&error, &format!("no rendezvous answered at {address} (connection refused)"), "start one");
}

#[tokio::test]
async fn a_rendezvous_at_its_limit_says_so() {
    let mut config = ServerConfig::default();
    config.connections_max = 0;
    let server = Rendezvous::bind(RealNet::new(), ([127, 0, 0, 1], 0).into(), config).expect("a free port");
    let address = server.local_addr().expect("bound");
    let error = failure(address, Duration::from_secs(1), server.serve()).await;
    assert!(matches!(error.kind(), ErrorKind::Refused(_)), "{error}");
    assert_says(&error, "the rendezvous refused this rank: it is at capacity", "raise the limits of the rendezvous");
}

/// A task of tokio's gets so much done at once; what it then still has to say is said all the same.
#[tokio::test]
async fn all_of_a_crowd_that_is_refused_at_once_are_told_why() {
    let server = Rendezvous::bind(RealNet::new(), ([127, 0, 0, 1], 0).into(), ServerConfig::default()).expect("bound");
    let address = server.local_addr().expect("an address");
    // A message of a version that nobody speaks. All are there before the server looks.
    let say = |_| {
        let mut stream = std::net::TcpStream::connect(address).expect("room in the queue");
        std::io::Write::write_all(&mut stream, &[0, 0, 0, 2, 250, 1]).expect("room");
        stream.set_nonblocking(true).expect("a socket");
        TcpStream::from_std(stream).expect("a runtime")
    };
    let crowd: Vec<TcpStream> = (0..300).map(say).collect();
    let hear = async |mut stream: TcpStream| {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map(|_| answer.len())
    };
    let heard = futures_util::future::join_all(crowd.into_iter().map(hear));
    match select(pin!(server.serve()), pin!(heard)).await {
        Either::Left((never, _)) => match never {},
        Either::Right((heard, _)) => {
            let untold = heard.iter().filter(|it| !matches!(it, Ok(1..))).count();
            assert_eq!(untold, 0, "of {} that were refused", heard.len());
        }
    }
}
