//! A tenant, a node and a pod for tests. The names on both sides differ everywhere, so a mixed-up name shows.

use super::names::PodKey;
use crate::tenant::{PodStores, StoreWriters, Tenant, TenantSpec};
use nestling_crds::names::{NodeName, TenantUid, WorkloadNamespace};
use std::sync::Arc;

pub(crate) fn tenant_spec() -> TenantSpec {
    TenantSpec {
        uid: TenantUid::new("0f8fad5b-d9cb-469f-a165-70867728950e"),
        workload_namespace: WorkloadNamespace::from_made("team-a-dev-workload"),
        cluster_domain: "tenant.local".into(),
        ..crate::fixtures::tenant_spec()
    }
}

pub(crate) fn node() -> NodeName {
    NodeName::new("node-1")
}

pub(crate) fn key() -> PodKey {
    PodKey { namespace: "shop".into(), name: "web-0".into(), uid: "tenant-pod-uid".into() }
}

/// A tenant with empty stores.
pub(crate) fn tenant(kubelet: kube::Client, host: kube::Client) -> (Arc<Tenant>, StoreWriters) {
    let (stores, writers) = PodStores::new();
    let tenant = Tenant { spec: tenant_spec(), node: node(), proxy: kubelet.clone(), kubelet, host, stores };
    (Arc::new(tenant), writers)
}
