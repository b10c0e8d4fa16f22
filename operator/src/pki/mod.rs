//! Certificates and keys of tenants and of the installation. Pure: existing Secrets and the time go in, the Secrets to
//! apply come out, and what still serves comes out byte for byte as it went in.
//!
//! [`plan`] keeps, renews or mints everything that one tenant needs. [`installation`] holds the authorities that no tenant
//! may ever command (its admin can make its own kube-controller-manager sign things). [`sign`] certifies keys that agents
//! keep on their nodes.

pub mod installation;
pub mod sign;

use crate::reconcile::build::Endpoint;
use crate::reconcile::validate::ValidatedCluster;
use installation::InstallationCas;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use std::collections::BTreeMap;
use thiserror::Error;

/// How long what is minted lives.
#[derive(Clone, Copy, Debug)]
pub struct PkiPolicy {
    pub leaf_lifetime: SignedDuration,
    pub ca_lifetime: SignedDuration,
}

/// Everything a tenant's components read, and when to look again.
#[derive(Clone, Debug)]
pub struct Pki {
    pub secrets: PkiSecrets,
    /// PEM of the cluster CA: what the tenant's API is verified with.
    pub ca_bundle: String,
    /// When the first certificate has lived two thirds of its life.
    pub renew_at: Timestamp,
}

/// The Secrets of a tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct PkiSecrets {
    /// `<vc>-ca`: all authorities with their keys.
    pub ca: Secret,
    /// `<vc>-sa`: key pair of service-account tokens.
    pub service_account: Secret,
    /// `<vc>-apiserver-certs`
    pub apiserver: Secret,
    /// `<vc>-etcd-certs`
    pub etcd: Secret,
    /// `<vc>-controllers-certs`
    pub controllers: Secret,
    /// `<vc>-admin-kubeconfig`
    pub admin_kubeconfig: Secret,
}

/// A client certificate with its key, PEM.
#[derive(Clone)]
pub struct ClientIdentity {
    pub certificate: String,
    pub key: String,
    pub not_after: Timestamp,
}

#[derive(Debug, Error)]
pub enum PkiError {
    #[error("Secret {secret} has no usable {key}")]
    Unreadable { secret: String, key: String },
}

/// Keeps what serves, renews what has lived two thirds of its life or no longer fits, mints what is missing.
pub fn plan(
    _cluster: &ValidatedCluster,
    _endpoint: &Endpoint,
    _installation: &InstallationCas,
    _existing: &BTreeMap<String, Secret>,
    _now: Timestamp,
    _policy: &PkiPolicy,
) -> Result<Pki, PkiError> {
    todo!()
}

/// Names of the Secrets that [`plan`] wants to see, for whoever reads them.
pub fn secret_names(_cluster_name: &str) -> [String; 6] {
    todo!()
}

/// An identity of group `system:masters` for the operator itself, signed by the cluster CA in the `<vc>-ca` Secret. Never
/// stored; lives 24 hours.
pub fn super_admin(_ca: &Secret, _now: Timestamp) -> Result<ClientIdentity, PkiError> {
    todo!()
}
