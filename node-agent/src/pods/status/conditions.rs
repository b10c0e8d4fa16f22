//! Conditions of a pod: those of the kubelet come from the host, `Ready` also from the tenant's readiness gates, and all
//! others stay as they are.

use super::is_terminal;
use crate::pods::rewrite::Rewrite;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Conditions that a kubelet owns and that say on the host what they say in the tenant.
const MIRRORED: [&str; 6] =
    ["PodReadyToStartContainers", "Initialized", "ContainersReady", "PodResizePending", "PodResizeInProgress", "AllContainersRestarting"];
/// Says that something other than the pod's own containers ended it. Shared with other writers.
pub const DISRUPTION: &str = "DisruptionTarget";

/// What a condition is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saying {
    pub type_: &'static str,
    pub status: String,
    pub reason: Option<String>,
    pub message: Option<String>,
    /// When it came to say so, if that is known.
    pub since: Option<Time>,
}

/// The full list for a pod in `phase`.
pub fn mirrored(
    tenant: &Pod,
    current: &PodStatus,
    host: &[PodCondition],
    rewrite: &Rewrite,
    phase: Option<&String>,
    now: Timestamp,
) -> Vec<PodCondition> {
    let mut sayings: Vec<Saying> = Vec::new();
    for type_ in MIRRORED {
        if let Some(condition) = find(host, type_) {
            sayings.push(saying(type_, condition, rewrite));
        }
    }
    // The host pod has no readiness gates, so its containers' readiness is all that the host can say.
    let containers = sayings.iter().find(|saying| saying.type_ == "ContainersReady").cloned();
    sayings.extend(containers.map(|containers| ready(tenant, current, containers)));
    sayings.push(scheduled());
    // Told together with the end of the pod, as a kubelet does.
    if is_terminal(phase) && !is_terminal(current.phase.as_ref()) && find(host, DISRUPTION).is_some_and(|c| c.status == "True") {
        sayings.push(disruption());
    }
    joined(tenant, current, &sayings, now)
}

/// `sayings` over `current`: conditions of the kubelet that are not said any more go, others stay.
pub fn joined(tenant: &Pod, current: &PodStatus, sayings: &[Saying], now: Timestamp) -> Vec<PodCondition> {
    let old = current.conditions.as_deref().unwrap_or_default();
    let mut list: Vec<PodCondition> = sayings.iter().map(|saying| condition(tenant, old, saying, now)).collect();
    let said = |condition: &&PodCondition| sayings.iter().any(|saying| saying.type_ == condition.type_);
    list.extend(old.iter().filter(|condition| !said(condition) && !is_kubelets(&condition.type_)).cloned());
    list
}

pub fn is_kubelets(type_: &str) -> bool {
    MIRRORED.contains(&type_) || matches!(type_, "Ready" | "PodScheduled")
}

pub fn find<'a>(list: &'a [PodCondition], type_: &str) -> Option<&'a PodCondition> {
    list.iter().find(|condition| condition.type_ == type_)
}

/// A pod on a node has been scheduled.
pub fn scheduled() -> Saying {
    Saying { type_: "PodScheduled", status: "True".into(), reason: None, message: None, since: None }
}

/// Which part of the host ended the pod is the host's own affair.
pub fn disruption() -> Saying {
    Saying {
        type_: DISRUPTION,
        status: "True".into(),
        reason: Some("TerminationByKubelet".into()),
        message: Some("The pod was stopped by the node it ran on".into()),
        since: None,
    }
}

fn saying(type_: &'static str, condition: &PodCondition, rewrite: &Rewrite) -> Saying {
    Saying {
        type_,
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: rewrite.option(condition.message.as_ref()),
        since: condition.last_transition_time.clone(),
    }
}

/// Ready = containers ready and every gate's condition True (upstream's `GeneratePodReadyCondition`).
fn ready(tenant: &Pod, current: &PodStatus, containers: Saying) -> Saying {
    let containers = Saying { type_: "Ready", ..containers };
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
        return Saying { since: containers.since.clone().filter(|_| gates.is_empty()), ..containers };
    }
    Saying {
        type_: "Ready",
        status: "False".into(),
        reason: Some("ReadinessGatesNotReady".into()),
        message: Some(unmet.join(", ")),
        since: None,
    }
}

fn condition(tenant: &Pod, old: &[PodCondition], saying: &Saying, now: Timestamp) -> PodCondition {
    let Saying { type_, status, reason, message, since } = saying;
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
