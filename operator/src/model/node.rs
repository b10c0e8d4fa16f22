//! The facts of a host node that concern tenants.

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use nestling_crds::names::NodeName;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNode {
    pub name: NodeName,
    pub labels: BTreeMap<String, String>,
    pub ready: bool,
    pub zone: Option<String>,
    pub region: Option<String>,
    pub instance_type: Option<String>,
    pub provider_id: Option<String>,
    pub addresses: Vec<HostAddress>,
}

/// As core/v1 `NodeAddress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, `InternalDNS` or `ExternalDNS`.
    pub type_: String,
    pub address: String,
}

impl From<&Node> for HostNode {
    fn from(node: &Node) -> Self {
        let label = |key: &str| node.labels().get(key).cloned();
        let status = node.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let addresses = status.and_then(|status| status.addresses.as_ref());
        Self {
            name: NodeName::new(node.name_any()),
            ready: conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True")),
            zone: label("topology.kubernetes.io/zone"),
            region: label("topology.kubernetes.io/region"),
            instance_type: label("node.kubernetes.io/instance-type"),
            provider_id: node.spec.as_ref().and_then(|spec| spec.provider_id.clone()).filter(|id| !id.is_empty()),
            addresses: addresses
                .into_iter()
                .flatten()
                .map(|address| HostAddress { type_: address.type_.clone(), address: address.address.clone() })
                .collect(),
            labels: node.labels().clone(),
        }
    }
}

#[cfg(test)]
impl HostNode {
    /// A ready node with no labels or addresses.
    pub fn named(name: &str) -> Self {
        Self {
            name: NodeName::new(name),
            labels: BTreeMap::new(),
            ready: true,
            zone: None,
            region: None,
            instance_type: None,
            provider_id: None,
            addresses: Vec::new(),
        }
    }
}
