//! What one Node needs. Pure.

use crate::cloud::{Cloud, CloudNode};
use k8s_openapi::api::core::v1::Node;
use serde_json::{Map, Value, json};

/// On a Node that this controller has initialized: the name it has in the cloud. Only such Nodes are deleted when the cloud
/// no longer has them; any other Node was created by someone else and is left alone.
pub(crate) const CLOUD_NODE: &str = "nestling.dev/cloud-node";

/// `cloudproviderapi.TaintExternalCloudProvider`.
const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";

/// What is to be written, in this order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Plan {
    Nothing,
    /// The host node is gone, or serves the tenant no longer.
    Delete,
    Write {
        /// Strategic merge patch of the status.
        status: Option<Value>,
        /// Merge patch of the rest, all in one; the taint goes with it.
        node: Option<Value>,
        /// The patch ends the initialization.
        initializes: bool,
    },
}

pub(crate) fn plan(node: &Node, cloud: &Cloud) -> Plan {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if node.metadata.deletion_timestamp.is_some() {
        return Plan::Nothing;
    }
    match cloud.get(name) {
        Some(instance) => write(node, name, instance),
        None if is_ours(node) => Plan::Delete,
        None => Plan::Nothing,
    }
}

/// Initialized by this controller; or uninitialized and not Ready, as upstream's lifecycle controller has it. The agent of a
/// Ready uninitialized Node may only know it a little earlier than this controller.
fn is_ours(node: &Node) -> bool {
    let annotated = node.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(CLOUD_NODE));
    annotated || (is_uninitialized(node) && !is_ready(node))
}

fn is_uninitialized(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.is_some_and(|taints| taints.iter().any(|taint| taint.key == UNINITIALIZED))
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

fn write(node: &Node, name: &str, instance: &CloudNode) -> Plan {
    let (status, initializes) = (addresses(node, instance), is_uninitialized(node));
    let node = facts(node, name, instance);
    if status.is_none() && node.is_none() { Plan::Nothing } else { Plan::Write { status, node, initializes } }
}

fn facts(node: &Node, name: &str, instance: &CloudNode) -> Option<Value> {
    let mut metadata = Map::new();
    let mut spec = Map::new();
    let labels = missing(&desired_labels(instance), node.metadata.labels.as_ref());
    if !labels.is_empty() {
        metadata.insert("labels".into(), labels.into());
    }
    let annotations = missing(&[(CLOUD_NODE, name)], node.metadata.annotations.as_ref());
    if !annotations.is_empty() {
        metadata.insert("annotations".into(), annotations.into());
    }
    let old = node.spec.as_ref();
    // A provider ID cannot be changed any more, even if it is wrong.
    if old.is_none_or(|spec| spec.provider_id.as_ref().is_none_or(String::is_empty)) {
        spec.insert("providerID".into(), instance.provider_id.clone().into());
    }
    if is_uninitialized(node) {
        let taints = old.and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
        let kept: Vec<Value> = taints.filter(|taint| taint.key != UNINITIALIZED).map(|taint| json!(taint)).collect();
        spec.insert("taints".into(), kept.into());
        // Others write taints too, and the list is written as a whole.
        metadata.insert("resourceVersion".into(), json!(node.metadata.resource_version));
    }
    let patch: Map<String, Value> = [("metadata", metadata), ("spec", spec)]
        .into_iter()
        .filter(|(_, part)| !part.is_empty())
        .map(|(k, part)| (k.into(), part.into()))
        .collect();
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// With the older names beside, as upstream's node controller sets both.
fn desired_labels(instance: &CloudNode) -> Vec<(&'static str, &str)> {
    [
        ("topology.kubernetes.io/zone", &instance.zone),
        ("failure-domain.beta.kubernetes.io/zone", &instance.zone),
        ("topology.kubernetes.io/region", &instance.region),
        ("failure-domain.beta.kubernetes.io/region", &instance.region),
        ("node.kubernetes.io/instance-type", &instance.instance_type),
        ("beta.kubernetes.io/instance-type", &instance.instance_type),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(key, value)| (key, value.as_str()))
    .collect()
}

fn missing(desired: &[(&str, &str)], present: Option<&std::collections::BTreeMap<String, String>>) -> Map<String, Value> {
    let differs = |key: &str, value: &str| present.and_then(|map| map.get(key)).is_none_or(|old| old != value);
    desired.iter().filter(|(key, value)| differs(key, value)).map(|(key, value)| ((*key).to_owned(), (*value).into())).collect()
}

/// A patch of the addresses when they differ from the cloud's; a cloud that has none leaves them.
fn addresses(node: &Node, instance: &CloudNode) -> Option<Value> {
    let old = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let present: Vec<(String, String)> = old.into_iter().flatten().map(|a| (a.type_.clone(), a.address.clone())).collect();
    if instance.addresses.is_empty() || present == instance.addresses {
        return None;
    }
    let mut list: Vec<Value> = instance.addresses.iter().map(|(kind, address)| json!({"type": kind, "address": address})).collect();
    // The list merges by address type, under which two addresses of one type would be one.
    list.push(json!({"$patch": "replace"}));
    Some(json!({"metadata": {"uid": node.metadata.uid}, "status": {"addresses": list}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "worker-7", "uid": "uid", "resourceVersion": "42", "labels": {"kubernetes.io/os": "linux"}},
            "spec": {"taints": [
                {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"},
                {"key": UNINITIALIZED, "value": "true", "effect": "NoSchedule"},
            ]},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "172.30.0.7"}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }))
        .unwrap()
    }

    fn instance() -> CloudNode {
        CloudNode {
            provider_id: "nestling://worker-7".into(),
            zone: "zone-b".into(),
            region: "local".into(),
            instance_type: String::new(),
            addresses: vec![("InternalIP".into(), "172.30.0.7".into())],
        }
    }

    fn cloud() -> Cloud {
        Cloud::from([("worker-7".into(), instance())])
    }

    /// The node as it is after a merge patch.
    fn merged(node: &Node, patch: &Value) -> Node {
        fn merge(target: &mut Value, patch: &Value) {
            match patch {
                Value::Object(fields) => {
                    for (key, value) in fields {
                        merge(&mut target[key], value);
                    }
                }
                value => *target = value.clone(),
            }
        }
        let mut value = serde_json::to_value(node).unwrap();
        merge(&mut value, patch);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_new_node_is_initialized_in_one_write() {
        let Plan::Write { status, node, initializes } = plan(&registered(), &cloud()) else { panic!("no write") };
        assert_eq!((status, initializes), (None, true));
        let patch = node.unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "42");
        assert_eq!(patch["spec"]["providerID"], "nestling://worker-7");
        let after = merged(&registered(), &patch);
        let spec = after.spec.as_ref().unwrap();
        let taints: Vec<&str> = spec.taints.as_ref().unwrap().iter().map(|taint| taint.key.as_str()).collect();
        assert_eq!(taints, ["node.kubernetes.io/not-ready"]);
        let labels = after.metadata.labels.as_ref().unwrap();
        assert_eq!((labels["topology.kubernetes.io/zone"].as_str(), labels["topology.kubernetes.io/region"].as_str()), ("zone-b", "local"));
        assert!(!labels.contains_key("node.kubernetes.io/instance-type"));
        assert_eq!(plan(&after, &cloud()), Plan::Nothing);
    }

    #[test]
    fn addresses_are_written_when_they_differ() {
        let mut cloud = cloud();
        cloud.get_mut("worker-7").unwrap().addresses.push(("ExternalIP".into(), "203.0.113.7".into()));
        let Plan::Write { status, .. } = plan(&registered(), &cloud) else { panic!("no write") };
        let addresses = status.unwrap()["status"]["addresses"].clone();
        assert_eq!(addresses.as_array().map(Vec::len), Some(3));
        assert_eq!(addresses[2], json!({"$patch": "replace"}));
    }

    #[test]
    fn a_moved_node_gets_its_new_zone_and_no_new_provider_id() {
        let Plan::Write { node: Some(patch), .. } = plan(&registered(), &cloud()) else { panic!("no write") };
        let initialized = merged(&registered(), &patch);
        let mut cloud = cloud();
        let instance = cloud.get_mut("worker-7").unwrap();
        (instance.zone, instance.provider_id) = ("zone-c".into(), "cloud://other".into());
        let Plan::Write { node: Some(patch), initializes, .. } = plan(&initialized, &cloud) else { panic!("no write") };
        assert!(!initializes);
        let labels = json!({"topology.kubernetes.io/zone": "zone-c", "failure-domain.beta.kubernetes.io/zone": "zone-c"});
        assert_eq!(patch, json!({"metadata": {"labels": labels}}));
    }

    #[test]
    fn only_nodes_of_the_cloud_are_deleted() {
        let gone = Cloud::new();
        let Plan::Write { node: Some(patch), .. } = plan(&registered(), &cloud()) else { panic!("no write") };
        assert_eq!(plan(&merged(&registered(), &patch), &gone), Plan::Delete);
        assert_eq!(plan(&registered(), &gone), Plan::Nothing, "alive, and perhaps not in the cloud yet");
        let mut dead = registered();
        dead.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "Unknown".into();
        assert_eq!(plan(&dead, &gone), Plan::Delete);
        dead.spec.as_mut().unwrap().taints = None;
        assert_eq!(plan(&dead, &gone), Plan::Nothing, "created by someone else");
    }
}
