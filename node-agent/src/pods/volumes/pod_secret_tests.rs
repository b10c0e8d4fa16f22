//! The pod Secret against scripted apiservers.

use super::pod_secret::{DIGEST, DownwardFile, PodFiles, PodSecret, REFRESH_AT, TokenFile, delete, ensure};
use crate::pods::error::VolumesError;
use crate::pods::fixtures::{self, Server};
use crate::pods::names::Owner;
use crate::tenant::Tenant;
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::sync::Arc;

const TOKENS: &str = "/api/v1/namespaces/shop/serviceaccounts/robot/token";
const SECRETS: &str = "/api/v1/namespaces/team-a-dev-workload/secrets";

struct World {
    tenant: Arc<Tenant>,
    tenant_server: Server,
    host: Server,
}

type Outcome = tokio::task::JoinHandle<Result<Option<PodSecret>, VolumesError>>;

impl World {
    fn new() -> Self {
        let (tenant_client, tenant_server) = Server::start("tenant");
        let (host_client, host) = Server::start("host");
        Self { tenant: fixtures::tenant(tenant_client, host_client).0, tenant_server, host }
    }

    fn path(&self) -> String {
        format!("{SECRETS}/{}", fixtures::key().secret_name(&self.tenant.spec.uid))
    }

    fn ensure(&self, pod: &Pod, known: Option<&PodSecret>) -> Outcome {
        let (tenant, pod, known) = (self.tenant.clone(), pod.clone(), known.cloned());
        tokio::spawn(async move { ensure(&tenant, &fixtures::key(), &pod, &files(), known.as_ref(), now()).await })
    }

    async fn answer_token(&mut self, token: &str) {
        let call = self.tenant_server.expect(Method::POST, TOKENS).await;
        assert_eq!(call.body["spec"]["audiences"], json!(["vault"]));
        call.answer(&json!({"metadata": {}, "spec": {"audiences": ["vault"], "expirationSeconds": 1000},
            "status": {"token": token, "expirationTimestamp": "2026-01-01T00:16:40Z"}}));
    }
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn files() -> PodFiles {
    PodFiles {
        tokens: vec![TokenFile { key: "token.v.0".into(), audience: Some("vault".into()), expiration_seconds: 1000 }],
        downward: vec![DownwardFile { key: "downward.v.0".into(), field_path: "metadata.labels['color']".into() }],
    }
}

fn pod(color: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {"labels": {"color": color}}, "spec": {"serviceAccountName": "robot", "containers": []}}))
        .unwrap()
}

/// The Secret as it was made for [`pod`] `blue`.
async fn made(world: &mut World) -> PodSecret {
    let outcome = world.ensure(&pod("blue"), None);
    world.answer_token("first").await;
    let create = world.host.expect(Method::POST, SECRETS).await;
    assert_eq!(create.body["data"], json!({"token.v.0": "Zmlyc3Q=", "downward.v.0": "Ymx1ZQ=="}));
    assert_eq!(create.body["metadata"]["annotations"][REFRESH_AT], "2026-01-01T00:13:20Z");
    let mut answer = create.body.clone();
    answer["metadata"]["uid"] = json!("secret-uid");
    create.answer(&answer);
    outcome.await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn a_fresh_secret_is_left_alone() {
    let mut world = World::new();
    let secret = made(&mut world).await;
    assert_eq!(secret.refresh_at, Some("2026-01-01T00:13:20Z".parse().unwrap()), "80 % of 1000 s");
    assert_eq!(world.ensure(&pod("blue"), Some(&secret)).await.unwrap().unwrap(), Some(secret));
    world.tenant_server.expect_nothing().await;
    world.host.expect_nothing().await;
}

#[tokio::test]
async fn an_edited_label_rewrites_its_file_and_requests_no_token() {
    let mut world = World::new();
    let secret = made(&mut world).await;
    let outcome = world.ensure(&pod("red"), Some(&secret));
    let patch = world.host.expect(Method::PATCH, &world.path()).await;
    assert_eq!(patch.body["data"], json!({"downward.v.0": "cmVk"}), "the token's key stays as it is");
    assert_eq!(patch.body["metadata"]["annotations"][REFRESH_AT], "2026-01-01T00:13:20Z");
    assert_ne!(patch.body["metadata"]["annotations"][DIGEST], json!(secret.digest));
    patch.answer(&json!({"metadata": {"uid": "secret-uid"}}));
    let updated = outcome.await.unwrap().unwrap().unwrap();
    assert_eq!((updated.refresh_at, updated.digest == secret.digest), (secret.refresh_at, false));
    world.tenant_server.expect_nothing().await;
}

#[tokio::test]
async fn a_token_is_replaced_when_it_is_due() {
    let mut world = World::new();
    let due = PodSecret { refresh_at: Some(now()), ..made(&mut world).await };
    let outcome = world.ensure(&pod("blue"), Some(&due));
    world.answer_token("second").await;
    let patch = world.host.expect(Method::PATCH, &world.path()).await;
    assert_eq!(patch.body["data"]["token.v.0"], "c2Vjb25k");
    patch.answer(&json!({"metadata": {"uid": "secret-uid"}}));
    assert_eq!(outcome.await.unwrap().unwrap().unwrap().refresh_at, Some("2026-01-01T00:13:20Z".parse().unwrap()));
}

#[tokio::test]
async fn a_deleted_secret_is_created_again_with_everything() {
    let mut world = World::new();
    let secret = made(&mut world).await;
    let outcome = world.ensure(&pod("red"), Some(&secret));
    world.host.expect(Method::PATCH, &world.path()).await.fail(404, "NotFound", "none");
    world.answer_token("third").await;
    let create = world.host.expect(Method::POST, SECRETS).await;
    assert_eq!(create.body["data"], json!({"token.v.0": "dGhpcmQ=", "downward.v.0": "cmVk"}));
    let answer = create.body.clone();
    create.answer(&answer);
    outcome.await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_secret_left_by_an_earlier_agent_is_taken_over_and_a_foreign_one_is_not() {
    for ours in [true, false] {
        let mut world = World::new();
        let outcome = world.ensure(&pod("blue"), None);
        world.answer_token("token").await;
        world.host.expect(Method::POST, SECRETS).await.fail(409, "AlreadyExists", "there");
        let metadata = Owner::of(&world.tenant).pod_secret_metadata(&fixtures::key());
        let metadata = if ours { json!(metadata) } else { json!({"name": metadata.name}) };
        let read = world.host.expect(Method::GET, &world.path()).await;
        read.answer(&json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}));
        if ours {
            let patch = world.host.expect(Method::PATCH, &world.path()).await;
            assert_eq!(patch.body["data"]["token.v.0"], "dG9rZW4=");
            patch.answer(&json!({"metadata": {"uid": "secret-uid"}}));
            assert!(outcome.await.unwrap().unwrap().is_some());
        } else {
            assert!(matches!(outcome.await.unwrap(), Err(VolumesError::Foreign(_))));
            world.host.expect_nothing().await;
        }
    }
}

#[tokio::test]
async fn a_denied_token_is_requested_again_and_errors_hold_no_secrets() {
    let mut world = World::new();
    let outcome = world.ensure(&pod("blue"), None);
    let denied = "no relationship found between node and this object";
    world.tenant_server.expect(Method::POST, TOKENS).await.fail(403, "Forbidden", denied);
    // An answer that cannot be read is not quoted.
    let unreadable = json!({"metadata": {}, "status": {"token": ["topsecret"]}});
    world.tenant_server.expect(Method::POST, TOKENS).await.answer(&unreadable);
    let error = outcome.await.unwrap().unwrap_err();
    let text = format!("{error} {:?} {}", error, std::error::Error::source(&error).unwrap());
    assert!(text.contains("failed to fetch token") && !text.contains("topsecret"), "{text}");
}

#[tokio::test]
async fn deletion_has_the_uid_and_accepts_a_missing_secret() {
    let mut world = World::new();
    let secret = made(&mut world).await;
    let tenant = world.tenant.clone();
    let outcome = tokio::spawn(async move { delete(&tenant, &fixtures::key(), &secret).await });
    let call = world.host.expect(Method::DELETE, &world.path()).await;
    assert_eq!(call.body["preconditions"]["uid"], Value::from("secret-uid"));
    call.fail(404, "NotFound", "none");
    outcome.await.unwrap().unwrap();
}
