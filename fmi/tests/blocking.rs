//! Goal: programs without a runtime can do all that others can, several operations at once included. Method: ranks in one
//! process, a thread each.

use std::time::Duration;

use fmi::blocking::{Communicator, Persistent};
use fmi::op::{Max, Sum};
use fmi::request::{Request, Requests};
use fmi::{ErrorKind, Result, Source, Tag};

/// Runs `program` on each rank of a group.
fn group(size: u32, program: impl Fn(Communicator) -> Result<()> + Sync) {
    let ranks = Communicator::local(size).expect("runtimes");
    let program = &program;
    std::thread::scope(|threads| {
        let running: Vec<_> = ranks.into_iter().map(|comm| threads.spawn(move || program(comm))).collect();
        for rank in running {
            rank.join().expect("no panic").unwrap_or_else(|error| panic!("{error}"));
        }
    });
}

#[test]
fn messages_and_probes() {
    group(2, |comm| {
        let peer = 1 - comm.rank();
        comm.send_owned(peer, 1, vec![comm.rank(), 7])?;
        let (got, status) = comm.recv_vec::<u32>(peer, 1)?;
        assert_eq!((got, status.count), (vec![peer, 7], 2));
        assert_eq!(comm.try_probe(peer, 3)?, None, "it is sent after the barrier");
        comm.barrier()?;
        comm.send(peer, 3, &[comm.rank()])?;
        assert_eq!(comm.probe(Source::Any, 3)?.source, peer);
        let message = comm.matched_probe(peer, Tag::Any)?;
        assert!(comm.try_matched_probe(peer, 3)?.is_none(), "it has been taken");
        let mut got = [0u32];
        message.recv(&mut got)?;
        assert_eq!(got, [peer]);
        let (got, status) = (comm.send(peer, 4, &[5u8]), comm.recv_owned(peer, 4, vec![0u8; 9])?);
        got?;
        assert_eq!(status.0, [5]);
        comm.leave();
        Ok(())
    });
}

#[test]
fn communicators_are_split_duplicated_and_cloned() {
    group(4, |comm| {
        let part = comm.split(Some(comm.rank() % 2), 0)?.expect("a color was given");
        let twin = part.duplicate()?;
        let low = comm.group().include(&[0, 1]);
        let low = comm.create_group(&low, 0)?;
        assert_eq!(low.is_some(), comm.rank() < 2);
        let clone = comm.clone();
        for comm in [&part, &twin, &clone] {
            let mut sum = [0];
            comm.allreduce(&[1], &mut sum, Sum)?;
            assert_eq!(sum, [comm.size()]);
        }
        // A thread of its own for a clone.
        std::thread::scope(|threads| threads.spawn(|| twin.barrier()).join().expect("no panic"))?;
        comm.barrier()
    });
}

#[test]
fn values_travel() {
    group(3, |comm| {
        let told = comm.broadcast_value((comm.rank() == 1).then_some(&"one".to_owned()), 1)?;
        assert_eq!(told, "one");
        assert_eq!(comm.allgather_value(&(comm.rank(), 'r'))?, [(0, 'r'), (1, 'r'), (2, 'r')]);
        assert_eq!(comm.gather_value(&comm.rank(), 2)?.len(), if comm.rank() == 2 { 3 } else { 0 });
        if comm.rank() == 0 {
            comm.send_value(1, 0, &vec![Some(1.5)])?;
        } else if comm.rank() == 1 {
            assert_eq!(comm.recv_value::<Vec<Option<f64>>>(0, 0)?.0, [Some(1.5)]);
        }
        comm.barrier()
    });
}

struct Trainer {
    comm: Communicator,
    sum: Persistent<u32, Sum>,
    most: Persistent<u32, Max>,
}

#[test]
fn persistent_operations_live_next_to_their_communicator() {
    group(3, |comm| {
        let trainer = Trainer { sum: comm.allreduce_init(1, Sum), most: comm.allreduce_in_place_init(1, Max), comm };
        let peer = (trainer.comm.rank() + 1) % 3;
        let (send, receive) = (trainer.comm.send_init(peer, 0)?, trainer.comm.recv_init(Source::Any, 0)?);
        for turn in 0..10 {
            let (own, mut sum, mut most, mut got) = ([turn], [0], [trainer.comm.rank()], [0]);
            // In another order on each rank.
            trainer.comm.scope(|scope| {
                if trainer.comm.rank() == 0 {
                    drop(scope.start(trainer.most.inner().start_in_place(&mut most)));
                    drop(scope.start(trainer.sum.inner().start(&own, &mut sum)));
                } else {
                    drop(scope.start(trainer.sum.inner().start(&own, &mut sum)));
                    drop(scope.start(trainer.most.inner().start_in_place(&mut most)));
                }
                Ok(())
            })?;
            assert_eq!((sum, most), ([3 * turn], [2]));
            send.start(&[turn])?;
            receive.start(&mut got)?;
            assert_eq!(got, [turn]);
        }
        Ok(())
    });
}

#[test]
fn what_is_started_in_a_scope_is_waited_for_in_any_order() {
    group(3, |comm| {
        let length = 1 << 18;
        let (next, previous) = ((comm.rank() + 1) % 3, (comm.rank() + 2) % 3);
        let (own, mut got, mut sum, mut all) = (vec![comm.rank(); length], vec![9; length], [0; 2], vec![0; 3]);
        let seven = comm.scope(|scope| {
            let receive = scope.start(comm.inner().recv(previous, 1, &mut got));
            let send = scope.start(comm.inner().send(next, 1, &own));
            let reduce = scope.start(comm.inner().allreduce(&own[..2], &mut sum, Sum));
            let gather = scope.start(comm.inner().allgather(&own[..1], &mut all));
            // Each rank waits for another one first.
            match comm.rank() {
                0 => scope.wait(gather)?,
                1 => scope.wait(send)?,
                _ => scope.wait(reduce)?,
            }
            let mut receive = receive;
            while scope.test(&mut receive)?.is_none() {}
            Ok(7)
        })?;
        assert!(got.iter().all(|it| *it == previous));
        assert_eq!((seven, sum, all), (7, [3, 3], vec![0, 1, 2]));
        Ok(())
    });
}

#[test]
fn a_scope_tells_the_error_of_what_was_not_waited_for() {
    group(1, |comm| {
        let mut place = [0u8];
        let quickly = comm.with_deadline(Duration::ZERO);
        let error = comm.scope(|scope| {
            drop(scope.start(quickly.inner().recv(0, 0, &mut place)));
            Ok(())
        });
        assert!(matches!(error.expect_err("nothing was sent").kind(), ErrorKind::Deadline { .. }));
        let mut place = [0u8];
        let error = comm.scope(|scope| {
            let held = scope.start(quickly.inner().recv(0, 0, &mut place));
            scope.wait_for_all();
            drop(held);
            Ok(())
        });
        assert!(matches!(error.expect_err("nothing was sent").kind(), ErrorKind::Deadline { .. }));
        // What is forgotten ends all the same, before its buffer is free.
        let mut place = [0u8];
        comm.scope(|scope| {
            std::mem::forget(scope.start(comm.inner().recv(0, 1, &mut place)));
            comm.send(0, 1, &[8u8])
        })?;
        assert_eq!(place, [8]);
        comm.barrier()
    });
}

#[test]
fn requests_are_waited_for_one_by_one_or_together() {
    group(2, |comm| {
        let peer = 1 - comm.rank();
        let mut places = [[0u32]; 3];
        let mut receives: Requests<_> =
            places.iter_mut().zip(0..).map(|(place, tag)| comm.inner().recv(peer, tag, place)).collect();
        let sends: Vec<Request<'_>> = vec![
            comm.inner().send_owned(peer, 2, vec![2u32]).into(),
            comm.inner().barrier().into(),
            comm.inner().send_owned(peer, 0, vec![0u32]).into(),
        ];
        for result in comm.wait_all(sends) {
            result?;
        }
        let mut ended = vec![comm.wait_any(&mut receives).expect("three were added").0];
        while ended.len() < 2 {
            ended.extend(comm.wait_some(&mut receives).into_iter().map(|(number, _)| number));
        }
        ended.sort_unstable();
        assert_eq!(ended, [0, 2]);
        comm.barrier()?;
        let mut last = comm.inner().recv_vec::<u32>(peer, 3);
        comm.send(peer, 3, &[3u32])?;
        let got = loop {
            if let Some(result) = comm.test(&mut last) {
                break result?.0;
            }
        };
        assert_eq!(got, [3]);
        comm.send(peer, 1, &[1u32])?;
        assert_eq!(comm.wait_any(&mut receives).expect("one is left").0, 1);
        Ok(())
    });
}

#[test]
fn deadlines_are_set_for_a_communicator_or_for_single_calls() {
    group(1, |comm| {
        let twin = comm.duplicate()?;
        let error = comm.with_deadline(Duration::from_millis(1)).probe(0, 0).expect_err("nothing was sent");
        assert!(
            matches!(error.kind(), ErrorKind::Deadline { after, .. } if *after == Duration::from_millis(1)),
            "{error}"
        );
        let clone = comm.clone();
        comm.set_deadline(Duration::from_millis(2));
        let error = clone.recv::<u8>(0, 0, &mut []).expect_err("nothing was sent");
        assert!(
            matches!(error.kind(), ErrorKind::Deadline { after, .. } if *after == Duration::from_millis(2)),
            "{error}"
        );
        twin.send(0, 0, &[1u8])?;
        twin.recv(0, 0, &mut [0u8])?;
        comm.barrier()
    });
}
