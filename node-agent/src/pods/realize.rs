//! Making the host pod: first all that it mounts, then the pod, so that the host's kubelet finds everything in place.

use super::error::{PodsError, report};
use super::key::PodKey;
use super::ownership;
use super::reconcile::Reconciler;
use super::record::Record;
use super::translate::Refusal;
use crate::volumes::copies::CopyState;
use crate::volumes::{Source, pod_secret};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use nestling_crds::labels;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Longest wait for the answer to one call.
pub const CALL: Duration = Duration::from_secs(15);
/// How long one attempt waits to hear whether the tenant has an object. Beyond that, news of it brings the pod back.
const PATIENCE: Duration = Duration::from_secs(1);
/// A host pod that was made is looked for when the watch has not shown it for this long.
const UNSHOWN: Duration = Duration::from_secs(10);
/// A host that refuses a pod may take it later: quota is freed, policies change.
const REFUSED: Duration = Duration::from_secs(30);

impl Reconciler {
    pub async fn realize(&self, key: &PodKey, pod: &Pod) -> Result<Option<Duration>, PodsError> {
        if let Err(refusals) = self.translation(key, pod, &BTreeMap::new()).pod {
            // Retried when the pod changes: its event brings it back.
            self.tell(key, "UnsupportedField", &refused(&refusals));
            return Ok(None);
        }
        let needs = self.acquire(key, pod);
        let record = self.records.get(key);
        let (secret, states) = tokio::join!(
            pod_secret::ensure(&self.tenant, key, pod, &needs.files, record.secret.as_ref(), Timestamp::now()),
            self.copies.states(&needs.sources, PATIENCE),
        );
        match secret {
            Ok(secret) => self.remember_secret(key, secret),
            Err(error) => {
                self.tell(key, "FailedMount", &self.rewrite(key, None).text(&report(&error)));
                return Err(error.into());
            }
        }
        if let Some((source, why)) = states.iter().find_map(|(source, state)| Some((source, unready(state)?))) {
            tracing::debug!(%source, why, "waiting for a copy");
            if let Some(CopyState::Failed(why)) = states.get(source) {
                self.tell(key, "FailedMount", &self.rewrite(key, None).text(why));
            }
            return Ok(None);
        }
        let translation = self.translation(key, pod, &keys(&states, &needs.env_from));
        match translation.pod {
            Ok(host) => self.create(key, *host).await,
            Err(refusals) => {
                self.tell(key, "UnsupportedField", &refused(&refusals));
                Ok(None)
            }
        }
    }

    async fn create(&self, key: &PodKey, host: Pod) -> Result<Option<Duration>, PodsError> {
        let params = PostParams { field_manager: Some(labels::AGENT.into()), ..PostParams::default() };
        let made = match timeout(CALL, self.host_pods().create(&params, &host)).await? {
            Ok(made) => made,
            // Made before, and the watch has not shown it: by an earlier life of the agent, or by a call whose answer was lost.
            Err(kube::Error::Api(status)) if status.is_already_exists() => match self.read_host_pod(key).await? {
                Some(there) => there,
                None => return Ok(Some(Duration::from_millis(100))),
            },
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 413 | 422) => {
                self.tell(key, "HostRefused", &self.rewrite(key, None).text(&status.message));
                return Ok(Some(REFUSED));
            }
            Err(error) => return Err(PodsError::CreateHostPod(error)),
        };
        tracing::info!(host_pod = made.metadata.name, "host pod made");
        self.records.update(key, |record| {
            record.told.clear();
            if !record.seen {
                record.made = Some((Arc::new(made), Instant::now()));
            }
        });
        Ok(Some(UNSHOWN))
    }

    /// A host pod that was made and is not shown: the watch is late, or the pod was removed before the watch saw it.
    pub async fn check_made(&self, key: &PodKey, record: &Record) -> Result<Option<Duration>, PodsError> {
        let Some((made, since)) = &record.made else { return Ok(None) };
        if since.elapsed() < UNSHOWN {
            return Ok(Some(UNSHOWN.saturating_sub(since.elapsed())));
        }
        if self.read_host_pod(key).await?.is_some() {
            return Ok(Some(UNSHOWN));
        }
        let made = made.clone();
        self.records.update(key, |record| {
            record.made = None;
            record.last = Some(made);
        });
        Ok(Some(Duration::ZERO))
    }

    /// The host pod, read live and checked to be ours.
    pub async fn read_host_pod(&self, key: &PodKey) -> Result<Option<Pod>, PodsError> {
        let name = key.host_name(&self.tenant.spec.uid);
        match timeout(CALL, self.host_pods().get_opt(name.as_str())).await?.map_err(PodsError::ReadHostPod)? {
            Some(host) if !ownership::realizes(&host.metadata, &self.tenant, key) => Err(PodsError::ForeignHostPod(name.to_string())),
            host => Ok(host),
        }
    }

    pub fn host_pods(&self) -> Api<Pod> {
        Api::namespaced(self.tenant.host.clone(), self.tenant.spec.workload_namespace.as_str())
    }
}

/// Why a pod cannot be made yet for the sake of one source. A missing one does not hold it back: the host's kubelet waits
/// for it, as any kubelet does.
fn unready(state: &CopyState) -> Option<&'static str> {
    match state {
        CopyState::Unknown => Some("the tenant has not said whether it exists"),
        CopyState::Failed(_) => Some("its copy could not be written"),
        CopyState::Missing | CopyState::Present { .. } => None,
    }
}

fn keys(states: &BTreeMap<Source, CopyState>, env_from: &BTreeSet<Source>) -> BTreeMap<Source, Arc<BTreeSet<String>>> {
    let present = states.iter().filter_map(|(source, state)| match state {
        CopyState::Present { keys } => Some((source.clone(), keys.clone())),
        CopyState::Unknown | CopyState::Missing | CopyState::Failed(_) => None,
    });
    present.filter(|(source, _)| env_from.contains(source)).collect()
}

/// All refusals in one message.
pub fn refused(refusals: &[Refusal]) -> String {
    let list: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    list.join("; ")
}
