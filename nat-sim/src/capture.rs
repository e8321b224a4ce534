//! What is kept of a run: a packet capture, an event log, and a digest of both.
//!
//! Every packet is recorded once on each network that it crosses, when it is put there. The digest
//! chains all of it with its times, so two runs are the same exactly if their digests are.
//!
//! Within a tick, sites and functions act one after the other, so that records come out of order by up to a tick. The
//! digest takes them as they come; files get them in order of time.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use fmi_net::time::Instant;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::{DataLink, Endianness};

use crate::packet::Packet;

/// Where records go, in addition to the digest.
#[derive(Default)]
pub struct Sinks {
    /// A pcapng file, one interface for each network.
    pub pcap: Option<Box<dyn Write + Send>>,
    /// An event log, one JSON object a line.
    pub log: Option<Box<dyn Write + Send>>,
}

impl fmt::Debug for Sinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sinks").field("pcap", &self.pcap.is_some()).field("log", &self.log.is_some()).finish()
    }
}

pub(crate) struct Capture {
    pcap: Option<PcapNgWriter<Box<dyn Write + Send>>>,
    log: Option<Box<dyn Write + Send>>,
    digest: Digest,
    /// Records that are not written yet, by time and sequence.
    waiting: BTreeMap<(Instant, u64), Record>,
    sequence: u64,
    pub(crate) packets: u64,
    bytes: u64,
    bytes_max: u64,
    failed: Option<String>,
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("packets", &self.packets).finish_non_exhaustive()
    }
}

/// A record for the files.
enum Record {
    /// A packet, on a network.
    Packet(usize, Packet),
    /// A line of the log.
    Line(String),
}

/// A hash over all records. Records are gathered first: hashing them one by one costs twice as much.
#[derive(Default)]
struct Digest {
    hasher: blake3::Hasher,
    gathered: Vec<u8>,
}

/// Bytes that are hashed at once.
const GATHERED_BYTES: usize = 64 << 10;

impl Digest {
    fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= GATHERED_BYTES {
            self.hasher.update(&self.gathered);
            self.gathered.clear();
        }
        self
    }

    fn finish(&mut self) -> String {
        self.hasher.update(&std::mem::take(&mut self.gathered));
        self.hasher.finalize().to_hex()[..32].to_owned()
    }
}

/// Bytes of a capture around each packet.
const PACKET_BLOCK_BYTES: usize = 32;
/// Ticks by which a record may come late: a site runs what was due within the last one.
const LATE_TICKS: u32 = 2;

/// Most bytes of one packet that are recorded.
const SNAPLEN: u32 = 65_535;

impl Capture {
    pub(crate) fn new(sinks: Sinks, networks: &[String], bytes_max: u64) -> io::Result<Self> {
        let pcap = sinks.pcap.map(|file| open_pcap(file, networks)).transpose()?;
        let (digest, waiting) = (Digest::default(), BTreeMap::new());
        Ok(Self { pcap, log: sinks.log, digest, waiting, sequence: 0, packets: 0, bytes: 0, bytes_max, failed: None })
    }

    pub(crate) fn packet(&mut self, now: Instant, network: usize, name: &str, packet: &Packet) {
        self.packets += 1;
        self.digest.update(&now.as_nanos().to_le_bytes()).update(&(network as u64).to_le_bytes());
        self.digest.update(packet.bytes());
        if self.pcap.is_some() {
            self.record(now, packet.bytes().len() + PACKET_BLOCK_BYTES, || Record::Packet(network, packet.clone()));
        }
        if self.log.is_some() {
            let text = describe(packet);
            self.line(now, &serde_json::json!({ "ns": now.as_nanos(), "on": name, "packet": text }));
        }
    }

    /// Records anything else that happened; all of it is part of the digest.
    pub(crate) fn event(&mut self, now: Instant, what: &str, detail: &str) {
        self.digest.update(&now.as_nanos().to_le_bytes()).update(what.as_bytes()).update(detail.as_bytes());
        if self.log.is_some() {
            self.line(now, &serde_json::json!({ "ns": now.as_nanos(), "event": what, "detail": detail }));
        }
    }

    fn line(&mut self, now: Instant, value: &serde_json::Value) {
        let line = value.to_string();
        self.record(now, line.len() + 1, || Record::Line(line));
    }

    fn record(&mut self, now: Instant, bytes: usize, record: impl FnOnce() -> Record) {
        self.bytes += bytes as u64;
        if self.bytes > self.bytes_max {
            self.failed.get_or_insert_with(|| format!("capture and log exceed {} bytes", self.bytes_max));
            return;
        }
        self.sequence += 1;
        self.waiting.insert((now, self.sequence), record());
    }

    /// Writes what will have nothing before it: everything is recorded at most a few ticks late.
    pub(crate) fn settle(&mut self, now: Instant, tick: Duration) {
        let settled = now - tick * LATE_TICKS;
        while let Some(entry) = self.waiting.first_entry()
            && entry.key().0 < settled
        {
            let ((at, _), record) = entry.remove_entry();
            self.write(at, record);
        }
    }

    fn write(&mut self, at: Instant, record: Record) {
        let written = match record {
            Record::Packet(network, packet) => self.pcap.as_mut().map(|pcap| {
                let block = EnhancedPacketBlock {
                    interface_id: u32::try_from(network).expect("few networks"),
                    timestamp: at.since_origin(),
                    original_len: u32::try_from(packet.bytes().len()).expect("packets are below 64 KiB"),
                    data: packet.bytes().into(),
                    options: vec![],
                };
                let written = pcap.write_pcapng_block(block);
                written.map(drop).map_err(|error| format!("the capture cannot be written: {error}"))
            }),
            Record::Line(line) => self.log.as_mut().map(|log| {
                writeln!(log, "{line}").map_err(|error| format!("the event log cannot be written: {error}"))
            }),
        };
        if let Some(Err(error)) = written {
            self.failed.get_or_insert(error);
        }
    }

    /// Why recording stopped, if it did.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    pub(crate) fn finish(&mut self) -> String {
        for ((at, _), record) in std::mem::take(&mut self.waiting) {
            self.write(at, record);
        }
        if let Some(log) = &mut self.log
            && let Err(error) = log.flush()
        {
            self.failed = Some(error.to_string());
        }
        // Dropping the writers flushes what they buffer.
        (self.pcap, self.log) = (None, None);
        self.digest.finish()
    }
}

fn open_pcap(file: Box<dyn Write + Send>, networks: &[String]) -> io::Result<PcapNgWriter<Box<dyn Write + Send>>> {
    let broken = |error: pcap_file::PcapError| io::Error::other(error.to_string());
    let mut pcap = PcapNgWriter::with_endianness(file, Endianness::Little).map_err(broken)?;
    for name in networks {
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::RAW,
            snaplen: SNAPLEN,
            options: vec![
                InterfaceDescriptionOption::IfName(name.as_str().into()),
                // The writer stamps packets in nanoseconds.
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        };
        pcap.write_pcapng_block(block).map_err(broken)?;
    }
    Ok(pcap)
}

fn describe(packet: &Packet) -> String {
    if let Some(error) = packet.icmp_error() {
        let quoted = error.quoted;
        return format!(
            "{} > {} icmp {}/{} about {} > {}",
            packet.source(),
            packet.destination(),
            error.kind,
            error.code,
            quoted.source,
            quoted.destination
        );
    }
    if let Some(echo) = packet.as_echo() {
        let what = if echo.is_request { "request" } else { "reply" };
        let (source, destination) = (packet.source(), packet.destination());
        return format!("{source} > {destination} echo {what} {} {}", echo.identifier, echo.sequence);
    }
    let Some((_, source, destination)) = packet.endpoints() else {
        let fragment = packet.fragment().map_or_else(String::new, |at| format!(" fragment at {}", at.offset));
        return format!("{} > {}{fragment}", packet.source(), packet.destination());
    };
    let Some(segment) = packet.segment() else {
        return format!("{source} > {destination} udp len {}", packet.payload().len());
    };
    let flags = [(segment.syn, 'S'), (segment.fin, 'F'), (segment.rst, 'R'), (segment.ack, '.')];
    let flags: String = flags.into_iter().filter_map(|(set, letter)| set.then_some(letter)).collect();
    let (sequence, acknowledgement, payload) = (segment.sequence, segment.acknowledgement, segment.payload);
    format!("{source} > {destination} [{flags}] {sequence} {acknowledgement} len {payload}")
}
