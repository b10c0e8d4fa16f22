//! What the operator reports.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Observed state of a tenant cluster.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VirtualClusterStatus {
    /// Newest generation of the spec that has been carried out, or found impossible to carry out (condition `Stalled`); -1 at
    /// first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Summary in one word, for humans. Programs should use the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub phase: Option<Phase>,
    /// Kubernetes version that kube-apiserver runs, the oldest of its replicas, e.g. `v1.37.2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What `spec.version` resolved to. It stays when the operator is upgraded, and changes only with `spec.version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// URL of the tenant's API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Secret with the admin kubeconfig, in the cluster's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig_ref: Option<KubeconfigRef>,
    /// Host namespace of the tenant's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_namespace: Option<String>,
    /// Service ranges in force.
    #[serde(default, rename = "serviceCIDRs")]
    pub service_cidrs: Vec<String>,
    /// Conditions, each with a reason and a message. `Ready` summarizes the others.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// When the cluster last woke from hibernation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed_at: Option<Time>,
    /// When the tenant's certificates and authorities end.
    #[serde(default)]
    pub certificates: Vec<CertificateStatus>,
    /// The control plane, part by part.
    #[serde(default)]
    pub components: Vec<ComponentStatus>,
    /// The members of etcd.
    #[serde(default)]
    pub etcd: EtcdStatus,
    /// The tenant's nodes.
    #[serde(default)]
    pub nodes: NodesStatus,
    /// Control-plane replicas that exist; for the scale subresource.
    #[serde(default)]
    pub replicas: i32,
    /// Label selector of the control-plane pods; for the scale subresource.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
}

impl VirtualClusterStatus {
    /// Whether the control plane is scaled to zero, or on its way there.
    pub fn is_hibernated(&self) -> bool {
        self.conditions.iter().any(|condition| condition.type_ == conditions::HIBERNATED)
    }
}

/// Versions that belong together.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// Kubernetes version, e.g. `v1.37.2`.
    pub kubernetes: String,
    /// Tag of etcd's image, e.g. `3.7.0-0`.
    pub etcd: String,
    /// Tag of the image of `CoreDNS`, e.g. `v1.14.6`.
    #[serde(rename = "coreDNS")]
    pub core_dns: String,
    /// Image of the cloud-controller-manager.
    pub cloud_controller_manager: String,
}

/// Summary of the state in one word. An open set: further words may come, and nothing may depend on one.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing has been done yet.
    Pending,
    /// Being created; has not been `Ready` yet.
    Provisioning,
    /// Ready to use.
    Ready,
    /// Was ready once and is not now.
    Degraded,
    /// Not reconciled (`spec.paused`).
    Paused,
    /// Its control plane is scaled to zero (`spec.hibernate`).
    Hibernated,
    /// Being deleted.
    Deleting,
    /// The spec cannot be carried out; condition `Valid` says why.
    Invalid,
    /// A word of another version of Nestling.
    #[serde(other)]
    Unknown,
}

/// A key of a Secret in the namespace of the `VirtualCluster`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KubeconfigRef {
    /// Name of the Secret.
    pub name: String,
    /// Key inside the Secret.
    pub key: String,
}

/// The end of a certificate.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// Secret in the cluster's namespace and key inside it, e.g. `dev-apiserver-certs/tls.crt`.
    pub name: String,
    /// When it ends. Certificates are renewed after two thirds of their life, authorities are not renewed.
    pub not_after: Time,
}

/// A part of the control plane.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct ComponentStatus {
    /// `kube-apiserver`, `etcd`, …
    pub name: String,
    /// Version that its pods run, by the tags of their images; several while they are replaced. Empty while none runs.
    pub version: String,
    /// Desired replicas.
    pub replicas: i32,
    /// Replicas that are ready.
    pub ready_replicas: i32,
    /// Replicas that run the newest configuration.
    pub updated_replicas: i32,
}

/// The tenant's etcd.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdStatus {
    /// Each member.
    pub members: Vec<EtcdMember>,
}

/// A member of etcd.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdMember {
    /// Name of the member, which is that of its pod.
    pub name: String,
    /// Whether its pod is ready.
    pub ready: bool,
}

/// Numbers of the tenant's nodes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct NodesStatus {
    /// Nodes whose condition `Ready` is true.
    pub ready: i32,
    /// All nodes.
    pub total: i32,
    /// The oldest version that a node's kubelet reports, e.g. `v1.36.3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_kubelet: Option<String>,
}

/// Condition types, in the order in which people read them.
pub mod conditions {
    pub const VALID: &str = "Valid";
    pub const ETCD_READY: &str = "EtcdReady";
    pub const API_SERVER_READY: &str = "APIServerReady";
    pub const CONTROLLERS_READY: &str = "ControllersReady";
    pub const NODES_READY: &str = "NodesReady";
    pub const ADDONS_READY: &str = "AddonsReady";
    pub const EXPOSED: &str = "Exposed";
    pub const READY: &str = "Ready";
    pub const PROGRESSING: &str = "Progressing";
    pub const DEGRADED: &str = "Degraded";

    /// The control plane is scaled to zero; false on the way there. Absent while it is to run.
    pub const HIBERNATED: &str = "Hibernated";

    /// Reason of [`PROGRESSING`] while the version changes.
    pub const CHANGING_VERSION: &str = "ChangingVersion";
    /// As kstatus reads it: the operator is at work. Absent if it is not.
    pub const RECONCILING: &str = "Reconciling";
    /// As kstatus reads it: the operator cannot go on until somebody intervenes. Absent if it can.
    pub const STALLED: &str = "Stalled";
}
