//! An apiserver of canned answers that writes down what it is asked.

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tower::BoxError;

/// `METHOD path` of each request, in order; without the query.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    /// What was asked since the last look.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A client whose requests are answered by `answer(method, path, body)`.
pub fn api(answer: impl Fn(&Method, &str, &Value) -> (u16, Value) + Send + Sync + 'static) -> (Client, Log) {
    let (log, answer) = (Log::default(), Arc::new(answer));
    let written = log.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (answer, written) = (answer.clone(), written.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
            written.0.lock().unwrap().push(format!("{} {}", parts.method, parts.uri.path()));
            let (code, value) = answer(&parts.method, parts.uri.path(), &body);
            Ok::<_, BoxError>(Response::builder().status(code).body(Full::new(Bytes::from(value.to_string())))?)
        }
    });
    (Client::new(service, "default"), log)
}

/// What an apiserver says of what it does not have.
pub fn not_found() -> (u16, Value) {
    (404, json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found"}))
}
