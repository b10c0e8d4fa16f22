//! The kubelet of one tenant on this node: what the steps for its pods share, and how they read pods, hold what pods need,
//! emit events and write statuses.

use super::error::PodsError;
use super::events::Events;
use super::names::{self, Owner, PodKey, TenantText};
use super::record::{Record, Records};
use super::status;
use super::translate::{Needs, Refusal, translate};
use super::volumes::copies::Copies;
use super::volumes::leftovers::Leftovers;
use super::volumes::pod_secret::{self, PodSecret};
use super::watch::version;
use crate::services::Services;
use crate::tenant::Tenant;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use nestling_crds::labels;
use nestling_runtime::kube::{call, is_gone_or_changed};
use nestling_runtime::queue::Queue;
use serde_json::json;
use std::sync::Arc;

pub(crate) struct Kubelet {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) queue: Arc<Queue<PodKey>>,
    pub(crate) records: Arc<Records>,
    pub(crate) services: Arc<Services>,
    pub(crate) copies: Arc<Copies>,
    pub(crate) events: Arc<Events>,
    pub(crate) leftovers: Leftovers,
}

impl Kubelet {
    pub(crate) fn owner(&self) -> Owner<'_> {
        Owner::of(&self.tenant)
    }

    /// The tenant pod as newest known: the watch may not have delivered our own last write yet, and working from what it
    /// delivered would write the same again.
    pub(crate) fn tenant_pod(&self, key: &PodKey, record: &Record) -> Option<Arc<Pod>> {
        let reference = ObjectRef::new(&key.name).within(&key.namespace);
        let stored = self.tenant.stores.tenant.get(&reference).filter(|pod| pod.metadata.uid.as_ref() == Some(&key.uid))?;
        match &record.written {
            Some(written) if version(written) > version(&stored) => Some(written.clone()),
            _ => Some(stored),
        }
    }

    /// The host pod in the store, checked to be ours.
    pub(crate) fn host_pod(&self, key: &PodKey) -> Result<Option<Arc<Pod>>, PodsError> {
        let name = key.host_name(&self.tenant.spec.uid);
        let reference = ObjectRef::new(name.as_str()).within(self.tenant.spec.workload_namespace.as_str());
        match self.tenant.stores.host.get(&reference) {
            Some(host) if !names::is_for_pod(&host.metadata, &self.tenant, key) => Err(PodsError::ForeignHostPod(name.to_string())),
            host => Ok(host),
        }
    }

    /// The host pod, read live and checked to be ours.
    pub(crate) async fn read_host_pod(&self, key: &PodKey) -> Result<Option<Pod>, PodsError> {
        let name = key.host_name(&self.tenant.spec.uid);
        match call(self.host_pods().get_opt(name.as_str())).await.map_err(PodsError::ReadHostPod)? {
            Some(host) if !names::is_for_pod(&host.metadata, &self.tenant, key) => Err(PodsError::ForeignHostPod(name.to_string())),
            host => Ok(host),
        }
    }

    pub(crate) fn host_pods(&self) -> Api<Pod> {
        Api::namespaced(self.tenant.host.clone(), self.tenant.spec.workload_namespace.as_str())
    }

    pub(crate) fn tenant_pods(&self, key: &PodKey) -> Api<Pod> {
        Api::namespaced(self.tenant.kubelet.clone(), &key.namespace)
    }

    /// What the pod needs on the host: as its translation at the start found, or found now for a pod that an earlier process
    /// started.
    pub(crate) fn needs(&self, key: &PodKey, pod: &Pod) -> Arc<Needs> {
        let known = self.records.get(key).needs;
        known.unwrap_or_else(|| self.remember_needs(key, translate(self.owner(), key, pod).needs))
    }

    /// Remembers what the pod needs, with the pod Secret that an earlier process left.
    pub(crate) fn remember_needs(&self, key: &PodKey, needs: Needs) -> Arc<Needs> {
        self.records.update(key, |record| {
            if record.needs.is_none() {
                record.secret = record.secret.take().or_else(|| self.left_secret(key));
            }
            record.needs.get_or_insert_with(|| Arc::new(needs)).clone()
        })
    }

    pub(crate) fn left_secret(&self, key: &PodKey) -> Option<PodSecret> {
        let left = self.leftovers.pod_secrets.get(key.secret_name(&self.tenant.spec.uid).as_str())?;
        Some(left.secret.clone())
    }

    /// Holds copies of what the pod needs until [`Kubelet::release`].
    pub(crate) fn hold(&self, key: &PodKey, needs: &Needs) {
        if !self.records.update(key, |record| std::mem::replace(&mut record.holds_copies, true)) {
            self.copies.acquire(key, &needs.sources, &self.leftovers);
        }
    }

    /// Gives up what the pod needed on the host.
    pub(crate) async fn release(&self, key: &PodKey) -> Result<(), PodsError> {
        let record = self.records.get(key);
        if record.holds_copies {
            self.copies.release(key);
            self.records.update(key, |record| record.holds_copies = false);
        }
        if let Some(secret) = &record.secret {
            pod_secret::delete(&self.tenant, key, secret).await?;
            self.remember_secret(key, None);
        }
        Ok(())
    }

    pub(crate) fn remember_secret(&self, key: &PodKey, secret: Option<PodSecret>) {
        self.records.update(key, |record| record.secret = secret);
    }

    /// Replaces host names in texts for the tenant.
    pub(crate) fn text(&self, key: &PodKey, host: Option<&Pod>) -> TenantText {
        let needs = self.records.get(key).needs.unwrap_or_default();
        TenantText::new(self.owner(), key, host, &needs.sources)
    }

    /// Emits a Warning event on the tenant pod, once for each cause.
    pub(crate) fn warn(&self, key: &PodKey, reason: &str, message: &str) {
        if self.records.update(key, |record| record.emitted.insert(format!("{reason}: {message}"))) {
            tracing::info!(reason, event_message = message, "event emitted");
            self.events.warn(key, reason, message);
        }
    }

    /// Emits one Warning about fields that the host pod cannot have.
    pub(crate) fn warn_refused(&self, key: &PodKey, refusals: &[Refusal]) {
        let list: Vec<String> = refusals.iter().map(ToString::to_string).collect();
        self.warn(key, "UnsupportedField", &list.join("; "));
    }

    /// Writes the status `desired` where it differs from the tenant pod's. False when the tenant pod is gone.
    pub(crate) async fn write_status(&self, key: &PodKey, tenant: &Pod, desired: &PodStatus) -> Result<bool, PodsError> {
        let current = tenant.status.clone().unwrap_or_default();
        let Some(change) = status::patch(&current, desired) else { return Ok(true) };
        // The UID keeps the status of one pod from another that took its name.
        let patch = json!({ "metadata": { "uid": key.uid }, "status": change });
        let params = PatchParams { field_manager: Some(labels::AGENT.into()), ..PatchParams::default() };
        match call(self.tenant_pods(key).patch_status(&key.name, &params, &Patch::Strategic(patch))).await {
            Ok(mut written) => {
                written.metadata.managed_fields = None;
                self.records.update(key, |record| record.written = Some(Arc::new(written)));
                Ok(true)
            }
            Err(kube::Error::Api(status)) if is_gone_or_changed(&status) => Ok(false),
            Err(error) => Err(PodsError::PatchStatus(error)),
        }
    }
}

/// The time for a status, which has whole seconds.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()
}
