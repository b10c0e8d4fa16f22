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
            Ok(_) => {
                steps.succeeded();
                sleep(LOOK_EVERY).await;
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{NODE, tenant_spec};
    use nestling_crds::labels;
    use nestling_runtime::testing::{ApiServer, Fault};
    use serde::Serialize;
    use serde_json::json;
    use tokio::task::JoinHandle;

    /// As the agent of `node` makes it for the tenant `uid`, with a pod's spec, which other kinds ignore.
    fn object<K: DeserializeOwned>(name: &str, node: &str, uid: &str) -> K {
        let labels = json!({labels::TENANT: uid, labels::NODE: node, labels::MANAGED_BY: labels::AGENT});
        let metadata = json!({"namespace": tenant_spec().workload_namespace.as_str(), "name": name, "labels": labels});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"nodeName": node, "containers": []}})).unwrap()
    }

    /// A host with a pod, a ConfigMap and a Secret of the tenant on this node.
    fn host() -> ApiServer {
        let api = ApiServer::new();
        let uid = tenant_spec().uid;
        api.put(&object::<Pod>("pod", NODE, uid.as_str()));
        api.put(&object::<ConfigMap>("copy", NODE, uid.as_str()));
        api.put(&object::<Secret>("copy", NODE, uid.as_str()));
        api
    }

    fn names<K>(api: &ApiServer) -> Vec<String>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        api.list::<K>().iter().map(K::name_any).collect()
    }

    /// Names of pods, ConfigMaps and Secrets.
    fn left(api: &ApiServer) -> [Vec<String>; 3] {
        [names::<Pod>(api), names::<ConfigMap>(api), names::<Secret>(api)]
    }

    fn start(api: &ApiServer) -> JoinHandle<()> {
        let host = api.client();
        tokio::spawn(async move { run(&host, &NodeName::new(NODE), &tenant_spec()).await })
    }

    /// The host's kubelet has stopped the containers.
    fn stop_pod(api: &ApiServer) {
        assert!(api.remove::<Pod>(tenant_spec().workload_namespace.as_str(), "pod"));
    }

    #[tokio::test(start_paused = true)]
    async fn copies_stay_until_the_pods_that_use_them_are_gone() {
        let api = host();
        let cleanup = start(&api);
        sleep(Duration::from_secs(20)).await;
        let pod: Pod = api.get(tenant_spec().workload_namespace.as_str(), "pod").unwrap();
        assert_eq!(pod.metadata.deletion_grace_period_seconds, Some(30), "it is given its own grace");
        assert_eq!((api.count("delete", "pods"), api.count("delete", "configmaps"), api.count("delete", "secrets")), (1, 0, 0));
        stop_pod(&api);
        cleanup.await.unwrap();
        assert_eq!(left(&api), [[""; 0]; 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_of_other_nodes_and_tenants_stays() {
        let api = host();
        let uid = tenant_spec().uid;
        api.put(&object::<Pod>("of-another-node", "worker-8", uid.as_str()));
        api.put(&object::<ConfigMap>("of-another-tenant", NODE, "another"));
        api.put(&object::<Secret>("of-another-node", "worker-8", uid.as_str()));
        let cleanup = start(&api);
        sleep(Duration::from_secs(1)).await;
        stop_pod(&api);
        cleanup.await.unwrap();
        assert_eq!(left(&api), [["of-another-node"], ["of-another-tenant"], ["of-another-node"]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_fails_is_retried() {
        let api = host();
        api.inject("list", "pods", 2, Fault::Status(500));
        api.inject("delete", "pods", 1, Fault::Disconnect);
        api.inject("list", "configmaps", 1, Fault::Status(403));
        api.inject("delete", "configmaps", 1, Fault::Hang);
        api.inject("delete", "secrets", 1, Fault::LoseAnswer);
        let cleanup = start(&api);
        sleep(Duration::from_secs(60)).await;
        stop_pod(&api);
        cleanup.await.unwrap();
        assert_eq!(left(&api), [[""; 0]; 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_spaced() {
        let api = host();
        api.inject("list", "pods", usize::MAX, Fault::Status(500));
        let cleanup = start(&api);
        sleep(Duration::from_secs(60)).await;
        let times: Vec<Instant> = api.requests().iter().map(|request| request.at).collect();
        let pauses: Vec<u64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10, 10, 10]);
        cleanup.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_does_not_go_is_left_to_the_host_with_its_copies() {
        let api = host();
        let start_time = Instant::now();
        start(&api).await.unwrap();
        assert_eq!(start_time.elapsed(), LIMIT);
        assert_eq!(left(&api), [["pod"], ["copy"], ["copy"]]);
    }
}
