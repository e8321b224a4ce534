//! Goal: messages and collectives of any length end whatever is awaited first, within the memory that is set aside for
//! what nobody polls. Method: limits so small that everything is long.

use super::*;

/// Limits under which a message of some kilobytes is long: 1 KiB goes unasked, 64 KiB are kept for others.
fn small(config: &mut Config) {
    (config.eager_bytes_max, config.mailbox_bytes_max) = (1 << 10, 64 << 10);
}

fn bench(size: u32, wire: Wire) -> Bench {
    Bench::configured(size, wire, small, |_| None)
}

fn numbers(count: usize, from: u32) -> Vec<u32> {
    (0..).map(|index: u32| index.wrapping_mul(7) + from).take(count).collect()
}

#[test]
fn a_send_ends_beside_a_receive_that_nobody_polls() {
    for wire in WIRES {
        let bench = bench(2, wire);
        let mut executor = Executor::default();
        for comm in &bench.comms {
            executor.must(async move {
                let (peer, mut got) = (1 - comm.rank(), vec![0u32; 8000]);
                let data = numbers(8000, comm.rank());
                let receive = comm.recv(peer, 1, &mut got);
                comm.send(peer, 1, &data).await?;
                receive.await?;
                assert!(got == numbers(8000, peer), "the message came out changed");
                Ok(())
            });
        }
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
    }
}

#[test]
fn sends_in_a_ring_end_beside_receives_that_nobody_polls() {
    for wire in WIRES {
        let bench = bench(3, wire);
        let mut executor = Executor::default();
        for comm in &bench.comms {
            executor.must(async move {
                let (right, left) = ((comm.rank() + 1) % 3, (comm.rank() + 2) % 3);
                let (data, mut got) = (numbers(8000, comm.rank()), vec![0u32; 8000]);
                let receive = comm.recv(left, 1, &mut got);
                comm.send(right, 1, &data).await?;
                receive.await?;
                assert!(got == numbers(8000, left), "the message came out changed");
                Ok(())
            });
        }
        assert!(executor.run(last), "{wire:?}: somebody was not woken");
    }
}

#[test]
fn what_follows_a_message_that_fits_no_mailbox_passes_it() {
    for wire in WIRES {
        let bench = bench(2, wire);
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let (data, mut got) = (numbers(100_000, 3), vec![0u32; 100_000]);
        let mut executor = Executor::default();
        executor.must(async {
            let send = zero.send(1, 1, &data);
            zero.barrier().await?;
            send.await
        });
        executor.must(async {
            one.barrier().await?;
            one.recv(0, 1, &mut got).await.map(|status| assert_eq!(status.count, 100_000))
        });
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
        drop(executor);
        assert!(got == data, "the message came out changed");
    }
}

#[test]
fn what_follows_a_long_collective_that_has_not_begun_elsewhere_passes_it() {
    for wire in WIRES {
        let bench = bench(3, wire);
        let data = numbers(100_000, 1);
        let mut executor = Executor::default();
        for comm in &bench.comms {
            let data = &data;
            executor.must(async move {
                let (mut all, mut small) = (vec![0; data.len()], [0u8]);
                if comm.rank() == 0 {
                    let sends = join(comm.send(1, 5, &[9u8]), comm.send(2, 5, &[9u8]));
                    let (sum, (one, other)) = join(comm.allreduce(data, &mut all, Sum), sends).await;
                    one.and(other).and(sum)?;
                } else {
                    comm.recv(0, 5, &mut small).await?;
                    comm.allreduce(data, &mut all, Sum).await?;
                }
                assert!(all.iter().zip(data).all(|(sum, one)| *sum == one.wrapping_mul(3)), "a wrong sum");
                Ok(())
            });
        }
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
    }
}

#[test]
fn a_send_that_is_given_up_when_it_was_announced_arrives_whole() {
    for wire in WIRES {
        let bench = bench(2, wire);
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let (data, mut got, mut last) = (numbers(100_000, 5), vec![0u32; 100_000], [0u8]);
        let mut executor = Executor::default();
        let send = executor.must(zero.send(1, 1, &data));
        executor.poll(send);
        executor.cancel(send);
        executor.must(async {
            one.recv(0, 2, &mut last).await?;
            one.recv(0, 1, &mut got).await?;
            one.send(0, 7, &[1u8]).await
        });
        executor.must(async {
            zero.send(1, 2, &[1u8]).await?;
            // Whatever is polled, the rest goes.
            zero.recv(1, 7, &mut [0u8]).await
        });
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
        drop(executor);
        assert!(got == data, "the message came out changed");
    }
}

#[test]
fn a_long_message_whose_receive_is_dropped_half_way_is_received_again() {
    for polls in [1, 3, 8, 30] {
        let bench = bench(2, Wire::Pipe(256));
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let (data, mut dropped, mut got) = (numbers(6000, 5), vec![0u32; 6000], vec![0u32; 6000]);
        let mut executor = Executor::default();
        let send = executor.must(zero.send(1, 1, &data));
        let receive = executor.must(one.recv(0, 1, &mut dropped));
        for _ in 0..polls {
            executor.poll(send);
            executor.poll(receive);
        }
        executor.cancel(receive);
        executor.must(one.recv(0, 1, &mut got));
        assert!(executor.run(first), "after {polls} polls: somebody was not woken");
        drop(executor);
        assert!(got == data, "the message came out changed");
    }
}

#[test]
fn a_short_send_is_on_its_way_whatever_is_awaited() {
    // The pipe takes a few bytes; the rest of each message is copied at its call.
    let bench = bench(2, Wire::Pipe(64));
    let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
    let (data, mut got) = (numbers(250, 5), [vec![0; 250], vec![0; 250]]);
    let mut executor = Executor::default();
    executor.must(async {
        let sends = [zero.send(1, 1, &data), zero.send(1, 2, &data)];
        zero.recv(1, 3, &mut [0u8]).await?;
        try_join_all(sends).await
    });
    executor.must(async {
        let [early, late] = &mut got;
        one.recv(0, 2, late).await?;
        one.recv(0, 1, early).await?;
        one.send(0, 3, &[1u8]).await
    });
    assert!(executor.run(first), "somebody was not woken");
    drop(executor);
    assert!(got.iter().all(|got| *got == data), "a message came out changed");
}

/// Awaits requests in the order of `order`, each to its end before the next is polled.
async fn in_order<F: Future<Output = Result<()>> + Unpin>(mut requests: Vec<F>, order: &[usize]) -> Result<()> {
    for index in order {
        (&mut requests[*index]).await?;
    }
    Ok(())
}

#[test]
fn collectives_are_awaited_in_any_order() {
    const ORDERS: [[usize; 6]; 3] = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]];
    for wire in WIRES {
        for count in [1, 100] {
            let bench = Bench::new(3, wire);
            let mut executor = Executor::default();
            for (comm, order) in bench.comms.iter().zip(ORDERS) {
                executor.must(async move {
                    let data = numbers(3 * count, comm.rank());
                    let mut all = vec![vec![0u32; 3 * count]; 6];
                    in_order(all.iter_mut().map(|all| comm.alltoall(&data, all)).collect(), &order).await?;
                    let expected: Vec<u32> = (0..3)
                        .flat_map(|from| {
                            let at = comm.rank() as usize * count;
                            numbers(3 * count, from)[at..at + count].to_vec()
                        })
                        .collect();
                    assert!(all.iter().all(|all| *all == expected), "an alltoall came out changed");
                    let mut sums = vec![vec![0u32; 3 * count]; 6];
                    in_order(sums.iter_mut().map(|sum| comm.allreduce(&data, sum, Sum)).collect(), &order).await?;
                    let sum = |index: usize| (0..3).map(|rank| numbers(3 * count, rank)[index]).sum::<u32>();
                    assert!(sums.iter().all(|it| (0..3 * count).all(|index| it[index] == sum(index))), "a wrong sum");
                    Ok(())
                });
            }
            assert!(executor.run(first), "{wire:?}: somebody was not woken");
        }
    }
}

#[test]
fn collectives_of_two_communicators_are_called_and_awaited_in_any_order() {
    for wire in WIRES {
        let bench = Bench::new(2, wire);
        let mut executor = Executor::default();
        for comm in &bench.comms {
            executor.must(async move {
                let other = comm.duplicate()?;
                let (mut one, mut two) = ([0u64], [0u64]);
                let value = [u64::from(comm.rank()) + 1];
                if comm.rank() == 0 {
                    let first = comm.allreduce(&value, &mut one, Sum);
                    other.allreduce(&value, &mut two, Sum).await?;
                    first.await?;
                } else {
                    let first = other.allreduce(&value, &mut two, Sum);
                    comm.allreduce(&value, &mut one, Sum).await?;
                    first.await?;
                }
                assert_eq!((one, two), ([3], [3]));
                Ok(())
            });
        }
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
    }
}

#[test]
fn ranks_whose_limits_differ_understand_each_other() {
    for wire in WIRES {
        let eager = std::cell::Cell::new(1 << 9);
        let differ = |config: &mut Config| {
            small(config);
            config.eager_bytes_max = eager.replace(eager.get() * 4);
        };
        let bench = Bench::configured(3, wire, differ, |_| None);
        let mut executor = Executor::default();
        for comm in &bench.comms {
            executor.must(async move {
                let mut data = numbers(400, comm.rank());
                comm.broadcast(&mut data, 0).await?;
                assert_eq!(data, numbers(400, 0));
                let mut sum = vec![0u32; 400];
                comm.allreduce(&data, &mut sum, Sum).await?;
                assert!(sum.iter().zip(&data).all(|(sum, one)| *sum == one.wrapping_mul(3)), "a wrong sum");
                Ok(())
            });
        }
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
    }
}

#[test]
fn two_long_frames_of_operations_that_nobody_polls_stop_no_third() {
    let bench = Bench::new(4, Wire::Pipe(1 << 16));
    let [zero, others @ ..] = &bench.comms[..] else { panic!("four ranks") };
    let data = numbers(5000, 1);
    let (mut one, mut two, mut got) = (vec![0u32; 5000], vec![0u32; 5000], [0u8]);
    let mut executor = Executor::default();
    for (comm, tag) in others.iter().zip([1, 1, 2]) {
        let data = &data;
        executor
            .must(async move { if tag == 1 { comm.send(0, 1, data).await } else { comm.send(0, 2, &[7u8]).await } });
    }
    executor.must(async {
        let held = [zero.recv(1, 1, &mut one), zero.recv(2, 1, &mut two)];
        zero.recv(Source::Any, 2, &mut got).await?;
        try_join_all(held).await
    });
    assert!(executor.run(first), "somebody was not woken");
    drop(executor);
    assert!(one == data && two == data && got == [7], "a message came out changed");
}

#[test]
fn a_dropped_receive_whose_message_was_partly_put_aside_gives_all_of_it_back() {
    for polls in [2, 5, 9, 20] {
        let bench = Bench::configured(2, Wire::Pipe(256), |config| config.eager_bytes_max = 3000, |_| None);
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let (data, mut dropped, mut got, mut small) = (numbers(3000, 5), vec![0u32; 3000], vec![0u32; 3000], [0u8]);
        let mut executor = Executor::default();
        let send = executor.must(zero.send(1, 1, &data));
        let receive = executor.must(one.recv(0, 1, &mut dropped));
        let behind = executor.must(one.recv(0, 2, &mut small));
        for _ in 0..polls {
            [send, receive, send, behind].into_iter().for_each(|task| executor.poll(task));
        }
        for _ in 0..2 * polls {
            [send, behind].into_iter().for_each(|task| executor.poll(task));
        }
        executor.cancel(receive);
        executor.must(one.recv(0, 1, &mut got));
        executor.must(zero.send(1, 2, &[1u8]));
        assert!(executor.run(first), "after {polls} polls: somebody was not woken");
        drop(executor);
        assert!(got == data, "after {polls} polls: the message came out changed");
    }
}

#[test]
fn a_long_message_keeps_its_place_when_its_receive_is_dropped() {
    for polls in [3, 6, 12] {
        let bench = Bench::configured(2, Wire::Pipe(256), |config| config.eager_bytes_max = 600, |_| None);
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let (long, mut dropped, mut first_got, mut then) =
            (numbers(1500, 5), vec![0u32; 1500], vec![0u32; 1500], [0u32]);
        let mut small = [0u8];
        let mut executor = Executor::default();
        let sends = [executor.must(zero.send(1, 1, &long)), executor.must(zero.send(1, 1, &[9u32]))];
        let receive = executor.must(one.recv(0, 1, &mut dropped));
        let behind = executor.must(one.recv(0, 2, &mut small));
        for _ in 0..polls {
            sends.into_iter().chain([receive, sends[0], behind]).for_each(|task| executor.poll(task));
        }
        executor.cancel(receive);
        executor.must(async {
            one.recv(0, 1, &mut first_got).await?;
            one.recv(0, 1, &mut then).await
        });
        executor.must(zero.send(1, 2, &[1u8]));
        assert!(executor.run(first), "after {polls} polls: somebody was not woken");
        drop(executor);
        assert!(first_got == long && then == [9], "after {polls} polls: a message was overtaken");
    }
}

#[test]
fn owned_messages_beyond_all_bounds_move_whatever_is_awaited() {
    // Each rank awaits all its sends, longer in sum than any memory for others, before its receives, and those of one
    // peer before those of another: with borrowed buffers a cycle.
    for wire in WIRES {
        let bench = bench(3, wire);
        let mut executor = Executor::default();
        for comm in &bench.comms {
            executor.must(async move {
                let peers: Vec<u32> = (0..3).filter(|peer| *peer != comm.rank()).collect();
                let mut receives = Vec::new();
                let mut sends = Vec::new();
                for tag in 0..4 {
                    for peer in &peers {
                        receives.push((*peer, tag, comm.recv_vec::<u32>(*peer, tag)));
                        sends.push(comm.send_owned(*peer, tag, numbers(20_000, tag + comm.rank())));
                    }
                }
                let (last, others) = sends.split_last_mut().expect("eight sends");
                last.await?;
                for send in others.iter_mut().rev() {
                    send.await?;
                }
                comm.barrier().await?;
                for (peer, tag, receive) in receives.into_iter().rev() {
                    let (got, status) = receive.await?;
                    assert_eq!((status.source, status.tag, status.count), (peer, tag, 20_000));
                    assert!(got == numbers(20_000, tag + peer), "the message came out changed");
                }
                Ok(())
            });
        }
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
        for comm in &bench.comms {
            assert_eq!(comm.shared.with(|engine| engine.enlisted()), 0, "nothing stays of what has ended");
        }
    }
}

#[test]
fn an_owned_exchange_ends_while_only_another_operation_is_polled() {
    for wire in WIRES {
        let bench = bench(2, wire);
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let has_come = std::cell::Cell::new(false);
        let mut executor = Executor::default();
        executor.must(async {
            let sent = zero.send_owned(1, 1, numbers(100_000, 1));
            // Only this is polled until the other rank has all of it.
            zero.recv(1, 2, &mut [0u8]).await?;
            assert!(has_come.get(), "the message went while its send was not polled");
            sent.await
        });
        executor.must(async {
            let (got, _) = one.recv_vec::<u32>(0, 1).await?;
            assert!(got == numbers(100_000, 1), "the message came out changed");
            has_come.set(true);
            one.send(0, 2, &[1u8]).await
        });
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
    }
}

#[test]
fn owned_requests_that_are_dropped_half_way_lose_nothing() {
    for wire in WIRES {
        let bench = bench(2, wire);
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let mut executor = Executor::default();
        let receive = executor.must(one.recv_vec::<u32>(0, 1));
        executor.poll(receive);
        let send = executor.must(zero.send_owned(1, 1, numbers(30_000, 1)));
        executor.poll(send);
        executor.poll(receive);
        executor.cancel(receive);
        // It is begun, so it arrives whole.
        executor.cancel(send);
        executor.must(async {
            let (got, status) = one.recv_vec::<u32>(0, 1).await?;
            assert_eq!(status.count, 30_000);
            assert!(got == numbers(30_000, 1), "the message came out changed");
            one.send(0, 2, &[1u8]).await
        });
        executor.must(async { zero.recv(1, 2, &mut [0u8]).await.map(drop) });
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
    }
}
