//! The watches that fill the [`Stores`]: what each of them keeps of an object, and which clusters its changes make due.

use super::queue::ReconcileQueue;
use super::{Cluster, SecretWriter, Stores, Writers};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, PodTemplateSpec};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::core::PartialObjectMeta;
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

/// Where changes go, and what watches need besides.
#[derive(Clone)]
pub(crate) struct Links {
    pub(crate) queue: ReconcileQueue,
    /// Notified of every change that may concern node agents.
    pub(crate) changed: Arc<Notify>,
    /// Notified of every change of the operator's own rights ([`super::secrets`]).
    pub(crate) granted: Arc<Notify>,
    /// Not ready before the first list of every kind.
    pub(crate) readiness: Readiness,
    /// Ends all watches.
    pub(crate) shutdown: CancellationToken,
}

/// Starts the watches in `tasks`: all but those of Secrets.
/// Returns what is to fill the store of Secrets ([`super::secrets`]).
pub(crate) fn start(client: Client, stores: &Stores, writers: Writers, links: Links, tasks: &mut JoinSet<()>) -> SecretWriter {
    let mut watches = Watches { client, stores, links, tasks };
    let control_plane = format!("{} in (control-plane, etcd, apiserver, controllers)", labels::COMPONENT);
    let owned = Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::OPERATOR));
    watches.clusters(writers.clusters);
    watches.nodes(writers.nodes);
    watches.keep("ServiceCIDRs", Config::default(), trim, writers.service_cidrs, |_| {});
    watches.children("pods", Config::default().labels(&control_plane), trim_pod, writers.pods);
    watches.children("Services", owned.clone(), trim, writers.services);
    watches.children("StatefulSets", owned.clone(), trim_stateful_set, writers.stateful_sets);
    watches.children("Deployments", owned.clone(), trim_deployment, writers.deployments);
    watches.children("PersistentVolumeClaims", owned.clone(), trim, writers.claims);
    watches.children("ConfigMaps", owned.clone(), trim, writers.config_maps);
    watches.children("ServiceAccounts", owned.clone(), trim, writers.service_accounts);
    watches.children("PodDisruptionBudgets", owned.clone(), trim, writers.disruption_budgets);
    watches.children("NetworkPolicies", owned.clone(), trim, writers.network_policies);
    watches.role_bindings(owned.clone(), writers.role_bindings);
    watches.children("ResourceQuotas", owned.clone(), trim, writers.quotas);
    watches.children("namespaces", owned, trim, writers.namespaces);
    let mut secrets = writers.secrets;
    // Nothing waits for Secrets.
    secrets.apply_watcher_event(&Event::Init);
    secrets.apply_watcher_event(&Event::InitDone);
    secrets
}

/// A change of a store, after it was made.
enum Change<K> {
    Applied(K),
    Deleted(K),
    /// The store was replaced by a new list: any object may have changed, and what is not in it is gone.
    Listed,
}

struct Watches<'a> {
    client: Client,
    stores: &'a Stores,
    links: Links,
    tasks: &'a mut JoinSet<()>,
}

impl Watches<'_> {
    fn clusters(&mut self, writer: Writer<Cluster>) {
        let (stores, Links { queue, changed, .. }) = (self.stores.clone(), self.links.clone());
        let mut seen: HashMap<ObjectRef<Cluster>, UserInput> = HashMap::new();
        self.keep("VirtualClusters", Config::default(), trim, writer, move |change| {
            match change {
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
            changed.notify_one();
        });
    }

    fn nodes(&mut self, writer: Writer<Node>) {
        let (stores, Links { queue, changed, .. }) = (self.stores.clone(), self.links.clone());
        self.keep("nodes", Config::default(), trim_node, writer, move |_| {
            // A running cluster does not depend on a change of nodes; one that could not be placed may fit now.
            queue.extend(stores.clusters.state().iter().filter(|cluster| !is_ready(cluster)).map(|cluster| cluster.to_object_ref(())));
            changed.notify_one();
        });
    }

    /// Watches a kind of which the operator owns objects: a change makes the owner due, a new list every cluster.
    fn children<K>(&mut self, what: &'static str, config: Config, trim: fn(&mut K), writer: Writer<K>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let act = self.due();
        self.keep(what, config, trim, writer, act);
    }

    fn due<K: Resource>(&self) -> impl FnMut(Change<K>) + Send + 'static {
        let (stores, Links { queue, changed, .. }) = (self.stores.clone(), self.links.clone());
        move |change| {
            match change {
                Change::Applied(object) | Change::Deleted(object) => queue.extend(stores.owner(&object)),
                Change::Listed => queue.extend(stores.clusters.state().iter().map(|cluster| cluster.to_object_ref(()))),
            }
            changed.notify_one();
        }
    }

    /// With them, the operator's rights to read Secrets come and go.
    fn role_bindings(&mut self, config: Config, writer: Writer<PartialObjectMeta<RoleBinding>>) {
        let (granted, mut act) = (self.links.granted.clone(), self.due());
        self.keep("RoleBindings", config, trim, writer, move |change| {
            act(change);
            granted.notify_one();
        });
    }

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
        let mut pending = Some(self.links.readiness.pending(format!("first list of {what}")));
        self.tasks.spawn(follow(Api::<K>::all(self.client.clone()), config, what, self.links.shutdown.clone(), move |event| {
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
fn trim_pod(pod: &mut Pod) {
    trim(pod);
    pod.annotations_mut().clear();
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
        let links = Links {
            queue: ReconcileQueue::default(),
            changed: Arc::default(),
            granted: Arc::default(),
            readiness: Readiness::default(),
            shutdown: CancellationToken::new(),
        };
        let mut tasks = JoinSet::new();
        let _secrets = start(api.client(), &stores, writers, links.clone(), &mut tasks);
        // Each kind is listed, the ConfigMaps at the second attempt.
        assert!(timeout(DEADLINE, stores.filled()).await.unwrap());
        assert!(links.readiness.is_ready(), "{:?}", links.readiness.waiting_for());
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

        links.shutdown.cancel();
        timeout(DEADLINE, async { while tasks.join_next().await.is_some() {} }).await.unwrap();
    }
}
