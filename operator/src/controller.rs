//! Reconciles the clusters in the queue, many at a time and each by one reconcile at a time.
//!
//! kube-runtime's `applier` rather than its `Controller`: the stores are shared with the control API, and changes in a
//! tenant's own API make its cluster due as well.

use crate::host::Cluster;
use crate::host::client::Refused;
use crate::reconcile::{Error, reconcile};
use crate::state::Context;
use futures::StreamExt as _;
use kube::Resource as _;
use kube::runtime::controller::{self, Action, applier};
use kube::runtime::events::EventType;
use kube::runtime::reflector::{Lookup as _, ObjectRef};
use nestling_runtime::error::chain;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause before an invalid spec is validated again: the reason may be the host (its nodes, its address ranges).
const INVALID: Duration = Duration::from_secs(300);

/// Reconciles until shutdown, then finishes what is under way. To be started when the stores are filled and the lease is
/// held.
pub(crate) async fn run(ctx: Arc<Context>, shutdown: CancellationToken) {
    ctx.queue.extend(ctx.stores.clusters.state().iter().map(|cluster| cluster.to_object_ref(())));
    let queue = ctx.queue.stream().map(Ok::<_, Infallible>).take_until(shutdown.cancelled_owned());
    let config = controller::Config::default().concurrency(ctx.config.concurrency);
    let reconciles = applier(
        |cluster, ctx| Box::pin(reconcile(cluster, ctx)),
        |cluster, error, ctx| error_policy(&cluster, error, &ctx),
        ctx.clone(),
        ctx.stores.clusters.clone(),
        Box::pin(queue),
        config,
    );
    let results = reconciles.for_each(|result| async {
        match result {
            // Handled by the error policy; a deleted cluster needs nothing.
            Ok(_) | Err(controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_)) => {}
            Err(error) => tracing::error!(error = chain(&error), "controller queue error"),
        }
    });
    results.await;
}

/// When a failed cluster is reconciled again, after its failure was reported.
fn error_policy(cluster: &Cluster, error: &Error, ctx: &Context) -> Action {
    let reference: ObjectRef<Cluster> = cluster.to_object_ref(());
    if error.is_lost_lease() {
        tracing::debug!(cluster = %reference, "{}", Refused::NotLeader);
        return Action::await_change();
    }
    if error.is_a_wait() {
        tracing::debug!(cluster = %reference, reason = error.reason(), "{}", chain(error));
        return Action::requeue(ctx.backoff.failed(reference));
    }
    ctx.metrics.failed(error.reason());
    tracing::warn!(cluster = %reference, reason = error.reason(), error = chain(error), "reconcile failed");
    if matches!(error, Error::Invalid(_)) {
        return Action::requeue(INVALID);
    }
    if error.waits_for_change() {
        // The status cannot be written either.
        ctx.events.send(EventType::Warning, &cluster.object_ref(&()), error.reason(), &chain(error));
        return Action::await_change();
    }
    Action::requeue(ctx.backoff.failed(reference))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::ApplyError;
    use crate::host::Stores;
    use crate::reconcile::subject::DecodeError;
    use crate::state::testing::context;
    use nestling_runtime::testing::ApiServer;
    use serde_json::json;

    #[tokio::test]
    async fn each_failure_has_its_pause() {
        let ctx = context(&ApiServer::new().client(), Stores::new().0);
        let object = json!({
            "apiVersion": "nestling.dev/v1alpha1", "kind": "VirtualCluster",
            "metadata": {"namespace": "team", "name": "dev", "uid": "vc-1"}, "spec": {},
        });
        let cluster: Cluster = serde_json::from_value(object).unwrap();
        let policy = |error: &Error| error_policy(&cluster, error, &ctx);
        let lost = Error::Status(kube::Error::Service(Refused::NotLeader.into()));
        assert_eq!(policy(&lost), Action::await_change());
        assert_eq!(policy(&Error::DecodeFailed(DecodeError("topology: unknown variant".into()))), Action::await_change());
        assert_eq!(policy(&Error::Invalid(Vec::new())), Action::requeue(INVALID));
        // The first of the clusters' own pauses: none of the above counts as a failure.
        let waiting = Error::Apply(ApplyError::Terminating { object: "ConfigMap dev".into() });
        assert_eq!(policy(&waiting), Action::requeue(Duration::from_secs(1)));
        assert_eq!(policy(&Error::NoAddress), Action::requeue(Duration::from_secs(2)));
        ctx.backoff.succeeded(&cluster.to_object_ref(()));
        assert_eq!(policy(&Error::NoAddress), Action::requeue(Duration::from_secs(1)));
    }
}
