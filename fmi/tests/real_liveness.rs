//! Goal: a connection whose other end is busy is kept, however long, and is as good as before afterwards. Method: both
//! ends over loopback, of which one does not read for several times the longest silence.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use fmi::RealNet;
use fmi::net::{ByteStream, Listener, Net};
use futures_util::future::{Either, select};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The shortest silence that kernels can bound.
const SILENCE: Duration = Duration::from_secs(1);
/// Several times as long.
const BUSY: Duration = Duration::from_secs(5);
/// More than two kernels take without a reader.
const BYTES: usize = 64 << 20;

#[tokio::test]
async fn a_closed_window_that_is_answered_ends_no_connection() {
    let net = RealNet::new();
    let mut listener = net.listen(SocketAddr::from(([127, 0, 0, 1], 0)), 8).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut near = net.connect(SocketAddr::from(([127, 0, 0, 1], 0)), address).await.expect("connected");
    let mut far = poll_fn(|cx| listener.poll_accept(cx)).await.expect("accepted");
    for end in [&near, &far] {
        end.set_keepalive(SILENCE, SILENCE).expect("an open connection");
    }
    let bytes = vec![7; BYTES];
    let mut written = 0;
    let mut write = pin!(poll_fn(|cx| {
        while written < BYTES {
            match Pin::new(&mut near).poll_write(cx, &bytes[written..]) {
                Poll::Ready(Ok(taken)) => written += taken,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }));
    let busy = pin!(net.sleep_until(net.now() + BUSY));
    match select(write.as_mut(), busy).await {
        Either::Left((result, _)) => panic!("nobody reads, so the write waits: {result:?}"),
        Either::Right(((), _)) => {}
    }
    let mut read = vec![0; BYTES];
    let (sent, received) = futures_util::future::join(write, far.read_exact(&mut read)).await;
    sent.expect("the window opened");
    assert_eq!(received.expect("all of it"), BYTES);
    assert!(read == bytes);
    far.write_all(&[1]).await.expect("the other direction works as well");
    assert_eq!(near.read_u8().await.expect("it came"), 1);
}
