//! Addresses inside the tenant, and the way to its API.

use super::rules;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
