//! Frames between ranks: an envelope of fixed length, then the payload.
//!
//! The envelope names everything that two ranks could disagree about: communicator and epoch, kind
//! of operation, operator and its flags, element type, sequence, root or tag, step and length. With
//! less, a model of an earlier implementation could substitute one message for another unnoticed.

use std::fmt;

use super::wire::{Reader, WireError, Write};
use crate::error::Operation;

/// Length of an envelope.
pub const ENVELOPE_BYTES: usize = 40;
/// Version of the format.
const VERSION: u8 = 1;

/// The operation that a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Point-to-point; `root_or_tag` is the tag.
    Message = 1,
    /// The barrier that ends the forming of a group.
    Join = 2,
    /// Barrier.
    Barrier = 3,
    /// Broadcast.
    Broadcast = 4,
    /// Reduce to one root.
    Reduce = 5,
    /// Reduce to all ranks.
    Allreduce = 6,
    /// Of no operation: the sender's next frame comes on another stream.
    Switch = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Message, Self::Join, Self::Barrier, Self::Broadcast, Self::Reduce, Self::Allreduce, Self::Switch]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    /// The operation as errors name it.
    pub fn operation(self) -> Operation {
        match self {
            Self::Message => Operation::Send,
            Self::Join | Self::Switch => Operation::Join,
            Self::Barrier => Operation::Barrier,
            Self::Broadcast => Operation::Broadcast,
            Self::Reduce => Operation::Reduce,
            Self::Allreduce => Operation::Allreduce,
        }
    }
}

/// Everything but the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Operation.
    pub kind: Kind,
    /// Whether the operator commutes; false where there is none.
    pub commutative: bool,
    /// Code of the element type ([`crate::datatype::Element::DATATYPE`]).
    pub datatype: u8,
    /// Communicator.
    pub communicator: u32,
    /// Epoch of the communicator.
    pub epoch: u32,
    /// Root of a rooted collective, or tag of a message.
    pub root_or_tag: u32,
    /// Number of the operation: per communicator for collectives, per ordered pair for messages.
    pub sequence: u64,
    /// Number of the transfer between this pair within the operation.
    pub step: u32,
    /// Code of the operator ([`crate::op::Op::code`]).
    pub operator: u32,
    /// Length of the payload in bytes.
    pub length: u64,
}

impl Envelope {
    /// Says that the next frame comes on another stream.
    pub fn switch() -> Self {
        Self {
            kind: Kind::Switch,
            commutative: false,
            datatype: 0,
            communicator: 0,
            epoch: 0,
            root_or_tag: 0,
            sequence: 0,
            step: 0,
            operator: 0,
            length: 0,
        }
    }

    /// The bytes of the envelope.
    pub fn emit(&self) -> [u8; ENVELOPE_BYTES] {
        let mut out = Vec::with_capacity(ENVELOPE_BYTES);
        out.put(&[VERSION, self.kind as u8, u8::from(self.commutative), self.datatype]);
        for field in [self.communicator, self.epoch, self.root_or_tag] {
            out.put(&field.to_be_bytes());
        }
        out.put(&self.sequence.to_be_bytes()).put(&self.step.to_be_bytes());
        out.put(&self.operator.to_be_bytes()).put(&self.length.to_be_bytes());
        out.try_into().expect("the fields add up to ENVELOPE_BYTES")
    }

    /// Reads an envelope.
    ///
    /// # Errors
    /// Another version, or a value without a meaning.
    pub fn parse(bytes: &[u8; ENVELOPE_BYTES]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let kind = reader.u8()?;
        let kind =
            Kind::from_byte(kind).ok_or_else(|| WireError::Value { field: "frame kind", value: u64::from(kind) })?;
        let commutative = match reader.u8()? {
            0 => false,
            1 => true,
            other => return Err(WireError::Value { field: "frame flags", value: u64::from(other) }),
        };
        Ok(Self {
            kind,
            commutative,
            datatype: reader.u8()?,
            communicator: reader.u32()?,
            epoch: reader.u32()?,
            root_or_tag: reader.u32()?,
            sequence: reader.u64()?,
            step: reader.u32()?,
            operator: reader.u32()?,
            length: reader.u64()?,
        })
    }

    /// Whether both belong to one operation of one communicator, whatever they think of it.
    pub fn is_same_operation(&self, other: &Self) -> bool {
        let class = |envelope: &Self| (envelope.communicator, envelope.epoch, envelope.kind == Kind::Message);
        class(self) == class(other)
            && if self.kind == Kind::Message {
                self.root_or_tag == other.root_or_tag
            } else {
                self.sequence == other.sequence
            }
    }
}

impl fmt::Display for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operation, length) = (self.kind.operation(), self.length);
        let elements = crate::datatype::name_of(self.datatype);
        if self.kind == Kind::Message {
            return write!(f, "message with tag {} of {elements}", self.root_or_tag);
        }
        write!(f, "{operation} number {}", self.sequence)?;
        if matches!(self.kind, Kind::Broadcast | Kind::Reduce) {
            write!(f, " with root {}", self.root_or_tag)?;
        }
        if matches!(self.kind, Kind::Reduce | Kind::Allreduce) {
            let commutes = if self.commutative { "commutative" } else { "non-commutative" };
            write!(f, " with {commutes} operator {}", crate::op::name_of(self.operator))?;
        }
        write!(f, " on {elements}, step {} of {length} bytes", self.step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn envelopes_survive_the_wire(
            kind in 1u8..=7, commutative: bool, datatype: u8,
            fields: (u32, u32, u32), sequence: u64, step: u32, operator: u32, length: u64,
        ) {
            let (communicator, epoch, root_or_tag) = fields;
            let kind = Kind::from_byte(kind).expect("in range");
            let envelope = Envelope {
                kind, commutative, datatype, communicator, epoch, root_or_tag, sequence, step, operator, length,
            };
            prop_assert_eq!(Envelope::parse(&envelope.emit()), Ok(envelope));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: [u8; ENVELOPE_BYTES]) {
            if let Ok(envelope) = Envelope::parse(&bytes) {
                let _ = envelope.to_string();
            }
        }
    }
}
