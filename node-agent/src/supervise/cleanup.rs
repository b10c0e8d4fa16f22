//! Removes from the host what a tenant that is no longer assigned to this node has left.
//!
//! The tenant's own Node is not deleted here (a node identity has no right to); its cloud controller manager does so
//! when the host node no longer serves the tenant, and the tenant's pods of that node go with it.

use crate::tenant::TenantSpec;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::ListParams;
use kube::core::{NamespaceResourceScope, Resource, ResourceExt as _};
use kube::{Api, Client};
use nestling_crds::names::NodeName;
use nestling_runtime::backoff::Backoff;
use nestling_runtime::kube::{call, delete_exact};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const LOOK_EVERY: Duration = Duration::from_secs(1);
const RETRY_AT_MOST: Duration = Duration::from_secs(10);
/// Longer than any usual grace; past it the host pods are left to the host's own deletion, which is under way.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
enum CleanupError {
    #[error("cannot list {kind}")]
    List {
        kind: String,
        #[source]
        source: kube::Error,
    },
    #[error("cannot delete {kind} {name}")]
    Delete {
        kind: String,
        name: String,
        #[source]
        source: kube::Error,
    },
}

/// Deletes the tenant's host pods on this node, waits until they are gone, then deletes the copies they used.
pub(super) async fn run(host: &Client, node: &NodeName, spec: &TenantSpec) {
    let namespace = spec.workload_namespace.as_str();
    let mine = spec.host_objects(node);
    let deadline = Instant::now() + LIMIT;
    let mut steps = Backoff::new(LOOK_EVERY, RETRY_AT_MOST);
    while Instant::now() < deadline {
        let left = async {
            let pods = delete_all::<Pod>(Api::namespaced(host.clone(), namespace), &mine).await?;
            if pods == 0 {
                delete_all::<ConfigMap>(Api::namespaced(host.clone(), namespace), &mine).await?;
                delete_all::<Secret>(Api::namespaced(host.clone(), namespace), &mine).await?;
            }
            Ok::<_, CleanupError>(pods)
        };
        match left.await {
            Ok(0) => {
                tracing::info!("removed the tenant's objects of this node");
                return;
            }
            Ok(_) => sleep(LOOK_EVERY).await,
            Err(error) => {
                let pause = steps.failed();
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    ?pause,
                    "cannot remove the tenant's objects of this node; retrying"
                );
                sleep(pause).await;
            }
        }
    }
    tracing::warn!(limit = ?LIMIT, "the tenant's pods on this node are still being deleted");
}

/// Deletes all objects that are selected and not being deleted yet; returns how many there still are.
async fn delete_all<K>(api: Api<K>, selector: &str) -> Result<usize, CleanupError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let kind = K::kind(&()).to_string();
    let list = ListParams::default().labels(selector);
    let found = call(api.list(&list)).await.map_err(|source| CleanupError::List { kind: kind.clone(), source })?;
    for object in found.items.iter().filter(|object| object.meta().deletion_timestamp.is_none()) {
        let failed = |source| CleanupError::Delete { kind: kind.clone(), name: object.name_any(), source };
        delete_exact(&api, object.meta(), None).await.map_err(failed)?;
    }
    Ok(found.items.len())
}
