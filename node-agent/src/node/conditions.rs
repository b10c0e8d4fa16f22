//! Node conditions: those that a kubelet owns, mirrored from the host node, because they are true of the machine for
//! every tenant alike. Conditions of other owners (`NetworkUnavailable`, problem detectors) are not ours to write.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// In the order in which a kubelet writes them: Ready last, since others act on it.
const MIRRORED: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

pub(super) fn of(host: &NodeStatus, existing: &NodeStatus, now: Timestamp) -> Vec<NodeCondition> {
    MIRRORED
        .iter()
        .map(|kind| {
            let mut condition = find(host, kind).cloned().unwrap_or_else(|| unknown_on_host(kind));
            let old = find(existing, kind).filter(|old| old.status == condition.status);
            condition.last_heartbeat_time = Some(Time(now));
            condition.last_transition_time = old.and_then(|old| old.last_transition_time.clone()).or(Some(Time(now)));
            condition
        })
        .collect()
}

/// Whether `existing` already says all of `desired`, heartbeats aside.
pub(super) fn say_the_same(desired: &[NodeCondition], existing: &NodeStatus) -> bool {
    let meaning = |c: &NodeCondition| (c.status.clone(), c.reason.clone(), c.message.clone());
    desired.iter().all(|new| find(existing, &new.type_).is_some_and(|old| meaning(old) == meaning(new)))
}

fn find<'a>(status: &'a NodeStatus, kind: &str) -> Option<&'a NodeCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// A host that has not said yet is not ready, and under no pressure that is known of.
fn unknown_on_host(kind: &str) -> NodeCondition {
    let (status, reason) = if kind == "Ready" { ("False", "KubeletNotReady") } else { ("False", "HostHasNotReported") };
    NodeCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some("the host node has not reported this condition".into()),
        ..NodeCondition::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::fixture::host_node;
    use std::time::Duration;

    fn host_status() -> NodeStatus {
        host_node().status.unwrap()
    }

    #[test]
    fn ready_comes_last_and_foreign_conditions_are_left_out() {
        let conditions = of(&host_status(), &NodeStatus::default(), Timestamp::UNIX_EPOCH);
        let kinds: Vec<&str> = conditions.iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(kinds, MIRRORED);
        assert_eq!((conditions[3].status.as_str(), conditions[3].reason.as_deref()), ("True", Some("KubeletReady")));
    }

    #[test]
    fn transition_times_stay_until_the_status_changes() {
        let (start, later) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH + Duration::from_secs(60));
        let existing = NodeStatus { conditions: Some(of(&host_status(), &NodeStatus::default(), start)), ..NodeStatus::default() };
        let mut host = host_status();
        let same = of(&host, &existing, later);
        assert!(say_the_same(&same, &existing));
        assert_eq!(same[3].last_transition_time, Some(Time(start)));
        assert_eq!(same[3].last_heartbeat_time, Some(Time(later)));

        let ready = host.conditions.as_mut().unwrap().iter_mut().find(|c| c.type_ == "Ready").unwrap();
        ready.status = "Unknown".into();
        let changed = of(&host, &existing, later);
        assert!(!say_the_same(&changed, &existing));
        assert_eq!(changed[3].last_transition_time, Some(Time(later)));
    }

    #[test]
    fn a_silent_host_is_not_ready() {
        let conditions = of(&NodeStatus::default(), &NodeStatus::default(), Timestamp::UNIX_EPOCH);
        assert_eq!((conditions[3].type_.as_str(), conditions[3].status.as_str()), ("Ready", "False"));
    }
}
