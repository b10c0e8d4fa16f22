//! One `VirtualCluster` from what it asks for to what it is, in five steps:
//!
//! | step | module | IO | result |
//! | --- | --- | --- | --- |
//! | dereference | [`mod@dereference`] | stores, Secrets | what the world is like |
//! | validate | [`validate`] | none | a [`crate::model::ValidatedCluster`], past which nothing can be invalid |
//! | build | [`build`] | none | every object as it should be |
//! | apply | [`mod@apply`] | host API | the objects as they are; then the add-ons in the tenant |
//! | status | [`status`] | none, then one write | what people see |
//!
//! [`cleanup`] is the way back: what owner references cannot remove. Whatever fails, the status says so.

pub(crate) mod apply;
pub(crate) mod build;
pub(crate) mod cleanup;
pub(crate) mod dereference;
mod error;
pub(crate) mod status;
pub(crate) mod subject;
pub(crate) mod validate;

pub(crate) use error::Error;

use crate::host::Cluster;
use crate::state::Context;
use jiff::Timestamp;
use kube::runtime::controller::Action;
use status::{Outcome, Progress};
use std::sync::Arc;
use std::time::Duration;
use subject::Subject;

/// A reconcile that takes longer is given up and tried again: every call has its own time-out, but there are many.
const LIMIT: Duration = Duration::from_secs(120);
/// A cluster on its way is looked at again after so long, should a watch have missed something.
const ON_THE_WAY: Duration = Duration::from_secs(15);

/// Brings one cluster as far as it gets now.
pub(crate) async fn reconcile(cluster: Arc<Cluster>, ctx: Arc<Context>) -> Result<Action, Error> {
    let _measure = ctx.metrics.measure();
    let subject = Subject::new(&cluster, &ctx)?;
    let result = match tokio::time::timeout(LIMIT, Box::pin(turn(&subject, &ctx))).await {
        Ok(result) => result,
        Err(_) => Err(Error::ReconcileTimeout(LIMIT)),
    };
    if result.is_ok() {
        ctx.backoff.succeeded(&subject.reference);
    }
    result
}

async fn turn(subject: &Subject, ctx: &Context) -> Result<Action, Error> {
    if subject.is_deleting() {
        return cleanup::clean_up(subject, ctx).await;
    }
    if subject.vc.spec.paused {
        status::write(subject, &Outcome::Paused, ctx).await?;
        return Ok(Action::await_change());
    }
    cleanup::ensure_finalizer(subject, ctx).await?;
    match Box::pin(steps(subject, ctx)).await {
        Ok(progress) => {
            let at_rest = status::write(subject, &Outcome::Built(&progress), ctx).await?;
            let at_rest = at_rest && progress.cluster.version_change.is_none();
            progress.inside?;
            Ok(Action::requeue(next_look(at_rest, progress.renew_at, ctx)))
        }
        Err(error) => {
            // What went wrong matters more than that it could not be written down.
            if let Err(unwritten) = status::write(subject, &Outcome::Failed(&error), ctx).await {
                tracing::warn!(cluster = %subject.reference, error = &unwritten as &dyn std::error::Error, "cannot write the status");
            }
            Err(error)
        }
    }
}

async fn steps(subject: &Subject, ctx: &Context) -> Result<Progress, Error> {
    let reads = dereference::dereference(subject, ctx).await?;
    let cluster = validate::validate(&subject.vc, &reads, &ctx.config).map_err(Error::Invalid);
    let cluster = cluster.inspect_err(|_| ctx.state.keep_version(&subject.uid))?;
    status::claim(subject, &cluster, ctx).await?;
    let host = apply::apply(&cluster, &reads, ctx).await?;
    let (observation, inside) = apply::apply_addons(subject, &cluster, &host, ctx).await?;
    let pods = apply::pods(&cluster, &ctx.stores);
    Ok(Progress { renew_at: host.pki.renew_at, cluster, host, pods, observation, inside: inside.map_err(Error::Tenant) })
}

/// When a cluster is looked at again if nothing changes.
fn next_look(at_rest: bool, renew_at: Timestamp, ctx: &Context) -> Duration {
    let resync = if at_rest { ctx.config.resync.unsigned_abs() } else { ON_THE_WAY };
    let renewal = Duration::try_from(renew_at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
    resync.min(renewal).max(Duration::from_secs(1))
}
