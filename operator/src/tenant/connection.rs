//! A client of one tenant's API, with an identity that exists in memory only.

use crate::guard::WriteGuard;
use crate::pki::{Identity, PkiError};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Uri;
use http::uri::InvalidUri;
use kube::{Client, Config};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::time::Duration;

/// A tenant's apiserver is on the same network as we are.
const CONNECT: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot mint the operator's identity in the tenant")]
    Identity(#[from] PkiError),
    #[error("the tenant's API has no usable address {url:?}")]
    Address {
        url: String,
        #[source]
        source: InvalidUri,
    },
    #[error("cannot read the tenant's CA")]
    Authority(#[source] rustls_pki_types::pem::Error),
    #[error("cannot set up a client of the tenant's API")]
    Client(#[source] kube::Error),
}

/// A client of the API at `url`, which must show a certificate of `ca_bundle` (PEM).
pub fn connect(url: &str, ca_bundle: &str, identity: &Identity, guard: &WriteGuard) -> Result<Client, ConnectError> {
    let address: Uri = url.parse().map_err(|source| ConnectError::Address { url: url.into(), source })?;
    let authorities: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(ca_bundle.as_bytes()).map(|cert| cert.map(|cert| cert.to_vec())).collect();
    let mut config = Config::new(address);
    config.root_cert = Some(authorities.map_err(ConnectError::Authority)?);
    config.connect_timeout = Some(CONNECT);
    // A starting apiserver answers 503 for a while; whoever asks decides when to ask again.
    config.default_retry = false;
    config.auth_info.client_certificate_data = Some(BASE64_STANDARD.encode(&identity.certificate));
    config.auth_info.client_key_data = Some(BASE64_STANDARD.encode(&identity.key).into());
    guard.client(config).map_err(ConnectError::Client)
}
