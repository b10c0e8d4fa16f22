//! What the operator knows of the host: one watch per kind, label-scoped and trimmed, on every replica.
//!
//! [`watch::keep`] fills a store, [`trim`] says what of an object is kept, [`owner`] finds the cluster that a changed
//! object belongs to, [`wake::Wake`] holds the clusters that are due for a reconcile. Reconciles and the control API read
//! the same stores.

mod owner;
pub mod secrets;
mod start;
#[cfg(test)]
pub mod testing;
mod trim;
pub mod wake;
pub mod watch;

pub use start::{Links, start};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, ResourceQuota, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use nestling_crds::names::TenantUid;
use nestling_crds::v1alpha1::VirtualCluster;
use std::sync::Arc;

/// A `VirtualCluster` as the watch delivers it: one that this build cannot read does not end the watch.
pub type Cluster = DeserializeGuard<VirtualCluster>;

macro_rules! stores {
    ($($(#[$doc:meta])* $field:ident: $kind:ty,)*) => {
        /// Read side; clones share the stores.
        #[derive(Clone)]
        pub struct Stores {
            $($(#[$doc])* pub $field: Store<$kind>,)*
        }

        /// Write side, one for each watch.
        pub struct Writers {
            $(pub $field: Writer<$kind>,)*
        }

        impl Stores {
            /// Empty stores and what fills them.
            pub fn new() -> (Self, Writers) {
                let writers = Writers { $($field: Writer::default(),)* };
                (Self { $($field: writers.$field.as_reader(),)* }, writers)
            }

            /// Waits until each store has been filled once; `false` if a watch ended before.
            pub async fn filled(&self) -> bool {
                $(self.$field.wait_until_ready().await.is_ok())&&*
            }
        }
    };
}

stores! {
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
    secrets: PartialObjectMeta<Secret>,
    config_maps: PartialObjectMeta<ConfigMap>,
    service_accounts: PartialObjectMeta<ServiceAccount>,
    disruption_budgets: PartialObjectMeta<PodDisruptionBudget>,
    network_policies: PartialObjectMeta<NetworkPolicy>,
    role_bindings: PartialObjectMeta<RoleBinding>,
    quotas: PartialObjectMeta<ResourceQuota>,
    namespaces: PartialObjectMeta<Namespace>,
}

impl Stores {
    /// The cluster of this UID, if it exists and can be read.
    pub fn cluster(&self, uid: &TenantUid) -> Option<Arc<Cluster>> {
        self.clusters.find(|cluster| cluster.0.as_ref().is_ok_and(|cluster| cluster.metadata.uid.as_deref() == Some(uid.as_str())))
    }

    /// The cluster `namespace`/`name`.
    pub fn cluster_named(&self, namespace: &str, name: &str) -> Option<Arc<Cluster>> {
        self.clusters.get(&ObjectRef::new(name).within(namespace))
    }
}
