//! What cluster tests and benchmarks stand on: the real `kubectl` and the plugin as a person would call them, tenants
//! made for a test, and waiting with a deadline that says what it last saw.
//!
//! Everything works against the local host cluster, or against the cluster that `KUBECONFIG` names.

pub mod images;
mod kubectl;
mod namespace;
mod paths;
mod plugin;
mod process;
mod tenant;
mod wait;

pub use kubectl::Kubectl;
pub use namespace::Namespace;
pub use paths::Paths;
pub use plugin::{plugin, tenant_kubectl};
pub use process::{Finished, Running, run};
pub use tenant::{Tenant, manifest, shared};
pub use wait::{eventually, hold};
