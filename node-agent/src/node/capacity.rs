//! What of the host node's resources the tenant sees.
//!
//! Merged, never replaced: a resource that somebody else has put into the tenant's Node status (an extended resource) stays,
//! and is allocatable as a whole, as the kubelet has it.

use super::quantity::nanos;
use k8s_openapi::api::core::v1::NodeStatus;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

pub(super) type Resources = BTreeMap<String, Quantity>;

/// Capacity and allocatable of the tenant's Node.
pub(super) fn of(host: &NodeStatus, caps: &BTreeMap<String, String>, existing: &NodeStatus) -> (Resources, Resources) {
    let ours = capped(host.capacity.as_ref(), caps);
    let mut allocatable = capped(host.allocatable.as_ref(), caps);
    let mut capacity = existing.capacity.clone().unwrap_or_default();
    capacity.retain(|name, _| !ours.contains_key(name));
    allocatable.extend(capacity.iter().map(|(name, value)| (name.clone(), value.clone())));
    capacity.extend(ours);
    (capacity, allocatable)
}

fn capped(host: Option<&Resources>, caps: &BTreeMap<String, String>) -> Resources {
    let cut = |(name, value): (&String, &Quantity)| {
        let cap = caps.get(name).map(|cap| Quantity(cap.clone())).filter(|cap| less(cap, value));
        (name.clone(), cap.unwrap_or_else(|| value.clone()))
    };
    host.into_iter().flatten().map(cut).collect()
}

/// A cap that cannot be read caps nothing; the operator's validation has refused it long before.
fn less(a: &Quantity, b: &Quantity) -> bool {
    matches!((nanos(a), nanos(b)), (Some(a), Some(b)) if a < b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn status(value: &Value) -> NodeStatus {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn host() -> NodeStatus {
        status(&json!({
            "capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"},
            "allocatable": {"cpu": "7800m", "memory": "15Gi", "pods": "110"},
        }))
    }

    #[test]
    fn without_a_share_it_is_the_hosts() {
        let (capacity, allocatable) = of(&host(), &BTreeMap::new(), &NodeStatus::default());
        assert_eq!(Some(capacity), host().capacity);
        assert_eq!(Some(allocatable), host().allocatable);
    }

    #[test]
    fn a_share_cuts_and_never_adds() {
        let caps = BTreeMap::from([("cpu".into(), "2".into()), ("memory".into(), "64Gi".into()), ("gpu".into(), "1".into())]);
        let (capacity, allocatable) = of(&host(), &caps, &NodeStatus::default());
        assert_eq!((capacity["cpu"].0.as_str(), capacity["memory"].0.as_str()), ("2", "16Gi"));
        assert_eq!((allocatable["cpu"].0.as_str(), allocatable["memory"].0.as_str()), ("2", "15Gi"));
        assert!(!capacity.contains_key("gpu"));
    }

    #[test]
    fn extended_resources_of_the_tenant_survive() {
        let existing = status(&json!({"capacity": {"cpu": "1", "example.com/fakecpu": "1k"}, "allocatable": {"cpu": "1"}}));
        let (capacity, allocatable) = of(&host(), &BTreeMap::new(), &existing);
        assert_eq!(capacity["cpu"].0, "8");
        assert_eq!((capacity["example.com/fakecpu"].0.as_str(), allocatable["example.com/fakecpu"].0.as_str()), ("1k", "1k"));
    }
}
