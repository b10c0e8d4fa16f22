use super::*;
use crate::host::ServedWriters;
use crate::host::testing::{cluster, put};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::runtime::watcher::Event;
use nestling_runtime::testing::{ApiServer, Fault};
use serde_json::{Value, json};

/// Stores with one served tenant, and the API that has its CA.
fn world() -> (ServedStores, ServedWriters, Authorities, ApiServer) {
    let (stores, mut writers) = ServedStores::new();
    put(&mut writers.nodes, json!({"metadata": {"name": "n1"}}));
    put(
        &mut writers.services,
        json!({
            "metadata": {"namespace": "team", "name": "dev-apiserver"},
            "spec": {"clusterIP": "10.96.7.7", "ports": [{"port": 443}]},
        }),
    );
    cluster(&mut writers.clusters, vc(&json!({})));
    let api = ApiServer::new();
    let secret = json!({"metadata": {"namespace": "team", "name": "dev-ca"}, "data": {"ca.crt": BASE64_STANDARD.encode("CA")}});
    api.put(&serde_json::from_value::<Secret>(secret).unwrap());
    let authorities = Authorities::new(api.client());
    (stores, writers, authorities, api)
}

fn vc(metadata: &Value) -> Value {
    let mut object = json!({
        "metadata": {"namespace": "team", "name": "dev", "uid": "vc-1"},
        "spec": {"nodes": {"capacity": {"cpu": "2"}, "labels": {"team": "a"}}},
        "status": {
            "endpoint": "https://dev.example:443", "version": "v1.37.2", "serviceCIDRs": ["10.128.16.0/20"], "workloadNamespace": "team-dev-x",
        },
    });
    for (key, value) in metadata.as_object().unwrap() {
        object["metadata"][key] = value.clone();
    }
    object
}

#[tokio::test]
async fn agents_get_what_they_need() {
    let (stores, _writers, authorities, _) = world();
    let taken = snapshot(&stores, &authorities, &TenantSnapshot::default()).await;
    assert!(taken.undescribed.is_empty());
    let assignment = &taken.tenants[&TenantUid::new("vc-1")];
    let expected = api::Tenant {
        uid: "vc-1".into(),
        namespace: "team".into(),
        name: "dev".into(),
        workload_namespace: "team-dev-x".into(),
        endpoint: "https://10.96.7.7:443".into(),
        ca_bundle: b"CA".to_vec(),
        service_cidrs: vec!["10.128.16.0/20".into()],
        dns_address: "10.128.16.10".into(),
        kubernetes_address: "10.128.16.1".into(),
        cluster_domain: "cluster.local".into(),
        version: "v1.37.2".into(),
        capacity: [("cpu".to_owned(), "2".to_owned())].into(),
        node_labels: [("team".into(), "a".into())].into(),
        draining: false,
        hibernated: false,
        resumed_at: 0,
    };
    assert_eq!(assignment.tenant, expected);
    assert!(assignment.is_on(&taken.nodes[&NodeName::new("n1")]));
}

#[tokio::test]
async fn agents_stop_pods_while_the_status_says_that_the_cluster_hibernates() {
    let (stores, mut writers, state, _) = world();
    let mut read = async |pods: &str, status: Value| {
        let mut object = vc(&json!({}));
        object["spec"]["hibernatedPods"] = pods.into();
        object["status"].as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
        cluster(&mut writers.clusters, object);
        let taken = snapshot(&stores, &state, &TenantSnapshot::default()).await;
        let tenant = &taken.tenants[&TenantUid::new("vc-1")].tenant;
        (tenant.hibernated, tenant.resumed_at)
    };
    let condition = json!({"type": "Hibernated", "status": "False", "reason": "ScalingDown", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let hibernated = json!({"conditions": [condition]});
    assert_eq!(read("Stop", hibernated.clone()).await, (true, 0));
    assert_eq!(read("Keep", hibernated).await, (false, 0));
    assert_eq!(read("Stop", json!({"resumedAt": "1970-01-01T00:01:00Z"})).await, (false, 60));
}

#[tokio::test]
async fn a_tenant_that_cannot_be_read_stays_as_it_was() {
    let (stores, mut writers, authorities, api) = world();
    let before = snapshot(&stores, &authorities, &TenantSnapshot::default()).await;
    api.inject("get", "secrets", usize::MAX, Fault::Status(500));
    let after = snapshot(&stores, &authorities, &before).await;
    assert_eq!((after.tenants, after.undescribed.len()), (before.tenants.clone(), 0));
    // Also when its Service is gone for a moment.
    let service: Service = serde_json::from_value(json!({"metadata": {"namespace": "team", "name": "dev-apiserver"}})).unwrap();
    writers.services.apply_watcher_event(&Event::Delete(service));
    assert_eq!(snapshot(&stores, &authorities, &before).await.tenants, before.tenants);
    // A replica that has just started can only say that it exists.
    let fresh = snapshot(&stores, &authorities, &TenantSnapshot::default()).await;
    assert_eq!((fresh.undescribed, fresh.tenants.len()), ([TenantUid::new("vc-1")].into(), 0));
}

#[tokio::test]
async fn a_cluster_that_this_build_cannot_decode_does_not_count_as_gone() {
    let (stores, mut writers, authorities, _) = world();
    let before = snapshot(&stores, &authorities, &TenantSnapshot::default()).await;
    cluster(&mut writers.clusters, json!({"metadata": {"namespace": "team", "name": "dev", "uid": "vc-1"}, "spec": {"topology": "Ring"}}));
    assert_eq!(snapshot(&stores, &authorities, &before).await.tenants, before.tenants);
    assert_eq!(snapshot(&stores, &authorities, &TenantSnapshot::default()).await.undescribed, [TenantUid::new("vc-1")].into());
}

#[tokio::test]
async fn a_cluster_being_deleted_leaves_at_once() {
    let (stores, mut writers, authorities, _) = world();
    let before = snapshot(&stores, &authorities, &TenantSnapshot::default()).await;
    cluster(&mut writers.clusters, vc(&json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})));
    let after = snapshot(&stores, &authorities, &before).await;
    assert!(after.undescribed.is_empty() && after.tenants.is_empty());
}

#[tokio::test]
async fn a_single_node_cluster_is_served_where_it_is_pinned() {
    let (stores, mut writers, authorities, _) = world();
    let mut single = vc(&json!({}));
    single["spec"]["topology"] = "SingleNode".into();
    cluster(&mut writers.clusters, single);
    assert!(snapshot(&stores, &authorities, &TenantSnapshot::default()).await.tenants.is_empty());
    put(
        &mut writers.stateful_sets,
        json!({
            "metadata": {"namespace": "team", "name": "dev-control-plane", "annotations": {PINNED_NODE: "n2"}},
            "spec": {"selector": {}, "template": {}},
        }),
    );
    let taken = snapshot(&stores, &authorities, &TenantSnapshot::default()).await;
    assert_eq!(taken.tenants[&TenantUid::new("vc-1")].nodes, Nodes::Pinned(NodeName::new("n2")));
}
