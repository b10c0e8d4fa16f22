//! What the operator keeps inside every tenant: bindings of roles beyond those that kube-apiserver creates, and CoreDNS.
//! Applied as soon as the tenant's API answers, checked again now and then, repaired after changes by others.

mod coredns;

pub(crate) use coredns::Settings;

use crate::apply::{ApplyError, Object, ensure};
use crate::pki::sign::PROXIES;
use crate::state::State;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Client;
use nestling_crds::names::TenantUid;
use nestling_crds::v1alpha1::AddonMode;
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;
use tokio::time::Instant;

/// Objects applied at the same time: a new tenant needs a dozen, which need not wait for each other.
const CONCURRENCY: usize = 8;

/// Applies all objects in the tenant of `client`. No request is made if all of them were found or made right with the same
/// settings less than `every` ago.
pub(crate) async fn apply(
    client: &Client,
    tenant: &TenantUid,
    state: &State,
    settings: &Settings,
    every: Duration,
) -> Result<(), ApplyError> {
    let mut hash = DefaultHasher::new();
    settings.hash(&mut hash);
    let hash = hash.finish();
    if state.with(tenant, |state| state.addons).is_some_and(|(known, at)| known == hash && at.elapsed() < every) {
        return Ok(());
    }
    for stage in stages(settings) {
        let applied =
            stream::iter(stage).map(async |mut object| ensure(client, &mut object, |live| Ok(!coredns::is_edited(live))).await.map(drop));
        applied.buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
    }
    state.with(tenant, |state| state.addons = Some((hash, Instant::now())));
    Ok(())
}

/// All objects, by stage: what the controllers of a later stage need exists before.
fn stages(settings: &Settings) -> Vec<Vec<Object>> {
    let mut first = access();
    if settings.core_dns.mode == AddonMode::Unmanaged {
        return vec![first];
    }
    first.extend(coredns::prerequisites(settings));
    vec![first, vec![coredns::deployment(settings)]]
}

const RBAC: &str = "rbac.authorization.k8s.io";
const CLOUD_CONTROLLER: &str = "system:cloud-controller-manager";

/// Rights inside a tenant beyond those that kube-apiserver sets up by itself.
fn access() -> Vec<Object> {
    vec![
        // The admin kubeconfig is a member of this group and not of system:masters, so that its rights can be taken away
        // (as kubeadm does since 1.29).
        bind("kubeadm:cluster-admins", "cluster-admin", &json!({"kind": "Group", "name": "kubeadm:cluster-admins"})),
        // kube-apiserver as a client of kubelets: agents authorize its requests by SubjectAccessReview.
        bind("nestling:kubelet-api-admin", "system:kubelet-api-admin", &json!({"kind": "User", "name": "kube-apiserver-kubelet-client"})),
        // The proxy half of node agents.
        bind("nestling:node-proxier", "system:node-proxier", &json!({"kind": "Group", "name": PROXIES})),
        cloud_controller_role(),
        bind(CLOUD_CONTROLLER, CLOUD_CONTROLLER, &json!({"kind": "User", "name": CLOUD_CONTROLLER})),
    ]
}

/// Rights of the node controllers and for leader election.
fn cloud_controller_role() -> Object {
    let rules = json!([
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "update", "patch", "delete"]},
        {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["update", "patch"]},
        {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["cloud-controller-manager"],
            "verbs": ["get", "update", "patch"],
        },
    ]);
    Object::new::<ClusterRole>("", CLOUD_CONTROLLER, &[], json!({"rules": rules}))
}

fn bind(name: &str, role: &str, subject: &Value) -> Object {
    let mut subject = subject.clone();
    subject["apiGroup"] = RBAC.into();
    let fields = json!({"roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role}, "subjects": [subject]});
    Object::new::<ClusterRoleBinding>("", name, &[], fields)
}

#[cfg(test)]
mod tests;
