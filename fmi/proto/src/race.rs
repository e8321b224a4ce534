//! Which addresses of a server are tried when, and which connection is kept. Pure.
//!
//! As in RFC 8305, with what hole punching changes. A rank wants to be seen over both address families anyway, so its
//! addresses are tried in *places*: one address of each family, from a local port each, at the same time. IPv4's
//! connection is preferred, as translated addresses are what a rendezvous is needed for; IPv6's is kept where
//! IPv4 fails, or has not answered within [`ATTEMPT_DELAY`]. A place that has not answered by then is followed by the next one,
//! and one that fails by the next one at once. The first answer wins, and nothing is said on any other connection.
//!
//! A name is looked up only when there is a reason: at first, and once its addresses have failed. Those that were known
//! are then tried again if the answer takes long, or does not come.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::rendezvous::GroupId;
use fmi_net::time::Instant;

/// How long an attempt stays alone (RFC 8305, section 5).
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Most addresses of one family of a name. No more could be tried in the time for a connection.
pub const ADDRESSES_MAX: usize = 12;

/// Addresses that are tried at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The one whose connection is kept if it comes soon enough.
    pub preferred: SocketAddr,
    /// The one of the other family.
    pub other: Option<SocketAddr>,
}

/// One of the addresses of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// [`Place::preferred`].
    Preferred,
    /// [`Place::other`].
    Other,
}

/// How the addresses of a server follow each other: alike on all ranks of a group, whatever the order in which they come.
/// A name may stand for several machines, which do not know each other.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The group, as each has an order of its own.
    pub group: GroupId,
    /// The address that was kept last.
    pub last: Option<SocketAddr>,
    /// Whether to begin with the one that follows it, and not with itself.
    pub elsewhere: bool,
    /// Whether addresses of both families are tried at the same time, or all one after the other.
    pub together: bool,
}

impl Order {
    /// What is tried, in this order.
    pub fn places(&self, addresses: &[SocketAddr]) -> Vec<Place> {
        let [v4, v6] = [true, false].map(|is_v4| self.family(addresses, is_v4));
        let (first, second) = if self.begins_with_v6() || v4.is_empty() { (v6, v4) } else { (v4, v6) };
        let single = |preferred| Place { preferred, other: None };
        let mut places = Vec::new();
        for number in 0..first.len().max(second.len()) {
            match (first.get(number).copied(), second.get(number).copied()) {
                (Some(preferred), other @ Some(_)) if self.together => places.push(Place { preferred, other }),
                (one, other) => places.extend(one.into_iter().chain(other).map(single)),
            }
        }
        places
    }

    /// Whether there is an address at which it has not begun.
    pub fn has_others(&self, addresses: &[SocketAddr]) -> bool {
        [true, false].into_iter().any(|is_v4| self.family(addresses, is_v4).len() > 1)
    }

    /// One after the other, the one that worked comes first.
    fn begins_with_v6(&self) -> bool {
        !self.together && self.last.is_some_and(|last| last.is_ipv6())
    }

    fn family(&self, addresses: &[SocketAddr], is_v4: bool) -> Vec<SocketAddr> {
        let of_family: BTreeSet<SocketAddr> = addresses.iter().copied().filter(|it| it.is_ipv4() == is_v4).collect();
        let mut of_family: Vec<_> = of_family.into_iter().take(ADDRESSES_MAX).collect();
        of_family.sort_by_cached_key(|address| weight(&self.group, &address.to_string()));
        if let Some(place) = of_family.iter().position(|address| Some(*address) == self.last) {
            let count = of_family.len();
            of_family.rotate_left((place + usize::from(self.elsewhere)) % count);
        }
        of_family
    }
}

/// Orders names and addresses: alike for all who know the group, and differently for each group, so that groups spread
/// over servers.
pub fn weight(group: &GroupId, name: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    *hasher.update(b"fmi order of servers").update(group).update(name.as_bytes()).finalize().as_bytes()
}

/// One form for all spellings of `host:port`: ranks that write a name differently mean the same server.
pub fn canonical(name: &str) -> String {
    let name = name.trim();
    if let Ok(address) = name.parse::<SocketAddr>() {
        return address.to_string();
    }
    let (host, port) = name.rsplit_once(':').unwrap_or((name, ""));
    let port = port.parse::<u16>().map_or_else(|_| port.to_owned(), |port| port.to_string());
    format!("{}:{port}", host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The name has these addresses.
    Resolved(Vec<SocketAddr>),
    /// It has none, or whoever knows did not answer.
    Unresolved(io::ErrorKind),
    /// A connection of the attempt of this number is established.
    Connected(usize, Side),
    /// A connection of it failed.
    Failed(usize, Side, io::ErrorKind),
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Look the name up.
    Resolve,
    /// Begin the attempt of this number: to connect to all addresses of a place.
    Connect(usize, Place),
    /// Keep this connection, close all other attempts, and say nothing there.
    Won(usize, Side),
    /// Nothing answers. What is said is the last thing that a server did, if one did anything.
    Lost(io::ErrorKind),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Connecting,
    Connected,
    Failed,
}

#[derive(Debug)]
struct Running {
    place: Place,
    /// When IPv6's connection may be kept although IPv4's has not failed.
    alone_until: Instant,
    preferred: Progress,
    other: Progress,
}

/// One try to reach a server.
#[derive(Debug)]
pub struct Race {
    order: Order,
    queue: VecDeque<Place>,
    running: Vec<Running>,
    /// Addresses that failed the last time, for want of better ones.
    known: Vec<SocketAddr>,
    is_resolving: bool,
    next_at: Instant,
    failure: io::ErrorKind,
    is_over: bool,
    outputs: VecDeque<Output>,
}

impl Race {
    /// Starts with the addresses that are known. If they are not fresh, or there are none, the name is looked up.
    pub fn new(now: Instant, order: Order, known: Vec<SocketAddr>, is_fresh: bool) -> Self {
        let mut race = Self {
            order,
            queue: VecDeque::new(),
            running: Vec::new(),
            known,
            is_resolving: false,
            next_at: Instant::FAR_FUTURE,
            failure: io::ErrorKind::NotFound,
            is_over: false,
            outputs: VecDeque::new(),
        };
        if is_fresh && !race.known.is_empty() {
            race.enqueue_known();
            race.settle(now);
        } else {
            race.is_resolving = true;
            race.outputs.push_back(Output::Resolve);
            if !race.known.is_empty() {
                race.next_at = now + ATTEMPT_DELAY;
            }
        }
        race
    }

    /// Whether the answer to [`Output::Resolve`] is awaited.
    pub fn is_resolving(&self) -> bool {
        self.is_resolving && !self.is_over
    }

    /// Takes what happened. What comes after the end is ignored.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            // Nothing was asked.
            Input::Resolved(_) | Input::Unresolved(_) if !self.is_resolving => {}
            Input::Resolved(addresses) if !addresses.is_empty() => {
                self.is_resolving = false;
                self.known.clear();
                self.enqueue(&addresses);
                if let Some(last) = self.running.last().filter(|_| !self.queue.is_empty()) {
                    self.next_at = last.alone_until;
                }
            }
            Input::Resolved(_) => self.unresolved(io::ErrorKind::NotFound),
            Input::Unresolved(kind) => self.unresolved(kind),
            Input::Connected(attempt, side) => self.set(attempt, side, Progress::Connected),
            Input::Failed(attempt, side, kind) => {
                self.set(attempt, side, Progress::Failed);
                self.note(kind);
            }
        }
        self.settle(now);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.next_at && !self.is_over {
            if self.queue.is_empty() {
                self.enqueue_known();
            }
            self.begin_next(now);
        }
        self.settle(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.is_over {
            return None;
        }
        let standing = self.running.iter().filter(|it| it.other == Progress::Connected).map(|it| it.alone_until);
        let at = standing.fold(self.next_at, Instant::min);
        (at < Instant::FAR_FUTURE).then_some((at, "an attempt has been alone for long enough"))
    }

    fn unresolved(&mut self, kind: io::ErrorKind) {
        self.is_resolving = false;
        if self.running.is_empty() {
            self.failure = kind;
        }
        if !self.known.is_empty() {
            self.enqueue_known();
        }
    }

    fn enqueue_known(&mut self) {
        let known = std::mem::take(&mut self.known);
        self.enqueue(&known);
    }

    /// What has begun does not begin again.
    fn enqueue(&mut self, addresses: &[SocketAddr]) {
        let begun: BTreeSet<_> =
            self.running.iter().flat_map(|it| [Some(it.place.preferred), it.place.other]).flatten().collect();
        let fresh: Vec<_> = addresses.iter().copied().filter(|address| !begun.contains(address)).collect();
        self.queue = self.order.places(&fresh).into();
    }

    fn begin_next(&mut self, now: Instant) {
        self.next_at = Instant::FAR_FUTURE;
        let Some(place) = self.queue.pop_front() else { return };
        let other = if place.other.is_some() { Progress::Connecting } else { Progress::Failed };
        let alone_until = now + ATTEMPT_DELAY;
        self.outputs.push_back(Output::Connect(self.running.len(), place));
        self.running.push(Running { place, alone_until, preferred: Progress::Connecting, other });
        if !self.queue.is_empty() {
            self.next_at = alone_until;
        }
    }

    fn set(&mut self, attempt: usize, side: Side, progress: Progress) {
        let Some(running) = self.running.get_mut(attempt) else { return };
        let place = match side {
            Side::Preferred => &mut running.preferred,
            Side::Other => &mut running.other,
        };
        // What is decided stays so.
        if *place == Progress::Connecting {
            *place = progress;
        }
    }

    /// A machine without a family says nothing of a server.
    fn note(&mut self, kind: io::ErrorKind) {
        let says_little = matches!(
            kind,
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
        );
        if !says_little || self.failure == io::ErrorKind::NotFound {
            self.failure = kind;
        }
    }

    /// Ends the race if it is decided; begins the next attempt if nothing else is hoped for.
    fn settle(&mut self, now: Instant) {
        if self.is_over {
            return;
        }
        let winner = self.running.iter().position(|it| it.preferred == Progress::Connected);
        let standing = |it: &Running| {
            it.other == Progress::Connected && (it.preferred == Progress::Failed || now >= it.alone_until)
        };
        let winner = winner.map(|attempt| (attempt, Side::Preferred));
        let winner = winner.or_else(|| Some((self.running.iter().position(standing)?, Side::Other)));
        if let Some((attempt, side)) = winner {
            self.is_over = true;
            return self.outputs.push_back(Output::Won(attempt, side));
        }
        let is_hopeful = |it: &Running| [it.preferred, it.other].iter().any(|side| *side != Progress::Failed);
        if self.running.iter().any(is_hopeful) {
            return;
        }
        if !self.queue.is_empty() {
            self.begin_next(now);
        } else if !self.is_resolving {
            self.is_over = true;
            self.outputs.push_back(Output::Lost(self.failure));
        }
    }
}

#[cfg(test)]
mod tests;
