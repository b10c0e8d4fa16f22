//! What the tenant sees of a pod. Pure: tenant pod and host pod go in, the status that the tenant pod should have comes
//! out, and [`patch`] gives what must be written for it, if anything.
//!
//! The rules are those of upstream's status manager: the phase never leaves a terminal one, the start time never changes,
//! conditions of others are kept, transition times change only with the status, and what the apiserver or other
//! controllers own (`QoS` class, nominated node, claim statuses) is left alone. Generations are the tenant's.
//! Containers have the same names on both sides, so their statuses are the host's with host names replaced.

use super::conditions;
use super::names::TenantText;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use serde_json::{Map, Value, json};

#[cfg(test)]
mod tests;

pub(crate) fn is_terminal(phase: Option<&String>) -> bool {
    matches!(phase.map(String::as_str), Some("Succeeded" | "Failed"))
}

/// Whether the pod's phase is terminal.
pub(crate) fn has_ended(pod: &Pod) -> bool {
    is_terminal(pod.status.as_ref().and_then(|status| status.phase.as_ref()))
}

/// The status that `tenant` should have while its host pod is `host`; none while the host's kubelet has not accepted the pod.
pub(crate) fn mirrored(tenant: &Pod, host: &Pod, text: &TenantText, now: Timestamp) -> Option<PodStatus> {
    let current = tenant.status.clone().unwrap_or_default();
    let PodStatus {
        allocated_resources,
        conditions: host_conditions,
        container_statuses,
        ephemeral_container_statuses: _,   // the host pod has none
        extended_resource_claim_status: _, // not a kubelet's
        host_ip,                           // the tenant's node has the same address
        host_ips,
        init_container_statuses,
        message,
        node_allocatable_resource_claim_statuses: _, // not a kubelet's
        nominated_node_name: _,                      // the tenant's scheduler's
        observed_generation: _,                      // the host pod's: a number of its own
        phase,
        pod_ip,
        pod_ips,
        qos_class: _, // the tenant's apiserver's
        reason,
        resize: _,                  // replaced by conditions
        resource_claim_statuses: _, // not a kubelet's
        resources,
        start_time,
        volume_health: _, // alpha
    } = host.status.clone().unwrap_or_default();
    start_time.as_ref()?;

    let phase = phase.unwrap_or_else(|| "Pending".into());
    let ends = is_terminal(Some(&phase)) && !is_terminal(current.phase.as_ref());
    let deleted_by_host = host.metadata.deletion_timestamp.is_some() && tenant.metadata.deletion_timestamp.is_none();
    if ends && deleted_by_host {
        // The host stopped the containers. That some of them exited with 0 meanwhile does not make the pod a success: a Job
        // would take it for done.
        return Some(disrupted(tenant, Some(host), text, now));
    }

    let mut status = current.clone();
    if !is_terminal(current.phase.as_ref()) {
        status.phase = Some(phase);
        status.reason = reason;
        status.message = text.of_option(message.as_ref());
    }
    // Later than before for a pod that starts again after hibernation.
    status.start_time = start_time;
    status.host_ip = host_ip;
    status.host_ips = host_ips;
    status.pod_ip = pod_ip;
    status.pod_ips = pod_ips;
    status.container_statuses = container_statuses.map(|list| in_tenant_text(list, text));
    status.init_container_statuses = init_container_statuses.map(|list| in_tenant_text(list, text));
    status.resources = resources;
    status.allocated_resources = allocated_resources;
    status.observed_generation = tenant.metadata.generation;
    let host_conditions = host_conditions.as_deref().unwrap_or_default();
    status.conditions = Some(conditions::mirrored(tenant, &current, host_conditions, text, ends, now));
    Some(status)
}

/// The host removed the pod, which the tenant had not deleted: Failed, with `DisruptionTarget`, for the tenant's controllers
/// to replace it. `last` is the host pod as last seen.
pub(crate) fn disrupted(tenant: &Pod, last: Option<&Pod>, text: &TenantText, now: Timestamp) -> PodStatus {
    let mut status = closed(tenant, last, text, now, false, true);
    status.reason = Some("PodRemovedByHost".into());
    status.message = Some("The pod was removed from the node it ran on".into());
    status
}

/// The tenant deleted the pod and its containers are gone. A pod that was still in a non-terminal phase then ends Failed
/// or Succeeded by its exit codes, as upstream decides it.
pub(crate) fn ended(tenant: &Pod, last: Option<&Pod>, text: &TenantText, now: Timestamp) -> PodStatus {
    let containers = last.and_then(|host| host.status.as_ref()?.container_statuses.as_deref()).unwrap_or_default();
    let exit_code = |status: &ContainerStatus| Some(status.state.as_ref()?.terminated.as_ref()?.exit_code);
    let succeeded = !containers.is_empty() && containers.iter().all(|status| exit_code(status) == Some(0));
    closed(tenant, last, text, now, succeeded, false)
}

fn closed(tenant: &Pod, last: Option<&Pod>, text: &TenantText, now: Timestamp, succeeded: bool, disrupted: bool) -> PodStatus {
    let current = tenant.status.clone().unwrap_or_default();
    let mut status = current.clone();
    if let Some(last) = last {
        let last = last.status.clone().unwrap_or_default();
        status.container_statuses = Some(in_tenant_text(last.container_statuses.unwrap_or_default(), text));
        status.init_container_statuses = Some(in_tenant_text(last.init_container_statuses.unwrap_or_default(), text));
    }
    for list in [&mut status.container_statuses, &mut status.init_container_statuses] {
        *list = list.take().filter(|list| !list.is_empty()).map(|list| list.into_iter().map(|status| lost(status, now)).collect());
    }
    if is_terminal(current.phase.as_ref()) {
        return status;
    }
    status.phase = Some(if succeeded { "Succeeded" } else { "Failed" }.into());
    status.observed_generation = tenant.metadata.generation;
    status.conditions = Some(conditions::ended(tenant, &current, succeeded, disrupted, now));
    status
}

/// What is left of a container that cannot be examined any more: unless it had ended by then it counts as killed
/// (upstream's `TerminatePod`).
fn lost(status: ContainerStatus, now: Timestamp) -> ContainerStatus {
    let state = status.state.clone().unwrap_or_default();
    if state.terminated.is_some() {
        return status;
    }
    let terminated = ContainerStateTerminated {
        container_id: status.container_id.clone(),
        exit_code: 137,
        finished_at: Some(Time(now)),
        message: Some("The container could not be located when the pod was terminated".into()),
        reason: Some("ContainerStatusUnknown".into()),
        signal: None,
        started_at: state.running.and_then(|running| running.started_at),
    };
    ContainerStatus {
        ready: false,
        started: Some(false),
        state: Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() }),
        ..status
    }
}

fn in_tenant_text(list: Vec<ContainerStatus>, text: &TenantText) -> Vec<ContainerStatus> {
    let one = |mut status: ContainerStatus| {
        let ContainerStatus {
            allocated_resources: _,
            allocated_resources_status: _,
            container_id: _,
            image: _,
            image_id: _,
            last_state,
            name: _,
            ready: _,
            resources: _,
            restart_count: _,
            started: _,
            state,
            stop_signal: _,
            user: _,
            volume_mounts: _,
        } = &mut status;
        for ContainerState { running: _, terminated, waiting } in [last_state, state].into_iter().flatten() {
            if let Some(terminated) = terminated {
                terminated.message = text.of_option(terminated.message.as_ref());
            }
            if let Some(ContainerStateWaiting { message, reason: _ }) = waiting {
                *message = text.of_option(message.as_ref());
            }
        }
        status
    };
    list.into_iter().map(one).collect()
}

/// The `status` of a strategic merge patch from `current` to `desired`: only what a kubelet owns, and only what differs.
/// None when nothing does.
pub(crate) fn patch(current: &PodStatus, desired: &PodStatus) -> Option<Value> {
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
    let conditions = conditions::patch(current, desired);
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

/// For a list that the API merges by key: it would keep the old elements beside the new.
fn replace<T: PartialEq + Serialize>(changes: &mut Map<String, Value>, field: &str, current: Option<&Vec<T>>, desired: Option<&Vec<T>>) {
    let (current, desired) = (current.map_or(&[][..], Vec::as_slice), desired.map_or(&[][..], Vec::as_slice));
    if current != desired {
        let mut list = vec![json!({ "$patch": "replace" })];
        list.extend(desired.iter().map(|item| json!(item)));
        changes.insert(field.into(), Value::Array(list));
    }
}
