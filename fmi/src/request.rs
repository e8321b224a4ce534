//! Requests: operations that have been called and have not ended.
//!
//! Every operation of a [`Communicator`](crate::Communicator) returns a request, which is a future. Each kind has a type
//! of its own, so that calling it costs no allocation; all of them are `Send`, `Unpin` and `Debug`, and borrow their
//! buffers alone. A list of requests of one kind is a `Vec<RecvRequest<'_>>`; where kinds are mixed, each becomes a
//! [`Request`].
//!
//! | MPI | here |
//! |---|---|
//! | MPI_Wait | `request.await` |
//! | MPI_Test | [`test()`] |
//! | MPI_Waitall, MPI_Waitany, MPI_Waitsome | [`wait_all`], [`wait_any`], [`wait_some`]; again and again: [`Requests`] |
//! | MPI_Testany, MPI_Testsome | [`Requests::test_any`], [`Requests::test_some`] |
//! | MPI_Cancel | dropping it |
//! | MPI_Start | [`Persistent::start`](crate::Persistent::start) |
//!
//! A request makes progress when it is polled. Those that own their data ([`send_owned`](crate::Communicator::send_owned),
//! [`recv_vec`](crate::Communicator::recv_vec)) have no lifetime, and move whichever operation of the group is polled.

pub use crate::communicator::{
    CollectiveRequest, InvokeRequest, MatchRequest, Nothing, Payload, ProbeRequest, ReadRequest, RecvRequest,
    RecvVecRequest, Request, Requests, SendRecvRequest, SendRequest, SsendRequest, Test, TryMatchRequest,
    TryProbeRequest, test, wait_all, wait_any, wait_some,
};
