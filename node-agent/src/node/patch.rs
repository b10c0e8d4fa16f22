//! From what a Node is to what it should be: the least that must be written, or nothing. Pure.

use super::{conditions, desired};
use crate::tenant::TenantSpec;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use nestling_crds::names::NodeName;
use serde_json::{Map, Value, json};

/// A strategic merge patch of `nodes/<name>/status`. `None` when nothing differs and no `heartbeat` is due.
pub(super) fn status(existing: &Node, desired: &NodeStatus, heartbeat: bool) -> Result<Option<Value>, serde_json::Error> {
    let none = NodeStatus::default();
    let old = existing.status.as_ref().unwrap_or(&none);
    let mirrored = desired.conditions.as_deref().unwrap_or_default();
    // Conditions are merged by type, so those of other owners stay.
    let report = heartbeat || !conditions::say_the_same(mirrored, old);
    let fields = [
        ("capacity", old.capacity != desired.capacity),
        ("allocatable", old.allocatable != desired.allocatable),
        ("daemonEndpoints", old.daemon_endpoints != desired.daemon_endpoints),
        ("nodeInfo", old.node_info != desired.node_info),
        ("features", old.features != desired.features),
        ("runtimeHandlers", old.runtime_handlers != desired.runtime_handlers),
        ("declaredFeatures", old.declared_features != desired.declared_features),
        ("conditions", report),
    ];
    let mut all = serde_json::to_value(desired)?;
    let mut changes: Map<String, Value> =
        fields.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| (field.to_owned(), all[field].take())).collect();
    if old.addresses != desired.addresses {
        changes.insert("addresses".into(), addresses(desired)?);
    }
    Ok((!changes.is_empty()).then(|| json!({"metadata": precondition(existing), "status": changes})))
}

/// The list merges by address type, under which two addresses of one type would be one: replace it as a whole
/// (`nodeutil.PatchNodeStatus` does the same).
fn addresses(desired: &NodeStatus) -> serde_json::Result<Value> {
    let mut list = desired.addresses.iter().flatten().map(serde_json::to_value).collect::<serde_json::Result<Vec<_>>>()?;
    list.push(json!({"$patch": "replace"}));
    Ok(Value::Array(list))
}

/// A merge patch of the Node's own labels, annotations and schedulability. `None` when they are right.
pub(super) fn node(existing: &Node, host: &Node, spec: &TenantSpec, name: &NodeName) -> Option<Value> {
    let missing = |wanted: std::collections::BTreeMap<String, String>, present: Option<&std::collections::BTreeMap<String, String>>| {
        let differs = |key: &str, value: &str| present.and_then(|map| map.get(key)).is_none_or(|old| old != value);
        wanted.into_iter().filter(|(key, value)| differs(key, value)).map(|(key, value)| (key, value.into())).collect::<Map<_, Value>>()
    };
    let labels = missing(desired::labels(host, name), existing.metadata.labels.as_ref());
    let annotations = missing(desired::annotations(), existing.metadata.annotations.as_ref());
    // A node that is to go takes no new pods. It is never made schedulable from here: an administrator may have cordoned it.
    let cordon = spec.draining && existing.spec.as_ref().is_none_or(|spec| spec.unschedulable != Some(true));
    if labels.is_empty() && annotations.is_empty() && !cordon {
        return None;
    }
    let mut metadata = precondition(existing);
    for (field, changes) in [("labels", labels), ("annotations", annotations)] {
        if !changes.is_empty() {
            metadata.insert(field.into(), Value::Object(changes));
        }
    }
    let mut patch = json!({ "metadata": metadata });
    if cordon {
        patch["spec"] = json!({"unschedulable": true});
    }
    Some(patch)
}

/// The patch is for the Node that was looked at, not for a later one of the same name.
fn precondition(existing: &Node) -> Map<String, Value> {
    existing.metadata.uid.iter().map(|uid| ("uid".to_owned(), Value::from(uid.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::fixture::{host_node, tenant_spec};
    use jiff::Timestamp;
    use std::time::Duration;

    fn registered() -> Node {
        let mut node = desired::registration(&host_node(), &tenant_spec(), &name(), Timestamp::UNIX_EPOCH);
        node.metadata.uid = Some("node-uid".into());
        node
    }

    fn name() -> NodeName {
        NodeName::new("worker-7")
    }

    fn later() -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_secs(60)
    }

    #[test]
    fn at_rest_nothing_is_written() {
        let desired = desired::status(&host_node(), &tenant_spec(), &registered(), later());
        assert_eq!(status(&registered(), &desired, false).unwrap(), None);
        assert_eq!(node(&registered(), &host_node(), &tenant_spec(), &name()), None);
    }

    #[test]
    fn a_heartbeat_writes_conditions_only() {
        let desired = desired::status(&host_node(), &tenant_spec(), &registered(), later());
        let patch = status(&registered(), &desired, true).unwrap().unwrap();
        assert_eq!(patch["metadata"], json!({"uid": "node-uid"}));
        let fields: Vec<&String> = patch["status"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["conditions"]);
    }

    #[test]
    fn only_what_changed_is_written() {
        let mut host = host_node();
        host.status.as_mut().unwrap().node_info.as_mut().unwrap().kubelet_version = "v1.38.0".into();
        let patch = status(&registered(), &desired::status(&host, &tenant_spec(), &registered(), later()), false).unwrap().unwrap();
        let fields: Vec<&String> = patch["status"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["nodeInfo"]);
    }

    #[test]
    fn addresses_are_replaced_as_a_whole() {
        let mut existing = registered();
        existing.status.as_mut().unwrap().addresses = None;
        let patch = status(&existing, &desired::status(&host_node(), &tenant_spec(), &existing, later()), false).unwrap().unwrap();
        assert_eq!(patch["status"]["addresses"].as_array().unwrap().last(), Some(&json!({"$patch": "replace"})));
    }

    #[test]
    fn labels_are_repaired_and_others_left() {
        let mut existing = registered();
        let labels = existing.metadata.labels.as_mut().unwrap();
        labels.insert("kubernetes.io/arch".into(), "wrong".into());
        labels.insert("team".into(), "a".into());
        let patch = node(&existing, &host_node(), &tenant_spec(), &name()).unwrap();
        assert_eq!(patch, json!({"metadata": {"uid": "node-uid", "labels": {"kubernetes.io/arch": "amd64"}}}));
    }

    #[test]
    fn a_draining_node_is_cordoned_once() {
        let spec = TenantSpec { draining: true, ..tenant_spec() };
        let mut existing = registered();
        assert_eq!(node(&existing, &host_node(), &spec, &name()).unwrap()["spec"], json!({"unschedulable": true}));
        existing.spec.as_mut().unwrap().unschedulable = Some(true);
        assert_eq!(node(&existing, &host_node(), &spec, &name()), None);
        assert_eq!(node(&existing, &host_node(), &tenant_spec(), &name()), None);
    }
}
