//! Step three: every object of a cluster on the host, in one struct. Pure. One file per object.
//!
//! The Service of the API comes first and alone ([`service`]): its live address ([`Endpoint`]) goes into certificates and
//! kubeconfigs. With those ([`crate::pki::plan`]), [`resources`] makes the rest: workloads ([`members`], `apiserver`,
//! `controllers`) out of containers (`*_container`) in a common frame (`pod`), and what stands around them.

mod apiserver;
mod apiserver_config;
mod apiserver_container;
mod config_hash;
mod container;
mod controllers;
mod disruption_budget;
mod endpoint;
mod etcd_container;
mod flags;
mod hardening;
pub mod members;
pub mod metadata;
pub(crate) mod mounts;
pub mod names;
mod network_policy;
mod placement;
mod pod;
mod resources;
mod rollout;
mod scheduler_config;
mod service;
mod service_account;
mod workload;

pub use endpoint::Endpoint;
pub use resources::{Applied, Prepared, Resources};

use super::validate::ValidatedCluster;
use crate::pki::Pki;
use k8s_openapi::api::core::v1::Service;

/// Names of containers, as they appear in pod statuses and in `status.components`.
pub mod containers {
    pub use super::apiserver_container::NAME as API_SERVER;
    pub use super::controllers::{CLOUD_CONTROLLER_MANAGER, CONTROLLER_MANAGER, SCHEDULER};
    pub use super::etcd_container::NAME as ETCD;
}

/// The Service in front of the tenant's API, to be applied before everything else.
pub fn service(cluster: &ValidatedCluster) -> Service {
    service::api(cluster)
}

/// Everything else.
pub fn resources(cluster: &ValidatedCluster, pki: &Pki) -> Resources<Prepared> {
    resources::resources(cluster, pki)
}

#[cfg(test)]
mod tests;
