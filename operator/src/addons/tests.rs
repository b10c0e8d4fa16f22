use super::*;
use crate::apply::drift::holds;
use crate::apply::testing::{api, not_found};
use crate::host::Stores;
use http::Method;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

const EVERY: Duration = Duration::from_secs(600);

fn settings() -> Settings {
    Settings {
        dns_address: "10.96.0.10".parse().unwrap(),
        cluster_domain: "cluster.example".into(),
        coredns_image: "registry.example/coredns:v1".into(),
        coredns_generation: None,
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
    for Object { resource, object } in stages(&settings()).into_iter().flatten() {
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

#[tokio::test(start_paused = true)]
async fn applied_once_then_checked_now_and_then_and_repaired() {
    let live: Arc<Mutex<HashMap<String, Value>>> = Arc::default();
    let state = live.clone();
    let (client, log) = api(move |method, path, body| {
        let mut live = state.lock().unwrap();
        if *method == Method::PATCH {
            live.insert(path.to_owned(), body.clone());
        }
        live.get(path).map_or_else(not_found, |object| (200, object.clone()))
    });
    let (uid, remembered) = (TenantUid::new("vc-1"), State::new(client.clone(), Stores::new().0));
    let keep = async |generation| {
        let settings = Settings { coredns_generation: Some(generation), ..settings() };
        apply(&client, &uid, &remembered, &settings, EVERY).await.unwrap();
    };
    let writes = |log: Vec<String>| log.into_iter().filter(|line| line.starts_with("PATCH")).collect::<Vec<_>>();
    let total = stages(&settings()).iter().map(Vec::len).sum::<usize>();

    keep(1).await;
    let first = writes(log.take());
    assert_eq!(first.len(), total);
    // Its ServiceAccount must be there before pods of it can be created.
    assert!(first.last().unwrap().ends_with("/deployments/coredns"), "{first:?}");

    keep(1).await;
    assert!(log.take().is_empty());

    tokio::time::advance(EVERY).await;
    live.lock().unwrap().remove("/api/v1/namespaces/kube-system/services/kube-dns");
    keep(1).await;
    assert_eq!(writes(log.take()), ["PATCH /api/v1/namespaces/kube-system/services/kube-dns"]);

    // A change of CoreDNS by others leads to a check at once.
    keep(2).await;
    let requests = log.take();
    assert_eq!((requests.len(), writes(requests).len()), (total, 0));
}
