//! A tenant for the tests of all folders.

use crate::tenant::TenantSpec;
use nestling_crds::names::{TenantUid, WorkloadNamespace};
use std::collections::BTreeMap;

/// Tests that depend on a field set it themselves: `TenantSpec { cluster_domain: …, ..tenant_spec() }`.
pub(crate) fn tenant_spec() -> TenantSpec {
    TenantSpec {
        uid: TenantUid::new("tenant-uid"),
        namespace: "team-a".into(),
        name: "dev".into(),
        workload_namespace: WorkloadNamespace::from_made("team-a-dev-x"),
        endpoint: "https://127.0.0.1:6443".into(),
        ca_bundle: Vec::new(),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        dns_address: "10.96.0.10".parse().unwrap(),
        kubernetes_address: "10.96.0.1".parse().unwrap(),
        cluster_domain: "cluster.local".into(),
        version: "v1.37.2".into(),
        capacity: BTreeMap::new(),
        draining: false,
    }
}
