//! The routes of the kubelet API, and the check that every request passes before one of them answers it.

use super::auth::Authorizer;
use super::limits::Slot;
use super::logs::{self, LogRoots};
use super::stream::{self, Relay};
use super::tls::Caller;
use super::{pods, stats};
use crate::cri::Cri;
use axum::extract::{FromRef, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Router};
use http::header::ALLOW;
use http::{StatusCode, Uri};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use std::sync::Arc;

/// What all requests share.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) authorizer: Arc<Authorizer>,
    pub(super) cri: Arc<dyn Cri>,
    pub(super) log_roots: LogRoots,
    pub(super) relay: Relay,
    pub(super) requests: Family<Answered, Counter>,
}

/// Labels of the request counter. They are of fixed sets, so that a caller cannot create series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Answered {
    route: &'static str,
    code: u16,
}

impl FromRef<Context> for Arc<dyn Cri> {
    fn from_ref(context: &Context) -> Self {
        context.cri.clone()
    }
}

impl FromRef<Context> for LogRoots {
    fn from_ref(context: &Context) -> Self {
        context.log_roots.clone()
    }
}

impl FromRef<Context> for Relay {
    fn from_ref(context: &Context) -> Self {
        context.relay.clone()
    }
}

/// The API as one connection sees it: its caller and its place among the caller's connections go with every request.
pub(super) fn for_connection(context: Context, caller: Caller, slot: Slot) -> Router {
    routes()
        .layer(middleware::from_fn_with_state(context.clone(), admit))
        .layer(Extension(Arc::new(caller)))
        .layer(Extension(Arc::new(slot)))
        .with_state(context)
}

/// Refuses the request, or passes it on with the caller's tenant; counts the answer either way.
async fn admit(State(context): State<Context>, Extension(caller): Extension<Arc<Caller>>, mut request: Request, next: Next) -> Response {
    let route = label(request.uri().path());
    let response = match context.authorizer.admit(&caller, request.method(), request.uri().path()).await {
        Ok(tenant) => {
            request.extensions_mut().insert(tenant);
            next.run(request).await
        }
        Err(refusal) => refusal,
    };
    let code = response.status().as_u16();
    context.requests.get_or_create(&Answered { route, code }).inc();
    tracing::debug!(tenant = %caller.tenant, user = %caller.user, route, code, "kubelet API request");
    response
}

/// The paths of a kubelet, without those that show its machine.
fn routes() -> Router<Context> {
    let mut router = Router::new();
    for check in ["/healthz", "/healthz/ping", "/healthz/log", "/healthz/syncloop"] {
        router = router.route(check, only("GET", get(|| async { "ok" })));
    }
    let streams = |handler: MethodRouter<Context>| only("GET, POST", handler);
    router
        .route("/pods", only("GET", get(pods::bound)))
        .route("/pods/", only("GET", get(pods::bound)))
        .route("/runningpods", only("GET", get(pods::running)))
        .route("/runningpods/", only("GET", get(pods::running)))
        .route("/stats/summary", only("GET", get(stats::summary)))
        .route("/metrics/resource", only("GET", get(stats::resource_metrics)))
        // Logs have no form with a UID.
        .route("/containerLogs/{namespace}/{name}/{container}", only("GET", get(logs::serve)))
        .route("/exec/{namespace}/{name}/{container}", streams(get(stream::exec).post(stream::exec)))
        .route("/exec/{namespace}/{name}/{uid}/{container}", streams(get(stream::exec).post(stream::exec)))
        .route("/attach/{namespace}/{name}/{container}", streams(get(stream::attach).post(stream::attach)))
        .route("/attach/{namespace}/{name}/{uid}/{container}", streams(get(stream::attach).post(stream::attach)))
        .route("/portForward/{namespace}/{name}", streams(get(stream::port_forward).post(stream::port_forward)))
        .route("/portForward/{namespace}/{name}/{uid}", streams(get(stream::port_forward).post(stream::port_forward)))
        .route("/run/{namespace}/{name}/{container}", only("POST", post(stream::run)))
        .route("/run/{namespace}/{name}/{uid}/{container}", only("POST", post(stream::run)))
        .fallback(not_served)
        .layer(middleware::from_fn(refuse_empty_segments))
}

/// axum takes an empty segment for the value of a path parameter.
async fn refuse_empty_segments(request: Request, next: Next) -> Response {
    if request.uri().path().contains("//") { not_served(request.uri().clone()).await } else { next.run(request).await }
}

/// Methods other than `allow` are refused as by a kubelet.
fn only(allow: &'static str, route: MethodRouter<Context>) -> MethodRouter<Context> {
    route.fallback(move || async move { (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, allow)], "Method Not Allowed") })
}

async fn not_served(uri: Uri) -> Response {
    if shows_machine(uri.path()) {
        let text = "this endpoint shows the machine, which tenants share, and is disabled.";
        return (StatusCode::METHOD_NOT_ALLOWED, text).into_response();
    }
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

/// A kubelet's view of its own machine, which is not one tenant's to see.
fn shows_machine(path: &str) -> bool {
    let roots = ["logs", "configz", "flagz", "statusz", "debug", "checkpoint", "metrics", "stats", "allocatedPods"];
    path.split('/').nth(1).is_some_and(|root| roots.contains(&root))
}

/// The name of the route in logs and metrics.
fn label(path: &str) -> &'static str {
    match path {
        "/stats/summary" => return "stats/summary",
        "/metrics/resource" => return "metrics/resource",
        _ => {}
    }
    let names = ["healthz", "pods", "runningpods", "containerLogs", "exec", "attach", "run", "portForward"];
    let root = path.split('/').nth(1).unwrap_or_default();
    match names.into_iter().find(|name| *name == root) {
        Some(name) => name,
        None if shows_machine(path) => "host",
        None => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::fake::FakeCri;
    use crate::fixtures::tenant;
    use crate::server::limits::PerTenant;
    use crate::tenant::Tenants;
    use axum::body::{Body, to_bytes};
    use http::Method;
    use prometheus_client::metrics::gauge::Gauge;
    use proptest::prelude::*;
    use rstest::rstest;
    use std::time::Duration;
    use tokio::sync::Semaphore;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;
    use tower::ServiceExt;

    /// The answer of the routes alone, without the check before them, for a tenant without pods: the status, the methods
    /// of `Allow`, the text.
    async fn answer(method: Method, path: &str) -> (u16, Option<String>, String) {
        let relay =
            Relay { idle: Duration::ZERO, tasks: TaskTracker::default(), cut: CancellationToken::default(), open: Gauge::default() };
        let context = Context {
            authorizer: Arc::new(Authorizer::new(Tenants::default())),
            cri: Arc::new(FakeCri::default()),
            log_roots: LogRoots::new([]),
            relay,
            requests: Family::default(),
        };
        let (tenant, _writers) = tenant();
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let slot = PerTenant::new(1).take(&tenant.spec.uid, place).unwrap();
        let router = routes().layer(Extension(tenant)).layer(Extension(Arc::new(slot))).with_state(context);
        let request = http::Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let allow = response.headers().get(ALLOW).map(|allow| allow.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let text = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, allow, String::from_utf8(text.to_vec()).unwrap())
    }

    const NO_LOG: &str = "pod \"p\" does not exist";
    const NO_POD: &str = "pod does not exist";
    const UNKNOWN: &str = "404 page not found\n";
    const HOST: &str = "this endpoint shows the machine, which tenants share, and is disabled.";
    const EMPTY_LIST: &str = r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[]}"#;

    #[rstest]
    #[case("GET", "/healthz", "healthz", 200, "ok")]
    #[case("GET", "/healthz/ping", "healthz", 200, "ok")]
    #[case("GET", "/pods", "pods", 200, EMPTY_LIST)]
    #[case("GET", "/pods/", "pods", 200, EMPTY_LIST)]
    #[case("GET", "/runningpods/", "runningpods", 200, EMPTY_LIST)]
    #[case("GET", "/containerLogs/ns/p/c", "containerLogs", 404, NO_LOG)]
    #[case("GET", "/containerLogs/ns/p/u/c", "containerLogs", 404, UNKNOWN)]
    #[case("GET", "/containerLogs/ns//c", "containerLogs", 404, UNKNOWN)]
    #[case("POST", "/exec/ns/p/c?output=1", "exec", 404, NO_POD)]
    #[case("POST", "/exec/ns/p/?output=1", "exec", 404, UNKNOWN)]
    #[case("POST", "/exec//p/c", "exec", 404, UNKNOWN)]
    #[case("GET", "/exec/ns/p/u/c?output=1", "exec", 404, NO_POD)]
    #[case("POST", "/attach/ns/p/c?output=1", "attach", 404, NO_POD)]
    #[case("POST", "/run/ns/p/u/c?cmd=id", "run", 404, NO_POD)]
    #[case("POST", "/portForward/ns/p", "portForward", 404, NO_POD)]
    #[case("POST", "/portForward/ns/p/u", "portForward", 404, NO_POD)]
    #[case("POST", "/portForward/ns", "portForward", 404, UNKNOWN)]
    #[case("GET", "/metrics", "host", 405, HOST)]
    #[case("GET", "/metrics/cadvisor", "host", 405, HOST)]
    #[case("GET", "/stats/container", "host", 405, HOST)]
    #[case("GET", "/logs/", "host", 405, HOST)]
    #[case("GET", "/logs/syslog", "host", 405, HOST)]
    #[case("GET", "/configz", "host", 405, HOST)]
    #[case("PUT", "/debug/flags/v", "host", 405, HOST)]
    #[case("POST", "/checkpoint/ns/p/c", "host", 405, HOST)]
    #[case("GET", "/", "other", 404, UNKNOWN)]
    #[case("GET", "/podsx", "other", 404, UNKNOWN)]
    #[tokio::test]
    async fn paths_are_routed_as_by_a_kubelet(
        #[case] method: Method,
        #[case] path: &str,
        #[case] route: &str,
        #[case] status: u16,
        #[case] text: &str,
    ) {
        assert_eq!(label(path.split('?').next().unwrap()), route);
        assert_eq!(answer(method, path).await, (status, None, text.to_owned()));
    }

    #[rstest]
    #[case("GET", "/stats/summary", "stats/summary", r#"{"node":{"nodeName":"worker-7","startTime":null},"pods":[]}"#)]
    #[case("GET", "/metrics/resource", "metrics/resource", "resource_scrape_error 0")]
    #[tokio::test]
    async fn stats_are_served(#[case] method: Method, #[case] path: &str, #[case] route: &str, #[case] text: &str) {
        assert_eq!(label(path), route);
        let (status, _, body) = answer(method, path).await;
        assert!(status == 200 && body.contains(text), "{body}");
    }

    #[rstest]
    #[case("POST", "/pods", "GET")]
    #[case("POST", "/containerLogs/ns/p/c", "GET")]
    #[case("PUT", "/exec/ns/p/c", "GET, POST")]
    #[case("DELETE", "/portForward/ns/p", "GET, POST")]
    #[case("GET", "/run/ns/p/c", "POST")]
    #[case("POST", "/metrics/resource", "GET")]
    #[tokio::test]
    async fn other_methods_are_refused(#[case] method: Method, #[case] path: &str, #[case] allow: &str) {
        assert_eq!(answer(method, path).await, (405, Some(allow.to_owned()), "Method Not Allowed".to_owned()));
    }

    /// Paths that deserialize into the parts of the path, in both forms.
    #[rstest]
    #[case("/exec/ns/p/c", None)]
    #[case("/exec/ns/p/u/c", Some("u"))]
    #[tokio::test]
    async fn the_parts_of_a_path_are_found_in_both_forms(#[case] path: &str, #[case] uid: Option<&str>) {
        let seen = Arc::new(std::sync::Mutex::new(None));
        let kept = seen.clone();
        let handler = get(|axum::extract::Path(path): axum::extract::Path<pods::ContainerPath>| async move {
            *kept.lock().unwrap() = Some(path);
        });
        let router: Router = Router::new()
            .route("/exec/{namespace}/{name}/{container}", handler.clone())
            .route("/exec/{namespace}/{name}/{uid}/{container}", handler);
        router.oneshot(http::Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let pod = pods::PodPath { namespace: "ns".into(), name: "p".into(), uid: uid.map(Into::into) };
        assert_eq!(seen.lock().unwrap().take(), Some(pods::ContainerPath { pod, container: "c".into() }));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_path_is_answered(root in "(exec|attach|run|portForward|containerLogs|pods|stats|healthz|[a-z]{0,5})", rest in "(/[a-zA-Z0-9%._~-]{0,6}){0,5}", post in any::<bool>()) {
            let method = if post { Method::POST } else { Method::GET };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (status, ..) = runtime.block_on(answer(method, &format!("/{root}{rest}")));
            prop_assert!([200, 400, 404, 405].contains(&status), "{status}");
        }
    }
}
