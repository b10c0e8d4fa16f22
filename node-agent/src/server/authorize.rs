//! May this caller do that? Asked of the tenant's own apiserver by `SubjectAccessReview`, as a kubelet with webhook
//! authorization does, and remembered for a while.

use super::identity::Identity;
use super::route::Access;
use crate::tenant::Tenant;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use nestling_crds::names::TenantUid;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a kubelet remembers a yes (`authorization.webhook.cacheAuthorizedTTL`).
const ALLOWED_FOR: Duration = Duration::from_mins(5);
/// How long it remembers a no (`cacheUnauthorizedTTL`).
const DENIED_FOR: Duration = Duration::from_secs(30);
/// Answers remembered over all tenants. Callers are the tenants' apiservers, so a handful per tenant is usual.
const REMEMBERED: usize = 8192;
const REVIEW_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum AuthorizeError {
    #[error("the tenant's apiserver did not review the access")]
    Review(#[source] kube::Error),
    #[error("the tenant's apiserver did not answer within {} s", REVIEW_LIMIT.as_secs())]
    Deadline,
}

/// What was asked, all that the answer may depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    tenant: TenantUid,
    user: String,
    groups: Vec<String>,
    verb: &'static str,
    subresource: &'static str,
}

#[derive(Default)]
pub struct Authorizer {
    answers: Mutex<HashMap<Question, (bool, Instant)>>,
}

impl Authorizer {
    /// Whether any of the wanted accesses is allowed; the first yes ends the asking.
    pub async fn allows(&self, tenant: &Tenant, caller: &Identity, access: &Access) -> Result<bool, AuthorizeError> {
        for subresource in &access.subresources {
            let question = Question {
                tenant: tenant.spec.uid.clone(),
                user: caller.user.clone(),
                groups: caller.groups.clone(),
                verb: access.verb,
                subresource,
            };
            let allowed = if let Some(answer) = self.remembered(&question) {
                answer
            } else {
                let answer = review(tenant, &question).await?;
                self.remember(question, answer);
                answer
            };
            if allowed {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn remembered(&self, question: &Question) -> Option<bool> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(question).filter(|(_, until)| *until > Instant::now()).map(|(allowed, _)| *allowed)
    }

    fn remember(&self, question: Question, allowed: bool) {
        let now = Instant::now();
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= REMEMBERED {
            answers.retain(|_, (_, until)| *until > now);
        }
        // Still full of fresh answers: not remembering costs a question, forgetting others costs as much.
        if answers.len() < REMEMBERED {
            answers.insert(question, (allowed, now + if allowed { ALLOWED_FOR } else { DENIED_FOR }));
        }
    }
}

async fn review(tenant: &Tenant, question: &Question) -> Result<bool, AuthorizeError> {
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
    let answer = tokio::time::timeout(REVIEW_LIMIT, api.create(&PostParams::default(), &review)).await;
    let status = answer.map_err(|_| AuthorizeError::Deadline)?.map_err(AuthorizeError::Review)?.status;
    Ok(status.is_some_and(|status| status.allowed && status.denied != Some(true)))
}
