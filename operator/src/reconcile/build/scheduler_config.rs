//! ConfigMap `<vc>-controllers-config`: `KubeSchedulerConfiguration` with the tenant's profiles.

use super::flags::file;
use super::mounts::CERTIFICATES;
use super::{metadata, names};
use crate::pki::keys;
use crate::reconcile::validate::ValidatedCluster;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use std::collections::BTreeMap;

pub const FILE: &str = "scheduler.yaml";

pub fn controllers_config(cluster: &ValidatedCluster) -> ConfigMap {
    let mut config = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": file(CERTIFICATES, format!("{}.kubeconfig", keys::SCHEDULER))},
        "enableProfiling": false,
        "leaderElection": {"leaderElect": true},
    });
    if !cluster.scheduler.profiles.is_empty() {
        config["profiles"] = json!(cluster.scheduler.profiles);
    }
    ConfigMap {
        metadata: metadata::owned(cluster, names::controllers_config(&cluster.name)),
        // JSON is YAML, and always written the same way.
        data: Some(BTreeMap::from([(FILE.to_owned(), format!("{config:#}\n"))])),
        ..ConfigMap::default()
    }
}
