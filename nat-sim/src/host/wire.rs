//! The wire of one connection, as smoltcp sees it.

use std::time::Duration;

use fmi_net::time::Instant;
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};

use crate::packet::Packet;

/// The wire of one connection: a packet in, packets out.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) mtu: usize,
    pub(super) incoming: Option<Packet>,
    pub(super) outgoing: Vec<Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct Incoming(Packet);
#[derive(Debug)]
pub(super) struct Outgoing<'a>(&'a mut Vec<Vec<u8>>);

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

pub(super) fn to_smoltcp(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(now.as_nanos() / 1000).expect("below 292,000 years"))
}

pub(super) fn to_smoltcp_duration(duration: Duration) -> smoltcp::time::Duration {
    smoltcp::time::Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

pub(super) fn from_smoltcp(at: smoltcp::time::Instant) -> Instant {
    Instant::from_nanos(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000))
}
