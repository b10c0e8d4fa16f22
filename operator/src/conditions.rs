//! Conditions as Kubernetes defines them ([`condition`]), and why pods are not ready, as the state of one ([`not_ready`]).
//! Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;
use std::sync::Arc;

/// Longest message the API takes (metav1.Condition).
const MAX_MESSAGE: usize = 32_768;

/// Status, reason and message of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConditionState {
    /// `None` is `Unknown`.
    pub(crate) status: Option<bool>,
    /// One CamelCase word.
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl ConditionState {
    pub(crate) fn yes(reason: &str, message: impl Into<String>) -> Self {
        Self { status: Some(true), reason: reason.into(), message: message.into() }
    }

    pub(crate) fn no(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status: Some(false), reason: reason.into(), message: message.into() }
    }

    pub(crate) fn unknown(reason: &str, message: impl Into<String>) -> Self {
        Self { status: None, reason: reason.into(), message: message.into() }
    }

    pub(crate) fn is_true(&self) -> bool {
        self.status == Some(true)
    }
}

/// The condition `type_` in this state; its transition time is that of `previous` unless the status changed.
pub(crate) fn condition(previous: &[Condition], type_: &str, state: &ConditionState, generation: Option<i64>, now: Timestamp) -> Condition {
    let status = match state.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let unchanged = previous.iter().find(|old| old.type_ == type_ && old.status == status);
    Condition {
        type_: type_.into(),
        status: status.into(),
        reason: state.reason.clone(),
        message: cut(&state.message, MAX_MESSAGE).into(),
        observed_generation: generation,
        last_transition_time: unchanged.map_or_else(|| Time(to_second(now)), |old| old.last_transition_time.clone()),
    }
}

/// The API keeps whole seconds: anything finer would look like a change when it is read back.
fn to_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// At most `limit` bytes of `text`, whole characters.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or(text)
}

/// Reasons of waiting containers that every start goes through.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// Why none (or not enough) of `pods` serve. `workload` is the failure that their owner reports, which counts if there are
/// none.
pub(crate) fn not_ready(pods: &[Arc<Pod>], workload: Option<String>) -> ConditionState {
    if let Some((reason, message)) = pods.iter().find_map(|pod| failure(pod)) {
        return ConditionState::no(reason, message);
    }
    if let Some(message) = workload {
        return ConditionState::no("PodsNotCreated", message);
    }
    match pods.iter().find(|pod| !is_ready(pod)) {
        Some(pod) => ConditionState::no("WaitingForPod", waiting(pod)),
        None if pods.is_empty() => ConditionState::no("WaitingForPod", "no pod has been created yet"),
        None => ConditionState::no("WaitingForPod", "waiting for more pods"),
    }
}

/// Reasons of `PodScheduled=False` that last until the host or the pod changes.
const UNSCHEDULABLE: [&str; 2] = ["Unschedulable", "SchedulingGated"];

/// What does not resolve by itself, or not soon.
fn failure(pod: &Pod) -> Option<(String, String)> {
    let name = pod.name_any();
    if let Some((reason, message)) = unscheduled(pod).filter(|(reason, _)| UNSCHEDULABLE.contains(reason)) {
        return Some((reason.into(), format!("pod {name}: {message}")));
    }
    containers(pod).find_map(|container| {
        let state = container.state.as_ref()?;
        if let Some(waiting) = &state.waiting {
            let reason = waiting.reason.as_deref().filter(|reason| !STARTING.contains(reason))?;
            // The two alternate.
            let reason = if reason == "ErrImagePull" { "ImagePullBackOff" } else { reason };
            let last = last_termination(container);
            let message = waiting.message.as_deref().unwrap_or("waiting");
            return Some((reason.into(), format!("container {} of pod {name}: {message}{last}", container.name)));
        }
        let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
        let reason = ended.reason.clone().unwrap_or_else(|| "Error".into());
        let message = ended.message.as_deref().map(|message| format!(": {}", message.trim())).unwrap_or_default();
        Some((reason, format!("container {} of pod {name} ended with code {}{message}", container.name, ended.exit_code)))
    })
}

/// Reason and message of `PodScheduled=False`.
fn unscheduled(pod: &Pod) -> Option<(&str, &str)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    Some((condition.reason.as_deref().unwrap_or_default(), condition.message.as_deref().unwrap_or("cannot be scheduled")))
}

fn last_termination(container: &ContainerStatus) -> String {
    let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let message = ended.and_then(|ended| ended.message.as_deref()).map(str::trim).filter(|message| !message.is_empty());
    message.map(|message| format!(" (last termination message: {message})")).unwrap_or_default()
}

fn waiting(pod: &Pod) -> String {
    let starting: Vec<&str> =
        containers(pod).filter(|container| !container.ready && !is_done(container)).map(|container| container.name.as_str()).collect();
    let name = pod.name_any();
    if pod.metadata.deletion_timestamp.is_some() {
        format!("pod {name} is terminating")
    } else if let Some((_, message)) = unscheduled(pod) {
        format!("pod {name} is being scheduled: {message}")
    } else if starting.is_empty() {
        format!("pod {name} is starting")
    } else {
        format!("pod {name} is starting: {} not ready", starting.join(", "))
    }
}

/// An init container that has completed.
fn is_done(container: &ContainerStatus) -> bool {
    container.state.as_ref().and_then(|state| state.terminated.as_ref()).is_some_and(|ended| ended.exit_code == 0)
}

/// Init containers first, as they run.
pub(crate) fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    init.chain(status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten())
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let first = condition(&[], "Ready", &ConditionState::no("WaitingForPod", "a"), Some(1), at(10));
        assert_eq!(first.last_transition_time.0, at(10));
        let same = condition(std::slice::from_ref(&first), "Ready", &ConditionState::no("ImagePullBackOff", "b"), Some(2), at(20));
        assert_eq!((same.last_transition_time.0, same.reason.as_str(), same.observed_generation), (at(10), "ImagePullBackOff", Some(2)));
        let ready = condition(&[same], "Ready", &ConditionState::yes("Ready", ""), Some(2), at(30));
        assert_eq!((ready.last_transition_time.0, ready.status.as_str()), (at(30), "True"));
    }

    #[test]
    fn messages_are_cut_between_characters() {
        assert_eq!(cut("añb", 2), "a");
        assert_eq!(cut("añb", 3), "añ");
        assert_eq!(cut("a", 5), "a");
    }

    fn pod(status: &Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "dev-control-plane-0"}, "status": status})).unwrap())
    }

    #[rstest]
    #[case::unschedulable(
        json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}]}),
        "Unschedulable", "pod dev-control-plane-0: 0/3 nodes are available"
    )]
    #[case::scheduler_retries(
        json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulerError", "message": "claim has been modified"}]}),
        "WaitingForPod", "pod dev-control-plane-0 is being scheduled: claim has been modified"
    )]
    #[case::image(
        json!({"initContainerStatuses": [{"name": "etcd", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"x\""}}}]}),
        "ImagePullBackOff", "container etcd of pod dev-control-plane-0: Back-off pulling image \"x\""
    )]
    #[case::crash(
        json!({"containerStatuses": [{"name": "kube-apiserver", "image": "", "imageID": "", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
            "lastState": {"terminated": {"exitCode": 1, "message": "unknown flag: --x\n"}}}]}),
        "CrashLoopBackOff", "container kube-apiserver of pod dev-control-plane-0: back-off 40s (last termination message: unknown flag: --x)"
    )]
    #[case::starting(
        json!({"initContainerStatuses": [{"name": "etcd", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}],
            "containerStatuses": [{"name": "kube-apiserver", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "PodInitializing"}}}]}),
        "WaitingForPod", "pod dev-control-plane-0 is starting: kube-apiserver not ready"
    )]
    fn the_first_reason_why_a_pod_is_not_ready(#[case] status: Value, #[case] reason: &str, #[case] message: &str) {
        assert_eq!(not_ready(&[pod(&status)], None), ConditionState::no(reason, message));
    }

    #[test]
    fn without_pods_the_failure_of_their_owner_counts() {
        let refused = not_ready(&[], Some("pods \"x\" is forbidden".into()));
        assert_eq!((refused.reason.as_str(), refused.message.as_str()), ("PodsNotCreated", "pods \"x\" is forbidden"));
        assert_eq!(not_ready(&[], None).message, "no pod has been created yet");
    }
}
