//! Fields whose behaviour comes later. Each says so and what to use meanwhile; a rule is deleted when its field works.

use super::forbidden;
use kube::core::Rule;

/// One replica of each part.
pub fn replicas() -> Vec<Rule> {
    vec![
        forbidden("self <= 1", "more than one replica is not supported yet; use 1"),
        forbidden("self >= 1", "stopping the control plane is not supported yet; use 1"),
    ]
}

/// One member.
pub fn etcd_replicas() -> Vec<Rule> {
    vec![
        forbidden("self % 2 == 1", "must be odd: an even number of members survives no more failures than one less"),
        forbidden("self <= 1", "more than one member is not supported yet; use 1"),
    ]
}

/// An etcd that the user brings.
pub fn etcd_endpoints() -> Vec<Rule> {
    vec![forbidden("size(self) == 0", "an etcd of your own is not supported yet; leave it empty and Nestling runs etcd")]
}

/// Scheduled snapshots.
pub fn backup() -> Vec<Rule> {
    vec![forbidden(
        "!has(self.schedule) && !has(self.destination)",
        "backups are not supported yet; snapshot the etcd volumes with your host's tools",
    )]
}

/// IPv6 Services.
pub fn service_cidr() -> Vec<Rule> {
    vec![forbidden("!isCIDR(self) || cidr(self).ip().family() == 4", "IPv6 is not supported yet; use an IPv4 range")]
}

/// `NodePorts` that others reach.
pub fn node_ports() -> Vec<Rule> {
    vec![forbidden("self != 'External'", "External is not supported yet; use Internal")]
}

/// The host's Gateway.
pub fn expose_type() -> Vec<Rule> {
    vec![forbidden("self != 'Gateway'", "Gateway is not supported yet; use LoadBalancer, NodePort or ClusterIP")]
}

/// Pods from manifests.
pub fn static_pods() -> Vec<Rule> {
    vec![forbidden("size(self) == 0", "static pods are not supported yet; use a DaemonSet in the tenant")]
}

/// A control plane put to sleep.
pub fn hibernate() -> Vec<Rule> {
    vec![forbidden("!self", "hibernation is not supported yet; use spec.paused to stop reconciling")]
}

/// Further authorizers.
pub fn authorization() -> Vec<Rule> {
    vec![forbidden("false", "is not supported yet; Node and RBAC are always on")]
}
