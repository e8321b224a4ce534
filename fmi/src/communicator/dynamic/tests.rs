//! Goal: operations by value do what MPI says, in both forms and at any alignment, and wrong arguments change nothing.
//! Method: every collective of the table, against its definition ([`Operation::origin`]), on ranks in one process whose
//! tasks are polled only when they are woken.

use super::*;
use crate::Peers;
use crate::communicator::harness::{Bench, Executor, Wire};
use crate::op::{BuiltIn, Sum};
use crate::proto::operation::Layout;

fn value(rank: u32, index: usize) -> u64 {
    (u64::from(rank) << 32) + index as u64
}

/// The collectives that move data.
fn collectives() -> impl Iterator<Item = Operation> {
    Operation::ALL
        .iter()
        .copied()
        .filter(|operation| operation.class() == Class::Collective && operation.moves().is_some())
}

/// Lengths that differ from pair to pair where the operation has counts.
#[expect(clippy::wildcard_enum_match_arm, reason = "the others have blocks of one length")]
fn length(operation: Operation, from: u32, to: u32) -> usize {
    match operation {
        Operation::Alltoallv => (from * to) as usize % 4,
        Operation::Gatherv | Operation::Allgatherv => from as usize % 3,
        Operation::Scatterv | Operation::ReduceScatter => to as usize % 3,
        _ => 2,
    }
}

/// Bytes of elements, which begin at an odd address.
struct Odd(Vec<u8>);

impl Odd {
    fn of(elements: &[u64]) -> Self {
        // Memory is aligned, so what is one byte behind its start is not.
        Self([0u8].into_iter().chain(elements.iter().flat_map(|element| element.to_ne_bytes())).collect())
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.0[1..]
    }

    fn elements(&mut self) -> Vec<u64> {
        self.bytes().chunks(8).map(bytemuck::pod_read_unaligned).collect()
    }
}

/// The buffers and counts of a rank's call. In place, `receive` is the only buffer.
struct Call {
    root: u32,
    send: Vec<u64>,
    receive: Vec<u64>,
    to: Vec<usize>,
    from: Vec<usize>,
}

impl Call {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others count what they receive")]
    async fn by_value(&mut self, comm: &Communicator, operation: Operation, in_place: bool) -> Result<()> {
        let Self { root, send, receive, to, from } = self;
        let moves = operation.moves().expect("it moves data");
        let (mut sent, mut received) = (Odd::of(send), Odd::of(receive));
        let call = Invocation::new(operation, Datatype::of::<u64>()).root(*root);
        let call = if moves.combined { call.operator(BuiltIn::Sum) } else { call };
        let call = match operation {
            _ if !moves.counted => call,
            Operation::Scatterv => call.send_counts(to),
            Operation::Alltoallv if !in_place => call.send_counts(to).receive_counts(from),
            _ => call.receive_counts(from),
        };
        let call =
            if in_place { call.in_place(received.bytes()) } else { call.send(sent.bytes()).receive(received.bytes()) };
        assert_eq!(comm.invoke(call).await?, None, "a collective has no status");
        *receive = received.elements();
        Ok(())
    }

    async fn typed(&mut self, comm: &Communicator, operation: Operation, in_place: bool) -> Result<()> {
        let Self { root, send, receive, to, from } = self;
        let root = *root;
        match (operation, in_place) {
            (Operation::Barrier, false) => comm.barrier().await,
            (Operation::Broadcast, false) => comm.broadcast(receive, root).await,
            (Operation::Reduce, false) => comm.reduce(send, receive, Sum, root).await,
            (Operation::Reduce, true) => comm.reduce_in_place(receive, Sum, root).await,
            (Operation::Allreduce, false) => comm.allreduce(send, receive, Sum).await,
            (Operation::Allreduce, true) => comm.allreduce_in_place(receive, Sum).await,
            (Operation::Gather, false) => comm.gather(send, receive, root).await,
            (Operation::Gather, true) => comm.gather_in_place(receive, root).await,
            (Operation::Gatherv, false) => comm.gatherv(send, receive, from, root).await,
            (Operation::Gatherv, true) => comm.gatherv_in_place(receive, from, root).await,
            (Operation::Scatter, false) => comm.scatter(send, receive, root).await,
            (Operation::Scatter, true) => comm.scatter_in_place(receive, root).await,
            (Operation::Scatterv, false) => comm.scatterv(send, to, receive, root).await,
            (Operation::Scatterv, true) => comm.scatterv_in_place(receive, to, root).await,
            (Operation::Allgather, false) => comm.allgather(send, receive).await,
            (Operation::Allgather, true) => comm.allgather_in_place(receive).await,
            (Operation::Allgatherv, false) => comm.allgatherv(send, receive, from).await,
            (Operation::Allgatherv, true) => comm.allgatherv_in_place(receive, from).await,
            (Operation::Alltoall, false) => comm.alltoall(send, receive).await,
            (Operation::Alltoall, true) => comm.alltoall_in_place(receive).await,
            (Operation::Alltoallv, false) => comm.alltoallv(send, to, receive, from).await,
            (Operation::Alltoallv, true) => comm.alltoallv_in_place(receive, from).await,
            (Operation::ReduceScatterBlock, false) => comm.reduce_scatter_block(send, receive, Sum).await,
            (Operation::ReduceScatterBlock, true) => comm.reduce_scatter_block_in_place(receive, Sum).await,
            (Operation::ReduceScatter, false) => comm.reduce_scatter(send, receive, from, Sum).await,
            (Operation::ReduceScatter, true) => comm.reduce_scatter_in_place(receive, from, Sum).await,
            (Operation::Scan, false) => comm.scan(send, receive, Sum).await,
            (Operation::Scan, true) => comm.scan_in_place(receive, Sum).await,
            (Operation::Exscan, false) => comm.exscan(send, receive, Sum).await,
            (Operation::Exscan, true) => comm.exscan_in_place(receive, Sum).await,
            other => panic!("there is no {other:?}"),
        }
    }
}

#[derive(Clone, Copy)]
struct Play<'a> {
    operation: Operation,
    layout: &'a Layout<'a>,
    in_place: bool,
    by_value: bool,
}

impl Play<'_> {
    /// One rank's call, and a look at what it gets.
    async fn run(self, comm: &Communicator) -> Result<()> {
        let Self { operation, layout, in_place, by_value } = self;
        let me = comm.rank();
        let (sent, received) = layout.buffers(operation, me);
        let (length, own_at, result_at) =
            if in_place { layout.in_place(operation, me) } else { (received, usize::MAX, 0) };
        let is_source = operation == Operation::Broadcast && me == layout.root;
        let place = |index: usize| if is_source { Some(index) } else { index.checked_sub(own_at) };
        let before = |index| place(index).filter(|at| is_source || *at < sent).map_or(u64::MAX, |at| value(me, at));
        let to: Vec<usize> = (0..layout.size).map(|other| (layout.length)(me, other)).collect();
        let from = (0..layout.size).map(|other| (layout.length)(other, me)).collect();
        let from = if operation == Operation::ReduceScatter { to.clone() } else { from };
        let (send, receive) = ((0..sent).map(|index| value(me, index)).collect(), (0..length).map(before).collect());
        let mut call = Call { root: layout.root, send, receive, to, from };
        if by_value {
            call.by_value(comm, operation, in_place).await?;
        } else {
            call.typed(comm, operation, in_place).await?;
        }
        for (index, got) in call.receive[result_at..][..received].iter().enumerate() {
            let Some(origin) = operation.origin(layout, me, index) else { continue };
            let expected = origin.ranks.map(|rank| value(rank, origin.index)).fold(0, u64::wrapping_add);
            assert_eq!(*got, expected, "{operation}, in place {in_place}: element {index} of rank {me}");
        }
        Ok(())
    }
}

/// Plays an operation in each of its forms.
fn play(operation: Operation, size: u32, peers: Peers) {
    let moves = operation.moves().expect("it moves data");
    let length = |from, to| length(operation, from, to);
    let layout = Layout { size, root: size / 2, length: &length };
    for (in_place, by_value) in [(false, false), (false, true), (true, false), (true, true)] {
        if in_place && !moves.in_place {
            continue;
        }
        let play = Play { operation, layout: &layout, in_place, by_value };
        let bench = Bench::configured(size, Wire::Memory, |config| config.peers = peers, |_| None);
        let mut executor = Executor::default();
        for comm in &bench.comms {
            executor.must(play.run(comm));
        }
        assert!(executor.run(|_| 0), "{operation} among {size}: somebody was not woken");
    }
}

#[test]
fn every_collective_gives_what_its_definition_says() {
    for operation in collectives() {
        (1..6).for_each(|size| play(operation, size, Peers::All));
    }
}

#[test]
fn blocks_of_different_lengths_arrive_where_ranks_are_not_connected() {
    for operation in collectives().filter(|operation| operation.moves().is_some_and(|moves| moves.counted)) {
        play(operation, 11, Peers::Collectives);
    }
}

#[test]
fn messages_by_value_carry_their_tag_and_type() {
    let bench = Bench::new(2, Wire::Memory);
    let [zero, one] = &bench.comms[..] else { panic!("two ranks") };
    let of = Datatype::of::<u16>();
    let mut executor = Executor::default();
    executor.must(async {
        zero.invoke(Invocation::new(Operation::Send, of).to(1).tag(4).send(&[1, 2, 3, 4])).await?;
        let mut back = [0; 2];
        let call = Invocation::new(Operation::SendReceive, of).to(1).source(1).tag(5);
        let status = zero.invoke(call.send(&[5, 6]).receive(&mut back)).await?;
        assert_eq!((back, status.map(|status| status.count)), ([7, 8], Some(1)));
        Ok(())
    });
    executor.must(async {
        let status = one.invoke(Invocation::new(Operation::Probe, of)).await?;
        assert_eq!(status, Some(Status { source: 0, tag: 4, count: 4 }));
        let mut got = [0u16; 2];
        let call = Invocation::new(Operation::Receive, of).source(0).tag(4);
        one.invoke(call.receive(bytemuck::cast_slice_mut(&mut got))).await?;
        assert_eq!(bytemuck::cast_slice::<u16, u8>(&got), [1, 2, 3, 4]);
        let mut there = [0u16];
        // The typed method on the other side.
        one.sendrecv((0, &[u16::from_ne_bytes([7, 8])]), (0, &mut there), 5).await?;
        assert_eq!(there[0].to_ne_bytes(), [5, 6]);
        Ok(())
    });
    assert!(executor.run(|_| 0), "somebody was not woken");
}

#[test]
fn wrong_arguments_are_named_and_change_nothing() {
    let bench = Bench::new(2, Wire::Memory);
    let [comm, other] = &bench.comms[..] else { panic!("two ranks") };
    let of = Datatype::of::<f32>();
    let refused = |call: Invocation<'_>| {
        let future = std::pin::pin!(comm.invoke(call));
        match future.poll(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(Err(error)) => {
                assert!(matches!(error.kind(), ErrorKind::InvalidArgument(_)), "{error}");
                error.to_string()
            }
            Poll::Ready(Ok(_)) | Poll::Pending => panic!("it was not refused"),
        }
    };
    let mut memory = [0; 8];
    let new = |operation| Invocation::new(operation, of);
    let sum = BuiltIn::Sum;
    for (call, what) in [
        (new(Operation::Allreduce).send(&[0; 8]), "needs an operator"),
        (new(Operation::Broadcast).operator(sum), "has no operator"),
        (new(Operation::Allreduce).operator(BuiltIn::BitAnd), "operator band is not defined for f32"),
        (new(Operation::Allreduce).operator(Operator::user(3, true, |_, _| {})), "belong to built-in operators"),
        (new(Operation::Gather).send(&[0; 7]), "has 7 bytes, which are no whole elements of f32 (4 bytes)"),
        (new(Operation::Gather).receive_counts(&[1, 1]), "has no counts"),
        (new(Operation::Allgatherv).receive_counts(&[1]), "there are 1 counts for 2 ranks"),
        (new(Operation::Allgatherv).receive_counts(&[usize::MAX, 1]), "more than memory can hold"),
        (new(Operation::Reduce).operator(sum).root(2), "the root is 2"),
        (new(Operation::Allreduce).operator(sum).send(&[0; 8]), "it must have 2"),
        (new(Operation::Alltoall).send(&[0; 4]), "which 2 ranks cannot share equally"),
        (new(Operation::Broadcast).in_place(&mut memory), "is not done in place"),
        (new(Operation::Send).tag(1), "nobody is named to send to"),
        (new(Operation::Send).to(1), "what is sent has a tag"),
        (new(Operation::Split), "cannot be called by value"),
        (new(Operation::Revoke), "cannot be called by value"),
    ] {
        let text = refused(call);
        assert!(text.contains(what), "{text:?} does not say {what:?}");
    }
    // Both go on.
    let mut executor = Executor::default();
    executor.must(comm.barrier());
    executor.must(other.barrier());
    assert!(executor.run(|_| 0), "somebody was not woken");
}

#[test]
fn an_operator_over_bytes_that_does_not_commute_is_applied_in_rank_order() {
    // Keeps the left one unless it is empty: the first rank's.
    let first = |left: &[u8], right: &mut [u8]| {
        left.iter().zip(right).filter(|(left, _)| **left != 0).for_each(|(left, right)| *right = *left);
    };
    for size in 1..9 {
        let bench = Bench::new(size, Wire::Pipe(1 << 16));
        let mut executor = Executor::default();
        for comm in &bench.comms {
            executor.must(async move {
                let (mine, mut got) = ([u8::try_from(comm.rank() + 1).expect("small"); 5], [0; 5]);
                let call = Invocation::new(Operation::Allreduce, Datatype::of::<u8>());
                let call = call.operator(Operator::user(1500, false, first));
                comm.invoke(call.send(&mine).receive(&mut got)).await?;
                assert_eq!(got, [1; 5]);
                Ok(())
            });
        }
        assert!(executor.run(|_| 0), "somebody was not woken");
    }
}
