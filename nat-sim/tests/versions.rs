//! Goal: as with real sockets, what speaks another version of the protocol is refused by both sides, and both learn both
//! versions. Method: the same ranks and rendezvous, in the lab.

mod common;
#[path = "../../fmi/tests/versions/mod.rs"]
mod versions;

use std::net::SocketAddr;
use std::time::Duration;

use common::{Board, RENDEZVOUS, RENDEZVOUS_PORT, host, millis, serve};
use fmi::{Communicator, Error};
use fmi_proto::rendezvous::{Refusal, ServerMessage, VERSION};
use fmi_proto::wire;
use nat_sim::World;
use nat_sim::topology::{HostId, INTERNET, Topology};

fn address() -> SocketAddr {
    (RENDEZVOUS, RENDEZVOUS_PORT).into()
}

/// A rendezvous, which nobody serves yet, and two hosts.
fn world() -> (World, HostId, [HostId; 2]) {
    let mut topology = Topology::new();
    let rendezvous = topology.host(host(INTERNET, RENDEZVOUS.octets(), millis(1)));
    let hosts = [1, 2].map(|last| topology.host(host(INTERNET, [1, 0, 0, last], millis(1))));
    (World::new(topology, 1, millis(1)), rendezvous, hosts)
}

/// Joins as rank 0; the error goes to the board.
fn joins(world: &mut World, host: HostId, board: &Board<Error>) {
    let board = board.clone();
    world.function(host, Duration::ZERO, move |net| {
        let board = board.clone();
        async move {
            let config = versions::config(0, address());
            board.put(Communicator::connect(net, &config).await.expect_err("refused"));
        }
    });
}

#[test]
fn a_client_of_another_version_is_told_the_version_of_the_rendezvous() {
    for version in versions::OTHER_RENDEZVOUS {
        let (mut world, rendezvous, hosts) = world();
        serve(&mut world, rendezvous);
        let board = Board::new();
        let told = board.clone();
        world.function(hosts[0], Duration::ZERO, move |net| {
            let told = told.clone();
            async move { told.put(versions::refused_client(&net, address(), version).await) }
        });
        assert_eq!(world.run().expect("a world").stuck, None);
        assert_eq!(board.take(), [(VERSION, ServerMessage::Refused(Refusal::Version(VERSION)))]);
    }
}

#[test]
fn a_rank_names_the_version_of_a_rendezvous_at_once() {
    for version in versions::OTHER_RENDEZVOUS {
        let (mut world, rendezvous, hosts) = world();
        world.service(rendezvous, move |net| async move { versions::rendezvous(&net, address(), version).await });
        let board = Board::new();
        joins(&mut world, hosts[0], &board);
        let report = world.run().expect("a world");
        assert_eq!(report.stuck, None);
        assert!(report.elapsed <= millis(20), "two round trips and no second try: {:?}", report.elapsed);
        versions::assert_names_both(&board.take()[0], version, VERSION);
    }
}

#[test]
fn ranks_of_two_versions_refuse_each_other() {
    for version in versions::OTHER_PEERS {
        let (mut world, rendezvous, hosts) = world();
        serve(&mut world, rendezvous);
        let (board, learnt) = (Board::new(), Board::new());
        joins(&mut world, hosts[0], &board);
        let told = learnt.clone();
        world.function(hosts[1], Duration::ZERO, move |net| {
            let told = told.clone();
            async move { told.put(versions::version_of_rank_0(&versions::peer(&net, address(), version).await)) }
        });
        assert_eq!(world.run().expect("a world").stuck, None);
        let errors = board.take();
        versions::assert_names_both(&errors[0], version, wire::VERSION);
        assert_eq!(errors[0].peer(), Some(1), "{}", errors[0]);
        assert_eq!(learnt.take(), [wire::VERSION]);
    }
}
