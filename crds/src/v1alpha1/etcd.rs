//! The tenant's etcd: members, volumes, backups.

use super::{Placement, Raw, rules};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The tenant's etcd.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Etcd {
    /// Members, with topology `External` only; with the other topologies each control-plane replica has one. Default 1; more
    /// than 1 is not supported yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9), extend("x-kubernetes-validations" = rules::etcd_replicas()))]
    pub replicas: Option<i32>,
    /// An existing etcd to use instead of one that Nestling runs. Not supported yet.
    #[schemars(length(max = 9), extend("x-kubernetes-validations" = rules::etcd_endpoints()))]
    pub endpoints: Vec<EtcdEndpoint>,
    /// Where members keep their data.
    pub storage: EtcdStorage,
    /// Where members are scheduled on the host, with topology `External` only.
    pub placement: Placement,
    /// Snapshots of etcd. Not supported yet.
    #[schemars(extend("x-kubernetes-validations" = rules::backup()))]
    pub backup: Backup,
}

/// One endpoint of an existing etcd.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EtcdEndpoint {
    /// `https://host:2379`.
    #[schemars(length(max = 512))]
    pub url: String,
    /// Secret in the cluster's namespace with `ca.crt`, `tls.crt` and `tls.key`.
    pub secret_ref: LocalSecretRef,
    /// Key prefix of this tenant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub prefix: String,
}

/// A Secret in the namespace of the `VirtualCluster`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalSecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Where a member keeps its data.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::storage()))]
pub struct EtcdStorage {
    /// Size of each member's volume; with `medium: Memory` the most it may use.
    pub size: Quantity,
    /// Host `StorageClass`; none takes the host's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
    /// `Memory`: no volume, for disposable clusters. All data is lost with the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub medium: Option<StorageMedium>,
}

impl Default for EtcdStorage {
    fn default() -> Self {
        Self { size: Quantity("8Gi".into()), storage_class_name: None, medium: None }
    }
}

/// What data is kept on, if not on a volume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageMedium {
    /// The memory of the host node.
    Memory,
}

/// Snapshots of etcd.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Backup {
    /// Cron expression; empty for no backups.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
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
