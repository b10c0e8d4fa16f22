//! `nestling.dev/v1alpha1`: the `VirtualCluster` a platform team applies.
//!
//! `spec.rs` is what a user asks for (every field has a default: `spec: {}` is a working cluster), `status.rs` what the
//! operator reports. Defaults live with the fields.

mod spec;
mod status;

pub use spec::*;
pub use status::*;
