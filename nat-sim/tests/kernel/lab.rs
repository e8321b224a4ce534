//! A chain of real gateways in network namespaces, and raw sockets on both of its ends.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::time::Duration;

use nat_sim::nat::Side;
use nat_sim::packet::Packet;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

use super::netns::{Cleanup, feed, run};

/// Does something with a namespace as the current one.
pub(crate) fn within<T>(namespace: &str, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let enter = |file: &File| {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(io::Error::from)
    };
    let home = File::open("/proc/thread-self/ns/net")?;
    enter(&File::open(format!("/run/netns/{namespace}"))?)?;
    let result = act();
    enter(&home)?;
    result
}

/// The mark of our own packets, which the hosts' firewalls let out; what the hosts' kernels would say
/// themselves stays in.
const MARK: u32 = 7;
/// Port of the markers, at both ends.
const MARKER: u16 = 9;
/// For a packet that must come. Long, as the machine may be busy; nothing waits so long that is right.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const HOSTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)];
pub(crate) const REMOTES: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 2), Ipv4Addr::new(203, 0, 113, 3)];
pub(crate) const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Between two gateways.
pub(crate) const MIDDLE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);

/// Raw sockets of one end.
pub(crate) struct End {
    sender: Socket,
    tcp: Socket,
    udp: Socket,
    icmp: Socket,
}

impl End {
    pub(crate) fn open(namespace: &str) -> io::Result<Self> {
        within(namespace, || {
            let raw = |protocol| {
                let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol))?;
                socket.set_recv_buffer_size(1 << 20)?;
                Ok::<_, io::Error>(socket)
            };
            let sender = raw(Protocol::UDP)?;
            sender.set_header_included_v4(true)?;
            sender.set_mark(MARK)?;
            let (tcp, udp, icmp) = (raw(Protocol::TCP)?, raw(Protocol::UDP)?, raw(Protocol::ICMPV4)?);
            tcp.set_nonblocking(true)?;
            icmp.set_nonblocking(true)?;
            udp.set_read_timeout(Some(PATIENCE))?;
            Ok(Self { sender, tcp, udp, icmp })
        })
    }

    pub(crate) fn send(&self, packet: &Packet) {
        let to = match packet.destination() {
            std::net::IpAddr::V4(address) => SocketAddr::from((address, 0)),
            std::net::IpAddr::V6(_) => unreachable!("all of it is IPv4"),
        };
        self.sender.send_to(packet.bytes(), &to.into()).expect("a raw socket sends");
    }

    /// Waits for a segment.
    pub(crate) fn next_segment(&self) -> Packet {
        self.tcp.set_nonblocking(false).expect("set");
        self.tcp.set_read_timeout(Some(PATIENCE)).expect("set");
        let packet = read(&self.tcp).expect("a segment comes");
        self.tcp.set_nonblocking(true).expect("set");
        packet
    }

    /// What has arrived since the last look, up to the marker.
    pub(crate) fn collect(&self) -> Vec<Packet> {
        let mut packets = Vec::new();
        loop {
            let packet = read(&self.udp).expect("a marker arrives");
            if packet.payload() == b"marker" {
                break;
            }
            packets.push(packet);
        }
        packets.extend(std::iter::from_fn(|| read(&self.tcp)));
        packets.extend(std::iter::from_fn(|| read(&self.icmp)));
        packets
    }
}

/// Keeps what a namespace's kernel says by itself from leaving.
pub(crate) fn silence(namespace: &str) -> Result<(), String> {
    let quiet = format!(
        "table ip quiet {{
           chain output {{ type filter hook output priority 0; policy drop; meta mark {MARK} accept; }}
         }}
         "
    );
    feed(&["ip", "netns", "exec", namespace, "nft", "-f", "-"], &quiet)
}

/// The gateways and what is seen of them.
pub(crate) struct Lab {
    prefix: String,
    gateways: usize,
    inside: End,
    outside: End,
    /// Where markers from inside show up outside.
    marker: SocketAddrV4,
}

impl Drop for Lab {
    fn drop(&mut self) {
        for node in self.nodes() {
            let _ = run(&format!("ip netns del {node}"));
        }
    }
}

impl Lab {
    fn nodes(&self) -> Vec<String> {
        let gateways = (0..self.gateways).map(|number| format!("{}g{number}", self.prefix));
        [format!("{}in", self.prefix), format!("{}out", self.prefix)].into_iter().chain(gateways).collect()
    }

    /// Builds `in -- g0 (-- g1) -- out`. Each gateway gets its rules, in nft's words, where `wan` is its
    /// outer device.
    pub(crate) fn build(name: &str, rules: &[String]) -> Result<Self, String> {
        let prefix = format!("ns{}{name}", std::process::id() % 100_000);
        let (inside, outside) = (format!("{prefix}in"), format!("{prefix}out"));
        let gateways: Vec<_> = (0..rules.len()).map(|number| format!("{prefix}g{number}")).collect();
        let mut cleanup = Cleanup(Vec::new());
        for node in [&inside, &outside].into_iter().chain(&gateways) {
            run(&format!("ip netns add {node}"))?;
            cleanup.0.push(node.clone());
            run(&format!("ip -n {node} link set lo up"))?;
            for setting in
                ["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0", "net.ipv4.icmp_ratelimit=0"]
            {
                run(&format!("ip netns exec {node} sysctl -qw {setting}"))?;
            }
        }
        // From inside to outside: hosts' link, links between gateways, the last one's to the internet.
        let mut chain = vec![(inside.clone(), "eth")];
        for gateway in &gateways {
            chain.push((gateway.clone(), "lan"));
            chain.push((gateway.clone(), "wan"));
        }
        chain.push((outside.clone(), "eth"));
        for pair in chain.chunks(2) {
            let [(a, a_device), (b, b_device)] = pair else { unreachable!("two ends of a link") };
            run(&format!("ip link add {a_device} netns {a} type veth peer name {b_device} netns {b}"))?;
            run(&format!("ip -n {a} link set {a_device} up"))?;
            run(&format!("ip -n {b} link set {b_device} up"))?;
        }
        let add = |node: &str, address: Ipv4Addr, device: &str| {
            run(&format!("ip -n {node} addr add {address}/24 dev {device}"))
        };
        for host in HOSTS {
            add(&inside, host, "eth")?;
        }
        for remote in REMOTES {
            add(&outside, remote, "eth")?;
        }
        add(&gateways[0], Ipv4Addr::new(10, 0, 0, 1), "lan")?;
        if gateways.len() == 2 {
            add(&gateways[0], MIDDLE, "wan")?;
            add(&gateways[1], Ipv4Addr::new(100, 64, 0, 2), "lan")?;
            run(&format!("ip -n {} route add default via 100.64.0.2", gateways[0]))?;
        }
        add(gateways.last().expect("one at least"), EXTERNAL, "wan")?;
        run(&format!("ip -n {inside} route add default via 10.0.0.1"))?;
        // What leaks untranslated must not die for want of a way back.
        run(&format!("ip -n {outside} route add default via {EXTERNAL}"))?;
        for (gateway, rules) in gateways.iter().zip(rules) {
            run(&format!("ip netns exec {gateway} sysctl -qw net.ipv4.ip_forward=1"))?;
            feed(&["ip", "netns", "exec", gateway, "nft", "-f", "-"], rules)?;
        }
        for end in [&inside, &outside] {
            silence(end)?;
        }
        let open = |node: &str| End::open(node).map_err(|error| format!("raw sockets: {error}"));
        let (inside, outside) = (open(&inside)?, open(&outside)?);
        cleanup.0.clear();
        let marker = SocketAddrV4::new(EXTERNAL, MARKER);
        let mut lab = Self { prefix, gateways: gateways.len(), inside, outside, marker };
        lab.reset();
        Ok(lab)
    }

    fn gateway(&self, number: usize) -> String {
        format!("{}g{number}", self.prefix)
    }

    /// Forgets all connections, and finds the way for markers anew.
    pub(crate) fn reset(&mut self) {
        for number in 0..self.gateways {
            run(&format!("ip netns exec {} conntrack -F", self.gateway(number))).expect("conntrack flushes");
        }
        self.send_marker(Side::Inside);
        let seen = self.await_marker(Side::Outside);
        self.marker = seen.flow().expect("udp").source;
        self.drain();
    }

    fn send_marker(&self, from: Side) {
        let (inside, outside) = (SocketAddrV4::new(HOSTS[0], MARKER), SocketAddrV4::new(REMOTES[0], MARKER));
        match from {
            Side::Inside => self.inside.send(&Packet::udp(inside.into(), outside.into(), b"marker")),
            Side::Outside => self.outside.send(&Packet::udp(outside.into(), self.marker.into(), b"marker")),
        }
    }

    fn end(&self, side: Side) -> &End {
        match side {
            Side::Inside => &self.inside,
            Side::Outside => &self.outside,
        }
    }

    /// Waits for the marker; other datagrams before it are kept for nobody.
    fn await_marker(&self, at: Side) -> Packet {
        loop {
            let packet = read(&self.end(at).udp).unwrap_or_else(|| panic!("no marker arrives at {at:?}"));
            if packet.payload() == b"marker" {
                return packet;
            }
        }
    }

    fn collect(&self, at: Side) -> Vec<Packet> {
        self.end(at).collect()
    }

    fn drain(&self) {
        for end in [&self.inside, &self.outside] {
            while read(&end.tcp).is_some() || read(&end.icmp).is_some() {}
        }
    }

    /// Sends a packet from one end. Returns what arrives at the other, and what comes back.
    pub(crate) fn play(&self, from: Side, packet: &Packet) -> (Vec<Packet>, Vec<Packet>) {
        let to = if from == Side::Inside { Side::Outside } else { Side::Inside };
        self.end(from).send(packet);
        // Packets are handled in order: when a marker is there, so is everything before it.
        self.send_marker(from);
        let arrived = self.collect(to);
        self.send_marker(to);
        (arrived, self.collect(from))
    }

    /// The tracker's entries of TCP on a gateway, markers left out.
    pub(crate) fn entries(&self, gateway: usize) -> Vec<Entry> {
        let output =
            run(&format!("ip netns exec {} conntrack -L -p tcp", self.gateway(gateway))).expect("conntrack lists");
        String::from_utf8_lossy(&output.stdout).lines().filter_map(Entry::parse).collect()
    }
}

/// One line of the tracker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) state: String,
    pub(crate) is_unreplied: bool,
    /// Source and destination as the connection began.
    pub(crate) original: (SocketAddrV4, SocketAddrV4),
    /// The same of the answers.
    pub(crate) reply: (SocketAddrV4, SocketAddrV4),
    pub(crate) seconds_left: u64,
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        let values = |key: &str| words.iter().filter_map(|word| word.strip_prefix(key)).collect::<Vec<_>>();
        let (sources, destinations) = (values("src="), values("dst="));
        let (from, to) = (values("sport="), values("dport="));
        let endpoint = |ip: &[&str], port: &[&str], index: usize| {
            Some(SocketAddrV4::new(ip.get(index)?.parse().ok()?, port.get(index)?.parse().ok()?))
        };
        let tuple = |index| Some((endpoint(&sources, &from, index)?, endpoint(&destinations, &to, index)?));
        Some(Self {
            state: (*words.get(3)?).to_owned(),
            is_unreplied: words.contains(&"[UNREPLIED]"),
            original: tuple(0)?,
            reply: tuple(1)?,
            seconds_left: words.get(2)?.parse().ok()?,
        })
    }
}

/// The next packet of a raw socket, if there is one.
fn read(mut socket: &Socket) -> Option<Packet> {
    let mut bytes = vec![0; 2048];
    let length = match io::Read::read(&mut socket, &mut bytes) {
        Ok(length) => length,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return None,
        Err(error) => panic!("a raw socket fails: {error}"),
    };
    bytes.truncate(length);
    Some(Packet::parse(bytes).expect("the kernel hands over whole packets"))
}
