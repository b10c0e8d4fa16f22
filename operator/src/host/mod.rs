//! The host cluster: cached reads, clients, and the queue of clusters that its changes make due.
//!
//! [`watches`] fills the stores, one watch per kind, label-scoped and trimmed, on every replica: [`Stores`] for reconciles,
//! [`ServedStores`] for the control API. [`secrets`] fills the store of Secrets, with one watch per namespace. [`client`] makes clients that write only while the lease is held.

pub(crate) mod client;
pub(crate) mod queue;
pub(crate) mod secrets;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod watches;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, PersistentVolumeClaim, Pod, ResourceQuota, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Lookup as _, ObjectRef, Store};
use kube::{Resource, ResourceExt as _};
use nestling_crds::labels;
use nestling_crds::names::TenantUid;
use nestling_crds::v1alpha1::VirtualCluster;
use std::sync::Arc;

/// A `VirtualCluster` as the watch delivers it: one that this build cannot decode does not end the watch.
pub(crate) type Cluster = DeserializeGuard<VirtualCluster>;

macro_rules! stores {
    ($(#[$about:meta])* $stores:ident, $writers:ident; $($(#[$doc:meta])* $field:ident: $kind:ty,)*) => {
        $(#[$about])*
        #[derive(Clone)]
        pub(crate) struct $stores {
            $($(#[$doc])* pub(crate) $field: Store<$kind>,)*
        }

        /// Write side, one for each watch.
        pub(crate) struct $writers {
            $(pub(crate) $field: Writer<$kind>,)*
        }

        impl $stores {
            /// Empty stores and what fills them.
            pub(crate) fn new() -> (Self, $writers) {
                let writers = $writers { $($field: Writer::default(),)* };
                (Self { $($field: writers.$field.as_reader(),)* }, writers)
            }

            /// The cluster of this UID, if it exists.
            pub(crate) fn cluster(&self, uid: &TenantUid) -> Option<Arc<Cluster>> {
                self.clusters.find(|cluster| cluster.meta().uid.as_deref() == Some(uid.as_str()))
            }

            /// Waits until each store has been filled once; `false` if a watch ended before.
            pub(crate) async fn filled(&self) -> bool {
                $(self.$field.wait_until_ready().await.is_ok())&&*
            }
        }
    };
}

stores! {
    /// What the control API reads; clones share the stores.
    ServedStores, ServedWriters;
    clusters: Cluster,
    nodes: Node,
    services: Service,
    /// Without pod templates.
    stateful_sets: StatefulSet,
    service_accounts: PartialObjectMeta<ServiceAccount>,
}

stores! {
    /// What reconciles read; clones share the stores.
    Stores, Writers;
    clusters: Cluster,
    nodes: Node,
    service_cidrs: ServiceCIDR,
    /// Pods of control planes, without their specs.
    pods: Pod,
    services: Service,
    /// Without pod templates.
    stateful_sets: StatefulSet,
    /// Without pod templates.
    deployments: Deployment,
    claims: PartialObjectMeta<PersistentVolumeClaim>,
    secrets: PartialObjectMeta<Secret>,
    config_maps: PartialObjectMeta<ConfigMap>,
    service_accounts: PartialObjectMeta<ServiceAccount>,
    disruption_budgets: PartialObjectMeta<PodDisruptionBudget>,
    network_policies: PartialObjectMeta<NetworkPolicy>,
    roles: PartialObjectMeta<Role>,
    role_bindings: PartialObjectMeta<RoleBinding>,
    quotas: PartialObjectMeta<ResourceQuota>,
    namespaces: PartialObjectMeta<Namespace>,
}

/// Fills the store of Secrets.
pub(crate) type SecretWriter = Writer<PartialObjectMeta<Secret>>;

impl Stores {
    /// The cluster that `object` belongs to: by owner reference, or by the tenant's label for its workload namespace and
    /// the objects in it.
    fn owner<K: Resource>(&self, object: &K) -> Option<ObjectRef<Cluster>> {
        let namespace = object.meta().namespace.as_deref();
        let mut references = object.owner_references().iter();
        references.find_map(|reference| ObjectRef::<Cluster>::from_owner_ref(namespace, reference, ())).or_else(|| {
            let uid = TenantUid::new(object.labels().get(labels::TENANT)?);
            Some(self.cluster(&uid)?.to_object_ref(()))
        })
    }
}
