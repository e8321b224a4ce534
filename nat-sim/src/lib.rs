//! A deterministic lab for systems that live behind NATs: real IPv4 packets, a packet-level TCP with
//! simultaneous open, gateways whose mapping, filtering and answers are chosen separately, and
//! functions that start late, vanish, come back, freeze and thaw. One seed, one run.
//!
//! # Examples
//!
//! A function behind a NAT sends to a server on the internet, which is frozen for two seconds meanwhile:
//! ```
//! use std::time::Duration;
//!
//! use fmi_net::{Listener, Net};
//! use nat_sim::nat::preset;
//! use nat_sim::topology::{GatewaySpec, HostSpec, INTERNET, Topology};
//! use nat_sim::{Fault, World};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! let (millis, seconds) = (Duration::from_millis, Duration::from_secs);
//! let mut topology = Topology::new();
//! let server = topology.host(HostSpec::plain(INTERNET, [192, 0, 2, 1], millis(5)));
//! let home = topology.network("home");
//! topology.gateway(GatewaySpec::plain(preset::linux_masq_drop(), [203, 0, 113, 1], millis(8), home));
//! let client = topology.host(HostSpec::plain(home, [10, 0, 0, 2], millis(1)));
//!
//! let mut world = World::new(topology, 7, millis(1));
//! world.function(server, Duration::ZERO, move |net| async move {
//!     let mut listener = net.listen(([0; 4], 80).into(), 8).expect("the port is free");
//!     let mut stream = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.expect("accepted");
//!     let mut greeting = [0; 5];
//!     stream.read_exact(&mut greeting).await.expect("it comes, late");
//!     assert_eq!((&greeting, net.now().since_origin() >= seconds(3)), (b"hello", true));
//! });
//! world.function(client, Duration::ZERO, move |net| async move {
//!     let mut stream = net.connect(([0; 4], 0).into(), ([192, 0, 2, 1], 80).into()).await.expect("connected");
//!     net.sleep_until(net.now() + seconds(2)).await;
//!     stream.write_all(b"hello").await.expect("the kernel keeps it until the server answers");
//! });
//! world.fault(seconds(1), Fault::Freeze(server));
//! world.fault(seconds(3), Fault::Thaw(server));
//! let report = world.run().expect("a world that can be");
//! assert_eq!(report.stuck, None);
//! ```
//!
//! # What is modelled
//!
//! - Hosts with the TCP of smoltcp, adapted to open, keep and end connections as Linux does ([`host`]), UDP,
//!   echo, several addresses, IPv4 and IPv6.
//! - Gateways as pure translators ([`nat`]), nested at will ([`topology`]): every behaviour of RFC 4787,
//!   5382, 5508, 6888 and 7857 is a knob, known devices are [presets](nat::preset), Linux's tracker
//!   follows sequence windows. `REQUIREMENTS.md` lists statement by statement what is met, and which
//!   presets break it on purpose.
//! - Links with latency, jitter, loss, reordering, duplication, rate and queue ([`link`]).
//! - Names that have addresses of both families, appear late and change ([`topology::NameSpec`]).
//! - Functions that start, vanish, and are frozen with their kernels ([`Fault`]).
//! - Sites, which turmoil cuts off and crashes as a whole ([`world`]).
//!
//! # What is not
//!
//! Throughput under loss is not Linux's: there is no congestion control, and what the other end has beyond a
//! gap is sent again. IP options, IPv6 extension headers and ICMPv6 are refused, but for reports that a
//! segment was too big; IPv6 is filtered and never translated, so there is no NAT64.
//!
//! # How far it is checked
//!
//! `tests/kernel` sends the same packets through nftables in network namespaces and through a [`nat`],
//! and the same segments to a real host and to one of the lab: verdicts, endpoints, tracker states,
//! timers and answers must agree. Presets of other devices rest on documents; `lab nats` says which
//! cells are assumed.
//!
//! # Determinism
//!
//! A seed is split by purpose into streams ([`stream`]); packets move by (time, sequence). The
//! report's digest chains every packet and event with its time: equal digests, equal runs.
#![warn(missing_docs)]

mod capture;
mod entropy;
mod fabric;
mod fault;
mod guard;
pub mod host;
pub mod link;
mod names;
pub mod nat;
pub mod net;
pub mod packet;
mod panics;
mod platform;
mod tamper;
pub mod topology;
pub mod world;

pub use capture::Sinks;
pub use entropy::{Purpose, stream};
pub use fault::Fault;
pub use net::{SimNet, SimRaw, SimUdp};
pub use tamper::Tampering;
pub use world::{Limits, Report, Stuck, World, WorldError};
