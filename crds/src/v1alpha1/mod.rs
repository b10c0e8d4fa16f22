//! `nestling.dev/v1alpha1`: the `VirtualCluster` that a platform team applies.
//!
//! `spec.rs` is what a user asks for, with files of their own for control plane, etcd, nodes and images (every field has a default: `spec: {}`
//! is a working cluster); `status.rs` is what the operator reports. Defaults live with the fields, what is refused in `rules.rs`,
//! and `refusals.rs` evaluates that without an apiserver.
//! Doc comments on fields are the API's documentation: `kubectl explain` prints them.

mod control_plane;
mod etcd;
mod images;
mod nodes;
mod refusals;
mod rules;
mod spec;
#[allow(unreachable_pub)] // `KubeSchema` expands to a second struct of the same name
mod status;

pub use control_plane::*;
pub use etcd::*;
pub use images::*;
pub use nodes::*;
pub use refusals::{Refusal, refusals};
pub use spec::*;
pub use status::*;
