//! What a rank that is asked says it does, and what it knows of the ranks that it waits for. Pure.
//!
//! An answer is a chain: the first link is the rank that answers, each further one is the rank that the one before
//! waits for. So whoever asks its neighbour learns of ranks to which it has no connection.

use std::time::Duration;

use crate::error::Operation;
use crate::frame::Kind;
use crate::group::WaitsFor;
use crate::rank::Slot;
use crate::wire::{Reader, WireError, Write};

/// Longest chain.
pub const CHAIN_MAX: usize = 8;
/// Longest answer.
pub const ANSWER_BYTES_MAX: usize = 1 + CHAIN_MAX * WAIT_BYTES_MAX;
/// Longest link of a chain: its fields, and as many peers as [`WaitsFor`] holds.
const WAIT_BYTES_MAX: usize = 4 + 4 + 1 + 1 + 8 + 8 + 4 + 1 + 1 + 4 * WaitsFor::PEERS_MAX;

/// How far a rank is with the operation that it was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// It has not called it, or it is not one of its own.
    No,
    /// It is at it.
    Running,
    /// It is done with it.
    Over,
}

/// An operation in which a rank waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doing {
    /// What it is: a collective, a send or a receive.
    pub operation: Operation,
    /// Its communicator.
    pub communicator: u64,
    /// Number of a collective; 0 for messages.
    pub sequence: u64,
    /// How long that process has not moved a byte of any operation.
    pub idle: Duration,
    /// Whether it is the only operation of that process.
    pub is_only: bool,
    /// For whom it waits.
    pub waits_for: WaitsFor,
}

/// One link of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The process.
    pub slot: Slot,
    /// How long ago it said so.
    pub age: Duration,
    /// How far it is with the operation of the one before.
    pub called: Called,
    /// What it waits in, if it waits.
    pub doing: Option<Doing>,
}

fn millis(time: Duration) -> [u8; 4] {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX).to_be_bytes()
}

fn code(operation: Operation) -> u8 {
    // A receive has no frames, so no kind.
    operation.kind().map_or(0, |kind| kind as u8)
}

/// The bytes of a chain, of which the first [`CHAIN_MAX`] links are kept.
pub fn emit(chain: &[Wait]) -> Vec<u8> {
    let chain = &chain[..chain.len().min(CHAIN_MAX)];
    let mut out = Vec::new();
    out.put(&[u8::try_from(chain.len()).expect("at most CHAIN_MAX")]);
    for Wait { slot, age, called, doing } in chain {
        out.put(&slot.get().to_be_bytes()).put(&millis(*age));
        out.put(&[*called as u8, u8::from(doing.is_some())]);
        let Some(doing) = doing else { continue };
        out.put(&doing.communicator.to_be_bytes()).put(&doing.sequence.to_be_bytes()).put(&millis(doing.idle));
        let count = u8::try_from(doing.waits_for.iter().count()).expect("at most PEERS_MAX");
        out.put(&[code(doing.operation), u8::from(doing.is_only) << 7 | count]);
        for peer in doing.waits_for.iter() {
            out.put(&peer.get().to_be_bytes());
        }
    }
    out
}

/// Reads a chain of a group of `size`.
///
/// # Errors
/// If it is none, longer than allowed, or names a process beyond the group.
pub fn parse(bytes: &[u8], size: u32) -> Result<Vec<Wait>, WireError> {
    let mut reader = Reader::new(bytes);
    let count = reader.u8()?;
    if usize::from(count) > CHAIN_MAX {
        return Err(WireError::TooLong(count.into(), CHAIN_MAX as u64));
    }
    let chain = (0..count).map(|_| wait(&mut reader, size)).collect::<Result<_, _>>()?;
    reader.finish()?;
    Ok(chain)
}

fn slot(reader: &mut Reader<'_>, size: u32) -> Result<Slot, WireError> {
    let number = reader.u32()?;
    Slot::checked(number, size).ok_or_else(|| WireError::Value { field: "rank", value: number.into() })
}

fn wait(reader: &mut Reader<'_>, size: u32) -> Result<Wait, WireError> {
    let slot_of = slot(reader, size)?;
    let age = Duration::from_millis(reader.u32()?.into());
    let called = match reader.u8()? {
        0 => Called::No,
        1 => Called::Running,
        2 => Called::Over,
        other => return Err(WireError::Value { field: "progress of an operation", value: other.into() }),
    };
    let doing = match reader.u8()? {
        0 => None,
        1 => Some(doing(reader, size)?),
        other => return Err(WireError::Value { field: "presence of an operation", value: other.into() }),
    };
    Ok(Wait { slot: slot_of, age, called, doing })
}

fn doing(reader: &mut Reader<'_>, size: u32) -> Result<Doing, WireError> {
    let (communicator, sequence) = (reader.u64()?, reader.u64()?);
    let idle = Duration::from_millis(reader.u32()?.into());
    let operation = match reader.u8()? {
        0 => Operation::Receive,
        code => Kind::from_code(code)
            .map(Kind::operation)
            .ok_or_else(|| WireError::Value { field: "operation of an answer", value: code.into() })?,
    };
    let flags = reader.u8()?;
    let (is_only, count) = (flags & 0x80 != 0, usize::from(flags & 0x7f));
    if count > WaitsFor::PEERS_MAX {
        return Err(WireError::TooLong(count as u64, WaitsFor::PEERS_MAX as u64));
    }
    let mut waits_for = WaitsFor::default();
    for _ in 0..count {
        waits_for.add(slot(reader, size)?);
    }
    Ok(Doing { operation, communicator, sequence, idle, is_only, waits_for })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::NOTICE_BYTES_MAX;
    use proptest::prelude::*;

    const SIZE: u32 = 9;

    fn any_wait() -> impl Strategy<Value = Wait> {
        let peers = proptest::collection::vec(0..SIZE, 0..=WaitsFor::PEERS_MAX);
        let operations = vec![Operation::Receive, Operation::Send, Operation::Allreduce, Operation::Barrier];
        let doing = (proptest::sample::select(operations), any::<(u64, u64, u32, bool)>(), peers);
        let called = proptest::sample::select(vec![Called::No, Called::Running, Called::Over]);
        (0..SIZE, any::<u32>(), called, proptest::option::of(doing)).prop_map(|(number, age, called, doing)| {
            let slot = |number| Slot::checked(number, SIZE).expect("below the size");
            let doing = doing.map(|(operation, (communicator, sequence, idle, is_only), peers)| {
                let mut waits_for = WaitsFor::default();
                peers.into_iter().for_each(|peer| waits_for.add(slot(peer)));
                let idle = Duration::from_millis(idle.into());
                Doing { operation, communicator, sequence, idle, is_only, waits_for }
            });
            Wait { slot: slot(number), age: Duration::from_millis(age.into()), called, doing }
        })
    }

    proptest! {
        #[test]
        fn answers_survive_the_wire_within_their_limit(chain in proptest::collection::vec(any_wait(), 0..12)) {
            let bytes = emit(&chain);
            prop_assert!(bytes.len() <= ANSWER_BYTES_MAX && ANSWER_BYTES_MAX <= NOTICE_BYTES_MAX);
            prop_assert_eq!(parse(&bytes, SIZE), Ok(chain[..chain.len().min(CHAIN_MAX)].to_vec()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(chain) = parse(&bytes, SIZE) {
                prop_assert!(chain.iter().all(|wait| wait.slot.get() < SIZE));
            }
        }
    }
}
