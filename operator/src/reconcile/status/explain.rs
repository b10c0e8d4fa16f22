//! Why pods are not ready, in one sentence for a person. Pure.

use crate::conditions::Verdict;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt as _;
use std::sync::Arc;

/// Reasons of waiting containers that are no trouble.
const USUAL: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// Why none (or not enough) of `pods` serve. `workload` is what their owner says, for when there are none.
pub fn not_ready(pods: &[Arc<Pod>], workload: Option<String>) -> Verdict {
    let troubles = pods.iter().filter_map(|pod| trouble(pod));
    if let Some((reason, message)) = troubles.into_iter().next() {
        return Verdict::no(reason, message);
    }
    if let Some(message) = workload {
        return Verdict::no("PodsNotCreated", message);
    }
    match pods.iter().find(|pod| !is_ready(pod)) {
        Some(pod) => Verdict::no("WaitingForPod", waiting(pod)),
        None if pods.is_empty() => Verdict::no("WaitingForPod", "no pod has been created yet"),
        None => Verdict::no("WaitingForPod", "more pods are to come"),
    }
}

/// Reasons of `PodScheduled=False` that only a change of the host or the pod ends.
const UNSCHEDULABLE: [&str; 2] = ["Unschedulable", "SchedulingGated"];

/// What will not pass by itself, or not soon.
fn trouble(pod: &Pod) -> Option<(String, String)> {
    let name = pod.name_any();
    if let Some((reason, message)) = unscheduled(pod).filter(|(reason, _)| UNSCHEDULABLE.contains(reason)) {
        return Some((reason.into(), format!("pod {name}: {message}")));
    }
    containers(pod).find_map(|container| {
        let state = container.state.as_ref()?;
        if let Some(waiting) = &state.waiting {
            let reason = waiting.reason.as_deref().filter(|reason| !USUAL.contains(reason))?;
            // The two take turns.
            let reason = if reason == "ErrImagePull" { "ImagePullBackOff" } else { reason };
            let last = last_words(container);
            let message = waiting.message.as_deref().unwrap_or("waiting");
            return Some((reason.into(), format!("container {} of pod {name}: {message}{last}", container.name)));
        }
        let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
        let reason = ended.reason.clone().unwrap_or_else(|| "Error".into());
        let message = ended.message.as_deref().map(|message| format!(": {}", message.trim())).unwrap_or_default();
        Some((reason, format!("container {} of pod {name} ended with code {}{message}", container.name, ended.exit_code)))
    })
}

/// Reason and message of the scheduler.
fn unscheduled(pod: &Pod) -> Option<(&str, &str)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    Some((condition.reason.as_deref().unwrap_or_default(), condition.message.as_deref().unwrap_or("cannot be scheduled")))
}

fn last_words(container: &ContainerStatus) -> String {
    let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let words = ended.and_then(|ended| ended.message.as_deref()).map(str::trim).filter(|words| !words.is_empty());
    words.map(|words| format!(" (last words: {words})")).unwrap_or_default()
}

fn waiting(pod: &Pod) -> String {
    let starting: Vec<&str> =
        containers(pod).filter(|container| !container.ready && !is_done(container)).map(|container| container.name.as_str()).collect();
    let name = pod.name_any();
    if pod.metadata.deletion_timestamp.is_some() {
        format!("pod {name} is ending")
    } else if let Some((_, message)) = unscheduled(pod) {
        format!("pod {name} is being scheduled: {message}")
    } else if starting.is_empty() {
        format!("pod {name} is starting")
    } else {
        format!("pod {name} is starting: {} not ready", starting.join(", "))
    }
}

/// An init container that has done its work.
fn is_done(container: &ContainerStatus) -> bool {
    container.state.as_ref().and_then(|state| state.terminated.as_ref()).is_some_and(|ended| ended.exit_code == 0)
}

/// Init containers first, as they run.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    init.chain(status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten())
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn pod(status: &Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "dev-control-plane-0"}, "status": status})).unwrap())
    }

    #[rstest]
    #[case::unschedulable(
        json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}]}),
        "Unschedulable", "pod dev-control-plane-0: 0/3 nodes are available"
    )]
    #[case::scheduler_tries_again(
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
        "CrashLoopBackOff", "container kube-apiserver of pod dev-control-plane-0: back-off 40s (last words: unknown flag: --x)"
    )]
    #[case::starting(
        json!({"initContainerStatuses": [{"name": "etcd", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}],
            "containerStatuses": [{"name": "kube-apiserver", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "PodInitializing"}}}]}),
        "WaitingForPod", "pod dev-control-plane-0 is starting: kube-apiserver not ready"
    )]
    fn a_person_reads_why(#[case] status: Value, #[case] reason: &str, #[case] message: &str) {
        assert_eq!(not_ready(&[pod(&status)], None), Verdict::no(reason, message));
    }

    #[test]
    fn without_pods_their_owner_is_asked() {
        let refused = not_ready(&[], Some("pods \"x\" is forbidden".into()));
        assert_eq!((refused.reason.as_str(), refused.message.as_str()), ("PodsNotCreated", "pods \"x\" is forbidden"));
        assert_eq!(not_ready(&[], None).message, "no pod has been created yet");
    }
}
