//! What can go wrong with the objects that pods mount. Texts never hold the data of a Secret or a token.

use std::fmt;

/// Why a host object for a volume could not be had.
#[derive(Debug, thiserror::Error)]
pub enum VolumesError {
    #[error("failed to fetch token")]
    RequestToken(#[source] Sensitive),
    #[error("the tenant's apiserver answered a token request without a token")]
    EmptyToken,
    #[error("failed to write the pod's Secret")]
    WritePodSecret(#[source] Sensitive),
    #[error("failed to remove the pod's Secret")]
    RemovePodSecret(#[source] kube::Error),
    #[error("host object {0} is not this agent's")]
    Foreign(String),
    #[error("failed to write the host copy of {source_name}")]
    WriteCopy {
        source_name: String,
        #[source]
        source: Sensitive,
    },
    #[error("failed to remove the host copy of {source_name}")]
    RemoveCopy {
        source_name: String,
        #[source]
        source: kube::Error,
    },
    #[error("failed to list host objects")]
    List(#[source] kube::Error),
    #[error("the apiserver did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

/// An API error of a call that carries secret data. A body that cannot be parsed is quoted by serde's errors, so
/// only its kind is told.
#[derive(Debug)]
pub struct Sensitive(Inner);

#[derive(Debug)]
enum Inner {
    Status(Box<kube::core::Status>),
    Other(&'static str),
}

impl From<kube::Error> for Sensitive {
    fn from(error: kube::Error) -> Self {
        Self(match error {
            kube::Error::Api(status) => Inner::Status(status),
            kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::HttpError(_) => Inner::Other("connection failed"),
            _ => Inner::Other("unreadable answer"),
        })
    }
}

impl Sensitive {
    pub fn status(&self) -> Option<&kube::core::Status> {
        match &self.0 {
            Inner::Status(status) => Some(status),
            Inner::Other(_) => None,
        }
    }
}

impl fmt::Display for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Status(status) => f.write_str(&status.message),
            Inner::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Sensitive {}
