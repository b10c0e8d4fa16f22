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
//! Before the first step, [`access`] gives the operator its rights in the cluster's namespace. A cluster that is paused, invalid or
//! failing is not changed, but it goes on: it is observed, its certificates are renewed ([`mod@apply`]), and the status says what
//! is. [`cleanup`] is the way back: what owner references cannot remove. [`retained`] is the data that outlives a cluster. All
//! three know no more of it than its identity.

mod access;
pub(crate) mod apply;
pub(crate) mod build;
mod cleanup;
pub(crate) mod dereference;
mod error;
mod retained;
mod status;
pub(crate) mod subject;
pub(crate) mod validate;

pub(crate) use error::Error;

use crate::etcd;
use crate::host::Cluster;
use crate::model::metadata::component;
use crate::state::Context;
use crate::tenant::observe::Observation;
use jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource as _, ResourceExt as _};
use nestling_crds::labels;
use nestling_runtime::error::chain;
use status::{Observed, ObservedEtcd, Outcome, Progress};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use subject::{Identity, Subject};
use validate::Invalid;

/// Steps that take longer are given up and tried again: every call has its own time-out, but there are many.
const LIMIT: Duration = Duration::from_secs(120);
/// The same for what goes on when the steps have failed.
const UPKEEP: Duration = Duration::from_secs(60);
/// A cluster on its way is looked at again after so long, should a watch have missed something.
const ON_THE_WAY: Duration = Duration::from_secs(15);

/// Brings one cluster as far as it gets now.
pub(crate) async fn reconcile(cluster: Arc<Cluster>, ctx: Arc<Context>) -> Result<Action, Error> {
    let _measure = ctx.metrics.measure();
    let (id, subject) = subject::read(&cluster, &ctx)?;
    let result = if cluster.meta().deletion_timestamp.is_some() {
        let refused = refuse_namespace(&id, &ctx).is_err();
        within(LIMIT, Box::pin(cleanup::clean_up(&id, subject.as_ref().ok(), refused, &ctx))).await
    } else {
        Box::pin(turn(&subject?, &ctx)).await
    };
    if result.is_ok() {
        ctx.backoff.succeeded(&id.reference);
    }
    result
}

/// Boxed, as every step is: together their futures are larger than the stack of a thread bears.
async fn within<T>(limit: Duration, future: Pin<Box<dyn Future<Output = Result<T, Error>> + Send + '_>>) -> Result<T, Error> {
    match tokio::time::timeout(limit, future).await {
        Ok(result) => result,
        Err(_) => Err(Error::ReconcileTimeout(limit)),
    }
}

async fn turn(subject: &Subject, ctx: &Context) -> Result<Action, Error> {
    if subject.vc.spec.paused {
        etcd::keep::stop(&subject.id.uid, &ctx.state);
        let (observed, renew_at) = upkeep(subject, ctx).await;
        status::write(subject, &Outcome::Paused(&observed), ctx).await?;
        return Ok(Action::requeue(next_look(true, renew_at, ctx)));
    }
    match within(LIMIT, Box::pin(steps(subject, ctx))).await {
        Ok(progress) => {
            let at_rest = status::write(subject, &Outcome::Built(&progress), ctx).await?;
            // What failed inside the tenant is tried again there: it must not occupy reconciles.
            let at_rest = at_rest && progress.cluster.version_change.is_none() && progress.inside.is_ok();
            Ok(Action::requeue(next_look(at_rest, progress.renew_at, ctx)))
        }
        Err(error) => {
            let (observed, _) = upkeep(subject, ctx).await;
            // What went wrong matters more than that it could not be written down.
            if let Err(unwritten) = status::write(subject, &Outcome::Failed(&error, &observed), ctx).await {
                tracing::warn!(cluster = %subject.id.reference, error = chain(&unwritten), "cannot write the status");
            }
            Err(error)
        }
    }
}

async fn steps(subject: &Subject, ctx: &Context) -> Result<Progress, Error> {
    refuse_namespace(&subject.id, ctx)?;
    cleanup::ensure_finalizer(subject, ctx).await?;
    access::grant(&subject.id, ctx).await?;
    let reads = Box::pin(dereference::dereference(subject, ctx)).await?;
    let cluster = validate::validate(&subject.vc, &reads, &ctx.config).map_err(Error::Invalid);
    let cluster = cluster.inspect_err(|_| ctx.state.keep_version(&subject.id.uid))?;
    status::claim(subject, &cluster, ctx).await?;
    let host = Box::pin(apply::apply(&cluster, &reads, ctx)).await?;
    let places = dereference::places(subject);
    let is_lost = places.is_lost(cluster.membership, &ctx.stores);
    let target = apply::members(&cluster, &host, places);
    let (inside, failure) = if cluster.hibernate {
        etcd::keep::stop(&subject.id.uid, &ctx.state);
        ctx.state.disconnect(&subject.id.uid);
        (Observation::default(), None)
    } else {
        etcd::keep::settle(&target, cluster.membership, &ctx.host, &ctx.state).await.map_err(Error::Members)?;
        etcd::keep::keep(&cluster.uid, target, cluster.membership, ctx);
        apply::apply_addons(subject, &cluster, &host, ctx)?
    };
    let etcd = ObservedEtcd { is_lost, ..ObservedEtcd::of(&cluster.uid, cluster.members, cluster.membership.slots, &ctx.state) };
    let observed = Observed::applied(&cluster, &host, inside, etcd, &ctx.stores);
    let inside = failure.map_or(Ok(()), |failure| Err(Error::Tenant(failure)));
    Ok(Progress { renew_at: host.pki.renew_at, cluster, host, observed, inside })
}

/// Namespaces that the system itself uses, beside that of the installation: the operator may not write there.
const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// No control plane belongs in a workload namespace: agents may create pods there, and so mount what is in it. Nor in those of
/// Kubernetes and of the installation, whose Secrets are not for the owners of a cluster; the host refuses the operator's
/// writes to them.
fn refuse_namespace(id: &Identity, ctx: &Context) -> Result<(), Error> {
    let live = ctx.stores.namespaces.get(&ObjectRef::new(&id.namespace));
    let is_workload = live.is_some_and(|live| live.labels().get(labels::COMPONENT).is_some_and(|value| value == component::WORKLOAD));
    let message = if is_workload {
        "is the workload namespace of another cluster: create the VirtualCluster in a namespace of your own"
    } else if SYSTEM_NAMESPACES.contains(&id.namespace.as_str()) {
        "belongs to Kubernetes: create the VirtualCluster in a namespace of your own"
    } else if id.namespace == ctx.config.namespace {
        "is the namespace of the installation: create the VirtualCluster in a namespace of your own"
    } else {
        return Ok(());
    };
    Err(Error::Invalid(vec![Invalid { field: "metadata.namespace".into(), message: message.into() }]))
}

/// What goes on whatever the spec says: what runs is observed, and its certificates are renewed for what they say already.
/// Returns when the next one is due.
async fn upkeep(subject: &Subject, ctx: &Context) -> (Observed, Timestamp) {
    let warn = |error: &Error, what| {
        if !error.is_lost_lease() {
            tracing::warn!(cluster = %subject.id.reference, error = chain(error), "{what}; retrying with the next reconcile");
        }
    };
    let work = async {
        if refuse_namespace(&subject.id, ctx).is_ok()
            && let Err(error) = Box::pin(access::grant(&subject.id, ctx)).await
        {
            // What is known already can still be used.
            warn(&error, "cannot get the rights in the cluster's namespace");
        }
        let renewed = Box::pin(apply::renew(&subject.id, ctx)).await;
        let inside = Box::pin(apply::observe(&subject.id, ctx)).await;
        Ok((renewed, inside))
    };
    let (renewed, inside) = match within(UPKEEP, Box::pin(work)).await {
        Ok(done) => done,
        Err(timeout) => (Err(timeout), Ok(None)),
    };
    let inside = inside.unwrap_or_else(|error| {
        warn(&error, "cannot observe the tenant");
        None
    });
    let renew_at = renewed.unwrap_or_else(|error| {
        warn(&error, "cannot renew the tenant's certificates");
        Timestamp::now() + ON_THE_WAY
    });
    (Observed::stored(subject, inside, &ctx.state), renew_at)
}

/// When a cluster is looked at again if nothing changes.
fn next_look(at_rest: bool, renew_at: Timestamp, ctx: &Context) -> Duration {
    let resync = if at_rest { ctx.config.resync.unsigned_abs() } else { ON_THE_WAY };
    let renewal = Duration::try_from(renew_at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
    resync.min(renewal).max(Duration::from_secs(1))
}

#[cfg(test)]
mod tests;
