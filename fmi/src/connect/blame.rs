//! What to blame when a join fails: first this machine, then whoever answered, then what lies between.

use std::io;
use std::net::SocketAddr;

use crate::config::Config;
use crate::error::{Cause, Error, ErrorKind, Operation, Result};
use crate::net::Net;
use crate::proto::candidate::OtherVersion;
use crate::proto::card::Security;
use crate::proto::cause::words;
use crate::proto::rendezvous::client::Client;

/// Files that a rank has open beside its connections to peers: standard streams, those of a runtime, listeners, and
/// connections to the rendezvous.
const OTHER_FILES: usize = 16;

/// Whether this process may open as many files as a rank needs.
///
/// # Errors
/// [`ErrorKind::Local`] if not.
pub(super) fn check_files<N: Net>(net: &N, config: &Config) -> Result<()> {
    let needed = config.peers.of(config.rank, config.size).len() + OTHER_FILES;
    match net.allow_files() {
        Some(files_max) if files_max < needed as u64 => {
            let what = format!(
                "a group of {} ranks needs {needed} open files on each, and this process may have {files_max}: raise \
                 the limit (`ulimit -Hn`), or have fewer connections (FMI_PEERS)",
                config.size
            );
            Err(Error::new(Operation::Join, ErrorKind::Local(what)).on(config.rank))
        }
        Some(_) | None => Ok(()),
    }
}

/// What a member of the group is blamed for whose card is of another version.
pub(super) fn other_version(rank: u32, OtherVersion { peer, theirs, ours }: OtherVersion) -> Error {
    Error::new(Operation::Join, ErrorKind::OtherVersion { theirs, ours }).on(rank).with_peer(peer)
}

/// The same of one that protects its streams in another way.
pub(super) fn otherwise_protected(rank: u32, own: Security, peer: u32, theirs: Security) -> Error {
    let (theirs, own) = (theirs.name(), own.name());
    let what = format!("rank {peer} is configured as {theirs}, this rank as {own}; all ranks must agree");
    Error::new(Operation::Join, ErrorKind::InvalidConfig(what)).on(rank).with_peer(peer)
}

/// Whether all of these addresses are on this machine.
pub(super) fn are_loopback(addresses: &str) -> bool {
    addresses.split([',', '|']).all(|address| {
        let address = address.trim();
        let name = address.rsplit_once(':').map_or(address, |(name, _)| name);
        address.parse::<SocketAddr>().map_or(name == "localhost", |address| address.ip().is_loopback())
    })
}

/// That an attempt to reach the rendezvous failed.
pub(crate) fn not_reached(address: &str, error: &io::Error) -> ErrorKind {
    let cause = Cause::of(error.kind(), are_loopback(address));
    ErrorKind::RendezvousUnreachable { address: address.to_owned(), last: error.to_string(), cause }
}

/// Why no rendezvous took the registration of this rank.
pub(super) fn unregistered(client: &Client, address: &str) -> ErrorKind {
    let failure = client.last_failure();
    let comes_first = failure.is_some_and(|kind| Cause::of(kind, false).comes_first());
    if let Some(refusal) = client.refusal().filter(|_| !comes_first) {
        return ErrorKind::Refused(refusal);
    }
    let is_loopback = are_loopback(address);
    let unanswered = |how: &str| (Cause::Stranger, how.to_owned());
    let (cause, last) = match failure {
        None => (Cause::between(is_loopback), "no answer".to_owned()),
        Some(io::ErrorKind::InvalidData) => unanswered("it answers with something else"),
        Some(io::ErrorKind::TimedOut) if client.has_connected() => unanswered("it takes connections and is silent"),
        Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) if client.has_connected() => {
            unanswered("it closes connections without an answer")
        }
        Some(kind) => (Cause::of(kind, is_loopback), words(kind)),
    };
    ErrorKind::RendezvousUnreachable { address: address.to_owned(), last, cause }
}
