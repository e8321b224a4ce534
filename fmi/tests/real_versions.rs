//! Goal: what speaks another version of the protocol is refused by both sides, and both learn both versions. Method:
//! ranks and a rendezvous of other versions over loopback.

mod versions;

use std::pin::pin;

use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi::{Communicator, ErrorKind, RealNet};
use fmi_proto::rendezvous::{Refusal, ServerMessage, VERSION};
use fmi_proto::wire;
use futures_util::future::{Either, join, select};

/// Runs `work` while a rendezvous of this version serves at the address that it gets.
async fn with_a_rendezvous<T>(work: impl AsyncFnOnce(std::net::SocketAddr) -> T) -> T {
    let loopback = ([127, 0, 0, 1], 0).into();
    let server = Rendezvous::bind(RealNet::new(), loopback, ServerConfig::default()).expect("listens");
    let address = server.local_addr().expect("an address");
    match select(pin!(server.serve()), pin!(work(address))).await {
        Either::Left((never, _)) => match never {},
        Either::Right((done, _)) => done,
    }
}

#[tokio::test]
async fn a_client_of_another_version_is_told_the_version_of_the_rendezvous() {
    with_a_rendezvous(async |address| {
        for version in versions::OTHER_RENDEZVOUS {
            let refused = versions::refused_client(&RealNet::new(), address, version).await;
            assert_eq!(refused, (VERSION, ServerMessage::Refused(Refusal::Version(VERSION))));
        }
    })
    .await;
}

#[tokio::test]
async fn a_rank_names_the_version_of_a_rendezvous_at_once() {
    for version in versions::OTHER_RENDEZVOUS {
        let net = RealNet::new();
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|it| it.local_addr()).expect("a free port");
        let config = versions::config(0, free);
        let joining = Communicator::connect(net, &config);
        let error = match select(pin!(versions::rendezvous(&net, free, version)), pin!(joining)).await {
            Either::Left(_) => unreachable!("it serves on"),
            Either::Right((joined, _)) => joined.expect_err("refused"),
        };
        versions::assert_names_both(&error, version, VERSION);
        assert!(matches!(error.kind(), ErrorKind::Refused(Refusal::Version(theirs)) if *theirs == version), "{error}");
    }
}

#[tokio::test]
async fn ranks_of_two_versions_refuse_each_other() {
    for version in versions::OTHER_PEERS {
        let (error, handout) = with_a_rendezvous(async |address| {
            let config = versions::config(0, address);
            let net = RealNet::new();
            let (joined, handout) =
                join(Communicator::connect(net, &config), versions::peer(&net, address, version)).await;
            (joined.expect_err("refused"), handout)
        })
        .await;
        versions::assert_names_both(&error, version, wire::VERSION);
        assert_eq!(error.peer(), Some(1), "{error}");
        assert_eq!(versions::version_of_rank_0(&handout), wire::VERSION, "the other side learns it as well");
    }
}
