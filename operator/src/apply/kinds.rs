//! The kinds of host objects that are applied, and where each is watched.

use crate::stores::Stores;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// A kind of object that the operator applies on the host.
pub trait HostObject: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The kind's API in `namespace`, or of the whole host for kinds without one.
    fn api(client: Client, namespace: &str) -> Api<Self>;

    /// Metadata of the object as last watched.
    fn watched(stores: &Stores, namespace: &str, name: &str) -> Option<ObjectMeta>;

    /// `desired`, known to be applied, with what the store knows of it besides: its status.
    fn with_status(stores: &Stores, desired: Self) -> Self;
}

/// Kinds that are watched for their metadata only: what was asked for is all there is to know.
macro_rules! by_metadata {
    ($($kind:ty: $store:ident,)*) => {$(
        impl HostObject for $kind {
            fn api(client: Client, namespace: &str) -> Api<Self> {
                Api::namespaced(client, namespace)
            }

            fn watched(stores: &Stores, namespace: &str, name: &str) -> Option<ObjectMeta> {
                Some(stores.$store.get(&ObjectRef::new(name).within(namespace))?.metadata.clone())
            }

            fn with_status(_: &Stores, desired: Self) -> Self {
                desired
            }
        }
    )*};
}

/// Kinds that are watched whole, for their status.
macro_rules! by_status {
    ($($kind:ty: $store:ident,)*) => {$(
        impl HostObject for $kind {
            fn api(client: Client, namespace: &str) -> Api<Self> {
                Api::namespaced(client, namespace)
            }

            fn watched(stores: &Stores, namespace: &str, name: &str) -> Option<ObjectMeta> {
                Some(stores.$store.get(&ObjectRef::new(name).within(namespace))?.metadata.clone())
            }

            fn with_status(stores: &Stores, mut desired: Self) -> Self {
                if let Some(live) = stores.$store.get(&ObjectRef::from_obj(&desired)) {
                    desired.metadata = live.metadata.clone();
                    desired.status = live.status.clone();
                }
                desired
            }
        }
    )*};
}

by_metadata! {
    Secret: secrets,
    ConfigMap: config_maps,
    ServiceAccount: service_accounts,
    PodDisruptionBudget: disruption_budgets,
    NetworkPolicy: network_policies,
    RoleBinding: role_bindings,
    ResourceQuota: quotas,
}

by_status! {
    StatefulSet: stateful_sets,
    Deployment: deployments,
}

impl HostObject for Service {
    fn api(client: Client, namespace: &str) -> Api<Self> {
        Api::namespaced(client, namespace)
    }

    fn watched(stores: &Stores, namespace: &str, name: &str) -> Option<ObjectMeta> {
        Some(stores.services.get(&ObjectRef::new(name).within(namespace))?.metadata.clone())
    }

    /// The whole of it: the address is given by the host and stands in the spec.
    fn with_status(stores: &Stores, desired: Self) -> Self {
        stores.services.get(&ObjectRef::from_obj(&desired)).map_or(desired, |live| (*live).clone())
    }
}

impl HostObject for Namespace {
    fn api(client: Client, _: &str) -> Api<Self> {
        Api::all(client)
    }

    fn watched(stores: &Stores, _: &str, name: &str) -> Option<ObjectMeta> {
        Some(stores.namespaces.get(&ObjectRef::new(name))?.metadata.clone())
    }

    fn with_status(_: &Stores, desired: Self) -> Self {
        desired
    }
}
