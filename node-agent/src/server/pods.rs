//! The tenant's pods on this node: the pod that a path names, what runs for it (tenant pod → host pod → sandbox and
//! containers), and the lists of `/pods` and `/runningpods/`.

use crate::cri::{Cri, CriError, labels as cri_labels, v1};
use crate::tenant::Tenant;
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use http::StatusCode;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use nestling_crds::labels;
use nestling_crds::names::HostName;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a request waits for the first list of pods, after the agent or the tenant has just begun.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// Whether both sides' pods have been listed: before, a pod that is not in the store may exist.
pub(super) async fn are_listed(tenant: &Tenant) -> bool {
    let listed = async { tokio::try_join!(tenant.stores.tenant.wait_until_ready(), tenant.stores.host.wait_until_ready()) };
    matches!(tokio::time::timeout(FIRST_LIST, listed).await, Ok(Ok(_)))
}

/// A pod as a path names it. `uid` is there in the long form of the path alone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct PodPath {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Option<String>,
}

/// A container as a path names it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct ContainerPath {
    #[serde(flatten)]
    pub(super) pod: PodPath,
    pub(super) container: String,
}

/// The tenant's pod that a path names, and the host pod that runs it once there is one.
pub(super) struct TargetPod {
    pub(super) pod: Arc<Pod>,
    pub(super) host: Option<Arc<Pod>>,
}

impl TargetPod {
    /// None unless the pod is bound to this node and has the path's UID.
    pub(super) fn find(tenant: &Tenant, path: &PodPath) -> Option<Self> {
        let pod = tenant.stores.tenant.get(&ObjectRef::new(&path.name).within(&path.namespace))?;
        let is_named = path.uid.is_none() || path.uid == pod.metadata.uid;
        is_named.then(|| Self { host: host_pod(tenant, &pod), pod })
    }

    /// Whether the container has a terminal; None if the tenant's specification names no such container.
    pub(super) fn has_tty(&self, container: &str) -> Option<bool> {
        has_tty(&self.pod, container)
    }

    /// The running container of that name. Only what the tenant's own specification names is found: nothing that the host
    /// adds to pods can be entered.
    pub(super) async fn running_container(&self, cri: &dyn Cri, name: &str) -> Result<Option<v1::Container>, CriError> {
        let Some(host_uid) = self.host_uid().filter(|_| self.has_tty(name).is_some()) else { return Ok(None) };
        let filter = v1::ContainerFilter {
            state: Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() }),
            label_selector: HashMap::from([
                (cri_labels::POD_UID.to_owned(), host_uid.to_owned()),
                (cri_labels::CONTAINER_NAME.to_owned(), name.to_owned()),
            ]),
            ..Default::default()
        };
        // Runtimes may list former attempts.
        Ok(cri.containers(filter).await?.into_iter().max_by_key(|container| container.created_at))
    }

    /// The sandbox that the pod runs in now: several are listed after one was replaced.
    pub(super) async fn ready_sandbox(&self, cri: &dyn Cri) -> Result<Option<v1::PodSandbox>, CriError> {
        let Some(host_uid) = self.host_uid() else { return Ok(None) };
        let filter = v1::PodSandboxFilter {
            state: Some(v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady.into() }),
            label_selector: HashMap::from([(cri_labels::POD_UID.to_owned(), host_uid.to_owned())]),
            ..Default::default()
        };
        Ok(cri.pod_sandboxes(filter).await?.into_iter().max_by_key(|sandbox| sandbox.created_at))
    }

    fn host_uid(&self) -> Option<&str> {
        self.host.as_ref()?.metadata.uid.as_deref()
    }
}

/// The host pod that realizes a tenant pod. The labels are checked too: a name alone proves nothing.
pub(super) fn host_pod(tenant: &Tenant, pod: &Pod) -> Option<Arc<Pod>> {
    let uid = pod.metadata.uid.as_deref()?;
    let namespace = pod.metadata.namespace.as_deref()?;
    let name = HostName::for_object(&tenant.spec.uid, "Pod", namespace, &pod.name_any(), uid);
    let host = tenant.stores.host.get(&ObjectRef::new(name.as_str()).within(tenant.spec.workload_namespace.as_str()))?;
    let labelled = |key: &str, value: &str| host.labels().get(key).is_some_and(|held| held == value);
    (labelled(labels::TENANT, tenant.spec.uid.as_str()) && labelled(labels::POD_UID, uid)).then_some(host)
}

/// Whether the container of that name, ordinary, init or ephemeral, has a terminal; None if the specification has none.
pub(super) fn has_tty(pod: &Pod, name: &str) -> Option<bool> {
    let spec = pod.spec.as_ref()?;
    let ordinary = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| (&c.name, c.tty));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| (&c.name, c.tty));
    ordinary.chain(ephemeral).find(|(held, _)| *held == name).map(|(_, tty)| tty == Some(true))
}

/// The status of the container of that name: ordinary, init or ephemeral.
pub(super) fn container_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
        .into_iter()
        .flatten()
        .flatten()
        .find(|status| status.name == name)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PodList<P> {
    kind: &'static str,
    api_version: &'static str,
    metadata: serde_json::Map<String, serde_json::Value>,
    items: Vec<P>,
}

fn list<P: Serialize>(items: Vec<P>) -> Response {
    Json(PodList { kind: "PodList", api_version: "v1", metadata: serde_json::Map::new(), items }).into_response()
}

/// `/pods`: the pods bound to this node.
pub(super) async fn bound(Extension(tenant): Extension<Arc<Tenant>>) -> Response {
    let pods = tenant.stores.tenant.state();
    list(pods.iter().map(|pod| &**pod).collect())
}

/// `/runningpods/`: partial pods of what runs, under the tenant's names.
pub(super) async fn running(State(cri): State<Arc<dyn Cri>>, Extension(tenant): Extension<Arc<Tenant>>) -> Response {
    match find_running(&*cri, &tenant).await {
        Ok(running) => list(running),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn find_running(cri: &dyn Cri, tenant: &Tenant) -> Result<Vec<Pod>, CriError> {
    // Sandboxes carry their pod's labels, containers only those of the runtime.
    let of_tenant = HashMap::from([(labels::TENANT.to_owned(), tenant.spec.uid.to_string())]);
    let ready = v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady.into() };
    let running = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
    let sandboxes = cri.pod_sandboxes(v1::PodSandboxFilter { state: Some(ready), label_selector: of_tenant, ..Default::default() });
    let containers = cri.containers(v1::ContainerFilter { state: Some(running), ..Default::default() });
    let (sandboxes, containers) = futures::try_join!(sandboxes, containers)?;

    let mut containers_of: HashMap<String, Vec<v1::Container>> = HashMap::new();
    for container in containers {
        containers_of.entry(container.pod_sandbox_id.clone()).or_default().push(container);
    }
    let mut by_host_uid = HashMap::new();
    for pod in tenant.stores.tenant.state() {
        if let Some(uid) = host_pod(tenant, &pod).and_then(|host| host.metadata.uid.clone()) {
            by_host_uid.insert(uid, pod);
        }
    }
    let running = sandboxes.into_iter().filter_map(|sandbox| {
        let pod = by_host_uid.get(sandbox.labels.get(cri_labels::POD_UID)?)?;
        Some(running_pod(pod, containers_of.remove(&sandbox.id).unwrap_or_default()))
    });
    Ok(running.collect())
}

fn running_pod(pod: &Pod, containers: Vec<v1::Container>) -> Pod {
    let containers = containers
        .into_iter()
        .map(|container| Container {
            name: container.metadata.map(|metadata| metadata.name).unwrap_or_default(),
            image: container.image.map(|image| image.image),
            ..Default::default()
        })
        .collect();
    let metadata = ObjectMeta {
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        ..Default::default()
    };
    Pod { metadata, spec: Some(PodSpec { containers, ..Default::default() }), status: None }
}
