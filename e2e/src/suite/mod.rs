//! What cluster tests and benchmarks use: the real `kubectl` and the plugin as a user calls them, tenants made for a test, and waiting
//! with a deadline whose error has the last failure.
//!
//! Everything works on the local host cluster and on the cluster that `KUBECONFIG` names.
//!
//! Order: process ← kubectl ← tenant; bare

pub(crate) mod bare;
mod kubectl;
mod process;
mod tenant;

pub use kubectl::{Kubectl, Paths, plugin, tenant_kubectl};
pub use process::{Finished, Running, eventually, hold, run};
pub use tenant::{Namespace, Tenant, manifest, shared};

/// The upstream test program (`netexec`, `pause`, `connect`, `inclusterclient` …). The local host cluster has it on every node.
pub const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.66.1";

/// A shell with the usual small programs. The local host cluster has it on every node.
pub const BUSYBOX: &str = "docker.io/library/busybox:1.35.0";
