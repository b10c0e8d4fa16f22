//! Whether a caller may do what it requests. The tenant's own apiserver reviews the access (`SubjectAccessReview`), as for
//! a kubelet with webhook authorization; answers are cached for as long as a kubelet caches them.

use super::pods;
use super::tls::Caller;
use crate::tenant::{Tenant, Tenants};
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{Method, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use nestling_crds::names::TenantUid;
use nestling_runtime::kube::call;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a kubelet caches a yes (`authorization.webhook.cacheAuthorizedTTL`).
const ALLOWED_FOR: Duration = Duration::from_mins(5);
/// How long it caches a no (`cacheUnauthorizedTTL`).
const DENIED_FOR: Duration = Duration::from_secs(30);
/// Answers cached over all tenants. Callers are the tenants' apiservers, so a handful per tenant is usual.
const CACHED: usize = 8192;

/// What a request must be allowed to do to the `nodes` object: one of the subresources suffices.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Access {
    verb: &'static str,
    /// In the order in which they are tried.
    subresources: &'static [&'static str],
}

impl Access {
    /// The kubelet's own rules (`KubeletFineGrainedAuthz` on), but stricter in one: running something in a pod is always
    /// `create`. A WebSocket upgrade is a GET, so a kubelet lets a holder of `get nodes/proxy` run commands. None for a
    /// method that has no verb.
    fn needed(method: &Method, path: &str) -> Option<Self> {
        let root = path.split('/').nth(1).unwrap_or_default();
        let verb = match *method {
            Method::GET if ["exec", "attach", "run", "portForward"].contains(&root) => "create",
            Method::GET => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => return None,
        };
        let subresources: &[_] = match root {
            "stats" => &["stats"],
            "metrics" => &["metrics"],
            "logs" => &["log"],
            "checkpoint" => &["checkpoint"],
            "statusz" => &["statusz"],
            "flagz" => &["configz"],
            "pods" | "runningpods" | "allocatedPods" => &["pods", "proxy"],
            "healthz" => &["healthz", "proxy"],
            "configz" => &["configz", "proxy"],
            _ => &["proxy"],
        };
        Some(Self { verb, subresources })
    }
}

/// What is reviewed: all that the answer may depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    tenant: TenantUid,
    user: String,
    groups: Vec<String>,
    verb: &'static str,
    subresource: &'static str,
}

pub(super) struct Authorizer {
    tenants: Tenants,
    answers: Mutex<HashMap<Question, (bool, Instant)>>,
}

impl Authorizer {
    pub(super) fn new(tenants: Tenants) -> Self {
        Self { tenants, answers: Mutex::default() }
    }

    /// The caller's tenant, if this node serves it and the caller may do what it requests. Refusals disclose nothing of
    /// what exists.
    pub(super) async fn admit(&self, caller: &Caller, method: &Method, path: &str) -> Result<Arc<Tenant>, Response> {
        if caller.not_after < Timestamp::now() {
            return Err((StatusCode::UNAUTHORIZED, "Unauthorized").into_response());
        }
        let retry = |text: &'static str| (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], text).into_response();
        let Some(tenant) = self.tenants.get(&caller.tenant) else {
            // Just after a restart the agent does not have its tenants yet.
            return Err(retry("the tenant is not served by this node"));
        };
        let Some(access) = Access::needed(method, path) else {
            return Err((StatusCode::FORBIDDEN, "Authorization error: could not determine attributes for request").into_response());
        };
        let Access { verb, subresources } = access;
        match self.allows(&tenant, caller, &access).await {
            Ok(true) if pods::are_listed(&tenant).await => Ok(tenant),
            Ok(true) => Err(retry("the cluster's pods are not known yet")),
            Ok(false) => {
                let subresources = subresources.join(" ");
                let text = format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{subresources}])\n", caller.user);
                Err((StatusCode::FORBIDDEN, text).into_response())
            }
            Err(error) => {
                tracing::warn!(tenant = %caller.tenant, error = &error as &dyn std::error::Error, "access review failed; refusing the request");
                let subresource = subresources.first().copied().unwrap_or_default();
                let text = format!("Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})", caller.user);
                Err((StatusCode::INTERNAL_SERVER_ERROR, text).into_response())
            }
        }
    }

    /// Whether access to one of the subresources is allowed; the first yes ends the reviews.
    async fn allows(&self, tenant: &Tenant, caller: &Caller, access: &Access) -> kube::Result<bool> {
        for subresource in access.subresources {
            let question = Question {
                tenant: tenant.spec.uid.clone(),
                user: caller.user.clone(),
                groups: caller.groups.clone(),
                verb: access.verb,
                subresource,
            };
            let allowed = if let Some(answer) = self.cached(&question) {
                answer
            } else {
                let answer = review(tenant, &question).await?;
                self.cache(question, answer);
                answer
            };
            if allowed {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn cached(&self, question: &Question) -> Option<bool> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(question).filter(|(_, until)| *until > Instant::now()).map(|(allowed, _)| *allowed)
    }

    fn cache(&self, question: Question, allowed: bool) {
        let now = Instant::now();
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= CACHED {
            answers.retain(|_, (_, until)| *until > now);
        }
        // Still full of fresh answers: not caching costs one review, evicting another costs as much.
        if answers.len() < CACHED {
            answers.insert(question, (allowed, now + if allowed { ALLOWED_FOR } else { DENIED_FOR }));
        }
    }
}

async fn review(tenant: &Tenant, question: &Question) -> kube::Result<bool> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(question.user.clone()),
            groups: Some(question.groups.clone()),
            resource_attributes: Some(ResourceAttributes {
                version: Some("v1".into()),
                resource: Some("nodes".into()),
                subresource: Some(question.subresource.into()),
                name: Some(tenant.node.to_string()),
                verb: Some(question.verb.into()),
                ..Default::default()
            }),
            ..Default::default()
        },
        ..Default::default()
    };
    let api = Api::<SubjectAccessReview>::all(tenant.kubelet.clone());
    let status = call(api.create(&PostParams::default(), &review)).await?.status;
    Ok(status.is_some_and(|status| status.allowed && status.denied != Some(true)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("GET", "/pods", "get", &["pods", "proxy"])]
    #[case("GET", "/pods/x", "get", &["pods", "proxy"])]
    #[case("GET", "/podsx", "get", &["proxy"])]
    #[case("GET", "/runningpods/", "get", &["pods", "proxy"])]
    #[case("GET", "/healthz/ping", "get", &["healthz", "proxy"])]
    #[case("GET", "/configz", "get", &["configz", "proxy"])]
    #[case("GET", "/stats/summary", "get", &["stats"])]
    #[case("GET", "/metrics/resource", "get", &["metrics"])]
    #[case("GET", "/logs/", "get", &["log"])]
    #[case("POST", "/checkpoint/a/b/c", "create", &["checkpoint"])]
    #[case("GET", "/containerLogs/a/b/c", "get", &["proxy"])]
    #[case("GET", "/exec/a/b/c", "create", &["proxy"])]
    #[case("POST", "/exec/a/b/c", "create", &["proxy"])]
    #[case("GET", "/attach/a/b/c", "create", &["proxy"])]
    #[case("GET", "/portForward/a/b", "create", &["proxy"])]
    #[case("PUT", "/debug/flags/v", "update", &["proxy"])]
    fn a_request_needs_the_access_that_a_kubelet_asks_for(
        #[case] method: Method,
        #[case] path: &str,
        #[case] verb: &str,
        #[case] subresources: &[&str],
    ) {
        let access = Access::needed(&method, path).unwrap();
        assert_eq!((access.verb, access.subresources), (verb, subresources));
    }

    #[test]
    fn a_method_without_a_verb_is_refused() {
        assert_eq!(Access::needed(&Method::OPTIONS, "/pods"), None);
    }

    proptest::proptest! {
        #[test]
        fn every_path_needs_a_subresource(method in "[A-Z]{1,8}", path in "\\PC{0,60}") {
            let access = Access::needed(&method.parse().unwrap(), &path);
            proptest::prop_assert!(access.is_none_or(|access| !access.subresources.is_empty()));
        }
    }
}
