use super::*;
use crate::apply::drift::holds;
use crate::host::Stores;
use crate::tenant::observe::Observation;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use nestling_crds::v1alpha1::{CoreDns, Forwarding};
use nestling_runtime::testing::{ApiServer, Fault};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

const EVERY: Duration = Duration::from_secs(600);

fn settings() -> Settings {
    Settings {
        dns_address: "10.96.0.10".parse().unwrap(),
        cluster_domain: "cluster.example".into(),
        coredns_image: "registry.example/coredns:v1".into(),
        coredns_generation: None,
        core_dns: CoreDns::default(),
        resumed_at: None,
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

/// As a reconcile starts it; what failed, and that nothing does any more, comes through the channel, which is closed at the end.
fn begin(client: &Client, remembered: &Arc<State>, settings: Settings) -> (Option<Failure>, mpsc::UnboundedReceiver<Option<Failure>>) {
    let (sender, ends) = mpsc::unbounded_channel();
    let tenant = Tenant { client: client.clone(), observation: watch::channel(Observation::default()).1 };
    let ended = move |failure: Option<&Failure>| drop(sender.send(failure.cloned()));
    (keep(&tenant, &TenantUid::new("vc-1"), remembered, settings, EVERY, ended), ends)
}

fn remember_nothing(client: &Client) -> Arc<State> {
    Arc::new(State::new(client.clone(), Stores::new().0))
}

#[tokio::test(start_paused = true)]
async fn applied_once_then_checked_now_and_then_and_repaired() {
    let api = ApiServer::new();
    let client = api.client();
    let remembered = remember_nothing(&client);
    let keep = async |generation| {
        let settings = Settings { coredns_generation: Some(generation), ..settings() };
        begin(&client, &remembered, settings).1.recv().await;
    };
    let writes = || api.take_writes().into_iter().filter(|write| write.starts_with("apply")).collect::<Vec<_>>();
    let total = stages(&settings()).iter().map(Vec::len).sum::<usize>();

    keep(1).await;
    let first = writes();
    assert_eq!(first.len(), total);
    // Its ServiceAccount must be there before pods of it can be created.
    assert_eq!(first.last().unwrap(), "apply deployments kube-system/coredns");

    keep(1).await;
    assert!(api.requests().is_empty());

    tokio::time::advance(EVERY).await;
    api.remove::<Service>("kube-system", "kube-dns");
    keep(1).await;
    assert_eq!(writes(), ["apply services kube-system/kube-dns"]);

    // A change of CoreDNS by others leads to a check at once.
    keep(2).await;
    assert_eq!((api.requests().len(), writes().len()), (total, 0));
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_does_not_answer_occupies_no_reconcile_and_is_tried_again() {
    let api = ApiServer::new();
    let (client, remembered) = (api.client(), remember_nothing(&api.client()));
    api.inject("get", "clusterrolebindings", 1, Fault::Hang);
    let (failure, mut ends) = begin(&client, &remembered, settings());
    assert!(failure.is_none());
    let failed = ends.recv().await.unwrap().unwrap();
    assert_eq!(failed.to_string(), TooSlow.to_string());
    // What the next reconcile reports, while it is tried again.
    let (reported, mut none) = begin(&client, &remembered, settings());
    assert!(Arc::ptr_eq(&reported.unwrap(), &failed) && none.recv().await.is_none());
    assert!(ends.recv().await.unwrap().is_none());
    assert!(begin(&client, &remembered, settings()).0.is_none());
    assert!(api.get::<Deployment>("kube-system", "coredns").is_some());
}

/// Applies with these settings as a reconcile does that remembers nothing.
async fn apply_anew(api: &ApiServer, core_dns: CoreDns) {
    apply(&api.client(), &Settings { core_dns, ..settings() }).await.unwrap();
}

fn corefile(api: &ApiServer) -> String {
    api.get::<ConfigMap>("kube-system", "coredns").unwrap().data.unwrap()["Corefile"].clone()
}

fn forwarding(upstream: &str) -> CoreDns {
    CoreDns { forwarding: Forwarding { upstreams: vec![upstream.into()] }, ..CoreDns::default() }
}

#[tokio::test]
async fn a_corefile_follows_the_spec_until_somebody_edits_it() {
    let api = ApiServer::new();
    apply_anew(&api, CoreDns::default()).await;
    assert!(corefile(&api).contains("forward . /etc/resolv.conf 127.0.0.1:9 {"), "{}", corefile(&api));
    apply_anew(&api, forwarding("10.0.0.53")).await;
    assert!(corefile(&api).contains("forward . 10.0.0.53 {"), "{}", corefile(&api));

    let mut edited: ConfigMap = api.get("kube-system", "coredns").unwrap();
    edited.data.as_mut().unwrap().insert("Corefile".into(), ".:53 { whoami }".into());
    api.put(&edited);
    apply_anew(&api, forwarding("10.0.0.54")).await;
    assert_eq!(corefile(&api), ".:53 { whoami }");
    // One that was written anew by others lacks our annotation.
    edited.metadata.annotations = None;
    api.put(&edited);
    apply_anew(&api, forwarding("10.0.0.54")).await;
    assert_eq!(corefile(&api), ".:53 { whoami }");

    api.remove::<ConfigMap>("kube-system", "coredns");
    apply_anew(&api, forwarding("10.0.0.54")).await;
    assert!(corefile(&api).contains("forward . 10.0.0.54 {"), "{}", corefile(&api));
}

#[tokio::test]
async fn an_unmanaged_coredns_is_left_alone() {
    let api = ApiServer::new();
    let unmanaged = CoreDns { mode: AddonMode::Unmanaged, ..CoreDns::default() };
    apply_anew(&api, unmanaged.clone()).await;
    assert!(api.get::<Deployment>("kube-system", "coredns").is_none() && api.get::<Service>("kube-system", "kube-dns").is_none());
    apply_anew(&api, CoreDns { replicas: Some(2), ..CoreDns::default() }).await;
    assert_eq!(api.get::<Deployment>("kube-system", "coredns").unwrap().spec.replicas, Some(2));
    api.take_writes();
    apply_anew(&api, unmanaged).await;
    assert!(api.take_writes().is_empty());
}

#[tokio::test]
async fn leases_from_before_the_wake_are_removed() {
    let api = ApiServer::new();
    for (name, renewed) in [
        ("kube-controller-manager", json!("2026-01-01T11:59:59.900000Z")),
        ("kube-scheduler", json!("2026-01-01T12:00:03.000000Z")),
        // Given up.
        ("cloud-controller-manager", Value::Null),
        ("another", json!("2026-01-01T11:00:00.000000Z")),
    ] {
        let lease = json!({"metadata": {"namespace": "kube-system", "name": name}, "spec": {"renewTime": renewed}});
        api.put(&serde_json::from_value::<Lease>(lease).unwrap());
    }
    apply(&api.client(), &Settings { resumed_at: Some("2026-01-01T12:00:00Z".parse().unwrap()), ..settings() }).await.unwrap();
    let left: Vec<String> = api.list::<Lease>().iter().map(kube::ResourceExt::name_any).collect();
    assert_eq!(left, ["another", "cloud-controller-manager", "kube-scheduler"]);
}
