//! The servers that a configuration names: in which order a group turns to them, and which addresses they have.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::join;

use super::legs::{Legs, SEGMENT_BYTES_MAX, Vantages, local_for};
use super::racing::{Contender, Ground, Racing, Single};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::net::{BoxFuture, Net, within};
use crate::proto::race::{Order, Place, Race, canonical, weight};
use crate::proto::rendezvous::GroupId;

/// The name of a vantage must be found in this time; else the NAT is seen from one endpoint only.
const VANTAGE_WITHIN: Duration = Duration::from_secs(1);

/// Second endpoints of a server, as configured.
#[derive(Clone, Debug)]
enum Second {
    NextPort,
    Off,
    Named(String),
}

/// What is known of a name.
#[derive(Clone, Debug, Default)]
struct Found {
    addresses: Vec<SocketAddr>,
    /// Of the second endpoint, if that has a name.
    vantages: Vec<SocketAddr>,
}

#[derive(Clone, Debug)]
struct Server {
    name: String,
    second: Second,
    found: Found,
    /// Whether the addresses have not failed since they were found.
    is_fresh: bool,
    /// Whether they are given as such, and cannot become other ones.
    is_literal: bool,
    /// The address that was kept last.
    last: Option<SocketAddr>,
    /// Why the name has no address, as far as is known.
    trouble: Option<String>,
}

/// All servers of a group, in the order in which it turns to them.
pub(super) struct Servers<N: Net> {
    net: N,
    group: GroupId,
    config: Config,
    servers: Vec<Server>,
    /// By the number of the server. They outlive the attempt that wanted them.
    lookups: BTreeMap<usize, BoxFuture<io::Result<Found>>>,
}

impl<N: Net> Clone for Servers<N> {
    fn clone(&self) -> Self {
        let (net, config, servers) = (self.net.clone(), self.config.clone(), self.servers.clone());
        Self { net, group: self.group, config, servers, lookups: BTreeMap::new() }
    }
}

impl<N: Net> fmt::Debug for Servers<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers").field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// Whether an address can be reached from where this rank binds.
fn is_usable(bind: IpAddr, address: &SocketAddr) -> bool {
    bind.is_unspecified() || address.is_ipv4() == bind.is_ipv4()
}

impl<N: Net> Servers<N> {
    /// Reads the names of a configuration without its secret. All ranks put them into one order, however they are
    /// listed.
    pub(super) fn new(net: N, config: &Config, group: GroupId) -> Result<Self> {
        // A group of one needs none.
        let named = |names: &str| -> Vec<String> {
            names.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
        };
        let vantages = config.vantage.as_deref().filter(|names| *names != "off").map(named).unwrap_or_default();
        let mut seconds = vantages.into_iter().map(Second::Named);
        let mut servers = Vec::new();
        for name in named(&config.rendezvous) {
            let second =
                if config.vantage.is_none() { Second::NextPort } else { seconds.next().unwrap_or(Second::Off) };
            let given = |name: &str| name.parse::<SocketAddr>().ok();
            let vantage = match &second {
                Second::Named(name) => Some(given(name)),
                Second::NextPort | Second::Off => None,
            };
            let literal = given(&name).filter(|_| vantage != Some(None));
            if literal.is_some_and(|address| !is_usable(config.bind, &address)) {
                let what = format!("the rendezvous {name:?} cannot be reached from {}", config.bind);
                return Err(Error::new(Operation::Join, ErrorKind::InvalidConfig(what)).on(config.rank));
            }
            let addresses = literal.into_iter().collect();
            let found = Found { addresses, vantages: vantage.flatten().into_iter().collect() };
            let (is_literal, is_fresh) = (literal.is_some(), literal.is_some());
            servers.push(Server { name, second, found, is_fresh, is_literal, last: None, trouble: None });
        }
        servers.sort_by_cached_key(|server| weight(&group, &canonical(&server.name)));
        Ok(Self { net, group, config: config.clone(), servers, lookups: BTreeMap::new() })
    }

    pub(super) fn count(&self) -> usize {
        self.servers.len()
    }

    /// Begins to look all names up, and waits for none of them.
    pub(super) fn poll_lookups(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for number in 0..self.servers.len() {
            if !self.servers[number].is_literal {
                let _ = self.poll_lookup(cx, number);
            }
        }
        Poll::Ready(())
    }

    /// The same servers, this one first: where the session is known, and its ranks are.
    pub(super) fn beginning_with(&self, number: usize) -> Self {
        let mut servers = self.clone();
        servers.servers[..=number].rotate_right(1);
        servers
    }

    /// Begins to connect to a server.
    pub(super) fn race<T: Contender>(&mut self, number: usize, elsewhere: bool, together: bool) -> Racing<N, T> {
        let server = &mut self.servers[number];
        let order = Order { group: self.group, last: server.last, elsewhere, together };
        let race = Race::new(self.net.now(), order, server.found.addresses.clone(), server.is_fresh);
        // Until one of them answers, nothing is known for them.
        server.is_fresh = server.is_literal;
        Racing::new(self.net.clone(), race)
    }

    /// Connections to an address of this server are good.
    pub(super) fn won(&mut self, number: usize, address: SocketAddr) {
        let server = &mut self.servers[number];
        (server.last, server.is_fresh) = (Some(address), true);
    }

    /// Whether a server has several addresses of one family, which may be machines of their own.
    pub(super) fn has_others(&self, number: usize) -> bool {
        let order = Order { group: self.group, last: None, elsewhere: false, together: true };
        order.has_others(&self.servers[number].found.addresses)
    }

    /// Adds which names have no address, as far as that explains that no server was reached.
    pub(super) fn explain(&self, mut kind: ErrorKind) -> ErrorKind {
        let all: Vec<_> = self.servers.iter().filter_map(|server| server.trouble.as_deref()).collect();
        if let ErrorKind::RendezvousUnreachable { last, .. } = &mut kind
            && !all.is_empty()
        {
            let trouble = all.join("; ");
            *last = if self.servers.len() == 1 { trouble } else { format!("{last}; {trouble}") };
        }
        kind
    }

    /// Where an attempt to join begins and ends.
    pub(super) fn legs(&mut self, number: usize) -> Joining<'_, N> {
        Joining(self, number)
    }

    /// Where an attempt to come back does.
    pub(super) fn singles(&mut self, number: usize) -> Resuming<'_, N> {
        Resuming(self, number)
    }

    fn poll_lookup(&mut self, cx: &mut Context<'_>, number: usize) -> Poll<io::Result<Vec<SocketAddr>>> {
        let server = &mut self.servers[number];
        let lookup = self.lookups.entry(number).or_insert_with(|| look_up(&self.net, server));
        let Poll::Ready(result) = lookup.as_mut().poll(cx) else { return Poll::Pending };
        self.lookups.remove(&number);
        let bind = self.config.bind;
        let usable = |addresses: Vec<SocketAddr>| -> Vec<_> {
            addresses.into_iter().filter(|address| is_usable(bind, address)).collect()
        };
        let result = result.map(|Found { addresses, vantages }| Found { addresses: usable(addresses), vantages });
        let trouble = match &result {
            Ok(found) if found.addresses.is_empty() => Some(format!("{:?} has no usable address", server.name)),
            Ok(_) => None,
            Err(error) => Some(format!("cannot resolve {:?}: {error}", server.name)),
        };
        if let (Some(trouble), None) = (&trouble, &server.trouble) {
            tracing::warn!("{trouble}; it is tried again until the deadline of the join");
        }
        server.trouble = trouble;
        let found = match result {
            Ok(found) if !found.addresses.is_empty() => found,
            Ok(_) => return Poll::Ready(Err(io::ErrorKind::NotFound.into())),
            Err(error) => return Poll::Ready(Err(error)),
        };
        (server.found, server.is_fresh) = (found, true);
        Poll::Ready(Ok(server.found.addresses.clone()))
    }
}

fn look_up<N: Net>(net: &N, server: &Server) -> BoxFuture<io::Result<Found>> {
    let addresses = net.resolve(&server.name);
    let Second::Named(second) = &server.second else {
        return Box::pin(async move { Ok(Found { addresses: addresses.await?, vantages: Vec::new() }) });
    };
    let (net, second, until) = (net.clone(), net.resolve(second), net.now() + VANTAGE_WITHIN);
    Box::pin(async move {
        let (addresses, vantages) = join(addresses, within(&net, until, second)).await;
        Ok(Found { addresses: addresses?, vantages: vantages.unwrap_or_default() })
    })
}

/// Connects as whoever registers does.
pub(super) struct Joining<'a, N: Net>(&'a mut Servers<N>, usize);

impl<N: Net> Ground<Legs<N>> for Joining<'_, N> {
    fn poll_resolve(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<SocketAddr>>> {
        self.0.poll_lookup(cx, self.1)
    }

    fn begin(&mut self, place: Place) -> io::Result<Legs<N>> {
        let server = &self.0.servers[self.1];
        let vantages = match server.second {
            Second::NextPort => Vantages::NextPort,
            Second::Off | Second::Named(_) => Vantages::These(&server.found.vantages),
        };
        Legs::new(&self.0.net, &self.0.config, place, vantages)
    }
}

/// Connects as whoever comes back does.
pub(super) struct Resuming<'a, N: Net>(&'a mut Servers<N>, usize);

impl<N: Net> Ground<Single<N::Stream>> for Resuming<'_, N> {
    fn poll_resolve(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<SocketAddr>>> {
        self.0.poll_lookup(cx, self.1)
    }

    fn begin(&mut self, place: Place) -> io::Result<Single<N::Stream>> {
        let remote = place.preferred;
        let net = self.0.net.with_segment_max(SEGMENT_BYTES_MAX);
        Ok(Single::new(net.connect(local_for(&self.0.config, remote), remote)))
    }
}

#[cfg(test)]
mod tests {
    //! Goal: ranks agree on the order of servers, whatever each was told. Method: configurations that mean the same.

    use super::*;
    use crate::RealNet;

    const GROUP: GroupId = [7; 32];

    fn servers(rendezvous: &str, vantage: Option<&str>) -> Result<Servers<RealNet>> {
        let mut config = Config::new(0, 2, "group", rendezvous);
        config.vantage = vantage.map(str::to_owned);
        Servers::new(RealNet::new(), &config, GROUP)
    }

    fn names(servers: &Servers<RealNet>) -> Vec<(String, String)> {
        servers.servers.iter().map(|it| (canonical(&it.name), format!("{:?}", it.second))).collect()
    }

    #[test]
    fn servers_have_one_order_however_they_are_listed_and_keep_their_vantages() {
        let one = servers("a.example:1,b.example:1,192.0.2.3:1", Some("a:2,b:2,c:2")).expect("valid");
        let other = servers("192.0.2.3:1, B.example.:1 ,a.example:1", Some("c:2,b:2,a:2")).expect("valid");
        assert_eq!(names(&one), names(&other));
        for (number, (name, second)) in names(&one).into_iter().enumerate() {
            let (_, expected) = [("a.example:1", "a:2"), ("b.example:1", "b:2"), ("192.0.2.3:1", "c:2")]
                .into_iter()
                .find(|(known, _)| *known == name)
                .expect("one of them");
            assert_eq!(second, format!("Named({expected:?})"), "server {number}");
        }
    }

    #[test]
    fn the_server_of_the_session_comes_first_and_the_others_keep_their_order() {
        let all = servers("a:1,b:1,c:1,d:1", None).expect("valid");
        for number in 0..4 {
            let mut expected = names(&all);
            let first = expected.remove(number);
            expected.insert(0, first);
            assert_eq!(names(&all.beginning_with(number)), expected);
        }
    }

    #[test]
    fn only_what_cannot_become_right_is_an_error_at_once() {
        let bound = |rendezvous| {
            let mut config = Config::new(0, 2, "group", rendezvous);
            config.bind = [127, 0, 0, 1].into();
            Servers::new(RealNet::new(), &config, GROUP).map(|servers| servers.count())
        };
        assert!(matches!(bound("[::1]:7000").expect_err("IPv4 only").kind(), ErrorKind::InvalidConfig(_)));
        assert_eq!(bound("127.0.0.1:7000").expect("reachable"), 1);
        assert_eq!(bound("nowhere.invalid:7000").expect("it may be there later"), 1);
        assert_eq!(Servers::new(RealNet::new(), &Config::alone(), GROUP).expect("none is needed").count(), 0);
    }
}
