//! Digests of bodies, which the library wants when it deletes many objects at once.

use aws_lc_rs::digest;
use object_store::client::{CryptoProvider, DigestAlgorithm, DigestContext, HmacContext, Signer, SigningAlgorithm};
use object_store::{Error, Result};

/// Digests, and no signatures: these are made elsewhere.
#[derive(Debug)]
pub(super) struct Digests;

struct Running {
    context: digest::Context,
    digest: Option<digest::Digest>,
}

impl DigestContext for Running {
    fn update(&mut self, data: &[u8]) {
        self.context.update(data);
    }

    fn finish(&mut self) -> Result<&[u8]> {
        let digest: &digest::Digest = self.digest.insert(self.context.clone().finish());
        Ok(digest.as_ref())
    }
}

fn unsupported<T>() -> Result<T> {
    Err(Error::NotSupported { source: "signatures are not the library's to make".into() })
}

impl CryptoProvider for Digests {
    fn digest(&self, algorithm: DigestAlgorithm) -> Result<Box<dyn DigestContext>> {
        if algorithm != DigestAlgorithm::Sha256 {
            return unsupported();
        }
        Ok(Box::new(Running { context: digest::Context::new(&digest::SHA256), digest: None }))
    }

    fn hmac(&self, _: DigestAlgorithm, _: &[u8]) -> Result<Box<dyn HmacContext>> {
        unsupported()
    }

    fn sign(&self, _: SigningAlgorithm, _: &[u8]) -> Result<Box<dyn Signer>> {
        unsupported()
    }
}
