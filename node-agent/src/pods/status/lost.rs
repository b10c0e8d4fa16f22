//! The last status of a pod whose host pod is gone.

use super::conditions::{self, Saying, disruption, find, scheduled};
use super::containers;
use crate::pods::rewrite::Rewrite;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

/// `status.reason` of a pod that the host took away.
const REASON: &str = "PodRemovedByHost";

/// The host removed the pod, which the tenant wanted to keep: Failed, with `DisruptionTarget`, for the tenant's controllers
/// to replace it. `last` is the host pod as last seen.
pub fn disrupted(tenant: &Pod, last: Option<&Pod>, rewrite: &Rewrite, now: Timestamp) -> PodStatus {
    let mut status = closed(tenant, last, rewrite, now, "Failed", true);
    status.reason = Some(REASON.into());
    status.message = Some("The pod was removed from the node it ran on".into());
    status
}

/// The tenant deleted the pod and its containers are gone. A pod that was still in a non-terminal phase then ends Failed
/// or Succeeded by its exit codes, as upstream decides it.
pub fn ended(tenant: &Pod, last: Option<&Pod>, rewrite: &Rewrite, now: Timestamp) -> PodStatus {
    let succeeded = containers::all_succeeded(last.map_or(&[], |host| list(host, |status| &status.container_statuses)));
    closed(tenant, last, rewrite, now, if succeeded { "Succeeded" } else { "Failed" }, false)
}

fn closed(tenant: &Pod, last: Option<&Pod>, rewrite: &Rewrite, now: Timestamp, phase: &str, disruption_: bool) -> PodStatus {
    let current = tenant.status.clone().unwrap_or_default();
    let mut status = current.clone();
    if let Some(last) = last {
        status.container_statuses = Some(containers::rewritten(list(last, |status| &status.container_statuses).to_vec(), rewrite));
        status.init_container_statuses =
            Some(containers::rewritten(list(last, |status| &status.init_container_statuses).to_vec(), rewrite));
    }
    status.container_statuses = status.container_statuses.map(|list| containers::lost(list, now)).filter(|list| !list.is_empty());
    status.init_container_statuses = status.init_container_statuses.map(|list| containers::lost(list, now)).filter(|list| !list.is_empty());
    if super::is_terminal(current.phase.as_ref()) {
        return status;
    }
    status.phase = Some(phase.to_owned());
    status.observed_generation = tenant.metadata.generation;
    let reason = if phase == "Succeeded" { "PodCompleted" } else { "PodFailed" };
    let unready = |type_| Saying { type_, status: "False".into(), reason: Some(reason.into()), message: None, since: None };
    let old = current.conditions.as_deref().unwrap_or_default();
    let kept = ["PodReadyToStartContainers", "Initialized"].into_iter().filter_map(|type_| {
        let kept = find(old, type_)?;
        let (status, since) = (kept.status.clone(), kept.last_transition_time.clone());
        Some(Saying { type_, status, reason: kept.reason.clone(), message: kept.message.clone(), since })
    });
    let mut sayings: Vec<Saying> = kept.collect();
    sayings.extend([unready("Ready"), unready("ContainersReady"), scheduled()]);
    sayings.extend(disruption_.then(disruption));
    status.conditions = Some(conditions::joined(tenant, &current, &sayings, now));
    status
}

fn list(host: &Pod, of: impl Fn(&PodStatus) -> &Option<Vec<ContainerStatus>>) -> &[ContainerStatus] {
    host.status.as_ref().and_then(|status| of(status).as_deref()).unwrap_or_default()
}
