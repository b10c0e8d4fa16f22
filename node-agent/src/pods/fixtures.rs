//! A tenant, a node and a pod for tests. The names on both sides differ everywhere, so a mixed-up name shows.

use super::key::PodKey;
use crate::tenant::TenantSpec;
use nestling_crds::names::{NodeName, TenantUid, WorkloadNamespace};

pub fn tenant_spec() -> TenantSpec {
    TenantSpec {
        uid: TenantUid::new("0f8fad5b-d9cb-469f-a165-70867728950e"),
        namespace: "team-a".into(),
        name: "dev".into(),
        workload_namespace: WorkloadNamespace::from_made("team-a-dev-workload"),
        endpoint: "https://172.30.0.1:6443".into(),
        ca_bundle: Vec::new(),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        dns_address: "10.96.0.10".parse().unwrap(),
        kubernetes_address: "10.96.0.1".parse().unwrap(),
        cluster_domain: "tenant.local".into(),
        version: "v1.37.2".into(),
        capacity: std::collections::BTreeMap::new(),
        draining: false,
    }
}

pub fn node() -> NodeName {
    NodeName::new("node-1")
}

pub fn key() -> PodKey {
    PodKey { namespace: "shop".into(), name: "web-0".into(), uid: "tenant-pod-uid".into() }
}
