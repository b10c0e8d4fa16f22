//! The loop against an API with one Node, on paused time.

use super::NodeController;
use crate::cloud::{Cloud, CloudNode};
use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use k8s_openapi::api::core::v1::Node;
use nestling_runtime::lease::{Lease, LeaseParams};
use nestling_runtime::metrics::Metrics;
use nestling_runtime::readiness::Readiness;
use nestling_runtime::testing::{ApiServer, Fault};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

fn api() -> ApiServer {
    let api = ApiServer::new();
    let taint = json!({"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule"});
    let node = json!({"metadata": {"name": "worker-7"}, "spec": {"taints": [taint]}});
    api.put(&serde_json::from_value::<Node>(node).unwrap());
    api
}

fn cloud() -> Arc<Cloud> {
    let instance = CloudNode { provider_id: "nestling://worker-7".into(), zone: "zone-b".into(), ..CloudNode::default() };
    Arc::new(Cloud::from([("worker-7".into(), instance)]))
}

struct World {
    api: ApiServer,
    cloud: watch::Sender<Option<Arc<Cloud>>>,
    readiness: Readiness,
    _lease: Lease,
}

impl World {
    fn start(api: ApiServer) -> Self {
        let lease = Lease::hold(api.client(), LeaseParams::new("kube-system", "cloud-controller-manager", "me", "test"));
        let (sender, cloud) = watch::channel(None);
        let readiness = Readiness::default();
        let controller = NodeController::new(api.client(), cloud, lease.leadership(), &Metrics::default());
        tokio::spawn(controller.run(readiness.pending("nodes")));
        Self { api, cloud: sender, readiness, _lease: lease }
    }

    /// Writes of Nodes since the last call: verb and body.
    fn writes(&self) -> Vec<(&'static str, Value)> {
        let requests = self.api.take_requests();
        requests
            .into_iter()
            .filter(|request| request.is_write() && request.resource == "nodes")
            .map(|request| (request.verb, request.body))
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_the_cloud_is_known_and_then_one_patch() {
    let world = World::start(api());
    sleep(Duration::from_secs(20)).await;
    assert!(world.readiness.is_ready());
    assert!(world.writes().is_empty());
    world.cloud.send_replace(Some(cloud()));
    sleep(Duration::from_secs(1)).await;
    let writes = world.writes();
    assert_eq!(writes.len(), 1, "{writes:?}");
    let (verb, patch) = &writes[0];
    assert_eq!((*verb, &patch["spec"]), ("patch", &json!({"providerID": "nestling://worker-7", "taints": []})));
    sleep(Duration::from_secs(60)).await;
    assert!(world.writes().is_empty());

    world.cloud.send_replace(Some(Arc::default()));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.writes()[0].0, "delete");
    assert!(world.api.get::<Node>("", "worker-7").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_retried_with_the_newer_node() {
    let world = World::start(api());
    world.api.before("patch", "nodes", |api| api.edit::<Node>("", "worker-7", |node| node["metadata"]["labels"] = json!({"a": "b"})));
    world.cloud.send_replace(Some(cloud()));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(world.writes().len(), 2, "the first meets a newer Node");
    let node = world.api.get::<Node>("", "worker-7").unwrap();
    assert_eq!(node.spec.unwrap().provider_id.as_deref(), Some("nestling://worker-7"));
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_is_retried_after_a_growing_pause() {
    let world = World::start(api());
    world.api.inject("patch", "nodes", 5, Fault::Status(500));
    world.cloud.send_replace(Some(cloud()));
    sleep(Duration::from_secs(2)).await;
    let early = world.writes().len();
    assert!((3..=5).contains(&early), "{early}");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(early + world.writes().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn without_the_lease_nothing_is_written() {
    let api = api();
    let lease = json!({
        "metadata": {"name": "cloud-controller-manager", "namespace": "kube-system"},
        "spec": {"holderIdentity": "other", "leaseDurationSeconds": 15},
    });
    api.put(&serde_json::from_value::<LeaseObject>(lease).unwrap());
    let world = World::start(api);
    world.cloud.send_replace(Some(cloud()));
    sleep(Duration::from_secs(10)).await;
    assert!(world.writes().is_empty());
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.writes().len(), 1, "the other has not renewed, so the lease is ours");
}
