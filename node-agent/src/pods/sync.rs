//! The workers, and the step that each takes for a pod: from both sides' view of it to what is done.

use super::error::PodsError;
use super::kubelet::Kubelet;
use super::names::PodKey;
use super::plan::{Plan, plan};
use super::record::Record;
use super::status::has_ended;
use super::volumes::leftovers;
use super::{follow, start, stop};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use nestling_runtime::backoff::Backoff;
use nestling_runtime::error::chain;
use nestling_runtime::queue::Queue;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Pods of one tenant that are worked on at the same time. Each may hold a connection to either API.
pub(crate) const WORKERS: usize = 16;
/// How long workers may finish what they began, after shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// Takes over what an earlier process of the agent left: copies that pods still need are kept up to date again, the rest
/// is deleted. Runs once both stores are full.
pub(crate) async fn adopt(kubelet: &Kubelet) {
    let mut pods = BTreeSet::new();
    for pod in kubelet.tenant.stores.tenant.state() {
        let Some(key) = PodKey::of_tenant(&pod) else { continue };
        let needs = kubelet.needs(&key, &pod);
        if !has_ended(&pod) {
            kubelet.hold(&key, &needs);
            pods.insert(key.uid);
        }
    }
    for key in kubelet.tenant.stores.host.state().iter().filter_map(|pod| PodKey::of_host(pod)) {
        // Also of a pod that the tenant does not have any more: its Secret goes with the host pod.
        kubelet.remember_secret(&key, kubelet.left_secret(&key));
        pods.insert(key.uid);
    }
    let copies = kubelet.copies.host_names();
    if let Err(error) = leftovers::delete_unneeded(&kubelet.tenant, &kubelet.leftovers, &copies, &pods).await {
        tracing::warn!(error = %chain(&error), "leftovers not deleted; the next start of the agent tries again");
    }
}

/// Works through the queue until `shutdown`, on at most `limit` pods at a time.
pub(crate) async fn run(kubelet: Arc<Kubelet>, limit: usize, shutdown: CancellationToken) {
    let mut workers = JoinSet::new();
    loop {
        while workers.len() >= limit {
            if let Some(outcome) = workers.join_next().await {
                ended(outcome);
            }
        }
        let Some(key) = shutdown.run_until_cancelled(kubelet.queue.next()).await else { break };
        while let Some(outcome) = workers.try_join_next() {
            ended(outcome);
        }
        let kubelet = kubelet.clone();
        let span = tracing::info_span!("pod", namespace = %key.namespace, pod = %key.name, uid = %key.uid);
        workers.spawn(async move { work(&kubelet, &key).await }.instrument(span));
    }
    let drained = async { while workers.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        workers.shutdown().await;
    }
}

fn ended(outcome: Result<(), JoinError>) {
    if let Err(error) = outcome {
        tracing::error!(%error, "a worker ended unexpectedly");
    }
}

async fn work(kubelet: &Kubelet, key: &PodKey) {
    // Also when the worker is dropped half-way: the key would never be handed out again.
    let _done = Done { queue: &kubelet.queue, key };
    match step(kubelet, key).await {
        Ok(next) => {
            if kubelet.records.get(key).failures > 0 {
                kubelet.records.update(key, |record| record.failures = 0);
            }
            if let Some(delay) = next {
                kubelet.queue.add_after(key.clone(), delay);
            }
        }
        Err(error) => {
            let failures = kubelet.records.update(key, |record| {
                record.failures = record.failures.saturating_add(1);
                record.failures
            });
            let delay = Backoff::write().after(failures);
            tracing::warn!(error = %chain(&error), failures, ?delay, "pod not synced, retrying");
            kubelet.queue.add_after(key.clone(), delay);
        }
    }
}

/// Gives a key back to the queue.
struct Done<'a> {
    queue: &'a Queue<PodKey>,
    key: &'a PodKey,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.queue.done(self.key);
    }
}

/// One step for one pod. Returns when to take the next without an event; events bring the pod back earlier.
pub(crate) async fn step(kubelet: &Kubelet, key: &PodKey) -> Result<Option<Duration>, PodsError> {
    let View { record, tenant, host, plan } = view(kubelet, key)?;
    tracing::debug!(?plan, "syncing");
    match (plan, tenant, host) {
        (Plan::Start, Some(tenant), _) => start::start(kubelet, key, &tenant).await,
        (Plan::AwaitHost, _, _) => start::await_host_pod(kubelet, key, &record).await,
        (Plan::Follow, Some(tenant), Some(host)) => follow::follow(kubelet, key, &tenant, &host).await,
        (Plan::Stopping, Some(tenant), Some(host)) => follow::write_status(kubelet, key, &tenant, &host).await.map(|()| None),
        (Plan::Stop { grace }, Some(tenant), Some(host)) => {
            stop::stop(kubelet, &host, grace).await?;
            follow::write_status(kubelet, key, &tenant, &host).await.map(|()| None)
        }
        (Plan::Finish, Some(tenant), _) => stop::finish(kubelet, key, &tenant, &record).await,
        (Plan::Disrupt, Some(tenant), _) => stop::disrupt(kubelet, key, &tenant, &record).await,
        (Plan::Ended, _, _) => kubelet.release(key).await.map(|()| None),
        (Plan::Kill { grace }, _, Some(host)) => stop::kill(kubelet, key, &host, grace, &record).await,
        (Plan::Forget, _, _) => stop::forget(kubelet, key).await.map(|()| None),
        // Waiting for a watch event; the other combinations cannot come of `plan`.
        _ => Ok(None),
    }
}

/// One pod on both sides, and its next step.
pub(crate) struct View {
    record: Record,
    tenant: Option<Arc<Pod>>,
    host: Option<Arc<Pod>>,
    pub(crate) plan: Plan,
}

/// What is known of a pod now, and what follows from it. The record is read before the stores: see
/// [`super::watch::Watches::take_host_event`].
pub(crate) fn view(kubelet: &Kubelet, key: &PodKey) -> Result<View, PodsError> {
    let record = kubelet.records.get(key);
    let tenant = kubelet.tenant_pod(key, &record);
    let host = kubelet.host_pod(key)?;
    let started = tenant.as_ref().is_some_and(|pod| has_started(pod, kubelet.tenant.spec.resumed_at));
    let plan = plan(tenant.as_deref(), host.as_deref(), record.deleted.as_deref(), record.known(started));
    Ok(View { record, tenant, host, plan })
}

/// Whether the pod has had a host pod: only such a pod has a start time. One that ran before the cluster hibernated starts
/// again, as after a reboot of its node, unless it is never to be restarted.
fn has_started(pod: &Pod, resumed_at: Option<Timestamp>) -> bool {
    let Some(start) = pod.status.as_ref().and_then(|status| status.start_time.as_ref()) else { return false };
    let may_restart = pod.spec.as_ref().is_some_and(|spec| spec.restart_policy.as_deref() != Some("Never"));
    !(may_restart && resumed_at.is_some_and(|resumed_at| start.0 < resumed_at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    #[rstest]
    #[case::new(json!({}), None, false)]
    #[case::running(json!({"startTime": "2026-01-01T00:00:00Z"}), None, true)]
    #[case::before_hibernation(json!({"startTime": "2026-01-01T00:00:00Z"}), Some("2026-01-01T00:00:01Z"), false)]
    #[case::after_hibernation(json!({"startTime": "2026-01-01T00:00:00Z"}), Some("2025-12-31T00:00:00Z"), true)]
    fn pods_that_ran_before_hibernation_start_again(#[case] status: Value, #[case] resumed_at: Option<&str>, #[case] expected: bool) {
        let resumed_at = resumed_at.map(|time| time.parse().unwrap());
        let pod =
            |policy: &str| serde_json::from_value(json!({"spec": {"containers": [], "restartPolicy": policy}, "status": status})).unwrap();
        for policy in ["Always", "OnFailure"] {
            assert_eq!(has_started(&pod(policy), resumed_at), expected);
        }
        let has_a_start_time = status.get("startTime").is_some();
        assert_eq!(has_started(&pod("Never"), resumed_at), has_a_start_time);
    }
}
