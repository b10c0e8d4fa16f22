//! Who calls, and for whom the caller may act: an agent for its own node, a cloud controller manager for its own tenant.
//! Callers show service-account tokens, which the host's API reviews.

use crate::host::ServedStores;
use crate::model::names;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt as _};
use nestling_control_api::consts::TOKEN_AUDIENCE;
use nestling_crds::labels;
use nestling_crds::names::{NodeName, TenantUid};
use nestling_runtime::error::chain;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// The agent of a host node.
    Agent(NodeName),
    /// The cloud controller manager of a tenant.
    CloudController(TenantUid),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CallerError {
    #[error("no bearer token")]
    NoToken,
    #[error("the token is not valid for this API")]
    Invalid,
    #[error("the token is not bound to a node: project it into a pod")]
    Unbound,
    #[error("{0} is not a Nestling service account")]
    NotNestling(String),
    #[error("tokens cannot be checked")]
    Review(#[source] kube::Error),
}

impl From<CallerError> for Status {
    fn from(error: CallerError) -> Self {
        let code = match &error {
            CallerError::NoToken | CallerError::Invalid => Code::Unauthenticated,
            CallerError::Unbound | CallerError::NotNestling(_) => Code::PermissionDenied,
            CallerError::Review(_) => Code::Unavailable,
        };
        Status::new(code, error.to_string())
    }
}

/// The caller that the metadata of a call names.
pub(super) async fn caller(
    metadata: &MetadataMap,
    tokens: &TokenReviewer,
    stores: &ServedStores,
    system_namespace: &str,
) -> Result<Caller, CallerError> {
    let header = metadata.get("authorization").and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or(CallerError::NoToken)?;
    let user = match tokens.user(token).await {
        Ok(user) => user.ok_or(CallerError::Invalid)?,
        Err(error) => {
            tracing::warn!(error = chain(&error), "cannot review a token; the call fails");
            return Err(CallerError::Review(error));
        }
    };
    let not_nestling = || CallerError::NotNestling(user.name.clone());
    let (namespace, account) =
        user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')).ok_or_else(not_nestling)?;
    if namespace == system_namespace && account == labels::AGENT {
        return user.node.as_deref().map(|node| Caller::Agent(NodeName::new(node))).ok_or(CallerError::Unbound);
    }
    cloud_controller(namespace, account, &user, stores).map(Caller::CloudController).ok_or_else(not_nestling)
}

/// The tenant whose cloud controller manager has this account. The name alone does not prove it: the account must be the
/// one that the operator created.
fn cloud_controller(namespace: &str, account: &str, user: &User, stores: &ServedStores) -> Option<TenantUid> {
    let live = stores.service_accounts.get(&ObjectRef::new(account).within(namespace))?;
    let uid = live.labels().get(labels::TENANT)?;
    let cluster = stores.cluster(&TenantUid::new(uid))?;
    let ours = live.metadata.uid.as_deref() == Some(user.uid.as_str())
        && live.owner_references().iter().any(|owner| owner.uid == *uid)
        && cluster.namespace().as_deref() == Some(namespace)
        && names::cloud_controller(&cluster.name_any()) == account;
    ours.then(|| TenantUid::new(uid))
}

/// Extra of a token that is bound to a pod (KEP-4193): the node on which the pod runs.
const NODE_CLAIM: &str = "authentication.kubernetes.io/node-name";

/// A revoked token remains valid for at most so long.
const CACHED: Duration = Duration::from_secs(30);
/// Tokens cached at once: a bound that is above the number of callers of any host.
const CAPACITY: usize = 8192;

/// Whose a token is, according to the host's API.
#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    name: String,
    uid: String,
    /// The node to which the token is bound.
    node: Option<String>,
}

/// Reviews tokens through the host's API and caches the answers for a moment.
pub(crate) struct TokenReviewer {
    client: Client,
    cache: Mutex<HashMap<[u8; 32], (User, Instant)>>,
}

impl TokenReviewer {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, cache: Mutex::default() }
    }

    /// Whose a token is; `None` if it is invalid or of another audience.
    async fn user(&self, token: &str) -> kube::Result<Option<User>> {
        let key: [u8; 32] = Sha256::digest(token).into();
        let now = Instant::now();
        let cached = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some((user, until)) = cached
            && now < until
        {
            return Ok(Some(user));
        }
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let review = Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let user = authenticated(review);
        if let Some(user) = &user {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            cache.retain(|_, (_, until)| now < *until);
            if cache.len() < CAPACITY {
                cache.insert(key, (user.clone(), now + CACHED));
            }
        }
        Ok(user)
    }
}

fn authenticated(review: TokenReview) -> Option<User> {
    let status = review.status?;
    // An API without support of audiences authenticates any token: ours must be in the answer.
    let ours = status.audiences.iter().flatten().any(|audience| audience == TOKEN_AUDIENCE);
    let user = status.user.filter(|_| status.authenticated == Some(true) && ours)?;
    let node = user.extra.and_then(|mut extra| extra.remove(NODE_CLAIM)).and_then(|values| values.into_iter().next());
    Some(User { name: user.username?, uid: user.uid?, node })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::host::testing::{cluster, meta};
    use nestling_runtime::testing::ApiServer;
    use serde_json::json;

    /// Reviews tokens that name their user: `<user>|<uid>|<node>`.
    pub(in crate::control) fn review_tokens(api: &ApiServer) {
        api.respond("create", "tokenreviews", |request| {
            let spec = &request.body["spec"];
            let parts: Vec<&str> = spec["token"].as_str().unwrap().split('|').collect();
            let [name, uid, node] = *parts.as_slice() else {
                return (201, json!({"metadata": {}, "spec": {}, "status": {"error": "invalid"}}));
            };
            let extra = if node.is_empty() { json!({}) } else { json!({NODE_CLAIM: [node]}) };
            let user = json!({"username": name, "uid": uid, "extra": extra});
            let status = json!({"authenticated": true, "audiences": spec["audiences"], "user": user});
            (201, json!({"metadata": {}, "spec": {}, "status": status}))
        });
    }

    fn stores() -> ServedStores {
        let (stores, mut writers) = ServedStores::new();
        meta(
            &mut writers.service_accounts,
            &json!({
                "namespace": "team", "name": "dev-cloud-controller", "uid": "sa-1",
                "labels": {labels::TENANT: "vc-1"},
                "ownerReferences": [{"apiVersion": "nestling.dev/v1alpha1", "kind": "VirtualCluster", "name": "dev", "uid": "vc-1"}],
            }),
        );
        meta(
            &mut writers.service_accounts,
            &json!({
                "namespace": "team", "name": "forged-cloud-controller", "uid": "sa-2", "labels": {labels::TENANT: "vc-1"},
            }),
        );
        cluster(&mut writers.clusters, json!({"metadata": {"namespace": "team", "name": "dev", "uid": "vc-1"}, "spec": {}}));
        stores
    }

    async fn ask(authorization: &str) -> Result<Caller, Code> {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", authorization.parse().unwrap());
        let api = ApiServer::new();
        review_tokens(&api);
        caller(&metadata, &TokenReviewer::new(api.client()), &stores(), "nestling-system").await.map_err(|error| Status::from(error).code())
    }

    #[tokio::test(start_paused = true)]
    async fn a_review_is_cached_for_a_moment_and_only_if_the_token_is_valid() {
        let api = ApiServer::new();
        review_tokens(&api);
        let tokens = TokenReviewer::new(api.client());
        for _ in 0..2 {
            assert_eq!(tokens.user("sa|x|n1").await.unwrap().unwrap().node.as_deref(), Some("n1"));
        }
        assert_eq!(api.count("create", "tokenreviews"), 1);
        tokio::time::advance(CACHED).await;
        assert!(tokens.user("sa|x|n1").await.unwrap().is_some());
        assert_eq!(api.count("create", "tokenreviews"), 2);
        for _ in 0..2 {
            assert!(tokens.user("invalid").await.unwrap().is_none());
        }
        assert_eq!(api.count("create", "tokenreviews"), 4);
    }

    #[tokio::test]
    async fn an_agent_acts_for_the_node_of_its_token() {
        let agent = "Bearer system:serviceaccount:nestling-system:nestling-agent|x|n1";
        assert_eq!(ask(agent).await, Ok(Caller::Agent(NodeName::new("n1"))));
        assert_eq!(ask("Bearer system:serviceaccount:nestling-system:nestling-agent|x|").await, Err(Code::PermissionDenied));
        assert_eq!(ask("Bearer system:serviceaccount:elsewhere:nestling-agent|x|n1").await, Err(Code::PermissionDenied));
    }

    #[tokio::test]
    async fn a_cloud_controller_acts_for_the_tenant_that_owns_its_account() {
        let own = "Bearer system:serviceaccount:team:dev-cloud-controller|sa-1|n1";
        assert_eq!(ask(own).await, Ok(Caller::CloudController(TenantUid::new("vc-1"))));
        // An account of that name from before, or after.
        assert_eq!(ask("Bearer system:serviceaccount:team:dev-cloud-controller|sa-0|").await, Err(Code::PermissionDenied));
        // Labelled by hand.
        assert_eq!(ask("Bearer system:serviceaccount:team:forged-cloud-controller|sa-2|").await, Err(Code::PermissionDenied));
        assert_eq!(ask("Bearer system:serviceaccount:team:default|x|n1").await, Err(Code::PermissionDenied));
    }

    #[tokio::test]
    async fn other_callers_are_refused() {
        assert_eq!(ask("Bearer ").await, Err(Code::Unauthenticated));
        assert_eq!(ask("Basic abc").await, Err(Code::Unauthenticated));
        assert_eq!(ask("Bearer admin|x|n1").await, Err(Code::PermissionDenied));
    }

    fn answer(status: &serde_json::Value) -> Option<User> {
        authenticated(serde_json::from_value(json!({"metadata": {}, "spec": {}, "status": status})).unwrap())
    }

    #[test]
    fn only_an_authenticated_token_of_our_audience_counts() {
        let user = json!({"username": "system:serviceaccount:ns:sa", "uid": "u", "extra": {NODE_CLAIM: ["n1"]}});
        let good = answer(&json!({"authenticated": true, "audiences": ["nestling-control"], "user": user}));
        assert_eq!(good.unwrap(), User { name: "system:serviceaccount:ns:sa".into(), uid: "u".into(), node: Some("n1".into()) });
        assert_eq!(answer(&json!({"authenticated": false, "audiences": ["nestling-control"], "user": user})), None);
        assert_eq!(answer(&json!({"authenticated": true, "user": user})), None);
        assert_eq!(answer(&json!({"authenticated": true, "audiences": ["other"], "user": user})), None);
        assert_eq!(answer(&json!({"error": "expired"})), None);
    }
}
