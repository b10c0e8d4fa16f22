//! Copies between two API servers in memory. Time is paused, so lingering and back-off take none.

use super::copies::{Copies, CopyState};
use super::leftovers::Leftovers;
use crate::pods::fixtures;
use crate::pods::names::{PodKey, Source};
use futures::FutureExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use nestling_runtime::queue::Queue;
use nestling_runtime::testing::{ApiServer, Fault};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

struct World {
    copies: Arc<Copies>,
    queue: Arc<Queue<PodKey>>,
    tenant: ApiServer,
    host: ApiServer,
    namespace: String,
    name: String,
    shutdown: CancellationToken,
}

fn source() -> Source {
    Source::secret("shop", "login")
}

fn pod(name: &str) -> PodKey {
    PodKey { namespace: "shop".into(), name: name.into(), uid: format!("{name}-uid") }
}

impl World {
    fn new() -> Self {
        let (tenant, host) = (ApiServer::new(), ApiServer::new());
        let description = fixtures::tenant(tenant.client(), host.client()).0;
        let name = source().host_name(&description.spec.uid, &description.node).to_string();
        let namespace = description.spec.workload_namespace.to_string();
        let (queue, shutdown) = (Arc::new(Queue::new()), CancellationToken::new());
        let copies = Copies::new(description, queue.clone(), shutdown.clone());
        Self { copies, queue, tenant, host, namespace, name, shutdown }
    }

    /// The tenant has the Secret, and a pod that refers to it.
    async fn with_copy() -> Self {
        let world = Self::new();
        world.create("a");
        world.acquire("a");
        let keys = Arc::new(BTreeSet::from(["password".into()]));
        assert_eq!(world.state().await, CopyState::Present { keys });
        assert_eq!(world.writes(), ["apply"]);
        world
    }

    fn create(&self, password: &str) {
        let metadata = json!({"name": "login", "namespace": "shop", "labels": {"app": "x"}});
        let secret = json!({"metadata": metadata, "type": "kubernetes.io/basic-auth", "immutable": true});
        let data = [("password".into(), ByteString(password.into()))].into();
        self.tenant.put(&Secret { data: Some(data), ..serde_json::from_value(secret).unwrap() });
    }

    fn acquire(&self, name: &str) {
        self.copies.acquire(&pod(name), &[source()].into(), &Leftovers::default());
    }

    async fn state(&self) -> CopyState {
        self.copies.states(&[source()].into(), Duration::from_secs(60)).await.remove(&source()).unwrap()
    }

    fn copy(&self) -> Option<Secret> {
        self.host.get(&self.namespace, &self.name)
    }

    async fn password(&self) -> Option<String> {
        sleep(Duration::from_secs(1)).await;
        Some(String::from_utf8(self.copy()?.data?["password"].0.clone()).unwrap())
    }

    /// Verbs of the writes to the copy since the last call.
    fn writes(&self) -> Vec<String> {
        let of_copy = format!(" secrets {}/{}", self.namespace, self.name);
        self.host.take_writes().iter().map(|write| write.strip_suffix(&of_copy).unwrap().to_owned()).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_has_the_data_and_nothing_that_would_bind_it() {
    let world = World::with_copy().await;
    let selectors: Vec<_> = world.tenant.requests().into_iter().map(|request| request.query["fieldSelector"].clone()).collect();
    assert!(selectors.iter().all(|selector| selector == "metadata.name=login"), "nodes may read named Secrets only: {selectors:?}");
    let copy = world.copy().unwrap();
    assert_eq!(copy.data.unwrap()["password"].0, b"a");
    assert_eq!((copy.type_.as_deref(), copy.immutable), (Some("Opaque"), None));
    assert!(!copy.metadata.labels.unwrap().contains_key("app"));
}

#[tokio::test(start_paused = true)]
async fn pods_share_a_copy_which_follows_the_tenant_and_goes_with_the_last() {
    let world = World::with_copy().await;
    assert_eq!(world.queue.next().await, pod("a"), "a pod is woken when its source is known");
    world.queue.done(&pod("a"));
    world.acquire("b");
    world.create("b");
    assert_eq!(world.password().await.as_deref(), Some("b"));

    world.copies.release(&pod("a"));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.writes(), ["apply"]);
    let uid = world.copy().unwrap().metadata.uid.unwrap();
    world.copies.release(&pod("b"));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.host.requests()[0].body["preconditions"]["uid"], json!(uid));
    assert_eq!(world.writes(), ["delete"]);
    assert!(world.copies.host_names().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_referred_to_again_soon_stays() {
    let world = World::with_copy().await;
    world.copies.release(&pod("a"));
    sleep(Duration::from_secs(2)).await;
    world.acquire("b");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.writes(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_copy_goes_when_the_tenant_removes_the_object_and_comes_back_with_it() {
    let world = World::with_copy().await;
    world.tenant.remove::<Secret>("shop", "login");
    assert_eq!(world.password().await, None);
    assert_eq!(world.state().await, CopyState::Missing);
    world.create("b");
    assert_eq!(world.password().await.as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_denied_read_is_retried_and_a_missing_object_needs_no_write() {
    let world = World::new();
    world.tenant.inject("list", "secrets", 1, Fault::Status(403));
    world.acquire("a");
    assert_eq!(world.copies.states(&[source()].into(), Duration::ZERO).await[&source()], CopyState::Unknown);
    assert_eq!(world.state().await, CopyState::Missing);
    assert!(world.host.requests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_published_and_retried() {
    let world = World::new();
    world.create("a");
    world.host.inject("apply", "secrets", 1, Fault::Status(403));
    world.acquire("a");
    let CopyState::Failed(why) = world.state().await else { panic!("no failure published") };
    assert!(why.contains("refused by the test") && !why.contains("YQ=="), "{why}");
    assert_eq!(world.queue.next().now_or_never(), Some(pod("a")));
    assert_eq!(world.password().await.as_deref(), Some("a"));
    assert!(matches!(world.state().await, CopyState::Present { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_foreign_object_of_that_name_is_not_overwritten() {
    let world = World::new();
    world.create("a");
    let foreign = json!({"metadata": {"namespace": world.namespace, "name": world.name}, "data": {"password": "Yg=="}});
    world.host.put(&serde_json::from_value::<Secret>(foreign).unwrap());
    world.acquire("a");
    assert!(matches!(world.state().await, CopyState::Failed(why) if why.contains("does not belong to this agent")));
    assert_eq!(world.password().await.as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_secret_of_another_type_is_created_again() {
    let world = World::with_copy().await;
    world.tenant.edit::<Secret>("shop", "login", |secret| secret["type"] = json!("kubernetes.io/dockercfg"));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.writes(), ["apply", "delete", "apply"]);
    assert_eq!(world.copy().unwrap().type_.as_deref(), Some("kubernetes.io/dockercfg"));
}
