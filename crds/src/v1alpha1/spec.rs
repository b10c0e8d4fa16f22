//! What a user asks for.

use super::{ControlPlane, Etcd, Expose, Isolation, Network, Nodes, rules, status::VirtualClusterStatus};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
