//! What is said to a client.

use bytes::{BufMut, Bytes, BytesMut};

/// From this length on a body is carried by reference: below, a copy costs less than a piece more on its way out.
const SHARED_BYTES_MIN: usize = 4 << 10;
/// What a piece costs beside its bytes.
const PIECE_BYTES: usize = 64;
/// Memory that answers take their pieces from.
const BLOCK_BYTES: usize = 8 << 10;

/// Collects answers to one client. RESP3 differs from RESP2 in its nulls, maps and pushes.
#[derive(Debug, Default)]
pub struct Answer {
    is_resp3: bool,
    parts: Vec<Bytes>,
    parts_bytes: usize,
    copied_bytes: usize,
    tail: BytesMut,
}

impl Answer {
    /// What follows is in this version of the protocol.
    pub fn set_resp3(&mut self, is_resp3: bool) {
        self.is_resp3 = is_resp3;
    }

    /// Whether it is RESP3.
    pub fn is_resp3(&self) -> bool {
        self.is_resp3
    }

    /// All bytes that are here.
    pub fn len(&self) -> usize {
        self.parts_bytes + self.tail.len()
    }

    /// What all of it costs: bytes that were copied, and pieces.
    pub fn copied(&self) -> usize {
        self.copied_bytes + self.tail.len()
    }

    /// Whether nothing is here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the pieces, and says what they cost beside the bodies that are carried by reference.
    pub fn take(&mut self) -> (Vec<Bytes>, usize) {
        self.cut();
        self.parts_bytes = 0;
        (std::mem::take(&mut self.parts), std::mem::take(&mut self.copied_bytes))
    }

    fn cut(&mut self) {
        if !self.tail.is_empty() {
            let part = self.tail.split().freeze();
            self.copied_bytes += part.len() + PIECE_BYTES;
            self.parts_bytes += part.len();
            self.parts.push(part);
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.tail.capacity() - self.tail.len() < bytes.len() {
            self.tail.reserve(bytes.len().max(BLOCK_BYTES));
        }
        self.tail.put_slice(bytes);
    }

    fn head(&mut self, kind: u8, number: i64) {
        // A sign and 19 digits, the kind, and the end of the line.
        let mut text = [0; 24];
        let mut at = text.len() - 2;
        text[at..].copy_from_slice(b"\r\n");
        let mut left = number.unsigned_abs();
        loop {
            at -= 1;
            text[at] = b'0' + u8::try_from(left % 10).expect("a digit");
            left /= 10;
            if left == 0 {
                break;
            }
        }
        if number < 0 {
            at -= 1;
            text[at] = b'-';
        }
        at -= 1;
        text[at] = kind;
        self.put(&text[at..]);
    }

    fn length(&mut self, kind: u8, length: usize) {
        self.head(kind, i64::try_from(length).expect("what is in memory fits"));
    }

    /// A word of the protocol.
    pub fn simple(&mut self, text: &str) {
        self.put(b"+");
        self.put(text.as_bytes());
        self.put(b"\r\n");
    }

    /// A failure. The first word is its kind. What would end its line is a space.
    pub fn error(&mut self, text: &[u8]) {
        self.put(b"-");
        for (at, line) in text.split(|byte| matches!(byte, b'\r' | b'\n')).enumerate() {
            self.put(if at > 0 { b" " } else { b"" });
            self.put(line);
        }
        self.put(b"\r\n");
    }

    /// A whole number.
    pub fn integer(&mut self, number: i64) {
        self.head(b':', number);
    }

    /// How many.
    pub fn count(&mut self, number: usize) {
        self.length(b':', number);
    }

    /// Bytes, which are copied.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.length(b'$', bytes.len());
        self.put(bytes);
        self.put(b"\r\n");
    }

    /// A body, which is copied if that costs less than a reference.
    pub fn body(&mut self, body: &Bytes) {
        if body.len() < SHARED_BYTES_MIN {
            return self.bytes(body);
        }
        self.length(b'$', body.len());
        self.cut();
        self.copied_bytes += PIECE_BYTES;
        self.parts_bytes += body.len();
        self.parts.push(body.clone());
        self.put(b"\r\n");
    }

    /// Nothing, where something might be.
    pub fn null(&mut self) {
        self.put(if self.is_resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// No list, where one might be.
    pub fn null_array(&mut self) {
        self.put(if self.is_resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// A list of so many, which follow.
    pub fn array(&mut self, length: usize) {
        self.length(b'*', length);
    }

    /// So many pairs, which follow; for RESP2 a list of twice as many.
    pub fn map(&mut self, pairs: usize) {
        if self.is_resp3 {
            self.length(b'%', pairs);
        } else {
            self.length(b'*', 2 * pairs);
        }
    }

    /// A list of so many, which follow, that nobody asked for.
    pub fn push(&mut self, length: usize) {
        self.length(if self.is_resp3 { b'>' } else { b'*' }, length);
    }
}
