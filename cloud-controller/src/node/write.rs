//! Writes what `plan` found.

use super::plan::{Action, Update};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use nestling_crds::labels;
use serde_json::{Map, Value, json};
use std::future::Future;
use std::time::Duration;

const CALL: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("cannot write the addresses")]
    Addresses(#[source] kube::Error),
    #[error("cannot write provider ID, labels and taints")]
    Facts(#[source] kube::Error),
    #[error("cannot delete the node")]
    Delete(#[source] kube::Error),
    #[error("no answer within {CALL:?}")]
    Timeout,
}

/// A Node that is gone, or has changed since, is no error: the watch tells of it and a new plan is made.
pub async fn write(nodes: &Api<Node>, name: &str, action: &Action) -> Result<(), WriteError> {
    let params = PatchParams { field_manager: Some(labels::CLOUD_CONTROLLER.into()), ..PatchParams::default() };
    match action {
        Action::Delete { uid } => {
            let same = Preconditions { uid: Some(uid.clone()), resource_version: None };
            let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
            call(nodes.delete(name, &params), WriteError::Delete).await?;
            tracing::info!(node = name, "deleted the node: its host node serves the tenant no longer");
        }
        Action::Update(update) => {
            if let Some(addresses) = &update.addresses {
                // Strategic merge knows addresses as a map by type, which would lose one of two of a type.
                let patch = Patch::Merge(json!({"status": {"addresses": addresses}}));
                call(nodes.patch_status(name, &params, &patch), WriteError::Addresses).await?;
            }
            if let Some(patch) = facts(update) {
                call(nodes.patch(name, &params, &Patch::Merge(patch)), WriteError::Facts).await?;
                tracing::info!(node = name, "initialized the node");
            }
        }
    }
    Ok(())
}

/// One patch for all of it, so that the taint goes with the facts it stands for.
fn facts(update: &Update) -> Option<Value> {
    let mut metadata = Map::new();
    let mut spec = Map::new();
    if !update.labels.is_empty() {
        metadata.insert("labels".into(), json!(update.labels));
    }
    if let Some(id) = &update.provider_id {
        spec.insert("providerID".into(), json!(id));
    }
    if let Some(taints) = &update.taints {
        spec.insert("taints".into(), json!(taints));
        // A list is replaced whole, so it must be the list that the plan saw. Writing the addresses changes the version;
        // then the next turn removes the taint.
        metadata.insert("resourceVersion".into(), json!(update.resource_version));
    }
    (!metadata.is_empty() || !spec.is_empty()).then(|| json!({"metadata": metadata, "spec": spec}))
}

async fn call<T>(call: impl Future<Output = Result<T, kube::Error>>, failed: fn(kube::Error) -> WriteError) -> Result<(), WriteError> {
    match tokio::time::timeout(CALL, call).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() || status.is_conflict() => Ok(()),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(WriteError::Timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_tied_to_the_version_they_were_seen_at() {
        let update = Update { resource_version: "7".into(), taints: Some(Vec::new()), ..Update::default() };
        assert_eq!(facts(&update).unwrap(), json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": []}}));
    }

    #[test]
    fn addresses_alone_need_no_second_write() {
        assert_eq!(facts(&Update { addresses: Some(Vec::new()), ..Update::default() }), None);
    }
}
