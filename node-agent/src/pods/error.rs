//! What can go wrong while a pod is realized.

use crate::volumes::VolumesError;

/// Variants name what was attempted.
#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    #[error("failed to create the host pod")]
    CreateHostPod(#[source] kube::Error),
    #[error("failed to read the host pod")]
    ReadHostPod(#[source] kube::Error),
    #[error("failed to update the host pod")]
    UpdateHostPod(#[source] kube::Error),
    #[error("failed to stop the host pod")]
    StopHostPod(#[source] kube::Error),
    #[error("host pod {0} is not this agent's")]
    ForeignHostPod(String),
    #[error("failed to write the pod's status")]
    PatchStatus(#[source] kube::Error),
    #[error("failed to remove the tenant pod")]
    DeleteTenantPod(#[source] kube::Error),
    #[error("failed to look the tenant pod up")]
    ReadTenantPod(#[source] kube::Error),
    #[error("failed to provide what the pod mounts")]
    Volumes(#[from] VolumesError),
    #[error("the apiserver did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("the agent gave up its stores")]
    StoresGone,
}

/// The error with its causes, for logs and events.
pub fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
