//! Service-account tokens by `TokenRequest`, as a kubelet does it: bound to the pod, for the asked-for audience and life.

use super::VolumesError;
use super::files::TokenFile;
use crate::pods::backoff::RetryBackoff;
use crate::pods::key::PodKey;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Longest wait for one token.
const CALL: Duration = Duration::from_secs(10);
/// A token is replaced when it is this old, however long it would live (upstream's token manager).
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);
/// The Node authorizer learns of a pod a moment after the node does, and denies until then.
const DENIALS: u32 = 6;

/// A token and when to replace it. No `Debug`: it must not be logged.
pub struct Token {
    pub value: String,
    pub refresh_at: Timestamp,
}

/// Requests a token for `file` of `pod`.
pub async fn request(client: &kube::Client, pod: &PodKey, account: &str, file: &TokenFile) -> Result<Token, VolumesError> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), &pod.namespace);
    let wanted = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(file.audience.iter().cloned().collect()),
            expiration_seconds: Some(file.expiration_seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let mut backoff = RetryBackoff::watch();
    let mut denials = 0;
    let answer = loop {
        match timeout(CALL, api.create_token_request(account, &PostParams::default(), &wanted)).await? {
            Err(kube::Error::Api(status)) if status.is_forbidden() && denials < DENIALS => {
                denials += 1;
                sleep(backoff.delay()).await;
            }
            answer => break answer.map_err(|error| VolumesError::RequestToken(error.into()))?,
        }
    };
    let life = answer.spec.and_then(|spec| spec.expiration_seconds).unwrap_or(file.expiration_seconds);
    let status = answer.status.unwrap_or_default();
    let (Some(value), Some(expires)) = (status.token, status.expiration_timestamp) else {
        return Err(VolumesError::EmptyToken);
    };
    Ok(Token { value, refresh_at: refresh_at(expires.0, life) })
}

/// 80 % of the token's life after its issue, and 24 hours at most.
fn refresh_at(expires: Timestamp, life_seconds: i64) -> Timestamp {
    let life = SignedDuration::from_secs(life_seconds);
    let age = (life * 4 / 5).min(MAX_AGE);
    expires.checked_sub(life - age).unwrap_or(expires)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_replaced_at_80_percent_of_life_or_24_hours() {
        let issued: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (life, age) in [(600, 480), (3607, 2885), (86_400, 69_120), (31_536_000, 86_400)] {
            let expires = issued + SignedDuration::from_secs(life);
            assert_eq!(refresh_at(expires, life).duration_since(issued).as_secs(), age, "life {life}");
        }
    }
}
