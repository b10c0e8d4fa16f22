//! What the API refuses at admission, as CEL rules of the CRD.
//!
//! Three kinds, in this order: values that cannot be right; what may not change once a cluster exists (transition rules,
//! which an apiserver evaluates on updates only); fields that are part of the API before their behaviour is, each of whose
//! rules is deleted when its field works. What needs more than the object itself (known versions, ranges of the host) is
//! the operator's `validate`.
//!
//! An apiserver estimates the worst cost of each rule from `maxLength`, `maxItems` and `maxProperties`, and refuses the
//! CRD when it is too high: bound every list, map and string that a rule looks into.

use crate::managed_flags::{self, ManagedFlags};
use kube::core::{Message, Reason, Rule};
use schemars::Schema;
use serde_json::{Value, json};

/// `nestling.dev/cluster` and the names of a cluster's host objects are built from its name; the longest is the label
/// `controller-revision-hash` of the `StatefulSet` `<name>-control-plane`: a dash and ten characters more, 63 at most.
const LONGEST_NAME: usize = 36;

const DNS_NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// Length of the object's own name.
pub(super) fn name_length() -> Rule {
    rule(&format!("size(self.metadata.name) <= {LONGEST_NAME}"), &format!("metadata.name must have at most {LONGEST_NAME} characters"))
}

/// Form of the object's own name: names of Services are made from it, and those are RFC 1035 labels.
pub(super) fn name_form() -> Rule {
    rule(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must be a DNS label: lower-case letters, digits and dashes, beginning with a letter",
    )
}

/// Rules over several fields of the spec.
pub(super) fn spec() -> Vec<Rule> {
    vec![
        rule(
            "self.topology != 'SingleNode' || self.controlPlane.replicas <= 1",
            "spec.controlPlane.replicas must be 1 with topology SingleNode; use topology Stacked for more",
        ),
        rule(
            "self.topology != 'Stacked' || self.controlPlane.replicas == 0 || self.controlPlane.replicas % 2 == 1",
            "spec.controlPlane.replicas must be odd with topology Stacked: each replica is an etcd member, and an even number survives no more \
             failures than one less",
        ),
        rule(
            "self.topology == 'External' || !has(self.etcd.replicas)",
            "spec.etcd.replicas is for topology External only; with the others etcd has as many members as spec.controlPlane.replicas",
        ),
        rule(
            "self.topology == 'External' || (size(self.etcd.placement.nodeSelector) == 0 && size(self.etcd.placement.tolerations) == 0 && \
             !has(self.etcd.placement.priorityClassName) && self.etcd.placement.zoneSpread == 'Preferred')",
            "spec.etcd.placement is for topology External only; with the others etcd runs in the control-plane pods: use \
             spec.controlPlane.placement",
        ),
        rule("self.topology == 'External' || size(self.etcd.endpoints) == 0", "spec.etcd.endpoints is for topology External only"),
    ]
}

/// A DNS domain without a dot at its end.
pub(super) fn cluster_domain() -> Vec<Rule> {
    vec![rule(&format!("self.matches('{DNS_NAME}')"), "must be a DNS domain such as cluster.local")]
}

/// A name or an address, for the certificate.
pub(super) fn cert_sans() -> Vec<Rule> {
    // A certificate may carry wildcards; kubectl takes them.
    vec![rule(
        &format!("self.all(san, isIP(san) || san.matches('{}'))", DNS_NAME.replacen("^[", "^([*][.])?[", 1)),
        "each must be a DNS name or an IP address",
    )]
}

/// The name that clients use.
pub(super) fn hostname() -> Vec<Rule> {
    vec![rule(&format!("self == '' || self.matches('{DNS_NAME}')"), "must be a DNS name")]
}

/// Names as in upstream's `--controllers`; which names exist only kube-controller-manager knows.
pub(super) fn controllers() -> Vec<Rule> {
    vec![rule(
        "self.all(name, name.matches('^([*]|-?[a-z][-a-z0-9]*)$'))",
        "each must be '*', a controller's name or a name with a dash before it",
    )]
}

/// The cloud-controller-manager is part of Nestling: its controllers are known here.
pub(super) fn cloud_controllers() -> Vec<Rule> {
    vec![rule("self.all(name, name in ['*', 'node', '-node'])", "known are '*', 'node' and '-node'; others are not supported yet")]
}

/// `spec.version`: `v1.37` or `v1.37.2`. Minor versions go up by one and never down; only where both specs name a version,
/// else the operator compares with what runs.
pub(super) fn version() -> Vec<Rule> {
    const BOTH: &str = "!self.matches('^v1[.][0-9]{1,4}([.].*)?$') || !oldSelf.matches('^v1[.][0-9]{1,4}([.].*)?$')";
    const NEW: &str = "int(self.split('.')[1])";
    const OLD: &str = "int(oldSelf.split('.')[1])";
    vec![
        rule("self.matches('^v1[.][0-9]+([.][0-9]+)?$')", "must look like v1.37 or v1.37.2"),
        forbidden(&format!("{BOTH} || {NEW} >= {OLD}"), "cannot go back to an older minor version: Kubernetes does not support downgrades"),
        forbidden(&format!("{BOTH} || {NEW} <= {OLD} + 1"), "cannot skip a minor version: upgrade one minor version at a time"),
    ]
}

/// `spec.network.serviceCIDR`. The range must have room for the `kubernetes` Service (.1) and DNS (.10); kube-apiserver takes
/// no more than 20 host bits.
pub(super) fn service_cidr() -> Vec<Rule> {
    vec![
        rule("isCIDR(self)", "must be a CIDR such as 10.100.0.0/20"),
        rule("!isCIDR(self) || cidr(self) == cidr(self).masked()", "must not have host bits set"),
        rule(
            "!isCIDR(self) || cidr(self).ip().family() != 4 || (cidr(self).prefixLength() >= 12 && cidr(self).prefixLength() <= 28)",
            "must be between /12 and /28",
        ),
        forbidden("!isCIDR(self) || cidr(self).ip().family() == 4", "IPv6 is not supported yet; use an IPv4 range"),
    ]
}

/// `spec.etcd.storage`. Memory has no class; a StatefulSet makes its claims once, from a template that cannot change.
pub(super) fn storage() -> Vec<Rule> {
    vec![
        forbidden(
            "!has(self.medium) || !has(self.storageClassName)",
            "storageClassName and medium exclude each other: memory needs no volume",
        ),
        rule("!has(self.size) || quantity(string(self.size)).isGreaterThan(quantity('0'))", "size must be greater than zero, e.g. 8Gi"),
        forbidden(
            "self == oldSelf",
            "cannot be changed: resizing and moving etcd's volumes is not supported yet; create a new VirtualCluster",
        ),
    ]
}

/// Flags that kube-apiserver may not be given.
pub(super) fn api_server_args(list: &mut Schema) {
    args(list, managed_flags::API_SERVER);
}

/// Flags that kube-controller-manager may not be given.
pub(super) fn controller_manager_args(list: &mut Schema) {
    args(list, managed_flags::CONTROLLER_MANAGER);
}

/// Flags that kube-scheduler may not be given.
pub(super) fn scheduler_args(list: &mut Schema) {
    args(list, managed_flags::SCHEDULER);
}

/// Flags that cloud-controller-manager may not be given.
pub(super) fn cloud_controller_manager_args(list: &mut Schema) {
    args(list, managed_flags::CLOUD_CONTROLLER_MANAGER);
}

/// Flags that etcd may not be given.
pub(super) fn etcd_args(list: &mut Schema) {
    args(list, managed_flags::ETCD);
}

/// The rules are those of an item's name, whose length is bounded: over the list, an apiserver could not bound their cost.
fn args(list: &mut Schema, managed: &[ManagedFlags]) {
    let form = rule("self.matches('^[A-Za-z][-_A-Za-z0-9]*$')", "must be a flag without leading dashes, such as event-ttl");
    let rules: Vec<Rule> = std::iter::once(form).chain(managed.iter().map(owned)).collect();
    if let Some(Value::Object(name)) = list.pointer_mut("/items/properties/name") {
        name.insert("x-kubernetes-validations".to_owned(), json!(rules));
    }
}

/// As [`managed_flags::refusal`].
fn owned(group: &ManagedFlags) -> Rule {
    let flags = group.flags.iter().map(|flag| format!("'{flag}'")).collect::<Vec<_>>().join(", ");
    let message = format!(r#"'flag --' + self + " is managed: {}""#, group.instead);
    let rule = forbidden(&format!("!(self.replace('_', '-') in [{flags}])"), "");
    Rule { message: Some(Message::Expression(message)), ..rule }
}

/// Names of feature gates; which exist depends on the version.
pub(super) fn feature_gates() -> Vec<Rule> {
    vec![rule("self.all(gate, gate.matches('^[A-Z][A-Za-z0-9]*$'))", "each must be the name of a feature gate, such as AllAlpha")]
}

/// Every change of topology moves etcd's data or the tenant's nodes.
pub(super) fn topology() -> Vec<Rule> {
    vec![forbidden(
        "self == oldSelf",
        "cannot be changed: moving etcd's data between topologies is not supported yet; create a new VirtualCluster",
    )]
}

/// Addresses and names that are written into the tenant's objects and certificates.
pub(super) fn network() -> Vec<Rule> {
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

/// One replica of each part.
pub(super) fn replicas() -> Vec<Rule> {
    vec![
        forbidden("self <= 1", "more than one replica is not supported yet; use 1"),
        forbidden("self >= 1", "stopping the control plane is not supported yet; use 1"),
    ]
}

/// One member.
pub(super) fn etcd_replicas() -> Vec<Rule> {
    vec![
        forbidden("self % 2 == 1", "must be odd: an even number of members survives no more failures than one less"),
        forbidden("self <= 1", "more than one member is not supported yet; use 1"),
    ]
}

/// An etcd that the user brings.
pub(super) fn etcd_endpoints() -> Vec<Rule> {
    vec![forbidden("size(self) == 0", "an etcd of your own is not supported yet; leave it empty and Nestling runs etcd")]
}

/// Scheduled snapshots.
pub(super) fn backup() -> Vec<Rule> {
    vec![forbidden(
        "!has(self.schedule) && !has(self.destination)",
        "backups are not supported yet; snapshot the etcd volumes with your host's tools",
    )]
}

/// `NodePorts` that others reach.
pub(super) fn node_ports() -> Vec<Rule> {
    vec![forbidden("self != 'External'", "External is not supported yet; use Internal")]
}

/// The host's Gateway.
pub(super) fn expose_type() -> Vec<Rule> {
    vec![forbidden("self != 'Gateway'", "Gateway is not supported yet; use LoadBalancer, NodePort or ClusterIP")]
}

/// Pods from manifests.
pub(super) fn static_pods() -> Vec<Rule> {
    vec![forbidden("size(self) == 0", "static pods are not supported yet; use a DaemonSet in the tenant")]
}

/// A control plane put to sleep.
pub(super) fn hibernate() -> Vec<Rule> {
    vec![forbidden("!self", "hibernation is not supported yet; use spec.paused to stop reconciling")]
}

/// Further authorizers.
pub(super) fn authorization() -> Vec<Rule> {
    vec![forbidden("false", "is not supported yet; Node and RBAC are always on")]
}

fn rule(expression: &str, message: &str) -> Rule {
    Rule::new(expression).message(message).reason(Reason::FieldValueInvalid)
}

fn forbidden(expression: &str, message: &str) -> Rule {
    Rule::new(expression).message(message).reason(Reason::FieldValueForbidden)
}
