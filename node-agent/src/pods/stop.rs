//! The end of a pod: the deletion handshake between both sides, a host pod that disappears, and what is cleaned up after.

use super::error::PodsError;
use super::kubelet::{Kubelet, now};
use super::names::PodKey;
use super::record::Record;
use super::status;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use nestling_runtime::kube::{call, delete_exact};
use std::time::Duration;

/// When a host pod is looked for again that the store does not have and the host has.
const UNOBSERVED: Duration = Duration::from_millis(500);

/// The tenant deletes the pod: so does the agent on the host, with the same grace in seconds.
pub(crate) async fn stop(kubelet: &Kubelet, host: &Pod, grace: i64) -> Result<(), PodsError> {
    tracing::info!(grace, "deleting the host pod");
    let grace = u32::try_from(grace).unwrap_or(u32::MAX);
    delete_exact(&kubelet.host_pods(), &host.metadata, Some(grace)).await.map(drop).map_err(PodsError::DeleteHostPod)
}

/// The containers are gone: the last status is written, then the tenant's object is deleted for good. Upstream does so only
/// in a terminal phase, and so does the agent.
pub(crate) async fn finish(kubelet: &Kubelet, key: &PodKey, tenant: &Pod, record: &Record) -> Result<Option<Duration>, PodsError> {
    if record.last_host.is_none() && kubelet.read_host_pod(key).await?.is_some() {
        // Not delivered by the watch: containers may run, so the tenant's object has to stay until they are stopped.
        return Ok(Some(UNOBSERVED));
    }
    let last = record.last_host.as_deref();
    let started = tenant.status.as_ref().is_some_and(|status| status.start_time.is_some());
    if last.is_some() || started {
        let text = kubelet.text(key, last);
        let mirrored = last.and_then(|last| status::mirrored(tenant, last, &text, now()));
        let desired = mirrored
            .filter(|status| status::is_terminal(status.phase.as_ref()))
            .unwrap_or_else(|| status::ended(tenant, last, &text, now()));
        if !kubelet.write_status(key, tenant, &desired).await? {
            return Ok(None);
        }
    }
    delete_exact(&kubelet.tenant_pods(key), &tenant.metadata, Some(0)).await.map_err(PodsError::DeleteTenantPod)?;
    tracing::info!("tenant pod deleted");
    kubelet.release(key).await?;
    Ok(None)
}

/// The host pod is gone although the tenant pod should run. Failing a pod cannot be undone, so unless its Delete event came
/// the host is asked once more.
pub(crate) async fn disrupt(kubelet: &Kubelet, key: &PodKey, tenant: &Pod, record: &Record) -> Result<Option<Duration>, PodsError> {
    let last = record.last_host.as_deref();
    if last.is_none() && kubelet.read_host_pod(key).await?.is_some() {
        return Ok(Some(UNOBSERVED));
    }
    let desired = status::disrupted(tenant, last, &kubelet.text(key, last), now());
    tracing::info!("the host removed the pod; writing phase Failed");
    kubelet.write_status(key, tenant, &desired).await?;
    Ok(None)
}

/// The tenant pod is gone and its host pod is not: deletes the host pod. Unless its Delete event came, the tenant is asked
/// whether the pod is gone.
pub(crate) async fn kill(kubelet: &Kubelet, key: &PodKey, host: &Pod, grace: i64, record: &Record) -> Result<Option<Duration>, PodsError> {
    if record.deleted.is_none() && tenant_has(kubelet, key).await? {
        // The watch is late; its event will bring the pod back.
        return Ok(Some(Duration::from_secs(5)));
    }
    stop(kubelet, host, grace).await?;
    Ok(None)
}

/// Both pods are gone.
pub(crate) async fn forget(kubelet: &Kubelet, key: &PodKey) -> Result<(), PodsError> {
    kubelet.release(key).await?;
    kubelet.records.remove(key);
    Ok(())
}

/// Whether the tenant has this very pod, read live. A list, for nodes may not get a pod that is gone.
async fn tenant_has(kubelet: &Kubelet, key: &PodKey) -> Result<bool, PodsError> {
    let selector = format!("spec.nodeName={},metadata.name={}", kubelet.tenant.node, key.name);
    let params = ListParams::default().fields(&selector);
    let found = call(kubelet.tenant_pods(key).list_metadata(&params)).await.map_err(PodsError::ReadTenantPod)?;
    Ok(found.items.iter().any(|pod| pod.metadata.uid.as_ref() == Some(&key.uid)))
}
