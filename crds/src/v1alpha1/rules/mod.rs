//! What the API refuses at admission, as CEL rules of the CRD.
//!
//! Three kinds, one file each: `form.rs` (values that cannot be right), `change.rs` (what may not change once a cluster
//! exists), `later.rs` (fields that are part of the API before their behaviour is; refused so that nobody believes they
//! work). `flags.rs` makes the rules about `extraArgs` from [`crate::managed_flags`]. What needs more than the object
//! itself (known versions, ranges of the host) is the operator's `validate`.
//!
//! An apiserver estimates the worst cost of each rule from `maxLength`, `maxItems` and `maxProperties`, and refuses the
//! CRD when it is too high: bound every list, map and string that a rule looks into.

mod change;
mod flags;
mod form;
mod later;
#[cfg(test)]
mod tests;

pub use change::{network, topology};
pub use flags::{api_server_args, controller_manager_args, scheduler_args};
pub use form::{cert_sans, cloud_controllers, cluster_domain, controllers, hostname, name_form, name_length, spec};
pub use later::{authorization, backup, etcd_endpoints, etcd_replicas, expose_type, hibernate, node_ports, replicas, static_pods};

use kube::core::{Reason, Rule};

/// Rules on `spec.version`: its form, and that a change keeps to Kubernetes' skew policy.
pub fn version() -> Vec<Rule> {
    [form::version(), change::version()].concat()
}

/// Rules on `spec.etcd.storage`.
pub fn storage() -> Vec<Rule> {
    [form::storage(), change::storage()].concat()
}

/// Rules on `spec.network.serviceCIDR`.
pub fn service_cidr() -> Vec<Rule> {
    [form::service_cidr(), later::service_cidr()].concat()
}

fn rule(expression: &str, message: &str) -> Rule {
    Rule::new(expression).message(message).reason(Reason::FieldValueInvalid)
}

fn forbidden(expression: &str, message: &str) -> Rule {
    Rule::new(expression).message(message).reason(Reason::FieldValueForbidden)
}
