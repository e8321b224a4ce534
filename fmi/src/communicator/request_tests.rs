//! Goal: requests and persistent operations are values of their own; deadlines concern the calls that they are said to;
//! many requests are waited for at a cost that does not grow with those that wait. Method: as `tests`, ranks in one
//! process on an executor that polls only what was woken, while the clock stands still.

use std::sync::Arc;
use std::task::{Context, Waker};

use futures_util::future::join;

use super::harness::{Bench, Executor, Wire};
use super::*;
use crate::op::{Max, Sum};
use crate::request::{Request, Requests, SendRequest, test, wait_all, wait_any, wait_some};

const WIRES: [Wire; 6] =
    [Wire::Pipe(64), Wire::Pipe(1 << 16), Wire::Memory, Wire::Store(100), Wire::Store(1 << 16), Wire::LazyStore(100)];

fn first(_: usize) -> usize {
    0
}

fn is_alive(of: &Communicator, id: u64) -> bool {
    of.shared.with(|engine| engine.group.members(id).is_some())
}

fn is_value<T: Send + Unpin + fmt::Debug>(_: &T) {}

#[test]
fn a_communicator_ends_with_its_last_clone_and_its_last_request() {
    let bench = Bench::new(2, Wire::Memory);
    let whole = &bench.comms[0];
    let part = whole.duplicate().expect("nothing is wrong");
    let id = part.id;
    let clone = part.clone();
    drop(part);
    assert!(is_alive(whole, id), "a clone is left");
    let mut got = [0u8];
    let request = clone.recv(1, 0, &mut got);
    drop(clone);
    assert!(is_alive(whole, id), "a request is left");
    drop(request);
    assert!(!is_alive(whole, id), "nothing is left");
}

#[test]
fn who_leaves_with_one_of_several_clones_lets_the_others_go_on() {
    let bench = Bench::new(2, Wire::Memory);
    let mut executor = Executor::default();
    for comm in &bench.comms {
        executor.must(async move {
            comm.duplicate()?.leave().await;
            comm.clone().leave().await;
            comm.barrier().await
        });
    }
    assert!(executor.run(first), "somebody was not woken");
}

#[test]
fn clones_share_the_order_of_collectives() {
    for wire in WIRES {
        let bench = Bench::new(2, wire);
        let mut executor = Executor::default();
        for comm in &bench.comms {
            let clone = comm.clone();
            executor.must(async move {
                let own = [comm.rank()];
                let (mut sum, mut most) = ([0], [0]);
                let (sums, mosts) = (comm.allreduce(&own, &mut sum, Sum), clone.allreduce(&own, &mut most, Max));
                let (second, one) = join(mosts, sums).await;
                one.and(second)?;
                assert_eq!((sum, most), ([1], [1]));
                Ok(())
            });
        }
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
    }
}

#[test]
fn requests_are_values_that_can_be_kept() {
    /// Requests next to their communicator.
    struct Work<'a> {
        receives: Vec<RecvRequest<'a>>,
        others: Vec<Request<'a>>,
        owned: Vec<SendRequest<'static>>,
        comm: Communicator,
    }

    let bench = Bench::new(2, Wire::Pipe(64));
    let mut executor = Executor::default();
    for comm in &bench.comms {
        executor.must(async move {
            let peer = 1 - comm.rank();
            let (mut places, mut sum, mut most) = ([[0u32]; 2], [0], [0]);
            {
                let mut work = Work { receives: vec![], others: vec![], owned: vec![], comm: comm.clone() };
                for (place, tag) in places.iter_mut().zip(0..) {
                    work.receives.push(work.comm.recv(peer, tag, place));
                    work.owned.push(work.comm.send_owned(peer, tag, vec![10 * comm.rank() + tag]));
                }
                work.others.push(work.comm.allreduce(&[1], &mut sum, Sum).into());
                work.others.push(work.comm.allreduce(&[2], &mut most, Max).into());
                work.others.push(work.comm.barrier().into());
                is_value(&work.receives[0]);
                is_value(&work.others[0]);
                is_value(&work.owned[0]);
                is_value(&work.comm.barrier_init());
                for result in wait_all(work.others).await.into_iter().chain(wait_all(work.owned).await) {
                    result?;
                }
                for (status, tag) in wait_all(work.receives).await.into_iter().zip(0..) {
                    assert_eq!(status?, Status { source: peer, tag, count: 1 });
                }
            }
            assert_eq!((places, sum, most), ([[10 * peer], [10 * peer + 1]], [2], [2]));
            Ok(())
        });
    }
    assert!(executor.run(first), "somebody was not woken");
}

#[test]
fn a_deadline_concerns_the_calls_that_it_was_set_for() {
    let bench = Bench::new(2, Wire::Memory);
    let comm = &bench.comms[0];
    let other = comm.duplicate().expect("nothing is wrong");
    let ended = std::cell::RefCell::new(Vec::new());
    let mut executor = Executor::default();
    let mut wait = |name: &'static str, comm: Communicator| {
        let ended = &ended;
        executor.spawn(async move {
            let error = comm.recv(1, 0, &mut [0u8]).await.expect_err("nothing was sent");
            assert!(matches!(error.kind(), ErrorKind::Deadline { .. }), "{error}");
            ended.borrow_mut().push(name);
        });
    };
    wait("one", comm.with_deadline(Duration::from_secs(1)));
    comm.set_deadline(Duration::from_secs(3));
    wait("three", comm.clone());
    wait("two", comm.with_deadline(Duration::from_secs(2)));
    wait("three again", comm.duplicate().expect("nothing is wrong"));
    wait("other", other);
    for expected in [&["one"][..], &["one", "two"], &["one", "two", "three", "three again"]] {
        executor.run(first);
        bench.hands.pass(Duration::from_secs(1));
        executor.run(first);
        assert_eq!(*ended.borrow(), expected);
    }
    assert_eq!(executor.left(), 1, "another communicator of the group keeps its own");
}

#[test]
fn persistent_collectives_match_in_any_order_of_starts() {
    for wire in WIRES {
        let bench = Bench::new(3, wire);
        let mut executor = Executor::default();
        for comm in &bench.comms {
            executor.must(async move {
                let me = comm.rank();
                let sum = comm.allreduce_init::<u32, _>(2, Sum);
                let most = comm.allreduce_in_place_init(1, Max);
                let all = comm.allgather_init(1);
                for turn in 0..8 {
                    let (own, mut total, mut largest, mut gathered) = ([me, turn], [0; 2], [me * turn], [0; 3]);
                    let mut places = (Some(&mut total), Some(&mut largest), Some(&mut gathered));
                    let (mut first, mut second, mut third, mut barrier) = (None, None, None, None);
                    // Each rank starts them in another order, which changes, and has one more among them.
                    for step in 0..4 {
                        match (step + me + turn) % 4 {
                            0 => first = Some(sum.start(&own, places.0.take().expect("once"))),
                            1 => second = Some(most.start_in_place(places.1.take().expect("once"))),
                            2 => third = Some(all.start(&own[..1], places.2.take().expect("once"))),
                            _ => barrier = Some(comm.barrier()),
                        }
                    }
                    let runs: Vec<Request<'_>> = vec![
                        second.expect("started").into(),
                        barrier.expect("started").into(),
                        first.expect("started").into(),
                        third.expect("started").into(),
                    ];
                    for result in wait_all(runs).await {
                        result?;
                    }
                    assert_eq!((total, largest, gathered), ([3, 3 * turn], [2 * turn], [0, 1, 2]));
                }
                Ok(())
            });
        }
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
    }
}

async fn blocks_of_one_length_in_place(comm: &Communicator) -> Result<()> {
    let (me, root) = (comm.rank(), 1);
    let vector = |length: u32| (0..length).map(|index| 100 * me + index).collect::<Vec<u32>>();
    let plans = [
        (2, comm.reduce_in_place_init(2, Sum, root)?),
        (2, comm.allreduce_in_place_init(2, Sum)),
        (6, comm.reduce_scatter_block_in_place_init(2, Sum)),
        (2, comm.scan_in_place_init(2, Sum)),
        (2, comm.exscan_in_place_init(2, Sum)),
    ];
    for (index, (length, plan)) in plans.iter().enumerate() {
        for _ in 0..2 {
            let (mut persistent, mut once) = (vector(*length), vector(*length));
            plan.start_in_place(&mut persistent).await?;
            match index {
                0 => comm.reduce_in_place(&mut once, Sum, root).await?,
                1 => comm.allreduce_in_place(&mut once, Sum).await?,
                2 => comm.reduce_scatter_block_in_place(&mut once, Sum).await?,
                3 => comm.scan_in_place(&mut once, Sum).await?,
                _ => comm.exscan_in_place(&mut once, Sum).await?,
            }
            assert_eq!(persistent, once, "{plan:?}");
        }
    }
    let rooted = if me == root { 6 } else { 2 };
    let plans = [
        (rooted, comm.gather_in_place_init(2, root)?),
        (rooted, comm.scatter_in_place_init(2, root)?),
        (6, comm.allgather_in_place_init(2)),
        (6, comm.alltoall_in_place_init(2)),
    ];
    for (index, (length, plan)) in plans.iter().enumerate() {
        let (mut persistent, mut once) = (vector(*length), vector(*length));
        plan.start_in_place(&mut persistent).await?;
        match index {
            0 => comm.gather_in_place(&mut once, root).await?,
            1 => comm.scatter_in_place(&mut once, root).await?,
            2 => comm.allgather_in_place(&mut once).await?,
            _ => comm.alltoall_in_place(&mut once).await?,
        }
        assert_eq!(persistent, once, "{plan:?}");
    }
    Ok(())
}

async fn blocks_of_any_length_in_place(comm: &Communicator) -> Result<()> {
    let (me, root) = (comm.rank(), 1);
    let vector = |length: u32| (0..length).map(|index| 100 * me + index).collect::<Vec<u32>>();
    let counts = [1, 2, 3];
    let own = counts[me as usize];
    let rooted = if me == root { 6 } else { me + 1 };
    let plans = [
        (rooted, comm.gatherv_in_place_init(own, &counts, root)?),
        (rooted, comm.scatterv_in_place_init(&counts, own, root)?),
        (6, comm.allgatherv_in_place_init(&counts)?),
        (6, comm.alltoallv_in_place_init(&[2; 3])?),
    ];
    for (index, (length, plan)) in plans.iter().enumerate() {
        let (mut persistent, mut once) = (vector(*length), vector(*length));
        plan.start_in_place(&mut persistent).await?;
        match index {
            0 => comm.gatherv_in_place(&mut once, &counts, root).await?,
            1 => comm.scatterv_in_place(&mut once, &counts, root).await?,
            2 => comm.allgatherv_in_place(&mut once, &counts).await?,
            _ => comm.alltoallv_in_place(&mut once, &[2; 3]).await?,
        }
        assert_eq!(persistent, once, "{plan:?}");
    }
    let (mut persistent, mut once) = (vector(6), vector(6));
    comm.reduce_scatter_in_place_init(&counts, Sum)?.start_in_place(&mut persistent).await?;
    comm.reduce_scatter_in_place(&mut once, &counts, Sum).await?;
    assert_eq!(persistent, once);
    let two_buffers = comm.allreduce_init(2, Sum);
    let error = two_buffers.start_in_place(&mut [0; 2]).await.expect_err("it has two");
    assert!(error.to_string().contains("not planned in place"), "{error}");
    Ok(())
}

#[test]
fn persistent_operations_in_place_do_what_the_others_do() {
    let bench = Bench::new(3, Wire::Memory);
    let mut executor = Executor::default();
    for comm in &bench.comms {
        executor.must(async move {
            blocks_of_one_length_in_place(comm).await?;
            blocks_of_any_length_in_place(comm).await?;
            comm.barrier().await
        });
    }
    assert!(executor.run(first), "somebody was not woken");
}

#[test]
fn a_persistent_collective_fails_with_its_communicator_and_the_communicator_with_it() {
    for persistent_first in [false, true] {
        let bench = Bench::new(3, Wire::Memory);
        let mut executor = Executor::default();
        for comm in &bench.comms {
            executor.spawn(async move {
                let sum = comm.allreduce_init::<u32, _>(1, Sum);
                // Rank 0 gives one up; the others wait in the other.
                let is_persistent = persistent_first == (comm.rank() == 0);
                let mut total = [0];
                let request: Request<'_> =
                    if is_persistent { sum.start(&[1], &mut total).into() } else { comm.barrier().into() };
                if comm.rank() == 0 {
                    drop(request);
                } else {
                    let error = request.await.expect_err("it was given up");
                    assert!(matches!(error.kind(), ErrorKind::Revoked(_)), "{error}");
                }
                let error = sum.start(&[1], &mut total).await.expect_err("it is of no more use");
                assert!(matches!(error.kind(), ErrorKind::Revoked(_)), "{error}");
            });
        }
        assert!(executor.run(first), "somebody was not told");
    }
}

#[test]
fn a_plan_against_another_collective_is_found_out() {
    let bench = Bench::new(2, Wire::Memory);
    let mut executor = Executor::default();
    for comm in &bench.comms {
        executor.spawn(async move {
            let plan = (comm.rank() == 0).then(|| comm.allreduce_init::<u32, _>(1, Sum));
            let error = comm.barrier().await.and(comm.barrier().await).expect_err("they disagree");
            assert!(error.to_string().contains("init"), "{error}");
            drop(plan);
        });
    }
    executor.run(first);
    bench.hands.pass(Duration::from_secs(1));
    assert!(executor.run(first), "somebody was not told");
}

#[test]
fn persistent_messages_are_sent_and_received_again_and_again() {
    let bench = Bench::new(2, Wire::Pipe(64));
    let mut executor = Executor::default();
    for comm in &bench.comms {
        executor.must(async move {
            let peer = 1 - comm.rank();
            let (send, receive) = (comm.send_init(peer, 3)?, comm.recv_init(Source::Any, 3)?);
            for turn in 0..20u32 {
                let (own, mut got) = ([turn, comm.rank()], [0; 2]);
                let (sent, status) = join(send.start(&own), receive.start(&mut got)).await;
                sent?;
                assert_eq!((status?.source, got), (peer, [turn, peer]));
            }
            comm.send_init(None, 3)?.start(&[1u8]).await?;
            let error = comm.send_init::<u8>(2, 0).expect_err("no such rank");
            assert!(matches!(error.kind(), ErrorKind::InvalidArgument(_)), "{error}");
            let error = comm.recv_init::<u8>(2, 0).expect_err("no such rank");
            assert!(matches!(error.kind(), ErrorKind::InvalidArgument(_)), "{error}");
            Ok(())
        });
    }
    assert!(executor.run(first), "somebody was not woken");
}

#[test]
fn owned_messages_are_neither_copied_nor_lost() {
    let bench = Bench::new(2, Wire::Pipe(64));
    let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
    let shared: Arc<[u64]> = (0..100).collect();
    let mut executor = Executor::default();
    let send = executor.must(zero.send_owned(1, 0, shared.clone()));
    assert_eq!(Arc::strong_count(&shared), 2, "the request holds it");
    executor.poll(send);
    executor.must(zero.send_owned(1, 1, bytes::Bytes::from_static(b"seven")));
    executor.must(zero.send_owned(1, 2, Arc::new(vec![7u64])));
    executor.must(async {
        let memory = Vec::with_capacity(200);
        let place = memory.as_ptr();
        // One that is dropped when it has read some of it loses nothing.
        let mut dropped = one.recv_vec::<u64>(0, 0);
        assert!(test(&mut dropped).await.is_none(), "the pipe is narrow");
        drop(dropped);
        let (first, status) = one.recv_owned::<u64>(0, 0, memory).await?;
        assert_eq!((first.len(), status.count, first.as_ptr()), (100, 100, place));
        assert!(first.iter().copied().eq(0..100));
        assert_eq!(one.recv_vec::<u8>(0, 1).await?.0, b"seven");
        assert_eq!(one.recv_vec::<u64>(0, 2).await?.0, [7]);
        let error = one.with_deadline(Duration::ZERO).recv_vec::<u64>(0, 3).await.expect_err("no such message");
        assert!(matches!(error.kind(), ErrorKind::Deadline { .. }), "{error}");
        Ok(())
    });
    assert!(executor.run(first), "somebody was not woken");
    drop(executor);
    assert_eq!(Arc::strong_count(&shared), 1, "nobody holds it any more");
}

#[test]
fn a_look_for_a_message_does_not_wait_and_finds_what_is_there() {
    // A lazy store has not answered by then.
    for wire in WIRES.into_iter().filter(|wire| !matches!(wire, Wire::LazyStore(_))) {
        let bench = Bench::new(2, wire);
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let mut executor = Executor::default();
        executor.must(async {
            assert_eq!(one.try_probe(0, 5).await?, None);
            assert!(one.try_matched_probe(Source::Any, Tag::Any).await?.is_none());
            zero.send(1, 5, &[1u16, 2]).await?;
            assert_eq!(one.try_probe(0, 6).await?, None, "another tag");
            let status = Status { source: 0, tag: 5, count: 4 };
            assert_eq!(one.try_probe(Source::Any, Tag::Any).await?, Some(status));
            assert_eq!(one.try_probe(0, 5).await?, Some(status), "it is left where it was");
            let message = one.try_matched_probe(0, 5).await?.expect("it is there");
            assert_eq!(one.try_probe(0, 5).await?, None, "it has been taken");
            let mut got = [0u16; 2];
            message.recv(&mut got).await?;
            assert_eq!(got, [1, 2]);
            let error = one.try_probe(2, 5).await.expect_err("no such rank");
            assert!(matches!(error.kind(), ErrorKind::InvalidArgument(_)), "{error}");
            Ok(())
        });
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
    }
}

#[test]
fn requests_end_one_by_one_some_or_all_and_each_in_its_turn() {
    let bench = Bench::new(2, Wire::Memory);
    let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
    let mut executor = Executor::default();
    executor.must(async {
        let mut places = [[0u32]; 5];
        let receives = places.iter_mut().zip(0..).map(|(place, tag)| one.recv(0, tag, place));
        let mut receives: Requests<_> = receives.collect();
        assert!(receives.test_any().await.is_none());
        assert!(receives.test_some().await.is_empty());
        zero.send(1, 3, &[3u32]).await?;
        let (number, status) = receives.wait_any().await.expect("five were added");
        assert_eq!((number, status?.tag, receives.len()), (3, 3, 4));
        for tag in [4, 1] {
            zero.send(1, tag, &[tag]).await?;
        }
        let mut some: Vec<usize> = Vec::new();
        while some.len() < 2 {
            some.extend(receives.wait_some().await.into_iter().map(|(number, _)| number));
        }
        some.sort_unstable();
        assert_eq!(some, [1, 4]);
        zero.send(1, 0, &[0u32]).await?;
        zero.send(1, 2, &[2u32]).await?;
        let all: Vec<usize> = receives.wait_all().await.into_iter().map(|(number, _)| number).collect();
        assert_eq!(all, [0, 2]);
        assert!(receives.is_empty() && receives.wait_any().await.is_none() && receives.wait_some().await.is_empty());
        let (mut near, mut far) = ([0u8], [0u8]);
        zero.send(1, 9, &[9u8]).await?;
        let both = [one.recv(0, 8, &mut far), one.recv(0, 9, &mut near)];
        let (number, status, rest) = wait_any(both).await.expect("two were given");
        assert_eq!((number, status?.tag, rest.len()), (1, 9, 1));
        zero.send(1, 9, &[9u8]).await?;
        let (mut near, mut far) = ([0u8], [0u8]);
        let both = [one.recv(0, 7, &mut far), one.recv(0, 9, &mut near)];
        let (ended, rest) = wait_some(both).await;
        assert_eq!((ended.len(), ended[0].0, rest.len()), (1, 1, 1));
        Ok(())
    });
    assert!(executor.run(first), "somebody was not woken");
}

#[test]
fn what_waits_is_not_polled_while_others_end() {
    const MANY: usize = 2000;
    let polls = std::cell::Cell::new(0usize);
    let states: Vec<std::cell::RefCell<(bool, Option<Waker>)>> = (0..MANY).map(|_| Default::default()).collect();
    let future = |index: usize| {
        let (polls, states) = (&polls, &states);
        std::future::poll_fn(move |cx| {
            polls.set(polls.get() + 1);
            let mut state = states[index].borrow_mut();
            if state.0 {
                return Poll::Ready(index);
            }
            state.1 = Some(cx.waker().clone());
            Poll::Pending
        })
    };
    let mut executor = Executor::default();
    executor.spawn(async {
        let mut requests: Requests<_> = (0..MANY).map(future).collect();
        for index in (0..MANY).rev() {
            let end = std::future::poll_fn(|_| {
                let waker = {
                    let mut state = states[index].borrow_mut();
                    state.0 = true;
                    state.1.take()
                };
                waker.into_iter().for_each(Waker::wake);
                Poll::Ready(())
            });
            end.await;
            assert_eq!(requests.wait_any().await, Some((index, index)));
        }
    });
    assert!(executor.run(first));
    drop(executor);
    assert!(polls.get() <= 3 * MANY, "{} polls", polls.get());
}

#[test]
fn forgotten_requests_touch_no_buffer_and_stop_nobody_else() {
    for wire in WIRES {
        let bench = Bench::configured(2, wire, |config| config.eager_bytes_max = 64, |_| None);
        let mut executor = Executor::default();
        for comm in &bench.comms {
            executor.must(async move {
                let peer = 1 - comm.rank();
                let other = comm.duplicate()?;
                let (mut short, mut long, data) = ([0u8; 8], vec![0u8; 500], vec![7u8; 500]);
                std::mem::forget(comm.recv(peer, 1, &mut short));
                std::mem::forget(comm.recv(peer, 2, &mut long));
                std::mem::forget(comm.recv_vec::<u8>(peer, 3));
                std::mem::forget(other.allreduce(&data, &mut long, Sum));
                std::mem::forget(other.barrier());
                for tag in 1..4 {
                    std::mem::forget(comm.send(peer, tag, &data));
                    std::mem::forget(comm.send_owned(peer, tag, data.clone()));
                }
                // Polled, and forgotten half way.
                let mut late = Box::pin(comm.recv(peer, 4, &mut long));
                std::future::poll_fn(|cx| {
                    assert!(late.as_mut().poll(cx).is_pending());
                    Poll::Ready(())
                })
                .await;
                std::mem::forget(late);
                // The buffers are the caller's again.
                (short, long) = ([1; 8], vec![2; 500]);
                comm.allreduce(&[1u32], &mut [0], Sum).await?;
                comm.allreduce(&vec![1u32; 300], &mut vec![0; 300], Sum).await?;
                assert_eq!((short, &long), ([1; 8], &vec![2; 500]));
                drop(data);
                comm.barrier().await
            });
        }
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
    }
}

#[test]
fn what_owns_its_memory_moves_while_nothing_but_time_is_waited_for() {
    for wire in WIRES {
        let bench = Bench::configured(2, wire, |config| config.eager_bytes_max = 64, |_| None);
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let mut receive = zero.recv_vec::<u32>(1, 1);
        let mut executor = Executor::default();
        // The clock stands still, so this never ends; it must not be woken forever either.
        executor.spawn(zero.progress_until(Instant::FAR_FUTURE));
        executor.must(one.send(0, 1, &[7u32; 10_000]));
        assert!(!executor.run(first), "{wire:?}: the clock has moved");
        assert_eq!(executor.left(), 1, "{wire:?}: the message went");
        let Poll::Ready(Ok((got, _))) = std::pin::Pin::new(&mut receive).poll(&mut Context::from_waker(Waker::noop()))
        else {
            panic!("{wire:?}: the message is there")
        };
        assert!(got == [7; 10_000], "the message came out changed");
    }
}

#[test]
fn a_copy_that_waits_for_room_is_woken_by_it() {
    for wire in WIRES {
        let bench = Bench::new(2, wire);
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let mut executor = Executor::default();
        executor.must(async {
            // More than any channel of the tests holds.
            for number in 0..20u8 {
                zero.send(1, 1, &vec![number; 200_000]).await?;
            }
            Ok(())
        });
        executor.start_new();
        executor.must(async {
            let mut got = vec![0; 200_000];
            for number in 0..20u8 {
                one.recv(0, 1, &mut got).await?;
                assert!(got == vec![number; 200_000], "the message came out changed");
            }
            Ok(())
        });
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
    }
}

#[test]
fn nothing_stays_of_requests_that_were_dropped_unpolled() {
    let bench = Bench::new(2, Wire::Memory);
    let zero = &bench.comms[0];
    for _ in 0..3 {
        drop(zero.recv_vec::<u8>(1, 0));
        drop(zero.send_owned(1, 0, vec![0u8; 4 << 20]));
    }
    zero.shared.with(|engine| assert_eq!(engine.queued_work(), 0));
}
