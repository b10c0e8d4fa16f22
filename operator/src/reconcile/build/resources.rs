//! Every object of a cluster but the Service in front of its API.

use crate::pki::PkiSecrets;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::RoleBinding;
use std::marker::PhantomData;

/// Marks objects as they should be.
#[derive(Clone, Copy, Debug)]
pub enum Prepared {}

/// Marks objects as the host's API returned them.
#[derive(Clone, Copy, Debug)]
pub enum Applied {}

/// Take it apart without `..`, so that a new object cannot be forgotten. An object that is `None` must not exist: if one of
/// that name does and is ours, it is to be deleted ([`Resources::absent`]).
#[derive(Clone, Debug)]
pub struct Resources<State> {
    pub workload_namespace: Namespace,
    pub workload_role_binding: RoleBinding,
    pub workload_network_policy: Option<NetworkPolicy>,
    pub workload_quota: Option<ResourceQuota>,
    pub service_account: ServiceAccount,
    /// Headless, for etcd.
    pub peer_service: Service,
    pub secrets: PkiSecrets,
    /// `<vc>-apiserver-config`: configuration files of kube-apiserver. A Secret, because encryption keys are among them.
    pub apiserver_config: Secret,
    /// `<vc>-controllers-config`
    pub controllers_config: ConfigMap,
    pub network_policies: Vec<NetworkPolicy>,
    pub disruption_budgets: Vec<PodDisruptionBudget>,
    /// `<vc>-control-plane`, or `<vc>-etcd` with topology `External`.
    pub etcd: StatefulSet,
    /// `<vc>-apiserver`, with topology `External`.
    pub apiserver: Option<Deployment>,
    /// `<vc>-controllers`
    pub controllers: Deployment,
    pub state: PhantomData<State>,
}
