//! Starting a pod: first all that it mounts, then the host pod, so that the host's kubelet finds everything in place.

use super::error::PodsError;
use super::kubelet::Kubelet;
use super::names::{PodKey, Source};
use super::record::Record;
use super::translate::{Translation, add_service_variables, translate};
use super::volumes::copies::CopyState;
use super::volumes::pod_secret;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use nestling_crds::labels;
use nestling_runtime::error::chain;
use nestling_runtime::kube::call;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long one attempt waits until it is known whether the tenant has an object. Beyond that, the object's watch event
/// brings the pod back.
const PATIENCE: Duration = Duration::from_secs(1);
/// A host pod that was created is read live when the watch has not delivered it for this long.
const UNOBSERVED: Duration = Duration::from_secs(10);
/// A host that refuses a pod may accept it later: quota is freed, policies change.
const REFUSED: Duration = Duration::from_secs(30);

/// Provides what `pod` mounts and creates its host pod. Returns when to try again without an event.
pub(crate) async fn start(kubelet: &Kubelet, key: &PodKey, pod: &Pod) -> Result<Option<Duration>, PodsError> {
    let Translation { needs, pod: translated } = translate(kubelet.owner(), key, pod);
    let mut host = match translated {
        Ok(host) => host,
        Err(refusals) => {
            // Tried again when the pod changes: its event brings it back.
            kubelet.warn_refused(key, &refusals);
            return Ok(None);
        }
    };
    let needs = kubelet.remember_needs(key, needs);
    kubelet.hold(key, &needs);
    let known = kubelet.records.get(key).secret;
    let (secret, states) = tokio::join!(
        pod_secret::ensure(&kubelet.tenant, key, pod, &needs.files, known.as_ref(), Timestamp::now()),
        kubelet.copies.states(&needs.sources, PATIENCE),
    );
    match secret {
        Ok(secret) => kubelet.remember_secret(key, secret),
        Err(error) => {
            kubelet.warn(key, "FailedMount", &kubelet.text(key, None).of(&chain(&error)));
            return Err(error.into());
        }
    }
    if let Some((source, why)) = states.iter().find_map(|(source, state)| Some((source, unready(state)?))) {
        tracing::debug!(%source, why, "waiting for a copy");
        if let Some(CopyState::Failed(why)) = states.get(source) {
            kubelet.warn(key, "FailedMount", &kubelet.text(key, None).of(why));
        }
        return Ok(None);
    }
    let tenant = &kubelet.tenant.spec;
    add_service_variables(
        &mut host,
        pod,
        &kubelet.services.visible_from(&key.namespace),
        tenant.kubernetes_address,
        &keys_by_copy(kubelet, &states),
    );
    create(kubelet, key, &host).await
}

/// Why a pod cannot be created yet because of one source. A missing one does not hold it back: the host's kubelet waits
/// for it, as any kubelet does.
fn unready(state: &CopyState) -> Option<&'static str> {
    match state {
        CopyState::Unknown => Some("not known yet whether the tenant has it"),
        CopyState::Failed(_) => Some("its copy could not be written"),
        CopyState::Missing | CopyState::Present { .. } => None,
    }
}

fn keys_by_copy(kubelet: &Kubelet, states: &BTreeMap<Source, CopyState>) -> BTreeMap<String, Arc<BTreeSet<String>>> {
    let tenant = &kubelet.tenant;
    let present = states.iter().filter_map(|(source, state)| match state {
        CopyState::Present { keys } => Some((source.host_name(&tenant.spec.uid, &tenant.node).to_string(), keys.clone())),
        CopyState::Unknown | CopyState::Missing | CopyState::Failed(_) => None,
    });
    present.collect()
}

async fn create(kubelet: &Kubelet, key: &PodKey, host: &Pod) -> Result<Option<Duration>, PodsError> {
    let params = PostParams { field_manager: Some(labels::AGENT.into()), ..PostParams::default() };
    let created = match call(kubelet.host_pods().create(&params, host)).await {
        Ok(created) => created,
        // Created before and not delivered by the watch: by an earlier process, or by a call whose answer was lost.
        Err(kube::Error::Api(status)) if status.is_already_exists() => match kubelet.read_host_pod(key).await? {
            Some(existing) => existing,
            None => return Ok(Some(Duration::from_millis(100))),
        },
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 413 | 422) => {
            kubelet.warn(key, "FailedCreate", &kubelet.text(key, None).of(&status.message));
            return Ok(Some(REFUSED));
        }
        Err(error) => return Err(PodsError::CreateHostPod(error)),
    };
    tracing::info!(host_pod = created.metadata.name, "host pod created");
    kubelet.records.update(key, |record| {
        record.emitted.clear();
        if !record.observed {
            record.created = Some((Arc::new(created), Instant::now()));
        }
    });
    Ok(Some(UNOBSERVED))
}

/// A host pod that was created and that the store does not have: the watch is late, or the pod was deleted before the
/// watch delivered it.
pub(crate) async fn await_host_pod(kubelet: &Kubelet, key: &PodKey, record: &Record) -> Result<Option<Duration>, PodsError> {
    let Some((created, since)) = &record.created else { return Ok(None) };
    if since.elapsed() < UNOBSERVED {
        return Ok(Some(UNOBSERVED.saturating_sub(since.elapsed())));
    }
    if kubelet.read_host_pod(key).await?.is_some() {
        return Ok(Some(UNOBSERVED));
    }
    let created = created.clone();
    kubelet.records.update(key, |record| {
        record.created = None;
        record.last_host = Some(created);
    });
    Ok(Some(Duration::ZERO))
}
