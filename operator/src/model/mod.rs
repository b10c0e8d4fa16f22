//! What every step of the operator is about: a validated cluster, its names and metadata, the addresses of its API, and the
//! nodes of the host. Data only; imports nothing of the operator.
//!
//! Order: `cluster`, `node` ← `names` ← `metadata`, `endpoint`.

mod cluster;
mod endpoint;
pub mod metadata;
pub mod names;
mod node;

pub use cluster::*;
pub use endpoint::{API_PORT, Endpoint};
pub use names::{CERTIFICATES, FRONT_PROXY_CLIENT, keys};
pub use node::{HostAddress, HostNode};
