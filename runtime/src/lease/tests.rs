//! The whole loop against an apiserver that keeps one Lease and checks resourceVersions, on paused time.

use super::*;
use http::{Method, Request, Response, StatusCode};
use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use kube::client::Body;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::time::sleep;

#[derive(Default)]
struct State {
    lease: Option<LeaseObject>,
    version: u64,
    writes: u32,
    /// Answers nothing at all, as behind a partition.
    cut_off: bool,
}

#[derive(Clone, Default)]
struct Api(Arc<Mutex<State>>);

impl Api {
    fn client(&self) -> Client {
        let api = self.clone();
        Client::new(
            tower::service_fn(move |request: Request<Body>| {
                let api = api.clone();
                async move { Ok::<_, Infallible>(api.answer(request).await) }
            }),
            "system",
        )
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        if self.0.lock().unwrap().cut_off {
            std::future::pending::<()>().await;
        }
        let method = request.method().clone();
        let body = request.into_body().collect_bytes().await.unwrap();
        let mut state = self.0.lock().unwrap();
        if method == Method::GET {
            return match &state.lease {
                Some(lease) => ok(lease),
                None => status(StatusCode::NOT_FOUND, "NotFound"),
            };
        }
        let mut lease: LeaseObject = serde_json::from_slice(&body).unwrap();
        let current = state.lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if method == Method::POST && current.is_some() {
            return status(StatusCode::CONFLICT, "AlreadyExists");
        }
        if method == Method::PUT && lease.metadata.resource_version != current {
            return status(StatusCode::CONFLICT, "Conflict");
        }
        state.version += 1;
        state.writes += 1;
        lease.metadata.resource_version = Some(state.version.to_string());
        state.lease = Some(lease.clone());
        ok(&lease)
    }

    fn holder(&self) -> Option<String> {
        self.0.lock().unwrap().lease.as_ref().and_then(record::holder).map(Into::into)
    }

    fn writes(&self) -> u32 {
        self.0.lock().unwrap().writes
    }

    fn cut_off(&self, cut_off: bool) {
        self.0.lock().unwrap().cut_off = cut_off;
    }
}

fn ok(lease: &LeaseObject) -> Response<Body> {
    Response::new(Body::from(serde_json::to_vec(lease).unwrap()))
}

fn status(code: StatusCode, reason: &str) -> Response<Body> {
    let body = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code.as_u16()});
    Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap()
}

fn params(me: &str) -> LeaseParams {
    LeaseParams::new("system", "controller", me, "test")
}

async fn within<T>(seconds: u64, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), future).await.expect("within time")
}

#[tokio::test(start_paused = true)]
async fn the_first_takes_it_and_renews_and_the_second_waits() {
    let api = Api::default();
    let a = Lease::hold(api.client(), params("a"));
    within(1, a.leadership().acquired()).await;
    let b = Lease::hold(api.client(), params("b"));
    sleep(Duration::from_secs(62)).await;
    assert!(a.leadership().is_held());
    assert!(!b.leadership().is_held());
    assert_eq!(b.leadership().holder().as_deref(), Some("a"));
    assert_eq!(api.writes(), 13);
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_at_the_next_look() {
    let api = Api::default();
    let a = Lease::hold(api.client(), params("a"));
    within(1, a.leadership().acquired()).await;
    let b = Lease::hold(api.client(), params("b"));
    sleep(Duration::from_secs(7)).await;
    let leadership = a.leadership();
    a.release().await.unwrap();
    assert!(!leadership.is_held());
    assert_eq!(api.holder(), None);
    within(3, b.leadership().acquired()).await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_holder_is_waited_out() {
    let api = Api::default();
    let a = Lease::hold(api.client(), params("a"));
    within(1, a.leadership().acquired()).await;
    drop(a);
    let b = Lease::hold(api.client(), params("b"));
    sleep(Duration::from_secs(14)).await;
    assert!(!b.leadership().is_held());
    within(3, b.leadership().acquired()).await;
    assert_eq!(api.holder().as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_cut_off_stops_before_anybody_else_starts() {
    let api = Api::default();
    let mut a = Lease::hold(api.client(), params("a"));
    within(1, a.leadership().acquired()).await;
    api.cut_off(true);
    let leadership = a.leadership();
    let start = Instant::now();
    let error = within(11, a.lost()).await;
    assert!(matches!(error, LeaseError::Expired { .. }), "{error}");
    assert!(start.elapsed() <= Duration::from_secs(10));
    assert!(!leadership.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_short_cut_is_survived() {
    let api = Api::default();
    let a = Lease::hold(api.client(), params("a"));
    within(1, a.leadership().acquired()).await;
    sleep(Duration::from_secs(4)).await;
    api.cut_off(true);
    sleep(Duration::from_secs(4)).await;
    api.cut_off(false);
    sleep(Duration::from_secs(30)).await;
    assert!(a.leadership().is_held());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_taken_away_is_lost() {
    let api = Api::default();
    let mut a = Lease::hold(api.client(), params("a"));
    within(1, a.leadership().acquired()).await;
    {
        let mut state = api.0.lock().unwrap();
        state.version += 1;
        let version = state.version.to_string();
        let lease = state.lease.as_mut().unwrap();
        lease.metadata.resource_version = Some(version);
        lease.spec.as_mut().unwrap().holder_identity = Some("thief".into());
    }
    let error = within(11, a.lost()).await;
    assert!(matches!(&error, LeaseError::Taken { holder, .. } if holder == "thief"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_is_made_again() {
    let api = Api::default();
    let a = Lease::hold(api.client(), params("a"));
    within(1, a.leadership().acquired()).await;
    api.0.lock().unwrap().lease = None;
    sleep(Duration::from_secs(9)).await;
    assert!(a.leadership().is_held());
    assert_eq!(api.holder().as_deref(), Some("a"));
}
