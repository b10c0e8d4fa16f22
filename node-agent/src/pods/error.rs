//! What can fail while a pod is started, followed or stopped. Variants name what was attempted; texts never hold the data
//! of a Secret or a token.

use std::fmt;

/// Why a step for a pod failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodsError {
    #[error("failed to create the host pod")]
    CreateHostPod(#[source] kube::Error),
    #[error("failed to read the host pod")]
    ReadHostPod(#[source] kube::Error),
    #[error("failed to update the host pod")]
    UpdateHostPod(#[source] kube::Error),
    #[error("failed to delete the host pod")]
    DeleteHostPod(#[source] kube::Error),
    #[error("host pod {0} does not belong to this agent")]
    ForeignHostPod(String),
    #[error("failed to write the pod's status")]
    PatchStatus(#[source] kube::Error),
    #[error("failed to delete the tenant pod")]
    DeleteTenantPod(#[source] kube::Error),
    #[error("failed to look up the tenant pod")]
    ReadTenantPod(#[source] kube::Error),
    #[error("failed to provide what the pod mounts")]
    Volumes(#[from] VolumesError),
    #[error("the pod stores were dropped")]
    StoresDropped,
}

/// Why a host object that pods mount could not be provided.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumesError {
    #[error("failed to fetch token")]
    RequestToken(#[source] Sensitive),
    #[error("the tenant's apiserver answered a token request without a token")]
    EmptyToken,
    #[error("failed to write the pod's Secret")]
    WritePodSecret(#[source] Sensitive),
    #[error("failed to delete the pod's Secret")]
    DeletePodSecret(#[source] kube::Error),
    #[error("host object {0} does not belong to this agent")]
    Foreign(String),
    #[error("failed to write the host copy of {source_name}")]
    WriteCopy {
        source_name: String,
        #[source]
        source: Sensitive,
    },
    #[error("failed to delete the host copy of {source_name}")]
    DeleteCopy {
        source_name: String,
        #[source]
        source: kube::Error,
    },
    #[error("failed to list host objects")]
    List(#[source] kube::Error),
}

/// An API error of a call that carries secret data. Serde's errors quote a body that cannot be parsed, so of such an error
/// only its kind is kept.
#[derive(Debug)]
pub(crate) struct Sensitive(String);

impl From<kube::Error> for Sensitive {
    fn from(error: kube::Error) -> Self {
        Self(match error {
            kube::Error::Api(status) => status.message,
            kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::HttpError(_) => "connection failed or timed out".into(),
            _ => "unreadable answer".into(),
        })
    }
}

impl fmt::Display for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Sensitive {}
