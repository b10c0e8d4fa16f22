//! What an earlier process of the agent left on the host, listed once at start: metadata only, so no secret data is
//! fetched. What pods still need is taken over; the rest is deleted.

use super::pod_secret::{DIGEST, PodSecret, REFRESH_AT};
use crate::pods::error::VolumesError;
use crate::pods::names::SourceKind;
use crate::tenant::Tenant;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, PartialObjectMeta};
use kube::{Api, Resource, ResourceExt};
use nestling_crds::labels;
use nestling_runtime::kube::{call, delete_exact};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

/// Host objects of this agent and tenant, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leftovers {
    pub(crate) copies: BTreeMap<String, LeftCopy>,
    pub(crate) pod_secrets: BTreeMap<String, LeftPodSecret>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftCopy {
    kind: SourceKind,
    pub(crate) uid: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftPodSecret {
    /// UID of the tenant pod.
    pod_uid: String,
    pub(crate) secret: PodSecret,
}

/// Lists what is there.
pub(crate) async fn list(tenant: &Tenant) -> Result<Leftovers, VolumesError> {
    let (config_maps, secrets) = tokio::try_join!(list_kind::<ConfigMap>(tenant), list_kind::<Secret>(tenant))?;
    let mut leftovers = Leftovers::default();
    for object in config_maps {
        let uid = object.uid().unwrap_or_default();
        leftovers.copies.insert(object.name_any(), LeftCopy { kind: SourceKind::ConfigMap, uid });
    }
    for object in secrets {
        let uid = object.uid().unwrap_or_default();
        match object.labels().get(labels::POD_UID) {
            None => {
                leftovers.copies.insert(object.name_any(), LeftCopy { kind: SourceKind::Secret, uid });
            }
            Some(pod_uid) => {
                let secret = PodSecret {
                    uid: Some(uid),
                    refresh_at: object.annotations().get(REFRESH_AT).and_then(|at| at.parse().ok()),
                    digest: object.annotations().get(DIGEST).cloned().unwrap_or_default(),
                };
                leftovers.pod_secrets.insert(object.name_any(), LeftPodSecret { pod_uid: pod_uid.clone(), secret });
            }
        }
    }
    Ok(leftovers)
}

/// Deletes what no pod needs: copies that are not in `copies` (host names), pod Secrets of pods that are not in `pods`
/// (UIDs of tenant pods).
pub(crate) async fn delete_unneeded(
    tenant: &Tenant,
    leftovers: &Leftovers,
    copies: &BTreeSet<String>,
    pods: &BTreeSet<String>,
) -> Result<(), VolumesError> {
    for (name, copy) in leftovers.copies.iter().filter(|(name, _)| !copies.contains(*name)) {
        tracing::info!(name, kind = copy.kind.as_str(), "deleting a copy that no pod refers to");
        match copy.kind {
            SourceKind::ConfigMap => delete::<ConfigMap>(tenant, name, &copy.uid).await?,
            SourceKind::Secret => delete::<Secret>(tenant, name, &copy.uid).await?,
        }
    }
    for (name, left) in leftovers.pod_secrets.iter().filter(|(_, left)| !pods.contains(&left.pod_uid)) {
        tracing::info!(name, pod = left.pod_uid, "deleting the Secret of a pod that is gone");
        delete::<Secret>(tenant, name, left.secret.uid.as_deref().unwrap_or_default()).await?;
    }
    Ok(())
}

async fn list_kind<K>(tenant: &Tenant) -> Result<Vec<PartialObjectMeta<K>>, VolumesError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(tenant.host.clone(), tenant.spec.workload_namespace.as_str());
    let mut params = ListParams::default().labels(&tenant.spec.host_objects(&tenant.node)).limit(500);
    let mut found = Vec::new();
    loop {
        let page = call(api.list_metadata(&params)).await.map_err(VolumesError::List)?;
        found.extend(page.items);
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => return Ok(found),
        }
    }
}

async fn delete<K>(tenant: &Tenant, name: &str, uid: &str) -> Result<(), VolumesError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(tenant.host.clone(), tenant.spec.workload_namespace.as_str());
    let object = ObjectMeta { name: Some(name.to_owned()), uid: Some(uid.to_owned()), ..ObjectMeta::default() };
    let deleted = delete_exact(&api, &object, None).await;
    deleted.map(drop).map_err(|source| VolumesError::DeleteCopy { source_name: name.to_owned(), source })
}
