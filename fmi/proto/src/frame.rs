//! Frames between ranks: an envelope of fixed length, then the payload.
//!
//! The envelope names everything that two ranks could disagree about: communicator and epoch, kind
//! of operation, operator and its flags, element type, number of elements, sequence, root or tag, step and
//! length. With less, a model of an earlier implementation could substitute one message for another unnoticed.

use std::fmt;

use super::wire::{Reader, VERSION, WireError};
use crate::operation::Class;
pub use crate::operation::Kind;

/// Length of an envelope.
pub const ENVELOPE_BYTES: usize = 56;

/// Everything but the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Operation.
    pub kind: Kind,
    /// Whether the operator commutes; false where there is none.
    pub commutative: bool,
    /// Whether more of the same message, or of the same step of a collective, follows in another frame.
    pub more: bool,
    /// Of a message: whether its sender waits for word that a receive has got it.
    pub synchronous: bool,
    /// Code of the element type ([`crate::datatype::Element::DATATYPE`]).
    pub datatype: u32,
    /// Communicator; 0 for that of the whole group.
    pub communicator: u64,
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
    /// Elements of the whole operation on each rank, where that is equal on all; else 0. Of a message its whole length
    /// in bytes, of which `length` are in this frame.
    pub elements: u64,
}

impl Envelope {
    /// An envelope of `kind` with all else 0.
    #[inline]
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            commutative: false,
            more: false,
            synchronous: false,
            datatype: 0,
            communicator: 0,
            epoch: 0,
            root_or_tag: 0,
            sequence: 0,
            step: 0,
            operator: 0,
            length: 0,
            elements: 0,
        }
    }

    /// The bytes of the envelope.
    #[inline]
    pub fn emit(&self) -> [u8; ENVELOPE_BYTES] {
        let mut out = [0; ENVELOPE_BYTES];
        let flags = u8::from(self.commutative) | u8::from(self.more) << 1 | u8::from(self.synchronous) << 2;
        out[..4].copy_from_slice(&[VERSION, self.kind as u8, flags, 0]);
        out[4..8].copy_from_slice(&self.datatype.to_be_bytes());
        out[8..16].copy_from_slice(&self.communicator.to_be_bytes());
        out[16..20].copy_from_slice(&self.epoch.to_be_bytes());
        out[20..24].copy_from_slice(&self.root_or_tag.to_be_bytes());
        out[24..32].copy_from_slice(&self.sequence.to_be_bytes());
        out[32..36].copy_from_slice(&self.step.to_be_bytes());
        out[36..40].copy_from_slice(&self.operator.to_be_bytes());
        out[40..48].copy_from_slice(&self.length.to_be_bytes());
        out[48..].copy_from_slice(&self.elements.to_be_bytes());
        out
    }

    /// Reads an envelope.
    ///
    /// # Errors
    /// Another version, or a value without a meaning.
    #[inline]
    pub fn parse(bytes: &[u8; ENVELOPE_BYTES]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let [version, kind, flags, reserved] = reader.array()?;
        if version != VERSION {
            return Err(WireError::Version { theirs: version, ours: VERSION });
        }
        let kind =
            Kind::from_code(kind).ok_or_else(|| WireError::Value { field: "frame kind", value: u64::from(kind) })?;
        if flags > 7 || reserved != 0 {
            return Err(WireError::Value { field: "frame flags", value: u64::from(flags) << 8 | u64::from(reserved) });
        }
        Ok(Self {
            kind,
            commutative: flags & 1 != 0,
            more: flags & 2 != 0,
            synchronous: flags & 4 != 0,
            datatype: reader.u32()?,
            communicator: reader.u64()?,
            epoch: reader.u32()?,
            root_or_tag: reader.u32()?,
            sequence: reader.u64()?,
            step: reader.u32()?,
            operator: reader.u32()?,
            length: reader.u64()?,
            elements: reader.u64()?,
        })
    }

    /// Whether both belong to one collective of one communicator, whatever they think of it.
    #[inline]
    pub fn is_same_collective(&self, other: &Self) -> bool {
        let class = |envelope: &Self| {
            (envelope.communicator, envelope.epoch, envelope.sequence, envelope.kind == Kind::Message)
        };
        class(self) == class(other) && self.kind != Kind::Message
    }

    /// The same operation without what differs from frame to frame.
    #[must_use]
    #[inline]
    pub fn signature(&self) -> Self {
        Self { step: 0, length: 0, more: false, ..*self }
    }
}

impl fmt::Display for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = self.kind.operation();
        let type_name = crate::datatype::name_of(self.datatype);
        if self.kind == Kind::Message {
            return write!(f, "message with tag {} of {type_name}", self.root_or_tag);
        }
        if operation.class() == Class::Control {
            return write!(f, "control frame {operation}");
        }
        match super::group::persistent_run(self.sequence) {
            None => write!(f, "{operation} number {}", self.sequence)?,
            Some((init, run)) => write!(f, "run {run} of persistent collective {init}, {operation}")?,
        }
        if self.communicator != 0 {
            write!(f, " of communicator {:016x}", self.communicator)?;
        }
        if operation.has_root() {
            write!(f, " with root {}", self.root_or_tag)?;
        }
        if self.operator != 0 {
            let commutes = if self.commutative { "commutative" } else { "non-commutative" };
            write!(f, " with {commutes} operator {}", crate::op::name_of(self.operator))?;
        }
        if self.datatype != 0 {
            if self.elements > 0 {
                write!(f, " on {} elements of {type_name}", self.elements)?;
            } else {
                write!(f, " on {type_name}")?;
            }
        }
        // Of a signature there is no step to tell.
        if self.length > 0 { write!(f, ", step {} of {} bytes", self.step, self.length) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_frames_do_not_claim_to_be_a_join() {
        for kind in [Kind::Switch, Kind::Inquiry, Kind::Revoke, Kind::Ready, Kind::Matched] {
            let text = Envelope::new(kind).to_string();
            assert_eq!(text, format!("control frame {}", kind.operation()));
            assert!(!text.contains("join"));
        }
    }

    proptest! {
        #[test]
        fn envelopes_survive_the_wire(
            kind in proptest::sample::select(Kind::ALL), flags: (bool, bool, bool), datatype: u32, communicator: u64,
            fields: (u32, u32), sequence: u64, step: u32, operator: u32, length: u64, elements: u64,
        ) {
            let ((commutative, more, synchronous), (epoch, root_or_tag)) = (flags, fields);
            let envelope = Envelope {
                kind, commutative, more, synchronous, datatype, communicator, epoch, root_or_tag, sequence, step, operator,
                length, elements,
            };
            prop_assert_eq!(Envelope::parse(&envelope.emit()), Ok(envelope));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), ENVELOPE_BYTES)) {
            let bytes = bytes.try_into().expect("of this length");
            if let Ok(envelope) = Envelope::parse(&bytes) {
                prop_assert_eq!(envelope.emit(), bytes);
                let _ = envelope.to_string();
            }
        }
    }
}
