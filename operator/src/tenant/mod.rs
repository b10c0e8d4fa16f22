//! The tenant's own API: a [`Connection`] with an identity minted in memory, and what is [`mod@observe`]d through it.
//!
//! A starting apiserver is probed until it answers; then two watches follow nodes and CoreDNS, and each change makes the
//! tenant's cluster due for a reconcile. What the operator writes through the connection is [`addons`](crate::addons).
//! [`lanes`] bounds how many tenants are waited for at the same time.

pub(crate) mod lanes;
pub(crate) mod observe;

use crate::host::client::WriteGuard;
use crate::pki::{self, PkiError};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Uri;
use http::uri::InvalidUri;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{Client, Config};
use lanes::Lanes;
use nestling_crds::names::TenantUid;
use observe::{Observation, observe};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

/// Time to connect. A tenant's apiserver is on the same network as the operator.
const CONNECT: Duration = Duration::from_secs(3);

/// The operator's identity in a tenant lives 24 hours; it is replaced well before.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(8);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
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

/// A tenant's API.
#[derive(Clone)]
pub(crate) struct Tenant {
    pub(crate) client: Client,
    pub(crate) observation: watch::Receiver<Observation>,
}

/// Where a tenant's API is and what it is trusted by.
pub(crate) struct Target<'a> {
    pub(crate) tenant: &'a TenantUid,
    /// `namespace/name` of the cluster, for logs.
    pub(crate) cluster: String,
    pub(crate) url: &'a str,
    /// The tenant's `<vc>-ca` Secret, which signs the operator's identity.
    pub(crate) ca: &'a Secret,
    /// The CA that the API must show a certificate of, PEM.
    pub(crate) ca_bundle: &'a str,
}

/// Open until dropped.
pub(crate) struct Connection {
    pub(crate) tenant: Tenant,
    url: String,
    ca_bundle: String,
    renew_at: Timestamp,
    _observer: AbortOnDropHandle<()>,
}

impl Connection {
    /// Starts to observe the tenant; `initial` is what counts until there is an answer. Nothing is sent before this
    /// returns.
    pub(crate) fn open(
        target: &Target<'_>,
        guard: &WriteGuard,
        lanes: Arc<Lanes>,
        initial: Observation,
        changed: impl Fn() + Send + Sync + 'static,
        now: Timestamp,
    ) -> Result<Self, ConnectError> {
        let identity = pki::super_admin(target.ca, now)?;
        let client = client(target, &identity, guard)?;
        let (sender, observation) = watch::channel(initial);
        let span = tracing::info_span!(parent: None, "tenant", cluster = target.cluster);
        let observer = tokio::spawn(observe(client.clone(), target.tenant.clone(), lanes, sender, changed).instrument(span));
        Ok(Self {
            tenant: Tenant { client, observation },
            url: target.url.into(),
            ca_bundle: target.ca_bundle.into(),
            renew_at: identity.not_after - RENEW_BEFORE,
            _observer: AbortOnDropHandle::new(observer),
        })
    }

    /// Whether this connection leads to `target` with an identity that need not be renewed.
    pub(crate) fn is_to(&self, target: &Target<'_>, now: Timestamp) -> bool {
        self.url == target.url && self.ca_bundle == target.ca_bundle && now < self.renew_at
    }
}

fn client(target: &Target<'_>, identity: &pki::Identity, guard: &WriteGuard) -> Result<Client, ConnectError> {
    let address: Uri = target.url.parse().map_err(|source| ConnectError::Address { url: target.url.into(), source })?;
    let authorities: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(target.ca_bundle.as_bytes()).map(|cert| cert.map(|cert| cert.to_vec())).collect();
    let mut config = Config::new(address);
    config.root_cert = Some(authorities.map_err(ConnectError::Authority)?);
    config.connect_timeout = Some(CONNECT);
    // A starting apiserver answers 503 for a while; the caller decides when to retry.
    config.default_retry = false;
    config.auth_info.client_certificate_data = Some(BASE64_STANDARD.encode(&identity.certificate));
    config.auth_info.client_key_data = Some(BASE64_STANDARD.encode(&identity.key).into());
    guard.client_of_one_connection(&config).map_err(ConnectError::Client)
}
