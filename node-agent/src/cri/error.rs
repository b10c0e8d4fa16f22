//! What can go wrong between the agent and the container runtime.

use std::path::PathBuf;
use std::time::Duration;
use tonic::{Code, Status};

#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// No runtime listens at any of the places looked at.
    #[error("no container runtime socket among {}", list(.looked_at))]
    NoSocket { looked_at: Vec<PathBuf> },

    /// The socket's path is not one that can be dialled.
    #[error("container runtime socket {} cannot be used", .path.display())]
    Endpoint {
        path: PathBuf,
        #[source]
        source: tonic::transport::Error,
    },

    /// The runtime answered with an error, or could not be reached (`Unavailable`).
    #[error("container runtime call {call} failed")]
    Call {
        call: &'static str,
        #[source]
        source: Box<Status>,
    },

    /// The runtime did not answer in time.
    #[error("container runtime call {call} did not answer within {} s", .limit.as_secs())]
    Deadline { call: &'static str, limit: Duration },

    /// The runtime answered without the part that was asked for.
    #[error("container runtime call {call} answered without {missing}")]
    Incomplete { call: &'static str, missing: &'static str },
}

impl CriError {
    /// The gRPC code that a kubelet would see.
    pub fn code(&self) -> Code {
        match self {
            Self::Call { source, .. } => source.code(),
            Self::Deadline { .. } => Code::DeadlineExceeded,
            Self::NoSocket { .. } | Self::Endpoint { .. } => Code::Unavailable,
            Self::Incomplete { .. } => Code::Internal,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.code() == Code::NotFound
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
