//! Who gets in, and to what.

use super::world::{Ca, NODE, USER, World, client_pair};
use crate::server::Limits;
use http::StatusCode;
use serde_json::Value;
use std::time::Duration;

#[tokio::test]
async fn only_certificates_of_the_kubelet_client_ca_are_accepted() {
    let world = World::new().await;
    // In TLS 1.3 a client learns of its refusal when it first reads.
    for pair in [None, Some(client_pair(&Ca::new("a tenant's own"), "tenant-a"))] {
        if let Ok(mut client) = world.connect(pair).await {
            let request = http::Request::builder().uri("/healthz").header("host", "node").body(http_body_util::Empty::new()).unwrap();
            assert!(client.send(request).await.is_err());
        }
    }
    assert_eq!(world.get("tenant-a", "/healthz").await, (StatusCode::OK, "ok".into()));
    world.stopped().await;
}

#[tokio::test]
async fn a_new_client_ca_is_accepted_and_an_unreadable_one_changes_nothing() {
    let world = World::new().await;
    let new = Ca::new("next");
    world.client_cas.replace(b"rubbish").unwrap_err();
    assert_eq!(world.get("tenant-a", "/healthz").await.0, StatusCode::OK);
    world.client_cas.replace(format!("{}{}", world.kubelet_clients.pem(), new.pem()).as_bytes()).unwrap();
    assert_eq!(world.get("tenant-a", "/healthz").await.0, StatusCode::OK);
    let mut client = world.connect(Some(client_pair(&new, "tenant-a"))).await.unwrap();
    assert_eq!(client.call("GET", "/healthz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn callers_are_authorized_by_their_own_tenant() {
    let world = World::new().await;
    *world.a.reviews.allow.lock().unwrap() = Box::new(|_| false);
    let (status, text) = world.get("tenant-a", "/pods").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(text, format!("Forbidden (user={USER}, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"));
    assert_eq!(world.get("tenant-b", "/pods").await.0, StatusCode::OK);

    let asked = world.a.reviews.asked.lock().unwrap();
    assert_eq!(asked.len(), 2);
    let attributes = asked[0].resource_attributes.as_ref().unwrap();
    assert_eq!((attributes.resource.as_deref(), attributes.name.as_deref()), (Some("nodes"), Some(NODE)));
    assert_eq!((attributes.verb.as_deref(), attributes.subresource.as_deref()), (Some("get"), Some("pods")));
    assert_eq!(asked[0].user.as_deref(), Some(USER));
    assert_eq!(asked[0].groups.as_deref(), Some(&["system:authenticated".to_owned()][..]));
}

#[tokio::test]
async fn reviews_are_cached_and_failures_are_not() {
    let world = World::new().await;
    *world.a.reviews.down.lock().unwrap() = true;
    let (status, text) = world.get("tenant-a", "/healthz").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(text.starts_with("Authorization error (user="), "{text}");
    *world.a.reviews.down.lock().unwrap() = false;

    for _ in 0..3 {
        assert_eq!(world.get("tenant-a", "/healthz").await.0, StatusCode::OK);
    }
    assert_eq!(world.a.reviews.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn running_something_requires_the_verb_create_with_any_method() {
    let world = World::new().await;
    *world.a.reviews.allow.lock().unwrap() = Box::new(|spec| spec.resource_attributes.as_ref().unwrap().verb.as_deref() == Some("get"));
    for path in ["/exec/default/web/main?command=id&output=1", "/attach/default/web/main?output=1", "/portForward/default/web"] {
        let refused = world.client("tenant-a").await.upgrade("GET", path, "websocket").await.unwrap_err();
        assert_eq!(refused.0, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(world.client("tenant-a").await.call("POST", "/run/default/web/main?cmd=id").await.0, StatusCode::FORBIDDEN);
    assert_eq!(world.get("tenant-a", "/pods").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_tenant_sees_only_its_own_pods() {
    let world = World::new().await;
    for path in ["/pods", "/runningpods/"] {
        let (status, text) = world.get("tenant-a", path).await;
        assert_eq!(status, StatusCode::OK);
        let list: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((list["kind"].as_str(), list["apiVersion"].as_str()), (Some("PodList"), Some("v1")));
        assert_eq!(list["items"].as_array().unwrap().len(), 1, "{path}");
        assert_eq!(list["items"][0]["metadata"]["uid"], "pod-tenant-a");
        assert_eq!(list["items"][0]["spec"]["containers"][0]["name"], "main");
    }
}

#[tokio::test]
async fn paths_that_expose_the_machine_are_refused() {
    let world = World::new().await;
    for path in ["/logs/", "/logs/syslog", "/configz", "/debug/pprof/heap", "/flagz", "/metrics", "/metrics/cadvisor", "/stats/"] {
        assert_eq!(world.get("tenant-a", path).await.0, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    assert_eq!(world.client("tenant-a").await.call("POST", "/checkpoint/default/web/main").await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(world.client("tenant-a").await.call("DELETE", "/pods").await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(world.get("tenant-a", "/nothing").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_tenant_that_is_not_served_here_is_unavailable() {
    let world = World::new().await;
    assert_eq!(world.get("tenant-c", "/healthz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    let mut client = world.client("tenant-a").await;
    assert_eq!(client.call("GET", "/healthz").await.0, StatusCode::OK);
    world.tenants.remove(&world.a.tenant.spec.uid);
    assert_eq!(client.call("GET", "/healthz").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn before_the_first_list_a_pod_is_unavailable_rather_than_missing() {
    let mut world = World::new().await;
    let (unlisted, _writer) = kube::runtime::reflector::store::store();
    let stores = crate::tenant::PodStores { tenant: unlisted, ..world.b.tenant.stores.clone() };
    let b = &world.b.tenant;
    let (kubelet, proxy, host) = (b.kubelet.clone(), b.proxy.clone(), b.host.clone());
    world.b.tenant =
        std::sync::Arc::new(crate::tenant::Tenant { spec: b.spec.clone(), node: b.node.clone(), kubelet, proxy, host, stores });
    world.tenants.insert(world.b.tenant.clone());
    let (status, _) = world.get("tenant-b", "/containerLogs/default/web/main").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_limit_of_connections_is_per_tenant() {
    let world = World::with_limits(Limits { connections_per_tenant: 1, ..Limits::default() }).await;
    let mut first = world.client("tenant-a").await;
    assert_eq!(first.call("GET", "/healthz").await.0, StatusCode::OK);
    assert_eq!(world.get("tenant-a", "/healthz").await.0, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(world.get("tenant-b", "/healthz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn silent_and_idle_connections_are_closed() {
    let brief = Duration::from_millis(200);
    let world = World::with_limits(Limits { handshake: brief, idle: brief, ..Limits::default() }).await;
    let mut silent = tokio::net::TcpStream::connect(world.addr).await.unwrap();
    let mut buffer = vec![];
    let read = tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut buffer);
    let _ = tokio::time::timeout(Duration::from_secs(10), read).await.expect("closed in time");

    let mut client = world.client("tenant-a").await;
    assert_eq!(client.call("GET", "/healthz").await.0, StatusCode::OK);
    client.closed().await;
    world.stopped().await;
}
