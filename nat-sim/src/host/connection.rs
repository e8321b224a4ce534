//! One TCP connection: a smoltcp interface with one socket, and Linux's opening around it.

use std::io;
use std::net::SocketAddr;
use std::task::Waker;
use std::time::Duration;

use fmi_net::liveness::{Verdict, Watch};
use fmi_net::time::Instant;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint};

use super::idle::{self, Acknowledging, Keepalive};
use super::sender::{Due, PATH_MTU_MIN, Part, Sender};
use super::wire::{Wire, from_smoltcp, to_smoltcp, to_smoltcp_duration};
use crate::host::{
    FIN_WAIT_2_TIME, ListenerId, SYN_ACK_TIMES, SYN_RECEIVED_TIMEOUT, SYN_TIMEOUT, SYN_TIMES, TIME_WAIT_TIME, wake,
};
use crate::packet::{Packet, Segment};
use crate::topology::TcpConfig;

mod program;

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

/// Whether the peer's FIN has been acknowledged, once it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndAcknowledgement {
    Unsaid,
    Waits(Instant),
    Said,
}

pub(crate) struct Connection {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    wire: Wire,
    opening: Opening,
    /// What made it, if it was not the program.
    listener: Option<ListenerId>,
    was_established: bool,
    detached: bool,
    write_shut: bool,
    muted: bool,
    reset_seen: bool,
    /// Whether the peer's bytes are at their end.
    fin_seen: bool,
    /// Whether note is taken of its end, and whether nothing is left of it, not even a time.
    is_closed: bool,
    is_gone: bool,
    /// Why it has ended, until the program is told: it is once.
    error: Option<io::ErrorKind>,
    /// Whether that is because long packets do not get there.
    is_choked: bool,
    /// When the rest of a connection that is closed on this side is forgotten.
    forgotten_at: Option<Instant>,
    /// Our initial sequence number on the wire.
    isn: u32,
    /// What is added to smoltcp's sequence numbers, once it has chosen its first.
    shift: Option<u32>,
    peer_isn: Option<u32>,
    /// The last acknowledgement that was sent, and one past the last byte of the peer's that has come.
    acknowledged: Option<u32>,
    heard_to: Option<u32>,
    /// The state at the last look.
    noticed: State,
    timer: Option<Instant>,
    timer_is_new: bool,
    keepalive: Option<Keepalive>,
    sender: Sender,
    acknowledging: Acknowledging,
    end_acknowledgement: EndAcknowledgement,
    /// Sequence number and window of the last segment: a bare one that repeats both tells of a gap.
    heard: Option<(u32, u16)>,
    /// Bytes that the program has written.
    written: u32,
    /// The window field of the last segment that smoltcp sent.
    window: u16,
    /// When the last SYN or SYN|ACK went out that is not answered.
    asked_at: Option<Instant>,
    pub(crate) connect_waker: Option<Waker>,
    pub(crate) read_waits: bool,
    pub(crate) write_waits: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} > {} {}", self.local, self.remote, self.state())
    }
}

/// Numbers less far ahead than this are near: within any window.
const NEAR: u32 = 1 << 20;

/// smoltcp's clock counts microseconds: an earlier timer would find nothing due.
const TIMER_STEP: Duration = Duration::from_micros(1);

/// How many of `times`, in seconds after `begun`, have come.
fn due(times: &[u64], begun: Instant, now: Instant) -> usize {
    times.iter().filter(|at| begun + Duration::from_secs(**at) <= now).count()
}

impl Connection {
    fn new(
        now: Instant,
        tcp: TcpConfig,
        local: SocketAddr,
        remote: SocketAddr,
        (seed, isn): (u64, u32),
        listener: Option<ListenerId>,
    ) -> Self {
        let opening = match listener {
            Some(_) => Opening::Passive { begun: now },
            None => Opening::Active { begun: now, syn: None, sent: 0, answer: None },
        };
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
        socket.set_hop_limit(Some(crate::packet::HOP_LIMIT));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            local,
            remote,
            interface,
            sockets,
            handle,
            wire,
            opening,
            listener,
            was_established: false,
            detached: false,
            write_shut: false,
            muted: false,
            reset_seen: false,
            fin_seen: false,
            is_closed: false,
            is_gone: false,
            error: None,
            is_choked: false,
            forgotten_at: None,
            isn,
            shift: None,
            peer_isn: None,
            acknowledged: None,
            heard_to: None,
            noticed: State::Closed,
            timer: None,
            timer_is_new: false,
            keepalive: None,
            sender: Sender::new(isn.wrapping_add(1)),
            acknowledging: Acknowledging::new(),
            end_acknowledgement: EndAcknowledgement::Unsaid,
            heard: None,
            written: 0,
            window: 0,
            asked_at: None,
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
        let mut connection = Self::new(now, tcp, local, remote, seeds, None);
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
        listener: ListenerId,
    ) -> io::Result<Self> {
        let mut connection = Self::new(now, tcp, local, remote, seeds, Some(listener));
        let listen = connection.socket().listen(IpEndpoint::from(local));
        listen.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(connection)
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub(crate) fn state(&self) -> State {
        if self.is_gone { State::Closed } else { self.sockets.get::<Socket<'_>>(self.handle).state() }
    }

    /// The listener that made it, if one did.
    pub(super) fn listener(&self) -> Option<ListenerId> {
        self.listener
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

    /// Whether an ICMP error that quotes this sequence number is about what this connection has in flight.
    pub(super) fn is_quoted(&self, sequence: u32) -> bool {
        if matches!(self.opening, Opening::Done) {
            let (from, to) = (self.sender.unacknowledged(), self.sender.next());
            return sequence.wrapping_sub(from) < to.wrapping_sub(from);
        }
        sequence.wrapping_sub(self.isn) <= 1
    }

    /// The path takes packets of so many bytes only. What is in flight goes out again in smaller ones.
    pub(super) fn shrink(&mut self, now: Instant, mtu: usize, out: &mut Vec<Packet>) {
        let headers = if self.local.is_ipv4() { 20 } else { 40 } + 20;
        let parts = self.sender.shrink(now, mtu.max(PATH_MTU_MIN) - headers);
        self.send_parts(parts, out);
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
        if self.state() == State::TimeWait {
            return true;
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
        if self.rests() {
            self.rest(now, incoming.map(|(_, segment)| segment), out);
            return self.plan(now);
        }
        let mut heard = None;
        if let Some((packet, segment)) = incoming {
            match self.distance_of_reset(segment) {
                Some(distance @ 1..NEAR) => {
                    let acknowledgement = segment.sequence.wrapping_sub(distance);
                    out.push(self.asked_back(self.sender.next(), acknowledgement));
                }
                Some(NEAR..) => {}
                Some(0) | None if self.refuses(segment) => {
                    out.extend(packet.reset_reply());
                    self.silence();
                }
                Some(0) | None => match self.challenge(segment) {
                    Some(challenge) => out.push(challenge),
                    None => {
                        self.ingest(now, packet, segment);
                        self.notice(now);
                        self.hear(now, segment, out);
                        heard = Some(segment);
                    }
                },
            }
        }
        self.handle_timeout(now, out);
        self.emit(now, out);
        self.acknowledge_end(heard, out);
        self.repeat_syn(now, out);
        self.notice(now);
        let unsent = self.has_unsent();
        self.sender.arrange(now, unsent);
        self.plan(now);
    }

    /// The FIN that ends a connection is acknowledged at once, even if bytes before it are not yet.
    fn acknowledge_end(&mut self, heard: Option<Segment>, out: &mut Vec<Packet>) {
        let ends = self.fin_seen && !self.muted && !matches!(self.state(), State::CloseWait | State::Closed);
        let end = heard.filter(|segment| segment.fin && !segment.rst && ends).map(|segment| segment.end());
        if end.is_some() && end == self.heard_to && end != self.acknowledged {
            self.acknowledged = end;
            out.push(self.asked_back(self.sender.next(), end.unwrap_or(0)));
        }
    }

    /// Whether the first acknowledgement of the peer's FIN may wait for something that carries it: the program may be
    /// about to close as well.
    fn holds_back(&mut self, now: Instant, segment: Segment) -> bool {
        let is_first = self.end_acknowledgement == EndAcknowledgement::Unsaid;
        let is_it = !segment.rst && self.fin_seen && self.heard_to == Some(segment.acknowledgement);
        if is_first && is_it && self.state() == State::CloseWait {
            self.end_acknowledgement = EndAcknowledgement::Waits(now + self.acknowledging.end_delay());
            return true;
        }
        false
    }

    /// Whether only the memory of it is left, so that nothing of it is taken for a part of another connection.
    fn rests(&self) -> bool {
        !self.is_gone && self.state() == State::TimeWait && self.forgotten_at.is_some()
    }

    /// TIME_WAIT as Linux keeps it: it acknowledges, for 60 s after the last FIN.
    fn rest(&mut self, now: Instant, segment: Option<Segment>, out: &mut Vec<Packet>) {
        if let Some(segment) = segment {
            if segment.rst {
                self.is_gone |= self.acknowledged == Some(segment.sequence);
            } else if segment.payload > 0 || segment.fin || self.acknowledged != Some(segment.sequence) {
                out.push(self.asked_back(self.sender.next(), self.acknowledged.unwrap_or(0)));
            }
            if segment.fin {
                self.forgotten_at = Some(now + TIME_WAIT_TIME);
            }
        }
        self.is_gone |= self.forgotten_at.is_some_and(|at| at <= now);
    }

    /// Whether a segment brings bytes to a program that has closed the connection: they are answered by an RST.
    fn refuses(&self, segment: Segment) -> bool {
        let end = segment.end().wrapping_sub(u32::from(segment.fin));
        let is_new = self.heard_to.or(self.acknowledged).is_none_or(|to| (1..NEAR).contains(&end.wrapping_sub(to)));
        self.detached
            && segment.payload > 0
            && !segment.rst
            && is_new
            && matches!(self.state(), State::FinWait1 | State::FinWait2)
    }

    /// Does what its own times ask for.
    fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Packet>) {
        match self.sender.handle_timeout(now, self.detached) {
            Due::Nothing => {}
            Due::Again(parts) => self.send_parts(parts, out),
            Due::Probe => out.push(self.probe()),
            Due::GiveUp => return self.end_in_silence(),
        }
        if self.forgotten_at.is_some_and(|at| at <= now) {
            return self.silence();
        }
        if matches!(self.end_acknowledgement, EndAcknowledgement::Waits(at) if at <= now) {
            self.end_acknowledgement = EndAcknowledgement::Said;
            out.push(self.asked_back(self.sender.next(), self.acknowledged.unwrap_or(0)));
        }
        if !self.is_judged() {
            return;
        }
        let sample = self.sample();
        let Some(keepalive) = &mut self.keepalive else { return };
        let due = keepalive.handle_timeout(now, sample.waits);
        let verdict = keepalive.judge(now, sample);
        self.is_choked |= verdict == Verdict::Choked;
        if due == idle::Due::GiveUp || matches!(verdict, Verdict::Dead | Verdict::Choked) {
            self.socket().abort();
        } else if due == idle::Due::Probe {
            out.push(self.probe());
        }
    }

    /// Asks the other end for an answer, by a number that it has acknowledged.
    fn probe(&self) -> Packet {
        self.asked_back(self.sender.unacknowledged().wrapping_sub(1), self.acknowledged.unwrap_or(0))
    }

    /// The other end is gone, and is told nothing.
    fn end_in_silence(&mut self) {
        if !self.detached {
            self.error = Some(io::ErrorKind::TimedOut);
        }
        self.is_closed = true;
        self.silence();
        self.sender.stop();
    }

    fn send_parts(&self, parts: Vec<Part>, out: &mut Vec<Packet>) {
        for Part { sequence, bytes, fin } in parts {
            let acknowledgement = self.acknowledged.unwrap_or(0);
            let segment = Segment { ack: true, fin, sequence, acknowledgement, window: self.window, ..Segment::NONE };
            out.push(Packet::tcp_between(self.local, self.remote, segment, &bytes));
        }
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
        let isn = self.peer_isn.filter(|_| self.listener.is_none() && self.state() == State::SynReceived)?;
        let next = isn.wrapping_add(1);
        let ahead = segment.sequence.wrapping_sub(next);
        let is_doubtful = segment.rst && ahead > 0 && ahead < u32::from(u16::MAX);
        if !is_doubtful && !segment.is_first_syn() {
            return None;
        }
        Some(self.asked_back(self.isn.wrapping_add(1), next))
    }

    fn asked_back(&self, sequence: u32, acknowledgement: u32) -> Packet {
        let answer = Segment { ack: true, sequence, acknowledgement, window: self.window, ..Segment::NONE };
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
        if segment.syn {
            self.sender.has_sack |= packet.tcp_options().sack_permitted;
        }
        packet.shift_numbers(0, self.shift.unwrap_or(0).wrapping_neg());
        if segment.payload > 0 {
            let delay = self.acknowledging.came(now, segment.fin);
            self.socket().set_ack_delay(delay.map(to_smoltcp_duration));
        }
        if segment.syn && segment.ack && self.state() == State::SynReceived {
            // smoltcp takes no SYN|ACK here; without its SYN the segment is the ACK that opens.
            self.present(now, packet.without_syn());
        }
        self.reset_seen |= segment.rst;
        self.note_heard(segment);
        if let Some(keepalive) = &mut self.keepalive {
            keepalive.heard(now);
        }
        self.present(now, packet);
    }

    /// Takes what the segment says of what was sent; smoltcp has judged it.
    fn hear(&mut self, now: Instant, segment: Segment, out: &mut Vec<Packet>) {
        if !segment.ack || segment.rst || !self.is_judged() {
            return;
        }
        if let Some(asked_at) = self.asked_at.take() {
            self.sender.measure(now - asked_at);
        }
        let waiting = u32::try_from(self.socket().send_queue()).expect("a buffer is below 4 GiB");
        let bytes = self.isn.wrapping_add(1).wrapping_add(self.written.wrapping_sub(waiting));
        let is_fin_heard = matches!(self.state(), State::FinWait2 | State::TimeWait);
        let to = if is_fin_heard { self.sender.next() } else { bytes };
        let is_bare = !segment.syn && !segment.fin && segment.payload == 0;
        let heard = Some((segment.sequence, segment.window));
        let is_repeated = std::mem::replace(&mut self.heard, heard) == heard;
        let may_be_duplicate = is_bare && is_repeated && segment.acknowledgement == self.sender.unacknowledged();
        let parts = self.sender.hear(now, to, segment.window, may_be_duplicate);
        self.send_parts(parts, out);
    }

    /// Whether bytes wait that were never sent.
    fn has_unsent(&mut self) -> bool {
        let sent = self.sender.next().wrapping_sub(self.isn.wrapping_add(1));
        self.was_established && self.written.wrapping_sub(sent).cast_signed() > 0
    }

    /// Notes how far the peer's bytes have come.
    fn note_heard(&mut self, segment: Segment) {
        let length = u32::try_from(segment.payload).expect("below 64 KiB") + u32::from(segment.fin);
        let end = segment.sequence.wrapping_add(length);
        if length > 0 && self.heard_to.is_none_or(|to| end.wrapping_sub(to) < NEAR) {
            self.heard_to = Some(end);
        }
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
            self.window = segment.window;
            if !segment.syn && self.was_established() {
                self.emit_established(now, packet, out);
                continue;
            }
            // The other end's timestamps tell which one of several it answers.
            self.asked_at = Some(now).filter(|_| segment.syn);
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

    /// A segment of smoltcp after the handshake: what is new of its bytes, or what it says without any.
    fn emit_established(&mut self, now: Instant, mut packet: Packet, out: &mut Vec<Packet>) {
        let Some(segment) = packet.segment() else { return };
        if segment.payload == 0 && !segment.fin {
            if self.holds_back(now, segment) {
                return;
            }
            self.say_end(segment);
            // smoltcp counts from what it is about to repeat.
            packet.shift_numbers(self.sender.next().wrapping_sub(segment.sequence), 0);
            self.acknowledging.sent_alone(now);
            out.push(packet);
            return;
        }
        let part = Part { sequence: segment.sequence, bytes: packet.stream_bytes().to_vec(), fin: segment.fin };
        let parts = self.sender.send(now, part);
        self.say_end(segment);
        if !parts.is_empty() {
            self.acknowledging.sent_bytes(now);
        }
        match &parts[..] {
            [] => {}
            // Parts have the numbers of what they are cut from.
            [whole] if (whole.sequence, whole.bytes.len()) == (segment.sequence, segment.payload) => out.push(packet),
            _ => self.send_parts(parts, out),
        }
    }

    /// Notes that something carries the acknowledgement of the peer's FIN.
    fn say_end(&mut self, segment: Segment) {
        if self.fin_seen && self.heard_to == Some(segment.acknowledgement) {
            self.end_acknowledgement = EndAcknowledgement::Said;
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
    fn notice(&mut self, now: Instant) {
        let state = self.state();
        self.fin_seen |= matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        match state {
            State::Listen | State::SynSent | State::SynReceived => {}
            State::Closed => self.close_with(match (&self.opening, self.reset_seen) {
                (Opening::Active { answer: None, .. }, true) => io::ErrorKind::ConnectionRefused,
                (_, true) if self.fin_seen => io::ErrorKind::BrokenPipe,
                (_, true) => io::ErrorKind::ConnectionReset,
                (_, false) => io::ErrorKind::TimedOut,
            }),
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
        let time = if state == State::TimeWait {
            Some(TIME_WAIT_TIME)
        } else {
            Some(FIN_WAIT_2_TIME).filter(|_| state == State::FinWait2 && self.detached)
        };
        if state == State::TimeWait {
            self.sender.stop();
        }
        if let Some(time) = time.filter(|_| self.forgotten_at.is_none() || state != self.noticed) {
            self.forgotten_at = Some(now + time);
        }
        self.noticed = state;
    }

    fn close_with(&mut self, kind: io::ErrorKind) {
        if !std::mem::replace(&mut self.is_closed, true) {
            if self.error.is_none() && !self.detached && !self.closed_in_order() {
                self.error = Some(kind);
            }
            self.sender.stop();
            self.end_acknowledgement = EndAcknowledgement::Said;
        }
        self.opening = Opening::Done;
        self.wake_connect();
    }

    /// Closed after FINs both ways: neither reset nor timed out.
    fn closed_in_order(&self) -> bool {
        self.was_established && !self.reset_seen && self.write_shut
    }

    fn plan(&mut self, now: Instant) {
        if self.is_gone {
            return;
        }
        if self.rests() {
            return self.set_timer(now, self.forgotten_at);
        }
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
        let judge = if self.is_judged() { self.keepalive.as_ref().map(Keepalive::poll_timeout) } else { None };
        let end = match self.end_acknowledgement {
            EndAcknowledgement::Waits(at) => Some(at),
            EndAcknowledgement::Unsaid | EndAcknowledgement::Said => None,
        };
        let later = [own, judge, end, self.sender.poll_timeout(), self.forgotten_at].into_iter().flatten();
        self.set_timer(now, smoltcp.into_iter().chain(later).min());
    }

    fn set_timer(&mut self, now: Instant, at: Option<Instant>) {
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
        let waits = self.waits();
        let watch = Watch::after(self.written.into());
        let mut keepalive = Keepalive::new(now, interval, silence_max, self.heard_at(), watch);
        keepalive.watch(now, waits);
        self.keepalive = Some(keepalive);
    }

    /// Whether bytes were written that the other end has not acknowledged, or a FIN.
    pub(crate) fn waits(&mut self) -> bool {
        let closing = matches!(self.state(), State::FinWait1 | State::Closing | State::LastAck);
        self.was_established && (closing || self.socket().send_queue() > 0)
    }

    /// Whether the silence of the other end matters.
    fn is_judged(&self) -> bool {
        self.was_established && !matches!(self.state(), State::Closed | State::TimeWait)
    }
}
