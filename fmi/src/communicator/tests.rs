//! Goal: operations end by what happens on their connections, whatever is called, awaited, polled or dropped in which
//! order; and bad input costs only the one that sent it. Method: ranks in one process over narrow pipes and over
//! memory, on an executor that polls only what was woken, while the clock stands still.

use futures_util::future::{join, join_all, try_join_all};
use proptest::prelude::*;

use super::harness::{Bench, Executor, Wire};
use super::*;
use crate::channel::stream::testing::Pipe;
use crate::net::ByteStream;
use crate::net::framed::Framed;
use crate::op::Sum;
use crate::proto::rendezvous::{SERVER_MESSAGE_BYTES_MAX, ServerMessage};

mod long;

const WIRES: [Wire; 6] =
    [Wire::Pipe(64), Wire::Pipe(1 << 16), Wire::Memory, Wire::Store(100), Wire::Store(1 << 16), Wire::LazyStore(100)];

fn first(_: usize) -> usize {
    0
}

fn last(due: usize) -> usize {
    due - 1
}

#[test]
fn every_sender_that_floods_a_receive_from_any_source_is_heard() {
    for wire in WIRES {
        const SENDERS: u32 = 8;
        const MESSAGES: u64 = 40;
        let bench = Bench::new(SENDERS + 1, wire);
        let mut executor = Executor::default();
        for comm in &bench.comms[1..] {
            executor.must(async move {
                for number in 0..MESSAGES {
                    comm.send(0, 1, &[u64::from(comm.rank()), number]).await?;
                }
                Ok(())
            });
        }
        executor.must(async {
            let mut heard = [0u64; SENDERS as usize + 1];
            for _ in 0..u64::from(SENDERS) * MESSAGES {
                let mut got = [0u64; 2];
                let status = bench.comms[0].recv(Source::Any, Tag::Any, &mut got).await?;
                let rank = status.source as usize;
                assert_eq!(got, [u64::from(status.source), heard[rank]], "in order from each");
                heard[rank] += 1;
                let (least, most) = (heard[1..].iter().min(), heard[1..].iter().max());
                // Whoever has more to send is not passed over for long. The senders are as fast as each other.
                let apart = most.expect("some") - least.expect("some");
                assert!(apart <= 24, "{heard:?}");
            }
            Ok(())
        });
        assert!(executor.run_in_rounds(), "{wire:?}: somebody was not woken");
    }
}

#[test]
fn a_probe_and_a_receive_from_anywhere_find_what_one_peer_sends() {
    for wire in WIRES {
        let bench = Bench::new(2, wire);
        let mut executor = Executor::default();
        executor.must(async {
            for number in 0..20u32 {
                bench.comms[1].send(0, number, &[number]).await?;
                bench.comms[1].recv(0, 100, &mut [0u8]).await?;
            }
            Ok(())
        });
        executor.must(async {
            for number in 0..20 {
                let comm = &bench.comms[0];
                assert_eq!(comm.probe(Source::Any, Tag::Any).await?.tag, number);
                let message = comm.matched_probe(Source::Any, Tag::Any).await?;
                let mut got = [0u32];
                message.recv(&mut got).await?;
                assert_eq!(got, [number]);
                comm.send(1, 100, &[0u8]).await?;
            }
            Ok(())
        });
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
    }
}

#[test]
fn the_front_of_a_dropped_receive_comes_back_before_the_rest() {
    let long: Vec<u8> = (0..2000u32).map(|index| (index % 251) as u8).collect();
    let bench = Bench::new(2, Wire::Pipe(64));
    let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
    let (mut buffer, mut whole, mut small) = (vec![0u8; long.len()], vec![0u8; long.len()], [0u8]);
    let mut executor = Executor::default();
    let send = executor.must(zero.send(1, 1, &long));
    let dropped = executor.must(one.recv(0, 1, &mut buffer));
    // Some of the message is read into the first buffer.
    for _ in 0..4 {
        executor.poll(send);
        executor.poll(dropped);
    }
    // Another operation wants what is behind it, and puts the rest aside.
    executor.must(zero.send(1, 2, &[7u8]));
    let behind = executor.must(one.recv(0, 2, &mut small));
    for _ in 0..60 {
        executor.poll(send);
        executor.poll(behind);
    }
    executor.cancel(dropped);
    executor.must(one.recv(0, 1, &mut whole));
    assert!(executor.run(first), "somebody was not woken");
    drop(executor);
    assert_eq!(small, [7]);
    assert!(whole == long, "the message came out changed");
}

#[test]
fn an_operation_whose_first_poll_meets_the_frame_of_another_one_is_woken() {
    for wire in WIRES {
        for backwards in [false, true] {
            let bench = Bench::new(2, wire);
            let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
            let (long, mut first_got, mut second_got) = (vec![3u64; 500], vec![0u64; 500], [0u64]);
            let mut executor = Executor::default();
            executor.must(zero.send(1, 1, &long));
            executor.must(zero.send(1, 2, &[9u64]));
            let long_one = one.recv(0, 1, &mut first_got);
            let short_one = one.recv(0, 2, &mut second_got);
            // Each in a task of its own; the second one is polled before the first one ever is.
            let short_task = executor.must(short_one);
            executor.poll(short_task);
            executor.must(long_one);
            assert!(executor.run(if backwards { last } else { first }), "{wire:?}: somebody was not woken");
            drop(executor);
            assert_eq!((first_got, second_got), (long, [9]));
        }
    }
}

#[test]
fn a_send_beside_a_lone_collective_is_woken() {
    for wire in WIRES {
        let bench = Bench::new(2, wire);
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let (data, mut all, mut got) = (vec![1u64; 3000], [vec![0u64; 3000], vec![0u64; 3000]], vec![0u64; 3000]);
        let [here, there] = &mut all;
        let mut executor = Executor::default();
        let collective = executor.must(zero.allreduce(&data, here, Sum));
        executor.poll(collective);
        executor.must(zero.send(1, 5, &data));
        executor.must(join_both(one.allreduce(&data, there, Sum), one.recv(0, 5, &mut got)));
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
    }
}

async fn join_both<A, B>(
    one: impl Future<Output = Result<A>>,
    other: impl Future<Output = Result<B>>,
) -> Result<(A, B)> {
    let (one, other) = join(one, other).await;
    Ok((one?, other?))
}

#[test]
fn a_receive_behind_a_long_message_does_not_wait_busily() {
    let bench = Bench::new(2, Wire::Pipe(1 << 10));
    let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
    let (long, mut got, mut small) = (vec![1u8; 100_000], vec![0u8; 100_000], [0u8]);
    let mut executor = Executor::default();
    let send = executor.must(zero.send(1, 1, &long));
    executor.must(one.recv(0, 1, &mut got));
    executor.must(one.recv(0, 2, &mut small));
    let before = executor.polls;
    executor.poll(send);
    // The rest of the long message does not come: whoever waits for it is left alone.
    while executor.poll_woken_but(send) {
        assert!(executor.polls - before < 50, "receives are polled again and again while nothing comes");
    }
    executor.must(zero.send(1, 2, &[1u8]));
    assert!(executor.run(first));
}

#[test]
fn an_operation_that_listens_does_not_wait_busily_at_the_frame_of_another() {
    let bench = Bench::new(3, Wire::Pipe(1 << 10));
    let [zero, one, two] = &bench.comms[..] else { panic!("three ranks") };
    let (long, mut got, mut other) = (vec![1u8; 100_000], vec![0u8; 100_000], [0u8]);
    let mut executor = Executor::default();
    let send = executor.must(one.send(0, 1, &long));
    let reading = executor.must(zero.recv(1, 1, &mut got));
    executor.must(zero.recv(2, 1, &mut other));
    executor.poll(reading);
    // After a while, whoever waits hears what all have to say.
    bench.hands.pass(Duration::from_secs(2));
    while executor.poll_woken_but(send) {}
    let before = executor.polls;
    executor.poll(send);
    executor.stall(reading);
    while executor.poll_woken_but(send) {
        assert!(executor.polls - before < 50, "it is polled again and again at a frame that is not its own");
    }
    executor.unstall(reading);
    executor.must(two.send(0, 1, &[1u8]));
    assert!(executor.run(first));
}

#[test]
fn many_outstanding_operations_cost_a_few_polls_each() {
    const COUNT: usize = 4000;
    for wire in [Wire::Pipe(1 << 16), Wire::Memory, Wire::Store(1 << 16)] {
        let bench = Bench::new(2, wire);
        let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
        let mut buffers = vec![[0u32]; COUNT];
        let values: Vec<[u32; 1]> = (0..).map(|number| [number]).take(COUNT).collect();
        let mut executor = Executor::default();
        for (buffer, tag) in buffers.iter_mut().zip(0..) {
            executor.must(one.recv(0, tag, buffer));
        }
        // The other way round than they were posted.
        for (value, tag) in values.iter().rev().zip((0..).take(COUNT).collect::<Vec<u32>>().into_iter().rev()) {
            executor.must(zero.send(1, tag, value));
        }
        let ended = executor.run_in_rounds();
        assert!(ended, "{wire:?}: somebody was not woken");
        // Each is polled once when it starts, and once or a few times to end.
        let polls = executor.polls;
        assert!(polls < 100 * COUNT as u64, "{polls} polls for {COUNT} messages");
        drop(executor);
        assert_eq!(buffers, values);
    }
}

#[test]
fn what_a_rendezvous_or_a_peer_makes_up_costs_nobody_else() {
    let (near, far) = tokio::io::duplex(1 << 10);
    let mut near = Some(near);
    let control = |rank: u32| {
        let near = near.take().filter(|_| rank == 0)?;
        let stream: Box<dyn ByteStream> = Box::new(Pipe(near, None));
        Some(Framed::new(stream, SERVER_MESSAGE_BYTES_MAX))
    };
    let bench = Bench::configured(3, Wire::Memory, |_| {}, control);
    let mut far = std::pin::pin!(far);
    let mut executor = Executor::default();
    executor.spawn(async move {
        use tokio::io::AsyncWriteExt;
        for rank in [3, 5000, u32::MAX] {
            let message = ServerMessage::Lost { session: [0; 16], rank }.emit();
            far.write_all(&message).await.expect("room");
        }
        // It stays open.
        std::future::pending::<()>().await;
    });
    for comm in &bench.comms {
        executor.must(async move {
            comm.barrier().await?;
            // A part of which rank 1 is no member, and its frame for it.
            let part = comm.split((comm.rank() != 1).then_some(0), 0).await?;
            match part {
                Some(part) if part.rank() == 0 => {
                    let (mut got, mut more) = ([0u8], [0u8]);
                    part.recv(Source::Any, Tag::Any, &mut got).await?;
                    part.recv(Source::Any, Tag::Any, &mut more).await?;
                    assert_eq!((got, more), ([7], [8]));
                }
                Some(part) => {
                    part.send(0, 0, &[7u8]).await?;
                    part.send(0, 0, &[8u8]).await?;
                }
                None => {}
            }
            Ok(())
        });
    }
    assert!(!executor.run(first), "the rendezvous stays");
    assert_eq!(executor.left(), 1, "all ranks are done");
}

#[test]
fn a_frame_of_a_stranger_to_its_communicator_ends_that_connection_alone() {
    let bench = Bench::new(3, Wire::Memory);
    let part = Members::part(
        Slot::checked(0, 3).expect("a slot"),
        [0, 2].into_iter().filter_map(|number| Slot::checked(number, 3)).collect(),
    );
    bench.comms[0].shared.with(|engine| engine.open(77, part.expect("a member")));
    // Rank 1 believes that it is a member of that part.
    let (whole, all) = (&bench.comms[1], Members::whole(1, 3));
    let stranger = whole.shared.with(|engine| whole.derived(engine, 77, all, Connections::complete()));
    let (mut got, mut never) = ([0u8], [0u8]);
    let mut executor = Executor::default();
    executor.must(stranger.send(0, 0, &[1u8]));
    executor.spawn(async {
        let error = bench.comms[0].recv(1, 0, &mut never).await.expect_err("its connection has ended");
        assert!(error.to_string().contains("of which it is no member"), "{error}");
    });
    executor.must(bench.comms[2].send(0, 0, &[5u8]));
    executor.must(bench.comms[0].recv(2, 0, &mut got));
    assert!(executor.run(first), "somebody was not woken");
    drop(executor);
    assert_eq!(got, [5]);
}

#[derive(Clone, Debug)]
enum Deed {
    /// A message of this length from a rank to another, which is received with its tag, its source or neither, or owned
    /// by one of its ends or both.
    Message {
        from: u32,
        to: u32,
        words: usize,
        by: u8,
    },
    /// A receive that is dropped after some polls. Its message is received again.
    Dropped {
        from: u32,
        to: u32,
        words: usize,
        polls: u8,
    },
    /// An allreduce of all.
    Reduce(usize),
    Barrier,
}

fn deed() -> impl Strategy<Value = Deed> {
    let pair = (0u32..3, 0u32..3);
    let words = prop_oneof![Just(0usize), 1usize..4, 100usize..400];
    prop_oneof![
        4 => (pair.clone(), words.clone(), 0u8..6)
            .prop_map(|((from, to), words, by)| Deed::Message { from, to, words, by }),
        2 => (pair, words.clone(), 0u8..6)
            .prop_map(|((from, to), words, polls)| Deed::Dropped { from, to, words, polls }),
        2 => words.prop_map(Deed::Reduce),
        1 => Just(Deed::Barrier),
    ]
}

fn words(number: usize, rank: u32, length: usize) -> Vec<u64> {
    (0..length).map(|index| (number * 1000 + index) as u64 ^ u64::from(rank) << 40).collect()
}

/// Receives a message after a receive of it was dropped that had been polled some times.
async fn receive_after_dropping(
    receiver: &Communicator,
    from: u32,
    number: usize,
    length: usize,
    polls: u8,
) -> Result<()> {
    let tag = tag_of(number);
    let mut lost = vec![0; length];
    let mut left = polls;
    let owned = polls.is_multiple_of(2).then(|| receiver.recv_vec::<u64>(from, tag));
    if let Some(mut receive) = owned {
        let ended = std::future::poll_fn(|cx| {
            left = left.saturating_sub(1);
            let poll = std::pin::Pin::new(&mut receive).poll(cx);
            if poll.is_ready() || left == 0 { Poll::Ready(poll) } else { Poll::Pending }
        });
        if let Poll::Ready(result) = ended.await {
            assert!(result?.0 == words(number, from, length), "message {number} came out changed");
            return Ok(());
        }
    } else {
        let mut receive = receiver.recv(from, tag, &mut lost);
        let ended = std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = std::pin::Pin::new(&mut receive).poll(cx) {
                return Poll::Ready(Some(result));
            }
            left = left.saturating_sub(1);
            if left == 0 { Poll::Ready(None) } else { Poll::Pending }
        });
        if let Some(result) = ended.await {
            result?;
            drop(receive);
            assert!(lost == words(number, from, length), "message {number} came out changed");
            return Ok(());
        }
    }
    let mut got = vec![0; length];
    receiver.recv(from, tag, &mut got).await?;
    assert!(got == words(number, from, length), "message {number} came out changed");
    Ok(())
}

fn tag_of(number: usize) -> u32 {
    u32::try_from(number).expect("few deeds")
}

/// Calls the operations of a deed, a task for each.
fn call<'a>(executor: &mut Executor<'a>, bench: &'a Bench, number: usize, deed: &Deed) {
    let tag = tag_of(number);
    match *deed {
        Deed::Message { from, to, words: length, by } => {
            let (sender, receiver) = (&bench.comms[from as usize], &bench.comms[to as usize]);
            let data = words(number, from, length);
            // The call has its place now; the task makes it progress.
            if by < 4 {
                executor.must(async move { sender.send(to, tag, &data).await });
            } else {
                executor.must(sender.send_owned(to, tag, data));
            }
            executor.must(async move {
                let mut got = vec![0; length];
                let status = match by {
                    0 | 4 => receiver.recv(from, tag, &mut got).await?,
                    1 => receiver.recv(Source::Any, tag, &mut got).await?,
                    2 => receiver.matched_probe(Source::Any, tag).await?.recv(&mut got).await?,
                    _ => {
                        let (owned, status) = receiver.recv_vec(Source::Any, tag).await?;
                        got = owned;
                        status
                    }
                };
                assert_eq!((status.source, status.tag, status.count), (from, tag, length));
                assert!(got == words(number, from, length), "message {number} came out changed");
                Ok(())
            });
        }
        Deed::Dropped { from, to, words: length, polls } => {
            let (sender, receiver) = (&bench.comms[from as usize], &bench.comms[to as usize]);
            let data = words(number, from, length);
            executor.must(async move { sender.send(to, tag, &data).await });
            executor.must(receive_after_dropping(receiver, from, number, length, polls));
        }
        Deed::Reduce(length) => {
            for comm in &bench.comms {
                let spec = (words(number, comm.rank(), length), length);
                executor.must(async move {
                    let (data, length) = spec;
                    let mut sum = vec![0; length];
                    comm.allreduce(&data, &mut sum, Sum).await?;
                    let all: Vec<_> = (0..3).map(|rank| words(number, rank, length)).collect();
                    let expected = |index: usize| all.iter().fold(0u64, |sum, it| sum.wrapping_add(it[index]));
                    assert!((0..length).all(|index| sum[index] == expected(index)), "allreduce {number}");
                    Ok(())
                });
            }
        }
        Deed::Barrier => {
            for comm in &bench.comms {
                executor.must(comm.barrier());
            }
        }
    }
}

/// Calls all operations in order on each rank, and polls their tasks in a drawn order.
fn play(deeds: &[Deed], (wire, eager): (Wire, u64), draws: &[usize]) {
    let bench = Bench::configured(3, wire, |config| config.eager_bytes_max = eager, |_| None);
    let mut executor = Executor::default();
    for (number, deed) in deeds.iter().enumerate() {
        call(&mut executor, &bench, number, deed);
        // An async block calls its operation at its first poll: in the order of the list.
        executor.start_new();
    }
    let mut draws = draws.iter().cycle();
    let all_ended = executor.run(|_| *draws.next().expect("some"));
    assert!(all_ended, "{} tasks wait for what has come", executor.left());
    drop(executor);
    for comm in &bench.comms {
        comm.shared.with(|engine| engine.group.check_invariants());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_is_called_polled_and_dropped_everything_ends_with_what_was_sent(
        deeds in proptest::collection::vec(deed(), 1..14),
        width in prop_oneof![
            Just(Wire::Pipe(1)), Just(Wire::Pipe(64)), Just(Wire::Pipe(5000)), Just(Wire::Memory), Just(Wire::Store(100)),
            Just(Wire::Store(5000)), Just(Wire::LazyStore(100)), Just(Wire::LazyStore(2000)),
        ],
        eager in prop_oneof![Just(1u64), Just(20), Just(300), Just(1 << 18)],
        draws in proptest::collection::vec(0usize..64, 1..40),
    ) {
        play(&deeds, (width, eager), &draws);
    }
}

#[test]
fn receives_outstanding_for_any_source_share_what_comes() {
    for wire in WIRES {
        let bench = Bench::new(4, wire);
        let mut executor = Executor::default();
        for comm in &bench.comms[1..] {
            executor.must(async move {
                for number in 0..30u64 {
                    comm.send(0, 3, &[number]).await?;
                }
                Ok(())
            });
        }
        executor.must(async {
            let mut buffers = [[0u64]; 90];
            let receives = buffers.iter_mut().map(|buffer| bench.comms[0].recv(Source::Any, 3, buffer));
            let statuses = try_join_all(receives).await?;
            let mut heard = [0u64; 4];
            for (status, buffer) in statuses.iter().zip(buffers) {
                // Receives are served in the order of their calls, messages of one rank in theirs.
                assert_eq!(buffer, [heard[status.source as usize]]);
                heard[status.source as usize] += 1;
            }
            Ok(())
        });
        assert!(executor.run_in_rounds(), "{wire:?}: somebody was not woken");
    }
}

#[test]
fn a_receive_from_any_source_outlives_a_peer_that_leaves() {
    for wire in WIRES {
        let mut bench = Bench::new(3, wire);
        drop(bench.comms.remove(1));
        let [zero, two] = &bench.comms[..] else { panic!("two are left") };
        let mut any = [0u8];
        let mut executor = Executor::default();
        // It is the only operation, so it meets the end of that connection itself.
        let receive = executor.must(zero.recv(Source::Any, Tag::Any, &mut any));
        executor.poll(receive);
        executor.must(two.send(0, 1, &[2u8]));
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
        drop(executor);
        assert_eq!(any, [2]);
    }
}

#[test]
fn operations_that_ended_take_no_wake_up_from_one_that_waits() {
    for wire in WIRES {
        let bench = Bench::new(3, wire);
        let [zero, one, two] = &bench.comms[..] else { panic!("three ranks") };
        let mut late = [0u8];
        let mut executor = Executor::default();
        executor.must(zero.recv(1, 1, &mut late));
        executor.must(async {
            for number in 0..200u32 {
                two.send(0, 2, &[number]).await?;
            }
            Ok(())
        });
        executor.must(async {
            for number in 0..200 {
                let mut got = [0u32];
                zero.recv(Source::Any, 2, &mut got).await?;
                assert_eq!(got, [number]);
            }
            Ok(())
        });
        assert!(!executor.run(first), "one waits");
        executor.must(one.send(0, 1, &[7u8]));
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
        drop(executor);
        assert_eq!(late, [7]);
    }
}

#[test]
fn operations_that_are_held_and_never_polled_hide_no_deadline() {
    let bench = Bench::new(2, Wire::Memory);
    let comm = &bench.comms[0];
    comm.set_deadline(Duration::from_secs(30));
    let (mut got, mut buffers) = ([0u8], [[0u8]; 100]);
    let mut executor = Executor::default();
    executor.spawn(async {
        let error = comm.recv(1, 1000, &mut got).await.expect_err("nothing is sent");
        assert!(matches!(error.kind(), ErrorKind::Deadline { .. }), "{error}");
    });
    for (buffer, tag) in buffers.iter_mut().zip(0..) {
        let held = executor.spawn(async move { drop(comm.recv(1, tag, buffer).await) });
        executor.poll(held);
        executor.stall(held);
    }
    assert!(!executor.run(first));
    for _ in 0..40 {
        bench.hands.pass(Duration::from_secs(1));
        executor.run(first);
    }
    assert_eq!(executor.left(), 100, "the one that is polled has ended by its deadline");
}

#[test]
fn a_group_of_others_makes_no_communicator() {
    let (bench, small) = (Bench::new(5, Wire::Memory), Bench::new(2, Wire::Memory));
    let error = small.comms[0].create_group(&bench.comms[0].group(), 1).expect_err("of another job");
    assert!(error.to_string().contains("is not in this communicator"), "{error}");
}

#[test]
fn an_operator_that_panics_on_one_rank_gives_no_rank_a_wrong_result() {
    let bench = Bench::new(7, Wire::Memory);
    let mut executor = Executor::default();
    for comm in &bench.comms {
        executor.spawn(async move {
            let me = comm.rank();
            let sum = move |left: u64, right: u64| {
                assert!(me != 2, "no such number");
                left + right
            };
            let mut all = [0];
            let operator = crate::op::Custom::commutative(2000, sum);
            match comm.allreduce(&[1u64 << me], &mut all, operator).await {
                Ok(()) => assert_eq!(all, [127], "rank {me}"),
                Err(error) => assert!(error.to_string().contains("operator panicked"), "{error}"),
            }
        });
    }
    executor.run(first);
    // Ranks that wait for others hear of it when they have waited for a while.
    bench.hands.pass(Duration::from_secs(1));
    assert!(executor.run(first), "somebody was not told");
}

#[test]
fn an_operator_that_panics_or_or_calls_its_communicator_fails_the_operation_on_all_ranks() {
    for calls in [false, true] {
        let bench = Bench::new(2, Wire::Memory);
        let mut executor = Executor::default();
        for comm in &bench.comms {
            executor.spawn(async move {
                let own = comm.clone();
                let bad = move |left: u64, _: u64| {
                    if calls {
                        own.links().count();
                    } else {
                        assert!(left == 0, "no such number");
                    }
                    left
                };
                let mut sum = [0];
                let operator = crate::op::Custom::commutative(2000, bad);
                let error = comm.allreduce(&[7u64], &mut sum, operator).await.expect_err("it panics");
                let text = error.to_string();
                assert!(text.contains("the operator panicked"), "{text}");
                assert!(
                    text.contains(if calls { "must not use the communicator" } else { "no such number" }),
                    "{text}"
                );
                let error = comm.barrier().await.expect_err("the communicator has failed");
                assert!(matches!(error.kind(), ErrorKind::Revoked(_)), "{error}");
            });
        }
        assert!(executor.run(first), "somebody was not woken");
    }
}

#[test]
#[cfg(feature = "values")]
fn wrong_arguments_change_nothing() {
    let bench = Bench::new(2, Wire::Memory);
    let mut executor = Executor::default();
    for comm in &bench.comms {
        executor.must(async move {
            let me = comm.rank();
            for error in [
                comm.broadcast_value::<u32>(None, me).await.expect_err("the root has none"),
                comm.broadcast_value(Some(&1), 2).await.expect_err("no such root"),
                comm.gather_value(&1, 2).await.map(drop).expect_err("no such root"),
                comm.broadcast(&mut [0u8], 2).await.expect_err("no such root"),
            ] {
                assert!(matches!(error.kind(), ErrorKind::InvalidArgument(_)), "{error}");
            }
            assert_eq!(comm.broadcast_value((me == 1).then_some(&7), 1).await?, 7, "it works as before");
            comm.barrier().await
        });
    }
    assert!(executor.run(first), "somebody was not woken");
}

#[test]
fn the_deadline_ends_an_operation_and_nothing_else_does() {
    let bench = Bench::new(2, Wire::Memory);
    let (mut got, result) = ([0u8], std::cell::RefCell::new(None));
    let deadline = Duration::from_secs(30);
    bench.comms[0].set_deadline(deadline);
    let mut executor = Executor::default();
    executor.spawn(async {
        let error = bench.comms[0].recv(1, 0, &mut got).await.expect_err("nothing was sent");
        *result.borrow_mut() = Some(error);
    });
    assert!(!executor.run(first));
    bench.hands.pass(deadline - Duration::from_millis(1));
    assert!(!executor.run(first), "not before its time");
    bench.hands.pass(Duration::from_millis(1));
    assert!(executor.run(first), "its deadline has passed");
    drop(executor);
    let error = result.take().expect("an error");
    assert!(matches!(error.kind(), ErrorKind::Deadline { after, .. } if *after == deadline), "{error}");
    assert_eq!(error.peer(), Some(1));
}

#[test]
fn a_peer_that_leaves_ends_what_waits_for_it_and_nothing_else() {
    let mut bench = Bench::new(3, Wire::Memory);
    drop(bench.comms.remove(1));
    let [zero, two] = &bench.comms[..] else { panic!("two are left") };
    let (mut never, mut got, mut any) = ([0u8], [0u8], [0u8]);
    let mut executor = Executor::default();
    executor.spawn(async {
        let error = zero.recv(1, 0, &mut never).await.expect_err("it has left");
        assert_eq!((error.peer(), error.is_retryable()), (Some(1), true), "{error}");
    });
    executor.must(zero.recv(2, 0, &mut got));
    executor.must(zero.recv(Source::Any, 1, &mut any));
    executor.must(async {
        drop(join_all([two.send(0, 0, &[1u8]), two.send(0, 1, &[2u8])]).await);
        Ok(())
    });
    assert!(executor.run(first), "somebody was not woken");
    drop(executor);
    assert_eq!((got, any), ([1], [2]));
}

#[test]
fn operations_that_have_ended_are_listed_nowhere() {
    for wire in WIRES {
        let bench = Bench::new(2, wire);
        let mut executor = Executor::default();
        for comm in &bench.comms {
            executor.must(async move {
                let peer = 1 - comm.rank();
                let (short, mut out, mut long) = ([1u64; 16], [0u64; 16], vec![1u64; 40_000]);
                for turn in 0..5 {
                    comm.sendrecv((peer, &short[..]), (peer, &mut out[..]), 1).await?;
                    let enlisted = || comm.shared.with(|engine| engine.enlisted());
                    assert_eq!(enlisted(), 0, "turn {turn}: messages");
                    comm.barrier().await?;
                    assert_eq!(enlisted(), 0, "turn {turn}: a barrier");
                    comm.allreduce(&short[..], &mut out[..], Sum).await?;
                    assert_eq!(enlisted(), 0, "turn {turn}: a short collective");
                    comm.allreduce_in_place(&mut long, Sum).await?;
                    assert_eq!(enlisted(), 0, "turn {turn}: a long collective");
                }
                Ok(())
            });
        }
        assert!(executor.run(first), "{wire:?}: somebody was not woken");
    }
}
