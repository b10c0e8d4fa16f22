//! The loop of a Node against a tenant API that holds it in memory: what is written, and what is not.

use super::fixture::{host_node, tenant_spec};
use super::{HostNode, run};
use crate::fixtures::tenant_with;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;

type Answer = UnsyncBoxBody<Bytes, Infallible>;

struct State {
    node: Option<Value>,
    lease: Option<Value>,
    /// Writes of the Node, as "METHOD path-suffix fields".
    writes: Vec<String>,
    version: u64,
    events: broadcast::Sender<String>,
}

#[derive(Clone)]
struct Api(Arc<Mutex<State>>);

impl Api {
    fn new() -> Self {
        let events = broadcast::channel(16).0;
        Self(Arc::new(Mutex::new(State { node: None, lease: None, writes: Vec::new(), version: 1, events })))
    }

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
        let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
        let mut state = self.0.lock().unwrap();
        if path.contains("/leases") {
            return state.lease(&parts.method, &body);
        }
        if query.contains("watch=") {
            let events = BroadcastStream::new(state.events.subscribe());
            let frames = events.map(|line| Ok::<_, Infallible>(Frame::data(Bytes::from(line.unwrap()))));
            return Response::new(UnsyncBoxBody::new(StreamBody::new(frames)));
        }
        match parts.method {
            Method::GET => {
                let version = json!({"resourceVersion": state.version.to_string()});
                let items: Vec<&Value> = state.node.iter().collect();
                ok(&json!({"kind": "NodeList", "apiVersion": "v1", "metadata": version, "items": items}))
            }
            method => {
                let subject = if body.get("status").is_some() && method == Method::PATCH { "status" } else { "metadata" };
                let fields = body[subject].as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect::<Vec<_>>().join(",");
                state.writes.push(format!("{method} {path} {fields}"));
                let mut node = state.node.take().unwrap_or_else(|| json!({"metadata": {"uid": "node-uid"}}));
                merge(&mut node, &body);
                state.put(node)
            }
        }
    }

    fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().writes)
    }

    fn delete(&self) {
        let mut state = self.0.lock().unwrap();
        let node = state.node.take().unwrap();
        state.tell("DELETED", &node);
    }

    fn lease(&self) -> Option<Value> {
        self.0.lock().unwrap().lease.clone()
    }
}

impl State {
    fn put(&mut self, mut node: Value) -> Response<Answer> {
        self.version += 1;
        node["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.tell("ADDED", &node);
        let answer = ok(&node);
        self.node = Some(node);
        answer
    }

    fn tell(&self, kind: &str, node: &Value) {
        let mut object = node.clone();
        merge(&mut object, &json!({"kind": "Node", "apiVersion": "v1"}));
        drop(self.events.send(format!("{}\n", json!({"type": kind, "object": object}))));
    }

    fn lease(&mut self, method: &Method, body: &Value) -> Response<Answer> {
        if *method == Method::GET {
            return self.lease.as_ref().map_or_else(not_found, ok);
        }
        self.lease = Some(body.clone());
        ok(body)
    }
}

fn merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| merge(&mut target[key], value)),
        Value::Array(items) => *target = items.iter().filter(|item| item.get("$patch").is_none()).cloned().collect(),
        value => *target = value.clone(),
    }
}

fn ok(value: &Value) -> Response<Answer> {
    Response::new(whole(value))
}

fn whole(value: &Value) -> Answer {
    Full::new(Bytes::from(value.to_string())).boxed_unsync()
}

fn not_found() -> Response<Answer> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404});
    Response::builder().status(StatusCode::NOT_FOUND).body(whole(&status)).unwrap()
}

fn start(api: &Api, host: HostNode) -> CancellationToken {
    let (tenant, _writers) = tenant_with(tenant_spec(), &api.client());
    let stop = CancellationToken::new();
    tokio::spawn(run(tenant, host, stop.clone()));
    stop
}

async fn after(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_is_registered_once_and_then_only_kept_alive() {
    let api = Api::new();
    let (host, change) = HostNode::changeable(host_node());
    let stop = start(&api, host);
    after(5).await;
    assert_eq!(api.writes(), ["POST /api/v1/nodes annotations,labels,name"]);
    let lease = api.lease().unwrap();
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 40);
    assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], "node-uid");

    after(240).await;
    assert_eq!(api.writes(), [""; 0], "at rest nothing but the lease is written");
    after(120).await;
    assert_eq!(api.writes(), ["PATCH /api/v1/nodes/worker-7/status conditions"], "the report of every five minutes");

    let mut not_ready = host_node();
    not_ready.status.as_mut().unwrap().conditions.as_mut().unwrap().last_mut().unwrap().status = "False".into();
    change.send_replace(Some(Arc::new(not_ready)));
    after(1).await;
    assert_eq!(api.writes(), ["PATCH /api/v1/nodes/worker-7/status conditions"], "what happens to the host is told at once");
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_is_registered_again_but_not_at_once() {
    let api = Api::new();
    let stop = start(&api, HostNode::changeable(host_node()).0);
    after(5).await;
    api.writes();
    api.delete();
    after(5).await;
    assert!(api.writes().is_empty());
    after(10).await;
    assert_eq!(api.writes(), ["POST /api/v1/nodes annotations,labels,name"]);
    stop.cancel();
}
