//! Names of bodies. Pure.

use std::fmt;

/// What all names of one run of a group have in common, so that they can be swept together. It is derived from the group's
/// key, and tells nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "it is made of bytes that its user derives")]
pub struct Scope(pub [u8; 12]);

/// Where the bodies lie that one reader waits for; each shelf has a bell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "users make them")]
pub struct Shelf {
    /// Of which run of which group.
    pub scope: Scope,
    /// Tells it from others of the scope.
    pub number: u64,
}

/// The name of one body, which is written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "users make them")]
pub struct Name {
    /// Where it lies.
    pub shelf: Shelf,
    /// Tells it from others of the shelf.
    pub id: [u8; 16],
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Scope {
    /// 24 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({self})")
    }
}

impl fmt::Display for Shelf {
    /// Scope and number, as `scope/number` in hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016x}", self.scope, self.number)
    }
}

impl fmt::Display for Name {
    /// Shelf and identifier, as `scope/number/id` in hexadecimal digits: all of it fits every store.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.shelf, Hex(&self.id))
    }
}

impl Scope {
    /// Reads what [`Display`](fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Self> {
        bytes(text).map(Self)
    }
}

impl Name {
    /// Reads what [`Display`](fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (scope, number, id) = (parts.next()?, parts.next()?, parts.next()?);
        let shelf = Shelf { scope: Scope::parse(scope)?, number: u64::from_be_bytes(bytes(number)?) };
        parts.next().is_none().then_some(())?;
        Some(Self { shelf, id: bytes(id)? })
    }
}

/// `N` bytes of hexadecimal digits in lower case.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_their_text_and_nothing_else_is_a_name() {
        let shelf = Shelf { scope: Scope(*b"twelve bytes"), number: u64::MAX - 1 };
        let name = Name { shelf, id: *b"\x00sixteen bytes.\xff" };
        let text = name.to_string();
        assert_eq!(Name::parse(&text), Some(name));
        assert_eq!(Scope::parse(&shelf.scope.to_string()), Some(shelf.scope));
        for broken in [&text[1..], &text.to_uppercase(), &format!("{text}/"), &text.replace('/', "-"), "", "é/é/é"] {
            assert_eq!(Name::parse(broken), None, "{broken}");
        }
    }
}
