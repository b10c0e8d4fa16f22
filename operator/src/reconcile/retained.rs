//! Data that may outlive its cluster: etcd's volume claims, and the Secrets without which their data is of no use.
//!
//! At deletion, [`settle`] decides by owner references alone: with `Delete` the `VirtualCluster` owns them and garbage
//! collection takes them, with `Retain` nothing does. What is retained keeps the UID of its cluster, and no later cluster of
//! the same name takes it over by name: it finds a conflict ([`claims`]) unless `spec.etcd.adopt` names that UID.

use crate::apply::{ApplyError, Ownership, ownership};
use crate::model::names;
use crate::reconcile::subject::{Identity, Subject};
use crate::state::Context;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt as _};
use nestling_crds::labels;
use nestling_crds::v1alpha1::{DeletionPolicy, StorageMedium, Topology};
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

/// Gives claims and Secrets of a cluster that is being deleted their last owner, or none. Returns what is still waited for.
pub(super) async fn settle(
    id: &Identity,
    policy: DeletionPolicy,
    service_range: Option<&str>,
    ctx: &Context,
) -> Result<Option<String>, SettleError> {
    if policy == DeletionPolicy::Retain
        && let Some(waiting) = release_claims(id, ctx).await?
    {
        return Ok(Some(waiting));
    }
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
    Ok(None)
}

/// Secrets without which etcd's data is of no use: the authorities, the keys of service-account tokens, and the encryption of
/// Secrets.
fn data_secrets(cluster: &str) -> [String; 3] {
    [names::ca(cluster), names::service_account_keys(cluster), names::apiserver_config(cluster)]
}

/// With `whenDeleted: Delete` the controller of a StatefulSet makes it the owner of its claims, and may do so again until it
/// has seen another policy.
async fn release_claims(id: &Identity, ctx: &Context) -> Result<Option<String>, SettleError> {
    let sets: Api<StatefulSet> = Api::namespaced(ctx.host.clone(), &id.namespace);
    for name in [names::control_plane(&id.name), names::etcd(&id.name)] {
        let failed = |source| SettleError { object: format!("StatefulSet {name}"), source };
        let Some(set) = call(sets.get_opt(&name)).await.map_err(failed)? else { continue };
        if set.labels().get(labels::TENANT).is_none_or(|uid| uid != id.uid.as_str()) {
            continue;
        }
        let policy = set.spec.persistent_volume_claim_retention_policy.as_ref().and_then(|policy| policy.when_deleted.as_deref());
        let is_retained = policy == Some("Retain");
        if !is_retained {
            let spec = json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain"}});
            merge(&sets, &set.metadata, json!({"spec": spec})).await.map_err(failed)?;
        }
        let observed = set.status.as_ref().and_then(|status| status.observed_generation);
        if !is_retained || observed != set.metadata.generation {
            return Ok(Some(format!("waiting for the controller of StatefulSet {name} to release its volume claims")));
        }
    }
    Ok(None)
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

/// The claims that the cluster's StatefulSet, which does not exist yet, would find under its names, and take: to be taken
/// over first ([`take_over`]). Fails if one is not the cluster's to take.
pub(super) async fn claims(subject: &Subject, ctx: &Context) -> Result<Vec<PersistentVolumeClaim>, ApplyError> {
    let (id, spec) = (&subject.id, &subject.vc.spec);
    let (set, members) = match spec.topology {
        Topology::External => (names::etcd(&id.name), spec.etcd.replicas.unwrap_or(1)),
        Topology::Stacked | Topology::SingleNode => (names::control_plane(&id.name), spec.control_plane.replicas),
    };
    let exists = ctx.stores.stateful_sets.get(&kube::runtime::reflector::ObjectRef::new(&set).within(&id.namespace)).is_some();
    if exists || spec.etcd.storage.medium == Some(StorageMedium::Memory) {
        return Ok(Vec::new());
    }
    let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.host.clone(), &id.namespace);
    let mut adopted = Vec::new();
    for ordinal in 0..members {
        let name = names::claim(&set, ordinal);
        let object = format!("PersistentVolumeClaim {name}");
        let live = call(api.get_opt(&name)).await.map_err(|source| ApplyError::Read { object: object.clone(), source })?;
        let Some(live) = live else { continue };
        match ownership(&live.metadata, &id.uid, spec.etcd.adopt.as_deref(), &ctx.stores) {
            Ownership::Own => {}
            Ownership::Adoptable => adopted.push(live),
            other => return Err(other.refusal(object, &live.metadata)),
        }
    }
    Ok(adopted)
}

/// Makes retained claims the cluster's own.
pub(super) async fn take_over(id: &Identity, claims: &[PersistentVolumeClaim], ctx: &Context) -> Result<(), ApplyError> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.host.clone(), &id.namespace);
    for claim in claims {
        let labels = json!({labels::TENANT: id.uid.as_str(), labels::RETAINED: null});
        let taken = merge(&api, &claim.metadata, json!({"metadata": {"labels": labels}})).await;
        taken.map_err(|source| ApplyError::Apply { object: format!("PersistentVolumeClaim {}", claim.name_any()), source })?;
        tracing::info!(cluster = %id.reference, claim = claim.name_any(), "retained claim adopted");
    }
    Ok(())
}
