//! What the tenant's Node should be, from the host's Node and the tenant's spec, and the least that must be written for
//! that. Pure.
//!
//! Resources are merged, never replaced: one that another owner has put into the tenant's Node status (an extended
//! resource) stays, and is allocatable as a whole, as the kubelet has it. Conditions are those that a kubelet owns,
//! mirrored from the host node, because they are true of the machine for every tenant alike; those of other owners
//! (`NetworkUnavailable`, problem detectors) are not written.

use crate::tenant::TenantSpec;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{DaemonEndpoint, Node, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus, NodeSystemInfo, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use nestling_control_api::consts::KUBELET_PORT;
use nestling_crds::names::NodeName;
use nestling_crds::quantity::nanos;
use nestling_crds::versions::Version;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Keeps pods away until the cloud controller manager has set zone, provider ID and addresses
/// (`cloudproviderapi.TaintExternalCloudProvider`).
const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";

/// Without this feature declared, the tenant's apiserver does all WebSocket work itself and speaks to the kubelet API as it
/// always has.
const NOT_DECLARED: &str = "ExtendWebSocketsToKubelet";

/// The Node to register. Taints can be set now only: a node may not change its taints later (NodeRestriction).
pub(super) fn registration(host: &Node, spec: &TenantSpec, name: &NodeName, now: Timestamp) -> Node {
    let taint = Taint { key: UNINITIALIZED.into(), value: Some("true".into()), effect: "NoSchedule".into(), time_added: None };
    Node {
        metadata: ObjectMeta {
            name: Some(name.to_string()),
            labels: Some(labels(host, spec, name)),
            annotations: Some(annotations(spec)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec { taints: Some(vec![taint]), unschedulable: spec.draining.then_some(true), ..NodeSpec::default() }),
        status: Some(status(host, spec, &Node::default(), now)),
    }
}

/// Annotation: keys of the labels that the tenant's spec gave to the Node, so that one that is no longer there can be removed.
const SPEC_LABELS: &str = "nestling.dev/node-labels";

/// Labels that a kubelet sets itself, and those of the spec (a kubelet's `--node-labels`). Zone, region and instance type come from the cloud controller manager; other labels
/// of the host node are the host's business.
fn labels(host: &Node, spec: &TenantSpec, name: &NodeName) -> BTreeMap<String, String> {
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
    .chain(spec.node_labels.clone())
    .collect()
}

fn annotations(spec: &TenantSpec) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())]);
    if !spec.node_labels.is_empty() {
        all.insert(SPEC_LABELS.to_owned(), spec.node_labels.keys().cloned().collect::<Vec<_>>().join(","));
    }
    all
}

/// The part of the status that this node owns, given what the tenant's Node says now.
///
/// Images and volumes of the host are left out: they would disclose to one tenant what others run.
pub(super) fn status(host: &Node, spec: &TenantSpec, existing: &Node, now: Timestamp) -> NodeStatus {
    let (no_host, none) = (NodeStatus::default(), NodeStatus::default());
    let host_status = host.status.as_ref().unwrap_or(&no_host);
    let existing_status = existing.status.as_ref().unwrap_or(&none);
    let (capacity, allocatable) = resources(host_status, &spec.capacity, existing_status);
    // Once the cloud controller manager has initialized the Node (it sets the provider ID), it owns the addresses.
    let by_cloud = existing.spec.as_ref().is_some_and(|spec| spec.provider_id.is_some());
    let addresses = if by_cloud { existing_status.addresses.clone() } else { host_status.addresses.clone() };
    let declared = host_status.declared_features.as_ref();
    NodeStatus {
        addresses,
        allocatable: Some(allocatable),
        capacity: Some(capacity),
        conditions: Some(conditions(host_status, existing_status, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(KUBELET_PORT) }) }),
        declared_features: declared.map(|all| all.iter().filter(|feature| *feature != NOT_DECLARED).cloned().collect()),
        features: host_status.features.clone(),
        node_info: host_status.node_info.clone().map(|info| node_info(info, &spec.version)),
        runtime_handlers: host_status.runtime_handlers.clone(),
        config: None,
        images: None,
        phase: None,
        volumes_attached: None,
        volumes_in_use: None,
    }
}

/// The host's facts. A kubelet may not be newer than its apiserver (version skew policy): of the version of the host's kubelet
/// and that of the tenant's kube-apiserver, whose features this node agent serves, the older one is reported.
fn node_info(info: NodeSystemInfo, apiserver: &str) -> NodeSystemInfo {
    let newer = match (Version::of_build(&info.kubelet_version), Version::of_build(apiserver)) {
        (Some(host), Some(tenant)) => host > tenant,
        _ => false,
    };
    if newer { NodeSystemInfo { kubelet_version: apiserver.to_owned(), ..info } } else { info }
}

type Resources = BTreeMap<String, Quantity>;

/// Capacity and allocatable of the tenant's Node.
fn resources(host: &NodeStatus, caps: &BTreeMap<String, String>, existing: &NodeStatus) -> (Resources, Resources) {
    let ours = capped(host.capacity.as_ref(), caps);
    let mut allocatable = capped(host.allocatable.as_ref(), caps);
    let mut capacity = existing.capacity.clone().unwrap_or_default();
    capacity.retain(|name, _| !ours.contains_key(name));
    allocatable.extend(capacity.iter().map(|(name, value)| (name.clone(), value.clone())));
    capacity.extend(ours);
    (capacity, allocatable)
}

fn capped(host: Option<&Resources>, caps: &BTreeMap<String, String>) -> Resources {
    let cut = |(name, value): (&String, &Quantity)| {
        let cap = caps.get(name).map(|cap| Quantity(cap.clone())).filter(|cap| less(cap, value));
        (name.clone(), cap.unwrap_or_else(|| value.clone()))
    };
    host.into_iter().flatten().map(cut).collect()
}

/// A cap that cannot be read caps nothing; the operator's validation has refused it long before.
fn less(a: &Quantity, b: &Quantity) -> bool {
    matches!((nanos(a), nanos(b)), (Some(a), Some(b)) if a < b)
}

/// In the order in which a kubelet writes them: Ready last, since others act on it.
const MIRRORED: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

fn conditions(host: &NodeStatus, existing: &NodeStatus, now: Timestamp) -> Vec<NodeCondition> {
    MIRRORED
        .iter()
        .map(|kind| {
            let mut condition = find(host, kind).cloned().unwrap_or_else(|| unknown_on_host(kind));
            let old = find(existing, kind).filter(|old| old.status == condition.status);
            condition.last_heartbeat_time = Some(Time(now));
            condition.last_transition_time = old.and_then(|old| old.last_transition_time.clone()).or(Some(Time(now)));
            condition
        })
        .collect()
}

/// Whether `existing` already reports all of `desired`, heartbeats aside.
fn are_reported(desired: &[NodeCondition], existing: &NodeStatus) -> bool {
    let meaning = |c: &NodeCondition| (c.status.clone(), c.reason.clone(), c.message.clone());
    desired.iter().all(|new| find(existing, &new.type_).is_some_and(|old| meaning(old) == meaning(new)))
}

fn find<'a>(status: &'a NodeStatus, kind: &str) -> Option<&'a NodeCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// A host that has not reported yet is not ready, and under no known pressure.
fn unknown_on_host(kind: &str) -> NodeCondition {
    let (status, reason) = if kind == "Ready" { ("False", "KubeletNotReady") } else { ("False", "HostHasNotReported") };
    NodeCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some("the host node has not reported this condition".into()),
        ..NodeCondition::default()
    }
}

/// A strategic merge patch of `nodes/<name>/status`. `None` when nothing differs and no `heartbeat` is due.
pub(super) fn status_patch(existing: &Node, desired: &NodeStatus, heartbeat: bool) -> Result<Option<Value>, serde_json::Error> {
    let none = NodeStatus::default();
    let old = existing.status.as_ref().unwrap_or(&none);
    let mirrored = desired.conditions.as_deref().unwrap_or_default();
    // Conditions are merged by type, so those of other owners stay.
    let report = heartbeat || !are_reported(mirrored, old);
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
pub(super) fn node_patch(existing: &Node, host: &Node, spec: &TenantSpec, name: &NodeName) -> Option<Value> {
    let missing = |desired: BTreeMap<String, String>, present: Option<&BTreeMap<String, String>>| {
        let differs = |key: &str, value: &str| present.and_then(|map| map.get(key)).is_none_or(|old| old != value);
        desired.into_iter().filter(|(key, value)| differs(key, value)).map(|(key, value)| (key, value.into())).collect::<Map<_, Value>>()
    };
    let mut labels = missing(labels(host, spec, name), existing.metadata.labels.as_ref());
    let mut annotations = missing(annotations(spec), existing.metadata.annotations.as_ref());
    if let Some(former) = existing.metadata.annotations.as_ref().and_then(|all| all.get(SPEC_LABELS)) {
        let gone = former.split(',').filter(|key| !spec.node_labels.contains_key(*key));
        labels.extend(gone.map(|key| (key.to_owned(), Value::Null)));
        if spec.node_labels.is_empty() {
            annotations.insert(SPEC_LABELS.to_owned(), Value::Null);
        }
    }
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
    use std::time::Duration;

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

    fn parsed(value: &Value) -> NodeStatus {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn host() -> NodeStatus {
        parsed(&json!({
            "capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"},
            "allocatable": {"cpu": "7800m", "memory": "15Gi", "pods": "110"},
        }))
    }

    #[test]
    fn without_a_share_it_is_the_hosts() {
        let (capacity, allocatable) = resources(&host(), &BTreeMap::new(), &NodeStatus::default());
        assert_eq!(Some(capacity), host().capacity);
        assert_eq!(Some(allocatable), host().allocatable);
    }

    #[test]
    fn a_share_cuts_and_never_adds() {
        let caps = BTreeMap::from([("cpu".into(), "2".into()), ("memory".into(), "64Gi".into()), ("gpu".into(), "1".into())]);
        let (capacity, allocatable) = resources(&host(), &caps, &NodeStatus::default());
        assert_eq!((capacity["cpu"].0.as_str(), capacity["memory"].0.as_str()), ("2", "16Gi"));
        assert_eq!((allocatable["cpu"].0.as_str(), allocatable["memory"].0.as_str()), ("2", "15Gi"));
        assert!(!capacity.contains_key("gpu"));
    }

    #[test]
    fn extended_resources_of_the_tenant_survive() {
        let existing = parsed(&json!({"capacity": {"cpu": "1", "example.com/fakecpu": "1k"}, "allocatable": {"cpu": "1"}}));
        let (capacity, allocatable) = resources(&host(), &BTreeMap::new(), &existing);
        assert_eq!(capacity["cpu"].0, "8");
        assert_eq!((capacity["example.com/fakecpu"].0.as_str(), allocatable["example.com/fakecpu"].0.as_str()), ("1k", "1k"));
    }

    fn host_status() -> NodeStatus {
        host_node().status.unwrap()
    }

    #[test]
    fn ready_comes_last_and_foreign_conditions_are_left_out() {
        let mirrored = conditions(&host_status(), &NodeStatus::default(), Timestamp::UNIX_EPOCH);
        let kinds: Vec<&str> = mirrored.iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(kinds, MIRRORED);
        assert_eq!((mirrored[3].status.as_str(), mirrored[3].reason.as_deref()), ("True", Some("KubeletReady")));
    }

    #[test]
    fn transition_times_stay_until_the_status_changes() {
        let (start, later) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH + Duration::from_secs(60));
        let existing = NodeStatus { conditions: Some(conditions(&host_status(), &NodeStatus::default(), start)), ..NodeStatus::default() };
        let mut host = host_status();
        let same = conditions(&host, &existing, later);
        assert!(are_reported(&same, &existing));
        assert_eq!(same[3].last_transition_time, Some(Time(start)));
        assert_eq!(same[3].last_heartbeat_time, Some(Time(later)));

        let ready = host.conditions.as_mut().unwrap().iter_mut().find(|c| c.type_ == "Ready").unwrap();
        ready.status = "Unknown".into();
        let changed = conditions(&host, &existing, later);
        assert!(!are_reported(&changed, &existing));
        assert_eq!(changed[3].last_transition_time, Some(Time(later)));
    }

    #[test]
    fn a_silent_host_is_not_ready() {
        let mirrored = conditions(&NodeStatus::default(), &NodeStatus::default(), Timestamp::UNIX_EPOCH);
        assert_eq!((mirrored[3].type_.as_str(), mirrored[3].status.as_str()), ("Ready", "False"));
    }

    fn registered() -> Node {
        let mut node = registration(&host_node(), &tenant_spec(), &name(), Timestamp::UNIX_EPOCH);
        node.metadata.uid = Some("node-uid".into());
        node
    }

    fn later() -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_secs(60)
    }

    #[test]
    fn at_rest_nothing_is_written() {
        let desired = status(&host_node(), &tenant_spec(), &registered(), later());
        assert_eq!(status_patch(&registered(), &desired, false).unwrap(), None);
        assert_eq!(node_patch(&registered(), &host_node(), &tenant_spec(), &name()), None);
    }

    #[test]
    fn a_heartbeat_writes_conditions_only() {
        let desired = status(&host_node(), &tenant_spec(), &registered(), later());
        let patch = status_patch(&registered(), &desired, true).unwrap().unwrap();
        assert_eq!(patch["metadata"], json!({"uid": "node-uid"}));
        let fields: Vec<&String> = patch["status"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["conditions"]);
    }

    #[test]
    fn only_what_changed_is_written() {
        let mut host = host_node();
        host.status.as_mut().unwrap().node_info.as_mut().unwrap().kubelet_version = "v1.37.1".into();
        let patch = status_patch(&registered(), &status(&host, &tenant_spec(), &registered(), later()), false).unwrap().unwrap();
        let fields: Vec<&String> = patch["status"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["nodeInfo"]);
    }

    #[test]
    fn addresses_are_replaced_as_a_whole() {
        let mut existing = registered();
        existing.status.as_mut().unwrap().addresses = None;
        let patch = status_patch(&existing, &status(&host_node(), &tenant_spec(), &existing, later()), false).unwrap().unwrap();
        assert_eq!(patch["status"]["addresses"].as_array().unwrap().last(), Some(&json!({"$patch": "replace"})));
    }

    #[test]
    fn labels_are_repaired_and_others_left() {
        let mut existing = registered();
        let labels = existing.metadata.labels.as_mut().unwrap();
        labels.insert("kubernetes.io/arch".into(), "wrong".into());
        labels.insert("team".into(), "a".into());
        let patch = node_patch(&existing, &host_node(), &tenant_spec(), &name()).unwrap();
        assert_eq!(patch, json!({"metadata": {"uid": "node-uid", "labels": {"kubernetes.io/arch": "amd64"}}}));
    }

    #[test]
    fn a_kubelet_is_never_newer_than_its_apiserver() {
        let reported = |host: &str, tenant: &str| {
            node_info(NodeSystemInfo { kubelet_version: host.into(), ..NodeSystemInfo::default() }, tenant).kubelet_version
        };
        assert_eq!(reported("v1.37.2", "v1.36.3"), "v1.36.3");
        assert_eq!(reported("v1.37.2", "v1.37.1"), "v1.37.1");
        assert_eq!(reported("v1.35.0", "v1.37.2"), "v1.35.0");
        // Of distributions.
        assert_eq!(reported("v1.37.2+k3s1", "v1.36.3"), "v1.36.3");
        assert_eq!(reported("v1.37.2-eks-4096722", "v1.37.2"), "v1.37.2-eks-4096722");
    }

    #[test]
    fn labels_of_the_spec_come_and_go() {
        let with = |labels: &[(&str, &str)]| TenantSpec {
            node_labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..tenant_spec()
        };
        let (both, one) = (with(&[("team", "a"), ("tier", "gold")]), with(&[("tier", "silver")]));
        let mut existing = Node {
            metadata: ObjectMeta {
                uid: Some("node-uid".into()),
                ..registration(&host_node(), &both, &name(), Timestamp::UNIX_EPOCH).metadata
            },
            ..Node::default()
        };
        assert_eq!(node_patch(&existing, &host_node(), &both, &name()), None);
        // Somebody else's label stays.
        existing.metadata.labels.as_mut().unwrap().insert("other".into(), "x".into());
        let patch = node_patch(&existing, &host_node(), &one, &name()).unwrap();
        assert_eq!(patch["metadata"]["labels"], json!({"team": null, "tier": "silver"}));
        assert_eq!(patch["metadata"]["annotations"], json!({SPEC_LABELS: "tier"}));
        let patch = node_patch(&existing, &host_node(), &tenant_spec(), &name()).unwrap();
        assert_eq!(patch["metadata"]["annotations"], json!({SPEC_LABELS: null}));
    }

    #[test]
    fn a_draining_node_is_cordoned_once() {
        let spec = TenantSpec { draining: true, ..tenant_spec() };
        let mut existing = registered();
        assert_eq!(node_patch(&existing, &host_node(), &spec, &name()).unwrap()["spec"], json!({"unschedulable": true}));
        existing.spec.as_mut().unwrap().unschedulable = Some(true);
        assert_eq!(node_patch(&existing, &host_node(), &spec, &name()), None);
        assert_eq!(node_patch(&existing, &host_node(), &tenant_spec(), &name()), None);
    }
}
