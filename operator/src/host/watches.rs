//! The watches that fill the stores: what each of them keeps of an object, and which clusters its changes make due.

use super::queue::ReconcileQueue;
use super::{Cluster, SecretWriter, ServedWriters, Stores, Writers};
use crate::model::names;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, PodTemplateSpec};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Lookup as _, ObjectRef};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, Resource, ResourceExt as _};
use nestling_crds::labels;
use nestling_crds::v1alpha1::conditions;
use nestling_runtime::kube::follow;
use nestling_runtime::readiness::Readiness;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What all watches need.
#[derive(Clone)]
pub(crate) struct Watching {
    pub(crate) client: Client,
    /// Not ready before the first list of every kind.
    pub(crate) readiness: Readiness,
    /// Ends all watches.
    pub(crate) shutdown: CancellationToken,
}

/// Starts the watches of the control API in `tasks`. `changed` is notified of every change of what it serves.
pub(crate) fn serve(watching: Watching, writers: ServedWriters, changed: &Arc<Notify>, tasks: &mut JoinSet<()>) {
    fn notify<K>(changed: &Arc<Notify>) -> impl FnMut(Change<K>) + Send + 'static {
        let changed = changed.clone();
        move |_| changed.notify_one()
    }
    let mut watches = Watches { watching, tasks };
    watches.keep("VirtualClusters", Config::default(), trim, writers.clusters, notify(changed));
    watches.keep("nodes", Config::default(), trim_node, writers.nodes, notify(changed));
    watches.keep("Services", owned(), trim, writers.services, notify(changed));
    watches.keep("StatefulSets", owned(), trim_stateful_set, writers.stateful_sets, notify(changed));
    watches.keep("ServiceAccounts", owned(), trim, writers.service_accounts, notify(changed));
}

/// Where the changes of what reconciles read go.
#[derive(Clone)]
pub(crate) struct Links {
    pub(crate) queue: ReconcileQueue,
    /// Notified of every change of the operator's own rights ([`super::secrets`]).
    pub(crate) granted: Arc<Notify>,
}

/// Starts the watches of the operator in `tasks`: all but those of Secrets. Returns what is to fill their store
/// ([`super::secrets`]).
pub(crate) fn start(watching: Watching, stores: &Stores, writers: Writers, links: &Links, tasks: &mut JoinSet<()>) -> SecretWriter {
    let mut watches = Watches { watching, tasks };
    let due = Due { stores, queue: &links.queue };
    let control_plane = format!("{} in (control-plane, etcd, apiserver, controllers)", labels::COMPONENT);
    watches.keep("VirtualClusters", Config::default(), trim, writers.clusters, due.clusters());
    watches.keep("nodes", Config::default(), trim_node, writers.nodes, due.nodes());
    watches.keep("ServiceCIDRs", Config::default(), trim, writers.service_cidrs, |_| {});
    watches.keep("pods", Config::default().labels(&control_plane), trim_pod, writers.pods, due.owners());
    watches.keep("Services", owned(), trim, writers.services, due.owners());
    watches.keep("StatefulSets", owned(), trim_stateful_set, writers.stateful_sets, due.owners());
    watches.keep("Deployments", owned(), trim_deployment, writers.deployments, due.owners());
    watches.keep("PersistentVolumeClaims", owned(), trim, writers.claims, due.owners());
    watches.keep("ConfigMaps", owned(), trim, writers.config_maps, due.owners());
    watches.keep("ServiceAccounts", owned(), trim, writers.service_accounts, due.owners());
    watches.keep("PodDisruptionBudgets", owned(), trim, writers.disruption_budgets, due.owners());
    watches.keep("NetworkPolicies", owned(), trim, writers.network_policies, due.owners());
    watches.keep("Roles", owned(), trim, writers.roles, due.owners());
    watches.keep("RoleBindings", owned(), trim, writers.role_bindings, {
        // With them, the operator's rights to read Secrets come and go.
        let (granted, mut owners) = (links.granted.clone(), due.owners());
        move |change| {
            owners(change);
            granted.notify_one();
        }
    });
    watches.keep("ResourceQuotas", owned(), trim, writers.quotas, due.owners());
    watches.keep("namespaces", owned(), trim, writers.namespaces, due.owners());
    let mut secrets = writers.secrets;
    // Nothing waits for Secrets.
    secrets.apply_watcher_event(&Event::Init);
    secrets.apply_watcher_event(&Event::InitDone);
    secrets
}

/// What the operator has made.
fn owned() -> Config {
    Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::OPERATOR))
}

/// A change of a store, after it was made.
enum Change<K> {
    Applied(K),
    Deleted(K),
    /// The store was replaced by a new list: any object may have changed, and what is not in it is gone.
    Listed,
}

/// Which clusters are due after a change.
struct Due<'a> {
    stores: &'a Stores,
    queue: &'a ReconcileQueue,
}

impl Due<'_> {
    fn clusters(&self) -> impl FnMut(Change<Cluster>) + Send + 'static {
        let (stores, queue) = (self.stores.clone(), self.queue.clone());
        let mut seen: HashMap<ObjectRef<Cluster>, UserInput> = HashMap::new();
        move |change| match change {
            Change::Applied(cluster) => {
                let (reference, input) = (cluster.to_object_ref(()), user_input(&cluster));
                if seen.get(&reference) != Some(&input) {
                    seen.insert(reference.clone(), input);
                    queue.add(reference);
                }
            }
            Change::Deleted(cluster) => {
                seen.remove(&cluster.to_object_ref(()));
            }
            Change::Listed => {
                let all = stores.clusters.state();
                seen = all.iter().map(|cluster| (cluster.to_object_ref(()), user_input(cluster))).collect();
                queue.extend(seen.keys().cloned());
            }
        }
    }

    /// A running cluster does not depend on a change of nodes; one that could not be placed may fit now.
    fn nodes(&self) -> impl FnMut(Change<Node>) + Send + 'static {
        let (stores, queue) = (self.stores.clone(), self.queue.clone());
        move |_| queue.extend(stores.clusters.state().iter().filter(|cluster| !is_ready(cluster)).map(|cluster| cluster.to_object_ref(())))
    }

    /// After a change of an object its owner, after a new list every cluster.
    fn owners<K: Resource>(&self) -> impl FnMut(Change<K>) + Send + 'static {
        let (stores, queue) = (self.stores.clone(), self.queue.clone());
        move |change| match change {
            Change::Applied(object) | Change::Deleted(object) => queue.extend(stores.owner(&object)),
            Change::Listed => queue.extend(stores.clusters.state().iter().map(|cluster| cluster.to_object_ref(()))),
        }
    }
}

struct Watches<'a> {
    watching: Watching,
    tasks: &'a mut JoinSet<()>,
}

impl Watches<'_> {
    /// Keeps a store in step with the API until shutdown. `trim` drops what is not read before it is stored.
    fn keep<K>(
        &mut self,
        what: &'static str,
        config: Config,
        trim: fn(&mut K),
        mut writer: Writer<K>,
        mut on_change: impl FnMut(Change<K>) + Send + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let Watching { client, readiness, shutdown } = self.watching.clone();
        let mut pending = Some(readiness.pending(format!("first list of {what}")));
        self.tasks.spawn(follow(Api::<K>::all(client), config, what, shutdown, move |event| {
            let event = event.modify(trim);
            writer.apply_watcher_event(&event);
            match event {
                Event::Apply(object) => on_change(Change::Applied(object)),
                Event::Delete(object) => on_change(Change::Deleted(object)),
                Event::Init | Event::InitApply(_) => {}
                Event::InitDone => {
                    pending.take();
                    on_change(Change::Listed);
                }
            }
        }));
    }
}

/// What of a cluster a user can change: generation, deletion, finalizers. The rest are the operator's own writes, which
/// make no reconcile due.
type UserInput = (Option<i64>, bool, Vec<String>);

fn user_input(cluster: &Cluster) -> UserInput {
    let meta = cluster.meta();
    (meta.generation, meta.deletion_timestamp.is_some(), meta.finalizers.clone().unwrap_or_default())
}

fn is_ready(cluster: &Cluster) -> bool {
    let status = cluster.0.as_ref().ok().and_then(|cluster| cluster.status.as_ref());
    status.is_some_and(|status| status.conditions.iter().any(|c| c.type_ == conditions::READY && c.status == "True"))
}

/// Managed fields are about half of most objects' metadata, and the operator does not read them.
fn trim<K: Resource>(object: &mut K) {
    object.managed_fields_mut().clear();
}

/// Nodes list every image they hold.
fn trim_node(node: &mut Node) {
    trim(node);
    node.annotations_mut().clear();
    if let Some(status) = &mut node.status {
        status.images = None;
        status.volumes_attached = None;
        status.volumes_in_use = None;
    }
}

/// Keeps the pod's status and node.
const KEPT_OF_PODS: [&str; 3] = [names::INITIAL_CLUSTER, names::MEMBER, names::TEMPLATE];

fn trim_pod(pod: &mut Pod) {
    trim(pod);
    pod.annotations_mut().retain(|annotation, _| KEPT_OF_PODS.contains(&annotation.as_str()));
    if let Some(spec) = &mut pod.spec {
        *spec = PodSpec { node_name: spec.node_name.take(), ..PodSpec::default() };
    }
}

/// Whether a template still is what was applied shows in `metadata.generation`.
fn trim_stateful_set(set: &mut StatefulSet) {
    trim(set);
    set.spec.template = PodTemplateSpec::default();
    set.spec.volume_claim_templates = None;
}

fn trim_deployment(deployment: &mut Deployment) {
    trim(deployment);
    deployment.spec.template = PodTemplateSpec::default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;
    use k8s_openapi::api::core::v1::ConfigMap;
    use nestling_crds::v1alpha1::VirtualCluster;
    use nestling_runtime::testing::{ApiServer, Fault};
    use serde_json::json;
    use std::pin::pin;
    use std::time::Duration;
    use tokio::time::timeout;

    const DEADLINE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn changes_by_users_and_of_owned_objects_make_a_cluster_due() {
        let api = ApiServer::new();
        let object = json!({"metadata": {"namespace": "team", "name": "dev", "generation": 1}, "spec": {}});
        let cluster: VirtualCluster = api.put(&serde_json::from_value(object).unwrap());
        api.inject("list", "configmaps", 1, Fault::Status(503));
        let (stores, writers) = Stores::new();
        let links = Links { queue: ReconcileQueue::default(), granted: Arc::default() };
        let watching = Watching { client: api.client(), readiness: Readiness::default(), shutdown: CancellationToken::new() };
        let mut tasks = JoinSet::new();
        let _secrets = start(watching.clone(), &stores, writers, &links, &mut tasks);
        // Each kind is listed, the ConfigMaps at the second attempt.
        assert!(timeout(DEADLINE, stores.filled()).await.unwrap());
        assert!(watching.readiness.is_ready(), "{:?}", watching.readiness.waiting_for());
        let mut due = pin!(links.queue.stream());
        let dev = ObjectRef::<Cluster>::new("dev").within("team");
        // Every first list makes it due.
        while let Ok(next) = timeout(Duration::from_millis(200), due.next()).await {
            assert_eq!(next.as_ref().map(|next| next.name.as_str()), Some("dev"));
        }

        // The operator's own write.
        api.edit::<VirtualCluster>("team", "dev", |object| object["status"] = json!({"selector": "a=b"}));
        assert!(timeout(Duration::from_millis(200), due.next()).await.is_err());
        api.edit::<VirtualCluster>("team", "dev", |object| {
            object["spec"]["paused"] = true.into();
            object["metadata"]["generation"] = 2.into();
        });
        assert_eq!(timeout(DEADLINE, due.next()).await.unwrap().map(|next| next.name), Some(dev.name.clone()));

        let owner = json!({"apiVersion": "nestling.dev/v1alpha1", "kind": "VirtualCluster", "name": "dev", "uid": cluster.metadata.uid});
        let labels = json!({labels::MANAGED_BY: labels::OPERATOR});
        let map = json!({"metadata": {"namespace": "team", "name": "dev-config", "labels": labels, "ownerReferences": [owner]}});
        api.put(&serde_json::from_value::<ConfigMap>(map).unwrap());
        assert_eq!(timeout(DEADLINE, due.next()).await.unwrap().map(|next| next.name), Some(dev.name.clone()));
        // An object that is not the operator's.
        let foreign = json!({"metadata": {"namespace": "team", "name": "other"}});
        api.put(&serde_json::from_value::<ConfigMap>(foreign).unwrap());
        assert!(timeout(Duration::from_millis(200), due.next()).await.is_err());
        assert!(stores.config_maps.get(&ObjectRef::new("other").within("team")).is_none());
        assert_eq!(api.count("list", "secrets"), 0, "Secrets are not watched everywhere");

        watching.shutdown.cancel();
        timeout(DEADLINE, async { while tasks.join_next().await.is_some() {} }).await.unwrap();
    }
}
