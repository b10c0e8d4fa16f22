//! Where a tenant's own parts run on the host.

use k8s_openapi::api::core::v1::Toleration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where pods are scheduled on the host. Replicas are always spread over host nodes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    /// Labels that a host node must have.
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of host nodes that the pods tolerate.
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// `PriorityClass` of the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub priority_class_name: String,
    /// Whether replicas go to different zones (label `topology.kubernetes.io/zone` of the host nodes).
    pub zone_spread: ZoneSpread,
}

/// Spread over zones.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZoneSpread {
    /// A replica that finds no zone of its own stays pending.
    Required,
    /// A zone for each replica where there are enough.
    #[default]
    Preferred,
    /// Zones are ignored.
    Off,
}
