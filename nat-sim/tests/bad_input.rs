//! Goal: what is wrong costs only whoever is wrong, with a clear error by the deadline. Method: a
//! healthy pair next to one or more hosts that err, in the lab.

mod common;
#[path = "../../fmi/tests/versions/registration.rs"]
mod registration;

use std::time::Duration;

use common::{Board, KEY, RENDEZVOUS, RENDEZVOUS_PORT, host, millis, serve};
use fmi::{Communicator, Config, Error, ErrorKind, Path};
use fmi_net::Net;
use fmi_proto::rendezvous::Refusal;
use nat_sim::topology::{HostId, INTERNET, Topology};
use nat_sim::{SimNet, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn config(rank: u32, size: u32) -> Config {
    let mut config = common::config(rank, size);
    config.join_deadline = Duration::from_secs(5);
    config.operation_deadline = Some(Duration::from_secs(3));
    config
}

/// The rendezvous and `count` hosts without NAT, 1.0.0.1 and up.
fn world(count: u8) -> (World, Vec<HostId>) {
    let mut topology = Topology::new();
    let rendezvous = topology.host(host(INTERNET, RENDEZVOUS.octets(), millis(1)));
    let hosts = (1..=count).map(|last| topology.host(host(INTERNET, [1, 0, 0, last], millis(1)))).collect();
    let mut world = World::new(topology, 1, millis(1));
    serve(&mut world, rendezvous);
    (world, hosts)
}

type Results = Board<(&'static str, Result<u64, Error>)>;

/// Joins and sums; what comes out goes to the board.
fn member(world: &mut World, host: HostId, name: &'static str, config: Config, start: Duration, board: &Results) {
    let board = board.clone();
    world.function(host, start, move |net| {
        let (board, config) = (board.clone(), config.clone());
        async move { board.put((name, sum(net, &config).await)) }
    });
}

async fn sum(net: SimNet, config: &Config) -> Result<u64, Error> {
    let comm = Communicator::connect(net, config).await?;
    let mut sum = [0u64];
    comm.allreduce(&[u64::from(comm.rank()) + 1], &mut sum, fmi::op::Sum).await?;
    comm.barrier().await?;
    comm.leave().await;
    Ok(sum[0])
}

fn healthy_pair(world: &mut World, hosts: &[HostId], start: Duration, board: &Results) {
    member(world, hosts[0], "rank 0", config(0, 2), Duration::ZERO, board);
    member(world, hosts[1], "rank 1", config(1, 2), start, board);
}

/// Runs, checks that the healthy pair came out right, and returns the others.
fn run(world: World, board: &Results) -> Vec<(&'static str, Result<u64, Error>)> {
    let report = world.run().expect("a world");
    assert_eq!(report.stuck, None);
    let (healthy, others): (Vec<_>, Vec<_>) = board.take().into_iter().partition(|(name, _)| name.starts_with("rank"));
    assert_eq!(healthy.len(), 2);
    for (name, result) in healthy {
        assert_eq!(result.expect(name), 3);
    }
    others
}

fn only_error(mut others: Vec<(&'static str, Result<u64, Error>)>) -> Error {
    assert_eq!(others.len(), 1);
    others.remove(0).1.expect_err("it erred")
}

#[test]
fn a_wrong_key_fails_alone_and_is_told_so() {
    let (mut world, hosts) = world(3);
    let board = Results::new();
    healthy_pair(&mut world, &hosts, millis(4000), &board);
    let mut wrong = config(1, 2);
    wrong.key = Some(b"another key of a group".into());
    wrong.join_deadline = Duration::from_secs(3);
    member(&mut world, hosts[2], "wrong key", wrong, Duration::ZERO, &board);
    let error = only_error(run(world, &board));
    assert!(matches!(error.kind(), ErrorKind::GroupIncomplete { present: 1, other_key: true, .. }), "{error}");
    assert!(error.advice().is_some_and(|advice| advice.contains("FMI_KEY")), "{error}");
}

#[test]
fn a_rank_taken_twice_is_refused_to_the_second() {
    let (mut world, hosts) = world(3);
    let board = Results::new();
    healthy_pair(&mut world, &hosts, millis(2000), &board);
    member(&mut world, hosts[2], "second", config(0, 2), millis(500), &board);
    let error = only_error(run(world, &board));
    assert!(matches!(error.kind(), ErrorKind::Refused(Refusal::RankTaken)), "{error}");
}

#[test]
fn a_size_mismatch_is_refused_to_the_second_and_a_wrong_rank_at_once() {
    let (mut world, hosts) = world(4);
    let board = Results::new();
    healthy_pair(&mut world, &hosts, millis(2000), &board);
    member(&mut world, hosts[2], "size", config(2, 3), millis(500), &board);
    member(&mut world, hosts[3], "wrong rank", config(2, 2), millis(500), &board);
    for (name, result) in run(world, &board) {
        let error = result.expect_err("it erred");
        if name == "size" {
            assert!(matches!(error.kind(), ErrorKind::Refused(Refusal::SizeMismatch { expected: 2 })), "{error}");
        } else {
            assert!(error.to_string().contains("the rank is 2; it must be below the size of 2"), "{error}");
        }
    }
}

/// Connects to `to`, says `greeting` and waits until the other side closes.
fn nuisance(world: &mut World, host: HostId, to: std::net::SocketAddr, greeting: Vec<u8>, ended: &Board<Duration>) {
    let ended = ended.clone();
    world.function(host, millis(10), move |net| {
        let (ended, greeting) = (ended.clone(), greeting.clone());
        async move {
            let mut stream = loop {
                match net.connect(([0, 0, 0, 0], 0).into(), to).await {
                    Ok(stream) => break stream,
                    Err(_) => Net::sleep_until(&net, Net::now(&net) + millis(1)).await,
                }
            };
            stream.write_all(&greeting).await.expect("sent");
            let mut answer = Vec::new();
            // A reset is an end as well.
            let _ = stream.read_to_end(&mut answer).await;
            assert!(answer.len() < 100, "a stranger learns nothing: {answer:?}");
            ended.put(Net::now(&net).since_origin());
        }
    });
}

#[test]
fn garbage_and_silence_at_the_rendezvous_are_closed_and_disturb_nobody() {
    let (mut world, hosts) = world(6);
    let (board, ended) = (Results::new(), Board::new());
    healthy_pair(&mut world, &hosts, millis(4000), &board);
    let oversized = vec![0xff, 0xff, 0xff, 0xff, 1, 1];
    for (host, greeting) in
        hosts[2..].iter().zip([vec![], b"GET / HTTP/1.1\r\n\r\n".to_vec(), oversized, vec![0, 0, 0, 2, 9, 9]])
    {
        nuisance(&mut world, *host, (RENDEZVOUS, RENDEZVOUS_PORT).into(), greeting, &ended);
    }
    assert!(run(world, &board).is_empty());
    let mut ends = ended.take();
    ends.sort_unstable();
    assert!(ends[2] < millis(100), "garbage is closed at once: {ends:?}");
    assert!(ends[3] > Duration::from_secs(5) && ends[3] < millis(5100), "silence after 5 s: {ends:?}");
}

#[test]
fn strangers_at_the_port_of_a_rank_cost_their_stream_only() {
    let (mut world, hosts) = world(5);
    let (board, ended) = (Results::new(), Board::new());
    // A third rank never comes, so that rank 0 listens while the strangers knock; then the pair joins.
    healthy_pair(&mut world, &hosts, millis(2000), &board);
    let port = first_port();
    for (host, greeting) in hosts[2..].iter().zip([vec![], vec![7; 60], b"FMI\x01".repeat(30)]) {
        nuisance(&mut world, *host, ([1, 0, 0, 1], port).into(), greeting, &ended);
    }
    assert!(run(world, &board).is_empty());
    assert_eq!(ended.take().len(), 3);
}

/// The port that rank 0 takes in these worlds: the seed decides it.
fn first_port() -> u16 {
    let (mut world, hosts) = world(5);
    let ports = Board::new();
    let seen = ports.clone();
    world.function(hosts[0], Duration::ZERO, move |net| {
        let seen = seen.clone();
        async move {
            // The join draws its identity first.
            net.fill_entropy(&mut [0; 16]);
            net.fill_entropy(&mut [0; 32]);
            let stream =
                net.connect(([0, 0, 0, 0], 0).into(), (RENDEZVOUS, RENDEZVOUS_PORT).into()).await.expect("connected");
            seen.put(fmi_net::ByteStream::local_addr(&stream).expect("an address").port());
        }
    });
    world.run().expect("a world");
    ports.take()[0]
}

#[test]
fn a_member_that_answers_nothing_is_named_by_the_others() {
    let (mut world, hosts) = world(3);
    let board = Results::new();
    for (rank, name) in [(0, "zero"), (1, "one")] {
        member(&mut world, hosts[rank as usize], name, config(rank, 3), Duration::ZERO, &board);
    }
    world.service(hosts[2], |net| async move {
        let (rendezvous, version) = ((RENDEZVOUS, RENDEZVOUS_PORT).into(), fmi_proto::wire::VERSION);
        let stream = registration::register(&net, rendezvous, (KEY, "test"), (2, 3), version).await;
        // It registers and then does nothing, not even refuse.
        let mut listener =
            net.listen(fmi_net::ByteStream::local_addr(&stream).expect("an address"), 8).expect("listening");
        let _kept = std::future::poll_fn(|cx| fmi_net::Listener::poll_accept(&mut listener, cx)).await;
        std::future::pending::<()>().await;
    });
    let report = world.run().expect("a world");
    assert_eq!(report.stuck, None);
    assert!(report.elapsed <= millis(5001), "by the deadline: {:?}", report.elapsed);
    for (name, result) in board.take() {
        let error = result.expect_err(name);
        assert!(matches!(error.kind(), ErrorKind::Unconnected { .. }), "{error}");
        assert_eq!(error.peer(), Some(2), "{error}");
    }
}

/// Runs two ranks that do different things; returns their errors.
fn differ<A, B>(config_of: impl Fn(u32) -> Config, first: A, second: B) -> Vec<Option<Error>>
where
    A: AsyncFn(&Communicator) -> Result<(), Error> + Copy + 'static,
    B: AsyncFn(&Communicator) -> Result<(), Error> + Copy + 'static,
{
    let (mut world, hosts) = world(2);
    let board = Board::new();
    for rank in [0, 1] {
        let (board, config) = (board.clone(), config_of(rank));
        world.function(hosts[rank as usize], Duration::ZERO, move |net| {
            let (board, config) = (board.clone(), config.clone());
            async move {
                let comm = Communicator::connect(net, &config).await.expect("joined");
                let result = if rank == 0 { first(&comm).await } else { second(&comm).await };
                let error = result.err();
                if error.as_ref().is_some_and(|error| matches!(error.kind(), ErrorKind::Mismatch { .. })) {
                    let again = comm.barrier().await.expect_err("revoked");
                    assert!(matches!(again.kind(), ErrorKind::Revoked(_)), "{again}");
                }
                board.put((rank, error));
            }
        });
    }
    assert_eq!(world.run().expect("a world").stuck, None);
    let mut results = board.take();
    results.sort_by_key(|(rank, _)| *rank);
    results.into_iter().map(|(_, error)| error).collect()
}

fn mismatch(error: &Option<Error>) -> String {
    match error.as_ref().map(Error::kind) {
        Some(ErrorKind::Mismatch { mine, theirs }) => format!("{mine} / {theirs}"),
        other => panic!("not a mismatch: {other:?}"),
    }
}

#[test]
fn ranks_that_disagree_are_shown_both_views() {
    let pair = |rank| config(rank, 2);
    let both = |first: &str, second: &str, errors: Vec<Option<Error>>| {
        let (here, there) = (mismatch(&errors[0]), mismatch(&errors[1]));
        let split = |text: &str| text.split_once(" / ").map(|(mine, theirs)| (mine.to_owned(), theirs.to_owned()));
        let ((mine, theirs), (other, of_me)) = (split(&here).expect("two"), split(&there).expect("two"));
        assert!(mine.contains(first) && theirs.contains(second), "{here}");
        assert!(other.contains(second) && of_me.contains(first), "{there}");
    };
    let errors = differ(
        pair,
        async |comm| comm.allreduce(&[1u32; 4], &mut [0; 4], fmi::op::Sum).await,
        async |comm| comm.allreduce(&[1u32; 5], &mut [0; 5], fmi::op::Sum).await,
    );
    both("on 4 elements", "on 5 elements", errors);
    let errors = differ(
        pair,
        async |comm| comm.allreduce(&[1u32; 4], &mut [0; 4], fmi::op::Sum).await,
        async |comm| comm.allreduce(&[1f32; 4], &mut [0.0; 4], fmi::op::Max).await,
    );
    both("operator sum on 4 elements of u32", "operator max on 4 elements of f32", errors);
    let errors = differ(
        pair,
        async |comm| comm.barrier().await,
        async |comm| comm.allreduce(&[1u8], &mut [0], fmi::op::Sum).await,
    );
    both("barrier number 1", "allreduce number 1", errors);
    // Both wait for each other: neither would ever send.
    let errors = differ(
        pair,
        async |comm| comm.reduce(&[1u8], &mut [0], fmi::op::Sum, 0).await,
        async |comm| comm.reduce(&[1u8], &mut [0], fmi::op::Sum, 1).await,
    );
    both("with root 0", "with root 1", errors);
    // Both believe that they have sent all there is; the next operation tells.
    let errors = differ(
        pair,
        async |comm| {
            comm.broadcast(&mut [1u8], 0).await?;
            comm.barrier().await
        },
        async |comm| {
            comm.broadcast(&mut [1u8], 1).await?;
            comm.barrier().await
        },
    );
    both("broadcast number 1 with root 0", "broadcast number 1 with root 1", errors);
    let errors = differ(
        pair,
        async |comm| comm.gatherv(&[1u8; 2], &mut [0; 5], &[2, 3], 0).await,
        async |comm| {
            comm.gatherv(&[1u8; 4], &mut [], &[], 0).await?;
            comm.barrier().await
        },
    );
    both("of 3 bytes", "of 4 bytes", errors);
    let errors = differ(
        pair,
        async |comm| {
            comm.send(1, 7, &[1.5f32]).await?;
            comm.barrier().await
        },
        async |comm| comm.recv(0, 7, &mut [0u32]).await.map(|_| ()),
    );
    both("tag 7 of f32", "tag 7 of u32", errors);
}

#[test]
fn truncated_and_flooding_messages_are_errors_of_the_receiver() {
    let limited = |rank| {
        let mut config = config(rank, 2);
        (config.eager_bytes_max, config.mailbox_bytes_max) = (10_000, 1000);
        config
    };
    let errors = differ(
        limited,
        async |comm| comm.send(1, 1, &[0u8; 100]).await,
        async |comm| comm.recv(0, 1, &mut [0u8; 10]).await.map(|_| ()),
    );
    let kind = errors[1].as_ref().map(Error::kind);
    assert_eq!(kind, Some(&ErrorKind::Truncated { message_bytes: 100, buffer_bytes: 10 }));
    let errors = differ(
        limited,
        async |comm| comm.send(1, 1, &[0u8; 5000]).await,
        async |comm| comm.recv(0, 2, &mut [0u8; 10]).await.map(|_| ()),
    );
    assert_eq!(errors[1].as_ref().map(Error::kind), Some(&ErrorKind::MailboxFull { bytes_max: 1000 }));
}

#[test]
fn messages_match_by_tag_and_wrong_calls_change_nothing() {
    let errors = differ(
        |rank| config(rank, 2),
        async |comm| {
            comm.send(1, 1, &[1u16]).await?;
            comm.send(1, 2, &[2u16, 2]).await?;
            comm.barrier().await
        },
        async |comm| {
            let mut buffer = [0u16; 4];
            assert_eq!((comm.recv(0, 2, &mut buffer).await?.count, buffer[0]), (2, 2), "tag 2 first");
            assert_eq!((comm.recv(0, 1, &mut buffer).await?.count, buffer[0]), (1, 1), "tag 1 waited");
            let wrong = comm.send(9, 1, &[0u8]).await.expect_err("no such rank");
            assert!(matches!(wrong.kind(), ErrorKind::InvalidArgument(_)));
            assert!(comm.broadcast(&mut [0u8], 2).await.is_err());
            comm.barrier().await
        },
    );
    assert!(errors.iter().all(Option::is_none), "{errors:?}");
}

#[test]
fn an_operation_that_nobody_joins_ends_at_its_deadline() {
    let errors = differ(
        |rank| config(rank, 2),
        async |comm| comm.barrier().await,
        async |comm| {
            comm.set_deadline(Duration::from_secs(1));
            comm.recv(0, 9, &mut [0u8]).await.map(|_| ())
        },
    );
    let error = errors[1].as_ref().expect("a deadline");
    assert!(matches!(error.kind(), ErrorKind::Deadline { after, .. } if *after == Duration::from_secs(1)), "{error}");
    // Rank 1 has left with an error; rank 0 learns of it.
    let error = errors[0].as_ref().expect("lost");
    assert_eq!((error.peer(), error.path()), (Some(1), Some(Path::Private)), "{error}");
}

#[test]
fn a_cancelled_collective_ends_the_communicator_on_both_sides() {
    let errors = differ(
        |rank| config(rank, 2),
        async |comm| {
            // The other rank has cancelled before anything of this one can be there.
            comm.progress_until(comm.now() + Duration::from_millis(100)).await;
            comm.barrier().await
        },
        async |comm| {
            {
                let mut buffer = [0u8];
                let mut operation = std::pin::pin!(comm.broadcast(&mut buffer, 0));
                let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                assert!(operation.as_mut().poll(&mut cx).is_pending());
            }
            comm.barrier().await
        },
    );
    for error in errors {
        let error = error.expect("revoked");
        assert!(error.to_string().contains("broadcast was cancelled before it was done"), "{error}");
    }
}

#[test]
fn a_cancelled_receive_loses_nothing() {
    let errors = differ(
        |rank| config(rank, 2),
        async |comm| {
            comm.send(1, 9, &[7u32; 100_000]).await?;
            comm.barrier().await
        },
        async |comm| {
            let mut buffer = vec![0u32; 100_000];
            let mut cut_short = 0;
            loop {
                let until = comm.now() + Duration::from_millis(2);
                let receive = comm.recv(0, 9, &mut buffer);
                let pause = std::pin::pin!(comm.progress_until(until));
                match futures_util::future::select(receive, pause).await {
                    futures_util::future::Either::Left((status, _)) => {
                        assert_eq!(status?.count, 100_000);
                        break;
                    }
                    futures_util::future::Either::Right(_) => cut_short += 1,
                }
            }
            assert!(cut_short > 3, "{cut_short}");
            assert!(buffer.iter().all(|element| *element == 7));
            comm.barrier().await
        },
    );
    assert!(errors.iter().all(Option::is_none), "{errors:?}");
}
