//! Metadata of host objects: the tenant they belong to, and what deletes them.

use crate::model::ValidatedCluster;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use nestling_crds::labels;
use nestling_crds::names::TenantUid;
use nestling_crds::v1alpha1::DeletionPolicy;
use std::collections::BTreeMap;

/// Label of the workload namespace: namespace of the `VirtualCluster`.
pub(crate) const CLUSTER_NAMESPACE: &str = "nestling.dev/cluster-namespace";

/// Parts of a tenant, as values of label `nestling.dev/component`.
pub(crate) mod component {
    pub(crate) const CONTROL_PLANE: &str = "control-plane";
    pub(crate) const APISERVER: &str = "apiserver";
    pub(crate) const ETCD: &str = "etcd";
    pub(crate) const CONTROLLERS: &str = "controllers";
    pub(crate) const WORKLOAD: &str = "workload";
}

/// An object in the cluster's namespace that goes with the `VirtualCluster`.
pub(crate) fn owned(cluster: &ValidatedCluster, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(labels(cluster)),
        owner_references: Some(vec![cluster.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// An object in the cluster's namespace without which etcd's data is useless: with deletion policy `Retain` nothing owns it.
pub(crate) fn kept_with_data(cluster: &ValidatedCluster, name: String) -> ObjectMeta {
    let owned = owned(cluster, name);
    match cluster.deletion_policy {
        DeletionPolicy::Delete => owned,
        DeletionPolicy::Retain => ObjectMeta { owner_references: None, ..owned },
    }
}

/// An object in the workload namespace. It goes with the namespace; owner references do not reach across namespaces.
pub(crate) fn in_workload_namespace(cluster: &ValidatedCluster, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(cluster.workload_namespace.to_string()),
        labels: Some(labels(cluster)),
        ..ObjectMeta::default()
    }
}

/// Labels of every object of a cluster.
pub(crate) fn labels(cluster: &ValidatedCluster) -> BTreeMap<String, String> {
    labels_of(&cluster.uid, &cluster.name)
}

/// The same of a cluster of which no more is known.
pub(crate) fn labels_of(uid: &TenantUid, name: &str) -> BTreeMap<String, String> {
    strings([(labels::TENANT, uid.as_str()), (labels::CLUSTER, name), (labels::MANAGED_BY, labels::OPERATOR)])
}

/// What selects the pods of one part. Immutable in workloads, so the least that tells them apart.
pub(crate) fn selector(cluster: &ValidatedCluster, component: &str) -> BTreeMap<String, String> {
    strings([(labels::TENANT, cluster.uid.as_str()), (labels::COMPONENT, component)])
}

pub(crate) fn label_selector(cluster: &ValidatedCluster, component: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(selector(cluster, component)), ..LabelSelector::default() }
}

/// Labels of the pods of one part.
pub(crate) fn pod_labels(cluster: &ValidatedCluster, component: &str) -> BTreeMap<String, String> {
    let mut all = labels(cluster);
    all.extend(selector(cluster, component));
    all
}

pub(crate) fn strings<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
