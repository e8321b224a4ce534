//! The host's TCP: the same segments and ICMP errors, made by hand, to a real kernel and to a host of
//! the lab. What each answers, and what becomes of its `connect` and its listener, must agree; where it
//! does not, [`DIFFERENCES`] says what follows from that.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fmi_net::{Listener, Net};
use futures_util::future::{Either, select};
use nat_sim::host::SYN_TIMES;
use nat_sim::packet::Packet;
use nat_sim::topology::{HostSpec, INTERNET, Topology};
use nat_sim::{SimNet, World};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::gateway::{segment, shared};
use super::lab::{End, silence, within};
use super::netns::{Cleanup, run};
use super::trials::{Case, Needs};

pub(super) const SUBJECT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub(super) const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The host's port in the first case; each further one has its own, so that what is left of one is not
/// taken for a part of the next.
pub(super) const PORT: u16 = 5000;
pub(super) const PEER_PORT: u16 = 6000;
/// The peer's initial sequence number.
pub(super) const ISN: u32 = 70_000;

/// What is done to the host, and what comes from its peer. Numbers of the host count from its own
/// initial sequence number.
#[derive(Clone, Copy, Debug)]
enum Act {
    Listen,
    Connect,
    /// Flags, sequence number from [`ISN`], acknowledgement from the host's number.
    Segment(&'static str, u32, u32),
    /// The same from another port of the peer.
    Elsewhere(&'static str, u32, u32),
    /// An ICMP error about the host's SYN, off by so much in the quoted number.
    Icmp(u8, u8, u32),
}
use Act::{Connect, Elsewhere, Icmp, Listen};

#[expect(non_snake_case, reason = "it reads as the variant that it makes")]
fn Seg(flags: &'static str, sequence: u32, acknowledgement: u32) -> Act {
    Act::Segment(flags, sequence, acknowledgement)
}

/// What is seen after an act.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// Flags and relative numbers of new segments.
    segments: Vec<String>,
    /// `pending`, `connected`, or the error of the last `connect`.
    connect: String,
    accepted: usize,
}

fn scripts() -> Vec<(String, Vec<Act>)> {
    let mut cases: Vec<(String, Vec<Act>)> = Vec::new();
    let mut add = |name: &str, acts: &[Act]| cases.push((name.to_owned(), acts.to_vec()));
    add("nothing, SYN", &[Seg("S", 0, 0)]);
    add("nothing, SYN|ACK", &[Seg("S.", 0, 1)]);
    add("nothing, ACK", &[Seg(".", 1, 1)]);
    add("nothing, FIN|ACK", &[Seg("F.", 1, 1)]);
    add("nothing, RST", &[Seg("R", 1, 0)]);
    for (name, act) in [
        ("RST|ACK", Seg("R.", 0u32.wrapping_sub(ISN), 1)),
        ("RST|ACK with a number", Seg("R.", 12_345, 1)),
        ("RST without ACK", Seg("R", 0, 0)),
        ("RST|ACK too low", Seg("R.", 0, 0)),
        ("RST|ACK too high", Seg("R.", 0, 2)),
        ("ACK", Seg(".", 1, 1)),
        ("ACK too high", Seg(".", 1, 77)),
        ("SYN|ACK too high", Seg("S.", 0, 77)),
        ("FIN|ACK", Seg("F.", 1, 1)),
        ("SYN|ACK", Seg("S.", 0, 1)),
        ("SYN", Seg("S", 0, 0)),
    ] {
        add(&format!("SYN-SENT, {name}"), &[Connect, act]);
    }
    for (kind, code) in (0..16).map(|code| (3, code)).chain([(11, 0), (11, 1), (4, 0), (5, 1), (12, 0)]) {
        add(&format!("SYN-SENT, ICMP {kind}/{code}"), &[Connect, Icmp(kind, code, 0)]);
    }
    add("SYN-SENT, ICMP 3/1 out of window", &[Connect, Icmp(3, 1, 100_000)]);
    for (name, act) in [
        ("ACK", Seg(".", 1, 1)),
        ("SYN|ACK", Seg("S.", 0, 1)),
        ("the SYN again", Seg("S", 0, 0)),
        ("another SYN", Seg("S", 5_000_000, 0)),
        ("RST|ACK of zero", Seg("R.", 0u32.wrapping_sub(ISN), 1)),
        ("RST, exact", Seg("R", 1, 0)),
        ("RST, in window", Seg("R", 101, 0)),
        ("ICMP 3/1", Icmp(3, 1, 0)),
    ] {
        add(&format!("SYN-RECEIVED by two SYNs, {name}"), &[Connect, Seg("S", 0, 0), act]);
    }
    add("two SYNs to the end", &[Connect, Seg("S", 0, 0), Seg("S.", 0, 1), Seg(".", 1, 1)]);
    add("listening, SYN, ACK", &[Listen, Seg("S", 0, 0), Seg(".", 1, 1)]);
    add("listening, SYN, RST", &[Listen, Seg("S", 0, 0), Seg("R", 1, 0)]);
    add("listening, stray ACK", &[Listen, Seg(".", 1, 1)]);
    add("listening and SYN-SENT, SYN", &[Listen, Connect, Seg("S", 0, 0), Seg(".", 1, 1)]);
    add(
        "listening and SYN-SENT, SYN from another port",
        &[Listen, Connect, Elsewhere("S", 0, 0), Elsewhere(".", 1, 1)],
    );
    add("listening, SYN, connect", &[Listen, Seg("S", 0, 0), Connect]);
    add("listening, SYN, ACK, connect", &[Listen, Seg("S", 0, 0), Seg(".", 1, 1), Connect]);
    add(
        "listening and refused, SYN",
        &[Listen, Connect, Seg("R.", 0u32.wrapping_sub(ISN), 1), Seg("S", 0, 0), Seg(".", 1, 1)],
    );
    add("refused, connect again", &[Connect, Seg("R.", 0u32.wrapping_sub(ISN), 1), Connect, Seg("S.", 0, 1)]);
    add("established, RST exact", &[Connect, Seg("S.", 0, 1), Seg("R", 1, 0)]);
    add("established, SYN", &[Connect, Seg("S.", 0, 1), Seg("S", 5_000_000, 0)]);
    cases
}

/// Where the lab's host differs, and what follows.
const DIFFERENCES: &[(&str, &str)] = &[];

/// The packets of a script, and the reading of the answers: the same for both hosts.
#[derive(Default)]
struct Peer {
    port: u16,
    /// The host's initial number, of its last SYN or SYN|ACK.
    host_isn: Option<u32>,
    seen: BTreeSet<String>,
}

impl Peer {
    fn packet(&self, act: Act) -> Option<Packet> {
        let host = SocketAddrV4::new(SUBJECT, self.port);
        let isn = self.host_isn.unwrap_or(0);
        let from = |port: u16, flags, sequence: u32, acknowledgement: u32| {
            let segment = segment(flags, ISN.wrapping_add(sequence), isn.wrapping_add(acknowledgement));
            Packet::tcp(SocketAddrV4::new(PEER, port), host, segment, &[])
        };
        Some(match act {
            Act::Segment(flags, sequence, acknowledgement) => from(PEER_PORT, flags, sequence, acknowledgement),
            Elsewhere(flags, sequence, acknowledgement) => from(PEER_PORT + 1, flags, sequence, acknowledgement),
            Icmp(kind, code, off) => {
                let syn =
                    Packet::tcp(host, SocketAddrV4::new(PEER, PEER_PORT), segment("S", isn.wrapping_add(off), 0), &[]);
                let error = syn.unreachable_reply(PEER, code).expect("an error");
                let mut bytes = error.bytes().to_vec();
                // The same error of another type: only the first word and the checksum change.
                let sum = |bytes: &[u8]| -> u16 {
                    let sum: u32 = bytes
                        .chunks(2)
                        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
                        .sum();
                    let folded = (sum & 0xffff) + (sum >> 16);
                    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded")
                };
                bytes[20] = kind;
                bytes[22..24].fill(0);
                let checksum = sum(&bytes[20..]);
                bytes[22..24].copy_from_slice(&checksum.to_be_bytes());
                Packet::parse(bytes).expect("whole")
            }
            Listen | Connect => return None,
        })
    }

    /// New segments, in relative numbers. Repetitions are a matter of timers.
    fn read(&mut self, packets: Vec<Packet>) -> Vec<String> {
        let mut segments = Vec::new();
        for packet in packets {
            let (Some(segment), Some(flow)) = (packet.segment(), packet.flow()) else { continue };
            if flow.source.port() != self.port {
                continue;
            }
            if segment.syn {
                self.host_isn = Some(segment.sequence);
            }
            let flags = [(segment.syn, 'S'), (segment.fin, 'F'), (segment.rst, 'R'), (segment.ack, '.')];
            let flags: String = flags.into_iter().filter_map(|(set, letter)| set.then_some(letter)).collect();
            let isn = self.host_isn.unwrap_or(0);
            let sequence = segment.sequence.wrapping_sub(isn);
            let acknowledgement = if segment.ack { segment.acknowledgement.wrapping_sub(ISN) } else { 0 };
            let text = format!("{flags} {sequence} {acknowledgement}");
            if self.seen.insert(format!("{text} {}", segment.sequence)) {
                segments.push(text);
            }
        }
        segments
    }
}

/// A real host and a peer made of raw sockets.
pub(super) struct RealPair {
    pub(super) subject: String,
    pub(super) peer: End,
    marker: UdpSocket,
    _cleanup: Cleanup,
}

pub(super) fn shared_socket(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(SocketAddr::from((SUBJECT, port))))?;
    Ok(socket)
}

impl RealPair {
    pub(super) fn build(name: &str) -> Result<Self, String> {
        let prefix = format!("ns{}{name}", std::process::id() % 100_000);
        let (subject, peer) = (format!("{prefix}x"), format!("{prefix}y"));
        let mut cleanup = Cleanup(Vec::new());
        for node in [&subject, &peer] {
            run(&format!("ip netns add {node}"))?;
            cleanup.0.push(node.clone());
            run(&format!("ip -n {node} link set lo up"))?;
        }
        run(&format!("ip link add eth netns {subject} type veth peer name eth netns {peer}"))?;
        for (node, address) in [(&subject, SUBJECT), (&peer, PEER)] {
            // Each packet holds one segment, as on the wire.
            run(&format!("ip -n {node} link set eth up gso_max_segs 1"))?;
            run(&format!("ip -n {node} addr add {address}/24 dev eth"))?;
        }
        silence(&peer)?;
        let end = End::open(&peer).map_err(|error| error.to_string())?;
        let marker = within(&subject, || UdpSocket::bind((SUBJECT, 9))).map_err(|error| error.to_string())?;
        marker.set_read_timeout(Some(Duration::from_secs(10))).map_err(|error| error.to_string())?;
        Ok(Self { subject, peer: end, marker, _cleanup: cleanup })
    }

    /// Everything that was sent before has been handled, on both ends.
    pub(super) fn settle(&self) -> Vec<Packet> {
        self.peer.send(&Packet::udp(SocketAddr::from((PEER, 9)), SocketAddr::from((SUBJECT, 9)), b"marker"));
        let mut bytes = [0; 16];
        self.marker.recv(&mut bytes).expect("a marker arrives");
        self.marker.send_to(b"marker", (PEER, 9)).expect("sent");
        self.peer.collect()
    }

    fn play(&self, port: u16, acts: &[Act]) -> Vec<Seen> {
        let mut peer = Peer { port, ..Peer::default() };
        let mut listener: Option<Socket> = None;
        let mut connecting: Option<Socket> = None;
        let (mut connect, mut accepted, mut kept) = (String::new(), 0, Vec::new());
        let mut seen = Vec::new();
        for act in acts {
            match act {
                Listen => {
                    let socket = within(&self.subject, || shared_socket(port)).expect("a socket");
                    socket.listen(8).expect("listens");
                    listener = Some(socket);
                }
                Connect => {
                    let socket = within(&self.subject, || shared_socket(port)).expect("a socket");
                    connect = match socket.connect(&SockAddr::from(SocketAddr::from((PEER, PEER_PORT)))) {
                        Err(error) if error.raw_os_error() != Some(IN_PROGRESS) => named(error.kind()),
                        _ => "pending".into(),
                    };
                    kept.extend(connecting.replace(socket));
                }
                Act::Segment(..) | Elsewhere(..) | Icmp(..) => {
                    self.peer.send(&peer.packet(*act).expect("a packet"));
                }
            }
            let packets = self.settle();
            if let (Some(socket), "pending") = (&connecting, connect.as_str()) {
                // To connect once more asks how the first attempt stands.
                let stands = socket.connect(&SockAddr::from(SocketAddr::from((PEER, PEER_PORT))));
                connect = match stands.map_err(|error| (error.raw_os_error(), error.kind())) {
                    Ok(()) | Err((Some(IS_CONNECTED), _)) => "connected".into(),
                    Err((Some(ALREADY), _)) => "pending".into(),
                    Err((_, kind)) => named(kind),
                };
            }
            while let Some(Ok((stream, _))) = listener.as_ref().map(Socket::accept) {
                accepted += 1;
                kept.push(stream);
            }
            seen.push(Seen { segments: peer.read(packets), connect: connect.clone(), accepted });
        }
        // Ends without a word to the next case: the peer's answers would come to nobody.
        for socket in kept.iter().chain(&connecting) {
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
        drop((kept, connecting, listener));
        self.settle();
        seen
    }
}

/// EINPROGRESS, EALREADY and EISCONN on Linux.
const IN_PROGRESS: i32 = 115;
const ALREADY: i32 = 114;
const IS_CONNECTED: i32 = 106;

/// The lab has no errors without a kind.
pub(super) fn named(kind: io::ErrorKind) -> String {
    let name = format!("{kind:?}");
    if name == "Uncategorized" { "Other".into() } else { name }
}

#[derive(Default)]
struct Progress {
    connect: String,
    accepted: usize,
}

async fn pause(net: &SimNet, micros: u64) {
    let until = Net::now(net) + Duration::from_micros(micros);
    Net::sleep_until(net, until).await;
}

/// Plays a script on a host of the lab.
#[expect(clippy::too_many_lines, reason = "two programs that take turns, side by side")]
fn simulated(acts: &[Act]) -> Vec<Seen> {
    let mut topology = Topology::new();
    let mut host = |address: Ipv4Addr| topology.host(HostSpec::plain(INTERNET, address, Duration::ZERO));
    let (subject, peer) = (host(SUBJECT), host(PEER));
    let mut world = World::new(topology, 1, Duration::from_micros(10));
    let progress = Arc::new(Mutex::new(Progress::default()));
    // The host acts at even steps of 100 us, the peer between them.
    let (script, state) = (acts.to_vec(), progress.clone());
    world.function(subject, Duration::ZERO, move |net| {
        let (script, state) = (script.clone(), state.clone());
        async move {
            let set = |connect: String| state.lock().expect("no panic").connect = connect;
            let local = SocketAddr::from((SUBJECT, PORT));
            let mut streams = Vec::new();
            let mut listener = None;
            let mut connecting = None;
            for act in &script {
                match act {
                    Listen => listener = Some(net.listen(local, 8).expect("listens")),
                    Connect => {
                        set("pending".into());
                        connecting = Some(Box::pin(net.connect(local, SocketAddr::from((PEER, PEER_PORT)))));
                    }
                    Act::Segment(..) | Elsewhere(..) | Icmp(..) => {}
                }
                let end = Net::now(&net) + Duration::from_micros(100);
                loop {
                    let rest = net.sleep_until(end);
                    let attempt = async {
                        match connecting.as_mut() {
                            Some(connecting) => connecting.await,
                            None => std::future::pending().await,
                        }
                    };
                    let accept = std::future::poll_fn(|cx| match listener.as_mut() {
                        Some(listener) => Listener::poll_accept(listener, cx),
                        None => std::task::Poll::Pending,
                    });
                    match select(Box::pin(rest), select(Box::pin(attempt), accept)).await {
                        Either::Left(_) => break,
                        Either::Right((Either::Left((Ok(stream), _)), _)) => {
                            set("connected".into());
                            streams.push(stream);
                        }
                        Either::Right((Either::Left((Err(error), _)), _)) => set(format!("{:?}", error.kind())),
                        Either::Right((Either::Right((stream, _)), _)) => {
                            streams.extend(stream);
                            state.lock().expect("no panic").accepted += 1;
                            continue;
                        }
                    }
                    connecting = None;
                }
            }
            pause(&net, 1000).await;
        }
    });
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (script, results, state) = (acts.to_vec(), seen.clone(), progress);
    world.function(peer, Duration::ZERO, move |net| {
        let (script, results, state) = (script.clone(), results.clone(), state.clone());
        async move {
            let raw = net.raw();
            let mut peer = Peer { port: PORT, ..Peer::default() };
            for act in script {
                pause(&net, 30).await;
                if let Some(packet) = peer.packet(act) {
                    raw.send(packet);
                }
                pause(&net, 40).await;
                let segments = peer.read(raw.take());
                let (connect, accepted) = {
                    let progress = state.lock().expect("no panic");
                    (progress.connect.clone(), progress.accepted)
                };
                results.lock().expect("no panic").push(Seen { segments, connect, accepted });
                pause(&net, 30).await;
            }
        }
    });
    world.run().expect("a world");
    std::mem::take(&mut *seen.lock().expect("no panic"))
}

/// The tests of this file.
pub(crate) fn cases(possible: &Needs) -> Vec<Case> {
    let segments = shared("a_host_of_the_lab_does_what_linux_does", play_every_script);
    let silence = shared("a_silent_peer_is_tried_as_often_as_linux_does", knock_in_vain);
    [segments, silence].map(|case| case.with(possible)).into()
}

fn play_every_script() {
    let pair = RealPair::build("h").expect("built");
    let mut unexpected = Vec::new();
    let mut agreeing = Vec::new();
    for (port, (name, acts)) in (PORT..).zip(scripts()) {
        let (real, here) = (pair.play(port, &acts), simulated(&acts));
        let is_listed = DIFFERENCES.iter().any(|(listed, _)| *listed == name);
        if real != here && !is_listed {
            unexpected.push(format!("{name}:\n  the kernel {real:?}\n  here       {here:?}"));
        }
        if real == here && is_listed {
            agreeing.push(name);
        }
    }
    assert!(unexpected.is_empty(), "{} cases differ:\n{}", unexpected.len(), unexpected.join("\n"));
    assert!(agreeing.is_empty(), "listed as different, but not so: {agreeing:?}");
}

/// The number of SYNs is one, the retries and the linear time-outs; with this kernel's defaults that is
/// what the lab sends.
fn knock_in_vain() {
    let pair = RealPair::build("s").expect("built");
    let setting = |name: &str| -> usize {
        let output = run(&format!("ip netns exec {} sysctl -n net.ipv4.{name}", pair.subject)).expect("read");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
    };
    assert_eq!(1 + setting("tcp_syn_retries") + setting("tcp_syn_linear_timeouts"), SYN_TIMES.len());
    for change in ["tcp_syn_retries=1", "tcp_syn_linear_timeouts=1"] {
        run(&format!("ip netns exec {} sysctl -qw net.ipv4.{change}", pair.subject)).expect("set");
    }
    let socket = within(&pair.subject, || shared_socket(PORT)).expect("a socket");
    socket.set_nonblocking(false).expect("set");
    let error = socket.connect(&SockAddr::from(SocketAddr::from((PEER, PEER_PORT)))).expect_err("nobody answers");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let syns = pair.settle().iter().filter(|packet| packet.segment().is_some_and(|segment| segment.syn)).count();
    assert_eq!(syns, 3);
}
