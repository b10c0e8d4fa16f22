//! The tenant's etcd: members, volumes, backups.

use super::{ExtraArg, Placement, Raw, rules};
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The tenant's etcd.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Etcd {
    /// Members, e.g. 3: an odd number up to 5, with topology `External` only; with the other topologies each control-plane replica has
    /// one. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9), extend("x-kubernetes-validations" = rules::etcd_replicas()))]
    pub replicas: Option<i32>,
    /// An existing etcd to use instead of one that Nestling runs. Not supported yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::etcd_external()))]
    pub external: Option<EtcdExternal>,
    /// Where members keep their data.
    pub storage: EtcdStorage,
    /// Further flags of etcd, in this order, e.g. `[{name: log-level, value: warn}]`. Flags that the operator manages are refused
    /// with the field that controls them. Default: none.
    #[schemars(length(max = 64), transform = rules::etcd_args)]
    pub extra_args: Vec<ExtraArg>,
    /// Requests and limits of the container, e.g. `{requests: {memory: 256Mi}}`. Default: requests of 20m CPU and 64Mi memory, to
    /// which `storage.size` is added with `storage.medium: Memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Take over the volumes and keys that an earlier `VirtualCluster` of this name left behind (`deletionPolicy: Retain`): its UID, e.g.
    /// `6c9f9a0e-5a43-4c1c-9a53-0f6f3a9f7e11`, which their label `nestling.dev/tenant` shows. Read when the cluster is created. Default: none are taken over.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub adopt: Option<String>,
    /// Where members are scheduled on the host, with topology `External` only.
    pub placement: Placement,
    /// Snapshots of etcd. Not supported yet.
    #[schemars(extend("x-kubernetes-validations" = rules::backup()))]
    pub backup: Backup,
}

/// An existing etcd.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EtcdExternal {
    /// URLs of its members, e.g. `[https://etcd-0.example:2379]`.
    #[schemars(length(min = 1, max = 9), inner(length(max = 512)))]
    pub endpoints: Vec<String>,
    /// Secret in the cluster's namespace with `ca.crt`, `tls.crt` and `tls.key`, for all members.
    pub secret_ref: LocalSecretRef,
    /// Key prefix of this tenant, e.g. `/team-a/dev`. Default: `/registry`.
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
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::storage()))]
pub struct EtcdStorage {
    /// Size of each member's volume, at least 256Mi, e.g. `16Gi`. Default: 8Gi; with `medium: Memory`, where it is the most that
    /// the data may use of the node's memory, 512Mi. A third of it is etcd's quota for its database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,
    /// Host `StorageClass`, e.g. `local-ssd`. Default: the default class of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
    /// `Memory`: no volume, for disposable clusters. All data is lost with the pod. Default: a volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub medium: Option<StorageMedium>,
}

impl EtcdStorage {
    /// The size asked for, or the default of the medium.
    pub fn size(&self) -> Quantity {
        let default = if self.medium.is_some() { "512Mi" } else { "8Gi" };
        self.size.clone().unwrap_or_else(|| Quantity(default.into()))
    }
}

/// What data is kept on, if not on a volume. `Memory`: for disposable clusters, all data is lost with the pod. Default: a volume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageMedium {
    /// The memory of the host node.
    Memory,
}

/// Snapshots of etcd.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Backup {
    /// Cron expression, e.g. `0 * * * *`. Default: none, no backups.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub schedule: String,
    /// Number of backups to keep, e.g. 14. Default: 7.
    #[schemars(range(min = 1))]
    pub retention: i32,
    /// Where backups go. Not supported yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Raw>,
}

impl Default for Backup {
    fn default() -> Self {
        Self { schedule: String::new(), retention: 7, destination: None }
    }
}
