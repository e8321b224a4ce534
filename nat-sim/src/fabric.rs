//! The network between hosts: an event queue for each site, ordered by time and sequence.
//!
//! Pure state: whoever calls says what time it is. Within a site a packet goes from node to node by
//! events at exact times; to another site it leaves by the site's outbox, which the world sends
//! over turmoil's network.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::task::Waker;

use fmi_net::Machine;
use fmi_net::time::Instant;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

use crate::capture::Capture;
use crate::entropy::{Purpose, stream};
use crate::guard::{Arrived, Guard};
use crate::host::{ConnectionId, Effects, Host};
use crate::link::{Direction, LinkConfig};
use crate::names::Names;
use crate::nat::{DropReason, Mapping, Nat, Side, Verdict};
use crate::packet::Packet;
use crate::tamper::Tamper;
use crate::topology::{GatewayId, HostId, NetworkId, SiteId, Topology};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Host(usize),
    Gateway(usize, Side),
}

/// One node's place on one network.
#[derive(Debug)]
struct Attachment {
    node: Node,
    network: NetworkId,
    site: SiteId,
    link: LinkConfig,
    up: Direction,
    down: Direction,
}

#[derive(Debug)]
enum Happening {
    /// A packet reaches an attachment.
    Arrive(usize, Packet),
    /// A packet leaves its site for an attachment elsewhere.
    Depart(usize, Packet),
    /// A connection's timer.
    Timer(usize, ConnectionId),
    /// A gateway's timer.
    Gateway(usize),
}

#[derive(Debug)]
struct Event {
    at: Instant,
    sequence: u64,
    happening: Happening,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

#[derive(Debug, Default)]
struct Queue {
    events: BinaryHeap<Reverse<Event>>,
    outbox: VecDeque<(usize, Packet)>,
    waker: Option<Waker>,
    /// When the pump will look again by itself.
    planned: Option<Instant>,
}

/// How many packets are remembered that a gateway must not have let in.
const LET_IN_MAX: usize = 8;
/// Sees the packets that hosts send.
pub(crate) type Tap = Box<dyn FnMut(HostId, &Packet) + Send>;

/// The state of all networks, gateways and hosts.
pub(crate) struct Fabric {
    networks: Vec<String>,
    members: Vec<BTreeMap<IpAddr, usize>>,
    ways_out: Vec<Option<usize>>,
    attachments: Vec<Attachment>,
    host_attachments: Vec<usize>,
    outer_attachments: Vec<usize>,
    inner_attachments: Vec<usize>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) names: Names,
    /// What the processors of hosts can do.
    pub(crate) machines: Vec<Machine>,
    pub(crate) gateways: Vec<Nat>,
    guards: Vec<Guard>,
    /// By attachment.
    tampers: BTreeMap<usize, Tamper>,
    tampering: ChaCha8Rng,
    pub(crate) tampered: u64,
    pub(crate) let_in: Vec<String>,
    gateway_timers: Vec<Option<Instant>>,
    queues: Vec<Queue>,
    entropy: ChaCha8Rng,
    sequence: u64,
    pub(crate) events: u64,
    pub(crate) drops: BTreeMap<DropReason, u64>,
    pub(crate) lost: u64,
    pub(crate) capture: Capture,
    /// Sleeps of functions, to tell a world that waits from one that is stuck.
    pub(crate) sleeps: BTreeMap<(HostId, u64), Instant>,
    pub(crate) next_sleep: u64,
    pub(crate) tap: Option<Tap>,
}

impl std::fmt::Debug for Fabric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fabric").field("networks", &self.networks).field("events", &self.events).finish_non_exhaustive()
    }
}

impl Fabric {
    pub(crate) fn new(topology: &Topology, seed: u64, capture: Capture) -> Self {
        let mut fabric = Self {
            networks: topology.networks.clone(),
            members: vec![BTreeMap::new(); topology.networks.len()],
            ways_out: vec![None; topology.networks.len()],
            attachments: Vec::new(),
            host_attachments: Vec::new(),
            outer_attachments: Vec::new(),
            inner_attachments: Vec::new(),
            hosts: Vec::new(),
            names: Names::new(&topology.names),
            machines: topology.hosts.iter().map(|spec| spec.machine).collect(),
            gateways: Vec::new(),
            guards: topology.gateways.iter().map(|spec| Guard::new(spec.nat)).collect(),
            tampers: BTreeMap::new(),
            tampering: stream(seed, Purpose::Tampering, 0),
            tampered: 0,
            let_in: Vec::new(),
            gateway_timers: vec![None; topology.gateways.len()],
            queues: topology.sites.iter().map(|_| Queue::default()).collect(),
            entropy: stream(seed, Purpose::Links, 0),
            sequence: 0,
            events: 0,
            drops: BTreeMap::new(),
            lost: 0,
            capture,
            sleeps: BTreeMap::new(),
            next_sleep: 0,
            tap: None,
        };
        for (index, spec) in topology.hosts.iter().enumerate() {
            let entropy = stream(seed, Purpose::Hosts, index as u64);
            fabric.hosts.push(Host::new(spec.address, &spec.also, spec.tcp, entropy));
            let at = fabric.attach(Node::Host(index), spec.network, spec.site, spec.link.clone());
            for address in fabric.hosts[index].addresses() {
                fabric.members[spec.network.0].insert(*address, at);
            }
            fabric.host_attachments.push(at);
        }
        let mut seeds = stream(seed, Purpose::Gateways, 0);
        for (index, spec) in topology.gateways.iter().enumerate() {
            let addresses: Vec<_> = std::iter::once(spec.address).chain(spec.pool.iter().copied()).collect();
            fabric.gateways.push(Nat::with_pool(spec.nat, addresses.clone(), seeds.next_u64()));
            let outer = fabric.attach(Node::Gateway(index, Side::Outside), spec.outer, spec.site, spec.link.clone());
            for address in addresses {
                fabric.members[spec.outer.0].insert(address.into(), outer);
            }
            fabric.outer_attachments.push(outer);
            let inner_link = LinkConfig::with_latency(std::time::Duration::ZERO);
            let inner = fabric.attach(Node::Gateway(index, Side::Inside), spec.inner, spec.site, inner_link);
            fabric.ways_out[spec.inner.0] = Some(inner);
            fabric.inner_attachments.push(inner);
        }
        fabric.route(topology);
        fabric
    }

    /// Makes addresses that no gateway translates known on the networks outside.
    fn route(&mut self, topology: &Topology) {
        for host in &topology.hosts {
            let addresses = std::iter::once(IpAddr::V4(host.address)).chain(host.also.iter().copied());
            for address in addresses {
                let mut network = host.network;
                while let Some(way_out) = self.ways_out[network.0]
                    && let Node::Gateway(gateway, _) = self.attachments[way_out].node
                {
                    let spec = &topology.gateways[gateway];
                    if address.is_ipv4() && spec.nat.tcp.mapping != Mapping::None {
                        break;
                    }
                    self.members[spec.outer.0].entry(address).or_insert(self.outer_attachments[gateway]);
                    network = spec.outer;
                }
            }
        }
    }

    fn attach(&mut self, node: Node, network: NetworkId, site: SiteId, link: LinkConfig) -> usize {
        let (up, down) = (Direction::default(), Direction::default());
        self.attachments.push(Attachment { node, network, site, link, up, down });
        self.attachments.len() - 1
    }

    /// Changes the share of packets that a host's link loses.
    pub(crate) fn set_loss(&mut self, host: HostId, loss_ppm: u32) {
        self.attachments[self.host_attachments[host.0]].link.loss_ppm = loss_ppm;
    }

    /// Lets somebody on the way change what a host sends.
    pub(crate) fn tamper(&mut self, host: HostId, tamper: Tamper) {
        self.tampers.insert(self.host_attachments[host.0], tamper);
    }

    pub(crate) fn reboot(&mut self, gateway: GatewayId) {
        self.gateways[gateway.0].reboot();
        self.guards[gateway.0].forget();
    }

    /// A gateway gets another first address and forgets everything. Its pool stays, and so do the hosts behind it that
    /// show their own addresses.
    pub(crate) fn renumber(&mut self, gateway: GatewayId, address: Ipv4Addr) {
        let outer = self.outer_attachments[gateway.0];
        let members = &mut self.members[self.attachments[outer].network.0];
        members.remove(&self.gateways[gateway.0].external().into());
        members.insert(address.into(), outer);
        self.gateways[gateway.0].change_address(address);
        self.guards[gateway.0].forget();
    }

    /// The power of a site is cut: what is on its way within it is gone, and its gateways forget.
    pub(crate) fn crash_site(&mut self, site: SiteId) {
        let queue = &mut self.queues[site.0];
        queue.events.clear();
        queue.outbox.clear();
        (queue.waker, queue.planned) = (None, None);
        for gateway in 0..self.gateways.len() {
            if self.attachments[self.outer_attachments[gateway]].site == site {
                self.gateways[gateway].reboot();
                self.guards[gateway].forget();
                self.gateway_timers[gateway] = None;
            }
        }
    }

    fn schedule(&mut self, site: SiteId, at: Instant, happening: Happening) {
        let event = Event { at, sequence: self.sequence, happening };
        self.sequence += 1;
        let queue = &mut self.queues[site.0];
        queue.events.push(Reverse(event));
        if queue.planned.is_none_or(|planned| at < planned)
            && let Some(waker) = queue.waker.take()
        {
            waker.wake();
        }
    }

    /// Puts a packet on the network of an attachment.
    fn send(&mut self, now: Instant, from: usize, mut packet: Packet) {
        if let Some(tamper) = self.tampers.get_mut(&from) {
            self.tampered += u64::from(tamper.touch(&mut self.tampering, &mut packet));
        }
        let network = self.attachments[from].network;
        self.capture.packet(now, network.0, &self.networks[network.0], &packet);
        let to = self.members[network.0].get(&packet.destination()).copied().or(self.ways_out[network.0]);
        let Some(to) = to.filter(|to| *to != from || self.is_own(from, &packet)) else {
            self.lost += 1;
            return;
        };
        let length = packet.bytes().len();
        let Attachment { up, link, site, .. } = &mut self.attachments[from];
        let site = *site;
        let arrivals = up.transit(link, now, length, &mut self.entropy);
        if arrivals[0].is_none() {
            self.lost += 1;
        }
        for at in arrivals.into_iter().flatten() {
            if self.attachments[to].site == site {
                self.descend(at, to, packet.clone());
            } else {
                self.schedule(site, at, Happening::Depart(to, packet.clone()));
            }
        }
    }

    /// A host may send to itself.
    fn is_own(&self, attachment: usize, packet: &Packet) -> bool {
        matches!(self.attachments[attachment].node, Node::Host(host) if self.hosts[host].addresses().contains(&packet.destination()))
    }

    /// Takes a packet down the last link to an attachment of the same site.
    fn descend(&mut self, now: Instant, to: usize, packet: Packet) {
        let Attachment { down, link, site, .. } = &mut self.attachments[to];
        let site = *site;
        let arrivals = down.transit(link, now, packet.bytes().len(), &mut self.entropy);
        if arrivals[0].is_none() {
            self.lost += 1;
        }
        let [first, second] = arrivals;
        if let Some(at) = second {
            self.schedule(site, at, Happening::Arrive(to, packet.clone()));
        }
        if let Some(at) = first {
            self.schedule(site, at, Happening::Arrive(to, packet));
        }
    }

    /// A packet comes in from another site.
    pub(crate) fn arrive_from_afar(&mut self, now: Instant, to: usize, packet: Packet) {
        if to < self.attachments.len() {
            self.descend(now, to, packet);
        }
    }

    /// Handles all events of a site up to `now`; returns the time of the next one.
    pub(crate) fn run_until(&mut self, site: SiteId, now: Instant) -> Option<Instant> {
        loop {
            let queue = &mut self.queues[site.0];
            match queue.events.peek() {
                Some(Reverse(event)) if event.at <= now => {}
                next => {
                    let next = next.map(|Reverse(event)| event.at);
                    queue.planned = next;
                    return next;
                }
            }
            let Some(Reverse(Event { at, happening, .. })) = queue.events.pop() else { continue };
            self.events += 1;
            match happening {
                Happening::Arrive(to, packet) => self.arrive(at, to, packet),
                Happening::Depart(to, packet) => self.queues[site.0].outbox.push_back((to, packet)),
                Happening::Timer(host, id) => {
                    self.with_host(HostId(host), at, |host, effects| host.timer(at, id, effects))
                }
                Happening::Gateway(gateway) => {
                    self.gateway_timers[gateway] = None;
                    for verdict in self.gateways[gateway].tick(at) {
                        self.carry_out(at, gateway, verdict);
                    }
                    self.plan_gateway(gateway);
                }
            }
        }
    }

    fn arrive(&mut self, now: Instant, to: usize, packet: Packet) {
        match self.attachments[to].node {
            Node::Host(host) => self.with_host(HostId(host), now, |host, effects| host.receive(now, packet, effects)),
            Node::Gateway(gateway, side) => {
                let before = Arrived::new(&packet);
                let nat = &mut self.gateways[gateway];
                let verdict = match side {
                    Side::Inside => nat.outbound(now, packet),
                    Side::Outside => nat.inbound(now, packet),
                };
                if let Some(wrong) = self.guards[gateway].judge(now, side, before, &verdict)
                    && self.let_in.len() < LET_IN_MAX
                {
                    self.let_in.push(format!("gateway {}: {wrong}", self.gateways[gateway].external()));
                }
                self.carry_out(now, gateway, verdict);
                while let Some(verdict) = self.gateways[gateway].next_verdict() {
                    self.carry_out(now, gateway, verdict);
                }
                self.plan_gateway(gateway);
            }
        }
    }

    fn carry_out(&mut self, now: Instant, gateway: usize, verdict: Verdict) {
        match verdict {
            Verdict::Forward(side, packet) | Verdict::Untranslated(side, packet) | Verdict::Reply(side, packet) => {
                let at = match side {
                    Side::Inside => self.inner_attachments[gateway],
                    Side::Outside => self.outer_attachments[gateway],
                };
                self.send(now, at, packet);
            }
            Verdict::Held => self.capture.event(now, "held", &self.gateways[gateway].external().to_string()),
            Verdict::Drop(reason) => {
                *self.drops.entry(reason).or_default() += 1;
                let detail = format!("{reason:?} at {}", self.gateways[gateway].external());
                self.capture.event(now, "drop", &detail);
            }
        }
    }

    fn plan_gateway(&mut self, gateway: usize) {
        let Some(at) = self.gateways[gateway].next_deadline() else { return };
        if self.gateway_timers[gateway].is_none_or(|set| at < set) {
            self.gateway_timers[gateway] = Some(at);
            let site = self.attachments[self.outer_attachments[gateway]].site;
            self.schedule(site, at, Happening::Gateway(gateway));
        }
    }

    /// Lets a host do something and carries out what follows.
    pub(crate) fn with_host<R>(
        &mut self,
        host: HostId,
        now: Instant,
        act: impl FnOnce(&mut Host, &mut Effects) -> R,
    ) -> R {
        let mut effects = Effects::default();
        let result = act(&mut self.hosts[host.0], &mut effects);
        let attachment = self.host_attachments[host.0];
        let site = self.attachments[attachment].site;
        for packet in effects.packets {
            if let Some(tap) = &mut self.tap {
                tap(host, &packet);
            }
            self.send(now, attachment, packet);
        }
        for (at, id) in effects.timers {
            self.schedule(site, at, Happening::Timer(host.0, id));
        }
        self.lost += effects.lost;
        result
    }

    pub(crate) fn take_outbox(&mut self, site: SiteId) -> Option<(SiteId, usize, Packet)> {
        let (to, packet) = self.queues[site.0].outbox.pop_front()?;
        Some((self.attachments[to].site, to, packet))
    }

    pub(crate) fn set_waker(&mut self, site: SiteId, waker: &Waker) {
        self.queues[site.0].waker = Some(waker.clone());
    }

    /// When the next event of a site is due.
    pub(crate) fn next_event(&self, site: SiteId) -> Option<Instant> {
        self.queues[site.0].events.peek().map(|Reverse(event)| event.at)
    }

    /// Whether anything will ever happen by itself.
    pub(crate) fn is_idle(&self) -> bool {
        self.queues.iter().all(|queue| queue.events.is_empty() && queue.outbox.is_empty())
    }

    pub(crate) fn progress(&self) -> u64 {
        self.hosts.iter().map(|host| host.progress).sum()
    }
}
