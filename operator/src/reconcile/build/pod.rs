//! The frame of a control-plane pod: hardened, placed, without any right on the host.

use super::metadata;
use super::placement::{Part, place};
use super::{config_hash, hardening};
use crate::reconcile::validate::ValidatedCluster;
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// What a container is called in the pod's annotations, and the hash over what it reads at its start.
pub type ConfigHashes<'a> = &'a [(&'a str, String)];

/// A pod of `part` with `inside` (containers, volumes, grace period) in the common frame.
pub fn template(cluster: &ValidatedCluster, part: Part<'_>, hashes: ConfigHashes<'_>, inside: PodSpec) -> PodTemplateSpec {
    let annotations = hashes.iter().map(|(name, hash)| (config_hash::annotation(name), hash.clone())).collect();
    let placed = place(cluster, part);
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(metadata::pod_labels(cluster, part.component)),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            security_context: Some(hardening::pod()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            node_selector: placed.node_selector,
            tolerations: placed.tolerations,
            priority_class_name: placed.priority_class_name,
            affinity: placed.affinity,
            topology_spread_constraints: placed.topology_spread_constraints,
            ..inside
        }),
    }
}
