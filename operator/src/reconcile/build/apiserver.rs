//! Deployment `<vc>-apiserver`, with topology `External`.

use super::metadata::{self, component};
use super::placement::Part;
use super::pod::template;
use super::{apiserver_container, names, rollout};
use crate::pki::PkiSecrets;
use crate::reconcile::validate::ValidatedCluster;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{PodSpec, Secret};

pub fn apiserver(cluster: &ValidatedCluster, pki: &PkiSecrets, files: &Secret) -> Deployment {
    let part = Part { component: component::APISERVER, settings: &cluster.placement, revision_label: Some(rollout::REVISION_LABEL) };
    let inside = PodSpec {
        containers: vec![apiserver_container::apiserver(cluster)],
        volumes: Some(apiserver_container::volumes(cluster)),
        termination_grace_period_seconds: Some(apiserver_container::grace_period(cluster)),
        ..PodSpec::default()
    };
    let hashes = [(apiserver_container::NAME, apiserver_container::config(pki, files))];
    Deployment {
        metadata: metadata::owned(cluster, names::apiserver(&cluster.name)),
        spec: DeploymentSpec {
            replicas: Some(cluster.replicas),
            selector: metadata::label_selector(cluster, component::APISERVER),
            strategy: Some(rollout::one_more()),
            revision_history_limit: Some(rollout::HISTORY),
            template: template(cluster, part, &hashes, inside),
            ..DeploymentSpec::default()
        },
        ..Deployment::default()
    }
}
