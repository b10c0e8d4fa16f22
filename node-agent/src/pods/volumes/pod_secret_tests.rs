//! The pod Secret between two API servers in memory.

use super::pod_secret::{DIGEST, DownwardFile, PodFiles, PodSecret, REFRESH_AT, TokenFile, delete, ensure};
use crate::pods::error::VolumesError;
use crate::pods::fixtures;
use crate::pods::names::Owner;
use crate::tenant::Tenant;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use nestling_runtime::testing::{ApiServer, Fault};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const TOKENS: &str = "serviceaccounts/token";

struct World {
    tenant: Arc<Tenant>,
    tenant_api: ApiServer,
    host: ApiServer,
}

impl World {
    fn new() -> Self {
        let (tenant_api, host) = (ApiServer::new(), ApiServer::new());
        Self { tenant: fixtures::tenant(tenant_api.client(), host.client()).0, tenant_api, host }
    }

    /// A tenant that issues tokens `1`, `2` and so on.
    fn with_tokens() -> Self {
        let world = Self::new();
        let issued = AtomicUsize::new(0);
        world.tenant_api.respond("create", TOKENS, move |request| {
            assert_eq!(request.body["spec"]["audiences"], json!(["vault"]));
            let token = (issued.fetch_add(1, Ordering::Relaxed) + 1).to_string();
            let status = json!({"token": token, "expirationTimestamp": "2026-01-01T00:16:40Z"});
            (201, json!({"metadata": {}, "spec": {"audiences": ["vault"], "expirationSeconds": 1000}, "status": status}))
        });
        world
    }

    /// With the Secret as it was made for [`pod`] `blue`.
    async fn with_secret() -> (Self, PodSecret) {
        let world = Self::with_tokens();
        let secret = world.ensure(&pod("blue"), None).await.unwrap().unwrap();
        world.assert_holds("1", "blue");
        (world, secret)
    }

    async fn ensure(&self, pod: &Pod, known: Option<&PodSecret>) -> Result<Option<PodSecret>, VolumesError> {
        ensure(&self.tenant, &fixtures::key(), pod, &files(), known, now()).await
    }

    fn metadata(&self) -> ObjectMeta {
        Owner::of(&self.tenant).pod_secret_metadata(&fixtures::key())
    }

    fn live(&self) -> Option<Secret> {
        self.host.get(self.tenant.spec.workload_namespace.as_str(), &self.metadata().name.unwrap())
    }

    fn remove(&self) {
        assert!(self.host.remove::<Secret>(self.tenant.spec.workload_namespace.as_str(), &self.metadata().name.unwrap()));
    }

    fn assert_holds(&self, token: &str, color: &str) {
        let data = self.live().unwrap().data.unwrap();
        let found = ["token.v.0", "downward.v.0"].map(|key| std::str::from_utf8(&data[key].0).unwrap());
        assert_eq!(found, [token, color]);
    }
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// 80 % of 1000 s after [`now`].
fn due() -> Timestamp {
    "2026-01-01T00:13:20Z".parse().unwrap()
}

fn files() -> PodFiles {
    PodFiles {
        tokens: vec![TokenFile { key: "token.v.0".into(), audience: Some("vault".into()), expiration_seconds: 1000 }],
        downward: vec![DownwardFile { key: "downward.v.0".into(), field_path: "metadata.labels['color']".into() }],
    }
}

fn pod(color: &str) -> Pod {
    let spec = json!({"serviceAccountName": "robot", "containers": []});
    serde_json::from_value(json!({"metadata": {"labels": {"color": color}}, "spec": spec})).unwrap()
}

#[tokio::test]
async fn a_fresh_secret_is_left_alone() {
    let (world, secret) = World::with_secret().await;
    assert_eq!(secret.refresh_at, Some(due()));
    let live = world.live().unwrap();
    assert_eq!(live.metadata.annotations.as_ref().unwrap()[REFRESH_AT], "2026-01-01T00:13:20Z");
    assert_eq!(world.tenant_api.take_writes(), [format!("create {TOKENS} shop/robot")]);
    world.host.take_requests();
    assert_eq!(world.ensure(&pod("blue"), Some(&secret)).await.unwrap(), Some(secret));
    assert!(world.tenant_api.requests().is_empty() && world.host.requests().is_empty());
}

#[tokio::test]
async fn an_edited_label_rewrites_its_file_and_requests_no_token() {
    let (world, secret) = World::with_secret().await;
    let updated = world.ensure(&pod("red"), Some(&secret)).await.unwrap().unwrap();
    world.assert_holds("1", "red");
    let annotations = world.live().unwrap().metadata.annotations.unwrap();
    assert_eq!(annotations[REFRESH_AT], "2026-01-01T00:13:20Z");
    assert!(annotations[DIGEST] != secret.digest && updated.digest == annotations[DIGEST]);
    assert_eq!((updated.uid, updated.refresh_at), (secret.uid, Some(due())));
    assert_eq!(world.tenant_api.count("create", TOKENS), 1);
}

#[tokio::test]
async fn a_token_is_replaced_when_it_is_due() {
    let (world, secret) = World::with_secret().await;
    let secret = PodSecret { refresh_at: Some(now()), ..secret };
    assert_eq!(world.ensure(&pod("blue"), Some(&secret)).await.unwrap().unwrap().refresh_at, Some(due()));
    world.assert_holds("2", "blue");
}

#[tokio::test]
async fn a_deleted_secret_is_created_again_with_everything() {
    let (world, secret) = World::with_secret().await;
    world.remove();
    world.ensure(&pod("red"), Some(&secret)).await.unwrap().unwrap();
    world.assert_holds("2", "red");
}

#[tokio::test]
async fn a_secret_left_by_an_earlier_agent_is_taken_over_and_a_foreign_one_is_not() {
    for ours in [true, false] {
        let world = World::with_tokens();
        let labels = world.metadata().labels.filter(|_| ours);
        let left = world.host.put(&Secret { metadata: ObjectMeta { labels, ..world.metadata() }, ..Secret::default() });
        let outcome = world.ensure(&pod("blue"), None).await;
        if ours {
            assert_eq!(outcome.unwrap().unwrap().uid, left.metadata.uid);
            world.assert_holds("1", "blue");
        } else {
            assert!(matches!(outcome, Err(VolumesError::Foreign(_))));
            assert_eq!(world.live(), Some(left));
        }
    }
}

#[tokio::test]
async fn a_denied_token_is_requested_again_and_errors_hold_no_secrets() {
    let world = World::new();
    world.tenant_api.inject("create", TOKENS, 1, Fault::Status(403));
    // An answer that cannot be read is not quoted.
    world.tenant_api.respond("create", TOKENS, |_| (201, json!({"metadata": {}, "status": {"token": ["topsecret"]}})));
    let error = world.ensure(&pod("blue"), None).await.unwrap_err();
    let text = format!("{error} {error:?} {}", std::error::Error::source(&error).unwrap());
    assert!(text.contains("failed to fetch token") && !text.contains("topsecret"), "{text}");
    assert_eq!(world.tenant_api.count("create", TOKENS), 2);
}

#[tokio::test]
async fn only_the_very_secret_is_deleted_and_it_may_be_gone() {
    let (world, secret) = World::with_secret().await;
    delete(&world.tenant, &fixtures::key(), &secret).await.unwrap();
    assert_eq!(world.live(), None);
    delete(&world.tenant, &fixtures::key(), &secret).await.unwrap();
    let other = world.host.put(&Secret { metadata: world.metadata(), ..Secret::default() });
    delete(&world.tenant, &fixtures::key(), &secret).await.unwrap();
    assert_eq!(world.live(), Some(other));
}
