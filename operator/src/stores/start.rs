//! Which watches there are, and what a change in each of them means.

use super::wake::Wake;
use super::watch::{Change, keep};
use super::{Cluster, Stores, Writers, owner, trim};
use k8s_openapi::api::core::v1::Node;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Lookup as _, ObjectRef};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use nestling_crds::labels;
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
pub struct Links {
    pub wake: Wake,
    /// Something that agents are told may have changed.
    pub served: Arc<Notify>,
    pub readiness: Readiness,
    /// Ends all watches.
    pub stop: CancellationToken,
}

struct Frame<'a> {
    client: Client,
    stores: &'a Stores,
    links: Links,
    tasks: &'a mut JoinSet<()>,
}

/// Starts all watches in `tasks`.
pub fn start(client: Client, stores: &Stores, writers: Writers, links: Links, tasks: &mut JoinSet<()>) {
    let mut frame = Frame { client, stores, links, tasks };
    let Writers {
        clusters,
        nodes,
        service_cidrs,
        pods,
        services,
        stateful_sets,
        deployments,
        secrets,
        config_maps,
        service_accounts,
        disruption_budgets,
        network_policies,
        role_bindings,
        quotas,
        namespaces,
    } = writers;
    frame.clusters(clusters);
    frame.nodes(nodes);
    let client = frame.client.clone();
    frame.keep(Api::all(client), watcher::Config::default(), trim::managed_fields, service_cidrs, |_| {});
    let control_plane = format!("{} in (control-plane, etcd, apiserver, controllers)", labels::COMPONENT);
    frame.children(watcher::Config::default().labels(&control_plane), trim::pod, pods);
    frame.children(ours(), trim::managed_fields, services);
    frame.children(ours(), trim::stateful_set, stateful_sets);
    frame.children(ours(), trim::deployment, deployments);
    frame.children(ours(), trim::managed_fields, secrets);
    frame.children(ours(), trim::managed_fields, config_maps);
    frame.children(ours(), trim::managed_fields, service_accounts);
    frame.children(ours(), trim::managed_fields, disruption_budgets);
    frame.children(ours(), trim::managed_fields, network_policies);
    frame.children(ours(), trim::managed_fields, role_bindings);
    frame.children(ours(), trim::managed_fields, quotas);
    frame.children(ours(), trim::managed_fields, namespaces);
}

fn ours() -> watcher::Config {
    watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::OPERATOR))
}

/// What of a cluster is worth a reconcile when it changes: what a user can change. Status writes are our own.
type Asked = (Option<i64>, bool, Vec<String>);

fn asked(cluster: &Cluster) -> Asked {
    let meta = cluster.meta();
    (meta.generation, meta.deletion_timestamp.is_some(), meta.finalizers.clone().unwrap_or_default())
}

impl Frame<'_> {
    fn clusters(&mut self, writer: Writer<Cluster>) {
        let (stores, wake, served) = (self.stores.clone(), self.links.wake.clone(), self.links.served.clone());
        let mut seen: HashMap<ObjectRef<Cluster>, Asked> = HashMap::new();
        let api = Api::<Cluster>::all(self.client.clone());
        self.keep(api, watcher::Config::default(), trim::managed_fields, writer, move |change| {
            match change {
                Change::Applied(cluster) => {
                    let (reference, asked) = (cluster.to_object_ref(()), asked(cluster));
                    if seen.get(&reference) != Some(&asked) {
                        seen.insert(reference.clone(), asked);
                        wake.cluster(reference);
                    }
                }
                Change::Deleted(cluster) => {
                    seen.remove(&cluster.to_object_ref(()));
                }
                Change::Listed => {
                    let all = stores.clusters.state();
                    seen = all.iter().map(|cluster| (cluster.to_object_ref(()), asked(cluster))).collect();
                    wake.clusters(seen.keys().cloned());
                }
            }
            served.notify_one();
        });
    }

    fn nodes(&mut self, writer: Writer<Node>) {
        let (stores, wake, served) = (self.stores.clone(), self.links.wake.clone(), self.links.served.clone());
        let api = Api::all(self.client.clone());
        self.keep(api, watcher::Config::default(), trim::node, writer, move |_| {
            // A cluster that runs does not care; one that could not be placed may be now.
            wake.clusters(stores.clusters.state().iter().filter(|cluster| !is_ready(cluster)).map(|cluster| cluster.to_object_ref(())));
            served.notify_one();
        });
    }

    /// Watches a kind of which we own objects: a change is due to the owner, a new list to everybody.
    fn children<K>(&mut self, config: watcher::Config, trim: fn(&mut K), writer: Writer<K>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let (stores, wake, served) = (self.stores.clone(), self.links.wake.clone(), self.links.served.clone());
        let api = Api::<K>::all(self.client.clone());
        self.keep(api, config, trim, writer, move |change| {
            match change {
                Change::Applied(object) | Change::Deleted(object) => wake.clusters(owner::owner(object, &stores)),
                Change::Listed => wake.clusters(stores.clusters.state().iter().map(|cluster| cluster.to_object_ref(()))),
            }
            served.notify_one();
        });
    }

    fn keep<K>(
        &mut self,
        api: Api<K>,
        config: watcher::Config,
        trim: fn(&mut K),
        writer: Writer<K>,
        on_change: impl FnMut(Change<'_, K>) + Send + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let pending = self.links.readiness.pending(format!("first list of {}", K::plural(&())));
        self.tasks.spawn(keep(api, config, trim, writer, pending, self.links.stop.clone(), on_change));
    }
}

fn is_ready(cluster: &Cluster) -> bool {
    let status = cluster.0.as_ref().ok().and_then(|cluster| cluster.status.as_ref());
    status
        .is_some_and(|status| status.conditions.iter().any(|c| c.type_ == nestling_crds::v1alpha1::conditions::READY && c.status == "True"))
}
