//! Goal: what a user of the interface relies on beyond the collectives themselves: operations at once, persistent ones,
//! values, types, and programs without a runtime. Method: ranks over loopback, on one thread or a thread each.

use std::net::SocketAddr;

use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi::op::{LogicalAnd, Max, MaxLoc, Product, Sum};
use fmi::{Communicator, Config, Element, ErrorKind, RealNet, Result, Source, Tag};
use futures_util::future::{Either, select, try_join_all};

#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Particle {
    position: [f64; 2],
    charge: i64,
}

fmi::element!(Particle);

/// Runs `program` on each rank of a group.
fn group<F: AsyncFn(Communicator) -> Result<()>>(name: &str, size: u32, program: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let server = Rendezvous::bind(RealNet::new(), ([127, 0, 0, 1], 0).into(), ServerConfig::default());
        let server = server.expect("bound");
        let address = server.local_addr().expect("an address");
        let program = &program;
        let rank = |rank: u32| async move {
            let config = Config::new(rank, size, name, address.to_string());
            program(Communicator::connect(RealNet::new(), &config).await?).await
        };
        let ranks = std::pin::pin!(try_join_all((0..size).map(rank)));
        match select(ranks, std::pin::pin!(server.serve())).await {
            Either::Left((done, _)) => drop(done.unwrap_or_else(|error| panic!("{error}"))),
            Either::Right((never, _)) => match never {},
        }
    });
}

#[test]
fn a_group_of_one_works_without_a_rendezvous() {
    let comm = fmi::blocking::Communicator::connect(&Config::alone()).expect("nobody else is needed");
    let (mut sum, mut all) = ([0], [0; 2]);
    comm.allreduce(&[7], &mut sum, Sum).expect("its own");
    comm.allgather(&[1, 2], &mut all).expect("its own");
    comm.barrier().expect("nobody is missing");
    assert_eq!((sum, all, comm.size()), ([7], [1, 2], 1));
}

#[test]
fn truth_values_and_words_are_elements() {
    group("words", 2, async |comm| {
        let mine = [true, comm.rank() == 0];
        let mut all = [fmi::Bool::default(); 2];
        comm.allreduce(fmi::Bool::from_bools(&mine), &mut all, LogicalAnd).await?;
        assert_eq!(fmi::Bool::to_bools(&all), Some(&[true, false][..]));
        let mut most = [0];
        comm.allreduce(&[comm.rank() as usize], &mut most, Max).await?;
        assert_eq!(most, [1]);
        // A word is not taken for an integer of its length.
        let error = match comm.rank() {
            0 => comm.send(1, 0, &[1u64]).await.err(),
            _ => Some(comm.recv(0, 0, &mut [0usize]).await.expect_err("another type")),
        };
        if let Some(error) = error {
            assert!(matches!(error.kind(), ErrorKind::Mismatch { .. }), "{error}");
        }
        Ok(())
    });
}

#[test]
fn operations_keep_their_order_from_the_call_and_end_in_any() {
    group("order", 3, async |comm| {
        let size = comm.size() as usize;
        let (own, mut sum, mut all, mut largest) = ([comm.rank()], [0], vec![0; size], [0u64]);
        let first = comm.allreduce(&own, &mut sum, Sum);
        let second = comm.barrier();
        let third = comm.allgather(&own, &mut all);
        let fourth = comm.allreduce(&[7u64], &mut largest, Max);
        // Backwards; what comes for the others meanwhile waits in the mailbox.
        fourth.await?;
        third.await?;
        second.await?;
        first.await?;
        assert_eq!((sum, largest, all), ([3], [7], vec![0, 1, 2]));
        comm.leave().await;
        Ok(())
    });
}

#[test]
fn a_receive_from_any_source_hears_one_talkative_rank_again_and_again() {
    for size in [2, 5] {
        group(&format!("talkative {size}"), size, async |comm| {
            const MESSAGES: u64 = 50;
            if comm.rank() == 1 {
                for number in 0..MESSAGES {
                    comm.send(0, 3, &[number]).await?;
                    // The next one is sent only when this one is there.
                    comm.recv(0, 4, &mut [0u8]).await?;
                }
            } else if comm.rank() == 0 {
                for number in 0..MESSAGES {
                    let mut got = [0];
                    let status = comm.recv(Source::Any, Tag::Any, &mut got).await?;
                    assert_eq!((status.source, status.tag, got), (1, 3, [number]));
                    comm.send(1, 4, &[0u8]).await?;
                }
            }
            comm.barrier().await
        });
    }
}

#[test]
fn persistent_operations_run_again_and_again() {
    group("persistent", 4, async |comm| {
        let plan = comm.allreduce_init(3, Product);
        let exchange = comm.alltoallv_init::<u16>(&[1; 4], &[1; 4])?;
        for turn in 1..20u64 {
            let mut product = [0; 3];
            plan.start(&[turn, 2, 1], &mut product).await?;
            assert_eq!(product, [turn.pow(4), 16, 1]);
            let own = u16::try_from(comm.rank()).expect("small");
            let (send, mut receive) = ([own; 4], [0; 4]);
            exchange.start(&send, &mut receive).await?;
            assert_eq!(receive, [0, 1, 2, 3]);
        }
        let error = plan.start(&[1, 2], &mut [0; 2]).await.expect_err("too short");
        assert!(error.to_string().contains("the send buffer has 2 elements; it must have 3"), "{error}");
        comm.barrier().await
    });
}

#[test]
fn values_and_types_of_many_kinds_travel() {
    group("types", 3, async |comm| {
        let rank = comm.rank();
        let particle = Particle { position: [f64::from(rank), 0.5], charge: -1 };
        let mut all = [particle; 3];
        comm.allgather(&[particle], &mut all).await?;
        assert!(all.iter().zip(0..3).all(|(it, rank)| it.position[0] == f64::from(rank)));
        let mut half = [half::f16::from_f32(1.5); 2];
        comm.allreduce_in_place(&mut half, Sum).await?;
        assert_eq!(half[0].to_f32(), 4.5);
        let mut complex = [num_complex::Complex::new(0.0, 1.0)];
        comm.allreduce_in_place(&mut complex, Product).await?;
        assert_eq!(complex[0], num_complex::Complex::new(0.0, -1.0));
        let mut best = [[f64::from(rank * 7 % 5), f64::from(rank)]];
        comm.allreduce_in_place(&mut best, MaxLoc).await?;
        assert_eq!(best, [[4.0, 2.0]]);
        let mut agreed = [u8::from(rank != 1)];
        comm.allreduce_in_place(&mut agreed, LogicalAnd).await?;
        assert_eq!(agreed, [0]);
        let names = comm.gather_value(&vec![format!("rank {rank}"); rank as usize], 1).await?;
        assert_eq!(names.len(), if rank == 1 { 3 } else { 0 });
        let told = comm.broadcast_value((rank == 2).then_some(&(7u8, "seven".to_owned())), 2).await?;
        assert_eq!(told, (7, "seven".to_owned()));
        if rank == 0 {
            comm.send_value(1, 3, &Some(2.5)).await?;
        } else if rank == 1 {
            let (value, status) = comm.recv_value::<Option<f64>>(0, 3).await?;
            assert_eq!((value, status.source, status.tag), (Some(2.5), 0, 3));
        }
        assert_ne!(Particle::DATATYPE, <[f64; 3]>::DATATYPE);
        comm.barrier().await
    });
}

#[test]
fn parts_of_a_group_work_on_their_own() {
    group("parts", 5, async |comm| {
        let part = comm.split(Some(comm.rank() % 2), 0).await?.expect("a color was given");
        assert_eq!((part.rank(), part.size()), (comm.rank() / 2, if comm.rank() % 2 == 0 { 3 } else { 2 }));
        let mut first = [comm.rank()];
        part.broadcast(&mut first, 0).await?;
        assert_eq!(first, [comm.rank() % 2]);
        // A failed part leaves the whole alone.
        drop(part.barrier());
        let error = part.barrier().await.expect_err("cancelled");
        assert!(matches!(error.kind(), ErrorKind::Revoked(_)), "{error}");
        comm.barrier().await?;
        let names: Vec<u32> = comm.links().map(|link| link.peer).collect();
        assert_eq!(names.len(), 4);
        Ok(())
    });
}

#[test]
fn programs_without_a_runtime_have_the_same() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address: SocketAddr = server.local_addr().expect("an address");
    drop(server);
    let over = std::sync::Arc::new(tokio::sync::Notify::new());
    std::thread::scope(|scope| {
        let until = over.clone();
        scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let server = Rendezvous::bind(RealNet::new(), address, ServerConfig::default()).expect("bound");
                let _ = select(std::pin::pin!(server.serve()), std::pin::pin!(until.notified())).await;
            });
        });
        let ranks: Vec<_> = (0..3u32)
            .map(|rank| {
                scope.spawn(move || {
                    let config = Config::new(rank, 3, "blocking", address.to_string());
                    let comm = fmi::blocking::Communicator::connect(&config)?;
                    let (mut sum, mut part) = ([0], [0u32]);
                    comm.allreduce(&[rank], &mut sum, Sum)?;
                    comm.scatter(if rank == 1 { &[5, 6, 7] } else { &[] }, &mut part, 1)?;
                    let (next, previous) = ((rank + 1) % 3, (rank + 2) % 3);
                    let mut got = [0];
                    comm.sendrecv((next, &[rank]), (previous, &mut got), 9)?;
                    comm.wait(comm.inner().barrier())?;
                    comm.leave();
                    assert_eq!((sum, part, got), ([3], [5 + rank], [previous]));
                    Ok(())
                })
            })
            .collect();
        let results: Vec<Result<()>> = ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect();
        over.notify_one();
        for result in results {
            result.unwrap_or_else(|error| panic!("{error}"));
        }
    });
}
