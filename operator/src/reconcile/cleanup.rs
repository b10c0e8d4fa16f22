//! The way back. Everything in the cluster's namespace goes by owner reference; what does not is the workload namespace,
//! which the finalizer waits for.
//!
//! The tenant leaves the control API with the first watch event of its deletion, so agents drain while the namespace
//! goes. The control plane goes last, when the finalizer is off: until then agents can tell it what they do.

use crate::reconcile::error::{CleanupError, Error};
use crate::reconcile::status;
use crate::reconcile::status::Outcome;
use crate::reconcile::subject::Subject;
use crate::state::Context;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt as _};
use nestling_crds::labels;
use nestling_crds::names::WorkloadNamespace;
use nestling_crds::v1alpha1::VirtualCluster;
use serde_json::json;
use std::time::Duration;

/// The watch of namespaces tells when one is gone; this is for when it does not.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A watch event is seldom later than this.
const CONFLICT: Duration = Duration::from_millis(200);

/// To be on before anything exists that must be cleaned up.
pub(crate) async fn ensure_finalizer(subject: &Subject, ctx: &Context) -> Result<(), CleanupError> {
    if subject.vc.finalizers().iter().any(|finalizer| finalizer == labels::FINALIZER) {
        return Ok(());
    }
    let mut finalizers = subject.vc.finalizers().to_vec();
    finalizers.push(labels::FINALIZER.into());
    set_finalizers(subject, &finalizers, ctx).await.map_err(CleanupError::AddFinalizer)
}

pub(crate) async fn clean_up(subject: &Subject, ctx: &Context) -> Result<Action, Error> {
    if !subject.vc.finalizers().iter().any(|finalizer| finalizer == labels::FINALIZER) {
        return Ok(Action::await_change());
    }
    ctx.state.disconnect(&subject.uid);
    if let Some(remains) = remove_namespace(subject, ctx).await? {
        status::write(subject, &Outcome::Deleting(&remains), ctx).await?;
        return Ok(Action::requeue(LOOK_AGAIN));
    }
    let rest: Vec<String> = subject.vc.finalizers().iter().filter(|finalizer| *finalizer != labels::FINALIZER).cloned().collect();
    match set_finalizers(subject, &rest, ctx).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        // The watch has not brought our last status write yet.
        Err(kube::Error::Api(status)) if status.is_conflict() => return Ok(Action::requeue(CONFLICT)),
        result => result.map_err(CleanupError::RemoveFinalizer)?,
    }
    tracing::info!(cluster = %subject.reference, "cleaned up");
    Ok(Action::await_change())
}

/// Deletes the workload namespace; what it is still waiting for, or `None` if it is gone.
async fn remove_namespace(subject: &Subject, ctx: &Context) -> Result<Option<String>, CleanupError> {
    let name = WorkloadNamespace::for_cluster(&subject.namespace, &subject.name, &subject.uid);
    let api: Api<Namespace> = Api::all(ctx.host.clone());
    let live = api.get_opt(name.as_str()).await.map_err(|source| CleanupError::ReadNamespace { name: name.clone(), source })?;
    let Some(live) = live.filter(|live| live.labels().get(labels::TENANT).is_some_and(|uid| uid == subject.uid.as_str())) else {
        return Ok(None);
    };
    if live.metadata.deletion_timestamp.is_none() {
        let preconditions = Preconditions { uid: live.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        match api.delete(name.as_str(), &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(None),
            Err(source) => return Err(CleanupError::DeleteNamespace { name, source }),
        }
    }
    Ok(Some(format!("namespace {name} is being deleted{}", obstacles(&live))))
}

/// What the host says of a namespace that does not go.
fn obstacles(namespace: &Namespace) -> String {
    let conditions = namespace.status.as_ref().and_then(|status| status.conditions.as_ref());
    let hindering = conditions.into_iter().flatten().filter(|condition| condition.status == "True");
    let messages: Vec<&str> = hindering.filter_map(|condition| condition.message.as_deref()).collect();
    if messages.is_empty() { String::new() } else { format!(": {}", messages.join("; ")) }
}

/// The resourceVersion keeps us from undoing a change of finalizers that we have not seen.
async fn set_finalizers(subject: &Subject, finalizers: &[String], ctx: &Context) -> Result<(), kube::Error> {
    let api: Api<VirtualCluster> = Api::namespaced(ctx.host.clone(), &subject.namespace);
    let metadata = json!({
        "uid": subject.uid.as_str(),
        "resourceVersion": subject.vc.metadata.resource_version,
        "finalizers": finalizers,
    });
    let params = PatchParams { field_manager: Some(labels::OPERATOR.into()), ..PatchParams::default() };
    api.patch_metadata(&subject.name, &params, &Patch::Merge(json!({"metadata": metadata}))).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_does_not_go_says_why() {
        let namespace: Namespace = serde_json::from_value(json!({"status": {"conditions": [
            {"type": "NamespaceDeletionDiscoveryFailure", "status": "False", "message": "All resources successfully discovered"},
            {"type": "NamespaceContentRemaining", "status": "True", "message": "Some resources are remaining: pods. has 2 resource instances"},
        ]}}))
        .unwrap();
        assert_eq!(obstacles(&namespace), ": Some resources are remaining: pods. has 2 resource instances");
    }
}
