//! Certificates for keys that stay with whoever asks. Subject and names are ours; from the request only the public key is
//! taken.

use super::PkiError;
use super::installation::InstallationCas;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use nestling_crds::names::NodeName;
use std::net::IpAddr;
use thiserror::Error;

/// A signed chain, leaf first.
#[derive(Clone, Debug)]
pub struct Signed {
    pub chain_pem: String,
    pub not_after: Timestamp,
}

#[derive(Debug, Error)]
pub enum SignError {
    /// The caller's fault: malformed, wrong signature, or a key that is too weak.
    #[error("certificate request is not acceptable: {0}")]
    Request(String),
    /// Ours.
    #[error("signing failed")]
    Authority(#[from] PkiError),
}

/// Client of one tenant's API as kubelet of `node`. `ca` is the tenant's `<vc>-ca` Secret.
pub fn kubelet(_ca: &Secret, _node: &NodeName, _csr_der: &[u8], _now: Timestamp, _lifetime: SignedDuration) -> Result<Signed, SignError> {
    todo!()
}

/// Client of one tenant's API as kube-proxy of `node`.
pub fn proxy(_ca: &Secret, _node: &NodeName, _csr_der: &[u8], _now: Timestamp, _lifetime: SignedDuration) -> Result<Signed, SignError> {
    todo!()
}

/// Serving certificate of `node`'s kubelet API.
pub fn kubelet_serving(
    _cas: &InstallationCas,
    _node: &NodeName,
    _addresses: &[IpAddr],
    _csr_der: &[u8],
    _now: Timestamp,
    _lifetime: SignedDuration,
) -> Result<Signed, SignError> {
    todo!()
}
