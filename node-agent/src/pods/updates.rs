//! Changes of a tenant pod's spec that a kubelet follows, as a patch of the host pod. Pure.

use super::translate::Refusal;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Toleration};
use serde_json::{Map, Value, json};

/// What differs between a tenant pod and the host pod that realizes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Updates {
    /// Strategic merge patch; none: nothing to do.
    pub patch: Option<Value>,
    /// Changes that are asked for and cannot be followed.
    pub refused: Vec<Refusal>,
}

/// Compares the fields that the API lets change: images, the deadline, tolerations; and those that come through
/// subresources: resources and ephemeral containers.
pub fn updates(tenant: &Pod, host: &Pod) -> Updates {
    let (Some(wanted), Some(actual)) = (&tenant.spec, &host.spec) else { return Updates::default() };
    let mut spec = Map::new();
    let containers = images(&wanted.containers, &actual.containers);
    if !containers.is_empty() {
        spec.insert("containers".into(), Value::Array(containers));
    }
    let init = images(wanted.init_containers.as_deref().unwrap_or_default(), actual.init_containers.as_deref().unwrap_or_default());
    if !init.is_empty() {
        spec.insert("initContainers".into(), Value::Array(init));
    }
    if wanted.active_deadline_seconds.is_some() && wanted.active_deadline_seconds != actual.active_deadline_seconds {
        spec.insert("activeDeadlineSeconds".into(), json!(wanted.active_deadline_seconds));
    }
    if let Some(tolerations) = tolerations(wanted, actual) {
        spec.insert("tolerations".into(), json!(tolerations));
    }
    let patch = (!spec.is_empty()).then(|| json!({ "metadata": { "uid": host.metadata.uid }, "spec": spec }));
    Updates { patch, refused: refused(wanted, actual) }
}

fn images(wanted: &[Container], actual: &[Container]) -> Vec<Value> {
    let pairs = wanted.iter().filter_map(|wanted| Some((wanted, actual.iter().find(|actual| actual.name == wanted.name)?)));
    pairs
        .filter(|(wanted, actual)| wanted.image != actual.image)
        .map(|(wanted, _)| json!({ "name": wanted.name, "image": wanted.image }))
        .collect()
}

/// The API only takes additions, and the host has added some of its own.
fn tolerations(wanted: &PodSpec, actual: &PodSpec) -> Option<Vec<Toleration>> {
    let mut all = actual.tolerations.clone().unwrap_or_default();
    let before = all.len();
    for toleration in wanted.tolerations.iter().flatten() {
        if !all.contains(toleration) {
            all.push(toleration.clone());
        }
    }
    (all.len() > before).then_some(all)
}

fn refused(wanted: &PodSpec, actual: &PodSpec) -> Vec<Refusal> {
    let mut refused = Vec::new();
    let init = wanted.init_containers.iter().flatten().zip(actual.init_containers.iter().flatten());
    for (wanted, actual) in wanted.containers.iter().zip(&actual.containers).chain(init) {
        if resized(wanted, actual) {
            refused.push(Refusal {
                field: format!("spec.containers{{{}}}.resources", wanted.name),
                value: json!(wanted.resources).to_string(),
                reason: "resizing a running pod is not supported yet".into(),
            });
        }
    }
    for container in wanted.ephemeral_containers.iter().flatten() {
        refused.push(Refusal {
            field: "spec.ephemeralContainers".into(),
            value: json!(container.name).to_string(),
            reason: "ephemeral containers are not supported yet".into(),
        });
    }
    refused
}

/// The host may have defaulted what the tenant left open, so only what the tenant says is compared.
fn resized(wanted: &Container, actual: &Container) -> bool {
    let none = k8s_openapi::api::core::v1::ResourceRequirements::default();
    let (wanted, actual) = (wanted.resources.as_ref().unwrap_or(&none), actual.resources.as_ref().unwrap_or(&none));
    let differs = |wanted: &Option<std::collections::BTreeMap<String, _>>, actual: &Option<std::collections::BTreeMap<String, _>>| {
        wanted.iter().flatten().any(|(name, quantity)| actual.as_ref().and_then(|map| map.get(name)) != Some(quantity))
    };
    differs(&wanted.requests, &actual.requests) || differs(&wanted.limits, &actual.limits)
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
