//! One object of the add-ons, and what of a cluster it depends on.

use crate::apply::Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::{ApiResource, DynamicObject, TypeMeta};
use nestling_crds::labels;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What of a cluster its add-ons depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Settings {
    /// Address of the `kube-dns` Service.
    pub(crate) dns_address: IpAddr,
    pub(crate) cluster_domain: String,
    pub(crate) coredns_image: String,
    /// `metadata.generation` of the live CoreDNS Deployment, so that a change by others leads to a check of all objects.
    pub(crate) coredns_generation: Option<i64>,
}

/// An object of kind `K`; `namespace` is empty for kinds without one. `fields` are those beside `metadata`.
pub(super) fn object<K: Resource<DynamicType = ()>>(namespace: &str, name: &str, extra_labels: &[(&str, &str)], fields: Value) -> Object {
    let mut all: BTreeMap<String, String> = extra_labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    all.insert(labels::MANAGED_BY.into(), labels::OPERATOR.into());
    let metadata = ObjectMeta {
        name: Some(name.into()),
        namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
        labels: Some(all),
        ..ObjectMeta::default()
    };
    Object {
        resource: ApiResource::erase::<K>(&()),
        object: DynamicObject { types: Some(TypeMeta::resource::<K>()), metadata, data: fields },
    }
}
