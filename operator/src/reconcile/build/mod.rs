//! Step three: every object of a cluster on the host, in one struct. Pure.
//!
//! The Service of the API comes first and alone ([`service`]), since its live address ([`crate::model::Endpoint`]) goes into certificates
//! and kubeconfigs. With those ([`crate::pki::plan`]), [`resources`] builds the rest: workloads (`members`, `apiserver`,
//! `controllers`) out of containers (`etcd`, `apiserver`) in a common frame (`container`, `pod`, `mounts`), and what
//! surrounds them.

mod apiserver;
mod container;
mod controllers;
mod etcd;
mod members;
pub(crate) mod mounts;
mod network_policy;
mod pod;
mod services;
pub(crate) mod workload;

use crate::model::ValidatedCluster;
use crate::pki::{Pki, PkiSecrets};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, ResourceQuota, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::RoleBinding;
use nestling_crds::v1alpha1::Topology;
use std::marker::PhantomData;

/// Names of containers, as they appear in pod statuses and in `status.components`.
pub mod containers {
    pub use super::apiserver::NAME as API_SERVER;
    pub use super::controllers::{CLOUD_CONTROLLER_MANAGER, CONTROLLER_MANAGER, SCHEDULER};
    pub use crate::model::ETCD;
}

/// The Service in front of the tenant's API, to be applied before everything else.
pub(crate) fn service(cluster: &ValidatedCluster) -> Service {
    services::api(cluster)
}

/// Marks objects as they should be.
#[derive(Clone, Copy, Debug)]
pub enum Prepared {}

/// Marks objects as the host's API returned them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Applied {}

/// Take it apart without `..`, so that a new object cannot be forgotten. Where there is an `Option` or a `Vec`, what the cluster
/// has of that kind besides is to be deleted.
#[derive(Clone, Debug)]
pub struct Resources<State> {
    pub workload_namespace: Namespace,
    pub workload_operator_binding: RoleBinding,
    pub workload_role_binding: RoleBinding,
    /// [`crate::model::names::WORKLOAD`] in the workload namespace.
    pub workload_network_policy: Option<NetworkPolicy>,
    /// [`crate::model::names::WORKLOAD`] in the workload namespace.
    pub workload_quota: Option<ResourceQuota>,
    /// `<vc>-cloud-controller`
    pub service_account: ServiceAccount,
    /// Named after the members.
    pub etcd_services: Vec<Service>,
    pub secrets: PkiSecrets,
    /// `<vc>-apiserver-config`: configuration files of kube-apiserver.
    pub apiserver_config: Secret,
    /// `<vc>-controllers-config`
    pub controllers_config: ConfigMap,
    pub network_policies: Vec<NetworkPolicy>,
    pub disruption_budgets: Vec<PodDisruptionBudget>,
    /// `data-<member>`
    pub claims: Vec<PersistentVolumeClaim>,
    /// `<vc>-control-plane`, or `<vc>-etcd` with topology `External`.
    pub members: StatefulSet,
    /// `<vc>-apiserver`, with topology `External`.
    pub apiserver: Option<Deployment>,
    /// `<vc>-controllers`
    pub controllers: Deployment,
    pub state: PhantomData<State>,
}

/// Every object of a cluster but the Service in front of its API.
pub fn resources(cluster: &ValidatedCluster, pki: &Pki) -> Resources<Prepared> {
    let apiserver_config = apiserver::config(cluster);
    let controllers_config = controllers::config(cluster);
    let apiserver = match cluster.topology {
        Topology::External => Some(apiserver::deployment(cluster, &pki.secrets, &apiserver_config)),
        Topology::Stacked | Topology::SingleNode => None,
    };
    Resources {
        workload_namespace: workload::namespace(cluster),
        workload_operator_binding: workload::operator_binding(cluster),
        workload_role_binding: workload::role_binding(cluster),
        workload_network_policy: workload::network_policy(cluster),
        workload_quota: workload::quota(cluster),
        service_account: controllers::service_account(cluster),
        etcd_services: services::etcd(cluster),
        secrets: pki.secrets.clone(),
        network_policies: network_policy::network_policies(cluster),
        disruption_budgets: pod::disruption_budgets(cluster),
        claims: members::claims(cluster),
        members: members::members(cluster, &pki.secrets, &apiserver_config),
        apiserver,
        controllers: controllers::controllers(cluster, &pki.secrets, &controllers_config),
        apiserver_config,
        controllers_config,
        state: PhantomData,
    }
}

#[cfg(test)]
mod tests;
