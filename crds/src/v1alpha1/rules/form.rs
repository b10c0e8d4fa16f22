//! Values that cannot be right, whatever exists.

use super::{forbidden, rule};
use kube::core::Rule;

/// `nestling.dev/cluster` and the names of a cluster's host objects are built from its name; the longest is the label
/// `controller-revision-hash` of the `StatefulSet` `<name>-control-plane`: a dash and ten characters more, 63 at most.
const LONGEST_NAME: usize = 36;

const DNS_NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// Length of the object's own name.
pub fn name_length() -> Rule {
    rule(&format!("size(self.metadata.name) <= {LONGEST_NAME}"), &format!("metadata.name must have at most {LONGEST_NAME} characters"))
}

/// Form of the object's own name: names of Services are made from it, and those are RFC 1035 labels.
pub fn name_form() -> Rule {
    rule(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must be a DNS label: lower-case letters, digits and dashes, beginning with a letter",
    )
}

/// Rules over several fields of the spec.
pub fn spec() -> Vec<Rule> {
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

/// `v1.37` or `v1.37.2`.
pub fn version() -> Vec<Rule> {
    vec![rule("self.matches('^v1[.][0-9]+([.][0-9]+)?$')", "must look like v1.37 or v1.37.2")]
}

/// The range must have room for the `kubernetes` Service (.1) and DNS (.10); kube-apiserver takes no more than 20 host bits.
pub fn service_cidr() -> Vec<Rule> {
    vec![
        rule("isCIDR(self)", "must be a CIDR such as 10.100.0.0/20"),
        rule("!isCIDR(self) || cidr(self) == cidr(self).masked()", "must not have host bits set"),
        rule(
            "!isCIDR(self) || cidr(self).ip().family() != 4 || (cidr(self).prefixLength() >= 12 && cidr(self).prefixLength() <= 28)",
            "must be between /12 and /28",
        ),
    ]
}

/// A DNS domain without a dot at its end.
pub fn cluster_domain() -> Vec<Rule> {
    vec![rule(&format!("self.matches('{DNS_NAME}')"), "must be a DNS domain such as cluster.local")]
}

/// A name or an address, for the certificate.
pub fn cert_sans() -> Vec<Rule> {
    // A certificate may carry wildcards; kubectl takes them.
    vec![rule(
        &format!("self.all(san, isIP(san) || san.matches('{}'))", DNS_NAME.replacen("^[", "^([*][.])?[", 1)),
        "each must be a DNS name or an IP address",
    )]
}

/// The name that clients use.
pub fn hostname() -> Vec<Rule> {
    vec![rule(&format!("self == '' || self.matches('{DNS_NAME}')"), "must be a DNS name")]
}

/// Names as in upstream's `--controllers`; which names exist only kube-controller-manager knows.
pub fn controllers() -> Vec<Rule> {
    vec![rule(
        "self.all(name, name.matches('^([*]|-?[a-z][-a-z0-9]*)$'))",
        "each must be '*', a controller's name or a name with a dash before it",
    )]
}

/// The cloud-controller-manager is part of Nestling: its controllers are known here.
pub fn cloud_controllers() -> Vec<Rule> {
    vec![rule("self.all(name, name in ['*', 'node', '-node'])", "known are '*', 'node' and '-node'; others are not supported yet")]
}

/// Memory has no class.
pub fn storage() -> Vec<Rule> {
    vec![
        forbidden(
            "!has(self.medium) || !has(self.storageClassName)",
            "storageClassName and medium exclude each other: memory needs no volume",
        ),
        rule("quantity(string(self.size)).isGreaterThan(quantity('0'))", "size must be more than nothing, e.g. 8Gi"),
    ]
}
