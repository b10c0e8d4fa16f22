//! A container runtime in memory: sandboxes, containers, stats and events that a test puts in, streaming URLs it chooses.
//! [`serve`] puts it behind a real socket.

use super::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use super::{Cri, CriError, v1};
use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// What the fake holds; a test fills it in.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) sandboxes: Vec<v1::PodSandbox>,
    pub(crate) containers: Vec<v1::Container>,
    pub(crate) statuses: HashMap<String, v1::ContainerStatus>,
    pub(crate) stats: Vec<v1::PodSandboxStats>,
    /// Where `exec`, `attach` and `port_forward` point.
    pub(crate) streaming_url: String,
    pub(crate) exec_sync: v1::ExecSyncResponse,
    /// Requests that changed nothing but were made, for tests to look at.
    pub(crate) execs: Vec<v1::ExecRequest>,
    pub(crate) exec_syncs: Vec<v1::ExecSyncRequest>,
    pub(crate) attaches: Vec<v1::AttachRequest>,
    pub(crate) port_forwards: Vec<v1::PortForwardRequest>,
    /// Streams of events that are open.
    pub(crate) event_streams: Vec<mpsc::UnboundedSender<v1::ContainerEventResponse>>,
    /// Every call fails.
    pub(crate) down: bool,
}

#[derive(Default)]
pub(crate) struct FakeCri {
    state: Mutex<State>,
}

impl FakeCri {
    /// Reads or changes what the runtime holds.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap())
    }

    /// Sends an event to all open streams.
    pub(crate) fn emit(&self, event: &v1::ContainerEventResponse) {
        self.with(|state| state.event_streams.retain(|stream| stream.send(event.clone()).is_ok()));
    }

    fn call<T>(&self, call: &'static str, f: impl FnOnce(&mut State) -> Result<T, Status>) -> Result<T, CriError> {
        self.with(|state| if state.down { Err(Status::unavailable("the runtime is down")) } else { f(state) })
            .map_err(|status| CriError::Call { call, source: Box::new(status) })
    }
}

fn matches(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn existing(state: &State, id: &str) -> Result<(), Status> {
    if state.containers.iter().any(|container| container.id == id) { Ok(()) } else { Err(Status::not_found(format!("no container {id}"))) }
}

#[async_trait]
impl Cri for FakeCri {
    async fn pod_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>, CriError> {
        self.call("ListPodSandbox", |state| {
            Ok(state
                .sandboxes
                .iter()
                .filter(|sandbox| filter.id.is_empty() || sandbox.id == filter.id)
                .filter(|sandbox| filter.state.is_none_or(|wanted| wanted.state == sandbox.state))
                .filter(|sandbox| matches(&filter.label_selector, &sandbox.labels))
                .cloned()
                .collect())
        })
    }

    async fn containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>, CriError> {
        self.call("ListContainers", |state| {
            Ok(state
                .containers
                .iter()
                .filter(|container| filter.id.is_empty() || container.id == filter.id)
                .filter(|container| filter.pod_sandbox_id.is_empty() || container.pod_sandbox_id == filter.pod_sandbox_id)
                .filter(|container| filter.state.is_none_or(|wanted| wanted.state == container.state))
                .filter(|container| matches(&filter.label_selector, &container.labels))
                .cloned()
                .collect())
        })
    }

    async fn container_status(&self, container_id: &str) -> Result<v1::ContainerStatus, CriError> {
        self.call("ContainerStatus", |state| {
            state.statuses.get(container_id).cloned().ok_or_else(|| Status::not_found(format!("no container {container_id}")))
        })
    }

    async fn exec_sync(&self, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse, CriError> {
        self.call("ExecSync", |state| {
            existing(state, &request.container_id)?;
            state.exec_syncs.push(request);
            Ok(state.exec_sync.clone())
        })
    }

    async fn exec(&self, request: v1::ExecRequest) -> Result<String, CriError> {
        self.call("Exec", |state| {
            existing(state, &request.container_id)?;
            state.execs.push(request);
            Ok(state.streaming_url.clone())
        })
    }

    async fn attach(&self, request: v1::AttachRequest) -> Result<String, CriError> {
        self.call("Attach", |state| {
            existing(state, &request.container_id)?;
            state.attaches.push(request);
            Ok(state.streaming_url.clone())
        })
    }

    async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String, CriError> {
        self.call("PortForward", |state| {
            if !state.sandboxes.iter().any(|sandbox| sandbox.id == request.pod_sandbox_id) {
                return Err(Status::not_found(format!("no sandbox {}", request.pod_sandbox_id)));
            }
            state.port_forwards.push(request);
            Ok(state.streaming_url.clone())
        })
    }

    async fn pod_sandbox_stats(&self, filter: v1::PodSandboxStatsFilter) -> Result<Vec<v1::PodSandboxStats>, CriError> {
        self.call("ListPodSandboxStats", |state| {
            Ok(state
                .stats
                .iter()
                .filter(|stats| {
                    stats.attributes.as_ref().is_some_and(|attributes| {
                        (filter.id.is_empty() || attributes.id == filter.id) && matches(&filter.label_selector, &attributes.labels)
                    })
                })
                .cloned()
                .collect())
        })
    }

    fn container_events(&self) -> BoxStream<'static, Result<v1::ContainerEventResponse, CriError>> {
        let events = self.call("GetContainerEvents", |state| {
            let (sender, events) = mpsc::unbounded_channel();
            state.event_streams.push(sender);
            Ok(UnboundedReceiverStream::new(events).map(Ok))
        });
        stream::iter([events]).try_flatten().boxed()
    }
}

/// The fake behind gRPC, for tests of the real client. Calls that [`Cri`] does not have answer `Unimplemented`.
struct Service(Arc<FakeCri>);

/// Serves `fake` on a unix socket until `shutdown`; its connections end with it.
pub(crate) fn serve(socket: &Path, fake: Arc<FakeCri>, shutdown: CancellationToken) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    let server = Server::builder().add_service(RuntimeServiceServer::new(Service(fake)));
    tokio::spawn(async move {
        server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown.cancelled_owned()).await.unwrap();
    })
}

fn reply<T>(answer: Result<T, CriError>) -> Result<Response<T>, Status> {
    answer.map(Response::new).map_err(status)
}

fn status(error: CriError) -> Status {
    match error {
        CriError::Call { source, .. } => *source,
        other => Status::internal(other.to_string()),
    }
}

#[async_trait]
impl RuntimeService for Service {
    async fn list_pod_sandbox(&self, request: Request<v1::ListPodSandboxRequest>) -> Result<Response<v1::ListPodSandboxResponse>, Status> {
        let items = self.0.pod_sandboxes(request.into_inner().filter.unwrap_or_default()).await;
        reply(items.map(|items| v1::ListPodSandboxResponse { items }))
    }

    async fn list_containers(&self, request: Request<v1::ListContainersRequest>) -> Result<Response<v1::ListContainersResponse>, Status> {
        let containers = self.0.containers(request.into_inner().filter.unwrap_or_default()).await;
        reply(containers.map(|containers| v1::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Result<Response<v1::ContainerStatusResponse>, Status> {
        let status = self.0.container_status(&request.into_inner().container_id).await;
        reply(status.map(|status| v1::ContainerStatusResponse { status: Some(status), ..Default::default() }))
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Result<Response<v1::ExecSyncResponse>, Status> {
        reply(self.0.exec_sync(request.into_inner()).await)
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Result<Response<v1::ExecResponse>, Status> {
        reply(self.0.exec(request.into_inner()).await.map(|url| v1::ExecResponse { url }))
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Result<Response<v1::AttachResponse>, Status> {
        reply(self.0.attach(request.into_inner()).await.map(|url| v1::AttachResponse { url }))
    }

    async fn port_forward(&self, request: Request<v1::PortForwardRequest>) -> Result<Response<v1::PortForwardResponse>, Status> {
        reply(self.0.port_forward(request.into_inner()).await.map(|url| v1::PortForwardResponse { url }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Result<Response<v1::ListPodSandboxStatsResponse>, Status> {
        let stats = self.0.pod_sandbox_stats(request.into_inner().filter.unwrap_or_default()).await;
        reply(stats.map(|stats| v1::ListPodSandboxStatsResponse { stats }))
    }

    async fn get_container_events(
        &self,
        _request: Request<v1::GetEventsRequest>,
    ) -> Result<Response<BoxStream<'static, Result<v1::ContainerEventResponse, Status>>>, Status> {
        Ok(Response::new(self.0.container_events().map(|event| event.map_err(status)).boxed()))
    }
}
