//! Through a store: what one rank has for another lies there in numbered parts, until that one has read them.
//!
//! The frames for a peer are a stream of bytes, which is cut into parts: at the end of a frame, unless so many parts are
//! on their way that waiting costs nothing, and at the length that suits the store. Each part is sealed and written once under its own
//! name. All channels of a rank share a [`Postbox`], which waits for the next part of every peer by one request, writes a few
//! parts at once, and deletes what was read. It moves when any channel is polled.
//!
//! A part is a byte that says whether it is the last one, and the bytes.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use fmi_store::{BoxFuture, Name, Placed, Put, Scope, Shelf, Store, StoreError};

use super::{Channel, ChannelError, Head, LinkInfo, Mode, Outgoing};
use crate::net::Clock;
use crate::proto::frame::{ENVELOPE_BYTES, Envelope};
use crate::proto::stored::names::{Names, Spot};
use crate::proto::stored::object::Sealer;

/// Parts for one peer that are written at once.
const WINDOW: usize = 4;
/// Parts that have come from one peer and were not read; no more are asked for.
const AHEAD: usize = 8;
/// Names that are deleted by one request.
const DELETED_AT_ONCE: usize = 64;

/// The first byte of a part.
const MORE: u8 = 0;
const LAST: u8 = 1;
/// Where the bytes of a part begin.
const FIRST: usize = 1;

/// Wakes all who have left a waker, whoever it was that a store's future was polled for.
#[derive(Debug, Default)]
struct Bell(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Whether something has happened since the futures were polled last.
    has_rung: bool,
    wakers: Vec<Waker>,
}

impl Bell {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has rung since the last time.
    fn take(&self) -> bool {
        std::mem::take(&mut self.state().has_rung)
    }

    /// Wakes `waker` when it rings; at once if it has rung since the futures were polled.
    fn park(&self, waker: &Waker) {
        let mut state = self.state();
        if state.has_rung {
            drop(state);
            waker.wake_by_ref();
        } else if !state.wakers.iter().any(|known| known.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = self.state();
        state.has_rung = true;
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// What a rank has for one peer.
struct Outbox {
    sealer: Sealer,
    /// The part that is being filled.
    part: Vec<u8>,
    number: u64,
    /// Parts that wait to be written, and those that are being written.
    ready: VecDeque<Put>,
    puts: Vec<(usize, BoxFuture<Result<Placed, StoreError>>)>,
    /// Whether an operation's frame is partly taken, and whole ones that go behind it.
    is_mid_frame: bool,
    held: Vec<(Head, Vec<u8>)>,
    is_closed: bool,
}

/// What a peer has for this rank.
struct Inbox {
    sealer: Sealer,
    /// The number of the part that is read next.
    next: u64,
    /// Parts that have come, by number.
    parts: BTreeMap<u64, Vec<u8>>,
    /// How much of the next one is read.
    read: usize,
    /// Of the frame at hand, payload bytes that are not read.
    left: u64,
    is_closed: bool,
}

struct Peer {
    outbox: Outbox,
    inbox: Inbox,
    /// What is wrong with its bodies, or with those for it.
    failure: Option<String>,
    /// Whoever waits for it is woken when something has come, or has gone.
    waker: Option<Waker>,
    writer: Option<Waker>,
}

type Found = Result<Vec<(usize, Bytes)>, StoreError>;

/// A part of a peer that has not come: the peer, its number, where it lies.
type Missing = (u32, u64, Spot);

/// A request under way for any of some parts.
struct Wait {
    wanted: Vec<Missing>,
    found: BoxFuture<Found>,
}

/// What all channels of a rank share.
pub(crate) struct Postbox {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    names: Names,
    me: u32,
    time_to_live: Duration,
    only_if_absent: bool,
    part_bytes: usize,
    peers: BTreeMap<u32, Peer>,
    wait: Option<Wait>,
    /// Peers of which too much lies here unread, so that no more is waited for.
    stopped: Vec<u32>,
    used: VecDeque<Name>,
    /// What is deleted when this rank leaves.
    litter: Vec<Name>,
    deletion: Option<BoxFuture<Result<(), StoreError>>>,
    bell: Arc<Bell>,
    waker: Waker,
}

impl fmt::Debug for Postbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postbox").field("me", &self.me).field("store", &self.store).finish_non_exhaustive()
    }
}

type Shared = Arc<Mutex<Postbox>>;

fn lock(postbox: &Shared) -> MutexGuard<'_, Postbox> {
    postbox.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outbox {
    /// Parts that the store does not have yet.
    fn unwritten(&self) -> usize {
        self.ready.len() + self.puts.len()
    }

    /// Whether there is anything that the store does not have yet, but for the frame that an operation sends.
    fn has_queued(&self) -> bool {
        let is_filled = self.part.len() > FIRST && !self.is_mid_frame;
        !self.held.is_empty() || is_filled || self.unwritten() > 0
    }
}

impl Peer {
    /// Nothing more comes or goes; the first failure counts.
    fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
    }

    fn error(&self) -> Option<ChannelError> {
        self.failure.clone().map(ChannelError::Store)
    }
}

impl Postbox {
    /// That of rank `me` in a store, which is polled where futures of the net of `clock` may be. `sealers` has, by peer, what
    /// seals for it and what opens what it has sealed.
    pub(crate) fn new(
        (store, clock): (Arc<dyn Store>, Arc<dyn Clock>),
        names: Names,
        me: u32,
        time_to_live: Duration,
        sealers: impl IntoIterator<Item = (u32, (Sealer, Sealer))>,
    ) -> Self {
        let peer = |(rank, (seals, opens))| {
            let outbox = Outbox {
                sealer: seals,
                part: Vec::new(),
                number: 0,
                ready: VecDeque::new(),
                puts: Vec::new(),
                is_mid_frame: false,
                held: Vec::new(),
                is_closed: false,
            };
            let (parts, next, read, left) = (BTreeMap::new(), 0, FIRST, 0);
            let inbox = Inbox { sealer: opens, next, parts, read, left, is_closed: false };
            (rank, Peer { outbox, inbox, failure: None, waker: None, writer: None })
        };
        let bell = Arc::new(Bell::default());
        bell.state().has_rung = true;
        let part_bytes = store.traits().part_bytes.max(ENVELOPE_BYTES + 1);
        Self {
            part_bytes,
            store,
            clock,
            names,
            me,
            time_to_live,
            only_if_absent: false,
            peers: sealers.into_iter().map(peer).collect(),
            wait: None,
            stopped: Vec::new(),
            used: VecDeque::new(),
            litter: Vec::new(),
            deletion: None,
            waker: bell.clone().into(),
            bell,
        }
    }

    /// Notices when another process writes in the place of this rank, or has before.
    pub(crate) fn write_only_where_nothing_is(&mut self) {
        self.only_if_absent = true;
    }

    /// Deletes these bodies as well when the rank leaves.
    pub(crate) fn delete_at_end(&mut self, names: Vec<Name>) {
        self.litter = names;
    }

    /// The channels to all peers, by rank. `info` says how each is reached.
    pub(crate) fn into_channels(self, info: impl Fn(u32) -> LinkInfo) -> BTreeMap<u32, Stored> {
        let peers: Vec<u32> = self.peers.keys().copied().collect();
        let postbox = Arc::new(Mutex::new(self));
        let channel = |peer| (peer, Stored { postbox: postbox.clone(), peer, info: info(peer) });
        peers.into_iter().map(channel).collect()
    }

    fn name(&self, spot: Spot) -> Name {
        let shelf = Shelf { scope: Scope(self.names.scope()), number: spot.shelf };
        Name { shelf, id: spot.id }
    }

    fn peer(&mut self, rank: u32) -> &mut Peer {
        self.peers.get_mut(&rank).expect("a channel is of a peer")
    }

    /// Begins to write the part that is being filled.
    fn post(&mut self, to: u32, kind: u8) {
        let number = self.peer(to).outbox.number;
        let spot = self.names.part(self.me, to, number);
        let (name, time_to_live) = (self.name(spot), self.time_to_live);
        let outbox = &mut self.peer(to).outbox;
        let mut part = std::mem::take(&mut outbox.part);
        if part.is_empty() {
            part.push(kind);
        }
        part[0] = kind;
        let body = outbox.sealer.seal(&spot, &part);
        part.clear();
        outbox.part = part;
        outbox.number += 1;
        let mut put = Put::new(name, body, time_to_live).ringing([name.shelf]);
        put.only_if_absent = self.only_if_absent;
        self.peer(to).outbox.ready.push_back(put);
        self.write_ready(to);
    }

    /// Writes what is ready, a few parts at once.
    fn write_ready(&mut self, to: u32) {
        let (store, bell) = (self.store.clone(), self.bell.clone());
        let outbox = &mut self.peer(to).outbox;
        while outbox.puts.len() < WINDOW
            && let Some(put) = outbox.ready.pop_front()
        {
            outbox.puts.push((put.body.len(), store.clone().put(put)));
            bell.state().has_rung = true;
        }
    }

    /// Says that nothing more comes.
    fn close(&mut self, to: u32) {
        if !self.peer(to).outbox.is_closed {
            self.post(to, LAST);
            self.peer(to).outbox.is_closed = true;
        }
    }

    /// Takes as much of a frame as there is room for with so many parts on their way, from `sent` on, and posts what is
    /// full. True once all of it is taken.
    fn take_frame(&mut self, to: u32, frame: Outgoing<'_>, sent: &mut usize, window: usize) -> bool {
        let length = frame.head.len() + frame.payload.len();
        let part_bytes = self.part_bytes;
        while *sent < length {
            let outbox = &mut self.peer(to).outbox;
            if outbox.part.is_empty() {
                outbox.part.push(MORE);
            }
            let room = (1 + part_bytes).saturating_sub(outbox.part.len());
            // A head is in one part.
            if room == 0 || (*sent == 0 && room < ENVELOPE_BYTES) {
                if outbox.unwritten() >= window {
                    outbox.is_mid_frame = *sent > 0;
                    return false;
                }
                self.post(to, MORE);
                continue;
            }
            if *sent < ENVELOPE_BYTES {
                outbox.part.extend_from_slice(frame.head);
                *sent = ENVELOPE_BYTES;
                continue;
            }
            let rest = &frame.payload[*sent - ENVELOPE_BYTES..];
            let count = rest.len().min(room);
            outbox.part.extend_from_slice(&rest[..count]);
            *sent += count;
        }
        let outbox = &mut self.peer(to).outbox;
        outbox.is_mid_frame = false;
        for (head, payload) in std::mem::take(&mut outbox.held) {
            self.take_frame(to, Outgoing { head: &head, payload: &payload, whole: true }, &mut 0, usize::MAX);
        }
        self.post_if_idle(to);
        true
    }

    /// Posts what there is, unless so much is on its way that it would only be cut smaller.
    fn post_if_idle(&mut self, to: u32) {
        let outbox = &self.peer(to).outbox;
        if outbox.part.len() > FIRST && outbox.unwritten() < WINDOW {
            self.post(to, MORE);
        }
    }

    /// Polls what is under way, as far as something has happened to it. A communicator may be dropped where nothing can be
    /// polled any more.
    fn advance(&mut self) {
        while self.clock.is_at_hand() && self.bell.take() {
            let waker = self.waker.clone();
            let mut cx = Context::from_waker(&waker);
            self.poll_puts(&mut cx);
            self.poll_wait(&mut cx);
            self.poll_deletion(&mut cx);
        }
    }

    fn poll_puts(&mut self, cx: &mut Context<'_>) {
        for to in self.peers.keys().copied().collect::<Vec<_>>() {
            let peer = self.peer(to);
            let before = peer.outbox.puts.len();
            let mut failure = None;
            peer.outbox.puts.retain_mut(|(_, put)| match put.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(Ok(Placed::Written)) => false,
                Poll::Ready(Ok(Placed::Occupied(_))) => {
                    let what = "another message lies in its place: another process is this rank, or an earlier run used this group";
                    failure = Some(what.to_owned());
                    false
                }
                Poll::Ready(Err(error)) => {
                    failure = Some(error.to_string());
                    false
                }
            });
            if let Some(what) = failure {
                peer.fail(what);
            }
            if peer.outbox.puts.len() < before {
                peer.writer.take().into_iter().for_each(Waker::wake);
                self.write_ready(to);
                self.post_if_idle(to);
            }
        }
    }

    /// The next parts of all peers of which not too many lie here unread.
    fn wanted(&mut self) -> Vec<Missing> {
        let mut wanted = Vec::new();
        self.stopped.clear();
        for (&from, peer) in &mut self.peers {
            let inbox = &mut peer.inbox;
            // Parts that are read are passed over, which shows whether it is closed.
            inbox.front();
            if inbox.is_closed || peer.failure.is_some() {
                continue;
            }
            // Of a long frame all that are known to come, and else the next one.
            let known = inbox.left / self.part_bytes as u64;
            if inbox.parts.len() >= AHEAD {
                self.stopped.push(from);
                continue;
            }
            let room = inbox.next..inbox.next + AHEAD as u64;
            let missing = room.filter(|number| !inbox.parts.contains_key(number));
            let known = missing.take(usize::try_from(known).map_or(usize::MAX, |known| known.saturating_add(1)));
            wanted.extend(known.map(|number| (from, number, self.names.part(from, self.me, number))));
        }
        wanted
    }

    /// Whether there is room again for parts of a peer that are not waited for.
    fn has_room_again(&mut self) -> bool {
        let peers = &mut self.peers;
        let has_room = |from: &u32| {
            peers.get_mut(from).is_some_and(|peer| peer.inbox.front().is_none() || peer.inbox.parts.len() <= AHEAD / 2)
        };
        self.stopped.iter().any(has_room)
    }

    fn poll_wait(&mut self, cx: &mut Context<'_>) {
        if self.has_room_again() {
            self.wait = None;
        }
        loop {
            if self.wait.is_none() {
                let wanted = self.wanted();
                if wanted.is_empty() {
                    return;
                }
                let shelf = Shelf { scope: Scope(self.names.scope()), number: self.names.shelf(self.me) };
                let names = wanted.iter().map(|(_, _, spot)| self.name(*spot)).collect();
                self.wait = Some(Wait { wanted, found: self.store.clone().wait(shelf, names) });
            }
            let Some(wait) = &mut self.wait else { return };
            let Poll::Ready(result) = wait.found.as_mut().poll(cx) else { return };
            let wanted = std::mem::take(&mut wait.wanted);
            self.wait = None;
            match result {
                Ok(found) => found.into_iter().for_each(|(at, body)| {
                    if let Some(&(from, number, spot)) = wanted.get(at) {
                        self.came(from, number, spot, &body);
                    }
                }),
                Err(error) => {
                    // Nobody can be heard any more.
                    for peer in self.peers.values_mut() {
                        peer.fail(error.to_string());
                        peer.waker.take().into_iter().chain(peer.writer.take()).for_each(Waker::wake);
                    }
                    return;
                }
            }
        }
    }

    /// A part has come.
    fn came(&mut self, from: u32, number: u64, spot: Spot, body: &[u8]) {
        let name = self.name(spot);
        let deletes_used = self.store.traits().deletes_used;
        let peer = self.peer(from);
        match peer.inbox.sealer.open(&spot, body) {
            Ok(part) if part.first().is_some_and(|kind| [MORE, LAST].contains(kind)) => {
                peer.inbox.parts.insert(number, part);
            }
            Ok(_) => peer.fail("a message in the store is not one of FMI".into()),
            Err(error) => peer.fail(format!("a message in the store does not verify: {error}")),
        }
        peer.waker.take().into_iter().for_each(Waker::wake);
        if deletes_used {
            self.used.push_back(name);
        }
    }

    fn poll_deletion(&mut self, cx: &mut Context<'_>) {
        loop {
            if self.deletion.is_none() {
                if self.used.is_empty() {
                    return;
                }
                let count = self.used.len().min(DELETED_AT_ONCE);
                let names = self.used.drain(..count).collect();
                self.deletion = Some(self.store.clone().delete(names));
            }
            let Some(deletion) = &mut self.deletion else { return };
            let Poll::Ready(result) = deletion.as_mut().poll(cx) else { return };
            self.deletion = None;
            if let Err(error) = result {
                // It expires.
                tracing::debug!(%error, "what was read could not be deleted");
            }
        }
    }
}

/// The channel to one peer.
#[derive(Debug)]
pub(crate) struct Stored {
    postbox: Shared,
    peer: u32,
    info: LinkInfo,
}

impl Inbox {
    /// The unread bytes of the next part; `None` if it is not there, or nothing more comes. Passes over parts without bytes.
    fn front(&mut self) -> Option<&[u8]> {
        while !self.is_closed && self.parts.get(&self.next).is_some_and(|part| part.len() <= self.read) {
            let part = self.parts.remove(&self.next)?;
            (self.next, self.read, self.is_closed) = (self.next + 1, FIRST, part[0] == LAST);
        }
        self.parts.get(&self.next).filter(|_| !self.is_closed).map(|part| &part[self.read..])
    }
}

impl Stored {
    /// Reads from the front of what has come, once something is there.
    fn poll_front<T>(
        &self,
        mode: Mode<'_>,
        read: impl FnOnce(&mut Inbox) -> Result<T, ChannelError>,
    ) -> Poll<Result<T, ChannelError>> {
        let mut postbox = lock(&self.postbox);
        postbox.advance();
        let peer = postbox.peer(self.peer);
        if peer.inbox.front().is_some() {
            let value = read(&mut peer.inbox);
            // There may be room for more to come.
            postbox.bell.state().has_rung = true;
            return Poll::Ready(value);
        }
        if peer.inbox.is_closed {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
        }
        if let Some(error) = peer.error() {
            return Poll::Ready(Err(error));
        }
        if let Mode::Park(waker) = mode {
            peer.waker = Some(waker.clone());
            postbox.bell.park(waker);
        }
        Poll::Pending
    }

    fn park_writer(&self, postbox: &mut Postbox, mode: Mode<'_>) {
        if let Mode::Park(waker) = mode {
            postbox.peer(self.peer).writer = Some(waker.clone());
            postbox.bell.park(waker);
        }
    }
}

impl Channel for Stored {
    fn poll_head(&mut self, mode: Mode<'_>) -> Poll<Result<Envelope, ChannelError>> {
        self.poll_front(mode, |inbox| {
            let front = inbox.front().unwrap_or_default();
            let head =
                front.first_chunk().ok_or_else(|| ChannelError::Store("a message in the store ends early".into()))?;
            let envelope = Envelope::parse(head)?;
            inbox.read += ENVELOPE_BYTES;
            inbox.left = envelope.length;
            Ok(envelope)
        })
    }

    fn poll_body(&mut self, mode: Mode<'_>, target: &mut [u8]) -> Poll<Result<usize, ChannelError>> {
        if self.left() == 0 {
            return Poll::Ready(Ok(0));
        }
        self.poll_front(mode, |inbox| {
            let most = usize::try_from(inbox.left).unwrap_or(usize::MAX).min(target.len());
            let front = inbox.front().unwrap_or_default();
            let count = most.min(front.len());
            target[..count].copy_from_slice(&front[..count]);
            inbox.read += count;
            inbox.left -= count as u64;
            Ok(count)
        })
    }

    fn left(&self) -> u64 {
        lock(&self.postbox).peers[&self.peer].inbox.left
    }

    fn poll_send(&mut self, mode: Mode<'_>, frame: Outgoing<'_>, sent: &mut usize) -> Poll<Result<(), ChannelError>> {
        let mut postbox = lock(&self.postbox);
        postbox.advance();
        if let Some(error) = postbox.peer(self.peer).error() {
            return Poll::Ready(Err(error));
        }
        // A frame is sent once the store has it: nobody may poll this rank for long after that.
        while !postbox.take_frame(self.peer, frame, sent, WINDOW) || postbox.peer(self.peer).outbox.unwritten() > 0 {
            let before = postbox.peer(self.peer).outbox.unwritten();
            postbox.advance();
            if postbox.peer(self.peer).outbox.unwritten() >= before {
                self.park_writer(&mut postbox, mode);
                return Poll::Pending;
            }
        }
        let error = postbox.peer(self.peer).error();
        Poll::Ready(error.map_or(Ok(()), Err))
    }

    fn take_over(&mut self, frame: Outgoing<'_>, sent: usize) {
        let mut postbox = lock(&self.postbox);
        // What is begun is sent whole, beyond the window.
        postbox.take_frame(self.peer, frame, &mut { sent }, usize::MAX);
        postbox.advance();
    }

    fn queue(&mut self, envelope: &Envelope, payload: &[u8]) {
        let head = envelope.emit();
        let mut postbox = lock(&self.postbox);
        let outbox = &mut postbox.peer(self.peer).outbox;
        if outbox.is_mid_frame {
            outbox.held.push((head, payload.to_vec()));
            return;
        }
        postbox.take_frame(self.peer, Outgoing { head: &head, payload, whole: true }, &mut 0, usize::MAX);
        postbox.advance();
    }

    fn has_queued(&self) -> bool {
        lock(&self.postbox).peers[&self.peer].outbox.has_queued()
    }

    fn sends_later(&self) -> bool {
        true
    }

    fn queued(&self) -> usize {
        let postbox = lock(&self.postbox);
        let outbox = &postbox.peers[&self.peer].outbox;
        let held: usize = outbox.held.iter().map(|(head, payload)| head.len() + payload.len()).sum();
        let ready = outbox.ready.iter().map(|put| put.body.len());
        held + outbox.part.len() + ready.chain(outbox.puts.iter().map(|(bytes, _)| *bytes)).sum::<usize>()
    }

    fn is_mid_frame(&self) -> bool {
        lock(&self.postbox).peers[&self.peer].outbox.is_mid_frame
    }

    fn poll_flush(&mut self, mode: Mode<'_>) -> Poll<Result<(), ChannelError>> {
        let mut postbox = lock(&self.postbox);
        postbox.post_if_idle(self.peer);
        postbox.advance();
        let peer = postbox.peer(self.peer);
        if let Some(error) = peer.error() {
            return Poll::Ready(Err(error));
        }
        if !peer.outbox.has_queued() {
            return Poll::Ready(Ok(()));
        }
        self.park_writer(&mut postbox, mode);
        Poll::Pending
    }

    /// Says that nothing more comes, and waits until the store has it. A peer may read it when this rank is long gone.
    fn poll_close(&mut self, waker: &Waker) -> Poll<()> {
        let mut postbox = lock(&self.postbox);
        postbox.close(self.peer);
        let litter = std::mem::take(&mut postbox.litter);
        postbox.used.extend(litter);
        postbox.bell.state().has_rung = true;
        postbox.advance();
        let peer = postbox.peer(self.peer);
        let is_written = peer.failure.is_some() || peer.outbox.unwritten() == 0;
        if is_written && postbox.deletion.is_none() {
            return Poll::Ready(());
        }
        self.park_writer(&mut postbox, Mode::Park(waker));
        Poll::Pending
    }

    fn info(&self) -> LinkInfo {
        self.info
    }

    fn is_acknowledged(&self) -> Option<bool> {
        let postbox = lock(&self.postbox);
        let peer = &postbox.peers[&self.peer];
        Some(peer.failure.is_some() || peer.outbox.unwritten() == 0)
    }
}

impl Drop for Stored {
    /// Says so, as far as the store takes it at once: whoever waits for this rank need not wait for a deadline.
    fn drop(&mut self) {
        let mut postbox = lock(&self.postbox);
        postbox.close(self.peer);
        postbox.advance();
    }
}
