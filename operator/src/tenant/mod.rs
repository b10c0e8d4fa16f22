//! The tenant's own API, as the operator uses it: what it needs inside to be a cluster, and how it is doing.
//!
//! [`Tenants`] holds one [`connection`] per tenant with an identity minted in memory, and a background task that
//! ([`observe`]) asks a starting apiserver until it answers, then watches nodes and CoreDNS; what changes wakes the
//! tenant's reconcile. [`objects`] (pure) are the objects that the operator keeps inside; [`apply`] keeps them.

pub mod apply;
pub mod connection;
pub mod objects;
pub mod observe;
mod registry;

pub use connection::ConnectError;
pub use observe::Observation;
pub use registry::{Tenant, Tenants};
