//! Requests of any kind, waits for several of them, and looks that do not wait.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::communicator::Communicator;
use crate::communicator::collective::CollectiveRequest;
use crate::communicator::dynamic::InvokeRequest;
use crate::communicator::message::{
    MatchRequest, Message, ProbeRequest, ReadRequest, RecvRequest, SendRecvRequest, SendRequest, Source, Status, Tag,
};
use crate::communicator::payload::RecvVecRequest;
use crate::communicator::synchronous::SsendRequest;
use crate::datatype::Element;
use crate::error::{Operation, Result};

/// A request of any kind, which yields `R`. MPI 3.1 §2.5.1, MPI_Request.
///
/// Each operation returns a request of its own type, without an allocation. This one is for lists and structs in which
/// requests of several types meet, and takes one.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fmi::Result<()> {
/// use fmi::request::Request;
///
/// let comm = fmi::Communicator::local(fmi::RealNet::new(), 1).remove(0);
/// let (mut sum, mut most) = ([0], [0]);
/// let both: Vec<Request<'_>> = vec![
///     comm.allreduce(&[1], &mut sum, fmi::op::Sum).into(),
///     comm.allreduce(&[2], &mut most, fmi::op::Max).into(),
///     comm.barrier().into(),
/// ];
/// for result in fmi::request::wait_all(both).await {
///     result?;
/// }
/// assert_eq!((sum, most), ([1], [2]));
/// # Ok(())
/// # }
/// ```
#[must_use = "a request makes progress when it is polled"]
pub struct Request<'a, R = ()> {
    future: Pin<Box<dyn Future<Output = Result<R>> + Send + 'a>>,
}

impl<'a, R> Request<'a, R> {
    /// A request that does what `future` does.
    pub fn new(future: impl Future<Output = Result<R>> + Send + 'a) -> Self {
        Self { future: Box::pin(future) }
    }
}

impl<R> fmt::Debug for Request<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

impl<R> Future for Request<'_, R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<R>> {
        self.future.as_mut().poll(cx)
    }
}

macro_rules! into_request {
    ($($({$($generics:tt)+})? $type:ty => $result:ty;)+) => {
        $(
            impl<'a, $($($generics)+)?> From<$type> for Request<'a, $result> {
                fn from(request: $type) -> Self {
                    Self::new(request)
                }
            }
        )+
    };
}

into_request! {
    SendRequest<'a> => ();
    SsendRequest<'a> => ();
    InvokeRequest<'a> => Option<Status>;
    RecvRequest<'a> => Status;
    ReadRequest<'a> => Status;
    SendRecvRequest<'a> => Status;
    ProbeRequest => Status;
    MatchRequest => Message;
    TryProbeRequest => Option<Status>;
    TryMatchRequest => Option<Message>;
    {T: Element} RecvVecRequest<T> => (Vec<T>, Status);
    {O: Send + Sync + 'a} CollectiveRequest<'a, O> => ();
}

/// Requests that are waited for together: for all, for any, or for some. What waits costs nothing while others end:
/// each event polls the requests that it concerns, and those that are ready are served in turn.
///
/// Each request has a number, the order in which it was added. It takes one allocation.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fmi::Result<()> {
/// use fmi::request::Requests;
///
/// let comm = fmi::Communicator::local(fmi::RealNet::new(), 1).remove(0);
/// let mut places = [[0u32]; 3];
/// let mut receives: Requests<_> =
///     places.iter_mut().zip(0..).map(|(place, tag)| comm.recv(0, tag, place)).collect();
/// for tag in [2, 0, 1] {
///     comm.send(0, tag, &[10 * tag]).await?;
///     let (number, status) = receives.wait_any().await.expect("three were added");
///     assert_eq!((number as u32, status?.tag), (tag, tag));
/// }
/// assert!(receives.wait_any().await.is_none());
/// # Ok(())
/// # }
/// ```
///
/// MPI 3.1 §3.7.5, multiple completions.
pub struct Requests<F> {
    running: FuturesUnordered<Numbered<F>>,
    next: usize,
}

/// A request with its number.
struct Numbered<F> {
    number: usize,
    request: F,
}

impl<F: Future + Unpin> Future for Numbered<F> {
    type Output = (usize, F::Output);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let number = self.number;
        Pin::new(&mut self.request).poll(cx).map(|output| (number, output))
    }
}

impl<F> Default for Requests<F> {
    fn default() -> Self {
        Self { running: FuturesUnordered::new(), next: 0 }
    }
}

impl<F> fmt::Debug for Requests<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("running", &self.running.len()).finish_non_exhaustive()
    }
}

impl<F: Future + Unpin> Requests<F> {
    /// An empty set, to which requests are added by [`Requests::push`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a request, and returns its number.
    pub fn push(&mut self, request: F) -> usize {
        let number = self.next;
        self.next += 1;
        self.running.push(Numbered { number, request });
        number
    }

    /// How many have not ended.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether all have ended.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Waits for one to end, and removes it; `None` if none is left. Of several that have ended, each has its turn.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    ///
    /// MPI 3.1 §3.7.5, MPI_Waitany.
    pub async fn wait_any(&mut self) -> Option<(usize, F::Output)> {
        self.running.next().await
    }

    /// Waits for at least one to end, and removes all that have; nothing if none is left.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    ///
    /// MPI 3.1 §3.7.5, MPI_Waitsome.
    pub async fn wait_some(&mut self) -> Vec<(usize, F::Output)> {
        let mut ended = Vec::new();
        std::future::poll_fn(|cx| {
            while let Poll::Ready(Some(one)) = self.running.poll_next_unpin(cx) {
                ended.push(one);
            }
            if ended.is_empty() && !self.running.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        ended
    }

    /// Waits for all that are left, whether they fail or not, and removes them. They come by number.
    ///
    /// # Cancel safety
    /// Dropping the future loses what had ended meanwhile.
    ///
    /// MPI 3.1 §3.7.5, MPI_Waitall.
    pub async fn wait_all(&mut self) -> Vec<(usize, F::Output)> {
        let mut ended = Vec::with_capacity(self.len());
        while let Some(one) = self.running.next().await {
            ended.push(one);
        }
        ended.sort_unstable_by_key(|(number, _)| *number);
        ended
    }

    /// One that has ended, which is removed, without waiting for one; the executor gets one turn.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    ///
    /// MPI 3.1 §3.7.5, MPI_Testany.
    pub async fn test_any(&mut self) -> Option<(usize, F::Output)> {
        Test::new(self.running.next()).await.flatten()
    }

    /// All that have ended, which are removed, without waiting for any; the executor gets one turn.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    ///
    /// MPI 3.1 §3.7.5, MPI_Testsome.
    pub async fn test_some(&mut self) -> Vec<(usize, F::Output)> {
        if self.is_empty() {
            return Vec::new();
        }
        Test::new(std::pin::pin!(self.wait_some())).await.unwrap_or_default()
    }
}

impl<F: Future + Unpin> Extend<F> for Requests<F> {
    fn extend<I: IntoIterator<Item = F>>(&mut self, requests: I) {
        for request in requests {
            self.push(request);
        }
    }
}

impl<F: Future + Unpin> FromIterator<F> for Requests<F> {
    fn from_iter<I: IntoIterator<Item = F>>(requests: I) -> Self {
        let mut all = Self::new();
        all.extend(requests);
        all
    }
}

/// Waits for all requests, whether they fail or not; the results come in the order of the requests.
///
/// # Cancel safety
/// Dropping the future drops the requests.
///
/// MPI 3.1 §3.7.5, MPI_Waitall.
pub async fn wait_all<F: Future + Unpin>(requests: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut requests: Requests<F> = requests.into_iter().collect();
    requests.wait_all().await.into_iter().map(|(_, output)| output).collect()
}

/// Waits for one of the requests, and returns its place among them, its result, and the others. To wait again and
/// again, keep [`Requests`].
///
/// # Cancel safety
/// Dropping the future drops the requests.
///
/// MPI 3.1 §3.7.5, MPI_Waitany.
pub async fn wait_any<F: Future + Unpin>(
    requests: impl IntoIterator<Item = F>,
) -> Option<(usize, F::Output, Requests<F>)> {
    let mut requests: Requests<F> = requests.into_iter().collect();
    let (number, output) = requests.wait_any().await?;
    Some((number, output, requests))
}

/// Waits for at least one of the requests, and returns all that have ended, each with its place among them, and the
/// others.
///
/// # Cancel safety
/// Dropping the future drops the requests.
///
/// MPI 3.1 §3.7.5, MPI_Waitsome.
pub async fn wait_some<F: Future + Unpin>(
    requests: impl IntoIterator<Item = F>,
) -> (Vec<(usize, F::Output)>, Requests<F>) {
    let mut requests: Requests<F> = requests.into_iter().collect();
    (requests.wait_some().await, requests)
}

/// Looks whether a request has ended, without waiting for it: `None` if it has not. The executor gets one turn, so that
/// a loop of tests sees what comes. A request that has ended must not be used again.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fmi::Result<()> {
/// let comm = fmi::Communicator::local(fmi::RealNet::new(), 1).remove(0);
/// let mut place = [0];
/// let mut receive = comm.recv(0, 1, &mut place);
/// assert!(fmi::request::test(&mut receive).await.is_none());
/// comm.send(0, 1, &[7]).await?;
/// fmi::request::test(&mut receive).await.expect("it is there")?;
/// drop(receive);
/// assert_eq!(place, [7]);
/// # Ok(())
/// # }
/// ```
///
/// MPI 3.1 §3.7.3, MPI_Test.
pub fn test<F: Future + Unpin>(request: &mut F) -> Test<&mut F> {
    Test::new(request)
}

/// A look at a request. See [`test()`].
#[must_use = "a look happens when it is polled"]
#[derive(Debug)]
pub struct Test<F> {
    request: F,
    has_looked: bool,
}

impl<F> Test<F> {
    fn new(request: F) -> Self {
        Self { request, has_looked: false }
    }
}

impl<F: Future + Unpin> Future for Test<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = Pin::new(&mut self.request).poll(cx) {
            return Poll::Ready(Some(output));
        }
        if std::mem::replace(&mut self.has_looked, true) {
            return Poll::Ready(None);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Communicator {
    /// As [`Communicator::probe`], but yields `None` at once if there is no such message. The executor gets one turn,
    /// so that a loop finds a message that comes.
    ///
    /// # Errors
    /// As [`Communicator::probe`].
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    ///
    /// MPI 3.1 §3.8.1, MPI_Iprobe.
    pub fn try_probe(&self, source: impl Into<Source>, tag: impl Into<Tag>) -> TryProbeRequest {
        TryProbeRequest(Test::new(self.probe(source, tag)))
    }

    /// As [`Communicator::matched_probe`], but yields `None` at once if there is no such message. The executor gets one
    /// turn, so that a loop finds a message that comes.
    ///
    /// # Errors
    /// As [`Communicator::probe`].
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    ///
    /// MPI 3.1 §3.8.2, MPI_Improbe.
    pub fn try_matched_probe(&self, source: impl Into<Source>, tag: impl Into<Tag>) -> TryMatchRequest {
        TryMatchRequest(Test::new(self.matching(Operation::Probe, source.into(), tag.into())))
    }
}

/// A look for a message. The request of [`Communicator::try_probe`].
#[must_use = "a request makes progress when it is polled"]
#[derive(Debug)]
pub struct TryProbeRequest(Test<ProbeRequest>);

impl Future for TryProbeRequest {
    type Output = Result<Option<Status>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(Option::transpose)
    }
}

/// A look for a message, which whoever looks gets. The request of [`Communicator::try_matched_probe`].
#[must_use = "a request makes progress when it is polled"]
#[derive(Debug)]
pub struct TryMatchRequest(Test<MatchRequest>);

impl Future for TryMatchRequest {
    type Output = Result<Option<Message>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(Option::transpose)
    }
}
