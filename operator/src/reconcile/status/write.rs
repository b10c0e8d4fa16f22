//! Writes a status if it says anything new, and the Events of its news.

use super::Outcome;
use super::compute::compute;
use super::events::news;
use crate::context::Context;
use crate::reconcile::Error;
use crate::reconcile::subject::Subject;
use crate::reconcile::validate::ValidatedCluster;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource as _};
use nestling_crds::labels;
use nestling_crds::names::TenantUid;
use nestling_crds::v1alpha1::{Phase, VirtualCluster, VirtualClusterStatus};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The statuses that we wrote last. Nobody else writes them, and the watch that brings them back may be behind: a status
/// computed on an old one would be written again.
#[derive(Debug, Default)]
pub struct Written(Mutex<HashMap<TenantUid, VirtualClusterStatus>>);

impl Written {
    pub fn get(&self, uid: &TenantUid) -> Option<VirtualClusterStatus> {
        self.lock().get(uid).cloned()
    }

    pub fn retain(&self, clusters: &HashSet<TenantUid>) {
        self.lock().retain(|uid, _| clusters.contains(uid));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantUid, VirtualClusterStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the status after `outcome`; returns whether the cluster is at rest.
pub async fn write(subject: &Subject, outcome: &Outcome<'_>, ctx: &Context) -> Result<bool, Error> {
    let previous = current(subject, ctx);
    let next = compute(&previous, subject.vc.metadata.generation, outcome, Timestamp::now());
    let at_rest = next.phase == Some(Phase::Ready);
    if next == previous {
        return Ok(at_rest);
    }
    let regarding = subject.object_reference();
    for news in news(&previous.conditions, &next.conditions) {
        tracing::info!(cluster = %subject.reference, reason = news.reason, note = news.note, "status");
        if news.is_warning {
            ctx.events.warning(&regarding, &news.reason, &news.note);
        } else {
            ctx.events.normal(&regarding, &news.reason, &news.note);
        }
    }
    patch(subject, next, ctx).await?;
    Ok(at_rest)
}

/// Writes down the tenant's service range and workload namespace before anything is built on them: whoever goes on from
/// here, after whatever crash, must find the same ones.
pub async fn claim_range(subject: &Subject, cluster: &ValidatedCluster, ctx: &Context) -> Result<(), Error> {
    let previous = current(subject, ctx);
    let range = cluster.service_cidr.to_string();
    if previous.service_cidr.as_ref() == Some(&range) {
        return Ok(());
    }
    let next = VirtualClusterStatus {
        service_cidr: Some(range),
        workload_namespace: Some(cluster.workload_namespace.to_string()),
        phase: Some(Phase::Provisioning),
        ..previous
    };
    patch(subject, next, ctx).await
}

fn current(subject: &Subject, ctx: &Context) -> VirtualClusterStatus {
    ctx.written.get(&subject.uid).unwrap_or_else(|| subject.status())
}

async fn patch(subject: &Subject, status: VirtualClusterStatus, ctx: &Context) -> Result<(), Error> {
    let api: Api<VirtualCluster> = Api::namespaced(ctx.host.clone(), &subject.namespace);
    let body = json!({
        "apiVersion": VirtualCluster::api_version(&()),
        "kind": VirtualCluster::kind(&()),
        // With the UID, a cluster of the same name that has come since is not touched.
        "metadata": {"name": subject.name, "uid": subject.uid.as_str()},
        "status": status,
    });
    let params = PatchParams::apply(labels::OPERATOR_STATUS).force();
    api.patch_status(&subject.name, &params, &Patch::Apply(body)).await.map_err(Error::Status)?;
    ctx.written.lock().insert(subject.uid.clone(), status);
    Ok(())
}
