//! Turns what is due into reconciles, many clusters at a time and never one cluster twice.
//!
//! kube-runtime's `applier` rather than its `Controller`: the stores are shared with the control API, and a tenant's own
//! API may make its cluster due as well.

use crate::context::Context;
use crate::guard::Refused;
use crate::reconcile::error_chain;
use crate::reconcile::{Error, reconcile};
use crate::stores::Cluster;
use crate::stores::wake::Wake;
use futures::StreamExt as _;
use kube::Resource as _;
use kube::runtime::controller::{self, Action, applier};
use kube::runtime::reflector::{Lookup as _, ObjectRef};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// An invalid spec is looked at again so often: what makes it invalid may be the host (its nodes, its address ranges).
const INVALID: Duration = Duration::from_secs(300);
/// How often what is kept of vanished clusters is dropped.
const SWEEP: Duration = Duration::from_secs(60);

/// Reconciles until `stop`; what is under way then is finished. To be started when the stores are filled and the lease is
/// held.
pub async fn run(ctx: Arc<Context>, wake: Wake, stop: CancellationToken) {
    wake.clusters(ctx.stores.clusters.state().iter().map(|cluster| cluster.to_object_ref(())));
    let queue = wake.due().map(Ok::<_, Infallible>).take_until(stop.clone().cancelled_owned());
    let config = controller::Config::default().concurrency(ctx.config.concurrency);
    let reconciles = applier(
        |cluster, ctx| Box::pin(reconcile(cluster, ctx)),
        |cluster, error, ctx| error_policy(&cluster, error, &ctx),
        ctx.clone(),
        ctx.stores.clusters.clone(),
        Box::pin(queue),
        config,
    );
    let report = reconciles.for_each(|done| async {
        match done {
            // The error policy has seen to it; a cluster that has vanished needs nothing.
            Ok(_) | Err(controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_)) => {}
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "the controller has stumbled"),
        }
    });
    let sweep = async {
        loop {
            tokio::time::sleep(SWEEP).await;
            ctx.sweep();
        }
    };
    tokio::select! {
        () = report => {}
        never = sweep => never,
    }
}

fn error_policy(cluster: &Cluster, error: &Error, ctx: &Context) -> Action {
    let reference: ObjectRef<Cluster> = cluster.to_object_ref(());
    if error.is_lost_lease() {
        tracing::debug!(cluster = %reference, "{}", Refused::NotLeader);
        return Action::await_change();
    }
    if error.is_a_wait() {
        tracing::debug!(cluster = %reference, reason = error.reason(), "{}", error_chain(error));
        return Action::requeue(ctx.backoff.failed(reference));
    }
    ctx.metrics.failed(error.reason());
    tracing::warn!(cluster = %reference, reason = error.reason(), error = error_chain(error), "reconcile failed");
    if matches!(error, Error::Invalid(_)) {
        return Action::requeue(INVALID);
    }
    if error.waits_for_change() {
        // There is no status to write it to.
        ctx.events.warning(&cluster.object_ref(&()), error.reason(), &error_chain(error));
        return Action::await_change();
    }
    Action::requeue(ctx.backoff.failed(reference))
}
