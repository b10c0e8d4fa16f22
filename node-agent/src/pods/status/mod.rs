//! What the tenant sees of a pod. Pure: tenant pod and host pod go in, the status that the tenant pod should have comes
//! out, and [`patch()`] says what must be written for it, if anything.
//!
//! The rules are those of upstream's status manager: the phase never leaves a terminal one, the start time never changes,
//! conditions of others are kept, transition times change only with the status, and what the apiserver or other
//! controllers own (`QoS` class, nominated node, claim statuses) is left alone. Generations are the tenant's.

mod conditions;
mod containers;
mod lost;
mod patch;

#[cfg(test)]
mod tests;

pub use lost::{disrupted, ended};
pub use patch::patch;

use super::rewrite::Rewrite;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

/// The status that `tenant` should have while `host` realizes it; none while the host's kubelet has not taken the pod up.
pub fn mirrored(tenant: &Pod, host: &Pod, rewrite: &Rewrite, now: Timestamp) -> Option<PodStatus> {
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
    let host_is_leaving = host.metadata.deletion_timestamp.is_some() && tenant.metadata.deletion_timestamp.is_none();
    if host_is_leaving && is_terminal(Some(&phase)) && !is_terminal(current.phase.as_ref()) {
        // The containers were stopped by somebody on the host. That some of them exited with 0 on the way does not make
        // the pod a success: a Job would take it for done.
        return Some(disrupted(tenant, Some(host), rewrite, now));
    }

    let mut status = current.clone();
    if !is_terminal(current.phase.as_ref()) {
        status.phase = Some(phase);
        status.reason = reason;
        status.message = rewrite.option(message.as_ref());
    }
    status.start_time = current.start_time.clone().or(start_time);
    status.host_ip = host_ip;
    status.host_ips = host_ips;
    status.pod_ip = pod_ip;
    status.pod_ips = pod_ips;
    status.container_statuses = container_statuses.map(|list| containers::rewritten(list, rewrite));
    status.init_container_statuses = init_container_statuses.map(|list| containers::rewritten(list, rewrite));
    status.resources = resources;
    status.allocated_resources = allocated_resources;
    status.observed_generation = tenant.metadata.generation;
    status.conditions =
        Some(conditions::mirrored(tenant, &current, host_conditions.as_deref().unwrap_or_default(), rewrite, status.phase.as_ref(), now));
    Some(status)
}

pub fn is_terminal(phase: Option<&String>) -> bool {
    matches!(phase.map(String::as_str), Some("Succeeded" | "Failed"))
}
