//! Collectives on blocks whose lengths not all ranks know, where some ranks are not connected.
//!
//! There a rank hands on blocks of others, whose lengths it must know. So they are exchanged first, in a collective of
//! their own.

use super::*;
use crate::schedule::offsets;

impl Communicator {
    /// Runs `spec`, of a gather or a scatter whose `counts` the root knows.
    pub(super) fn launch_rooted<'a, T: Element>(
        &self,
        spec: Result<Spec>,
        counts: &[usize],
        send: &'a [T],
        receive: &'a mut [T],
    ) -> CollectiveRequest<'a> {
        let spec = match spec.and_then(|spec| self.checked(spec, send.len(), receive.len())) {
            Ok(spec) if !self.connections.is_complete() => spec,
            spec => return self.launch(spec, send, receive, Nothing),
        };
        let (kind, root, size) = (spec.kind, spec.root, self.size as usize);
        let places = [self.reserve(kind.operation()), self.reserve(kind.operation())];
        let is_root = self.rank == root;
        let mut lengths: Vec<u64> =
            if is_root { counts.iter().map(|count| *count as u64).collect() } else { vec![0; size] };
        let comm = self.clone();
        CollectiveRequest::later(async move {
            let [first, second] = places;
            let problem = comm.problem(Collective::Broadcast, root, size, size_of::<u64>());
            let exchange = Spec::new(kind, Recipe::Chosen(problem));
            let exchange = Spec { root, elements: size, receive: Some(size), ..exchange };
            comm.launch_at(Some(first), Ok(exchange), &[], &mut lengths, Nothing).await?;
            let counts = comm.read_lengths::<T>(kind.operation(), &lengths)?;
            let own = if kind == Kind::Gatherv { spec.send } else { spec.receive.unwrap_or_default() };
            if !is_root {
                comm.check_told(kind.operation(), root, own, counts[comm.rank as usize])?;
            }
            let spec = comm.routed(spec, &counts);
            comm.launch_at(Some(second), Ok(spec), send, receive, Nothing).await
        })
    }

    /// Runs `spec`, of an all-to-all in which each rank knows the lengths of its own blocks.
    pub(super) fn launch_alltoallv<'a, T: Element>(
        &self,
        spec: Result<Spec>,
        (send_counts, receive_counts): (&[usize], &[usize]),
        send: &'a [T],
        receive: &'a mut [T],
    ) -> CollectiveRequest<'a> {
        let spec = match spec.and_then(|spec| self.checked(spec, send.len(), receive.len())) {
            Ok(spec) if !self.connections.is_complete() => spec,
            spec => return self.launch(spec, send, receive, Nothing),
        };
        let (operation, size) = (Operation::Alltoallv, self.size as usize);
        let places = [self.reserve(operation), self.reserve(operation)];
        let own: Vec<u64> = send_counts.iter().map(|count| *count as u64).collect();
        let expected = receive_counts.to_vec();
        let comm = self.clone();
        CollectiveRequest::later(async move {
            let [first, second] = places;
            let mut lengths = vec![0u64; size * size];
            let problem = comm.problem(Collective::Allgather, 0, size, size_of::<u64>());
            let exchange = Spec::new(Kind::Alltoallv, Recipe::Chosen(problem));
            let exchange = Spec { elements: size, send: size, receive: Some(size * size), ..exchange };
            comm.launch_at(Some(first), Ok(exchange), &own, &mut lengths, Nothing).await?;
            let lengths = comm.read_lengths::<T>(operation, &lengths)?;
            // Row by row what each rank sends, column by column what each receives.
            let of = |from: usize, to: usize| lengths[from * size + to];
            for (from, expected) in (0..).zip(&expected) {
                comm.check_told(operation, from, *expected, of(from as usize, comm.rank as usize))?;
            }
            let schedule = comm.connections.route(comm.rank, comm.size, |rank| {
                let rank_index = rank as usize;
                let sends = offsets(&lengths[rank_index * size..(rank_index + 1) * size]);
                let receives = offsets(&(0..size).map(|from| of(from, rank_index)).collect::<Vec<_>>());
                let range = |offsets: &[usize], rank: u32| offsets[rank as usize]..offsets[rank as usize + 1];
                let blocks =
                    Blocks { send: |rank| range(&sends, rank), receive: |rank| range(&receives, rank), in_place: None };
                schedule::alltoall_linear(rank, comm.size, &blocks)
            });
            let spec = Spec { recipe: Recipe::Made(schedule, Algorithm::Linear), ..spec };
            comm.launch_at(Some(second), Ok(spec), send, receive, Nothing).await
        })
    }

    /// `spec` of a gather or scatter of blocks whose lengths all ranks know.
    pub(in super::super) fn routed(&self, spec: Spec, counts: &[usize]) -> Spec {
        let offsets = offsets(counts);
        let block = |rank: u32| offsets[rank as usize]..offsets[rank as usize + 1];
        let make = if spec.kind == Kind::Gatherv { schedule::gather_linear } else { schedule::scatter_linear };
        let of = |rank: u32| make(rank, self.size, spec.root, counts[rank as usize], false, block);
        let schedule = self.connections.route(self.rank, self.size, of);
        Spec { recipe: Recipe::Made(schedule, Algorithm::Linear), ..spec }
    }

    /// Lengths that peers have told, if memory can hold what they add up to.
    fn read_lengths<T: Element>(&self, operation: Operation, lengths: &[u64]) -> Result<Vec<usize>> {
        let bytes_max = isize::MAX.unsigned_abs() as u64 / size_of::<T>().max(1) as u64;
        let total = lengths.iter().try_fold(0u64, |sum, length| sum.checked_add(*length));
        if total.is_some_and(|total| total <= bytes_max) {
            return Ok(lengths.iter().map(|length| usize::try_from(*length).expect("below the limit")).collect());
        }
        let what = "told lengths that add up to more than memory can hold".to_owned();
        Err(self.failed(self.error(operation, ErrorKind::Malformed(what))))
    }

    /// Whether a peer means the same block length as this rank.
    fn check_told(&self, operation: Operation, peer: u32, mine: usize, told: usize) -> Result<()> {
        if mine == told {
            return Ok(());
        }
        let side = |count: usize| format!("{operation} with a block of {count} elements between them");
        let kind = ErrorKind::Mismatch { mine: side(mine), theirs: side(told) };
        Err(self.failed(self.error(operation, kind).with_peer(peer)))
    }

    /// Ends the communicator for all with `error`.
    fn failed(&self, error: Error) -> Error {
        self.shared.with(|engine| engine.abort(self.id, &error));
        error
    }
}
