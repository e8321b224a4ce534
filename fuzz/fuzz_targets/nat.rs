//! Any packets, in any order, from both sides, leave every gateway consistent: what it forwards has
//! valid checksums and shows no inside address.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use fmi::time::Instant;
use libfuzzer_sys::fuzz_target;
use nat_sim::nat::{Nat, Side, Verdict, preset};
use nat_sim::packet::Packet;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[choice, step], packets)) = bytes.split_first_chunk::<2>() else { return };
    let preset = preset::ALL[usize::from(choice) % preset::ALL.len()];
    let external = Ipv4Addr::new(203, 0, 113, 1);
    let mut nat = Nat::new((preset.config)(), external, 1);
    let mut now = Instant::ZERO;
    for chunk in packets.chunks(48) {
        now += Duration::from_millis(u64::from(step) * 100);
        let Ok(packet) = Packet::parse(chunk.to_vec()) else { continue };
        let valid = packet.checksums_are_valid();
        let inside = matches!(packet.source(), IpAddr::V4(source) if source.octets()[0] == 10);
        let verdict = if inside { nat.outbound(now, packet) } else { nat.inbound(now, packet) };
        if let Verdict::Forward(side, out) = verdict {
            assert!(!valid || out.checksums_are_valid());
            let is_public = preset.name == "public" || preset.name == "firewall_only";
            assert!(side == Side::Inside || is_public || !out.is_v4() || out.source() == IpAddr::V4(external));
        }
        while nat.next_verdict().is_some() {}
        nat.tick(now);
    }
});
