//! Certificates for keys that stay with whoever asks. Subject and names are ours; from the request only the public key is
//! taken.

use super::authority::Authority;
use super::installation::InstallationCas;
use super::leaf::{LeafSpec, Usage};
use super::{PkiError, csr, tenant};
use crate::reconcile::validate::San;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use nestling_crds::names::NodeName;
use std::net::IpAddr;
use thiserror::Error;

/// Group of the agents' proxy halves; the operator binds it in each tenant to `system:node-proxier`.
pub const PROXIES: &str = "nestling:proxies";

/// A signed chain, leaf first.
#[derive(Clone, Debug)]
pub struct Signed {
    pub chain_pem: String,
    pub not_after: Timestamp,
}

#[derive(Debug, Error)]
pub enum SignError {
    /// The caller's fault.
    #[error("certificate request is not acceptable: {0}")]
    Request(String),
    /// Ours.
    #[error("cannot sign for a certificate request")]
    Authority(#[from] PkiError),
}

/// Client of one tenant's API as kubelet of `node` (Node authorizer: `system:node:<name>` in `system:nodes`). `ca` is the
/// tenant's `<vc>-ca` Secret.
pub fn kubelet(ca: &Secret, node: &NodeName, csr_der: &[u8], now: Timestamp, lifetime: SignedDuration) -> Result<Signed, SignError> {
    let spec = LeafSpec::client(format!("system:node:{node}"), Some("system:nodes"));
    certify(&tenant::cluster_authority(ca)?, &spec, csr_der, now, lifetime)
}

/// Client of one tenant's API as kube-proxy of `node`. Never `system:kube-proxy` itself: the node stays visible in audit.
pub fn proxy(ca: &Secret, node: &NodeName, csr_der: &[u8], now: Timestamp, lifetime: SignedDuration) -> Result<Signed, SignError> {
    let spec = LeafSpec::client(format!("system:kube-proxy:{node}"), Some(PROXIES));
    certify(&tenant::cluster_authority(ca)?, &spec, csr_der, now, lifetime)
}

/// Serving certificate of `node`'s kubelet API, for all tenants.
pub fn kubelet_serving(
    cas: &InstallationCas,
    node: &NodeName,
    addresses: &[IpAddr],
    csr_der: &[u8],
    now: Timestamp,
    lifetime: SignedDuration,
) -> Result<Signed, SignError> {
    let sans = addresses.iter().copied().map(San::Ip).chain([San::Dns(node.to_string())]);
    let spec = LeafSpec::server(format!("system:node:{node}"), Usage::Server, sans);
    certify(&cas.node_serving, &spec, csr_der, now, lifetime)
}

fn certify(authority: &Authority, spec: &LeafSpec, csr_der: &[u8], now: Timestamp, lifetime: SignedDuration) -> Result<Signed, SignError> {
    let key = csr::public_key(csr_der).map_err(SignError::Request)?;
    let (chain_pem, not_after) = authority.certify(spec, &key, now, lifetime)?;
    Ok(Signed { chain_pem, not_after })
}
