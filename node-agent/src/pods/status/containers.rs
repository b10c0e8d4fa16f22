//! Container statuses. Containers have the same names on both sides, so they are the host's with host names rewritten.

use crate::pods::rewrite::Rewrite;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub fn rewritten(list: Vec<ContainerStatus>, rewrite: &Rewrite) -> Vec<ContainerStatus> {
    list.into_iter().map(|status| rewritten_status(status, rewrite)).collect()
}

fn rewritten_status(status: ContainerStatus, rewrite: &Rewrite) -> ContainerStatus {
    let ContainerStatus {
        allocated_resources,
        allocated_resources_status,
        container_id,
        image,
        image_id,
        last_state,
        name,
        ready,
        resources,
        restart_count,
        started,
        state,
        stop_signal,
        user,
        volume_mounts,
    } = status;
    ContainerStatus {
        allocated_resources,
        allocated_resources_status,
        container_id,
        image,
        image_id,
        last_state: last_state.map(|state| rewritten_state(state, rewrite)),
        name,
        ready,
        resources,
        restart_count,
        started,
        state: state.map(|state| rewritten_state(state, rewrite)),
        stop_signal,
        user,
        volume_mounts,
    }
}

fn rewritten_state(state: ContainerState, rewrite: &Rewrite) -> ContainerState {
    let ContainerState { running, terminated, waiting } = state;
    ContainerState {
        running: running.inspect(|ContainerStateRunning { started_at: _ }| ()),
        terminated: terminated.map(|ended| {
            let message = rewrite.option(ended.message.as_ref());
            ContainerStateTerminated { message, ..ended }
        }),
        waiting: waiting
            .map(|ContainerStateWaiting { message, reason }| ContainerStateWaiting { message: rewrite.option(message.as_ref()), reason }),
    }
}

/// What is left of containers that nobody can see any more: those that had not ended by then are taken for killed
/// (upstream's `TerminatePod`).
pub fn lost(list: Vec<ContainerStatus>, now: Timestamp) -> Vec<ContainerStatus> {
    list.into_iter()
        .map(|status| {
            let state = status.state.clone().unwrap_or_default();
            if state.terminated.is_some() {
                return status;
            }
            let gone = ContainerStateTerminated {
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
                state: Some(ContainerState { terminated: Some(gone), ..ContainerState::default() }),
                ..status
            }
        })
        .collect()
}

/// Whether every container ended by itself with exit code 0.
pub fn all_succeeded(list: &[ContainerStatus]) -> bool {
    let exit_code = |status: &ContainerStatus| Some(status.state.as_ref()?.terminated.as_ref()?.exit_code);
    !list.is_empty() && list.iter().all(|status| exit_code(status) == Some(0))
}
