//! Stores that tests fill by hand, or with what an API server has.

use super::{Cluster, Stores, Writers};
use kube::Resource;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Event;
use nestling_runtime::testing::ApiServer;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Stores with what `fill` puts into them, all of them listed.
pub(crate) fn filled(fill: impl FnOnce(&mut Writers)) -> Stores {
    let (stores, mut writers) = Stores::new();
    fill(&mut writers);
    stores
}

/// Puts an object of JSON into a store.
pub(crate) fn put<K>(writer: &mut Writer<K>, object: Value)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned,
{
    writer.apply_watcher_event(&Event::Apply(serde_json::from_value(object).unwrap()));
}

/// Puts an object of which only metadata is kept.
pub(crate) fn meta<K>(writer: &mut Writer<K>, metadata: &Value)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned,
{
    put(writer, json!({"metadata": metadata}));
}

pub(crate) fn cluster(writer: &mut Writer<Cluster>, object: Value) {
    let mut object = object;
    object["apiVersion"] = "nestling.dev/v1alpha1".into();
    object["kind"] = "VirtualCluster".into();
    let cluster: DeserializeGuard<_> = serde_json::from_value(object).unwrap();
    writer.apply_watcher_event(&Event::Apply(cluster));
}

/// Fills the stores with what `api` has now: what the watches would have delivered.
pub(crate) fn mirror(api: &ApiServer, writers: &mut Writers) {
    all(api, &mut writers.clusters);
    all(api, &mut writers.nodes);
    all(api, &mut writers.service_cidrs);
    all(api, &mut writers.pods);
    all(api, &mut writers.services);
    all(api, &mut writers.stateful_sets);
    all(api, &mut writers.deployments);
    all(api, &mut writers.claims);
    all(api, &mut writers.secrets);
    all(api, &mut writers.config_maps);
    all(api, &mut writers.service_accounts);
    all(api, &mut writers.disruption_budgets);
    all(api, &mut writers.network_policies);
    all(api, &mut writers.roles);
    all(api, &mut writers.role_bindings);
    all(api, &mut writers.quotas);
    all(api, &mut writers.namespaces);
}

fn all<K>(api: &ApiServer, writer: &mut Writer<K>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned,
{
    writer.apply_watcher_event(&Event::Init);
    for object in api.list::<K>() {
        writer.apply_watcher_event(&Event::InitApply(object));
    }
    writer.apply_watcher_event(&Event::InitDone);
}
