//! A tenant, a node and a pod for tests, and apiservers that are scripted. The names on both sides differ everywhere, so a
//! mixed-up name shows.

use super::names::PodKey;
use crate::tenant::{PodStores, StoreWriters, Tenant, TenantSpec};
use http::{Method, Request, Response};
use kube::client::Body;
use nestling_crds::names::{NodeName, TenantUid, WorkloadNamespace};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tower_test::mock::{self, Handle, SendResponse};

/// Longest wait for a call that has to come. With paused time, longer than anything the agent waits for.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn tenant_spec() -> TenantSpec {
    TenantSpec {
        uid: TenantUid::new("0f8fad5b-d9cb-469f-a165-70867728950e"),
        workload_namespace: WorkloadNamespace::from_made("team-a-dev-workload"),
        cluster_domain: "tenant.local".into(),
        ..crate::fixtures::tenant_spec()
    }
}

pub(crate) fn node() -> NodeName {
    NodeName::new("node-1")
}

pub(crate) fn key() -> PodKey {
    PodKey { namespace: "shop".into(), name: "web-0".into(), uid: "tenant-pod-uid".into() }
}

/// A tenant with empty stores.
pub(crate) fn tenant(kubelet: kube::Client, host: kube::Client) -> (Arc<Tenant>, StoreWriters) {
    let (stores, writers) = PodStores::new();
    let tenant = Tenant { spec: tenant_spec(), node: node(), proxy: kubelet.clone(), kubelet, host, stores };
    (Arc::new(tenant), writers)
}

/// An apiserver that does what it is told.
pub(crate) struct Server {
    name: &'static str,
    handle: Handle<Request<Body>, Response<Body>>,
}

pub(crate) struct Call {
    pub(crate) body: Value,
    pub(crate) query: String,
    respond: SendResponse<Response<Body>>,
}

impl Call {
    pub(crate) fn answer(self, body: &Value) {
        self.answer_with(200, body);
    }

    pub(crate) fn answer_with(self, code: u16, body: &Value) {
        let response = Response::builder().status(code).body(Body::from(serde_json::to_vec(body).unwrap())).unwrap();
        self.respond.send_response(response);
    }

    pub(crate) fn fail(self, code: u16, reason: &str, message: &str) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message, "metadata": {}});
        self.answer_with(code, &status);
    }
}

impl Server {
    pub(crate) fn start(name: &'static str) -> (kube::Client, Self) {
        let (service, handle) = mock::pair::<Request<Body>, Response<Body>>();
        (kube::Client::new(service, "default"), Self { name, handle })
    }

    pub(crate) async fn expect(&mut self, method: Method, path: &str) -> Call {
        let next = timeout(PATIENCE, self.handle.next_request()).await;
        let (request, respond) = next.unwrap_or_else(|_| panic!("{}: no {method} {path}", self.name)).unwrap();
        let (parts, body) = request.into_parts();
        assert_eq!((&parts.method, parts.uri.path()), (&method, path), "{}", self.name);
        let body = body.collect_bytes().await.unwrap();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        Call { body, query: parts.uri.query().unwrap_or_default().to_owned(), respond }
    }

    pub(crate) async fn expect_nothing(&mut self) {
        if let Ok(Some((request, _))) = timeout(Duration::from_millis(100), self.handle.next_request()).await {
            panic!("{}: unexpected {} {}", self.name, request.method(), request.uri());
        }
    }
}
