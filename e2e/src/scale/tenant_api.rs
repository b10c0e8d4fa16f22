//! As much of a tenant's kube-apiserver as the operator asks for: `/readyz`, lists and watches of nodes and of CoreDNS, and
//! what is applied.

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, watch};

const NODES: &str = "/api/v1/nodes";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/kube-system/deployments";
const PODS: &str = "/api/v1/namespaces/kube-system/pods";
/// Nodes of a tenant at first.
pub(crate) const FIRST_NODES: usize = 3;
/// Images that a node lists: upstream reports up to 50.
const IMAGES: usize = 40;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(crate) struct TenantApi {
    /// Objects by path, nodes among them.
    objects: Mutex<Objects>,
    /// Collection and line of each change.
    changes: broadcast::Sender<(&'static str, Bytes)>,
    /// Replicas that CoreDNS was applied with last, and when.
    coredns: watch::Sender<(i64, Instant)>,
}

#[derive(Default)]
struct Objects {
    version: u64,
    by_path: BTreeMap<String, Value>,
}

impl TenantApi {
    pub(crate) fn new() -> Self {
        let this = Self { objects: Mutex::default(), changes: broadcast::channel(16).0, coredns: watch::channel((0, Instant::now())).0 };
        for _ in 0..FIRST_NODES {
            this.add_node();
        }
        this
    }

    pub(crate) fn coredns(&self) -> watch::Receiver<(i64, Instant)> {
        self.coredns.subscribe()
    }

    /// One more node registers.
    pub(crate) fn add_node(&self) {
        let name = format!("node-{}", self.lock().below(NODES).count() + 1);
        self.put(NODES, &format!("{NODES}/{name}"), node(&name));
    }

    /// A node reports that nothing has changed, as agents do every five minutes.
    pub(crate) fn heartbeat(&self, index: usize) {
        let name = format!("node-{}", index + 1);
        self.put(NODES, &format!("{NODES}/{name}"), node(&name));
    }

    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default());
        match (&parts.method, path.as_str()) {
            (&Method::GET, "/readyz") => full(StatusCode::OK, Bytes::from_static(b"ok")),
            (&Method::GET, NODES) => self.collection(NODES, "NodeList", "v1", query),
            (&Method::GET, DEPLOYMENTS) => self.collection(DEPLOYMENTS, "DeploymentList", "apps/v1", query),
            (&Method::GET, PODS) => self.collection(PODS, "PodList", "v1", query),
            (&Method::GET, path) => match self.lock().by_path.get(path) {
                Some(object) => json_answer(StatusCode::OK, object),
                None => refusal(StatusCode::NOT_FOUND, "NotFound"),
            },
            (&Method::PATCH, path) => match body.collect().await.map(|body| serde_json::from_slice::<Value>(&body.to_bytes())) {
                Ok(Ok(object)) => json_answer(StatusCode::OK, &self.apply(path, object)),
                _ => refusal(StatusCode::BAD_REQUEST, "BadRequest"),
            },
            _ => refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    fn collection(&self, collection: &'static str, kind: &str, version: &str, query: &str) -> Response<Body> {
        let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        if !matches!(parameter("watch"), Some("true" | "1")) {
            let objects = self.lock();
            let items: Vec<&Value> = objects.below(collection).collect();
            let list =
                json!({"kind": kind, "apiVersion": version, "metadata": {"resourceVersion": objects.version.to_string()}, "items": items});
            return json_answer(StatusCode::OK, &list);
        }
        let since = parameter("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        let lasts = Duration::from_secs(parameter("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(300));
        let lines = self.changes_since(collection, since).take_until(tokio::time::sleep(lasts));
        let body = StreamBody::new(lines.map(|line| Ok(Frame::data(line))));
        Response::builder().header("content-type", "application/json").body(UnsyncBoxBody::new(body)).unwrap_or_default()
    }

    /// What has changed since a version, then what changes.
    fn changes_since(&self, collection: &'static str, since: u64) -> impl Stream<Item = Bytes> + use<> {
        let changes = self.changes.subscribe();
        let objects = self.lock();
        let missed: Vec<Bytes> =
            objects.below(collection).filter(|object| version(object) > since).map(|object| change("MODIFIED", object)).collect();
        let follow = stream::unfold(changes, move |mut changes| async move {
            loop {
                match changes.recv().await {
                    Ok((of, line)) if of == collection => return Some((line, changes)),
                    Ok(_) => {}
                    // The client lists again.
                    Err(_) => return None,
                }
            }
        });
        stream::iter(missed).chain(follow)
    }

    /// As server-side apply by one manager: the object is what is applied.
    fn apply(&self, path: &str, mut object: Value) -> Value {
        let collection = if path.starts_with(DEPLOYMENTS) { DEPLOYMENTS } else { "" };
        if collection == DEPLOYMENTS {
            let replicas = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
            object["status"] =
                json!({"replicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas, "updatedReplicas": replicas});
            self.put(collection, path, object.clone());
            self.coredns.send_replace((replicas, Instant::now()));
        } else {
            self.put(collection, path, object);
        }
        self.lock().by_path.get(path).cloned().unwrap_or_default()
    }

    fn put(&self, collection: &'static str, path: &str, mut object: Value) {
        let mut objects = self.lock();
        objects.version += 1;
        let old = objects.by_path.get(path);
        let generation = match old {
            Some(old) => old["metadata"]["generation"].as_i64().unwrap_or(1) + i64::from(old["spec"] != object["spec"]),
            None => 1,
        };
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        object["metadata"]["uid"] = path.into();
        object["metadata"]["resourceVersion"] = objects.version.to_string().into();
        object["metadata"]["generation"] = generation.into();
        object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        if !collection.is_empty() {
            // Nobody may be watching.
            let _ = self.changes.send((collection, change(kind, &object)));
        }
        objects.by_path.insert(path.to_owned(), object);
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Objects {
    fn below(&self, collection: &str) -> impl Iterator<Item = &Value> {
        let prefix = format!("{collection}/");
        self.by_path.iter().filter(move |(path, _)| path.starts_with(&prefix)).map(|(_, object)| object)
    }
}

fn version(object: &Value) -> u64 {
    object.pointer("/metadata/resourceVersion").and_then(Value::as_str).and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn change(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

fn full(status: StatusCode, body: Bytes) -> Response<Body> {
    Response::builder().status(status).body(UnsyncBoxBody::new(Full::new(body))).unwrap_or_default()
}

fn json_answer(status: StatusCode, body: &Value) -> Response<Body> {
    let mut answer = full(status, body.to_string().into());
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    answer
}

fn refusal(status: StatusCode, reason: &str) -> Response<Body> {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status.as_u16(), "message": reason,
    });
    json_answer(status, &body)
}

/// A node of usual size: about 9 KiB.
fn node(name: &str) -> Value {
    let condition = |type_: &str, status: &str| {
        json!({
            "type": type_, "status": status, "reason": "AsTheHostReports", "message": "mirrored from the host's node",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let images: Vec<Value> = (0..IMAGES)
        .map(|image| json!({"names": [format!("registry.example.com/team/program-{image}@sha256:{image:064x}")], "sizeBytes": 54_321_000 + image}))
        .collect();
    let resources = json!({"cpu": "8", "memory": "32Gi", "ephemeral-storage": "100Gi", "pods": "110"});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux",
                "topology.kubernetes.io/zone": "a", "topology.kubernetes.io/region": "r",
            },
            "managedFields": [
                {"manager": "nestling-agent", "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
                 "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:kubernetes.io/hostname": {}, "f:kubernetes.io/arch": {}}}}},
                {"manager": "nestling-agent", "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
                 "fieldsV1": {"f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {"f:lastHeartbeatTime": {}}}}}, "subresource": "status"},
            ],
        },
        "spec": {"providerID": format!("nestling://{name}")},
        "status": {
            "capacity": resources, "allocatable": resources,
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": name}],
            "conditions": [
                condition("MemoryPressure", "False"), condition("DiskPressure", "False"), condition("PIDPressure", "False"),
                condition("Ready", "True"),
            ],
            "nodeInfo": {
                "machineID": "00000000000000000000000000000001", "systemUUID": "00000000-0000-0000-0000-000000000001",
                "bootID": "00000000-0000-0000-0000-000000000002", "kernelVersion": "6.18.0", "osImage": "Linux",
                "containerRuntimeVersion": "containerd://2.4.2", "kubeletVersion": "v1.37.2", "kubeProxyVersion": "", "operatingSystem": "linux",
                "architecture": "amd64",
            },
            "images": images,
        },
    })
}
