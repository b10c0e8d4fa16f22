//! Applies one host object.

use super::holds::holds;
pub use super::kinds::HostObject;
use super::stamp::{APPLIED, stamp};
use super::verified::{Key, Verified};
use crate::stores::Stores;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, Resource as _, ResourceExt as _};
use nestling_crds::labels;
use nestling_crds::names::TenantUid;
use nestling_crds::v1alpha1::VirtualCluster;
use serde_json::json;

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("cannot serialize {kind} {name}")]
    Serialize {
        kind: &'static str,
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot read {kind} {name}")]
    Read {
        kind: &'static str,
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("cannot apply {kind} {name}")]
    Apply {
        kind: &'static str,
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("cannot delete {kind} {name}")]
    Delete {
        kind: &'static str,
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("{kind} {name} exists and does not belong to this VirtualCluster")]
    Foreign { kind: &'static str, name: String },
    /// Ours, or a former cluster's of the same name.
    #[error("{kind} {name} is still being deleted")]
    Terminating { kind: &'static str, name: String },
}

/// Applies the objects of one cluster.
pub struct Applier<'a> {
    pub host: &'a Client,
    pub stores: &'a Stores,
    pub verified: &'a Verified,
    pub tenant: &'a TenantUid,
}

impl Applier<'_> {
    /// Makes the object be as `desired`, with no request if it is known to be and no write if it turns out to be. Returns
    /// it with its status as far as watched. Refuses to take over what is not this cluster's.
    pub async fn apply<K: HostObject>(&self, mut desired: K) -> Result<K, ApplyError> {
        let (kind, namespace, name) = key::<K>(&desired);
        let serialize = |source| ApplyError::Serialize { kind, name: name.clone(), source };
        let hash = stamp(&mut desired).map_err(serialize)?;
        let key = (kind, namespace.clone(), name.clone());
        if let Some(watched) = K::watched(self.stores, &namespace, &name)
            && self.verified.is(self.tenant, &key, &hash, &watched)
            && metadata_holds(desired.meta(), &watched)
        {
            return Ok(K::with_status(self.stores, desired));
        }
        let api = K::api(self.host.clone(), &namespace);
        let live = api.get_opt(&name).await.map_err(|source| ApplyError::Read { kind, name: name.clone(), source })?;
        if let Some(live) = live {
            self.expect_ours(kind, &name, live.meta())?;
            let (wanted, found) = (serde_json::to_value(&desired).map_err(serialize)?, serde_json::to_value(&live).map_err(serialize)?);
            if holds(&wanted, &found) {
                self.verified.remember(self.tenant, key, hash, live.meta());
                return Ok(live);
            }
        }
        let params = PatchParams::apply(labels::OPERATOR).force();
        let applied = api.patch(&name, &params, &Patch::Apply(&desired)).await;
        let applied = applied.map_err(|source| ApplyError::Apply { kind, name: name.clone(), source })?;
        tracing::debug!(kind, namespace, name, "applied");
        self.verified.remember(self.tenant, key, hash, applied.meta());
        Ok(applied)
    }

    /// Makes the object not be, if it is this cluster's.
    pub async fn remove<K: HostObject>(&self, namespace: &str, name: &str) -> Result<(), ApplyError> {
        let kind = kind::<K>();
        // Ours are labelled, so the store has them.
        let Some(watched) = K::watched(self.stores, namespace, name) else { return Ok(()) };
        if !self.is_ours(&watched) || watched.deletion_timestamp.is_some() {
            return Ok(());
        }
        let preconditions = Preconditions { uid: watched.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        match K::api(self.host.clone(), namespace).delete(name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(source) => Err(ApplyError::Delete { kind, name: name.into(), source }),
        }
    }

    fn expect_ours(&self, kind: &'static str, name: &str, live: &ObjectMeta) -> Result<(), ApplyError> {
        let terminating = live.deletion_timestamp.is_some() || (!self.is_ours(live) && self.is_orphaned(live));
        if terminating {
            return Err(ApplyError::Terminating { kind, name: name.into() });
        }
        if self.is_ours(live) { Ok(()) } else { Err(ApplyError::Foreign { kind, name: name.into() }) }
    }

    /// Owned by a cluster that is no more: the garbage collector is on its way.
    fn is_orphaned(&self, live: &ObjectMeta) -> bool {
        let mut owners = live.owner_references.iter().flatten().filter(|owner| owner.kind == VirtualCluster::kind(&())).peekable();
        owners.peek().is_some() && owners.all(|owner| self.stores.cluster(&TenantUid::new(&owner.uid)).is_none())
    }

    fn is_ours(&self, live: &ObjectMeta) -> bool {
        let by_owner = live.owner_references.iter().flatten().any(|owner| owner.uid == self.tenant.as_str());
        let by_label = live.labels.as_ref().and_then(|labels| labels.get(labels::TENANT)).is_some_and(|uid| uid == self.tenant.as_str());
        by_owner || by_label
    }
}

/// What `metadata.generation` does not cover.
fn metadata_holds(desired: &ObjectMeta, watched: &ObjectMeta) -> bool {
    let part = |meta: &ObjectMeta| json!({"labels": meta.labels, "owners": meta.owner_references});
    let stamp = |meta: &ObjectMeta| meta.annotations.as_ref().and_then(|all| all.get(APPLIED)).cloned();
    watched.deletion_timestamp.is_none() && stamp(desired) == stamp(watched) && holds(&part(desired), &part(watched))
}

fn kind<K: HostObject>() -> &'static str {
    match K::kind(&()) {
        std::borrow::Cow::Borrowed(kind) => kind,
        // The kinds of k8s-openapi are constants.
        std::borrow::Cow::Owned(_) => "object",
    }
}

fn key<K: HostObject>(object: &K) -> Key {
    (kind::<K>(), object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests;
