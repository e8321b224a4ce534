//! One TCP connection: a smoltcp interface with one socket, and Linux's opening around it.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fmi_net::liveness::{Probes, Sample, Verdict, Watch};
use fmi_net::time::Instant;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint};

use crate::host::{SYN_ACK_TIMES, SYN_RECEIVED_TIMEOUT, SYN_TIMEOUT, SYN_TIMES, wake};
use crate::packet::{Packet, Segment};
use crate::topology::TcpConfig;

/// The wire of one connection: a packet in, packets out.
#[derive(Debug)]
struct Wire {
    mtu: usize,
    incoming: Option<Packet>,
    outgoing: Vec<Vec<u8>>,
}

struct Incoming(Packet);
struct Outgoing<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0.bytes())
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let result = f(&mut bytes);
        self.0.push(bytes);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Incoming, Outgoing<'_>)> {
        self.incoming.take().map(|packet| (Incoming(packet), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // Packets of the lab are never damaged: checksums are made and not checked.
        let mut checksums = ChecksumCapabilities::default();
        (checksums.ipv4, checksums.tcp) = (Checksum::Tx, Checksum::Tx);
        capabilities.checksum = checksums;
        capabilities
    }
}

/// How a connection is being opened, as far as our layer is concerned.
#[derive(Debug)]
enum Opening {
    /// The application waits for it; SYNs go out at Linux's times.
    Active {
        begun: Instant,
        syn: Option<Packet>,
        sent: usize,
        /// The SYN|ACK of a simultaneous open, and how often the SYN's timer has passed since.
        answer: Option<(Packet, usize)>,
    },
    /// A listener made it.
    Passive {
        begun: Instant,
    },
    Done,
}

/// What ends a connection whose other end is silent, as Linux with keep-alive does. Counts are of packets since that
/// end was last heard.
#[derive(Debug)]
struct Keepalive {
    probes: Probes,
    silence_max: Duration,
    watch: Watch,
    heard_at: Instant,
    window_is_closed: bool,
    /// Probes of the idle connection.
    idle_probes: u32,
    /// Segments with bytes that had been sent before.
    repetitions: u32,
    /// Probes of a closed window.
    window_probes: u32,
}

impl Keepalive {
    fn heard(&mut self, now: Instant, segment: Segment) {
        (self.heard_at, self.window_is_closed) = (now, segment.window == 0);
        (self.idle_probes, self.repetitions, self.window_probes) = (0, 0, 0);
    }

    /// When an idle connection has been silent for too long, if the probes until then go out in time.
    fn idle_until(&self) -> Instant {
        self.heard_at + self.probes.idle + self.probes.pause * self.probes.count
    }

    /// Whether the other end is gone.
    fn judge(&mut self, now: Instant, waits: bool) -> bool {
        if waits {
            self.watch.wrote(now, self.silence_max);
        } else if now >= self.idle_until() && self.idle_probes >= self.probes.count {
            return true;
        }
        if self.watch.poll_timeout().is_none_or(|at| now < at) {
            return false;
        }
        let (repetitions, window_probes) = (self.repetitions, self.window_probes);
        let sample = Sample { waits, repetitions, window_probes, heard_ago: now - self.heard_at };
        self.watch.look(now, self.silence_max, sample) == Verdict::Dead
    }

    /// When to judge again.
    fn next(&self, now: Instant) -> Option<Instant> {
        let idle = Some(self.idle_until()).filter(|at| *at > now);
        self.watch.poll_timeout().into_iter().chain(idle).min()
    }
}

pub(crate) struct Connection {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    wire: Wire,
    opening: Opening,
    passive: bool,
    was_established: bool,
    detached: bool,
    write_shut: bool,
    muted: bool,
    reset_seen: bool,
    error: Option<io::ErrorKind>,
    /// Sequence number behind our FIN, once it is sent, as smoltcp counts.
    fin_end: Option<u32>,
    /// Our initial sequence number on the wire.
    isn: u32,
    /// What is added to smoltcp's sequence numbers, once it has chosen its first.
    shift: Option<u32>,
    peer_isn: Option<u32>,
    /// The last acknowledgement that was sent, and one past the last byte of the peer's that has come.
    acknowledged: Option<u32>,
    heard_to: Option<u32>,
    timer: Option<Instant>,
    timer_is_new: bool,
    keepalive: Option<Keepalive>,
    /// Behind the last byte that was sent, on the wire.
    sent_end: Option<u32>,
    pub(crate) connect_waker: Option<Waker>,
    pub(crate) read_waits: bool,
    pub(crate) write_waits: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} > {} {}", self.local, self.remote, self.state())
    }
}

/// Delay of an acknowledgement that nothing carries; smoltcp acknowledges every second segment at once.
const ACK_DELAY: smoltcp::time::Duration = smoltcp::time::Duration::from_millis(10);

/// Numbers less far ahead than this are near: within any window.
const NEAR: u32 = 1 << 20;

/// smoltcp's clock counts microseconds: an earlier timer would find nothing due.
const TIMER_STEP: Duration = Duration::from_micros(1);

/// How many of `times`, in seconds after `begun`, have come.
fn due(times: &[u64], begun: Instant, now: Instant) -> usize {
    times.iter().filter(|at| begun + Duration::from_secs(**at) <= now).count()
}

fn to_smoltcp(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(now.as_nanos() / 1000).expect("below 292,000 years"))
}

fn to_smoltcp_duration(duration: Duration) -> smoltcp::time::Duration {
    smoltcp::time::Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

fn from_smoltcp(at: smoltcp::time::Instant) -> Instant {
    Instant::from_nanos(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000))
}

impl Connection {
    fn new(
        now: Instant,
        tcp: TcpConfig,
        local: SocketAddr,
        remote: SocketAddr,
        (seed, isn): (u64, u32),
        opening: Opening,
    ) -> Self {
        let mut wire = Wire { mtu: tcp.mtu, incoming: None, outgoing: Vec::new() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, to_smoltcp(now));
        interface.update_ip_addrs(|addresses| {
            // A prefix of no bits: every destination is on the wire.
            addresses.push(IpCidr::new(local.ip().into(), 0)).expect("room for one address");
        });
        let buffer = |bytes: usize| SocketBuffer::new(vec![0; bytes]);
        let mut socket = Socket::new(buffer(tcp.receive_bytes), buffer(tcp.send_bytes));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(Some(ACK_DELAY));
        socket.set_hop_limit(Some(crate::packet::HOP_LIMIT));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let passive = matches!(opening, Opening::Passive { .. });
        Self {
            local,
            remote,
            interface,
            sockets,
            handle,
            wire,
            opening,
            passive,
            was_established: false,
            detached: false,
            write_shut: false,
            muted: false,
            reset_seen: false,
            error: None,
            fin_end: None,
            isn,
            shift: None,
            peer_isn: None,
            acknowledged: None,
            heard_to: None,
            timer: None,
            timer_is_new: false,
            keepalive: None,
            sent_end: None,
            connect_waker: None,
            read_waits: false,
            write_waits: false,
        }
    }

    pub(super) fn connect(
        now: Instant,
        tcp: TcpConfig,
        local: SocketAddr,
        remote: SocketAddr,
        seeds: (u64, u32),
    ) -> io::Result<Self> {
        let opening = Opening::Active { begun: now, syn: None, sent: 0, answer: None };
        let mut connection = Self::new(now, tcp, local, remote, seeds, opening);
        let Self { interface, sockets, handle, .. } = &mut connection;
        let socket = sockets.get_mut::<Socket<'_>>(*handle);
        let (from, to) = (IpEndpoint::from(local), IpEndpoint::from(remote));
        socket.connect(interface.context(), to, from).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(connection)
    }

    pub(super) fn accept(
        now: Instant,
        tcp: TcpConfig,
        local: SocketAddr,
        remote: SocketAddr,
        seeds: (u64, u32),
    ) -> io::Result<Self> {
        let mut connection = Self::new(now, tcp, local, remote, seeds, Opening::Passive { begun: now });
        let listen = connection.socket().listen(IpEndpoint::from(local));
        listen.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(connection)
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub(crate) fn state(&self) -> State {
        self.sockets.get::<Socket<'_>>(self.handle).state()
    }

    pub(super) fn is_passive(&self) -> bool {
        self.passive
    }

    pub(super) fn was_established(&self) -> bool {
        self.was_established
    }

    pub(super) fn is_detached(&self) -> bool {
        self.detached
    }

    /// Whether another connection may take its endpoints.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state(), State::TimeWait) || (self.detached && self.state() == State::Closed)
    }

    pub(super) fn timer_is_due(&mut self, now: Instant) -> bool {
        let due = self.timer.is_some_and(|at| at <= now);
        if due {
            self.timer = None;
        }
        due
    }

    /// The timer to set, once for each time.
    pub(super) fn next_timer(&mut self) -> Option<Instant> {
        std::mem::take(&mut self.timer_is_new).then_some(self.timer).flatten()
    }

    /// Ends an opening connection; whether it was one.
    pub(super) fn fail_opening(&mut self, kind: io::ErrorKind) -> bool {
        if matches!(self.opening, Opening::Done) {
            return false;
        }
        self.error = Some(kind);
        self.opening = Opening::Done;
        self.silence();
        self.wake_connect();
        true
    }

    /// Whether an ICMP error that quotes this sequence number is about this opening connection.
    pub(super) fn is_quoted(&self, sequence: u32) -> bool {
        sequence.wrapping_sub(self.isn) <= 1
    }

    /// Closes the socket without the RST that smoltcp would send.
    fn silence(&mut self) {
        self.muted = true;
        self.socket().abort();
    }

    /// The application lets go. False if the connection never opened.
    pub(super) fn detach(&mut self) -> bool {
        self.detached = true;
        if !self.was_established {
            return false;
        }
        let socket = self.socket();
        // Linux resets a connection that is closed with bytes unread.
        if socket.recv_queue() > 0 {
            socket.abort();
        } else {
            socket.close();
        }
        true
    }

    pub(super) fn abort(&mut self) {
        self.detached = true;
        self.socket().abort();
    }

    fn wake_connect(&mut self) {
        wake(&mut self.connect_waker);
    }

    pub(super) fn service(&mut self, now: Instant, incoming: Option<(Packet, Segment)>, out: &mut Vec<Packet>) {
        if let Some((packet, segment)) = incoming {
            match self.distance_of_reset(segment) {
                Some(distance @ 1..NEAR) => {
                    let acknowledgement = segment.sequence.wrapping_sub(distance);
                    out.push(self.asked_back(self.sent_end.unwrap_or(self.isn), acknowledgement));
                }
                Some(NEAR..) => {}
                Some(0) | None => match self.challenge(segment) {
                    Some(challenge) => out.push(challenge),
                    None => self.ingest(now, packet, segment),
                },
            }
        }
        if self.is_given_up(now) {
            self.socket().abort();
        }
        self.probe(now);
        self.emit(now, out);
        self.repeat_syn(now, out);
        self.notice();
        self.plan(now);
    }

    /// How far an RST of a connection that stands is from the numbers that end it: those from the last
    /// acknowledgement to the last byte that has come. 0 if it has one of them; one that is near is asked back (RFC 5961 §3).
    fn distance_of_reset(&self, segment: Segment) -> Option<u32> {
        if !segment.rst || matches!(self.state(), State::Listen | State::SynSent | State::SynReceived | State::Closed) {
            return None;
        }
        let acknowledged = self.acknowledged?;
        let reach = self.heard_to.map_or(0, |to| to.wrapping_sub(acknowledged));
        let reach = if reach < NEAR { reach } else { 0 };
        let ahead = segment.sequence.wrapping_sub(acknowledged);
        Some(if ahead <= reach { 0 } else { ahead })
    }

    /// After two SYNs have crossed, a further SYN, or an RST whose number is near but not exact, is
    /// asked back (RFC 5961 §3 and §4).
    fn challenge(&self, segment: Segment) -> Option<Packet> {
        let isn = self.peer_isn.filter(|_| !self.passive && self.state() == State::SynReceived)?;
        let next = isn.wrapping_add(1);
        let ahead = segment.sequence.wrapping_sub(next);
        let is_doubtful = segment.rst && ahead > 0 && ahead < u32::from(u16::MAX);
        if !is_doubtful && !segment.is_first_syn() {
            return None;
        }
        Some(self.asked_back(self.isn.wrapping_add(1), next))
    }

    fn asked_back(&self, sequence: u32, acknowledgement: u32) -> Packet {
        let answer = Segment { ack: true, sequence, acknowledgement, window: u16::MAX, ..Segment::NONE };
        Packet::tcp_between(self.local, self.remote, answer, &[])
    }

    fn ingest(&mut self, now: Instant, mut packet: Packet, segment: Segment) {
        let state = self.state();
        if segment.syn && matches!(state, State::SynSent | State::Listen) {
            self.peer_isn = Some(segment.sequence);
        }
        // Only the exact number ends a half-open connection: the RST that answered our SYN before
        // the peer's arrived has none (RFC 5961 §3.2).
        let expected = self.peer_isn.map(|isn| isn.wrapping_add(1));
        if segment.rst && state == State::SynReceived && expected != Some(segment.sequence) {
            return;
        }
        packet.shift_numbers(0, self.shift.unwrap_or(0).wrapping_neg());
        let Some(segment) = packet.segment() else { return };
        if self.only_repeats_itself(segment) {
            return;
        }
        if segment.syn && segment.ack && self.state() == State::SynReceived {
            // smoltcp takes no SYN|ACK here; without its SYN the segment is the ACK that opens.
            self.present(now, packet.without_syn());
        }
        self.reset_seen |= segment.rst;
        self.note_heard(segment);
        if let Some(keepalive) = &mut self.keepalive {
            keepalive.heard(now, segment);
            let idle = keepalive.probes.idle;
            self.socket().set_keep_alive(Some(to_smoltcp_duration(idle)));
        }
        self.present(now, packet);
    }

    /// Notes how far the peer's bytes have come.
    fn note_heard(&mut self, segment: Segment) {
        let length = u32::try_from(segment.payload).expect("below 64 KiB") + u32::from(segment.fin);
        let end = segment.sequence.wrapping_add(length);
        if length > 0 && self.heard_to.is_none_or(|to| end.wrapping_sub(to) < NEAR) {
            self.heard_to = Some(end);
        }
    }

    /// Whether only a FIN of ours is unacknowledged and the segment says nothing about it. smoltcp
    /// takes the third such segment for a reason to repeat data at once, finds none, and forgets its
    /// timer: the FIN would never be sent again.
    fn only_repeats_itself(&mut self, segment: Segment) -> bool {
        let bare = segment.ack && !segment.syn && !segment.fin && !segment.rst && segment.payload == 0;
        let closing = matches!(self.state(), State::FinWait1 | State::Closing | State::LastAck);
        bare && closing
            && self.fin_end.is_some_and(|end| segment.acknowledgement != end)
            && self.socket().send_queue() == 0
    }

    fn present(&mut self, now: Instant, packet: Packet) {
        self.wire.incoming = Some(packet);
        self.interface.poll_ingress_single(to_smoltcp(now), &mut self.wire, &mut self.sockets);
        self.wire.incoming = None;
    }

    fn emit(&mut self, now: Instant, out: &mut Vec<Packet>) {
        while self.interface.poll_egress(to_smoltcp(now), &mut self.wire, &mut self.sockets) != PollResult::None {}
        if self.muted {
            self.wire.outgoing.clear();
        }
        for bytes in std::mem::take(&mut self.wire.outgoing) {
            let mut packet = Packet::parse(bytes).expect("smoltcp sends whole packets");
            let Some(segment) = packet.segment() else { continue };
            if segment.syn && self.shift.is_none() {
                self.shift = Some(self.isn.wrapping_sub(segment.sequence));
            }
            packet.shift_numbers(self.shift.unwrap_or(0), 0);
            if segment.ack && !segment.rst {
                self.acknowledged = Some(segment.acknowledgement);
            }
            if segment.fin {
                let length = u32::try_from(segment.payload).expect("below 64 KiB") + 1;
                self.fin_end = Some(segment.sequence.wrapping_add(length));
            }
            self.count(segment);
            if let (true, Opening::Active { begun, syn, sent, answer }) = (segment.syn, &mut self.opening) {
                // The first SYN and the first SYN|ACK are smoltcp's; its own repetitions are not
                // Linux's and stay here.
                let repeats = if segment.ack { answer.is_some() } else { syn.is_some() };
                if repeats {
                    continue;
                }
                if segment.ack {
                    *answer = Some((packet.clone(), due(&SYN_ACK_TIMES, *begun, now)));
                } else {
                    (*syn, *sent) = (Some(packet.clone()), 1);
                }
            }
            out.push(packet);
        }
    }

    fn repeat_syn(&mut self, now: Instant, out: &mut Vec<Packet>) {
        let state = self.state();
        match &mut self.opening {
            Opening::Active { begun, .. } if now >= *begun + SYN_TIMEOUT => {
                self.fail_opening(io::ErrorKind::TimedOut);
            }
            Opening::Active { begun, syn: Some(syn), sent, .. } if state == State::SynSent => {
                // One SYN, however many times have passed: the timer of a host that was frozen fires once.
                let due = due(&SYN_TIMES, *begun, now);
                if due > *sent {
                    out.push(syn.clone());
                    *sent = due;
                }
            }
            Opening::Active { begun, answer: Some((answer, passed)), .. } if state == State::SynReceived => {
                let due = due(&SYN_ACK_TIMES, *begun, now);
                if due > *passed {
                    out.push(answer.clone());
                    *passed = due;
                }
            }
            Opening::Passive { begun } if now >= *begun + SYN_RECEIVED_TIMEOUT => {
                self.fail_opening(io::ErrorKind::TimedOut);
            }
            Opening::Active { .. } | Opening::Passive { .. } | Opening::Done => {}
        }
    }

    /// Draws what our layer must know from smoltcp's state.
    fn notice(&mut self) {
        match self.state() {
            State::Listen | State::SynSent | State::SynReceived => {}
            State::Closed => {
                let kind = match (&self.opening, self.reset_seen) {
                    (Opening::Active { answer: None, .. }, true) => io::ErrorKind::ConnectionRefused,
                    (_, true) => io::ErrorKind::ConnectionReset,
                    (_, false) => io::ErrorKind::TimedOut,
                };
                if self.error.is_none() && !self.detached && !self.closed_in_order() {
                    self.error = Some(kind);
                }
                self.opening = Opening::Done;
                self.wake_connect();
            }
            State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck
            | State::TimeWait => {
                if !self.was_established {
                    self.was_established = true;
                    self.opening = Opening::Done;
                    self.wake_connect();
                }
            }
        }
    }

    /// Closed after FINs both ways: neither reset nor timed out.
    fn closed_in_order(&self) -> bool {
        self.was_established && !self.reset_seen && self.write_shut
    }

    fn plan(&mut self, now: Instant) {
        let smoltcp = self.interface.poll_at(to_smoltcp(now), &self.sockets).map(from_smoltcp);
        let own = match &self.opening {
            Opening::Active { begun, sent, answer, .. } => {
                let repeat = match (self.state(), answer) {
                    (State::SynReceived, Some((_, passed))) => SYN_ACK_TIMES.get(*passed),
                    _ => SYN_TIMES.get(*sent),
                };
                Some(repeat.map_or(*begun + SYN_TIMEOUT, |at| *begun + Duration::from_secs(*at)))
            }
            Opening::Passive { begun } => Some(*begun + SYN_RECEIVED_TIMEOUT),
            Opening::Done => None,
        };
        // A time that nobody judges at would come again and again.
        let judge = if self.is_judged() { self.keepalive.as_ref().and_then(|it| it.next(now)) } else { None };
        let at = smoltcp.into_iter().chain(own).chain(judge).min();
        // A timer that is set already fires early enough and plans anew.
        if let Some(at) = at.map(|at| at.max(now + TIMER_STEP))
            && self.timer.is_none_or(|set| at < set)
        {
            self.timer = Some(at);
            self.timer_is_new = true;
        }
    }

    /// When the other end was last heard, once keep-alive is set.
    pub(crate) fn heard_at(&self) -> Option<Instant> {
        self.keepalive.as_ref().map(|keepalive| keepalive.heard_at)
    }

    pub(crate) fn set_keepalive(&mut self, now: Instant, interval: Duration, silence_max: Duration) {
        let probes = Probes::new(interval, silence_max);
        let heard_at = self.keepalive.as_ref().map_or(now, |keepalive| keepalive.heard_at);
        let mut keepalive = Keepalive {
            probes,
            silence_max,
            watch: Watch::default(),
            heard_at,
            window_is_closed: self.keepalive.as_ref().is_some_and(|keepalive| keepalive.window_is_closed),
            idle_probes: 0,
            repetitions: 0,
            window_probes: 0,
        };
        if self.waits() {
            keepalive.watch.wrote(now, silence_max);
        }
        self.keepalive = Some(keepalive);
        self.socket().set_keep_alive(Some(to_smoltcp_duration(probes.idle)));
    }

    /// Whether bytes were written that the other end has not acknowledged, or a FIN.
    fn waits(&mut self) -> bool {
        let closing = matches!(self.state(), State::FinWait1 | State::Closing | State::LastAck);
        self.was_established && (closing || self.socket().send_queue() > 0)
    }

    /// Once an idle connection is being probed, its probes follow each other faster. smoltcp takes that over with the
    /// next packet.
    fn probe(&mut self, now: Instant) {
        let Some(keepalive) = &self.keepalive else { return };
        if now >= keepalive.heard_at + keepalive.probes.idle {
            let pause = to_smoltcp_duration(keepalive.probes.pause);
            self.socket().set_keep_alive(Some(pause));
        }
    }

    /// Notes what kind of packet goes out.
    fn count(&mut self, segment: Segment) {
        let length = u32::try_from(segment.payload).expect("below 64 KiB") + u32::from(segment.fin);
        if length == 0 {
            return;
        }
        let end = segment.sequence.wrapping_add(length);
        let is_new = self.sent_end.is_none_or(|sent| end.wrapping_sub(sent).cast_signed() > 0);
        if is_new {
            self.sent_end = Some(end);
        }
        let waits = self.waits();
        let Some(keepalive) = &mut self.keepalive else { return };
        if !waits {
            keepalive.idle_probes += 1;
        } else if keepalive.window_is_closed {
            keepalive.window_probes += 1;
        } else if !is_new {
            keepalive.repetitions += 1;
        }
    }

    /// Whether the silence of the other end matters.
    fn is_judged(&self) -> bool {
        self.was_established && !matches!(self.state(), State::Closed | State::TimeWait)
    }

    fn is_given_up(&mut self, now: Instant) -> bool {
        let waits = self.waits();
        self.is_judged() && self.keepalive.as_mut().is_some_and(|keepalive| keepalive.judge(now, waits))
    }

    pub(crate) fn poll_connected(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if let Some(kind) = self.error {
            return Poll::Ready(Err(kind.into()));
        }
        if self.was_established {
            return Poll::Ready(Ok(()));
        }
        self.connect_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn poll_read(&mut self, cx: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.read_waits = false;
        let error = self.error;
        let socket = self.socket();
        if socket.can_recv() {
            let read = socket.recv_slice(buffer).map_err(|_| io::Error::from(io::ErrorKind::NotConnected));
            return Poll::Ready(read);
        }
        if let Some(kind) = error {
            return Poll::Ready(Err(kind.into()));
        }
        if !socket.may_recv() {
            return Poll::Ready(Ok(0));
        }
        socket.register_recv_waker(cx.waker());
        self.read_waits = true;
        Poll::Pending
    }

    pub(crate) fn poll_write(&mut self, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write_waits = false;
        if let Some(kind) = self.error {
            return Poll::Ready(Err(kind.into()));
        }
        let socket = self.socket();
        if !socket.may_send() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !socket.can_send() {
            socket.register_send_waker(cx.waker());
            self.write_waits = true;
            return Poll::Pending;
        }
        Poll::Ready(socket.send_slice(bytes).map_err(|_| io::ErrorKind::BrokenPipe.into()))
    }

    /// Sends a FIN after what was written.
    pub(crate) fn shut_write(&mut self) {
        self.write_shut = true;
        self.socket().close();
    }
}
