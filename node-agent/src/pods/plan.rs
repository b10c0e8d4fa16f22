//! What to do for a pod, decided from both sides' view of it. Pure.

use super::status::is_terminal;
use k8s_openapi::api::core::v1::Pod;

/// Grace of a host pod whose tenant pod was removed by force: the least that still lets the host's kubelet stop the
/// containers while the pod object, and with it the knowledge of them, is there.
const FORCED_GRACE: i64 = 1;

/// What the agent knows of a pod's realization beside the stores, which may lag behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// No host pod was ever made, as far as can be known.
    Never,
    /// A host pod was made and the watch has not shown it yet.
    Made,
    /// There was a host pod.
    Existed,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Both pods are gone: clean up and forget.
    Forget,
    /// Make the host pod.
    Realize,
    /// The host pod was made; its watch event will come.
    AwaitHost,
    /// Carry changes of the tenant pod over and mirror the status back.
    Mirror,
    /// The host pod vanished from under a tenant pod that was to run: fail the tenant pod, never make another.
    Disrupt,
    /// Nothing runs and nothing is to run; the tenant keeps the object of an ended pod.
    Ended,
    /// The tenant deletes the pod: stop the host pod with this grace, in seconds.
    Stop { grace: i64 },
    /// The host pod is being stopped: mirror how it goes.
    Stopping,
    /// The containers are gone: write the last status and remove the tenant pod.
    Finish,
    /// The tenant pod is removed but for finalizers of others.
    AwaitTenant,
    /// The tenant pod is gone: stop the host pod with this grace, in seconds.
    Kill { grace: i64 },
    /// The tenant pod is gone and the host pod is being stopped.
    AwaitKill,
}

/// Decides for a pod. `departed` is the tenant pod as it was when its removal was seen.
pub fn plan(tenant: Option<&Pod>, host: Option<&Pod>, departed: Option<&Pod>, known: Known) -> Plan {
    match (tenant, host) {
        (_, None) if known == Known::Made => Plan::AwaitHost,
        (None, None) => Plan::Forget,
        (None, Some(host)) => {
            let grace = departed.map_or(FORCED_GRACE, grace);
            if needs_stop(host, grace) { Plan::Kill { grace } } else { Plan::AwaitKill }
        }
        (Some(tenant), Some(host)) if tenant.metadata.deletion_timestamp.is_some() => {
            let grace = grace(tenant);
            if needs_stop(host, grace) { Plan::Stop { grace } } else { Plan::Stopping }
        }
        (Some(_), Some(_)) => Plan::Mirror,
        (Some(tenant), None) if tenant.metadata.deletion_timestamp.is_some() => {
            // Removed for good already; a second removal would change nothing.
            if tenant.metadata.deletion_grace_period_seconds == Some(0) { Plan::AwaitTenant } else { Plan::Finish }
        }
        (Some(tenant), None) if is_terminal(tenant.status.as_ref().and_then(|status| status.phase.as_ref())) => Plan::Ended,
        (Some(_), None) if known == Known::Existed => Plan::Disrupt,
        (Some(_), None) => Plan::Realize,
    }
}

/// The grace of a pod that is being deleted, in full as a kubelet gives it: what remains by the clock would be wrong by the
/// difference between two machines' clocks.
fn grace(tenant: &Pod) -> i64 {
    let asked = tenant.metadata.deletion_grace_period_seconds;
    let own = tenant.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    asked.or(own).unwrap_or(FORCED_GRACE).max(FORCED_GRACE)
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
    #[case::fresh(Some(pod(json!({}), "Pending")), None, Known::Never, Plan::Realize)]
    #[case::made_not_seen(Some(pod(json!({}), "Pending")), None, Known::Made, Plan::AwaitHost)]
    #[case::running(Some(running()), Some(running()), Known::Existed, Plan::Mirror)]
    #[case::host_leaves(Some(running()), Some(deleting(30)), Known::Existed, Plan::Mirror)]
    #[case::vanished(Some(running()), None, Known::Existed, Plan::Disrupt)]
    #[case::done(Some(pod(json!({}), "Succeeded")), None, Known::Existed, Plan::Ended)]
    #[case::done_never_remade(Some(pod(json!({}), "Failed")), None, Known::Never, Plan::Ended)]
    #[case::deleted(Some(deleting(30)), Some(running()), Known::Existed, Plan::Stop { grace: 30 })]
    #[case::stopping(Some(deleting(30)), Some(deleting(30)), Known::Existed, Plan::Stopping)]
    #[case::grace_shortened(Some(deleting(5)), Some(deleting(30)), Known::Existed, Plan::Stop { grace: 5 })]
    #[case::grace_not_lengthened(Some(deleting(60)), Some(deleting(30)), Known::Existed, Plan::Stopping)]
    #[case::forced_with_finalizer(Some(deleting(0)), Some(running()), Known::Existed, Plan::Stop { grace: 1 })]
    #[case::stopped(Some(deleting(30)), None, Known::Existed, Plan::Finish)]
    #[case::deleted_before_made(Some(deleting(30)), None, Known::Never, Plan::Finish)]
    #[case::deleted_while_made(Some(deleting(30)), None, Known::Made, Plan::AwaitHost)]
    #[case::finalizers(Some(deleting(0)), None, Known::Existed, Plan::AwaitTenant)]
    #[case::gone(None, None, Known::Existed, Plan::Forget)]
    #[case::gone_while_made(None, None, Known::Made, Plan::AwaitHost)]
    #[case::orphan(None, Some(running()), Known::Existed, Plan::Kill { grace: 1 })]
    #[case::orphan_stopping(None, Some(deleting(1)), Known::Existed, Plan::AwaitKill)]
    fn each_situation_has_one_plan(#[case] tenant: Option<Pod>, #[case] host: Option<Pod>, #[case] known: Known, #[case] expected: Plan) {
        assert_eq!(plan(tenant.as_ref(), host.as_ref(), None, known), expected);
    }

    #[test]
    fn a_departed_pod_is_killed_with_the_grace_it_was_removed_with() {
        assert_eq!(plan(None, Some(&running()), Some(&deleting(0)), Known::Existed), Plan::Kill { grace: 1 });
        assert_eq!(plan(None, Some(&deleting(30)), Some(&deleting(0)), Known::Existed), Plan::Kill { grace: 1 });
        assert_eq!(plan(None, Some(&running()), Some(&deleting(20)), Known::Existed), Plan::Kill { grace: 20 });
    }
}
