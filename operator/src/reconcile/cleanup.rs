//! The way back. Everything in the cluster's namespace goes by owner reference; what does not is the workload namespace,
//! which the finalizer waits for, and the data, which goes or stays as `spec.deletionPolicy` says.
//!
//! Nothing of this needs an object that can be decoded: it begins with a look at the live object, of which only the deletion
//! policy, the service range and the name of the workload namespace are read.
//!
//! The tenant leaves the control API with the first watch event of its deletion, so agents drain while the namespace
//! goes. The control plane goes last, when the finalizer is off: until then agents can tell it what they do.

use crate::etcd;
use crate::reconcile::access;
use crate::reconcile::error::{CleanupError, Error};
use crate::reconcile::retained;
use crate::reconcile::status;
use crate::reconcile::status::Outcome;
use crate::reconcile::subject::{Identity, Subject};
use crate::state::Context;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt as _};
use nestling_crds::labels;
use nestling_crds::names::{TenantUid, WorkloadNamespace};
use nestling_crds::v1alpha1::{DeletionPolicy, VirtualCluster};
use nestling_runtime::kube::{delete_exact, is_gone_or_changed};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

/// The watch of namespaces tells when one is gone; this is for when it does not.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A watch event is seldom later than this.
const CONFLICT: Duration = Duration::from_millis(200);

/// To be on before anything exists that must be cleaned up.
pub(crate) async fn ensure_finalizer(subject: &Subject, ctx: &Context) -> Result<(), CleanupError> {
    if subject.is_finalized_by_us() {
        return Ok(());
    }
    let mut finalizers = subject.vc.finalizers().to_vec();
    finalizers.push(labels::FINALIZER.into());
    set_finalizers(&subject.id, subject.vc.resource_version(), &finalizers, ctx).await.map_err(CleanupError::AddFinalizer)
}

/// `subject` is for the status, which an object that cannot be decoded does not get. `namespace_refused`: no cluster may be in its
/// namespace, and the operator may not write there.
pub(crate) async fn clean_up(id: &Identity, subject: Option<&Subject>, namespace_refused: bool, ctx: &Context) -> Result<Action, Error> {
    let api = Api::<DynamicObject>::namespaced_with(ctx.host.clone(), &id.namespace, &ApiResource::erase::<VirtualCluster>(&()));
    let live = api.get_opt(&id.name).await.map_err(CleanupError::Read)?;
    let Some(live) = live.filter(|live| live.metadata.uid.as_deref() == Some(id.uid.as_str())) else { return Ok(Action::await_change()) };
    if !live.finalizers().iter().any(|finalizer| finalizer == labels::FINALIZER) {
        return Ok(Action::await_change());
    }
    etcd::keep::stop(&id.uid, &ctx.state);
    ctx.state.disconnect(&id.uid);
    if let Some(remains) = remove_namespaces(id, &live, ctx).await? {
        if let Some(subject) = subject {
            status::write(subject, &Outcome::Deleting(&remains), ctx).await?;
        }
        return Ok(Action::requeue(LOOK_AGAIN));
    }
    // Where no cluster may be, nothing was made.
    if !namespace_refused {
        settle(id, &live, ctx).await?;
    }
    let rest: Vec<String> = live.finalizers().iter().filter(|finalizer| *finalizer != labels::FINALIZER).cloned().collect();
    match set_finalizers(id, live.resource_version(), &rest, ctx).await {
        Err(kube::Error::Api(status)) if is_gone_or_changed(&status) => return Ok(Action::requeue(CONFLICT)),
        result => result.map_err(CleanupError::RemoveFinalizer)?,
    }
    tracing::info!(cluster = %id.reference, "cleaned up");
    Ok(Action::await_change())
}

/// Settles what becomes of the data, with rights that end when that is done.
///
/// A namespace that is being deleted takes all of it, whatever the policy: the operator's rights are among what has been deleted,
/// and nothing can be created there any more.
async fn settle(id: &Identity, live: &DynamicObject, ctx: &Context) -> Result<(), Error> {
    let name = &id.namespace;
    let namespace = Api::<Namespace>::all(ctx.host.clone()).get_opt(name).await;
    let namespace = namespace.map_err(|source| CleanupError::ReadNamespace { name: name.clone(), source })?;
    if namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
        return Ok(());
    }
    access::keep(id, ctx).await?;
    let range = live.data["status"]["serviceCIDRs"][0].as_str();
    retained::settle(id, policy(live), range, ctx).await.map_err(CleanupError::Settle)?;
    Ok(access::give_up(id, ctx).await?)
}

/// What cannot be understood keeps data rather than lose it.
fn policy(live: &DynamicObject) -> DeletionPolicy {
    match &live.data["spec"]["deletionPolicy"] {
        serde_json::Value::Null => DeletionPolicy::default(),
        value if value == "Delete" => DeletionPolicy::Delete,
        _ => DeletionPolicy::Retain,
    }
}

/// Deletes the workload namespace: the one that the status names, the one that the cluster would have, and any that is
/// labelled as its own. Returns what is still waited for, or `None` if all are gone.
async fn remove_namespaces(id: &Identity, live: &DynamicObject, ctx: &Context) -> Result<Option<String>, CleanupError> {
    let mut names = BTreeSet::from([WorkloadNamespace::for_cluster(&id.namespace, &id.name, &id.uid).to_string()]);
    names.extend(live.data["status"]["workloadNamespace"].as_str().map(ToOwned::to_owned));
    let labelled = ctx.stores.namespaces.state_filter(|namespace| is_of(namespace, &id.uid));
    names.extend(labelled.iter().map(|namespace| namespace.name_any()));
    let mut remains = Vec::new();
    for name in names {
        remains.extend(remove_namespace(name, id, ctx).await?);
    }
    Ok((!remains.is_empty()).then(|| remains.join("; ")))
}

async fn remove_namespace(name: String, id: &Identity, ctx: &Context) -> Result<Option<String>, CleanupError> {
    let api: Api<Namespace> = Api::all(ctx.host.clone());
    let live = api.get_opt(&name).await.map_err(|source| CleanupError::ReadNamespace { name: name.clone(), source })?;
    let Some(live) = live else { return Ok(None) };
    if !is_of(&live, &id.uid) {
        tracing::warn!(cluster = %id.reference, namespace = name, "left: neither its label nor its annotation says that it is the cluster's");
        return Ok(None);
    }
    if live.metadata.deletion_timestamp.is_none()
        && !delete_exact(&api, &live.metadata, None).await.map_err(|source| CleanupError::DeleteNamespace { name: name.clone(), source })?
    {
        return Ok(None);
    }
    Ok(Some(format!("namespace {name} is being deleted{}", obstacles(&live))))
}

/// By its label, or, if somebody has removed that, by its annotation.
fn is_of<K: kube::Resource>(namespace: &K, tenant: &TenantUid) -> bool {
    let (label, annotation) = (namespace.labels().get(labels::TENANT), namespace.annotations().get(labels::OWNER_UID));
    label.or(annotation).is_some_and(|uid| uid == tenant.as_str())
}

/// What the host says of a namespace that does not go.
fn obstacles(namespace: &Namespace) -> String {
    let conditions = namespace.status.as_ref().and_then(|status| status.conditions.as_ref());
    let hindering = conditions.into_iter().flatten().filter(|condition| condition.status == "True");
    let messages: Vec<&str> = hindering.filter_map(|condition| condition.message.as_deref()).collect();
    if messages.is_empty() { String::new() } else { format!(": {}", messages.join("; ")) }
}

/// The resourceVersion keeps us from undoing a change of finalizers that we have not seen.
async fn set_finalizers(id: &Identity, version: Option<String>, finalizers: &[String], ctx: &Context) -> Result<(), kube::Error> {
    let api: Api<VirtualCluster> = Api::namespaced(ctx.host.clone(), &id.namespace);
    let metadata = json!({"uid": id.uid.as_str(), "resourceVersion": version, "finalizers": finalizers});
    let params = PatchParams { field_manager: Some(labels::OPERATOR.into()), ..PatchParams::default() };
    api.patch_metadata(&id.name, &params, &Patch::Merge(json!({"metadata": metadata}))).await.map(drop)
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
