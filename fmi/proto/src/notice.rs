//! Why a communicator has failed, as its ranks tell each other. Pure.

use std::fmt;

use super::frame::{ENVELOPE_BYTES, Envelope};
use super::wire::{Reader, WireError, Write};

/// Longest text of a notice.
pub const TEXT_BYTES_MAX: usize = 400;
/// Longest notice: two envelopes and more, or a text.
pub const NOTICE_BYTES_MAX: usize = 512;

/// The cause of a failure. Ranks are those of the communicator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Two ranks called different things.
    Mismatch {
        /// The rank that noticed.
        rank: u32,
        /// What it called.
        called: Envelope,
        /// The other rank.
        other: u32,
        /// What the other called.
        other_called: Envelope,
    },
    /// A rank is gone.
    Lost {
        /// Which.
        rank: u32,
        /// What was seen of it.
        how: String,
    },
    /// A rank has left the communicator.
    Left {
        /// Which.
        rank: u32,
        /// Why, as far as it said; empty if it had no reason but its end.
        how: String,
    },
    /// A rank failed.
    Failed {
        /// Which.
        rank: u32,
        /// What it says.
        text: String,
    },
}

/// The front of `text` that fits, cut between characters.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Notice {
    /// Its bytes.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut text = |code: u8, rank: u32, text: &str| {
            out.put(&[code]).put(&rank.to_be_bytes()).put(cut(text).as_bytes());
        };
        match self {
            Self::Lost { rank, how } => text(1, *rank, how),
            Self::Failed { rank, text: what } => text(2, *rank, what),
            Self::Left { rank, how } => text(4, *rank, how),
            Self::Mismatch { rank, called, other, other_called } => {
                out.put(&[3]).put(&rank.to_be_bytes()).put(&called.emit());
                out.put(&other.to_be_bytes()).put(&other_called.emit());
            }
        }
        out
    }

    /// Reads a notice.
    ///
    /// # Errors
    /// If it is none, or longer than allowed.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > NOTICE_BYTES_MAX {
            return Err(WireError::TooLong(bytes.len() as u64, NOTICE_BYTES_MAX as u64));
        }
        let mut reader = Reader::new(bytes);
        let code = reader.u8()?;
        let rank = reader.u32()?;
        let text = || String::from_utf8_lossy(&bytes[5..]).into_owned();
        match code {
            1 => Ok(Self::Lost { rank, how: text() }),
            2 => Ok(Self::Failed { rank, text: text() }),
            3 => {
                let called = Envelope::parse(&reader.array::<ENVELOPE_BYTES>()?)?;
                let other = reader.u32()?;
                let other_called = Envelope::parse(&reader.array::<ENVELOPE_BYTES>()?)?;
                reader.finish()?;
                Ok(Self::Mismatch { rank, called, other, other_called })
            }
            4 => Ok(Self::Left { rank, how: text() }),
            other => Err(WireError::Value { field: "notice", value: u64::from(other) }),
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch { rank, called, other, other_called } => {
                write!(f, "rank {rank} calls {called}, rank {other} calls {other_called}")
            }
            Self::Lost { rank, how } => write!(f, "rank {rank} is lost: {how}"),
            Self::Left { rank, how } if how.is_empty() => write!(f, "rank {rank} left the group"),
            Self::Left { rank, how } => write!(f, "rank {rank} left the group: {how}"),
            Self::Failed { rank, text } => write!(f, "rank {rank} failed: {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Kind;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn notices_survive_the_wire(rank: u32, other: u32, sequence: u64, text in "\\PC{0,600}") {
            let called = Envelope { sequence, ..Envelope::new(Kind::Allreduce) };
            let other_called = Envelope { sequence, ..Envelope::new(Kind::Barrier) };
            let text = cut(&text).to_owned();
            for notice in [
                Notice::Mismatch { rank, called, other, other_called },
                Notice::Lost { rank, how: text.clone() },
                Notice::Left { rank, how: text.clone() },
                Notice::Failed { rank, text },
            ] {
                let bytes = notice.emit();
                prop_assert!(bytes.len() <= NOTICE_BYTES_MAX);
                prop_assert_eq!(Notice::parse(&bytes), Ok(notice));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(notice) = Notice::parse(&bytes) {
                let _ = notice.to_string();
            }
        }
    }
}
