//! The container runtime of this node, through the container runtime interface (CRI, `runtime.v1`).
//!
//! [`Cri`] is the seam: what the kubelet API ([`crate::server`]) and the node's status need of a runtime, and nothing
//! that changes a container, because the host's kubelet owns them all. [`CriClient`] speaks it over the runtime's unix
//! socket, which [`find_socket`] finds; tests use a fake that passes the same contract.

mod client;
mod error;
mod socket;

#[cfg(test)]
mod contract;
#[cfg(test)]
pub mod fake;
#[cfg(test)]
mod fake_socket;

pub use client::CriClient;
pub use error::CriError;
pub use socket::{DEFAULT_SOCKETS, find_socket};

use async_trait::async_trait;

/// Generated messages and clients.
#[allow(clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)] // generated code
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// Labels that a kubelet gives every sandbox and container.
pub mod labels {
    /// `metadata.uid` of the host pod.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// Name of the container in the pod; on containers alone.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
}

/// What Nestling asks of a container runtime. Every call has a deadline and may be repeated, save `exec_sync`.
#[async_trait]
pub trait Cri: Send + Sync {
    /// Name and version of the runtime.
    async fn version(&self) -> Result<v1::VersionResponse, CriError>;

    /// The runtime's conditions (`RuntimeReady`, `NetworkReady`), handlers and features.
    async fn status(&self) -> Result<v1::StatusResponse, CriError>;

    /// How the runtime wants to be used (cgroup driver). Old runtimes answer `Unimplemented`.
    async fn runtime_config(&self) -> Result<v1::RuntimeConfigResponse, CriError>;

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

    /// Images present on the node.
    async fn images(&self) -> Result<Vec<v1::Image>, CriError>;

    /// File systems that hold images and writable layers.
    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, CriError>;
}
