//! Which host nodes serve the tenant, and how its pods are isolated.

use super::{Raw, rules};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
