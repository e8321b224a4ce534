//! The handshake of two ranks: `Noise_KKpsk0_25519_ChaChaPoly_BLAKE2s` of the Noise framework.
//!
//! The static keys of the pattern are made for one registration and travel to the peers through the
//! rendezvous, sealed with the key of the group; the pre-shared key is derived from it as well. So the
//! rendezvous can neither read nor impersonate, and who learns the group's key later cannot open what
//! was recorded before: both static and ephemeral secrets are gone.
//!
//! The higher rank of a pair initiates: its message rides with the first bytes of a stream, and the
//! answer is the nomination of that stream by the lower rank. The handshake costs no round trip beyond
//! those that agreeing on one stream takes anyway.
//!
//! Pure: all randomness comes from a seed.

use std::fmt;

use fmi_net::noted;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use x25519_dalek::{PublicKey as PublicPoint, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The pattern and its primitives.
const PATTERN: &str = "Noise_KKpsk0_25519_ChaChaPoly_BLAKE2s";
/// Length of either message: an ephemeral key and the tag of an empty payload.
pub const MESSAGE_BYTES: usize = 32 + 16;

/// Where secrets of one handshake come from. Used once.
pub type Seed = [u8; 32];
/// A public key.
pub type PublicKey = [u8; 32];

/// The handshake failed; nobody is told why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handshake does not verify")]
pub struct Unverified;

/// The key pair of one registration.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct KeyPair {
    secret: [u8; 32],
    #[zeroize(skip)]
    public: PublicKey,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").finish_non_exhaustive()
    }
}

impl KeyPair {
    /// Makes a pair from a seed.
    pub fn from_seed(seed: Seed) -> Self {
        noted::note("the secret of a registration", &seed);
        Self { secret: seed, public: public_of(seed) }
    }

    /// The half that peers learn.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }
}

/// By a table of multiples of the base point.
fn public_of(secret: [u8; 32]) -> PublicKey {
    PublicPoint::from(&StaticSecret::from(secret)).to_bytes()
}

/// The keys of one stream, one for each direction.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct StreamKeys {
    /// Of what this side sends.
    pub send: [u8; 32],
    /// Of what it receives.
    pub receive: [u8; 32],
}

impl StreamKeys {
    fn new(send: [u8; 32], receive: [u8; 32]) -> Self {
        noted::note("a key of a stream", &send);
        noted::note("a key of a stream", &receive);
        Self { send, receive }
    }
}

impl fmt::Debug for StreamKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamKeys(..)")
    }
}

/// What both sides of a handshake must know of each other beforehand.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The own key pair.
    pub own: &'a KeyPair,
    /// The peer's public key.
    pub peer: &'a PublicKey,
    /// The pre-shared key.
    pub shared: &'a [u8; 32],
    /// What both must agree on: version, mode, session, ranks and nonces.
    pub prologue: &'a [u8],
}

/// A handshake under way.
pub struct Handshake(snow::HandshakeState);

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handshake(..)")
    }
}

impl Handshake {
    fn builder<'a>(context: &Context<'a>, seed: Seed) -> Result<snow::Builder<'a>, snow::Error> {
        let params: NoiseParams = PATTERN.parse()?;
        snow::Builder::with_resolver(params, Box::new(Resolver { seed, own: context.own.clone() }))
            .local_private_key(&context.own.secret)?
            .remote_public_key(context.peer)?
            .psk(0, context.shared)?
            .prologue(context.prologue)
    }

    /// Starts on the higher rank: the state and the first message.
    ///
    /// # Errors
    /// [`Unverified`] if the peer's key is no key.
    pub fn initiate(context: &Context<'_>, seed: Seed) -> Result<(Self, [u8; MESSAGE_BYTES]), Unverified> {
        let start = || {
            let mut state = Self::builder(context, seed)?.build_initiator()?;
            let mut message = [0; MESSAGE_BYTES];
            state.write_message(&[], &mut message)?;
            Ok((Self(state), message))
        };
        start().map_err(|_: snow::Error| Unverified)
    }

    /// Takes the first message on the lower rank.
    ///
    /// # Errors
    /// [`Unverified`] unless the holder of the peer's secret and of the pre-shared key made it, for
    /// this session and this pair.
    pub fn respond(context: &Context<'_>, seed: Seed, message: &[u8; MESSAGE_BYTES]) -> Result<Self, Unverified> {
        let start = || {
            let mut state = Self::builder(context, seed)?.build_responder()?;
            state.read_message(message, &mut [])?;
            Ok(Self(state))
        };
        start().map_err(|_: snow::Error| Unverified)
    }

    /// Ends on the lower rank: the second message and the keys.
    ///
    /// # Errors
    /// [`Unverified`] if the first message has not been taken.
    pub fn accept(mut self) -> Result<([u8; MESSAGE_BYTES], StreamKeys), Unverified> {
        let mut message = [0; MESSAGE_BYTES];
        self.0.write_message(&[], &mut message).map_err(|_| Unverified)?;
        let (receive, send) = self.0.dangerously_get_raw_split();
        Ok((message, StreamKeys::new(send, receive)))
    }

    /// Ends on the higher rank, with the second message.
    ///
    /// # Errors
    /// [`Unverified`] unless the peer of the first message answered it.
    pub fn finish(mut self, message: &[u8; MESSAGE_BYTES]) -> Result<StreamKeys, Unverified> {
        self.0.read_message(message, &mut []).map_err(|_| Unverified)?;
        let (send, receive) = self.0.dangerously_get_raw_split();
        Ok(StreamKeys::new(send, receive))
    }
}

/// snow's primitives, with randomness from a seed and secrets that are wiped.
struct Resolver {
    seed: Seed,
    /// Its public half need not be computed again.
    own: KeyPair,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Seeded(ChaCha20Rng::from_seed(self.seed))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let empty = || X25519 { secret: [0; 32], public: [0; 32], own: self.own.clone() };
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(empty()) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}

struct Seeded(ChaCha20Rng);

impl Random for Seeded {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

#[derive(Zeroize, ZeroizeOnDrop)]
struct X25519 {
    secret: [u8; 32],
    #[zeroize(skip)]
    public: PublicKey,
    own: KeyPair,
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, secret: &[u8]) {
        self.secret.copy_from_slice(secret);
        self.public = if self.secret == self.own.secret { self.own.public } else { public_of(self.secret) };
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        rng.try_fill_bytes(&mut self.secret)?;
        noted::note("an ephemeral secret", &self.secret);
        self.public = public_of(self.secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.secret
    }

    fn dh(&self, theirs: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let theirs: PublicKey = theirs.get(..32).and_then(|key| key.try_into().ok()).ok_or(snow::Error::Dh)?;
        let mut shared = x25519_dalek::x25519(self.secret, theirs);
        // A point of low order gives zero, whoever asks (RFC 7748 §6.1).
        let is_trivial = shared == [0; 32];
        out[..32].copy_from_slice(&shared);
        noted::note("a shared secret", &shared);
        shared.zeroize();
        if is_trivial { Err(snow::Error::Dh) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Pair {
        low: KeyPair,
        high: KeyPair,
    }

    fn pair() -> Pair {
        Pair { low: KeyPair::from_seed([1; 32]), high: KeyPair::from_seed([2; 32]) }
    }

    fn context<'a>(own: &'a KeyPair, peer: &'a KeyPair, shared: &'a [u8; 32], prologue: &'a [u8]) -> Context<'a> {
        Context { own, peer: peer.public(), shared, prologue }
    }

    fn run(low: &Context<'_>, high: &Context<'_>) -> Result<(StreamKeys, StreamKeys), Unverified> {
        let (initiator, first) = Handshake::initiate(high, [3; 32])?;
        let responder = Handshake::respond(low, [4; 32], &first)?;
        let (second, low_keys) = responder.accept()?;
        Ok((low_keys, initiator.finish(&second)?))
    }

    #[test]
    fn both_sides_get_the_keys_of_both_directions() {
        let Pair { low, high } = pair();
        let ends = (context(&low, &high, &[9; 32], b"p"), context(&high, &low, &[9; 32], b"p"));
        let (low_keys, high_keys) = run(&ends.0, &ends.1).expect("verified");
        assert_eq!((low_keys.send, low_keys.receive), (high_keys.receive, high_keys.send));
        assert_ne!(low_keys.send, low_keys.receive);
        assert!(!format!("{low_keys:?} {low:?}").contains(&low_keys.send[0].to_string()));
    }

    #[test]
    fn another_key_another_secret_or_another_session_does_not_verify() {
        let Pair { low, high } = pair();
        let stranger = KeyPair::from_seed([7; 32]);
        let honest = context(&low, &high, &[9; 32], b"p");
        for wrong in [
            context(&high, &low, &[8; 32], b"p"),
            context(&high, &low, &[9; 32], b"q"),
            context(&stranger, &low, &[9; 32], b"p"),
            context(&high, &stranger, &[9; 32], b"p"),
        ] {
            assert_eq!(run(&honest, &wrong).map(|_| ()), Err(Unverified));
        }
    }

    #[test]
    fn a_key_of_low_order_is_refused() {
        let Pair { low, .. } = pair();
        let context = Context { own: &low, peer: &[0; 32], shared: &[9; 32], prologue: b"" };
        assert!(Handshake::initiate(&context, [1; 32]).is_err());
    }

    proptest! {
        #[test]
        fn any_changed_bit_is_noticed(bit in 0..MESSAGE_BYTES * 8, second: bool) {
            let Pair { low, high } = pair();
            let ends = (context(&low, &high, &[9; 32], b"p"), context(&high, &low, &[9; 32], b"p"));
            let (initiator, mut first) = Handshake::initiate(&ends.1, [3; 32]).expect("keys");
            if !second {
                first[bit / 8] ^= 1 << (bit % 8);
            }
            let responder = Handshake::respond(&ends.0, [4; 32], &first);
            if !second {
                // The last bit of a coordinate is ignored by X25519, but the transcript holds it.
                prop_assert!(responder.is_err());
                return Ok(());
            }
            let (mut answer, _) = responder.expect("verified").accept().expect("in turn");
            answer[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(initiator.finish(&answer).is_err());
        }
    }
}
