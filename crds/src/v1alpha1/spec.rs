//! The desired state of a tenant cluster.

use super::{ControlPlane, Etcd, Raw, rules, status::VirtualClusterStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Desired state of a tenant cluster. Every field has a default: `spec: {}` gives a working cluster.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "nestling.dev",
    version = "v1alpha1",
    kind = "VirtualCluster",
    plural = "virtualclusters",
    shortname = "vc",
    category = "nestling",
    namespaced,
    doc = "A tenant Kubernetes cluster that runs inside this cluster.",
    status = "VirtualClusterStatus",
    derive = "PartialEq",
    cel,
    validation = rules::name_length(),
    validation = rules::name_form(),
    scale(
        spec_replicas_path = ".spec.controlPlane.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", description = "Running Kubernetes version"),
    printcolumn(name = "Topology", type_ = "string", json_path = ".spec.topology", description = "Where etcd runs"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the cluster is ready"
    ),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes.ready", description = "Nodes that are ready"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint", description = "URL of the tenant's API"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        description = "Why the cluster is not ready",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::spec()))]
pub struct VirtualClusterSpec {
    /// Kubernetes version of the tenant, `v1.37.2` or `v1.37` (the newest known patch). Default: the newest known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = rules::version()))]
    pub version: Option<String>,
    /// Where etcd runs. Cannot be changed.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = rules::topology()))]
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
    /// Isolation of the tenant's pods from other tenants and the host.
    #[serde(default)]
    pub isolation: Isolation,
    /// Stop reconciling; running components keep running.
    #[serde(default)]
    pub paused: bool,
    /// Scale the control plane to zero and keep its data. Not supported yet.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = rules::hibernate()))]
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
    /// etcd in a `StatefulSet` of its own.
    External,
}

/// What happens to etcd's volumes and keys when the `VirtualCluster` is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// They are deleted too.
    #[default]
    Delete,
    /// They are kept.
    Retain,
}

/// Addresses and names inside the tenant.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::network()))]
pub struct Network {
    /// Service range of the tenant, an IPv4 CIDR between /12 and /28; none: allocated from the operator's pool. Immutable. Tenants
    /// may share a range with each other, not with the host's nodes, pods and Services.
    #[serde(rename = "serviceCIDR", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 43), extend("x-kubernetes-validations" = rules::service_cidr()))]
    pub service_cidr: Option<String>,
    /// DNS domain of the tenant. Immutable.
    #[schemars(length(min = 1, max = 128), extend("x-kubernetes-validations" = rules::cluster_domain()))]
    pub cluster_domain: String,
    /// From where `NodePorts` can be reached.
    #[schemars(extend("x-kubernetes-validations" = rules::node_ports()))]
    pub node_ports: NodePorts,
}

impl Default for Network {
    fn default() -> Self {
        Self { service_cidr: None, cluster_domain: "cluster.local".into(), node_ports: NodePorts::Internal }
    }
}

/// From where `NodePorts` can be reached.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodePorts {
    /// The tenant's own pods and nodes.
    #[default]
    Internal,
    /// Anywhere, in a port range of the tenant's own. Not supported yet.
    External,
}

/// How the tenant's API is reached.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Expose {
    /// Type of the host Service in front of the tenant's API.
    #[serde(rename = "type")]
    #[schemars(extend("x-kubernetes-validations" = rules::expose_type()))]
    pub type_: ExposeType,
    /// DNS name that clients use; becomes part of the serving certificate and of the kubeconfig.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules::hostname()))]
    pub hostname: String,
    /// Annotations of the host Service, e.g. for the host's load balancer.
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}

/// Type of the host Service in front of the tenant's API.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExposeType {
    /// From inside the host cluster only.
    #[default]
    ClusterIP,
    /// On a port of every host node.
    NodePort,
    /// Through the host's load balancer.
    LoadBalancer,
    /// Through a Gateway of the host. Not supported yet.
    Gateway,
}

/// Which host nodes serve the tenant, and how much of them.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Nodes {
    /// Labels of the host nodes that serve the tenant; empty: all.
    #[schemars(extend("maxProperties" = 32))]
    pub selector: BTreeMap<String, String>,
    /// What the tenant sees of each node at most, e.g. `cpu: "4"`.
    #[schemars(extend("maxProperties" = 32))]
    pub capacity: BTreeMap<String, Quantity>,
    /// Pod manifests that every node of the tenant runs. Not supported yet.
    #[schemars(length(max = 32), extend("x-kubernetes-validations" = rules::static_pods()))]
    pub static_pods: Vec<Raw>,
}

/// Isolation of the tenant's pods from other tenants and the host.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Isolation {
    /// Pod Security Standard that the host enforces on the tenant's pods.
    pub pod_security: PodSecurity,
    /// Keep other tenants' and the host's pods away from the tenant's.
    pub network_policy: bool,
    /// `hard` of the `ResourceQuota` of the workload namespace.
    #[schemars(extend("maxProperties" = 64))]
    pub quota: BTreeMap<String, Quantity>,
}

impl Default for Isolation {
    fn default() -> Self {
        Self { pod_security: PodSecurity::Baseline, network_policy: true, quota: BTreeMap::new() }
    }
}

/// A Pod Security Standard.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PodSecurity {
    /// Unrestricted: a tenant can take over the host nodes it runs on.
    Privileged,
    /// No known privilege escalation.
    #[default]
    Baseline,
    /// Hardened pods only.
    Restricted,
}
