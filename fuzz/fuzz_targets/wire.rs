//! No bytes from a peer or a rendezvous make a codec panic, and what parses survives a round trip.
#![no_main]

use fmi::proto::frame::{ENVELOPE_BYTES, Envelope};
use fmi::proto::rendezvous::{ClientMessage, ServerMessage, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = ClientMessage::parse(bytes) {
        assert_eq!(&message.emit()[4..], bytes);
    }
    if let Ok(message) = ServerMessage::parse(bytes) {
        let emitted = message.emit();
        assert_eq!(ServerMessage::parse(&emitted[4..]), Ok(message));
    }
    if let Ok(Some((body, taken))) = split(bytes, 1024) {
        assert_eq!(body.len() + 4, taken);
    }
    if let Some(head) = bytes.first_chunk::<ENVELOPE_BYTES>()
        && let Ok(envelope) = Envelope::parse(head)
    {
        assert_eq!(Envelope::parse(&envelope.emit()), Ok(envelope));
        let _ = envelope.to_string();
    }
});
