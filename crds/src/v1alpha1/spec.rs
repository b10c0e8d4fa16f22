//! What a user asks for.

use super::status::VirtualClusterStatus;
use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A tenant Kubernetes cluster that runs inside this cluster.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "nestling.dev",
    version = "v1alpha1",
    kind = "VirtualCluster",
    plural = "virtualclusters",
    shortname = "vc",
    category = "nestling",
    namespaced,
    status = "VirtualClusterStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualClusterSpec {
    /// Kubernetes version of the tenant, `v1.37.2` or `v1.37` (the newest known patch). Default: the newest known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Where etcd runs.
    #[serde(default)]
    pub topology: Topology,
    /// The tenant's control plane.
    #[serde(default)]
    pub control_plane: ControlPlane,
    /// The tenant's etcd.
    #[serde(default)]
    pub etcd: Etcd,
    /// Addresses and names inside the tenant.
    #[serde(default)]
    pub network: Network,
    /// How the tenant's API is reached from outside its control plane.
    #[serde(default)]
    pub expose: Expose,
    /// Which host nodes serve the tenant, and how much of them.
    #[serde(default)]
    pub nodes: Nodes,
    /// The wall between the tenant's pods and the host.
    #[serde(default)]
    pub isolation: Isolation,
    /// Stop reconciling; what runs keeps running.
    #[serde(default)]
    pub paused: bool,
    /// Scale the control plane to nothing and keep its data.
    #[serde(default)]
    pub hibernate: bool,
    /// What happens to etcd's volumes and keys when the `VirtualCluster` is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Where etcd runs.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// Control plane and the one worker on a single host node.
    SingleNode,
    /// An etcd member beside each kube-apiserver.
    #[default]
    Stacked,
    /// etcd in a StatefulSet of its own, or endpoints that the user brings.
    External,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ControlPlane {
    /// Replicas of each control-plane part. Odd with topology `Stacked`, 1 with `SingleNode`.
    #[schemars(range(min = 0))]
    pub replicas: i32,
    pub api_server: ApiServer,
    pub controller_manager: ControllerManager,
    pub scheduler: Scheduler,
    pub cloud_controller_manager: CloudControllerManager,
    pub placement: Placement,
}

impl Default for ControlPlane {
    fn default() -> Self {
        Self {
            replicas: 1,
            api_server: ApiServer::default(),
            controller_manager: ControllerManager::default(),
            scheduler: Scheduler::default(),
            cloud_controller_manager: CloudControllerManager::default(),
            placement: Placement::default(),
        }
    }
}

/// Any JSON object; its type is that of the upstream configuration file it becomes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(transparent)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct Raw(pub serde_json::Map<String, serde_json::Value>);

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ApiServer {
    /// Further kube-apiserver flags, without the leading dashes. Flags that the operator manages are refused.
    pub extra_args: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Further DNS names and IP addresses in the serving certificate.
    #[serde(rename = "certSANs")]
    pub cert_sans: Vec<String>,
    /// `AuthenticationConfiguration` (apiserver.config.k8s.io), e.g. OIDC issuers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Raw>,
    /// `AuthorizationConfiguration` (apiserver.config.k8s.io).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Raw>,
    /// Audit `Policy` (audit.k8s.io).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Raw>,
    /// `EncryptionConfiguration` (apiserver.config.k8s.io).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Raw>,
    /// `AdmissionConfiguration` (apiserver.config.k8s.io).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admission: Option<Raw>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllerManager {
    /// Controllers to run, as kube-controller-manager's `--controllers`: `*`, `name`, `-name`.
    pub controllers: Vec<String>,
    pub extra_args: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

impl Default for ControllerManager {
    fn default() -> Self {
        Self { controllers: vec!["*".into()], extra_args: BTreeMap::new(), resources: None }
    }
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Scheduler {
    /// `profiles` of KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1).
    pub profiles: Vec<Raw>,
    pub extra_args: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct CloudControllerManager {
    /// Controllers to run, as upstream's `--controllers`. Known: `node`.
    pub controllers: Vec<String>,
}

impl Default for CloudControllerManager {
    fn default() -> Self {
        Self { controllers: vec!["*".into()] }
    }
}

/// Where pods go on the host. Spread over hosts is always on.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Toleration>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub priority_class_name: String,
    pub zone_spread: ZoneSpread,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZoneSpread {
    Required,
    #[default]
    Preferred,
    Off,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Etcd {
    /// Members, with topology `External` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub replicas: Option<i32>,
    /// An etcd that the user brings.
    pub endpoints: Vec<EtcdEndpoint>,
    pub storage: EtcdStorage,
    pub placement: Placement,
    pub backup: Backup,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            replicas: None,
            endpoints: Vec::new(),
            storage: EtcdStorage::default(),
            placement: Placement::default(),
            backup: Backup::default(),
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EtcdEndpoint {
    /// `https://host:2379`.
    pub url: String,
    /// Secret in the cluster's namespace with `ca.crt`, `tls.crt` and `tls.key`.
    pub secret_ref: LocalSecretRef,
    /// Key prefix of this tenant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalSecretRef {
    pub name: String,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdStorage {
    pub size: Quantity,
    /// Host StorageClass; none takes the host's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// `Memory`: no volume, for clusters to throw away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub medium: Option<StorageMedium>,
}

impl Default for EtcdStorage {
    fn default() -> Self {
        Self { size: Quantity("8Gi".into()), storage_class_name: None, medium: None }
    }
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageMedium {
    Memory,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Backup {
    /// Cron expression; empty for no backups.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub schedule: String,
    /// Backups to keep.
    #[schemars(range(min = 1))]
    pub retention: i32,
    /// Where backups go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Raw>,
}

impl Default for Backup {
    fn default() -> Self {
        Self { schedule: String::new(), retention: 7, destination: None }
    }
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Network {
    /// Service range of the tenant; none: allocated from the operator's pool. Immutable.
    #[serde(rename = "serviceCIDR", skip_serializing_if = "Option::is_none")]
    pub service_cidr: Option<String>,
    /// DNS domain of the tenant. Immutable.
    pub cluster_domain: String,
    /// Who reaches NodePorts.
    pub node_ports: NodePorts,
}

impl Default for Network {
    fn default() -> Self {
        Self { service_cidr: None, cluster_domain: "cluster.local".into(), node_ports: NodePorts::Internal }
    }
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodePorts {
    /// The tenant's own pods and nodes.
    #[default]
    Internal,
    /// Anybody, in a port range of the tenant's own.
    External,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Expose {
    #[serde(rename = "type")]
    pub type_: ExposeType,
    /// DNS name that clients use; becomes part of the serving certificate and of the kubeconfig.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Annotations of the host Service.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExposeType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
    Gateway,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Nodes {
    /// Labels of the host nodes that serve the tenant; empty: all.
    pub selector: BTreeMap<String, String>,
    /// What the tenant sees of each node at most.
    pub capacity: BTreeMap<String, Quantity>,
    /// Pod manifests that every node of the tenant runs.
    pub static_pods: Vec<Raw>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Isolation {
    /// Pod Security Standard that the host enforces on the tenant's pods.
    pub pod_security: PodSecurity,
    /// Keep other tenants' and the host's pods away from the tenant's.
    pub network_policy: bool,
    /// ResourceQuota `hard` of the workload namespace.
    pub quota: BTreeMap<String, Quantity>,
}

impl Default for Isolation {
    fn default() -> Self {
        Self { pod_security: PodSecurity::Baseline, network_policy: true, quota: BTreeMap::new() }
    }
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PodSecurity {
    Privileged,
    #[default]
    Baseline,
    Restricted,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    #[default]
    Delete,
    Retain,
}
