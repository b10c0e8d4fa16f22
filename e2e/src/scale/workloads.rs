//! What a host's controllers and kubelets do with the workloads of control planes, without containers: pods exist and are
//! ready at once, and the statuses say so. The API of a tenant is there before its first pod is ready.

use super::fleet::Fleet;
use anyhow::{Context, Result};
use futures::TryStreamExt as _;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, PodTemplateSpec, Secret, Service, Volume};
use k8s_openapi::serde::de::DeserializeOwned;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::runtime::{WatchStreamExt as _, watcher::Config};
use kube::{Api, Client, Resource, ResourceExt as _};
use nestling_crds::labels;
use serde_json::{Value, json};
use std::fmt::Debug;

/// Workloads that are worked on at the same time.
const CONCURRENCY: usize = 16;
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// The host's nodes.
pub(crate) async fn nodes(client: &Client) -> Result<()> {
    for name in NODES {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}))?;
        let api = Api::<Node>::all(client.clone());
        api.create(&PostParams::default(), &node).await?;
        let status = json!({"status": {
            "conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": "64", "memory": "256Gi", "pods": "1000"},
        }});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
    }
    Ok(())
}

/// Runs until it fails.
pub(crate) async fn play(client: &Client, fleet: &Fleet) -> Result<()> {
    let sets = owned(Api::<StatefulSet>::all(client.clone()))
        .try_for_each_concurrent(CONCURRENCY, async |set| stateful_set(client, fleet, &set).await.with_context(|| set.name_any()));
    let deployments = owned(Api::<Deployment>::all(client.clone()))
        .try_for_each_concurrent(CONCURRENCY, async |deployment| deploy(client, &deployment).await.with_context(|| deployment.name_any()));
    futures::future::try_join(sets, deployments).await.map(drop)
}

fn owned<K>(api: Api<K>) -> impl futures::Stream<Item = Result<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::OPERATOR));
    watcher(api, config).default_backoff().applied_objects().map_err(anyhow::Error::from)
}

async fn stateful_set(client: &Client, fleet: &Fleet, set: &StatefulSet) -> Result<()> {
    let (generation, replicas) = (set.metadata.generation, set.spec.replicas.unwrap_or(1));
    if set.status.as_ref().is_some_and(|status| status.observed_generation == generation) {
        return Ok(());
    }
    let namespace = set.namespace().context("a namespace")?;
    let cluster = set.labels().get(labels::CLUSTER).context("the label of its cluster")?;
    open(client, fleet, &namespace, cluster).await?;
    let mut template = set.spec.template.clone();
    // As the controller mounts the claims that it makes.
    let claims = set.spec.volume_claim_templates.iter().flatten().map(kube::ResourceExt::name_any);
    let volumes =
        claims.map(|claim| serde_json::from_value::<Volume>(json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}})));
    let volumes: Vec<Volume> = volumes.collect::<Result<_, _>>()?;
    if let Some(spec) = &mut template.spec {
        spec.volumes.get_or_insert_default().extend(volumes);
    }
    for ordinal in 0..replicas {
        pod(client, &namespace, &format!("{}-{ordinal}", set.name_any()), &template).await?;
    }
    let status = json!({"status": {
        "observedGeneration": generation, "replicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas,
        "updatedReplicas": replicas, "currentReplicas": replicas, "currentRevision": "1", "updateRevision": "1",
    }});
    let api = Api::<StatefulSet>::namespaced(client.clone(), &namespace);
    api.patch_status(&set.name_any(), &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

/// Starts the API that the pods of `cluster` would hold.
async fn open(client: &Client, fleet: &Fleet, namespace: &str, cluster: &str) -> Result<()> {
    let services = Api::<Service>::namespaced(client.clone(), namespace);
    let service = services.get(&format!("{cluster}-apiserver")).await?;
    let address = service.spec.and_then(|spec| spec.cluster_ip).context("an address")?.parse()?;
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let certificates = secrets.get(&format!("{cluster}-apiserver-certs")).await?;
    fleet.open(&format!("{namespace}/{cluster}"), address, &certificates).await
}

async fn deploy(client: &Client, deployment: &Deployment) -> Result<()> {
    let (generation, replicas) = (deployment.metadata.generation, deployment.spec.replicas.unwrap_or(1));
    if deployment.status.as_ref().is_some_and(|status| status.observed_generation == generation) {
        return Ok(());
    }
    let namespace = deployment.namespace().context("a namespace")?;
    for ordinal in 0..replicas {
        pod(client, &namespace, &format!("{}-{ordinal}", deployment.name_any()), &deployment.spec.template).await?;
    }
    let status = json!({"status": {
        "observedGeneration": generation, "replicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas,
        "updatedReplicas": replicas,
    }});
    let api = Api::<Deployment>::namespaced(client.clone(), &namespace);
    api.patch_status(&deployment.name_any(), &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

/// Creates a pod unless it exists; it is ready at once.
async fn pod(client: &Client, namespace: &str, name: &str, template: &PodTemplateSpec) -> Result<()> {
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let mut spec = template.spec.clone().context("a pod spec")?;
    spec.node_name = Some(NODES[0].to_owned());
    let status = json!({"status": status(&spec)});
    let mut pod = Pod { spec: Some(spec), ..Pod::default() };
    pod.metadata.labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    pod.metadata.annotations = template.metadata.as_ref().and_then(|meta| meta.annotations.clone());
    pod.metadata.name = Some(name.to_owned());
    match api.create(&PostParams::default(), &pod).await {
        Ok(_) => api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.map(drop)?,
        Err(kube::Error::Api(refused)) if refused.is_already_exists() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn status(spec: &PodSpec) -> Value {
    let since = "2026-01-01T00:00:00Z";
    let running = |container: &k8s_openapi::api::core::v1::Container| {
        json!({
            "name": container.name, "image": container.image, "imageID": container.image, "containerID": format!("containerd://{}", container.name),
            "ready": true, "started": true, "restartCount": 0, "state": {"running": {"startedAt": since}},
        })
    };
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"]
        .map(|type_| json!({"type": type_, "status": "True", "lastTransitionTime": since}));
    json!({
        "phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}], "startTime": since, "conditions": conditions,
        "containerStatuses": spec.containers.iter().map(running).collect::<Vec<_>>(),
        "initContainerStatuses": spec.init_containers.iter().flatten().map(running).collect::<Vec<_>>(),
    })
}
