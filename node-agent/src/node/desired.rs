//! What the tenant's Node should be, from the host's Node and the tenant's spec. Pure.

use super::{capacity, conditions};
use crate::tenant::{KUBELET_PORT, TenantSpec};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{DaemonEndpoint, Node, NodeDaemonEndpoints, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use nestling_crds::names::NodeName;
use std::collections::BTreeMap;

/// Keeps pods away until the cloud controller manager has told zone, provider ID and addresses
/// (`cloudproviderapi.TaintExternalCloudProvider`).
pub(super) const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";

/// Without this feature declared, the tenant's apiserver does all WebSocket work itself and speaks to the kubelet API as it
/// always has.
const NOT_DECLARED: &str = "ExtendWebSocketsToKubelet";

/// The Node to register. Taints can be set now only: a node may not change its taints later (NodeRestriction).
pub(super) fn registration(host: &Node, spec: &TenantSpec, name: &NodeName, now: Timestamp) -> Node {
    let taint = Taint { key: UNINITIALIZED.into(), value: Some("true".into()), effect: "NoSchedule".into(), time_added: None };
    Node {
        metadata: ObjectMeta {
            name: Some(name.to_string()),
            labels: Some(labels(host, name)),
            annotations: Some(annotations()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec { taints: Some(vec![taint]), unschedulable: spec.draining.then_some(true), ..NodeSpec::default() }),
        status: Some(status(host, spec, &Node::default(), now)),
    }
}

/// Labels that a kubelet sets itself. Zone, region and instance type come from the cloud controller manager; other labels
/// of the host node are the host's business.
pub(super) fn labels(host: &Node, name: &NodeName) -> BTreeMap<String, String> {
    let host_label = |key: &str| host.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
    let info = host.status.as_ref().and_then(|status| status.node_info.as_ref());
    let os = host_label("kubernetes.io/os").or_else(|| info.map(|info| info.operating_system.clone())).unwrap_or_else(|| "linux".into());
    let arch = host_label("kubernetes.io/arch").or_else(|| info.map(|info| info.architecture.clone())).unwrap_or_default();
    let hostname = host_label("kubernetes.io/hostname").unwrap_or_else(|| name.to_string());
    [
        ("kubernetes.io/hostname", hostname),
        ("kubernetes.io/os", os.clone()),
        ("kubernetes.io/arch", arch.clone()),
        ("beta.kubernetes.io/os", os),
        ("beta.kubernetes.io/arch", arch),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

pub(super) fn annotations() -> BTreeMap<String, String> {
    BTreeMap::from([("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())])
}

/// The part of the status that this node owns, given what the tenant's Node says now.
///
/// Images and volumes of the host are left out: they would tell one tenant what others run.
pub(super) fn status(host: &Node, spec: &TenantSpec, existing: &Node, now: Timestamp) -> NodeStatus {
    let (no_host, none) = (NodeStatus::default(), NodeStatus::default());
    let host_status = host.status.as_ref().unwrap_or(&no_host);
    let existing_status = existing.status.as_ref().unwrap_or(&none);
    let (capacity, allocatable) = capacity::of(host_status, &spec.capacity, existing_status);
    // Once the cloud has spoken (it sets the provider ID), addresses are the cloud controller manager's.
    let by_cloud = existing.spec.as_ref().is_some_and(|spec| spec.provider_id.is_some());
    let addresses = if by_cloud { existing_status.addresses.clone() } else { host_status.addresses.clone() };
    let declared = host_status.declared_features.as_ref();
    NodeStatus {
        addresses,
        allocatable: Some(allocatable),
        capacity: Some(capacity),
        conditions: Some(conditions::of(host_status, existing_status, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(KUBELET_PORT) }) }),
        declared_features: declared.map(|all| all.iter().filter(|feature| *feature != NOT_DECLARED).cloned().collect()),
        features: host_status.features.clone(),
        node_info: host_status.node_info.clone(),
        runtime_handlers: host_status.runtime_handlers.clone(),
        config: None,
        images: None,
        phase: None,
        volumes_attached: None,
        volumes_in_use: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::fixture::{host_node, tenant_spec};

    fn name() -> NodeName {
        NodeName::new("worker-7")
    }

    #[test]
    fn a_node_registers_as_a_kubelet_does() {
        insta::assert_yaml_snapshot!(registration(&host_node(), &tenant_spec(), &name(), Timestamp::UNIX_EPOCH));
    }

    #[test]
    fn nothing_of_other_tenants_shows() {
        let text = serde_json::to_string(&registration(&host_node(), &tenant_spec(), &name(), Timestamp::UNIX_EPOCH)).unwrap();
        for foreign in ["another-tenant", "of-the-host", "host-only", "10.244.7.0", "cloud://"] {
            assert!(!text.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn addresses_are_the_clouds_once_it_has_spoken() {
        let mut existing = registration(&host_node(), &tenant_spec(), &name(), Timestamp::UNIX_EPOCH);
        existing.status.as_mut().unwrap().addresses.as_mut().unwrap().truncate(1);
        let before = status(&host_node(), &tenant_spec(), &existing, Timestamp::UNIX_EPOCH);
        assert_eq!(before.addresses.map(|a| a.len()), Some(2));
        existing.spec.as_mut().unwrap().provider_id = Some("nestling://worker-7".into());
        let after = status(&host_node(), &tenant_spec(), &existing, Timestamp::UNIX_EPOCH);
        assert_eq!(after.addresses.map(|a| a.len()), Some(1));
    }
}
