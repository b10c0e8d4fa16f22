//! Another client of the host's API: how long its reads take.

use crate::figures::Sample;
use anyhow::Result;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "default";
const NAME: &str = "other";
/// Pause between reads: each is sent at its time, whether the one before has been answered or not.
const EVERY: Duration = Duration::from_millis(20);

/// What is read, and the right to read it.
pub(crate) async fn prepare(admin: &Client) -> Result<()> {
    let rule = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]});
    let subject = json!({"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE});
    let referred = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME});
    let metadata = json!({"name": NAME, "namespace": NAMESPACE});
    Api::namespaced(admin.clone(), NAMESPACE)
        .create(&PostParams::default(), &serde_json::from_value::<ConfigMap>(json!({"metadata": metadata, "data": {"key": "value"}}))?)
        .await?;
    let readers: k8s_openapi::api::rbac::v1::Role = serde_json::from_value(json!({"metadata": metadata, "rules": [rule]}))?;
    Api::namespaced(admin.clone(), NAMESPACE).create(&PostParams::default(), &readers).await?;
    let binding: k8s_openapi::api::rbac::v1::RoleBinding =
        serde_json::from_value(json!({"metadata": metadata, "roleRef": referred, "subjects": [subject]}))?;
    Api::namespaced(admin.clone(), NAMESPACE).create(&PostParams::default(), &binding).await?;
    Ok(())
}

/// Reads until `until`.
pub(crate) async fn read(client: Client, until: CancellationToken) -> Result<Sample> {
    let api = Api::<ConfigMap>::namespaced(client, NAMESPACE);
    let mut due = interval(EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut reads = JoinSet::new();
    while until.run_until_cancelled(due.tick()).await.is_some() {
        let api = api.clone();
        reads.spawn(async move {
            let begun = Instant::now();
            api.get(NAME).await.map(|_| begun.elapsed())
        });
    }
    Ok(reads.join_all().await.into_iter().collect::<Result<_, _>>()?)
}
