//! From a URL to its store.

use std::sync::Arc;

use fmi_net::Net;

use crate::address::Address;
use crate::error::{Cause, Result, StoreError};
use crate::ledger::Request;
use crate::seam::Store;

/// Each scheme, the feature that has it, and how its URLs look.
const SCHEMES: [(&str, &str, &str); 4] = [
    ("dir", "dir", "dir:/path"),
    ("redis", "redis", "redis://user:password@host:6379/0"),
    ("rediss", "rediss", "rediss://user:password@host:6379/0"),
    ("s3", "s3", "s3://bucket/prefix?region=eu-central-1"),
];

/// Connects to the store of a URL, and finds out whether it can be used:
/// - `dir:/path`: a folder, of this machine or of a file system that machines share (feature `dir`);
/// - `redis://user:password@host:6379/0`: what speaks the protocol of Redis (feature `redis`), with `rediss` over TLS
///   (feature `rediss`); all but the host may be left out;
/// - `s3://bucket/prefix?endpoint=http://host:9000&region=eu-central-1`: what speaks the protocol of S3 (feature `s3`). Credentials
///   come from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`; prefix and settings may be left out,
///   and the region comes from `AWS_REGION` then.
///
/// # Errors
/// [`Cause::Settings`] if the URL is wrong or needs a feature that is missing; else what keeps the store from being used. No error
/// shows user or password.
pub async fn connect(net: impl Net, url: &str) -> Result<Arc<dyn Store>> {
    let address = Address::parse(url).map_err(|text| {
        let scheme = url.split(':').next().filter(|scheme| SCHEMES.iter().any(|it| it.0 == *scheme));
        StoreError::new(scheme.unwrap_or("store"), Request::Connect, Cause::Settings(text))
    })?;
    match address.scheme.as_str() {
        #[cfg(feature = "dir")]
        "dir" => Ok(Arc::new(crate::dir::DirStore::open(net, address)?)),
        #[cfg(feature = "redis")]
        "redis" => Ok(Arc::new(crate::redis::RedisStore::connect(net, address).await?)),
        #[cfg(feature = "rediss")]
        "rediss" => Ok(Arc::new(crate::redis::RedisStore::connect(net, address).await?)),
        #[cfg(feature = "s3")]
        "s3" => Ok(Arc::new(crate::s3::S3Store::connect(net, address).await?)),
        _ => {
            drop(net);
            Err(refused(&address))
        }
    }
}

/// The store is of no kind that is built in.
fn refused(address: &Address) -> StoreError {
    let known = SCHEMES.iter().find(|it| it.0 == address.scheme);
    let text = match known {
        Some((scheme, feature, _)) => {
            format!(
                "stores of {scheme} need the feature `{feature}` of faas-fmi-store, which this program was built without"
            )
        }
        None => {
            let forms: Vec<_> = SCHEMES.iter().map(|it| it.2).collect();
            format!("no store is of the scheme {:?}; URLs look like {}", address.scheme, forms.join(", "))
        }
    };
    let store = if known.is_some() { address.to_string() } else { "store".into() };
    StoreError::new(store, Request::Connect, Cause::Settings(text))
}

#[cfg(test)]
mod tests {
    use fmi_net::real::RealNet;

    use super::*;

    #[tokio::test]
    async fn a_wrong_url_is_refused_for_people_and_keeps_its_secret() {
        for (url, said) in [
            ("me:secret", "two slashes"),
            ("ftp://me:secret@host", "no store is of the scheme \"ftp\""),
            ("redis://me:secret@", "redis: connect failed: the host is missing"),
            ("secret", "given as a URL"),
        ] {
            let error = connect(RealNet::new(), url).await.expect_err(url);
            assert!(matches!(error.cause, Cause::Settings(_)), "{error:?}");
            assert!(error.to_string().contains(said) && !error.to_string().contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn a_missing_feature_is_named() {
        for (scheme, feature, form) in SCHEMES {
            let address = Address::parse(form).expect("an example is right");
            assert_eq!(address.scheme, scheme);
            assert!(refused(&address).to_string().contains(&format!("the feature `{feature}`")));
        }
    }
}
