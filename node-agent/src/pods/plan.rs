//! What to do for a pod, decided from both sides' view of it. Pure.

use super::status::has_ended;
use k8s_openapi::api::core::v1::Pod;

/// Grace of a host pod whose tenant pod was deleted by force: the least that still lets the host's kubelet stop the
/// containers while the pod object, and with it the knowledge of them, is there.
const FORCED_GRACE: i64 = 1;

/// What the agent knows of a pod's host pod beside the stores, which may lag behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// No host pod was ever created, as far as is known.
    Never,
    /// A host pod was created and the watch has not delivered it yet.
    Created,
    /// There was a host pod.
    Existed,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Both pods are gone: clean up and forget.
    Forget,
    /// Create the host pod.
    Start,
    /// The host pod was created; its watch event will come.
    AwaitHost,
    /// Apply changes of the tenant pod to the host pod and write the status back.
    Follow,
    /// The host pod is gone although the tenant pod should run: fail the tenant pod, never create another.
    Disrupt,
    /// The pod has ended and its host pod is gone; the tenant keeps the object.
    Ended,
    /// The tenant deletes the pod: delete the host pod with this grace, in seconds.
    Stop { grace: i64 },
    /// The host pod is being deleted: write its status back.
    Stopping,
    /// The containers are gone: write the last status and delete the tenant pod for good.
    Finish,
    /// The tenant pod is deleted for good but for finalizers of others.
    AwaitFinalizers,
    /// The tenant pod is gone: delete the host pod with this grace, in seconds.
    Kill { grace: i64 },
    /// The tenant pod is gone and the host pod is being deleted.
    AwaitKill,
}

/// Decides for a pod. `deleted` is the tenant pod as its Delete event had it.
pub(crate) fn plan(tenant: Option<&Pod>, host: Option<&Pod>, deleted: Option<&Pod>, known: Known) -> Plan {
    match (tenant, host) {
        (_, None) if known == Known::Created => Plan::AwaitHost,
        (None, None) => Plan::Forget,
        (None, Some(host)) => {
            let grace = deleted.map_or(FORCED_GRACE, grace);
            if needs_stop(host, grace) { Plan::Kill { grace } } else { Plan::AwaitKill }
        }
        (Some(tenant), Some(host)) if tenant.metadata.deletion_timestamp.is_some() => {
            let grace = grace(tenant);
            if needs_stop(host, grace) { Plan::Stop { grace } } else { Plan::Stopping }
        }
        (Some(_), Some(_)) => Plan::Follow,
        (Some(tenant), None) if tenant.metadata.deletion_timestamp.is_some() => {
            // Deleted for good already; a second deletion would change nothing.
            if tenant.metadata.deletion_grace_period_seconds == Some(0) { Plan::AwaitFinalizers } else { Plan::Finish }
        }
        (Some(tenant), None) if has_ended(tenant) => Plan::Ended,
        (Some(_), None) if known == Known::Existed => Plan::Disrupt,
        (Some(_), None) => Plan::Start,
    }
}

/// The grace of a pod that is being deleted, in full as a kubelet gives it: what remains by the clock would be wrong by the
/// difference between two machines' clocks.
fn grace(tenant: &Pod) -> i64 {
    let requested = tenant.metadata.deletion_grace_period_seconds;
    let own = tenant.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    requested.or(own).unwrap_or(FORCED_GRACE).max(FORCED_GRACE)
}

/// A second deletion may shorten the grace, never lengthen it.
fn needs_stop(host: &Pod, grace: i64) -> bool {
    let meta = &host.metadata;
    meta.deletion_timestamp.is_none() || meta.deletion_grace_period_seconds.is_some_and(|current| current > grace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn pod(metadata: Value, phase: &str) -> Pod {
        let mut pod = json!({"spec": {"containers": [], "terminationGracePeriodSeconds": 30}, "status": {"phase": phase}});
        pod["metadata"] = metadata;
        serde_json::from_value(pod).unwrap()
    }

    fn running() -> Pod {
        pod(json!({}), "Running")
    }

    fn deleting(grace: i64) -> Pod {
        pod(json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace}), "Running")
    }

    #[rstest]
    #[case::fresh(Some(pod(json!({}), "Pending")), None, Known::Never, Plan::Start)]
    #[case::created_not_observed(Some(pod(json!({}), "Pending")), None, Known::Created, Plan::AwaitHost)]
    #[case::running(Some(running()), Some(running()), Known::Existed, Plan::Follow)]
    #[case::host_leaves(Some(running()), Some(deleting(30)), Known::Existed, Plan::Follow)]
    #[case::vanished(Some(running()), None, Known::Existed, Plan::Disrupt)]
    #[case::done(Some(pod(json!({}), "Succeeded")), None, Known::Existed, Plan::Ended)]
    #[case::done_never_created_again(Some(pod(json!({}), "Failed")), None, Known::Never, Plan::Ended)]
    #[case::deleted(Some(deleting(30)), Some(running()), Known::Existed, Plan::Stop { grace: 30 })]
    #[case::stopping(Some(deleting(30)), Some(deleting(30)), Known::Existed, Plan::Stopping)]
    #[case::grace_shortened(Some(deleting(5)), Some(deleting(30)), Known::Existed, Plan::Stop { grace: 5 })]
    #[case::grace_not_lengthened(Some(deleting(60)), Some(deleting(30)), Known::Existed, Plan::Stopping)]
    #[case::forced_with_finalizer(Some(deleting(0)), Some(running()), Known::Existed, Plan::Stop { grace: 1 })]
    #[case::stopped(Some(deleting(30)), None, Known::Existed, Plan::Finish)]
    #[case::deleted_before_created(Some(deleting(30)), None, Known::Never, Plan::Finish)]
    #[case::deleted_while_created(Some(deleting(30)), None, Known::Created, Plan::AwaitHost)]
    #[case::finalizers(Some(deleting(0)), None, Known::Existed, Plan::AwaitFinalizers)]
    #[case::gone(None, None, Known::Existed, Plan::Forget)]
    #[case::gone_while_created(None, None, Known::Created, Plan::AwaitHost)]
    #[case::orphan(None, Some(running()), Known::Existed, Plan::Kill { grace: 1 })]
    #[case::orphan_stopping(None, Some(deleting(1)), Known::Existed, Plan::AwaitKill)]
    fn each_situation_has_one_plan(#[case] tenant: Option<Pod>, #[case] host: Option<Pod>, #[case] known: Known, #[case] expected: Plan) {
        assert_eq!(plan(tenant.as_ref(), host.as_ref(), None, known), expected);
    }

    #[test]
    fn a_deleted_pod_is_killed_with_the_grace_of_its_deletion() {
        assert_eq!(plan(None, Some(&running()), Some(&deleting(0)), Known::Existed), Plan::Kill { grace: 1 });
        assert_eq!(plan(None, Some(&deleting(30)), Some(&deleting(0)), Known::Existed), Plan::Kill { grace: 1 });
        assert_eq!(plan(None, Some(&running()), Some(&deleting(20)), Known::Existed), Plan::Kill { grace: 20 });
    }
}
