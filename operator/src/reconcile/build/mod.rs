//! Step three: every object of a cluster on the host, in one struct. Pure. One file per object.
//!
//! The Service comes first and alone: its address goes into certificates and kubeconfigs.

mod endpoint;
mod resources;

pub use endpoint::Endpoint;
pub use resources::{Applied, Prepared, Resources};

use super::validate::ValidatedCluster;
use crate::pki::Pki;
use k8s_openapi::api::core::v1::Service;

/// The Service in front of the tenant's API.
pub fn service(_cluster: &ValidatedCluster) -> Service {
    todo!()
}

/// Everything else.
pub fn resources(_cluster: &ValidatedCluster, _endpoint: &Endpoint, _pki: &Pki) -> Resources<Prepared> {
    todo!()
}
