//! What an earlier life of the agent left on the host, read once at start: metadata only, so no secret data is fetched.

use super::pod_secret::{DIGEST, PodSecret, REFRESH_AT};
use super::{SourceKind, VolumesError};
use crate::pods::ownership;
use crate::tenant::Tenant;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, ListParams, PartialObjectMeta, Preconditions};
use kube::{Api, Resource, ResourceExt};
use nestling_crds::labels;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;
use tokio::time::timeout;

/// Longest wait for one page or one removal.
const CALL: Duration = Duration::from_secs(30);

/// Host objects of this agent and tenant, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    pub copies: BTreeMap<String, LeftCopy>,
    pub pod_secrets: BTreeMap<String, LeftPodSecret>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftCopy {
    pub kind: SourceKind,
    pub uid: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftPodSecret {
    /// UID of the tenant pod.
    pub pod_uid: String,
    pub secret: PodSecret,
}

/// Lists what is there.
pub async fn take(tenant: &Tenant) -> Result<Inventory, VolumesError> {
    let (config_maps, secrets) = tokio::try_join!(list::<ConfigMap>(tenant), list::<Secret>(tenant))?;
    let mut inventory = Inventory::default();
    for object in config_maps {
        let uid = object.uid().unwrap_or_default();
        inventory.copies.insert(object.name_any(), LeftCopy { kind: SourceKind::ConfigMap, uid });
    }
    for object in secrets {
        let uid = object.uid().unwrap_or_default();
        match object.labels().get(labels::POD_UID) {
            None => {
                inventory.copies.insert(object.name_any(), LeftCopy { kind: SourceKind::Secret, uid });
            }
            Some(pod_uid) => {
                let secret = PodSecret {
                    uid: Some(uid),
                    refresh_at: object.annotations().get(REFRESH_AT).and_then(|at| at.parse().ok()),
                    digest: object.annotations().get(DIGEST).cloned().unwrap_or_default(),
                };
                inventory.pod_secrets.insert(object.name_any(), LeftPodSecret { pod_uid: pod_uid.clone(), secret });
            }
        }
    }
    Ok(inventory)
}

/// Removes what no pod wants: copies not in `copies`, pod Secrets of pods not in `pods` (tenant UIDs).
pub async fn sweep(tenant: &Tenant, left: &Inventory, copies: &BTreeSet<String>, pods: &BTreeSet<String>) -> Result<(), VolumesError> {
    for (name, copy) in left.copies.iter().filter(|(name, _)| !copies.contains(*name)) {
        tracing::info!(name, kind = copy.kind.as_str(), "removing a copy that no pod wants");
        match copy.kind {
            SourceKind::ConfigMap => remove::<ConfigMap>(tenant, name, &copy.uid).await?,
            SourceKind::Secret => remove::<Secret>(tenant, name, &copy.uid).await?,
        }
    }
    for (name, left) in left.pod_secrets.iter().filter(|(_, left)| !pods.contains(&left.pod_uid)) {
        tracing::info!(name, pod = left.pod_uid, "removing the Secret of a pod that is gone");
        remove::<Secret>(tenant, name, left.secret.uid.as_deref().unwrap_or_default()).await?;
    }
    Ok(())
}

trait Listed: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned {}
impl Listed for ConfigMap {}
impl Listed for Secret {}

async fn list<K: Listed>(tenant: &Tenant) -> Result<Vec<PartialObjectMeta<K>>, VolumesError> {
    let api: Api<K> = Api::namespaced(tenant.host.clone(), tenant.spec.workload_namespace.as_str());
    let mut params = ListParams::default().labels(&ownership::selector(tenant)).limit(500);
    let mut found = Vec::new();
    loop {
        let page = timeout(CALL, api.list_metadata(&params)).await?.map_err(VolumesError::List)?;
        found.extend(page.items);
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => return Ok(found),
        }
    }
}

async fn remove<K: Listed>(tenant: &Tenant, name: &str, uid: &str) -> Result<(), VolumesError> {
    let api: Api<K> = Api::namespaced(tenant.host.clone(), tenant.spec.workload_namespace.as_str());
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match timeout(CALL, api.delete(name, &params)).await? {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(source) => Err(VolumesError::RemoveCopy { source_name: name.to_owned(), source }),
    }
}
