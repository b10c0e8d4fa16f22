//! The CRD's rules, evaluated without an apiserver.

use super::VirtualCluster;
use kube::CustomResourceExt as _;
use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use std::sync::LazyLock;

/// A rule that an object breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Path of the field, `spec.network.serviceCIDRs`; empty for a rule over the whole object.
    pub field: String,
    /// For the person who wrote the object; reads on from the field.
    pub message: String,
}

/// The rules that `cluster` breaks, as an apiserver evaluates them for a new object: for an object that was stored before
/// a rule existed, or by an apiserver that does not know the rule. Transition rules compare two objects and are left out.
pub fn refusals(cluster: &VirtualCluster) -> Vec<Refusal> {
    static SCHEMA: LazyLock<Option<CompiledSchema>> = LazyLock::new(|| {
        let mut crd = VirtualCluster::crd();
        let schema = crd.spec.versions.pop()?.schema?.open_api_v3_schema?;
        Some(compile_schema(&serde_json::to_value(schema).ok()?))
    });
    let (Some(schema), Ok(object)) = (&*SCHEMA, serde_json::to_value(cluster)) else { return Vec::new() };
    let errors = Validator::new().validate_compiled(schema, &object, None).err();
    let refusal = |error: kube::core::cel::ValidationError| Refusal { field: error.field_path, message: error.message };
    errors.map(|errors| errors.into_vec().into_iter().map(refusal).collect()).unwrap_or_default()
}

#[cfg(test)]
#[path = "refusals_tests.rs"]
mod tests;
