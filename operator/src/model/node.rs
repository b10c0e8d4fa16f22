//! The facts of a host node that concern tenants.

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use kube::ResourceExt as _;
use nestling_crds::names::NodeName;
use std::collections::BTreeMap;

/// Taint of a cordoned node.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

#[derive(Clone, Debug, PartialEq)]
pub struct HostNode {
    pub name: NodeName,
    pub labels: BTreeMap<String, String>,
    pub ready: bool,
    /// With the one of a cordoned node, also before the host has set it.
    pub taints: Vec<Taint>,
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
        let spec = node.spec.as_ref();
        let mut taints = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
        if spec.is_some_and(|spec| spec.unschedulable == Some(true)) && taints.iter().all(|taint| taint.key != UNSCHEDULABLE) {
            taints.push(Taint { key: UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Taint::default() });
        }
        Self {
            taints,
            name: NodeName::new(node.name_any()),
            ready: conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True")),
            zone: label("topology.kubernetes.io/zone"),
            region: label("topology.kubernetes.io/region"),
            instance_type: label("node.kubernetes.io/instance-type"),
            provider_id: spec.and_then(|spec| spec.provider_id.clone()).filter(|id| !id.is_empty()),
            addresses: addresses
                .into_iter()
                .flatten()
                .map(|address| HostAddress { type_: address.type_.clone(), address: address.address.clone() })
                .collect(),
            labels: node.labels().clone(),
        }
    }
}

impl HostNode {
    /// Whether the host's scheduler may place a pod with these tolerations here.
    pub(crate) fn admits(&self, tolerations: &[Toleration]) -> bool {
        let keeps_off = |taint: &&Taint| taint.effect != "PreferNoSchedule";
        self.taints.iter().filter(keeps_off).all(|taint| tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    }
}

/// As core/v1 `Toleration` says.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |field: &Option<String>| field.clone().filter(|value| !value.is_empty());
    let (key, effect) = (set(&toleration.key), set(&toleration.effect));
    let value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => key.is_some() && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
    };
    value && key.is_none_or(|key| key == taint.key) && effect.is_none_or(|effect| effect == taint.effect)
}

#[cfg(test)]
impl HostNode {
    /// A ready node with no labels or addresses.
    pub fn named(name: &str) -> Self {
        Self {
            name: NodeName::new(name),
            labels: BTreeMap::new(),
            ready: true,
            taints: Vec::new(),
            zone: None,
            region: None,
            instance_type: None,
            provider_id: None,
            addresses: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    #[rstest]
    #[case::free(json!({}), json!([]), true)]
    #[case::cordoned(json!({"unschedulable": true}), json!([]), false)]
    #[case::cordoned_and_tolerated(json!({"unschedulable": true}), json!([{"key": UNSCHEDULABLE, "operator": "Exists"}]), true)]
    #[case::preferred(json!({"taints": [{"key": "a", "effect": "PreferNoSchedule"}]}), json!([]), true)]
    #[case::tainted(json!({"taints": [{"key": "a", "effect": "NoExecute"}]}), json!([]), false)]
    #[case::another_effect(json!({"taints": [{"key": "a", "effect": "NoExecute"}]}), json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]), false)]
    #[case::equal(json!({"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]}), json!([{"key": "a", "value": "b"}]), true)]
    #[case::another_value(json!({"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]}), json!([{"key": "a", "value": "c"}]), false)]
    #[case::everything(json!({"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]}), json!([{"operator": "Exists"}]), true)]
    fn a_node_admits_what_tolerates_its_taints(#[case] spec: Value, #[case] tolerations: Value, #[case] admits: bool) {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "node-1"}, "spec": spec})).unwrap();
        let tolerations: Vec<Toleration> = serde_json::from_value(tolerations).unwrap();
        assert_eq!(HostNode::from(&node).admits(&tolerations), admits);
    }
}
