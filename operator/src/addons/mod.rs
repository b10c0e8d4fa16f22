//! What the operator keeps inside every tenant: bindings of roles beyond those that kube-apiserver creates, and CoreDNS; and
//! what it clears away there when a cluster wakes.
//! Applied as soon as the tenant's API answers, checked again now and then, repaired after changes by others.
//!
//! In a task of each tenant: one whose API hangs must not occupy a reconcile, for which other clusters wait.

mod coredns;
mod leases;

pub(crate) use coredns::Settings;

use crate::apply::{ApplyError, Object, ensure};
use crate::pki::sign::PROXIES;
use crate::state::{Addons, Failure, State};
use crate::tenant::Tenant;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Client;
use nestling_crds::names::TenantUid;
use nestling_crds::v1alpha1::AddonMode;
use nestling_runtime::backoff::Backoff;
use nestling_runtime::error::chain;
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

/// Objects applied at the same time: a new tenant needs a dozen, which need not wait for each other.
const CONCURRENCY: usize = 8;
/// Limit of an attempt: each call has its own, but an answer may come in drops.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
#[error("the cluster's API has not answered everything within {LIMIT:?}")]
struct TooSlow;

/// Starts to make all objects in the tenant as they should be, unless that is under way, or was done with the same settings
/// less than `every` ago. Returns why the last attempt failed, if it did; `changed` is called when that changes.
pub(crate) fn keep(
    tenant: &Tenant,
    uid: &TenantUid,
    state: &Arc<State>,
    settings: Settings,
    every: Duration,
    changed: impl Fn(Option<&Failure>) + Send + 'static,
) -> Option<Failure> {
    let mut hash = DefaultHasher::new();
    settings.hash(&mut hash);
    let hash = hash.finish();
    state.with(uid, |cluster| {
        let failure = match &cluster.addons {
            Addons::Applied { settings, at } if *settings == hash && at.elapsed() < every => return None,
            Addons::Applying { settings, failure, .. } if *settings == hash => return failure.clone(),
            Addons::Applying { failure, .. } => failure.clone(),
            Addons::Applied { .. } | Addons::Unknown => None,
        };
        let work = Work { client: tenant.client.clone(), tenant: uid.clone(), state: state.clone(), settings, hash };
        let work = work.until_applied(failure.is_some(), changed);
        let task = AbortOnDropHandle::new(tokio::spawn(work.instrument(tracing::info_span!(parent: None, "addons", tenant = %uid))));
        cluster.addons = Addons::Applying { settings: hash, failure: failure.clone(), _task: task };
        failure
    })
}

struct Work {
    client: Client,
    tenant: TenantUid,
    state: Arc<State>,
    settings: Settings,
    hash: u64,
}

impl Work {
    async fn until_applied(self, mut has_failed: bool, changed: impl Fn(Option<&Failure>)) {
        let mut backoff = Backoff::write();
        loop {
            let attempt = async { timeout(LIMIT, apply(&self.client, &self.settings)).await };
            let failed: Failure = match self.state.lanes.pass(&self.tenant, attempt).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => Arc::new(error),
                Err(_) => Arc::new(TooSlow),
            };
            let pause = backoff.failed();
            tracing::warn!(error = chain(&failed), ?pause, "cannot apply the add-ons in the tenant; retrying");
            self.state.with(&self.tenant, |cluster| {
                if let Addons::Applying { failure, .. } = &mut cluster.addons {
                    *failure = Some(failed.clone());
                }
            });
            has_failed = true;
            changed(Some(&failed));
            tokio::time::sleep(pause).await;
        }
        self.state.with(&self.tenant, |cluster| cluster.addons = Addons::Applied { settings: self.hash, at: Instant::now() });
        if has_failed {
            changed(None);
        }
    }
}

async fn apply(client: &Client, settings: &Settings) -> Result<(), ApplyError> {
    if let Some(resumed_at) = settings.resumed_at {
        leases::release(client, resumed_at).await?;
    }
    for stage in stages(settings) {
        let applied =
            stream::iter(stage).map(async |mut object| ensure(client, &mut object, |live| Ok(!coredns::is_edited(live))).await.map(drop));
        applied.buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
    }
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
