//! From a pod as the tenant names it to what runs for it: tenant pod → host pod → sandbox and containers.

use super::route::PodPath;
use crate::cri::{Cri, CriError, labels as cri_labels, v1};
use crate::tenant::Tenant;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, EphemeralContainer, Pod};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use nestling_crds::labels;
use nestling_crds::names::HostName;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a request waits for the first list of pods, after the agent or the tenant has just begun.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// Whether both sides' pods have been listed: before, a pod that is not there may only not be known.
pub async fn are_known(tenant: &Tenant) -> bool {
    let listed = async { tokio::try_join!(tenant.stores.tenant.wait_until_ready(), tenant.stores.host.wait_until_ready()) };
    matches!(tokio::time::timeout(FIRST_LIST, listed).await, Ok(Ok(_)))
}

/// The tenant's pod that a path names, if it is bound to this node and is the one with the path's UID.
pub fn tenant_pod(tenant: &Tenant, path: &PodPath) -> Option<Arc<Pod>> {
    let pod = tenant.stores.tenant.get(&ObjectRef::new(&path.name).within(&path.namespace))?;
    (path.uid.is_none() || path.uid == pod.metadata.uid).then_some(pod)
}

/// The host pod that realizes a tenant pod. The labels are looked at again: a name alone proves nothing.
pub fn host_pod(tenant: &Tenant, pod: &Pod) -> Option<Arc<Pod>> {
    let uid = pod.metadata.uid.as_deref()?;
    let namespace = pod.metadata.namespace.as_deref()?;
    let name = HostName::for_object(&tenant.spec.uid, "Pod", namespace, &pod.name_any(), uid);
    let host = tenant.stores.host.get(&ObjectRef::new(name.as_str()).within(tenant.spec.workload_namespace.as_str()))?;
    let labelled = |key: &str, value: &str| host.labels().get(key).is_some_and(|held| held == value);
    (labelled(labels::TENANT, tenant.spec.uid.as_str()) && labelled(labels::POD_UID, uid)).then_some(host)
}

/// What the two kinds of container in a pod's specification have in common here.
pub struct ContainerSpec {
    pub tty: bool,
}

/// The container of that name in the pod's specification: ordinary, init or ephemeral.
pub fn container_spec(pod: &Pod, name: &str) -> Option<ContainerSpec> {
    let spec = pod.spec.as_ref()?;
    let ordinary = |container: &Container| (container.name == name).then_some(ContainerSpec { tty: container.tty == Some(true) });
    let ephemeral = |container: &EphemeralContainer| (container.name == name).then_some(ContainerSpec { tty: container.tty == Some(true) });
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .find_map(ordinary)
        .or_else(|| spec.ephemeral_containers.iter().flatten().find_map(ephemeral))
}

/// The status of the container of that name: ordinary, init or ephemeral.
pub fn container_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
        .into_iter()
        .flatten()
        .flatten()
        .find(|status| status.name == name)
}

/// The running container of that name, of the host pod with that UID. Runtimes may list former attempts.
pub async fn running_container(cri: &dyn Cri, host_uid: &str, name: &str) -> Result<Option<v1::Container>, CriError> {
    let filter = v1::ContainerFilter {
        state: Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() }),
        label_selector: HashMap::from([
            (cri_labels::POD_UID.to_owned(), host_uid.to_owned()),
            (cri_labels::CONTAINER_NAME.to_owned(), name.to_owned()),
        ]),
        ..Default::default()
    };
    Ok(cri.containers(filter).await?.into_iter().max_by_key(|container| container.created_at))
}

/// The sandbox that the host pod runs in now: several are listed after one was replaced.
pub async fn ready_sandbox(cri: &dyn Cri, host_uid: &str) -> Result<Option<v1::PodSandbox>, CriError> {
    let filter = v1::PodSandboxFilter {
        state: Some(v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady.into() }),
        label_selector: HashMap::from([(cri_labels::POD_UID.to_owned(), host_uid.to_owned())]),
        ..Default::default()
    };
    Ok(cri.pod_sandboxes(filter).await?.into_iter().max_by_key(|sandbox| sandbox.created_at))
}
