//! A pod that runs: its changes go over to the host pod, its status comes back.

use super::error::PodsError;
use super::key::PodKey;
use super::realize::{CALL, refused};
use super::reconcile::Reconciler;
use super::record::Record;
use super::status;
use super::updates::updates;
use crate::volumes::pod_secret;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{Patch, PatchParams};
use nestling_crds::labels;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Annotation on a host pod: digest of its downward-API files. A change of it makes the host's kubelet look at the pod's
/// volumes at once instead of at its next round.
const FILES: &str = pod_secret::DIGEST;

impl Reconciler {
    pub async fn mirror(&self, key: &PodKey, tenant: &Pod, host: &Pod) -> Result<Option<Duration>, PodsError> {
        let (followed, posted) = tokio::join!(self.follow(key, tenant, host), self.mirror_status(key, tenant, host));
        posted?;
        followed
    }

    /// Writes the status that the tenant pod should have, if it has another.
    pub async fn mirror_status(&self, key: &PodKey, tenant: &Pod, host: &Pod) -> Result<(), PodsError> {
        self.tell_unschedulable(key, host);
        match status::mirrored(tenant, host, &self.rewrite(key, Some(host)), now()) {
            Some(desired) => self.post(key, tenant, &desired).await.map(drop),
            None => Ok(()),
        }
    }

    /// The host pod vanished under a pod that was to run. Failing a pod cannot be undone, so unless its removal was seen as it
    /// happened the host is asked once more.
    pub async fn disrupt(&self, key: &PodKey, tenant: &Pod, record: &Record) -> Result<Option<Duration>, PodsError> {
        let last = record.last.as_deref();
        if last.is_none() && self.read_host_pod(key).await?.is_some() {
            return Ok(Some(Duration::from_millis(500)));
        }
        let desired = status::disrupted(tenant, last, &self.rewrite(key, last), now());
        tracing::info!("the host removed the pod");
        self.post(key, tenant, &desired).await?;
        Ok(None)
    }

    /// Writes `desired` where it differs; gives the tenant pod as it is then, or none when it is gone.
    pub async fn post(&self, key: &PodKey, tenant: &Pod, desired: &PodStatus) -> Result<Option<Arc<Pod>>, PodsError> {
        let current = tenant.status.clone().unwrap_or_default();
        let Some(change) = status::patch(&current, desired) else { return Ok(Some(Arc::new(tenant.clone()))) };
        let api: Api<Pod> = Api::namespaced(self.tenant.kubelet.clone(), &key.namespace);
        // The UID keeps the status of one pod from another that took its name.
        let patch = json!({ "metadata": { "uid": key.uid }, "status": change });
        let params = PatchParams { field_manager: Some(labels::AGENT.into()), ..PatchParams::default() };
        match timeout(CALL, api.patch_status(&key.name, &params, &Patch::Strategic(patch))).await? {
            Ok(mut posted) => {
                posted.metadata.managed_fields = None;
                let posted = Arc::new(posted);
                self.records.update(key, |record| record.posted = Some(posted.clone()));
                Ok(Some(posted))
            }
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(None),
            Err(error) => Err(PodsError::PatchStatus(error)),
        }
    }

    /// Carries changes of the tenant pod over, and keeps its tokens and downward-API files fresh.
    async fn follow(&self, key: &PodKey, tenant: &Pod, host: &Pod) -> Result<Option<Duration>, PodsError> {
        if has_ended(tenant) && has_ended(host) {
            // The containers will not start again; the host pod stays for its logs.
            return self.release(key, &self.records.get(key)).await.map(|()| None);
        }
        if has_ended(tenant) || host.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let changes = updates(tenant, host);
        if !changes.refused.is_empty() {
            self.tell(key, "UnsupportedField", &refused(&changes.refused));
        }
        if let Some(patch) = changes.patch {
            self.patch_host(host, patch).await?;
        }
        let needs = self.acquire(key, tenant);
        let known = self.records.get(key).secret;
        let secret = pod_secret::ensure(&self.tenant, key, tenant, &needs.files, known.as_ref(), Timestamp::now()).await?;
        let digest = |secret: &Option<pod_secret::PodSecret>| secret.as_ref().map(|secret| secret.digest.clone());
        let files_changed = known.is_some() && digest(&known) != digest(&secret);
        let refresh_at = secret.as_ref().and_then(|secret| secret.refresh_at);
        let nudge = files_changed.then(|| digest(&secret)).flatten();
        self.remember_secret(key, secret);
        if let Some(digest) = nudge {
            self.patch_host(host, json!({ "metadata": { "uid": host.metadata.uid, "annotations": { FILES: digest } } })).await?;
        }
        Ok(refresh_at.map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default() + Duration::from_secs(1)))
    }

    async fn patch_host(&self, host: &Pod, patch: serde_json::Value) -> Result<(), PodsError> {
        let name = host.metadata.name.as_deref().unwrap_or_default();
        let params = PatchParams { field_manager: Some(labels::AGENT.into()), ..PatchParams::default() };
        match timeout(CALL, self.host_pods().patch(name, &params, &Patch::Strategic(patch))).await? {
            Ok(_) => Ok(()),
            // Gone, or replaced: the watch will tell.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
            Err(error) => Err(PodsError::UpdateHostPod(error)),
        }
    }

    /// The tenant's scheduler placed the pod here and the host has no room. Who uses the room is not the tenant's to know.
    fn tell_unschedulable(&self, key: &PodKey, host: &Pod) {
        let conditions = host.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let waits = conditions.iter().any(|condition| {
            condition.type_ == "PodScheduled" && condition.status == "False" && condition.reason.as_deref() == Some("Unschedulable")
        });
        if waits {
            self.tell(key, "HostUnschedulable", "The host has no room for this pod on its node now; it starts when there is");
        }
    }
}

fn has_ended(pod: &Pod) -> bool {
    status::is_terminal(pod.status.as_ref().and_then(|status| status.phase.as_ref()))
}

/// Status times have whole seconds.
pub fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()
}
