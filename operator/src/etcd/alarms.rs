//! Finds the members of tenants' etcds that have raised alarm `NOSPACE`, and makes room ([`reclaim`]).
//!
//! Every member is asked over plain HTTP, on the port of its probes: that is cheap for thousands of them. A connection to etcd's own
//! API is opened where there is an alarm only.

use super::places::{address, is_member, serves};
use super::reach::{ReachError, connect};
use super::space::{Space, reclaim};
use crate::host::Stores;
use crate::model::ETCD_METRICS_PORT;
use crate::state::{Context, NoSpace};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::Uri;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::events::EventType;
use kube::{Resource as _, ResourceExt as _};
use nestling_crds::labels;
use nestling_crds::names::TenantUid;
use nestling_runtime::error::chain;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Pause between two looks at all members.
const PERIOD: Duration = Duration::from_secs(30);
/// Members that are asked at the same time.
const AT_ONCE: usize = 32;
const PROBE: Duration = Duration::from_secs(2);
const LARGEST_ANSWER: usize = 4096;
/// Tenants for which room is made at the same time: databases are copied.
const RECLAIMS: usize = 4;
/// Pause after an attempt that has made no room.
const AGAIN: Duration = Duration::from_secs(60);

type Http = Client<HttpConnector, Full<Bytes>>;

/// Looks at all members again and again, until dropped. For the leader.
pub(crate) async fn watch(ctx: Arc<Context>) -> Infallible {
    let http: Http = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
    let turns = Arc::new(Semaphore::new(RECLAIMS));
    let mut reclaims = JoinSet::new();
    loop {
        sleep(PERIOD).await;
        for (tenant, (members, is_alarmed)) in look(&ctx.stores, &http).await {
            if !is_alarmed {
                if ctx.state.with(&tenant, |state| state.no_space.take()).is_some() {
                    enqueue(&ctx, &tenant);
                }
            } else if begins(&ctx, &tenant) {
                let (ctx, turns) = (ctx.clone(), turns.clone());
                reclaims.spawn(async move {
                    let _turn = turns.acquire().await;
                    make_room(&ctx, &tenant, &members).await;
                });
            }
        }
        while reclaims.try_join_next().is_some() {}
    }
}

/// The running members of each tenant, and whether one of them has raised the alarm. A tenant of which none answers is left out.
async fn look(stores: &Stores, http: &Http) -> BTreeMap<TenantUid, (Vec<Arc<Pod>>, bool)> {
    let answers = stream::iter(stores.pods.state_filter(|pod| is_member(pod) && serves(pod))).map(async |pod| {
        let is_alarmed = has_alarm(http, address(&pod, ETCD_METRICS_PORT)?).await?;
        Some((TenantUid::new(pod.labels().get(labels::TENANT)?), pod, is_alarmed))
    });
    let answers: Vec<_> = answers.buffer_unordered(AT_ONCE).filter_map(async |answer| answer).collect().await;
    let mut tenants: BTreeMap<TenantUid, (Vec<Arc<Pod>>, bool)> = BTreeMap::new();
    for (tenant, pod, alarmed) in answers {
        let (members, is_alarmed) = tenants.entry(tenant).or_default();
        members.push(pod);
        *is_alarmed |= alarmed;
    }
    tenants
}

/// `None` if the member does not answer.
async fn has_alarm(http: &Http, member: SocketAddr) -> Option<bool> {
    let uri: Uri = format!("http://{member}/health").parse().ok()?;
    let answer = async {
        // A member with an alarm is not healthy: the status says so too.
        let response = http.get(uri).await.ok()?;
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await.ok()?.to_bytes();
        let health: serde_json::Value = serde_json::from_slice(&body).ok()?;
        Some(health["reason"].as_str().is_some_and(|reason| reason.contains("NOSPACE")))
    };
    timeout(PROBE, answer).await.ok()?
}

/// Whether an attempt is due; it counts as begun.
fn begins(ctx: &Context, tenant: &TenantUid) -> bool {
    let is_due = ctx.state.with(tenant, |state| {
        let is_due = state.no_space.is_none_or(|last| last.ended.is_some_and(|ended| ended.elapsed() >= AGAIN));
        if is_due {
            state.no_space = Some(NoSpace { ended: None, full: state.no_space.and_then(|last| last.full) });
        }
        is_due
    });
    if is_due {
        enqueue(ctx, tenant);
    }
    is_due
}

async fn make_room(ctx: &Context, tenant: &TenantUid, members: &[Arc<Pod>]) {
    let reclaimed = async { Ok::<_, ReachError>(reclaim(&connect(tenant, members, &ctx.state).await?).await?) };
    let ended = |full| Some(NoSpace { ended: Some(Instant::now()), full });
    let no_space = match reclaimed.await {
        Ok(Space::Enough) => None,
        Ok(Space::Reclaimed(bytes)) => {
            let note = format!("etcd had reached its quota and refused writes; {} MiB were freed, and it accepts them again", bytes >> 20);
            tracing::info!(%tenant, note);
            if let Some(cluster) = ctx.stores.cluster(tenant) {
                ctx.events.send(EventType::Normal, &cluster.object_ref(&()), "SpaceReclaimed", &note);
            }
            None
        }
        Ok(Space::Full { size, quota }) => ended(Some((size, quota))),
        Err(error) => {
            tracing::warn!(%tenant, error = chain(&error), pause = ?AGAIN, "cannot make room in the tenant's etcd; retrying");
            ended(ctx.state.with(tenant, |state| state.no_space.and_then(|last| last.full)))
        }
    };
    ctx.state.with(tenant, |state| state.no_space = no_space);
    enqueue(ctx, tenant);
}

/// The cluster's status is to say so.
fn enqueue(ctx: &Context, tenant: &TenantUid) {
    if let Some(cluster) = ctx.stores.cluster(tenant) {
        ctx.queue.add(kube::runtime::reflector::Lookup::to_object_ref(&*cluster, ()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{filled, put};
    use rstest::rstest;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[rstest]
    #[case::healthy("HTTP/1.1 200 OK", r#"{"health":"true","reason":""}"#, Some(false))]
    #[case::full("HTTP/1.1 503 Service Unavailable", r#"{"health":"false","reason":"ALARM NOSPACE"}"#, Some(true))]
    #[case::without_leader("HTTP/1.1 503 Service Unavailable", r#"{"health":"false","reason":"RAFT NO LEADER"}"#, Some(false))]
    #[case::nonsense("HTTP/1.1 200 OK", "nonsense", None)]
    #[tokio::test]
    async fn a_member_says_whether_it_is_full(#[case] status: &str, #[case] body: &str, #[case] expected: Option<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let member = listener.local_addr().unwrap();
        let answer = format!("{status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let http: Http = Client::builder(TokioExecutor::new()).build_http();
        assert_eq!(futures::future::join(server, has_alarm(&http, member)).await.1, expected);
    }

    #[tokio::test]
    async fn members_that_do_not_answer_are_left_out() {
        let ready = json!([{"name": "etcd", "image": "", "imageID": "", "ready": true, "restartCount": 0}]);
        let stores = filled(|writers| {
            for (name, component, status) in [
                ("starting", "control-plane", json!({"podIP": "127.0.0.1"})),
                ("without-address", "etcd", json!({"containerStatuses": ready})),
                ("controllers", "controllers", json!({"podIP": "127.0.0.1", "containerStatuses": ready})),
                ("silent", "etcd", json!({"podIP": "127.0.0.1", "containerStatuses": ready})),
            ] {
                let labels = json!({labels::TENANT: "vc-1", labels::COMPONENT: component});
                put(&mut writers.pods, json!({"metadata": {"namespace": "team", "name": name, "labels": labels}, "status": status}));
            }
        });
        let mut asked: Vec<String> =
            stores.pods.state_filter(|pod| is_member(pod) && serves(pod)).iter().map(|pod| pod.name_any()).collect();
        asked.sort();
        assert_eq!(asked, ["silent", "without-address"]);
        assert!(look(&stores, &Client::builder(TokioExecutor::new()).build_http()).await.is_empty());
    }
}
