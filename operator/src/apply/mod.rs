//! Server-side apply that writes only what has drifted, for objects of the host and of tenants alike.
//!
//! Every object carries a hash of what was applied ([`drift`]), so a field that is no longer applied shows as well as one
//! that was changed by others. [`ensure`] reads the live object and applies the desired one unless they agree. [`Applier`]
//! does the same for host objects of one cluster through the watched stores: at rest it makes no request at all.

pub(crate) mod drift;
#[cfg(test)]
mod tests;

use crate::host::Stores;
use crate::state::{State, Verified};
use drift::{APPLIED, holds, stamp, without_additions};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta, TypeMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource, ResourceExt as _};
use nestling_crds::labels;
use nestling_crds::names::TenantUid;
use nestling_crds::v1alpha1::VirtualCluster;
use nestling_runtime::kube::{call, delete_exact};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;

/// `object` is kind and name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error("cannot convert {object}")]
    Convert {
        object: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot read {object}")]
    Read {
        object: String,
        #[source]
        source: kube::Error,
    },
    #[error("cannot apply {object}")]
    Apply {
        object: String,
        #[source]
        source: kube::Error,
    },
    #[error("cannot delete {object}")]
    Delete {
        object: String,
        #[source]
        source: kube::Error,
    },
    #[error("{object} exists and does not belong to this VirtualCluster")]
    Foreign { object: String },
    #[error(
        "{object} was retained from an earlier VirtualCluster (UID {uid}): to take over its data, set spec.etcd.adopt to that UID; to \
         begin without it, delete the volume claims and Secrets with label {}={uid}",
        labels::TENANT
    )]
    Retained { object: String, uid: String },
    /// This cluster's, or that of a former cluster of the same name.
    #[error("{object} is still being deleted")]
    Terminating { object: String },
}

/// An object of any kind with exactly the fields that are to be applied.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) resource: ApiResource,
    pub(crate) object: DynamicObject,
}

impl Object {
    /// An object of kind `K`; `namespace` is empty for kinds without one. `fields` are those beside `metadata`.
    pub(crate) fn new<K: Resource<DynamicType = ()>>(namespace: &str, name: &str, extra_labels: &[(&str, &str)], fields: Value) -> Self {
        let mut all: BTreeMap<String, String> = extra_labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        all.insert(labels::MANAGED_BY.into(), labels::OPERATOR.into());
        let metadata = ObjectMeta {
            name: Some(name.into()),
            namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
            labels: Some(all),
            ..ObjectMeta::default()
        };
        let object = DynamicObject { types: Some(TypeMeta::resource::<K>()), metadata, data: fields };
        Self { resource: ApiResource::erase::<K>(&()), object }
    }

    fn of<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Result<Self, serde_json::Error> {
        let resource = ApiResource::erase::<K>(&());
        Ok(Self { resource, object: serde_json::from_value(serde_json::to_value(object)?)? })
    }

    fn api(&self, client: &Client) -> Api<DynamicObject> {
        match &self.object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource),
            None => Api::all_with(client.clone(), &self.resource),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.resource.kind, self.object.name_any())
    }
}

/// Makes the object in the cluster of `client` be as `desired`, with no write if it is already; returns the live object.
/// `may_write` sees an object that exists; it can refuse, or leave it as it is (`false`).
pub(crate) async fn ensure(
    client: &Client,
    desired: &mut Object,
    may_write: impl FnOnce(&DynamicObject) -> Result<bool, ApplyError>,
) -> Result<DynamicObject, ApplyError> {
    let shown = desired.to_string();
    let convert = |source| ApplyError::Convert { object: shown.clone(), source };
    stamp(&mut desired.object).map_err(convert)?;
    let api = desired.api(client);
    let live = api.get_opt(&desired.object.name_any()).await.map_err(|source| ApplyError::Read { object: shown.clone(), source })?;
    if let Some(live) = live {
        if !may_write(&live)? {
            return Ok(live);
        }
        let (wanted, found) = (serde_json::to_value(&desired.object).map_err(convert)?, serde_json::to_value(&live).map_err(convert)?);
        if holds(&wanted, &found) {
            return Ok(live);
        }
    }
    let applied = nestling_runtime::kube::apply(&api, labels::OPERATOR, &desired.object).await;
    let applied = applied.map_err(|source| ApplyError::Apply { object: shown.clone(), source })?;
    tracing::debug!(object = shown, namespace = desired.object.metadata.namespace, "applied");
    let (wanted, found) = (serde_json::to_value(&desired.object).map_err(convert)?, serde_json::to_value(&applied).map_err(convert)?);
    let Some(mut fields) = without_additions(&wanted, &found) else { return Ok(applied) };
    tracing::warn!(object = shown, namespace = desired.object.metadata.namespace, "entries that others have added are removed");
    fields["metadata"] = json!({"uid": applied.metadata.uid, "resourceVersion": applied.metadata.resource_version});
    let params = PatchParams { field_manager: Some(labels::OPERATOR.into()), ..PatchParams::default() };
    let pruned = call(api.patch(&desired.object.name_any(), &params, &Patch::Merge(fields))).await;
    pruned.map_err(|source| ApplyError::Apply { object: shown.clone(), source })
}

/// Applies the host objects of one cluster.
pub(crate) struct Applier<'a> {
    pub(crate) host: &'a Client,
    pub(crate) state: &'a State,
    pub(crate) tenant: &'a TenantUid,
    /// UID of the earlier cluster whose retained objects are taken over.
    pub(crate) adopt: Option<&'a str>,
}

impl Applier<'_> {
    /// Makes the object be as `desired`, with no request if it is known to be. Returns it with its status as far as
    /// watched. Refuses to take over what does not belong to this cluster.
    pub(crate) async fn apply<K: HostObject>(&self, desired: K) -> Result<K, ApplyError> {
        let shown = format!("{} {}", K::kind(&()), desired.name_any());
        let convert = |source| ApplyError::Convert { object: shown.clone(), source };
        let mut object = Object::of(&desired).map_err(convert)?;
        let hash = stamp(&mut object.object).map_err(convert)?;
        let key = format!("{} {}/{}", K::kind(&()), desired.namespace().unwrap_or_default(), desired.name_any());
        let mut reference = ObjectRef::<K::Watched>::new(&desired.name_any());
        reference.namespace = desired.namespace();
        if let Some(watched) = K::store(&self.state.stores).get(&reference)
            && let Some(version) = Verified::new(&hash, watched.meta())
            && self.state.with(self.tenant, |state| state.verified.get(&key) == Some(&version))
            && metadata_holds(&object.object.metadata, watched.meta())
        {
            return Ok(desired.with_live(&watched));
        }
        let live = Box::pin(ensure(self.host, &mut object, |live| self.expect_own(&shown, &live.metadata).map(|()| true))).await?;
        if let Some(version) = Verified::new(&hash, &live.metadata) {
            self.state.with(self.tenant, |state| state.verified.insert(key, version));
        }
        serde_json::to_value(live).and_then(serde_json::from_value).map_err(convert)
    }

    /// Deletes what this cluster has of the kind in `namespace` under other names than `keeps` accepts.
    pub(crate) async fn prune<K: HostObject>(&self, namespace: &str, keeps: impl Fn(&str) -> bool) -> Result<(), ApplyError> {
        let stores = &self.state.stores;
        let is_left_over = |watched: &K::Watched| {
            let meta = watched.meta();
            meta.namespace.as_deref() == Some(namespace)
                && meta.deletion_timestamp.is_none()
                && meta.name.as_deref().is_some_and(|name| !keeps(name))
                && ownership(meta, self.tenant, None, stores) == Ownership::Own
        };
        // Objects of clusters are labelled, so the store has them.
        for watched in K::store(stores).state_filter(is_left_over) {
            let api: Api<DynamicObject> = Api::namespaced_with(self.host.clone(), namespace, &ApiResource::erase::<K>(&()));
            let deleted = delete_exact(&api, watched.meta(), None).await.map(drop);
            let object = || format!("{} {}", K::kind(&()), watched.name_any());
            deleted.map_err(|source| ApplyError::Delete { object: object(), source })?;
            tracing::info!(object = object(), namespace, "deleted: the cluster no longer needs it");
        }
        Ok(())
    }

    /// Refuses an object that is not the cluster's, nor becomes so by adoption.
    pub(crate) fn expect_own(&self, object: &str, live: &ObjectMeta) -> Result<(), ApplyError> {
        match ownership(live, self.tenant, self.adopt, &self.state.stores) {
            Ownership::Own | Ownership::Adoptable if live.deletion_timestamp.is_none() => Ok(()),
            Ownership::Own => Err(Ownership::Leaving.refusal(object.into(), live)),
            other => Err(other.refusal(object.into(), live)),
        }
    }
}

/// Whose an object on the host is, as seen by one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    Own,
    /// Retained from an earlier cluster, which this one was told to take over.
    Adoptable,
    /// Retained from an earlier cluster.
    Retained,
    /// Owned by a cluster that no longer exists: the garbage collector will delete it.
    Leaving,
    Foreign,
}

impl Ownership {
    /// Why an object with this owner cannot be written.
    pub(crate) fn refusal(self, object: String, live: &ObjectMeta) -> ApplyError {
        match self {
            Self::Leaving => ApplyError::Terminating { object },
            Self::Retained => ApplyError::Retained { object, uid: tenant_label(live).unwrap_or_default().to_owned() },
            Self::Own | Self::Adoptable | Self::Foreign => ApplyError::Foreign { object },
        }
    }
}

fn tenant_label(live: &ObjectMeta) -> Option<&str> {
    live.labels.as_ref()?.get(labels::TENANT).map(String::as_str)
}

/// By owner reference or by label. What is retained is never the later cluster's by its name alone.
pub(crate) fn ownership(live: &ObjectMeta, tenant: &TenantUid, adopt: Option<&str>, stores: &Stores) -> Ownership {
    let owners = || live.owner_references.iter().flatten();
    let label = tenant_label(live);
    if owners().any(|owner| owner.uid == tenant.as_str()) || label == Some(tenant.as_str()) {
        return Ownership::Own;
    }
    let exists = |uid: &str| stores.cluster(&TenantUid::new(uid)).is_some();
    let mut clusters = owners().filter(|owner| owner.kind == VirtualCluster::kind(&())).peekable();
    if clusters.peek().is_some() {
        return if clusters.all(|owner| !exists(&owner.uid)) { Ownership::Leaving } else { Ownership::Foreign };
    }
    let is_retained = live.labels.as_ref().is_some_and(|labels| labels.contains_key(labels::RETAINED));
    match label {
        Some(uid) if is_retained && !exists(uid) && adopt == Some(uid) => Ownership::Adoptable,
        Some(uid) if is_retained && !exists(uid) => Ownership::Retained,
        _ => Ownership::Foreign,
    }
}

/// Compares what `metadata.generation` does not cover.
fn metadata_holds(desired: &ObjectMeta, watched: &ObjectMeta) -> bool {
    let part = |meta: &ObjectMeta| json!({"labels": meta.labels, "owners": meta.owner_references});
    let hash = |meta: &ObjectMeta| meta.annotations.as_ref().and_then(|all| all.get(APPLIED)).cloned();
    watched.deletion_timestamp.is_none() && hash(desired) == hash(watched) && holds(&part(desired), &part(watched))
}

/// A kind of object that the operator applies on the host.
pub(crate) trait HostObject: Resource<DynamicType = ()> + Serialize + DeserializeOwned {
    /// What is watched of it.
    type Watched: Resource<DynamicType = ()> + Clone + 'static;

    fn store(stores: &Stores) -> &Store<Self::Watched>;

    /// The object, known to be applied, with what the store has of it besides.
    fn with_live(self, live: &Self::Watched) -> Self;
}

/// Kinds of which only metadata is watched: the desired object is all there is to know.
macro_rules! by_metadata {
    ($($kind:ty: $store:ident,)*) => {$(
        impl HostObject for $kind {
            type Watched = PartialObjectMeta<$kind>;

            fn store(stores: &Stores) -> &Store<Self::Watched> {
                &stores.$store
            }

            fn with_live(self, _: &Self::Watched) -> Self {
                self
            }
        }
    )*};
}

/// Kinds that are watched for their status, or for fields that the host sets.
macro_rules! by_status {
    ($($kind:ty: $store:ident, |$desired:ident, $live:ident| $with_live:expr,)*) => {$(
        impl HostObject for $kind {
            type Watched = $kind;

            fn store(stores: &Stores) -> &Store<Self::Watched> {
                &stores.$store
            }

            fn with_live(self, $live: &Self::Watched) -> Self {
                let $desired = self;
                $with_live
            }
        }
    )*};
}

by_metadata! {
    Secret: secrets,
    ConfigMap: config_maps,
    ServiceAccount: service_accounts,
    PodDisruptionBudget: disruption_budgets,
    NetworkPolicy: network_policies,
    Role: roles,
    RoleBinding: role_bindings,
    ResourceQuota: quotas,
    Namespace: namespaces,
}

by_status! {
    StatefulSet: stateful_sets, |desired, live| Self { metadata: live.metadata.clone(), status: live.status.clone(), ..desired },
    Deployment: deployments, |desired, live| Self { metadata: live.metadata.clone(), status: live.status.clone(), ..desired },
    // Its address is in the spec.
    Service: services, |_desired, live| live.clone(),
}
