//! Certificates and keys of tenants and of the installation. No IO: existing Secrets and the time go in, the Secrets to
//! apply come out, and what is still valid comes out byte for byte as it went in. (Only new keys make two runs differ.)
//!
//! [`plan()`] keeps, renews or mints everything that one tenant needs: [`tenant`] lists the certificates and where they are
//! stored, [`leaf`] decides whether one is still valid, [`authority`] mints. [`installation`] holds the authorities that no
//! tenant may ever command (a tenant's administrator can make its own kube-controller-manager sign anything). [`sign`]
//! certifies keys that agents keep on their nodes.
//!
//! Order: `leaf` ← `authority` ← `tenant` ← `installation` ← `plan`, `sign` ← `expiry`.
//!
//! Everything is ECDSA P-256. Leaves are renewed after two thirds of their life, or when their content or their authority
//! is no longer the desired one. Authorities are kept as long as they exist: replacing one is a rotation in several steps,
//! not a renewal.

mod authority;
mod expiry;
pub mod installation;
mod leaf;
mod plan;
pub(crate) mod sign;
mod tenant;

pub use authority::PkiPolicy;
pub(crate) use authority::{Identity, PkiError};
pub(crate) use expiry::expiries;
pub use plan::{Pki, PkiSecrets, plan};
pub(crate) use plan::{Renewed, renew};
pub(crate) use sign::etcd_client;
pub use sign::super_admin;
pub(crate) use tenant::secret_names;

#[cfg(test)]
mod tests;
