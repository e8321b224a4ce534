//! Reading and writing of bounded fields, big-endian, shared by all formats of this crate.
//!
//! A reader never panics and never allocates more than the input is long.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Version of what ranks say to each other: cards, hellos, frames, notices, records.
///
/// Whoever changes the bytes of one of them raises it; `golden.rs` holds them. A card keeps its seal and begins with
/// the version in all versions, so that ranks of two versions tell each other apart.
pub const VERSION: u8 = 3;

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The message ends before its last field.
    #[error("message ends too early")]
    Short,
    /// Bytes follow the last field.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// The other end has another version of the protocol.
    #[error("protocol version {theirs}, this program speaks version {ours}")]
    Version {
        /// Its version.
        theirs: u8,
        /// The version of this program.
        ours: u8,
    },
    /// A field holds a value that has no meaning.
    #[error("value {value} is not allowed in field {field}")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A length field exceeds its limit.
    #[error("length {0} exceeds the limit of {1}")]
    TooLong(u64, u64),
}

/// Takes fields from the front of a slice.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from `bytes`.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Takes `N` bytes.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, tail) = self.0.split_first_chunk().ok_or(WireError::Short)?;
        self.0 = tail;
        Ok(*head)
    }

    /// Takes one byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Takes two bytes.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Takes four bytes.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Takes eight bytes.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Takes an address: family 4 or 6, address, port.
    pub fn address(&mut self) -> Result<SocketAddr, WireError> {
        let ip = match self.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            other => return Err(WireError::Value { field: "address family", value: u64::from(other) }),
        };
        Ok(SocketAddr::new(ip, self.u16()?))
    }

    /// Takes a counted list of at most `count_max` addresses.
    pub fn addresses(&mut self, count_max: usize) -> Result<Vec<SocketAddr>, WireError> {
        let count = usize::from(self.u8()?);
        if count > count_max {
            return Err(WireError::TooLong(count as u64, count_max as u64));
        }
        (0..count).map(|_| self.address()).collect()
    }

    /// Takes an address that may be absent.
    pub fn optional_address(&mut self) -> Result<Option<SocketAddr>, WireError> {
        Ok(self.addresses(1)?.pop())
    }

    /// Takes bytes that follow their length of two bytes, at most `bytes_max` of them.
    pub fn bytes(&mut self, bytes_max: usize) -> Result<&'a [u8], WireError> {
        let length = usize::from(self.u16()?);
        if length > bytes_max {
            return Err(WireError::TooLong(length as u64, bytes_max as u64));
        }
        let (head, tail) = self.0.split_at_checked(length).ok_or(WireError::Short)?;
        self.0 = tail;
        Ok(head)
    }

    /// Ends the message.
    pub fn finish(self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Trailing(self.0.len())) }
    }
}

/// Appends fields to a vector.
pub trait Write {
    /// Appends raw bytes.
    fn put(&mut self, bytes: &[u8]) -> &mut Self;

    /// Appends an address: family 4 or 6, address, port.
    fn put_address(&mut self, address: SocketAddr) -> &mut Self {
        match address.ip() {
            IpAddr::V4(ip) => self.put(&[4]).put(&ip.octets()),
            IpAddr::V6(ip) => self.put(&[6]).put(&ip.octets()),
        };
        self.put(&address.port().to_be_bytes())
    }

    /// Appends the first `count_max` addresses behind their count.
    ///
    /// # Panics
    /// If `count_max` exceeds 255.
    fn put_addresses(&mut self, addresses: &[SocketAddr], count_max: usize) -> &mut Self {
        let count = u8::try_from(addresses.len().min(count_max)).expect("lists are short");
        self.put(&[count]);
        for address in addresses.iter().take(count_max) {
            self.put_address(*address);
        }
        self
    }

    /// Appends bytes behind their length of two bytes.
    ///
    /// # Panics
    /// If there are more than 65,535.
    fn put_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let length = u16::try_from(bytes.len()).expect("blobs are short");
        self.put(&length.to_be_bytes()).put(bytes)
    }
}

impl Write for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.extend_from_slice(bytes);
        self
    }
}
