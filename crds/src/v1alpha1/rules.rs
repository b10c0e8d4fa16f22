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
             !has(self.etcd.placement.priorityClassName) && self.etcd.placement.hostSpread == 'Preferred' && \
             self.etcd.placement.zoneSpread == 'Preferred')",
            "spec.etcd.placement is for topology External only; with the others etcd runs in the control-plane pods: use \
             spec.controlPlane.placement",
        ),
        rule(
            "!self.hibernate || !has(self.etcd.storage.medium)",
            "spec.hibernate needs etcd on a volume: with spec.etcd.storage.medium Memory the data would be lost",
        ),
        rule(
            "self.expose.type != 'NodePort' || (has(self.expose.hostname) && self.expose.hostname != '')",
            "spec.expose.hostname is required with type NodePort: the name or address of the host's nodes that clients reach",
        ),
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
    vec![rule(&format!("self == '' || isIP(self) || self.matches('{DNS_NAME}')"), "must be a DNS name or an IP address")]
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

/// Values of a map, whose length bounds the cost of rules over them.
pub(super) fn bounded(length: usize) -> Value {
    json!({"type": "string", "maxLength": length})
}

/// A field under its former name.
pub(super) fn former(instead: &str) -> Vec<Rule> {
    vec![forbidden("false", &format!("is the field's former name: {instead}"))]
}

/// `spec.network.serviceCIDRs`. A range must have room for the `kubernetes` Service (.1) and DNS (.10); kube-apiserver takes
/// no more than 20 host bits.
pub(super) fn service_cidrs() -> Vec<Rule> {
    vec![
        rule("self.all(range, isCIDR(range))", "each must be a CIDR such as 10.100.0.0/20"),
        rule("self.all(range, !isCIDR(range) || cidr(range) == cidr(range).masked())", "must not have host bits set"),
        rule(
            "self.all(range, !isCIDR(range) || cidr(range).ip().family() != 4 || \
             (cidr(range).prefixLength() >= 12 && cidr(range).prefixLength() <= 28))",
            "each must be between /12 and /28",
        ),
        forbidden("self.all(range, !isCIDR(range) || cidr(range).ip().family() == 4)", "IPv6 is not supported yet; use an IPv4 range"),
        forbidden("size(self) <= 1", "more than one range is not supported yet; use one"),
    ]
}

/// `spec.expose`, as Services have it.
pub(super) fn expose() -> Vec<Rule> {
    vec![
        rule(
            "self.type == 'LoadBalancer' || (size(self.sourceRanges) == 0 && !has(self.loadBalancerClass))",
            "sourceRanges and loadBalancerClass are for type LoadBalancer only",
        ),
        forbidden(
            "self.type != 'LoadBalancer' || oldSelf.type != 'LoadBalancer' || (has(self.loadBalancerClass) == has(oldSelf.loadBalancerClass) && \
             (!has(self.loadBalancerClass) || self.loadBalancerClass == oldSelf.loadBalancerClass))",
            "loadBalancerClass cannot be changed while the type is LoadBalancer; change the type to ClusterIP first",
        ),
    ]
}

/// `spec.expose.sourceRanges`.
pub(super) fn source_ranges() -> Vec<Rule> {
    vec![rule("self.all(range, isCIDR(range))", "each must be a CIDR such as 203.0.113.0/24")]
}

/// Labels that the tenant's Nodes may have: NodeRestriction keeps the prefixes of Kubernetes from nodes.
pub(super) fn node_labels() -> Vec<Rule> {
    let mut rules = metadata("kubernetes[.]io|k8s[.]io|nestling[.]dev", "kubernetes.io, k8s.io or nestling.dev");
    rules.push(label_values());
    rules
}

/// Labels of control-plane pods.
pub(super) fn pod_labels() -> Vec<Rule> {
    let mut rules = pod_annotations();
    rules.push(label_values());
    rules
}

/// Annotations of control-plane pods.
pub(super) fn pod_annotations() -> Vec<Rule> {
    metadata("app[.]kubernetes[.]io|nestling[.]dev", "app.kubernetes.io or nestling.dev")
}

fn metadata(reserved: &str, shown: &str) -> Vec<Rule> {
    vec![
        rule(
            "self.all(key, key.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",
            "each key must be that of a label, such as team or example.com/team",
        ),
        forbidden(
            &format!("!self.exists(key, key.matches('^([^/]*[.])?({reserved})/'))"),
            &format!("keys with the prefix {shown} are reserved; use a prefix of your own"),
        ),
    ]
}

fn label_values() -> Rule {
    rule(
        "self.all(key, self[key].matches('^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$'))",
        "each value must be that of a label: at most 63 letters, digits, dashes, underscores and dots",
    )
}

/// As upstream's label selectors.
pub(super) fn match_expressions() -> Vec<Rule> {
    vec![rule(
        "self.all(one, (one.operator in ['In', 'NotIn']) == (size(one.values) > 0))",
        "In and NotIn need values; Exists and DoesNotExist must not have any",
    )]
}

/// `spec.images.registry`.
pub(super) fn registry() -> Vec<Rule> {
    vec![rule(
        "self == '' || self.matches('^[A-Za-z0-9][-A-Za-z0-9.:]*(/[-a-z0-9._]+)*$')",
        "must be a registry without a scheme, such as registry.example.com/kubernetes",
    )]
}

/// Components with an image.
pub(super) fn image_overrides() -> Vec<Rule> {
    let names = "['kube-apiserver', 'kube-controller-manager', 'kube-scheduler', 'etcd', 'cloud-controller-manager', 'coredns']";
    vec![rule(
        &format!("self.all(name, name in {names})"),
        "known components are kube-apiserver, kube-controller-manager, kube-scheduler, etcd, cloud-controller-manager and coredns",
    )]
}

/// Servers for `CoreDNS` to forward to.
pub(super) fn name_servers() -> Vec<Rule> {
    vec![rule(
        "self.all(server, isIP(server) || server.matches('^[0-9.]+:[0-9]{1,5}$') || server.matches('^\\\\[[0-9a-fA-F:.]+\\\\]:[0-9]{1,5}$'))",
        "each must be an IP address, with a port if it is not 53: 10.0.0.53 or 10.0.0.53:5353",
    )]
}

/// Life of a certificate.
pub(super) fn lifetime() -> Vec<Rule> {
    vec![
        rule("self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$') && self != ''", "must be a duration such as 8760h or 90m"),
        rule(
            "!self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$') || self == '' || (duration(self) >= duration('10m') && \
             duration(self) <= duration('87600h'))",
            "must be between 10m and 87600h",
        ),
    ]
}

/// Keys do not belong into the spec, which many may read.
pub(super) fn encryption() -> Vec<Rule> {
    vec![rule("has(self.secretRef)", "secretRef is required: put the EncryptionConfiguration into a Secret and name it there")]
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
        forbidden("self.serviceCIDRs == oldSelf.serviceCIDRs", "serviceCIDRs is immutable: the tenant's Services have addresses in it"),
        forbidden(
            "self.clusterDomain == oldSelf.clusterDomain",
            "clusterDomain is immutable: the tenant's service-account tokens and pods carry it",
        ),
    ]
}

/// Replicas of each part.
pub(super) fn replicas() -> Vec<Rule> {
    vec![
        forbidden("self >= 1", "must be at least 1; use spec.hibernate to stop the control plane"),
        forbidden("self <= 5", "must be at most 5"),
    ]
}

/// Members.
pub(super) fn etcd_replicas() -> Vec<Rule> {
    vec![
        forbidden("self % 2 == 1", "must be odd: an even number of members survives no more failures than one less"),
        forbidden("self <= 5", "must be at most 5: each write waits for most of the members"),
    ]
}

/// An etcd that the user brings.
pub(super) fn etcd_external() -> Vec<Rule> {
    vec![forbidden("false", "an etcd of your own is not supported yet; leave it out and Nestling runs etcd")]
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
