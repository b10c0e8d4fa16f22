//! Step two: from what a user asked for and what the world is like to a [`ValidatedCluster`], past which nothing can be
//! invalid. Pure. What CEL in the CRD can refuse is refused there already; this is the rest, and a second wall.

mod cluster;

pub use cluster::*;

use super::dereference::Dereferenced;
use crate::config::OperatorConfig;
use nestling_crds::v1alpha1::VirtualCluster;
use thiserror::Error;

/// One thing wrong with a spec.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {message}")]
pub struct Invalid {
    /// Path of the field, `spec.network.serviceCIDR`.
    pub field: String,
    /// For the person who wrote the spec: what is wrong and what is allowed.
    pub message: String,
}

pub fn validate(_vc: &VirtualCluster, _reads: &Dereferenced, _config: &OperatorConfig) -> Result<ValidatedCluster, Vec<Invalid>> {
    todo!()
}
