//! A pod that runs: its changes go to the host pod, its tokens and downward-API files stay fresh, and its status comes back.

use super::error::PodsError;
use super::kubelet::{Kubelet, now};
use super::names::PodKey;
use super::status::{self, has_ended};
use super::translate::Refusal;
use super::volumes::pod_secret::{self, DIGEST, PodSecret};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements, Toleration};
use kube::api::{Patch, PatchParams};
use nestling_crds::labels;
use nestling_runtime::kube::{call, is_gone_or_changed};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Keeps a pod that has a host pod in step, both ways. Returns when its tokens are due.
pub(crate) async fn follow(kubelet: &Kubelet, key: &PodKey, tenant: &Pod, host: &Pod) -> Result<Option<Duration>, PodsError> {
    let (refresh, written) = tokio::join!(update_host(kubelet, key, tenant, host), write_status(kubelet, key, tenant, host));
    written?;
    refresh
}

/// Writes the status that the tenant pod should have, if it has another.
pub(crate) async fn write_status(kubelet: &Kubelet, key: &PodKey, tenant: &Pod, host: &Pod) -> Result<(), PodsError> {
    if is_unschedulable(host) {
        // Who uses the room is not shown to the tenant.
        let message = "The host has no room for this pod on its node now; it starts when there is";
        kubelet.warn(key, "HostUnschedulable", message);
    }
    match status::mirrored(tenant, host, &kubelet.text(key, Some(host)), now()) {
        Some(desired) => kubelet.write_status(key, tenant, &desired).await.map(drop),
        None => Ok(()),
    }
}

/// The tenant's scheduler placed the pod here and the host has no room.
fn is_unschedulable(host: &Pod) -> bool {
    let conditions = host.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| {
        condition.type_ == "PodScheduled" && condition.status == "False" && condition.reason.as_deref() == Some("Unschedulable")
    })
}

/// Applies changes of the tenant pod to the host pod, and keeps its tokens and downward-API files fresh.
async fn update_host(kubelet: &Kubelet, key: &PodKey, tenant: &Pod, host: &Pod) -> Result<Option<Duration>, PodsError> {
    if has_ended(tenant) && has_ended(host) {
        // The containers will not start again; the host pod stays for its logs.
        return kubelet.release(key).await.map(|()| None);
    }
    if has_ended(tenant) || host.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let changes = updates(tenant, host);
    if !changes.refused.is_empty() {
        kubelet.warn_refused(key, &changes.refused);
    }
    if let Some(patch) = changes.patch {
        patch_host(kubelet, host, patch).await?;
    }
    let needs = kubelet.needs(key, tenant);
    kubelet.hold(key, &needs);
    let known = kubelet.records.get(key).secret;
    let secret = pod_secret::ensure(&kubelet.tenant, key, tenant, &needs.files, known.as_ref(), Timestamp::now()).await?;
    kubelet.remember_secret(key, secret.clone());
    let Some(PodSecret { refresh_at, digest, .. }) = secret else { return Ok(None) };
    if known.is_some_and(|known| known.digest != digest) {
        // A change of the host pod makes the host's kubelet update the pod's volumes at once instead of at its next round.
        patch_host(kubelet, host, json!({ "metadata": { "uid": host.metadata.uid, "annotations": { DIGEST: digest } } })).await?;
    }
    Ok(refresh_at.map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default() + Duration::from_secs(1)))
}

async fn patch_host(kubelet: &Kubelet, host: &Pod, patch: Value) -> Result<(), PodsError> {
    let name = host.metadata.name.as_deref().unwrap_or_default();
    let params = PatchParams { field_manager: Some(labels::AGENT.into()), ..PatchParams::default() };
    match call(kubelet.host_pods().patch(name, &params, &Patch::Strategic(patch))).await {
        Ok(_) => Ok(()),
        // Gone, or replaced: a watch event will bring the pod back.
        Err(kube::Error::Api(status)) if is_gone_or_changed(&status) => Ok(()),
        Err(error) => Err(PodsError::UpdateHostPod(error)),
    }
}

/// What differs between a tenant pod and its host pod.
#[derive(Clone, Debug, Default, PartialEq)]
struct Updates {
    /// Strategic merge patch; none: nothing to do.
    patch: Option<Value>,
    /// Changes that the host pod cannot have.
    refused: Vec<Refusal>,
}

/// Compares the fields that the API lets change: images, the deadline, tolerations; and those that come through
/// subresources: resources and ephemeral containers.
fn updates(tenant: &Pod, host: &Pod) -> Updates {
    let (Some(desired), Some(actual)) = (&tenant.spec, &host.spec) else { return Updates::default() };
    let mut spec = Map::new();
    let containers = images(&desired.containers, &actual.containers);
    if !containers.is_empty() {
        spec.insert("containers".into(), Value::Array(containers));
    }
    let init = images(desired.init_containers.as_deref().unwrap_or_default(), actual.init_containers.as_deref().unwrap_or_default());
    if !init.is_empty() {
        spec.insert("initContainers".into(), Value::Array(init));
    }
    if desired.active_deadline_seconds.is_some() && desired.active_deadline_seconds != actual.active_deadline_seconds {
        spec.insert("activeDeadlineSeconds".into(), json!(desired.active_deadline_seconds));
    }
    if let Some(tolerations) = tolerations(desired, actual) {
        spec.insert("tolerations".into(), json!(tolerations));
    }
    let patch = (!spec.is_empty()).then(|| json!({ "metadata": { "uid": host.metadata.uid }, "spec": spec }));
    Updates { patch, refused: refused(desired, actual) }
}

fn images(desired: &[Container], actual: &[Container]) -> Vec<Value> {
    let pairs = desired.iter().filter_map(|desired| Some((desired, actual.iter().find(|actual| actual.name == desired.name)?)));
    pairs
        .filter(|(desired, actual)| desired.image != actual.image)
        .map(|(desired, _)| json!({ "name": desired.name, "image": desired.image }))
        .collect()
}

/// The API only takes additions, and the host has added some of its own.
fn tolerations(desired: &PodSpec, actual: &PodSpec) -> Option<Vec<Toleration>> {
    let mut all = actual.tolerations.clone().unwrap_or_default();
    let before = all.len();
    for toleration in desired.tolerations.iter().flatten() {
        if !all.contains(toleration) {
            all.push(toleration.clone());
        }
    }
    (all.len() > before).then_some(all)
}

fn refused(desired: &PodSpec, actual: &PodSpec) -> Vec<Refusal> {
    let mut refused = Vec::new();
    let init = desired.init_containers.iter().flatten().zip(actual.init_containers.iter().flatten());
    for (desired, actual) in desired.containers.iter().zip(&actual.containers).chain(init) {
        if resized(desired, actual) {
            let field = format!("spec.containers{{{}}}.resources", desired.name);
            refused.push(Refusal::new(field, &desired.resources, "resizing a running pod is not supported yet"));
        }
    }
    for container in desired.ephemeral_containers.iter().flatten() {
        refused.push(Refusal::new("spec.ephemeralContainers", &container.name, "ephemeral containers are not supported yet"));
    }
    refused
}

/// The host may have defaulted what the tenant left open, so only what the tenant sets is compared.
fn resized(desired: &Container, actual: &Container) -> bool {
    let none = ResourceRequirements::default();
    let (desired, actual) = (desired.resources.as_ref().unwrap_or(&none), actual.resources.as_ref().unwrap_or(&none));
    let differs = |desired: &Option<BTreeMap<String, _>>, actual: &Option<BTreeMap<String, _>>| {
        desired.iter().flatten().any(|(name, quantity)| actual.as_ref().and_then(|map| map.get(name)) != Some(quantity))
    };
    differs(&desired.requests, &actual.requests) || differs(&desired.limits, &actual.limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value) -> Pod {
        let mut pod = json!({ "metadata": { "uid": "h" } });
        pod["spec"] = spec;
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn equal_pods_need_nothing() {
        let spec =
            json!({"containers": [{"name": "a", "image": "x", "resources": {"requests": {"cpu": "1"}}}], "tolerations": [{"key": "k"}]});
        assert_eq!(updates(&pod(spec.clone()), &pod(spec)), Updates::default());
    }

    #[test]
    fn images_deadline_and_tolerations_follow() {
        let tenant = pod(json!({
            "activeDeadlineSeconds": 5, "tolerations": [{"key": "new"}],
            "containers": [{"name": "a", "image": "x:2"}, {"name": "b", "image": "y"}],
            "initContainers": [{"name": "i", "image": "z:2"}],
        }));
        let host = pod(json!({
            "tolerations": [{"key": "host"}],
            "containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y"}],
            "initContainers": [{"name": "i", "image": "z:1"}],
        }));
        let updates = updates(&tenant, &host);
        assert_eq!(
            updates.patch,
            Some(json!({"metadata": {"uid": "h"}, "spec": {
                "activeDeadlineSeconds": 5,
                "containers": [{"name": "a", "image": "x:2"}],
                "initContainers": [{"name": "i", "image": "z:2"}],
                "tolerations": [{"key": "host"}, {"key": "new"}],
            }}))
        );
        assert_eq!(updates.refused, []);
    }

    #[test]
    fn resize_and_ephemeral_containers_are_refused_by_name() {
        let tenant = pod(json!({
            "containers": [{"name": "a", "resources": {"limits": {"cpu": "2"}}}],
            "ephemeralContainers": [{"name": "debug"}],
        }));
        let host = pod(json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1"}}}]}));
        let fields: Vec<_> = updates(&tenant, &host).refused.into_iter().map(|refusal| refusal.field).collect();
        assert_eq!(fields, ["spec.containers{a}.resources", "spec.ephemeralContainers"]);
    }

    #[test]
    fn what_the_host_defaulted_is_no_resize() {
        let tenant = pod(json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1"}}}]}));
        let host =
            pod(json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1"}}}]}));
        assert_eq!(updates(&tenant, &host), Updates::default());
    }
}
