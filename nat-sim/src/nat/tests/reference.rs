//! A slow gateway for UDP, obviously right: a list of mappings, searched from end to end. It takes
//! fresh external endpoints from the one under test and predicts everything else.

use super::*;

struct Row {
    internal: SocketAddrV4,
    external: SocketAddrV4,
    remote: SocketAddrV4,
    /// The remote for which its mapping was made.
    made_for: SocketAddrV4,
    begun_inside: bool,
    answered: bool,
    expires: Instant,
}

struct Reference {
    config: NatConfig,
    rows: Vec<Row>,
}

impl Reference {
    fn forget(&mut self, now: Instant) {
        self.rows.retain(|row| row.expires > now);
    }

    fn same_mapping(&self, row: &Row, remote: SocketAddrV4) -> bool {
        match self.config.udp.mapping {
            Mapping::EndpointIndependent => true,
            Mapping::AddressDependent => row.made_for.ip() == remote.ip(),
            _ => row.made_for == remote,
        }
    }

    fn idle(&self, answered: bool) -> Duration {
        if answered { self.config.timers.udp_stream } else { self.config.timers.udp_new }
    }

    /// Where a packet from inside must leave from, if that is fixed.
    fn outbound(&mut self, now: Instant, internal: SocketAddrV4, remote: SocketAddrV4) -> Option<SocketAddrV4> {
        self.forget(now);
        // A session that the outside began at another endpoint is not this mapping's.
        let exact = self.rows.iter().position(|row| (row.internal, row.remote) == (internal, remote));
        if let Some(at) = exact {
            let answered = self.rows[at].answered || !self.rows[at].begun_inside;
            let idle = self.idle(answered);
            self.rows[at].answered = answered;
            self.rows[at].expires = now + idle;
            return Some(self.rows[at].external);
        }
        let known = self.rows.iter().find(|row| row.internal == internal && self.same_mapping(row, remote));
        known.map(|row| row.external)
    }

    fn begin(
        &mut self,
        now: Instant,
        internal: SocketAddrV4,
        external: SocketAddrV4,
        remote: SocketAddrV4,
        begun_inside: bool,
    ) {
        let expires = now + self.idle(false);
        let at_port = self.rows.iter().find(|row| row.external == external);
        let made_for = at_port.map_or(remote, |row| row.made_for);
        self.rows.push(Row { internal, external, remote, made_for, begun_inside, answered: false, expires });
    }

    /// Where a packet from outside must arrive.
    fn inbound(&mut self, now: Instant, external: SocketAddrV4, remote: SocketAddrV4) -> Option<SocketAddrV4> {
        self.forget(now);
        let exact = self.rows.iter().position(|row| (row.external, row.remote) == (external, remote));
        if let Some(at) = exact {
            let row = &self.rows[at];
            let refreshes =
                if row.begun_inside { self.config.refresh.inbound } else { self.config.refresh.inbound_uninvited };
            let answered = row.answered || row.begun_inside;
            let idle = self.idle(answered);
            let row = &mut self.rows[at];
            row.answered = answered;
            if refreshes {
                row.expires = now + idle;
            }
            return Some(row.internal);
        }
        let mut at_port = self.rows.iter().filter(|row| row.external == external);
        let admitting = match self.config.udp.filtering {
            Filtering::EndpointIndependent => at_port.next(),
            Filtering::AddressDependent => at_port.find(|row| row.remote.ip() == remote.ip()),
            Filtering::AddressAndPortDependent => None,
        };
        let internal = admitting.map(|row| row.internal)?;
        if self.rows.iter().any(|row| (row.internal, row.remote) == (internal, remote)) {
            return None;
        }
        self.begin(now, internal, external, remote, false);
        Some(internal)
    }
}

fn config() -> impl Strategy<Value = NatConfig> {
    let mapping = prop_oneof![
        Just(Mapping::EndpointIndependent),
        Just(Mapping::AddressDependent),
        Just(Mapping::AddressAndPortDependent)
    ];
    let filtering = prop_oneof![
        Just(Filtering::EndpointIndependent),
        Just(Filtering::AddressDependent),
        Just(Filtering::AddressAndPortDependent)
    ];
    (mapping, filtering, any::<bool>(), any::<bool>()).prop_map(|(mapping, filtering, inbound, inbound_uninvited)| {
        let ports = PortClass::Fixed(40_001, 40_040);
        let udp = Rules { mapping, filtering, allocation: Allocation::Random, ports, overload: Overload::Never };
        let refresh = Refresh { outbound: true, inbound, inbound_uninvited };
        let timers = Timers {
            udp_new: Duration::from_secs(30),
            udp_stream: Duration::from_secs(120),
            ..preset::rfc_ideal().timers
        };
        NatConfig { udp, refresh, timers, parity: false, ..preset::pf_default() }
    })
}

/// From inside or not, host, port, remote, remote port, time before.
type Line = (bool, u8, u16, u8, u16, Duration);

fn lines() -> impl Strategy<Value = Vec<Line>> {
    let nano = Duration::from_nanos(1);
    let around = |seconds| {
        let time = Duration::from_secs(seconds);
        prop_oneof![Just(time - nano), Just(time), Just(time + nano)]
    };
    let waits = prop_oneof![4 => Just(Duration::ZERO), 1 => around(30), 1 => around(120), 1 => around(7)];
    proptest::collection::vec((any::<bool>(), 1u8..4, 1u16..4, 1u8..4, 1u16..3, waits), 1..80)
}

proptest! {
    /// P-7, P-8, P-10, P-11: verdict and endpoint of every datagram, to the nanosecond.
    #[test]
    fn p_10_and_11_udp_does_what_a_slow_reference_says(config in config(), script in lines(), seed: u64) {
        let mut nat = Nat::new(config, EXTERNAL, seed);
        let mut reference = Reference { config, rows: Vec::new() };
        let mut now = Instant::ZERO;
        for (outbound, host, port, remote, remote_port, wait) in script {
            now += wait;
            let remote = SocketAddrV4::new([9, 9, 9, remote].into(), remote_port);
            if outbound {
                let internal = SocketAddrV4::new([10, 0, 0, host].into(), 4000 + port);
                let exact = reference.rows.iter().any(|row| row.expires > now && (row.internal, row.remote) == (internal, remote));
                let expected = reference.outbound(now, internal, remote);
                let verdict = nat.outbound(now, Packet::udp(internal.into(), remote.into(), b""));
                let Verdict::Forward(Side::Outside, out) = verdict else { return Err(TestCaseError::fail(format!("{verdict:?}"))) };
                let external = out.flow().expect("udp").source;
                if let Some(expected) = expected {
                    prop_assert_eq!(external, expected);
                }
                if !exact {
                    reference.begin(now, internal, external, remote, true);
                }
            } else {
                // An external endpoint in use, or one that is not.
                let rows = reference.rows.len();
                let pick = usize::from(port) * usize::from(host);
                let external = if rows > 0 && port < 3 { reference.rows[pick % rows].external } else { SocketAddrV4::new(EXTERNAL, 40_000 + port) };
                let expected = reference.inbound(now, external, remote);
                let verdict = nat.inbound(now, Packet::udp(remote.into(), external.into(), b""));
                let arrived = match verdict {
                    Verdict::Forward(Side::Inside, packet) => Some(packet.flow().expect("udp").destination),
                    _ => None,
                };
                prop_assert_eq!(arrived, expected);
            }
            prop_assert_eq!(nat.snapshot(now).len(), { reference.forget(now); reference.rows.len() });
        }
    }
}
