//! Collectives on blocks whose lengths not all ranks know, where some ranks are not connected.
//!
//! There a rank hands on blocks of others, whose lengths it must know. So they are exchanged first, in a collective of
//! their own.

use super::*;
use crate::schedule::offsets;

/// An exchange of lengths, and what to make of them.
struct Telling<R> {
    exchange: Spec,
    /// What this rank tells.
    own: Vec<u64>,
    /// What all are told.
    told: Vec<u64>,
    route: R,
}

impl Communicator {
    /// Runs `spec`, of a gather or a scatter whose `counts` the root knows.
    pub(in super::super) fn launch_rooted<'a>(
        &self,
        spec: Result<Spec>,
        counts: &[usize],
        send: &'a [u8],
        receive: &'a mut [u8],
    ) -> CollectiveRequest<'a> {
        // The root broadcasts its counts.
        let tell = |spec: &Spec| {
            let (size, is_root) = (self.size as usize, self.rank == spec.root);
            let problem = self.problem(Collective::Broadcast, spec.root, size, Elements::of::<u64>());
            let told = if is_root { counts.iter().map(|count| *count as u64).collect() } else { vec![0; size] };
            let route = move |comm: &Self, spec: Spec, counts: Vec<usize>| {
                if !is_root {
                    let own = if spec.kind == Kind::Gatherv { spec.send } else { spec.receive.unwrap_or(0) };
                    comm.check_told(spec.kind.operation(), spec.root, own, counts[comm.rank as usize])?;
                }
                Ok(comm.routed(spec, &counts))
            };
            let exchange = Spec { root: spec.root, ..exchange(spec.kind, problem, 0, size) };
            Telling { exchange, own: Vec::new(), told, route }
        };
        self.launch_told(spec, tell, send, receive)
    }

    /// Runs `spec`, of an all-to-all in which each rank knows the lengths of its own blocks.
    pub(in super::super) fn launch_alltoallv<'a>(
        &self,
        spec: Result<Spec>,
        (send_counts, receive_counts): (&[usize], &[usize]),
        send: &'a [u8],
        receive: &'a mut [u8],
    ) -> CollectiveRequest<'a> {
        // Each tells all the others its row.
        let tell = |spec: &Spec| {
            let size = self.size as usize;
            let problem = self.problem(Collective::Allgather, 0, size, Elements::of::<u64>());
            let expected = receive_counts.to_vec();
            let route = move |comm: &Self, spec: Spec, lengths: Vec<usize>| {
                for (from, expected) in (0..).zip(&expected) {
                    let told = lengths[from as usize * size + comm.rank as usize];
                    comm.check_told(spec.kind.operation(), from, *expected, told)?;
                }
                Ok(comm.routed_alltoallv(spec, &lengths))
            };
            let own = send_counts.iter().map(|count| *count as u64).collect();
            let exchange = exchange(spec.kind, problem, size, size * size);
            Telling { exchange, own, told: vec![0; size * size], route }
        };
        self.launch_told(spec, tell, send, receive)
    }

    /// Runs `spec` at once, or where some ranks are not connected, once the lengths are told.
    fn launch_told<'a, R: FnOnce(&Self, Spec, Vec<usize>) -> Result<Spec> + Send + 'a>(
        &self,
        spec: Result<Spec>,
        tell: impl FnOnce(&Spec) -> Telling<R>,
        send: &'a [u8],
        receive: &'a mut [u8],
    ) -> CollectiveRequest<'a> {
        let spec = match spec.and_then(|spec| self.checked(spec, send.len(), receive.len())) {
            Ok(spec) if !self.connections.is_complete() => spec,
            spec => return self.launch_moving(None, spec, send, receive),
        };
        let operation = spec.kind.operation();
        let Telling { exchange, own, mut told, route } = tell(&spec);
        let places = [self.reserve(operation), self.reserve(operation)];
        let comm = self.clone();
        CollectiveRequest::later(async move {
            let [first, second] = places;
            comm.launch_at(Some(first), Ok(exchange), &own, &mut told, Nothing).await?;
            let lengths = comm.read_lengths(operation, spec.of, &told)?;
            let spec = route(&comm, spec, lengths);
            comm.launch_moving(Some(second), spec, send, receive).await
        })
    }

    /// `spec` of a gather or scatter of blocks whose lengths all ranks know.
    pub(in super::super) fn routed(&self, spec: Spec, counts: &[usize]) -> Spec {
        let offsets = offsets(counts);
        let block = |rank: u32| offsets[rank as usize]..offsets[rank as usize + 1];
        let make = if spec.kind == Kind::Gatherv { schedule::gather_linear } else { schedule::scatter_linear };
        let is_in_place = |rank: u32| spec.in_place && rank == self.rank;
        let of = |rank: u32| make(rank, self.size, spec.root, counts[rank as usize], is_in_place(rank), block);
        let schedule = self.connections.route(self.rank, self.size, of);
        Spec { recipe: Recipe::Made(schedule, Algorithm::Linear), ..spec }
    }

    /// `spec` of an all-to-all of blocks whose `lengths` all ranks know: row by row what each sends, column by column
    /// what each receives.
    fn routed_alltoallv(&self, spec: Spec, lengths: &[usize]) -> Spec {
        let size = self.size as usize;
        let schedule = self.connections.route(self.rank, self.size, |rank| {
            let index = rank as usize;
            let sends = offsets(&lengths[index * size..(index + 1) * size]);
            let receives = offsets(&(0..size).map(|from| lengths[from * size + index]).collect::<Vec<_>>());
            let range = |offsets: &[usize], rank: u32| offsets[rank as usize]..offsets[rank as usize + 1];
            let blocks = Blocks {
                send: |rank| range(&sends, rank),
                receive: |rank| range(&receives, rank),
                in_place: spec.receive.filter(|_| spec.in_place && rank == self.rank),
            };
            schedule::alltoall_linear(rank, self.size, &blocks)
        });
        Spec { recipe: Recipe::Made(schedule, Algorithm::Linear), ..spec }
    }

    /// Lengths that peers have told, if memory can hold what they add up to.
    fn read_lengths(&self, operation: Operation, of: Elements, lengths: &[u64]) -> Result<Vec<usize>> {
        let bytes_max = isize::MAX.unsigned_abs() as u64 / of.datatype.bytes() as u64;
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

/// The exchange of lengths that belongs to a collective of `kind`, with buffers of so many.
fn exchange(kind: Kind, problem: Problem, send: usize, receive: usize) -> Spec {
    let spec = Spec::new(kind, Elements::of::<u64>(), Recipe::Chosen(problem));
    Spec { elements: problem.count, send, receive: Some(receive), ..spec }
}
