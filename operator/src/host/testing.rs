//! Stores that tests fill by hand.

use super::{Cluster, Stores, Writers};
use kube::Resource;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Event;
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
