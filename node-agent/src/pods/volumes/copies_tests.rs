//! Copies against scripted apiservers. Time is paused, so lingering and backoff take none.

use super::copies::{Copies, CopyState};
use super::leftovers::Leftovers;
use crate::pods::fixtures::{self, Call, Server};
use crate::pods::names::{PodKey, Source};
use futures::FutureExt;
use http::Method;
use nestling_runtime::queue::Queue;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const LIST: &str = "/api/v1/namespaces/shop/secrets";

struct World {
    copies: Arc<Copies>,
    queue: Arc<Queue<PodKey>>,
    tenant: Server,
    host: Server,
    copy_path: String,
    shutdown: CancellationToken,
}

fn source() -> Source {
    Source::secret("shop", "login")
}

fn pod(name: &str) -> PodKey {
    PodKey { namespace: "shop".into(), name: name.into(), uid: format!("{name}-uid") }
}

fn secret(version: u32, password: &str) -> Value {
    json!({"kind": "Secret", "apiVersion": "v1", "type": "kubernetes.io/basic-auth", "immutable": true, "data": {"password": password},
        "metadata": {"name": "login", "namespace": "shop", "uid": "secret-uid", "resourceVersion": version.to_string(), "labels": {"app": "x"}}})
}

fn list(items: &Value) -> Value {
    json!({"kind": "SecretList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
}

/// Answers a write with what was written.
fn made(call: Call) -> Value {
    let mut made = call.body.clone();
    made["metadata"]["uid"] = json!("copy-uid");
    call.answer(&made);
    made
}

impl World {
    fn new() -> Self {
        let (tenant_client, tenant) = Server::start("tenant");
        let (host_client, host) = Server::start("host");
        let description = fixtures::tenant(tenant_client, host_client).0;
        let copy = source().host_name(&description.spec.uid, &description.node);
        let copy_path = format!("/api/v1/namespaces/{}/secrets/{copy}", description.spec.workload_namespace);
        let (queue, shutdown) = (Arc::new(Queue::new()), CancellationToken::new());
        let copies = Copies::new(description, queue.clone(), shutdown.clone());
        Self { copies, queue, tenant, host, copy_path, shutdown }
    }

    fn acquire(&self, name: &str) {
        self.copies.acquire(&pod(name), &[source()].into(), &Leftovers::default());
    }

    async fn state(&self) -> CopyState {
        self.copies.states(&[source()].into(), Duration::from_secs(60)).await.remove(&source()).unwrap()
    }

    /// Brings the copy up; the watch that follows is the answer.
    async fn up(&mut self, name: &str) -> Call {
        self.acquire(name);
        let call = self.tenant.expect(Method::GET, LIST).await;
        assert!(call.query.contains("fieldSelector=metadata.name%3Dlogin"), "nodes may read named Secrets only: {}", call.query);
        call.answer(&list(&json!([secret(4, "YQ==")])));
        let written = made(self.host.expect(Method::PATCH, &self.copy_path).await);
        assert_eq!(written["data"], json!({"password": "YQ=="}));
        assert_eq!((&written["type"], &written["immutable"]), (&json!("Opaque"), &Value::Null));
        assert_eq!(written["metadata"]["labels"]["app"], Value::Null);
        let present = CopyState::Present { keys: Arc::new(BTreeSet::from(["password".into()])) };
        assert_eq!(self.state().await, present);
        self.tenant.expect(Method::GET, LIST).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn pods_share_a_copy_which_follows_the_tenant_and_goes_with_the_last() {
    let mut world = World::new();
    let watch = world.up("a").await;
    assert_eq!(world.queue.next().await, pod("a"), "a pod is woken when its source is known");
    world.queue.done(&pod("a"));
    world.acquire("b");
    watch.answer(&json!({"type": "MODIFIED", "object": secret(5, "Yg==")}));
    let written = made(world.host.expect(Method::PATCH, &world.copy_path).await);
    assert_eq!(written["data"], json!({"password": "Yg=="}));
    let _watch = world.tenant.expect(Method::GET, LIST).await;

    world.copies.release(&pod("a"));
    world.host.expect_nothing().await;
    world.copies.release(&pod("b"));
    let removal = world.host.expect(Method::DELETE, &world.copy_path).await;
    assert_eq!(removal.body["preconditions"]["uid"], "copy-uid");
    removal.answer(&json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "metadata": {}}));
    world.host.expect_nothing().await;
    assert!(world.copies.host_names().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_referred_to_again_soon_stays() {
    let mut world = World::new();
    let _watch = world.up("a").await;
    world.copies.release(&pod("a"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.acquire("b");
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.host.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_goes_when_the_tenant_removes_the_object_and_comes_back_with_it() {
    let mut world = World::new();
    let watch = world.up("a").await;
    watch.answer(&json!({"type": "DELETED", "object": secret(5, "YQ==")}));
    let removal = world.host.expect(Method::DELETE, &world.copy_path).await;
    removal.answer(&json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "metadata": {}}));
    let watch = world.tenant.expect(Method::GET, LIST).await;
    assert_eq!(world.state().await, CopyState::Missing);
    watch.answer(&json!({"type": "ADDED", "object": secret(6, "Yg==")}));
    made(world.host.expect(Method::PATCH, &world.copy_path).await);
}

#[tokio::test(start_paused = true)]
async fn a_denied_read_is_retried_and_a_missing_object_needs_no_write() {
    let mut world = World::new();
    world.acquire("a");
    world.tenant.expect(Method::GET, LIST).await.fail(403, "Forbidden", "no relationship found between node and this object");
    assert_eq!(world.copies.states(&[source()].into(), Duration::ZERO).await[&source()], CopyState::Unknown);
    world.tenant.expect(Method::GET, LIST).await.answer(&list(&json!([])));
    assert_eq!(world.state().await, CopyState::Missing);
    world.host.expect_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_published_and_retried() {
    let mut world = World::new();
    world.acquire("a");
    world.tenant.expect(Method::GET, LIST).await.answer(&list(&json!([secret(4, "YQ==")])));
    world.host.expect(Method::PATCH, &world.copy_path).await.fail(403, "Forbidden", "exceeded quota");
    let CopyState::Failed(why) = world.state().await else { panic!("no failure published") };
    assert!(why.contains("exceeded quota") && !why.contains("YQ=="), "{why}");
    assert_eq!(world.queue.next().now_or_never(), Some(pod("a")));
    made(world.host.expect(Method::PATCH, &world.copy_path).await);
    assert!(matches!(world.state().await, CopyState::Present { .. } | CopyState::Failed(_)));
}

#[tokio::test(start_paused = true)]
async fn a_secret_of_another_type_is_created_again() {
    let mut world = World::new();
    let watch = world.up("a").await;
    let mut other = secret(9, "Yg==");
    other["type"] = json!("kubernetes.io/dockercfg");
    watch.answer(&json!({"type": "MODIFIED", "object": other}));
    let refusal = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "reason": "Invalid", "message": "field is immutable",
        "metadata": {}, "details": {"causes": [{"reason": "FieldValueInvalid", "message": "field is immutable", "field": "type"}]}});
    world.host.expect(Method::PATCH, &world.copy_path).await.answer_with(422, &refusal);
    let removal = world.host.expect(Method::DELETE, &world.copy_path).await;
    removal.answer(&json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "metadata": {}}));
    let written = made(world.host.expect(Method::PATCH, &world.copy_path).await);
    assert_eq!(written["type"], "kubernetes.io/dockercfg");
}
