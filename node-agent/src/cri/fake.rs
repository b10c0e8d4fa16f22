//! A container runtime in memory: sandboxes, containers and stats that a test puts in, streaming URLs it chooses.

use super::{Cri, CriError, v1};
use async_trait::async_trait;
use std::collections::HashMap;
use std::sync::Mutex;
use tonic::Status;

/// What the fake holds; a test fills it in.
#[derive(Clone, Default)]
pub struct State {
    pub sandboxes: Vec<v1::PodSandbox>,
    pub containers: Vec<v1::Container>,
    pub statuses: HashMap<String, v1::ContainerStatus>,
    pub stats: Vec<v1::PodSandboxStats>,
    /// Where `exec`, `attach` and `port_forward` point.
    pub streaming_url: String,
    pub exec_sync: v1::ExecSyncResponse,
    /// Requests that changed nothing but were made, for tests to look at.
    pub execs: Vec<v1::ExecRequest>,
    pub exec_syncs: Vec<v1::ExecSyncRequest>,
    pub attaches: Vec<v1::AttachRequest>,
    pub port_forwards: Vec<v1::PortForwardRequest>,
    /// When set, every call fails with it.
    pub down: bool,
}

#[derive(Default)]
pub struct FakeCri {
    state: Mutex<State>,
}

impl FakeCri {
    /// Reads or changes what the runtime holds.
    pub fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap())
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
    async fn version(&self) -> Result<v1::VersionResponse, CriError> {
        self.call("Version", |_| {
            Ok(v1::VersionResponse {
                version: "0.1.0".into(),
                runtime_name: "fake".into(),
                runtime_version: "1.0.0".into(),
                runtime_api_version: "v1".into(),
            })
        })
    }

    async fn status(&self) -> Result<v1::StatusResponse, CriError> {
        let conditions = ["RuntimeReady", "NetworkReady"]
            .map(|name| v1::RuntimeCondition { r#type: name.into(), status: true, ..Default::default() })
            .to_vec();
        self.call("Status", |_| Ok(v1::StatusResponse { status: Some(v1::RuntimeStatus { conditions }), ..Default::default() }))
    }

    async fn runtime_config(&self) -> Result<v1::RuntimeConfigResponse, CriError> {
        self.call("RuntimeConfig", |_| Ok(v1::RuntimeConfigResponse { linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver: 1 }) }))
    }

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

    async fn images(&self) -> Result<Vec<v1::Image>, CriError> {
        self.call("ListImages", |_| Ok(vec![v1::Image { id: "sha256:0".into(), repo_tags: vec!["pause:1".into()], ..Default::default() }]))
    }

    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, CriError> {
        let usage = v1::FilesystemUsage { used_bytes: Some(v1::UInt64Value { value: 1 }), ..Default::default() };
        self.call("ImageFsInfo", |_| Ok(v1::ImageFsInfoResponse { image_filesystems: vec![usage], container_filesystems: vec![] }))
    }
}
