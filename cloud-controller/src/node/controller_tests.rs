//! The loop against a tenant API that holds one Node and grants the lease.

use super::NodeController;
use crate::cloud::{Cloud, CloudNode};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use nestling_runtime::lease::{Lease, LeaseParams};
use nestling_runtime::metrics::Metrics;
use nestling_runtime::readiness::Readiness;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

type Answer = UnsyncBoxBody<Bytes, Infallible>;

#[derive(Default)]
struct State {
    lease: Option<Value>,
    writes: Vec<(Method, Value)>,
    /// The next write of the Node meets a newer one.
    conflict: bool,
}

#[derive(Clone, Default)]
struct Api(Arc<Mutex<State>>);

impl Api {
    fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Answer> {
        let (parts, body) = request.into_parts();
        let body: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
        let mut state = self.0.lock().unwrap();
        if parts.uri.path().contains("/leases") {
            if parts.method == Method::GET {
                return state.lease.as_ref().map_or_else(|| failure(StatusCode::NOT_FOUND, "NotFound"), ok);
            }
            let mut lease = body;
            lease["metadata"]["resourceVersion"] = "1".into();
            state.lease = Some(lease.clone());
            return ok(&lease);
        }
        if parts.uri.query().unwrap_or_default().contains("watch=") {
            let silent = futures::stream::pending::<Result<hyper::body::Frame<Bytes>, Infallible>>();
            return Response::new(UnsyncBoxBody::new(StreamBody::new(silent)));
        }
        if parts.method == Method::GET {
            return ok(&json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": [node()]}));
        }
        if std::mem::take(&mut state.conflict) {
            return failure(StatusCode::CONFLICT, "Conflict");
        }
        state.writes.push((parts.method.clone(), body));
        // As the API answers: with the Node as it now is.
        let mut initialized = node();
        initialized["spec"] = json!({"providerID": "nestling://worker-7"});
        initialized["metadata"]["annotations"] = json!({"nestling.dev/cloud-node": "worker-7"});
        initialized["metadata"]["labels"] =
            json!({"topology.kubernetes.io/zone": "zone-b", "failure-domain.beta.kubernetes.io/zone": "zone-b"});
        ok(&initialized)
    }

    fn writes(&self) -> Vec<(Method, Value)> {
        std::mem::take(&mut self.0.lock().unwrap().writes)
    }
}

fn node() -> Value {
    let taint = json!({"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule"});
    json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "worker-7", "uid": "u", "resourceVersion": "5"}, "spec": {"taints": [taint]}})
}

fn cloud() -> Arc<Cloud> {
    let instance = CloudNode { provider_id: "nestling://worker-7".into(), zone: "zone-b".into(), ..CloudNode::default() };
    Arc::new(Cloud::from([("worker-7".into(), instance)]))
}

fn ok(value: &Value) -> Response<Answer> {
    Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync())
}

fn failure(code: StatusCode, reason: &str) -> Response<Answer> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code.as_u16()});
    Response::builder().status(code).body(Full::new(Bytes::from(status.to_string())).boxed_unsync()).unwrap()
}

struct World {
    api: Api,
    cloud: watch::Sender<Option<Arc<Cloud>>>,
    readiness: Readiness,
    _lease: Lease,
}

fn start(api: Api) -> World {
    let lease = Lease::hold(api.client(), LeaseParams::new("kube-system", "cloud-controller-manager", "me", "test"));
    let (sender, cloud) = watch::channel(None);
    let readiness = Readiness::default();
    let controller = NodeController::new(api.client(), cloud, lease.leadership(), &Metrics::default());
    tokio::spawn(controller.run(readiness.pending("nodes")));
    World { api, cloud: sender, readiness, _lease: lease }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_the_cloud_is_known_and_then_one_patch() {
    let world = start(Api::default());
    sleep(Duration::from_secs(20)).await;
    assert!(world.readiness.is_ready());
    assert!(world.api.writes().is_empty());
    world.cloud.send_replace(Some(cloud()));
    sleep(Duration::from_secs(1)).await;
    let writes = world.api.writes();
    assert_eq!(writes.len(), 1, "{writes:?}");
    let (method, patch) = &writes[0];
    assert_eq!((method, &patch["spec"]), (&Method::PATCH, &json!({"providerID": "nestling://worker-7", "taints": []})));
    sleep(Duration::from_secs(60)).await;
    assert!(world.api.writes().is_empty());

    world.cloud.send_replace(Some(Arc::default()));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.api.writes()[0].0, Method::DELETE);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_looked_at_again() {
    let api = Api::default();
    api.0.lock().unwrap().conflict = true;
    let world = start(api);
    world.cloud.send_replace(Some(cloud()));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(world.api.writes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_hold_the_lease_writes_nothing() {
    let api = Api::default();
    let spec = json!({"holderIdentity": "other", "leaseDurationSeconds": 15});
    api.0.lock().unwrap().lease = Some(json!({"metadata": {"name": "x", "resourceVersion": "1"}, "spec": spec}));
    let world = start(api);
    world.cloud.send_replace(Some(cloud()));
    sleep(Duration::from_secs(10)).await;
    assert!(world.api.writes().is_empty());
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.api.writes().len(), 1, "the other has not renewed, so the lease is ours");
}
