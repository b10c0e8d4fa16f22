use super::*;
use crate::apply::testing::{Log, api, not_found};
use crate::host::Writers;
use http::Method;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

const PATH: &str = "/api/v1/namespaces/team/configmaps/dev";

/// A host with at most one object.
struct Host {
    live: Arc<Mutex<Option<Value>>>,
    client: Client,
    log: Log,
    stores: Stores,
    writers: Writers,
    state: State,
    tenant: TenantUid,
}

impl Host {
    fn new() -> Self {
        let live: Arc<Mutex<Option<Value>>> = Arc::default();
        let state = live.clone();
        let (client, log) = api(move |method, _, body| {
            let mut live = state.lock().unwrap();
            if *method == Method::PATCH {
                let version = live.as_ref().map_or(0, |live| live["metadata"]["resourceVersion"].as_str().unwrap().parse::<u32>().unwrap());
                let mut next = body.clone();
                next["metadata"]["resourceVersion"] = (version + 1).to_string().into();
                next["metadata"]["uid"] = "object-1".into();
                *live = Some(next);
            }
            live.clone().map_or_else(not_found, |live| (200, live))
        });
        let (stores, writers) = Stores::new();
        let remembered = State::new(client.clone(), stores.clone());
        Self { live, client, log, stores, writers, state: remembered, tenant: TenantUid::new("vc-1") }
    }

    async fn apply(&self, value: &str) -> Result<ConfigMap, ApplyError> {
        let applier = Applier { host: &self.client, stores: &self.stores, state: &self.state, tenant: &self.tenant };
        let owner =
            json!({"apiVersion": "nestling.dev/v1alpha1", "kind": "VirtualCluster", "name": "dev", "uid": "vc-1", "controller": true});
        let metadata = json!({"namespace": "team", "name": "dev", "labels": {labels::TENANT: "vc-1"}, "ownerReferences": [owner]});
        applier.apply(serde_json::from_value(json!({"metadata": metadata, "data": {"key": value}})).unwrap()).await
    }

    /// The watch catches up with what is live.
    fn watch(&mut self) {
        let live = self.live.lock().unwrap().clone().unwrap();
        self.writers.config_maps.apply_watcher_event(&Event::Apply(serde_json::from_value(json!({"metadata": live["metadata"]})).unwrap()));
    }

    /// Another client writes.
    fn edit(&mut self, edit: impl FnOnce(&mut Value)) {
        let mut live = self.live.lock().unwrap();
        let object = live.as_mut().unwrap();
        edit(object);
        let version: u32 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        object["metadata"]["resourceVersion"] = (version + 1).to_string().into();
        drop(live);
        self.watch();
    }
}

fn requests(methods: &[&str]) -> Vec<String> {
    methods.iter().map(|method| format!("{method} {PATH}")).collect()
}

#[tokio::test]
async fn at_rest_there_is_no_request() {
    let mut host = Host::new();
    host.apply("a").await.unwrap();
    assert_eq!(host.log.take(), requests(&["GET", "PATCH"]));
    host.watch();
    for _ in 0..3 {
        host.apply("a").await.unwrap();
    }
    assert!(host.log.take().is_empty());
}

#[tokio::test]
async fn a_new_leader_reads_and_does_not_write() {
    let mut host = Host::new();
    host.apply("a").await.unwrap();
    host.watch();
    host.log.take();
    host.state = State::new(host.client.clone(), host.stores.clone());
    host.apply("a").await.unwrap();
    assert_eq!(host.log.take(), requests(&["GET"]));
    host.apply("a").await.unwrap();
    assert!(host.log.take().is_empty());
}

#[tokio::test]
async fn what_others_add_is_left_and_what_they_change_is_put_back() {
    let mut host = Host::new();
    host.apply("a").await.unwrap();
    host.watch();
    host.log.take();
    host.edit(|object| object["metadata"]["annotations"]["other"] = "x".into());
    host.apply("a").await.unwrap();
    assert_eq!(host.log.take(), requests(&["GET"]));
    host.edit(|object| object["data"]["key"] = "b".into());
    host.apply("a").await.unwrap();
    assert_eq!(host.log.take(), requests(&["GET", "PATCH"]));
}

#[tokio::test]
async fn a_change_of_what_is_wanted_is_written_even_if_it_only_takes_away() {
    let mut host = Host::new();
    host.apply("a").await.unwrap();
    host.watch();
    host.log.take();
    let applier = Applier { host: &host.client, stores: &host.stores, state: &host.state, tenant: &host.tenant };
    let metadata = json!({"namespace": "team", "name": "dev", "labels": {labels::TENANT: "vc-1"}});
    let _: ConfigMap = applier.apply(serde_json::from_value(json!({"metadata": metadata})).unwrap()).await.unwrap();
    assert_eq!(host.log.take(), requests(&["GET", "PATCH"]));
}

#[tokio::test]
async fn what_belongs_to_others_is_not_taken_over() {
    let host = Host::new();
    let foreign =
        json!({"metadata": {"namespace": "team", "name": "dev", "uid": "o", "resourceVersion": "7", "labels": {labels::TENANT: "vc-0"}}});
    *host.live.lock().unwrap() = Some(foreign);
    let refused = host.apply("a").await.unwrap_err();
    assert_eq!(refused.to_string(), "ConfigMap dev exists and does not belong to this VirtualCluster");
    assert_eq!(host.log.take(), requests(&["GET"]));
}

#[tokio::test]
async fn what_a_former_cluster_left_is_waited_for() {
    let host = Host::new();
    let owner = json!({"apiVersion": "nestling.dev/v1alpha1", "kind": "VirtualCluster", "name": "dev", "uid": "vc-0"});
    let former = json!({"metadata": {"namespace": "team", "name": "dev", "uid": "o", "resourceVersion": "7", "ownerReferences": [owner]}});
    *host.live.lock().unwrap() = Some(former);
    assert!(matches!(host.apply("a").await, Err(ApplyError::Terminating { .. })));
}

#[tokio::test]
async fn what_is_going_is_waited_for() {
    let mut host = Host::new();
    host.apply("a").await.unwrap();
    host.watch();
    host.log.take();
    host.edit(|object| object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
    assert!(matches!(host.apply("a").await, Err(ApplyError::Terminating { .. })));
    assert_eq!(host.log.take(), requests(&["GET"]));
}
