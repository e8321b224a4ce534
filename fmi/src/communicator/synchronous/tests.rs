//! Goal: a synchronous send ends when a receive has got its message: not earlier, and not later. Method: ranks in one
//! process over wires of any width, on an executor that polls only what was woken; after each step the sends that are
//! done are compared with the receives that were called.

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::communicator::harness::{Bench, Executor, Wire};
use crate::communicator::{Destination, Invocation, Source, Status, Tag};
use crate::datatype::Datatype;
use crate::error::Operation;

// Word of a receive that has ended waits for a lazy store until its rank is polled again.
const WIRES: [Wire; 5] = [Wire::Pipe(64), Wire::Pipe(1 << 16), Wire::Memory, Wire::Store(100), Wire::Store(1 << 16)];

fn first(_: usize) -> usize {
    0
}

proptest! {
    #[test]
    fn the_sends_that_are_done_are_those_whose_messages_were_received(
        lengths in proptest::collection::vec(0usize..400, 1..6), picks: [u8; 6], wire in 0usize..3, from_any: [bool; 6],
    ) {
        let bench = Bench::new(2, WIRES[wire]);
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let (done, mut received) = (RefCell::new(BTreeSet::new()), BTreeSet::new());
        let data: Vec<Vec<u8>> = lengths.iter().map(|length| vec![7; *length]).collect();
        let mut buffers = data.clone();
        let mut executor = Executor::default();
        for (tag, data) in (0u32..).zip(&data) {
            let (send, done) = (zero.ssend(1, tag, data), &done);
            executor.must(async move {
                send.await?;
                done.borrow_mut().insert(tag);
                Ok(())
            });
        }
        executor.run(first);
        prop_assert!(done.borrow().is_empty(), "nobody has received");
        let mut open: Vec<(u32, &mut Vec<u8>)> = (0u32..).zip(&mut buffers).collect();
        for (pick, any) in picks.into_iter().zip(from_any) {
            if open.is_empty() {
                break;
            }
            let (tag, buffer) = open.remove(usize::from(pick) % open.len());
            received.insert(tag);
            executor.must(one.recv(if any { Source::Any } else { Source::Rank(0) }, tag, buffer));
            executor.run(first);
            prop_assert_eq!(&*done.borrow(), &received);
        }
    }
}

#[test]
fn a_probe_is_no_receive_and_a_matched_one_is_once_it_is_read() {
    for wire in WIRES {
        let bench = Bench::new(2, wire);
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let (done, mut word) = (RefCell::new(false), [0u8]);
        let (message, keep) = (RefCell::new(None), &RefCell::new(None));
        let mut executor = Executor::default();
        executor.must(async {
            zero.ssend(1, 3, &[9u8]).await?;
            *done.borrow_mut() = true;
            Ok(())
        });
        executor.must(async {
            one.probe(0, Tag::Any).await?;
            *message.borrow_mut() = Some(one.matched_probe(Source::Any, Tag::Any).await?);
            Ok(())
        });
        executor.run(first);
        assert!(!*done.borrow() && message.borrow().is_some(), "{wire:?}: a probe ended the send");
        let read = message.borrow_mut().take().expect("just seen").recv(&mut word);
        executor.must(read);
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
        assert!(*done.borrow());
        drop(executor);
        keep.replace(Some(word));
    }
}

#[test]
fn a_receive_that_is_called_and_not_polled_ends_the_send() {
    for wire in WIRES {
        let bench = Bench::new(2, wire);
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let mut word = [0u8];
        let called = one.recv(0, 3, &mut word);
        let mut executor = Executor::default();
        executor.must(async {
            zero.ssend(1, 3, &[9u8]).await?;
            zero.barrier().await
        });
        // It reads what comes; the receive is polled after it.
        executor.must(async {
            one.barrier().await?;
            called.await
        });
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
        drop(executor);
        assert_eq!(word, [9]);
    }
}

#[test]
fn word_of_a_receive_goes_out_behind_a_frame_that_is_partly_sent() {
    let bench = Bench::new(2, Wire::Pipe(64));
    let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
    let (long, mut got, mut word) = (vec![3u8; 5000], vec![0u8; 5000], [0u8]);
    let mut executor = Executor::default();
    // It fills the pipe, so that nothing else goes that way.
    let send = executor.must(one.send(0, 1, &long));
    executor.poll(send);
    executor.must(async {
        one.recv(0, 3, &mut word).await?;
        one.barrier().await
    });
    executor.must(async {
        zero.ssend(1, 3, &[9u8]).await?;
        zero.recv(1, 1, &mut got).await?;
        zero.barrier().await
    });
    assert!(executor.run(first), "somebody was not woken");
    drop(executor);
    assert_eq!((got, word), (long, [9]));
}

#[test]
fn what_goes_to_nobody_or_comes_from_nobody_is_done_at_once() {
    // Each sends to its upper neighbour, where there is one, and receives from the lower one in the same buffer.
    let bench = Bench::new(3, Wire::Memory);
    let mut buffers = [[10u32, 20], [11, 21], [12, 22]];
    let mut executor = Executor::default();
    for (comm, buffer) in bench.comms.iter().zip(&mut buffers) {
        executor.must(async move {
            let (up, down) = ((comm.rank() < 2).then(|| comm.rank() + 1), comm.rank().checked_sub(1));
            let status = comm.sendrecv_replace(buffer, up, down, 7).await?;
            let expected = down.map_or(Status::NOBODY, |source| Status { source, tag: 7, count: 2 });
            assert_eq!(status, expected);
            comm.ssend(Destination::Nobody, 1, buffer).await?;
            assert_eq!(comm.probe(Source::Nobody, 1).await?, Status::NOBODY);
            let message = comm.matched_probe(None, Tag::Any).await?;
            assert_eq!(message.recv(buffer).await?, Status::NOBODY);
            assert_eq!(comm.recv_vec::<u8>(None, 1).await?, (Vec::new(), Status::NOBODY));
            let call = Invocation::new(Operation::SendReceive, Datatype::of::<u32>()).to(None).source(None).tag(3);
            assert_eq!(comm.invoke(call.in_place(bytemuck::cast_slice_mut(buffer))).await?, Some(Status::NOBODY));
            Ok(())
        });
    }
    assert!(executor.run(first), "somebody was not woken");
    drop(executor);
    assert_eq!(buffers, [[10, 20], [10, 20], [11, 21]]);
}

#[test]
fn a_message_to_oneself_is_received_as_well() {
    let bench = Bench::new(1, Wire::Memory);
    let (comm, mut words) = (&bench.comms[0], [[0u8]; 2]);
    let [early, late] = &mut words;
    let mut executor = Executor::default();
    executor.must(comm.recv(0, 1, early));
    executor.must(comm.ssend(0, 1, &[5u8]));
    let waits = executor.must(comm.ssend(0, 2, &[6u8]));
    executor.run(first);
    assert_eq!(executor.left(), 1);
    executor.must(comm.recv(0, 2, late));
    executor.poll(waits);
    assert!(executor.run(first), "somebody was not woken");
    drop(executor);
    assert_eq!(words, [[5], [6]]);
}

#[test]
fn a_message_whose_sender_waits_no_longer_is_received_all_the_same() {
    for wire in WIRES {
        let bench = Bench::new(2, wire);
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let (mut word, data) = ([0u8], [8u8]);
        let mut executor = Executor::default();
        let send = executor.must(zero.ssend(1, 1, &data));
        executor.run(first);
        executor.cancel(send);
        executor.must(one.recv(0, 1, &mut word));
        // And the next ones are not taken for it.
        executor.must(async {
            zero.ssend(1, 2, &data).await?;
            zero.barrier().await
        });
        executor.must(async {
            one.recv(0, 2, &mut [0u8]).await?;
            one.barrier().await
        });
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
        drop(executor);
        assert_eq!(word, data);
    }
}
