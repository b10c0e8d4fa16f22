//! What of an object is worth its memory.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Node, Pod, PodTemplateSpec};
use kube::{Resource, ResourceExt as _};

/// Managed fields are about half of most objects' metadata, and nobody here reads them.
pub fn managed_fields<K: Resource>(object: &mut K) {
    object.managed_fields_mut().clear();
}

/// Nodes list every image they hold.
pub fn node(node: &mut Node) {
    managed_fields(node);
    node.annotations_mut().clear();
    if let Some(status) = &mut node.status {
        status.images = None;
        status.volumes_attached = None;
        status.volumes_in_use = None;
    }
}

/// Only what says how a pod is doing, and where.
pub fn pod(pod: &mut Pod) {
    managed_fields(pod);
    pod.annotations_mut().clear();
    if let Some(spec) = &mut pod.spec {
        *spec = k8s_openapi::api::core::v1::PodSpec { node_name: spec.node_name.take(), ..Default::default() };
    }
}

/// Whether a template still is what we applied is seen by `metadata.generation`.
pub fn stateful_set(set: &mut StatefulSet) {
    managed_fields(set);
    set.spec.template = PodTemplateSpec::default();
    set.spec.volume_claim_templates = None;
}

pub fn deployment(deployment: &mut Deployment) {
    managed_fields(deployment);
    deployment.spec.template = PodTemplateSpec::default();
}
