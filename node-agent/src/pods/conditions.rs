//! Conditions of a pod: those of the kubelet come from the host, `Ready` also from the tenant's readiness gates, and all
//! others stay as they are.

use super::names::TenantText;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

/// Conditions that a kubelet owns and that mean on the host what they mean in the tenant.
const MIRRORED: [&str; 6] =
    ["PodReadyToStartContainers", "Initialized", "ContainersReady", "PodResizePending", "PodResizeInProgress", "AllContainersRestarting"];
/// Something other than the pod's own containers ended it. Shared with other writers.
const DISRUPTION: &str = "DisruptionTarget";

/// What a condition should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DesiredCondition {
    type_: &'static str,
    status: String,
    reason: Option<String>,
    message: Option<String>,
    /// When it got this status, if that is known.
    since: Option<Time>,
}

/// The conditions of a pod with host conditions `host`. `ends`: the pod gets a terminal phase now.
pub(crate) fn mirrored(
    tenant: &Pod,
    current: &PodStatus,
    host: &[PodCondition],
    text: &TenantText,
    ends: bool,
    now: Timestamp,
) -> Vec<PodCondition> {
    let mut desired: Vec<DesiredCondition> =
        MIRRORED.into_iter().filter_map(|type_| Some(of_host(type_, find(host, type_)?, text))).collect();
    // The host pod has no readiness gates, so of readiness the host knows only that of the containers.
    let containers = desired.iter().find(|condition| condition.type_ == "ContainersReady").cloned();
    desired.extend(containers.map(|containers| ready(tenant, current, containers)));
    desired.push(scheduled());
    // Written together with the end of the pod, as a kubelet does.
    if ends && find(host, DISRUPTION).is_some_and(|condition| condition.status == "True") {
        desired.push(disruption());
    }
    merged(tenant, current, &desired, now)
}

/// The conditions of a pod that ends without a host pod: what was reached stays, readiness is lost.
pub(crate) fn ended(tenant: &Pod, current: &PodStatus, succeeded: bool, disrupted: bool, now: Timestamp) -> Vec<PodCondition> {
    let reason = if succeeded { "PodCompleted" } else { "PodFailed" };
    let unready = |type_| DesiredCondition { type_, status: "False".into(), reason: Some(reason.into()), message: None, since: None };
    let old = current.conditions.as_deref().unwrap_or_default();
    let kept = ["PodReadyToStartContainers", "Initialized"];
    let kept = kept.into_iter().filter_map(|type_| Some(of_host(type_, find(old, type_)?, &TenantText::default())));
    let mut desired: Vec<DesiredCondition> = kept.collect();
    desired.extend([unready("Ready"), unready("ContainersReady"), scheduled()]);
    desired.extend(disrupted.then(disruption));
    merged(tenant, current, &desired, now)
}

/// `desired` over `current`: conditions of the kubelet that are not desired any more go, others stay.
fn merged(tenant: &Pod, current: &PodStatus, desired: &[DesiredCondition], now: Timestamp) -> Vec<PodCondition> {
    let old = current.conditions.as_deref().unwrap_or_default();
    let mut list: Vec<PodCondition> = desired.iter().map(|desired| condition(tenant, old, desired, now)).collect();
    let is_desired = |condition: &&PodCondition| desired.iter().any(|desired| desired.type_ == condition.type_);
    list.extend(old.iter().filter(|condition| !is_desired(condition) && !is_kubelets(&condition.type_)).cloned());
    list
}

fn is_kubelets(type_: &str) -> bool {
    MIRRORED.contains(&type_) || matches!(type_, "Ready" | "PodScheduled")
}

fn find<'a>(list: &'a [PodCondition], type_: &str) -> Option<&'a PodCondition> {
    list.iter().find(|condition| condition.type_ == type_)
}

/// A pod on a node has been scheduled.
fn scheduled() -> DesiredCondition {
    DesiredCondition { type_: "PodScheduled", status: "True".into(), reason: None, message: None, since: None }
}

/// Which part of the host ended the pod is not shown to the tenant.
fn disruption() -> DesiredCondition {
    DesiredCondition {
        type_: DISRUPTION,
        status: "True".into(),
        reason: Some("TerminationByKubelet".into()),
        message: Some("The pod was stopped by the node it ran on".into()),
        since: None,
    }
}

fn of_host(type_: &'static str, condition: &PodCondition, text: &TenantText) -> DesiredCondition {
    DesiredCondition {
        type_,
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: text.of_option(condition.message.as_ref()),
        since: condition.last_transition_time.clone(),
    }
}

/// Ready = containers ready and every gate's condition True (upstream's `GeneratePodReadyCondition`).
fn ready(tenant: &Pod, current: &PodStatus, containers: DesiredCondition) -> DesiredCondition {
    let containers = DesiredCondition { type_: "Ready", ..containers };
    if containers.status != "True" {
        return containers;
    }
    let conditions = current.conditions.as_deref().unwrap_or_default();
    let gates: Vec<_> = tenant.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten()).collect();
    let unmet: Vec<String> = gates
        .iter()
        .filter_map(|gate| match find(conditions, &gate.condition_type) {
            None => Some(format!("corresponding condition of pod readiness gate {:?} does not exist.", gate.condition_type)),
            Some(condition) if condition.status != "True" => {
                Some(format!("the status of pod readiness gate {:?} is not \"True\", but {}", gate.condition_type, condition.status))
            }
            Some(_) => None,
        })
        .collect();
    if unmet.is_empty() {
        // With gates, readiness may come later than that of the containers.
        return DesiredCondition { since: containers.since.clone().filter(|_| gates.is_empty()), ..containers };
    }
    DesiredCondition {
        type_: "Ready",
        status: "False".into(),
        reason: Some("ReadinessGatesNotReady".into()),
        message: Some(unmet.join(", ")),
        since: None,
    }
}

fn condition(tenant: &Pod, old: &[PodCondition], desired: &DesiredCondition, now: Timestamp) -> PodCondition {
    let DesiredCondition { type_, status, reason, message, since } = desired;
    let unchanged = find(old, type_).filter(|old| old.status == *status);
    let since = since.clone().unwrap_or(Time(now));
    PodCondition {
        last_probe_time: unchanged.and_then(|old| old.last_probe_time.clone()),
        last_transition_time: unchanged.map_or(Some(since), |old| old.last_transition_time.clone()),
        message: message.clone().filter(|text| !text.is_empty()),
        observed_generation: tenant.metadata.generation,
        reason: reason.clone().filter(|text| !text.is_empty()),
        status: status.clone(),
        type_: (*type_).to_owned(),
    }
}

/// The `conditions` of a strategic merge patch from one status to another. Conditions are merged by type, so those of
/// other writers are not in the patch at all.
pub(crate) fn patch(current: &PodStatus, desired: &PodStatus) -> Vec<Value> {
    let old = current.conditions.as_deref().unwrap_or_default();
    let new = desired.conditions.as_deref().unwrap_or_default();
    let ours = |condition: &&PodCondition| is_kubelets(&condition.type_) || condition.type_ == DISRUPTION;
    let changed = new.iter().filter(ours).filter(|condition| find(old, &condition.type_) != Some(*condition));
    let mut list: Vec<Value> = changed.map(in_full).collect();
    let gone = old.iter().filter(|condition| is_kubelets(&condition.type_) && find(new, &condition.type_).is_none());
    list.extend(gone.map(|condition| json!({ "$patch": "delete", "type": condition.type_ })));
    list
}

/// Absent fields must be null in a merge, or the old value would stay.
fn in_full(condition: &PodCondition) -> Value {
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
