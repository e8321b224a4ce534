//! Fragments: only the first shows the ports, so the others follow where it went. Nothing is put
//! together again.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;
use std::time::Duration;

use fmi_net::time::Instant;

use super::behavior::Fragments;
use super::{DropReason, Nat, Side, Verdict};
use crate::packet::{Fragment, Packet};

/// How long a datagram's fragments belong together (RFC 791 suggests 15 s; Linux takes 30).
const LIFETIME: Duration = Duration::from_secs(30);
/// Bytes of fragments that wait for a first one.
const WAITING_BYTES_MAX: usize = 256 << 10;

type Key = (Side, Fragment);

#[derive(Clone, Debug)]
enum Datagram {
    /// The first one has passed: the others get its address.
    Passing(SocketAddrV4),
    /// These wait for it.
    Waiting(Vec<Packet>),
}

/// Datagrams of which fragments have been seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Reassembly {
    datagrams: BTreeMap<Key, Datagram>,
    deadlines: VecDeque<(Instant, Key)>,
    waiting_bytes: usize,
}

impl Reassembly {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(until, _)| *until)
    }

    /// Forgets datagrams whose time has passed; those that still wait are dropped.
    pub(super) fn give_up(&mut self, now: Instant) -> impl Iterator<Item = Verdict> + use<> {
        let mut dropped = 0;
        while self.next_deadline().is_some_and(|until| until <= now) {
            if let Some((_, key)) = self.deadlines.pop_front()
                && let Some(Datagram::Waiting(packets)) = self.datagrams.remove(&key)
            {
                dropped += packets.len();
                self.leave(&packets);
            }
        }
        std::iter::repeat_n(Verdict::Drop(DropReason::FragmentTimeout), dropped)
    }

    fn has_room(&self, key: &Key, bytes: usize, datagrams_max: usize) -> bool {
        (self.datagrams.contains_key(key) || self.datagrams.len() < datagrams_max)
            && self.waiting_bytes + bytes <= WAITING_BYTES_MAX
    }

    fn begin(&mut self, now: Instant, key: Key, datagram: Datagram) -> Vec<Packet> {
        match self.datagrams.insert(key, datagram) {
            None => {
                self.deadlines.push_back((now + LIFETIME, key));
                Vec::new()
            }
            Some(Datagram::Passing(_)) => Vec::new(),
            Some(Datagram::Waiting(packets)) => {
                self.leave(&packets);
                packets
            }
        }
    }

    /// Frees the room of fragments that wait no longer.
    fn leave(&mut self, packets: &[Packet]) {
        self.waiting_bytes -= packets.iter().map(|packet| packet.bytes().len()).sum::<usize>();
    }
}

/// Protocol number of TCP.
const TCP: u8 = 6;

impl Nat {
    /// A fragment from one side.
    pub(super) fn fragment(&mut self, now: Instant, from: Side, mut packet: Packet) -> Verdict {
        let Some(fragment) = packet.fragment() else { return Verdict::Drop(DropReason::NotTranslated) };
        let policy = if fragment.protocol == TCP { self.config.tcp_fragments } else { self.config.fragments };
        if policy == Fragments::Drop {
            return Verdict::Drop(DropReason::Fragment);
        }
        if !packet.decrement_hop_limit() {
            return self.expired_in_transit(from, &packet);
        }
        let key = (from, Fragment { offset: 0, more: false, ..fragment });
        if fragment.offset == 0 {
            return self.first_fragment(now, key, packet);
        }
        if let Some(Datagram::Passing(endpoint)) = self.reassembly.datagrams.get(&key) {
            return pass(from, packet, *endpoint);
        }
        if policy == Fragments::InOrder {
            return Verdict::Drop(DropReason::Fragment);
        }
        let datagrams_max = self.config.limits.fragmented_max;
        if !self.reassembly.has_room(&key, packet.bytes().len(), datagrams_max) {
            return Verdict::Drop(DropReason::FragmentsFull);
        }
        self.reassembly.waiting_bytes += packet.bytes().len();
        if let Some(Datagram::Waiting(packets)) = self.reassembly.datagrams.get_mut(&key) {
            packets.push(packet);
        } else {
            self.reassembly.begin(now, key, Datagram::Waiting(vec![packet]));
        }
        Verdict::Held
    }

    fn first_fragment(&mut self, now: Instant, key: Key, packet: Packet) -> Verdict {
        let from = key.0;
        let verdict = match from {
            Side::Inside => self.translate_outbound(now, packet),
            Side::Outside => self.translate_inbound(now, packet, None),
        };
        if !self.reassembly.has_room(&key, 0, self.config.limits.fragmented_max) {
            return verdict;
        }
        if let Verdict::Forward(_, first) = &verdict
            && let Some(flow) = first.flow()
        {
            let endpoint = if from == Side::Inside { flow.source } else { flow.destination };
            for later in self.reassembly.begin(now, key, Datagram::Passing(endpoint)) {
                self.follows.push_back(pass(from, later, endpoint));
            }
        }
        verdict
    }
}

/// A later fragment, with the address that the first one got.
fn pass(from: Side, mut packet: Packet, endpoint: SocketAddrV4) -> Verdict {
    match from {
        Side::Inside => {
            packet.set_source(endpoint);
            Verdict::Forward(Side::Outside, packet)
        }
        Side::Outside => {
            packet.set_destination(endpoint);
            Verdict::Forward(Side::Inside, packet)
        }
    }
}
