//! Certificates and keys of tenants and of the installation. No IO: existing Secrets and the time go in, the Secrets to
//! apply come out, and what still serves comes out byte for byte as it went in. (Only new keys make two runs differ.)
//!
//! [`plan`] keeps, renews or mints everything that one tenant needs: [`tenant`] says which certificates there are and where
//! they are read, [`leaf`] whether one still serves, [`authority`] mints. [`installation`] holds the authorities that no
//! tenant may ever command (a tenant's admin can make its own kube-controller-manager sign things). [`sign`] certifies keys
//! that agents keep on their nodes.
//!
//! Everything is ECDSA P-256. Leaves are renewed after two thirds of their life, or when they no longer say what they
//! should or come from another authority. Authorities are kept as long as they are there: replacing one is a rotation in
//! several steps, not a renewal.

mod authority;
mod csr;
pub mod installation;
mod kubeconfig;
mod leaf;
mod plan;
mod secret;
pub mod sign;
mod tenant;
mod time;

pub use plan::{Pki, PkiSecrets, plan};
pub use tenant::{FRONT_PROXY_CLIENT, keys, secret_names};

use authority::Authority;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use leaf::LeafSpec;
use std::fmt;
use thiserror::Error;

/// How long what is minted lives.
///
/// Programs look at renewed files after a while only: the kubelet brings a Secret into a pod within about 90 s, and
/// client-go reloads client certificates every 5 minutes (`CertCallbackRefreshDuration`). Leaves that live less than about
/// 20 minutes are therefore renewed in time in the Secrets, but clients that hold them fail now and then: for tests of
/// renewal itself only.
#[derive(Clone, Copy, Debug)]
pub struct PkiPolicy {
    pub leaf_lifetime: SignedDuration,
    pub ca_lifetime: SignedDuration,
}

/// A certificate with its key, PEM, for a program that keeps them in memory.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
    pub not_after: Timestamp,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

#[derive(Debug, Error)]
pub enum PkiError {
    /// Nothing is minted in its place: a new authority would cut off everything that trusts the old one.
    #[error("Secret {secret} holds an unusable {authority}: restore it, or delete it to begin with a new one")]
    UnusableAuthority { secret: String, authority: String },
    #[error("authority {authority} as minted cannot be read back")]
    Unusable { authority: String },
    #[error("cannot sign {subject}: its authority expired at {at}")]
    AuthorityExpired { subject: String, at: Timestamp },
    #[error("cannot generate a key")]
    Generate(#[source] rcgen::Error),
    #[error("cannot sign {subject}")]
    Sign { subject: String, source: rcgen::Error },
    #[error("cannot write kubeconfig for {user}")]
    Kubeconfig { user: String, source: serde_saphyr::ser::Error },
}

const SUPER_ADMIN_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// An identity of group `system:masters` for the operator itself, signed by the cluster CA in the `<vc>-ca` Secret. It is
/// never stored, and lives 24 hours.
pub fn super_admin(ca: &Secret, now: Timestamp) -> Result<Identity, PkiError> {
    let authority = tenant::cluster_authority(ca)?;
    let spec = LeafSpec::client("nestling-operator", Some("system:masters"));
    identity(&authority, &spec, now, SUPER_ADMIN_LIFETIME)
}

fn identity(authority: &Authority, spec: &LeafSpec, now: Timestamp, lifetime: SignedDuration) -> Result<Identity, PkiError> {
    let (pair, not_after) = authority.issue(spec, now, lifetime)?;
    Ok(Identity { certificate: pair.certificate, key: pair.key, not_after })
}

#[cfg(test)]
mod tests;
