//! `/pods` and `/runningpods/`: the tenant's pods on this node, as asked for and as the runtime has them.

use super::pods;
use super::respond::{self, Body};
use crate::cri::{Cri, CriError, labels, v1};
use crate::tenant::Tenant;
use http::{Response, StatusCode};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use std::collections::HashMap;
use std::ops::Deref;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PodList<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: serde_json::Map<String, serde_json::Value>,
    items: Vec<&'a Pod>,
}

fn list<P: Deref<Target = Pod>>(pods: &[P]) -> Response<Body> {
    let items = pods.iter().map(Deref::deref).collect();
    respond::json(&PodList { kind: "PodList", api_version: "v1", metadata: serde_json::Map::new(), items })
}

/// The pods bound to this node.
pub fn pods(tenant: &Tenant) -> Response<Body> {
    list(&tenant.stores.tenant.state())
}

/// Partial pods of what runs, under the tenant's names.
pub async fn running_pods(cri: &dyn Cri, tenant: &Tenant) -> Response<Body> {
    match find(cri, tenant).await {
        Ok(running) => list(&running.iter().collect::<Vec<_>>()),
        Err(error) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn find(cri: &dyn Cri, tenant: &Tenant) -> Result<Vec<Pod>, CriError> {
    // Sandboxes carry their pod's labels, containers only those of the runtime.
    let of_tenant = HashMap::from([(nestling_crds::labels::TENANT.to_owned(), tenant.spec.uid.to_string())]);
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
        if let Some(uid) = pods::host_pod(tenant, &pod).and_then(|host| host.metadata.uid.clone()) {
            by_host_uid.insert(uid, pod);
        }
    }
    let running = sandboxes.into_iter().filter_map(|sandbox| {
        let pod = by_host_uid.get(sandbox.labels.get(labels::POD_UID)?)?;
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
