//! Asks the host's API whose a token is, and remembers the answer for a moment.

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use nestling_control_api::TOKEN_AUDIENCE;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Extra of a token that is bound to a pod (KEP-4193): the node on which the pod runs.
const NODE_CLAIM: &str = "authentication.kubernetes.io/node-name";

/// A revoked token is good for at most so much longer.
const REMEMBERED: Duration = Duration::from_secs(30);
/// Tokens remembered at once: more than any host has callers, and a bound.
const CAPACITY: usize = 8192;

/// Whose a token is, as the host's API says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    /// The node to which the token is bound.
    pub node: Option<String>,
}

/// Says whose a token is; `None` if it is nobody's, or meant for somebody else than us.
#[async_trait]
pub trait Tokens: Send + Sync + 'static {
    async fn user(&self, token: &str) -> Result<Option<User>, kube::Error>;
}

/// By `TokenReview`.
pub struct Reviewed {
    /// Not the leader's guarded client: every replica serves.
    client: Client,
    known: Mutex<HashMap<[u8; 32], (User, Instant)>>,
}

impl Reviewed {
    pub fn new(client: Client) -> Self {
        Self { client, known: Mutex::default() }
    }
}

#[async_trait]
impl Tokens for Reviewed {
    async fn user(&self, token: &str) -> Result<Option<User>, kube::Error> {
        let key: [u8; 32] = Sha256::digest(token).into();
        let now = Instant::now();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some((user, until)) = known
            && now < until
        {
            return Ok(Some(user));
        }
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let review = Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let user = authenticated(review);
        if let Some(user) = &user {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|_, (_, until)| now < *until);
            if known.len() < CAPACITY {
                known.insert(key, (user.clone(), now + REMEMBERED));
            }
        }
        Ok(user)
    }
}

fn authenticated(review: TokenReview) -> Option<User> {
    let status = review.status?;
    // An API that knows nothing of audiences authenticates any token: our audience must be named.
    let ours = status.audiences.iter().flatten().any(|audience| audience == TOKEN_AUDIENCE);
    let user = status.user.filter(|_| status.authenticated == Some(true) && ours)?;
    let node = user.extra.and_then(|mut extra| extra.remove(NODE_CLAIM)).and_then(|values| values.into_iter().next());
    Some(User { name: user.username?, uid: user.uid?, node })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
