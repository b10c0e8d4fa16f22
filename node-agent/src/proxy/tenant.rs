//! Watches one tenant's Services, `EndpointSlices` and `ServiceCIDRs`, and this node's zone, and keeps the proxy told.

use super::feed::{Change, Feed};
use super::{Proxy, report};
use crate::tenant::Tenant;
use futures::stream::select_all;
use futures::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Leaves out objects that are for another proxy, or for none.
const SELECTOR: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";
/// Events that came together are worked out together, up to so many.
const CHUNK: usize = 1024;

/// Ends with `shutdown`, and leaves the tenant's rules as they are: [`Proxy::remove`] is for whoever knows that the tenant
/// is gone. Watches that fail are begun anew with growing delays, and the rules stay meanwhile.
pub async fn run(tenant: Arc<Tenant>, proxy: Proxy, shutdown: CancellationToken) {
    let uid = &tenant.spec.uid;
    proxy.expect(uid, &tenant.spec.service_cidrs);
    let mut feed = Feed::new(tenant.node.as_str(), tenant.spec.service_cidrs.clone());
    let client = || tenant.proxy.clone();
    let ours = watcher::Config::default().labels(SELECTOR);
    let node = watcher::Config::default().fields(&format!("metadata.name={}", tenant.node));
    let mut changes = select_all([
        watch(Api::all(client()), ours.clone(), Change::Service),
        watch(Api::all(client()), ours, Change::Slice),
        watch(Api::all(client()), watcher::Config::default(), Change::Cidr),
        watch(Api::all(client()), node, Change::Node),
    ])
    .ready_chunks(CHUNK);
    // Watches never end by themselves.
    while let Some(Some(chunk)) = shutdown.run_until_cancelled(changes.next()).await {
        for change in chunk {
            feed.take(change);
        }
        if let Some(table) = feed.table() {
            tracing::debug!(frontends = table.frontends.len(), ranges = table.ranges.len(), "services changed");
            proxy.set_services(uid, &table);
        }
    }
}

fn watch<K>(api: Api<K>, config: watcher::Config, change: fn(Event<K>) -> Change) -> futures::stream::BoxStream<'static, Change>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default,
{
    heard(watcher(api, config).default_backoff(), K::plural(&K::DynamicType::default()).into_owned()).map(change).boxed()
}

fn heard<E>(stream: impl Stream<Item = watcher::Result<E>>, what: String) -> impl Stream<Item = E> {
    let mut is_failing = false;
    stream.filter_map(move |result| {
        match &result {
            Ok(_) => is_failing = false,
            // Once per outage: retries go on until it ends.
            Err(error) if !std::mem::replace(&mut is_failing, true) => {
                tracing::warn!(%what, error = %report(error), "watch failed; the rules stay as they are meanwhile");
            }
            Err(_) => {}
        }
        std::future::ready(result.ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::conntrack::Untouched;
    use crate::proxy::netfilter::Fake;
    use crate::proxy::{BridgeProbe, ProxyConfig};
    use crate::tenant::{PodStores, TenantSpec};
    use http::{Request, Response};
    use kube::client::Body;
    use kube::runtime::reflector;
    use nestling_crds::names::{NodeName, TenantUid, WorkloadNamespace};
    use nestling_runtime::metrics::Metrics;
    use serde_json::{Value, json};
    use std::time::Duration;
    use tower_test::mock::{self, Handle, SendResponse};

    fn tenant(client: &kube::Client) -> Arc<Tenant> {
        let spec = TenantSpec {
            uid: TenantUid::new("a"),
            namespace: "team".into(),
            name: "a".into(),
            workload_namespace: WorkloadNamespace::from_made("work"),
            endpoint: "https://10.0.0.1:6443".into(),
            ca_bundle: vec![],
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            dns_address: "10.96.0.10".parse().unwrap(),
            kubernetes_address: "10.96.0.1".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
            version: "v1.37.2".into(),
            capacity: std::collections::BTreeMap::new(),
            draining: false,
        };
        let stores = PodStores { tenant: reflector::store().0, host: reflector::store().0 };
        let node = NodeName::new("here");
        Arc::new(Tenant { spec, node, kubelet: client.clone(), proxy: client.clone(), host: client.clone(), stores })
    }

    fn list(items: &Value) -> Response<Body> {
        let list = json!({"metadata": {"resourceVersion": "1"}, "items": items});
        Response::new(Body::from(list.to_string().into_bytes()))
    }

    /// Answers lists as a tenant with one Service would; one watch adds an endpoint, the others stay open. Requests that the
    /// tenant's proxy has no business making are a failure.
    async fn serve(mut apiserver: Handle<Request<Body>, Response<Body>>) {
        let mut open: Vec<SendResponse<Response<Body>>> = Vec::new();
        let mut has_added = false;
        while let Some((request, answer)) = apiserver.next_request().await {
            let query = request.uri().query().unwrap_or_default();
            let is_watch = query.contains("watch=true");
            let is_selected = query.contains("labelSelector=%21service.kubernetes.io%2Fservice-proxy-name");
            match request.uri().path() {
                "/api/v1/services" if !is_watch => {
                    assert!(is_selected, "{query}");
                    answer.send_response(list(&json!([{
                        "metadata": {"namespace": "default", "name": "web"},
                        "spec": {"clusterIP": "10.96.0.5", "ports": [{"port": 80}]}
                    }])));
                }
                "/apis/discovery.k8s.io/v1/endpointslices" if !is_watch => {
                    assert!(is_selected, "{query}");
                    answer.send_response(list(&json!([])));
                }
                "/apis/discovery.k8s.io/v1/endpointslices" if !has_added => {
                    has_added = true;
                    let event = json!({"type": "ADDED", "object": {
                        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                        "metadata": {"namespace": "default", "name": "web-1", "resourceVersion": "2",
                                     "labels": {"kubernetes.io/service-name": "web"}},
                        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.0.0.7"]}]
                    }});
                    answer.send_response(Response::new(Body::from(format!("{event}\n").into_bytes())));
                }
                "/apis/networking.k8s.io/v1/servicecidrs" if !is_watch => {
                    // An apiserver older than the API.
                    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404});
                    let mut response = Response::new(Body::from(status.to_string().into_bytes()));
                    *response.status_mut() = http::StatusCode::NOT_FOUND;
                    answer.send_response(response);
                }
                "/api/v1/nodes" if !is_watch => {
                    assert!(query.contains("metadata.name%3Dhere"), "{query}");
                    answer.send_response(list(&json!([{"metadata": {"name": "here"}}])));
                }
                _ if is_watch => open.push(answer),
                other => panic!("{other}?{query}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenants_objects_become_rules() {
        let (service, apiserver) = mock::pair();
        let apiserver = tokio::spawn(serve(apiserver));
        let fake = Arc::new(Fake::default());
        let shutdown = CancellationToken::new();
        let config = ProxyConfig {
            netfilter: Arc::clone(&fake) as Arc<dyn crate::proxy::netfilter::Netfilter>,
            conntrack: Arc::new(Untouched),
            bridges: BridgeProbe { proc: "/nonexistent".into(), sys: "/nonexistent".into() },
            metrics: Metrics::default(),
            ready: None,
        };
        let proxy = Proxy::start(config, shutdown.clone());
        let tenant = tenant(&kube::Client::new(service, "default"));
        let running = tokio::spawn(run(tenant, proxy.clone(), shutdown.clone()));
        let endpoint = "add element ip nestling endpoints-1-a { 10.96.0.5 . tcp . 80 : 10.0.0.7 . 8080 }";
        let is_there = async {
            while !fake.applied().concat().contains(endpoint) {
                assert!(!apiserver.is_finished());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), is_there).await.unwrap();
        let text = fake.applied().concat();
        assert!(text.contains("add rule ip nestling tenant-a ip daddr 10.96.0.0/16 drop"), "{text}");
        shutdown.cancel();
        running.await.unwrap();
        proxy.stopped().await;
    }
}
