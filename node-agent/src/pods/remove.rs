//! The end of a pod: the deletion handshake between both sides, and what is cleaned up after it.

use super::error::PodsError;
use super::key::PodKey;
use super::mirror::now;
use super::realize::CALL;
use super::reconcile::Reconciler;
use super::record::Record;
use super::status;
use crate::volumes::pod_secret;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Preconditions};
use std::time::Duration;
use tokio::time::timeout;

impl Reconciler {
    /// The tenant deletes the pod: so does the agent on the host, with the same grace.
    pub async fn stop(&self, host: &Pod, grace: i64) -> Result<(), PodsError> {
        tracing::info!(grace, "stopping the host pod");
        delete(&self.host_pods(), host, grace).await.map_err(PodsError::StopHostPod)
    }

    /// The containers are gone: the last status is written, then the tenant's object goes. Upstream removes it only in a
    /// terminal phase, and so do we.
    pub async fn finish(&self, key: &PodKey, tenant: &Pod, record: &Record) -> Result<Option<Duration>, PodsError> {
        if record.last.is_none() && self.read_host_pod(key).await?.is_some() {
            // Not shown by the watch: containers may run, so the tenant's object has to stay until they are stopped.
            return Ok(Some(Duration::from_millis(500)));
        }
        let last = record.last.as_deref();
        let started = tenant.status.as_ref().is_some_and(|status| status.start_time.is_some());
        if last.is_some() || started {
            let rewrite = self.rewrite(key, last);
            let desired = match last {
                Some(last) => status::mirrored(tenant, last, &rewrite, now()).filter(|status| status::is_terminal(status.phase.as_ref())),
                None => None,
            };
            let desired = desired.unwrap_or_else(|| status::ended(tenant, last, &rewrite, now()));
            if self.post(key, tenant, &desired).await?.is_none() {
                return Ok(None);
            }
        }
        let api: Api<Pod> = Api::namespaced(self.tenant.kubelet.clone(), &key.namespace);
        delete(&api, tenant, 0).await.map_err(PodsError::DeleteTenantPod)?;
        tracing::info!("tenant pod removed");
        self.release(key, record).await?;
        Ok(None)
    }

    /// The tenant pod is gone and its host pod is not. That it is gone was seen as it happened, or is asked for now.
    pub async fn kill(&self, key: &PodKey, host: &Pod, grace: i64, record: &Record) -> Result<Option<Duration>, PodsError> {
        if record.departed.is_none() && self.tenant_has(key).await? {
            // The watch is late; its event will bring the pod back.
            return Ok(Some(Duration::from_secs(5)));
        }
        self.stop(host, grace).await?;
        Ok(None)
    }

    /// Both pods are gone.
    pub async fn forget(&self, key: &PodKey, record: &Record) -> Result<(), PodsError> {
        self.release(key, record).await?;
        self.records.remove(key);
        Ok(())
    }

    /// Gives up what the pod needed on the host.
    pub async fn release(&self, key: &PodKey, record: &Record) -> Result<(), PodsError> {
        if record.acquired {
            self.copies.release(key);
            self.records.update(key, |record| record.acquired = false);
        }
        if let Some(secret) = &record.secret {
            pod_secret::remove(&self.tenant, key, secret).await?;
            self.remember_secret(key, None);
        }
        Ok(())
    }

    /// Whether the tenant has this very pod, read live. A list, for nodes may not get a pod that is gone.
    async fn tenant_has(&self, key: &PodKey) -> Result<bool, PodsError> {
        let api: Api<Pod> = Api::namespaced(self.tenant.kubelet.clone(), &key.namespace);
        let selector = format!("spec.nodeName={},metadata.name={}", self.tenant.node, key.name);
        let found = timeout(CALL, api.list_metadata(&ListParams::default().fields(&selector))).await?.map_err(PodsError::ReadTenantPod)?;
        Ok(found.items.iter().any(|pod| pod.metadata.uid.as_ref() == Some(&key.uid)))
    }
}

/// Deletes that very pod; one that is gone or replaced is fine.
async fn delete(api: &Api<Pod>, pod: &Pod, grace: i64) -> kube::Result<()> {
    let params = DeleteParams {
        grace_period_seconds: Some(u32::try_from(grace).unwrap_or(u32::MAX)),
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    match timeout(CALL, api.delete(name, &params)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() || status.is_conflict() => Ok(()),
        Ok(Err(error)) => Err(error),
        Err(elapsed) => Err(kube::Error::Service(elapsed.into())),
    }
}
