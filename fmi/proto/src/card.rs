//! What a rank tells its peers through the rendezvous, sealed with the key of the group.
//!
//! The rendezvous carries a card and cannot read it: own addresses, protection of streams and public
//! key are nobody else's business, and it cannot swap a key. A card is bound to its
//! registration, so it cannot be replayed for another one.

use std::net::{IpAddr, SocketAddr};

use super::cipher::{Cipher, NONCE_BYTES, Suite, Suites, TAG_BYTES};
use super::exchange::PublicKey;
use super::rendezvous::Nonce;
use super::scope::Scope;
use super::wire::{Reader, VERSION, WireError, Write};
use crate::key::Key;

/// Most own addresses on a card.
pub const LOCALS_MAX: usize = 8;
/// Longest sealed card.
pub const CARD_BYTES_MAX: usize = 4 + 32 + 1 + LOCALS_MAX * 19 + TAG_BYTES;

/// How the streams between ranks are protected; equal on all ranks of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Security {
    /// Only the two ranks can read or change what they send. Needs a key. The default with one.
    Encrypted,
    /// Everybody can read, nobody can change. Needs a key.
    Authenticated,
    /// Everybody can read, and whoever is on the path can change. Peers still prove the group's key, if
    /// there is one, before the first byte. For closed networks and comparisons.
    Plaintext,
}

impl Security {
    /// Its name, as configurations have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encrypted => "encrypted",
            Self::Authenticated => "authenticated",
            Self::Plaintext => "plaintext",
        }
    }

    /// As on the wire.
    pub fn code(self) -> u8 {
        match self {
            Self::Encrypted => 1,
            Self::Authenticated => 2,
            Self::Plaintext => 3,
        }
    }
}

/// What the peers of a rank must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Version of the protocol that it speaks with its peers.
    pub version: u8,
    /// Protection that it wants.
    pub security: Security,
    /// Whether it agrees to be sprayed with probes.
    pub sprays: bool,
    /// What it can make records with.
    pub suites: Suites,
    /// Public key of this registration.
    pub public: PublicKey,
    /// Addresses of its own interfaces.
    pub locals: Vec<SocketAddr>,
}

/// Why a card is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// Another key sealed it, or for another registration.
    #[error("the card does not verify")]
    Seal,
    /// A holder of the key sealed something else.
    #[error("the card is malformed: {0}")]
    Wire(#[from] WireError),
}

/// The registration that a card belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder<'a> {
    /// Rank.
    pub rank: u32,
    /// Size of the group.
    pub size: u32,
    /// Number of the view of the group that it registers for, from 0.
    pub epoch: u32,
    /// Nonce of the registration, fresh for each; so is the key that seals.
    pub nonce: &'a Nonce,
}

/// Whether an address that a peer claims for itself may be dialled.
///
/// A claimed address makes others send SYNs to it, so it must be private, or the address
/// that the rendezvous itself saw.
pub fn local_is_allowed(local: SocketAddr, observed: IpAddr) -> bool {
    let is_near = match Scope::of(local.ip()) {
        Some(Scope::Site) => true,
        Some(Scope::Host) => observed.is_loopback(),
        Some(Scope::Global) | None => false,
    };
    local.port() != 0 && (local.ip() == observed || is_near)
}

#[cfg(test)]
impl Card {
    /// That of a rank of this version, on a machine that has everything, without addresses of its own.
    pub(crate) fn sample(security: Security) -> Self {
        let suites = Suites::of_machine(true);
        Self { version: VERSION, security, sprays: false, suites, public: [5; 32], locals: Vec::new() }
    }
}

impl Card {
    /// Seals the card for the peers of `holder`.
    pub fn seal(&self, key: &Key, holder: &Holder<'_>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CARD_BYTES_MAX);
        bytes.put(&[self.version, self.security.code(), u8::from(self.sprays), self.suites.code()]).put(&self.public);
        bytes.put_addresses(&self.locals, LOCALS_MAX);
        let mut sealed = vec![0; bytes.len() + TAG_BYTES];
        cipher(key, holder).seal([0; NONCE_BYTES], &[], &bytes, &mut sealed);
        sealed
    }

    /// Opens the card of `holder`.
    ///
    /// # Errors
    /// [`CardError`] unless a holder of the key sealed it for this registration.
    pub fn open(key: &Key, holder: &Holder<'_>, sealed: &[u8]) -> Result<Self, CardError> {
        let mut bytes = vec![0; sealed.len().checked_sub(TAG_BYTES).ok_or(CardError::Seal)?];
        cipher(key, holder).open([0; NONCE_BYTES], &[], sealed, &mut bytes).map_err(|_| CardError::Seal)?;
        let mut reader = Reader::new(&bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(WireError::Version { theirs: version, ours: VERSION }.into());
        }
        let security = reader.u8()?;
        let security = [Security::Encrypted, Security::Authenticated, Security::Plaintext]
            .into_iter()
            .find(|it| it.code() == security)
            .ok_or_else(|| WireError::Value { field: "security", value: u64::from(security) })?;
        let sprays = match reader.u8()? {
            0 => false,
            1 => true,
            other => return Err(WireError::Value { field: "card flags", value: u64::from(other) }.into()),
        };
        let suites = Suites::from_code(reader.u8()?)?;
        let (public, locals) = (reader.array()?, reader.addresses(LOCALS_MAX)?);
        reader.finish()?;
        Ok(Self { version, security, sprays, suites, public, locals })
    }
}

/// The key is that of one registration, so the cipher's nonce can be zero, and nothing else needs to be bound.
fn cipher(key: &Key, holder: &Holder<'_>) -> Cipher {
    let Holder { rank, size, epoch, nonce } = holder;
    let [rank, size, epoch] = [rank, size, epoch].map(|number| number.to_be_bytes());
    Cipher::new(Suite::ChaCha20Poly1305, key.card_key(&[&epoch, &rank, &size, &nonce[..]]).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn card() -> Card {
        let locals = vec![SocketAddr::from(([10, 0, 0, 2], 4000))];
        Card {
            version: VERSION,
            security: Security::Encrypted,
            sprays: true,
            suites: Suites::of_machine(true),
            public: [5; 32],
            locals,
        }
    }

    const HOLDER: Holder<'_> = Holder { rank: 1, size: 4, epoch: 0, nonce: &[7; 16] };

    #[test]
    fn peers_read_a_card_and_nobody_else_does() {
        let key = Key::new("g", b"k");
        let sealed = card().seal(&key, &HOLDER);
        assert_eq!(Card::open(&key, &HOLDER, &sealed), Ok(card()));
        for other in [Key::new("g", b"x"), Key::new("h", b"k")] {
            assert_eq!(Card::open(&other, &HOLDER, &sealed), Err(CardError::Seal), "another secret, or another group");
        }
        let others = [
            Holder { rank: 2, ..HOLDER },
            Holder { size: 5, ..HOLDER },
            Holder { epoch: 1, ..HOLDER },
            Holder { nonce: &[8; 16], ..HOLDER },
        ];
        for other in others {
            assert_eq!(Card::open(&key, &other, &sealed), Err(CardError::Seal), "{other:?}");
        }
    }

    #[test]
    fn a_card_of_another_version_says_which_and_no_more_is_read_of_it() {
        let key = Key::new("g", b"k");
        let sealed = Card { version: VERSION + 1, ..card() }.seal(&key, &HOLDER);
        let expected = WireError::Version { theirs: VERSION + 1, ours: VERSION };
        assert_eq!(Card::open(&key, &HOLDER, &sealed), Err(CardError::Wire(expected)));
    }

    #[test]
    fn every_protection_comes_back_and_has_a_name_of_its_own() {
        let all = [Security::Encrypted, Security::Authenticated, Security::Plaintext];
        let key = Key::new("g", b"k");
        for security in all {
            let sealed = Card { security, ..card() }.seal(&key, &HOLDER);
            assert_eq!(Card::open(&key, &HOLDER, &sealed).map(|card| card.security), Ok(security));
        }
        let names: std::collections::BTreeSet<_> = all.iter().map(|it| it.name()).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn the_longest_card_fits() {
        let local = SocketAddr::from(([1; 16], 4000));
        let long = Card { locals: vec![local; LOCALS_MAX + 3], ..card() };
        let sealed = long.seal(&Key::new("g", b"k"), &HOLDER);
        assert_eq!(sealed.len(), CARD_BYTES_MAX);
        let opened = Card::open(&Key::new("g", b"k"), &HOLDER, &sealed).expect("ours");
        assert_eq!(opened.locals.len(), LOCALS_MAX);
    }

    #[test]
    fn claimed_addresses_must_be_private_or_the_observed_one() {
        let observed = IpAddr::from([203, 0, 113, 1]);
        let allowed = |ip: [u8; 4], port| local_is_allowed(SocketAddr::from((ip, port)), observed);
        assert!(allowed([10, 0, 0, 2], 4000) && allowed([192, 168, 1, 1], 1) && allowed([203, 0, 113, 1], 9));
        assert!(!allowed([10, 0, 0, 2], 0), "port 0 is no address");
        assert!(!allowed([198, 51, 100, 1], 4000), "a third party must not be hit");
        assert!(!allowed([224, 0, 0, 1], 4000), "multicast");
        assert!(!allowed([127, 0, 0, 1], 4000), "loopback of somebody else");
        assert!(!allowed([255, 255, 255, 255], 4000), "broadcast");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Card::open(&Key::new("g", b"k"), &HOLDER, &bytes).is_err());
        }
    }
}
