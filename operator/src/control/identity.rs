//! Who calls, and for whom the caller may speak: an agent for its own node, a cloud controller manager for its own tenant.

use super::tokens::{Tokens, User};
use crate::reconcile::build::names;
use crate::stores::Stores;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use nestling_crds::labels;
use nestling_crds::names::{NodeName, TenantUid};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The agent of a host node.
    Agent(NodeName),
    /// The cloud controller manager of a tenant.
    CloudController(TenantUid),
}

#[derive(Debug, thiserror::Error)]
pub enum CallerError {
    #[error("no bearer token")]
    NoToken,
    #[error("the token is not valid for this API")]
    Unknown,
    #[error("the token is not bound to a node: project it into a pod")]
    Unbound,
    #[error("{0} has no business here")]
    Stranger(String),
    #[error("tokens cannot be checked")]
    Review(#[source] kube::Error),
}

impl From<CallerError> for Status {
    fn from(error: CallerError) -> Self {
        let code = match &error {
            CallerError::NoToken | CallerError::Unknown => Code::Unauthenticated,
            CallerError::Unbound | CallerError::Stranger(_) => Code::PermissionDenied,
            CallerError::Review(_) => Code::Unavailable,
        };
        Status::new(code, error.to_string())
    }
}

/// Finds the caller behind the metadata of a call.
pub async fn caller(metadata: &MetadataMap, tokens: &dyn Tokens, stores: &Stores, system_namespace: &str) -> Result<Caller, CallerError> {
    let header = metadata.get("authorization").and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or(CallerError::NoToken)?;
    let user = match tokens.user(token).await {
        Ok(user) => user.ok_or(CallerError::Unknown)?,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot review a token");
            return Err(CallerError::Review(error));
        }
    };
    let stranger = || CallerError::Stranger(user.name.clone());
    let (namespace, account) =
        user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')).ok_or_else(stranger)?;
    if namespace == system_namespace && account == labels::AGENT {
        return user.node.as_deref().map(|node| Caller::Agent(NodeName::new(node))).ok_or(CallerError::Unbound);
    }
    cloud_controller(namespace, account, &user, stores).map(Caller::CloudController).ok_or_else(stranger)
}

/// The tenant whose cloud controller manager has this account. Its name alone proves nothing: the account must be the one
/// that the operator made.
fn cloud_controller(namespace: &str, account: &str, user: &User, stores: &Stores) -> Option<TenantUid> {
    let live = stores.service_accounts.get(&ObjectRef::new(account).within(namespace))?;
    let uid = live.labels().get(labels::TENANT)?;
    let cluster = stores.cluster(&TenantUid::new(uid))?;
    let ours = live.metadata.uid.as_deref() == Some(user.uid.as_str())
        && live.owner_references().iter().any(|owner| owner.uid == *uid)
        && cluster.namespace().as_deref() == Some(namespace)
        && names::cloud_controller(&cluster.name_any()) == account;
    ours.then(|| TenantUid::new(uid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::testing::{filled, meta};
    use async_trait::async_trait;
    use serde_json::json;

    /// Tokens that say themselves whose they are: `<user>|<uid>|<node>`.
    struct Plain;

    #[async_trait]
    impl Tokens for Plain {
        async fn user(&self, token: &str) -> Result<Option<User>, kube::Error> {
            let mut parts = token.split('|').map(str::to_owned);
            let mut next = || parts.next().filter(|part| !part.is_empty());
            Ok(next().map(|name| User { name, uid: next().unwrap_or_default(), node: next() }))
        }
    }

    fn stores() -> Stores {
        filled(|writers| {
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
            crate::stores::testing::cluster(
                &mut writers.clusters,
                json!({"metadata": {"namespace": "team", "name": "dev", "uid": "vc-1"}, "spec": {}}),
            );
        })
    }

    async fn ask(authorization: &str) -> Result<Caller, Code> {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", authorization.parse().unwrap());
        caller(&metadata, &Plain, &stores(), "nestling-system").await.map_err(|error| Status::from(error).code())
    }

    #[tokio::test]
    async fn an_agent_speaks_for_the_node_of_its_token() {
        let agent = "Bearer system:serviceaccount:nestling-system:nestling-agent|x|n1";
        assert_eq!(ask(agent).await, Ok(Caller::Agent(NodeName::new("n1"))));
        assert_eq!(ask("Bearer system:serviceaccount:nestling-system:nestling-agent|x|").await, Err(Code::PermissionDenied));
        assert_eq!(ask("Bearer system:serviceaccount:elsewhere:nestling-agent|x|n1").await, Err(Code::PermissionDenied));
    }

    #[tokio::test]
    async fn a_cloud_controller_speaks_for_the_tenant_that_owns_its_account() {
        let own = "Bearer system:serviceaccount:team:dev-cloud-controller|sa-1|n1";
        assert_eq!(ask(own).await, Ok(Caller::CloudController(TenantUid::new("vc-1"))));
        // An account of that name from before, or after.
        assert_eq!(ask("Bearer system:serviceaccount:team:dev-cloud-controller|sa-0|").await, Err(Code::PermissionDenied));
        // Labelled by hand.
        assert_eq!(ask("Bearer system:serviceaccount:team:forged-cloud-controller|sa-2|").await, Err(Code::PermissionDenied));
        assert_eq!(ask("Bearer system:serviceaccount:team:default|x|n1").await, Err(Code::PermissionDenied));
    }

    #[tokio::test]
    async fn nobody_else_is_heard() {
        assert_eq!(ask("Bearer ").await, Err(Code::Unauthenticated));
        assert_eq!(ask("Basic abc").await, Err(Code::Unauthenticated));
        assert_eq!(ask("Bearer admin|x|n1").await, Err(Code::PermissionDenied));
    }
}
