//! Rights in the cluster's namespace: the operator's own, and those of the control API.
//!
//! The operator may read and write Secrets, and write what control planes consist of, only in namespaces with a `VirtualCluster`: the
//! chart gives it a role for that ([`names::OPERATOR_CLUSTER_ROLE`]), and it binds that role to itself, where the host lets it, which
//! is where a `VirtualCluster` is (the chart's admission policy `nestling-operator-access`). The control API may read one Secret of the
//! cluster, that with its authority.
//!
//! Each cluster has Roles and `RoleBindings` of its own. While it exists it is their owner, so that the rights go with it, whatever
//! becomes of the operator. A cluster that is being deleted does not own the operator's binding any longer ([`keep`]): a foreground
//! deletion takes what a cluster owns first, and the operator has yet to settle what becomes of the data. It gives the rights up
//! when that is done ([`give_up`]).

use crate::apply::{Applier, ApplyError};
use crate::model::{metadata, names};
use crate::reconcile::build::workload::bind;
use crate::reconcile::dereference::DereferenceError;
use crate::reconcile::error::Error;
use crate::reconcile::subject::Identity;
use crate::state::Context;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt as _};
use nestling_crds::labels;
use nestling_runtime::kube::{call, delete_exact};
use std::error::Error as StdError;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// An apiserver learns of a new `RoleBinding`, and of a new `VirtualCluster`, through watches of its own: usually within some
/// milliseconds.
const IN_FORCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Gives the operator and the control API their rights in the cluster's namespace, and waits until the operator's are in force. No
/// request if they are.
pub(super) async fn grant(id: &Identity, ctx: &Context) -> Result<(), Error> {
    give(id, Some(id.owner()), ctx).await?;
    let applier = Applier { host: &ctx.host, state: &ctx.state, tenant: &id.uid, adopt: None };
    // The host lets the operator give only rights that it has itself.
    let (role, binding) = control_api(id, &ctx.config.namespace);
    applier.apply(role).await?;
    once_in_force(|| applier.apply(binding.clone())).await?;
    Ok(())
}

/// Keeps the operator's rights while a cluster is being deleted.
pub(super) async fn keep(id: &Identity, ctx: &Context) -> Result<(), Error> {
    give(id, None, ctx).await
}

async fn give(id: &Identity, owner: Option<OwnerReference>, ctx: &Context) -> Result<(), Error> {
    let applier = Applier { host: &ctx.host, state: &ctx.state, tenant: &id.uid, adopt: None };
    let live = once_in_force(|| applier.apply(binding(id, owner.clone(), &ctx.config.namespace))).await?;
    let watched = || ctx.stores.role_bindings.get(&ObjectRef::new(&names::operator(&id.name)).within(&id.namespace))?.uid();
    let uid = live.uid().or_else(watched);
    if uid.is_some() && ctx.state.with(&id.uid, |state| state.access == uid) {
        return Ok(());
    }
    // Any read that takes the rights will do, and this one is due anyway.
    let name = names::ca(&id.name);
    let read = once_in_force(|| ctx.state.secret(&id.uid, &id.namespace, &name)).await;
    read.map_err(|source| DereferenceError::Secret { name, source })?;
    ctx.state.with(&id.uid, |state| state.access = uid);
    Ok(())
}

/// Removes the cluster's binding. Another cluster in the namespace has one of its own.
pub(super) async fn give_up(id: &Identity, ctx: &Context) -> Result<(), ApplyError> {
    let api: Api<RoleBinding> = Api::namespaced(ctx.host.clone(), &id.namespace);
    let (name, object) = (names::operator(&id.name), || format!("RoleBinding {}", names::operator(&id.name)));
    // The store may be behind [`keep`].
    let live = call(api.get_opt(&name)).await.map_err(|source| ApplyError::Read { object: object(), source })?;
    let Some(live) = live.filter(|live| live.labels().get(labels::TENANT).is_some_and(|uid| uid == id.uid.as_str())) else { return Ok(()) };
    let deleted = delete_exact(&api, &live.metadata, None).await.map(drop);
    deleted.map_err(|source| ApplyError::Delete { object: object(), source })
}

fn binding(id: &Identity, owner: Option<OwnerReference>, system_namespace: &str) -> RoleBinding {
    let metadata = named(id, names::operator(&id.name), owner);
    bind(metadata, ("ClusterRole", names::OPERATOR_CLUSTER_ROLE), labels::OPERATOR, system_namespace)
}

/// A Role of the cluster's own, because its one Secret has a name of its own.
fn control_api(id: &Identity, system_namespace: &str) -> (Role, RoleBinding) {
    let name = names::control_api(&id.name);
    let metadata = named(id, name.clone(), Some(id.owner()));
    let rule = PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec!["secrets".to_owned()]),
        resource_names: Some(vec![names::ca(&id.name)]),
        verbs: vec!["get".to_owned()],
        ..PolicyRule::default()
    };
    let binding = bind(metadata.clone(), ("Role", &name), names::CONTROL_API, system_namespace);
    (Role { metadata, rules: Some(vec![rule]) }, binding)
}

fn named(id: &Identity, name: String, owner: Option<OwnerReference>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(id.namespace.clone()),
        labels: Some(metadata::labels_of(&id.uid, &id.name)),
        owner_references: owner.map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// Tries again for a moment while the host refuses what it must allow soon.
pub(super) async fn once_in_force<T, E, F>(mut attempt: impl FnMut() -> F) -> Result<T, E>
where
    E: StdError + 'static,
    F: Future<Output = Result<T, E>>,
{
    let deadline = Instant::now() + IN_FORCE;
    loop {
        match attempt().await {
            Err(error) if is_refused(&error) && Instant::now() < deadline => sleep(LOOK_AGAIN).await,
            result => return result,
        }
    }
}

/// Whether the host refused it for want of rights: RBAC (403), or an admission policy, one of whose answers is 422. To bind a Role
/// that the apiserver's authorizer does not know yet is 404.
fn is_refused(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(kube::Error::Api(status)) = error.downcast_ref() {
            return matches!(status.code, 403 | 404) || status.message.contains("ValidatingAdmissionPolicy");
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use nestling_runtime::testing::{ApiServer, Fault};

    fn answer(code: u16, message: &str) -> ApplyError {
        let status = kube::core::Status { code, message: message.into(), ..kube::core::Status::default() };
        ApplyError::Apply { object: "RoleBinding dev-operator".into(), source: kube::Error::Api(Box::new(status)) }
    }

    #[test]
    fn refusals_are_told_from_other_failures() {
        assert!(is_refused(&answer(403, "secrets is forbidden")));
        assert!(is_refused(&answer(422, "ValidatingAdmissionPolicy 'nestling-operator-access' denied request: no params found")));
        assert!(!is_refused(&answer(422, "spec: Required value")) && !is_refused(&answer(500, "etcd")));
    }

    #[tokio::test(start_paused = true)]
    async fn rights_that_come_into_force_are_waited_for_but_not_for_long() {
        let api = ApiServer::new();
        let secrets: kube::Api<k8s_openapi::api::core::v1::Secret> = kube::Api::namespaced(api.client(), "team");
        api.inject("get", "secrets", 3, Fault::Status(403));
        let read = once_in_force(|| secrets.get_opt("dev-ca")).await;
        assert!(read.unwrap().is_none());
        assert_eq!(api.count("get", "secrets"), 4);
        api.inject("get", "secrets", usize::MAX, Fault::Status(403));
        let began = Instant::now();
        assert!(once_in_force(|| secrets.get_opt("dev-ca")).await.is_err());
        assert!((IN_FORCE..IN_FORCE * 2).contains(&began.elapsed()));
    }
}
