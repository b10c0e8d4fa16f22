//! What the operator reports.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VirtualClusterStatus {
    /// Generation of the spec that this status was computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// For people only; nothing decides on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Version that the control plane runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// URL of the tenant's API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Secret with the admin kubeconfig, in the cluster's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig_ref: Option<KubeconfigRef>,
    /// Host namespace of the tenant's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_namespace: Option<String>,
    /// Service range in force.
    #[serde(rename = "serviceCIDR", skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub service_cidr: Option<String>,
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The control plane, part by part.
    #[serde(default)]
    pub components: Vec<ComponentStatus>,
    #[serde(default)]
    pub etcd: EtcdStatus,
    #[serde(default)]
    pub nodes: NodesStatus,
    /// Control-plane replicas that exist; for the scale subresource.
    #[serde(default)]
    pub replicas: i32,
    /// Label selector of the control-plane pods; for the scale subresource.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Pending,
    Provisioning,
    Ready,
    Degraded,
    Paused,
    Deleting,
    Invalid,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KubeconfigRef {
    pub name: String,
    /// Key inside the Secret.
    pub key: String,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct ComponentStatus {
    /// `kube-apiserver`, `etcd`, …
    pub name: String,
    pub version: String,
    pub replicas: i32,
    pub ready_replicas: i32,
    pub updated_replicas: i32,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdStatus {
    pub members: Vec<EtcdMember>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdMember {
    pub name: String,
    pub ready: bool,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct NodesStatus {
    pub ready: i32,
    pub total: i32,
}

/// Condition types, in the order in which people read them.
pub mod conditions {
    pub const VALID: &str = "Valid";
    pub const ETCD_READY: &str = "EtcdReady";
    pub const API_SERVER_READY: &str = "APIServerReady";
    pub const CONTROLLERS_READY: &str = "ControllersReady";
    pub const NODES_READY: &str = "NodesReady";
    pub const ADDONS_READY: &str = "AddonsReady";
    pub const READY: &str = "Ready";
    pub const PROGRESSING: &str = "Progressing";
    pub const DEGRADED: &str = "Degraded";
}
