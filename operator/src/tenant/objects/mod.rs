//! What the operator keeps inside every tenant. Pure. In stages: what a later stage's controllers need is there before.

mod access;
pub mod coredns;

use crate::reconcile::validate::ValidatedCluster;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::{ApiResource, DynamicObject, TypeMeta};
use nestling_crds::labels;
use serde_json::Value;
use std::net::IpAddr;

/// An object of any kind. JSON, because server-side apply owns exactly the fields it is sent.
#[derive(Clone, Debug)]
pub struct TenantObject {
    pub resource: ApiResource,
    pub object: DynamicObject,
}

/// What of a cluster its inner objects depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Address of the `kube-dns` Service.
    pub dns_address: IpAddr,
    pub cluster_domain: String,
    pub coredns_image: String,
}

impl Settings {
    pub fn of(cluster: &ValidatedCluster) -> Self {
        Self {
            dns_address: cluster.dns_address,
            cluster_domain: cluster.cluster_domain.clone(),
            coredns_image: cluster.images.coredns.clone(),
        }
    }
}

/// All objects, by stage.
pub fn stages(settings: &Settings) -> Vec<Vec<TenantObject>> {
    let mut first = access::objects();
    first.extend(coredns::prerequisites(settings));
    vec![first, vec![coredns::deployment(settings)]]
}

/// An object of kind `K`; `namespace` is empty for kinds without one. `fields` are those beside `metadata`.
fn object<K: Resource<DynamicType = ()>>(namespace: &str, name: &str, extra_labels: &[(&str, &str)], fields: Value) -> TenantObject {
    let mut all: std::collections::BTreeMap<String, String> =
        extra_labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    all.insert(labels::MANAGED_BY.into(), labels::OPERATOR.into());
    let metadata = ObjectMeta {
        name: Some(name.into()),
        namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
        labels: Some(all),
        ..ObjectMeta::default()
    };
    TenantObject {
        resource: ApiResource::erase::<K>(&()),
        object: DynamicObject { types: Some(TypeMeta::resource::<K>()), metadata, data: fields },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::holds::holds;
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
    use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    fn settings() -> Settings {
        Settings {
            dns_address: "10.96.0.10".parse().unwrap(),
            cluster_domain: "cluster.example".into(),
            coredns_image: "registry.example/coredns:v1".into(),
        }
    }

    #[test]
    fn rendered() {
        let all: Vec<_> = stages(&settings()).into_iter().flatten().map(|o| serde_json::to_value(o.object).unwrap()).collect();
        insta::assert_yaml_snapshot!(all);
    }

    /// A misspelt field would be lost on the way through the type.
    #[test]
    fn every_field_is_one_of_its_kind() {
        fn round<K: DeserializeOwned + Serialize>(value: &Value) -> Value {
            serde_json::to_value(serde_json::from_value::<K>(value.clone()).unwrap()).unwrap()
        }
        for TenantObject { resource, object } in stages(&settings()).into_iter().flatten() {
            let value = serde_json::to_value(&object).unwrap();
            let typed = match resource.kind.as_str() {
                "Deployment" => round::<Deployment>(&value),
                "ConfigMap" => round::<ConfigMap>(&value),
                "Service" => round::<Service>(&value),
                "ServiceAccount" => round::<ServiceAccount>(&value),
                "ClusterRole" => round::<ClusterRole>(&value),
                "ClusterRoleBinding" => round::<ClusterRoleBinding>(&value),
                other => panic!("{other} is not checked"),
            };
            assert!(holds(&value, &typed), "{value:#}\n{typed:#}");
        }
    }
}
