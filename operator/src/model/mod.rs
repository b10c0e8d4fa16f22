//! What every step of the operator is about: a validated cluster, its names and metadata, the addresses of its API, and the
//! nodes of the host. Data only; imports nothing of the operator.
//!
//! Order: `cluster`, `node` ← `names` ← `metadata`, `endpoint`.

mod cluster;
mod endpoint;
pub(crate) mod metadata;
pub(crate) mod names;
mod node;

pub use cluster::*;
pub use endpoint::Endpoint;
pub(crate) use endpoint::{API_PORT, host_url};
pub use names::ETCD;
pub(crate) use names::{CERTIFICATES, ETCD_CLIENT_PORT, ETCD_METRICS_PORT, ETCD_PEER_PORT, FRONT_PROXY_CLIENT, keys};
#[cfg(test)]
pub(crate) use node::HostAddress;
pub(crate) use node::HostNode;
