//! Goal: a name with addresses of both families leads to a server of either, on real sockets. Method: servers and ranks over
//! loopback, and a name that the test gives its addresses.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi::net::{Machine, Net};
use fmi::{Communicator, Config, RealNet};
use fmi_net::time::Instant;
use futures_util::future::{Either, join, select};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// The network of this machine, on which every name leads to both families once it was asked for a few times.
#[derive(Clone)]
struct Named {
    net: RealNet,
    refusals: Arc<AtomicU32>,
}

impl Net for Named {
    type Stream = <RealNet as Net>::Stream;
    type Listener = <RealNet as Net>::Listener;

    fn now(&self) -> Instant {
        self.net.now()
    }

    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send + 'static {
        self.net.sleep_until(at)
    }

    fn fill_entropy(&self, bytes: &mut [u8]) {
        self.net.fill_entropy(bytes);
    }

    fn machine(&self) -> Machine {
        self.net.machine()
    }

    fn connect(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send + 'static {
        self.net.connect(local, remote)
    }

    fn listen(&self, local: SocketAddr, backlog: u32) -> io::Result<Self::Listener> {
        self.net.listen(local, backlog)
    }

    fn resolve(&self, name: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static {
        let port = name.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("host:port");
        let is_refused = self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let answer = match is_refused {
            Ok(_) => Err(io::ErrorKind::NotFound.into()),
            Err(_) => Ok(vec![SocketAddr::new(V6, port), SocketAddr::new(V4, port)]),
        };
        std::future::ready(answer)
    }
}

/// The sum of two ranks that meet at a server which serves one address, by a name.
async fn sum_of_two<N: Net>(net: N, serves: IpAddr, host: &str) -> u64 {
    let server = Rendezvous::bind(RealNet::new(), (serves, 0).into(), ServerConfig::default()).expect("a free port");
    let name = format!("{host}:{}", server.local_addr().expect("bound").port());
    let rank = async |rank: u32| {
        let mut config = Config::new(rank, 2, "names", name.clone());
        config.key = Some(b"0123456789abcdef".into());
        config.join_deadline = Duration::from_secs(20);
        let comm = Communicator::connect(net.clone(), &config).await.expect("joined");
        let mut sum = [0];
        comm.allreduce(&[u64::from(rank) + 1], &mut sum, fmi::op::Sum).await.expect("reduced");
        comm.leave().await;
        sum[0]
    };
    match select(pin!(server.serve()), pin!(join(rank(0), rank(1)))).await {
        Either::Left((never, _)) => match never {},
        Either::Right(((one, other), _)) => {
            assert_eq!(one, other);
            one
        }
    }
}

fn named(refusals: u32) -> Named {
    Named { net: RealNet::new(), refusals: Arc::new(AtomicU32::new(refusals)) }
}

#[tokio::test]
async fn a_name_with_both_families_leads_to_a_server_of_one() {
    for serves in [V6, V4] {
        assert_eq!(sum_of_two(named(0), serves, "both.example").await, 3, "{serves}");
    }
}

#[tokio::test]
async fn a_name_that_appears_later_is_asked_for_again() {
    assert_eq!(sum_of_two(named(7), V6, "late.example").await, 3);
}

#[tokio::test]
async fn the_name_of_this_machine_is_resolved_by_the_system() {
    assert_eq!(sum_of_two(RealNet::new(), V4, "localhost").await, 3);
}
