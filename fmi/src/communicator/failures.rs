//! Goal: what becomes of a rank is told to those that wait for it, at once and by name, and a rank that is only busy is
//! waited for. Method: as in [`super::tests`]: ranks in one process, an executor that polls only what was woken, a clock
//! that is set by hand.

use super::harness::{Bench, Executor, Wire};
use super::*;
use crate::op::Sum;

// Word of a departure must fit: whoever drops a communicator does not wait until it goes.
// What a rank owes others when its last operation has ended waits for a lazy store until it is polled again.
const WIRES: [Wire; 4] = [Wire::Pipe(256), Wire::Pipe(1 << 16), Wire::Memory, Wire::Store(1 << 10)];

fn first(_: usize) -> usize {
    0
}

#[test]
fn a_rank_that_leaves_or_fails_ends_at_once_what_waits_for_it() {
    for wire in WIRES {
        for fails in [false, true] {
            let mut bench = Bench::new(3, wire);
            let gone = bench.comms.remove(1);
            let [zero, two] = &bench.comms[..] else { panic!("two are left") };
            let (mut got, mut never) = ([0u8], [0u8]);
            let (mut all, mut more) = ([0u64], [0u64]);
            let mut executor = Executor::default();
            executor.must(async move {
                gone.send(0, 1, &[7u8]).await?;
                if fails {
                    let (mut none, sent) = ([0u8; 1], gone.send(1, 3, &[1u8, 2]));
                    sent.await?;
                    gone.recv(1, 3, &mut none).await.expect_err("it does not fit");
                }
                drop(gone);
                Ok(())
            });
            executor.must(async {
                zero.recv(1, 1, &mut got).await?;
                assert_eq!(got, [7], "what was sent before is delivered");
                let error = zero.recv(1, 1, &mut never).await.expect_err("it has left");
                assert!(
                    matches!(error.kind(), ErrorKind::PeerLeft(_)) && error.peer() == Some(1),
                    "{wire:?} {fails}: {error}"
                );
                let error = zero.send(1, 1, &[1u8]).await.expect_err("it has left");
                assert!(error.to_string().contains("rank 1 (private): left the group"), "{error}");
                zero.allreduce(&[1], &mut all, Sum).await.expect_err("a member has left");
                Ok(())
            });
            executor.must(async {
                let error = two.allreduce(&[1], &mut more, Sum).await.expect_err("a member has left");
                assert!(matches!(error.kind(), ErrorKind::PeerLeft(_)) && error.peer() == Some(1), "{error}");
                Ok(())
            });
            assert!(executor.run(first), "{wire:?}: somebody waits for a rank that has left");
        }
    }
}

#[test]
fn a_communicator_that_one_rank_drops_ends_for_those_that_wait_in_it() {
    for early in [false, true] {
        let bench = Bench::new(2, Wire::Memory);
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let mut executor = Executor::default();
        executor.must(async {
            let part = zero.duplicate()?;
            if early {
                drop(part);
                return zero.send(1, 9, &[1u8]).await;
            }
            zero.recv(1, 9, &mut [0u8]).await?;
            drop(part);
            Ok(())
        });
        executor.must(async {
            if early {
                one.recv(0, 9, &mut [0u8]).await?;
            }
            let part = one.duplicate()?;
            let mut never = [0u8];
            let waits = part.recv(0, 0, &mut never);
            if !early {
                one.send(0, 9, &[1u8]).await?;
            }
            let error = waits.await.expect_err("the other rank has left it");
            assert!(matches!(error.kind(), ErrorKind::PeerLeft(_)), "{error}");
            // The communicator that it was made of goes on.
            one.send(1, 1, &[1u8]).await?;
            one.recv(1, 1, &mut [0u8]).await.map(drop)
        });
        assert!(executor.run(first), "somebody waits for a rank that has left");
    }
}

#[test]
fn ranks_wait_for_one_that_computes_and_say_so_and_a_circle_ends() {
    let bench = Bench::new(3, Wire::Memory);
    let [zero, one, two] = &bench.comms[..] else { panic!("three ranks") };
    let mut sums = [[0u64]; 3];
    let [first_sum, second_sum, third_sum] = &mut sums;
    let mut executor = Executor::default();
    executor.must(zero.allreduce(&[1], first_sum, Sum));
    executor.must(one.allreduce(&[2], second_sum, Sum));
    for _ in 0..600 {
        bench.hands.pass(Duration::from_secs(1));
        executor.run(first);
    }
    assert_eq!(executor.left(), 2, "they wait for rank 2, which computes");
    executor.must(two.allreduce(&[4], third_sum, Sum));
    assert!(executor.run(first));
    drop(executor);
    assert_eq!(sums, [[7]; 3]);

    let (mut here, mut there) = ([0u8], [0u8]);
    let mut executor = Executor::default();
    executor.spawn(async {
        let error = zero.recv(1, 0, &mut here).await.expect_err("rank 1 waits as well");
        let ErrorKind::Deadlock(waits) = error.kind() else { panic!("{error}") };
        assert_eq!(waits, "rank 0 waits for rank 1 in recv, which waits for rank 0 in recv");
    });
    executor.spawn(async {
        one.recv(0, 0, &mut there).await.expect_err("rank 0 waits as well");
    });
    for second in 0..60 {
        assert!(second > 28 || executor.left() == 2, "a circle is not evident after {second} s");
        bench.hands.pass(Duration::from_secs(1));
        executor.run(first);
    }
    assert_eq!(executor.left(), 0, "they would wait until the end of time");
}

#[test]
fn one_that_leaves_takes_no_wake_up_from_operations_of_others() {
    // A narrow pipe, so that both wait for room at once.
    let bench = Bench::new(2, Wire::Pipe(64));
    let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
    let (long, mut got) = (vec![5u8; 4000], vec![0u8; 4000]);
    let mut executor = Executor::default();
    let send = executor.must(zero.send(1, 1, &long));
    executor.poll(send);
    let leaving = executor.must(async {
        let part = zero.duplicate()?;
        part.leave().await;
        Ok(())
    });
    executor.poll(leaving);
    executor.must(one.recv(0, 1, &mut got));
    executor.must(async { one.duplicate().map(drop) });
    executor.run(first);
    drop(executor);
    assert!(got == long, "the send was not woken");
}
