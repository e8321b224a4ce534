//! Whole lives of connections: one list of them, each played with a real kernel and with a host of the lab, against a
//! peer that is made by hand. What the program is told and which segments leave must agree, in their order. Times are
//! compared on one side only, as a busy machine is late: what the kernel waited for, the lab must not take longer for.
//! That the lab is not too early, the unit tests of its timers hold, with times that were measured here.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fmi_net::time::Instant;
use fmi_net::{ByteStream, Listener, Net};
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use nat_sim::net::{SimRaw, SimStream};
use nat_sim::packet::Packet;
use nat_sim::topology::{HostSpec, INTERNET, Topology};
use nat_sim::{SimNet, World};
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::gateway::{alone, segment, stay_on_one_cpu};
use super::host::{ISN, PEER, PEER_PORT, PORT, RealPair, SUBJECT, named, shared_socket};
use super::lab::within;
use super::trials::{Case, Needs, case};

/// What the program does, and what its peer sends. The peer's numbers count from [`ISN`], those of the host from its own.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// The program connects; the peer's SYN|ACK has these options.
    Open(&'static [u8]),
    Listen(u32),
    CloseListener,
    /// A peer at this port begins, and completes what is answered.
    Knock(u16),
    Accept,
    /// Flags, sequence and acknowledgement numbers, bytes.
    Peer(&'static str, u32, u32, usize),
    /// A bare acknowledgement of this number with this window.
    Window(u32, u16),
    /// The path takes packets of so many bytes; about the segment with this number.
    TooBig(u16, u32),
    Write(usize),
    Read,
    Shut,
    Close,
    /// Probes after a second, a second apart, three of them.
    Keepalive,
    /// Waits until so many segments have come in all.
    Until(usize),
}
use Act::{
    Accept, Close, CloseListener, Keepalive, Knock, Open, Peer, Read as Take, Shut, TooBig, Until, Window, Write as Put,
};

/// A maximum segment size of 1460 bytes; the same and selective acknowledgements.
const PLAIN: &[u8] = &[2, 4, 5, 0xb4];
const SACK: &[u8] = &[2, 4, 5, 0xb4, 4, 2, 1, 1];

#[expect(clippy::too_many_lines, reason = "a table")]
fn lives() -> Vec<(&'static str, Vec<Act>)> {
    let mut quick = vec![Open(PLAIN)];
    // Sixteen are acknowledged at once, the next one after a while.
    quick.extend((0..17).map(|number| Peer(".", 1 + number * 10, 1, 10)));
    quick.push(Until(19));
    vec![
        (
            "bytes for a closed connection",
            vec![Open(PLAIN), Close, Peer(".", 1, 2, 0), Peer(".", 1, 2, 10), Peer(".", 11, 2, 10)],
        ),
        ("closed with bytes unread", vec![Open(PLAIN), Peer(".", 1, 1, 10), Close, Peer(".", 11, 1, 10)]),
        (
            "closed on both sides at once",
            vec![Open(PLAIN), Close, Peer("F.", 1, 1, 0), Peer(".", 2, 2, 0), Peer("F.", 1, 1, 0)],
        ),
        (
            "closed, and then by the peer",
            vec![
                Open(PLAIN),
                Close,
                Peer(".", 1, 2, 0),
                Peer("F.", 1, 2, 0),
                Peer("F.", 1, 2, 0),
                Peer("R", 2, 0, 0),
                Peer(".", 2, 2, 0),
            ],
        ),
        (
            "closed by the peer, and then",
            vec![
                Open(PLAIN),
                Peer("F.", 1, 1, 0),
                Take,
                Put(5),
                Peer(".", 2, 6, 0),
                Close,
                Peer(".", 2, 7, 0),
                Peer(".", 2, 7, 0),
            ],
        ),
        (
            "half-closed",
            vec![
                Open(PLAIN),
                Shut,
                Peer(".", 1, 2, 0),
                Peer(".", 1, 2, 10),
                Take,
                Put(1),
                Peer("F.", 11, 2, 0),
                Take,
                Close,
            ],
        ),
        (
            "reset with bytes unread",
            vec![Open(PLAIN), Peer(".", 1, 1, 10), Peer("R", 11, 0, 0), Take, Take, Take, Put(1), Put(1)],
        ),
        ("reset, and written", vec![Open(PLAIN), Peer("R", 1, 0, 0), Put(1), Put(1), Take, Take]),
        (
            "reset behind the end",
            // The end is acknowledged after 4 ms, which pass before or after the next act on a machine that is loaded.
            vec![
                Open(PLAIN),
                Peer("F.", 1, 1, 0),
                Take,
                Until(3),
                Put(1),
                Peer("R", 2, 0, 0),
                Take,
                Put(1),
                Take,
                Put(1),
            ],
        ),
        (
            "reset behind the end, and written",
            vec![Open(PLAIN), Peer("F.", 1, 1, 0), Until(3), Peer("R", 2, 0, 0), Put(1), Take],
        ),
        ("end with bytes", vec![Open(PLAIN), Peer("F.", 1, 1, 10), Take, Take, Close]),
        ("silence with bytes", vec![Open(PLAIN), Put(10), Until(6)]),
        ("silence with bytes, and SACK", vec![Open(SACK), Put(10), Until(6)]),
        (
            "silence with several segments",
            vec![Open(PLAIN), Put(1460), Put(1460), Put(1460), Until(7), Peer(".", 1, 4381, 0)],
        ),
        ("silence with small segments", vec![Open(PLAIN), Put(10), Put(10), Until(6), Peer(".", 1, 21, 0)]),
        ("silence at the end", vec![Open(PLAIN), Close, Until(5)]),
        ("a closed window", vec![Open(PLAIN), Window(1, 0), Put(10), Until(5), Window(1, 1000), Window(11, 1000)]),
        ("keep-alive in silence", vec![Open(PLAIN), Keepalive, Until(6), Take, Put(1), Take]),
        (
            "keep-alive that is answered",
            vec![Open(PLAIN), Keepalive, Until(3), Peer(".", 1, 1, 0), Until(4), Peer(".", 1, 1, 0)],
        ),
        ("acknowledgements quick and slow", quick),
        ("an answer carries the acknowledgement", vec![Open(PLAIN), Put(10), Peer(".", 1, 11, 10), Take, Put(10)]),
        (
            "three duplicates",
            vec![
                Open(PLAIN),
                Put(1460),
                Put(1460),
                Put(1460),
                Put(1460),
                Window(1, 65_000),
                Window(1, 65_000),
                Window(1, 65_000),
                Window(1, 65_000),
                Peer(".", 1, 5841, 0),
            ],
        ),
        ("a path with a smaller MTU", vec![Open(PLAIN), Put(1400), TooBig(1000, 1), Peer(".", 1, 1401, 0), Put(1400)]),
        (
            "a report about another segment",
            vec![Open(PLAIN), Put(100), TooBig(600, 5000), Peer(".", 1, 101, 0), Put(900)],
        ),
        (
            "more than the backlog",
            vec![Act::Listen(1), Knock(1), Knock(2), Knock(3), Accept, Accept, Accept, Knock(3), Accept],
        ),
        ("a backlog of nothing", vec![Act::Listen(0), Knock(1), Knock(2), Accept, Accept]),
        (
            "a listener goes before the handshake ends",
            vec![
                Act::Listen(4),
                Peer("S", 0, 0, 0),
                CloseListener,
                Peer(".", 1, 1, 0),
                Act::Listen(4),
                Peer(".", 1, 1, 0),
                Accept,
                Knock(1),
                Accept,
            ],
        ),
        ("a listener goes before it accepts", vec![Act::Listen(4), Knock(1), CloseListener]),
    ]
}

/// Where the lab differs, and what follows for programs.
const DIFFERENCES: &[(&str, &str)] = &[(
    "silence with small segments",
    "Linux joins small segments when it repeats them; here each goes out again by itself: more packets, the same bytes",
)];

/// What a life showed.
#[derive(Debug, Default)]
struct Seen {
    /// Flags, numbers, bytes, and when, in milliseconds since the act before.
    segments: Vec<(String, u64)>,
    told: Vec<String>,
}

/// A program on a host and the wire of its peer.
trait Stage {
    fn now_millis(&self) -> u64;
    fn send(&mut self, packet: &Packet);
    /// What has come when all that was sent is handled.
    async fn settle(&mut self) -> Vec<Packet>;
    /// The same, once there is something.
    async fn more(&mut self) -> Vec<Packet>;
    fn port(&self) -> u16;
    fn listen(&mut self, backlog: u32);
    fn close_listener(&mut self);
    fn accept(&mut self) -> String;
    fn connect(&mut self);
    /// The attempt has come to its end.
    fn connected(&mut self);
    fn read(&mut self) -> String;
    fn write(&mut self, bytes: &[u8]) -> String;
    fn shut(&mut self);
    fn close(&mut self);
    fn keep_alive(&mut self);
}

fn told(result: io::Result<usize>, what: &str) -> String {
    match result {
        Ok(0) => "end".into(),
        Ok(count) => format!("{what} {count}"),
        Err(error) => named(error.kind()),
    }
}

/// A segment with options, which the packet is built with as its bytes.
fn with_options(packet: &Packet, options: usize) -> Packet {
    let mut bytes = packet.bytes().to_vec();
    bytes[32] = u8::try_from((20 + options) / 4 * 16).expect("few options");
    bytes[36..38].fill(0);
    let length = u16::try_from(bytes.len() - 20).expect("short");
    let pseudo = [&bytes[12..20], &[0, 6][..], &length.to_be_bytes()[..], &bytes[20..]].concat();
    let checksum = checksum(&pseudo);
    bytes[36..38].copy_from_slice(&checksum.to_be_bytes());
    Packet::parse(bytes).expect("whole")
}

fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded")
}

/// The peer's side of a script, the same for both.
struct Player<S> {
    stage: S,
    /// Initial numbers of the host, by the peer's port.
    isns: BTreeMap<u16, u32>,
    acted_at: u64,
    seen: Seen,
}

impl<S: Stage> Player<S> {
    fn send(&mut self, port: u16, flags: &str, sequence: u32, acknowledgement: u32, bytes: &[u8]) {
        let packet = self.packet(port, flags, sequence, acknowledgement, bytes);
        self.stage.send(&packet);
    }

    fn packet(&self, port: u16, flags: &str, sequence: u32, acknowledgement: u32, bytes: &[u8]) -> Packet {
        let isn = self.isns.get(&port).copied().unwrap_or(0);
        let segment = segment(flags, ISN.wrapping_add(sequence), isn.wrapping_add(acknowledgement));
        let host = SocketAddrV4::new(SUBJECT, self.stage.port());
        Packet::tcp(SocketAddrV4::new(PEER, port), host, segment, bytes)
    }

    fn note(&mut self, packets: &[Packet]) {
        let at = self.stage.now_millis() - self.acted_at;
        for packet in packets {
            let (Some(segment), Some(flow)) = (packet.segment(), packet.flow()) else { continue };
            if flow.source.port() != self.stage.port() {
                continue;
            }
            let port = flow.destination.port();
            if segment.syn {
                self.isns.insert(port, segment.sequence);
            }
            let flags = [(segment.syn, 'S'), (segment.fin, 'F'), (segment.rst, 'R'), (segment.ack, '.')];
            let flags: String = flags.into_iter().filter_map(|(set, letter)| set.then_some(letter)).collect();
            let isn = self.isns.get(&port).copied().unwrap_or(0);
            let sequence = segment.sequence.wrapping_sub(isn).cast_signed();
            let acknowledgement = if segment.ack { segment.acknowledgement.wrapping_sub(ISN) } else { 0 };
            self.seen.segments.push((format!("{flags} {sequence} {acknowledgement} {}", segment.payload), at));
        }
    }

    async fn settle(&mut self) {
        let packets = self.stage.settle().await;
        self.note(&packets);
    }

    async fn play(mut self, acts: &[Act]) -> Seen {
        for act in acts {
            self.acted_at = self.stage.now_millis();
            match *act {
                Open(options) => {
                    self.stage.connect();
                    self.settle().await;
                    let answer = self.packet(PEER_PORT, "S.", 0, 1, options);
                    self.stage.send(&with_options(&answer, options.len()));
                    self.settle().await;
                    self.stage.connected();
                }
                Act::Listen(backlog) => self.stage.listen(backlog),
                CloseListener => self.stage.close_listener(),
                Knock(port) => {
                    let port = PEER_PORT + port;
                    self.send(port, "S", 0, 0, b"");
                    let before = self.seen.segments.len();
                    self.settle().await;
                    if self.seen.segments.len() > before {
                        self.send(port, ".", 1, 1, b"");
                    }
                }
                Accept => {
                    let accepted = self.stage.accept();
                    self.seen.told.push(accepted);
                }
                Peer(flags, sequence, acknowledgement, length) => {
                    self.send(PEER_PORT, flags, sequence, acknowledgement, &vec![7; length]);
                }
                Window(acknowledgement, window) => {
                    let isn = self.isns.get(&PEER_PORT).copied().unwrap_or(0);
                    let mut bare = segment(".", ISN + 1, isn.wrapping_add(acknowledgement));
                    bare.window = window;
                    let host = SocketAddrV4::new(SUBJECT, self.stage.port());
                    self.stage.send(&Packet::tcp(SocketAddrV4::new(PEER, PEER_PORT), host, bare, b""));
                }
                TooBig(mtu, sequence) => {
                    let isn = self.isns.get(&PEER_PORT).copied().unwrap_or(0);
                    let about = segment(".", isn.wrapping_add(sequence), ISN + 1);
                    let host = SocketAddrV4::new(SUBJECT, self.stage.port());
                    let about = Packet::tcp(host, SocketAddrV4::new(PEER, PEER_PORT), about, b"");
                    self.stage.send(&about.too_big_reply(PEER, mtu).expect("a report"));
                }
                Put(length) => {
                    let written = self.stage.write(&vec![7; length]);
                    self.seen.told.push(written);
                }
                Take => {
                    let read = self.stage.read();
                    self.seen.told.push(read);
                }
                Shut => self.stage.shut(),
                Close => self.stage.close(),
                Keepalive => self.stage.keep_alive(),
                Until(count) => {
                    while self.seen.segments.len() < count {
                        let packets = self.stage.more().await;
                        if packets.is_empty() {
                            break;
                        }
                        self.note(&packets);
                    }
                }
            }
            self.settle().await;
        }
        self.seen
    }
}

/// A real program.
struct Real<'a> {
    pair: &'a RealPair,
    port: u16,
    begun: std::time::SystemTime,
    listener: Option<Socket>,
    socket: Option<Socket>,
    kept: Vec<Socket>,
}

impl Stage for Real<'_> {
    fn now_millis(&self) -> u64 {
        // A clock that is set back shows no time at all.
        self.begun.elapsed().map_or(0, |time| u64::try_from(time.as_millis()).expect("tests are short"))
    }

    fn send(&mut self, packet: &Packet) {
        self.pair.peer.send(packet);
    }

    async fn settle(&mut self) -> Vec<Packet> {
        self.pair.settle()
    }

    async fn more(&mut self) -> Vec<Packet> {
        vec![self.pair.peer.next_segment()]
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn listen(&mut self, backlog: u32) {
        let socket = within(&self.pair.subject, || shared_socket(self.port)).expect("a socket");
        socket.listen(i32::try_from(backlog).expect("small")).expect("listens");
        self.listener = Some(socket);
    }

    fn close_listener(&mut self) {
        self.listener = None;
    }

    fn accept(&mut self) -> String {
        match self.listener.as_ref().expect("listens").accept() {
            Ok((socket, _)) => {
                self.kept.push(socket);
                "accepted".into()
            }
            Err(error) => named(error.kind()),
        }
    }

    fn connect(&mut self) {
        let socket = within(&self.pair.subject, || shared_socket(self.port)).expect("a socket");
        socket.set_tcp_nodelay(true).expect("set");
        let _in_progress = socket.connect(&SocketAddr::from((PEER, PEER_PORT)).into());
        self.socket = Some(socket);
    }

    fn connected(&mut self) {
        let socket = self.socket.as_ref().expect("connects");
        assert_eq!(socket.take_error().expect("asked").map(|error| error.kind()), None);
    }

    fn read(&mut self) -> String {
        told(self.socket.as_ref().expect("open").read(&mut [0; 4096]), "read")
    }

    fn write(&mut self, bytes: &[u8]) -> String {
        told(self.socket.as_ref().expect("open").write(bytes), "wrote")
    }

    fn shut(&mut self) {
        self.socket.as_ref().expect("open").shutdown(Shutdown::Write).expect("shut");
    }

    fn close(&mut self) {
        self.socket = None;
    }

    fn keep_alive(&mut self) {
        let second = Duration::from_secs(1);
        let keepalive = TcpKeepalive::new().with_time(second).with_interval(second).with_retries(3);
        SockRef::from(self.socket.as_ref().expect("open")).set_tcp_keepalive(&keepalive).expect("set");
    }
}

impl Drop for Real<'_> {
    fn drop(&mut self) {
        // What is left ends without a word to the next one.
        for socket in self.kept.iter().chain(&self.socket) {
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<SimStream>>>>;

/// A program of the lab, of which the peer's task plays both.
struct Simulated {
    net: SimNet,
    peer: SimNet,
    wire: SimRaw,
    listener: Option<<SimNet as Net>::Listener>,
    connecting: Option<Connecting>,
    stream: Option<SimStream>,
    kept: Vec<SimStream>,
}

impl Simulated {
    async fn pause(&self, millis: u64) {
        let until = Net::now(&self.peer) + Duration::from_millis(millis);
        Net::sleep_until(&self.peer, until).await;
    }
}

fn at_once<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Stage for Simulated {
    fn now_millis(&self) -> u64 {
        (Net::now(&self.peer) - Instant::ZERO).as_millis().try_into().expect("runs are short")
    }

    fn send(&mut self, packet: &Packet) {
        self.wire.send(packet.clone());
    }

    async fn settle(&mut self) -> Vec<Packet> {
        self.pause(1).await;
        self.wire.take()
    }

    async fn more(&mut self) -> Vec<Packet> {
        let until = Net::now(&self.peer) + PATIENCE;
        match select(Box::pin(self.wire.recv()), Box::pin(Net::sleep_until(&self.peer, until))).await {
            Either::Left((packet, _)) => vec![packet],
            Either::Right(_) => Vec::new(),
        }
    }

    fn port(&self) -> u16 {
        PORT
    }

    fn listen(&mut self, backlog: u32) {
        self.listener = Some(self.net.listen(SocketAddr::from((SUBJECT, PORT)), backlog).expect("listens"));
    }

    fn close_listener(&mut self) {
        self.listener = None;
    }

    fn accept(&mut self) -> String {
        let mut cx = Context::from_waker(Waker::noop());
        match at_once(self.listener.as_mut().expect("listens").poll_accept(&mut cx)) {
            Ok(stream) => {
                self.kept.push(stream);
                "accepted".into()
            }
            Err(error) => named(error.kind()),
        }
    }

    fn connect(&mut self) {
        let (local, remote) = (SocketAddr::from((SUBJECT, PORT)), SocketAddr::from((PEER, PEER_PORT)));
        let mut connecting: Connecting = Box::pin(self.net.connect(local, remote));
        assert!((&mut connecting).now_or_never().is_none(), "nobody has answered");
        self.connecting = Some(connecting);
    }

    fn connected(&mut self) {
        let connecting = self.connecting.take().expect("connects");
        self.stream = Some(connecting.now_or_never().expect("answered").expect("connected"));
    }

    fn read(&mut self) -> String {
        let (mut bytes, mut cx) = ([0; 4096], Context::from_waker(Waker::noop()));
        let mut buffer = ReadBuf::new(&mut bytes);
        let polled = Pin::new(self.stream.as_mut().expect("open")).poll_read(&mut cx, &mut buffer);
        told(at_once(polled).map(|()| buffer.filled().len()), "read")
    }

    fn write(&mut self, bytes: &[u8]) -> String {
        let mut cx = Context::from_waker(Waker::noop());
        told(at_once(Pin::new(self.stream.as_mut().expect("open")).poll_write(&mut cx, bytes)), "wrote")
    }

    fn shut(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        at_once(Pin::new(self.stream.as_mut().expect("open")).poll_shutdown(&mut cx)).expect("shut");
    }

    fn close(&mut self) {
        self.stream = None;
    }

    fn keep_alive(&mut self) {
        let stream = self.stream.as_ref().expect("open");
        stream.set_keepalive(Duration::from_secs(1), Duration::from_secs(3)).expect("set");
    }
}

fn simulated(acts: &[Act]) -> Seen {
    let mut topology = Topology::new();
    let mut host = |address: std::net::Ipv4Addr| topology.host(HostSpec::plain(INTERNET, address, Duration::ZERO));
    let (subject, peer) = (host(SUBJECT), host(PEER));
    let mut world = World::new(topology, 1, Duration::from_micros(100));
    let (net, seen) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)));
    let slot = net.clone();
    world.service(subject, move |own| {
        *slot.lock().expect("no panic") = Some(own);
        std::future::pending()
    });
    let (script, result) = (acts.to_vec(), seen.clone());
    world.function(peer, Duration::from_millis(1), move |peer| {
        let (acts, result, net) = (script.clone(), result.clone(), net.lock().expect("no panic").clone());
        async move {
            let (net, wire) = (net.expect("the host has begun"), peer.raw());
            let (listener, connecting, stream) = (None, None, None);
            let stage = Simulated { net, peer, wire, listener, connecting, stream, kept: Vec::new() };
            let player = Player { stage, isns: BTreeMap::new(), acted_at: 0, seen: Seen::default() };
            *result.lock().expect("no panic") = Some(player.play(&acts).await);
        }
    });
    let report = world.run().expect("a world");
    assert_eq!(report.stuck, None, "{acts:?}");
    let seen = seen.lock().expect("no panic").take();
    seen.expect("it has been played")
}

#[expect(clippy::disallowed_methods, reason = "the kernel's times are real ones, and are only a lower bound")]
fn real(pair: &RealPair, port: u16, acts: &[Act]) -> Seen {
    let stage =
        Real { pair, port, begun: std::time::SystemTime::now(), listener: None, socket: None, kept: Vec::new() };
    let player = Player { stage, isns: BTreeMap::new(), acted_at: 0, seen: Seen::default() };
    let seen = player.play(acts).now_or_never().expect("it blocks instead");
    pair.settle();
    seen
}

/// Simulated time in which a host of the lab says something, if ever.
const PATIENCE: Duration = Duration::from_secs(100);
/// By how much the kernel's clock of milliseconds and this one's may differ.
const SLACK_MILLIS: u64 = 20;

fn difference(real: &Seen, here: &Seen, has_times: bool) -> Option<String> {
    let texts = |seen: &Seen| seen.segments.iter().map(|(text, _)| text.clone()).collect::<Vec<_>>();
    let (mut theirs, ours) = (texts(real), texts(here));
    // A machine that is late sees one repetition more.
    if has_times {
        theirs.truncate(ours.len());
    }
    if theirs != ours || real.told != here.told {
        return Some(format!("the kernel {theirs:?} {:?}\n  here       {ours:?} {:?}", real.told, here.told));
    }
    let later = real.segments.iter().zip(&here.segments).find(|((_, real), (_, here))| *here > *real + SLACK_MILLIS);
    later.map(|(real, here)| format!("the kernel is sooner: {real:?}, here {here:?}"))
}

/// The test of this file.
pub(crate) fn cases(possible: &Needs) -> Vec<Case> {
    vec![case("connections_of_the_lab_live_and_die_as_on_linux", compare_lives).with(possible)]
}

fn compare_lives() {
    let _alone = alone();
    stay_on_one_cpu();
    let pair = RealPair::build("l").expect("built");
    let (mut unexpected, mut agreeing) = (Vec::new(), Vec::new());
    for (port, (name, acts)) in (PORT..).zip(lives()) {
        let (theirs, ours) = (real(&pair, port, &acts), simulated(&acts));
        let has_times = acts.iter().any(|act| matches!(act, Until(_)));
        let difference = difference(&theirs, &ours, has_times);
        match (difference, DIFFERENCES.iter().any(|(listed, _)| *listed == name)) {
            (Some(difference), false) => unexpected.push(format!("{name}:\n  {difference}")),
            (None, true) => agreeing.push(name),
            (Some(_), true) | (None, false) => {}
        }
    }
    assert!(unexpected.is_empty(), "{} lives differ:\n{}", unexpected.len(), unexpected.join("\n"));
    assert!(agreeing.is_empty(), "listed as different, but not so: {agreeing:?}");
}
