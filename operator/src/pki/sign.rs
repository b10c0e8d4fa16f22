//! Certificates for keys that stay with the requester. The operator decides on subject and names; only the public key is
//! taken from the request.

use crate::model::San;
use crate::pki::authority::{Authority, PkiError};
use crate::pki::authority::{Identity, identity};
use crate::pki::installation::InstallationCas;
use crate::pki::leaf::{LeafSpec, Usage};
use crate::pki::tenant;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use nestling_crds::names::NodeName;
use rcgen::SubjectPublicKeyInfo;
use std::net::IpAddr;
use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// Group of the agents' proxy halves; the operator binds it in each tenant to `system:node-proxier`.
pub(crate) const PROXIES: &str = "nestling:proxies";

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
pub(crate) fn proxy(ca: &Secret, node: &NodeName, csr_der: &[u8], now: Timestamp, lifetime: SignedDuration) -> Result<Signed, SignError> {
    let spec = LeafSpec::client(format!("system:kube-proxy:{node}"), Some(PROXIES));
    certify(&tenant::cluster_authority(ca)?, &spec, csr_der, now, lifetime)
}

const OWN_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// An identity of group `system:masters` for the operator itself, signed by the cluster CA in the `<vc>-ca` Secret. It is
/// never stored, and lives 24 hours.
pub fn super_admin(ca: &Secret, now: Timestamp) -> Result<Identity, PkiError> {
    let authority = tenant::cluster_authority(ca)?;
    let spec = LeafSpec::client("nestling-operator", Some("system:masters"));
    identity(&authority, &spec, now, OWN_LIFETIME)
}

/// A client of a tenant's etcd for the operator itself. It is never stored, and lives 24 hours.
pub(crate) fn etcd_client(ca: &Secret, now: Timestamp) -> Result<Identity, PkiError> {
    let authority = tenant::authority(ca, tenant::ETCD)?;
    identity(&authority, &LeafSpec::client("nestling-operator", None), now, OWN_LIFETIME)
}

/// Serving certificate of `node`'s kubelet API, for all tenants.
pub(crate) fn kubelet_serving(
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
    let key = public_key(csr_der).map_err(SignError::Request)?;
    let (chain_pem, not_after) = authority.certify(spec, &key, now, lifetime)?;
    Ok(Signed { chain_pem, not_after })
}

const MIN_RSA_BITS: usize = 2048;
/// An uncompressed point on P-256 (SEC 1).
const P256_BITS: usize = 256;

/// The key that signed the request, if it is one we certify: P-256, or RSA with at least 2048 bits.
pub(super) fn public_key(csr_der: &[u8]) -> Result<SubjectPublicKeyInfo, String> {
    let (rest, request) = X509CertificationRequest::from_der(csr_der).map_err(|_| "not a PKCS#10 request".to_owned())?;
    if !rest.is_empty() {
        return Err("bytes after the request".to_owned());
    }
    request.verify_signature().map_err(|_| "its signature does not verify".to_owned())?;
    let info = &request.certification_request_info.subject_pki;
    match info.parsed().map_err(|_| "its public key cannot be read".to_owned())? {
        PublicKey::EC(point) if point.key_size() == P256_BITS => {}
        PublicKey::RSA(key) if key.key_size() >= MIN_RSA_BITS => {}
        _ => return Err(format!("its key is neither P-256 nor RSA of at least {MIN_RSA_BITS} bits")),
    }
    SubjectPublicKeyInfo::from_der(info.raw).map_err(|_| "its key type is not supported".to_owned())
}
