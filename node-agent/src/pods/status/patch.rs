//! The strategic merge patch from one status to another: only what a kubelet owns, and only what differs.

use super::conditions::{self, DISRUPTION};
use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The `status` part of the patch; none when nothing is to be written.
pub fn patch(current: &PodStatus, desired: &PodStatus) -> Option<Value> {
    let mut changes = Map::new();
    differ(&mut changes, "phase", current.phase.as_ref(), desired.phase.as_ref());
    differ(&mut changes, "reason", current.reason.as_ref(), desired.reason.as_ref());
    differ(&mut changes, "message", current.message.as_ref(), desired.message.as_ref());
    differ(&mut changes, "startTime", current.start_time.as_ref(), desired.start_time.as_ref());
    differ(&mut changes, "hostIP", current.host_ip.as_ref(), desired.host_ip.as_ref());
    differ(&mut changes, "podIP", current.pod_ip.as_ref(), desired.pod_ip.as_ref());
    differ(&mut changes, "observedGeneration", current.observed_generation.as_ref(), desired.observed_generation.as_ref());
    differ(&mut changes, "containerStatuses", current.container_statuses.as_ref(), desired.container_statuses.as_ref());
    differ(&mut changes, "initContainerStatuses", current.init_container_statuses.as_ref(), desired.init_container_statuses.as_ref());
    differ(&mut changes, "resources", current.resources.as_ref(), desired.resources.as_ref());
    differ(&mut changes, "allocatedResources", current.allocated_resources.as_ref(), desired.allocated_resources.as_ref());
    replace(&mut changes, "hostIPs", current.host_ips.as_ref(), desired.host_ips.as_ref());
    replace(&mut changes, "podIPs", current.pod_ips.as_ref(), desired.pod_ips.as_ref());
    let conditions = conditions_patch(current, desired);
    if !conditions.is_empty() {
        changes.insert("conditions".into(), Value::Array(conditions));
    }
    (!changes.is_empty()).then_some(Value::Object(changes))
}

fn differ<T: PartialEq + Serialize>(changes: &mut Map<String, Value>, field: &str, current: Option<&T>, desired: Option<&T>) {
    if current != desired {
        changes.insert(field.into(), json!(desired));
    }
}

/// A list that the API merges by key would keep the old elements beside the new.
fn replace<T: PartialEq + Serialize>(changes: &mut Map<String, Value>, field: &str, current: Option<&Vec<T>>, desired: Option<&Vec<T>>) {
    let (current, desired) = (current.map_or(&[][..], Vec::as_slice), desired.map_or(&[][..], Vec::as_slice));
    if current != desired {
        let mut list = vec![json!({ "$patch": "replace" })];
        list.extend(desired.iter().map(|item| json!(item)));
        changes.insert(field.into(), Value::Array(list));
    }
}

/// Conditions are merged by type, so those of other writers are not in the patch at all.
fn conditions_patch(current: &PodStatus, desired: &PodStatus) -> Vec<Value> {
    let old = current.conditions.as_deref().unwrap_or_default();
    let new = desired.conditions.as_deref().unwrap_or_default();
    let ours = |condition: &&PodCondition| conditions::is_kubelets(&condition.type_) || condition.type_ == DISRUPTION;
    let changed = new.iter().filter(ours).filter(|condition| conditions::find(old, &condition.type_) != Some(*condition));
    let mut list: Vec<Value> = changed.map(merged).collect();
    let gone = old.iter().filter(|condition| conditions::is_kubelets(&condition.type_));
    let gone = gone.filter(|condition| conditions::find(new, &condition.type_).is_none());
    list.extend(gone.map(|condition| json!({ "$patch": "delete", "type": condition.type_ })));
    list
}

/// Absent fields must be null in a merge, or the old value would stay.
fn merged(condition: &PodCondition) -> Value {
    let PodCondition { last_probe_time, last_transition_time, message, observed_generation, reason, status, type_ } = condition;
    json!({
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": observed_generation,
        "lastTransitionTime": last_transition_time,
        "lastProbeTime": last_probe_time,
    })
}
