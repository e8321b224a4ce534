//! Goal: a rendezvous, or whoever is on the way to it, can keep ranks apart and do no more. Method: one that lies, over
//! loopback, where all ranks reach each other; and the same one honestly, to see that it would work.

mod attackers;

use std::pin::pin;

use attackers::{MODES, Registered, assert_unproven, config, works};
use fmi::{RealNet, Security};
use fmi_proto::rendezvous::Handout;
use futures_util::future::{Either, join_all, select};

/// Runs ranks of groups, given as name, rank and size, at a rendezvous that hands out what `deal` says.
async fn results(
    ranks: [(&str, u32, u32); 4],
    security: Security,
    deal: impl Fn(&[Registered]) -> Vec<Handout>,
) -> Vec<Result<(), fmi::Error>> {
    let net = RealNet::new();
    let address = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|it| it.local_addr()).expect("a free port");
    let ranks = ranks.map(|(group, rank, size)| works(net, config(group, (rank, size), security, address)));
    let serving = attackers::lying_rendezvous(&net, address, 4, deal);
    match select(pin!(serving), pin!(join_all(ranks))).await {
        Either::Left(_) => unreachable!("it serves on"),
        Either::Right((results, _)) => results,
    }
}

const TWO_GROUPS: [(&str, u32, u32); 4] = [("job-a", 0, 2), ("job-a", 1, 2), ("job-b", 0, 2), ("job-b", 1, 2)];

#[tokio::test]
async fn two_groups_with_one_secret_are_not_crossed() {
    for security in MODES {
        for result in results(TWO_GROUPS, security, attackers::honestly).await {
            result.expect("the groups form at such a rendezvous, if it is honest");
        }
        for result in results(TWO_GROUPS, security, attackers::crossed).await {
            assert_unproven(result);
        }
    }
}

#[tokio::test]
async fn ranks_that_were_told_of_different_members_are_strangers() {
    let ranks = [("job", 0, 3), ("job", 1, 3), ("job", 2, 3), ("job", 2, 3)];
    for security in MODES {
        let results = results(ranks, security, attackers::split).await;
        for result in results.into_iter().take(2) {
            assert_unproven(result);
        }
    }
}
