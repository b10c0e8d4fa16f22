//! The container runtime over its unix socket: where the socket is, and the calls.

use super::v1::runtime_service_client::RuntimeServiceClient;
use super::{Cri, CriError, v1};
use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use std::future::Future;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

/// Upstream's own cap on a message of the runtime: lists on full nodes pass gRPC's usual 4 MiB.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// For calls that only read what the runtime holds.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// For calls that ask the runtime to measure or to set something up.
const WORK_LIMIT: Duration = Duration::from_secs(30);
/// A command without a time limit of its own: what a kubelet lets a stream last.
const COMMAND_LIMIT: Duration = Duration::from_hours(4);

/// The sockets of containerd, CRI-O and cri-dockerd, as their packages set them.
pub(crate) const DEFAULT_SOCKETS: &[&str] = &["/run/containerd/containerd.sock", "/var/run/crio/crio.sock", "/run/cri-dockerd.sock"];

/// The first of `candidates` that is a socket. The first wins because containerd also runs under Docker, where it
/// serves the runtime interface unless that plugin is off.
pub(crate) fn find_socket<P: AsRef<Path>>(candidates: &[P]) -> Result<PathBuf, CriError> {
    candidates
        .iter()
        .map(AsRef::as_ref)
        .find(|path| path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket()))
        .map(Path::to_path_buf)
        .ok_or_else(|| CriError::NoSocket { candidates: candidates.iter().map(|path| path.as_ref().to_path_buf()).collect() })
}

/// A runtime behind a unix socket. Dials when first used and again after the runtime was restarted.
#[derive(Clone)]
pub(crate) struct CriClient {
    runtime: RuntimeServiceClient<Channel>,
}

impl CriClient {
    /// A client of the runtime at `socket`. Must be called within a Tokio runtime; nothing is dialled yet.
    pub(crate) fn new(socket: &Path) -> Result<Self, CriError> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
            .map_err(|source| CriError::Endpoint { path: socket.to_path_buf(), source })?
            .connect_timeout(Duration::from_secs(3));
        Ok(Self { runtime: RuntimeServiceClient::new(endpoint.connect_lazy()).max_decoding_message_size(MAX_MESSAGE) })
    }
}

/// A request that tells the runtime how long it will be waited for.
fn request<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

async fn answer<T>(
    call: &'static str,
    limit: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>> + Send,
) -> Result<T, CriError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CriError::Call { call, source: Box::new(status) }),
        Err(_) => Err(CriError::Deadline { call, limit }),
    }
}

#[async_trait]
impl Cri for CriClient {
    async fn pod_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>, CriError> {
        let message = v1::ListPodSandboxRequest { filter: Some(filter) };
        let list = answer("ListPodSandbox", READ_LIMIT, self.runtime.clone().list_pod_sandbox(request(message, READ_LIMIT))).await?;
        Ok(list.items)
    }

    async fn containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>, CriError> {
        let message = v1::ListContainersRequest { filter: Some(filter) };
        let list = answer("ListContainers", READ_LIMIT, self.runtime.clone().list_containers(request(message, READ_LIMIT))).await?;
        Ok(list.containers)
    }

    async fn container_status(&self, container_id: &str) -> Result<v1::ContainerStatus, CriError> {
        let message = v1::ContainerStatusRequest { container_id: container_id.into(), verbose: false };
        answer("ContainerStatus", READ_LIMIT, self.runtime.clone().container_status(request(message, READ_LIMIT)))
            .await?
            .status
            .ok_or(CriError::Incomplete { call: "ContainerStatus", missing: "a status" })
    }

    async fn exec_sync(&self, message: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse, CriError> {
        let limit = match u64::try_from(message.timeout) {
            // The runtime ends the command at its limit; the margin is for its answer.
            Ok(seconds) if seconds > 0 => (Duration::from_secs(seconds) + READ_LIMIT).min(COMMAND_LIMIT),
            _ => COMMAND_LIMIT,
        };
        // stdout and stderr are capped at 16 MiB each by the runtime (CVE-2022-1708).
        let mut client = self.runtime.clone().max_decoding_message_size(2 * MAX_MESSAGE + 4096);
        answer("ExecSync", limit, client.exec_sync(request(message, limit))).await
    }

    async fn exec(&self, message: v1::ExecRequest) -> Result<String, CriError> {
        Ok(answer("Exec", WORK_LIMIT, self.runtime.clone().exec(request(message, WORK_LIMIT))).await?.url)
    }

    async fn attach(&self, message: v1::AttachRequest) -> Result<String, CriError> {
        Ok(answer("Attach", WORK_LIMIT, self.runtime.clone().attach(request(message, WORK_LIMIT))).await?.url)
    }

    async fn port_forward(&self, message: v1::PortForwardRequest) -> Result<String, CriError> {
        Ok(answer("PortForward", WORK_LIMIT, self.runtime.clone().port_forward(request(message, WORK_LIMIT))).await?.url)
    }

    async fn pod_sandbox_stats(&self, filter: v1::PodSandboxStatsFilter) -> Result<Vec<v1::PodSandboxStats>, CriError> {
        let message = v1::ListPodSandboxStatsRequest { filter: Some(filter) };
        let call = "ListPodSandboxStats";
        Ok(answer(call, WORK_LIMIT, self.runtime.clone().list_pod_sandbox_stats(request(message, WORK_LIMIT))).await?.stats)
    }

    fn container_events(&self) -> BoxStream<'static, Result<v1::ContainerEventResponse, CriError>> {
        let mut runtime = self.runtime.clone();
        // Without a deadline: the stream is as long as the runtime runs, and carries nothing while nothing happens.
        let events = async move { runtime.get_container_events(v1::GetEventsRequest {}).await.map(Response::into_inner) };
        let failed = |status| CriError::Call { call: "GetContainerEvents", source: Box::new(status) };
        events.try_flatten_stream().map_err(failed).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_socket_and_names_what_it_tried() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let socket = dir.path().join("socket");
        std::fs::write(&file, "").unwrap();
        assert!(find_socket(&[&file, &socket]).unwrap_err().to_string().contains("socket"));
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(find_socket(&[&file, &socket]).unwrap(), socket);
    }
}
