//! The container runtime of this node, through the container runtime interface (CRI, `runtime.v1`).
//!
//! [`Cri`] is the seam: what the kubelet API and the proxy need of a runtime, and nothing that changes a container,
//! because the host's kubelet owns them all. [`CriClient`] speaks it over the runtime's unix socket, which
//! [`find_socket`] finds; tests use a fake that passes the same contract.

mod client;

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) mod fake;

pub(crate) use client::{CriClient, DEFAULT_SOCKETS, find_socket};

use async_trait::async_trait;
use futures::stream::BoxStream;
use std::path::PathBuf;
use std::time::Duration;
use tonic::{Code, Status};

/// Generated messages and clients.
#[allow(clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)] // generated code
#[allow(unreachable_pub, dead_code)] // generated code
#[allow(rustdoc::invalid_html_tags, rustdoc::bare_urls, rustdoc::broken_intra_doc_links)] // comments of the protocol file
pub(crate) mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// Labels that a kubelet gives every sandbox and container.
pub(crate) mod labels {
    /// `metadata.uid` of the host pod.
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    /// Name of the container in the pod; on containers alone.
    pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
}

/// What Nestling asks of a container runtime. Every call but `container_events` has a deadline, and every call but
/// `exec_sync` may be repeated.
#[async_trait]
pub trait Cri: Send + Sync {
    /// Sandboxes that match, in no order.
    async fn pod_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>, CriError>;

    /// Containers that match, in no order.
    async fn containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>, CriError>;

    /// One container; `NotFound` when it is gone.
    async fn container_status(&self, container_id: &str) -> Result<v1::ContainerStatus, CriError>;

    /// Runs a command to its end. `request.timeout` is in seconds, 0 for none; the call itself is never waited for
    /// longer than a stream may last.
    async fn exec_sync(&self, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse, CriError>;

    /// URL, good for one use within a minute, at which the runtime streams a command.
    async fn exec(&self, request: v1::ExecRequest) -> Result<String, CriError>;

    /// URL at which the runtime streams the container's own process.
    async fn attach(&self, request: v1::AttachRequest) -> Result<String, CriError>;

    /// URL at which the runtime forwards connections into the sandbox.
    async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String, CriError>;

    /// Use of processor, memory and network of the sandboxes that match, with their containers.
    async fn pod_sandbox_stats(&self, filter: v1::PodSandboxStatsFilter) -> Result<Vec<v1::PodSandboxStats>, CriError>;

    /// Events of all sandboxes and containers from now on, until the runtime ends or closes the stream. containerd answers
    /// the call with the first event; CRI-O without `enable_pod_events` answers `Unimplemented` or `FailedPrecondition`.
    fn container_events(&self) -> BoxStream<'static, Result<v1::ContainerEventResponse, CriError>>;
}

#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// None of the paths is a socket.
    #[error("no container runtime socket among {}", list(.candidates))]
    NoSocket { candidates: Vec<PathBuf> },

    /// The path cannot be part of a URI.
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
