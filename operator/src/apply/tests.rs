use super::*;
use crate::host::Writers;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher::Event;
use nestling_runtime::testing::ApiServer;

/// A host and what the operator has watched of it.
struct Host {
    api: ApiServer,
    client: Client,
    stores: Stores,
    writers: Writers,
    state: State,
    tenant: TenantUid,
}

impl Host {
    fn new() -> Self {
        let api = ApiServer::new();
        let (stores, writers) = Stores::new();
        let state = State::new(api.client(), stores.clone());
        Self { client: api.client(), api, stores, writers, state, tenant: TenantUid::new("vc-1") }
    }

    fn applier(&self) -> Applier<'_> {
        Applier { host: &self.client, state: &self.state, tenant: &self.tenant, adopt: None }
    }

    async fn apply(&self, data: &Value) -> Result<ConfigMap, ApplyError> {
        let owner =
            json!({"apiVersion": "nestling.dev/v1alpha1", "kind": "VirtualCluster", "name": "dev", "uid": "vc-1", "controller": true});
        let metadata = json!({"namespace": "team", "name": "dev", "labels": {labels::TENANT: "vc-1"}, "ownerReferences": [owner]});
        self.applier().apply(serde_json::from_value(json!({"metadata": metadata, "data": data})).unwrap()).await
    }

    fn put(&self, metadata: &Value) {
        let object: ConfigMap = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        self.api.put(&object);
    }

    fn live(&self) -> ConfigMap {
        self.api.get("team", "dev").unwrap()
    }

    /// The watch catches up with what is live.
    fn watch(&mut self) {
        let metadata = self.live().metadata;
        self.writers.config_maps.apply_watcher_event(&Event::Apply(serde_json::from_value(json!({"metadata": metadata})).unwrap()));
    }

    /// Another client writes, and the watch delivers it.
    fn edit(&mut self, edit: impl FnOnce(&mut Value)) {
        self.api.edit::<ConfigMap>("team", "dev", edit);
        self.watch();
    }

    /// The verbs of the requests since the last call.
    fn verbs(&self) -> Vec<&'static str> {
        let requests = self.api.requests();
        self.api.take_writes();
        assert!(requests.iter().all(|request| (request.resource.as_str(), request.name.as_str()) == ("configmaps", "dev")), "{requests:?}");
        requests.iter().map(|request| request.verb).collect()
    }
}

#[tokio::test]
async fn at_rest_there_is_no_request() {
    let mut host = Host::new();
    host.apply(&json!({"key": "a"})).await.unwrap();
    assert_eq!(host.verbs(), ["get", "apply"]);
    host.watch();
    for _ in 0..3 {
        host.apply(&json!({"key": "a"})).await.unwrap();
    }
    assert!(host.verbs().is_empty());
}

#[tokio::test]
async fn a_new_leader_reads_and_does_not_write() {
    let mut host = Host::new();
    host.apply(&json!({"key": "a"})).await.unwrap();
    host.watch();
    host.verbs();
    host.state = State::new(host.client.clone(), host.stores.clone());
    host.apply(&json!({"key": "a"})).await.unwrap();
    assert_eq!(host.verbs(), ["get"]);
    host.apply(&json!({"key": "a"})).await.unwrap();
    assert!(host.verbs().is_empty());
}

#[tokio::test]
async fn what_others_add_is_left_and_what_they_change_is_put_back() {
    let mut host = Host::new();
    host.apply(&json!({"key": "a"})).await.unwrap();
    host.watch();
    host.verbs();
    host.edit(|object| object["metadata"]["annotations"]["other"] = "x".into());
    host.apply(&json!({"key": "a"})).await.unwrap();
    assert_eq!(host.verbs(), ["get"]);
    host.edit(|object| object["data"]["key"] = "b".into());
    host.apply(&json!({"key": "a"})).await.unwrap();
    assert_eq!(host.verbs(), ["get", "apply"]);
    assert_eq!(host.live().data.unwrap()["key"], "a");
    assert_eq!(host.live().metadata.annotations.unwrap()["other"], "x");
}

#[tokio::test]
async fn fields_that_are_no_longer_applied_are_removed_and_those_of_others_stay() {
    let mut host = Host::new();
    host.apply(&json!({"key": "a", "former": "b"})).await.unwrap();
    host.edit(|object| object["data"]["theirs"] = "c".into());
    host.verbs();
    host.apply(&json!({"key": "a"})).await.unwrap();
    assert_eq!(host.verbs(), ["get", "apply"]);
    assert_eq!(json!(host.live().data), json!({"key": "a", "theirs": "c"}));
}

#[tokio::test]
async fn what_belongs_to_others_is_not_taken_over() {
    let host = Host::new();
    host.put(&json!({"namespace": "team", "name": "dev", "labels": {labels::TENANT: "vc-0"}}));
    let refused = host.apply(&json!({"key": "a"})).await.unwrap_err();
    assert_eq!(refused.to_string(), "ConfigMap dev exists and does not belong to this VirtualCluster");
    assert_eq!(host.verbs(), ["get"]);
}

#[tokio::test]
async fn what_a_former_cluster_left_is_waited_for() {
    let host = Host::new();
    let owner = json!({"apiVersion": "nestling.dev/v1alpha1", "kind": "VirtualCluster", "name": "dev", "uid": "vc-0"});
    host.put(&json!({"namespace": "team", "name": "dev", "ownerReferences": [owner]}));
    assert!(matches!(host.apply(&json!({})).await, Err(ApplyError::Terminating { .. })));
    assert_eq!(host.verbs(), ["get"]);
}

#[tokio::test]
async fn an_object_that_is_being_deleted_is_waited_for() {
    let mut host = Host::new();
    host.apply(&json!({"key": "a"})).await.unwrap();
    host.watch();
    host.verbs();
    host.edit(|object| {
        object["metadata"]["finalizers"] = json!(["test/hold"]);
        object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    });
    assert!(matches!(host.apply(&json!({"key": "a"})).await, Err(ApplyError::Terminating { .. })));
    assert_eq!(host.verbs(), ["get"]);
}

#[tokio::test]
async fn only_the_very_object_that_was_watched_is_removed() {
    let mut host = Host::new();
    // Nothing is watched, so nothing is there.
    host.applier().prune::<ConfigMap>("team", |_| false).await.unwrap();
    assert!(host.verbs().is_empty());
    // Replaced by another one of its name that the watch has not delivered yet.
    host.apply(&json!({"key": "a"})).await.unwrap();
    host.watch();
    host.api.remove::<ConfigMap>("team", "dev");
    host.put(&json!({"namespace": "team", "name": "dev"}));
    host.applier().prune::<ConfigMap>("team", |_| false).await.unwrap();
    assert!(host.api.get::<ConfigMap>("team", "dev").is_some());
    // Another cluster's.
    host.watch();
    host.verbs();
    host.applier().prune::<ConfigMap>("team", |_| false).await.unwrap();
    assert!(host.verbs().is_empty());
    // This cluster's.
    host.edit(|object| object["metadata"]["labels"] = json!({labels::TENANT: "vc-1"}));
    host.applier().prune::<ConfigMap>("team", |_| false).await.unwrap();
    assert!(host.api.get::<ConfigMap>("team", "dev").is_none());
}
