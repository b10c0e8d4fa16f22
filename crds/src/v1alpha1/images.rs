//! Images of the control plane, and what is installed inside the tenant.

use super::{LocalSecretRef, rules};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where images come from.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Images {
    /// Registry and path of the upstream images, e.g. `registry.example.com/kubernetes`; the images keep their names and tags
    /// below it. Default: the operator's setting, `registry.k8s.io`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules::registry()))]
    pub registry: String,
    /// Secrets in the cluster's namespace with which control-plane pods pull their images, e.g. `[{name: registry}]`. `CoreDNS` runs
    /// as a pod of the tenant, which pulls with the tenant's own Secrets. Default: none.
    #[schemars(length(max = 16))]
    pub pull_secrets: Vec<LocalSecretRef>,
    /// Whole image references by component, e.g. `{kube-apiserver: "registry.example.com/kube-apiserver:v1.37.2-fips"}`. They must be
    /// of the version that the cluster runs. Components: kube-apiserver, kube-controller-manager, kube-scheduler, etcd,
    /// cloud-controller-manager, coredns. Default: none.
    #[schemars(extend(
        "maxProperties" = 6,
        "additionalProperties" = rules::bounded(512),
        "x-kubernetes-validations" = rules::image_overrides()
    ))]
    pub overrides: BTreeMap<String, String>,
}

/// What the operator installs inside the tenant.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct Addons {
    /// The tenant's DNS.
    #[serde(rename = "coreDNS")]
    pub core_dns: CoreDns,
}

/// The tenant's DNS.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct CoreDns {
    /// Who looks after `CoreDNS`. Default: `Managed`.
    pub mode: AddonMode,
    /// Pods of `CoreDNS` between 1 and 100, e.g. 2. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub replicas: Option<i32>,
    /// Where names outside the cluster are resolved.
    pub forwarding: Forwarding,
}

/// Who looks after an add-on.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AddonMode {
    /// The operator installs it and repairs it. The Corefile is the tenant's: once somebody has edited it, it is left alone.
    #[default]
    Managed,
    /// The operator neither installs nor changes it. Pods still ask the tenth address of the service range: give your DNS
    /// Service that address.
    Unmanaged,
}

/// Where names outside the cluster are resolved.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(default)]
pub struct Forwarding {
    /// Addresses of name servers, with a port if it is not 53, e.g. `[10.0.0.53, "10.0.1.53:5353"]`. Default: those of the node.
    #[schemars(length(max = 15), inner(length(max = 64)), extend("x-kubernetes-validations" = rules::name_servers()))]
    pub upstreams: Vec<String>,
}
