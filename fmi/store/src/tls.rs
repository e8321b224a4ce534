//! TLS over the streams of a net.
//!
//! Its entropy and the time by which it judges certificates are the system's, so what runs over it does not repeat itself in a
//! simulation, where there is no use for it.

use std::io;
use std::sync::Arc;

use fmi_net::ByteStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::lan::Link;

/// A client of one server, which trusts whom this machine trusts (`SSL_CERT_FILE` names others).
pub(crate) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    pub(crate) fn new(host: &str) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no name of a host"))?;
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let why: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
            return Err(format!(
                "this machine has no certificates to trust{why}; SSL_CERT_FILE may name a file of them"
            ));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { connector: Arc::new(config).into(), name })
    }

    pub(crate) async fn wrap(&self, stream: Box<dyn ByteStream>) -> io::Result<Link> {
        Ok(Box::new(self.connector.connect(self.name.clone(), stream).await?))
    }
}
