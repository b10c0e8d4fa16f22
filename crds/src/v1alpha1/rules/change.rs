//! What may not change once a cluster exists. Transition rules: an apiserver evaluates them on updates only.

use super::forbidden;
use kube::core::Rule;

/// Minor versions go up by one and never down. Only where both specs name a version; else the operator compares what runs.
pub fn version() -> Vec<Rule> {
    const BOTH: &str = "!self.matches('^v1[.][0-9]{1,4}([.].*)?$') || !oldSelf.matches('^v1[.][0-9]{1,4}([.].*)?$')";
    const NEW: &str = "int(self.split('.')[1])";
    const OLD: &str = "int(oldSelf.split('.')[1])";
    vec![
        forbidden(&format!("{BOTH} || {NEW} >= {OLD}"), "cannot go back to an older minor version: Kubernetes does not support downgrades"),
        forbidden(&format!("{BOTH} || {NEW} <= {OLD} + 1"), "cannot skip a minor version: upgrade one minor version at a time"),
    ]
}

/// Every change of topology moves etcd's data or the tenant's nodes.
pub fn topology() -> Vec<Rule> {
    vec![forbidden(
        "self == oldSelf",
        "cannot be changed: moving etcd's data between topologies is not supported yet; create a new VirtualCluster",
    )]
}

/// Addresses and names that are written into the tenant's objects and certificates.
pub fn network() -> Vec<Rule> {
    vec![
        forbidden(
            "has(self.serviceCIDR) == has(oldSelf.serviceCIDR) && (!has(self.serviceCIDR) || self.serviceCIDR == oldSelf.serviceCIDR)",
            "serviceCIDR is immutable: the tenant's Services have addresses in it",
        ),
        forbidden(
            "self.clusterDomain == oldSelf.clusterDomain",
            "clusterDomain is immutable: the tenant's service-account tokens and pods carry it",
        ),
    ]
}

/// A StatefulSet makes its claims once, from a template that cannot change.
pub fn storage() -> Vec<Rule> {
    vec![forbidden(
        "self == oldSelf",
        "cannot be changed: resizing and moving etcd's volumes is not supported yet; create a new VirtualCluster",
    )]
}
