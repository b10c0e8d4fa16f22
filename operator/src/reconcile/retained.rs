//! Data that may outlive its cluster: etcd's volume claims, and the Secrets without which their data is of no use.
//!
//! At deletion, [`settle`] decides by owner references alone: with `Delete` the `VirtualCluster` owns them and garbage
//! collection takes them, with `Retain` nothing does. What is retained keeps the UID of its cluster, and no later cluster of
//! the same name takes it over by name: it finds a conflict ([`may_claim`]) unless `spec.etcd.adopt` names that UID.

use crate::apply::{Applier, ApplyError, Ownership, ownership};
use crate::model::names;
use crate::reconcile::subject::{Identity, Subject};
use crate::state::Context;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt as _};
use nestling_crds::labels;
use nestling_crds::v1alpha1::{DeletionPolicy, StorageMedium};
use nestling_runtime::kube::call;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;

#[derive(Debug, thiserror::Error)]
#[error("cannot set the owner of {object}")]
pub(crate) struct SettleError {
    object: String,
    source: kube::Error,
}

/// Gives claims and Secrets of a cluster that is being deleted their last owner, or none.
pub(super) async fn settle(id: &Identity, policy: DeletionPolicy, service_range: Option<&str>, ctx: &Context) -> Result<(), SettleError> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(ctx.host.clone(), &id.namespace);
    let own = ListParams::default().labels(&format!("{}={}", labels::TENANT, id.uid));
    let failed = |object: String| move |source| SettleError { object, source };
    for claim in call(claims.list(&own)).await.map_err(failed("volume claims".into()))? {
        let name = claim.name_any();
        own_last(&claims, id, policy, None, &claim.metadata).await.map_err(failed(format!("PersistentVolumeClaim {name}")))?;
    }
    let secrets: Api<Secret> = Api::namespaced(ctx.host.clone(), &id.namespace);
    for name in data_secrets(&id.name) {
        let live = call(secrets.get_opt(&name)).await.map_err(failed(format!("Secret {name}")))?;
        if let Some(live) = live.filter(|live| live.labels().get(labels::TENANT).is_some_and(|uid| uid == id.uid.as_str())) {
            own_last(&secrets, id, policy, service_range, &live.metadata).await.map_err(failed(format!("Secret {name}")))?;
        }
    }
    Ok(())
}

/// Secrets without which etcd's data is of no use: the authorities, the keys of service-account tokens, and the encryption of
/// Secrets.
fn data_secrets(cluster: &str) -> [String; 3] {
    [names::ca(cluster), names::service_account_keys(cluster), names::apiserver_config(cluster)]
}

async fn own_last<K>(api: &Api<K>, id: &Identity, policy: DeletionPolicy, range: Option<&str>, live: &ObjectMeta) -> kube::Result<()>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let (owners, retained) = match policy {
        DeletionPolicy::Delete => (json!([id.owner()]), Value::Null),
        DeletionPolicy::Retain => (Value::Null, json!("true")),
    };
    let labels = json!({labels::RETAINED: retained, labels::CLUSTER: id.name});
    // Services in the data have addresses of it.
    let annotations = range.map(|range| json!({labels::SERVICE_RANGE: range}));
    merge(api, live, json!({"metadata": {"ownerReferences": owners, "labels": labels, "annotations": annotations.unwrap_or(json!({}))}}))
        .await
}

/// Patches the very object that was read.
async fn merge<K>(api: &Api<K>, live: &ObjectMeta, mut patch: Value) -> kube::Result<()>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    patch["metadata"]["uid"] = json!(live.uid);
    patch["metadata"]["resourceVersion"] = json!(live.resource_version);
    let params = PatchParams { field_manager: Some(labels::OPERATOR.into()), ..PatchParams::default() };
    call(api.patch(live.name.as_deref().unwrap_or_default(), &params, &Patch::Merge(patch))).await.map(drop)
}

/// Whether the cluster takes over retained claims. Fails if a claim that its StatefulSet, which does not exist yet, would find
/// under its name is not the cluster's to take.
pub(super) async fn may_claim(subject: &Subject, ctx: &Context) -> Result<bool, ApplyError> {
    let (id, spec) = (&subject.id, &subject.vc.spec);
    let set = names::members_set(&id.name, spec.topology);
    let exists = ctx.stores.stateful_sets.get(&ObjectRef::new(&set).within(&id.namespace)).is_some();
    if exists || spec.etcd.storage.medium == Some(StorageMedium::Memory) {
        return Ok(false);
    }
    let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.host.clone(), &id.namespace);
    let mut adopts = false;
    for ordinal in 0..spec.etcd_members() {
        let name = names::claim(&set, ordinal);
        let object = format!("PersistentVolumeClaim {name}");
        let live = call(api.get_opt(&name)).await.map_err(|source| ApplyError::Read { object: object.clone(), source })?;
        let Some(live) = live else { continue };
        match ownership(&live.metadata, &id.uid, spec.etcd.adopt.as_deref(), &ctx.stores) {
            Ownership::Own => {}
            Ownership::Adoptable => adopts = true,
            other => return Err(other.refusal(object, &live.metadata)),
        }
    }
    Ok(adopts)
}

/// Makes the claims of the members before their StatefulSet would: its controller writes a new claim a second time, and that
/// while the scheduler binds it, which then starts again after a back-off. An existing claim keeps its spec and gets labels
/// and owner: a retained one becomes the cluster's own.
pub(super) async fn claims(desired: Vec<PersistentVolumeClaim>, applier: &Applier<'_>) -> Result<Vec<PersistentVolumeClaim>, ApplyError> {
    try_join_all(desired.into_iter().map(|claim| ensure(claim, applier))).await
}

async fn ensure(desired: PersistentVolumeClaim, applier: &Applier<'_>) -> Result<PersistentVolumeClaim, ApplyError> {
    let (name, namespace) = (desired.name_any(), desired.namespace().unwrap_or_default());
    let watched = applier.state.stores.claims.get(&ObjectRef::new(&name).within(&namespace));
    if watched.is_some_and(|watched| is_marked(&watched.metadata, &desired.metadata)) {
        return Ok(desired);
    }
    let object = format!("PersistentVolumeClaim {name}");
    let api: Api<PersistentVolumeClaim> = Api::namespaced(applier.host.clone(), &namespace);
    let live = call(api.get_opt(&name)).await.map_err(|source| ApplyError::Read { object: object.clone(), source })?;
    let failed = |source| ApplyError::Apply { object: object.clone(), source };
    let Some(live) = live else {
        let params = PostParams { field_manager: Some(labels::OPERATOR.into()), ..PostParams::default() };
        return call(api.create(&params, &desired)).await.map_err(failed);
    };
    applier.expect_own(&object, &live.metadata)?;
    if !is_marked(&live.metadata, &desired.metadata) {
        let mut labels = json!(desired.metadata.labels);
        labels[labels::RETAINED] = Value::Null;
        let owners = &desired.metadata.owner_references;
        merge(&api, &live.metadata, json!({"metadata": {"labels": labels, "ownerReferences": owners}})).await.map_err(failed)?;
    }
    Ok(live)
}

/// Whether labels and owner are as desired.
fn is_marked(live: &ObjectMeta, desired: &ObjectMeta) -> bool {
    let labels = live.labels.iter().flatten();
    let wanted = desired.labels.iter().flatten();
    live.owner_references.as_deref().unwrap_or_default() == desired.owner_references.as_deref().unwrap_or_default()
        && wanted.into_iter().all(|(key, value)| live.labels.iter().flatten().any(|label| label == (key, value)))
        && labels.into_iter().all(|(key, _)| key != labels::RETAINED)
}
